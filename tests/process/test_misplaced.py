"""Whatever is put in the place of policy, document or certificate: requests go on, and a good file is taken again."""

import os
import signal
import socket
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest

from certificates import self_signed
from harness import Backend, Client, Gateway, Home, eventually
from misplaced import KINDS, in_place_of
from operators import Operator

pytestmark = pytest.mark.usefixtures("admin_token")
Start = Callable[..., Gateway]
DOCUMENT = "openapi: 3.1.0\npaths: {/pets: {get: {security: []}}}\n"


def put_back(path: Path, content: str) -> None:
    """Put a regular file in the place of whatever is there."""
    fresh = path.with_name("fresh")
    fresh.write_text(content)
    if path.is_dir() and not path.is_symlink():
        path.rmdir()
    fresh.replace(path)


@pytest.mark.parametrize(("name", "kinds"), [("policy.yaml", KINDS), ("api.yaml", ("fifo", "sparse"))])
def test_a_policy_or_document_that_is_none(
    name: str, kinds: tuple[str, ...], start: Start, home: Home, backend: Backend
) -> None:
    """The policy in force stays, readiness and metrics say that it is not what the file says, a worker that was killed
    meanwhile has another in its place at once, and a good file that is put back is taken."""
    (home.folder / "api.yaml").write_text(DOCUMENT)
    operator = Operator(home, "openapi: {spec: api.yaml}\ntokens: {algorithm: EdDSA}\n")
    file = home.folder / name
    good = file.read_text()
    gateway = start("serve", "--workers", "1").ready()
    operator.ready()

    def said() -> object:
        reply = operator.ask("GET", "/readyz")
        return reply.json["reasons"].get("policy") if reply.status == 200 else None

    def successful() -> float:
        return next(
            float(line.split()[1])
            for line in operator.ask("GET", "/metrics").body.decode().splitlines()
            if line.startswith("keyswap_last_reload_successful")
        )

    with Client(gateway.port) as client:
        for kind in kinds:
            in_place_of(file, kind)
            eventually(f"{kind} is told", said)
            assert successful() == 0
            assert client.ask("GET", "/pets").status == 200
            if kind == "fifo":
                os.kill(gateway.workers[0], signal.SIGKILL)
                client.close()
                eventually("another worker has its place", lambda: gateway.get("/pets").status == 200, 20)
                eventually("it says the same", said)
            put_back(file, good)
            eventually(f"the file is taken after {kind}", lambda: operator.ask("GET", "/readyz").json["reasons"] == {})
            assert successful() == 1
            assert client.ask("GET", "/pets").status == 200
    assert gateway.memory() < 400 << 20


def test_a_stop_waits_for_no_file(start: Start, home: Home) -> None:
    """A gateway whose policy has become a fifo, which nobody writes, ends when it is told to."""
    gateway = start("mitmdump").ready()
    in_place_of(home.policy, "fifo")
    eventually("it is told", lambda: "the old policy stays in force" in gateway.output)
    gateway.process.terminate()
    assert gateway.ended() == 0


def test_a_certificate_that_is_none(start: Start, home: Home, tmp_path: Path) -> None:
    """Connections are made with the certificate in use, whatever stands in the place of its files."""
    certificate = self_signed(tmp_path, "gateway")
    key = certificate.with_suffix(".key")
    gateway = start("serve", "--tls-cert", str(certificate), "--tls-key", str(key))
    eventually("the gateway is ready", lambda: '"ready"' in gateway.output)
    context = ssl.create_default_context(cafile=str(certificate))

    def answers() -> bool:
        plain = socket.create_connection(("127.0.0.1", gateway.port), timeout=10)
        with plain, context.wrap_socket(plain, server_hostname="127.0.0.1") as connection:
            connection.sendall(b"GET /.well-known/keyswap/health HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
            return connection.recv(12) == b"HTTP/1.1 200"

    for number, (file, kind) in enumerate(
        zip((certificate, key) * 2, ("fifo", "loop", "sparse", "folder"), strict=True)
    ):
        good = file.read_text()
        before = gateway.output.count("the old certificate stays")
        in_place_of(file, kind)
        eventually(f"{kind} is told", lambda before=before: gateway.output.count("the old certificate stays") > before)
        assert answers()
        put_back(file, good)
        eventually("it is in use", lambda number=number: gateway.output.count("is in use") > number)
        assert answers()


def test_commands_wait_for_no_file(home: Home) -> None:
    """Commands that read a file refuse what is none, at once, and name it."""
    fifo = in_place_of(home.folder / "fifo", "fifo")
    for words in (
        ("keys", "import", str(fifo)),
        ("signing", "import", str(fifo)),
        ("init", "--spec", str(fifo), "-o", "-"),
        ("keys", "list", "--policy", str(fifo)),
    ):
        assert "no regular file" in home.run(*words, code=3)
    assert "no regular file" in home.run("check", "--policy", str(fifo), code=1)
