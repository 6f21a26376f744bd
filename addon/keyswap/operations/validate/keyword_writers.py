"""Keywords of a schema → the same in the engine's words: a table of writers for OpenAPI 3.0, and one for 3.1.

Law: a keyword that is in no table says nothing. A writer refers to other schemas by their definitions alone.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

from keyswap.operations.validate.formats import FORMATS
from keyswap.operations.validate.patterns import name_pattern
from keyswap.operations.validate.schema import Node
from keyswap.operations.validate.schema_check import IN_PLACE

NEVER: dict[str, Any] = {"not": {}}
"""The schema that no value fulfils, in either draft."""
_COUNTS = frozenset({"maxLength", "minLength", "maxItems", "minItems", "maxProperties", "minProperties"})
_MOST = 2**53

Names = frozenset[str]


class References(Protocol):
    """Refers to the definitions of other schemas, which are made as they are named."""

    labels: dict[str, str]
    """The name of an alternative in a message, by its definition."""

    def alone(self, node: Node, schema: Any) -> dict[str, Any]:
        """A reference to a schema that speaks of another value than the one that it stands in."""

    def same(self, node: Node, schema: Any, dropped: Names) -> dict[str, Any]:
        """A reference to a schema that speaks of the same value."""

    def target(self, node: Node, ref: str, dropped: Names) -> dict[str, Any]:
        """A reference to the schema that a reference leads to."""

    def member(self, node: Node, schema: Any) -> dict[str, Any]:
        """A reference to the schema of a property."""

    def pattern(self, text: str) -> dict[str, Any]:
        """A reference to the definition of a pattern."""

    def format(self, name: str) -> dict[str, Any]:
        """A reference to the definition of a format."""


Write = Callable[[References, dict[str, Any], Node, Any, Names], None]


def pointed(name: str) -> dict[str, Any]:
    """A reference to a definition."""
    return {"$ref": f"#/$defs/{name}"}


def name_of(reference: Mapping[str, Any]) -> str:
    """The definition that a reference leads to."""
    text: str = reference["$ref"]
    return text.removeprefix("#/$defs/")


def _all_of(made: dict[str, Any], *more: dict[str, Any]) -> None:
    made.setdefault("allOf", []).extend(more)


def _plain(word: str) -> Write:
    def write(_: References, made: dict[str, Any], _node: Node, value: Any, _dropped: Names) -> None:
        made[word] = value

    return write


def _count(word: str) -> Write:
    def write(_: References, made: dict[str, Any], _node: Node, value: Any, _dropped: Names) -> None:
        made[word] = min(int(value), _MOST)

    return write


def _type_30(_: References, made: dict[str, Any], node: Node, value: Any, _dropped: Names) -> None:
    kinds = [value] if isinstance(value, str) else list(value)
    if node.schema.get("nullable") is True:
        kinds.append("null")
    made["type"] = list(dict.fromkeys(kinds))


def _type_31(_: References, made: dict[str, Any], _node: Node, value: Any, _dropped: Names) -> None:
    made["type"] = value if isinstance(value, str) else list(dict.fromkeys(value))
    if not made["type"]:
        made.pop("type")
        _all_of(made, NEVER)


def _enum(_: References, made: dict[str, Any], _node: Node, value: Any, _dropped: Names) -> None:
    distinct: list[Any] = []
    for candidate in value:
        if not any(_alike(candidate, other) for other in distinct[-200:]):
            distinct.append(candidate)
    if distinct:
        made["enum"] = distinct
    else:
        _all_of(made, NEVER)


def _alike(value: Any, other: Any) -> bool:
    return type(value) is type(other) and bool(value == other)


def _bound(word: str, exclusive: str) -> Write:
    """`maximum` and `minimum` of OpenAPI 3.0, which may exclude the bound itself."""

    def write(_: References, made: dict[str, Any], node: Node, value: Any, _dropped: Names) -> None:
        made[word] = value
        if node.schema.get(exclusive) is True:
            made[exclusive] = True

    return write


def _multiple(_: References, made: dict[str, Any], _node: Node, value: Any, _dropped: Names) -> None:
    made["keyswap:multiple"] = value


def _required(_: References, made: dict[str, Any], _node: Node, value: Any, dropped: Names) -> None:
    names = [name for name in dict.fromkeys(value) if name not in dropped]
    if names:
        made["required"] = names


def _unique(_: References, made: dict[str, Any], _node: Node, value: Any, _dropped: Names) -> None:
    if value:
        made["keyswap:unique"] = 1  # true is what OpenAPI 3.0 says of bounds


def _pattern(to: References, made: dict[str, Any], _node: Node, value: Any, _dropped: Names) -> None:
    _all_of(made, to.pattern(value))


def _format(to: References, made: dict[str, Any], _node: Node, value: Any, _dropped: Names) -> None:
    if value in FORMATS:
        _all_of(made, to.format(value))


def _one(word: str) -> Write:
    """A keyword whose schema speaks of something inside of the value."""

    def write(to: References, made: dict[str, Any], node: Node, value: Any, _dropped: Names) -> None:
        made[word] = to.alone(node, value)

    return write


def _named(word: str) -> Write:
    def write(to: References, made: dict[str, Any], node: Node, value: Any, _dropped: Names) -> None:
        made[word] = {name: to.alone(node, schema) for name, schema in value.items()}

    return write


def _properties(to: References, made: dict[str, Any], node: Node, value: Any, _dropped: Names) -> None:
    made["properties"] = {name: to.member(node, schema) for name, schema in value.items()}


def _pattern_properties(to: References, made: dict[str, Any], node: Node, value: Any, _dropped: Names) -> None:
    made["patternProperties"] = {name_pattern(text): to.alone(node, schema) for text, schema in value.items()}


def _additional(to: References, made: dict[str, Any], node: Node, value: Any, _dropped: Names) -> None:
    made["additionalProperties"] = value if isinstance(value, bool) else to.alone(node, value)


def _prefix(to: References, made: dict[str, Any], node: Node, value: Any, _dropped: Names) -> None:
    made["prefixItems"] = [to.alone(node, schema) for schema in value]


def _each(word: str) -> Write:
    """A keyword whose schemas speak of the same value."""

    def write(to: References, made: dict[str, Any], node: Node, value: Any, dropped: Names) -> None:
        if word == "allOf":
            _all_of(made, *(to.same(node, schema, dropped) for schema in value))
        elif "discriminator" in node.schema:
            _all_of(made, *_discriminated(to, word, node, value, dropped))
        else:
            made[word] = _labelled(to, node, value, dropped)

    return write


def _labelled(to: References, node: Node, members: list[Any], dropped: Names) -> list[dict[str, Any]]:
    references = [to.same(node, schema, dropped) for schema in members]
    for schema, reference in zip(members, references, strict=True):
        label = _label(schema)
        if label:
            to.labels[name_of(reference)] = label
    return references


def _label(schema: Any) -> str:
    if isinstance(schema, dict) and isinstance(schema.get("$ref"), str):
        return str(schema["$ref"].rpartition("/")[2])
    return schema["title"] if isinstance(schema, dict) and isinstance(schema.get("title"), str) else ""


def _discriminated(
    to: References, word: str, node: Node, members: list[Any], dropped: Names
) -> Iterator[dict[str, Any]]:
    """Each alternative where the value names it; all of them where it names none of these."""
    discriminator = node.schema["discriminator"]
    references = _labelled(to, node, members, dropped)
    known: list[str] = []
    for schema, reference in zip(members, references, strict=True):
        names = _chosen_by(discriminator.get("mapping", {}), schema, members)
        if names:
            known += names
            yield {"anyOf": [{"not": _naming(discriminator["propertyName"], names)}, reference]}
    if known:
        yield {"anyOf": [{"not": {"not": _naming(discriminator["propertyName"], known)}}, {word: references}]}
    else:
        yield {word: references}


def _chosen_by(mapping: Mapping[str, str], schema: Any, members: list[Any]) -> list[str]:
    """The values of the property by which an alternative is chosen."""
    tails = [
        str(member.get("$ref")).rpartition("/")[2]
        for member in members
        if isinstance(member, dict) and "$ref" in member
    ]
    tail = str(schema.get("$ref")).rpartition("/")[2] if isinstance(schema, dict) and "$ref" in schema else None
    if tail is None or tails.count(tail) != 1:
        return []
    mapped = [name for name, target in mapping.items() if target.rpartition("/")[2] == tail]
    return mapped if tail in mapping else [*mapped, tail]


def _naming(property_name: str, names: list[str]) -> dict[str, Any]:
    return {"type": "object", "required": [property_name], "properties": {property_name: {"enum": names}}}


def _not(to: References, made: dict[str, Any], node: Node, value: Any, _dropped: Names) -> None:
    made["not"] = to.same(node, value, frozenset())


def _applied(word: str) -> Write:
    def write(to: References, made: dict[str, Any], node: Node, value: Any, dropped: Names) -> None:
        made[word] = to.same(node, value, dropped)

    return write


def _by_name(to: References, made: dict[str, Any], node: Node, value: Any, dropped: Names) -> None:
    made["dependentSchemas"] = {name: to.same(node, schema, dropped) for name, schema in value.items()}


def _ref(to: References, made: dict[str, Any], node: Node, value: Any, dropped: Names) -> None:
    _all_of(made, to.target(node, value, dropped))


_COMMON: dict[str, Write] = {
    "$ref": _ref,
    "enum": _enum,
    "multipleOf": _multiple,
    "required": _required,
    "uniqueItems": _unique,
    "pattern": _pattern,
    "format": _format,
    "items": _one("items"),
    "properties": _properties,
    "additionalProperties": _additional,
    "not": _not,
    **{word: _count(word) for word in _COUNTS},
    **{word: _each(word) for word in IN_PLACE},
}
WRITERS_30: dict[str, Write] = {
    **_COMMON,
    "type": _type_30,
    "maximum": _bound("maximum", "exclusiveMaximum"),
    "minimum": _bound("minimum", "exclusiveMinimum"),
}
WRITERS_31: dict[str, Write] = {
    **_COMMON,
    "$dynamicRef": _ref,
    "type": _type_31,
    **{word: _plain(word) for word in ("const", "maximum", "minimum", "exclusiveMaximum", "exclusiveMinimum")},
    **{word: _count(word) for word in ("minContains", "maxContains")},
    **{word: _one(word) for word in ("contains", "propertyNames", "unevaluatedItems", "unevaluatedProperties")},
    **{word: _applied(word) for word in ("if", "then", "else")},
    "prefixItems": _prefix,
    "patternProperties": _pattern_properties,
    "dependentSchemas": _by_name,
    "dependentRequired": _plain("dependentRequired"),
}
