"""What shell/mitm counts on in mitmproxy's HTTP layers, and what it makes of them, without a socket."""

import struct
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import ResponseReceived, StreamReset
from h2.settings import SettingCodes
from hyperframe import frame as frames
from mitmproxy.addonmanager import Loader
from mitmproxy.addons.proxyserver import Proxyserver
from mitmproxy.connection import Client, ConnectionState, Server
from mitmproxy.http import HTTPFlow, Request, Response
from mitmproxy.options import Options
from mitmproxy.proxy import commands, events
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layer import Layer
from mitmproxy.proxy.layers import http
from mitmproxy.proxy.layers.http import _http1, _http2
from mitmproxy.proxy.layers.http._base import ReceiveHttp
from mitmproxy.proxy.layers.http._events import RequestData, RequestHeaders, ResponseHeaders, ResponseProtocolError
from mitmproxy.proxy.layers.websocket import WebsocketConnection, WebsocketLayer, WebsocketStartHook
from mitmproxy.websocket import WebSocketData
from wsproto import ConnectionType
from wsproto.connection import Connection as WebSocket
from wsproto.events import BytesMessage, CloseConnection, Message

from keyswap.refusals import Answer
from keyswap.shell.mitm import (
    connection_watch,
    held_bytes,
    http1,
    inspection,
    interjections,
    patch_table,
    turns,
    websocket,
)
from keyswap.shell.mitm.http2 import MAX_STREAMS

GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"


class Watch:
    """Answers with the status alone."""

    max_head = 2048
    left = 100.0

    def __init__(self) -> None:
        self.delivered: list[events.Event] = []

    def is_over(self, server: Server) -> bool:
        return True

    def backlog(self, server: Server) -> int:
        return 0

    def when_taken(self, server: Server, then: Callable[[], None]) -> None:
        then()

    def deliver(self, event: events.Event) -> None:
        self.delivered.append(event)

    later = deliver

    def answer(self, flow: HTTPFlow | None, status: int) -> Answer:
        return Answer(status, ((b"Content-Length", b"4"),), b"ours")

    def close_code(self, flow: HTTPFlow) -> int:
        return 1011

    def is_abusive(self, cost: float) -> bool:
        self.left -= cost
        return self.left < 0


@pytest.fixture(autouse=True)
def _changed() -> None:
    patch_table.install({400: "Bad Request", 431: "Too Large"}, shows=True)
    patch_table.install({}, shows=True)


def context(alpn: bytes = b"http/1.1") -> Context:
    client = Client(peername=("127.0.0.1", 1), sockname=("127.0.0.1", 2), state=ConnectionState.OPEN, alpn=alpn)
    connection_watch.attach_watch(client, Watch())
    options = Options()
    Proxyserver().load(Loader(SimpleNamespace(options=options, commands=SimpleNamespace(collect_commands=bool))))
    return Context(client, options)


def layer_of(made: Context) -> http.HttpLayer:
    return begun(http.HttpLayer(made, http.HTTPMode.transparent))


def begun[L: Layer](layer: L) -> L:
    list(layer.handle_event(events.Start()))
    return layer


def in_turns(layer: http.HttpLayer, data: bytes) -> list[commands.Command]:
    """What the layers do with what was read, turn after turn."""
    watch: Any = connection_watch.watch_of(layer.context.client)
    done = list(layer.handle_event(events.DataReceived(layer.context.client, data)))
    while watch.delivered:
        done += list(layer.handle_event(watch.delivered.pop(0)))
    return done


def sent(done: list[commands.Command]) -> bytes:
    return b"".join(command.data for command in done if isinstance(command, commands.SendData))


def closes(done: list[commands.Command]) -> bool:
    return any(isinstance(command, commands.CloseConnection) for command in done)


def test_what_the_guard_looks_at_is_there() -> None:
    """The private names by which a connection's state is told exist, on both protocols."""
    for alpn, kind in ((b"http/1.1", _http1.Http1Server), (b"h2", _http2.Http2Server)):
        made = context(alpn)
        layer = layer_of(made)
        assert inspection.phase(layer).name == "head"
        assert isinstance(layer.connections[made.client], kind)
        assert layer.streams == {} and layer.command_sources == {}
        stream = http.HttpStream(made, 1)
        layer.streams[1] = stream
        assert stream._paused is None and len(stream._paused_event_queue) == 0
        assert not inspection.is_full(layer, 0) and inspection.unread_from(layer, Server(address=None)) == 0
        server = layer.connections[made.client]
        if isinstance(server, _http2.Http2Server):
            buffer = server.h2_conn.incoming_buffer
            assert len(buffer._data) == len(buffer._headers_buffer) == buffer.max_frame_size == 0
            assert server.h2_conn.decoder.max_header_list_size == 2 * Watch.max_head
            assert server.h2_conn.stream_buffers == {} and server.is_closed(1) in {True, False}


@pytest.mark.parametrize(
    ("raw", "status"), [(b"GET / HTTP/1.1\r\nno colon\r\n\r\n", 400), (b"GET / HTTP/1.1\r\nA: " + b"a" * 4000, 431)]
)
def test_a_head_that_ends_here_is_answered_in_our_words(raw: bytes, status: int) -> None:
    """A malformed head and one that is too long get the gateway's answer, once, and the connection is closed."""
    made = context()
    server = begun(_http1.Http1Server(made))
    done = list(server.handle_event(events.DataReceived(made.client, raw)))
    assert sent(done).startswith(b"HTTP/1.1 %d " % status) and sent(done).endswith(b"\r\n\r\nours") and closes(done)
    assert not list(server.handle_event(events.DataReceived(made.client, GET)))


def test_trailers_are_discarded() -> None:
    """A chunked body ends as it does without its trailers, which mitmproxy's layers would crash on."""
    made = context()
    server = begun(_http1.Http1Server(made))
    raw = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nX-Smuggled: 1\r\n\r\n"
    done = list(server.handle_event(events.DataReceived(made.client, raw)))
    got = [command.event for command in done if isinstance(command, ReceiveHttp)]
    assert [type(event).__name__ for event in got] == ["RequestHeaders", "RequestData", "RequestEndOfMessage"]
    assert isinstance(got[1], RequestData) and got[1].data == b"x"


CHUNKED = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"


def body_of(made: Context, *reads: bytes) -> list[bytes]:
    """The pieces that become of a chunked body; b"" is its end."""
    server = begun(_http1.Http1Server(made))
    layer: Any = http.HttpLayer(made, http.HTTPMode.transparent)
    server.context.layers.insert(0, layer)
    done: list[commands.Command] = []
    for read in (CHUNKED, *reads):
        done += list(server.handle_event(events.DataReceived(made.client, read)))
    got = [command.event for command in done if isinstance(command, ReceiveHttp)]
    assert isinstance(got.pop(0), RequestHeaders)
    return [event.data if isinstance(event, RequestData) else type(event).__name__.encode() for event in got]


@pytest.mark.parametrize(
    "chunks",
    [b"1\r\nx\r\n" * 3, b"1;a=b\r\nx\r\n0000000002\r\nxx\r\n", b"3 \t\r\nxxx\r\n", b"1\r\nx\r\n" * 3 + b"3\r\nxxx\r\n"],
)
def test_the_chunks_of_a_read_are_one_piece(chunks: bytes) -> None:
    """However small its chunks, a body becomes one piece a read, of the same bytes, however it was cut into reads."""
    end = b"RequestEndOfMessage"
    whole = body_of(context(), chunks + b"0\r\n\r\n")
    assert len(whole) == 2 and set(whole[0]) == set(b"x") and whole[1] == end
    for at in range(1, len(chunks)):
        cut = body_of(context(), chunks[:at], chunks[at:] + b"0\r\n\r\n")
        assert b"".join(cut) == whole[0] + end and len(cut) <= 5


@pytest.mark.parametrize(
    "bad", [b"1\r\nxx\r\n", b"1\r\nx\n", b"g\r\nx\r\n", b"1\nx\n", b"-1\r\nx\r\n", b"1\rx\r\n\r\n", b"1;\x00\r\nx\r\n"]
)
def test_a_malformed_chunk_behind_good_ones_is_malformed(bad: bytes) -> None:
    """What was before it has come; the body does not end, and is refused."""
    got = body_of(context(), b"1\r\nx\r\n" * 5 + bad + b"0\r\n\r\n")
    assert got[-1] == b"RequestProtocolError" and b"RequestEndOfMessage" not in got


def test_very_many_small_chunks_end_the_request() -> None:
    """Half a million small chunks at once are a flood: 400, and the connection is closed; large ones cost nothing."""
    made = context()
    watch: Any = connection_watch.watch_of(made.client)
    assert body_of(made, *[(b"40\r\n" + b"x" * 64 + b"\r\n") * 500] * 20) and watch.left == 100
    got = body_of(made, *[b"1\r\nx\r\n" * 10_000] * 6)
    assert watch.left < 0 and got[-1] == b"RequestProtocolError" and len(got) == 7


def pipelined(made: Context, count: int) -> tuple[Any, list[bytes]]:
    """An HTTP/1 connection on which so many requests have come in one read, each of them answered at once."""
    made.server = Server(address=("127.0.0.1", 3))
    layer = layer_of(made)
    server: Any = layer.connections[made.client]
    targets: list[bytes] = []

    def run(event: events.Event) -> None:
        for command in list(layer.handle_event(event)):
            while isinstance(command, commands.StartHook):
                flow: Any = getattr(command, "flow", None)
                if command.name == "requestheaders":
                    targets.append(flow.request.data.path)
                    flow.response = Response.make(401, b"no")
                (command, *_) = [*layer.handle_event(events.HookCompleted(command)), None]

    run(events.DataReceived(made.client, b"".join(b"GET /%d HTTP/1.1\r\nHost: h\r\n\r\n" % n for n in range(count))))
    watch: Any = connection_watch.watch_of(made.client)
    while watch.delivered:
        assert inspection.is_full(layer, 1 << 20), "more is read before what has come was used"
        run(watch.delivered.pop(0))
    assert not inspection.is_full(layer, 1 << 20) and not server.buf
    return server, targets


def test_requests_in_one_read_are_taken_one_a_turn() -> None:
    """Requests that came one behind the other are answered in their order, each in a turn of its own."""
    _, targets = pipelined(context(), 300)
    assert targets == [b"/%d" % number for number in range(300)]


@pytest.mark.parametrize("side", ["client", "server"])
def test_what_came_before_a_socket_stood_is_taken_in_turns(side: str) -> None:
    """Ten thousand messages that came with a WebSocket's handshake or answer are passed on in order, some a turn.

    What was read behind them, and the end, come after them.
    """
    made = context()
    made.server = Server(address=("127.0.0.1", 3))
    made.server.state = ConnectionState.OPEN
    layer = layer_of(made)
    one: Any = layer.connections[made.client]
    if side == "server":
        one = layer.connections[made.server] = _http1.Http1Client(made)
    one.stream_id, came = 1, bytes(range(250)) * 40
    one.buf += came
    passed, more = list[bytes](), b"read behind it"

    def run(commands: Any) -> None:
        passed.append(b"".join(getattr(command.event, "data", b"|end") for command in commands))

    run(one.make_pipe())
    run(one._handle_event(events.DataReceived(one.conn, more)))
    run(one._handle_event(events.ConnectionClosed(one.conn)))
    watch: Any = connection_watch.watch_of(made.client)
    while watch.delivered:
        assert turns.waits_for_turn(layer, one.conn), "more is read before what has come was used"
        run(one._handle_event(watch.delivered.pop(0)))
    assert b"".join(passed) == came + more + b"|end" and max(map(len, passed)) <= 260
    assert not turns.waits_for_turn(layer, one.conn)


def test_a_socket_takes_an_answer_that_comes_too_late() -> None:
    """What was to answer a handshake that has been answered meanwhile ends the socket at both ends, and harms nothing."""
    made = context()
    made.server = Server(address=("127.0.0.1", 3))
    made.client.state = made.server.state = ConnectionState.OPEN
    flow = HTTPFlow(made.client, made.server)
    flow.request, flow.response, flow.websocket = Request.make("GET", "http://h/"), Response.make(101), WebSocketData()
    socket = WebsocketLayer(made, flow)
    (hook,) = list(socket.handle_event(events.Start()))
    assert isinstance(hook, WebsocketStartHook)
    list(socket.handle_event(events.HookCompleted(hook)))
    late = interjections.Interjection(1, Answer(503, (), b""))
    done = list(socket.handle_event(late))
    assert {one.connection for one in done if isinstance(one, commands.CloseConnection)} == {made.client, made.server}
    assert not list(socket.handle_event(late)), "it has ended"


def test_an_endless_chunk_head_is_malformed() -> None:
    """A chunk extension that does not end is answered 400 and closed."""
    made = context()
    layer = layer_of(made)
    server = layer.connections[made.client]
    raw = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1;" + b"a" * 40_000
    done = list(server.handle_event(events.DataReceived(made.client, raw)))
    assert sent(done).startswith(b"HTTP/1.1 400 ") and closes(done)


def test_interim_responses_are_skipped() -> None:
    """100 and 103 of a backend are not taken for its answer; 101 is one."""
    made = context()
    made.server = Server(address=("127.0.0.1", 3))
    made.server.state = ConnectionState.OPEN
    for interim, status in (
        (b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n", 200),
        (b"", 101),
    ):
        upstream = begun(_http1.Http1Client(made))
        request = Request.make("GET", "http://h/")
        list(upstream.send(RequestHeaders(1, request, end_stream=True)))
        done = []
        for raw in (interim, b"HTTP/1.1 %d X\r\nContent-Length: 0\r\n\r\n" % status):
            done += list(upstream.handle_event(events.DataReceived(made.server, raw)))
        heads = [command.event for command in done if isinstance(command, ReceiveHttp)]
        assert isinstance(heads[0], ResponseHeaders) and heads[0].response.status_code == status


def test_an_endless_response_head_is_an_error() -> None:
    """A backend whose head does not end is given up, whatever the time-outs are."""
    made = context()
    made.server = Server(address=("127.0.0.1", 3))
    made.server.state = ConnectionState.OPEN
    upstream = begun(_http1.Http1Client(made))
    list(upstream.send(RequestHeaders(1, Request.make("GET", "http://h/"), end_stream=True)))
    raw = b"HTTP/1.1 200 OK\r\nX: " + b"a" * (http1.MAX_UPSTREAM_HEAD + 1)
    done = list(upstream.handle_event(events.DataReceived(made.server, raw)))
    told = [command.event for command in done if isinstance(command, ReceiveHttp)]
    assert isinstance(told[0], ResponseProtocolError) and closes(done)


def test_an_answer_can_be_interjected() -> None:
    """From outside, an HTTP/1 request whose body is still coming is answered and its connection closed."""
    made = context()
    layer = layer_of(made)
    raw = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\n12345"
    server = layer.connections[made.client]
    list(server.handle_event(events.DataReceived(made.client, raw)))
    event = interjections.interject_http1(layer, Answer(400, ((b"A", b"b"),), b"told"))
    assert event is not None and layer.command_sources[event.command] is server
    done = list(layer.handle_event(event))
    assert sent(done).startswith(b"HTTP/1.1 400 Bad Request\r\nA: b\r\n") and sent(done).endswith(b"told")
    assert closes(done)


def test_http2_frames_of_no_use_end_the_connection() -> None:
    """More pings than the watch allows end the connection with ENHANCE_YOUR_CALM."""
    made = context(b"h2")
    layer = layer_of(made)
    client = H2Connection()
    client.initiate_connection()
    for _ in range(200):
        client.ping(b"12345678")
    done = in_turns(layer, client.data_to_send())
    assert closes(done) and (11).to_bytes(4, "big") in sent(done)[-60:]


@pytest.mark.parametrize("cut", [1, 5, 23, 24, 25, 33, 34, 1000])
def test_frames_in_one_read_are_taken_in_turns(cut: int) -> None:
    """300 requests, or 4,000 frames, that came in one read are taken some at a time, in order, wherever reads end."""
    made = context(b"h2")
    made.server = Server(address=("127.0.0.1", 3))
    watch: Any = connection_watch.watch_of(made.client)
    watch.left = 1e6
    layer = layer_of(made)
    server: Any = layer.connections[made.client]
    client = H2Connection()
    client.initiate_connection()
    for number in range(300):
        client.send_headers(
            2 * number + 1,
            [(":method", "GET"), (":path", f"/{number}"), (":scheme", "https"), (":authority", "h")],
            end_stream=True,
        )
        client.reset_stream(2 * number + 1)
    said = client.data_to_send() + frames.PingFrame(0, opaque_data=b"12345678").serialize() * 4000
    seen: list[int | None] = []
    receive = server.h2_conn._receive_frame

    def received(frame: frames.Frame) -> Any:
        seen.append(frame.type)
        return receive(frame)

    server.h2_conn._receive_frame = received
    most = 0
    for part in (said[:cut], said[cut:]):
        watch.delivered.append(events.DataReceived(made.client, part))
        while watch.delivered:
            before = len(seen)
            list(layer.handle_event(watch.delivered.pop(0)))
            most = max(most, len(seen) - before)
    assert seen.count(1) == seen.count(3) == 300 and seen.count(6) == 4000 and 8 < most <= 65


def test_http2_frames_are_bounded() -> None:
    """A frame that announces more than it may, or a header block without end, is not gathered."""
    made = context(b"h2")
    layer = layer_of(made)
    client = H2Connection()
    client.initiate_connection()
    done = list(layer.handle_event(events.DataReceived(made.client, client.data_to_send())))
    begin = b"\x00\x10\x00\x01\x00\x00\x00\x00\x01" + b"a" * 4096
    more = b"\x00\x10\x00\x09\x00\x00\x00\x00\x01" + b"a" * 4096
    done = list(layer.handle_event(events.DataReceived(made.client, begin + more * 3)))
    assert closes(done)


@pytest.mark.parametrize("sizes", [[websocket.MAX_MESSAGE + 1], [1] * (websocket.MAX_FRAGMENTS + 2)])
def test_websocket_messages_are_bounded(sizes: list[int]) -> None:
    """A message of too many bytes or too many frames closes the socket with 1009."""
    made = context()
    caller = WebSocket(ConnectionType.CLIENT)
    ours = WebsocketConnection(ConnectionType.SERVER, [], conn=made.client)
    ours.receive_data(b"".join(caller.send(BytesMessage(b"a" * size, message_finished=False)) for size in sizes))
    got = list(ours.events())
    assert isinstance(got[-1], CloseConnection) and got[-1].code == 1009
    assert all(isinstance(event, Message) for event in got[:-1])


# ---- HTTP/2, from a caller of h2's


class Caller:
    """An HTTP/2 caller before the layers; its hooks are answered, connections upstream only when a test says so."""

    def __init__(self) -> None:
        made = context(b"h2")
        made.server = Server(address=("127.0.0.1", 3))
        self.client = made.client
        self.layer = http.HttpLayer(made, http.HTTPMode.transparent)
        self.watch: Any = connection_watch.watch_of(made.client)
        self.watch.left = 1000.0
        self.h2 = H2Connection()
        self.h2.initiate_connection()
        self.answers_hooks = True
        self.hooks: list[str] = []
        self.got: list[Any] = []
        self.event(events.Start())
        self.say()

    @property
    def server(self) -> Any:
        return self.layer.connections[self.client]

    def ask(self, *fields: tuple[str, str], ends: bool = True, **more: Any) -> int:
        stream_id = self.h2.get_next_available_stream_id()
        head = [(":method", "GET"), (":path", "/"), (":scheme", "https"), (":authority", "h")]
        self.h2.send_headers(stream_id, [*head, *fields], end_stream=ends, **more)
        return stream_id

    def say(self, raw: bytes | None = None) -> list[commands.Command]:
        """Send what was prepared, or these bytes."""
        self.got = []
        return self.event(events.DataReceived(self.client, raw or self.h2.data_to_send()))

    def event(self, event: events.Event) -> list[commands.Command]:
        """What the layers do after an event, hooks answered."""
        done: list[commands.Command] = []
        for command in list(self.layer.handle_event(event)):
            done.append(command)
            if isinstance(command, commands.StartHook):
                self.hooks.append(command.name)
                if self.answers_hooks:
                    done += self.event(events.HookCompleted(command))
        while self.watch.delivered and not isinstance(event, events.HookCompleted):
            done += self.event(self.watch.delivered.pop(0))
        for command in done:
            if isinstance(command, commands.SendData) and command.connection is self.client:
                self.got += self.h2.receive_data(command.data)
                command.data = b""
        return done


def opened(done: list[commands.Command]) -> commands.OpenConnection:
    (found,) = [command for command in done if isinstance(command, commands.OpenConnection)]
    return found


def test_requests_under_way_are_bounded() -> None:
    """Requests count until they have ended here, whatever h2 says of their streams: one over 100 is refused."""
    caller = Caller()
    caller.answers_hooks = False
    for _ in range(100):
        stream_id = caller.ask()
        caller.say()
        caller.h2.reset_stream(stream_id)
        caller.say()
    assert len(caller.layer.streams) == 100 and caller.server.h2_conn.open_inbound_streams == 0
    caller.watch.left = 100
    refused = caller.ask()
    caller.say()
    assert refused not in caller.layer.streams and len(caller.layer.streams) == 100
    (event,) = [one for one in caller.got if isinstance(one, StreamReset)]
    assert event.stream_id == refused and event.error_code == ErrorCodes.REFUSED_STREAM


def test_a_request_that_is_not_whole_weighs_more_than_its_bytes() -> None:
    """A body that has hardly begun counts as what its request takes; a small one that is whole counts for nothing, and
    one that flows to its backend neither."""
    caller = Caller()
    for _ in range(3):
        caller.h2.send_data(caller.ask(ends=False), b"{")
    caller.h2.send_data(caller.ask(ends=False), b"{}", end_stream=True)
    caller.say()
    assert [one.size for one in held_bytes.held(caller.layer, 0)] == [held_bytes.STREAM + 1] * 3
    for stream in caller.layer.streams.values():
        stream.client_state = stream.state_stream_request_body
    assert held_bytes.held(caller.layer, 0) == []


def loose(layer: http.HttpLayer, ahead: int = 0) -> list[tuple[HTTPFlow | None, bool]]:
    """Whose the bytes are that are held."""
    return [(one.flow, one.begun) for one in held_bytes.held(layer, ahead)]


LONG = b"GET / HTTP/1.1\r\nHost: h\r\nA: " + b"a" * held_bytes.SMALL


def test_a_head_that_has_not_ended_is_of_no_request() -> None:
    """What has come of it counts as such, also behind a request that has ended here, and each is told from the last."""
    made = context()
    made.server = Server(address=("127.0.0.1", 3))
    vars(connection_watch.watch_of(made.client))["max_head"] = 2 * len(LONG)
    layer = layer_of(made)
    assert held_bytes.unended_head(layer) is None and loose(layer, 1) == [(None, False)]
    in_turns(layer, LONG)
    assert loose(layer) == [(None, False)] and held_bytes.unended_head(layer) == 1


@pytest.mark.parametrize(
    ("sent_first", "behind"),
    [(GET, LONG), (b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10000\r\n\r\n", b""), (GET, b"")],
)
def test_what_is_read_behind_an_open_request_is_its_own(sent_first: bytes, behind: bytes) -> None:
    """A head behind a request that is judged, the body of one, and whatever nobody has read yet of either."""
    made = context()
    made.server = Server(address=("127.0.0.1", 3))
    layer = layer_of(made)
    in_turns(layer, sent_first + behind)
    (stream,) = layer.streams.values()
    assert loose(layer, 2 * held_bytes.SMALL) == [(stream.flow, True)]
    assert held_bytes.unended_head(layer) is None


def test_a_body_behind_a_head_that_is_judged_is_held() -> None:
    """What has come of it waits for the judgement, and counts as its request's."""
    made = context()
    made.server = Server(address=("127.0.0.1", 3))
    layer = layer_of(made)
    in_turns(layer, b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 90000\r\n\r\n")
    for _ in range(3):
        in_turns(layer, b"x" * 16000)
    assert [one.size for one in held_bytes.held(layer, 100)] == [held_bytes.STREAM + 48100]


def test_requests_that_wait_for_their_turn_have_begun() -> None:
    """What came with a request that has its answer is no unfinished head while others have their turn."""
    made = context()
    layer = layer_of(made)
    server: Any = layer.connections[made.client]
    server.buf += GET * 100
    server.keyswap_waits = True
    assert loose(layer) == [(None, True)]


def test_a_header_block_that_has_not_ended_is_of_no_request() -> None:
    """Beside open requests too, as nothing else may come before its end; the rest of a frame is of the last of them."""
    caller = Caller()
    caller.answers_hooks = False
    caller.ask()
    last = caller.ask(ends=False)
    caller.say()
    caller.say(frames.DataFrame(last, b"x" * 8000).serialize()[:6000])
    assert [one.size for one in held_bytes.held(caller.layer, 0)] == [held_bytes.STREAM, held_bytes.STREAM + 6000]
    assert held_bytes.unended_head(caller.layer) is None
    caller.say(b"x" * 2009)
    caller.say(frames.HeadersFrame(last + 2, b"\x00" * 3000).serialize())
    assert (None, False) in loose(caller.layer) and held_bytes.unended_head(caller.layer) == last + 2


def test_as_many_requests_may_follow_those_that_are_taken_back() -> None:
    """A caller that resets its 100 streams and opens 100 others in one segment is not refused."""
    caller = Caller()
    streams = [caller.ask(ends=False) for _ in range(100)]
    caller.say()
    caller.answers_hooks = False
    for stream_id in streams:
        caller.h2.reset_stream(stream_id)
    others = [caller.ask() for _ in range(100)]
    caller.say()
    assert set(others) < set(caller.layer.streams)
    assert not [one for one in caller.got if isinstance(one, StreamReset)]


def test_streams_are_forgotten() -> None:
    """Neither refused requests nor answered ones are kept; mitmproxy's own list of them is swept."""
    caller = Caller()
    for number in range(300):
        caller.ask(("content-length", "0"), ("content-length", "0")) if number % 2 else caller.ask(('a"b', "c"))
        caller.watch.left = 1000
        caller.say()
        assert not caller.layer.streams
    assert len(caller.server.streams) <= 2 * MAX_STREAMS + 1 and not caller.server.keyswap_missing


@pytest.mark.parametrize("sends", ["reset", "end"])
def test_a_request_that_ends_while_its_connection_is_made_is_not_sent(sends: str) -> None:
    """What ended a request before its connection stood: no byte of it goes upstream, its error is told, once."""
    caller = Caller()
    stream_id = caller.ask()
    opening = opened(caller.say())
    if sends == "reset":
        caller.h2.reset_stream(stream_id)
        caller.say()
    else:
        event = interjections.interject(caller.layer, caller.layer.streams[stream_id].flow, Answer(504, (), b"late"))
        assert event is not None
        caller.event(event)
    opening.connection.state = ConnectionState.OPEN
    opening.connection.timestamp_tcp_setup = 1.0
    done = caller.event(events.OpenConnectionCompleted(opening, None))
    assert not [one for one in done if isinstance(one, commands.SendData) and one.connection is not caller.client]
    assert [one.connection for one in done if isinstance(one, commands.CloseConnection)] == [opening.connection]
    assert caller.hooks.count("error") == 1 and not caller.layer.streams and not caller.layer.command_sources
    assert not caller.layer.waiting_for_establishment


def test_connections_upstream_are_forgotten() -> None:
    """One that could not be made is forgotten at once, one that has ended when the next is made."""
    caller = Caller()
    caller.ask()
    opening = opened(caller.say())
    opening.connection.error = "refused"
    caller.event(events.OpenConnectionCompleted(opening, "refused"))
    assert list(caller.layer.connections) == [caller.client]
    for _ in range(5):
        caller.ask()
        opening = opened(caller.say())
        server = opening.connection
        server.state, server.timestamp_tcp_setup = ConnectionState.OPEN, 1.0
        caller.event(events.OpenConnectionCompleted(opening, None))
        caller.event(events.DataReceived(server, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"))
        server.state = ConnectionState.CLOSED
        caller.event(events.ConnectionClosed(server))
        server.timestamp_end = 1.0
        assert len(caller.layer.connections) == 2 and not caller.layer.streams


def test_what_is_remembered_of_settings_is_bounded() -> None:
    """A table of 2^32-1 bytes of headers stays at 4,096, and is read; settings that nobody knows are not kept."""
    caller = Caller()
    caller.h2.update_settings({SettingCodes.HEADER_TABLE_SIZE: (1 << 32) - 1})
    caller.h2.decoder.max_allowed_table_size = (1 << 32) - 1
    caller.say()
    for _ in range(10):
        stream_id = caller.ask(('a"b', "c"))
        caller.say()
        assert [one for one in caller.got if isinstance(one, ResponseReceived) and one.stream_id == stream_id]
    assert caller.server.h2_conn.encoder.header_table_size == 4096
    unknown = b"".join(struct.pack(">HI", code, 1) for code in range(100, 2000))
    caller.say(len(unknown).to_bytes(3, "big") + b"\x04\x00\x00\x00\x00\x00" + unknown)
    assert len(caller.server.h2_conn.remote_settings._settings) < 20


FLOODS = {
    "PING ACK": b"\x00\x00\x08\x06\x01\x00\x00\x00\x00" + b"12345678",
    "SETTINGS ACK": b"\x00\x00\x00\x04\x01\x00\x00\x00\x00",
    "WINDOW_UPDATE": b"\x00\x00\x04\x08\x00\x00\x00\x00\x00\x00\x00\x00\x01",
    "WINDOW_UPDATE on a closed stream": b"\x00\x00\x04\x08\x00\x00\x00\x00\x01\x00\x00\x00\x01",
    "RST_STREAM on a closed stream": b"\x00\x00\x04\x03\x00\x00\x00\x00\x01\x00\x00\x00\x08",
    "HEADERS on a closed stream": b"\x00\x00\x01\x01\x05\x00\x00\x00\x01\x82",
    "DATA on a closed stream": b"\x00\x00\x00\x00\x00\x00\x00\x00\x01",
    "empty DATA": b"\x00\x00\x00\x00\x00\x00\x00\x00\x03",
    "DATA of one byte": b"\x00\x00\x01\x00\x00\x00\x00\x00\x03x",
}


@pytest.mark.parametrize("frame", FLOODS)
def test_every_frame_of_no_use_costs(frame: str) -> None:
    """What an honest caller sends once or never ends the connection in the end, however small it is."""
    caller = Caller()
    taken_back = caller.ask()
    caller.say()
    caller.h2.reset_stream(taken_back)
    caller.ask(ends=False)
    caller.say()
    caller.watch.left = 100
    often = 100 if frame != "DATA of one byte" else 4900
    assert not closes(caller.say(FLOODS[frame] * (often - 10))), "too soon"
    caller.server.h2_conn._due = 0
    assert closes(in_turns(caller.layer, FLOODS[frame] * 200))


def test_what_honest_callers_send_costs_nothing() -> None:
    """Requests with a priority, as browsers send them, large DATA, a reset that comes after the answer."""
    caller = Caller()
    caller.watch.left = 10
    for _ in range(100):
        stream_id = caller.ask(
            ("content-length", "3200"), ends=False, priority_weight=256, priority_depends_on=0, priority_exclusive=True
        )
        for _ in range(50):
            caller.h2.send_data(stream_id, b"x" * 64)
        caller.h2.end_stream(stream_id)
        opening = opened(caller.say())
        caller.event(events.OpenConnectionCompleted(opening, "refused"))
        caller.say(b"\x00\x00\x04\x03\x00" + stream_id.to_bytes(4, "big") + b"\x00\x00\x00\x08")
    assert caller.watch.left >= 8


@pytest.mark.parametrize("trailers", [False, True])
def test_a_body_that_is_shorter_than_it_says_is_no_request(trailers: bool) -> None:
    """RFC 9113 §8.1.1: reset with PROTOCOL_ERROR; trailers that name a length change nothing."""
    caller = Caller()
    stream_id = caller.ask(("content-length", "5"), ends=not trailers)
    if trailers:
        caller.h2.send_data(stream_id, b"xy")
        caller.h2.send_headers(stream_id, [("x", "y"), ("content-length", "2")], end_stream=True)
    done = caller.say()
    (event,) = [one for one in caller.got if isinstance(one, StreamReset)]
    assert event.error_code == ErrorCodes.PROTOCOL_ERROR and not caller.layer.streams
    assert not [one for one in done if isinstance(one, commands.OpenConnection)] and "request" not in caller.hooks
