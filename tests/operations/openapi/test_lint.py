"""What `check` finds in documents and policies, and what `init` proposes."""

from pathlib import Path

import pytest

from keyswap.operations.openapi import lint, lint_parameters
from keyswap.operations.openapi.proposals import may_be_public, slug
from keyswap.request.header_names import Patterns
from tests.operations.documents import PETS, catalogue, document

SPEC = "openapi: {spec: api.yaml}\n"


def codes(text: str, folder: Path, **files: str) -> tuple[list[str], list[str]]:
    made = catalogue(text, folder, **files)
    return [one.code for one in lint.errors(made)], [one.code for one in lint.warnings(made)]


def api(item: str, more: str = "components: {securitySchemes: {key: {type: apiKey}, oauth: {type: oauth2}}}") -> str:
    return f"openapi: 3.1.0\npaths:\n  /a: {item}\n{more}\n"


@pytest.mark.parametrize(
    ("item", "errors"),
    [
        ("{get: {security: [{key: []}, {oauth: [a]}]}}", ["weaker-alternative"]),
        ("{get: {security: [{oauth: [a]}, {oauth: [a, b]}]}}", ["weaker-alternative"]),
        ("{get: {security: [{}, {oauth: [a]}]}}", ["weaker-alternative"]),
        ("{get: {security: [{oauth: [a]}, {oauth: [b]}]}}", []),
        ("{get: {security: [{key: []}, {oauth: []}]}}", []),
        ("{get: {security: [{key: []}, {oauth: [a]}], x-required-permissions: [a]}}", []),
        ("{get: {security: [{kex: [a]}]}}", ["undeclared-scheme"]),
    ],
)
def test_alternatives_that_ask_for_less_and_unknown_schemes_are_errors(
    tmp_path: Path, item: str, errors: list[str]
) -> None:
    """Whoever reads two dependencies as two alternatives lets in who has only a key: that is said, with the way out."""
    assert codes(SPEC, tmp_path, api=api(item))[0] == errors
    others = [code for code in errors if code != "weaker-alternative"]
    assert codes("openapi: {spec: api.yaml, security_lists: all}\n", tmp_path, api=api(item))[0] == others
    ruled = SPEC + "operations: [{match: GET /a, require: [x]}]\n"
    assert codes(ruled, tmp_path, api=api(item))[0] == others


ID = "parameters: [{name: id, in: path, required: true, schema: {type: integer}}]"


@pytest.mark.parametrize(
    ("paths", "errors", "warnings", "says"),
    [
        (f"/foo/{{Id}}: {{get: {{{ID}}}}}", 1, 1, "did you mean {Id}"),
        (f"/foo/{{Id}}: {{{ID}, get: {{}}}}", 1, 1, "did you mean {Id}"),
        (f"/foo: {{get: {{{ID}}}}}", 1, 0, "has no {id}"),
        (f"/foo/{{id}}: {{get: {{{ID}}}}}", 0, 0, ""),
        (f"/foo/{{id}}/{{kind}}: {{{ID}, get: {{}}}}", 0, 1, "{kind}"),
        ("/foo/{id}: {get: {parameters: [{name: id, in: query}]}}", 0, 1, "{id}"),
    ],
)
def test_parameters_and_templates_fit(tmp_path: Path, paths: str, errors: int, warnings: int, says: str) -> None:
    """A path parameter that its template lacks would refuse every request; a variable that nobody describes is said."""
    made = catalogue(SPEC, tmp_path, api=f"openapi: 3.1.0\npaths:\n  {paths}\n")
    wrong = [one for one in lint.errors(made) if one.code == "parameter-of-no-template"]
    noted = [one for one in lint.undescribed(made) if one.code == "undescribed-parameter"]
    assert (len(wrong), len(noted)) == (errors, warnings)
    assert any(says in one.text for one in (*wrong, *noted)) or not says
    assert all((one.pointer or "").endswith("/get") for one in noted)
    assert all((one.pointer or "").endswith("/parameters/0") for one in wrong)


HEADER = "in: header, schema: {type: string}"


@pytest.mark.parametrize(
    ("name", "why", "remedy"),
    [
        ("X-Trace", None, None),
        ("Content-Type", None, None),
        ("authorization", None, None),
        ("Host", None, None),
        ("kept_one", None, None),
        ("x_token", "letters, digits and `-`", "keep_headers"),
        ("x.token", "letters, digits and `-`", "keep_headers"),
        ("X-Forwarded-For", "no caller may set it", "another name"),
        ("X_Request_Id", "no caller may set it", "another name"),
        ("X_API_Key", "a credential", "securitySchemes"),
        ("X-Tenant-Name", "`strip_headers`", "strip_headers"),
        ("Content_Type", "another spelling of content-type", "write content-type"),
        ('"X-Two\\nLines"', "no header can have that name", "letters, digits and `-`"),
        ("X Blank", "no header can have that name", "letters, digits and `-`"),
        ("X-Größe", "no header can have that name", "letters, digits and `-`"),
    ],
)
@pytest.mark.parametrize("shared", [False, True])
def test_documented_headers_that_no_backend_gets(
    tmp_path: Path, name: str, why: str | None, remedy: str | None, shared: bool
) -> None:
    """A header that is removed is documented in vain: one warning where it is written, with why and what to do."""
    text = f"{{name: {name}, {HEADER}}}"
    parameter = "{$ref: '#/components/parameters/one'}" if shared else text
    get = f"{{get: {{parameters: [{parameter}]}}}}"
    made = catalogue(
        SPEC,
        tmp_path,
        api=f"openapi: 3.1.0\npaths:\n  /a: {get}\n  /b: {get}\ncomponents: {{parameters: {{one: {text}}}}}\n",
    )
    found = lint_parameters.unpassed(made, Patterns(["x-api-key"]), Patterns(["x-tenant-*"]), {"kept_one"})
    places = (
        ["/components/parameters/one"] if shared else ["/paths/~1a/get/parameters/0", "/paths/~1b/get/parameters/0"]
    )
    assert [one.pointer for one in found] == (places if why is not None else [])
    assert {one.code for one in found} <= {"header-not-passed"}
    assert all(why in one.message and remedy in one.remedy for one in found if why is not None and remedy is not None)


@pytest.mark.parametrize(
    ("name", "sent"),
    [
        ("mark", True),
        ('"a[b].c d"', True),
        ('"two\\nlines"', False),
        ('"a=b"', False),
        ('"a;b"', False),
        ('" a"', False),
        ('"€"', False),
    ],
)
def test_documented_cookies_that_nobody_can_send(tmp_path: Path, name: str, sent: bool) -> None:
    """A cookie whose name ends or breaks the header that it stands in is documented in vain: a warning."""
    get = f"{{get: {{parameters: [{{name: {name}, in: cookie, required: true, schema: {{type: string}}}}]}}}}"
    made = catalogue(SPEC, tmp_path, api=f"openapi: 3.1.0\npaths:\n  /a: {get}\n")
    found = lint_parameters.unpassed(made, Patterns([]), Patterns([]), ())
    assert [one.code for one in found] == ([] if sent else ["cookie-not-sent"])
    assert all("it is required" in one.message for one in found)


def test_documented_headers_that_are_one_for_backends(tmp_path: Path) -> None:
    """Two names that differ by case or separator alone are said, once."""
    several = ", ".join(f"{{name: {name}, {HEADER}}}" for name in ("X-Mark", "x-mark", "X-Marks", "x--mark"))
    made = catalogue(SPEC, tmp_path, api=f"openapi: 3.1.0\npaths:\n  /a: {{get: {{parameters: [{several}]}}}}\n")
    found = lint_parameters.unpassed(made, Patterns([]), Patterns([]), ())
    assert [(one.code, one.pointer) for one in found] == [
        ("same-header", f"/paths/~1a/get/parameters/{number}") for number in (1, 3)
    ]


@pytest.mark.parametrize(
    ("permissions", "weaker"),
    [
        ("[[], [admin]]", True),
        ("[[a], [a, b]]", True),
        ("[[a, b], [b]]", True),
        ("[[a], [b]]", False),
        ("[a, b]", False),
        ("[]", False),
        ("[[a, b], [b, a]]", False),
    ],
)
def test_lists_of_which_one_asks_for_less_are_errors(tmp_path: Path, permissions: str, weaker: bool) -> None:
    """Of our own lists as of `security`: whoever holds the smaller one gets in, so nobody needs the larger one."""
    made = catalogue(SPEC, tmp_path, api=api(f"{{get: {{x-required-permissions: {permissions}}}}}"))
    assert [one.code for one in lint.errors(made)] == ["weaker-alternative"] * weaker
    ruled = catalogue(
        SPEC + f"operations: [{{match: GET /a, require: {permissions}}}]\n", tmp_path, api=api("{get: {}}")
    )
    found = lint.errors(ruled)
    assert [(one.code, one.file, one.pointer) for one in found] == [
        ("weaker-alternative", "", "/operations/0/require")
    ] * weaker


@pytest.mark.parametrize(
    ("security", "warned"),
    [
        ("[{oauth: [a]}, {key: [b]}]", True),
        ("[{oauth: [a, c]}, {key: [b, c]}]", True),
        ("[{oauth: [a]}, {oauth: [b]}]", False),
        ("[{oauth: [a]}, {key: [a]}]", False),
        ("[{oauth: []}, {key: []}]", False),
        ("[{oauth: [a], key: [b]}]", False),
        ("[{oauth: [a]}, {key: [a, b]}]", False),  # an error already
    ],
)
def test_two_dependencies_with_scopes_of_their_own(tmp_path: Path, security: str, warned: bool) -> None:
    """FastAPI publishes two required dependencies as alternatives: where either is enough, that is said."""
    text = api(f"{{get: {{security: {security}}}}}")
    found = [one for one in lint.warnings(catalogue(SPEC, tmp_path, api=text)) if one.code == "either-enough"]
    assert len(found) == warned and all("security_lists: all" in one.remedy for one in found)
    closed = "openapi: {spec: api.yaml, security_lists: all}\n"
    ruled = SPEC + "operations: [{match: GET /a, require: [a]}]\n"
    for policy in (closed, ruled):
        assert "either-enough" not in codes(policy, tmp_path, api=text)[1]


def test_names_under_schemes_that_have_none_in_3_0(tmp_path: Path) -> None:
    """OpenAPI 3.1 reads them as permissions; in 3.0 they are an error, and required all the same."""
    text = api("{get: {security: [{key: [a]}]}}")
    assert codes(SPEC, tmp_path, api=text)[0] == []
    old = text.replace("3.1.0", "3.0.0")
    assert codes(SPEC, tmp_path, api=old)[0] == ["names-in-3.0"]
    assert catalogue(SPEC, tmp_path, api=old).entries[0].operation.require == (("a",),)


def test_operations_without_a_requirement_are_warned_of(tmp_path: Path) -> None:
    """What every valid credential may call is listed, unless somebody has said that it may."""
    text = api("{get: {}, put: {security: []}, post: {x-required-permissions: []}, delete: {security: [{key: []}]}}")
    assert codes(SPEC, tmp_path, api=text) == ([], ["no-requirement", "no-requirement"])
    assert codes("openapi: {spec: api.yaml, default_require: deny}\n", tmp_path, api=text) == ([], [])
    decided = SPEC + "operations: [{match: GET /a, require: []}, {match: DELETE /a, require: [[x], [y]]}]\n"
    assert codes(decided, tmp_path, api=text) == ([], [])


@pytest.mark.parametrize(
    ("one", "two", "several", "overlap"),
    [
        ("/a/{x}", "/a/b", "", True),
        ("/a/{x}/c", "/a/b/{y}", "", True),
        ("/a/{x}.json", "/a/b.json", "", True),
        ("/a/{x}.json", "/a/b.xml", "", False),
        ("/a/{x}/c", "/a/b/d", "", False),
        ("/a/{x}", "/a/b/c", "", False),
        ("/a/{x}", "/a/b/c", "x-multi-segment: [x]", True),
        ("/a/{x}/c", "/a/b/c/d", "x-multi-segment: [x]", True),
        ("/{x}/b", "/a/{y}", "", True),
    ],
)
def test_overlapping_templates_with_different_requirements(
    tmp_path: Path, one: str, two: str, several: str, overlap: bool
) -> None:
    """A backend that routes by declaration order may serve the other one; equal requirements are nobody's business."""
    text = "openapi: 3.1.0\npaths:\n"
    text += f"  '{one}': {{get: {{x-required-permissions: [a], {several}}}}}\n"
    text += f"  '{two}': {{get: {{x-required-permissions: [%s]}}}}\n"
    assert codes(SPEC, tmp_path, api=text % "b")[1] == ["overlap"] * overlap
    assert codes(SPEC, tmp_path, api=text % "a")[1] == []


def test_overlapping_templates_are_listed_up_to_a_bound(tmp_path: Path) -> None:
    """Of 1,089 pairs a thousand are listed, and a last finding says that there are more."""
    paths = [f"/a{n}/{{x}}" for n in range(33)] + [f"/{{y}}/b{n}" for n in range(33)]
    items = (f"  '{path}': {{get: {{x-required-permissions: [p{n}]}}}}\n" for n, path in enumerate(paths))
    made = catalogue(SPEC, tmp_path, api="openapi: 3.1.0\npaths:\n" + "".join(items))
    listed = [one.message for one in lint.warnings(made) if one.code == "overlap"]
    assert len(listed) == 1001 and "more than 1000 pairs of templates overlap" in listed[-1]


def test_trace_repeated_ids_and_unused_scopes_are_warnings_with_their_places(tmp_path: Path) -> None:
    """TRACE, ids used twice and scopes that nothing requires are told with their places."""
    text = """
openapi: 3.1.0
paths:
  /a: {trace: {}, get: {operationId: x, security: [{o: [r]}]}, put: {operationId: x, security: [{o: [r]}]}}
components: {securitySchemes: {o: {type: oauth2, flows: {implicit: {scopes: {r: '', w: ''}}}}}}
"""
    found = lint.warnings(catalogue(SPEC, tmp_path, api=text))
    assert {one.code: one.pointer for one in found} == {
        "never-served": "/paths/~1a/trace",
        "same-operation-id": "/paths/~1a/put",
        "unused-scope": "/components/securitySchemes/o/flows/implicit/scopes/w",
    }


def test_proposals_follow_from_tag_path_and_method(tmp_path: Path) -> None:
    """A slug is the tag or the first telling segment, and what the method does; health and docs may be public."""
    text = """
openapi: 3.1.0
paths:
  /api/v1/Big Pets/{id}: {get: {}, put: {}, delete: {}}
  /x: {post: {tags: [Admin Area]}}
  /{id}: {get: {}}
  /healthz: {get: {}, post: {}}
"""
    proposed = {
        entry.operation.name: (slug(entry.operation), may_be_public(entry.operation))
        for entry in catalogue(SPEC, tmp_path, api=text).entries
    }
    assert proposed == {
        "GET /api/v1/Big%20Pets/{id}": ("big-20pets:read", False),
        "PUT /api/v1/Big%20Pets/{id}": ("big-20pets:write", False),
        "DELETE /api/v1/Big%20Pets/{id}": ("big-20pets:delete", False),
        "POST /x": ("admin-area:write", False),
        "GET /{id}": ("api:read", False),
        "GET /healthz": ("healthz:read", True),
        "POST /healthz": ("healthz:write", False),
    }


def test_a_clean_document_has_no_findings_but_what_is_open(tmp_path: Path) -> None:
    """The tests' own document: one operation without a requirement, which overlaps one that has."""
    assert codes(SPEC, tmp_path, api=PETS) == ([], ["no-requirement", "overlap"])
    assert document(PETS).warnings == ()
