"""Decisions told again from their records: at which step each was refused."""

import json
from typing import Any

import pytest

from keyswap.explain.recorded import retold, step_of
from keyswap.model import Admit, Claims, Code, Decision, NeedBody, Operation, Principal, Refuse, Request, Upstream
from keyswap.shell.decisions.encode import MAX_RECORD, Encoding
from keyswap.shell.decisions.record import Line

WHO = Principal("org_1", None, "key_1", ("a",))
WHAT = Operation("GET", "/pets", Upstream("http", "127.0.0.1", 9), document="p.json", pointer="/x", require=(("a",),))
SAYS = Claims("authkit", "i", "key_1", "organization", None, "org_1", (), ("a",), None, None, "key_1", None)
ADMIT = Admit(WHO, SAYS, "t", WHAT)


def told(decision: Decision, status: int | None = 200, off: tuple[str, ...] = (), **more: Any) -> dict[str, Any]:
    line = Line(1e9, "r", decision, status, "GET", b"/pets", "127.0.0.1", 1e-5, **more)
    return retold(json.loads(Encoding(off).record(line, None)))


def refused_at(found: dict[str, Any]) -> str | None:
    refused = [step["step"] for step in found["steps"] if step["result"] == "refuse"]
    assert len(refused) <= 1
    return refused[0] if refused else None


@pytest.mark.parametrize(
    ("code", "reason", "known", "step"),
    [
        (Code.STORE_UNAVAILABLE, "key database: gone", False, "principal"),
        (Code.STORE_UNAVAILABLE, "limit store: gone", True, "limits"),
        (Code.STORE_UNAVAILABLE, "no signing key is active", True, "mint"),
        (Code.INVALID_CREDENTIAL, "the credential has ended", True, "mint"),
        (Code.RATE_LIMITED, "limit guessing; the key is unknown", False, "principal"),
        (Code.BODY_TOO_LARGE, "declared", False, "wire"),
        (Code.BODY_TOO_LARGE, "judged", True, "validation"),
        (Code.GATEWAY_UNAVAILABLE, "older than the gate", False, "wire"),
    ],
)
def test_one_code_is_told_at_the_step_it_came_from(code: Code, reason: str, known: bool, step: str) -> None:
    """Codes of several steps are told apart by what was known."""
    whom = {"principal": WHO, "operation": WHAT} if known else {}
    found = told(Refuse(code, reason, **whom), 400)  # type: ignore[arg-type]
    assert refused_at(found) == step and found["code"] == code and found["remedy"]


def test_every_code_has_a_step() -> None:
    """No code is forgotten."""
    assert all(step_of(code, judged) for code in Code for judged in (False, True))


def test_an_admitted_request_that_ended_badly() -> None:
    """A backend that failed and a response that was cut are told after all steps have passed."""
    failed = told(ADMIT, 504, outcome=Refuse(Code.UPSTREAM_TIMEOUT, "late"))
    assert (failed["decision"], failed["code"], refused_at(failed)) == ("admit", "upstream-timeout", "upstream")
    gone = Refuse(Code.INVALID_CREDENTIAL, "the key was revoked", principal=WHO, operation=WHAT)
    cut = told(gone, None)
    assert (cut["decision"], refused_at(cut)) == ("refuse", "upstream")
    assert {step["result"] for step in cut["steps"][:-1]} == {"pass"}


def test_a_caller_who_left_before_its_body_came() -> None:
    """Nothing refused it: what was not reached is skipped."""
    need = NeedBody(Request("POST", b"/pets", (), ""), ADMIT, (), 9)
    found = told(need, None)
    assert (found["decision"], found["code"], refused_at(found), found["remedy"]) == ("refuse", None, None, None)
    assert [step["result"] for step in found["steps"]] == ["pass"] * 6 + ["skip"] * 2
    assert refused_at(told(need, 400, outcome=Refuse(Code.INVALID_REQUEST, "too slow"))) == "validation"


def test_each_step_in_shadow_is_told_its_own_reasons() -> None:
    """Of a request that several steps would have refused, each step has what it found, and nothing of another's."""
    permission = Refuse(Code.MISSING_PERMISSION, "a is missing; it is required")
    limits = [Refuse(Code.RATE_LIMITED, f"limit {name} is full") for name in ("all", "org")]
    one, several = ADMIT.but(permission), ADMIT.but(permission).but(limits[0]).but(limits[1])

    def details(decision: Decision) -> dict[str, str]:
        steps = told(decision)["steps"]
        return {step["step"]: step["detail"] for step in steps if step["result"] == "shadow"}

    assert details(one) == {"permission": permission.reason}
    assert details(several) == {"permission": permission.reason, "limits": "limit all is full; limit org is full"}
    assert told(several)["reason"].count(" is full") == 2


LONG = ("x" * MAX_RECORD,)


def test_what_is_off_and_what_is_too_long() -> None:
    """Steps that judge nothing are skipped; of a record that had to be cut short the decision is told."""
    found = told(ADMIT, off=("limits", "validation"))
    results = {step["step"]: (step["result"], step["detail"]) for step in found["steps"]}
    assert results["limits"] == results["validation"] == ("skip", "off")
    long = told(Refuse(Code.MISSING_PERMISSION, "x", required=LONG, missing=LONG, principal=WHO, operation=WHAT), 403)
    assert (long["code"], refused_at(long), long["principal"]) == ("missing-permission", "permission", None)
