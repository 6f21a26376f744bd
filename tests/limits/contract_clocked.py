"""What a store guarantees whose clock can be set: the same law, told over time."""

import itertools
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyswap.limits.limit import LimitStore
from keyswap.limits.local.slot import NS
from tests.limits.contract import SETTINGS, LimitStoreContract
from tests.limits.parts import NOW, Clock, Driver, asking, back, places, quota, rate

NUMBERS = st.tuples(st.integers(1, 20), st.integers(1, 10**4), st.sampled_from([1, 60, 3600]))
"""Burst, and so much in so many seconds."""
JUMPS = st.lists(st.tuples(st.integers(-(10**10), 10**10) | st.integers(0, 10**7), st.integers(0, 4)), max_size=30)
"""Nanoseconds, and what is poured then."""


class ClockedStoreContract:
    """Subclasses provide `clock`, a Clock, and `store`, which lives by it."""

    runner = LimitStoreContract.runner

    @pytest.fixture
    def driver(self, store: LimitStore, runner: object, clock: Clock) -> Driver:
        return LimitStoreContract.driver.__wrapped__(self, store, runner, clock)  # type: ignore[attr-defined,no-any-return]

    @SETTINGS
    @given(NUMBERS, JUMPS)
    def test_never_more_than_burst_and_rate(
        self, driver: Driver, clock: Clock, numbers: tuple[int, int, int], jumps: list[tuple[int, int]]
    ) -> None:
        """In any window no more is admitted than burst + rate × the time that passed in it, wherever the clock jumps."""
        limit, passed, admitted = rate(*numbers), 0, list[tuple[int, int]]()
        ask = asking(limit)
        for later, cost in jumps:
            clock.ns += later
            passed += max(0, later)
            if driver.fits(ask._replace(cost=cost)):
                admitted.append((passed, cost))
        for first, last in itertools.combinations_with_replacement(range(len(admitted)), 2):
            poured = sum(cost for _, cost in admitted[first : last + 1])
            allowed = Fraction((admitted[last][0] - admitted[first][0]) * limit.number, limit.period_s * NS)
            assert poured <= limit.capacity + allowed

    @SETTINGS
    @given(NUMBERS, st.lists(st.tuples(st.integers(0, 10**10), st.integers(0, 4)), max_size=30))
    def test_a_rate_is_the_leaky_bucket_as_a_meter(
        self, driver: Driver, clock: Clock, numbers: tuple[int, int, int], moments: list[tuple[int, int]]
    ) -> None:
        """It decides as an exact leaky bucket does that drains by one unit of cost every whole interval."""
        limit, level = rate(*numbers), Fraction(0)
        ask, interval = asking(limit), limit.interval(NS)
        for later, cost in moments:
            clock.ns += later
            level = max(Fraction(0), level - Fraction(later, interval))
            poured = driver.acquire(ask._replace(cost=cost))
            assert poured.fits == (level + cost <= limit.capacity)
            level += cost * poured.fits
            assert poured.levels[0].remaining == int(limit.capacity - level)
            assert round(poured.levels[0].full_in_s * NS) == level * interval

    @pytest.mark.parametrize("cost", [1, 2, 5])
    @pytest.mark.parametrize(("number", "period_s"), [(1, 1), (7, 1), (3, 60), (999, 1), (1, 86400)])
    def test_retry_after_is_true(self, driver: Driver, clock: Clock, cost: int, number: int, period_s: int) -> None:
        """One unit of time before `retry_after_s` it is still refused; after exactly that long it is admitted."""
        ask = asking(rate(5, number, period_s), cost)
        driver.fits(ask._replace(cost=2))
        clock.go(0.0123)
        driver.fill(ask)
        wait = round(driver.acquire(ask).levels[0].retry_after_s * NS)
        clock.ns += wait - 1
        assert not driver.fits(ask)
        clock.ns += 1
        assert driver.fits(ask)

    @pytest.mark.parametrize("back_s", [0.5, 3, 10_000, 900_000])
    @pytest.mark.parametrize("enforced", [True, False])
    def test_a_clock_that_steps_back_grants_nothing_and_locks_nobody_out(
        self, driver: Driver, clock: Clock, back_s: float, enforced: bool
    ) -> None:
        """A step back grants nothing; who is refused then waits no longer than a full bucket takes to drain."""
        ask = asking(rate(4, 1, 1), enforced=enforced)
        for _ in range(4):
            driver.fits(ask)
        clock.ns -= round(back_s * NS)
        assert driver.acquire(ask).levels[0].retry_after_s == pytest.approx(1 if back_s else 0)
        clock.ns += 1 * NS
        assert driver.acquire(ask).levels[0].retry_after_s == 0
        assert driver.acquire(ask).levels[0].retry_after_s > 0
        clock.ns += 4 * NS
        assert [driver.acquire(ask).levels[0].retry_after_s == 0 for _ in range(5)] == [True] * 4 + [False]

    def test_a_clock_that_jumps_ahead_empties_a_bucket_and_no_more(self, driver: Driver, clock: Clock) -> None:
        """A jump ahead empties a bucket and no more; what was refused is gone from the list."""
        ask = asking(rate(4, 1, 1))
        assert driver.fill(ask) == 4
        clock.go(10**8)
        assert driver.states(ask) == {}
        assert driver.reset(ask) == 0
        assert driver.fill(ask) == 4

    @pytest.mark.parametrize("enforced", [True, False])
    def test_a_smaller_limit_holds_at_once(self, driver: Driver, clock: Clock, enforced: bool) -> None:
        """A bucket of a limit that has become smaller counts as full, and drains from then on as the new numbers say."""
        large = asking(rate(1000, 1, 1), enforced=enforced)
        small = large._replace(limit=rate(2, 1, 1))
        driver.fits(large._replace(cost=900))
        poured = driver.acquire(small)
        assert (poured.levels[0].level, poured.levels[0].retry_after_s) == (2, 1)
        clock.go(1)
        assert driver.acquire(small).levels[0].retry_after_s == 0

    @pytest.mark.parametrize(
        ("window", "ends"), [("hour", NOW + 3600), ("day", NOW + 57600), ("month", NOW + 1_440_000)]
    )
    def test_quotas_follow_the_calendar(self, driver: Driver, clock: Clock, window: str, ends: float) -> None:
        """A quota is there again when its window ends, which is when it says; not a moment before."""
        ask = asking(quota(3, window))
        assert driver.fill(ask) == 3
        level = driver.acquire(ask).levels[0]
        assert level.retry_after_s == level.full_in_s == ends - NOW
        clock.now = ends - 0.000_001
        assert not driver.fits(ask)
        clock.now = ends
        assert driver.states(ask) == {}
        assert driver.fill(ask) == 3

    @pytest.mark.parametrize(
        ("window", "back_s"),
        [(window, back_s) for window in ("hour", "day", "month") for back_s in (0.000_001, 1, 3600)]
        + [("day", 86_400), ("month", 86_400), ("month", 40 * 86_400), ("month", 45 * 86_400)],
    )
    def test_a_step_back_resets_no_quota(self, driver: Driver, clock: Clock, window: str, back_s: float) -> None:
        """A calendar clock that steps back by up to one window, also across the window's begin, gives nothing anew."""
        ask = asking(quota(3, window))
        assert driver.fill(ask) == 3
        clock.now -= back_s
        assert not driver.fits(ask)
        assert driver.states(ask) != {}
        clock.now += back_s
        assert not driver.fits(ask)

    @pytest.mark.parametrize(
        ("window", "back_s"), [("hour", 3600.000_001), ("day", 115_200.000_001), ("month", 45.5 * 86_400), ("day", 1e9)]
    )
    def test_a_quota_from_beyond_the_next_window_is_over(
        self, driver: Driver, clock: Clock, window: str, back_s: float
    ) -> None:
        """A quota that ends later than the window after the present one was begun by a clock that was ahead: over."""
        ask = asking(quota(3, window))
        assert driver.fill(ask) == 3
        clock.now -= back_s
        assert driver.states(ask) == {}
        assert driver.fill(ask) == 3

    def test_quota_costs_nothing_over_capacity(self, driver: Driver) -> None:
        """Of a quota that has become smaller than what is used nothing is left, and what costs nothing still passes."""
        ask = asking(quota(9), 8)
        assert driver.fits(ask)
        smaller = ask._replace(limit=quota(5))
        assert not driver.runner.run(driver.store.acquire((smaller._replace(cost=1),), driver.now)).fits
        assert driver.runner.run(driver.store.acquire((smaller._replace(cost=0),), driver.now)).fits

    def test_long_streams_keep_their_places(self, driver: Driver, clock: Clock) -> None:
        """A request that lasts for days holds its place until it ends."""
        ask = asking(places(1))
        poured = driver.acquire(ask)
        for _ in range(5):
            clock.go(86400)
            driver.tend()
            assert not driver.fits(ask)
        back(poured)
        assert driver.fits(ask)

    def test_long_streams_are_listed(self, driver: Driver, clock: Clock) -> None:
        """A request that lasts for a day is listed for as long as it does."""
        ask = asking(places(1))
        poured = driver.acquire(ask)
        clock.go(86400)
        driver.tend()
        assert driver.states(ask) == {ask.subject: 1}
        back(poured)
        assert driver.states(ask) == {}
