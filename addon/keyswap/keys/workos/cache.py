"""What a remote source of keys said, for as long as it counts.

Law: by digest, never by value. Known keys and what is not a key are bounded in number, each by itself, so that guesses
push out no known key. What ended stays so in memory: a key that was revoked is never good again, whatever is said of it
later; what else ended (an owner, an agent, a membership) holds until a later answer says otherwise.
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from cachetools import FIFOCache

from keyswap.keys.source import KeyRecord
from keyswap.model import Principal, Refuse
from keyswap.workos.change_feed import Change

UNKNOWN = 10_000
"""How many refused digests are remembered: together about 3 MiB."""
ENDED = 10_000
FAMILIAR_S = 3600.0
"""For how long a digest counts as known that was good once, when nothing else is remembered of it."""


class Entry:
    """A key that was good when it was asked about, at `since`; times are epoch seconds.

    `round` counts how often everything had become due by then.
    """

    __slots__ = ("due_at", "record", "round", "since", "stale_until", "until")

    def __init__(
        self, record: KeyRecord, since: float, due_at: float, until: float, stale_until: float, asked_in: int
    ) -> None:
        self.record, self.since, self.round = record, since, asked_in
        self.due_at, self.until, self.stale_until = due_at, until, stale_until


def concerns(change: Change, key_id: str, principal: Principal) -> bool:
    """Whether a change is about this key: the key itself, or whose it is."""
    match change.kind:
        case "key":
            return change.id == key_id
        case "org":
            return change.id == principal.org_id
        case "user" | "membership":
            return change.id == principal.user_id
        case "agent":
            return change.id == principal.agent
    return False


class _Names(NamedTuple):
    kind: str
    id: str


class Remembered:
    """Known keys, found by digest and by the ids of whatever an event may name."""

    def __init__(self, size: int) -> None:
        self._size = size
        self.known: OrderedDict[bytes, Entry] = OrderedDict()
        """In the order in which they were asked about; `drop` forgets their names too."""
        self.unknown: FIFOCache[bytes, tuple[float, Refuse]] = FIFOCache(UNKNOWN)
        self.familiar: OrderedDict[bytes, tuple[float, str]] = OrderedDict()
        """Until when, and the id of the key that it was."""
        self._named: dict[_Names, set[bytes]] = {}
        self._revoked: FIFOCache[str, None] = FIFOCache(ENDED)
        self._ended: FIFOCache[str, str] = FIFOCache(ENDED)

    def keep(self, entry: Entry) -> None:
        """Remember a key as the newest; what was remembered of its digest, or is too much, is dropped."""
        digest = entry.record.digest
        self.drop(digest)
        while len(self.known) >= self._size:
            self.drop(next(iter(self.known)))
        self.known[digest] = entry
        for name in _names(entry.record):
            self._named.setdefault(name, set()).add(digest)
        self.unknown.pop(digest, None)
        self.familiar.pop(digest, None)
        self._ended.pop(entry.record.key.id, None)

    def drop(self, digest: bytes) -> Entry | None:
        """Forget a key, and all the ids by which it is found."""
        entry = self.known.pop(digest, None)
        for name in _names(entry.record) if entry is not None else ():
            digests = self._named[name]
            digests.discard(digest)
            if not digests:
                del self._named[name]
        return entry

    def refuse(self, digest: bytes, refused: Refuse, until: float) -> None:
        """Remember that a digest is no good key."""
        self.unknown.pop(digest, None)  # it is to be the last that `tidy` comes to
        self.unknown[digest] = until, refused

    def refused(self, digest: bytes, now: float) -> Refuse | None:
        """The refusal that is remembered of a digest."""
        until, refused = self.unknown.get(digest, (0.0, None))
        return refused if now < until else None

    def remember_digest(self, entry: Entry, now: float) -> None:
        """Remember only that a digest was a good key not long ago, and which."""
        while len(self.familiar) >= self._size:
            self.familiar.popitem(last=False)
        self.familiar[entry.record.digest] = now + FAMILIAR_S, entry.record.key.id

    def give_up(self, digest: bytes) -> str | None:
        """A digest is no good key; the id of the one that it was not long ago."""
        entry = self.drop(digest)
        _, key_id = self.familiar.pop(digest, (0.0, None))
        return entry.record.key.id if entry is not None else key_id

    def with_id(self, key_id: str) -> Entry | None:
        """The key of an id."""
        for digest in self._named.get(_Names("key", key_id), ()):
            return self.known[digest]
        return None

    def named_by(self, change: Change) -> list[bytes]:
        """The digests of the keys that a change is about."""
        kind = "user" if change.kind == "membership" else change.kind
        return list(self._named.get(_Names(kind, change.id), ()))

    def revoke(self, key_id: str) -> None:
        """A key is over for good."""
        self._revoked[key_id] = None

    def end(self, key_id: str, why: str) -> None:
        """A key is over until it is found to be good again."""
        self._ended[key_id] = why

    def ended(self, key_id: str) -> str | None:
        """Why a key is over; None: nothing says so."""
        return REVOKED if key_id in self._revoked else self._ended.get(key_id)

    def is_revoked(self, key_id: str) -> bool:
        """Whether a key is over for good."""
        return key_id in self._revoked

    def tidy(self, now: float) -> None:
        """Forget what has no use any more; what is looked at is what was asked about first."""
        for digest in _leading(((digest, entry.stale_until) for digest, entry in self.known.items()), now):
            entry = self.drop(digest)
            if entry is not None:
                self.remember_digest(entry, now)
        for digest in _leading(((digest, until) for digest, (until, _) in self.unknown.items()), now):
            del self.unknown[digest]
        for digest in _leading(((digest, until) for digest, (until, _) in self.familiar.items()), now):
            del self.familiar[digest]


REVOKED = "the key was revoked at WorkOS"
_TIDIED = 1000
"""How much is forgotten at once: a millisecond's worth."""


def _leading(ends: Iterable[tuple[bytes, float]], now: float) -> list[bytes]:
    """The digests in front whose time is over."""

    def over() -> Iterator[bytes]:
        for digest, until in ends:
            if until > now:
                return
            yield digest

    return [digest for digest, _ in zip(over(), range(_TIDIED), strict=False)]


def _names(record: KeyRecord) -> Iterator[_Names]:
    principal = record.principal
    yield _Names("key", record.key.id)
    for kind, named in (("org", principal.org_id), ("user", principal.user_id), ("agent", principal.agent)):
        if named is not None:
            yield _Names(kind, named)
