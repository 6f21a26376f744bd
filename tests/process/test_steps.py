"""The step of refusals that are not the gate's own, and of the ends of streams: one in lines, metrics and explanations."""

import json
import re
import shutil
import socket
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing, suppress
from typing import Any

import pytest

from harness import Gateway, Home, eventually, free_port
from operators import Operator
from raw import Got, Heard, Recorder, connect, head, listen, say

Start = Callable[..., Gateway]

DOCUMENT = """
openapi: 3.1.0
info: {title: t, version: '1'}
paths:
  /{any}: {get: {x-required-permissions: []}}
  /judged:
    post:
      x-required-permissions: []
      requestBody: {content: {application/json: {schema: {type: object}}}}
"""
POLICY = """openapi: {spec: api.yaml, validate: {requests: enforce, max_body: 1KiB}}
hosts: [h, 127.0.0.1]
max_body: 1MiB
timeouts: {head: 1s, connect: 1s, response: 1s, idle: 1500ms}
"""
JSON = "Content-Type: application/json"
LARGE = b"x" * 2000


def behave(got: Got, connection: socket.socket) -> None:
    """A backend that says nothing, half of something, or no end."""
    if got.target == b"/doubled":
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok")
    if got.target == b"/half":
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
    elif got.target == b"/stream":
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
        with suppress(OSError):
            while True:
                connection.sendall(b"x" * 10)
                time.sleep(0.1)
    elif got.target == b"/gone":
        connection.shutdown(socket.SHUT_RDWR)
    else:
        connection.recv(1)


def request_id(heard: Heard) -> str:
    found = re.search(rb"(?i)x-request-id: ([0-9a-f]{24})", heard.data)
    assert found is not None, heard
    return found[1].decode()


def last_line(gateway: Gateway, wanted: str) -> Any:
    """The last line of a request, once it is one of a refusal."""
    lines = [json.loads(line) for line in gateway.output.splitlines() if wanted in line and line.startswith('{"at"')]
    return lines[-1] if lines and lines[-1]["code"] is not None else None


@pytest.mark.usefixtures("admin_token")
def test_refusals_beside_the_gate_name_one_step(start: Start, home: Home) -> None:
    """What is no HTTP, too large or too slow is refused by `wire`, what a step would not hold by that step, what the
    backend failed by `upstream`, and who is no caller any more by `principal`: in the decision line, the record and the
    metric, whether it was answered or cut."""
    (home.folder / "api.yaml").write_text(DOCUMENT)
    with closing(Recorder(behave)) as backend:
        home.upstream = backend.url
        operator = Operator(home, POLICY)
        key, value = home.key()
        gateway = start("serve").ready()
        operator.ready()
        port = gateway.port
        half = head("POST", "/judged", value, JSON, "Content-Length: 500") + b"{"
        cases = [
            ("wire", "invalid-request", b"GET / HTTP/1.1\r\nHost: h\r\nContent-Length: a\r\n\r\n"),
            ("wire", "invalid-request", b"GET /a HTTP/1.1\r\nHost: h\r\nX-Slow:"),
            ("wire", "invalid-request", half),
            ("wire", "method-not-allowed", head("TRACE", "/a", value)),
            ("wire", "misdirected-request", head("GET", "/a", value).replace(b"Host: h", b"Host: other")),
            ("wire", "headers-too-large", head("GET", "/" + "x" * 9000, value)),
            ("wire", "body-too-large", head("POST", "/judged", value, JSON, f"Content-Length: {2 << 20}")),
            ("validation", "body-too-large", head("POST", "/judged", value, JSON, "Content-Length: 2000") + LARGE),
            ("validation", "body-too-large", head("POST", "/judged", value, JSON, "Transfer-Encoding: chunked")
             + b"7d0\r\n" + LARGE + b"\r\n0\r\n\r\n"),
            ("validation", "invalid-request", head("POST", "/judged", value, JSON, "Content-Length: 2") + b"[]"),
            ("upstream", "upstream-timeout", head("GET", "/never", value)),
            ("upstream", "upstream-unavailable", head("GET", "/gone", value)),
            ("upstream", "upstream-unavailable", head("GET", "/doubled", value)),
            ("upstream", "upstream-timeout", head("GET", "/half", value)),
        ]  # fmt: skip
        told = [(step, code, request_id(say(port, raw))) for step, code, raw in cases]
        with connect(port) as caller:
            caller.sendall(head("GET", "/stream", value))
            begun = listen(caller, b"x" * 10)
            home.run("keys", "revoke", key.id)
            listen(caller)
        told.append(("principal", "invalid-credential", request_id(begun)))
        shutil.move(home.state / "keys.db", home.folder / "lost.db")
        eventually("it is gone", lambda: gateway.get("/a", value).code == "store-unavailable")
        told.append(("principal", "store-unavailable", request_id(say(port, head("GET", "/a", value)))))
        for step, code, wanted in told:
            line = eventually(f"{code} of {wanted} is written", lambda wanted=wanted: last_line(gateway, wanted))
            assert (line["step"], line["code"]) == (step, code), line
            assert line["status"] == 502 or code != "upstream-unavailable", line
            said = eventually("it is kept", lambda wanted=wanted, code=code: recorded(home, wanted, code))
            assert [row["step"] for row in said["steps"] if row["result"] == "refuse"] == [step], said
            assert said["remedy"]
        lines = [json.loads(text) for text in gateway.output.splitlines() if text.startswith('{"at"')]
        written = Counter((line["decision"], line["code"] or "none", line["step"] or "none") for line in lines)
        eventually(
            "all are counted",
            lambda: operator.metrics().by("keyswap_decisions_total", "decision", "code", "stage") == written,
        )


def recorded(home: Home, wanted: str, code: str) -> Any:
    """What `explain --request-id` says, once the refusal is kept."""
    done = home.done("explain", "--request-id", wanted, "--json")
    said = json.loads(done.out) if done.code in {0, 1} else None
    return said if said is not None and said["code"] == code else None


def test_a_backend_that_is_not_there(start: Start, home: Home) -> None:
    """No connection: `upstream`, after all steps of the gate."""
    home.write_policy(upstream=f"http://127.0.0.1:{free_port()}")
    _, value = home.key()
    gateway = start("serve").ready()
    wanted = request_id(say(gateway.port, head("GET", "/", value, "Connection: close")))
    assert eventually("it is written", lambda: last_line(gateway, wanted))["step"] == "upstream"
