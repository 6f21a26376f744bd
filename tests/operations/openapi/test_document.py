"""Documents: what is read of them, and what each mistake is told."""

import gc
import gzip
import json
import os
import threading
import time
import tracemalloc
from pathlib import Path

import pytest

from keyswap.operations.findings import DocumentError
from keyswap.operations.openapi.document_cache import Documents
from keyswap.operations.openapi.parsing import MAX_BYTES, parse
from keyswap.operations.openapi.references import Library
from keyswap.operations.openapi.servers import prefixes
from keyswap.state import StateDirectory
from keyswap.watched_files import WatchedFiles, signature
from tests.operations.documents import PETS, catalogue, document, site

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
        (paths("{get: {$ref: '#/no'}}"), "api.yaml#/paths/~1a~1{x}/get: $ref #/no leads nowhere"),
        (paths("{get: {$ref: '#/info', security: []}}"), "api.yaml#/paths/~1a~1{x}/get: an operation's $ref stands"),
        (paths("{get: {$ref: '#/openapi'}}"), "api.yaml#/openapi: an operation is an object"),
        (paths("{$ref: '#/x', get: {}}\nx: {put: {}}"), "`get` beside a $ref, which would be lost"),
        (paths("{$ref: '#/x', parameters: []}\nx: {put: {}}"), "`parameters` beside a $ref, which would be lost"),
        (paths("{$ref: '#/x', security: []}\nx: {security: []}"), "api.yaml#/paths/~1a~1{x}: `security` beside a $ref"),
        (paths("{$ref: '#/x'}\nx: {$ref: '#/y', security: []}\ny: {security: []}"), "api.yaml#/x: `security` beside"),
        (paths("{$ref: 5}"), "api.yaml#/paths/~1a~1{x}: a $ref that is no text"),
        (paths("{get: {requestBody: x}}"), "api.yaml#/paths/~1a~1{x}/get/requestBody: `requestBody` is no object"),
        (paths("{get: {requestBody: null}}"), "get/requestBody: `requestBody` is no object"),
        (paths("{get: {requestBody: {$ref: '#/openapi'}}}"), "get/requestBody: `requestBody` is no object"),
        (paths("{GET: {}}"), "api.yaml#/paths/~1a~1{x}/GET: `GET` is no method: a path item has get, put"),
        (paths("{gett: {responses: {}}}"), "api.yaml#/paths/~1a~1{x}/gett: `gett` is no method"),
        (paths("{x-multi-segment: x, get: {}}"), "{x}/x-multi-segment: `x-multi-segment` is no list of names"),
        (paths("{get: {x-multi-segment: null}}"), "get/x-multi-segment: `x-multi-segment` is no list of names"),
        (paths("{get: {parameters: [{name: x, in: path, x-multi-segment: [x]}]}}"), "parameters/0/x-multi-segment: of a"),
        (paths("{get: {tags: pets}}"), "api.yaml#/paths/~1a~1{x}/get/tags: `tags` is no list"),
        (paths("{get: {tags: [1]}}"), "api.yaml#/paths/~1a~1{x}/get/tags/0: a tag is a text"),
        (paths("{get: {security: [{a: [[b], [c]]}]}}"), "get/security/0: \"['b']\" is no permission"),
        (paths("{$ref: 'http://[::1'}"), "api.yaml#/paths/~1a~1{x}: $ref 'http://[::1' is no reference"),
        ('{"openapi": "3.1.0", "paths": {"/\\ud800": {"get": {}}}}', "api.yaml: half a surrogate pair in a text"),
        ('{"a": ' * 210 + "1" + "}" * 210, "nested more than 200 deep"),
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


@pytest.mark.timing
def test_a_bomb_costs_bounded_time_and_memory() -> None:
    """Aliases of aliases, 50 MB, deep nesting and too much time end in one error, soon."""
    began = time.monotonic()
    bomb = "a: &a [1,1,1,1,1,1,1,1,1,1]\n" + "".join(
        f"{chr(c)}: &{chr(c)} [{','.join([f'*{chr(c - 1)}'] * 10)}]\n" for c in range(98, 115)
    )
    assert "more than 3,000,000 values" in error_of(bomb)
    with pytest.raises(DocumentError, match="MiB, more than 32: split it"):
        parse(b"a: " + b"x" * (50 << 20), "big.yaml", began + 20)
    for text in (b"a: [1]", b'{"a": [1]}'):
        with pytest.raises(DocumentError, match="longer than 20 s"):
            parse(text, "slow.yaml", began - 1)
    assert len(bomb) < 1000 and MAX_BYTES < 50 << 20 and time.monotonic() - began < 5


@pytest.mark.timing
def test_json_is_counted_before_it_is_built() -> None:
    """A JSON text of too many values is an error before it takes memory; what stands in its texts does not count."""
    began = time.monotonic()
    for bomb in (b"[" + b"[]," * 3_000_000 + b"1]", b'{"a":[' + b"0," * 4_000_000 + b"0]}"):
        tracemalloc.start()
        with pytest.raises(DocumentError, match="more than 3,000,000 values"):
            parse(bomb, "bomb.json", began + 20)
        assert tracemalloc.get_traced_memory()[1] < 8 * len(bomb)
        tracemalloc.stop()
    many = json.dumps({"a": ',[{"\\' * 1_000_000, "b": [1, 2]}).encode()
    assert parse(many, "texts.json", began + 20).data["b"] == [1, 2]
    assert time.monotonic() - began < 10


def test_all_parts_together_are_bounded() -> None:
    """Many parts, each of a bearable size, do not add up to an unbearable document."""
    heads = {f"file:///d/{n}.json": json.dumps({"a": [0] * 700_000, "b": {"$ref": f"{n + 1}.json"}}) for n in range(9)}
    assert "more than 3,000,000 values" in error_of({MAIN: paths("{$ref: '0.json'}"), **heads})
    large = {
        f"file:///d/{n}.json": json.dumps({"a": "x" * (9 << 20), "b": {"$ref": f"{n + 1}.json"}}) for n in range(9)
    }
    assert "more than 64 MiB, all parts together" in error_of({MAIN: paths("{$ref: '0.json'}"), **large})


@pytest.mark.timing
def test_values_that_look_like_references_cost_no_second_walk() -> None:
    """Ten thousand references and as many values that look like some are looked at once."""
    refs = {
        f"s{n}": {"$ref": f"#/components/schemas/s{n + 1}", "example": {"$ref": f"#/no/{n}"}} for n in range(20_000)
    }
    schemas = {**refs, "s20000": {}}
    began = time.monotonic()
    document(json.dumps({"openapi": "3.1.0", "paths": {}, "components": {"schemas": schemas}}))
    assert time.monotonic() - began < 5


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


VALUES = [
    "example: {$ref: no.yaml}", "default: {a: [{$ref: no.yaml}]}", "enum: [{$ref: no.yaml}]", "const: {$ref: no.yaml}",
    "examples: [{$ref: no.yaml}]", "x-more: {$ref: no.yaml}", "properties: {a: {default: {$ref: no.yaml}}}",
]  # fmt: skip
REFERENCES = [
    "properties: {default: {$ref: no.yaml}}", "properties: {x-a: {$ref: no.yaml}}", "properties: {example: {$ref: no.yaml}}",
    "items: {$ref: no.yaml}", "$defs: {enum: {$ref: no.yaml}}", "anyOf: [{not: {$ref: no.yaml}}]",
    "properties: {value: {$ref: no.yaml}}",
]  # fmt: skip
ELSEWHERE = {
    "examples: {a: {value: {$ref: no.yaml}}}": False,
    "examples: {a: {x-b: {$ref: no.yaml}}}": False,
    "examples: {value: {$ref: no.yaml}}": True,
    "examples: {default: {$ref: no.yaml}}": True,
}


@pytest.mark.parametrize(
    ("media", "followed"),
    [
        *((f"schema: {{{schema}}}", False) for schema in VALUES),
        *((f"schema: {{{schema}}}", True) for schema in REFERENCES),
        *ELSEWHERE.items(),
    ],
)
def test_only_references_are_fetched(media: str, followed: bool) -> None:
    """A `$ref` is followed where OpenAPI has a reference, whatever the name in front of it; a value is never fetched."""
    asked: list[str] = []

    def fetch(uri: str) -> bytes:
        asked.append(uri)
        return text.encode() if uri == MAIN else b"{}"

    text = paths(f"{{get: {{responses: {{default: {{content: {{a/b: {{{media}}}}}}}}}}}}}")
    Library(MAIN, "api.yaml", fetch, time.monotonic() + 20)
    assert (asked == [MAIN, "file:///d/no.yaml"]) is followed and (asked == [MAIN]) is not followed


def test_an_operation_may_be_a_reference_alone() -> None:
    """What an operation's `$ref` leads to is the operation, with its security; nothing of it is lost."""
    (one,) = document(
        paths("{get: {$ref: '#/x/op'}}\nx: {op: {security: [{k: [s]}], x-required-permissions: [p]}}")
    ).operations
    assert one.security == ({"k": ("s",)},) and one.required == (("p",),) and one.pointer == "/x/op"


def test_what_stands_beside_a_reference_holds() -> None:
    """A path item may say more than the one that it refers to: permissions, security, several segments, servers."""
    more = "x-required-permissions: [p], security: [{k: [s]}], x-multi-segment: [x], servers: [{url: /v9}], summary: s"
    (one,) = document(paths(f"{{$ref: '#/x', {more}}}\nx: {{summary: t, get: {{}}}}")).operations
    assert one.required == (("p",),) and one.security == ({"k": ("s",)},) and one.security_at == "path"
    assert one.multi_segment == ("x",) and one.prefixes == ("/v9",)
    (two,) = document(
        paths("{$ref: '#/x', security: []}\nx: {$ref: '#/y', x-required-permissions: [q]}\ny: {get: {}}")
    ).operations
    assert two.required == (("q",),) and two.security == ()


@pytest.mark.parametrize(
    "field",
    [
        "x-required-permission",
        "X-Required-Permissions",
        "x_required_permissions",
        "x-require-permissions",
        "x-multisegment",
    ],
)
def test_a_misspelt_field_is_told(field: str) -> None:
    """What looks like one of our own fields and is not read is a warning, with its place; the right ones are none."""
    (one,) = document(paths(f"{{get: {{{field}: [a]}}}}")).warnings
    assert (one.code, one.pointer) == ("not-read", f"/paths/~1a~1{{x}}/get/{field}")
    (two,) = document("openapi: 3.1.0\npaths: {}\nx-required-permissions: [a]").warnings
    assert two.pointer == "/x-required-permissions" and "on a path or an operation" in two.remedy
    fine = "{x-required-permissions: [a], x-codeSamples: [], x-permissions: [], get: {x-multi-segment: [x], x-requires: 1}}"
    assert document(paths(fine)).warnings == ()


@pytest.mark.timing
def test_servers_of_many_values_are_counted_first() -> None:
    """Enumerations that multiply are an error before they are multiplied, and each list of servers is read once."""
    variables = {name: {"default": "0", "enum": [str(number) for number in range(25)]} for name in "abcd"}
    servers = [{"url": "https://h/{a}/{b}/{c}/{d}", "variables": variables}]
    began = time.monotonic()
    with pytest.raises(ValueError, match="more than 64 paths of servers"):
        prefixes(servers, MAIN)
    hosts = [{"url": "https://{a}.{b}.{c}.{d}.example/v1", "variables": variables}]
    assert prefixes(hosts, MAIN) == ("/v1",)
    items: dict[str, object] = {f"/p{number}": {"get": {}} for number in range(1000)}
    listed = [{"url": f"/v{number}/{{a}}", "variables": variables} for number in range(2)]
    made = document(json.dumps({"openapi": "3.1.0", "servers": listed, "paths": items}))
    assert len(made.operations[0].prefixes) == 50 and time.monotonic() - began < 3
    told = error_of(json.dumps({"openapi": "3.1.0", "servers": servers, "paths": items}))
    assert "api.yaml#/servers: more than 64 paths of servers" in told
    many = {
        "openapi": "3.1.0",
        "servers": listed,
        "paths": {f"/p{number}": {"get": {}, "put": {}} for number in range(501)},
    }
    assert "more than 50000 operations" in error_of(json.dumps(many))


# ---- Files and URLs


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("~nosuchuser/x.yaml", "~nosuchuser/x.yaml: it is no name of a file (Could not determine home directory.)"),
        ("a\0b.yaml", "a\\x00b.yaml: it is no name of a file"),
        ("\ud800.yaml", "\\ud800.yaml: it is no name of a file"),
        ("missing.yaml", "missing.yaml: it cannot be read (No such file or directory)"),
        (".", ".: it cannot be read (Is a directory)"),
        ("fifo", "fifo: it is no regular file"),
        ("nul.json", "it is no name of a file (embedded null byte)"),
        ("to-fifo.json", "fifo: it is no regular file"),
        ("http://[::1", "http://[::1: the document cannot be had"),
        ("http://127.0.0.1:99999/x", "the document cannot be had"),
    ],
)  # fmt: skip
def test_what_is_no_file_is_told(tmp_path: Path, spec: str, says: str) -> None:
    """Whatever a policy or a reference names: one line that says what is wrong with it, at once, and no traceback."""
    os.mkfifo(tmp_path / "fifo")
    for name, target in (("nul.json", "a\\u0000b"), ("to-fifo.json", "fifo")):
        (tmp_path / name).write_text(f'{{"openapi": "3.1.0", "paths": {{"/a": {{"$ref": "{target}"}}}}}}')
    with pytest.raises(DocumentError) as caught:
        Documents(None).load(spec, tmp_path)
    told = str(caught.value)
    assert says in told and told.isprintable(), told


def test_a_file_that_is_being_written_is_not_taken(tmp_path: Path) -> None:
    """A change is due once, when no watched file has changed since the last look; one in between is found afterwards."""
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_text("1")
    files = WatchedFiles()
    for file in (one, two):
        files.watch(file, signature(file))
    assert not files.due() and files.due(wanted=True) and files.unchanged()
    one.write_text("half")
    assert not files.due() and not files.unchanged()
    one.write_text("half and half")
    assert not files.due(wanted=True) and files.due(wanted=True) and not files.due()
    two.write_text("new")
    assert not files.due(wanted=True) and files.due() and files.unchanged() and not files.due()
    two.unlink()
    assert not files.due() and files.due() and not files.due()


def test_a_file_that_hangs_hides_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a watched file cannot be looked at that is said, changes of those before it are due, and it may be let go."""
    policy, hangs = tmp_path / "policy", tmp_path / "hangs"
    go_on = threading.Event()

    def slow(file: Path) -> object:
        if file == hangs:
            go_on.wait()
        return signature(file)

    files = WatchedFiles()
    for file in (policy, hangs):
        files.watch(file, signature(file))
    monkeypatch.setattr("keyswap.watched_files.signature", slow)
    monkeypatch.setattr("keyswap.files.WAIT_S", 0.05)
    before = threading.active_count()
    for _ in range(3):
        with pytest.raises(OSError) as caught:
            files.due()
        assert caught.value.filename == str(hangs)
    policy.write_text("1")
    assert not files.due() and files.due() and files.unchanged()
    with pytest.raises(OSError):
        files.due(wanted=True)
    assert threading.active_count() <= before + 2
    files.only({policy})
    assert not files.due() and files.due(wanted=True)
    go_on.set()


def test_files_are_looked_at_while_others_are_added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reload that nobody waits for any more may go on to watch files while they are looked at."""
    files = WatchedFiles()
    added = iter(range(1000))

    def adding(file: Path) -> object:
        files.watch(tmp_path / f"added {next(added)}", None)
        return signature(file)

    files.watch(tmp_path / "one", None)
    monkeypatch.setattr("keyswap.watched_files.signature", adding)
    assert not files.due() and files.due(wanted=True) and files.unchanged()


def op(permission: str) -> str:
    return f"get: {{x-required-permissions: [{permission}]}}"


def test_a_document_of_urls_is_all_new_or_all_old(tmp_path: Path) -> None:
    """While one part cannot be had, the whole old document stands in, and is called stale; then all of it is new."""
    root = "openapi: 3.1.0\ninfo: {version: '%s'}\npaths: {/a: {$ref: a.yaml}}"
    with site() as web:
        state = StateDirectory(tmp_path / "state").open()
        web.says = {"/api.yaml": root % 1, "/a.yaml": op("one")}
        documents, url = Documents(state), f"{web.url}/api.yaml"
        first = documents.load(url, tmp_path)
        documents.accepted([first])
        web.says = {"/api.yaml": root % 2, "/a.yaml": 503}
        assert documents.changed()
        for after in (documents.load(url, tmp_path), Documents(state).load(url, tmp_path)):
            assert (
                after.operations[0].required == (("one",),)
                and after.library.documents[url].data["info"]["version"] == "1"
            )
        assert documents.stale == {url: f"{web.url}/a.yaml: it answered 503"} and not documents.changed()
        documents.accepted([after])
        web.says["/a.yaml"] = op("two")
        assert documents.changed()
        new = documents.load(url, tmp_path)
        assert new.operations[0].required == (("two",),) and documents.stale == {} and not documents.changed()
        web.says["/a.yaml"] = 500
        assert not documents.changed() and "it answered 500" in documents.stale[url]


def test_a_copy_is_kept_of_what_was_accepted(tmp_path: Path) -> None:
    """What parses and is refused all the same stands in for nothing; what was accepted before does, part by part."""
    with site() as web:
        state = StateDirectory(tmp_path / "state").open()
        url = f"{web.url}/api.yaml"
        web.says = {"/api.yaml": "openapi: 3.1.0\npaths: {/a: {$ref: a.yaml}}", "/a.yaml": op("good")}
        documents = Documents(state)
        good = documents.load(url, tmp_path)
        documents.accepted([good])
        assert documents.load(url, tmp_path) is good
        web.says = {"/api.yaml": f"openapi: 3.1.0\npaths: {{/a: {{{op('refused')}}}}}"}
        assert documents.changed() and documents.load(url, tmp_path).operations[0].required == (("refused",),)
        assert not documents.changed()
        web.says = {}
        for one in (documents, Documents(state)):
            assert one.load(url, tmp_path).operations[0].required == (("good",),)
        (kept,) = (tmp_path / "state").glob("document-*")
        kept.write_bytes(kept.read_bytes()[:-1])
        with pytest.raises(DocumentError, match="it answered 404"):
            Documents(state).load(url, tmp_path)


@pytest.mark.parametrize("coding", ["gzip", "br", "zstd", "deflate", "gzip, gzip", "x"])
def test_a_document_is_taken_as_it_is(tmp_path: Path, coding: str) -> None:
    """Nothing but the plain text is asked of a URL, and what comes packed all the same is refused, unread."""
    packed = gzip.compress(PETS.encode() + b"\n" * (50 << 20))
    tracemalloc.start()
    with site() as web:
        web.says, web.headers = {"/api.yaml": packed}, {"Content-Encoding": coding}
        with pytest.raises(DocumentError, match="encoding"):
            Documents(None).load(f"{web.url}/api.yaml", tmp_path)
        assert web.accepts == ["identity"]
    assert tracemalloc.get_traced_memory()[1] < 16 << 20
    tracemalloc.stop()


def test_a_redirect_stays_with_its_origin(tmp_path: Path) -> None:
    """A URL may redirect within its own origin; another one is never asked."""
    with site() as web, site() as other:
        other.says = {"/api.yaml": PETS}
        web.says = {
            "/api.yaml": PETS,
            "/near": ("/api.yaml",),
            "/far": (f"{other.url}/api.yaml",),
            "/round": ("/round",),
        }
        assert len(Documents(None).load(f"{web.url}/near", tmp_path).operations) == 7
        with pytest.raises(DocumentError, match=f"redirects to another origin, {other.url}/api.yaml: name that one"):
            Documents(None).load(f"{web.url}/far", tmp_path)
        with pytest.raises(DocumentError, match="more than 5 redirects"):
            Documents(None).load(f"{web.url}/round", tmp_path)
        assert other.asked == []


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


def test_a_document_that_is_replaced_leaves_no_cycles(tmp_path: Path) -> None:
    """What was loaded goes without the garbage collector, which is spared looking at it."""
    policy_text = "openapi: {spec: api.yaml, undocumented: authenticated}\n"
    catalogue(policy_text, tmp_path, api=PETS)
    gc.collect()
    gc.disable()
    try:
        made = catalogue(policy_text, tmp_path, api=PETS)
        assert made.entries
        gc.collect()
        del made
        assert gc.collect() == 0
    finally:
        gc.enable()
