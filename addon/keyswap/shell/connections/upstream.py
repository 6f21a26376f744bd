"""One connection to a backend, for one caller.

Law: it stands in for a stream reader of mitmproxy's and closes what it was given. Reading waits while the caller has
not made room. What an exchange has counted is held until its backend has answered, closed, or used up its time.
"""

import asyncio
import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mitmproxy.connection import Server

from keyswap.model import UNCOUNTED, UPSTREAM, Code, Counted, Refuse, nothing
from keyswap.shell.connections.client_reading import read_from
from keyswap.shell.connections.exchange import Exchange
from keyswap.shell.connections.shared import ENDING_S, taken
from keyswap.shell.connections.websocket_pace import Pace
from keyswap.shell.mitm import (
    awaited_response,
    connection_handler,
    flows,
    inspection,
    sockets,
    turns,
    upstream_errors,
    upstream_pool,
)
from keyswap.shell.runtime.connection_limits import ConnectionLimits

if TYPE_CHECKING:
    from keyswap.shell.connections.client import ClientConnection

UNREAD_UP_TO = 64 << 10
"""Bytes of a response that wait for an HTTP/2 caller to make room, before no more is read from the backend."""
UNREAD_IN_ALL = 1 << 20
"""Bytes of all its responses, before no more is read of those of which some wait."""


def _discard(_data: bytes) -> None:
    """Stands in for the `write` of a writer over which nothing more is to be sent."""


class UpstreamConnection:
    """One connection to the backend, for one caller. Stands in for its stream reader."""

    def __init__(self, caller: "ClientConnection", server: Server) -> None:
        self.caller, self.server = caller, server
        self.late = False
        self._pace = Pace()
        self._began = self.last = asyncio.get_running_loop().time()
        self._reader: Any = None
        self.writer: Any = None
        self._reading = self._hung_up = False
        self._ended: float | None = None
        self._close: Callable[[], None] = nothing
        self._awaited: awaited_response.AwaitedResponse | None = None
        self._held: Counted = UNCOUNTED
        self._until = 0.0
        self._has_ended = self._waits = False
        self.broken: Exception | None = None
        """Why the connection has ended, if not by its end."""

    def connect(self) -> None:
        """The connection stands."""
        transport = self.caller.handler.transports[self.server]
        self._reader, self.writer = transport.reader, transport.writer
        self._close = self.writer.close
        transport.reader, self.writer.close = self, self.close
        sockets.keep_received(self._reader, self.writer, self._broke)
        sockets.read_little_ahead(self._reader, self.writer)
        if inspection.is_multiplexed(self.caller.client):
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
        return self._reading and not self._hung_up and sockets.is_silent(self._reader, self.writer)

    async def read(self, n: int) -> bytes:
        """As StreamReader's; waits while the caller has not made room for what came before."""
        self._pace.done()
        caller = self.caller
        caller.wake()
        while self._is_not_ready() and not self._hung_up:
            await caller.change()
        await taken(caller)
        if self._hung_up:
            return b""
        self._reading = True
        # Of its end alone: what waited for its turn would be held, and as much be read behind it.
        data: bytes = await read_from(caller, self._reader, self._pace, n, n + 1)
        self._reading = False
        self.last = caller.last = asyncio.get_running_loop().time()
        self._has_ended = not data and not self._hung_up
        return b"" if self._hung_up else data

    def _is_not_ready(self) -> bool:
        """Whether what has come over it is to be taken first: by its turn, or by the caller."""
        layer = self.caller.known_layer
        if layer is None:
            return False
        if turns.waits_for_turn(layer, self.server):
            return True
        unread = inspection.unread_from(layer, self.server)
        return unread > UNREAD_UP_TO or (unread > 0 and inspection.unread(layer) > UNREAD_IN_ALL)

    def _is_left_over(self) -> bool:
        """Whether the request that an HTTP/2 caller sent over it has ended before its body."""
        layer = self.caller.known_layer
        multiplexed = layer is not None and inspection.is_multiplexed(self.caller.client)
        return multiplexed and upstream_pool.is_left_over(layer, self.server)

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
        self.caller.wake()
        if self._awaited is not None:
            connection_handler.cancel_transport(self.caller.handler, self.server)
        elif self._reading:
            self.writer.transport.pause_reading()
            self._reader.feed_eof()

    def sweep(self, now: float, limits: ConnectionLimits) -> None:
        """End a connection attempt, or a response, that has taken too long."""
        if not self.stands and not self.late:
            if now - self._began > limits.connect_s:
                self._give_up()
        elif self._ended is not None:
            if now - self._ended > ENDING_S:
                self.abort()
        elif self._is_left_over():
            self.hang_up()
        elif now - self.last > limits.idle_s and (exchange := self._answering()) is not None:
            self.caller.end(
                exchange, Refuse(Code.UPSTREAM_TIMEOUT, "the upstream's answer did not go on", step=UPSTREAM)
            )

    def _give_up(self) -> None:
        self.late = True
        why = upstream_errors.at(
            self.server.address, upstream_errors.LATE if self.writer is None else upstream_errors.LATE_TLS
        )
        flows.blame_connection(self.server, why)
        for exchange in self.caller.open.values():
            # While connections are being made mitmproxy does not say which request each is for.
            if exchange.flow.server_conn is self.server or not exchange.flow.server_conn.connected:
                exchange.late = exchange.late or why
        if self.writer is None:
            connection_handler.cancel_transport(self.caller.handler, self.server)
        else:
            self.hang_up()

    def abort(self) -> None:
        """Drop the connection, and what was to be written over it, unless an answer is owed."""
        if self._awaited is not None:
            connection_handler.cancel_transport(self.caller.handler, self.server)
        elif self.writer is not None:
            self.writer.transport.abort()

    # ---- What is owed when the caller has left

    def owe(self, exchange: Exchange) -> bool:
        """Hold the places of a request that ends here until its backend has answered, closed, or used up its time.

        False: it was sent nothing, has answered or closed, or no place is held.
        """
        client = awaited_response.sent_over(self.caller.layer, self.server)
        waited_s = self._now() - (exchange.waits_since or self._now())
        is_open = self.writer is not None and not self.writer.transport.is_closing() and not self._has_ended
        if (
            client is None
            or not is_open
            or waited_s > self.caller.listener.limits().response_s
            or not exchange.holds_places
        ):
            return False
        self._awaited, self._until = (
            awaited_response.AwaitedResponse(client),
            self._now() + self.caller.listener.limits().response_s - waited_s,
        )
        self._held = exchange.hand_over()
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
            self.caller.owing.add(self)
            self.caller.owed.add(self.server.id)
            self.caller.spawn(self._wait(self._awaited))

    async def _wait(self, awaited: awaited_response.AwaitedResponse) -> None:
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
        if self not in self.caller.owing:
            return
        self.caller.owing.discard(self)
        self.caller.owed.discard(self.server.id)
        asyncio.get_running_loop().call_soon(self.caller.part)
        try:
            self._held.give_back()
        finally:
            self._close()
            self._end()

    def _end(self) -> None:
        """Nothing more is written over it, and nobody asks for it."""
        if self.writer.transport.get_write_buffer_size():
            self.writer.transport.abort()
        sockets.restore_writer(self.writer)

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def _answering(self) -> Exchange | None:
        """The request that has ended and whose response has begun over it: nothing but its bytes is awaited."""
        for exchange in self.caller.open.values():
            flow = exchange.flow
            if flow.server_conn is self.server and flow.response is not None and flow.websocket is None:
                return exchange if flow.request.timestamp_end is not None else None
        return None

    def gone(self) -> None:
        """The connection has ended, or was never made: whatever way it did, its socket goes too."""
        if self.writer is None:
            connection_handler.forget_transport(self.caller.handler, self.server)
            return
        if not self.writer.transport.is_closing():
            self.writer.close()
        if not self._waits:
            self._end()
