"""Guarantees of the local store over several processes that share a state directory."""

import asyncio
import mmap
import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from keyswap.limits.limit import LimitRequest, LimitStoreUnavailable
from keyswap.limits.local.slot import NS
from tests.limits import killing
from tests.limits.parts import (
    Driver,
    asking,
    back,
    begin,
    closed,
    named,
    opened,
    places,
    plenty,
    put_down,
    quota,
    rate,
    said,
    spawn,
    told,
)

SUBJECT = "shared"


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[Driver]:
    with asyncio.Runner() as runner:
        found = opened(tmp_path, runner, wait_s=1)
        yield found
        closed(found)
        put_down()


def race(path: Path, seconds: float, *limits: str) -> list[tuple[int, int, int, int]]:
    """Four processes that pour for so long: how often each was admitted and tried, its begin and its end."""
    processes = [spawn("pouring", path, seconds, *limits) for _ in range(4)]
    begin(*processes)
    answers = [said(process).split() for process in processes]
    for process in processes:
        told(process)
    return [(int(one), int(two), int(three), int(four)) for one, two, three, four in answers]


@pytest.mark.timing
@pytest.mark.parametrize("kind", ["rate:5000:1:86400", "quota:5000:1:1"])
def test_processes_admit_what_one_bucket_holds_exactly(tmp_path: Path, driver: Driver, kind: str) -> None:
    """Four processes and one bucket: what is admitted is what it holds, exactly, and everybody had a share."""
    runs = race(tmp_path, 1.5, f"{kind}:{SUBJECT}")
    assert sum(tried for _, tried, _, _ in runs) > 5000
    assert sum(admitted for admitted, _, _, _ in runs) == 5000
    assert all(admitted for admitted, _, _, _ in runs)


@pytest.mark.timing
@pytest.mark.parametrize(("burst", "number"), [(1, 1000), (1, 10_000), (20, 3000)])
def test_processes_admit_no_more_than_burst_and_rate(tmp_path: Path, driver: Driver, burst: int, number: int) -> None:
    """Four processes and a bucket that drains while they pour: never more than burst + rate × time."""
    runs = race(tmp_path, 1, f"rate:{burst}:{number}:1:{SUBJECT}")
    window = max(end for _, _, _, end in runs) - min(start for _, _, start, _ in runs)
    admitted = sum(admitted for admitted, _, _, _ in runs)
    assert admitted <= burst + number * window / NS
    if number == 1000:
        assert admitted > 0.2 * number * window / NS, "and not next to nothing"


@pytest.mark.parametrize("order", [1, -1])
def test_processes_never_take_one_limit_without_the_other(tmp_path: Path, driver: Driver, order: int) -> None:
    """Two limits, one of them exhausted: the other holds what was admitted and not one more."""
    runs = race(tmp_path, 0.7, *[f"rate:700:1:86400:{SUBJECT}", f"quota:90000:1:1:{SUBJECT}"][::order])
    assert sum(admitted for admitted, _, _, _ in runs) == 700
    level = driver.level(asking(quota(90000), subject=named(quota(9), SUBJECT)))
    assert level
    assert level.level == 700


def test_processes_hold_no_more_places_than_there_are(tmp_path: Path, driver: Driver) -> None:
    """Four processes never hold more than there are places; when they are gone, however, none is held."""
    ask = asking(places(100, "concurrency"), subject=named(places(1, "concurrency"), SUBJECT))
    processes = [spawn("pouring", tmp_path, 0.5, f"concurrency:100:1:1:{SUBJECT}") for _ in range(4)]
    begin(*processes)
    assert sum(int(said(process).split()[0]) for process in processes) == 100
    assert driver.states(ask) == {ask.subject: 100}
    assert not driver.fits(ask)
    for process in processes[:2]:
        told(process)  # it closes its store
    for process in processes[2:]:
        process.kill()
        process.communicate()
    driver.tend()
    assert driver.states(ask) == {}
    assert driver.fill(ask) == 100


@pytest.mark.slow
@pytest.mark.timing
def test_two_hundred_killed_processes_grant_nothing(tmp_path: Path, driver: Driver) -> None:
    """Processes are killed in the middle of pours, 200 times: the others wait for nobody longer than 100 ms, no limit
    admits more than it should, what was admitted was counted, and in the end nothing is in flight.
    """
    (tmp_path / "tally").write_bytes(bytes(killing.ROWS * killing.SUBJECTS * 8))
    children = spawn("killing.killing", tmp_path, 200)
    begin(children)
    alone = opened(tmp_path / "alone", driver.runner)  # shows for how long the machine itself lets nobody run
    own, longest, machine, pours = asking(plenty()), 0.0, 0.0, 0
    flying = asking(places(killing.PLACES), subject=named(places(1), "all"))
    while children.poll() is None:
        for _ in range(50):
            longest = max(longest, took(driver, own))
            machine = max(machine, took(alone, own))
            pours += 1
        driver.tend()
        assert driver.states(flying).get(flying.subject, 0) <= killing.PLACES
    closed(alone)
    assert told(children) == "200"
    driver.tend()
    assert driver.states(flying) == {}
    assert driver.fill(flying) == killing.PLACES
    level = driver.level(own)
    assert level
    assert level.level == pours
    tally(tmp_path, driver)
    assert longest < 0.1 + 2 * machine


def took(driver: Driver, ask: LimitRequest) -> float:
    """How long a pour took, in seconds."""
    start = time.perf_counter()
    assert driver.fits(ask)
    return time.perf_counter() - start


def tally(path: Path, driver: Driver) -> None:
    """Compare what processes were told with what is counted: at most one pour a kill was not heard of."""
    with open(path / "tally", "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        words = memoryview(content).cast("q").tolist()
    unheard, used_up = 0, 0
    for number in range(killing.SUBJECTS):
        heard = sum(words[number :: killing.SUBJECTS])
        ask = asking(rate(killing.BURST), subject=named(rate(1), f"subject{number}"))
        level = driver.level(ask)
        counted = level.level if level else 0
        assert heard <= counted <= killing.BURST
        assert driver.fill(ask) == killing.BURST - counted
        unheard += counted - heard
        used_up += counted == killing.BURST
    assert unheard <= 200
    assert used_up > 10, "some were exhausted"


@pytest.mark.timing
def test_a_stopped_holder_of_the_lock_holds_no_process_up(tmp_path: Path, driver: Driver) -> None:
    """A process that is stopped while it holds the lock: others are told so within the wait, and go on after it."""
    ask, flying, wait_s = asking(plenty()), asking(places(9)), 0.1
    driver.store.wait(wait_s)
    holder = spawn("killing.stopping", tmp_path)
    for _ in range(3):
        held = driver.acquire(flying)
        begin(holder)
        os.waitid(os.P_PID, holder.pid, os.WSTOPPED)
        for allowed_s in (wait_s + 0.2, *[0.05] * 20):  # nobody queues behind it
            start = time.perf_counter()
            with pytest.raises(LimitStoreUnavailable):
                driver.fits(ask)
            assert time.perf_counter() - start < allowed_s
        back(held)
        os.kill(holder.pid, signal.SIGCONT)
        assert recovers(driver), "not within a second of its return"
        driver.tend()
        assert driver.states(flying) == {}
    assert driver.fits(ask)


def recovers(driver: Driver) -> bool:
    end = time.perf_counter() + 1
    while time.perf_counter() < end:
        with suppress(LimitStoreUnavailable):
            return driver.fits(asking(plenty()))
        time.sleep(0.01)
    return False
