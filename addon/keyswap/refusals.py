"""Refuse → status, headers, problem+json (RFC 9457): the only place that knows the status codes of refusals.

Law: refusals of one code look the same from outside, whatever their private reason; no answer says anything of the
backend, the key, or the programs behind it.
"""

import json
from collections.abc import Mapping
from math import ceil
from types import MappingProxyType
from typing import NamedTuple

from keyswap.model import Code, Headers, Refuse
from keyswap.request.header_names import REQUEST_ID


class Problem(NamedTuple):
    """What the caller is told of a code: status, title, detail, and the headers that belong to it."""

    status: int
    title: str
    detail: str
    headers: tuple[tuple[bytes, bytes], ...] = ()


class Answer(NamedTuple):
    """A response of the gateway's own."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes


_RETRY = ((b"Retry-After", b"1"),)
_CHALLENGE = b'Bearer realm="keyswap"'

PROBLEMS = {
    Code.AMBIGUOUS_PATH: Problem(
        400,
        "Ambiguous path",
        "The path of this request has more than one reading. Send it without dot segments, empty segments, encoded "
        "slashes, backslashes, semicolons or control characters.",
    ),
    Code.MULTIPLE_CREDENTIALS: Problem(
        400, "Multiple credentials", "Send exactly one credential, in one header, once."
    ),
    Code.MISSING_CREDENTIAL: Problem(
        401,
        "Missing credential",
        "This request needs a credential: send an API key as a bearer token.",
        ((b"WWW-Authenticate", _CHALLENGE),),
    ),
    Code.INVALID_CREDENTIAL: Problem(
        401,
        "Invalid credential",
        "The credential is not valid: it may be mistyped, expired or revoked.",
        ((b"WWW-Authenticate", _CHALLENGE + b', error="invalid_token"'),),
    ),
    Code.NO_SUCH_OPERATION: Problem(
        404, "No such operation", "The description of this API has no operation of this path."
    ),
    Code.MISSING_PERMISSION: Problem(
        403,
        "Missing permission",
        "The credential lacks a permission that this operation requires.",
        ((b"WWW-Authenticate", _CHALLENGE + b', error="insufficient_scope"'),),
    ),
    Code.METHOD_NOT_ALLOWED: Problem(
        405, "Method not allowed", "This method is not served here; the Allow header names those that are."
    ),
    Code.INVALID_REQUEST: Problem(400, "Invalid request", "The request is malformed, or asks for what is not served."),
    Code.MISDIRECTED_REQUEST: Problem(
        421, "Misdirected request", "No API of the host that this request asks for is served here."
    ),
    Code.HEADERS_TOO_LARGE: Problem(431, "Headers too large", "Send a shorter target, or fewer headers."),
    Code.BODY_TOO_LARGE: Problem(413, "Body too large", "The body of this request is larger than is accepted here."),
    Code.UPSTREAM_UNAVAILABLE: Problem(
        502, "Upstream unavailable", "The API behind this gateway cannot be reached, or gave no usable answer."
    ),
    Code.UPSTREAM_TIMEOUT: Problem(
        504, "Upstream timeout", "The API behind this gateway did not answer in time. It may have acted all the same."
    ),
    Code.RATE_LIMITED: Problem(429, "Rate limited", "Too many requests: try again after the time in Retry-After."),
    Code.TOO_MANY_IN_FLIGHT: Problem(
        429, "Too many in flight", "Too many requests are being answered at once: try again when one has ended."
    ),
    Code.QUOTA_EXHAUSTED: Problem(
        429, "Quota exhausted", "The quota of this period is used up: try again after the time in Retry-After."
    ),
    Code.GATEWAY_UNAVAILABLE: Problem(
        503, "Gateway unavailable", "The gateway cannot judge this request now. Try again shortly.", _RETRY
    ),
    Code.STORE_UNAVAILABLE: Problem(
        503, "Store unavailable", "The gateway cannot reach a store that it must ask. Try again shortly.", _RETRY
    ),
}


def status_of(code: Code) -> int:
    """The HTTP status of a code."""
    return PROBLEMS[code].status


def answer(refused: Refuse, request_id: str, more: Headers = ()) -> Answer:
    """The response to a refused request; `more` are fields of its own beside the code's."""
    template = PROBLEMS[refused.code]
    if refused.detail is not None:
        template = template._replace(detail=refused.detail)
    also: dict[str, object] = {}
    if refused.required:
        also |= {"required_permissions": refused.required, "missing_permissions": refused.missing}
        scope = f', scope="{" ".join(refused.required)}"'.encode()  # RFC 6750 §3.1
        template = template._replace(headers=tuple((name, value + scope) for name, value in template.headers))
    if refused.errors:
        template = template._replace(detail="The request is not as this API is described; `errors` says where.")
        also["errors"] = [fault.as_json() for fault in refused.errors]
    retry: Headers = ()
    if refused.retry_after_s is not None:
        retry_after_s = max(1, ceil(refused.retry_after_s))
        also |= {"limit": refused.limit, "retry_after": retry_after_s}
        retry = ((b"Retry-After", b"%d" % retry_after_s),)
    allow = ((b"Allow", ", ".join(refused.allow).encode()),) if refused.allow else ()
    return problem(refused.code, template, request_id, (*retry, *allow, *more), also)


def problem(
    code: str, template: Problem, request_id: str, more: Headers = (), also: Mapping[str, object] = MappingProxyType({})
) -> Answer:
    """An answer in the shape of RFC 9457; `also` are members beside the usual ones, `more` fields beside its own."""
    document = {
        "type": f"urn:keyswap:problem:{code}",
        "title": template.title,
        "status": template.status,
        "detail": template.detail,
        "code": code,
        "request_id": request_id,
        **also,
    }
    body = json.dumps(document).encode()
    headers = (
        (b"Content-Type", b"application/problem+json"),
        (b"Content-Length", b"%d" % len(body)),
        (b"Cache-Control", b"no-store"),
        (REQUEST_ID, request_id.encode()),
        *template.headers,
        *more,
    )
    return Answer(template.status, headers, body)
