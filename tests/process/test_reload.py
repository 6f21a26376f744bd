"""Policy reload and signing-key rotation under load."""

import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

import jwt
import pytest
from joserfc import jwt as jose
from joserfc.jwk import KeySet

from certificates import self_signed
from harness import Backend, Client, Gateway, Home, eventually
from raw import Got, Recorder, answer, head, listen

Start = Callable[..., Gateway]


@contextmanager
def load(gateway: Gateway, value: str) -> Iterator[list[int]]:
    """Requests over two connections for as long as the block lasts; their statuses."""
    stop, statuses = threading.Event(), list[int]()

    def go_on() -> None:
        with Client(gateway.port) as client:
            while not stop.is_set():
                statuses.append(client.ask("GET", "/", value).status)

    threads = [threading.Thread(target=go_on) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield statuses
    finally:
        stop.set()
        for thread in threads:
            thread.join()


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
def test_a_signing_key_rotates_without_a_refused_token(
    algorithm: str, start: Start, home: Home, backend: Backend
) -> None:
    """Before, during and after a rotation under load, two JWT libraries that cache the key set accept every token."""
    home.write_policy(f"tokens: {{algorithm: {algorithm}, ttl: 2s}}\n")
    _, value = home.key()
    gateway = start("serve", "--workers", "2").ready()
    caching = jwt.PyJWKClient(f"{home.issuer}/.well-known/jwks.json", lifespan=2)
    kids: list[str] = []
    checked = 0

    def check() -> None:
        nonlocal checked
        fresh, checked = backend.seen[checked:], len(backend.seen)
        keys = KeySet.import_key_set(gateway.get("/.well-known/jwks.json").json)
        for token in {seen.token for seen in fresh}:
            key = caching.get_signing_key_from_jwt(token)
            jwt.decode(token, key, algorithms=[algorithm], issuer=home.issuer, leeway=5)
            jose.decode(token, keys, algorithms=[algorithm])
            kid = str(jwt.get_unverified_header(token)["kid"])
            if kid not in kids:
                kids.append(kid)

    with load(gateway, value) as statuses:
        eventually("some requests", lambda: len(statuses) > 20)
        check()
        home.run("signing", "rotate", "--lead", "3s")
        assert sorted(key["state"] for key in home.json("signing", "list")["data"]) == ["active", "next"]

        def rotated() -> bool:
            check()
            return len(kids) == 2

        eventually("the new key signs", rotated)
        assert sorted(key["state"] for key in home.json("signing", "list")["data"]) == ["active", "retiring"]
        check()
    assert set(statuses) == {200}
    if algorithm == "EdDSA":
        home.run("signing", "rotate", "--now")
        gateway.get("/", value)
        assert jwt.get_unverified_header(backend.seen[-1].token)["kid"] not in kids
        assert len(gateway.get("/.well-known/jwks.json").json["keys"]) == 1


def test_a_signing_key_that_is_dropped_while_a_body_comes(start: Start, home: Home, backend: Backend) -> None:
    """A request whose body is judged is signed for when that is whole: by the key that is in force then."""
    (home.folder / "api.yaml").write_text(JUDGED)
    home.write_policy("tokens: {algorithm: EdDSA}\nopenapi: {spec: api.yaml, validate: {requests: enforce}}\n")
    _, value = home.key()
    gateway = start().ready()
    body = b'{"name": "x"}'
    head = f"POST /pets HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {value}\r\nContent-Type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=10) as sent:
        sent.sendall(f"{head}Expect: 100-continue\r\nContent-Length: {len(body)}\r\n\r\n".encode())
        assert listen(sent, b"\r\n\r\n").status == 100, "the head has been judged"
        sent.sendall(body[:5])
        home.run("signing", "rotate", "--now", "--algorithm", "EdDSA")
        sent.sendall(body[5:])
        assert sent.recv(12) == b"HTTP/1.1 200"
    (fresh,) = gateway.get("/.well-known/jwks.json").json["keys"]
    assert jwt.get_unverified_header(backend.seen[-1].token)["kid"] == fresh["kid"]


def test_a_policy_is_taken_without_a_failed_request(start: Start, home: Home, backend: Backend) -> None:
    """Good and bad policies alternate under load: no request fails, and each good policy takes effect."""
    _, value = home.key()
    gateway = start("serve", "--workers", "2").ready()
    with load(gateway, value) as statuses:
        for number in range(4):
            home.write_policy(f"audience: aud-{number}\n")

            def taken(number: int = number) -> bool:
                return bool(backend.seen) and audience(backend) == f"aud-{number}"

            eventually("the policy is in force", taken)
            home.policy.write_text("nonsense: [")
            eventually("the bad one is seen", lambda: home.json("status")["policy"]["reload_error"])
    assert set(statuses) == {200} and len(statuses) > 50


JUDGED = """
openapi: 3.1.0
paths:
  /pets:
    post: {requestBody: {required: true, content: {application/json: {schema: {required: [name]}}}}}
"""

WHOLE = {
    "api.yaml": (
        "openapi: 3.1.0\npaths:\n  /:\n    get:\n      operationId: root\n",
        "      x-required-permissions: [admin]\n",
    ),
    "policy.yaml": ("openapi: {spec: api.yaml}\noperations:\n  - match: GET /\n", "    require: [admin]\n"),
}


@pytest.mark.parametrize("name", WHOLE)
def test_a_half_written_file_is_not_taken(name: str, start: Start, home: Home) -> None:
    """A document or policy that is written in two goes is in force whole or not at all, whenever it is looked at."""
    _, value = home.key()
    (home.folder / "api.yaml").write_text("".join(WHOLE["api.yaml"] if name == "api.yaml" else WHOLE["api.yaml"][:1]))
    home.write_policy("".join(WHOLE["policy.yaml"]) if name == "policy.yaml" else "openapi: {spec: api.yaml}\n")
    gateway = start("serve", "--workers", "2").ready()
    file = home.folder / name if name == "api.yaml" else home.policy
    whole = file.read_text()
    at = whole.index(WHOLE[name][1])
    with load(gateway, value) as statuses:
        for number in range(4):
            before = gateway.output.count("is in force")
            with file.open("w") as out:
                out.write(f"# {number}\n{whole[:at]}")
                out.flush()
                time.sleep(0.45)
                out.write(whole[at:])
            eventually("it is in force", lambda before=before: gateway.output.count("is in force") > before)
    assert set(statuses) == {403}


@contextmanager
def hanging(home: Home, gateway: Gateway) -> Iterator[None]:
    """A reload that waits for a document, for as long as the block lasts."""
    with socket.create_server(("127.0.0.1", 0)) as mute:
        mute.settimeout(10)
        home.write_policy(f"openapi: {{spec: 'http://127.0.0.1:{mute.getsockname()[1]}/api.yaml'}}\n")
        with mute.accept()[0]:
            yield
            assert "in force" not in gateway.output, "the reload has ended meanwhile"


def test_a_reload_that_hangs_leaves_the_stores_tended(start: Start, home: Home) -> None:
    """While a document does not come stores are looked after, and a control socket that was lost is made again."""
    home.key()
    gateway = start().ready()
    with hanging(home, gateway):
        (home.state / "control.sock").unlink()
        eventually("it is there again", (home.state / "control.sock").exists, 5)
        (home.state / "keys.db").rename(home.folder / "keys.db")
        eventually("the loss is told", lambda: "requests with a credential are refused" in gateway.output, 5)


def test_a_reload_that_hangs_leaves_the_certificate_tended(start: Start, home: Home) -> None:
    """While a document does not come a renewed certificate is taken."""
    certificate, other = self_signed(home.folder, "gateway"), self_signed(home.folder, "other")
    gateway = start("serve", "--tls-cert", str(certificate), "--tls-key", str(certificate.with_suffix(".key")))
    eventually("it listens", lambda: '"ready"' in gateway.output)
    wanted = other.read_text()
    with hanging(home, gateway):
        other.with_suffix(".key").replace(certificate.with_suffix(".key"))
        other.replace(certificate)
        address = ("127.0.0.1", gateway.port)
        eventually("it is shown", lambda: ssl.get_server_certificate(address).split() == wanted.split(), 5)


def test_a_response_is_judged_and_told_by_the_policy_that_admitted_its_request(start: Start, home: Home) -> None:
    """A response that comes after a reload is checked by the document, carries the limit headers and has the decision
    line of the policy under which its request was admitted."""
    answers = threading.Event()

    def behave(_got: Got, connection: socket.socket) -> None:
        answers.wait(30)
        connection.sendall(answer(b'{"id": "secret"}', b"Content-Type: application/json"))

    (home.folder / "api.yaml").write_text(DOCUMENTED)
    with closing(Recorder(behave)) as backend:
        home.upstream = backend.url
        limited = "limits: [{name: a, by: [key], rate: 9/s}]\nlimit_headers: x\n"
        home.write_policy(f"openapi: {{spec: api.yaml, validate: {{responses: shadow}}}}\n{limited}")
        _, value = home.key()
        gateway = start().ready()
        with socket.create_connection(("127.0.0.1", gateway.port), timeout=10) as caller:
            caller.sendall(head("GET", "/a", value))
            eventually("the request is with its backend", lambda: backend.requests)
            home.write_policy("")
            eventually("the next policy is in force", lambda: "is in force" in gateway.output)
            answers.set()
            heard = listen(caller, b"secret")
        gateway.stop()
    names = {line.partition(b":")[0].lower() for line in heard.data.split(b"\r\n")}
    assert heard.status == 200 and b"x-ratelimit-limit" in names and b"ratelimit" not in names
    (line,) = [json.loads(line) for line in gateway.output.splitlines() if line.startswith('{"at"')]
    assert (line["path"], line["operation"], line["status"]) == ("/a", "GET /a", 200)
    steps = {one["step"]: one["result"] for one in home.json("explain", "--request-id", line["request_id"])["steps"]}
    assert (steps["operation"], steps["limits"], steps["validation"]) == ("pass", "pass", "skip")
    assert "a response of GET /a with status 200 is not as documented: body /id" in gateway.output


DOCUMENTED = """
openapi: 3.1.0
paths:
  /a:
    get:
      responses:
        "200":
          description: x
          content: {application/json: {schema: {properties: {id: {type: integer}}}}}
"""


def audience(backend: Backend) -> object:
    return jwt.decode(backend.seen[-1].token, options={"verify_signature": False}).get("aud")
