"""WorkOS' ApiKey, read strictly.

Law: what does not have the documented shape is malformed, and no key; what is not documented beside it is ignored. A
key whose owner is of an unknown type stands for no principal.
"""

import re
from datetime import datetime
from typing import Any, NamedTuple

from keyswap.keys.key import Key, principal
from keyswap.model import Principal
from keyswap.workos.responses import UnusableAnswer

_ID = re.compile(r"[!-~]{1,255}")
_TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.\d+)?(Z|[+-]\d\d:\d\d)")


class Malformed(UnusableAnswer):
    """Not what WorkOS' document says. The text holds nothing of what it was given."""


class UnknownOwner(NamedTuple):
    """A key whose owner is of an unknown type."""

    key_id: str
    owner_type: str


class ValidatedKey(NamedTuple):
    """A key that WorkOS holds to be good; `agent` is the registration of the agent that it belongs to."""

    key: Key
    agent: str | None

    def principal(self) -> Principal:
        """The principal that the key stands for."""
        return principal(self.key)._replace(agent=self.agent)


def read(answer: Any) -> ValidatedKey | UnknownOwner | None:
    """The key in an answer of `POST /api_keys/validations`; None: the value is no good key. Raises Malformed."""
    fields = _object(answer, "the answer")
    if "api_key" not in fields:
        raise Malformed("the answer has no api_key")
    if fields["api_key"] is None:
        return None
    key = _object(fields["api_key"], "api_key")
    if key.get("object") != "api_key":
        raise Malformed("api_key is no object of that name")
    key_id, owner = _id(key, "id"), _object(key.get("owner"), "owner")
    kind = _text(owner, "type")
    if kind not in {"organization", "user"}:
        return UnknownOwner(key_id, kind[:64])
    agent = _id(fields, "agent_registration_id") if fields.get("agent_registration_id") is not None else None
    org_id, user_id = _id(owner, "id"), None
    if kind == "user":
        org_id, user_id = _id(owner, "organization_id"), org_id
    return ValidatedKey(_key(key, key_id, org_id, user_id), agent)


def _key(fields: dict[str, Any], key_id: str, org_id: str, user_id: str | None) -> Key:
    return Key(
        id=key_id,
        name=_text(fields, "name"),
        org_id=org_id,
        user_id=user_id,
        env=None,
        permissions=_slugs(fields),
        roles=(),
        plan=None,
        allow_ip=(),
        obfuscated_value=_text(fields, "obfuscated_value"),
        created_at=_time(fields, "created_at"),
        updated_at=_time(fields, "updated_at"),
        expires_at=_time(fields, "expires_at") if fields.get("expires_at") is not None else None,
    )


def _object(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Malformed(f"{name} is not an object")
    return value


def _text(fields: dict[str, Any], name: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str):
        raise Malformed(f"{name} is not a text")
    return value


def _id(fields: dict[str, Any], name: str) -> str:
    value = _text(fields, name)
    if not _ID.fullmatch(value):
        raise Malformed(f"{name} is not 1 to 255 characters of printable ASCII")
    return value


def _slugs(fields: dict[str, Any]) -> tuple[str, ...]:
    value = fields.get("permissions")
    if not isinstance(value, list) or not all(isinstance(slug, str) for slug in value):
        raise Malformed("permissions is not a list of texts")
    return tuple(value)


def _time(fields: dict[str, Any], name: str) -> int:
    """Epoch seconds, rounded down, of a time as RFC 3339 §5.6 writes it."""
    parts = _TIME.fullmatch(_text(fields, name))
    try:
        if parts is None:
            raise ValueError
        return int(datetime.fromisoformat(parts[1] + parts[2]).timestamp())
    except ValueError:
        raise Malformed(f"{name} is not a time") from None
