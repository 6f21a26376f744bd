"""One reading: what is judged is what the backend reads, and what two programs could read differently is refused."""

import json
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keyswap.operations.template import Template
from tests.operations.judged import FORM, JSON, Api, multipart, of_body, of_path, of_query

ITEMS = "schema: {type: array, items: {type: integer}}"
OBJECT = "schema: {type: object, properties: {a: {type: integer}, b: {type: array, items: {type: integer}}}}"


@pytest.mark.parametrize(
    ("parameter", "good", "bad"),
    [
        (f"name: n, style: deepObject, explode: true, {OBJECT}",
         ["n[a]=1", "n[a]=1&n[b]=1&n[b]=2", "m[a]=x", "n[c]=x", "n[c][d]=1"],
         ["n[a]=1&n[a]=x", "n[a]=x&n[a]=1", "n[a]=x", "n[a]", "n=1", "n[]=1", "n[a=1", "n[a]b=1", "n[c]=1&n[c][d]=1", "n[c]=1&n[c]=2"]),
        (f"name: n, {OBJECT}", ["a=1", "a=1&b=1&b=2", "c=x&c=y", ""], ["a=x", "a=1&a=1", "a=1&b=x", "b=1&b=x"]),
        (f"name: n, explode: false, {OBJECT}", ["n=a,1", "n=c,x"], ["n=a,x", "n=a", "n=a,1,a,1", "n=a,1&n=a,x"]),
        (f"name: n, style: pipeDelimited, explode: false, {OBJECT}", ["n=a|1"], ["n=a|x", "n=a"]),
        (f"name: ids, {ITEMS}", ["ids=1&ids=2", "ids=1"], ["ids=1&ids=x", "ids=1,2", "ids="]),
        (f"name: ids, explode: false, {ITEMS}", ["ids=1,2"], ["ids=1,x", "ids=1&ids=2", "ids=1,2&ids=x"]),
        (f"name: ids, style: pipeDelimited, {ITEMS}", ["ids=1|2", "ids=1%7C2"], ["ids=1|2&ids=x", "ids=x|1", "ids=1,2"]),
        (f"name: ids, style: spaceDelimited, {ITEMS}", ["ids=1%202", "ids=1+2"], ["ids=1%202&ids=3", "ids=1%20x"]),
        (f"name: ids, style: spaceDelimited, explode: true, {ITEMS}", ["ids=1&ids=2"], ["ids=1%202", "ids=x&ids=1"]),
        (f"name: ids, style: pipeDelimited, explode: true, {ITEMS}", ["ids=1&ids=2"], ["ids=1|2"]),
        ("name: n.*, schema: {type: integer}", ["n.*=1", "nxx=x"], ["n.*=x"]),
    ],
)  # fmt: skip
def test_arrays_and_objects_of_a_query_are_read_by_their_style(
    tmp_path: Path, parameter: str, good: list[str], bad: list[str]
) -> None:
    """Arrays and objects are read by style and `explode`; a member or name that is judged is sent once."""
    api = of_query(tmp_path, parameter)
    assert [query for query in good if api.judge("GET", f"/a?{query}")] == []
    assert [query for query in bad if not api.judge("GET", f"/a?{query}")] == []


def test_an_exploded_object_beside_others(tmp_path: Path) -> None:
    """Parameters of their own are no members of it; others are, where it says what those may be."""
    api = of_query(
        tmp_path,
        "name: n, schema: {type: object, additionalProperties: {type: integer}}",
        "name: q, schema: {type: string}",
    )
    assert api.faults("GET", "/a?q=x&other=1") == [] and api.faults("GET", "/a?q=x") == []
    assert api.faults("GET", "/a?q=x&other=y") == [("query", "n")]


@pytest.mark.parametrize(
    ("style", "explode", "good", "bad"),
    [
        ("simple", False, ["1,2"], ["1,x", "1,,2"]),
        ("label", False, [".1,2", ".1"], ["1,2", ".x"]),
        ("label", True, [".1.2"], [".1.x", "1.2"]),
        ("matrix", False, [";id=1,2"], [";id=1,x", ";ix=1", "1"]),
        ("matrix", True, [";id=1;id=2"], [";id=1;id=x", ";id=1;ix=2"]),
    ],
)
def test_parameters_of_a_path_are_read_by_their_style(
    tmp_path: Path, style: str, explode: bool, good: list[str], bad: list[str]
) -> None:
    """The styles of RFC 6570 are read as they are written."""
    api = of_path(tmp_path, f"style: {style}, explode: {str(explode).lower()}, {ITEMS}")
    assert [path for path in good if api.judge("GET", f"/a/{path}")] == []
    assert [path for path in bad if not api.judge("GET", f"/a/{path}")] == []


def test_objects_of_a_path_and_lists_of_a_header(tmp_path: Path) -> None:
    """Objects are pairs; blanks around the items of a header's list are no part of them."""
    number = "schema: {type: object, additionalProperties: {type: integer}}"
    listed = f"{{name: id, in: path, required: true, explode: true, {number}}}, {{name: X-Ids, in: header, {ITEMS}}}"
    api = Api(tmp_path, f"openapi: 3.1.0\npaths: {{'/a/{{id}}': {{get: {{parameters: [{listed}]}}}}}}")
    assert api.faults("GET", "/a/a=1,b=2", (b"x-ids", b"1, 2 ,3")) == []
    assert api.faults("GET", "/a/a=x", (b"x-ids", b"1, x")) == [("path", "id"), ("header", "X-Ids")]


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        ("integer", ["1", "-1", "0", "-0", "9" * 308], ["9" * 309, "-" + "9" * 400, "1_0", "%205", "5%0A", "%D9%A3", "+1", "01", "1.0", "1e2", "0x1", "", "9" * 5000, "--1"]),
        ("number", ["1", "-1.5", "1e5", "1E-5", "0.1", "9" * 308], ["9" * 309, "nan", "NaN", "inf", "Infinity", "-inf", "1e400", ".5", "5.", "1_0.5", "%201", "01.5", "%D9%A3"]),
        ("boolean", ["true", "false"], ["2", "truth", "%D9%A3", "true%20"]),
        ("[integer, 'null']", ["1"], ["x", "null"]),
        ("[integer, boolean]", ["1", "true"], ["x", "1.5"]),
    ],
)  # fmt: skip
def test_a_number_is_what_the_grammar_of_json_has(tmp_path: Path, kind: str, good: list[str], bad: list[str]) -> None:
    """A number is what JSON's grammar has, and nothing that only Python reads as one."""
    api = of_query(tmp_path, f"name: n, schema: {{type: {kind}}}")
    assert [text for text in good if api.judge("GET", f"/a?n={text}")] == []
    assert [text for text in bad if not api.judge("GET", f"/a?n={text}")] == []


def test_a_text_of_several_types_is_read_as_the_one_that_fits(tmp_path: Path) -> None:
    """Where a schema allows a number and a text, either reading is enough; an enumeration without a type is of both."""
    api = of_query(tmp_path, "name: n, schema: {anyOf: [{type: integer, maximum: 5}, {type: string, maxLength: 2}]}", "name: e, schema: {enum: [1, b, true]}")  # fmt: skip
    for query, fits in (
        ("n=5", True),
        ("n=10", True),
        ("n=100", False),
        ("e=1", True),
        ("e=b", True),
        ("e=true", True),
        ("e=2", False),
    ):
        assert (api.judge("GET", f"/a?{query}") is None) == fits, query


FORMS = json.dumps(
    {
        "openapi": "3.1.0",
        "paths": {"/a": {"post": {"requestBody": {"content": {
            kind: {"schema": {"$ref": "#/components/schemas/Form"}, "encoding": {"csv": {"style": "form", "explode": False}, "deep": {"style": "deepObject", "explode": True}}}
            for kind in ("application/x-www-form-urlencoded", "multipart/form-data")
        }}}}},
        "components": {"schemas": {"Form": {"type": "object", "properties": {
            "age": {"type": ["integer", "null"], "maximum": 99}, "tags": {"type": "array", "items": {"type": "integer"}}, "csv": {"type": "array", "items": {"type": "integer"}},
            "deep": {"type": "object", "properties": {"n": {"type": "integer"}}}, "meta": {"type": "object", "required": ["x"]}, "one": {"anyOf": [{"type": "array", "items": {"type": "integer"}}, {"type": "string", "maxLength": 2}]},
        }, "additionalProperties": {"type": "string", "maxLength": 3}}}},
    }
)  # fmt: skip


@pytest.mark.parametrize(
    ("pairs", "faults"),
    [
        (["age=1", "tags=1", "tags=2", "csv=1,2", "deep[n]=1", 'meta={"x":1}', "other=abc"], []),
        (["age=1", "age=x"], [("body", "")]),
        (["age=1", "age=1"], [("body", "")]),
        (["age=100"], [("body", "/age")]),
        (["tags=1", "tags=x"], [("body", "/tags/1")]),
        (["tags=1"], []),
        (["csv=1,x"], [("body", "/csv/1")]),
        (["csv=1", "csv=x"], [("body", "")]),
        (["deep[n]=x"], [("body", "/deep/n")]),
        (["deep[n]=1", "deep[n]=x"], [("body", "")]),
        (["meta={}"], [("body", "/meta")]),
        (['meta={"x":1,"x":2}'], [("body", "/meta")]),
        (["other=abcd"], [("body", "/other")]),
        (["other=a", "other=b"], [("body", "")]),
        (["one=1", "one=2"], []),
        (["one=ab"], []),
        (["one=abc"], [("body", "/one/0")]),
    ],
)  # fmt: skip
def test_a_field_that_is_no_array_is_sent_once(tmp_path: Path, pairs: list[str], faults: list[tuple[str, str]]) -> None:
    """Forms of both kinds are read alike: each field by its schema and encoding, all that was sent of it."""
    api = Api(tmp_path, FORMS)
    parts = [(name, b"\r\n\r\n" + text.encode()) for name, _, text in (pair.partition("=") for pair in pairs)]
    header, body = multipart(*parts)
    assert api.faults("POST", "/a", FORM, body="&".join(pairs).encode()) == faults
    assert api.faults("POST", "/a", header, body=body) == faults


@pytest.mark.parametrize(
    ("parameters", "readable"),
    [
        ("boundary=B", True), ('boundary="B"', True), ("boundary=B;", False), ("charset=utf-8; boundary=B", True), ("BOUNDARY=B", True),
        ("boundary=B; boundary=A", False), ("boundary=A; boundary=B", False), ('boundary=B; boundary="B"', False), ("boundary*=utf-8''B", False),
        ("boundary*0=B", False), ("boundary=B; charset=utf-7", False), ("boundary=B; x", False), ("boundary", False), ("", False),
    ],
)  # fmt: skip
def test_a_boundary_is_named_once(tmp_path: Path, parameters: str, readable: bool) -> None:
    """The parameters of Content-Type have one reading."""
    _, body = multipart(("age", b"\r\n\r\n1"), boundary="B")
    api = Api(tmp_path, FORMS)
    found = api.faults("POST", "/a", (b"Content-Type", f"multipart/form-data; {parameters}".encode()), body=body)
    assert found == ([] if readable else [("body", "")])


def test_the_headers_of_parts_are_bounded(tmp_path: Path) -> None:
    """Parts have names, not pages of headers: 128 KiB for all of them, however they are divided."""
    api = Api(tmp_path, FORMS, "requests: enforce, max_body: 1MiB")
    for count, lines in ((1, 40_000), (100, 400)):
        header, body = multipart(
            *(
                ("tags", b"\r\n" + b"".join(b"A%d: b\r\n" % line for line in range(lines)) + b"\r\n1")
                for _ in range(count)
            ),
            boundary="B",
        )
        assert api.messages("POST", "/a", header, body=body) == ["the parts of the body have too long headers"]
        assert api.messages("POST", "/a", header, body=body.replace(b"\r\n--B", b"\r--B"))
    header, body = multipart(*(("tags", b"\r\nContent-Type: text/plain\r\n\r\n1") for _ in range(999)), boundary="B")
    assert api.messages("POST", "/a", header, body=body) == []


@pytest.mark.parametrize("charset", ["utf-7", "utf-16", "iso-8859-1", "utf-8; charset=utf-16", '"UTF-16"', "utf-8, x"])
def test_json_that_says_to_be_in_another_charset_is_refused(tmp_path: Path, charset: str) -> None:
    """JSON that says to be in another charset would be read as something else behind us."""
    api = of_body(tmp_path, "{type: object}")
    assert api.faults("POST", "/a", (b"Content-Type", f"application/json; charset={charset}".encode()), body=b"{}")
    for good in ("utf-8", "UTF-8", '"utf-8"'):
        assert (
            api.faults("POST", "/a", (b"Content-Type", f"application/json; charset={good}".encode()), body=b"{}") == []
        )


@pytest.mark.parametrize("body", [b'"\\ud800"', b'{"\\uDFFF": 1}', b'["\\udc00\\ud800"]'])
def test_half_a_character_is_none(tmp_path: Path, body: bytes) -> None:
    """A surrogate alone is replaced by some programs and kept by others."""
    api = of_body(tmp_path, "{}")
    assert api.faults("POST", "/a", JSON, body=body) == [("body", "")]
    assert api.faults("POST", "/a", JSON, body=b'"\\ud83d\\ude00"') == []


def test_schemas_of_other_files_keep_their_own_references(tmp_path: Path) -> None:
    """A reference is relative to the file in which it stands, also where its schema may be null."""
    other = "M: {anyOf: [{$ref: '#/Int'}, {type: 'null'}]}\nInt: {type: integer, maximum: 5}\n"
    text = "openapi: 3.1.0\nInt: {type: string}\npaths: {/a: {get: {parameters: [{name: n, in: query, schema: {$ref: 's.yaml#/M'}}]}}}"
    api = Api(tmp_path, text, s=other)
    assert api.faults("GET", "/a?n=5") == []
    assert api.faults("GET", "/a?n=6") == api.faults("GET", "/a?n=x") == [("query", "n")]


@pytest.mark.parametrize(
    "said", ["{type: [integer, 'null']}", "{anyOf: [{type: integer}, {type: 'null'}]}", "{type: integer}"]
)
def test_what_stands_beside_a_reference_is_judged(tmp_path: Path, said: str) -> None:
    """In OpenAPI 3.1 keywords beside `$ref` are said as well."""
    schema = "{$ref: '#/components/schemas/M', maximum: 5}"
    head = f"openapi: 3.1.0\ncomponents: {{schemas: {{M: {said}}}}}"
    api = of_query(tmp_path, f"name: n, schema: {schema}", head=head)
    assert api.faults("GET", "/a?n=5") == [] and api.faults("GET", "/a?n=6") == [("query", "n")]
    body = of_body(tmp_path, schema, head)
    assert body.faults("POST", "/a", JSON, body=b"5") == [] and body.faults("POST", "/a", JSON, body=b"6") == [
        ("body", "")
    ]


def test_a_caller_chooses_no_schema(tmp_path: Path) -> None:
    """A discriminator chooses one of the alternatives, by name or mapping, and never another schema of the document."""
    kinds = "Cat: {type: object, required: [k, n], properties: {n: {type: integer}, deep: {type: object}}}, Dog: {type: object, required: [k]}"
    head = f"openapi: 3.1.0\ncomponents: {{schemas: {{{kinds}}}}}"
    api = of_body(tmp_path, "{oneOf: [{$ref: '#/components/schemas/Cat'}, {$ref: '#/components/schemas/Dog'}], discriminator: {propertyName: k, mapping: {d: '#/components/schemas/Dog'}}}", head)  # fmt: skip
    for body, fits in ((b'{"k":"Cat","n":1}', True), (b'{"k":"Cat"}', False), (b'{"k":"d"}', True), (b'{"k":"Dog","n":1}', True),
                       (b'{"k":["d"]}', True), (b'{"k":"Cat/properties/deep","n":1}', False), (b"[]", False)):  # fmt: skip
        assert (api.judge("POST", "/a", JSON, body=body) is None) == fits, body


def test_a_default_stands_for_nothing(tmp_path: Path) -> None:
    """What is not sent is not judged, even where its default would not fit; what is required is required."""
    api = of_query(
        tmp_path,
        "name: n, schema: {type: integer, default: x}",
        "name: m, required: true, schema: {type: integer, default: 5}",
    )
    assert api.faults("GET", "/a?m=1") == [] and api.faults("GET", "/a") == [("query", "m")]
    assert api.faults("GET", "/a?m=1&n=y") == [("query", "n")]


@pytest.mark.parametrize("kind", ["application/json; charset=utf-8", "Application/JSON", "'application/*'", "'*/*'"])
@pytest.mark.parametrize("sent", [b"application/json", b"application/json;charset=UTF-8", b"APPLICATION/json"])
def test_media_types_are_compared_without_case_and_parameters(tmp_path: Path, kind: str, sent: bytes) -> None:
    """However a media type is documented and sent, its schema is judged."""
    api = Api(
        tmp_path,
        f"openapi: 3.1.0\npaths: {{/a: {{post: {{requestBody: {{content: {{{kind}: {{schema: {{type: object}}}}}}}}}}}}}}",
    )
    assert api.faults("POST", "/a", (b"Content-Type", sent), body=b"{}") == []
    assert api.faults("POST", "/a", (b"Content-Type", sent), body=b"[]") == [("body", "")]


def test_the_narrowest_media_type_is_meant(tmp_path: Path) -> None:
    """A type comes before a range; one that is documented twice, with different parameters, is either."""
    content: dict[str, Any] = {
        "*/*": {"schema": {"type": "boolean"}}, "application/*": {"schema": {"type": "string"}},
        "application/json; v=1": {"schema": {"type": "integer"}}, "application/json; v=2": {"schema": {"type": "array"}},
    }  # fmt: skip
    api = Api(
        tmp_path, json.dumps({"openapi": "3.1.0", "paths": {"/a": {"post": {"requestBody": {"content": content}}}}})
    )
    for kind, body, fits in (("application/json", b"1", True), ("application/json", b"[]", True), ("application/json", b'""', False),
                             ("application/x+json", b'""', True), ("application/x+json", b"1", False), ("text/x+json", b"true", True)):  # fmt: skip
        assert (api.judge("POST", "/a", (b"Content-Type", kind.encode()), body=body) is None) == fits, (kind, body)


def test_a_segment_of_several_parameters_is_judged_in_each_of_its_readings(tmp_path: Path) -> None:
    """Routers give a literal between parameters its first place or its last, some after decoding: the schemas of a
    path hold for all of them."""
    listed = (
        "name: a, schema: {enum: [en, de]}",
        "name: b, schema: {type: string, maxLength: 8}",
        "name: n, schema: {type: integer}",
    )
    a, b, n = (f"{{in: path, required: true, {one}}}" for one in listed)
    api = Api(tmp_path, "openapi: 3.1.0\npaths:\n"
              f"  '/l/{{a}}-{{b}}': {{get: {{parameters: [{a}, {b}]}}}}\n"
              f"  '/c/{{a}}:{{b}}:v{{n}}.json': {{get: {{parameters: [{a}, {b}, {n}]}}}}\n"
              f"  '/f/{{b}}--{{n}}': {{get: {{parameters: [{b}, {n}]}}}}\n")  # fmt: skip
    for good in (
        "/l/en-US",
        "/l/en-a%2Cb",
        "/c/en:US:v5.json",
        "/c/en:x.v:v5.json",
        "/f/a--5",
        "/f/a-b--5",
        "/f/a---5",
    ):
        assert not api.faults("GET", good), good
    for bad in (
        "/l/fr-US",
        "/l/en-US-x",
        "/l/en-%2D%2D",
        "/c/en:US:x:v5.json",
        "/c/en:a%3Ab:v5.json",
        "/f/a--x",
        "/l/de-DE%2Dx",
    ):
        assert api.faults("GET", bad), bad


def divisions(text: bytes, between: tuple[bytes, ...]) -> Iterator[tuple[bytes, ...]]:
    """Every way to have a value, a literal, a value and so on, tried one after the other."""
    if not between:
        yield from [(text,)] if text else []
        return
    for at in range(1, len(text)):
        if text.startswith(between[0], at):
            yield from ((text[:at], *rest) for rest in divisions(text[at + len(between[0]) :], between[1:]))


@given(
    text=st.text(alphabet="a-.", min_size=1, max_size=12).map(str.encode),
    between=st.sampled_from([("-",), ("--",), ("-", "-"), ("-", "."), (".", "-", "."), ("--", "-"), ("-", "--", "-")]),
)
@settings(deadline=None)
def test_a_segment_is_divided_wherever_it_can_be(text: bytes, between: tuple[str, ...]) -> None:
    """Of the values that a parameter has in any division none is left out, and none is made up."""
    literals = tuple(map(str.encode, between))
    template = Template.parse("GET /x/{p0}" + "".join(f"{one}{{p{n}}}" for n, one in enumerate(between, 1)))
    found = template.shape.fullmatch(b"/x/" + text)
    if found is not None:
        expected = {one for values in divisions(text, literals) for one in enumerate(values)}
        assert {*template.otherwise(found.groups()), *enumerate(found.groups())} == expected


def test_a_value_between_the_first_and_the_last_division_is_judged(tmp_path: Path) -> None:
    """However a backend divides a segment, its values are as the document has them, or it is refused."""
    schemas = ("{in: path, required: true, name: a, schema: {enum: [x, x-y-z]}}", "{in: path, required: true, name: b, schema: {enum: [y-z-w, w]}}")  # fmt: skip
    api = Api(tmp_path, f"openapi: 3.1.0\npaths: {{'/l/{{a}}-{{b}}': {{get: {{parameters: [{', '.join(schemas)}]}}}}}}")
    assert api.faults("GET", "/l/x-y-z-w") == [("path", "a"), ("path", "b")]
    assert api.faults("GET", "/l/x-w") == []


@pytest.mark.timing
def test_a_segments_readings_take_time_in_proportion_to_its_length(tmp_path: Path) -> None:
    """However often the literals between parameters stand in a segment; what could be too much else is refused."""
    template = Template.parse("GET /x/{a}-{b}.{c}-{d}")
    found = template.shape.fullmatch(b"/x/" + b"a-b.c-" * 20_000 + b"d")
    assert found is not None and found.groups()[:3] == (b"a", b"b", b"c")
    began = time.thread_time()
    assert len(list(islice(template.otherwise(found.groups()), 1000))) == 1000
    assert time.thread_time() - began < 0.2
    assert list(template.otherwise((b"a", b"b", b"c", b"d"))) == []
    text = "openapi: 3.1.0\npaths: {'/l/{a}-{b}': {get: {parameters: [{in: path, required: true, name: a, schema: {type: string}}]}}}"
    api, took = Api(tmp_path, text), []
    for target, faults in (("/l/a" + "-b" * 100, []), ("/l/a" + "-b" * 102, [("path", "b")]), ("/l/a" + "-b" * 4000, [("path", "a")])):  # fmt: skip
        began = time.thread_time()
        assert api.faults("GET", target) == faults, target
        took.append(time.thread_time() - began)
    assert max(took) < 0.05
