"""Cross-origin requests of browsers (Fetch standard, "CORS protocol").

Law: a preflight is judged without a credential and is forwarded, if at all, without one and without a token. It has no
body. What an admitted response allows its readers is the backend's to say; the gateway only lets the policy's origins
read refusals, and those that it names send the cookies that hold credentials.
"""

import re
from collections.abc import Iterable

from keyswap.model import METHODS, Headers, Preflight, Reply, Request
from keyswap.request.header_names import REQUEST_ID

MAX_AGE_S = 600
_NAMES = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+(?:[ \t]*,[ \t]*[!#$%&'*+.^_`|~0-9A-Za-z-]+)*")
_LONGEST = 4 << 10
_LIMITS = b"RateLimit, RateLimit-Policy, X-RateLimit-Limit, X-RateLimit-Remaining, X-RateLimit-Reset"
_CREDENTIALS = (b"Access-Control-Allow-Credentials", b"true")
_EXPOSED = (b"Access-Control-Expose-Headers", REQUEST_ID + b", WWW-Authenticate, Retry-After, " + _LIMITS)


class Cors:
    """Made once from the policy. `preflight` is refuse, forward or answer; `origins` are exact ones, or `*` alone.

    `cookies`: whether a credential may come in a cookie, which browsers send where both answers allow it.
    """

    def __init__(self, preflight: str, origins: Iterable[str], cookies: bool = False) -> None:
        self._mode, self._cookies = preflight, cookies
        self._origins = frozenset(origin.encode() for origin in origins)

    def preflight(self, request: Request) -> Preflight | None:
        """The preflight that a request is; None: it is none, or is judged as any other request."""
        origins = _values(request.headers, b"origin")
        methods = _values(request.headers, b"access-control-request-method")
        if self._mode == "refuse" or request.method != "OPTIONS" or len(origins) != 1 or len(methods) != 1:
            return None
        if _values(request.headers, b"transfer-encoding") or set(_values(request.headers, b"content-length")) - {b"0"}:
            return None
        method = methods[0].decode("latin-1")
        return Preflight(method, None if self._mode == "forward" else Reply(self._allowed(request.headers, method)))

    def _allowed(self, headers: Headers, method: str) -> Headers:
        """The headers of a preflight's answer: they allow nothing unless the origin is one of the policy's."""
        vary = b"Origin, Access-Control-Request-Method, Access-Control-Request-Headers"
        origin = self._named(headers)
        if origin is None or method not in METHODS:
            return ((b"Vary", vary),)
        fields = [
            (b"Vary", vary),
            *self._allows(origin),
            (b"Access-Control-Allow-Methods", ", ".join(METHODS).encode()),
            (b"Access-Control-Max-Age", b"%d" % MAX_AGE_S),
        ]
        names = b", ".join(_values(headers, b"access-control-request-headers"))
        if names and len(names) <= _LONGEST and _NAMES.fullmatch(names):
            fields.append((b"Access-Control-Allow-Headers", names))
        return tuple(fields)

    def exposed(self, headers: Headers) -> Headers:
        """The headers with which code of the policy's origins can read a refusal. `headers` are the request's."""
        origin = self._named(headers) if self._origins else None
        if origin is None:
            return ()
        return (*self._allows(origin), _EXPOSED, (b"Vary", b"Origin"))

    def _allows(self, origin: bytes) -> Headers:
        """Credentials are for the origins that are named, never for all of them (Fetch standard, "CORS check")."""
        allowed = (b"Access-Control-Allow-Origin", origin)
        return (allowed, _CREDENTIALS) if self._cookies and origin != b"*" else (allowed,)

    def _named(self, headers: Headers) -> bytes | None:
        origins = _values(headers, b"origin")
        if len(origins) != 1 or origins[0] == b"null":
            return None
        if b"*" in self._origins:
            return b"*"
        return origins[0] if origins[0] in self._origins else None


def _values(headers: Headers, wanted: bytes) -> list[bytes]:
    return [value for name, value in headers if len(name) == len(wanted) and name.lower() == wanted]
