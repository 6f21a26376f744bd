"""JSON that every reader understands alike (RFC 8259 §4, §6).

Law: an object that has a name twice, and a number that is none (NaN, Infinity), are errors. An error's text holds
nothing of what was read.
"""

import json
from collections.abc import Callable
from typing import Any, NoReturn


class AmbiguousJSON(ValueError):
    """JSON that readers may understand in more than one way."""


class DuplicateName(AmbiguousJSON):
    """An object has `name` twice."""

    def __init__(self, name: str) -> None:
        super().__init__("a name is given twice in an object")
        self.name = name


class NotFinite(AmbiguousJSON):
    """`word` stands where a number belongs."""

    def __init__(self, word: str) -> None:
        super().__init__("a number is not finite")
        self.word = word


def distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of its names and values. Raises DuplicateName."""
    made = dict(pairs)
    if len(made) != len(pairs):
        seen: set[str] = set()
        raise DuplicateName(next(name for name, _ in pairs if name in seen or seen.add(name)))  # type: ignore[func-returns-value]
    return made


def loads(
    text: str,
    as_object: Callable[[list[tuple[str, Any]]], Any] = distinct,
    as_float: Callable[[str], Any] | None = None,
) -> Any:
    """The value of a text. Raises AmbiguousJSON, another ValueError, or RecursionError.

    `as_object` makes an object, as `distinct` does; `as_float` reads a number with a fraction or an exponent.
    """
    return json.loads(text, object_pairs_hook=as_object, parse_constant=_not_finite, parse_float=as_float)


def _not_finite(word: str) -> NoReturn:
    raise NotFinite(word)
