"""Our schemas beside jsonschema's: over generated schemas and values both say the same, and we say what is wrong."""

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema.validators import Draft202012Validator
from jsonschema_path import SchemaPath
from openapi_schema_validator import OAS30WriteValidator

from keyswap.operations.validate.budget import StepBudget
from keyswap.operations.validate.engine import Engine
from keyswap.operations.validate.messages import Explainer
from keyswap.operations.validate.schema import Ground
from keyswap.operations.validate.schema_rewriting import Rewriting

NAMES = ["a", "b", "ab"]
values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 9) | st.sampled_from([0.5, 1.0, 2.5, "", "a", "ab", "ba1", "x" * 9]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=3),
    max_leaves=8,
)
small = st.integers(0, 3)
types = st.sampled_from(["object", "array", "string", "integer", "number", "boolean"])
patterns = st.sampled_from(["^a", "b", "[0-9]", "a.?b"])


def schemas(old: bool) -> st.SearchStrategy[Any]:
    """Schemas of the keywords that OpenAPI 3.0 has, or of all."""

    def more(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        several = st.lists(inner, min_size=1, max_size=3)
        by_name = st.dictionaries(st.sampled_from(NAMES), inner, max_size=2)
        names = st.lists(st.sampled_from(NAMES), max_size=2, unique=True)
        common: dict[str, Any] = {
            "type": types, "enum": st.lists(values, min_size=1, max_size=3), "multipleOf": st.sampled_from([1, 2, 0.5]),
            "maximum": small, "minimum": small, "maxLength": small, "minLength": small, "pattern": patterns,
            "maxItems": small, "minItems": small, "uniqueItems": st.booleans(), "maxProperties": small, "minProperties": small,
            "required": names, "items": inner, "properties": by_name, "allOf": several, "anyOf": several, "oneOf": several,
            "not": inner,
        }  # fmt: skip
        if old:
            common |= {"nullable": st.booleans(), "exclusiveMaximum": st.booleans()}
            common |= {"additionalProperties": inner | st.booleans()}
            member = st.tuples(inner, st.booleans()).map(lambda made: {**made[0], "readOnly": made[1]})
            common |= {"properties": st.dictionaries(st.sampled_from(NAMES), inner | member, max_size=2)}
        else:
            schema = inner | st.booleans()
            common |= {
                "const": values, "exclusiveMaximum": small, "exclusiveMinimum": small, "contains": inner, "minContains": small,
                "maxContains": small, "prefixItems": several, "patternProperties": st.dictionaries(patterns, inner, max_size=2),
                "propertyNames": inner, "dependentRequired": st.dictionaries(st.sampled_from(NAMES), names, max_size=1),
                "dependentSchemas": by_name, "if": inner, "then": inner, "else": inner, "additionalProperties": schema,
                "unevaluatedProperties": schema, "unevaluatedItems": schema, "$ref": st.just("#/$defs/one"),
            }  # fmt: skip
        return st.lists(st.sampled_from(sorted(common)), max_size=4, unique=True).flatmap(
            lambda words: st.fixed_dictionaries({word: common[word] for word in words})
        )

    return st.recursive(st.just({}), more, max_leaves=6)


def judged(schema: Any, old: bool, value: Any) -> bool:
    budget = StepBudget()
    with SchemaPath.from_dict(schema, base_uri="").resolve() as resolved:
        ground = Ground(old, budget)
        node = ground.node(schema, resolved.resolver)
        rewriting = Rewriting(old, "readOnly" if old else None)
        engine = Engine(rewriting, [node], budget)
        ground.fits = engine.fits
        good = node.is_valid(value)
        if not good:
            wrongs = Explainer(engine, rewriting).errors(engine.name(node), value)
            assert wrongs and all(wrong.message for wrong in wrongs)
        return good


@given(schema=schemas(old=False), one=schemas(old=False), value=values)
@settings(deadline=None, max_examples=400)
def test_as_json_schema_has_it(schema: Any, one: Any, value: Any) -> None:
    """JSON Schema 2020-12, as OpenAPI 3.1 has it."""
    whole = {**schema, "$defs": {"one": {key: part for key, part in one.items() if "$ref" not in str(part)}}}
    whole["$defs"]["one"].pop("$ref", None)
    assert judged(whole, False, value) == Draft202012Validator(whole).is_valid(value)


def unsent(schema: Any) -> set[str]:
    return {name for name, one in schema.get("properties", {}).items() if one.get("readOnly")}


def of_the_same(schema: Any) -> Iterator[Any]:
    yield schema
    for word in ("allOf", "anyOf", "oneOf"):
        for one in schema.get(word, ()):
            yield from of_the_same(one)


def is_alike(schema: Any, negated: bool = False) -> bool:
    """Whether no schema requires what only another one of the same object says is not sent, nor one in a `not` what it
    says itself: there we differ."""
    same = list(of_the_same(schema))
    never = set().union(*map(unsent, same))
    for one in same:
        asked = never & set(one.get("required", ()))
        if asked and (negated or not asked <= unsent(one)):
            return False
        inner = [*one.get("properties", {}).values(), one.get("items"), one.get("additionalProperties")]
        if not all(is_alike(each) for each in inner if isinstance(each, dict)):
            return False
        if "not" in one and not is_alike(one["not"], True):
            return False
    return True


@given(schema=schemas(old=True).filter(is_alike), value=values)
@settings(deadline=None, max_examples=400)
def test_requests_are_judged_as_openapi_30_has_them(schema: Any, value: Any) -> None:
    """OpenAPI 3.0, of requests."""
    assert judged(schema, True, value) == OAS30WriteValidator(schema).is_valid(value)


UNSENT = {"properties": {"a": {"readOnly": True}}}
ALONE = "`readOnly` is relevant of members alone (OpenAPI 3.0.4 §4.7.24.2), so it says nothing elsewhere"
EVERYWHERE = "what is not sent is required by no schema of the object, whichever says that it is not sent"
DIFFERENT_30 = [
    ({"readOnly": True}, 1, True, ALONE),
    ({"items": {"readOnly": True}}, [1], True, ALONE),
    ({"additionalProperties": {"readOnly": True}}, {"a": 1}, True, ALONE),
    ({"allOf": [{"readOnly": True}]}, 1, True, ALONE),
    ({"allOf": [{"required": ["a"]}, UNSENT]}, {}, True, EVERYWHERE),
    ({"required": ["a"], "allOf": [UNSENT]}, {}, True, EVERYWHERE),
    ({"oneOf": [{"required": ["a"]}, {**UNSENT, "required": ["b"]}]}, {}, True, EVERYWHERE),
    ({"required": ["a"], "properties": {"a": {"allOf": [{"readOnly": True}]}}}, {}, True, EVERYWHERE),
    ({"not": {"required": ["a"], **UNSENT}}, {}, True, "`not` is as it is written, or it would refuse what it allows"),
]


@pytest.mark.parametrize(("schema", "value", "ours", "why"), DIFFERENT_30)
def test_where_openapi_30_is_read_otherwise(schema: Any, value: Any, ours: bool, why: str) -> None:
    """The referee of OpenAPI 3.0 is not followed in a few rows, each for its reason; it still differs in each of them."""
    assert judged(schema, True, value) is ours and OAS30WriteValidator(schema).is_valid(value) is not ours, why


@given(name=st.sampled_from(NAMES), value=st.dictionaries(st.sampled_from(NAMES), st.integers(), max_size=3))
def test_what_is_not_sent_is_not_required_and_refused(name: str, value: Any) -> None:
    """Of a member that is `readOnly` both say the same in a request: it may be absent, and may not be there."""
    schema = {"required": NAMES, "properties": {name: {"readOnly": True}}}
    expected = name not in value and {*NAMES} - {name} <= set(value)
    assert judged(schema, True, value) is OAS30WriteValidator(schema).is_valid(value) is expected


@pytest.mark.parametrize(
    ("schema", "value", "expected"),
    [
        ({"multipleOf": 0.01}, 19.99, True),  # differently: exactly, as it is written
        ({"multipleOf": 0.1}, 0.3, True),
        ({"multipleOf": 0.1}, 0.35, False),
        ({"multipleOf": 0.01}, 10**400, True),
        ({"multipleOf": 3}, 10**400, False),
        ({"multipleOf": 7}, 1e300, False),
        ({"multipleOf": 0.01}, float("inf"), False),
        ({"type": "number"}, float("-inf"), False),  # differently: no double holds it
        ({"pattern": "^a$"}, "a\n", False),  # differently: as ECMA-262 has it
        ({"pattern": r"^\d+$"}, "٣", False),
        ({"pattern": r"^\w$"}, "é", False),
        ({"pattern": r"^[\W]$"}, "é", True),
        ({"pattern": r"^[^\D5]$"}, "4", True),
        ({"pattern": r"^\p{L}+[\p{N}-]$"}, "éa5", True),
        ({"pattern": r"^[^]$"}, "\n", True),
        ({"pattern": "^.$"}, "\u2028", False),
        ({"pattern": r"^\/\{id\}\u{1F600}[[a]\u0041$"}, "/{id}😀[A", True),
        ({"pattern": r"^\/{id}[[a]\u0041$"}, "/{id}[A", True),
        ({"pattern": r"^\/{id}\u{1F600}[[a]\u0041$"}, "/{id}😀[A", False),  # `{id}` is none with `u`, `\u{}` none without
        ({"pattern": r"^\/{id}\u{1F600}[[a]\u0041$"}, "/{id}u{1F600}[A", True),
        ({"uniqueItems": True}, [1, 1.0], False),
        ({"uniqueItems": True}, [1, True, "1", None, "null", [1], {"a": 1}, "[1]", 0, False], True),
        ({"uniqueItems": True}, [{"a": 1, "b": [True]}, {"b": [True], "a": 1.0}], False),
        ({"const": {"a": 1}}, {"a": 1.0}, True),
        ({"enum": [0]}, False, False),
        ({"type": "integer"}, 5.0, True),
        ({"type": "integer"}, True, False),
    ],
)  # fmt: skip
def test_numbers_are_exact_and_equality_is_that_of_json(schema: Any, value: Any, expected: bool) -> None:
    """Numbers are exact, equality is JSON's, patterns are ECMA's."""
    assert judged(schema, False, value) is expected
