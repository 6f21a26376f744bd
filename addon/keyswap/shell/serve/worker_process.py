"""A worker process as its supervisor sees it.

Law: its end is noticed at once, however it came; what it had counted until about a second before is kept. One that
hangs is ended.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from keyswap.shell.serve.ipc import Channel

ANSWER_S = 4.0
"""How long a worker may take for an answer, before it is left out."""
SILENT_S = 30.0
"""How long a worker may answer nothing at all, before it is killed."""


class Worker:
    """One worker, from its start to its end. `log` says a line of a process."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        channel: Channel,
        may_go: Callable[[], bool],
        log: Callable[[int, str], None],
    ) -> None:
        self.process, self.channel, self._may_go = process, channel, may_go
        self._log = partial(log, process.pid)
        self.began = time.monotonic()
        self.ready: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.error: str | None = None
        self.silent_since: float | None = None
        """It owes an answer since about then; None: it gives them."""
        self.misplaced: str | None = None
        """Why backends would not find the key set, as it said when it became ready."""
        self.pulse: dict[str, Any] = {}
        """What it said last of itself: its counts, and the admin listener that its policy wants."""

    async def heed(self) -> None:
        """Hear what it says until it has ended."""
        while (said := await self.channel.heard()) is not None:
            if said.get("event") == "ready" and not self.ready.done():
                self.misplaced = said.get("misplaced")
                self.ready.set_result(True)
                if self._may_go():
                    self.channel.tell({"go": True})
            elif said.get("event") == "failed":
                self.error = str(said.get("error"))
            elif said.get("event") == "log":
                self._log(str(said.get("line")))
        self.channel.close()  # a worker that said what nobody understands ends by this
        await self.process.wait()
        if not self.ready.done():
            self.ready.set_result(False)

    async def ask(self, asked: dict[str, Any]) -> dict[str, Any] | None:
        """Its answer to a question; None: it has none, or ends."""
        try:
            async with asyncio.timeout(ANSWER_S):
                answer = await self.channel.ask(asked)
        except TimeoutError:
            if self.answers:
                self.silent_since = self.silent_since or time.monotonic()
            return None
        except ConnectionError:
            return None
        self.silent_since = None
        return answer

    async def feel(self) -> dict[str, Any]:
        """What it says of itself now; where it does not answer, what it said last."""
        if self.answers:
            self.pulse = await self.ask({"command": "pulse"}) or self.pulse
        return self.pulse

    def end_when_silent(self) -> None:
        """Kill it when it has hung for long: requests that it has would wait for ever."""
        if self.silent_since is not None and time.monotonic() - self.silent_since > SILENT_S:
            self.error = f"it hung for {SILENT_S:g} s, and was killed"
            self.kill()

    def give_up_unless_ready(self, why: str) -> None:
        """Kill it if it never became ready."""
        if not self.ready.done():
            self.error = why
            self.kill()

    def kill(self) -> None:
        """End it now."""
        with suppress(ProcessLookupError):
            self.process.kill()

    @property
    def pid(self) -> int:
        """Its process."""
        return self.process.pid

    @property
    def answers(self) -> bool:
        """Whether it can be asked something: one that is starting would be waited for."""
        return self.ready.done() and self.ready.result()

    @property
    def how(self) -> str:
        """How it has ended, in words."""
        code = self.process.returncode or 0
        return self.error or (f"signal {-code}" if code < 0 else f"exit code {code}")
