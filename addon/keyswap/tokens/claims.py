"""Principal → claims → the payload of a token, in both profiles (CONTRACT §4).

Law: what a token says is decided here and nowhere else; absent claims are left out; a token for an organization's own
key says so (`sub_type`), and no token has `auth_time`, so that nobody takes it for a signed-in user.
"""

from typing import NamedTuple

from keyswap.model import Claims, Principal


class TokenShape(NamedTuple):
    """What the policy says of tokens. `profile` is authkit or rfc9068; rfc9068 needs an audience."""

    profile: str
    issuer: str
    audience: str | None


def claims_of(principal: Principal, shape: TokenShape) -> Claims:
    """Everything that a token for this principal says."""
    user = principal.user_id
    return Claims(
        shape.profile,
        shape.issuer,
        user or principal.key_id or "",
        None if user else "organization",
        shape.audience,
        principal.org_id,
        principal.roles,
        principal.permissions,
        principal.session_id,
        principal.actor,
        principal.key_id,
        principal.not_after,
    )


def payload(claims: Claims, iat: int, exp: int, jti: str) -> dict[str, object]:
    """A token's payload (RFC 7519 §4.1). `iat` and `exp` are epoch seconds."""
    said: dict[str, object | None] = {
        "iss": claims.iss,
        "sub": claims.sub,
        "sub_type": claims.sub_type,
        "aud": claims.aud,
        "org_id": claims.org_id,
        "role": claims.roles[0] if claims.roles else None,
        "roles": list(claims.roles) or None,
        "permissions": list(claims.permissions),
        "sid": claims.sid,
        "act": {"sub": claims.act} if claims.act else None,
        "api_key_id": claims.api_key_id,
        "jti": jti,
        "iat": iat,
        "exp": exp,
    }
    if claims.profile == "rfc9068":
        # RFC 9068 §2.2: client_id is required; §2.2.3: what a caller may do is its scope (RFC 8693 §4.2).
        said |= {
            "client_id": claims.api_key_id or claims.sub,
            "scope": " ".join(claims.permissions) or None,
            "permissions": None,
        }
    return {name: value for name, value in said.items() if value is not None}
