"""The first GOAWAY of RFC 9113 §6.8, when a gateway is to end: its HTTP/2 callers begin no more streams.

Law: streams that have begun, and those on their way, go on.
"""

from dataclasses import dataclass
from typing import Any

import h2.errors
from hyperframe import frame as frames
from mitmproxy.proxy.events import CommandCompleted
from mitmproxy.proxy.layers.http import HttpLayer, _http2

from keyswap.shell.mitm.deferred import Deferred, address


class SendGoaway(Deferred):
    """Marks the connection over which a GOAWAY goes."""


@dataclass(repr=False)
class Goaway(CommandCompleted):
    """The caller is to begin no more streams; the streams that it has, and what is on its way, go on."""

    command: SendGoaway
    reply: None = None


def goaway(layer: HttpLayer) -> Goaway | None:
    """The event that sends a caller a GOAWAY; None: it does not speak HTTP/2, or its connection is over."""
    connection: Any = layer.connections.get(layer.context.client)
    if not isinstance(connection, _http2.Http2Server) or connection._handle_event == connection.done:
        return None
    event = Goaway(SendGoaway())
    address(layer, event, connection)
    return event


def serialize_goaway() -> bytes:
    """The first of the two frames: h2 knows only the second, after which it sends nothing any more."""
    frame = frames.GoAwayFrame(0)
    frame.last_stream_id, frame.error_code = 2**31 - 1, h2.errors.ErrorCodes.NO_ERROR
    return bytes(frame.serialize())
