"""Texts → typed values: parameters and the fields of forms have no types but those of their schemas.

Law: a text becomes a number only by JSON's grammar (RFC 8259 §6), if it is none beyond a double's range, and only
where its schema knows numbers; where a schema allows several readings, the first one that it holds of is taken. What
cannot be read stays a text, which the schema then refuses.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any

from openapi_core.util import BOOLEAN_FALSE_VALUES, BOOLEAN_TRUE_VALUES

from keyswap.operations.validate.bodies import BEYOND, Unreadable, read_json
from keyswap.operations.validate.lenient_names import fold
from keyswap.operations.validate.patterns import compiled, has_match
from keyswap.operations.validate.schema import Node
from keyswap.operations.validate.schema_check import IN_PLACE

_WHOLE = re.compile(r"-?(?:0|[1-9][0-9]{0,4000})")
_NUMBER = re.compile(_WHOLE.pattern + r"(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_TRUTHS = dict.fromkeys(BOOLEAN_TRUE_VALUES, True) | dict.fromkeys(BOOLEAN_FALSE_VALUES, False)
_LITERAL = re.compile(r"\^([0-9A-Za-z_-]+)\$$")
_ITEMS = object()
_CONTAINERS = {dict, list}


class Shape:
    """The types and members that a value may have by all of these schemas, or one of them.

    `whole`: also of schemas that say nothing of how a text is read, as those of `if`; for the names in them.
    """

    def __init__(
        self, nodes: Sequence[Node], whole: bool = False, made: "dict[tuple[int, ...], Shape] | None" = None
    ) -> None:
        self._nodes, self._whole = nodes, whole
        self._made = made if made is not None else {}
        """The shapes that this one leads to; they may lead back to each other."""
        self._object_nodes = [node for node in _flat(nodes, whole) if isinstance(node.schema, dict)]
        kinds: set[str] = set()
        self.names: dict[str, Shape | None] = {}
        """The properties that are named; their shapes are made when they are asked for."""
        for node in self._object_nodes:
            types = node.schema.get("type", ())
            kinds.update([types] if isinstance(types, str) else types)
            self.names.update(dict.fromkeys(node.schema.get("properties", ())))
        self.kinds = frozenset(kinds - {"null"})

    def _of(self, nodes: Sequence[Node]) -> "Shape":
        key = tuple(map(id, nodes))
        made = self._made.get(key)
        if made is None:
            made = self._made[key] = Shape(nodes, self._whole, self._made)
        return made

    def is_valid(self, value: Any) -> bool:
        """Whether a value may be what was meant."""
        return any(node.is_valid(value) for node in self._nodes)

    def spend(self, steps: int) -> None:
        """Raises Unjudged."""
        self._nodes[0].budget.spend(steps)

    # ---- What is inside

    @cached_property
    def items(self) -> "Shape | None":
        """The shape of an array's items."""
        words = ("items", "contains", "unevaluatedItems") if self._whole else ("items",)
        inner = [node.inner(node.schema[word]) for node in self._object_nodes for word in words if word in node.schema]
        inner += [node.inner(schema) for node in self._object_nodes for schema in node.schema.get("prefixItems", ())]
        return self._of(inner) if inner else None

    @cached_property
    def additional(self) -> "Shape | None":
        """The shape of properties that are not named, if anything is said of them."""
        words = ("additionalProperties", "unevaluatedProperties")
        schemas = [(node, node.schema.get(word)) for node in self._object_nodes for word in words]
        inner = [node.inner(schema) for node, schema in schemas if isinstance(schema, dict)]
        return self._of(inner) if inner else None

    @cached_property
    def _patterns(self) -> list[tuple[Any, Node]]:
        return [
            (compiled(pattern), node.inner(schema))
            for node in self._object_nodes
            for pattern, schema in node.schema.get("patternProperties", {}).items()
        ]

    @property
    def open(self) -> bool:
        """Whether it speaks of properties that it does not name."""
        closed = any(node.schema.get("additionalProperties") is False for node in self._object_nodes)
        return not closed and (not self.names or self.additional is not None or bool(self._patterns))

    def property(self, name: str) -> "Shape | None":
        """The shape of a property."""
        if name not in self.names:
            budget = self._nodes[0].budget
            nodes = [node for pattern, node in self._patterns if has_match(pattern, name, budget)]
            return self._of(nodes) if nodes else self.additional
        shape = self.names[name]
        if shape is None:
            holders = [node for node in self._object_nodes if name in node.schema.get("properties", ())]
            shape = self._of([node.inner(node.schema["properties"][name]) for node in holders])
            self.names[name] = shape
        return shape

    # ---- Keys in another spelling

    def mistaken(self, value: Any) -> "Iterator[tuple[tuple[object, ...], str, str]]":
        """The keys of a value that fold to a named one, and are not named: where, which, and what it folds to."""
        if isinstance(value, list):
            items = self._inside.get(_ITEMS)
            if items is not None and not items.is_clear_of(value):
                for number, item in enumerate(value):
                    if type(item) in _CONTAINERS:
                        yield from _within(items, number, item)
        elif isinstance(value, dict):
            if not self._knows(value):
                folds = ((key, self._folded.get(fold(key))) for key in sorted(value.keys() - self.known))
                yield from (((), key, named) for key, named in folds if named is not None)
            for name, shape in self._inside.items():
                if isinstance(name, str) and name in value:
                    yield from _within(shape, name, value[name])
            if self._others:
                others = value.keys() - self.names.keys()
                item = self.additional if not self._patterns else None
                if item is None or not item.is_clear_of([value[key] for key in others]):
                    for key in others:
                        yield from _within(self.property(key), key, value[key])

    def _knows(self, keys: Iterable[str]) -> bool:
        """Whether each of these keys is named, or folds to none that is."""
        unknown = set(keys) - self.known
        if self._has_lines:
            return self._folded.keys().isdisjoint(map(fold, unknown))
        return not unknown or self._folded.keys().isdisjoint(fold("\n".join(unknown)).split("\n"))

    def is_clear_of(self, values: list[Any]) -> bool:
        """Whether no key is mistaken in any of these, as in most long lists, found out for all at once: 0.1 µs each."""
        kinds = set(map(type, values))
        if kinds.isdisjoint(_CONTAINERS):
            return True
        if not self.is_flat or list in kinds:
            return False
        return self._knows(set[str]().union(*(value for value in values if type(value) is dict)))

    @cached_property
    def known(self) -> frozenset[str]:
        """The keys that the schemas name, in whatever way."""
        words = ("required", "dependentRequired", "dependentSchemas")
        keys = {
            *self.names,
            *(name for node in self._object_nodes for word in words for name in node.schema.get(word, ())),
        }
        for node in self._object_nodes:
            patterns = map(_LITERAL.fullmatch, node.schema.get("patternProperties", ()))
            keys.update(match[1] for match in patterns if match is not None)
            discriminator = node.schema.get("discriminator")
            keys.update([discriminator["propertyName"]] if isinstance(discriminator, dict) else ())
        return frozenset(keys)

    @cached_property
    def _folded(self) -> dict[str, str]:
        return {fold(name): name for name in sorted(self.known)}

    @cached_property
    def _has_lines(self) -> bool:
        """Whether a line feed stands in a named key: keys are folded one by one then, not all at once."""
        return any("\n" in name for name in self._folded)

    @cached_property
    def _inside(self) -> "dict[object, Shape]":
        """The inner shapes that lead to named keys: those of named properties and of an array's items."""
        inner: dict[object, Shape | None] = {name: self.property(name) for name in self.names}
        inner[_ITEMS] = self.items
        return {name: shape for name, shape in inner.items() if shape is not None and shape.leads}

    @cached_property
    def unnamed(self) -> "list[Shape]":
        """The inner shapes that have no name in the schemas."""
        others = [self.items, self.additional, *(self._of([node]) for _, node in self._patterns)]
        return [shape for shape in others if shape is not None]

    @cached_property
    def _others(self) -> bool:
        """Whether properties that are not named lead to named keys."""
        return any(shape.leads for shape in self.unnamed if shape is not self.items)

    @cached_property
    def is_flat(self) -> bool:
        """Whether keys are named here and nowhere inside."""
        return not self._inside and not self._others

    @cached_property
    def leads(self) -> bool:
        """Whether a key is named here or anywhere inside."""
        waiting, seen = [self], {id(self)}
        while waiting:
            shape = waiting.pop()
            if shape.known:
                return True
            fresh = [shape for shape in shape.unnamed if id(shape) not in seen]
            seen.update(map(id, fresh))
            waiting += fresh
        return False


def _within(shape: "Shape | None", step: object, value: Any) -> "Iterator[tuple[tuple[object, ...], str, str]]":
    if shape is not None and isinstance(value, dict | list):
        for path, key, named in shape.mistaken(value):
            yield (step, *path), key, named


def _flat(nodes: Iterable[Node], whole: bool) -> Iterator[Node]:
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
        inner += [node.inner(inner_schema) for word in IN_PLACE for inner_schema in schema.get(word, ())]
        inner += [node.inner(schema[word]) for word in ("then", "else") if word in schema]
        if whole:
            inner += [node.inner(schema["if"])] if "if" in schema else []
            inner += [node.inner(inner_schema) for inner_schema in schema.get("dependentSchemas", {}).values()]
        waiting += reversed(inner)


def read_text(text: str, shape: Shape | None, structured: bool = False) -> Any:
    """The value of one text. `structured`: objects and arrays are written as JSON."""
    if shape is None or shape.kinds == {"string"}:
        return text
    readings = list(_readings(text, shape.kinds, structured))
    if len(readings) == 1:
        return readings[0]
    return next((reading for reading in readings if shape.is_valid(reading)), readings[0])


def read_texts(texts: Sequence[str], shape: Shape | None, structured: bool = False) -> list[Any]:
    """The items of an array."""
    if shape is not None:
        shape.spend(2 * len(texts))
    return [read_text(text, shape, structured) for text in texts]


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
        number: float | None = None
        if _WHOLE.fullmatch(text):
            number = int(text)
        elif (not kinds or "number" in kinds) and _NUMBER.fullmatch(text):
            number = float(text)
        if number is not None and -BEYOND < number < BEYOND:
            yield number
    if (not kinds or "boolean" in kinds) and text.lower() in _TRUTHS:
        yield _TRUTHS[text.lower()]
    if structured and (not kinds or kinds & {"object", "array"}):
        try:
            value = read_json(text.encode("utf-8", "surrogateescape"))
        except Unreadable:
            return
        if isinstance(value, dict | list):
            yield value
