"""What may be written into a key: every text, address and time that comes from people is judged here.

Law: one clear ValueError sentence that names the field and never holds what was given, since a key may have slipped
into any of them.
"""

import json
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from ipaddress import IPv6Network, ip_network
from typing import TypedDict

from keyswap.keys.format import ENVIRONMENTS

MAX_TEXT, MAX_SLUG = 255, 128
MAX_SLUGS = 256
MAX_PERMISSIONS, MAX_ROLES = 4000, 512
"""Bytes of all permissions, and of all roles, as a token says them: with other claims, base64 and the signature it
stays below the 8 KiB that servers commonly take of a header."""
_SEPARATORS = re.compile(r"[\s,;|]")
"""What people separate slugs with: none of it stands in one."""
_MAPPED = IPv6Network("::ffff:0:0/96")


class KeyChanges(TypedDict, total=False):
    """What `update` may change of a key; `expires_at` in epoch seconds, None: it has no end."""

    name: str
    org_id: str
    user_id: str | None
    permissions: Iterable[str]
    roles: Iterable[str]
    plan: str | None
    expires_at: int | None
    allow_ip: Iterable[str]


class Checked(TypedDict, total=False):
    """Changes that were judged good, as `Key` holds them."""

    name: str
    org_id: str
    user_id: str | None
    permissions: tuple[str, ...]
    roles: tuple[str, ...]
    plan: str | None
    expires_at: int | None
    allow_ip: tuple[str, ...]


def checked(changes: KeyChanges, now: float) -> Checked:
    """The changes, judged; ValueError names the field that is not as it must be."""
    good: Checked = {}
    if "name" in changes:
        good["name"] = changes["name"] and text("name", changes["name"])
    if "org_id" in changes:
        good["org_id"] = text("org", changes["org_id"])
    if "user_id" in changes:
        good["user_id"] = None if changes["user_id"] is None else text("user", changes["user_id"])
    if "permissions" in changes:
        good["permissions"] = slugs("permissions", changes["permissions"], MAX_PERMISSIONS)
    if "roles" in changes:
        good["roles"] = slugs("roles", changes["roles"], MAX_ROLES)
    if "plan" in changes:
        good["plan"] = None if changes["plan"] is None else text("plan", changes["plan"])
    if "expires_at" in changes:
        good["expires_at"] = future(changes["expires_at"], now)
    if "allow_ip" in changes:
        good["allow_ip"] = networks(changes["allow_ip"])
    return good


def text(field: str, value: str) -> str:
    """1 to 255 characters, none of them a control character."""
    if not value.strip():
        raise ValueError(f"{field} must not be empty")
    if len(value) > MAX_TEXT:
        raise ValueError(f"{field} must not be longer than {MAX_TEXT} characters")
    if not value.isprintable():
        raise ValueError(f"{field} must not hold control characters")
    return value


def slugs(field: str, values: Iterable[str], most: int) -> tuple[str, ...]:
    """Permission or role slugs: in their order, each once, no separators, 1 to 128 characters; `most` bytes in all."""
    distinct = tuple(dict.fromkeys(values))
    for slug in distinct:
        if not slug or len(slug) > MAX_SLUG:
            raise ValueError(f"each of {field} must have 1 to {MAX_SLUG} characters")
        if _SEPARATORS.search(slug):
            raise ValueError(
                f"{field} must not hold blanks, commas, semicolons or bars: give several as several (--permission or "
                "--role once for each; in CSV separated by ; or , or blanks; in JSON as a list)"
            )
        if not slug.isprintable():
            raise ValueError(f"{field} must not hold control characters")
    if len(distinct) > MAX_SLUGS or len(json.dumps(distinct)) > most:
        raise ValueError(f"{field} must be at most {MAX_SLUGS} and have {most} bytes in all: a token holds them")
    return distinct


def networks(values: Iterable[str]) -> tuple[str, ...]:
    """CIDRs, each once, as the ipaddress module writes them."""
    written: dict[str, None] = {}
    for value in values:
        try:
            network = ip_network(value)
        except ValueError as error:
            hint = " (it has host bits set)" if "host bits" in str(error) else ""
            raise ValueError(f"allow_ip must be CIDRs such as 192.0.2.0/24 or 2001:db8::/32{hint}") from None
        if isinstance(network, IPv6Network) and network.subnet_of(_MAPPED):
            raise ValueError("allow_ip: write an IPv4-mapped network as IPv4")
        written[str(network)] = None
    return tuple(written)


LATEST = 253_402_300_799
"""The last second of the year 9999: what a date can say."""


def future(expires_at: float | None, now: float) -> int | None:
    """An epoch second that is still to come; None: no end."""
    if expires_at is None:
        return None
    if not now < expires_at <= LATEST:
        raise ValueError("expires_at must be in the future, and before the year 10000 (is it in milliseconds?)")
    return int(expires_at)


def moment(value: str) -> float:
    """Epoch seconds of an ISO 8601 time (RFC 3339 and bare dates; without an offset it is UTC)."""
    try:
        time = datetime.fromisoformat(value)
        return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise ValueError("it is not a time in ISO 8601, such as 2026-12-31T23:59:59Z") from None


def environment(env: str) -> str:
    """`live` or `test`."""
    if env not in ENVIRONMENTS:
        raise ValueError("env must be live or test")
    return env


def reason(value: str | None) -> str:
    """Why a key is revoked or blocked; it may be left out."""
    return text("reason", value) if value else ""
