"""mitmproxy's HTTP layers, changed where they let through, keep or say what a gateway must not.

Law: as in `internals`. A change here bounds, drops or answers; it never lets pass what mitmproxy would have refused.
What is bounded by the policy is asked of the connection's `Watch`, which the guard puts on the client; without one
nothing is. Measured on 12.2.3.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import h2.stream
import h11
from h11._readers import ChunkedReader
from h11._receivebuffer import ReceiveBuffer
from mitmproxy.connection import ConnectionState, Server
from mitmproxy.flow import Error
from mitmproxy.http import HTTPFlow
from mitmproxy.proxy.commands import CloseConnection, SendData
from mitmproxy.proxy.events import ConnectionClosed, DataReceived, Event
from mitmproxy.proxy.layer import CommandGenerator
from mitmproxy.proxy.layers import http, websocket
from mitmproxy.proxy.layers.http import _http1, _http2
from mitmproxy.proxy.layers.http._base import ReceiveHttp
from mitmproxy.proxy.layers.http._events import (
    ErrorCode,
    HttpEvent,
    RequestProtocolError,
    ResponseData,
    ResponseEndOfMessage,
    ResponseHeaders,
    ResponseProtocolError,
    ResponseTrailers,
)
from mitmproxy.proxy.layers.http._hooks import HttpErrorHook
from wsproto.events import CloseConnection as WebSocketClose
from wsproto.events import Message

from keyswap.http_date import dated
from keyswap.refusals import Answer
from keyswap.shell.mitm import http2, upstream_pool
from keyswap.shell.mitm.connection_watch import (
    Interjection,
    TurnDue,
    Watch,
    answer_to,
    event_for,
    flow_of,
    layer_of,
    wait_for_turn,
    waits_for_turn,
    watch,
    watch_of,
    wrap,
)

__all__ = ["Interjection", "Phase", "Watch", "bound_body", "http_layer", "install", "interject", "interject_http1"]
__all__ += ["is_full", "phase", "room", "still_sends", "unread", "waits_for_turn", "watch", "watch_of"]

MAX_CHUNK_HEAD = 16 << 10
"""Bytes of a chunk's size and extensions, or of trailers, after which a body is malformed."""
SMALL_CHUNK, SMALL_CHUNK_COST = 64, 0.002
"""Bytes under which a chunk of a request costs: 16,500 a second are free, and half a million at once."""
SMALL_READ, MIDDLE_READ = 8 << 10, 16 << 10
"""Bytes that are read at once of a head, and of a body that is held: thousands of callers may have as much waiting."""
MANY_SMALL = 256
"""Small chunks in one read after which the next read is a small one."""
AHEAD_OF_SOCKET = 256
"""Bytes of what came behind the handshake of a WebSocket, before its answer, that are taken in a turn."""
MAX_UPSTREAM_HEAD = 256 << 10
MAX_MESSAGE, MAX_FRAGMENTS = 4 << 20, 1 << 14
"""Bytes and frames of a WebSocket message, after which the socket is closed with 1009 (RFC 6455 §7.4.1)."""


def interject(layer: http.HttpLayer, flow: HTTPFlow, answer: Answer) -> Interjection | None:
    """The event that ends the stream of `flow` with an answer; None: it has ended."""
    for stream in layer.streams.values():
        if getattr(stream, "flow", None) is flow:
            return event_for(layer, stream, stream.stream_id, answer)
    return None


def interject_http1(layer: http.HttpLayer, answer: Answer) -> Interjection | None:
    """The same for the one request that an HTTP/1 connection carries, whose head may not have ended."""
    server: Any = layer.connections.get(layer.context.client)  # None: a TLS handshake has not ended
    if not isinstance(server, _http1.Http1Server):
        return None
    return event_for(layer, layer.streams.get(server.stream_id, server), server.stream_id, answer)


def install(reasons: Mapping[int, str], shows: bool) -> None:
    """Change the layers of this process; doing it again changes nothing.

    `reasons` are the phrases of HTTP/1; `shows`: somebody looks at flows, and at the messages of WebSockets.
    """
    _REASONS.update(reasons)
    one = _http1.Http1Server
    wrap(one, "__init__", _begin_http1)
    wrap(one, "send", _send_http1)
    wrap(one, "read_headers", _read_request_head)
    wrap(one, "read_body", _read_request_body)
    wrap(one, "mark_done", _done_with_request)
    wrap(_http1.Http1Connection, "_handle_event", _handle_http1)
    wrap(_http1.Http1Connection, "make_pipe", _make_pipe)
    wrap(_http1.Http1Client, "__init__", _begin_upstream)
    wrap(_http1.Http1Client, "read_headers", _read_response_head)
    wrap(http.HttpStream, "handle_protocol_error", _end_stream)
    wrap(http.HttpStream, "check_body_size", _hold_body)
    wrap(http.HttpLayer, "register_connection", _connect)
    http.HttpStream.state_done = _say_more  # type: ignore[method-assign]
    http2.install()
    wrap(websocket.WebsocketConnection, "events", _websocket_events)
    if not shows:
        wrap(websocket.WebsocketLayer, "relay_messages", _relay)
    _http1.ChunkedReader = _Chunks  # type: ignore[attr-defined]


def bound_body(flow: HTTPFlow, limit: int) -> None:
    """Let this request's body, which is held whole, have at most so many bytes."""
    vars(flow)["keyswap_body_limit"] = limit


def _hold_body(original: Any, self: Any, request: bool) -> CommandGenerator[bool]:
    """A body that is held is bounded by what its flow was given: mitmproxy knows one bound for all, and no status."""
    limit = vars(self.flow).get("keyswap_body_limit") if request else None
    if limit is None or len(self.request_body_buf) <= limit:
        return bool((yield from original(self, request)))
    self.request_body_buf.clear()
    error = ResponseProtocolError(self.stream_id, "the body is too long", ErrorCode.REQUEST_TOO_LARGE)
    yield http.SendHttp(error, self.context.client)
    self.client_state = self.state_errored
    self.flow.error = Error("the body is too long")
    yield HttpErrorHook(self.flow)
    self.flow.live = False
    yield http.DropStream(self.stream_id)
    return True


def _end_stream(original: Any, self: Any, event: ResponseProtocolError) -> CommandGenerator[None]:
    """An interjection that comes after the stream's end would answer the next request."""
    over = "keyswap_over" in vars(self) or self.client_state == self.server_state == self.state_done
    if not (isinstance(event, Interjection) and over):
        yield from original(self, event)


def _say_more(self: Any, event: Event) -> CommandGenerator[None]:
    """A backend that goes on after its answer is not listened to: mitmproxy's layers would crash."""
    if isinstance(event, ResponseHeaders | ResponseData | ResponseTrailers | ResponseEndOfMessage):
        yield CloseConnection(self.context.server)


def _connect(original: Any, self: Any, command: http.RegisterHttpConnection) -> CommandGenerator[None]:
    """A connection upstream stands, or could not be made. Requests that have ended meanwhile are not sent over it."""
    server: Any = command.connection
    upstream_pool.forget_closed(self)
    if command.err:
        server.error = None  # mitmproxy would give it as the answer to every later request
        if server.timestamp_tcp_setup is None:
            upstream_pool.forget(self, server)
    waiting, self.waiting_for_establishment[server] = self.waiting_for_establishment[server], []
    ended = {id(wanted): _ended(self.command_sources[wanted]) for wanted in waiting}
    self.waiting_for_establishment[server] += [wanted for wanted in waiting if ended[id(wanted)] is None]
    for wanted in waiting if command.err and "keyswap_why" in vars(server) else ():
        vars(self.command_sources[wanted].flow)["keyswap_why"] = vars(server)["keyswap_why"]
    for wanted in waiting:
        if (reason := ended[id(wanted)]) is not None:
            stream = self.command_sources.pop(wanted)
            yield from self.event_to_child(stream, http.GetHttpConnectionCompleted(wanted, (None, reason)))
    if self.waiting_for_establishment[server] or command.err:
        yield from original(self, command)
    else:
        del self.waiting_for_establishment[server]
        yield CloseConnection(server)


def _ended(stream: Any) -> str | None:
    """How a request has ended that waits for its connection upstream."""
    for event in stream._paused_event_queue:
        if isinstance(event, RequestProtocolError | Interjection):
            return event.message
    return None


# ---- HTTP/1 towards the caller


_REASONS: dict[int, str] = {}


def _wire(answer: Answer) -> bytes:
    """An answer as HTTP/1.1, after which the connection is closed."""
    lines = [b"HTTP/1.1 %d %s" % (answer.status, _REASONS.get(answer.status, "").encode())]
    lines += [b"%s: %s" % pair for pair in (*dated(answer.headers), (b"Connection", b"close"))]
    return b"\r\n".join(lines) + b"\r\n\r\n" + answer.body


def _say(server: Any, answer: Answer | None) -> CommandGenerator[None]:
    """Answer in place of mitmproxy, close, and read no more."""
    if answer is not None and server.conn.state & ConnectionState.CAN_WRITE:
        yield SendData(server.conn, _wire(answer))
    yield CloseConnection(server.conn)


_FIELDS = rb"(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+:[^\x00-\x08\x0a-\x1f\x7f]*\r\n)*\r\n"
_REQUEST_HEAD = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+ [^\x09-\x0d\x20]+ HTTP/1\.[01]\r\n" + _FIELDS)
_RESPONSE_HEAD = re.compile(rb"HTTP/[0-9]\.[0-9] [1-9][0-9]{2}(?: [^\x00-\x08\x0a-\x1f\x7f]*)?\r\n" + _FIELDS)
"""Heads as RFC 9112 §2 to §5 have them, without their leniency: no bare CR or LF, no folded lines. Other bytes that a
request's target may not hold are left to the path law."""
_CHUNK_HEAD = re.compile(rb"([0-9A-Fa-f]{1,16})[ \t]*(?:;[^\x00-\x08\x0a-\x1f\x7f]*)?\r\n")


class _Strict(ReceiveBuffer):
    """What came from a peer. A head, or the head of a chunk, that another parser could read differently is none."""

    _extracted = bytearray()

    def __init__(self, head: re.Pattern[bytes]) -> None:
        super().__init__()
        self._head, self.awaits_head = head, False

    def _extract(self, count: int) -> bytearray:
        out = super()._extract(count)
        self._extracted = out if self.awaits_head else bytearray()
        return out

    def maybe_extract_next_line(self) -> bytearray | None:
        line = super().maybe_extract_next_line()
        return line if line is None or _CHUNK_HEAD.fullmatch(line) else bytearray(b"malformed\r\n")

    def maybe_extract_lines(self) -> list[bytearray] | None:
        lines = super().maybe_extract_lines()
        if not self.awaits_head:
            return lines
        if lines == []:  # one empty line before a request is ignored (RFC 9112 §2.2)
            lines = super().maybe_extract_lines()
        if lines is None:
            return None
        self.awaits_head = False
        return lines if self._head.fullmatch(self._extracted) else [bytearray(b"malformed")]


def _begin_http1(original: Any, self: Any, *given: Any) -> None:
    original(self, *given)
    self.buf = _Strict(_REQUEST_HEAD)


def _begin_upstream(original: Any, self: Any, *given: Any) -> None:
    original(self, *given)
    self.buf = _Strict(_RESPONSE_HEAD)


def _send_http1(original: Any, self: Any, event: HttpEvent) -> CommandGenerator[None]:
    status = event.code.http_status_code() if isinstance(event, ResponseProtocolError) else None
    if status is not None and self.response and _is_whole(self):
        # It was answered before its request had ended: all that the answer lacks is its end.
        for command in original(self, ResponseEndOfMessage(self.stream_id)):
            if isinstance(command, SendData):
                yield command
        yield CloseConnection(self.conn)
        return
    if status is not None and self.response and not _is_framed(self.response):
        by = watch_of(self.context.client)
        if by is not None:
            by.cut()  # its body ends where the connection does: an ordinary end would make it look whole
    if status is None or self.response:
        for command in original(self, event):
            if isinstance(event, ResponseHeaders) and isinstance(command, SendData):
                # The version is this hop's own (RFC 9110 §6.2); `flow_writer` has said that the connection closes.
                command.data = command.data.replace(b"HTTP/1.0 ", b"HTTP/1.1 ", 1)
                if command.data.startswith(b"HTTP/1.1 100 "):
                    self.response = None  # this was no response (RFC 9110 §15.2)
            yield command
        return
    assert isinstance(event, ResponseProtocolError)
    yield from _say(self, answer_to(self, event, status))
    if isinstance(event, Interjection) and self.request is None:
        self.state = self.done


def _is_framed(response: Any) -> bool:
    """Whether a response says where its body ends."""
    return any(name.lower() in {b"content-length", b"transfer-encoding"} for name, _ in response.headers.fields)


def _is_whole(server: Any) -> bool:
    """Whether the backend's answer to the request of this connection has come whole."""
    stream: Any = layer_of(server).streams.get(server.stream_id)
    return stream is not None and bool(stream.server_state == stream.state_done)


def _read_request_head(original: Any, self: Any, event: Event) -> CommandGenerator[None]:
    by = watch_of(self.context.client)
    before, self.buf.awaits_head = self.stream_id, True
    for command in original(self, event):
        if isinstance(command, SendData) and by is not None:  # it says what was malformed, and quotes it
            command = SendData(self.conn, _wire(by.answer(None, 400)))
        yield command
    if by is None or self.request is not None or self.stream_id != before or isinstance(event, ConnectionClosed):
        return
    if len(self.buf) > by.max_head and self.state != self.done:
        self.state = self.done
        yield from _say(self, by.answer(None, 431))


def _done_with_request(original: Any, self: Any, **done: bool) -> CommandGenerator[None]:
    """A request that came right behind this one is read when others had their turn: a read may hold a thousand."""
    by = watch_of(self.context.client)
    whole = all(
        getattr(self, name) or done.get(name.removesuffix("_done")) for name in ("request_done", "response_done")
    )
    if by is None or not whole or not self.buf or _http1.should_make_pipe(self.request, self.response):
        yield from original(self, **done)
        return
    rest, self.buf = self.buf, _Strict(_REQUEST_HEAD)
    yield from original(self, **done)
    self.buf = rest
    if self.state == self.read_headers:
        wait_for_turn(self, by)


def _handle_http1(original: Any, self: Any, event: Event) -> CommandGenerator[None]:
    if isinstance(event, TurnDue):
        self.keyswap_waits = False
        if self.state == self.passthrough:
            yield from _pass_on(self)
        elif self.state == self.read_headers:
            yield from self.state(DataReceived(self.conn, b""))
    elif self.state == self.passthrough and self.buf and isinstance(event, DataReceived | ConnectionClosed):
        # It was read before the socket stood, and what came before it still waits for its turn.
        if isinstance(event, DataReceived):
            self.buf += event.data
        else:
            self.keyswap_end = event
    else:
        yield from original(self, event)


def _make_pipe(original: Any, self: Any) -> CommandGenerator[None]:
    """What either side of a WebSocket sent before it stood is taken piece by piece: it may be ten thousand messages."""
    if watch_of(self.context.client) is None or len(self.buf) <= AHEAD_OF_SOCKET:
        yield from original(self)
        return
    self.state = self.passthrough
    yield from _pass_on(self)


def _pass_on(self: Any) -> CommandGenerator[None]:
    end = getattr(self, "keyswap_end", None)
    if end is None and not self.conn.state & ConnectionState.CAN_READ:
        self.buf = _Strict(self.buf._head)  # the socket is over: what is left has no turn, and its end comes as ever
        return
    data = self.buf.maybe_extract_at_most(AHEAD_OF_SOCKET)
    if self.buf:
        wait_for_turn(self, watch_of(self.context.client))
    if data:
        yield from self.state(DataReceived(self.conn, bytes(data)))
    if end is not None and not self.buf:
        yield from self.state(end)


def _read_request_body(original: Any, self: Any, event: Event) -> CommandGenerator[None]:
    reader, by = self.body_reader, watch_of(self.context.client)
    yield from _read_body_strictly(original, self, event)
    small = reader.small if isinstance(reader, _Chunks) else 0
    self.keyswap_crumbs = small > MANY_SMALL
    if small and by is not None:
        reader.small = 0
        if by.is_abusive(small * SMALL_CHUNK_COST) and self.state == self.read_body and self.body_reader is reader:
            self.state = self.done
            yield from _say(self, by.answer(flow_of(self, self.stream_id), 400))
            error = RequestProtocolError(self.stream_id, "too many small chunks", ErrorCode.GENERIC_CLIENT_ERROR)
            yield ReceiveHttp(error)


def _read_body_strictly(original: Any, self: Any, event: Event) -> CommandGenerator[None]:
    for command in original(self, event):
        malformed = isinstance(command, CloseConnection) and isinstance(event, DataReceived)
        if malformed and not self.request_done and not self.response:
            by = watch_of(self.context.client)
            if by is not None:
                yield from _say(self, by.answer(flow_of(self, self.stream_id), 400))
                continue
        yield command


class _Chunks(ChunkedReader):
    """A chunked body without its trailers, which a recipient may discard (RFC 9110 §6.5.1), and with short heads.

    The chunks of a read are one event: with one for each, 64 KiB of chunks of a byte kept everybody waiting for half a
    second.
    """

    def __init__(self) -> None:
        super().__init__()
        self.small = 0
        """Small chunks since somebody asked."""

    def __call__(self, buf: Any) -> Any:
        if self._bytes_to_discard == b"\r\n" and buf._data[:2] == b"\r\n":
            buf._extract(2)
            self._bytes_to_discard = b""
        if not (self._bytes_to_discard or self._bytes_in_chunk or self._reading_trailer):
            data = self._whole(buf)
            if data:
                return h11.Data(data=data)
        event = super().__call__(buf)
        if event is None and len(buf) > MAX_CHUNK_HEAD:
            raise h11.RemoteProtocolError("the head of a chunk, or the trailers, do not end")
        return h11.EndOfMessage() if isinstance(event, h11.EndOfMessage) and event.headers else event

    def _whole(self, buf: Any) -> bytes:
        """The data of all chunks that have come whole, up to one that is the last, or malformed."""
        came, at, small, data = bytes(buf._data), 0, 0, []
        match = _CHUNK_HEAD.match
        while size_line := match(came, at):
            begin, size = size_line.end(), int(size_line[1], 16)
            end = begin + size
            if not size or not came.startswith(b"\r\n", end):
                break
            data.append(came[begin:end])
            if size < SMALL_CHUNK:
                small += 1
            at = end + 2
        if at:
            buf._extract(at)
            self.small += small
        return b"".join(data)


# ---- HTTP/1 towards the backend


def _read_response_head(original: Any, self: Any, event: Event) -> CommandGenerator[None]:
    """Skip interim responses (RFC 9110 §15.2), which mitmproxy takes for the answer; 101 is none of them."""
    if isinstance(event, DataReceived) and self.request:
        while _is_interim(bytes(self.buf._data[:12])) and self.buf.maybe_extract_lines() is not None:
            pass
    self.buf.awaits_head = self.request is not None
    yield from original(self, event)
    if self.request is not None and self.response is None and len(self.buf) > MAX_UPSTREAM_HEAD:
        yield CloseConnection(self.conn)
        error = ResponseProtocolError(self.stream_id, "an endless head", ErrorCode.GENERIC_SERVER_ERROR)
        self.buf = _Strict(_RESPONSE_HEAD)
        yield ReceiveHttp(error)


def _is_interim(begin: bytes) -> bool:
    return len(begin) == 12 and begin[:5] == b"HTTP/" and begin[8:10] == b" 1" and begin[9:] != b"101"


# ---- WebSockets


def _websocket_events(original: Any, self: Any) -> Any:
    for event in original(self):
        if isinstance(event, Message):
            size, fragments = getattr(self, "keyswap_message", (0, 0))
            size += len(event.data.encode() if isinstance(event.data, str) else event.data)
            if size > MAX_MESSAGE or fragments > MAX_FRAGMENTS:
                yield WebSocketClose(1009, "the message is too big")
                return
            self.keyswap_message = (0, 0) if event.message_finished else (size, fragments + 1)
        yield event


def _relay(original: Any, self: Any, event: Event) -> CommandGenerator[None]:
    """Pass messages on without asking anyone: while a hook was awaited, messages would queue without bound."""
    for command in original(self, event):
        if isinstance(command, websocket.WebsocketMessageHook):
            self.flow.websocket.messages.clear()
        else:
            yield command


# ---- What the guard looks at


QUEUED_EVENTS = 8
"""How many events may wait for a stream that is being judged or connected, before nothing more is read."""


class Phase(NamedTuple):
    """What a client's connection is doing. `mark` is equal for as long as it is doing the same thing."""

    name: str
    """`head`: a request is awaited or has begun; `body`: one is incomplete; `rest`: neither."""
    mark: object


def http_layer(handler: Any) -> http.HttpLayer | None:
    """The HTTP layer of a connection, once its first bytes were seen."""
    return next((layer for layer in handler.layer.context.layers if isinstance(layer, http.HttpLayer)), None)


def phase(layer: http.HttpLayer) -> Phase:
    """What the caller is sending."""
    server: Any = layer.connections.get(layer.context.client)
    if isinstance(server, _http1.Http1Server):
        if server.state == server.read_headers:
            awaited = server.stream_id == 1 or len(server.buf) > 0
            return Phase("head" if awaited else "rest", server.stream_id)
        return Phase("body" if server.state == server.read_body else "rest", server.stream_id)
    if not isinstance(server, _http2.Http2Server):
        return Phase("head", None)
    connection = server.h2_conn
    if any(_sends(stream) for stream in layer.streams.values()):
        return Phase("body", None)
    buffer = connection.incoming_buffer
    if connection.highest_inbound_stream_id == 0 or buffer._headers_buffer or buffer._data:
        return Phase("head", connection.highest_inbound_stream_id)
    return Phase("rest", None)


def _sends(stream: Any) -> bool:
    return stream.client_state in (stream.state_stream_request_body, stream.state_consume_request_body)


def still_sends(layer: http.HttpLayer, flow: HTTPFlow) -> bool:
    """Whether more of this request's body is to come, as far as what was read says."""
    server: Any = layer.connections.get(layer.context.client)
    if not isinstance(server, _http2.Http2Server):
        return True
    for stream_id, stream in layer.streams.items():
        if getattr(stream, "flow", None) is flow:
            state = server.h2_conn.streams.get(stream_id)
            return state is not None and state.state_machine.state is h2.stream.StreamState.OPEN
    return False


def room(layer: http.HttpLayer, most: int) -> int:
    """How many bytes to read at once: most where a body flows to its backend, few where it is one of many pieces."""
    if not layer.streams or getattr(layer.connections.get(layer.context.client), "keyswap_crumbs", False):
        return min(most, SMALL_READ)
    flows = any(stream.client_state == stream.state_stream_request_body for stream in layer.streams.values())
    return most if flows else min(most, MIDDLE_READ)


def is_full(layer: http.HttpLayer, at_most: int) -> bool:
    """Whether enough was read from the caller: pipelined bytes, or events for streams that cannot take them yet."""
    server: Any = layer.connections.get(layer.context.client)
    if waits_for_turn(layer):
        return True
    if isinstance(server, _http1.Http1Server) and len(server.buf) > at_most and server.state != server.read_headers:
        return True
    return any(stream._paused and len(stream._paused_event_queue) > QUEUED_EVENTS for stream in layer.streams.values())


def unread(layer: http.HttpLayer, server: Server) -> int:
    """Bytes that an HTTP/2 caller has not made room for, of the response that comes over this upstream connection."""
    towards: Any = layer.connections.get(layer.context.client)
    upstream = layer.connections.get(server)
    if not isinstance(towards, _http2.Http2Server) or upstream is None:
        return 0
    stream_id = getattr(upstream.context.layers[-1], "stream_id", None)
    waiting = towards.h2_conn.stream_buffers.get(stream_id) if stream_id else None
    return sum(len(chunk.data) for chunk in waiting) if waiting else 0
