"""What validation could not stand on is an error when the document is loaded, with file, pointer and remedy."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from keyswap.operations.findings import DocumentError
from keyswap.operations.validate.openapi_core_document import Schemas, looked_at, types_of
from tests.operations.documents import document
from tests.operations.judged import JSON, Api


def written(operation: Any, **more: Any) -> str:
    return json.dumps(
        {
            "openapi": "3.1.0",
            "paths": {"/a": {"post": operation}},
            "components": {"schemas": {"X": {"$id": "urn:x", **more}}},
        }
    )


def of_schema(schema: Any) -> Any:
    return {"requestBody": {"content": {"application/json": {"schema": schema}}}}


SCHEMA = "/paths/~1a/post/requestBody/content/application~1json/schema"
BODY = "/paths/~1a/post/requestBody"


@pytest.mark.parametrize(
    ("schema", "pointer"),
    [
        ({"multipleOf": 0}, "/multipleOf"), ({"multipleOf": "1"}, "/multipleOf"), ({"pattern": "(a"}, "/pattern"), ({"pattern": 5}, "/pattern"),
        ({"items": {"properties": {"a": {"pattern": "[b"}}}}, "/items/properties/a/pattern"), ({"patternProperties": {"(": {}}}, "/patternProperties/("),
        ({"type": "text"}, "/type"), ({"type": {"a": 1}}, "/type"), ({"type": 5}, "/type"), ({"anyOf": {"a": 1}}, "/anyOf"), ({"anyOf": []}, "/anyOf"),
        ({"anyOf": [5]}, "/anyOf"), ({"allOf": [{"oneOf": "x"}]}, "/allOf/0/oneOf"), ({"required": True}, "/required"), ({"properties": []}, "/properties"),
        ({"items": [{}]}, "/items"), ({"maximum": "5"}, "/maximum"), ({"maxLength": -1}, "/maxLength"), ({"enum": "a"}, "/enum"),
        ({"discriminator": {"mapping": []}}, "/discriminator"), ({"uniqueItems": "yes"}, "/uniqueItems"), (5, ""), ("x", ""),
        ({"$ref": "#/components/schemas/X/n"}, ""), ({"format": 5}, "/format"),
    ],
)  # fmt: skip
def test_a_schema_that_no_value_can_be_judged_by_is_a_finding(schema: Any, pointer: str) -> None:
    """A schema that no value could be judged by is a finding, also where the document has an `$id` somewhere."""
    found = looked_at(document(written(of_schema(schema), n=5)))[0]
    assert [(one.file, one.pointer) for one in found] == [("api.yaml", SCHEMA + pointer)] and found[0].remedy


@pytest.mark.parametrize(
    ("operation", "pointer"),
    [
        ({"requestBody": {"content": []}}, BODY + "/content"),
        ({"requestBody": {"content": {"application/json": 5}}}, BODY + "/content/application~1json"),
        ({"requestBody": {"content": {"application/x-www-form-urlencoded": {"schema": {}, "encoding": []}}}}, BODY + "/content/application~1x-www-form-urlencoded/encoding"),
        ({"requestBody": {"content": {"application/x-www-form-urlencoded": {"schema": {}, "encoding": {"a": 5}}}}}, BODY + "/content/application~1x-www-form-urlencoded/encoding/a"),
        ({"requestBody": {}}, BODY), ({"requestBody": {"content": {"a/b": {}}, "required": "yes"}}, BODY + "/required"),
        ({"parameters": [{"name": "a", "in": "body", "schema": {}}]}, "/paths/~1a/post/parameters/0"),
        ({"parameters": [{"name": "a", "in": "query", "style": "simple", "schema": {}}]}, "/paths/~1a/post/parameters/0"),
        ({"parameters": [{"name": "a", "in": "query", "explode": "yes", "schema": {}}]}, "/paths/~1a/post/parameters/0/explode"),
        ({"parameters": [{"name": "a", "in": "query", "content": {}}]}, "/paths/~1a/post/parameters/0"),
        ({"parameters": [{"name": "a", "in": "query", "schema": {"type": "x"}}]}, "/paths/~1a/post/parameters/0/schema/type"),
        ({"responses": []}, "/paths/~1a/post/responses"), ({"responses": {"200": 5}}, "/paths/~1a/post/responses/200"),
        ({"responses": {"200": {"content": {"a/b": {"schema": {"pattern": "("}}}}}}, "/paths/~1a/post/responses/200/content/a~1b/schema/pattern"),
    ],
)  # fmt: skip
def test_bodies_parameters_and_responses(operation: Any, pointer: str) -> None:
    """So is whatever else of an operation is not as OpenAPI has it."""
    assert pointer in [one.pointer for one in looked_at(document(written(operation)))[0]]


def test_a_broken_body_is_no_traceback() -> None:
    """A body that refers to nothing is an error, however references are resolved in the document."""
    text = written({"requestBody": {"$ref": "#/components/requestBodies/none"}})
    with pytest.raises(DocumentError):
        Schemas(document(text))


def test_all_of_it_is_told_and_the_first_is_raised() -> None:
    """Every finding of a document is listed; a load ends with the first, and says how many there are."""
    text = written(
        {**of_schema({"multipleOf": 0}), "parameters": [{"name": "a", "in": "query", "schema": {"pattern": "("}}]}
    )
    assert len(looked_at(document(text))[0]) == 2
    with pytest.raises(DocumentError, match="and 1 more"):
        Schemas(document(text))
    shared = {"openapi": "3.1.0", "paths": {f"/{n}": {"post": of_schema({"$ref": "#/components/schemas/X"})} for n in range(9)}, "components": {"schemas": {"X": {"multipleOf": 0}}}}  # fmt: skip
    assert [one.pointer for one in looked_at(document(json.dumps(shared)))[0]] == ["/components/schemas/X/multipleOf"]


def test_what_says_nothing_is_no_finding(tmp_path: Path) -> None:
    """Extensions, unknown keywords and schemas of true and false are as good as any."""
    responses = {"x-note": "text", "200": {"description": "", "content": {"application/json": {"schema": True}}}}
    schema = {
        "properties": {"a": False},
        "x-a": 5,
        "example": {"$ref": 5},
        "examples": [1],
        "unknown": 1,
        "$comment": "",
        "xml": {},
    }
    api = Api(tmp_path, written({**of_schema(schema), "responses": responses}))
    assert api.faults("POST", "/a", JSON, body=b"{}") == [] and api.faults("POST", "/a", JSON, body=b'{"a":1}') == [
        ("body", "/a")
    ]


def test_types_of_a_schema_that_leads_to_itself() -> None:
    """A schema of which every alternative is itself is looked at once."""
    many = [{"$ref": "#/components/schemas/X"}] * 20 + [{"type": "array"}]
    text = json.dumps({"openapi": "3.1.0", "paths": {"/a": {"get": {"parameters": [{"name": "a", "in": "query", "schema": {"$ref": "#/components/schemas/X"}}]}}}, "components": {"schemas": {"X": {"anyOf": many, "allOf": many, "oneOf": many}}}})  # fmt: skip
    read = document(text)
    began = time.monotonic()
    (judged,) = Schemas(read).judged.values()
    assert judged.repeated == {"a"} and time.monotonic() - began < 1
    assert types_of(read.library, read.operations[0].node) == set()
