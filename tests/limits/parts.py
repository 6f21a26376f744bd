"""What the tests of limits share: limits, a clock that is told the time, a driver of stores, and other processes."""

import asyncio
import itertools
import os
import subprocess
import sys
import time
from pathlib import Path

from keyswap.limits.limit import SEPARATOR, Acquired, Kind, Limit, LimitRequest, LimitStore
from keyswap.limits.local.slot import NS
from keyswap.limits.local.store import LocalLimits
from keyswap.model import Level
from keyswap.state import StateDirectory

NOW = 1_800_000_000.0
"""2027-01-15 08:00:00 UTC."""
DAY_S = 86400
_numbers = itertools.count()


def rate(burst: int, number: int = 1, period_s: int = 30 * DAY_S, name: str = "rate") -> Limit:
    """A bucket that drains by nothing that a test would notice, unless said otherwise."""
    return Limit(name, Kind.RATE, burst, number, period_s)


def plenty() -> Limit:
    """A bucket that nobody fills."""
    return rate(10**6, 1, 3600)


def quota(capacity: int, window: str = "month", name: str = "quota") -> Limit:
    return Limit(name, Kind.QUOTA, capacity, window=window)


def places(capacity: int, name: str = "flight") -> Limit:
    return Limit(name, Kind.CONCURRENCY, capacity)


def named(limit: Limit, value: str | None = None) -> str:
    """A subject of this limit; nobody else's, unless a value is given."""
    return SEPARATOR.join((limit.name, "key", value or f"k{os.getpid()}.{time.monotonic_ns()}.{next(_numbers)}"))


def asking(limit: Limit, cost: int = 1, subject: str | None = None, enforced: bool = True) -> LimitRequest:
    """One limit of a request of a caller of its own."""
    return LimitRequest(limit, named(limit) if subject is None else subject, cost, enforced)


class Clock:
    """A machine's clocks: the monotonic one in nanoseconds, and the epoch second."""

    def __init__(self) -> None:
        self.ns, self.now = 10**15, NOW

    def __call__(self) -> int:
        return self.ns

    def go(self, seconds: float) -> None:
        self.ns += round(seconds * NS)
        self.now += seconds


class Driver:
    """A store, driven from tests that are no coroutines."""

    def __init__(self, store: LimitStore, runner: asyncio.Runner, clock: Clock | None = None) -> None:
        self.store, self.runner, self.clock = store, runner, clock
        self._same: dict[tuple[LimitRequest, ...], tuple[LimitRequest, ...]] = {}

    @property
    def now(self) -> float:
        return self.clock.now if self.clock else time.time()

    def acquire(self, *asks: LimitRequest, dry: bool = False) -> Acquired:
        asks = self._same.setdefault(asks, asks)  # as the step does, which makes a caller's asks once
        poured = self.runner.run(self.store.acquire(asks, self.now, dry))
        assert len(poured.levels) == len(asks)
        for ask, level in zip(asks, poured.levels, strict=True):
            assert (level.limit, level.kind, level.capacity) == (ask.limit.name, ask.limit.kind, ask.limit.capacity)
            assert 0 <= level.level <= level.capacity
            assert level.remaining == level.capacity - level.level
            assert level.full_in_s >= 0
            assert level.retry_after_s >= 0
        return poured

    def fits(self, *asks: LimitRequest) -> bool:
        return self.acquire(*asks).fits

    def fill(self, ask: LimitRequest) -> int:
        """Pour until it is refused; how often it was not."""
        return next(number for number in itertools.count() if not self.fits(ask))

    def states(self, *asks: LimitRequest) -> dict[str, int]:
        """The states, of these alone, as the store holds them."""
        wanted = {ask.subject for ask in asks}
        held = self.runner.run(self.store.held(self.now))
        found = [stored for stored in held if stored.subject in wanted]
        assert len({stored.subject for stored in found}) == len(found), "a bucket is listed twice"
        return {stored.subject: stored.state for stored in found}

    def level(self, ask: LimitRequest) -> Level | None:
        """How full its bucket is; None: it is empty."""
        state = self.states(ask).get(ask.subject)
        return None if state is None else self.store.level(ask.limit, state, self.now)

    def reset(self, *asks: LimitRequest) -> int:
        wanted = {ask.subject for ask in asks}
        held = self.runner.run(self.store.held(self.now))
        return self.runner.run(self.store.empty([one for one in held if one.subject in wanted], self.now))

    def tend(self) -> None:
        self.runner.run(self.store.tend(self.now))


def opened(path: Path, runner: asyncio.Runner, clock: Clock | None = None, wait_s: float = 0.1) -> Driver:
    """The local store of a state directory."""
    state = StateDirectory(path).open()
    return Driver(LocalLimits(state, wait_s, clock or time.monotonic_ns), runner, clock)


def closed(driver: Driver) -> None:
    driver.runner.run(driver.store.close())


def back(poured: Acquired) -> None:
    """The request has ended."""
    assert poured.reservation is not None
    poured.reservation.release()


# ---- Other processes: functions of this module, each called with the state directory and words


def spawn(name: str, path: Path, *words: object) -> subprocess.Popen[str]:
    """A process that runs a function of this module, or of `module.function` beside it."""
    module, _, function = name.rpartition(".")
    code = f"import sys, pathlib, tests.limits.{module or 'parts'} as m; m.{function}(pathlib.Path(sys.argv[1]), *sys.argv[2:])"
    root = Path(__file__).parents[2]
    env = {"PYTHONPATH": f"{root}:{root / 'tests/support'}:{root / 'addon'}", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", code, str(path), *map(str, words)]
    process = subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    _spawned.append(process)
    return process


_spawned: list[subprocess.Popen[str]] = []


def put_down() -> None:
    """Leave no process behind, however the test ended."""
    while _spawned:
        process = _spawned.pop()
        process.kill()
        if process.stdin and not process.stdin.closed:
            process.communicate()


def told(process: subprocess.Popen[str]) -> str:
    """What a process says in the end."""
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    return said.strip()


def ready() -> None:
    """Wait until the test says go."""
    print("ready", flush=True)
    sys.stdin.readline()


def said(process: subprocess.Popen[str]) -> str:
    """The next line that a process says."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def begin(*processes: subprocess.Popen[str]) -> None:
    """Let them all go at once."""
    for process in processes:
        assert said(process) == "ready"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()


def pouring(path: Path, seconds: str, *limits: str) -> None:
    """Pour into `kind:capacity:number:period_s:value` as fast as it goes; say how often it was admitted, and when."""
    asks = []
    for text in limits:
        kind, capacity, number, period_s, value = text.split(":")
        limit = Limit(kind, Kind(kind), int(capacity), int(number), int(period_s))
        asks.append(asking(limit, subject=named(limit, value)))
    with asyncio.Runner() as runner:
        driver = opened(path, runner, wait_s=5)
        ready()
        start, admitted, tried = time.monotonic_ns(), 0, 0
        while time.monotonic_ns() - start < float(seconds) * NS:
            tried += 1
            admitted += driver.fits(*asks)
        end = time.monotonic_ns()
        print(admitted, tried, start, end, flush=True)
        sys.stdin.readline()  # what is held is held until the test has looked
        closed(driver)
