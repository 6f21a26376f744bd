"""What texts may be read as: parameters and the fields of forms have no types but those of their schemas.

Law: a text becomes a number only by JSON's grammar (RFC 8259 §6), and only where its schema knows numbers; where a
schema allows several readings, the first one that it holds of is taken. What cannot be read stays a text, which the
schema then refuses.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any

from openapi_core.util import BOOLEAN_FALSE_VALUES, BOOLEAN_TRUE_VALUES

from keyswap.operations.bodies import Unreadable, read_json
from keyswap.operations.nodes import Node
from keyswap.operations.patterns import compiled, found

_WHOLE = re.compile(r"-?(?:0|[1-9][0-9]{0,4000})")
_NUMBER = re.compile(_WHOLE.pattern + r"(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_TRUTHS = dict.fromkeys(BOOLEAN_TRUE_VALUES, True) | dict.fromkeys(BOOLEAN_FALSE_VALUES, False)
_IN_PLACE = ("allOf", "anyOf", "oneOf")


class Shape:
    """What may be read as a value of which all of these schemas, or one of them, speak."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self._nodes = nodes
        self._said = [node for node in _flat(nodes) if isinstance(node.schema, dict)]
        kinds: set[str] = set()
        self.names: dict[str, Shape | None] = {}
        """The properties that are named; their shapes are made when they are asked for."""
        for node in self._said:
            said = node.schema.get("type", ())
            kinds.update([said] if isinstance(said, str) else said)
            self.names.update(dict.fromkeys(node.schema.get("properties", ())))
        self.kinds = frozenset(kinds - {"null"})

    def is_valid(self, value: Any) -> bool:
        """Whether a value may be what was meant."""
        return any(node.is_valid(value) for node in self._nodes)

    def spend(self, steps: int) -> None:
        """Raises Unjudged."""
        self._nodes[0].budget.spend(steps)

    @cached_property
    def items(self) -> "Shape | None":
        """Of an array's items."""
        inner = [node.inner(node.schema["items"]) for node in self._said if "items" in node.schema]
        inner += [node.inner(one) for node in self._said for one in node.schema.get("prefixItems", ())]
        return Shape(inner) if inner else None

    @cached_property
    def additional(self) -> "Shape | None":
        """Of properties that are not named, if anything is said of them."""
        word = "additionalProperties"
        inner = [node.inner(node.schema[word]) for node in self._said if isinstance(node.schema.get(word), dict)]
        return Shape(inner) if inner else None

    @cached_property
    def _patterns(self) -> list[tuple[Any, "Shape"]]:
        return [
            (compiled(pattern), Shape([node.inner(one)]))
            for node in self._said
            for pattern, one in node.schema.get("patternProperties", {}).items()
        ]

    @property
    def open(self) -> bool:
        """Whether it speaks of properties that it does not name."""
        closed = any(node.schema.get("additionalProperties") is False for node in self._said)
        return not closed and (not self.names or self.additional is not None or bool(self._patterns))

    def property(self, name: str) -> "Shape | None":
        """Of a property."""
        if name not in self.names:
            budget = self._nodes[0].budget
            return next((shape for pattern, shape in self._patterns if found(pattern, name, budget)), self.additional)
        shape = self.names[name]
        if shape is None:
            holders = [node for node in self._said if name in node.schema.get("properties", ())]
            shape = Shape([node.inner(node.schema["properties"][name]) for node in holders])
            self.names[name] = shape
        return shape


def _flat(nodes: Iterable[Node]) -> Iterator[Node]:
    """The schemas, and those that they say the same value may be of."""
    waiting, seen = list(reversed(list(nodes))), set()
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        yield node
        schema = node.schema if isinstance(node.schema, dict) else {}
        inner = [node.target(schema[word]) for word in ("$ref", "$dynamicRef") if word in schema]
        inner += [node.inner(one) for word in _IN_PLACE for one in schema.get(word, ())]
        inner += [node.inner(schema[word]) for word in ("then", "else") if word in schema]
        waiting += reversed(inner)


def read_text(text: str, shape: Shape | None, structured: bool = False) -> Any:
    """One text. `structured`: objects and arrays are written as JSON."""
    if shape is None or shape.kinds == {"string"}:
        return text
    readings = list(_readings(text, shape.kinds, structured))
    if len(readings) == 1:
        return readings[0]
    return next((one for one in readings if shape.is_valid(one)), readings[0])


def read_texts(texts: Sequence[str], shape: Shape | None, structured: bool = False) -> list[Any]:
    """The items of an array."""
    if shape is not None:
        shape.spend(2 * len(texts))
    return [read_text(one, shape, structured) for one in texts]


def _readings(text: str, kinds: frozenset[str], structured: bool) -> Iterator[Any]:
    read = False
    if not kinds:
        yield text
    for reading in _typed(text, kinds, structured):
        read = True
        yield reading
    if "string" in kinds or (kinds and not read):
        yield text


def _typed(text: str, kinds: frozenset[str], structured: bool) -> Iterator[Any]:
    if not kinds or "number" in kinds or "integer" in kinds:
        if _WHOLE.fullmatch(text):
            yield int(text)
        elif (not kinds or "number" in kinds) and _NUMBER.fullmatch(text):
            yield float(text)
    if (not kinds or "boolean" in kinds) and text.lower() in _TRUTHS:
        yield _TRUTHS[text.lower()]
    if structured and (not kinds or kinds & {"object", "array"}):
        try:
            value = read_json(text.encode("utf-8", "surrogateescape"))
        except Unreadable:
            return
        if isinstance(value, dict | list):
            yield value
