"""mitmproxy's HttpStream and HttpLayer, as `patch_table` changes them: bodies, ends, upstream connections.

Law: as in `patch_table`.
"""

from typing import Any

from mitmproxy.flow import Error
from mitmproxy.http import HTTPFlow
from mitmproxy.proxy.commands import CloseConnection
from mitmproxy.proxy.events import Event
from mitmproxy.proxy.layer import CommandGenerator
from mitmproxy.proxy.layers import http
from mitmproxy.proxy.layers.http._events import (
    ErrorCode,
    RequestProtocolError,
    ResponseData,
    ResponseEndOfMessage,
    ResponseHeaders,
    ResponseProtocolError,
    ResponseTrailers,
)
from mitmproxy.proxy.layers.http._hooks import HttpErrorHook

from keyswap.shell.mitm import upstream_pool
from keyswap.shell.mitm.interjections import Interjection


def bound_body(flow: HTTPFlow, limit: int) -> None:
    """Let this request's body, which is held whole, have at most so many bytes."""
    vars(flow)["keyswap_body_limit"] = limit


def check_body_size(original: Any, self: Any, request: bool) -> CommandGenerator[bool]:
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


def end_stream(original: Any, self: Any, event: ResponseProtocolError) -> CommandGenerator[None]:
    """An interjection that comes after the stream's end would answer the next request."""
    over = "keyswap_over" in vars(self) or self.client_state == self.server_state == self.state_done
    if not (isinstance(event, Interjection) and over):
        yield from original(self, event)


def ignore_late_response(self: Any, event: Event) -> CommandGenerator[None]:
    """A backend that goes on after its answer is not listened to: mitmproxy's layers would crash."""
    if isinstance(event, ResponseHeaders | ResponseData | ResponseTrailers | ResponseEndOfMessage):
        yield CloseConnection(self.context.server)


def register_connection(original: Any, self: Any, command: http.RegisterHttpConnection) -> CommandGenerator[None]:
    """A connection upstream stands, or could not be made. Requests that have ended meanwhile are not sent over it."""
    server: Any = command.connection
    upstream_pool.forget_closed(self)
    if command.err:
        server.error = None  # mitmproxy would give it as the answer to every later request
        if server.timestamp_tcp_setup is None:
            upstream_pool.forget(self, server)
    waiting, self.waiting_for_establishment[server] = self.waiting_for_establishment[server], []
    ended = {id(request): _end_of(self.command_sources[request]) for request in waiting}
    self.waiting_for_establishment[server] += [request for request in waiting if ended[id(request)] is None]
    for request in waiting if command.err and "keyswap_why" in vars(server) else ():
        vars(self.command_sources[request].flow)["keyswap_why"] = vars(server)["keyswap_why"]
    for request in waiting:
        if (reason := ended[id(request)]) is not None:
            stream = self.command_sources.pop(request)
            yield from self.event_to_child(stream, http.GetHttpConnectionCompleted(request, (None, reason)))
    if self.waiting_for_establishment[server] or command.err:
        yield from original(self, command)
    else:
        del self.waiting_for_establishment[server]
        yield CloseConnection(server)


def _end_of(stream: Any) -> str | None:
    """How a request has ended that waits for its connection upstream."""
    for event in stream._paused_event_queue:
        if isinstance(event, RequestProtocolError | Interjection):
            return event.message
    return None
