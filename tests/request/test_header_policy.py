"""Washing, as a pure function."""

import re
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyswap.model import Headers
from keyswap.request.addresses import plain
from keyswap.request.header_names import FRAMING, ONE_SPELLING
from keyswap.request.header_policy import HeaderPolicy

WASH = HeaderPolicy(["authorization", "x-api-key"], ["x-user-*", "x-org-id"], [])
HANDSHAKE: Headers = (
    (b"Host", b"h"),
    (b"Connection", b"keep-alive, Upgrade"),
    (b"Upgrade", b"websocket"),
    (b"Sec-WebSocket-Version", b"13"),
    (b"Sec-WebSocket-Key", b"MDEyMzQ1Njc4OWFiY2RlZg=="),
)


def names(fields: Headers, method: str = "GET", wash: HeaderPolicy = WASH) -> list[bytes]:
    kept = [name.lower() for name, _ in wash(fields, "10.0.0.1", method).kept]
    kept.remove(b"traceparent")  # a trace begins here
    return kept


def _respelled(drawn: tuple[bytes, st.DataObject]) -> bytes:
    """A name with other separators."""
    name, data = drawn
    return b"".join(
        data.draw(st.sampled_from([b"-", b"_", b".", b"+", b"--", b"_-"])) if byte == 0x2D else bytes([byte])
        for byte in name
    )


SPELT = (b"X-User-Id", b"X-Api-Key", b"Authorization", b"X-Forwarded-For", b"X-Real-IP", b"Script-Name", b"Path-Info")
NEVER = (
    *SPELT,
    b"Proxy",
    b"True-Client-IP",
    b"CF-Connecting-IP",
    b"X-Client-IP",
    b"X-HTTP-Method-Override",
    b"Upgrade",
)


@given(st.sampled_from(NEVER), st.data())
def test_no_spelling_gets_through(name: bytes, data: st.DataObject) -> None:
    """However it is spelled (case, other separators, runs of them), a header that only the gate may set is dropped."""
    spelled = bytearray(data.draw(st.sampled_from([b"", b"-", b"_"])))
    for byte in name + data.draw(st.sampled_from([b"", b"-"])):
        choices = [bytes([byte]).lower(), bytes([byte]).upper()]
        spelled += data.draw(
            st.sampled_from(choices if byte != 0x2D else [b"-", b"_", b".", b"+", b"~", b"--", b"-_-"])
        )
    assert names(((bytes(spelled), b"x"),)) == []


ODD = (b"X_Legacy", b"X.Legacy", b"X+Legacy", b"X~Legacy", b"X!Legacy", b"X Legacy", b"X\xc3\xa4", b"-", b"")
"""Names that backends read in different ways, or not at all."""


def test_only_letters_digits_and_hyphens_pass() -> None:
    """Names with other characters are dropped, unless the policy keeps them; others pass as they are."""
    plain = [b"x-legacy", b"dnt", b"sec-ch-ua", b"x1", b"x--twice"]
    assert names(tuple((name, b"") for name in (*ODD, *plain))) == plain
    keeping = HeaderPolicy(["x-api-key"], [], [], keep=["x_legacy", "x.legacy"])
    assert names(tuple((name, b"") for name in ODD), wash=keeping) == [b"x_legacy", b"x.legacy"]


@pytest.mark.parametrize("name", sorted(ONE_SPELLING))
def test_what_is_judged_has_one_spelling(name: bytes) -> None:
    """A header that the gateway goes by passes under its own name alone, so that no backend finds a second one."""
    spelled = [name.replace(b"-", other) for other in (b"_", b".", b"--", b"---", b"-_")] + [name + b"-", b"-" + name]
    assert names(tuple((one, b"x") for one in spelled if one != name)) == []


def variable(name: bytes) -> bytes:
    """CGI, WSGI, PHP and Rack: a variable's name (RFC 3875 §4.1.18)."""
    return name.upper().replace(b"-", b"_")


READINGS: dict[str, Callable[[bytes], bytes]] = {
    "CGI, WSGI, PHP, Rack": variable,
    "PHP's own": lambda name: variable(name).translate(bytes.maketrans(b" .[", b"___")),
    "lighttpd, Apache 2.2": lambda name: re.sub(rb"[^A-Z0-9]", b"_", name.upper()),
    "runs as one": lambda name: re.sub(rb"[^A-Z0-9]+", b"_", name.upper()),
    "blanks trimmed": lambda name: variable(name.strip(b" \t-_.")),
}


@given(
    st.lists(
        st.one_of(
            st.text(st.sampled_from("abXY01-_.~+! \xe4"), max_size=12).map(lambda text: text.encode("latin-1")),
            st.tuples(st.sampled_from((*NEVER, *sorted(ONE_SPELLING), b"X-User", b"Remote-User")), st.data()).map(
                _respelled
            ),
        ),
        max_size=8,
    )
)
def test_no_backend_reads_what_was_stripped(sent: list[bytes]) -> None:
    """Of any names, none that is left is one of the gate's in any backend's reading, and none doubles a judged one."""
    wash = HeaderPolicy(["x-api-key"], ["x-user-*", "remote-user"], [])
    left = set(names(tuple((name, b"chunked") for name in sent), wash=wash)) - FRAMING
    for reading in READINGS.values():
        read = {name: reading(name) for name in left}
        assert not {reading(name) for name in (*NEVER, b"Remote-User")} & set(read.values())
        assert not [name for name in read.values() if name.startswith((reading(b"X-User-a")[:-1], b"X_FORWARDED_"))]
        assert all(name in ONE_SPELLING for name in left if reading(name) in set(map(reading, ONE_SPELLING)))


def test_what_connection_names_is_dropped_but_framing() -> None:
    """Headers that `Connection` names go no further; framing headers always do."""
    fields = (
        (b"Connection", b"x-hop, content-length, host"),
        (b"X-Hop", b"1"),
        (b"Content-Length", b"3"),
        (b"A", b"b"),
    )
    assert names(fields) == [b"content-length", b"a"]
    assert names(((b"Content_Length", b"3"), (b"Transfer.Encoding", b"chunked"))) == []


def test_only_a_whole_handshake_upgrades() -> None:
    """`Upgrade` passes as part of a whole WebSocket handshake, and with any piece missing it does not."""
    assert {b"connection", b"upgrade"} <= set(names(HANDSHAKE))
    assert b"upgrade" not in names(HANDSHAKE, "POST")
    for missing in range(1, len(HANDSHAKE)):
        assert b"upgrade" not in names((*HANDSHAKE[:missing], *HANDSHAKE[missing + 1 :]))
    for value in (b"h2c", b"WebSocket, h2c", b"websocket/13"):
        assert b"upgrade" not in names(tuple((n, value if n == b"Upgrade" else v) for n, v in HANDSHAKE))


def test_the_wish_to_close_the_connection_outlives_its_header() -> None:
    """The caller's wish that the connection be closed outlives the header."""
    assert WASH(((b"Connection", b"Close"),), "10.0.0.1").closes
    assert not WASH(((b"Connection", b"keep-alive"),), "10.0.0.1").closes


@pytest.mark.parametrize(
    ("forwarded", "client"),
    [
        (None, "10.0.0.1"),
        ("203.0.113.9", "203.0.113.9"),
        ("6.6.6.6, 203.0.113.9", "203.0.113.9"),
        ("203.0.113.9, 10.2.2.2", "203.0.113.9"),
        ("10.3.3.3, 10.2.2.2", "10.3.3.3"),
        ("6.6.6.6, nonsense", "unknown"),
        ("6.6.6.6, nonsense, 10.2.2.2", "unknown"),
        ("6.6.6.6, 203.0.113.9:4711", "203.0.113.9"),
        ("6.6.6.6, [2001:db8::1]:4711", "2001:db8::1"),
        ("6.6.6.6,", "unknown"),
        ("::ffff:203.0.113.9", "203.0.113.9"),
        ("2001:db8::1", "2001:db8::1"),
    ],
)
def test_the_client_is_the_rightmost_foreign_address(forwarded: str | None, client: str) -> None:
    """Behind trusted proxies the client is the right-most address outside them; what is no address ends the search."""
    wash = HeaderPolicy([], [], ["10.0.0.0/8"])
    fields = () if forwarded is None else ((b"X-Forwarded-For", forwarded.encode()),)
    assert wash(fields, "10.0.0.1").client == client
    assert wash(fields, "192.0.2.1").client == "192.0.2.1"


@pytest.mark.parametrize(
    ("peer", "header", "says"),
    [
        ("10.0.0.5", b"X-Forwarded-For", "trusted_proxies: [10.0.0.5/32]"),
        ("10.0.0.5", b"Forwarded", "let it send X-Forwarded-For"),
        ("::ffff:10.0.0.5", b"x-forwarded-for", "trusted_proxies: [10.0.0.5/32]"),
        ("2001:db8::5", b"X-FORWARDED-FOR", "trusted_proxies: [2001:db8::5/128]"),
    ],
)
@pytest.mark.parametrize("trusted", [[], ["192.0.2.0/24"]])
def test_a_proxy_that_is_not_trusted_is_named_once(
    caplog: pytest.LogCaptureFixture, trusted: list[str], peer: str, header: bytes, says: str
) -> None:
    """Who says for whom it asks, and is not believed, is one warning a policy, with what to write; nothing of its value."""
    wash = HeaderPolicy([], [], trusted)
    for _ in range(3):
        assert wash(((header, b"for=6.6.6.6"), (b"X-Request-Id", b"x")), peer).client == plain(peer)
        wash(((b"X-Forwarded-For", b"6.6.6.6"),), "10.0.0.6")
    (told,) = caplog.records
    assert told.levelname == "WARNING" and says in told.getMessage() and "6.6.6.6" not in told.getMessage()


def test_no_proxy_is_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    """A trusted proxy, and callers without such headers, are nothing to say."""
    wash = HeaderPolicy([], [], ["10.0.0.0/8"])
    wash(((b"X-Forwarded-For", b"6.6.6.6"), (b"Forwarded", b"for=6.6.6.6")), "10.0.0.1")
    wash(((b"Connection", b"close"), (b"X-Forwarded-Proto", b"https")), "192.0.2.1")
    assert caplog.records == []


@pytest.mark.parametrize(
    ("forwarded", "host"),
    [
        ([], b"own"),
        ([b"api.example.com"], b"api.example.com"),
        ([b"api.example.com:8443"], b"api.example.com:8443"),
        ([b"evil, api.example.com"], b"own"),
        ([b"evil", b"api.example.com"], b"own"),
        ([b"a/b"], b"own"),
        ([b""], b"own"),
    ],
)
def test_a_trusted_proxy_says_which_host_was_asked_for(forwarded: list[bytes], host: bytes) -> None:
    """One valid X-Forwarded-Host of a trusted proxy is what the caller asked for; nobody else's is, nor one of two."""
    wash = HeaderPolicy([], [], ["10.0.0.0/8"])
    fields = ((b"Host", b"own"), *((b"X-Forwarded-Host", value) for value in forwarded))
    assert wash(fields, "10.0.0.1").host == host
    assert wash(fields, "192.0.2.1").host == b"own"


def test_the_memory_of_names_is_bounded() -> None:
    """Callers choose header names: remembering how each is handled has a bound, and the handling does not change."""
    wash = HeaderPolicy(["x-api-key"], [], [])
    for number in range(10_000):
        assert names(((b"x-%d" % number, b""),), wash=wash) == [b"x-%d" % number]
    assert names(((b"X_API_KEY", b""),), wash=wash) == []
    assert len(wash._acts) <= 4096


PARENT = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def traced(*fields: tuple[bytes, bytes], wash: HeaderPolicy = WASH) -> tuple[str, list[tuple[bytes, bytes]]]:
    washed = wash(fields, "10.0.0.1")
    return washed.trace_id, [field for field in washed.kept if field[0].lower() in {b"traceparent", b"tracestate"}]


@pytest.mark.parametrize(
    "parent",
    [PARENT, PARENT[:-2] + b"00", PARENT[:-2] + b"ff", b"cc" + PARENT[2:], b"01" + PARENT[2:] + b"-what-comes"],
)
def test_a_valid_trace_goes_on_as_it_is(parent: bytes) -> None:
    """One valid traceparent is forwarded byte for byte, with every tracestate, and its trace is the request's."""
    came = [(b"Traceparent", parent), (b"tracestate", b"a=1"), (b"TraceState", b"b=2")]
    assert traced(*came) == (parent[3:35].decode(), came)


@pytest.mark.parametrize(
    "came",
    [
        [],
        [(b"tracestate", b"a=1")],
        [(b"traceparent", PARENT), (b"Traceparent", PARENT)],
        *(
            [(b"traceparent", bad), (b"tracestate", b"a=1")]
            for bad in (
                *(b"", b"x", PARENT[:-1], PARENT + b"0", PARENT + b"-x", PARENT + b"\n", b" " + PARENT, PARENT.upper()),
                *(b"ff" + PARENT[2:], b"01" + PARENT[2:] + b"x", PARENT.replace(b"-", b"_"), PARENT + b"," + PARENT),
                b"00-" + b"0" * 32 + PARENT[35:],
                PARENT[:36] + b"0" * 16 + PARENT[52:],
            )
        ),
        [(b"traceparent", PARENT), (b"tracestate", b"a=1"), (b"Connection", b"traceparent")],
    ],
    ids=range(18),
)
def test_any_other_trace_is_begun_anew(came: list[tuple[bytes, bytes]]) -> None:
    """Without one valid traceparent nothing of what came goes on: exactly one new one does, sampled, never the same."""
    trace_id, fields = traced(*came)
    ((name, value),) = fields
    assert name == b"traceparent" and value.startswith(b"00-" + trace_id.encode()) and value.endswith(b"-01")
    assert traced(fields[0]) == (trace_id, fields) and traced(*came)[0] != trace_id != PARENT[3:35].decode()


def test_a_policy_may_trust_no_trace() -> None:
    """Where strip_headers names them, every trace begins at the gateway."""
    wash = HeaderPolicy([], ["traceparent", "tracestate"], [])
    trace_id, fields = traced((b"Traceparent", PARENT), (b"Tracestate", b"a=1"), wash=wash)
    assert len(fields) == 1 and trace_id != PARENT[3:35].decode()
    assert traced((b"traceparent", PARENT), (b"Connection", b"tracestate"))[1] != [(b"traceparent", PARENT)]


def test_a_sessions_cookie_goes_no_further() -> None:
    """Cookies that may hold a session's token are taken out, however they are spelled; the others stay as they are."""
    washing = HeaderPolicy([], [], [], ["session"])

    def kept(*fields: tuple[bytes, bytes]) -> list[tuple[bytes, bytes]]:
        return washing(fields, "192.0.2.1").kept[: len(fields)]

    def cookies(text: bytes) -> list[bytes]:
        return [value for name, value in kept((b"Cookie", text)) if name == b"Cookie"]

    assert cookies(b"a=1; b=2") == [b"a=1; b=2"]
    assert cookies(b"a=1; session=x; b=2") == [b"a=1; b=2"]
    assert cookies(b"session=x") == cookies(b"session =x;session=") == cookies(b"session") == []
    assert cookies(b"session[]=x; session[a]=y; s%65ssion=z") == [], "other spellings, as PHP reads them"
    dotted = HeaderPolicy([], [], [], ["my.session"])
    crumbs = (b"my.session", b"my_session", b"my session", b"my%2Esession", b"mysession")
    kept_of = [dotted(((b"Cookie", name + b"=x"),), "192.0.2.1").kept for name in crumbs]
    assert [any(name == b"Cookie" for name, _ in kept) for kept in kept_of] == [False, False, False, False, True]
    assert cookies(b"Session=x; sessions=y") == [b"Session=x; sessions=y"]
    assert (b"Cookie", b"session=x") in HeaderPolicy([], [], [])(((b"Cookie", b"session=x"),), "192.0.2.1").kept
