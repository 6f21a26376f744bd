"""Which request a question of a proxy is about, and what the proxy is told to set and to take away."""

import pytest

from keyswap.model import Code, Headers, Refuse, Upstream
from keyswap.request.forward_auth import ENVOY, FORWARDED, NOBODY, Original, Places, Question, allowed, original
from keyswap.request.forwarding import UpstreamHead

KEYS = Places(frozenset((b"x-api-key", b"authorization")), frozenset((b"s",)))
OF_ENVOY = ((b"x-envoy-internal", b"true"), (b"x-envoy-expected-rq-timeout-ms", b"250"), (b"content-length", b"0"))


def asked(target: bytes, *fields: tuple[bytes, bytes], method: bytes = b"GET", body: bytes = b"") -> Original | Refuse:
    """The request of a question."""
    return original(Question(method, target, fields, body), KEYS)


def known(target: bytes, *fields: tuple[bytes, bytes], **more: bytes) -> Original:
    """The same, of one that is understood."""
    found = asked(target, *fields, **more)
    assert isinstance(found, Original), found
    return found


@pytest.mark.parametrize("before", [b"", ENVOY])
def test_envoy_asks_with_the_request_itself(before: bytes) -> None:
    """Method and target are the caller's, byte for byte; what Envoy has added is none of its fields."""
    target = b"/a%2Fb//c/../d;x?x=1&y#%00"
    found = known(
        before + target, (b"Host", b"api.example"), (b"x-forwarded-for", b"10.0.0.9"), *OF_ENVOY, method=b"PUT"
    )
    assert found == Original(b"PUT", target, ((b"Host", b"api.example"),), "10.0.0.9", "http", None)


@pytest.mark.parametrize("target", [b"*", b"h/admin", b"http://h/admin", b"\\admin"])
def test_a_target_without_a_slash_is_what_it_is(target: bytes) -> None:
    """Behind Envoy's prefix it is no other path, which would be judged in its place."""
    assert known(ENVOY + target).path == target


def test_the_last_address_is_the_callers() -> None:
    """Envoy writes it behind those that the caller has sent, which stay fields; without any the caller is nobody."""
    found = known(b"/", (b"x-forwarded-for", b"1.1.1.1, 2.2.2.2,10.0.0.9"), (b"x-forwarded-proto", b"https"))
    assert (found.peer, found.scheme, found.fields) == (
        "10.0.0.9",
        "https",
        ((b"X-Forwarded-For", b"1.1.1.1, 2.2.2.2"),),
    )
    assert known(b"/").peer == NOBODY


def test_a_body_is_one_where_envoy_says_so() -> None:
    """An empty one too; without Envoy's field there was none with the question, whatever there is with the request."""
    says = (b"x-envoy-auth-partial-body", b"false")
    assert known(b"/", says, body=b"{}").body == b"{}" and known(b"/", says).body == b""
    assert known(b"/", body=b"{}").body is None


def test_what_was_joined_was_sent_several_times() -> None:
    """A comma in a field that may hold a credential parts two of them; in any other field it stays."""
    found = known(b"/", (b"X-Api-Key", b"one,two"), (b"Accept", b"a,b"))
    assert found.fields == ((b"X-Api-Key", b"one"), (b"X-Api-Key", b"two"), (b"Accept", b"a,b"))


CADDY = ((b"X-Forwarded-Method", b"POST"), (b"X-Forwarded-Uri", b"/a?b=%2f"), (b"X-Forwarded-Host", b"api.example"))
NGINX = ((b"X-Original-Method", b"POST"), (b"X-Original-URI", b"/a?b=%2f"), (b"X-Original-Host", b"api.example"))
INGRESS = ((b"X-Original-Method", b"POST"), (b"X-Original-URL", b"https://api.example/a?b=%2f"), (b"Host", b"authz"))


@pytest.mark.parametrize("target", [FORWARDED, b"/anything?at=all"])
@pytest.mark.parametrize("fields", [CADDY, NGINX, INGRESS], ids=["caddy, traefik", "nginx", "ingress-nginx"])
def test_other_proxies_write_the_request_into_fields(fields: Headers, target: bytes) -> None:
    """Its method, target and host are those of the fields, whatever the question's own are."""
    found = known(target, *fields, (b"X-Forwarded-For", b"10.0.0.9"), (b"X-User-Id", b"1"))
    assert (found.method, found.path, found.peer) == (b"POST", b"/a?b=%2f", "10.0.0.9")
    assert found.fields == ((b"Host", b"api.example"), (b"X-User-Id", b"1")) and found.body is None and found.by_fields
    assert found.scheme == ("https" if fields is INGRESS else "http")


TWICE = {
    "fields of both kinds": (FORWARDED, (*CADDY, *NGINX)),
    "a caller's fields of the other kind": (FORWARDED, (*NGINX, (b"X-Forwarded-Uri", b"/public"))),
    "Envoy and fields": (b"/admin", (*OF_ENVOY, *CADDY)),
    "Envoy and one field": (b"/admin", (*OF_ENVOY, (b"X-Original-URL", b"/public"))),
    "a field twice": (FORWARDED, (*CADDY, (b"x-forwarded-uri", b"/public"))),
    "the method twice": (FORWARDED, (*NGINX, (b"x-original-method", b"GET"))),
    "two addresses' fields": (b"/", ((b"X-Forwarded-For", b"1.1.1.1"), (b"X-Forwarded-For", b"2.2.2.2"))),
    "no fields where they are to be": (FORWARDED, OF_ENVOY),
    "no method": (FORWARDED, CADDY[1:]),
    "no target": (FORWARDED, (CADDY[0], CADDY[2])),
    "two targets of a kind": (FORWARDED, (*NGINX, (b"X-Original-URL", b"/public"))),
}


@pytest.mark.parametrize("what", TWICE)
def test_a_question_with_two_readings_is_refused(what: str) -> None:
    """No field of a caller's is taken for the proxy's: a question that says twice, or not at all, what the request was is 503."""
    target, fields = TWICE[what]
    found = asked(target, *fields)
    assert isinstance(found, Refuse) and found.code is Code.GATEWAY_UNAVAILABLE


def test_behind_envoys_prefix_no_field_says_what_the_request_was() -> None:
    """There a caller's fields are what they are to any backend: the target is the question's."""
    found = known(ENVOY + b"/admin", *OF_ENVOY, *CADDY, (b"X-Original-URL", b"/public"))
    assert found.path == b"/admin" and (b"X-Forwarded-Uri", b"/a?b=%2f") in found.fields


LENGTH = (b"X-Envoy-Auth-Headers-To-Remove", b"content-length")
"""The answer's own length is never copied over the request's."""


def head(*fields: tuple[bytes, bytes]) -> UpstreamHead:
    """A head that goes to a backend."""
    return UpstreamHead(Upstream("http", "127.0.0.1", 9000), b"/", fields, 0, None)


def test_what_the_backend_gets_is_the_head() -> None:
    """What is new or has changed is set, what is gone is named once in small letters; framing and host are the proxy's."""
    presented = (
        (b"Host", b"a"),
        (b"X-Api-Key", b"k"),
        (b"x-api-key", b"l"),
        (b"Accept", b"*"),
        (b"Cookie", b"a=1; s=2"),
    )
    sent = (
        (b"Host", b"backend"),
        (b"Authorization", b"Bearer t"),
        (b"Accept", b"*"),
        (b"Cookie", b"a=1"),
        (b"Content-Length", b"0"),
    )
    assert allowed(head(*sent), presented) == (
        (b"Authorization", b"Bearer t"),
        (b"Cookie", b"a=1"),
        (b"X-Envoy-Auth-Headers-To-Remove", b"x-api-key,content-length"),
    )


def test_a_field_of_several_lines_is_taken_as_a_whole() -> None:
    """Of a field of which one line is gone the others are set anew: what the proxy holds of it is replaced."""
    presented = ((b"X-A", b"1"), (b"X-A", b"2"))
    assert allowed(head((b"X-A", b"1")), presented) == ((b"X-A", b"1"), LENGTH)


def test_proxies_that_copy_fields_are_told_all_of_them() -> None:
    """What they copy by name is told also where it stays as it was: a field that is not told is one that is gone."""
    presented = ((b"Cookie", b"a=1"), (b"traceparent", b"t"), (b"Accept", b"*"))
    sent = (*presented, (b"X-Request-Id", b"1"))
    assert allowed(head(*sent), presented, whole=True) == (*presented[:2], (b"X-Request-Id", b"1"), LENGTH)


@pytest.mark.parametrize(
    ("value", "lines"),
    [
        (b"a=1,s=x", [b"a=1", b"s=x"]),
        (b"s=x,a=1", [b"s=x", b"a=1"]),
        (b"a=1; b=2,3; c=4", [b"a=1; b=2,3; c=4"]),
        (b"a=1,2, s=x; b=2,c=3,4", [b"a=1,2", b"s=x; b=2", b"c=3,4"]),
        (b"s=x,s=y", [b"s=x", b"s=y"]),
        (b"a=1,%73=x", [b"a=1", b"%73=x"]),
    ],
)
def test_joined_cookies_are_several_where_one_may_hold_a_credential(value: bytes, lines: list[bytes]) -> None:
    """Envoy joins Cookie lines by a comma and forwards them apart: ours is found wherever it was; other commas stay."""
    assert known(b"/", (b"Cookie", value)).fields == tuple((b"Cookie", line) for line in lines)


@pytest.mark.parametrize("value", [b"<script>", b"1.1.1.1, unknown", b"1.1.1.1:55", b""])
def test_an_address_is_one(value: bytes) -> None:
    """What a proxy says of the caller's address is one, or the question is refused."""
    for fields in ((), NGINX):
        assert isinstance(asked(FORWARDED if fields else b"/", *fields, (b"X-Forwarded-For", value)), Refuse)


def test_a_part_of_a_body_is_no_body() -> None:
    """A body that Envoy has cut is not judged; one that is whole has its length, one that did not come none."""
    says, typed = b"x-envoy-auth-partial-body", (b"Content-Type", b"text/plain")
    assert isinstance(asked(b"/", (says, b"true"), body=b"{"), Refuse)
    assert isinstance(asked(b"/", (says, b"false"), (says, b"false"), body=b"{"), Refuse)
    assert known(b"/", (says, b"false"), typed, body=b"abc").fields == (typed, (b"Content-Length", b"3"))
    assert known(b"/", typed).fields == (typed, (b"Transfer-Encoding", b"chunked"))


def test_a_url_is_one_of_http() -> None:
    """ingress-nginx sends a whole URL; one of another scheme is none."""
    for scheme in (b"ftp", b"file"):
        fields = ((b"X-Original-Method", b"GET"), (b"X-Original-URL", scheme + b"://h/a"), (b"Host", b"h"))
        assert isinstance(asked(FORWARDED, *fields), Refuse)
