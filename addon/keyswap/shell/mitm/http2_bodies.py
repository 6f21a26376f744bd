"""The bodies of HTTP/2 requests, stream by stream.

Law: no stream's backend holds up another stream, nor what the caller says of its windows. What has come of a body and
cannot be used yet waits here in one piece, behind it its end; it is acknowledged when it goes on, so that a caller has
at most a window of each stream waiting (RFC 9113 §5.2). An empty frame of data is never passed on: in a chunked body
it would be the end, and what follows it another request. Measured on mitmproxy 12.2.3 and h2 4.3.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakSet

import h2.events
from mitmproxy.proxy.commands import Command, SendData
from mitmproxy.proxy.events import CommandCompleted, Event
from mitmproxy.proxy.layer import CommandGenerator
from mitmproxy.proxy.layers import http
from mitmproxy.proxy.layers.http import _http2
from mitmproxy.proxy.layers.http._base import ReceiveHttp
from mitmproxy.proxy.layers.http._events import RequestData

from keyswap.shell.mitm.connection_watch import FlowWatch, layer_of, watch_of
from keyswap.shell.mitm.deferred import Deferred, address
from keyswap.shell.mitm.patching import beneath
from keyswap.shell.mitm.turns import TurnDue

WINDOW = 65_535
"""Bytes of a stream's body that may be on their way: HTTP/2's default, which a caller may use before our settings."""
WIDE, MANY_WIDE = 1 << 20, 32
"""The same for a body that flows, for one stream of a connection and so many of the process."""


@dataclass(slots=True, eq=False, weakref_slot=True)
class BodyBuffer:
    """A request's body, on its way."""

    came: int = 0
    """Bytes of it so far."""
    held: h2.events.DataReceived | None = None
    """The first event that waits; `waiting` and `owed` are the bytes of all of them, without and with their padding."""
    waiting: bytearray = field(default_factory=bytearray)
    owed: int = 0
    end: h2.events.StreamEnded | None = None
    """The end waits too."""


@dataclass(slots=True)
class BodyBuffers:
    """The bodies of a connection that have not ended, by their streams."""

    layer: http.HttpLayer
    watch: FlowWatch
    of: dict[int, BodyBuffer] = field(default_factory=dict)
    wide: int = 0
    """The stream that has a wide window."""
    moved: int = 0
    """HEADERS, and DATA that was not empty."""


_WIDE: WeakSet[BodyBuffer] = WeakSet()


class AwaitObstacle(Deferred):
    """Marks the connection one of whose streams has an obstacle."""


@dataclass(repr=False)
class Resume(CommandCompleted):
    """What has waited of this stream's body can be used, perhaps."""

    command: AwaitObstacle
    reply: None
    stream_id: int


def begin(original: Any, self: Any, *given: Any) -> None:
    """Each stream has a window of its own."""
    original(self, *given)
    watch = watch_of(self.context.client)
    if watch is not None:
        self.keyswap_buffers = BodyBuffers(layer_of(self), watch)
        settings = self.h2_conn.local_settings
        settings.initial_window_size = WINDOW
        settings.acknowledge()  # as in mitmproxy: otherwise the old ones are sent


def receive(original: Any, self: Any, event: h2.events.Event) -> CommandGenerator[bool]:
    """A body that cannot go on waits."""
    buffers: BodyBuffers | None = getattr(self, "keyswap_buffers", None)
    if buffers is not None:
        if isinstance(event, h2.events.DataReceived):
            return _receive_data(original, self, buffers, event)
        if isinstance(event, h2.events.RequestReceived):
            buffers.moved += 1
            buffers.of[event.stream_id] = BodyBuffer()
        elif isinstance(event, h2.events.StreamEnded):
            buffer = buffers.of.get(event.stream_id)
            if buffer is not None and buffer.held is not None and _is_whole(self, event, buffer):
                buffer.end = event
                return _nothing()
            forget(self, buffers, event.stream_id)
        elif isinstance(event, h2.events.StreamReset):
            forget(self, buffers, event.stream_id)
    received: CommandGenerator[bool] = original(self, event)
    return received


def _is_whole(self: Any, event: h2.events.StreamEnded, buffer: BodyBuffer) -> bool:
    """Whether a body has the length that its head declared: one that has not is reset at once (http2)."""
    missing = self.keyswap_missing.get(event.stream_id)
    return missing is None or missing == len(buffer.waiting)


def forget(self: Any, buffers: BodyBuffers, stream_id: int | None) -> None:
    """Forget a body, and acknowledge what was held of it."""
    buffer = buffers.of.pop(stream_id or 0, None)
    if buffer is not None and buffer.owed:
        self.h2_conn.acknowledge_received_data(buffer.owed, stream_id)


def _receive_data(
    original: Any, self: Any, buffers: BodyBuffers, event: h2.events.DataReceived
) -> CommandGenerator[bool]:
    buffer = buffers.of.get(event.stream_id)
    if not event.data:
        return (yield from _without_data(original(self, event)))
    buffers.moved += 1
    if buffer is None:
        return bool((yield from original(self, event)))
    buffer.came += len(event.data)
    obstacle = _obstacle(buffers, event.stream_id)
    if buffer.held is None and obstacle is None:
        _widen(self, buffers, buffer, event)
        return bool((yield from original(self, event)))
    if buffer.held is None:
        buffer.held = event
        _resume_later(self, buffers, event.stream_id, obstacle)
    buffer.waiting += event.data
    buffer.owed += event.flow_controlled_length
    return False


def _nothing() -> CommandGenerator[bool]:
    yield from ()
    return False


def _without_data(received: Iterator[Command]) -> CommandGenerator[bool]:
    while True:
        try:
            command = next(received)
        except StopIteration as stop:
            return bool(stop.value)
        if not (isinstance(command, ReceiveHttp) and isinstance(command.event, RequestData)):
            yield command


def _widen(self: Any, buffers: BodyBuffers, buffer: BodyBuffer, event: h2.events.DataReceived) -> None:
    """Give a body that flows a wider window: with the first one it would move 64 KiB each time there and back."""
    if (
        buffer.came <= WINDOW
        or buffers.wide in buffers.of
        or len(_WIDE) >= MANY_WIDE
        or self.is_closed(event.stream_id)
    ):
        return
    buffers.wide = event.stream_id
    _WIDE.add(buffer)
    self.h2_conn.increment_flow_control_window(WIDE - WINDOW, event.stream_id)


def _obstacle(buffers: BodyBuffers, stream_id: int) -> Any:
    """Why what comes of a body must wait: its stream, which is being judged or connected, or its backend, or None."""
    stream: Any = buffers.layer.streams.get(stream_id)
    if stream is None:
        return None
    if stream._paused is not None:
        return stream
    streams = stream.client_state == stream.state_stream_request_body
    return stream.flow.server_conn if streams and buffers.watch.backlog(stream.flow.server_conn) else None


def _resume_later(self: Any, buffers: BodyBuffers, stream_id: int, obstacle: Any) -> None:
    """See that the stream goes on when its obstacle is gone."""

    def then() -> None:
        event = Resume(AwaitObstacle(), None, stream_id)
        address(buffers.layer, event, self)
        buffers.watch.deliver(event)

    if isinstance(obstacle, http.HttpStream):
        _when_awake(obstacle, then)
    else:
        buffers.watch.when_taken(obstacle, then)


def _when_awake(stream: Any, then: Callable[[], None]) -> None:
    original = stream.handle_event

    def handle_event(event: Event) -> CommandGenerator[None]:
        yield from original(event)
        if stream._paused is None and vars(stream).pop("handle_event", None) is not None:
            then()

    vars(stream)["handle_event"] = handle_event


def handle_event(original: Any, self: Any, event: Event) -> CommandGenerator[None]:
    """A body goes on that has waited; everything else is for the connection."""
    handled: CommandGenerator[None] = _resume(self, event) if isinstance(event, Resume) else original(self, event)
    return handled


def done(original: Any, self: Any, event: Event) -> CommandGenerator[None]:
    """What comes from outside when the connection is over is for nobody."""
    if isinstance(event, TurnDue):
        self.keyswap_waits = False
    elif not isinstance(event, Resume):
        yield from original(self, event)


def _resume(self: Any, event: Resume) -> CommandGenerator[None]:
    buffers: BodyBuffers = self.keyswap_buffers
    buffer = buffers.of.get(event.stream_id)
    if buffer is None or buffer.held is None:
        return
    obstacle = _obstacle(buffers, event.stream_id)
    if obstacle is not None:
        return _resume_later(self, buffers, event.stream_id, obstacle)
    received = beneath(_http2.Http2Server, "handle_h2_event", receive)
    held, buffer.held = buffer.held, None
    held.data, held.flow_controlled_length = bytes(buffer.waiting), buffer.owed
    buffer.waiting, buffer.owed = bytearray(), 0
    yield from received(self, held)
    if buffer.end is not None:
        buffers.of.pop(event.stream_id, None)
        yield from received(self, buffer.end)
    frames = self.h2_conn.data_to_send()
    if frames:
        yield SendData(self.conn, frames)
