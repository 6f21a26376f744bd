"""Preflights and readable refusals, without a server."""

import pytest

from keyswap.model import Headers, Request
from keyswap.request.cors import Cors

APP = b"https://app.example.com"
ASKS: Headers = ((b"Origin", APP), (b"Access-Control-Request-Method", b"PUT"))


def request(*fields: tuple[bytes, bytes], method: str = "OPTIONS") -> Request:
    return Request(method, b"/x", fields, "192.0.2.1")


def answered(cors: Cors, *fields: tuple[bytes, bytes]) -> dict[bytes, bytes]:
    asked = cors.preflight(request(*fields))
    assert asked is not None and asked.reply is not None
    return dict(asked.reply.headers)


@pytest.mark.parametrize("mode", ["answer", "forward"])
@pytest.mark.parametrize(
    "other",
    [
        request(*ASKS, method="GET"),
        request(ASKS[0]),
        request(ASKS[1]),
        request(*ASKS, ASKS[0]),
        request(*ASKS, ASKS[1]),
        request(*ASKS, (b"Content-Length", b"2")),
        request(*ASKS, (b"Content-Length", b"0"), (b"content-length", b"1")),
        request(*ASKS, (b"Transfer-Encoding", b"chunked")),
        request(),
    ],
)
def test_only_a_whole_preflight_is_one(mode: str, other: Request) -> None:
    """OPTIONS with one Origin, one Access-Control-Request-Method and no body; whatever else needs a credential."""
    cors = Cors(mode, [APP.decode()])
    assert cors.preflight(request(*ASKS)) is not None
    assert cors.preflight(request(*ASKS, (b"Content-Length", b"0"))) is not None
    assert cors.preflight(other) is None


def test_preflights_are_refused_by_default() -> None:
    """Without a setting a preflight is judged as any request, and nothing is readable from elsewhere."""
    cors = Cors("refuse", [])
    assert cors.preflight(request(*ASKS)) is None and cors.exposed(ASKS) == ()


def test_a_listed_origin_is_told_what_it_may_send() -> None:
    """Origin, methods and the asked headers; never credentials, never another origin's name."""
    told = answered(Cors("answer", [APP.decode()]), *ASKS, (b"Access-Control-Request-Headers", b"authorization, X-A"))
    assert told[b"Access-Control-Allow-Origin"] == APP and b"PUT" in told[b"Access-Control-Allow-Methods"]
    assert told[b"Access-Control-Allow-Headers"] == b"authorization, X-A" and b"Origin" in told[b"Vary"]
    assert b"Access-Control-Allow-Credentials" not in told
    everyone = answered(Cors("answer", ["*"]), *ASKS)
    assert everyone[b"Access-Control-Allow-Origin"] == b"*"


@pytest.mark.parametrize(
    "fields",
    [
        ((b"Origin", b"https://evil.example"), ASKS[1]),
        ((b"Origin", b"https://app.example.com.evil.example"), ASKS[1]),
        ((b"Origin", b"http://app.example.com"), ASKS[1]),
        ((b"Origin", b"null"), ASKS[1]),
        (ASKS[0], (b"Access-Control-Request-Method", b"TRACE")),
        (ASKS[0], (b"Access-Control-Request-Method", b"put")),
    ],
)
def test_others_are_told_nothing(fields: Headers) -> None:
    """An origin that is not listed, or a method that is not forwarded, gets no header that allows anything."""
    assert set(answered(Cors("answer", [APP.decode()]), *fields)) == {b"Vary"}


@pytest.mark.parametrize("names", [b"a\x00b", b"a b", b"a,,b", b"x" * 5000, b"a;b", b""])
def test_names_that_are_none_are_not_echoed(names: bytes) -> None:
    """What is asked for as header names is only repeated where it is a list of names of sensible length."""
    told = answered(Cors("answer", [APP.decode()]), *ASKS, (b"Access-Control-Request-Headers", names))
    assert b"Access-Control-Allow-Headers" not in told


def test_refusals_are_readable_for_listed_origins_alone() -> None:
    """A refusal names the origin when it is listed, once, and not `null`."""
    cors = Cors("refuse", [APP.decode()])
    assert dict(cors.exposed(((b"origin", APP),)))[b"Access-Control-Allow-Origin"] == APP
    for fields in ((), ((b"Origin", b"null"),), ((b"Origin", b"https://evil.example"),), (ASKS[0], ASKS[0])):
        assert cors.exposed(fields) == ()
    assert Cors("refuse", ["*"]).exposed(((b"Origin", b"null"),)) == ()


def test_cookies_are_allowed_for_named_origins_alone() -> None:
    """Where a credential may come in a cookie, both answers let a listed origin send it; `*` and others never."""
    cors = Cors("answer", [APP.decode()], cookies=True)
    assert answered(cors, *ASKS)[b"Access-Control-Allow-Credentials"] == b"true"
    assert dict(cors.exposed(ASKS))[b"Access-Control-Allow-Credentials"] == b"true"
    evil = (b"Origin", b"https://evil.example")
    assert b"Access-Control-Allow-Credentials" not in answered(cors, evil, ASKS[1]) and not cors.exposed((evil,))
    everyone = Cors("answer", ["*"], cookies=True)
    assert b"Access-Control-Allow-Credentials" not in {**answered(everyone, *ASKS), **dict(everyone.exposed(ASKS))}
