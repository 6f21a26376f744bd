"""Policy → limits: the rules that a gate asks, and findings about them in view of the operations.

Law: a limit that concerns nothing, or that its largest operation could never pass, stops the load.
"""

from collections.abc import Callable, Iterator
from functools import lru_cache

from keyswap.limits.limit import Kind, Limit
from keyswap.limits.step import Rule
from keyswap.model import Operation
from keyswap.operations.catalogue import OperationCatalogue
from keyswap.operations.findings import Finding, pointer
from keyswap.operations.template import Template
from keyswap.policy import ByRequest, LimitRule, Numbers, Policy, effective

Matches = Callable[[Operation, str], bool]
_MODES = ("off", "shadow", "enforce")


def rules(policy: Policy) -> list[Rule]:
    """The limits of a policy, each with the numbers of every plan and organization that it has others for."""
    return [_rule(policy, rule) for rule in policy.limits]


def findings(policy: Policy, operations: OperationCatalogue | None) -> Iterator[Finding]:
    """Findings about the limits in view of the operations."""
    if operations is None:
        return
    known = ", ".join(dict.fromkeys(api.document.name for api in operations.apis))
    for number, rule in enumerate(rules(policy)):
        declared = policy.limits[number]
        concerned = [
            entry.operation
            for entry in operations.entries
            if rule.matches(entry.operation, entry.operation.method)
            or (entry.operation.method == "GET" and rule.matches(entry.operation, "HEAD"))
        ]
        if declared.match is not None and not concerned and not _by_method(declared):
            message = f"limit {declared.name} concerns no operation of {known}"
            remedy = "write its match as `keyswap check` lists the operation, or remove it"
            yield Finding("limit-unmatched", message, "", pointer("limits", number, "match"), None, remedy)
        costs = [operation.cost for operation in concerned if declared.when == "admitted"]
        yield from _too_small(policy, number, rule, max(costs, default=0))


def _too_small(policy: Policy, number: int, rule: Rule, cost: int) -> Iterator[Finding]:
    """Limits that hold less than one operation pours."""
    name = rule.limit.name
    at = pointer("limits", number, "burst" if policy.limits[number].burst else rule.limit.kind)
    sizes = [(at, rule.limit)]
    for plan, overrides in policy.plans.items():
        if name in overrides:
            limit = _limit(name, effective(policy.limits[number], overrides[name]))
            sizes.append((pointer("plans", plan, name), limit))
    for location, limit in sizes:
        if limit.kind is not Kind.CONCURRENCY and limit.capacity < cost:
            message = f"limit {name} holds {limit.capacity}, and an operation that it concerns costs {cost}"
            yield Finding("limit-too-small", message, "", location, None, "raise it, or lower the operation's `cost`")


def _rule(policy: Policy, declared: LimitRule) -> Rule:
    base = _limit(declared.name, declared)
    plans = {
        plan: _limit(declared.name, effective(declared, overrides[declared.name]))
        for plan, overrides in policy.plans.items()
        if declared.name in overrides
    }
    return Rule(
        base,
        tuple(declared.by),
        _matches(declared),
        declared.when,
        min(declared.mode, policy.mode.limits, key=_MODES.index),
        plans if "key" in declared.by else {},
        {org: plans[of.plan] for org, of in policy.orgs.items() if of.plan in plans} if "org" in declared.by else {},
    )


def _limit(name: str, numbers: Numbers) -> Limit:
    if numbers.rate is not None:
        burst = numbers.burst or numbers.rate.number
        return Limit(name, Kind.RATE, burst, numbers.rate.number, numbers.rate.period_s)
    if numbers.quota is not None:
        return Limit(name, Kind.QUOTA, numbers.quota.number, window=numbers.quota.window)
    return Limit(name, Kind.CONCURRENCY, numbers.concurrency or 1)


def _by_method(declared: LimitRule) -> bool:
    return isinstance(declared.match, ByRequest) and not (declared.match.operation or declared.match.tag)


def _matches(declared: LimitRule) -> Matches:
    match = declared.match
    if match is None:
        return lambda _operation, _method: True
    if isinstance(match, str):
        return _template(match)
    if not isinstance(match, ByRequest):
        wanted = match.operation_id
        return lambda operation, _method: operation.operation_id == wanted
    tests: list[Matches] = []
    if match.method is not None:
        methods = frozenset(match.method)
        tests.append(lambda operation, method: method in methods or (operation.method or _plain(method)) in methods)
    if match.tag is not None:
        tag = match.tag
        tests.append(lambda operation, _method: tag in operation.tags)
    if match.operation is not None:
        named = match.operation
        by_id: Matches = lambda operation, _method: operation.operation_id == named  # noqa: E731
        tests.append(_template(named) if " /" in named else by_id)
    return lambda operation, method: all(test(operation, method) for test in tests)


def _plain(method: str) -> str:
    """HEAD is judged as GET where nobody says otherwise."""
    return "GET" if method == "HEAD" else method


def _template(match: str) -> Matches:
    form = Template.parse(match)
    return lambda operation, _method: (
        bool(operation.path) and operation.method == form.method and _form(operation.name) == form.form
    )


@lru_cache(16_384)
def _form(name: str) -> str:
    """The form of an operation's template, which every limit is compared with."""
    return Template.parse(name).form
