"""Refusals on the wire."""

import json

import pytest

from keyswap.model import Code, Refuse
from keyswap.refusals import answer, status_of

STATUS = {
    "ambiguous-path": 400,
    "multiple-credentials": 400,
    "missing-credential": 401,
    "invalid-credential": 401,
    "no-such-operation": 404,
    "missing-permission": 403,
    "method-not-allowed": 405,
    "invalid-request": 400,
    "misdirected-request": 421,
    "headers-too-large": 431,
    "body-too-large": 413,
    "upstream-unavailable": 502,
    "gateway-unavailable": 503,
    "store-unavailable": 503,
    "upstream-timeout": 504,
    "rate-limited": 429,
    "too-many-in-flight": 429,
    "quota-exhausted": 429,
}


def test_every_code_has_its_status() -> None:
    """Codes and their statuses are what people's scripts rely on."""
    assert {code.value: status_of(code) for code in Code} == STATUS


@pytest.mark.parametrize("code", Code)
def test_a_refusal_is_a_problem_document(code: Code) -> None:
    """Every refusal is RFC 9457 problem+json with code and request id, is not cached, and keeps its private reason."""
    told = answer(Refuse(code, "private-reason", "key_private"), "req-1")
    headers = dict(told.headers)
    body = json.loads(told.body)
    assert told.status == body["status"] == STATUS[code]
    assert body["type"] == f"urn:keyswap:problem:{code}" and body["code"] == code and body["request_id"] == "req-1"
    assert body["title"] and body["detail"]
    assert headers[b"Content-Type"] == b"application/problem+json" and headers[b"Cache-Control"] == b"no-store"
    assert headers[b"Content-Length"] == b"%d" % len(told.body) and headers[b"X-Request-Id"] == b"req-1"
    assert b"private" not in told.body + b"".join(headers.values())


def test_challenges_follow_rfc_6750() -> None:
    """401 carries a challenge: without an error code when nothing was presented, invalid_token when it was no good."""
    missing = dict(answer(Refuse(Code.MISSING_CREDENTIAL, ""), "r").headers)[b"WWW-Authenticate"]
    invalid = dict(answer(Refuse(Code.INVALID_CREDENTIAL, ""), "r").headers)[b"WWW-Authenticate"]
    assert missing.startswith(b"Bearer ") and b"error" not in missing
    assert b'error="invalid_token"' in invalid


def test_unavailability_says_when_to_come_back() -> None:
    """503 carries Retry-After: 1, 429 whole seconds that are rounded up and at least one, 405 carries Allow."""
    for waited, said in ((0.0, 1), (0.2, 1), (1.0, 1), (1.0001, 2), (3600.5, 3601)):
        told = answer(Refuse(Code.RATE_LIMITED, "", limit="per-key", retry_after_s=waited), "r")
        assert dict(told.headers)[b"Retry-After"] == b"%d" % said
        body = json.loads(told.body)
        assert (body["limit"], body["retry_after"]) == ("per-key", said)
    assert dict(answer(Refuse(Code.STORE_UNAVAILABLE, ""), "r").headers)[b"Retry-After"] == b"1"
    refused = Refuse(Code.METHOD_NOT_ALLOWED, "", allow=("GET", "HEAD"))
    assert dict(answer(refused, "r").headers)[b"Allow"] == b"GET, HEAD"
