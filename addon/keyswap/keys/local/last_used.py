"""When keys were last used.

Law: a request only writes into memory; the database is written now and then, from a worker thread, on a connection of
its own. What could not be written waits for the next time. It is never a reason to refuse anybody.
"""

import sqlite3

from keyswap.keys.local.database import connect
from keyswap.keys.pepper import Pepper
from keyswap.model import StateError
from keyswap.state import StateDirectory

# Losing the last seconds of it to a power cut is no loss: NORMAL spares the sync at each commit.
_SETUP = "PRAGMA synchronous = NORMAL;"
_UPSERT = """INSERT INTO last_used (id, at) VALUES (?, ?)
             ON CONFLICT (id) DO UPDATE SET at = max(at, excluded.at)"""


class LastUsed:
    """Last uses by key id, epoch seconds, that are not in the database yet."""

    def __init__(self, state: StateDirectory, pepper: Pepper) -> None:
        self._state, self._pepper = state, pepper
        self.waiting: dict[str, int] = {}

    def __call__(self, key_id: str, now: float) -> None:
        """Note a use."""
        self.waiting[key_id] = int(now)

    def flush(self) -> int:
        """Write what waits, in one transaction, and say how many; 0 when that can't be done: it goes on waiting."""
        taken, self.waiting = self.waiting, {}
        rows = list(taken.items())
        try:
            if rows:
                self._write(rows)
        except (StateError, sqlite3.Error):
            for key_id, at in rows:
                self.waiting.setdefault(key_id, at)  # a use noted meanwhile is the later one
            return 0
        return len(rows)

    def _write(self, rows: list[tuple[str, int]]) -> None:
        connection = connect(self._state, self._pepper, setup=_SETUP)
        try:
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(_UPSERT, rows)
            connection.execute("COMMIT")
        finally:
            connection.close()
