"""WorkOS' events: what each of them says has changed.

Law: pure. A type that is not listed here means nothing to the gateway. An event of a listed type that is not shaped as
it should be is never passed over: everything that is remembered is asked for again, and `fault` says why.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from keyswap.workos.change_feed import Change


class _Means(NamedTuple):
    kind: str
    field: str
    """Where in `data` its id is; empty: it concerns everything."""
    ends: bool


class Event(NamedTuple):
    """An event as it is recorded."""

    id: str
    changes: tuple[Change, ...]
    """None of them: it means nothing to the gateway."""
    fault: str | None
    """Why it could not be read as it should be; None: it could."""


class Garbage(Exception):
    """An answer that is none."""


class EventPage(NamedTuple):
    """A page of the list of events."""

    events: list[Event]
    last: str | None
    """The event after which the list goes on; None: the page is empty."""
    full: bool


_ALL = _Means("all", "", False)

# A membership's user is asked for again, also when the membership is deleted: keys are refused then by WorkOS itself,
# and a session goes on until its token ends (an AuthKit token lives minutes; whoever cannot wait revokes the session,
# which comes as an event of its own).
_MEANS: Mapping[str, _Means] = {
    "api_key.created": _Means("key", "id", False),
    "api_key.updated": _Means("key", "id", False),
    "api_key.revoked": _Means("key", "id", True),
    "session.revoked": _Means("session", "id", True),
    "user.deleted": _Means("user", "id", True),
    "organization.deleted": _Means("org", "id", True),
    "organization_membership.created": _Means("membership", "user_id", False),
    "organization_membership.updated": _Means("membership", "user_id", False),
    "organization_membership.deleted": _Means("membership", "user_id", False),
    "role.created": _ALL,
    "role.updated": _ALL,
    "role.deleted": _ALL,
    "organization_role.created": _ALL,
    "organization_role.updated": _ALL,
    "organization_role.deleted": _ALL,
    "permission.created": _ALL,
    "permission.updated": _ALL,
    "permission.deleted": _ALL,
    "group.created": _ALL,
    "group.updated": _ALL,
    "group.deleted": _ALL,
    "group.member_added": _ALL,
    "group.member_removed": _ALL,
    "agent.registration.revoked": _Means("agent", "id", True),
    "agent.registration.expired": _Means("agent", "id", True),
    "agent.registration.deleted": _Means("agent", "id", True),
    "agent.registration.credential.issued": _Means("agent", "agent_registration_id", False),
    "agent.registration.organization.switched": _Means("agent", "agent_registration_id", False),
    "agent.instance.session.revoked": _Means("session", "id", True),
}
TYPES: tuple[str, ...] = tuple(_MEANS)
"""What is asked for."""
OLDER_TYPES: tuple[str, ...] = tuple(
    name for name in TYPES if name != "api_key.updated" and not name.startswith("agent.")
)
"""Those that WorkOS' published document has; asked for where the others are refused."""
_LONGEST_ID = 200


def read(raw: object, now: float) -> Event | None:
    """What an event says, out of its parsed JSON; None when it has no id, and so is no event. `now`: epoch seconds."""
    if not isinstance(raw, dict) or not _is_id(raw.get("id")):
        return None
    means = _MEANS.get(kind) if isinstance(kind := raw.get("event"), str) else None
    if means is None:
        fault = None if isinstance(kind, str) else "its type is no text"
        return Event(raw["id"], (), fault)
    try:
        change = Change(means.kind, _subject(means, raw.get("data")), means.ends, _time(raw.get("created_at")))
    except ValueError as error:
        return Event(raw["id"], (Change("all", "", False, now),), f"{kind}: {error}")
    return Event(raw["id"], (change,), None)


def page(answer: object, size: int, now: float) -> EventPage:
    """A page out of its parsed JSON; `size` is how many events were asked for. Raises Garbage."""
    data = answer.get("data") if isinstance(answer, dict) else None
    if not isinstance(data, list):
        raise Garbage("WorkOS' answer is no list of events")
    events = [event for raw in data if (event := read(raw, now)) is not None]
    if data and not events:
        raise Garbage("WorkOS' events have no ids")
    return EventPage(events, events[-1].id if events else None, len(data) >= size)


def _subject(means: _Means, data: Any) -> str:
    if not means.field:
        return ""
    value = data.get(means.field) if isinstance(data, dict) else None
    if not _is_id(value):
        raise ValueError(f"data.{means.field} is no id")
    return str(value)


def _is_id(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= _LONGEST_ID and value.isascii() and value.isprintable()


def _time(value: object) -> float:
    """Epoch seconds of an ISO 8601 time; without an offset it is UTC."""
    try:
        at = datetime.fromisoformat(value) if isinstance(value, str) else None
        if at is None:
            raise ValueError
        return (at if at.tzinfo is not None else at.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise ValueError("created_at is no time") from None
