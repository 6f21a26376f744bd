"""The file changes.db: its schema, and what is kept in it for how long.

Law: beside the laws of every database (`keyswap.databases`): it stays bounded, what is old goes in the transaction that
writes what is new.
"""

import sqlite3

from keyswap.databases import Database

EVENTS_S, EVENTS = 31 * 86_400, 200_000
"""Ids of events are kept so long, and so many: WorkOS delivers none that is older than 30 days."""
CHANGES_S, CHANGES = 2 * 86_400, 200_000
"""Changes are kept so long, and so many: no token lives longer than two days, so what ended before is over anyway."""

# AUTOINCREMENT: a number is never given twice, so that a reader that was asleep notices what it missed.
_SCHEMA = """
CREATE TABLE events (n INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, noted REAL NOT NULL) STRICT;
CREATE INDEX events_noted ON events (noted);
CREATE TABLE changes (
    n INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, id TEXT NOT NULL, ends INTEGER NOT NULL, at REAL NOT NULL,
    noted REAL NOT NULL
) STRICT;
CREATE INDEX changes_noted ON changes (noted);
CREATE TABLE cursors (environment TEXT PRIMARY KEY, event_id TEXT NOT NULL) STRICT, WITHOUT ROWID;
INSERT INTO sqlite_sequence (name, seq) VALUES ('events', 0), ('changes', 0);
"""
STORE = Database(
    file="changes.db",
    title="database of changes",
    application_id=int.from_bytes(b"kswc"),
    schema_version=1,
    schema=_SCHEMA,
    foreign="is not keyswap's database of changes",
    newer="use the newer keyswap that wrote it, or move the file away",
    orphan="move that away too",
    remedies={
        sqlite3.SQLITE_NOTADB: "is not a database: move it away, it is made anew",
        sqlite3.SQLITE_CORRUPT: "is damaged: move it away, it is made anew",
        sqlite3.SQLITE_FULL: "cannot grow, the disk is full: nothing was recorded; make room",
    },
)


def prune(connection: sqlite3.Connection, now: float) -> None:
    """Drop what is old or too much. `now`: epoch seconds."""
    for table, kept_s, kept in (("events", EVENTS_S, EVENTS), ("changes", CHANGES_S, CHANGES)):
        newest = f"(SELECT seq FROM sqlite_sequence WHERE name = '{table}')"  # noqa: S608, a name from above
        connection.execute(f"DELETE FROM {table} WHERE noted < ?", (now - kept_s,))  # noqa: S608
        connection.execute(f"DELETE FROM {table} WHERE n <= {newest} - ?", (kept,))  # noqa: S608
