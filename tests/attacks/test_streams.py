"""What is asked and taken back, answered too early or never, against a real gateway: nothing of it stays behind."""

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from certificates import self_signed
from harness import Gateway, Home, eventually, free_port
from raw import Got, Recorder, answer, connect, head, listen, ok, say
from tests.attacks.corpus_http2 import fields
from tests.attacks.frames import DATA, WINDOW_UPDATE, Wire, data, frame, headers, reset, window

LARGE = 32 << 20
EVENTS = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"


def behave(got: Got, connection: socket.socket) -> None:
    """/events: one a tenth of a second, without end. /many: 3,000 small ones. /large: 32 MiB. /never. /garbage."""
    if got.target == b"/events":
        connection.sendall(EVENTS)
        while True:
            connection.sendall(b"data: x\n\n")
            threading.Event().wait(0.1)
    elif got.target == b"/many":
        connection.sendall(EVENTS)
        for _ in range(3000):
            connection.sendall(b"data: x\n\n")
        connection.shutdown(socket.SHUT_RDWR)
    elif got.target == b"/large":
        connection.sendall(answer(b"x" * LARGE))
    elif got.target == b"/never":
        connection.recv(1)
    elif got.target == b"/garbage":
        connection.sendall(b"SSH-2.0\r\n\r\n")
        connection.recv(1)
    else:
        ok(got, connection)


def before_body(got: Got, connection: socket.socket) -> None:
    """/twice: an answer before the request's body has come, and half a second later another."""
    if got.target == b"/twice":
        connection.sendall(answer())
        threading.Event().wait(0.5)
        connection.sendall(answer(b"more"))


@dataclass
class Site:
    """A gateway without TLS and one with, before one backend."""

    backend: Recorder
    key: str
    plain: Gateway
    gateway: Gateway
    context: ssl.SSLContext

    def wire(self) -> Wire:
        return Wire(self.gateway.port, self.context)

    def fields(self, path: str, *more: tuple[bytes, bytes], method: str = "GET") -> list[tuple[bytes, bytes]]:
        credential = (b"authorization", b"Bearer " + self.key.encode())
        return fields(credential, *more, path=path.encode(), method=method.encode(), key=False)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, engine: str) -> Iterator[Site]:
    backend = Recorder(behave)
    backend.before_body = before_body
    folder = tmp_path_factory.mktemp("streams")
    home = Home(folder, backend.url)
    home.write_policy("timeouts: {head: 2s, connect: 1s, response: 1s, idle: 4s}\nmax_body: 100KiB\n")
    key = home.key()[1]
    certificate = self_signed(folder, "gateway")
    context = ssl.create_default_context(cafile=str(certificate))
    context.check_hostname = False
    context.set_alpn_protocols(["h2"])
    plain, gateway = (Gateway(home, engine, port=free_port(), certificate=one) for one in (None, certificate))
    yield Site(backend, key, plain.ready(), gateway.ready(), context)
    outputs = [plain.stop(), gateway.stop()]
    backend.close()
    assert not [word for output in outputs for word in ("Traceback", "in the gateway", key) if word in output]


@pytest.fixture(autouse=True)
def _fresh(site: Site) -> None:
    eventually("the backend is idle", site.backend.settled)
    site.backend.clear()


MISTAKES: dict[str, Callable[[int], bytes]] = {
    "taken back": reset,
    "a window that overflows": lambda stream: window(stream, (1 << 31) - 1),
    "data after the end": lambda stream: data(stream, b"x", end=False),
    "headers after the end": lambda stream: headers(stream, [(b"a", b"b")]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_request_that_ends_in_its_own_segment_is_not_run(site: Site, mistake: str) -> None:
    """A request and what resets it, in one segment: the backend never hears of it, and a sibling is answered."""
    with site.wire() as wire:
        wire.begin().send(headers(1, site.fields("/events")))
        for stream in range(3, 123, 2):
            wire.send(headers(stream, site.fields("/gone")) + MISTAKES[mistake](stream))
        wire.send(headers(999, site.fields("/"))).settle(999)
        assert wire.outcome(999) == "200" and not wire.answer(1).over
        assert {got.target for got in site.backend.requests} <= {b"/events", b"/"}
    eventually("no connection stays", site.backend.settled)


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_reset_beside_the_end_of_a_request_ends_it_upstream(site: Site, mistake: str) -> None:
    """The end of a body and a reset, in one segment: connections upstream are closed, though the caller's stays."""
    with site.wire() as wire:
        wire.begin().send(headers(1, site.fields("/")))
        for stream in range(3, 63, 2):
            wire.send(headers(stream, site.fields("/events", method="POST"), end=False))
        wire.pinged()
        eventually("they are upstream", lambda: len(site.backend.received) > 20)
        for stream in range(3, 63, 2):
            wire.send(data(stream, b"x" * 100) + MISTAKES[mistake](stream))
        wire.pinged()
        eventually("no connection stays", site.backend.settled)
        assert not wire.closed


def test_resets_without_end_lose_the_connection(site: Site) -> None:
    """Requests that are reset by mistakes count as those that are taken back: too many end the connection."""
    for mistake in MISTAKES.values():
        with site.wire() as wire:
            wire.begin()
            for stream in range(1, 1001, 2):
                wire.send(headers(stream, site.fields("/events")) + mistake(stream))
            wire.until(lambda wire=wire: wire.goaway is not None)  # type: ignore[misc]
            assert wire.goaway is not None and wire.goaway[4:8] == (11).to_bytes(4)
    eventually("no connection stays", site.backend.settled)


MALFORMED = {
    "scheme": fields(scheme=b"ftp", key=False),
    "name": fields((b'a"b', b"x"), key=False),
    "lengths": fields((b"content-length", b"0"), (b"content-length", b"0"), key=False),
}


@pytest.mark.parametrize("wrong", MALFORMED)
def test_malformed_requests_lose_the_connection(site: Site, wrong: str) -> None:
    """Requests that are refused unread are answered, without a key too, and too many of them end the connection."""
    with site.wire() as wire:
        wire.begin()
        for first in range(1, 1001, 50):
            streams = range(first, first + 50, 2)
            wire.send(*(headers(stream, MALFORMED[wrong]) for stream in streams)).settle(*streams)
        assert wire.outcome(1) == wire.outcome(301) == "400"
        assert wire.goaway is not None and wire.goaway[4:8] == (11).to_bytes(4)


@pytest.mark.parametrize("path", ["/large", "/many"])
def test_the_most_talkative_caller_reads_it_all(site: Site, path: str) -> None:
    """Two WINDOW_UPDATEs for each frame, of 32 MiB or of 3,000 events: no honest caller is taken for a flood."""
    told, size, deadline = 0, 0, time.monotonic() + 60
    with site.wire() as wire:
        wire.begin().send(headers(1, site.fields(path)))
        while not wire.answer(1).over and not wire.closed and time.monotonic() < deadline:
            wire.until(lambda: bool(wire.frames) or wire.answer(1).over, 1)
            read = [one for one in wire.frames if one.kind == DATA and one.payload]
            wire.send(*(window(1, len(one.payload)) + window(0, len(one.payload)) for one in read))
            told, size = told + 2 * len(read), size + sum(len(one.payload) for one in read)
            wire.raw, wire.answer(1).body = b"", b""
            wire.frames.clear()
        assert wire.answer(1).ended and wire.goaway is None
        assert size == LARGE and told > 3000 if path == "/large" else size == 3000 * len("data: x\n\n")


def test_windows_opened_for_nothing_lose_the_connection(site: Site) -> None:
    """WINDOW_UPDATEs that follow no data end the connection."""
    with site.wire() as wire:
        wire.begin().send(headers(1, site.fields("/events")), frame(WINDOW_UPDATE, 0, 0, (1).to_bytes(4)) * 5000)
        wire.until(lambda: wire.goaway is not None)
        assert wire.goaway is not None and wire.goaway[4:8] == (11).to_bytes(4)


@pytest.mark.parametrize("protocol", ["HTTP/1", "HTTP/2"])
def test_a_backend_that_goes_on_after_its_answer(site: Site, protocol: str) -> None:
    """While the request's body is still coming: its answer is passed on whole, what follows is not, siblings live."""
    if protocol == "HTTP/1":
        with connect(site.plain.port) as caller:
            caller.sendall(head("POST", "/twice", site.key, "Content-Length: 90000") + b"a" * 100)
            heard = listen(caller)
        assert heard.ended and heard.status == 200 and heard.data.endswith(b"\r\n\r\nok")
        return
    with site.wire() as wire:
        wire.begin().send(headers(1, site.fields("/events")))
        wire.send(headers(3, site.fields("/twice", method="POST"), end=False) + data(3, b"a" * 100, end=False))
        wire.settle(3)
        assert wire.answer(3).ended and wire.answer(3).body == b"ok" and wire.answer(3).reset in {None, 0}
        wire.send(headers(5, site.fields("/"))).settle(5)
        assert wire.outcome(5) == "200" and not wire.answer(1).over


EXPECTATIONS = [
    ("/garbage", "Content-Length: 5", b"hello", 502),
    ("/garbage", "Content-Length: 90000", b"x" * 90000, 502),
    ("/never", "Content-Length: 5", b"hello", 504),
    ("/", "Content-Length: 5", b"he", 400),
    ("/", "Transfer-Encoding: chunked", (b"8000\r\n" + b"x" * 0x8000 + b"\r\n") * 5, 413),
    ("/", "Transfer-Encoding: chunked", b"zz\r\n", 400),
]


@pytest.mark.parametrize(("path", "framing", "body", "status"), EXPECTATIONS)
def test_an_answer_after_100_continue(site: Site, path: str, framing: str, body: bytes, status: int) -> None:
    """Who was told to go on is answered in the gateway's words when something goes wrong then."""
    with connect(site.plain.port) as caller:
        caller.sendall(head("POST", path, site.key, framing, "Expect: 100-continue"))
        assert listen(caller, b"\r\n\r\n").data == b"HTTP/1.1 100 Continue\r\n\r\n"
        try:
            caller.sendall(body)
        except OSError:
            assert status == 413
        heard = listen(caller)
    assert heard.ended and heard.status == status and b"application/problem+json" in heard.data


def test_a_backend_that_is_down_after_100_continue(site: Site, tmp_path: Path) -> None:
    """The same where nothing listens."""
    home = Home(tmp_path, f"http://127.0.0.1:{free_port()}")
    key, gateway = home.key()[1], Gateway(home, site.gateway.kind, port=free_port())
    try:
        heard = say(
            gateway.ready().port,
            head("POST", "/", key, "Content-Length: 2", "Expect: 100-continue") + b"ok",
            until=b"}",
        )
    finally:
        gateway.stop()
    assert heard.data.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 502 ") and heard.code == "upstream-unavailable"
