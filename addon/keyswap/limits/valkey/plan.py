"""The command to the script that pours in a Valkey or Redis server (pour.lua), and its answer.

Law: a caller's command is made once and sent as it is for each of its requests; only the name of what a request holds
in flight is added. Numbers travel as doubles, which are exact where pour.lua says so. An answer that the script cannot
have given is an error: what was poured is unknown.
"""

import hashlib
import struct
from math import isfinite
from pathlib import Path

from keyswap.limits.limit import Acquired, Kind, LimitRequest, LimitStoreUnavailable, count_level, new
from keyswap.limits.valkey.connection import bulk
from keyswap.model import Level

US = 1_000_000
HOUR_US = 3600 * US
PREFIX = b"{keyswap}:"
"""The prefix of every key. The braces are a hash tag: a cluster keeps all of them in one slot, so on one node."""
SOURCE = Path(__file__).with_name("pour.lua").read_bytes()
BY_DIGEST = bulk(b"EVALSHA", hashlib.sha1(SOURCE, usedforsecurity=False).hexdigest().encode())
BY_SOURCE = bulk(b"EVAL", SOURCE)
_TRUTHS = frozenset((0.0, 1.0))
_WINDOWS = ("", "hour", "day", "month")


class PlannedLimit:
    """One ask of a caller, as the script reads it."""

    __slots__ = ("ask", "cost", "key", "limit")
    is_place = False
    number = 0
    """The script's number of this kind."""

    def __init__(self, ask: LimitRequest) -> None:
        self.ask, self.limit, self.cost = ask, ask.limit, ask.cost
        self.key = prefix(ask.limit.kind, ask.limit.window) + ask.subject.encode("utf-8", "surrogatepass")

    def room_and_unit(self, lease_us: int) -> tuple[int, int]:
        """The two arguments that differ by kind."""
        raise NotImplementedError

    def arguments(self, lease_us: int) -> bytes:
        """The script's arguments."""
        return struct.pack("<5d", self.number, self.ask.enforced, self.cost, *self.room_and_unit(lease_us))

    def level(self, now_us: float, fit: float, state: float, ends: float, poured: bool) -> Level:
        """The level after pouring, if the request was `poured` and this ask fit (1, or 0).

        `state` is the one before, in µs or a count; `ends` the hour at which a quota's window does.
        """
        raise NotImplementedError


class _Rate(PlannedLimit):
    __slots__ = ("_interval", "_poured", "_span")

    def __init__(self, ask: LimitRequest) -> None:
        super().__init__(ask)
        self._interval = interval = ask.limit.interval(US)
        self._span, self._poured = interval * ask.limit.capacity, interval * ask.cost

    def room_and_unit(self, lease_us: int) -> tuple[int, int]:  # noqa: ARG002
        return self._span, self._interval

    def level(self, now_us: float, fit: float, state: float, ends: float, poured: bool) -> Level:  # noqa: ARG002
        limit, span, full_in, wait_s = self.limit, self._span, 0, 0.0
        if state > now_us:  # as `bucket.bounded`
            full_in = int(state - now_us) if state - now_us < span else span
        if not fit:
            wait_s = (full_in + self._poured - span) / US
        elif poured:
            full_in += self._poured
        capacity, left = limit.capacity, (span - full_in) // self._interval
        values = limit.name, limit.kind, capacity - left, capacity, left, full_in / US, wait_s, limit.window_s
        return new(Level, values)  # as `rate_level`, without another call


class _Quota(PlannedLimit):
    __slots__ = ()
    number = 1

    def room_and_unit(self, lease_us: int) -> tuple[int, int]:  # noqa: ARG002
        return self.limit.capacity, _WINDOWS.index(self.limit.window)

    def level(self, now_us: float, fit: float, state: float, ends: float, poured: bool) -> Level:
        left_s = max(0.0, ends * HOUR_US - now_us) / US
        count = int(state) + (self.cost if poured and fit else 0)
        return count_level(self.limit, count, left_s, 0.0 if fit else left_s)


class _InFlight(PlannedLimit):
    __slots__ = ()
    is_place = True
    number = 2

    def room_and_unit(self, lease_us: int) -> tuple[int, int]:
        return self.limit.capacity, lease_us

    def level(self, now_us: float, fit: float, state: float, ends: float, poured: bool) -> Level:  # noqa: ARG002
        return count_level(self.limit, int(state) + (1 if poured and fit else 0), 0.0, 0.0 if fit else 1.0)


def planned_limit(ask: LimitRequest) -> PlannedLimit:
    """An ask, as the class of its kind."""
    return {Kind.RATE: _Rate, Kind.QUOTA: _Quota, Kind.CONCURRENCY: _InFlight}[ask.limit.kind](ask)


class Plan:
    """All asks of a caller's request."""

    __slots__ = ("_limits", "_numbers", "_size", "command", "dry", "places")

    def __init__(self, asks: tuple[LimitRequest, ...], lease_us: int) -> None:
        self._limits = [planned_limit(ask) for ask in asks]
        self.places = tuple([planned.key for planned in self._limits if planned.is_place])
        numbers = "<" + "d" * (1 + 3 * len(asks))
        self._numbers, self._size = struct.Struct(numbers).unpack, struct.calcsize(numbers)
        keys = [planned.key for planned in self._limits]
        packed = b"".join([planned.arguments(lease_us) for planned in self._limits])
        arguments = bulk(b"%d" % len(keys), *keys, packed, numbers.encode())
        self.command = b"*%d\r\n" % (len(keys) + (6 if self.places else 5)) + BY_DIGEST + arguments
        """The command; where there are `places`, the name of the request's reservation follows."""
        self.dry = b"*%d\r\n" % (len(keys) + 7) + BY_DIGEST + arguments + bulk(b"", b"1")
        """The command that pours nothing."""

    def parse(self, answer: object) -> tuple[float, Acquired]:
        """The script's answer: its time in µs, and what was acquired. Raises LimitStoreUnavailable."""
        if not isinstance(answer, bytes) or len(answer) != self._size:
            raise LimitStoreUnavailable("the limit store's answer is none of the script's")
        numbers = self._numbers(answer)
        if not isfinite(sum(numbers)) or min(numbers) < 0 or not _TRUTHS.issuperset(numbers[1::3]):
            raise LimitStoreUnavailable("the limit store's answer holds what is no number of the script's")
        now_us, fits = numbers[0], 0.0 not in numbers[1::3] or self._fits(numbers)
        levels, at = [], 1
        for planned in self._limits:
            levels.append(planned.level(now_us, numbers[at], numbers[at + 1], numbers[at + 2], fits))
            at += 3
        return now_us, new(Acquired, (fits, tuple(levels), None))

    def _fits(self, numbers: tuple[float, ...]) -> bool:
        return all(fit or not planned.ask.enforced for fit, planned in zip(numbers[1::3], self._limits, strict=True))

    def reserved(self, acquired: Acquired) -> tuple[bytes, ...]:
        """The keys of the places that are held now."""
        if not acquired.fits:
            return ()
        limits = zip(self._limits, acquired.levels, strict=True)
        return tuple([planned.key for planned, level in limits if planned.is_place and not level.retry_after_s])


def prefix(kind: Kind, window: str = "") -> bytes:
    """The prefix of a kind's keys. A quota of another window is another one."""
    return PREFIX + (f"{kind}.{window}" if kind is Kind.QUOTA else kind.value).encode() + b":"
