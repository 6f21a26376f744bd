"""What the gate costs without sockets: a decision, the watch over the key database, a signature, mitmproxy's hooks.

Everything is warm and in one thread; times are of single calls, on the clock of the machine. One JSON row a line.
"""

import json
import logging
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine
from contextlib import closing
from pathlib import Path
from statistics import quantiles
from types import SimpleNamespace
from typing import Any

from mitmproxy.http import Headers, HTTPFlow, Response
from mitmproxy.proxy.mode_specs import ProxyMode
from mitmproxy.test import tflow

from keyswap import policy
from keyswap.composition.build_gate import Built, build
from keyswap.composition.resources import Resources
from keyswap.keys.local.writer import Ledger
from keyswap.model import Admit, Claims, Request
from keyswap.shell.mitm.proxy_master import DEAD
from keyswap.shell.proxy.addon import RunningGate
from keyswap.shell.runtime.runtime import Runtime
from keyswap.state import StateDirectory
from keyswap.tokens.mint import MintCache, Minter

POLICY = """version: 1
issuer: http://127.0.0.1:8080
upstream: http://127.0.0.1:9000
log: {decisions: off}
"""
RATE = 300
"""Requests a second of a busy mitmproxy on one core: what happens twice a second is shared by half as many."""


def headers(key: str) -> tuple[tuple[bytes, bytes], ...]:
    """The head of an ordinary API client's request."""
    return (
        (b"Host", b"api.example.com"),
        (b"User-Agent", b"python-httpx/0.28.1"),
        (b"Accept", b"application/json"),
        (b"Accept-Encoding", b"gzip, deflate, br, zstd"),
        (b"Accept-Language", b"en-GB,en;q=0.9"),
        (b"Connection", b"keep-alive"),
        (b"Cache-Control", b"no-cache"),
        (b"Idempotency-Key", b"5f2b1c9e-8d0a-4f0e-9a53-7a1d2b3c4d5e"),
        (b"Traceparent", b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
        (b"Authorization", b"Bearer " + key.encode()),
    )


def tell(what: str, measured: str, target: str = "", met: bool | None = None) -> None:
    """Print a row."""
    print(json.dumps([what, measured, target, met]), flush=True)


def ran[T](step: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that never waits."""
    try:
        step.send(None)
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]  # StopIteration holds an Any
    raise RuntimeError("the warm path waited for something")


def spread(times_ns: list[int]) -> tuple[float, float]:
    """p50 and p99 in microseconds."""
    parts = quantiles(times_ns, n=100)
    return parts[49] / 1e3, parts[98] / 1e3


def timed(count: int, act: Callable[[int], object]) -> list[int]:
    """The time of each of `count` calls, in nanoseconds; a tenth as many come first, untimed."""
    for number in range(count // 10):
        act(number)
    times = []
    for number in range(count):
        began = time.perf_counter_ns()
        act(number)
        times.append(time.perf_counter_ns() - began)
    return times


def decisions(built: Built, key: str, count: int) -> None:
    """A warm key with a minted token."""
    gate, request = built.gate, Request("GET", b"/v1/pets/42?expand=owner", headers(key), "127.0.0.1")
    assert isinstance(ran(gate.decide(request, time.time())), Admit)
    times = timed(count, lambda _: ran(gate.decide(request, time.time())))
    p50, p99 = spread(times)
    rate = len(times) / sum(times) * 1e9
    tell("decide, warm", f"p50 {p50:.1f} µs, p99 {p99:.1f} µs, {rate:,.0f}/s", "p50 ≤ 10 µs", p50 <= 10)


def watching(built: Built, count: int) -> None:
    """What seeing a revocation at the next request costs each request."""
    check, now = built.authenticators.deny_list.check, time.time()
    began = time.perf_counter_ns()
    for _ in range(count):
        check(now)
    each = (time.perf_counter_ns() - began) / count / 1e3
    health, _ = spread(timed(2000, lambda number: check(now + 10 + number)))
    whole = each + health / (RATE / 2)
    measured = f"{whole:.2f} µs: {each:.2f}, and {health:.0f} twice a second at {RATE} requests/s"
    tell("noticing a revocation", measured, "≤ 1 µs", whole <= 1)


def signatures(resources: Resources, count: int) -> None:
    """A token that has to be signed."""
    now = time.time()
    for algorithm in ("RS256", "ES256", "EdDSA"):
        resources.keyring.ensure(algorithm, int(now))
        mint = Minter(resources.keyring, algorithm, 120, MintCache())

        def fresh(number: int, mint: Minter = mint) -> object:
            who = f"user_{number}_{time.perf_counter_ns()}"
            return mint(Claims("authkit", "i", who, None, None, "org", (), ("a",), None, None, "key", None), now)

        p50, p99 = spread(timed(count, fresh))
        tell(f"a token minted cold, {algorithm}", f"p50 {p50:.0f} µs, p99 {p99:.0f} µs")


def flows(key: str, count: int) -> list[HTTPFlow]:
    """Requests as mitmproxy hands them over."""
    made = [tflow.tflow() for _ in range(count)]
    for flow in made:
        flow.client_conn.proxy_mode = ProxyMode.parse(DEAD)
        flow.request.data.headers = Headers(headers(key))
        flow.request.data.path = b"/v1/pets/42?expand=owner"
        flow.request.data.content = None
    return made


def hooks(folder: Path, key: str, count: int) -> None:
    """Both hooks of an admitted request, with washing and writing."""
    master: Any = None
    runtime = Runtime(folder / "policy.yaml", folder / "state", None, terminal=False)
    gate = RunningGate(master, runtime, shows=False)
    asked = flows(key, count + count // 10)
    connection: Any = SimpleNamespace(open={})
    gate.guard.connections.update({flow.client_conn.id: connection for flow in asked})
    taken = iter(asked)
    p50, p99 = spread(timed(count, lambda _: ran(gate.heads.judge(next(taken)))))
    assert all(flow.response is None and flow.request.port == 9000 for flow in asked)
    tell("hook requestheaders, warm", f"p50 {p50:.1f} µs, p99 {p99:.1f} µs")
    for flow in asked:
        flow.response = Response.make(200, b"ok", {"Content-Type": "text/plain"})
    taken = iter(asked)
    p50, p99 = spread(timed(count, lambda _: gate.responses.begin(next(taken))))
    tell("hook responseheaders, warm", f"p50 {p50:.1f} µs, p99 {p99:.1f} µs")
    runtime.resources.close()


def main() -> None:
    """Measure, in a state directory that is gone afterwards."""
    logging.disable(logging.CRITICAL)
    part = 6 if "--quick" in sys.argv[1:] else 1
    with tempfile.TemporaryDirectory(prefix="keyswap-bench-") as name:
        folder = Path(name)
        (folder / "policy.yaml").write_text(POLICY)
        resources = Resources(StateDirectory(folder / "state").open())
        with closing(resources):
            with Ledger(resources.state, resources.epochs, resources.pepper, "ksw") as ledger:
                given = {"org_id": "org_1", "user_id": "user_1", "permissions": ["pets:read", "pets:write"]}
                _, key = ledger.create(now=time.time(), **given)  # type: ignore[arg-type]  # a mapping of both kinds
            built = build(
                policy.load(folder / "policy.yaml"), resources, None, time.time(), True, folder / "policy.yaml"
            )
            decisions(built, key, 120_000 // part)
            watching(built, 600_000 // part)
            signatures(resources, 300 // part)
        hooks(folder, key, 6_000 // part)


if __name__ == "__main__":
    main()
