"""One exchange: a request that its head has admitted, and its response, from the decision to the end.

Law: an exchange goes one way through its states, and `_NEXT` is every step that there is: an event that comes too late
changes none. Its decision line is written once, when its outcome is known. What it has counted is released once, when
it is over, however it ends. The policy that admitted it judges and tells it to its end, whatever is in force by then.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from enum import IntEnum
from typing import NamedTuple, Protocol

from mitmproxy.http import HTTPFlow

from keyswap.model import UNCOUNTED, WIRE, Admit, Code, Counted, NeedBody, Principal, Refuse, nothing
from keyswap.request.header_policy import SanitizedHeaders
from keyswap.shell.decisions.record import Line
from keyswap.shell.runtime.active_policy import ActivePolicy


class ExchangeState(IntEnum):
    """How far an exchange has come. From `STREAMING` on its outcome is known, and its decision line written."""

    JUDGING = 0
    """Its head was admitted, and is not forwarded yet."""
    BODY = 1
    """Its body decides, and is still coming."""
    FORWARDED = 2
    """The backend has it; no byte of a response has reached the caller."""
    STREAMING = 3
    """Its response reaches the caller as it comes."""
    ANSWERED = 4
    """Its response is whole, and its body still comes."""
    REFUSED = 5
    """The gateway answers it; its stream has not ended."""
    DONE = 6
    CUT = 7
    """It ended in the middle of its response."""


_SETTLED = frozenset((ExchangeState.STREAMING, ExchangeState.ANSWERED, ExchangeState.REFUSED, ExchangeState.DONE))
"""Its outcome becomes known, and its decision line is written."""
_NEXT: Mapping[ExchangeState, frozenset[ExchangeState]] = {
    ExchangeState.JUDGING: _SETTLED | {ExchangeState.BODY, ExchangeState.FORWARDED},
    ExchangeState.BODY: _SETTLED | {ExchangeState.FORWARDED},
    ExchangeState.FORWARDED: _SETTLED,
    ExchangeState.STREAMING: frozenset((ExchangeState.ANSWERED, ExchangeState.DONE, ExchangeState.CUT)),
    ExchangeState.REFUSED: frozenset((ExchangeState.ANSWERED, ExchangeState.DONE)),
    ExchangeState.ANSWERED: frozenset((ExchangeState.DONE,)),
    ExchangeState.DONE: frozenset(),
    ExchangeState.CUT: frozenset(),
}


_LEFT = Refuse(Code.INVALID_REQUEST, "the caller left before the webhook's body was whole", step=WIRE)


class Outcome(NamedTuple):
    """What became of an exchange."""

    status: int | None
    """Of the response; None: the caller was gone before there was one."""
    refused: Refuse | None = None
    """Why the gateway ended it; None: the backend's response is its end."""


class AwaitingBody(NamedTuple):
    """An exchange that its body decides, and what its head has settled."""

    need: NeedBody
    sanitized: SanitizedHeaders
    gate_s: float
    """What judging the head took."""


class ResponseStep(Protocol):
    """Sees an exchange's response after its head: every part of its body, in one piece or in many, and the end."""

    def chunk(self, data: bytes) -> bytes:
        """What the caller gets instead of a part of the body; a last, empty one comes behind a body in many."""

    def end(self) -> None:
        """The response is whole."""


class PlaceKeeper(Protocol):
    """The connection over which an exchange was forwarded."""

    def owe(self, exchange: "Exchange") -> bool:
        """Take over what an exchange has counted until its backend is done with it; False: the backend is."""


class Exchange:
    """A request that its head has admitted, until it is over. Most never change what stands here before `__init__`."""

    state = ExchangeState.JUDGING
    has_begun = False
    """A response has begun to reach the caller, or would have if the exchange had not ended."""
    is_webhook = False
    """The gateway takes its body, and answers it."""
    awaiting: AwaitingBody | None = None
    waits_since: float | None = None
    """When the sweep first saw the request ended and no response begun."""
    late: str | None = None
    """Why its connection upstream was not made in time; None: it was."""
    ended_by: Refuse | None = None
    """Why the gateway has ended it."""
    is_untold = False
    """Its outcome is known, and writing its decision line has failed."""
    step: ResponseStep | None = None
    unsent: list[bytes] | None = None
    """The body of the refusal that was put in place of its response."""
    on_end: Callable[[], None] = staticmethod(nothing)
    """Is told that it is over; being told again changes nothing."""

    def __init__(
        self,
        flow: HTTPFlow,
        principal: Principal,
        line: Line,
        policy: ActivePolicy,
        record: Callable[[Line, ActivePolicy], None],
        closes: bool,
        counted: Counted = UNCOUNTED,
    ) -> None:
        """`policy` was in force when its head was admitted; `record` writes a decision line as a policy has it.

        `closes`: the caller's connection is closed after it; `counted`: the limits that it has touched, and its places
        in flight while it holds them.
        """
        self.flow, self.principal, self.line, self.policy, self.record = flow, principal, line, policy, record
        self.closes, self.counted, self.sent = closes, counted, time.perf_counter()
        """`sent`: when it went on to its backend, or was admitted by its head; seconds of `time.perf_counter`."""

    # ---- The way through its states

    def await_body(self, awaiting: AwaitingBody | None) -> None:
        """Its body decides; None: its body is a webhook."""
        self._reach(ExchangeState.BODY)
        self.awaiting, self.is_webhook = awaiting, awaiting is None

    def forward(self, decision: Admit | None = None, gate_s: float = 0.0) -> None:
        """It is on its way to the backend; by this decision, where its body was judged in `gate_s`."""
        if decision is not None:
            self.line = self.line._replace(decision=decision, gate_s=gate_s)
            self.principal, self.counted = decision.principal, decision.counted
            self.sent = time.perf_counter()
        self.awaiting = None
        self._reach(ExchangeState.FORWARDED)

    def stream(self, outcome: Outcome) -> None:
        """A response begins to reach the caller, the backend's or a refusal in its place."""
        self.has_begun = True
        self._settle(ExchangeState.STREAMING, outcome)

    def refuse(self, outcome: Outcome) -> None:
        """The gateway answers it."""
        self._settle(ExchangeState.REFUSED, outcome)

    def answer(self, outcome: Outcome) -> None:
        """Its response is whole."""
        self._settle(ExchangeState.ANSWERED, outcome)

    def decline(self, line: Line | None) -> None:
        """Its body was refused, by a decision of its own, or a webhook's was taken, which has no line."""
        was_settled, self.awaiting = self.is_settled, None
        self._reach(ExchangeState.REFUSED)
        if line is not None and (not was_settled or self.is_untold):
            self._tell(line)

    def cut(self, refused: Refuse) -> None:
        """The gateway ends it in the middle of its response: told by a line of its own, behind that of its decision."""
        admit = self.line.decision
        operation = admit.operation if isinstance(admit, Admit) else None
        decision = replace(refused, principal=self.principal, operation=operation)
        self.record(self.line._replace(decision=decision), self.policy)

    def finish(self, outcome: Outcome | None = None, upstream: PlaceKeeper | None = None) -> None:
        """It is over: its line is written if it was not, and what it has counted is released.

        `outcome`: None where it is known, or nobody wants to know. `upstream` may take over what was counted.
        """
        try:
            if outcome is not None:
                self._settle(ExchangeState.DONE, outcome)
            self._reach(ExchangeState.CUT if self.state is ExchangeState.STREAMING else ExchangeState.DONE)
            self.on_end()
        finally:
            is_taken_over = False
            try:
                is_taken_over = upstream is not None and upstream.owe(self)
            finally:
                if not is_taken_over:
                    self.release()

    def leave(self, upstream: PlaceKeeper | None = None) -> None:
        """It is over because its caller is gone."""
        self.finish(self.left, upstream)

    def release(self) -> None:
        """What it has counted is in flight no longer; doing it again changes nothing."""
        if self.holds_places:
            self.hand_over().give_back()

    def _settle(self, state: ExchangeState, outcome: Outcome) -> None:
        is_known = self.state >= ExchangeState.STREAMING
        if state in _NEXT[self.state]:
            self.state = state
        if not is_known or self.is_untold:
            upstream_s = time.perf_counter() - self.sent
            self._tell(self.line.ended(outcome.status, upstream_s, outcome.refused))

    def _tell(self, line: Line) -> None:
        """Write its decision line; if that fails, whoever settles it next tries again."""
        self.is_untold = False
        try:
            self.record(line, self.policy)
        except Exception:
            self.is_untold = True
            raise

    def _reach(self, state: ExchangeState) -> None:
        if state in _NEXT[self.state]:
            self.state = state

    # ---- What others ask of it

    @property
    def is_settled(self) -> bool:
        """Whether its outcome is known, and its decision line written."""
        return self.state >= ExchangeState.STREAMING

    @property
    def left(self) -> Outcome:
        """Its outcome when its caller is gone."""
        return Outcome(None, _LEFT if self.is_webhook else None)

    @property
    def awaits_body(self) -> bool:
        """Whether its body decides."""
        return self.state is ExchangeState.BODY

    @property
    def holds_places(self) -> bool:
        """Whether something is to be released when it is over."""
        return self.counted.give_back is not nothing

    def hand_over(self) -> Counted:
        """What it has counted, which somebody else releases; its levels stay known here."""
        counted = self.counted
        self.counted = Counted(counted.levels, counted.shadow, nothing, counted.watched)
        return counted

    @property
    def address(self) -> tuple[str, int] | None:
        """Host and port of the backend that it was admitted to; None: none, as a webhook."""
        decision = self.line.decision
        admit = decision.admit if isinstance(decision, NeedBody) else decision
        return (admit.upstream.host, admit.upstream.port) if isinstance(admit, Admit) else None
