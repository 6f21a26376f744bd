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
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

from keyswap.limits.limit import (
    SEPARATOR,
    WINDOWS_S,
    Kind,
    Limit,
    LimitRequest,
    Poured,
    Stored,
    Unavailable,
    new,
    remember,
)
from keyswap.limits.local.in_flight import Places
from keyswap.limits.local.lock import MachineLock
from keyswap.limits.local.slot import (
    COUNT_BITS,
    NAMED_NS,
    PlaceReading,
    QuotaReading,
    RateReading,
    Reading,
    bucket_name,
)
from keyswap.limits.local.table import SHARED, Table
from keyswap.limits.windows import hour_of
from keyswap.model import Level, StateError
from keyswap.state import StateDirectory

REUSE_NS = 60_000_000_000
"""So long after it ran empty a bucket keeps its place: a caller below its limits finds it again at its next request."""
_PAGES = 64
"""Pages that are looked through at once when everything is listed: about 2,000 buckets, some milliseconds."""


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


class LocalLimits:
    """Counts in files of the state directory. `clock` counts nanoseconds, the same in every process."""

    def __init__(
        self, state: StateDirectory, wait_s: float = 0.1, clock: Callable[[], int] = time.monotonic_ns
    ) -> None:
        """Open them, making them on first use. Raises StateError."""
        self._clock, self._folder = clock, state.path
        self._lock = MachineLock(state.file("limits.lock"), wait_s)
        self._late: list[int] = []
        self._known: OrderedDict[int, tuple[tuple[LimitRequest, ...], list[Reading]]] = OrderedDict()
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
        """The lock, at a start: StateError where it can't be had."""
        try:
            with self._lock:
                yield
        except Unavailable as error:
            mend = f"look at {self._folder}: who holds limits.lock, and whether files can be opened there"
            raise StateError(f"limits can't be counted: {error}; {mend}") from error

    def wait(self, wait_s: float) -> None:
        """Wait so long for other processes from now on."""
        self._lock.wait_s = wait_s

    async def pour(self, asks: tuple[LimitRequest, ...], now: float, dry: bool = False) -> Poured:
        """Pour all asks or none; never waits for anything but the lock."""
        if self._gone is not None:
            raise Unavailable(self._gone)
        known = self._known.get(id(asks))
        readings = known[1] if known is not None and known[0] is asks else self._readings(asks)
        self._lock.take()
        try:
            clock = self._clock()  # not before: whoever had the lock meanwhile has seen a later time
            fits = all_fit = all_there = True
            for reading in readings:
                if not reading.read(clock, now):
                    all_fit = False
                    fits = fits and not reading.ask.enforced
                if reading.where < 0:
                    all_there = False
            place = None
            if not dry:
                if not all_there:
                    self._place(readings, clock, now)
                if fits:
                    place = self._write(readings, clock)
                if not all_fit:
                    for reading in readings:
                        reading.mend(clock)
        finally:
            self._lock.release()
        return new(Poured, (fits, tuple([reading.level(clock, now, fits) for reading in readings]), place))

    def _readings(self, asks: tuple[LimitRequest, ...]) -> list[Reading]:
        return remember(self._known, asks, [self._reading(ask) for ask in asks])

    def _reading(self, ask: LimitRequest) -> Reading:
        if ask.limit.kind is Kind.RATE:
            return RateReading(ask, self._rates)
        if ask.limit.kind is Kind.QUOTA:
            return QuotaReading(ask, self._quotas)
        return PlaceReading(ask, self._names, self._in_flight)

    # ---- Under the lock

    def _in_flight(self, fingerprint: bytes) -> int:
        """How many places of this name are taken."""
        if self._names.words[SHARED] != self._roster:
            self._places.survey()
            self._roster = self._names.words[SHARED]
        if self._places.full(8):
            raise Unavailable("this process holds as many places in flight as it can")
        return self._places.count(fingerprint)

    def _place(self, readings: list[Reading], clock: int, now: float) -> None:
        """Make the entries that are missing, before anything is poured: making them may fail, and move others."""
        try:
            try:
                self._make(readings, clock, now, REUSE_NS)
            except OSError:  # where there is no room for more, every empty bucket's place is taken
                self._make(readings, clock, now, 0)
        except OSError as error:
            raise Unavailable(f"counters cannot grow: {error.strerror or error}") from error

    def _make(self, readings: list[Reading], clock: int, now: float, grace_ns: int) -> None:
        moved = True
        while moved:
            before = [table.pages for table in self._tables.values()]
            taken: dict[Table, set[int]] = {table: set() for table in self._tables.values()}
            for reading in readings:
                table = reading.table
                where = table.find(reading.fingerprint)
                if where < 0:
                    dead = self._dead(table, clock - grace_ns, now)
                    where = table.make(reading.fingerprint, bucket_name(reading.ask), dead, taken[table])
                reading.at(where)
                taken[table].add(where)
            moved = [table.pages for table in self._tables.values()] != before

    def _dead(self, table: Table, clock: int, now: float) -> int:
        """Numbers of this table up to this one mean nothing any more."""
        return ((hour_of(now) + 1) << COUNT_BITS) - 1 if table is self._quotas else clock

    def _write(self, readings: list[Reading], clock: int) -> _Held | None:
        numbers: list[int] = []
        for reading in readings:
            if reading.fits:
                place = reading.write(clock)
                if place is not None:
                    numbers.append(self._places.take(place))
        return _Held(self, numbers) if numbers else None

    # ---- What it says

    def level(self, limit: Limit, state: int, now: float) -> Level:
        """The level of a bucket with this state; of a place in flight the state is how many there are."""
        reading = self._reading(LimitRequest(limit, "", 0))
        reading.state = state
        return reading.level(self._clock(), now, False)

    # ---- Beside the requests

    def give_back(self, numbers: list[int]) -> None:
        """These places are held no longer; if the lock can't be had now, they are given back a little later."""
        if self._closed or not (self._gone is None or self._places.in_place()):
            return
        self._late += numbers
        with suppress(Unavailable), self._lock:
            while self._late:
                self._places.give_back(self._late.pop())

    async def held(self, now: float) -> list[Stored]:
        """Every bucket that is not empty, looked for a few pages at a time: others pour meanwhile."""
        self._look()
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
        self._look()
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
        self._unwell = None
        try:
            self._look()
            with self._lock:
                self._places.survey()
                self._places.reclaim()
                self._name_held()
        except Unavailable as error:
            self._unwell = str(error)
            self._roster = -1  # nothing in flight is counted until the others can be seen again
        self.give_back([])

    def _look(self) -> None:
        """See that the files are what they were. Once they are not nothing is counted any more. Raises Unavailable."""
        in_place = [table.in_place() for table in self._tables.values()]
        if self._gone or not all((*in_place, self._places.in_place(), self._lock.in_place())):
            self._gone = "the counters' files were replaced, cut short or are gone: restart the gateway"
            raise Unavailable(self._gone)

    def _name_held(self) -> None:
        """Let what lasts for long go on being listed."""
        clock = self._clock()
        if clock - self._named < NAMED_NS // 2:
            return
        self._named = clock
        for fingerprint in self._places.own():
            where = self._names.find(fingerprint)
            if where >= 0:
                self._names.words[where] = clock + NAMED_NS

    def flush(self) -> None:
        """Let the disk have what was counted, quotas above all."""
        self._quotas.flush()

    def status(self) -> dict[str, object]:
        """What `keyswap status` says of it."""
        pages = sum([table.pages for table in self._tables.values()]) if self._gone is None else 0
        return {
            "store": "local",
            "healthy": self._unwell is None,
            "reason": self._unwell,
            "in_flight": self._places.held if self._gone is None else 0,
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
