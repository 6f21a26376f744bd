"""The permissions that a team has named, as WorkOS keeps them for an environment.

Law: they are a list for people and programs to choose from. Nothing is admitted or refused by it: what a key may do
stands in the key, what an operation needs in the API's document or the policy.

They lie in a table of their own in keys.db, made by the first one: a database of before needs no migration, an older
keyswap does not look at it, and a backup of the key database holds them too.
"""

import re
import sqlite3
from typing import NamedTuple

from keyswap.keys import validate
from keyswap.keys.key import new_id
from keyswap.keys.local.reader import Catalogue
from keyswap.keys.paging import Listing, Page, PageRequest, page
from keyswap.model import StateError

MAX_NAME, MAX_DESCRIPTION = 48, 150
ORGANIZATION = "organization"
"""The resource type of a permission that names none."""

_SLUG = re.compile(r"[a-z0-9_:.*-]{1,48}")
_NONE = Listing("keys", "id", "0", "0")
_TABLE = """CREATE TABLE IF NOT EXISTS permissions (
    id TEXT PRIMARY KEY, slug TEXT NOT NULL UNIQUE, name TEXT NOT NULL, description TEXT,
    resource_type_slug TEXT NOT NULL, created_at INTEGER NOT NULL, updated_at INTEGER NOT NULL
) STRICT"""


class Permission(NamedTuple):
    """One of them. Times are epoch seconds."""

    id: str
    slug: str
    name: str
    description: str | None
    resource_type_slug: str
    created_at: int
    updated_at: int


class Taken(StateError):
    """Another permission has the slug."""


def slug(value: str) -> str:
    """A permission's slug as WorkOS has them. ValueError."""
    if not _SLUG.fullmatch(value):
        raise ValueError("it must have 1 to 48 characters: lowercase letters, digits, - _ : . *")
    return value


def text(value: str, most: int) -> str:
    """A name or description of bounded length. ValueError."""
    if len(value) > most:
        raise ValueError(f"it must not be longer than {most} characters")
    return validate.text("it", value)


class Permissions(Catalogue):
    """The list. One thread at a time; close it, or use it in a `with`."""

    def create(self, slug: str, name: str, description: str | None, resource_type: str, now: float) -> Permission:
        """A new permission, of fields that were judged good. Taken when its slug is."""
        made = Permission(new_id(now, "perm"), slug, name, description, resource_type, int(now), int(now))
        with self._change():
            self._connection.execute(_TABLE)
            try:
                self._connection.execute("INSERT INTO permissions VALUES (?, ?, ?, ?, ?, ?, ?)", made)
            except sqlite3.IntegrityError:
                raise Taken("a permission has this slug already") from None
        return made

    def permissions(self, wanted: PageRequest) -> Page[Permission]:
        """A page of them. UnknownCursor."""
        there = self._rows("SELECT 1 FROM sqlite_schema WHERE name = 'permissions'")
        # Without the table the list is empty, and no cursor is in it.
        listing = Listing("permissions", ", ".join(Permission._fields), "1", "1") if there else _NONE
        rows = page(self._rows, listing, wanted)
        return Page([Permission(*row) for row in rows.data], rows.before, rows.after)
