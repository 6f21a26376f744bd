"""Phrases for people: what a schema's keyword expects of a value.

Law: a phrase names members and bounds, and never quotes a caller's value.
"""

import json
from collections.abc import Iterator
from typing import Any

LONGEST_NAME = 60
"""Characters of a member's name in a message."""
_LISTED = 120
TYPE_PHRASES = {
    "string": "a string",
    "integer": "an integer",
    "number": "a number",
    "boolean": "true or false",
    "object": "an object",
    "array": "an array",
    "null": "null",
}
_UNITS = {"Length": "character", "Items": "item", "Properties": "member"}


def type_of(value: Any) -> str:
    """The type of a value, as schemas name it."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else "boolean"
    kinds = ((str, "string"), (int, "integer"), (float, "number"), (dict, "object"), (list, "array"))
    return next((name for kind, name in kinds if isinstance(value, kind)), "")


def quoted(key: str) -> str:
    """A member's name, as a message says it."""
    return repr(key if len(key) <= LONGEST_NAME else key[:LONGEST_NAME] + "…")


def phrases(word: str, schema: Any, value: Any) -> Iterator[str]:
    """The phrases for a value that is not as a keyword has it."""
    expected = schema[word]
    if word == "type":
        kinds = [expected] if isinstance(expected, str) else expected
        yield f"must be {either([TYPE_PHRASES[kind] for kind in kinds])}"
    elif word == "enum":
        yield f"must be one of {listing([_written(choice) for choice in expected])}"
    elif word == "const":
        yield f"must be {_written(expected)[:_LISTED]}"
    elif word in _BOUNDS:
        phrase = _BOUNDS[f"exclusiveM{word[1:]}" if schema.get(f"exclusiveM{word[1:]}") is True else word]
        yield f"must be {phrase} {_written(expected)[:_LISTED]}"
    elif word == "keyswap:multiple":
        yield f"must be a multiple of {_written(expected)[:_LISTED]}"
    elif word == "required":
        yield from (f"{quoted(name)} is required" for name in expected if name not in value)
    elif word == "dependentRequired":
        for name in expected.keys() & value.keys():
            missing = [needed for needed in expected[name] if needed not in value]
            yield from (f"{quoted(needed)} is required with {quoted(name)}" for needed in missing)
    elif word == "keyswap:unique":
        yield "must not have an item twice"
    else:
        yield f"must have at {'most' if word.startswith('max') else 'least'} {counted(expected, _UNITS[word[3:]])}"


_BOUNDS = {
    "maximum": "at most",
    "minimum": "at least",
    "exclusiveMaximum": "less than",
    "exclusiveMinimum": "greater than",
}


def counted(count: Any, unit: str) -> str:
    """`1 item`, `2 items`."""
    return f"{count} {unit}{'' if count == 1 else 's'}"


def either(phrases: list[str]) -> str:
    """`a, b or c`."""
    return " or ".join(phrases) if len(phrases) < 3 else f"{', '.join(phrases[:-1])} or {phrases[-1]}"


def listing(texts: list[str]) -> str:
    """The first texts, as many as are short together."""
    kept: list[str] = []
    size = 0
    for text in texts:
        size += len(text) + 2
        if kept and size > _LISTED:
            return f"{', '.join(kept)}, …"
        kept.append(text)
    return ", ".join(kept)


def _written(value: Any) -> str:
    return repr(value) if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
