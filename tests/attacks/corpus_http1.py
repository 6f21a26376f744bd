"""Attacks over HTTP/1 as raw bytes, and what must come of each.

`KEY` and `KEY2` stand for the values of two good keys and are as long as these, so that lengths hold; `@HOST@` stands
for the upstream's authority. An entry's `expect` lists the outcomes that are right, each the whole story of a
connection: a refusal as `status code`, or `One`, a request that the backend got as it is written here and whose answer
the caller got; `()` is a connection that is closed without an answer. More than one outcome stands only where the RFCs
and the contract leave a choice.
"""

from collections.abc import Iterator
from typing import NamedTuple


class One(NamedTuple):
    """A request that reaches the backend, exactly once."""

    method: str
    target: bytes
    body: bytes = b""
    has: tuple[tuple[bytes, bytes], ...] = ()
    """Header fields that it has."""
    key: int = 1
    """Whose it is: the first key's or the second's."""


Outcome = tuple[One | str, ...]


class Entry(NamedTuple):
    """One attack."""

    name: str
    raw: bytes
    never: str
    """What must not happen."""
    expect: tuple[Outcome, ...]
    half: bool = False
    """It is incomplete by design: its sender says that nothing more comes, and the connection must end."""
    cut: bool = False
    """The backend may have seen the well-formed beginning of one request, whose connection was then closed."""
    closes: bool = False
    """The connection ends after the last answer, though that is none of the malformed."""


KEY, KEY2 = b"@KEY-1".ljust(45, b"-"), b"@KEY-2".ljust(45, b"-")
H, A = b"Host: h\r\n", b"Authorization: Bearer " + KEY + b"\r\n"
TE = b"Transfer-Encoding: chunked\r\n"
LAST = b"0\r\n\r\n"
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: h\r\nX-Smuggled: 1\r\n" + A + b"\r\n"
"""What a second parser would serve: with a good key, so that only reading it right keeps it from the backend."""
KEYLESS = b"GET /smuggled HTTP/1.1\r\nHost: h\r\nX-Smuggled: 1\r\n\r\n"
"""The same where it is a body that the backend does get, or a request of its own that must then be refused."""

BAD: tuple[Outcome, ...] = (("400 invalid-request",),)
PATH: tuple[Outcome, ...] = (("400 ambiguous-path",),)
TARGET: tuple[Outcome, ...] = (*BAD, *PATH)
METHOD: tuple[Outcome, ...] = (("405 method-not-allowed",),)
LARGE: tuple[Outcome, ...] = (("431 headers-too-large",),)
NO_KEY, WRONG = "401 missing-credential", "401 invalid-credential"
CLOSED: tuple[Outcome, ...] = ((),)
G = One("GET", b"/g")
SERVED: tuple[Outcome, ...] = ((G,),)


def get(fields: bytes = b"", target: bytes = b"/g", version: bytes = b"HTTP/1.1", head: bytes = H + A) -> bytes:
    """A GET with these header lines, each with its end."""
    return b"GET %s %s\r\n%s%s\r\n" % (target, version, head, fields)


def post(fields: bytes, body: bytes = b"", head: bytes = H + A, line: bytes = b"POST /p HTTP/1.1") -> bytes:
    """A POST with these header lines, each with its end."""
    return b"%s\r\n%s%s\r\n%s" % (line, head, fields, body)


def length(body: bytes) -> bytes:
    """The Content-Length of this body."""
    return b"Content-Length: %d\r\n" % len(body)


def chunked(*parts: bytes) -> bytes:
    """A body in chunks."""
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + LAST


def posted(body: bytes = b"", *has: tuple[bytes, bytes]) -> One:
    """What comes of `post`."""
    return One("POST", b"/p", body, has)


def both_framings() -> Iterator[Entry]:
    """Content-Length and Transfer-Encoding in one head (RFC 9112 §6.1: may be an attempt at smuggling)."""
    never = "the end of the request is seen in two places, and what is behind it is served"
    coding = b"Transfer-Encoding: "
    for case, fields, body in (
        ("CL.TE", b"Content-Length: 6\r\n" + TE, LAST + b"G"),
        ("CL.TE, a whole request behind", b"Content-Length: 999\r\n" + TE, LAST + SMUGGLED),
        ("CL.TE, CL of everything", length(LAST + SMUGGLED) + TE, LAST + SMUGGLED),
        ("TE.CL", TE + b"Content-Length: 4\r\n", chunked(SMUGGLED)),
        ("TE.CL, CL 3", b"Content-Length: 3\r\n" + TE, b"8\r\nSMUGGLED\r\n" + LAST),
        ("TE and CL agree", TE + b"Content-Length: 5\r\n", LAST),
        ("TE and CL 0", b"Content-Length: 0\r\n" + TE, LAST + SMUGGLED),
        ("TE without chunks, and CL", length(SMUGGLED) + TE, SMUGGLED),
        ("TE.TE, and CL", b"Content-Length: 4\r\n" + TE + coding + b"cow\r\n", chunked(SMUGGLED)),
        ("TE.TE the other way, and CL", b"Content-Length: 4\r\n" + coding + b"cow\r\n" + TE, chunked(SMUGGLED)),
        ("TE.TE in two cases, and CL", b"Content-Length: 4\r\n" + TE + b"transfer-encoding: x\r\n", chunked(SMUGGLED)),
        ("CL twice and TE", b"Content-Length: 5\r\nContent-Length: 6\r\n" + TE, LAST + SMUGGLED),
    ):
        yield Entry(case, post(fields, body), never, BAD)
    yield Entry("CL.TE on GET", b"GET" + post(b"Content-Length: 6\r\n" + TE, LAST + SMUGGLED)[4:], never, BAD)
    http10 = post(b"Content-Length: 5\r\n" + TE, LAST + SMUGGLED, line=b"POST /p HTTP/1.0")
    yield Entry("CL.TE on HTTP/1.0", http10, never, BAD)


def codings() -> Iterator[Entry]:
    """Transfer codings in disguise: one parser sees chunks, another none."""
    never = "a coding that only some parsers take for chunked frames the body"
    for value in (
        b"xchunked", b"chunkedx", b"chunk", b"chunke", b"x", b"cow", b"identity", b"gzip", b"compress",
        b"deflate, chunked",
        b"gzip, chunked", b"chunked, identity", b"identity, chunked", b"identity,chunked", b"chunked, cow",
        b"cow, chunked",
        b"chunked,chunked", b"chunked, ", b", chunked", b",chunked,", b'"chunked"', b"'chunked'", b"chunked;q=1",
        b"chunked;",
        b"chunked q", b"chun ked", b"chunked\x0b", b"\x0bchunked", b"\x0cchunked", b"chunked\x0c", b"chunked\x00",
        b"\x00chunked",
        b"chunked\x00x", b"chunked\x08", b"chunked\x7f", b"chunked\xa0", b"\xa0chunked", b"chunked\x85", b"\xefchunked",
        b"\xe2\x84\xaachunked", b"chun\xe2\x84\xaaed", b"", b" ", b"\rchunked", b"chunked\r", b"\nchunked",
        b"\r\n chunked",
        b"\r\n\tchunked", b"chunked\r\n ,identity", b"x\r\n chunked", b"Content-Length: 5", b"0", b"true", b"null",
    ):  # fmt: skip
        field = b"Transfer-Encoding: " + value + b"\r\n"
        yield Entry(f"TE {value!r}", post(field, LAST + SMUGGLED), never, BAD)
        if value in {
            b"xchunked",
            b"identity",
            b"chunked\x0b",
            b"",
            b"\r\n chunked",
            b"\nchunked",
            b"chunked, identity",
        }:
            yield Entry(f"TE {value!r} beside CL", post(length(SMUGGLED) + field, SMUGGLED), never, BAD)
    for name in (
        b"Transfer-Encoding ", b"Transfer-Encoding\t", b" Transfer-Encoding", b"\tTransfer-Encoding",
        b"Transfer-Encoding\x00",
        b"Transfer-Encoding\xa0", b"Transfer-Encoding\x0b", b"Transfer Encoding", b"\x00Transfer-Encoding",
        b"Transfer-Encoding\r",
        b"Transfer-\r\nEncoding", b"X: x\nTransfer-Encoding", b"X: x\rTransfer-Encoding", b"Transfer-Enc\xc3\xb6ding",
        b"Transfer\xe2\x80\x90Encoding", b"X: x\n\rTransfer-Encoding", b"\x0bTransfer-Encoding",
        b"Transfer-Encoding\x1f",
    ):  # fmt: skip
        yield Entry(f"name {name!r}", post(length(SMUGGLED) + name + b": chunked\r\n", SMUGGLED), never, BAD)
    for name in (
        b"Transfer_Encoding",
        b"Transfer.Encoding",
        b"TransferEncoding",
        b"Transfer-Encodin",
        b"X-Transfer-Encoding",
    ):
        raw = post(length(KEYLESS) + name + b": chunked\r\n", KEYLESS)
        yield Entry(f"{name.decode()} beside CL", raw, never, ((posted(KEYLESS),),))
        alone = post(name + b": chunked\r\n", chunked(KEYLESS))
        yield Entry(f"{name.decode()} alone", alone, never, ((posted(), *BAD[0]),))
    for case, field in (
        ("mixed case", b"tRANSFER-eNCODING: cHuNkEd\r\n"), ("no space", b"Transfer-Encoding:chunked\r\n"),
        ("two spaces", b"Transfer-Encoding:  chunked\r\n"), ("a tab", b"Transfer-Encoding:\tchunked\r\n"),
        ("spaces behind", b"Transfer-Encoding: chunked \t \r\n"),
    ):  # fmt: skip
        yield Entry(f"TE with {case}", post(field, chunked(KEYLESS)), never, ((posted(KEYLESS),),))
    for case, second in (("the same", b"chunked"), ("unknown", b"x"), ("identity", b"identity"), ("empty", b"")):
        fields = TE + b"Transfer-Encoding: " + second + b"\r\n"
        yield Entry(f"TE twice, the second {case}", post(fields, LAST + SMUGGLED), never, BAD)
    for version in (b"HTTP/1.0", b"HTTP/0.9", b"HTTP/1.2", b"HTTP/2.0"):
        line = b"POST /p " + version
        yield Entry(f"TE on {version.decode()}", post(TE, LAST + SMUGGLED, line=line), never, BAD)


def lengths() -> Iterator[Entry]:
    """Content-Length in disguise."""
    never = "a length that parsers read differently frames the body"
    for value in (
        b"+5", b"-1", b"-0", b"+0", b"5, 5", b"5,5", b"5, 6", b"5,", b",5", b"5 5", b"0x5", b"0X5", b"0o5", b"0b1",
        b"05x", b"5.0", b"5e0",
        b"1e1", b"5;", b"5_0", b"_5", b"1_0", b"five", b"NaN", b"", b" ", b'"5"', b"'5'", b"\xd9\xa5", b"\xef\xbc\x95",
        b"\xb2", b"5\x00",
        b"\x005", b"5\x0b", b"\x0b5", b"5\x0c", b"5\r", b"\r5", b"\n5", b"5\n6", b"5\r\n 5", b"\r\n 5", b"\r\n\t5",
        b"5\xa0", b"5\x7f",
        b"5%20", b"5 \x01", b"(5)", b"5/5", b"5\\", b"5-5", b"5\t5",
    ):  # fmt: skip
        yield Entry(f"CL {value!r}", post(b"Content-Length: " + value + b"\r\n", b"hello" + SMUGGLED), never, BAD)
    for case, fields in (
        ("different", b"Content-Length: 5\r\nContent-Length: 6\r\n"),
        ("the same", b"Content-Length: 5\r\nContent-Length: 5\r\n"),
        ("in two cases", b"Content-Length: 5\r\ncontent-length: 0\r\n"),
        ("zero first", b"Content-Length: 0\r\nContent-Length: 5\r\n"),
        ("the second empty", b"Content-Length: 5\r\nContent-Length:\r\n"),
        ("far apart", b"Content-Length: 5\r\nX: y\r\nContent-Length: 50\r\n"),
        ("three times", b"Content-Length: 5\r\n" * 3),
    ):  # fmt: skip
        yield Entry(f"CL twice, {case}", post(fields, b"hello" + SMUGGLED), never, BAD)
    for name in (
        b"Content-Length ", b"Content-Length\t", b" Content-Length", b"Content-Length\x00", b"Content-Length\xa0",
        b"Content Length",
        b"X: x\nContent-Length", b"X: x\rContent-Length", b"\x0bContent-Length", b"Content-Length\x0b",
    ):  # fmt: skip
        yield Entry(
            f"name {name!r}", post(b"Content-Length: 5\r\n" + name + b": 0\r\n", b"hello" + SMUGGLED), never, BAD
        )
        yield Entry(f"name {name!r} alone", post(name + b": 5\r\n", b"hello" + SMUGGLED), never, BAD)
    for name in (b"Content_Length", b"Content.Length", b"ContentLength", b"X-Content-Length"):
        raw = post(length(KEYLESS) + name + b": 0\r\n", KEYLESS)
        yield Entry(f"{name.decode()} beside CL", raw, never, ((posted(KEYLESS),),))
        alone = post(name + b": %d\r\n" % len(KEYLESS), KEYLESS)
        yield Entry(f"{name.decode()} alone", alone, never, ((posted(), NO_KEY),))
    for case, value in (
        ("a space before", b"   5"),
        ("no space", b"5"),
        ("tabs around", b"\t5\t"),
        ("spaces behind", b"5  "),
    ):
        yield Entry(
            f"CL with {case}", post(b"Content-Length:" + value + b"\r\n", b"hello"), never, ((posted(b"hello"),),)
        )
    zeros = ((posted(b"hello"),), *BAD)
    yield Entry("CL with leading zeros", post(b"Content-Length: 0005\r\n", b"hello"), never, zeros)
    refused = (*BAD, ("413 body-too-large",))
    for size in (
        2**63,
        2**64,
        2**64 + 5,
        2**65 - 1,
        10**29,
    ):  # the backend is sent this number: where it wraps, it is 5
        yield Entry(f"CL {size}", post(b"Content-Length: %d\r\n" % size, b"hello" + KEYLESS), never, refused)
    wraps32 = post(b"Content-Length: %d\r\n" % (2**32 + 5), b"hello" + KEYLESS)
    yield Entry("CL 2**32 + 5", wraps32, never, (*refused, ()), half=True, cut=True)
    yield Entry("CL beyond the body", post(b"Content-Length: 50\r\n", b"hello"), never, (*BAD, ()), half=True, cut=True)
    yield Entry(
        "CL short of the body", post(b"Content-Length: 5\r\n", b"hello" + KEYLESS), never, ((posted(b"hello"), NO_KEY),)
    )
    for digits in (20, 4000, 5000):  # Python reads no number of more than 4300
        raw = post(b"Content-Length: " + b"1" * digits + b"\r\n", b"hello" + KEYLESS)
        yield Entry(f"CL of {digits} digits", raw, never, refused)


def bodies() -> Iterator[Entry]:
    """Bodies where one parser expects none (CL.0, 0.CL), and none where it expects one."""
    never = "a body is served as a request, or a request is swallowed as a body"
    for method in ("GET", "HEAD", "OPTIONS", "DELETE", "PUT", "PATCH", "POST"):
        line = method.encode() + b" /p HTTP/1.1"
        one = One(method, b"/p", KEYLESS)
        yield Entry(f"{method} with CL", post(length(KEYLESS), KEYLESS, line=line), never, ((one,),))
        yield Entry(f"{method} with chunks", post(TE, chunked(KEYLESS), line=line), never, ((one,),))
        behind = post(b"Content-Length: 0\r\n", KEYLESS, line=line)
        yield Entry(f"{method} with CL 0, a request behind", behind, never, ((One(method, b"/p"), NO_KEY),))
    yield Entry("POST without CL, a request behind", post(b"", KEYLESS), never, ((posted(), NO_KEY),))
    yield Entry("POST without CL, garbage behind", post(b"", b"a=b&c=d\r\n\r\n"), never, ((posted(), *BAD[0]),))
    http10 = post(length(KEYLESS), KEYLESS, line=b"POST /p HTTP/1.0")
    yield Entry("HTTP/1.0 with CL", http10, never, ((posted(KEYLESS),),), closes=True)
    old = post(b"", KEYLESS, line=b"POST /p HTTP/1.0")
    yield Entry("HTTP/1.0 without CL, a request behind", old, never, ((posted(),),), closes=True)
    kept = post(b"Connection: keep-alive\r\n", KEYLESS, line=b"POST /p HTTP/1.0")
    yield Entry("HTTP/1.0 kept alive, a request behind", kept, never, ((posted(),), (posted(), NO_KEY)), closes=True)
    big = KEYLESS * 2000
    yield Entry("a large body of requests", post(length(big), big), never, ((posted(big),),))
    yield Entry("large chunks of requests", post(TE, chunked(big, KEYLESS)), never, ((posted(big + KEYLESS),),))
    crlf = post(length(b"\r\n\r\n"), b"\r\n\r\n")
    yield Entry("a body of empty lines", crlf, never, ((posted(b"\r\n\r\n"),),))
    yield Entry("an empty line behind a body", post(length(b"x"), b"x\r\n") + get(), never, ((posted(b"x"), G),))


def chunks() -> Iterator[Entry]:
    """Chunk sizes, ends, extensions and trailers (RFC 9112 §7.1)."""
    never = "bytes behind the judged body are served as a request, or a trailer becomes a header"
    for body in (
        b"-1\r\nx\r\n", b"-5\r\nhello\r\n", b"+5\r\nhello\r\n", b"0x5\r\nhello\r\n", b"0X5\r\nhello\r\n",
        b"x5\r\nhello\r\n", b"5h\r\nhello\r\n",
        b"g\r\nhello\r\n", b"5.\r\nhello\r\n", b"5,5\r\nhello\r\n", b"5 5\r\nhello\r\n", b"5_0\r\nhello\r\n",
        b" 5\r\nhello\r\n", b"\t5\r\nhello\r\n",
        b"\r\n5\r\nhello\r\n", b"\x0b5\r\nhello\r\n", b"5\x00\r\nhello\r\n", b"5\x0b\r\nhello\r\n",
        b"\xd9\xa5\r\nhello\r\n", b";a\r\nhello\r\n",
        b"11111111111111111111111111111\r\nx\r\n", b"5\nhello\r\n", b"5\nhello\n",
        b"5\rhello\r\n", b"5\r\rhello\r\n", b"5\n\r\nhello\r\n", b"5\r\nhello", b"5\r\nhelloX\r\n", b"5\r\nhelloXX",
        b"5\r\nhello\n", b"5\r\nhello\r",
        b"5\r\nhello\n\n", b"5\r\nhello\rX", b"5\r\nhello\nX", b"5\r\nhell\r\n", b'5;a="\n"\r\nhello\r\n',
        b"5;a\nhello\r\n", b"5;a\rb\r\nhello\r\n",
        b"5;\x00\r\nhello\r\n", b"5;a=\x01\r\nhello\r\n", b'"5"\r\nhello\r\n', b"five\r\nhello\r\n",
    ):  # fmt: skip
        yield Entry(f"chunk {body!r}", post(TE, body + LAST + SMUGGLED), never, BAD, cut=True)
    for case, body in (
        ("an extension", b"5;a=b\r\nhello\r\n" + LAST), ("a quoted extension", b'5;a="b;c"\r\nhello\r\n' + LAST),
        ("a bare extension", b"5;a\r\nhello\r\n" + LAST), ("an extension on the last", b"5\r\nhello\r\n0;a=b\r\n\r\n"),
        ("zeros before a size", b"0000000005\r\nhello\r\n" + LAST),
        ("many zeros at the end", b"5\r\nhello\r\n0000\r\n\r\n"),
        ("one byte each", chunked(b"h", b"e", b"l", b"l", b"o")),
        ("sixteen digits", b"0000000000000005\r\nhello\r\n" + LAST),
    ):  # fmt: skip
        yield Entry(f"chunks with {case}", post(TE, body), never, ((posted(b"hello"),),))
    lenient = ((posted(b"hello"),), *BAD)
    for case, body in (
        ("a space behind a size", b"5 \r\nhello\r\n" + LAST), ("a tab behind a size", b"5\t\r\nhello\r\n" + LAST),
        ("a space before an extension", b"5 ;a=b\r\nhello\r\n" + LAST),
        ("an empty extension", b"5;\r\nhello\r\n" + LAST),
        ("an extension that is no token", b"5;(\r\nhello\r\n" + LAST),
    ):  # fmt: skip
        yield Entry(f"chunks with {case}", post(TE, body), never, lenient, cut=True)
    yield Entry("a size in upper case", post(TE, b"A\r\nhellohello\r\n" + LAST), never, ((posted(b"hellohello"),),))
    for case, trailer in (
        ("X-Smuggled", b"X-Smuggled: 1\r\n"), ("identity", b"X-User-Id: evil\r\nAuthorization: Bearer evil\r\n"),
        ("framing", b"Content-Length: 50\r\nTransfer-Encoding: chunked\r\n"), ("Host", b"Host: evil\r\n"),
        ("a key", A + b"X-Api-Key: x\r\n"),
        ("Connection", b"Connection: close, authorization\r\n"),
    ):  # fmt: skip
        body = b"5\r\nhello\r\n0\r\n" + trailer + b"\r\n"
        yield Entry(f"undeclared trailer: {case}", post(TE, body), never, ((posted(b"hello"),),))
        declared = post(TE + b"Trailer: " + trailer.partition(b":")[0] + b"\r\n", body)
        yield Entry(f"declared trailer: {case}", declared, never, BAD)
    for case, trailer in (
        ("no colon", b"smuggled\r\n"), ("a request line", b"GET /smuggled HTTP/1.1\r\n"),
        ("folded", b" X-Smuggled: 1\r\n"),
        ("NUL", b"X: \x00\r\n"), ("a space before the colon", b"X : 1\r\n"), ("bare CR", b"X: \rY: 1\r\n"),
    ):  # fmt: skip
        raw = post(TE, b"5\r\nhello\r\n0\r\n" + trailer + b"\r\n" + KEYLESS)
        dropped = (*BAD, (posted(b"hello"), NO_KEY))
        yield Entry(f"malformed trailer: {case}", raw, never, dropped, cut=True)
    ends = (*BAD, ())
    yield Entry("no last chunk", post(TE, b"5\r\nhello\r\n"), never, ends, half=True, cut=True)
    yield Entry("the last chunk without its end", post(TE, b"5\r\nhello\r\n0\r\n"), never, ends, half=True, cut=True)
    yield Entry(
        "the last chunk with half its end", post(TE, b"5\r\nhello\r\n0\r\n\r"), never, ends, half=True, cut=True
    )
    yield Entry("a chunk that is short", post(TE, b"50\r\nhello\r\n"), never, ends, half=True, cut=True)
    yield Entry("a size that does not end", post(TE, b"5"), never, ends, half=True, cut=True)
    for size in (b"ffffffffffffffff", b"10000000000000005"):  # beyond 63 and 64 bits: 5 where numbers wrap
        raw = post(TE, size + b"\r\nhello\r\n" + LAST + KEYLESS)
        yield Entry(f"a chunk of {size.decode()}", raw, never, ends, half=True, cut=True)
    endless = b"5;" + b"a" * 40_000
    yield Entry("an extension that does not end", post(TE, endless), never, BAD, cut=True)
    yield Entry("trailers that do not end", post(TE, b"0\r\n" + b"X: y\r\n" * 9000), never, BAD, cut=True)
    yield Entry("a request behind the last chunk", post(TE, LAST + KEYLESS), never, ((posted(), NO_KEY),))
    yield Entry(
        "a zero chunk in the middle",
        post(TE, b"5\r\nhello\r\n" + LAST + b"5\r\nworld\r\n" + LAST),
        never,
        ((posted(b"hello"), *BAD[0]),),
    )
    refused = post(TE, chunked(KEYLESS), head=H)
    yield Entry("refused chunks that are a request", refused, never, ((NO_KEY,),))


def expectations() -> Iterator[Entry]:
    """Expect, alone and against the framing."""
    never = "a body that was not asked for is served as a request, or a refused request is told to go on"
    for value in (
        b"x", b"y 100-continue", b"100-continue, x", b"100-continuex", b"100", b"", b"200-ok", b"\r\n 100-continue",
        b"100-continue\x00",
        b"\x0b100-continue", b"100-continue;q=1", b"=100-continue", b"100-continue\r\nExpect: x",
    ):  # fmt: skip
        yield Entry(
            f"Expect {value!r}", post(b"Expect: " + value + b"\r\n" + length(b"hello"), b"hello" + SMUGGLED), never, BAD
        )
    go = b"Expect: 100-continue\r\n"
    yield Entry("Expect with CL", post(go + length(KEYLESS), KEYLESS), never, ((posted(KEYLESS),),))
    yield Entry("Expect with chunks", post(go + TE, chunked(KEYLESS)), never, ((posted(KEYLESS),),))
    yield Entry("Expect without a body", post(go, b""), never, ((posted(),),))
    yield Entry("Expect on GET", get(go), never, SERVED)
    yield Entry("Expect on GET with CL", get(go + length(KEYLESS)) + KEYLESS, never, ((G._replace(body=KEYLESS),),))
    yield Entry(
        "Expect with CL 0, a request behind", post(go + b"Content-Length: 0\r\n", KEYLESS), never, ((posted(), NO_KEY),)
    )
    yield Entry("Expect and both framings", post(go + b"Content-Length: 5\r\n" + TE, LAST + SMUGGLED), never, BAD)
    twice = ((posted(b"hello"),), *BAD)
    yield Entry("Expect twice", post(go * 2 + length(b"hello"), b"hello"), never, twice)
    mixed = post(b"eXPECT: 100-Continue\r\n" + length(b"hello"), b"hello")
    yield Entry("Expect in mixed case", mixed, never, ((posted(b"hello"),),))
    old = post(go + length(b"hello"), b"hello", line=b"POST /p HTTP/1.0")
    yield Entry("Expect on HTTP/1.0", old, never, ((posted(b"hello"),),), closes=True)
    refused = post(go + length(KEYLESS), KEYLESS, head=H)
    yield Entry("Expect, refused, sent all the same", refused + get(), never, ((NO_KEY, G), (NO_KEY,)))
    yield Entry("Expect_ is none", get(b"Expect_: x\r\n"), never, SERVED)


def names() -> Iterator[Entry]:
    """Header names."""
    never = "a name that parsers read differently reaches the backend, or one that only the gate may set"
    for line in (
        b": x\r\n", b" : x\r\n", b"\t: x\r\n", b"X\r\n", b"X Y: x\r\n", b"X\tY: x\r\n", b"X : x\r\n", b"X\t: x\r\n",
        b"X\x00: x\r\n", b"X\x01: x\r\n",
        b"X\x7f: x\r\n", b"X\x0b: x\r\n", b"\x00X: x\r\n", b"\xc3\xa4: x\r\n", b"X\x80: x\r\n", b"\xffX: x\r\n",
        b"\xef\xbb\xbfX: x\r\n", b"(X): x\r\n",
        b"X(c): x\r\n", b"X,Y: x\r\n", b"X;Y: x\r\n", b"X/Y: x\r\n", b"X=Y: x\r\n", b"X@Y: x\r\n", b"[X]: x\r\n",
        b"{X}: x\r\n", b'"X": x\r\n',
        b"<X>: x\r\n", b"X?: x\r\n", b"X\\: x\r\n", b":X: x\r\n", b":path: /smuggled\r\n", b":authority: evil\r\n",
        b"X-User-Id\x00: evil\r\n",
        b"X-User-Id\xa0: evil\r\n", b"\rX-User-Id: evil\r\n", b"\x0cX-User-Id: evil\r\n",
        b"GET /smuggled HTTP/1.1\r\n", b"\r X: x\r\n",
    ):  # fmt: skip
        yield Entry(f"header {line!r}", get(line), never, BAD)
        if line.startswith((b":", b" ")):
            yield Entry(f"header {line!r} first", get(line, head=b"")[:-2] + H + A + b"\r\n", never, BAD)
    for name in (
        b"X-User-Id", b"x-user-id", b"X_User_Id", b"X.User.Id", b"X-User_Id", b"X_User.Id", b"X-USER-EMAIL",
        b"X-Org-Id", b"X_ORG_ID", b"X.Org.Id",
        b"X-Consumer-Username", b"X_Consumer_Id", b"X-Auth-Request-User", b"X.Auth.Request.User",
        b"X-Authenticated-Userid",
        b"X_Authenticated_Scope", b"X-Request-Id", b"X_Request_Id", b"X.Request.Id", b"X-Original-URL",
        b"X_Original_URL", b"X.Original.URL",
        b"X-Rewrite-URL", b"X_Rewrite_Url", b"X-HTTP-Method-Override", b"X_HTTP_Method_Override",
        b"X.Http.Method.Override", b"X-HTTP-Method",
        b"X-Method-Override", b"X_Method_Override", b"X-Forwarded-For", b"X_Forwarded_For", b"X.Forwarded.For",
        b"X-Forwarded-Host",
        b"X_Forwarded_Host", b"X-Forwarded-Proto", b"X_FORWARDED_PROTO", b"X-Forwarded-User", b"X-Forwarded-Port",
        b"X-Forwarded-Prefix",
        b"X-Forwarded-Server", b"X-Forwarded-Client-Cert", b"Forwarded", b"FORWARDED", b"X-Real-IP", b"X_Real_IP",
        b"X.Real.Ip",
        b"Proxy-Authorization", b"Proxy_Authorization", b"Proxy.Authorization",
    ):  # fmt: skip
        yield Entry(f"{name.decode()} is not believed", get(name + b": evil\r\n"), never, SERVED)
    for name in (b"X_Api_Key", b"X.Api.Key", b"Authorization.", b"X-Api_Key"):
        yield Entry(f"{name.decode()} holds no key", get(name + b": " + KEY + b"\r\n", head=H), never, ((NO_KEY,),))
    spoofs = b"".join(
        name + b": evil\r\n"
        for name in (b"X-User-Id", b"X-Org-Id", b"X-User-Permissions", b"X-Forwarded-For")
        for _ in "abc"
    )
    yield Entry("many identities, many times", get(spoofs), never, SERVED)
    yield Entry(
        "identity before everything", b"GET /g HTTP/1.1\r\nX-User-Id: evil\r\n" + H + A + b"\r\n", never, SERVED
    )


def values() -> Iterator[Entry]:
    """Header values, and how many and how large."""
    never = "a value ends early, or late, for the backend"
    for value in (
        b"a\x00b", b"\x00", b"a\rb", b"\ra", b"a\r", b"a\r\r", b"a\nb", b"a\n", b"a\nX-User-Id: evil",
        b"a\rX-User-Id: evil", b"a\r\n X-User-Id: evil",
        b"a\r\n\tX-User-Id: evil", b"\r\n b", b"a\x01", b"a\x08b", b"a\x0bb", b"a\x0cb", b"a\x0eb", b"a\x1bb",
        b"a\x1fb", b"a\x7fb", b"a\n\rb",
        b"a\r\n \r\n b", b"a\x00\r\nX-User-Id: evil", b"a\n\nGET /smuggled HTTP/1.1\nHost: h\n",
    ):  # fmt: skip
        yield Entry(f"value {value!r}", get(b"X: " + value + b"\r\n"), never, BAD)
    for value in (
        b"",
        b"a\tb",
        b"\x80\xff",
        b"\xc3\xa4",
        b"\xe5\x98\x8a\xe5\x98\x8dX-User-Id: evil",
        b"\xa0",
        b'a,b;c="d"',
        b"%0d%0aX-User-Id: evil",
        b"\\r\\nX: y",
    ):
        one = G._replace(has=((b"X", value),))
        yield Entry(f"value {value!r} is kept", get(b"X: " + value + b"\r\n"), never, ((one,),))
    yield Entry("folded first", b"GET /g HTTP/1.1\r\n X: x\r\n" + H + A + b"\r\n", never, BAD)
    yield Entry("folded credential", get(b"Authorization: Bearer\r\n " + KEY + b"\r\n", head=H), never, BAD)
    for case, fields in (
        ("100 headers", b"".join(b"H%d: 1\r\n" % n for n in range(98))), ("60 KiB", b"X: " + b"a" * 60_000 + b"\r\n"),
        ("64 KiB less a little", b"".join(b"H%d: %s\r\n" % (n, b"a" * 1000) for n in range(63))),
    ):  # fmt: skip
        yield Entry(f"a head of {case}", get(fields), never, SERVED)
    for case, raw in (
        ("101 headers", get(b"".join(b"H%d: 1\r\n" % n for n in range(99)))), ("1000 headers", get(b"X: 1\r\n" * 998)),
        ("64 KiB in one", get(b"X: " + b"a" * 65_536 + b"\r\n")),
        ("64 KiB in many", get(b"".join(b"H%d: %s\r\n" % (n, b"a" * 1000) for n in range(66)))),
        ("64 KiB in a name", get(b"X" * 65_536 + b": 1\r\n")),
        ("100 KiB without an end", get(b"X: " + b"a" * 100_000)[:-4]),
        ("64 KiB of credential", get(b"Authorization: Bearer " + b"a" * 65_536 + b"\r\n", head=H)),
    ):  # fmt: skip
        yield Entry(f"a head of {case}", raw, never, LARGE)


def credentials() -> Iterator[Entry]:
    """More than one credential, or something like one."""
    never = "a request passes on a credential that was not judged, or on two"
    multiple: tuple[Outcome, ...] = (("400 multiple-credentials",),)
    bearer, api = A, b"X-Api-Key: " + KEY + b"\r\n"
    for case, fields, expect in (
        ("twice", bearer * 2, multiple), ("twice in X-Api-Key", api * 2, multiple),
        ("two keys", bearer + b"X-Api-Key: " + KEY2 + b"\r\n", multiple),
        ("two Authorization", bearer + b"Authorization: Basic eDp5\r\n", multiple),
        ("two spellings", bearer + b"a" + bearer[1:], multiple),
        ("one key in two places", bearer + api, SERVED), ("in X-Api-Key", api, SERVED),
        ("bearer in lower case", b"authorization: bearer " + KEY + b"\r\n", SERVED),
        ("Basic", b"Authorization: Basic " + KEY + b"\r\n", ((NO_KEY,),)),
        ("no scheme", b"Authorization: " + KEY + b"\r\n", ((NO_KEY,),)),
        ("a list", bearer[:-2] + b", Bearer " + KEY + b"\r\n", ((WRONG,),)),
        ("cut by a comma", bearer[:-2] + b",\r\n", ((WRONG,),)),
        ("a letter before", b"Authorization: Bearer X" + KEY + b"\r\n", ((WRONG,),)),
        ("empty", b"Authorization: Bearer \r\n", ((WRONG,), (NO_KEY,))),
        ("an unsigned token", b"Authorization: Bearer eyJhbGciOiJub25lIn0.eyJzdWIiOiJ4In0.\r\n", ((WRONG,),)),
        ("in a cookie", b"Cookie: key=" + KEY + b"\r\n", ((NO_KEY,),)),
        ("in Proxy-Authorization", b"Proxy-" + bearer, ((NO_KEY,),)),
    ):  # fmt: skip
        yield Entry(f"credential: {case}", get(fields, head=H), never, expect)
    yield Entry(
        "credential: in the query",
        get(target=b"/g?api_key=" + KEY + b"&access_token=" + KEY, head=H),
        never,
        ((NO_KEY,),),
    )


def hops() -> Iterator[Entry]:
    """Headers for the next hop alone, and Upgrade."""
    never = "the backend loses a header that the gate set or that frames the body, or another protocol begins"
    for options in (
        b"Authorization", b"Authorization, X-Request-Id", b"x-request-id", b"host",
        b"x-forwarded-for, x-forwarded-proto", b"keep-alive, te",
        b"transfer-encoding", b"content-length", b"connection", b"upgrade", b"keep-alive, authorization",
        b",,authorization,,", b"a" * 4000, b"",
        b"authorization;", b'"authorization"', b"\tauthorization, x\t", b"X_Request_Id",
    ):  # fmt: skip
        field = b"Connection: " + options + b"\r\n"
        shown = options[:40].decode().strip()
        yield Entry(f"Connection: {shown!r}", post(field + length(b"hello"), b"hello"), never, ((posted(b"hello"),),))
    every = b"close, x-request-id, host, content-length, transfer-encoding, authorization"
    for case, fields, body in (("CL", length(KEYLESS), KEYLESS), ("chunks", TE, chunked(KEYLESS))):
        raw = post(b"Connection: " + every + b"\r\n" + fields, body)
        yield Entry(f"Connection names everything, {case}", raw, never, ((posted(KEYLESS),),), closes=True)
    yield Entry("Connection twice", get(b"Connection: x\r\nConnection: authorization\r\n"), never, SERVED)
    yield Entry("what Connection names is dropped", get(b"Connection: X-Smuggled\r\nX-Smuggled: 1\r\n"), never, SERVED)
    for line in (
        b"TE: trailers", b"TE: chunked", b"TE: gzip;q=1, trailers", b"Keep-Alive: timeout=9999",
        b"Proxy-Connection: keep-alive", b"Proxy-Connection: close",
        b"Proxy-Authorization: Basic eDp5", b"Proxy-Authenticate: x", b"Proxy-Foo: x",
        b"Connection: TE\r\nTE: trailers", b"Keep_Alive: x", b"Upgrade-Insecure-Requests: 1",
        b"Max-Forwards: 0", b"Via: 1.1 evil",
    ):  # fmt: skip
        yield Entry(line.decode(), get(line + b"\r\n"), never, SERVED)
    settings = b"HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n"
    for offer in (
        b"h2c",
        b"H2C",
        b"h2",
        b"h2c, websocket",
        b"websocket, h2c",
        b"foo/2, h2c",
        b"HTTP/2.0",
        b"TLS/1.0",
        b"websocket/13",
        b"WebSocket2",
        b"",
        b"h2c\r\nUpgrade: h2c",
    ):
        fields = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: " + offer + b"\r\n" + settings
        yield Entry(f"Upgrade: {offer!r}", get(fields), never, SERVED)
    yield Entry("h2c that Connection does not name", get(b"Upgrade: h2c\r\n" + settings), never, SERVED)
    yield Entry("h2c, named alone", get(b"Connection: HTTP2-Settings\r\nUpgrade: h2c\r\n" + settings), never, SERVED)
    upgrade = b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
    rest = (b"Sec-WebSocket-Version: 13\r\n", b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n")
    for case, fields in (
        ("no key and version", upgrade), ("no version", upgrade + rest[1]), ("no key", upgrade + rest[0]),
        ("version 12", upgrade + rest[0].replace(b"13", b"12") + rest[1]),
        ("a short key", upgrade + rest[0] + b"Sec-WebSocket-Key: AAAA\r\n"),
        ("no Connection", b"Upgrade: websocket\r\n" + b"".join(rest)),
        ("Connection: close", b"Connection: keep-alive\r\nUpgrade: websocket\r\n" + b"".join(rest)),
        ("no Upgrade", b"Connection: Upgrade\r\n" + b"".join(rest)),
        ("two upgrades", upgrade + b"Upgrade: h2c\r\n" + b"".join(rest)),
    ):  # fmt: skip
        yield Entry(f"half a handshake: {case}", get(fields), never, SERVED)
    whole = upgrade + b"".join(rest)
    yield Entry("a handshake by POST", post(whole), never, ((posted(),),))
    yield Entry("a handshake by POST with a body", post(whole + length(KEYLESS), KEYLESS), never, ((posted(KEYLESS),),))
    yield Entry("a handshake without a credential", get(whole, head=H), never, ((NO_KEY,),))
    yield Entry("a handshake that is answered 200", get(whole), never, SERVED)
    yield Entry("a handshake on HTTP/1.0", get(whole, version=b"HTTP/1.0"), never, (*SERVED, *BAD), closes=True)
    yield Entry(
        "an upgrade with POST to h2c",
        post(b"Connection: Upgrade\r\nUpgrade: h2c\r\n" + length(b"hello"), b"hello"),
        never,
        ((posted(b"hello"),),),
    )


def targets() -> Iterator[Entry]:
    """Request targets that are no path, or a path with more than one reading."""
    never = "the backend sees a target other than the judged one"
    for target in (
        b"http://h/x", b"HTTP://h/x", b"http://evil/x", b"https://h/x", b"http://h", b"http://h?x", b"http://u@h/x",
        b"http://u:p@h/x", b"http://h:80/x",
        b"http://h@evil/x", b"http://@HOST@/smuggled", b"http:///x", b"http:/x", b"http:x", b"ftp://h/x",
        b"file:///etc/passwd", b"ws://h/x", b"h:80",
        b"evil:443", b"@HOST@", b"*", b"x", b"?x", b"#x", b"x/../y", b"\\x", b"@evil/x", b":80/x", b"//evil/x",
        b"///x", b"/\\evil", b".", b"..", b"%2f", b"%2fx",
    ):  # fmt: skip
        yield Entry(f"target {target.decode()}", get(target=target), never, TARGET)
    for target in (
        b"/x#y", b"/#", b"/x?y#z", b"/a//b", b"/a//", b"//", b"/a/./b", b"/a/../b", b"/../x", b"/..", b"/.", b"/a/..",
        b"/a/.", b"/a/%2e%2e/b", b"/a/%2E./b", b"/a/.%2e/b",
        b"/%2e", b"/%2e%2e%2fx", b"/a%2fb", b"/a%2Fb", b"/a%5cb", b"/a\\b", b"/a\\..\\b", b"/a;b", b"/a;b=c/d",
        b"/a;/../b", b"/..;/x", b"/a/..;/b", b"/a%3bb", b"/a%00b", b"/a%00",
        b"/a%0ab", b"/a%0d%0aX-Smuggled:%201", b"/a%09b", b"/a%7fb", b"/a%252fb", b"/a%252e%252e/b", b"/a%25%32%66b",
        b"/a%c0%afb", b"/a%c0%ae%c0%ae/b", b"/a%e0%80%afb", b"/a%ff",
        b"/a%zz", b"/a%", b"/a%2", b"/a%u002fb", b"/a%c2%85", b"/%5c%5cevil",
    ):  # fmt: skip
        yield Entry(f"target {target.decode()}", get(target=target), never, PATH)
    for target in (
        b"/a b", b"/a\tb", b"/a\x00b", b"/a\x01b", b"/a\x7fb", b"/a\x0bb", b"/a\x0cb", b"/\xc3\xa4", b"/\xff",
        b"/a\xa0b", b"/a\xe2\x80\xa8b", b"/a?b c", b"/a?\x00", b"/a?\xff",
        b"/a\rb", b"/a\nb", b"/a\r\nX-Smuggled: 1", b"/a HTTP/1.1\nHost: evil\n\nGET /smuggled", b"", b" ", b"\x00/x",
        b"/x\x00",
    ):  # fmt: skip
        yield Entry(f"target {target!r}", get(target=target), never, TARGET)
    for target in (
        b"/",
        b"/g?x=http://evil/",
        b"/g?a=../../b;c%2f%00",
        b"/g?",
        b"/g??",
        b"/g/http:/x",
        b"/a%20b",
        b"/%E2%82%AC",
        b"/a%41",
        b"/g?x=%0d%0aX-Evil:%201",
        b"/a:80@h/x",
    ):
        yield Entry(f"target {target.decode()} is kept", get(target=target), never, ((One("GET", target),),))
    for size in (8191, 8192):
        long = b"/" + b"a" * (size - 1)
        yield Entry(f"a target of {size} bytes", get(target=long), never, ((One("GET", long),),))
    for case, target in (
        ("8193 bytes", b"/" + b"a" * 8192),
        ("8193 bytes with its query", b"/?" + b"a" * 8191),
        ("40 KiB", b"/" + b"a" * 40_960),
    ):
        yield Entry(f"a target of {case}", get(target=target), never, LARGE)
    yield Entry("a target of 70 KiB", get(target=b"/" + b"a" * 70_000), never, LARGE)
    yield Entry("OPTIONS *", b"OPTIONS" + get(target=b"*")[3:], never, TARGET)


def methods() -> Iterator[Entry]:
    """Methods, and request lines of other shapes."""
    never = "the backend sees a method other than the judged one, or a tunnel opens"
    for method in (
        b"TRACE", b"TRACK", b"get", b"Get", b"gET", b"post", b"GETS", b"PROPFIND", b"MKCOL", b"PURGE", b"DEBUG",
        b"LINK", b"SEARCH", b"M-SEARCH", b"PRI", b"_GET", b"GET_",
        b"G.ET", b"GET!", b"BREW", b"X" * 300, b"X" * 9000, b"0", b"HEAD1", b"CONNECTX", b"*",
    ):  # fmt: skip
        yield Entry(
            f"method {method[:20].decode()}{len(method) if len(method) > 20 else ''}", method + get()[3:], never, METHOD
        )
    for method in (
        b"",
        b"G ET",
        b"GET\t",
        b"\tGET",
        b" GET",
        b"G\x00ET",
        b"GET\x00",
        b"G\x0bET",
        b"GET\x7f",
        b"G\xc3\x8bT",
        b"GET,POST",
        b"GET/",
        b"GET:",
        b"(GET)",
        b"G@T",
        b"\xff",
        b"\x16GET",
        b"GET\r",
        b"GET\n",
        b"\x00",
    ):
        expect = CLOSED if method.startswith(b"\x16") else BAD
        yield Entry(f"method {method!r}", method + get()[3:], never, expect)
    for authority in (b"evil:443", b"@HOST@", b"127.0.0.1:22", b"h", b"/x", b"http://h/x", b"[::1]:80", b"h:0"):
        raw = b"CONNECT " + authority + b" HTTP/1.1\r\n" + H + A + b"\r\n" + SMUGGLED
        yield Entry(f"CONNECT {authority.decode()}", raw, never, (*METHOD, *BAD))
    for line in (
        b"GET", b"GET /g", b"GET  /g HTTP/1.1", b"GET /g  HTTP/1.1", b"GET\t/g HTTP/1.1", b"GET /g\tHTTP/1.1",
        b"GET/g HTTP/1.1", b"GET /gHTTP/1.1", b"/g HTTP/1.1", b"HTTP/1.1",
        b"GET /g HTTP/1.1 ", b"GET /g HTTP/1.1\t", b"GET /g HTTP/1.1 x", b"GET /g HTTP/1.1\x00",
        b"GET /g HTTP/1.1\x0b", b"GET /g HTTP/1.1\r", b"GET /g HTTP/1.1, x", b"GET /g HTTP/1.1;",
        b"GET\x0b/g\x0bHTTP/1.1",
        b"GET /g HTTP /1.1", b"GET /g HTTP/ 1.1", b"GET /g HTTP/1 .1", b"GET /g HTTP/1.1 HTTP/1.1",
        b"GET /a /smuggled HTTP/1.1", b"\x0bGET /g HTTP/1.1", b"\xef\xbb\xbfGET /g HTTP/1.1",
    ):  # fmt: skip
        yield Entry(f"line {line!r}", line + b"\r\n" + H + A + b"\r\n", never, BAD)
    for version in (
        b"HTTP/0.9", b"HTTP/1.2", b"HTTP/1.9", b"HTTP/2", b"HTTP/2.0", b"HTTP/3.0", b"HTTP/9.9", b"HTTP/0.0",
        b"HTTP/01.1", b"HTTP/1.01", b"HTTP/1.10", b"HTTP/11", b"HTTP/1,1", b"HTTP/1.", b"HTTP/.1",
        b"HTTP/1", b"HTTP/", b"HTTP", b"HTTP/-1.1", b"HTTP/+1.1", b"HTTP/1.x", b"http/1.1", b"Http/1.1", b"HTTPS/1.1",
        b"HTTP\\1.1", b"HTTP//1.1", b"SHTTP/1.3", b"ICAP/1.0", b"RTSP/1.0", b"HTTP/\xd9\xa1.1",
        b"HTTP/1.1\xa0", b"HTTP/1\x001", b"QTTP/1.1", b"XHTTP/1.1",
    ):  # fmt: skip
        yield Entry(f"version {version!r}", get(version=version), never, BAD)
    yield Entry("HTTP/0.9 as it was", b"GET /g\r\n", never, (*BAD, ()), half=True)
    yield Entry("HTTP/0.9, one empty line behind", b"GET /g\r\n\r\n", never, BAD)
    yield Entry("HTTP/1.0", get(version=b"HTTP/1.0"), never, SERVED, closes=True)


def hosts() -> Iterator[Entry]:
    """Host."""
    never = "the backend sees another Host than its own, or two, or the caller's is believed"
    for case, head in (
        ("missing", b""), ("twice, different", H + b"Host: evil\r\n"), ("twice, the same", H + H),
        ("twice, in two cases", H + b"hOST: h\r\n"), ("empty", b"Host:\r\n"), ("blank", b"Host:  \r\n"),
        ("twice, the second empty", H + b"Host:\r\n"), ("a path", b"Host: h/x\r\n"), ("a URL", b"Host: http://h\r\n"),
        ("a user", b"Host: u@h\r\n"), ("a user and a port", b"Host: h:80@evil\r\n"),
        ("a space", b"Host: h evil\r\n"), ("a tab", b"Host: h\tevil\r\n"), ("a list", b"Host: h, evil\r\n"),
        ("a comma", b"Host: h,evil\r\n"), ("a semicolon", b"Host: h;evil\r\n"), ("a query", b"Host: h?x\r\n"),
        ("a fragment", b"Host: h#x\r\n"), ("a backslash", b"Host: h\\x\r\n"), ("a quote", b'Host: "h"\r\n'),
        ("brackets that do not close", b"Host: [::1\r\n"), ("brackets that do not open", b"Host: ::1]\r\n"),
        ("no brackets", b"Host: ::1\r\n"), ("a name in brackets", b"Host: [h]\r\n"),
        ("a zone", b"Host: [fe80::1%eth0]\r\n"), ("something behind brackets", b"Host: [::1]evil\r\n"),
        ("an empty pair", b"Host: []\r\n"),
        ("a port that is no number", b"Host: h:x\r\n"), ("a negative port", b"Host: h:-1\r\n"),
        ("a port with a sign", b"Host: h:+80\r\n"), ("two ports", b"Host: h:80:81\r\n"),
        ("a port of six digits", b"Host: h:123456\r\n"), ("only a port", b"Host: :80\r\n"),
        ("a percent", b"Host: h%2fx\r\n"), ("an encoded NUL", b"Host: h%00\r\n"), ("NUL", b"Host: h\x00\r\n"),
        ("a control character", b"Host: h\x01\r\n"), ("DEL", b"Host: h\x7f\r\n"),
        ("a bare CR", b"Host: h\rX: evil\r\n"),
        ("a bare LF", b"Host: h\nHost: evil\r\n"), ("folded", b"Host:\r\n h\r\n"),
        ("folded behind", b"Host: h\r\n evil\r\n"), ("bytes outside ASCII", b"Host: h\xc3\xa4\r\n"),
        ("a byte that is no UTF-8", b"Host: h\xff\r\n"),
        ("a space before the colon", b"Host : h\r\n"), ("a space before the name", b" Host: h\r\n"),
        ("two, one with a space before", H + b" Host: evil\r\n"),
        ("two, one with a space behind", H + b"Host : evil\r\n"), ("300 characters", b"Host: " + b"h" * 300 + b"\r\n"),
        ("markup", b"Host: <h>\r\n"), ("a template", b"Host: ${h}\r\n"), ("an exclamation", b"Host: h!\r\n"),
        ("only a dash of another name", b"Host_: h\r\n"),
    ):  # fmt: skip
        yield Entry(f"Host: {case}", get(head=head + A), never, BAD)
    for case, target, host in (
        ("agrees", b"http://h/x", b"h"),
        ("contradicts", b"http://evil/x", b"h"),
        ("names the upstream", b"http://@HOST@/x", b"h"),
    ):
        yield Entry(
            f"Host: an absolute target {case}", get(target=target, head=b"Host: " + host + b"\r\n" + A), never, BAD
        )
    yield Entry("Host: none, an absolute target", get(target=b"http://h/x", head=A), never, BAD)
    yield Entry("Host: none on HTTP/1.0", get(version=b"HTTP/1.0", head=A), never, BAD)
    for host in (
        b"evil",
        b"EVIL.example",
        b"h:80",
        b"127.0.0.1:1",
        b"[::1]:80",
        b"[2001:db8::1]",
        b"a_b",
        b"h.",
        b"@HOST@",
        b"localhost:22",
    ):
        yield Entry(f"Host: {host.decode()} goes no further", get(head=b"Host: " + host + b"\r\n" + A), never, SERVED)
    for case, host in (("a port beyond the last", b"h:99999"), ("an empty port", b"h:"), ("dots", b"..")):
        yield Entry(f"Host: {case}", get(head=b"Host: " + host + b"\r\n" + A), never, (*SERVED, *BAD))
    yield Entry("Host_ beside Host", get(b"Host_: evil\r\nX-Host: evil\r\n"), never, SERVED)


def starts() -> Iterator[Entry]:
    """What comes before the request line, and how lines end."""
    never = "bytes before the request line, or other ends of lines, make another request of it"
    yield Entry("one empty line before", b"\r\n" + get(), never, SERVED)
    either = (*SERVED, *BAD)
    for count in (2, 5, 100):
        yield Entry(f"{count} empty lines before", b"\r\n" * count + get(), never, either)
    for before in (
        b" ",
        b"\t",
        b"\x00",
        b"\n",
        b"\r",
        b"\n\n",
        b"\r\r\n",
        b"\x0b",
        b" \r\n",
        b"x\r\n",
        b"\xff",
        b"0\r\n\r\n",
        b"\x00\r\n",
    ):
        lone = before in {b"\n", b"\n\n"}
        yield Entry(f"{before!r} before", before + get(), never, either if lone else BAD)
    yield Entry("a head in LF", get().replace(b"\r\n", b"\n"), never, BAD)
    yield Entry("a head in CR", get().replace(b"\r\n", b"\r") + b"\r\n\r\n", never, BAD)
    yield Entry("a head in CRCRLF", get().replace(b"\r\n", b"\r\r\n") + b"\r\n\r\n", never, BAD)
    yield Entry("a head in LFCR", get().replace(b"\r\n", b"\n\r") + b"\r\n\r\n", never, BAD)
    yield Entry("a request line in LF", get().replace(b"\r\n", b"\n", 1), never, BAD)
    yield Entry("the last line in LF", get()[:-2] + b"\n", never, BAD)
    yield Entry("the empty line in LF, a request behind", get()[:-2] + b"\n" + SMUGGLED, never, BAD)
    yield Entry("CRCR for the empty line", get()[:-2] + b"\r\r\n\r\n", never, BAD)
    yield Entry("a space in the empty line", get()[:-2] + b" \r\n\r\n", never, BAD)
    yield Entry("half a head", get()[:-2], never, (*BAD, ()), half=True)
    yield Entry("half a request line", b"GET /g", never, (*BAD, ()), half=True)
    yield Entry("half a head with a key", get()[:-10], never, (*BAD, ()), half=True)


def pipelines() -> Iterator[Entry]:
    """Several requests on one connection."""
    never = "a request is answered for another, or passes on another's credential, or a refused body is served"
    one, two = get(target=b"/one"), get(target=b"/two")
    first, second = One("GET", b"/one"), One("GET", b"/two")
    other = b"Authorization: Bearer " + KEY2 + b"\r\n"
    yield Entry("two", one + two, never, ((first, second),))
    yield Entry("two callers", one + get(target=b"/two", head=H + other), never, ((first, second._replace(key=2)),))
    yield Entry("the second without a key", one + get(target=b"/two", head=H), never, ((first, NO_KEY),))
    yield Entry("the first without a key", get(target=b"/one", head=H) + two, never, ((NO_KEY, second),))
    yield Entry(
        "the second with a wrong key", one + get(target=b"/two", head=H + b"X-Api-Key: x\r\n"), never, ((first, WRONG),)
    )
    yield Entry("twenty", one * 20, never, ((first,) * 20,))
    yield Entry(
        "callers in turn",
        (one + get(target=b"/two", head=H + other)) * 5,
        never,
        ((first, second._replace(key=2)) * 5,),
    )
    yield Entry("garbage behind", one + b"\x00garbage\r\n\r\n" + two, never, ((first, *BAD[0]),))
    yield Entry("garbage before", b"garbage\r\n\r\n" + one, never, BAD)
    yield Entry("half a request behind", one + b"GET /two HTTP/1.1\r\nHo", never, ((first,), (first, *BAD[0])))
    yield Entry("HEAD, then GET", b"HEAD" + one[3:] + two, never, ((One("HEAD", b"/one"), second),))
    yield Entry("a refused HEAD, then GET", b"HEAD /one HTTP/1.1\r\n" + H + b"\r\n" + two, never, ((NO_KEY, second),))
    for case, body in (
        ("a keyed request", SMUGGLED),
        ("an empty line and a keyed request", b"\r\n" + SMUGGLED),
        ("ten keyed requests", SMUGGLED * 10),
    ):
        refused = post(length(body), body, head=H)
        yield Entry(f"a refused body that is {case}", refused + two, never, ((NO_KEY, second), (NO_KEY,)))
        coded = post(TE, chunked(body), head=H)
        yield Entry(f"refused chunks that are {case}", coded + two, never, ((NO_KEY, second), (NO_KEY,)))
    large = post(b"Content-Length: %d\r\n" % (len(SMUGGLED) * 1000), SMUGGLED * 1000, head=H)
    yield Entry("a large refused body of keyed requests", large + two, never, ((NO_KEY, second), (NO_KEY,)))
    bad = post(length(SMUGGLED), SMUGGLED, head=b"Host: h\r\nHost: h\r\n" + A)
    yield Entry("a malformed request's body of keyed requests", bad + two, never, BAD)
    traced = post(length(SMUGGLED), SMUGGLED, line=b"TRACE /p HTTP/1.1")
    yield Entry("a method's refused body", traced + two, never, (("405 method-not-allowed", second), *METHOD))
    ambiguous = post(length(SMUGGLED), SMUGGLED, line=b"POST /a/../b HTTP/1.1")
    yield Entry("a path's refused body", ambiguous + two, never, (("400 ambiguous-path", second), *PATH))
    own = post(length(SMUGGLED), SMUGGLED, line=b"GET /.well-known/keyswap/health HTTP/1.1")
    yield Entry("a body to the gateway itself", own + two, never, (("200", second), ("200",)))
    served = get(length(KEYLESS), b"/one") + KEYLESS + two
    yield Entry("a body on GET, then GET", served, never, ((first._replace(body=KEYLESS), second),))
    yield Entry(
        "behind Connection: close", get(b"Connection: close\r\n", b"/one") + two, never, ((first,),), closes=True
    )
    yield Entry("behind HTTP/1.0", get(target=b"/one", version=b"HTTP/1.0") + two, never, ((first,),), closes=True)
    yield Entry(
        "behind an upgrade to h2c",
        get(b"Connection: Upgrade\r\nUpgrade: h2c\r\n", b"/one") + two,
        never,
        ((first, second),),
    )
    yield Entry("an HTTP/2 preface behind", one + b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", never, ((first, *BAD[0]),))


def protocols() -> Iterator[Entry]:
    """What is no HTTP/1 at all."""
    never = "bytes that are no request reach the backend, or another protocol is spoken"
    hello = bytes.fromhex("160301002f0100002b0303") + bytes(32) + bytes.fromhex("0000021301010000000000")
    odd: tuple[Outcome, ...] = (*BAD, ())
    for case, raw in (
        ("TLS ClientHello", hello), ("TLS 1.0 record", b"\x16\x03\x00\x00\x01\x01"),
        ("TLS alert", b"\x15\x03\x01\x00\x02\x02\x00"),
        ("SSL 2", b"\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10\x01\x00\x80"),
        ("SOCKS 4", b"\x04\x01\x00\x50\x7f\x00\x00\x01\x00"), ("SOCKS 5", b"\x05\x01\x00"),
        ("SOCKS 5 with a request", b"\x05\x01\x00\x05\x01\x00\x01\x7f\x00\x00\x01\x00\x50"), ("one byte", b"G"),
        ("NULs", bytes(64)),
        ("random binary", bytes(range(255, 127, -1)) * 8), ("SSH", b"SSH-2.0-OpenSSH_9.6\r\n"),
        ("SMTP", b"EHLO evil\r\n"), ("MQTT", b"\x10\x10\x00\x04MQTT\x04\x02\x00\x3c\x00\x04evil"), ("empty", b""),
        ("half a preface", b"PRI * HTTP/2.0\r\n"), ("one empty line", b"\r\n"),
    ):  # fmt: skip
        yield Entry(f"{case} on the plain port", raw, never, odd, half=True)
    for case, raw in (
        ("PROXY v1", b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n" + get()),
        ("PROXY v1 unknown", b"PROXY UNKNOWN\r\n" + get()), ("random lines", bytes(range(128, 256)) + b"\r\n\r\n"),
        ("an answer", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n" + get()),
        ("Redis", b"*1\r\n$4\r\nPING\r\n\r\n"),
        ("FastCGI", b"\x01\x01\x00\x01\x00\x08\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\r\n\r\n"),
        ("JSON", b'{"method": "GET"}\r\n\r\n'), ("a TLS record inside", get(b"X: \x16\x03\x01\r\n")),
        ("HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes.fromhex("000000040000000000")),
        ("HTTP/2 preface, then GET", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + get()),
        ("PROXY v2", b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\x01\x02\x03\x04\x05\x06\x07\x08\x00\x01\x00\x02" + get()),
    ):  # fmt: skip
        yield Entry(f"{case} on the plain port", raw, never, (*BAD, ()) if case == "PROXY v2" else BAD)


CORPUS = [
    entry
    for family in (
        both_framings, codings, lengths, bodies, chunks, expectations, names, values, credentials, hops, targets,
        methods, hosts, starts, pipelines, protocols,
    )
    for entry in family()
]  # fmt: skip


# ---- The other side


class Reply(NamedTuple):
    """An answer of a backend that has gone wrong, or was taken over, to an admitted GET or HEAD."""

    name: str
    said: bytes
    never: str
    expect: tuple[str, ...]
    """What the caller may get: `200` with the body `body`, another status, `502 upstream-unavailable`, `cut`: an answer
    that ends before its length."""
    ends: bool = False
    """The backend closes its side behind it."""
    ask: bytes = get()
    body: bytes = b"ok"


GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
DOWN = ("502 upstream-unavailable",)
HANDSHAKE = get(
    b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
)


def said(fields: bytes, body: bytes = b"ok", line: bytes = b"HTTP/1.1 200 OK") -> bytes:
    """A backend's answer."""
    return line + b"\r\n" + fields + b"\r\n" + body


def replies() -> Iterator[Reply]:
    """Answers that no caller may see as they are."""
    tunnel = "a raw tunnel opens between caller and backend"
    switch = b"HTTP/1.1 101 Switching Protocols\r\n"
    upgrade = switch + b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
    yield Reply("101 to nobody", upgrade + b"\r\nraw", tunnel, DOWN)
    yield Reply("101 of h2c", switch + b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n", tunnel, DOWN)
    yield Reply("101 without fields", switch + b"\r\n", tunnel, DOWN)
    for case, field in (
        ("no accept", b""), ("a wrong accept", b"Sec-WebSocket-Accept: AAAA\r\n"),
        ("another key's accept", b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"),
        ("two accepts", b"Sec-WebSocket-Accept: ICX+Yqv66kxgM0FcWaLWlFLwTAI=\r\n" * 2),
    ):  # fmt: skip
        yield Reply(f"101 with {case}", upgrade + field + b"\r\nraw", tunnel, DOWN, ask=HANDSHAKE)
    accept = b"Sec-WebSocket-Accept: ICX+Yqv66kxgM0FcWaLWlFLwTAI=\r\n"
    yield Reply(
        "101 of another protocol",
        switch + b"Connection: Upgrade\r\nUpgrade: h2c\r\n" + accept + b"\r\n",
        tunnel,
        DOWN,
        ask=HANDSHAKE,
    )
    interim = "an interim answer is taken for the answer, and the answer for the next request's"
    for case, before in (
        ("100", b"HTTP/1.1 100 Continue\r\n\r\n"),
        ("103", b"HTTP/1.1 103 Early Hints\r\nLink: </x>; rel=preload\r\n\r\n"),
        ("102", b"HTTP/1.1 102 Processing\r\n\r\n"), ("199", b"HTTP/1.1 199 X\r\n\r\n"),
        ("ten 103", b"HTTP/1.1 103 Early Hints\r\n\r\n" * 10),
        ("100 with a length", b"HTTP/1.1 100 Continue\r\nContent-Length: 0\r\n\r\n"),
    ):  # fmt: skip
        yield Reply(f"{case} before 200", before + GOOD, interim, ("200",))
    yield Reply("103 and no more", b"HTTP/1.1 103 Early Hints\r\n\r\n", interim, DOWN, ends=True)
    framing = "the end of the answer is seen in two places"
    yield Reply("no framing", said(b""), framing, ("200",), ends=True)
    yield Reply("chunks", said(TE, chunked(b"ok")), framing, ("200",))
    yield Reply("chunks with a trailer", said(TE, b"2\r\nok\r\n0\r\nX-Smuggled: 1\r\n\r\n"), framing, ("200",))
    yield Reply("CL and TE", said(b"Content-Length: 2\r\n" + TE, chunked(b"ok")), framing, DOWN)
    yield Reply("CL twice, different", said(b"Content-Length: 2\r\nContent-Length: 3\r\n"), framing, DOWN)
    for value in (b"-1", b"+2", b"0x2", b"2 2", b"", b"two", b"2, 3", b"\xd9\xa2", b"18446744073709551618"):
        yield Reply(f"CL {value!r}", said(b"Content-Length: " + value + b"\r\n"), framing, DOWN, ends=True)
    for value in (b"xchunked", b"chunked, identity", b"identity", b"gzip, chunked", b""):
        yield Reply(
            f"TE {value!r}", said(b"Transfer-Encoding: " + value + b"\r\n", chunked(b"ok")), framing, DOWN, ends=True
        )
    trimmed = said(b"Transfer-Encoding: \x0bchunked\r\n", chunked(b"ok"))
    yield Reply("TE with a vertical tab", trimmed, framing, ("200", *DOWN), ends=True)
    yield Reply("TE twice", said(TE * 2, chunked(b"ok")), framing, DOWN, ends=True)
    for body in (
        b"-1\r\nok\r\n",
        b"0x2\r\nok\r\n",
        b"g\r\nok\r\n",
        b"2\r\nokXX0\r\n\r\n",
        b"ffffffffffffffffff\r\nok\r\n",
    ):
        yield Reply(f"chunk {body!r}", said(TE, body), framing, (*DOWN, "cut"), ends=True)
    yield Reply("chunks without an end", said(TE, b"2\r\nok\r\n"), framing, (*DOWN, "cut"), ends=True)
    yield Reply("CL beyond the body", said(b"Content-Length: 50\r\n"), framing, (*DOWN, "cut"), ends=True)
    line = "a head that parsers read differently reaches the caller"
    for first in (
        b"HTTP/1.1", b"HTTP/1.1 ", b"HTTP/1.1 abc OK", b"HTTP/1.1 20 OK", b"HTTP/1.1 2000 OK", b"HTTP/1.1 -200 OK",
        b"HTTP/1.1 000 OK", b"HTTP/1.1 099 OK", b"HTTP/x 200 OK", b"200 OK", b"GET / HTTP/1.1", b"garbage",
        b"\x00\x01\x02", b"ICY 200 OK",
        b"HTTP/1.1 200 O\x00K", b"HTTP/1.1 200 O\rK",
    ):  # fmt: skip
        yield Reply(f"status line {first!r}", said(b"Content-Length: 2\r\n", line=first), line, DOWN, ends=True)
    for first in (b"HTTP/1.1\t200\tOK", b" HTTP/1.1 200 OK"):  # RFC 9112 §4: words may be parted by other whitespace
        yield Reply(
            f"status line {first!r}", said(b"Content-Length: 2\r\n", line=first), line, ("200", *DOWN), ends=True
        )
    for version in (b"HTTP/9.9", b"HTTP/2.0", b"HTTP/0.9", b"HTTP/1.2"):
        yield Reply(
            f"version {version.decode()}",
            said(b"Content-Length: 2\r\n", line=version + b" 200 OK"),
            line,
            ("200", *DOWN),
            ends=True,
        )
    yield Reply("version HTTP/1.0", said(b"Content-Length: 2\r\n", line=b"HTTP/1.0 200 OK"), line, ("200",), ends=True)
    for field in (
        b"X: a\x00b", b"X: a\x01b", b"X: a\x0bb", b"X: a\x7fb", b"X: a\rX-Smuggled: 1", b"X\x00: a", b"X Y: a",
        b"X : a", b": a", b"no colon", b"X: a\r\n X-Smuggled: 1", b" X: a", b"\xc3\xa4: a",
    ):  # fmt: skip
        yield Reply(f"field {field!r}", said(field + b"\r\nContent-Length: 2\r\n"), line, DOWN, ends=True)
    for field in (b"X: \ra", b"X: a\r"):  # RFC 9112 §2.2: a bare CR may be replaced, and whitespace there is none of it
        yield Reply(f"field {field!r}", said(field + b"\r\nContent-Length: 2\r\n"), line, ("200", *DOWN), ends=True)
    split = said(b"X: a\nY: b\r\nContent-Length: 2\r\n")
    yield Reply("a field that ends in LF", split, line, ("200", *DOWN), ends=True)  # RFC 9112 §2.2: may be a line's end
    early = "the caller waits, or is told of the backend"
    yield Reply("nothing", b"", early, DOWN, ends=True)
    yield Reply("half a status line", b"HTTP/1.1 20", early, DOWN, ends=True)
    yield Reply("half a head", b"HTTP/1.1 200 OK\r\nContent-Le", early, DOWN, ends=True)
    yield Reply("a head without its end", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n", early, DOWN, ends=True)
    yield Reply("an endless head", b"HTTP/1.1 200 OK\r\n" + b"X: " + b"a" * 1_000_000, early, DOWN, ends=True)
    yield Reply("TLS", b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00", early, DOWN, ends=True)
    stale = "an answer that nobody asked for is taken for the next request's"
    poison = b"HTTP/1.1 200 OK\r\nX-Smuggled: 1\r\nContent-Length: 8\r\n\r\nsmuggled"
    yield Reply("two answers", GOOD + poison, stale, ("200",))
    yield Reply("an answer behind a 204", b"HTTP/1.1 204 No Content\r\n\r\n" + poison, stale, ("204",), body=b"")
    yield Reply(
        "an answer behind a 304",
        b"HTTP/1.1 304 Not Modified\r\nContent-Length: 50\r\n\r\n" + poison,
        stale,
        ("304",),
        body=b"",
    )
    yield Reply(
        "a body to HEAD",
        b"HTTP/1.1 200 OK\r\nContent-Length: 200\r\n\r\n" + poison,
        stale,
        ("200",),
        ask=b"HEAD" + get()[3:],
        body=b"",
    )
    yield Reply("garbage behind an answer", GOOD + b"\x00\x01garbage\r\n\r\n", stale, ("200",))
    yield Reply(
        "our request id in an answer",
        said(b"X-Request-Id: evil\r\nContent-Length: 2\r\n"),
        "the caller sees a request id of the backend's",
        ("200",),
    )


REPLIES = list(replies())
