"""What the gate decides of a request, and what its steps said.

Law: a token is in no `repr`; what limits have counted is given back once, by whoever holds the decision.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from keyswap.model.caller import Claims, Principal
from keyswap.model.level import Level
from keyswap.model.operation import Operation, Upstream
from keyswap.model.refusal import Code, Noted, Refuse
from keyswap.model.request import Headers, Request


def nothing() -> None:
    """What there is to give back when nothing was taken."""


def no_places() -> tuple[str, ...]:
    """What is held when nothing is."""
    return ()


class Counted(NamedTuple):
    """What limits said of a request that they let through: their levels, and what those would have said that look on.

    `give_back` returns its places in flight, when it has ended; doing it again changes nothing.
    """

    levels: tuple[Level, ...] = ()
    shadow: "tuple[Refuse, ...]" = ()
    give_back: Callable[[], None] = nothing
    watched: tuple[Level, ...] = ()
    """The levels of limits that only look on: for the log, not for callers."""
    describe: Callable[[], tuple[str, ...]] = no_places
    """What says of its places in flight how another process can give them back; empty: it has none."""


UNCOUNTED = Counted()


@dataclass(frozen=True, slots=True)
class Admit:
    """The request goes to the operation's upstream with `token` in place of its credential; None: without either.

    `shadow` are the codes that would have refused it, were their steps enforced, for the reasons in `noted`.
    """

    principal: Principal
    claims: Claims | None
    token: str | None = field(repr=False)
    operation: Operation
    shadow: tuple[Code, ...] = ()
    counted: Counted = field(default=UNCOUNTED, compare=False)
    noted: tuple[Noted, ...] = field(default=(), compare=False)

    @property
    def upstream(self) -> Upstream:
        """Where it goes."""
        return self.operation.upstream


@dataclass(frozen=True, slots=True)
class Reply:
    """The gateway answers in the backend's place, 204 with these fields."""

    headers: Headers


class Preflight(NamedTuple):
    """A browser asks whether it may send a request of this method; `reply` None: the backend is to say."""

    method: str
    reply: Reply | None


@dataclass(frozen=True, slots=True)
class NeedBody:
    """A step needs the body, of at most `limit` bytes; everything before that step admits the request.

    `admit` is what is known by then: nobody, and no operation, where those steps are still to come.
    """

    request: Request
    admit: Admit
    step: str
    limit: int
    judgement: object = field(default=None, repr=False, compare=False)
    """Where the gate goes on: for its eyes alone."""

    def refuse(self, code: Code, reason: str) -> Refuse:
        """The step's refusal of a body that cannot be had."""
        admit = self.admit
        return Refuse(
            code,
            reason,
            levels=admit.counted.levels,
            shadow=admit.shadow,
            noted=admit.noted,
            principal=admit.principal,
            operation=admit.operation,
            step=self.step,
        )


Decision = Admit | NeedBody | Reply | Refuse


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one step said of a request: a line of an explanation. `result` is pass, refuse, shadow or skip.

    `us` is the time it took in microseconds; None: the request was served, where single steps are not measured.
    """

    step: str
    result: str
    detail: str
    us: float | None

    def as_json(self) -> Mapping[str, object]:
        """The shape of CONTRACT §2."""
        return {
            "step": self.step,
            "result": self.result,
            "detail": self.detail,
            "us": None if self.us is None else round(self.us, 1),
        }
