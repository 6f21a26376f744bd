"""Guarantees of limits.local.lock: whoever waits for the machine's lock keeps nobody else waiting."""

import asyncio
import fcntl
import os
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from keyswap.limits.limit import Acquired, LimitStoreUnavailable
from keyswap.limits.local.store import LocalLimits
from keyswap.state import StateDirectory
from tests.limits.parts import NOW, asking, places, quota, rate

PATIENCE_S = 0.4
LOOP_S = 0.05
"""The longest that the event loop may stand still, by law."""


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """The lock, as another process holds it that does not go on."""
    handle = os.open(folder / "limits.lock", os.O_RDWR)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


@asynccontextmanager
async def store(folder: Path, wait_s: float = PATIENCE_S) -> AsyncIterator[LocalLimits]:
    opened = LocalLimits(StateDirectory(folder).open(), wait_s)
    try:
        yield opened
    finally:
        await opened.close()


async def gap_while(working: "asyncio.Future[list[float | None]]") -> float:
    """The longest that the event loop stood still meanwhile, in seconds."""
    longest, last = 0.0, time.monotonic()
    while not working.done():
        await asyncio.sleep(0.001)
        now = time.monotonic()
        longest, last = max(longest, now - last), now
    return longest


@pytest.mark.timing
def test_the_loop_goes_on_while_requests_wait(tmp_path: Path) -> None:
    """While the lock is held for as long as the policy lets requests wait, all of them are refused after that time and
    none much later, what ends releases its places, and the event loop never stands still for more than 50 ms."""

    async def story() -> None:
        async with store(tmp_path) as limits:
            ending = [(await limits.acquire((asking(places(1)),), NOW)).reservation for _ in range(20)]

            async def refused() -> float:
                began = time.monotonic()
                with pytest.raises(LimitStoreUnavailable):
                    await limits.acquire((asking(rate(9)),), NOW)
                return time.monotonic() - began

            async def ended() -> None:
                while ending:
                    reservation = ending.pop()
                    assert reservation is not None
                    reservation.release()
                    await asyncio.sleep(0)
                await limits.tend(NOW)

            gaps = []
            for _ in range(3):  # a busy machine lets a process stand still now and then, the lock would each time
                with held(tmp_path):
                    working = asyncio.gather(*[refused() for _ in range(40)], ended())
                    gaps.append(await gap_while(working))
                    waits = [wait for wait in await working if wait is not None]
                    assert PATIENCE_S <= max(waits) < PATIENCE_S + 0.5
                    assert min([await refused() for _ in range(5)]) < LOOP_S, "nobody queues behind it"
                await asyncio.sleep(0.3)
            assert min(gaps) < LOOP_S
            await limits.tend(NOW)
            assert limits.status()["in_flight"] == 0
            assert (await limits.acquire((asking(rate(9)),), NOW)).fits

    asyncio.run(story())


def test_requests_that_waited_are_counted_exactly(tmp_path: Path) -> None:
    """Thirty requests wait for the lock and have it in the end: as many are admitted as there is room for."""
    asks = (asking(rate(25)), asking(quota(20)), asking(places(40)))

    async def story() -> None:
        async with store(tmp_path, 20) as limits:
            with held(tmp_path):
                waiting = [asyncio.create_task(limits.acquire(asks, NOW)) for _ in range(30)]
                await asyncio.sleep(0.05)
                assert not any(task.done() for task in waiting)
            acquired: list[Acquired] = await asyncio.gather(*waiting)
            assert sum(one.fits for one in acquired) == 20
            assert sorted(one.levels[0].level for one in acquired if one.fits) == list(range(1, 21))

    asyncio.run(story())


def test_a_request_that_leaves_while_it_waits_holds_nothing(tmp_path: Path) -> None:
    """A request whose caller leaves while it waits counts nothing, and those behind it have their turn."""
    ask = asking(rate(9))

    async def story() -> None:
        async with store(tmp_path, 20) as limits:
            with held(tmp_path):
                first, second = (asyncio.create_task(limits.acquire((ask,), NOW)) for _ in range(2))
                await asyncio.sleep(0.03)
                first.cancel()
                await asyncio.wait([first])
            assert (await second).levels[0].level == 1

    asyncio.run(story())


@pytest.mark.parametrize("end", ["closed", "gone"])
def test_a_store_that_ends_refuses_who_waits(tmp_path: Path, end: str) -> None:
    """Who waits for a store that is closed meanwhile, or whose files are gone, is refused at once and touches none."""

    async def story() -> None:
        async with store(tmp_path, 20) as limits:
            with held(tmp_path):
                waiting = [asyncio.create_task(limits.acquire((asking(rate(9)),), NOW)) for _ in range(3)]
                await asyncio.sleep(0.03)
                if end == "gone":
                    (tmp_path / "rates").rename(tmp_path / "elsewhere")
                    await limits.tend(NOW)
                else:
                    await limits.close()
                answers = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 5)
            assert [type(answer) for answer in answers] == [LimitStoreUnavailable] * 3

    asyncio.run(story())
