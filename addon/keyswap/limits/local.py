"""The store `local`: counters in the state directory, shared by every gateway process of the machine.

Law: a request's limits are looked at and poured under one lock, all or none; what a process had poured when it was
killed stays poured, what it held in flight is given back. Rates drain on the machine's monotonic clock, which nobody
sets; quotas follow the calendar. The files outlive the processes, and rates a restart, but not the machine's.
"""

import asyncio
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

from keyswap.limits import bucket
from keyswap.limits.limit import (
    SEPARATOR,
    WINDOWS_S,
    Ask,
    Kind,
    Limit,
    Poured,
    Stored,
    Unavailable,
    count_level,
    rate_level,
)
from keyswap.limits.lock import MachineLock
from keyswap.limits.places import Places
from keyswap.limits.table import SHARED, Table
from keyswap.limits.windows import HOUR_S, end_hour
from keyswap.model import Damage, Level
from keyswap.state import StateDirectory

NS = 1_000_000_000
_COUNT_BITS = 42
_COUNT = (1 << _COUNT_BITS) - 1
"""A quota's number holds the hour at which its window ends, and below it how much of it is used."""
_PAGES = 64
"""Pages that are looked through at once when everything is listed: about 2,000 buckets, some milliseconds."""
_NAMED_NS = 3600 * NS
"""How long the name of a place in flight is remembered, to be listed."""


class _Held:
    """The places of one request."""

    __slots__ = ("_numbers", "_store")

    def __init__(self, store: "LocalLimits", numbers: list[int]) -> None:
        self._store, self._numbers = store, numbers

    def give_back(self) -> None:
        """The request has ended."""
        numbers, self._numbers = self._numbers, []
        if numbers:
            self._store.give_back(numbers)


class _Reading:
    """One ask, as it stands."""

    __slots__ = ("after", "ask", "fingerprint", "fits", "state", "table", "where")

    def __init__(self, ask: Ask, table: Table, fingerprint: bytes) -> None:
        self.ask, self.table, self.fingerprint = ask, table, fingerprint
        self.where, self.state, self.after, self.fits = -1, 0, 0, True


class LocalLimits:
    """Counts in files of the state directory. `clock` counts nanoseconds, the same in every process."""

    def __init__(
        self, state: StateDirectory, wait_s: float = 0.1, clock: Callable[[], int] = time.monotonic_ns
    ) -> None:
        """Open them, making them on first use. Raises Damage."""
        self._clock = clock
        self._lock = MachineLock(state.file("limits.lock"), wait_s)
        self._late: list[int] = []
        self._unwell: str | None = None
        self._gone: str | None = None
        with ExitStack() as undo:
            undo.callback(self._lock.close)
            with self._held_lock():
                self._rates = undo.enter_context(closing(Table(state.file("rates"), boot())))
                self._quotas = undo.enter_context(closing(Table(state.file("quotas"))))
                self._names = undo.enter_context(closing(Table(state.file("inflight"), boot())))
                self._places = Places(state.path)
                self._roster = self._names.words[SHARED] = self._names.words[SHARED] + 1
            undo.pop_all()
        self._named = self._clock()
        self._closed = False
        self._tables = {Kind.RATE: self._rates, Kind.QUOTA: self._quotas, Kind.CONCURRENCY: self._names}

    @contextmanager
    def _held_lock(self) -> Iterator[None]:
        """The lock, at a start: Damage where it can't be had."""
        try:
            with self._lock:
                yield
        except Unavailable as error:
            raise Damage(f"limits can't be counted: {error}; end the process that holds limits.lock") from error

    def wait(self, wait_s: float) -> None:
        """Wait so long for other processes from now on."""
        self._lock.wait_s = wait_s

    async def pour(self, asks: tuple[Ask, ...], now: float, dry: bool = False) -> Poured:
        """Pour all asks or none; never waits for anything but the lock."""
        if self._gone is not None:
            raise Unavailable(self._gone)
        with self._lock:
            clock = self._clock()  # not before: whoever had the lock meanwhile has seen a later time
            readings, fits, all_fit, all_there = [], True, True, True
            for ask in asks:
                reading = self._read(ask, clock, now)
                readings.append(reading)
                if not reading.fits:
                    all_fit = False
                    fits = fits and not ask.enforced
                if reading.where < 0:
                    all_there = False
            place = None
            if not dry:
                if not all_there:
                    self._place(readings, clock, now)
                if fits:
                    place = self._write(readings, clock)
                if not all_fit:
                    self._mend(readings, clock)
        return Poured(fits, tuple([self._level(reading, clock, now, fits) for reading in readings]), place)

    # ---- Under the lock

    def _read(self, ask: Ask, clock: int, now: float) -> _Reading:
        kind = ask.limit.kind
        table = self._tables[kind]
        name = _name(ask) if kind is Kind.QUOTA else ask.subject
        fingerprint = table.known.get(name) or table.fingerprint(name)
        reading = _Reading(ask, table, fingerprint)
        reading.where = where = table.find(fingerprint)
        reading.state = table.words[where] if where >= 0 else 0
        if kind is Kind.RATE:
            interval = ask.limit.interval_ns
            after = bucket.pour(reading.state, clock, interval, interval * ask.limit.capacity, ask.cost)
        elif kind is Kind.QUOTA:
            after = self._count(reading, now)
        else:
            after = self._in_flight(reading)
        reading.fits = after is not None
        reading.after = reading.state if after is None else after
        return reading

    def _in_flight(self, reading: _Reading) -> int | None:
        """How many would be in flight with this one."""
        if self._names.words[SHARED] != self._roster:
            self._places.survey()
            self._roster = self._names.words[SHARED]
        if self._places.full(8):
            raise Unavailable("this process holds as many places in flight as it can")
        reading.state = self._places.count(reading.fingerprint)
        return reading.state + 1 if reading.state < reading.ask.limit.capacity else None

    def _count(self, reading: _Reading, now: float) -> int | None:
        """The state of a quota after this ask. A window that is not over stays, also when the clock steps back."""
        limit, cost = reading.ask.limit, reading.ask.cost
        if reading.state >> _COUNT_BITS <= now // HOUR_S:
            reading.state = end_hour(limit.window, now) << _COUNT_BITS
        used = (reading.state & _COUNT) + cost
        return reading.state + cost if used <= limit.capacity or not cost else None

    def _place(self, readings: list[_Reading], clock: int, now: float) -> None:
        """Make the entries that are missing, before anything is poured: making them may fail, and move others."""
        try:
            self._make(readings, clock, now)
        except OSError as error:
            raise Unavailable(f"counters cannot grow: {error.strerror or error}") from error

    def _make(self, readings: list[_Reading], clock: int, now: float) -> None:
        moved = True
        while moved:
            before = [table.pages for table in self._tables.values()]
            taken: dict[Table, set[int]] = {table: set() for table in self._tables.values()}
            for reading in readings:
                table = reading.table
                reading.where = table.find(reading.fingerprint)
                if reading.where < 0:
                    dead = self._dead(table, clock, now)
                    reading.where = table.make(reading.fingerprint, _name(reading.ask), dead, taken[table])
                taken[table].add(reading.where)
            moved = [table.pages for table in self._tables.values()] != before

    def _dead(self, table: Table, clock: int, now: float) -> int:
        """Numbers of this table up to this one mean nothing any more."""
        return ((int(now // HOUR_S) + 1) << _COUNT_BITS) - 1 if table is self._quotas else clock

    def _write(self, readings: list[_Reading], clock: int) -> _Held | None:
        numbers: list[int] = []
        for reading in readings:
            if not reading.fits:
                continue
            if reading.ask.limit.kind is Kind.CONCURRENCY:
                reading.table.words[reading.where] = clock + _NAMED_NS
                numbers.append(self._places.take(reading.fingerprint))
            elif reading.ask.cost:
                reading.table.words[reading.where] = reading.after
        return _Held(self, numbers) if numbers else None

    def _mend(self, readings: list[_Reading], clock: int) -> None:
        """A bucket that is fuller than full, by a clock's step back or a smaller limit, begins to drain."""
        for reading in readings:
            if not reading.fits and reading.ask.limit.kind is Kind.RATE:
                span = reading.ask.limit.interval_ns * reading.ask.limit.capacity
                if reading.state > clock + span:
                    reading.table.words[reading.where] = clock + span

    # ---- What it says

    def _level(self, reading: _Reading, clock: int, now: float, poured: bool) -> Level:
        ask, limit = reading.ask, reading.ask.limit
        state = reading.after if poured and reading.fits else reading.state
        if limit.kind is Kind.RATE:
            interval = limit.interval_ns
            span = interval * limit.capacity
            full_in = (state if clock <= state <= clock + span else bucket.bounded(state, clock, span)) - clock
            wait = 0 if reading.fits else bucket.wait(state, clock, interval, span, ask.cost)
            return rate_level(limit, (span - full_in) // interval, full_in / NS, wait / NS)
        if limit.kind is Kind.CONCURRENCY:
            return count_level(limit, state, 0.0, 0.0 if reading.fits else 1.0)
        ends = (state >> _COUNT_BITS) * HOUR_S - now
        return count_level(limit, state & _COUNT, ends, 0.0 if reading.fits else ends)

    def level(self, limit: Limit, state: int, now: float) -> Level:
        """The level of a bucket with this state; of a place in flight the state is how many there are."""
        reading = _Reading(Ask(limit, "", 0), self._rates, b"")
        reading.state = state
        return self._level(reading, self._clock(), now, False)

    # ---- Beside the requests

    def give_back(self, numbers: list[int]) -> None:
        """These places are held no longer; if the lock can't be had now, they are given back a little later."""
        if self._closed:
            return
        self._late += numbers
        with suppress(Unavailable), self._lock:
            while self._late:
                self._places.give_back(self._late.pop())

    async def held(self, now: float) -> list[Stored]:
        """Every bucket that is not empty, looked for a few pages at a time: others pour meanwhile."""
        found: dict[tuple[Kind, bytes], Stored] = {}
        for kind, table in self._tables.items():
            first = 0
            while first < table.pages:
                with self._lock:
                    pages = range(first, min(first + _PAGES, table.pages))
                    found |= {(kind, one.handle): one for one in self._listed(kind, table, pages, now)}
                first += _PAGES
                await asyncio.sleep(0)
        return list(found.values())

    def _listed(self, kind: Kind, table: Table, pages: range, now: float) -> list[Stored]:
        dead = self._dead(table, self._clock(), now)
        rows = table.alive(dead, pages)
        if kind is Kind.RATE:
            return [Stored(name, state, kind, "", fingerprint) for name, fingerprint, state in rows]
        if kind is Kind.QUOTA:
            return [Stored(*_without_window(name, state), fingerprint) for name, fingerprint, state in rows]
        self._places.survey()
        counted = [(name, fingerprint, self._places.count(fingerprint)) for name, fingerprint, _ in rows]
        return [Stored(name, count, kind, "", fingerprint) for name, fingerprint, count in counted if count]

    async def empty(self, buckets: list[Stored], now: float) -> int:
        """Empty these."""
        emptied = 0
        with self._lock:
            clock = self._clock()
            for bucket_ in buckets:
                table = self._tables[bucket_.kind]
                where = table.find(bucket_.handle) if bucket_.kind is not Kind.CONCURRENCY else -1
                if where >= 0 and table.words[where] > self._dead(table, clock, now):
                    table.words[where] = 0
                    emptied += 1
        return emptied

    async def tend(self, now: float) -> None:  # noqa: ARG002, a store with a clock of its own
        """Give back the places of processes that have ended, and those that could not be given back before."""
        in_place = [table.in_place() for table in self._tables.values()]
        if self._gone or not all((*in_place, self._places.in_place(), self._lock.in_place())):
            self._gone = self._unwell = "the counters' files were replaced or are gone: restart the gateway"
            return
        self._unwell = None
        try:
            with self._lock:
                self._places.survey()
                self._places.reclaim()
                self._name_held()
        except Unavailable as error:
            self._unwell = str(error)
        self.give_back([])

    def _name_held(self) -> None:
        """Let what lasts for long go on being listed."""
        clock = self._clock()
        if clock - self._named < _NAMED_NS // 2:
            return
        self._named = clock
        for fingerprint in self._places.own():
            where = self._names.find(fingerprint)
            if where >= 0:
                self._names.words[where] = clock + _NAMED_NS

    def flush(self) -> None:
        """Let the disk have what was counted, quotas above all."""
        self._quotas.flush()

    def status(self) -> dict[str, object]:
        """What `keyswap status` says of it."""
        pages = sum([table.pages for table in self._tables.values()])
        return {
            "store": "local",
            "healthy": self._unwell is None,
            "reason": self._unwell,
            "in_flight": self._places.held,
            "bytes": pages * 4096,
        }

    async def close(self) -> None:
        """Give back what is held, and the files. Doing it again changes nothing."""
        if self._closed:
            return
        self._closed = True
        self._places.close()
        for table in self._tables.values():
            table.close()
        self._lock.close()


def _name(ask: Ask) -> str:
    """What an ask's bucket is called. A quota of another window is another one: a month's says nothing of an hour."""
    return ask.subject + SEPARATOR + ask.limit.window if ask.limit.kind is Kind.QUOTA else ask.subject


def _without_window(name: str, state: int) -> tuple[str, int, Kind, str]:
    subject, _, window = name.rpartition(SEPARATOR)
    return (subject, state, Kind.QUOTA, window) if window in WINDOWS_S else (name, state, Kind.QUOTA, "")


def boot() -> int:
    """What tells one run of the machine from another: its monotonic clock begins anew with each."""
    try:
        text = Path("/proc/sys/kernel/random/boot_id").read_text()
    except OSError:
        text = ""
    if not text and sys.platform == "darwin":
        words = ["/usr/sbin/sysctl", "-n", "kern.bootsessionuuid"]
        text = subprocess.run(words, capture_output=True, text=True, check=False).stdout
    with suppress(ValueError):
        return uuid.UUID(text.strip()).int >> 66
    return 1
