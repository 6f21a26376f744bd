"""Requests that end in unusual ways: nothing of them stays, and their keys' end reaches them."""

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from harness import Gateway, Home, eventually
from raw import Got, Recorder, answer, connect, head, listen, say

Start = Callable[..., Gateway]
BLOCK = b"x" * (1 << 16)


class Hasty(Recorder):
    """A backend that answers before the body has come (/early), or with a response of no known end (/endless)."""

    def __init__(self) -> None:
        super().__init__(self._behave)
        self.before_body = self._hasty
        self.keeps = False

    def _hasty(self, got: Got, connection: socket.socket) -> None:
        if got.target == b"/early":
            connection.sendall(answer(b"done"))

    def _behave(self, got: Got, connection: socket.socket) -> None:
        if got.target == b"/endless":
            connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nxxxx")
            connection.recv(1)
        elif got.target != b"/early":
            connection.sendall(answer(b"ok"))


@pytest.fixture
def hasty(home: Home) -> Iterator[Hasty]:
    made = Hasty()
    home.upstream = made.url
    home.write_policy("log: {decisions: off}\ntimeouts: {idle: 20s}\n")
    yield made
    made.close()


@pytest.mark.timing
@pytest.mark.parametrize("path", ["/.well-known/jwks.json", "/.well-known/keyswap/health"])
def test_a_body_to_an_own_path_is_not_kept(start: Start, hasty: Hasty, engine: str, path: str) -> None:
    """Whoever uploads to a path that the gateway answers itself gets its answer at once, and none of it is kept."""
    gateway = start(engine).ready()
    before = gateway.memory()
    with connect(gateway.port) as caller:
        began = time.monotonic()
        caller.sendall(head("POST", path, None, "Content-Length: 200000000"))
        assert listen(caller, b"method-not-allowed").status == 405 and time.monotonic() - began < 1
        with suppress(OSError):  # it is not listened to for long
            for _ in range(3000):
                caller.sendall(BLOCK)
    assert gateway.memory() - before < 20 << 20


def test_an_upload_that_was_answered_early_ends_with_its_key(
    start: Start, home: Home, hasty: Hasty, engine: str
) -> None:
    """A backend answers before the body has come whole; when the key is revoked the upload that goes on ends."""
    key, value = home.key()
    gateway = start(engine).ready()
    with connect(gateway.port) as caller:
        caller.sendall(head("POST", "/early", value, "Content-Length: 1000000000") + BLOCK)
        assert listen(caller, b"done").status == 200
        caller.sendall(BLOCK)
        assert not hasty.settled()
        home.run("keys", "revoke", key.id)
        until = time.monotonic() + 3
        with suppress(OSError):
            while time.monotonic() < until and not hasty.settled():
                caller.sendall(b"x" * 1000)
                time.sleep(0.01)
        assert hasty.settled(), "the backend still receives"


def test_a_withdrawn_response_does_not_stay(start: Start, home: Home, hasty: Hasty, engine: str) -> None:
    """A response that more than one reading has is a 502, and its connections are gone soon, though it does not end."""
    _, value = home.key()
    gateway = start(engine).ready()
    heard = say(gateway.port, head("GET", "/endless", value))
    assert (heard.status, heard.code) == (502, "upstream-unavailable") and heard.ended and heard.seconds < 4
    eventually("the backend's connection is closed", hasty.settled, 4)
