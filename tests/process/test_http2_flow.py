"""Bodies over HTTP/2: each stream has its own windows, its own backend and its own clock; none holds up another."""

import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from harness import Gateway, Home
from raw import Http2, Listener, Stream, answer, tls
from tests.attacks.frames import PING, Wire, data, frame, headers

POLICY = "timeouts: {head: 1s, connect: 2s, response: 20s, idle: 6s}\n"
MIB = 1 << 20


class Backend(Listener):
    """/echo says what it hears while it hears it, /stall reads nothing of a body, all else keeps it and answers."""

    def __init__(self) -> None:
        self.heard: dict[bytes, bytes] = {}
        self.go_on = threading.Event()
        super().__init__()

    def close(self) -> None:
        self.go_on.set()
        super().close()

    def serve(self, connection: socket.socket) -> None:
        with suppress(OSError), connection:
            begun = bytearray()
            while b"\r\n\r\n" not in begun and (more := connection.recv(4096)):
                begun += more
            head, whole, body = bytes(begun).partition(b"\r\n\r\n")
            if not whole:
                return
            path = head.split()[1]
            if path.startswith(b"/stall"):
                self.go_on.wait()
            if path == b"/echo":
                connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
            while b"chunked" in head and not body.endswith(b"0\r\n\r\n"):
                if path == b"/echo":
                    connection.sendall(body)
                    body = connection.recv(65536)
                elif more := connection.recv(65536):
                    body += more
                else:
                    return
                if not body:
                    return
            self.heard[path] = body
            connection.sendall(body if path == b"/echo" else answer())


@pytest.fixture(scope="module")
def backend() -> Iterator[Backend]:
    with closing(Backend()) as made:
        yield made


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, backend: Backend) -> Home:
    made = Home(tmp_path_factory.mktemp("flow"), backend.url)
    made.write_policy(POLICY)
    return made


@pytest.fixture
def caller(encrypted: Gateway, certificate: Path) -> Iterator[Http2]:
    with tls(encrypted.port, certificate, "h2") as connection:
        yield Http2(connection)


@pytest.fixture
def wire(encrypted: Gateway, certificate: Path) -> Iterator[Wire]:
    context = ssl.create_default_context(cafile=str(certificate))
    context.check_hostname = False
    context.set_alpn_protocols(["h2"])
    with Wire(encrypted.port, context) as made:
        yield made.begin()


def fields(path: bytes, key: str) -> list[tuple[bytes, bytes]]:
    credential = (b"authorization", b"Bearer " + key.encode())
    return [(b":method", b"POST"), (b":path", path), (b":scheme", b"https"), (b":authority", b"h"), credential]


def is_over(stream: Stream) -> bool:
    return stream.ended or stream.reset is not None


def take(caller: Http2, wait_s: float = 0.0) -> None:
    """Read what has come, if anything."""
    if caller.connection.pending() or select.select([caller.connection], [], [], wait_s)[0]:
        turns = iter([False])
        caller.until(lambda: next(turns, True))


def pour(caller: Http2, stream_id: int, size: int, stop: Callable[[], bool] = lambda: False) -> int:
    """Send a body as far as its windows allow, reading between; the bytes sent."""
    sent, quiet = 0, time.monotonic()
    while sent < size and not stop() and time.monotonic() - quiet < 1.5:
        room = min(caller.h2.local_flow_control_window(stream_id), 16384, size - sent)
        if room:
            caller.h2.send_data(stream_id, b"x" * room)
            caller.flush()
            sent, quiet = sent + room, time.monotonic()
        take(caller, 0.0 if room else 0.05)
    return sent


def test_a_backend_may_answer_while_it_reads(caller: Http2, key: str) -> None:
    """48 MiB are echoed while they are sent: what the caller says of its windows is read, however full the backend is."""
    stream, heard = caller.ask("POST", "/echo", key, ends=False), 0

    def hear() -> bool:
        nonlocal heard
        heard, stream.body = heard + len(stream.body), b""
        return is_over(stream)

    assert pour(caller, 1, 48 * MIB, stop=hear) == 48 * MIB
    caller.h2.end_stream(1)
    caller.flush()
    caller.until(hear)
    assert stream.ended and heard > 48 * MIB


def test_a_backend_that_does_not_read_holds_up_its_own_stream_alone(caller: Http2, key: str, backend: Backend) -> None:
    """An upload stops after what the sockets between hold and a window; its siblings are answered, and it goes on."""
    backend.go_on.clear()
    caller.ask("POST", "/stall", key, ends=False)
    sent = pour(caller, 1, 64 * MIB)
    assert sent < 16 * MIB
    for size in (0, 300_000):
        sibling = caller.ask("POST", f"/quick/{size}", key, ends=False)
        stream_id = max(caller.streams)
        assert pour(caller, stream_id, size) == size
        caller.h2.end_stream(stream_id)
        caller.flush()
        assert caller.until(lambda sibling=sibling: is_over(sibling)) < 2  # type: ignore[misc]
        assert sibling.status == 200
    backend.go_on.set()
    assert pour(caller, 1, MIB) == MIB
    caller.h2.end_stream(1)
    caller.flush()
    caller.until(lambda: is_over(caller.streams[1]))
    assert caller.streams[1].status == 200
    body = backend.heard[b"/stall"]
    assert body.count(b"x") == sent + MIB and body.endswith(b"\r\n0\r\n\r\n")


def test_small_frames_wait_in_one_piece(encrypted: Gateway, wire: Wire, key: str, backend: Backend) -> None:
    """Bodies of one byte a frame that no backend reads take about as much memory as they have bytes: as many as
    do not yet end the connection as frames of no use."""
    backend.go_on.clear()
    before, filler, crumbs = encrypted.memory(), b"x" * 16_000, data(1, b"x", end=False) * 8_000
    for number in range(1, 9, 2):
        wire.send(headers(number, fields(b"/stall/%d" % number, key), end=False))
        for _ in range(400):  # until the backend's sockets are full: what is beyond the window is lost with the stream
            before_frames = len(wire.frames)
            wire.send(data(number, filler, end=False))
            wire.until(lambda seen=before_frames: len(wire.frames) > seen, 0.05)  # type: ignore[misc]
            if len(wire.frames) == before_frames and not wire.closed:
                break
        wire.send(crumbs.replace(b"\0\0\0\1x", number.to_bytes(4) + b"x"))
    wire.pinged(5)
    assert not wire.closed and wire.goaway is None
    assert encrypted.memory() - before < 24 * MIB


def test_an_empty_frame_ends_no_body(wire: Wire, key: str, backend: Backend) -> None:
    """DATA without bytes inside a body is no chunk of size 0: what follows stays part of the body."""
    smuggled = b"GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n"
    wire.send(headers(1, fields(b"/empty", key), end=False), data(1, b"a", end=False))
    wire.until(lambda: False, 0.5)  # each frame is a chunk
    wire.send(data(1, b"", end=False), data(1, smuggled)).settle(1)
    assert wire.answers[1].status == "200"
    assert backend.heard[b"/empty"] == b"1\r\na\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(smuggled), smuggled)
    assert b"/smuggled" not in backend.heard


def test_pings_are_no_body(wire: Wire, key: str) -> None:
    """Uploads without a byte of body end when the least rate says, each by itself, however many PINGs come meanwhile."""
    streams = range(1, 21, 2)
    began = time.monotonic()
    wire.send(*(headers(number, fields(b"/slow", key), end=False) for number in streams))
    flowing = 21
    wire.send(headers(flowing, fields(b"/flowing", key), end=False))
    while not all(wire.answer(number).over for number in streams) and not wire.closed:
        assert time.monotonic() - began < 9, "they go on"
        wire.send(frame(PING, 0, 0, b"12345678") * 2, data(flowing, b"x" * 200, end=False)).until(lambda: False, 0.1)
    assert time.monotonic() - began > 4
    assert {wire.outcome(number) for number in streams} == {"400"}
    wire.send(data(flowing, b"")).settle(flowing)
    assert wire.outcome(flowing) == "200"


def test_pings_keep_no_connection(wire: Wire, key: str) -> None:
    """A connection over which only PINGs come is idle."""
    wire.send(headers(1, fields(b"/first", key), end=False), data(1, b"x")).settle(1)
    began = time.monotonic()
    while not wire.closed:
        assert time.monotonic() - began < 6 + 3, "it is open"
        wire.send(frame(PING, 0, 0, b"12345678")).until(lambda: False, 0.1)
    assert time.monotonic() - began > 5
