"""The budget of calls to WorkOS: known keys come before possible guesses.

Law: within any span of t seconds at most `rate` × t + burst calls are let through. Guesses get what known keys leave of
that: half of the burst is never theirs, so that known keys can always have the whole rate, however many guess. The time
comes in as an argument.
"""

from typing import Protocol


class Budget(Protocol):
    """Whether a call may be made at `now` (seconds of the client's clock); if so, it has been counted.

    `known`: the call is about a key that was good before, or about no key.
    """

    async def may_call(self, known: bool, now: float) -> bool:
        """Count a call, or say that it does not fit."""


class Bucket:
    """A leaky bucket as one number: when it will have run empty. `rate` is in calls a second, `burst` in calls."""

    __slots__ = ("_empty_at", "_interval_s", "_span_s")

    def __init__(self, rate: float, burst: float) -> None:
        self._interval_s, self._span_s = 1 / rate, burst / rate
        self._empty_at = float("-inf")

    def fits(self, now: float, part: float = 1.0) -> bool:
        """Whether one more call fits at `now` into a part of it."""
        # A clock that steps back locks nobody out for longer than a full bucket takes to drain.
        self._empty_at = min(max(self._empty_at, now), now + self._span_s)
        return self._empty_at + self._interval_s - now <= part * self._span_s + 1e-9

    def pour(self) -> None:
        """Count a call that fits."""
        self._empty_at += self._interval_s


FOR_GUESSES = 0.5
"""The part of the burst that guesses may fill."""


class OwnBudget:
    """A budget of this process alone: `rate` calls a second, as many at once."""

    def __init__(self, rate: float, burst: float | None = None) -> None:
        self._bucket = Bucket(rate, max(2.0, rate if burst is None else burst))

    async def may_call(self, known: bool, now: float) -> bool:
        """Count a call, or say that it does not fit."""
        fits = self._bucket.fits(now, 1.0 if known else FOR_GUESSES)
        if fits:
            self._bucket.pour()
        return fits


class Unlimited:
    """No budget: of a command that makes a handful of calls."""

    async def may_call(self, known: bool, now: float) -> bool:  # noqa: ARG002
        """Let it through."""
        return True
