"""Schemas at their places: where each leads, by its own references and those of the document around it.

Law: a schema is taken as it stands in its file. In OpenAPI 3.0 what stands beside a `$ref` is ignored (§4.7.23), in 3.1
it counts. A keyword that nothing can be judged by, which the load has told of where it matters, says nothing. A node is
made once for each place that it is reached from, and says nothing of a value itself: that does the engine, by what
`schema_rewriting` makes of the node.
"""

from collections.abc import Callable
from typing import Any

from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

from keyswap.operations.validate.budget import StepBudget
from keyswap.operations.validate.schema_check import is_sound

Resolver = Any
"""referencing's: it knows the base URI, and whence a schema was reached (its dynamic scope)."""
Fits = Callable[["Node", Any], bool]


class Ground:
    """The context that the schemas of one document share. `old`: OpenAPI 3.0."""

    def __init__(self, old: bool, budget: StepBudget) -> None:
        self.old, self.budget = old, budget
        self.fits: Fits = _unready
        """Whether a value is as a node says; the engine puts it here."""
        self.broken: list[str] = []
        """References that lead to nothing."""
        self._nodes: dict[tuple[int, tuple[str, ...]], Node] = {}

    def node(self, schema: Any, resolver: Resolver) -> "Node":
        """A schema, made once for each scope that it is reached from (JSON Schema Core §8.2.3.2)."""
        scope = () if self.old else tuple(dict.fromkeys(reversed([uri for uri, _ in resolver.dynamic_scope()])))
        key = id(schema), scope
        if key not in self._nodes:
            self._nodes[key] = Node(self, schema, resolver)  # which keeps the schema, and so its id
        return self._nodes[key]


def _unready(_node: "Node", _value: Any) -> bool:
    raise AssertionError("schemas are compiled when a document is loaded")


class Node:
    """A schema at its place. `schema` is what it says: an object, or true or false."""

    __slots__ = ("_inner", "_key", "_resolver", "_targets", "budget", "ground", "schema")

    def __init__(self, ground: Ground, schema: Any, resolver: Resolver) -> None:
        self.ground, self.budget, self._key, self._resolver = ground, ground.budget, schema, resolver
        self.schema = _understood(schema, ground.old)
        self._inner: dict[int, Node] = {}
        self._targets: dict[str, Node] = {}

    def is_valid(self, value: Any) -> bool:
        """Whether a value is as the schema says. Raises Unjudged."""
        return self.ground.fits(self, value)

    def inner(self, schema: Any) -> "Node":
        """A schema that stands inside of this one."""
        node = self._inner.get(id(schema))
        if node is None:
            resolver = self._resolver
            if not self.ground.old and isinstance(schema, dict) and isinstance(schema.get("$id"), str):
                resolver = resolver.in_subresource(DRAFT202012.create_resource(schema))
            node = self._inner[id(schema)] = self.ground.node(schema, resolver)
        return node

    def target(self, ref: str) -> "Node":
        """The schema that a reference in this one leads to; where there is none, one that no value is as."""
        node = self._targets.get(ref)
        if node is None:
            try:
                resolved = self._resolver.lookup(ref)
            except Unresolvable:
                self.ground.broken.append(ref)
                node = self.ground.node(False, self._resolver)
            else:
                node = self.ground.node(resolved.contents, resolved.resolver)
            self._targets[ref] = node
        return node


def _understood(schema: Any, old: bool) -> Any:
    """A schema without the keywords that nothing can be judged by, and in OpenAPI 3.0 without those beside a `$ref`."""
    if not isinstance(schema, dict):
        return schema if schema is False else True
    if old and isinstance(schema.get("$ref"), str):
        return {"$ref": schema["$ref"]}
    if all(is_sound(word, value) for word, value in schema.items()):
        return schema
    return {word: value for word, value in schema.items() if is_sound(word, value)}
