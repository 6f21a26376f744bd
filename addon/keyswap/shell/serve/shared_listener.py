"""A listener on a socket that several processes share.

Law: a connection that waits to be accepted when the listener ends is accepted, for a bounded time: none is reset.
"""

import asyncio
import select
import socket
import time
from contextlib import suppress
from typing import Any

from mitmproxy.proxy import mode_servers

from keyswap.shell.engine.proxy_protocol import Introduced, read_header
from keyswap.shell.mitm import sockets
from keyswap.shell.serve import listen_socket

INTRODUCED_S = 10.0
"""How long an engine may take to say for which caller it has connected."""
SETTLING_S, CLEARING_S = 0.2, 1.0
"""A listener that closes accepts waiting connections until none has come for SETTLING_S, for CLEARING_S at most: a
connection that is being made takes a round trip."""


class SharedListener:
    """A listener on a socket that several processes share. It accepts no connection before `open`.

    One connection is accepted a turn of the event loop: a busy worker takes fewer.
    """

    def __init__(self, shared: socket.socket, is_behind: bool = False) -> None:
        """`is_behind`: an engine connects, and says first for which caller."""
        self._is_behind = is_behind
        self._listening = _Bound(fileno=shared.detach())
        self._server: asyncio.Server | None = None
        listener = self

        async def listen(self: Any, _host: str, _port: int) -> list[asyncio.Server]:
            return [await listener._start_server(self.handle_stream)]

        instance: Any = mode_servers.ReverseInstance
        instance.listen = listen

    async def _start_server(self, handle: Any) -> asyncio.Server:
        handle = _introduced(handle) if self._is_behind else handle
        self._server = await asyncio.start_server(handle, sock=self._listening, backlog=1, start_serving=False)
        return self._server

    async def open(self) -> None:
        """Accept connections, if it has not been closed meanwhile."""
        if self._server is not None and self._server.sockets:
            await self._server.start_serving()

    def reject_new_connections(self) -> None:
        """Let no connection begin any more, in any process that shares the socket."""
        if self._listening.family != socket.AF_UNIX:
            listen_socket.reject_new_connections(self._listening)

    async def clear(self) -> None:
        """Accept the connections that wait: to close the socket before would reset them."""
        poll = select.poll()
        poll.register(self._listening, select.POLLIN)
        began = quiet = time.monotonic()
        while self._server is not None and self._server.is_serving():
            now = time.monotonic()
            pending = bool(poll.poll(0))
            quiet = now if pending else quiet
            if now - began > CLEARING_S or now - quiet > SETTLING_S:
                return
            await asyncio.sleep(0 if pending else 0.002)  # the event loop accepts one


def _introduced(handle: Any) -> Any:
    """Handle a connection as its caller's, once an engine has introduced whose it is."""

    async def handle_introduced(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        introduced: Introduced | None = None
        with suppress(OSError, asyncio.IncompleteReadError, TimeoutError):
            async with asyncio.timeout(INTRODUCED_S):
                introduced = await read_header(reader)
        if introduced is None:
            writer.close()
            return
        sockets.introduce(writer, *introduced)
        await handle(reader, writer)

    return handle_introduced


class _Bound(socket.socket):
    """A socket on which the supervisor listens already, with its own backlog."""

    def listen(self, _backlog: int = 0, /) -> None:
        """No-op: the supervisor listens on it already."""
