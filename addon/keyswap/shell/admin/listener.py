"""The admin listener: where it listens, and what opens it (CONTRACT §7).

Law: without a token in the environment there is no start and no reload; the token is kept in memory alone. Of several
gateway processes with one policy the first listens; when it ends, however it ends, another takes over.
"""

import asyncio
import logging
import os
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from keyswap import host_port
from keyswap.model import StateError
from keyswap.policy import Policy, line_at, parse_listen
from keyswap.shell.admin.app import AdminApp
from keyswap.shell.admin.http import Server
from keyswap.shell.admin.keys_api import ROUTES as KEYS
from keyswap.shell.admin.routes import PROBES, Gateway, KeyStoreRef, Route

__all__ = ["AdminListener", "Gateway", "KeyStoreRef", "Settings"]

logger = logging.getLogger(__name__)

ROUTES = (*PROBES, *KEYS)
"""Everything that there is."""

LEAST_TOKEN = 32
_TOKEN = re.compile(rf"[!-~]{{{LEAST_TOKEN},}}")


@dataclass(frozen=True, slots=True)
class Settings:
    """Where it listens, and the token that opens it."""

    host: str
    port: int
    token: bytes = field(repr=False)

    @staticmethod
    def of(policy: Policy, file: Path) -> "Settings | None":
        """Those of a policy, with the token from the environment; None without a listener. Raises StateError."""
        if policy.admin is None:
            return None
        name = policy.admin.token_env
        token = os.environ.get(name)
        if token is None or not _TOKEN.fullmatch(token):
            what = "is not set" if token is None else "does not hold such a token"
            raise StateError(
                f"{file}:{line_at(file, '/admin/token_env') or 1}: admin.token_env: the environment variable {name} "
                f"{what}: set it to at least {LEAST_TOKEN} printable ASCII characters without spaces, for example "
                "those of `openssl rand -hex 32`"
            )
        return Settings(*parse_listen(policy.admin.listen), token.encode())

    @property
    def address(self) -> str:
        """HOST:PORT, with brackets around an IPv6 address."""
        return host_port.joined(self.host, self.port)


class AdminListener:
    """The listener of a process. `tend` it twice a second: it follows the policy, and waits for its address."""

    def __init__(self, gateway: Gateway, routes: Sequence[Route] = ROUTES) -> None:
        self._gateway, self._routes = gateway, routes
        self._held: tuple[Settings, Server] | None = None
        self._waits_for: str | None = None

    @property
    def address(self) -> str | None:
        """Where it listens now."""
        return self._held[0].address if self._held is not None else None

    async def tend(self, wanted: Settings | None) -> None:
        """Listen where the policy in force says, if no other process does."""
        if self._held is not None:
            if self._held[0] == wanted:
                return
            await self.close()
        if wanted is None:
            self._waits_for = None
        else:
            await self._listen(wanted)

    async def _listen(self, wanted: Settings) -> None:
        try:
            sockets = await _bound(wanted.host, wanted.port)
        except (OSError, UnicodeError) as error:
            if self._waits_for != wanted.address:
                self._waits_for = wanted.address
                why = getattr(error, "strerror", None) or "it is no address of this machine"
                # No error: mitmproxy would end a start that logs one, and another process may well hold it.
                logger.warning("the admin listener waits for %s, and goes on trying: %s", wanted.address, why)
            return
        server = Server(AdminApp(self._gateway, self._routes, wanted.host, wanted.token))
        server.add_sockets(sockets)
        self._held = wanted, server
        if self._waits_for is not None:
            logger.warning("the admin listener has %s now", wanted.address)
        self._waits_for = None

    async def close(self) -> None:
        """Listen no more, and end what is still being answered."""
        held, self._held = self._held, None
        if held is not None:
            held[1].stop()
            await held[1].close_all_connections()


async def _bound(host: str, port: int) -> list[socket.socket]:
    """Listening sockets on every address of a host. Raises OSError."""
    addresses = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    sockets: list[socket.socket] = []
    try:
        for family, _, _, _, address in dict.fromkeys(addresses):
            sockets.append(socket.create_server(address, family=family))
    except OSError:
        for listening in sockets:
            listening.close()
        raise
    for listening in sockets:
        listening.setblocking(False)
    return sockets
