"""Bodies that are not whole share a budget: who holds too much loses the youngest, nobody else notices."""

import socket
import threading
import time
from base64 import b64encode
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from hashlib import sha1
from pathlib import Path

import pytest

from flooding import websocket
from harness import PATIENCE_S, Gateway, Home, eventually
from keyswap.shell.connections.memory_budget import PER_CALLER, UNBEGUN, UNSEEN
from keyswap.shell.mitm.held_bytes import STREAM
from raw import Got, Heard, Http2, Recorder, connect, head, listen, ok, tls

MIB = 1 << 20
HEADS = 180
"""Connections with 50 KB of a head that does not end: 9 MB, of which `UNBEGUN` may stay and `UNSEEN` may be unnoticed."""
DOCUMENT = """
openapi: 3.1.0
info: {title: Judged, version: '1'}
paths:
  /judged:
    post:
      security: []
      requestBody: {content: {application/json: {schema: {type: array}}}}
      responses: {}
"""
POLICY = """openapi: {spec: document.yaml, undocumented: authenticated, validate: {requests: enforce}}
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, recorder: Recorder) -> Home:
    home = Home(tmp_path_factory.mktemp("held"), recorder.url)
    (home.folder / "document.yaml").write_text(DOCUMENT)
    home.write_policy(POLICY)
    return home


def ask(gateway: Gateway) -> int | None:
    """The status of a small body that is judged."""
    with connect(gateway.port) as connection:
        connection.sendall(head("POST", "/judged", None, "Content-Type: application/json", "Content-Length: 2") + b"[]")
        return listen(connection, b"ok").status


def settle(callers: list[socket.socket], most: int) -> list[Heard]:
    """What each has heard, when no more than so many wait for the rest of their bodies."""
    assert most < len(callers)
    found: dict[int, Heard] = {}

    def enough() -> bool:
        for number, caller in enumerate(callers):
            if number not in found:
                heard = listen(caller, b"}", 0.005)
                if heard.data:
                    found[number] = heard
        return len(callers) - len(found) <= most

    eventually("the youngest have their answers", enough)
    return [found.get(number, Heard(b"", 0.0, False)) for number in range(len(callers))]


def read_once(caller: Http2) -> None:
    """Take what has come, or comes soon."""
    turns = iter([False])
    caller.until(lambda: next(turns, True))


@pytest.mark.parametrize("framing", ["Content-Length: 1000000", "Transfer-Encoding: chunked"])
def test_the_youngest_bodies_are_refused(gateway: Gateway, framing: str) -> None:
    """Of 40 MB to be judged, all but their ends, the youngest get 503; the oldest are answered when they are whole."""
    size = 1_000_000 - 1
    chunked = framing.startswith("Transfer")
    before = gateway.memory()
    with ExitStack() as opened:
        callers = [opened.enter_context(connect(gateway.port)) for _ in range(40)]
        for caller in callers:
            caller.sendall(head("POST", "/judged", None, "Content-Type: application/json", framing))
            body = b"[" + b" " * (size - 1)
            caller.sendall(b"%x\r\n%s\r\n" % (size, body) if chunked else body)
        heard = settle(callers, (PER_CALLER + UNSEEN) // size)
        assert {(one.status, one.code) for one in heard if one.data} == {(503, "gateway-unavailable")}
        waiting = [number for number, one in enumerate(heard) if not one.data]
        assert waiting[:6] == [0, 1, 2, 3, 4, 5], "the oldest stay"
        for number in waiting:
            callers[number].sendall(b"1\r\n]\r\n0\r\n\r\n" if chunked else b"]")
        told = [listen(callers[number], b"ok").status for number in waiting]
        within = PER_CALLER // (size + STREAM)  # those behind may end yet, when all that was sent has been read
        assert set(told[:within]) == {200} and set(told[within:]) <= {200, 503}
    assert gateway.memory() - before < 64 * MIB and ask(gateway) == 200


def test_who_is_refused_anyway_has_its_answer(gateway: Gateway, home: Home) -> None:
    """Small bodies of requests without a key are not held for long: beyond the budget each has its 401 at once."""
    with ExitStack() as opened:
        callers = [opened.enter_context(connect(gateway.port)) for _ in range(400)]
        for caller in callers:
            caller.sendall(head("POST", "/any", None, "Content-Length: 65536") + b"x" * 65535)
        heard = settle(callers, 250)
        assert {(one.status, one.code) for one in heard if one.data} == {(401, "missing-credential")}
    assert ask(gateway) == 200


@pytest.mark.parametrize("proxy", ["127.0.0.1", "192.0.2.1"])
def test_heads_that_do_not_end_have_a_budget(
    proxy: str, start: Callable[..., Gateway], tmp_path: Path, recorder: Recorder
) -> None:
    """Of 9 MB of one address the youngest get 503; behind a proxy are many callers, whose heads each count alone."""
    home = Home(tmp_path, recorder.url)
    home.write_policy(f"max_head: 64KiB\ntrusted_proxies: [{proxy}]\n")
    gateway = start("serve", home=home).ready()
    begin = b"GET / HTTP/1.1\r\n" + b"".join(b"X-%d: %s\r\n" % (number, b"x" * 1000) for number in range(50))
    with ExitStack() as opened:
        callers = [opened.enter_context(connect(gateway.port)) for _ in range(HEADS)]
        for caller in callers:
            caller.sendall(begin)
        if proxy == "127.0.0.1":
            for caller in callers:
                caller.sendall(b"Host: h\r\n\r\n")
            assert {listen(caller, b"}").status for caller in callers} == {401}
        else:
            heard = settle(callers, (UNBEGUN + UNSEEN) // len(begin))
            assert {one.status for one in heard if one.data} == {503} and not heard[0].data


class Slow(Recorder):
    """A backend that reads and says nothing until `go_on`, but lets WebSockets stand, and keeps what was said in them."""

    def __init__(self) -> None:
        super().__init__(self._wait)
        self.go_on, self.said = threading.Event(), bytearray()

    def _wait(self, got: Got, to: socket.socket) -> None:
        if got.target == b"/socket":
            accept = sha1(got.values(b"sec-websocket-key")[0] + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
            to.sendall(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n")
            to.sendall(b"Sec-WebSocket-Accept: " + b64encode(accept) + b"\r\n\r\n")
        self.go_on.wait()
        if got.target != b"/socket":
            ok(got, to)
        while got.target == b"/socket" and (more := to.recv(1 << 16)):
            self.said += more


def press(caller: socket.socket, data: bytes) -> int:
    """Send this until nobody has taken any of it for a second: how many bytes."""
    at = 0
    caller.settimeout(1.0)
    with suppress(TimeoutError):
        while at < len(data):
            at += caller.send(data[at : at + 65536])
    return at


def test_requests_that_are_open_are_spared(start: Callable[..., Gateway], tmp_path: Path) -> None:
    """Heads of an address that do not end cost neither its WebSocket with frames that nobody has read yet nor the requests
    behind one that is open, though these connections are the youngest: the heads are refused, all else goes on."""
    size = 50_000
    with closing(Slow()) as backend, ExitStack() as opened:
        home = Home(tmp_path, backend.url)
        home.write_policy("timeouts: {head: 60s}\n")
        key, gateway = home.key()[1], start("serve", home=home).ready()
        callers = [opened.enter_context(connect(gateway.port)) for _ in range(HEADS)]
        for caller in callers:
            caller.sendall(b"GET / HTTP/1.1\r\n")
        upgrade = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13")
        talking, asking = opened.enter_context(connect(gateway.port)), opened.enter_context(connect(gateway.port))
        talking.sendall(head("GET", "/socket", key, *upgrade, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="))
        assert listen(talking, b"\r\n\r\n").status == 101
        frames = websocket(b"x" * 4000) * 4000
        at = press(talking, frames)
        assert at < len(frames), "the backend does not read"
        asking.sendall(head("GET", "/slow", key) + head("GET", "/behind", key, "X-Long: " + "x" * 8000) * 6)
        for caller in callers:
            caller.sendall(b"A: " + b"x" * size)
        heard = settle(callers, (UNBEGUN + UNSEEN) // size)
        assert {one.status for one in heard if one.data} == {503}
        backend.go_on.set()
        talking.settimeout(PATIENCE_S)
        talking.sendall(frames[at:])
        eventually("all that was said has come", lambda: len(backend.said) == len(frames))
        asking.sendall(head("GET", "/last", key, "Connection: close"))
        assert listen(asking).data.count(b"HTTP/1.1 200 OK") == 8


def test_a_connection_of_http2_has_a_budget(encrypted: Gateway, certificate: Path) -> None:
    """Of 30 MB over one connection the youngest streams get 503, the oldest are answered, the connection goes on."""
    before = encrypted.memory()
    with tls(encrypted.port, certificate, "h2") as connection:
        caller = Http2(connection)
        fields = ("content-type", "application/json")
        streams = [caller.ask("POST", "/judged", None, fields, ends=False) for _ in range(30)]
        ids = list(caller.streams)
        left = dict.fromkeys(ids, 1_000_000)
        until = time.monotonic() + 60
        while any(left[one] for one in ids if not caller.streams[one].headers):
            assert time.monotonic() < until and not caller.closed
            for one in ids:
                if caller.streams[one].headers or not left[one]:
                    continue
                room = min(caller.h2.local_flow_control_window(one), 16384, left[one])
                if room > 0:
                    caller.h2.send_data(one, b" " * room)
                    left[one] -= room
            caller.flush()
            read_once(caller)
        refused = [one for one in ids if caller.streams[one].headers]
        assert {caller.streams[one].status for one in refused} == {503} and ids[0] not in refused
        for one in set(ids) - set(refused):
            caller.h2.send_data(one, b"[]", end_stream=True)
        caller.flush()
        caller.until(lambda: all(stream.headers for stream in streams))
        assert {caller.streams[one].status for one in set(ids) - set(refused)} == {200}
        again = caller.ask("POST", "/judged", None, fields, ends=False)
        caller.h2.send_data(list(caller.streams)[-1], b"[]", end_stream=True)
        caller.flush()
        caller.until(lambda: bool(again.headers))
        assert again.status == 200
    assert encrypted.memory() - before < 64 * MIB
