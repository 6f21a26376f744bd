"""The limit step: which limits a request touches, whom each counts, and the refusal when one is full.

Law: a dimension that the caller lacks is replaced by the next one it has, never skipped, and never by one bucket for
all. All enforced limits of a request are poured, or none. A store that can't be asked refuses, unless the policy says
otherwise; each change of that is logged once, and many within a moment as one: on a full disk who is counted already
still is.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import IPv6Address, IPv6Network

from keyswap.limits.health import Health
from keyswap.limits.limit import SEPARATOR, Acquired, Kind, Limit, LimitRequest, LimitStore, LimitStoreUnavailable, new
from keyswap.model import UNCOUNTED, Code, Counted, Level, Operation, Principal, Refuse, Request, no_places, nothing
from keyswap.request import addresses

logger = logging.getLogger(__name__)

_CHAINS: Mapping[str, tuple[str, ...]] = {
    "session": ("session", "agent", "key", "ip"),
    "agent": ("agent", "key", "ip"),
    "key": ("key", "ip"),
    "org": ("org", "user", "key", "ip"),
    "user": ("user", "key", "ip"),
    "ip": ("ip",),
}
CODES = {
    Kind.RATE: Code.RATE_LIMITED,
    Kind.CONCURRENCY: Code.TOO_MANY_IN_FLIGHT,
    Kind.QUOTA: Code.QUOTA_EXHAUSTED,
}
_VALUES: Mapping[str, Callable[[Principal], str | None]] = {
    "session": lambda principal: principal.session_id,
    "agent": lambda principal: principal.agent,
    "key": lambda principal: principal.key_id,
    "org": lambda principal: principal.org_id,
    "user": lambda principal: principal.user_id,
}
MAX_REMEMBERED = 10_000
WELL_AGAIN_S = 1.0
"""Seconds without a failure before the store is logged as healthy again."""


@dataclass(frozen=True, slots=True, eq=False)
class Rule:
    """A limit of the policy. `matches` says whether it concerns an operation called with a method."""

    limit: Limit
    by: tuple[str, ...]
    matches: Callable[[Operation, str], bool]
    when: str = "admitted"
    mode: str = "enforce"
    key_plans: Mapping[str, Limit] = field(default_factory=dict)
    """Its numbers by the plan of the key."""
    orgs: Mapping[str, Limit] = field(default_factory=dict)
    """Its numbers by organization."""

    def limit_of(self, principal: Principal) -> Limit:
        """The numbers that hold for a caller: its key's plan's, else its organization's, else the limit's own."""
        if self.key_plans and principal.plan is not None and principal.plan in self.key_plans:
            return self.key_plans[principal.plan]
        if self.orgs and principal.org_id is not None:
            return self.orgs.get(principal.org_id, self.limit)
        return self.limit

    def subject(self, principal: Principal, operation: Operation, client: str) -> str:
        """The limit's name and the caller that it counts."""
        parts = [self.limit.name]
        for dimension in self.by:
            if dimension != "operation":
                parts += _counted_by(dimension, principal, client)
        if "operation" in self.by:  # the longest comes last: where a name is cut, callers still differ
            parts += ("operation", operation.name if operation.path else "undocumented")
        return SEPARATOR.join(parts)


def _counted_by(dimension: str, principal: Principal, client: str) -> tuple[str, str]:
    for name in _CHAINS[dimension]:
        if name == "ip":
            break
        value = _VALUES[name](principal)
        if value is not None:
            return name, value
    return "ip", place(client)


@lru_cache(8192)
def place(address: str) -> str:
    """What counts as one caller's address: an IPv4 address, or an IPv6 /64."""
    if ":" not in address:
        return address
    parsed = addresses.parsed(address)
    if not isinstance(parsed, IPv6Address):
        return address if parsed is None else str(parsed)
    return str(IPv6Network((int(parsed) >> 64 << 64, 64)))


def parts_of(subject: str) -> tuple[str, dict[str, str]]:
    """A subject's limit, and whom it counts by dimension."""
    name, *rest = subject.split(SEPARATOR)
    return name, dict(zip(rest[::2], rest[1::2], strict=False))


class Limits:
    """The step `limits` of a gate, and the counting of guesses and of browsers' preflights."""

    def __init__(
        self,
        rules: Sequence[Rule],
        store: LimitStore | None,
        down: str = "refuse",
        health: Health | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """`clock` counts seconds: how long the store took."""
        self.rules = tuple(rule for rule in rules if rule.mode != "off")
        self.store = store
        self._down = down
        self._of: dict[tuple[str, Operation, str], tuple[Rule, ...]] = {}
        self._asks: dict[tuple[str | None, str, Operation, str], tuple[Principal, tuple[LimitRequest, ...]]] = {}
        self._health = health or Health()
        self._clock = clock

    async def __call__(
        self, principal: Principal, request: Request, operation: Operation, now: float, dry: bool
    ) -> Counted | Refuse:
        """Count a request that passed every step before; `dry`: only say what would happen."""
        caller = principal.key_id or principal.session_id or principal.agent
        known = self._asks.get((caller, request.client, operation, request.method))
        if known is not None and known[0] is principal:  # as `asks`
            asks = known[1]
        else:
            asks = self.asks(principal, request.client, request.method, operation)
        if not asks or self.store is None:
            return UNCOUNTED
        began = self._clock()
        try:  # as `_ask`, without another coroutine on the path of every request
            acquired = await self.store.acquire(asks, now, dry)
        except LimitStoreUnavailable as error:
            return self._without(error, asks, began, now)
        return self._answered(asks, acquired, began, now)

    async def guess(
        self, principal: Principal, request: Request, operation: Operation, now: float, dry: bool
    ) -> Counted | Refuse:
        """Count a credential that was not valid."""
        rules = self.applying("invalid-credential", operation, request.method)
        return await self._ask(_asks(rules, principal, request.client, operation, 1), now, dry) if rules else UNCOUNTED

    async def preflight(
        self, principal: Principal, request: Request, operation: Operation, now: float, dry: bool
    ) -> Counted | Refuse:
        """Count a browser's preflight: it takes nothing of a limit that all callers of an operation share."""
        rules = self.applying("admitted", operation, request.method)
        rules = tuple([rule for rule in rules if rule.by != ("operation",)])
        return await self._ask(_asks(rules, principal, request.client, operation, 1), now, dry) if rules else UNCOUNTED

    def asks(self, principal: Principal, client: str, method: str, operation: Operation) -> tuple[LimitRequest, ...]:
        """The asks of a request, made once for a caller as it is now."""
        key = principal.key_id or principal.session_id or principal.agent, client, operation, method
        known = self._asks.get(key)
        if known is not None and known[0] is principal:
            return known[1]
        if len(self._asks) >= MAX_REMEMBERED:
            self._asks.clear()
        asks = _asks(self.applying("admitted", operation, method), principal, client, operation, operation.cost)
        self._asks[key] = principal, asks
        return asks

    def applying(self, when: str, operation: Operation, method: str) -> tuple[Rule, ...]:
        """The limits that concern an operation, searched once."""
        key = when, operation, method
        rules = self._of.get(key)
        if rules is None:
            if len(self._of) >= MAX_REMEMBERED:
                self._of.clear()
            rules = tuple(rule for rule in self.rules if rule.when == when and rule.matches(operation, method))
            self._of[key] = rules
        return rules

    async def _ask(self, asks: tuple[LimitRequest, ...], now: float, dry: bool) -> Counted | Refuse:
        assert self.store is not None
        began = self._clock()
        try:
            return self._answered(asks, await self.store.acquire(asks, now, dry), began, now)
        except LimitStoreUnavailable as error:
            return self._without(error, asks, began, now)

    def _answered(
        self, asks: tuple[LimitRequest, ...], acquired: Acquired, began: float, now: float
    ) -> Counted | Refuse:
        health = self._health
        health.took.add(self._clock() - began)
        if acquired.fits:
            health.acquired += 1
        else:
            health.full += 1
        if health.unwell and not 0 <= now - health.failed_at < WELL_AGAIN_S:
            health.unwell = False
            logger.warning("the limit store answers again: limits are counted")
        return _counted(asks, acquired)

    def _without(
        self, why: LimitStoreUnavailable, asks: tuple[LimitRequest, ...], began: float, now: float
    ) -> Counted | Refuse:
        self._health.took.add(self._clock() - began)
        self._health.failed += 1
        refuses = self._down == "refuse" and any(ask.enforced for ask in asks)
        self._health.failed_at = now
        if not self._health.unwell:
            self._health.unwell = True
            outcome = "refused" if refuses else "admitted uncounted"
            logger.error("the limit store can't be asked, requests are %s until it can: %s", outcome, why)
        if refuses:
            return Refuse(Code.STORE_UNAVAILABLE, f"limit store: {why}")
        return UNCOUNTED


def _asks(
    rules: tuple[Rule, ...], principal: Principal, client: str, operation: Operation, cost: int
) -> tuple[LimitRequest, ...]:
    return tuple(
        [
            LimitRequest(
                rule.limit_of(principal), rule.subject(principal, operation, client), cost, rule.mode == "enforce"
            )
            for rule in rules
        ]
    )


def _counted(asks: tuple[LimitRequest, ...], acquired: Acquired) -> Counted | Refuse:
    fits, levels, reservation = acquired
    give_back, describe = (nothing, no_places) if reservation is None else (reservation.release, reservation.describe)
    for ask in asks:
        if not ask.enforced:
            break
    else:
        if fits:
            return new(Counted, (levels, (), give_back, (), describe))
    shown = tuple([level for ask, level in zip(asks, levels, strict=True) if ask.enforced])
    if fits:
        shadowed = [
            refusal(level, ask.subject, ()) for ask, level in zip(asks, levels, strict=True) if level.retry_after_s
        ]
        watched = tuple([level for level in levels if level not in shown])
        return Counted(shown, tuple(shadowed), give_back, watched, describe)
    full = max(shown, key=lambda level: level.retry_after_s)
    subject = next(ask.subject for ask in asks if ask.limit.name == full.limit)
    return refusal(full, subject, shown)


def refusal(full: Level, subject: str, levels: tuple[Level, ...]) -> Refuse:
    """The refusal of a request that found a limit full."""
    caller = ", ".join(f"{name} {value}" for name, value in parts_of(subject)[1].items())
    again = f", room again in {full.retry_after_s:.3f} s" if full.kind != Kind.CONCURRENCY else ""
    reason = f"limit {full.limit} of {caller} is full: {full.level} of {full.capacity}{again}"
    return Refuse(CODES[Kind(full.kind)], reason, limit=full.limit, retry_after_s=full.retry_after_s, levels=levels)
