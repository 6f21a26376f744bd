"""The bodies of HTTP/2 requests, stream by stream, beside `http_layers`.

Law: no stream's backend holds up another stream, nor what the caller says of its windows. What has come of a body and
cannot be used yet waits here in one piece, behind it its end; it is acknowledged when it goes on, so that a caller has
at most a window of each stream waiting (RFC 9113 §5.2). An empty frame of data is never passed on: in a chunked body
it would be the end, and what follows it another request. Measured on mitmproxy 12.2.3 and h2 4.3.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol
from weakref import WeakSet

import h2.events
from mitmproxy.connection import Client, Server
from mitmproxy.http import HTTPFlow
from mitmproxy.proxy.commands import Command, SendData
from mitmproxy.proxy.events import CommandCompleted, Event
from mitmproxy.proxy.layer import CommandGenerator
from mitmproxy.proxy.layers import http
from mitmproxy.proxy.layers.http import _http2
from mitmproxy.proxy.layers.http._base import ReceiveHttp
from mitmproxy.proxy.layers.http._events import RequestData

from keyswap.shell.mitm import hop_by_hop, upstream_pool
from keyswap.shell.mitm.connection_watch import TurnDue
from keyswap.shell.mitm.hop_by_hop import wrap
from keyswap.shell.mitm.http_layers import watch_of

WINDOW = 65_535
"""Bytes of a stream's body that may be on their way: HTTP/2's default, which a caller may use before our settings."""
WIDE, MANY_WIDE = 1 << 20, 32
"""The same for a body that flows, for one stream of a connection and so many of the process."""


class FlowWatch(Protocol):
    """What is asked of whoever watches over a caller's connection, besides `http_layers.Watch`."""

    def backlog(self, server: Server) -> int:
        """Bytes that this backend has not taken."""

    def when_taken(self, server: Server, then: Callable[[], None]) -> None:
        """Call `then` once it has taken all of them, or is gone."""

    def deliver(self, event: Event) -> None:
        """Let the connection's layers take an event, when they are done with what they do."""

    def is_silent(self, server: Server) -> bool:
        """Whether nothing has come of this backend that was not read, and it has not closed."""

    def is_over(self, server: Server) -> bool:
        """Whether nothing comes over this upstream connection any more, and nothing is owed over it."""

    def hang_up_on(self, server: Server) -> None:
        """End this connection upstream as if its backend had."""


@dataclass(slots=True, eq=False, weakref_slot=True)
class Lane:
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
class Lanes:
    """Those of a connection whose bodies have not ended, by their streams."""

    layer: http.HttpLayer
    by: FlowWatch
    of: dict[int, Lane] = field(default_factory=dict)
    wide: int = 0
    """The stream that has a wide window."""
    moved: int = 0
    """HEADERS, and DATA that was not empty."""


_WIDE: WeakSet[Lane] = WeakSet()


@dataclass
class Hold(Command):
    """Nothing is done for this command: it marks where its completion goes."""

    blocking = False

    def __hash__(self) -> int:
        return id(self)


@dataclass(repr=False)
class GoOn(CommandCompleted):
    """What has waited of this stream's body can be used, perhaps."""

    command: Hold
    reply: None
    stream_id: int


def install() -> None:
    """Change the layers of this process, after `http_layers`; doing it again changes nothing."""
    server = _http2.Http2Server
    wrap(server, "__init__", _begin)
    wrap(server, "handle_h2_event", _receive)
    wrap(server, "_handle_event", _handle)
    wrap(server, "done", _done)
    hop_by_hop.install()
    upstream_pool.install()


def _begin(original: Any, self: Any, *given: Any) -> None:
    original(self, *given)
    by = watch_of(self.context.client)
    if by is not None:
        layer = next(layer for layer in self.context.layers if isinstance(layer, http.HttpLayer))
        self.keyswap_lanes = Lanes(layer, by)
        settings = self.h2_conn.local_settings
        settings.initial_window_size = WINDOW
        settings.acknowledge()  # as in mitmproxy: otherwise the old ones are sent


# ---- What comes from the caller


def _receive(original: Any, self: Any, event: h2.events.Event) -> CommandGenerator[bool]:
    lanes: Lanes | None = getattr(self, "keyswap_lanes", None)
    if lanes is not None:
        if isinstance(event, h2.events.DataReceived):
            return _receive_data(original, self, lanes, event)
        if isinstance(event, h2.events.RequestReceived):
            lanes.moved += 1
            lanes.of[event.stream_id] = Lane()
        elif isinstance(event, h2.events.StreamEnded):
            lane = lanes.of.get(event.stream_id)
            if lane is not None and lane.held is not None and _is_whole(self, event, lane):
                lane.end = event
                return _nothing()
            _forget(self, lanes, event.stream_id)
        elif isinstance(event, h2.events.StreamReset):
            _forget(self, lanes, event.stream_id)
    received: CommandGenerator[bool] = original(self, event)
    return received


def _is_whole(self: Any, event: h2.events.StreamEnded, lane: Lane) -> bool:
    """Whether a body has the length that its head declared: one that has not is reset at once (http2)."""
    missing = self.keyswap_missing.get(event.stream_id)
    return missing is None or missing == len(lane.waiting)


def _forget(self: Any, lanes: Lanes, stream_id: int | None) -> None:
    lane = lanes.of.pop(stream_id or 0, None)
    if lane is not None and lane.owed:
        self.h2_conn.acknowledge_received_data(lane.owed, stream_id)


def _receive_data(original: Any, self: Any, lanes: Lanes, event: h2.events.DataReceived) -> CommandGenerator[bool]:
    lane = lanes.of.get(event.stream_id)
    if not event.data:
        return (yield from _without_data(original(self, event)))
    lanes.moved += 1
    if lane is None:
        return bool((yield from original(self, event)))
    lane.came += len(event.data)
    obstacle = _obstacle(lanes, event.stream_id)
    if lane.held is None and obstacle is None:
        _widen(self, lanes, lane, event)
        return bool((yield from original(self, event)))
    if lane.held is None:
        lane.held = event
        _arrange(self, lanes, event.stream_id, obstacle)
    lane.waiting += event.data
    lane.owed += event.flow_controlled_length
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


def _widen(self: Any, lanes: Lanes, lane: Lane, event: h2.events.DataReceived) -> None:
    """Give a body that flows a wider window: with the first one it would move 64 KiB each time there and back."""
    if lane.came <= WINDOW or lanes.wide in lanes.of or len(_WIDE) >= MANY_WIDE or self.is_closed(event.stream_id):
        return
    lanes.wide = event.stream_id
    _WIDE.add(lane)
    self.h2_conn.increment_flow_control_window(WIDE - WINDOW, event.stream_id)


def _obstacle(lanes: Lanes, stream_id: int) -> Any:
    """Why what comes of a body must wait: its stream, which is being judged or connected, or its backend, or None."""
    stream: Any = lanes.layer.streams.get(stream_id)
    if stream is None:
        return None
    if stream._paused is not None:
        return stream
    streams = stream.client_state == stream.state_stream_request_body
    return stream.flow.server_conn if streams and lanes.by.backlog(stream.flow.server_conn) else None


def _arrange(self: Any, lanes: Lanes, stream_id: int, obstacle: Any) -> None:
    """See that the stream goes on when its obstacle is gone."""

    def then() -> None:
        event = GoOn(Hold(), None, stream_id)
        lanes.layer.command_sources[event.command] = self
        lanes.by.deliver(event)

    if isinstance(obstacle, http.HttpStream):
        _when_awake(obstacle, then)
    else:
        lanes.by.when_taken(obstacle, then)


def _when_awake(stream: Any, then: Callable[[], None]) -> None:
    original = stream.handle_event

    def handle_event(event: Event) -> CommandGenerator[None]:
        yield from original(event)
        if stream._paused is None and vars(stream).pop("handle_event", None) is not None:
            then()

    vars(stream)["handle_event"] = handle_event


def _handle(original: Any, self: Any, event: Event) -> CommandGenerator[None]:
    handled: CommandGenerator[None] = _go_on(self, event) if isinstance(event, GoOn) else original(self, event)
    return handled


def _done(original: Any, self: Any, event: Event) -> CommandGenerator[None]:
    if isinstance(event, TurnDue):
        self.keyswap_waits = False
    elif not isinstance(event, GoOn):
        yield from original(self, event)


def _go_on(self: Any, event: GoOn) -> CommandGenerator[None]:
    lanes: Lanes = self.keyswap_lanes
    lane = lanes.of.get(event.stream_id)
    if lane is None or lane.held is None:
        return
    obstacle = _obstacle(lanes, event.stream_id)
    if obstacle is not None:
        return _arrange(self, lanes, event.stream_id, obstacle)
    receive = vars(_http2.Http2Server.handle_h2_event)["before_flow"]
    held, lane.held = lane.held, None
    held.data, held.flow_controlled_length = bytes(lane.waiting), lane.owed
    lane.waiting, lane.owed = bytearray(), 0
    yield from receive(self, held)
    if lane.end is not None:
        lanes.of.pop(event.stream_id, None)
        yield from receive(self, lane.end)
    frames = self.h2_conn.data_to_send()
    if frames:
        yield SendData(self.conn, frames)


# ---- What the guard looks at


class Body(NamedTuple):
    """A body that a caller owes."""

    flow: HTTPFlow
    came: int
    """Bytes so far."""
    waiting: bool
    """The caller is not to blame: what has come cannot be used yet."""


def moved(layer: http.HttpLayer) -> int:
    """A number that changes with each HEADERS and DATA of a caller, as no PING changes it."""
    lanes = _lanes(layer)
    return lanes.moved if lanes is not None else 0


def bodies(layer: http.HttpLayer) -> dict[int, Body]:
    """The bodies that a caller owes over HTTP/2, by their streams."""
    lanes, bodies_by_stream = _lanes(layer), dict[int, Body]()
    server: Any = layer.connections.get(layer.context.client)
    for stream_id, lane in list(lanes.of.items()) if lanes is not None else ():
        stream: Any = layer.streams.get(stream_id)
        if stream is None and lanes is not None:
            _forget(server, lanes, stream_id)
        elif stream is None or server.is_closed(stream_id):
            if lane.held is None and lanes is not None:
                del lanes.of[stream_id]
        elif stream.client_state in (stream.state_stream_request_body, stream.state_consume_request_body):
            waiting = lane.held is not None or stream._paused is not None
            bodies_by_stream[stream_id] = Body(stream.flow, lane.came, waiting)
    return bodies_by_stream


def unread(layer: http.HttpLayer) -> int:
    """Bytes of all responses that an HTTP/2 caller has not made room for."""
    server: Any = layer.connections.get(layer.context.client)
    if not isinstance(server, _http2.Http2Server):
        return 0
    return sum(len(chunk.data) for waiting in server.h2_conn.stream_buffers.values() for chunk in waiting)


def let_go(layer: http.HttpLayer) -> None:
    """Forget what waits for an HTTP/2 caller that is gone: its layers refer to each other, and may live for long."""
    server: Any = layer.connections.get(layer.context.client)
    if isinstance(server, _http2.Http2Server):
        server.h2_conn.stream_buffers.clear()


def _lanes(layer: http.HttpLayer) -> Lanes | None:
    return getattr(layer.connections.get(layer.context.client), "keyswap_lanes", None)


def is_multiplexed(client: Client) -> bool:
    """Whether the caller speaks HTTP/2; known once TLS is."""
    return client.alpn == b"h2"
