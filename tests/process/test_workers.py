"""`serve` with several workers: one address, one answer to commands, one set of counters."""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pytest

from harness import Backend, Client, Gateway, Home, eventually
from keyswap.cli.serve import cores
from keyswap.shell.decisions.reader import recorded

Start = Callable[..., Gateway]


def workers_of(home: Home) -> dict[str, Any]:
    """What `status` says of the workers."""
    told: dict[str, Any] = home.json("status")["workers"]
    return told


def pids_of(home: Home) -> set[int]:
    """The processes of the workers that run."""
    return {one["pid"] for one in workers_of(home)["running"]}


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


@contextmanager
def spread(gateway: Gateway, value: str, count: int = 20) -> Iterator[list[Client]]:
    """Connections that stay open, more than enough to have some in every worker."""
    with ExitStack() as stack:
        clients = [stack.enter_context(Client(gateway.port)) for _ in range(count)]
        for client in clients:
            assert client.ask("GET", "/", value).status == 200
        yield clients


def test_requests_reach_every_worker(start: Start, home: Home) -> None:
    """The ready line comes before any decision and tells how many there are; connections are shared among them."""
    _, value = home.key()
    gateway = start("serve", "--workers", "3").ready()
    with spread(gateway, value, 40):
        sockets = [count_of_connections(pid) for pid in pids_of(home)]
    lines = [line for line in gateway.output.splitlines() if line.startswith("{")]
    assert json.loads(lines[0]) == {
        "event": "ready", "listen": f"127.0.0.1:{gateway.port}", "admin": None, "workers": 3,
    }  # fmt: skip
    told = workers_of(home)
    assert (told["wanted"], told["restarts"], len(told["running"])) == (3, 0, 3)
    assert all(sockets), "every worker carries something"


def count_of_connections(pid: int) -> int:
    """How many TCP connections a worker holds that stand."""
    links = [os.readlink(handle) for handle in Path(f"/proc/{pid}/fd").iterdir() if handle.is_symlink()]
    held = {link[8:-1] for link in links if link.startswith("socket:[")}
    rows = [row.split() for row in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return len([row for row in rows if row[3] == "01" and row[9] in held])


def test_a_killed_worker_is_replaced(start: Start, home: Home) -> None:
    """Another takes its place, which is logged; connections of the others go on, and status counts it."""
    _, value = home.key()
    gateway = start("serve", "--workers", "2").ready()
    with spread(gateway, value) as clients:
        killed = min(pids_of(home))
        lost = count_of_connections(killed)
        os.kill(killed, signal.SIGKILL)
        eventually("another worker runs", lambda: len(pids_of(home)) == 2 and killed not in pids_of(home))
        assert workers_of(home)["restarts"] == 1
        assert f"worker {killed} ended (signal 9)" in gateway.output
        answered = 0
        for client in clients:
            with suppress(OSError, HTTPException):
                answered += client.ask("GET", "/", value).status == 200
        assert answered == len(clients) - lost // 2, "the other worker's connections went on"
    assert gateway.get("/", value).status == 200


def test_a_policy_reaches_every_worker(start: Start, home: Home) -> None:
    """A new policy is soon in force in all of them, and a bad one in none; status says so."""
    _, value = home.key()
    gateway = start("serve", "--workers", "2").ready()
    with spread(gateway, value) as clients:
        policy_reaches(home, clients)


def policy_reaches(home: Home, clients: list[Client]) -> None:
    home.write_policy("cors: {preflight: answer, origins: [https://app.example]}\n")

    def told() -> set[str | None]:
        return {
            client.ask("GET", "/", "nope", headers={"Origin": "https://app.example"}).header(
                "access-control-allow-origin"
            )
            for client in clients
        }

    eventually("all workers say it", lambda: told() == {"https://app.example"})
    home.policy.write_text("version: 1\nissuer: http://x\nupstream: http://y\nnonsense: true\n")
    eventually("both have seen it", lambda: all(one["error"] for one in workers_of(home)["running"]))
    assert "nonsense" in home.json("status")["policy"]["reload_error"]
    assert told() == {"https://app.example"}


def test_a_replacement_takes_the_policy_that_was_in_force(start: Start, home: Home) -> None:
    """While the file is no good a new worker serves what the old ones do, document included, and reloads it mended."""
    _, value = home.key(permissions=["pets:read"])
    (home.folder / "api.yaml").write_text(
        "openapi: 3.1.0\npaths:\n  /pets: {get: {x-required-permissions: [pets:read]}}\n  /cats: {get: {}}\n"
    )
    home.write_policy("openapi: {spec: api.yaml}\n")
    gateway = start("serve", "--workers", "1").ready()
    assert gateway.get("/pets", value).status == 200 and gateway.get("/dogs", value).status == 404
    good = home.policy.read_text()
    home.policy.write_text("version: 1\nissuer: http://x\nupstream: http://y\nnonsense: true\n")
    (home.folder / "api.yaml").write_text("openapi: [")
    eventually("it is seen", lambda: home.json("status")["policy"]["reload_error"])
    (killed,) = pids_of(home)
    os.kill(killed, signal.SIGKILL)
    eventually("another worker runs", lambda: gateway.workers not in ([], [killed]))
    eventually("it answers", lambda: answers(gateway))
    assert gateway.get("/pets", value).status == 200 and gateway.get("/dogs", value).status == 404
    assert "nonsense" in home.json("status")["policy"]["reload_error"]
    home.policy.write_text(good)
    (home.folder / "api.yaml").write_text("openapi: 3.1.0\npaths:\n  /dogs: {get: {}}\n")
    eventually("it has reloaded", lambda: gateway.get("/dogs", value).status == 200)
    assert home.json("status")["policy"]["reload_error"] is None


def answers(gateway: Gateway) -> bool:
    with suppress(OSError, HTTPException):
        return gateway.get("/.well-known/keyswap/health").status == 200
    return False


def test_nothing_of_a_callers_is_in_what_is_kept(start: Start, home: Home) -> None:
    """What a replacement needs is the policy and its documents, readable by the owner alone."""
    start("serve", "--workers", "2").ready()
    (found,) = home.state.glob("in-force-*")
    assert found.stat().st_mode & 0o777 == 0o600
    head, _, rest = found.read_bytes().partition(b"\n")
    assert rest == home.policy.read_bytes() and set(json.loads(head)) == {"policy", "size", "parts", "digest"}


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_lets_requests_end(how: int, start: Start, home: Home, backend: Backend) -> None:
    """A stream goes on to its end; its connection is the last; nobody new gets in; the exit code is 0."""
    _, value = home.key()
    gateway = start("serve", "--workers", "2", "--grace", "20s").ready()
    stream = Client(gateway.port).begin("GET", "/events", value)
    backend.go_on.release()
    assert stream.readline() == b"data: 0\n"
    pids = pids_of(home)
    gateway.process.send_signal(how)

    def is_closed() -> bool:
        with Client(gateway.port) as client:
            try:
                client.ask("GET", "/", value)
            except (OSError, HTTPException):
                return True
        return False

    eventually("nobody gets in", is_closed)
    backend.go_on.release(2)
    assert stream.read().endswith(b"data: 2\n\n")
    assert gateway.ended() == 0
    assert not [pid for pid in pids if is_alive(pid)]


def test_a_connection_that_stays_open_is_told_at_a_stop(start: Start, home: Home) -> None:
    """A caller that goes on to send requests over it gets its answer, which says that the connection closes."""
    _, value = home.key()
    gateway = start("serve", "--workers", "2", "--grace", "20s").ready()
    with Client(gateway.port) as client:
        assert client.ask("GET", "/", value).header("connection") is None
        gateway.process.send_signal(signal.SIGTERM)
        said = eventually(
            "it is told", lambda: (reply := client.ask("GET", "/", value)).status == 200 and reply.header("connection")
        )
        assert said == "close"
    assert gateway.ended() == 0


def test_workers_end_with_their_supervisor(start: Start, home: Home) -> None:
    """However it ends; the address is free for another one at once."""
    _, value = home.key()
    gateway = start("serve", "--workers", "2").ready()
    pids = pids_of(home)
    gateway.process.kill()
    gateway.ended()
    eventually("the workers have ended", lambda: not [pid for pid in pids if is_alive(pid)])
    assert start("serve", "--workers", "2").ready().get("/", value).status == 200


def test_a_bad_start_is_one_line(start: Start, home: Home) -> None:
    """Whatever the number of workers: exit code 3, one line that says why, and nothing left that runs."""
    home.policy.write_text("version: 1\nissuer: http://x\nupstream: http://y\nnonsense: true\n")
    gateway = start("serve", "--workers", "4")
    assert gateway.ended() == 3
    (line,) = gateway.output.strip().splitlines()
    assert "nonsense" in line


def test_an_address_in_use_is_one_line(start: Start, home: Home) -> None:
    """The second gateway on an address ends with 3 and names it; the first is not disturbed."""
    _, value = home.key()
    first = start("serve", "--workers", "2").ready()
    (home.folder / "other").mkdir()
    second = start("serve", "--workers", "2", home=Home(home.folder / "other", home.upstream, first.port))
    assert second.ended() == 3
    (line,) = second.output.strip().splitlines()
    assert f"127.0.0.1:{first.port}" in line
    assert first.get("/", value).status == 200


@pytest.mark.parametrize(
    ("said", "expected"), [("150000 100000", 2), ("50000 100000", 1), ("max 100000", None), ("x", None)]
)
def test_a_containers_share_is_heeded(said: str, expected: int | None, tmp_path: Path) -> None:
    """There are as many workers as cores may be used, rounded up, and no more than there are."""
    whole = cores(tmp_path / "none")
    (tmp_path / "cpu.max").write_text(said)
    assert cores(tmp_path / "cpu.max") == min(whole, expected or whole)


@pytest.mark.timing
def test_a_decision_of_any_worker_can_be_explained(start: Start, home: Home) -> None:
    """Within a second of it, by the id that the caller quotes."""
    _, value = home.key()
    gateway = start("serve", "--workers", "2").ready()
    with spread(gateway, value, 6) as clients:
        for client in clients:
            reply = client.ask("GET", "/pets/1", value)
            request_id = str(reply.header("x-request-id"))
            answered = time.monotonic()
            kept = eventually("it is kept", partial(recorded, home.state, request_id), 5)
            assert time.monotonic() - answered < 1.0 and kept["decision"] == "admit"
        told = home.json("explain", "--request-id", request_id)
    assert (told["decision"], told["request_id"]) == ("admit", request_id)
