"""Header fields that callers, and programs between, send beside what a request needs, in all spellings."""

import random
from collections.abc import Sequence

Chance = random.Random
Field = tuple[bytes, bytes]

_IDENTITY = (
    *(b"X-User-Id", b"X-Org-Id", b"X-Consumer-Username", b"X-Auth-Request-User", b"X-Authenticated-Userid"),
    *(b"Remote-User", b"X-Forwarded-User", b"X-WebAuth-User", b"Cf-Access-Jwt-Assertion", b"X-User-Of-Tomorrow"),
    *(b"Ssl-Client-Verify", b"Proxy-Authorization", b"X-Client-Cert-Of-Tomorrow", b"X-Userinfo", b"X-Authentik-Uid"),
)  # fmt: skip
_PROXIES: Sequence[Field] = (
    *((b"X-Forwarded-Host", value) for value in (b"other.example", b"a b", b"a, b")),
    *((b"X-Forwarded-Proto", value) for value in (b"https", b"http", b"HTTPS", b"ftp", b"https, http")),
    *((b"X-Forwarded-" + name, b"/public/1") for name in (b"Uri", b"Method", b"Prefix", b"Port", b"Of-Tomorrow")),
    *((b"X-Request-Id", value) for value in (b"mine-1", b'an"id', b"a" * 129, b"a b", b"", b"caf\xe9")),
    *((name, b"10.0.0.1") for name in (b"X-Real-IP", b"True-Client-IP", b"X-Client-IP", b"Cf-Connecting-IP")),
    (b"Forwarded", b"for=10.0.0.1;host=other.example"),
    *((b"X-Original-" + name, b"/public/1") for name in (b"URL", b"URI", b"Method", b"Host", b"Proto")),
    *((b"X-Rewrite-URL", b"/public/1"), (b"X-HTTP-Method-Override", b"DELETE"), (b"X-Method-Override", b"DELETE")),
    *((b"X-Envoy-" + name, value) for name, value in (
        (b"Internal", b"true"), (b"Upstream-Rq-Timeout-Ms", b"1"), (b"Retry-On", b"5xx"), (b"Max-Retries", b"3"),
        (b"Original-Path", b"/public/1"), (b"Decorator-Operation", b"x"), (b"Auth-Partial-Body", b"false"),
        (b"External-Address", b"10.0.0.1"), (b"Expected-Rq-Timeout-Ms", b"5"), (b"Auth-Headers-To-Remove", b"host"),
        (b"Force-Trace", b"1"), (b"Ip-Tags", b"a"), (b"Attempt-Count", b"9"), (b"Upstream-Alt-Stat-Name", b"a"))),
    *((b"X-Keyswap-" + name, value) for name, value in (
        (b"Caller", b"9.9.9.9|https|HTTP/1.1||||"), (b"Exchange", b"1"), (b"Route", b"proxied"), (b"Worker", b"0"))),
    *((b"X-Accel-Redirect", b"/public/1"), (b"Script-Name", b"/x"), (b"Path-Info", b"/x")),
    *((b"Proxy", b"http://10.0.0.1"), (b"Grpc-Timeout", b"1m"), (b"X-B3-TraceId", b"1"), (b"Via", b"1.1 proxy")),
)  # fmt: skip
_HOPS: Sequence[Field] = (
    *((b"Connection", value) for value in (
        b"keep-alive", b"close", b"X-Custom", b"close, X-Custom", b"TE", b"Upgrade", b"Keep-Alive, X-User-Id", b"Host",
        b"Authorization", b"Content-Length", b"traceparent", b"", b"close, close", b"Cookie", b"Transfer-Encoding",
        b"Content-Type")),
    *((b"TE", value) for value in (b"trailers", b"gzip", b"trailers, gzip")),
    *((b"Upgrade", value) for value in (b"h2c", b"websocket", b"TLS/1.0")),
    *((b"Expect", value) for value in (b"100-continue", b"100-Continue", b"200-ok", b"")),
    *((b"Keep-Alive", b"timeout=5"), (b"Trailer", b"X-Custom"), (b"HTTP2-Settings", b"AAMAAABkAAQAAP__")),
    *((b"Proxy-Connection", b"keep-alive"), (b"Max-Forwards", b"0")),
)  # fmt: skip
_PLAIN: Sequence[Field] = (
    *((b"Accept", value) for value in (
        b"*/*", b"application/json", b"text/event-stream", b"text/html, text/event-stream;q=0.1",
        b"text/event-stream;q=0")),
    *((b"User-Agent", b"curl/8"), (b"Accept-Encoding", b"gzip, br"), (b"Accept-Language", b"de")),
    *((b"X-Custom", value) for value in (
        b"1", b"2", b"a, b", b"", b"caf\xe9", b"\xff\xfe", b"a\tb", b'"a,b"', b"a" * 3000)),
    *((b"X-custom", b"3"), (b"x-CUSTOM", b"4"), (b"If-None-Match", b'"a"'), (b"Range", b"bytes=0-1")),
    *((b"Origin", value) for value in (
        b"https://app.example", b"https://evil.example", b"null", b"http://api.example.com",
        b"https://api.example.com")),
    *((b"Sec-Fetch-Site", b"cross-site"), (b"Sec-Fetch-Site", b"same-origin"), (b"Date", b"x"), (b"Server", b"x")),
    *((b"X.Custom", b"1"), (b"X_Custom", b"1"), (b"X!Custom", b"1"), (b"-X-Custom", b"1"), (b"X--Custom", b"1")),
    *((b"Content-Encoding", b"gzip"), (b"Content-Type", b"text/plain"), (b"Content_Length", b"5"), (b"Host_", b"x")),
    *((b"X-Amount", b"5"), (b"Authorization_", b"Basic YTpi"), (b"X_Api_Key", b"k"), (b"X-Api-Key-", b"k")),
)  # fmt: skip
_TRACES: Sequence[Field] = (
    *((b"traceparent", value) for value in (
        b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", b"00-0-0-01", b"",
        b"00-00000000000000000000000000000000-b7ad6b7169203331-01",
        b"01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x")),
    *((b"tracestate", value) for value in (b"a=1", b"b=2", b"=", b"a=1,,b=2")),
    *((b"baggage", b"a=1"), (b"Trace_Parent", b"00-0-0-01")),
)  # fmt: skip
_ADDRESSES: tuple[bytes, ...] = (
    b"10.0.0.1",
    b"10.0.0.2",
    b"2001:db8::1",
    b"[2001:db8::1]:80",
    b"10.0.0.3:80",
    b"127.0.0.5",
)
_ADDRESSES += (b"unknown", b"", b"x y")


def _respelled(chance: Chance, name: bytes) -> bytes:
    return chance.choice((
        name, name, name.lower(), name.upper(), name.replace(b"-", b"_"), name.replace(b"-", b"."), name + b"-",
        name.replace(b"-", b"--", 1), name.replace(b"-", b"+", 1), b"-" + name, name.replace(b"-", b""),
    ))  # fmt: skip


def _plainly(chance: Chance, name: bytes) -> bytes:
    return chance.choice((name, name.lower()))


def identity(chance: Chance) -> list[Field]:
    """Who a proxy in front would say the caller is."""
    spelled = _respelled if chance.random() < 0.4 else _plainly
    return [(spelled(chance, name), b"root") for name in chance.sample(_IDENTITY, chance.choice((1, 3, 6)))]


def forwarded(chance: Chance) -> list[Field]:
    """What a proxy in front would say of a request, and orders to proxies of all makes."""
    if chance.random() < 0.4:
        addresses = b", ".join(chance.choice(_ADDRESSES) for _ in range(chance.choice((1, 1, 2, 3))))
        return [(b"X-Forwarded-For", addresses or b"unknown")] * chance.choice((1, 1, 1, 2))
    name, value = chance.choice(_PROXIES)
    return [(_respelled(chance, name) if chance.random() < 0.2 else name, value)] * chance.choice((1, 1, 1, 2))


def hop(chance: Chance) -> list[Field]:
    """What is for one hop alone."""
    name, value = chance.choice(_HOPS)
    if name == b"Upgrade":
        return [(b"Connection", b"Upgrade"), (name, value)]
    return [(name, value)] * chance.choice((1, 1, 1, 1, 2))


def ordinary(chance: Chance) -> list[Field]:
    """What has no meaning to a gateway, once or twice."""
    return [chance.choice(_PLAIN) for _ in range(chance.choice((1, 1, 2)))]


def trace(chance: Chance) -> list[Field]:
    """To which trace a request belongs."""
    return [chance.choice(_TRACES) for _ in range(chance.choice((1, 2)))]


def many(chance: Chance) -> list[Field]:
    """More than most callers send: about as many as are taken, or about as long."""
    if chance.random() < 0.5:
        return [(b"X-Many-%d" % number, b"1") for number in range(chance.choice((80, 92, 96, 97, 98, 105, 130)))]
    return [(b"X-Long", b"a" * chance.choice((9_000, 30_000, 62_000, 70_000)))]


def host(chance: Chance) -> list[Field]:
    """Which host is asked for."""
    usual = (b"Host", b"api.example.com")
    if chance.random() < 0.92:
        return [usual]
    return chance.choice((
        [], [usual, usual], [usual, (b"Host", b"other.example")], [(b"Host", b"")], [(b"host", b"API.Example.com")],
        [(b"Host", b"api.example.com:80")], [(b"Host", b"api.example.com.")], [(b"Host", b"[::1]:8080")],
        [(b"Host", b"a b")], [(b"Host", b"a@b")], [(b"Host", b"a,b")], [(b"Host", b"other.example")],
        [(b"Host", b"api.example.com:")], [(b"Host", b"api_x.example.com")], [(b"Host", b"a/b")],
    ))  # fmt: skip


NOISE = (identity, identity, forwarded, forwarded, hop, ordinary, ordinary, trace)
