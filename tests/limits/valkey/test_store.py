"""The store `valkey://` against a real server: outages, restarts, passwords, TLS, clusters, cancellations, leases."""

import asyncio
import contextlib
import itertools
import random
import socket
import struct
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from keyswap.limits import bucket
from keyswap.limits.limit import Acquired, Kind, Limit, LimitRequest, LimitStore, LimitStoreUnavailable
from keyswap.limits.valkey.connection import Address, bulk, packed
from keyswap.limits.valkey.plan import PREFIX, SOURCE
from keyswap.limits.valkey.store import ValkeyLimits
from keyswap.limits.windows import end_hour, is_over
from tests.limits.servers import PATIENCE_S, Server, cluster

RATE = Limit("rate", Kind.RATE, 5, 1, 60)
WIDE = Limit("wide", Kind.RATE, 10**6, 10**6, 1)
QUOTA = Limit("quota", Kind.QUOTA, 100, window="day")
PLACES = Limit("places", Kind.CONCURRENCY, 3)
TIMEOUT_S = 0.15
ARITHMETIC = SOURCE.partition(b"\n-- The request\n")[0]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server for tests that leave it as it is; each uses a database of its own."""
    with Server(tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture
def server(shared: Server) -> Server:
    """The shared server, empty."""
    shared.tell("FLUSHALL")
    return shared


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Server]:
    """A server for one test, which may do anything to it."""
    with Server(tmp_path / "server") as server:
        yield server


def ask(limit: Limit, whom: str = "1", cost: int = 1, enforced: bool = True) -> LimitRequest:
    return LimitRequest(limit, f"{limit.name}\x1fkey\x1f{whom}", cost, enforced)


def run[T](work: Coroutine[Any, Any, T]) -> T:
    """Run it, in an event loop that closes with nothing left in it."""
    return asyncio.run(work)


async def pour(store: LimitStore, *asks: LimitRequest, dry: bool = False) -> Acquired:
    return await store.acquire(asks, time.time(), dry)


async def until(true: Callable[[], Awaitable[bool]], within_s: float = PATIENCE_S) -> float:
    """How long it took to become true."""
    began = time.monotonic()
    while not await true():
        assert time.monotonic() - began < within_s, f"not within {within_s} s"
        await asyncio.sleep(0.01)
    return time.monotonic() - began


async def answers(store: ValkeyLimits) -> bool:
    """Whether it pours; and that it never takes longer than the time-out to say so."""
    began = time.monotonic()
    try:
        await pour(store, ask(WIDE))
    except LimitStoreUnavailable:
        return False
    finally:
        assert time.monotonic() - began < TIMEOUT_S + 0.1
    return True


# ---- Outages


@pytest.mark.timing
def test_a_killed_server_is_found_again(own: Server) -> None:
    """While the server is dead nobody waits; within a second of its return requests are counted again."""

    async def story() -> None:
        store = ValkeyLimits(own.url(), TIMEOUT_S)
        await pour(store, ask(RATE))
        own.kill()
        await until(lambda: _is_down(store))
        began = time.monotonic()
        for _ in range(1000):
            with pytest.raises(LimitStoreUnavailable, match=r"valkey://127\.0\.0\.1"):
                await pour(store, ask(RATE))
        assert time.monotonic() - began < 0.5
        assert store.status()["healthy"] is False
        own.start()
        assert await until(lambda: answers(store)) < 1
        assert store.status() == {"store": own.url(), "healthy": True, "reason": None, "in_flight": 0}
        await store.close()

    run(story())


async def _is_down(store: ValkeyLimits) -> bool:
    return not await answers(store)


@pytest.mark.timing
def test_a_frozen_server_holds_nobody_up(own: Server) -> None:
    """While the server stands still, requests under load wait for the time-out at most, and then not at all; within a
    second of its going on they are counted again, and no place is left taken."""

    async def story() -> None:
        store = ValkeyLimits(own.url(), TIMEOUT_S)
        await pour(store, ask(WIDE))
        own.freeze()
        began = time.monotonic()
        waits = await asyncio.gather(*[_timed(store, ask(PLACES, str(number))) for number in range(64)])
        assert max(waits) < TIMEOUT_S + 0.1
        assert time.monotonic() - began >= TIMEOUT_S / 2
        assert max([await _timed(store, ask(WIDE)) for _ in range(100)]) < 0.02
        await asyncio.sleep(1)  # a probe or more are on their way
        assert store.status()["healthy"] is False
        own.thaw()
        assert await until(lambda: answers(store)) < 1
        await until(lambda: _nothing_in_flight(store))
        await store.close()

    run(story())


async def _timed(store: ValkeyLimits, *asks: LimitRequest) -> float:
    began = time.monotonic()
    with pytest.raises(LimitStoreUnavailable):
        await pour(store, *asks)
    return time.monotonic() - began


async def _nothing_in_flight(store: ValkeyLimits) -> bool:
    await store.tend(time.time())
    return not [one for one in await store.held(time.time()) if one.subject.startswith("places")]


def test_an_outage_is_noticed_without_requests(own: Server) -> None:
    """Tending alone finds out that the server stands still, and that it goes on."""

    async def story() -> None:
        store = ValkeyLimits(own.url(), TIMEOUT_S)
        await until(lambda: _well(store))
        own.freeze()
        assert await until(lambda: _well(store, False)) < 1
        own.thaw()
        assert await until(lambda: _well(store)) < 1
        await store.close()

    run(story())


async def _well(store: ValkeyLimits, well: bool = True) -> bool:
    await store.tend(time.time())
    return store.status()["healthy"] is well


def test_a_server_that_was_never_there(own: Server) -> None:
    """A store can be made before its server; who asks is refused within the time-out, until it is there."""

    async def story() -> None:
        own.kill()
        store = ValkeyLimits(own.url(), TIMEOUT_S)
        assert not await answers(store)
        own.start()
        assert await until(lambda: answers(store)) < 1
        await store.close()

    run(story())


def test_a_server_that_cannot_be_reached() -> None:
    """Where connecting itself does not get through, the first request waits for the time-out, and the next not at all."""

    async def story() -> None:
        with socket.socket() as deaf, contextlib.ExitStack() as others:
            deaf.bind(("127.0.0.1", 0))
            deaf.listen(0)
            for _ in range(4):  # from here on the system drops who knocks
                other = others.enter_context(socket.socket())
                other.setblocking(False)
                other.connect_ex(deaf.getsockname())
            store = ValkeyLimits(f"valkey://127.0.0.1:{deaf.getsockname()[1]}", TIMEOUT_S)
            assert TIMEOUT_S - 0.01 < await _timed(store, ask(WIDE)) < TIMEOUT_S + 0.1
            assert max([await _timed(store, ask(WIDE)) for _ in range(100)]) < 0.02
            await store.close()

    run(story())


def test_a_time_out_can_be_changed(own: Server) -> None:
    """After `wait` the next request waits so long, and no longer."""

    async def story() -> None:
        store = ValkeyLimits(own.url(), 5)
        await pour(store, ask(WIDE))
        store.wait(0.05)
        own.freeze()
        assert 0.04 < await _timed(store, ask(WIDE)) < 0.15
        own.thaw()
        await store.close()

    run(story())


def test_an_idle_connection_that_was_closed_costs_nobody_anything(server: Server) -> None:
    """A server that closes idle connections refuses no request."""

    async def story() -> None:
        store = ValkeyLimits(server.url(), TIMEOUT_S)
        for _ in range(5):
            assert (await pour(store, ask(WIDE))).fits
            server.tell("CLIENT", "KILL", "TYPE", "normal")
            await asyncio.sleep(0.02)
        await store.close()

    run(story())


def test_a_held_up_event_loop_is_not_an_outage(server: Server) -> None:
    """When the gateway itself stood still for longer than the time-out, what has been answered meanwhile counts."""

    async def story() -> None:
        store = ValkeyLimits(server.url(), TIMEOUT_S)
        await pour(store, ask(WIDE))
        task = asyncio.ensure_future(pour(store, ask(WIDE)))
        await asyncio.sleep(0)
        time.sleep(2 * TIMEOUT_S)
        assert (await task).fits
        await store.close()

    run(story())


# ---- Restarts, scripts, errors


def test_a_server_without_the_script_is_given_it(server: Server) -> None:
    """A server that has forgotten the script gets it within the same request, which is counted once."""

    async def story() -> None:
        store = ValkeyLimits(server.url(), TIMEOUT_S)
        assert (await pour(store, ask(RATE))).levels[0].level == 1
        server.tell("SCRIPT", "FLUSH")
        assert (await pour(store, ask(RATE))).levels[0].level == 2
        await store.close()

    run(story())


def test_an_error_of_the_server_is_unavailability(server: Server) -> None:
    """A server that refuses to write makes requests fail at once, says why, and is healthy when it no longer does."""

    async def story() -> None:
        store = ValkeyLimits(server.url(), TIMEOUT_S)
        server.tell("CONFIG", "SET", "maxmemory", "1")
        try:
            with pytest.raises(LimitStoreUnavailable, match="maxmemory"):
                await pour(store, ask(RATE), ask(PLACES))
            assert "maxmemory" in str(store.status()["reason"])
        finally:
            server.tell("CONFIG", "SET", "maxmemory", "0")
        poured = await pour(store, ask(RATE), ask(PLACES))
        assert [level.level for level in poured.levels] == [1, 1]
        assert store.status()["healthy"] is True
        await store.close()

    run(story())


NAN, INFINITE = float("nan"), float("inf")
NONSENSE = {
    "a number": b":1\r\n",
    "nothing": b"$-1\r\n",
    "a list": b"*1\r\n:1\r\n",
    "a text": b"+OK\r\n",
    "too short": bulk(struct.pack("<6d", 1, 1, 0, 0, 1, 0)),
    "too long": bulk(struct.pack("<8d", 1, 1, 0, 0, 1, 0, 0, 0)),
    "no number": bulk(struct.pack("<7d", 1e15, 1, NAN, 0, 1, 0, 0)),
    "no fit": bulk(struct.pack("<7d", 1e15, NAN, 0, 0, 1, 0, 0)),
    "no time": bulk(struct.pack("<7d", INFINITE, 1, 0, 0, 1, 0, 0)),
    "infinities": bulk(struct.pack("<7d", 1e15, 1, INFINITE, 0, 1, -INFINITE, 0)),
    "half a fit": bulk(struct.pack("<7d", 1e15, 0.5, 0, 0, 1, 0, 0)),
    "less than nothing": bulk(struct.pack("<7d", 1e15, 1, 0, 0, 1, -1, 0)),
}


@pytest.mark.parametrize("answer", NONSENSE.values(), ids=list(NONSENSE))
@pytest.mark.parametrize("dry", [False, True])
def test_an_answer_that_the_script_cannot_have_given_is_unavailability(answer: bytes, dry: bool) -> None:
    """An answer of another type or length, or that holds no number, admits nobody and is told as the store's fault."""

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while head := await reader.readline():
                words = []
                for _ in range(int(head[1:])):
                    size = int((await reader.readline())[1:])
                    words.append((await reader.readexactly(size + 2))[:-2])
                writer.write({b"PING": b"+PONG\r\n", b"EVALSHA": answer}.get(words[0], b":1\r\n"))
        writer.close()
        ended.set()

    async def story() -> None:
        server = await asyncio.start_server(speak, "127.0.0.1", 0)
        store = ValkeyLimits(f"valkey://127.0.0.1:{server.sockets[0].getsockname()[1]}/0", PATIENCE_S)
        for _ in range(2):
            with pytest.raises(LimitStoreUnavailable, match="answer"):
                await store.acquire((ask(RATE), ask(PLACES)), 0.0, dry)
        assert store.status()["healthy"] is False
        assert store.status()["in_flight"] == 0
        await store.close()
        await ended.wait()
        server.close()

    ended = asyncio.Event()
    run(story())


# ---- Who may ask


def test_the_password_is_used_and_never_told(tmp_path: Path) -> None:
    """A server with a password is asked with it; a wrong one is unavailability, and stands in no text."""

    async def story() -> None:
        with Server(tmp_path / "server", password="s3cr3t-word") as server:
            store = ValkeyLimits(server.url(), TIMEOUT_S)
            assert await answers(store)
            assert "s3cr3t" not in repr(store.status())
            await store.close()
            for wrong in ("wr0ng-word", ""):
                store = ValkeyLimits(server.url(password=wrong), TIMEOUT_S)
                with pytest.raises(LimitStoreUnavailable) as caught:
                    await pour(store, ask(RATE))
                told = f"{caught.value!r} {caught.value.__cause__!r} {caught.value.__context__!r} {store.status()!r}"
                assert "wr0ng" not in told
                assert store.status()["healthy"] is False
                await store.close()

    run(story())


def test_an_address_as_a_policy_writes_it() -> None:
    """User and password are percent-decoded and shown nowhere; what an URL leaves out has its usual value."""
    address = Address.of("valkeys://us%40er:p%3Aw@[::1]:7000/3")
    assert (address.username, address.password, address.host, address.port) == ("us@er", "p:w", "::1", 7000)
    assert (address.db, address.tls, address.url) == (3, True, "valkeys://[::1]:7000/3")
    assert "p:w" not in repr(address)
    assert Address.of("valkey://cache").url == "valkey://cache:6379/0"


def test_tls_verifies_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over TLS a server whose certificate $SSL_CERT_FILE trusts is asked; one that nobody trusts is not."""

    async def works(server: Server) -> bool:
        store = ValkeyLimits(server.url(), 1.0)
        try:
            return (await pour(store, ask(RATE))).fits
        except LimitStoreUnavailable as error:
            assert "certificate" in str(error).lower()
            return False
        finally:
            await store.close()

    with Server(tmp_path / "server", password="word", tls=True) as server:
        assert not run(works(server))
        monkeypatch.setenv("SSL_CERT_FILE", str(server.certificate))
        assert run(works(server))


# ---- Who hangs up


def test_cancelled_requests_leave_answers_with_their_questions(server: Server) -> None:
    """Requests that are cancelled at random moments never give their answer to another one, and leave no place taken."""

    async def one(store: ValkeyLimits, number: int, dice: random.Random) -> None:
        limit = Limit(f"n{number}", Kind.RATE, 10_000 + number, 1, 1)
        asks = ask(limit), ask(Limit("all", Kind.CONCURRENCY, 10_000))
        for turn in itertools.count(1):
            task = asyncio.ensure_future(pour(store, *asks))
            if turn < 30:
                asyncio.get_running_loop().call_later(dice.random() * 0.004, task.cancel)
            with contextlib.suppress(asyncio.CancelledError):
                poured = await task
                assert poured.levels[0].capacity - poured.levels[0].remaining == poured.levels[0].level <= turn
                assert poured.levels[0].limit == limit.name
                assert poured.levels[1].level <= 100
                assert poured.reservation is not None
                poured.reservation.release()
                if turn > 30:
                    return

    async def story() -> None:
        store = ValkeyLimits(server.url(), 5.0)
        await pour(store, ask(WIDE))
        await asyncio.gather(*[one(store, number, random.Random(number)) for number in range(100)])
        assert store.status()["in_flight"] == 0
        await until(lambda: _nothing_of(store, "all"))
        await store.close()

    run(story())


async def _nothing_of(store: ValkeyLimits, name: str) -> bool:
    await store.tend(time.time())
    return not [one for one in await store.held(time.time()) if one.subject.startswith(name)]


def test_an_answer_is_its_own_questions(server: Server) -> None:
    """Of many commands in flight, each gets its own answer, however many of the others were cancelled."""

    async def echo(store: ValkeyLimits, word: bytes) -> None:
        assert await store._ask(packed(b"ECHO", word)) == word

    async def story() -> None:
        store = ValkeyLimits(server.url(), 5.0)
        dice = random.Random(7)
        for round_ in range(50):
            tasks = [asyncio.ensure_future(echo(store, b"%d-%d" % (round_, n))) for n in range(100)]
            for task in dice.sample(tasks, 50):
                asyncio.get_running_loop().call_later(dice.random() * 0.003, task.cancel)
            done = await asyncio.gather(*tasks, return_exceptions=True)
            assert {type(one) for one in done} <= {type(None), asyncio.CancelledError}
        await store.close()

    run(story())


# ---- Clusters


def test_a_cluster_of_one_node(tmp_path: Path) -> None:
    """A server in cluster mode runs all limits of a request at once."""

    async def story(server: Server) -> None:
        store = ValkeyLimits(server.url(), 1.0)
        poured = await pour(store, ask(RATE), ask(QUOTA), ask(PLACES))
        assert [level.level for level in poured.levels] == [1, 1, 1]
        assert len(await store.held(time.time())) == 3
        wanted = {ask(RATE).subject, ask(QUOTA).subject}
        held = [one for one in await store.held(time.time()) if one.subject in wanted]
        assert await store.empty(held, time.time()) == 2
        await store.close()

    with cluster(tmp_path, 1) as nodes:
        run(story(nodes[0]))


def test_a_cluster_tells_where_the_keys_are(tmp_path: Path) -> None:
    """A node that has not the keys names the one that has, which is asked from then on; places and lists follow."""

    async def story(first: Server, last: Server) -> None:
        store = ValkeyLimits(first.url(), 1.0)
        assert await store.held(time.time()) == []
        several = await asyncio.gather(*[pour(store, ask(RATE), ask(PLACES, str(n))) for n in range(4)])
        assert sorted([poured.levels[0].level for poured in several]) == [1, 2, 3, 4]
        assert int(last.tell("DBSIZE")[1:]) == 5
        for poured in several:
            assert poured.reservation is not None
            poured.reservation.release()
        assert [one.subject for one in await store.held(time.time())] == [ask(RATE).subject]
        other = ValkeyLimits(first.url(), 1.0)
        assert (await pour(other, ask(RATE))).levels[0].level == 5
        await other.close()
        await store.close()

    with cluster(tmp_path, 2) as nodes:
        run(story(*nodes))


# ---- Places in flight


def test_a_place_is_free_as_soon_as_it_was_given_back(server: Server) -> None:
    """What is asked after a place was given back sees it free; giving it back again changes nothing."""

    async def story() -> None:
        store = ValkeyLimits(server.url(), TIMEOUT_S)
        one = Limit("one", Kind.CONCURRENCY, 1)
        for _ in range(50):
            poured = await pour(store, ask(one))
            assert poured.fits
            assert poured.reservation is not None
            refused = await pour(store, ask(one), ask(WIDE, "u"))
            assert (refused.fits, refused.levels[0].retry_after_s, refused.levels[1].level) == (False, 1.0, 0)
            poured.reservation.release()
            poured.reservation.release()
        await store.close()

    run(story())


@pytest.mark.timing
def test_places_of_a_dead_gateway_end_with_their_lease(server: Server) -> None:
    """Who lives renews what it holds; what nobody renews is free after a lease."""

    async def story() -> None:
        living, dead = [ValkeyLimits(server.url(), 1.0, lease_s=0.5) for _ in range(2)]
        kept = await pour(living, ask(PLACES))
        assert (await pour(dead, ask(PLACES))).levels[0].level == 2
        began = time.monotonic()

        async def one_left() -> bool:
            await living.tend(time.time())
            return (await pour(living, ask(PLACES), dry=True)).levels[0].level == 2  # with the one that is asked for

        assert 0.3 < await until(one_left) < 1.0
        while time.monotonic() - began < 1.5:
            assert await one_left()
        assert kept.reservation is not None
        kept.reservation.release()
        assert (await pour(living, ask(PLACES), dry=True)).levels[0].level == 1
        await dead.close()
        await living.close()

    run(story())


def test_a_restarted_server_learns_of_places_again(own: Server) -> None:
    """What is held when the server restarts with nothing is there again once the gateway has reconnected."""

    async def story() -> None:
        store = ValkeyLimits(own.url(), TIMEOUT_S)
        held = await pour(store, ask(PLACES))
        own.kill()
        own.start()

        async def learned() -> bool:
            await store.tend(time.time())
            with contextlib.suppress(LimitStoreUnavailable):
                return [one.state for one in await store.held(time.time())] == [1]
            return False

        assert await until(learned) < 1
        assert held.reservation is not None
        held.reservation.release()
        assert await store.held(time.time()) == []
        await store.close()

    run(story())


def test_a_closed_store_holds_nothing(server: Server) -> None:
    """Closing gives back what is held, also in another event loop, and asks nobody afterwards."""
    store, other = ValkeyLimits(server.url(), 1.0), ValkeyLimits(server.url(), 1.0)
    assert run(pour(store, ask(PLACES))).fits
    assert run(pour(store, ask(PLACES))).levels[0].level == 2
    assert store.status()["in_flight"] == 2
    run(store.close())
    with pytest.raises(LimitStoreUnavailable, match="closed"):
        run(pour(store, ask(PLACES)))
    assert run(pour(other, ask(PLACES), dry=True)).levels[0].level == 1
    run(other.close())


# ---- What stays in the server


def test_empty_buckets_vanish(server: Server) -> None:
    """A bucket is gone ten seconds after it is empty, a quota when its window ends, places when their lease does."""

    async def story() -> None:
        store = ValkeyLimits(server.url(), TIMEOUT_S)
        quick = Limit("quick", Kind.RATE, 5, 10, 1)
        await pour(store, ask(quick), ask(QUOTA), ask(PLACES))
        keys = {name: (PREFIX + f"{name}:".encode()).decode() for name in ("rate", "quota.day", "concurrency")}
        ttl = {name: int(server.tell("PTTL", keys[name] + ask(limit).subject)[1:]) for name, limit in
               (("rate", quick), ("quota.day", QUOTA), ("concurrency", PLACES))}  # fmt: skip
        assert 0 < ttl["rate"] <= 10_101
        assert abs(ttl["quota.day"] / 1000 - (end_hour("day", time.time()) * 3600 - time.time())) < 1
        assert 14_000 < ttl["concurrency"] <= 15_000
        await pour(store, ask(WIDE, cost=0), ask(QUOTA, "other", cost=0))
        assert int(server.tell("DBSIZE")[1:]) <= 3
        await store.close()

    run(story())


def test_no_bucket_vanishes_before_it_is_empty(server: Server) -> None:
    """Whatever is poured, also under other numbers than before, a bucket lives until it is empty, and at most ten
    seconds longer; a quota that is poured into again ends with its window as before."""

    async def story() -> None:
        store, dice = ValkeyLimits(server.url(), TIMEOUT_S), random.Random(4)
        limits = [Limit("rate", Kind.RATE, 500, number, period_s) for number, period_s in ((1, 1), (7, 1), (1, 60))]
        for _ in range(300):
            asks = ask(dice.choice(limits), str(dice.randrange(10)), dice.randrange(1, 9)), ask(QUOTA, cost=0)
            await pour(store, *asks)
            key, before = PREFIX.decode() + f"rate:{asks[0].subject}", time.time()
            state, ttl = (int(server.tell(word, key).splitlines()[-1].strip(":")) for word in ("GET", "PTTL"))
            assert before * 1000 + ttl <= state / 1000 + 10_001
            assert state / 1000 <= time.time() * 1000 + ttl + 1
        for _ in range(3):
            await pour(store, ask(QUOTA))
            ttl = int(server.tell("PTTL", PREFIX.decode() + f"quota.day:{ask(QUOTA).subject}")[1:])
            assert abs(ttl / 1000 - (end_hour("day", time.time()) * 3600 - time.time())) < 1
        await store.close()

    run(story())


def test_a_bucket_fuller_than_full_begins_to_drain(server: Server) -> None:
    """A rate that is further ahead than a full bucket, since a clock stepped back, counts as full from now on."""

    async def story() -> None:
        store = ValkeyLimits(server.url(), TIMEOUT_S)
        key = PREFIX.decode() + f"rate:{ask(RATE).subject}"
        far = int((time.time() + 10**6) * 1e6)
        server.tell("SET", key, str(far))
        assert (await pour(store, ask(RATE), dry=True)).levels[0].level == 5
        assert str(far) in server.tell("GET", key)
        refused = await pour(store, ask(RATE))
        assert (refused.fits, refused.levels[0].level) == (False, 5)
        assert 59 < refused.levels[0].retry_after_s <= 60
        stored = int(server.tell("GET", key).splitlines()[1])
        assert abs(stored / 1e6 - time.time() - 300) < 1
        await store.close()

    run(story())


def test_a_window_that_is_not_over_stays(server: Server) -> None:
    """A quota's window of a clock that was up to a day ahead counts until it ends; one that is over counts no longer."""

    async def story() -> None:
        store = ValkeyLimits(server.url(), TIMEOUT_S)
        hour = int(time.time() // 3600)
        key = PREFIX.decode() + f"quota.day:{ask(QUOTA).subject}"
        ends = end_hour("day", end_hour("day", time.time()) * 3600)
        server.tell("SET", key, f"{ends}:99")
        assert (await pour(store, ask(QUOTA))).levels[0].level == 100
        refused = await pour(store, ask(QUOTA))
        assert abs(refused.levels[0].retry_after_s - (ends * 3600 - time.time())) < 1
        server.tell("SET", key, f"{hour}:99")
        assert (await pour(store, ask(QUOTA))).levels[0].level == 1
        await store.close()

    run(story())


# ---- The script's arithmetic


def _evaluated(server: Server, code: str, *words: str) -> list[str]:
    answer = server.tell("EVAL", (ARITHMETIC.decode() + "\n" + code).replace("µ", "u"), "0", *words)
    assert not answer.startswith("-"), answer
    return answer.split("\r\n")[1].split(" ")


def test_windows_are_those_of_the_calendar(server: Server) -> None:
    """Hours, days and months end in the script as in windows.py, on each day from 1970 to 2200 and at their edges."""
    dice = random.Random(1)
    days = [datetime(1970, 1, 1, tzinfo=UTC) + timedelta(days=day) for day in range(84_000)]
    instants = [int(day.timestamp()) + second for day in days[::7] for second in (0, dice.randrange(86_400), 86_399)]
    firsts = [datetime(year, month, 1, tzinfo=UTC) for year in range(1970, 2200) for month in range(1, 13)]
    instants += [int(first.timestamp()) + second for first in firsts for second in (-1, 0) if first.year > 1970]
    code = "local out = {} for now in ARGV[2]:gmatch('%d+') do out[#out + 1] = end_hour(tonumber(ARGV[1]), now) end"
    code += " return table.concat(out, ' ')"
    for number, window in enumerate(("hour", "day", "month"), 1):
        found = _evaluated(server, code, str(number), " ".join(map(str, instants)))
        assert [int(hour) for hour in found] == [end_hour(window, instant) for instant in instants]


def test_what_is_over_is_so_in_windows_py(server: Server) -> None:
    """Whether a window is over is the same in the script as in windows.py, at every edge of the one after the next."""
    dice, cases = random.Random(4), []
    for _ in range(5000):
        number, now = dice.randrange(3), dice.randrange(1, 7 * 10**9)
        window = ("hour", "day", "month")[number]
        ends = end_hour(window, now)
        for end in (0, ends - 1, ends, end_hour(window, ends * 3600), ends + dice.randrange(1500)):
            cases += [(number + 1, now, end + more) for more in (-1, 0, 1) if end + more >= 0]
    code = "local out, of = {}, {} for word in ARGV[1]:gmatch('%d+') do of[#of + 1] = tonumber(word) end"
    code += " for at = 1, #of, 3 do out[#out + 1] = is_over(of[at + 2], of[at], of[at + 1]) and '1' or '0' end"
    found = _evaluated(
        server, f"{code} return table.concat(out, ' ')", " ".join(str(n) for case in cases for n in case)
    )
    windows = ("", "hour", "day", "month")
    assert found == [str(int(is_over(windows[number], end, now))) for number, now, end in cases]
    assert {"0", "1"} == set(found)


def test_buckets_are_those_of_bucket_py(server: Server) -> None:
    """The script pours as bucket.py does, to the microsecond, on random states and numbers."""
    dice, cases = random.Random(2), []
    for _ in range(20_000):
        interval, now = dice.choice((1, 7, 1000, 1_000_000, 86_400_000_000)), dice.randrange(1, 4 * 10**15)
        span = interval * dice.randrange(1, 10_000)
        state = dice.choice((0, now, now + span, now + dice.randrange(-span, 2 * span), now + span - interval))
        cases.append((max(0, state), now, interval, span, dice.randrange(4)))
    code = "local out, of = {}, {} for word in ARGV[1]:gmatch('%d+') do of[#of + 1] = tonumber(word) end"
    code += " for at = 1, #of, 5 do local after = pour(of[at], of[at + 1], of[at + 2], of[at + 3], of[at + 4])"
    code += " out[#out + 1] = after and format('%.0f', after) or '-' end return table.concat(out, ' ')"
    found = _evaluated(server, code, " ".join([str(number) for case in cases for number in case]))
    assert found == [str(after) if (after := bucket.pour(*case)) is not None else "-" for case in cases]


def test_levels_are_those_of_bucket_py(server: Server) -> None:
    """What is said of a bucket after pouring follows from the state that the server holds."""

    async def story() -> None:
        store = ValkeyLimits(server.url(), TIMEOUT_S)
        dice = random.Random(3)
        for _ in range(200):
            poured = await pour(store, ask(RATE, str(dice.randrange(20)), cost=dice.randrange(1, 4)))
            level = poured.levels[0]
            assert level.level + level.remaining == level.capacity
            assert (level.retry_after_s > 0) is not poured.fits
        now = time.time()
        for one in await store.held(now):
            left = bucket.remaining(one.state, int(now * 1e6), RATE.interval(10**6), RATE.interval(10**6) * 5)
            assert abs(store.level(RATE, one.state, now).remaining - left) <= 1
        await store.close()

    run(story())
