"""How WebSockets end: what is lost at one end is no normal end at the other, and the gateway says why it ends one."""

import signal
import socket
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from hashlib import sha1

import pytest

from harness import Gateway, Home, eventually
from raw import RESET, Got, Recorder, connect, head, listen

HANDSHAKE = (
    *("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"),
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)
ACCEPT = b64encode(sha1(b"dGhlIHNhbXBsZSBub25jZQ==258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
NOTHING = b""


def code_of(frames: bytes) -> int | None:
    """The code of a Close frame, masked or not; None: there is none."""
    if not frames:
        return None
    assert frames[0] == 0x88, frames
    mask, payload = (frames[2:6], frames[6:]) if frames[1] & 0x80 else (bytes(4), frames[2:])
    return int.from_bytes(bytes(byte ^ mask[at] for at, byte in enumerate(payload[:2])))


class Sockets(Recorder):
    """A backend of WebSockets that ends them as their path says, and keeps what each of its callers said."""

    def __init__(self) -> None:
        super().__init__(self._socket_of)
        self.go_on = threading.Event()
        self.heard: dict[bytes, bytes] = {}

    def _socket_of(self, got: Got, to: socket.socket) -> None:
        to.sendall(SWITCHED + ACCEPT + b"\r\n\r\n")
        if got.target.startswith(b"/lost"):
            self.go_on.wait()
            if got.target == b"/lost/reset":
                to.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            return to.close()
        said = bytearray()
        while more := to.recv(1 << 16):
            said += more
        self.heard[got.target] = bytes(said)
        return None


@pytest.fixture
def sockets(home: Home) -> Iterator[Sockets]:
    made = Sockets()
    home.upstream = made.url
    home.write_policy()
    yield made
    made.close()


def opened(port: int, target: str, key: str) -> socket.socket:
    connection = connect(port)
    connection.sendall(head("GET", target, key, *HANDSHAKE))
    assert listen(connection, b"\r\n\r\n").status == 101
    return connection


def test_no_end_but_a_normal_one_is_normal(
    start: Callable[..., Gateway], home: Home, sockets: Sockets, engine: str
) -> None:
    """Who is lost, by an end or a reset, is lost to the other side too: no Close frame, which is 1006 there. A revoked key
    is 1008 and a gateway that stops 1001, at both ends (RFC 6455 §7.4.1)."""
    key, other = home.key()[1], home.key()
    gateway = start(engine).ready()

    def heard(target: bytes) -> int | None:
        eventually("the backend has heard its end", lambda: target in sockets.heard)
        return code_of(sockets.heard[target])

    for target in ("/lost/end", "/lost/reset"):
        sockets.go_on.clear()
        with opened(gateway.port, target, key) as caller:
            sockets.go_on.set()
            told = listen(caller)
            assert told.ended and code_of(told.data) is None
    for target in ("/left/end", "/left/reset"):
        with opened(gateway.port, target, key) as caller:
            if target == "/left/reset":
                caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        assert heard(target.encode()) is None
    with opened(gateway.port, "/revoked", other[1]) as caller, home.ledger() as ledger:
        ledger.revoke(other[0].id, None, time.time())
        assert code_of(listen(caller).data) == 1008 == heard(b"/revoked")
    with opened(gateway.port, "/stopped", key) as caller:
        gateway.process.send_signal(signal.SIGTERM)
        assert code_of(listen(caller).data) == 1001 == heard(b"/stopped")
