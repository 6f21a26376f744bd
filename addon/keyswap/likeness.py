"""Policy → whether two operations are judged alike.

Law: everything that the policy lets be judged of an operation counts: who may call it, how often, what it acts on, what
may be sent. Where nothing of that differs it does not matter which of the two a backend serves.
"""

import json
from collections.abc import Hashable
from typing import Any, NamedTuple

from keyswap.limiting import rules
from keyswap.limits.step import Rule
from keyswap.model import Operation
from keyswap.operations.catalogue import Catalogue, Entry
from keyswap.operations.rivals import Differ
from keyswap.policy import Policy


class _Judged(NamedTuple):
    """All that is judged of an operation, comparable."""

    whole: Hashable
    path: str
    """The schemas of its path's parameters; empty: it has none that are judged."""


def differing(policy: Policy, operations: Catalogue) -> Differ:
    """Whether a request that was judged as the first of two operations has not been judged as the second would be."""
    limits = [rule for rule in rules(policy) if rule.mode != "off"]
    judged: dict[Operation, _Judged] = {}
    entries = {entry.operation: entry for entry in operations.entries}

    def of(operation: Operation) -> _Judged:
        found = judged.get(operation)
        if found is None:
            found = judged[operation] = _judged(policy, limits, entries[operation])
        return found

    def differ(one: Operation, other: Operation) -> bool:
        first, second = of(one), of(other)
        return first.whole != second.whole or (second.path != "" and first.path != second.path)

    return differ


def _judged(policy: Policy, limits: list[Rule], entry: Entry) -> _Judged:
    operation = entry.operation
    asks = frozenset(map(frozenset, operation.require)), operation.closed
    validated = policy.apis[entry.api].validate_.requests != "off"
    path, rest = _schemas(entry) if validated else ("", "")
    whole = (
        operation.public,
        operation.mode,
        None if operation.mode == "off" else asks,
        operation.audience,
        operation.resource,
        tuple(_concerned(rule, operation) for rule in limits),
        operation.cost if limits else 1,
        (policy.apis[entry.api].validate_.requests, rest),
    )
    return _Judged(whole, path)


def _concerned(rule: Rule, operation: Operation) -> Hashable:
    """Whether a limit counts an operation, and apart from others."""
    methods = (operation.method, "HEAD") if operation.method == "GET" else (operation.method,)
    concerned = tuple(rule.matches(operation, method) for method in methods)
    return concerned, operation.name if any(concerned) and "operation" in rule.by else ""


def _schemas(entry: Entry) -> tuple[str, str]:
    """What the document says of the path's parameters, and of everything else that is sent."""
    levels = [one.value for one in (entry.described.item, entry.described.place) if isinstance(one.value, dict)]
    listed = [one for level in levels for one in level.get("parameters") or ()]
    path = [one for one in listed if isinstance(one, dict) and one.get("in") == "path"]
    rest = [one for one in listed if one not in path]
    return _text(path) if path else "", _text([rest, [level.get("requestBody") for level in levels]])


def _text(said: Any) -> str:
    return json.dumps(said, sort_keys=True, default=str)
