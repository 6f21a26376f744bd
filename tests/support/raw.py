"""Sockets without a library in between: a backend that records bytes, and callers that send what they are told.

Nothing is normalized on the way: what a test sends is what the gateway receives, and what it forwards is what is kept.
"""

import re
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import h2.config
import h2.connection
import h2.events

from harness import PATIENCE_S

_REQUEST_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+) ([!-~]+) (HTTP/1\.[01])")
RESET = struct.pack("ii", 1, 0)
"""The SO_LINGER of a socket that is reset when it is closed."""
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\t -~\x80-\xff]*?)[ \t]*")


@dataclass
class Got:
    """A request as its bytes say it."""

    method: bytes
    target: bytes
    version: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes = b""

    def values(self, name: bytes) -> list[bytes]:
        return [value for known, value in self.headers if known.lower() == name.lower()]


class Odd(Exception):
    """Bytes that are no sequence of well-framed requests."""


Behaviour = Callable[[Got, socket.socket], None]
"""Answers a request; returns for the next one on the same connection."""


def answer(body: bytes = b"ok", *fields: bytes, status: bytes = b"200 OK") -> bytes:
    """A response with a length."""
    lines = [b"HTTP/1.1 " + status, b"Content-Length: %d" % len(body), *fields]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def ok(got: Got, connection: socket.socket) -> None:
    """The ordinary behaviour."""
    connection.sendall(answer(b"" if got.method == b"HEAD" else b"ok"))


class Recorder:
    """A backend that keeps every byte, and reads requests as strictly as it can."""

    def __init__(self, behave: Behaviour = ok, port: int = 0, tls: ssl.SSLContext | None = None) -> None:
        self._socket = socket.create_server(("127.0.0.1", port), backlog=256)
        if tls is not None:
            self._socket = tls.wrap_socket(self._socket, server_side=True)
        self.port: int = self._socket.getsockname()[1]
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"
        self.behave = behave
        self.before_body: Behaviour = lambda _got, _connection: None
        self.keeps = True
        self.clear()
        self._open: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def clear(self) -> None:
        """Forget what came."""
        self.received: list[bytearray] = []
        self.requests: list[Got] = []
        self.odd: list[str] = []

    def close(self) -> None:
        """Close everything."""
        for one in (self._socket, *self._open):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def settled(self) -> bool:
        """Whether no connection is open."""
        return not self._open

    @property
    def everything(self) -> bytes:
        """All bytes that came."""
        return b"\n".join(bytes(one) for one in self.received)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                self._open.add(connection)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        kept = bytearray()
        self.received.append(kept)
        reader = _Reader(connection, kept if self.keeps else bytearray())
        with suppress(OSError), connection:
            try:
                while (got := reader.head()) is not None:
                    self.before_body(got, connection)
                    got.body = reader.body(got, self.keeps)
                    self.requests.append(got)
                    self.behave(got, connection)
            except Odd as odd:
                self.odd.append(f"{odd}: {bytes(kept[:2000])!r}")
        self._open.discard(connection)


class Listener:
    """A backend of which a thread serves each connection."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def serve(self, connection: socket.socket) -> None:
        """What is said to one caller."""
        raise NotImplementedError

    def close(self) -> None:
        """Accept nobody more."""
        self._socket.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=self.serve, args=(self._socket.accept()[0],), daemon=True).start()


class _Reader:
    """Requests from a connection."""

    def __init__(self, connection: socket.socket, kept: bytearray) -> None:
        self._connection, self._kept, self._buffer = connection, kept, b""

    def _more(self) -> bool:
        data = self._connection.recv(1 << 18)
        if len(self._kept) < 1 << 22:
            self._kept += data
        self._buffer += data
        return bool(data)

    def _line(self) -> bytes:
        while b"\r\n" not in self._buffer:
            if not self._more():
                raise Odd("a line does not end")
        line, _, self._buffer = self._buffer.partition(b"\r\n")
        return line

    def head(self) -> Got | None:
        if not self._buffer and not self._more():
            return None
        while b"\r\n\r\n" not in self._buffer:
            if not self._more():
                raise Odd("a head does not end")
        first = _REQUEST_LINE.fullmatch(self._line())
        if first is None:
            raise Odd("no request line")
        fields = []
        while line := self._line():
            pair = _FIELD.fullmatch(line)
            if pair is None:
                raise Odd("no header field")
            fields.append((pair[1], pair[2]))
        return Got(first[1], first[2], first[3], fields)

    def body(self, got: Got, keeps: bool) -> bytes:
        lengths, codings = got.values(b"content-length"), got.values(b"transfer-encoding")
        if len(lengths) + len(codings) > 1 or any(coding != b"chunked" for coding in codings):
            raise Odd("more than one framing")
        if lengths:
            if not lengths[0].isdigit():
                raise Odd("a length that is no number")
            return self._take(int(lengths[0]), keeps)
        parts = []
        while codings:
            size = self._line()
            if not re.fullmatch(rb"[0-9A-Fa-f]{1,16}", size):
                raise Odd("no chunk size")
            parts.append(self._take(int(size, 16), keeps))
            if self._line():
                raise Odd("no end of a chunk, or trailers")
            if not int(size, 16):
                break
        return b"".join(parts)

    def _take(self, size: int, keeps: bool) -> bytes:
        parts = []
        while size:
            if not self._buffer and not self._more():
                raise Odd("a body does not end")
            part, self._buffer = self._buffer[:size], self._buffer[size:]
            size -= len(part)
            if keeps:
                parts.append(part)
        return b"".join(parts)


# ---- Callers


class Heard(NamedTuple):
    """What a caller heard over a connection: everything until its end, and how long it took."""

    data: bytes
    seconds: float
    ended: bool

    @property
    def status(self) -> int | None:
        found = re.match(rb"HTTP/1\.1 (\d{3}) ", self.data)
        return int(found[1]) if found else None

    def has(self, field: bytes) -> bool:
        """Whether its head has this line, however its name is spelled."""
        lines = self.data.partition(b"\r\n\r\n")[0].split(b"\r\n")
        name, _, value = field.partition(b": ")
        return any(line.partition(b": ")[::2] in ((name, value), (name.lower(), value)) for line in lines)

    @property
    def code(self) -> str | None:
        found = re.search(rb'"code": "([a-z-]+)"', self.data)
        return found[1].decode() if found else None


def connect(port: int, patience_s: float = PATIENCE_S) -> socket.socket:
    """A connection to a gateway."""
    return socket.create_connection(("127.0.0.1", port), timeout=patience_s)


def listen(connection: socket.socket, until: bytes = b"", patience_s: float = PATIENCE_S) -> Heard:
    """Read to the end of the connection, or until something was said."""
    began, data, ended = time.monotonic(), bytearray(), False
    connection.settimeout(patience_s)
    try:
        while not ended and (not until or until not in data[-65536 - len(until) :]):
            more = connection.recv(65536)
            data += more
            ended = not more
    except TimeoutError:
        pass
    except OSError:
        ended = True
    return Heard(bytes(data), time.monotonic() - began, ended)


def say(port: int, raw: bytes, patience_s: float = PATIENCE_S, until: bytes = b"") -> Heard:
    """Send bytes over a connection of their own, and listen."""
    with connect(port, patience_s) as connection:
        with suppress(OSError):
            connection.sendall(raw)
        return listen(connection, until, patience_s)


def head(method: str, target: str, key: str | None, *fields: str) -> bytes:
    """A request's head."""
    authorization = [f"Authorization: Bearer {key}"] if key else []
    return "\r\n".join([f"{method} {target} HTTP/1.1", "Host: h", *authorization, *fields, "", ""]).encode()


@contextmanager
def tls(port: int, certificate: Path, *protocols: str) -> Iterator[ssl.SSLSocket]:
    """A verified TLS connection that offers these protocols."""
    context = ssl.create_default_context(cafile=str(certificate))
    if protocols:
        context.set_alpn_protocols(list(protocols))
    with connect(port) as plain, context.wrap_socket(plain, server_hostname="127.0.0.1") as connection:
        yield connection


@dataclass
class Stream:
    """One HTTP/2 stream as its caller saw it."""

    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    ended: bool = False
    """By END_STREAM."""
    reset: int | None = None
    """The error code of a RST_STREAM."""

    @property
    def status(self) -> int:
        return int(self.headers.get(":status", 0))


class Http2:
    """A caller over HTTP/2, a good citizen by way of the h2 library."""

    def __init__(self, connection: ssl.SSLSocket) -> None:
        self.connection = connection
        self.streams: dict[int, Stream] = {}
        self.goaway: int | None = None
        self.authority = "h"
        self.closed = False
        self._came = b""
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        self.h2.initiate_connection()
        self.flush()

    def flush(self) -> None:
        """Send what is to be sent."""
        self.connection.sendall(self.h2.data_to_send())

    def ask(self, method: str, path: str, key: str | None, *fields: tuple[str, str], ends: bool = True) -> Stream:
        """Begin a request."""
        stream_id = self.h2.get_next_available_stream_id()
        head = [(":method", method), (":path", path), (":scheme", "https"), (":authority", self.authority)]
        authorization = [("authorization", f"Bearer {key}")] if key else []
        self.h2.send_headers(stream_id, [*head, *authorization, *fields], end_stream=ends)
        self.flush()
        self.streams[stream_id] = stream = Stream()
        return stream

    def until(self, what: Callable[[], bool], patience_s: float = PATIENCE_S) -> float:
        """Read until this is so, or the connection ends; the seconds that it took."""
        began = time.monotonic()
        while not what() and not self.closed:
            left = patience_s - (time.monotonic() - began)
            assert left > 0, f"not in {patience_s:g} s"
            self.connection.settimeout(left)
            try:
                data = self.connection.recv(65536)
            except TimeoutError:
                continue
            self.closed = not data
            for event in self.h2.receive_data(self._without_goaway(data)):
                self._take(event)
            self.flush()
        return time.monotonic() - began

    def _without_goaway(self, data: bytes) -> bytes:
        """Whole frames, but GOAWAY: after it h2 would take no more of the streams that go on (RFC 9113 §6.8)."""
        self._came += data
        whole = b""
        while len(self._came) >= 9 and len(self._came) >= (size := 9 + int.from_bytes(self._came[:3])):
            frame, self._came = self._came[:size], self._came[size:]
            if frame[3] == 7:
                self.goaway = int.from_bytes(frame[13:17])
            else:
                whole += frame
        return whole

    def _take(self, event: h2.events.Event) -> None:
        stream = self.streams.get(getattr(event, "stream_id", None) or 0)
        if stream is None:
            return
        if isinstance(event, h2.events.ResponseReceived):
            stream.headers = {str(name): str(value) for name, value in event.headers or []}
        elif isinstance(event, h2.events.DataReceived):
            stream.body += event.data or b""
            self.h2.acknowledge_received_data(event.flow_controlled_length or 0, event.stream_id or 0)
        elif isinstance(event, h2.events.StreamEnded):
            stream.ended = True
        elif isinstance(event, h2.events.StreamReset):
            stream.reset = int(event.error_code or 0)
