"""Callers whom others know, all the way: limits, permissions, explanations and commands see them as they see our keys."""

import json
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import workos_standin
from harness import Backend, Client, Gateway, Home, Reply, eventually
from tests.sessions.issuing import AUTHKIT, CONNECT, ENVIRONMENT, Endpoint, agent, client, machine, token, user
from workos_standin import Standin

DOCUMENT = {
    "openapi": "3.1.0",
    "info": {"title": "Pets", "version": "1"},
    "paths": {
        "/pets": {
            "get": {"x-required-permissions": ["pets:read"], "responses": {"200": {"description": "pets"}}},
            "post": {"x-required-permissions": ["pets:write"], "responses": {"200": {"description": "a pet"}}},
        },
        "/login": {
            "get": {"security": [], "responses": {"200": {"description": "a page"}}},
            "post": {"security": [], "responses": {"200": {"description": "a session"}}},
        },
    },
}
LIMITS = """
limits:
- {name: guessing, by: [ip], when: invalid-credential, rate: 1/h, burst: 8}
- {name: per-agent, by: [agent], rate: 1/h, burst: 2, match: {method: [POST]}}
"""


@pytest.fixture(scope="module")
def standin() -> Iterator[Standin]:
    yield from workos_standin.running()


@pytest.fixture(scope="module")
def issuer() -> Iterator[Endpoint]:
    made = Endpoint("a")
    yield made
    made.close()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, standin: Standin, issuer: Endpoint, shared: Backend) -> Home:
    made = Home(tmp_path_factory.mktemp("callers"), shared.url)
    (made.folder / "api.json").write_text(json.dumps(DOCUMENT))
    made.write_policy(
        "api_keys: {source: workos}\nopenapi: {spec: api.json}\n"
        f'workos: {{base_url: "{standin.url}", client_id: {ENVIRONMENT}}}\nsessions:\n'
        f'- {{kind: authkit, issuers: ["{AUTHKIT}"], jwks_url: "{issuer.url}",\n'
        "   read_from: [{header: authorization, scheme: Bearer}, {cookie: session}]}\n"
        f'- {{kind: agent, issuers: ["{AUTHKIT}"], jwks_url: "{issuer.url}"}}\n'
        f'- {{kind: connect, issuers: ["{CONNECT}"], jwks_url: "{issuer.url}", permissions_from: scope}}\n{LIMITS}'
    )
    return made


@pytest.fixture(scope="module")
def gateway(home: Home, standin: Standin) -> Iterator[Gateway]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORKOS_API_KEY", standin.secret)
        made = Gateway(home, "serve").ready()
        yield made
        output = made.stop()
        assert "Traceback" not in output and "in the gateway" not in output


def request_id(reply: Reply) -> str:
    """The id by which a decision is found."""
    return reply.header("x-request-id") or ""


def decision(home: Home, request_id: str) -> dict[str, Any]:
    """What is kept of a decision."""
    found: dict[str, Any] = eventually("it is kept", lambda: kept(home, request_id))
    return found


def kept(home: Home, request_id: str) -> Any:
    for code in (0, 1):
        with suppress(AssertionError):
            return home.json("explain", "--request-id", request_id, code=code)
    return None


def test_permissions_and_their_remedies(gateway: Gateway, home: Home, standin: Standin) -> None:
    """Users, clients and WorkOS' keys need what our keys need; who lacks it is told where that is given."""
    now = int(time.time())
    standin.key("sk_live_reader", permissions=("pets:read",))
    reader = {"permissions": ["pets:read"]}
    callers = {
        "sk_live_reader": "WorkOS",
        token(user(now, **reader)): "role of user user_1 in org_1",
        token(client(now)): "scope pets:write",
        token(machine(now)): "scope pets:write",
        token(agent(now, **reader)): "pets:write",
    }
    for presented, remedy in callers.items():
        assert gateway.get("/pets", presented).status == 200
        told = home.json("explain", "POST", "/pets", "--key", "-", given=presented, code=1)
        assert (told["code"], told["principal"]["permissions"][-1]) == ("missing-permission", "pets:read")
        assert remedy in told["remedy"], told["remedy"]


def test_agents_are_counted_as_agents(gateway: Gateway, home: Home, standin: Standin) -> None:
    """A limit by agent counts an agent's key, an agent's token and a client each by itself, whoever they act for."""
    now = int(time.time())
    write = ("pets:read", "pets:write")
    standin.key("sk_agent_one", user="user_1", agent="agent_reg_1", permissions=write)
    standin.key("sk_agent_two", user="user_1", agent="agent_reg_1", permissions=write)
    of_agent = token(agent(now, permissions=list(write)))
    of_client = token(machine(now, scope="pets:write"))

    def post(presented: str) -> Reply:
        with Client(gateway.port) as caller:
            return caller.ask("POST", "/pets", presented)

    assert [post(key).status for key in ("sk_agent_one", "sk_agent_two", "sk_agent_one")] == [200, 200, 429]
    for presented, name in ((of_agent, "agent_1"), (of_client, "client_app_1")):
        replies = [post(presented) for _ in range(3)]
        assert [reply.status for reply in replies] == [200, 200, 429]
        said = decision(home, request_id(replies[0]))
        assert said["principal"]["agent"] == name
    assert decision(home, request_id(post(of_agent)))["principal"]["user_id"] == "user_1"


def test_an_impersonator_is_recorded(gateway: Gateway, home: Home) -> None:
    """Who acts in a user's place stands in what is kept of the decision, and in the token."""
    acting = token(user(int(time.time()), act={"sub": "admin@example.com"}, jti="jti_acting"))
    said = decision(home, request_id(gateway.get("/pets", acting)))
    assert (said["principal"]["actor"], said["principal"]["kind"]) == ("admin@example.com", "user")
    assert said["claims"]["act"] == "admin@example.com"


def test_a_cookie_that_is_no_good_keeps_nobody_from_signing_in(gateway: Gateway, shared: Backend) -> None:
    """Where no credential is needed, a cookie that has ended, or came from another site's page, is none; else it is 401."""
    now = int(time.time())
    ended, good = token(user(now - 1000)), token(user(now))
    for method, cookie, origin in (("GET", ended, None), ("POST", ended, None), ("POST", good, "https://evil.example")):
        headers = {"Cookie": f"session={cookie}; a=1", **({"Origin": origin} if origin else {})}
        with Client(gateway.port) as caller:
            assert caller.ask(method, "/login", headers=headers).status == 200
            seen = shared.seen[-1]
            assert not seen.values("authorization") and seen.values("cookie") == ["a=1"]
            assert caller.ask(method, "/pets", headers=headers).status == 401
    with Client(gateway.port) as caller:
        assert caller.ask("GET", "/login", ended).status == 401, "a header is written by who means it"
        assert caller.ask("GET", "/login", headers={"Cookie": f"session={good}"}).status == 200
        assert shared.seen[-1].token


def test_keys_are_found_and_blocked(gateway: Gateway, home: Home, standin: Standin, workos_key: None) -> None:
    """`keys find` asks WorkOS whose a key is; a block by id or by value ends it here at the next request."""
    found = standin.key("sk_agent_found", user="user_5", agent="agent_reg_5")
    told = home.json("keys", "find", "-", given="sk_agent_found")
    assert (told["id"], told["owner"]["id"], told["agent_registration_id"]) == (found, "user_5", "agent_reg_5")
    home.run("keys", "find", "-", given="sk_live_nobodys", code=1)
    assert gateway.get("/pets", "sk_agent_found").status == 200
    home.run("keys", "block", found)
    assert gateway.get("/pets", "sk_agent_found").code == "invalid-credential"
    home.run("keys", "unblock", found)
    assert gateway.get("/pets", "sk_agent_found").status == 200
    standin.key("sk_live_by_value")
    home.run("keys", "block", "-", given="sk_live_by_value")
    asked = len(standin.asked)
    assert gateway.get("/pets", "sk_live_by_value").code == "invalid-credential"
    assert not any("validations" in target for _, _, target, _ in standin.asked[asked:])


def test_status_tells_of_all(gateway: Gateway, home: Home, standin: Standin, issuer: Endpoint) -> None:
    """Status says what knows the keys, which key sets there are, and how events are heard."""
    told = home.json("status")
    assert told["keys"]["source"] == "workos" and told["keys"]["healthy"] and told["keys"]["cached"] > 0
    assert [(one["url"], one["keys"]) for one in told["sessions"]] == [(issuer.url, ["a"])]
    assert eventually("it polls", lambda: (home.json("status")["events"]["polling"] or {}).get("asks"))
    text = home.run("status")
    assert "at WorkOS" in text and issuer.url in text and "polled, no webhook" in text


def test_who_guesses_is_stopped_before_workos_is_asked(gateway: Gateway, standin: Standin) -> None:
    """Past the limit of guesses WorkOS is not asked; a key that was good not long ago goes on from the same address."""
    standin.key("sk_live_known")
    assert gateway.get("/pets", "sk_live_known").status == 200
    codes = [gateway.get("/pets", f"sk_live_guess{number}").code for number in range(12)]
    assert codes[-1] == "rate-limited", codes
    asked = len(standin.asked)
    standin.key("sk_live_new")
    assert gateway.get("/pets", "sk_live_new").code == "rate-limited"
    assert not any("validations" in target for _, _, target, _ in standin.asked[asked:])
    assert gateway.get("/pets", "sk_live_known").status == 200


@pytest.mark.parametrize("value", [None, "", "sk_live with spaces", "sk_live\n"])
def test_a_secret_that_is_none_stops_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """Without WorkOS' secret key there is no start, and one line says which variable is to hold it; it is not shown."""
    monkeypatch.delenv("WORKOS_API_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("WORKOS_API_KEY", value)
    home = Home(tmp_path, "http://127.0.0.1:9")
    home.write_policy("api_keys: {source: workos}\n")
    gateway = Gateway(home, "serve")
    assert gateway.ended() == 3
    assert "workos.api_key_env: the environment variable WORKOS_API_KEY" in gateway.output
    assert value is None or value.strip() not in {*gateway.output.split()} - {""}
    assert "Traceback" not in gateway.output


def test_sessions_need_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, issuer: Endpoint) -> None:
    """Sessions are taken without WorkOS' secret key too: a line says what is not heard then, unless events are asked for."""
    monkeypatch.delenv("WORKOS_API_KEY", raising=False)
    home = Home(tmp_path, "http://127.0.0.1:9")
    said = f'sessions: [{{issuers: ["{AUTHKIT}"], jwks_url: "{issuer.url}"}}]\nworkos: {{client_id: {ENVIRONMENT}'
    home.write_policy(said + "}\n")
    gateway = Gateway(home, "serve").ready()
    assert gateway.get("/", token(user(int(time.time())))).status == 502
    assert "WORKOS_API_KEY is not set: sessions that are revoked live on" in gateway.stop()
    home.write_policy(said + ", events: poll}\n")
    assert Gateway(home, "serve").ended() == 3


def test_init_writes_a_policy_for_workos(tmp_path: Path) -> None:
    """`init --source workos` writes a policy that loads, with the section that names the secret's variable."""
    home = Home(tmp_path, "http://127.0.0.1:9")
    words = ("--upstream", "http://127.0.0.1:9", "--source", "workos", "-o", str(tmp_path / "new.yaml"))
    home.run("init", *words, "--policy", str(tmp_path / "new.yaml"))
    text = (tmp_path / "new.yaml").read_text()
    assert "source: workos" in text and "api_key_env: WORKOS_API_KEY" in text
    told = home.json("check", "--policy", str(tmp_path / "new.yaml"))
    assert told["errors"] == []
