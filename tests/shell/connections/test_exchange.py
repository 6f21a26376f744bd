"""An exchange goes one way through its states, has one decision line, and releases what it has counted once."""

from itertools import product
from types import SimpleNamespace
from typing import Any

import pytest

from keyswap.model import ANONYMOUS, UNCOUNTED, Code, Refuse
from keyswap.shell.connections.exchange import AwaitingBody, Exchange, ExchangeState, Outcome
from keyswap.shell.decisions.record import Line

REFUSED = Refuse(Code.UPSTREAM_TIMEOUT, "late")
FLOW: Any = SimpleNamespace()
POLICY: Any = SimpleNamespace()
BODY: Any = SimpleNamespace()


class Site:
    """An exchange, and what becomes known of it."""

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self.released: list[int] = []
        line = Line(0.0, "id", REFUSED, None, "GET", b"/", "", 0.0)
        counted = UNCOUNTED._replace(give_back=lambda: self.released.append(1))
        self.exchange = Exchange(FLOW, ANONYMOUS, line, POLICY, self.record, False, counted)

    def record(self, line: Line, policy: Any) -> None:
        assert policy is POLICY
        self.lines.append(line)

    def do(self, event: str) -> None:
        exchange, outcome = self.exchange, Outcome(200)
        if event == "await":
            exchange.await_body(AwaitingBody(BODY, BODY, 0.0))
        elif event == "forward":
            exchange.forward()
        elif event == "decline":
            exchange.decline(exchange.line._replace(status=403))
        elif event in {"leave", "end"}:
            exchange.leave() if event == "leave" else exchange.finish()
        else:
            getattr(exchange, event)(outcome)


EVENTS = ("await", "forward", "stream", "answer", "refuse", "decline", "finish", "leave", "end")


def test_whatever_comes_there_is_one_line_and_one_release() -> None:
    """In whatever order events come, an exchange that ends has one line, of its first outcome, and holds nothing."""
    for events in product(EVENTS, repeat=4):
        site = Site()
        for event in events:
            before = site.exchange.state
            site.do(event)
            assert site.exchange.state is before or before not in {ExchangeState.DONE, ExchangeState.CUT}
        site.do("finish")
        assert (
            site.exchange.state in {ExchangeState.DONE, ExchangeState.CUT}
            and site.exchange.is_settled
            and site.released == [1]
        )
        outcomes = [event for event in events if event not in {"await", "forward"}]
        assert len(site.lines) == (0 if outcomes[:1] == ["end"] else 1), events


@pytest.mark.parametrize(
    ("events", "state"),
    [(("forward", "stream"), ExchangeState.CUT), (("forward", "stream", "answer"), ExchangeState.DONE)],
)
def test_a_response_that_is_not_whole_was_cut(events: tuple[str, ...], state: ExchangeState) -> None:
    """An exchange that ends while its response is under way is cut; one whose response is whole is done."""
    site = Site()
    for event in (*events, "end"):
        site.do(event)
    assert site.exchange.state is state


def test_what_a_backend_still_owes_is_released_by_its_connection() -> None:
    """Places that the connection upstream takes over are not released with the exchange."""
    site = Site()
    taken: list[Any] = []

    class Owing:
        def owe(self, exchange: Exchange) -> bool:
            taken.append(exchange.hand_over())
            return True

    site.exchange.finish(Outcome(504, REFUSED), Owing())
    site.exchange.finish()
    assert not site.released and not site.exchange.holds_places
    taken[0].give_back()
    assert site.released == [1]


def test_a_line_that_fails_holds_nothing_back() -> None:
    """Where the decision line cannot be written, what the exchange has counted is released all the same."""
    site = Site()

    def fails(*_: Any) -> None:
        raise RuntimeError("a bug")

    site.exchange.record = fails
    with pytest.raises(RuntimeError):
        site.exchange.finish(Outcome(200))
    assert site.released == [1] and site.exchange.state is ExchangeState.DONE
