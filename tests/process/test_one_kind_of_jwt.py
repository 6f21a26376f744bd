"""Whatever a caller presents, a backend verifies one kind of JWT, with the library of its own world and one configuration.

A real `serve` of two workers, keys of the state directory and of WorkOS, tokens of users, clients and agents.
"""

import base64
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from harness import Backend, Client, Gateway, Home, Reply, eventually, free_port
from tests.sessions.issuing import AUTHKIT, CONNECT, ENVIRONMENT, Endpoint, agent, client, header, machine, token, user
from verifying import BACKENDS, Configuration
from workos_standin import Standin

COOKIE = "wos-session"
CUSTOM: dict[str, Any] = {
    "urn:example:tier": {"name": "größer ☃ 𝄞 \u2028", "levels": [1, {"deep": [None, True, {"": []}]}], "empty": {}},
    "https://example.com/flags": ["a", ["b", [False]]],
    "organization_membership_id": "om_1",
    "bigger than a double": 2**63 + 1,
    "much bigger": -(10**40),
    "ratio": 0.1,
    "tiny": 5e-324,
    "a float": 1.0,
    "nothing": None,
    "api_key_id": "as the template has it",
}
"""What a JWT template may add."""


class Case(NamedTuple):
    """A policy's words, and what a backend is told once."""

    tokens: str
    algorithm: str = "RS256"
    audience: str | None = None


CASES = {
    "plain": Case(""),
    "audience": Case("audience: https://pets.example\n", audience="https://pets.example"),
    "rfc9068": Case(
        "audience: https://pets.example\ntokens: {algorithm: ES256, profile: rfc9068}\n",
        "ES256",
        "https://pets.example",
    ),
}


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    made = Endpoint("a")
    yield made
    made.close()


@dataclass
class Town:
    """A policy for all kinds of callers, and a backend that may verify."""

    home: Home
    standin: Standin
    endpoint: Endpoint
    gateways: list[Gateway] = field(default_factory=list)

    def serve(self, source: str, more: str = "", forward: str = "reissue", leeway: str = "30s") -> Gateway:
        """Two workers with keys from this source; an earlier gateway has ended."""
        for earlier in self.gateways:
            earlier.stop()
        url = self.endpoint.url
        self.home.write_policy(
            f"{more}api_keys: {{source: {source}}}\n"
            f'workos: {{base_url: "{self.standin.url}", client_id: {ENVIRONMENT}, events: "off"}}\n'
            "sessions:\n"
            f'- {{kind: authkit, issuers: ["{AUTHKIT}"], jwks_url: "{url}", forward: {forward}, leeway: {leeway},\n'
            f"   read_from: [{{header: authorization, scheme: Bearer}}, {{cookie: {COOKIE}}}]}}\n"
            f'- {{kind: connect, issuers: ["{CONNECT}"], jwks_url: "{url}/connect", permissions_from: scope, '
            f"forward: {forward}, leeway: {leeway}}}\n"
            f'- {{kind: agent, issuers: ["{AUTHKIT}"], jwks_url: "{url}", forward: {forward}, leeway: {leeway}}}\n'
        )
        self.gateways.append(Gateway(self.home, "serve", "--workers", "2"))
        return self.gateways[-1].ready()


@pytest.fixture
def town(tmp_path: Path, standin: Standin, workos_key: None, endpoint: Endpoint) -> Iterator[Town]:
    made = Town(Home(tmp_path, f"http://127.0.0.1:{free_port()}"), standin, endpoint)
    yield made
    for gateway in made.gateways:
        gateway.stop()


class Caller(NamedTuple):
    """Who calls, what the backend has to be told, and when that ends (epoch seconds)."""

    name: str
    headers: dict[str, str]
    told: dict[str, Any]
    ends_at: float


def bearer(value: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {value}"}


def with_tokens(left_s: int = 290) -> list[Caller]:
    """Every kind of session, with so many seconds left."""
    now = int(time.time())
    more = {**CUSTOM, "exp": now + left_s}
    made = {"user": user(now), "client": client(now), "machine": machine(now), "agent": agent(now)}
    made |= {"impersonator": user(now, act={"sub": "helpdesk@example.com"}, jti="jti_4")}
    callers = [
        Caller(name, bearer(token(claims | more)), {**CUSTOM, "sub": claims["sub"], "org_id": "org_1"}, more["exp"])
        for name, claims in made.items()
    ]
    user_, *_, impersonator = callers
    in_cookie = {"Cookie": f"a=1; {COOKIE}={user_.headers['Authorization'].removeprefix('Bearer ')}"}
    acting = impersonator.told | {"act": {"sub": "helpdesk@example.com"}}
    return [*callers[:-1], user_._replace(name="cookie", headers=in_cookie), impersonator._replace(told=acting)]


def with_local_keys(home: Home, left_s: int = 3600) -> list[Caller]:
    """A user's key and an organization's, in two places."""
    ends_at = int(time.time()) + left_s
    of_org, one = home.key(permissions=["pets:read"], expires_at=ends_at)
    of_user, two = home.key(user_id="user_7", permissions=["pets:read"], expires_at=ends_at)
    told = {"org_id": "org_1", "sub_type": "organization", "sub": of_org.id, "api_key_id": of_org.id}
    users = {"org_id": "org_1", "sub": "user_7", "api_key_id": of_user.id}
    return [
        Caller("a local key", bearer(one), told, ends_at),
        Caller("a user's local key", {"X-Api-Key": two}, users, ends_at),
    ]


def with_workos_keys(standin: Standin, left_s: int = 3600) -> list[Caller]:
    """A key of an organization, of a user, and of a user's agent."""
    ends_at = int(time.time()) + left_s
    at: dict[str, Any] = {"expires_at": f"{datetime.fromtimestamp(ends_at, UTC):%Y-%m-%dT%H:%M:%S}.000Z"}
    number = len(standin.keys)
    one, two, three = f"sk_live_{number}a", f"sk_live_{number}b", f"sk_agent_{number}c"
    ids = standin.key(one, **at), standin.key(two, user="user_8", **at)
    standin.key(three, user="user_9", agent="ar_1", **at)
    return [
        Caller("WorkOS' key", bearer(one), {"sub": ids[0], "sub_type": "organization", "org_id": "org_1"}, ends_at),
        Caller("a user's key at WorkOS", bearer(two), {"sub": "user_8", "api_key_id": ids[1]}, ends_at),
        Caller("an agent's key", bearer(three), {"sub": "user_9", "agent_registration_id": "ar_1"}, ends_at),
    ]


def payload(text: str) -> dict[str, Any]:
    """A token's payload, exactly: Python's integers have no end."""
    part = text.split(".")[1]
    found: dict[str, Any] = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return found


def as_text(value: object) -> str:
    """A value as JSON, so that 1, 1.0 and true differ."""
    return json.dumps(value, sort_keys=True)


def doubles(value: object) -> object:
    """The same as a library sees it whose every number is a double, as JavaScript's are."""
    return json.loads(as_text(value), parse_int=float)


def check(caller: Caller, reply: Reply, case: Case) -> None:
    """The backend accepted a token that says what it should, and ends in time."""
    assert reply.status == 200, (caller.name, reply.body)
    said = payload(reply.json["token"])
    assert as_text({name: said[name] for name in caller.told}) == as_text(caller.told), caller.name
    assert doubles(reply.json["payload"]) == doubles(said), f"{caller.name}: what the library says it says"
    assert said.get("aud") == case.audience and said["exp"] <= caller.ends_at, caller.name
    scoped = case.tokens.find("rfc9068") >= 0
    assert said.get("permissions" if not scoped else "client_id"), caller.name


def ask(gateway: Gateway, caller: Caller) -> Reply:
    return gateway.get("/pets", headers=caller.headers)


@pytest.mark.parametrize("library", BACKENDS)
@pytest.mark.parametrize("name", CASES)
def test_one_configuration_accepts_every_caller(town: Town, library: str, name: str) -> None:
    """Keys of ours and of WorkOS, users by header and cookie, clients of users and of their own, agents: each arrives as
    a token that the same lines accept, with every claim of its own unchanged. What is no credential never arrives."""
    case, home = CASES[name], town.home
    port = int(home.upstream.rpartition(":")[2])
    with BACKENDS[library](Configuration(home.issuer, case.algorithm, case.audience), port):
        gateway = town.serve("sqlite", case.tokens)
        for caller in (*with_local_keys(home), *with_tokens()):
            check(caller, ask(gateway, caller), case)
        gateway = town.serve("workos", case.tokens)
        for caller in (*with_workos_keys(town.standin), *with_tokens()):
            check(caller, ask(gateway, caller), case)
        assert gateway.get("/pets", "sk_live_guess").code == "invalid-credential"


@pytest.mark.parametrize("library", BACKENDS)
def test_no_token_outlives_its_source(town: Town, library: str) -> None:
    """With two seconds left, every token that a backend accepts ends no later than what it was made from, and after that
    end the same credential is refused. A session's token ends a `leeway` later than its issuer says, here a second."""
    home = town.home
    with BACKENDS[library](Configuration(home.issuer), int(home.upstream.rpartition(":")[2])):
        gateway = town.serve("sqlite", leeway="1s")
        live_out(gateway, lambda: [*with_local_keys(home, 2), *with_tokens(2)])
        gateway = town.serve("workos")
        live_out(gateway, lambda: with_workos_keys(town.standin, 2))


def live_out(gateway: Gateway, made: Callable[[], list[Caller]]) -> None:
    """Let callers call until they are refused."""
    for caller in with_tokens():  # both workers have the key set, so that two seconds are enough
        for _ in range(6):
            assert ask(gateway, caller).status == 200
    accepted = Counter[str]()

    def ended(caller: Caller) -> bool:
        reply = ask(gateway, caller)
        if reply.status == 200:
            accepted[caller.name] += 1
            leeway_s = 1 if "eyJ" in str(caller.headers) else 0
            assert payload(reply.json["token"])["exp"] <= caller.ends_at + leeway_s, caller.name
        return reply.code == "invalid-credential"

    callers = []
    for number in range(len(made())):
        callers.append(made()[number])  # made when it calls: two seconds are short on a busy machine
        ended(callers[-1])
    for caller in callers:
        eventually(f"{caller.name} has ended", lambda caller=caller: ended(caller))
        assert time.time() >= caller.ends_at - 1
    assert all(accepted[caller.name] for caller in callers), accepted


def test_as_is(town: Town) -> None:
    """With `forward: as_is` a session's token arrives to the letter, wherever it was; a key is swapped all the same."""
    backend = Backend()
    town.home.upstream = backend.url
    try:
        gateway = town.serve("workos", forward="as_is")
        for caller in with_tokens():
            assert ask(gateway, caller).status == 200
            presented = caller.headers.get("Authorization") or caller.headers["Cookie"].partition(f"{COOKIE}=")[2]
            assert backend.seen[-1].token == presented.removeprefix("Bearer "), caller.name
        for caller in with_workos_keys(town.standin):
            assert ask(gateway, caller).status == 200
            assert payload(backend.seen[-1].token)["iss"] == town.home.issuer
    finally:
        backend.close()


# ---- The issuer's key changes


class Load:
    """Callers that never pause, each on a connection of its own, until it is stopped."""

    def __init__(self, gateway: Gateway, make: Callable[[int], str], callers: int) -> None:
        self.statuses: list[int] = []
        self.make = make
        self._port = gateway.port
        self._go_on = True
        self._threads = [threading.Thread(target=self._call, args=(number,)) for number in range(callers)]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._go_on = False
        for thread in self._threads:
            thread.join(30)

    def more(self, count: int = 200) -> None:
        """Wait for so many further answers."""
        wanted = len(self.statuses) + count
        eventually(f"{count} more answers", lambda: len(self.statuses) >= wanted)

    def _call(self, number: int) -> None:
        made = number
        while self._go_on:
            with Client(self._port) as client:  # ever anew, so that both workers have their share
                for _ in range(20):
                    made += 1000
                    self.statuses.append(client.ask("GET", "/", self.make(made)).status)


@pytest.fixture
def served(town: Town) -> Iterator[Gateway]:
    backend = Backend()
    town.home.upstream = backend.url
    yield town.serve("sqlite", more='log: {decisions: "off"}\n')
    backend.close()


def session(kid: str) -> Callable[[int], str]:
    """Sessions that come and go, by this key of the issuer."""
    return lambda number: token(user(int(time.time()), jti=f"jti_{number // 5}"), kid)


def made_up(number: int) -> str:
    """A token by a key that nobody has published."""
    return token(user(int(time.time())), "z", header(f"unknown-{number}"))


def test_a_new_key_is_taken_up(served: Gateway, endpoint: Endpoint) -> None:
    """Published and used at once, in the middle of steady load on both workers: no request is refused, and the key set
    is asked for once by each worker. Tokens by the old key stay good."""
    with Load(served, session("a"), 4) as load:
        load.more()
        endpoint.publish("a", "b")
        hits = endpoint.hits
        load.make = session("b")
        load.more(400)
        with Load(served, session("a"), 1) as old:
            old.more(100)
    assert set(load.statuses + old.statuses) == {200}, load.statuses
    assert endpoint.hits - hits == 2


def test_a_new_key_while_others_are_made_up(served: Gateway, endpoint: Endpoint) -> None:
    """Two callers send a new made-up key id with every request. The issuer is asked no more than once in five seconds by
    each worker for that, and a key that is published so long before its use is taken up without a refused request."""
    with Load(served, session("a"), 3) as load, Load(served, made_up, 2) as hammering:
        load.more()
        hammering.more()
        began, hits = time.monotonic(), endpoint.hits
        endpoint.publish("a", "b")
        # One worker alone could not have asked so often: both have the new key.
        eventually("both workers asked", lambda: endpoint.hits - hits > (time.monotonic() - began) / 5 + 1)
        load.make = session("b")
        load.more(400)
        hammering.more()
        assert endpoint.hits - hits <= 2 * ((time.monotonic() - began) / 5 + 1)
    assert set(load.statuses) == {200}
    assert set(hammering.statuses) == {401}
