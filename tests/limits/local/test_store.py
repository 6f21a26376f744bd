"""Guarantees of limits.local: the contract, and what a store in files adds to it."""

import asyncio
import fcntl
import os
import resource
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import pairwise
from pathlib import Path

import pytest

from keyswap.limits.limit import LimitStore, LimitStoreUnavailable
from keyswap.limits.local.slot import NS
from keyswap.limits.local.store import LocalLimits
from keyswap.limits.local.table import PAGE, SLOTS, Table
from keyswap.model import StateError
from keyswap.state import StateDirectory
from straight import straight
from tests.limits.contract import LimitStoreContract
from tests.limits.contract_clocked import ClockedStoreContract
from tests.limits.parts import NOW, Clock, Driver, asking, back, closed, opened, places, quota, rate

FILES = ["rates", "quotas", "inflight"]


class Local:
    @pytest.fixture
    def clock(self) -> Clock | None:
        return Clock()

    @pytest.fixture
    def store(self, tmp_path: Path, runner: asyncio.Runner, clock: Clock | None) -> Iterator[LimitStore]:
        driver = opened(tmp_path / "state", runner, clock)
        yield driver.store
        closed(driver)


class TestLocal(Local, LimitStoreContract):
    pass


class TestLocalInTime(Local, ClockedStoreContract):
    pass


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def two(tmp_path: Path, runner: asyncio.Runner, clock: Clock) -> Iterator[tuple[Driver, Driver]]:
    """Two stores that share nothing but their files and the time."""
    one, other = opened(tmp_path, runner, clock, 0.005), opened(tmp_path, runner, clock, 0.005)
    yield one, other
    for driver in (one, other):
        with suppress(OSError):  # closed by the test
            closed(driver)


def test_two_stores_count_together(two: tuple[Driver, Driver]) -> None:
    """Two stores on one folder, taking turns: rates, quotas and places are counted exactly."""
    for limit in (rate(9), quota(9), places(9)):
        ask = asking(limit)
        assert [two[turn % 2].fits(ask) for turn in range(12)] == [True] * 9 + [False] * 3
        assert two[0].states(ask) == two[1].states(ask) != {}


@pytest.mark.parametrize("lifetime_s", [1, 10**6], ids=["among the dead", "through splits"])
def test_many_new_names_at_once(two: tuple[Driver, Driver], clock: Clock, lifetime_s: int) -> None:
    """Requests of six limits that all count somebody new: each is counted where it belongs, though others move."""
    for turn in range(300):
        asks = [asking(rate(2, 1, lifetime_s)) for _ in range(4)] + [asking(quota(2)), asking(places(2))]
        poured = two[turn % 2].acquire(*asks)
        assert [level.level for level in poured.levels] == [1] * 6
        again = two[(turn + 1) % 2].acquire(*asks, dry=True)
        assert [level.level for level in again.levels] == [2] * 6
        back(poured)
        clock.go(0.5)


def test_known_callers_are_counted_where_their_entries_are_now(two: tuple[Driver, Driver], clock: Clock) -> None:
    """Callers who are known to both stores are counted exactly while others' new names move them, or take the places of
    those that have run empty."""
    lasting = [asking(rate(10**6, 1, 10**6)) for _ in range(60)]
    passing = [asking(rate(5, 1, 1)) for _ in range(60)]
    for turn in range(1, 12):
        for ask in lasting:
            assert two[turn % 2].acquire(ask).levels[0].level == 2 * turn - 1
            assert two[(turn + 1) % 2].acquire(ask).levels[0].level == 2 * turn
        for driver in two:
            assert all(driver.fits(ask) for ask in passing)
        clock.go(10)
        others = [asking(rate(9, 1, 1 if turn % 2 else 10**6), 3) for _ in range(150)]
        assert all(two[turn % 2].fits(ask) for ask in others)
        assert [two[0].acquire(ask).levels[0].level for ask in passing] == [1] * 60
        assert [two[1].acquire(ask, dry=True).levels[0].level for ask in others] == [6] * 150
        clock.go(10)


def test_a_killed_split_leaves_entries_where_they_are_found(
    two: tuple[Driver, Driver], tmp_path: Path, clock: Clock
) -> None:
    """Who is killed in the middle of a split leaves entries where they were: nobody who knew them there counts in them."""
    asks = [asking(rate(10**6)) for _ in range(SLOTS)]
    assert all(driver.fits(ask) for ask in asks for driver in two)
    before = (tmp_path / "rates").read_bytes()
    assert two[1].fits(asking(rate(9)))  # one more than a page holds
    with open(tmp_path / "rates", "r+b") as file:
        file.seek(PAGE)
        file.write(before[PAGE : 2 * PAGE])
    third = opened(tmp_path, two[0].runner, clock)
    assert [driver.acquire(ask).levels[0].level for ask in asks for driver in (two[0], third)] == [3, 4] * SLOTS
    closed(third)


def test_more_callers_than_are_remembered_are_counted_exactly(
    two: tuple[Driver, Driver], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Callers who have been forgotten since are counted like any other."""
    monkeypatch.setattr("keyswap.limits.limit.MOST_KNOWN", 10)
    asks = [asking(limit) for limit in (rate(9), quota(9), places(9)) for _ in range(10)]
    for turn in range(1, 5):
        assert [two[0].acquire(ask).levels[0].level for ask in asks] == [turn] * 30


def test_the_places_of_a_process_that_begins_later_are_counted(
    two: tuple[Driver, Driver], tmp_path: Path, clock: Clock
) -> None:
    """A store that is opened later is counted at once, and when it is closed its places are free."""
    ask = asking(places(3))
    assert two[0].fits(ask)
    third = opened(tmp_path, two[0].runner, clock)
    assert third.fill(ask) == 2
    assert not two[0].fits(ask)
    closed(third)
    assert two[1].fill(ask) == 2


def test_releasing_places_after_closing_changes_nothing(two: tuple[Driver, Driver], tmp_path: Path) -> None:
    """A request that ends after its store was closed (a reload) ends in peace, and touches nobody else's file."""
    ask = asking(places(5))
    poured = two[0].acquire(ask)
    closed(two[0])
    with ExitStack() as stack:
        others = [stack.enter_context(open(tmp_path / "unrelated", "ab")) for _ in range(8)]  # the numbers of its files
        back(poured)
        fcntl.flock(others[0], fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert two[1].fill(ask) == 5


def test_counters_outlive_their_processes(tmp_path: Path, runner: asyncio.Runner, clock: Clock) -> None:
    """Rates and quotas outlive the process; what was in flight does not."""
    asks = [asking(rate(9), 4), asking(quota(9), 4), asking(places(9))]
    first = opened(tmp_path, runner, clock)
    assert first.fits(*asks)
    before = first.states(*asks[:2])
    closed(first)
    second = opened(tmp_path, runner, clock)
    assert second.states(*asks) == before
    assert [second.fill(ask._replace(cost=1)) for ask in asks] == [5, 5, 9]
    closed(second)


def test_rates_begin_anew_after_a_boot_and_quotas_do_not(tmp_path: Path, runner: asyncio.Runner, clock: Clock) -> None:
    """What counts from another start of the machine is forgotten; what counts from the calendar is not."""
    rates, quotas = asking(rate(9)), asking(quota(9))
    first = opened(tmp_path, runner, clock)
    assert first.fits(rates, quotas)
    for number in range(200):  # several pages
        assert first.fits(asking(rate(9), subject=f"rate\x1fkey\x1f{number}"))
    closed(first)
    for name in ("rates", "inflight"):
        with open(tmp_path / name, "r+b") as file:
            file.seek(8)
            file.write(struct.pack("<q", 12345))
    second = opened(tmp_path, runner, clock)
    assert [stored.subject for stored in runner.run(second.store.held(NOW))] == [quotas.subject]
    assert [second.fill(rates), second.fill(quotas)] == [9, 8]
    closed(second)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("size", [0, 1, 8, 63, 100, 104, 4095, 4096, 4097, 8191, 8200])
def test_a_file_cut_short_stops_the_start(tmp_path: Path, runner: asyncio.Runner, name: str, size: int) -> None:
    """A file that was cut short stops the start, and is named; or it held nothing beyond and all is well."""
    first = opened(tmp_path, runner)
    for number in range(200):
        subject = f"x\x1fkey\x1f{number}"
        assert first.fits(*[asking(kind(9), subject=subject) for kind in (rate, quota, places)])
    closed(first)
    os.truncate(tmp_path / name, size)
    with pytest.raises(StateError, match=str(tmp_path / name)):
        LocalLimits(StateDirectory(tmp_path))


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("size", [1, 100, 4096, 8192])
def test_a_file_of_something_else_stops_the_start(tmp_path: Path, name: str, size: int) -> None:
    """A file that is none of ours stops the start, is named, and left as it was."""
    (tmp_path / name).write_bytes(b"some else's file" * (size // 16 + 1))
    content = (tmp_path / name).read_bytes()
    with pytest.raises(StateError, match=str(tmp_path / name)):
        LocalLimits(StateDirectory(tmp_path))
    assert (tmp_path / name).read_bytes() == content


@pytest.mark.parametrize("name", [*FILES, "limits.lock", "inflight.0"])
def test_a_file_that_cannot_be_opened_stops_the_start(tmp_path: Path, name: str) -> None:
    """A folder where a file should be stops the start, and is named; nothing stays open."""
    (tmp_path / name).mkdir()
    before = len(os.listdir("/dev/fd"))
    with pytest.raises(StateError, match=str(tmp_path / name)):
        LocalLimits(StateDirectory(tmp_path))
    assert len(os.listdir("/dev/fd")) == before


def test_files_are_their_owners_alone(two: tuple[Driver, Driver], tmp_path: Path) -> None:
    """Every file is the owner's alone."""
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}
    assert set(FILES) < {path.name for path in tmp_path.iterdir()}


def test_a_held_lock_is_not_waited_for_beyond_its_time(two: tuple[Driver, Driver], tmp_path: Path) -> None:
    """While somebody else sits on the lock nothing is poured; as soon as it is free everything goes on."""
    ask, flying = asking(rate(2)), asking(places(1))
    held = two[0].acquire(flying)
    with open(tmp_path / "limits.lock", "rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for _ in range(3):
            with pytest.raises(LimitStoreUnavailable, match="lock"):
                two[0].fits(ask)
        back(held)
        two[0].tend()
        assert two[0].store.status()["healthy"] is False
    assert two[0].fill(ask) == 2
    two[0].tend()
    assert two[0].store.status()["healthy"] is True
    assert two[1].fits(flying), "what ended meanwhile was given back"


@pytest.mark.parametrize("name", FILES)
def test_files_that_are_gone_refuse_everything(two: tuple[Driver, Driver], tmp_path: Path, name: str) -> None:
    """Somebody who removes or replaces a file is told so."""
    (tmp_path / name).rename(tmp_path / "elsewhere")
    two[0].tend()
    assert two[0].store.status()["healthy"] is False
    Table(tmp_path / name).close()
    two[0].tend()
    assert "restart" in str(two[0].store.status()["reason"])


@pytest.mark.parametrize("name", [*FILES, "inflight.0", "inflight.1"])
def test_files_cut_short_while_open_refuse_everything(two: tuple[Driver, Driver], tmp_path: Path, name: str) -> None:
    """Who finds its counters cut short counts no more, and what was counted does not begin anew."""
    asks = [asking(limit) for limit in (rate(9), quota(9), places(9))]
    assert two[0].fits(*asks)
    size = (tmp_path / name).stat().st_size
    os.truncate(tmp_path / name, 0)
    two[0].tend()
    assert two[0].store.status()["healthy"] is False
    with pytest.raises(LimitStoreUnavailable):
        two[0].fits(*asks)
    os.truncate(tmp_path / name, size)  # or what is mapped here would end this process


def test_a_caller_below_its_limits_is_found_again(two: tuple[Driver, Driver], clock: Clock) -> None:
    """The bucket of a caller that comes once a second stays where it is, though it has run empty and others come."""
    asks = [asking(rate(10, 10, 1)) for _ in range(300)]
    store = two[0].store
    assert isinstance(store, LocalLimits)
    for _ in range(3):
        for ask in asks:
            assert two[0].fits(ask)
        clock.go(1)
    known = [store._rates.find(store._rates.fingerprint(ask.subject)) for ask in asks]
    assert len(set(known)) == 300 and min(known) > 0
    assert two[0].states(*asks) == {}, "they are empty"


def test_a_full_disk_takes_the_place_of_empty_buckets(two: tuple[Driver, Driver], clock: Clock) -> None:
    """Where the file cannot grow, buckets that have just run empty make room for new callers."""
    with no_growth():
        for _ in range(30):
            assert all(two[0].fits(asking(rate(10, 10, 1))) for _ in range(100))
            clock.go(1)


@pytest.mark.parametrize("now", [1e11, 1e12, 7_300_000_000.0, -1.0, -1e11], ids=str)
def test_a_clock_outside_the_calendar_is_counted_all_the_same(
    two: tuple[Driver, Driver], clock: Clock, now: float
) -> None:
    """A clock in the year 5138 or before 1970 is no error, and no quota begins anew by it with each request."""
    clock.now = now
    for window in ("hour", "day", "month"):
        ask = asking(quota(3, window))
        assert [two[turn % 2].fits(ask) for turn in range(5)] == [True] * 3 + [False] * 2
        assert two[0].level(ask) is not None


def test_waiting_for_the_lock_grants_nothing(tmp_path: Path, two: tuple[Driver, Driver], clock: Clock) -> None:
    """Who waits for the lock while another fills the bucket empties nothing of it: burst + rate × time, no more."""
    ask, admitted = asking(rate(1, 1, 1)), list[int]()

    def pour(store: LimitStore) -> None:
        if straight(store.acquire((ask,), clock.now)).fits:
            admitted.append(clock.ns)

    def waiting() -> int:
        seen = clock.ns
        clock.go(0.1)
        try:
            pour(two[0].store)
        except LimitStoreUnavailable:  # the lock was there before the clock was read, so no time was lost
            return clock.ns
        return seen

    slow = LocalLimits(StateDirectory(tmp_path), 0.1, waiting)
    pour(slow)
    straight(slow.close())
    for _ in range(120):
        clock.go(0.01)
        pour(two[0].store)
    assert all(later - earlier >= NS for earlier, later in pairwise(admitted))


@contextmanager
def no_growth() -> Iterator[None]:
    """No file of this process may become longer than 128 KiB."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (128 << 10, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
