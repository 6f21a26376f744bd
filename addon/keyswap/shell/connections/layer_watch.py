"""What mitmproxy's layers ask about a caller's connection (the protocols of `connection_watch`).

Law: a layer asks here and nowhere else: it knows neither the guard nor the gate.
"""

import asyncio
import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mitmproxy.connection import Server
from mitmproxy.http import HTTPFlow

from keyswap.model import Code
from keyswap.refusals import Answer
from keyswap.shell.connections.exchange import Exchange
from keyswap.shell.connections.listener import refusal_of
from keyswap.shell.connections.shared import waiting
from keyswap.shell.mitm import flows

if TYPE_CHECKING:
    from keyswap.shell.connections.client import ClientConnection

GOING_AWAY, POLICY_VIOLATION, UNEXPECTED = 1001, 1008, 1011
"""Close codes of WebSockets (RFC 6455 §7.4.1)."""
MAX_ABUSE_SCORE, ABUSE_PER_S = 1000.0, 33.0
"""Frames of no use (resets, pings, settings) that an HTTP/2 connection may send at once, and each second."""


class LayerWatch:
    """Answers the layers of one connection."""

    def __init__(self, connection: "ClientConnection") -> None:
        self._connection = connection
        self._abuse_left, self._scored_at = MAX_ABUSE_SCORE, connection.last

    @property
    def max_head(self) -> int:
        """Bytes of a request's head."""
        return self._connection.listener.limits().max_head

    def answer(self, flow: HTTPFlow | None, status: int) -> Answer:
        """The gateway's own answer where mitmproxy would say something with this status."""
        return self._connection.listener.answer(flow, refusal_of(status))

    def is_abusive(self, cost: float) -> bool:
        """Note a frame of no use; True when there were too many."""
        now = self._connection.now()
        self._abuse_left = min(MAX_ABUSE_SCORE, self._abuse_left + (now - self._scored_at) * ABUSE_PER_S) - cost
        self._scored_at = now
        return self._abuse_left < 0

    def deliver(self, event: Any) -> None:
        """Let the connection's layers take an event, when they are done with what they do."""
        self._connection.deliver(event)

    def later(self, event: Any) -> None:
        """Let the connection's layers take an event after others had their turn; then more may be read."""
        connection = self._connection

        async def go_on() -> None:
            await connection.handler.server_event(event)
            connection.wake()

        connection.shared.turns.wait(lambda: connection.spawn(go_on()))

    def cut(self) -> None:
        """What was said to the caller is not whole, which only a reset of its connection can tell it."""
        self._connection.closing.resets = True

    def close_code(self, flow: HTTPFlow) -> int | None:
        """How the gateway ends a WebSocket (RFC 6455 §7.4.1); None: it does not, one of its ends was lost."""
        exchange: Exchange | None = flows.exchange_of(flow)
        if exchange is not None and exchange.ended_by is not None:
            return POLICY_VIOLATION if exchange.ended_by.code is Code.INVALID_CREDENTIAL else UNEXPECTED
        return GOING_AWAY if self._connection.hung_up else None

    def layers_are_over(self) -> None:
        """No event reaches this connection's layers any more."""
        self._connection.closing.layers_are_over = True
        asyncio.get_running_loop().call_soon(self._connection.part)

    # ---- Of connections upstream

    def backlog(self, server: Server) -> int:
        """Bytes that this backend has not taken; those for one that is being closed wait for nothing."""
        upstream = self._connection.upstreams.get(server.id)
        if upstream is None or upstream.writer is None or upstream.writer.transport.is_closing():
            return 0
        return waiting(upstream)

    def when_taken(self, server: Server, then: Callable[[], None]) -> None:
        """Call `then` once this backend has taken all that was written to it, or is gone."""
        upstream = self._connection.upstreams.get(server.id)

        async def wait() -> None:
            if upstream is not None and upstream.writer is not None:
                with contextlib.suppress(OSError):
                    await upstream.writer.drain()
            then()

        self._connection.spawn(wait())

    def is_silent(self, server: Server) -> bool:
        """Whether nothing has come of this backend that was not read, and it has not closed."""
        upstream = self._connection.upstreams.get(server.id)
        return upstream is not None and upstream.is_silent

    def is_over(self, server: Server) -> bool:
        """Whether nothing comes over this upstream connection any more, and nothing is owed over it."""
        return server.id not in self._connection.upstreams and server.id not in self._connection.owed

    def hang_up_on(self, server: Server) -> None:
        """End this connection upstream as if its backend had."""
        upstream = self._connection.upstreams.get(server.id)
        if upstream is not None:
            upstream.hang_up()

    def was_reset(self, server: Server) -> bool:
        """Whether this backend's connection has ended without its end having been said."""
        upstream = self._connection.upstreams.get(server.id)
        return upstream is not None and upstream.was_reset

    def why_broken(self, server: Server) -> Exception | None:
        """The error that ended this backend's connection; None: it ended otherwise."""
        upstream = self._connection.upstreams.get(server.id)
        return upstream.broken if upstream is not None else None
