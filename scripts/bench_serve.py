"""The table of ways to run it: requests a second and CPU time of a request, of each in turn, rounds interleaved.

Direct to the backend; stock mitmdump without addons; mitmdump with the gate; `serve` with one worker and with two, and
with Envoy in front of one. The gate has everything on: two documents (one of them GitHub's), permissions, three limits,
minting. nginx and wrk, as in bench_cpu.py. CPU time is that of the gateway's processes alone, supervisor, workers and
Envoy. One JSON row a line.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from urllib.request import urlopen

import bench_cpu
from bench_cpu import DOCUMENT, MITMDUMP, PATH, Bench, cost_us, free_port, load, started, status_of, warm

from keyswap.composition.resources import Resources
from keyswap.keys.local.writer import Ledger
from keyswap.state import StateDirectory

POLICY = """version: 1
issuer: http://127.0.0.1:8080
upstream: http://127.0.0.1:{backend}
log: {{decisions: off}}
openapi:
  - {{spec: pets.json}}
{more}limits:
  - {{name: per-key, by: [key], rate: 1000000/s, burst: 100000000}}
  - {{name: per-org, by: [org], rate: 1000000/s, burst: 100000000}}
  - {{name: in-flight, by: [key], concurrency: 10000}}
"""
KEYS_LUA = """local keys = {%s}
local at = 0
request = function()
  at = at %% #keys + 1
  wrk.headers["Authorization"] = "Bearer " .. keys[at]
  return wrk.format("GET")
end
"""
STOCK, ONE, TWO = "stock mitmdump", "serve, 1 worker", "serve, 2 workers"
ENVOY = "serve --engine envoy, 1 worker"
KINDS = ("direct", STOCK, "mitmdump, keyswap", ONE, TWO, ENVOY)


@dataclass(slots=True)
class Measured:
    """What one way to run it gave, a number a round. RSS in MiB, of the largest worker, idle."""

    rps: list[float] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)
    rss: list[float] = field(default_factory=list)


def processes(pid: int) -> list[int]:
    """A process and all that it started, and those too."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += processes(int(child))
    return found


def command(bench: Bench, kind: str, port: int) -> list[str]:
    """The command line of a way to run it."""
    policy, state = bench.folder / "everything.yaml", bench.folder / "state"
    if kind.startswith("serve"):
        words = ["serve", "--policy", str(policy), "--state", str(state), "--listen", f"127.0.0.1:{port}"]
        return [sys.executable, "-m", "keyswap", *words, "--workers", "2" if kind == TWO else "1", "--grace", "1s"] + (
            ["--engine", "envoy"] if kind == ENVOY else []
        )
    words = ["--listen-host", "127.0.0.1", "-p", str(port), "--mode", f"reverse:http://127.0.0.1:{bench.backend}"]
    words += ["--set", "flow_detail=0", "--set", "termlog_verbosity=warn"]
    if kind != STOCK:
        words += ["--set", f"keyswap_policy={policy}", "--set", f"keyswap_state={state}"]
        words += ["-s", str(bench_cpu.HERE.parent / "addon" / "gateway.py")]
    return [str(MITMDUMP), *words]


def run(bench: Bench, kind: str, into: Measured) -> None:
    """One round of one way."""
    if kind == "direct":
        began, count = time.monotonic(), load(bench.backend, bench.seconds, bench.key)
        into.rps.append(count / (time.monotonic() - began))
        return
    port = free_port()
    env = {**os.environ, "HOME": str(bench.folder)}
    with started(command(bench, kind, port), port, env, bench.folder / "gateway.log") as pid:
        judged(bench, kind, port)
        family = processes(pid)
        into.rss.append(max(rss_mib(process) for process in family))
        warm(bench, port)
        cpu_us, rps = cost_us(family, bench, port)
        into.rps.append(rps)
        into.cpu_us.append(cpu_us)


def rss_mib(pid: int) -> float:
    """Resident memory (proc(5))."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def judged(bench: Bench, kind: str, port: int) -> None:
    """Prove that what is measured decides: without a key 401, undocumented 404, with a key 200 and three limits."""
    url = f"http://127.0.0.1:{port}"
    told = status_of(url + PATH), status_of(url + "/v1/none", bench.key), status_of(url + PATH, bench.key)
    if told != ((200, 200, 200) if kind == STOCK else (401, 404, 200)):
        raise SystemExit(f"bench: {kind} answers {told}: this would measure nothing")


def gate_times(bench: Bench) -> list[list[object]]:
    """Time in the gate of one worker on a core of its own, with 100 warm keys, from its own histogram."""
    cores = sorted(os.sched_getaffinity(0))
    port, admin = free_port(), free_port()
    policy = bench.folder / "watched.yaml"
    everything = (bench.folder / "everything.yaml").read_text()
    policy.write_text(everything + f"admin: {{listen: 127.0.0.1:{admin}, token_env: BENCH_TOKEN}}\n")
    words = ["serve", "--policy", str(policy), "--state", str(bench.folder / "state")]
    words += ["--listen", f"127.0.0.1:{port}", "--workers", "1", "--grace", "1s"]
    env = {**os.environ, "HOME": str(bench.folder), "BENCH_TOKEN": "0" * 40}
    script = bench.folder / "keys.lua"
    script.write_text(KEYS_LUA % ", ".join(f'"{key}"' for key in new_keys(bench, 100)))
    with started([sys.executable, "-m", "keyswap", *words], port, env, bench.folder / "gateway.log") as pid:
        for process in processes(pid):
            os.sched_setaffinity(process, cores[-1:])
        before: list[int] = []
        for seconds in (2.0, bench.seconds):
            subprocess.run(
                ["wrk", "-t1", "-c16", f"-d{seconds:.0f}s", "-s", str(script), f"http://127.0.0.1:{port}{PATH}"],
                check=True, capture_output=True, preexec_fn=lambda: os.sched_setaffinity(0, cores[:-1] or cores),
            )  # fmt: skip
            bounds, counts = gate_histogram(admin)
            measured, before = (
                [now - then for now, then in zip(counts, before or [0] * len(counts), strict=True)],
                counts,
            )
    p50, p99 = (
        next(bound for bound, n in zip(bounds, measured, strict=True) if n >= part * measured[-1])
        for part in (0.5, 0.99)
    )
    told = f"p50 ≤ {p50 * 1e6:.0f} µs, p99 ≤ {p99 * 1e6:.0f} µs of {measured[-1]:,} decisions"
    return [["own time in the gate, 1 worker, 100 warm keys, 3 limits", told, "p99 ≤ 300 µs", p99 <= 300e-6]]


def gate_histogram(admin: int) -> tuple[list[float], list[int]]:
    """The upper bounds of keyswap_gate_seconds in seconds, and how many decisions took at most so long."""
    with urlopen(f"http://127.0.0.1:{admin}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    found = re.findall(r'keyswap_gate_seconds_bucket\{le="([^"]+)"\} ([0-9.]+)', text)
    return [float(bound) for bound, _ in found], [int(float(count)) for _, count in found]


def new_keys(bench: Bench, count: int) -> list[str]:
    """So many keys of one organization."""
    resources = Resources(StateDirectory(bench.folder / "state").open())
    with Ledger(resources.state, resources.epochs, resources.pepper, "ksw") as ledger:
        made = [ledger.create(now=time.time(), org_id="org_1", permissions=["pets:read"])[1] for _ in range(count)]
    resources.close()
    return made


def rows(of: dict[str, Measured]) -> list[list[object]]:
    """The table, and what it has to show."""
    told: list[list[object]] = []
    stock = median(of[STOCK].cpu_us)
    for kind in KINDS:
        rps, cpu = of[kind].rps, of[kind].cpu_us
        measured = f"{median(rps):,.0f} requests/s ({min(rps):,.0f}-{max(rps):,.0f})"
        if cpu:
            ratio = f"stock ÷ this {stock / median(cpu):.2f}"
            measured += f", CPU {median(cpu):.0f} µs a request ({min(cpu):.0f}-{max(cpu):.0f}), {ratio}"
        told.append([kind, measured, "", None])
    one, two = median(of[ONE].cpu_us), median(of[TWO].cpu_us)
    told.append(["serve, 1 worker: CPU, stock ÷ it", f"{stock / one:.2f}", "≥ 2.0", stock / one >= 2.0])
    envoy = median(of[ENVOY].cpu_us)
    told.append(["CPU of a request, Envoy and worker ÷ serve", f"{envoy / one:.2f}", "≤ 0.4", envoy / one <= 0.4])
    told.append(["CPU of a request, 2 workers ÷ 1", f"{two / one:.2f}", "≤ 1.15", two / one <= 1.15])
    return told


def idle(bench: Bench, beside: float) -> list[object]:
    """Resident memory of an idle worker with a small document; `beside`: of one that has GitHub's too."""
    port, policy = free_port(), bench.folder / "small.yaml"
    policy.write_text(POLICY.format(backend=bench.backend, more=""))
    words = ["serve", "--policy", str(policy), "--state", str(bench.folder / "state")]
    words += ["--listen", f"127.0.0.1:{port}", "--workers", "1", "--grace", "1s"]
    env = {**os.environ, "HOME": str(bench.folder)}
    with started([sys.executable, "-m", "keyswap", *words], port, env, bench.folder / "gateway.log") as pid:
        rss = max(rss_mib(process) for process in processes(pid))
    told = f"{rss:.0f} MiB; with GitHub's document of 12 MB too {beside:.0f}"
    return ["RSS of a worker, idle", told, "≤ 150 MiB", rss <= 150]


def main() -> None:
    """Measure, with everything in a folder that is gone afterwards."""
    if not Path("/proc/self/stat").exists():
        print(json.dumps(["the ways to run it", "not measured: no /proc", "≥ 2.0", None]))
        return
    quick = "--quick" in sys.argv[1:]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="keyswap-bench-")))
        backend = free_port()
        stack.enter_context(started(bench_cpu.backend_command(folder, backend), backend, os.environ, folder / "b.log"))
        bench = Bench(folder, backend, bench_cpu.new_key(folder), 1.0 if quick else 4.0, bench_cpu.github())
        (folder / "pets.json").write_text(json.dumps(DOCUMENT))
        more = f"  - {{spec: {bench.github}, prefix: /github}}\n" if bench.github else ""
        (folder / "everything.yaml").write_text(POLICY.format(backend=backend, more=more))
        of = {kind: Measured() for kind in KINDS}
        for number in range(2 if quick else 5):
            for kind in KINDS if number % 2 == 0 else reversed(KINDS):
                run(bench, kind, of[kind])
            print("  " + ", ".join(f"{kind} {one.rps[-1]:.0f}/s" for kind, one in of.items()), file=sys.stderr)
        found = [*rows(of), idle(bench, max(of[ONE].rss + of[TWO].rss))]
        if shutil.which("wrk") is not None:
            found += gate_times(bench)
        for row in found:
            print(json.dumps(row), flush=True)
        if shutil.which("wrk") is None:
            print(json.dumps(["load", "a client of our own: wrk is not installed", "", None]), flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
