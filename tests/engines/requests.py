"""Requests made from a seed: documented operations in odd spellings, by all kinds of callers, with all kinds of bodies.

Most are HTTP as it should be, and a few percent are not: other tests are about those. Every request ends, so that
nobody waits for more of it.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from tests.differential.spellings import MAKERS, Sent
from tests.engines.callers import LASTS, Cast, Strays
from tests.engines.fields import NOISE, Chance, Field, forwarded, host, many
from tests.engines.profiles import Profile
from tests.engines.rows import may_differ
from tests.engines.wire import Wire

OWN = (b"/.well-known/jwks.json", b"/.well-known/openid-configuration", b"/.well-known/keyswap/health",
       b"/.well-known/keyswap/webhooks/workos", b"/.well-known/other", b"/.keyswap/question", b"/.keyswap/forward-auth",
       b"/.keyswap/engine/public/1", b"/.keyswap/envoy/public/1", b"/.keyswap/body/public/1",
       b"/.keyswap/refused/rate-limited")  # fmt: skip
_USUAL = (b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS")
_UNUSUAL = (b"TRACE", b"get", b"Post", b"PROPFIND", b"QUERY", b"PRI", b"M-SEARCH", b"LINK", b"X", b"G\xc9T", b"CONNECT")
_VALUES = (b"1", b"ada", b"a%2Fb", b"a%20b", b"", b"..", b"a;b", b"%zz", b"a%", b"a\\b", b"~", b"a%00", b"*", b"a:b@c")
_TEXT = (b"Content-Type", b"text/plain")


def generated(chance: Chance, casts: Sequence[Cast], strays: Strays, number: int, profile: Profile) -> Iterator[Wire]:
    """`number` requests for a policy."""
    for at in range(number):
        cast = casts[at // LASTS]
        wire = _request(chance, cast, chance.choice(profile.prefixes))
        yield strays.instead(wire, cast) if may_differ(wire, profile.paths) else replace(wire, number=1 + at // LASTS)


def _request(chance: Chance, cast: Cast, prefix: bytes) -> Wire:
    made = chance.choices(*_KINDS)[0](chance)
    target = prefix + made.target if made.target.startswith(b"/") and not made.target.startswith(b"/.") else made.target
    fields = [*made.fields, *_credentials(chance, cast)]
    for _ in range(chance.choices((0, 1, 2, 3), (50, 25, 15, 10))[0]):
        fields += chance.choice(NOISE)(chance)
    if chance.random() < 0.01:
        fields += many(chance)
    if chance.random() < 0.15:
        chance.shuffle(fields)
    if made.payload:  # behind Envoy such a request waits for seconds, for a body that has come
        fields = [field for field in fields if field[0] != b"Upgrade"]
    fields = [*host(chance), *fields] if chance.random() < 0.9 else [*fields, *host(chance)]
    wire = replace(made, target=target, fields=tuple(fields))
    return _odd(chance, wire) if chance.random() < 0.03 else wire


# ---- Operations


def _with(chance: Chance, wire: Wire, body: bytes) -> Wire:
    """The same with a body, in one of its framings."""
    if chance.random() < 0.7:
        length = (b"Content-Length", b"%d" % len(body))
        return replace(wire, fields=(*wire.fields, length), payload=body, body=body)
    at, parts = 0, []
    while at < len(body):
        size = min(len(body) - at, chance.choice((1, 7, 500, 9_000)))
        parts.append(chance.choice((b"%x", b"%X", b"0%x")) % size + b"\r\n" + body[at : at + size] + b"\r\n")
        at += size
    coding = (b"Transfer-Encoding", chance.choice((b"chunked", b"chunked", b"Chunked")))
    return replace(wire, fields=(*wire.fields, coding), payload=b"".join(parts) + b"0\r\n\r\n", body=body)


def _of(chance: Chance, sent: Sent) -> Wire:
    wire = Wire(sent.method.encode(), sent.target.replace(b" ", b"%20"), sent.fields)
    return wire if sent.body is None else _with(chance, wire, sent.body)


def _documented(chance: Chance) -> Wire:
    return _of(chance, chance.choice(MAKERS)(chance))


def _plain(chance: Chance) -> Wire:
    return _of(chance, MAKERS[0](chance))


def _any_method(chance: Chance) -> Wire:
    """A method and a path, whether they belong together or not."""
    base = chance.choice((b"/public/", b"/sink/", b"/any/", b"/users/", b"/items/", b"/none/", b"/search?limit="))
    target = base + chance.choice(_VALUES) + chance.choice((b"", b"", b"?", b"?a=b&c=%20", b"?a=\xc3\xa9", b"/", b"#f"))
    wire = Wire(chance.choice(_USUAL if chance.random() < 0.7 else _UNUSUAL), target)
    return wire if chance.random() < 0.8 else _with(chance, wire, b"a" * chance.choice((0, 1, 5)))


def _body(chance: Chance) -> Wire:
    """A body that nobody judges: none, short, as long as it may be, longer."""
    method = chance.choice((b"POST", b"PUT", b"PATCH", b"DELETE"))
    target = chance.choice((b"/sink/", b"/public/")) + chance.choice((b"1", b"ada"))
    wire = Wire(method, target, (_TEXT,) if chance.random() < 0.5 else ())
    return _with(chance, wire, chance.randbytes(1) * chance.choice((0, 1, 5, 900, 16_384, 16_385, 40_000)))


def _too_long(chance: Chance) -> Wire:
    """A body of an operation that judges it, about as long as is judged."""
    body = b'{"amount":5,"note":"%s"}' % (b"a" * chance.choice((8_100, 8_192, 9_000, 17_000)))
    return _with(chance, Wire(b"POST", b"/orders", ((b"Content-Type", b"application/json"),)), body)


def _preflight(chance: Chance) -> Wire:
    """What browsers ask before, and what looks like it."""
    fields = [
        (b"Origin", chance.choice((b"https://app.example", b"https://evil.example", b"null", b"https://APP.example"))),
        (b"Access-Control-Request-Method", chance.choice((b"GET", b"POST", b"DELETE", b"TRACE", b"get", b""))),
        (b"Access-Control-Request-Headers", chance.choice((b"authorization", b"x-a, x-b", b"a b", b""))),
    ]
    fields = [field for field in fields if chance.random() < 0.9]
    target = chance.choice((b"/users/ada", b"/orders", b"/public/1", b"/any/1", b"/none", b"/users/..", b"*"))
    length = [(b"Content-Length", chance.choice((b"0", b"00")))] if chance.random() < 0.1 else []
    return Wire(b"OPTIONS", target, (*fields, *length))


def _own(chance: Chance) -> Wire:
    """The gateway's own paths, and what looks like them."""
    target = chance.choice(OWN)
    target = chance.choice((
        target, target, target, target, target + b"?a", target.title(), target + b"/", target.replace(b"w", b"%77", 1),
        b"/." + target, target.replace(b"/", b"//", 1), b"/x/.." + target,
    ))  # fmt: skip
    wire = Wire(chance.choice((b"GET", b"GET", b"GET", b"HEAD", b"POST", b"OPTIONS", b"DELETE")), target)
    return replace(wire, fields=((b"X-Request-Id", b"mine-1"),)) if chance.random() < 0.1 else wire


def _socket(chance: Chance) -> Wire:
    """A WebSocket's handshake, whole or not."""
    fields = [
        (b"Connection", chance.choice((b"Upgrade", b"upgrade", b"keep-alive, Upgrade"))),
        (b"Upgrade", chance.choice((b"websocket", b"WebSocket", b"h2c"))),
        (b"Sec-WebSocket-Version", chance.choice((b"13", b"13", b"8"))),
        (b"Sec-WebSocket-Key", b"dGhlIHNhbXBsZSBub25jZQ=="),
        (b"Sec-WebSocket-Extensions", b"permessage-deflate"),
    ]
    fields += [(b"Origin", b"https://evil.example")] if chance.random() < 0.5 else []
    return Wire(b"GET", b"/users/ada", tuple(field for field in fields if chance.random() < 0.95))


def _feed(chance: Chance) -> Wire:
    return Wire(chance.choice((b"GET", b"HEAD")), b"/feed", ((b"Accept", b"text/event-stream"),))


Maker = Callable[[Chance], Wire]
_KINDS: tuple[Sequence[Maker], Sequence[int]] = (
    (_documented, _plain, _any_method, _body, _too_long, _preflight, _own, _socket, _feed),
    (35, 25, 14, 8, 2, 6, 5, 3, 2),
)
"""Kinds of requests, and how many there are of each."""


# ---- Credentials


def _credentials(chance: Chance, cast: Cast) -> list[Field]:
    """What a caller presents: mostly one credential that is good."""
    kind = chance.choices(("good", "session", "bad", "spoiled", "none", "several", "odd"), (58, 10, 8, 5, 8, 5, 6))[0]
    if kind == "none":
        return []
    if kind == "several":
        return _presented(chance, _any_value(chance, cast)) + _presented(chance, _any_value(chance, cast))
    if kind == "odd":
        return _oddly(chance, _any_value(chance, cast))
    values = {"good": cast.good, "session": cast.sessions, "bad": cast.bad, "spoiled": cast.spoiled}[kind]
    return _presented(chance, chance.choice(list(values.values())).encode())


def _any_value(chance: Chance, cast: Cast) -> bytes:
    values = cast.good | cast.sessions if chance.random() < 0.7 else cast.bad | cast.spoiled
    return chance.choice(list(values.values())[:4] if chance.random() < 0.5 else list(values.values())).encode()


def _presented(chance: Chance, value: bytes) -> list[Field]:
    place = chance.choices(("bearer", "key", "cookie"), (70, 20, 10))[0]
    if place == "cookie":
        crumbs = chance.choice((b"session=%s", b"a=1; session=%s", b"session=%s; b=2", b'session="%s"'))
        return [(b"Cookie", crumbs % value)]
    if place == "key":
        return [(chance.choice((b"X-Api-Key", b"x-api-key", b"X-API-KEY")), value)]
    scheme = chance.choice((b"Bearer ", b"Bearer ", b"bearer "))
    return [(chance.choice((b"Authorization", b"authorization")), scheme + value)]


def _oddly(chance: Chance, value: bytes) -> list[Field]:
    bearer = (b"Authorization", b"Bearer " + value)
    return chance.choice((
        [bearer, bearer],
        [bearer, (b"X-Api-Key", value)],
        [bearer, (b"Authorization", b"Basic YTpi")],
        [(b"Authorization", b"Basic YTpi")],
        [(b"Authorization", b"Bearer")],
        [(b"Authorization", b"Bearer  " + value + b"  ")],
        [(b"Authorization", b"Bearer\t" + value)],
        [(b"Authorization", value)],
        [(b"Authorization", b"Bearer " + value + b", Bearer " + value)],
        [(b"Authorization_", b"Bearer " + value)],
        [(b"X_Api_Key", value), bearer],
        [(b"X-Api-Key", b"")],
        [(b"Cookie", b"session=" + value), (b"Cookie", b"a=1")],
        [(b"Cookie", b"a=1"), (b"Cookie", b"b=2, c=3"), bearer],
        [(b"Cookie", b"session=" + value), (b"Cookie", b"session=" + value)],
        [(b"Cookie", b"ses%73ion=" + value)],
        [(b"Cookie", b"session=" + value), bearer],
        [(b"Cookie", b"session="), bearer],
        [(b"Cookie", b"a=1; a=2;; =3; d"), bearer],
        [(b"X-Authorization", b"Bearer " + value), (b"Apikey", value)],
    ))  # fmt: skip


# ---- What is not as HTTP has it


def _odd(chance: Chance, wire: Wire) -> Wire:
    """One thing that is not as it should be."""
    extra: Field = chance.choice((
        (b"Content-Length", b"0"), (b"Content-Length", b"00"), (b"Content-Length", b"+0"), (b"Content-Length", b"-1"),
        (b"Content-Length", b"0, 0"), (b"Content-Length", b""), (b"Content-Length", b"0x0"), (b"Content-Length ", b"0"),
        (b"Transfer-Encoding", b"identity"), (b"Transfer-Encoding", b"gzip, chunked"),
        (b"Transfer-Encoding", b"chunked, chunked"),
        (b"X Space", b"1"), (b"X-Folded", b"1\r\n 2"), (b"X-Line", b"1\nX-User-Id: root"), (b"X-Return", b"1\r2"),
        (b"X-Null", b"1\x002"), (b"", b"1"), (b"X-Delete", b"\x7f"), (b"X\xe9", b"1"), (b":path", b"/public/1"),
        (b"X-Colon:", b"1"),
    ))  # fmt: skip
    absolute = b"http://api.example.com" + wire.target if wire.target.startswith(b"/") else wire.target
    return chance.choice((
        replace(wire, fields=(*wire.fields, extra)),
        replace(wire, fields=(*wire.fields, extra)),
        replace(wire, fields=(*wire.fields, extra)),
        replace(wire, version=chance.choice((b"HTTP/1.0", b"HTTP/1.0", b"HTTP/1.2", b"HTTP/2.0", b"http/1.1"))),
        replace(wire, target=chance.choice((absolute, b"*", b"public/1", b"//other.example/public/1"))),
        replace(wire, target=b"/" + b"a" * chance.choice((3_000, 9_000))),
        replace(wire, target=wire.target + chance.choice((b"\xe9", b"\xff", b"\x7f", b"\x01", b'"<>^`{|}'))),
        replace(wire, fields=(*wire.fields, *forwarded(chance), *forwarded(chance), *forwarded(chance))),
    ))  # fmt: skip
