"""A worker process as its supervisor sees it.

Law: its end is noticed at once, however it came; what it had counted until about a second before is kept. One that
hangs is ended.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any

from keyswap.error_origin import origin
from keyswap.shell.serve.ipc import Channel

ANSWER_S = 4.0
"""How long a worker may take for an answer, before it is left out."""
SILENT_S = 30.0
"""How long a worker may answer nothing at all, before it is killed."""


class WorkerHandle:
    """One worker, from its start to its end. `log` writes a line of a process."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        channel: Channel,
        may_accept: Callable[[], bool],
        log: Callable[[int, str], None],
        requested: Callable[[dict[str, Any]], Coroutine[Any, Any, dict[str, Any]]],
    ) -> None:
        """`requested` answers what the worker asks."""
        self.process, self.channel, self._may_accept = process, channel, may_accept
        self._log, self._requested = partial(log, process.pid), requested
        self._answering: set[asyncio.Task[None]] = set()
        self.began = time.monotonic()
        self.ready: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.error: str | None = None
        self.silent_since: float | None = None
        """When it began to owe an answer, about; None: it answers."""
        self.misplaced: str | None = None
        """Why backends would not find the key set, as the worker reported when it became ready."""
        self.heartbeat: dict[str, Any] = {}
        """Its last report: its counts, and the admin listener that its policy wants."""

    async def read_events(self) -> None:
        """Read the worker's events until it has ended."""
        while (message := await self.channel.receive()) is not None:
            if message.get("event") == "ready" and not self.ready.done():
                self.misplaced = message.get("misplaced")
                self.ready.set_result(True)
                if self._may_accept():
                    self.channel.send({"go": True})
            elif message.get("event") == "failed":
                self.error = str(message.get("error"))
            elif message.get("event") == "log":
                self._log(str(message.get("line")))
            elif "request" in message:
                task = asyncio.get_running_loop().create_task(self._answer(message))
                self._answering.add(task)
                task.add_done_callback(self._answering.discard)
        self.channel.close()  # a worker that has sent what is no message ends by this
        await self.process.wait()
        if not self.ready.done():
            self.ready.set_result(False)

    async def _answer(self, message: dict[str, Any]) -> None:
        try:
            reply = await self._requested(message["body"])
        except Exception as error:  # noqa: BLE001 (a worker that gets no reply would wait for ever)
            reply = {"refused": origin(error)}
        self.channel.reply(message["request"], reply)

    async def request(self, command: dict[str, Any]) -> dict[str, Any] | None:
        """The worker's answer to a command; None: it gives none, or ends."""
        try:
            async with asyncio.timeout(ANSWER_S):
                answer = await self.channel.request(command)
        except TimeoutError:
            if self.is_ready:
                self.silent_since = self.silent_since or time.monotonic()
            return None
        except ConnectionError:
            return None
        self.silent_since = None
        return answer

    async def poll(self) -> dict[str, Any]:
        """The worker's heartbeat of now; its last one where it does not answer."""
        if self.is_ready:
            self.heartbeat = await self.request({"command": "heartbeat"}) or self.heartbeat
        return self.heartbeat

    def kill_when_unresponsive(self) -> None:
        """Kill the worker when it has hung for long: requests that it has would wait for ever."""
        if self.silent_since is not None and time.monotonic() - self.silent_since > SILENT_S:
            self.error = f"it hung for {SILENT_S:g} s, and was killed"
            self.kill()

    def kill_unless_ready(self, why: str) -> None:
        """Kill the worker if it never became ready."""
        if not self.ready.done():
            self.error = why
            self.kill()

    def kill(self) -> None:
        """Kill the worker's process."""
        with suppress(ProcessLookupError):
            self.process.kill()

    @property
    def pid(self) -> int:
        """The worker's process id."""
        return self.process.pid

    @property
    def is_ready(self) -> bool:
        """Whether it can be asked something: one that is starting would be waited for."""
        return self.ready.done() and self.ready.result()

    @property
    def exit_reason(self) -> str:
        """How the worker has ended, in words."""
        code = self.process.returncode or 0
        return self.error or (f"signal {-code}" if code < 0 else f"exit code {code}")
