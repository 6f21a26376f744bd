"""Guarantees of limits.bucket: the leaky bucket as a meter, in one whole number."""

import itertools
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from keyswap.limits import bucket
from tests.limits.parts import rate

NUMBERS = st.tuples(st.integers(1, 10**6), st.integers(1, 50))
"""Interval and capacity."""
MOMENTS = st.lists(st.tuples(st.integers(0, 3 * 10**6), st.integers(0, 6)), min_size=1, max_size=60)
"""How much later, and what is poured then."""
START = 10**9


class Meter:
    """The textbook's leaky bucket: a level that falls with time, exactly."""

    def __init__(self, capacity: int, per_unit: Fraction) -> None:
        self.capacity, self.per_unit = capacity, per_unit
        self.level, self.at = Fraction(0), START

    def acquire(self, now: int, cost: int) -> bool:
        self.level = max(Fraction(0), self.level - (now - self.at) * self.per_unit)
        self.at = now
        if self.level + cost > self.capacity:
            return False
        self.level += cost
        return True


@given(NUMBERS, MOMENTS)
def test_it_is_the_leaky_bucket_as_a_meter(numbers: tuple[int, int], moments: list[tuple[int, int]]) -> None:
    """One number of state decides as an exact level that drains would, and knows that level."""
    interval, capacity = numbers
    meter, state, now = Meter(capacity, Fraction(1, interval)), 0, START
    for later, cost in moments:
        now += later
        after = bucket.pour(state, now, interval, capacity * interval, cost)
        assert (after is not None) == meter.acquire(now, cost)
        state = state if after is None else after
        assert Fraction(bucket.bounded(state, now, capacity * interval) - now, interval) == meter.level
        assert bucket.remaining(state, now, interval, capacity * interval) == int(capacity - meter.level)


@given(st.integers(1, 10**9 - 1), st.sampled_from([1, 60, 3600, 86400]), st.sampled_from([10**6, 10**9]))
def test_the_interval_is_the_rate(number: int, period_s: int, units_per_s: int) -> None:
    """Rounding to whole units of time never lets more through than the rate, and costs less than a unit per cost."""
    exact = Fraction(period_s * units_per_s, number)
    assert exact <= rate(1, number, period_s).interval(units_per_s) < exact + 1


@given(NUMBERS, st.lists(st.tuples(st.integers(-(10**7), 10**7), st.integers(0, 6)), max_size=60))
def test_never_more_than_burst_and_rate(numbers: tuple[int, int], moments: list[tuple[int, int]]) -> None:
    """In any window no more is admitted than burst + rate × the time that passed in it, wherever the clock jumps."""
    interval, capacity = numbers
    state, now, passed = 0, START, 0
    admitted: list[tuple[int, int]] = []
    for step, cost in moments:
        now += step
        passed += max(0, step)
        after = bucket.pour(state, now, interval, capacity * interval, cost)
        if after is not None:
            state = after
            admitted.append((passed, cost))
    for first, last in itertools.combinations_with_replacement(range(len(admitted)), 2):
        poured = sum(cost for _, cost in admitted[first : last + 1])
        assert poured * interval <= capacity * interval + admitted[last][0] - admitted[first][0]


@given(NUMBERS, st.integers(-(10**12), 10**12), st.integers(0, 100))
def test_level_and_room_add_up_to_the_capacity(numbers: tuple[int, int], offset: int, cost: int) -> None:
    """Whatever the state, room is between nothing and all of the capacity, and it is what fits."""
    interval, capacity = numbers
    span = interval * capacity
    room = bucket.remaining(START + offset, START, interval, span)
    assert 0 <= room <= capacity
    assert (bucket.pour(START + offset, START, interval, span, cost) is not None) == (cost <= room)


@given(NUMBERS, st.integers(-(10**12), 10**12), st.integers(0, 50))
def test_cost_fits_after_the_wait_and_not_before(numbers: tuple[int, int], offset: int, cost: int) -> None:
    """After the wait it fits; one unit of time before it does not, and without a wait it fits at once.

    A state that is fuller than full counts as full from the moment it was seen.
    """
    interval, capacity = numbers
    span = interval * capacity
    cost = min(cost, capacity)
    state = bucket.bounded(START + offset, START, span)
    wait = bucket.wait(START + offset, START, interval, span, cost)
    assert bucket.pour(state, START + wait, interval, span, cost) is not None
    if wait:
        assert bucket.pour(state, START + wait - 1, interval, span, cost) is None
    assert wait <= span


@given(NUMBERS, st.lists(st.integers(0, 5), max_size=6), st.randoms(use_true_random=False), st.integers(0, 10**7))
def test_the_order_within_a_moment_does_not_matter(
    numbers: tuple[int, int], costs: list[int], random: object, before: int
) -> None:
    """What is poured at one instant leaves the same state in any order, and ones are admitted equally often."""
    interval, capacity = numbers
    span = interval * capacity

    def poured(order: list[int]) -> tuple[int, int]:
        state, count = START + min(before, span), 0
        for cost in order:
            after = bucket.pour(state, START, interval, span, cost)
            count, state = (count, state) if after is None else (count + 1, after)
        return state, count

    fitting = [
        cost for cost in costs if sum(costs) <= bucket.remaining(START + min(before, span), START, interval, span)
    ]
    assert len({poured(list(order)) for order in itertools.permutations(fitting)}) == 1
    ones = [1] * capacity + [0] * len(costs)
    assert poured(ones) == poured(ones[::-1])


@given(NUMBERS, st.integers(0, 10**9))
def test_a_fresh_bucket_admits_its_burst(numbers: tuple[int, int], now: int) -> None:
    """A fresh bucket admits exactly `burst` of cost 1 at one instant, and as much at once."""
    interval, capacity = numbers
    state, count = 0, 0
    while (after := bucket.pour(state, now, interval, interval * capacity, 1)) is not None:
        state, count = after, count + 1
    assert count == capacity
    assert bucket.pour(0, now, interval, interval * capacity, capacity) == state
    assert bucket.pour(0, now, interval, interval * capacity, capacity + 1) is None


@given(NUMBERS, st.integers(0, 10**12), st.integers(1, 50))
def test_a_clock_that_steps_back_grants_nothing(numbers: tuple[int, int], behind: int, cost: int) -> None:
    """A step back never makes room, and a full bucket seen then is empty again one span later at the latest."""
    interval, capacity = numbers
    span = interval * capacity
    full = START + span
    assert bucket.pour(full, START - min(behind, START), interval, span, cost) is None
    seen = bucket.bounded(full, START - min(behind, START), span)
    assert bucket.remaining(seen, START - min(behind, START) + span, interval, span) == capacity


def test_a_cost_of_nothing_changes_nothing() -> None:
    """What costs nothing fits a full bucket, and leaves it as full."""
    assert bucket.pour(START + 10, START, 1, 10, 0) == START + 10
    assert bucket.wait(START + 10, START, 1, 10, 0) == 0
