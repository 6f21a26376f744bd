"""Guarantees of keys.ledger, keys.denylist, keys.importing and keys.inputs."""

import hashlib
import sqlite3
from contextlib import closing
from typing import Any

import pytest

from keyswap.keys.importing import BadRow, parse_import
from keyswap.keys.local.reader import UnknownKey
from keyswap.keys.local.writer import KeyUnusable
from keyswap.model import Principal, StateError
from keyswap.state import KEYS
from tests.keys.parts import NOW, Parts


def test_create_is_read_back(parts: Parts) -> None:
    """What was created is what get, list and find return; each change raises revision and epoch by one."""
    epoch = parts.epochs.read(KEYS)
    key, value = parts.create(user_id="u", roles=["r", "r"], plan="pro", expires_at=int(NOW) + 9, env="test")
    assert parts.ledger.get(key.id) == key == parts.ledger.find(value)
    assert parts.ledger.list() == parts.ledger.list("org_1") == [key]
    assert parts.ledger.list("org_2") == []
    assert (key.roles, key.version, key.obfuscated_value) == (("r",), 1, f"ksw_test_...{value[-4:]}")
    assert parts.epochs.read(KEYS) == epoch + 1


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"org_id": ""}, "org"), ({"user_id": " "}, "user"), ({"plan": "a\nb"}, "plan"), ({"name": "x" * 256}, "name"),
        ({"permissions": ["a b"]}, "permissions"), ({"permissions": [""]}, "permissions"),
        ({"roles": ["x" * 129]}, "roles"), ({"allow_ip": ["10.0.0.1/8"]}, "allow_ip"), ({"env": "prod"}, "env"),
        ({"permissions": [f"p:{one}" for one in range(257)]}, "permissions must be at most 256"),
        ({"permissions": [f"{one:0128}" for one in range(31)]}, "permissions must .* 4000 bytes in all"),
        ({"permissions": ["\U0001f600" * 120] * 2 + ["\U0001f600" * 119 + str(one) for one in range(4)]}, "permissions"),
        ({"roles": [f"{one:0100}" for one in range(5)]}, "roles must"),
        ({"allow_ip": ["::ffff:1.2.3.0/120"]}, "allow_ip"), ({"expires_at": int(NOW)}, "expires_at"),
    ],
)  # fmt: skip
def test_bad_input(parts: Parts, given: dict[str, object], field: str) -> None:
    """Bad input is one sentence that names the field, and nothing is written."""
    with pytest.raises(ValueError, match=field):
        parts.create(**given)
    assert parts.ledger.list() == []


def test_update_enable_disable(parts: Parts) -> None:
    """An update changes what it names and the version; a disabled key is refused until enabled."""
    key, value = parts.create(name="a")
    changed = parts.ledger.update(key.id, permissions=["x"], now=NOW + 5)
    assert (changed.permissions, changed.name, changed.updated_at) == (("x",), "a", int(NOW) + 5)
    assert changed.version > key.version
    parts.ledger.disable(key.id, NOW)
    assert parts.refused(value).reason == "the key is disabled"
    parts.ledger.enable(key.id, NOW)
    assert isinstance(parts.ask(value), Principal)


def test_revoked_is_for_good(parts: Parts) -> None:
    """Revoking twice keeps the first reason; nothing brings a revoked key back."""
    key, _ = parts.create()
    first = parts.ledger.revoke(key.id, "first", NOW)
    assert parts.ledger.revoke(key.id, "second", NOW + 1) == first
    for again in (parts.ledger.enable, parts.ledger.disable):
        with pytest.raises(KeyUnusable):
            again(key.id, NOW)
    with pytest.raises(KeyUnusable):
        parts.ledger.update(key.id, name="x", now=NOW)
    with pytest.raises(KeyUnusable, match="revoked"):
        parts.ledger.rotate(key.id, 60, NOW)


def test_revoke_org(parts: Parts) -> None:
    """All keys of the organization end, no others; those revoked before are not counted."""
    mine = [parts.create()[0] for _ in range(3)]
    other, _ = parts.create(org_id="org_2")
    parts.ledger.revoke(mine[0].id, None, NOW)
    assert {key.id for key in parts.ledger.revoke_org("org_1", "gone", NOW)} == {mine[1].id, mine[2].id}
    assert parts.ledger.get(other.id).revoked_at is None


@pytest.mark.parametrize(("own_end", "old_end"), [(None, 60), (30, 30), (90, 60)])
def test_rotate(parts: Parts, own_end: int | None, old_end: int) -> None:
    """During the grace both keys are good; the old one ends with it, the new one keeps the original end."""
    expires = None if own_end is None else int(NOW) + own_end
    key, value = parts.create(expires_at=expires, name="n", plan="p")
    fresh, new_value, old = parts.ledger.rotate(key.id, 60, NOW)
    assert (fresh.expires_at, fresh.name, fresh.plan, fresh.org_id) == (expires, "n", "p", "org_1")
    assert old.expires_at == int(NOW) + old_end
    assert isinstance(parts.ask(value), Principal) and isinstance(parts.ask(new_value), Principal)
    parts.refused(value, NOW + old_end)
    with pytest.raises(KeyUnusable):
        parts.ledger.rotate(key.id, 60, NOW + old_end)


def test_unknown_ids(parts: Parts) -> None:
    """An id that nobody has is an error of its own; one of another source may be blocked; a key is no id."""
    for call in (parts.ledger.enable, parts.ledger.disable):
        with pytest.raises(UnknownKey, match="keys list"):
            call("key_none", NOW)
    with pytest.raises(UnknownKey):
        parts.ledger.block("key_none", None, NOW)
    assert parts.ledger.block("api_key_01", "x", NOW) is None
    assert parts.ledger.blocks() == [("api_key_01", "x", int(NOW))]
    with pytest.raises(ValueError, match="standard input"):
        parts.ledger.block(parts.create()[1], None, NOW)


def test_a_busy_or_replaced_database(parts: Parts) -> None:
    """A writer that waits too long, or whose database was replaced, says so and changes nothing."""
    key, _ = parts.create()
    with closing(sqlite3.connect(parts.state.file("keys.db"), isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StateError, match="is busy"):
            parts.ledger.disable(key.id, NOW)
    path = parts.state.file("keys.db")
    path.rename(path.with_suffix(".away"))
    with pytest.raises(StateError, match="replaced or is gone"):
        parts.ledger.disable(key.id, NOW)


CSV = "value,org,permissions,expires_at\nsk_one_123456789,org_1,a;b,2030-01-01\nsk_two_123456789,org_2,,\n"


def test_import(parts: Parts) -> None:
    """CSV and JSON lines, by value or by SHA-256, become keys that their callers can use."""
    raw = hashlib.sha256(b"sk_three_123456").hexdigest()
    lines = f'{{"sha256": "{raw}", "org": "org_3", "permissions": ["c"], "expires_at": 1900000000}}\n\n'
    keys = parts.ledger.import_rows(parse_import(CSV, "k.csv") + parse_import(lines, "k.jsonl"), NOW)
    assert [(key.org_id, key.permissions, key.env) for key in keys] == [
        ("org_1", ("a", "b"), None), ("org_2", (), None), ("org_3", ("c",), None),
    ]  # fmt: skip
    assert [key.obfuscated_value for key in keys] == ["sk_one_...6789", "sk_two_...6789", "..."]
    for value in ("sk_one_123456789", "sk_two_123456789", "sk_three_123456"):
        assert isinstance(parts.ask(value), Principal)


@pytest.mark.parametrize("cell", ["a;b", '"a,b"', "a b", '" a ;; b, "', '"a\n\tb"', '"a, b"'])
def test_lists_in_csv(parts: Parts, cell: str) -> None:
    """Semicolons, commas and blanks separate the permissions of a key in CSV: never one slug of several."""
    text = f"value,org,permissions\nsk_one_123456789,org_1,{cell}\n"
    (key,) = parts.ledger.import_rows(parse_import(text, "k.csv"), NOW)
    assert key.permissions == ("a", "b")


@pytest.mark.parametrize("slug", ["a,b", "a;b", "a|b", "a b", "a\tb", "a\u2003b", "a\nb"])
@pytest.mark.parametrize("field", ["permissions", "roles"])
def test_a_slug_holds_no_separator(parts: Parts, slug: str, field: str) -> None:
    """Several slugs that were written as one are refused, by create and update, and the error says how to write them."""
    key, _ = parts.ledger.create(now=NOW, org_id="o")
    given: Any = {field: [slug]}
    for act in (
        lambda: parts.ledger.create(now=NOW, org_id="o", **given),
        lambda: parts.ledger.update(key.id, now=NOW, **given),
    ):
        with pytest.raises(ValueError, match="once for each") as caught:
            act()
        assert slug not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "name", "line", "field"),
    [
        (CSV + "sk_one_123456789,org_3,,\n", "k.csv", 4, "value"),
        (CSV + "sk_x_1234567890,,,\n", "k.csv", 4, "org"),
        (CSV + "sk_x_1234567890,o,,tomorrow\n", "k.csv", 4, "expires_at"),
        (CSV + "sk_x_1234567890,o,,2001-01-01\n", "k.csv", 4, "expires_at"),
        (CSV + "sk_x_1234567890,o,a|b,\n", "k.csv", 4, "permissions"),
        ('{"value": "sk_x_1234567890", "org": "o", "permissions": ["a,b"]}', "k", 1, "permissions"),
        ('{"value": "sk_x_1234567890", "org": "o", "roles": ["a;b"]}', "k", 1, "roles"),
        (CSV + "sk_x_1234567890,o\n", "k.csv", 4, None),
        ("sk_x_1234567890,org\n", "k.csv", 1, "number 1"),
        ("value,value,org\n", "k.csv", 1, "value"),
        ('{"value": "sk_x_1234567890", "org": "o", "org": "p"}', "k", 1, "org"),
        ('{"value": "sk_x_1234567890", "sha256": "00", "org": "o"}', "k", 1, "value"),
        ('{"sha256": "00", "org": "o"}', "k", 1, "sha256"),
        ('{"value": "ksw_live_sk_x_1234567890", "org": "o"}', "k", 1, "value"),
        ('{"value": "sk_x_1234567890", "org": 1}', "k", 1, "org"),
        ('{"value": "sk_x_1234567890", "org": "o", "roles": "r"}', "k", 1, "roles"),
        ('{"value": "sk_x_1234567890", "org": "o", "expires_at": true}', "k", 1, "expires_at"),
        ("\nsk_x_1234567890", "k", 2, None),
        ("[]", "k", 1, None),
    ],
)
def test_a_bad_import_imports_nothing(parts: Parts, text: str, name: str, line: int, field: str | None) -> None:
    """One bad line and nothing is imported; the error names line and field, and repeats nothing that was in it."""
    with pytest.raises(BadRow) as caught:
        parts.ledger.import_rows(parse_import(text, name), NOW)
    assert (caught.value.line, caught.value.field) == (line, field)
    assert "sk_x_1234567890" not in str(caught.value)
    assert parts.ledger.list() == []


def test_import_of_a_key_that_is_there(parts: Parts) -> None:
    """A key that the database has already is an error, and the rows before it are not kept."""
    rows = parse_import(CSV, "k.csv")
    parts.ledger.import_rows(rows[1:], NOW)
    with pytest.raises(BadRow, match="in the database already"):
        parts.ledger.import_rows(rows, NOW)
    assert len(parts.ledger.list()) == 1
