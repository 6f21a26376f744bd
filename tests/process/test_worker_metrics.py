"""The admin listener of several workers: their counts as one."""

import json
import os
import signal
from collections.abc import Callable
from http.client import HTTPConnection
from typing import Any

import pytest

from exposition import read
from harness import Gateway, Home, eventually, free_port

Start = Callable[..., Gateway]


@pytest.fixture
def admin(home: Home, monkeypatch: pytest.MonkeyPatch) -> int:
    """The port of an admin listener that the policy names."""
    port = free_port()
    monkeypatch.setenv("KEYSWAP_ADMIN_TOKEN", "t" * 32)
    home.write_policy(f"admin: {{listen: 127.0.0.1:{port}}}\n")
    return port


def get(port: int, path: str) -> tuple[int, bytes]:
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def value(port: int, name: str, **labels: str) -> float:
    """The sum of a metric's values that have these labels."""
    status, text = get(port, "/metrics")
    assert status == 200
    return read(text).value(name, **labels)


def pids(home: Home) -> set[int]:
    told: dict[str, Any] = home.json("status")["workers"]
    return {one["pid"] for one in told["running"]}


def test_workers_are_counted_together(start: Start, home: Home, admin: int) -> None:
    """Whatever worker a request came to, it is counted once; the ready line and status name the listener."""
    _, key = home.key()
    gateway = start("serve", "--workers", "2").ready()
    ready = json.loads(next(line for line in gateway.output.splitlines() if line.startswith("{")))
    assert ready["admin"] == home.json("status")["admin"] == f"127.0.0.1:{admin}"
    for _ in range(20):
        assert gateway.get("/", key).status == 200
    for _ in range(5):
        assert gateway.get("/", "nope").status == 401
    assert value(admin, "keyswap_decisions_total", decision="admit") == 20
    assert value(admin, "keyswap_decisions_total", code="invalid-credential") == 5
    assert value(admin, "keyswap_gate_seconds_count") == 25
    assert value(admin, "keyswap_workers") == 2


def test_what_a_killed_worker_had_counted_still_counts(start: Start, home: Home, admin: int) -> None:
    """Counters never go back; its restart is counted, and nothing that it had in flight is."""
    _, key = home.key()
    gateway = start("serve", "--workers", "2").ready()
    for _ in range(20):
        assert gateway.get("/", key).status == 200
    assert value(admin, "keyswap_decisions_total") == 20
    before = pids(home)
    os.kill(min(before), signal.SIGKILL)
    eventually("another worker runs", lambda: len(pids(home)) == 2 and pids(home) != before)
    assert value(admin, "keyswap_decisions_total") == 20
    assert value(admin, "keyswap_worker_restarts_total") == 1
    assert value(admin, "keyswap_requests_in_flight") == 0


def test_readiness_is_that_of_the_gateway(start: Start, home: Home, admin: int) -> None:
    """Ready while any worker is; not any more when the key database is gone for all of them."""
    gateway = start("serve", "--workers", "2").ready()
    assert get(admin, "/healthz")[0] == 200 and get(admin, "/readyz")[0] == 200
    os.kill(min(pids(home)), signal.SIGKILL)
    assert get(admin, "/readyz")[0] == 200
    (home.state / "keys.db").rename(home.state / "elsewhere")
    eventually("it is not ready", lambda: get(admin, "/readyz")[0] == 503)
    assert "keys" in json.loads(get(admin, "/readyz")[1])["reasons"]
    assert gateway.get("/", "nope").status == 503


def test_a_reload_moves_the_listener(start: Start, home: Home, admin: int) -> None:
    """The admin listener follows the policy in force, also to nowhere."""
    start("serve", "--workers", "2").ready()
    other = free_port()
    home.write_policy(f"admin: {{listen: 127.0.0.1:{other}}}\n")

    def listens(port: int) -> bool:
        try:
            return get(port, "/healthz")[0] == 200
        except OSError:
            return False

    eventually("it has moved", lambda: listens(other) and not listens(admin))
    home.write_policy()
    eventually("it has gone", lambda: not listens(other))


def test_a_missing_token_stops_the_start(start: Start, home: Home, admin: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line names the variable; nothing listens."""
    monkeypatch.delenv("KEYSWAP_ADMIN_TOKEN")
    gateway = start("serve", "--workers", "2")
    assert gateway.ended() == 3
    (line,) = gateway.output.strip().splitlines()
    assert "KEYSWAP_ADMIN_TOKEN" in line
