"""Principal → claims → the payload of a token, in both profiles (CONTRACT §4).

Law: what a token says is decided here and nowhere else; absent claims are left out; a token for an organization's own
key says so (`sub_type`), and so does one for an application's. `auth_time` is in no token but that of a session which
had it: nobody takes another for a signed-in user. What a session's token said is said again, unchanged, but for what
is ours to say.
"""

import json
from typing import NamedTuple

from keyswap.model import Claims, Principal


class TokenShape(NamedTuple):
    """The policy's settings for tokens. `profile` is authkit or rfc9068; rfc9068 needs an audience."""

    profile: str
    issuer: str
    audience: str | None


def claims_of(principal: Principal, shape: TokenShape) -> Claims:
    """All claims of a token for this principal."""
    user = principal.user_id
    if principal.kind == "key":
        subject, kind = user or principal.key_id or "", None if user else "organization"
    else:
        of_agent = user is None or principal.kind == "agent"
        subject, kind = (principal.agent if of_agent else user) or "", None if user else principal.kind
    return Claims(
        shape.profile,
        shape.issuer,
        subject,
        kind,
        shape.audience,
        principal.org_id,
        principal.roles,
        principal.permissions,
        principal.session_id,
        principal.actor,
        principal.key_id,
        principal.not_after,
        principal.session_claims,
        principal.agent if principal.kind == "key" else None,
        principal.leeway_s,
    )


def payload(claims: Claims, iat: int, exp: int, jti: str) -> dict[str, object]:
    """A token's payload (RFC 7519 §4.1). `iat` and `exp` are epoch seconds."""
    if claims.session_claims is not None:
        return _session_payload(claims, iat, exp, jti)
    content: dict[str, object | None] = {
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
        "agent_registration_id": claims.agent,
        "jti": jti,
        "iat": iat,
        "exp": exp,
    }
    if claims.profile == "rfc9068":
        # RFC 9068 §2.2: client_id is required; §2.2.3: what a caller may do is its scope (RFC 8693 §4.2).
        content |= {
            "client_id": claims.api_key_id or claims.sub,
            "scope": " ".join(claims.permissions) or None,
            "permissions": None,
        }
    return {name: value for name, value in content.items() if value is not None}


def _session_payload(claims: Claims, iat: int, exp: int, jti: str) -> dict[str, object]:
    """The payload for a session: everything that its token said, but for what is ours to say (CONTRACT §4)."""
    source: dict[str, object] = json.loads(claims.session_claims or "{}")
    content = {**source, "iss": claims.iss, "jti": jti, "iat": iat, "exp": exp, "permissions": list(claims.permissions)}
    begins = content.get("nbf")
    if isinstance(begins, int | float) and begins > iat:
        del content["nbf"]  # judged with our leeway: a backend with less would refuse what was admitted
    if claims.aud is not None:
        content["aud"] = claims.aud
    if claims.sub_type is not None:
        content.setdefault("sub_type", claims.sub_type)
    if claims.profile == "rfc9068":
        content.setdefault("client_id", claims.sub)
        content["scope"] = " ".join(claims.permissions)
        del content["permissions"]
        if not claims.permissions:
            del content["scope"]
    return content


def explained_claims(claims: Claims) -> dict[str, object]:
    """The claims as an explanation shows them."""
    source: dict[str, object] = json.loads(claims.session_claims) if claims.session_claims is not None else {}
    return {**source, **claims._replace(session_claims=None)._asdict()}
