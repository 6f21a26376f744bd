"""What judging costs: bounded, whatever is sent and whatever the schema."""

import gc
import json
import time
from pathlib import Path
from typing import Any

import pytest

from keyswap.operations.validate.bodies import MAX_CONTAINERS
from tests.operations.judged import JSON, Api, of_body

COSTLY = "it is too costly to be judged"
NESTED = "{anyOf: [{type: object, required: [a], properties: {a: {$ref: '#/components/schemas/N'}}}, {type: object, maxProperties: 1, properties: {a: {$ref: '#/components/schemas/N'}}, required: [a]}, {type: integer}]}"
HEAD = f"openapi: 3.1.0\ncomponents: {{schemas: {{N: {NESTED}}}}}"
BOUND_S = 0.1
pytestmark = pytest.mark.timing
MEMBERS = json.dumps({f"k{number}": 1 for number in range(80_000)}).encode()


def spent_s(api: Api, body: bytes) -> tuple[list[str], float]:
    """What is said of a body, and the processor's time that it took: the best of several, since others run here too."""
    took: list[float] = []
    gc.freeze()  # as the gateway does when it has loaded: the collector looks at what a request leaves alone
    while len(took) < 3 or (min(took) >= BOUND_S and len(took) < 12):
        began = time.thread_time()
        told = api.messages("POST", "/a", JSON, body=body)
        took.append(time.thread_time() - began)
    gc.unfreeze()
    return told, min(took)


LARGE = b"[" + b",".join([b"7" * 308] * 3300) + b"]"
"""As long as numbers are that are judged."""
BEYOND = "the number is larger than any that programs agree about"
NUMBERS = b"[" + b"1," * 500_000 + b"1]"
EITHER = "must match one of 2 alternatives"


@pytest.mark.parametrize(
    ("schema", "body", "told"),
    [
        ("{uniqueItems: true}", json.dumps([{"a": n} for n in range(20_000)]).encode(), []),
        ("{uniqueItems: true}", json.dumps([n * (2**61 - 1) for n in range(45_000)]).encode(), []),
        ("{uniqueItems: true}", json.dumps([10**40 + n for n in range(20_000)]).encode(), []),
        ("{uniqueItems: true}", LARGE, ["must not have an item twice"]),
        ("{uniqueItems: true}", json.dumps(list(range(150_000))).encode(), []),
        ("{$ref: '#/components/schemas/N'}", b'{"a":' * 12 + b'"x"' + b"}" * 12, [EITHER]),
        ("{$ref: '#/components/schemas/N'}", b'{"a":' * 60 + b'"x"' + b"}" * 60, [EITHER]),
        ("{pattern: ^(a+)+$}", b'"' + b"a" * 27 + b'b"', ["must match the pattern ^(a+)+$"]),
        ("{patternProperties: {^(a|aa)+$: {}}}", b'{"' + b"a" * 60 + b'b": 1}', []),
        ("{items: {type: integer}}", NUMBERS, []),
        ("{items: {type: string}}", NUMBERS, ["must be a string"] * 20),
        ("{items: {type: integer}}", NUMBERS[:-2] + b'"x"]', ["must be an integer"]),
        ("{additionalProperties: false}", MEMBERS, ["'k0' is not expected"]),
        ("{patternProperties: {^a: {type: integer}}}", MEMBERS, []),
        ("{unevaluatedProperties: {type: integer}, allOf: [{properties: {a: {}}}]}", MEMBERS, []),
        ("{items: {properties: {a: {type: integer}}}}", b"[" + b'{"b":1},' * 130_000 + b"{}]", []),
        ("{items: {properties: {a: {type: integer}}}}", NUMBERS[:-2] + b"{}]", []),
        ("{properties: {a: {}}, additionalProperties: {properties: {b: {}}}}", json.dumps({f"k{n}": {} for n in range(50_000)}).encode(), []),
        ("{items: {multipleOf: 2}}", b"[" + b"12," * 340_000 + b"12]", []),
        ("{multipleOf: 0.01}", b"1" + b"0" * 308, []),
        ("{items: {multipleOf: 0.01}}", LARGE, []),
        ("{}", b"[" + b",".join([b"7" * 4300] * 240) + b"]", [BEYOND]),
        ("{}", NUMBERS[:-2] + b"7" * 308 + b"]", []),
        ("{}", NUMBERS[:-2] + b"1e400]", [BEYOND]),
        ("{}", b"[" + b"[1]," * 250_000 + b"7" * 400 + b"]", [BEYOND]),
        ("{}", b"[" + b"{}," * 340_000 + b"{}]", []),
        ("{}", b"[" + b"[[]]," * 200_000 + b"{}]", [f"the body has more than {MAX_CONTAINERS:,} objects and arrays"]),
        ("{}", b"[" + b'"[",' * 200_000 + b"1]", []),
    ],
)  # fmt: skip
def test_no_body_holds_the_loop(tmp_path: Path, schema: str, body: bytes, told: list[str]) -> None:
    """A request of a megabyte is judged, whatever it holds, and what is wrong is told, soon."""
    found, spent = spent_s(of_body(tmp_path, schema, HEAD), body)
    assert found == told and spent < BOUND_S


@pytest.mark.parametrize(
    ("schema", "body"),
    [
        ("{pattern: '^(a|aa)+(?!b)$'}", b'"' + b"a" * 60 + b'b"'),
        ("{items: {not: {pattern: '^(a|aa)+(?!b)$'}}}", json.dumps(["a" * 22 + "b"] * 1000).encode()),
    ],
)
def test_a_search_that_nobody_can_bound_is_given_up(tmp_path: Path, schema: str, body: bytes) -> None:
    """A pattern that only backtracking can search for has a time, and what it does not tell until then is refused."""
    found, spent = spent_s(of_body(tmp_path, schema, HEAD), body)
    assert found == [COSTLY] and spent < BOUND_S


def test_an_ordinary_body_is_far_from_the_bound(tmp_path: Path) -> None:
    """A list of a thousand objects costs a third of what is allowed at most."""
    schema = "{items: {type: object, required: [name], properties: {name: {type: string, maxLength: 20}, age: {type: integer}}}}"
    found, spent = spent_s(of_body(tmp_path, schema), json.dumps([{"name": "Rex", "age": 5}] * 1000).encode())
    assert found == [] and spent < 0.03


@pytest.mark.parametrize(
    ("schema", "bodies"),
    [
        ("{items: {type: integer}}", [(b"[" + b"1," * size + b"1]", []) for size in (20_000, 100_000)]),
        (
            "{items: {not: {pattern: '^(a|aa)+(?!b)$'}}}",
            [(json.dumps(["a" * 12 + "b"] * size).encode(), told) for size, told in ((20, []), (40_000, [COSTLY]))],
        ),
    ],
)
def test_the_same_body_is_judged_alike_each_time(
    tmp_path: Path, schema: str, bodies: list[tuple[bytes, list[str]]]
) -> None:
    """What is too costly once is so always: each request has the whole budget, and no other's rest."""
    api = of_body(tmp_path, schema)
    for body, told in bodies * 3:
        assert api.messages("POST", "/a", JSON, body=body) == told


def test_schemas_that_only_lead_into_each_other_say_nothing(tmp_path: Path) -> None:
    """A schema that is made of itself asks what stands beside that, and ends."""
    head = "openapi: 3.1.0\ncomponents: {schemas: {N: {allOf: [{$ref: '#/components/schemas/N'}], type: integer}}}"
    api = of_body(tmp_path, "{$ref: '#/components/schemas/N'}", head)
    assert api.messages("POST", "/a", JSON, body=b"1") == []
    assert api.messages("POST", "/a", JSON, body=b'"x"') == ["must be an integer"]


def test_faults_are_few_and_short(tmp_path: Path) -> None:
    """At most 20 faults are told, of 200 characters in message and pointer, however long the keys and values are."""
    api = of_body(
        tmp_path, "{additionalProperties: {items: {type: string, maxLength: 5}}, propertyNames: {maxLength: 9}}"
    )
    many = api.judge(
        "POST", "/a", JSON, body=json.dumps({"k" * 500_000: [1] * 100, "k\\" * 9: ["x" * 100_000]}).encode()
    )
    assert many is not None and len(many.errors) == 20
    assert (
        max(len(fault.at) for fault in many.errors) <= 200 and max(len(fault.message) for fault in many.errors) <= 200
    )
    assert len(many.reason) < 2000
    deep: Any = 1
    for _ in range(50):
        deep = {"key/~": deep}
    nested = of_body(tmp_path, "{$ref: '#/components/schemas/D'}", "openapi: 3.1.0\ncomponents: {schemas: {D: {type: object, additionalProperties: {$ref: '#/components/schemas/D'}}}}")  # fmt: skip
    (fault,) = (nested.judge("POST", "/a", JSON, body=json.dumps(deep).encode()) or many).errors
    assert fault.at.startswith("/key~1~0/key~1~0/") and len(fault.at) == 200


def test_a_query_of_many_items_is_bounded(tmp_path: Path) -> None:
    """Arrays and objects of a query cost what they hold."""
    from tests.operations.judged import of_query

    api = of_query(
        tmp_path,
        "name: ids, explode: false, schema: {type: array, items: {anyOf: [{type: integer, maximum: 0}, {type: string, pattern: '^(1|11)+$'}]}}",
    )
    began = time.thread_time()
    assert api.judge("GET", "/a?ids=" + ",".join(["1" * 30 + "2"] * 250)) is not None
    assert time.thread_time() - began < BOUND_S
