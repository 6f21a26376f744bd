"""Ways to get past a gateway over HTTP/2, as raw frames, and what must come of each.

`KEY` stands for a good key. What comes of an entry is told of its first stream: `401 missing-credential`, `200`, `reset`, `goaway` (the
connection ends), with ` | ` between what is equally good. `forwarded` are the targets that the backend may see, which leaves /slow
unanswered until the entry is over.
"""

from collections.abc import Iterator
from typing import NamedTuple

from tests.attacks.frames import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PADDED,
    PING,
    PRIORITY,
    PUSH_PROMISE,
    SETTINGS,
    WITH_PRIORITY,
    Field,
    block,
    data,
    frame,
    headers,
    integer,
    reset,
    settings,
    text,
    window,
)

KEY = b"K" * 45
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: h\r\nX-Smuggled: 1\r\n\r\n"
CREDENTIAL: Field = (b"authorization", b"Bearer " + KEY)


class Entry(NamedTuple):
    """One attack."""

    name: str
    frames: bytes
    outcome: str
    never: str
    """What must not happen."""
    forwarded: tuple[bytes, ...] = ()


BAD, OK, GONE = "400 invalid-request", "200", "goaway"
MALFORMED = "400 invalid-request | reset | goaway"


def fields(
    *more: Field,
    method: bytes = b"GET",
    path: bytes = b"/x",
    scheme: bytes = b"https",
    authority: bytes = b"h",
    key: bool = True,
) -> list[Field]:
    """A request's fields."""
    begin = [(b":method", method), (b":path", path), (b":scheme", scheme), (b":authority", authority)]
    return [*begin, *([CREDENTIAL] if key else []), *more]


def bodies() -> Iterator[Entry]:
    """Bodies that an HTTP/1 backend could take for a request."""
    never = "the body is read as a second request, or the backend waits for more than was judged"
    for method in (b"GET", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS", b"HEAD"):
        raw = headers(1, fields(method=method), end=False) + data(1, SMUGGLED)
        yield Entry(f"{method.decode()}, a body without a length", raw, OK, never, (b"/x",))
    yield Entry(
        "a body in many frames",
        headers(1, fields(method=b"POST"), end=False) + b"".join(data(1, SMUGGLED, end=n == 9) for n in range(10)),
        OK,
        never,
        (b"/x",),
    )
    yield Entry(
        "a body in an empty last frame",
        headers(1, fields(method=b"POST"), end=False) + data(1, SMUGGLED, end=False) + data(1, b""),
        OK,
        never,
        (b"/x",),
    )
    yield Entry(
        "a padded body",
        headers(1, fields(method=b"POST"), end=False)
        + frame(DATA, END_STREAM | PADDED, 1, b"\x05" + SMUGGLED + b"\0" * 5),
        OK,
        never,
        (b"/x",),
    )
    yield Entry(
        "a body that ends chunks",
        headers(1, fields(method=b"POST"), end=False) + data(1, b"0\r\n\r\n" + SMUGGLED),
        OK,
        never,
        (b"/x",),
    )
    for value, outcome in ((b"%d" % len(SMUGGLED), OK), (b"0", MALFORMED), (b"5", MALFORMED), (b"5000", MALFORMED), (b"-1", MALFORMED), (b"+5", MALFORMED),
                           (b"5, 5", MALFORMED), (b"", MALFORMED), (b"abc", MALFORMED), (b"0x5", MALFORMED), (b"5 ", MALFORMED), (b"1" * 30, MALFORMED)):  # fmt: skip
        raw = headers(1, fields((b"content-length", value), method=b"POST"), end=False) + data(1, SMUGGLED)
        yield Entry(f"content-length {value!r}", raw, outcome, never, (b"/x",) if outcome == OK else ())
    for length in (b"50", b"900000"):  # held, and streamed
        short = "the backend takes what follows for the rest of this body"
        long = fields((b"content-length", length), method=b"POST")
        yield Entry(f"content-length {length!r} and no body", headers(1, long), "reset", short)
        for name, more in (("trailers", []), ("trailers with a length", [(b"content-length", b"5")])):
            raw = headers(1, long, end=False) + data(1, b"hello", end=False) + headers(1, [(b"x", b"y"), *more])
            yield Entry(f"content-length {length!r}, less, {name}", raw, "reset", short)
    twice = fields((b"content-length", b"5"), (b"content-length", b"50"), method=b"POST")
    yield Entry("two lengths", headers(1, twice, end=False) + data(1, b"hello"), MALFORMED, never)
    for coding in (b"chunked", b"identity", b"gzip, chunked", b"CHUNKED", b"xchunked"):
        raw = headers(1, fields((b"transfer-encoding", coding), method=b"POST"), end=False) + data(
            1, b"0\r\n\r\n" + SMUGGLED
        )
        yield Entry(f"transfer-encoding: {coding.decode()}", raw, MALFORMED, never)
    both = fields((b"transfer-encoding", b"chunked"), (b"content-length", b"5"), method=b"POST")
    yield Entry(
        "transfer-encoding and a length",
        headers(1, both, end=False) + data(1, b"0\r\n\r\n" + SMUGGLED),
        MALFORMED,
        never,
    )
    refused = headers(1, fields(method=b"POST", key=False), end=False)
    yield Entry("a refused body", refused + data(1, SMUGGLED), "401 missing-credential", never)
    yield Entry("a refused body that goes on", refused + data(1, SMUGGLED, end=False), "401 missing-credential", never)
    trailers = headers(1, fields(method=b"POST"), end=False) + data(1, b"hi", end=False)
    yield Entry(
        "trailers", trailers + headers(1, [(b"x-smuggled", b"1"), (b"x-user-id", b"evil")]), OK, never, (b"/x",)
    )
    yield Entry(
        "framing in trailers",
        trailers + headers(1, [(b"content-length", b"50")]),
        f"{OK} | {MALFORMED}",
        never,
        (b"/x",),
    )
    yield Entry("pseudo-headers in trailers", trailers + headers(1, [(b":path", b"/smuggled")]), MALFORMED, never)
    yield Entry(
        "trailers that do not end the stream", trailers + headers(1, [(b"a", b"b")], end=False), MALFORMED, never
    )


def heads() -> Iterator[Entry]:
    """Fields that would become other lines of an HTTP/1 head."""
    never = "the backend sees a line, a header or a host that was not judged"
    for method in (
        b"GET /smuggled HTTP/1.1\r\nX-Smuggled: 1\r\n\r\nGET", b"GET /smuggled HTTP/1.1", b"G ET", b"get", b"TRACE", b"CONNECT", b"", b"GET\r\n", b"PRI", b"G\x00T",
    ):  # fmt: skip
        yield Entry(
            f":method {method[:24]!r}",
            headers(1, fields(method=method)),
            f"405 method-not-allowed | {MALFORMED}",
            never,
        )
    for path in (
        b"/x HTTP/1.1\r\nX-Smuggled: 1\r\n\r\nGET /smuggled", b"/x HTTP/1.1", b"/x y", b"/x\r\nX-Smuggled: 1", b"/x\n", b"/x\t", b"/x\x00", b"", b"x", b"*",
        b"http://other/x", b"//other/x", b"/x#y", b"/a/../b", b"/a%2fb", b"/a;b", b"/a\\b", b"\xc3\xa9", b"/\xff", b"?x",
    ):  # fmt: skip
        yield Entry(f":path {path[:24]!r}", headers(1, fields(path=path)), f"400 ambiguous-path | {MALFORMED}", never)
    for authority in (b"h/x", b"u@h", b"h x", b"h\r\nX-Smuggled: 1", b"", b"h:x", b"[::1", b"h,other", b"h\x00"):
        yield Entry(f":authority {authority!r}", headers(1, fields(authority=authority)), MALFORMED, never)
    yield Entry("host unlike :authority", headers(1, fields((b"host", b"other"))), MALFORMED, never)
    yield Entry("two hosts", headers(1, fields((b"host", b"h"), (b"host", b"other"))), MALFORMED, never)
    yield Entry("host like :authority", headers(1, fields((b"host", b"h"))), OK, never, (b"/x",))
    alone = [(b":method", b"GET"), (b":path", b"/x"), (b":scheme", b"https")]
    yield Entry("host alone", headers(1, [*alone, CREDENTIAL, (b"host", b"h")]), OK, never, (b"/x",))
    yield Entry("no host at all", headers(1, [*alone, CREDENTIAL]), MALFORMED, never)
    for scheme in (b"ftp", b"https://h/smuggled?", b"", b"ht tp", b"https\r\nX-Smuggled: 1"):
        yield Entry(f":scheme {scheme!r}", headers(1, fields(scheme=scheme)), f"{OK} | {MALFORMED}", never, (b"/x",))
    whole = fields()
    for missing in (b":method", b":path", b":scheme"):
        yield Entry(
            f"no {missing.decode()}", headers(1, [pair for pair in whole if pair[0] != missing]), MALFORMED, never
        )
    for twice in ((b":path", b"/smuggled"), (b":method", b"POST"), (b":authority", b"other"), (b":scheme", b"http")):
        yield Entry(f"a second {twice[0].decode()}", headers(1, [twice, *whole]), MALFORMED, never)
        yield Entry(f"a late {twice[0].decode()}", headers(1, [*whole, twice]), MALFORMED, never)
    yield Entry("an unknown pseudo-header", headers(1, [(b":evil", b"1"), *whole]), MALFORMED, never)
    yield Entry(":status in a request", headers(1, [(b":status", b"200"), *whole]), MALFORMED, never)
    yield Entry(
        "an extended CONNECT",
        headers(1, [(b":protocol", b"websocket"), *fields(method=b"CONNECT")], end=False),
        f"405 method-not-allowed | {MALFORMED}",
        never,
    )
    for name in (
        b"X-User-Id", b"x user", b"x:y", b":", b"", b"x\r\nx-smuggled", b"x\n", b"x\x00", b"x\x7f", b"h\xc3\xa9", b"x-smuggled: 1\r\nx", b" x", b"x ", b"authorization ", b"a\tb",
    ):  # fmt: skip
        yield Entry(f"name {name!r}", headers(1, fields((name, b"evil"))), MALFORMED, never)
    for value in (
        b"1\r\nX-User-Id: evil",
        b"1\nx",
        b"1\rx",
        b"a\x00b",
        b"a\x01b",
        b"a\x7fb",
        b"1\r\n\r\n" + SMUGGLED,
        b"\r",
        b"\x1b",
    ):
        yield Entry(f"value {value[:24]!r}", headers(1, fields((b"a", value))), MALFORMED, never)
    for pair in ((b"connection", b"close"), (b"connection", b"authorization"), (b"keep-alive", b"timeout=9"), (b"proxy-connection", b"x"), (b"upgrade", b"h2c"), (b"upgrade", b"websocket"), (b"te", b"chunked")):  # fmt: skip
        yield Entry(
            f"{pair[0].decode()}: {pair[1].decode()}", headers(1, fields(pair)), f"{OK} | {MALFORMED}", never, (b"/x",)
        )
    yield Entry("te: trailers", headers(1, fields((b"te", b"trailers"))), OK, never, (b"/x",))
    for kept in (
        b"x-user-id",
        b"x_user_id",
        b"x.user.id",
        b"x-org-id",
        b"x-forwarded-for",
        b"forwarded",
        b"x-real-ip",
        b"x-original-url",
        b"x-http-method-override",
        b"x-request-id",
    ):
        yield Entry(f"{kept.decode()} is not believed", headers(1, fields((kept, b"evil"))), OK, never, (b"/x",))
    yield Entry("two credentials", headers(1, fields(CREDENTIAL)), "400 multiple-credentials", never)
    yield Entry(
        "expect: 100-continue",
        headers(1, fields((b"expect", b"100-continue"), method=b"POST"), end=False) + data(1, b"hi"),
        OK,
        never,
        (b"/x",),
    )
    yield Entry("another expectation", headers(1, fields((b"expect", b"x"))), BAD, never)
    yield Entry("trailer is announced", headers(1, fields((b"trailer", b"x-user-id"))), BAD, never)
    yield Entry("crumbs of cookies", headers(1, fields((b"cookie", b"a=1"), (b"cookie", b"b=2"))), OK, never, (b"/x",))


def floods() -> Iterator[Entry]:
    """More than anyone needs."""
    never = "the gateway holds, or the backend sees, more than the bounds allow"
    yield Entry(
        "101 headers", headers(1, fields(*((b"h%d" % n, b"1") for n in range(100)))), "431 headers-too-large", never
    )
    large = block(fields((b"a", b"a" * 66_000)))
    split = frame(HEADERS, END_STREAM, 1, large[:16000]) + b"".join(
        frame(CONTINUATION, END_HEADERS if at + 16000 >= len(large) else 0, 1, large[at : at + 16000])
        for at in range(16000, len(large), 16000)
    )
    yield Entry("64 KiB of headers", split, "431 headers-too-large", never)
    endless = (
        frame(HEADERS, END_STREAM, 1, block(fields())) + frame(CONTINUATION, 0, 1, block([(b"a", b"a" * 16000)])) * 20
    )
    yield Entry("a header block that does not end", endless, GONE, never)
    tiny = frame(HEADERS, END_STREAM, 1, block(fields())) + frame(CONTINUATION, 0, 1) * 20_000
    yield Entry("empty continuations", tiny, GONE, never)
    bomb = block([(b"a", b"a" * 4000)], 0x40) + bytes([0x80 | 62]) * 10_000
    yield Entry(
        "a header that unpacks to 40 MB",
        frame(HEADERS, END_STREAM | END_HEADERS, 1, block(fields()) + bomb),
        GONE,
        never,
    )
    yield Entry(
        "a dynamic table of 4 GiB",
        frame(HEADERS, END_STREAM | END_HEADERS, 1, integer(1 << 32, 5, 0x20) + block(fields())),
        GONE,
        never,
    )
    yield Entry(
        "an index beyond the table",
        frame(HEADERS, END_STREAM | END_HEADERS, 1, bytes([0xFF, 0xFF, 0x7F]) + block(fields())),
        GONE,
        never,
    )
    yield Entry(
        "a string longer than its block",
        frame(HEADERS, END_STREAM | END_HEADERS, 1, b"\0" + integer(5000, 7) + b"a"),
        GONE,
        never,
    )
    yield Entry(
        "pings", headers(1, fields(path=b"/slow")) + frame(PING, 0, 0, b"12345678") * 5000, GONE, never, (b"/slow",)
    )
    yield Entry("settings", headers(1, fields(path=b"/slow")) + settings((3, 100)) * 5000, GONE, never, (b"/slow",))
    yield Entry(
        "empty data",
        headers(1, fields(method=b"POST", path=b"/slow"), end=False) + data(1, b"", end=False) * 5000,
        GONE,
        never,
        (b"/slow",),
    )
    yield Entry(
        "unknown frames", headers(1, fields(path=b"/slow")) + frame(0xEE, 0, 0, b"x") * 5000, GONE, never, (b"/slow",)
    )
    floods = {
        "PING answers": frame(PING, ACK, 0, b"12345678"),
        "settings acknowledgements": frame(SETTINGS, ACK, 0),
        "window updates": window(0, 1),
    }
    for name, one in floods.items():
        yield Entry(name, headers(1, fields(path=b"/slow")) + one * 5000, GONE, never, (b"/slow",))
    rapid = b"".join(headers(n, fields(key=False), end=False) + reset(n) for n in range(3, 2003, 2))
    yield Entry("rapid resets", headers(1, fields(path=b"/slow")) + rapid, GONE, never, (b"/slow",))
    many = b"".join(headers(n, fields(path=b"/slow"), end=True) for n in range(1, 403, 2))
    yield Entry("more streams than may be open", many, f"{GONE} | reset", never, (b"/slow",) * 100)


def frames() -> Iterator[Entry]:
    """Frames that break the protocol."""
    never = "a frame that breaks the protocol becomes a request"
    good = headers(1, fields())
    yield Entry("data on an idle stream", data(1, SMUGGLED), GONE, never)
    yield Entry("data on a closed stream", good + data(1, SMUGGLED), f"{OK} | {GONE} | reset", never, (b"/x",))
    yield Entry("an even stream", headers(2, fields()), GONE, never)
    yield Entry("stream 0", headers(0, fields()), GONE, never)
    yield Entry(
        "a smaller stream", headers(3, fields(path=b"/three")) + headers(1, fields()), GONE, never, (b"/three",)
    )
    yield Entry(
        "headers twice",
        headers(1, fields(method=b"POST"), end=False) + headers(1, fields(path=b"/smuggled"), end=False),
        MALFORMED,
        never,
    )
    yield Entry(
        "a frame over 16 KiB",
        headers(1, fields(method=b"POST"), end=False) + data(1, b"a" * 20_000),
        f"{GONE} | 413 | {OK}",
        never,
        (b"/x",),
    )
    yield Entry(
        "a frame that announces 16 MiB",
        headers(1, fields(method=b"POST"), end=False) + b"\xff\xff\xff" + frame(DATA, 0, 1, b"a" * 40_000)[3:],
        GONE,
        never,
    )
    yield Entry(
        "too much padding", frame(HEADERS, END_STREAM | END_HEADERS | PADDED, 1, b"\xff" + block(fields())), GONE, never
    )
    yield Entry(
        "a priority of itself",
        frame(HEADERS, END_STREAM | END_HEADERS | WITH_PRIORITY, 1, b"\0\0\0\x01\x10" + block(fields())),
        MALFORMED,
        never,
    )
    yield Entry(
        "another frame among headers",
        frame(HEADERS, END_STREAM, 1, block(fields()))
        + frame(PING, 0, 0, b"12345678")
        + frame(CONTINUATION, END_HEADERS, 1),
        GONE,
        never,
    )
    yield Entry(
        "a continuation of another stream",
        frame(HEADERS, END_STREAM, 1, block(fields()))
        + frame(CONTINUATION, END_HEADERS, 3, block([(b"x-smuggled", b"1")])),
        GONE,
        never,
    )
    yield Entry("a continuation of nothing", frame(CONTINUATION, END_HEADERS, 1, block(fields())), GONE, never)
    yield Entry(
        "a promise from a caller", frame(PUSH_PROMISE, END_HEADERS, 1, b"\0\0\0\x02" + block(fields())), GONE, never
    )
    yield Entry("a window of 0", window(0, 0), GONE, never)
    yield Entry("a window beyond 2^31", window(0, 0x7FFFFFFF) * 2, GONE, never)
    yield Entry("a setting out of range", settings((4, 0xFFFFFFFF)), GONE, never)
    yield Entry("settings of 5 bytes", frame(SETTINGS, 0, 0, b"12345"), GONE, never)
    yield Entry("a ping of 7 bytes", frame(PING, 0, 0, b"1234567"), GONE, never)
    yield Entry("a priority of 4 bytes", frame(PRIORITY, 0, 1, b"1234"), GONE, never)
    yield Entry("a reset of an idle stream", reset(1), GONE, never)
    yield Entry("HTTP/1 behind the preface", b"GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n", GONE, never)
    yield Entry(
        "Huffman code that does not end",
        frame(HEADERS, END_STREAM | END_HEADERS, 1, block(fields()) + b"\0" + text(b"a") + b"\x82\xff\xff"),
        GONE,
        never,
    )


CORPUS = [entry for family in (bodies, heads, floods, frames) for entry in family()]
