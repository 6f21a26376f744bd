"""The slot of one ask in the files of the store `local`: read, written, and its level.

Law: the caller holds the machine's lock from reading to writing. A slot is made once for a caller's ask and used for
each of its requests, one after the other: it remembers where its entry is, and looks whether it still is there. Nothing
is written but by `write` and `repair`.
"""

from collections.abc import Callable

from keyswap.limits import bucket
from keyswap.limits.limit import SEPARATOR, WINDOWS_S, Kind, Limit, LimitRequest, Stored, count_level, rate_level
from keyswap.limits.local.table import COUNT_AT, SLOTS, Table
from keyswap.limits.windows import HOUR_S, end_hour, hour_of, is_over, latest_end
from keyswap.model import Level

NS = 1_000_000_000
COUNT_BITS = 42
_COUNT = (1 << COUNT_BITS) - 1
"""A quota's number holds the hour at which its window ends, and below it how much of it is used."""
NAMED_NS = 3600 * NS
"""How long the name of a place in flight is remembered, to be listed."""


def bucket_name(ask: LimitRequest) -> str:
    """The name of an ask's bucket. A quota of another window is another bucket: a month's says nothing of an hour."""
    return ask.subject + SEPARATOR + ask.limit.window if ask.limit.kind is Kind.QUOTA else ask.subject


def quota_subject(name: str, state: int) -> tuple[str, int, Kind, str]:
    """The first fields of a stored quota, by its bucket's name."""
    subject, _, window = name.rpartition(SEPARATOR)
    return (subject, state, Kind.QUOTA, window) if window in WINDOWS_S else (name, state, Kind.QUOTA, "")


def begun_ahead(quota: Stored, now: float) -> bool:
    """Whether a quota is over though its end is to come: a clock that was ahead began it.

    Where the name was cut its window is not known, and its end is believed.
    """
    return bool(quota.window) and is_over(quota.window, quota.state >> COUNT_BITS, now)


class Slot:
    """The slot of an ask of any kind. `state` is the number read, `after` the one to be written when `fits`."""

    __slots__ = (
        "_hashed", "_mark", "_pages", "after", "ask", "cost", "fingerprint", "fits", "limit", "state", "table", "where",
    )  # fmt: skip

    def __init__(self, ask: LimitRequest, table: Table) -> None:
        self.ask, self.table, self.limit, self.cost = ask, table, ask.limit, ask.cost
        self.fingerprint = table.fingerprint(bucket_name(ask))
        self._hashed = int.from_bytes(self.fingerprint, "little", signed=True)
        self.where, self._mark, self._pages = -1, 0, -1
        self.state, self.after, self.fits = 0, 0, True

    def stored(self) -> int:
        """The number of its entry; 0, and `where` is negative: there is none."""
        words = self.table.words
        if words[COUNT_AT] == self._pages and words[self._mark] == self._hashed:
            return words[self.where]  # no page was split, and no other entry is there
        self.at(self.table.find(self.fingerprint))
        return self.table.words[self.where] if self.where >= 0 else 0

    def at(self, where: int) -> None:
        """Set where the entry is now."""
        self.where, self._mark = where, where - SLOTS
        self._pages = self.table.pages if where >= 0 else -1

    def read(self, clock: int, now: float) -> bool:
        """Read the entry; whether the ask fits."""
        raise NotImplementedError

    def write(self, clock: int) -> bytes | None:  # noqa: ARG002
        """Write the new number; the fingerprint of a place that is to be held."""
        if self.cost:
            self.table.words[self.where] = self.after
        return None

    def repair(self, clock: int) -> None:
        """Repair an entry that a clock's step back has made too full."""

    def level(self, clock: int, now: float, acquired: bool) -> Level:
        """The level afterwards; `acquired`: what fits was written."""
        raise NotImplementedError


class RateSlot(Slot):
    """The slot of a leaky bucket."""

    __slots__ = ("_interval", "_span")

    def __init__(self, ask: LimitRequest, table: Table) -> None:
        super().__init__(ask, table)
        self._interval = ask.limit.interval_ns
        self._span = self._interval * ask.limit.capacity

    def read(self, clock: int, now: float) -> bool:  # noqa: ARG002, rates know no calendar
        """Whether it fits."""
        self.state = state = self.stored()
        after = bucket.pour(state, clock, self._interval, self._span, self.cost)
        if after is None:
            self.fits = False
            return False
        self.after, self.fits = after, True
        return True

    def repair(self, clock: int) -> None:
        """A bucket that is fuller than full, by a clock's step back or a smaller limit, begins to drain."""
        if not self.fits and self.state > clock + self._span:
            self.table.words[self.where] = clock + self._span

    def level(self, clock: int, now: float, acquired: bool) -> Level:  # noqa: ARG002, rates know no calendar
        """The level afterwards."""
        interval, span, wait = self._interval, self._span, 0
        if acquired and self.fits:
            full_in = self.after - clock
        else:
            full_in = bucket.bounded(self.state, clock, span) - clock
            wait = 0 if self.fits else bucket.wait(self.state, clock, interval, span, self.cost)
        return rate_level(self.limit, (span - full_in) // interval, full_in / NS, wait / NS)


class QuotaSlot(Slot):
    """The slot of a quota."""

    __slots__ = ("_ends", "_hour", "_latest")

    def __init__(self, ask: LimitRequest, table: Table) -> None:
        super().__init__(ask, table)
        self._hour = self._ends = self._latest = -1

    def read(self, clock: int, now: float) -> bool:  # noqa: ARG002, quotas know nothing but the calendar
        """Whether it fits. A window that is not over stays, also when the clock steps back by up to one."""
        state, hour = self.stored(), hour_of(now)
        if hour != self._hour:
            self._hour, window = hour, self.limit.window
            self._ends, self._latest = end_hour(window, hour * HOUR_S), latest_end(window, hour * HOUR_S)
        if not hour < state >> COUNT_BITS <= self._latest:  # as `windows.is_over`
            state = self._ends << COUNT_BITS
        self.state, self.after = state, state + self.cost
        self.fits = (state & _COUNT) + self.cost <= self.limit.capacity or not self.cost
        return self.fits

    def level(self, clock: int, now: float, acquired: bool) -> Level:  # noqa: ARG002
        """The level afterwards."""
        return quota_level(self.limit, self.after if acquired and self.fits else self.state, now, self.fits)


class InFlightSlot(Slot):
    """The slot of places in flight; `count` says how many of a name are held."""

    __slots__ = ("_count",)

    def __init__(self, ask: LimitRequest, table: Table, count: Callable[[bytes], int]) -> None:
        super().__init__(ask, table)
        self._count = count

    def read(self, clock: int, now: float) -> bool:  # noqa: ARG002
        """Whether one more fits."""
        self.stored()
        self.state = self._count(self.fingerprint)
        self.fits = self.state < self.limit.capacity
        return self.fits

    def write(self, clock: int) -> bytes | None:
        """Let it be listed, and held."""
        self.table.words[self.where] = clock + NAMED_NS
        return self.fingerprint

    def level(self, clock: int, now: float, acquired: bool) -> Level:  # noqa: ARG002
        """The level afterwards."""
        return count_level(self.limit, self.state + (acquired and self.fits), 0.0, 0.0 if self.fits else 1.0)


def quota_level(limit: Limit, state: int, now: float, fits: bool) -> Level:
    """The level of a quota with this state."""
    ends = max(0.0, (state >> COUNT_BITS) * HOUR_S - now)
    return count_level(limit, state & _COUNT, ends, 0.0 if fits else ends)
