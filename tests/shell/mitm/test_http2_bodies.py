"""What http2_bodies.py counts on in mitmproxy's and h2's private side, and what it makes of them, without a socket."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from h2.connection import H2Connection
from mitmproxy.addonmanager import Loader
from mitmproxy.addons.proxyserver import Proxyserver
from mitmproxy.connection import Client, ConnectionState, Server
from mitmproxy.http import HTTPFlow, Request
from mitmproxy.options import Options
from mitmproxy.proxy import commands, events
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layers import http
from mitmproxy.proxy.layers.http import HttpClient
from mitmproxy.proxy.layers.http._base import ReceiveHttp
from mitmproxy.proxy.layers.http._events import RequestData, RequestEndOfMessage

from keyswap.refusals import Answer
from keyswap.shell.mitm import connection_watch, http2_bodies, inspection, patch_table, upstream_pool

HEAD = [(":method", "POST"), (":path", "/"), (":scheme", "https"), (":authority", "h")]


class Watch:
    """A backend that takes nothing until it is told to."""

    max_head = 2048
    full = False
    delivered: list[events.Event]
    waiting: list[Callable[[], None]]

    def __init__(self) -> None:
        self.delivered, self.waiting = [], []

    def answer(self, flow: HTTPFlow | None, status: int) -> Answer:
        return Answer(status, (), b"")

    def is_abusive(self, cost: float) -> bool:
        return False

    def is_over(self, server: Server) -> bool:
        return True

    def backlog(self, server: Server) -> int:
        return int(self.full)

    def when_taken(self, server: Server, then: Callable[[], None]) -> None:
        self.waiting.append(then)

    def deliver(self, event: events.Event) -> None:
        self.delivered.append(event)

    later = deliver


@pytest.fixture(autouse=True)
def _changed() -> None:
    patch_table.install({}, shows=True)
    patch_table.install({}, shows=True)


class Connection:
    """A caller's connection whose one stream is sending a body to a backend."""

    def __init__(self) -> None:
        self.watch = Watch()
        client = Client(peername=("127.0.0.1", 1), sockname=("127.0.0.1", 2), state=ConnectionState.OPEN, alpn=b"h2")
        connection_watch.attach_watch(client, self.watch)
        options = Options()
        Proxyserver().load(Loader(SimpleNamespace(options=options, commands=SimpleNamespace(collect_commands=bool))))
        self.layer = http.HttpLayer(Context(client, options), http.HTTPMode.transparent)
        begun = list(self.layer.handle_event(events.Start()))
        self.server: Any = self.layer.connections[client]
        self.caller = H2Connection()
        self.caller.initiate_connection()
        self.caller.receive_data(b"".join(one.data for one in begun if isinstance(one, commands.SendData)))
        self.caller.send_headers(1, HEAD)
        self.come()
        self.stream: Any = http.HttpStream(self.layer.context.fork(), 1)
        self.stream.flow = HTTPFlow(client, Server(address=("127.0.0.1", 9)))
        self.stream.flow.request = Request.make("POST", "http://h/")
        self.stream.client_state = self.stream.state_stream_request_body
        self.layer.streams[1] = self.stream

    def come(self) -> list[Any]:
        """Let what the caller has to send arrive; what is received of its requests."""
        return self.handle(events.DataReceived(self.server.conn, self.caller.data_to_send()))

    def handle(self, event: events.Event) -> list[Any]:
        done = list(self.server.handle_event(event))
        self.caller.receive_data(b"".join(one.data for one in done if isinstance(one, commands.SendData)))
        return [one.event for one in done if isinstance(one, ReceiveHttp)]

    def send(self, data: bytes, end: bool = False) -> list[Any]:
        self.caller.send_data(1, data, end_stream=end)
        return self.come()


def test_a_body_waits_in_one_piece_until_its_backend_takes_it() -> None:
    """What comes meanwhile, and its end, goes on at once when the backend has taken what it was sent; not before."""
    made = Connection()
    (first,) = made.send(b"one")
    assert isinstance(first, RequestData) and first.data == b"one"
    made.watch.full = True
    assert made.send(b"two") == made.send(b"three") == made.send(b"", end=True) == []
    assert inspection.bodies(made.layer)[1] == (made.stream.flow, 11, True)
    assert len(made.watch.waiting) == 1
    for full in (True, False):
        made.watch.full = full
        made.watch.waiting.pop()()
        received = made.handle(made.watch.delivered.pop())
        assert bool(received) is not full
    assert [type(event) for event in received] == [RequestData, RequestEndOfMessage]
    assert received[0].data == b"twothree" and inspection.bodies(made.layer) == {} and not made.watch.waiting


def test_a_body_waits_while_its_stream_is_judged() -> None:
    """While a hook or a connection is awaited nothing is passed on; when the stream has awoken it is."""
    made = Connection()
    made.stream._paused = object()
    assert made.send(b"one") == [] and not made.watch.waiting
    made.stream._paused = None
    list(made.stream.handle_event(RequestData(1, b"")))
    (event,) = made.watch.delivered
    (received,) = made.handle(event)
    assert received.data == b"one" and "handle_event" not in vars(made.stream)


def test_a_window_is_all_that_waits() -> None:
    """A stream whose backend is full can send one window; acknowledged, it goes on; one that flows gets a wide window."""
    made = Connection()
    made.watch.full = True
    while room := min(made.caller.local_flow_control_window(1), 16384):
        made.send(b"x" * room)
    assert inspection.bodies(made.layer)[1].came == http2_bodies.WINDOW
    made.watch.full = False
    made.watch.waiting.pop()()
    made.handle(made.watch.delivered.pop())
    assert made.caller.local_flow_control_window(1) == http2_bodies.WINDOW
    made.send(b"x")
    assert made.caller.local_flow_control_window(1) >= http2_bodies.WIDE - 1


def test_what_is_reset_or_late_harms_nothing() -> None:
    """A stream that is reset while it waits is forgotten; to go on afterwards does nothing, nor after the connection."""
    made = Connection()
    made.watch.full = True
    made.send(b"one")
    made.caller.reset_stream(1)
    made.come()
    made.watch.waiting.pop()()
    late = made.watch.delivered.pop()
    assert made.handle(late) == [] and inspection.bodies(made.layer) == {}
    list(made.server.handle_event(events.ConnectionClosed(made.server.conn)))
    assert made.handle(late) == []


def test_an_empty_frame_is_not_passed_on() -> None:
    """DATA without bytes is no RequestData: in a chunked body that would be its end."""
    made = Connection()
    assert made.send(b"") == [] and [event.data for event in made.send(b"x")] == [b"x"]


def test_only_heads_and_data_move() -> None:
    """PINGs, settings and window updates are no activity of a caller."""
    made = Connection()
    before = inspection.moved(made.layer)
    made.caller.ping(b"12345678")
    made.caller.update_settings({4: 100_000})
    made.caller.increment_flow_control_window(100)
    made.come()
    assert inspection.moved(made.layer) == before
    made.send(b"x")
    assert inspection.moved(made.layer) == before + 1


def test_connections_that_have_ended_are_forgotten() -> None:
    """Only those upstream that have ended or failed, and that no stream uses nor waits for."""
    made = Connection()
    ended, failed, used, awaited, lives = (Server(address=("127.0.0.1", port)) for port in range(5))
    for server in (ended, failed, used, awaited, lives):
        made.layer.connections[server] = HttpClient(made.layer.context.fork())
        server.timestamp_end = 1.0
    failed.timestamp_end, failed.error, lives.timestamp_end = None, "no", None
    made.stream.context.server = used
    made.layer.waiting_for_establishment[awaited] = []
    upstream_pool.forget_closed(made.layer)
    assert set(made.layer.connections) == {made.layer.context.client, used, awaited, lives}
