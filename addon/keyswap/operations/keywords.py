"""The keywords that are judged: OpenAPI 3.1's, which are JSON Schema 2020-12's, and OpenAPI 3.0's in both directions.

Law: a keyword that is not in these tables says nothing. Those that only lead on to other schemas are jsonschema's own;
of its others some take quadratic time, some compare doubles, and most quote whole values in their messages.
"""

from typing import Any

from jsonschema.validators import Draft202012Validator

from keyswap.operations import applicators, assertions
from keyswap.operations.nodes import Dialect, Keyword
from keyswap.operations.patterns import compiled
from keyswap.operations.unevaluated import unevaluated_items, unevaluated_properties

_JSONSCHEMA = ("allOf", "properties", "propertyNames", "prefixItems", "if", "dependentSchemas")

_COMMON: dict[str, Keyword] = {
    "$ref": applicators.ref,
    "type": assertions.kind,
    "enum": assertions.enum,
    "multipleOf": assertions.multiple_of,
    "maximum": assertions.bound("more than", lambda value, most: value > most, "exclusiveMaximum"),
    "minimum": assertions.bound("less than", lambda value, least: value < least, "exclusiveMinimum"),
    "maxLength": assertions.length(str, True, "characters"),
    "minLength": assertions.length(str, False, "characters"),
    "maxItems": assertions.length(list, True, "items"),
    "minItems": assertions.length(list, False, "items"),
    "maxProperties": assertions.length(dict, True, "members"),
    "minProperties": assertions.length(dict, False, "members"),
    "pattern": assertions.pattern,
    "format": assertions.format_of,
    "items": applicators.items,
    "uniqueItems": applicators.unique,
    "properties": Draft202012Validator.VALIDATORS["properties"],
    "additionalProperties": applicators.additional,
    "allOf": Draft202012Validator.VALIDATORS["allOf"],
    "anyOf": applicators.any_of,
    "oneOf": applicators.one_of,
    "not": applicators.not_,
}
_KEYWORDS_31: dict[str, Keyword] = {
    **_COMMON,
    **{word: Draft202012Validator.VALIDATORS[word] for word in _JSONSCHEMA},
    "$dynamicRef": applicators.ref,
    "const": assertions.enum,
    "exclusiveMaximum": assertions.bound("not less than", lambda value, most: value >= most),
    "exclusiveMinimum": assertions.bound("not more than", lambda value, least: value <= least),
    "required": applicators.required,
    "contains": applicators.contains,
    "patternProperties": applicators.pattern_properties,
    "dependentRequired": applicators.dependent,
    "unevaluatedProperties": unevaluated_properties,
    "unevaluatedItems": unevaluated_items,
}
_PREPARE: dict[str, Any] = {
    "type": assertions.kinds_31,
    "enum": assertions.values,
    "const": lambda value: assertions.values([value]),
    "multipleOf": lambda divisor: (divisor, assertions.exact(divisor)),
    "pattern": compiled,
    "format": assertions.checker,
    "patternProperties": lambda said: [(compiled(pattern), schema) for pattern, schema in said.items()],
}


def _openapi_30(unseen: str) -> Dialect:
    """OpenAPI 3.0, in which some members are never sent in one direction."""
    more: dict[str, Keyword] = {"type": assertions.kind_or_null, "required": applicators.required_but(unseen)}
    more[unseen] = applicators.unseen
    return Dialect({**_COMMON, **more}, {**_PREPARE, "type": assertions.kinds_30})


REQUESTS_30, RESPONSES_30 = _openapi_30("readOnly"), _openapi_30("writeOnly")
OPENAPI_31 = Dialect(_KEYWORDS_31, _PREPARE)
