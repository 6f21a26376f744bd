"""Where a credential may sit, and the one-credential rule."""

import json
from base64 import urlsafe_b64encode

import pytest

from keyswap.credentials import CredentialReader, Place
from keyswap.model import Code, Credential, Headers, Refuse

READ = CredentialReader([Place("Authorization", "Bearer"), Place("X-Api-Key")])


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
