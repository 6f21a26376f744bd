"""What limits cost: a decision with 1, 3 and 6 of them, a million live buckets, a round trip to Valkey.

Beside them `limits` and `throttled-py` doing the nearest equivalent in the same run: one process, in memory, each limit
on its own, so neither exact over processes nor all-or-nothing. One JSON row a line.
"""

import asyncio
import gc
import json
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import throttled
import valkey.asyncio
from bench_gate import headers, ran, tell, timed
from limits import RateLimitItemPerSecond
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter

from keyswap import policy
from keyswap.composition.build_gate import build
from keyswap.composition.resources import Resources
from keyswap.keys.local.writer import Ledger
from keyswap.limits.limit import Kind, Limit, LimitRequest
from keyswap.limits.local.store import LocalLimits
from keyswap.limits.valkey.connection import packed
from keyswap.limits.valkey.store import ValkeyLimits
from keyswap.model import Admit, Request
from keyswap.state import StateDirectory

POLICY = """version: 1
issuer: http://127.0.0.1:8080
upstream: http://127.0.0.1:9000
log: {decisions: off}
limits: [%s]
"""
GET = packed(b"GET", b"x")
ROUNDS = 3
"""What is noisy is measured so often, and the median told."""
BY = ("key", "org", "user", "ip", "agent", "session")
LIMITS = [Limit(f"limit-{number}", Kind.RATE, 10**8, 10**8, 1) for number in range(6)]
ASKS = tuple(
    LimitRequest(limit, f"{limit.name}\x1f{by}\x1fkey_01J0000000000000000000000A", 1)
    for limit, by in zip(LIMITS, BY, strict=True)
)


def decisions(folder: Path, count: int) -> None:
    """What so many limits add to a warm decision."""
    resources = Resources(StateDirectory(folder / "state").open())
    with Ledger(resources.state, resources.epochs, resources.pepper, "ksw") as ledger:
        _, key = ledger.create(now=time.time(), org_id="org_1", user_id="user_1")
    request = Request("GET", b"/v1/pets/42", headers(key), "127.0.0.1")
    base = 0.0
    for number in (0, 1, 3, 6):
        said = ", ".join(f"{{name: l{at}, by: [{BY[at]}], rate: 1000000/s, burst: 100000000}}" for at in range(number))
        built = build(policy.parse((POLICY % said).encode(), "p"), resources, None, time.time(), True, Path("p"))
        assert isinstance(ran(built.gate.decide(request, time.time())), Admit)
        times = timed(count, lambda _: ran(built.gate.decide(request, time.time())))  # noqa: B023
        p50 = median(times) / 1e3
        base = base or p50
        if number:
            each = (p50 - base) / number
            tell(
                f"a decision with {number} limit{'s' * (number > 1)}, local",
                f"p50 {p50:.1f} µs: {each:.1f} µs a limit",
                "≤ 5 µs a limit",
                each <= 5,
            )
    ran(resources.release())
    resources.close()


def callers(folder: Path, count: int) -> None:
    """What three limits cost for a thousand callers who each come once a second, and so stay below all of them."""
    moment = time.monotonic_ns()
    store = LocalLimits(StateDirectory(folder / "callers").open(), clock=lambda: moment)
    limits = [Limit(f"limit-{number}", Kind.RATE, 10, 10, 1) for number in range(3)]
    asks = [
        tuple(
            LimitRequest(limit, f"{limit.name}\x1f{by}\x1fcaller-{number}", 1)
            for limit, by in zip(limits, BY, strict=False)
        )
        for number in range(1000)
    ]
    times = array("d")
    for turn in range(max(3, count // 1000)):
        for each in asks:
            moment += 10**6
            began = time.perf_counter()
            poured = ran(store.acquire(each, 1e9))
            if turn:
                times.append(time.perf_counter() - began)
            assert poured.fits
    p50 = median(times) * 1e6
    tell("three limits with 1,000 callers, local", f"p50 {p50:.1f} µs a request", "≤ 6 µs", p50 <= 6)
    ran(store.close())


def others(count: int) -> None:
    """The nearest equivalents, each limit asked on its own."""
    strategy, item = MovingWindowRateLimiter(MemoryStorage()), RateLimitItemPerSecond(1000)
    quota = throttled.per_sec(1000, burst=1000)
    store = throttled.store.MemoryStore()
    made = [throttled.Throttled(key=f"l{at}", using="gcra", quota=quota, store=store) for at in range(6)]
    for number in (1, 3, 6):
        one = median(timed(count, lambda _: [strategy.hit(item, f"l{at}") for at in range(number)])) / 1e3  # noqa: B023
        two = median(timed(count, lambda _: [each.limit() for each in made[:number]])) / 1e3  # noqa: B023
        tell(f"{number} limit{'s' * (number > 1)} in memory", f"limits {one:.1f} µs, throttled-py {two:.1f} µs")


def buckets(folder: Path, count: int) -> None:
    """So many live buckets: what each costs, and the worst pause while they are made, in each of three runs.

    The worst of a million is mostly somebody else's: beside it stands that of a loop that does nothing for as long.
    """
    gc.collect()
    gc.freeze()  # as the service does when a policy has been loaded
    runs = [_made(folder / f"many-{run}", count) for run in range(ROUNDS)]
    each = max(each for each, _, _ in runs)
    tell(f"{count:,} live buckets, local", f"{each:.0f} bytes each", "≤ 200", each <= 200)
    worst, p999 = median(run[1] for run in runs), median(run[2] for run in runs)
    idle = median(_idle_pause(count) for _ in range(ROUNDS))
    told = ", ".join(f"{run[1] * 1e3:.2f}" for run in runs)
    measured = (
        f"{worst * 1e3:.2f} ms (median of {told}; p99.9 {p999 * 1e6:.0f} µs; of an empty loop {idle * 1e3:.2f} ms)"
    )
    tell("the worst pause while they are made", measured, "≤ 2 ms", worst <= 0.002)


def _made(folder: Path, count: int) -> tuple[float, float, float]:
    """Bytes of a bucket, the worst pause where the system did not give the processor to somebody else, and p99.9."""
    store = LocalLimits(StateDirectory(folder).open())
    slow = Limit("per-key", Kind.RATE, 10, 10, 86400)
    before, worst, times = resident(), 0.0, array("d")
    for number in range(count):
        ask = (LimitRequest(slow, f"per-key\x1fkey\x1fkey_01J0000000000000{number:010d}", 1),)
        switches, began = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw, time.perf_counter()
        ran(store.acquire(ask, 1e9))
        took = time.perf_counter() - began
        times.append(took)
        if resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw == switches:
            worst = max(worst, took)
    grew = (resident() - before) - sys.getsizeof(times)
    each = max(grew / count, store.status()["bytes"] / count)  # type: ignore[operator]
    ran(store.close())
    shutil.rmtree(folder)
    return each, worst, quantiles(times, n=1000)[-1]


def _idle_pause(count: int) -> float:
    """The worst pause of a loop that does nothing for about as long."""
    worst, last, until = 0.0, time.perf_counter(), time.perf_counter() + count * 5e-6
    switches = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
    while last < until:
        now, before = time.perf_counter(), switches
        switches = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
        worst, last = max(worst, now - last if switches == before else 0.0), now
    return worst


def resident() -> int:
    """Resident memory in bytes."""
    with suppress(OSError):
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
    return 0


@contextmanager
def server(folder: Path) -> Iterator[int | None]:
    """A Valkey or Redis server; None without one."""
    program = shutil.which("valkey-server") or shutil.which("redis-server")
    if program is None:
        yield None
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    words = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    process = subprocess.Popen([program, *words], stdout=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 10
        while time.monotonic() < until:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
        yield port
    finally:
        process.terminate()
        process.wait(10)


async def round_trips(port: int, count: int) -> None:
    """All limits of a request over one round trip, beside a GET by the same client, interleaved."""
    store = ValkeyLimits(f"valkey://127.0.0.1:{port}/0", 1.0)
    client = valkey.asyncio.Valkey(host="127.0.0.1", port=port)
    for number in (1, 3, 6):
        asks = ASKS[:number]

        async def pour() -> Any:
            return await store.acquire(asks, time.time())  # noqa: B023

        async def bare() -> Any:
            return await store._ask(GET)  # noqa: SLF001 (the same client, without a script)

        async def library() -> Any:
            return await client.get("x")

        rounds = [await _interleaved((pour, bare, library), count) for _ in range(ROUNDS)]
        ratio = median(ours / same for ours, same, _ in rounds)
        ours, same, theirs = (median(found) for found in zip(*rounds, strict=True))
        what = f"{number} limit{'s' * (number > 1)} of a request, Valkey on loopback"
        measured = f"{ours:.0f} µs, a bare GET {same:.0f} µs: {ratio:.2f} × (valkey.asyncio's GET {theirs:.0f} µs)"
        tell(what, measured, "≤ 1.3 ×", ratio <= 1.3)
    await client.aclose()
    await store.close()


async def _interleaved(acts: tuple[Callable[[], Any], ...], count: int) -> tuple[float, ...]:
    """The median time of each, in µs, each done so often in turn."""
    times: list[list[float]] = [[] for _ in acts]
    for turn in range(count):
        for act, found in zip(acts, times, strict=True):
            began = time.perf_counter()
            await act()
            if turn > count // 10:
                found.append(time.perf_counter() - began)
    return tuple([median(found) * 1e6 for found in times])


def main() -> None:
    """Measure, with everything in a folder that is gone afterwards."""
    quick = "--quick" in sys.argv[1:]
    with tempfile.TemporaryDirectory(prefix="keyswap-bench-") as name:
        folder = Path(name)
        decisions(folder, 3000 if quick else 20_000)
        callers(folder, 10_000 if quick else 50_000)
        others(3000 if quick else 20_000)
        buckets(folder, 100_000 if quick else 1_000_000)
        with server(folder) as port:
            if port is None:
                print(
                    json.dumps(["limits in Valkey", "not measured: no valkey-server or redis-server", "≤ 1.3 ×", None])
                )
            else:
                asyncio.run(round_trips(port, 500 if quick else 3000))


if __name__ == "__main__":
    main()
