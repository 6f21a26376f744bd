"""The file keys.db: its schema, how it is created and opened, and the one way to change it.

Law: a file that is damaged, foreign, newer or of another pepper raises Damage and is left as it is. A database appears
whole or not at all, whoever creates it at the same time. Every change of keys or blocks raises the revision, in the
same transaction.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from keyswap.keys.pepper import DATABASE, Pepper
from keyswap.model import Damage
from keyswap.state import StateDirectory

APPLICATION_ID = 0x6B737770
"""`kswp` in the file's header: SQLite's own way to tell whose a database is."""
SCHEMA_VERSION = 1
BUSY_MS = 5_000
"""How long a writer waits for another one."""

USERS_INDEX = "CREATE INDEX IF NOT EXISTS keys_user ON keys (user_id) WHERE user_id IS NOT NULL"
"""Databases that were made without it get it when keys of a user are first asked for; older programs may use it too."""

# keys has rowids: without them the inner nodes of its tree would hold whole rows, and be five levels deep instead of
# three at 1,000,000 keys (sqlite.org/withoutrowid.html §4). last_used stands apart: writing it neither raises the
# revision nor rewrites the row of a key.
_SCHEMA = f"""
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {SCHEMA_VERSION};
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

_REMEDIES = {
    sqlite3.SQLITE_NOTADB: "is not a database: restore it from a backup of the state directory, or move it away",
    sqlite3.SQLITE_CORRUPT: "is damaged: restore it from a backup of the state directory",
    sqlite3.SQLITE_BUSY: "is busy: another process holds it; end that one, or try again",
    sqlite3.SQLITE_LOCKED: "is busy: another connection holds it; try again",
    sqlite3.SQLITE_CANTOPEN: "cannot be opened: give this user read and write on it and its directory",
    sqlite3.SQLITE_PERM: "cannot be opened: give this user read and write on it and its directory",
    sqlite3.SQLITE_READONLY: "cannot be written: give this user write on it and its directory",
    sqlite3.SQLITE_FULL: "cannot grow, the disk is full: nothing was changed; make room and try again",
}


def damage(path: Path, error: sqlite3.Error) -> Damage:
    """What an error of SQLite means to a person."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return Damage(f"key database {path} {_REMEDIES.get(code, f'cannot be used ({error}): look at the disk')}")


def create_if_missing(state: StateDirectory, pepper: Pepper) -> None:
    """Create an empty key database unless one is there. Raises Damage."""
    # A write-ahead log that has lost its database would be replayed into the new one. It is looked for first: whoever
    # else is creating the database has it in place before a log appears.
    log = state.file(f"{DATABASE}-wal")
    orphan = log.exists()
    if state.file(DATABASE).exists():
        return
    if orphan:
        raise Damage(
            f"key database {state.file(DATABASE)} is gone but {log.name} is not: restore both, or move it away"
        )
    state.create(DATABASE, _empty(pepper))


def _empty(pepper: Pepper) -> bytes:
    with sqlite3.connect(":memory:", isolation_level=None) as blank:
        blank.executescript(_SCHEMA)
        blank.execute("INSERT INTO meta VALUES (1, ?, 0)", (pepper.fingerprint,))
        content = bytearray(blank.serialize())
    blank.close()
    # Bytes 18 and 19 of the header: 2 means write-ahead log (sqlite.org/fileformat2.html §1.3). Switching by PRAGMA
    # needs an exclusive lock that two processes at their first use would fight for.
    content[18:20] = b"\x02\x02"
    return bytes(content)


def connect(state: StateDirectory, pepper: Pepper, *, busy_ms: int = BUSY_MS, setup: str) -> sqlite3.Connection:
    """Open the existing database, prove that it is ours and run the PRAGMAs of `setup`. Raises Damage."""
    path = state.file(DATABASE)
    connection: sqlite3.Connection | None = None
    try:
        connection = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode=rw",
            uri=True,
            timeout=busy_ms / 1000,
            isolation_level=None,
            check_same_thread=False,
        )
        _prove(connection, path, pepper)
        connection.executescript(setup)
    except BaseException as error:
        if connection is not None:
            connection.close()
        if isinstance(error, sqlite3.Error):
            raise damage(path, error) from error
        raise
    return connection


def _prove(connection: sqlite3.Connection, path: Path, pepper: Pepper) -> None:
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (schema,) = connection.execute("PRAGMA user_version").fetchone()
    if application != APPLICATION_ID:
        raise Damage(f"{path} is not a key database of keyswap: move it away, or name another state directory")
    if schema > SCHEMA_VERSION:
        raise Damage(
            f"key database {path} has schema {schema}, this keyswap knows {SCHEMA_VERSION}: use the newer keyswap that "
            "wrote it"
        )
    row = connection.execute("SELECT pepper FROM meta").fetchone()
    if row is None:
        raise Damage(f"key database {path} is damaged (it has no meta row): restore it from a backup")
    if row != (pepper.fingerprint,):
        raise Damage(
            f"key database {path} was written under another pepper, none of its keys can be recognised: restore the "
            "pepper that belongs to it"
        )


@contextmanager
def changing(connection: sqlite3.Connection, path: Path) -> Iterator[int]:
    """One write transaction, all or nothing; yields the new revision. SQLite's errors become Damage."""
    try:
        connection.execute("BEGIN IMMEDIATE")
        try:
            (revision,) = connection.execute("UPDATE meta SET revision = revision + 1 RETURNING revision").fetchone()
            yield revision
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
    except sqlite3.Error as error:
        raise damage(path, error) from error
