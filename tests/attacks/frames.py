"""HTTP/2 on the wire, by hand: whatever is written here is sent as it is; nothing is checked on the way out.

Frames are bytes (RFC 9113 §4.1), header blocks are literals without Huffman coding (RFC 7541 §6.2.2), so that a
placeholder in a frame can be replaced by another text of the same length.
"""

import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple

from hpack import Decoder

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, ACK, END_HEADERS, PADDED, WITH_PRIORITY = 0x1, 0x1, 0x4, 0x8, 0x20
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
MARK = b"settled?"
"""The payload of the PING whose answer says that everything before it has been read."""
PATIENCE_S = 3.0

Field = tuple[bytes, bytes]


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """A frame; `stream` may have its reserved bit set."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def integer(value: int, bits: int, pattern: int = 0) -> bytes:
    """An integer with a prefix of so many bits (RFC 7541 §5.1)."""
    limit = (1 << bits) - 1
    if value < limit:
        return bytes([pattern | value])
    made, value = bytearray([pattern | limit]), value - limit
    while value >= 128:
        made.append(value % 128 + 128)
        value //= 128
    return bytes([*made, value])


def text(value: bytes) -> bytes:
    """A string literal, not Huffman coded (RFC 7541 §5.2)."""
    return integer(len(value), 7) + value


def block(fields: Iterable[Field], pattern: int = 0x00) -> bytes:
    """A header block of literals with new names; pattern 0x40 puts each into the dynamic table."""
    return b"".join(bytes([pattern]) + text(name) + text(value) for name, value in fields)


def headers(stream: int, fields: Iterable[Field], *, end: bool = True, flags: int = END_HEADERS) -> bytes:
    """HEADERS with a whole header block."""
    return frame(HEADERS, flags | (END_STREAM if end else 0), stream, block(fields))


def data(stream: int, payload: bytes, *, end: bool = True) -> bytes:
    """DATA, by default the last of its stream."""
    return frame(DATA, END_STREAM if end else 0, stream, payload)


def reset(stream: int, code: int = 8) -> bytes:
    """RST_STREAM, by default CANCEL."""
    return frame(RST_STREAM, 0, stream, struct.pack(">I", code))


def settings(*pairs: tuple[int, int]) -> bytes:
    """SETTINGS of (identifier, value) pairs."""
    return frame(SETTINGS, 0, 0, b"".join(struct.pack(">HI", *pair) for pair in pairs))


def window(stream: int, size: int) -> bytes:
    """WINDOW_UPDATE."""
    return frame(WINDOW_UPDATE, 0, stream, struct.pack(">I", size))


class Frame(NamedTuple):
    """A frame as it was received."""

    kind: int
    flags: int
    stream: int
    payload: bytes


@dataclass
class Answer:
    """What came back on one stream."""

    headers: list[Field] = field(default_factory=list)
    body: bytes = b""
    ended: bool = False
    reset: int | None = None

    @property
    def status(self) -> str | None:
        found = [value.decode() for name, value in self.headers if name == b":status"]
        return found[-1] if found and found[-1] >= "200" else None

    @property
    def over(self) -> bool:
        return self.ended or self.reset is not None


class Wire:
    """A caller's connection. It answers nothing by itself, and says nothing but what it is told."""

    def __init__(self, port: int, tls: ssl.SSLContext | None, swaps: Iterable[tuple[bytes, bytes]] = ()) -> None:
        plain = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = tls.wrap_socket(plain, server_hostname="localhost") if tls else plain
        self._swaps, self._buffer = tuple(swaps), b""
        self._decoder = Decoder()
        self.answers: dict[int, Answer] = {}
        self.frames: list[Frame] = []
        self.raw = b""
        self.goaway: bytes | None = None
        self.closed = False

    def __enter__(self) -> "Wire":
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self, *frames: bytes) -> "Wire":
        """Send bytes, placeholders replaced; what a closed connection no longer takes is dropped."""
        wire = b"".join(frames)
        for placeholder, value in self._swaps:
            wire = wire.replace(placeholder, value)
        with suppress(OSError):  # what the other side said before it hung up can still be read, unless it was reset
            self._socket.sendall(wire)
        return self

    def begin(self, *pairs: tuple[int, int]) -> "Wire":
        """Preface and settings, and an acknowledgement of those that the other side sends first."""
        return self.send(PREFACE, settings(*pairs), frame(SETTINGS, ACK, 0))

    def answer(self, stream: int) -> Answer:
        """What came back on a stream so far."""
        return self.answers.setdefault(stream, Answer())

    def settle(self, *streams: int, patience_s: float = PATIENCE_S) -> "Wire":
        """Read until all these streams are over, or the connection is."""
        return self.until(lambda: all(self.answer(stream).over for stream in streams), patience_s)

    def pinged(self, patience_s: float = PATIENCE_S) -> "Wire":
        """Read until everything sent so far has been read on the other side."""
        self.send(frame(PING, 0, 0, MARK))
        return self.until(lambda: any(seen.kind == PING and seen.payload == MARK for seen in self.frames), patience_s)

    def until(self, done: Callable[[], bool], patience_s: float = PATIENCE_S) -> "Wire":
        """Read until `done`, the end of the connection, or the end of patience."""
        deadline = time.monotonic() + patience_s
        while not done() and not self.closed and (left := deadline - time.monotonic()) > 0:
            self._read(left)
        return self

    def outcome(self, stream: int) -> str:
        """How a stream went: its status, or `reset`, `goaway`, `closed`, `nothing`."""
        answer = self.answer(stream)
        if answer.status is not None:
            return answer.status
        if answer.reset is not None:
            return "reset"
        return "goaway" if self.goaway is not None else "closed" if self.closed else "nothing"

    @property
    def told(self) -> bytes:
        """Everything that the other side said, header blocks decoded."""
        said = [b"%s: %s\n" % pair for answer in self.answers.values() for pair in answer.headers]
        return self.raw + b"\n".join([*said, *(answer.body for answer in self.answers.values())])

    def _read(self, patience_s: float) -> None:
        self._socket.settimeout(patience_s)
        try:
            got = self._socket.recv(1 << 16)
        except TimeoutError:
            return
        except OSError:
            got = b""
        self.closed = not got
        self.raw += got
        self._buffer += got
        while len(self._buffer) >= 9 and len(self._buffer) >= 9 + (size := int.from_bytes(self._buffer[:3])):
            kind, flags, stream = struct.unpack(">BBI", self._buffer[3:9])
            self._take(Frame(kind, flags, stream & 0x7FFFFFFF, self._buffer[9 : 9 + size]))
            self._buffer = self._buffer[9 + size :]

    def _take(self, seen: Frame) -> None:
        self.frames.append(seen)
        if seen.kind == GOAWAY:
            self.goaway = seen.payload
        elif seen.kind == RST_STREAM:
            self.answer(seen.stream).reset = int.from_bytes(seen.payload)
        elif seen.kind == HEADERS:
            decoded = self._decoder.decode(seen.payload, raw=True)  # what a gateway sends has no padding nor priority
            self.answer(seen.stream).headers += [(bytes(name), bytes(value)) for name, value in decoded]
        elif seen.kind == DATA:
            self.answer(seen.stream).body += seen.payload
        if seen.kind in {HEADERS, DATA} and seen.flags & END_STREAM:
            self.answer(seen.stream).ended = True
