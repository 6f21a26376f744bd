"""The connections to backends that a caller's connection keeps, installed by `http2_streams`.

Law: a connection carries one request at a time, and another one only when the first has been answered whole and nothing
more has come. It serves one caller's connection, and over it one principal: what a backend says too much, and too late
to be noticed, can be taken for an answer to nobody else. It is not kept after an answer behind which backends are known
to say more (to HEAD, 204, 304, and one that began before its request had ended), nor for longer than AGE_S, so that a
name's new address is used. A backend may close what rests, at any moment: a GET, HEAD or OPTIONS without a body
(RFC 9110 §9.2.1 and §9.2.2) goes again, once, over a new connection, when the old one is closed before an answer has
begun; any other request is never repeated, and is sent over no connection that has rested for longer than FRESH_S. What
rests keeps nobody waiting: backends that have a worker for each connection answer the caller's other requests. Measured
on mitmproxy 12.2.3, which closes the connection behind after each request of an HTTP/2 caller, and sends all that it
has over one that is closing.
"""

import asyncio
import re
import time
from contextlib import suppress
from typing import Any

from h11._readers import Http10Reader
from mitmproxy.connection import Server
from mitmproxy.http import Headers, Request, Response
from mitmproxy.net.http.http1 import connection_close
from mitmproxy.proxy.commands import CloseConnection
from mitmproxy.proxy.events import ConnectionClosed, DataReceived, Event
from mitmproxy.proxy.layer import CommandGenerator
from mitmproxy.proxy.layers import http
from mitmproxy.proxy.layers.http import _http1
from mitmproxy.proxy.layers.http._base import HttpEvent, ReceiveHttp
from mitmproxy.proxy.layers.http._events import ErrorCode, RequestEndOfMessage, RequestHeaders, ResponseProtocolError
from mitmproxy.proxy.layers.tls import ServerTLSLayer
from OpenSSL import SSL

from keyswap.shell.mitm import upstream_errors
from keyswap.shell.mitm.connection_watch import layer_of, watch_of
from keyswap.shell.mitm.hop_by_hop import wrap
from keyswap.shell.mitm.internals import blame, take_apart

FRESH_S = 1.0
"""Backends keep a connection that rests for two seconds (gunicorn), five (Node.js, uvicorn, Apache) or longer."""
PATIENCE_S = 0.02
"""How long a connection may rest while others of its caller's requests wait for their answers."""
MOST_KEPT = 8
"""Connections at rest of one caller's connection; more than one only where that is HTTP/2."""
AGE_S = 60.0
"""How old a connection may be that is kept."""
_SAFE = frozenset({b"GET", b"HEAD", b"OPTIONS"})
_NO_BODY = frozenset({204, 304})
"""Answers without a body (RFC 9110 §6.4.1), behind which some backends send one all the same."""


def install() -> None:
    """Change the layers of this process, after `http_layers`; doing it again changes nothing."""
    wrap(http.HttpStream, "state_wait_for_request_headers", _begin)
    wrap(_http1.Http1Client, "send", _send)
    wrap(_http1.Http1Client, "read_headers", _hear)
    wrap(_http1.Http1Client, "read_body", _read)
    wrap(_http1.Http1Client, "mark_done", _done)
    wrap(http.HttpLayer, "get_connection", _find)
    wrap(http.HttpStream, "handle_protocol_error", _go_again)


# ---- HTTP/2 before, HTTP/1.1 behind


def _begin(original: Any, self: Any, event: RequestHeaders) -> CommandGenerator[None]:
    if event.end_stream:
        vars(event.request)["keyswap_ended"] = True
    begun: CommandGenerator[None] = original(self, event)
    return begun


def ended_with_head(request: Request) -> bool:
    """Whether nothing came behind its head, by HTTP/2's END_STREAM or by HTTP/1's fields."""
    return "keyswap_ended" in vars(request)


def _send(original: Any, self: Any, event: HttpEvent) -> CommandGenerator[None]:
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
    made = Request.__new__(Request)
    made.data = type(data)(**{**vars(data), "http_version": b"HTTP/1.1", "authority": b"", "headers": Headers(fields)})
    return made


def _hear(original: Any, self: Any, event: Event) -> CommandGenerator[None]:
    """Note why there is no answer, or that it begins before its request has ended: what follows it may be anything."""
    by = watch_of(self.context.client)
    is_end = isinstance(event, ConnectionClosed)
    if isinstance(event, DataReceived) and self.request is not None:
        self.keyswap_early |= not self.request_done or bool(by is not None and by.backlog(self.conn))
    elif is_end and self.request is not None and not self.buf:
        stream = _stream_of(self)
        if stream is not None:
            vars(stream)["keyswap_closed"] = True
    for command in original(self, event):
        if isinstance(command, ReceiveHttp) and isinstance(command.event, ResponseProtocolError) and by is not None:
            half = upstream_errors.HALF_HEAD if self.buf else upstream_errors.CLOSED
            _blame(self, by, half if is_end else upstream_errors.MALFORMED)
        yield command


def _read(original: Any, self: Any, event: Event) -> CommandGenerator[None]:
    """Note why a body did not end. One that ends where its connection does is not whole when that was reset."""
    by = watch_of(self.context.client)
    is_end = isinstance(event, ConnectionClosed) and isinstance(self.body_reader, Http10Reader)
    if is_end and by is not None and by.was_reset(self.conn):
        _blame(self, by, upstream_errors.HALF_BODY)
        yield CloseConnection(self.conn)
        yield ReceiveHttp(
            ResponseProtocolError(self.stream_id, upstream_errors.HALF_BODY, ErrorCode.GENERIC_SERVER_ERROR)
        )
        return
    for command in original(self, event):
        if isinstance(command, ReceiveHttp) and isinstance(command.event, ResponseProtocolError) and by is not None:
            _blame(
                self,
                by,
                upstream_errors.HALF_BODY if isinstance(event, ConnectionClosed) else upstream_errors.MALFORMED,
            )
        yield command


def _stream_of(client: Any) -> Any:
    """The stream whose request goes over a connection; None: it has ended."""
    layer = next((layer for layer in client.context.layers if isinstance(layer, http.HttpLayer)), None)
    return layer.streams.get(client.stream_id) if layer is not None else None


def _blame(client: Any, by: Any, cause: str) -> None:
    flow = getattr(_stream_of(client), "flow", None)
    if flow is not None:
        blame(flow, upstream_errors.at(client.conn.address, cause, by.why_broken(client.conn)))


# ---- Connections at rest


def reserve(request: Request, whom: object) -> None:
    """The connection that carries this request serves nobody else: only requests of an equal `whom`."""
    vars(request)["keyswap_whom"] = whom


def close_upstream(response: Response) -> None:
    """The backend closes its connection after this response, though its head does not say so any more."""
    vars(response)["keyswap_closes"] = True


def _done(original: Any, self: Any, **done: bool) -> CommandGenerator[None]:
    """Remember a connection whose request has been answered whole, unless it is to be closed now."""
    closes = self.response is not None and _may_say_more(self)
    wants_no_more = "response" in done and not self.request_done and _refuses(self.response)
    yield from original(self, **done)
    if wants_no_more:
        # It does not read the rest (RFC 9112 §9.5): its answer is whole, and the exchange ends as if it had closed.
        yield CloseConnection(self.conn)
        self.state = self.done
        error = ResponseProtocolError(self.stream_id, "answered before its request", ErrorCode.GENERIC_SERVER_ERROR)
        yield ReceiveHttp(error)
        return
    if not _rests(self):
        return
    layer = layer_of(self)
    kept = _kept(layer)
    if closes:
        yield from _close(layer, self.conn)
        return
    if len(kept) >= MOST_KEPT:
        yield from _close(layer, next(iter(kept)))
    kept[self.conn] = since = time.monotonic()
    if len(layer.streams) > 1:
        asyncio.get_running_loop().call_later(PATIENCE_S, _spare, layer, self.conn, since)


def _refuses(response: Response) -> bool:
    """Whether a backend says by its answer that it takes no more of the request, and closes."""
    data = response.data
    closes = "keyswap_closes" in vars(response) or connection_close(response.http_version, response.headers)
    return data.status_code >= 400 and closes


def _may_say_more(client: Any) -> bool:
    """Whether something may come behind an answer, or the connection has served for long enough."""
    return (
        "keyswap_closes" in vars(client.response)
        or client.keyswap_early
        or client.keyswap_whom is None
        or client.request.data.method == b"HEAD"
        or client.response.data.status_code in _NO_BODY
        or time.monotonic() - client.keyswap_since > AGE_S
    )


def _kept(layer: Any) -> dict[Server, float]:
    """The connections at rest, and since when, those that have rested longest first."""
    kept: dict[Server, float] = vars(layer).setdefault("keyswap_kept", {})
    return kept


def _client(layer: Any, server: Server) -> Any:
    """The layer that speaks HTTP/1 over a connection; None: there is none (any more)."""
    first = layer.connections.get(server)
    client = first.context.layers[-1] if first is not None else None
    return client if isinstance(client, _http1.Http1Client) else None


def _rests(client: Any) -> bool:
    return client.stream_id is None and client.request is None and client.state == client.read_headers


def _close(layer: Any, server: Server) -> CommandGenerator[None]:
    _kept(layer).pop(server, None)
    client = _client(layer, server)
    if client is not None and server.connected:
        client.state = client.done
        yield CloseConnection(server)


def _spare(layer: Any, server: Server, since: float) -> None:
    """Close a connection that rests while the caller's other requests wait: its backend may have no other worker."""
    by = watch_of(layer.context.client)
    if by is not None and _kept(layer).get(server) == since and any(map(_waits, layer.streams.values())):
        del _kept(layer)[server]
        by.hang_up_on(server)


def _waits(stream: Any) -> bool:
    return bool(stream.server_state == stream.state_wait_for_response_headers)


def sent_over(layer: Any, server: Server) -> Any:
    """What speaks HTTP/1 over a connection, if a request was sent of which no answer has begun."""
    client = _client(layer, server) if layer is not None else None
    return client if client is not None and _awaits(client) else None


def _awaits(client: Any) -> bool:
    return client.request is not None and client.response is None


class Awaited:
    """An answer that nobody will get, of which only is to be known when it begins."""

    def __init__(self, client: Any) -> None:
        """`client`: what `sent_over` found."""
        self._client = client
        layers = [layer for layer in client.context.layers if isinstance(layer, ServerTLSLayer)]
        self._tls = next((layer.tls for layer in layers if layer.conn is client.conn), None)
        self._came = bytearray(client.buf._data)

    @property
    def request_is_whole(self) -> bool:
        """Whether all of the request was sent."""
        return bool(self._client.request_done)

    @property
    def has_begun(self) -> bool:
        """Whether it began to come while somebody waited for it."""
        return not _awaits(self._client)

    def begins(self, data: bytes) -> bool:
        """Whether it has begun with these bytes; interim responses are none (RFC 9110 §15.2)."""
        self._came += self._read(data) if self._tls is not None else data
        while (interim := _INTERIM.match(self._came)) is not None and (end := self._came.find(b"\r\n\r\n")) > 0:
            del self._came[: end + 4]
        return len(self._came) >= 12 and (interim is None or len(self._came) > MOST_INTERIM)

    def _read(self, data: bytes) -> bytes:
        tls: Any = self._tls
        plain = bytearray()
        with suppress(SSL.Error):
            tls.bio_write(data)
            while True:
                plain += tls.recv(65_535)
        return bytes(plain)


_INTERIM = re.compile(rb"HTTP/[0-9]\.[0-9] 1(?!01)[0-9]{2}")
MOST_INTERIM = 64 << 10
"""Bytes after which an interim response is none."""


def is_left_over(layer: Any, server: Server) -> bool:
    """Whether a connection waits for the end of a request whose stream has ended: nobody will send it."""
    client = _client(layer, server)
    return client is not None and client.stream_id is not None and client.stream_id not in layer.streams


def forget_closed(layer: http.HttpLayer) -> None:
    """Let go of connections upstream that have ended, and take their layers apart.

    mitmproxy keeps each with its last response for as long as the caller's connection lasts, looks through all of them
    for the next request, and lets one that could not be made answer for it.
    """
    by = watch_of(layer.context.client)
    used = {id(stream.context.server) for stream in layer.streams.values()}
    used |= {id(server) for server in (layer.context.server, *layer.waiting_for_establishment)}
    for server in list(layer.connections):
        if not isinstance(server, Server) or not (server.timestamp_end or server.error) or id(server) in used:
            continue
        if by is None or by.is_over(server):
            take_apart(_behind(layer.connections.pop(server)))
    take_apart(vars(layer).pop("keyswap_failed", ()))


def forget(layer: http.HttpLayer, server: Server) -> None:
    """Let go of one that could not be made; its layers, which are saying so, are taken apart the next time."""
    first = layer.connections.pop(server, None)
    if first is not None:
        vars(layer).setdefault("keyswap_failed", []).extend(_behind(first))


def _behind(first: Any) -> list[Any]:
    """The layers of a connection upstream, of which the HTTP layer knows the first."""
    layers: list[Any] = first.context.layers
    return layers[layers.index(first) :]


def _find(original: Any, self: Any, event: Any, *, reuse: bool = True) -> CommandGenerator[None]:
    """A connection for a request: of those that serve its principal the one that rested least, or a new one."""
    stream: Any = self.command_sources[event]
    by, kept = watch_of(self.context.client), _kept(self)
    repeats, whom = _can_repeat(stream.flow.request), vars(stream.flow.request).get("keyswap_whom")
    for server in reversed(list(kept)) if reuse and "keyswap_again" not in vars(stream) else ():
        client = _client(self, server)
        if not event.connection_spec_matches(server) or (client is not None and client.keyswap_whom != whom):
            continue
        rested_s = time.monotonic() - kept[server]
        is_good = client is not None and server.connected and _rests(client) and not client.buf
        is_good = is_good and (by is None or by.is_silent(server))
        if is_good and (repeats or rested_s < FRESH_S):
            del kept[server]
            vars(stream)["keyswap_repeats"] = repeats
            del self.command_sources[event]
            yield from self.event_to_child(stream, http.GetHttpConnectionCompleted(event, (server, None)))
            return
        yield from _close(self, server)
        if is_good:
            break  # the others have rested longer
    for server, since in kept.items():
        asyncio.get_running_loop().call_later(PATIENCE_S, _spare, self, server, since)
    # mitmproxy would look for a connection among those that serve others.
    yield from original(self, event, reuse=False)


def _can_repeat(request: Request) -> bool:
    """Whether it may be sent twice, and is all there to be sent again."""
    fields = request.data.headers.fields
    return request.data.method in _SAFE and not any(
        name.lower() == b"transfer-encoding" or (name.lower() == b"content-length" and value != b"0")
        for name, value in fields
    )


def _go_again(original: Any, self: Any, event: Any) -> CommandGenerator[None]:
    """A connection that was used again was closed instead of answering: over a new one, once."""
    if not (
        type(event) is ResponseProtocolError
        and vars(self).pop("keyswap_closed", False)
        and vars(self).pop("keyswap_repeats", False)
        and self.flow.response is None
        and self.client_state == self.state_done
        and self.server_state == self.state_wait_for_response_headers
    ):
        yield from original(self, event)
        return
    vars(self)["keyswap_again"] = True
    if (yield from self.make_server_connection()):
        yield http.SendHttp(RequestHeaders(self.stream_id, self.flow.request, end_stream=True), self.context.server)
        yield http.SendHttp(RequestEndOfMessage(self.stream_id), self.context.server)
