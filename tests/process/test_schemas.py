"""Validation end to end: a real FastAPI application behind the gateway, its document from its own URL."""

import gzip
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from harness import Backend, Client, Gateway, Home, eventually
from raw import say
from served import EVERYTHING, Application


@pytest.fixture(scope="module")
def application() -> Iterator[Application]:
    running = Application()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def gateway(application: Application, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    home = Home(tmp_path_factory.mktemp("gateway"), application.url)
    home.write_policy(
        f"openapi:\n  spec: {application.url}/openapi.json\n"
        "  validate: {requests: enforce, responses: shadow, max_body: 64KiB}\n"
        "operations: [{match: GET /health, public: true}]\n"
    )
    running = Gateway(home).ready()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def key(gateway: Gateway) -> str:
    return gateway.home.key(permissions=EVERYTHING)[1]


class Gatewayless(NamedTuple):
    """The application itself, asked without the gateway."""

    port: int


def send(
    gateway: Gateway | Gatewayless,
    key: str | None,
    method: str,
    target: str,
    body: bytes | None = None,
    kind: str = "application/json",
    **more: str,
) -> Any:
    with Client(gateway.port) as client:
        headers = [(name.replace("_", "-"), value) for name, value in more.items()]
        if body is not None:
            headers.append(("Content-Type", kind))
        return client.ask(method, target, key, headers=headers, body=body)


def test_what_fits_reaches_the_application(gateway: Gateway, key: str) -> None:
    """Parameters, JSON, forms and files that the document allows arrive unchanged."""
    assert send(gateway, key, "GET", "/pets?limit=5&tag=a&tag=b").json["tag"] == ["a", "b"]
    pet = {"name": "Rex", "age": None, "tags": ["x"], "toys": [{"name": "b", "price": 19.99}], "mother": None}
    pet |= {"colours": ["red", "Red"], "breed": "Épagneul breton"}
    assert send(gateway, key, "POST", "/pets", json.dumps(pet).encode()).json == pet
    zipped = send(gateway, key, "POST", "/raw", gzip.compress(b"x" * 100_000), "application/octet-stream")
    assert zipped.status == 200 and zipped.json["size"] == len(gzip.compress(b"x" * 100_000))
    assert send(gateway, key, "POST", "/raw", b"x" * 200_000, "application/octet-stream").json == {"size": 200_000}
    form = b"name=x&age=5&tags=a&tags=b"
    assert send(gateway, key, "POST", "/login", form, "application/x-www-form-urlencoded").json["tags"] == ["a", "b"]
    parts = b'--X\r\nContent-Disposition: form-data; name="count"\r\n\r\n5\r\n--X\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n\x00\xff\r\n--X--\r\n'
    assert send(gateway, key, "POST", "/files", parts, "multipart/form-data; boundary=X").json == {
        "name": "a",
        "count": 5,
        "note": None,
    }


@pytest.mark.parametrize(
    ("method", "target", "body", "fault"),
    [
        ("GET", "/pets?limit=0", None, {"in": "query", "name": "limit"}),
        ("GET", "/pets/x", None, {"in": "path", "name": "pet_id"}),
        ("POST", "/pets", b'{"name": ""}', {"in": "body", "pointer": "/name"}),
        ("POST", "/pets", b'{"name": "a", "name": "b"}', {"in": "body", "pointer": ""}),
        ("POST", "/pets", b'{"name": "a", "toys": [{"name": "b", "price": 0.001}]}', {"in": "body", "pointer": "/toys/0/price"}),
        ("POST", "/pets", b'{"name": "a", "age": 1e400}', {"in": "body", "pointer": "/age"}),
        ("POST", "/pets", b'{"name": "a", "colours": ["red", "red"]}', {"in": "body", "pointer": "/colours"}),
        ("POST", "/pets", b'{"name": "a", "breed": "5"}', {"in": "body", "pointer": "/breed"}),
        ("POST", "/pets", None, {"in": "body", "pointer": ""}),
        ("PUT", "/pets/1?dry=maybe", b'{"name": "a"}', {"in": "query", "name": "dry"}),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(
    gateway: Gateway, key: str, method: str, target: str, body: bytes | None, fault: dict[str, str]
) -> None:
    """400 invalid-request names where and what; the application sees nothing of it."""
    reply = send(gateway, key, method, target, body)
    assert (reply.status, reply.code) == (400, "invalid-request"), reply.body
    (told,) = reply.json["errors"]
    assert fault.items() <= told.items() and told["message"] and set(told) == {*fault, "message"}


def test_a_body_is_bounded(gateway: Gateway, key: str) -> None:
    """A body that is to be judged and is longer than max_body is 413, however it is sent, and soon."""
    long = b'{"name": "' + b"x" * (65 << 10) + b'"}'
    assert send(gateway, key, "POST", "/pets", long).code == "body-too-large"
    head = f"POST /pets HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {key}\r\nContent-Type: application/json\r\n"
    chunked = head.encode() + b"Transfer-Encoding: chunked\r\n\r\n" + (b"4000\r\n" + b" " * 0x4000 + b"\r\n") * 5
    began = time.monotonic()
    answer = say(gateway.port, chunked)
    assert (answer.status, answer.code) == (413, "body-too-large") and time.monotonic() - began < 5
    announced = head.encode() + b"Content-Length: 1000000000\r\nExpect: 100-continue\r\n\r\n"
    assert say(gateway.port, announced).status == 413


def test_nothing_is_held_for_who_is_refused(gateway: Gateway) -> None:
    """Without the permission the answer comes before the body has been sent."""
    _, poor = gateway.home.key(permissions=["pets:read"])
    head = f"POST /pets HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {poor}\r\nContent-Type: application/json\r\n"
    began = time.monotonic()
    answer = say(gateway.port, head.encode() + b"Content-Length: 1000000\r\n\r\n")
    assert answer.status == 403 and time.monotonic() - began < 5


def test_every_body_gets_one_decision_line(gateway: Gateway, key: str) -> None:
    """A request whose body is judged has one line, with the decision about it."""
    send(gateway, key, "POST", "/pets", b'{"name": ""}', X_Note="1")

    def lines() -> list[dict[str, Any]]:
        found = [json.loads(line) for line in gateway.output.splitlines() if line.startswith('{"at"')]
        return [line for line in found if line["path"] == "/pets" and "body /name" in (line["reason"] or "")]

    last = eventually("the line", lines)[-1]
    assert last["decision"] == "refuse" and last["status"] == 400 and last["operation"] == "POST /pets"
    assert last["key_id"] and last["upstream_ms"] is None


def test_responses_are_looked_at_in_shadow(tmp_path: Path) -> None:
    """A response that is not as documented is passed on byte for byte, and logged with operation and pointer."""
    backend = Backend(answer=b'{"id": "secret"}')
    text = "openapi: 3.1.0\npaths: {/a: {get: {responses: {'200': {description: x, content: {'*/*': {schema: {type: object}}, application/json: {schema: {properties: {id: {type: integer}}}}}}}}}}"
    (tmp_path / "api.yaml").write_text(text)
    home = Home(tmp_path, backend.url)
    home.write_policy("openapi: {spec: api.yaml, validate: {responses: shadow}}\n")
    backend.content_type = "application/json"
    gateway = Gateway(home).ready()
    try:
        _, value = home.key()
        for _ in range(3):
            assert gateway.get("/a", value).body == b'{"id": "secret"}'
        output = gateway.stop()
    finally:
        gateway.stop()
        backend.close()
    assert output.count("a response of GET /a with status 200 is not as documented: body /id") == 1
    assert "secret" not in output


def test_every_operation_is_reachable_with_the_permission_and_refused_without(
    gateway: Gateway, application: Application
) -> None:
    """Walked from the application's own document: 200 with the scopes of each operation, 403 without any one of them."""
    document = json.loads(send(Gatewayless(application.port), None, "GET", "/openapi.json").body)
    asked: dict[str, dict[str, Any]] = {
        "/pets post": {"body": b'{"name": "a"}'},
        "/pets/{pet_id} put": {"body": b'{"name": "a"}'},
        "/login post": {"body": b"name=a&age=1", "kind": "application/x-www-form-urlencoded"},
        "/raw post": {"body": b"x", "kind": "application/octet-stream"},
        "/files post": {"body": b'--X\r\nContent-Disposition: form-data; name="count"\r\n\r\n5\r\n--X\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nx\r\n--X--\r\n', "kind": "multipart/form-data; boundary=X"},
    }  # fmt: skip
    walked = alone = 0
    for path, item in document["paths"].items():
        for method, operation in item.items():
            scopes = sorted(
                {scope for one in operation.get("security", []) for names in one.values() for scope in names}
            )
            target, more = path.replace("{pet_id}", "5"), asked.get(f"{path} {method}", {})
            if path == "/two":
                continue  # the trap: below
            _, good = gateway.home.key(permissions=scopes)
            assert send(gateway, good, method.upper(), target, **more).status == 200, (method, path)
            for missing in scopes:  # each of several is needed: all the others together are not enough
                _, bad = gateway.home.key(permissions=[scope for scope in EVERYTHING if scope != missing])
                reply = send(gateway, bad, method.upper(), target, **more)
                assert (reply.status, reply.code) == (403, "missing-permission"), (method, path, missing)
                alone += len(scopes) > 1
            if not scopes:
                _, poor = gateway.home.key(permissions=[])
                assert send(gateway, poor, method.upper(), target, **more).status == 200, (method, path)
            walked += 1
    assert walked >= 10 and alone >= 2


def test_the_two_dependency_trap_is_told_and_closed(gateway: Gateway, application: Application, tmp_path: Path) -> None:
    """FastAPI publishes two required dependencies as alternatives: `check` says so, `security_lists: all` closes it."""
    found = gateway.home.json("check", code=1)["errors"]
    assert [(one["code"], one["pointer"]) for one in found] == [("weaker-alternative", "/paths/~1two/get/security")]
    _, poor = gateway.home.key(permissions=["pets:read"])
    assert send(gateway, poor, "GET", "/two").status == 200, "the document says that a key alone is enough"
    home = Home(tmp_path, application.url)
    home.write_policy(f"openapi: {{spec: {application.url}/openapi.json, security_lists: all}}\n")
    assert home.json("check")["errors"] == []
    closed = Gateway(home).ready()
    try:
        _, poor = home.key(permissions=["pets:read"])
        _, good = home.key(permissions=["admin"])
        assert send(closed, poor, "GET", "/two").status == 403 and send(closed, good, "GET", "/two").status == 200
    finally:
        closed.stop()
