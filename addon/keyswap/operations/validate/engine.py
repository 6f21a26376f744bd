"""The engine that judges values by schemas: jsonschema-rs, which reads Python's own values.

Law: all schemas of a document that may be asked are compiled when it is loaded, into one validator, and nothing is
compiled for a value that is good. A value is judged in time in proportion to its size, whatever the schema. What the
engine would take longer for is ours: equal items (it compares numbers beyond 64 bits pair by pair), multiples of
fractions and of long integers, and a search that cannot be done in linear time, which has a bound. The engine is only
asked whether a value is good: its account of what is wrong is as long as the value, and grows with the power of depth.
"""

from collections.abc import Callable, Iterable
from decimal import Decimal
from fractions import Fraction
from functools import partial
from math import isfinite
from typing import Any

import jsonschema_rs
from jsonschema_rs.canonical.json import to_string

from keyswap.operations.validate.budget import StepBudget
from keyswap.operations.validate.formats import CHECKERS, EMAILS
from keyswap.operations.validate.keyword_writers import pointed
from keyswap.operations.validate.patterns import LIMITS, compiled, has_match
from keyswap.operations.validate.schema import Node
from keyswap.operations.validate.schema_rewriting import Rewriting

Validator = jsonschema_rs.Draft4Validator | jsonschema_rs.Draft202012Validator


_HASHED_ALIKE = 2**61 - 1
"""Python hashes an integer as its remainder: smaller ones cannot be chosen to collide."""


class Unique:
    """`uniqueItems`. Equal are values that are equal as JSON: 1 and 1.0 are, 1 and true are not."""

    def __init__(self, _schema: Any, _value: Any, _path: Any) -> None:
        pass

    def validate(self, instance: Any) -> None:
        """Raises ValueError."""
        if isinstance(instance, list) and len(set(_comparable(instance))) != len(instance):
            raise ValueError


def _comparable(items: list[Any]) -> Iterable[Any]:
    kinds = set(map(type, items))
    if kinds == {int}:
        return items if max(items) < _HASHED_ALIKE and min(items) > -_HASHED_ALIKE else map(hex, items)
    return items if kinds <= {str} else map(to_string, items)


class Multiple:
    """`multipleOf`, exactly: 19.99 is a multiple of 0.01, and any integer may be asked of any number."""

    def __init__(self, _schema: Any, step: Any, _path: Any) -> None:
        numerator, denominator = Decimal(repr(step)).as_integer_ratio()
        self._scale = 1
        while self._scale % denominator:
            self._scale *= 10
        self._step = numerator * (self._scale // denominator)

    def validate(self, instance: Any) -> None:
        """Raises ValueError."""
        kind = type(instance)
        if kind is float:
            scaled = instance * self._scale
            if -_EXACT < scaled < _EXACT:
                whole = round(scaled)
                if whole / self._scale != instance or whole % self._step:
                    raise ValueError
            elif not isfinite(instance) or (Fraction(repr(instance)) * self._scale) % self._step:
                raise ValueError
        elif kind is int and instance * self._scale % self._step:
            raise ValueError


_EXACT = 2**53
"""Smaller integers are exact as doubles, and of two of them the quotient is the double that is nearest to it."""
KEYWORDS: dict[str, Any] = {"keyswap:unique": Unique, "keyswap:multiple": Multiple}


class Engine:
    """The schemas of one document in one direction. `nodes` are those that values are judged by."""

    def __init__(self, rewriting: Rewriting, nodes: Iterable[Node], budget: StepBudget) -> None:
        self._rewriting, self._budget = rewriting, budget
        for node in nodes:
            rewriting.name(node)
        self._compile()

    def _compile(self) -> None:
        made = self._rewriting
        made.finish()
        self.definitions = made.definitions
        entries = {name: pointed(name) for name in made.definitions}
        for name, schema in made.definitions.items():
            entries |= _members(name, schema)
        self._validator = self.validator({"properties": entries, "$defs": made.definitions})

    def validator(self, schema: Any) -> Validator:
        """A validator of a schema that is written for the engine. Raises ValueError: it is none."""
        formats: dict[str, Callable[..., bool]] = dict(CHECKERS)
        for name, text in self._rewriting.searches.items():
            formats[name] = partial(has_match, compiled(text), budget=self._budget)
        kind = jsonschema_rs.Draft4Validator if self._rewriting.old else jsonschema_rs.Draft202012Validator
        return kind(
            schema,
            formats=formats,
            validate_formats=True,
            pattern_options=LIMITS,
            email_options=EMAILS,
            keywords=KEYWORDS,
            offline=True,
        )

    def fits(self, node: Node, value: Any) -> bool:
        """Whether a value is as a schema says. Raises Unjudged."""
        return self.is_valid(self.name(node), value)

    def name(self, node: Node) -> str:
        """The definition of a schema."""
        name = self._rewriting.name(node)
        if name not in self.definitions:  # it is reached in no way that the load knows
            self._compile()
        return name

    def is_valid(self, name: str, value: Any) -> bool:
        """Whether a value is as a definition says. Raises Unjudged."""
        return self._validator.is_valid({name: value})

    def first_wrong(self, name: str, value: Any, begin: int = 0) -> int | None:
        """The place of the first item or member that is not as the definition of an array or object has it.

        It is looked for from a place on, in parts that double, and in the halves of the part where it is.
        """
        keys = list(value) if isinstance(value, dict) else None
        begin, size = max(begin, len(self.definitions[name].get("prefixItems", ()))), 32

        def good(first: int, last: int) -> bool:
            part = value[first:last] if keys is None else {key: value[key] for key in keys[first:last]}
            return self._validator.is_valid({f"{name} members": part})

        while begin < len(value) and good(begin, begin + size):
            begin, size = begin + size, size * 2
        if begin >= len(value):
            return None
        while size > 1:
            size //= 2
            begin += size if good(begin, begin + size) else 0
        return begin


def _members(name: str, schema: Any) -> dict[str, Any]:
    """The definition of each item or member of a value that `prefixItems` and `properties` do not name."""
    made = {word: schema[word] for word in ("items", "patternProperties") if word in schema}
    if schema.get("additionalProperties", True) is not True:
        made["additionalProperties"] = schema["additionalProperties"]
    if made:
        made["properties"] = {key: {} for key in schema.get("properties", ())}
        return {f"{name} members": made}
    return {}
