"""Session tokens through whole gateways: what is refused reaches no backend, what has ended ends everywhere."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from itertools import batched
from typing import Any

import jwt
import pytest
from joserfc import jwt as joserfc_jwt
from joserfc.jwk import KeySet

from harness import Backend, Client, Gateway, Home, Reply, eventually
from keyswap.state import Epochs, StateDirectory
from keyswap.workos.change_feed import Change, ChangeFeed
from tests.sessions.attacks import ATTACKS, CONNECT_KIDS, GOOD, KIDS
from tests.sessions.issuing import (
    AUTHKIT,
    CONNECT,
    ENVIRONMENT,
    OWN,
    Claims,
    Endpoint,
    agent,
    client,
    endpoint,
    machine,
    token,
    user,
    without,
)

Start = Callable[..., Gateway]
OURS = ("iss", "aud", "jti", "iat", "exp", "nbf")


@pytest.fixture
def authkit() -> Iterator[Endpoint]:
    """The environment's key set."""
    yield from endpoint(*KIDS)


@pytest.fixture
def connect() -> Iterator[Endpoint]:
    """Connect's key set."""
    yield from endpoint(*CONNECT_KIDS)


def of_clients(connect: Endpoint) -> dict[str, Any]:
    """The entry for clients."""
    audiences, permissions = [ENVIRONMENT], "scope"
    rule = {"kind": "connect", "issuers": [CONNECT], "jwks_url": connect.url}
    return rule | {"audiences": audiences, "permissions_from": permissions}


@pytest.fixture
def write(home: Home, authkit: Endpoint, connect: Endpoint) -> Callable[..., None]:
    """Write a policy for users and clients; words are of both entries."""

    def written(*extra: dict[str, Any], **given: Any) -> None:
        rules = [
            {"kind": "authkit", "issuers": [AUTHKIT], "jwks_url": authkit.url},
            of_clients(connect),
            *extra,
        ]
        home.write_policy(f"sessions: {json.dumps([rule | given for rule in rules])}\n")

    return written


def now() -> int:
    return int(time.time())


def minted(gateway: Gateway, backend: Backend) -> Claims:
    """What the last request's token says, verified with the keys that the gateway publishes."""
    keys = KeySet.import_key_set(gateway.get("/.well-known/jwks.json").json)
    found = joserfc_jwt.decode(backend.seen[-1].token, keys, algorithms=["RS256"])
    joserfc_jwt.JWTClaimsRegistry(iss={"essential": True, "value": gateway.home.issuer}).validate(found.claims)
    return dict(found.claims)


def refused(reply: Reply, code: str = "invalid-credential") -> None:
    status = {"headers-too-large": 431, "multiple-credentials": 400}.get(code, 401)
    assert (reply.status, reply.code) == (status, code), reply


def test_the_table_of_attacks(start: Start, home: Home, backend: Backend, write: Callable[..., None]) -> None:
    """Each attack is refused with the right code and reaches no backend, while good tokens go on reaching it."""
    write()
    gateway = start("serve").ready()
    for rows in batched((row for row in ATTACKS if row.wire is not None), 25):
        served = backend.count
        for row in rows:
            reply = gateway.get("/pets", row.bad(now()))
            assert (row.name, reply.code) == (row.name, row.wire)
            refused(reply, str(row.wire))
            assert "www-authenticate" in {name.lower() for name, _ in reply.headers} or reply.status != 401
        assert backend.count == served
        for good in {row.good for row in rows}:
            assert gateway.get("/pets", good(now())).status == 200
    assert "Traceback" not in gateway.stop()


def test_good_tokens(start: Start, home: Home, backend: Backend, write: Callable[..., None]) -> None:
    """Every kind of good token reaches the backend as our token with the same claims, which outlives none of them."""
    write()
    gateway = start("serve").ready()
    for name, make in GOOD.items():
        text = make(now())
        assert gateway.get("/pets", text).status == 200, name
        said, source = minted(gateway, backend), _claims(text)
        assert text not in str(backend.seen[-1])
        assert said["exp"] <= (source["exp"] if source["exp"] > now() else source["exp"] + 30), name
        assert said["iat"] <= now() - 5 and said["jti"] != source["jti"]
        kept = {key: value for key, value in without(source, *OURS).items() if value is not None}
        if source["iss"] == AUTHKIT:
            kept.setdefault("permissions", [])
        assert {key: value for key, value in said.items() if key in kept} == kept, name
        assert source["iss"] == AUTHKIT or said["permissions"] == source.get("scope", "").split()


def _claims(text: str) -> Claims:
    found: Claims = jwt.decode(text, options={"verify_signature": False})
    return found


def test_as_it_is(start: Start, home: Home, backend: Backend, write: Callable[..., None]) -> None:
    """`as_is` passes the token itself, and nothing that a caller sends beside it."""
    write(forward="as_is")
    gateway = start("serve").ready()
    for text in (token(user(now())), token(client(now()), "c"), token(machine(now()), "c")):
        assert gateway.get("/pets", text, headers={"X-User-Id": "user_2"}).status == 200
        assert backend.seen[-1].token == text
    _, value = home.key()
    assert gateway.get("/pets", value).status == 200
    assert minted(gateway, backend)["org_id"] == "org_1"


def test_a_cookie(start: Start, home: Home, backend: Backend, write: Callable[..., None]) -> None:
    """A token may sit in a cookie, which its backend does not get; beside another credential it is refused."""
    write(read_from=[{"header": "authorization", "scheme": "Bearer"}, {"cookie": "session"}])
    gateway = start("serve").ready()
    text, other = token(user(now())), token(user(now(), sub="user_2"))
    assert gateway.get("/pets", headers={"Cookie": f"theme=dark; session={text}"}).status == 200
    assert minted(gateway, backend)["sub"] == "user_1"
    assert backend.seen[-1].values("cookie") == ["theme=dark"]
    refused(gateway.get("/pets", headers={"Cookie": f"session={text[:-4]}AAAA"}))
    served = backend.count
    refused(gateway.get("/pets", other, headers={"Cookie": f"session={text}"}), "multiple-credentials")
    refused(gateway.get("/pets", headers={"Cookie": f"session={text}; session={other}"}), "multiple-credentials")
    assert backend.count == served


def test_agents_where_they_are_asked_for(
    start: Start, home: Home, backend: Backend, authkit: Endpoint, write: Callable[..., None]
) -> None:
    """An agent's token is refused, until the policy has an entry for agents; and then it is no user's."""
    write()
    gateway = start("serve").ready()
    text = token(agent(now()))
    refused(gateway.get("/pets", text))
    write({"kind": "agent", "issuers": [AUTHKIT], "jwks_url": authkit.url})
    eventually("the new policy", lambda: gateway.get("/pets", text).status == 200)
    said = minted(gateway, backend)
    assert (said["sub"], said["act"], said["sub_profile"]) == ("agent_1", {"sub": "user_1"}, "agent")
    (line, *_) = eventually("the decision", lambda: _lines(gateway, "agent_1"))
    assert (line["agent"], line["user_id"], line["session_id"]) == ("agent_1", "user_1", "agent_session_1")


def _lines(gateway: Gateway, agent_id: str) -> list[dict[str, Any]]:
    """The lines of decisions about an agent's requests."""
    lines = [json.loads(line) for line in gateway.output.splitlines() if line.startswith("{") and line.endswith("}")]
    return [line for line in lines if line.get("agent") == agent_id]


@pytest.mark.timing
def test_a_session_that_was_revoked(start: Start, home: Home, backend: Backend, write: Callable[..., None]) -> None:
    """It ends at the next request in every worker, and so does its open stream; other sessions go on."""
    write()
    gateway = start("serve", "--workers", "2").ready()
    text, other = token(user(now())), token(user(now(), sid="session_2", sub="user_2"))
    state = StateDirectory(home.state).open()
    with ExitStack() as stack:
        epochs = stack.enter_context(closing(Epochs(state)))
        changes = stack.enter_context(closing(ChangeFeed(state, epochs)))
        callers = [stack.enter_context(Client(gateway.port)) for _ in range(20)]
        for caller in callers:
            for one in (text, other):
                assert caller.ask("GET", "/pets", one).status == 200
        watching = [stack.enter_context(Client(gateway.port)) for _ in range(2)]
        streams = [one.begin("GET", "/events", what) for one, what in zip(watching, (text, other), strict=True)]
        assert [stream.status for stream in streams] == [200, 200]
        changes.record("event_1", [Change("session", "session_1", True, time.time())], time.time())
        for caller in callers:
            refused(caller.ask("GET", "/pets", text))
            assert caller.ask("GET", "/pets", other).status == 200
        began = time.monotonic()
        assert streams[0].read() == b"" and time.monotonic() - began < 2  # its backend has nothing to say yet
        backend.go_on.release(8)
        assert b"data: 2" in streams[1].read()
    assert text not in gateway.output


def test_an_issuer_that_the_policy_has_no_more(
    start: Start,
    home: Home,
    backend: Backend,
    authkit: Endpoint,
    connect: Endpoint,
    write: Callable[..., None],
    engine: str,
) -> None:
    """Open streams of its sessions end within two seconds of the reload, those of others go on; so do they where the
    issuer has withdrawn the key that signed, and where a policy has no sessions at all."""
    _, key = home.key()
    write()
    gateway = start(engine).ready()
    tokens = [token(user(now()), "a"), token(user(now(), sid="session_2"), "b"), token(client(now()), "c"), key]
    with ExitStack() as stack:
        watching = [stack.enter_context(Client(gateway.port)) for _ in tokens]
        streams = [one.begin("GET", "/events", what) for one, what in zip(watching, tokens, strict=True)]
        assert [stream.status for stream in streams] == [200] * 4

        def ends(number: int) -> None:
            began = time.monotonic()
            assert streams[number].read() == b"" and time.monotonic() - began < 2

        authkit.publish("b", "d")
        assert gateway.get("/pets", token(user(now()), "d")).status == 200  # an unknown key: the key set is looked at
        ends(0)
        home.write_policy(f"sessions: {json.dumps([of_clients(connect)])}\n")
        eventually("it is in force", lambda: gateway.get("/pets", tokens[1]).status == 401)
        ends(1)
        home.write_policy()
        eventually("it is in force", lambda: gateway.get("/pets", tokens[2]).status == 401)
        ends(2)
        backend.go_on.release(12)
        assert b"data: 2" in streams[3].read()


def test_keys_that_are_rotated(start: Start, home: Home, authkit: Endpoint, write: Callable[..., None]) -> None:
    """A key that is published before it signs is taken up without a refused request."""
    write()
    gateway = start("serve").ready()
    with Client(gateway.port) as caller:
        assert caller.ask("GET", "/pets", token(user(now()), "a")).status == 200
        authkit.publish("a", "b", "d")
        for number in range(20):
            text = token(user(now(), jti=str(number)), "ad"[number % 2])
            assert caller.ask("GET", "/pets", text).status == 200
    (told,) = [one for one in home.json("status")["sessions"] if one["url"] == authkit.url]
    assert told["keys"] == ["a", "b", "d"] and told["error"] is None


def test_a_key_set_that_cannot_be_had(
    start: Start, home: Home, backend: Backend, authkit: Endpoint, write: Callable[..., None]
) -> None:
    """Its tokens are 503 until it can be had, everybody else's go on, and it is said once."""
    authkit.status = 500
    write()
    gateway = start("serve").ready()
    reply = gateway.get("/pets", token(user(now())))
    assert (reply.status, reply.code) == (503, "store-unavailable") and backend.count == 0
    assert gateway.get("/pets", token(client(now()), "c")).status == 200
    authkit.status = 200
    eventually("it is asked again", lambda: gateway.get("/pets", token(user(now()))).status == 200)
    assert gateway.output.count("cannot be had") == 1 and OWN not in gateway.output
