"""Whether a head, as a parser took it, can be written to the next hop with one reading.

Law: what was parsed is pasted into the head that goes on, so whatever could be read there as another request, another
host or another header is refused here, before anything is looked up. Nothing is mended.
"""

import hashlib
import re
from base64 import b64encode
from typing import Protocol

from keyswap.model import METHODS, UPSTREAM, WIRE, Code, Headers, Refuse
from keyswap.request.hosts import HOST

MAX_TARGET = 8 << 10
MAX_HEADERS = 100

_METHODS = frozenset(name.encode() for name in METHODS)
_VERSIONS = frozenset((b"HTTP/1.0", b"HTTP/1.1", b"HTTP/2.0"))
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


class RequestLine(Protocol):
    """What stands in a request's head before its fields."""

    @property
    def method(self) -> bytes:
        """The method."""

    @property
    def path(self) -> bytes:
        """The target, with its query."""

    @property
    def http_version(self) -> bytes:
        """As mitmproxy writes it: HTTP/1.1, HTTP/2.0."""

    @property
    def authority(self) -> bytes:
        """Of HTTP/2, or of an absolute target; empty without."""


def reject_malformed(line: RequestLine, fields: Headers, max_head: int, max_body: int | None) -> Refuse | None:
    """Refuse what cannot be forwarded as it is. `fields` are the headers as they came; the bounds are in bytes."""
    if line.method not in _METHODS:
        return Refuse(Code.METHOD_NOT_ALLOWED, "the method is none that is forwarded", allow=METHODS, step=WIRE)
    if line.http_version not in _VERSIONS:
        return _invalid("the version is not HTTP/1.0, 1.1 or 2")
    if len(line.path) > MAX_TARGET or len(fields) > MAX_HEADERS:
        return Refuse(Code.HEADERS_TOO_LARGE, f"over {MAX_TARGET} bytes of target or {MAX_HEADERS} headers", step=WIRE)
    if sum([len(name) + len(value) for name, value in fields]) + len(line.path) > max_head:
        return Refuse(Code.HEADERS_TOO_LARGE, f"over {max_head} bytes of head", step=WIRE)
    declared = [value for name, value in fields if len(name) == 14 and name.lower() == b"content-length"]
    if declared and (refused := _length(declared, max_body)) is not None:
        return refused
    if _CONTROL.search(b" ".join([value for _, value in fields])):
        return _invalid("a control character in a header")
    return _one_host(line.authority, line.http_version == b"HTTP/2.0", fields)


def _length(declared: list[bytes], max_body: int | None) -> Refuse | None:
    if len(declared) != 1 or not _LENGTH.fullmatch(declared[0]):
        return _invalid("not one length of a body")
    if max_body is not None and int(declared[0]) > max_body:
        return Refuse(Code.BODY_TOO_LARGE, f"over {max_body} bytes of body are declared", step=WIRE)
    return None


_LENGTH = re.compile(rb"0|[1-9][0-9]{0,17}")
"""What every parser counts alike: larger numbers wrap around in some, and a leading zero means octal to others."""


def response_framing_error(fields: Headers) -> Refuse | None:
    """Refuse a response, by its fields, whose end another parser could see elsewhere (RFC 9112 §6.3)."""
    lengths = [value for name, value in fields if len(name) == 14 and name.lower() == b"content-length"]
    codings = [value for name, value in fields if len(name) == 17 and name.lower() == b"transfer-encoding"]
    if not codings and (not lengths or (len(lengths) == 1 and _LENGTH.fullmatch(lengths[0]))):
        return None
    if len(codings) == 1 and codings[0].lower() == b"chunked" and not lengths:
        return None
    return Refuse(Code.UPSTREAM_UNAVAILABLE, "a response whose length has more than one reading", step=UPSTREAM)


def _one_host(authority: bytes, multiplexed: bool, fields: Headers) -> Refuse | None:
    hosts, expects = [], False
    for name, value in fields:
        if len(name) in _LENGTHS and (lower := name.lower()) in _SPECIAL:
            if lower == b"host":
                hosts.append(value)
            elif lower == b"trailer":
                return _invalid("trailers cannot be forwarded")
            elif lower == b"transfer-encoding":
                if value.lower() != b"chunked" or multiplexed:
                    return _invalid("a transfer coding other than chunked")
            elif value.lower() != b"100-continue" or expects:
                return _invalid("an expectation other than one 100-continue")
            else:
                expects = True
    if multiplexed:
        hosts = [authority, *hosts] if authority else hosts
    elif authority:
        return _invalid("an absolute target")
    if not hosts or any(host != hosts[0] for host in hosts) or (len(hosts) > 1 and not multiplexed):
        return _invalid("not exactly one host")
    return None if HOST.fullmatch(hosts[0]) else _invalid("a malformed host")


def is_websocket_accept(request: Headers, response: Headers) -> bool:
    """Whether a 101 answers the WebSocket handshake that was sent (RFC 6455 §4.2.2); any other opens a raw pipe."""
    keys = [value.strip() for value in _values(request, b"sec-websocket-key")]
    if [value.strip().lower() for value in _values(request, b"upgrade")] != [b"websocket"] or len(keys) != 1:
        return False
    expected = b64encode(hashlib.sha1(keys[0] + _WEBSOCKET, usedforsecurity=False).digest())
    return (
        _values(response, b"sec-websocket-accept") == [expected]
        and not _values(response, b"sec-websocket-extensions")  # none was offered
        and [value.lower() for value in _values(response, b"upgrade")] == [b"websocket"]
        and b"upgrade" in b", ".join(_values(response, b"connection")).lower()
    )


def _values(fields: Headers, name: bytes) -> list[bytes]:
    return [value for known, value in fields if known.lower() == name]


_WEBSOCKET = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def is_tls(begin: bytes) -> bool:
    """Whether a connection's first bytes are those of a TLS record (RFC 8446 §5.1)."""
    return begin[:1] == b"\x16"


_SPECIAL = frozenset((b"host", b"trailer", b"expect", b"transfer-encoding"))
_LENGTHS = frozenset(len(name) for name in _SPECIAL)


def _invalid(reason: str) -> Refuse:
    return Refuse(Code.INVALID_REQUEST, reason, step=WIRE)
