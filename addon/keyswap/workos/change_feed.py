"""The change feed: WorkOS' changes, shared by every process that uses the same state directory.

Law: an event is recorded once, with all of its changes or not at all, and the epoch is bumped after the commit. Every
process takes a change in at its next request, through the epoch; changes of a writer that died between its commit and
the epoch are seen within 0.5 s. A process that slept longer than changes are kept sees one change of everything. A
database that fails while the gateway runs refuses no request by itself: `fault` holds the reason, it is logged once,
and cached answers live as long as their time to live allows.
"""

import logging
import sqlite3
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from keyswap.databases import Sight
from keyswap.model import StateError
from keyswap.state import REMOTE, Epochs, StateDirectory
from keyswap.workos.revocations import Revocations
from keyswap.workos.store import STORE, prune

logger = logging.getLogger(__name__)

INTERVAL_S = 0.5
_BUSY_MS = 50
_NEWEST = "SELECT seq FROM sqlite_sequence WHERE name = 'changes'"
_AFTER = "SELECT n, kind, id, ends, at FROM changes WHERE n > ? ORDER BY n"
_ENDS = "SELECT kind, id, at FROM changes WHERE ends = 1 ORDER BY n"
_KEEP = """INSERT INTO cursors (environment, event_id) VALUES (?, ?)
           ON CONFLICT (environment) DO UPDATE SET event_id = excluded.event_id"""


class Change(NamedTuple):
    """A change at WorkOS."""

    kind: str
    """key, user, org, agent, session, membership or all."""
    id: str
    """WorkOS' id; of a membership the user's; empty for all."""
    ends: bool
    """It is over and to be refused. Else it is to be looked up again."""
    at: float
    """When, epoch seconds."""


class ChangeFeed:
    """The changes as one process knows them. The read side is for one thread; the write side for any."""

    def __init__(self, state: StateDirectory, epochs: Epochs) -> None:
        """Open the database, creating it on first use. Raises StateError."""
        self.path = state.file(STORE.file)
        self.generation = 0
        self.fault: str | None = None
        self._epochs = epochs
        self._forget: list[Callable[[Change], None]] = []
        self._ended = Revocations()
        self._writer: sqlite3.Connection | None = None
        self._writing = threading.Lock()
        self._last = float("-inf")
        STORE.create_if_missing(state)
        self._sight = Sight(self.path, epochs)
        self._reader = STORE.connect(self.path, busy_ms=_BUSY_MS, setup="PRAGMA query_only = ON;")
        try:
            self._epoch = epochs.read(REMOTE)
            (self._newest,) = self._reader.execute(_NEWEST).fetchone()
            for kind, of, at in self._reader.execute(_ENDS):
                self._ended.add(kind, of, at)
        except (sqlite3.Error, TypeError) as error:  # TypeError: the row is missing
            self._reader.close()
            raise _broken(self.path, error) from error
        self._sight.opened()

    def subscribe(self, forget: Callable[[Change], None]) -> None:
        """Call `forget` with each change that is taken in from now on, in the order of recording."""
        self._forget.append(forget)

    def unsubscribe(self, forget: Callable[[Change], None]) -> None:
        """Stop calling it."""
        with suppress(ValueError):
            self._forget.remove(forget)

    def take_in(self, now: float) -> None:
        """Take in the changes recorded since. `now`: epoch seconds, on a clock that may step back."""
        due = not self._last <= now < self._last + INTERVAL_S
        if due or (self._epochs.read(REMOTE) != self._epoch and self.fault is None):
            self._look(now)

    def ended(self, kind: str, id: str, since: float) -> bool:  # noqa: A002, WorkOS' word
        """Whether it was ended by an event at or after `since` (epoch seconds), as far as was taken in."""
        return self._ended.since(kind, id, since)

    def record(self, event_id: str, changes: Sequence[Change], now: float) -> bool:
        """Record an event; False: it was recorded before. Raises StateError, and then nothing was recorded."""
        return self.record_all([(event_id, changes)], now) == 1

    def record_all(self, events: Iterable[tuple[str, Sequence[Change]]], now: float) -> int:
        """Record several events at once, or none of them; how many were new. Raises StateError."""
        new = 0
        with self._writing:
            connection = self._connection()
            with STORE.writing(connection, self.path):
                for event_id, changes in events:
                    new += _insert(connection, event_id, changes, now)
                prune(connection, now)
            if new:
                self._epochs.bump(REMOTE)
        return new

    def cursor(self, environment: str) -> str | None:
        """The event after which an environment's events are fetched. Raises StateError."""
        with self._writing:
            try:
                row = (
                    self._connection()
                    .execute("SELECT event_id FROM cursors WHERE environment = ?", (environment,))
                    .fetchone()
                )
            except sqlite3.Error as error:
                raise STORE.damage(self.path, error) from error
        return None if row is None else str(row[0])

    def keep_cursor(self, environment: str, event_id: str | None) -> None:
        """Keep the cursor, or forget it. Raises StateError."""
        with self._writing:
            connection = self._connection()
            with STORE.writing(connection, self.path):
                if event_id is None:
                    connection.execute("DELETE FROM cursors WHERE environment = ?", (environment,))
                else:
                    connection.execute(_KEEP, (environment, event_id))

    def status(self) -> dict[str, object]:
        """The feed's part of `keyswap status`."""
        return {
            "database": str(self.path),
            "healthy": self.fault is None,
            "reason": self.fault,
            "taken_in": self._newest,
            "ended": len(self._ended),
        }

    def close(self) -> None:
        """Close the database."""
        self._reader.close()
        with self._writing:
            if self._writer is not None:
                self._writer.close()
                self._writer = None

    def _connection(self) -> sqlite3.Connection:
        """The connection to write on, after proof that other processes read the same file."""
        try:
            moved = self._sight.lost()
        except OSError as error:
            moved = str(error)
        if moved is not None:
            raise StateError(f"database of changes: {moved}: nothing was recorded; start the gateway again")
        if self._writer is None:
            self._writer = STORE.connect(self.path, setup="PRAGMA synchronous = FULL;")
        return self._writer

    def _look(self, now: float) -> None:
        self._last = now
        try:
            fault = self._sight.lost()
            new = self._read(now) if fault is None else []
        except (OSError, sqlite3.Error) as error:
            fault, new = str(STORE.damage(self.path, error) if isinstance(error, sqlite3.Error) else error), []
        if fault != self.fault:
            if fault is None:
                logger.warning("the database of changes can be read again")
            elif self.fault is None:
                logger.error("what WorkOS said has changed cannot be read: %s", fault)
            self.fault = fault
        self._tell(new, now)

    def _read(self, now: float) -> list[Change]:
        """The new changes. The epoch is read before the rows: a change in between is seen once too often, never not."""
        epoch = self._epochs.read(REMOTE)
        (newest,) = self._reader.execute(_NEWEST).fetchone() or (-1,)
        if newest < self._newest:
            raise sqlite3.DatabaseError("it was replaced by an older one")
        rows = self._reader.execute(_AFTER, (self._newest,)).fetchall()
        missed = rows[0][0] != self._newest + 1 if rows else newest > self._newest
        self._epoch, self._newest = epoch, max(newest, rows[-1][0] if rows else newest)
        everything = [Change("all", "", False, now)] if missed else []
        return [*everything, *(Change(kind, of, bool(ends), at) for _, kind, of, ends, at in rows)]

    def _tell(self, changes: Sequence[Change], now: float) -> None:
        if not changes:
            return
        self._ended.drop_old(now)
        for change in changes:
            if change.ends:
                self._ended.add(change.kind, change.id, change.at)
        self.generation += 1
        for change in changes:
            for forget in self._forget:
                forget(change)


def _insert(connection: sqlite3.Connection, event_id: str, changes: Sequence[Change], now: float) -> bool:
    new = connection.execute(
        "INSERT INTO events (id, noted) VALUES (?, ?) ON CONFLICT (id) DO NOTHING", (event_id, now)
    ).rowcount
    if new:
        connection.executemany(
            "INSERT INTO changes (kind, id, ends, at, noted) VALUES (?, ?, ?, ?, ?)", [(*one, now) for one in changes]
        )
    return bool(new)


def _broken(path: Path, error: Exception) -> StateError:
    if isinstance(error, sqlite3.Error):
        return STORE.damage(path, error)
    return StateError(f"database of changes {path} is damaged (a row is missing): move it away, it is made anew")
