"""The policy: what is taken, and what each mistake is told."""

import json
from pathlib import Path

import jsonschema
import pytest
from ruamel.yaml import YAML

from keyswap import policy
from keyswap.policy import Policy, PolicyError, parse, parse_upstream

POLICIES = Path(__file__).parents[2] / "policies"
LEAST = "version: 1\nissuer: https://gw.example\n"
LIMIT = LEAST + "limits:\n  - {name: a, by: [key]"


def error_of(text: str) -> str:
    with pytest.raises(PolicyError) as caught:
        parse(text.encode(), "p.yaml")
    return str(caught.value)


def operation(match: str, more: str = "") -> str:
    return LEAST + "operations:\n  - match: GET /\n" + f"  - match: {json.dumps(match)}\n{more}"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (LEAST + "mode: {limits: shadw}\n", "p.yaml:3: mode.limits: this must be 'enforce', 'shadow' or 'off', not 'shadw'"),
        (LEAST + "audience: 5\n", "p.yaml:3: audience: this must be a text: put it in quotes, not 5"),
        (LEAST + "audience: ''\n", "p.yaml:3: audience: this must be at least 1 long, not ''"),
        (LEAST + "tokens: 5\n", "p.yaml:3: tokens: this must be a section: fields under it, indented, not 5"),
        (LEAST + "hosts: a\n", "p.yaml:3: hosts: this must be a list, not 'a'"),
        (LEAST + "limit: []\n", "p.yaml:3: limit: there is no such field"),
        (LEAST + "openapi:\nspec: a\n", "p.yaml:4: spec: there is no such field here: it belongs under `openapi:`, indent it"),
        (LEAST + "default_require: deny\n", "it belongs under `openapi:`, indent it"),
        (LEAST + "ttl: 60s\n", "it belongs under `tokens:`, indent it"),
        ("version: 1\nissuer: http://a:99999\n", "p.yaml:2: issuer: Port out of range 0-65535: write an http(s) URL"),
        ("version: 1\n  issuer: http://a\n", "p.yaml:2: this is no YAML: mapping values are not allowed here (column 9)"),
        ("version: 1\nissuer:\thttp://a\n\tx: 1\n", "indent with blanks"),
        (LEAST + "upstream: http://b/v1\n", "has a path, and a backend gets the path that was judged: write http://b, without"),
        (LEAST + "tokens:\n  algoritm: RS256\n", "p.yaml:4: tokens.algoritm: there is no such field: did you mean"),
        (LEAST + "tokens:\n  ttl: 5\n", "p.yaml:4: tokens.ttl: a time is a whole number and a unit"),
        (LEAST + "tokens:\n  ttl: 2h\n", "p.yaml:4: tokens.ttl: a token's life"),
        (LEAST + "tokens:\n  ttl: 500ms\n", "p.yaml:4: tokens.ttl: a token's life"),
        (LEAST + "tokens: {algorithm: HS256}\n", "p.yaml:3: tokens.algorithm: "),
        (LEAST + "upstream: http://a/b\n", "p.yaml:3: upstream: "),
        (LEAST + "upstream: ftp://a\n", "p.yaml:3: upstream: "),
        (LEAST + "upstream: http://u:p@a\n", "p.yaml:3: upstream: "),
        (LEAST + "upstream: http://a:99999\n", "p.yaml:3: upstream: "),
        (LEAST + "trusted_proxies:\n  - 10.0.0.0/8\n  - 10.0.0.1/8\n", "p.yaml:5: trusted_proxies.1: "),
        (LEAST + "api_keys: {read_from: []}\n", "p.yaml:3: api_keys.read_from: "),
        (LEAST + "api_keys: {read_from: [{header: 'x y'}]}\n", "p.yaml:3: api_keys.read_from.0.header: "),
        (LEAST + "keep_headers: [x_user_id]\n", "keep_headers.0: backends may read `x_user_id` as a header that callers"),
        (LEAST + "keep_headers: [x.legacy, X_Forwarded_For]\n", "keep_headers.1: backends may read `x_forwarded_for`"),
        (LEAST + "keep_headers: [content_length]\n", "keep_headers.0: "),
        (LEAST + "keep_headers: [x__api.key]\n", "keep_headers.0: "),
        (LEAST + "hosts: ['*.example.com']\n", "p.yaml:3: hosts.0: a host is a name or an address, and a port"),
        (LEAST + "hosts:\n  - a.example\n  - https://b.example\n", "p.yaml:5: hosts.1: a host is a name"),
        (LEAST + "hosts: ['a.example:0']\n", "p.yaml:3: hosts.0: there is no port 0"),
        (LEAST + "keep_headers: [x_*]\n", "p.yaml:3: keep_headers.0: a header that is kept is named as it is"),
        (LEAST + "api_keys: {source: redis}\n", "p.yaml:3: api_keys.source: "),
        (LEAST + "tokens: {profile: rfc9068}\n", "audience"),
        (LEAST + "version: 1\n", "p.yaml:3: this is no YAML: found duplicate key"),
        (LEAST + "cors: {preflight: allow}\n", "p.yaml:3: cors.preflight: "),
        (LEAST + "cors:\n  origins:\n    - https://a.example/\n", "p.yaml:5: cors.origins.0: an origin is scheme"),
        (LEAST + "cors: {origins: ['https://App.example.com']}\n", "in small letters"),
        (LEAST + "cors: {origins: ['https://a.example:443']}\n", "leave out the port 443 of https"),
        (LEAST + "cors: {origins: ['null']}\n", "p.yaml:3: cors.origins.0: an origin is scheme"),
        (LEAST + "cors: {origins: ['*', 'https://a.example']}\n", "`*` is every origin"),
        (LEAST + "openapi: {spec: a, prefx: b}\n", "p.yaml:3: openapi.prefx: there is no such field: did you mean `prefix`"),
        (LEAST + "openapi:\n  - {spec: a}\n  - {spec: b, undocumented: no}\n", "p.yaml:5: openapi.1.undocumented: "),
        (LEAST + "openapi: {prefix: /x}\n", "p.yaml:3: openapi.spec: this field is required"),
        (LEAST + "openapi: {spec: a, prefix: /x/}\n", "p.yaml:3: openapi.prefix: a prefix begins with /"),
        (LEAST + "openapi: {spec: a, prefix: '/x/{id}'}\n", "p.yaml:3: openapi.prefix: "),
        (LEAST + "openapi: {spec: 'ftp://a'}\n", "p.yaml:3: openapi.spec: a document is a file, or an http"),
        (LEAST + "openapi: {spec: a, validate: {requests: on}}\n", "p.yaml:3: openapi.validate.requests: "),
        (LEAST + "openapi: {spec: a, validate: {request: off}}\n", "did you mean `requests`"),
        (LEAST + "openapi: []\n", "p.yaml:3: openapi: "),
        (LEAST + "openapi: {spec: a}\noperations:\n  - {match: {tg: x}}\n", "p.yaml:5: operations.0.match.tag: "),
        (LEAST + "openapi: {spec: a}\noperations:\n  - {match: GET /x, require: a}\n", "permissions are a list"),
        (LEAST + "openapi: {spec: a}\noperations:\n  - {match: GET /x, require: [a b]}\n", "'a b' is no permission"),
        (LEAST + "openapi: {spec: a}\noperations:\n  - {match: GET /x, require: [a], public: true}\n", "what is public"),
        (LEAST + "openapi: {spec: a}\noperations:\n  - {match: {tag: x}, multi_segment: [a]}\n", "by its template"),
        (LEAST + "openapi: {spec: a}\noperations: [{match: {tag: x}}, {match: {tag: x}}]\n", "make them one entry"),
        (LEAST + "operations: [{match: GET /x, require: [a]}]\n", "operations.0: `require` is said of an operation of a"),
        (LEAST + "operations: [{match: {tag: x}}]\n", "name that one in `openapi`"),
        (LEAST + "mode: {permissions: on}\n", "p.yaml:3: mode.permissions: "),
        (LIMIT + ", rate: ten}\n", "p.yaml:4: limits.0.rate: a rate is a whole number from 1 and s, m, h or d"),
        (LIMIT + ", rate: 0/s}\n", "p.yaml:4: limits.0.rate: "),
        (LIMIT + ", quota: 5/year}\n", "p.yaml:4: limits.0.quota: a quota is"),
        (LIMIT + "}\n", "p.yaml:4: limits.0: a limit has exactly one of"),
        (LIMIT + ", rate: 1/s, quota: 5/day}\n", "this one has rate and quota"),
        (LIMIT + ", concurrency: 2, burst: 2}\n", "p.yaml:4: limits.0.burst: a burst is a rate's"),
        (LIMIT + ", rate: 1/d, burst: 1000}\n", "a full bucket would take over a year to drain"),
        (LIMIT + ", rate: 1/s, match: GET /x}\n", "p.yaml:4: limits.0.match: operations are a document's"),
        (LIMIT + ", rate: 1/s, burts: 2}\n", "p.yaml:4: limits.0.burts: there is no such field: did you mean `burst`"),
        (LIMIT + ", concurrency: 2, when: invalid-credential}\n", "p.yaml:4: limits.0.when: a guess is never in flight"),
        (LIMIT + ", rate: 1/s}\n" + "  - {name: a, by: [org], rate: 1/s}\n", "p.yaml:5: limits.1.name: there is a limit `a`"),
        (LEAST + "limits:\n  - {by: [key], rate: 1/s}\n", "p.yaml:4: limits.0.name: this field is required"),
        (LEAST + "limits:\n  - {name: a, by: [kee], rate: 1/s}\n", "p.yaml:4: limits.0.by.0: "),
        (LEAST + "limits:\n  - {name: a, by: [operation], rate: 1/s}\n", "p.yaml:4: limits.0.by: operations are a document's"),
        (LIMIT + ", rate: 1/s}\nplans:\n  free:\n    b: {rate: 1/s}\n", "p.yaml:7: plans.free.b: there is no limit `b`"),
        (LIMIT + ", rate: 1/s}\nplans:\n  free:\n    a: {quota: 1/day}\n", "p.yaml:7: plans.free.a: `a` is a rate"),
        (LIMIT + ", rate: 1/s}\nplans:\n  free:\n    a: {name: b}\n", "p.yaml:7: plans.free.a.name: there is no such field"),
        (LIMIT.replace("key", "ip") + ", rate: 1/s}\nplans: {f: {a: {rate: 2/s}}}\n", "a plan overrides limits by key or by org"),
        (LEAST + "orgs:\n  o: {plan: x}\n", "p.yaml:4: orgs.o.plan: there is no plan `x`"),
        (LEAST + "limit_store: redis://h/0\n", "p.yaml:3: limit_store: a limit store is `local`, or valkey://"),
        (LEAST + "limit_store_down: open\n", "p.yaml:3: limit_store_down: "),
        ("version: 2\nissuer: https://x\n", "p.yaml:1: version: "),
        ("version: 1\n", "p.yaml:1: issuer: this field is required"),
        ("version: 1\nissuer: gw\n", "p.yaml:2: issuer: "),
        ("version: [\n", "this is no YAML"),
        ("", "a policy is a mapping"),
        ("- 1\n", "a policy is a mapping"),
        ("\x00", "this is no YAML"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_with_file_line_field_and_remedy(text: str, says: str) -> None:
    """Each mistake is one line that names the file, the line, the field and what to do."""
    told = error_of(text)
    assert says in told and "\n" not in told and told.startswith("p.yaml:")


def test_a_password_in_a_policy_is_not_told() -> None:
    """What is wrong with the URL of a limit store is said without the URL, in which a password may stand."""
    assert "secret" not in error_of(LEAST + "limit_store: valkey://u:secret@h/x\n")


@pytest.mark.parametrize("listen", ["", "8089", ":8089", "127.0.0.1", "127.0.0.1:", "127.0.0.1:0", "127.0.0.1:65536", "::1:80",
                                    "[127.0.0.1]:80", "[::1]", "[::1:80", "http://h:80", "h/x:80", "a b:80", "h:8x", "h:\u0661"])  # fmt: skip
def test_an_address_to_listen_on_has_one_form(listen: str) -> None:
    """HOST:PORT, with brackets around IPv6 and nothing else; the error shows the form."""
    told = error_of(f"{LEAST}admin: {{listen: {json.dumps(listen)}}}\n")
    assert "admin.listen" in told and "127.0.0.1:8089 or [::1]:8089" in told


@pytest.mark.parametrize(("listen", "means"), [("[::1]:1", ("::1", 1)), ("localhost:65535", ("localhost", 65535)), ("0.0.0.0:80", ("0.0.0.0", 80)), ("ops_1.example:80", ("ops_1.example", 80))])  # fmt: skip
def test_an_address_to_listen_on(listen: str, means: tuple[str, int]) -> None:
    """Names and addresses of both kinds; without a word the token's variable has its usual name."""
    section = parse(f"{LEAST}admin: {{listen: '{listen}'}}\n".encode(), "p").admin
    assert section is not None and section.token_env == "KEYSWAP_ADMIN_TOKEN"
    assert policy.parse_listen(section.listen) == means


@pytest.mark.parametrize(
    "written",
    ["3f786850e387550fdab836ed7e6dc881de23001b", "12345678901234567890123456789012", "[s3cret]", "{a: s3cret}"],
)
def test_a_token_in_the_policy_is_not_told(written: str) -> None:
    """Who writes the token itself where its variable's name belongs is told so, without the token."""
    told = error_of(f"{LEAST}admin: {{token_env: {written}}}\n")
    assert "admin.token_env" in told and written not in told and "s3cret" not in told


def test_a_file_that_is_not_there_is_told_how_to_name_one(tmp_path: Path) -> None:
    """A missing policy says which file was looked for and how to name another."""
    with pytest.raises(PolicyError, match=r"nowhere\.yaml: the policy cannot be read.*--policy"):
        policy.load(tmp_path / "nowhere.yaml")


def test_a_policy_that_is_no_utf8_is_an_error_and_no_crash(tmp_path: Path) -> None:
    """Bytes that are no text are an error, not a crash."""
    file = tmp_path / "p.yaml"
    file.write_bytes(b"version: \xff")
    with pytest.raises(PolicyError, match="UTF-8"):
        policy.load(file)


def test_off_is_the_word_that_yaml_12_has() -> None:
    """`off` is the word it is, as in YAML 1.2, not false."""
    assert parse((LEAST + "log: {decisions: off}\n").encode(), "p").log.decisions == "off"


def test_the_reference_page_says_what_the_types_say() -> None:
    """policies/reference.yaml holds every field, with the default that the types have."""
    text = (POLICIES / "reference.yaml").read_text()
    written = YAML(typ="safe").load(text)
    least = Policy.model_validate({"version": 1, "issuer": "https://gateway.example.com"})
    assert parse(text.encode(), "reference.yaml") == least

    def fields(section: object) -> object:
        if isinstance(section, dict):
            return {name: fields(value) for name, value in section.items()}
        return [fields(value) for value in section] if isinstance(section, list) else None

    assert fields(written) == fields(json.loads(least.model_dump_json()))


def test_the_schema_is_the_one_of_the_types() -> None:
    """policies/policy.schema.json is generated from the types, and judges our policies as they do."""
    schema = json.loads((POLICIES / "policy.schema.json").read_text())
    assert schema == policy.schema(), "run: python -m keyswap.policy > policies/policy.schema.json"
    files = [file for file in POLICIES.glob("*.yaml") if not file.match("*.openapi.yaml")]
    assert len(files) >= 2
    for file in files:
        jsonschema.validate(YAML(typ="safe").load(file.read_text()), schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"version": 1, "issuer": "https://x", "limit": []}, schema)


@pytest.mark.parametrize(
    ("match", "says"),
    [
        ("/pets", "write a method and a template: `GET /pets/{petId}`"),
        ("GET", "write a method and a template"),
        ("", "write a method and a template"),
        ("get /pets", "the methods are GET, HEAD, POST"),
        ("TRACE /pets", "the methods are GET, HEAD, POST"),
        ("BREW /pets", "the methods are GET, HEAD, POST"),
        (" GET /pets", "the methods are GET, HEAD, POST"),
        ("GET pets", "a template begins with `/`"),
        ("GET  /pets", "a template begins with `/`"),
        ("GET http://h/pets", "a template begins with `/`"),
        ("GET {x}", "a template begins with `/`"),
        ("GET /pets HTTP/1.1", "as they are sent: %20, %C3%A9"),
        ("GET /café", "as they are sent: %20, %C3%A9"),
        ("GET /a\tb", "as they are sent"),
        ("GET /a\n", "as they are sent"),
        ("GET /pets?x={y}", "leave out the query and the fragment"),
        ("GET /pets#x", "leave out the query and the fragment"),
        ("GET /pets/{id", "braces of a template come in pairs"),
        ("GET /pets/id}", "braces of a template come in pairs"),
        ("GET /pets/}{", "braces of a template come in pairs"),
        ("GET /pets/{{id}}", "braces of a template come in pairs"),
        ("GET /pets/{a/{b}}", "braces of a template come in pairs"),
        ("GET /pets/{}", "`{}` is no parameter: write its name alone"),
        ("GET /pets/{a/b}", "`{a/b}` is no parameter"),
        ("GET /pets/{path*}", "`{path*}` is no parameter: write its name alone; multi_segment"),
        ("GET /pets/{+path}", "`{+path}` is no parameter"),
        ("GET /pets/{path:.*}", "`{path:.*}` is no parameter"),
        ("GET /{id}/x/{id}", "the parameter `id` stands twice in the template"),
        ("GET /{a}{b}", "two parameters with nothing between them"),
        ("GET /pets//{id}", "there is an empty segment (//) in the path: write it without"),
        ("GET /../pets", "there is a dot segment in the path"),
        ("GET /pets%2f{id}", "there is an encoded slash in the path"),
        ("GET /pets;{id}", "there is a ; in the path"),
        ("GET /100%", "there is an incomplete escape in the path"),
    ],
)  # fmt: skip
def test_a_template_that_cannot_be_meant_is_told(match: str, says: str) -> None:
    """A bad template is told with its line, what is wrong, and what a good one looks like."""
    told = error_of(operation(match))
    assert told.startswith("p.yaml:5: operations.1.match: ") and says in told and "\n" not in told


@pytest.mark.parametrize(
    ("match", "more", "says"),
    [
        ("GET /{a}", "    multi_segment: [b]\n", "p.yaml:6: operations.1.multi_segment: /{a} has no parameter `b`"),
        ("GET /a", "    multi_segment: [b]\n", "it has (none)"),
        ("GET /{a}.json", "    multi_segment: [a]\n", "`a` is only a part of its segment"),
        ("GET /{a}/{b}", "    multi_segment: [a, b]\n", "p.yaml:6: operations.1.multi_segment: two parameters of"),
        ("GET /{a}", "    multi_segment: a\n", "p.yaml:6: operations.1.multi_segment: "),
        ("GET /{a}", "    encoded_slash: true\n", "p.yaml:6: operations.1.encoded_slash: "),
        ("GET /{a}", "    encodedslash: allow\n", "p.yaml:6: operations.1.encodedslash: there is no such field: did"),
        ("GET /{a}", "    requires: [a]\n", "p.yaml:6: operations.1.requires: there is no such field"),
        ("GET /{a}", "  - encoded_slash: allow\n", "p.yaml:6: operations.2.match: this field is required"),
        ("GET /{a}/b", "  - match: GET /{c}/b\n", "`GET /{a}/b` and `GET /{c}/b` match the same requests"),
        ("GET /", "", "p.yaml:3: operations: `GET /` and `GET /` match the same requests"),
    ],
)  # fmt: skip
def test_an_operation_that_contradicts_itself_is_told(match: str, more: str, says: str) -> None:
    """What an operation says must fit its template, and no other operation may say something of the same requests."""
    told = error_of(operation(match, more))
    assert says in told and "\n" not in told and told.startswith("p.yaml:")


def test_operations_are_taken_as_written() -> None:
    """The fields of an operation, with their defaults; the schema takes what the types take."""
    text = operation("PUT /repos/{owner}/c/{path}", "    encoded_slash: allow\n    multi_segment: [path]\n")
    first, second = parse(text.encode(), "p").operations
    assert (first.match, first.encoded_slash, first.multi_segment) == ("GET /", "refuse", [])
    assert (second.match, second.encoded_slash, second.multi_segment) == (
        "PUT /repos/{owner}/c/{path}",
        "allow",
        ["path"],
    )
    jsonschema.validate(YAML(typ="safe").load(text), policy.schema())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(YAML(typ="safe").load(operation("get pets")), policy.schema())


@pytest.mark.parametrize(
    ("url", "authority"),
    [
        ("http://127.0.0.1:9000", "127.0.0.1:9000"),
        ("http://a.example", "a.example"),
        ("https://a.example:443/", "a.example"),
        ("https://a.example:8443", "a.example:8443"),
        ("http://[::1]:9000", "[::1]:9000"),
    ],
)
def test_an_upstream_is_a_scheme_and_an_authority(url: str, authority: str) -> None:
    """The Host that the backend sees is the upstream's authority, default ports left out."""
    assert parse_upstream(url).authority == authority


@pytest.mark.parametrize(
    "value", ["9" * 5000, "-" + "9" * 5000, "0x" + "9" * 5000, "1" * 5000 + ".5", "1_" * 3000 + "1"]
)
def test_a_number_of_thousands_of_digits_is_told_with_its_line(tmp_path: Path, value: str) -> None:
    """A number that no program reads is an error with file and line, wherever it stands."""
    file = tmp_path / "p.yaml"
    file.write_text(f"version: 1\nissuer: https://gw.example\nupstream: http://h\nmax_body: {value}\n")
    with pytest.raises(PolicyError, match=r"p\.yaml:4: .*digits"):
        policy.load(file)
