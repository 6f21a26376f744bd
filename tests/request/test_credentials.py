"""Where a credential may sit, and the one-credential rule."""

import json
import time
from base64 import urlsafe_b64encode

import pytest

from keyswap.model import Code, Credential, Headers, Refuse
from keyswap.request.credentials import Absence, CredentialCookie, CredentialHeader, CredentialReader

READ = CredentialReader([CredentialHeader("Authorization", "Bearer"), CredentialHeader("X-Api-Key")])


def jose(header: object) -> str:
    return urlsafe_b64encode(json.dumps(header).encode()).decode().rstrip("=") + ".e30.c2ln"


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        ([], None),
        ([(b"Authorization", b"Bearer k1")], "k1"),
        ([(b"AUTHORIZATION", b"bEARER   k1 ")], "k1"),
        ([(b"x-api-key", b" k1 ")], "k1"),
        ([(b"Authorization", b"Bearer k1"), (b"X-Api-Key", b"k1")], "k1"),
        ([(b"Authorization", b"Basic dTpw")], None),
        ([(b"Authorization", b"Basic dTpw"), (b"X-Api-Key", b"k1")], "k1"),
        ([(b"Authorization", b"Bearer")], ""),
        ([(b"X-Api-Key", b"")], ""),
        ([(b"Cookie", b"k1"), (b"X-Other", b"k2")], None),
        ([(b"X-Api-Key", b"Bearer k1")], "Bearer k1"),
    ],
)
def test_the_credential_is_found_where_the_policy_says(headers: Headers, found: str | None) -> None:
    """Every place of the policy is read, in any case of name and scheme; another scheme is no credential."""
    assert READ(tuple(headers)) == (None if found is None else Credential("key", found))


@pytest.mark.parametrize(
    "headers",
    [
        [(b"Authorization", b"Bearer k1"), (b"X-Api-Key", b"k2")],
        [(b"Authorization", b"Bearer k1"), (b"authorization", b"Bearer k1")],
        [(b"Authorization", b"Basic dTpw"), (b"Authorization", b"Bearer k1")],
        [(b"X-Api-Key", b"k1"), (b"X-API-KEY", b"k1")],
        [(b"Authorization", b"Bearer k1"), (b"X-Api-Key", b"")],
    ],
)
def test_two_credentials_are_refused(headers: Headers) -> None:
    """Two different credentials, or one header twice (even if equal), are refused: one reading of who is calling."""
    refused = READ(tuple(headers))
    assert isinstance(refused, Refuse) and refused.code is Code.MULTIPLE_CREDENTIALS and "k1" not in refused.reason


ABSENT = Absence([CredentialHeader("authorization", "Bearer"), CredentialHeader("x-api-key")], ["ksw", "acme"])
KEY = b"ksw_live_" + b"a" * 36


@pytest.mark.parametrize(
    ("headers", "target", "said"),
    [
        ([], b"/", None),
        ([(b"Authorization", b"Token " + KEY)], b"/", "authorization with the scheme `Token`"),
        ([(b"Authorization", b"Basic dTpw")], b"/", "authorization with the scheme `Basic`"),
        ([(b"Authorization", KEY)], b"/", "authorization without a scheme"),
        ([(b"Authorization", KEY + b" x")], b"/", "authorization without a scheme"),
        ([(b"Api-Key", b"whatever")], b"/", "there is a header api-key"),
        ([(b"X-Api-Token", b"ACME_test_" + b"b" * 36)], b"/", "header x-api-token holds what looks like a key of ours"),
        ([(b"X-Custom", KEY)], b"/", "header x-custom holds what looks like a key of ours"),
        ([], b"/pets?api_key=zzz", "there is a query parameter api_key"),
        ([], b"/pets?a=1&k=ksw%5Flive%5F" + b"a" * 36, "query parameter k holds what looks like a key of ours"),
        ([], b"/pets?" + KEY + b"=" + KEY, "query parameter ? holds what looks like a key of ours"),
        ([(KEY, b"x")], b"/pets?" + KEY, None),
    ],
)
def test_a_credential_in_a_wrong_place_is_noticed(headers: Headers, target: bytes, said: str | None) -> None:
    """The caller reads which headers take a key, the log what was there instead: never a value."""
    refused = ABSENT(tuple(headers), target)
    assert refused.code is Code.MISSING_CREDENTIAL
    assert refused.detail is not None and "`Authorization: Bearer <key>` or `X-Api-Key: <key>`" in refused.detail
    assert (said in refused.reason) if said else ";" not in refused.reason
    assert not any(value in refused.reason + refused.detail for value in ("aaaa", "bbbb", "dTpw", "zzz", "whatever"))


@pytest.mark.timing
@pytest.mark.parametrize("pair", [b"a&", b"a=b&", b"%61=%61&", b"key=&", b"token=x&", b"x=ksw_live_a&"])
def test_what_is_noticed_is_little_and_soon(pair: bytes) -> None:
    """Of many parameters four are told at most, and to look for them takes half a millisecond, whatever they hold."""
    target, took = b"/?" + pair * (4096 // len(pair)), []
    for _ in range(20):
        began = time.thread_time()
        refused = ABSENT((), target)
        took.append(time.thread_time() - began)
    assert refused.reason.count("; ") <= 4 and min(took) < 0.0005


def test_what_is_noticed_first_is_told_alone() -> None:
    """Headers are told before parameters, and four of them are enough."""
    headers = tuple((name, b"x") for name in (b"Token", b"Key", b"Apikey", b"Auth-Key", b"Access-Key"))
    refused = ABSENT(headers, b"/?api_key=x")
    assert "auth-key" in refused.reason and "access-key" not in refused.reason and "api_key" not in refused.reason
    assert "a query parameter api_key" in ABSENT(headers[:3], b"/?api_key=x").reason


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (jose({"alg": "RS256"}), "session"),
        (jose({"alg": None}), "session"),
        (jose({"typ": "JWT"}), "key"),
        (jose(["alg"]), "key"),
        ("a.b.c", "key"),
        ("ksw_live_a.b.c.d", "key"),
        ("..", "key"),
        ("W" * 400 + "." + "x.y", "key"),
    ],
)
def test_a_session_is_told_from_a_key_by_its_form(value: str, kind: str) -> None:
    """Three parts whose first is a JSON object with `alg` are a session's token; all else is a key."""
    found = READ(((b"Authorization", b"Bearer " + value.encode()),))
    assert isinstance(found, Credential) and found.kind == kind


def test_a_credential_does_not_show_itself() -> None:
    """A credential's repr, which may end in a log, holds no secret."""
    assert "k1" not in repr(READ(((b"X-Api-Key", b"k1"),)))


BROWSER = CredentialReader(
    [CredentialHeader("Authorization", "Bearer"), CredentialCookie("session")], ["https://app.example.com"]
)
TOKEN = jose({"alg": "RS256"})
HOST = (b"Host", b"api.example.com")


def cookie(text: str) -> tuple[bytes, bytes]:
    return b"Cookie", text.encode()


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        ([], None),
        ([cookie("other=1; session2=x; xsession=y")], None),
        ([cookie("session=")], None),
        ([cookie(f"session={TOKEN}")], TOKEN),
        ([cookie(f"a=1;session = {TOKEN} ;b=2")], TOKEN),
        ([cookie("a=1"), cookie(f"session={TOKEN}")], TOKEN),
        ([cookie(f'a=1; session="{TOKEN}"; b=2')], TOKEN),
        ([cookie('session=""')], None),
        ([cookie('session="')], '"'),
        ([cookie("session=no-token")], "no-token"),
        ([cookie("session=ksw_live_x")], "ksw_live_x"),
        ([cookie(f"session={TOKEN}"), (b"Authorization", f"Bearer {TOKEN}".encode())], TOKEN),
    ],
)
def test_a_session_may_sit_in_a_cookie(headers: Headers, found: str | None) -> None:
    """A cookie of the policy's name is found among others, and holds a session's token alone: never a key."""
    assert BROWSER(tuple(headers)) == (None if found is None else Credential("session", found))


@pytest.mark.parametrize(
    "headers",
    [
        [cookie("session=a; session=b")],
        [cookie("session=a; session=a")],
        [cookie("session=a"), cookie("session=a")],
        [cookie("session=a"), (b"Authorization", b"Bearer b")],
        [cookie("session=a;session =a")],
    ],
)
def test_two_sessions_are_refused(headers: Headers) -> None:
    """A session's cookie that is sent twice, or beside another credential, is refused."""
    refused = BROWSER(tuple(headers))
    assert isinstance(refused, Refuse) and refused.code is Code.MULTIPLE_CREDENTIALS


@pytest.mark.parametrize(
    ("method", "sent", "counts"),
    [
        ("POST", [], True),
        ("POST", [(b"Origin", b"https://api.example.com")], True),
        ("POST", [(b"Origin", b"https://app.example.com")], True),
        ("POST", [(b"Sec-Fetch-Site", b"same-origin")], True),
        ("GET", [(b"Origin", b"https://evil.example")], True),
        ("POST", [(b"Origin", b"https://evil.example")], False),
        ("POST", [(b"Origin", b"null")], False),
        ("POST", [(b"Origin", b"https://api.example.com.evil.example")], False),
        ("DELETE", [(b"Sec-Fetch-Site", b"cross-site")], False),
        ("PUT", [(b"Sec-Fetch-Site", b"same-site")], False),
        ("GET", [(b"Upgrade", b"websocket"), (b"Origin", b"https://evil.example")], False),
        ("GET", [(b"Upgrade", b"websocket"), (b"Origin", b"https://api.example.com")], True),
    ],
)
def test_another_sites_page_cannot_use_a_cookie(method: str, sent: list[tuple[bytes, bytes]], counts: bool) -> None:
    """Where something may change, or a WebSocket begins, a cookie counts only from our own pages, or listed ones."""
    for host in (HOST, (b":authority", HOST[1])):
        found = BROWSER((host, cookie(f"session={TOKEN}"), *sent), method)
        if counts:
            assert found == Credential("session", TOKEN)
        else:
            assert isinstance(found, Refuse) and found.code is Code.MISSING_CREDENTIAL
        header = BROWSER((host, (b"Authorization", f"Bearer {TOKEN}".encode()), *sent), method)
        assert header == Credential("session", TOKEN), "a header is sent by nobody but whoever wrote it"


@pytest.mark.parametrize(
    ("site", "origins", "counts"),
    [
        (b"https://api.example.com", [b"https://api.example.com"], True),
        (b"https://api.example.com", [b"http://api.example.com"], False),
        (b"http://api.example.com", [b"http://api.example.com"], True),
        (b"http://api.example.com", [b"https://api.example.com"], True),
        (b"https://api.example.com:443", [b"https://api.example.com"], True),
        (b"https://API.example.com", [b"https://api.example.com"], True),
        (b"https://api.example.com:8443", [b"https://api.example.com"], False),
        (b"https://api.example.com", [b"http://api.example.com:443"], False),
        (b"https://api.example.com", [b"https://evil.example", b"https://api.example.com"], False),
        (b"https://api.example.com", [b"https://api.example.com", b"https://api.example.com"], False),
        (b"https://api.example.com", [b"api.example.com"], False),
        (b"", [b"http://api.example.com"], True),
    ],
)
def test_a_page_is_our_own_by_host_and_scheme(site: bytes, origins: list[bytes], counts: bool) -> None:
    """One Origin, of the host that is asked; a page that came in plain is none of an encrypted site."""
    read = CredentialReader([CredentialCookie("session")])
    headers = ((b"Host", b"api.example.com"), (b"Cookie", b"session=x"), *((b"Origin", one) for one in origins))
    assert isinstance(read(headers, "POST", site), Credential) is counts
