"""What a backend has sent before it stopped reading reaches its caller, and half an answer is never told as a whole one."""

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from harness import PATIENCE_S, Gateway, Home
from raw import RESET, Heard, Http2, Listener, answer, connect, head, listen, tls

TOO_LARGE = b"413 Content Too Large"


class Backend(Listener):
    """Sends what its path says without reading the body, and then closes, is reset, or goes on as its path says."""

    def __init__(self) -> None:
        self.go_on = threading.Semaphore(0)
        super().__init__()

    def serve(self, connection: socket.socket) -> None:
        with suppress(OSError), connection:
            begun = bytearray()
            while b"\r\n\r\n" not in begun and (more := connection.recv(1)):
                begun += more
            if begun:
                getattr(self, begun.split()[1][1:].decode())(connection)

    def at_once(self, connection: socket.socket) -> None:
        connection.sendall(answer(b"big", b"Connection: close", status=TOO_LARGE))

    def reset(self, connection: socket.socket) -> None:
        self.at_once(connection)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)

    def kept(self, connection: socket.socket) -> None:
        connection.sendall(answer(b"big", status=TOO_LARGE))

    def long(self, connection: socket.socket) -> None:
        connection.sendall(answer(b"x" * 100_000 + b"\r\n\r\nbig", b"Connection: close", status=TOO_LARGE))

    def later(self, connection: socket.socket) -> None:
        self.at_once(connection)
        time.sleep(0.05)

    def reads_on(self, connection: socket.socket) -> None:
        self.at_once(connection)
        while connection.recv(1 << 16):
            pass

    def half(self, connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 30\r\n\r\nhalf")

    def unframed(self, connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\nhalf")
        self.go_on.acquire(timeout=PATIENCE_S)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)


@pytest.fixture(scope="module")
def backend() -> Iterator[Backend]:
    with closing(Backend()) as made:
        yield made


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, backend: Backend) -> Home:
    return Home(tmp_path_factory.mktemp("early"), backend.url)


Upload = Callable[[str, int], Heard]
"""Sends so many bytes of a body to a path; what is heard, as HTTP/1.1."""


@pytest.fixture(params=["HTTP/1.1", "HTTP/2"])
def upload(request: pytest.FixtureRequest, encrypted: Gateway, key: str, certificate: Path) -> Upload:
    def over_http1(path: str, size: int) -> Heard:
        with tls(encrypted.port, certificate) as connection:
            connection.sendall(head("POST", path, key, f"Content-Length: {size}"))
            with suppress(OSError):
                for at in range(0, size, 1 << 16):
                    connection.sendall(b"x" * min(1 << 16, size - at))
            return listen(connection, b"big")  # as most callers do it, and one OpenSSL object is no two threads'

    def over_http2(path: str, size: int) -> Heard:
        with tls(encrypted.port, certificate, "h2") as connection:
            caller = Http2(connection)
            stream = caller.ask("POST", path, key, ("content-length", str(size)), ends=False)
            began, left = time.monotonic(), size
            while not stream.ended and stream.reset is None and not caller.closed:
                room = min(caller.h2.local_flow_control_window(1), 16_384, left) if left else 0
                if room:
                    with suppress(OSError, ssl.SSLError):
                        caller.h2.send_data(1, b"x" * room, end_stream=left == room)
                        caller.flush()
                    left -= room
                turns = iter([False])
                with suppress(AssertionError):
                    caller.until(lambda: next(turns, True), 0.01 if room else 20)  # noqa: B023
            said = b"HTTP/1.1 %d \r\n\r\n" % stream.status + stream.body if stream.status else b""
            return Heard(said, time.monotonic() - began, stream.ended)

    return over_http1 if request.param == "HTTP/1.1" else over_http2


@pytest.mark.parametrize("size", [100_000, 3_000_000])
@pytest.mark.parametrize("path", ["at_once", "reset", "kept", "long", "later", "reads_on"])
def test_an_answer_before_the_end_of_the_upload_arrives(upload: Upload, path: str, size: int) -> None:
    """A backend that answers and does not read on, whichever way it closes, is heard, and its answer is whole."""
    for _ in range(2):
        heard = upload(f"/{path}", size)
        assert path != "long" or heard.data.count(b"x") == 100_000
        assert heard.status == 413 and heard.data.endswith(b"\r\n\r\nbig")


def test_half_an_answer_is_not_whole(upload: Upload) -> None:
    """A backend that stops within its answer is a 502; where the answer has begun its caller sees that it did not end."""
    heard = upload("/half", 100_000)
    assert heard.status == 502 or not heard.ended or b"Content-Length: 30" in heard.data


def test_a_reset_ends_no_body(
    gateway: Gateway, encrypted: Gateway, backend: Backend, key: str, certificate: Path
) -> None:
    """A body that would end with its connection is cut by a reset, of the stream over HTTP/2, where the backend's
    connection is reset: only so can its caller see that something may be missing."""
    with connect(gateway.port) as connection:
        connection.sendall(head("GET", "/unframed", key))
        assert listen(connection, b"half").status == 200
        backend.go_on.release()
        with pytest.raises(ConnectionResetError):
            connection.recv(1)
    with tls(encrypted.port, certificate, "h2") as tunnel:
        caller = Http2(tunnel)
        stream = caller.ask("GET", "/unframed", key)
        caller.until(lambda: bool(stream.body))
        backend.go_on.release()
        caller.until(lambda: stream.ended or stream.reset is not None)
        assert stream.body == b"half" and not stream.ended
