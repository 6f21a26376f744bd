"""Guarantees of keys.key."""

import pytest

from keyswap.keys.key import Key, new_id, principal, state, why_not
from tests.keys.parts import NOW

KEY = Key("key_1", "", "org_1", None, "live", ("a",), (), None, (), "...", 0, 0)


@pytest.mark.parametrize(
    ("key", "word"),
    [
        (KEY, "active"),
        (KEY._replace(disabled=True), "disabled"),
        (KEY._replace(expires_at=int(NOW)), "expired"),
        (KEY._replace(expires_at=int(NOW) + 1), "active"),
        (KEY._replace(revoked_at=1, disabled=True, expires_at=1), "revoked"),
    ],
)
def test_state_and_reason_agree(key: Key, word: str) -> None:
    """A key is refused exactly when its state is not active; it ends at the second it expires."""
    assert state(key, NOW, blocked=False) == word
    assert (why_not(key, NOW, "192.0.2.1") is None) == (word == "active")
    assert state(key, NOW, blocked=True) == ("revoked" if word == "revoked" else "blocked")


@pytest.mark.parametrize(
    ("client", "good"),
    [
        ("192.0.2.9", True),
        ("::ffff:192.0.2.9", True),
        ("192.0.3.1", False),
        ("2001:db8::5", True),
        ("2001:db9::5", False),
        ("", False),
        ("unknown", False),
        ("192.0.2.9:80", False),
    ],
)
def test_allow_ip(client: str, good: bool) -> None:
    """Only addresses inside the CIDRs pass, mapped IPv4 counts as IPv4, and what is no address is refused."""
    key = KEY._replace(allow_ip=("192.0.2.0/24", "2001:db8::/32"))
    assert (why_not(key, NOW, client) is None) == good


def test_unreadable_allow_ip_refuses() -> None:
    """A network that cannot be parsed lets nobody in."""
    assert why_not(KEY._replace(allow_ip=("nonsense",)), NOW, "192.0.2.1")


def test_ids_sort_by_creation() -> None:
    """Ids are `key_` and 26 Crockford characters, later ones greater."""
    ids = [new_id(NOW + n / 1000) for n in range(0, 5000, 7)]
    assert ids == sorted(ids)
    assert len(ids[0]) == 30


def test_principal() -> None:
    """A principal carries what the key says, and ends when it does."""
    who = principal(KEY._replace(user_id="u", roles=("r",), plan="pro", expires_at=7))
    assert (who.org_id, who.user_id, who.key_id, who.permissions, who.roles, who.plan, who.not_after) == (
        "org_1", "u", "key_1", ("a",), ("r",), "pro", 7,
    )  # fmt: skip
