"""HTTP/1 towards callers, and the heads of backends' responses, as `patch_table` changes them.

Law: as in `patch_table`. The connection behind says nothing of the one in front: what closes one need not close the
other, and a caller gets a body in a coding that its version knows, and a Date.
"""

from typing import Any

from mitmproxy.connection import ConnectionState
from mitmproxy.http import Request, Response
from mitmproxy.proxy.commands import CloseConnection, SendData
from mitmproxy.proxy.events import ConnectionClosed, DataReceived, Event
from mitmproxy.proxy.layer import CommandGenerator
from mitmproxy.proxy.layers.http import _http1
from mitmproxy.proxy.layers.http._base import ReceiveHttp
from mitmproxy.proxy.layers.http._events import (
    ErrorCode,
    HttpEvent,
    RequestProtocolError,
    ResponseEndOfMessage,
    ResponseHeaders,
    ResponseProtocolError,
)

from keyswap.http_date import dated
from keyswap.refusals import Answer
from keyswap.shell.mitm.connection_watch import answer_to, flow_of, layer_of, watch_of
from keyswap.shell.mitm.http1_parser import REQUEST_HEAD, RESPONSE_HEAD, ChunkReader, StrictBuffer
from keyswap.shell.mitm.interjections import Interjection
from keyswap.shell.mitm.turns import TurnDue, wait_for_turn

SMALL_CHUNK_COST = 0.002
"""What a small chunk of a request costs: 16,500 a second are free, and half a million at once."""
MANY_SMALL = 256
"""Small chunks in one read after which the next read is a small one."""
AHEAD_OF_SOCKET = 256
"""Bytes of what came behind the handshake of a WebSocket, before its answer, that are taken in a turn."""
MAX_UPSTREAM_HEAD = 256 << 10
REASONS: dict[int, str] = {}
"""The phrases of HTTP/1, by status."""


def begin_server(original: Any, self: Any, *given: Any) -> None:
    """A request is parsed strictly."""
    original(self, *given)
    self.buf = StrictBuffer(REQUEST_HEAD)


def begin_client(original: Any, self: Any, *given: Any) -> None:
    """A response is parsed strictly."""
    original(self, *given)
    self.buf = StrictBuffer(RESPONSE_HEAD)


def send(original: Any, self: Any, event: HttpEvent) -> CommandGenerator[None]:
    """What goes to a caller: the gateway's answers, and a backend's response as this hop has it."""
    if isinstance(event, ResponseHeaders) and event.response.data.status_code >= 200:
        _fit_to_caller(self.request, event.response)
    status = event.code.http_status_code() if isinstance(event, ResponseProtocolError) else None
    if status is None:
        yield from _send_response(original, self, event)
    elif self.response:
        yield from _end_response(original, self, event)
    else:
        assert isinstance(event, ResponseProtocolError)
        yield from _answer_and_close(self, answer_to(self, event, status))
        if isinstance(event, Interjection) and self.request is None:
            self.state = self.done


def _send_response(original: Any, self: Any, event: HttpEvent) -> CommandGenerator[None]:
    for command in original(self, event):
        if isinstance(event, ResponseHeaders) and isinstance(command, SendData):
            # The version is this hop's own (RFC 9110 §6.2); `flow_writer` has said that the connection closes.
            command.data = command.data.replace(b"HTTP/1.0 ", b"HTTP/1.1 ", 1)
            if command.data.startswith(b"HTTP/1.1 100 "):
                self.response = None  # this was no response (RFC 9110 §15.2)
        yield command


def _end_response(original: Any, self: Any, event: HttpEvent) -> CommandGenerator[None]:
    """The end of a response that has begun."""
    if _is_whole(self):
        # It was answered before its request had ended: all that the answer lacks is its end.
        for command in original(self, ResponseEndOfMessage(self.stream_id)):
            if isinstance(command, SendData):
                yield command
        yield CloseConnection(self.conn)
        return
    if not _is_framed(self.response):
        watch = watch_of(self.context.client)
        if watch is not None:
            watch.cut()  # its body ends where the connection does: an ordinary end would make it look whole
    yield from original(self, event)


def _fit_to_caller(request: Request, response: Response) -> None:
    """A caller gets a Date, and a body in a coding that its version knows, whatever the hop behind has."""
    response.data.headers.fields = dated(response.data.headers.fields)
    if request.data.http_version == b"HTTP/1.0":
        _delimit_by_close(response)


def _delimit_by_close(response: Response) -> None:
    """HTTP/1.0 knows no transfer coding (RFC 9112 §6.1): without it the body ends where the connection does."""
    fields = response.data.headers.fields
    kept = tuple(field for field in fields if field[0].lower() != b"transfer-encoding")
    if len(kept) != len(fields) and response.data.status_code != 101:
        response.data.headers.fields = (*kept, (b"Connection", b"close"))


def _serialize(answer: Answer, is_head: bool) -> bytes:
    """An answer as HTTP/1.1, after which the connection is closed; `is_head`: to a HEAD (RFC 9110 §9.3.2)."""
    lines = [b"HTTP/1.1 %d %s" % (answer.status, REASONS.get(answer.status, "").encode())]
    lines += [b"%s: %s" % pair for pair in (*dated(answer.headers), (b"Connection", b"close"))]
    return b"\r\n".join(lines) + b"\r\n\r\n" + (b"" if is_head else answer.body)


def _answer_and_close(server: Any, answer: Answer | None) -> CommandGenerator[None]:
    """Answer in place of mitmproxy, close, and read no more."""
    if answer is not None and server.conn.state & ConnectionState.CAN_WRITE:
        is_head = server.request is not None and server.request.data.method == b"HEAD"
        yield SendData(server.conn, _serialize(answer, is_head))
    yield CloseConnection(server.conn)


def _is_framed(response: Any) -> bool:
    """Whether a response says where its body ends."""
    return any(name.lower() in {b"content-length", b"transfer-encoding"} for name, _ in response.headers.fields)


def _is_whole(server: Any) -> bool:
    """Whether the backend's answer to the request of this connection has come whole."""
    stream: Any = layer_of(server).streams.get(server.stream_id)
    return stream is not None and bool(stream.server_state == stream.state_done)


def read_request_head(original: Any, self: Any, event: Event) -> CommandGenerator[None]:
    """A head is bounded, and the gateway says in its own words what is wrong with one."""
    watch = watch_of(self.context.client)
    before, self.buf.awaits_head = self.stream_id, True
    begin = event.data if isinstance(event, DataReceived) and len(event.data) == len(self.buf) else b""
    for command in original(self, event):
        if isinstance(command, SendData) and watch is not None:  # it says what was malformed, and quotes it
            command = SendData(self.conn, _serialize(watch.answer(None, 400), begin.startswith(b"HEAD ")))
        yield command
    if watch is None or self.request is not None or self.stream_id != before or isinstance(event, ConnectionClosed):
        return
    if len(self.buf) > watch.max_head and self.state != self.done:
        self.state = self.done
        yield from _answer_and_close(self, watch.answer(None, 431))


def finish_request(original: Any, self: Any, **done: bool) -> CommandGenerator[None]:
    """A request that came right behind this one is read when others had their turn: a read may hold a thousand."""
    watch = watch_of(self.context.client) if self.buf else None
    whole = (self.request_done or done.get("request")) and (self.response_done or done.get("response"))
    if watch is None or not whole or _http1.should_make_pipe(self.request, self.response):
        yield from original(self, **done)
        return
    rest, self.buf = self.buf, StrictBuffer(REQUEST_HEAD)
    yield from original(self, **done)
    self.buf = rest
    if self.state == self.read_headers:
        wait_for_turn(self, watch)


def handle_event(original: Any, self: Any, event: Event) -> CommandGenerator[None]:
    """What waited for its turn is taken up."""
    if isinstance(event, TurnDue):
        self.keyswap_waits = False
        if self.state == self.passthrough:
            yield from _pass_through(self)
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


def make_pipe(original: Any, self: Any) -> CommandGenerator[None]:
    """What either side of a WebSocket sent before it stood is taken piece by piece: it may be ten thousand messages."""
    if watch_of(self.context.client) is None or len(self.buf) <= AHEAD_OF_SOCKET:
        yield from original(self)
        return
    self.state = self.passthrough
    yield from _pass_through(self)


def _pass_through(self: Any) -> CommandGenerator[None]:
    end = getattr(self, "keyswap_end", None)
    if end is None and not self.conn.state & ConnectionState.CAN_READ:
        self.buf = StrictBuffer(
            self.buf._head
        )  # the socket is over: what is left has no turn, and its end comes as ever
        return
    data = self.buf.maybe_extract_at_most(AHEAD_OF_SOCKET)
    if self.buf:
        wait_for_turn(self, watch_of(self.context.client))
    if data:
        yield from self.state(DataReceived(self.conn, bytes(data)))
    if end is not None and not self.buf:
        yield from self.state(end)


def read_request_body(original: Any, self: Any, event: Event) -> CommandGenerator[None]:
    """The small chunks of a body cost."""
    reader, watch = self.body_reader, watch_of(self.context.client)
    yield from _read_body_strictly(original, self, event)
    small = reader.small if isinstance(reader, ChunkReader) else 0
    self.keyswap_crumbs = small > MANY_SMALL
    if small and watch is not None:
        reader.small = 0
        if watch.is_abusive(small * SMALL_CHUNK_COST) and self.state == self.read_body and self.body_reader is reader:
            self.state = self.done
            yield from _answer_and_close(self, watch.answer(flow_of(self, self.stream_id), 400))
            error = RequestProtocolError(self.stream_id, "too many small chunks", ErrorCode.GENERIC_CLIENT_ERROR)
            yield ReceiveHttp(error)


def _read_body_strictly(original: Any, self: Any, event: Event) -> CommandGenerator[None]:
    for command in original(self, event):
        malformed = isinstance(command, CloseConnection) and isinstance(event, DataReceived)
        if malformed and not self.request_done and not self.response:
            watch = watch_of(self.context.client)
            if watch is not None:
                yield from _answer_and_close(self, watch.answer(flow_of(self, self.stream_id), 400))
                continue
        yield command


def read_response_head(original: Any, self: Any, event: Event) -> CommandGenerator[None]:
    """Skip interim responses (RFC 9110 §15.2), which mitmproxy takes for the answer; 101 is none of them."""
    if isinstance(event, DataReceived) and self.request:
        while _is_interim(bytes(self.buf._data[:12])) and self.buf.maybe_extract_lines() is not None:
            pass
    self.buf.awaits_head = self.request is not None
    yield from original(self, event)
    if self.request is not None and self.response is None and len(self.buf) > MAX_UPSTREAM_HEAD:
        yield CloseConnection(self.conn)
        error = ResponseProtocolError(self.stream_id, "an endless head", ErrorCode.GENERIC_SERVER_ERROR)
        self.buf = StrictBuffer(RESPONSE_HEAD)
        yield ReceiveHttp(error)


def _is_interim(line: bytes) -> bool:
    return len(line) == 12 and line[:5] == b"HTTP/" and line[8:10] == b" 1" and line[9:] != b"101"
