"""Requirements for operations that require nothing yet: proposals for a person to accept.

Law: nothing here is in force; what is proposed follows from method, tag and path alone, the same each time.
"""

import re

from keyswap.model import Operation

_VERBS = {"GET": "read", "HEAD": "read", "OPTIONS": "read", "DELETE": "delete"}
_FREE = {
    *("health", "healthz", "livez", "readyz", "live", "ready", "ping", "status", "version"),
    *("docs", "redoc", "swagger", "openapi.json", "openapi.yaml", "swagger.json"),
}
_CARRIER = re.compile(r"api|rest|v[0-9]+(?:\.[0-9]+)*")
"""First segments that say nothing of what is served."""


def slug(operation: Operation) -> str:
    """`<tag or first segment>:read|write|delete`."""
    literals = [segment for segment in operation.path.split("/") if segment and "{" not in segment]
    named = [segment for segment in literals if not _CARRIER.fullmatch(segment.lower())]
    word = (*operation.tags, *named, *literals, "api")[0]
    plain = re.sub(r"[^a-z0-9_.-]+", "-", word.lower()).strip("-.") or "api"
    return f"{plain}:{_VERBS.get(operation.method, 'write')}"


def may_be_public(operation: Operation) -> bool:
    """Whether an operation looks like a health check or documentation."""
    return operation.method in {"GET", "HEAD"} and operation.path.rstrip("/").rpartition("/")[2].lower() in _FREE
