"""A decision and its steps as JSON, in the shape of CONTRACT §2.

Law: no credential or token is shown; a key is its id.
"""

from typing import Any

from keyswap.explain.remedies import remedy
from keyswap.model import Admit, Decision, NeedBody, Principal, Refuse, Reply, StepResult
from keyswap.refusals import status_of
from keyswap.tokens.claims import explained_claims


def explanation(decision: Decision, steps: list[StepResult]) -> dict[str, Any]:
    """A decision and its steps."""
    admitted = decision if isinstance(decision, Admit) else None
    refused = decision if isinstance(decision, Refuse) else None
    claims = explained_claims(admitted.claims) if admitted and admitted.claims else {}
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
