"""The port that every key source fulfils, and the judgement that is the same for all of them.

Law: a source only says whose key a digest is; whether that key is good now is judged here, on every call, also for what
a source remembers. A new source is one file, one row of `composition/key_sources.py` and one parameter of
the contract suite (tests/keys/test_contract.py).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

from keyswap.keys.key import Key, why_not
from keyswap.model import Code, Hint, Principal, Refuse

Blocks = Mapping[str | bytes, str]
"""Block reasons by key id (text) and by digest (bytes)."""


class KeyRecord(NamedTuple):
    """A key that exists. The principal is made once for a version of the key, so that equal stays identical."""

    key: Key
    digest: bytes
    principal: Principal


@dataclass(slots=True)
class Lookups:
    """How often a source was asked for a key, by what came of it; it outlives policies."""

    remembered: int = 0
    """The key was known since an earlier look-up."""
    found: int = 0
    unknown: int = 0
    failed: int = 0
    """The source could not answer."""


class DenyList(Protocol):
    """What is blocked on this machine, whatever source a key is of, and whether that can be said now."""

    @property
    def blocked(self) -> Blocks:
        """The blocks, as of the last check."""

    @property
    def generation(self) -> int:
        """Another whenever anything has changed."""

    def check(self, now: float) -> Refuse | None:
        """Take in what changed; refuse when it cannot be known what is blocked at `now` (epoch seconds)."""


class KeySource(Protocol):
    """Where keys are looked up. `recall` is asked first, on every request; `find` only when it has nothing."""

    def recall(self, digest: bytes, now: float) -> KeyRecord | None:
        """What is remembered of a digest and still to be trusted at `now`; never waits."""

    async def find(self, value: str, digest: bytes, now: float) -> KeyRecord | Refuse | None:
        """Look a well-formed key up; None: it is unknown. Refuses when it is malformed or the source cannot answer."""


class InspectableSource(KeySource, Protocol):
    """A source that is asked of its keys beside the requests: of open streams, for explanations, for `status`."""

    @property
    def generation(self) -> int:
        """Another whenever a key may have changed."""

    def by_id(self, key_id: str, now: float, client: str) -> Principal | Refuse | None:
        """What a caller at `client` would get who presents this key now; None: the source knows keys by value alone."""

    def status(self, now: float) -> Mapping[str, object]:
        """What `keyswap status` shows of it."""


@runtime_checkable
class RemoteSource(KeySource, Protocol):
    """A source that is far away: what it said counts for a time, and is asked for again ahead of its end."""

    due: bool
    """Whether the key that was recalled last is to be asked about again."""

    def refresh(self, value: str, digest: bytes, now: float) -> None:
        """Ask about a remembered key again, beside the requests; never waits."""

    def knows(self, digest: bytes) -> bool:
        """Whether this was a good key not long ago, so that presenting it is no guess."""


def judge(record: KeyRecord, blocked: Blocks, now: float, client: str) -> Principal | Refuse:
    """The principal of a key that is good now; else a refusal that names the key and the private reason."""
    key = record.key
    if blocked and (key.id in blocked or record.digest in blocked):
        return refuse_blocked(blocked.get(key.id) or blocked.get(record.digest), key.id)
    why = why_not(key, now, client)
    return record.principal if why is None else Refuse(Code.INVALID_CREDENTIAL, why, key.id)


def refuse_blocked(reason: str | None, key_id: str | None = None) -> Refuse:
    """The refusal of a key that stands in the deny list, for the reason that was given there."""
    why = f"the key is blocked: {reason}" if reason else "the key is blocked"
    return Refuse(Code.INVALID_CREDENTIAL, why, key_id, hint=Hint.BLOCKED)
