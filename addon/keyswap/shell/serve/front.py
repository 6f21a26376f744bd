"""What stands before the workers: nothing, where callers reach them by the supervisor's socket; or an engine.

Law: callers are answered only when the workers are ready; at a stop the front ends first, then the workers.
"""

import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from keyswap.limits.local.in_flight import KeptFile
from keyswap.shell.engine.envoy import Envoy
from keyswap.shell.engine.needs import EngineNeeds
from keyswap.shell.serve.listen_socket import address_of
from keyswap.state import StateDirectory

MOST_TOLD = 200
"""Lines of requests that no worker has decided, of each reading of the pipe, that become decision lines."""


class Front:
    """Callers reach the workers' own socket."""

    def __init__(self, listening: socket.socket) -> None:
        self._listening = listening

    async def start(self) -> None:
        """Begin. Raises StateError."""

    async def tend(self) -> None:
        """Called about once a second."""

    async def stop(self, grace_s: float) -> None:
        """Let what has begun end for so long, and end."""

    def kill(self) -> None:
        """End at once."""

    async def requested(self, _message: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to what a worker asks."""
        return {"refused": "there is no engine in front of this gateway"}

    def kept(self, _number: int) -> tuple[int, int] | None:
        """The file of places in flight that a worker has of the one before it; None: they end with a worker."""
        return None

    @property
    def generation(self) -> int:
        """How many engines have ended."""
        return 0

    @property
    def address(self) -> str:
        """Where callers connect."""
        return address_of(self._listening)

    @property
    def status(self) -> dict[str, Any] | None:
        """What the command `status` says of it; None: nothing."""
        return None


class EngineFront(Front):
    """Envoy is in front. `tell` sends a message to all workers, or to so many."""

    def __init__(
        self, listening: socket.socket, envoy: Envoy, tell: Callable[[dict[str, Any], int | None], None], state: Path
    ) -> None:
        """`state`: the state directory."""
        super().__init__(listening)
        self._envoy, self._tell, self._state = envoy, tell, state
        self._kept: dict[int, KeptFile] = {}

    async def start(self) -> None:
        """Start Envoy. Raises StateError."""
        self._envoy.undecided.follow(self._undecided)
        await self._envoy.start(lambda: self._tell({"engine": self.generation}, None))

    def _undecided(self, lines: list[str]) -> None:
        """Tell workers of requests that none has decided.

        Each line is `NAME STATUS FLAGS NANOSECONDS PEER METHOD PATH DETAILS`. Whatever has ended so may have been
        admitted meanwhile, by whichever worker. What Envoy has refused by itself becomes a decision line.
        """
        parts = [part for part in (line.split(" ", 7) for line in lines) if len(part) == 8]
        left = [part[0] for part in parts if part[1] == "0"]
        refused = [part for part in parts if part[1] >= "400" and part[-1] != "via_upstream"]
        if left:
            self._tell({"left": left}, None)
        if refused:
            self._tell({"withdrawn": [part[0] for part in refused if part[0] != "-"]}, None)
        if refused:
            self._tell({"refused": refused[:MOST_TOLD]}, 1)

    async def tend(self) -> None:
        """Look whether it answers."""
        await self._envoy.tend()

    async def stop(self, grace_s: float) -> None:
        """Let it drain, and end it."""
        await self._envoy.stop(grace_s)

    def kill(self) -> None:
        """End it as it is."""
        self._envoy.kill()

    async def requested(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """A worker has a policy: Envoy is to do what it needs."""
        needs, tls = EngineNeeds.of(message["needs"]), message["tls"]
        return {"refused": await self._envoy.files.take(message["worker"], needs, tuple(tls) if tls else None)}

    def kept(self, number: int) -> tuple[int, int]:
        """The file of this worker and of those that take its place: what it holds is held while Envoy goes on.

        Raises StateError.
        """
        if number not in self._kept:
            self._kept[number] = KeptFile.claim(StateDirectory(self._state).open().path)
        return self._kept[number]

    @property
    def generation(self) -> int:
        """How many Envoys have ended."""
        return self._envoy.restarts

    @property
    def address(self) -> str:
        """Where Envoy listens."""
        return self._envoy.address or ""

    @property
    def status(self) -> dict[str, Any]:
        """Its process."""
        return {
            "name": "envoy",
            "version": self._envoy.version,
            "listen": self.address,
            "pid": self._envoy.pid,
            "restarts": self._envoy.restarts,
        }
