"""Limits in a real Valkey or Redis server, shared by real gateways, and what happens when it fails under load."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hammering import hammered
from harness import Backend, Client, Gateway, Home, eventually, free_port
from tests.limits.servers import Server

Start = Callable[..., Gateway]
LIMITS = """log: {decisions: off}
limit_store: %s
limit_store_down: %s
limits: [{name: bucket, by: [org], rate: %s}, {name: other, by: [org], quota: 100000/month}, {name: f, by: [key], concurrency: 99}]
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with Server(tmp_path / "server") as made:
        yield made


@pytest.mark.slow
def test_four_gateways_share_one_bucket_exactly(start: Start, home: Home, backend: Backend, server: Server) -> None:
    """Four gateway processes, 64 concurrent clients, one server: exactly what the bucket holds is admitted, and of the
    other limits of the refused requests nothing is consumed."""
    home.write_policy(LIMITS % (server.url(), "refuse", "1/h, burst: 150"))
    _, key = home.key()
    gateways = [start("serve", port=free_port()) for _ in range(4)]
    for gateway in gateways:
        gateway.ready()
    assert hammered(gateways, key, clients=64, each=10) == 150 == backend.count
    levels = {row["limit"]: row["level"] for row in home.json("limits", "list")["data"]}
    assert (levels["bucket"], levels["other"]) == (150, 150)
    eventually("nothing is in flight", lambda: home.json("status")["limits"]["in_flight"] == 0)
    assert home.json("limits", "reset", "--org", "org_1") == {"reset": 2}
    assert gateways[0].get("/", key).status == 200


def test_a_key_that_is_revoked_while_a_step_waits(start: Start, home: Home, backend: Backend, server: Server) -> None:
    """A stream whose key was revoked while its limits were waited for ends all the same."""
    home.write_policy(f"limit_store_timeout: 5s\n{LIMITS % (server.url(), 'allow', '9/s')}")
    key, value = home.key()
    gateway = start("serve").ready()
    assert gateway.get("/", value).status == 200
    server.freeze()
    with Client(gateway.port) as client:
        revoking = ("keys", "revoke", key.id)
        threading.Timer(0, home.run, revoking, {"process": True}).start()  # which takes longer to begin
        stream = client.begin("GET", "/events", value)
        assert stream.status == 200, "it was admitted before"
        began = time.monotonic()
        assert stream.read() == b"" and time.monotonic() - began < 3  # its backend has nothing to say yet


class Load:
    """Callers that go on, and what they are told."""

    def __init__(self, gateway: Gateway, key: str, callers: int = 4) -> None:
        self.told: list[tuple[float, float, int]] = []
        self._gateway, self._key, self._stop = gateway, key, threading.Event()
        self._threads = [threading.Thread(target=self._call) for _ in range(callers)]

    def _call(self) -> None:
        with Client(self._gateway.port) as client:
            while not self._stop.is_set():
                began = time.monotonic()
                status = client.ask("GET", "/", self._key).status
                self.told.append((began, time.monotonic() - began, status))

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def since(self, moment: float) -> Counter[int]:
        """What those were told who asked since then."""
        return Counter(status for began, _, status in list(self.told) if began >= moment)

    def longest(self) -> float:
        """How long anybody waited."""
        return max(spent for _, spent, _ in self.told)


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["killed", "frozen"])
@pytest.mark.parametrize(("down", "told"), [("refuse", 503), ("allow", 200)])
def test_a_failing_store_refuses_or_admits_and_comes_back(
    start: Start, home: Home, backend: Backend, server: Server, fault: str, down: str, told: int
) -> None:
    """While the server is dead or stands still every request is refused, or admitted uncounted, as the policy says, and
    none waits for longer than the store's time-out; within two seconds of its return limits are counted again."""
    home.write_policy(LIMITS % (server.url(), down, "1000000/s, burst: 1000000"))
    _, key = home.key()
    gateway = start("serve").ready()
    with Load(gateway, key) as load:
        eventually("requests are counted", lambda: load.since(0)[200] > 50)
        (server.kill if fault == "killed" else server.freeze)()
        failed = time.monotonic()
        eventually("it is noticed", lambda: not home.json("status")["limits"]["healthy"])
        noticed = time.monotonic()
        eventually("requests go on", lambda: load.since(noticed)[told] > 50)
        assert set(load.since(noticed)) == {told} and set(load.since(failed)) <= {200, told}
        (server.start if fault == "killed" else server.thaw)()
        back = time.monotonic()
        eventually("it answers again", lambda: home.json("status")["limits"]["healthy"])
        assert time.monotonic() - back < 2 + 1, "the command itself takes most of a second"
        again = time.monotonic()
        eventually("requests are counted", lambda: load.since(again)[200] > 50)
        assert set(load.since(again)) == {200}
        eventually("it tells", lambda: "answers again" in gateway.output)
    assert load.longest() < 1.0
    counted = {row["limit"]: row["level"] for row in home.json("limits", "list")["data"]}
    assert counted["other"] > 50
    lines = [line for line in gateway.stop().splitlines() if "limit store" in line]
    told_of = ["can't be asked" if "can't be asked" in line else line.partition(": ")[0][-13:] for line in lines]
    assert told_of == ["can't be asked", "answers again"], lines
