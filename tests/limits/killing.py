"""Processes that are killed, and one whose disk is full: what tests let run beside them."""

import asyncio
import itertools
import mmap
import os
import random
import resource
import shutil
import signal
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from types import CodeType, FrameType
from typing import TYPE_CHECKING

from keyswap.limits.limit import Acquired, LimitRequest, LimitStoreUnavailable
from keyswap.limits.local.in_flight import InFlight
from keyswap.limits.local.lock import MachineLock
from tests.limits.parts import asking, back, closed, named, opened, places, quota, rate, ready

if TYPE_CHECKING:
    from _typeshed import TraceFunction

ROWS, SUBJECTS, BURST, PLACES = 3, 300, 40, 20
"""Processes at once; what they pour into; how much each holds; how many may be in flight."""


def killing(path: Path, kills: str) -> None:
    """Keep three processes pouring, and kill one after the other at random moments."""
    with open(path / "tally", "r+b") as file:
        tally = mmap.mmap(file.fileno(), 0)
    chance = random.Random(7)
    ready()
    running = [_begin(path, tally, row, row) for row in range(ROWS)]
    for number in range(int(kills)):
        time.sleep(chance.uniform(0.002, 0.05))
        row = number % ROWS
        os.kill(running[row], signal.SIGKILL)
        os.waitpid(running[row], 0)
        running[row] = _begin(path, tally, row, number + ROWS) if number < int(kills) - ROWS else 0
    print(kills, flush=True)


def _begin(path: Path, tally: mmap.mmap, row: int, seed: int) -> int:
    pid = os.fork()
    if not pid:
        try:
            _pour(path, memoryview(tally).cast("q")[row * SUBJECTS : (row + 1) * SUBJECTS], random.Random(seed))
        finally:
            os._exit(1)
    return pid


def _pour(path: Path, heard: "memoryview[int]", chance: random.Random) -> None:
    runner = asyncio.Runner()
    driver = opened(path, runner)
    flying: list[Acquired] = []
    every = asking(places(PLACES), subject=named(places(1), "all"))
    for turn in itertools.count():
        number = min(chance.randrange(SUBJECTS), chance.randrange(SUBJECTS), chance.randrange(SUBJECTS))
        ask = asking(rate(BURST), subject=named(rate(1), f"subject{number}"))
        with suppress(LimitStoreUnavailable):
            poured = driver.acquire(ask, every) if turn % 3 else driver.acquire(ask)
            heard[number] += poured.fits
            if poured.reservation:
                flying.append(poured)
        if flying and (len(flying) > 8 or chance.random() < 0.3):
            back(flying.pop(chance.randrange(len(flying))))


def stopping(path: Path) -> None:
    """Stop while holding the machine's lock, as often as the test says so."""
    lock = MachineLock(path / "limits.lock", 5)
    while True:
        ready()
        with lock.within(5):
            os.kill(os.getpid(), signal.SIGSTOP)


def holding(path: Path, count: str) -> None:
    """Hold so many places until the process is killed."""
    own = InFlight(path)
    ready()
    for _ in range(int(count)):
        own.take(b"\x01" * 8)
    print("held", flush=True)
    sys.stdin.read()


def filling(path: Path) -> None:
    """Pour for ever more callers where files can't grow; whoever is not counted leaves no trace."""
    with asyncio.Runner() as runner:
        driver = opened(path, runner)
        resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, resource.RLIM_INFINITY))
        known = [asking(rate(50)), asking(quota(50))]
        assert driver.fits(*known)
        refused, poured = 0, 0
        for number in range(20_000):
            asks = [asking(rate(9)), asking(quota(10**9), subject=named(quota(9), f"{number % 300}"))]
            try:
                assert driver.fits(*asks)
                poured += 1
            except LimitStoreUnavailable:
                refused += 1
                assert asks[0].subject not in driver.states(asks[0])
                if refused > 20:
                    break
        assert refused > 20, "the disk was never full"
        assert poured > 1000
        assert driver.fill(known[0]) == 49
        assert driver.fits(known[1])
        counted = runner.run(driver.store.held(driver.now))
        assert sum(stored.subject.startswith("rate") for stored in counted) == poured + 1
        used = [
            driver.store.level(quota(10**9), one.state, driver.now).level for one in counted if one.subject[0] == "q"
        ]
        assert sum(used) == poured + 2, "a request that was not counted was counted in its quota"
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        assert driver.fits(asking(rate(9)), asking(quota(9))), "there is room again"
        closed(driver)
    print("well")


def dying(path: Path, what: str) -> None:
    """Be killed at the first line of the store's code, the second, and so on to the last; look at the file each time."""
    known = [asking(rate(2)) for _ in range(0 if what == "opening" else 42)]
    fresh = [asking(rate(9)), asking(quota(9)), asking(places(9))]
    with asyncio.Runner() as runner:
        if known:
            template = opened(path / "template", runner)
            assert all(template.fits(ask) for ask in known)
            closed(template)
        for line in itertools.count(1):
            folder = path / str(line)
            if known:
                shutil.copytree(path / "template", folder)
            pid = os.fork()
            if not pid:
                _die(folder, fresh, line, bool(known))
            survived = os.waitpid(pid, 0)[1] == 0
            driver = opened(folder, runner)
            driver.tend()
            states = driver.states(*known, *fresh)
            assert all(ask.subject in states for ask in known), f"lost at line {line}"
            assert fresh[2].subject not in states
            for ask in fresh[:2]:
                assert driver.fill(ask) in ((8,) if survived else (8, 9)), f"wrong at line {line}"
            assert all(driver.fits(ask) and not driver.fits(ask) for ask in known), f"drained at line {line}"
            closed(driver)
            shutil.rmtree(folder)
            if survived:
                print("well")
                return


def _die(folder: Path, asks: list[LimitRequest], line: int, late: bool) -> None:
    left, driver, seen = line, None, Counter[tuple[CodeType, int]]()

    def trace(frame: FrameType, event: str, _: object) -> "TraceFunction | None":
        nonlocal left
        if "keyswap/limits" not in frame.f_code.co_filename:
            return None
        if event == "line":
            place = frame.f_code, frame.f_lineno
            seen[place] += 1
            left -= seen[place] <= 2  # loops go round twice for every purpose here
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    runner = asyncio.Runner()
    runner.get_loop()
    if late:
        driver = opened(folder, runner)
    sys.settrace(trace)
    driver = driver or opened(folder, runner)
    back(driver.acquire(*asks))
    sys.settrace(None)
    os._exit(0)
