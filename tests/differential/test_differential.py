"""Requests in odd spellings, direct and through a gateway, before unmodified applications with their own documents."""

import http.client
import json
import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from harness import PATIENCE_S, ROOT, Gateway, Home
from tests.differential.backends import KNOWN, PROGRAMS, lacks, running, written
from tests.differential.document import broken
from tests.differential.spellings import (
    Sent,
    generated,
    has_empty_number,
    has_escaped_literal,
    has_null,
    has_odd_numeral,
    lawful,
)

NUMBER = int(os.environ.get("KEYSWAP_DIFFERENTIAL") or 200)
"""Requests in all, shared by the applications."""


@dataclass(frozen=True)
class Kept:
    """What a backend and the gateway read differently, and the standard that says who is right."""

    standard: str
    fault: str
    """How the difference begins."""
    where: Callable[[Sent], bool]


KEPT = (
    Kept(
        "RFC 8259 §6, and of OpenAPI 3.0 JSON Schema Wright-00 §4.2: an integer has no plus, no leading zero, no fraction, no exponent",
        "refused invalid-request",
        has_odd_numeral,
    ),
    Kept(
        "JSON Schema Validation §6.1.1: null is no string and no integer; Go and PHP take it for a member that is not there",
        "refused invalid-request",
        has_null,
    ),
    Kept(
        "OpenAPI 3.1 §4.8.12.2, RFC 6570 §3.2.8: what is sent empty is sent, and no integer; Go and PHP take it for absent",
        "refused invalid-request",
        has_empty_number,
    ),
    Kept(
        "RFC 3986 §6.2.2.2: an escaped letter is that letter; Express does not undo it in literals, and finds no handler",
        "admitted, and the backend has no handler for it: 404",
        has_escaped_literal,
    ),
)


@dataclass(frozen=True)
class Answer:
    """A response, and the handler that made it."""

    status: int
    body: bytes
    request_id: str | None

    @property
    def refused(self) -> str | None:
        """The code of a refusal of the gateway."""
        found = self._json().get("type")
        return (
            found.removeprefix("urn:keyswap:problem:")
            if isinstance(found, str) and found.startswith("urn:keyswap")
            else None
        )

    @property
    def handler(self) -> str | None:
        return self._json().get("handler") if self.status < 300 else None

    @property
    def values(self) -> dict[str, Any]:
        found: dict[str, Any] = self._json()["values"]
        return {name: value.strip() if name == "amount" and isinstance(value, str) else value
                for name, value in (found or {}).items() if value is not None}  # fmt: skip

    def _json(self) -> dict[str, Any]:
        try:
            found = json.loads(self.body)
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}


def asked(port: int, wire: bytes) -> Answer:
    """Send the bytes as they are over a connection of their own."""
    with socket.create_connection(("127.0.0.1", port), PATIENCE_S) as connection:
        connection.sendall(wire)
        response = http.client.HTTPResponse(connection)
        try:
            response.begin()
            return Answer(response.status, response.read(), response.getheader("X-Request-Id"))
        except (http.client.HTTPException, OSError):
            return Answer(400, b"", None)


def judged(log: Path) -> dict[str, str]:
    """The operation that the gateway judged, by request id."""
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    return {line["request_id"]: line["operation"] for line in lines}


def difference(sent: Sent, direct: Answer, through: Answer, operation: str | None) -> str | None:
    """What is wrong about how the gateway took a request; None: nothing."""
    if through.refused is None:
        if through.handler is None:
            return f"admitted, and the backend has no handler for it: {through.status}; judged as {operation}"
        if through.handler != operation:
            return f"judged as {operation}, handled as {through.handler}"
        fault = broken(through.handler, through.values)
        if fault is not None:
            return f"admitted, and {through.handler} read {through.values}: not {fault}"
        same = direct.values == through.values or lawful(sent) is not None  # what the law takes away, a backend misses
        return None if same else f"direct {direct.values}, through {through.values}"
    if direct.handler is None or broken(direct.handler, direct.values) is not None or lawful(sent) is not None:
        return None
    return f"refused {through.refused}, though {direct.handler} reads {direct.values}: {through.body.decode()}"


def kept(sent: Sent, fault: str) -> bool:
    """Whether a standard says that the gateway is right."""
    return any(fault.startswith(row.fault) and row.where(sent) for row in KEPT)


@pytest.fixture(params=list(KNOWN))
def found(request: pytest.FixtureRequest, tmp_path: Path, engine: str) -> Iterator[Callable[[], list[str]]]:
    """Asks an application all its requests; the differences."""
    if program := lacks(request.param):
        pytest.skip(f"{program} is not installed: scripts/test installs it where it can")
    application = KNOWN[request.param]()
    seed = list(KNOWN).index(request.param)
    with running(application, tmp_path / "application.log") as backend:
        home = Home(tmp_path, f"http://127.0.0.1:{backend}")
        spec = written(application, tmp_path)
        home.write_policy(
            f"openapi: {{spec: {spec}, validate: {{requests: enforce}}}}\nlog: {{decisions: decisions.jsonl}}\n"
        )
        _, key = home.key(permissions=["read"])
        gateway = Gateway(home, engine).ready()

        def ask() -> list[str]:
            tags = b"tag[]" if request.param == "php" else b"tag"
            requests = generated(seed, NUMBER // len(KNOWN), tags)
            pairs = [(sent, asked(backend, sent.wire(key)), asked(gateway.port, sent.wire(key))) for sent in requests]
            gateway.stop()
            operations = judged(tmp_path / "decisions.jsonl")
            faults = [(sent, difference(sent, direct, through, operations.get(through.request_id or "")))
                      for sent, direct, through in pairs]  # fmt: skip
            admitted = sum(through.refused is None for *_, through in pairs)
            assert admitted > len(pairs) / 10, "hardly a request was admitted: nothing is compared"
            return [f"{sent}\n   {fault}" for sent, fault in faults if fault is not None and not kept(sent, fault)]

        yield ask
        gateway.stop()


def test_what_applications_run_on_is_installed_or_missed() -> None:
    """Each program that an application runs on is one that scripts/test installs, or says to be missing."""
    text = (ROOT / "scripts" / "test").read_text()
    assert [program for program in PROGRAMS.values() if f"command -v {program} >" not in text] == []


@pytest.mark.slow
def test_what_is_admitted_is_what_was_judged(found: Callable[[], list[str]]) -> None:
    """A request that the gateway admits reaches the handler that it judged, with values that its document allows; what
    it refuses, the document forbids or a law names. Before FastAPI, Flask, Express, Go and PHP."""
    differences = found()
    assert not differences, "\n".join(differences)
