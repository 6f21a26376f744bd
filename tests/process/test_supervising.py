"""What the supervisor of `serve` does when something goes wrong with its workers, or with whoever started it."""

import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from harness import Backend, Client, Gateway, Home, eventually
from tests.limits.servers import Server

Start = Callable[..., Gateway]


def children_of(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def command(home: Home, *more: str) -> list[str]:
    told = ["--policy", str(home.policy), "--state", str(home.state), "--listen", f"127.0.0.1:{home.port}"]
    return [sys.executable, "-m", "keyswap", "serve", *told, "--grace", "1s", *more]


# ---- The start


def test_a_stop_while_it_starts_ends_it(start: Start) -> None:
    """Whoever stops it before it is ready does not wait until it would have been, and nothing is left."""
    gateway = start("serve", "--workers", "2")
    eventually("the first worker is begun", lambda: children_of(gateway.process.pid))
    gateway.process.terminate()
    assert gateway.ended() == 0
    assert gateway.output == ""


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_standard_streams_do_not_matter(closed: str, home: Home) -> None:
    """It serves, and no socket takes the place of one of them."""
    _, value = home.key()
    process = subprocess.Popen(["bash", "-c", f'exec "$@" {closed}', "bash", *command(home, "--workers", "1")])
    try:
        serves(home, value, process)
    finally:
        process.terminate()
        assert process.wait(20) == 0


def test_nobody_has_to_read_what_it_says(home: Home) -> None:
    """It serves when the reader of its standard output has gone, and says so."""
    _, value = home.key()
    reading, writing = os.pipe()
    os.close(reading)
    with (home.folder / "errors").open("wb") as errors:
        process = subprocess.Popen(command(home, "--workers", "1"), stdout=writing, stderr=errors)
    os.close(writing)
    try:
        serves(home, value, process)
        assert "standard output cannot be written" in (home.folder / "errors").read_text()
    finally:
        process.terminate()
        assert process.wait(20) == 0


def serves(home: Home, value: str, process: subprocess.Popen[bytes]) -> None:
    def answers() -> bool:
        assert process.poll() is None
        try:
            with Client(home.port) as client:
                return client.ask("GET", "/", value).status == 200
        except OSError:
            return False

    eventually("it serves", answers)


# ---- Decision lines


def test_lines_of_several_workers_are_whole(home: Home) -> None:
    """A reader that is slow gets whole lines, however long, and of all workers."""
    process = subprocess.Popen(command(home, "--workers", "3"), stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["event"] == "ready"

    def ask() -> None:
        for _ in range(8):
            with Client(home.port) as client:
                for _ in range(25):
                    client.ask("GET", "/" + "a" * 6000, "nope")

    asking = [threading.Thread(target=ask) for _ in range(8)]
    for one in asking:
        one.start()
    found = 0
    while found < 8 * 8 * 25:
        time.sleep(0.001)  # slower than they are written
        assert json.loads(process.stdout.readline())["code"] == "invalid-credential"
        found += 1
    for one in asking:
        one.join()
    process.terminate()
    process.stdout.close()
    assert process.wait(20) == 0


# ---- Workers


def test_a_place_is_filled_when_it_can_be_again(start: Start, home: Home) -> None:
    """A machine that has no room for a new process, or file, for a while, has all workers afterwards."""
    _, value = home.key()
    gateway = start("serve", "--workers", "1").ready()
    pid = gateway.process.pid
    (worker,) = children_of(pid)
    soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, hard))
    os.kill(worker, signal.SIGKILL)
    eventually("it is told", lambda: "no worker can be started" in gateway.output)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))
    eventually("another worker runs", lambda: [one for one in children_of(pid) if one != worker])
    assert gateway.ready().get("/", value).status == 200


def test_workers_that_hang_hold_up_no_question(start: Start, home: Home) -> None:
    """Once it is known that they do: the others answer, and a stop ends them all."""
    gateway = start("serve", "--workers", "3").ready()
    for pid in children_of(gateway.process.pid)[:2]:
        os.kill(pid, signal.SIGSTOP)
    assert len(home.json("status")["workers"]["running"]) == 1
    assert home.json("explain", "GET", "/", code=1)["code"] == "missing-credential"
    gateway.process.terminate()
    assert gateway.ended() == 0
    assert gateway.output.count("did not stop in time") == 2


# ---- The stop


def test_whoever_comes_during_a_stop_is_refused(start: Start, home: Home, backend: Backend) -> None:
    """At once, and not when the last request has ended: a load balancer goes on to another gateway."""
    _, value = home.key()
    gateway = start("serve", "--workers", "2", "--grace", "60s").ready()
    stream = Client(gateway.port).begin("GET", "/events", value)
    gateway.process.terminate()

    def is_refused() -> bool:
        try:
            gateway.get("/", value)
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
        return False

    eventually("it is refused", is_refused, 5)
    backend.go_on.release(3)
    assert stream.read().endswith(b"data: 2\n\n")
    assert gateway.ended() == 0


def test_nobody_is_lost_in_the_queue_at_a_stop(start: Start, home: Home) -> None:
    """Of callers who come all the time each has its answer, or is refused before it has said anything."""
    _, value = home.key()
    gateway = start("serve", "--workers", "2", "--grace", "20s").ready()
    lost: list[str] = []

    def come() -> None:
        while True:
            try:
                with Client(gateway.port).connect() as client:
                    try:
                        assert client.ask("GET", "/", value).status == 200
                    except (OSError, AssertionError) as error:
                        lost.append(repr(error))
            except OSError:
                return

    coming = [threading.Thread(target=come) for _ in range(8)]
    for one in coming:
        one.start()
    gateway.process.terminate()
    for one in coming:
        one.join()
    assert gateway.ended() == 0
    assert len(lost) <= 1, lost  # whoever stood in the queue when the last worker closed it


def test_a_request_that_waits_in_the_gate_is_answered_at_a_stop(start: Start, home: Home, tmp_path: Path) -> None:
    """Its connection is not idle, however long the gate has been asking a store."""
    with Server(tmp_path / "store") as store:
        limit = "limits: [{name: in-flight, by: [key], concurrency: 9}]\n"
        home.write_policy(f"limit_store: {store.url()}\nlimit_store_timeout: 10s\n{limit}")
        _, value = home.key()
        gateway = start("serve", "--workers", "1", "--grace", "20s").ready()
        with Client(gateway.port) as client:
            assert client.ask("GET", "/", value).status == 200
            store.freeze()
            asked: list[int] = []
            asking = threading.Thread(target=lambda: asked.append(client.ask("GET", "/", value).status))
            asking.start()
            gateway.process.terminate()
            asking.join(2.5)  # longer than a connection that is idle is left open
            assert asking.is_alive(), "it waits"
            store.thaw()
            asking.join()
        assert asked and asked[0] in {200, 503}
        assert gateway.ended() == 0
