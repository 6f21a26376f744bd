"""The connections to backends that a caller's connection keeps.

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
import time
from typing import Any

from mitmproxy.connection import Server
from mitmproxy.http import Request, Response
from mitmproxy.net.http.http1 import connection_close
from mitmproxy.proxy.commands import CloseConnection
from mitmproxy.proxy.layer import CommandGenerator
from mitmproxy.proxy.layers import http
from mitmproxy.proxy.layers.http import _http1
from mitmproxy.proxy.layers.http._base import ReceiveHttp
from mitmproxy.proxy.layers.http._events import ErrorCode, RequestEndOfMessage, RequestHeaders, ResponseProtocolError

from keyswap.shell.mitm.connection_watch import layer_of, watch_of
from keyswap.shell.mitm.teardown import take_apart

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


def reserve(request: Request, whom: object) -> None:
    """The connection that carries this request serves nobody else: only requests of an equal `whom`."""
    vars(request)["keyswap_whom"] = whom


def close_upstream(response: Response) -> None:
    """The backend closes its connection after this response, though its head does not say so any more."""
    vars(response)["keyswap_closes"] = True


def mark_done(original: Any, self: Any, **done: bool) -> CommandGenerator[None]:
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
    if not _is_idle(self):
        return
    layer = layer_of(self)
    kept = _idle(layer)
    if closes:
        yield from _close(layer, self.conn)
        return
    if len(kept) >= MOST_KEPT:
        yield from _close(layer, next(iter(kept)))
    kept[self.conn] = since = time.monotonic()
    if len(layer.streams) > 1:
        asyncio.get_running_loop().call_later(PATIENCE_S, _close_if_others_wait, layer, self.conn, since)


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


def _idle(layer: Any) -> dict[Server, float]:
    """The connections at rest, and since when, those that have rested longest first."""
    kept: dict[Server, float] = vars(layer).setdefault("keyswap_kept", {})
    return kept


def client_of(layer: Any, server: Server) -> Any:
    """The layer that speaks HTTP/1 over a connection; None: there is none (any more)."""
    first = layer.connections.get(server)
    client = first.context.layers[-1] if first is not None else None
    return client if isinstance(client, _http1.Http1Client) else None


def _is_idle(client: Any) -> bool:
    return client.stream_id is None and client.request is None and client.state == client.read_headers


def _close(layer: Any, server: Server) -> CommandGenerator[None]:
    _idle(layer).pop(server, None)
    client = client_of(layer, server)
    if client is not None and server.connected:
        client.state = client.done
        yield CloseConnection(server)


def _close_if_others_wait(layer: Any, server: Server, since: float) -> None:
    """Close a connection that rests while the caller's other requests wait: its backend may have no other worker."""
    watch = watch_of(layer.context.client)
    if watch is not None and _idle(layer).get(server) == since and any(map(_awaits_response, layer.streams.values())):
        del _idle(layer)[server]
        watch.hang_up_on(server)


def _awaits_response(stream: Any) -> bool:
    return bool(stream.server_state == stream.state_wait_for_response_headers)


def is_left_over(layer: Any, server: Server) -> bool:
    """Whether a connection waits for the end of a request whose stream has ended: nobody will send it."""
    client = client_of(layer, server)
    return client is not None and client.stream_id is not None and client.stream_id not in layer.streams


def forget_closed(layer: http.HttpLayer) -> None:
    """Let go of connections upstream that have ended, and take their layers apart.

    mitmproxy keeps each with its last response for as long as the caller's connection lasts, looks through all of them
    for the next request, and lets one that could not be made answer for it.
    """
    watch = watch_of(layer.context.client)
    used = {id(stream.context.server) for stream in layer.streams.values()}
    used |= {id(server) for server in (layer.context.server, *layer.waiting_for_establishment)}
    for server in list(layer.connections):
        if not isinstance(server, Server) or not (server.timestamp_end or server.error) or id(server) in used:
            continue
        if watch is None or watch.is_over(server):
            take_apart(_behind(layer.connections.pop(server)))
    take_apart(vars(layer).pop("keyswap_failed", ()))


def forget(layer: http.HttpLayer, server: Server) -> None:
    """Let go of a connection that could not be made; its layers, which are saying so, are taken apart the next time."""
    first = layer.connections.pop(server, None)
    if first is not None:
        vars(layer).setdefault("keyswap_failed", []).extend(_behind(first))


def _behind(first: Any) -> list[Any]:
    """The layers of a connection upstream, of which the HTTP layer knows the first."""
    layers: list[Any] = first.context.layers
    return layers[layers.index(first) :]


def get_connection(original: Any, self: Any, event: Any, *, reuse: bool = True) -> CommandGenerator[None]:
    """A connection for a request: the one of its principal that rested least, or a new one."""
    stream: Any = self.command_sources[event]
    watch, kept = watch_of(self.context.client), _idle(self)
    repeats, whom = _can_repeat(stream.flow.request), vars(stream.flow.request).get("keyswap_whom")
    for server in reversed(list(kept)) if reuse and "keyswap_again" not in vars(stream) else ():
        client = client_of(self, server)
        if not event.connection_spec_matches(server) or (client is not None and client.keyswap_whom != whom):
            continue
        rested_s = time.monotonic() - kept[server]
        is_good = client is not None and server.connected and _is_idle(client) and not client.buf
        is_good = is_good and (watch is None or watch.is_silent(server))
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
        asyncio.get_running_loop().call_later(PATIENCE_S, _close_if_others_wait, self, server, since)
    # mitmproxy would look for a connection among those that serve others.
    yield from original(self, event, reuse=False)


def _can_repeat(request: Request) -> bool:
    """Whether it may be sent twice, and is all there to be sent again."""
    if request.data.method not in _SAFE:
        return False
    for name, value in request.data.headers.fields:
        if len(name) == len(b"content-length") and name.lower() == b"content-length" and value != b"0":
            return False
        if len(name) == len(b"transfer-encoding") and name.lower() == b"transfer-encoding":
            return False
    return True


def repeat_request(original: Any, self: Any, event: Any) -> CommandGenerator[None]:
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
