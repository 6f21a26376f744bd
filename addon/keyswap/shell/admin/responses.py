"""The shapes of the admin listener's answers: ours, and WorkOS' under WorkOS' paths.

Law: the shape of an error follows from how its path begins and from nothing else, so that it tells nobody which routes
there are. What may be kept by others says so; nothing else may.
"""

import json
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from keyswap.model import Headers
from keyswap.refusals import Answer, Problem, problem

WORKOS = ("/api_keys/", "/authorization/", "/organizations/", "/sso/", "/user_management/")
"""How WorkOS' paths begin."""


def refusal(
    path: str,
    code: str,
    told: Problem,
    request_id: str,
    more: Headers = (),
    also: Mapping[str, object] = MappingProxyType({}),
) -> Answer:
    """An error under a path; `also` are members of a problem document beside the usual ones."""
    if not path.startswith(WORKOS):
        return problem(code, told, request_id, more, also)
    return error(told.status, told.detail, request_id, code.replace("-", "_"), more=(*told.headers, *more))


def error(
    status: int,
    message: str,
    request_id: str,
    code: str | None = None,
    errors: Sequence[Mapping[str, str]] = (),
    more: Headers = (),
) -> Answer:
    """An error in WorkOS' shape."""
    document = {"message": message} | ({"code": code} if code else {}) | ({"errors": list(errors)} if errors else {})
    return as_json(document, request_id, status, more)


def as_json(document: object, request_id: str, status: int = 200, more: Headers = ()) -> Answer:
    """An answer with a JSON document."""
    return body(json.dumps(document).encode(), "application/json", request_id, status, more)


def body(content: bytes, content_type: str, request_id: str, status: int = 200, more: Headers = ()) -> Answer:
    """An answer with a body that nobody may keep."""
    fields = (
        (b"Content-Type", content_type.encode()),
        (b"Content-Length", b"%d" % len(content)),
        (b"Cache-Control", b"no-store"),
        (b"X-Request-Id", request_id.encode()),
        *more,
    )
    return Answer(status, fields, content)


def nothing(request_id: str) -> Answer:
    """It is done, and there is nothing to tell (204)."""
    return Answer(204, ((b"Cache-Control", b"no-store"), (b"X-Request-Id", request_id.encode())), b"")


def kept(content: bytes, etag: str, max_age_s: int, known: Sequence[str], request_id: str) -> Answer:
    """A JSON document that may be kept; 304 to who has it. `known`: their If-None-Match fields (RFC 9110 §13.1.2)."""
    fields: Headers = (
        (b"ETag", etag.encode()),
        (b"Cache-Control", b"public, max-age=%d" % max_age_s),
        (b"X-Request-Id", request_id.encode()),
    )
    tags = {tag.strip().removeprefix("W/") for tag in ",".join(known).split(",")}
    if etag in tags or "*" in tags:
        return Answer(304, fields, b"")
    whole = ((b"Content-Type", b"application/json"), (b"Content-Length", b"%d" % len(content)))
    return Answer(200, (*whole, *fields), content)
