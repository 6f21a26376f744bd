"""Seeing decisions: what was decided can be explained, and what is decided followed, whichever process did it."""

import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest
from click.testing import CliRunner

from harness import Backend, Client, Gateway, Home, Reply, eventually, free_port
from keyswap.cli import cli
from keyswap.explain.recorded import explain_record
from keyswap.shell.decisions.reader import recorded

Start = Callable[..., Gateway]

DOCUMENT = {
    "openapi": "3.1.0",
    "info": {"title": "t", "version": "1"},
    "paths": {
        "/pets": {
            "get": {"operationId": "listPets", "x-required-permissions": ["pets:read"]},
            "post": {
                "operationId": "addPet",
                "x-required-permissions": ["pets:write"],
                "requestBody": {"required": True, "content": {"application/json": {"schema": {"type": "object"}}}},
            },
        },
        "/status": {"get": {"security": []}},
        "/traced": {
            "get": {
                "x-required-permissions": [],
                "parameters": [
                    {"name": "traceparent", "in": "header", "required": True, "schema": {"pattern": "^00-.{52}$"}}
                ],
            }
        },
    },
}
POLICY = """openapi: {spec: api.json, validate: {requests: enforce}}
limits: [{name: few, by: [key], rate: 1/d, burst: 30}, {name: one, by: [org], rate: 1/d, mode: shadow}]
timeouts: {connect: 1s}
"""


@pytest.fixture
def documented(home: Home) -> Home:
    (home.folder / "api.json").write_text(json.dumps(DOCUMENT))
    home.write_policy(POLICY)
    return home


def explained(home: Home, request_id: str | None) -> Any:
    """The explanation of a decision, which can be had within a second of it; without a process for each."""
    assert request_id is not None
    assert request_id is not None
    return explain_record(eventually(f"{request_id} is kept", lambda: recorded(home.state, request_id), 1.0))


def outcomes(told: Any) -> dict[str, str]:
    return {step["step"]: step["result"] for step in told["steps"]}


def test_any_process_can_explain_what_any_other_decided(start: Start, documented: Home, backend: Backend) -> None:
    """Decisions of two processes on one state directory are explained, while they run and when none does."""
    key, value = documented.key(user_id="user_1", permissions=["pets:read"])
    gateways = [start("mitmdump").ready(), start("mitmdump", port=free_port()).ready()]
    admitted = [gateway.get("/pets?secret=1", value) for gateway in gateways]
    refused = []
    for gateway in gateways:
        with Client(gateway.port) as client:
            refused.append(client.ask("POST", "/pets", value, body=b"{}"))
    for running in (True, False):
        for reply in admitted[running:]:
            explained(documented, reply.header("x-request-id"))
            told = documented.json("explain", "--request-id", str(reply.header("x-request-id")))
            assert (told["decision"], told["status"], told["code"]) == ("admit", 200, None)
            assert told["request_id"] == reply.header("x-request-id") and told["at"] > 1e9
            assert told["operation"]["operation_id"] == "listPets"
            assert told["operation"]["pointer"].endswith("#/paths/~1pets/get")
            assert told["principal"]["key_id"] == key.id and told["claims"]["permissions"] == ["pets:read"]
            assert set(outcomes(told).values()) == {"pass"} or outcomes(told)["limits"] == "shadow"
            assert all(step["us"] is None for step in told["steps"])
        for reply in refused[running:]:
            explained(documented, reply.header("x-request-id"))
            told = documented.json("explain", "--request-id", str(reply.header("x-request-id")), code=1)
            assert (told["decision"], told["status"], told["code"]) == ("refuse", 403, "missing-permission")
            assert list(outcomes(told).items())[4] == ("permission", "refuse")
            assert list(outcomes(told).values()) == ["pass"] * 4 + ["refuse"] + ["skip"] * 3
            assert f"keys update {key.id} --permission pets:read --permission pets:write" in told["remedy"]
        if running:
            for gateway in gateways:
                gateway.stop()
    whole = b"".join(file.read_bytes() for file in documented.state.glob("decisions.db*"))
    assert b"listPets" in whole and b"secret" not in whole and value.encode() not in whole


def test_each_kind_of_refusal_is_told_at_its_step(start: Start, documented: Home) -> None:
    """The record of a refusal says the same step, code and remedy as an explanation of it now would."""
    _, value = documented.key(permissions=["pets:read", "pets:write"])
    gateway = start("serve").ready()
    with Client(gateway.port) as client:
        cases: list[tuple[Reply, str, str]] = [
            (client.ask("GET", "/a/../b", value), "path", "ambiguous-path"),
            (client.ask("GET", "/pets", value, headers={"X-Api-Key": "b"}), "credential", "multiple-credentials"),
            (client.ask("GET", "/pets"), "credential", "missing-credential"),
            (client.ask("GET", "/pets", "ksw_live_x"), "principal", "invalid-credential"),
            (client.ask("GET", "/none", value), "operation", "no-such-operation"),
            (client.ask("PUT", "/pets", value), "operation", "method-not-allowed"),
            (client.ask("POST", "/pets", value, body=b"[]", headers={"Content-Type": "application/json"}),
             "validation", "invalid-request"),
            (client.ask("GET", "/" + "x" * 9000, value), "wire", "headers-too-large"),
        ]  # fmt: skip
        with Client(gateway.port) as other:
            while (last := other.ask("GET", "/pets", value)).status == 200:
                pass
        cases.append((last, "limits", "rate-limited"))
    for reply, step, code in cases:
        told = explained(documented, reply.header("x-request-id"))
        assert (told["code"], told["status"], reply.code) == (code, reply.status, code)
        results = list(outcomes(told).items())
        at = results.index((step, "refuse"))
        assert all(result in {"pass", "skip", "shadow"} for _, result in results[:at]), results
        assert all(result == "skip" for _, result in results[at + 1 :]) and told["remedy"], results
    with socket.create_connection(("127.0.0.1", gateway.port)) as wire:
        wire.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: a\r\n\r\n")
        malformed = re.search(rb"[0-9a-f]{24}", wire.recv(65536))
    assert malformed is not None
    assert outcomes(explained(documented, malformed[0].decode()))["wire"] == "refuse"
    public = explained(documented, gateway.get("/status").header("x-request-id"))
    assert outcomes(public)["principal"] == outcomes(public)["mint"] == "skip" and public["claims"] is None


def test_what_the_backend_failed_and_what_is_shadowed(start: Start, documented: Home) -> None:
    """An admitted request that its backend failed has a last step `upstream`; a step that only looks on is `shadow`."""
    _, value = documented.key(permissions=["pets:read"])
    documented.write_policy("mode: {permissions: shadow}\n" + POLICY, f"http://127.0.0.1:{free_port()}")
    gateway = start("serve").ready()
    told = explained(documented, gateway.get("/pets", value).header("x-request-id"))
    assert (told["decision"], told["status"], told["code"]) == ("admit", 502, "upstream-unavailable")
    assert told["steps"][-1]["step"] == "upstream" and told["steps"][-1]["result"] == "refuse" and told["remedy"]
    body = {"Content-Type": "application/json"}
    with Client(gateway.port) as client:
        reply = client.ask("POST", "/pets", value, body=b"{}", headers=body)
    told = explained(documented, reply.header("x-request-id"))
    assert (outcomes(told)["permission"], outcomes(told)["limits"]) == ("shadow", "shadow")


def test_what_is_not_kept_is_said(start: Start, home: Home) -> None:
    """An unknown id ends with 3 and one line that says why it may be so; wrong usage ends with 2."""
    for words in (["GET"], ["GET", "/", "--request-id", "x"], ["--request-id", "x", "--key", "key_1"]):
        assert CliRunner().invoke(cli, ["explain", *words]).exit_code == 2
    said = home.run("explain", "--request-id", "no\x1bsuch", code=3)
    assert "100000" in said and "log.retain" in said and said.count("\n") == 1 and "\x1b" not in said
    home.write_policy("log: {retain: 0}\n")
    assert "log.retain" in home.run("explain", "--request-id", "x", code=3)
    gateway = start("serve").ready()
    gateway.get("/")
    assert not list(home.state.glob("decisions*")) and "log.retain" in home.run("tail", code=3)


def test_a_reload_changes_how_much_is_kept(start: Start, home: Home) -> None:
    """Fewer are kept after a reload that says so, none after one that says 0, and then some again."""
    home.write_policy("log: {decisions: off, retain: 200}\n")
    gateway = start("serve").ready()

    def kept() -> int:
        with Client(gateway.port) as client:
            for _ in range(5):  # few enough: what comes within a twentieth of a second is one piece
                client.ask("GET", "/")
        if not (home.state / "decisions.db").exists():
            return 0
        with closing(sqlite3.connect(home.state / "decisions.db")) as connection:
            (count,) = connection.execute("SELECT count(*) FROM decisions").fetchone()
        return int(count)

    eventually("the bound is reached", lambda: kept() >= 200)
    assert max(kept() for _ in range(20)) <= 2 * 200
    for retain, most in ((20, 120), (0, 0)):
        home.write_policy(f"log: {{decisions: off, retain: {retain}}}\n")
        eventually(f"{retain} are kept", lambda most=most: kept() <= most)
    home.write_policy("log: {decisions: off, retain: 50}\n")
    eventually("some are kept again", lambda: kept() > 20)


def test_a_store_that_cannot_be_written_costs_no_request(start: Start, home: Home) -> None:
    """Where decisions can't be kept, requests go on, one line says so, and later ones are kept again by themselves."""
    _, value = home.key()
    gateway = start("serve").ready()
    (home.state / "decisions.db").write_text("in the way")
    assert {gateway.get("/", value).status for _ in range(50)} == {200}
    eventually("it is said", lambda: "are lost" in gateway.output)
    (home.state / "decisions.db").unlink()
    explained(home, gateway.get("/", value).header("x-request-id"))
    assert gateway.output.count("are lost") == 1


@contextmanager
def tailing(home: Home, *words: str) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """A `keyswap tail` that follows already, and its lines."""
    command = [sys.executable, "-m", "keyswap", "tail", "--state", str(home.state), "--policy", str(home.policy)]
    lines: list[str] = []
    with subprocess.Popen(
        [*command, *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=home.folder
    ) as process:
        reading = threading.Thread(target=lambda: lines.extend(process.stdout or ()))
        reading.start()
        try:
            yield process, lines
        finally:
            process.kill()
            reading.join()


def test_tail_follows_every_process(start: Start, home: Home) -> None:
    """New decisions of all processes come, one line each, as asked for, over rotations; Ctrl-C ends it quietly."""
    home.write_policy("log: {decisions: off, retain: 60}\n")
    _, value = home.key()
    key, other = home.key(org_id="org_2")
    gateways = [start("mitmdump").ready(), start("mitmdump", port=free_port()).ready()]
    old = gateways[0].get("/old", value).header("x-request-id")
    explained(home, old)
    with (
        tailing(home) as (process, lines),
        tailing(home, "--json", "--deny") as (_, denied),
        tailing(home, "--org", "org_2", "--key", key.id) as (_, theirs),
    ):
        for seen in (lines, denied, theirs):
            eventually("it follows", lambda seen=seen: gateways[0].get("/", other) and gateways[0].get("/") and seen)
        sent = []
        for number in range(150):
            reply = gateways[number % 2].get(f"/n/{number}", value if number % 3 else None)
            sent.append(str(reply.header("x-request-id")))
        last = str(gateways[1].get("/last", other).header("x-request-id"))
        eventually("all have come", lambda: all(one in "".join(lines) for one in (*sent, last)))
        whole = "".join(lines)
        assert [whole.count(one) for one in sent] == [1] * 150 and str(old) not in whole
        assert len([line for line in lines if " admit  200 - GET /n/" in line and "/org_1 " in line]) == 100
        eventually("refusals have come", lambda: all(one in "".join(denied) for one in sent[::3]))
        assert {json.loads(line)["code"] for line in denied} == {"missing-credential"}
        assert all("more" not in json.loads(line) for line in denied)
        eventually("theirs have come", lambda: last in "".join(theirs))
        assert all(f"{key.id}/org_2" in line for line in theirs)
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0 and not any("Abort" in line or "Traceback" in line for line in lines)


def test_tail_escapes_what_callers_chose(start: Start, home: Home) -> None:
    """A request id and a path with control characters move nobody's cursor."""
    home.write_policy("log: {decisions: off}\n")
    gateway = start("serve").ready()

    def asked() -> bool:
        with socket.create_connection(("127.0.0.1", gateway.port)) as wire:
            wire.sendall(b"GET /\x9b31m HTTP/1.1\r\nHost: x\r\n\r\n")
            return bool(wire.recv(65536))

    with tailing(home) as (_, lines):
        eventually("it follows", lambda: asked() and lines)
    assert "\x9b" not in "".join(lines) and "\\x9b31m" in lines[0]


def test_one_trace_goes_through(start: Start, documented: Home, backend: Backend) -> None:
    """The backend is in the caller's trace or in one that begins here; the judged header is the forwarded one."""
    _, value = documented.key(permissions=["pets:read"])
    gateway = start("serve").ready()
    parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"
    came = [("traceparent", parent), ("tracestate", "a=1")]
    told = explained(documented, gateway.get("/traced", value, headers=came).header("x-request-id"))
    assert told["trace_id"] == parent[3:35]
    assert backend.seen[-1].values("traceparent") == [parent] and backend.seen[-1].values("tracestate") == ["a=1"]
    for headers in ([], [*came, came[0]], [("traceparent", "00-x"), came[1]]):
        reply = gateway.get("/traced", value, headers=headers)
        (begun,) = backend.seen[-1].values("traceparent")
        assert reply.status == 200 and re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-01", begun) and begun != parent
        assert backend.seen[-1].values("tracestate") == []
        told = explained(documented, reply.header("x-request-id"))
        assert told["trace_id"] == begun[3:35] and begun[3:35] in gateway.output


def test_nothing_of_it_is_others_to_read(start: Start, home: Home) -> None:
    """The files of the store are the owner's alone, whatever the umask."""
    before = os.umask(0)
    try:
        gateway = start("mitmdump").ready()
    finally:
        os.umask(before)
    explained(home, gateway.get("/").header("x-request-id"))
    modes = {path.name: path.stat().st_mode & 0o777 for path in home.state.glob("decisions*")}
    assert modes == dict.fromkeys(("decisions.db", "decisions.db-wal", "decisions.db-shm"), 0o600)
