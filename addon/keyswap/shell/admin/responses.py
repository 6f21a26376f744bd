"""The shapes of the admin listener's answers: ours, and WorkOS' under WorkOS' paths.

Law: the shape of an error follows from how its path begins and from nothing else, so that it tells nobody which routes
there are. An answer that caches may keep says so; no other may be kept.
"""

import json
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from keyswap.model import Headers
from keyswap.refusals import Answer, Problem, problem
from keyswap.request.header_names import REQUEST_ID

WORKOS = ("/api_keys/", "/authorization/", "/organizations/", "/sso/", "/user_management/")
"""How WorkOS' paths begin."""


def refusal(
    path: str,
    code: str,
    problem_type: Problem,
    request_id: str,
    more: Headers = (),
    also: Mapping[str, object] = MappingProxyType({}),
) -> Answer:
    """An error under a path; `also` are members of a problem document beside the usual ones."""
    if not path.startswith(WORKOS):
        return problem(code, problem_type, request_id, more, also)
    return error(
        problem_type.status,
        problem_type.detail,
        request_id,
        code.replace("-", "_"),
        more=(*problem_type.headers, *more),
    )


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
        (b"Cache-Control", b"no-store"),
        (REQUEST_ID, request_id.encode()),
        *more,
    )
    return Answer(status, fields, content)


def nothing(request_id: str) -> Answer:
    """It is done, and there is nothing to tell (204)."""
    return Answer(204, ((b"Cache-Control", b"no-store"), (REQUEST_ID, request_id.encode())), b"")


def cacheable(content: bytes, etag: str, max_age_s: int, request_id: str) -> Answer:
    """A JSON document that anybody may keep for so long."""
    fields = (
        (b"Content-Type", b"application/json"),
        (b"ETag", etag.encode()),
        (b"Cache-Control", b"public, max-age=%d" % max_age_s),
        (REQUEST_ID, request_id.encode()),
    )
    return Answer(200, fields, content)
