"""Schemas, each compiled at its first use into what is asked of a value, and counted as it is asked.

Law: a schema is judged as it stands in its file, with all that stands beside a `$ref`, and every keyword that is asked
costs steps of the request's budget. jsonschema's own keywords can be asked too: they call back `descend`, `is_type` and
`evolve`; its validators themselves count nothing, and make an object for every value that they look at.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

from keyswap.operations.budget import Budget, Unjudged

Resolver = Any
"""referencing's: it knows the base URI, and whence a schema was reached (its dynamic scope)."""
Keyword = Callable[["Node", Any, Any, Mapping[str, Any]], Iterable["Wrong"] | None]
"""Judges a value by one keyword. Arguments: the schema, the keyword's prepared value, the value, the schema as data."""


class Wrong(Exception):
    """What is wrong with a value; `path` leads to it from the outermost one, last step first. It is not raised."""

    def __init__(self, message: str) -> None:
        self.message = message
        self.path: list[object] = []


class Dialect:
    """The keywords of a version of OpenAPI; `prepare` makes a keyword's value ready, once."""

    def __init__(self, keywords: Mapping[str, Keyword], prepare: Mapping[str, Callable[[Any], Any]]) -> None:
        self.keywords, self.prepare = keywords, prepare


class Ground:
    """What the schemas of one document have in common."""

    def __init__(self, dialect: Dialect, budget: Budget) -> None:
        self.dialect, self.budget = dialect, budget
        self._nodes: dict[tuple[int, tuple[str, ...]], Node] = {}

    def node(self, schema: Any, resolver: Resolver) -> "Node":
        """A schema, made once for each scope that it is reached from (JSON Schema Core §8.2.3.2)."""
        scope = dict.fromkeys(reversed([uri for uri, _ in resolver.dynamic_scope()]))
        key = id(schema), tuple(scope)
        if key not in self._nodes:
            self._nodes[key] = Node(self, schema, resolver)  # which keeps the schema, and so its id
        return self._nodes[key]


class Node:
    """A schema at its place."""

    __slots__ = ("_inner", "_resolver", "_targets", "budget", "ground", "schema", "steps")

    def __init__(self, ground: Ground, schema: Any, resolver: Resolver) -> None:
        self.ground, self.budget, self.schema, self._resolver = ground, ground.budget, schema, resolver
        self._inner: dict[int, Node] = {}
        self._targets: dict[str, Node] = {}
        said = schema.items() if isinstance(schema, dict) else ()
        keywords, prepare = ground.dialect.keywords, ground.dialect.prepare
        self.steps = tuple(
            (keywords[word], prepare[word](value) if word in prepare else value, _cost(value))
            for word, value in said
            if word in keywords
        )

    # ---- What is asked of it

    def errors(self, instance: Any) -> Iterator[Wrong]:
        """What is wrong with a value. Raises Unjudged."""
        schema, budget = self.schema, self.budget
        if schema is False:
            yield Wrong("it is not expected here")
        for keyword, value, cost in self.steps:
            budget.left -= cost
            if budget.left < 0:
                raise Unjudged("it is too costly to be judged")
            found = keyword(self, value, instance, schema)
            if found:
                yield from found

    def is_valid(self, instance: Any) -> bool:
        """Whether nothing is wrong."""
        self.budget.left -= 3  # the next keyword raises, or the next but a few
        return next(self.errors(instance), None) is None

    # ---- What keywords ask of it, as of jsonschema's validators

    def descend(self, instance: Any, schema: Any, path: object = None, schema_path: object = None) -> Iterator[Wrong]:  # noqa: ARG002
        """What is wrong with a value, or with the member of one, by a schema inside of this one."""
        for error in self.inner(schema).errors(instance):
            if path is not None:
                error.path.append(path)
            yield error

    def is_type(self, instance: Any, kind: str) -> bool:
        """Whether a value is an object or array, which is all that traversing keywords ask."""
        return isinstance(instance, dict if kind == "object" else list)

    def evolve(self, schema: Any) -> "Node":
        """The same as `inner`."""
        return self.inner(schema)

    # ---- Where it leads

    def inner(self, schema: Any) -> "Node":
        """A schema that stands inside of this one."""
        found = self._inner.get(id(schema))
        if found is None:
            resolver = self._resolver
            if isinstance(schema, dict) and isinstance(schema.get("$id"), str):
                resolver = resolver.in_subresource(DRAFT202012.create_resource(schema))
            found = self._inner[id(schema)] = self.ground.node(schema, resolver)
        return found

    def target(self, ref: str) -> "Node":
        """The schema that a reference in this one leads to. Raises Unjudged."""
        found = self._targets.get(ref)
        if found is None:
            try:
                resolved = self._resolver.lookup(ref)
            except Unresolvable as error:  # only where an `$id` kept the load from checking it
                raise Unjudged("its schema refers to nothing") from error
            found = self._targets[ref] = self.ground.node(resolved.contents, resolved.resolver)
        return found


def _cost(value: Any) -> int:
    """A keyword that lists much costs more."""
    return 1 + (len(value) >> 3 if isinstance(value, dict | list) else 0)
