"""The decision on a request that is described and not made (CONTRACT §2).

Law: no credential or token is shown; a key is its id and its obfuscated form. To be explained is no use of a key.
"""

import json
import time
from dataclasses import replace
from typing import Any

from keyswap.composition.build_gate import Built, modes_of
from keyswap.explain.trace import explain, untraced
from keyswap.explain.trace_json import explanation
from keyswap.model import (
    METHODS,
    WIRE,
    Admit,
    Code,
    Credential,
    Decision,
    Principal,
    Refuse,
    Reply,
    Request,
    StepResult,
)
from keyswap.request.credentials import classify
from keyswap.shell.decisions.masking import Masking
from keyswap.shell.runtime import well_known


async def explained(built: Built, query: dict[str, Any], now: float) -> dict[str, Any]:
    """The decision on a request that is described and not made.

    `query` holds `method`, `path`, and `key` (a value), `key_id`, or neither.
    """
    if not isinstance(query["method"], str) or not isinstance(query["path"], str):
        raise TypeError("method and path are texts")
    if query["method"] not in METHODS:
        refused = Refuse(Code.METHOD_NOT_ALLOWED, "the method is none that is forwarded", allow=METHODS, step=WIRE)
        return explanation(refused, untraced(built.gate, refused))
    path = query["path"].encode("utf-8", "surrogateescape").partition(b"?")[0]
    ours = well_known.served(built.policy.issuer).get(path)
    if ours in well_known.PATHS:
        return _answered_here(built, query["method"], ours, now)
    verifiers = {**built.gate.verifiers, **built.authenticators.explaining}
    gate, presented = replace(built.gate, verifiers=verifiers), None
    if query.get("key_id"):

        async def by_id(credential: Credential, request: Request, now: float) -> Principal | Refuse:
            return built.by_id(credential.value, now, request.client)

        gate, presented = replace(gate, verifiers={**verifiers, "id": by_id}), Credential("id", query["key_id"])
    elif query.get("key"):
        presented = classify(query["key"].encode("utf-8", "surrogateescape"))
    request = Request(
        query["method"], query["path"].encode("utf-8", "surrogateescape"), (), query.get("client") or "127.0.0.1"
    )
    off = [step for step, mode in modes_of(built).items() if mode == "off"]
    decision, steps = await explain(gate, request, now, time.perf_counter, presented, off)
    whole = explanation(decision, _with_plan(built, decision, steps))
    masked: dict[str, Any] = json.loads(Masking.of(built.policy)(json.dumps(whole)))
    return masked


def _with_plan(built: Built, decision: Decision, steps: list[StepResult]) -> list[StepResult]:
    """The steps, with the plan of whose limits they speak."""
    principal = decision.principal if isinstance(decision, Admit | Refuse) else None
    plan = principal.plan if principal is not None else None
    if plan is None:
        return steps
    ending = f", plan {plan}" + ("" if plan in built.policy.plans else " (unknown)")
    return [
        replace(one, detail=f"{one.detail}{ending}") if (one.step, one.result) == ("principal", "pass") else one
        for one in steps
    ]


def _answered_here(built: Built, method: str, path: bytes, now: float) -> dict[str, Any]:
    """Of a path that is the gateway's own, which needs no credential."""
    refused = built.unhealthy(now) if path == well_known.HEALTH else None
    if method not in {"GET", "HEAD"}:
        refused = Refuse(Code.METHOD_NOT_ALLOWED, "read with GET or HEAD", allow=("GET", "HEAD"), step="path")
    step = StepResult("path", "refuse" if refused else "pass", "the gateway answers it itself, whoever asks", 0.0)
    answered = explanation(refused or Reply(()), [step])
    return answered if refused else {**answered, "decision": "admit", "status": 200}
