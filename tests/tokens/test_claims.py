"""What a token says: the tables of the contract's §4."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyswap.model import Claims, Principal
from keyswap.tokens.claims import TokenShape, claims_of, payload
from tests.tokens.parts import ISSUER, NOW

AUTHKIT = TokenShape("authkit", ISSUER, None)
RFC9068 = TokenShape("rfc9068", ISSUER, "api")
USER = Principal("org_1", "user_1", "key_1", ("pets:read", "pets:write"), ("admin", "member"))
ORGANIZATION = Principal("org_1", None, "key_2")
TIMES = {"jti": "j", "iat": NOW, "exp": NOW + 120}


def said(principal: Principal, shape: TokenShape = AUTHKIT) -> dict[str, object]:
    """The payload of a token for this principal."""
    return payload(claims_of(principal, shape), NOW, NOW + 120, "j")


def test_the_key_of_a_user_gives_exactly_its_claims() -> None:
    """A user's key gives exactly the claims that it has; absent ones are left out."""
    assert said(USER) == {
        "iss": ISSUER,
        "sub": "user_1",
        "org_id": "org_1",
        "role": "admin",
        "roles": ["admin", "member"],
        "permissions": ["pets:read", "pets:write"],
        "api_key_id": "key_1",
        **TIMES,
    }


def test_an_organizations_own_key() -> None:
    """It is its own subject, says that it is no user, and its permissions are a list though it has none."""
    assert said(ORGANIZATION) == {
        "iss": ISSUER,
        "sub": "key_2",
        "sub_type": "organization",
        "org_id": "org_1",
        "permissions": [],
        "api_key_id": "key_2",
        **TIMES,
    }


def test_audience_session_and_actor_are_said_where_known() -> None:
    """Audience, session and actor are said where they are known; the actor as RFC 8693 §4.1 nests it."""
    principal = Principal("org_1", "user_1", "key_1", session_id="session_1", actor="admin@example.com")
    found = said(principal, TokenShape("authkit", ISSUER, "api"))
    assert (found["aud"], found["sid"], found["act"]) == ("api", "session_1", {"sub": "admin@example.com"})


def test_the_profile_rfc9068_has_client_id_aud_and_scope() -> None:
    """The profile rfc9068 has client_id and aud, and scope in place of permissions."""
    found = said(USER, RFC9068)
    assert (found["client_id"], found["aud"], found["scope"]) == ("key_1", "api", "pets:read pets:write")
    assert "permissions" not in found
    session = said(Principal("org_1", "user_1", None, ("a",)), RFC9068)
    assert session["client_id"] == session["sub"] == "user_1"


texts = st.text("abc:_", min_size=1, max_size=5)
several = st.lists(texts, max_size=3).map(tuple)
principals = st.builds(
    Principal,
    kind=st.just("key"),
    session_claims=st.none(),
    org_id=st.none() | texts,
    user_id=st.none() | texts,
    key_id=texts,
    permissions=several,
    roles=several,
    session_id=st.none() | texts,
    actor=st.none() | texts,
    not_after=st.none() | st.integers(NOW, NOW + 10),
)


@given(principals, st.sampled_from([AUTHKIT, RFC9068]))
def test_no_token_has_auth_time_or_an_empty_claim(principal: Principal, shape: TokenShape) -> None:
    """No token has auth_time or an empty claim; exactly those without a user say sub_type; the times are as given."""
    found = said(principal, shape)
    assert "auth_time" not in found and None not in found.values()
    assert (found.get("sub_type") == "organization") == (principal.user_id is None)
    assert found["sub"] == (principal.user_id or principal.key_id)
    may = found["permissions"] if shape is AUTHKIT else str(found.get("scope", "")).split()
    assert may == list(principal.permissions)
    assert found | TIMES == found


@given(principals, principals)
def test_nothing_that_is_said_is_missing_from_claims(one: Principal, other: Principal) -> None:
    """Principals with equal claims get tokens that say the same: claims may be the cache's key."""
    if claims_of(one, AUTHKIT) == claims_of(other, AUTHKIT):
        assert said(one) == said(other)


def of_session(**claims: object) -> Principal:
    """A signed-in user whose token said these claims."""
    source = {"sub": "user_1", "sid": "session_1", "org_id": "org_1", "auth_time": NOW - 60, **claims}
    return Principal(
        "org_1", "user_1", None, ("pets:read",), session_id="session_1", kind="user", session_claims=json.dumps(source)
    )


def test_a_sessions_claims_are_said_again() -> None:
    """Everything that a session's token said is said again, custom claims too; what is ours to say is ours."""
    custom = {
        "urn:acme:tier": {"level": 3, "of": [1.5, None, True]},
        "big": 2**70,
        "role": "admin",
        "feature_flags": [],
    }
    found = said(of_session(**custom, permissions=["pets:read"]))
    base = {"sub": "user_1", "sid": "session_1", "org_id": "org_1", "auth_time": NOW - 60}
    assert found == {"iss": ISSUER, **base, **custom, "permissions": ["pets:read"], **TIMES}
    assert said(of_session(), TokenShape("authkit", ISSUER, "api"))["aud"] == "api"
    assert said(of_session(nbf=NOW - 5))["nbf"] == NOW - 5
    assert "nbf" not in said(of_session(nbf=NOW + 5)), "a backend without our leeway would refuse it"


def test_an_applications_own_token() -> None:
    """A machine-to-machine client is its own subject, and says that it is no user."""
    client = Principal("org_1", None, None, agent="client_1", kind="client", session_claims='{"sub":"client_1"}')
    found = said(client)
    assert (found["sub"], found["sub_type"], found["permissions"]) == ("client_1", "client", [])
    assert claims_of(client, AUTHKIT).sub == "client_1"


def test_a_session_in_the_shape_of_rfc9068() -> None:
    """The profile's claims are there whatever the session's token said."""
    found = said(of_session(scope="openid"), RFC9068)
    assert (found["client_id"], found["aud"], found["scope"]) == ("user_1", "api", "pets:read")
    assert "permissions" not in found


@pytest.mark.parametrize(
    "name", [name for name in Claims._fields if name not in {"not_after", "leeway_s", "session_claims"}]
)
def test_a_change_of_any_claim_changes_the_token(name: str) -> None:
    """A change of any claim changes what the token says."""
    base = Claims("rfc9068", "i", "s", "t", "a", "o", ("r",), ("p",), "d", "c", "k", None)
    other: Any = "authkit" if name == "profile" else ("x",) if name in {"roles", "permissions"} else "x"
    assert payload(base._replace(**{name: other}), 1, 2, "j") != payload(base, 1, 2, "j")
