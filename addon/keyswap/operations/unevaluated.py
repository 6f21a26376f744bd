"""`unevaluatedProperties` and `unevaluatedItems`: what no other keyword has looked at (JSON Schema Core §11).

Law: as of the other keywords.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from keyswap.operations.applicators import extras, named
from keyswap.operations.assertions import Schema
from keyswap.operations.nodes import Node, Wrong


def unevaluated_properties(node: Node, said: Any, instance: Any, _: Schema) -> Iterable[Wrong] | None:
    """Judge the members of which nothing else says anything."""
    if not isinstance(instance, dict) or said is True:
        return None
    rest = dict.fromkeys(instance)
    for one in _applied(node, instance):
        schema = one.schema if isinstance(one.schema, dict) else {}
        node.budget.spend(1 + (len(rest) >> 2))
        if "additionalProperties" in schema or (one is not node and "unevaluatedProperties" in schema):
            return None
        rest = dict.fromkeys(extras(node, rest, schema))
    inner = node.inner(said)
    wrong = next((key for key in rest if not inner.is_valid(instance[key])), None)
    return [Wrong(f"{named(wrong)} is not expected in it")] if wrong is not None else None


def unevaluated_items(node: Node, said: Any, instance: Any, _: Schema) -> Iterable[Wrong] | None:
    """Judge the items of which nothing else says anything."""
    if not isinstance(instance, list) or said is True:
        return None
    rest = list(range(len(instance)))
    for one in _applied(node, instance):
        schema = one.schema if isinstance(one.schema, dict) else {}
        node.budget.spend(1 + (len(rest) >> 2))
        if "items" in schema or (one is not node and "unevaluatedItems" in schema):
            return None
        rest = [number for number in rest if number >= len(schema.get("prefixItems", ()))]
        if "contains" in schema:
            inner = one.inner(schema["contains"])
            rest = [number for number in rest if not inner.is_valid(instance[number])]
    inner = node.inner(said)
    wrong = next((number for number in rest if not inner.is_valid(instance[number])), None)
    return [Wrong(f"item {wrong} is not expected in it")] if wrong is not None else None


def _applied(node: Node, instance: Any) -> Iterator[Node]:
    """The schemas that say something of the same value and hold of it, this one among them."""
    yield node
    for one in _in_place(node, instance) if isinstance(node.schema, dict) else ():
        if one.is_valid(instance):
            yield from _applied(one, instance)


def _in_place(node: Node, instance: Any) -> Iterator[Node]:
    schema = node.schema
    for word in ("$ref", "$dynamicRef"):
        if word in schema:
            yield node.target(schema[word])
    for word in ("allOf", "anyOf", "oneOf"):
        for one in schema.get(word, ()):
            yield node.inner(one)
    if "if" in schema:
        condition = node.inner(schema["if"])
        yield condition
        word = "then" if condition.is_valid(instance) else "else"
        if word in schema:
            yield node.inner(schema[word])
    for name, one in schema.get("dependentSchemas", {}).items() if isinstance(instance, dict) else ():
        if name in instance:
            yield node.inner(one)
