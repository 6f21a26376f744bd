"""What is told of a gateway and of a decision, in the JSON shapes of CONTRACT §2.

Law: no credential, token or private key is told; a key is its id and its obfuscated form.
"""

import json
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keyswap import __version__
from keyswap.composition.gate import Built
from keyswap.gate import STEPS, explain
from keyswap.limits.limit import CUT, Limit
from keyswap.limits.step import Rule, parts_of
from keyswap.model import (
    METHODS,
    Admit,
    Code,
    Credential,
    Decision,
    NeedBody,
    Principal,
    Refuse,
    Reply,
    Request,
    Step,
)
from keyswap.operations.catalogue import Catalogue
from keyswap.policy import Policy
from keyswap.refusals import status_of
from keyswap.request.credentials import classify
from keyswap.shell import own
from keyswap.shell.masking import Masking
from keyswap.shell.remedies import remedy
from keyswap.tokens.claims import told

if TYPE_CHECKING:
    from keyswap.shell.service import Service


def status(service: "Service", now: float) -> dict[str, Any]:
    """What runs."""
    loaded = service.loaded
    return {
        "running": True,
        "version": __version__,
        "pid": os.getpid(),
        "listen": service.listening(),
        "admin": service.admin_address,
        **standing(loaded.built, now),
        "policy": {"file": str(service.file), "loaded_at": loaded.at, "reload_error": service.reload_error},
    }


def standing(built: Built, now: float) -> dict[str, Any]:
    """What is enforced, and the state of the stores; also without a running gateway."""
    policy = built.policy
    modes = modes_of(built)
    signing = [{"kid": key.kid, "alg": key.alg, "state": key.state(int(now))} for key in built.keyring.keys]
    return {
        "issuer": policy.issuer,
        "upstream": built.upstream.url,
        **{
            state: [step for step in STEPS if modes.get(step, "enforce") == word] + _entries(built, modes, word)
            for state, word in _STATES.items()
        },
        "documents": documents_json(built),
        "limits": limits_json(built),
        "tokens": {"algorithm": policy.tokens.algorithm, "profile": policy.tokens.profile, "ttl_s": policy.tokens.ttl},
        **built.callers.status(now),
        "signing": signing,
        "log": policy.log.model_dump(),
    }


def _entries(built: Built, modes: dict[str, str], word: str) -> list[str]:
    """The operations whose permission is in a mode of its own."""
    own = word != "enforce" and word != modes["permission"] and built.catalogue is not None
    entries = built.catalogue.entries if own and built.catalogue is not None else ()
    return [f"permission of {entry.operation.name}" for entry in entries if entry.operation.mode == word]


def modes_of(built: Built) -> dict[str, str]:
    """Which of the steps that may be off, or only looked at, are: enforce, shadow or off."""
    policy = built.policy
    validated = {api.validate_.requests for api in policy.apis}
    return {
        "operation": "enforce" if policy.apis else "off",
        "permission": policy.mode.permissions if policy.apis else "off",
        "limits": policy.mode.limits if policy.limits else "off",
        "validation": next((mode for mode in ("enforce", "shadow") if mode in validated), "off"),
    }


_STATES = {"enforced": "enforce", "shadowed": "shadow", "off": "off"}


def limits_json(built: Built) -> dict[str, Any]:
    """Where limits are counted, and what becomes of requests while they can't be."""
    store = built.limits.store
    counted = {"store": built.policy.limit_store.rpartition("@")[2], "healthy": True, "reason": None}
    return {
        **(store.status() if store is not None else counted),
        "down": built.policy.limit_store_down,
        "shadowed": [rule.limit.name for rule in built.limits.rules if rule.mode == "shadow"],
        "off": [limit.name for limit in built.policy.limits if limit.mode == "off"],
    }


def documents_json(built: Built) -> list[dict[str, Any]]:
    """The documents in force, and why a kept copy stands in for one."""
    catalogue = built.catalogue
    apis = catalogue.apis if catalogue is not None else ()
    return [
        {
            "spec": api.document.name,
            "title": api.document.title,
            "prefix": api.mount.prefix,
            "upstream": api.mount.upstream.url,
            "operations": sum(entry.api == number for entry in catalogue.entries) if catalogue else 0,
            "stale": built.documents.stale.get(api.document.library.uri),
        }
        for number, api in enumerate(apis)
    ]


def required(operations: Catalogue | None) -> frozenset[str]:
    """Every permission that an operation requires."""
    entries = operations.entries if operations is not None else ()
    return frozenset(slug for one in entries for held in one.operation.require for slug in held)


def known(policy: Policy, operations: Catalogue | None, file: Path) -> dict[str, Any]:
    """What keys may name: for whoever makes one."""
    apis = operations.apis if operations is not None else ()
    return {
        "policy": str(file),
        "plans": sorted(policy.plans),
        "permissions": sorted(required(operations)),
        "documents": ", ".join(api.document.name for api in apis),
    }


async def explained(built: Built, asked: dict[str, Any], now: float) -> dict[str, Any]:
    """The decision on a request that is described and not made.

    `asked` holds `method`, `path`, and `key` (a value), `key_id`, or neither.
    """
    if not isinstance(asked["method"], str) or not isinstance(asked["path"], str):
        raise TypeError("method and path are texts")
    if asked["method"] not in METHODS:
        refused = Refuse(Code.METHOD_NOT_ALLOWED, "the method is none that is forwarded", allow=METHODS)
        return explanation(refused, [])
    path = asked["path"].encode("utf-8", "surrogateescape").partition(b"?")[0]
    ours = own.served(built.policy.issuer).get(path)
    if ours in own.PATHS:
        return _answered_here(built, asked["method"], ours, now)
    gate, presented = built.gate, None
    if asked.get("key_id"):

        async def by_id(credential: Credential, request: Request, now: float) -> Principal | Refuse:
            return built.by_id(credential.value, now, request.client)

        gate, presented = replace(gate, verifiers={**gate.verifiers, "id": by_id}), Credential("id", asked["key_id"])
    elif asked.get("key"):
        presented = classify(asked["key"].encode("utf-8", "surrogateescape"))
    request = Request(
        asked["method"], asked["path"].encode("utf-8", "surrogateescape"), (), asked.get("client") or "127.0.0.1"
    )
    off = [step for step, mode in modes_of(built).items() if mode == "off"]
    decision, steps = await explain(gate, request, now, time.perf_counter, presented, off)
    said = explanation(decision, _with_plan(built, decision, steps))
    told: dict[str, Any] = json.loads(Masking.of(built.policy)(json.dumps(said)))
    return told


def _with_plan(built: Built, decision: Decision, steps: list[Step]) -> list[Step]:
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
    refused = built.unhealthy(now) if path == own.HEALTH else None
    if method not in {"GET", "HEAD"}:
        refused = Refuse(Code.METHOD_NOT_ALLOWED, "read with GET or HEAD", allow=("GET", "HEAD"))
    step = Step("path", "refuse" if refused else "pass", "the gateway answers it itself, whoever asks", 0.0)
    told = explanation(refused or Reply(()), [step])
    return told if refused else {**told, "decision": "admit", "status": 200}


async def limits_listed(built: Built, asked: dict[str, Any], now: float) -> dict[str, Any]:
    """Every bucket that is not empty, or of a key or an organization alone (CONTRACT §2)."""
    rows = await _buckets(built, asked, now)
    after = "/".join((rows[-1]["limit"], *rows[-1]["by"].values())) if len(rows) == MOST_LISTED else None
    return {"object": "list", "data": rows, "list_metadata": {"before": None, "after": after}}


MOST_LISTED = 10_000
"""Buckets of one answer; beyond it the list says after which one it ends."""


async def limits_reset(built: Built, asked: dict[str, Any], now: float) -> dict[str, Any]:
    """Empty the buckets of a key or an organization, or all; what is in flight stays there."""
    store = built.limits.store
    if store is None:
        return {"reset": 0}
    buckets = [one for one in await store.held(now) if _concerns(parts_of(one.subject)[1], asked)]
    return {"reset": await store.empty(buckets, now)}


def _concerns(by: dict[str, str], asked: dict[str, Any]) -> bool:
    wanted = [(by.get(name), asked[name]) for name in ("key", "org") if asked.get(name) is not None]
    return not wanted or any(_is(found, value) for found, value in wanted)


def _is(found: str | None, value: str) -> bool:
    """Whether a subject's value is this one, as far as it was kept."""
    if found is not None and found.endswith(CUT):
        return value.startswith(found.removesuffix(CUT))
    return found == value


async def _buckets(built: Built, asked: dict[str, Any], now: float) -> list[dict[str, Any]]:
    store = built.limits.store
    rules = {rule.limit.name: rule for rule in built.limits.rules}
    rows: list[dict[str, Any]] = []
    for held in sorted(await store.held(now)) if store is not None else ():
        name, by = parts_of(held.subject)
        if name not in rules or store is None or not _concerns(by, asked) or not held.is_of(rules[name].limit):
            continue  # somebody else's, or an earlier policy's
        if len(rows) == MOST_LISTED:
            break
        level = store.level(_numbers(built, rules[name], by, now), held.state, now)
        rows.append(
            {
                "limit": name,
                "by": {dimension: value.replace(CUT, "…") for dimension, value in by.items()},
                "level": level.level,
                "capacity": level.capacity,
                "remaining": level.remaining,
                "full_in_s": round(level.full_in_s, 3),
            }
        )
    return rows


def _numbers(built: Built, rule: Rule, by: dict[str, str], now: float) -> Limit:
    """The numbers that hold for whom a bucket counts."""
    principal = built.by_id(by["key"], now, "") if rule.key_plans and "key" in by else None
    plan = principal.plan if isinstance(principal, Principal) else None
    return rule.limit_of(Principal(by.get("org"), None, plan=plan))


def explanation(decision: Decision, steps: list[Step]) -> dict[str, Any]:
    """A decision and its steps."""
    admitted = decision if isinstance(decision, Admit) else None
    refused = decision if isinstance(decision, Refuse) else None
    claims = told(admitted.claims) if admitted and admitted.claims else {}
    principal = None if isinstance(decision, NeedBody | Reply) else decision.principal
    return {
        "decision": "admit" if admitted else "refuse",
        "status": status_of(refused.code) if refused else None,
        "code": refused.code if refused else None,
        "reason": refused.reason if refused else None,
        "request_id": None,
        "principal": principal_json(principal) if principal else None,
        "operation": operation_json(decision),
        "claims": {name: value for name, value in claims.items() if value is not None} or None,
        "steps": [step.as_json() for step in steps],
        "remedy": remedy(refused) if refused else None,
    }


def operation_json(decision: Decision) -> dict[str, Any] | None:
    """The operation that a decision was about."""
    operation = None if isinstance(decision, NeedBody | Reply) else decision.operation
    if operation is None or not operation.path:
        return None
    return {
        "method": operation.method,
        "path": operation.path,
        "operation_id": operation.operation_id,
        "pointer": f"{operation.document}#{operation.pointer}",
    }


def principal_json(principal: Principal) -> dict[str, Any]:
    """A principal."""
    return {
        "key_id": principal.key_id,
        "org_id": principal.org_id,
        "user_id": principal.user_id,
        "permissions": list(principal.permissions),
        "roles": list(principal.roles),
        "plan": principal.plan,
        "session_id": principal.session_id,
        "agent": principal.agent,
        "actor": principal.actor,
        "kind": principal.kind,
    }
