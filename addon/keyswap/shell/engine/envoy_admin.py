"""Envoy's own answers, over its socket: is it ready, where does it listen, which configuration has it taken.

Law: an answer that does not come within its time is an error; nothing waits for Envoy for ever.
"""

import asyncio
import http.client
import json
import os
import re
import socket
from contextlib import closing
from http import HTTPStatus
from pathlib import Path
from typing import Any

from keyswap import host_port

ANSWER_S = 3.0


class NotReady(OSError):
    """An answer that is none of success."""


class _Connection(http.client.HTTPConnection):
    """To a socket in the file system."""

    def __init__(self, path: Path) -> None:
        super().__init__("keyswap", timeout=ANSWER_S)
        self._path = path

    def connect(self) -> None:
        """Open it. Raises OSError."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(ANSWER_S)
        self.sock.connect(os.fspath(self._path))


class EnvoyAdmin:
    """Asks one Envoy."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def ask(self, method: str, target: str) -> str:
        """The body of its answer. Raises OSError where there is none, or none of success."""
        return await asyncio.to_thread(self._ask, method, target)

    def _ask(self, method: str, target: str) -> str:
        with closing(_Connection(self._path)) as connection:
            try:
                connection.request(method, target)
                response = connection.getresponse()
                body = response.read()
            except http.client.HTTPException as error:
                raise OSError(f"Envoy's answer to {method} {target} cannot be read: {error!r}") from error
        if response.status != HTTPStatus.OK:
            raise NotReady(f"Envoy answered {method} {target} with {response.status}")
        return body.decode()

    async def answers(self) -> bool:
        """Whether it answers anything at all, ready or not."""
        try:
            await self.ask("GET", "/ready")
        except NotReady:
            return True
        except OSError:
            return False
        return True

    async def is_ready(self) -> bool:
        """Whether it serves."""
        try:
            return (await self.ask("GET", "/ready")).strip() == "LIVE"
        except OSError:
            return False

    async def listens_at(self) -> str | None:
        """HOST:PORT of its listener; None: it has none. Raises OSError."""
        answer: Any = json.loads(await self.ask("GET", "/listeners?format=json"))
        for status in answer.get("listener_statuses", []):
            address = status["local_address"]["socket_address"]
            return host_port.joined(address["address"], int(address["port_value"]))
        return None

    async def stats(self, pattern: str) -> dict[str, str]:
        """Its counters whose names match. Raises OSError."""
        lines = (await self.ask("GET", f"/stats?filter={pattern}")).splitlines()
        return {name: value.strip().strip('"') for name, _, value in (line.partition(":") for line in lines)}

    async def requests_open(self) -> int:
        """How many requests of callers have begun and not ended. Raises OSError."""
        stats = await self.stats(re.escape("http.keyswap.downstream_rq_active") + "$")
        return sum(int(value) for value in stats.values())
