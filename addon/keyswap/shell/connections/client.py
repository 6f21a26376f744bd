"""One caller's connection, and its connections to the backend, as the guard watches them.

Law: each stands in for a stream reader of mitmproxy's and closes what it was given. Reading waits while what was read
before cannot be used. An answer goes out before a connection is closed wherever one is possible, and closing waits for
the peer, so that the answer is not lost in a reset (RFC 9112 §9.6).
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, NamedTuple, Protocol

from mitmproxy.connection import Client, Server
from mitmproxy.http import HTTPFlow

from keyswap.limits.step import place
from keyswap.model import UNCOUNTED, UPSTREAM, WIRE, Code, Counted, Refuse, nothing
from keyswap.refusals import Answer
from keyswap.shell.connections.body_rate import BODY_GRACE_S, Meters
from keyswap.shell.connections.bounds import Bounds, Rules, Ticket, refusal
from keyswap.shell.connections.client_hello import Opening
from keyswap.shell.connections.memory_budget import Holdings, Piece
from keyswap.shell.connections.turns import Turns
from keyswap.shell.connections.websocket_pace import Pace
from keyswap.shell.mitm import (
    connection_watch,
    held_bytes,
    http2,
    http2_streams,
    http_layers,
    internals,
    upstream_errors,
    upstream_pool,
)

ENDING_S = 2.0
"""How long a connection that was told to end may take for it."""
LINGER_S, LINGER_SILENT_S = 10.0, 2.0
"""How long a closed connection's peer may go on sending, and how long it may be silent."""
WAITING_UP_TO = 64 << 10
"""Bytes that wait to be written to a peer, before no more is read from the other."""
UNREAD_UP_TO = 64 << 10
"""Bytes of a response that wait for an HTTP/2 caller to make room, before no more is read from the backend."""
UNREAD_IN_ALL = 1 << 20
"""Bytes of all its responses, before no more is read of those of which some wait."""
UNREAD_ANYWAY = 128 << 10
"""Bytes that may wait for any caller at all: what was read once, and what stopped reading."""
GOING_AWAY, POLICY_VIOLATION, UNEXPECTED = 1001, 1008, 1011
"""Close codes of WebSockets (RFC 6455 §7.4.1)."""
IDLE_S = 1.0
"""How long a connection that is to end has been silent when it is closed: nothing seems to be on its way."""
STUCK_S = 1.0
"""How long a caller has taken nothing when it counts as one that does not read."""
LARGE_READ = 16 << 10
"""Bytes of a read that costs more than a request does."""
STRIKES, STRIKES_PER_S = 1000.0, 33.0
"""Frames of no use (resets, pings, settings) that an HTTP/2 connection may send at once, and each second."""


_TOO_MUCH = Refuse(Code.GATEWAY_UNAVAILABLE, "too much is held of requests that are not whole", step=WIRE)


class End(Protocol):
    """One end of what goes through; the writer is mitmproxy's, None while there is no connection."""

    writer: Any


def waiting(end: End) -> int:
    """Bytes that its peer has not taken."""
    return int(end.writer.transport.get_write_buffer_size()) if end.writer is not None else 0


async def taken(*ends: End) -> None:
    """Wait until each of these has taken most of what was written to it, or is gone."""
    for end in ends:
        if waiting(end) > WAITING_UP_TO:
            with contextlib.suppress(OSError):
                await end.writer.drain()


class Shared(NamedTuple):
    """What all connections of a process have in common."""

    rules: Rules
    spawn: Callable[[Coroutine[Any, Any, Any]], None]
    """Lets something happen beside its caller."""
    forget: "Callable[[Watched], None]"
    """Is told of a connection that is closed."""
    turns: Turns
    holdings: Holdings


class Watched:
    """One caller's connection. Stands in for its stream reader."""

    def __init__(self, shared: Shared, client: Client, address: str, handler: Any) -> None:
        """`address`: where the caller is, as connections are counted; `handler`: mitmproxy's, of this connection."""
        self.client, self.address, self.handler = client, address, handler
        self._rules, self._spawn, self._forget = shared.rules, shared.spawn, shared.forget
        self._turns, self._holdings = shared.turns, shared.holdings
        self.open: dict[int, Ticket] = {}
        self.upstreams: dict[str, Watchpoint] = {}
        transport = handler.transports[client]
        self._reader, self.writer = transport.reader, transport.writer
        self._close = self.writer.close
        transport.reader, self.writer.close = self, self.close
        self._ahead = http_layers.SMALL_READ
        internals.read_little_ahead(self._reader, self.writer, self._ahead)
        self.has_socket = False
        """It carries a WebSocket."""
        self._now = asyncio.get_running_loop().time
        self.last = self._since = self._now()
        self._opening: Opening | None = Opening()
        self._pace = Pace()
        self._layer: Any = None
        self._phase: http_layers.Phase | None = None
        self._received = self._counted = self._buffered = self._moved = 0
        self._credit_s = BODY_GRACE_S
        self._meters = Meters()
        self._took = self.last
        self.excess = 0
        """Bytes that wait for this caller, beyond what may wait for any, as of the last sweep."""
        self._strikes, self._struck = STRIKES, self.last
        self._head: int | None = None
        self._head_came = self._came = client.timestamp_start
        self._reading = self._hung_up = self._closed = False
        self._is_finished = self._layers_over = self._is_apart = False
        self._ending: float | None = None
        self._cuts = False
        self.owing: set[Watchpoint] = set()
        """Connections upstream whose backends owe answers to nobody; the guard's."""
        self.owed: set[str] = set()
        """Those of them that were this connection's."""
        self._waiters: list[asyncio.Future[None]] = []
        self._rests_until, self._bounds = 0.0, self._rules.bounds()

    # ---- What mitmproxy asks of a stream reader

    async def read(self, n: int) -> bytes:
        """As StreamReader's; waits while what was read before cannot be used."""
        self._pace.done()
        layer = self._layer
        if layer is None:
            layer = self._layer = http_layers.http_layer(self.handler)
        if layer is not None:
            self._note_head(layer)
        self.stir()
        if http2_streams.is_multiplexed(self.client):
            while layer is not None and http_layers.waits_for_turn(layer) and not self._hung_up:
                await self.change()
            await taken(self)  # each stream waits for its own backend alone: http2_streams
        else:
            while layer is not None and http_layers.is_full(layer, self._rules.bounds().max_head):
                if self._hung_up:
                    break
                await self.change()
            await taken(self, *self.upstreams.values())
        if self._hung_up:
            return b""
        if not self._opens():
            self.abort()
            return b""
        self._reading = True
        data: bytes = await self.read_from(self._reader, self._pace, self._room(n), LARGE_READ)
        self._reading = False
        if self._opening is not None:
            self._opening = self._opening.after(data, first=not self._received)
        self._received += len(data)
        self._came, self._rests_until = time.time(), 0.0
        self._holdings.came(self, len(data))
        if not http2_streams.is_multiplexed(self.client):
            self.last = self._now()
        return b"" if self._hung_up else data

    def _opens(self) -> bool:
        """Whether what precedes TLS may go on."""
        if self._opening is not None and self.client.timestamp_tls_setup is not None:
            self._opening = None
        return self._opening is None or self._opening.left > 0

    def _room(self, most: int) -> int:
        """How many bytes to read at once."""
        if self._opening is not None:
            return min(most, self._opening.left)
        room = http_layers.room(self._layer, most) if self._layer is not None else http_layers.SMALL_READ
        if room > self._ahead:
            self._ahead = room
            internals.read_little_ahead(self._reader, self.writer, room)
        return room

    async def read_from(self, reader: Any, pace: Pace, n: int, large: int) -> bytes:
        """Read what has come from either side, and wait for its turn if it is the end, or `large`.

        A small read of a WebSocket can hold hundreds of messages.
        """
        if not self.has_socket:
            data = bytes(await reader.read(n))
            if not self._hung_up and (not data or len(data) >= large):
                await self._turns.turn()
            if not self.has_socket:
                return data
            internals.put_back(reader, data)  # it has become one meanwhile
        return await pace.read(reader, n, self._turns)

    async def change(self) -> None:
        """Wait until something has moved, or the next sweep."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        await waiter

    def stir(self) -> None:
        """Let those look again who wait for a change; whatever moves, the next sweep is to see it."""
        self._rests_until = 0.0
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._waiters.clear()

    @property
    def layer(self) -> Any:
        """The HTTP layer; None: there is none yet."""
        return self._layer or http_layers.http_layer(self.handler)

    def is_not_ready(self, server: Server) -> bool:
        """Whether what has come over this upstream connection is to be taken first: by its turn, or by the caller."""
        if self._layer is None:
            return False
        if http_layers.waits_for_turn(self._layer, server):
            return True
        unread = http_layers.unread(self._layer, server)
        return unread > UNREAD_UP_TO or (unread > 0 and http2_streams.unread(self._layer) > UNREAD_IN_ALL)

    def has_left(self, server: Server) -> bool:
        """Whether the request that an HTTP/2 caller sent over this upstream connection has ended before its body."""
        multiplexed = self._layer is not None and http2_streams.is_multiplexed(self.client)
        return multiplexed and upstream_pool.is_left_over(self._layer, server)

    # ---- What mitmproxy's layers ask (http_layers.Watch, http2_streams.FlowWatch)

    def backlog(self, server: Server) -> int:
        """Bytes that this backend has not taken; those for one that is being closed wait for nothing."""
        upstream = self.upstreams.get(server.id)
        if upstream is None or upstream.writer is None or upstream.writer.transport.is_closing():
            return 0
        return waiting(upstream)

    def when_taken(self, server: Server, then: Callable[[], None]) -> None:
        """Call `then` once this backend has taken all that was written to it, or is gone."""
        upstream = self.upstreams.get(server.id)

        async def wait() -> None:
            if upstream is not None and upstream.writer is not None:
                with contextlib.suppress(OSError):
                    await upstream.writer.drain()
            then()

        self._spawn(wait())

    def is_silent(self, server: Server) -> bool:
        """Whether nothing has come of this backend that was not read, and it has not closed."""
        upstream = self.upstreams.get(server.id)
        return upstream is not None and upstream.is_silent

    def is_over(self, server: Server) -> bool:
        """Whether nothing comes over this upstream connection any more, and nothing is owed over it."""
        return server.id not in self.upstreams and server.id not in self.owed

    def hang_up_on(self, server: Server) -> None:
        """End this connection upstream as if its backend had."""
        upstream = self.upstreams.get(server.id)
        if upstream is not None:
            upstream.hang_up()

    def was_reset(self, server: Server) -> bool:
        """Whether this backend's connection has ended without its end having been said."""
        upstream = self.upstreams.get(server.id)
        return upstream is not None and upstream.was_reset

    def why_broken(self, server: Server) -> Exception | None:
        """The error that ended this backend's connection; None: it ended otherwise."""
        upstream = self.upstreams.get(server.id)
        return upstream.broken if upstream is not None else None

    def cut(self) -> None:
        """What was said to the caller is not whole, which only a reset of its connection can tell it."""
        self._cuts = True

    def close_code(self, flow: HTTPFlow) -> int | None:
        """How the gateway ends a WebSocket (RFC 6455 §7.4.1); None: it does not, one of its ends was lost."""
        ticket: Ticket | None = internals.ticket_of(flow)
        if ticket is not None and ticket.ended_by is not None:
            return POLICY_VIOLATION if ticket.ended_by.code is Code.INVALID_CREDENTIAL else UNEXPECTED
        return GOING_AWAY if self._hung_up else None

    @property
    def max_head(self) -> int:
        """Bytes of a request's head."""
        return self._rules.bounds().max_head

    def answer(self, flow: HTTPFlow | None, status: int) -> Answer:
        """The gateway's own answer where mitmproxy would say something with this status."""
        return self._rules.answer(flow, refusal(status))

    def strike(self, cost: float) -> bool:
        """Note a frame of no use; True when there were too many."""
        now = self._now()
        self._strikes = min(STRIKES, self._strikes + (now - self._struck) * STRIKES_PER_S) - cost
        self._struck = now
        return self._strikes < 0

    # ---- The end

    def close(self) -> None:
        """Stands in for the writer's `close`: say that no more comes, and for a while discard what the peer sends."""
        self._rests_until = 0.0
        if self._closed:
            return
        self._closed = True
        if self._cuts:
            internals.reset(self.writer.transport)
        if self._reader.at_eof() or self.writer.transport.is_closing():
            self._finish()
            return
        with contextlib.suppress(OSError, RuntimeError):
            self.writer.write_eof()
        self._spawn(self._linger())

    async def _linger(self) -> None:
        try:
            async with asyncio.timeout(LINGER_S):
                while await asyncio.wait_for(self._reader.read(1 << 16), LINGER_SILENT_S):
                    pass
        except (TimeoutError, OSError, RuntimeError):
            pass
        finally:
            self._finish()

    def _finish(self) -> None:
        """Close for good; what the peer has not taken by now it does not get. Whatever fails, the guard is told."""
        self._is_finished = True
        asyncio.get_running_loop().call_soon(self.part)
        with contextlib.ExitStack() as last:
            last.callback(self._forget, self)
            last.callback(self.stir)
            last.callback(self._close)
            if self._layer is not None:
                http2_streams.let_go(self._layer)
            if self.writer.transport.get_write_buffer_size():
                self.writer.transport.abort()

    def layers_are_over(self) -> None:
        """No event reaches this connection's layers any more."""
        self._layers_over = True
        asyncio.get_running_loop().call_soon(self.part)

    def part(self) -> None:
        """Let go of what is over: of TLS when the socket is, of all when its layers are too, and nothing is owed."""
        if not self._is_finished or self._is_apart:
            return
        if not self._layers_over or self.owed:
            internals.let_go_of_tls(self.handler)
            return
        internals.take_connection_apart(self.handler)
        connection_watch.unwatch(self.client)
        for writer in (self.writer, *(upstream.writer for upstream in self.upstreams.values())):
            internals.give_back(writer)
        self._layer, self._is_apart = None, True
        self.upstreams.clear()

    def abort(self) -> None:
        """Drop the connection, those upstream, and what was to be written over them."""
        self.writer.transport.abort()
        for upstream in self.upstreams.values():
            upstream.abort()

    def hang_up(self) -> None:
        """Let mitmproxy believe that the caller has closed its connection: every layer can take that."""
        self._hung_up = True
        self._ending = self._ending or self._now()
        for upstream in self.upstreams.values():
            if waiting(upstream) > WAITING_UP_TO:
                upstream.abort()
        self.stir()
        if self._reading:
            # The pending read ends as if the peer had ended the stream; nothing more is fed to it.
            self.writer.transport.pause_reading()
            self._reader.feed_eof()

    def wind_up(self) -> None:
        """Tell the caller that no new request is taken over this connection; those that it has go on."""
        self._rests_until = 0.0
        for ticket in self.open.values():
            ticket.closes = True
        layer = self._layer or http_layers.http_layer(self.handler)
        event = http2.farewell(layer) if layer is not None else None
        if event is not None:
            self.deliver(event)

    def is_idle(self, now: float) -> bool:
        """Whether nothing has been asked or said for a moment: a caller may just be sending its next request."""
        layer = self._layer or http_layers.http_layer(self.handler)
        return not self.open and not (layer and layer.streams) and now - self.last > IDLE_S

    def end(self, ticket: Ticket, refused: Refuse) -> None:
        """End one request: with this refusal if no response has begun, else by cutting its stream."""
        if ticket.ended_by is not None:
            return
        ticket.ended_by = refused
        self._rests_until = 0.0
        upstream = self.upstreams.get(ticket.flow.server_conn.id)
        if upstream is not None:
            upstream.owe(ticket)
        multiplexed = http2_streams.is_multiplexed(self.client)
        if not multiplexed:
            self._ending = self._now()
        if ticket.begun:
            self._rules.cut(ticket, refused)
        else:
            self.deny(ticket.flow, self._rules.answer(ticket.flow, refused))
        if upstream is not None and (ticket.begun or multiplexed):
            upstream.hang_up()

    def deny(self, flow: HTTPFlow, answer: Answer) -> None:
        """Answer a request at once, if its body is still coming or its response has not begun."""
        layer = self._layer or http_layers.http_layer(self.handler)
        event = http_layers.interject(layer, flow, answer) if layer is not None else None
        if event is not None:
            self.deliver(event)

    def still_sends(self, flow: HTTPFlow) -> bool:
        """Whether more of this request's body is to come, as far as can be told."""
        layer = self._layer or http_layers.http_layer(self.handler)
        return layer is not None and http_layers.still_sends(layer, flow)

    def metered(self, ticket: Ticket, limit: int) -> Callable[[bytes], bytes | list[bytes]]:
        """What passes a body on up to `limit` bytes; beyond it the backend is cut off and the caller gets a 413."""
        taken = 0

        def take(data: bytes) -> bytes | list[bytes]:
            nonlocal taken
            taken += len(data)
            if taken <= limit:
                return data
            # Cut at once: the end of the body may be on its way, and would make half a body look whole.
            upstream = self.upstreams.get(ticket.flow.server_conn.id)
            if upstream is not None and not upstream.owe(ticket):
                upstream.abort()
            self.end(ticket, Refuse(Code.BODY_TOO_LARGE, f"over {limit} bytes of body", step=WIRE))
            return []

        return take

    def deliver(self, event: Any) -> None:
        """Let the connection's layers take an event, when they are done with what they do."""
        self._rests_until = 0.0
        self._spawn(self.handler.server_event(event))

    def later(self, event: Any) -> None:
        """Let the connection's layers take an event after others had their turn; then more may be read."""

        async def go_on() -> None:
            await self.handler.server_event(event)
            self.stir()

        self._turns.wait(lambda: self._spawn(go_on()))

    # ---- What is held (holding.Holder)

    def pieces(self) -> list[Piece]:
        """What is held of this connection's requests, but of those that are to end."""
        if self._closed or self._ending is not None or self._hung_up:
            return []
        layer = self._layer
        if layer is None:
            return []
        if not self._rules.shows:
            held_bytes.let_go_of_sent(layer)
        self._note_head(layer)
        found = [self._piece(one) for one in held_bytes.held(layer, internals.ahead(self._reader))]
        return [piece for piece in found if piece is not None]

    def _note_head(self, layer: Any) -> None:
        """Note when the head began to come of which a part was read: with the last read, if it is another one."""
        head = held_bytes.unended(layer)
        if head != self._head:
            self._head, self._head_came = head, self._came

    def _piece(self, held: held_bytes.Held) -> Piece | None:
        flow, size = held.flow, held.size
        if flow is None:
            return Piece(size, self._head_came, self._holder, None, 0, self._shed_ahead, self, held.begun)
        ticket, since = self.open.get(id(flow)), flow.request.timestamp_start
        if held_bytes.is_let_go(flow) or (ticket is not None and ticket.ended_by is not None):
            return None
        if ticket is None:
            if flow.websocket is not None:  # it has ended: nothing can be said in it
                return None
            return Piece(size, since, self._holder, None, 0, partial(self._shed, flow), self)
        who, client = ticket.principal, ticket.line.client
        principal = (who.org_id, who.user_id, who.key_id) if who.key_id or who.user_id or who.org_id else None
        limit = ticket.pending.need.limit if ticket.pending is not None else 0
        address = place(client) if client else self.address
        return Piece(size, since, address, principal, limit, partial(self._shed, flow), self)

    @property
    def _holder(self) -> str:
        """Whose a request is of which the caller's own address is not known yet: behind a proxy are many callers."""
        if self._rules.bounds().is_proxy(self.client.peername[0]):
            return f"{self.address} {self.client.id}"
        return self.address

    def _shed_ahead(self) -> None:
        """End a connection of which too much was read ahead: a head that has not ended, or while no request is open."""
        if http2_streams.is_multiplexed(self.client):
            self.hang_up()
        else:
            self._give_up(_TOO_MUCH, answers=True)
        held_bytes.let_go_of_ahead(self.layer)

    def _shed(self, flow: HTTPFlow) -> None:
        """End a request of which too much is held; one that has its answer already gets that, and reads no more."""
        held_bytes.mark_let_go(flow)
        ticket = self.open.get(id(flow))
        if ticket is not None:
            self.end(ticket, _TOO_MUCH)
        elif flow.response is not None:
            data = flow.response.data
            self.deny(flow, Answer(data.status_code, data.headers.fields, data.content or b""))
        else:
            self.deny(flow, self._rules.answer(flow, _TOO_MUCH))
        if not http2_streams.is_multiplexed(self.client):
            held_bytes.let_go_of_ahead(self.layer)

    # ---- The clock

    def sweep(self, now: float, bounds: Bounds, elapsed_s: float) -> None:
        """End what has taken too long."""
        self.stir()
        if self._layer is not None:
            upstream_pool.forget_closed(self._layer)
        self._weigh(now)
        if self._closed:
            return
        if self._ending is not None:
            if now - self._ending > ENDING_S:
                self.abort()
            return
        for ticket in list(self.open.values()):
            self._sweep_request(ticket, now, bounds)
        for upstream in list(self.upstreams.values()):
            upstream.sweep(now, bounds)
        self._sweep_caller(now, bounds, elapsed_s)
        if self._reading and not self.open and self._ending is None and not self._buffered:
            self._rest(bounds)

    def rests(self, now: float, bounds: Bounds) -> bool:
        """Whether nothing has moved since a sweep that found nothing under way, and nothing is due."""
        return now < self._rests_until and bounds is self._bounds

    def _rest(self, bounds: Bounds) -> None:
        """Note until when nothing is due while nothing moves: a head, or the end of what is idle."""
        phase = self._phase.name if self._phase is not None else ""
        if phase not in {"head", "rest"} or not all(upstream.stands_still for upstream in self.upstreams.values()):
            return
        until = self.last + bounds.idle_s
        if phase == "head":
            until = min(until, self._since + bounds.head_s)
        self._rests_until, self._bounds = until, bounds

    def _weigh(self, now: float) -> None:
        """See what waits for the caller, and whether it takes any of it."""
        buffered = int(self.writer.transport.get_write_buffer_size())
        if self._layer is not None and http2_streams.is_multiplexed(self.client):
            buffered += http2_streams.unread(self._layer)
        if buffered < self._buffered or not buffered:
            self._took = now
        if buffered != self._buffered:
            self._buffered, self.last = buffered, now
        self.excess = max(0, buffered - UNREAD_ANYWAY)

    def paused_s(self, now: float) -> float:
        """For how long something has waited for the caller, of which it took nothing."""
        return now - self._took

    def _sweep_caller(self, now: float, bounds: Bounds, elapsed_s: float) -> None:
        if self._layer is None:
            self._layer = http_layers.http_layer(self.handler)
        phase = http_layers.phase(self._layer) if self._layer is not None else http_layers.Phase("head", None)
        if phase != self._phase:
            if self._phase is not None:
                self._since = now
            self._phase = phase
            self._credit_s, self._counted = BODY_GRACE_S, self._received
        if phase.name == "head" and now - self._since > bounds.head_s:
            self._give_up(Refuse(Code.INVALID_REQUEST, "the head took too long", step=WIRE), answers=self._received > 0)
        elif http2_streams.is_multiplexed(self.client):
            self._sweep_streams(now, bounds, elapsed_s)
        elif phase.name == "body" and self._too_slow(bounds, elapsed_s):
            self._give_up(Refuse(Code.INVALID_REQUEST, "the body came too slowly", step=WIRE), answers=True)
        elif now - self.last > bounds.idle_s:
            if phase.name == "body" and self._reading:
                self._give_up(Refuse(Code.INVALID_REQUEST, "the body did not go on", step=WIRE), answers=True)
            else:
                self._idle()

    def _sweep_streams(self, now: float, bounds: Bounds, elapsed_s: float) -> None:
        """End the bodies that are late, each by itself, and a connection over which only frames without use come."""
        if self._layer is None:
            return
        moved = http2_streams.moved(self._layer)
        if moved != self._moved:
            self._moved, self.last = moved, now
        for body, refused in self._meters.late(http2_streams.bodies(self._layer), bounds, now, elapsed_s):
            ticket = self.open.get(id(body.flow))
            if ticket is not None:
                self.end(ticket, refused)
            else:
                self.deny(body.flow, self._rules.answer(body.flow, refused))
        if now - self.last > bounds.idle_s:
            self._idle()

    def _too_slow(self, bounds: Bounds, elapsed_s: float) -> bool:
        came, self._counted = self._received - self._counted, self._received
        if not bounds.min_body_rate:
            return False
        # While nothing is read because the backend is slow, the caller is not to blame.
        waited_s = elapsed_s if self._reading else 0.0
        self._credit_s = min(BODY_GRACE_S, self._credit_s - waited_s + came / bounds.min_body_rate)
        return self._credit_s < 0

    def _idle(self) -> None:
        waiting = [ticket for ticket in self.open.values() if not ticket.begun]
        if waiting:
            for ticket in waiting:
                self.end(ticket, Refuse(Code.UPSTREAM_TIMEOUT, "no byte moved either way", step=UPSTREAM))
        else:
            self.hang_up()

    def _give_up(self, refused: Refuse, answers: bool) -> None:
        """Answer the request that is being sent, if this is HTTP/1, and close."""
        for ticket in self.open.values():
            ticket.ended_by = ticket.ended_by or refused
        flow = next((ticket.flow for ticket in self.open.values()), None)
        answer = self._rules.answer(flow, refused) if answers else None
        event = http_layers.interject_http1(self._layer, answer) if answer and self._layer is not None else None
        if event is None:
            self.hang_up()
        else:
            self._ending = self._now()
            self.deliver(event)

    def forget_requests(self) -> None:
        """Nothing of them is in flight any more: their caller is gone. What fails with one is none of the others'."""
        with contextlib.ExitStack() as each:
            while self.open:
                _, ticket = self.open.popitem()  # the first comes last: what is called back is called backwards
                each.callback(self.let_go, ticket)
                each.callback(self._rules.left, ticket)

    def let_go(self, ticket: Ticket) -> None:
        """A request has ended here: its places are given back, now or when its backend is done with it."""
        upstream = self.upstreams.get(ticket.flow.server_conn.id)
        if upstream is None or not upstream.owe(ticket):
            ticket.counted.give_back()

    @property
    def response_s(self) -> float:
        """How long a backend may take for the head of its answer."""
        return self._rules.bounds().response_s

    def spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        """Let something happen beside the caller of this, and after this connection."""
        self._spawn(work)

    def _sweep_request(self, ticket: Ticket, now: float, bounds: Bounds) -> None:
        flow = ticket.flow
        until = ticket.principal.not_after
        if ticket.answered and not self.still_sends(flow):
            # Its stream was reset after its answer, of which nobody is told.
            self.open.pop(id(flow), None)
            self.let_go(ticket)
        elif until is not None and time.time() >= until:
            self.end(ticket, Refuse(Code.INVALID_CREDENTIAL, "the credential has ended", step="principal"))
        elif flow.response is None and flow.request.timestamp_end is not None:
            upstream = self.upstreams.get(flow.server_conn.id)
            if upstream is None or not upstream.stands:
                return  # `connect` is counted there
            ticket.waits_since = ticket.waits_since or now
            if now - ticket.waits_since > bounds.response_s:
                self.end(ticket, Refuse(Code.UPSTREAM_TIMEOUT, "the upstream sent no head in time", step=UPSTREAM))


def _discard(_data: bytes) -> None:
    """Stands in for the `write` of a writer over which nothing more is to be sent."""


class Watchpoint:
    """One connection to the backend, for one caller. Stands in for its stream reader."""

    def __init__(self, watched: Watched, server: Server) -> None:
        self.watched, self.server = watched, server
        self.late = False
        self._pace = Pace()
        self._began = self.last = asyncio.get_running_loop().time()
        self._reader: Any = None
        self.writer: Any = None
        self._reading = self._hung_up = False
        self._ended: float | None = None
        self._close: Callable[[], None] = nothing
        self._awaited: upstream_pool.Awaited | None = None
        self._held: Counted = UNCOUNTED
        self._until = 0.0
        self._has_ended = self._waits = False
        self.broken: Exception | None = None
        """Why the connection has ended, if not by its end."""

    def connect(self) -> None:
        """The connection stands."""
        transport = self.watched.handler.transports[self.server]
        self._reader, self.writer = transport.reader, transport.writer
        self._close = self.writer.close
        transport.reader, self.writer.close = self, self.close
        internals.keep_what_came(self._reader, self.writer, self._broke)
        internals.read_little_ahead(self._reader, self.writer)
        if http2_streams.is_multiplexed(self.watched.client):
            self.writer.transport.set_write_buffer_limits(0)  # `drain` waits until all is taken
        self.last = asyncio.get_running_loop().time()

    @property
    def stands(self) -> bool:
        """Whether requests can be sent over it."""
        return self.writer is not None and (not self.server.tls or self.server.timestamp_tls_setup is not None)

    @property
    def stands_still(self) -> bool:
        """Whether nothing of it is due: it stands, and is not to end."""
        return self.stands and self._ended is None

    @property
    def is_silent(self) -> bool:
        """Whether nothing has come that was not read, and the backend has not closed."""
        return self._reading and not self._hung_up and internals.is_silent(self._reader, self.writer)

    async def read(self, n: int) -> bytes:
        """As StreamReader's; waits while the caller has not made room for what came before."""
        self._pace.done()
        watched = self.watched
        watched.stir()
        while watched.is_not_ready(self.server) and not self._hung_up:
            await watched.change()
        await taken(watched)
        if self._hung_up:
            return b""
        self._reading = True
        # Of its end alone: what waited for its turn would be held, and as much be read behind it.
        data: bytes = await watched.read_from(self._reader, self._pace, n, n + 1)
        self._reading = False
        self.last = watched.last = asyncio.get_running_loop().time()
        self._has_ended = not data and not self._hung_up
        return b"" if self._hung_up else data

    def _broke(self, error: Exception) -> None:
        self.broken = error

    @property
    def was_reset(self) -> bool:
        """Whether the backend did not say that it has sent all. Writing fails with EPIPE where it has (Linux)."""
        return self.broken is not None and not isinstance(self.broken, BrokenPipeError)

    def hang_up(self) -> None:
        """Let mitmproxy believe that the backend has closed the connection."""
        self._hung_up = True
        self._ended = self._ended or asyncio.get_running_loop().time()
        self.watched.stir()
        if self._awaited is not None:
            internals.cancel_transport(self.watched.handler, self.server)
        elif self._reading:
            self.writer.transport.pause_reading()
            self._reader.feed_eof()

    def sweep(self, now: float, bounds: Bounds) -> None:
        """End a connection attempt, or a response, that has taken too long."""
        if not self.stands and not self.late:
            if now - self._began > bounds.connect_s:
                self._give_up()
        elif self._ended is not None:
            if now - self._ended > ENDING_S:
                self.abort()
        elif self.watched.has_left(self.server):
            self.hang_up()
        elif now - self.last > bounds.idle_s and (ticket := self._answering()) is not None:
            self.watched.end(
                ticket, Refuse(Code.UPSTREAM_TIMEOUT, "the upstream's answer did not go on", step=UPSTREAM)
            )

    def _give_up(self) -> None:
        self.late = True
        why = upstream_errors.at(
            self.server.address, upstream_errors.LATE if self.writer is None else upstream_errors.LATE_TLS
        )
        internals.blame_connection(self.server, why)
        for ticket in self.watched.open.values():
            # While connections are being made mitmproxy does not say which request each is for.
            if ticket.flow.server_conn is self.server or not ticket.flow.server_conn.connected:
                ticket.late = ticket.late or why
        if self.writer is None:
            internals.cancel_transport(self.watched.handler, self.server)
        else:
            self.hang_up()

    def abort(self) -> None:
        """Drop the connection, and what was to be written over it, unless an answer is owed."""
        if self._awaited is not None:
            internals.cancel_transport(self.watched.handler, self.server)
        elif self.writer is not None:
            self.writer.transport.abort()

    # ---- What is owed when the caller has left

    def owe(self, ticket: Ticket) -> bool:
        """Hold the places of a request that ends here until its backend has answered, closed, or used up its time.

        False: it was sent nothing, has answered or closed, or no place is held.
        """
        client = upstream_pool.sent_over(self.watched.layer, self.server)
        waited_s = self._now() - (ticket.waits_since or self._now())
        is_open = self.writer is not None and not self.writer.transport.is_closing() and not self._has_ended
        if client is None or not is_open or waited_s > self.watched.response_s or ticket.counted.give_back is nothing:
            return False
        self._awaited, self._until = upstream_pool.Awaited(client), self._now() + self.watched.response_s - waited_s
        self._held, ticket.counted = ticket.counted, ticket.counted._replace(give_back=nothing)
        if not self._awaited.request_is_whole:
            self.writer.write = _discard  # an end that comes later would make half a body look whole
            with contextlib.suppress(OSError, RuntimeError):
                self.writer.write_eof()
        return True

    def close(self) -> None:
        """Stands in for the writer's `close`: nobody waits for the connection any more but for the answer's sake."""
        if self._awaited is None:
            self._close()
        elif not self._waits:
            self._waits = True
            self.watched.owing.add(self)
            self.watched.owed.add(self.server.id)
            self.watched.spawn(self._wait(self._awaited))

    async def _wait(self, awaited: upstream_pool.Awaited) -> None:
        try:
            async with asyncio.timeout_at(self._until):
                while not awaited.has_begun and (data := await self._reader.read(1 << 16)):
                    if awaited.begins(data):
                        break
        except (TimeoutError, OSError):
            pass
        finally:
            self.settle()

    def settle(self) -> None:
        """Nothing is owed any more; doing it again changes nothing."""
        if self not in self.watched.owing:
            return
        self.watched.owing.discard(self)
        self.watched.owed.discard(self.server.id)
        asyncio.get_running_loop().call_soon(self.watched.part)
        try:
            self._held.give_back()
        finally:
            self._close()
            self._end()

    def _end(self) -> None:
        """Nothing more is written over it, and nobody asks for it."""
        if self.writer.transport.get_write_buffer_size():
            self.writer.transport.abort()
        internals.give_back(self.writer)

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def _answering(self) -> Ticket | None:
        """The request that has ended and whose response has begun over it: nothing but its bytes is awaited."""
        for ticket in self.watched.open.values():
            flow = ticket.flow
            if flow.server_conn is self.server and flow.response is not None and flow.websocket is None:
                return ticket if flow.request.timestamp_end is not None else None
        return None

    def gone(self) -> None:
        """The connection has ended, or was never made: whatever way it did, its socket goes too."""
        if self.writer is None:
            internals.forget_transport(self.watched.handler, self.server)
            return
        if not self.writer.transport.is_closing():
            self.writer.close()
        if not self._waits:
            self._end()
