"""Whatever is sent, validation answers: a fault or none, never an exception, and in bounded steps."""

import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.operations.judged import FORM, JSON, Api, multipart

EVERY = {
    "type": ["object", "array", "string", "number", "boolean", "null"],
    "multipleOf": 0.01, "maximum": 1e308, "minimum": -5, "exclusiveMaximum": 9.5, "exclusiveMinimum": -9,
    "maxLength": 20, "minLength": 1, "pattern": r"^[\p{L}\w-]+$", "format": "date-time",
    "maxItems": 5, "minItems": 1, "uniqueItems": True, "contains": {"type": "integer"}, "minContains": 0, "maxContains": 2,
    "prefixItems": [{"format": "ipv6"}, {"enum": [1, "a", None, [1], {"a": 1.0}]}], "items": {"$ref": "#/components/schemas/All"},
    "maxProperties": 4, "minProperties": 1, "required": ["a"], "propertyNames": {"pattern": "^.{1,9}$"},
    "properties": {"a": {"$ref": "#/components/schemas/All"}, "b": {"format": "byte"}, "c": {"format": "regex"}},
    "patternProperties": {"^x": {"format": "uuid"}}, "additionalProperties": {"format": "idn-hostname"},
    "dependentRequired": {"a": ["b"]}, "dependentSchemas": {"b": {"required": ["c"]}},
    "if": {"required": ["b"]}, "then": {"properties": {"b": {"const": 1}}}, "else": {"not": {"required": ["z"]}},
    "anyOf": [{"type": "object"}, {"type": "array"}, {"$ref": "#/components/schemas/Other"}],
    "oneOf": [{"type": ["object", "array"]}, {"type": "string"}, {"multipleOf": 3, "type": "number"}],
    "allOf": [{"unevaluatedProperties": {"type": ["integer", "object"]}, "unevaluatedItems": {"type": "number"}}],
    "discriminator": {"propertyName": "a", "mapping": {"o": "#/components/schemas/Other"}},
}  # fmt: skip
OTHER = {"format": "email", "properties": {"a": {"type": "integer", "format": "int32"}}}
STYLES = ("form", "spaceDelimited", "pipeDelimited", "deepObject")
PARAMETERS = [
    {"name": f"{style}{number}{explode}", "in": "query", "style": style, "explode": explode, "schema": schema}
    for style in STYLES
    for explode in (False, True)
    for number, schema in enumerate(({"$ref": "#/components/schemas/All"}, {"type": "array", "items": {"type": "integer"}},
                                     {"type": "object", "additionalProperties": {"type": "number"}}, {"type": "integer"}))
]  # fmt: skip
NAMES = [str(one["name"]) for one in PARAMETERS] + ["a", "b", "j"]


def written(version: str, all_of_them: dict[str, Any]) -> str:
    body = {kind: {"schema": {"$ref": "#/components/schemas/All"}} for kind in ("application/json", "application/x-www-form-urlencoded", "multipart/form-data")}  # fmt: skip
    content: dict[str, Any] = {"name": "j", "in": "query", "content": {"application/json": {"schema": all_of_them}}}
    more = [{"name": "X-A", "in": "header", "schema": {"type": "array", "items": {"$ref": "#/components/schemas/All"}}}]
    operation = {"parameters": [*PARAMETERS, content, *more], "requestBody": {"content": body}}
    return json.dumps(
        {
            "openapi": version,
            "paths": {"/a": {"post": operation}},
            "components": {"schemas": {"All": all_of_them, "Other": OTHER}},
        }
    )


@pytest.fixture(scope="module", params=["3.0.3", "3.1.0"])
def api(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Api:
    plain = (
        {**EVERY, "exclusiveMaximum": True, "exclusiveMinimum": True, "nullable": True}
        if request.param == "3.0.3"
        else EVERY
    )
    return Api(tmp_path_factory.mktemp("fuzz"), written(request.param, plain))


texts = st.text(max_size=12) | st.sampled_from(
    ["a", "b", "c", "xy", "1", "-0", "1e5", "true", "o", "1,2", "a,1", "::1", "a@b"]
)
numbers = st.integers() | st.floats(allow_nan=False) | st.sampled_from([0, 1, 1.0, -0.0, 10**400, 1e308, 5e-324])
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(texts, inner, max_size=5),
    max_leaves=20,
)


def as_json(value: Any) -> bytes:
    return json.dumps(value).replace("Infinity", "1e999").encode()


@given(value=values)
@settings(deadline=None)
def test_any_json_value_is_judged(api: Api, value: Any) -> None:
    """Any JSON value is judged."""
    api.judge("POST", "/a", JSON, body=as_json(value))


@given(body=st.binary(max_size=60) | st.text(alphabet='[]{}",:\\u0019dD8e+-.truefalsn ', max_size=60).map(str.encode))
@settings(deadline=None)
def test_any_bytes_are_judged_as_json_form_and_multipart(api: Api, body: bytes) -> None:
    """Any bytes are judged as JSON, as a form and as one of several parts."""
    api.judge("POST", "/a", JSON, body=body)
    api.judge("POST", "/a", FORM, body=body)
    api.judge("POST", "/a", (b"Content-Type", b"multipart/form-data; boundary=X"), body=body)


@given(
    pairs=st.lists(
        st.tuples(st.sampled_from(NAMES), st.sampled_from(["", "", "[a]", "[a][b]", "[", "[]"]), texts), max_size=6
    )
)
@settings(deadline=None)
def test_any_query_is_judged_whatever_the_styles(api: Api, pairs: list[tuple[str, str, str]]) -> None:
    """Any query is judged, whatever its parameters' styles, and so is the same as a form and as several parts."""
    query = "&".join(f"{quote(name + inside)}={quote(text, errors='surrogatepass')}" for name, inside, text in pairs)
    api.judge("POST", f"/a?{query}")
    api.judge("POST", "/a", FORM, body=query.encode())
    plain = [(name, b"\r\n\r\n" + text.encode("utf-8", "replace")) for name, _, text in pairs]
    header, body = multipart(*plain)
    api.judge("POST", "/a", header, body=body)


@given(content_type=st.binary(max_size=40), header=st.binary(max_size=40), cookie=st.binary(max_size=20))
@settings(deadline=None)
def test_any_bytes_are_judged_as_values_of_headers(api: Api, content_type: bytes, header: bytes, cookie: bytes) -> None:
    """Any bytes are judged as the values of headers."""
    for kind in (b"application/json;", b"multipart/form-data; boundary=", b""):
        api.judge(
            "POST", "/a", (b"Content-Type", kind + content_type), (b"X-A", header), (b"Cookie", cookie), body=b"{}"
        )


def test_the_corpus_reaches_every_keyword(tmp_path: Path) -> None:
    """The schema of these tests has each keyword that is judged, but for those that only other keywords ask for."""
    from keyswap.operations.validate.keyword_writers import WRITERS_31

    said = json.dumps(EVERY)
    assert [word for word in WRITERS_31 if f'"{word}"' not in said] == ["$dynamicRef"]
