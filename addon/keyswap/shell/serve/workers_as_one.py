"""The workers of a gateway, answering commands and the admin listener as one gateway.

Law: counters of workers that have ended go on counting. A value that differs between workers is shown for each; the
gateway is ready while any of its workers is.
"""

import asyncio
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from keyswap.model import StateError
from keyswap.shell.admin.listener import AdminListener, KeyStoreRef, Settings
from keyswap.shell.admin.routes import serves
from keyswap.shell.metrics.definitions import Snapshot, merged
from keyswap.shell.metrics.prometheus import exposition
from keyswap.shell.serve.merge_status import merge_status
from keyswap.shell.serve.worker_process import WorkerHandle

logger = logging.getLogger(__name__)

_NO_WORKER = {"error": "no worker of this gateway answers: is it starting, overloaded or stopping?"}


class WorkerPool:
    """All workers, by their numbers."""

    def __init__(self, wanted: int, proxies: int, state: Path) -> None:
        """`proxies`: how many more there are, which only carry what an engine gives them."""
        self.wanted, self._proxies, self._state = wanted, proxies, state
        self.workers: dict[int, WorkerHandle] = {}
        self.restarts = 0
        self.stopping = False
        self.engine: Callable[[], dict[str, Any] | None] = lambda: None
        """What is in front of the workers, as `status` shows it; None: nothing."""
        self.admin = AdminListener(self)
        self._ended: Snapshot = {"values": {}}
        self._prefix = ""

    async def tend(self) -> None:
        """Poll every worker's heartbeat, and have the admin listener where the policy wants it: about once a second."""
        heartbeats = [beat for beat in await asyncio.gather(*(worker.poll() for worker in self._ready())) if beat]
        if heartbeats and not self.stopping:
            self._prefix = str(heartbeats[0]["prefix"])
            await self.admin.tend(_settings(heartbeats[0]["admin"]))

    def kill_unresponsive(self) -> None:
        """Kill workers that have hung for long."""
        for worker in self._ready():
            worker.kill_when_unresponsive()

    def forget(self, number: int) -> None:
        """Keep the counts of a worker that has ended."""
        worker = self.workers.pop(number, None)
        if worker is not None and worker.heartbeat:
            try:
                self._ended = merged([], [self._ended, worker.heartbeat["counts"]])
            except (LookupError, ValueError):
                logger.warning("what worker %d had counted is lost: it was of another version", worker.pid)

    async def answer(self, command: dict[str, Any]) -> dict[str, Any]:
        """The gateway's answer to a command."""
        if command.get("command") != "status":
            return await self._first(command)
        answers = await asyncio.gather(*(worker.request(command) for worker in self._responsive()))
        statuses = [answer for answer in answers if answer is not None and "error" not in answer]
        if not statuses:
            return next((answer for answer in answers if answer is not None), _NO_WORKER)
        proxies = {worker.pid for number, worker in self.workers.items() if number >= self.wanted}
        status = merge_status(statuses, proxies, os.getpid(), self.wanted, self.restarts)
        engine = self.engine()
        listen = {"listen": [engine["listen"]]} if engine is not None else {}
        return {**status, **listen, "engine": engine, "admin": self.admin.address}

    async def _first(self, command: dict[str, Any]) -> dict[str, Any]:
        """The answer of the first worker that gives one."""
        for worker in self._responsive():
            answer = await worker.request(command)
            if answer is not None:
                return answer
        return _NO_WORKER

    async def metrics(self, accept: str) -> tuple[bytes, str]:
        """The metrics of all workers, added up."""
        await asyncio.gather(*(worker.poll() for worker in self._responsive()))
        ours: Snapshot = {
            "values": {
                "keyswap_workers": [([], len(self.workers))],
                "keyswap_worker_restarts_total": [([], self.restarts)],
            }
        }
        if (engine := self.engine()) is not None:
            ours["values"]["keyswap_engine_restarts_total"] = [([], engine["restarts"])]
        counts = [worker.heartbeat["counts"] for worker in self._ready() if worker.heartbeat]
        whole = merged([ours, *counts], [self._ended])
        return await asyncio.to_thread(exposition, whole, accept)

    async def readiness(self) -> Mapping[str, str]:
        """Why no worker can serve; empty, or problems with which a worker serves all the same: one can."""
        if self.stopping:
            return {"gateway": "it is stopping"}
        if (engine := self.engine()) is not None and engine["pid"] is None:
            return {"engine": f"{engine['name']} does not run: another one is being started"}
        asked = [worker for worker in self._responsive() if worker in self.deciding]
        answers = await asyncio.gather(*(worker.request({"command": "readiness"}) for worker in asked))
        problems = [answer["reasons"] for answer in answers if answer is not None and "reasons" in answer]
        if not problems:
            return {"workers": "no worker answers"}
        serving = [reasons for reasons in problems if serves(reasons)]
        return {name: why for reasons in serving or problems for name, why in reasons.items()}

    @property
    def key_store(self) -> KeyStoreRef:
        """State directory and key prefix; the prefix is known once a worker has reported."""
        return KeyStoreRef(self._state, self._prefix)

    async def jwks(self) -> Mapping[str, Any]:
        """The signing keys' set, from any worker."""
        answer = await self._first({"command": "jwks"})
        if "error" in answer:
            raise StateError(str(answer["error"]))
        return answer

    def _responsive(self) -> list[WorkerHandle]:
        """The workers without those that hang: no request is to wait for one of these."""
        return [worker for worker in self._ready() if worker.silent_since is None]

    @property
    def begun(self) -> list[WorkerHandle]:
        """Those, and others that are about to."""
        return [worker for number, worker in sorted(self.workers.items()) if number < self.wanted]

    @property
    def deciding(self) -> list[WorkerHandle]:
        """Those that decide whatever comes."""
        return [worker for number, worker in sorted(self.workers.items()) if worker.is_ready and number < self.wanted]

    def _ready(self) -> list[WorkerHandle]:
        return [worker for _, worker in sorted(self.workers.items()) if worker.is_ready]


def _settings(wanted: Mapping[str, Any] | None) -> Settings | None:
    """The admin listener that a policy wants; its workers have checked the token before."""
    if wanted is None:
        return None
    token = os.environ.get(wanted["token_env"])
    if token is None:
        raise StateError(f"the environment variable {wanted['token_env']} is not set")
    return Settings(wanted["host"], wanted["port"], token.encode())
