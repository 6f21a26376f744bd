"""What a caller's connection is doing, as the guard looks at it.

Law: as in `patch_table`. It only looks, and forgets what waits for a caller that is gone.
"""

from typing import Any, NamedTuple

import h2.stream
from mitmproxy.connection import Client, Server
from mitmproxy.http import HTTPFlow
from mitmproxy.proxy.layers import http
from mitmproxy.proxy.layers.http import _http1, _http2

from keyswap.shell.mitm.http2_bodies import BodyBuffers, forget
from keyswap.shell.mitm.turns import waits_for_turn

SMALL_READ, MIDDLE_READ = 8 << 10, 16 << 10
"""Bytes that are read at once of a head, and of a body that is held: thousands of callers may have as much waiting."""
QUEUED_EVENTS = 8
"""How many events may wait for a stream that is being judged or connected, before nothing more is read."""


class Phase(NamedTuple):
    """What a client's connection is doing. `mark` is equal for as long as it is doing the same thing."""

    name: str
    """`head`: a request is awaited or has begun; `body`: one is incomplete; `rest`: neither."""
    mark: object


class OwedBody(NamedTuple):
    """A body that a caller owes."""

    flow: HTTPFlow
    came: int
    """Bytes so far."""
    waiting: bool
    """The caller is not to blame: what has come cannot be used yet."""


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


def unread_from(layer: http.HttpLayer, server: Server) -> int:
    """Bytes that an HTTP/2 caller has not made room for, of the response that comes over this upstream connection."""
    towards: Any = layer.connections.get(layer.context.client)
    upstream = layer.connections.get(server)
    if not isinstance(towards, _http2.Http2Server) or upstream is None:
        return 0
    stream_id = getattr(upstream.context.layers[-1], "stream_id", None)
    waiting = towards.h2_conn.stream_buffers.get(stream_id) if stream_id else None
    return sum(len(chunk.data) for chunk in waiting) if waiting else 0


def unread(layer: http.HttpLayer) -> int:
    """Bytes of all responses that an HTTP/2 caller has not made room for."""
    server: Any = layer.connections.get(layer.context.client)
    if not isinstance(server, _http2.Http2Server):
        return 0
    return sum(len(chunk.data) for waiting in server.h2_conn.stream_buffers.values() for chunk in waiting)


def moved(layer: http.HttpLayer) -> int:
    """A number that changes with each HEADERS and DATA of a caller, as no PING changes it."""
    buffers = _buffers(layer)
    return buffers.moved if buffers is not None else 0


def bodies(layer: http.HttpLayer) -> dict[int, OwedBody]:
    """The bodies that a caller owes over HTTP/2, by their streams."""
    buffers, owed = _buffers(layer), dict[int, OwedBody]()
    server: Any = layer.connections.get(layer.context.client)
    for stream_id, buffer in list(buffers.of.items()) if buffers is not None else ():
        stream: Any = layer.streams.get(stream_id)
        if stream is None and buffers is not None:
            forget(server, buffers, stream_id)
        elif stream is None or server.is_closed(stream_id):
            if buffer.held is None and buffers is not None:
                del buffers.of[stream_id]
        elif stream.client_state in (stream.state_stream_request_body, stream.state_consume_request_body):
            waiting = buffer.held is not None or stream._paused is not None
            owed[stream_id] = OwedBody(stream.flow, buffer.came, waiting)
    return owed


def forget_responses(layer: http.HttpLayer) -> None:
    """Forget what waits for an HTTP/2 caller that is gone: its layers refer to each other, and may live for long."""
    server: Any = layer.connections.get(layer.context.client)
    if isinstance(server, _http2.Http2Server):
        server.h2_conn.stream_buffers.clear()


def _buffers(layer: http.HttpLayer) -> BodyBuffers | None:
    return getattr(layer.connections.get(layer.context.client), "keyswap_buffers", None)


def is_multiplexed(client: Client) -> bool:
    """Whether the caller speaks HTTP/2; known once TLS is."""
    return client.alpn == b"h2"
