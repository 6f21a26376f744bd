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
    """Everything by which requests of an operation are judged, comparable."""

    whole: Hashable
    path: str
    """The schemas of its path's parameters; empty: it has none that are judged."""


def differing(policy: Policy, operations: OperationCatalogue) -> Differ:
    """Whether a request that was judged as the first of two operations has not been judged as the second would be."""
    limits = [rule for rule in rules(policy) if rule.mode != "off"]
    judged: dict[Operation, _Judged] = {}
    entries = {entry.operation: entry for entry in operations.entries}

    def of(operation: Operation) -> _Judged:
        known = judged.get(operation)
        if known is None:
            known = judged[operation] = _judged(policy, limits, operations, entries[operation])
        return known

    def differ(this: Operation, other: Operation) -> bool:
        first, second = of(this), of(other)
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
    alternatives = set(map(frozenset, require))
    return frozenset(
        alternative for alternative in alternatives if not any(other < alternative for other in alternatives)
    )


def _concerned(rule: Rule, operation: Operation) -> Hashable:
    """With which methods a limit counts an operation, and whether apart from others."""
    methods = (operation.method, "HEAD") if operation.method == "GET" else (operation.method,)
    concerned = tuple(method for method in methods if rule.matches(operation, method))
    return concerned, operation.name if concerned and "operation" in rule.by else ""


def _sent(policy: Policy, document: OpenApiDocument, entry: CatalogueEntry) -> tuple[Hashable, str]:
    """The parameters and body that are judged besides the path's parameters, and the latter's schemas."""
    settings = policy.apis[entry.api].validate_
    if settings.requests == "off":
        return "off", ""
    library, described = document.library, entry.described
    parameters: dict[tuple[str, str], DocumentNode] = {}
    for level in (described.item, described.node):  # an operation's own in place of its path's
        listed = DocumentNode(level.value.get("parameters") or [], level.uri, level.pointer)
        for _, parameter in library.items(listed):
            written = library.follow(parameter).value
            parameters[str(written.get("name")), str(written.get("in"))] = parameter
    path = [_leading(parameter, entry.api) for (_, where), parameter in parameters.items() if where == "path"]
    rest = [_leading(parameter, entry.api) for (_, where), parameter in parameters.items() if where != "path"]
    body = described.node._replace(value=described.node.value.get("requestBody"))
    how = settings.model_dump_json(exclude={"responses"}), document.version  # no request is refused for its response
    return (how, _text([rest, _leading(body, entry.api)])), _text(path) if path else ""


_LEADS = {"$ref", "$dynamicRef", "$id"}


def _leading(node: DocumentNode, api: int) -> Any:
    """A value whose references say where they lead: one is written alike in documents that mean other things by it."""

    def of(value: Any) -> Any:
        if isinstance(value, list):
            return [of(inner) for inner in value]
        if not isinstance(value, dict):
            return value
        return {
            key: (api, urljoin(node.uri, inner)) if key in _LEADS and isinstance(inner, str) else of(inner)
            for key, inner in value.items()
        }

    return of(node.value)


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)
