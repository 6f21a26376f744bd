"""Where questions come: a socket that the workers of one gateway share.

Law: whoever may open the socket in the file system may ask; over TCP those may whose address the policy in force
trusts. Others have few connections, and little time and room on each. What has been asked when it stops is answered.
"""

import asyncio
import socket
import sys
from contextlib import suppress
from typing import Any

from keyswap.request import addresses
from keyswap.shell.authz.authorizer import Authorizer
from keyswap.shell.authz.protocol import QuestionProtocol
from keyswap.shell.runtime.active_policy import ActivePolicy
from keyswap.shell.runtime.runtime import Runtime

BACKLOG = 4096
"""As the supervisor listens: each worker's listening sets it anew."""
STRANGERS = 64
"""Connections at once of those who may not ask."""
QUESTION_S = 10.0
"""How long a question may take to come, and a connection of a stranger to be of use."""


class QuestionListener:
    """Accepts proxies' connections once it is open."""

    def __init__(self, runtime: Runtime, listening: socket.socket, authorizer: Authorizer) -> None:
        self._runtime, self._listening, self._authorizer = runtime, listening, authorizer
        self._server: asyncio.Server | None = None
        self._open: dict[QuestionProtocol, float] = {}
        """Connections, and when they were made."""
        self._strangers: set[QuestionProtocol] = set()
        """Those of them that were made by who may not ask."""
        self._drained: asyncio.Event | None = None
        self._sweeping: asyncio.Task[None] | None = None
        self._judged: tuple[ActivePolicy, dict[str, bool]] | None = None
        """The policy in force, and which addresses may ask by it."""

    async def open(self) -> None:
        """Accept connections."""
        loop = asyncio.get_running_loop()

        def connection() -> QuestionProtocol:
            return QuestionProtocol(self._authorizer.answer, self, loop)

        if self._listening.family == socket.AF_UNIX:
            # From Python 3.13 on a server that closes removes the path, which is all workers'.
            keeps: dict[str, Any] = {"cleanup_socket": False} if sys.version_info >= (3, 13) else {}
            self._server = await loop.create_unix_server(connection, sock=self._listening, backlog=BACKLOG, **keeps)
        else:
            self._server = await loop.create_server(connection, sock=self._listening, backlog=BACKLOG)
        self._sweeping = loop.create_task(self._sweep(), name="keyswap questions")

    def opened(self, connection: QuestionProtocol) -> bool:
        """Whether there is room for it."""
        if not self.may_ask(connection):
            if len(self._strangers) >= STRANGERS:
                return False
            self._strangers.add(connection)
        self._open[connection] = asyncio.get_running_loop().time()
        return True

    def may_ask(self, connection: QuestionProtocol) -> bool:
        """Whether whoever is at the other end may ask, by the policy in force."""
        if self._listening.family == socket.AF_UNIX:
            return True
        active = self._runtime.active
        if self._judged is None or self._judged[0] is not active:
            self._judged = active, {}
        known, peer = self._judged[1], connection.peer
        if peer not in known:
            if len(known) >= BACKLOG:
                known.clear()
            trusted = active.built.policy.trusted_proxies
            known[peer] = addresses.is_among(peer, map(addresses.network, trusted))
        return known[peer]

    def closed(self, connection: QuestionProtocol) -> None:
        """It is closed."""
        self._open.pop(connection, None)
        self._strangers.discard(connection)
        if self._drained is not None and not self._open:
            self._drained.set()

    async def _sweep(self) -> None:
        """Cut what takes too long, once a second."""
        while True:
            await asyncio.sleep(1.0)
            late = asyncio.get_running_loop().time() - QUESTION_S
            for connection, since in list(self._open.items()):
                if (connection.begun is not None and connection.begun < late) or (
                    since < late and not self.may_ask(connection)
                ):
                    connection.cut()

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
        if self._sweeping is not None:
            self._sweeping.cancel()
