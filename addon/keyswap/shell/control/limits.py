"""How full limits are, and emptying them (CONTRACT §2).

Law: a key is named by its id; what is in flight is never emptied.
"""

from typing import Any

from keyswap.composition.build_gate import Built
from keyswap.limits.limit import CUT, Limit
from keyswap.limits.step import Rule, parts_of
from keyswap.model import Principal


async def limits_listed(built: Built, command: dict[str, Any], now: float) -> dict[str, Any]:
    """Every bucket that is not empty, or of a key or an organization alone (CONTRACT §2)."""
    rows = await _buckets(built, command, now)
    after = "/".join((rows[-1]["limit"], *rows[-1]["by"].values())) if len(rows) == MOST_LISTED else None
    return {"object": "list", "data": rows, "list_metadata": {"before": None, "after": after}}


MOST_LISTED = 10_000
"""Buckets of one answer; beyond it the list says after which one it ends."""


async def limits_reset(built: Built, command: dict[str, Any], now: float) -> dict[str, Any]:
    """Empty the buckets of a key or an organization, or all; what is in flight stays there."""
    store = built.limits.store
    if store is None:
        return {"reset": 0}
    buckets = [bucket for bucket in await store.held(now) if _concerns(parts_of(bucket.subject)[1], command)]
    return {"reset": await store.empty(buckets, now)}


def _concerns(by: dict[str, str], command: dict[str, Any]) -> bool:
    wanted = [(by.get(name), command[name]) for name in ("key", "org") if command.get(name) is not None]
    return not wanted or any(_is(subject, value) for subject, value in wanted)


def _is(subject: str | None, value: str) -> bool:
    """Whether a bucket's subject has this value, as far as it was kept whole."""
    if subject is not None and subject.endswith(CUT):
        return value.startswith(subject.removesuffix(CUT))
    return subject == value


async def _buckets(built: Built, command: dict[str, Any], now: float) -> list[dict[str, Any]]:
    store = built.limits.store
    rules = {rule.limit.name: rule for rule in built.limits.rules}
    rows: list[dict[str, Any]] = []
    for held in sorted(await store.held(now)) if store is not None else ():
        name, by = parts_of(held.subject)
        if name not in rules or store is None or not _concerns(by, command) or not held.is_of(rules[name].limit):
            continue  # of another caller, or of an earlier policy
        if len(rows) == MOST_LISTED:
            break
        level = store.level(_numbers(built, rules[name], by, now), held.state, now)
        rows.append(
            {
                "limit": name,
                "by": {dimension: value.replace(CUT, "…") for dimension, value in by.items()},
                "level": level.level,
                "capacity": level.capacity,
                "remaining": level.remaining,
                "full_in_s": round(level.full_in_s, 3),
            }
        )
    return rows


def _numbers(built: Built, rule: Rule, by: dict[str, str], now: float) -> Limit:
    """The limit's numbers for the caller of a bucket."""
    principal = built.by_id(by["key"], now, "") if rule.key_plans and "key" in by else None
    plan = principal.plan if isinstance(principal, Principal) else None
    return rule.limit_of(Principal(by.get("org"), None, plan=plan))
