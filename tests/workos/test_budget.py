"""Guarantees of workos.budget and workos.breaker: pure functions of time."""

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from keyswap.workos.breaker import FAILURES, FIRST_S, MOST_S, Breaker
from keyswap.workos.budget import OwnBudget, Unlimited
from straight import straight

CALLS = st.lists(st.tuples(st.floats(0, 2), st.booleans()), max_size=300)


def may(budget: OwnBudget, known: bool, now: float) -> bool:
    return straight(budget.may_call(known, now))


@settings(deadline=None, max_examples=30)
@given(CALLS, st.sampled_from([0.5, 1.0, 3.0, 50.0]))
def test_within_any_span(calls: list[tuple[float, bool]], rate: float) -> None:
    """Between any two moments at most rate × time + burst calls are let through; of guesses, + half of the burst."""
    budget, now, burst = OwnBudget(rate), 0.0, max(2.0, rate)
    through: list[tuple[float, bool]] = []
    for wait_s, known in calls:
        now += wait_s
        if may(budget, known, now):
            through.append((now, known))
    for only, share in ((False, 1.0), (True, 0.5)):
        times = [at for at, known in through if not (only and known)]
        for first in range(0, len(times), 7):
            for last in range(first, len(times)):
                assert last - first + 1 <= rate * (times[last] - times[first]) + share * burst + 1e-6


@settings(deadline=None, max_examples=30)
@given(st.integers(10, 500))
def test_guesses_starve_nobody(guesses: int) -> None:
    """However many guess, known keys get the whole rate; while there are none, guesses get it."""
    budget, got = OwnBudget(10), 0
    for tenth in range(200):
        for _ in range(guesses // 10):
            may(budget, False, tenth / 10)
        got += may(budget, True, tenth / 10)
    assert got == 200
    budget = OwnBudget(10)
    assert sum(may(budget, False, tenth / 20) for tenth in range(400)) >= 200


def test_a_clock_that_steps_back() -> None:
    """A clock that steps back locks nobody out for longer than a full bucket takes to drain."""
    budget = OwnBudget(10)
    assert all(may(budget, True, 1e6) for _ in range(10))
    assert not may(budget, True, 0.0)
    assert may(budget, True, 1.1)


def test_no_budget() -> None:
    """Without a budget everything is let through."""
    assert asyncio.run(Unlimited().may_call(False, 0.0))


def failing(breaker: Breaker, now: float, times: int = 1) -> None:
    for _ in range(times):
        probe = breaker.admits(now)
        assert probe is not None
        breaker.failed(now, probe)


def test_it_opens_after_failures_in_a_row() -> None:
    """Five failures in a row open it; a success in between does not let it come to that."""
    breaker = Breaker()
    failing(breaker, 0.0, FAILURES - 1)
    breaker.succeeded()
    failing(breaker, 0.0, FAILURES)
    assert breaker.admits(FIRST_S - 0.01) is None
    assert breaker.open_for_s(0.25) == FIRST_S - 0.25


def test_one_probe_and_twice_the_pause() -> None:
    """When the pause is over one probe goes; its failure doubles the pause, up to 30 s; its success closes it."""
    breaker, now = Breaker(), 0.0
    failing(breaker, now, FAILURES)
    for pause_s in (1, 2, 4, 8, 16, MOST_S, MOST_S):
        assert breaker.admits(now + pause_s - 0.01) is None
        now += pause_s
        assert breaker.admits(now) is True
        assert breaker.admits(now) is None
        breaker.failed(now, True)
    now += MOST_S
    assert breaker.admits(now) is True
    breaker.succeeded()
    assert breaker.admits(now) is False
    failing(breaker, now, FAILURES)
    assert breaker.admits(now + FIRST_S) is True


def test_a_probe_without_an_outcome() -> None:
    """A probe that was not made gives its place to the next; who was under way before takes nobody's place."""
    breaker = Breaker()
    failing(breaker, 0.0, FAILURES)
    assert breaker.admits(1.0) is True
    breaker.abandoned(False)
    breaker.failed(1.0, False)
    assert breaker.admits(1.0) is None
    breaker.abandoned(True)
    assert breaker.admits(1.0) is True
