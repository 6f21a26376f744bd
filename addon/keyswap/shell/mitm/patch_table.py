"""What is changed in mitmproxy's connections and their layers, and by what: all of it is here.

Law: nothing outside `shell/mitm` touches a name of mitmproxy's that begins with an underscore, or counts on an order of
events that its documentation does not promise; tests/shell/mitm breaks when one of them changes. A change bounds,
drops or answers; it never lets pass what mitmproxy would have refused. What the policy bounds is asked of the
connection's watch, which the guard puts on the client; without one nothing is bounded. Measured on 12.2.3.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from mitmproxy.proxy.layers import http
from mitmproxy.proxy.layers.http import _http1, _http2
from mitmproxy.proxy.layers.websocket import WebsocketConnection, WebsocketLayer
from mitmproxy.proxy.server import ConnectionHandler

from keyswap.shell.mitm import (
    connection_handler,
    http1,
    http2,
    http2_bodies,
    http_streams,
    upstream_http1,
    upstream_pool,
    websocket,
)
from keyswap.shell.mitm.http1_parser import ChunkReader
from keyswap.shell.mitm.http2_costs import CostedConnection
from keyswap.shell.mitm.patching import patch


class Patch(NamedTuple):
    """A method, and the functions that change it, the outermost first."""

    owner: type
    name: str
    changes: tuple[Callable[..., Any], ...]


PATCHES = (
    Patch(ConnectionHandler, "open_connection", (connection_handler.open_connection,)),
    Patch(_http1.Http1Server, "__init__", (http1.begin_server,)),
    Patch(_http1.Http1Server, "send", (http1.send,)),
    Patch(_http1.Http1Server, "read_headers", (http1.read_request_head,)),
    Patch(_http1.Http1Server, "read_body", (http1.read_request_body,)),
    Patch(_http1.Http1Server, "mark_done", (http1.finish_request,)),
    Patch(_http1.Http1Connection, "_handle_event", (http1.handle_event,)),
    Patch(_http1.Http1Connection, "make_pipe", (http1.make_pipe,)),
    Patch(_http1.Http1Client, "__init__", (http1.begin_client,)),
    Patch(_http1.Http1Client, "send", (upstream_http1.send,)),
    Patch(_http1.Http1Client, "read_headers", (upstream_http1.read_response_head, http1.read_response_head)),
    Patch(_http1.Http1Client, "read_body", (upstream_http1.read_response_body,)),
    Patch(_http1.Http1Client, "mark_done", (upstream_pool.mark_done,)),
    Patch(_http2.Http2Server, "__init__", (http2_bodies.begin, http2.begin)),
    Patch(_http2.Http2Server, "_handle_event", (http2_bodies.handle_event, http2.handle_event)),
    Patch(_http2.Http2Server, "handle_h2_event", (http2_bodies.receive, http2.receive)),
    Patch(_http2.Http2Server, "close_connection", (http2.close_connection,)),
    Patch(_http2.Http2Server, "done", (http2_bodies.done,)),
    Patch(_http2.Http2Connection, "protocol_error", (http2.protocol_error,)),
    Patch(_http2.Http2Client, "handle_h2_event", (http2.receive_upstream,)),
    Patch(http.HttpStream, "state_wait_for_request_headers", (upstream_http1.begin_request,)),
    Patch(http.HttpStream, "check_body_size", (http_streams.check_body_size,)),
    Patch(http.HttpStream, "handle_protocol_error", (upstream_pool.repeat_request, http_streams.end_stream)),
    Patch(http.HttpLayer, "register_connection", (http_streams.register_connection,)),
    Patch(http.HttpLayer, "get_connection", (upstream_pool.get_connection,)),
    Patch(WebsocketConnection, "events", (websocket.events,)),
    Patch(WebsocketLayer, "done", (websocket.done,)),
)
SEEN = Patch(WebsocketLayer, "relay_messages", (websocket.relay,))
UNSEEN = Patch(WebsocketLayer, "relay_messages", (websocket.relay, websocket.relay_unseen))
"""Where nobody looks at the messages of WebSockets."""
REPLACEMENTS: tuple[tuple[Any, str, Any], ...] = (
    (http.HttpStream, "state_done", http_streams.ignore_late_response),
    (_http1, "ChunkedReader", ChunkReader),
    (_http2, "BufferedH2Connection", CostedConnection),
)
"""What stands in for something as a whole."""


def install(reasons: Mapping[int, str], shows: bool) -> None:
    """Change the layers of this process; doing it again changes nothing.

    `reasons` are the phrases of HTTP/1; `shows`: somebody looks at flows, and at the messages of WebSockets.
    """
    http1.REASONS.update(reasons)
    for owner, name, changes in (*PATCHES, SEEN if shows else UNSEEN):
        patch(owner, name, *changes)
    for owner, name, replacement in REPLACEMENTS:
        setattr(owner, name, replacement)
