"""Keys as commands print them.

Law: a key's value is printed once, by the command that made it.
"""

import time
from collections.abc import Sequence
from typing import Any

from keyswap.cli.output import Setting
from keyswap.keys.key import Key, state
from keyswap.keys.local.writer import Ledger
from keyswap.keys.serialize import as_workos


def as_json(ledger: Ledger, keys: Sequence[Key], value: str | None = None) -> list[dict[str, Any]]:
    """Keys in WorkOS' shape with our fields (CONTRACT §2); `value` on create and rotate only."""
    now, used = time.time(), ledger.last_used([key.id for key in keys])
    return [_key_json(key, state(key, now, ledger.is_blocked(key)), used.get(key.id), value) for key in keys]


def _key_json(key: Key, standing: str, last_used: int | None, value: str | None) -> dict[str, Any]:
    return {
        **as_workos(key, last_used),
        "env": key.env,
        "roles": list(key.roles),
        "plan": key.plan,
        "allow_ip": list(key.allow_ip),
        "state": standing,
        "revoked_reason": key.revoked_reason,
        **({"value": value} if value else {}),
    }


def show_list(setting: Setting, ledger: Ledger, keys: Sequence[Key]) -> None:
    """Print keys as a list."""
    data = as_json(ledger, keys)
    document = {"object": "list", "data": data, "list_metadata": {"before": None, "after": None}}
    heads = ("id", "key", "name", "org", "user", "permissions", "plan", "state", "expires", "last used")
    rows = [
        (
            *(row["id"], row["obfuscated_value"], row["name"], key.org_id, key.user_id, " ".join(key.permissions)),
            *(key.plan, row["state"], row["expires_at"], row["last_used_at"]),
        )
        for row, key in zip(data, keys, strict=True)
    ]
    setting.table(document, heads, rows)


def show_one(setting: Setting, ledger: Ledger, key: Key, value: str | None = None, agent: str | None = None) -> None:
    """Print one key, with its value when it has just been made; `agent`: whose registration it belongs to."""
    (data,) = as_json(ledger, [key], value)
    if agent is not None:
        data["agent_registration_id"] = agent
    owner = data.pop("owner")
    lines = [
        f"{name:<17}{', '.join(value) if isinstance(value, list) else value}" for name, value in data.items() if value
    ]
    if value:
        lines = [value, "(shown this once: keyswap keeps only a digest of it)", *(x for x in lines if value not in x)]
    setting.print(
        {"owner": owner, **data}, *lines, f"{'organization':<17}{key.org_id}", f"{'user':<17}{key.user_id or '-'}"
    )
