"""Calendar windows of quotas, in UTC.

Law: a window is known by the hour at which it ends, counted from the epoch: hours, days and months all end at one. A
clock that steps back by up to a window begins none anew; a window that ends later than the one after the present one
was begun by a clock that was ahead, and is over.
"""

from datetime import UTC, datetime

HOUR_S = 3600
_LAST_HOUR = 2_000_000
"""In the year 2198: where it is stored an hour has 21 bits."""


def hour_of(now: float) -> int:
    """The hour, since the epoch, of `now` (epoch seconds).

    By a clock outside of the years 1970 to 2198 it is the nearest hour of these: a window then does not end.
    """
    return int(min(max(now // HOUR_S, 0), _LAST_HOUR))


def end_hour(window: str, now: float) -> int:
    """The hour, since the epoch, at which the window of `now` (epoch seconds) ends."""
    hour = int(now // HOUR_S)
    if window == "hour":
        return hour + 1
    if window == "day":
        return (hour // 24 + 1) * 24
    at = datetime.fromtimestamp(hour * HOUR_S, UTC)  # a fraction might be rounded up into the next month
    ends = datetime(at.year + at.month // 12, at.month % 12 + 1, 1, tzinfo=UTC)
    return int(ends.timestamp()) // HOUR_S


def latest_end(window: str, now: float) -> int:
    """The hour, since the epoch, at which the window after that of `now` (epoch seconds) ends."""
    return end_hour(window, end_hour(window, now) * HOUR_S)


def is_over(window: str, ends: int, now: float) -> bool:
    """Whether a window that ends at the hour `ends` is over at `now` (epoch seconds)."""
    hour = hour_of(now)
    return not hour < ends <= latest_end(window, hour * HOUR_S)
