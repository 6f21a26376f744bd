"""HTTP/1 towards backends: how a request is sent, and why its answer does not come, or not whole.

Law: as in `patch_table`. What comes by HTTP/2 goes on as HTTP/1.1.
"""

import time
from typing import Any

from h11._readers import Http10Reader
from mitmproxy.http import Headers, Request
from mitmproxy.proxy.commands import CloseConnection
from mitmproxy.proxy.events import ConnectionClosed, DataReceived, Event
from mitmproxy.proxy.layer import CommandGenerator
from mitmproxy.proxy.layers import http
from mitmproxy.proxy.layers.http._base import HttpEvent, ReceiveHttp
from mitmproxy.proxy.layers.http._events import ErrorCode, RequestHeaders, ResponseProtocolError

from keyswap.shell.mitm import upstream_errors
from keyswap.shell.mitm.connection_watch import watch_of
from keyswap.shell.mitm.flows import blame


def begin_request(original: Any, self: Any, event: RequestHeaders) -> CommandGenerator[None]:
    """Note a request that has ended with its head."""
    if event.end_stream:
        vars(event.request)["keyswap_ended"] = True
    begun: CommandGenerator[None] = original(self, event)
    return begun


def ended_with_head(request: Request) -> bool:
    """Whether nothing came behind its head, by HTTP/2's END_STREAM or by HTTP/1's fields."""
    return "keyswap_ended" in vars(request)


def send(original: Any, self: Any, event: HttpEvent) -> CommandGenerator[None]:
    """What comes by HTTP/2 is sent, and remembered, as the HTTP/1.1 request that it becomes."""
    if isinstance(event, RequestHeaders):
        if not hasattr(self, "keyswap_since"):
            self.keyswap_since = time.monotonic()
        self.keyswap_whom, self.keyswap_early = vars(event.request).get("keyswap_whom"), False
        if event.request.is_http2:
            event = RequestHeaders(event.stream_id, _as_http1(event.request), event.end_stream)
    sent: CommandGenerator[None] = original(self, event)
    return sent


def _as_http1(request: Request) -> Request:
    """As mitmproxy makes it, but without copying all of it: Host, and one cookie field (RFC 9113 §8.2.3, §8.3.1)."""
    data = request.data
    fields = [field for field in data.headers.fields if field[0].lower() != b"cookie"]
    cookies = [value for name, value in data.headers.fields if name.lower() == b"cookie"]
    if cookies:
        fields.append((b"Cookie", b"; ".join(cookies)))
    if data.authority and not any(name.lower() == b"host" for name, _ in fields):
        fields.insert(0, (b"Host", data.authority))
    sent = Request.__new__(Request)
    sent.data = type(data)(**{**vars(data), "http_version": b"HTTP/1.1", "authority": b"", "headers": Headers(fields)})
    return sent


def read_response_head(original: Any, self: Any, event: Event) -> CommandGenerator[None]:
    """Note why there is no answer, or that it begins before its request has ended: what follows it may be anything."""
    watch = watch_of(self.context.client)
    is_end = isinstance(event, ConnectionClosed)
    if isinstance(event, DataReceived) and self.request is not None:
        self.keyswap_early |= not self.request_done or bool(watch is not None and watch.backlog(self.conn))
    elif is_end and self.request is not None and not self.buf:
        stream = _stream_of(self)
        if stream is not None:
            vars(stream)["keyswap_closed"] = True
    for command in original(self, event):
        if isinstance(command, ReceiveHttp) and isinstance(command.event, ResponseProtocolError) and watch is not None:
            half = upstream_errors.HALF_HEAD if self.buf else upstream_errors.CLOSED
            _blame(self, watch, half if is_end else upstream_errors.MALFORMED)
        yield command


def read_response_body(original: Any, self: Any, event: Event) -> CommandGenerator[None]:
    """Note why a body did not end. A body that ends with its connection is not whole when the connection was reset."""
    watch = watch_of(self.context.client)
    is_end = isinstance(event, ConnectionClosed) and isinstance(self.body_reader, Http10Reader)
    if is_end and watch is not None and watch.was_reset(self.conn):
        _blame(self, watch, upstream_errors.HALF_BODY)
        yield CloseConnection(self.conn)
        yield ReceiveHttp(
            ResponseProtocolError(self.stream_id, upstream_errors.HALF_BODY, ErrorCode.GENERIC_SERVER_ERROR)
        )
        return
    for command in original(self, event):
        if isinstance(command, ReceiveHttp) and isinstance(command.event, ResponseProtocolError) and watch is not None:
            _blame(
                self,
                watch,
                upstream_errors.HALF_BODY if isinstance(event, ConnectionClosed) else upstream_errors.MALFORMED,
            )
        yield command


def _stream_of(client: Any) -> Any:
    """The stream whose request goes over a connection; None: it has ended."""
    layer = next((layer for layer in client.context.layers if isinstance(layer, http.HttpLayer)), None)
    return layer.streams.get(client.stream_id) if layer is not None else None


def _blame(client: Any, watch: Any, cause: str) -> None:
    flow = getattr(_stream_of(client), "flow", None)
    if flow is not None:
        blame(flow, upstream_errors.at(client.conn.address, cause, watch.why_broken(client.conn)))
