"""What is for one hop alone, in mitmproxy's layers: another part of `inside`, installed by `inside_flow`.

Law: the connection behind says nothing of the one in front. What closes one need not close the other, and a caller
gets a body in a coding that its version knows, and a Date. Measured on mitmproxy 12.2.3.
"""

from collections.abc import Callable
from typing import Any

from mitmproxy.http import Response
from mitmproxy.proxy.events import Event
from mitmproxy.proxy.layer import CommandGenerator
from mitmproxy.proxy.layers import websocket
from mitmproxy.proxy.layers.http import _http1
from mitmproxy.proxy.layers.http._events import ResponseHeaders
from wsproto.events import Message

from keyswap.shell.dates import dated


def install() -> None:
    """Change the layers of this process, after `inside_http`; doing it again changes nothing."""
    wrap(_http1.Http1Server, "send", _send_http1)
    wrap(websocket.WebsocketConnection, "events", _websocket_events)


def wrap(owner: Any, name: str, around: Callable[..., Any]) -> None:
    """Let `around(original, self, …)` stand in for a method; doing it again changes nothing."""
    original = getattr(owner, name)
    if hasattr(original, "before_flow"):
        return

    def method(self: Any, *given: Any, **named: Any) -> Any:
        return around(original, self, *given, **named)

    vars(method).update(vars(original), before_flow=original)  # and `inside_http` still sees that it has been here
    setattr(owner, name, method)


def _send_http1(original: Any, self: Any, event: Event) -> CommandGenerator[None]:
    if isinstance(event, ResponseHeaders):
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


def _websocket_events(original: Any, self: Any) -> Any:
    """A message that comes in many pieces is put together in place: adding to bytes copies them each time."""
    for event in original(self):
        if isinstance(event, Message) and isinstance(self.frame_buf[-1], bytes):
            self.frame_buf[-1] = bytearray(self.frame_buf[-1])
        yield event
