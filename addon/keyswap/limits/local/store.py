"""The store `local`: counters in the state directory, shared by every gateway process of the machine.

Law: a request's limits are read and acquired under one lock, all or none; what a process had poured when it was killed
stays poured, its places in flight are given back. Rates drain on the machine's monotonic clock, which nobody
sets; quotas follow the calendar. The files outlive the processes, and rates a restart, but not the machine's.
"""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress

from cachetools import FIFOCache

from keyswap.limits.limit import (
    MOST_KNOWN,
    Acquired,
    Kind,
    Limit,
    LimitRequest,
    LimitStoreUnavailable,
    Stored,
    new,
    remember,
)
from keyswap.limits.local.boot import boot_id
from keyswap.limits.local.in_flight import NAME, InFlight, KeptFile, LocalReservation
from keyswap.limits.local.listing import stored
from keyswap.limits.local.lock import MachineLock
from keyswap.limits.local.slot import COUNT_BITS, NAMED_NS, InFlightSlot, QuotaSlot, RateSlot, Slot, bucket_name
from keyswap.limits.local.table import SHARED, Table
from keyswap.limits.windows import hour_of
from keyswap.model import Level, StateError
from keyswap.state import StateDirectory

REUSE_NS = 60_000_000_000
"""How long a bucket keeps its slot after it ran empty: a caller below its limits has it at its next request too."""
_GONE = "the counters' files were replaced, cut short or are gone: restart the gateway"
_PAGES = 64
"""Pages that are looked through at once when everything is listed: about 2,000 buckets, some milliseconds."""


class LocalLimits:
    """Counts in files of the state directory. `clock` counts nanoseconds, the same in every process."""

    name = NAME

    def __init__(
        self,
        state: StateDirectory,
        wait_s: float = 0.1,
        clock: Callable[[], int] = time.monotonic_ns,
        kept: KeptFile | None = None,
    ) -> None:
        """Open them, making them on first use. `kept`: where places in flight stand. Raises StateError."""
        self._clock, self._folder = clock, state.path
        self._lock = MachineLock(state.file("limits.lock"), wait_s)
        self._late: list[int] = []
        self._known: FIFOCache[int, tuple[tuple[LimitRequest, ...], list[Slot]]] = FIFOCache(MOST_KNOWN)
        self._unwell: str | None = None
        self._gone: str | None = None
        with ExitStack() as undo:
            undo.callback(self._lock.close)
            with self._held_lock():
                self._rates = undo.enter_context(closing(Table(state.file("rates"), boot_id())))
                self._quotas = undo.enter_context(closing(Table(state.file("quotas"))))
                self._names = undo.enter_context(closing(Table(state.file("inflight"), boot_id())))
                self._reserved = InFlight(state.path, kept)
                self._roster = self._names.words[SHARED] = self._names.words[SHARED] + 1
            undo.pop_all()
        self._named = self._clock()
        self._closed = self._settles = False
        self._tables = {Kind.RATE: self._rates, Kind.QUOTA: self._quotas, Kind.CONCURRENCY: self._names}

    @contextmanager
    def _held_lock(self) -> Iterator[None]:
        """Hold the lock, at a start. Raises StateError where it can't be had."""
        try:
            with self._lock.within(self._lock.wait_s):
                yield
        except LimitStoreUnavailable as error:
            remedy = f"look at {self._folder}: who holds limits.lock, and whether files can be opened there"
            raise StateError(f"limits can't be counted: {error}; {remedy}") from error

    def wait(self, wait_s: float) -> None:
        """Set how long a request waits for other processes from now on, in seconds."""
        self._lock.wait_s = wait_s

    async def acquire(self, asks: tuple[LimitRequest, ...], now: float, dry: bool = False) -> Acquired:
        """Acquire all asks or none at `now` (epoch seconds); waits for nothing but the lock, beside other requests.

        Raises LimitStoreUnavailable (no lock in time, no room, files not in place), StateError (a file is damaged).
        """
        if self._gone is not None:
            raise LimitStoreUnavailable(self._gone)
        known = self._known.get(id(asks))
        slots = known[1] if known is not None and known[0] is asks else self._slots(asks)
        if not self._lock.take_free():
            now += await self._lock.wait()
        try:
            clock = self._clock()  # not before: another process that had the lock meanwhile has seen a later time
            fits = all_fit = all_there = True
            for slot in slots:
                if not slot.read(clock, now):
                    all_fit = False
                    fits = fits and not slot.ask.enforced
                if slot.where < 0:
                    all_there = False
            reservation = None
            if not dry:
                if not all_there:
                    self._add_missing(slots, clock, now)
                if fits:
                    reservation = self._write(slots, clock)
                if not all_fit:
                    for slot in slots:
                        slot.repair(clock)
        finally:
            self._lock.release()
        return new(Acquired, (fits, tuple([slot.level(clock, now, fits) for slot in slots]), reservation))

    def _slots(self, asks: tuple[LimitRequest, ...]) -> list[Slot]:
        return remember(self._known, asks, [self._slot(ask) for ask in asks])

    def _slot(self, ask: LimitRequest) -> Slot:
        if ask.limit.kind is Kind.RATE:
            return RateSlot(ask, self._rates)
        if ask.limit.kind is Kind.QUOTA:
            return QuotaSlot(ask, self._quotas)
        return InFlightSlot(ask, self._names, self._in_flight)

    # ---- Under the lock

    def _in_flight(self, fingerprint: bytes) -> int:
        """How many places of this name are taken."""
        if self._names.words[SHARED] != self._roster:
            self._reserved.rescan()
            self._roster = self._names.words[SHARED]
        if self._reserved.full(8):
            raise LimitStoreUnavailable("this process holds as many places in flight as it can")
        return self._reserved.count(fingerprint)

    def _add_missing(self, slots: list[Slot], clock: int, now: float) -> None:
        """Make the entries that are missing, before anything is poured: making them may fail, and move others."""
        try:
            try:
                self._make(slots, clock, now, REUSE_NS)
            except OSError:  # where there is no room for more, every empty bucket's slot is reused
                self._make(slots, clock, now, 0)
        except OSError as error:
            raise LimitStoreUnavailable(f"counters cannot grow: {error.strerror or error}") from error

    def _make(self, slots: list[Slot], clock: int, now: float, grace_ns: int) -> None:
        moved = True
        while moved:
            before = [table.pages for table in self._tables.values()]
            taken: dict[Table, set[int]] = {table: set() for table in self._tables.values()}
            for slot in slots:
                table = slot.table
                where = table.find(slot.fingerprint)
                if where < 0:
                    dead = self._dead(table, clock - grace_ns, now)
                    where = table.make(slot.fingerprint, bucket_name(slot.ask), dead, taken[table])
                slot.at(where)
                taken[table].add(where)
            moved = [table.pages for table in self._tables.values()] != before

    def _dead(self, table: Table, clock: int, now: float) -> int:
        """Numbers of this table up to this one mean nothing any more."""
        return ((hour_of(now) + 1) << COUNT_BITS) - 1 if table is self._quotas else clock

    def _write(self, slots: list[Slot], clock: int) -> LocalReservation | None:
        numbers: list[int] = []
        for slot in slots:
            if slot.fits:
                fingerprint = slot.write(clock)
                if fingerprint is not None:
                    numbers.append(self._reserved.take(fingerprint))
        return LocalReservation(self.release, numbers) if numbers else None

    # ---- Levels

    def level(self, limit: Limit, state: int, now: float) -> Level:
        """The level of a bucket with this state; of a place in flight the state is how many there are."""
        slot = self._slot(LimitRequest(limit, "", 0))
        slot.state = state
        return slot.level(self._clock(), now, False)

    # ---- Beside the requests

    def release(self, numbers: list[int]) -> None:
        """Release places; if the lock can't be had within some milliseconds, a little later. Raises nothing."""
        if self._closed or not (self._gone is None or self._reserved.in_place()):
            return
        self._late += numbers
        with suppress(LimitStoreUnavailable), self._lock:
            while self._late:
                self._reserved.release(self._late.pop())

    def adopt(self, held: Sequence[str]) -> LocalReservation:
        """The places of a process before this one, by their numbers. Raises ValueError."""
        numbers = [int(number) for number in held]
        if not self._reserved.adopt(numbers):
            raise ValueError("these places are not held")
        return LocalReservation(self.release, numbers)

    def settle(self) -> None:
        """Release the places of a process before this one that nobody has adopted."""
        self._settles = True
        with suppress(LimitStoreUnavailable), self._lock.within(self._lock.wait_s):  # else when it is tended
            self._reserved.release_left()

    async def held(self, now: float) -> list[Stored]:
        """Every bucket that is not empty, looked for a few pages at a time: others pour meanwhile."""
        self._check_files()
        buckets: dict[tuple[Kind, bytes], Stored] = {}
        for kind, table in self._tables.items():
            first = 0
            while first < table.pages:
                async with self._lock:
                    pages = range(first, min(first + _PAGES, table.pages))
                    buckets |= {(kind, bucket.handle): bucket for bucket in self._listed(kind, table, pages, now)}
                first += _PAGES
                await asyncio.sleep(0)
        return list(buckets.values())

    def _listed(self, kind: Kind, table: Table, pages: range, now: float) -> list[Stored]:
        if kind is Kind.CONCURRENCY:
            self._reserved.rescan()
        rows = table.alive(self._dead(table, self._clock(), now), pages)
        return list(stored(kind, rows, now, self._reserved.count))

    async def empty(self, buckets: list[Stored], now: float) -> int:
        """Empty these buckets."""
        self._check_files()
        emptied = 0
        async with self._lock:
            clock = self._clock()
            for bucket in buckets:
                table = self._tables[bucket.kind]
                where = table.find(bucket.handle) if bucket.kind is not Kind.CONCURRENCY else -1
                if where >= 0 and table.words[where] > self._dead(table, clock, now):
                    table.words[where] = 0
                    emptied += 1
        return emptied

    async def tend(self, now: float) -> None:  # noqa: ARG002, a store with a clock of its own
        """Give back the places of processes that have ended, and those that could not be given back before."""
        self._unwell = None
        try:
            self._check_files()
            async with self._lock:
                self._reserved.rescan()
                self._reserved.reclaim()
                self._reserved.release_left() if self._settles else None
                self._keep_listed()
        except LimitStoreUnavailable as error:
            self._unwell = str(error)
            self._roster = -1  # nothing in flight is counted until the others can be seen again
        self.release([])

    def _check_files(self) -> None:
        """Check that the files are still in place; else nothing is counted any more. Raises LimitStoreUnavailable."""
        in_place = [table.in_place() for table in self._tables.values()]
        if self._gone or not all((*in_place, self._reserved.in_place(), self._lock.in_place())):
            self._gone = self._lock.ended = _GONE
            raise LimitStoreUnavailable(_GONE)

    def _keep_listed(self) -> None:
        """Keep the names of long requests in flight listed."""
        clock = self._clock()
        if clock - self._named < NAMED_NS // 2:
            return
        self._named = clock
        for fingerprint in self._reserved.own():
            where = self._names.find(fingerprint)
            if where >= 0:
                self._names.words[where] = clock + NAMED_NS

    def flush(self) -> None:
        """Write quotas to disk."""
        self._quotas.flush()

    def status(self) -> dict[str, object]:
        """The store's part of `keyswap status`."""
        pages = [table.pages for table in self._tables.values()] if self._gone is None else []
        size, held = 4096 * sum(pages), self._reserved.held if self._gone is None else 0
        healthy = self._unwell is None
        return {"store": "local", "healthy": healthy, "reason": self._unwell, "in_flight": held, "bytes": size}

    async def close(self) -> None:
        """Release every place, and close the files. A second call changes nothing."""
        if self._closed:
            return
        self._closed = True
        self._reserved.close()
        for table in self._tables.values():
            table.close()
        self._lock.close()
