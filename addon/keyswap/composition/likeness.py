"""Policy → whether two operations are judged alike.

Law: everything that the policy lets be judged of an operation counts: who may call it, how often, what it acts on, what
may be sent. Where nothing of that differs it does not matter which of the two a backend serves.
"""

import json
from collections.abc import Hashable, Iterable
from typing import Any, NamedTuple
from urllib.parse import urljoin

from keyswap.composition.limits import rules
from keyswap.limits.step import Rule
from keyswap.model import Operation
from keyswap.operations.catalogue import CatalogueEntry, OperationCatalogue
from keyswap.operations.openapi.document import OpenApiDocument
from keyswap.operations.openapi.references import DocumentNode
from keyswap.operations.rivals import Differ
from keyswap.policy import Policy


class _Judged(NamedTuple):
    """All that is judged of an operation, comparable."""

    whole: Hashable
    path: str
    """The schemas of its path's parameters; empty: it has none that are judged."""


def differing(policy: Policy, operations: OperationCatalogue) -> Differ:
    """Whether a request that was judged as the first of two operations has not been judged as the second would be."""
    limits = [rule for rule in rules(policy) if rule.mode != "off"]
    judged: dict[Operation, _Judged] = {}
    entries = {entry.operation: entry for entry in operations.entries}

    def of(operation: Operation) -> _Judged:
        found = judged.get(operation)
        if found is None:
            found = judged[operation] = _judged(policy, limits, operations, entries[operation])
        return found

    def differ(one: Operation, other: Operation) -> bool:
        first, second = of(one), of(other)
        return first.whole != second.whole or (second.path != "" and first.path != second.path)

    return differ


def _judged(policy: Policy, limits: list[Rule], operations: OperationCatalogue, entry: CatalogueEntry) -> _Judged:
    operation = entry.operation
    asks = _least(operation.require), operation.closed
    sent, path = _sent(policy, operations.apis[entry.api].document, entry)
    whole = (
        operation.public,
        operation.mode,
        None if operation.mode == "off" else asks,
        operation.audience,
        operation.resource,
        tuple(_concerned(rule, operation) for rule in limits),
        operation.cost if limits else 1,
        sent,
    )
    return _Judged(whole, path)


def _least(require: Iterable[Iterable[str]]) -> Hashable:
    """The alternatives of a requirement without those that hold another one."""
    found = set(map(frozenset, require))
    return frozenset(one for one in found if not any(other < one for other in found))


def _concerned(rule: Rule, operation: Operation) -> Hashable:
    """With which methods a limit counts an operation, and whether apart from others."""
    methods = (operation.method, "HEAD") if operation.method == "GET" else (operation.method,)
    concerned = tuple(method for method in methods if rule.matches(operation, method))
    return concerned, operation.name if concerned and "operation" in rule.by else ""


def _sent(policy: Policy, document: OpenApiDocument, entry: CatalogueEntry) -> tuple[Hashable, str]:
    """What may be sent besides the path's parameters, and what these may be."""
    said = policy.apis[entry.api].validate_
    if said.requests == "off":
        return "off", ""
    library, described = document.library, entry.described
    parameters: dict[tuple[str, str], DocumentNode] = {}
    for level in (described.item, described.node):  # an operation's own in place of its path's
        listed = DocumentNode(level.value.get("parameters") or [], level.uri, level.pointer)
        for _, one in library.items(listed):
            written = library.follow(one).value
            parameters[str(written.get("name")), str(written.get("in"))] = one
    path = [_leading(one, entry.api) for (_, where), one in parameters.items() if where == "path"]
    rest = [_leading(one, entry.api) for (_, where), one in parameters.items() if where != "path"]
    body = described.node._replace(value=described.node.value.get("requestBody"))
    how = said.model_dump_json(exclude={"responses"}), document.version  # no request is refused for its response
    return (how, _text([rest, _leading(body, entry.api)])), _text(path) if path else ""


_LEADS = {"$ref", "$dynamicRef", "$id"}


def _leading(node: DocumentNode, api: int) -> Any:
    """A value whose references say where they lead: one is written alike in documents that mean other things by it."""

    def of(value: Any) -> Any:
        if isinstance(value, list):
            return [of(one) for one in value]
        if not isinstance(value, dict):
            return value
        return {
            key: (api, urljoin(node.uri, one)) if key in _LEADS and isinstance(one, str) else of(one)
            for key, one in value.items()
        }

    return of(node.value)


def _text(said: Any) -> str:
    return json.dumps(said, sort_keys=True, default=str)
