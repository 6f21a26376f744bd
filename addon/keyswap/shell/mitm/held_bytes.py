"""What is held of a caller's requests: it only looks, and lets go of what was sent.

Law: as in `patch_table`. What goes on to a backend as it comes is not held: waiting for the backend bounds it
(`connections`, `http2_bodies`). Everything else of a request that mitmproxy's layers keep is counted here, in bytes;
what was read ahead while a request is open is of that one: the frames of a WebSocket, requests behind it, a body whose
head is judged. Measured on 12.2.3.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

from mitmproxy.http import HTTPFlow
from mitmproxy.proxy.layers import http, websocket
from mitmproxy.proxy.layers.http import _http1, _http2
from mitmproxy.proxy.layers.http._events import RequestData

from keyswap.shell.mitm.turns import waits_for_turn

STREAM, SMALL = 8 << 10, 4 << 10
"""Bytes that a request takes while its body comes, besides those of the body; bytes of a whole one that count."""


class Held(NamedTuple):
    """Bytes of one request, or of what is read ahead while none is open."""

    flow: HTTPFlow | None
    size: int
    begun: bool = True
    """False: they are those of a head that has not ended."""


def held(layer: http.HttpLayer, ahead: int) -> list[Held]:
    """What is held for a connection; `ahead`: bytes that its layers have not seen yet."""
    server: Any = layer.connections.get(layer.context.client)
    buffers: Any = getattr(server, "keyswap_buffers", None)
    requests, streaming, read_ahead = list[Held](), False, _read_ahead(server) + ahead
    for stream_id, stream in layer.streams.items():
        flow: HTTPFlow | None = getattr(stream, "flow", None)
        if flow is None:
            continue
        flows = stream.client_state == stream.state_stream_request_body
        streaming = streaming or flows
        waiting = buffers.of.get(stream_id) if buffers is not None else None
        size = sum(_parts(stream, flow)) + (len(waiting.waiting) if waiting is not None else 0)
        if not flows and stream.client_state != stream.state_done:
            size += STREAM
        requests.append(Held(flow, size))
    rest = []
    if read_ahead and _is_unended(layer, server):
        rest = [Held(None, read_ahead, begun=False)]
    elif read_ahead and not requests:
        rest = [Held(None, read_ahead)]
    elif not streaming and requests:
        requests[-1] = Held(requests[-1].flow, requests[-1].size + read_ahead)
    return [request for request in requests if request.size >= SMALL] + rest


def _is_unended(layer: http.HttpLayer, server: Any) -> bool:
    """Whether what was read ahead is of a head that has not ended, and no open request's."""
    if waits_for_turn(layer):
        return False
    if isinstance(server, _http1.Http1Server):
        return bool(server.state == server.read_headers)
    return not layer.streams or bool(_blocks(server))


def unended_head(layer: http.HttpLayer) -> int | None:
    """What tells the head that has begun and not ended from others of its connection; None: there is none."""
    server: Any = layer.connections.get(layer.context.client)
    if isinstance(server, _http1.Http1Server):
        return server.stream_id if server.buf and server.state == server.read_headers else None
    return next((int(frame.stream_id) for frame in _blocks(server)), None)


def _blocks(server: Any) -> list[Any]:
    """The frames of a block of header fields that has not ended."""
    return server.h2_conn.incoming_buffer._headers_buffer if isinstance(server, _http2.Http2Server) else []


def _parts(stream: Any, flow: HTTPFlow) -> Iterator[int]:
    yield len(stream.request_body_buf)
    yield len(flow.request.data.content or b"")
    yield sum(len(event.data) for event in stream._paused_event_queue if isinstance(event, RequestData))
    child = stream.child_layer
    if isinstance(child, websocket.WebsocketLayer):
        for side in (getattr(child, "client_ws", None), getattr(child, "server_ws", None)):
            yield sum(map(len, side.frame_buf)) if side is not None else 0


def _read_ahead(server: Any) -> int:
    if isinstance(server, _http1.Http1Server):
        return len(server.buf)
    if not isinstance(server, _http2.Http2Server):
        return 0
    buffer = server.h2_conn.incoming_buffer
    blocks = sum(len(frame.data) for frame in _blocks(server))
    return len(buffer._data) + blocks + len(getattr(server, "keyswap_rest", b""))


def mark_evicted(flow: HTTPFlow) -> None:
    """Note that this request is to end, because too much is held."""
    vars(flow)["keyswap_evicted"] = True


def is_evicted(flow: HTTPFlow) -> bool:
    """Whether `mark_evicted` noted this request."""
    return "keyswap_evicted" in vars(flow)


def release_read_ahead(layer: http.HttpLayer) -> None:
    """Forget what was read ahead: its connection is to end, and nobody reads it."""
    server: Any = layer.connections.get(layer.context.client)
    if isinstance(server, _http1.Http1Server):
        server.buf._data.clear()
        server.buf._next_line_search = server.buf._multiple_lines_search = 0
    elif isinstance(server, _http2.Http2Server):
        buffer = server.h2_conn.incoming_buffer
        buffer._headers_buffer, buffer._data = [], bytearray()
        vars(server)["keyswap_rest"] = bytearray()


def release_sent_bodies(layer: http.HttpLayer) -> None:
    """Forget the bodies that have been written to their backends: mitmproxy would keep them until they are answered."""
    for stream in layer.streams.values():
        flow = getattr(stream, "flow", None)
        if flow is None or stream.client_state != stream.state_done or stream._paused is not None:
            continue
        if flow.server_conn.connected and flow.request.data.content:
            flow.request.data.content = b""
