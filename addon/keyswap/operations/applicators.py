"""The keywords that lead on to what is inside of a value, or to other schemas of the same one.

Law: as of the other keywords: time in proportion to steps, and no value is quoted. Nothing that a caller sends chooses
a schema which the one at hand does not name.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from keyswap.operations.assertions import Schema, canonical
from keyswap.operations.nodes import Keyword, Node, Wrong
from keyswap.operations.patterns import compiled, found

LONGEST_NAME = 60


def named(key: str) -> str:
    """A member's name, as a message says it."""
    return repr(key if len(key) <= LONGEST_NAME else key[:LONGEST_NAME] + "…")


# ---- Arrays


def items(node: Node, said: Any, instance: Any, schema: Schema) -> Iterable[Wrong] | None:
    """`items`."""
    if not isinstance(instance, list):
        return None
    first = len(schema.get("prefixItems", ()))
    inner = node.inner(said)
    if not inner.steps and said is not False:
        return None  # anything may stand in it
    return _each(inner, enumerate(instance[first:] if first else instance, first))


def _each(inner: Node, members: Iterable[tuple[object, Any]]) -> Iterator[Wrong]:
    for key, value in members:
        for error in inner.errors(value):
            error.path.append(key)
            yield error


def unique(node: Node, said: Any, instance: Any, _: Schema) -> list[Wrong] | None:
    """`uniqueItems`, in linear time."""
    if not said or not isinstance(instance, list):
        return None
    seen = {canonical(one, node.budget) for one in instance}
    return None if len(seen) == len(instance) else [Wrong("an item of it stands there twice")]


def contains(node: Node, said: Any, instance: Any, schema: Schema) -> list[Wrong] | None:
    """`contains`, with its least and most."""
    if not isinstance(instance, list):
        return None
    inner = node.inner(said)
    node.budget.spend(len(instance) >> 2)
    count = sum(1 for one in instance if inner.is_valid(one))
    least, most = schema.get("minContains", 1), schema.get("maxContains", len(instance))
    return None if least <= count <= most else [Wrong(f"{count} of its items are as some are expected to be")]


# ---- Objects


def required(_: Node, names: list[str], instance: Any, _schema: Schema) -> list[Wrong] | None:
    """`required`."""
    if not isinstance(instance, dict):
        return None
    missing = [name for name in names if name not in instance]
    return [Wrong(f"{named(name)} is required") for name in missing]


def required_but(unseen: str) -> Keyword:
    """What is required is not where it must not be sent (OpenAPI 3.0 §4.7.24.2)."""

    def judged(node: Node, names: list[str], instance: Any, schema: Schema) -> list[Wrong] | None:
        if not isinstance(instance, dict) or all(name in instance for name in names):
            return None
        said = schema.get("properties", {})
        asked = [name for name in names if not _says(said.get(name), unseen)]
        return required(node, asked, instance, schema)

    return judged


def _says(schema: Any, word: str) -> bool:
    return isinstance(schema, dict) and schema.get(word) is True


def unseen(_: Node, said: Any, _instance: Any, _schema: Schema) -> list[Wrong] | None:
    """`readOnly` in a request, `writeOnly` in a response."""
    return [Wrong("it is not to be sent in this direction")] if said is True else None


def pattern_properties(node: Node, said: list[tuple[Any, Any]], instance: Any, _: Schema) -> Iterator[Wrong]:
    """`patternProperties`."""
    for pattern, schema in said if isinstance(instance, dict) else ():
        for key, value in instance.items():
            if found(pattern, key, node.budget):
                yield from node.descend(value, schema, path=key)


def additional(node: Node, said: Any, instance: Any, schema: Schema) -> Iterable[Wrong] | None:
    """`additionalProperties`."""
    if not isinstance(instance, dict) or said is True:
        return None
    node.budget.spend(len(instance) >> 1)
    rest = list(extras(node, instance, schema))
    if not rest:
        return None
    if said is False:
        return [Wrong(f"{named(rest[0])} is not expected in it")]
    return _each(node.inner(said), ((key, instance[key]) for key in rest))


def extras(node: Node, instance: Mapping[str, Any], schema: Schema) -> Iterator[str]:
    """The members that neither `properties` nor `patternProperties` speak of."""
    known, patterns = schema.get("properties", ()), [compiled(one) for one in schema.get("patternProperties", ())]
    for key in instance:
        if key not in known and not any(found(pattern, key, node.budget) for pattern in patterns):
            yield key


def dependent(_: Node, said: Mapping[str, list[str]], instance: Any, _schema: Schema) -> Iterator[Wrong]:
    """`dependentRequired`."""
    for name, others in said.items() if isinstance(instance, dict) else ():
        if name in instance:
            yield from (Wrong(f"{named(one)} is required with {named(name)}") for one in others if one not in instance)


# ---- Schemas of the same value


def ref(node: Node, said: str, instance: Any, _: Schema) -> Iterator[Wrong]:
    """`$ref` and `$dynamicRef`."""
    return node.target(said).errors(instance)


def not_(node: Node, schema: Any, instance: Any, _: Schema) -> list[Wrong] | None:
    """`not`."""
    return [Wrong("it is what it must not be")] if node.inner(schema).is_valid(instance) else None


def any_of(node: Node, members: list[Any], instance: Any, schema: Schema) -> Iterable[Wrong] | None:
    """`anyOf`."""
    chosen = _discriminated(members, instance, schema) if "discriminator" in schema else None
    if chosen is not None:
        return node.inner(chosen).errors(instance)
    if any(node.inner(one).is_valid(instance) for one in members):
        return None
    return [Wrong("it is valid as none of the alternatives")]


def one_of(node: Node, members: list[Any], instance: Any, schema: Schema) -> Iterable[Wrong] | None:
    """`oneOf`."""
    chosen = _discriminated(members, instance, schema) if "discriminator" in schema else None
    if chosen is not None:
        return node.inner(chosen).errors(instance)
    count = 0
    for one in members:
        count += node.inner(one).is_valid(instance)
        if count > 1:
            return [Wrong("it is valid as more than one of the alternatives")]
    return None if count else [Wrong("it is valid as none of the alternatives")]


def _discriminated(members: list[Any], instance: Any, schema: Schema) -> Any:
    """The one of the alternatives that the value names; None: all are tried. No other schema can be named."""
    said = schema["discriminator"]
    name = instance.get(said.get("propertyName")) if isinstance(instance, dict) else None
    if not isinstance(name, str):
        return None
    wanted = str(said.get("mapping", {}).get(name, name)).rpartition("/")[2]
    those = [one for one in members if isinstance(one, dict) and str(one.get("$ref")).rpartition("/")[2] == wanted]
    return those[0] if len(those) == 1 else None
