"""What the gate asks of a key: who is it, if it is good now.

Law: the database is watched before anything is believed, whatever the source; the value is digested once and never
kept; the caller learns nothing from the reason. After a wait a key is judged with the time and the blocks of then, not
of before it. A key that a source remembers costs no system call. Whoever may be
guessing can be refused before a source is asked, never a caller with a key that was good not long ago.
"""

import time
from collections.abc import Awaitable, Callable

from keyswap.keys.format import well_formed
from keyswap.keys.local.last_used import LastUsed
from keyswap.keys.pepper import Pepper
from keyswap.keys.source import DenyList, KeySource, RemoteSource, judge, refuse_blocked
from keyswap.model import Code, Credential, Principal, Refuse, Request

_MALFORMED = Refuse(
    Code.INVALID_CREDENTIAL, "the key is not 1 to 512 characters of printable ASCII without blanks", step="principal"
)
_UNKNOWN = Refuse(Code.INVALID_CREDENTIAL, "the key is unknown", step="principal")
"""Whole already, with the step: each copy would cost a flood of bad keys 3 µs a request."""

Before = Callable[[Request, float], Awaitable[Refuse | None]]
"""What may refuse a request, at a time, before the look-up of a key that is not known yet."""


class KeyVerifier:
    """The verifier of the credential kind `key`, over any source."""

    def __init__(
        self,
        source: KeySource,
        deny_list: DenyList,
        pepper: Pepper,
        used: LastUsed | None = None,
        before: Before | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`clock` counts seconds and never goes back; it is read where a look-up may wait, and nowhere else."""
        self._recall, self._find = source.recall, source.find
        self._remote = source if isinstance(source, RemoteSource) else None
        self._before = before
        self._deny_list = deny_list
        self._digest = pepper.digest
        self._used = used
        self._clock = clock

    async def __call__(self, credential: Credential, request: Request, now: float) -> Principal | Refuse:
        """The principal whose key this is, at `now` (epoch seconds) from the request's client address.

        A key that its source does not remember waits for the source's answer, a remote one's for up to its time-out.
        """
        refused = self._deny_list.check(now)
        if refused is not None:
            return refused
        value = credential.value
        if not well_formed(value):
            return _MALFORMED
        digest = self._digest(value)
        record = self._recall(digest, now)
        if record is None:
            blocked = self._deny_list.blocked
            if digest in blocked:
                return refuse_blocked(blocked[digest])
            began = self._clock()
            if self._before is not None and not (self._remote is not None and self._remote.knows(digest)):
                refused = await self._before(request, now)
                if refused is not None:
                    return refused
            answer = await self._find(value, digest, now)
            if answer is None or isinstance(answer, Refuse):
                return answer or _UNKNOWN
            record, now = answer, now + self._clock() - began
            refused = self._deny_list.check(now)
            if refused is not None:
                return refused
        elif self._remote is not None and self._remote.due:
            self._remote.refresh(value, digest, now)
        result = judge(record, self._deny_list.blocked, now, request.client)
        if self._used is not None and isinstance(result, Principal):
            self._used(record.key.id, now)
        return result
