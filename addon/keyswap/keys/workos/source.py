"""Keys at WorkOS: the key source `workos`.

Law: only WorkOS says that a key is good. What it said counts for `cache_ttl`; a key in use is asked about again before
that ends, beside the requests, so that none of them waits. While WorkOS gives no answer that can be used, or may not be
asked more often, keys known to be good live on for `stale_if_error`, never past their own end; all else is refused.
However many callers wait for a key, it is asked about once, and nobody waits longer than `timeout`. An answer to a
question that was asked before an event counts for nothing that the event is about. A key's value is in memory while its
question is under way, and no longer.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import NamedTuple

from keyswap.keys.source import DenyList, Found, Lookups, judge, refuse_blocked
from keyswap.keys.workos import api_key
from keyswap.keys.workos.cache import REVOKED, Entry, Remembered, concerns
from keyswap.model import Code, Hint, Principal, Refuse
from keyswap.workos.change_feed import Change
from keyswap.workos.client import BudgetExhausted, Rejected, Unreachable, WorkOS

logger = logging.getLogger(__name__)

REFRESHES = 256
"""How many keys are asked about ahead of time at once."""
AGAIN_S = 1.0
"""How long after a question that brought nothing the next one about the same key is asked."""
STAND_IN_S = 5.0
"""For how long at once a key lives on whose question brought nothing."""
CLOCK_S = 5.0
"""How far the clock may step back before what is remembered counts as unknown."""
VALIDATIONS = "/api_keys/validations"

_LATE = "no answer in time"
_UNKNOWN = Refuse(Code.INVALID_CREDENTIAL, "the key is unknown to WorkOS, or no good there", hint=Hint.AT_WORKOS)


class Ages(NamedTuple):
    """How long answers count, in seconds; `refresh_ahead` is a fraction of `cache_ttl_s`."""

    cache_ttl_s: float = 60.0
    refresh_ahead: float = 0.75
    negative_ttl_s: float = 10.0
    stale_if_error_s: float = 600.0
    timeout_s: float = 2.0


class _Flight:
    """A question under way, and what was told while it is."""

    __slots__ = ("changes", "familiar", "round", "task")
    task: asyncio.Task[Found | Refuse]

    def __init__(self, familiar: bool) -> None:
        self.changes: list[Change] = []
        self.familiar = familiar
        self.round = 0
        """How often everything had become due when it was asked."""

    def overtaken(self, told: api_key.Told | Refuse) -> bool:
        """Whether an event came since it was asked that the answer may not know of, so that it counts for nothing."""
        if isinstance(told, Refuse):
            return any(change.kind == "key" and not change.ends for change in self.changes)
        principal = told.principal()
        return any(concerns(change, told.key.id, principal) for change in self.changes)


class WorkosKeys:
    """The key source `workos`. Safe on one event loop; `clock` counts seconds and never goes back."""

    def __init__(
        self,
        workos: WorkOS,
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
        """Called by every request: tells what events have said since."""
        self._revoked = revoked
        """Whether an event said so of a key's id, also before this source was made."""
        self._memory = Remembered(size)
        self._entries = self._memory.known
        self._flights: dict[bytes, _Flight] = {}
        self._round = 0
        """How often everything has become due: what was asked about before is to be asked about again."""
        self._strangers: set[str] = set()
        self._stood_in = 0
        self._now = float("-inf")

    def recall(self, digest: bytes, now: float) -> Found | None:
        """A key that was good not long ago; `due` says whether `refresh` is to be called with its value."""
        self._take_in(now)
        entry = self._entries.get(digest)
        if entry is None or not entry.since - CLOCK_S <= now < entry.until:
            return None
        self.due = now >= entry.due_at or entry.round != self._round
        self.lookups.remembered += 1
        return entry.found

    def knows(self, digest: bytes) -> bool:
        """Whether this was a good key not long ago: then it is no guess."""
        return digest in self._entries or digest in self._memory.familiar

    def refresh(self, value: str, digest: bytes, now: float) -> None:
        """Ask about a key again that is remembered, beside whoever needs it now."""
        entry = self._entries.get(digest)
        if entry is not None and digest not in self._flights:
            if len(self._flights) < REFRESHES:
                self._ask(value, digest, now, patient=False)
            else:
                self._not_before(entry, now + AGAIN_S)

    async def find(self, value: str, digest: bytes, now: float) -> Found | Refuse | None:
        """Ask about a key; whoever asks about the same one meanwhile waits for the same answer."""
        refused = self._memory.refused(digest, now)
        if refused is not None:
            self.lookups.unknown += 1
            return refused
        entry = self._entries.get(digest)
        if entry is not None and self._workos.down and self._stand_in(entry, now):
            self.refresh(value, digest, now)
            return self._counted(entry.found)
        # Who has nothing to stand on waits for room in the budget.
        patient = entry is None or now >= entry.stale_until
        flight = self._flights.get(digest) or self._ask(value, digest, now, patient)
        done, _ = await asyncio.wait({flight.task}, timeout=self.ages.timeout_s)
        if done and not flight.task.cancelled():
            return self._counted(flight.task.result())
        return self._counted(self._unanswered(Unreachable(_LATE), digest, now))

    def forget(self, change: Change) -> None:
        """Take in what an event says."""
        for flight in self._flights.values():
            flight.changes.append(change)
        if change.kind == "all":
            self._round += 1
            return
        named = self._memory.named_by(change)
        if named or change.ends:
            self.generation += 1
        if change.kind == "key" and change.ends:
            self._memory.revoke(change.id)
        elif change.kind == "key" and not named:
            self._memory.unknown.clear()  # it was made, perhaps: who tried it too early need not wait
        for digest in named:
            self._drop(digest, f"its {change.kind} has ended at WorkOS" if change.ends else None)

    def by_id(self, key_id: str, now: float, client: str) -> Principal | Refuse | None:
        """What a caller at `client` would be told who presents this key now; None: it is not remembered here."""
        refused = self.deny_list.check(now)
        if refused is not None:
            return refused
        ended, entry = self._why_ended(key_id), self._memory.with_id(key_id)
        if ended is None and entry is not None:
            return judge(entry.found, self.deny_list.blocked, now, client)
        if ended is None and key_id in self.deny_list.blocked:
            return refuse_blocked(self.deny_list.blocked[key_id], key_id)
        return None if ended is None else Refuse(Code.INVALID_CREDENTIAL, ended, key_id, hint=Hint.AT_WORKOS)

    def tend(self, now: float) -> None:
        """What is to be done twice a second beside the requests."""
        self._now = now
        self._memory.tidy(now)

    def status(self, now: float) -> dict[str, object]:
        """What `keyswap status` says of this source."""
        refused = self.deny_list.check(now)
        state = self._workos.state()
        return {
            "source": "workos",
            **state,
            "healthy": refused is None and bool(state["healthy"]),
            "reason": refused.reason if refused is not None else state["reason"],
            "cached": len(self._entries),
            "refused": len(self._memory.unknown),
            "asking": len(self._flights),
            "stood_in": self._stood_in,
            "blocks": len(self.deny_list.blocked),
        }

    async def close(self) -> None:
        """End what is under way; who waits for it is refused."""
        tasks = [flight.task for flight in self._flights.values() if flight.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ask(self, value: str, digest: bytes, now: float, patient: bool) -> _Flight:
        flight = self._flights[digest] = _Flight(self.knows(digest))
        flight.task = asyncio.get_running_loop().create_task(self._asked(value, digest, now, flight, patient))
        return flight

    async def _asked(self, value: str, digest: bytes, now: float, flight: _Flight, patient: bool) -> Found | Refuse:
        """The answer about a key, taken in; it ends within the time-out, and raises nothing."""
        began = self._clock()
        patient = patient and flight.familiar
        try:
            while True:
                told = await self._told(value, began + self.ages.timeout_s, flight, patient)
                self._take_in(now + self._clock() - began)
                if flight.overtaken(told):
                    continue
                if isinstance(told, Refuse):
                    return self._no_good(told, digest, now)
                return self._good(self._found(told, digest), now, flight.round)
        except Unreachable as error:
            return self._unanswered(error, digest, now)
        finally:
            del self._flights[digest]

    async def _told(self, value: str, ends: float, flight: _Flight, patient: bool) -> api_key.Told | Refuse:
        flight.changes.clear()
        flight.round = self._round
        left_s = ends - self._clock()
        if left_s <= 0:
            raise Unreachable(_LATE)
        try:
            told = await self._workos.post(
                VALIDATIONS,
                {"value": value},
                deadline_s=left_s,
                known=flight.familiar,
                patient=patient,
                read=api_key.read,
            )
        except Rejected as error:
            if error.status == 422:  # what WorkOS says to a value that cannot be a key
                return _UNKNOWN
            raise Unreachable(error.why) from None
        if isinstance(told, api_key.UnknownOwner):
            return self._stranger(told)
        return told or _UNKNOWN

    def _found(self, told: api_key.Told, digest: bytes) -> Found:
        """The very same as before, if nothing about the key is another."""
        entry = self._entries.get(digest)
        same = entry is not None and (entry.found.key, entry.found.principal.agent) == told
        return entry.found if entry is not None and same else Found(told.key, digest, told.principal())

    def _good(self, found: Found, now: float, asked_in: int) -> Found | Refuse:
        if self._is_revoked(found.key.id):
            return self._no_good(
                Refuse(Code.INVALID_CREDENTIAL, REVOKED, found.key.id, hint=Hint.AT_WORKOS), found.digest, now
            )
        ages, before = self.ages, self._entries.get(found.digest)
        if before is not None and before.found is not found:
            self.generation += 1
        # Keys that were all asked about at once, as after a start, are spread over what is left of their time.
        ahead_s = ages.cache_ttl_s * (ages.refresh_ahead + (1 - ages.refresh_ahead) * found.digest[0] / 512)
        until = now + ages.cache_ttl_s
        self._memory.keep(Entry(found, now, now + ahead_s, until, until + ages.stale_if_error_s, asked_in))
        return found

    def _is_revoked(self, key_id: str) -> bool:
        return self._memory.is_revoked(key_id) or self._revoked(key_id)

    def _why_ended(self, key_id: str) -> str | None:
        return REVOKED if self._is_revoked(key_id) else self._memory.ended(key_id)

    def _no_good(self, refused: Refuse, digest: bytes, now: float) -> Refuse:
        key_id = self._memory.give_up(digest)
        if key_id is not None:
            self._memory.end(key_id, "the key is no good at WorkOS any more")
            self.generation += 1
        self._memory.refuse(digest, refused, now + self.ages.negative_ttl_s)
        return refused

    def _unanswered(self, error: Unreachable, digest: bytes, now: float) -> Found | Refuse:
        entry = self._entries.get(digest)
        if entry is not None and self._stand_in(entry, now):
            return entry.found
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
        """When to ask about a key again that could not be asked about now."""
        entry.due_at, entry.round = due_at, self._round

    def _drop(self, digest: bytes, ended: str | None) -> None:
        """Forget what is known of a key, but that it was good; `ended` says why it is over."""
        entry = self._memory.drop(digest)
        if entry is None:
            return
        if ended is not None:
            self._memory.end(entry.found.key.id, ended)
            self.generation += 1
        self._memory.familiarise(entry, max(self._now, entry.since))

    def _stranger(self, told: api_key.UnknownOwner) -> Refuse:
        kind = told.owner_type
        if kind not in self._strangers and len(self._strangers) < 100:
            self._strangers.add(kind)
            logger.error("WorkOS has keys whose owner is of the type %r, which keyswap does not know: refused", kind)
        return Refuse(Code.INVALID_CREDENTIAL, f"the key's owner is of an unknown type, {kind!r}", told.key_id)

    def _counted(self, answer: Found | Refuse) -> Found | Refuse:
        if isinstance(answer, Found):
            self.lookups.found += 1
        elif answer.code is Code.INVALID_CREDENTIAL:
            self.lookups.unknown += 1
        else:
            self.lookups.failed += 1
        return answer
