"""Faults under load: what dies, changes, fills up or goes away, and what callers and the backend see of it.

Each test has callers who compare every answer with what it must be, and a backend that notes every request: none is
answered wrongly, none is sent twice, and none is lost but what a fault by its nature takes along.
"""

import base64
import json
import os
import resource
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from joserfc import jwt as jose
from joserfc.jwk import KeySet

import disk
from hammering import Load, hammered, held_by, loaded
from harness import Client, Gateway, Home, eventually
from keyswap.shell.control import control_socket
from noting import Noting
from raw import head, listen

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="processes are looked at through Linux's /proc"),
]
Start = Callable[..., Gateway]
RELOADS_S = float(os.environ.get("KEYSWAP_RELOADS_S", "20"))
"""For how long policies alternate, one a second."""


@pytest.fixture
def noting(tmp_path: Path) -> Iterator[Noting]:
    made = Noting(tmp_path)
    yield made
    made.kill()


@pytest.fixture
def home(tmp_path: Path, noting: Noting) -> Home:
    made = Home(tmp_path, noting.url)
    made.write_policy(QUIET)
    return made


QUIET = "log: {decisions: off}\n"


def told(home: Home, state: Path | None = None) -> dict[str, Any]:
    """What `keyswap status --json` says of workers, asked as it asks: to begin a process takes longer than all that."""
    answer = control_socket.ask(state or home.state, {"command": "status"})
    return answer["workers"] if answer is not None else {"running": []}


def workers(home: Home) -> list[int]:
    """The processes that answer."""
    return [one["pid"] for one in told(home)["running"]]


def behind(home: Home) -> list[str]:
    """Why workers do not serve the policy on disk."""
    return [one["error"] for one in told(home)["running"] if one["error"]]


def judge(load: Load, noting: Noting) -> None:
    """What holds whatever happens: no answer is another than it must be, and no request reached the backend twice."""
    assert not load.wrong, load.wrong[:5]
    counts = noting.counts()
    for one in load.asked:
        seen = counts[one.unique]
        assert seen == 1 if one.valid and one.status == 200 else seen <= 1 if one.valid else not seen, (one, seen)


def answered(load: Load, more: int = 60) -> None:
    """Wait until so many more were answered rightly."""
    wanted = len(load.asked) + more
    eventually("more answers", lambda: len(load.asked) >= wanted)


# ---- A worker dies


@pytest.mark.timing
def test_a_killed_worker_takes_nothing_with_it_but_what_it_had(start: Start, home: Home, noting: Noting) -> None:
    """Workers are killed under load: only requests that were in flight in them are lost, new connections never; each is
    replaced within seconds, and `status` tells."""
    _, key = home.key()
    gateway = start("serve", "--workers", "2").ready()
    kills: list[float] = []
    with loaded(gateway.port, key) as load:
        for number in range(1, 4):
            answered(load)
            victim = workers(home)[number % 2]
            kills.append(time.monotonic())
            os.kill(victim, signal.SIGKILL)

            def replaced(victim: int = victim, number: int = number) -> bool:
                state = told(home)
                pids = [one["pid"] for one in state["running"]]
                return state["restarts"] == number and len(pids) == state["wanted"] == 2 and victim not in pids

            eventually("it is replaced", replaced, 15)
        answered(load)
        assert "workers   2 of 2, 3 restarts" in home.run("status")
    judge(load, noting)
    assert not load.turned_away, load.turned_away[:3]
    assert len(load.lost) <= 3 * 6 and len(load.asked) > 200
    for one in load.lost:
        assert min(abs(one.ended - kill) for kill in kills) < 1, one
    assert gateway.output.count("signal 9): another one takes its place") == 3


def test_requests_in_other_workers_are_not_touched(start: Start, home: Home) -> None:
    """Of responses under way when a worker is killed, exactly its own end; all others go on."""
    _, key = home.key()
    gateway = start("serve", "--workers", "2").ready()
    pids = workers(home)
    with ExitStack() as stack:
        callers = [stack.enter_context(socket.create_connection(("127.0.0.1", gateway.port))) for _ in range(16)]
        for caller in callers:
            caller.sendall(head("GET", "/events?n=100000&ms=50", key))
            assert listen(caller, b"data: ").status == 200
        holders = [held_by(caller, pids) for caller in callers]
        assert set(holders) == set(pids)
        os.kill(pids[0], signal.SIGKILL)
        assert all(listen(one).ended for one, holder in zip(callers, holders, strict=True) if holder == pids[0])
        for caller in [one for one, holder in zip(callers, holders, strict=True) if holder == pids[1]]:
            caller.setblocking(False)
            with suppress(BlockingIOError):
                while caller.recv(1 << 16):  # what has come
                    pass
            heard = listen(caller, b"data: ")
            assert heard.data and not heard.ended


def test_a_place_is_filled_when_the_machine_lets_it(start: Start, home: Home) -> None:
    """A worker that cannot be begun (no more open files) is tried again until there is room; meanwhile the other serves."""
    _, key = home.key()
    gateway = start("serve", "--workers", "2").ready()
    supervisor, victim = gateway.process.pid, workers(home)[0]
    most = len(os.listdir(f"/proc/{supervisor}/fd"))
    _, hard = resource.prlimit(supervisor, resource.RLIMIT_NOFILE)
    resource.prlimit(supervisor, resource.RLIMIT_NOFILE, (most - 2, hard))
    os.kill(victim, signal.SIGKILL)
    eventually("it says so", lambda: "no worker can be started (Too many open files)" in gateway.output)
    assert [gateway.get("/", key).status for _ in range(5)] == [200] * 5
    resource.prlimit(supervisor, resource.RLIMIT_NOFILE, (hard, hard))
    eventually("it is replaced", lambda: len(workers(home)) == 2)
    assert gateway.get("/", key).status == 200


# ---- The policy changes


def test_policies_alternate_with_bad_ones(start: Start, home: Home, noting: Noting) -> None:
    """A policy a second, every other one bad: no answer is wrong, none is lost, and good ones take effect throughout."""
    _, key = home.key()
    gateway = start("serve", "--workers", "2").ready()
    with loaded(gateway.port, key) as load:
        until, number = time.monotonic() + RELOADS_S, 0
        pause = threading.Event()
        while time.monotonic() < until:
            number += 1
            if number % 2:
                home.write_policy(f"{QUIET}audience: aud-{number}\n")
            else:
                home.write_policy(f"{QUIET}audience: [never\n" if number % 4 else f"{QUIET}nonsense: {number}\n")
            pause.wait(1)
        home.write_policy(f"{QUIET}audience: last\n")
        eventually("the last one is in force", lambda: audience(noting.tokens()[-1]) == "last")
        eventually("in all", lambda: not behind(home))
    judge(load, noting)
    assert not load.lost and not load.turned_away, (load.lost[:3], load.turned_away[:3])
    taken = {audience(token) for token in set(noting.tokens()) if token != "-"}
    assert len(taken) > number / 4, (number, taken)
    assert gateway.output.count("the old policy stays in force") >= number / 4


def audience(token: str) -> Any:
    """Whom a token is for, by what it says itself."""
    part = token.split(".")[1] if token.count(".") == 2 else "e30"
    return json.loads(base64.urlsafe_b64decode(part + "==")).get("aud")


def test_a_replacement_serves_the_policy_that_was_in_force(start: Start, home: Home, noting: Noting) -> None:
    """A worker that is killed while the policy on disk is bad: its replacement serves the old one, says so, and takes the
    mended one."""
    home.write_policy(f"{QUIET}audience: before\n")
    _, key = home.key()
    gateway = start("serve", "--workers", "2").ready()
    with loaded(gateway.port, key) as load:
        answered(load)
        home.write_policy("nonsense: 1\n")
        eventually("it is seen", lambda: len(behind(home)) == 2)
        for victim in workers(home):
            os.kill(victim, signal.SIGKILL)
            eventually("it is replaced", lambda: len(set(workers(home)) - {victim}) == 2)  # noqa: B023
        assert told(home)["restarts"] == 2
        assert ["nonsense" in why for why in behind(home)] == [True] * 2
        answered(load)
        assert {audience(token) for token in noting.tokens() if token != "-"} == {"before"}
        assert "the policy that was in force stays so: " in gateway.output
        home.write_policy(f"{QUIET}audience: mended\n")
        eventually("all take it", lambda: not behind(home))
        eventually("it is in force", lambda: audience(noting.tokens()[-1]) == "mended")
    judge(load, noting)
    assert not load.turned_away


# ---- The signing key changes


class Verifier:
    """A backend's verifier: it keeps the key set that it fetched, and fetches it anew for a key that it does not know."""

    def __init__(self, home: Home, noting: Noting) -> None:
        self._home, self._noting = home, noting
        self._sets: list[KeySet] = []
        self._seen = 0
        self.kids: list[str] = []

    def fetch(self) -> None:
        """Take the key set as it is now."""
        with Client(self._home.port) as client:
            self._sets.append(KeySet.import_key_set(client.ask("GET", "/.well-known/jwks.json").json))

    def check(self) -> int:
        """Verify every token that has come since the last time; how many there were. One that is no good raises."""
        fresh = self._noting.tokens(self._seen)
        self._seen += len(fresh)
        for token in dict.fromkeys(fresh):
            kid = str(self._header(token)["kid"])
            if kid not in self.kids and not any(key.kid == kid for key in self._sets[-1].keys):
                self.fetch()
            known = [one for one in self._sets[-2:] if any(key.kid == kid for key in one.keys)]
            assert jose.decode(token, known[-1], algorithms=["ES256"]).claims["iss"] == self._home.issuer
            if kid not in self.kids:
                self.kids.append(kid)
        return len(fresh)

    @staticmethod
    def _header(token: str) -> Any:
        return json.loads(base64.urlsafe_b64decode(token.split(".")[0] + "=="))


@pytest.mark.parametrize("now", [False, True])
def test_signing_keys_rotate(now: bool, start: Start, home: Home, noting: Noting) -> None:
    """While signing keys rotate, in good time or at once, each token verifies against the key set as the backend has it."""
    home.write_policy(f"{QUIET}tokens: {{algorithm: ES256, ttl: 2s}}\n")
    _, key = home.key()
    gateway = start("serve", "--workers", "2").ready()
    verifier = Verifier(home, noting)
    verifier.fetch()
    with loaded(gateway.port, key) as load:
        answered(load)
        for _ in range(1 + now):
            before = len(verifier.kids)
            verifier.check()
            home.run("signing", "rotate", *(["--now"] if now else ["--lead", "2s"]))
            eventually(
                "the new key signs", lambda before=before: verifier.check() and len(verifier.kids) > max(1, before)
            )
            answered(load)
        verifier.check()
    verifier.check()
    judge(load, noting)
    assert not load.lost and not load.turned_away
    assert len(verifier.kids) == 2 + now, verifier.kids


# ---- The backend goes away


def test_a_backend_that_is_away_is_missed_only_while_it_is(start: Start, home: Home, noting: Noting) -> None:
    """The backend is killed and begun again under load: 502 only meanwhile, nothing is sent twice, then all is as before."""
    _, key = home.key()
    gateway = start("serve", "--workers", "2").ready()
    away: list[tuple[float, float]] = []
    with loaded(gateway.port, key) as load:
        for _ in range(2):
            answered(load)
            killed = time.monotonic()
            noting.kill()
            answered(load)
            noting.begin()
            away.append((killed, time.monotonic()))
        answered(load)
    missed = [one for one in load.wrong if one.valid and one.status == 502 and b'"upstream-unavailable"' in one.body]
    for one in missed:
        assert any(one.ended >= since and one.began <= until for since, until in away), one
    assert len(missed) > 20 and missed == load.wrong, [one for one in load.wrong if one not in missed][:3]
    assert not load.lost and not load.turned_away
    counts = noting.counts()
    assert not [one for one in load.asked if counts[one.unique] > 1]
    assert all(counts[one.unique] == 1 for one in load.asked if one.valid and one.status == 200)


# ---- The disk is full


class Disk:
    """The disk on which a state directory lies: a small one of its own, in the gateway's own view of the files."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self.before = disk.mounting(home.state)
        self._filler: Path | None = None

    def of(self, gateway: Gateway) -> None:
        """It is this gateway's."""
        self._state = Path(f"/proc/{gateway.process.pid}/root{self._home.state}") if self.before else self._home.state

    def told(self) -> dict[str, Any]:
        """What the gateway on it says of its workers."""
        return told(self._home, self._state)

    def put(self, policy: str) -> None:
        """Write a policy, and wait until it is in force everywhere."""
        began = time.time()
        self._home.write_policy(policy)
        eventually("it is in force", lambda: all(one["policy_loaded_at"] > began for one in self.told()["running"]))

    def fill(self) -> None:
        """Leave no room. Where nothing can be mounted, no file may grow instead."""
        if self.before:
            self._filler = disk.fill(self._state)
            return
        for process in workers(self._home):
            resource.prlimit(process, resource.RLIMIT_FSIZE, ((self._state / "rates").stat().st_size, -1))

    def empty(self) -> None:
        """Give the room back."""
        if self._filler is not None:
            self._filler.unlink()
            return
        for process in workers(self._home):
            resource.prlimit(process, resource.RLIMIT_FSIZE, (-1, -1))


class Unmounted(Disk):
    """The same by a limit on the size of files, which any user can set."""

    def __init__(self, home: Home) -> None:
        self._home, self.before, self._filler = home, (), None


LIMITED = f"""{QUIET}trusted_proxies: [127.0.0.1/32]
limits:
  - {{name: per-address, by: [ip], rate: 1/h, burst: 1000}}
"""


def asks_from(gateway: Gateway, key: str, numbers: range) -> Counter[tuple[int, str | None]]:
    """One request from each of so many addresses: the answers."""
    found: Counter[tuple[int, str | None]] = Counter()
    with Client(gateway.port) as client:
        for number in numbers:
            address = f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"
            reply = client.ask("GET", "/", key, headers={"X-Forwarded-For": address})
            found[reply.status, reply.code] += 1
            if reply.header("connection") == "close":
                client.close()
    return found


@pytest.mark.parametrize("made", [Disk, Unmounted])
def test_a_full_disk_refuses_only_what_cannot_be_counted(made: type[Disk], start: Start, home: Home) -> None:
    """The disk of the state is full: who is counted already is served, whom there is no counter for is refused 503, or
    admitted where the policy says so; workers can be replaced; with room again all is as before."""
    home.write_policy(LIMITED)
    _, key = home.key()
    small = made(home)
    gateway = start("serve", "--workers", "2", before=small.before).ready()
    small.of(gateway)
    assert asks_from(gateway, key, range(200)) == {(200, None): 200}
    small.fill()
    found = asks_from(gateway, key, range(1000, 2400))
    assert set(found) == {(200, None), (503, "store-unavailable")} and found[503, "store-unavailable"] > 200, found
    assert asks_from(gateway, key, range(200)) == {(200, None): 200}
    assert "requests are refused until it can: counters cannot grow" in gateway.output
    small.put(f"{LIMITED}limit_store_down: allow\n")
    assert asks_from(gateway, key, range(1000, 2400)) == {(200, None): 1400}
    victim = small.told()["running"][0]["pid"]
    if small.before:  # the limit on files' sizes is a process's own
        os.kill(victim, signal.SIGKILL)
        eventually("another one", lambda: len({one["pid"] for one in small.told()["running"]} - {victim}) == 2)
        assert asks_from(gateway, key, range(300)) == {(200, None): 300}
    small.put(LIMITED)
    assert (503, "store-unavailable") in asks_from(gateway, key, range(3000, 4400))
    small.empty()
    fresh = count(5000, 800)

    def are_counted() -> bool:
        first = next(fresh)
        return asks_from(gateway, key, range(first, first + 800)) == {(200, None): 800}

    eventually("with room again all callers are counted", are_counted)
    eventually("it is told", lambda: asks_from(gateway, key, range(9)) and "answers again" in gateway.output)
    assert "Traceback" not in gateway.output and gateway.output.count("ended (") == bool(small.before)
    assert gateway.output.count("limit store") < 20, "a line at each request"


# ---- Four workers


def test_four_workers_count_as_one(start: Start, home: Home) -> None:
    """64 callers at once on one bucket, over four workers and without a server for it: exactly what it holds."""
    home.write_policy(f"{QUIET}limits:\n  - {{name: per-key, by: [key], rate: 1/h, burst: 150}}\n")
    _, key = home.key()
    gateway = start("serve", "--workers", "4").ready()
    assert hammered([gateway], key, 64, 5) == 150


def test_a_revoked_key_is_refused_by_each_worker_at_once(start: Start, home: Home) -> None:
    """After `keys revoke` the next request over a connection to each worker is refused."""
    key, value = home.key()
    gateway = start("serve", "--workers", "4").ready()
    pids = workers(home)
    assert len(pids) == 4
    with ExitStack() as stack:
        callers: dict[int, Client] = {}

        def reached() -> bool:
            client = stack.enter_context(Client(gateway.port)).connect()
            assert client.ask("GET", "/", value, headers={"X-Unique": "r"}).body == b"r"
            holder = held_by(client._connection.sock, pids)
            callers.setdefault(holder or 0, client)
            return set(callers) == set(pids)

        eventually("each worker is reached", reached)
        home.run("keys", "revoke", key.id)
        assert [client.ask("GET", "/", value).status for client in callers.values()] == [401] * 4
