"""What the tests of remote keys share: the source over a real client, towards a stand-in for WorkOS on a real socket."""

import asyncio
from collections.abc import Awaitable, Coroutine
from pathlib import Path
from typing import Any

from keyswap.keys.local.watch import DatabaseWatch
from keyswap.keys.local.writer import Ledger
from keyswap.keys.pepper import Pepper
from keyswap.keys.verify import Before, KeyVerifier
from keyswap.keys.workos.source import WorkosKeys
from keyswap.keys.workos.validation import Ages
from keyswap.model import Credential, Principal, Refuse, Request
from keyswap.state import Epochs, StateDirectory
from keyswap.workos.budget import Budget
from keyswap.workos.change_feed import Change
from keyswap.workos.client import WorkOSClient
from tests.keys.parts import NOW
from workos_standin import SECRET, Standin


class Clock:
    """Seconds that pass when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, wait_s: float) -> None:
        self.slept.append(wait_s)
        self.now += wait_s
        await asyncio.sleep(0)


class Remote:
    """A gateway's part in it. `url` is the stand-in's, or that of a proxy in front of it."""

    def __init__(self, path: Path, standin: Standin, url: str | None = None, clock: Clock | None = None,
                 budget: Budget | None = None, before: Before | None = None, size: int = 1000, **ages: float) -> None:  # fmt: skip
        self.standin = standin
        self.runner = asyncio.Runner()
        self.state = StateDirectory(path).open()
        self.epochs, self.pepper = Epochs(self.state), Pepper.load(self.state)
        self.watch = DatabaseWatch(self.state, self.epochs, self.pepper)
        given: dict[str, Any] = {"clock": clock, "sleep": clock.sleep} if clock is not None else {}
        self.workos = WorkOSClient(url or standin.url, SECRET, budget=budget, **given)
        given.pop("sleep", None)
        self.source = WorkosKeys(self.workos, self.watch, Ages(**ages), size=size, **given)
        self.verifier = KeyVerifier(self.source, self.watch, self.pepper, None, before, **given)

    def run(self, what: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(what)

    async def asking(self, value: str, now: float = NOW, client: str = "192.0.2.1") -> Principal | Refuse:
        """What the gate would be told."""
        return await self.verifier(Credential("key", value), Request("GET", b"/", (), client), now)

    def ask(self, value: str, now: float = NOW, client: str = "192.0.2.1") -> Principal | Refuse:
        """The same, with whatever goes on beside it come to its end."""

        async def asked() -> Principal | Refuse:
            answer = await self.asking(value, now, client)
            await self.settled()
            return answer

        answer = self.run(asked())
        assert isinstance(answer, Principal | Refuse)
        return answer

    def good(self, value: str, now: float = NOW) -> Principal:
        answer = self.ask(value, now)
        assert isinstance(answer, Principal), answer
        return answer

    def refused(self, value: str, now: float = NOW) -> Refuse:
        """The refusal, which never holds the value."""
        answer = self.ask(value, now)
        assert isinstance(answer, Refuse), answer
        assert value not in answer.reason
        return answer

    async def settled(self) -> None:
        """Until nothing is being asked."""
        while self.source._pending:
            await asyncio.wait([flight.task for flight in self.source._pending.values()])

    def forget(self, kind: str, of: str = "", ends: bool = True) -> None:
        self.source.forget(Change(kind, of, ends, NOW))

    def ledger(self) -> Ledger:
        return Ledger(self.state, Epochs(self.state), self.pepper, "ksw", busy_ms=20)

    def close(self) -> None:
        self.run(self.source.close())
        self.run(self.workos.close())
        self.runner.close()
        self.watch.close()
        self.epochs.close()


async def gathered(asked: list[Awaitable[Any]]) -> list[Any]:
    """All of them at once."""
    return list(await asyncio.gather(*asked))
