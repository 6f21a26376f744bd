"""The file decisions.db: the last decisions of every process on a state directory.

Law: beside the laws of every database (`keyswap.databases`): a batch of decisions is one transaction, in which what is
more than `retain` goes. Rows are numbered in the order of their commits, over all processes. Nothing is made where
nothing is to be kept. A store that could not be written is opened anew for the next batch, and made anew where a person
has moved its file away.
"""

import re
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from keyswap.databases import Database, Sight
from keyswap.shell.decisions.record import Line
from keyswap.shell.decisions.row import COLUMNS, Row, escaped, row
from keyswap.state import StateDirectory

FILE = "decisions.db"

# Admitted requests are most, and cost the indexes by organization and code nothing. SQLite uses these for a query that
# has `code = ?`, or this condition word for word.
_NOTED = "code IS NOT NULL OR shadow IS NOT NULL"
_SCHEMA = f"""
CREATE TABLE decisions (
    n INTEGER PRIMARY KEY, at REAL NOT NULL, request_id TEXT NOT NULL, decision TEXT NOT NULL, status INTEGER,
    code TEXT, step TEXT, operation TEXT, key_id TEXT, org_id TEXT, user_id TEXT, session_id TEXT, shadow TEXT,
    gate_us REAL NOT NULL, upstream_ms REAL, record TEXT NOT NULL
) STRICT;
CREATE INDEX decisions_request ON decisions (request_id);
CREATE INDEX decisions_org ON decisions (org_id) WHERE {_NOTED};
CREATE INDEX decisions_code ON decisions (code) WHERE {_NOTED};
"""
DECISIONS = Database(
    file=FILE,
    title="decision store",
    application_id=int.from_bytes(b"kswd"),
    schema_version=1,
    schema=_SCHEMA,
    foreign="is not a decision store of keyswap",
    newer="use the newer keyswap that wrote it, or move the file away",
    orphan="move that away too",
    remedies={
        sqlite3.SQLITE_NOTADB: "is not a database: move it away, it is made anew",
        sqlite3.SQLITE_CORRUPT: "is damaged: move it away, it is made anew",
        sqlite3.SQLITE_FULL: "cannot grow, the disk is full: make room",
        sqlite3.SQLITE_IOERR: "cannot be written: look at the disk, and whether it is full",
    },
)

# Power may cost the last decisions, never the file. The log has 16 MiB: a page that many batches change, as the last
# ones of an index, is then written to the file once.
_SETUP = "PRAGMA synchronous = NORMAL; PRAGMA wal_autocheckpoint = 4000; PRAGMA journal_size_limit = 16777216;"
_BLOCKS = (64, 8, 1)
"""Rows that one statement inserts: between two statements the event loop may have the interpreter for milliseconds, in
which no other process could write."""
_FEW_PAGES = 4096
"""So much of a file, 16 MiB, is written anew to give the rest of it back, and is in memory meanwhile."""
_PRUNED_AT_ONCE = 10_000
_PRUNE = "DELETE FROM decisions WHERE n <= ? AND n < ? + (SELECT min(n) FROM decisions)"
_VALUES = f"({', '.join('?' * (len(COLUMNS) + 1))})"
_INSERT = {
    size: f"INSERT INTO decisions (n, {', '.join(COLUMNS)}) VALUES {', '.join([_VALUES] * size)}"  # noqa: S608
    for size in _BLOCKS
}


class DecisionStore:
    """The decision store as one process writes it: what a `BackgroundWriter` writes to. For one thread at a time."""

    def __init__(self, state: Path, retain: int) -> None:
        self.retain = retain
        self._state = StateDirectory(state)
        self._path = self._state.file(FILE)
        self._connection: sqlite3.Connection | None = None
        self._sight = Sight(self._path)
        self._segments_removed = False

    def write(self, batch: Sequence[tuple[Line, str]]) -> None:
        """Keep decisions and their records; without any, look what is to go. Raises StateError when they are lost."""
        if not self._segments_removed:
            _remove_segments(self._state.file("decisions"))
            self._segments_removed = True
        if not batch or not self.retain:
            self._shrink()
            return
        rows = [row(line, record) for line, record in batch]
        try:
            try:
                self._insert(rows)
            except UnicodeEncodeError:
                self._insert(escaped(rows))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let the file go."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(sqlite3.Error):
                connection.close()

    def _insert(self, rows: Sequence[Row]) -> None:
        connection = self._opened()
        with DECISIONS.writing(connection, self._path):
            number = _last(connection)
            for block in _blocks(rows):
                values: list[str | int | float | None] = []
                for each in block:
                    number += 1
                    values.append(number)
                    values += each
                connection.execute(_INSERT[len(block)], values)
            _prune(connection, number - self.retain)

    def _opened(self) -> sqlite3.Connection:
        """The connection to the file that others write to as well."""
        if self._connection is not None and self._is_lost():
            self.close()
        if self._connection is None:
            DECISIONS.create_if_missing(self._state)
            self._sight = Sight(self._path)
            self._connection = DECISIONS.connect(self._path, setup=_SETUP, prove=_last)
            self._sight.opened()
        return self._connection

    def _is_lost(self) -> bool:
        try:
            return self._sight.lost() is not None
        except OSError:
            return True

    def _shrink(self) -> None:
        """Forget what is more than `retain`; give the file's room back where nothing is left, or little of it."""
        if not self._path.exists():
            self.close()
            return
        try:
            connection, forgotten, pruned = self._opened(), 0, 1
            while pruned:
                with DECISIONS.writing(connection, self._path):
                    pruned = _prune(connection, _last(connection) - self.retain)
                forgotten += pruned
            if forgotten and (not self.retain or _is_mostly_free(connection)):
                connection.execute("PRAGMA temp_store = MEMORY")  # a container may have no other place for it
                connection.execute("VACUUM")
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.Error as error:
            raise DECISIONS.damage(self._path, error) from error
        finally:
            self.close()


def _blocks(rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
    start = 0
    for size in _BLOCKS:
        while len(rows) - start >= size:
            yield rows[start : start + size]
            start += size


def _last(connection: sqlite3.Connection) -> int:
    """The number of the newest row; 0: there is none."""
    (number,) = connection.execute("SELECT max(n) FROM decisions").fetchone()
    return number or 0


def _prune(connection: sqlite3.Connection, last: int) -> int:
    """Forget the oldest rows up to a number, not too many at once: other processes wait; how many there were."""
    return connection.execute(_PRUNE, (last, _PRUNED_AT_ONCE)).rowcount


def _is_mostly_free(connection: sqlite3.Connection) -> bool:
    (free,) = connection.execute("PRAGMA freelist_count").fetchone()
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    return bool(free * 2 > pages and pages - free <= _FEW_PAGES)


_SEGMENT = re.compile(r"[0-9]{12}(?:-[0-9]{12}-[0-9]+)?\.jsonl|\.new-[0-9]+-[0-9a-f]{8}")


def _remove_segments(folder: Path) -> None:
    """Remove the files in which earlier versions kept decisions: nothing reads them any more."""
    with suppress(OSError):
        for file in folder.iterdir():
            if _SEGMENT.fullmatch(file.name):
                file.unlink()
        folder.rmdir()
