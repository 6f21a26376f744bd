"""Floods: what a caller without manners sends, run as a process of its own so that it slows nobody who measures.

    python tests/support/flooding.py NAME PORT --seconds 5 [--key KEY] [--certificate FILE]

Each flood goes on until its time is over, over as many connections as it needs; one that is closed is opened anew.
It prints as JSON what it has sent, and how often a connection of it was closed.
"""

import argparse
import json
import os
import selectors
import socket
import ssl
import struct
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from raw import head
from tests.attacks.frames import (
    CONTINUATION,
    HEADERS,
    PING,
    PREFACE,
    SETTINGS,
    block,
    data,
    frame,
    headers,
    settings,
    window,
)

MIB = 1 << 20
MASK = 0x80


@dataclass
class Target:
    """The gateway that is flooded."""

    port: int
    key: str | None
    certificate: str | None
    seconds: float
    sent: int = 0
    closed: int = 0
    answered: dict[str, int] = field(default_factory=dict)
    began: float = field(default_factory=time.monotonic)

    @property
    def goes_on(self) -> bool:
        """Whether its time is not over."""
        return time.monotonic() - self.began < self.seconds

    def open(self, tls: bool = False, alpn: str = "h2") -> socket.socket:
        """A connection; with TLS once it stands."""
        made = socket.create_connection(("127.0.0.1", self.port), timeout=20)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if not tls:
            return made
        context = ssl.create_default_context(cafile=self.certificate)
        context.check_hostname = False
        context.set_alpn_protocols([alpn])
        return context.wrap_socket(made)

    def heard(self, said: bytes) -> None:
        """Note the status of an HTTP/1 answer."""
        if said.startswith(b"HTTP/1.1 "):
            status = said[9:12].decode()
            self.answered[status] = self.answered.get(status, 0) + 1


Script = Callable[[], Iterator[bytes]]
"""What one connection sends, piece by piece, each of them as soon as it is taken."""


def drive(target: Target, count: int, begin: Callable[[], socket.socket], script: Script, rate_s: float = 0.0) -> None:
    """Keep so many connections, each of which sends its script and reads what comes; `rate_s` between two pieces."""
    with selectors.DefaultSelector() as selector:
        for _ in range(count):
            _add(target, selector, begin, script)
        while target.goes_on:
            now = time.monotonic()
            for key, mask in selector.select(0.05):
                one: Sender = key.data
                alive = one.write(target, now, rate_s) if mask & selectors.EVENT_WRITE else True
                alive = alive and (one.read(target) if mask & selectors.EVENT_READ else True)
                if not alive:
                    target.closed += 1
                    selector.unregister(one.socket)
                    one.socket.close()
                    _add(target, selector, begin, script)
                elif one.over or (rate_s and one.next > now):
                    selector.modify(one.socket, selectors.EVENT_READ, one)
            if rate_s:
                for key in list(selector.get_map().values()):
                    if not key.data.over and key.data.next <= now and not key.events & selectors.EVENT_WRITE:
                        selector.modify(key.fileobj, selectors.EVENT_READ | selectors.EVENT_WRITE, key.data)
        for key in list(selector.get_map().values()):
            key.data.socket.close()


def _add(target: Target, selector: selectors.BaseSelector, begin: Callable[[], socket.socket], script: Script) -> None:
    while target.goes_on:
        with suppress(OSError):
            made = begin()
            made.setblocking(False)
            selector.register(made, selectors.EVENT_READ | selectors.EVENT_WRITE, Sender(made, script()))
            return
        time.sleep(0.02)


class Sender:
    """One connection of a flood."""

    def __init__(self, made: socket.socket, pieces: Iterator[bytes]) -> None:
        self.socket, self.pieces, self.left = made, pieces, memoryview(b"")
        self.over, self.next = False, 0.0

    def write(self, target: Target, now: float, rate_s: float) -> bool:
        """Send more; False when the connection has ended."""
        if not self.left:
            piece = next(self.pieces, None)
            if piece is None:
                self.over = True
                return True
            self.left, self.next = memoryview(piece), now + rate_s
        try:
            count = self.socket.send(self.left)
        except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
            return True
        except OSError:
            return False
        self.left = self.left[count:]
        target.sent += count
        return True

    def read(self, target: Target) -> bool:
        """Read what has come; False when the connection has ended."""
        try:
            said = self.socket.recv(1 << 16)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return True
        except OSError:
            return False
        target.heard(said)
        return bool(said)


def endless(piece: bytes, first: bytes = b"") -> Script:
    """A beginning, and then the same for ever."""

    def script() -> Iterator[bytes]:
        if first:
            yield first
        while True:
            yield piece

    return script


def once(*pieces: bytes) -> Script:
    """These pieces, and then nothing."""
    return lambda: iter(pieces)


# ---- What precedes TLS


def records(size: int, count: int, first: bytes = b"") -> bytes:
    """Handshake records of so many bytes each."""
    one = b"\x16\x03\x01" + struct.pack(">H", size) + b"\0" * size
    return first + one * count


HELLO = b"\x16\x03\x01\0\x04\x01\xff\xff\xff"
"""The beginning of a ClientHello of 16 MiB, in a record of its own."""


def small_records(target: Target) -> None:
    """A ClientHello of 16 MiB in records of one byte, over four connections."""
    drive(target, 4, target.open, endless(records(1, 2000), HELLO))


def whole_records(target: Target) -> None:
    """The same in records of 16 KiB, over 16 connections."""
    drive(target, 16, target.open, endless(records(16384, 8), HELLO), rate_s=0.05)


def slow_hello(target: Target) -> None:
    """A ClientHello that comes byte by byte, over 500 connections."""

    def script() -> Iterator[bytes]:
        for byte in records(16384, 4, HELLO):
            yield bytes([byte])

    drive(target, 500, target.open, script, rate_s=0.1)


def no_tls(target: Target) -> None:
    """Bytes that are no TLS, where TLS is spoken: HTTP, a PROXY line, an SSH greeting, zeros."""
    begin = iter(range(1 << 30))
    kinds = (
        head("GET", "/", None),
        b"PROXY TCP4 1.2.3.4 1.2.3.4 1 1\r\n" * 2000,
        b"SSH-2.0-x\r\n" * 6000,
        b"\0" * 65536,
    )
    drive(target, 50, target.open, lambda: iter([kinds[next(begin) % 4]]))


# ---- Bodies that are held


def held_http2(target: Target) -> None:
    """Bodies to be judged, of 0.8 MB, on 100 streams of each of three connections: all but their end."""
    fields = [(b":method", b"POST"), (b":scheme", b"https"), (b":authority", b"h"), (b":path", b"/judged")]
    fields += [(b"content-type", b"application/json")]

    def script() -> Iterator[bytes]:
        yield PREFACE + settings() + window(0, 0x7FFF0000)
        for stream in range(1, 201, 2):
            yield headers(stream, fields, end=False)
        for _ in range(50):
            for stream in range(1, 201, 2):
                yield data(stream, b"[" + b" " * 16383, end=False)
        while True:
            time.sleep(0.001)
            yield data(1, b" ", end=False)

    drive(target, 3, lambda: target.open(tls=True), script)


def held_judged(target: Target) -> None:
    """Bodies to be judged, of a megabyte, all but their last byte, over 200 connections of HTTP/1."""
    begin = head("POST", "/judged", None, "Content-Type: application/json", f"Content-Length: {MIB}")
    drive(target, 200, target.open, once(begin, b"[" + b" " * (MIB - 2)))


def held_chunked(target: Target) -> None:
    """The same with no length."""
    begin = head("POST", "/judged", None, "Content-Type: application/json", "Transfer-Encoding: chunked")
    drive(target, 200, target.open, once(begin, *[b"%x\r\n%s\r\n" % (16384, b" " * 16384)] * 62))


def held_small(path: str, method: str = "POST") -> Callable[[Target], None]:
    """Declared small bodies, all but their last byte, over 600 connections."""

    def run(target: Target) -> None:
        begin = head(method, path, None, "Content-Length: 65536")
        drive(target, 600, target.open, once(begin + b"x" * 65535))

    return run


def held_admitted(target: Target) -> None:
    """The same with a key."""
    begin = head("POST", "/any", target.key, "Content-Length: 65536")
    drive(target, 600, target.open, once(begin + b"x" * 65535))


def heads(target: Target) -> None:
    """Heads of 60 KiB that do not end, over 600 connections."""
    begin = b"GET / HTTP/1.1\r\nHost: h\r\n" + b"".join(b"X-%d: %s\r\n" % (n, b"x" * 1000) for n in range(60))
    drive(target, 600, target.open, once(begin))


def pipelines(target: Target) -> None:
    """A request whose backend does not answer, and the same 600 times behind it, over 400 connections."""
    one = head("GET", "/never", target.key)
    drive(target, 400, target.open, once(one + head("GET", "/", target.key) * 600))


def header_blocks(target: Target) -> None:
    """Header blocks of 100 KiB that do not end, over 400 connections of HTTP/2."""
    begin = PREFACE + settings() + frame(HEADERS, 0, 1, block([(b"x", b"y" * 16000)]))
    more = frame(CONTINUATION, 0, 1, block([(b"x", b"y" * 16000)]))
    drive(target, 400, lambda: target.open(tls=True), once(begin + more * 5))


def slow_readers(target: Target) -> None:
    """Answers of a megabyte that nobody reads, over 1,000 connections."""
    with selectors.DefaultSelector():
        opened: list[socket.socket] = []
        while target.goes_on:
            if len(opened) < 1000:
                made = socket.socket()
                made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                made.connect(("127.0.0.1", target.port))
                made.sendall(head("GET", "/large", target.key))
                opened.append(made)
            else:
                time.sleep(0.05)


def sockets_unfinished(target: Target) -> None:
    """Messages of 4 MiB, all but their last frame, over 100 WebSockets."""
    begin = handshake(target)
    piece = websocket(b"x" * 65536, opcode=0, fin=False)
    drive(target, 100, target.open, once(begin, websocket(b"x", opcode=2, fin=False), *[piece] * 60))


# ---- Small pieces


def small_chunks(target: Target) -> None:
    """An upload in chunks of one byte, over four connections."""
    begin = head("POST", "/any", target.key, "Transfer-Encoding: chunked")
    drive(target, 4, target.open, endless(b"1\r\nx\r\n" * 10_000, begin))


def small_chunks_refused(target: Target) -> None:
    """The same without a key."""
    begin = head("POST", "/any", None, "Transfer-Encoding: chunked")
    drive(target, 4, target.open, endless(b"1\r\nx\r\n" * 10_000, begin))


def small_frames(target: Target) -> None:
    """DATA frames of 64 bytes over four connections of HTTP/2."""
    credential = [(b"authorization", b"Bearer " + (target.key or "").encode())]
    fields = [(b":method", b"POST"), (b":scheme", b"https"), (b":authority", b"h"), (b":path", b"/any"), *credential]
    begin = PREFACE + settings() + headers(1, fields, end=False)
    drive(target, 4, lambda: target.open(tls=True), endless(data(1, b"x" * 64, end=False) * 500, begin))


def small_messages(target: Target) -> None:
    """WebSocket messages of one byte, over eight sockets."""
    drive(target, 8, target.open, endless(websocket(b"x") * 5000, handshake(target)))


def pings_of_sockets(target: Target) -> None:
    """WebSocket pings, over eight sockets."""
    drive(target, 8, target.open, endless(websocket(b"", opcode=9) * 5000, handshake(target)))


def ahead_of_sockets(target: Target) -> None:
    """WebSocket pings and messages of one byte that come with the handshake, over eight connections."""
    begin = iter(range(1 << 30))
    many = (websocket(b"", opcode=9) * 10_000, websocket(b"x") * 10_000)
    drive(target, 8, target.open, lambda: iter([handshake(target) + many[next(begin) % 2]]))


def pipelined(target: Target) -> None:
    """Requests without a key one behind the other, over four connections."""
    drive(target, 4, target.open, endless(head("GET", "/", None) * 1500))


def pipelined_own(target: Target) -> None:
    """Requests for a document of the gateway's own, one behind the other, over four connections."""
    drive(target, 4, target.open, endless(head("GET", "/.well-known/jwks.json", None) * 1000))


def many_streams(target: Target) -> None:
    """Requests without a key over HTTP/2, as many as a segment takes, over four connections."""
    fields = [(b":method", b"GET"), (b":scheme", b"https"), (b":authority", b"h"), (b":path", b"/")]

    def script() -> Iterator[bytes]:
        yield PREFACE + settings()
        for begin in range(1, 1 << 30, 200):
            yield b"".join(headers(stream, fields) for stream in range(begin, begin + 200, 2))

    drive(target, 4, lambda: target.open(tls=True), script)


def frames_of_no_use(target: Target) -> None:
    """PING, SETTINGS, WINDOW_UPDATE and empty CONTINUATION, over four connections."""
    begin = iter(range(1 << 30))
    kinds = (frame(PING, 0, 0, b"x" * 8), frame(SETTINGS, 0, 0), window(0, 1), frame(CONTINUATION, 0, 1))

    def script() -> Iterator[bytes]:
        number = next(begin) % 4
        yield PREFACE + settings() + (frame(HEADERS, 0, 1, block([(b"x", b"y")])) if number == 3 else b"")
        while True:
            yield kinds[number] * 3000

    drive(target, 4, lambda: target.open(tls=True), script)


def idle(target: Target) -> None:
    """3,000 connections, each of which has asked once."""
    drive(target, 3000, target.open, once(head("GET", "/.well-known/keyswap/health", None)))


def streams(target: Target) -> None:
    """2,000 answers that go on."""
    drive(target, 2000, target.open, once(head("GET", "/events", target.key)))


# ---- WebSockets


def handshake(target: Target) -> bytes:
    """A WebSocket's."""
    fields = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13")
    return head("GET", "/socket", target.key, *fields, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")


def websocket(payload: bytes, opcode: int = 2, fin: bool = True) -> bytes:
    """A masked frame (RFC 6455 §5.2); its mask is zero."""
    begin, size = bytes([(0x80 if fin else 0) | opcode]), len(payload)
    if size < 126:
        return begin + bytes([MASK | size]) + bytes(4) + payload
    if size < 65536:
        return begin + bytes([MASK | 126]) + struct.pack(">H", size) + bytes(4) + payload
    return begin + bytes([MASK | 127]) + struct.pack(">Q", size) + bytes(4) + payload


FLOODS: dict[str, Callable[[Target], None]] = {
    "small-records": small_records,
    "whole-records": whole_records,
    "slow-hello": slow_hello,
    "no-tls": no_tls,
    "held-http2": held_http2,
    "held-judged": held_judged,
    "held-chunked": held_chunked,
    "held-refused": held_small("/any"),
    "held-own": held_small("/.well-known/jwks.json"),
    "held-admitted": held_admitted,
    "heads": heads,
    "pipelines": pipelines,
    "header-blocks": header_blocks,
    "slow-readers": slow_readers,
    "sockets-unfinished": sockets_unfinished,
    "small-chunks": small_chunks,
    "small-chunks-refused": small_chunks_refused,
    "small-frames": small_frames,
    "small-messages": small_messages,
    "pings-of-sockets": pings_of_sockets,
    "ahead-of-sockets": ahead_of_sockets,
    "pipelined": pipelined,
    "pipelined-own": pipelined_own,
    "many-streams": many_streams,
    "frames-of-no-use": frames_of_no_use,
    "idle": idle,
    "streams": streams,
}


def main() -> None:
    """Run one, and say what it has done."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=FLOODS)
    parser.add_argument("port", type=int)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--certificate")
    told = parser.parse_args()
    target = Target(told.port, os.environ.get("KEY"), told.certificate, told.seconds)
    FLOODS[told.name](target)
    print(json.dumps({"sent": target.sent, "closed": target.closed, "answered": target.answered}))


if __name__ == "__main__":
    main()
