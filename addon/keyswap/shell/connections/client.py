"""One caller's connection, as the guard watches over it: its exchanges, its connections upstream, and its end.

Law: it stands in for a stream reader of mitmproxy's and closes what it was given. An exchange that ends is answered if
no response has begun, else cut. `reading`, `closing`, `clock` and `held` do their part with it.
"""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

from mitmproxy.connection import Client
from mitmproxy.http import HTTPFlow

from keyswap.model import WIRE, Code, Refuse
from keyswap.refusals import Answer
from keyswap.shell.connections.client_reading import CallerReading
from keyswap.shell.connections.clock import CallerClock
from keyswap.shell.connections.closing import Closing
from keyswap.shell.connections.exchange import Exchange, Outcome
from keyswap.shell.connections.held_requests import HeldRequests
from keyswap.shell.connections.layer_watch import LayerWatch
from keyswap.shell.connections.memory_budget import Piece
from keyswap.shell.connections.shared import WAITING_UP_TO, Shared, waiting
from keyswap.shell.connections.upstream import UpstreamConnection
from keyswap.shell.mitm import connection_watch, goaway, inspection, interjections
from keyswap.shell.runtime.connection_limits import ConnectionLimits

IDLE_S = 1.0
"""How long a connection that is to end has been silent when it is closed: nothing seems to be on its way."""


class ClientConnection:
    """One caller's connection. Stands in for its stream reader."""

    excess = 0
    """Bytes that wait for this caller, beyond what may wait for any, as of the last sweep."""

    def __init__(self, shared: Shared, client: Client, address: str, handler: Any) -> None:
        """`address`: where the caller is, as connections are counted; `handler`: mitmproxy's, of this connection."""
        self.shared, self.listener, self.spawn = shared, shared.listener, shared.spawn
        self.client, self.address, self.handler = client, address, handler
        self.open: dict[int, Exchange] = {}
        self.upstreams: dict[str, UpstreamConnection] = {}
        transport = handler.transports[client]
        self.reader, self.writer = transport.reader, transport.writer
        self.closing = Closing(self.writer.close)
        transport.reader, self.writer.close = self, self.close
        self.reading = CallerReading(self.reader, self.writer, client.timestamp_start)
        self.held = HeldRequests(client.timestamp_start)
        self.has_socket = False
        """It carries a WebSocket."""
        self.now = asyncio.get_running_loop().time
        self.last = self.now()
        """When something was read or written last."""
        self.clock = CallerClock(self.last)
        self.known_layer: Any = None
        """The HTTP layer, once it was seen."""
        self.hung_up = False
        """mitmproxy believes that the caller has closed it."""
        self.ending_since: float | None = None
        self.owing: set[UpstreamConnection] = set()
        """Connections upstream whose backends owe answers to nobody; the guard's."""
        self.owed: set[str] = set()
        """Those of them that were this connection's."""
        self._waiters: list[asyncio.Future[None]] = []
        connection_watch.attach_watch(client, LayerWatch(self))

    async def read(self, n: int) -> bytes:
        """As StreamReader's; waits while what was read before cannot be used."""
        return await self.reading.read(self, n)

    async def change(self) -> None:
        """Wait until something has moved, or the next sweep."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        await waiter

    def wake(self) -> None:
        """Let those look again who wait for a change; whatever moves, the next sweep is to see it."""
        self.clock.rests_until = 0.0
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._waiters.clear()

    @property
    def layer(self) -> Any:
        """The HTTP layer; None: there is none yet."""
        return self.known_layer or inspection.http_layer(self.handler)

    # ---- What the guard asks

    def sweep(self, now: float, limits: ConnectionLimits, elapsed_s: float) -> None:
        """End what has taken too long."""
        self.clock.sweep(self, now, limits, elapsed_s)

    def rests(self, now: float, limits: ConnectionLimits) -> bool:
        """Whether nothing has moved since a sweep that found nothing under way, and nothing is due."""
        return self.clock.rests(now, limits)

    def pieces(self) -> list[Piece]:
        """What is held of this connection's requests, but of those that are to end (memory_budget.Holder)."""
        if self.closing.has_begun or self.ending_since is not None or self.hung_up:
            return []
        return list(self.held.pieces(self))

    def is_idle(self, now: float) -> bool:
        """Whether nothing has been asked or said for a moment: a caller may just be sending its next request."""
        layer = self.layer
        return not self.open and not (layer and layer.streams) and now - self.last > IDLE_S

    # ---- The end of the connection

    def close(self) -> None:
        """Stands in for the writer's `close`: say that no more comes, and for a while discard what the peer sends."""
        self.closing.begin(self)

    def part(self) -> None:
        """Let go of what is over."""
        self.closing.part(self)

    def abort(self) -> None:
        """Drop the connection, those upstream, and what was to be written over them."""
        self.writer.transport.abort()
        for upstream in self.upstreams.values():
            upstream.abort()

    def hang_up(self) -> None:
        """Let mitmproxy believe that the caller has closed its connection: every layer can take that."""
        self.hung_up = True
        self.ending_since = self.ending_since or self.now()
        for upstream in self.upstreams.values():
            if waiting(upstream) > WAITING_UP_TO:
                upstream.abort()
        self.wake()
        self.reading.stop()

    def drain(self) -> None:
        """Tell the caller that no new request is taken over this connection; those that it has go on."""
        self.clock.rests_until = 0.0
        for exchange in self.open.values():
            exchange.closes = True
        layer = self.layer
        event = goaway.goaway(layer) if layer is not None else None
        if event is not None:
            self.deliver(event)

    def give_up(self, refused: Refuse, answers: bool) -> None:
        """Answer the request that is being sent, if this is HTTP/1, and close."""
        for exchange in self.open.values():
            exchange.ended_by = exchange.ended_by or refused
        flow = next((exchange.flow for exchange in self.open.values()), None)
        answer, layer = self.listener.answer(flow, refused) if answers else None, self.known_layer
        event = interjections.interject_http1(layer, answer) if answer and layer is not None else None
        if event is None:
            self.hang_up()
        else:
            self.ending_since = self.now()
            self.deliver(event)

    def forget_requests(self) -> None:
        """Nothing of them is in flight any more: their caller is gone. What fails with one is none of the others'."""
        with contextlib.ExitStack() as each:
            while self.open:
                _, exchange = self.open.popitem()  # the first comes last: what is called back is called backwards
                each.callback(exchange.leave, self.upstreams.get(exchange.flow.server_conn.id))

    # ---- The end of an exchange

    def finish(self, exchange: Exchange, outcome: Outcome | None = None) -> None:
        """An exchange is over; what it has counted is released now, or when its backend is done with it."""
        self.open.pop(id(exchange.flow), None)
        exchange.finish(outcome, self.upstreams.get(exchange.flow.server_conn.id))

    def end(self, exchange: Exchange, refused: Refuse) -> None:
        """End one exchange: with this refusal if no response has begun, else by cutting its stream."""
        if exchange.ended_by is not None:
            return
        exchange.ended_by = refused
        self.clock.rests_until = 0.0
        upstream = self.upstreams.get(exchange.flow.server_conn.id)
        if upstream is not None:
            upstream.owe(exchange)
        multiplexed = inspection.is_multiplexed(self.client)
        if not multiplexed:
            self.ending_since = self.now()
        if exchange.has_begun:
            exchange.cut(refused)
        else:
            self.deny(exchange.flow, self.listener.answer(exchange.flow, refused))
        if upstream is not None and (exchange.has_begun or multiplexed):
            upstream.hang_up()

    def deny(self, flow: HTTPFlow, answer: Answer) -> None:
        """Answer a request at once, if its body is still coming or its response has not begun."""
        layer = self.layer
        event = interjections.interject(layer, flow, answer) if layer is not None else None
        if event is not None:
            self.deliver(event)

    def still_sends(self, flow: HTTPFlow) -> bool:
        """Whether more of this request's body is to come, as far as can be told."""
        layer = self.layer
        return layer is not None and inspection.still_sends(layer, flow)

    def metered(self, exchange: Exchange, limit: int) -> Callable[[bytes], bytes | list[bytes]]:
        """What passes a body on up to `limit` bytes; beyond it the backend is cut off and the caller gets a 413."""
        taken = 0

        def take(data: bytes) -> bytes | list[bytes]:
            nonlocal taken
            taken += len(data)
            if taken <= limit:
                return data
            # Cut at once: the end of the body may be on its way, and would make half a body look whole.
            upstream = self.upstreams.get(exchange.flow.server_conn.id)
            if upstream is not None and not upstream.owe(exchange):
                upstream.abort()
            self.end(exchange, Refuse(Code.BODY_TOO_LARGE, f"over {limit} bytes of body", step=WIRE))
            return []

        return take

    def deliver(self, event: Any) -> None:
        """Let the connection's layers take an event, when they are done with what they do."""
        self.clock.rests_until = 0.0
        self.spawn(self.handler.server_event(event))
