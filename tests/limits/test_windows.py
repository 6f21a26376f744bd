"""Guarantees of limits.windows: calendar windows in UTC."""

import calendar
import math
from datetime import UTC, datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from keyswap.limits.windows import HOUR_S, end_hour

HOURS = st.integers(0, 24 * 366 * 400)
"""Four hundred years from the epoch."""


def seconds(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def end(window: str, hour: int) -> int:
    """What the calendar says, in whole numbers."""
    if window == "hour":
        return hour + 1
    if window == "day":
        return hour - hour % 24 + 24
    day = datetime.fromtimestamp(hour * HOUR_S, UTC)
    _, days = calendar.monthrange(day.year, day.month)
    return hour - hour % 24 - (day.day - 1) * 24 + days * 24


@given(st.sampled_from(["hour", "day", "month"]), HOURS, st.floats(0, HOUR_S, exclude_max=True))
@example("month", 500_736 - 24 * 31, 0.0)
def test_windows_are_the_calendars(window: str, hour: int, into: float) -> None:
    """Every moment of a window has the same end, which the calendar says."""
    assert end_hour(window, hour * HOUR_S) == end(window, hour)
    if hour * HOUR_S + into < (hour + 1) * HOUR_S:
        assert end_hour(window, hour * HOUR_S + into) == end(window, hour)


@given(st.sampled_from(["hour", "day", "month"]), HOURS)
def test_the_last_moment_belongs_to_the_window(window: str, hour: int) -> None:
    """The last moment that a float can tell from a window's end is in that window; the end is in the next."""
    ends = end(window, hour)
    assert end_hour(window, math.nextafter(ends * HOUR_S, 0)) == ends
    assert end_hour(window, ends * HOUR_S) == end(window, ends) > ends


@pytest.mark.parametrize(
    ("window", "at", "ends"),
    [
        ("hour", "2027-01-15T08:59:59.999", "2027-01-15T09:00"),
        ("hour", "2026-12-31T23:00", "2027-01-01T00:00"),
        ("day", "2027-01-15T00:00", "2027-01-16T00:00"),
        ("day", "2028-02-29T23:59:59", "2028-03-01T00:00"),
        ("month", "2027-01-01T00:00", "2027-02-01T00:00"),
        ("month", "2027-01-31T23:59:59.9999", "2027-02-01T00:00"),
        ("month", "2027-02-28T23:59:59", "2027-03-01T00:00"),
        ("month", "2028-02-28T23:59:59", "2028-03-01T00:00"),
        ("month", "2028-02-29T12:00", "2028-03-01T00:00"),
        ("month", "2027-11-30T12:00", "2027-12-01T00:00"),
        ("month", "2027-12-01T00:00", "2028-01-01T00:00"),
        ("month", "2027-12-31T23:59:59", "2028-01-01T00:00"),
        ("month", "2100-02-28T12:00", "2100-03-01T00:00"),
    ],
)
def test_a_window_ends_at_its_calendars_hour(window: str, at: str, ends: str) -> None:
    """Month ends, leap days, years: a window ends where the calendar says."""
    assert end_hour(window, seconds(at)) * HOUR_S == seconds(ends)
