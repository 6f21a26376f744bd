"""The store `valkey://`: counters in a Valkey or Redis server, shared by the gateways of many machines.

Law: all limits of a request are one script and one round trip, and the server's clock decides. What a request in flight
holds is a lease that its gateway renews: the places of one that was killed are free again within a lease. A place
whose taking was not answered is released like any other, since it may have been taken. No request waits beyond the
time-out.
"""

import asyncio
import secrets
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from hashlib import sha256
from itertools import batched, count
from typing import cast

from cachetools import FIFOCache
from valkey.exceptions import NoScriptError, ResponseError

from keyswap.limits.limit import (
    MOST_KNOWN,
    Acquired,
    Kind,
    Limit,
    LimitRequest,
    LimitStoreUnavailable,
    Stored,
    remember,
)
from keyswap.limits.valkey.connection import Address, OutcomeUnknown, PipelinedConnection, bulk, error_text, packed
from keyswap.limits.valkey.link import ServerLink
from keyswap.limits.valkey.listing import COUNT, COUNT_BITS, LOOK, listed_bucket, listed_states
from keyswap.limits.valkey.plan import BY_DIGEST, BY_SOURCE, PREFIX, US, Plan, planned_limit
from keyswap.model import Level

LEASE_S = 15.0
_RENEW = b"""
local time = redis.call('TIME')
local ends = time[1] * 1000000 + time[2] + ARGV[1]
local lease_ms = math.ceil(ARGV[1] / 1000)
for i, key in ipairs(KEYS) do
  redis.call('ZADD', key, string.format('%.0f', ends), ARGV[i + 1])
  if redis.call('PTTL', key) < lease_ms then redis.call('PEXPIRE', key, lease_ms) end
end
"""
_BATCH = 256
"""So many places are renewed or given back at once, between requests: some 0.3 ms of the server's time."""
_SCAN = 1000
_HOPS = 4
"""Answers that send a command elsewhere, or ask for the script, before it is given up."""


class _Leased:
    """The places of one request."""

    __slots__ = ("_keys", "_member", "_store")

    def __init__(self, store: "ValkeyLimits", member: bytes, keys: tuple[bytes, ...]) -> None:
        self._store, self._member, self._keys = store, member, keys

    def release(self) -> None:
        """Give the places back: the request has ended."""
        keys, self._keys = self._keys, ()
        if keys:
            self._store.release(self._member, keys)

    def describe(self) -> tuple[str, ...]:
        """The store, their name, and their keys."""
        return (self._store.name, *(part.decode("utf-8", "surrogateescape") for part in (self._member, *self._keys)))


class ValkeyLimits:
    """Counts in a server. It is used from one event loop at a time; what it holds in flight is bound to none."""

    def __init__(self, url: str, timeout_s: float, lease_s: float = LEASE_S) -> None:
        """Does not connect yet."""
        address = Address.of(url)
        self._url = address.url
        self.name = sha256(url.encode()).hexdigest()[:16]  # not as it is: a password may stand in it
        self._link = ServerLink(address, timeout_s, self._opened)
        self._lease_us = round(lease_s * US)
        self._known: FIFOCache[int, tuple[tuple[LimitRequest, ...], Plan]] = FIFOCache(MOST_KNOWN)
        self._token = secrets.token_hex(8).encode()
        self._numbers = count()
        self._held: dict[bytes, tuple[bytes, ...]] = {}
        self._late: dict[bytes, tuple[tuple[bytes, ...], int]] = {}
        """Places to be released, by name: their keys, and how often. One that may still arrive is released twice."""
        self._again: dict[bytes, tuple[tuple[bytes, ...], int]] = {}
        self._soon = False
        self._renew_at = 0.0
        self._complaint: str | None = None
        self._ahead_us = 0.0

    def wait(self, timeout_s: float) -> None:
        """Set how long to wait for the server from now on."""
        self._link.timeout_s = timeout_s

    # ---- Requests

    async def acquire(self, asks: tuple[LimitRequest, ...], now: float, dry: bool = False) -> Acquired:
        """Acquire all asks or none, in one round trip."""
        if not asks:
            return Acquired(True, ())
        known = self._known.get(id(asks))
        plan = known[1] if known is not None and known[0] is asks else self._plan(asks)
        if dry or not plan.places:
            return self._parsed(plan, await self._ask(plan.dry if dry else plan.command), now)
        return await self._reserve(plan, now)

    def _plan(self, asks: tuple[LimitRequest, ...]) -> Plan:
        return remember(self._known, asks, Plan(asks, self._lease_us))

    async def _reserve(self, plan: Plan, now: float) -> Acquired:
        """Acquire, and hold the places."""
        member = b"%b.%d" % (self._token, next(self._numbers))
        try:
            answer = await self._ask(plan.command + bulk(member))
        except (OutcomeUnknown, asyncio.CancelledError):
            self._release_later(member, plan.places, 2)
            raise
        try:
            acquired = self._parsed(plan, answer, now)
        except LimitStoreUnavailable:  # whatever the answer was, they may have been taken
            self._release_later(member, plan.places, 1)
            raise
        keys = plan.reserved(acquired)
        if not keys:
            return acquired
        self._held[member] = keys
        return Acquired(True, acquired.levels, _Leased(self, member, keys))

    def _parsed(self, plan: Plan, answer: object, now: float) -> Acquired:
        """What was poured. Raises LimitStoreUnavailable for an answer that says nothing of that."""
        try:
            now_us, acquired = plan.parse(answer)
        except LimitStoreUnavailable as error:
            self._complaint = f"{self._url}: {error}"
            raise
        self._ahead_us = now_us - now * US
        return acquired

    async def _ask(self, command: bytes) -> object:
        """The answer to a command. Raises LimitStoreUnavailable, or OutcomeUnknown."""
        deadline = asyncio.get_running_loop().time() + self._link.timeout_s
        for _ in range(_HOPS):
            connection = self._link.connection or await self._link.ready(deadline)
            if self._late:
                self._release_late()
            try:
                answer = await connection.send(command, deadline)
            except NoScriptError:
                command = command.replace(BY_DIGEST, BY_SOURCE, 1)
            except ResponseError as error:
                self._complaint = f"{self._url}: {error_text(error)}"
                if not self._link.follow(connection, error):
                    raise LimitStoreUnavailable(self._complaint) from error
            else:
                self._complaint = None
                return answer
        raise LimitStoreUnavailable(self._complaint or f"{self._url} does not keep the script")

    # ---- Places in flight

    def release(self, member: bytes, keys: tuple[bytes, ...]) -> None:
        """Release places. A command that is sent after this is sent after their release."""
        self._held.pop(member, None)
        self._release_later(member, keys, 1 if self._link.connection else 2)

    def adopt(self, held: Sequence[str]) -> _Leased:
        """The places of a process before this one, by their name and keys. Raises ValueError."""
        member, *keys = (part.encode("utf-8", "surrogateescape") for part in held)
        if not member or not keys:
            raise ValueError("no places")
        self._held[member] = tuple(keys)
        self._renew_at = 0.0  # at once: their leases may be about to end
        return _Leased(self, member, tuple(keys))

    def settle(self) -> None:
        """No-op: the lease of what nobody has adopted ends by itself."""

    def _release_later(self, member: bytes, keys: tuple[bytes, ...], times: int) -> None:
        self._late[member] = keys, times
        if not self._soon:
            with suppress(RuntimeError):  # there is no event loop any more: when there is one again
                asyncio.get_running_loop().call_soon(self._release_late)
                self._soon = True

    def _release_late(self) -> None:
        self._soon = False
        connection = self._link.connection
        if connection is None:
            return
        late, self._late = self._late, {}
        deadline = asyncio.get_running_loop().time() + self._link.timeout_s
        for batch in batched(late.items(), _BATCH):
            commands = [packed(b"ZREM", key, member) for member, (keys, _) in batch for key in keys]
            future = connection.send(b"".join(commands), deadline, len(commands))
            future.add_done_callback(partial(self._released, connection, batch))

    def _released(
        self,
        connection: PipelinedConnection,
        batch: Sequence[tuple[bytes, tuple[tuple[bytes, ...], int]]],
        future: asyncio.Future[object],
    ) -> None:
        error = asyncio.CancelledError() if future.cancelled() else future.exception()
        if isinstance(error, ResponseError):
            self._link.follow(connection, error)
        for member, (keys, times) in batch:
            if error is not None:
                self._again[member] = keys, 2
            elif times > 1:
                self._again[member] = keys, times - 1

    def _opened(self) -> None:
        """Renew and release at once: the new connection may be to a server that knows nothing of what is held."""
        self._renew_at = 0.0
        self._release_again()

    def _release_again(self) -> None:
        self._late |= self._again
        self._again.clear()
        if self._late:
            self._release_late()

    async def _renew(self) -> None:
        loop = asyncio.get_running_loop()
        if loop.time() < self._renew_at:
            return
        began, lease = loop.time(), b"%d" % self._lease_us
        for batch in batched(list(self._held), _BATCH):
            held = [(key, member) for member in batch for key in self._held.get(member, ())]
            if held:
                keys, members = zip(*held, strict=True)
                await self._ask(packed(b"EVAL", _RENEW, b"%d" % len(keys), *keys, lease, *members))
        self._renew_at = began + self._lease_us / US / 3

    # ---- Beside the requests

    async def held(self, now: float) -> list[Stored]:
        """Every bucket that is not empty."""
        await self._ask(packed(b"EXISTS", PREFIX))  # a cluster's node says where the keys are, which SCAN does not
        try:
            return await self._listed(now)
        except (TypeError, ValueError) as error:
            raise LimitStoreUnavailable(f"{self._url} lists what no gateway has written") from error

    async def _listed(self, now: float) -> list[Stored]:
        buckets: dict[bytes, int] = {}
        cursor = b"0"
        while True:
            answer = await self._ask(packed(b"SCAN", cursor, b"MATCH", PREFIX + b"*", b"COUNT", b"%d" % _SCAN))
            cursor, keys = cast("tuple[bytes, list[bytes]]", answer)
            rows = await self._ask(packed(b"EVAL", LOOK, b"%d" % len(keys), *keys))
            now_us, *states = cast("list[bytes | int | None]", rows)
            self._ahead_us = int(now_us or 0) - now * US
            buckets |= listed_states(keys, states, int(now_us or 0))
            if cursor == b"0":
                return [listed_bucket(key, state) for key, state in buckets.items()]

    def level(self, limit: Limit, state: int, now: float) -> Level:
        """The level of a bucket with this state; of places in flight the state is how many there are."""
        ends = 0
        if limit.kind is Kind.QUOTA:
            ends, state = state >> COUNT_BITS, state & COUNT
        return planned_limit(LimitRequest(limit, "", 0)).level(round(now * US + self._ahead_us), 1, state, ends, False)

    async def empty(self, buckets: list[Stored], now: float) -> int:  # noqa: ARG002, the server has a clock
        """Empty these buckets."""
        emptied = 0
        for batch in batched([bucket.handle for bucket in buckets if bucket.kind is not Kind.CONCURRENCY], _BATCH):
            answer = await self._ask(packed(b"DEL", *batch))
            emptied += answer if isinstance(answer, int) else 0
        return emptied

    async def tend(self, now: float) -> None:  # noqa: ARG002, the server has a clock
        """Connect, renew the leases of what is held, and release what could not be released before."""
        self._link.open()
        self._release_again()
        with suppress(LimitStoreUnavailable, ResponseError):
            await self._link.probe()
            await self._renew()

    def flush(self) -> None:
        """No-op: nothing is kept in memory."""

    def status(self) -> dict[str, object]:
        """The store's part of `keyswap status`."""
        reason = self._link.down or self._complaint
        return {"store": self._url, "healthy": reason is None, "reason": reason, "in_flight": len(self._held)}

    async def close(self) -> None:
        """Release every place, and close the connection."""
        self._late |= self._again | {member: (keys, 1) for member, keys in self._held.items()}
        self._held.clear()
        if self._late:
            with suppress(LimitStoreUnavailable):
                await self._ask(packed(b"PING"))  # it is answered when every command before it was
        await self._link.close()
