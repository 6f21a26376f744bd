"""Time: what a caller or a backend leaves undone ends when the policy says, with an answer where one is possible."""

import re
import resource
import select
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path

import pytest

from certificates import self_signed
from harness import Gateway, Home, eventually, free_port
from raw import RESET, Got, Heard, Http2, Recorder, Stream, answer, connect, head, listen, say, tls

LATE_S = 3.0
"""How much later than its time something may end: a sweep, and a busy machine."""
TIMES = "timeouts: {head: 1s, connect: 1s, response: 1s, idle: 2s}\n"


class Slow(Recorder):
    """A backend whose answers never come whole; the target says how. `/`: an ordinary one."""

    def __init__(self) -> None:
        super().__init__(self._answer)

    def _answer(self, got: Got, connection: socket.socket) -> None:
        target = got.target.partition(b"?")[0]
        if target == b"/never":
            pass
        elif target == b"/half-head":
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-")
        elif target == b"/half-body":
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
        elif target == b"/no-length":
            connection.sendall(b"HTTP/1.1 200 OK\r\n\r\nhalf")
        elif target == b"/gone":
            connection.shutdown(socket.SHUT_RDWR)
        elif target == b"/gone-in-head":
            connection.sendall(b"HTTP/1.1 200 OK\r\nX-Secret: 1")
            connection.shutdown(socket.SHUT_RDWR)
        elif target == b"/garbage":
            connection.sendall(b"SSH-2.0-secret\r\n\r\n")
        else:
            connection.sendall(answer())
            return
        connection.recv(1)  # until the gateway gives up


@pytest.fixture(scope="module")
def slow() -> Iterator[Slow]:
    made = Slow()
    yield made
    made.close()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, slow: Slow) -> Home:
    made = Home(tmp_path_factory.mktemp("time"), slow.url)
    made.write_policy(TIMES)
    return made


def check(heard: Heard, status: int | None, code: str | None, after_s: float, gateway: Gateway) -> None:
    """It ended in time, with this answer, which says nothing of what is behind the gateway."""
    assert heard.ended and (heard.status, heard.code) == (status, code), heard
    assert after_s * 0.8 <= heard.seconds <= after_s + LATE_S, heard
    private = (b"mitmproxy", b"127.0.0.1", b"secret", gateway.home.upstream.rpartition(":")[2].encode())
    assert not [word for word in private if word in heard.data], heard


def drip(port: int, begin: bytes, byte: bytes, every_s: float, patience_s: float = 20) -> Heard:
    """Send a beginning, then one byte after the other until an answer or the end comes."""
    began, data = time.monotonic(), b""
    with connect(port) as connection:
        connection.sendall(begin)
        while time.monotonic() - began < patience_s:
            if select.select([connection], [], [], every_s)[0]:
                rest = listen(connection)
                return Heard(data + rest.data, time.monotonic() - began, rest.ended)
            with suppress(OSError):
                connection.sendall(byte)
    return Heard(data, time.monotonic() - began, False)


def test_a_slow_head_ends(gateway: Gateway, key: str) -> None:
    """A head that comes byte by byte is answered 400 when its time is over, on a first and on a later request."""
    check(drip(gateway.port, b"GET / HT", b"T", 0.1), 400, "invalid-request", 1, gateway)
    with connect(gateway.port) as connection:
        connection.sendall(head("GET", "/", key))
        assert listen(connection, b"\r\n\r\nok").status == 200
        connection.sendall(b"GET / HTTP/1.1\r\nHost:")
        check(listen(connection), 400, "invalid-request", 1, gateway)


def test_silence_is_closed(gateway: Gateway, key: str) -> None:
    """Where nothing comes a connection is closed without an answer: after `head`, between requests after `idle`."""
    check(say(gateway.port, b""), None, None, 1, gateway)
    with connect(gateway.port) as connection:
        connection.sendall(head("GET", "/", key))
        assert listen(connection, b"\r\n\r\nok").status == 200
        check(listen(connection), None, None, 2, gateway)


@pytest.mark.parametrize("path", ["/", "/never"])
def test_a_slow_body_ends(gateway: Gateway, key: str, path: str, slow: Slow) -> None:
    """A body below the least rate is answered 400 after five seconds of it, and the backend never has it whole."""
    slow.clear()
    begin = head("POST", path, key, "Content-Length: 100000")
    check(drip(gateway.port, begin, b"x", 0.2), 400, "invalid-request", 5, gateway)
    assert slow.requests == []


def test_a_body_that_stops_ends(gateway: Gateway, key: str, slow: Slow) -> None:
    """A body that does not go on is answered 400 when nothing has moved for `idle`."""
    slow.clear()
    heard = say(gateway.port, head("POST", "/", key, "Transfer-Encoding: chunked") + b"5\r\nhello\r\n")
    check(heard, 400, "invalid-request", 2, gateway)
    assert slow.requests == []


@pytest.mark.parametrize(
    ("path", "status", "code", "after_s"),
    [
        ("/never", 504, "upstream-timeout", 1),
        ("/half-head", 504, "upstream-timeout", 1),
        ("/gone", 502, "upstream-unavailable", 0),
        ("/gone-in-head", 502, "upstream-unavailable", 0),
        ("/garbage", 502, "upstream-unavailable", 0),
        ("/half-body", 504, "upstream-timeout", 2),
        ("/no-length", 200, None, 2),
    ],
)
def test_a_backend_that_does_not_answer_whole(
    gateway: Gateway, key: str, path: str, status: int, code: str | None, after_s: float
) -> None:
    """No answer, half a head, half a body, garbage: 504 or 502 where nothing was passed on yet, else it is cut."""
    heard = say(gateway.port, head("GET", path, key))
    check(heard, status, code, after_s, gateway)
    assert code is None or b"application/problem+json" in heard.data
    posted = say(gateway.port, head("POST", path, key, "Content-Length: 3") + b"abc")
    check(posted, status, code, after_s, gateway)


def ended(streams: Iterable[Stream]) -> bool:
    return all(stream.ended for stream in streams)


def test_a_backend_that_is_down(tmp_path: Path, engine: str) -> None:
    """A refused connection is 502 at once, one that is not accepted in time 504; both on HTTP/1 and HTTP/2."""
    certificate = self_signed(tmp_path, "gateway")
    with socket.socket() as full, ExitStack() as waiting:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(4):
            filler = waiting.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        for port, status, code, after_s in (
            (free_port(), 502, "upstream-unavailable", 0),
            (full.getsockname()[1], 504, "upstream-timeout", 1),
        ):
            (folder := tmp_path / str(status)).mkdir()
            home = Home(folder, f"http://127.0.0.1:{port}")
            home.write_policy(TIMES)
            _, key = home.key()
            plain = Gateway(home, engine).ready()
            encrypted = Gateway(home, engine, port=free_port(), certificate=certificate).ready()
            try:
                heard = say(plain.port, head("GET", "/", key, "Connection: close"))
                check(heard, status, code, after_s, plain)
                with tls(encrypted.port, certificate, "h2") as connection:
                    caller = Http2(connection)
                    streams = (caller.ask("GET", "/a", key), caller.ask("GET", "/b", key))
                    took = caller.until(partial(ended, streams))
                    for stream in streams:
                        heard = Heard(b"HTTP/1.1 %d \r\n" % stream.status + stream.body, took, True)
                        check(heard, status, code, after_s, plain)
                        assert stream.headers["content-type"] == "application/problem+json"
            finally:
                plain.stop()
                encrypted.stop()


def test_too_large_a_body(slow: Slow, tmp_path: Path, engine: str) -> None:
    """Over `max_body`: declared, 413 before the backend hears of it; chunked, 413, and it never has a whole body."""
    home = Home(tmp_path, slow.url)
    home.write_policy("max_body: 100KiB\n")
    _, key = home.key()
    gateway = Gateway(home, engine).ready()
    try:
        slow.clear()
        heard = say(gateway.port, head("POST", "/", key, "Content-Length: 102401") + b"x" * 100)
        check(heard, 413, "body-too-large", 0, gateway)
        assert slow.received == []
        chunk = b"8000\r\n" + b"x" * 0x8000 + b"\r\n"
        heard = say(gateway.port, head("POST", "/", key, "Transfer-Encoding: chunked") + chunk * 4 + b"0\r\n\r\n")
        check(heard, 413, "body-too-large", 0, gateway)
        eventually("the backend has lost its connection", lambda: len(slow.odd) == 1)
        assert slow.requests == []
        close = head("POST", "/", key, "Transfer-Encoding: chunked", "Connection: close")
        assert say(gateway.port, close + chunk * 3 + b"0\r\n\r\n").status == 200
    finally:
        gateway.stop()


@pytest.mark.slow
def test_no_socket_is_leaked(gateway: Gateway, key: str) -> None:
    """After 1,000 connections of every unfinished kind, some reset, the gateway has as many open files as before."""
    handshake = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13")
    kinds = [
        b"",
        b"GET / HTTP/1.1\r\nHost",
        head("POST", "/", key, "Content-Length: 100000") + b"half",
        head("POST", "/", key, "Transfer-Encoding: chunked") + b"5\r\nhe",
        head("POST", "/", None, "Content-Length: 100000") + b"half",
        head("GET", "/", key),
        head("GET", "/never", key),
        head("GET", "/half-head", key),
        head("GET", "/half-body", key),
        head("GET", "/", key, *handshake, f"Sec-WebSocket-Key: {'A' * 22}=="),
    ]  # fmt: skip
    before = gateway.files
    for batch in range(10):
        open_now = []
        for number in range(100):
            connection = connect(gateway.port)
            connection.sendall(kinds[number % len(kinds)])
            if number % 7 == batch % 7:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                connection.close()  # a reset
            else:
                open_now.append(connection)
        deadline = time.monotonic() + 15
        while open_now:
            assert time.monotonic() < deadline, f"{len(open_now)} connections have not ended"
            for connection in select.select(open_now, [], [], 1)[0]:
                try:
                    over = not connection.recv(65536)
                except OSError:
                    over = True
                if over:
                    open_now.remove(connection)
                    connection.close()
    eventually("all sockets are closed", lambda: gateway.files <= before + 2)


def test_one_address_cannot_take_all_connections(slow: Slow, tmp_path: Path, engine: str) -> None:
    """Beyond a quarter of its open files the gateway turns an address away; who is in goes on, a leaver makes room."""
    home = Home(tmp_path, slow.url)
    _, key = home.key()
    gateway = Gateway(home, engine).ready()
    (worker,) = gateway.workers
    _, hard = resource.prlimit(worker, resource.RLIMIT_NOFILE)
    resource.prlimit(worker, resource.RLIMIT_NOFILE, (240, hard))
    with ExitStack() as opened:
        connections = [opened.enter_context(connect(gateway.port)) for _ in range(70)]
        eventually("some are turned away", lambda: len(select.select(connections, [], [], 0)[0]) == 10)
        turned_away = select.select(connections, [], [], 0)[0]
        assert all(heard.ended and not heard.data for heard in map(listen, turned_away))
        left = [connection for connection in connections if connection not in turned_away]
        left[0].sendall(head("GET", "/", key))
        assert listen(left[0], b"\r\n\r\nok").status == 200
        left[1].close()
        eventually("there is room", lambda: say(gateway.port, head("GET", "/", key), until=b"ok").status == 200)
    assert len(re.findall("are turned away", gateway.stop())) == 1
