"""What a request leaves to Python's garbage collector, whose pauses are the longest that the gate itself has."""

import os
import socket
import ssl
from collections.abc import Callable
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path

import pytest

from certificates import self_signed
from harness import Client, Gateway, Home, eventually, free_port
from raw import Got, Http2, Recorder, answer, connect, tls

COUNTING = """
import gc, os, threading, time
total = 0
def count(phase, info):
    global total
    total += info.get("collected", 0)
def look():
    done = ""
    while True:
        with open("{FOLDER}/wanted") as file:
            wanted = file.read()
        if wanted != done:
            gc.collect()
            done, name = wanted, f"{FOLDER}/{os.getpid()}"
            with open(name + ".new", "w") as file:
                file.write(f"{done} {total}")
            os.replace(name + ".new", name)
        time.sleep(0.02)
gc.callbacks.append(count)
threading.Thread(target=look, daemon=True).start()
"""
"""Run by every process as it begins: when it is wanted, it collects everything, and writes down how many objects were
freed so far."""
EACH = 100


def last(_got: Got, to: socket.socket) -> None:
    """A backend that closes after its answer."""
    to.sendall(answer(b"ok", b"Connection: close"))
    to.close()


@pytest.fixture
def counted(tmp_path: Path) -> tuple[tuple[str, ...], Callable[[], int]]:
    """A command that has a gateway write down what its collectors freed, and the objects that were so far."""
    code, counts = tmp_path / "code", tmp_path / "counts"
    code.mkdir()
    counts.mkdir()
    (code / "sitecustomize.py").write_text(COUNTING.replace("{FOLDER}", str(counts)))
    path = os.pathsep.join(filter(None, (str(code), os.environ.get("PYTHONPATH"))))

    wanted = counts / "wanted"
    wanted.write_text("0")

    def read() -> dict[str, tuple[int, int]]:
        found = {file.name: file.read_text().split() for file in counts.glob("*[0-9]")}
        return {name: (int(number), int(total)) for name, (number, total) in found.items()}

    def freed() -> int:
        number = int(wanted.read_text()) + 1
        before = read()
        (counts / "next").write_text(str(number))
        (counts / "next").replace(wanted)

        def is_done(name: str) -> bool:
            return read()[name][0] >= number or not Path("/proc", name).exists()

        eventually("all has been looked through", lambda: all(map(is_done, before)))
        return sum(total for _, total in read().values())

    return ("env", f"PYTHONPATH={path}"), freed


def test_requests_leave_no_garbage(
    start: Callable[..., Gateway], home: Home, counted: tuple[tuple[str, ...], Callable[[], int]]
) -> None:
    """Requests over a connection that stays, admitted with and without a body or refused, are freed when they end: fewer
    than one object of each is left to the collector (it was 50)."""
    before, freed = counted
    _, key = home.key()
    gateway = start("serve", before=before).ready()
    with Client(gateway.port) as client:

        def ask(times: int) -> None:
            for _ in range(times):
                assert client.ask("GET", "/", key).status == 200
                assert client.ask("POST", "/", key, body=b"x" * 100).status == 200
                assert client.ask("GET", "/", "ksw_test_none").status == 401

        ask(20)
        began = freed()
        assert began > 0
        ask(EACH)
        assert freed() - began < 3 * EACH


def test_streams_leave_no_garbage(
    start: Callable[..., Gateway], home: Home, counted: tuple[tuple[str, ...], Callable[[], int]]
) -> None:
    """The same over HTTP/2."""
    before, freed = counted
    _, key = home.key()
    certificate = self_signed(home.folder, "gateway")
    words = ("--tls-cert", str(certificate), "--tls-key", str(certificate.with_suffix(".key")))
    gateway = start("serve", *words, before=before)
    eventually("it is ready", lambda: '"ready"' in gateway.output)
    with tls(gateway.port, certificate, "h2") as connection:
        caller = Http2(connection)

        def ask(times: int) -> None:
            for number in range(2 * times):
                stream = caller.ask("GET", "/", key if number % 2 else "ksw_test_none")
                caller.until(partial(getattr, stream, "ended"))
                assert stream.status == (200 if number % 2 else 401)

        ask(20)
        began = freed()
        assert began > 0
        ask(EACH)
        assert freed() - began < 2 * EACH


@pytest.mark.parametrize("upstream", ["http", "https", "nobody"])
@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/2"])
def test_upstream_connections_leave_no_garbage(
    version: str,
    upstream: str,
    start: Callable[..., Gateway],
    home: Home,
    counted: tuple[tuple[str, ...], Callable[[], int]],
) -> None:
    """A connection upstream that ends before its caller's, as each does of a backend that closes after its answer, or that
    cannot be made, is freed: fewer than five objects are left to the collector (it was 30, with TLS 37)."""
    before, freed = counted
    certificate, front = self_signed(home.folder, "backend"), self_signed(home.folder, "gateway")
    trust = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trust.load_cert_chain(certificate, certificate.with_suffix(".key"))
    multiplexed = version == "HTTP/2"
    with ExitStack() as stack:
        backend = stack.enter_context(closing(Recorder(last, tls=trust if upstream == "https" else None)))
        home.upstream = f"http://127.0.0.1:{free_port()}" if upstream == "nobody" else backend.url
        home.write_policy()
        _, key = home.key()
        more = {"certificate": front} if multiplexed else {}
        gateway = start("serve", before=(*before, f"SSL_CERT_FILE={certificate}"), **more).ready()
        if multiplexed:
            caller = Http2(stack.enter_context(tls(gateway.port, front, "h2")))
        else:
            client = stack.enter_context(Client(gateway.port))

        def ask() -> int:
            if not multiplexed:
                return client.ask("GET", "/", key).status
            stream = caller.ask("GET", "/", key)
            caller.until(partial(getattr, stream, "ended"))
            return stream.status

        status = 502 if upstream == "nobody" else 200
        assert [ask() for _ in range(20)] == [status] * 20
        began = freed()
        assert began > 0
        assert [ask() for _ in range(EACH)] == [status] * EACH
        assert len(backend.received) >= 20 + EACH or upstream == "nobody"
        assert freed() - began < 5 * EACH


@pytest.mark.parametrize("kind", ["nothing", "HTTP/1.1", "HTTP/2"])
def test_connections_leave_no_garbage(
    kind: str, start: Callable[..., Gateway], home: Home, counted: tuple[tuple[str, ...], Callable[[], int]]
) -> None:
    """A connection that has ended, and those upstream, are freed: fewer than ten objects are left to the collector (it was
    50 where nothing was said, 240 with a request, 260 over HTTP/2)."""
    before, freed = counted
    _, key = home.key()
    certificate = self_signed(home.folder, "gateway")
    words = ("--tls-cert", str(certificate), "--tls-key", str(certificate.with_suffix(".key")))
    gateway = start("serve", *(words if kind == "HTTP/2" else ()), before=before)
    eventually("it is ready", lambda: '"ready"' in gateway.output)

    def come_and_go() -> None:
        if kind == "HTTP/2":
            with tls(gateway.port, certificate, "h2") as connection:
                caller = Http2(connection)
                stream = caller.ask("GET", "/", key)
                caller.until(lambda: stream.ended)
        elif kind == "HTTP/1.1":
            assert gateway.get("/", key).status == 200
        else:
            connect(gateway.port).close()

    def settled() -> int:
        eventually("nobody is connected", lambda: gateway.files <= quiet)
        return freed()

    come_and_go()
    quiet = gateway.files + 3
    for _ in range(20):
        come_and_go()
    began = settled()
    for _ in range(EACH):
        come_and_go()
    assert settled() - began < 10 * EACH
