"""The operations of a policy: which one a request is, and what it requires."""

from pathlib import Path

import pytest

from keyswap.model import Claims, Code
from keyswap.operations.findings import Finding
from keyswap.operations.requirements import of_security, permitted
from operations.documents import PETS, catalogue, found, refused, shape

SPEC = "openapi: {spec: api.yaml}\n"


def holding(*permissions: str) -> Claims:
    return Claims("authkit", "i", "u", None, None, "o", (), permissions, None, None, "k", None)


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
]  # fmt: skip


@pytest.mark.parametrize("target", NEARLY)
def test_what_may_be_meant_is_not_undocumented(tmp_path: Path, target: str) -> None:
    """With `undocumented: authenticated`, a path that becomes a documented one for a careless backend is refused."""
    made = catalogue("openapi: {spec: api.yaml, undocumented: authenticated}\n", tmp_path, api=PETS)
    assert refused(made, "GET", target).code is Code.NO_SUCH_OPERATION
    assert refused(made, "PATCH", "/pets/1").code is Code.METHOD_NOT_ALLOWED


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


def test_what_stops_the_load(tmp_path: Path) -> None:
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
