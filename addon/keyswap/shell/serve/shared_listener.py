"""A listener on a socket that several processes share.

Law: whoever waits to be accepted when it ends is taken in, for a bounded time: nobody is reset.
"""

import asyncio
import select
import socket
import time
from typing import Any

from mitmproxy.proxy import mode_servers

from keyswap.shell.serve import listen_socket

SETTLING_S, CLEARING_S = 0.2, 1.0
"""When a listener closes, those are taken in who wait to be accepted, until nobody has come for so long, and no longer
than so long: a connection that is being made takes a round trip."""


class SharedListener:
    """A listener on a socket that several processes share. It accepts nobody before `open`.

    One connection is accepted a turn of the event loop: whoever has more to do takes fewer.
    """

    def __init__(self, shared: socket.socket) -> None:
        self._listening = _Bound(fileno=shared.detach())
        self._server: asyncio.Server | None = None
        listener = self

        async def listen(self: Any, _host: str, _port: int) -> list[asyncio.Server]:
            return [await listener._made(self.handle_stream)]

        instance: Any = mode_servers.ReverseInstance
        instance.listen = listen

    async def _made(self, handle: Any) -> asyncio.Server:
        self._server = await asyncio.start_server(handle, sock=self._listening, backlog=1, start_serving=False)
        return self._server

    async def open(self) -> None:
        """Accept connections, if it has not been closed meanwhile."""
        if self._server is not None and self._server.sockets:
            await self._server.start_serving()

    def let_nobody_in(self) -> None:
        """Let no connection begin any more, in any process that shares the socket."""
        listen_socket.let_nobody_in(self._listening)

    async def clear(self) -> None:
        """Take in those who wait to be accepted: to close the socket before would reset their connections."""
        waits = select.poll()
        waits.register(self._listening, select.POLLIN)
        began = quiet = time.monotonic()
        while self._server is not None and self._server.is_serving():
            now = time.monotonic()
            someone = bool(waits.poll(0))
            quiet = now if someone else quiet
            if now - began > CLEARING_S or now - quiet > SETTLING_S:
                return
            await asyncio.sleep(0 if someone else 0.002)  # the event loop accepts one


class _Bound(socket.socket):
    """A socket on which its owner listens: how many may wait there is not for those to say who share it."""

    def listen(self, _backlog: int = 0, /) -> None:
        """Nothing, as it is done."""
