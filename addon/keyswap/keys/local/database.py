"""The file keys.db: its schema, how it is created and opened, and the one way to change it.

Law: beside the laws of every database (`keyswap.databases`): one of another pepper raises StateError too, and is left
as it is. Every change of keys or blocks raises the revision, in the same transaction.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from keyswap.databases import BUSY_MS, Database
from keyswap.keys.pepper import DATABASE, Pepper
from keyswap.model import StateError
from keyswap.state import StateDirectory

USERS_INDEX = "CREATE INDEX IF NOT EXISTS keys_user ON keys (user_id) WHERE user_id IS NOT NULL"
"""Databases that were made without it get it when keys of a user are first asked for; older programs may use it too."""

# keys has rowids: without them the inner nodes of its tree would hold whole rows, and be five levels deep instead of
# three at 1,000,000 keys (sqlite.org/withoutrowid.html §4). last_used stands apart: writing it neither raises the
# revision nor rewrites the row of a key.
_SCHEMA = f"""
CREATE TABLE meta (one INTEGER PRIMARY KEY CHECK (one = 1), pepper TEXT NOT NULL, revision INTEGER NOT NULL) STRICT;
CREATE TABLE keys (
    digest BLOB NOT NULL UNIQUE, id TEXT NOT NULL, name TEXT NOT NULL, org_id TEXT NOT NULL, user_id TEXT, env TEXT,
    permissions TEXT NOT NULL, roles TEXT NOT NULL, plan TEXT, allow_ip TEXT NOT NULL, obfuscated_value TEXT NOT NULL,
    created_at INTEGER NOT NULL, updated_at INTEGER NOT NULL, expires_at INTEGER, disabled INTEGER NOT NULL,
    revoked_at INTEGER, revoked_reason TEXT, version INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX keys_id ON keys (id);
CREATE INDEX keys_org ON keys (org_id);
{USERS_INDEX};
CREATE TABLE blocks (subject TEXT PRIMARY KEY, reason TEXT NOT NULL, at INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE last_used (id TEXT PRIMARY KEY, at INTEGER NOT NULL) STRICT, WITHOUT ROWID;
"""

KEY_DATABASE = Database(
    file=DATABASE,
    title="key database",
    application_id=int.from_bytes(b"kswp"),
    schema_version=1,
    schema=_SCHEMA,
    foreign="is not a key database of keyswap",
    newer="use the newer keyswap that wrote it",
    orphan="restore both, or move it away",
    remedies={
        sqlite3.SQLITE_NOTADB: "is not a database: restore it from a backup of the state directory, or move it away",
        sqlite3.SQLITE_CORRUPT: "is damaged: restore it from a backup of the state directory",
        sqlite3.SQLITE_LOCKED: "is busy: another connection holds it; try again",
        sqlite3.SQLITE_FULL: "cannot grow, the disk is full: nothing was changed; make room and try again",
    },
)
damage = KEY_DATABASE.damage


def create_if_missing(state: StateDirectory, pepper: Pepper) -> None:
    """Create an empty key database unless one is there. Raises StateError."""
    KEY_DATABASE.create_if_missing(
        state, lambda blank: blank.execute("INSERT INTO meta VALUES (1, ?, 0)", (pepper.fingerprint,))
    )


def connect(state: StateDirectory, pepper: Pepper, *, busy_ms: int = BUSY_MS, setup: str) -> sqlite3.Connection:
    """Open the existing database, prove that it is ours and run the PRAGMAs of `setup`. Raises StateError."""
    path = state.file(DATABASE)
    return KEY_DATABASE.connect(path, busy_ms=busy_ms, setup=setup, prove=partial(_prove, path, pepper))


def _prove(path: Path, pepper: Pepper, connection: sqlite3.Connection) -> None:
    row = connection.execute("SELECT pepper FROM meta").fetchone()
    if row is None:
        raise StateError(f"key database {path} is damaged (it has no meta row): restore it from a backup")
    if row != (pepper.fingerprint,):
        raise StateError(
            f"key database {path} was written under another pepper, none of its keys can be recognised: restore the "
            "pepper that belongs to it"
        )


@contextmanager
def changing(connection: sqlite3.Connection, path: Path) -> Iterator[int]:
    """One write transaction, all or nothing; yields the new revision. SQLite's errors become StateError."""
    with KEY_DATABASE.writing(connection, path):
        (revision,) = connection.execute("UPDATE meta SET revision = revision + 1 RETURNING revision").fetchone()
        yield revision
