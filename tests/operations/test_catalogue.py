"""The operations of a policy: which one a request is, and what it requires."""

import time
from pathlib import Path

import pytest

from keyswap.model import Claims, Code
from keyswap.operations import catalogue as catalogues
from keyswap.operations.findings import Finding
from keyswap.operations.requirements import of_security, permitted
from keyswap.operations.template import form_of
from keyswap.policy import PolicyError
from tests.operations.documents import PETS, catalogue, found, refused, shape

SPEC = "openapi: {spec: api.yaml}\n"


def holding(*permissions: str) -> Claims:
    return Claims("authkit", "i", "u", None, None, "o", (), permissions, None, None, "k", None)


def test_rules_are_found_not_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading takes steps in proportion to operations and rules, not to their product."""
    steps, many = [0], 300

    def counted(text: str) -> str:
        steps[0] += 1
        return form_of(text)

    monkeypatch.setattr(catalogues, "form_of", counted)
    api = "openapi: 3.1.0\npaths:\n" + "".join(f"  /a/{n}/{{x}}: {{get: {{responses: {{}}}}}}\n" for n in range(many))
    rules = "".join(f"  - {{match: 'GET /a/{n}/{{y}}', require: [p{n}]}}\n" for n in range(many))
    made = catalogue(f"{SPEC}operations:\n{rules}", tmp_path, api=api)
    assert not made.errors and found(made, "GET", f"/a/{many - 1}/1").require == ((f"p{many - 1}",),)
    assert steps[0] < 10 * many


def errors_of(text: str, folder: Path, **files: str) -> list[Finding]:
    return catalogue(text, folder, **files).errors


def test_requirements_come_from_the_document(tmp_path: Path) -> None:
    """Scopes keep their OR and AND, x-required-permissions comes before them, an empty list is public."""
    assert shape(catalogue(SPEC, tmp_path, api=PETS)) == {
        "GET /health": "public",
        "GET /pets": (("pets:read",),),
        "POST /pets": (("pets:write",), ("pets:all",)),
        "GET /pets/mine": (),
        "GET /pets/{petId}": (("pets:read",),),
        "DELETE /pets/{petId}": (("pets:all", "pets:drop"),),
        "GET /admin/users": (("admin",),),
    }


def test_the_policy_comes_before_the_document(tmp_path: Path) -> None:
    """Entries by template, id and tag override field by field; the more precise name wins."""
    rules = """operations:
  - {match: "GET /pets/{id}", require: [pets:look]}
  - {match: {operation_id: getPet}, require: [never], cost: 7, resource: {type: pet, id: "{petId}"}}
  - {match: {tag: pets}, require: [[a, b], [c]], cost: 3}
  - {match: {operation_id: listPets}, public: true}
  - {match: GET /health, public: false}
"""
    made = catalogue(SPEC + rules, tmp_path, api=PETS)
    assert not made.errors
    told = shape(made)
    assert told["GET /pets/{petId}"] == (("pets:look",),) and told["POST /pets"] == (("a", "b"), ("c",))
    assert told["GET /pets"] == "public" and told["GET /health"] == ()
    pet = found(made, "GET", "/pets/1")
    assert (pet.cost, pet.resource, pet.source) == (7, ("pet", "{petId}"), "operations")


@pytest.mark.parametrize(
    ("rules", "drop", "other"),
    [
        ("{match: {tag: pets}, public: true}, {match: 'DELETE /pets/{id}', require: [d]}", (("d",),), "public"),
        ("{match: 'DELETE /pets/{id}', require: [d]}, {match: {tag: pets}, public: true}", (("d",),), "public"),
        ("{match: {tag: pets}, public: true}, {match: {operation_id: dropPet}, require: []}", (), "public"),
        ("{match: {tag: pets}, public: true}, {match: {tag: danger}, require: [d]}", (("d",),), "public"),
        ("{match: {tag: danger}, require: [d]}, {match: {tag: pets}, public: true}", "public", "public"),
        ("{match: {tag: pets}, require: [p]}, {match: {operation_id: dropPet}, public: true}", "public", (("p",),)),
        ("{match: {tag: pets}, require: [p]}, {match: {operation_id: dropPet}, public: false}", (("p",),), (("p",),)),
        ("{match: {tag: pets}, public: true}, {match: {operation_id: dropPet}, cost: 2}", "public", "public"),
        (
            "{match: {tag: pets}, public: true}, {match: {operation_id: dropPet}, public: false}",
            (("pets:all", "pets:drop"),),
            "public",
        ),
    ],
)
def test_what_is_said_more_precisely_or_later_wins(tmp_path: Path, rules: str, drop: object, other: object) -> None:
    """`require` and `public` answer one question: what is said of many never opens what is said of one."""
    told = shape(catalogue(SPEC + f"operations: [{rules}]\n", tmp_path, api=PETS))
    assert told["DELETE /pets/{petId}"] == drop and told["GET /pets"] == other


@pytest.mark.parametrize(
    ("default", "closed"),
    [("none", []), ("deny-unsafe", ["POST /a"]), ("deny", ["GET /a", "POST /a", "POST /k"])],
)
def test_default_require_closes_what_requires_nothing(tmp_path: Path, default: str, closed: list[str]) -> None:
    """Operations that ask for no permission are closed as told; what says that a credential is enough is not."""
    text = """
openapi: 3.1.0
paths:
  /a: {get: {}, post: {}}
  /k: {post: {security: [{key: [s]}, {key: []}]}}
  /ok: {post: {x-required-permissions: []}}
  /p: {post: {security: []}}
  /s: {post: {security: [{key: [s]}]}}
"""
    if default == "deny-unsafe":
        closed = ["POST /a", "POST /k"]
    made = catalogue(f"openapi: {{spec: api.yaml, default_require: {default}}}\n", tmp_path, api=text)
    assert [entry.operation.name for entry in made.entries if entry.operation.closed] == closed
    for entry in made.entries:
        verdict = permitted(holding("s", "t"), entry.operation)
        assert (verdict is not None) is entry.operation.closed, entry.operation.name


@pytest.mark.parametrize(
    ("alternatives", "any_of", "all_of"),
    [
        ([], (), ()),
        ([{"a": ()}], (), ()),
        ([{"a": ("x",)}], (("x",),), (("x",),)),
        ([{"a": ("x",), "b": ("y",)}], (("x", "y"),), (("x", "y"),)),
        ([{"a": ("x",)}, {"b": ("y",)}], (("x",), ("y",)), (("x", "y"),)),
        ([{"a": ()}, {"b": ("y",)}], (), (("y",),)),
        ([{"a": ("x",)}, {"b": ("x", "y")}], (("x",),), (("x", "y"),)),
        ([{"a": ("x",)}, {"b": ("x",)}], (("x",),), (("x",),)),
    ],
)
def test_security_is_read_as_openapi_says(alternatives: object, any_of: object, all_of: object) -> None:
    """Alternatives are OR, schemes and scopes of one are AND; `all` takes every alternative together."""
    assert of_security(alternatives, "any") == any_of  # type: ignore[arg-type]
    assert of_security(alternatives, "all") == all_of  # type: ignore[arg-type]


def test_one_alternative_has_to_be_held_whole(tmp_path: Path) -> None:
    """The permission step admits exactly who holds an alternative whole, and names the nearest one otherwise."""
    made = catalogue(SPEC, tmp_path, api=PETS)
    drop, add = found(made, "DELETE", "/pets/1"), found(made, "POST", "/pets")
    assert permitted(holding("pets:drop", "x", "pets:all"), drop) is None
    assert permitted(holding("pets:all"), add) is None and permitted(holding("pets:write"), add) is None
    verdict = permitted(holding("pets:all"), drop)
    assert verdict is not None and verdict.code is Code.MISSING_PERMISSION
    assert verdict.required == ("pets:all", "pets:drop") and verdict.missing == ("pets:drop",)
    assert permitted(holding(), add) is not None and permitted(holding("pets:Write", "pets:writ"), add) is not None


def test_the_mode_of_an_operation_comes_before_the_policys(tmp_path: Path) -> None:
    """Shadow and off are for single operations as well as for all; who is named alone is judged alone."""
    rules = (
        "operations: [{match: GET /pets, mode: enforce}, {match: POST /pets, mode: off}]\nmode: {permissions: shadow}\n"
    )
    made = catalogue(SPEC + rules, tmp_path, api=PETS)
    enforced, off, shadowed = (
        permitted(holding(), found(made, method, target))
        for method, target in (("GET", "/pets"), ("POST", "/pets"), ("GET", "/pets/1"))
    )
    assert enforced is not None and enforced.enforced and off is None
    assert shadowed is not None and not shadowed.enforced


@pytest.mark.parametrize("more", ["", ", '/v1/{a}-{b}/keys': {get: {}}", ", '/v1/x{c}/keys': {get: {}}"])
def test_which_of_two_mixes_wins_depends_on_no_other_template(tmp_path: Path, more: str) -> None:
    """Of two mixes of one segment the one with fewer parameters wins, whatever longer templates begin with them."""
    text = "openapi: 3.1.0\npaths: {'/v1/{a}-{b}': {get: {}}, '/v1/{a}:now': {get: {}}" + more + "}"
    assert found(catalogue(SPEC, tmp_path, api=text), "GET", "/v1/x-1:now").path == "/v1/{a}:now"


def test_the_most_specific_template_wins(tmp_path: Path) -> None:
    """Literals come before parameters; HEAD is judged as GET where it is not documented; no parameter is empty."""
    made = catalogue(SPEC, tmp_path, api=PETS)
    assert found(made, "GET", "/pets/mine").path == "/pets/mine"
    assert found(made, "HEAD", "/pets/mine?x=/pets/1").path == "/pets/mine"
    assert found(made, "DELETE", "/pets/mine").path == "/pets/{petId}"
    assert found(made, "GET", "/pets/%6dine").path == "/pets/mine"
    assert refused(made, "GET", "/pets/").code is Code.NO_SUCH_OPERATION


def test_parameters_of_several_segments_end_where_a_template_goes_on(tmp_path: Path) -> None:
    """What follows a parameter of several segments is more specific than its end, literals before parameters."""
    text = """
openapi: 3.1.0
paths:
  /b/{x}: {x-multi-segment: [x], get: {}}
  /b/{x}/protection: {get: {parameters: [{name: x, in: path, x-multi-segment: true}]}}
  /b/{x}/{y}/{z}: {x-multi-segment: [x], get: {}}
"""
    made = catalogue(SPEC, tmp_path, api=text)
    for target, path in (
        ("/b/1", "/b/{x}"),
        ("/b/1/2", "/b/{x}"),
        ("/b/1/2/3", "/b/{x}/{y}/{z}"),
        ("/b/1/protection", "/b/{x}/protection"),
        ("/b/1/2/3/protection", "/b/{x}/protection"),
        ("/b/protection", "/b/{x}"),
    ):
        assert found(made, "GET", target).path == path, target
    ruled = catalogue(SPEC + "operations: [{match: 'GET /b/{x}', multi_segment: []}]\n", tmp_path, api=text)
    assert found(ruled, "GET", "/b/1").path == "/b/{x}"
    assert refused(ruled, "GET", "/b/1/2").code is Code.NO_SUCH_OPERATION


def test_what_is_not_documented_is_refused(tmp_path: Path) -> None:
    """404 names the document and the way in, 405 the methods of the path."""
    made = catalogue(SPEC, tmp_path, api=PETS)
    missing = refused(made, "GET", "/Pets")
    assert missing.code is Code.NO_SUCH_OPERATION and "api.yaml" in missing.reason
    wrong = refused(made, "PATCH", "/pets/1")
    assert wrong.code is Code.METHOD_NOT_ALLOWED and wrong.allow == ("DELETE", "GET", "HEAD")


NEARLY = [
    "/Admin/users", "/ADMIN/USERS", "/admin/users/", "/admin/users.", "/admin./users", "/admin/users%20", "/admin%20/users",
    "/admin/users%2e", "/admin/users...", "/admin/users.%20.", "/%41dmin/users", "/admin/user%53", "/pets/1/", "/PETS/1",
    "/pets/1./", "/Health", "/health/", "/pet%73/", "/admin/users/.%20",
    "/admin/users.json", "/admin/users.tar.gz", "/index.php/admin/users", "/admin/index.php/users", "/app.PHP/Health",
    "/admin/users%3f", "/admin/users%3Fx/y", "/admin/users%23", "/admin/users::$DATA", "/admin/users%3A%3A%24data",
    "/admin/users%E2%80%8B", "/adm%C2%ADin/users", "/%EF%BD%81dmin/users", "/admin/%20users", "/admin/users%C2%A0",
    "/health.html/%23x/y", "/admin/users.json/.%20/%3Fx", "/health/%3F", "/health/index.php/%3F", "/%EF%BC%8Fadmin/users%3Fx",
    "/admin%EF%BC%8Fusers", "/x/%EF%BC%8E%EF%BC%8E/admin/users", "/admin/user%C5%BF", "/health.html",
]  # fmt: skip


@pytest.mark.parametrize("target", NEARLY)
def test_what_may_be_meant_is_not_undocumented(tmp_path: Path, target: str) -> None:
    """With `undocumented: authenticated`, a path that becomes a documented one for a careless backend is refused."""
    made = catalogue("openapi: {spec: api.yaml, undocumented: authenticated}\n", tmp_path, api=PETS)
    assert refused(made, "GET", target).code is Code.NO_SUCH_OPERATION
    assert refused(made, "PATCH", "/pets/1").code is Code.METHOD_NOT_ALLOWED


LIKE = """
openapi: 3.1.0
paths:
  /pets/{x}: {get: {x-required-permissions: [admin]}}
  /café-{x}: {get: {}}
  "/a b{x}": {get: {}}
  /p/{x}.: {get: {}}
  /cmp/{a}X{b}.json: {get: {}}
  /orgs/{o}/users: {get: {}}
  /f/{path}: {x-multi-segment: [path], get: {}}
  /g/{path}/raw: {x-multi-segment: [path], get: {}}
  /dots/.../x: {get: {}}
  /v1.: {get: {}}
  /jobs/{x}:run: {get: {}}
"""


@pytest.mark.parametrize(
    "target",
    [
        *("/pets/.../", "/PETS/%20", "/PETS/...", "/pets/%20/", "/pets/%20./", "/.../pets/1", "/pets/.../1", "/Pets/%2e%2e%2e"),
        *("/CAF%C3%A9-1", "/CAF%C3%89-1", "/caf%c3%a9-1/", "/A%20b1", "/a%20B1.", "/P/v1.", "/p/v1", "/P/v1", "/p/v1../"),
        *("/CMP/1x2.JSON", "/cmp/x1Xx2.json.", "/cmp/xXx.json%20", "/cmp/xxx.json"),
        *("/ORGS/.../users", "/orgs/%20/Users", "/orgs/.../USERS/", "/ORGS/1/.../users"),
        *("/F/...", "/F/a/b", "/f/a/b/", "/f/.../", "/F/a/%20/b", "/G/a/b/raw", "/g/a/b/RAW.", "/g/.../raw/"),
        *("/dots/.../X", "/DOTS/.../x", "/v1", "/V1."),
        *("/jobs/1:run.json", "/jobs/a.b:run...json", "/jobs/a.b.c.d.e:run.tar.gz", "/jobs/1:RUN.", "/jobs/1:run.json/%23"),
    ],
)  # fmt: skip
def test_parameters_and_mixes_may_be_meant_too(tmp_path: Path, target: str) -> None:
    """Whatever a parameter's value is, dots and spaces alone as well, a careless spelling around it is refused."""
    made = catalogue("openapi: {spec: api.yaml, undocumented: authenticated}\n", tmp_path, api=LIKE)
    assert not made.errors and refused(made, "GET", target).code is Code.NO_SUCH_OPERATION


@pytest.mark.parametrize(
    "target",
    ["/pets", "/cafe-1", "/caf%C3%A9-", "/a%20b", "/P", "/cmp/xx.json", "/orgs/1", "/f", "/f/", "/g/a/b", "/orgs//users", "/v2."],
)  # fmt: skip
def test_what_only_resembles_a_template_is_not_meant(tmp_path: Path, target: str) -> None:
    """A path that no reading makes a documented one needs a credential alone."""
    made = catalogue("openapi: {spec: api.yaml, undocumented: authenticated}\n", tmp_path, api=LIKE)
    assert found(made, "GET", target).path == ""


def test_a_closed_prefix_is_closed_however_it_is_written(tmp_path: Path) -> None:
    """What one document refuses is not let in by another one, whose prefix is longer than nothing only in letters."""
    text = """openapi:
  - {spec: api.yaml, undocumented: authenticated}
  - {spec: two.yaml, prefix: /admin}
  - {spec: two.yaml, prefix: /admin/open, undocumented: authenticated}
  - {spec: two.yaml, prefix: /%6fps/x}
"""
    made = catalogue(
        text, tmp_path, api="openapi: 3.1.0\npaths: {/a: {get: {}}}", two="openapi: 3.1.0\npaths: {/b: {get: {}}}"
    )
    assert not made.errors
    for target in ("/ADMIN/x", "/admin./x", "/admin%20", "/.../admin/x", "/Admin", "/Admin/open/x", "/admin/x", "/admin/OPEN/x",
                   "/ops/x/y", "/OPS/x/y", "/ops./x", "/ops/x", "/admin%3Fx", "/admin%23", "/Admin%3fx/y"):  # fmt: skip
        assert refused(made, "GET", target).code is Code.NO_SUCH_OPERATION, target
    for target in ("/x", "/admin/open/x", "/admins", "/ops", "/ops/y"):
        assert found(made, "GET", target).path == "", target


def test_an_undocumented_path_is_nothing_else_behind_its_prefix(tmp_path: Path) -> None:
    """What an upstream gets without a prefix is none of its other documents' paths, nor under a prefix they close."""
    text = """openapi:
  - {spec: api.yaml, prefix: /a, strip_prefix: true, undocumented: authenticated}
  - {spec: two.yaml}
  - {spec: two.yaml, prefix: /shut}
  - {spec: far.yaml, prefix: /far, upstream: "http://127.0.0.1:9001", audience: far}
"""
    one, two, far = (f"openapi: 3.1.0\npaths: {{{path}: {{get: {{}}}}}}" for path in ("/x", "/admin", "/distant"))
    made = catalogue("audience: near\n" + text, tmp_path, api=one, two=two, far=far)
    assert not made.errors
    for target in ("/a/admin", "/a/Admin", "/a/admin.", "/a/admin.json", "/a/%61dmin/", "/a/shut/x", "/a/SHUT", "/a/X"):
        assert refused(made, "GET", target).code is Code.NO_SUCH_OPERATION, target
    for target in ("/a/other", "/a/distant", "/a/far/distant", "/a/shuts", "/a"):
        assert found(made, "POST", target).path == "", target


def test_an_undocumented_path_costs_time_in_proportion_to_its_length(tmp_path: Path) -> None:
    """However many dots, spaces or segments it has, anonymous callers cannot make the gate work long."""
    made = catalogue("openapi: {spec: api.yaml, undocumented: authenticated}\n", tmp_path, api=LIKE)
    for unit in (".", "%20", "/...", "/a", "x", "Xx", "/%20."):
        target = f"/{unit * (64_000 // len(unit))}x".replace("//", "/").encode()
        began = time.process_time()
        made("GET", target)
        made("GET", b"/cmp" + target)
        made("GET", b"/F" + target)
        assert time.process_time() - began < 0.5, unit


@pytest.mark.parametrize("target", ["/", "/other", "/admin", "/admin/users/1", "/pets/1/toys", "/caf%C3%A9", "/pets2"])
def test_undocumented_paths_need_a_credential_alone(tmp_path: Path, target: str) -> None:
    """What is really outside the document is let through to the API's upstream, and is not public."""
    made = catalogue("openapi: {spec: api.yaml, undocumented: authenticated}\n", tmp_path, api=PETS)
    operation = found(made, "POST", target)
    assert operation.path == "" and not operation.public and not operation.require


def test_several_documents_have_prefixes_upstreams_and_audiences(tmp_path: Path) -> None:
    """Each API stands under its own prefix, which its upstream may not see, with its own upstream and audience."""
    text = """openapi:
  - {spec: api.yaml, prefix: /one, strip_prefix: true, upstream: "http://127.0.0.1:9001", audience: one}
  - {spec: two.yaml, prefix: /two/v2, audience: two, undocumented: authenticated}
"""
    two = "openapi: 3.0.1\nservers: [{url: https://x/api}]\npaths: {/x: {get: {}}}"
    made = catalogue(text, tmp_path, api=PETS, two=two)
    assert not made.errors
    one, other = found(made, "GET", "/one/pets"), found(made, "GET", "/two/v2/api/x")
    assert (one.upstream.port, one.audience, one.stripped) == (9001, "one", 1)
    assert (other.upstream.port, other.audience, other.stripped) == (9000, "two", 0)
    assert found(made, "GET", "/two/v2/y").audience == "two"
    for target in ("/pets", "/one", "/one/y", "/two", "/two/v2x"):
        assert refused(made, "GET", target).code is Code.NO_SUCH_OPERATION


def test_unmatched_overrides_and_templates_of_one_shape_stop_the_load(tmp_path: Path) -> None:
    """Overrides that match nothing, templates of one shape, bad templates and upstreams that share tokens are errors."""
    rules = "operations: [{match: GET /pet, require: [a]}, {match: {tag: Pets}}, {match: GET /pets}]\n"
    one, two = errors_of(SPEC + rules, tmp_path, api=PETS)
    assert one.code == two.code == "override-unmatched" and "GET /pet is no operation of api.yaml" in one.message
    assert one.pointer == "/operations/0" and two.pointer == "/operations/1"
    same = "openapi: 3.1.0\npaths: {'/a/{x}': {get: {}, put: {}}, '/a/{y}': {get: {}, post: {}}}"
    (twice,) = errors_of(SPEC, tmp_path, api=same)
    assert (
        twice.code == "same-shape" and twice.pointer == "/paths/~1a~1{y}/get" and "/paths/~1a~1{x}/get" in twice.remedy
    )
    for path, says in (
        ("/a/{x}/{x}", "`x` stands twice"),
        ("/a/{x}{y}", "nothing between"),
        ("/a/{x", "braces"),
        ("/a/../b", "dot segment"),
        ("/a?b=c", "leave out the query"),
    ):
        (bad,) = errors_of(SPEC, tmp_path, api=f"openapi: 3.1.0\npaths: {{'{path}': {{get: {{}}}}}}")
        assert bad.code == "bad-template" and says in bad.message and bad.pointer is not None
    both = "openapi: [{spec: api.yaml}, {spec: api.yaml, prefix: /b, upstream: 'http://h:1'%s}]\n"
    assert [one.code for one in errors_of(both % "", tmp_path, api=PETS)] == ["no-audience"]
    assert [one.code for one in errors_of(both % ", audience: b", tmp_path, api=PETS)] == ["no-audience"]
    assert not errors_of("audience: a\n" + both % ", audience: b", tmp_path, api=PETS)
    (resource,) = errors_of(
        SPEC + "operations: [{match: GET /pets, resource: {type: pet, id: '{petId}'}}]\n", tmp_path, api=PETS
    )
    assert "has no parameter `petId`" in resource.message


def test_one_path_in_two_spellings_is_one(tmp_path: Path) -> None:
    """Needless escapes make no second operation: neither of a document nor of the policy."""
    text = "openapi: 3.1.0\npaths: {/admin: {get: {x-required-permissions: [a]}}, '/%61dmin': {get: {security: []}}}"
    (twice,) = errors_of(SPEC, tmp_path, api=text)
    assert twice.code == "same-shape"
    one = "openapi: 3.1.0\npaths: {'/%61dmin/{x}-%c3%a9': {get: {}}}"
    ruled = catalogue(SPEC + "operations: [{match: 'GET /admin/{y}-%C3%A9', require: [a]}]\n", tmp_path, api=one)
    assert not ruled.errors and found(ruled, "GET", "/admin/1-%C3%A9").require == (("a",),)
    with pytest.raises(PolicyError, match="match the same requests"):
        catalogue(SPEC + "operations: [{match: GET /admin}, {match: GET /%61dmin}]\n", tmp_path, api=text)


def test_a_template_has_a_bounded_number_of_segments(tmp_path: Path) -> None:
    """A look-up goes as deep as the longest template: that one is bounded, and told."""
    text = '{"openapi": "3.1.0", "paths": {"%s": {"get": {}}}}'
    (bad,) = errors_of(SPEC, tmp_path, api=text % ("/a" * 1200))
    assert bad.code == "bad-template" and "more than 100 segments" in bad.message
    made = catalogue(SPEC, tmp_path, api=text % ("/a" * 100))
    assert not made.errors and found(made, "GET", "/a" * 100).method == "GET"


def test_undocumented_is_compared_within_a_prefix(tmp_path: Path) -> None:
    """Documents of one prefix agree on `undocumented`; those of another prefix are not asked."""
    text = "openapi: [{spec: api.yaml}, %s, {spec: api.yaml, prefix: /b, undocumented: authenticated}]\n"
    catalogue(text % "{spec: api.yaml, prefix: /b, undocumented: authenticated}", tmp_path, api=PETS)
    with pytest.raises(PolicyError, match="documents of one prefix have one `undocumented`"):
        catalogue(text % "{spec: api.yaml, prefix: /b}", tmp_path, api=PETS)


def test_optional_security_is_public(tmp_path: Path) -> None:
    """`{}` among the alternatives makes a credential optional, as OpenAPI says; with `all` it adds nothing."""
    text = "openapi: 3.1.0\npaths: {/a: {get: {security: [{}, {k: [s]}]}}, /b: {get: {security: [{}]}}}"
    assert shape(catalogue(SPEC, tmp_path, api=text)) == {"GET /a": "public", "GET /b": "public"}
    told = shape(catalogue("openapi: {spec: api.yaml, security_lists: all}\n", tmp_path, api=text))
    assert told == {"GET /a": (("s",),), "GET /b": "public"}


def test_only_an_operations_own_empty_list_is_public(tmp_path: Path) -> None:
    """An empty `security` of the document or a path says nothing of who may call: a credential is needed."""
    text = (
        "openapi: 3.1.0\nsecurity: []\npaths: {/a: {get: {}}, /b: {security: [], get: {}}, /c: {get: {security: []}}}"
    )
    assert shape(catalogue(SPEC, tmp_path, api=text)) == {"GET /a": (), "GET /b": (), "GET /c": "public"}
    beside = "openapi: 3.1.0\npaths: {/a: {x-required-permissions: [s], get: {security: []}}}"
    assert shape(catalogue(SPEC, tmp_path, api=beside)) == {"GET /a": (("s",),)}
