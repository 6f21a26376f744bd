"""The block list's write side: a local deny list that works for every key source.

Law: a block is on a key's id, or on the digest of a value that the database does not know. It outlives what it blocks,
and is made on a full disk too, as long as there is room kept for it.
"""

from collections.abc import Sequence

from keyswap.keys import validate
from keyswap.keys.format import environment, well_formed
from keyswap.keys.key import Key
from keyswap.keys.local.reader import Catalogue

_ADD = """INSERT INTO blocks (subject, reason, at) VALUES (?, ?, ?)
          ON CONFLICT (subject) DO UPDATE SET reason = excluded.reason, at = excluded.at"""
_REMOVE = """DELETE FROM blocks
             WHERE subject = ? OR subject = (SELECT lower(hex(digest)) FROM keys WHERE id = ?)"""


class DenyListWriter(Catalogue):
    """Blocks in keys.db."""

    def block(self, subject: str, reason: str | None, now: float) -> Key | None:
        """Block a key by its id, of any key source; returns the key when it is in this database.

        Raises UnknownKey for an id of our own shape that nobody has, ValueError when it looks like a key and not like
        an id, StateError when the database can't be used. `now`: epoch seconds.
        """
        self._named(subject)
        blocked_keys = self._keys("WHERE id = ?", subject)
        key = self.get(subject) if subject.startswith("key_") else next(iter(blocked_keys), None)
        self._block(subject, reason, now)
        return key

    def block_value(self, value: str, reason: str | None, now: float) -> Key | None:
        """Block whatever key `value` is, at `now` (epoch seconds): by its id when it is known here, else by its digest.

        Raises ValueError when no key can have this value, StateError when the database can't be used.
        """
        key = self.find(value)
        self._block(self._subject(value, key), reason, now)
        return key

    def unblock(self, subject: str) -> bool:
        """Take the blocks on a key away, by its id or its digest in hex; False when there was none.

        Raises ValueError when it looks like a key and not like an id, StateError when the database can't be used.
        """
        self._named(subject)
        with self._change():
            return self._connection.execute(_REMOVE, (subject, subject)).rowcount > 0

    def blocks(self) -> Sequence[tuple[str, str, int]]:
        """Every block: key id or hex digest, reason, epoch second; the oldest first. Raises StateError."""
        return [(subject, why, at) for subject, why, at in self._rows("SELECT * FROM blocks ORDER BY at, subject")]

    def _block(self, subject: str, reason: str | None, now: float) -> None:
        why = validate.reason(reason)

        def add() -> None:
            with self._change():
                self._connection.execute(_ADD, (subject, why, int(now)))

        self._room.ending(add)

    def _subject(self, value: str, key: Key | None) -> str:
        if not well_formed(value):
            raise ValueError("a key is 1 to 512 characters of printable ASCII without blanks")
        return key.id if key else self._pepper.digest(value).hex()

    def _named(self, subject: str) -> None:
        if environment(subject, self._prefix) or subject.startswith("sk_"):
            raise ValueError("this is a key, not the id of one: give it on standard input (-)")
        validate.text("id", subject)
