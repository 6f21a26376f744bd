"""What every limit store guarantees: a new store is a row of tests/limits/test_contract.py, which says where it is.

Subclasses provide the fixture `store`, which may ask for `runner`: everything of one test runs in that loop. Stores whose
clock can be set override `clock`, and pass `ClockedStoreContract` (contract_clocked) too.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keyswap.limits.limit import Kind, Limit, LimitRequest, LimitStore, Reservation
from tests.limits.parts import Clock, Driver, asking, back, named, places, quota, rate

KINDS: Mapping[str, Callable[[int], Limit]] = {"rate": rate, "quota": quota, "concurrency": places}
YEAR_S = 366 * 86_400
POOL = (rate(3), rate(5), quota(2), quota(6, "day"), places(1), places(2))
SETTINGS = settings(
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors],
)


class Pour(NamedTuple):
    """One request: which limits of the pool, at which cost, and whether each is enforced."""

    asks: list[tuple[int, bool]]
    cost: int
    dry: bool


POURS = st.builds(
    Pour,
    st.lists(
        st.tuples(st.integers(0, len(POOL) - 1), st.sampled_from([True, True, False])),
        min_size=1,
        max_size=4,
        unique_by=lambda ask: ask[0],
    ),
    st.sampled_from([1, 1, 1, 0, 2]),
    st.sampled_from([False, False, False, True]),
)
STEPS = st.lists(POURS | st.integers(0, 30) | st.sets(st.integers(0, len(POOL) - 1), min_size=1), max_size=25)
"""Requests; the end of one; limits that are reset."""


class Model:
    """Counts, as the law says it."""

    def __init__(self) -> None:
        self.subjects = [named(limit) for limit in POOL]
        self.counts = [0] * len(POOL)
        self.flying: list[tuple[Reservation, list[int]]] = []

    def acquire(self, driver: Driver, pour: Pour) -> None:
        asks = [LimitRequest(POOL[at], self.subjects[at], pour.cost, enforced) for at, enforced in pour.asks]
        poured = driver.acquire(*asks, dry=pour.dry)
        after = [self.counts[at] + (1 if POOL[at].kind is Kind.CONCURRENCY else pour.cost) for at, _ in pour.asks]
        fit = [number <= POOL[at].capacity for number, (at, _) in zip(after, pour.asks, strict=True)]
        assert poured.fits == all(one or not enforced for one, (_, enforced) in zip(fit, pour.asks, strict=True))
        taken = []
        for number, one, (at, _), level in zip(after, fit, pour.asks, poured.levels, strict=True):
            assert level.level == (number if one and poured.fits else self.counts[at])
            assert (level.retry_after_s == 0) == one
            if one and poured.fits and not pour.dry:
                self.counts[at] = number
                taken += [at] * (POOL[at].kind is Kind.CONCURRENCY)
        assert (poured.reservation is not None) == bool(taken)
        if poured.reservation:
            self.flying.append((poured.reservation, taken))

    def end(self, driver: Driver, which: int) -> None:
        if not self.flying:
            return
        place, taken = self.flying[which % len(self.flying)]
        place.release()
        driver.tend()
        for at in taken:
            self.counts[at] -= 1
        taken.clear()

    def reset(self, driver: Driver, which: set[int]) -> None:
        resettable = [at for at in which if POOL[at].kind is not Kind.CONCURRENCY]
        assert driver.reset(*[LimitRequest(POOL[at], self.subjects[at], 0) for at in which]) == sum(
            [self.counts[at] > 0 for at in resettable]
        )
        for at in resettable:
            self.counts[at] = 0

    def check(self, driver: Driver) -> None:
        asks = [LimitRequest(limit, subject, 0) for limit, subject in zip(POOL, self.subjects, strict=True)]
        states = driver.states(*asks)
        levels = [driver.store.level(ask.limit, states.get(ask.subject, 0), driver.now).level for ask in asks]
        assert levels == self.counts
        assert set(states) == {ask.subject for ask, count in zip(asks, self.counts, strict=True) if count}


class LimitStoreContract:
    @pytest.fixture
    def clock(self) -> Clock | None:
        return None

    @pytest.fixture
    def runner(self) -> Iterator[asyncio.Runner]:
        with asyncio.Runner() as runner:
            yield runner

    @pytest.fixture
    def driver(self, store: LimitStore, runner: asyncio.Runner, clock: Clock | None) -> Driver:
        return Driver(store, runner, clock)

    @pytest.fixture
    def used_up_ahead(self, driver: Driver) -> Callable[[LimitRequest], None]:
        """What uses a quota up by a clock that is a year ahead; stores with a clock of their own override it."""

        def use_up(ask: LimitRequest) -> None:
            whole = (ask._replace(cost=ask.limit.capacity),)
            assert driver.runner.run(driver.store.acquire(whole, driver.now + YEAR_S)).fits

        return use_up

    @SETTINGS
    @given(STEPS)
    def test_it_counts_as_the_law_says(self, driver: Driver, steps: list[Pour | int | set[int]]) -> None:
        """Whatever is asked, in any order: all enforced limits are poured or none, and each stands where it should."""
        model = Model()
        for step in steps:
            if isinstance(step, Pour):
                model.acquire(driver, step)
            elif isinstance(step, int):
                model.end(driver, step)
            else:
                model.reset(driver, step)
            model.check(driver)
        for place, _ in model.flying:
            place.release()
        driver.tend()

    @pytest.mark.parametrize("kind", KINDS)
    def test_a_fresh_limit_admits_its_capacity(self, driver: Driver, kind: str) -> None:
        """A fresh limit admits exactly its capacity at one instant."""
        assert driver.fill(asking(KINDS[kind](7))) == 7

    @pytest.mark.parametrize("kind", ["rate", "quota"])
    def test_an_ask_takes_as_much_as_its_cost(self, driver: Driver, kind: str) -> None:
        """A cost is as many ones; what is left below it is left for smaller ones."""
        limit = KINDS[kind](7)
        dear = asking(limit, 3)
        assert driver.fill(dear) == 2
        assert driver.fill(dear._replace(cost=1)) == 1
        assert driver.fits(dear._replace(cost=0))

    @pytest.mark.parametrize("first", [True, False])
    @pytest.mark.parametrize("other", KINDS)
    @pytest.mark.parametrize("full", KINDS)
    def test_an_exhausted_limit_leaves_the_others_as_they_were(
        self, driver: Driver, full: str, other: str, first: bool
    ) -> None:
        """A request that one limit refuses changes nothing: no state of another, nor its own."""
        exhausted, free = asking(KINDS[full](2)), asking(KINDS[other](9))
        driver.fill(exhausted)
        driver.fits(free)
        before = driver.states(exhausted, free)
        asks = (exhausted, free) if first else (free, exhausted)
        for _ in range(20):
            poured = driver.acquire(*asks)
            assert not poured.fits
            assert poured.reservation is None
            assert [level.retry_after_s > 0 for level in poured.levels] == [ask is exhausted for ask in asks]
        assert driver.states(exhausted, free) == before
        assert driver.fill(free) == 8

    def test_released_places_can_be_taken_again(self, driver: Driver) -> None:
        """A place that is given back is free, once, and in the end nothing is in flight."""
        ask = asking(places(3))
        held = [driver.acquire(ask) for _ in range(3)]
        assert not driver.fits(ask)
        for _ in range(3):
            back(held[0])
        driver.tend()
        assert driver.fill(ask) == 1
        for poured in held:
            back(poured)
        driver.tend()
        level = driver.level(ask)
        assert level
        assert level.level == 1, "the one that filled it"

    def test_one_reservation_holds_places_of_several_limits(self, driver: Driver) -> None:
        """One request's places are given back together."""
        one, two = asking(places(2)), asking(places(3))
        poured = driver.acquire(one, asking(rate(5)), two)
        assert driver.states(one, two) == {one.subject: 1, two.subject: 1}
        back(poured)
        driver.tend()
        assert driver.states(one, two) == {}

    def test_a_dry_run_changes_nothing(self, driver: Driver) -> None:
        """A dry pour says what would happen, holds nothing and leaves every state as it was."""
        asks = [asking(rate(2)), asking(quota(2)), asking(places(2))]
        for poured_before in range(3):
            before = driver.states(*asks)
            for _ in range(4):
                dry = driver.acquire(*asks, dry=True)
                assert dry.fits == (poured_before < 2)
                assert dry.reservation is None
            assert driver.states(*asks) == before
            assert driver.fits(*asks) == dry.fits

    @pytest.mark.parametrize("kind", KINDS)
    def test_a_shadowed_limit_is_counted_and_refuses_nothing(self, driver: Driver, kind: str) -> None:
        """A limit that only looks on refuses nobody, is poured when it fits, and says when it would have refused."""
        shadow, enforced = asking(KINDS[kind](2), enforced=False), asking(rate(4))
        answers = [driver.acquire(shadow, enforced) for _ in range(5)]
        assert [poured.fits for poured in answers] == [True] * 4 + [False]
        assert [poured.levels[0].level for poured in answers] == [1, 2, 2, 2, 2]
        assert [poured.levels[0].retry_after_s > 0 for poured in answers] == [False, False, True, True, True]

    def test_shadow_is_not_poured_for_the_refused(self, driver: Driver) -> None:
        """What is refused by an enforced limit is not counted by one that looks on."""
        shadow, enforced = asking(rate(9), enforced=False), asking(quota(1))
        driver.fits(enforced)
        assert not driver.fits(shadow, enforced)
        assert driver.states(shadow) == {}

    def test_requests_at_once_take_no_more_than_there_is(self, driver: Driver, runner: asyncio.Runner) -> None:
        """Sixty-four requests at once: exactly as many are admitted as there is room for."""
        asks = (asking(rate(20)), asking(places(40)), asking(quota(30)))

        async def storm() -> list[bool]:
            poured = await asyncio.gather(*[driver.store.acquire(asks, driver.now) for _ in range(64)])
            return [one.fits for one in poured]

        assert sum(runner.run(storm())) == 20
        assert list(driver.states(asks[1]).values()) == [20]

    @pytest.mark.parametrize("kind", KINDS)
    def test_any_text_can_name_a_subject(self, driver: Driver, kind: str) -> None:
        """Names of any length and script count apart, also those that differ in their last character alone."""
        limit: Limit = KINDS[kind](1)
        base = named(limit)
        names = [
            base,
            base + "x" * 300 + "1",
            base + "x" * 300 + "2",
            base + "ä{}%*",
            base + "日本" * 40,
            base + "日本" * 40 + "語",
        ]
        for name in names:
            assert driver.fill(asking(limit, subject=name)) == 1
        held = [one for one in driver.runner.run(driver.store.held(driver.now)) if one.subject.startswith(base)]
        assert len(held) == 6
        assert driver.runner.run(driver.store.empty(held, driver.now)) == (0 if kind == "concurrency" else 6)

    def test_another_window_is_another_quota(self, driver: Driver) -> None:
        """What is used of a month says nothing of an hour, when a policy or a plan changes the window."""
        month = asking(quota(200))
        hour = month._replace(limit=quota(5, "hour"))
        assert driver.fits(month._replace(cost=200))
        assert driver.fill(hour) == 5
        assert not driver.fits(month)
        assert driver.reset(month) >= 1
        assert driver.fits(month)
        assert driver.fits(hour)

    @pytest.mark.parametrize("window", ["hour", "day", "month"])
    def test_a_clock_that_was_ahead_locks_nobody_out(
        self, driver: Driver, used_up_ahead: Callable[[LimitRequest], None], window: str
    ) -> None:
        """A quota that was used up while the clock was a year ahead is there again once the clock is right, and is
        then listed, counted and over as any other."""
        ask = asking(quota(3, window))
        used_up_ahead(ask)
        assert driver.states(ask) == {}
        assert driver.acquire(ask, dry=True).levels[0].level == 1
        assert driver.fill(ask) == 3
        level = driver.level(ask)
        assert level
        assert (level.level, level.full_in_s <= {"hour": 3600, "day": 86_400}.get(window, 31 * 86_400)) == (3, True)

    def test_a_store_reports_its_status(self, driver: Driver) -> None:
        """A store that answers says that it is well, and has its memory written when asked."""
        driver.tend()
        driver.store.flush()
        assert driver.store.status()["healthy"] is True
