"""A histogram of durations, counted in buckets.

Law: adding a value is a search among a few bounds and two additions; it keeps no value, and never fails.
"""

from bisect import bisect_left
from collections.abc import Sequence


class Histogram:
    """Values counted by the first of `bounds` (ascending) that is no smaller; the last count is of those beyond all."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value
