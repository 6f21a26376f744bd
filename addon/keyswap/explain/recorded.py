"""A decision that was recorded, told as an explanation (CONTRACT §2).

Law: it says what was decided then, not what would be now. Which step refused follows from the code and from what was
known by then; single steps were not measured.
"""

from typing import Any

from keyswap.explain.remedies import remedy
from keyswap.explain.trace_json import explanation
from keyswap.gate import STEPS, asked, counted, describe, located
from keyswap.model import Admit, Claims, Code, Counted, Fault, Level, Operation, Principal, Refuse, Step, Upstream

Record = dict[str, Any]
"""A decision as the decision log keeps it."""
WIRE, UPSTREAM = "wire", "upstream"
"""What is judged before the steps, and what can fail after them: they are told where they refused."""
_NOWHERE = Upstream("http", "unknown.invalid", 80)

_STEPS = {
    Code.AMBIGUOUS_PATH: "path",
    Code.MULTIPLE_CREDENTIALS: "credential",
    Code.MISSING_CREDENTIAL: "credential",
    Code.INVALID_CREDENTIAL: "principal",
    Code.NO_SUCH_OPERATION: "operation",
    Code.MISSING_PERMISSION: "permission",
    Code.UPSTREAM_UNAVAILABLE: UPSTREAM,
    Code.UPSTREAM_TIMEOUT: UPSTREAM,
    Code.HEADERS_TOO_LARGE: WIRE,
    Code.MISDIRECTED_REQUEST: WIRE,
}
_UNJUDGED_OR_JUDGED = {
    Code.METHOD_NOT_ALLOWED: (WIRE, "operation"),
    Code.INVALID_REQUEST: (WIRE, "validation"),
    Code.BODY_TOO_LARGE: (WIRE, "validation"),
    Code.GATEWAY_UNAVAILABLE: (WIRE, "validation"),
    Code.INVALID_CREDENTIAL: ("principal", "mint"),
    Code.STORE_UNAVAILABLE: ("principal", "mint"),
    Code.RATE_LIMITED: ("principal", "limits"),
    Code.TOO_MANY_IN_FLIGHT: ("principal", "limits"),
    Code.QUOTA_EXHAUSTED: ("principal", "limits"),
}
"""Codes of more than one step: where nobody was known yet, and where somebody was."""


def retold(record: Record) -> dict[str, Any]:
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


def steps(record: Record) -> list[Step]:
    """What each step said, as far as it can be told."""
    at = refused_at(record)
    names = [WIRE, *STEPS] if at == WIRE else [*STEPS, UPSTREAM] if at == UPSTREAM else STEPS
    looked = _looked(record)
    end = names.index(at) if at is not None else len(names)
    if at is None and record["decision"] != "admit":
        end = names.index("validation")  # the caller left before its body was whole
    told = []
    for number, name in enumerate(names):
        if number > end or (number == end and at is None):
            told.append(Step(name, "skip", "not reached", None))
        elif number == end:
            told.append(Step(name, "refuse", record["reason"] or "", None))
        elif name in looked:
            told.append(Step(name, "shadow", looked[name], None))
        else:
            told.append(Step(name, *_passed(record, name), None))
    return told


def _looked(record: Record) -> dict[str, str]:
    """Steps that would have refused it, were they enforced, each with its own reasons; else with its code."""
    codes, reasons = record["shadow"], record["more"].get("noted", ())
    if not reasons and len(codes) == 1 and record["code"] is None and record["reason"]:
        reasons = [record["reason"]]
    each = reasons if len(reasons) == len(codes) else codes
    found: dict[str, list[str]] = {}
    for code, said in zip(codes, each, strict=True):
        found.setdefault(step_of(code, True), []).append(said)
    return {step: "; ".join(dict.fromkeys(said)) for step, said in found.items()}


def refused_at(record: Record) -> str | None:
    """The step that refused, `wire` before and `upstream` after them; None: none did."""
    code = record["code"]
    if code is None:
        return None
    if record["decision"] == "admit" or record["status"] is None:
        return UPSTREAM  # after it was admitted: its backend failed, or its response was cut
    if code == Code.STORE_UNAVAILABLE and record["reason"].startswith("limit store"):
        return "limits"
    return step_of(code, "principal" in record["more"])


def step_of(code: str, judged: bool) -> str:
    """The step that a code comes from; `judged`: it was known by then who asks."""
    known = Code(code)
    return _UNJUDGED_OR_JUDGED[known][judged] if known in _UNJUDGED_OR_JUDGED else _STEPS[known]


def _passed(record: Record, name: str) -> tuple[str, str]:
    principal, operation = _principal(record), _operation(record)
    nobody = principal is not None and principal.org_id is None
    if name in record["more"].get("off", ()):
        return "skip", "off"
    if name == "path":
        return "pass", "it has exactly one reading"
    if name == "credential":
        return "pass", "none was presented" if nobody else "one was presented"
    if (name in {"principal", "mint"} and nobody) or principal is None:
        return "skip", "nothing to do"
    if name == "principal":
        return "pass", describe(principal)
    if name == "operation":
        return "pass", located(operation) if operation is not None else "found"
    if name == "permission" and operation is not None:
        off = operation.mode == "off"
        return ("skip", "off") if off else ("pass", "public" if operation.public else asked(operation))
    if name == "limits":
        return "pass", counted(Counted(_levels(record)))
    return "pass", "a token" if name == "mint" else "nothing wrong was found"


def _levels(record: Record) -> tuple[Level, ...]:
    told = record.get("limits", ())
    return tuple(Level(one["limit"], "", one["level"], one["capacity"], 0, 0.0, 0.0, 0) for one in told)


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
        _NOWHERE,
        operation_id=more["operation_id"],
        document=more["document"],
        pointer=more["pointer"],
        public=more.get("public", False),
        require=tuple(tuple(one) for one in more["require"]),
        source=more["source"],
        mode=more.get("mode", "enforce"),
    )


def _admitted(record: Record, principal: Principal | None, operation: Operation | None) -> Admit:
    said = record["more"].get("claims")
    claims = Claims(**{name: said.get(name) for name in Claims._fields}) if said else None
    return Admit(principal or Principal(None, None), claims, None, operation or Operation("", "", _NOWHERE))


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
        principal=principal,
        operation=operation,
    )
