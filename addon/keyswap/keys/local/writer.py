"""The write side of keys.db: what the command line and the admin listener do to keys.

Law: each change is one transaction, and the epoch is bumped after its commit: the next request sees it. A value is
returned once, by the call that made it. A revoked key never comes back, and keeps its first reason. Whatever ends a key
is done on a full disk too, as long as there is room kept for it.
"""

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Unpack

from keyswap.keys import validate
from keyswap.keys.format import generate, obfuscated
from keyswap.keys.importing import BadRow, ImportRow, key_from
from keyswap.keys.key import Key, new_id
from keyswap.keys.local.deny_list import DenyListWriter
from keyswap.keys.local.rows import INSERT, UPDATE, row_of
from keyswap.keys.validate import KeyChanges
from keyswap.model import StateError


class KeyUnusable(StateError):
    """The key is in a state in which this cannot be done to it."""


class KeyExpired(KeyUnusable):
    """The key has expired."""


class Ledger(DenyListWriter):
    """Every change to keys and blocks. One thread at a time; close it, or use it in a `with`.

    Every method raises StateError when the database can't be used, and where it is of one key UnknownKey when no key
    has the id; then nothing was changed. Each `now` is in epoch seconds.
    """

    def create(self, *, now: float, env: str = "live", **given: Unpack[KeyChanges]) -> tuple[Key, str]:
        """A new key and its value, which nobody can tell again. `org_id` is required.

        Raises ValueError for bad input.
        """
        value = generate(self._prefix, validate.environment(env))
        good = validate.checked({"org_id": "", **given}, now)
        at = int(now)
        blank = Key(new_id(now), "", "", None, env, (), (), None, (), obfuscated(value), at, at)
        with self._change() as revision:
            return self._insert(self._pepper.digest(value), blank._replace(**good, version=revision)), value

    def update(self, key_id: str, *, now: float, **changes: Unpack[KeyChanges]) -> Key:
        """Change what is given of a key, and leave the rest.

        Raises ValueError for bad input, KeyUnusable when it is revoked.
        """
        good = validate.checked(changes, now)
        with self._change() as revision:
            return self._store(self._unrevoked(key_id)._replace(**good), now, revision)

    def enable(self, key_id: str, now: float) -> Key:
        """Make a disabled key good again. Raises KeyUnusable when it is revoked."""
        with self._change() as revision:
            return self._store(self._unrevoked(key_id)._replace(disabled=False), now, revision)

    def disable(self, key_id: str, now: float) -> Key:
        """Make a key no good until it is enabled. Raises KeyUnusable when it is revoked."""

        def disable() -> Key:
            with self._change() as revision:
                return self._store(self._unrevoked(key_id)._replace(disabled=True), now, revision)

        return self._room.ending(disable)

    def expire(self, key_id: str, at: float | None, now: float) -> Key:
        """Let a key end at `at` (epoch seconds), or now where that has passed; None: an end to come is taken back.

        Raises KeyExpired when it has ended already, KeyUnusable when it is revoked.
        """

        def expire() -> Key:
            with self._change() as revision:
                key = self._unrevoked(key_id)
                if key.expires_at is not None and now >= key.expires_at:
                    raise KeyExpired(f"key {key_id} has expired already")
                ends = None if at is None else int(max(now, min(at, validate.LATEST)))
                return self._store(key._replace(expires_at=ends), now, revision)

        return self._room.ending(expire)

    def revoke(self, key_id: str, reason: str | None, now: float) -> Key:
        """End a key for good. Revoked before, it is returned as it is. Raises ValueError for a bad reason."""
        why = validate.reason(reason)

        def revoke() -> Key:
            with self._change() as revision:
                return self._revoke(self.get(key_id), why, now, revision)

        return self._room.ending(revoke)

    def revoke_org(self, org_id: str, reason: str | None, now: float) -> Sequence[Key]:
        """End all keys of an organization; returns those that this call ended. Raises ValueError for a bad reason."""
        why = validate.reason(reason)

        def revoke() -> Sequence[Key]:
            with self._change() as revision:
                keys = [key for key in self.list(org_id) if key.revoked_at is None]
                return [self._revoke(key, why, now, revision) for key in keys]

        return self._room.ending(revoke)

    def rotate(self, key_id: str, grace_s: float, now: float) -> tuple[Key, str, Key]:
        """A new key in place of an active one, its value, and the old key, which ends `grace_s` seconds from now.

        The new key keeps the old one's own end. Raises KeyUnusable unless the key is active, ValueError for a grace
        that is negative or reaches beyond the year 9999.
        """
        if not now <= now + grace_s <= validate.LATEST:
            raise ValueError("grace must not be negative, nor reach beyond the year 9999")
        with self._change() as revision:
            old = self.get(key_id)
            state = self.state(old, now)
            if state != "active":
                raise KeyUnusable(f"key {key_id} is {state}: it cannot be rotated; create a new one")
            value = generate(self._prefix, old.env or "live")
            at, ends = int(now), int(now + grace_s)
            fresh = old._replace(id=new_id(now), env=old.env or "live", obfuscated_value=obfuscated(value))
            fresh = fresh._replace(created_at=at, updated_at=at, version=revision)
            ended = old._replace(expires_at=ends if old.expires_at is None else min(old.expires_at, ends))
            self._insert(self._pepper.digest(value), fresh)
            return fresh, value, self._store(ended, now, revision)

    def import_rows(self, rows: Iterable[ImportRow], now: float) -> Sequence[Key]:
        """All rows of an import, or none. Raises BadRow, with the line and the field that is not as it must be."""
        parsed = [(row.line, *key_from(row, self._pepper, self._prefix, now)) for row in rows]
        seen: dict[bytes, int] = {}
        for line, digest, _ in parsed:
            if seen.setdefault(digest, line) != line:
                raise BadRow(line, "value", f"it is the same key as in line {seen[digest]}")
        with self._change() as revision:
            return [self._imported(line, digest, key._replace(version=revision)) for line, digest, key in parsed]

    def _insert(self, digest: bytes, key: Key) -> Key:
        self._connection.execute(INSERT, (digest, *row_of(key)))
        return key

    def _imported(self, line: int, digest: bytes, key: Key) -> Key:
        try:
            return self._insert(digest, key)
        except sqlite3.IntegrityError:
            raise BadRow(line, "value", "it is in the database already") from None

    def _store(self, key: Key, now: float, revision: int) -> Key:
        changed = key._replace(updated_at=int(now), version=revision)
        self._connection.execute(UPDATE, (*row_of(changed), key.id))
        return changed

    def _revoke(self, key: Key, why: str, now: float, revision: int) -> Key:
        if key.revoked_at is not None:
            return key
        return self._store(key._replace(revoked_at=int(now), revoked_reason=why or None), now, revision)

    def _unrevoked(self, key_id: str) -> Key:
        key = self.get(key_id)
        if key.revoked_at is not None:
            raise KeyUnusable(f"key {key_id} is revoked, which is for good: create a new one")
        return key
