"""The heads that go on: to the backend with the token and one framing, to the caller without what was for one hop."""

from types import SimpleNamespace
from typing import Any

import pytest

from keyswap.model import ANONYMOUS, Admit, Headers, Operation, Principal, Upstream
from keyswap.request.forwarding import (
    CHUNKED,
    UpstreamHead,
    declared_length,
    downstream_head,
    framing,
    upstream_head,
    without_prefix,
)
from keyswap.request.header_policy import HeaderPolicy

BACKEND = Upstream("http", "backend", 9000)
NOBODY = ANONYMOUS


def forwarded(*fields: tuple[bytes, bytes], who: Principal = NOBODY, **how: Any) -> UpstreamHead:
    """The head of a request with these fields."""
    line: Any = SimpleNamespace(
        method=how.get("method", b"GET"),
        path=b"/api/pets?a=%2F",
        http_version=how.get("version", b"HTTP/1.1"),
        authority=how.get("authority", b""),
    )
    sanitized = HeaderPolicy(["Authorization"], [], [])(fields, "10.0.0.1")
    admit = Admit(who, None, how.get("token"), Operation("GET", "/pets", BACKEND, stripped=how.get("stripped", 0)))
    return upstream_head(admit, line, sanitized, "id", "https", how.get("keep_host", False), how.get("chunked", False))


def values(fields: Headers, name: bytes) -> list[bytes]:
    return [value for known, value in fields if known.lower() == name]


def test_the_token_takes_the_place_of_the_credential() -> None:
    """The backend sees the gateway's token, the caller as the gateway saw it, and its own host, or the caller's."""
    head = forwarded((b"Host", b"h"), (b"Authorization", b"Bearer secret"), (b"X-Real-IP", b"1.2.3.4"), token="t")
    assert values(head.fields, b"authorization") == [b"Bearer t"] and values(head.fields, b"host") == [b"backend:9000"]
    assert values(head.fields, b"x-forwarded-for") == [b"10.0.0.1"] and not values(head.fields, b"x-real-ip")
    assert values(head.fields, b"x-forwarded-host") == [b"h"] and values(head.fields, b"x-request-id") == [b"id"]
    assert values(forwarded((b"Host", b"h"), keep_host=True).fields, b"host") == [b"h"]
    assert values(forwarded(authority=b"two", version=b"HTTP/2.0", keep_host=True).fields, b"host") == [b"two"]
    assert not values(forwarded((b"Host", b"h"), (b"Authorization", b"x")).fields, b"authorization")


def test_a_body_has_one_framing() -> None:
    """A body of HTTP/2 without a length goes on in chunks; who sends none where one is usual says so."""
    head = forwarded(version=b"HTTP/2.0", method=b"POST", chunked=True)
    assert head.fields[-1] == CHUNKED and head.declared is None
    assert forwarded(version=b"HTTP/2.0", method=b"POST").fields[-1] == (b"Content-Length", b"0")
    assert not values(forwarded(method=b"POST").fields, b"content-length")
    assert forwarded((b"Content-Length", b"7")).declared == 7


def test_http_1_0_upgrades_nothing() -> None:
    """A handshake that comes by HTTP/1.0 goes on without its upgrade."""
    handshake = (
        *((b"Connection", b"Upgrade"), (b"Upgrade", b"websocket"), (b"Sec-WebSocket-Version", b"13")),
        (b"Sec-WebSocket-Key", b"dGhlIHNhbXBsZSBub25jZQ=="),
    )
    assert values(forwarded(*handshake).fields, b"upgrade") == [b"websocket"]
    assert not values(forwarded(*handshake, version=b"HTTP/1.0").fields, b"upgrade")


def test_a_connection_serves_one_principal() -> None:
    """Connections are shared by requests of the same principal; of nobody, by those of one address and its cookies."""
    one, other = Principal("org", None, key_id="a"), Principal("org", None, key_id="b")
    assert forwarded(who=one).serves == forwarded(who=one).serves != forwarded(who=other).serves
    assert forwarded().serves == forwarded().serves != forwarded((b"Cookie", b"a=1")).serves


@pytest.mark.parametrize(
    ("target", "segments", "rest"),
    [(b"/api/pets?a=%2F", 1, b"/pets?a=%2F"), (b"/a/b/c/", 2, b"/c/"), (b"/a", 1, b"/"), (b"/a//b", 1, b"//b")],
)
def test_a_prefix_is_cut_off_byte_for_byte(target: bytes, segments: int, rest: bytes) -> None:
    """A target without its prefix is otherwise what the caller sent."""
    assert without_prefix(target, segments) == rest
    assert forwarded(stripped=1).target == b"/pets?a=%2F"


@pytest.mark.parametrize(
    ("fields", "length"),
    [
        ((), 0),
        (((b"content-length", b"12"),), 12),
        (((b"Content-Length", b"1"), (b"Content-Length", b"1")), None),
        (((b"Content-Length", b"x"),), None),
        (((b"Content-Length", b"1"), (b"Transfer-Encoding", b"chunked")), None),
    ],
)
def test_the_length_of_a_body_is_what_its_head_declares(fields: Headers, length: int | None) -> None:
    """A length is known where exactly one is declared."""
    assert declared_length(fields) == length
    assert framing((*fields, (b"X", b"1"))) == fields


def passed(*fields: tuple[bytes, bytes], status: int = 200, closes: bool = False, limits: Headers = ()) -> Any:
    return downstream_head(status, b"HTTP/1.1", fields, "id", closes, limits, {b"ratelimit"})


def test_what_is_for_one_hop_stays_there() -> None:
    """Fields for one hop, those that `Connection` names, and other spellings of fields for one hop, do not go on."""
    hop = ((b"Keep-Alive", b"1"), (b"Connection", b"keep-alive, x-own"), (b"X-Own", b"1"), (b"Transfer_Encoding", b"x"))
    assert passed(*hop, (b"X-Other", b"1"), (b"X-Request-Id", b"theirs")).fields == (
        (b"X-Other", b"1"),
        (b"X-Request-Id", b"id"),
    )


def test_a_backend_says_nothing_of_limits_where_the_gateway_does() -> None:
    """Limit fields of a backend go on only where the gateway has none of its own."""
    theirs = (b"RateLimit", b"theirs")
    assert values(passed(theirs).fields, b"ratelimit") == [b"theirs"]
    assert values(passed(theirs, limits=((b"RateLimit", b"ours"),)).fields, b"ratelimit") == [b"ours"]


def test_a_response_without_a_length_ends_with_its_connection() -> None:
    """A backend that closes takes the caller's connection with it only where the end of the body is said by that."""
    close = (b"Connection", b"close")
    head = passed(close, (b"Content-Length", b"3"))
    assert head.closes_upstream and head.declared == 3 and not values(head.fields, b"connection")
    head = passed(close)
    assert not head.closes_upstream and values(head.fields, b"connection") == [b"close"]
    assert passed(close, status=204).closes_upstream
    assert values(passed(closes=True).fields, b"connection") == [b"close"]
