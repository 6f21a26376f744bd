"""Whose token it is, and the principal that it stands for.

Law: a token is of one kind or of none. User, agent and widget tokens of an environment are signed by the same key, so
the key proves nothing of this: a user's session is what has all of its marks and none of another kind's. A token's kind
is judged by an entry of the policy that asks for that kind, never by another one of the same issuer.

    authkit   a user's session (AuthKit)      connect   an OAuth client, of a user or of its own      agent   an agent
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from keyswap.model import Principal
from keyswap.sessions.claims import audiences_of, copied
from keyswap.sessions.token import NotAToken

_AGENTS = ("agent", "ai_agent")
"""How a subject that is an agent is called. One that is called both this and something else is none."""

_OF_IDENTITY = ("nonce", "at_hash", "c_hash", "s_hash")
"""Claims that only an id token has: it tells a client who has signed in, and opens nothing."""


@dataclass(frozen=True, slots=True)
class Issuer:
    """One entry of the policy's `sessions`: whose tokens of one kind are believed, and what becomes of them."""

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


def kind_of(claims: Mapping[str, Any]) -> str:
    """The kind of a token by its claims, each of which is of its type. Raises NotAToken."""
    if any(name in claims for name in _OF_IDENTITY):
        raise NotAToken("it is an id token, no access token")
    profile, subject = claims.get("sub_profile"), claims.get("sub_type")
    if profile in _AGENTS or subject in _AGENTS:
        if profile not in (None, *_AGENTS) or subject not in (None, *_AGENTS):
            raise NotAToken("the token is an agent's, and says that it is not")
        return "agent"
    if "auth_time" in claims:
        _require("sid" in claims, "a user's session has a sid")
        _require(subject is None and profile in (None, "user"), "it is the token of something else than a user")
        return "authkit"
    _require("client_id" in claims, "it is neither a user's session nor a client's token")
    _require(subject is None and profile is None, "a client's token says nothing of its subject's kind")
    _require("act" not in claims, "nobody acts for a client")
    _require("sid" in claims or claims["sub"] == claims["client_id"], "a client's token of a user has a sid")
    _require("sid" not in claims or claims["sub"] != claims["client_id"], "a client has no session of its own")
    return "connect"


def check_audience(entry: Issuer, claims: Mapping[str, Any]) -> None:
    """Whom the token is for: a client's has to say so; a user's or an agent's has no need to. Raises NotAToken."""
    said = audiences_of(claims)
    if said or entry.kind == "connect":
        _require(any(one in entry.audiences for one in said), "the token is for somebody else (aud)")


def principal_of(entry: Issuer, claims: Mapping[str, Any]) -> Principal:
    """The principal that a verified token stands for; `passed` is left out."""
    user, agent, actor = _WHO[entry.kind](claims)
    return Principal(
        org_id=claims.get("org_id"),
        user_id=user,
        permissions=_permissions(entry, claims),
        roles=tuple(claims.get("roles", ())) or tuple(filter(None, (claims.get("role"),))),
        session_id=claims.get("sid"),
        agent=agent,
        actor=actor,
        not_after=int(claims["exp"]),
        kind=_CALLED[entry.kind],
        since=int(claims["iat"]),
        copied=copied(claims),
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
