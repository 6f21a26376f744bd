"""Ways to get past a gateway over HTTP/1, as raw bytes, and what must come of each.

`KEY` stands for the value of a good key. An answer is written as the gateway's status and code (`400 invalid-request`), or as
`200` when the backend gave it; an entry without answers ends in a closed connection. `forwarded` are the targets that
the backend may see, in order. After an answer the connection goes on unless the entry closes.
"""

from collections.abc import Iterator
from typing import NamedTuple


class Entry(NamedTuple):
    """One attack."""

    name: str
    raw: bytes
    answers: tuple[str, ...]
    never: str
    """What must not happen."""
    forwarded: tuple[bytes, ...] = ()
    closes: bool = True
    cut: bool = False
    """The backend may see the beginning of a body that does not end."""


OK, BAD, NO_KEY = ("200",), ("400 invalid-request",), ("401 missing-credential",)
TOO_LARGE, METHOD, PATH = ("431 headers-too-large",), ("405 method-not-allowed",), ("400 ambiguous-path",)
H, A = b"Host: h\r\n", b"Authorization: Bearer KEY\r\n"
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: h\r\nX-Smuggled: 1\r\n\r\n"
CHUNKED = b"0\r\n\r\n"


def post(fields: bytes, body: bytes = b"", target: bytes = b"/p", key: bytes = A) -> bytes:
    """A POST with these header lines, each ended as it says."""
    return b"POST " + target + b" HTTP/1.1\r\n" + H + key + fields + b"\r\n" + body


def get(fields: bytes = b"", target: bytes = b"/g", version: bytes = b"HTTP/1.1", head: bytes = H + A) -> bytes:
    """A GET with these header lines."""
    return b"GET " + target + b" " + version + b"\r\n" + head + fields + b"\r\n"


def length(body: bytes) -> bytes:
    """The Content-Length of this body."""
    return b"Content-Length: %d\r\n" % len(body)


def framing() -> Iterator[Entry]:
    """Requests whose end two parsers could see in different places."""
    never = "a second request reaches the backend, or the backend waits for more than was judged"
    both = [
        ("CL.TE", b"Content-Length: 6\r\nTransfer-Encoding: chunked\r\n", CHUNKED + b"G"),
        ("TE.CL", b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n", b"5c\r\n" + SMUGGLED + CHUNKED),
        (
            "CL.TE with a whole request behind",
            b"Content-Length: 50\r\nTransfer-Encoding: chunked\r\n",
            CHUNKED + SMUGGLED,
        ),
        ("equal CL and TE", b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", CHUNKED),
        ("CL 0 and TE", b"Content-Length: 0\r\nTransfer-Encoding: chunked\r\n", CHUNKED + SMUGGLED),
    ]
    for case, fields, body in both:
        yield Entry(case, post(fields, body), BAD, never)
    codings = [
        b"xchunked", b"chunked, chunked", b"chunked, identity", b"identity, chunked", b"identity", b"gzip, chunked", b"gzip",
        b"chunked;q=1", b'"chunked"', b"chunked,", b",chunked", b"chunke", b"chunkedd", b"chunk", b"deflate", b"chun ked",
        b"chunked\x0b", b"\x0bchunked", b"chunked\x00", b"\x00chunked", b"chunked\x7f", b"c\xc4\xa5unked", b"", b"chunked\xa0",
        b"x", b"1", b"chunked\r", b"\rchunked", b"chunked \r\n x", b"\r\n chunked",
    ]  # fmt: skip
    for coding in codings:
        yield Entry(f"TE {coding!r}", post(b"Transfer-Encoding: " + coding + b"\r\n", CHUNKED + SMUGGLED), BAD, never)
        with_length = b"Content-Length: 5\r\nTransfer-Encoding: " + coding + b"\r\n"
        if coding in {b"xchunked", b"chunked\x0b", b"identity", b"", b"chunked, identity", b"\r\n chunked"}:
            yield Entry(f"TE {coding!r} beside CL", post(with_length, CHUNKED + SMUGGLED), BAD, never)
    for name in (
        b"Transfer-Encoding ",
        b"Transfer-Encoding\t",
        b" Transfer-Encoding",
        b"Transfer-Encoding\x00",
        b"Transfer-Encoding\xa0",
    ):
        yield Entry(f"name {name!r}", post(name + b": chunked\r\n", CHUNKED + SMUGGLED), BAD, never)
        yield Entry(f"name {name!r} beside CL", post(length(SMUGGLED) + name + b": chunked\r\n", SMUGGLED), BAD, never)
    for name in (b"Transfer_Encoding", b"Transfer.Encoding", b"Content_Length", b"Content.Length"):
        yield Entry(
            f"{name!r} is none", post(length(SMUGGLED) + name + b": 5\r\n", SMUGGLED), OK, never, (b"/p",), False
        )
    yield Entry(
        "TE in mixed case",
        post(b"tRANSFER-eNCODING: ChUnKeD\r\n", b"2\r\nhi\r\n" + CHUNKED),
        OK,
        never,
        (b"/p",),
        False,
    )
    yield Entry("TE twice", post(b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", CHUNKED), BAD, never)
    yield Entry(
        "TE twice, one unknown", post(b"Transfer-Encoding: chunked\r\nTransfer-Encoding: cow\r\n", CHUNKED), BAD, never
    )
    yield Entry(
        "TE twice, identity first",
        post(b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n", CHUNKED),
        BAD,
        never,
    )
    old = b"POST /p HTTP/1.0\r\n" + H + A + b"Transfer-Encoding: chunked\r\n\r\n" + CHUNKED + SMUGGLED
    yield Entry("TE in HTTP/1.0", old, BAD, never)
    lengths = [
        b"+5", b"-1", b"5, 5", b"5,6", b"5 5", b"0x5", b"5.0", b"5e0", b"", b"abc", b"\xd9\xa5", b"5;", b"_5", b"5_0", b"1_0",
        b"99999999999999999999999999999", b"5\x0b", b"5\x00", b"\x0b5", b"''", b"0b1", b"5\r\n ", b"\r\n 5",
    ]  # fmt: skip
    for value in lengths:
        cut = value == b"99999999999999999999999999999"
        yield Entry(
            f"CL {value!r}", post(b"Content-Length: " + value + b"\r\n", b"hello" + SMUGGLED), BAD, never, cut=cut
        )
    yield Entry("CL twice, different", post(b"Content-Length: 5\r\nContent-Length: 6\r\n", b"hello"), BAD, never)
    yield Entry("CL twice, equal", post(b"Content-Length: 5\r\nContent-Length: 5\r\n", b"hello"), BAD, never)
    yield Entry("CL twice, in two spellings", post(b"Content-Length: 5\r\ncontent-length: 0\r\n", b"hello"), BAD, never)
    yield Entry("CL with zeros before", post(b"Content-Length: 0005\r\n", b"hello"), BAD, never)
    yield Entry("CL larger than the body", post(b"Content-Length: 50\r\n", b"hello"), BAD, never)
    yield Entry("no CL, a body", post(b"", get(target=b"/q")), ("200", "200"), never, (b"/p", b"/q"), False)
    yield Entry(
        "no CL, a body without a key", post(b"", SMUGGLED), ("200", "401 missing-credential"), never, (b"/p",), False
    )
    for method in (b"GET", b"HEAD", b"OPTIONS", b"DELETE"):
        raw = method + b" /p HTTP/1.1\r\n" + H + A + length(SMUGGLED) + b"\r\n" + SMUGGLED
        yield Entry(f"{method.decode()} with a body", raw, OK, never, (b"/p",), False)
        chunked = method + b" /p HTTP/1.1\r\n" + H + A + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % len(SMUGGLED)
        yield Entry(
            f"{method.decode()} with chunks", chunked + SMUGGLED + b"\r\n" + CHUNKED, OK, never, (b"/p",), False
        )


def chunks() -> Iterator[Entry]:
    """Chunked bodies that parsers read differently."""
    never = "bytes after the judged body are taken for a request, or trailers for headers"
    coded = b"Transfer-Encoding: chunked\r\n"
    broken = [
        b"-1\r\nx\r\n", b"0x5\r\nhello\r\n", b"+5\r\nhello\r\n", b"5 \r\r\nhello\r\n", b"g\r\n", b"\r\nhello\r\n",
        b"ffffffffffffffffffff\r\nx\r\n", b"5\nhello\r\n", b"5\r\nhelloXX0\r\n\r\n", b"5\r\nhello0\r\n\r\n", b"5\rhello\r\n",
        b"5_0\r\nhello\r\n", b"\xd9\xa5\r\nhello\r\n", b" 5\r\nhello\r\n", b"5\x00\r\nhello\r\n", b"0x\r\n\r\n", b"5\r\nhello\n0\r\n\r\n",
    ]  # fmt: skip
    for body in broken:
        yield Entry(f"chunk {body!r}", post(coded, body + CHUNKED + SMUGGLED), BAD, never, cut=True)
    passing = [
        ("extension", b"5;a=b\r\nhello\r\n" + CHUNKED), ("quoted extension", b'5;a="b;c"\r\nhello\r\n' + CHUNKED),
        ("size in upper case", b"A\r\nhellohello\r\n" + CHUNKED), ("zeros before a size", b"0005\r\nhello\r\n" + CHUNKED),
        ("several zeros", b"5\r\nhello\r\n000\r\n\r\n"), ("trailer", b"5\r\nhello\r\n0\r\nX-Smuggled: 1\r\n\r\n"),
        ("framing in a trailer", b"0\r\nContent-Length: 50\r\nTransfer-Encoding: chunked\r\n\r\n"),
        ("identity in a trailer", b"0\r\nX-User-Id: evil\r\nAuthorization: Bearer x\r\n\r\n"),
    ]  # fmt: skip
    for case, body in passing:
        yield Entry(case, post(coded, body), OK, never, (b"/p",), False)
    yield Entry("trailer that does not end", post(coded, b"0\r\n" + b"X-Trailer: 1\r\n" * 5000), BAD, never, cut=True)
    yield Entry("extension that does not end", post(coded, b"5;" + b"a" * 40_000), BAD, never, cut=True)
    yield Entry("chunks that do not end", post(coded, b"5\r\nhello\r\n"), BAD, never, cut=True)
    yield Entry(
        "a request behind the last chunk",
        post(coded, CHUNKED + SMUGGLED),
        ("200", "401 missing-credential"),
        never,
        (b"/p",),
        False,
    )


def headers() -> Iterator[Entry]:
    """Header names and values that read differently, or speak for the gate."""
    never = "the backend sees a header that the gate did not judge, or one that only the gate may set"
    for line in (
        b"No-Colon\r\n", b": empty\r\n", b"Sp ace: 1\r\n", b"Tab\t: 1\r\n", b"N\x00ul: 1\r\n", b"N\xc3\xa4me: 1\r\n", b"(x): 1\r\n",
        b"X@Y: 1\r\n", b"X[Y]: 1\r\n", b"X\x7f: 1\r\n", b"\x0bX-User-Id: 1\r\n", b" X-Folded: 1\r\n", b"A: 1\r\n X-User-Id: evil\r\n",
        b"A: 1\r\n\tX-User-Id: evil\r\n", b"A: 1\rX-User-Id: evil\r\n", b"A: a\x00b\r\n", b"A: a\x01b\r\n", b"A: a\x0bb\r\n", b"A: a\x1fb\r\n",
        b"A: a\x7fb\r\n", b"A: 1\r\r\n", b"A: \x00\r\n", b"A: \x1b[31m\r\n",
    ):  # fmt: skip
        yield Entry(f"header {line!r}", get(line), BAD, never)
    yield Entry("header lines that end in LF", get(b"A: 1\nX-User-Id: evil\n"), BAD, never)
    yield Entry("a head whose lines end in LF", get().replace(b"\r\n", b"\n"), BAD, never)
    identity = (
        b"X-User-Id", b"x-user-email", b"X_User_Id", b"X.User.Id", b"X-User_Id", b"X-Org-Id", b"X_ORG_ID", b"X-Consumer-Name",
        b"X-Auth-Request-User", b"X-Authenticated-Userid", b"X-Forwarded-For", b"X-Forwarded-Host", b"X-Forwarded-User",
        b"X_Forwarded_For", b"Forwarded", b"X-Real-IP", b"X_Real_IP", b"X-Original-URL", b"X-Rewrite-URL", b"X_Original_URL",
        b"X-HTTP-Method-Override", b"X-HTTP-Method", b"X-Method-Override", b"X_HTTP_Method_Override", b"X-Request-Id",
        b"X-Api-Key.", b"X_Api_Key", b"Authorization_", b"Proxy-Authorization", b"Proxy-Authenticate",
    )  # fmt: skip
    for name in identity:
        kept = (b"/g",)
        yield Entry(f"{name.decode()} is not believed", get(name + b": evil\r\n"), OK, never, kept, False)
    bearer = b"Authorization: Bearer KEY\r\n"
    for case, fields, wanted in (
        ("two credentials' headers", bearer + bearer, "400 multiple-credentials"),
        ("two keys", bearer + b"X-Api-Key: other\r\n", "400 multiple-credentials"),
        ("a key in two places", bearer + b"X-Api-Key: KEY\r\n", "200"),
        ("another scheme", b"Authorization: Basic a2V5Og==\r\n", "401 missing-credential"),
        ("no scheme", b"Authorization: KEY\r\n", "401 missing-credential"),
        ("a list", b"Authorization: Bearer KEY, Bearer KEY\r\n", "401 invalid-credential"),
        ("a key in the query", b"", "401 missing-credential"),
        ("a header that resembles", b"Authorization_: Bearer KEY\r\n", "401 missing-credential"),
        (
            "a session's token of nobody",
            b"Authorization: Bearer eyJhbGciOiJub25lIn0.e30.x\r\n",
            "401 invalid-credential",
        ),
    ):
        target = b"/g?api_key=KEY&access_token=KEY" if "query" in case else b"/g"
        yield Entry(
            case, get(target=target, head=H + fields), (wanted,), never, (b"/g",) if wanted == "200" else (), False
        )
    yield Entry("101 headers", get(b"".join(b"H%d: 1\r\n" % n for n in range(99))), TOO_LARGE, never)
    yield Entry("100 headers", get(b"".join(b"H%d: 1\r\n" % n for n in range(98))), OK, never, (b"/g",), False)
    yield Entry("64 KiB in one header", get(b"A: " + b"a" * 65536 + b"\r\n"), TOO_LARGE, never)
    yield Entry(
        "64 KiB in many headers", get(b"".join(b"H%d: %s\r\n" % (n, b"a" * 1000) for n in range(70))), TOO_LARGE, never
    )
    yield Entry("a head that does not end", b"GET / HTTP/1.1\r\nX: " + b"a" * 70_000, TOO_LARGE, never)
    yield Entry("60 KiB in one header", get(b"A: " + b"a" * 60_000 + b"\r\n"), OK, never, (b"/g",), False)


def hops() -> Iterator[Entry]:
    """Headers for one hop, and other protocols."""
    never = "the backend loses a header that the gate set, or a raw tunnel opens"
    for named in (
        b"authorization", b"x-request-id", b"host", b"content-length, transfer-encoding", b"x-forwarded-for", b"keep-alive, te",
        b"Authorization, X-Forwarded-For, Host", b"upgrade, http2-settings", b"a" * 1000,
    ):  # fmt: skip
        yield Entry(f"Connection: {named[:40]!r}", get(b"Connection: " + named + b"\r\n"), OK, never, (b"/g",), False)
    yield Entry("Connection: close, authorization", get(b"Connection: close, authorization\r\n"), OK, never, (b"/g",))
    for line in (
        b"TE: trailers",
        b"TE: chunked",
        b"Keep-Alive: timeout=9",
        b"Proxy-Connection: keep-alive",
        b"Proxy-Foo: 1",
    ):
        yield Entry(line.decode(), get(line + b"\r\n"), OK, never, (b"/g",), False)
    for upgrade in (
        b"h2c",
        b"H2C",
        b"h2c, websocket",
        b"websocket, h2c",
        b"TLS/1.2",
        b"HTTP/2.0",
        b"foo",
        b"websocket/13",
        b"websocket",
    ):
        fields = (
            b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: "
            + upgrade
            + b"\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n"
        )
        yield Entry(f"Upgrade: {upgrade.decode()}", get(fields), OK, never, (b"/g",), False)
    socket = b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
    yield Entry("a handshake by POST", post(socket, b""), OK, never, (b"/p",), False)
    yield Entry("a handshake without a key", get(socket, head=H), NO_KEY, never, (), False)
    yield Entry("a handshake of version 12", get(socket.replace(b"13", b"12")), OK, never, (b"/g",), False)
    yield Entry("two upgrades", get(socket + b"Upgrade: h2c\r\n"), OK, never, (b"/g",), False)
    yield Entry("an upgrade that Connection does not name", get(b"Upgrade: websocket\r\n"), OK, never, (b"/g",), False)
    yield Entry("Trailer", post(b"Trailer: X-User-Id\r\nTransfer-Encoding: chunked\r\n", CHUNKED), BAD, never)
    for expectation in (b"x", b"100-continue, x", b"200-ok", b"100-continue\r\nExpect: 100-continue x", b""):
        yield Entry(
            f"Expect: {expectation!r}",
            post(b"Expect: " + expectation + b"\r\nContent-Length: 5\r\n", b"hello"),
            BAD,
            never,
        )
    yield Entry("Max-Forwards: 0", get(b"Max-Forwards: 0\r\n"), OK, never, (b"/g",), False)


def lines() -> Iterator[Entry]:
    """Request lines: methods, targets, versions."""
    never = "the backend sees a request line other than the judged one"
    for method in (
        b"TRACE", b"TRACK", b"get", b"Get", b"GETT", b"PRI", b"PROPFIND", b"DEBUG", b"X" * 300, b"G!T", b"PURGE", b"CONNECTX", b"POST_", b"M-SEARCH",
    ):  # fmt: skip
        raw = method + b" /m HTTP/1.1\r\n" + H + A + b"\r\n"
        yield Entry(f"method {method[:20].decode()}", raw, METHOD, never, (), False)
    for line in (
        b"GET", b"GET /x", b"GET  /x HTTP/1.1", b"GET /x  HTTP/1.1", b" GET /x HTTP/1.1", b"GET\t/x\tHTTP/1.1", b"GET /x y HTTP/1.1",
        b"GET /x\tHTTP/1.1", b"GET /x HTTP/1.1 ", b"GET /x HTTP/1.1\x00", b"GET /x HTTP/1.1 x", b"GET /x http/1.1", b"GET /x HTTP/1.1\r",
        b"GET /x HTTP/1.", b"GET /x HTTP/11", b"GET /x HTTP/01.1", b"GET /x HTTP/1.01", b"GET /x HTTP/-1.1", b"GET /x FTP/1.1", b"GET /x HTTP",
        b"/x HTTP/1.1", b"G\x00T /x HTTP/1.1", b"G(T /x HTTP/1.1", b"\x00GET /x HTTP/1.1", b"GET /x HTTP/1.1\x0b", b"",
    ):  # fmt: skip
        closed = Entry(f"line {line!r}", line + b"\r\n" + H + A + b"\r\n", BAD, never)
        yield closed
    for version in (b"HTTP/0.9", b"HTTP/1.2", b"HTTP/2.0", b"HTTP/2", b"HTTP/3.0", b"HTTP/9.9", b"HTTP/1.9"):
        yield Entry(f"version {version.decode()}", get(version=version), BAD, never)
    yield Entry("HTTP/1.0", get(version=b"HTTP/1.0"), OK, never, (b"/g",))
    for target in (
        b"http://h/x", b"HTTP://h/x", b"http://other/x", b"https://h/x", b"http://h", b"http://user@h/x", b"http://h:80/x", b"ftp://h/x",
        b"http://127.0.0.1:22/", b"file:///etc/passwd", b"//other/x", b"x", b"*", b"h:80", b"?x", b"../x", b"\\x", b"/x#y", b"/x y",
        b"/x\x00", b"/x\x7f", b"/x\xc3\xa9", b"/\x01", b"/a//b", b"/a/./b", b"/a/../b", b"/a/%2e%2e/b", b"/a/.%2e/b", b"/a%2fb", b"/a%5cb",
        b"/a\\b", b"/a;b", b"/a;/../b", b"/a/..;/b", b"/a%00b", b"/a%0ab", b"/a%252fb", b"/a%25%32%66b", b"/a%c0%afb", b"/a%zz", b"/a%", b"/.",
        b"/..", b"/a/..", b"/%2e", b"/%u002e", b"@h/x", b":80/x", b"/a%0d%0aX-Smuggled:%201",
    ):  # fmt: skip
        wanted = ("400 invalid-request", "400 ambiguous-path")
        yield Entry(f"target {target!r}", get(target=target), (" | ".join(wanted),), never, (), True)
    yield Entry("a target of 8 KiB", get(target=b"/" + b"a" * 8191), OK, never, (b"/" + b"a" * 8191,), False)
    yield Entry("a target over 8 KiB", get(target=b"/" + b"a" * 8192), TOO_LARGE, never)
    yield Entry(
        "CONNECT",
        b"CONNECT other:443 HTTP/1.1\r\n" + H + A + b"\r\n" + SMUGGLED,
        ("405 method-not-allowed | 400 invalid-request",),
        never,
    )
    yield Entry(
        "CONNECT to the upstream",
        b"CONNECT 127.0.0.1:UPSTREAM HTTP/1.1\r\n" + H + A + b"\r\n" + SMUGGLED,
        ("405 method-not-allowed | 400 invalid-request",),
        never,
    )


def hosts() -> Iterator[Entry]:
    """Host headers."""
    never = "the backend sees another host than its own, or two"
    for case, head in (
        ("none", b""), ("two", H + b"Host: other\r\n"), ("two equal", H + H), ("empty", b"Host:\r\n"), ("a path", b"Host: h/x\r\n"),
        ("a user", b"Host: u@h\r\n"), ("a space", b"Host: h x\r\n"), ("a list", b"Host: h, other\r\n"), ("no number for a port", b"Host: h:x\r\n"),
        ("an empty port", b"Host: h:\r\n"), ("a port too long", b"Host: h:123456\r\n"), ("broken brackets", b"Host: [::1\r\n"),
        ("no brackets", b"Host: ::1\r\n"), ("a quote", b'Host: h"\r\n'), ("a tab", b"Host: h\tx\r\n"), ("a fragment", b"Host: h#x\r\n"),
        ("a query", b"Host: h?x\r\n"), ("a backslash", b"Host: h\\x\r\n"), ("folded", b"Host:\r\n h\r\n"), ("a percent", b"Host: h%2fx\r\n"),
        ("not ASCII", b"Host: h\xc3\xa9\r\n"), ("a line feed", b"Host: h\nHost: other\r\n"), ("a space before the colon", b"Host : h\r\n"),
    ):  # fmt: skip
        yield Entry(f"Host: {case}", get(head=head + A), BAD, never)
    yield Entry("Host: absolute form", get(target=b"http://other/x"), BAD, never)
    for host in (b"other", b"127.0.0.1:1", b"[::1]:80", b"H_x.example"):
        yield Entry(
            f"Host: {host.decode()} is not forwarded",
            get(head=b"Host: " + host + b"\r\n" + A),
            OK,
            never,
            (b"/g",),
            False,
        )


def pipelines() -> Iterator[Entry]:
    """Several requests on one connection."""
    never = "a request is answered for another, or passes on another's credential"
    one, two = get(target=b"/one"), get(target=b"/two")
    yield Entry("two", one + two, ("200", "200"), never, (b"/one", b"/two"), False)
    yield Entry(
        "the second has no key",
        one + get(target=b"/two", head=H),
        ("200", "401 missing-credential"),
        never,
        (b"/one",),
        False,
    )
    yield Entry(
        "the first has no key",
        get(target=b"/one", head=H) + two,
        ("401 missing-credential", "200"),
        never,
        (b"/two",),
        False,
    )
    yield Entry("garbage behind", one + b"\x00\x01garbage\r\n\r\n", ("200", "400 invalid-request"), never, (b"/one",))
    yield Entry("garbage before", b"garbage\r\n\r\n" + one, BAD, never)
    refused = post(length(SMUGGLED), SMUGGLED, key=b"")
    yield Entry(
        "a refused body that is a request", refused + two, ("401 missing-credential", "200"), never, (b"/two",), False
    )
    chunked = post(b"Transfer-Encoding: chunked\r\n", b"%x\r\n%s\r\n0\r\n\r\n" % (len(SMUGGLED), SMUGGLED), key=b"")
    yield Entry(
        "refused chunks that are a request", chunked + two, ("401 missing-credential", "200"), never, (b"/two",), False
    )
    large = post(b"Content-Length: 100000\r\n", SMUGGLED * 1000, key=b"")
    yield Entry("a large refused body that is requests", large + two, NO_KEY, never)
    expecting = post(b"Expect: 100-continue\r\n" + length(SMUGGLED), SMUGGLED, key=b"")
    yield Entry(
        "a refused body behind Expect", expecting + two, ("401 missing-credential", "200"), never, (b"/two",), False
    )
    yield Entry("behind a close", get(b"Connection: close\r\n", b"/one") + two, OK, never, (b"/one",))
    yield Entry("behind HTTP/1.0", get(target=b"/one", version=b"HTTP/1.0") + two, OK, never, (b"/one",))
    yield Entry("an empty line before", b"\r\n" + one, OK, never, (b"/one",), False)
    yield Entry("empty lines before", b"\r\n\r\n" + one, BAD, never)
    yield Entry("twenty", one * 20, ("200",) * 20, never, (b"/one",) * 20, False)
    yield Entry("HEAD, then GET", b"HEAD" + one[3:] + two, ("200", "200"), never, (b"/one", b"/two"), False)


def protocols() -> Iterator[Entry]:
    """What is no HTTP/1 at all."""
    never = "bytes that are no request reach the backend, or another protocol is spoken"
    for name, raw in (
        ("PROXY v1", b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n" + get()), ("random", bytes(range(128, 256)) * 4 + b"\r\n\r\n"),
        ("SSH", b"SSH-2.0-x\r\n\r\n"), ("SMTP", b"EHLO x\r\n\r\n"), ("Redis", b"*1\r\n$4\r\nPING\r\n\r\n"), ("HTTP response", b"HTTP/1.1 200 OK\r\n\r\n"),
        ("memcached", b"get x\r\n\r\n"), ("FastCGI", b"\x01\x01\x00\x01\x00\x08\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\r\n\r\n"),
        ("a byte order mark", b"\xef\xbb\xbf" + get()), ("NULs", b"\x00" * 100 + b"\r\n\r\n"),
        ("PROXY v2", b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\x01\x02\x03\x04\x05\x06\x07\x08\x00\x01\x00\x02" + get()),
        ("SOCKS 5", b"\x05\x01\x00"), ("SOCKS 4", b"\x04\x01\x00\x50\x7f\x00\x00\x01\x00"),
    ):  # fmt: skip
        yield Entry(name, raw, ("400 invalid-request | 405 method-not-allowed",), never)
    hello = b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00"
    yield Entry("TLS", hello, (), never)
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"
    yield Entry("HTTP/2 without TLS", preface, BAD, never)
    yield Entry("TLS records in a request", get(b"A: \x16\x03\x01\r\n"), BAD, never)


CORPUS = [
    entry
    for family in (framing, chunks, headers, hops, lines, hosts, pipelines, protocols)
    for entry in family()
]  # fmt: skip
