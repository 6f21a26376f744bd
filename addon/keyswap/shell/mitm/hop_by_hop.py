"""What is for one hop alone, in mitmproxy's layers, installed by `http2_streams`.

Law: the connection behind says nothing of the one in front. What closes one need not close the other, and a caller
gets a body in a coding that its version knows, and a Date. Measured on mitmproxy 12.2.3.
"""

import time
from collections.abc import Callable
from typing import Any

from mitmproxy.http import Response
from mitmproxy.proxy.commands import CloseConnection
from mitmproxy.proxy.events import ConnectionClosed, Event
from mitmproxy.proxy.layer import CommandGenerator
from mitmproxy.proxy.layers import websocket
from mitmproxy.proxy.layers.http import _http1
from mitmproxy.proxy.layers.http._events import ResponseHeaders
from wsproto.connection import ConnectionState
from wsproto.events import CloseConnection as WebSocketClose
from wsproto.events import Message
from wsproto.frame_protocol import CloseReason

from keyswap.http_date import dated
from keyswap.shell.mitm.connection_watch import Interjection, watch_of


def install() -> None:
    """Change the layers of this process, after `http_layers`; doing it again changes nothing."""
    wrap(_http1.Http1Server, "send", _send_http1)
    wrap(websocket.WebsocketConnection, "events", _websocket_events)
    wrap(websocket.WebsocketLayer, "relay_messages", _relay)
    wrap(websocket.WebsocketLayer, "done", _done)


def wrap(owner: Any, name: str, around: Callable[..., Any]) -> None:
    """Let `around(original, self, …)` stand in for a method; doing it again changes nothing."""
    original = getattr(owner, name)
    if hasattr(original, "before_flow"):
        return

    def method(self: Any, *given: Any, **named: Any) -> Any:
        return around(original, self, *given, **named)

    vars(method).update(vars(original), before_flow=original)  # and `http_layers` still sees that it has been here
    setattr(owner, name, method)


def _send_http1(original: Any, self: Any, event: Event) -> CommandGenerator[None]:
    if isinstance(event, ResponseHeaders) and event.response.data.status_code >= 200:
        event.response.data.headers.fields = dated(event.response.data.headers.fields)
        if self.request.data.http_version == b"HTTP/1.0":
            _delimit_by_close(event.response)
    sent: CommandGenerator[None] = original(self, event)
    return sent


def _delimit_by_close(response: Response) -> None:
    """HTTP/1.0 knows no transfer coding (RFC 9112 §6.1): without it the body ends where the connection does."""
    fields = response.data.headers.fields
    kept = tuple(field for field in fields if field[0].lower() != b"transfer-encoding")
    if len(kept) != len(fields) and response.data.status_code != 101:
        response.data.headers.fields = (*kept, (b"Connection", b"close"))


# ---- WebSockets


def _relay(original: Any, self: Any, event: Event) -> CommandGenerator[None]:
    """Let go of what had come of a message when its socket ends: its connection may stay for a while."""
    yield from _lose(self, event) if isinstance(event, ConnectionClosed | Interjection) else original(self, event)
    if self._handle_event == self.done:
        self.client_ws = self.server_ws = None


def _done(original: Any, self: Any, event: Event) -> CommandGenerator[None]:
    yield from () if isinstance(event, Interjection) else original(self, event)


def _lose(self: Any, event: ConnectionClosed | Interjection) -> CommandGenerator[None]:
    """A socket that is lost at one end is no normal end at the other: wsproto would say 1000 (RFC 6455 §7.1.5).

    Whose peer is gone without a word is left without a word; where the gateway ends it, both are told why. What was to
    be its answer may come when the handshake has been answered already.
    """
    by = watch_of(self.context.client)
    code = by.close_code(self.flow) if by is not None else None
    data = self.flow.websocket
    data.timestamp_end, data.close_code, data.close_reason = (
        time.time(),
        code or CloseReason.ABNORMAL_CLOSURE,
        "",
    )
    data.closed_by_client = isinstance(event, ConnectionClosed) and event.connection == self.context.client
    for socket in (self.server_ws, self.client_ws):
        if code is not None and socket.state is ConnectionState.OPEN:
            yield socket.send2(WebSocketClose(code, ""))
        yield CloseConnection(socket.conn)
    yield websocket.WebsocketEndHook(self.flow)
    self.flow.live = False
    self._handle_event = self.done


def _websocket_events(original: Any, self: Any) -> Any:
    """A message that comes in many pieces is put together in place: adding to bytes copies them each time."""
    for event in original(self):
        if isinstance(event, Message) and isinstance(self.frame_buf[-1], bytes):
            self.frame_buf[-1] = bytearray(self.frame_buf[-1])
        yield event
