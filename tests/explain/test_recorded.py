"""Decisions told again from their records: at which step each was refused."""

import json
from dataclasses import replace
from typing import Any

import pytest

from keyswap.explain.recorded import explain_record
from keyswap.gate import STEPS
from keyswap.model import (
    WIRE,
    Admit,
    Claims,
    Code,
    Decision,
    NeedBody,
    Noted,
    Operation,
    Principal,
    Refuse,
    Request,
    Upstream,
)
from keyswap.shell.decisions.decision_line import MAX_RECORD, Encoding
from keyswap.shell.decisions.record import Line

WHO = Principal("org_1", None, "key_1", ("a",))
WHAT = Operation("GET", "/pets", Upstream("http", "127.0.0.1", 9), document="p.json", pointer="/x", require=(("a",),))
SAYS = Claims("authkit", "i", "key_1", "organization", None, "org_1", (), ("a",), None, None, "key_1", None)
ADMIT = Admit(WHO, SAYS, "t", WHAT)


def told(decision: Decision, status: int | None = 200, off: tuple[str, ...] = (), **more: Any) -> dict[str, Any]:
    line = Line(1e9, "r", decision, status, "GET", b"/pets", "127.0.0.1", 1e-5, **more)
    return explain_record(json.loads(Encoding(off).record(line, None)))


def refused_at(found: dict[str, Any]) -> str | None:
    refused = [step["step"] for step in found["steps"] if step["result"] == "refuse"]
    assert len(refused) <= 1
    return refused[0] if refused else None


@pytest.mark.parametrize("step", [WIRE, *(row.name for row in STEPS)])
def test_a_refusal_is_told_at_the_step_that_it_names(step: str) -> None:
    """Whatever the code, what was known and the reason's text: the step is the record's, and later ones were not reached."""
    for code in Code:
        for known in ({}, {"principal": WHO, "operation": WHAT}):
            found = told(Refuse(code, "limit store: blocked at WorkOS", step=step, **known), 400)  # type: ignore[arg-type]
            assert refused_at(found) == step and found["code"] == code and found["remedy"]
            results = [one["result"] for one in found["steps"]]
            assert set(results[results.index("refuse") + 1 :]) <= {"skip"} and len(results) >= len(STEPS)


def test_an_admitted_request_that_ended_badly() -> None:
    """A backend that failed and a response that was cut are told after all steps have passed."""
    failed = told(ADMIT, 504, outcome=Refuse(Code.UPSTREAM_TIMEOUT, "late", step="upstream"))
    assert (failed["decision"], failed["code"], refused_at(failed)) == ("admit", "upstream-timeout", "upstream")
    gone = Refuse(Code.INVALID_CREDENTIAL, "the key was revoked", principal=WHO, operation=WHAT, step="principal")
    cut = told(gone, None)
    assert (cut["decision"], refused_at(cut)) == ("refuse", "principal"), "who it is was asked again"
    assert {step["result"] for step in cut["steps"][:-1]} == {"pass"}


def test_a_caller_who_left_before_its_body_came() -> None:
    """Nothing refused it: what was not reached is skipped."""
    need = NeedBody(Request("POST", b"/pets", (), ""), ADMIT, "validation", 9)
    found = told(need, None)
    assert (found["decision"], found["code"], refused_at(found), found["remedy"]) == ("refuse", None, None, None)
    assert [step["result"] for step in found["steps"]] == ["pass"] * 6 + ["skip"] * 2
    slow = told(need, 400, outcome=Refuse(Code.INVALID_REQUEST, "too slow", step=WIRE))
    assert refused_at(slow) == WIRE
    assert [step["result"] for step in slow["steps"]] == [*["pass"] * 6, "refuse", *["skip"] * 2]


def test_each_step_in_shadow_is_told_its_own_reasons() -> None:
    """Of a request that several steps would have refused, each step has what it found, and nothing of another's."""
    permission = Noted("permission", "a is missing; it is required")
    limits = [Noted("limits", f"limit {name} is full") for name in ("all", "org")]
    one = replace(ADMIT, shadow=(Code.MISSING_PERMISSION,), noted=(permission,))
    several = replace(one, shadow=(*one.shadow, *[Code.RATE_LIMITED] * 2), noted=(permission, *limits))
    refused = Refuse(
        Code.INVALID_REQUEST,
        "no pet",
        noted=several.noted,
        shadow=several.shadow,
        step="validation",
        principal=WHO,
        operation=WHAT,
    )

    def details(decision: Decision) -> dict[str, str]:
        steps = told(decision, 400)["steps"]
        return {step["step"]: step["detail"] for step in steps if step["result"] == "shadow"}

    assert details(one) == {"permission": permission.reason}
    assert details(several) == {"permission": permission.reason, "limits": "limit all is full; limit org is full"}
    assert told(several)["reason"].count(" is full") == 2
    assert details(refused) == details(several) and refused_at(told(refused, 400)) == "validation"


LONG = ("x" * MAX_RECORD,)


def test_what_is_off_and_what_is_too_long() -> None:
    """Steps that judge nothing are skipped; of a record that had to be cut short the decision is told."""
    found = told(ADMIT, off=("limits", "validation"))
    results = {step["step"]: (step["result"], step["detail"]) for step in found["steps"]}
    assert results["limits"] == results["validation"] == ("skip", "off")
    long = told(
        Refuse(
            Code.MISSING_PERMISSION, "x", required=LONG, missing=LONG, principal=WHO, operation=WHAT, step="permission"
        ),
        403,
    )
    assert (long["code"], refused_at(long), long["principal"]) == ("missing-permission", "permission", None)
