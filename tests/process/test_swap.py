"""The main job, over every command line of the contract: a key goes in, a signed JWT comes out."""

import http.client
import json
import signal
from collections.abc import Callable, Iterator
from contextlib import closing

import jwt
import pytest
from joserfc import jwt as jose
from joserfc.jwk import KeySet

from harness import Backend, Client, Gateway, Home, Seen, eventually

Start = Callable[..., Gateway]


@pytest.fixture(scope="module")
def swapping(tmp_path_factory: pytest.TempPathFactory, shared: Backend) -> Iterator[Gateway]:
    """A gateway that no test changes."""
    gateway = Gateway(Home(tmp_path_factory.mktemp("swapping"), shared.url))
    try:
        yield gateway.ready()
    finally:
        gateway.stop()


@pytest.fixture
def value(swapping: Gateway) -> str:
    """A key of its own."""
    return swapping.home.key()[1]


@pytest.fixture
def seen(shared: Backend) -> list[Seen]:
    """What the backend of that gateway sees from now on."""
    shared.seen = []
    return shared.seen


def claims_by_pyjwt(home: Home, token: str) -> dict[str, object]:
    """Verified through the key set's URL, as a backend would."""
    key = jwt.PyJWKClient(f"{home.issuer}/.well-known/jwks.json").get_signing_key_from_jwt(token)
    return dict(jwt.decode(token, key, algorithms=[str(key.algorithm_name)], issuer=home.issuer))


def claims_by_joserfc(gateway: Gateway, token: str) -> dict[str, object]:
    """Verified by another library."""
    keys = KeySet.import_key_set(gateway.get("/.well-known/jwks.json").json)
    return dict(jose.decode(token, keys, algorithms=["RS256", "ES256", "EdDSA"]).claims)


@pytest.mark.parametrize("kind", Gateway.KINDS)
def test_a_key_arrives_as_a_jwt(kind: str, start: Start, home: Home, backend: Backend) -> None:
    """Under each command line the backend gets a JWT of the key's user, org and permissions, and never the key."""
    key, value = home.key(user_id="user_1", permissions=["pets:read"], roles=["member"])
    gateway = start(kind, forked=False).ready()
    reply = gateway.get("/pets/42?a=b", value)
    assert (reply.status, reply.body, backend.count) == (200, b"ok", 1)
    (seen,) = backend.seen
    assert seen.path == "/pets/42?a=b" and value not in str(seen)
    claims = claims_by_pyjwt(home, seen.token)
    assert claims == claims_by_joserfc(gateway, seen.token)
    assert {
        "sub": "user_1",
        "org_id": "org_1",
        "permissions": ["pets:read"],
        "roles": ["member"],
    }.items() <= claims.items()
    assert claims["api_key_id"] == key.id and "aud" not in claims
    assert reply.header("X-Request-Id") == seen.values("X-Request-Id")[0] != "of-the-backend"
    for wrong in (None, value[:-1] + ("x" if value[-1] != "x" else "y"), "sk_other"):
        assert gateway.get("/pets/42", wrong).status == 401
    assert backend.count == 1
    gateway.stop()
    assert value not in gateway.output


def test_the_listeners_own_upstream_is_dead(start: Start, home: Home, tmp_path: object) -> None:
    """The live listener, not the option, points at the dead address: read in the process, from its server instance."""
    probe = home.folder / "probe.py"
    probe.write_text(
        "from mitmproxy import ctx\n"
        "def running():\n"
        "    found = [i.mode.full_spec for i in ctx.master.addons.get('proxyserver').servers]\n"
        "    print('LISTENER', found, flush=True)\n"
    )
    gateway = start("mitmdump", "-s", str(probe)).ready()
    assert "LISTENER ['reverse:http://127.0.0.1:9']" in gateway.stop()


def test_places_of_the_credential(swapping: Gateway, seen: list[Seen]) -> None:
    """A key in X-Api-Key arrives as a bearer token; two different credentials are refused, the same twice is one."""
    gateway, (_, one), (_, two) = swapping, swapping.home.key(), swapping.home.key()
    assert gateway.get("/", headers={"X-Api-Key": one}).status == 200
    assert gateway.get("/", one, headers={"X-Api-Key": one}).status == 200
    assert gateway.get("/", one, headers={"X-Api-Key": two}).code == "multiple-credentials"
    assert gateway.get("/", one, headers=[("Authorization", f"Bearer {one}")]).code == "multiple-credentials"
    assert [one.values("x-api-key") for one in seen] == [[], []]
    assert one not in str(seen)


def test_only_the_gate_speaks_for_the_caller(swapping: Gateway, value: str, seen: list[Seen]) -> None:
    """Headers that name a user, a proxy or another method, however spelled, do not reach the backend."""
    forged = {
        "X-User-Id": "root", "X_User_Id": "root", "x.org.id": "root", "X-Auth-Request-Email": "root",
        "X-Consumer-Name": "root", "X-Forwarded-For": "6.6.6.6", "X_Forwarded_For": "6.6.6.6",
        "Forwarded": "for=6.6.6.6",
        "X-Real-IP": "6.6.6.6", "X-Original-URL": "/admin", "X-Rewrite-URL": "/admin",
        "X-HTTP-Method-Override": "DELETE",
        "X-HTTP-Method": "DELETE", "X-Method-Override": "DELETE", "X-Request-Id": "forged", "Proxy-Authorization": "x",
        "TE": "trailers", "Keep-Alive": "timeout=5", "Connection": "X-Hop, keep-alive", "X-Hop": "1", "Upgrade": "h2c",
        "X-Fine": "stays", "Cookie": "a=b",
    }  # fmt: skip
    assert swapping.get("/", value, headers=forged).status == 200
    (sent,) = seen
    names = sorted(name.lower() for name, _ in sent.headers)
    ours = ["authorization", "host", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-request-id"]
    ours.append("traceparent")
    assert names == sorted([*ours, "x-fine", "cookie"])
    assert sent.values("x-forwarded-for") == ["127.0.0.1"] and sent.values("x-forwarded-proto") == ["http"]
    assert sent.values("x-forwarded-host") == [f"127.0.0.1:{swapping.port}"]
    assert sent.values("host") == [f"127.0.0.1:{swapping.home.upstream.rpartition(':')[2]}"]
    assert sent.values("x-request-id") != ["forged"]


def test_connection_cannot_remove_what_the_gate_sets(swapping: Gateway, value: str, seen: list[Seen]) -> None:
    """`Connection: authorization, content-length` removes neither the token nor a body's framing."""
    with Client(swapping.port) as client:
        named = {"Connection": "authorization, x-request-id, content-length, host"}
        assert client.ask("POST", "/", value, headers=named, body=b"GET /smuggled HTTP/1.1\r\n\r\n").status == 200
    (sent,) = seen
    assert sent.token and sent.values("x-request-id") and sent.body.startswith(b"GET /smuggled")


def test_trusted_proxies_are_believed(start: Start, home: Home, backend: Backend) -> None:
    """Behind a trusted proxy the client is the right-most foreign address, and its request id is kept."""
    home.write_policy("trusted_proxies: [127.0.0.0/8, 10.0.0.0/8]\nforwarded_host: keep\n")
    _, value = home.key(allow_ip=["203.0.113.0/24"])
    gateway = start().ready()
    forwarded = {
        "X-Forwarded-For": "6.6.6.6, 203.0.113.9, 10.1.1.1",
        "X-Request-Id": "r-1",
        "X-Forwarded-Proto": "https",
    }
    reply = gateway.get("/", value, headers=forwarded)
    assert (reply.status, reply.header("x-request-id")) == (200, "r-1")
    (seen,) = backend.seen
    assert seen.values("x-forwarded-for") == ["203.0.113.9"] and seen.values("x-forwarded-proto") == ["https"]
    assert seen.values("host") == [f"127.0.0.1:{gateway.port}"]
    assert gateway.get("/", value, headers={"X-Forwarded-For": "203.0.113.9, 8.8.8.8"}).status == 401
    assert gateway.get("/", value).status == 401


@pytest.mark.parametrize("size", [0, 5, 70_000, 3_000_000])
@pytest.mark.parametrize("chunked", [False, True])
def test_bodies_arrive_whole(size: int, chunked: bool, swapping: Gateway, value: str, seen: list[Seen]) -> None:
    """Small and large, declared and chunked bodies reach the backend unchanged."""
    body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    with Client(swapping.port) as client:
        if chunked:
            wire = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:9], body[9:]) if part) + b"0\r\n\r\n"
            connection = client._connection
            connection.putrequest("POST", "/up")
            connection.putheader("Authorization", f"Bearer {value}")
            connection.putheader("Transfer-Encoding", "chunked")
            connection.endheaders(wire)
            assert connection.getresponse().status == 200
        else:
            assert client.ask("POST", "/up", value, body=body).status == 200
    (sent,) = seen
    assert sent.body == body


@pytest.mark.parametrize("kind", ["mitmdump", "mitmweb"])
def test_server_sent_events_arrive_one_by_one(kind: str, start: Start, home: Home, backend: Backend) -> None:
    """Each event is with the caller before the backend sends the next."""
    _, value = home.key()
    gateway = start(kind).ready()
    with Client(gateway.port) as client:
        backend.go_on.release()
        response = client.begin("GET", "/events", value)
        for number in range(3):
            assert response.fp.readline() == b"data: %d\n" % number and response.fp.readline() == b"\n"
            backend.go_on.release()


def test_head_is_answered_without_a_body(swapping: Gateway, value: str) -> None:
    """A refused HEAD has the headers of the refusal and no body; the connection stays usable."""
    with Client(swapping.port) as client:
        refused = client.ask("HEAD", "/")
        assert (refused.status, refused.body, refused.header("content-type")) == (401, b"", "application/problem+json")
        assert client.ask("GET", "/", value).status == 200


def test_own_paths(swapping: Gateway, seen: list[Seen]) -> None:
    """Key set, configuration and health need no key, hide the backend's, are cacheable, and are read-only."""
    gateway, home = swapping, swapping.home
    keys = gateway.get("/.well-known/jwks.json?x")
    assert keys.status == 200 and len(keys.json["keys"]) == 1 and "d" not in keys.json["keys"][0]
    assert "max-age=" in str(keys.header("cache-control"))
    again = gateway.get("/.well-known/jwks.json", headers={"If-None-Match": str(keys.header("etag"))})
    assert (again.status, again.body) == (304, b"")
    configuration = gateway.get("/.well-known/openid-configuration").json
    assert configuration["issuer"] == home.issuer
    assert configuration["jwks_uri"] == f"{home.issuer}/.well-known/jwks.json"
    with Client(gateway.port) as client:
        posted = client.ask("POST", "/.well-known/jwks.json", body=b"{}")
    assert (posted.status, posted.code, posted.header("allow")) == (405, "method-not-allowed", "GET, HEAD")
    assert not seen


def test_decisions_are_one_json_line_each(start: Start, home: Home) -> None:
    """Each decision is a line with the contract's fields, with neither query nor key."""
    key, value = home.key(user_id="user_1")
    gateway = start("serve").ready()
    admitted = gateway.get("/pets?secret=1", value)
    refused = gateway.get("/pets", "ksw_live_nope")
    lines = [json.loads(line) for line in gateway.stop().splitlines() if line.startswith("{")]
    ready, *decisions = lines
    assert ready == {"event": "ready", "listen": f"127.0.0.1:{gateway.port}", "admin": None, "workers": 1}
    ours = [line for line in decisions if line["path"] == "/pets"]
    assert [line["decision"] for line in ours] == ["admit", "refuse"]
    assert ours[0]["key_id"] == key.id and ours[0]["user_id"] == "user_1" and ours[0]["status"] == 200
    assert ours[0]["request_id"] == admitted.header("x-request-id") and ours[0]["upstream_ms"] > 0
    assert ours[1]["code"] == "invalid-credential" and ours[1]["request_id"] == refused.header("x-request-id")
    assert set(ours[0]) == {
        "at", "request_id", "decision", "status", "code", "step", "reason", "shadow", "method", "path", "operation", "key_id",
        "org_id", "user_id", "agent", "session_id", "client", "gate_us", "upstream_ms", "trace_id",
    }  # fmt: skip


def test_serve_ends_on_a_signal(start: Start) -> None:
    """SIGTERM and SIGINT end `serve` with 0."""
    for how in (signal.SIGTERM, signal.SIGINT):
        gateway = start("serve").ready()
        gateway.process.send_signal(how)
        assert gateway.ended() == 0


def test_an_ipv6_caller(start: Start, home: Home, backend: Backend) -> None:
    """Over IPv6 the peer is the client, a key's allowed addresses hold, and nothing forged is believed."""
    _, ours = home.key(allow_ip=["::1/128"])
    _, others = home.key(allow_ip=["127.0.0.0/8", "2001:db8::/32"])
    gateway = start("serve", "--listen", f"[::1]:{home.port}")
    eventually("the gateway is ready", lambda: '"ready"' in gateway.output)
    for value, status in ((ours, 200), (others, 401)):
        with closing(http.client.HTTPConnection("::1", home.port, timeout=10)) as connection:
            forged = {"X-Forwarded-For": "2001:db8::1", "Forwarded": 'for="[2001:db8::1]"', "X-Real-IP": "2001:db8::1"}
            connection.request("GET", "/", headers={"Authorization": f"Bearer {value}", **forged})
            assert connection.getresponse().status == status
    assert [seen.values("x-forwarded-for") for seen in backend.seen] == [["::1"]]
    assert not backend.seen[0].values("forwarded") and not backend.seen[0].values("x-real-ip")
