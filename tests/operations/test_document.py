"""Documents: what is read of them, and what each mistake is told."""

import json
import time

import pytest

from keyswap.operations.findings import DocumentError
from keyswap.operations.parsing import MAX_BYTES, parse
from keyswap.operations.servers import prefixes
from operations.documents import PETS, document

MAIN = "file:///d/api.yaml"


def error_of(files: dict[str, str] | str, main: str = MAIN) -> str:
    with pytest.raises(DocumentError) as caught:
        document(files, main)
    return str(caught.value)


def paths(item: str) -> str:
    return f"openapi: 3.1.0\ninfo: {{title: t, version: '1'}}\npaths:\n  /a/{{x}}: {item}\n"


def test_every_operation_is_read_with_its_pointer() -> None:
    """Each operation has its method, path, tags, id, security of the nearest level, and where it stands."""
    made = document(PETS)
    by_id = {one.operation_id: one for one in made.operations if one.operation_id}
    assert len(made.operations) == 7 and made.version == (3, 1) and made.title == "Pets"
    assert by_id["addPet"].security == ({"key": ("pets:write",)}, {"key": ("pets:all",)})
    assert by_id["getPet"].required == (("pets:read",),) and by_id["dropPet"].required == (("pets:all", "pets:drop"),)
    assert by_id["dropPet"].pointer == "/paths/~1pets~1{petId}/delete" and by_id["dropPet"].tags == ("pets", "danger")
    assert by_id["getPet"].parameters[0].name == "petId"


def test_json_and_yaml_say_the_same() -> None:
    """A document reads alike in both languages, in 3.0 and 3.1."""
    from_yaml = document(PETS)
    data = parse(PETS.encode(), "p", time.monotonic() + 5).data
    assert document(json.dumps(data)).operations == from_yaml.operations
    assert document(PETS.replace("3.1.0", "3.0.3")).version == (3, 0)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "api.yaml: this is no OpenAPI document"),
        ("<html>", "api.yaml: this is no OpenAPI document"),
        ("[1]", "api.yaml: this is no OpenAPI document"),
        ("{", "api.yaml:1: this is no JSON"),
        ("a: [", ": this is no YAML"),
        ("a: 1\na: 2", "api.yaml:2: the key 'a' stands twice"),
        ('{"a": 1,\n "a": 2}', "the key 'a' stands twice"),
        ("swagger: '2.0'\npaths: {}", "api.yaml#/swagger: OpenAPI 2.0 is not read: convert it to OpenAPI 3"),
        ("openapi: 4.0.0\npaths: {}", "api.yaml#/openapi: OpenAPI 4.0.0 is not read"),
        ("openapi: 3.1.0\npaths: []", "api.yaml#/paths: `paths` is no object"),
        ("openapi: 3.1.0\npaths: {a: {get: {}}}", "api.yaml#/paths/a: the path 'a' does not begin with /"),
        (paths("[]"), "api.yaml#/paths/~1a~1{x}: a path item is an object"),
        (paths("{get: []}"), "api.yaml#/paths/~1a~1{x}/get: an operation is an object"),
        (paths("{get: {security: {}}}"), "api.yaml#/paths/~1a~1{x}/get/security: `security` is no list"),
        (paths("{get: {security: [a]}}"), "api.yaml#/paths/~1a~1{x}/get/security/0: a security requirement is"),
        (paths("{get: {security: [{a: b}]}}"), "api.yaml#/paths/~1a~1{x}/get/security/0: permissions are a list"),
        (paths("{get: {security: [{a: [b c]}]}}"), "'b c' is no permission"),
        (paths("{get: {x-required-permissions: a}}"), "get/x-required-permissions: permissions are a list"),
        (paths("{get: {parameters: {}}}"), "get/parameters: `parameters` is no list"),
        (paths("{get: {parameters: [{in: path}]}}"), "get/parameters/0: a parameter without a name"),
        (paths("{get: {servers: [{url: '/{v}'}]}}"), "the server variable `v` has no `default`"),
        (paths("{$ref: '#/nowhere'}"), "api.yaml#/paths/~1a~1{x}: $ref #/nowhere leads nowhere"),
        (paths("{get: {requestBody: {$ref: '#/a%7Eb'}}}"), "get/requestBody: $ref #/a%7Eb leads nowhere"),
        (paths("{$ref: '#/paths/~1a~1{x}'}"), "a $ref that leads back to itself"),
        (paths("{$ref: 'http://other/x.yaml'}"), "$ref http://other/x.yaml leads to another origin"),
        ("a: &a [*a]", "api.yaml:1: *a contains itself"),
        ("a: !!python/name:os.system x", "api.yaml:1: the tag"),
        ("a: 1\n---\nb: 1", "api.yaml:2: a second document"),
        ("a: " + "[" * 300, "nested more than 200 deep"),
        ('{"a": ' + "[" * 100_000, "nested more than 200 deep"),
        ("a: \xff", None),
    ],
)  # fmt: skip
def test_a_document_that_cannot_be_used_is_told(text: str, says: str | None) -> None:
    """Each mistake is one line with file, pointer or line, and what to do."""
    told = error_of(text)
    assert "\n" not in told and (says is None or says in told), told


def test_a_bomb_costs_bounded_time_and_memory() -> None:
    """Aliases of aliases, 50 MB, deep nesting and too much time end in one error, soon."""
    began = time.monotonic()
    bomb = "a: &a [1,1,1,1,1,1,1,1,1,1]\n" + "".join(
        f"{chr(c)}: &{chr(c)} [{','.join([f'*{chr(c - 1)}'] * 10)}]\n" for c in range(98, 115)
    )
    assert "more than 8,000,000 values" in error_of(bomb)
    with pytest.raises(DocumentError, match="MiB, more than 32: split it"):
        parse(b"a: " + b"x" * (50 << 20), "big.yaml", began + 20)
    with pytest.raises(DocumentError, match="longer than 20 s"):
        parse(b"a: [1]", "slow.yaml", began - 1)
    assert len(bomb) < 1000 and MAX_BYTES < 50 << 20 and time.monotonic() - began < 5


def test_references_lead_across_files() -> None:
    """Path items, operations' parameters and schemes may stand in other files; each error names its own file."""
    files = {
        MAIN: "openapi: 3.1.0\npaths: {/a: {$ref: 'parts/a.yaml#/item'}}",
        "file:///d/parts/a.yaml": "item: {get: {security: [{k: [s]}], parameters: [{$ref: '../b.json#/p~1q'}]}}",
        "file:///d/b.json": '{"p/q": {"name": "n", "in": "query"}}',
    }
    (one,) = document(files).operations
    assert one.security == ({"k": ("s",)},) and one.parameters[0].name == "n"
    assert (one.file, one.pointer) == ("parts/a.yaml", "/item/get")
    assert error_of(files | {"file:///d/b.json": '{"p": 1}'}).startswith("parts/a.yaml#/item/get/parameters/0: $ref")
    assert error_of(files | {"file:///d/b.json": "{"}).startswith("b.json:1: this is no JSON")


def test_a_url_reads_its_own_origin_alone() -> None:
    """A document from a URL cannot make the gateway read files, or ask other hosts."""
    url = "http://api.example/v1/openapi.json"
    for ref in ("file:///etc/passwd", "http://169.254.169.254/x", "https://api.example/x"):
        assert "leads to another origin" in error_of({url: paths(f"{{$ref: '{ref}'}}")}, url)
    part = {"http://api.example/v1/a.yaml": "get: {}"}
    assert document({url: paths("{$ref: a.yaml}"), **part}, url).operations[0].file == "http://api.example/v1/a.yaml"


def test_a_value_that_looks_like_a_reference_is_none() -> None:
    """A `$ref` in an example, default or extension is a value: it need not lead anywhere."""
    text = paths("{get: {x-y: {$ref: '#/no'}, responses: {'200': {content: {a/b: {example: {$ref: '#/no'}}}}}}}")
    assert len(document(text).operations) == 1


@pytest.mark.parametrize(
    ("servers", "base", "expected"),
    [
        ([], MAIN, ("",)),
        ([{"url": "/"}], MAIN, ("",)),
        ([{"url": "https://api.example.com"}], MAIN, ("",)),
        ([{"url": "https://api.example.com/"}], MAIN, ("",)),
        ([{"url": "https://api.example.com/v1/"}, {"url": "/v1"}, {"url": "//h/v2"}], MAIN, ("/v1", "/v2")),
        ([{"url": "v1"}], MAIN, ("/v1",)),
        ([{"url": "v1"}], "http://h/docs/openapi.json", ("/docs/v1",)),
        ([{"url": "/v1"}], "http://h/docs/openapi.json", ("/v1",)),
        ([{"url": "https://{region}.example.com/v1", "variables": {"region": {"default": "eu"}}}], MAIN, ("/v1",)),
        ([{"url": "/{v}", "variables": {"v": {"default": "v1", "enum": ["v1", "v2"]}}}], MAIN, ("/v1", "/v2")),
        ([{"url": "/{v}/x", "variables": {"v": {"default": "v1"}}}], MAIN, ("/{server.v}/x",)),
        ([{"url": "{root}/x", "variables": {"root": {"default": "https://h/v1"}}}], MAIN, ("/v1/x",)),
        ([{"url": "https://h{base}", "variables": {"base": {"default": "/api/v3"}}}], MAIN, ("/api/v3",)),
    ],
)  # fmt: skip
def test_servers_become_prefixes(servers: list[dict[str, object]], base: str, expected: tuple[str, ...]) -> None:
    """Absolute, relative and templated servers say under which path the operations stand."""
    assert prefixes(servers, base) == expected
