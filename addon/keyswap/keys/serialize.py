"""Serialisation of a key: WorkOS' JSON shape, and the audit detail.

Law: a key's value stands in one answer, that of the call which made it; nothing else here holds it.
"""

from datetime import UTC, datetime

from keyswap.keys.key import Key
from keyswap.keys.validate import LATEST


def iso(epoch_s: float | None) -> str | None:
    """Epoch seconds as ISO 8601 in UTC, as WorkOS writes it."""
    if epoch_s is None or not 0 <= epoch_s <= LATEST:
        return None if epoch_s is None else f"@{epoch_s}"
    return datetime.fromtimestamp(epoch_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def as_workos(key: Key, last_used: int | None) -> dict[str, object]:
    """WorkOS' ApiKey object, without its value."""
    user = {"type": "user", "id": key.user_id, "organization_id": key.org_id}
    return {
        "object": "api_key",
        "id": key.id,
        "owner": user if key.user_id else {"type": "organization", "id": key.org_id},
        "name": key.name,
        "obfuscated_value": key.obfuscated_value,
        "last_used_at": iso(last_used),
        "expires_at": iso(key.expires_at),
        "permissions": list(key.permissions),
        "created_at": iso(key.created_at),
        "updated_at": iso(key.updated_at),
    }


def audit_detail(key: Key) -> dict[str, object]:
    """A new key's fields for the audit log, without those that are empty."""
    detail = {
        "name": key.name,
        "org_id": key.org_id,
        "user_id": key.user_id,
        "env": key.env,
        "permissions": key.permissions,
        "roles": key.roles,
        "plan": key.plan,
        "expires_at": key.expires_at,
        "allow_ip": key.allow_ip,
    }
    return {name: value for name, value in detail.items() if value}
