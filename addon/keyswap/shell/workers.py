"""A worker process as its supervisor sees it.

Law: its end is noticed at once, however it came; what it had counted until about a second before is kept.
"""

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from keyswap.shell.channel import Channel

ANSWER_S = 4.0
"""How long a worker may take for an answer, before it is left out."""


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
        self.pulse: dict[str, Any] = {}
        """What it said last of itself: its counts, and the admin listener that its policy wants."""

    async def heed(self) -> None:
        """Hear what it says until it has ended."""
        while (said := await self.channel.heard()) is not None:
            if said.get("event") == "ready" and not self.ready.done():
                self.ready.set_result(True)
                if self._may_go():
                    self.channel.tell({"go": True})
            elif said.get("event") == "failed":
                self.error = str(said["error"])
            elif said.get("event") == "log":
                self._log(str(said["line"]))
        await self.process.wait()
        self.channel.close()
        if not self.ready.done():
            self.ready.set_result(False)

    async def ask(self, asked: dict[str, Any]) -> dict[str, Any] | None:
        """Its answer to a question; None: it has none, or ends."""
        try:
            async with asyncio.timeout(ANSWER_S):
                return await self.channel.ask(asked)
        except (TimeoutError, ConnectionError):
            return None

    async def feel(self) -> dict[str, Any]:
        """What it says of itself now; where it does not answer, what it said last."""
        if self.answers:
            self.pulse = await self.ask({"command": "pulse"}) or self.pulse
        return self.pulse

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
