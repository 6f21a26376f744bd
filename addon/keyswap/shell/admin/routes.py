"""The routes of the admin listener: what a route is, what it is given, and those for monitoring.

Law: a route is one row, of a method, a path and what answers; it needs the token unless it says otherwise. A route is
called only for requests that `app` has let through, and knows nothing of connections.
"""

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from tornado.httputil import HTTPHeaders

from keyswap.refusals import Answer, Problem, problem
from keyswap.shell.admin.responses import as_json, body

_NOT_READY = Problem(503, "Not ready", "`reasons` says why.", ((b"Retry-After", b"1"),))


class KeyStoreRef(NamedTuple):
    """Where keys are kept: a state directory, and the prefix of keys that are made there."""

    state: Path
    prefix: str


class Gateway(Protocol):
    """The gateway whose listener it is: one process, or the supervisor of several."""

    async def metrics(self, accept: str) -> tuple[bytes, str]:
        """The metrics and their content type, in the format that an Accept header asks for."""

    async def readiness(self) -> Mapping[str, str]:
        """Why it is not ready, by what is amiss; nothing, or what lets it serve all the same (`serves`): it is."""

    @property
    def key_store(self) -> KeyStoreRef:
        """Where its keys are kept."""

    async def jwks(self) -> Mapping[str, Any]:
        """Its signing keys' set: `body` (JSON text), `etag`, `max_age_s`. Raises StateError."""


class AdminRequest(NamedTuple):
    """A request to a route. `named` holds the parts of the path that the route has names for, percent-decoded."""

    query: str
    headers: HTTPHeaders
    request_id: str
    body: bytes
    named: Mapping[str, str]


class Route(NamedTuple):
    """A method, a path in which `{name}` stands for one segment, what answers, and whether it needs the token."""

    method: str
    path: str
    respond: Callable[[Gateway, AdminRequest], Awaitable[Answer]]
    token: bool = True


async def _healthz(_gateway: Gateway, request: AdminRequest) -> Answer:
    return as_json({"status": "ok"}, request.request_id)


async def _readyz(gateway: Gateway, request: AdminRequest) -> Answer:
    reasons = await gateway.readiness()
    if not serves(reasons):
        also = {"ready": False, "reasons": dict(reasons)}
        return problem("not-ready", _NOT_READY, request.request_id, also=also)
    return as_json({"ready": True, "reasons": dict(reasons)}, request.request_id)


def serves(reasons: Mapping[str, str]) -> bool:
    """Whether it serves all the same: the policy before a bad one is in force, and no balancer is to leave for that."""
    return not reasons.keys() - {"policy"}


async def _metrics(gateway: Gateway, request: AdminRequest) -> Answer:
    content, content_type = await gateway.metrics(", ".join(request.headers.get_list("Accept")))
    return body(content, content_type, request.request_id)


PROBES: tuple[Route, ...] = (
    Route("GET", "/healthz", _healthz, token=False),
    Route("GET", "/readyz", _readyz, token=False),
    Route("GET", "/metrics", _metrics, token=False),
)
"""For whatever watches the gateway."""
