"""WorkOS' ApiKey, read strictly.

Law: what does not have the documented shape is malformed, and no key; what is not documented beside it is ignored. An
owner of another type than those known here is nobody that a principal could stand for.
"""

import re
from datetime import datetime
from typing import Any, NamedTuple

from keyswap.keys.key import Key, principal
from keyswap.model import Principal
from keyswap.workos.responses import Unusable

_ID = re.compile(r"[!-~]{1,255}")
_TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.\d+)?(Z|[+-]\d\d:\d\d)")


class Malformed(Unusable):
    """Not what WorkOS' document says. The text holds nothing of what it was given."""


class UnknownOwner(NamedTuple):
    """A key whose owner is of a type that nothing here knows."""

    key_id: str
    owner_type: str


class Told(NamedTuple):
    """A key that WorkOS holds to be good; `agent` is the registration of the agent that it belongs to."""

    key: Key
    agent: str | None

    def principal(self) -> Principal:
        """Who the key stands for."""
        return principal(self.key)._replace(agent=self.agent)


def read(answer: Any) -> Told | UnknownOwner | None:
    """The key in an answer of `POST /api_keys/validations`; None: the value is no good key. Raises Malformed."""
    said = _object(answer, "the answer")
    if "api_key" not in said:
        raise Malformed("the answer has no api_key")
    if said["api_key"] is None:
        return None
    key = _object(said["api_key"], "api_key")
    if key.get("object") != "api_key":
        raise Malformed("api_key is no object of that name")
    key_id, owner = _id(key, "id"), _object(key.get("owner"), "owner")
    kind = _text(owner, "type")
    if kind not in {"organization", "user"}:
        return UnknownOwner(key_id, kind[:64])
    agent = _id(said, "agent_registration_id") if said.get("agent_registration_id") is not None else None
    org_id, user_id = _id(owner, "id"), None
    if kind == "user":
        org_id, user_id = _id(owner, "organization_id"), org_id
    return Told(_key(key, key_id, org_id, user_id), agent)


def _key(said: dict[str, Any], key_id: str, org_id: str, user_id: str | None) -> Key:
    return Key(
        id=key_id,
        name=_text(said, "name"),
        org_id=org_id,
        user_id=user_id,
        env=None,
        permissions=_slugs(said),
        roles=(),
        plan=None,
        allow_ip=(),
        obfuscated_value=_text(said, "obfuscated_value"),
        created_at=_time(said, "created_at"),
        updated_at=_time(said, "updated_at"),
        expires_at=_time(said, "expires_at") if said.get("expires_at") is not None else None,
    )


def _object(found: Any, name: str) -> dict[str, Any]:
    if not isinstance(found, dict):
        raise Malformed(f"{name} is not an object")
    return found


def _text(said: dict[str, Any], name: str) -> str:
    found = said.get(name)
    if not isinstance(found, str):
        raise Malformed(f"{name} is not a text")
    return found


def _id(said: dict[str, Any], name: str) -> str:
    found = _text(said, name)
    if not _ID.fullmatch(found):
        raise Malformed(f"{name} is not 1 to 255 characters of printable ASCII")
    return found


def _slugs(said: dict[str, Any]) -> tuple[str, ...]:
    found = said.get("permissions")
    if not isinstance(found, list) or not all(isinstance(slug, str) for slug in found):
        raise Malformed("permissions is not a list of texts")
    return tuple(found)


def _time(said: dict[str, Any], name: str) -> int:
    """Epoch seconds, rounded down, of a time as RFC 3339 §5.6 writes it."""
    parts = _TIME.fullmatch(_text(said, name))
    try:
        if parts is None:
            raise ValueError
        return int(datetime.fromisoformat(parts[1] + parts[2]).timestamp())
    except ValueError:
        raise Malformed(f"{name} is not a time") from None
