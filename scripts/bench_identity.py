"""End to end: a backend that asks an identity service about each key, beside the same backend behind `serve`.

The identity service answers after 0, 10 and 50 ms. Behind `serve` (one worker, a warm key of its own, or of WorkOS,
which is that service) the backend verifies our token instead. All of it is on loopback, in one run, rounds interleaved:
one caller for the latency, many for the throughput. The break-even is the service's delay above which the way through
the gateway is the faster one, on the line through what was measured. One JSON row a line.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median

from bench_cpu import HEADERS, HERE, LOAD, PATH, free_port, new_key, started, status_of

BACKENDS = HERE / "bench_backends.py"
DELAYS_MS = (0, 10, 50)
MANY = 64
"""Callers at once for the throughput: enough that 50 ms at the identity service do not bound it."""
KEY = "sk_live_of_the_bench_0000"
POLICY = """version: 1
issuer: http://127.0.0.1:{port}
upstream: http://127.0.0.1:{backend}
log: {{decisions: off}}
"""
WORKOS = """api_keys: {{source: workos, cache_ttl: 2s}}
workos: {{base_url: "http://127.0.0.1:{identity}", api_key_env: BENCH_WORKOS_KEY, events: "off"}}
"""
"""A life so short that a key is asked for again, beside its requests, while it is measured."""
UNITS_MS = {"us": 1e-3, "ms": 1.0, "s": 1e3}


@dataclass(slots=True)
class Way:
    """A way of a request, and what it gave: of one caller milliseconds, of many requests a second; a number a round."""

    what: str
    port: int
    key: str
    p50_ms: list[float] = field(default_factory=list)
    p99_ms: list[float] = field(default_factory=list)
    rps: list[float] = field(default_factory=list)
    many_p99_ms: list[float] = field(default_factory=list)

    def measure(self, seconds: float) -> None:
        """One round, with a key that is warm: it was in use a moment ago."""
        status_of(f"http://127.0.0.1:{self.port}{PATH}", self.key)
        _, p50, p99 = load(self, 1, seconds)
        rps, _, many_p99 = load(self, MANY, seconds)
        self.p50_ms.append(p50)
        self.p99_ms.append(p99)
        self.rps.append(rps)
        self.many_p99_ms.append(many_p99)

    def row(self) -> list[object]:
        """Its line of the table: medians."""
        one = f"1 caller: p50 {median(self.p50_ms):.2f} ms, p99 {median(self.p99_ms):.2f} ms"
        spread = f"{min(self.rps):,.0f}-{max(self.rps):,.0f}"
        many = f"{MANY}: {median(self.rps):,.0f} requests/s ({spread}), p99 {median(self.many_p99_ms):.0f} ms"
        return [self.what, f"{one}; {many}", "", None]


def load(way: Way, callers: int, seconds: float) -> tuple[float, float, float]:
    """Requests a second, and the latency's p50 and p99 in ms. Any answer but a 200 ends the measurement."""
    headers = [*HEADERS, f"Authorization: Bearer {way.key}"]
    if shutil.which("wrk") is None:
        words = ["client", str(way.port), str(seconds), str(callers), PATH, *headers]
        done = subprocess.run([sys.executable, str(LOAD), *words], check=True, capture_output=True, text=True)
        count, p50, p99 = map(float, done.stdout.split())
        return count / seconds, p50 * 1e3, p99 * 1e3
    words = ["-t1", f"-c{callers}", f"-d{seconds:.0f}s", "--latency", "--timeout", "20s"]
    words += [word for line in headers for word in ("-H", line)]
    done = subprocess.run(["wrk", *words, f"http://127.0.0.1:{way.port}{PATH}"], capture_output=True, text=True)
    rps = re.search(r"Requests/sec: +([\d.]+)", done.stdout)
    found = dict(re.findall(r"(50|99)% +([\d.]+(?:us|ms|s))", done.stdout))
    if done.returncode or rps is None or len(found) != 2 or re.search("Non-2xx|Socket errors", done.stdout):
        raise SystemExit(f"bench: {way.what}: not every request was answered with 200:\n{done.stdout}{done.stderr}")
    return float(rps[1]), milliseconds(found["50"]), milliseconds(found["99"])


def milliseconds(text: str) -> float:
    """A time as wrk writes it."""
    number, unit = re.fullmatch(r"([\d.]+)(us|ms|s)", text).groups()  # type: ignore[union-attr]  # it was found so
    return float(number) * UNITS_MS[unit]


# ---- The processes


class Yard:
    """Everything that runs; it has ended with the stack."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        self._stack, self.folder = stack, folder

    def start(self, *command: str, port: int) -> int:
        """A process that answers on this port; the port."""
        env = {**os.environ, "HOME": str(self.folder), "BENCH_WORKOS_KEY": "sk_test_of_the_gateway"}
        log = self.folder / f"{port}.log"
        self._stack.enter_context(started([sys.executable, *command], port, env, log))
        return port

    def program(self, what: str, *words: str) -> int:
        """A part of bench_backends.py; its port."""
        port = free_port()
        return self.start(str(BACKENDS), what, str(port), *words, port=port)

    def gateway(self, more: str = "") -> int:
        """`serve` with a backend of its own that verifies its tokens; its port."""
        port = free_port()
        backend = self.program("verifying", f"http://127.0.0.1:{port}")
        policy = self.folder / f"policy-{port}.yaml"
        policy.write_text(POLICY.format(port=port, backend=backend) + more)
        words = ["serve", "--policy", str(policy), "--state", str(self.folder / "state"), "--workers", "1"]
        return self.start("-m", "keyswap", *words, "--listen", f"127.0.0.1:{port}", "--grace", "1s", port=port)


def ways(yard: Yard) -> tuple[list[Way], list[Way]]:
    """What is measured: the ways by the identity service, in the order of its delays, and those by the gateway."""
    identities = {delay_ms: yard.program("identity", str(delay_ms), KEY) for delay_ms in DELAYS_MS}
    asking = [
        Way(f"the backend asks about each key, {delay_ms} ms", yard.program("asking", f"http://127.0.0.1:{port}"), KEY)
        for delay_ms, port in identities.items()
    ]
    own, slowest = new_key(yard.folder), DELAYS_MS[-1]
    behind = [Way("the backend behind serve, keys of its own", yard.gateway(), own)]
    at_workos = yard.gateway(WORKOS.format(identity=identities[slowest]))
    behind.append(Way(f"the backend behind serve, WorkOS' keys, {slowest} ms away", at_workos, KEY))
    for way in (*asking, *behind):
        judged(way)
    return asking, behind


def judged(way: Way) -> None:
    """Prove that what is measured decides: no key and an unknown one 401, the key 200."""
    url = f"http://127.0.0.1:{way.port}{PATH}"
    told = status_of(url), status_of(url, "sk_live_nobody_knows"), status_of(url, way.key)
    if told != (401, 401, 200):
        raise SystemExit(f"bench: {way.what} answers {told}: this would measure nothing")


# ---- The break-even


def break_even(costs: Sequence[float], behind: float) -> str:
    """The delay above which `behind` is less than what it costs to ask, told for each of DELAYS_MS.

    Below 0 ms: it is less though the service answers at once.
    """
    if behind <= costs[0]:
        return f"below 0 ms ({behind / costs[0]:.2f} of its cost there)"
    for (low, cheap), (high, dear) in pairwise(zip(DELAYS_MS, costs, strict=True)):
        if behind <= dear:
            return f"{low + (high - low) * (behind - cheap) / (dear - cheap):.1f} ms"
    return f"above {DELAYS_MS[-1]} ms"


def break_evens(asking: Sequence[Way], behind: Sequence[Way]) -> list[list[object]]:
    """For each way by the gateway, by latency and by throughput."""
    found: list[list[object]] = []
    for way in behind:
        by_latency = break_even([median(one.p50_ms) for one in asking], median(way.p50_ms))
        # Of many callers, what a request costs is its share of the time.
        by_rate = break_even([1 / median(one.rps) for one in asking], 1 / median(way.rps))
        what = way.what.removeprefix("the backend behind ")
        told = f"p50 of 1 caller: {by_latency}; requests/s of {MANY}: {by_rate}"
        found.append([f"delay above which {what}, is faster", told, "", None])
    return found


def main() -> None:
    """Measure, with everything in a folder that is gone afterwards."""
    quick = "--quick" in sys.argv[1:]
    rounds, seconds = (1, 2.0) if quick else (5, 4.0)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="keyswap-bench-")))
        asking, behind = ways(Yard(stack, folder))
        everyone = [*asking, *behind]
        for way in everyone:
            load(way, MANY, 1.0)
        for number in range(rounds):
            for way in everyone if number % 2 == 0 else reversed(everyone):
                way.measure(seconds)
            print("  " + ", ".join(f"{way.p50_ms[-1]:.2f} ms {way.rps[-1]:.0f}/s" for way in everyone), file=sys.stderr)
    for row in [*(way.row() for way in everyone), *break_evens(asking, behind)]:
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
