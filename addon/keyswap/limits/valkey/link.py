"""The link to a Valkey or Redis server: its connection, made again when lost, and the way to another node.

Law: no request waits longer than the time-out for a connection: after it the server counts as down, and no request
waits at all until a probe, made every quarter of a second, was answered within the time-out.
"""

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import replace

from valkey.exceptions import ReadOnlyError, ResponseError

from keyswap.limits.limit import LimitStoreUnavailable
from keyswap.limits.valkey.connection import ERRORS, Address, PipelinedConnection, error_text, open_wire, packed

PROBE_S = 0.25
CONNECT_S = 0.5
"""How long a connection may take to be made, at least; no request waits for it beyond the time-out."""


class ServerLink:
    """The connection to a server, made when needed and made again when lost. `opened` is called when there is one."""

    def __init__(self, address: Address, timeout_s: float, opened: Callable[[], None]) -> None:
        self.timeout_s = timeout_s
        self.connection: PipelinedConnection | None = None
        self.down: str | None = None
        """Why no request is to wait for it."""
        self._home = self._address = address
        self._tls = ssl.create_default_context() if address.tls else None
        self._opened, self._closed = opened, False
        self._opening: asyncio.Task[None] | None = None
        self._tried: asyncio.Event | None = None

    async def ready(self, deadline: float) -> PipelinedConnection:
        """The connection, waiting for it until then. Raises LimitStoreUnavailable."""
        self.open()
        if self.connection is None and self.down is None:
            assert self._tried is not None
            try:
                async with asyncio.timeout_at(deadline):
                    await self._tried.wait()
            except TimeoutError:
                self.down = f"{self._address.url} could not be connected to in time"
        if self.connection is None:
            raise LimitStoreUnavailable(self.down or "the connection was lost")
        return self.connection

    def open(self) -> None:
        """Begin to connect, if it isn't connected; until it is, it goes on trying."""
        if self.connection is None and self._opening is None and not self._closed:
            self._tried = asyncio.Event()
            self._opening = asyncio.get_running_loop().create_task(self._open(self._tried))
            if self._opening.done():  # a task factory that is eager may have been through with it
                self._opening = None

    async def probe(self) -> None:
        """Probe a server that has had no request for a while. Raises OutcomeUnknown."""
        if self.connection is not None:
            await self.connection.send(packed(b"PING"), asyncio.get_running_loop().time() + self.timeout_s)

    async def _open(self, tried: asyncio.Event) -> None:
        try:
            while True:
                try:
                    connection = await self._connected()
                except (*ERRORS, LimitStoreUnavailable) as error:
                    self.down = f"{self._address.url}: {error_text(error)}"
                    self._address = self._home
                    tried.set()
                    await asyncio.sleep(PROBE_S)
                else:
                    self.connection, self.down = connection, None
                    break
        finally:
            self._opening = None
        self._opened()
        tried.set()

    async def _connected(self) -> PipelinedConnection:
        wire = open_wire(self._address, self._tls)
        try:
            async with asyncio.timeout(max(CONNECT_S, self.timeout_s)):
                await wire.connect()
        except BaseException:
            wire.drop()
            raise
        connection = PipelinedConnection(wire, self._lost)
        try:  # a server that stands still lets itself be connected to
            await connection.send(packed(b"PING"), asyncio.get_running_loop().time() + self.timeout_s)
        except BaseException:
            connection.close()
            raise
        return connection

    def _lost(self, connection: PipelinedConnection, why: str | None) -> None:
        if connection is self.connection:
            self.connection = None
            if why is not None:
                self.down = f"{self._address.url}: {why}"
                self.open()

    def follow(self, connection: PipelinedConnection, error: ResponseError) -> bool:
        """Go where a cluster says that the keys are; False: it says something else.

        A server that has become a replica is left too: its name may be another one's by now.
        """
        kind, _, rest = str(error).partition(" ")
        host, _, port = rest.partition(" ")[2].rpartition(":")
        moved = kind == "MOVED" and port.isdigit()
        if connection is self.connection and (
            moved or isinstance(error, ReadOnlyError)
        ):  # else another answer has said so before
            if moved:
                host = self._address.host if host in {"", "?"} else host
                self._address = replace(self._address, host=host, port=int(port))
            self.connection = None
            connection.close_when_idle()
            self.open()
        return moved

    async def close(self) -> None:
        """Close it, and try no more."""
        self._closed, self.down = True, "the store was closed"
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.wait([self._opening])
        if self.connection is not None:
            self.connection.close()
