"""Decisions as JSON: the shape of the contract, its bounds, and what is never in it."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyswap.model import (
    ANONYMOUS,
    Admit,
    Claims,
    Code,
    Counted,
    Decision,
    Fault,
    Level,
    NeedBody,
    Noted,
    Operation,
    Principal,
    Refuse,
    Reply,
    Request,
    Upstream,
)
from keyswap.shell.decisions import decision_line
from keyswap.shell.decisions.decision_line import CUT, MAX_PATH, MAX_RECORD, Encoding
from keyswap.shell.decisions.masking import Masking
from keyswap.shell.decisions.record import Line

FIELDS = (
    *("at", "request_id", "decision", "status", "code", "step", "reason", "shadow", "method", "path", "operation"),
    *("key_id", "org_id", "user_id", "agent", "session_id", "client", "gate_us", "upstream_ms", "trace_id"),
)
UPSTREAM = Upstream("http", "127.0.0.1", 9000)
WHO = Principal("org_1", "user_1", "key_1", ("pets:read",), ("admin",), "pro")
SAYS = Claims("authkit", "i", "user_1", None, None, "org_1", ("admin",), ("pets:read",), None, None, "key_1", None)
WHAT = Operation("GET", "/pets/{petId}", UPSTREAM, operation_id="getPet", document="p.json", pointer="/paths/x")
LEVELS = (Level("per-key", "rate", 3, 20, 17, 0.3, 0.0, 2),)
ADMIT = Admit(WHO, SAYS, "the.minted.token", WHAT, (), Counted(LEVELS))
FAULT = Fault("body", "/name", "names of a body")
REFUSALS = (
    Refuse(Code.AMBIGUOUS_PATH, "a dot segment"),
    Refuse(Code.INVALID_CREDENTIAL, "revoked", "key_2", shadow=(Code.RATE_LIMITED,), levels=LEVELS),
    Refuse(Code.MISSING_PERMISSION, "x", required=("a",), missing=("a",), principal=WHO, operation=WHAT),
    Refuse(Code.INVALID_REQUEST, "x", errors=(FAULT,), principal=WHO, operation=WHAT),
    Refuse(Code.METHOD_NOT_ALLOWED, "x", allow=("GET",), principal=ANONYMOUS),
    Refuse(Code.RATE_LIMITED, "x", limit="per-key", retry_after_s=0.25, principal=WHO, operation=WHAT),
)
NEED = NeedBody(Request("POST", b"/", (), ""), ADMIT, "validation", 9)


def line(decision: Decision = ADMIT, **more: Any) -> Line:
    given = {"status": 200, "method": "GET", "target": b"/pets/4", "client": "127.0.0.1", **more}
    return Line(1e9 + 0.1234, "r-1", decision, gate_s=1.26e-5, upstream_s=0.00123, **given)


@pytest.mark.parametrize("decision", [ADMIT, NEED, Reply(()), *REFUSALS], ids=lambda one: type(one).__name__)
def test_a_line_has_the_shape_of_the_contract(decision: Decision) -> None:
    """Whatever was decided, the line has every field in order, and its record the line with one more."""
    made = Encoding()
    told, kept = json.loads(made.line(line(decision))), json.loads(made.record(line(decision), None))
    assert tuple(told)[: len(FIELDS)] == FIELDS and set(told) - set(FIELDS) <= {"limits"}
    assert made.record(line(decision), made.line(line(decision))) == made.record(line(decision), None)
    more = kept.pop("more")
    assert kept == told and isinstance(more, dict)
    assert told["decision"] == ("admit" if decision is ADMIT else "refuse")


def test_what_is_said_of_an_admitted_request() -> None:
    """Times are rounded, limits told, and the token is in neither line nor record."""
    made = Encoding(["operation"])
    kept = json.loads(made.record(line(), None))
    assert (kept["at"], kept["gate_us"], kept["upstream_ms"]) == (1000000000.123, 12.6, 1.23)
    assert (kept["operation"], kept["key_id"], kept["org_id"]) == ("GET /pets/{petId}", "key_1", "org_1")
    assert kept["limits"] == [{"limit": "per-key", "level": 3, "capacity": 20}]
    assert kept["more"]["claims"]["sub"] == "user_1" and kept["more"]["off"] == ["operation"]
    assert kept["more"]["principal"]["permissions"] == ["pets:read"] and "token" not in json.dumps(kept)


def test_what_is_said_of_refusals() -> None:
    """Key, permissions, methods, limit and the places of faults are kept; messages of faults are not."""
    _, bad, missing, invalid, method, limited = (json.loads(Encoding().record(line(one), None)) for one in REFUSALS)
    assert (bad["key_id"], bad["shadow"], bad["limits"][0]["level"]) == ("key_2", ["rate-limited"], 3)
    assert (missing["more"]["required"], missing["more"]["missing"]) == (["a"], ["a"])
    assert invalid["more"]["errors"] == [["body", "/name"]] and "names of" not in json.dumps(invalid)
    assert (method["more"]["allow"], method["org_id"]) == (["GET"], None)
    assert (limited["more"]["limit"], limited["more"]["retry_after_s"]) == ("per-key", 0.25)


@given(st.text(max_size=50), st.binary(max_size=50), st.text(max_size=50))
def test_whatever_texts_are_one_line_of_json(name: str, target: bytes, reason: str) -> None:
    """No text that others choose, and that is not cut, breaks a line or its JSON, and no query is told."""
    refused = Refuse(Code.INVALID_REQUEST, reason, key_id=name)
    text = Encoding().record(line(refused, target=target)._replace(request_id=name, client=name), None)
    told = json.loads(text)
    assert text.isascii() and text.isprintable()
    assert (told["request_id"], told["reason"], told["key_id"]) == (name, reason, name)
    assert told["path"] == target.partition(b"?")[0].decode("latin-1")


@pytest.mark.parametrize("letter", ["x", "\xff", "\u1234", '"', "\\", "\U0001f600"])
def test_a_line_fits_into_one_write(letter: str) -> None:
    """However long and odd each text in it is, a line is shorter than PIPE_BUF, has all its fields, and stays JSON."""
    long = letter * 5000
    who = WHO._replace(key_id=long, org_id=long, user_id=long, agent=long, session_id=long)
    what = Operation("GET", "/" + long, UPSTREAM)
    levels = tuple(LEVELS[0]._replace(limit=f"{one}{long}") for one in range(50))
    shadow = tuple(Code)
    for decision in (
        Refuse(Code.INVALID_REQUEST, long, levels=levels, shadow=shadow, principal=who, operation=what),
        Admit(who, SAYS, "t", what, shadow, Counted(levels), (Noted("limits", long),)),
    ):
        odd = line(decision, target=b"/" + b"\xff" * 8000)._replace(method=long, client=long, request_id=letter * 128)
        text = Encoding().line(odd)
        told = json.loads(text)
        assert len(text.encode()) + 1 < 4096 and tuple(told)[: len(FIELDS)] == FIELDS
        assert told["org_id"].startswith(letter) and told["path"].endswith(CUT) and told["method"].endswith(CUT)
        assert json.loads(Encoding().record(odd, None))["method"] == told["method"]


def test_keys_are_in_no_line() -> None:
    """A key in the method, path or reason of a request is masked in line and record."""
    key = "ksw_live_" + "Ab1" * 12
    refused = Refuse(Code.INVALID_REQUEST, f"body /{key}", errors=(Fault("body", f"/{key}", ""),))
    made = Encoding((), Masking({"ksw"}))
    odd = line(refused, target=f"/{key}/%6bsw_live_{key[9:]}".encode())._replace(method=key)
    text = made.record(odd, None)
    assert "Ab1" not in text and json.loads(text)["path"] == "/ksw_live_***/%6bsw_live_***"
    assert made.record(odd, made.line(odd)) == text


def test_a_long_path_is_cut_and_marked() -> None:
    """Of a path over 2 KiB, line and record hold the beginning, which ends in a mark; odd bytes take no more room."""
    made, long = Encoding(), line(target=b"/" + b"x" * 8000)
    odd = made.line(line(target=b"/" + b"\xff" * 8000))
    assert json.loads(odd)["path"].endswith(CUT) and len(odd) < 3000
    kept = json.loads(made.record(long, made.line(long)))
    assert kept["path"] == "/" + "x" * (MAX_PATH - 1) + CUT and kept["more"]["operation"]


@pytest.mark.parametrize("number", [10, 100, 1000, 10_000])
def test_a_record_is_bounded(number: int) -> None:
    """However many permissions, levels, faults and odd bytes there are, a record stays within its bound."""
    slugs = tuple(f"permission:{one:0100}" for one in range(number))
    who, says = WHO._replace(permissions=slugs, roles=slugs), SAYS._replace(permissions=slugs)
    what = Operation("GET", "/" + "y" * 100, UPSTREAM, require=(slugs,))
    levels = tuple(LEVELS[0]._replace(limit=f"limit-{one}") for one in range(number))
    faults = tuple(Fault("body", "/\u1234" * 100, "") for _ in range(20))
    target, reason = b"/" + b"\xff" * 8000, "\u1234" * number
    made = Encoding()
    for decision in (
        Admit(who, says, "t", what, (), Counted(levels)),
        Refuse(Code.MISSING_PERMISSION, reason, required=slugs, missing=slugs, principal=who, operation=what),
        Refuse(Code.INVALID_REQUEST, reason, errors=faults, levels=levels, principal=who, operation=what),
    ):
        text = made.record(line(decision, target=target), None)
        assert len(text) <= MAX_RECORD and set(FIELDS) <= set(json.loads(text))
    assert all(len(part) < 2 * decision_line.MAX_PART for part in made._claims.values())


def test_what_is_remembered_is_bounded() -> None:
    """Thousands of callers are told apart, and only so many remembered."""
    made = Encoding()
    for number in range(decision_line.MAX_PARTS * 2 + 10):
        who = WHO._replace(key_id=f"key_{number}")
        told = json.loads(made.line(line(Admit(who, SAYS, "t", WHAT))))
        assert told["key_id"] == f"key_{number}"
    assert len(made._principals) <= decision_line.MAX_PARTS
