"""The watch over keys.db: is it still the same database, has anything changed, and who is blocked.

Law: a change is seen at the next call, through the epoch; a writer that died between its commit and the epoch, a file
that is gone, replaced or cut short, and a database that does not answer are seen within 0.5 s. While anything is wrong
every call is refused. The epoch is read before the rows, so that a change in between is seen once too often, never not.
"""

import sqlite3

from keyswap.databases import Sight
from keyswap.keys.local.database import connect, create_if_missing, damage
from keyswap.keys.pepper import DATABASE, Pepper
from keyswap.keys.source import Blocks
from keyswap.model import Code, Refuse
from keyswap.state import KEYS, Epochs, StateDirectory

INTERVAL_S = 0.5
_BUSY_MS = 50
# No mmap: a file cut short under a mapping ends the process (SIGBUS). 64 MiB of pages hold the tree's inner nodes.
_SETUP = "PRAGMA query_only = ON; PRAGMA cache_size = -65536;"


class DatabaseWatch:
    """A reader's view of keys.db. `generation` changes whenever what was read before is to be forgotten."""

    def __init__(self, state: StateDirectory, epochs: Epochs, pepper: Pepper) -> None:
        """Open the database, creating it on first use. Raises StateError."""
        self._epochs = epochs
        self.path = state.file(DATABASE)
        create_if_missing(state, pepper)
        self._sight = Sight(self.path, epochs)
        self.connection = connect(state, pepper, busy_ms=_BUSY_MS, setup=_SETUP)
        self.generation = 0
        self.blocked: Blocks = {}
        self._epoch = self._revision = -1
        self._last = float("-inf")
        self._refused: Refuse | None = None
        try:
            self._reload()
        except sqlite3.Error as error:
            self.connection.close()
            raise damage(self.path, error) from error
        self._sight.opened()

    def check(self, now: float) -> Refuse | None:
        """Refuse when the database cannot be trusted at `now` (epoch seconds, on a clock that may also step back)."""
        due = not self._last <= now < self._last + INTERVAL_S
        if due or (self._refused is None and self._epochs.read(KEYS) != self._epoch):
            self._last = now
            fault = self._fault()
            self._refused = None if fault is None else unavailable(fault)
        return self._refused

    def close(self) -> None:
        """Give the connection back; every later call is refused."""
        self.connection.close()
        self._last, self._refused = float("-inf"), unavailable("it is closed")

    def _fault(self) -> str | None:
        """What is wrong with the database; None: nothing, and everything that changed has been taken in."""
        try:
            fault = self._sight.lost()
            if fault is None:
                self._reload()
        except (OSError, sqlite3.Error) as error:
            return f"{self.path}: {error}"
        return fault

    def _reload(self) -> None:
        epoch = self._epochs.read(KEYS)
        (revision,) = self.connection.execute("SELECT revision FROM meta").fetchone()
        if revision < self._revision:
            raise sqlite3.DatabaseError("it was replaced by an older one")
        # Also after a fault: what was remembered is older than whatever happened.
        if epoch != self._epoch or revision != self._revision or self._refused is not None:
            rows = self.connection.execute("SELECT subject, reason FROM blocks").fetchall()
            self.blocked = {_subject(subject): reason for subject, reason in rows}
            self._epoch, self._revision = epoch, revision
            self.generation += 1


def unavailable(fault: str) -> Refuse:
    """The refusal of every call while something is wrong."""
    return Refuse(Code.STORE_UNAVAILABLE, f"key database: {fault}")


def _subject(stored: str) -> str | bytes:
    """A block's subject as it is looked up: 64 hex digits are a digest, all else is a key's id."""
    try:
        return bytes.fromhex(stored) if len(stored) == 64 else stored
    except ValueError:
        return stored
