"""`check --workos`: document and policy agree with the WorkOS environment, or it is said where they do not."""

import json
import socket
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from harness import Home
from tests.operations.documents import PETS
from workos_standin import Standin

REQUIRED = ("pets:read", "pets:write", "pets:all", "pets:drop", "admin")


@pytest.fixture
def workos(standin: Standin, workos_key: None) -> Standin:
    return standin


def home_of(folder: Path, url: str, policy: str = "openapi: {spec: api.yaml}\n", api: str = PETS) -> Home:
    (folder / "api.yaml").write_text(api)
    home = Home(folder, "http://127.0.0.1:9")
    home.write_policy(f"workos: {{base_url: '{url}'}}\n{policy}")
    return home


@pytest.fixture
def home(tmp_path: Path, workos: Standin) -> Home:
    return home_of(tmp_path, workos.url)


def test_they_agree(home: Home, workos: Standin) -> None:
    """Where the environment has every permission the answer is yes; what is required by nothing is listed."""
    for slug in (*REQUIRED, "pets:groom"):
        workos.permission(slug)
    workos.permission("widgets:users")["system"] = True
    answer = home.json("check", "--workos")
    assert answer["errors"] == [] and answer["workos"] == {"missing": [], "unused": ["pets:groom"], "created": []}
    assert "in WorkOS, but required by nothing: pets:groom\n" in home.run("check", "--workos")
    assert "workos" not in home.json("check")
    assert {method for _, method, _, _ in workos.asked} == {"GET"}


def test_every_page_is_read(home: Home, workos: Standin) -> None:
    """Environments with more permissions than fit a page are read whole."""
    for number in range(250):
        workos.permission(f"other:{number}")
    for slug in REQUIRED:
        workos.permission(slug)
    answer = home.json("check", "--workos")
    assert answer["errors"] == [] and len(answer["workos"]["unused"]) == 250 and len(workos.asked) == 3


def test_what_is_missing(home: Home, workos: Standin) -> None:
    """A missing permission is an error with the place that requires it, near misses and the way out."""
    for slug in ("pets:reed", "pets:write", "pets:drop", "admin"):
        workos.permission(slug)
    answer = home.json("check", "--workos", code=1)
    told = {one["message"].split("'")[1]: one for one in answer["errors"]}
    assert list(told) == answer["workos"]["missing"] == ["pets:read", "pets:all"]
    read, every = told["pets:read"], told["pets:all"]
    assert read["code"] == every["code"] == "permission-missing"
    assert (read["file"], read["line"], read["pointer"]) == ("api.yaml", 8, "/paths/~1pets/get/security")
    assert read["message"].startswith("GET /pets and 1 more require") and "did you mean pets:reed?" in read["remedy"]
    assert (every["line"], every["pointer"]) == (9, "/paths/~1pets/post/security") and "--push" in every["remedy"]
    assert "error [permission-missing] api.yaml:8#/paths" in home.run("check", "--workos", code=1)


def test_places_in_policy_and_document(tmp_path: Path, workos: Standin) -> None:
    """What the policy requires is located in the policy, also without a document; what stands under x-…, there."""
    rule = "openapi: {spec: api.yaml}\noperations:\n  - {match: GET /admin/users, require: [[root], [admin, staff]]}\n"
    home = home_of(tmp_path, workos.url, rule)
    for slug in REQUIRED[:3]:
        workos.permission(slug)
    told = {one["message"].split("'")[1]: one for one in home.json("check", "--workos", code=1)["errors"]}
    assert list(told) == ["root", "admin", "staff", "pets:drop"]
    assert (told["root"]["file"], told["root"]["line"]) == (str(home.policy), 7)
    assert told["root"]["message"].startswith("GET /admin/users requires")
    assert told["pets:drop"]["pointer"] == "/paths/~1pets~1{petId}/delete/x-required-permissions"


def test_push_creates_what_is_missing(home: Home, workos: Standin) -> None:
    """--push creates the missing permissions and says which; once more it has nothing to do."""
    workos.permission("pets:read")
    answer = home.json("check", "--workos", "--push")
    created = ["pets:write", "pets:all", "pets:drop", "admin"]
    assert answer["errors"] == [] and answer["workos"] == {"missing": [], "unused": [], "created": created}
    assert [one["slug"] for one in workos.permissions] == ["pets:read", *created]
    assert workos.permissions[1]["description"] == "Required by POST /pets"
    assert home.json("check", "--workos", "--push")["workos"]["created"] == []
    workos.permissions.clear()
    assert "created in WorkOS: pets:read, pets:write" in home.run("check", "--workos", "--push")


def test_slugs_that_workos_does_not_take(tmp_path: Path, workos: Standin) -> None:
    """A slug past 48 characters or with others than WorkOS takes is an error, and is never sent there."""
    for slug in REQUIRED:
        workos.permission(slug)
    bad = ["Pets:Read", "pets/read", "p" * 49]
    rule = f"openapi: {{spec: api.yaml}}\noperations:\n  - {{match: GET /admin/users, require: {json.dumps(bad)}}}\n"
    home = home_of(tmp_path, workos.url, rule)
    answer = home.json("check", "--workos", "--push", code=1)
    assert [one["code"] for one in answer["errors"]] == ["permission-unusable"] * 3
    assert answer["workos"]["created"] == [] and {method for _, method, _, _ in workos.asked} == {"GET"}


def test_a_longest_name(tmp_path: Path, workos: Standin) -> None:
    """Slugs of 48 characters and operations with long names are created all the same."""
    rule = f"openapi: {{spec: api.yaml}}\noperations:\n  - {{match: GET /{'x' * 200}, require: [{'p' * 48}]}}\n"
    api = f"openapi: 3.1.0\ninfo: {{title: x, version: '1'}}\npaths: {{/{'x' * 200}: {{get: {{responses: {{}}}}}}}}\n"
    home = home_of(tmp_path, workos.url, rule, api)
    assert home.json("check", "--workos", "--push")["workos"]["created"] == ["p" * 48]


def test_push_needs_workos(home: Home, workos: Standin) -> None:
    """--push alone is wrong usage, and asks nobody."""
    assert "--workos" in home.run("check", "--push", code=2) and workos.asked == []


def test_other_errors_are_told_too(home: Home, workos: Standin) -> None:
    """A policy that cannot be read is said as ever, and WorkOS is not asked."""
    home.write_policy("openapi: {spec: api.yaml, prefx: a}\n")
    answer = home.json("check", "--workos", code=1)
    assert [one["code"] for one in answer["errors"]] == ["policy"] and "workos" not in answer and workos.asked == []


def test_no_secret(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a secret it cannot be done: one line names the variable."""
    monkeypatch.delenv("WORKOS_API_KEY")
    told = home.run("check", "--workos", code=3)
    assert told.count("\n") == 1 and "set $WORKOS_API_KEY" in told


def test_the_secret_is_refused(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """A secret that WorkOS refuses is one line that names the variable and not its value."""
    monkeypatch.setenv("WORKOS_API_KEY", "sk_test_another_one")
    told = home.run("check", "--workos", code=3)
    assert told.count("\n") == 1 and "refuses our secret" in told and "$WORKOS_API_KEY" in told
    assert "sk_test_another_one" not in told


def test_nobody_listens(home: Home, workos: Standin, tmp_path: Path) -> None:
    """WorkOS out of reach is one line that says what to look at."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    home.write_policy(f"workos: {{base_url: 'http://127.0.0.1:{port}'}}\nopenapi: {{spec: api.yaml}}\n")
    told = home.run("check", "--workos", code=3)
    assert told.count("\n") == 1 and "cannot be reached" in told and "workos.base_url" in told


class Answering(BaseHTTPRequestHandler):
    """Answers whatever it is made of."""

    answer: Any = None

    def do_GET(self) -> None:
        content = json.dumps(self.answer).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_given: Any) -> None:
        """Nothing."""


@pytest.mark.parametrize(
    "answer",
    [
        {},
        [],
        {"data": None, "list_metadata": {"after": None}},
        {"data": [7], "list_metadata": {"after": None}},
        {"data": [{"slug": "a"}]},
        {"data": [{"slug": "a"}], "list_metadata": {"after": "perm_1"}},
        {"data": [{"slug": "a"}], "list_metadata": {"after": 7}},
    ],
)
def test_answers_that_are_none(
    tmp_path: Path, answer: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is no list of permissions, or the same list for ever, ends with one line."""
    monkeypatch.setenv("WORKOS_API_KEY", "sk_test_x")
    with ThreadingHTTPServer(("127.0.0.1", 0), type("One", (Answering,), {"answer": answer})) as server:
        thread = Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        told = home_of(tmp_path, f"http://127.0.0.1:{server.server_address[1]}").run("check", "--workos", code=3)
        server.shutdown()
        thread.join()
    assert told.count("\n") == 1 and "workos.base_url" in told
