"""Whether the parts of a document that validation stands on are as OpenAPI has them: judged at load, not by a request.

Law: every schema that may be asked of a request or response has been looked at here, once, with all that it refers to;
what could only be stumbled over later is a finding with file, pointer and remedy.
"""

from collections.abc import Callable, Iterator
from typing import Any

from keyswap.operations.findings import DocumentError, Finding, pointer
from keyswap.operations.openapi.references import DocumentNode, Library
from keyswap.operations.validate.patterns import compiled, engine_schema, name_pattern

Check = Callable[[Any], bool]
TYPES = frozenset({"string", "integer", "number", "boolean", "object", "array", "null"})


def _is_schema(value: Any) -> bool:
    return isinstance(value, dict | bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return _is_number(value) and value >= 0 and value == int(value)


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _is_object_of(fits: Check) -> Check:
    return lambda value: isinstance(value, dict) and all(map(fits, value.values()))


def _is_type(value: Any) -> bool:
    return isinstance(value, str) and value in TYPES


def _is_pattern(value: Any) -> bool:
    return isinstance(value, str) and _is_good(engine_schema, value) and _is_good(compiled, value)


def _is_name_pattern(value: str) -> bool:
    return _is_good(name_pattern, value) and _is_good(compiled, value)


def _is_good(made: Callable[[str], Any], pattern: str) -> bool:
    try:
        made(pattern)
    except ValueError:
        return False
    return True


def _is_discriminator(value: Any) -> bool:
    names = _is_object_of(lambda target: isinstance(target, str))
    return isinstance(value, dict) and isinstance(value.get("propertyName"), str) and names(value.get("mapping", {}))


_SCHEMA = (_is_schema, "a schema: an object, true or false")
_SCHEMAS = (lambda value: isinstance(value, list) and value and all(map(_is_schema, value)), "a list of schemas")
_NAMED = (_is_object_of(_is_schema), "an object of schemas")
_COUNT = (_is_count, "a number from 0")
_TRUTH = (lambda value: isinstance(value, bool), "true or false")
_TEXT = (lambda value: isinstance(value, str), "a text")
_BOUND = (lambda value: _is_number(value) or isinstance(value, bool), "a number")
_NUMBER = (_is_number, "a number")

_ONE = ("items", "additionalProperties", "not", "if", "then", "else", "contains", "propertyNames")
_ONE_MORE = ("unevaluatedItems", "unevaluatedProperties")
IN_PLACE = ("allOf", "anyOf", "oneOf")
"""The keywords whose schemas speak of the same value."""
_SEVERAL = (*IN_PLACE, "prefixItems")
_BY_NAME = ("properties", "patternProperties", "dependentSchemas")
_COUNTS = ("maxLength", "minLength", "maxItems", "minItems", "maxProperties", "minProperties")

_EXPECTED: dict[str, tuple[Any, str]] = {
    "$ref": _TEXT,
    "$dynamicRef": _TEXT,
    "type": (
        lambda declared: _is_type(declared) or (isinstance(declared, list) and all(map(_is_type, declared))),
        "a type's name",
    ),
    "enum": (lambda value: isinstance(value, list), "a list of values"),
    "multipleOf": (lambda value: _is_number(value) and value > 0, "a number more than 0"),
    "pattern": (_is_pattern, "a regular expression (ECMA-262)"),
    "required": (_are_texts, "a list of names"),
    "dependentRequired": (_is_object_of(_are_texts), "an object of lists of names"),
    "discriminator": (_is_discriminator, "an object with `propertyName`, and names in `mapping`"),
    **dict.fromkeys(("maximum", "minimum"), _NUMBER),
    **dict.fromkeys(("exclusiveMaximum", "exclusiveMinimum"), _BOUND),
    **dict.fromkeys((*_COUNTS, "minContains", "maxContains"), _COUNT),
    **dict.fromkeys(("uniqueItems", "nullable", "readOnly", "writeOnly"), _TRUTH),
    **dict.fromkeys(("format", "$id"), _TEXT),
    **dict.fromkeys((*_ONE, *_ONE_MORE), _SCHEMA),
    **dict.fromkeys(_SEVERAL, _SCHEMAS),
    **dict.fromkeys(_BY_NAME, _NAMED),
}


def is_sound(word: str, value: Any) -> bool:
    """Whether a keyword's value is one that a value can be judged by."""
    fits, _ = _EXPECTED.get(word, (None, ""))
    named = word != "patternProperties" or not isinstance(value, dict) or all(map(_is_name_pattern, value))
    return named and (fits is None or bool(fits(value)))


class Soundness:
    """The check of a document's parts, and its findings."""

    def __init__(self, library: Library, old: bool) -> None:
        self._library, self._old = library, old
        self.findings: list[Finding] = []
        self.warnings: list[Finding] = []
        self._seen: set[tuple[str, str]] = set()

    def wrong(self, node: DocumentNode, code: str, message: str, remedy: str) -> None:
        """Keep a finding."""
        name = self._library.names.get(node.uri, node.uri)
        self.findings.append(Finding(code, message, name, node.pointer, None, remedy))

    def member(self, node: DocumentNode, name: str, kind: type = dict) -> DocumentNode | None:
        """A member of an object; None when it is not there, or is something else, which is a finding."""
        if node.value.get(name) is None:
            return None
        member = DocumentNode(node.value[name], node.uri, node.pointer + pointer(name))
        if isinstance(member.value, kind):
            return member
        word = {dict: "an object", list: "a list", bool: "true or false"}.get(kind, "a text")
        self.wrong(member, "bad-member", f"`{name}` is not {word}", f"write {word}")
        return None

    def members(self, node: DocumentNode, name: str) -> Iterator[tuple[str, DocumentNode]]:
        """The members of a member, all of which are objects, or references to such."""
        member = self.member(node, name)
        for key, entry in self._library.items(member) if member is not None else ():
            target = self.object(entry) if not key.startswith("x-") else None
            if target is not None:
                yield key, target

    def object(self, node: DocumentNode) -> DocumentNode | None:
        """The object that stands at a place, or is referred to there."""
        try:
            target = self._library.follow(node)
        except DocumentError as error:
            self.findings.append(error.finding)
            return None
        if isinstance(target.value, dict):
            return target
        if target is node:
            self.wrong(node, "bad-member", "this is no object", "write one")
        else:
            self.wrong(node, "broken-ref", "this $ref leads to no object", "mend its path, or add what it names")
        return None

    # ---- Schemas

    def schema(self, node: DocumentNode) -> None:
        """Look at a schema and all that it leads to."""
        waiting = [node]
        while waiting:
            current = waiting.pop()
            if (current.uri, current.pointer) in self._seen:
                continue
            self._seen.add((current.uri, current.pointer))
            if self._old and isinstance(current.value, dict) and isinstance(current.value.get("$ref"), str):
                waiting += self._referred_to(current)  # what stands beside it is ignored
            elif isinstance(current.value, dict):
                self._keywords(current)
                waiting += self._led_to(current)
            elif not isinstance(current.value, bool):
                self.wrong(current, "bad-schema", "this is no schema", "write an object, true or false")

    def _nullable(self, node: DocumentNode) -> None:
        """Warn of a `nullable` that OpenAPI 3.0 gives no effect, though it is written all the time: null is refused."""
        schema = node.value
        if schema.get("nullable") is not True:
            return
        if "type" not in schema and not schema.keys().isdisjoint(IN_PLACE):
            message = "`nullable` has no effect without `type` (OpenAPI 3.0.3 §4.7.24.2): null is refused"
        elif isinstance(schema.get("enum"), list) and None not in schema["enum"]:
            message = "`nullable` has no effect beside an `enum` without null: null is refused"
        else:
            return
        remedy = (
            "add null to the `enum`" if "enum" in schema else "add `type`, or an alternative that is `enum: [null]`"
        )
        name = self._library.names.get(node.uri, node.uri)
        self.warnings.append(Finding("null-refused", message, name, node.pointer, None, remedy))

    def _keywords(self, node: DocumentNode) -> None:
        if self._old:
            self._nullable(node)
        for word, value in node.value.items():
            fits, expected = _EXPECTED.get(word, (None, ""))
            if fits is not None and not fits(value):
                where = node._replace(pointer=node.pointer + pointer(word))
                code = "bad-pattern" if word == "pattern" else "bad-schema"
                self.wrong(where, code, f"`{word}` is not {expected}", f"write {expected}")
        patterns = node.value.get("patternProperties")
        for pattern in patterns if isinstance(patterns, dict) else ():
            if not _is_name_pattern(pattern):
                where = node._replace(pointer=node.pointer + pointer("patternProperties", pattern))
                message = "this is no regular expression, or one that looks around or back"
                self.wrong(
                    where, "bad-pattern", message, "write one of ECMA-262 that can be searched for in linear time"
                )

    def _led_to(self, node: DocumentNode) -> Iterator[DocumentNode]:
        """The schemas inside of one, and the one that it refers to."""
        for word in (*_ONE, *_ONE_MORE):
            if _is_schema(node.value.get(word)):
                yield DocumentNode(node.value[word], node.uri, node.pointer + pointer(word))
        for word, kind in (*((word, list) for word in _SEVERAL), *((word, dict) for word in _BY_NAME)):
            if isinstance(node.value.get(word), kind):
                inner = DocumentNode(node.value[word], node.uri, node.pointer + pointer(word))
                yield from (schema for _, schema in self._library.items(inner) if _is_schema(schema.value))
        if isinstance(node.value.get("$ref"), str):
            yield from self._referred_to(node)

    def _referred_to(self, node: DocumentNode) -> Iterator[DocumentNode]:
        try:
            target = self._library.follow(DocumentNode({"$ref": node.value["$ref"]}, node.uri, node.pointer))
        except DocumentError as error:
            self.findings.append(error.finding)
            return
        if _is_schema(target.value):
            yield target
        elif isinstance(target.value, str | int | float | list | None):
            # Where there is nothing, references have been checked, but for those that only an `$id` explains.
            self.wrong(node, "broken-ref", "this $ref leads to no schema", "mend its path, or add what it names")
