"""Limits as values, the port of limit stores, and what a store answers.

Law: frozen values with units in their names; what has to be parsed has been.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple, Protocol

from cachetools import FIFOCache

from keyswap.model import Level

SEPARATOR = "\x1f"
new = tuple.__new__
"""Makes a NamedTuple from all of its fields, where every microsecond counts: its own way is a function of Python."""


class Kind(StrEnum):
    """What a limit counts."""

    RATE = "rate"
    CONCURRENCY = "concurrency"
    QUOTA = "quota"


WINDOWS_S = {"hour": 3600, "day": 86400, "month": 30 * 86400}
"""About how long a quota's window is."""


@dataclass(frozen=True, slots=True)
class Limit:
    """A limit's numbers. Two limits that say the same are equal."""

    name: str
    kind: Kind
    capacity: int
    """The burst, the requests in flight at once, or the quota."""
    number: int = 1
    period_s: int = 1
    """A rate: `number` units of cost drain in `period_s` seconds."""
    window: str = "month"
    """A quota's calendar window, in UTC: hour, day or month."""
    interval_ns: int = field(init=False, repr=False, compare=False)
    """How long one unit of cost takes to drain, in nanoseconds."""
    window_s: int = field(init=False, repr=False, compare=False)
    """How long a full one takes to become empty; 0 for what has no time of its own."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "interval_ns", self.interval(10**9))
        object.__setattr__(self, "window_s", self._window_s())

    def interval(self, units_per_s: int) -> int:
        """How long one unit of cost takes to drain, in whole units of time, rounded up: never more than the rate."""
        return -(-self.period_s * units_per_s // self.number)

    def _window_s(self) -> int:
        if self.kind is Kind.RATE:
            return -(-self.capacity * self.period_s // self.number)
        return WINDOWS_S[self.window] if self.kind is Kind.QUOTA else 0


class LimitRequest(NamedTuple):
    """One limit of one request. `subject` is the limit's name and whom it counts: `name␟dimension␟value…`."""

    limit: Limit
    subject: str
    cost: int
    enforced: bool = True
    """False: it is counted, and refuses nobody."""


class LimitStoreUnavailable(Exception):
    """The store does not answer now; the message says why."""


class Reservation(Protocol):
    """The places that a request in flight holds."""

    def release(self) -> None:
        """Give them back: the request has ended. A second call changes nothing."""

    def describe(self) -> tuple[str, ...]:
        """The store's name, and of what `LimitStore.adopt` makes the same in a process that takes this one's place."""


class Acquired(NamedTuple):
    """A store's answer: all of the enforced asks were acquired (`fits`), or none of the asks was.

    `levels` are those of the asks, in their order, afterwards; an ask that did not fit has a `retry_after_s`.
    """

    fits: bool
    levels: tuple[Level, ...]
    reservation: Reservation | None = None


CUT = "\x1e"
"""Ends a subject that a store has not kept whole."""


class Stored(NamedTuple):
    """A bucket that a store holds and is not empty. `state` is as `LimitStore.level` reads it.

    `window` is a quota's, or empty where it is not known; `handle` is what the store knows the bucket by.
    """

    subject: str
    state: int
    kind: Kind
    window: str = ""
    handle: bytes = b""

    def is_of(self, limit: Limit) -> bool:
        """Whether it is a bucket of this limit as it is now; an earlier policy's may have been of another kind."""
        return self.kind is limit.kind and (not self.window or self.window == limit.window)


class LimitStore(Protocol):
    """Where limits are counted. Everything raises LimitStoreUnavailable when the store can't be asked in time."""

    name: str
    """What it is called in descriptions of what is held: no secret."""

    async def acquire(self, asks: tuple[LimitRequest, ...], now: float, dry: bool = False) -> Acquired:
        """Acquire all asks or none, at `now` (epoch seconds); `dry`: say what would happen, and change nothing."""

    async def held(self, now: float) -> list[Stored]:
        """Every bucket that is not empty."""

    def level(self, limit: Limit, state: int, now: float) -> Level:
        """The level of a bucket of this limit with this state."""

    async def empty(self, buckets: list[Stored], now: float) -> int:
        """Empty these buckets; how many were not empty. Requests in flight keep their places."""

    def adopt(self, held: Sequence[str]) -> Reservation:
        """The places that a reservation of a process that has ended has described. Raises ValueError."""

    def settle(self) -> None:
        """Give back what such a process has held, and nobody has adopted."""

    def wait(self, wait_s: float) -> None:
        """Set for how many seconds a request waits for the store from now on."""

    async def tend(self, now: float) -> None:
        """Maintain the store: called twice a second, beside the requests."""

    def flush(self) -> None:
        """Write what is kept in memory; may run on any thread."""

    def status(self) -> dict[str, object]:
        """The store's part of `keyswap status`."""

    async def close(self) -> None:
        """Close the store."""


MOST_KNOWN = 4096
"""Callers whose prepared asks a store remembers: some 3 MB."""


def remember[T](
    known: FIFOCache[int, tuple[tuple[LimitRequest, ...], T]], asks: tuple[LimitRequest, ...], prepared: T
) -> T:
    """Remember a caller's prepared asks, by their identity: they live for as long as they stand here.

    A caller's next request has the same value.
    """
    known[id(asks)] = asks, prepared
    return prepared


def rate_level(limit: Limit, left: int, full_in_s: float, wait_s: float) -> Level:
    """The level of a leaky bucket that has room for `left`."""
    capacity = limit.capacity
    return new(Level, (limit.name, limit.kind, capacity - left, capacity, left, full_in_s, wait_s, limit.window_s))


def count_level(limit: Limit, count: int, full_in_s: float, wait_s: float) -> Level:
    """The level of a limit that counts to its capacity."""
    left = max(0, limit.capacity - count)
    return Level(limit.name, limit.kind, count, limit.capacity, left, full_in_s, wait_s, limit.window_s)
