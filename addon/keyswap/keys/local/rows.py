"""How a key lies in a row of keys.db.

Law: the columns are named once, here. Lists are compact JSON text; the same text is decoded once, since most keys
share their permissions with many others.
"""

import json
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from keyswap.keys.key import Key

COLUMNS = Key._fields
SELECT = f"SELECT digest, {', '.join(COLUMNS)} FROM keys"  # noqa: S608, names of our own
INSERT = f"INSERT INTO keys (digest, {', '.join(COLUMNS)}) VALUES (?{', ?' * len(COLUMNS)})"  # noqa: S608
UPDATE = f"UPDATE keys SET {', '.join(f'{name} = ?' for name in COLUMNS)} WHERE id = ?"  # noqa: S608

Row = tuple[Any, ...]
_LISTS = frozenset(COLUMNS.index(name) for name in ("permissions", "roles", "allow_ip"))


def key_of(row: Row) -> Key:
    """The key in a row that `SELECT` found; ValueError when its lists are not JSON lists of text."""
    (_, id_, name, org, user, env, permissions, roles, plan, allow_ip, shown, created, updated, expires, disabled,
     revoked, reason, version) = row  # fmt: skip
    return Key(
        id_, name, org, user, env, texts(permissions), texts(roles), plan, texts(allow_ip), shown, created, updated,
        expires, bool(disabled), revoked, reason, version,
    )  # fmt: skip


def row_of(key: Key) -> Row:
    """The values of `COLUMNS`, in their order."""
    values = [getattr(key, name) for name in COLUMNS]
    return tuple(compact(value) if index in _LISTS else value for index, value in enumerate(values))


def compact(values: Iterable[str]) -> str:
    """A list of texts as it is stored."""
    return json.dumps(list(values), separators=(",", ":"), ensure_ascii=False)


@lru_cache(8192)
def texts(stored: str) -> tuple[str, ...]:
    """A stored list of texts; ValueError when it is none."""
    values = json.loads(stored)
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise ValueError("not a list of texts")
    return tuple(values)
