"""Reading keys.db as the command line does: a connection that proves itself before every change.

Law: a change is refused when the files it would be written to are no longer the state directory's, since nobody would
ever see it. The epoch is bumped after the commit, never before.
"""

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Self

from keyswap.databases import BUSY_MS
from keyswap.file_identity import identity
from keyswap.keys.format import well_formed
from keyswap.keys.key import Key
from keyswap.keys.key import state as state_of
from keyswap.keys.local.database import USERS_INDEX, changing, connect, create_if_missing, damage
from keyswap.keys.local.disk_reserve import Room
from keyswap.keys.local.rows import COLUMNS, SELECT, Row, key_of, texts
from keyswap.keys.paging import Listing, Page, PageRequest, page
from keyswap.keys.pepper import DATABASE, Pepper
from keyswap.model import StateError
from keyswap.state import KEYS, Epochs, StateDirectory

_SETUP = "PRAGMA synchronous = FULL;"
_BLOCKED = """SELECT count(*) FROM blocks
              WHERE subject = ? OR subject = (SELECT lower(hex(digest)) FROM keys WHERE id = ?)"""


class UnknownKey(StateError):
    """No key has the id."""


class Catalogue:
    """The keys as people ask for them. Every method raises StateError when the database can't be used."""

    def __init__(
        self,
        state: StateDirectory,
        epochs: Epochs,
        pepper: Pepper,
        prefix: str,
        busy_ms: int = BUSY_MS,
        *,
        ends: bool = False,
    ) -> None:
        """Open the key database, made on first use. Raises StateError. `ends`: to end keys, on a full disk too."""
        self._epochs, self._pepper, self._prefix = epochs, pepper, prefix
        self.path = state.file(DATABASE)
        create_if_missing(state, pepper)
        self._room = Room(state)
        self._connection = self._opened(state, busy_ms, ends)
        self._file = identity(self.path)

    def _opened(self, state: StateDirectory, busy_ms: int, ends: bool) -> sqlite3.Connection:
        def begin() -> sqlite3.Connection:
            return connect(state, self._pepper, busy_ms=busy_ms, setup=_SETUP)

        return self._room.ending(begin) if ends else begin()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the database back."""
        self._connection.close()

    def list(self, org_id: str | None = None) -> Sequence[Key]:
        """All keys, or those of an organization, oldest first."""
        if org_id is None:
            return self._keys("ORDER BY id")
        return self._keys("WHERE org_id = ? ORDER BY id", org_id)

    def page(self, wanted: PageRequest, org_id: str | None = None, user_id: str | None = None) -> Page[Key]:
        """A page of an organization's own keys, or of a user's (in one organization or all), without revoked ones.

        Raises UnknownCursor when no key of that list is where it is to begin, StateError.
        """
        if user_id is None:
            index, scope, subject = "keys_org", "org_id = ? AND user_id IS NULL", [str(org_id)]
        else:
            self._rows(USERS_INDEX)
            index, scope, subject = "keys_user", "user_id = ?", [user_id]
            if org_id is not None:
                scope, subject = f"{scope} AND org_id = ?", [user_id, org_id]
        listing = Listing("keys", f"digest, {', '.join(COLUMNS)}", scope, "revoked_at IS NULL", subject, index)
        rows = page(self._rows, listing, wanted)
        with self._noted():
            return Page([key_of(row) for row in rows.data], rows.before, rows.after)

    def tallied(self, now: float) -> Sequence[tuple[str | None, tuple[str, ...], int]]:
        """How many keys that have not ended at `now` (epoch seconds) have each plan with each set of permissions."""
        living = "revoked_at IS NULL AND (expires_at IS NULL OR expires_at > ?)"
        query = f"SELECT plan, permissions, count(*) FROM keys WHERE {living} GROUP BY plan, permissions"  # noqa: S608
        with self._noted():
            return [(plan, texts(slugs), count) for plan, slugs, count in self._rows(query, int(now))]

    def get(self, key_id: str) -> Key:
        """The key of an id. Raises UnknownKey when there is none, StateError when the database can't be used."""
        for key in self._keys("WHERE id = ?", key_id):
            return key
        # Not repeated: what is not an id may well be a key.
        raise UnknownKey("no key has this id: `keyswap keys list` shows those that there are")

    def find(self, value: str) -> Key | None:
        """The key that a caller presents as `value`; None when it is unknown. Raises StateError."""
        if not well_formed(value):
            return None
        keys = self._keys("WHERE digest = ?", self._pepper.digest(value))
        return keys[0] if keys else None

    def state(self, key: Key, now: float) -> str:
        """The key's state at `now` (epoch seconds): active, expired, disabled, revoked or blocked."""
        return state_of(key, now, self.is_blocked(key))

    def is_blocked(self, key: Key) -> bool:
        """Whether a key is blocked, by its id or by its digest."""
        return bool(self._rows(_BLOCKED, key.id, key.id)[0][0])

    def last_used(self, ids: Iterable[str]) -> dict[str, int]:
        """Epoch seconds of the last use, of those of the keys that were ever used."""
        pages = (self._rows("SELECT id, at FROM last_used WHERE id = ?", key_id) for key_id in ids)
        return {key_id: at for rows in pages for key_id, at in rows}

    @contextmanager
    def _change(self) -> Iterator[int]:
        """One transaction, yielding its revision; the epoch tells every process of it."""
        if identity(self.path) != self._file or not self._epochs.in_place():
            raise StateError(f"key database {self.path} was replaced or is gone: nothing was changed; start again")
        with changing(self._connection, self.path) as revision:
            yield revision
        self._epochs.bump(KEYS)
        self._room.keep()

    def _keys(self, where: str, *subject: str | bytes) -> Sequence[Key]:
        with self._noted():
            return [key_of(row) for row in self._rows(f"{SELECT} {where}", *subject)]

    def _rows(self, query: str, *subject: str | bytes | int) -> Sequence[Row]:
        with self._noted():
            return self._connection.execute(query, subject).fetchall()

    @contextmanager
    def _noted(self) -> Iterator[None]:
        """What goes wrong in the database becomes StateError."""
        try:
            yield
        except sqlite3.Error as error:
            raise damage(self.path, error) from error
        except ValueError as error:
            raise StateError(f"key database {self.path} is damaged ({error}): restore it from a backup") from error
