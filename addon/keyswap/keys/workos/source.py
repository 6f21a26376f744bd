"""Keys at WorkOS: the key source `workos`.

Law: only WorkOS says that a key is good. Its answer counts for `cache_ttl`; a key in use is asked about again before
that ends, beside the requests, so that none of them waits. While WorkOS gives no answer that can be used, or may not be
asked more often, cached keys stay valid for `stale_if_error`, never past their own end; every other key is refused.
However many callers wait for a key, it is asked about once, and no request waits longer than `timeout`. A key's value
is in memory while its question is under way, and no longer.
"""

import asyncio
import logging
import time
from collections.abc import Callable

from keyswap.keys.source import DenyList, KeyRecord, Lookups, judge, refuse_blocked
from keyswap.keys.workos import api_key
from keyswap.keys.workos.cache import REVOKED, Entry, Remembered
from keyswap.keys.workos.validation import Ages, PendingValidation
from keyswap.model import Code, Hint, Principal, Refuse
from keyswap.workos.change_feed import Change
from keyswap.workos.client import BudgetExhausted, Rejected, Unreachable, WorkOSClient

logger = logging.getLogger(__name__)

REFRESHES = 256
"""How many keys are refreshed at once."""
AGAIN_S = 1.0
"""Until a key whose question brought no answer is asked about again."""
STAND_IN_S = 5.0
"""For how long at once a key lives on whose question brought no answer."""
CLOCK_S = 5.0
"""How far the clock may step back before cached keys count as unknown."""
VALIDATIONS = "/api_keys/validations"

_LATE = "no answer in time"
_UNKNOWN = Refuse(Code.INVALID_CREDENTIAL, "the key is unknown to WorkOS, or no good there", hint=Hint.AT_WORKOS)


class WorkosKeys:
    """The key source `workos`. Safe on one event loop; `clock` counts seconds and never goes back."""

    def __init__(
        self,
        workos: WorkOSClient,
        deny_list: DenyList,
        ages: Ages | None = None,
        take_in: Callable[[float], None] = lambda _now: None,
        revoked: Callable[[str], bool] = lambda _key_id: False,
        size: int = 100_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.deny_list, self.ages, self.lookups = deny_list, ages or Ages(), Lookups()
        self.due = False
        """Whether the key that was recalled last is to be asked about again."""
        self.generation = 0
        """Rises when a key that was good may be no more."""
        self._workos, self._clock = workos, clock
        self._take_in = take_in
        """Called by every request: takes in the changes since."""
        self._revoked = revoked
        """Whether an event has revoked a key's id, also before this source was made."""
        self._memory = Remembered(size)
        self._entries = self._memory.known
        self._pending: dict[bytes, PendingValidation] = {}
        self._round = 0
        """How often every cached key has become due for a refresh."""
        self._unknown_owners: set[str] = set()
        self._stood_in = 0
        self._now = float("-inf")

    def recall(self, digest: bytes, now: float) -> KeyRecord | None:
        """A key that was good not long ago; `due` says whether `refresh` is to be called with its value."""
        self._take_in(now)
        entry = self._entries.get(digest)
        if entry is None or not entry.since - CLOCK_S <= now < entry.until:
            return None
        self.due = now >= entry.due_at or entry.round != self._round
        self.lookups.remembered += 1
        return entry.record

    def knows(self, digest: bytes) -> bool:
        """Whether the digest was a good key's not long ago: then it is no guess."""
        return digest in self._entries or digest in self._memory.familiar

    def refresh(self, value: str, digest: bytes, now: float) -> None:
        """Refresh a cached key, beside the request that needs it now."""
        entry = self._entries.get(digest)
        if entry is not None and digest not in self._pending:
            if len(self._pending) < REFRESHES:
                self._begin(value, digest, now, patient=False)
            else:
                self._not_before(entry, now + AGAIN_S)

    async def find(self, value: str, digest: bytes, now: float) -> KeyRecord | Refuse | None:
        """Ask about a key; requests with the same key meanwhile wait for the same answer."""
        refused = self._memory.refused(digest, now)
        if refused is not None:
            self.lookups.unknown += 1
            return refused
        entry = self._entries.get(digest)
        if entry is not None and self._workos.down and self._stand_in(entry, now):
            self.refresh(value, digest, now)
            return self._count(entry.record)
        # A request without a cached key waits for room in the budget.
        patient = entry is None or now >= entry.stale_until
        pending = self._pending.get(digest) or self._begin(value, digest, now, patient)
        began = self._clock()
        done, _ = await asyncio.wait({pending.task}, timeout=self.ages.timeout_s)
        if done and not pending.task.cancelled():
            return self._count(pending.task.result())
        return self._count(self._fall_back(Unreachable(_LATE), digest, now + self._clock() - began))

    def forget(self, change: Change) -> None:
        """Take in a change."""
        for pending in self._pending.values():
            pending.changes.append(change)
        if change.kind == "all":
            self._round += 1
            return
        named = self._memory.named_by(change)
        if named or change.ends:
            self.generation += 1
        if change.kind == "key" and change.ends:
            self._memory.revoke(change.id)
        elif change.kind == "key" and not named:
            self._memory.unknown.clear()  # it was made, perhaps: a caller that tried it too early need not wait
        for digest in named:
            self._drop(digest, f"its {change.kind} has ended at WorkOS" if change.ends else None)

    def by_id(self, key_id: str, now: float, client: str) -> Principal | Refuse | None:
        """The verdict on this key for a caller at `client` now; None: the key is not cached."""
        refused = self.deny_list.check(now)
        if refused is not None:
            return refused
        ended, entry = self._why_ended(key_id), self._memory.with_id(key_id)
        if ended is None and entry is not None:
            return judge(entry.record, self.deny_list.blocked, now, client)
        if ended is None and key_id in self.deny_list.blocked:
            return refuse_blocked(self.deny_list.blocked[key_id], key_id)
        return None if ended is None else Refuse(Code.INVALID_CREDENTIAL, ended, key_id, hint=Hint.AT_WORKOS)

    def tend(self, now: float) -> None:
        """Drop what is over: called twice a second beside the requests."""
        self._now = now
        self._memory.tidy(now)

    def status(self, now: float) -> dict[str, object]:
        """The source's part of `keyswap status`."""
        refused = self.deny_list.check(now)
        state = self._workos.state()
        return {
            "source": "workos",
            **state,
            "healthy": refused is None and bool(state["healthy"]),
            "reason": refused.reason if refused is not None else state["reason"],
            "cached": len(self._entries),
            "refused": len(self._memory.unknown),
            "asking": len(self._pending),
            "stood_in": self._stood_in,
            "blocks": len(self.deny_list.blocked),
        }

    async def close(self) -> None:
        """Cancel the questions under way; requests that wait for one are refused."""
        tasks = [pending.task for pending in self._pending.values() if pending.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _begin(self, value: str, digest: bytes, now: float, patient: bool) -> PendingValidation:
        pending = self._pending[digest] = PendingValidation(self.knows(digest))
        pending.task = asyncio.get_running_loop().create_task(self._resolve(value, digest, now, pending, patient))
        return pending

    async def _resolve(
        self, value: str, digest: bytes, now: float, pending: PendingValidation, patient: bool
    ) -> KeyRecord | Refuse:
        """The answer about a key, taken in; it ends within the time-out, and raises nothing."""
        began = self._clock()
        patient = patient and pending.familiar
        try:
            while True:
                answer = await self._validate(value, began + self.ages.timeout_s, pending, patient)
                self._take_in(now + self._clock() - began)
                if pending.overtaken(answer):
                    continue
                if isinstance(answer, Refuse):
                    return self._reject(answer, digest, now)
                return self._accept(self._record_of(answer, digest), now, pending.round)
        except Unreachable as error:
            return self._fall_back(error, digest, now + self._clock() - began)
        finally:
            del self._pending[digest]

    async def _validate(
        self, value: str, ends: float, pending: PendingValidation, patient: bool
    ) -> api_key.ValidatedKey | Refuse:
        pending.changes.clear()
        pending.round = self._round
        left_s = ends - self._clock()
        if left_s <= 0:
            raise Unreachable(_LATE)
        try:
            asked, known = {"value": value}, pending.familiar
            answer = await self._workos.post(
                VALIDATIONS, asked, deadline_s=left_s, known=known, patient=patient, read=api_key.read
            )
        except Rejected as error:
            if error.status == 422:  # what WorkOS says to a value that cannot be a key
                return _UNKNOWN
            raise Unreachable(error.why) from None
        if isinstance(answer, api_key.UnknownOwner):
            return self._unknown_owner(answer)
        return answer or _UNKNOWN

    def _record_of(self, answer: api_key.ValidatedKey, digest: bytes) -> KeyRecord:
        """The very same record as before, if nothing about the key has changed."""
        entry = self._entries.get(digest)
        same = entry is not None and (entry.record.key, entry.record.principal.agent) == answer
        return entry.record if entry is not None and same else KeyRecord(answer.key, digest, answer.principal())

    def _accept(self, record: KeyRecord, now: float, asked_in: int) -> KeyRecord | Refuse:
        if self._is_revoked(record.key.id):
            return self._reject(
                Refuse(Code.INVALID_CREDENTIAL, REVOKED, record.key.id, hint=Hint.AT_WORKOS), record.digest, now
            )
        ages, before = self.ages, self._entries.get(record.digest)
        if before is not None and before.record is not record:
            self.generation += 1
        # Keys that were all asked about at once, as after a start, are spread over what is left of their time.
        ahead_s = ages.cache_ttl_s * (ages.refresh_ahead + (1 - ages.refresh_ahead) * record.digest[0] / 512)
        until = now + ages.cache_ttl_s
        self._memory.keep(Entry(record, now, now + ahead_s, until, until + ages.stale_if_error_s, asked_in))
        return record

    def _is_revoked(self, key_id: str) -> bool:
        return self._memory.is_revoked(key_id) or self._revoked(key_id)

    def _why_ended(self, key_id: str) -> str | None:
        return REVOKED if self._is_revoked(key_id) else self._memory.ended(key_id)

    def _reject(self, refused: Refuse, digest: bytes, now: float) -> Refuse:
        key_id = self._memory.give_up(digest)
        if key_id is not None:
            self._memory.end(key_id, "the key is no good at WorkOS any more")
            self.generation += 1
        self._memory.refuse(digest, refused, now + self.ages.negative_ttl_s)
        return refused

    def _fall_back(self, error: Unreachable, digest: bytes, now: float) -> KeyRecord | Refuse:
        """What is made of a question without an answer, at `now`: it was waited for, so changes are taken in first."""
        self._take_in(now)
        entry = self._entries.get(digest)
        if entry is not None and self._stand_in(entry, now):
            return entry.record
        if isinstance(error, BudgetExhausted):
            return Refuse(Code.STORE_UNAVAILABLE, f"the key is not known yet, and {error.why}")
        return Refuse(Code.STORE_UNAVAILABLE, f"WorkOS cannot be asked: {error.why}")

    def _stand_in(self, entry: Entry, now: float) -> bool:
        """Let a key live on for a moment, if it may; else it stays as it is."""
        if now >= entry.stale_until:
            return False
        self._not_before(entry, now + AGAIN_S)
        entry.until = max(entry.until, min(entry.stale_until, now + STAND_IN_S))
        self._stood_in += 1
        return True

    def _not_before(self, entry: Entry, due_at: float) -> None:
        """Set when to ask again about a key that could not be asked about now."""
        entry.due_at, entry.round = due_at, self._round

    def _drop(self, digest: bytes, ended: str | None) -> None:
        """Forget a key but for its having been good; `ended` says why it is over."""
        entry = self._memory.drop(digest)
        if entry is None:
            return
        if ended is not None:
            self._memory.end(entry.record.key.id, ended)
            self.generation += 1
        self._memory.remember_digest(entry, max(self._now, entry.since))

    def _unknown_owner(self, answer: api_key.UnknownOwner) -> Refuse:
        kind = answer.owner_type
        if kind not in self._unknown_owners and len(self._unknown_owners) < 100:
            self._unknown_owners.add(kind)
            logger.error("WorkOS has keys whose owner is of the type %r, which keyswap does not know: refused", kind)
        return Refuse(Code.INVALID_CREDENTIAL, f"the key's owner is of an unknown type, {kind!r}", answer.key_id)

    def _count(self, answer: KeyRecord | Refuse) -> KeyRecord | Refuse:
        if isinstance(answer, KeyRecord):
            self.lookups.found += 1
        elif answer.code is Code.INVALID_CREDENTIAL:
            self.lookups.unknown += 1
        else:
            self.lookups.failed += 1
        return answer
