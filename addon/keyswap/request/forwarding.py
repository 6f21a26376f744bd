"""The head that goes to the backend, and the head of its response that goes to the caller, as values.

Law: the token stands where the backend expects it, whatever place the credential had. A body has exactly one framing.
What is for one hop alone goes no further, in either direction (RFC 9110 §7.6.1).
"""

import re
from collections.abc import Collection
from typing import NamedTuple

from keyswap.model import Admit, Headers, Principal, Upstream
from keyswap.request.header_names import REQUEST_ID, canonical
from keyswap.request.header_policy import SanitizedHeaders
from keyswap.request.wellformed import RequestLine

CHUNKED = (b"Transfer-Encoding", b"chunked")
_WITH_CONTENT = frozenset((b"POST", b"PUT", b"PATCH"))
"""Backends want to be told that one of these has no body (RFC 9110 §8.6)."""
_UPGRADE = (b"Connection", b"Upgrade")
"""As `request.header_policy` writes them, and nobody else: it drops those that come from a caller."""


class UpstreamHead(NamedTuple):
    """The head that goes to the backend."""

    upstream: Upstream
    target: bytes
    fields: Headers
    declared: int | None
    """Bytes of its body, as `declared_length` has them."""
    serves: object
    """A connection that carries it may serve only requests of an equal one."""


def upstream_head(
    admit: Admit,
    line: RequestLine,
    sanitized: SanitizedHeaders,
    request_id: str,
    scheme: str,
    keep_host: bool,
    chunked: bool,
) -> UpstreamHead:
    """The head of an admitted request.

    `scheme` is the caller's; `keep_host`: the backend sees the host that the caller asks for, not its own; `chunked`: a
    body comes by HTTP/2 whose length is not declared.
    """
    upstream, multiplexed = admit.upstream, line.http_version == b"HTTP/2.0"
    host = sanitized.host or line.authority  # HTTP/2 names the host there alone
    fields = [
        (b"Host", host if keep_host else upstream.authority.encode()),
        (REQUEST_ID, request_id.encode()),
        (b"X-Forwarded-For", sanitized.client.encode()),
        (b"X-Forwarded-Host", host),
        (b"X-Forwarded-Proto", scheme.encode()),
        *sanitized.kept,
    ]
    if line.http_version == b"HTTP/1.0":
        # An upgrade is none there (RFC 9110 §7.8), nor is a WebSocket's handshake (RFC 6455 §4.1).
        fields = [field for field in fields if field[0] not in _UPGRADE]
    if admit.token is not None:
        fields.insert(1, (b"Authorization", b"Bearer " + admit.token.encode()))
    declared = declared_length(sanitized.kept) if sanitized.framed else 0
    if chunked:
        # Without it the body would follow an HTTP/1 head that has no framing, and be read as the next request.
        fields.append(CHUNKED)
        declared = None
    elif multiplexed and line.method in _WITH_CONTENT and not _has_length(sanitized.kept):
        fields.append((b"Content-Length", b"0"))
    stripped = admit.operation.stripped
    target = without_prefix(line.path, stripped) if stripped else line.path
    return UpstreamHead(upstream, target, tuple(fields), declared, _whom(admit.principal, sanitized))


def _whom(principal: Principal, sanitized: SanitizedHeaders) -> object:
    """Whom a connection to the backend may serve with another request: the same principal.

    Who is nobody may be anybody behind the same proxy: those are told apart by their addresses and their cookies.
    """
    known = principal.org_id, principal.user_id, principal.key_id, principal.session_id, principal.agent
    if any(known):
        return (*known, principal.actor, principal.kind)
    return sanitized.client, tuple([value for name, value in sanitized.kept if name.lower() == b"cookie"])


def without_prefix(target: bytes, segments: int) -> bytes:
    """A target without its leading segments; all else byte for byte."""
    path, mark, query = target.partition(b"?")
    rest = path.split(b"/", segments + 1)
    return b"/" + (rest[segments + 1] if len(rest) > segments + 1 else b"") + mark + query


def declared_length(fields: Collection[tuple[bytes, bytes]]) -> int | None:
    """The length of a body in bytes as its head declares it; None when it does not say; 0 when there is no body."""
    if any(name.lower() == b"transfer-encoding" for name, _ in fields if len(name) == 17):
        return None
    lengths = [value for name, value in fields if len(name) == 14 and name.lower() == b"content-length"]
    try:
        return int(b", ".join(lengths) or b"0")
    except ValueError:
        return None


def _has_length(fields: Collection[tuple[bytes, bytes]]) -> bool:
    return any(name.lower() == b"content-length" for name, _ in fields if len(name) == 14)


def framing(fields: Headers) -> Headers:
    """The fields of a head that tell where its body ends, and whether it waits to be asked for."""
    return tuple([field for field in fields if field[0].lower() in _FRAMED_BY])


_FRAMED_BY = frozenset((b"content-length", b"transfer-encoding", b"expect"))


class DownstreamHead(NamedTuple):
    """The head of a backend's response that goes to the caller."""

    fields: Headers
    declared: int | None
    """Bytes of its body; None when its length is not declared."""
    closes_upstream: bool
    """The backend closes its connection after it, though these fields do not say so."""


def downstream_head(
    status: int,
    version: bytes,
    fields: Headers,
    request_id: str,
    closes: bool,
    limits: Headers,
    reserved: Collection[bytes],
) -> DownstreamHead:
    """A response's head with the request's id and its limits, without what is for this hop alone.

    `closes`: the caller's connection ends after it. Beside `limits` the backend says none of the `reserved` names.
    """
    declared: list[bytes] = []
    options: list[bytes] = []
    kept = []
    known = _KNOWN if status != 101 else _SWITCHING
    for field in fields:
        name = field[0]
        if len(name) in _LENGTHS and (name := name.lower()) in known:
            if name == b"connection":
                options.append(field[1].lower())
            if name != b"content-length":
                continue
            declared.append(field[1])
        elif limits and field[0].lower() in reserved:
            continue
        kept.append(field)
    if _ODD.search(b"\n".join([field[0] for field in kept])):
        kept = [
            field for field in kept if field[0].lower() in RESPONSE_NAMES or canonical(field[0]) not in RESPONSE_NAMES
        ]
    closes, closes_upstream = closes or version == b"HTTP/1.0", False
    if options and options != _KEPT:
        kept, closes, closes_upstream = _hop(status, kept, options, closes)
    kept += ((REQUEST_ID, request_id.encode()), *limits)
    if closes:
        kept.append((b"Connection", b"close"))
    length = int(declared[0]) if len(declared) == 1 and declared[0].isdigit() else None
    return DownstreamHead(tuple(kept), length, closes_upstream)


def _hop(
    status: int, fields: list[tuple[bytes, bytes]], options: list[bytes], closes: bool
) -> tuple[list[tuple[bytes, bytes]], bool, bool]:
    """Leave out what a backend's `Connection` names, but framing (RFC 9110 §7.6.1).

    Also whether the caller's connection closes, and whether the backend's does.
    """
    named = {option.strip() for option in b",".join(options).split(b",")}
    present = {field[0].lower() for field in fields}
    closes_upstream = False
    if b"close" in named and not closes:
        closes_upstream = bool(present & _FRAMING) or status in {204, 304}
        closes = not closes_upstream  # else its body ends where the connection does
    dropped = named & present - _FRAMING
    return (
        [field for field in fields if field[0].lower() not in dropped] if dropped else fields,
        closes,
        closes_upstream,
    )


_FRAMING = frozenset((b"content-length", b"transfer-encoding"))
_SWITCHING = frozenset((b"content-length", REQUEST_ID.lower()))
_KNOWN = _SWITCHING | {
    *(b"connection", b"keep-alive", b"te", b"trailer", b"upgrade"),
    *(b"proxy-authenticate", b"proxy-authentication-info", b"proxy-authorization", b"proxy-connection"),
}
"""What does not just go on; what opens a WebSocket stays on its 101."""
_LENGTHS = frozenset(len(name) for name in _KNOWN)
RESPONSE_NAMES = _KNOWN | {b"transfer-encoding"}
"""Fields of a response that reach callers in their own spelling, or not at all."""
_ODD = re.compile(rb"(?m)[^A-Za-z0-9\n-]|--|^-|-$")
"""A name that a hop may read as another one: a caller's side may, as a backend may (`keyswap.request.header_names`)."""
_KEPT = [b"keep-alive"]
