"""The workers of a gateway, as one: what commands and the admin listener are answered.

Law: counters of workers that have ended go on counting. What differs is told of each; the gateway is ready while any
of its workers is.
"""

import asyncio
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from keyswap.model import StateError
from keyswap.shell.admin.listener import AdminListener, Keeping, Settings
from keyswap.shell.admin.routes import serves
from keyswap.shell.metrics.definitions import Snapshot, merged
from keyswap.shell.metrics.prometheus import exposition
from keyswap.shell.serve.merge_status import together
from keyswap.shell.serve.worker_process import Worker

logger = logging.getLogger(__name__)

_NOBODY = {"error": "no worker of this gateway answers: is it starting, overloaded or stopping?"}


class Crew:
    """All workers, by their places, and what is asked of them together."""

    def __init__(self, wanted: int, state: Path) -> None:
        self.wanted, self._state = wanted, state
        self.workers: dict[int, Worker] = {}
        self.restarts = 0
        self.stopping = False
        self.admin = AdminListener(self)
        self._ended: Snapshot = {"values": {}}
        self._prefix = ""

    async def tend(self) -> None:
        """What is done about once a second: hear what was counted, and have the admin listener where it belongs."""
        pulses = [one for one in await asyncio.gather(*(worker.feel() for worker in self._all())) if one]
        if pulses and not self.stopping:
            self._prefix = str(pulses[0]["prefix"])
            await self.admin.tend(_settings(pulses[0]["admin"]))

    def end_the_silent(self) -> None:
        """Kill workers that have hung for long."""
        for worker in self._all():
            worker.end_when_silent()

    def forget(self, place: int) -> None:
        """A worker has ended."""
        worker = self.workers.pop(place, None)
        if worker is not None and worker.pulse:
            try:
                self._ended = merged([], [self._ended, worker.pulse["counts"]])
            except (LookupError, ValueError):
                logger.warning("what worker %d had counted is lost: it was of another version", worker.pid)

    async def answer(self, asked: dict[str, Any]) -> dict[str, Any]:
        """What the gateway as a whole answers a command."""
        if asked.get("command") != "status":
            return await self._first(asked)
        answers = await asyncio.gather(*(worker.ask(asked) for worker in self._awake()))
        found = [one for one in answers if one is not None and "error" not in one]
        if not found:
            return next((one for one in answers if one is not None), _NOBODY)
        whole = together(found, os.getpid(), self.wanted, self.restarts)
        return {**whole, "admin": self.admin.address}

    async def _first(self, asked: dict[str, Any]) -> dict[str, Any]:
        for worker in self._awake():
            found = await worker.ask(asked)
            if found is not None:
                return found
        return _NOBODY

    async def metrics(self, accept: str) -> tuple[bytes, str]:
        """The metrics of all workers, added up."""
        await asyncio.gather(*(worker.feel() for worker in self._awake()))
        ours: Snapshot = {
            "values": {
                "keyswap_workers": [([], len(self.workers))],
                "keyswap_worker_restarts_total": [([], self.restarts)],
            }
        }
        pulses = [worker.pulse["counts"] for worker in self._all() if worker.pulse]
        whole = merged([ours, *pulses], [self._ended])
        return await asyncio.to_thread(exposition, whole, accept)

    async def readiness(self) -> Mapping[str, str]:
        """Why no worker can serve; nothing, or what lets one serve all the same: one can."""
        if self.stopping:
            return {"gateway": "it is stopping"}
        answers = await asyncio.gather(*(worker.ask({"command": "readiness"}) for worker in self._awake()))
        reasons = [one["reasons"] for one in answers if one is not None and "reasons" in one]
        if not reasons:
            return {"workers": "no worker answers"}
        serving = [one for one in reasons if serves(one)]
        return {name: why for one in serving or reasons for name, why in one.items()}

    @property
    def keeping(self) -> Keeping:
        """Where keys are kept: the listener is there only when a worker has told how they begin."""
        return Keeping(self._state, self._prefix)

    async def jwks(self) -> Mapping[str, Any]:
        """The signing keys' set, from any worker."""
        found = await self._first({"command": "jwks"})
        if "error" in found:
            raise StateError(str(found["error"]))
        return found

    def _awake(self) -> list[Worker]:
        """Nobody is to wait for one that hangs."""
        return [worker for worker in self._all() if worker.silent_since is None]

    def _all(self) -> list[Worker]:
        return [worker for _, worker in sorted(self.workers.items()) if worker.answers]


def _settings(said: Mapping[str, Any] | None) -> Settings | None:
    """The admin listener that a policy wants; its workers have judged the token before."""
    if said is None:
        return None
    token = os.environ.get(said["token_env"])
    if token is None:
        raise StateError(f"the environment variable {said['token_env']} is not set")
    return Settings(said["host"], said["port"], token.encode())
