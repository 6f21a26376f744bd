"""Schemas as the engine takes them: JSON Schema without references to files, and without what OpenAPI alone has.

Law: what OpenAPI says of a value is said here in JSON Schema's words, once, when a document is loaded. Each schema
becomes a definition of its own; what leads from one to another is a `$ref` to a definition. A keyword that is unknown
says nothing.

- OpenAPI 3.0 is judged as JSON Schema draft 4, which it is made of: an integer is written as one, nothing counts beside
  a `$ref`. `nullable` is a type (§4.7.24.2), and what is never sent in this direction (`readOnly` in requests,
  `writeOnly` in responses) is not required, whichever schema of the same object requires it or says so, and refused.
- OpenAPI 3.1 is JSON Schema 2020-12.
- A `discriminator` chooses one of its alternatives where the value names one, and nothing else.
- Patterns and formats are definitions too, so that it can be told which of them a value is not.
"""

from collections.abc import Iterator
from typing import Any

from keyswap.operations.validate.formats import FORMATS, PHRASES
from keyswap.operations.validate.keyword_writers import NEVER, WRITERS_30, WRITERS_31, Names, pointed
from keyswap.operations.validate.patterns import engine_schema
from keyswap.operations.validate.schema import Node
from keyswap.operations.validate.schema_check import IN_PLACE

UNSENT = "unsent"
"""The definition of a member that is not sent in this direction."""
_ANY_TYPE = ["null", "boolean", "object", "array", "number", "string"]
_NUMERIC = frozenset({"maximum", "minimum", "exclusiveMaximum", "exclusiveMinimum", "keyswap:multiple"})

_NONE: Names = frozenset()


class Rewriting:
    """The definitions made of a document's schemas. `unsent`: readOnly, writeOnly, or nothing (OpenAPI 3.1)."""

    def __init__(self, old: bool, unsent: str | None) -> None:
        self.old, self._unsent = old, unsent
        self.definitions: dict[str, Any] = {UNSENT: NEVER}
        self.labels: dict[str, str] = {}
        """The name of an alternative in a message: that of its component, or its type."""
        self.searches: dict[str, str] = {}
        """The patterns that are searched for by our own means, by their formats' names."""
        self._writers = WRITERS_30 if old else WRITERS_31
        self.messages = {UNSENT: f"must not be sent in a {'request' if unsent == 'readOnly' else 'response'}"}
        """The message for a value that is not as a definition that was made here."""
        self._names: dict[tuple[Node, Names], str] = {}
        self._patterns: dict[str, str] = {}
        self._waiting: list[tuple[str, Node, Names]] = []
        self._unseen: dict[Node, Names] = {}
        self._required: dict[Node, Names] = {}

    def name(self, node: Node) -> str:
        """The definition of a schema that stands alone: all that is said of a value."""
        return self._name(node, self._never_sent(node))

    def finish(self) -> None:
        """Make every definition that has been named, and those that they lead to."""
        while self._waiting:
            name, node, dropped = self._waiting.pop()
            self.definitions[name] = self._written(node, dropped)

    def _name(self, node: Node, dropped: Names) -> str:
        if dropped:
            dropped &= self._required_members(node)
        key = node, dropped
        if key not in self._names:
            self._names[key] = str(len(self._names))
            self._waiting.append((self._names[key], node, dropped))
        return self._names[key]

    # ---- One schema

    def _written(self, node: Node, dropped: Names) -> Any:
        schema = node.schema
        if not isinstance(schema, dict):
            return NEVER if schema is False else {}
        made: dict[str, Any] = {}
        for word, value in schema.items():
            write = self._writers.get(word)
            if write is not None:
                write(self, made, node, value, dropped)
        if "type" not in made and not _NUMERIC.isdisjoint(made):
            made["type"] = _ANY_TYPE  # beyond doubles there are numbers that the engine knows no type of
        return made

    def alone(self, node: Node, schema: Any) -> dict[str, Any]:
        """A reference to a schema that speaks of another value than the one that it stands in."""
        return pointed(self.name(node.inner(schema)))

    def same(self, node: Node, schema: Any, dropped: Names) -> dict[str, Any]:
        """A reference to a schema that speaks of the same value."""
        return pointed(self._name(node.inner(schema), dropped))

    def target(self, node: Node, ref: str, dropped: Names) -> dict[str, Any]:
        """A reference to the schema that a reference leads to."""
        return pointed(self._name(node.target(ref), dropped))

    def member(self, node: Node, schema: Any) -> dict[str, Any]:
        """A reference to the schema of a property."""
        inner = node.inner(schema)
        return pointed(UNSENT) if self._unsent and self._says(inner) else pointed(self.name(inner))

    def pattern(self, text: str) -> dict[str, Any]:
        """A reference to the definition of a pattern."""
        name = self._patterns.get(text)
        if name is None:
            name = self._patterns[text] = f"p{len(self._patterns)}"
            exact = engine_schema(text)
            self.definitions[name] = exact if exact is not None else {"format": name}
            self.messages[name] = f"must match the pattern {text}"
            if exact is None:
                self.searches[name] = text
        return pointed(name)

    def format(self, name: str) -> dict[str, Any]:
        """A reference to the definition of a format."""
        self.definitions.setdefault(f"f-{name}", FORMATS[name])
        self.messages[f"f-{name}"] = f"must be {PHRASES.get(name, f'as the format {name}')}"
        return pointed(f"f-{name}")

    # ---- What is never sent in one direction

    def _says(self, node: Node) -> bool:
        """Whether a schema, or one that it is made of, says that its value is not sent in this direction."""
        return any(isinstance(part.schema, dict) and part.schema.get(self._unsent) is True for part in _whole(node))

    def _never_sent(self, node: Node) -> Names:
        """The members of an object that some schema of it says that of."""
        if self._unsent is None:
            return _NONE
        if node not in self._unseen:
            names = set()
            for schema_node in _of_the_same(node):
                members = schema_node.schema.get("properties") if isinstance(schema_node.schema, dict) else None
                for name, schema in members.items() if isinstance(members, dict) else ():
                    if self._says(schema_node.inner(schema)):
                        names.add(name)
            self._unseen[node] = frozenset(names)
        return self._unseen[node]

    def _required_members(self, node: Node) -> Names:
        """The members that a schema of an object, or one inside of it, requires."""
        if node not in self._required:
            names: set[str] = set()
            for schema_node in _of_the_same(node):
                listed = schema_node.schema.get("required") if isinstance(schema_node.schema, dict) else None
                names.update(name for name in listed if isinstance(name, str)) if isinstance(listed, list) else None
            self._required[node] = frozenset(names)
        return self._required[node]


def _whole(node: Node) -> Iterator[Node]:
    """A schema and those that all hold where it does."""
    return _reached(node, ("allOf",))


def _of_the_same(node: Node) -> Iterator[Node]:
    """A schema and those inside that speak of the same value."""
    return _reached(node, IN_PLACE)


def _reached(node: Node, words: tuple[str, ...]) -> Iterator[Node]:
    waiting, seen = [node], {node}
    while waiting:
        current = waiting.pop()
        yield current
        schema = current.schema if isinstance(current.schema, dict) else {}
        inner = [current.inner(neighbour) for word in words for neighbour in _listed(schema.get(word))]
        inner += [current.target(schema["$ref"])] if isinstance(schema.get("$ref"), str) else []
        for neighbour in inner:
            if neighbour not in seen:
                seen.add(neighbour)
                waiting.append(neighbour)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
