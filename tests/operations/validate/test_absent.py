"""What is absent, empty or divided: bodies, values and lists are read as the specifications have them."""

import json
from pathlib import Path

import pytest

from keyswap.model import Request
from tests.operations.judged import FORM, JSON, Api, multipart, of_body, of_path, of_query

LENGTH_0 = (b"Content-Length", b"0")
TEXT = (b"Content-Type", b"text/plain;charset=UTF-8")
ITEMS = "schema: {type: array, maxItems: 2, items: {type: string, maxLength: 3}}"
OBJECT = "schema: {type: object, properties: {a: {type: string}, b: {type: integer}}, additionalProperties: false}"


def taking(folder: Path, kind: str, schema: str, required: str = "", head: str = "3.1.0") -> Api:
    """An API whose operation takes a body of one media type."""
    body = f"{{{required}content: {{{kind}: {{schema: {schema}}}}}}}"
    return Api(folder, f"openapi: {head}\npaths: {{/a: {{post: {{requestBody: {body}}}}}}}\n")


@pytest.mark.parametrize("head", ["3.0.3", "3.1.0"])
@pytest.mark.parametrize("required", ["", "required: false, "])
@pytest.mark.parametrize(
    "kind", ["application/json", "application/x-www-form-urlencoded", "multipart/form-data", "'*/*'"]
)
def test_an_optional_body_may_be_absent(tmp_path: Path, kind: str, required: str, head: str) -> None:
    """With a Content-Type or without, of no length or of none declared; one that is there is judged."""
    api = taking(tmp_path, kind, "{type: object, required: [a]}", required, head)
    named = (b"Content-Type", kind.strip("'").encode()) if kind != "'*/*'" else JSON
    multi = (b"Content-Type", b"multipart/form-data; boundary=b")
    for headers in ((), (LENGTH_0,), (named,), (named, LENGTH_0), (TEXT, LENGTH_0), (TEXT,), (multi, LENGTH_0)):
        assert api.messages("POST", "/a", *headers, body=b"") == [], headers
    assert (
        api.messages("POST", "/a", JSON, body=b"{}") and api.messages("POST", "/a", TEXT, body=b"{")
        if kind != "'*/*'"
        else True
    )


def test_a_required_body_is_required(tmp_path: Path) -> None:
    """No bytes are no JSON and no multipart form, but they are an empty form."""
    for kind in ("application/json", "multipart/form-data"):
        api = taking(tmp_path, kind, "{type: object}", "required: true, ")
        for headers in ((), ((b"Content-Type", kind.encode()),), (FORM,)):
            assert api.messages("POST", "/a", *headers, LENGTH_0, body=b"") == ["it is required"]
    form = taking(tmp_path, FORM[1].decode(), "{type: object}", "required: true, ")
    assert form.messages("POST", "/a", FORM, LENGTH_0, body=b"") == [] and form.messages("POST", "/a", body=b"")
    field = taking(tmp_path, FORM[1].decode(), "{type: object, required: [x]}", "required: true, ")
    assert field.messages("POST", "/a", FORM, body=b"") == ["'x' is required"]


def test_a_type_beside_bytes_is_judged(tmp_path: Path) -> None:
    """A body of another type is refused before it is read where its length says that there is one, else when it has come."""
    api = taking(tmp_path, "application/json", "{type: object}")
    early = Request("POST", b"/a", (TEXT, (b"Content-Length", b"5")), "10.0.0.1")
    assert api.validations.parameters(early, api.found("POST", "/a")) is not None
    late = Request("POST", b"/a", (TEXT, (b"Transfer-Encoding", b"chunked")), "10.0.0.1")
    assert api.validations.parameters(late, api.found("POST", "/a")) is None
    assert api.faults("POST", "/a", TEXT, body=b"{}") == [("header", "Content-Type")]
    assert api.faults("POST", "/a", body=b"{}") == [("header", "Content-Type")]


@pytest.mark.parametrize("kind", [b"application/json, text/plain", b"application/json,application/x", b"json", b"", b";", b"application/", b"application/json x", b"application / json"])  # fmt: skip
def test_a_content_type_is_one_media_type(tmp_path: Path, kind: bytes) -> None:
    """What is no media type is none of a range either, whether the body's length is declared (Content-Length) or not
    (chunks, HTTP/2): a lenient backend may read it as JSON."""
    for documented in ("'application/*'", "'*/*'"):
        api = taking(tmp_path, documented, "{type: object}")
        for length in ((), ((b"Content-Length", b"2"),)):
            assert api.messages("POST", "/a", (b"Content-Type", kind), *length, body=b"[]"), (documented, length)
    api = of_body(tmp_path, "{type: object}")
    assert api.messages("POST", "/a", (b"Content-Type", kind), body=b"{}")


@pytest.mark.parametrize("kinds", [(b"application/json", b"text/plain"), (b"text/plain", b"application/json"), (b"text/plain", b"text/plain"), (b"text/plain", b"")])  # fmt: skip
@pytest.mark.parametrize("length", [(), ((b"Content-Length", b"2"),)], ids=["undeclared", "declared"])
def test_a_content_type_that_is_sent_twice_is_a_fault(
    tmp_path: Path, kinds: tuple[bytes, ...], length: tuple[tuple[bytes, bytes], ...]
) -> None:
    """Backends differ in which of two lines they read: the body goes on unjudged by neither, range or not."""
    content = "{application/json: {schema: {type: object}}, '*/*': {}, 'text/*': {}}"
    text = f"openapi: 3.1.0\npaths: {{/a: {{post: {{requestBody: {{content: {content}}}}}}}}}\n"
    api = Api(tmp_path, text, "requests: enforce")
    lines = [(b"Content-Type", kind) for kind in kinds]
    assert api.faults("POST", "/a", *lines, *length, body=b"[]") == [("header", "Content-Type")]


def test_a_form_is_no_json_whatever_it_says(tmp_path: Path) -> None:
    """A body is read as its Content-Type says, and compressed forms not at all."""
    api = of_body(tmp_path, "{type: object}")
    assert api.messages("POST", "/a", JSON, body=b"amount=500") == ["the body is no JSON"]
    form = taking(tmp_path, FORM[1].decode(), "{type: object}")
    for encoding in (b"gzip", b"deflate", b"x"):
        assert form.messages("POST", "/a", FORM, (b"Content-Encoding", encoding), body=b"a=1")
    assert form.messages("POST", "/a", FORM, (b"Content-Encoding", b"identity"), body=b"a=1") == []
    assert form.messages("POST", "/a", FORM, body=b"a=1&_charset_=utf-16")


LARGEST, BEYOND = str(2**1024 - 2**970 - 1).encode(), str(2**1024 - 2**970).encode()
"""The last integer that doubles round to a number, and the first that they make infinite."""


@pytest.mark.parametrize("body", [b"1e400", b"-1e400", b"1E+0400", b'{"a":[1.7976931348623159e308]}', b"1" * 310 + b".0", b"9" * 310 + b"e0", b"1" * 400, b"[" + b"9" * 5000 + b"]", b"-" + b"9" * 309, BEYOND, b'{"a":[1,' + BEYOND + b"]}"])  # fmt: skip
def test_a_number_beyond_doubles_is_refused(tmp_path: Path, body: bytes) -> None:
    """One program makes it infinite, another refuses it, a third reads an integer exactly (RFC 8259 §6)."""
    api = of_body(tmp_path, "{}")
    assert api.messages("POST", "/a", JSON, body=body) == ["the number is larger than any that programs agree about"]  # fmt: skip
    for good in (
        b"1e308",
        b"1e-999",
        b"0.0e99",
        b"1" * 309,
        LARGEST,
        b"-" + LARGEST,
        b"[" + LARGEST + b".0]",
        b'"1e400"',
        b'{"e000": 5, "1e400": "' + b"7" * 300 + b'"}',
    ):
        assert api.messages("POST", "/a", JSON, body=good) == [], good


@pytest.mark.parametrize(
    ("body", "at"),
    [
        (b"1e400", ""),
        (b"[[],[1,2],3,[4,1e400]]", "/3/1"),
        (b'{"a": {"b": [0, {}, {"c/d": %s}]}, "e": [5]}' % BEYOND, "/a/b/2/c~1d"),
        (b'[{"a": [1]}, {"b": {"c": 1}}, {"d": {"e": -1e400, "f": 1}}]', "/2/d/e"),
    ],
)
def test_a_number_beyond_doubles_is_found(tmp_path: Path, body: bytes, at: str) -> None:
    """Whoever sent it is told where it stands."""
    api = of_body(tmp_path, "{}")
    assert api.faults("POST", "/a", JSON, body=body) == [("body", at)]


# ---- Values


@pytest.mark.parametrize(
    ("parameter", "good", "bad"),
    [
        ("name: q, schema: {type: string}", ["q=", "q", ""], ["q=&q="]),
        ("name: q, schema: {type: string, minLength: 1}", ["q=a"], ["q=", "q"]),
        ("name: q, schema: {enum: ['', a]}", ["q=", "q=a"], ["q=b"]),
        ("name: q, schema: {type: integer}", ["q=1"], ["q=", "q"]),
        ("name: q, schema: {type: [integer, 'null']}", ["q=1"], ["q="]),
        ("name: q, required: true, schema: {type: string}", ["q="], [""]),
        ("name: q, allowEmptyValue: true, schema: {type: integer}", ["q=", "q", "q=1", ""], ["q=x", "q=&q="]),
        ("name: q, allowEmptyValue: true, schema: {type: boolean}", ["q=", "q=true"], ["q=x"]),
        ("name: q, allowEmptyValue: true, required: true, schema: {type: string, minLength: 2}", ["q=", "q=ab"], ["q=a", ""]),
        ("name: q, allowEmptyValue: false, schema: {type: string}", ["q="], []),
        ("name: q, schema: {type: array, items: {type: string}}", ["q=", "q=&q="], []),
    ],
)  # fmt: skip
def test_an_empty_value_goes_to_its_schema(tmp_path: Path, parameter: str, good: list[str], bad: list[str]) -> None:
    """Empty is a value like any other; where `allowEmptyValue` says so, it is as if the parameter was not used."""
    api = of_query(tmp_path, parameter)
    assert [query for query in good if api.messages("GET", f"/a?{query}")] == []
    assert [query for query in bad if not api.messages("GET", f"/a?{query}")] == []


@pytest.mark.parametrize(
    ("parameter", "good", "bad"),
    [
        (f"name: s, explode: false, {ITEMS}", ["s=a%2Cx,b", "s=a%2Cb", "s=a%2cb", "s=a,b", "s=a%2C,b", "s=+,%2B"], ["s=a,b,c", "s=a%2Cb%2Cc", "s=a%2C%2Cx,b"]),
        (f"name: s, explode: false, {OBJECT}", ["s=a,1%2C2,b,3", "s=a,x,b,3", "s=a%2Cx%2Cb%2C3", "s=a,%3D"], ["s=a,1,2,b,3", "s=b,x", "s=a%2C1,b"]),
        (f"name: s, style: pipeDelimited, {ITEMS}", ["s=a|b", "s=a%7Cb"], ["s=a|b|c", "s=a%7Cb|c"]),
        (f"name: s, style: spaceDelimited, {ITEMS}", ["s=a%20b", "s=a+b"], ["s=a%20b+c"]),
        (f"name: s, {ITEMS}", ["s=a,b&s=c", "s=a%2Cb&s=c"], ["s=a&s=b&s=c", "s=a,bcd"]),
    ],
)  # fmt: skip
def test_separators_of_a_query_stand_as_they_are(
    tmp_path: Path, parameter: str, good: list[str], bad: list[str]
) -> None:
    """A separator that is escaped belongs to a value (RFC 6570 §3.2.1), unless no other stands there; forms alike."""
    api = of_query(tmp_path, parameter)
    assert [query for query in good if api.messages("GET", f"/a?{query}")] == []
    assert [query for query in bad if not api.messages("GET", f"/a?{query}")] == []


def test_separators_of_a_form_stand_as_they_are(tmp_path: Path) -> None:
    """Fields whose encoding divides them; what comes in parts is not escaped at all."""
    schema = {"type": "object", "properties": {"s": {"type": "array", "maxItems": 2, "items": {"type": "string"}}}}
    content = {"schema": schema, "encoding": {"s": {"style": "form", "explode": False}}}
    kinds = dict.fromkeys((FORM[1].decode(), "multipart/form-data"), content)
    api = Api(tmp_path, json.dumps({"openapi": "3.1.0", "paths": {"/a": {"post": {"requestBody": {"content": kinds}}}}}))  # fmt: skip
    assert api.messages("POST", "/a", FORM, body=b"s=a%2Cx,b") == [] and api.messages(
        "POST", "/a", FORM, body=b"s=a,b,c"
    )
    header, body = multipart(("s", b"\r\n\r\na%2Cx,b"))
    assert api.messages("POST", "/a", header, body=body) == []


@pytest.mark.parametrize(
    ("style", "explode", "schema", "good", "bad"),
    [
        ("simple", False, ITEMS, ["a%2Cx,b", "a%2Cb"], ["a,b,c", "a%2Cb%2Cc"]),
        ("simple", False, OBJECT, ["a,1%2C2,b,3"], ["a,1,2,b,3"]),
        ("simple", True, OBJECT, ["a=1%2C2,b=3", "a=x%3Dy,b=3"], ["a=1,2,b=3"]),
        ("label", False, ITEMS, [".a%2Cx,b"], [".a,b,c", "a,b"]),
        ("label", True, ITEMS, [".a.b"], [".a.b.c"]),
        ("matrix", False, ITEMS, [";id=a%2Cx,b"], [";id=a,b,c", "a,b"]),
        ("matrix", True, ITEMS, [";id=a;id=b"], [";id=a;id=b;id=c"]),
    ],
)  # fmt: skip
def test_separators_of_a_path_stand_as_they_are(
    tmp_path: Path, style: str, explode: bool, schema: str, good: list[str], bad: list[str]
) -> None:
    """In every style of a path, of arrays and of objects."""
    api = of_path(tmp_path, f"style: {style}, explode: {str(explode).lower()}, {schema}")
    assert [path for path in good if api.messages("GET", f"/a/{path}")] == []
    assert [path for path in bad if not api.messages("GET", f"/a/{path}")] == []


def test_a_list_in_several_lines_is_one_list(tmp_path: Path) -> None:
    """RFC 9110 §5.3: the lines of a header that is a list are joined; those of another header are one too many."""
    listed = "{in: header, name: X-Ids, schema: {type: array, maxItems: 3, items: {type: integer}}}, {in: header, name: X-One, schema: {type: string}}, {in: header, name: X-Map, schema: {type: object, properties: {a: {type: integer}}}}, {in: header, name: X-Ref, schema: {$ref: '#/components/schemas/Ids'}}"
    ids = "components: {schemas: {Ids: {allOf: [{type: array, items: {type: integer}}]}}}"
    api = Api(tmp_path, f"openapi: 3.1.0\npaths: {{/a: {{get: {{parameters: [{listed}]}}}}}}\n{ids}")
    assert api.messages("GET", "/a", (b"X-Ids", b"1"), (b"x-ids", b"2 , 3")) == []
    assert api.messages("GET", "/a", (b"X-Ids", b"1, 2"), (b"X-Ids", b"3"), (b"X-Ids", b"4")) == ["must have at most 3 items"]  # fmt: skip
    assert api.messages("GET", "/a", (b"X-Ids", b"1"), (b"X-Ids", b"x"))
    assert api.messages("GET", "/a", (b"X-Map", b"a"), (b"X-Map", b"1")) == []
    assert api.messages("GET", "/a", (b"X-Ref", b"1"), (b"X-Ref", b"2")) == []
    assert api.messages("GET", "/a", (b"X-One", b"1"), (b"X-One", b"1")) == ["it was sent more than once"]
