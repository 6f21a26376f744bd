"""The gate: request in, decision out.

Law: the path of a request is `decide`, read from top to bottom, one early return a step. A step answers with a value or
a refusal; an exception is a bug, and the shell's to catch. Nothing on the warm path awaits, reads a file or a clock.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace

from keyswap.model import (
    ANONYMOUS,
    Admit,
    Claims,
    Code,
    Credential,
    Decision,
    Headers,
    Preflight,
    Principal,
    Refuse,
    Request,
    Step,
    Upstream,
)

Verifier = Callable[[Credential, Request, float], Awaitable[Principal | Refuse]]
"""Who presents this credential? Arguments: credential, request, epoch seconds."""


@dataclass(frozen=True, slots=True)
class Gate:
    """The steps, in the order in which `decide` asks them."""

    path: Callable[[str, bytes], Refuse | None]
    credential: Callable[[Headers], Credential | Refuse | None]
    verifiers: Mapping[str, Verifier]
    claims: Callable[[Principal], Claims]
    mint: Callable[[Claims, float], str | Refuse]
    upstream: Upstream
    preflight: Callable[[Request], Preflight | None] = lambda _request: None

    async def decide(self, request: Request, now: float) -> Decision:
        """Judge a request at `now` (epoch seconds)."""
        asked = self.preflight(request) if request.method == "OPTIONS" else None
        refused = self.path(asked.method if asked else request.method, request.target)
        if refused is not None:
            return refused
        if asked is not None:
            return asked.reply or Admit(ANONYMOUS, None, None, self.upstream)
        credential = self.credential(request.headers)
        if isinstance(credential, Refuse):
            return credential
        if credential is None:
            return Refuse(Code.MISSING_CREDENTIAL, "no credential in any of the places that the policy names")
        principal = await self.principal(credential, request, now)
        if isinstance(principal, Refuse):
            return principal
        claims = self.claims(principal)
        token = self.mint(claims, now)
        if isinstance(token, Refuse):
            return token
        return Admit(principal, claims, token, self.upstream)

    async def principal(self, credential: Credential, request: Request, now: float) -> Principal | Refuse:
        """Who presents this credential, verified by the verifier of its kind."""
        verifier = self.verifiers.get(credential.kind)
        if verifier is None:
            return Refuse(Code.INVALID_CREDENTIAL, f"the policy lists no issuer for a {credential.kind}'s token")
        return await verifier(credential, request, now)


STEPS = ("path", "credential", "principal", "mint")
"""The names of the steps, as explanations and logs say them."""


async def explain(
    gate: Gate, request: Request, now: float, clock: Callable[[], float], presented: Credential | None = None
) -> tuple[Decision, list[Step]]:
    """The decision of `gate`, with each step's result and time.

    `clock` counts seconds; `presented` stands in for what the headers would hold.
    """
    steps: list[Step] = []

    def done(name: str, began: float, detail: str, result: object) -> None:
        reason = result.reason if isinstance(result, Refuse) else detail
        steps.append(Step(name, "refuse" if isinstance(result, Refuse) else "pass", reason, (clock() - began) * 1e6))

    def path(method: str, target: bytes) -> Refuse | None:
        began = clock()
        result = gate.path(method, target)
        done("path", began, "it has exactly one reading", result)
        return result

    def credential(headers: Headers) -> Credential | Refuse | None:
        began = clock()
        result = presented or gate.credential(headers)
        missing = Refuse(Code.MISSING_CREDENTIAL, "none was presented")
        done("credential", began, f"a {result.kind}" if isinstance(result, Credential) else "", result or missing)
        return result

    async def principal(credential: Credential, request: Request, now: float) -> Principal | Refuse:
        began = clock()
        result = await gate.principal(credential, request, now)
        done("principal", began, describe(result) if isinstance(result, Principal) else "", result)
        return result

    def mint(claims: Claims, now: float) -> str | Refuse:
        began = clock()
        result = gate.mint(claims, now)
        done("mint", began, f"a token for {claims.sub}", result)
        return result

    kinds = {*gate.verifiers, "session"}
    timed = replace(gate, path=path, credential=credential, verifiers=dict.fromkeys(kinds, principal), mint=mint)
    decision = await timed.decide(request, now)
    steps += [Step(name, "skip", "not reached", 0.0) for name in STEPS[len(steps) :]]
    return decision, steps


def describe(principal: Principal) -> str:
    """A principal in a few words, for an explanation."""
    who = f"user {principal.user_id}" if principal.user_id else "the organization itself"
    return (
        f"{who} of {principal.org_id}, key {principal.key_id}, permissions: {', '.join(principal.permissions) or '-'}"
    )
