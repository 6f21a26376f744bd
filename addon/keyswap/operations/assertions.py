"""The keywords that say something of a value, whatever is inside of it: JSON Schema 2020-12, and OpenAPI 3.0's way.

Law: each takes time in proportion to the steps that it takes from the budget; numbers are compared as the decimals that
they were written as; what is said of a value does not quote it.
"""

from collections.abc import Callable, Mapping
from decimal import Context, Decimal
from json.encoder import encode_basestring
from math import isfinite
from typing import Any

from openapi_schema_validator import OAS30ReadValidator

from keyswap.operations.budget import Budget
from keyswap.operations.nodes import Keyword, Node, Wrong
from keyswap.operations.patterns import found, is_pattern

MAX_FORMATTED = 1000
"""No date, address or name of a format is longer."""
_UNBOUNDED = {"byte", "binary", "password"}
_CHECKERS = OAS30ReadValidator.FORMAT_CHECKER.checkers
_EXACT = Context(prec=12_000, Emax=99_999, Emin=-99_999, traps=[])
"""Enough for an integer of 4300 digits, which is what Python reads, over the smallest double."""

Schema = Mapping[str, Any]


def canonical(value: Any, budget: Budget) -> str:
    """Equal for values that are equal as JSON: 1 and 1.0 are, 1 and true are not.

    A text, because Python hashes texts with a salt: a caller could choose numbers that collide.
    """
    budget.spend(1)
    if isinstance(value, str):
        budget.spend(len(value) >> 6)
        return encode_basestring(value)
    if isinstance(value, list):
        return f"[{','.join([canonical(one, budget) for one in value])}]"
    if isinstance(value, dict):
        members = [f"{encode_basestring(key)}:{canonical(one, budget)}" for key, one in value.items()]
        return f"{{{','.join(sorted(members))}}}"
    return _written(value, budget)


def _written(value: Any, budget: Budget) -> str:
    if value is None or isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
        return repr(value)
    whole = int(value)
    budget.spend(whole.bit_length() >> 6)
    return str(whole)


def values(said: list[Any]) -> frozenset[str]:
    """`enum`, ready."""
    budget = Budget()
    budget.left = 1 << 40  # they are the document's own
    return frozenset(canonical(one, budget) for one in said)


def enum(node: Node, said: frozenset[str], instance: Any, _: Schema) -> list[Wrong] | None:
    """`enum` and `const`."""
    return None if canonical(instance, node.budget) in said else [Wrong("it is none of the values that are listed")]


# ---- Types


def _number(instance: Any) -> bool:
    return isinstance(instance, int | float) and not isinstance(instance, bool)


def _is_number(instance: Any) -> bool:
    """1e400 is none: a double cannot hold it, and two programs would read different numbers (RFC 8259 §6)."""
    return _number(instance) and (isinstance(instance, int) or isfinite(instance))


_TYPES: dict[str, Callable[[Any], bool]] = {
    "string": lambda instance: isinstance(instance, str),
    "integer": lambda instance: isinstance(instance, int) and not isinstance(instance, bool),
    "number": _is_number,
    "boolean": lambda instance: isinstance(instance, bool),
    "object": lambda instance: isinstance(instance, dict),
    "array": lambda instance: isinstance(instance, list),
    "null": lambda instance: instance is None,
}
TYPES = frozenset(_TYPES)
_TYPES_31 = {**_TYPES, "integer": lambda instance: _is_number(instance) and instance == int(instance)}

Kinds = tuple[str, tuple[Callable[[Any], bool], ...]]


def _kinds(said: str | list[str], types: Mapping[str, Callable[[Any], bool]]) -> Kinds:
    listed = [said] if isinstance(said, str) else said
    return " or ".join(listed), tuple(types[kind] for kind in listed)


def kinds_30(said: str | list[str]) -> Kinds:
    """`type`, ready: an integer is written as one."""
    return _kinds(said, _TYPES)


def kinds_31(said: str | list[str]) -> Kinds:
    """`type`, ready: 1.0 is an integer (JSON Schema Core §4.2.3)."""
    return _kinds(said, _TYPES_31)


def kind(_: Node, said: Kinds, instance: Any, _schema: Schema) -> list[Wrong] | None:
    """`type`."""
    for fits in said[1]:
        if fits(instance):
            return None
    return [Wrong(f"it is no {said[0]}")]


def kind_or_null(node: Node, said: Kinds, instance: Any, schema: Schema) -> list[Wrong] | None:
    """`type` of OpenAPI 3.0, to which `nullable` belongs (§4.7.24.2)."""
    return None if instance is None and schema.get("nullable") is True else kind(node, said, instance, schema)


# ---- Numbers


def exact(value: Any) -> Decimal:
    """A number as it is written: of a double, the shortest decimal that reads as it."""
    return Decimal(repr(value))


def multiple_of(node: Node, divisor: tuple[Any, Decimal], instance: Any, _: Schema) -> list[Wrong] | None:
    """`multipleOf`, exactly: 19.99 is a multiple of 0.01, and any integer may be asked of any number."""
    if not _number(instance):
        return None
    step, decimal = divisor
    if isinstance(instance, int) and isinstance(step, int):
        whole = instance % step == 0
    elif isinstance(instance, float) and not isfinite(instance):
        whole = False
    else:
        value = exact(instance)
        node.budget.spend(2 + (len(value.as_tuple().digits) >> 2))
        whole = _EXACT.remainder(value, decimal) == 0
    return None if whole else [Wrong(f"it is not a multiple of {step}")]


def bound(word: str, beyond: Callable[[Any, Any], bool], exclusive: str = "") -> Keyword:
    """A keyword that bounds numbers; in OpenAPI 3.0 another one says that the bound itself is outside."""

    def judged(_: Node, edge: Any, instance: Any, schema: Schema) -> list[Wrong] | None:
        if not _number(instance) or isinstance(edge, bool):
            return None
        outside = beyond(instance, edge) or (instance == edge and schema.get(exclusive) is True)
        return [Wrong(f"it is {word} {edge}")] if outside else None

    return judged


# ---- Lengths


def length(of: type[str] | type[list[Any]] | type[dict[str, Any]], too_long: bool, what: str) -> Keyword:
    """A keyword that bounds the length of texts, arrays or objects."""

    def judged(_: Node, bound: Any, instance: Any, _schema: Schema) -> list[Wrong] | None:
        if not isinstance(instance, of) or (len(instance) <= bound if too_long else len(instance) >= bound):
            return None
        return [Wrong(f"it has {'more' if too_long else 'fewer'} than {bound} {what}")]

    return judged


def pattern(node: Node, said: Any, instance: Any, _: Schema) -> list[Wrong] | None:
    """`pattern`."""
    if not isinstance(instance, str) or found(said, instance, node.budget):
        return None
    return [Wrong("it does not match the pattern")]


def format_of(node: Node, said: tuple[str, Any, Any] | None, instance: Any, _: Schema) -> list[Wrong] | None:
    """`format`, where it is one that can be told."""
    if said is None or not isinstance(instance, str | int | float) or isinstance(instance, bool):
        return None
    name, check, raises = said
    if isinstance(instance, str):
        if len(instance) > MAX_FORMATTED and name not in _UNBOUNDED:
            return [Wrong(f"it is no {name}")]
        node.budget.spend(5 + (len(instance) >> 6 if name in _UNBOUNDED else 4 * len(instance)))
    try:
        fits = check(instance)
    except (ValueError, OverflowError, *raises):  # of a text that the checker cannot read
        fits = False
    return None if fits else [Wrong(f"it is no {name}")]


def checker(name: Any) -> tuple[str, Any, tuple[type[Exception], ...]] | None:
    """`format`, ready: its name, what tells it, and what that raises."""
    if name == "regex":
        return name, lambda text: not isinstance(text, str) or is_pattern(text), ()
    check, raises = _CHECKERS.get(name, (None, ()))
    if check is None:
        return None
    return name, check, raises if isinstance(raises, tuple) else (raises,)
