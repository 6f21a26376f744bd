"""What inside_http.py counts on in mitmproxy's HTTP layers, and what it makes of them, without a socket."""

from types import SimpleNamespace

import pytest
from h2.connection import H2Connection
from mitmproxy.addonmanager import Loader
from mitmproxy.addons.proxyserver import Proxyserver
from mitmproxy.connection import Client, ConnectionState, Server
from mitmproxy.http import HTTPFlow, Request
from mitmproxy.options import Options
from mitmproxy.proxy import commands, events
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layer import Layer
from mitmproxy.proxy.layers import http
from mitmproxy.proxy.layers.http import _http1, _http2
from mitmproxy.proxy.layers.http._base import ReceiveHttp
from mitmproxy.proxy.layers.http._events import RequestData, RequestHeaders, ResponseHeaders, ResponseProtocolError
from mitmproxy.proxy.layers.websocket import WebsocketConnection
from wsproto import ConnectionType
from wsproto.connection import Connection as WebSocket
from wsproto.events import BytesMessage, CloseConnection, Message

from keyswap.refusals import Answer
from keyswap.shell import inside_http

GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"


class Watch:
    """Answers with the status alone."""

    max_head = 2048
    left = 100.0

    def answer(self, flow: HTTPFlow | None, status: int) -> Answer:
        return Answer(status, ((b"Content-Length", b"4"),), b"ours")

    def strike(self, cost: float) -> bool:
        self.left -= cost
        return self.left < 0


@pytest.fixture(autouse=True)
def _changed() -> None:
    inside_http.install({400: "Bad Request", 431: "Too Large"}, shows=True)
    inside_http.install({}, shows=True)


def context(alpn: bytes = b"http/1.1") -> Context:
    client = Client(peername=("127.0.0.1", 1), sockname=("127.0.0.1", 2), state=ConnectionState.OPEN, alpn=alpn)
    inside_http.watch(client, Watch())
    options = Options()
    Proxyserver().load(Loader(SimpleNamespace(options=options, commands=SimpleNamespace(collect_commands=bool))))
    return Context(client, options)


def layer_of(made: Context) -> http.HttpLayer:
    return begun(http.HttpLayer(made, http.HTTPMode.transparent))


def begun[L: Layer](layer: L) -> L:
    list(layer.handle_event(events.Start()))
    return layer


def sent(done: list[commands.Command]) -> bytes:
    return b"".join(command.data for command in done if isinstance(command, commands.SendData))


def closes(done: list[commands.Command]) -> bool:
    return any(isinstance(command, commands.CloseConnection) for command in done)


def test_installing_twice_changes_once() -> None:
    """What was before is called once, and is mitmproxy's own."""
    for owner, name in ((_http1.Http1Server, "send"), (_http2.Http2Server, "_handle_event")):
        before = vars(getattr(owner, name))["before_keyswap"]
        assert not hasattr(before, "before_keyswap") and before.__module__.startswith("mitmproxy.")


def test_what_the_guard_looks_at_is_there() -> None:
    """The private names by which a connection's state is told exist, on both protocols."""
    for alpn, kind in ((b"http/1.1", _http1.Http1Server), (b"h2", _http2.Http2Server)):
        made = context(alpn)
        layer = layer_of(made)
        assert inside_http.phase(layer).name == "head"
        assert isinstance(layer.connections[made.client], kind)
        assert layer.streams == {} and layer.command_sources == {}
        stream = http.HttpStream(made, 1)
        layer.streams[1] = stream
        assert stream._paused is None and len(stream._paused_event_queue) == 0
        assert not inside_http.is_full(layer, 0) and inside_http.unread(layer, Server(address=None)) == 0
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
    raw = b"HTTP/1.1 200 OK\r\nX: " + b"a" * (inside_http.MAX_UPSTREAM_HEAD + 1)
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
    event = inside_http.interject_http1(layer, Answer(400, ((b"A", b"b"),), b"told"))
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
    done = list(layer.handle_event(events.DataReceived(made.client, client.data_to_send())))
    assert closes(done) and (11).to_bytes(4, "big") in sent(done)[-60:]


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


@pytest.mark.parametrize("sizes", [[inside_http.MAX_MESSAGE + 1], [1] * (inside_http.MAX_FRAGMENTS + 2)])
def test_websocket_messages_are_bounded(sizes: list[int]) -> None:
    """A message of too many bytes or too many frames closes the socket with 1009."""
    made = context()
    caller = WebSocket(ConnectionType.CLIENT)
    ours = WebsocketConnection(ConnectionType.SERVER, [], conn=made.client)
    ours.receive_data(b"".join(caller.send(BytesMessage(b"a" * size, message_finished=False)) for size in sizes))
    got = list(ours.events())
    assert isinstance(got[-1], CloseConnection) and got[-1].code == 1009
    assert all(isinstance(event, Message) for event in got[:-1])
