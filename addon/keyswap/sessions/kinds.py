"""Kinds of tokens, and the principal that a token stands for.

Law: a token is of one kind or of none. User, agent and widget tokens of an environment are signed by the same key, so
the key proves nothing of this: a user's session is what has all of its marks and none of another kind's. A token's kind
is judged by an entry of the policy that asks for that kind, never by another one of the same issuer. Every reason names
the claim that failed.

    authkit   a user's session (AuthKit)      connect   an OAuth client, of a user or of its own      agent   an agent
"""

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from keyswap.model import Principal
from keyswap.sessions.claims import audiences_of, session_claims
from keyswap.sessions.jws import NotAToken

_AGENTS = ("agent", "ai_agent")
"""Names of a subject that is an agent. A subject that has one of them and another kind's name is no agent."""

_OF_IDENTITY = ("nonce", "at_hash", "c_hash", "s_hash")
"""Claims that only an id token has: it tells a client who has signed in, and opens nothing."""


@dataclass(frozen=True, slots=True)
class Issuer:
    """An entry of the policy's `sessions`: the issuers whose tokens of one kind are accepted, and how."""

    kind: str
    """authkit, connect or agent."""
    issuers: tuple[str, ...]
    jwks_url: str
    audiences: tuple[str, ...] = ()
    leeway_s: float = 30.0
    passes: bool = False
    """The backend gets the token as it is (`forward: as_is`)."""
    permissions_from: str = "claims"
    """`claims` or `scope`."""
    client_ids: tuple[str, ...] = ()
    """The environment's own client id, as far as the policy names it."""


def kind_of(claims: Mapping[str, Any], client_ids: Collection[str] = ()) -> str:
    """The kind of a token by its claims, each of which is of its type. Raises NotAToken.

    `client_ids` are the environment's own.
    """
    for name in _OF_IDENTITY:
        _require(name not in claims, f"it is an id token, no access token ({name})")
    profile, subject = claims.get("sub_profile"), claims.get("sub_type")
    if profile in _AGENTS or subject in _AGENTS:
        if profile not in (None, *_AGENTS) or subject not in (None, *_AGENTS):
            raise NotAToken("the token is an agent's, and says that it is not (sub_profile, sub_type)")
        return "agent"
    wrong = no_session(claims, client_ids)
    if wrong is None:
        return "authkit"
    _require("auth_time" not in claims and "client_id" in claims, wrong)
    _require(subject is None, "a client's token says nothing of its subject's kind (sub_type)")
    _require(profile is None, "a client's token says nothing of its subject's kind (sub_profile)")
    _require("act" not in claims, "nobody acts for a client (act)")
    _require("sid" in claims or claims["sub"] == claims["client_id"], "a client's token of a user has a session (sid)")
    _require("sid" not in claims or claims["sub"] != claims["client_id"], "a client has no session of its own (sid)")
    return "connect"


def no_session(claims: Mapping[str, Any], client_ids: Collection[str]) -> str | None:
    """Why a token is no user's session; None: it is one.

    Sessions of newer environments have `auth_time`. WorkOS' reference has none, but says how `sid` and `sub` begin, and
    such a token is of the environment itself, whose other tokens without `auth_time` are made for a scope.
    """
    if claims.get("sub_type") is not None:
        return "it is the token of something else than a user (sub_type)"
    if claims.get("sub_profile") not in (None, "user"):
        return "it is the token of something else than a user (sub_profile)"
    if "sid" not in claims:
        return "it is no user's session: it has no sid"
    if "auth_time" in claims:
        return None
    for name, begins in (("sid", "session_"), ("sub", "user_")):
        if not claims[name].startswith(begins):
            return f"it is no user's session: it has no auth_time, and its {name} does not begin with {begins}"
    if claims.get("client_id") not in (None, *client_ids):
        own = "the environment's own" if client_ids else "known: set workos.client_id to the environment's own"
        return f"it is no user's session: it has no auth_time, and its client_id is not {own}"
    if "scope" in claims:
        return "it is no user's session: it has no auth_time, and is made for a scope"
    return None


def check_audience(entry: Issuer, claims: Mapping[str, Any]) -> None:
    """Check the audience: a client's token has to have one; a user's or an agent's has no need to. Raises NotAToken."""
    audiences = audiences_of(claims)
    if audiences or entry.kind == "connect":
        _require(any(audience in entry.audiences for audience in audiences), "the token is for somebody else (aud)")


def principal_of(entry: Issuer, claims: Mapping[str, Any], ends_at: float) -> Principal:
    """The principal that a verified token stands for until `ends_at`; `session_token` is left out."""
    user, agent, actor = _WHO[entry.kind](claims)
    return Principal(
        org_id=claims.get("org_id"),
        user_id=user,
        permissions=_permissions(entry, claims),
        roles=tuple(claims.get("roles", ())) or tuple(filter(None, (claims.get("role"),))),
        session_id=claims.get("sid"),
        agent=agent,
        actor=actor,
        not_after=math.floor(ends_at),
        kind=_CALLED[entry.kind],
        since=int(claims["iat"]),
        session_claims=session_claims(claims),
        leeway_s=math.ceil(entry.leeway_s),
    )


_CALLED = {"authkit": "user", "connect": "client", "agent": "agent"}

_WHO: dict[str, Callable[[Mapping[str, Any]], tuple[str | None, str | None, str | None]]] = {
    # Who acts in a user's place is an impersonator; in whose place an agent acts is its user.
    "authkit": lambda claims: (claims["sub"], None, claims["act"]["sub"] if "act" in claims else None),
    "connect": lambda claims: (claims["sub"] if "sid" in claims else None, claims["client_id"], None),
    "agent": lambda claims: (claims["act"]["sub"] if "act" in claims else None, claims["sub"], None),
}
"""User, agent and actor, by the entry's kind."""


def _permissions(entry: Issuer, claims: Mapping[str, Any]) -> tuple[str, ...]:
    if entry.permissions_from == "scope":
        return tuple(claims.get("scope", "").split())
    return tuple(claims.get("permissions", ()))


def _require(good: bool, otherwise: str) -> None:
    if not good:
        raise NotAToken(otherwise)
