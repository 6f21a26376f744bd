"""The guard around mitmproxy's connections: bounds on bytes and time, whatever a caller or a backend does.

Law: no connection outlives what the policy allows it, whatever its peer does or leaves undone; the bytes read ahead of
what can be used are bounded; no socket is left open. One sweep over all connections watches the clock: there is no
timer for a request or a read.
"""

import asyncio
import contextlib
import gc
import logging
import time
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

from mitmproxy.connection import Client
from mitmproxy.http import HTTPFlow
from mitmproxy.master import Master

from keyswap.limits.step import place
from keyswap.shell.connections.client import ClientConnection
from keyswap.shell.connections.exchange import Outcome
from keyswap.shell.connections.listener import ExchangeListener
from keyswap.shell.connections.memory_budget import Holdings
from keyswap.shell.connections.shared import Shared
from keyswap.shell.connections.turns import Turns
from keyswap.shell.connections.upstream import UpstreamConnection
from keyswap.shell.metrics.collect import Traffic
from keyswap.shell.mitm import connection_handler, flows, proxy_master
from keyswap.shell.runtime.connection_limits import most_per_address

logger = logging.getLogger(__name__)

SWEEP_S, STOPPING_S = 0.25, 1.0
SLICE_S = 0.002
"""How long a sweep goes on before others have their turn."""
FEW, SOME_GONE, MANY_GONE, LATEST_S = 300, 500, 2_000, 600.0
"""Connections that are few enough for the collector to look through, and how many have ended, upstream too, when it is
to do so: while no request is open, and in any case; and after how many seconds it does anyway."""
HASTE_S = 0.05
"""How often all is looked at while much waits that nobody reads."""
DRAIN_S = 0.05
STUCK_S = 1.0
"""How long a caller has taken nothing when it counts as one that does not read."""
UNREAD_TOGETHER = 64 << 20
"""Bytes that may wait for callers who do not read them, beyond what may wait for each."""


@dataclass(slots=True)
class ConnectionGuard:
    """All callers' connections of a process."""

    master: Master
    listener: ExchangeListener
    connections: dict[str, ClientConnection] = field(default_factory=dict)
    _addresses: Counter[str] = field(default_factory=Counter)
    _tasks: set[asyncio.Task[Any]] = field(default_factory=set)
    _complained: float = 0.0
    _owing: set[UpstreamConnection] = field(default_factory=set)
    _ended: bool = False
    _unread: int = 0
    gone: int = 0
    """Connections that have ended, callers' and upstream, since the collector has looked through everything."""
    _looked: float = field(default_factory=time.monotonic)
    _holdings: Holdings = field(init=False)
    _shared: Shared = field(init=False)

    def __post_init__(self) -> None:
        self._holdings = Holdings(self._complain_of_held, self.listener.report)
        self._shared = Shared(self.listener, self.spawn, self.forget, Turns(), self._holdings)

    def connected(self, client: Client) -> None:
        """Watch over a new connection, or turn it away."""
        if self._ended:
            client.error = "the gateway is stopping"
            return
        if not client.peername:
            client.error = "the caller has gone"  # before it was accepted: the system knows no address of it any more
            return
        address = place(client.peername[0])
        if self._addresses[address] >= most_per_address():
            client.error = "too many connections"
            self._complain("connections from %s are turned away: it has %d", address, self._addresses[address])
            return
        self._addresses[address] += 1
        try:
            self._watch(client, address)
        except Exception:
            self._count_down(address)
            raise

    def _watch(self, client: Client, address: str) -> None:
        handler = proxy_master.handler_of(self.master, client)
        connection = ClientConnection(self._shared, client, address, handler)
        connection.owing = self._owing
        connection_handler.lift_connection_limit(handler)
        connection_handler.leave_draining(handler)
        self.connections[client.id] = connection

    def _count_down(self, address: str) -> None:
        self._addresses[address] -= 1
        if not self._addresses[address]:
            del self._addresses[address]

    def _complain_of_held(self, holder: str) -> None:
        address = holder.partition(" ")[0]
        self._complain("requests from %s are ended: too much is held of what is not whole", address)

    def _complain(self, text: str, *given: object) -> None:
        now = time.monotonic()
        if now - self._complained > 60:
            self._complained = now
            logger.warning(text, *given)

    def disconnected(self, client: Client) -> None:
        """A connection's layers are gone: its socket goes too."""
        connection = self.connections.get(client.id)
        if connection is not None:
            try:
                connection.forget_requests()
            finally:
                connection.close()

    def forget(self, connection: ClientConnection) -> None:
        """A connection is closed."""
        if self.connections.pop(connection.client.id, None) is not None:
            self.gone += 1
            self._count_down(connection.address)
            self._holdings.forget(connection)
        connection.forget_requests()

    def traffic(self) -> Traffic:
        """How many connections and exchanges there are."""
        return Traffic(len(self.connections), sum(len(connection.open) for connection in self.connections.values()))

    def of(self, client: Client) -> ClientConnection | None:
        """Who watches over this client."""
        return self.connections.get(client.id)

    def end_exchange(self, flow: HTTPFlow, outcome: Outcome | None = None) -> None:
        """A flow's exchange is over, if it became one."""
        connection, exchange = self.connections.get(flow.client_conn.id), flows.exchange_of(flow)
        if exchange is not None and connection is not None:
            connection.finish(exchange, outcome)
        elif exchange is not None:
            exchange.finish(outcome)  # the connection has ended meanwhile

    def spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        """Let something happen beside the caller of this."""
        task = asyncio.get_running_loop().create_task(work)
        if not task.done():
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def sweep(self, elapsed_s: float) -> None:
        """End whatever has taken too long, on every connection, and the requests of keys that are no longer good.

        Others have their turn whenever it has taken SLICE_S. A connection at rest is left alone until its deadline.
        """
        loop, limits = asyncio.get_running_loop(), self.listener.limits()
        judge = self.listener.revoked_since()
        now = until = loop.time()
        for connection in list(self.connections.values()):
            try:
                if judge is None and connection.rests(now, limits):
                    continue
                if loop.time() >= until:
                    await asyncio.sleep(0)
                    now = loop.time()
                    until = now + SLICE_S
                connection.sweep(now, limits, elapsed_s)
                for exchange in list(connection.open.values()) if judge is not None else ():
                    if loop.time() >= until:
                        await asyncio.sleep(0)
                        until = loop.time() + SLICE_S
                    refused = (
                        judge(exchange)
                        if judge is not None and connection.open.get(id(exchange.flow)) is exchange
                        else None
                    )
                    if refused is not None:
                        connection.end(exchange, refused)
            except Exception as error:  # noqa: BLE001 (one connection's trouble must not end the watch over the others)
                self.listener.report(error)
                connection.abort()
        self._relieve(now)
        self.tidy()

    def tidy(self) -> None:
        """Let the collector look for what nobody undid, best while none waits: 20 ms, and 80 µs for each connection."""
        eager = len(self.connections) < FEW and not any(connection.open for connection in self.connections.values())
        now = time.monotonic()
        if self.gone > (SOME_GONE if eager else MANY_GONE) or now - self._looked > LATEST_S:
            self.gone, self._looked = 0, now
            gc.collect()

    def _relieve(self, now: float) -> None:
        """End connections whose callers do not read, the worst first, until less waits for all of them together.

        Those who read, if slowly, are spared up to twice as much; the more waits, the shorter a caller may pause.
        """
        unread = self._unread = sum(connection.excess for connection in self.connections.values())
        if unread <= UNREAD_TOGETHER:
            return
        patience_s = STUCK_S * (2 - unread / UNREAD_TOGETHER)
        for connection in sorted(self.connections.values(), key=lambda one: one.excess, reverse=True):
            if unread <= UNREAD_TOGETHER or not connection.excess:
                break
            if connection.clock.paused_s(now) > patience_s:
                address = connection.address
                self._complain("a connection from %s is ended: it does not read %d bytes", address, connection.excess)
                unread, connection.excess = unread - connection.excess, 0
                connection.abort()

    async def drain(self, grace_s: float) -> None:
        """Let every request end that has begun, and connections as soon as they are idle: for at most so long."""
        loop = asyncio.get_running_loop()
        until = loop.time() + grace_s
        await asyncio.sleep(min(DRAIN_S, grace_s))  # who was accepted last is watched over only a moment later
        for connection in list(self.connections.values()):
            connection.drain()
        while (self.connections or self._owing) and loop.time() < until:
            for connection in list(self.connections.values()):
                if connection.is_idle(loop.time()):
                    connection.hang_up()
            await asyncio.sleep(DRAIN_S)

    async def end(self) -> None:
        """Let nobody in any more, hang up on everyone, and give that a moment."""
        self._ended = True
        for connection in list(self.connections.values()):
            connection.hang_up()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOPPING_S):
                while self.connections:
                    await next(iter(self.connections.values())).change()
        for connection in list(self.connections.values()):
            connection.abort()
        for upstream in list(self._owing):
            upstream.settle()

    async def run(self) -> None:
        """Sweep until cancelled."""
        before = asyncio.get_running_loop().time()
        while True:
            await asyncio.sleep(SWEEP_S if self._unread < UNREAD_TOGETHER // 4 else HASTE_S)
            now = asyncio.get_running_loop().time()
            try:
                await self.sweep(now - before)
            except Exception as error:  # noqa: BLE001 (as above)
                self.listener.report(error)
            before = now
