"""Reading the decisions that are kept: the record of a request, and what is decided from now on.

Law: only what is committed is read. What callers chose is compared byte for byte, never taken for a pattern. No reader
changes a decision, makes a store, or waits for a writer.
"""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from keyswap.file_identity import identity
from keyswap.shell.decisions.store import DECISIONS, FILE

Record = dict[str, Any]

_SETUP = "PRAGMA query_only = ON;"
_NEWEST_OF_REQUEST = "SELECT record FROM decisions WHERE request_id = ? ORDER BY at DESC, n DESC LIMIT 1"
_SINCE = "SELECT n, record FROM decisions WHERE n > ? ORDER BY n LIMIT 1000"


def recorded(state: Path, request_id: str) -> Record | None:
    """The newest record of a request that is kept; None: there is none. Raises StateError."""
    connection = _connected(state / FILE)
    if connection is None:
        return None
    with closing(connection):
        try:
            for (record,) in connection.execute(_NEWEST_OF_REQUEST, (request_id,)):
                return _parsed(record)
        except UnicodeEncodeError:  # a word of the command line that is no text
            return None
        except sqlite3.Error as error:
            raise DECISIONS.damage(state / FILE, error) from error
    return None


def _connected(path: Path) -> sqlite3.Connection | None:
    """A connection that changes nothing; None: there is no store."""
    return DECISIONS.connect(path, setup=_SETUP) if path.exists() else None


def _parsed(record: str) -> Record:
    parsed: Record = json.loads(record)
    return parsed


class Tail:
    """The decisions that are made from now on, by any process, in the order of their commits."""

    def __init__(self, state: Path) -> None:
        """Raises StateError."""
        self._path = state / FILE
        self._connection: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None
        self._seen = 0
        self._follow()
        if self._connection is not None:
            self._seen = self._last(self._connection)

    def news(self) -> Iterator[Record]:
        """What has come since the last time. Raises StateError."""
        self._follow()
        connection = self._connection
        if connection is None:
            return
        if self._last(connection) < self._seen:  # nothing was to be kept for a while
            self._seen = 0
        while rows := self._rows(connection, _SINCE, self._seen):
            for number, record in rows:
                self._seen = number
                yield _parsed(record)

    def close(self) -> None:
        """Let the file go."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _follow(self) -> None:
        """Open the store that processes write to now: it may have been made, moved away or made anew."""
        file = identity(self._path)
        if file != self._file:
            self.close()
            self._connection = _connected(self._path)
            self._file, self._seen = file, 0

    def _last(self, connection: sqlite3.Connection) -> int:
        ((number,),) = self._rows(connection, "SELECT max(n) FROM decisions")
        return number or 0

    def _rows(self, connection: sqlite3.Connection, query: str, *values: int) -> list[tuple[Any, ...]]:
        try:
            return connection.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise DECISIONS.damage(self._path, error) from error
