"""The gate: request in, decision out.

Law: the path of a request is `decide`, read from top to bottom, one early return a step. A step answers with a value or
a refusal; an exception is a bug, and the shell's to catch. Nothing on the warm path awaits, reads a file or a clock.
"""

from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

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
    Step,
    Upstream,
)
from keyswap.operations.router import OperationMatch

Verifier = Callable[[Credential, Request, float], Awaitable[Principal | Refuse]]
"""Who presents this credential? Arguments: credential, request, epoch seconds."""

LimitStep = Callable[[Principal, Request, Operation, float, bool], Awaitable[Counted | Refuse]]
"""How often? Arguments: principal, request, operation, epoch seconds, and whether to say it without counting."""


async def _uncounted(*_asked: object) -> Counted:
    """Without limits nothing is counted."""
    return UNCOUNTED


_MISSING = Refuse(Code.MISSING_CREDENTIAL, "no credential in any of the places that the policy names")


NOWHERE = Operation("", "", Upstream("http", "unknown.invalid", 80))
"""The operation of a request that is none's."""


class _GivingBack:
    """Gives a request's places in flight back, unless it is kept: also when a step has a bug."""

    __slots__ = ("_counted", "kept")

    def __init__(self, counted: Counted) -> None:
        self._counted, self.kept = counted, False

    def __enter__(self) -> "_GivingBack":
        return self

    def __exit__(self, *_: object) -> None:
        if not self.kept:
            self._counted.give_back()


def _turned_back(admit: Admit, refused: Refuse) -> Refuse:
    levels, shadow = admit.counted.levels, admit.shadow
    return replace(refused, principal=admit.principal, operation=admit.operation, levels=levels, shadow=shadow)


@dataclass(frozen=True, slots=True)
class Gate:
    """The steps, in the order in which `decide` asks them."""

    path: Callable[[str, bytes], Refuse | None]
    credential: Callable[[Headers, str, bytes], Credential | Refuse | None]
    verifiers: Mapping[str, Verifier]
    operation: Callable[[str, bytes], OperationMatch[Operation] | Refuse]
    claims: Callable[[Principal, Operation], Claims]
    permission: Callable[[Claims, Operation], Refuse | None]
    parameters: Callable[[Request, OperationMatch[Operation]], Refuse | None]
    body_limit: Callable[[Request, OperationMatch[Operation]], int | None]
    body: Callable[[NeedBody, bytes], Refuse | None]
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
    """The refusal of who presents nothing where something is needed."""

    async def decide(self, request: Request, now: float) -> Decision:
        """Judge a request at `now` (epoch seconds)."""
        asked = self.asks_first(request) if request.method == "OPTIONS" else None
        refused = self.path(asked.method if asked else request.method, request.target)
        if refused is not None:
            return refused
        if asked is not None:
            return asked.reply or await self.forwarded(asked, request, now)
        credential = self.presented(request)
        if isinstance(credential, Refuse):
            return credential
        principal = await self.principal(credential, request, now) if credential is not None else ANONYMOUS
        if isinstance(principal, Refuse):
            return await self.guessed(principal, request, now)
        found = self.found(request, principal)
        if isinstance(found, Refuse):
            return found
        claims = self.claims(principal, found.operation)
        forbidden = self.permission(claims, found.operation) if not found.operation.public else None
        if forbidden is not None and forbidden.enforced:
            return replace(forbidden, principal=principal, operation=found.operation)
        counted = await self.limits(principal, request, found.operation, now, self.dry)
        if isinstance(counted, Refuse):
            noted = () if forbidden is None else (forbidden.code,)
            return replace(counted, principal=principal, operation=found.operation, shadow=noted)
        admit = Admit(principal, claims, None, found.operation, (), counted)
        admit = admit if forbidden is None else admit.but(forbidden)
        return self.validated(request, found, admit, now)

    def validated(self, request: Request, found: OperationMatch[Operation], admit: Admit, now: float) -> Decision:
        """What is judged once limits have poured. They stay poured, but a refused request is in flight no longer."""
        request = request.forwarded()
        with _GivingBack(admit.counted) as given:
            invalid = self.parameters(request, found)
            if invalid is not None and invalid.enforced:
                return _turned_back(admit, invalid)
            for noted in admit.counted.shadow if invalid is None else (*admit.counted.shadow, invalid):
                admit = admit.but(noted)
            limit = self.body_limit(request, found)
            decision = self.minted(admit, now) if limit is None else NeedBody(request, admit, found.values, limit)
            given.kept = not isinstance(decision, Refuse)
            return decision

    def decide_body(self, need: NeedBody, body: bytes, now: float) -> Admit | Refuse:
        """Judge the body of a request whose head was admitted."""
        with _GivingBack(need.admit.counted) as given:
            invalid = self.body(need, body)
            if invalid is not None and invalid.enforced:
                return _turned_back(need.admit, invalid)
            decision = self.minted(need.admit if invalid is None else need.admit.but(invalid), now)
            given.kept = isinstance(decision, Admit)
            return decision

    def minted(self, admit: Admit, now: float) -> Admit | Refuse:
        """The signature comes last; who presented nothing gets none."""
        if admit.principal is ANONYMOUS or admit.claims is None:
            return replace(admit, claims=None)
        session_token = admit.principal.session_token
        token = self.mint(admit.claims, now) if session_token is None else session_token.value
        if isinstance(token, Refuse):
            return _turned_back(admit, token)
        return Admit(admit.principal, admit.claims, token, admit.operation, admit.shadow, admit.counted, admit.noted)

    def asks_first(self, request: Request) -> Preflight | None:
        """What a browser's question asks for. It goes to no operation that the document has of its own for OPTIONS."""
        asked = self.preflight(request)
        if asked is None or asked.reply is not None:
            return asked
        found = self.operation(request.method, request.target)
        return asked if isinstance(found, Refuse) or not found.operation.path else None

    async def forwarded(self, asked: Preflight, request: Request, now: float) -> Decision:
        """A browser's question goes to the backend of the operation that it asks for, if there is one."""
        found = self.operation(asked.method, request.target)
        if isinstance(found, Refuse):
            return self.missing(request.headers, request.target)
        counted = await self.preflights(ANONYMOUS, request, found.operation, now, self.dry)
        if isinstance(counted, Refuse):
            return replace(counted, principal=ANONYMOUS, operation=found.operation)
        admit = Admit(ANONYMOUS, None, None, found.operation, (), counted)
        for noted in counted.shadow:
            admit = admit.but(noted)
        return admit

    async def guessed(self, refused: Refuse, request: Request, now: float) -> Refuse:
        """A credential that is not valid counts as a guess; whoever guesses too much is told that instead."""
        if refused.code is not Code.INVALID_CREDENTIAL or self.guesses is _uncounted:
            return refused
        found = self.operation(request.method, request.target)
        operation = NOWHERE if isinstance(found, Refuse) else found.operation
        counted = await self.guesses(ANONYMOUS, request, operation, now, self.dry)
        if isinstance(counted, Counted):
            shadow = tuple([noted.code for noted in counted.shadow])
            return replace(refused, levels=counted.levels, shadow=shadow) if counted is not UNCOUNTED else refused
        return replace(counted, reason=f"{counted.reason}; {refused.reason}", key_id=refused.key_id)

    def found(self, request: Request, principal: Principal) -> OperationMatch[Operation] | Refuse:
        """The operation; to who presents nothing, an unknown and a non-public one look the same."""
        found = self.operation(request.method, request.target)
        if principal is ANONYMOUS and (isinstance(found, Refuse) or not found.operation.public):
            return self.missing(request.headers, request.target)
        return found if not isinstance(found, Refuse) else replace(found, principal=principal)

    async def principal(self, credential: Credential, request: Request, now: float) -> Principal | Refuse:
        """Who presents this credential, verified by the verifier of its kind."""
        verifier = self.verifiers.get(credential.kind)
        if verifier is None:
            reason = f"the policy lists no issuer for a {credential.kind}'s token"
            return Refuse(Code.INVALID_CREDENTIAL, reason, presented=credential.kind)
        found = await verifier(credential, request, now)
        if isinstance(found, Refuse) and credential.kind == "session":
            ended = credential.from_cookie and found.code is Code.INVALID_CREDENTIAL and self.is_public(request)
            return ANONYMOUS if ended else replace(found, presented="session")
        return found

    def presented(self, request: Request) -> Credential | Refuse | None:
        """The one credential. A cookie of another site's page is none, where none is needed."""
        found = self.credential(request.headers, request.method, request.site)
        foreign = isinstance(found, Refuse) and found.presented == "cookie"
        return None if foreign and self.is_public(request) else found

    def is_public(self, request: Request) -> bool:
        """Whether it is asked for what needs no credential: there a cookie that is no good is none.

        A browser sends it all the same, and could sign in nowhere else.
        """
        found = self.operation(request.method, request.target)
        return not isinstance(found, Refuse) and found.operation.public


STEPS = ("path", "credential", "principal", "operation", "permission", "limits", "validation", "mint")
"""The names of the steps, as explanations and logs say them."""


async def explain(
    gate: Gate,
    request: Request,
    now: float,
    clock: Callable[[], float],
    presented: Credential | None = None,
    off: Collection[str] = (),
) -> tuple[Decision, list[Step]]:
    """The decision of `gate`, with each step's result and time; of headers and a body nothing is known.

    `clock` counts seconds; `presented` stands in for what the headers would hold; `off` are steps that judge nothing.
    """
    trace = Trace(clock, off)
    missing = Refuse(Code.MISSING_CREDENTIAL, "none was presented")
    timed = replace(
        gate,
        path=trace.of("path", gate.path, lambda _: "it has exactly one reading"),
        credential=trace.of("credential", lambda headers, *of: presented or gate.credential(headers, *of), _presented),
        verifiers=dict.fromkeys({*gate.verifiers, "session"}, trace.waiting("principal", gate.principal, describe)),
        operation=trace.of("operation", gate.operation, lambda found: located(found.operation)),
        permission=trace.of("permission", gate.permission, lambda _: "held", lambda _, operation: asked(operation)),
        limits=trace.waiting("limits", gate.limits, counted),
        dry=True,
        parameters=trace.of(
            "validation",
            lambda request, found: _of_target(gate.parameters(request, found)),
            lambda _: "path and query fit; headers and a body are judged as they come",
        ),
        body_limit=lambda _request, _found: None,
        mint=trace.of("mint", gate.mint, lambda _: "a token"),
    )
    decision = await timed.decide(request, now)
    if isinstance(decision, Refuse) and decision.code is Code.MISSING_CREDENTIAL:
        trace.amend("credential", missing)
    return decision, trace.whole()


def _of_target(refused: Refuse | None) -> Refuse | None:
    """What is wrong with path and query alone."""
    if refused is None or not refused.errors:
        return refused
    errors = tuple(fault for fault in refused.errors if fault.where in {"path", "query"})
    return replace(refused, errors=errors) if errors else None


class Trace:
    """What each step answered, and when. `clock` counts seconds; `off` are the steps that judge nothing."""

    def __init__(self, clock: Callable[[], float], off: Collection[str]) -> None:
        self._clock, self._off = clock, off
        self._steps: dict[str, Step] = {}

    def of(self, name: str, step: Any, tell: Callable[[Any], str], told: Callable[..., str] | None = None) -> Any:
        """The step, recorded; `tell` says its result in words, or `told` what it was asked."""

        def recorded(*asked: Any) -> Any:
            began = self._clock()
            result = step(*asked)
            self._note(name, began, result, told(*asked) if told else tell(result) if _went_on(result) else "")
            return result

        return recorded

    def waiting(self, name: str, step: Any, tell: Callable[[Any], str]) -> Any:
        """The same of a step that may wait."""

        async def recorded(*asked: Any) -> Any:
            began = self._clock()
            result = await step(*asked)
            self._note(name, began, result, tell(result) if _went_on(result) else "")
            return result

        return recorded

    def _note(self, name: str, began: float, result: object, detail: str) -> None:
        spent = (self._clock() - began) * 1e6
        refused = result if isinstance(result, Refuse) else None
        if isinstance(result, Counted) and result.shadow:
            self._steps[name] = Step(name, "shadow", f"{result.shadow[0].reason}: {detail}", spent)
        elif refused is None:
            off = name in self._off
            self._steps[name] = Step(name, "skip" if off else "pass", "off" if off else detail, spent)
        else:
            self._steps[name] = Step(name, "refuse" if refused.enforced else "shadow", refused.reason, spent)

    def amend(self, name: str, refused: Refuse) -> None:
        """Say that a step refused after all: what came later needed what it did not give."""
        self._steps = {one: step for one, step in self._steps.items() if STEPS.index(one) < STEPS.index(name)}
        self._steps[name] = Step(name, "refuse", refused.reason, 0.0)

    def whole(self) -> list[Step]:
        """Every step, in order; what was asked beside after one refused is not shown."""
        refused = [number for number, name in enumerate(STEPS) if self._result(name) == "refuse"]
        for name in STEPS[refused[0] + 1 :] if refused else ():
            self._steps.pop(name, None)
        return [self._steps.get(name) or Step(name, "skip", self._why(name), 0.0) for name in STEPS]

    def _result(self, name: str) -> str | None:
        return self._steps[name].result if name in self._steps else None

    def _why(self, name: str) -> str:
        later = STEPS[STEPS.index(name) :]
        return "nothing to do" if any(step in self._steps for step in later) else "not reached"


def _went_on(result: object) -> bool:
    return not isinstance(result, Refuse)


def _presented(credential: Credential | None) -> str:
    if credential is None:
        return "none was presented"
    return "a key, by its id" if credential.kind == "id" else f"a {credential.kind}"


def located(operation: Operation) -> str:
    """An operation in a few words: its name and where it stands."""
    if not operation.path:
        return "none: a valid credential is enough"
    return f"{operation.name}, {operation.document}#{operation.pointer}"


def asked(operation: Operation) -> str:
    """What an operation asks for, in a few words."""
    alternatives = " or ".join(" and ".join(one) for one in operation.require)
    return f"{alternatives} (from {operation.source})" if alternatives else "nothing beside the credential"


def counted(found: Counted) -> str:
    """How full limits are, in a few words."""
    every = (*found.levels, *found.watched)
    levels = ", ".join(f"{level.limit} {level.level} of {level.capacity}" for level in every)
    return levels or "none concerns this request"


def describe(principal: Principal) -> str:
    """A principal in a few words, for an explanation."""
    if principal is ANONYMOUS:
        return "nobody in particular"
    who = f"user {principal.user_id}" if principal.user_id else "the organization itself"
    what = f"key {principal.key_id}"
    if principal.kind != "key":
        who = who if principal.user_id else "an application"
        by = f" by agent {principal.agent}" if principal.agent else ""
        acts = f", in whose place {principal.actor} acts" if principal.actor else ""
        what = f"a {principal.kind}'s token{by}, session {principal.session_id}{acts}"
    return f"{who} of {principal.org_id}, {what}, permissions: {', '.join(principal.permissions) or '-'}"
