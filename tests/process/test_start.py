"""Starting: what is missing or broken stops the start with one clear line, and nothing is overwritten."""

import fcntl
import os
import pty
import shutil
import socket
import sqlite3
import ssl
import struct
import subprocess
import termios
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from certificates import self_signed
from harness import SCRIPTS, Backend, Client, Gateway, Home, eventually, free_port

Start = Callable[..., Gateway]


def corrupt(home: Home) -> Path:
    file = home.state / "keys.db"
    file.write_bytes(b"no database at all" * 100)
    return file


def newer(home: Home) -> Path:
    home.key()
    database = sqlite3.connect(home.state / "keys.db")
    database.execute("PRAGMA user_version = 999")
    database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    database.close()
    return home.state / "keys.db"


def other_pepper(home: Home) -> Path:
    home.key()
    pepper = home.state / "pepper"
    pepper.write_text("0" * 64 + "\n")
    return pepper


def lost_pepper(home: Home) -> Path:
    home.key()
    (home.state / "pepper").unlink()
    return home.state / "keys.db"


def bad_signing_key(home: Home) -> Path:
    file = home.state / "signing.json"
    file.write_text('{"version": 1, "keys": [{"kid": "x"}]}')
    return file


def no_directory(home: Home) -> Path:
    shutil.rmtree(home.state)
    home.state.write_text("a file in its place")
    return home.state


def bad_policy(home: Home) -> Path:
    home.policy.write_text("version: 1\nissuer: https://x\nnope: 1\n")
    return home.policy


DAMAGES: dict[Callable[[Home], Path], str] = {
    corrupt: "keys.db",
    newer: "newer",
    other_pepper: "pepper",
    lost_pepper: "pepper",
    bad_signing_key: "signing.json",
    no_directory: "state directory",
    bad_policy: "policy.yaml:3: nope",
}


@pytest.mark.parametrize("kind", ["mitmdump", "serve"])
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda one: one.__name__)
def test_damage_stops_the_start(
    damage: Callable[[Home], Path], kind: str, start: Start, home: Home, backend: Backend
) -> None:
    """What cannot be used stops the start with one line that names it; nothing is overwritten, nothing is forwarded."""
    file = damage(home)
    before = file.read_bytes()
    gateway = start(kind)
    assert gateway.ended() == (3 if kind == "serve" else 1)
    assert DAMAGES[damage] in gateway.output and "Traceback" not in gateway.output
    assert file.read_bytes() == before
    assert backend.count == 0


def test_a_taken_web_port_is_one_line(home: Home, start: Callable[..., Gateway]) -> None:
    """`serve --web` says which port of its own is taken, and which option names another."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        gateway = start("serve-web", "--web-port", str(port))
        assert gateway.ended() == 3
    (line,) = [one for one in gateway.output.splitlines() if one.strip()]
    assert f"127.0.0.1:{port}" in line and "--web-port" in line


def test_no_upstream_is_an_error(start: Start, home: Home) -> None:
    """Without an upstream in policy, option or mode, the start says where to set one."""
    home.policy.write_text(f"version: 1\nissuer: {home.issuer}\n")
    gateway = start("serve")
    assert gateway.ended() == 3 and "no upstream" in gateway.output and "--upstream" in gateway.output


def test_a_taken_port_is_an_error(start: Start, home: Home) -> None:
    """A port that another program listens on ends `serve` with 3 and its name."""
    first = start("serve").ready()
    second = start("serve")
    assert second.ended() == 3 and str(first.port) in second.output


@pytest.mark.parametrize("kind", ["serve", "mitmdump"])
def test_an_issuer_at_another_port_is_one_warning(start: Start, home: Home, kind: str) -> None:
    """An issuer on this machine where nothing of the gateway listens is said once, with both addresses; else nothing."""
    extra = ("--workers", "2") if kind == "serve" else ()
    right = start(kind, *extra).ready()
    right.stop()
    assert "the issuer is" not in right.output
    home.policy.write_text(home.policy.read_text().replace(home.issuer, "http://127.0.0.1:1"))
    wrong = start(kind, *extra).ready()
    wrong.stop()
    (line,) = [one for one in wrong.output.splitlines() if "the issuer is" in one]
    assert "http://127.0.0.1:1/.well-known/jwks.json" in line and f"127.0.0.1:{home.port}" in line


def test_upstream_on_the_command_line_wins(start: Start, home: Home, backend: Backend) -> None:
    """`--upstream` and `--mode reverse:URL` win over the policy's upstream."""
    home.write_policy(upstream="http://127.0.0.1:1")
    _, value = home.key()
    for gateway in (start("serve", "--upstream", backend.url), start("mitmdump")):
        assert gateway.ready().get("/", value).status == 200
        gateway.stop()


def test_the_state_is_the_owners_alone(start: Start, home: Home) -> None:
    """Every file of the state directory is 0600 in a 0700 directory, whatever the umask."""
    before = os.umask(0)
    try:
        home.key()
        start("serve").ready()
        home.run("signing", "export", str(home.folder / "ring.json"))
    finally:
        os.umask(before)
    files = [file for file in home.state.iterdir() if not file.is_dir()]
    assert {"keys.db", "pepper", "signing.json", "epoch", "control.sock"} <= {file.name for file in files}
    assert {oct(file.stat().st_mode & 0o777) for file in [*files, home.folder / "ring.json"]} == {"0o600"}
    assert oct(home.state.stat().st_mode & 0o777) == "0o700"


def test_under_mitmproxys_console(home: Home, backend: Backend) -> None:
    """`mitmproxy`, the terminal program, gates too, and its screen shows no key."""
    _, value = home.key()
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 150, 0, 0))
    command = [
        str(SCRIPTS / "mitmproxy"),
        *Gateway._command(_Bare(home), Path(__file__).parents[2] / "addon/gateway.py")[1:],
    ]
    environment = {**os.environ, "HOME": str(home.folder), "TERM": "xterm"}
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, cwd=home.folder)
    screen = bytearray()

    def read() -> None:
        while True:
            try:
                screen.extend(os.read(ours, 65536))
            except OSError:
                return

    reader = threading.Thread(target=read)
    reader.start()
    try:

        def answers() -> bool:
            try:
                with Client(home.port) as client:
                    return client.ask("GET", "/.well-known/keyswap/health").status == 200
            except OSError:
                return False

        eventually("the console answers", answers)
        with Client(home.port) as client:
            assert client.ask("GET", "/pets", value).status == 200
            assert client.ask("GET", "/pets").status == 401
        eventually("the flows are shown", lambda: b"401" in screen)
    finally:
        process.terminate()
        process.wait(10)
        os.close(theirs)
        reader.join(10)
        os.close(ours)
    assert backend.count == 1 and value.encode() not in screen


class _Bare(Gateway):
    """The words of a command line, without a process."""

    def __init__(self, home: Home) -> None:
        self.home, self.kind, self.port = home, "mitmdump", home.port


@pytest.fixture
def authority(tmp_path: Path) -> Path:
    """A certificate for 127.0.0.1, signed by itself, and its key beside it."""
    return self_signed(tmp_path, "backend")


def test_an_https_upstream_is_verified(
    authority: Path, home: Home, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over https the backend's certificate must be trusted and name it; else nothing is sent and the answer is 502."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority, authority.with_suffix(".key"))
    backend = Backend(context)
    try:
        _, value = home.key()
        home.write_policy(upstream=backend.url)
        untrusting = start("serve").ready()
        assert untrusting.get("/", value).status == 502
        untrusting.stop()
        assert backend.count == 0
        monkeypatch.setenv("SSL_CERT_FILE", str(authority))
        assert start("serve").ready().get("/", value).status == 200
        assert backend.seen[0].values("host") == [f"127.0.0.1:{backend.port}"]
        home.write_policy(upstream=f"https://localhost:{backend.port}")
        eventually("another name is in force", lambda: "localhost" in home.json("status")["upstream"])
        with Client(home.port) as client:
            assert client.ask("GET", "/", value).status == 502
        assert backend.count == 1
    finally:
        backend.close()


def test_another_gateway_takes_the_control_socket_over(start: Start, home: Home) -> None:
    """Of two gateways on one state directory one answers commands; when it is killed the other takes over."""
    first = start("serve").ready()
    second = start("serve", port=free_port()).ready()
    assert home.json("status")["pid"] == first.process.pid
    first.process.kill()
    first.process.wait()
    eventually("the other takes over", lambda: home.json("status").get("pid") == second.process.pid)
    second.stop()
    assert home.json("status")["running"] is False


def test_a_deep_state_directory_has_a_control_socket(start: Start, home: Home) -> None:
    """A state directory whose path is longer than a socket's address may be still has its control socket."""
    folder = home.folder / ("d" * 100)
    folder.mkdir()
    deep = Home(folder, home.upstream, home.port)
    start("serve", home=deep).ready()
    assert deep.json("status")["running"] is True
