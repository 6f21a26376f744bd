"""`check` and `init`, as a person and a program call them."""

import json
from pathlib import Path
from typing import Any

import pytest

from commands import run_here
from harness import Home
from tests.operations.documents import PETS


@pytest.fixture
def home(tmp_path: Path) -> Home:
    (tmp_path / "api.yaml").write_text(PETS)
    made = Home(tmp_path, "http://127.0.0.1:9")
    made.write_policy("openapi:\n  spec: api.yaml\n")
    return made


def finding(answer: dict[str, Any], code: str) -> dict[str, Any]:
    return next(one for one in answer["errors"] + answer["warnings"] if one["code"] == code)


def test_check_lists_operations_and_findings(home: Home) -> None:
    """JSON in the contract's shape: what each operation requires, findings with file, line, pointer and remedy."""
    answer = home.json("check")
    assert answer["errors"] == [] and len(answer["operations"]) == 7
    assert next(one for one in answer["operations"] if one["method"] == "POST") | {"mode": "", "closed": False} == {
        "method": "POST", "path": "/pets", "operation_id": "addPet", "public": False, "mode": "", "closed": False,
        "require": [["pets:write"], ["pets:all"]], "source": "security", "resource": None, "cost": 1, "limits": [],
    }  # fmt: skip
    told = finding(answer, "no-requirement")
    assert set(told) == {"code", "message", "file", "line", "pointer", "remedy"}
    assert (told["file"], told["line"], told["pointer"]) == ("api.yaml", 11, "/paths/~1pets~1mine/get")
    table = home.run("check")
    assert "pets:all and pets:drop" in table and "0 errors, 2 warnings" in table
    strict = home.json("check", "--strict", code=1)
    assert {one["code"] for one in strict["errors"]} == {"no-requirement", "overlap"} and strict["warnings"] == []


def test_check_knows_limits(home: Home) -> None:
    """Each operation's limits are listed; a limit that nothing passes is an error, one in shadow a warning."""
    limits = (
        "limits:\n  - {name: all, by: [key], rate: 9/s}\n  - {name: adding, by: [org], rate: 1/s, match: POST /pets}\n"
        "  - {name: look, by: [ip], rate: 9/s, match: {tag: danger}, mode: shadow}\n"
    )
    home.write_policy("openapi: {spec: api.yaml}\n" + limits)
    answer = home.json("check")
    listed = {f"{one['method']} {one['path']}": one["limits"] for one in answer["operations"]}
    assert listed["POST /pets"] == ["all", "adding"] and listed["DELETE /pets/{petId}"] == ["all", "look"]
    assert listed["GET /pets"] == ["all"] and finding(answer, "not-enforced")["line"] == 8
    home.write_policy("openapi: {spec: api.yaml}\noperations: [{match: POST /pets, cost: 5}]\n" + limits)
    told = finding(home.json("check", code=1), "limit-too-small")
    assert told["line"] == 8 and "costs 5" in told["message"] and told["remedy"]


@pytest.mark.parametrize(
    ("policy", "api", "code", "line"),
    [
        (
            "openapi: {spec: api.yaml}\noperations:\n  - {match: GET /pet, require: [a]}\n",
            PETS,
            "override-unmatched",
            6,
        ),
        ("openapi: {spec: api.yaml, prefx: a}\n", PETS, "policy", 4),
        ("openapi: {spec: api.yaml}\n", "openapi: 3.1.0\npaths: [", "no-yaml", 3),
        ("openapi: {spec: api.yaml}\n", PETS + "x: {$ref: '#/y'}", "broken-ref", None),
        ("openapi: {spec: none.yaml}\n", PETS, "unavailable", None),
        (
            "openapi: {spec: api.yaml}\nlimits: [{name: a, by: [key], rate: 1/s, match: GET /x}]\n",
            PETS,
            "limit-unmatched",
            5,
        ),
    ],
)
def test_what_is_wrong_has_its_line(home: Home, policy: str, api: str, code: str, line: int | None) -> None:
    """Each error names its file and, of what was read, the line; the answer is no."""
    (home.folder / "api.yaml").write_text(api)
    home.write_policy(policy)
    answer = home.json("check", code=1)
    assert [one["code"] for one in answer["errors"]][:1] == [code]
    assert line is None or answer["errors"][0]["line"] == line
    assert "error [" in home.run("check", code=1)


def test_what_is_open_is_warned_of(home: Home) -> None:
    """No document, paths outside of it and permissions that are only looked at are warnings."""
    home.write_policy("")
    assert finding(home.json("check"), "no-document")
    assert home.json("check", "--strict", code=1)["errors"]
    home.write_policy("openapi: {spec: api.yaml, undocumented: authenticated}\nmode: {permissions: shadow}\n")
    answer = home.json("check")
    assert finding(answer, "undocumented-open")["line"] == 4 and finding(answer, "not-enforced")["line"] == 5


def init(home: Home, *words: str) -> tuple[int, str]:
    done = run_here(("init", *words, "--state", str(home.state)), "", home.folder)
    return done.code, done.out + done.err


def test_plain_http_that_says_who_callers_are(home: Home) -> None:
    """It is warned of wherever keys, key sets or events come from, named or by default."""
    authkit = {"issuers": ["https://a.test"]}
    connect = {"kind": "connect", "issuers": ["http://c.test"]}
    workos = {"base_url": "http://w.test", "client_id": "client_1"}
    for sessions, more, urls in (
        ([authkit], {}, ["http://w.test"]),
        ([authkit | {"jwks_url": "http://j.test/k"}], {"events": "off"}, ["http://j.test/k"]),
        ([authkit | {"jwks_url": "https://j.test/k"}], {}, ["http://w.test"]),
        ([connect], {"events": "off"}, ["http://c.test"]),
    ):
        home.write_policy(f"sessions: {json.dumps(sessions)}\nworkos: {json.dumps(workos | more)}\n")
        told = [one["message"] for one in home.json("check")["warnings"] if one["code"] == "plain-http"]
        assert [message.partition(" is ")[0] for message in told] == urls


def test_init_writes_a_policy_that_check_accepts(home: Home) -> None:
    """What is required today stands in comments, what could be as entries to uncomment; uncommented, they are in force."""
    (home.folder / "sub").mkdir()
    code, told = init(home, "--spec", "api.yaml", "--upstream", "http://127.0.0.1:9", "-o", "sub/made.yaml")
    assert code == 0, told
    made = home.folder / "sub" / "made.yaml"
    text = made.read_text()
    assert 'spec: "../api.yaml"' in text and "#   POST /pets            pets:write, or pets:all" in text
    assert '#  - {match: "GET /pets/mine",       require: ["pets:read"]}' in text
    assert json.loads(home.run("check", "--policy", str(made), "--json"))["errors"] == []
    made.write_text(text.replace("#operations:", "operations:").replace("#  - {match", "  - {match"))  # the # alone
    answer = json.loads(home.run("check", "--policy", str(made), "--json"))
    assert answer["warnings"] == []
    assert next(one for one in answer["operations"] if one["path"] == "/pets/mine")["require"] == [["pets:read"]]
    assert init(home, "--spec", "api.yaml", "-o", "sub/made.yaml")[0] == 3, "it is never written over"


def test_every_problem_of_a_policy_is_told(home: Home) -> None:
    """Four mistakes are four findings with their lines; one mistake is one, also where a value may have two forms."""
    limits = "limits: [{name: a, by: [keys], rate: 1/s, burst: 1}]"
    home.policy.write_text(f"version: 1\nissuer: nowhere\nupstrem: http://127.0.0.1:9\ntokens: {{ttl: 5}}\n{limits}\n")
    told = home.json("check", code=1)["errors"]
    assert sorted(one["line"] for one in told) == [2, 3, 4, 5] and not any("more)" in one["message"] for one in told)
    home.write_policy("openapi: {spec: api.yaml, prefx: a}\n")
    (told,) = home.json("check", code=1)["errors"]
    assert "openapi.prefx" in told["message"]


def test_a_resource_is_not_enforced_yet(home: Home) -> None:
    """Who names one is told so, with the line."""
    resource = 'resource: {type: pet, id: "{petId}"}'
    home.write_policy(f'openapi: {{spec: api.yaml}}\noperations: [{{match: "DELETE /pets/{{petId}}", {resource}}}]\n')
    told = home.json("check")["warnings"]
    assert [one["line"] for one in told if one["code"] == "not-enforced"] == [5]


def test_init_says_what_it_needs(home: Home) -> None:
    """Without document and upstream there is nothing to write; a bad document is told, and nothing is written."""
    assert init(home, "-o", "x.yaml")[0] == 2
    (home.folder / "bad.yaml").write_text("swagger: '2.0'")
    code, told = init(home, "--spec", "bad.yaml", "-o", "x.yaml")
    assert code == 3 and "OpenAPI 2.0 is not read" in told and not (home.folder / "x.yaml").exists()
    trap = PETS.replace("[{key: []}]", "[{key: []}, {key: [a]}]")
    (home.folder / "trap.yaml").write_text(trap)
    code, told = init(home, "--spec", "trap.yaml", "-o", "-")
    assert code == 0 and "# security_lists: all" in told and "# upstream:" in told
