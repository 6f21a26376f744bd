"""Concurrency limits: a place is held for as long as its request is answered, however that ends."""

import hashlib
import random
import signal
import socket
import threading
from base64 import b64encode
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
from h2.exceptions import StreamClosedError

from certificates import self_signed
from harness import Gateway, Home, eventually, free_port
from raw import RESET, Got, Http2, Recorder, answer, connect, head, listen, say, tls

Start = Callable[..., Gateway]
LIMITS = "log: {decisions: off}\nlimits: [{name: in-flight, by: [key], concurrency: %d}]\n"
EVENTS = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"


class Slow(Recorder):
    """A backend that answers at once (/), never (/never), by an endless stream (/events), by half (/half), or before the
    body has come (/early)."""

    def __init__(self) -> None:
        super().__init__(self._behave)
        self.before_body = self._hasty
        self.keeps = False

    def _hasty(self, got: Got, connection: socket.socket) -> None:
        if got.target == b"/early":
            connection.sendall(answer(b"done"))

    def _behave(self, got: Got, connection: socket.socket) -> None:
        if got.target.startswith(b"/events"):
            connection.sendall(EVENTS + b"data: 1\n\n")
            connection.recv(1)
        elif got.target.startswith(b"/never"):
            connection.recv(1)
        elif got.target == b"/early":
            return
        elif got.target.startswith(b"/socket"):
            (key,) = got.values(b"sec-websocket-key")
            accept = b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
            connection.sendall(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n")
            connection.sendall(b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n")
            connection.recv(1)
        elif got.target.startswith(b"/half"):
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + b"x" * 70000)
            connection.shutdown(socket.SHUT_RDWR)
        else:
            connection.sendall(answer(b"ok"))


@pytest.fixture
def slow(home: Home) -> Iterator[Slow]:
    made = Slow()
    home.upstream = made.url
    yield made
    made.close()


def in_flight(home: Home) -> int:
    """How many requests of keys are in flight, as the gateways count them."""
    rows = home.json("limits", "list")["data"]
    return sum(row["level"] for row in rows if row["limit"] == "in-flight")


def begun(port: int, target: str, key: str) -> socket.socket:
    """A stream that has begun."""
    connection = connect(port)
    connection.sendall(head("GET", target, key))
    assert b"data: 1" in listen(connection, b"data: 1").data
    return connection


HANDSHAKE = (
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)


def test_a_websocket_holds_its_place_until_it_ends(start: Start, home: Home, engine: str, slow: Slow) -> None:
    """An open WebSocket is in flight, and is not once either side has closed it."""
    home.write_policy(LIMITS % 1)
    _, value = home.key()
    gateway = start(engine).ready()
    with connect(gateway.port) as caller:
        caller.sendall(head("GET", "/socket", value, *HANDSHAKE))
        assert listen(caller, b"\r\n\r\n").status == 101
        assert gateway.get("/", value).code == "too-many-in-flight" and in_flight(home) == 1
    eventually("there is room", lambda: gateway.get("/", value).status == 200)


def test_streams_hold_their_places_until_they_end(start: Start, home: Home, engine: str, slow: Slow) -> None:
    """Two open streams fill a limit of two; when one ends, by its caller, there is room for one more; the
    key's end gives all of them back."""
    home.write_policy(LIMITS % 2)
    key, value = home.key()
    gateway = start(engine).ready()
    one, two = begun(gateway.port, "/events/1", value), begun(gateway.port, "/events/2", value)
    refused = gateway.get("/", value)
    assert (refused.status, refused.code, refused.header("retry-after")) == (429, "too-many-in-flight", "1")
    assert in_flight(home) == 2
    one.close()
    eventually("room for one", lambda: gateway.get("/", value).status == 200)
    third = begun(gateway.port, "/events/3", value)
    assert gateway.get("/", value).status == 429
    home.run("keys", "revoke", key.id)
    with two, third:
        assert listen(third, patience_s=5).ended and listen(two, patience_s=5).ended
    eventually("all places are free", lambda: in_flight(home) == 0)


def test_whatever_ends_a_request_gives_its_place_back(start: Start, home: Home, engine: str, slow: Slow) -> None:
    """A broken answer, an upstream that never answers, one that is not there, a body that is refused, a caller that
    leaves: afterwards nothing is in flight."""
    home.write_policy(LIMITS % 50 + "timeouts: {response: 1s}\nmax_body: 100KiB\n")
    _, key = home.key()
    gateway = start(engine).ready()
    assert say(gateway.port, head("GET", "/half", key)).status == 200
    assert say(gateway.port, head("GET", "/never", key)).status == 504
    assert say(gateway.port, head("POST", "/", key, "Transfer-Encoding: chunked") + b"zz\r\n").status == 400
    assert say(gateway.port, head("POST", "/", key, "Content-Length: 200000")).status == 413
    chunk = b"8000\r\n" + b"x" * 0x8000 + b"\r\n"
    assert say(gateway.port, head("POST", "/", key, "Transfer-Encoding: chunked") + chunk * 8).status == 413
    with connect(gateway.port) as leaving:
        leaving.sendall(head("POST", "/", key, "Content-Length: 1000") + b"x")
    eventually("nothing is in flight", lambda: in_flight(home) == 0)
    slow.close()
    assert say(gateway.port, head("GET", "/", key, "Connection: close")).status == 502
    eventually("nothing is in flight", lambda: in_flight(home) == 0)


@pytest.mark.parametrize("framing", ["Content-Length: 100000", "Transfer-Encoding: chunked"])
@pytest.mark.parametrize("politely", [True, False])
def test_who_leaves_after_an_early_answer_holds_nothing(
    start: Start, home: Home, engine: str, slow: Slow, framing: str, politely: bool
) -> None:
    """A backend answers before the body has come, and the caller leaves without sending the rest: its place is free."""
    home.write_policy(LIMITS % 50)
    _, key = home.key()
    gateway = start(engine).ready()
    for _ in range(5):
        with connect(gateway.port) as caller:
            caller.sendall(
                head("POST", "/early", key, framing) + (b"5\r\nhello\r\n" if "chunked" in framing else b"hello")
            )
            assert listen(caller, b"done").status == 200
            if not politely:
                caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    eventually("nothing is in flight", lambda: in_flight(home) == 0)


def test_a_stream_that_is_reset_after_an_early_answer_holds_nothing(
    start: Start, home: Home, slow: Slow, tmp_path: Path
) -> None:
    """The same over HTTP/2, on a connection that stays open."""
    home.write_policy(LIMITS % 50)
    _, key = home.key()
    certificate = self_signed(tmp_path, "gateway")
    gateway = start("serve", certificate=certificate).ready()
    with tls(gateway.port, certificate, "h2") as connection:
        caller = Http2(connection)
        for _ in range(3):
            stream = caller.ask("POST", "/early", key, ends=False)
            (number,) = [known for known, one in caller.streams.items() if one is stream]
            caller.until(lambda: stream.ended)  # noqa: B023
            with suppress(StreamClosedError):  # the gateway may have been first
                caller.h2.reset_stream(number)
            caller.flush()
        eventually("nothing is in flight", lambda: in_flight(home) == 0)
        later = caller.ask("GET", "/", key)
        caller.until(lambda: later.ended)
        assert later.status == 200


class Busy(Recorder):
    """A backend that works on a request until it may go on, whoever has left, and counts what it works on."""

    def __init__(self) -> None:
        super().__init__(self._work)
        self.before_body = lambda got, to: self._work(got, to) if got.target == b"/upload" else None
        self.hints, self.go_on = threading.Event(), threading.Event()
        self.begun = 0

    def _work(self, got: Got, connection: socket.socket) -> None:
        if got.target == b"/":
            return connection.sendall(answer(b"ok"))
        self.begun += 1
        self.hints.wait()
        connection.sendall(b"HTTP/1.1 103 Early Hints\r\n\r\n")
        self.go_on.wait()
        if got.target == b"/closes":
            return connection.shutdown(socket.SHUT_RDWR)
        return connection.sendall(b"HTTP/1.1 103 Early Hints\r\n\r\n" + answer(b"ok"))


def leave(port: int, certificate: Path, key: str, way: str, has_begun: Callable[[], bool]) -> None:
    """Begin a request, and leave when the backend has it."""
    target = way.partition(" ")[0]
    uploads = target == "/upload"
    if "stream" in way:
        with tls(port, certificate, "h2") as connection:
            caller = Http2(connection)
            caller.ask("POST" if uploads else "GET", target, key, ends=not uploads)
            eventually("it has begun", has_begun)
            if "reset" in way:
                caller.h2.reset_stream(1)
                caller.flush()
                later = caller.ask("GET", "/", key)
                caller.until(lambda: later.ended)  # the reset was heard
        return
    with tls(port, certificate) as connection:
        fields = ("Content-Length: 100000",) if uploads else ()  # too long to be held whole
        connection.sendall(head("POST" if uploads else "GET", target, key, *fields) + b"x" * uploads)
        eventually("it has begun", has_begun)
        if "reset" in way:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)


def test_who_begins_and_leaves_holds_a_place_until_the_backend_is_done(
    start: Start, home: Home, engine: str, tmp_path: Path
) -> None:
    """However a caller leaves before its answer has begun, its place is held while the backend works on its request: until
    that answers or closes, or the time for an answer is over."""
    certificate, busy = self_signed(tmp_path, "gateway"), Busy()
    home.upstream = busy.url
    home.write_policy(LIMITS % 1 + "timeouts: {response: 30s}\n")
    _, key = home.key()
    gateway = start(engine, certificate=certificate).ready()

    def status() -> int:
        with tls(gateway.port, certificate) as connection:
            connection.sendall(head("GET", "/", key, "Connection: close"))
            return listen(connection).status or 0

    ways = ["/get", "/get reset", "/get stream", "/get stream reset", "/closes", "/upload", "/upload stream reset"]
    for number, way in enumerate(ways, 1):
        busy.hints.clear()
        busy.go_on.clear()
        leave(gateway.port, certificate, key, way, lambda number=number: busy.begun == number)  # type: ignore[misc]
        assert status() == 429, way
        busy.hints.set()
        assert [status() for _ in range(3)] == [429] * 3, way
        busy.go_on.set()
        eventually(f"there is room after {way}", lambda: status() == 200)
    busy.go_on.clear()
    home.write_policy(LIMITS % 1 + "timeouts: {response: 1s}\n")
    eventually("the policy is taken", lambda: "is in force" in gateway.output)
    leave(gateway.port, certificate, key, "/get", lambda: busy.begun == len(ways) + 1)
    eventually("the time is over", lambda: status() == 200)
    busy.go_on.set()
    busy.close()


def disconnecting(gateway: Gateway, key: str, number: int) -> None:
    """A caller that leaves at a random moment, politely or not."""
    chance = random.Random(number)
    target = chance.choice(("/", "/early", "/never", "/events", "/half"))
    raw = head(chance.choice(("GET", "POST")), target, key, *(("Content-Length: 4000",) if number % 3 == 0 else ()))
    raw += b"x" * (chance.randrange(4000) if number % 3 == 0 else 0)
    with suppress(OSError), connect(gateway.port) as connection:
        connection.sendall(raw[: chance.randrange(1, len(raw) + 1)] if number % 2 else raw)
        if chance.random() < 0.5:
            listen(connection, b"\r\n", chance.random() * 0.1)
        if chance.random() < 0.5:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)  # a reset


@pytest.mark.slow
def test_a_thousand_disconnecting_clients_leave_nothing_in_flight(
    start: Start, home: Home, engine: str, slow: Slow
) -> None:
    """1,000 clients that leave at random moments over two gateways: afterwards nothing is in flight, also when one of the
    gateways is killed among them, and the limit admits as many as it should."""
    home.write_policy(LIMITS % 400 + "timeouts: {response: 5s}\n")
    _, key = home.key()
    survivor, victim = start(engine), start(engine, port=free_port())
    survivor.ready()
    victim.ready()
    killed = threading.Event()

    def client(number: int) -> None:
        if number == 700:
            victim.process.send_signal(signal.SIGKILL)
            killed.set()
        gateway = survivor if number % 2 or killed.is_set() else victim
        disconnecting(gateway, key, number)

    with ThreadPoolExecutor(32) as pool:
        list(pool.map(client, range(1000)))
    eventually("nothing is in flight", lambda: in_flight(home) == 0 == home.json("status")["limits"]["in_flight"])
    assert survivor.get("/", key).status == 200
