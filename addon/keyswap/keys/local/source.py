"""Keys in the state directory: the gateway's read side of keys.db, and the default key source.

Law: what is remembered is forgotten whenever the watch says that anything changed; unknown keys are never remembered; a
look-up that fails refuses. Nothing here writes a key.
"""

import sqlite3

from cachetools import FIFOCache

from keyswap.keys.format import checksum_holds
from keyswap.keys.key import principal
from keyswap.keys.local.last_used import LastUsed
from keyswap.keys.local.rows import SELECT, Row, key_of
from keyswap.keys.local.watch import DatabaseWatch, unavailable
from keyswap.keys.pepper import Pepper
from keyswap.keys.source import KeyRecord, Lookups, judge
from keyswap.model import Code, Principal, Refuse
from keyswap.state import Epochs, StateDirectory

_MISTYPED = Refuse(Code.INVALID_CREDENTIAL, "the key's checksum is wrong: mistyped or made up", step="principal")
"""Whole already, with the step, as those of `keys/verify` are."""
_BY_DIGEST = f"{SELECT} WHERE digest = ?"
_BY_ID = f"{SELECT} WHERE id = ?"
_VERSION = "SELECT version FROM keys WHERE id = ?"
_MOST_BY_ID = 8192
"""Keys of open requests that are remembered by their ids: a row is only decoded again when its version has changed."""


class SqliteKeys:
    """The key source `sqlite`. Safe on one thread; `flush_last_used` may run on another."""

    def __init__(
        self, state: StateDirectory, epochs: Epochs, pepper: Pepper, prefix: str, cache_size: int = 100_000
    ) -> None:
        """Open the key database, creating it on first use. Raises StateError."""
        self.watch = DatabaseWatch(state, epochs, pepper)
        self.used = LastUsed(state, pepper)
        self._prefix = prefix
        self._cache: FIFOCache[bytes, KeyRecord] = FIFOCache(cache_size)
        self._by_id: FIFOCache[str, KeyRecord] = FIFOCache(_MOST_BY_ID)
        self._generation = self.watch.generation
        self.lookups = Lookups()

    @property
    def generation(self) -> int:
        """Another whenever anything in the database has changed."""
        return self.watch.generation

    def recall(self, digest: bytes, now: float) -> KeyRecord | None:  # noqa: ARG002, time is a remote source's concern
        """A key that was looked up since the last change."""
        if self._generation != self.watch.generation:
            self._generation = self.watch.generation
            self._cache = FIFOCache(self._cache.maxsize)
        try:
            record = self._cache[digest]  # half of what `get` costs
        except KeyError:
            return None
        self.lookups.remembered += 1
        return record

    async def find(self, value: str, digest: bytes, now: float) -> KeyRecord | Refuse | None:  # noqa: ARG002
        """Look a key up in the database; None: it is unknown."""
        if not checksum_holds(value, self._prefix):
            self.lookups.unknown += 1
            return _MISTYPED
        record = self._look_up(_BY_DIGEST, digest)
        if isinstance(record, KeyRecord):
            self._remember(record)
            self.lookups.found += 1
        elif record is None:
            self.lookups.unknown += 1
        else:
            self.lookups.failed += 1
        return record

    def by_id(self, key_id: str, now: float, client: str) -> Principal | Refuse:
        """What a caller at `client` would be told who presents this key now; for open requests, and explanations."""
        refused = self.watch.check(now)
        if refused is not None:
            return refused
        record = self._unchanged(key_id) or self._look_up(_BY_ID, key_id)
        if record is None:
            return Refuse(Code.INVALID_CREDENTIAL, "no key has this id")
        if isinstance(record, Refuse):
            return record
        self._by_id[key_id] = record
        return judge(record, self.watch.blocked, now, client)

    def _unchanged(self, key_id: str) -> KeyRecord | None:
        """The key as it was read before, if it has not changed since; every change raises its version."""
        known = self._by_id.get(key_id)
        if known is None:
            return None
        try:
            row = self.watch.connection.execute(_VERSION, (key_id,)).fetchone()
        except sqlite3.Error:
            return None
        return known if row == (known.key.version,) else None

    def flush_last_used(self) -> int:
        """Write the last uses, from any thread; the number written."""
        return self.used.flush()

    def status(self, now: float) -> dict[str, object]:
        """What `keyswap status` says of this source."""
        refused = self.watch.check(now)
        keys: int | None = None
        try:
            if refused is None:
                (keys,) = self.watch.connection.execute("SELECT count(*) FROM keys").fetchone()
        except sqlite3.Error as error:
            refused = unavailable(str(error))
        return {
            "source": "sqlite",
            "database": str(self.watch.path),
            "healthy": refused is None,
            "reason": refused and refused.reason,
            "keys": keys,
            "blocks": len(self.watch.blocked),
            "cached": len(self._cache),
            "last_used_waiting": len(self.used.waiting),
        }

    def close(self) -> None:
        """Write the last uses and give the database back."""
        self.flush_last_used()
        self.watch.close()

    def _look_up(self, query: str, subject: str | bytes) -> KeyRecord | Refuse | None:
        try:
            row: Row | None = self.watch.connection.execute(query, (subject,)).fetchone()
            if row is None:
                return None
            key = key_of(row)
        except (sqlite3.Error, ValueError) as error:
            return unavailable(f"the look-up failed: {error}")
        return KeyRecord(key, row[0], principal(key))

    def _remember(self, record: KeyRecord) -> None:
        self._cache[record.digest] = record
