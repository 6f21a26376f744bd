"""A path that matched through a parameter is not what a backend may take for another operation, judged otherwise."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from keyswap.composition import build_gate
from keyswap.model import Code, Refuse, Upstream
from keyswap.operations.openapi.document_cache import Documents
from tests.operations.documents import BACKEND, policy

Law = Callable[[str, str], Refuse | None]

DOCUMENT = """
openapi: 3.0.3
info: {title: t, version: '1'}
paths:
  /users/{id}: {get: {x-required-permissions: [read]}, post: {x-required-permissions: [read]}}
  /users/@me: {get: {x-required-permissions: [admin]}}
  /users/me: {get: {x-required-permissions: [admin]}}
  /users/{id}/keys: {get: {x-required-permissions: [read]}}
  /reports/{id}: {post: {x-required-permissions: [read]}, get: {x-required-permissions: [read]}}
  /reports/{id}:run: {post: {x-required-permissions: [run]}}
  /docs/{id}: {get: {x-required-permissions: [read]}}
  /docs/$all: {get: {x-required-permissions: [admin]}}
  /docs/(1),2: {get: {x-required-permissions: [admin]}}
  /esc/{id}: {get: {x-required-permissions: [read]}}
  /esc/%40me: {get: {x-required-permissions: [admin]}}
  /two/{id}: {get: {x-required-permissions: [read]}}
  /two/%21x: {get: {x-required-permissions: [read]}}
  /two/!x: {get: {x-required-permissions: [admin]}}
  /f/{path}: {x-multi-segment: [path], get: {x-required-permissions: [read]}}
  /f/secret/x: {get: {x-required-permissions: [admin]}}
  /b/{name}: {get: {x-required-permissions: [read]}}
  /b/{name}/protection: {get: {x-required-permissions: [admin]}}
  /r/{a}-{b}: {get: {x-required-permissions: [read]}}
  /r/{a}@{b}: {get: {x-required-permissions: [admin]}}
  /Camel/{id}: {get: {x-required-permissions: [read]}}
  /Camel/findBy: {get: {x-required-permissions: [admin]}}
  /same/{id}: {get: {x-required-permissions: [read]}}
  /same/@me: {get: {x-required-permissions: [read]}}
  /slash/{id}/: {get: {x-required-permissions: [read]}}
  /slash/me/: {get: {x-required-permissions: [admin]}}
  /cases/{id}: {get: {x-required-permissions: [read]}}
  /Cases/{id}: {get: {x-required-permissions: [admin]}}
  /l/{id}/all: {get: {x-required-permissions: [admin]}}
  /l/{id}/all.csv: {get: {x-required-permissions: [read]}}
  /l/{id}/ALL.txt: {get: {x-required-permissions: [read]}}
  /l/{id}/{part}: {get: {x-required-permissions: [read]}}
  /i/{id}/b/c: {get: {x-required-permissions: [read]}}
  /i/b/c: {get: {x-required-permissions: [admin]}}
  /d/{id}/v.: {get: {x-required-permissions: [read]}}
  /d/me/v{x}: {get: {x-required-permissions: [admin]}}
"""
OPENED = "openapi: {spec: api.yaml}\noperations: [{match: 'GET /b/{name}', encoded_slash: allow}]\n"


def law(text: str, folder: Path, **files: str) -> Law:
    """The first step of the gate that a policy makes."""
    made = policy(text, folder, **files)
    operations = build_gate.catalogue(made, Documents(None), folder, BACKEND)
    assert operations is not None and not operations.errors
    asked = build_gate.path_step(made, operations)
    return lambda method, target: asked(method, target.encode())


def is_refused(asked: Law, method: str, target: str) -> bool:
    refused = asked(method, target)
    assert refused is None or refused.code is Code.AMBIGUOUS_PATH
    return refused is not None


ELSEWHERE = [
    # a decoded literal
    "GET /users/%40me", "HEAD /users/%40me", "GET /users/%40Me", "GET /users/@ME", "GET /users/ME", "GET /users/m%65%20",
    "POST /reports/5%3Arun", "POST /reports/5%3aRUN", "POST /reports/a%3Arun.", "GET /docs/%24all", "GET /docs/%28%31),2",
    "GET /docs/(1)%2C2", "GET /docs/%28%31%29%2c%32",
    # a template that is written escaped
    "GET /esc/@me", "GET /esc/@ME", "GET /two/%21x", "GET /two/%21X",
    # what trails, is cut off or passed over
    "GET /users/@me.", "GET /users/@me%20", "GET /users/me..", "GET /users/%20me", "GET /users/me.json", "GET /users/me.tar.gz",
    "GET /users/me%3f", "GET /users/me%3Fx=1", "GET /users/me%23x", "GET /users/me%3f/keys", "GET /users/me::$DATA",
    "GET /users/me:x:$DATA", "GET /users/me%E2%80%8B", "GET /users/%EF%BD%8D%EF%BD%85", "GET /users/m%C2%ADe",
    "GET /f/%E2%80%A5/docs/$all", "POST /reports/5:RUN.json",
    # several segments, separators
    "GET /f/secret/x/::$DATA", "GET /f/secret/x/.:y:$data", "GET /f/Secret/x", "GET /f/secret/x.", "GET /f/secret%20/x", "GET /f/secret/X", "GET /f/index.php/secret/x",
    "GET /b/x%2Fprotection", "GET /b/x%2fProtection", "GET /b/x%EF%BC%8Fprotection",
    # mixes of one rank, letters of a literal before a parameter, a final slash
    "GET /r/x%40y-z", "GET /Camel/findby", "GET /Camel/FINDBY", "GET /slash/ME/", "GET /slash/%6De./",
    # a segment of which nothing can be seen, and a literal that ends in a dot, beside a mix
    "GET /i/%E2%80%8B/b/c", "GET /i/%C2%AD/b/c", "GET /i/%20/b/c", "GET /d/m%C2%ADe/v.", "GET /d/ME/v.",
    # a literal beside a parameter that the path does not have as it is written
    "GET /l/5/all.CSV", "GET /l/5/all.csv.", "GET /l/5/all.txt", "GET /l/5/all%2ecsv%20", "GET /l/5/ALL.csv", "GET /l/%C3%A9/all.xml",
]  # fmt: skip

ITSELF = [
    "GET /users/@me", "GET /users/me", "GET /users/%40you", "GET /users/a%2Cb", "GET /users/a%2Bb", "GET /users/a@b.com",
    "GET /users/a%40b.com", "GET /users/Me-2", "GET /users/42.json", "GET /users/what%3F", "GET /users/C%23", "GET /users/MEN",
    "POST /users/%40me", "POST /users/ME", "POST /reports/5:run", "POST /reports/5%3Awalk", "GET /reports/5%3Arun",
    "GET /docs/$all", "GET /docs/%24al", "GET /docs/a,b", "GET /esc/%40me", "GET /two/!x", "GET /two/!y", "GET /f/secret/y",
    "GET /f/secret/x/y", "GET /f/a.b/c.json", "GET /b/protection", "GET /b/x%2Fy", "GET /b/x/protection", "GET /r/x-y", "GET /r/x-y@z",
    "GET /Camel/1", "GET /Camel/findBy", "GET /same/%40me", "GET /slash/me/", "GET /slash/7/", "GET /cases/5", "GET /Cases/5",
    "GET /cases/a%2Cb", "GET /users/%C3%A9", "GET /users/%F0%9F%98%80", "GET /users/index.php", "GET /users/5/keys", "GET /users/...",
    "GET /l/5/all", "GET /l/5/all.csv", "GET /l/a.b/all.csv", "GET /l/%C3%A9/all.csv", "GET /l/%40me/all%2Ecsv", "GET /l/5/ALL.txt",
    "GET /i/5/b/c", "GET /i/%C3%A9/b/c", "GET /d/5/v.", "GET /d/%C3%A9/v.", "GET /d/me/vx",
]  # fmt: skip


@pytest.mark.parametrize("request_line", ELSEWHERE)
def test_what_a_backend_may_take_for_another_operation_is_refused(tmp_path: Path, request_line: str) -> None:
    """A backend that decodes, folds or cuts a path before it routes never runs an operation that was not judged."""
    assert is_refused(law(OPENED, tmp_path, api=DOCUMENT), *request_line.split(" "))


@pytest.mark.parametrize("request_line", ITSELF)
def test_ordinary_values_and_literals_as_they_are_written_go_on(tmp_path: Path, request_line: str) -> None:
    """An escape, another case or a dot in a value is no fault where it makes no other operation that differs."""
    assert not is_refused(law(OPENED, tmp_path, api=DOCUMENT), *request_line.split(" "))


DIFFERENCES = {
    "requirement": ("x-required-permissions: [a]", "x-required-permissions: [b]", ""),
    "public": ("security: []", "x-required-permissions: []", ""),
    "mode": ("x-required-permissions: [a]", "x-required-permissions: [a]", "operations: [{match: GET /x/@me, mode: shadow}]"),
    "limit": ("", "", "limits: [{name: l, by: [key], rate: 1/h, match: GET /x/@me}]"),
    "limit by id": ("", "operationId: me", "limits: [{name: l, by: [key], rate: 1/h, match: {operation_id: me}}]"),
    "limit by tag": ("", "tags: [t]", "limits: [{name: l, by: [key], rate: 1/h, match: {tag: t}}]"),
    "limit by operation": ("", "", "limits: [{name: l, by: [key, operation], rate: 1/h}]"),
    "cost": ("", "", "limits: [{name: l, by: [key], rate: 9/h}]\noperations: [{match: GET /x/@me, cost: 2}]"),
    "resource": ("", "", "operations: [{match: 'GET /x/{id}', resource: {type: x, id: '{id}'}}]"),
    "schema": ("", "parameters: [{name: q, in: query, schema: {type: integer}}]", "validate"),
}  # fmt: skip


@pytest.mark.parametrize("what", DIFFERENCES)
def test_whatever_is_judged_of_operations_counts(tmp_path: Path, what: str) -> None:
    """Two operations that differ in anything that is judged have no path between them; those that do not, have."""
    one, other, text = DIFFERENCES[what]
    document = "openapi: 3.1.0\npaths: {'/x/{id}': {get: {%s}}, /x/@me: {get: {%s}}}"
    validate = ", validate: {requests: enforce}" if text == "validate" else ""
    said = f"openapi: {{spec: api.yaml{validate}}}\n{'' if validate else text}\n"
    assert is_refused(law(said, tmp_path, api=document % (one, other)), "GET", "/x/%40me")
    alike = law(f"openapi: {{spec: api.yaml{validate}}}\n", tmp_path, api=document % (one, one))
    assert not is_refused(alike, "GET", "/x/%40me")


ALIKE = {
    "a requirement that holds another": ("GET", "operations: [{match: GET /x/@me, require: [[a], [a, b]]}]"),
    "a limit that counts neither": ("HEAD", "limits: [{name: l, by: [key], rate: 1/h, match: POST /x/@me}]"),
}


@pytest.mark.parametrize("what", ALIKE)
def test_what_is_judged_alike_is_no_difference(tmp_path: Path, what: str) -> None:
    """However it is written: paths between two operations that ask for the same go on."""
    method, text = ALIKE[what]
    asks = "x-required-permissions: [a]"
    document = f"openapi: 3.1.0\npaths: {{'/x/{{id}}': {{get: {{{asks}}}}}, /x/@me: {{{method.lower()}: {{{asks}}}, post: {{}}}}}}"
    assert not is_refused(law(f"openapi: {{spec: api.yaml}}\n{text}\n", tmp_path, api=document), method, "/x/%40me")


ORDERS = """openapi: %s
paths: {%s: {post: {x-required-permissions: [w], requestBody: {content: {application/json: {schema: %s}}}}}}
components: {schemas: {Order: {type: object, properties: {amount: {type: integer, maximum: %d}}}}}
"""
NUMBER, ORDER = "{type: integer, maximum: 5}", "{$ref: '#/components/schemas/Order'}"
TWO_DOCUMENTS = {
    "nothing": (False, ("3.1.0", NUMBER, 5), ("3.1.0", NUMBER, 6), ""),
    "what a reference leads to": (True, ("3.1.0", ORDER, 10**6), ("3.1.0", ORDER, 10), ""),
    "version": (True, ("3.0.3", NUMBER, 5), ("3.1.0", NUMBER, 5), ""),
    "size": (True, ("3.1.0", NUMBER, 5), ("3.1.0", NUMBER, 5), ", max_body: 1KiB"),
    "undocumented": (True, ("3.1.0", NUMBER, 5), ("3.1.0", NUMBER, 5), ", undocumented_parameters: refuse"),
    "what is only looked at": (False, ("3.1.0", NUMBER, 5), ("3.1.0", NUMBER, 5), ", responses: shadow"),
}  # fmt: skip


@pytest.mark.parametrize("what", TWO_DOCUMENTS)
def test_operations_of_two_documents_are_alike_if_they_mean_the_same(tmp_path: Path, what: str) -> None:
    """A reference counts as what it leads to in its own document, and so does how that document is judged."""
    differ, (one_version, one_schema, one), (two_version, two_schema, two), more = TWO_DOCUMENTS[what]
    text = f"""audience: near
openapi:
  - {{spec: api.yaml, prefix: /a, strip_prefix: true, validate: {{requests: enforce}}}}
  - {{spec: two.yaml, validate: {{requests: enforce{more}}}}}
"""
    first = ORDERS % (one_version, "'/{x}'", one_schema, one)
    second = ORDERS % (two_version, "/orders", two_schema, two)
    asked = law(text, tmp_path, api=first, two=second)
    assert is_refused(asked, "POST", "/a/orders") is differ


def test_references_of_one_document_are_alike_where_they_lead_to_the_same(tmp_path: Path) -> None:
    """However a file writes a reference, it is what it leads to: other files are another place to begin from."""
    text = "openapi: {spec: api.yaml, validate: {requests: enforce}}\n"
    (tmp_path / "deep").mkdir()
    body = "{post: {x-required-permissions: [w], requestBody: {content: {application/json: {schema: {$ref: '%s'}}}}}}"
    (tmp_path / "deep" / "me.yaml").write_text((body % "order.yaml")[1:-1])
    for folder, most in ((tmp_path, 5), (tmp_path / "deep", 6)):
        (folder / "order.yaml").write_text(f"type: integer\nmaximum: {most}\n")
    document = "openapi: 3.1.0\npaths: {'/x/{id}': %s, /x/@me: {$ref: deep/me.yaml}}"
    assert is_refused(law(text, tmp_path, api=document % (body % "order.yaml")), "POST", "/x/%40me")
    assert not is_refused(law(text, tmp_path, api=document % (body % "deep/order.yaml")), "POST", "/x/%40me")


def test_a_parameter_that_is_written_elsewhere_is_where_it_says(tmp_path: Path) -> None:
    """The path's parameters are no difference to an operation that has none, whether they are references or not."""
    text = "openapi: {spec: api.yaml, validate: {requests: enforce}}\n"
    document = "openapi: 3.1.0\npaths: {'/x/{id}': {parameters: [{$ref: '#/components/parameters/p'}], get: {}}, /x/@me: {get: {}}}\ncomponents: {parameters: {p: {name: %s, in: %s, required: true, schema: {type: string}}}}"
    assert not is_refused(law(text, tmp_path, api=document % ("id", "path")), "GET", "/x/%40me")
    assert is_refused(law(text, tmp_path, api=document % ("q", "query")), "GET", "/x/%40me")


def test_paths_are_compared_as_their_upstream_gets_them(tmp_path: Path) -> None:
    """Of several documents of one upstream none reaches another's operations or closed prefix behind a stripped one."""
    text = """openapi:
  - {spec: api.yaml, prefix: /a, strip_prefix: true}
  - {spec: two.yaml}
  - {spec: two.yaml, prefix: /shut}
  - {spec: two.yaml, prefix: /far, upstream: "http://127.0.0.1:9001", audience: far}
"""
    one = "openapi: 3.1.0\npaths: {'/{x}': {get: {}}, '/{x}/{y}': {get: {}}, /open: {get: {}}}"
    two = "openapi: 3.1.0\npaths: {/admin: {get: {x-required-permissions: [admin]}}, '/{z}': {get: {x-required-permissions: [z]}}}"
    asked = law("audience: near\n" + text, tmp_path, api=one, two=two)
    for target in (
        "/a/admin",
        "/a/Admin",
        "/a/%61dmin.",
        "/a/admin%3f",
        "/a/shut/x",
        "/a/SHUT/x",
        "/a/shut",
        "/a/shut%20/x",
    ):
        assert is_refused(asked, "GET", target), target
    for target in ("/a/open", "/a/x", "/a/x/y", "/admin", "/a/far", "/far/x", "/x", "/a/shuts/x"):
        assert not is_refused(asked, "GET", target), target


def test_another_documents_prefix_in_another_spelling_hides_no_operation(tmp_path: Path) -> None:
    """A path that a backend may take for one under a prefix of another document is compared with what is there."""
    text = "openapi:\n  - {spec: api.yaml}\n  - {spec: two.yaml, prefix: /Shut}\n"
    one = "openapi: 3.1.0\npaths: {'/{x}/{y}': {get: {security: []}}}"
    two = "openapi: 3.1.0\npaths: {/admin: {get: {x-required-permissions: [admin]}}}"
    asked = law(text, tmp_path, api=one, two=two)
    for target in ("/shut/admin", "/SHUT/Admin", "/Shut./admin", "/Shut%20/admin."):
        assert is_refused(asked, "GET", target), target
    for target in ("/Shut/admin", "/shuts/admin", "/shut/other"):
        assert not is_refused(asked, "GET", target), target


def test_a_needless_escape_is_one_for_every_backend(tmp_path: Path) -> None:
    """Routers that do not decode take an escaped letter for a value: what they would run is not judged less."""
    asked = law(OPENED, tmp_path, api=DOCUMENT)
    assert is_refused(asked, "GET", "/users/m%65") and not is_refused(asked, "GET", "/same/%40m%65")
    assert not is_refused(asked, "GET", "/users/%34%32")


def test_a_documented_head_is_no_way_to_the_handler_of_another_get(tmp_path: Path) -> None:
    """Backends answer HEAD by GET's handler: where only the weaker template documents HEAD, it is refused as GET is."""
    read, admin = "{x-required-permissions: [read]}", "{get: {x-required-permissions: [admin]}}"
    weaker = f"'/x/{{id}}': {{get: {read}, head: {read}}}, '/y/{{id}}': {{head: {read}}}"
    text = f"openapi: 3.1.0\npaths: {{{weaker}, /x/@me: {admin}, /y/@me: {admin}}}"
    asked = law("openapi: {spec: api.yaml}\n", tmp_path, api=text)
    for target in ("/x/%40me", "/x/@ME", "/y/%40me", "/y/@me."):
        assert is_refused(asked, "HEAD", target), target
    for target in ("/x/@me", "/x/%40you", "/y/you"):
        assert not is_refused(asked, "HEAD", target), target


def test_the_reason_names_both_operations(tmp_path: Path) -> None:
    """Who looks into the log or asks `explain` sees which template the path has, and which other one is meant."""
    refused = law(OPENED, tmp_path, api=DOCUMENT)("GET", "/users/%40me")
    assert refused is not None and "GET /users/{id}" in refused.reason and "GET /users/@me" in refused.reason


@pytest.mark.timing
def test_time_is_in_proportion_to_a_paths_length(tmp_path: Path) -> None:
    """However many dots, escapes or segments a path has, nobody makes the gate work long."""
    asked = law(OPENED, tmp_path, api=DOCUMENT)
    for unit in (".", "%20", "/...", "/a.php", "%EF%BC%8F", "%CC%80", "a:run", "%3f", ".json", "-.", "/A", "%EF%B7%BA"):
        for prefix in ("/f/", "/r/", "/users/", "/b/"):
            target = (prefix + "x" + unit * 8192)[:8190]
            target = target[: target.rfind("%")] if target[-2:].find("%") >= 0 else target
            began = time.thread_time()
            asked("GET", target)
            assert time.thread_time() - began < 0.05, (prefix, unit)


def test_a_large_document_is_compared_at_load_within_bounds(tmp_path: Path) -> None:
    """Thousands of templates that begin with parameters hold up no load, and their paths are looked at one by one."""
    paths = "".join(f"  /{{a}}/{{b}}/c{n}/{{d}}: {{get: {{x-required-permissions: [p{n}]}}}}\n" for n in range(2000))
    made = policy("openapi: {spec: api.yaml}\n", tmp_path, api="openapi: 3.1.0\npaths:\n" + paths)
    operations = build_gate.catalogue(made, Documents(None), tmp_path, BACKEND)
    assert operations is not None
    began = time.process_time()
    asked = build_gate.path_step(made, operations)
    assert time.process_time() - began < 5
    assert asked("GET", b"/x/y/c7/z") is None and asked("GET", b"/x/C7/c7/C8") is None
    assert asked("GET", b"/x/y/C7/z") is None  # documented nowhere: the next step says so
    assert asked("GET", b"/x/y/c7%3f/z") is None
    assert Upstream("http", "127.0.0.1", 9000) == BACKEND
