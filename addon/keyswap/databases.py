"""The SQLite databases of the state directory: how one is created, opened, changed and kept in sight.

Law: a file that is damaged, foreign or newer raises StateError and is left as it is. A database appears whole or not at
all, whoever creates it at the same time. A change is one transaction, all of it or nothing. Errors of SQLite become a
StateError, which says what a person can do. Whoever keeps one open learns when its files are no longer those that
others write to.
"""

import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from keyswap.file_identity import identity
from keyswap.model import StateError
from keyswap.state import Epochs, StateDirectory

BUSY_MS = 5_000
"""The longest that a writer waits for another one."""

_SHM = 32768
"""Bytes of the log's index that every reader maps: what is cut off under a mapping ends the process (SIGBUS)."""

_REMEDIES = {
    sqlite3.SQLITE_BUSY: "is busy: another process holds it; end that one, or try again",
    sqlite3.SQLITE_CANTOPEN: "cannot be opened: give this user read and write on it and its directory",
    sqlite3.SQLITE_PERM: "cannot be opened: give this user read and write on it and its directory",
    sqlite3.SQLITE_READONLY: "cannot be written: give this user write on it and its directory",
}


@dataclass(frozen=True, slots=True)
class Database:
    """A kind of database: whose it is, and what its errors mean to a person."""

    file: str
    """The file's name in the state directory."""
    title: str
    """The database's name in messages."""
    application_id: int
    """Four letters in the file's header: SQLite's own way to tell whose a database is."""
    schema_version: int
    schema: str
    foreign: str
    """The message about a file that is no database of ours, after its path."""
    newer: str
    """The remedy for a database that a newer program wrote."""
    orphan: str
    """The remedy for a log that has lost its database."""
    remedies: Mapping[int, str]
    """Remedies by SQLite's primary result code, where they are not the same for every kind."""

    def damage(self, path: Path, error: sqlite3.Error) -> StateError:
        """An error of SQLite as one for people, with a remedy."""
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        unknown = f"cannot be used ({error}): look at the disk"
        return StateError(f"{self.title} {path} {self.remedies.get(code) or _REMEDIES.get(code, unknown)}")

    def empty(self, fill: Callable[[sqlite3.Connection], object] | None = None) -> bytes:
        """The content of a new one, with what `fill` writes into it."""
        with sqlite3.connect(":memory:", isolation_level=None) as blank:
            blank.execute(f"PRAGMA application_id = {self.application_id}")
            blank.execute(f"PRAGMA user_version = {self.schema_version}")
            blank.executescript(self.schema)
            if fill is not None:
                fill(blank)
            content = bytearray(blank.serialize())
        blank.close()
        # Bytes 18 and 19 of the header: 2 means write-ahead log (sqlite.org/fileformat2.html §1.3). Switching by PRAGMA
        # needs an exclusive lock that two processes at their first use would fight for.
        content[18:20] = b"\x02\x02"
        return bytes(content)

    def create_if_missing(
        self, state: StateDirectory, fill: Callable[[sqlite3.Connection], object] | None = None
    ) -> None:
        """Create a new one unless one is there. Raises StateError."""
        # A write-ahead log that has lost its database would be replayed into the new one. It is looked for first:
        # whoever else is creating the database has it in place before a log appears.
        log = state.file(f"{self.file}-wal")
        orphan = log.exists()
        if state.file(self.file).exists():
            return
        if orphan:
            raise StateError(f"{self.title} {state.file(self.file)} is gone but {log.name} is not: {self.orphan}")
        state.create(self.file, self.empty(fill))

    def connect(
        self,
        path: Path,
        *,
        busy_ms: int = BUSY_MS,
        setup: str,
        prove: Callable[[sqlite3.Connection], object] | None = None,
    ) -> sqlite3.Connection:
        """Open an existing one, prove that it is ours (`prove`) and run the PRAGMAs of `setup`. Raises StateError."""
        connection: sqlite3.Connection | None = None
        try:
            connection = sqlite3.connect(
                f"{path.absolute().as_uri()}?mode=rw",
                uri=True,
                timeout=busy_ms / 1000,
                isolation_level=None,
                check_same_thread=False,
            )
            self._prove(connection, path)
            if prove is not None:
                prove(connection)
            connection.executescript(setup)
        except BaseException as error:
            if connection is not None:
                connection.close()
            if isinstance(error, sqlite3.Error):
                raise self.damage(path, error) from error
            raise
        return connection

    def _prove(self, connection: sqlite3.Connection, path: Path) -> None:
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (schema,) = connection.execute("PRAGMA user_version").fetchone()
        if application != self.application_id:
            raise StateError(f"{path} {self.foreign}: move it away, or name another state directory")
        if schema > self.schema_version:
            raise StateError(
                f"{self.title} {path} has schema {schema}, this keyswap knows {self.schema_version}: {self.newer}"
            )

    @contextmanager
    def writing(self, connection: sqlite3.Connection, path: Path) -> Iterator[None]:
        """A write transaction, all or nothing. SQLite's errors become StateError."""
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
            raise self.damage(path, error) from error


class Sight:
    """Whether the files of an open database are still those that others open, and the epochs those that they bump."""

    def __init__(self, path: Path, epochs: Epochs | None = None) -> None:
        """Begun before the database is opened: what replaces it in between is noticed."""
        self._path, self._epochs = path, epochs
        self._files = {str(path): identity(path)}
        self._size = 0

    def opened(self) -> None:
        """Keep the log and its index in sight too; both are there once something was read."""
        # A connection keeps them in place; deleted, other writers' changes would go past this one.
        self._files |= {path: identity(path) for path in (f"{self._path}-wal", f"{self._path}-shm")}

    def lost(self) -> str | None:
        """The file that was replaced, cut short or is gone, in words; None: none. Raises OSError."""
        for path, known in self._files.items():
            if identity(path) != known:
                return f"{path} was replaced or is gone"
            if path.endswith("-shm") and os.stat(path).st_size < _SHM:  # noqa: PTH116, as below
                return f"{path} was cut short"
        size = self._path.stat().st_size
        if size < self._size:
            return f"{self._path} was cut short"
        self._size = size
        return None if self._epochs is None or self._epochs.in_place() else "the file of epochs was replaced or is gone"
