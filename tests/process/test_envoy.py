"""`serve --engine envoy`: the same decisions with Envoy in front, and nothing that no worker has admitted goes on."""

import http.client
import json
import os
import signal
import socket
import ssl
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from certificates import self_signed
from harness import Backend, Client, Gateway, Home, eventually, free_port
from raw import Got, Http2, Recorder, Stream, connect, head, listen, ok, say, tls

pytestmark = pytest.mark.skipif(os.uname().sysname != "Linux", reason="Envoy's wheel is for Linux")
Start = Callable[..., Gateway]
DOCUMENT = """openapi: 3.1.0
paths:
  /pets/{id}:
    get: {x-required-permissions: [read]}
  /pets:
    post:
      x-required-permissions: [write]
      requestBody: {required: true, content: {application/json: {schema: {type: object, required: [name]}}}}
"""
POLICY = """openapi: {spec: api.yaml, validate: {requests: enforce, max_body: 64KiB}}
log: {decisions: decisions.jsonl, retain: 1000}
"""


@pytest.fixture
def documented(home: Home) -> Home:
    """A home whose policy has a document."""
    (home.folder / "api.yaml").write_text(DOCUMENT)
    home.write_policy(POLICY)
    return home


def lines(home: Home) -> list[dict[str, object]]:
    """The decision lines so far."""
    file = home.folder / "decisions.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def line(home: Home, request_id: str | None) -> dict[str, object]:
    """The decision line of a request."""

    def found() -> list[dict[str, object]]:
        return [one for one in lines(home) if one["request_id"] == request_id]

    return dict(eventually(f"{request_id} has a line", found)[0])


def envoy_of(home: Home) -> dict[str, object]:
    """What `status` says of Envoy."""
    return dict(home.json("status")["engine"])


def test_a_key_arrives_as_a_jwt(start: Start, documented: Home, backend: Backend) -> None:
    """A caller with a key is admitted: the backend gets its token, its id and nothing of Envoy; the decision line has how
    it ended."""
    _, value = documented.key(permissions=["read"])
    gateway = start("envoy").ready()
    with Client(gateway.port) as client:
        reply = client.ask(
            "GET",
            "/pets/7?x=%2f",
            value,
            headers={"X-User-Id": "1", "X-Keyswap-Caller": "9.9.9.9|https|HTTP/1.1|||", "X-Keyswap-Exchange": "1"},
        )
    (seen,) = backend.seen
    assert reply.status == 200 and seen.path == "/pets/7?x=%2f" and seen.token.startswith("ey")
    assert value not in str(seen.headers) and not seen.values("x-user-id")
    assert not [name for name, _ in seen.headers if name.lower().startswith(("x-keyswap", "x-envoy"))]
    assert seen.values("x-forwarded-for") == ["127.0.0.1"] and seen.values("x-request-id") == [
        reply.header("x-request-id")
    ]
    assert not [name for name, _ in reply.headers if name.lower().startswith(("x-keyswap", "x-envoy"))]
    ended = line(documented, reply.header("x-request-id"))
    assert (ended["decision"], ended["status"], ended["client"]) == ("admit", 200, "127.0.0.1")
    assert isinstance(ended["upstream_ms"], float)


def test_refusals_are_the_gateways(start: Start, documented: Home, backend: Backend) -> None:
    """What a worker refuses, and what Envoy refuses by itself, is told in the gateway's words, with an id that its decision
    line has; nothing of it reaches the backend."""
    _, value = documented.key(permissions=["read"])
    gateway = start("envoy").ready()
    asked = {
        "missing-permission": head("POST", "/pets", value, "Content-Length: 2") + b"{}",
        "no-such-operation": head("GET", "/none", value),
        "ambiguous-path": head("GET", "/pets//7", value),
        "missing-credential": b"GET /pets/7 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        "headers-too-large": head("GET", "/pets/7", value, "X-Long: " + "a" * 70_000),
        "invalid-request": b"GET /pets/7 HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
    }
    for code, raw in asked.items():
        heard = say(gateway.port, raw)
        fields, _, body = heard.data.partition(b"\r\n\r\n")
        told = json.loads(body)
        assert told["code"] == code and heard.status == told["status"]
        assert b"content-type: application/problem+json" in fields.lower()
        assert f"x-request-id: {told['request_id']}".encode() in fields.lower()
        assert len(told["request_id"]) == 24 and line(documented, told["request_id"])["code"] == code
    assert backend.count == 0


def test_a_store_that_is_gone_is_said_to_be(start: Start, documented: Home, backend: Backend) -> None:
    """A refusal with 503 arrives as the worker says it, with its own code and id."""
    _, value = documented.key(permissions=["read"])
    gateway = start("envoy").ready()
    assert gateway.get("/pets/7", value).status == 200
    database = documented.state / "keys.db"
    database.rename(documented.state / "gone")
    reply = eventually("it is noticed", lambda: (one := gateway.get("/pets/7", value)).status == 503 and one)
    assert reply.code == "store-unavailable" and reply.header("retry-after") == "1"
    assert line(documented, reply.header("x-request-id"))["code"] == "store-unavailable"


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_bodies_are_judged_whole(start: Start, documented: Home, backend: Backend, framing: str) -> None:
    """A body is held up to the policy's bound and judged; one that fits goes on as it came, no other does."""
    _, value = documented.key(permissions=["write"])
    gateway = start("envoy", "--workers", "2").ready()

    def status(body: bytes) -> int | None:
        how = f"Content-Length: {len(body)}" if framing == "length" else "Transfer-Encoding: chunked"
        sent = body if framing == "length" else b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
        fields = ("Content-Type: application/json", how, "Connection: close")
        with connect(gateway.port) as caller:  # Envoy takes a caller that sends no more for one that has left
            caller.sendall(head("POST", "/pets", value, *fields) + sent)
            return listen(caller).status

    good = b'{"name": "%b"}' % (b"x" * 50_000)
    for _ in range(4):  # either worker may have judged the head
        assert [status(good), status(b"{}"), status(b"{"), status(b"x" * 70_000)] == [200, 400, 400, 413]
    assert [seen.body for seen in backend.seen] == [good] * 4
    eventually("each has a line", lambda: len(lines(documented)) == 16)
    assert sorted(str(one["code"]) for one in lines(documented)) == sorted(
        ["None"] * 4 + ["invalid-request"] * 8 + ["body-too-large"] * 4
    )


def test_nothing_passes_without_a_worker(start: Start, documented: Home, backend: Backend) -> None:
    """While a worker hangs, and while none is there, callers get 503 and the backend nothing; then all is as before."""
    _, value = documented.key(permissions=["read"])
    gateway = start("envoy").ready()
    (worker,) = [one["pid"] for one in documented.json("status")["workers"]["running"]]
    os.kill(worker, signal.SIGSTOP)
    held = threading.Thread(target=lambda: gateway.get("/pets/7", value))
    held.start()
    os.kill(worker, signal.SIGKILL)
    held.join()
    assert backend.count == 0
    eventually("another worker answers", lambda: gateway.get("/pets/7", value).status == 200)
    assert backend.count == 1


def ask_in_vain(client: Client, path: str, key: str) -> None:
    """Ask, and get no answer that ends."""
    with pytest.raises((OSError, http.client.HTTPException)):
        client.ask("GET", path, key)


def test_envoy_that_ends_is_replaced(start: Start, documented: Home, backend: Backend) -> None:
    """Envoy that is killed is replaced; the requests that it carried have ended, and their places are free."""
    documented.write_policy(POLICY + "limits: [{name: in-flight, by: [key], concurrency: 1}]\n")
    (documented.folder / "api.yaml").write_text(DOCUMENT + "  /events: {get: {}}\n")
    _, value = documented.key(permissions=["read"])
    gateway = start("envoy").ready()
    with Client(gateway.port) as client, ExitStack() as going_on:
        going_on.callback(backend.go_on.release, 3)
        sent = threading.Thread(target=ask_in_vain, args=(client, "/events", value))
        sent.start()
        eventually("it is open", lambda: backend.count == 1)
        assert gateway.get("/pets/7", value).code == "too-many-in-flight"
        os.kill(int(str(envoy_of(documented)["pid"])), signal.SIGKILL)
        sent.join()

        def answers() -> bool:
            try:
                return gateway.get("/pets/7", value).status == 200
            except OSError:
                return False

        eventually("another one answers", answers)
    assert envoy_of(documented)["restarts"] == 1


def test_envoy_ends_with_its_gateway(start: Start, documented: Home) -> None:
    """Killed or stopped, a gateway leaves no Envoy behind it; stopped no folder either, killed none for longer than until the
    next start."""
    folders = []
    for how in (signal.SIGTERM, signal.SIGKILL):
        gateway = start("envoy").ready()
        pid = int(str(envoy_of(documented)["pid"]))
        (folder,) = [Path(word).parent for word in command_of(pid) if word.endswith("envoy.json")]
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        gateway.stop(how)
        eventually(
            "Envoy has ended", lambda pid=pid: not Path(f"/proc/{pid}/cmdline").exists() or not command_of(pid)[0]
        )
        assert how == signal.SIGKILL or not folder.exists()
        folders.append(folder)
    start("envoy").ready()
    assert not any(folder.exists() for folder in folders)


def command_of(pid: int) -> list[str]:
    """The words of a process."""
    return Path(f"/proc/{pid}/cmdline").read_text().split("\0")


def test_a_stop_lets_requests_end(start: Start, documented: Home, backend: Backend) -> None:
    """A stream that is open at a stop comes to its end; nobody else is let in."""
    (documented.folder / "api.yaml").write_text(DOCUMENT + "  /events: {get: {}}\n")
    _, value = documented.key(permissions=["read"])
    gateway = start("envoy", "--grace", "20s").ready()
    with socket.create_connection(("127.0.0.1", gateway.port)) as caller:
        caller.settimeout(20)
        caller.sendall(head("GET", "/events", value))
        backend.go_on.release()
        received = caller.recv(1 << 16)
        gateway.process.send_signal(signal.SIGTERM)
        eventually("nobody is let in", lambda: refuses(gateway.port))
        backend.go_on.release(2)
        while data := caller.recv(1 << 16):
            received += data
    assert b"data: 2" in received and gateway.ended() == 0


def refuses(port: int) -> bool:
    """Whether a port takes no connection."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def test_a_policy_is_taken_without_a_break(start: Start, documented: Home, backend: Backend) -> None:
    """A new backend, prefix and bound are in force with the policy, in all workers; an open stream is not cut."""
    (documented.folder / "api.yaml").write_text(DOCUMENT + "  /events: {get: {}}\n")
    _, value = documented.key(permissions=["read"])
    gateway = start("envoy", "--workers", "2").ready()
    other = Backend(answer=b"other")
    with ExitStack() as stack, socket.create_connection(("127.0.0.1", gateway.port)) as stream:
        stack.callback(other.close)
        stack.callback(backend.go_on.release, 3)
        stream.sendall(head("GET", "/events", value))
        backend.go_on.release()
        stream.settimeout(20)
        assert b"data: 0" in listen(stream, b"data: 0").data
        changed = POLICY.replace(
            "api.yaml,", f"api.yaml, prefix: /v2, strip_prefix: true, upstream: '{other.url}', audience: a,"
        )
        documented.write_policy(changed + "audience: b\nmax_head: 8KiB\n")
        eventually("both took it", lambda: {gateway.get("/v2/pets/7?x=1", value).body for _ in range(8)} == {b"other"})
        assert {seen.path for seen in other.seen} == {"/pets/7?x=1"}
        assert gateway.get("/pets/7", value).status == 404
        backend.go_on.release(2)
        assert b"data: 2" in listen(stream, b"data: 2").data


def test_a_body_of_unknown_length_has_a_bound(start: Start, home: Home, backend: Backend) -> None:
    """`max_body` bounds a body whose length nobody has said, to the byte, and one that is declared."""
    home.write_policy("max_body: 10KiB\n")
    _, value = home.key()
    gateway = start("envoy").ready()

    def status(size: int, framing: str) -> int | None:
        body = b"x" * size
        sent = body if "Length" in framing else b"%x\r\n%b\r\n0\r\n\r\n" % (size, body)
        with connect(gateway.port) as caller:
            caller.sendall(head("POST", "/any", value, framing, "Connection: close") + sent)
            return listen(caller).status

    chunked = "Transfer-Encoding: chunked"
    asked = [(10_240, chunked), (10_241, chunked), (400_000, chunked), (10_240, "Content-Length: 10240")]
    assert [status(*one) for one in asked] == [200, 413, 413, 200]
    assert status(0, "Content-Length: 10241") == 413 and [len(seen.body) for seen in backend.seen] == [10_240] * 2


def test_a_body_by_http2_without_a_length_has_it_too(start: Start, documented: Home, backend: Backend) -> None:
    """By HTTP/2, whatever the method, a body that nobody has declared is bounded and judged; without one all is as ever."""
    (documented.folder / "api.yaml").write_text(DOCUMENT.replace("  /pets:\n", "  /pets:\n    delete: {}\n"))
    documented.write_policy(POLICY + "max_body: 10KiB\n")
    _, value = documented.key(permissions=["read", "write"])
    certificate = self_signed(documented.folder, "gateway")
    gateway = start("envoy", certificate=certificate).ready()

    def status(method: str, target: str, body: bytes | None, *fields: tuple[str, str]) -> int | None:
        with tls(gateway.port, certificate, "h2") as connection:
            caller = Http2(connection)
            stream = caller.ask(method, target, value, *fields, ends=body is None)
            if body is not None:
                caller.h2.send_data(1, body, end_stream=True)
                caller.flush()
            caller.until(lambda: stream.ended)
            return stream.status

    json_ = ("content-type", "application/json")
    assert [status("GET", "/pets/7", None), status("DELETE", "/pets", None)] == [200, 200]
    assert status("POST", "/pets", b'{"name": 1}', json_) == 200 and status("POST", "/pets", b"{}", json_) == 400
    assert [status(method, "/pets/7", b"x" * 12_000) for method in ("GET", "HEAD")] == [413, 413]
    assert [(seen.method, seen.body) for seen in backend.seen] == [
        ("GET", b""),
        ("DELETE", b""),
        ("POST", b'{"name": 1}'),
    ]


def test_what_envoy_refuses_holds_nothing(start: Start, documented: Home, backend: Backend) -> None:
    """A body that cannot be read, found while a worker admits its head: its place is free, it has one line, nothing stays."""
    documented.write_policy(POLICY + "limits: [{name: in-flight, by: [key], concurrency: 2}]\n")
    _, value = documented.key(permissions=["read"])
    gateway = start("envoy").ready()
    for _ in range(12):
        heard = say(gateway.port, head("GET", "/pets/7", value, "Transfer-Encoding: chunked") + b"zz\r\n")
        assert heard.status in {400, 429}

    def is_free() -> bool:
        return all(row["level"] == 0 for row in documented.json("limits", "list")["data"])

    eventually("nothing is in flight", is_free)
    assert gateway.get("/pets/7", value).status == 200
    eventually("each has one line", lambda: len(lines(documented)) == 13)


def test_own_paths_are_no_questions(start: Start, documented: Home) -> None:
    """The key set and health are answered as what they are, whatever fields a caller or a proxy in front writes."""
    gateway = start("envoy").ready()
    asked = {"X-Forwarded-Method": "GET", "X-Forwarded-Uri": "/a", "X-Original-URL": "/b", "X-Envoy-Internal": "true"}
    with Client(gateway.port) as client:
        for path in ("/.well-known/jwks.json", "/.well-known/keyswap/health", "/.well-known/jwks.json?x"):
            reply = client.ask("GET", path, headers=asked)
            assert reply.status == 200 and "Bearer" not in str(reply.headers)
            assert not [name for name, _ in reply.headers if name.lower().startswith(("x-keyswap", "x-envoy"))]
        assert client.ask("GET", "/.keyswap/engine/pets/7").status == 401  # judged as any path
    assert not [one for one in lines(documented) if one["decision"] == "admit"]


def test_a_proxy_in_front_says_how_it_was_asked(start: Start, home: Home, backend: Backend) -> None:
    """What a trusted proxy says of its caller is what the backend hears; of anybody else it is not."""
    _, value = home.key()
    for trusted, heard in (("[127.0.0.0/8]", ("https", "9.9.9.9")), ("[]", ("http", "127.0.0.1"))):
        home.write_policy(f"trusted_proxies: {trusted}\n")
        gateway = start("envoy").ready()
        with Client(gateway.port) as client:
            client.ask("GET", "/", value, headers={"X-Forwarded-Proto": "https", "X-Forwarded-For": "9.9.9.9"})
        seen = backend.seen[-1]
        assert seen.values("x-forwarded-proto") == [heard[0]] and seen.values("x-forwarded-for") == [heard[1]]
        gateway.stop()


def test_heads_that_hops_read_differently_are_refused(start: Start, home: Home, backend: Backend) -> None:
    """Codings of HTTP/1.0, absolute targets, CONNECT, bytes that no URL has: refused at once, and nothing is forwarded."""
    _, value = home.key()
    gateway = start("envoy").ready()
    key = f"Authorization: Bearer {value}\r\nConnection: close\r\n\r\n".encode()
    for raw in (
        b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n" + key + b"0\r\n\r\n",
        b"GET http://evil/ HTTP/1.1\r\nHost: a\r\n" + key,
        b"CONNECT 127.0.0.1:1 HTTP/1.1\r\nHost: 127.0.0.1:1\r\n" + key,
        b"GET /\xff HTTP/1.1\r\nHost: a\r\n" + key,
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n" + key,
    ):
        assert say(gateway.port, raw, patience_s=5).data.split(b" ")[1] == b"400", raw
    assert backend.count == 0


@pytest.mark.timing
def test_one_request_after_the_other_never_meets_itself(start: Start, documented: Home) -> None:
    """A caller that may have one request in flight, and sends the next when the last is answered, is never refused."""
    documented.write_policy(POLICY + "limits: [{name: in-flight, by: [key], concurrency: 1}]\n")
    _, value = documented.key(permissions=["read"])
    gateway = start("envoy", "--workers", "2").ready()
    with Client(gateway.port) as client:
        assert {client.ask("GET", "/pets/7", value).status for _ in range(500)} == {200}


def test_a_renewed_certificate_is_shown(start: Start, documented: Home, tmp_path: Path) -> None:
    """A certificate that is renewed in its file is the one that new callers get, over HTTP/1.1 and HTTP/2."""
    certificate = self_signed(tmp_path, "gateway")
    gateway = start("envoy", certificate=certificate).ready()

    def shown(protocol: str) -> bytes | None:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_alpn_protocols([protocol])
        with connect(gateway.port) as plain, context.wrap_socket(plain) as connection:
            assert connection.selected_alpn_protocol() == protocol
            return connection.getpeercert(binary_form=True)

    before = shown("h2")
    renewed = self_signed(tmp_path, "renewed")
    renewed.with_suffix(".key").replace(certificate.with_suffix(".key"))
    renewed.replace(certificate)
    eventually("it is the new one", lambda: shown("http/1.1") != before)


def test_what_cannot_start_says_why(documented: Home, tmp_path: Path) -> None:
    """Without Envoy, with one that is too old or none, at an address that is taken, with a policy that it cannot serve: one
    line that says what to do, and exit code 3."""
    old = tmp_path / "old"
    old.write_text("#!/bin/sh\necho 'old  version: abc/1.30.2/Clean/RELEASE/BoringSSL'\n")
    old.chmod(0o755)
    taken = socket.create_server(("127.0.0.1", 0))
    address = f"127.0.0.1:{taken.getsockname()[1]}"

    def said(*words: str, policy: str = POLICY) -> str:
        documented.write_policy(policy)
        command = [
            "serve",
            "--engine",
            "envoy",
            "--workers",
            "1",
            *(words or ("--listen", f"127.0.0.1:{documented.port}")),
        ]
        error = documented.run(*command, code=3, process=True)
        assert len(error.splitlines()) == 1, error
        return error

    with taken:
        assert "cannot be listened on" in said("--listen", address)
    assert "policy.yaml:6: " in said(policy=POLICY + "max_body: 1GiB\n")
    from keyswap.model import StateError
    from keyswap.shell.engine import envoy_program as program

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(program, "find_spec", lambda _name: None)
        patched.setattr(sys, "executable", str(tmp_path / "python"))
        patched.setenv("ENVOY", str(old))
        with pytest.raises(StateError, match=r"is Envoy 1\.30\.2.*1\.39\.1 or newer.*keyswap\[envoy\]"):
            program.envoy_program()
        patched.delenv("ENVOY")
        patched.setenv("PATH", str(tmp_path))
        with pytest.raises(StateError, match=r"there is none: install it with .*keyswap\[envoy\]"):
            program.envoy_program()
        patched.setenv("ENVOY", "/bin/true")
        with pytest.raises(StateError, match="does not say which version"):
            program.envoy_program()


def test_metrics_count_what_envoy_carries(start: Start, documented: Home, backend: Backend, admin_token: str) -> None:
    """Responses, requests in flight and restarts of Envoy are counted; without one the gateway is not ready."""
    port = free_port()
    (documented.folder / "api.yaml").write_text(DOCUMENT + "  /events: {get: {}}\n")
    documented.write_policy(POLICY + f"admin: {{listen: '127.0.0.1:{port}'}}\n")
    _, value = documented.key(permissions=["read"])
    gateway = start("envoy").ready()

    def page(target: str = "/metrics") -> str:
        with Client(port) as client:
            return client.ask("GET", target).body.decode()

    assert gateway.get("/pets/7", value).status == 200
    with connect(gateway.port) as stream:
        stream.sendall(head("GET", "/events", value))
        eventually("it is in flight", lambda: "keyswap_requests_in_flight 1" in page())
        os.kill(int(str(envoy_of(documented)["pid"])), signal.SIGKILL)
        backend.go_on.release(3)
    eventually("another one was started", lambda: "keyswap_engine_restarts_total 1" in page())
    assert 'keyswap_responses_total{class="2xx"} 1' in page() and "keyswap_requests_in_flight 0" in page()
    eventually("it is ready", lambda: '"ready": true' in page("/readyz"))


FEED = """  /events:
    get:
      responses: {"200": {$ref: "#/components/responses/Feed"}}
  /other:
    get:
      responses:
        "200":
          description: a number
          content: {application/json: {schema: {type: integer}}}
components: {responses: {Feed: {description: events, content: {text/event-stream; charset=utf-8: {}}}}}
"""


def test_a_documented_stream_of_events_ends_with_its_key(start: Start, documented: Home, backend: Backend) -> None:
    """Whatever its caller accepts, since the document says what it is; its line has its caller, and how it ended."""
    (documented.folder / "api.yaml").write_text(DOCUMENT + FEED)
    key, value = documented.key()
    gateway = start("envoy").ready()
    with connect(gateway.port) as caller:
        caller.sendall(head("GET", "/events", value))
        backend.go_on.release()
        heard = listen(caller, b"data: 0\n\n")
        assert heard.status == 200 and heard.has(b"Transfer-Encoding: chunked")
        request_id = heard.data.lower().partition(b"x-request-id: ")[2][:24].decode()
        documented.run("keys", "revoke", key.id)
        began = time.monotonic()
        assert listen(caller, b"0\r\n\r\n").data.endswith(b"0\r\n\r\n") and time.monotonic() - began < 2

    def decisions() -> list[tuple[object, object]]:
        return [(one["decision"], one["client"]) for one in lines(documented) if one["request_id"] == request_id]

    told = [("admit", "127.0.0.1"), ("refuse", "127.0.0.1")]
    eventually("both lines are there", lambda: decisions() == told)


def test_responses_are_looked_at(start: Start, documented: Home, backend: Backend) -> None:
    """Where the policy wants that, one that is not as documented is logged; the caller gets it as it came."""
    (documented.folder / "api.yaml").write_text(DOCUMENT + FEED)
    documented.write_policy(POLICY.replace("max_body", "responses: shadow, max_body"))
    _, value = documented.key()
    gateway = start("envoy").ready()
    backend.content_type, backend.answer = "application/json", b'"a"'
    assert gateway.get("/other", value).body == b'"a"'
    eventually(
        "it is logged", lambda: "a response of GET /other with status 200 is not as documented" in gateway.output
    )
    assert backend.seen[-1].values("x-forwarded-for") == ["127.0.0.1"]


def test_a_proxy_that_is_gone_is_said_to_be(start: Start, tmp_path: Path) -> None:
    """Its open request is refused with 503 and has a line; those that come wait for the next one, and go on."""
    go_on = threading.Event()

    def wait(got: Got, caller: socket.socket) -> None:
        go_on.wait()
        ok(got, caller)

    with closing(Recorder(wait)) as backend:
        home = Home(tmp_path, backend.url)
        home.write_policy("log: {decisions: decisions.jsonl, retain: 1000}\n")
        _, value = home.key()
        gateway = start("envoy", home=home).ready()
        (proxy,) = home.json("status")["workers"]["proxies"]
        with connect(gateway.port) as caller, connect(gateway.port) as later:
            caller.sendall(head("GET", "/pets/7", value, "Accept: text/event-stream"))
            eventually("it is there", lambda: backend.requests)
            os.kill(proxy["pid"], signal.SIGSTOP)
            later.sendall(head("GET", "/pets/8", value, "Accept: text/event-stream"))
            os.kill(proxy["pid"], signal.SIGKILL)
            refused = listen(caller, b"}")
            go_on.set()
            assert listen(later, b"ok").status == 200
        assert (refused.status, refused.code) == (503, "gateway-unavailable")
        request_id = refused.data.lower().partition(b"x-request-id: ")[2][:24].decode()
        assert line(home, request_id)["code"] == "gateway-unavailable"
        assert [got.target for got in backend.requests] == [b"/pets/7", b"/pets/8"]


def test_status_names_the_engine(start: Start, documented: Home) -> None:
    """`status` says which Envoy runs, and where callers connect."""
    gateway = start("envoy").ready()
    told = documented.json("status")
    assert told["listen"] == [f"127.0.0.1:{gateway.port}"] and told["engine"]["name"] == "envoy"
    assert f"envoy {told['engine']['version']}, pid {told['engine']['pid']}" in documented.run("status")
    version = subprocess.run(
        [f"/proc/{told['engine']['pid']}/exe", "--version"], capture_output=True, text=True, check=True
    )
    assert told["engine"]["version"] in version.stdout


def test_places_outlive_the_worker_that_gave_them(start: Start, tmp_path: Path) -> None:
    """While a request is on its way its place is taken, though the worker that admitted it is killed, and the next one too;
    with its end, or Envoy's, it is free."""
    go_on = threading.Semaphore(0)

    def wait(got: Got, caller: socket.socket) -> None:
        if got.target == b"/slow":
            go_on.acquire()
        ok(got, caller)

    with closing(Recorder(wait)) as backend:
        home = Home(tmp_path, backend.url)
        home.write_policy("limits: [{name: one, by: [key], concurrency: 1}]\n")
        _, value = home.key()
        gateway = start("envoy", "--workers", "2", home=home).ready()

        def status() -> int:
            return gateway.get("/", value).status

        for ends_with_envoy in (False, True, False):  # the second Envoy's exchanges outlive workers too
            eventually("its place is free", lambda: status() == 200)
            with connect(gateway.port) as caller:
                caller.sendall(head("GET", "/slow", value))
                eventually("it is there", lambda: backend.requests and backend.requests[-1].target == b"/slow")
                assert status() == 429
                for _ in range(2):
                    replace_workers(home)
                    assert [status() for _ in range(20)] == [429] * 20
                if ends_with_envoy:
                    os.kill(int(str(envoy_of(home)["pid"])), signal.SIGKILL)
                    eventually("another one is there", lambda: reached(gateway))
                go_on.release()
                if not ends_with_envoy:
                    assert listen(caller, b"ok").status == 200
                eventually("it is free", lambda: status() == 200)


def replace_workers(home: Home) -> None:
    """Kill all that decide, and wait for others."""

    def running() -> set[int]:
        return {worker["pid"] for worker in home.json("status")["workers"]["running"]}

    before = running()
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    eventually("others are there", lambda: len(running() - before) == len(before))


def reached(gateway: Gateway) -> bool:
    """Whether it answers."""
    try:
        return gateway.get("/.well-known/keyswap/health").status == 200
    except OSError:
        return False


@pytest.mark.parametrize("hides", ["Content-Length", "Transfer-Encoding"])
@pytest.mark.parametrize("target", ["/pets", "/none"])
def test_a_body_whose_length_is_hidden_goes_nowhere(
    start: Start, home: Home, backend: Backend, hides: str, target: str
) -> None:
    """What `Connection` names is gone before anybody asks: a body that would lose its length so is refused."""
    (home.folder / "api.yaml").write_text(DOCUMENT.replace("required: true, ", "") + "  /none: {post: {}}\n")
    home.write_policy(POLICY)
    _, value = home.key(permissions=["read", "write"])
    gateway = start("envoy").ready()
    framing, body = "Content-Length: 2", b"{}"
    if hides == "Transfer-Encoding":
        framing, body = "Transfer-Encoding: chunked", b"2\r\n{}\r\n0\r\n\r\n"
    fields = ("Content-Type: application/json", f"Connection: close, {hides}", framing)
    with connect(gateway.port) as caller:
        caller.sendall(head("POST", target, value, *fields) + body)
        assert (heard := listen(caller)).code == "invalid-request", heard
    assert backend.count == 0
    with connect(gateway.port) as caller:
        caller.sendall(head("POST", "/none", value, f"Connection: close, {hides}"))
        assert listen(caller).status == 200


@pytest.mark.parametrize("target", [b"/pets/\xff", b"/pe\xffts/7", b"/pets/\xc3\xa9"])
def test_bytes_that_are_none_of_a_target_go_nowhere(
    start: Start, documented: Home, backend: Backend, tmp_path: Path, target: bytes
) -> None:
    """By HTTP/2 they can be sent, and Envoy would ask about another target than it sends on: they are refused before."""
    _, value = documented.key(permissions=["read"])
    certificate = self_signed(tmp_path, "listener")
    gateway = start("envoy", certificate=certificate).ready()
    with tls(gateway.port, certificate, "h2") as connection:
        caller = Http2(connection)
        caller.h2.config.validate_outbound_headers = caller.h2.config.normalize_outbound_headers = False
        fields = [(b":method", b"GET"), (b":path", target), (b":scheme", b"https"), (b":authority", b"h")]
        caller.streams[1] = stream = Stream()
        caller.h2.send_headers(1, [*fields, (b"authorization", b"Bearer " + value.encode())], end_stream=True)
        caller.flush()
        caller.until(lambda: stream.ended or stream.reset is not None or caller.goaway is not None)
    assert stream.status == 400 and b"invalid-request" in stream.body and backend.count == 0
