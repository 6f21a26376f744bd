"""What WorkOS' events mean."""

from typing import Any

import pytest

from keyswap.workos.change_feed import Change
from keyswap.workos.events import OLDER_TYPES, TYPES, Event, read

NOW = 1_800_000_000.0
AT = "2026-01-15T12:00:00.000Z"
AT_S = 1_768_478_400.0
KEY = {"object": "api_key", "id": "api_key_1", "owner": {"type": "organization", "id": "org_1"}, "name": "n"}
MEMBERSHIP = {"object": "organization_membership", "id": "om_1", "user_id": "user_1", "organization_id": "org_1"}
ALL = ("all", "", False)
MEANINGS: list[tuple[str, dict[str, Any], tuple[str, str, bool]]] = [
    ("api_key.created", KEY, ("key", "api_key_1", False)),
    ("api_key.updated", KEY, ("key", "api_key_1", False)),
    ("api_key.revoked", KEY, ("key", "api_key_1", True)),
    ("session.revoked", {"object": "session", "id": "session_1", "user_id": "user_1"}, ("session", "session_1", True)),
    ("user.deleted", {"object": "user", "id": "user_1"}, ("user", "user_1", True)),
    ("organization.deleted", {"object": "organization", "id": "org_1"}, ("org", "org_1", True)),
    ("organization_membership.created", MEMBERSHIP, ("membership", "user_1", False)),
    ("organization_membership.updated", MEMBERSHIP, ("membership", "user_1", False)),
    ("organization_membership.deleted", MEMBERSHIP, ("membership", "user_1", False)),
    ("role.created", {"object": "role", "slug": "admin"}, ALL),
    ("role.updated", {"object": "role", "slug": "admin"}, ALL),
    ("role.deleted", {"object": "role", "slug": "admin"}, ALL),
    ("organization_role.created", {"slug": "admin", "organization_id": "org_1"}, ALL),
    ("organization_role.updated", {"slug": "admin", "organization_id": "org_1"}, ALL),
    ("organization_role.deleted", {"slug": "admin", "organization_id": "org_1"}, ALL),
    ("permission.created", {"id": "perm_1", "slug": "pets:read"}, ALL),
    ("permission.updated", {"id": "perm_1", "slug": "pets:read"}, ALL),
    ("permission.deleted", {"id": "perm_1", "slug": "pets:read"}, ALL),
    ("group.created", {"id": "group_1"}, ALL),
    ("group.updated", {"id": "group_1"}, ALL),
    ("group.deleted", {"id": "group_1"}, ALL),
    ("group.member_added", {"group_id": "group_1", "organization_membership_id": "om_1"}, ALL),
    ("group.member_removed", {"group_id": "group_1", "organization_membership_id": "om_1"}, ALL),
    ("agent.registration.revoked", {"id": "agent_reg_1"}, ("agent", "agent_reg_1", True)),
    ("agent.registration.expired", {"id": "agent_reg_1"}, ("agent", "agent_reg_1", True)),
    ("agent.registration.deleted", {"id": "agent_reg_1"}, ("agent", "agent_reg_1", True)),
    (
        "agent.registration.credential.issued",
        {"id": "agent_cred_1", "agent_registration_id": "agent_reg_1", "detail": {"kind": "api_key"}},
        ("agent", "agent_reg_1", False),
    ),
    (
        "agent.registration.organization.switched",
        {"agent_registration_id": "agent_reg_1", "from_organization_id": "org_1", "to_organization_id": "org_2"},
        ("agent", "agent_reg_1", False),
    ),
    ("agent.instance.session.revoked", {"id": "agent_session_1"}, ("session", "agent_session_1", True)),
]


def event(kind: Any, data: Any, **more: Any) -> dict[str, Any]:
    return {"object": "event", "id": "event_1", "event": kind, "data": data, "created_at": AT} | more


@pytest.mark.parametrize(("kind", "data", "means"), MEANINGS)
def test_what_it_means(kind: str, data: dict[str, Any], means: tuple[str, str, bool]) -> None:
    """Each type that is asked for concerns the one it names, at the time it names."""
    assert read(event(kind, data, context={"client_id": "x"}), NOW) == Event("event_1", (Change(*means, AT_S),), None)


def test_every_type_is_tried() -> None:
    """The types that are asked for are those above; the older ones are some of them."""
    assert set(TYPES) == {kind for kind, _, _ in MEANINGS} and set(OLDER_TYPES) < set(TYPES)
    assert all(any(kind.startswith(name) for kind in TYPES) for name in ("role.", "group.", "permission."))


@pytest.mark.parametrize("kind", ["user.updated", "session.created", "dsync.user.created", "something.new", ""])
def test_other_types_mean_nothing(kind: str) -> None:
    """A type that is not known changes nothing, whatever is in it."""
    assert read(event(kind, None), NOW) == Event("event_1", (), None)


@pytest.mark.parametrize(
    "broken",
    [
        event("api_key.revoked", None),
        event("api_key.revoked", []),
        event("api_key.revoked", {}),
        event("api_key.revoked", {"id": 7}),
        event("api_key.revoked", {"id": ""}),
        event("api_key.revoked", {"id": "a\nb"}),
        event("api_key.revoked", {"id": "x" * 201}),
        event("organization_membership.updated", {"id": "om_1"}),
        event("session.revoked", {"id": "session_1"}, created_at=None),
        event("session.revoked", {"id": "session_1"}, created_at="yesterday"),
        event("session.revoked", {"id": "session_1"}, created_at=1.0),
    ],
)
def test_a_broken_one_forgets_everything(broken: dict[str, Any]) -> None:
    """An event of a known type that cannot be read is never passed over: everything is asked for again."""
    found = read(broken, NOW)
    assert found is not None and found.changes == (Change("all", "", False, NOW),) and found.fault


@pytest.mark.parametrize(
    "raw", [None, 7, "event", [], {}, {"id": None}, {"id": 7}, {"id": ""}, {"id": "x" * 201}, {"id": "a\nb"}]
)
def test_no_event(raw: object) -> None:
    """What has no id is no event."""
    assert read(raw, NOW) is None


@pytest.mark.parametrize("kind", [None, 7, [], {}])
def test_a_type_that_is_no_text(kind: object) -> None:
    """An event without a type means nothing, and says so."""
    found = read(event(kind, {}), NOW)
    assert found is not None and found.changes == () and found.fault


@pytest.mark.parametrize(
    ("text", "at_s"),
    [
        (AT, AT_S),
        ("2026-01-15T13:00:00+01:00", AT_S),
        ("2026-01-15T12:00:00", AT_S),
        ("2026-01-15T12:00:00.123456Z", AT_S + 0.123456),
    ],
)
def test_times(text: str, at_s: float) -> None:
    """Times are read with and without an offset."""
    found = read(event("role.updated", {}, created_at=text), NOW)
    assert found is not None and found.changes[0].at == pytest.approx(at_s, abs=1e-6)
