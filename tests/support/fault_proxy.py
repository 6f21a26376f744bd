"""A proxy in front of a server that does to its answers what a network and a busy server do.

Of each request one fault is taken: the next of `script` while there is one, else `fault`. It speaks HTTP/1.1 with
requests of a declared length and answers likewise.
"""

import socket
import threading
import time
from contextlib import suppress
from typing import BinaryIO

from raw import RESET

FAULTS = (
    "none",
    "slow",
    "429",
    "429 without",
    "500",
    "503",
    "reset",
    "hang",
    "html",
    "garbage",
    "half",
    "endless",
    "redirect",
)

_HTML = b"<html><body>We will be back shortly.</body></html>"
_CANNED = {
    "429": (b"429 Too Many Requests", b'{"message": "slow down"}', b"retry-after: %d"),
    "429 without": (b"429 Too Many Requests", b'{"message": "slow down"}', b""),
    "500": (b"500 Internal Server Error", b'{"message": "oh"}', b""),
    "503": (b"503 Service Unavailable", _HTML, b"retry-after: %d"),
    "html": (b"200 OK", _HTML, b"content-type: text/html"),
    "garbage": (b"200 OK", b"\x00\xff\xfe{[", b""),
    "redirect": (b"302 Found", b"", b"location: http://127.0.0.1:9/"),
    "empty": (b"200 OK", b"{}", b""),
}


class FaultProxy:
    """The proxy, on a port of its own."""

    def __init__(self, upstream_port: int, port: int = 0) -> None:
        self.fault = "none"
        self.script: list[str] = []
        self.slow_s = 0.2
        self.retry_after_s = 1
        self.requests = 0
        self._upstream_port = upstream_port
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", port), backlog=256)
        self.port = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """End it."""
        self._over.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                caller, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(caller,), daemon=True).start()

    def _serve(self, caller: socket.socket) -> None:
        with caller, suppress(OSError, ValueError):
            caller.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with caller.makefile("rb") as reader:
                while message := _message(reader):
                    with self._lock:
                        self.requests += 1
                        fault = self.script.pop(0) if self.script else self.fault
                    if not self._answered(caller, message, fault):
                        return

    def _answered(self, caller: socket.socket, message: bytes, fault: str) -> bool:
        """Answer a request; whether the connection goes on."""
        if fault == "reset":
            caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            return False
        if fault == "hang":
            self._over.wait(30)
            return False
        if fault == "endless":
            caller.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 99999999\r\n\r\n")
            while not self._over.is_set():
                caller.sendall(b" " * 65536)
        if fault in _CANNED:
            status, body, more = _CANNED[fault]
            field = (more % self.retry_after_s if b"%d" in more else more) + b"\r\n" if more else b""
            caller.sendall(b"HTTP/1.1 %s\r\ncontent-length: %d\r\n%s\r\n%s" % (status, len(body), field, body))
            return True
        if fault == "slow":
            time.sleep(self.slow_s)
        answer = self._forwarded(message)
        caller.sendall(answer[: len(answer) // 2] if fault == "half" else answer)
        return fault != "half"

    def _forwarded(self, message: bytes) -> bytes:
        with socket.create_connection(("127.0.0.1", self._upstream_port), 30) as upstream:
            upstream.sendall(message)
            with upstream.makefile("rb") as reader:
                return _message(reader)


def _message(reader: BinaryIO) -> bytes:
    """A request or an answer, whole; empty at the end."""
    head, length = b"", 0
    while True:
        line = reader.readline()
        head += line
        if line in {b"", b"\r\n"}:
            break
        if line.lower().startswith(b"content-length:"):
            length = int(line.split(b":")[1])
    return head + reader.read(length) if line else b""
