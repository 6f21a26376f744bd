"""Key management over the admin listener, judged by WorkOS' own OpenAPI document."""

import json
import random
import re
import sqlite3
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from joserfc import jwt
from joserfc.jwk import KeySet

from harness import Backend, Gateway, Home, Reply, eventually, free_port
from keyswap.keys.local.last_used import LastUsed
from keyswap.keys.pepper import Pepper
from keyswap.state import StateDirectory
from operators import TOKEN, Operator
from workos_document import complaints_of, complaints_of_answer, document

Start = Callable[..., Gateway]
ORG, USER = "/organizations/org_1/api_keys", "/user_management/users/user_1/api_keys"
PERMISSIONS = "/authorization/permissions"


class WorkOS(Operator):
    """Asks a running gateway as WorkOS' SDKs do, and judges each answer by the document."""

    def __init__(
        self, home: Home, start: Start, kind: str = "serve", policy: str = "", port: int | None = None
    ) -> None:
        super().__init__(home, policy, port)
        self.gateway = start(kind).ready()
        self.ready()

    def call(self, method: str, target: str, body: object = None, token: str | None = TOKEN) -> Reply:
        sent = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        reply = self.ask(method, target, token, body=sent)
        judge(method, target.partition("?")[0], reply)
        return reply

    def make(self, where: str = ORG, **more: Any) -> dict[str, Any]:
        """A new key."""
        reply = self.call("POST", where, {"name": "n", **more})
        assert reply.status == 201, reply
        return dict(reply.json)

    def list(self, where: str = ORG, query: str = "") -> dict[str, Any]:
        reply = self.call("GET", f"{where}?{query}")
        assert reply.status == 200, reply
        return dict(reply.json)

    def good(self, value: str) -> Any:
        """What a validation says of a value."""
        reply = self.call("POST", "/api_keys/validations", {"value": value})
        assert reply.status == 200 and list(reply.json) == ["api_key"], reply
        return reply.json["api_key"]


def judge(method: str, path: str, reply: Reply) -> None:
    """What the document describes is as described; an error that it does not describe has WorkOS' shape."""
    assert reply.header("x-request-id") and reply.header("cache-control") == "no-store"
    if reply.status == 204:
        assert reply.body == b"" and reply.header("content-length") is None
        return
    assert reply.header("content-type") == "application/json", reply
    if reply.status < 400 and path.endswith("/expire"):  # the SDKs have it, the document does not yet
        complaints = complaints_of("ApiKey", reply.json)
    else:
        complaints = complaints_of_answer(method, path, reply.status, reply.json)
    if reply.status >= 400:
        assert isinstance(reply.json["message"], str)
        complaints = [one for one in complaints if not one.startswith("the document has no ")]
    assert not complaints, (method, path, reply, complaints)


@pytest.fixture(autouse=True)
def _token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEYSWAP_ADMIN_TOKEN", TOKEN)
    try:
        document()
    except pytest.skip.Exception as error:
        pytest.fail(f"without WorkOS' document these tests prove nothing: {error}")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkOS]:
    """The listener of a `keyswap serve` that runs for all tests that let it run."""
    backend, started = Backend(), list[Gateway]()

    def begin(kind: str) -> Gateway:
        started.append(Gateway(home, kind))
        return started[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KEYSWAP_ADMIN_TOKEN", TOKEN)
        home = Home(tmp_path_factory.mktemp("workos"), backend.url)
        yield WorkOS(home, begin)
    started[0].stop()
    backend.close()


@pytest.fixture
def workos(running: WorkOS) -> WorkOS:
    """The same without any key or permission."""
    with running.home.ledger() as ledger, ledger._change():
        for table in ("keys", "blocks", "last_used"):
            ledger._connection.execute(f"DELETE FROM {table}")
        ledger._connection.execute("DROP TABLE IF EXISTS permissions")
    return running


@pytest.mark.parametrize("kind", ["serve", "mitmdump"])
def test_a_key_lives_as_long_as_it_is_wanted(start: Start, home: Home, kind: str) -> None:
    """A key that is made works at once, is in the list and good; at the next request after its end it is refused, in no
    list and not found. All of it is in the audit log, without the value."""
    workos = WorkOS(home, start, kind)
    gateway = workos.gateway
    made = workos.make(name="CI", permissions=["posts:read", "posts:write"], expires_at="2099-01-01T00:00:00.000Z")
    value = made.pop("value")
    assert value.startswith("ksw_live_") and made["owner"] == {"type": "organization", "id": "org_1"}
    assert (made["name"], made["permissions"]) == ("CI", ["posts:read", "posts:write"])
    assert made["expires_at"] == "2099-01-01T00:00:00.000Z" and made["last_used_at"] is None
    assert gateway.get("/", value).status == 200
    assert workos.list()["data"] == [made] and workos.good(value) == made
    assert workos.call("DELETE", f"/api_keys/{made['id']}").status == 204
    assert gateway.get("/", value).status == 401 and workos.good(value) is None and workos.list()["data"] == []
    for method, path in (("DELETE", f"/api_keys/{made['id']}"), ("POST", f"/api_keys/{made['id']}/expire")):
        reply = workos.call(method, path)
        assert reply.status == 404 and reply.json["code"] == "entity_not_found"
    assert home.json("keys", "show", made["id"])["state"] == "revoked"
    lines = [json.loads(line) for line in (home.state / "audit.jsonl").read_text().splitlines()]
    told = [line for line in lines if line["target"] == made["id"]]
    assert [line["action"] for line in told] == ["key.created", "key.revoked"]
    assert {line["who"]["via"] for line in told} == {"admin"} and told[0]["detail"]["name"] == "CI"
    output = gateway.stop()
    assert value not in output + json.dumps(lines) and TOKEN not in output and "Traceback" not in output


def test_a_users_key_has_an_organization(workos: WorkOS) -> None:
    """It is the user's in that organization; lists of the user hold it, those of the organization do not."""
    one = workos.make(USER, organization_id="org_1")
    two = workos.make(USER, organization_id="org_2", permissions=["a"])
    owner = {"type": "user", "id": "user_1", "organization_id": "org_1"}
    assert one["owner"] == owner and workos.good(one["value"])["owner"] == owner
    assert [key["id"] for key in workos.list(USER)["data"]] == [two["id"], one["id"]]
    assert [key["id"] for key in workos.list(USER, "organization_id=org_1")["data"]] == [one["id"]]
    assert workos.list()["data"] == workos.list(USER, "organization_id=org_3")["data"] == []
    assert workos.list("/user_management/users/user_2/api_keys")["data"] == []
    assert workos.gateway.get("/", two["value"]).status == 200
    reply = workos.call("POST", USER, {"name": "n"})
    assert reply.status == 422 and reply.json["errors"][0]["field"] == "organization_id"
    assert reply.json["errors"][0]["code"] == "required"


def test_a_key_can_be_given_an_end(workos: WorkOS) -> None:
    """Now, later, or taken back; past times are now; a key that has ended stays so, with 409, and stays in the list."""
    gateway, made = workos.gateway, workos.make()
    where, value = f"/api_keys/{made['id']}/expire", made["value"]
    later = workos.call("POST", where, {"expires_at": "2099-12-31T23:59:59+01:00"})
    assert later.status == 200 and later.json["expires_at"] == "2099-12-31T22:59:59.000Z"
    assert gateway.get("/", value).status == 200
    assert workos.call("POST", where, {"expires_at": None}).json["expires_at"] is None
    assert gateway.get("/", value).status == 200
    now = workos.call("POST", where, b"")
    assert now.status == 200 and abs(datetime.fromisoformat(now.json["expires_at"]).timestamp() - time.time()) < 3
    assert gateway.get("/", value).status == 401 and workos.good(value) is None
    for body in ({}, {"expires_at": None}, {"expires_at": "2099-01-01"}):
        again = workos.call("POST", where, body)
        assert again.status == 409 and again.json["code"] == "api_key_already_expired"
    assert [key["id"] for key in workos.list()["data"]] == [made["id"]]
    other = workos.make()
    past = workos.call("POST", f"/api_keys/{other['id']}/expire", {"expires_at": "2001-01-01T00:00:00Z"})
    assert past.status == 200 and gateway.get("/", other["value"]).status == 401
    bad: object
    for bad in [1, "soon", "", [], True, "0001-01-01T00:00:00+14:00x"]:
        assert workos.call("POST", where, {"expires_at": bad}).status == 422, bad


def test_what_is_no_good_is_not_valid(workos: WorkOS) -> None:
    """Expired, disabled, blocked, revoked and malformed keys, and those of nobody, are all the same: null."""
    values = []
    for act in ("disable", "block", "revoke", "block-digest"):
        key, value = workos.home.key()
        assert workos.good(value)["id"] == key.id
        with workos.home.ledger() as ledger:
            if act == "disable":
                ledger.disable(key.id, time.time())
            elif act == "block":
                ledger.block(key.id, "leaked", time.time())
            elif act == "revoke":
                ledger.revoke(key.id, "left", time.time())
            else:
                ledger._block(ledger._pepper.digest(value).hex(), "leaked", time.time())
        values.append(value)
    values += ["", "x", "sk_live_123", values[0][:-1] + "0", "a b", "\0", "é", "x" * 600, "\ud800", "key_1"]
    for value in values:
        assert workos.good(value) is None, value
    body: object
    for body in ({}, {"value": None}, {"value": 1}, {"value": ["x"]}, [], "x"):
        assert workos.call("POST", "/api_keys/validations", body).status == 422, body


def test_a_key_for_some_addresses_is_not_valid(workos: WorkOS) -> None:
    """A key that counts from some addresses alone is null: who validates it here could not be told of them."""
    key, value = workos.home.key()
    with workos.home.ledger() as ledger:
        ledger.update(key.id, now=time.time(), allow_ip=["192.0.2.0/24"])
        assert workos.good(value) is None
        ledger.update(key.id, now=time.time(), allow_ip=[])
    assert workos.good(value)["id"] == key.id


def test_last_use_is_told(workos: WorkOS) -> None:
    """The time at which a key was used last is in lists and validations, once a gateway has written it down."""
    made = workos.make()
    assert workos.good(made["value"])["last_used_at"] is None
    used = LastUsed(StateDirectory(workos.home.state), Pepper.load(StateDirectory(workos.home.state)))
    used(made["id"], 1_700_000_000)
    used.flush()
    assert workos.good(made["value"])["last_used_at"] == "2023-11-14T22:13:20.000Z"
    assert workos.list()["data"][0]["last_used_at"] == "2023-11-14T22:13:20.000Z"


def walk(workos: WorkOS, where: str, cursor: str, query: str, start: str | None = None) -> Iterator[list[str]]:
    """The pages of a list, one after the other."""
    place = start
    while True:
        page = workos.list(where, query + (f"&{cursor}={place}" if place else ""))
        yield [one["id"] for one in page["data"]]
        place = page["list_metadata"][cursor]
        if place is None:
            return


@pytest.mark.parametrize("where", [ORG, f"{USER}", PERMISSIONS])
def test_lists_are_walked(workos: WorkOS, where: str) -> None:
    """25 objects, in every order, in pages of every size, there and back: each once, in order; the ends are told."""
    made = []
    for number in range(25):
        body = {"name": "n", "slug": f"s{number}"} if where == PERMISSIONS else {"name": "n", "organization_id": "o"}
        made.append(workos.call("POST", where, body).json["id"])
    workos.make("/organizations/org_other/api_keys")
    ordered = made
    for order, expected, onward, back in (
        ("asc", ordered, "after", "before"),
        ("desc", ordered[::-1], "after", "before"),
        ("normal", ordered[::-1], "before", "after"),
    ):
        for size in (1, 7, 24, 25, 100):
            pages = list(walk(workos, where, onward, f"order={order}&limit={size}"))
            assert [one for page in pages for one in page] == expected, (order, size)
            assert all(len(page) == size for page in pages[:-1]) and 0 < len(pages[-1]) <= size
            if len(pages) > 1:
                returned = list(walk(workos, where, back, f"order={order}&limit={size}", pages[-1][0]))
                assert [one for page in returned[::-1] for one in page] == expected[: -len(pages[-1])], (order, size)
    first = workos.list(where)
    assert len(first["data"]) == 10 and first["list_metadata"] == {"before": None, "after": ordered[15]}
    assert workos.list(where, f"after={ordered[0]}") == {
        "object": "list", "data": [], "list_metadata": {"before": None, "after": None},
    }  # fmt: skip


def test_a_page_begins_at_what_was_deleted(workos: WorkOS) -> None:
    """Who deletes while walking misses nothing and sees nothing twice."""
    made = [workos.make()["id"] for _ in range(9)]
    seen = []
    for page in walk(workos, ORG, "after", "limit=2"):
        seen += page
        for one in page:
            assert workos.call("DELETE", f"/api_keys/{one}").status == 204
    assert sorted(seen) == sorted(made) and len(seen) == 9


BAD_QUERIES = [
    "limit=0", "limit=101", "limit=-1", "limit=x", "limit=", "limit=1&limit=2", "limit=%31%00", "order=up", "order=",
    "after=key_nobody", "before=key_nobody", "after=%ff", "after=a%00", "before=a&after=b", "after=x&after=x",
    "limit=١", "&".join("a=b" for _ in range(200)),
]  # fmt: skip


def test_a_list_that_is_asked_for_wrongly(workos: WorkOS) -> None:
    """Bad parameters and cursors of no or another list are 422, which names the parameter; others are passed over."""
    other = workos.make("/organizations/org_2/api_keys")["id"]
    for where in (ORG, USER, PERMISSIONS):
        for query in (*BAD_QUERIES, f"after={other}"):
            sent = f"GET {where}?{query} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode()
            answered = workos.say(sent)
            assert answered.startswith(b"HTTP/1.1 422 ") and b'"errors"' in answered, (query, answered)
            assert other.encode() not in answered and b"nobody" not in answered
        assert workos.list(where, "unknown=1&organization=x&limit=100&after=")["data"] == []


BAD_BODIES: list[tuple[bytes, str]] = [
    (b"", "name"), (b"{}", "name"), (b"[]", "body"), (b"null", "body"), (b'"x"', "body"), (b"{", "body"),
    (b'{"name": "a", "name": "b"}', "body"), (b'{"name": "a", "x": {"y": 1, "y": 2}}', "body"), (b'{"name": NaN}', "body"),
    (b'{"name": 1}', "name"), (b'{"name": null}', "name"), (b'{"name": ["a"]}', "name"), (b'{"name": ""}', "name"),
    (b'{"name": " "}', "name"), (b'{"name": "a\\u0000"}', "name"), (b'{"name": "a\\nb"}', "name"),
    (b'{"name": "\\u001b[31m"}', "name"), (b'{"name": "\\ud800"}', "name"), (b'{"name": "%s"}' % (b"x" * 256), "name"),
    (b'{"name": "a", "permissions": "a"}', "permissions"), (b'{"name": "a", "permissions": null}', "permissions"),
    (b'{"name": "a", "permissions": [1]}', "permissions"), (b'{"name": "a", "permissions": ["A"]}', "permissions"),
    (b'{"name": "a", "permissions": [""]}', "permissions"), (b'{"name": "a", "permissions": ["a b"]}', "permissions"),
    (b'{"name": "a", "permissions": ["%s"]}' % (b"x" * 49), "permissions"), (b'{"name": "a", "expires_at": 1}', "expires_at"),
    (b'{"name": "a", "expires_at": "x"}', "expires_at"), (b'{"name": "a", "expires_at": "2001-01-01"}', "expires_at"),
    (b'{"name": "a", "expires_at": "9999-12-31T23:59:59-12:00"}', "expires_at"),
    (b'{"name": "a", "expires_at": "0001-01-01T00:00:00+23:59"}', "expires_at"),
    (b"\xff{}", "body"), (b"\xef\xbb\xbf{}", "body"), ('{"name": "a"}'.encode("utf-16"), "body"),
    (b"[" * 100_000, "body"), (b'{"name": ' + b"[" * 100_000, "body"), (b"1" * 100_000, "body"),
]  # fmt: skip


def test_a_body_that_is_not_as_it_must_be(workos: WorkOS) -> None:
    """Each is 422 and names the field, for all that take one; nothing is made. Fields that nobody knows are let be."""
    for body, field in BAD_BODIES:
        for where in (ORG, USER):
            reply = workos.call("POST", where, body)
            named = {error["field"] for error in reply.json["errors"]}
            assert reply.status == 422 and named - {"organization_id"} == {field}, (body[:60], reply)
    assert workos.list()["data"] == workos.list(USER)["data"] == []
    made = workos.make(unknown={"a": [1]}, organization_id=7, expires_at=None, permissions=["b", "a", "b"])
    assert made["permissions"] == ["b", "a"] and made["expires_at"] is None
    assert workos.make(name="Ключ 🔑 ü")["name"] == "Ключ 🔑 ü"


def test_a_body_is_bounded(workos: WorkOS) -> None:
    """One of 1 MiB is read, a longer one is 413 in WorkOS' shape."""
    whole = b'{"name": "a", "x": "%s"}'
    assert workos.call("POST", ORG, whole % (b"x" * ((1 << 20) - len(whole) + 2))).status == 201
    reply = workos.call("POST", ORG, whole % (b"x" * (1 << 20)))
    assert reply.status == 413 and reply.json["code"] == "body_too_large"


def test_an_id_in_a_path(workos: WorkOS) -> None:
    """It may be anything printable, escaped where it must be; what nobody can have is not found, and never repeated."""
    made = workos.make("/organizations/o%20%C3%BC%2F1/api_keys")
    assert made["owner"]["id"] == "o ü/1" and len(workos.list("/organizations/o%20%C3%BC%2F1/api_keys")["data"]) == 1
    for bad in ("%00", "%FF", "a%0Ab", "%20", "x" * 256, "%ED%A0%80"):
        for method, path in (
            ("GET", f"/organizations/{bad}/api_keys"), ("POST", f"/organizations/{bad}/api_keys"),
            ("GET", f"/user_management/users/{bad}/api_keys"), ("DELETE", f"/api_keys/{bad}"),
            ("POST", f"/api_keys/{bad}/expire"),
        ):  # fmt: skip
            assert workos.call(method, path).status == 404, (method, path)
    reply = workos.call("DELETE", f"/api_keys/{made['value']}")
    assert reply.status == 404 and made["value"].encode() not in reply.body


def test_who_has_no_token_makes_no_key(workos: WorkOS) -> None:
    """No route but the key set answers without the token, a page's script or a rebound name none at all; what one is
    told is in WorkOS' shape, and the same where there is no route."""
    made = workos.make()
    for method, path in (
        ("GET", ORG), ("POST", ORG), ("GET", USER), ("POST", USER), ("POST", "/api_keys/validations"),
        ("DELETE", f"/api_keys/{made['id']}"), ("POST", f"/api_keys/{made['id']}/expire"), ("GET", PERMISSIONS),
        ("POST", PERMISSIONS), ("POST", "/sso/jwks/x"), ("GET", "/api_keys/nothing"), ("PUT", ORG),
        ("GET", "/organizations/x"), ("GET", "/sso/jwks"),
    ):  # fmt: skip
        for token, message in (
            (None, "Send the admin token as a bearer token."),
            ("x" * 34, "This is not the admin token."),
        ):
            reply = workos.call(method, path, {"name": "n"} if method == "POST" else None, token)
            assert reply.status == 401 and reply.json["message"] == message, (method, path, reply)
            assert (reply.header("www-authenticate") or "").startswith("Bearer ")
        for fields in ("Origin: https://evil.example\r\nHost: localhost", "Host: evil.example"):
            sent = f"{method} {path} HTTP/1.1\r\n{fields}\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: 0\r\n\r\n"
            assert re.match(rb"HTTP/1.1 4(03|21) .*\"message\": ", workos.say(sent.encode()), re.DOTALL)
    assert [key["id"] for key in workos.list()["data"]] == [made["id"]]
    assert workos.call("PUT", ORG).status == 405 and workos.call("GET", "/api_keys/validations").status == 405
    assert workos.call("GET", "/organizations/x").status == 404


def test_permissions_are_named(workos: WorkOS) -> None:
    """One can be created once; slugs, names and descriptions have WorkOS' bounds; a database of before takes them."""
    assert workos.list(PERMISSIONS)["data"] == []
    reply = workos.call("POST", PERMISSIONS, {"slug": "a-b_c:d.*9", "name": "All", "description": None})
    made = reply.json
    assert reply.status == 201 and made["id"].startswith("perm_") and made["created_at"] == made["updated_at"]
    assert {name: made[name] for name in ("object", "slug", "name", "description", "system", "resource_type_slug")} == {
        "object": "permission", "slug": "a-b_c:d.*9", "name": "All", "description": None, "system": False,
        "resource_type_slug": "organization",
    }  # fmt: skip
    again = workos.call("POST", PERMISSIONS, {"slug": "a-b_c:d.*9", "name": "Other"})
    assert again.status == 409 and again.json["code"] == "permission_slug_conflict"
    for bad in (
        {}, {"slug": "a"}, {"name": "a"}, {"slug": "A", "name": "a"}, {"slug": "", "name": "a"},
        {"slug": "a" * 49, "name": "a"}, {"slug": "a b", "name": "a"}, {"slug": "é", "name": "a"}, {"slug": "b\n", "name": "a"},
        {"slug": "b", "name": ""}, {"slug": "b", "name": "a" * 49}, {"slug": "b", "name": "a\n"}, {"slug": 1, "name": "a"},
        {"slug": "b", "name": "a", "description": "x" * 151}, {"slug": "b", "name": "a", "description": 1},
        {"slug": "b", "name": "a", "resource_type_slug": "x" * 49}, {"slug": "b", "name": "a", "resource_type_slug": None},
    ):  # fmt: skip
        assert workos.call("POST", PERMISSIONS, bad).status == 422, bad
    full = {"slug": "x" * 48, "name": "ü" * 48, "description": "d" * 150, "resource_type_slug": "document"}
    made = workos.call("POST", PERMISSIONS, full).json
    assert {name: made[name] for name in full} == full and len(workos.list(PERMISSIONS)["data"]) == 2
    lines = [json.loads(line) for line in (workos.home.state / "audit.jsonl").read_text().splitlines()]
    assert [line["target"] for line in lines if line["action"] == "permission.created"][-2:] == ["a-b_c:d.*9", "x" * 48]


def test_a_database_of_before(start: Start, home: Home) -> None:
    """One without the permissions and the index of users is used as it is, keys and all; its schema stays its own."""
    key, value = home.key(user_id="user_1")
    with closing(sqlite3.connect(home.state / "keys.db")) as database:
        database.execute("DROP INDEX keys_user")
        database.commit()
    workos = WorkOS(home, start)
    assert workos.list(PERMISSIONS)["data"] == [] and [one["id"] for one in workos.list(USER)["data"]] == [key.id]
    assert workos.call("POST", PERMISSIONS, {"slug": "a", "name": "a"}).status == 201
    assert workos.gateway.get("/", value).status == 200 and workos.good(value)["id"] == key.id
    with closing(sqlite3.connect(home.state / "keys.db")) as database:
        assert database.execute("PRAGMA user_version").fetchone() == (1,)


def test_fields_of_ours_are_not_dropped(workos: WorkOS) -> None:
    """What keyswap knows of keys and WorkOS' requests cannot say is 422 and names each field; nothing is made."""
    asked = {"name": "x", "plan": "pro", "allow_ip": ["10.0.0.0/8"], "roles": None, "unknown": 1}
    refused = workos.call("POST", ORG, asked)
    assert refused.status == 422 and [one["field"] for one in refused.json["errors"]] == ["allow_ip", "plan"]
    assert workos.list(ORG)["data"] == []


@pytest.mark.parametrize("kind", ["serve", "mitmdump"])
def test_the_key_set_is_for_everybody(start: Start, home: Home, backend: Backend, kind: str) -> None:
    """With it a backend verifies our tokens; it can be kept, and asked for again by its tag; every client has the same."""
    workos = WorkOS(home, start, kind)
    gateway = workos.gateway
    whole = workos.ask("GET", "/sso/jwks/client_1")
    assert whole.status == 200 and whole.header("cache-control") == "public, max-age=60"
    assert whole.body == gateway.get("/.well-known/jwks.json").body == workos.ask("GET", "/sso/jwks/any", "wrong").body
    etag = whole.header("etag") or ""
    for tag in (etag, f"W/{etag}", f'"x", {etag}', "*"):
        again = workos.ask("GET", "/sso/jwks/client_1", headers={"If-None-Match": tag})
        assert again.status == 304 and again.body == b"" and again.header("etag") == etag
    assert workos.ask("GET", "/sso/jwks/c", headers={"If-None-Match": '"x"'}).status == 200
    short = workos.ask("HEAD", "/sso/jwks/c")
    assert short.status == 200 and short.body == b"" and short.header("content-length") == str(len(whole.body))
    _, value = home.key()
    assert gateway.get("/", value).status == 200
    told = jwt.decode(backend.seen[-1].token, KeySet.import_key_set(whole.json), algorithms=["ES256", "RS256", "EdDSA"])
    assert told.claims["iss"] == home.issuer
    home.run("signing", "rotate")
    eventually("the new key is there", lambda: len(workos.ask("GET", "/sso/jwks/c").json["keys"]) == 2)


def test_who_waits_for_the_database_holds_nobody_up(workos: WorkOS) -> None:
    """While another process holds the database, changes are 503 in WorkOS' shape, and all else is answered at once;
    afterwards they go on. The log says what is wrong."""
    with closing(sqlite3.connect(workos.home.state / "keys.db", isolation_level=None)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        with ThreadPoolExecutor(12) as many:
            waiting = [many.submit(workos.call, "POST", ORG, {"name": "n"}) for _ in range(12)]
            slowest = 0.0
            for _ in range(20):
                began = time.monotonic()
                assert workos.ask("GET", "/healthz").status == workos.ask("GET", "/metrics").status == 200
                slowest = max(slowest, time.monotonic() - began)
            replies = [one.result() for one in waiting]
        assert slowest < 1.5, slowest
        assert {reply.status for reply in replies} == {503} and "message" in replies[0].json
        holder.execute("ROLLBACK")
    assert workos.make()["name"] == "n" and len(workos.list()["data"]) == 1
    assert "is busy: another process holds it" in workos.gateway.output


def test_many_at_once(workos: WorkOS) -> None:
    """Keys that are made, listed, validated and deleted by many callers at once: each answer is right."""

    def live(number: int) -> None:
        made = workos.make(f"/organizations/org_{number}/api_keys")
        assert workos.good(made["value"])["owner"]["id"] == f"org_{number}"
        assert workos.call("DELETE", f"/api_keys/{made['id']}").status == 204
        assert workos.good(made["value"]) is None

    with ThreadPoolExecutor(16) as many:
        list(many.map(live, range(64)))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(
        ["name", "permissions", "expires_at", "organization_id", "value", "slug", "description", "resource_type_slug", "x"]
    ) | st.text(max_size=5), inner, max_size=5),
    max_leaves=12,
)  # fmt: skip
TARGETS = [ORG, USER, "/api_keys/validations", "/api_keys/key_1/expire", PERMISSIONS]


def test_no_body_is_a_503(workos: WorkOS) -> None:
    """Whatever is sent, as JSON or not, to whatever route: an answer between 200 and 499, in WorkOS' shape."""
    chance, before = random.Random(7), workos.gateway.output

    @settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(st.sampled_from(TARGETS), JSON.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=60))
    def send(target: str, body: bytes) -> None:
        if chance.random() < 0.2 and body:
            place = chance.randrange(len(body))
            body = body[:place] + bytes([chance.randrange(256)]) + body[place + 1 :]
        reply = workos.call("POST", target, body)
        assert 200 <= reply.status < 500, (target, body, reply)

    send()
    assert "could not answer" not in workos.gateway.output.removeprefix(before)


def test_no_path_or_query_is_a_503(workos: WorkOS) -> None:
    """The same for what stands in paths and queries."""
    chance, before = random.Random(11), workos.gateway.output
    alphabet = [*"abz019%._-~:/?#[]@!$&'()*+,;=<>\"\\^`{|}", "%00", "%2F", "%ff", "%ED%A0%80", "é", "limit=", "after="]
    for _ in range(300):
        junk = "".join(chance.choice(alphabet) for _ in range(chance.randrange(1, 12)))
        target = chance.choice(
            [f"/organizations/{junk}/api_keys", f"{ORG}?{junk}", f"/api_keys/{junk}", f"{USER}?after={junk}"]
        )
        method = chance.choice(["GET", "POST", "DELETE"])
        fields = f"Host: localhost\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: 2\r\n\r\n{{}}"
        answered = workos.say(f"{method} {target} HTTP/1.1\r\n{fields}".encode())
        assert re.match(rb"HTTP/1.1 [24]\d\d ", answered) or answered == b"", (method, target, answered[:100])
    assert "could not answer" not in workos.gateway.output.removeprefix(before)


def test_keys_of_here_where_keys_come_from_workos(start: Start, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """With `source: workos` it is the local database that is managed all the same; and as the listener speaks as WorkOS
    does, a gateway can have its keys from there: what is made works, what is deleted is not valid there any more."""
    monkeypatch.setenv("WORKOS_API_KEY", TOKEN)
    port = free_port()
    section = f"workos: {{base_url: 'http://127.0.0.1:{port}', events: 'off'}}\n"
    asked = WorkOS(home, start, policy=f"api_keys: {{source: workos, cache_ttl: 1s}}\n{section}", port=port)
    made, user = asked.make(), asked.make(USER, organization_id="org_1", permissions=["a"])
    assert asked.gateway.get("/", made["value"]).status == asked.gateway.get("/", user["value"]).status == 200
    assert asked.gateway.get("/", made["value"][:-1]).status == 401
    assert asked.call("DELETE", f"/api_keys/{made['id']}").status == 204
    eventually("it is not valid any more", lambda: asked.gateway.get("/", made["value"]).status == 401)
    assert asked.gateway.get("/", user["value"]).status == 200
    assert home.json("keys", "show", made["id"])["state"] == "revoked"


def test_bytes_that_are_no_text(workos: WorkOS) -> None:
    """In a path or query they are refused as all else that is malformed."""
    for target in (b"/organizations/\xff/api_keys", b"/organizations/o/api_keys?after=\xff", b"/api_keys/\xed\xa0\x80/expire",
                   b"/user_management/users/u/api_keys?organization_id=\xed\xa0\x80", b"/organizations/o/api_keys?\xff=\xff"):  # fmt: skip
        for method in (b"GET", b"POST"):
            fields = b"Host: localhost\r\nAuthorization: Bearer " + TOKEN.encode() + b"\r\nContent-Length: 2\r\n\r\n{}"
            answered = workos.say(method + b" " + target + b" HTTP/1.1\r\n" + fields)
            assert re.match(rb"HTTP/1.1 (200|4\d\d) ", answered) or answered == b"", (target, answered)
