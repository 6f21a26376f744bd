"""The end of a stream from outside its connection, with an answer of the gateway's if none has begun.

Law: as in `patch_table`. It ends its own stream, and never answers another one.
"""

from dataclasses import dataclass, field
from typing import Any

from mitmproxy.http import HTTPFlow
from mitmproxy.proxy.events import CommandCompleted
from mitmproxy.proxy.layers import http
from mitmproxy.proxy.layers.http import _http1
from mitmproxy.proxy.layers.http._events import ErrorCode, ResponseProtocolError

from keyswap.refusals import Answer
from keyswap.shell.mitm.deferred import Deferred, address


class Interject(Deferred):
    """Marks where an interjection goes."""


@dataclass(repr=False, init=False)
class Interjection(ResponseProtocolError, CommandCompleted):
    """From outside into the middle of a connection: this stream ends here, with an answer if none has begun."""

    command: Interject = field(default_factory=Interject)
    reply: None = None

    def __init__(self, stream_id: int, answer: Answer) -> None:
        super().__init__(stream_id, "ended by the gateway", ErrorCode.GENERIC_SERVER_ERROR)
        self.command, self.reply, self.answer = Interject(), None, answer


def interject(layer: http.HttpLayer, flow: HTTPFlow, answer: Answer) -> Interjection | None:
    """The event that ends the stream of `flow` with an answer; None: it has ended."""
    for stream in layer.streams.values():
        if getattr(stream, "flow", None) is flow:
            return _addressed(layer, Interjection(stream.stream_id, answer), stream)
    return None


def interject_http1(layer: http.HttpLayer, answer: Answer) -> Interjection | None:
    """The event that ends the request of an HTTP/1 connection, whose head may not have ended; None: there is none."""
    server: Any = layer.connections.get(layer.context.client)  # None: a TLS handshake has not ended
    if not isinstance(server, _http1.Http1Server):
        return None
    target = layer.streams.get(server.stream_id, server)
    return _addressed(layer, Interjection(server.stream_id, answer), target)


def _addressed(layer: http.HttpLayer, event: Interjection, target: Any) -> Interjection:
    address(layer, event, target)
    return event
