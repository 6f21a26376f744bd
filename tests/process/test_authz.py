"""`keyswap authz`: every question of a proxy is answered as the request would be, and nothing else is let through."""

import os
import random
import signal
import socket
import stat
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import pytest

from harness import Gateway, Home, eventually, free_port
from questions import OF_ENVOY, PREFIX, Authz, question, values
from raw import Heard, head, say

DOCUMENT = """openapi: 3.1.0
paths:
  /pets/{id}:
    get: {x-required-permissions: [read], parameters: [{name: id, in: path, required: true, schema: {type: integer}}]}
    put:
      x-required-permissions: [write]
      parameters: [{name: id, in: path, required: true, schema: {type: integer}}]
      requestBody: {required: true, content: {application/json: {schema: {type: object, required: [name]}}}}
  /open: {get: {security: []}}
"""
POLICY = """audience: api
openapi: {spec: api.yaml, validate: {requests: enforce}}
log: {decisions: decisions.jsonl, retain: 1000}
cors: {preflight: answer, origins: ['https://page.example']}
"""


@pytest.fixture
def authz(home: Home) -> Iterator[Callable[..., Authz]]:
    """Start authorizers that are ended with the test."""
    (home.folder / "api.yaml").write_text(DOCUMENT)
    home.write_policy(POLICY)
    with ExitStack() as started:

        def begin(*words: str, workers: int = 1) -> Authz:
            made = Authz(home, *words, workers=workers)
            started.callback(made.stop)
            return made

        yield begin


def test_an_admitted_request_gets_its_token(home: Home, authz: Callable[..., Authz]) -> None:
    """200 says what the backend gets: the token in place of the key, the id; what else spoke for the caller is named."""
    key, value = home.key(permissions=["read"])
    running = authz().ready()
    heard = running.ask("GET", "/pets/7?x=%2f", value, "X-User-Id: 1", "X-Other: 2")
    assert heard.status == 200 and heard.data.endswith(b"\r\n\r\n")
    (bearer,) = values(heard, "authorization")
    assert bearer.startswith("Bearer ey") and value not in heard.data.decode()
    assert values(heard, "x-envoy-auth-headers-to-remove") == ["x-user-id,content-length"]
    assert values(heard, "x-forwarded-for") == ["10.0.0.9"]
    (request_id,) = values(heard, "x-request-id")
    line = running.decision(request_id)
    assert (line["decision"], line["key_id"], line["operation"], line["client"]) == (
        *("admit", key.id, "GET /pets/{id}", "10.0.0.9"),
    )


def test_a_key_in_its_own_header_goes_no_further(home: Home, authz: Callable[..., Authz]) -> None:
    """Nor does an anonymous caller's Authorization on a public operation, for which no token is set."""
    home.write_policy(POLICY + "api_keys: {read_from: [{header: X-Api-Key}]}\n")
    _, value = home.key(permissions=["read"])
    running = authz().ready()
    heard = running.ask("GET", "/pets/7", None, f"X-Api-Key: {value}")
    assert heard.status == 200 and values(heard, "x-envoy-auth-headers-to-remove") == ["x-api-key,content-length"]
    heard = running.ask("GET", "/open", None, "Authorization: Basic YTpi")
    assert heard.status == 200 and values(heard, "authorization") == []
    assert values(heard, "x-envoy-auth-headers-to-remove") == ["authorization,content-length"]


ASKED = [
    ("GET", "/pets/7", "reads", ()),
    ("HEAD", "/pets/7", "reads", ()),
    ("GET", "/pets/seven", "reads", ()),
    ("GET", "/pets/7/../8", "reads", ()),
    ("GET", "/pets%2f7", "reads", ()),
    ("GET", "/pets/7", None, ()),
    ("GET", "/pets/7", "made up", ()),
    ("GET", "/pets/7", "writes", ()),
    ("DELETE", "/pets/7", "reads", ()),
    ("GET", "/nothing", "reads", ()),
    ("GET", "/open", None, ()),
    ("GET", "/pets/7", "reads", ("X-Forwarded-Uri: /open",)),
    ("OPTIONS", "/pets/7", None, ("Origin: https://page.example", "Access-Control-Request-Method: GET")),
    ("OPTIONS", "/pets/7", None, ("Origin: https://other.example", "Access-Control-Request-Method: GET")),
    ("GET", "/pets/7", None, ("Origin: https://page.example",)),
    ("TRACE", "/pets/7", "reads", ()),
    ("GET", "/pets/7", "reads", ("Expect: something",)),
    ("PUT", "/pets/7", "writes", ("Content-Type: text/plain", "x-envoy-auth-partial-body: false")),
]


def said(heard: Heard) -> tuple[object, ...]:
    """What of a refusal is the same whoever carries it."""
    own = {"x-request-id", "connection", "content-length", "date", "server"}
    fields = {
        line.partition(b":")[0].lower().decode() for line in heard.data.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]
    }
    told = {name: values(heard, name) for name in fields - own}
    body = heard.data.partition(b"\r\n\r\n")[2]
    known = values(heard, "x-request-id")
    return heard.status, told, body.replace(known[0].encode() if known else b"-", b"ID")


def test_refusals_are_those_of_the_other_engine(
    home: Home, authz: Callable[..., Authz], start: Callable[..., Gateway]
) -> None:
    """Status, fields and body of whatever is refused or answered are what mitmdump's caller gets, but for the id."""
    keys = {"reads": home.key(permissions=["read"])[1], "writes": home.key(permissions=["write"])[1], None: None}
    keys["made up"] = keys["reads"][:-6] + "AAAAAA" if keys["reads"] else None
    gateway = start("mitmdump").ready()
    other = Home(home.folder, home.upstream)
    first = {}
    for number, (method, target, key, fields) in enumerate(ASKED):
        raw = head(method, target, keys[key], *fields, "Connection: close")
        first[number] = say(gateway.port, raw)
    gateway.stop()
    running = Authz(other).ready()
    try:
        for number, (method, target, key, fields) in enumerate(ASKED):
            heard, before = running.ask(method, target, keys[key], *fields), first[number]
            if before.status == 200:
                assert heard.status == 200, (method, target)
            else:
                assert said(heard) == said(before), (method, target, fields)
    finally:
        running.stop()


def test_bodies_are_judged_that_come(home: Home, authz: Callable[..., Authz]) -> None:
    """A body that the proxy sends is judged as it is forwarded; one that it keeps to itself is refused where it is judged."""
    _, value = home.key(permissions=["write"])
    running = authz().ready()
    fields = ("Content-Type: application/json", "x-envoy-auth-partial-body: false")
    assert running.ask("PUT", "/pets/7", value, *fields, body=b'{"name": "a"}').status == 200
    heard = running.ask("PUT", "/pets/7", value, *fields, body=b"{}")
    assert (heard.status, heard.code) == (400, "invalid-request") and b'"errors"' in heard.data
    assert running.ask("PUT", "/pets/7", value, *fields, body=b"{").status == 400
    heard = running.ask("PUT", "/pets/7", value, fields[0])
    assert (heard.status, heard.code) == (503, "gateway-unavailable")


def test_what_is_said_twice_is_refused(home: Home, authz: Callable[..., Authz]) -> None:
    """Joined credentials are several; a question that names its request in two ways is nobody's."""
    _, value = home.key(permissions=["read"])
    running = authz().ready()
    assert running.ask("GET", "/pets/7", None, f"Authorization: Bearer {value},Bearer x").code == "multiple-credentials"
    raw = question("GET", "/pets/7", value, *OF_ENVOY, "X-Forwarded-Method: GET", "X-Forwarded-Uri: /open")
    assert running.say(raw).status == 503
    raw = question("GET", "/.keyswap/forward-auth", value, "X-Forwarded-Method: GET", "X-Forwarded-Uri: /pets/7")
    assert running.say(raw).status == 200


def test_the_gateways_own_paths(home: Home, authz: Callable[..., Authz]) -> None:
    """Key set and health are answered as requests, with every field to be taken away; asked about they are refused."""
    running = authz().ready()
    for path in ("/.well-known/jwks.json", "/.well-known/keyswap/health"):
        heard = running.say(question("GET", path, "ksw_anything", "X-User-Id: 1"))
        assert heard.status == 200
        assert {"authorization", "x-user-id"} <= set(values(heard, "x-envoy-auth-headers-to-remove")[0].split(","))
        assert running.ask("GET", path).status == 503


def test_who_may_ask_over_tcp(home: Home, authz: Callable[..., Authz]) -> None:
    """Whoever is none of the trusted proxies is answered the gateway's own paths alone."""
    _, value = home.key(permissions=["read"])
    for trusted, status in (("", 503), ("trusted_proxies: [127.0.0.1/32]\n", 200)):
        home.write_policy(POLICY + trusted)
        port = free_port()
        running = authz("--listen", f"127.0.0.1:{port}").ready()
        assert running.told["listen"] == f"127.0.0.1:{port}"
        assert say(port, question("GET", "/pets/7", value, "Connection: close")).status == status
        assert say(port, question("GET", "/.well-known/keyswap/health", None, "Connection: close")).status == 200
        assert running.stop() == 0


NOT_HERE = {
    "openapi: {spec: api.yaml, prefix: /v1, strip_prefix: true}\n": "take a prefix away",
    "openapi: [{spec: api.yaml}, {spec: api.yaml, prefix: /b, upstream: 'http://127.0.0.1:9001'}]\n": "several upstreams",
    "limits: [{name: few, by: [key], concurrency: 3}]\n": "counts requests in flight",
    "openapi: {spec: api.yaml, validate: {responses: shadow}}\n": "sees no response",
}


@pytest.mark.parametrize("more", NOT_HERE)
def test_what_it_cannot_do_stops_its_start_and_no_reload_brings(
    home: Home, authz: Callable[..., Authz], more: str
) -> None:
    """One line says which part of the policy, and what to do; a reload keeps the policy that was in force."""
    (home.folder / "api.yaml").write_text(DOCUMENT)
    home.write_policy("audience: api\n" + more)
    stopped = authz()
    assert stopped.ended() == 3
    (line,) = stopped.output.splitlines()
    assert NOT_HERE[more] in line and f"{home.policy}:" in line and "keyswap serve" in line
    home.write_policy(POLICY)
    _, value = home.key(permissions=["read"])
    running = authz().ready()
    home.write_policy("audience: api\n" + more)
    eventually("it says so", lambda: NOT_HERE[more] in running.output)
    assert running.ask("GET", "/pets/7", value).status == 200


def test_the_socket_is_its_users_and_groups(home: Home, authz: Callable[..., Authz]) -> None:
    """Nobody else may open it; one that was left is replaced, one that is listened on is not; it is gone at the end."""
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(home.state / "authz.sock"))
    left.close()
    running = authz().ready()
    assert stat.S_IMODE(running.path.stat().st_mode) == 0o660
    second = authz()
    assert second.ended() == 3 and "authz.sock cannot be listened on" in second.output
    assert running.ask("GET", "/open").status == 200
    assert running.stop() == 0 and not running.path.exists()


def test_limits_are_exact_over_workers(home: Home, authz: Callable[..., Authz]) -> None:
    """Of 400 questions at once over four workers as many are admitted as the bucket holds, and a revoked key is none."""
    home.write_policy(POLICY + "limits: [{name: hour, by: [key], rate: 100/h}]\n")
    key, value = home.key(permissions=["read"])
    running = authz(workers=4).ready()

    def many(_number: int) -> list[int]:
        with closing(running.connect()) as connection:
            told = []
            for _ in range(40):
                connection.sendall(question("GET", PREFIX + "/pets/7", value, *OF_ENVOY))
                told.append(int(received(connection).split(b" ", 2)[1]))
            return told

    with ThreadPoolExecutor(10) as callers:
        found = [status for told in callers.map(many, range(10)) for status in told]
    assert (found.count(200), found.count(429)) == (100, 300)
    _, other = home.key(permissions=["read"])
    assert {running.ask("GET", "/pets/7", other).status for _ in range(12)} == {200}
    with home.ledger() as ledger:
        ledger.revoke(key.id, None, time.time())
    assert {running.ask("GET", "/pets/7", value).status for _ in range(12)} == {401}


def received(connection: socket.socket) -> bytes:
    """One answer, whole."""
    data = b""
    while b"\r\n\r\n" not in data:
        part = connection.recv(65536)
        assert part, data
        data += part
    before, _, body = data.partition(b"\r\n\r\n")
    length = int(before.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    while len(body) < length:
        body += connection.recv(65536)
    return before + b"\r\n\r\n" + body


@pytest.mark.skipif(sys.platform != "linux", reason="workers are found in /proc")
def test_a_killed_worker_is_replaced(home: Home, authz: Callable[..., Authz]) -> None:
    """The others answer meanwhile, and what asks the one that is gone gets no 200."""
    _, value = home.key(permissions=["read"])
    running = authz(workers=2).ready()
    before = set(running.workers)
    os.kill(min(before), signal.SIGKILL)
    eventually("another has taken its place", lambda: len(set(running.workers) - before) == 1)
    eventually("it answers", lambda: running.ask("GET", "/pets/7", value).status == 200)
    assert "another one takes its place" in running.output


def test_questions_behind_each_other_are_answered_in_turn(home: Home, authz: Callable[..., Authz]) -> None:
    """Also in one segment; a stop answers what was asked, and closes what waits for nothing."""
    _, value = home.key(permissions=["read"])
    running = authz().ready()
    with closing(running.connect()) as connection:
        asked = [question("GET", PREFIX + f"/pets/{number}", value, *OF_ENVOY) for number in (1, 2)]
        asked.append(question("GET", PREFIX + "/nothing", value, *OF_ENVOY))
        connection.sendall(b"".join(asked))
        told = b""
        while told.count(b"HTTP/1.1 ") < 3:
            told += connection.recv(65536)
        assert [part[:3] for part in told.split(b"HTTP/1.1 ")[1:]] == [b"200", b"200", b"404"]
        running.process.send_signal(signal.SIGTERM)
        assert connection.recv(1) == b""
    assert running.ended() == 0


GARBAGE = [
    b"\x16\x03\x01\x00\x05hello",
    b"GET /",
    b"GET / HTTP/9.9\r\n\r\n",
    b"\r\n\r\n",
    b"GET / HTTP/1.1\r\nA\x00: b\r\n\r\n",
]
GARBAGE += [b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!"]
GARBAGE += [b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"]
GARBAGE += [b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n"]


def test_garbage_is_never_let_through(home: Home, authz: Callable[..., Authz]) -> None:
    """Whatever bytes come, none is answered 200 that is not a question, and the next question is answered."""
    _, value = home.key(permissions=["read"])
    running = authz().ready()
    dice = random.Random(7)
    good = question("GET", PREFIX + "/pets/7", value, *OF_ENVOY)
    for raw in GARBAGE + [bytes(dice.randrange(256) for _ in range(dice.randrange(1, 200))) for _ in range(100)]:
        assert running.say(raw).status != 200, raw
    for at in range(0, len(good) - 1, 7):
        assert running.say(good[:at]).status != 200
    assert running.say(good).status == 200 and "exception" not in running.output


def test_commands_know_it(home: Home, authz: Callable[..., Authz]) -> None:
    """`status` and `explain --request-id` ask it as they ask any gateway."""
    _, value = home.key(permissions=["read"])
    running = authz(workers=2).ready()
    heard = running.ask("GET", "/pets/7", value)
    (request_id,) = values(heard, "x-request-id")
    told = home.json("status")
    assert told["pid"] == running.process.pid and len(told["workers"]["running"]) == 2
    running.decision(request_id)
    eventually("it can be explained", lambda: home.done("explain", "--request-id", request_id).code == 0)


def test_other_proxies_than_envoy_hear_yes_of_admitted_requests_alone(home: Home, authz: Callable[..., Authz]) -> None:
    """To nginx, Caddy and Traefik any 2xx means yes: neither a preflight nor an own path is answered them with one."""
    running = authz().ready()
    fields = ("X-Forwarded-Method: OPTIONS", "X-Forwarded-Uri: /pets/7", "Origin: https://page.example")
    heard = running.say(
        question(
            "GET", "/.keyswap/forward-auth", None, *fields, "Access-Control-Request-Method: GET", "Connection: close"
        )
    )
    assert heard.status == 403 and values(heard, "access-control-allow-origin") == ["https://page.example"]
    own = "/.well-known/keyswap/health"
    for asks in (("x-envoy-internal: true",), ("X-Original-Method: GET", f"X-Original-URI: {own}"), fields[:2]):
        assert running.say(question("GET", own, None, *asks, "Connection: close")).status != 200, asks


def test_a_websockets_handshake_is_asked_about_once(home: Home, authz: Callable[..., Authz]) -> None:
    """Its Upgrade is the request's, not the question's: one answer, and the connection goes on."""
    _, value = home.key(permissions=["read"])
    running = authz().ready()
    upgrade = (
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
    )
    with closing(running.connect()) as connection:
        for _ in range(3):
            connection.sendall(question("GET", PREFIX + "/pets/7", value, *OF_ENVOY, *upgrade))
            assert received(connection).startswith(b"HTTP/1.1 200 OK")


def test_fields_behind_a_body_are_none(home: Home, authz: Callable[..., Authz]) -> None:
    """A credential in a trailer is no credential, and more fields than a request may have are no question."""
    _, value = home.key(permissions=["read"])
    running = authz().ready()
    start = f"POST {PREFIX}/pets/7 HTTP/1.1\r\nHost: a\r\n".encode()
    chunked = start + b"Transfer-Encoding: chunked\r\n\r\n0\r\nAuthorization: Bearer " + value.encode() + b"\r\n\r\n"
    assert running.say(chunked).status == 400
    assert running.say(start + b"a: b\r\n" * 500 + b"\r\n").status == 400


def test_strangers_have_little_room(home: Home, authz: Callable[..., Authz]) -> None:
    """Who may not ask and reads nothing makes nothing grow; who asks for too much is closed; trust ends with a reload."""
    _, value = home.key(permissions=["read"])
    home.write_policy(POLICY + "trusted_proxies: [127.0.0.1/32]\n")
    port = free_port()
    running = authz("--listen", f"127.0.0.1:{port}").ready()
    asked = question("GET", "/pets/7", value, "X-Forwarded-For: 10.0.0.9")
    with socket.create_connection(("127.0.0.1", port), timeout=20) as proxy:
        proxy.sendall(asked)
        assert received(proxy).startswith(b"HTTP/1.1 200 OK")
        home.write_policy(POLICY)
        eventually(
            "it is in force", lambda: say(port, question("GET", "/pets/7", value, "Connection: close")).status == 503
        )
        proxy.sendall(asked)
        assert received(proxy).startswith(b"HTTP/1.1 503 ")
    before = memory(running)
    with socket.create_connection(("127.0.0.1", port), timeout=1) as flood, suppress(OSError):
        for _ in range(2000):
            flood.sendall(question("GET", "/.well-known/jwks.json", None) * 100)
    assert say(port, b"GET / HTTP/1.1\r\nHost: a\r\nA: " + b"x" * 100_000).status == 400
    assert say(port, question("GET", "/.well-known/keyswap/health", None)).status == 200
    assert memory(running) - before < 16 << 20
    with ExitStack() as idle:
        many = [idle.enter_context(socket.create_connection(("127.0.0.1", port), timeout=20)) for _ in range(80)]
        eventually("some are closed at once", lambda: any(is_closed(connection) for connection in many))
    eventually("there is room again", lambda: answers(port))


def is_closed(connection: socket.socket) -> bool:
    """Whether the other end has closed it."""
    connection.setblocking(False)
    try:
        return connection.recv(1) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def answers(port: int) -> bool:
    """Whether a stranger is answered."""
    with suppress(OSError):
        return say(port, question("GET", "/.well-known/keyswap/health", None)).status == 200
    return False


def memory(running: Authz) -> int:
    """Bytes that its workers have. Linux alone: elsewhere none."""
    if sys.platform != "linux":
        return 0
    texts = [Path(f"/proc/{pid}/status").read_text().partition("VmRSS:")[2] for pid in running.workers]
    return sum(int(text.split()[0]) for text in texts) << 10
