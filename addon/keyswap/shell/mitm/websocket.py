"""mitmproxy's WebSockets, as `patch_table` changes them: their messages are bounded, and their ends are said apart.

Law: as in `patch_table`. A socket that is lost at one end has no normal end at the other.
"""

import time
from typing import Any

from mitmproxy.proxy.commands import CloseConnection
from mitmproxy.proxy.events import ConnectionClosed, Event
from mitmproxy.proxy.layer import CommandGenerator
from mitmproxy.proxy.layers import websocket
from wsproto.connection import ConnectionState
from wsproto.events import CloseConnection as WebSocketClose
from wsproto.events import Message
from wsproto.frame_protocol import CloseReason

from keyswap.shell.mitm.connection_watch import watch_of
from keyswap.shell.mitm.interjections import Interjection

MAX_MESSAGE, MAX_FRAGMENTS = 4 << 20, 1 << 14
"""Bytes and frames of a WebSocket message, after which the socket is closed with 1009 (RFC 6455 §7.4.1)."""


def events(original: Any, self: Any) -> Any:
    """A message is bounded, and put together in place when it comes in many pieces: bytes would be copied each time."""
    for event in original(self):
        if isinstance(event, Message):
            size, fragments = getattr(self, "keyswap_message", (0, 0))
            size += len(event.data.encode() if isinstance(event.data, str) else event.data)
            if size > MAX_MESSAGE or fragments > MAX_FRAGMENTS:
                yield WebSocketClose(1009, "the message is too big")
                return
            self.keyswap_message = (0, 0) if event.message_finished else (size, fragments + 1)
            if isinstance(self.frame_buf[-1], bytes):
                self.frame_buf[-1] = bytearray(self.frame_buf[-1])
        yield event


def relay_unseen(original: Any, self: Any, event: Event) -> CommandGenerator[None]:
    """Pass messages on without asking anyone: while a hook was awaited, messages would queue without bound."""
    for command in original(self, event):
        if isinstance(command, websocket.WebsocketMessageHook):
            self.flow.websocket.messages.clear()
        else:
            yield command


def relay(original: Any, self: Any, event: Event) -> CommandGenerator[None]:
    """Let go of what had come of a message when its socket ends: its connection may stay for a while."""
    yield from _end_lost(self, event) if isinstance(event, ConnectionClosed | Interjection) else original(self, event)
    if self._handle_event == self.done:
        self.client_ws = self.server_ws = None


def done(original: Any, self: Any, event: Event) -> CommandGenerator[None]:
    """An interjection after the end of a socket is for nobody."""
    yield from () if isinstance(event, Interjection) else original(self, event)


def _end_lost(self: Any, event: ConnectionClosed | Interjection) -> CommandGenerator[None]:
    """A socket that is lost at one end is no normal end at the other: wsproto would say 1000 (RFC 6455 §7.1.5).

    Whose peer is gone without a word is left without a word; where the gateway ends it, both get a code. What was to
    be its answer may come when the handshake has been answered already.
    """
    watch = watch_of(self.context.client)
    code = watch.close_code(self.flow) if watch is not None else None
    data = self.flow.websocket
    data.timestamp_end, data.close_code, data.close_reason = time.time(), code or CloseReason.ABNORMAL_CLOSURE, ""
    data.closed_by_client = isinstance(event, ConnectionClosed) and event.connection == self.context.client
    for side in (self.server_ws, self.client_ws):
        if code is not None and side.state is ConnectionState.OPEN:
            yield side.send2(WebSocketClose(code, ""))
        yield CloseConnection(side.conn)
    yield websocket.WebsocketEndHook(self.flow)
    self.flow.live = False
    self._handle_event = self.done
