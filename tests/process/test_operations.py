"""Operations and permissions, end to end: what a caller is told, and what the backend receives."""

import json
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest

from harness import Backend, Client, Gateway, Home, eventually
from tests.operations.documents import PETS, site


def home(tmp_path: Path, backend: Backend, policy: str = "openapi: {spec: api.yaml}\n", api: str = PETS) -> Home:
    (tmp_path / "api.yaml").write_text(api)
    made = Home(tmp_path, backend.url)
    made.write_policy(policy)
    return made


@pytest.fixture
def started(request: pytest.FixtureRequest) -> Iterator[Any]:
    running: list[Gateway] = []

    def start(place: Home, kind: str = "mitmdump") -> Gateway:
        running.append(Gateway(place, kind).ready())
        return running[-1]

    yield start
    for gateway in running:
        gateway.stop()


def decisions(gateway: Gateway) -> list[dict[str, Any]]:
    return [json.loads(line) for line in gateway.output.splitlines() if line.startswith('{"at"')]


def test_a_request_needs_the_permission_of_its_operation(tmp_path: Path, backend: Backend, started: Any) -> None:
    """With the permission it reaches the backend; without it the refusal names what is required and what is missing."""
    place = home(tmp_path, backend)
    gateway = started(place)
    key, good = place.key(user_id="user_1", permissions=["pets:read", "pets:all"])
    _, bad = place.key(permissions=["pets:Read", "pets:write"])
    assert gateway.get("/pets/1", good).status == 200
    assert jwt.decode(backend.seen[-1].token, options={"verify_signature": False})["permissions"] == [
        "pets:read",
        "pets:all",
    ]
    with Client(gateway.port) as client:
        reply = client.ask("DELETE", "/pets/1", good)
        assert (reply.status, reply.code) == (403, "missing-permission")
        assert reply.json["required_permissions"] == ["pets:all", "pets:drop"]
        assert reply.json["missing_permissions"] == ["pets:drop"]
        challenge = reply.header("www-authenticate") or ""
        assert 'error="insufficient_scope"' in challenge and 'scope="pets:all pets:drop"' in challenge
        assert client.ask("GET", "/pets", bad).status == 403 and client.ask("HEAD", "/pets", bad).status == 403
        assert client.ask("POST", "/pets", bad, body=b"{}").status == 200
        missing = client.ask("GET", "/toys", good)
        assert (missing.status, missing.code) == (404, "no-such-operation") and "api.yaml" not in missing.body.decode()
        wrong = client.ask("PATCH", "/pets/1", good)
        assert (wrong.status, wrong.code, wrong.header("allow")) == (405, "method-not-allowed", "DELETE, GET, HEAD")
    assert backend.count == 2
    gateway.stop()
    lines = {(line["method"], line["path"], line["status"]): line for line in decisions(gateway)}
    refused = lines["DELETE", "/pets/1", 403]
    assert refused["operation"] == "DELETE /pets/{petId}" and refused["key_id"] == key.id
    assert refused["org_id"] == "org_1" and refused["user_id"] == "user_1" and "pets:drop" in refused["reason"]
    assert lines["GET", "/pets/1", 200]["operation"] == "GET /pets/{petId}"
    assert lines["GET", "/toys", 404]["operation"] is None and "api.yaml" in lines["GET", "/toys", 404]["reason"]


def test_who_presents_nothing_learns_nothing(tmp_path: Path, backend: Backend, started: Any) -> None:
    """A public operation needs no credential, but one that is sent must be valid; all else looks the same: 401."""
    gateway = started(home(tmp_path, backend))
    assert gateway.get("/health").status == 200 and not backend.seen[-1].values("authorization")
    assert gateway.get("/health", "ksw_live_wrong").code == "invalid-credential"
    _, good = gateway.home.key()
    assert gateway.get("/health", good).status == 200 and backend.seen[-1].token
    with Client(gateway.port) as client:
        answers = [
            client.ask(method, path)
            for method, path in (("GET", "/pets"), ("GET", "/toys"), ("PATCH", "/pets"), ("DELETE", "/health"))
        ]
    plain = {re.sub(rb'"request_id": "\w+"', b"", answer.body) for answer in answers}
    heads = {tuple(name for name, _ in answer.headers) for answer in answers}
    assert {answer.status for answer in answers} == {401} and len(plain) == len(heads) == 1 and backend.count == 2


def test_shadow_admits_and_says_what_it_would_have_done(tmp_path: Path, backend: Backend, started: Any) -> None:
    """In shadow mode, of all or of one entry, a request without the permission is admitted, and its line holds the code
    and what was missing."""
    entry = "operations: [{match: GET /admin/users, mode: shadow}]\n"
    alone = home(tmp_path, backend, "openapi: {spec: api.yaml}\n" + entry)
    gateway = started(alone)
    _, value = alone.key(permissions=["pets:write"])
    assert (gateway.get("/admin/users", value).status, gateway.get("/pets", value).status) == (200, 403)
    assert alone.json("status")["shadowed"] == ["permission of GET /admin/users"]
    gateway.stop()
    place = home(tmp_path, backend, "openapi: {spec: api.yaml}\nmode: {permissions: shadow}\n")
    gateway = started(place)
    _, value = place.key(permissions=["pets:read"])
    assert gateway.get("/admin/users", value).status == gateway.get("/pets", value).status == 200
    assert place.json("status")["shadowed"] == ["permission"]
    told = place.json("explain", "GET", "/admin/users", "--key", "-", given=value)
    step = next(step for step in told["steps"] if step["step"] == "permission")
    assert told["decision"] == "admit" and step["result"] == "shadow" and "admin" in step["detail"]
    gateway.stop()
    shadows = {line["path"]: line["shadow"] for line in decisions(gateway)}
    assert shadows == {"/admin/users": ["missing-permission"], "/pets": []}
    reasons = [line["reason"] for line in decisions(gateway) if line["path"] == "/admin/users"]
    assert reasons == ["GET /admin/users requires admin"]


def test_a_prefix_is_stripped_byte_for_byte(tmp_path: Path, backend: Backend, started: Any) -> None:
    """An upstream that does not know the prefix sees the rest of the target as it was sent, and no other byte changed."""
    policy = "openapi: {spec: api.yaml, prefix: /shop/v1, strip_prefix: true, undocumented: authenticated}\n"
    place = home(tmp_path, backend, policy)
    gateway = started(place)
    _, value = place.key(permissions=["pets:read"])
    for target, seen in (
        ("/shop/v1/pets/a%20b?x=/shop/v1", "/pets/a%20b?x=/shop/v1"),
        ("/sh%6fp/v1/pets", "/pets"),
        ("/shop/v1/other", "/other"),
        ("/shop/v1?a", "/?a"),
    ):
        assert gateway.get(target, value).status == 200, target
        assert backend.seen[-1].path == seen
    assert gateway.get("/pets", value).status == 404


def test_explain_points_into_the_document(tmp_path: Path, backend: Backend, started: Any) -> None:
    """An explanation names operation, pointer and requirement, and for a refusal the smallest change that admits it."""
    place = home(tmp_path, backend)
    started(place)
    key, _ = place.key(permissions=["pets:read"])
    told = place.json("explain", "DELETE", "/pets/7", "--key", key.id, code=1)
    assert told["operation"] == {
        "method": "DELETE",
        "path": "/pets/{petId}",
        "operation_id": "dropPet",
        "pointer": "api.yaml#/paths/~1pets~1{petId}/delete",
    }
    assert told["code"] == "missing-permission" and told["principal"]["key_id"] == key.id
    steps = {step["step"]: step["result"] for step in told["steps"]}
    assert steps["operation"] == "pass" and steps["permission"] == "refuse" and steps["mint"] == "skip"
    words = re.search(r"`keyswap (.*?)`", told["remedy"])
    assert words is not None and "api.yaml#/paths/~1pets~1{petId}/delete" in told["remedy"]
    place.run(*words[1].split())
    assert place.json("explain", "DELETE", "/pets/7", "--key", key.id)["decision"] == "admit"
    assert place.json("explain", "GET", "/pets/7", "--key", key.id)["decision"] == "admit"
    nowhere = place.json("explain", "GET", "/toys", "--key", key.id, code=1)
    assert nowhere["code"] == "no-such-operation" and "undocumented: authenticated" in nowhere["remedy"]
    assert "api.yaml" in nowhere["reason"] and nowhere["operation"] is None


def test_a_document_is_reloaded_and_a_bad_one_is_not(tmp_path: Path, backend: Backend, started: Any) -> None:
    """A changed document, or one that it refers to, is in force soon; a bad one leaves the old in force, and says so."""
    api = PETS.replace("get: {tags: [pets], security: [{key: []}], responses: {}}", "$ref: 'mine.yaml'")
    (tmp_path / "mine.yaml").write_text("get: {}")
    place = home(tmp_path, backend, api=api)
    gateway = started(place)
    _, value = place.key(permissions=["pets:read"])
    assert gateway.get("/pets/mine", value).status == 200

    def write(name: str, text: str) -> None:
        (tmp_path / "new").write_text(text)
        (tmp_path / "new").replace(tmp_path / name)

    write("mine.yaml", "get: {x-required-permissions: [mine]}")
    eventually("the other file is in force", lambda: gateway.get("/pets/mine", value).status == 403)
    write("api.yaml", "openapi: 3.1.0\npaths: {/only: {get: {}}}")
    eventually("the new document is in force", lambda: gateway.get("/only", value).status == 200)
    write("api.yaml", "openapi: 3.1.0\npaths: [")
    eventually("the error is told", lambda: place.json("status")["policy"]["reload_error"])
    assert "api.yaml:3: this is no YAML" in place.json("status")["policy"]["reload_error"]
    assert gateway.get("/only", value).status == 200 and gateway.get("/pets/mine", value).status == 404
    told = gateway.output.count("the old policy stays in force")
    write("api.yaml", api)
    eventually("the old document is back", lambda: gateway.get("/pets/mine", value).status == 403)
    assert gateway.output.count("the old policy stays in force") == told == 1
    assert place.json("status")["policy"]["reload_error"] is None


def test_reloads_under_load_fail_no_request(tmp_path: Path, backend: Backend, started: Any) -> None:
    """While document and policy change again and again, every second time into bad ones, each request is judged by one
    whole document: what all of them allow is admitted, what none allows never is."""
    extra = PETS.replace("/admin/users:", "/sometimes:\n    get: {security: []}\n  /admin/users:")
    place = home(tmp_path, backend)
    gateway = started(place, "serve")
    _, value = place.key(permissions=["pets:read"])
    stop, seen = threading.Event(), dict[str, set[int]]()

    def go_on(target: str) -> None:
        statuses = seen.setdefault(target, set())
        with Client(gateway.port) as client:
            while not stop.is_set():
                statuses.add(client.ask("GET", target, value).status)

    targets = ["/pets", "/pets/1", "/admin/users", "/toys", "/sometimes", "/health"]
    threads = [threading.Thread(target=go_on, args=(target,)) for target in targets]
    for thread in threads:
        thread.start()

    def loaded_at() -> float:
        return float(place.json("status")["policy"]["loaded_at"])

    try:
        for number in range(6):
            before = loaded_at()
            (tmp_path / "new").write_text(extra if number % 2 else PETS)
            (tmp_path / "new").replace(tmp_path / "api.yaml")
            place.write_policy(f"openapi: {{spec: api.yaml}}\nmax_body: {number + 1}MiB\n")
            eventually("the new one is in force", lambda before=before: loaded_at() > before)
            (tmp_path / "new").write_text("openapi: 3.1.0\npaths: {/toys: {get: {security: []}}, /x/{y: {}}")
            (tmp_path / "new").replace(tmp_path / "api.yaml")
            eventually("the bad one is told", lambda: place.json("status")["policy"]["reload_error"])
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert seen.pop("/sometimes") == {200, 404}
    assert seen == {"/pets": {200}, "/pets/1": {200}, "/admin/users": {403}, "/toys": {404}, "/health": {200}}


@pytest.mark.parametrize(
    ("api", "policy", "says"),
    [
        ("openapi: 3.1.0\npaths: [", "", "api.yaml:3: this is no YAML"),
        ("swagger: '2.0'", "", "api.yaml#/swagger: OpenAPI 2.0"),
        (
            PETS,
            "operations: [{match: GET /pet, require: [a]}]\n",
            "policy.yaml:5: GET /pet is no operation of api.yaml",
        ),
        (PETS.replace("/pets/mine:", "/pets/{other}:"), "", "match the same requests"),
    ],
)
def test_a_start_with_a_bad_document_fails_in_one_line(
    tmp_path: Path, backend: Backend, api: str, policy: str, says: str
) -> None:
    """Nothing listens when a document or an entry of the policy cannot be used; one line says what, where and how."""
    place = home(tmp_path, backend, "openapi: {spec: api.yaml}\n" + policy, api)
    for kind in ("serve", "mitmdump"):
        gateway = Gateway(place, kind)
        assert gateway.ended() != 0
        assert says in gateway.output and "Traceback" not in gateway.output


def test_a_kept_copy_stands_in_for_a_url(tmp_path: Path, backend: Backend, started: Any) -> None:
    """A document from a URL is read at the start, with patience; its last good copy serves while the URL is down."""
    documents = Documents(PETS)
    place = Home(tmp_path, backend.url)
    place.write_policy(f"openapi: {{spec: {documents.url}}}\n")
    _, value = place.key(permissions=["pets:read"])
    gateway = started(place, "serve")
    assert gateway.get("/pets", value).status == 200 and place.json("status")["documents"][0]["stale"] is None
    gateway.stop()
    documents.close()
    began = time.monotonic()
    gateway = started(place, "serve")
    assert gateway.get("/pets", value).status == 200 and time.monotonic() - began < 30
    assert place.json("status")["documents"][0]["stale"]
    gateway.stop()
    (kept,) = place.state.glob("document-*")
    assert kept.stat().st_mode & 0o777 == 0o600


def test_a_refused_document_of_a_url_is_not_kept(tmp_path: Path, backend: Backend, started: Any) -> None:
    """A document that parses, but not with this policy, never becomes the copy that stands in at the next start."""
    with site() as web:
        web.says["/api.yaml"] = PETS
        place = Home(tmp_path, backend.url)
        place.write_policy(f"openapi: {{spec: {web.url}/api.yaml}}\noperations: [{{match: GET /pets, require: [a]}}]\n")
        _, value = place.key(permissions=["a"])
        gateway = started(place, "serve")
        assert gateway.get("/pets", value).status == 200
        web.says["/api.yaml"] = "openapi: 3.1.0\npaths: {/toys: {get: {}}}"
        place.policy.write_text(place.policy.read_text() + "max_body: 1MiB\n")
        eventually("it is refused", lambda: place.json("status")["policy"]["reload_error"])
        assert "GET /pets is no operation" in place.json("status")["policy"]["reload_error"]
        gateway.stop()
        web.says.clear()
        gateway = started(place, "serve")
        assert gateway.get("/pets", value).status == 200 and place.json("status")["documents"][0]["stale"]


def test_check_tells_what_single_entries_do_not_enforce(tmp_path: Path, backend: Backend) -> None:
    """An entry of the policy in shadow or off mode is a warning with its line, as the mode of all is."""
    rules = "operations:\n  - {match: GET /pets, mode: 'off'}\n  - {match: POST /pets, mode: shadow}\n  - {match: GET /health}\n"
    place = home(tmp_path, backend, "openapi: {spec: api.yaml}\n" + rules)
    told = [one for one in place.json("check")["warnings"] if one["code"] == "not-enforced"]
    lines = place.policy.read_text().splitlines()
    assert ["off" in lines[one["line"] - 1] for one in told] == [True, False] and "shadow" in lines[told[1]["line"] - 1]
    assert place.run("check", "--strict", code=1).count("[not-enforced]") == 2


class Documents(Backend):
    """A URL that serves a document."""

    def __init__(self, text: str) -> None:
        super().__init__(answer=text.encode())
        self.url += "/openapi.yaml"
