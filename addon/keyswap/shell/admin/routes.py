"""What can be asked of the admin listener, and by whom (CONTRACT §7).

Law: whoever is no operator learns whether the gateway lives and is ready, and its metrics, and nothing else, not even
which routes there are. A browser can be made to ask by any page, so what comes from one (`Origin`,
`Sec-Fetch-Site`), or under a name that may be anybody's (DNS rebinding), is refused before all else. The token is
compared in constant time.
"""

import hmac
import ipaddress
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from keyswap.model import Headers
from keyswap.refusals import Answer, Problem, problem
from keyswap.shell.admin.http import Head
from keyswap.shell.admin.responses import as_json, body, refusal

_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^:\[\]]+))(?::[0-9]{1,5})?")
_OWN_SITE = {"none", "same-origin"}
"""What a browser says of a request that no other page makes (Fetch Metadata); a site has all ports of its host."""
_CHALLENGE = b'Bearer realm="keyswap admin"'

PROBLEMS = {
    "unknown-host": Problem(
        421, "Unknown host", "Ask under an IP address, localhost, or the host that `admin.listen` of the policy names."
    ),
    "forbidden-origin": Problem(403, "Forbidden origin", "Requests that a browser's page makes are not answered here."),
    "missing-credential": Problem(
        401,
        "Missing credential",
        "Send the admin token as a bearer token.",
        ((b"WWW-Authenticate", _CHALLENGE),),
    ),
    "invalid-credential": Problem(
        401,
        "Invalid credential",
        "This is not the admin token.",
        ((b"WWW-Authenticate", _CHALLENGE + b', error="invalid_token"'),),
    ),
    "not-found": Problem(404, "Not found", "There is nothing under this path."),
    "method-not-allowed": Problem(405, "Method not allowed", "The Allow header names the methods of this path."),
    "not-ready": Problem(503, "Not ready", "`reasons` says why.", ((b"Retry-After", b"1"),)),
}


class Keeping(NamedTuple):
    """A state directory, and the prefix of keys that are made there."""

    state: Path
    prefix: str


class Gateway(Protocol):
    """What the listener asks: one process, or whoever stands for several."""

    async def metrics(self, accept: str) -> tuple[bytes, str]:
        """The metrics and their content type, in the format that an Accept header asks for."""

    async def readiness(self) -> Mapping[str, str]:
        """Why it is not ready, by what is amiss; nothing, or what lets it serve all the same (`serves`): it is."""

    @property
    def keeping(self) -> Keeping:
        """Where its keys are kept, and how they begin."""

    async def jwks(self) -> Mapping[str, Any]:
        """Its signing keys' set: `body` (JSON text), `etag`, `max_age_s`. Raises StateError."""


class Asked(NamedTuple):
    """A request to a route. `named` holds the parts of the path that the route has names for."""

    head: Head
    request_id: str
    body: bytes
    named: Mapping[str, str]


class Route(NamedTuple):
    """A method, a path in which `{name}` stands for one segment, what answers, and whether it needs the token."""

    method: str
    path: str
    respond: Callable[[Gateway, Asked], Awaitable[Answer]]
    token: bool = True

    def match(self, path: str) -> Mapping[str, str] | None:
        """The named parts of a path, if it is one of this route's."""
        wanted, given = self.path.split("/"), path.split("/")
        if len(wanted) != len(given):
            return None
        named: dict[str, str] = {}
        for part, value in zip(wanted, given, strict=True):
            if part.startswith("{") and value:
                named[part[1:-1]] = value
            elif part != value:
                return None
        return named


async def _healthz(_gateway: Gateway, asked: Asked) -> Answer:
    return as_json({"status": "ok"}, asked.request_id)


async def _readyz(gateway: Gateway, asked: Asked) -> Answer:
    reasons = await gateway.readiness()
    if not serves(reasons):
        also = {"ready": False, "reasons": dict(reasons)}
        return problem("not-ready", PROBLEMS["not-ready"], asked.request_id, also=also)
    return as_json({"ready": True, "reasons": dict(reasons)}, asked.request_id)


def serves(reasons: Mapping[str, str]) -> bool:
    """Whether it serves all the same: the policy before a bad one is in force, and no balancer is to leave for that."""
    return not reasons.keys() - {"policy"}


async def _metrics(gateway: Gateway, asked: Asked) -> Answer:
    content, content_type = await gateway.metrics(", ".join(asked.head.headers.get_list("Accept")))
    return body(content, content_type, asked.request_id)


PROBES: tuple[Route, ...] = (
    Route("GET", "/healthz", _healthz, token=False),
    Route("GET", "/readyz", _readyz, token=False),
    Route("GET", "/metrics", _metrics, token=False),
)
"""What those ask who watch the gateway. A GET is a HEAD too."""


class Desk:
    """Judges each request to the listener, and has it answered."""

    def __init__(self, gateway: Gateway, routes: Sequence[Route], host: str, token: bytes) -> None:
        """`host` is a name under which it may be asked, beside localhost and every address."""
        self.host, self.token = host, token
        self._gateway, self._routes = gateway, routes

    def judge(self, head: Head, request_id: str) -> Answer | None:
        """The refusal of a request whose head has come; None: its body may come too."""
        if not self._is_our_host(head.headers.get_list("Host")):
            return _refused(head, "unknown-host", request_id)
        if "Origin" in head.headers or not set(head.headers.get_list("Sec-Fetch-Site")) <= _OWN_SITE:
            return _refused(head, "forbidden-origin", request_id)
        known = [route for route in self._routes if route.match(head.path) is not None]
        if any(not route.token and route.method == head.plain_method for route in known):
            return None
        presented = head.headers.get_list("Authorization")
        if not self._opens(presented):
            return _refused(head, "invalid-credential" if presented else "missing-credential", request_id)
        if not known:
            return _refused(head, "not-found", request_id)
        if all(route.method != head.plain_method for route in known):
            methods = {route.method for route in known}
            allow = ", ".join(sorted(methods | ({"HEAD"} if "GET" in methods else set()))).encode()
            return _refused(head, "method-not-allowed", request_id, ((b"Allow", allow),))
        return None

    async def respond(self, head: Head, request_id: str, body: bytes) -> Answer:
        """The answer to a request that was not refused."""
        for route in self._routes:
            named = route.match(head.path)
            if named is not None and route.method == head.plain_method:
                return await route.respond(self._gateway, Asked(head, request_id, body, named))
        return _refused(head, "not-found", request_id)

    def _opens(self, presented: Sequence[str]) -> bool:
        scheme, _, token = presented[0].partition(" ") if len(presented) == 1 else ("", "", "")
        same = hmac.compare_digest(token.strip(" ").encode("latin-1"), self.token)
        return same and scheme.lower() == "bearer"

    def _is_our_host(self, hosts: Sequence[str]) -> bool:
        found = _HOST.fullmatch(hosts[0]) if len(hosts) == 1 else None
        if found is None:
            return False
        name = (found[1] or found[2]).lower()
        return name in {"localhost", self.host.lower()} or _is_address(name)


def _refused(head: Head, code: str, request_id: str, more: Headers = ()) -> Answer:
    return refusal(head.path, code, PROBLEMS[code], request_id, more)


def _is_address(text: str) -> bool:
    with suppress(ValueError):
        return bool(ipaddress.ip_address(text))
    return False
