"""A judgement: a request on its way through the gate's steps, with their results so far.

Law: a judgement belongs to one request and one walk over the steps: each step finds in it what those before it have
left, and leaves there what it found. It never leaves the gate but inside a `NeedBody`, with which that walk goes on.
"""

from dataclasses import replace

from keyswap.model import (
    ANONYMOUS,
    UNCOUNTED,
    Admit,
    Claims,
    Code,
    Counted,
    Credential,
    NeedBody,
    Noted,
    Operation,
    Principal,
    Refuse,
    Request,
    Upstream,
)
from keyswap.operations.router import OperationMatch

NOWHERE = Operation("", "", Upstream("http", "unknown.invalid", 80))
"""The operation of a request to no documented one, or to one that is not known yet."""
UNKNOWN = Principal(None, None)
"""The principal of a request as long as that step is still to come."""


class BodyLimit(int):
    """A step's answer: it needs the body, of at most so many bytes."""


StepAnswer = Refuse | BodyLimit | None
"""A step's answer; None: the request may go on."""


class Judgement:
    """A request that is judged at `now` (epoch seconds); `body` is None until a step has asked for it."""

    __slots__ = (
        "body",
        "claims",
        "counted",
        "credential",
        "dry",
        "match",
        "noted",
        "now",
        "operation",
        "principal",
        "request",
        "shadow",
        "step",
        "token",
        "waited",
    )
    match: OperationMatch[Operation]
    """The operation and the values of its path, once that step has passed."""
    claims: Claims
    step: str
    """The step that is asked."""

    def __init__(self, request: Request, now: float, dry: bool = False) -> None:
        """`dry`: an explanation alone is wanted, of a request whose headers and body are not known."""
        self.request, self.now, self.dry = request, now, dry
        self.body: bytes | None = None
        self.waited: str | None = None
        self.credential: Credential | None = None
        self.principal, self.operation = UNKNOWN, NOWHERE
        self.counted: Counted = UNCOUNTED
        self.token: str | None = None
        self.shadow: tuple[Code, ...] = ()
        self.noted: tuple[Noted, ...] = ()

    @property
    def is_resumed(self) -> bool:
        """Whether the step that is asked has been asked before, and needed the body."""
        return self.waited == self.step

    def note(self, refused: Refuse) -> None:
        """The step that is asked would have refused the request, and is in shadow mode."""
        self.shadow = (*self.shadow, refused.code)
        self.noted = (*self.noted, Noted(self.step, refused.reason))

    def count(self, counted: Counted) -> None:
        """Limits let the request through, those in shadow mode among them that are full."""
        self.counted = counted
        for refused in counted.shadow:
            self.note(refused)

    def refused(self, refused: Refuse) -> Refuse:
        """A step's refusal, with all that is known by then. One that names its step is whole already."""
        if refused.step is not None:
            return refused
        return Refuse(
            refused.code,
            refused.reason,
            refused.key_id,
            refused.allow,
            refused.required,
            refused.missing,
            refused.errors,
            refused.limit,
            refused.retry_after_s,
            refused.levels or self.counted.levels,
            (*self.shadow, *refused.shadow),
            refused.enforced,
            None if self.principal is UNKNOWN else self.principal,
            None if self.operation is NOWHERE else self.operation,
            refused.detail,
            refused.presented,
            self.step,
            refused.hint,
            (*self.noted, *refused.noted),
        )

    def admitted(self) -> Admit:
        """All steps have passed."""
        claims = self.claims if self.principal is not ANONYMOUS else None
        return Admit(self.principal, claims, self.token, self.operation, self.shadow, self.counted, self.noted)

    def waiting(self, limit: int) -> NeedBody:
        """The step that is asked needs a body of at most `limit` bytes before it can answer."""
        self.waited = self.step
        if self.principal is not UNKNOWN and self.credential is not None:
            self.credential = replace(self.credential, value="")  # a body may take long
        admit = Admit(self.principal, None, None, self.operation, self.shadow, self.counted, self.noted)
        return NeedBody(self.request, admit, self.step, limit, self)


def with_limits(refused: Refuse, counted: Counted, step: str) -> Refuse:
    """A refusal with the levels of limits that were counted in its step, and what those in shadow mode say of it."""
    codes = tuple([full.code for full in counted.shadow])
    noted = tuple([Noted(step, full.reason) for full in counted.shadow])
    return replace(refused, levels=counted.levels, shadow=codes, noted=noted)
