"""A key, and the reasons for which it is no good now.

Law: values and pure functions; the time and the caller's address come in as arguments. The reasons are private: they
name the key's state, never its value.
"""

import secrets
from functools import lru_cache
from typing import NamedTuple

from keyswap.model import Principal
from keyswap.request import addresses

_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


class Key(NamedTuple):
    """A key as it is kept; its value is not. Times are epoch seconds; `env` is None for a key imported from elsewhere.

    `version` is the database revision that last changed it.
    """

    id: str
    name: str
    org_id: str
    user_id: str | None
    env: str | None
    permissions: tuple[str, ...]
    roles: tuple[str, ...]
    plan: str | None
    allow_ip: tuple[str, ...]
    obfuscated_value: str
    created_at: int
    updated_at: int
    expires_at: int | None = None
    disabled: bool = False
    revoked_at: int | None = None
    revoked_reason: str | None = None
    version: int = 0


def new_id(now: float, kind: str = "key") -> str:
    """`key_`, or another kind, and a ULID (github.com/ulid/spec): ids sort by creation, to the millisecond."""
    number = (int(now * 1000) & (1 << 48) - 1) << 80 | secrets.randbits(80)
    return f"{kind}_" + "".join(_CROCKFORD[number >> shift & 31] for shift in range(125, -1, -5))


def why_not(key: Key, now: float, client: str) -> str | None:
    """Why the key is no good for `client` (an address as text) at `now`; None: it is good. Blocks are not seen here."""
    if key.revoked_at is not None:
        return f"the key was revoked: {key.revoked_reason}" if key.revoked_reason else "the key was revoked"
    if key.disabled:
        return "the key is disabled"
    if key.expires_at is not None and now >= key.expires_at:
        return "the key has expired"
    if key.allow_ip and not allowed_from(client, key.allow_ip):
        return "the caller's address is outside the key's allow_ip"
    return None


def state(key: Key, now: float, blocked: bool) -> str:
    """One word for people; what cannot be undone is said before what can."""
    if key.revoked_at is not None:
        return "revoked"
    if blocked:
        return "blocked"
    if key.expires_at is not None and now >= key.expires_at:
        return "expired"
    return "disabled" if key.disabled else "active"


def principal(key: Key) -> Principal:
    """The principal that the key stands for."""
    return Principal(
        key.org_id, key.user_id, key.id, key.permissions, key.roles, key.plan, None, None, None, key.expires_at
    )


def allowed_from(client: str, allow_ip: tuple[str, ...]) -> bool:
    """Whether the address lies in one of the CIDRs; an address or CIDR that cannot be parsed lies in none."""
    try:
        address, allowed = _address(client), _networks(allow_ip)
    except ValueError:
        return False
    return address is not None and any(address in network for network in allowed)


# Parsed once, not per request: ip_address takes 2 µs, a hit here 0.1.
@lru_cache(4096)
def _networks(allow_ip: tuple[str, ...]) -> tuple[addresses.Network, ...]:
    return tuple(map(addresses.network, allow_ip))


@lru_cache(4096)
def _address(client: str) -> addresses.Address | None:
    return addresses.parsed(client)
