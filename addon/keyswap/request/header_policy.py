"""The header policy: fields that are stripped from a request before it is judged.

Law: after washing no header is left that speaks for the caller, for a proxy in front, or for the next hop alone
(CONTRACT §5), however it is spelled, nor one whose name hops read in more than one way: only names of letters, digits
and `-` pass, and those that the policy keeps. Framing headers (Host, Content-Length,
Transfer-Encoding) are never removed, whatever `Connection` names: a body without framing would be a second request.
Which trace the request belongs to is settled here as well, so that what is judged of it is what is forwarded.
"""

import logging
from collections.abc import Callable, Iterable
from enum import IntEnum
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from keyswap.model import Headers
from keyswap.request import addresses, trace_context
from keyswap.request.header_names import FRAMING, ONE_SPELLING, REQUEST_ID, Patterns, canonical, is_plain
from keyswap.request.hosts import HOST

logger = logging.getLogger(__name__)

STRIPPED = (
    *("authorization", "forwarded", "x-forwarded-*", "x-real-ip", "x-request-id"),
    *("true-client-ip", "cf-connecting-ip", "x-client-ip"),
    *("x-original-url", "x-rewrite-url", "x-http-method", "x-http-method-override", "x-method-override"),
    *("script-name", "path-info"),  # gunicorn cuts one off the path, or routes the other, for peers on its own machine
    *("connection", "keep-alive", "proxy", "proxy-*", "te", "trailer", "upgrade"),
    "sec-websocket-extensions",  # compressed messages would have no bound on what they become
)
"""Headers that no caller sets, whatever the policy says (CONTRACT §5). A final * is a wildcard.

Those that a policy may replace stand in `policy.identity_headers`.
"""


class _Act(IntEnum):
    KEEP, DROP, NOTE, FRAME, TRACE, COOKIE = range(6)


class SanitizedHeaders(NamedTuple):
    """A request's headers as the backend may see them, and values read from the others."""

    kept: list[tuple[bytes, bytes]]
    host: bytes
    """The host that the caller asks for: its Host, or that of a trusted proxy's header; over HTTP/2 it may be empty."""
    client: str
    proto: str | None
    request_id: bytes | None
    closes: bool
    """The caller asked for its connection to be closed: mitmproxy forgets that once `Connection` is gone."""
    framed: bool
    """The head says something of a body: Content-Length or Transfer-Encoding is in `kept`."""
    trace_id: str
    """The trace of the `traceparent` that is in `kept`."""


_REQUEST_ID = REQUEST_ID.lower()
_NOTED = {
    *(b"connection", b"upgrade", _REQUEST_ID, b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto"),
    b"forwarded",
}
_CLIENT_HEADERS = (b"x-forwarded-for", b"forwarded")
"""Headers in which a proxy names its client."""
_CHUNKED = (b"Transfer-Encoding", b"chunked")  # in whatever case it came: `wellformed` admits no other coding
_NAMES, _NAME = 1024, 64
"""The most spellings of header names that are remembered, and their most bytes: callers choose them."""


class HeaderPolicy:
    """Made once from the policy, asked for each request."""

    def __init__(
        self,
        credentials: Iterable[str],
        strip: Iterable[str],
        trusted: Iterable[str],
        cookies: Iterable[str] = (),
        keep: Iterable[str] = (),
        mask: Callable[[str], str] = str,
    ) -> None:
        """`credentials` are headers, `cookies` names of cookies, that may hold one; `keep` names that pass as well.

        `mask` takes keys out of a text.
        """
        self._mask = mask
        self._stripped = Patterns((*STRIPPED, *credentials, *strip))
        self._keep = frozenset(name.lower().encode() for name in keep)
        self._trusted = tuple(map(addresses.network, trusted))
        self._cookies = frozenset(cookie_name(name.encode()) for name in cookies)
        self._acts: dict[bytes, _Act] = {}
        self._warned = False

    def __call__(self, fields: Headers, peer: str, method: str = "GET") -> SanitizedHeaders:
        """Wash header fields that came from `peer` (its address as text)."""
        acts = self._acts
        kept: list[tuple[bytes, bytes]] = []
        noted: dict[bytes, list[bytes]] = {}
        traced: list[tuple[bytes, bytes]] = []
        host, framed = b"", False
        for field in fields:
            name, value = field
            act = acts.get(name)
            if act is None:
                act = self._act(name)
            if act is _Act.KEEP:
                kept.append(field)
            elif act is _Act.NOTE:
                noted.setdefault(name.lower(), []).append(value)
            elif act is _Act.TRACE:
                traced.append(field)
            elif act is _Act.COOKIE:
                kept += self._other_cookies(name, value)
            elif act is _Act.FRAME:
                if name.lower() == b"host":
                    host = value
                else:
                    framed = True
                    kept.append(field if len(name) == 14 else _CHUNKED)
        trace_id, traced = trace_context.continued(traced)
        kept += traced
        sanitized = SanitizedHeaders(kept, host, addresses.plain(peer), None, None, False, framed, trace_id)
        return self._finish(sanitized, noted, method) if noted or self._trusted else sanitized

    def _other_cookies(self, name: bytes, value: bytes) -> Headers:
        """A Cookie header without credentials (RFC 6265 §4.2.1)."""
        crumbs = value.split(b";")
        others = [crumb for crumb in crumbs if cookie_name(crumb.partition(b"=")[0]) not in self._cookies]
        if len(others) == len(crumbs):
            return ((name, value),)
        return ((name, b";".join(others).strip()),) if others else ()

    def _act(self, name: bytes) -> _Act:
        lower = name.lower()
        if lower in FRAMING:
            act = _Act.FRAME
        elif lower in _NOTED:
            act = _Act.NOTE
        elif name in self._stripped or self._has_other_readings(name, lower):
            act = _Act.DROP
        elif self._cookies and lower == b"cookie":
            act = _Act.COOKIE
        else:
            act = _Act.TRACE if lower in trace_context.NAMES else _Act.KEEP
        if len(name) <= _NAME:
            if len(self._acts) >= _NAMES:
                self._acts.clear()  # what is asked for again is found again: nobody's names stay slow
            self._acts[name] = act
        return act

    def _has_other_readings(self, name: bytes, lower: bytes) -> bool:
        if lower not in ONE_SPELLING and canonical(name) in ONE_SPELLING:
            return True
        return not is_plain(name) and lower not in self._keep

    def _finish(self, sanitized: SanitizedHeaders, noted: dict[bytes, list[bytes]], method: str) -> SanitizedHeaders:
        kept, peer = sanitized.kept, sanitized.client
        options = {option.strip().lower() for option in b",".join(noted.get(b"connection", [])).split(b",")} - {b""}
        named = options - FRAMING
        upgrades = is_handshake(method, kept, noted.get(b"upgrade", []), options)
        if named & trace_context.NAMES:
            trace_id, begun = trace_context.begun()
            kept = [*(field for field in kept if field[0].lower() not in trace_context.NAMES), *begun]
            sanitized, named = sanitized._replace(trace_id=trace_id), named - trace_context.NAMES
        if named:
            kept = [field for field in kept if field[0].lower() not in named]
        if upgrades:
            kept = [*kept, (b"Connection", b"Upgrade"), (b"Upgrade", b"websocket")]
        sanitized = SanitizedHeaders(
            kept, sanitized.host, peer, None, None, b"close" in options, sanitized.framed, sanitized.trace_id
        )
        if not self._trusts(peer):
            if not self._warned:
                self._warn(peer, noted)
            return sanitized
        hosts = noted.get(b"x-forwarded-host", [])
        request_ids, protos = noted.get(_REQUEST_ID, []), noted.get(b"x-forwarded-proto", [])
        return sanitized._replace(
            host=hosts[0] if len(hosts) == 1 and HOST.fullmatch(hosts[0]) else sanitized.host,
            client=self._client(noted.get(b"x-forwarded-for", []), peer),
            proto=protos[0].decode() if protos in ([b"http"], [b"https"]) else None,
            request_id=request_ids[0] if len(request_ids) == 1 and self._is_request_id(request_ids[0]) else None,
        )

    def _warn(self, peer: str, noted: dict[bytes, list[bytes]]) -> None:
        """Say once that a proxy is not believed, if it is one: whoever is not trusted may write what it likes."""
        header = next((name for name in _CLIENT_HEADERS if name in noted), None)
        if header is None:
            return
        self._warned = True
        also = "" if header == b"x-forwarded-for" else ", and let it send X-Forwarded-For, which alone is read"
        logger.warning(
            "%s sends %s and is no trusted proxy: that is ignored, and limits by ip, the keys' allowed addresses and "
            "the log go by %s itself. If it is a proxy of yours, write `trusted_proxies: [%s/%d]` into the policy%s",
            *(peer, header.decode().title(), peer, peer, 128 if ":" in peer else 32, also),
        )

    def _is_request_id(self, value: bytes) -> bool:
        """Whether it can be passed on and written down; one that holds a key is none."""
        return is_request_id(value) and self._mask(value.decode()) == value.decode()

    def _trusts(self, address: str) -> bool:
        return bool(self._trusted) and addresses.is_among(address, self._trusted)

    def _client(self, forwarded: list[bytes], peer: str) -> str:
        client = peer
        if not forwarded:
            return client
        for entry in reversed(b",".join(forwarded).decode("latin-1").split(",")):
            address = addresses.plain(without_port(entry.strip()))
            if addresses.parsed(address) is None:
                return UNKNOWN  # a trusted proxy that cannot say who it was: nobody whom an address list allows
            client = address
            if not self._trusts(address):
                break
        return client


def cookie_name(name: bytes) -> bytes:
    """A cookie's name as PHP reads it: decoded (before 7.2.34), cut at `[`, with `_` for blanks and dots."""
    return unquote_to_bytes(name).strip().partition(b"[")[0].replace(b".", b"_").replace(b" ", b"_")


UNKNOWN = "unknown"
"""A client whose address cannot be told (RFC 7239 §6.2)."""


def without_port(entry: str) -> str:
    """An address, without the port that some proxies add: `192.0.2.1:80`, `[2001:db8::1]:80`."""
    if entry.startswith("["):
        return entry[1:].partition("]")[0]
    return entry.partition(":")[0] if entry.count(":") == 1 else entry


def is_request_id(value: bytes) -> bool:
    """Whether a proxy's request id can be passed on: 1 to 128 printable characters."""
    return 0 < len(value) <= 128 and all(0x21 <= byte <= 0x7E for byte in value)


def is_handshake(method: str, kept: list[tuple[bytes, bytes]], upgrade: list[bytes], options: set[bytes]) -> bool:
    """Whether this is a whole WebSocket handshake (RFC 6455 §4.1): half of one lets no `Upgrade` through."""
    if method != "GET" or [value.strip().lower() for value in upgrade] != [b"websocket"] or b"upgrade" not in options:
        return False
    given = {name.lower(): value.strip() for name, value in kept if name.lower().startswith(b"sec-websocket-")}
    return given.get(b"sec-websocket-version") == b"13" and len(given.get(b"sec-websocket-key", b"")) == 24
