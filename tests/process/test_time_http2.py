"""Time and sizes over TLS: HTTP/2 streams end like HTTP/1 requests, and their siblings go on. Silent WebSockets too."""

import select
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, Request

from harness import Gateway, Home, eventually, free_port
from raw import RESET, Got, Http2, Recorder, Stream, answer, connect, listen, say, tls

LATE_S = 3.0
POLICY = "timeouts: {head: 1s, connect: 1s, response: 1s, idle: 2s}\nmax_body: 100KiB\n"
PARTS = {
    b"/never": b"",
    b"/half-head": b"HTTP/1.1 200 OK\r\nContent-",
    b"/half-body": b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf",
    b"/no-length": b"HTTP/1.1 200 OK\r\n\r\nhalf",
    b"/gone": b"",
    b"/gone-in-head": b"HTTP/1.1 200 OK\r\nX-Secret: 1",
    b"/garbage": b"SSH-2.0-secret\r\n\r\n",
}
EVENTS = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"


class Partial(Recorder):
    """A backend that begins answers and leaves them. /events: one each time `go_on` is asked. /socket: a WebSocket."""

    def __init__(self) -> None:
        super().__init__(self._answer)
        self.events: list[socket.socket] = []

    def _answer(self, got: Got, connection: socket.socket) -> None:
        if got.target == b"/events":
            connection.sendall(EVENTS)
            self.events.append(connection)
        elif got.target == b"/socket":
            made = WSConnection(ConnectionType.SERVER)
            made.initiate_upgrade_connection(list(got.headers), "/socket")
            connection.sendall(made.send(AcceptConnection()))
        elif got.target in PARTS:
            connection.sendall(PARTS[got.target])
            if got.target.startswith(b"/gone"):
                connection.shutdown(socket.SHUT_RDWR)
        else:
            connection.sendall(answer())
            return
        connection.recv(1)  # until the gateway gives up

    def go_on(self) -> None:
        """Send an event over every event stream."""
        for connection in self.events:
            connection.sendall(b"data: on\n\n")


@pytest.fixture(scope="module")
def partial() -> Iterator[Partial]:
    made = Partial()
    yield made
    made.close()


@pytest.fixture(autouse=True)
def _fresh(partial: Partial) -> None:
    partial.clear()
    partial.events.clear()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, partial: Partial) -> Home:
    made = Home(tmp_path_factory.mktemp("time"), partial.url)
    made.write_policy(POLICY)
    return made


@pytest.fixture
def caller(encrypted: Gateway, certificate: Path) -> Iterator[Http2]:
    with tls(encrypted.port, certificate, "h2") as connection:
        yield Http2(connection)


def is_over(stream: Stream) -> bool:
    return stream.ended or stream.reset is not None


ENDS = [
    ("/never", 504, "upstream-timeout", 1),
    ("/half-head", 504, "upstream-timeout", 1),
    ("/gone", 502, "upstream-unavailable", 0),
    ("/gone-in-head", 502, "upstream-unavailable", 0),
    ("/garbage", 502, "upstream-unavailable", 0),
    ("/half-body", 504, "upstream-timeout", 2),
]


@pytest.mark.parametrize(("path", "status", "code", "after_s"), ENDS)
def test_a_backend_that_does_not_answer_whole(
    caller: Http2, key: str, partial: Partial, path: str, status: int, code: str, after_s: float
) -> None:
    """Each ends its own stream in time, in our words; a request after it over the same connection is answered."""
    stream = caller.ask("GET", path, key)
    took = caller.until(lambda: is_over(stream))
    assert stream.ended and stream.status == status and code.encode() in stream.body, stream
    assert stream.headers["content-type"] == "application/problem+json"
    assert after_s * 0.8 <= took <= after_s + LATE_S
    told = b"\n".join([stream.body, *(f"{name}: {value}".encode() for name, value in stream.headers.items())])
    private = (b"mitmproxy", b"127.0.0.1", b"secret", str(partial.port).encode())
    assert not [word for word in private if word in told.lower()], told
    if after_s == 2:
        return  # then the connection itself has been idle, too
    sibling = caller.ask("GET", "/", key)
    caller.until(lambda: is_over(sibling))
    assert sibling.status == 200 and sibling.body == b"ok"


def test_a_response_that_stops_is_cut(caller: Http2, key: str, partial: Partial) -> None:
    """A response that stops half-way is reset after `idle`, while an event stream beside it that moves goes on."""
    events, stream = caller.ask("GET", "/events", key), caller.ask("GET", "/no-length", key)
    caller.until(lambda: events.status == 200 and stream.body == b"half")
    began = time.monotonic()
    while not is_over(stream):
        assert time.monotonic() - began < 2 + LATE_S, "it was not cut"
        before = len(events.body)
        partial.go_on()
        caller.until(lambda before=before: len(events.body) > before)  # type: ignore[misc]
        select.select([], [], [], 0.1)  # the pace of the events
    assert time.monotonic() - began >= 1.6 and not caller.closed
    before = len(events.body)
    partial.go_on()
    caller.until(lambda: len(events.body) > before)
    assert not is_over(events)


@pytest.mark.parametrize("begun", ["nothing", "hello", "preface"])
def test_silence_is_closed(encrypted: Gateway, certificate: Path, begun: str) -> None:
    """Nothing, half a TLS handshake, HTTP/2 without a request: closed after `head`, and nothing goes wrong in the gateway."""
    began = time.monotonic()
    if begun == "preface":
        with tls(encrypted.port, certificate, "h2") as connection:
            caller = Http2(connection)
            with suppress(OSError):
                caller.until(lambda: caller.closed)
    else:
        half = b"\x16\x03\x01\x02\x00\x01\x00" if begun == "hello" else b""
        assert say(encrypted.port, half).ended
    assert 0.8 <= time.monotonic() - began <= 1 + LATE_S


def test_a_slow_body_ends(caller: Http2, key: str, partial: Partial) -> None:
    """A body below the least rate is over after five seconds of it, and the backend never has it whole."""
    stream = caller.ask("POST", "/", key, ("content-length", "100000"), ends=False)
    began = time.monotonic()
    while not is_over(stream) and not caller.closed:
        assert time.monotonic() - began < 5 + LATE_S + 2, "it goes on"
        with suppress(OSError):
            caller.h2.send_data(1, b"x")
            caller.flush()
        if select.select([caller.connection], [], [], 0.2)[0]:
            read_once = iter([False])
            with suppress(OSError):
                caller.until(lambda turns=read_once: next(turns, True))  # type: ignore[misc]
    assert time.monotonic() - began >= 4
    assert partial.requests == [] and stream.status in {0, 400}


def test_too_large_a_body(caller: Http2, key: str, partial: Partial) -> None:
    """Over `max_body`: declared, 413 before the backend hears of it; else 413, and it never has a whole body."""
    declared = caller.ask("POST", "/", key, ("content-length", "102401"), ends=False)
    caller.until(lambda: is_over(declared))
    assert declared.status == 413 and partial.received == []
    grown = caller.ask("POST", "/", key, ends=False)
    sent = 0
    while not is_over(grown) and sent < 300_000:
        room = min(caller.h2.local_flow_control_window(3), 16_000)
        if room:
            caller.h2.send_data(3, b"x" * room)
            caller.flush()
            sent += room
        else:
            caller.until(lambda: is_over(grown) or caller.h2.local_flow_control_window(3) > 0)
    caller.until(lambda: is_over(grown))
    assert grown.status == 413 and b"body-too-large" in grown.body
    sibling = caller.ask("GET", "/", key)
    caller.until(lambda: is_over(sibling))
    assert sibling.status == 200
    assert [got.body for got in partial.requests] == [b""]


def nobody_accepts(port: int) -> list[socket.socket]:
    """Listen where no connection can be made, as long as these sockets are open."""
    made = [socket.create_server(("127.0.0.1", port), backlog=0)]
    for _ in range(4):
        made.append(socket.socket())
        made[-1].setblocking(False)
        made[-1].connect_ex(("127.0.0.1", port))
    return made


@contextmanager
def patient(folder: Path, certificate: Path, engine: str, port: int) -> Iterator[tuple[Gateway, str]]:
    """A gateway of its own that waits for idle connections, before this port."""
    home = Home(folder, f"http://127.0.0.1:{port}")
    home.write_policy(POLICY.replace("idle: 2s", "idle: 30s"))
    key = home.key()[1]
    gateway = Gateway(home, engine, port=free_port(), certificate=certificate)
    try:
        yield gateway.ready(), key
    finally:
        output = gateway.stop()
    assert "Traceback" not in output and "in the gateway" not in output


@pytest.mark.parametrize("trouble", ["nothing listens", "nobody accepts"])
def test_a_backend_that_is_back(certificate: Path, tmp_path: Path, engine: str, trouble: str) -> None:
    """A failed connection upstream is no answer to later requests of the same caller: they are served again."""
    port, status, full = free_port(), 502, []
    if trouble == "nobody accepts":
        status, full = 504, nobody_accepts(port)
    with (
        patient(tmp_path, certificate, engine, port) as (gateway, key),
        tls(gateway.port, certificate, "h2") as connection,
    ):
        caller = Http2(connection)
        streams = [caller.ask("GET", "/", key) for _ in range(3)]
        caller.until(lambda: all(map(is_over, streams)))
        assert {stream.status for stream in streams} == {status}
        for one in full:
            one.close()
        backend = Recorder(port=port)
        streams = [caller.ask("GET", "/", key) for _ in range(3)]
        caller.until(lambda: all(map(is_over, streams)))
        backend.close()
        assert {stream.status for stream in streams} == {200}


def test_requests_taken_back_while_they_are_connected(certificate: Path, tmp_path: Path, engine: str) -> None:
    """However many were taken back while their connections were made, the next is refused or answered, in time."""
    port = free_port()
    full = nobody_accepts(port)
    with (
        patient(tmp_path, certificate, engine, port) as (gateway, key),
        tls(gateway.port, certificate, "h2") as connection,
    ):
        caller = Http2(connection)
        for _ in range(3):
            began = time.monotonic()
            for _ in range(60):
                caller.ask("GET", "/", key)
                caller.h2.reset_stream(max(caller.streams))
                caller.flush()
            stream = caller.ask("GET", "/", key)
            caller.until(lambda stream=stream: is_over(stream))  # type: ignore[misc]
            assert stream.status == 504 or stream.reset == 7, stream
            assert time.monotonic() - began <= 1 + LATE_S and caller.goaway is None
    for one in full:
        one.close()


def test_a_silent_websocket_is_closed(home: Home, key: str, engine: str) -> None:
    """A WebSocket over which nothing moves is closed after `idle`."""
    gateway = Gateway(home, engine, port=free_port()).ready()
    try:
        asked = WSConnection(ConnectionType.CLIENT).send(
            Request(host="h", target="/socket", extra_headers=[(b"Authorization", b"Bearer " + key.encode())])
        )
        with connect(gateway.port) as connection:
            connection.sendall(asked)
            assert listen(connection, b"\r\n\r\n").status == 101
            heard = listen(connection)
            assert heard.ended and 1.6 <= heard.seconds <= 2 + LATE_S
    finally:
        gateway.stop()


@pytest.mark.slow
def test_no_socket_is_leaked(encrypted: Gateway, certificate: Path, key: str) -> None:
    """After 120 TLS connections with five unfinished streams each, half of them reset, no file is left open."""
    with tls(encrypted.port, certificate, "h2") as connection:
        caller = Http2(connection)
        warm = caller.ask("GET", "/", key)
        caller.until(lambda: is_over(warm))
    eventually("it is closed", lambda: encrypted.files < 80)
    before = encrypted.files
    for batch in range(4):
        opened: list[Http2] = []
        context = ssl.create_default_context(cafile=str(certificate))
        context.set_alpn_protocols(["h2"])
        for number in range(30):
            wrapped = context.wrap_socket(connect(encrypted.port), server_hostname="127.0.0.1")
            caller = Http2(wrapped)
            for path in ("/never", "/half-head", "/half-body", "/events"):
                caller.ask("GET", path, key)
            caller.ask("POST", "/", key, ("content-length", "90000"), ends=False)
            if number % 2:
                wrapped.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                wrapped.close()  # a reset
            else:
                opened.append(caller)
        for caller in opened[: len(opened) if batch % 2 else 5]:
            with suppress(OSError):
                caller.until(lambda caller=caller: caller.closed)  # type: ignore[misc]
        for caller in opened:
            caller.connection.close()
    eventually("all sockets are closed", lambda: encrypted.files <= before + 4, 90)
