"""A backend on a socket of its own, which keeps every byte and reads requests with a parser that forgives nothing.

Law: what is in `received` came as exactly one request with at most one framing; whatever else came is in `odd`, with
its bytes. Nothing is mended, guessed or folded, so that what the gateway forwards is what a test sees.
"""

import json
import re
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+) ([!-~]+) (HTTP/1\.[01])")
_FIELD = re.compile(
    rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*((?:[!-~\x80-\xff](?:[\t -~\x80-\xff]*[!-~\x80-\xff])?)?)[ \t]*"
)
_LENGTH, _SIZE = re.compile(rb"[0-9]{1,18}"), re.compile(rb"[0-9A-Fa-f]{1,16}")
_MOST = 1 << 20
"""Bytes of a line, beyond which it has no end."""


@dataclass
class Request:
    """A request as its bytes say it."""

    method: bytes
    target: bytes
    version: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes = b""

    def values(self, name: str) -> list[bytes]:
        """The values of every header of this name, in order."""
        return [value for known, value in self.headers if known.lower() == name.lower().encode()]

    @property
    def path(self) -> bytes:
        return self.target.partition(b"?")[0]


@dataclass
class Odd:
    """Bytes that are no sequence of whole requests."""

    why: str
    raw: bytes
    cut: bool
    """All of it was well-formed, but its connection ended before it did."""
    request: Request | None
    """Whose body it was, where a head had come whole."""


Behaviour = Callable[[Request, socket.socket], None]
"""Answers a request. When it returns, the next request is read from the same connection."""


def answer(body: bytes, *fields: bytes, status: bytes = b"200 OK") -> bytes:
    """A response with a length."""
    return b"\r\n".join([b"HTTP/1.1 " + status, b"Content-Length: %d" % len(body), *fields, b"", body])


def echo(request: Request, connection: socket.socket) -> None:
    """The ordinary behaviour: 200, and the target as JSON, so that a caller can tell whose answer it got."""
    said = answer(
        json.dumps({"target": request.target.decode()}).encode(), b"Content-Type: application/json", b"X-Echo: 1"
    )
    connection.sendall(said.partition(b"\r\n\r\n")[0] + b"\r\n\r\n" if request.method == b"HEAD" else said)


class Recorder:
    """The backend. `behave` may be replaced at any time."""

    def __init__(self, behave: Behaviour = echo) -> None:
        self.behave = behave
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._socket.getsockname()[1]
        self.authority = f"127.0.0.1:{self.port}"
        self.url = f"http://{self.authority}"
        self._changed = threading.Condition()
        self._open: dict[socket.socket, bytearray] = {}
        """Connections, and their bytes."""
        self._at_rest: set[socket.socket] = set()
        """Those of them that are between two requests."""
        self.clear()
        threading.Thread(target=self._accept, daemon=True).start()

    def clear(self) -> None:
        """Forget what came."""
        with self._changed:
            self.received: list[Request] = []
            self.odd: list[Odd] = []
            for kept in self._open.values():
                kept.clear()
            self.raw = list(self._open.values())
            """The bytes of each connection."""

    def requests(self, path: str | None = None) -> list[Request]:
        """The requests for a path, or all."""
        with self._changed:
            return [one for one in self.received if path is None or one.path == path.encode()]

    def quiet(self, patience_s: float) -> bool:
        """Wait until no connection is open; whether that was so in time."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._open, patience_s)

    def rests(self, patience_s: float) -> bool:
        """Wait until no connection is in a request; whether that was so in time."""
        with self._changed:
            return self._changed.wait_for(lambda: self._open.keys() == self._at_rest, patience_s)

    def close(self) -> None:
        """Close everything."""
        with self._changed:
            mine = [self._socket, *self._open]
        for one in mine:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self.quiet(2)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                kept = bytearray()
                with self._changed:
                    self._open[connection] = kept
                    self.raw.append(kept)
                threading.Thread(target=self._serve, args=(connection, kept), daemon=True).start()

    def _serve(self, connection: socket.socket, kept: bytearray) -> None:
        reader = _Reader(connection, kept, lambda: self._rest(connection, False))
        try:
            with suppress(OSError):
                self._rest(connection, True)
                while (request := reader.request()) is not None:
                    with self._changed:
                        self.received.append(request)
                    self.behave(request, connection)
                    self._rest(connection, True)
        except _Malformed as found:
            with self._changed:
                self.odd.append(Odd(str(found), bytes(kept[-4096:]), found.cut, reader.begun))
        finally:
            # What the gateway still sends is read and kept before the end: an early close would reset its bytes away.
            with suppress(OSError):
                connection.shutdown(socket.SHUT_WR)
                reader.drain()
            connection.close()
            with self._changed:
                del self._open[connection]
                self._at_rest.discard(connection)
                self._changed.notify_all()

    def _rest(self, connection: socket.socket, rests: bool) -> None:
        with self._changed:
            (self._at_rest.add if rests else self._at_rest.discard)(connection)
            self._changed.notify_all()


class _Malformed(Exception):
    def __init__(self, why: str, cut: bool = False) -> None:
        super().__init__(why)
        self.cut = cut


@dataclass
class _Reader:
    """Requests from a connection, one after the other."""

    connection: socket.socket
    kept: bytearray
    begins: Callable[[], None]
    """Is called when a request begins."""
    begun: Request | None = None
    _buffer: bytearray = field(default_factory=bytearray)

    def request(self) -> Request | None:
        """The next request; None when the connection ends between two."""
        self.begun = None
        if not self._buffer and not self._more():
            return None
        self.begins()
        found = _LINE.fullmatch(self._line("a request line"))
        if found is None:
            raise _Malformed("no request line")
        fields = []
        while line := self._line("a head"):
            pair = _FIELD.fullmatch(line)
            if pair is None:
                raise _Malformed("no header field")
            fields.append((pair[1], pair[2]))
        request = self.begun = Request(found[1], found[2], found[3], fields)
        request.body = self._body(request)
        self.begun = None
        return request

    def drain(self) -> None:
        """Keep what still comes, for a while."""
        self.connection.settimeout(2)
        until = time.monotonic() + 2
        while time.monotonic() < until and self._more():
            pass

    def _body(self, request: Request) -> bytes:
        lengths, codings = request.values("content-length"), request.values("transfer-encoding")
        if len(lengths) + len(codings) > 1:
            raise _Malformed("more than one framing")
        if lengths:
            if not _LENGTH.fullmatch(lengths[0]):
                raise _Malformed("a length that is no number")
            return self._take(int(lengths[0]))
        if not codings:
            return b""
        if codings != [b"chunked"] or request.version != b"HTTP/1.1":
            raise _Malformed("a coding other than chunked, or chunks in HTTP/1.0")
        return self._chunks()

    def _chunks(self) -> bytes:
        body = bytearray()
        while True:
            size = self._line("a chunk's size")
            if not _SIZE.fullmatch(size):
                raise _Malformed("no chunk size")
            body += self._take(int(size, 16))
            if self._line("a chunk"):
                raise _Malformed("a trailer" if int(size, 16) == 0 else "no end of a chunk")
            if int(size, 16) == 0:
                return bytes(body)

    def _line(self, what: str) -> bytes:
        while (end := self._buffer.find(b"\r\n")) < 0:
            if len(self._buffer) > _MOST:
                raise _Malformed(f"{what} that is endless")
            if not self._more():
                raise _Malformed(f"{what} that does not end", cut=True)
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 2]
        return line

    def _take(self, size: int) -> bytes:
        while len(self._buffer) < size:
            if not self._more():
                raise _Malformed("a body that does not end", cut=True)
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken

    def _more(self) -> bool:
        try:
            data = self.connection.recv(1 << 16)
        except OSError:  # reset: nothing more comes, whatever was expected
            data = b""
        self.kept += data
        self._buffer += data
        return bool(data)
