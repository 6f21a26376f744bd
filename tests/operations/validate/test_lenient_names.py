"""Names are compared as the most lenient backend compares them: what one of them reads as a judged name is refused."""

import json
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote_plus

import pytest

from tests.operations.judged import FORM, JSON, Api, multipart, of_body, of_query

NUMBER = {"type": "integer", "maximum": 10}
PARAMETERS: list[dict[str, Any]] = [
    {"in": "query", "name": "amount", "schema": NUMBER},
    {"in": "query", "name": "user_id", "schema": NUMBER},
    {"in": "query", "name": "filter[size]", "schema": NUMBER},
    {"in": "query", "name": "tags[]", "schema": {"type": "array", "items": NUMBER}},
    {"in": "query", "name": "page.size", "schema": NUMBER},
    {"in": "query", "name": "deep", "style": "deepObject", "explode": True, "schema": {"type": "object", "properties": {"a": NUMBER}}},
    {"in": "query", "name": "made", "schema": {"type": "object", "properties": {"member": NUMBER}}},
]  # fmt: skip
FIELDS = {str(one["name"]): one["schema"] for one in PARAMETERS[:6]}
KINDS = ("application/x-www-form-urlencoded", "multipart/form-data")
ENCODING = {"deep": {"style": "deepObject", "explode": True}}


def document(**more: Any) -> str:
    content = {kind: {"schema": {"type": "object", "properties": FIELDS}, "encoding": ENCODING} for kind in KINDS}
    operation = {"parameters": PARAMETERS, "requestBody": {"content": content}}
    return json.dumps({"openapi": "3.1.0", "paths": {"/a": {"post": operation, "get": {}}}, **more})


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Api:
    return Api(tmp_path_factory.mktemp("api"), document())


ALIASES = (
    *("amount[]", "amount[0]", "amount[a][b]", "amount.", "amount.x", "amount[", "%20amount", "+amount", "amount%20", "%09amount"),
    *("Amount", "AMOUNT", "amount%00", "amount%00x", "%00amount", "amount%0A", "amount%3Bx", "!amount", "amOunt"),
    *("user.id", "user%20id", "user[id", "User_ID", "u%C5%BFer_id", "user_id[0]"),
    *("filter.size", "filter[size][]", "filter[ size]", "Filter[size]", "filter[size].x", "filter", "filter[SIZE]"),
    *("tags", "tags[0]", "tags.x", "page_size", "page[size]", "page%20size", "Deep[a]", "%20deep[a]", "deep.a", "deep%5Ba"),
    *("x%00", "x%7F", "x%3By", "_method", "_Method", "%20_method", ".method", "_method[]"),
)  # fmt: skip
OTHERS = ("other", "amounts", "amount_", "amount-x", "x[amount]", "x.amount", "user", "filter[x]", "filters", "method", "a%5Bb%5D", "%C3%A4", "deep[a]", "page")  # fmt: skip


@pytest.mark.parametrize("name", ALIASES)
def test_a_name_that_a_backend_reads_as_a_judged_one_is_refused(api: Api, name: str) -> None:
    """In queries, forms and multipart forms alike, alone or beside the documented name."""
    for pairs in (f"{name}=500", f"amount=5&{name}=500", f"{name}=500&amount=5"):
        assert api.messages("POST", f"/a?{pairs}"), pairs
        assert api.messages("POST", "/a", FORM, body=pairs.encode()), pairs
    header, body = multipart((unquote_plus(name), b"\r\n\r\n500"))
    assert api.messages("POST", "/a", header, body=body)


@pytest.mark.parametrize("name", OTHERS)
def test_names_that_no_backend_takes_for_a_judged_one_pass(api: Api, name: str) -> None:
    """What no backend takes for a judged name is the backend's own business, as long as the policy allows it."""
    for pairs in (f"{name}=5", f"amount=5&{name}=5"):
        assert api.messages("POST", f"/a?{pairs}") == []
        assert api.messages("POST", "/a", FORM, body=pairs.encode()) == []
    header, body = multipart((unquote_plus(name), b"\r\n\r\n5"))
    assert api.messages("POST", "/a", header, body=body) == []


def test_documented_names_are_themselves(tmp_path: Path, api: Api) -> None:
    """A name that the document has is judged by its schema, whatever other name it resembles."""
    query = "amount=5&user_id=5&filter[size]=5&tags[]=5&tags%5B%5D=6&page.size=5&deep[a]=5&member=5"
    assert api.messages("POST", f"/a?{query}") == []
    assert api.messages("POST", "/a", FORM, body=query.replace("&member=5", "").encode()) == []
    for name in ("filter[size]", "tags[]", "page.size", "deep[a]"):
        assert api.messages("POST", f"/a?{quote(name)}=500") and api.messages("POST", f"/a?{name}=500")
    both = of_query(tmp_path, "name: a, schema: {type: integer}", "name: A, schema: {type: string}", "name: _method, schema: {enum: [put]}")  # fmt: skip
    assert both.messages("GET", "/a?a=1&A=x&_method=put") == [] and both.messages("GET", "/a?_method=delete")


def test_members_of_an_exploded_object_are_judged_names(api: Api) -> None:
    """Its properties are parameters of the query, and so are compared as parameters are."""
    assert api.messages("POST", "/a?member=11") and api.messages("POST", "/a?member=5") == []
    for name in ("Member", "member[]", "member.x", "%20member"):
        assert api.messages("POST", f"/a?{name}=500")


@pytest.mark.parametrize(
    "query",
    ["amount=5&x=1;amount=500", "amount=5;", "x;y=1", "amount=5&x=%", "amount=5&x=%zz", "%a=1", "x=%u0041", "x=%ff", "x=%c3"],
)  # fmt: skip
def test_queries_and_forms_have_one_reading(api: Api, query: str) -> None:
    """A raw ;, an escape that is none and bytes that are no UTF-8 are read by each backend in its own way."""
    assert api.messages("POST", f"/a?{query}") and api.messages("POST", "/a", FORM, body=query.encode())
    assert api.messages("GET", f"/a?{query}"), "also of an operation without parameters"
    assert api.messages("POST", "/a", FORM, body="amount=5&x=ä".encode())


def test_escaped_separators_belong_to_values(api: Api) -> None:
    """What is escaped in a value is nothing but the value's."""
    for pairs in ("x=1%3Bamount%3D500", "x=%26amount%3D500", "x=a+b%2B%25", "x==500", "=5", "&&x="):
        assert api.messages("POST", f"/a?{pairs}") == [] == api.messages("POST", "/a", FORM, body=pairs.encode())
    assert api.messages("POST", "/a?x&y=1") == []


def test_a_field_of_a_form_has_a_value(api: Api) -> None:
    """python-multipart 0.0.20 drops a last field without =, which others read as an empty one."""
    for pairs in ("x", "amount=5&x", "user_id&amount=5"):
        assert api.messages("POST", "/a", FORM, body=pairs.encode())


def test_undocumented_parameters_may_be_refused(tmp_path: Path) -> None:
    """`undocumented_parameters: refuse`: names of queries and forms that the document has not are a 400, each named."""
    api = Api(tmp_path, document(), "requests: enforce, undocumented_parameters: refuse")
    query = "amount=5&filter[size]=5&deep[a]=5&deep[b]=5&member=5"
    assert api.messages("POST", f"/a?{query}") == [] and api.messages("GET", "/a") == []
    assert api.faults("POST", "/a?amount=5&x=1&y=2") == [("query", "x"), ("query", "y")]
    assert api.messages("GET", "/a?x=1") == ["it is not documented"]
    assert api.faults("POST", "/a", FORM, body=b"amount=5&x=1") == [("body", "/x")]
    header, body = multipart(("x", b"\r\n\r\n5"))
    assert api.faults("POST", "/a", header, body=body) == [("body", "/x")]


def test_what_an_open_object_takes_is_documented(tmp_path: Path) -> None:
    """Members that a schema speaks of without their names are not undocumented."""
    of_any = "{type: object, additionalProperties: {type: integer}}"
    form = f"{{application/x-www-form-urlencoded: {{schema: {of_any}}}}}"
    text = f"openapi: 3.1.0\npaths: {{/a: {{post: {{parameters: [{{in: query, name: n, schema: {of_any}}}], requestBody: {{content: {form}}}}}}}}}"  # fmt: skip
    api = Api(tmp_path, text, "requests: enforce, undocumented_parameters: refuse")
    assert api.messages("POST", "/a?x=1") == [] and api.messages("POST", "/a?x=y")
    assert api.messages("POST", "/a", FORM, body=b"x=1") == [] and api.messages("POST", "/a", FORM, body=b"x=y")


# ---- JSON

ACCOUNT = """{type: object, properties: {amount: {type: integer, maximum: 10}, kelvin: {}, list: {type: array, items: {$ref: '#/components/schemas/Deep'}},
  any: {oneOf: [{type: object, properties: {one: {}}}, {allOf: [{type: object, required: [two]}]}]}, map: {additionalProperties: {properties: {x: {}}}},
  tuple: {prefixItems: [{properties: {first: {}}}]}, self: {$ref: '#/components/schemas/Deep'}}, patternProperties: {'^x-': {properties: {inner: {}}}, '^exact$': {}}}"""
DEEP = "{type: object, properties: {n: {type: integer}, next: {$ref: '#/components/schemas/Deep'}}, if: {properties: {kind: {const: a}}}}"
HEAD = f"openapi: 3.1.0\ncomponents: {{schemas: {{Deep: {DEEP}}}}}"


@pytest.fixture(scope="module")
def account(tmp_path_factory: pytest.TempPathFactory) -> Api:
    return of_body(tmp_path_factory.mktemp("json"), ACCOUNT, HEAD)


@pytest.mark.parametrize(
    ("body", "at"),
    [
        ('{"amount":5,"Amount":500}', "/Amount"),
        ('{"AMOUNT":500}', "/AMOUNT"),
        ('{"\\u0041mount":500}', "/Amount"),
        ('{"kelvin":1,"\\u212aelvin":2}', "/\u212aelvin"),
        ('{"li\\u017ft":1}', "/liſt"),
        ('{"l\\u0131st":1}', "/lıst"),
        ('{"list":[{"n":1},{"n":1,"N":2}]}', "/list/1/N"),
        ('{"self":{"next":{"next":{"NEXT":1}}}}', "/self/next/next/NEXT"),
        ('{"self":{"Kind":1}}', "/self/Kind"),
        ('{"any":{"One":1,"two":2}}', "/any/One"),
        ('{"any":{"two":1,"TWO":2}}', "/any/TWO"),
        ('{"map":{"whatever":{"x":1,"X":2}}}', "/map/whatever/X"),
        ('{"tuple":[{"First":1}]}', "/tuple/0/First"),
        ('{"x-a":{"Inner":1}}', "/x-a/Inner"),
        ('{"Exact":1}', "/Exact"),
    ],
)
def test_a_key_of_another_case_is_a_fault(account: Api, body: str, at: str) -> None:
    """Beside a named key or alone, at any depth and by whatever keyword it is named, with its place."""
    assert ("body", at) in account.faults("POST", "/a", JSON, body=body.encode())


@pytest.mark.parametrize("body", ['{"amount":5,"other":1,"Other":2}', '{"map":{"A":{},"a":{}}}', '{"any":{"one":1,"three":2}}', '{"amounts":1,"AmountX":2,"x-A":1,"x-a":2}', '[{"Amount":1}]'])  # fmt: skip
def test_keys_that_nothing_names_are_written_as_they_like(account: Api, body: str) -> None:
    """Keys that nothing names may be written as they like."""
    assert not any("/" in at for _, at in account.faults("POST", "/a", JSON, body=body.encode()))


LINES = '{type: object, properties: {"two\\nlines": {type: integer}, list: {type: array, items: {properties: {"a\\nb": {}}}}}}'


@pytest.mark.parametrize(
    ("body", "at"),
    [
        ({"two\nlines": 1}, None),
        ({"Two\nLines": 1}, "/Two\nLines"),
        ({"two\nlines": 1, "TWO\nLINES": 2, "x": 3}, "/TWO\nLINES"),
        ({"list": [{"a\nb": 1}, {"A\nB": 1}]}, "/list/1/A\nB"),
        ({"List": []}, "/List"),
        ({"two": 1, "lines": 1, "Two": 2, "b\na": 1}, None),
    ],
)
def test_a_key_may_hold_a_line_feed(tmp_path: Path, body: Any, at: str | None) -> None:
    """It is compared as any other, whole: JSON has no characters that a name may not hold."""
    api = of_body(tmp_path, LINES)
    assert api.faults("POST", "/a", JSON, body=json.dumps(body).encode()) == ([("body", at)] if at else [])


@pytest.mark.parametrize(("name", "passes"), [("two%0Alines", True), ("Two%0ALines", False), ("two%0Alines%00", False)])
def test_a_parameter_may_hold_a_line_feed(tmp_path: Path, name: str, passes: bool) -> None:
    """In a query it can be sent, encoded, and is judged as itself alone."""
    api = of_query(tmp_path, 'name: "two\\nlines", schema: {type: integer, maximum: 10}')
    assert bool(api.messages("GET", f"/a?{name}=5")) is not passes
    assert api.messages("GET", f"/a?{name}=500") and not api.messages("GET", "/a?two=500&lines=500")


def test_a_key_that_is_named_in_both_spellings_is_itself(tmp_path: Path) -> None:
    """Only a key that the document does not have can be taken for another."""
    api = of_body(tmp_path, "{type: object, properties: {id: {type: integer}, ID: {type: string}}}")
    assert api.messages("POST", "/a", JSON, body=b'{"id":1,"ID":"x"}') == [] and api.messages("POST", "/a", JSON, body=b'{"Id":1}')  # fmt: skip


def test_keys_within_parameters_and_fields(tmp_path: Path) -> None:
    """JSON in a parameter or field, and the members of objects in other styles, are compared as those of bodies are."""
    schema = "schema: {type: object, properties: {a: {type: integer}}}"
    api = of_query(tmp_path, f"name: j, content: {{application/json: {{{schema}}}}}", f"name: d, style: deepObject, explode: true, {schema}", f"name: c, explode: false, {schema}")  # fmt: skip
    for query in ("j=%7B%22A%22:1%7D", "d[A]=1", "c=A,1"):
        assert api.messages("GET", f"/a?{query}") and api.messages("GET", f"/a?{query.replace('A', 'a')}") == []
    form = Api(tmp_path, document().replace('"user_id": {"type": "integer", "maximum": 10}', '"user_id": {"type": "object", "properties": {"a": {}}}'))  # fmt: skip
    assert form.faults("POST", "/a", FORM, body=b'user_id={"A":1}') == [("body", "/user_id/A")]


# ---- Cookies


@pytest.mark.parametrize(
    ("cookie", "good"),
    [
        ("amount=5; other=x", True), ("other=x", True), ("amount.sig=x; amount=5", True), ('amount="5"', True), ("prefs={\"a\":1}; amount=5", True),
        ("amount=5; amount[]=500", False), ("Amount=500", False), ("amount[0]=500", False), ("amount=500", False), ("amount=5; amount=5", False),
        ('x="a; amount=5; y"', False), ('amount="5', False), ('x="a\\"; amount=5', False),
    ],
)  # fmt: skip
def test_cookies_have_one_reading(tmp_path: Path, cookie: str, good: bool) -> None:
    """A judged cookie is there once, under one name; quotes that hide others from some readers are refused."""
    text = "openapi: 3.1.0\npaths: {/a: {get: {parameters: [{in: cookie, name: amount, schema: {type: integer, maximum: 10}}]}}}"
    assert (Api(tmp_path, text).messages("GET", "/a", (b"Cookie", cookie.encode())) == []) == good


BOTH = json.dumps({
    "openapi": "3.0.3",
    "paths": {
        "/form": {"post": {
            "parameters": [{"in": "query", "name": "page", "schema": NUMBER}],
            "requestBody": {"content": {kind: {"schema": {"type": "object", "properties": {"amount": NUMBER, "page": NUMBER}}} for kind in KINDS}},
        }},
        "/query": {"post": {"parameters": [{"in": "query", "name": "amount", "schema": NUMBER}]}},
        "/bare": {"post": {}, "get": {}},
        "/any": {"post": {"parameters": [{"in": "query", "name": "amount", "schema": NUMBER}], "requestBody": {"content": {"*/*": {}}}}},
    },
})  # fmt: skip
SAID_PART, PART = multipart(("amount", b"\r\n\r\n500"))


def test_no_parameter_of_a_query_passes_for_a_field_of_a_form(tmp_path: Path) -> None:
    """Flask's `values`, Go's FormValue, PHP's $_REQUEST and Rails read a query and a form as one: what is documented
    of one of them is refused in the other."""
    api = Api(tmp_path, BOTH)
    for name in ("amount", "Amount", "amount[]", "+amount"):
        assert api.messages("POST", f"/form?{name}=500", FORM, body=b"page=5"), name
        assert api.messages("POST", f"/form?{name}=500"), name
    assert not api.messages("POST", "/form?page=5&x=1", FORM, body=b"amount=5&page=4")
    assert not api.messages("POST", "/any?amount=5", JSON, body=b'{"amount":500}')
    for name in ("amount", "AMOUNT", "amount[]"):
        assert api.faults("POST", "/any?amount=5", FORM, body=f"x=1&{name}=500".encode()) == [("body", f"/{name}")]
    assert not api.messages("POST", "/any?amount=5", FORM, body=b"x=1")


def test_a_form_that_is_not_documented_is_refused(tmp_path: Path) -> None:
    """Where no body is documented nobody has looked at a form's fields: they would be parameters or another method."""
    api = Api(tmp_path, BOTH)
    length = b"Content-Length", b"10"
    for target in ("/query", "/query?amount=5", "/bare"):
        assert api.faults("POST", target, FORM, length, body=b"amount=500") == [("header", "Content-Type")]
        assert api.faults("POST", target, SAID_PART, length, body=PART) == [("header", "Content-Type")]
        chunked = b"Transfer-Encoding", b"chunked"
        assert api.faults("POST", target, FORM, chunked, body=b"_method=PUT") == [("header", "Content-Type")]
        for more in (b", x", b" x", b" ;a=b", b",text/plain"):
            cut = FORM[0], FORM[1].upper() + more
            assert api.faults("POST", target, cut, length, body=b"_method=PUT") == [("header", "Content-Type")], more
        assert not api.faults("POST", target, FORM, (b"Content-Length", b"0"))
        assert not api.faults("POST", target, JSON, length, body=b'{"a":5555}')
    assert not api.faults("GET", "/bare", FORM) and api.faults("GET", "/bare", FORM, length, body=b"_method=PUT")


def test_names_are_bounded_before_they_are_compared(tmp_path: Path) -> None:
    """A megabyte of brackets, or of nothing between `&`, holds up nobody else: it is refused before it is divided."""
    api = Api(tmp_path, BOTH, "requests: enforce, max_body: 1MiB")
    long = "x" * 250
    for name in (long, f"filter[{long}]", long[:200] + "[]" * 20):
        assert not api.messages("POST", "/form", FORM, body=f"{name}=1".encode()), name
    for body in (b"[" * 300 + b"=1", b"%5B" * 300 + b"=1", b"x." * 200 + b"=1", b"&" * 1001, b"x=1" + b"&" * 1001):
        assert api.messages("POST", "/form", FORM, body=body), body
    header, body = multipart(("[" * 300, b"\r\n\r\n1"))
    assert api.messages("POST", "/form", header, body=body)
