"""The claims of a token, by name and type.

Law: a claim that is used has the type that it should have, or the token is refused, whatever the claim's weight; null
is absent, but for `auth_time`, whose absence says something. Every other claim stays as it is.
"""

import json
import math
from collections.abc import Mapping
from typing import Any

from keyswap.sessions.jws import NotAToken

LAST_S = 253402300799
"""The last second of the year 9999: no later time can be written down."""

_REQUIRED = ("iss", "sub", "jti")
_NAMES = ("sid", "org_id", "client_id")
_TEXTS = ("role", "scope", "sub_type", "sub_profile")
_LISTS = ("roles", "permissions", "entitlements", "feature_flags")
_TIMES = ("exp", "iat", "nbf", "auth_time")
_OURS = frozenset({"iss", "aud", "jti", "iat", "exp"})
"""The claims of a token that one minted for it says itself (CONTRACT §4)."""


def checked(claims: Mapping[str, Any]) -> dict[str, Any]:
    """The claims without those that are null, each of its type. Raises NotAToken."""
    known = {*_REQUIRED, *_NAMES, *_TEXTS, *_LISTS, *_TIMES, "act", "aud"} - {"auth_time"}
    present = {name: value for name, value in claims.items() if value is not None or name not in known}
    for name in (*_REQUIRED, *_NAMES):
        _require(_is_name(present[name]) if name in present else name not in _REQUIRED, name, "a printable text")
    for name in _TEXTS:
        _require(name not in present or _is_text(present[name]), name, "a printable text")
    for name in _LISTS:
        _require(name not in present or _are_texts(present[name]), name, "a list of texts")
    for name in _TIMES:
        _require(_is_time(present[name]) if name in present else name not in {"exp", "iat"}, name, "a time")
    _require("act" not in present or _is_actor(present["act"]), "act", "an object with a sub")
    _require("aud" not in present or _is_audience(present["aud"]), "aud", "a text or a list of texts")
    _require(present["iat"] < present["exp"], "exp", "later than iat")
    return present


def audiences_of(claims: Mapping[str, Any]) -> tuple[str, ...]:
    """The audiences of a token (RFC 7519 §4.1.3)."""
    audiences = claims.get("aud", ())
    return (audiences,) if isinstance(audiences, str) else tuple(audiences)


def session_claims(claims: Mapping[str, Any]) -> str:
    """The claims that a token minted for this one repeats, as canonical JSON."""
    kept = {name: value for name, value in claims.items() if name not in _OURS}
    return json.dumps(kept, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _require(good: bool, name: str, what: str) -> None:
    if not good:
        raise NotAToken(f"the claim {name} is not {what}")


def _is_name(value: object) -> bool:
    """Whether a value can identify somebody in logs, in limits' keys and in other tokens."""
    return value != "" and _is_text(value)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value.isprintable()


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def _is_time(value: object) -> bool:
    """Epoch seconds (RFC 7519 §2, NumericDate); JSON's true is no 1."""
    return type(value) in (int, float) and math.isfinite(value) and 0 <= value <= LAST_S  # type: ignore[arg-type, operator]


def _is_actor(value: object) -> bool:
    return isinstance(value, dict) and _is_name(value.get("sub"))


def _is_audience(value: object) -> bool:
    return (isinstance(value, str) and value != "") or (_are_texts(value) and value != [])
