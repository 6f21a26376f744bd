"""The configurations of `keyswap engine config`: a real proxy with them, in front of a real `keyswap authz`."""

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from harness import Backend, Client, Home, Reply, eventually, free_port
from keyswap.shell.engine.envoy_program import envoy_program
from questions import Authz
from raw import head, say

DOCUMENT = """openapi: 3.1.0
paths:
  /pets/{id}:
    get: {x-required-permissions: [read], parameters: [{name: id, in: path, required: true, schema: {type: integer}}]}
  /files/{name}: {get: {parameters: [{name: name, in: path, required: true, schema: {type: string}}]}}
  /notes: {post: {requestBody: {content: {text/plain: {}}}}}
  /open: {get: {security: []}}
"""
POLICY = """audience: api
openapi: {spec: api.yaml}
operations: [{match: 'GET /files/{name}', encoded_slash: allow}]
limits: [{name: few, by: [key], rate: 3/h, match: "GET /pets/{id}"}]
log: {decisions: decisions.jsonl}
max_body: 64KiB
"""
HANDSHAKE = (("Connection", "keep-alive, Upgrade"), ("Upgrade", "WebSocket"), ("Sec-WebSocket-Version", "13"))
KEY = ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
CADDY = shutil.which("caddy")
MAIN = """pid {folder}/nginx.pid;
error_log {folder}/nginx.log;
daemon off;
{user}
worker_processes 1;
events {{ }}
http {{
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/keyswap.conf;
}}
"""


def main_of(folder: Path) -> str:
    """nginx' main configuration: its workers may open the state directory's socket."""
    return MAIN.format(folder=folder, user="user root;" if os.getuid() == 0 else "")


class Edge:
    """A proxy that runs a generated configuration, and the authorizer that it asks."""

    def __init__(self, home: Home, proxy: str, stack: ExitStack) -> None:
        self.home, self.proxy, self.port = home, proxy, free_port()
        self.authz = Authz(home)
        stack.callback(self.authz.stop)
        self.authz.ready()
        self.file = home.folder / "keyswap.conf"
        home.run("engine", "config", proxy, "--listen", f"127.0.0.1:{self.port}", "-o", str(self.file))
        words = [str(CADDY), "run", "--adapter", "caddyfile", "--config", str(self.file)]
        command = self._nginx() if proxy == "nginx" else words
        with (home.folder / "edge.log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, env={"HOME": str(home.folder)})
        stack.callback(process.wait, 20)
        stack.callback(process.terminate)
        eventually("the proxy listens", self._listens)

    def _nginx(self) -> list[str]:
        main = self.home.folder / "nginx.conf"
        main.write_text(main_of(self.home.folder))
        return [str(NGINX), "-c", str(main), "-p", str(self.home.folder)]

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def get(
        self,
        path: str,
        key: str | None = None,
        *fields: tuple[str, str],
        method: str = "GET",
        body: bytes | None = None,
    ) -> Reply:
        with Client(self.port) as client:
            return client.ask(method, path, key, headers=fields, body=body)


@pytest.fixture(params=[("nginx", ""), ("caddy", "")], ids=["nginx", "caddy"])
def edge(request: pytest.FixtureRequest, home: Home) -> Iterator[Edge]:
    """Each proxy that is installed here."""
    proxy, more = request.param
    if {"nginx": NGINX, "caddy": CADDY}[proxy] is None:
        pytest.skip(f"there is no {proxy} on PATH: its configuration is run by nobody here")
    (home.folder / "api.yaml").write_text(DOCUMENT)
    home.write_policy(POLICY + more)
    with ExitStack() as stack:
        yield Edge(home, proxy, stack)


def test_a_key_becomes_a_token(edge: Edge, backend: Backend) -> None:
    """The backend gets the token, the id and who the caller is, and no key, wherever that stood; the caller gets its limits."""
    _, value = edge.home.key(permissions=["read"])
    for key, fields in ((value, ()), (None, (("X-Api-Key", value),))):
        reply = edge.get("/pets/7?x=%2f", key, *fields, ("Cookie", "a=b"), ("X-Other", "1"))
        assert reply.status == 200 and reply.body == b"ok"
        seen = backend.seen[-1]
        assert seen.path == "/pets/7?x=%2f" and seen.token.startswith("ey") and value not in str(seen)
        assert seen.values("x-request-id") == [reply.header("x-request-id")] != [None]
        assert [seen.values(f"x-forwarded-{name}") for name in ("for", "proto")] == [["127.0.0.1"], ["http"]]
        assert seen.values("x-forwarded-host") == [f"127.0.0.1:{edge.port}"]
        assert seen.values("host") == [backend.url.removeprefix("http://")]
        assert seen.values("cookie") == ["a=b"] and seen.values("x-other") == ["1"]
        assert seen.values("traceparent")
        assert reply.header("ratelimit") and reply.header("x-ratelimit-limit") == "3"
    assert edge.get("/open", None, ("Authorization", "Basic YTpi")).status == 200
    assert backend.seen[-1].values("authorization") == []


def test_refusals_keep_status_code_and_fields(edge: Edge, backend: Backend) -> None:
    """Each refusal has the gateway's status, code, id and fields as problem+json, and reaches no backend."""
    _, reads = edge.home.key(permissions=["read"])
    _, other = edge.home.key(permissions=[])
    refusals = [
        ("/pets/7", None, 401, "missing-credential"),
        ("/pets/7", reads[:-6] + "AAAAAA", 401, "invalid-credential"),
        ("/pets/7", other, 403, "missing-permission"),
        ("/nothing", reads, 404, "no-such-operation"),
        ("/a//b", reads, 400, "ambiguous-path"),
        ("//pets/7", reads, 400, "ambiguous-path"),
        ("/pets%2F7", reads, 400, "ambiguous-path"),
    ]
    for path, key, status, code in refusals:
        reply = edge.get(path, key)
        assert (reply.status, reply.code) == (status, code), (path, reply)
        assert reply.json["request_id"] == reply.header("x-request-id") and reply.json["status"] == status
        assert bool(reply.header("www-authenticate")) == (status in {401, 403})
        assert len([name for name, _ in reply.headers if name.lower() == "www-authenticate"]) <= 1
        line = edge.authz.decision(str(reply.header("x-request-id")))
        assert (line["code"], line["client"]) == (code, "127.0.0.1")
    assert edge.get("/pets/7", reads, method="DELETE").header("allow")
    assert backend.count == 0
    for _ in range(3):
        assert edge.get("/pets/7", reads).status == 200
    reply = edge.get("/pets/7", reads)
    assert (reply.status, reply.code) == (429, "rate-limited") and int(reply.header("retry-after") or 0) > 60
    assert reply.header("x-ratelimit-remaining") == "0" and backend.count == 3


def test_the_target_goes_on_byte_for_byte(edge: Edge, backend: Backend) -> None:
    """What is judged is what is forwarded: no target is decoded, and none is mended."""
    _, value = edge.home.key()
    for target in ("/files/a%2Fb?c=%2f//x&y=%41", "/files/%61b", "/files/a%20b?", "/files/a!b"):
        assert edge.get(target, value).status == 200, target
        assert backend.seen[-1].path == target
    for target in (
        "/files/../open",
        "/files/%2e%2e/open",
        "/open/",
        "/files/a;b",
        "/files/a%5Cb",
        "http://h/open",
        "*",
    ):
        heard = say(edge.port, head("GET", target, value, "Connection: close"))
        if heard.status == 200:  # Go's net/http takes the host out of an absolute target, before anybody judges it
            assert target == "http://h/open" and backend.seen.pop().path == "/open"
        else:
            assert heard.status is not None and heard.status >= 400, target
    assert backend.count == 4


FORGED = (
    *[(f"X-Original-{name}", "/open") for name in ("URI", "URL", "Host", "Proto")],
    *[("X-Original-Method", "GET"), ("X-Forwarded-Method", "GET"), ("X-Forwarded-Uri", "/open")],
    *[("X-Envoy-Internal", "true"), ("X-Forwarded-For", "10.1.2.3"), ("X-Forwarded-Host", "other.example")],
    *[("X-Forwarded-Proto", "https"), ("X-Real-IP", "10.1.2.3"), ("Forwarded", "for=10.1.2.3")],
    *[("X-Request-Id", "mine"), ("X-User-Id", "root"), ("X-Org-Id", "org_2"), ("Remote-User", "root")],
    *[("X_User_Id", "root"), ("X.User.Id", "root"), ("X-HTTP-Method-Override", "PUT")],
)


def test_what_speaks_for_the_caller_is_gone(edge: Edge, backend: Backend) -> None:
    """Identity, and what a proxy would say of a request, go no further, and change nothing of what is judged."""
    _, value = edge.home.key(permissions=["read"])
    assert edge.get("/pets/7", None, *FORGED).status == 401
    assert edge.get("/pets/7", value, *FORGED).status == 200
    seen = backend.seen[-1]
    said = [one for name, one in seen.headers if name.lower() not in {"authorization", "host"}]
    assert not {*said} & {
        "/open",
        "10.1.2.3",
        "for=10.1.2.3",
        "other.example",
        "https",
        "mine",
        "root",
        "org_2",
        "true",
        "PUT",
    }
    assert seen.values("x-forwarded-for") == ["127.0.0.1"]
    count = backend.count
    reply = edge.get("/pets/7", value, ("X-User-Anything-New", "root"), ("X-Forwarded-New", "1"))
    if reply.status == 200:
        assert not backend.seen[-1].values("x-user-anything-new") and not backend.seen[-1].values("x-forwarded-new")
    else:
        assert (reply.status, reply.code, backend.count) == (400, "invalid-request", count)


def test_the_gateways_own_paths_are_answered(edge: Edge, backend: Backend) -> None:
    """Key set and health come from the gateway as requests: in no spelling, and with no field, they become a question."""
    _, value = edge.home.key(permissions=["read"])
    for path in ("/.well-known/jwks.json", "/.well-known/openid-configuration", "/.well-known/keyswap/health"):
        assert edge.get(path).status == 200
    etag = str(edge.get("/.well-known/jwks.json").header("etag"))
    assert edge.get("/.well-known/jwks.json", None, ("If-None-Match", etag)).status == 304
    questions = (
        (("X-Forwarded-Method", "GET"), ("X-Forwarded-Uri", "/pets/7")),
        (("X-Original-Method", "GET"), ("X-Original-Uri", "/pets/7")),
        (("X-Envoy-Internal", "true"),),
    )
    for fields in ((), *questions):
        for path in (
            "/.well-known/jwks.json",
            "/.well-known/./jwks.json",
            "/%2ewell-known/jwks.json",
            "/.WELL-KNOWN/jwks.json",
        ):
            reply = edge.get(path, value, *fields)
            assert reply.header("authorization") is None and reply.header("x-envoy-auth-headers-to-remove") is None
            assert reply.status in {200, 400, 404}, (path, reply)
    assert (
        edge.get("/.keyswap/question", value).status == 404 and edge.get("/.keyswap/forward-auth", value).status == 404
    )
    assert backend.count == 0


def test_bodies_go_on_and_have_their_bound(edge: Edge, backend: Backend) -> None:
    """A body reaches the backend whole; one over `max_body` is 413."""
    _, value = edge.home.key()
    body = bytes(range(256)) * 100
    assert edge.get("/notes", value, ("Content-Type", "text/plain"), method="POST", body=body).status == 200
    assert backend.seen[-1].body == body
    reply = edge.get("/notes", None, method="POST", body=body)
    assert (reply.status, backend.count) == (401, 1)
    reply = edge.get("/notes", value, method="POST", body=bytes(65 << 10))
    assert (reply.status, reply.code) == (413, "body-too-large")


def test_what_the_wire_carries(edge: Edge, backend: Backend) -> None:
    """Chunked bodies, HEAD and heads of up to `max_head` go on; a WebSocket's handshake does, and no other `Upgrade`."""
    _, value = edge.home.key()
    chunks = (b"Transfer-Encoding: chunked", b"", b"3\r\nabc\r\n0\r\n\r\n")
    raw = head("POST", "/notes", value, "Connection: close").removesuffix(b"\r\n") + b"\r\n".join(chunks)
    assert say(edge.port, raw).status == 200 and backend.seen[-1].body == b"abc"
    assert edge.get("/files/b", value, method="HEAD").status == 200 and backend.seen[-1].method == "HEAD"
    cookie = "a=" + "b" * (60 << 10)
    assert edge.get("/files/b", value, ("Cookie", cookie)).status == 200
    assert backend.seen[-1].values("cookie") == [cookie]
    reply = edge.get("/files/b", value, *[(f"Long-{number}", "b" * (30 << 10)) for number in range(3)])
    assert reply.status in {400, 431}
    for upgrade in ("h2c", "websocket"):
        fields = (*HANDSHAKE[2:], KEY, ("Connection", "Upgrade"), ("Upgrade", upgrade))
        extensions = ("Sec-WebSocket-Extensions", "permessage-deflate")
        assert edge.get("/files/b", value, *fields, extensions).status == 200
        assert backend.seen[-1].values("upgrade") == ([upgrade] if upgrade == "websocket" else [])
        assert backend.seen[-1].values("sec-websocket-extensions") == []
    count = backend.count
    reply = edge.get("/files/b", value, ("Connection", "X-Other"), ("X-Other", "1"))
    assert backend.seen[-1].values("x-other") == []
    assert (reply.status, backend.count) in {(400, count), (200, count + 1)}


TRUSTING = """trusted_proxies: [127.0.0.1/32]
forwarded_host: keep
sessions: [{issuers: ['https://a.example'], jwks_url: 'https://a.example/k', audiences: [a], read_from: [{cookie: s}]}]
"""


@pytest.mark.parametrize("edge", [("nginx", TRUSTING), ("caddy", TRUSTING)], indirect=True, ids=["nginx", "caddy"])
def test_behind_a_trusted_proxy(edge: Edge, backend: Backend) -> None:
    """Its client is the caller, the host is kept, and a cookie that may hold a session goes no further."""
    _, value = edge.home.key()
    fields = (("X-Forwarded-For", "10.9.9.9"), ("X-Forwarded-Proto", "https"), ("X-Request-Id", 'an"id'))
    reply = edge.get("/files/b", value, *fields, ("Cookie", "a=1; b=2"))
    assert reply.status == 200
    seen = backend.seen[-1]
    assert seen.values("x-forwarded-for") == ["10.9.9.9"] and seen.values("x-forwarded-proto") == ["https"]
    assert seen.values("host") == seen.values("x-forwarded-host") == [f"127.0.0.1:{edge.port}"]
    assert seen.values("cookie") == ["a=1; b=2"] and seen.values("x-request-id") == ['an"id']
    session = ("Cookie", "a=1; s=secret")
    assert edge.get("/open", None, *fields, session).status == 200
    assert backend.seen[-1].values("cookie") == ["a=1"]
    reply = edge.get("/files/b", None, *fields, session)
    assert reply.status in {401, 503} and reply.code and backend.count == 2


def test_without_the_authorizer_nothing_goes_on(edge: Edge, backend: Backend) -> None:
    """503 `gateway-unavailable`, also on the gateway's own paths; a backend that is gone is 502 `upstream-unavailable`."""
    _, value = edge.home.key(permissions=["read"])
    backend.close()
    reply = edge.get("/files/b", value)
    assert (reply.status, reply.code) == (502, "upstream-unavailable")
    edge.authz.stop()
    for path in ("/pets/7", "/open", "/.well-known/jwks.json"):
        reply = edge.get(path, value)
        assert (reply.status, reply.code, reply.header("retry-after")) == (503, "gateway-unavailable", "1")
    assert backend.count == 0


@pytest.mark.skipif(CADDY is None, reason="there is no caddy on PATH: nobody reads its configuration here")
@pytest.mark.parametrize(
    "more",
    [
        "",
        "forwarded_host: keep\ntrusted_proxies: [10.0.0.0/8]\nlimits: []\n",
        "sessions: [{issuers: ['https://a.example'], jwks_url: 'https://a.example/k', read_from: [{cookie: s}]}]\n",
    ],
)
def test_caddy_takes_its_configuration(home: Home, more: str) -> None:
    """`caddy validate` takes what is made of policies that say more."""
    home.write_policy(more, upstream="https://api.example.com")
    file = home.folder / "Caddyfile"
    file.write_text(home.run("engine", "config", "caddy"))
    command = [str(CADDY), "validate", "--adapter", "caddyfile", "--config", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, env={"HOME": str(home.folder)})
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(NGINX is None, reason="there is no nginx here")
@pytest.mark.parametrize(
    "more",
    [
        "",
        "forwarded_host: keep\nstrip_headers: [x-secret-*, x-mine, x.dotted]\ntrusted_proxies: [10.0.0.0/8]\nmax_head: 1MiB\n",
        "max_head: 1KiB\nmax_body: 1KiB\n",
    ],
)
def test_nginx_takes_its_configuration(home: Home, more: str) -> None:
    """`nginx -t` takes what is made of policies that say more, also for a backend with TLS and an authorizer over TCP."""
    home.write_policy(more, upstream="https://127.0.0.1:9443")
    authz = ("--authz", "127.0.0.1:9191") if "trusted_proxies" in more else ()
    (home.folder / "keyswap.conf").write_text(home.run("engine", "config", "nginx", *authz))
    main = home.folder / "nginx.conf"
    main.write_text(main_of(home.folder))
    done = subprocess.run(
        [str(NGINX), "-t", "-c", str(main), "-p", str(home.folder)], capture_output=True, text=True, timeout=30
    )
    if not Path("/etc/ssl/certs/ca-certificates.crt").exists():
        pytest.skip("this system's authorities stand elsewhere")
    assert done.returncode == 0 and "warn" not in done.stderr, done.stderr


JUDGED = """openapi: 3.1.0
paths:
  /pets/{id}: {get: {x-required-permissions: [read]}}
  /pets: {post: {requestBody: {required: true, content: {application/json: {schema: {required: [name]}}}}}}
"""


def test_envoy_runs_its_configuration(home: Home, backend: Backend) -> None:
    """Envoy with the generated file forwards what `keyswap authz` admits, with the token; what it refuses arrives as said;
    bodies are judged; own paths are answered; without the authorizer nothing goes on."""
    (home.folder / "api.yaml").write_text(JUDGED)
    home.write_policy("openapi: {spec: api.yaml, validate: {requests: enforce, max_body: 64KiB}}\n")
    _, value = home.key(permissions=["read"])
    port, program = free_port(), envoy_program()[0]
    home.run("engine", "config", "envoy", "--listen", f"127.0.0.1:{port}", "-o", str(home.folder / "envoy.yaml"))
    authz = Authz(home).ready()
    words = [str(program), "-c", str(home.folder / "envoy.yaml"), "--disable-hot-restart", "--concurrency", "1"]
    with (home.folder / "envoy.log").open("wb") as log:
        envoy = subprocess.Popen([*words, "--log-level", "warning"], stderr=log)
    try:
        eventually("it listens", lambda: listens(port))
        with Client(port) as client:
            reply = client.ask("GET", "/pets/7?x=%2f", value, headers={"X-User-Id": "1", "X-Forwarded-For": "9.9.9.9"})
            (seen,) = backend.seen
            assert reply.status == 200 and seen.path == "/pets/7?x=%2f" and seen.token.startswith("ey")
            assert value not in str(seen.headers) and not seen.values("x-user-id")
            assert seen.values("x-forwarded-for") == ["127.0.0.1"]
            refused = client.ask("GET", "/pets/7")
            assert refused.code == "missing-credential" and refused.header("x-request-id") == refused.json["request_id"]
            assert client.ask("GET", "/pets//7", value).code == "ambiguous-path"
        for body, status in ((b"{}", 400), (b'{"name": 1}', 200), (b"x" * 70_000, 413)):
            with Client(port) as client:
                sent = client.ask("POST", "/pets", value, headers={"Content-Type": "application/json"}, body=body)
                assert sent.status == status and (status == 200 or sent.code is not None)
        with Client(port) as client:
            assert client.ask("GET", "/.well-known/jwks.json").json["keys"]
            authz.stop()
            assert client.ask("GET", "/pets/7", value).code == "gateway-unavailable"
        assert backend.count == 2
    finally:
        envoy.kill()
        envoy.wait()
        authz.stop()


def listens(port: int) -> bool:
    """Whether somebody takes connections there."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_half_a_handshake_lets_no_upgrade_through(edge: Edge, backend: Backend) -> None:
    """A whole one reaches the backend; without its key, version or `Connection` the request goes on as any other."""
    _, value = edge.home.key(permissions=["read"])
    assert edge.get("/files/a", value, *HANDSHAKE, KEY).status == 200
    assert backend.seen[-1].values("upgrade") and backend.seen[-1].values("connection")[0].lower() == "upgrade"
    for fields in (HANDSHAKE, (*HANDSHAKE[:2], KEY), (*HANDSHAKE[1:], KEY), (*HANDSHAKE, (KEY[0], "short"))):
        assert edge.get("/files/a", value, *fields).status == 200
        assert backend.seen[-1].values("upgrade") == []
