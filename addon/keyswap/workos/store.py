"""The file changes.db: its schema, how it is created and opened, and what is kept in it for how long.

Law: a file that is damaged, foreign or newer raises Damage and is left as it is. It appears whole or not at all,
whoever creates it at the same time. It stays bounded: what is old goes in the transaction that writes what is new.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from keyswap.model import Damage
from keyswap.state import StateDirectory

DATABASE = "changes.db"
APPLICATION_ID = 0x6B737763
"""`kswc` in the file's header."""
SCHEMA_VERSION = 1
BUSY_MS = 5_000
"""How long a writer waits for another one."""
EVENTS_S, EVENTS = 31 * 86_400, 200_000
"""Ids of events are kept so long, and so many: WorkOS delivers none that is older than 30 days."""
CHANGES_S, CHANGES = 2 * 86_400, 200_000
"""Changes are kept so long, and so many: no token lives longer than two days, so what ended before is over anyway."""

# AUTOINCREMENT: a number is never given twice, so that a reader that was asleep notices what it missed.
_SCHEMA = f"""
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {SCHEMA_VERSION};
CREATE TABLE events (n INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, noted REAL NOT NULL) STRICT;
CREATE INDEX events_noted ON events (noted);
CREATE TABLE changes (
    n INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, id TEXT NOT NULL, ends INTEGER NOT NULL, at REAL NOT NULL,
    noted REAL NOT NULL
) STRICT;
CREATE INDEX changes_noted ON changes (noted);
CREATE TABLE cursors (environment TEXT PRIMARY KEY, event_id TEXT NOT NULL) STRICT, WITHOUT ROWID;
INSERT INTO sqlite_sequence (name, seq) VALUES ('events', 0), ('changes', 0);
"""  # noqa: S608, the numbers from above
_REMEDIES = {
    sqlite3.SQLITE_NOTADB: "is not a database: move it away, it is made anew",
    sqlite3.SQLITE_CORRUPT: "is damaged: move it away, it is made anew",
    sqlite3.SQLITE_BUSY: "is busy: another process holds it; end that one, or try again",
    sqlite3.SQLITE_CANTOPEN: "cannot be opened: give this user read and write on it and its directory",
    sqlite3.SQLITE_PERM: "cannot be opened: give this user read and write on it and its directory",
    sqlite3.SQLITE_READONLY: "cannot be written: give this user write on it and its directory",
    sqlite3.SQLITE_FULL: "cannot grow, the disk is full: nothing was recorded; make room",
}


def damage(path: Path, error: sqlite3.Error) -> Damage:
    """What an error of SQLite means to a person."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return Damage(f"database of changes {path} {_REMEDIES.get(code, f'cannot be used ({error}): look at the disk')}")


def create_if_missing(state: StateDirectory) -> None:
    """Create an empty database unless one is there. Raises Damage."""
    # A log that has lost its database would be replayed into the new one; looked for first, see keys/database.py.
    log = state.file(f"{DATABASE}-wal")
    orphan = log.exists()
    if state.file(DATABASE).exists():
        return
    if orphan:
        raise Damage(f"database of changes {state.file(DATABASE)} is gone but {log.name} is not: move that away too")
    state.create(DATABASE, _empty())


def _empty() -> bytes:
    with sqlite3.connect(":memory:", isolation_level=None) as blank:
        blank.executescript(_SCHEMA)
        content = bytearray(blank.serialize())
    blank.close()
    content[18:20] = b"\x02\x02"  # write-ahead log (sqlite.org/fileformat2.html §1.3)
    return bytes(content)


def connect(path: Path, *, busy_ms: int = BUSY_MS, setup: str) -> sqlite3.Connection:
    """Open the existing database, prove that it is ours and run the PRAGMAs of `setup`. Raises Damage."""
    connection: sqlite3.Connection | None = None
    try:
        connection = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode=rw",
            uri=True,
            timeout=busy_ms / 1000,
            isolation_level=None,
            check_same_thread=False,
        )
        _prove(connection, path)
        connection.executescript(setup)
    except BaseException as error:
        if connection is not None:
            connection.close()
        if isinstance(error, sqlite3.Error):
            raise damage(path, error) from error
        raise
    return connection


def _prove(connection: sqlite3.Connection, path: Path) -> None:
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (schema,) = connection.execute("PRAGMA user_version").fetchone()
    if application != APPLICATION_ID:
        raise Damage(f"{path} is not keyswap's database of changes: move it away, or name another state directory")
    if schema > SCHEMA_VERSION:
        raise Damage(
            f"database of changes {path} has schema {schema}, this keyswap knows {SCHEMA_VERSION}: use the newer "
            "keyswap that wrote it, or move the file away"
        )


@contextmanager
def writing(connection: sqlite3.Connection, path: Path) -> Iterator[None]:
    """One write transaction, all or nothing. SQLite's errors become Damage."""
    try:
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
    except sqlite3.Error as error:
        raise damage(path, error) from error


def prune(connection: sqlite3.Connection, now: float) -> None:
    """Drop what is old or too much. `now`: epoch seconds."""
    for table, kept_s, kept in (("events", EVENTS_S, EVENTS), ("changes", CHANGES_S, CHANGES)):
        newest = f"(SELECT seq FROM sqlite_sequence WHERE name = '{table}')"  # noqa: S608, a name from above
        connection.execute(f"DELETE FROM {table} WHERE noted < ?", (now - kept_s,))  # noqa: S608
        connection.execute(f"DELETE FROM {table} WHERE n <= {newest} - ?", (kept,))  # noqa: S608
