"""What schemas say of a value: over references and directions, in formats and messages, and where they are broken."""

import json
from pathlib import Path
from typing import Any

import pytest

from keyswap.operations.findings import DocumentError
from keyswap.operations.validate.openapi_core_document import looked_at
from tests.operations.documents import document
from tests.operations.judged import JSON, Api, of_body

# ---- What is said of a value by several schemas


ELEMENT = """openapi: 3.0.3
components:
  schemas:
    Id: {type: integer, readOnly: true}
    Secret: {type: string, writeOnly: true}
    Element: {type: object, properties: {id: {type: integer, readOnly: true}, name: {type: string}, secret: {$ref: '#/components/schemas/Secret'}}}
    Base: {type: object, required: [id]}
    Refers: {type: object, required: [id, name], properties: {id: {$ref: '#/components/schemas/Id'}, name: {type: string}}}
    Wraps: {type: object, required: [id], properties: {id: {allOf: [{$ref: '#/components/schemas/Id'}]}}}
    Node: {type: object, required: [id], properties: {id: {$ref: '#/components/schemas/Id'}, next: {$ref: '#/components/schemas/Node'}}}"""


@pytest.mark.parametrize(
    ("schema", "good", "bad", "at"),
    [
        ("{allOf: [{$ref: '#/components/schemas/Element'}, {required: [id, name]}]}", {"name": "x"}, {"name": "x", "id": 1}, "/id"),
        ("{allOf: [{$ref: '#/components/schemas/Element'}, {required: [id, name]}]}", {"name": "x", "secret": "s"}, {}, ""),
        ("{allOf: [{allOf: [{required: [id]}]}, {$ref: '#/components/schemas/Element'}]}", {}, {"id": 1}, "/id"),
        ("{allOf: [{$ref: '#/components/schemas/Base'}, {$ref: '#/components/schemas/Element'}]}", {"name": "x"}, {"id": 1}, "/id"),
        ("{$ref: '#/components/schemas/Refers'}", {"name": "x"}, {"name": "x", "id": 1}, "/id"),
        ("{$ref: '#/components/schemas/Wraps'}", {}, {"id": 1}, "/id"),
        ("{type: array, items: {$ref: '#/components/schemas/Refers'}}", [{"name": "x"}], [{"name": "x", "id": 1}], "/0/id"),
        ("{type: object, properties: {one: {$ref: '#/components/schemas/Refers'}}}", {"one": {"name": "x"}}, {"one": {"id": 1, "name": "x"}}, "/one/id"),
        ("{$ref: '#/components/schemas/Node'}", {"next": {"next": {}}}, {"next": {"next": {"id": 1}}}, "/next/next/id"),
        ("{oneOf: [{$ref: '#/components/schemas/Refers'}]}", {"name": "x"}, {"name": "x", "id": 1}, "/id"),
        ("{$ref: '#/components/schemas/Base'}", {"id": 1}, {}, ""),
    ],
)  # fmt: skip
def test_what_is_read_only_is_neither_required_nor_sent(
    tmp_path: Path, schema: str, good: Any, bad: Any, at: str
) -> None:
    """In OpenAPI 3.0 `readOnly` counts wherever it is said of a member, and takes effect on what any schema requires."""
    api = of_body(tmp_path, schema, ELEMENT)
    assert api.faults("POST", "/a", JSON, body=json.dumps(good).encode()) == []
    assert api.faults("POST", "/a", JSON, body=json.dumps(bad).encode()) == [("body", at)]


def test_what_is_write_only_is_not_in_responses(tmp_path: Path) -> None:
    """The same of `writeOnly` in responses, where what is read only is required."""
    schema = "{allOf: [{$ref: '#/components/schemas/Element'}, {required: [id, secret]}]}"
    content = f"{{application/json: {{schema: {schema}}}}}"
    paths = f"\npaths: {{/a: {{get: {{responses: {{'200': {{description: x, content: {content}}}}}}}}}}}\n"
    api = Api(tmp_path, ELEMENT + paths, "responses: shadow")
    operation = api.found("GET", "/a").operation
    for body, at in ((b'{"id": 1}', None), (b'{"id": 1, "secret": "x"}', "/secret"), (b"{}", "")):
        found = api.validations.response(operation, 200, (JSON,), body)
        assert [fault.at for fault in found] == ([] if at is None else [at])


@pytest.mark.parametrize(
    ("schema", "good"),
    [
        ("{$ref: '#/components/schemas/Int', maximum: 5}", b"6"),
        ("{properties: {a: {$ref: '#/components/schemas/Str', readOnly: true}}}", b'{"a": "x"}'),
        ("{type: object, $ref: '#/components/schemas/Null'}", b"null"),
        ("{$ref: '#/components/schemas/Int', pattern: '(', maximum: text}", b"6"),
    ],
)
def test_nothing_counts_beside_a_reference_of_openapi_30(tmp_path: Path, schema: str, good: bytes) -> None:
    """What stands beside a `$ref` is ignored (OpenAPI 3.0.3 §4.7.23), whatever it is."""
    named = "Int: {type: integer}, Str: {type: string}, Null: {type: object, nullable: true}"
    api = of_body(tmp_path, schema, f"openapi: 3.0.3\ncomponents: {{schemas: {{{named}}}}}")
    assert api.faults("POST", "/a", JSON, body=good) == []


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("time", ["10:00:00Z", "10:00:00.5+01:00", "23:59:60Z", "01:29:60+01:30"], ["10:00:00", "24:00:00Z", "22:59:60Z"]),
        ("date-time", ["2016-12-31T23:59:60Z", "2024-02-29t00:00:00.25z", "2016-12-31T15:59:60-08:00"], ["2024-01-01", "2023-02-29T00:00:00Z", "2024-01-01T00:00:00", "2024-01-01 00:00:00Z"]),
        ("date", ["2024-02-29", "0000-01-01"], ["2023-02-29", "20240101", "2024-1-1", "٢024-01-01"]),
        ("email", ["a@b.c", '"a b"@c.d', "a+b@[127.0.0.1]"], ["@", "a b@c", "a@", "a..b@c.d", "A <a@b.c>"]),
        ("uuid", ["2EB8AA08-AA98-11EA-B4AA-73B441D16380"], ["2eb8aa08aa9811eab4aa73b441d16380", "2eb8aa08-aa98-11ea-b4aa73b441d16380"]),
        ("ipv4", ["127.0.0.1"], ["127.0.0.01", "127.1", "256.0.0.1"]),
        ("ipv6", ["::1", "::ffff:127.0.0.1"], ["::1%eth0", "12345::", "1::2::3"]),
        ("hostname", ["a.example", "a-b"], ["-a", "a_b", "a..b", "x" * 64]),
        ("uri", ["https://a.example/x?y#z", "urn:a:b"], ["/x", "a b", "https://a.example/ü"]),
        ("duration", ["P1Y2M3DT4H5M6S", "P1W"], ["P", "P1H", "1D"]),
        ("byte", ["", "YQ==", "YWI="], ["YQ", "Y Q==", "@@@@"]),
        ("int32", [2**31 - 1, -(2**31), 1.5], [2**31, -(2**31) - 1]),
        ("int64", [2**63 - 1], [2**63]),
        ("binary", ["\x00"], []), ("password", [""], []), ("unheard-of", ["x"], []), ("float", [1e300], []),
    ],
)  # fmt: skip
@pytest.mark.parametrize("version", ["3.0.3", "3.1.0"])
def test_formats_are_those_of_their_standards_in_both_versions(
    tmp_path: Path, version: str, name: str, good: list[Any], bad: list[Any]
) -> None:
    """Formats are those of RFC 3339 §5.6, JSON Schema Validation §7.3 and OpenAPI's registry, in both versions."""
    api = of_body(tmp_path, f"{{format: {name}}}", f"openapi: {version}")
    assert [one for one in good if api.judge("POST", "/a", JSON, body=json.dumps(one).encode())] == []
    assert [one for one in bad if not api.judge("POST", "/a", JSON, body=json.dumps(one).encode())] == []


@pytest.mark.parametrize(
    ("schema", "value", "message"),
    [
        ("{type: integer}", "x", "must be an integer"), ("{type: [string, 'null']}", 5, "must be a string or null"),
        ("{exclusiveMinimum: 0}", 0, "must be greater than 0"), ("{maximum: 5}", 6, "must be at most 5"), ("{minLength: 1}", "", "must have at least 1 character"),
        ("{maxItems: 2}", [1, 2, 3], "must have at most 2 items"), ("{enum: [a, b, 1]}", "c", "must be one of 'a', 'b', 1"), ("{const: 5}", 6, "must be 5"),
        ("{required: [name]}", {}, "'name' is required"), ("{additionalProperties: false}", {"a": 1}, "'a' is not expected"), ("{multipleOf: 0.01}", 0.001, "must be a multiple of 0.01"),
        ("{pattern: ^a}", "b", "must match the pattern ^a"), ("{format: date}", "x", "must be a date, as 2024-05-31"), ("{uniqueItems: true}", [1, 1], "must not have an item twice"),
        ("{anyOf: [{type: string}, {type: integer}]}", [], "must be a string or an integer"), ("{anyOf: [{type: string, maxLength: 1}, {type: 'null'}]}", "ab", "must have at most 1 character"),
        ("{oneOf: [{}, {}]}", 1, "must match exactly one of the alternatives, and matches several"), ("false", 1, "is not expected here"),
        ("{contains: {type: string}}", [1], "must contain at least 1 item of the documented kind"), ("{propertyNames: {maxLength: 1}}", {"ab": 1}, "'ab' is no name that is expected"),
        ("{unevaluatedProperties: false, allOf: [{properties: {a: {}}}]}", {"b": 1}, "has a member that is not expected"), ("{dependentRequired: {a: [b]}}", {"a": 1}, "'b' is required with 'a'"),
    ],
)  # fmt: skip
def test_a_message_says_what_is_expected(tmp_path: Path, schema: str, value: Any, message: str) -> None:
    """What is said of a fault can be acted upon, and quotes the document, never the value."""
    assert of_body(tmp_path, schema).messages("POST", "/a", JSON, body=json.dumps(value).encode()) == [message]


def test_what_cannot_be_understood_stops_nothing_where_it_is_not_enforced(tmp_path: Path) -> None:
    """In shadow mode, and in responses that nobody asks, a broken keyword says nothing; what stands beside it does."""
    broken = "{pattern: '(', minLength: 2, maximum: x, properties: [], items: 5}"
    content = f"content: {{application/json: {{schema: {broken}}}}}"
    text = f"openapi: 3.0.3\npaths: {{/a: {{post: {{requestBody: {{{content}}}, responses: {{'200': {{description: x, {content}}}}}}}}}}}"
    shadow = Api(tmp_path, text, "requests: shadow, responses: shadow")
    assert shadow.messages("POST", "/a", JSON, (b"Content-Length", b"3"), body=b'"a"') == [
        "must have at least 2 characters"
    ]
    operation = shadow.found("POST", "/a").operation
    assert len(shadow.validations.response(operation, 200, (JSON,), b'"a"')) == 1
    with pytest.raises(DocumentError):
        Api(tmp_path, text, "requests: enforce")
    good = text.replace(f"requestBody: {{{content}}}, ", "")
    assert Api(tmp_path, good, "requests: enforce").faults("POST", "/a") == []


def test_a_reference_that_leads_to_nothing_is_an_error(tmp_path: Path) -> None:
    """Also where an `$id` says what it is relative to; in shadow mode no value is as it says."""
    schema = "{$id: 'urn:x', properties: {a: {$ref: '#nowhere'}}}"
    with pytest.raises(DocumentError, match="#nowhere leads to no schema"):
        of_body(tmp_path, schema)
    api = of_body(tmp_path, schema, more="requests: shadow")
    assert api.faults("POST", "/a", JSON, (b"Content-Length", b"8"), body=b'{"a": 1}') == [("body", "/a")]


@pytest.mark.parametrize(
    ("schema", "warned"),
    [
        ("{nullable: true, allOf: [{type: string}]}", True), ("{nullable: true, oneOf: [{type: string}]}", True), ("{nullable: true, type: string, enum: [a]}", True),
        ("{nullable: true, type: string}", False), ("{nullable: true, type: string, enum: [a, null]}", False), ("{nullable: true, type: object, allOf: [{}]}", False),
        ("{properties: {a: {nullable: true, anyOf: [{}]}}}", True),
    ],
)  # fmt: skip
def test_nullable_without_effect_is_a_warning(schema: str, warned: bool) -> None:
    """What OpenAPI 3.0 has no effect for, though it is written all the time, is told: each null is refused."""
    content = f"{{application/json: {{schema: {schema}}}}}"
    errors, warnings = looked_at(
        document(f"openapi: 3.0.3\npaths: {{/a: {{post: {{requestBody: {{content: {content}}}}}}}}}\n")
    )
    assert errors == [] and [one.code for one in warnings] == (["null-refused"] if warned else [])
