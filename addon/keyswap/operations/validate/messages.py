"""Errors of a value by its schema, in words that its sender can act upon.

Law: whether a value is good is the engine's to say (`engine`); here it is asked of the parts of one that is not, from
the outside in, where the fault is. What is said names the place and what is expected there, and never quotes a value.
Faults are few. The search for them has a time limit, and always gives at least one.
"""

import time
from collections.abc import Iterator
from itertools import islice
from typing import Any

from keyswap.operations.validate.engine import Engine
from keyswap.operations.validate.keyword_writers import NEVER, name_of
from keyswap.operations.validate.phrases import TYPE_PHRASES, counted, either, listing, phrases, quoted, type_of
from keyswap.operations.validate.schema_rewriting import Rewriting

SEARCH_S = 0.01
"""For so long of the processor more faults are looked for."""
MAX_FAULTS = 20
_ALONE = frozenset(
    {
        *("type", "enum", "const", "maximum", "minimum", "exclusiveMaximum", "exclusiveMinimum", "keyswap:multiple"),
        *("maxLength", "minLength", "maxItems", "minItems", "maxProperties", "minProperties"),
        *("required", "dependentRequired", "keyswap:unique"),
    }
)
"""The keywords that ask nothing of what is inside."""


_UNEVALUATED = {
    "unevaluatedItems": "has an item that is not expected",
    "unevaluatedProperties": "has a member that is not expected",
}


class SchemaError(Exception):
    """An error of a value by its schema, with the path to it from the outermost value. It is not raised."""

    def __init__(self, message: str, path: tuple[object, ...] = ()) -> None:
        self.message, self.path = message, path


class _Late(Exception):
    """The time is up."""


class Explainer:
    """Finds what is wrong with the values of one document."""

    def __init__(self, engine: Engine, rewriting: Rewriting) -> None:
        self._engine, self._messages, self._labels = engine, rewriting.messages, rewriting.labels
        self._alone: dict[tuple[str, str], Any] = {}
        self._until = 0.0
        self._deepest: tuple[object, ...] = ()

    def errors(self, name: str, value: Any) -> list[SchemaError]:
        """The errors of a value that is not as a definition says: at least one. Raises Unjudged."""
        self._until, self._deepest = time.thread_time() + SEARCH_S, ()
        errors: list[SchemaError] = []
        try:
            for error in islice(self._in(name, value, (), frozenset()), MAX_FAULTS):
                if all((error.message, error.path) != (known.message, known.path) for known in errors):
                    errors.append(error)
        except _Late:
            pass
        return errors or [SchemaError("must be as documented", self._deepest)]

    def _fits(self, name: str, value: Any) -> bool:
        if time.thread_time() > self._until:
            raise _Late
        return self._engine.is_valid(name, value)

    # ---- One definition

    def _in(self, name: str, value: Any, path: tuple[object, ...], within: frozenset[str]) -> Iterator[SchemaError]:
        """Errors by a definition. `within`: the definitions that are being asked of the same value."""
        if len(path) > len(self._deepest):
            self._deepest = path
        if name in self._messages:
            yield SchemaError(self._messages[name], path)
            return
        schema = self._engine.definitions[name]
        if schema == NEVER:
            yield SchemaError("is not expected here", path)
            return
        is_explained = False
        for error in self._each(name, schema, value, path, within | {name}):
            is_explained = True
            yield error
        if not is_explained and not schema.keys().isdisjoint(_UNEVALUATED):
            word = next(word for word in _UNEVALUATED if word in schema)
            yield SchemaError(_UNEVALUATED[word], path)

    def _each(
        self, name: str, schema: Any, value: Any, path: tuple[object, ...], within: frozenset[str]
    ) -> Iterator[SchemaError]:
        yield from self._by_itself(name, schema, value, path)
        yield from self._inside(name, schema, value, path)
        for inner_schema in schema.get("allOf", ()):
            yield from self._in_place(inner_schema, value, path, within)
        for word in ("anyOf", "oneOf"):
            if word in schema:
                yield from self._alternatives(schema[word], word, value, path, within)
        if "not" in schema and self._fits(name_of(schema["not"]), value):
            yield SchemaError("must not be what the document excludes", path)
        if "if" in schema:
            word = "then" if self._fits(name_of(schema["if"]), value) else "else"
            if word in schema:
                yield from self._in_place(schema[word], value, path, within)
        for member, inner_schema in schema.get("dependentSchemas", {}).items():
            if isinstance(value, dict) and member in value:
                yield from self._in_place(inner_schema, value, path, within)

    def _in_place(
        self, schema: Any, value: Any, path: tuple[object, ...], within: frozenset[str]
    ) -> Iterator[SchemaError]:
        """By a schema of the same value: a definition, or what stands for a discriminator."""
        if "$ref" in schema:
            name = name_of(schema)
            if name not in within and not self._fits(name, value):
                yield from self._in(name, value, path, within)
        elif "anyOf" in schema and "not" in schema["anyOf"][0]:
            condition, rest = schema["anyOf"]
            if not self._is_named(condition, value):
                return
            if "$ref" in rest:
                yield from self._in_place(rest, value, path, within)
            else:
                ((word, members),) = rest.items()
                yield from self._alternatives(members, word, value, path, within)
        elif schema == NEVER:
            yield SchemaError("is not expected here", path)
        else:
            ((word, members),) = schema.items()
            yield from self._alternatives(members, word, value, path, within)

    @staticmethod
    def _is_named(condition: Any, value: Any) -> bool:
        """Whether a condition of a discriminator does not hold, so that what follows it must."""
        negative = "not" not in condition["not"]
        naming = condition["not"] if negative else condition["not"]["not"]
        ((member, schema),) = naming["properties"].items()
        chosen = isinstance(value, dict) and any(value.get(member) == name for name in schema["enum"])
        return chosen is negative

    # ---- What a definition says of the value itself

    def _by_itself(self, name: str, schema: Any, value: Any, path: tuple[object, ...]) -> Iterator[SchemaError]:
        for word in schema:
            if word in _ALONE and schema[word] is not True and not self._holds(name, word, schema, value):
                for message in phrases(word, schema, value):
                    yield SchemaError(message, path)
        if schema.get("additionalProperties") is False and isinstance(value, dict):
            index = self._first_wrong(name, value)
            key = list(value)[index] if index is not None else None
            if key is not None and key not in schema.get("properties", {}):
                yield SchemaError(f"{quoted(key)} is not expected", path)

    def _holds(self, name: str, word: str, schema: Any, value: Any) -> bool:
        validator = self._alone.get((name, word))
        if validator is None:
            keywords = {word: schema[word]}
            exclusive = f"exclusiveM{word[1:]}"
            if schema.get(exclusive) is True:  # which OpenAPI 3.0 says of the bound
                keywords[exclusive] = True
            validator = self._alone[name, word] = self._engine.validator(keywords)
        return bool(validator.is_valid(value))

    # ---- What it says of what is inside

    def _inside(self, name: str, schema: Any, value: Any, path: tuple[object, ...]) -> Iterator[SchemaError]:
        if isinstance(value, dict):
            for key, inner in schema.get("properties", {}).items():
                if key in value:
                    yield from self._member(inner, value[key], (*path, key))
            yield from self._members(name, schema, value, path)
            if "propertyNames" in schema:
                yield from self._names(name_of(schema["propertyNames"]), value, path)
        elif isinstance(value, list):
            for number, inner in enumerate(schema.get("prefixItems", ())[: len(value)]):
                yield from self._member(inner, value[number], (*path, number))
            if isinstance(schema.get("items"), dict):
                yield from self._items(name, schema, value, path)
            if "contains" in schema:
                yield from self._contains(schema, value, path)

    def _member(self, schema: Any, value: Any, path: tuple[object, ...]) -> Iterator[SchemaError]:
        name = name_of(schema)
        if not self._fits(name, value):
            yield from self._in(name, value, path, frozenset())

    def _members(
        self, name: str, schema: Any, value: dict[str, Any], path: tuple[object, ...]
    ) -> Iterator[SchemaError]:
        """By schemas of members that `properties` does not name."""
        patterns = schema.get("patternProperties", {})
        listed = [
            *patterns.values(),
            *([schema["additionalProperties"]] if isinstance(schema.get("additionalProperties"), dict) else []),
        ]
        keys = list(value)
        index = self._first_wrong(name, value) if listed else None
        while index is not None:
            key = keys[index]
            inner_schema = next((inner for inner in listed if not self._fits(name_of(inner), value[key])), None)
            if inner_schema is not None:
                yield from self._in(name_of(inner_schema), value[key], (*path, key), frozenset())
            index = self._first_wrong(name, value, index + 1)

    def _items(self, name: str, schema: Any, value: list[Any], path: tuple[object, ...]) -> Iterator[SchemaError]:
        index = self._first_wrong(name, value)
        while index is not None:
            yield from self._in(name_of(schema["items"]), value[index], (*path, index), frozenset())
            index = self._first_wrong(name, value, index + 1)

    def _first_wrong(self, name: str, value: Any, begin: int = 0) -> int | None:
        if time.thread_time() > self._until:
            raise _Late
        return self._engine.first_wrong(name, value, begin)

    def _names(self, name: str, value: dict[str, Any], path: tuple[object, ...]) -> Iterator[SchemaError]:
        for key in value:
            if not self._fits(name, key):
                yield SchemaError(f"{quoted(key)} is no name that is expected", path)

    def _contains(self, schema: Any, value: list[Any], path: tuple[object, ...]) -> Iterator[SchemaError]:
        count = sum(1 for item in value if self._fits(name_of(schema["contains"]), item))
        least, most = schema.get("minContains", 1), schema.get("maxContains", len(value))
        if count < least:
            yield SchemaError(f"must contain at least {counted(least, 'item')} of the documented kind", path)
        elif count > most:
            yield SchemaError(f"must contain at most {counted(most, 'item')} of the documented kind", path)

    # ---- Alternatives

    def _alternatives(
        self, members: list[Any], word: str, value: Any, path: tuple[object, ...], within: frozenset[str]
    ) -> Iterator[SchemaError]:
        names = [name_of(reference) for reference in members]
        good = [name for name in names if self._fits(name, value)]
        if len(good) == 1 or (good and word == "anyOf"):
            return
        if good:
            yield SchemaError("must match exactly one of the alternatives, and matches several", path)
            return
        meant = [name for name in names if self._is_of_its_type(name, value)]
        if len(meant) == 1 and meant[0] not in within:
            yield from self._in(meant[0], value, path, within)
        else:
            yield SchemaError(self._one_of(meant or names), path)

    def _is_of_its_type(self, name: str, value: Any) -> bool:
        """Whether an alternative may have been meant: it is of this type, as far as it says."""
        for _ in range(8):
            schema = self._engine.definitions[name]
            if "type" in schema or not (isinstance(schema.get("allOf"), list) and len(schema["allOf"]) == 1):
                break
            if "$ref" not in schema["allOf"][0] or name in self._messages:
                break
            name = name_of(schema["allOf"][0])
        kinds = schema.get("type")
        listed = [kinds] if isinstance(kinds, str) else kinds or []
        return not listed or type_of(value) in listed or (type_of(value) == "integer" and "number" in listed)

    def _one_of(self, names: list[str]) -> str:
        kinds = [self._engine.definitions[name].get("type") for name in names]
        if all(isinstance(kind, str) for kind in kinds) and len(set(kinds)) == len(kinds):
            return f"must be {either([TYPE_PHRASES[kind] for kind in kinds])}"
        labels = [self._labels.get(name, "") for name in names]
        if all(labels):
            return f"must match one of {listing(labels)}"
        return f"must match one of {len(names)} alternatives"
