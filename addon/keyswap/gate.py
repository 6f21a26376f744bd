"""The gate: request in, decision out.

Law: the path of a request is the table `STEPS`, read from top to bottom: `decide` walks it, and the first refusal ends
it. A step answers with nothing, a refusal, or the limit of the body that it needs; an exception is a bug, and the
shell's to catch. Nothing on the warm path waits, reads a file or a clock. A new step is one row, with its name for all.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import dropwhile
from typing import NamedTuple

from keyswap import descriptions
from keyswap.judgement import NOWHERE, BodyLimit, Judgement, StepAnswer, with_limits
from keyswap.model import (
    ANONYMOUS,
    UNCOUNTED,
    Admit,
    Claims,
    Code,
    Counted,
    Credential,
    Decision,
    Headers,
    NeedBody,
    Operation,
    Preflight,
    Principal,
    Refuse,
    Request,
)
from keyswap.operations.router import OperationMatch

Verifier = Callable[[Credential, Request, float], Awaitable[Principal | Refuse]]
"""Credential → principal. Arguments: credential, request, epoch seconds."""

LimitStep = Callable[[Principal, Request, Operation, float, bool], Awaitable[Counted | Refuse]]
"""Counts a request. Arguments: principal, request, operation, epoch seconds, and whether only to say the levels."""


class Step(NamedTuple):
    """A row of the table: a step's name in explanations, metrics and decision lines, and what judges there."""

    name: str
    judge: "Callable[[Gate, Judgement], Awaitable[StepAnswer]]"
    describe: Callable[[Judgement], str | None]
    """What the step found in a request that passed it, in a few words; None: there was nothing for it to do."""
    can_shadow: bool = False
    """Its refusals may be noted only, where the policy says so; those of any other step always refuse."""


async def _uncounted(*_asked: object) -> Counted:
    """Without limits nothing is counted."""
    return UNCOUNTED


_MISSING = Refuse(
    Code.MISSING_CREDENTIAL, "no credential in any of the places that the policy names", step="credential"
)


@dataclass(frozen=True, slots=True)
class Gate:
    """The functions that the steps call: each field answers one question, as the policy has it."""

    path: Callable[[str, bytes], Refuse | None]
    credential: Callable[[Headers, str, bytes], Credential | Refuse | None]
    verifiers: Mapping[str, Verifier]
    operation: Callable[[str, bytes], OperationMatch[Operation] | Refuse]
    claims: Callable[[Principal, Operation], Claims]
    permission: Callable[[Claims, Operation], Refuse | None]
    parameters: Callable[[Request, OperationMatch[Operation]], Refuse | None]
    body_limit: Callable[[Request, OperationMatch[Operation]], int | None]
    body: Callable[[Request, OperationMatch[Operation], bytes], Refuse | None]
    mint: Callable[[Claims, float], str | Refuse]
    limits: LimitStep = _uncounted
    guesses: LimitStep = _uncounted
    """The limits of credentials that are not valid."""
    preflights: LimitStep = _uncounted
    """The limits of browsers' questions that are forwarded."""
    preflight: Callable[[Request], Preflight | None] = lambda _request: None
    dry: bool = False
    """Nothing is counted: only an explanation is wanted."""
    missing: Callable[[Headers, bytes], Refuse] = lambda _headers, _target: _MISSING
    """The refusal of who presents nothing where something is needed, by the step `credential`."""
    steps: tuple[Step, ...] = field(default_factory=lambda: STEPS)

    async def decide(self, request: Request, now: float) -> Decision:
        """Judge a request at `now` (epoch seconds)."""
        preflight = self.asks_first(request) if request.method == "OPTIONS" else None
        if preflight is not None:
            return await self.answer_preflight(preflight, request, now)
        return await self._walk(Judgement(request, now, self.dry), self.steps)

    async def resume(self, need: NeedBody, body: bytes, now: float) -> Admit | Refuse:
        """Judge a request on, once and with its body, at the step that needed it."""
        judgement = need.judgement
        assert isinstance(judgement, Judgement)
        judgement.body, judgement.now = body, now
        steps = tuple(dropwhile(lambda step: step.name != need.step, self.steps))
        decision = await self._walk(judgement, steps)
        assert isinstance(decision, Admit | Refuse), "a step needs a body that is there"
        return decision

    async def _walk(self, judgement: Judgement, steps: tuple[Step, ...]) -> Admit | NeedBody | Refuse:
        """Ask one step after the other. A refused request is in flight no longer; what it has poured stays poured."""
        is_open = False
        try:
            for judgement.step, judge, _, can_shadow in steps:
                answer = await judge(self, judgement)
                if answer is None:
                    continue
                if isinstance(answer, BodyLimit):
                    is_open = True
                    return judgement.waiting(answer)
                if answer.enforced or not can_shadow:
                    return judgement.refused(answer)
                judgement.note(answer)
            is_open = True
            return judgement.admitted()
        finally:
            if not is_open:
                judgement.counted.give_back()

    def minted(self, admit: Admit, now: float) -> Admit | Refuse:
        """The same admission, with a token of the keys that sign now."""
        token = self.signed(admit.principal, admit.claims, now)
        if isinstance(token, Refuse):
            levels, shadow, noted = admit.counted.levels, admit.shadow, admit.noted
            known = replace(token, principal=admit.principal, operation=admit.operation)
            return replace(known, levels=levels, shadow=shadow, noted=noted, step="mint")
        return replace(admit, token=token)

    def signed(self, principal: Principal, claims: Claims | None, now: float) -> str | Refuse | None:
        """The token that the backend gets; who presented nothing gets none."""
        if claims is None or principal is ANONYMOUS:
            return None
        session_token = principal.session_token
        return self.mint(claims, now) if session_token is None else session_token.value

    def asks_first(self, request: Request) -> Preflight | None:
        """The preflight that a request is; None: it is none, or the document has an OPTIONS of its own for it."""
        preflight = self.preflight(request)
        if preflight is None or preflight.reply is not None:
            return preflight
        match = self.operation(request.method, request.target)
        return preflight if isinstance(match, Refuse) or not match.operation.path else None

    async def answer_preflight(self, preflight: Preflight, request: Request, now: float) -> Decision:
        """Answer a preflight, or admit it to the backend of the operation that it asks for, if any."""
        refused = self.path(preflight.method, request.target)
        if refused is not None:
            return refused.at("path")
        if preflight.reply is not None:
            return preflight.reply
        match = self.operation(preflight.method, request.target)
        if isinstance(match, Refuse):
            return self.missing(request.headers, request.target)
        judgement = Judgement(request, now, self.dry)
        judgement.step, judgement.principal, judgement.operation = "limits", ANONYMOUS, match.operation
        counted = await self.preflights(ANONYMOUS, request, match.operation, now, self.dry)
        if isinstance(counted, Refuse):
            return judgement.refused(counted)
        judgement.count(counted)
        return judgement.admitted()

    async def guessed(self, refused: Refuse, request: Request, now: float) -> Refuse:
        """Count an invalid credential against the `invalid-credential` limits; over one of them, 429 replaces 401."""
        if refused.code is not Code.INVALID_CREDENTIAL or self.guesses is _uncounted:
            return refused
        match = self.operation(request.method, request.target)
        operation = NOWHERE if isinstance(match, Refuse) else match.operation
        counted = await self.guesses(ANONYMOUS, request, operation, now, self.dry)
        if isinstance(counted, Counted):
            return with_limits(refused, counted, "principal") if counted is not UNCOUNTED else refused
        return replace(counted, reason=f"{counted.reason}; {refused.reason}", key_id=refused.key_id)

    async def principal(self, credential: Credential, request: Request, now: float) -> Principal | Refuse:
        """The principal that presents this credential, verified by the verifier of its kind."""
        verifier = self.verifiers.get(credential.kind)
        if verifier is None:
            reason = f"the policy lists no issuer for a {credential.kind}'s token"
            return Refuse(Code.INVALID_CREDENTIAL, reason, presented=credential.kind)
        principal = await verifier(credential, request, now)
        if isinstance(principal, Refuse) and credential.kind == "session":
            ended = credential.from_cookie and principal.code is Code.INVALID_CREDENTIAL and self.is_public(request)
            return ANONYMOUS if ended else replace(principal, presented="session")
        return principal

    def is_public(self, request: Request) -> bool:
        """Whether the operation is public. There, an invalid session cookie is treated as anonymous.

        A browser sends it all the same, and could sign in nowhere else.
        """
        match = self.operation(request.method, request.target)
        return not isinstance(match, Refuse) and match.operation.public


async def _path(gate: Gate, judgement: Judgement) -> StepAnswer:
    return gate.path(judgement.request.method, judgement.request.target)


async def _credential(gate: Gate, judgement: Judgement) -> StepAnswer:
    """The request's credential. On a public operation a cross-site cookie is ignored, not refused."""
    request = judgement.request
    credential = gate.credential(request.headers, request.method, request.site)
    if isinstance(credential, Refuse):
        return None if credential.presented == "cookie" and gate.is_public(request) else credential
    judgement.credential = credential
    return None


async def _principal(gate: Gate, judgement: Judgement) -> StepAnswer:
    credential = judgement.credential
    if credential is None:
        judgement.principal = ANONYMOUS
        return None
    principal = await gate.principal(credential, judgement.request, judgement.now)
    if isinstance(principal, Refuse):
        return await gate.guessed(principal, judgement.request, judgement.now)
    judgement.principal = principal
    return None


async def _operation(gate: Gate, judgement: Judgement) -> StepAnswer:
    """Find the operation. To an anonymous caller, an unknown and a non-public operation look the same."""
    request = judgement.request
    match = gate.operation(request.method, request.target)
    if judgement.principal is ANONYMOUS and (isinstance(match, Refuse) or not match.operation.public):
        return gate.missing(request.headers, request.target)
    if isinstance(match, Refuse):
        return match
    judgement.match, judgement.operation = match, match.operation
    return None


async def _permission(gate: Gate, judgement: Judgement) -> StepAnswer:
    judgement.claims = claims = gate.claims(judgement.principal, judgement.operation)
    return gate.permission(claims, judgement.operation) if not judgement.operation.public else None


async def _limits(gate: Gate, judgement: Judgement) -> StepAnswer:
    """Count the request against all of its limits, or none."""
    counted = await gate.limits(
        judgement.principal, judgement.request, judgement.operation, judgement.now, judgement.dry
    )
    if isinstance(counted, Refuse):
        return counted
    judgement.count(counted)
    return None


async def _validation(gate: Gate, judgement: Judgement) -> StepAnswer:
    """Validate the request as the backend would get it: its parameters, then its body."""
    if not judgement.is_resumed:
        judgement.request = judgement.request.forwarded()
        refused = gate.parameters(judgement.request, judgement.match)
        if refused is not None and refused.enforced:
            return refused
        if refused is not None:
            judgement.note(refused)
        limit = gate.body_limit(judgement.request, judgement.match)
        if limit is None:
            return None
        if judgement.body is None:
            return BodyLimit(limit)
        if len(judgement.body) > limit:
            return Refuse(Code.BODY_TOO_LARGE, f"over {limit} bytes of body to judge")
    return gate.body(judgement.request, judgement.match, judgement.body or b"")


async def _mint(gate: Gate, judgement: Judgement) -> StepAnswer:
    """The signature comes last: a flood never buys one."""
    token = gate.signed(judgement.principal, judgement.claims, judgement.now)
    if isinstance(token, Refuse):
        return token
    judgement.token = token
    return None


def _unless_nobody(text: str, judgement: Judgement) -> str | None:
    return text if judgement.principal is not ANONYMOUS else None


STEPS: tuple[Step, ...] = (
    Step("path", _path, lambda _: "it has exactly one reading"),
    Step("credential", _credential, lambda judgement: descriptions.describe_credential(judgement.credential)),
    Step(
        "principal",
        _principal,
        lambda judgement: _unless_nobody(descriptions.describe_principal(judgement.principal), judgement),
    ),
    Step("operation", _operation, lambda judgement: descriptions.describe_operation(judgement.operation)),
    Step("permission", _permission, lambda judgement: descriptions.describe_requirement(judgement.operation), True),
    Step("limits", _limits, lambda judgement: descriptions.describe_levels(judgement.counted)),
    Step("validation", _validation, lambda judgement: descriptions.describe_schemas(judgement.dry), True),
    Step("mint", _mint, lambda judgement: _unless_nobody("a token", judgement)),
)
"""The path of a request, from the target as it was sent to the token that its backend gets."""
