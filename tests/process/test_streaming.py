"""Streams: what goes through the gateway goes on arriving, unchanged, and ends with its key."""

import gzip
import hashlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import pytest
from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Message,
    Ping,
    Pong,
    Request,
    TextMessage,
)
from wsproto.extensions import PerMessageDeflate

from harness import Gateway, Home, eventually
from raw import Got, Http2, Recorder, Stream, answer, connect, head, listen, ok, say, tls

EVENTS = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
ACCEPT, EVENTS_WANTED = "Accept: text/event-stream", ("accept", "text/event-stream")
"""As browsers' EventSource sends it (HTML §9.2.3)."""
REVOKED_S = 2.0


class Streams(Recorder):
    """A backend of event streams (/events), WebSockets (/socket) and whatever a test makes of the rest."""

    def __init__(self) -> None:
        super().__init__(self._answer)
        self.other = ok
        self.watching: dict[str, socket.socket] = {}
        self.offered: list[bytes] = []

    def _answer(self, got: Got, connection: socket.socket) -> None:
        if got.target.startswith(b"/events"):
            connection.sendall(EVENTS)
            self.watching[got.target.decode()] = connection
            connection.recv(1)  # until it is closed
        elif got.target.startswith(b"/socket"):
            self.offered = got.values(b"sec-websocket-extensions")
            self._socket_of(got, connection)
        else:
            self.other(got, connection)

    def _socket_of(self, got: Got, connection: socket.socket) -> None:
        made = WSConnection(ConnectionType.SERVER)
        made.initiate_upgrade_connection(list(got.headers), "/socket")
        while True:
            for event in made.events():
                if isinstance(event, Request):
                    connection.sendall(made.send(AcceptConnection(extensions=[PerMessageDeflate()])))
                elif isinstance(event, TextMessage | BytesMessage):
                    connection.sendall(made.send(event))
                elif isinstance(event, Ping):
                    connection.sendall(made.send(event.response()))
                elif isinstance(event, CloseConnection):
                    connection.sendall(made.send(event.response()))
                    return
            data = connection.recv(65536)
            if not data:
                return
            made.receive_data(data)

    def tell(self, data: str, *only: str) -> None:
        """Send an event over all event streams, or over these."""
        for target in only or list(self.watching):
            self.watching[target].sendall(f"data: {data}\n\n".encode())


@pytest.fixture(scope="module")
def streams() -> Iterator[Streams]:
    made = Streams()
    yield made
    made.close()


@pytest.fixture(scope="module", params=Gateway.ALL_ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    """Each kind of gateway."""
    return str(request.param)


@pytest.fixture(autouse=True)
def _fresh(streams: Streams) -> None:
    streams.clear()
    streams.watching.clear()
    streams.other = ok


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, streams: Streams) -> Home:
    return Home(tmp_path_factory.mktemp("streams"), streams.url)


class Caller:
    """A WebSocket."""

    def __init__(self, gateway: Gateway, key: str) -> None:
        self.connection = connect(gateway.port)
        self.ws = WSConnection(ConnectionType.CLIENT)
        asked = Request(
            host="h",
            target="/socket",
            extensions=[PerMessageDeflate()],
            extra_headers=[(b"Authorization", b"Bearer " + key.encode())],
        )
        self.connection.sendall(self.ws.send(asked))
        self._events: Iterator[Event] = iter(())
        accepted = self.next()
        assert isinstance(accepted, AcceptConnection) and accepted.extensions == [], accepted

    def __enter__(self) -> "Caller":
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    def say(self, event: Event) -> "Caller":
        self.connection.sendall(self.ws.send(event))
        return self

    def next(self) -> Event:
        while True:
            for event in self._events:
                return event
            self.ws.receive_data(self.connection.recv(65536) or None)
            self._events = self.ws.events()

    def message(self) -> str | bytes:
        parts = []
        while True:
            event = self.next()
            assert isinstance(event, Message), event
            parts.append(event.data)
            if event.message_finished:
                return "".join(parts) if isinstance(parts[0], str) else b"".join(map(bytes, parts))


def test_events_arrive_one_by_one(gateway: Gateway, key: str, streams: Streams) -> None:
    """An event reaches the caller before the backend has the next one to send."""
    with connect(gateway.port) as connection:
        connection.sendall(head("GET", "/events", key, ACCEPT))
        eventually("the stream is open", lambda: streams.watching)
        for number in range(5):
            streams.tell(f"{number}!")
            assert b"data: %d!\n\n" % number in listen(connection, b"%d!\n\n" % number).data


@pytest.mark.parametrize("chunked", [False, True])
def test_large_bodies_pass_unchanged(gateway: Gateway, key: str, streams: Streams, chunked: bool) -> None:
    """32 MiB arrive byte for byte, up and down."""
    body = hashlib.shake_256(b"seed").digest(32 << 20)
    streams.other = lambda got, connection: connection.sendall(answer(got.body))
    framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(body)}"
    parts = [body[at : at + 999_999] for at in range(0, len(body), 999_999)]
    wire = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n" if chunked else body
    with connect(gateway.port) as connection:
        sender = threading.Thread(
            target=connection.sendall, args=(head("POST", "/up", key, framing, "Connection: close") + wire,)
        )
        sender.start()
        heard = listen(connection, patience_s=60)
        sender.join()
    assert heard.status == 200 and heard.data.partition(b"\r\n\r\n")[2] == body
    assert streams.requests[-1].body == body


def test_content_codings_are_left_alone(gateway: Gateway, key: str, streams: Streams) -> None:
    """Compressed bodies pass as they are, both ways, with their Content-Encoding."""
    packed = gzip.compress(b"hello" * 100)
    streams.other = lambda got, connection: connection.sendall(answer(got.body, b"Content-Encoding: gzip"))
    asked = head("POST", "/", key, "Content-Encoding: gzip", f"Content-Length: {len(packed)}", "Connection: close")
    heard = say(gateway.port, asked + packed)
    assert heard.data.endswith(packed) and heard.has(b"Content-Encoding: gzip")
    assert streams.requests[0].body == packed and streams.requests[0].values(b"content-encoding") == [b"gzip"]


def test_head_and_options(gateway: Gateway, key: str, streams: Streams) -> None:
    """HEAD passes the length without a body, and the connection goes on; OPTIONS is a request like any other."""
    streams.other = lambda got, connection: connection.sendall(
        b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" if got.method == b"HEAD" else answer(b"allowed")
    )
    with connect(gateway.port) as connection:
        connection.sendall(head("HEAD", "/", key))
        heard = listen(connection, b"\r\n\r\n")
        assert heard.has(b"Content-Length: 1000000") and heard.data.endswith(b"\r\n\r\n")
        connection.sendall(head("OPTIONS", "/", key))
        assert listen(connection, b"allowed").status == 200
    assert [got.method for got in streams.requests] == [b"HEAD", b"OPTIONS"]


def test_an_expectation_is_met(gateway: Gateway, key: str, streams: Streams) -> None:
    """`Expect: 100-continue`: an admitted caller is told to go on before it sends its body, a refused one is not, but by
    Envoy, which tells every caller."""
    asked = ("Expect: 100-continue", "Content-Length: 5", "Connection: close")
    with connect(gateway.port) as connection:
        connection.sendall(head("POST", "/", key, *asked))
        assert listen(connection, b"100 Continue\r\n\r\n").data.startswith(b"HTTP/1.1 100 ")
        connection.sendall(b"hello")
        assert listen(connection).status == 200
    assert streams.requests[0].body == b"hello"
    refused = say(gateway.port, head("POST", "/", None, *asked))
    assert b" 401 " in refused.data and (b"100 Continue" in refused.data) == (gateway.kind == "envoy")


@pytest.mark.parametrize("interim", [b"100 Continue", b"103 Early Hints\r\nLink: </a.css>"])
def test_interim_responses_do_not_hide_the_answer(gateway: Gateway, key: str, streams: Streams, interim: bytes) -> None:
    """After a 100 or 103 of the backend the caller gets its answer, and the connection goes on."""
    streams.other = lambda got, connection: connection.sendall(b"HTTP/1.1 " + interim + b"\r\n\r\n" + answer(b"real"))
    with connect(gateway.port) as connection:
        for _ in range(2):
            connection.sendall(head("GET", "/", key))
            heard = listen(connection, b"real")
            assert heard.status == 200 and b"Early Hints" not in heard.data


def test_trailers_do_not_hang(
    gateway: Gateway, encrypted: Gateway, certificate: Path, key: str, streams: Streams
) -> None:
    """Trailers of a chunked or HTTP/2 request, and of a response, are dropped; the request is answered."""
    raw = b"2\r\nhi\r\n0\r\nX-User-Id: evil\r\n\r\n"
    heard = say(gateway.port, head("POST", "/", key, "Transfer-Encoding: chunked", "Connection: close") + raw)
    assert heard.status == 200
    with tls(encrypted.port, certificate, "h2") as connection:
        caller = Http2(connection)
        stream = caller.ask("POST", "/", key, ends=False)
        caller.h2.send_data(1, b"hi")
        caller.h2.send_headers(1, [("x-user-id", "evil")], end_stream=True)
        caller.flush()
        caller.until(lambda: stream.ended)
        assert stream.status == 200
    assert [got.body for got in streams.requests] == [b"hi", b"hi"] and b"evil" not in streams.everything
    streams.other = lambda got, connection: connection.sendall(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nX-Trailer: 1\r\n\r\n"
    )
    heard = say(gateway.port, head("GET", "/", key, "Connection: close"))
    assert heard.ended and heard.data.endswith(b"2\r\nhi\r\n0\r\n\r\n")


# ---- WebSockets


def test_a_websocket_passes_messages(gateway: Gateway, key: str, streams: Streams) -> None:
    """Text, binary, pings and a close pass; compression is never offered to the backend."""
    with Caller(gateway, key) as caller:
        assert caller.say(TextMessage("grüße")).message() == "grüße"
        assert caller.say(BytesMessage(b"\x00\xff" * 50_000)).message() == b"\x00\xff" * 50_000
        assert isinstance(caller.say(Ping(b"p")).next(), Pong)
        closed = caller.say(CloseConnection(1000)).next()
    assert isinstance(closed, CloseConnection) and closed.code == 1000
    assert streams.offered == []


def test_a_websocket_message_is_bounded(gateway: Gateway, key: str) -> None:
    """A message over 4 MiB ends the socket with 1009; one of 4 MiB passes."""
    most = b"x" * (4 << 20)
    with Caller(gateway, key) as caller:
        assert caller.say(BytesMessage(most)).message() == most
    with Caller(gateway, key) as caller:
        closed = caller.say(BytesMessage(most + b"x")).next()
    assert isinstance(closed, CloseConnection) and closed.code == 1009


# ---- The end of a key


@contextmanager
def open_streams(gateway: Gateway, streams: Streams, key: str) -> Iterator[Callable[[], float]]:
    """An event stream, a WebSocket, and an upload, which does not end by Envoy; yields what waits until all have ended and says how long it took."""
    with ExitStack() as opened:
        listener = opened.enter_context(connect(gateway.port))
        listener.sendall(head("GET", "/events/one", key, ACCEPT))
        assert listen(listener, b"\r\n\r\n").status == 200
        uploader = opened.enter_context(connect(gateway.port))
        if gateway.kind != "envoy":
            uploader.sendall(head("POST", "/up", key, "Content-Length: 1000000") + b"begin")
        caller = opened.enter_context(Caller(gateway, key))
        assert caller.say(TextMessage("open")).message() == "open"
        open_now = 2 if gateway.kind == "envoy" else 3
        eventually(
            "all are open",
            lambda: len(streams.received) == open_now and (open_now == 2 or b"begin" in streams.everything),
        )

        def wait() -> float:
            began = time.monotonic()
            for connection in (listener, *([uploader] if open_now == 3 else []), caller.connection):
                heard = listen(connection, b"0\r\n\r\n" if gateway.kind == "envoy" else b"")
                assert heard.ended or heard.data.endswith(b"0\r\n\r\n")
            return time.monotonic() - began

        yield wait


def test_a_revoked_key_ends_its_streams(gateway: Gateway, home: Home, streams: Streams, key: str) -> None:
    """Within 2 s an event stream, a WebSocket and, but for Envoy, an upload of a revoked key end; another's goes on."""
    record, value = home.key()
    with connect(gateway.port) as other, open_streams(gateway, streams, value) as wait:
        other.sendall(head("GET", "/events/other", key, ACCEPT))
        assert listen(other, b"\r\n\r\n").status == 200
        home.run("keys", "revoke", record.id)
        assert wait() < REVOKED_S
        streams.tell("still", "/events/other")
        assert b"still\n\n" in listen(other, b"still\n\n").data


def test_an_expired_key_ends_its_streams(gateway: Gateway, home: Home, streams: Streams) -> None:
    """Within 2 s of its end a key's open streams end."""
    until = int(time.time()) + 3
    _, value = home.key(expires_at=until)
    with open_streams(gateway, streams, value) as wait:
        wait()
        assert until <= time.time() < until + REVOKED_S


def all_end_with(wanted: bytes, told: list[Stream]) -> bool:
    return all(stream.body.endswith(wanted) for stream in told)


def test_event_streams_share_an_http2_connection(
    encrypted: Gateway, certificate: Path, home: Home, streams: Streams, key: str
) -> None:
    """100 event streams over one HTTP/2 connection all flow; revoking their key ends them within 2 s, and only them."""
    record, value = home.key()
    with tls(encrypted.port, certificate, "h2") as connection, tls(encrypted.port, certificate, "h2") as aside:
        caller, other = Http2(connection), Http2(aside)
        mine = [caller.ask("GET", f"/events/{number}", value, EVENTS_WANTED) for number in range(99)]
        sibling = caller.ask("GET", "/events/sibling", key, EVENTS_WANTED)  # over the same connection, with another key
        elsewhere = other.ask("GET", "/events/elsewhere", key, EVENTS_WANTED)
        everyone = [*mine, sibling]
        caller.until(lambda: all(stream.status == 200 for stream in everyone))
        eventually("all are open", lambda: len(streams.watching) == 101)
        for word in ("one", "two"):
            streams.tell(word)
            wanted = f"{word}\n\n".encode()
            caller.until(partial(all_end_with, wanted, everyone))
        home.run("keys", "revoke", record.id)
        assert caller.until(lambda: all(one.ended or one.reset is not None for one in mine)) < REVOKED_S
        streams.tell("three", "/events/sibling", "/events/elsewhere")
        caller.until(lambda: sibling.body.endswith(b"three\n\n"))
        other.until(lambda: elsewhere.body.endswith(b"three\n\n"))
        assert not any(b"three" in stream.body for stream in mine)
