"""The clock of a caller's connection: what has taken too long is ended, at each of the guard's sweeps.

Law: nothing has a timer of its own. A caller pays for its own slowness alone: not while nothing is read of it because a
backend is slow, nor for other streams of its connection.
"""

import time
from typing import TYPE_CHECKING

from keyswap.model import UPSTREAM, WIRE, Code, Refuse
from keyswap.shell.connections.body_rate import BODY_GRACE_S, BodyRateMonitor
from keyswap.shell.connections.exchange import Exchange, ExchangeState
from keyswap.shell.connections.shared import ENDING_S
from keyswap.shell.mitm import inspection, upstream_pool
from keyswap.shell.runtime.connection_limits import ConnectionLimits

if TYPE_CHECKING:
    from keyswap.shell.connections.client import ClientConnection

UNREAD_ANYWAY = 128 << 10
"""Bytes that may wait for any caller at all: what was read once, and what stopped reading."""


class CallerClock:
    """How long one caller has been at what it does. Times are the event loop's, in seconds."""

    def __init__(self, now: float) -> None:
        self.rests_until = 0.0
        """Until when nothing is due while nothing moves; 0: it is to be looked at."""
        self._limits: ConnectionLimits | None = None
        self._since = self._took = now
        self._phase: inspection.Phase | None = None
        self._counted = self._buffered = self._moved = 0
        self._credit_s = BODY_GRACE_S
        self._rates = BodyRateMonitor()

    def sweep(self, connection: "ClientConnection", now: float, limits: ConnectionLimits, elapsed_s: float) -> None:
        """End what has taken too long."""
        connection.wake()
        if connection.known_layer is not None:
            upstream_pool.forget_closed(connection.known_layer)
        self._weigh(connection, now)
        if connection.closing.has_begun:
            return
        if connection.ending_since is not None:
            if now - connection.ending_since > ENDING_S:
                connection.abort()
            return
        for exchange in list(connection.open.values()):
            _sweep_exchange(connection, exchange, now, limits)
        for upstream in list(connection.upstreams.values()):
            upstream.sweep(now, limits)
        self._sweep_caller(connection, now, limits, elapsed_s)
        is_idle = not connection.open and connection.ending_since is None and not self._buffered
        if connection.reading.under_way and is_idle:
            self._rest(connection, limits)

    def rests(self, now: float, limits: ConnectionLimits) -> bool:
        """Whether nothing has moved since a sweep that found nothing under way, and nothing is due."""
        return now < self.rests_until and limits is self._limits

    def _rest(self, connection: "ClientConnection", limits: ConnectionLimits) -> None:
        """Note until when nothing is due while nothing moves: a head, or the end of what is idle."""
        phase = self._phase.name if self._phase is not None else ""
        if phase not in {"head", "rest"} or not all(one.stands_still for one in connection.upstreams.values()):
            return
        until = connection.last + limits.idle_s
        if phase == "head":
            until = min(until, self._since + limits.head_s)
        self.rests_until, self._limits = until, limits

    def _weigh(self, connection: "ClientConnection", now: float) -> None:
        """See what waits for the caller, and whether it takes any of it."""
        buffered = int(connection.writer.transport.get_write_buffer_size())
        if connection.known_layer is not None and inspection.is_multiplexed(connection.client):
            buffered += inspection.unread(connection.known_layer)
        if buffered < self._buffered or not buffered:
            self._took = now
        if buffered != self._buffered:
            self._buffered, connection.last = buffered, now
        connection.excess = max(0, buffered - UNREAD_ANYWAY)

    def paused_s(self, now: float) -> float:
        """For how long something has waited for the caller, of which it took nothing."""
        return now - self._took

    def _sweep_caller(
        self, connection: "ClientConnection", now: float, limits: ConnectionLimits, elapsed_s: float
    ) -> None:
        layer = connection.known_layer = connection.layer
        phase = inspection.phase(layer) if layer is not None else inspection.Phase("head", None)
        reading = connection.reading
        if phase != self._phase:
            if self._phase is not None:
                self._since = now
            self._phase = phase
            self._credit_s, self._counted = BODY_GRACE_S, reading.received
        if phase.name == "head" and now - self._since > limits.head_s:
            connection.give_up(
                Refuse(Code.INVALID_REQUEST, "the head took too long", step=WIRE), answers=reading.received > 0
            )
        elif inspection.is_multiplexed(connection.client):
            self._sweep_streams(connection, now, limits, elapsed_s)
        elif phase.name == "body" and self._is_too_slow(connection, limits, elapsed_s):
            connection.give_up(Refuse(Code.INVALID_REQUEST, "the body came too slowly", step=WIRE), answers=True)
        elif now - connection.last > limits.idle_s:
            if phase.name == "body" and reading.under_way:
                connection.give_up(Refuse(Code.INVALID_REQUEST, "the body did not go on", step=WIRE), answers=True)
            else:
                _end_idle(connection)

    def _sweep_streams(
        self, connection: "ClientConnection", now: float, limits: ConnectionLimits, elapsed_s: float
    ) -> None:
        """End the bodies that are late, each by itself, and a connection over which only frames without use come."""
        layer = connection.known_layer
        if layer is None:
            return
        moved = inspection.moved(layer)
        if moved != self._moved:
            self._moved, connection.last = moved, now
        for body, refused in self._rates.late(inspection.bodies(layer), limits, now, elapsed_s):
            exchange = connection.open.get(id(body.flow))
            if exchange is not None:
                connection.end(exchange, refused)
            else:
                connection.deny(body.flow, connection.listener.answer(body.flow, refused))
        if now - connection.last > limits.idle_s:
            _end_idle(connection)

    def _is_too_slow(self, connection: "ClientConnection", limits: ConnectionLimits, elapsed_s: float) -> bool:
        received = connection.reading.received
        came, self._counted = received - self._counted, received
        if not limits.min_body_rate:
            return False
        # While nothing is read because the backend is slow, the caller is not to blame.
        waited_s = elapsed_s if connection.reading.under_way else 0.0
        self._credit_s = min(BODY_GRACE_S, self._credit_s - waited_s + came / limits.min_body_rate)
        return self._credit_s < 0


def _end_idle(connection: "ClientConnection") -> None:
    waiting = [exchange for exchange in connection.open.values() if not exchange.has_begun]
    if waiting:
        for exchange in waiting:
            connection.end(exchange, Refuse(Code.UPSTREAM_TIMEOUT, "no byte moved either way", step=UPSTREAM))
    else:
        connection.hang_up()


def _sweep_exchange(connection: "ClientConnection", exchange: Exchange, now: float, limits: ConnectionLimits) -> None:
    flow, until = exchange.flow, exchange.principal.not_after
    if exchange.state is ExchangeState.ANSWERED and not connection.still_sends(flow):
        # Its stream was reset after its answer, of which nobody is told.
        connection.finish(exchange)
    elif until is not None and time.time() >= until:
        connection.end(exchange, Refuse(Code.INVALID_CREDENTIAL, "the credential has ended", step="principal"))
    elif flow.response is None and flow.request.timestamp_end is not None:
        upstream = connection.upstreams.get(flow.server_conn.id)
        if upstream is None or not upstream.stands:
            return  # `connect` is counted there
        exchange.waits_since = exchange.waits_since or now
        if now - exchange.waits_since > limits.response_s:
            connection.end(exchange, Refuse(Code.UPSTREAM_TIMEOUT, "the upstream sent no head in time", step=UPSTREAM))
