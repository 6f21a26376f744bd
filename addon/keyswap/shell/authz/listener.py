"""Where questions come: a socket that the workers of one gateway share.

Law: whoever may open the socket in the file system may ask; over TCP those may whose address the policy trusts. What
has been asked when it stops is answered.
"""

import asyncio
import socket
from contextlib import suppress

from keyswap.request import addresses
from keyswap.shell.authz.authorizer import Authorizer
from keyswap.shell.authz.protocol import QuestionProtocol
from keyswap.shell.runtime.runtime import Runtime

BACKLOG = 4096
"""As the supervisor listens: each worker's listening sets it anew."""


class QuestionListener:
    """Accepts proxies' connections once it is open."""

    def __init__(self, runtime: Runtime, listening: socket.socket) -> None:
        self._runtime, self._listening = runtime, listening
        self._authorizer = Authorizer(runtime)
        self._server: asyncio.Server | None = None
        self._open: set[QuestionProtocol] = set()
        self._drained: asyncio.Event | None = None

    async def open(self) -> None:
        """Accept connections."""
        loop = asyncio.get_running_loop()

        def connection() -> QuestionProtocol:
            return QuestionProtocol(self._authorizer.answer, self, loop)

        if self._listening.family == socket.AF_UNIX:
            self._server = await loop.create_unix_server(connection, sock=self._listening, backlog=BACKLOG)
        else:
            self._server = await loop.create_server(connection, sock=self._listening, backlog=BACKLOG)

    def opened(self, connection: QuestionProtocol) -> bool:
        """Whether whoever is at the other end may ask."""
        self._open.add(connection)
        if self._listening.family == socket.AF_UNIX:
            return True
        trusted = self._runtime.active.built.policy.trusted_proxies
        return addresses.is_among(connection.peer, map(addresses.network, trusted))

    def closed(self, connection: QuestionProtocol) -> None:
        """It is closed."""
        self._open.discard(connection)
        if self._drained is not None and not self._open:
            self._drained.set()

    async def drain(self, grace_s: float) -> None:
        """Accept nobody any more, answer what was asked, and close."""
        if self._server is not None:
            self._server.close()
        for connection in list(self._open):
            connection.drain()
        if self._open:
            self._drained = asyncio.Event()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._drained.wait(), grace_s)
