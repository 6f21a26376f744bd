"""What is held of all requests together is bounded, and the right ones go."""

import gc
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from keyswap.shell.connections.memory_budget import MIB, PER_CALLER, PER_CONNECTION, TOGETHER, UNSEEN, Holdings, Piece


class Connection:
    """One with requests of these sizes, the oldest first."""

    def __init__(
        self, *sizes: int, address: str = "a", principal: object = None, limit: int = 0, since: float = 0.0
    ) -> None:
        self.requests = dict(enumerate(sizes))
        self.address, self.principal, self.limit, self.since = address, principal, limit, since
        self.ended: list[int] = []

    def pieces(self) -> list[Piece]:
        return [
            Piece(size, self.since + number, self.address, self.principal, self.limit, partial(self.end, number), self)
            for number, size in self.requests.items()
        ]

    def end(self, number: int) -> None:
        self.ended.append(number)
        del self.requests[number]

    def abort(self) -> None:
        raise NotImplementedError


class Troubled(Connection):
    """One that cannot be measured, or none of whose requests can be ended, until it is aborted."""

    def __init__(self, *sizes: int, measures: bool, **more: Any) -> None:
        super().__init__(*sizes, **more)
        self.measures, self.aborted = measures, 0

    def pieces(self) -> list[Piece]:
        if not self.measures:
            raise LookupError
        return super().pieces()

    def end(self, number: int) -> None:
        raise LookupError

    def abort(self) -> None:
        self.aborted += 1


def unexpected(error: Exception) -> None:
    raise AssertionError from error


def judged(*connections: Connection, report: Callable[[Exception], None] = unexpected) -> list[list[int]]:
    """Which requests of each have been ended, after much has come of all of them."""
    holdings = Holdings(lambda _address: None, report)
    for one in connections:
        holdings.came(one, UNSEEN)
    return [one.ended for one in connections]


def test_what_is_within_every_budget_stays() -> None:
    """Two addresses, two credentials, two connections of each, all of them near their budgets: nothing ends."""
    size = PER_CALLER // 2 - 1000
    assert judged(*[Connection(size, address="ab"[n // 2], principal=n // 2) for n in range(3)]) == [[], [], []]


def test_the_youngest_of_a_connection_end() -> None:
    """A connection that holds too much loses its youngest requests, as many as it needs."""
    (ended,) = judged(Connection(PER_CONNECTION - MIB, MIB // 2, MIB, MIB))
    assert ended == [3, 2]


def test_tiny_requests_are_ended_too() -> None:
    """However small each of them is: what they take together is bounded."""
    (ended,) = judged(Connection(*[500] * 50_000))
    assert PER_CONNECTION - 500 <= 500 * (50_000 - len(ended)) <= PER_CONNECTION


@pytest.mark.timing
@pytest.mark.parametrize(("addresses", "each", "size"), [(5_000, 1, 5_400), (2_000, 3, 4_400), (500, 12, 4_400)])
def test_who_relieves_the_process_is_found_in_time(addresses: int, each: int, size: int) -> None:
    """However many addresses hold a little: less than 50 ms for those that end, beyond what looking at all takes."""
    many = [Connection(*[size] * each, address=str(number)) for number in range(addresses)]
    holdings = Holdings(lambda _address: None, unexpected)

    def spent() -> float:
        began = time.thread_time()
        holdings.weigh()
        return time.thread_time() - began

    for one in many:
        holdings.came(one, 1)
    gc.disable()  # it would look through what other tests have left
    first = spent()
    gc.enable()
    assert sum(len(one.ended) for one in many) > 100
    for one in many:
        holdings.came(one, 1)
    assert first - spent() < 0.05


@pytest.mark.parametrize("shared", ["address", "principal"])
def test_the_youngest_of_a_caller_end(shared: str) -> None:
    """However many connections an address, or a credential, spreads over: what is youngest of all of them ends."""
    half = PER_CALLER // 2
    many = [
        Connection(half, since=10.0 * n, **{"address": str(n), "principal": n, shared: "same"})  # type: ignore[arg-type]
        for n in range(3)
    ]
    assert judged(*many) == [[], [], [0]]


def test_the_heaviest_address_relieves_the_process() -> None:
    """Where all together hold too much, an address that holds little keeps its requests, though they are the youngest."""
    heavy = [Connection(*[MIB] * 7, address=f"heavy {n}", since=float(n)) for n in range(TOGETHER // MIB // 7 + 2)]
    light = Connection(MIB // 2, address="light", since=1e6)
    *ended, spared = judged(*heavy, light)
    assert spared == [] and sum(map(len, ended)) >= 1
    assert sum(sum(one.requests.values()) for one in heavy) + MIB // 2 <= TOGETHER
    assert max(map(len, ended)) - min(map(len, ended)) <= 1


def test_the_policy_may_let_more_be_judged() -> None:
    """A body as long as the policy says is judged, and a second one beside it, however small the budgets are."""
    large = 20 * MIB
    assert judged(Connection(large, large - 1, limit=large)) == [[]]
    assert judged(Connection(large, large, MIB, limit=large)) == [[2]]


def test_what_is_held_no_more_counts_no_more() -> None:
    """Nothing has to be given back: what has ended, in whatever way, or whose connection is closed, is not measured."""
    holdings = Holdings(lambda _address: None, unexpected)
    for _ in range(100):
        one, other = Connection(7 * MIB), Connection(7 * MIB, since=1.0, address="b")
        holdings.came(one, UNSEEN)
        one.requests.clear()
        holdings.came(other, UNSEEN)
        holdings.forget(other)
        assert not one.ended and not other.ended
    holdings.weigh()
    assert not holdings._of and not holdings._moved


@pytest.mark.parametrize("measures", [True, False])
def test_trouble_with_one_connection_is_its_own(measures: bool) -> None:
    """A connection that cannot be measured, or ended, is reported and aborted: who reads just now notices nothing, and
    all others are judged, before it and after it."""
    size, reported = PER_CONNECTION // 2 + 1, list[Exception]()
    others = [Connection(size, size, address=str(number)) for number in range(2)]
    troubled = Troubled(size, size, measures=measures, address="t")
    assert judged(others[0], troubled, others[1], report=reported.append) == [[1], [], [1]]
    assert troubled.aborted and {type(error) for error in reported} == {LookupError}
