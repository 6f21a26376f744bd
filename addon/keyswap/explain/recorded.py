"""A recorded decision as an explanation (CONTRACT §2).

Law: it says what was decided then, not what would be now, and which step refused is read from the record. Single steps
were not measured.
"""

from typing import Any

from keyswap import gate
from keyswap.explain.remedies import remedy
from keyswap.explain.trace import NOT_REACHED, NOTHING_TO_DO
from keyswap.explain.trace_json import explanation
from keyswap.judgement import NOWHERE, Judgement
from keyswap.model import (
    ANONYMOUS,
    Admit,
    Claims,
    Code,
    Counted,
    Credential,
    Fault,
    Hint,
    Level,
    Operation,
    Principal,
    Refuse,
    Request,
    StepResult,
)

Record = dict[str, Any]
"""A decision as the decision log keeps it."""


def explain_record(record: Record) -> dict[str, Any]:
    """The explanation of a record."""
    principal, operation = _principal(record), _operation(record)
    refused = _refused(record, principal, operation)
    admitted = record["decision"] == "admit"
    decision = _admitted(record, principal, operation) if admitted else refused or Refuse(Code.GATEWAY_UNAVAILABLE, "")
    return {
        **explanation(decision, steps(record)),
        "decision": record["decision"],
        "status": record["status"],
        "code": record["code"],
        "reason": record["reason"],
        "request_id": record["request_id"],
        "remedy": remedy(refused) if refused is not None else None,
        "at": record["at"],
        "trace_id": record.get("trace_id"),
    }


def steps(record: Record) -> list[StepResult]:
    """What each step said, as far as it was recorded."""
    judgement, shadowed = _judgement(record), _shadowed(record)
    names = [step.name for step in gate.STEPS]
    reached = _reached(record, names)
    passed = names.index(reached) if reached in names else len(names)
    results = []
    for step in gate.STEPS[:passed]:
        if step.name in shadowed:
            results.append(StepResult(step.name, "shadow", shadowed[step.name], None))
        elif step.name in _off(record):
            results.append(StepResult(step.name, "skip", "off", None))
        else:
            detail = step.describe(judgement)
            results.append(StepResult(step.name, "skip" if detail is None else "pass", detail or NOTHING_TO_DO, None))
    if record["code"] is not None:
        results.append(StepResult(record["step"], "refuse", record["reason"] or "", None))
    left = [name for name in names[passed:] if name != record["step"]]
    return [*results, *(StepResult(name, "skip", NOT_REACHED, None) for name in left)]


def _reached(record: Record, names: list[str]) -> str | None:
    """The first step that did not pass the request; None: all did."""
    waited: str | None = record["more"].get("waits_for_body")
    if waited is not None or record["decision"] == "admit" or record["status"] is None:
        return waited  # it was admitted, as far as this step: what came later refused or ended it
    return record["step"] if record["step"] in names else names[0]


def _off(record: Record) -> set[str]:
    """The steps that judged nothing."""
    off = set(record["more"].get("off", ()))
    mode = record["more"].get("operation", {}).get("mode")
    return off | {"permission"} if mode == "off" else off


def _shadowed(record: Record) -> dict[str, str]:
    """Why steps in shadow mode would have refused the request, by their names."""
    reasons: dict[str, list[str]] = {}
    for step, reason in record["more"].get("noted", ()):
        reasons.setdefault(step, []).append(reason)
    return {step: "; ".join(dict.fromkeys(of_step)) for step, of_step in reasons.items()}


def _judgement(record: Record) -> Judgement:
    """What the steps had found, as far as it was recorded."""
    judgement = Judgement(Request(record["method"], b"", (), record["client"]), record["at"])
    principal = _principal(record) or ANONYMOUS
    judgement.principal = ANONYMOUS if principal == ANONYMOUS else principal
    if judgement.principal is not ANONYMOUS or record["step"] == "principal":
        kind = record["more"].get("presented") or ("key" if principal.kind == "key" else "session")
        judgement.credential = Credential(kind, "")
    judgement.operation = _operation(record) or NOWHERE
    judgement.counted = Counted(_levels(record))
    return judgement


def _levels(record: Record) -> tuple[Level, ...]:
    return tuple(
        Level(level["limit"], "", level["level"], level["capacity"], 0, 0.0, 0.0, 0)
        for level in record.get("limits", ())
    )


def _principal(record: Record) -> Principal | None:
    more = record["more"].get("principal")
    if more is None:
        return None
    return Principal(
        org_id=record["org_id"],
        user_id=record["user_id"],
        key_id=record["key_id"],
        permissions=tuple(more["permissions"] or ()),
        roles=tuple(more["roles"] or ()),
        plan=more["plan"],
        session_id=record["session_id"],
        agent=record["agent"],
        actor=more["actor"],
        kind=more.get("kind", "key"),
    )


def _operation(record: Record) -> Operation | None:
    more = record["more"].get("operation")
    if more is None:
        return None
    method, _, path = (record["operation"] or "").partition(" ")
    return Operation(
        method,
        path,
        NOWHERE.upstream,
        operation_id=more["operation_id"],
        document=more["document"],
        pointer=more["pointer"],
        public=more.get("public", False),
        require=tuple(tuple(one) for one in more["require"]),
        source=more["source"],
        mode=more.get("mode", "enforce"),
    )


def _admitted(record: Record, principal: Principal | None, operation: Operation | None) -> Admit:
    recorded_claims = record["more"].get("claims")
    claims = Claims(**{name: recorded_claims.get(name) for name in Claims._fields}) if recorded_claims else None
    return Admit(principal or Principal(None, None), claims, None, operation or NOWHERE)


def _refused(record: Record, principal: Principal | None, operation: Operation | None) -> Refuse | None:
    if record["code"] is None:
        return None
    more = record["more"]
    return Refuse(
        Code(record["code"]),
        record["reason"] or "",
        record["key_id"],
        tuple(more.get("allow", ())),
        tuple(more.get("required", ())),
        tuple(more.get("missing", ())),
        tuple(Fault(where, at, "") for where, at in more.get("errors", ())),
        more.get("limit"),
        more.get("retry_after_s"),
        presented=more.get("presented"),
        step=record["step"],
        hint=Hint(more["hint"]) if "hint" in more else None,
        principal=principal,
        operation=operation,
    )
