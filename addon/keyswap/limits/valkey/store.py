"""The store `valkey://`: counters in a Valkey or Redis server, shared by the gateways of many machines.

Law: all limits of a request are one script and one round trip, and the server's clock decides. What a request in flight
holds is a lease that its gateway renews: one that was killed has given its places back within a lease. A place whose
taking was not answered is given back like any other, since it may have been taken. Nobody waits beyond the time-out.
"""

import asyncio
import secrets
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import batched, count
from typing import cast

from valkey.exceptions import NoScriptError, ResponseError

from keyswap.limits.limit import Kind, Limit, LimitRequest, Poured, Stored, Unavailable, remember
from keyswap.limits.valkey.connection import Address, Line, Link, Lost, bulk, packed, words
from keyswap.limits.valkey.plan import BY_DIGEST, BY_SOURCE, HOUR_US, PREFIX, US, Plan, asked, prefix
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
_LOOK = b"""
local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000000 + time[2])
local found = {now}
for i, key in ipairs(KEYS) do
  local places = key:find('{keyswap}:concurrency:', 1, true) == 1
  found[i + 1] = places and redis.call('ZCOUNT', key, '(' .. now, '+inf') or redis.call('GET', key)
end
return found
"""
_COUNT_BITS = 42
_COUNT = (1 << _COUNT_BITS) - 1
"""A quota's state holds the hour at which its window ends, and below it how much of it is used."""
_BATCH = 256
"""So many places are renewed or given back at once, between requests: some 0.3 ms of the server's time."""
_SCAN = 1000
_HOPS = 4
"""Answers that send a command elsewhere, or ask for the script, before it is given up."""


class _Place:
    """The places of one request."""

    __slots__ = ("_keys", "_member", "_store")

    def __init__(self, store: "ValkeyLimits", member: bytes, keys: tuple[bytes, ...]) -> None:
        self._store, self._member, self._keys = store, member, keys

    def give_back(self) -> None:
        """The request has ended."""
        keys, self._keys = self._keys, ()
        if keys:
            self._store.give_back(self._member, keys)


class ValkeyLimits:
    """Counts in a server. It is used from one event loop at a time; what it holds in flight is bound to none."""

    def __init__(self, url: str, timeout_s: float, lease_s: float = LEASE_S) -> None:
        """Connects to nobody yet."""
        address = Address.of(url)
        self._url = address.url
        self._link = Link(address, timeout_s, self._opened)
        self._lease_us = round(lease_s * US)
        self._known: OrderedDict[int, tuple[tuple[LimitRequest, ...], Plan]] = OrderedDict()
        self._token = secrets.token_hex(8).encode()
        self._numbers = count()
        self._held: dict[bytes, tuple[bytes, ...]] = {}
        self._late: dict[bytes, tuple[tuple[bytes, ...], int]] = {}
        """Places to be given back, by name: their keys, and how often. What may still arrive is given back twice."""
        self._again: dict[bytes, tuple[tuple[bytes, ...], int]] = {}
        self._soon = False
        self._renew_at = 0.0
        self._complaint: str | None = None
        self._ahead_us = 0.0

    def wait(self, timeout_s: float) -> None:
        """Wait so long for the server from now on."""
        self._link.timeout_s = timeout_s

    # ---- Requests

    async def pour(self, asks: tuple[LimitRequest, ...], now: float, dry: bool = False) -> Poured:
        """Pour all asks or none, in one round trip."""
        if not asks:
            return Poured(True, ())
        known = self._known.get(id(asks))
        plan = known[1] if known is not None and known[0] is asks else self._plan(asks)
        if dry or not plan.places:
            return self._told(plan, await self._ask(plan.dry if dry else plan.pour), now)
        return await self._hold(plan, now)

    def _plan(self, asks: tuple[LimitRequest, ...]) -> Plan:
        return remember(self._known, asks, Plan(asks, self._lease_us))

    async def _hold(self, plan: Plan, now: float) -> Poured:
        """Pour, and hold the places."""
        member = b"%b.%d" % (self._token, next(self._numbers))
        try:
            answer = await self._ask(plan.pour + bulk(member))
        except (Lost, asyncio.CancelledError):
            self._return_later(member, plan.places, 2)
            raise
        try:
            poured = self._told(plan, answer, now)
        except Unavailable:  # whatever was said, they may have been taken
            self._return_later(member, plan.places, 1)
            raise
        keys = plan.taken(poured)
        if not keys:
            return poured
        self._held[member] = keys
        return Poured(True, poured.levels, _Place(self, member, keys))

    def _told(self, plan: Plan, answer: object, now: float) -> Poured:
        """What was poured. Raises Unavailable for an answer that says nothing of that."""
        try:
            now_us, poured = plan.told(answer)
        except Unavailable as error:
            self._complaint = f"{self._url}: {error}"
            raise
        self._ahead_us = now_us - now * US
        return poured

    async def _ask(self, command: bytes) -> object:
        """The answer to a command. Raises Unavailable, or Lost."""
        deadline = asyncio.get_running_loop().time() + self._link.timeout_s
        for _ in range(_HOPS):
            line = self._link.line or await self._link.ready(deadline)
            if self._late:
                self._return()
            try:
                answer = await line.ask(command, deadline)
            except NoScriptError:
                command = command.replace(BY_DIGEST, BY_SOURCE, 1)
            except ResponseError as error:
                self._complaint = f"{self._url}: {words(error)}"
                if not self._link.follow(line, error):
                    raise Unavailable(self._complaint) from error
            else:
                self._complaint = None
                return answer
        raise Unavailable(self._complaint or f"{self._url} does not keep the script")

    # ---- Places in flight

    def give_back(self, member: bytes, keys: tuple[bytes, ...]) -> None:
        """These places are held no longer. Whatever is asked of the server after this is asked after that."""
        self._held.pop(member, None)
        self._return_later(member, keys, 1 if self._link.line else 2)

    def _return_later(self, member: bytes, keys: tuple[bytes, ...], times: int) -> None:
        self._late[member] = keys, times
        if not self._soon:
            with suppress(RuntimeError):  # there is no event loop any more: when there is one again
                asyncio.get_running_loop().call_soon(self._return)
                self._soon = True

    def _return(self) -> None:
        self._soon = False
        line = self._link.line
        if line is None:
            return
        late, self._late = self._late, {}
        deadline = asyncio.get_running_loop().time() + self._link.timeout_s
        for batch in batched(late.items(), _BATCH):
            commands = [packed(b"ZREM", key, member) for member, (keys, _) in batch for key in keys]
            future = line.ask(b"".join(commands), deadline, len(commands))
            future.add_done_callback(partial(self._returned, line, batch))

    def _returned(
        self,
        line: Line,
        batch: Sequence[tuple[bytes, tuple[tuple[bytes, ...], int]]],
        future: asyncio.Future[object],
    ) -> None:
        error = asyncio.CancelledError() if future.cancelled() else future.exception()
        if isinstance(error, ResponseError):
            self._link.follow(line, error)
        for member, (keys, times) in batch:
            if error is not None:
                self._again[member] = keys, 2
            elif times > 1:
                self._again[member] = keys, times - 1

    def _opened(self) -> None:
        """There is a connection, perhaps to a server that knows nothing of what is held."""
        self._renew_at = 0.0
        self._return_again()

    def _return_again(self) -> None:
        self._late |= self._again
        self._again.clear()
        if self._late:
            self._return()

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
            raise Unavailable(f"{self._url} lists what no gateway has written") from error

    async def _listed(self, now: float) -> list[Stored]:
        found: dict[bytes, int] = {}
        cursor = b"0"
        while True:
            answer = await self._ask(packed(b"SCAN", cursor, b"MATCH", PREFIX + b"*", b"COUNT", b"%d" % _SCAN))
            cursor, keys = cast("tuple[bytes, list[bytes]]", answer)
            told = await self._ask(packed(b"EVAL", _LOOK, b"%d" % len(keys), *keys))
            now_us, *states = cast("list[bytes | int | None]", told)
            self._ahead_us = int(now_us or 0) - now * US
            found |= _states(keys, states, int(now_us or 0))
            if cursor == b"0":
                return [_stored(key, state) for key, state in found.items()]

    def level(self, limit: Limit, state: int, now: float) -> Level:
        """The level of a bucket with this state; of places in flight the state is how many there are."""
        ends = 0
        if limit.kind is Kind.QUOTA:
            ends, state = state >> _COUNT_BITS, state & _COUNT
        return asked(LimitRequest(limit, "", 0)).level(round(now * US + self._ahead_us), 1, state, ends, False)

    async def empty(self, buckets: list[Stored], now: float) -> int:  # noqa: ARG002, the server has a clock
        """Empty these."""
        emptied = 0
        for batch in batched([one.handle for one in buckets if one.kind is not Kind.CONCURRENCY], _BATCH):
            answer = await self._ask(packed(b"DEL", *batch))
            emptied += answer if isinstance(answer, int) else 0
        return emptied

    async def tend(self, now: float) -> None:  # noqa: ARG002, the server has a clock
        """Connect, renew the leases of what is held, and give back what could not be given back before."""
        self._link.open()
        self._return_again()
        with suppress(Unavailable, ResponseError):
            await self._link.check()
            await self._renew()

    def flush(self) -> None:
        """Nothing is kept here."""

    def status(self) -> dict[str, object]:
        """What `keyswap status` says of it."""
        reason = self._link.down or self._complaint
        return {"store": self._url, "healthy": reason is None, "reason": reason, "in_flight": len(self._held)}

    async def close(self) -> None:
        """Give back what is held, and the connection."""
        self._late |= self._again | {member: (keys, 1) for member, keys in self._held.items()}
        self._held.clear()
        if self._late:
            with suppress(Unavailable):
                await self._ask(packed(b"PING"))  # is answered when all before it was
        await self._link.close()


def _stored(key: bytes, state: int) -> Stored:
    kind, _, subject = key[len(PREFIX) :].partition(b":")
    word, _, window = kind.decode().partition(".")
    return Stored(subject.decode("utf-8", "replace"), state, Kind(word), window, key)


def _states(keys: list[bytes], states: Sequence[bytes | int | None], now_us: int) -> Iterator[tuple[bytes, int]]:
    """The buckets that are not empty, with their states as `level` reads them."""
    for key, raw in zip(keys, states, strict=True):
        state = 0 if raw is None else int(raw) if isinstance(raw, int) or raw.isdigit() else _quota(raw, now_us)
        if state > (now_us if key.startswith(prefix(Kind.RATE)) else 0):
            yield key, state


def _quota(raw: bytes, now_us: int) -> int:
    ends, _, used = raw.partition(b":")
    return int(ends) << _COUNT_BITS | int(used) if int(ends) * HOUR_US > now_us and int(used) else 0
