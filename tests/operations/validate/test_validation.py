"""Validation by schemas: what a real application's document lets through, and what it does not."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from application import made
from keyswap.model import Fault, Request
from keyswap.operations.validate.bodies import Unreadable, read_json
from tests.operations.judged import FORM, JSON, Api, multipart


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Api:
    return Api(tmp_path_factory.mktemp("api"), json.dumps(made().openapi()))


@pytest.mark.parametrize(
    ("target", "headers", "faults"),
    [
        ("/pets", (), []),
        ("/pets?limit=5&order=age&age=3", (), []),
        ("/pets?tag=a&tag=b", (), []),
        ("/pets?tag=a", (), []),
        ("/pets?other=1&other=2", (), []),
        ("/pets?limit=0", (), [("query", "limit")]),
        ("/pets?limit=x&order=size", (), [("query", "limit"), ("query", "order")]),
        ("/pets?limit=5&limit=6", (), [("query", "limit")]),
        ("/pets?limi%74=0", (), [("query", "limit")]),
        ("/pets?limit=", (), [("query", "limit")]),
        ("/pets?age=x", (), [("query", "age")]),
        ("/pets?limit=%ff", (), [("query", "")]),
        ("/pets?" + "a=1&" * 1001, (), [("query", "")]),
        ("/pets", ((b"X-Trace", b"5"), (b"Cookie", b"session=abc")), []),
        ("/pets", ((b"x-trace", b"z"),), [("header", "x-trace")]),
        ("/pets", ((b"X-Trace", b"5"), (b"x-trace", b"5")), [("header", "x-trace")]),
        ("/pets", ((b"X-Trace", b"5"), (b"X--Trace", b"z")), [("header", "x-trace")]),
        ("/pets", ((b"X_Trace", b"5"),), [("header", "x-trace")]),
        ("/pets", ((b"X-Trace-", b"5"),), [("header", "x-trace")]),
        ("/pets", ((b"X-Traces", b"z"),), []),
        ("/pets", ((b"Cookie", b"session=abcdefghijkl"),), [("cookie", "session")]),
        ("/pets", ((b"Cookie", b"a=1; session=a; session=b"),), [("cookie", "session")]),
        ("/pets/5", (), []),
        ("/pets/five", (), [("path", "pet_id")]),
        ("/pets/%35", (), []),
    ],
)  # fmt: skip
def test_parameters_are_judged_by_their_schemas_and_sent_once(
    api: Api, target: str, headers: Any, faults: list[tuple[str, str]]
) -> None:
    """Path, query, header and cookie parameters are judged by their schemas; what is judged is sent once, in one spelling."""
    assert api.faults("GET", target, *headers) == faults


@pytest.mark.parametrize(
    ("body", "faults"),
    [
        (b'{"name": "Rex"}', []),
        (b'{"name": "Rex", "age": null, "toys": [{"name": "b", "price": 1}], "mother": {"name": "Ada"}}', []),
        (b'{"name": "Rex", "more": 1}', []),
        (b'{"name": ""}', [("body", "/name")]),
        (b'{"age": 5}', [("body", "")]),
        (b'{"name": 5, "tags": "x"}', [("body", "/name"), ("body", "/tags")]),
        (b'{"name": "x", "toys": [{"name": "b", "price": -1}]}', [("body", "/toys/0/price")]),
        (b'{"name": "x", "mother": {"name": "y", "mother": {"name": 1}}}', [("body", "/mother/mother/name")]),
        (b'{"name": "x", "name": "y"}', [("body", "")]),
        (b'{"name": "\xff"}', [("body", "")]),
        (b'{"name": "x"} {}', [("body", "")]),
        (b'{"name": NaN}', [("body", "")]),
        (b"", [("body", "")]),
        (b"{", [("body", "")]),
        ('{"name": "x"}'.encode("utf-16"), [("body", "")]),
        (b'{"name": "x", "tags": ' + b"[" * 65 + b"]" * 65 + b"}", [("body", "")]),
        (b'{"name": "' + b"[" * 100 + b'"}', [("body", "/name")]),
    ],
)  # fmt: skip
def test_json_bodies_are_judged_with_pointers_and_bounded_in_nesting(
    api: Api, body: bytes, faults: list[tuple[str, str]]
) -> None:
    """JSON is judged with pointers, has one reading, and is bounded in nesting."""
    found = api.faults("POST", "/pets", JSON, body=body)
    assert sorted(found) == faults


def test_a_body_of_an_undocumented_media_type_is_a_fault(api: Api) -> None:
    """A body of another media type than those documented is a fault; one that is not judged is let through unread."""
    assert api.faults("POST", "/pets", (b"Content-Type", b"text/plain"), body=b"x") == [("header", "Content-Type")]
    assert api.faults("POST", "/pets", body=b'{"name": "x"}') == [("header", "Content-Type")]
    assert api.faults("POST", "/pets", JSON, JSON, body=b"{}") == [("header", "Content-Type")]
    assert (
        api.faults("POST", "/pets", (b"content-type", b"Application/JSON; charset=utf-8"), body=b'{"name": "x"}') == []
    )
    octets = (b"Content-Type", b"application/octet-stream")
    raw = Request("POST", b"/raw", (octets,), "10.0.0.1")
    assert (
        api.validations.body_limit(raw, api.found("POST", "/raw")) is None and api.faults("POST", "/raw", octets) == []
    )
    assert api.faults("POST", "/raw", JSON, body=b"{}") == [("header", "Content-Type")]
    assert api.validations.body_limit(raw, api.found("GET", "/pets")) is None


def test_fields_of_forms_and_multipart_are_read_by_their_schemas(api: Api) -> None:
    """Fields of forms and multipart bodies are read by their schemas, files are passed."""
    assert api.faults("POST", "/login", FORM, body=b"name=x&age=5&tags=a&tags=b") == []
    assert api.faults("POST", "/login", FORM, body=b"name=x&age=y") == [("body", "/age")]
    assert api.faults("POST", "/login", FORM, body=b"age=5") == [("body", "")]
    file = ("file", b'; filename="a.bin"\r\nContent-Type: application/octet-stream\r\n\r\n\x00\xff\r\n--X')
    for parts, faults in (
        ((file, ("count", b"\r\n\r\n5")), []),
        ((file, ("count", b"\r\n\r\n5"), ("note", b"\r\n\r\nhello")), []),
        ((file, ("count", b"\r\n\r\nfive")), [("body", "/count")]),
        ((file,), [("body", "")]),
    ):
        header, body = multipart(*parts)
        assert api.faults("POST", "/files", header, body=body) == faults, parts
    assert api.faults("POST", "/files", (b"Content-Type", b"multipart/form-data"), body=b"x") == [("body", "")]
    header, body = multipart(*((f"p{number}", b"\r\n\r\nx") for number in range(1001)))
    assert api.faults("POST", "/files", header, body=body) == [("body", "")]


def test_compressed_bodies_are_bounded(api: Api) -> None:
    """What a body decompresses to is judged, up to its bound; codings that cannot be judged are refused."""

    def coded(body: bytes, coding: bytes) -> list[tuple[str, str]]:
        return api.faults("POST", "/pets", JSON, (b"Content-Encoding", coding), body=body)

    assert coded(gzip.compress(b'{"name": "x"}'), b"gzip") == []
    assert coded(gzip.compress(b'{"name": 5}'), b"GZIP") == [("body", "/name")]
    assert coded(gzip.compress(b'{"name": "' + b"x" * 1_000_000 + b'"}'), b"gzip") == [("body", "")]
    assert coded(gzip.compress(b'{"name": "x"}') + b"junk", b"gzip") == [("body", "")]
    for coding in (b"br", b"gzip, gzip", b"zstd", b"deflate"):
        assert coded(b'{"name": "x"}', coding) == [("body", "")]


def test_messages_are_for_people_and_short(api: Api) -> None:
    """A fault says what is wrong in at most 200 characters, and the log's reason quotes no value."""
    refused = api.judge("POST", "/pets", JSON, body=json.dumps({"name": "secret" * 100}).encode())
    assert refused is not None and len(refused.errors[0].message) <= 200
    assert "secret" not in refused.reason and "body /name" in refused.reason
    assert refused.errors[0].as_json().keys() == {"in", "pointer", "message"}
    parameter = api.judge("GET", "/pets?limit=x")
    assert parameter is not None and parameter.errors[0].as_json() == {
        "in": "query",
        "name": "limit",
        "message": "must be an integer",
    }


def test_shadow_tells_and_admits_and_off_judges_nothing(tmp_path: Path) -> None:
    """In shadow mode the refusal is told and not enforced; off judges nothing and asks for no body."""
    text = json.dumps(made().openapi())
    shadow = Api(tmp_path, text, "requests: shadow").judge("GET", "/pets?limit=x")
    assert shadow is not None and not shadow.enforced
    off = Api(tmp_path, text, "requests: off, responses: shadow")
    assert off.judge("GET", "/pets?limit=x") is None and off.judge("POST", "/pets", JSON, body=b"{}") is None


def test_responses_are_looked_at(tmp_path: Path) -> None:
    """In shadow mode a response that is not as documented is told, with pointer."""
    api = Api(tmp_path, json.dumps(made().openapi()), "responses: shadow")
    operation = api.found("GET", "/pets/5").operation
    assert api.validations.response_limit(operation) == 1 << 20

    def told(status: int, body: bytes, *headers: tuple[bytes, bytes]) -> list[Fault]:
        return api.validations.response(operation, status, headers or (JSON,), body)

    assert told(200, b'{"id": 5}') == [] and told(200, b"<p>", (b"Content-Type", b"text/html")) == []
    assert [(fault.where, fault.at) for fault in told(200, b'{"id": "x"}')] == [("body", "/id")]
    assert told(500, b"{}") and told(200, b"{")


def test_responses_of_ranges_are_looked_at(tmp_path: Path) -> None:
    """Ranges of statuses and media types are documented responses too, and what a 2XX refers to is followed."""
    text = """
openapi: 3.0.3
paths: {/a: {get: {responses: {2XX: {$ref: '#/components/responses/r'}, default: {description: x}}}}}
components:
  responses: {r: {description: x, content: {'Application/*; v=1': {schema: {type: integer, multipleOf: 0.01}}}}}
"""
    api = Api(tmp_path, text, "responses: shadow")
    operation = api.found("GET", "/a").operation
    for status, body, good in (
        (201, b"5", True),
        (201, b"1" + b"0" * 308, True),
        (201, b"1" + b"0" * 400, False),
        (201, b'"x"', False),
        (404, b'"x"', True),
    ):
        assert (api.validations.response(operation, status, (JSON,), body) == []) == good, (status, body)


def test_arrays_objects_and_json_parameters_are_read_as_openapi_says(tmp_path: Path) -> None:
    """Arrays, objects, label and matrix styles and JSON parameters are read as OpenAPI says."""
    text = """
openapi: 3.0.3
paths:
  /a/{id}:
    get:
      parameters:
        - {name: id, in: path, required: true, style: label, schema: {type: integer}}
        - {name: list, in: query, explode: false, schema: {type: array, items: {type: integer}}}
        - {name: filter, in: query, style: deepObject, explode: true, schema: {type: object, properties: {n: {type: integer}}}}
        - {name: j, in: query, content: {application/json: {schema: {type: object, required: [a]}}}}
        - {$ref: '#/components/parameters/page'}
      responses: {default: {description: x}}
components:
  parameters: {page: {name: page, in: query, deprecated: true, schema: {$ref: '#/components/schemas/n'}}}
  schemas: {n: {type: integer, nullable: true, maximum: 5}}
"""
    api = Api(tmp_path, text)
    for target, faults in (
        ("/a/.5", []),
        ("/a/.x", [("path", "id")]),
        ("/a/.5?list=1,2", []),
        ("/a/.5?list=1,b", [("query", "list")]),
        ("/a/.5?list=1&list=2", [("query", "list")]),
        ("/a/.5?filter%5Bn%5D=1", []),
        ("/a/.5?filter%5Bn%5D=x", [("query", "filter")]),
        ("/a/.5?j=%7B%22a%22:1%7D", []),
        ("/a/.5?j=%7B%7D", [("query", "j")]),
        ("/a/.5?page=5", []),
        ("/a/.5?page=6", [("query", "page")]),
    ):
        assert api.faults("GET", target) == faults, target


@pytest.mark.parametrize(
    "query", ["filter=1", "filter%5B=1", "filter%5B%5D", "filter%5Bn", "j=%00", "list=,,,", "page=%F0%9F%98%80"]
)
def test_whatever_is_sent_is_refused_not_stumbled_over(tmp_path: Path, query: str) -> None:
    """A value that openapi-core stumbles over is a fault of the request, never an error of the gateway."""
    text = """
openapi: 3.1.0
paths:
  /a:
    get:
      parameters:
        - {name: filter, in: query, required: true, style: deepObject, explode: true, schema: {type: object}}
        - {name: j, in: query, content: {application/json: {schema: {type: object, required: [a]}}}}
        - {name: list, in: query, explode: false, schema: {type: array, items: {type: integer}}}
        - {name: page, in: query, schema: {type: integer}}
"""
    assert Api(tmp_path, text).faults("GET", f"/a?{query}")


def test_recursive_schemas_and_schemas_of_other_files(tmp_path: Path) -> None:
    """Schemas that contain themselves, and those that stand elsewhere, are judged; nothing is fetched for them."""
    (tmp_path / "node.json").write_text(
        '{"type": "object", "properties": {"next": {"$ref": "#"}, "n": {"type": "integer"}}}'
    )
    text = (
        "openapi: 3.1.0\npaths: {/a: {post: {requestBody: {content: {application/json: {schema: {$ref: node.json}}}}}}}"
    )
    api = Api(tmp_path, text)
    (tmp_path / "node.json").unlink()
    assert api.faults("POST", "/a", JSON, body=b'{"next": {"next": {"n": 1}}}') == []
    assert api.faults("POST", "/a", JSON, body=b'{"next": {"next": {"n": "x"}}}') == [("body", "/next/next/n")]


def test_nesting_is_counted_outside_of_strings() -> None:
    """Brackets in strings are no nesting; whatever is nested deeper is refused before it is read."""
    assert read_json(b'{"a": "' + b"[{" * 500 + b'\\""}') is not None
    for body in (b"[" * 65 + b"]" * 65, b"[" * 40_000, b'{"a":' * 65 + b"1" + b"}" * 65):
        with pytest.raises(Unreadable, match="nested more than 64"):
            read_json(body)
