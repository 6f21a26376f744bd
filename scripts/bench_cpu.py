"""CPU time of a request: stock mitmdump's divided by that of mitmdump with the gate. One JSON row a line.

Both forward the same requests to the same backend, in rounds that alternate; each run is a process of its own, warmed
up first. Load and backend are wrk and nginx where they are installed, else programs of our own. All of it is on
loopback and has ended when this ends. The CPU time of another process is read from /proc: there is none on macOS.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from urllib.request import Request, urlopen

from documents import path_of

HERE = Path(__file__).resolve().parent
MITMDUMP = Path(sys.executable).parent / "mitmdump"
LOAD = HERE / "bench_load.py"
PATH, CONNECTIONS = "/v1/pets/42?expand=owner", 16
TICK_S = 1 / os.sysconf("SC_CLK_TCK")
LEAST_S, WARM, MOST_LOADS = 20 * TICK_S, 100, 20
"""CPU time is told in whole ticks: less than so many say nothing. Requests before any are measured; tries."""

HEADERS = (
    "User-Agent: python-httpx/0.28.1",
    "Accept: application/json",
    "Accept-Encoding: gzip, deflate, br, zstd",
    "Accept-Language: en-GB,en;q=0.9",
    "Connection: keep-alive",
    "Cache-Control: no-cache",
    "Idempotency-Key: 5f2b1c9e-8d0a-4f0e-9a53-7a1d2b3c4d5e",
    "Traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
)
NGINX = """daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/nginx.log; events {{ }}
http {{ access_log off; keepalive_requests 10000000;
client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
server {{ listen 127.0.0.1:{port}; location / {{ default_type application/json; return 200 '{{"ok": true}}'; }} }} }}
"""
POLICY = "version: 1\nissuer: http://127.0.0.1:8080\nupstream: http://127.0.0.1:{backend}\n"
KINDS = {
    "stock": None,
    "off": "log: {decisions: off}\n",
    "file": "log: {decisions: decisions.jsonl}\n",
    "document": "log: {decisions: off}\nopenapi:\n  - {spec: pets.json}\n",
}
"""What the policies say beside upstream and issuer; None: mitmdump without the gate."""
DOCUMENT = {
    "openapi": "3.1.0",
    "paths": {
        "/v1/pets": {"get": {}},
        "/v1/pets/{petId}": {"get": {"x-required-permissions": ["pets:read"]}, "delete": {}},
    },
}
ROWS = (
    ("off", "CPU of a request, stock ÷ keyswap", 0.85),
    ("file", "the same, decisions to a file", 0.85),
    ("document", "the same, with permissions, beside GitHub's document", 0.80),
)


@dataclass(frozen=True, slots=True)
class Bench:
    """What every run shares."""

    folder: Path
    backend: int
    key: str
    seconds: float
    github: Path | None
    """GitHub's document, if it can be had."""


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def started(command: list[str], port: int, env: Mapping[str, str], log: Path) -> Iterator[int]:
    """A server process that answers on `port`; its id. It has ended afterwards."""
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output, env=env) as process:
        try:
            wait_for(port, process, log)
            yield process.pid
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


def wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until somebody listens."""
    deadline = time.monotonic() + 30
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"bench: {process.args!r} did not start:\n{log.read_text()}") from None
            time.sleep(0.05)
        else:
            return


def backend_command(folder: Path, port: int) -> list[str]:
    """nginx, or a backend of our own."""
    nginx = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
    if nginx is None:
        return [sys.executable, str(LOAD), "backend", str(port)]
    config = folder / "nginx.conf"
    config.write_text(NGINX.format(folder=folder, port=port))
    return [nginx, "-e", str(folder / "nginx.log"), "-c", str(config)]


def load(port: int, seconds: float, key: str) -> int:
    """Send requests for so many seconds; how many were answered. Any answer but a 200 ends the measurement."""
    headers = [*HEADERS, f"Authorization: Bearer {key}"]
    if shutil.which("wrk") is None:
        words = ["client", str(port), str(seconds), str(CONNECTIONS), PATH, *headers]
        told = subprocess.run([sys.executable, str(LOAD), *words], check=True, capture_output=True).stdout
        return int(told.split()[0])
    words = ["-t1", f"-c{CONNECTIONS}", f"-d{seconds:.0f}s", *[word for line in headers for word in ("-H", line)]]
    done = subprocess.run(["wrk", *words, f"http://127.0.0.1:{port}{PATH}"], capture_output=True, text=True)
    count = re.search(r"(\d+) requests in", done.stdout)
    if done.returncode or count is None or "Non-2xx" in done.stdout:
        raise SystemExit(f"bench: not every request was answered with 200:\n{done.stdout}{done.stderr}")
    return int(count[1])


def cpu_s(process: int) -> float:
    """User and system time of a process and its threads (proc(5), fields 14 and 15)."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * TICK_S


def warm(bench: Bench, port: int) -> None:
    """Requests until enough were answered: a gateway listens before it has read its policy, which takes time too."""
    for _ in range(MOST_LOADS):
        if load(port, max(1.0, bench.seconds / 4), bench.key) >= WARM:
            return
    raise SystemExit("bench: too few requests are answered: this machine is too busy to measure anything")


def cost_us(family: Sequence[int], bench: Bench, port: int) -> tuple[float, float]:
    """The CPU time of a request in microseconds, by these processes, and requests a second.

    A machine that is busy elsewhere may leave them nothing for a second: it goes on until they had enough to measure.
    """
    before, began, count = sum(map(cpu_s, family)), time.monotonic(), 0
    for _ in range(MOST_LOADS):
        count += load(port, bench.seconds, bench.key)
        used_s, took_s = sum(map(cpu_s, family)) - before, time.monotonic() - began
        if count and used_s >= LEAST_S:
            return used_s / count * 1e6, count / took_s
    raise SystemExit(f"bench: {count} requests in {took_s:.0f} s: this machine is too busy to measure anything")


def mitmdump(bench: Bench, port: int, kind: str) -> list[str]:
    """Stock mitmdump, or with the gate and the policy of this kind."""
    command = [str(MITMDUMP), "--mode", f"reverse:http://127.0.0.1:{bench.backend}", "--listen-host", "127.0.0.1"]
    command += ["-p", str(port), "--set", "flow_detail=0", "--set", "termlog_verbosity=warn"]
    more = KINDS[kind]
    if more is None:
        return command
    (bench.folder / "pets.json").write_text(json.dumps(DOCUMENT))
    if kind == "document" and bench.github is not None:
        more += f"  - {{spec: {bench.github}, prefix: /github}}\n"
    policy = bench.folder / f"policy-{kind}.yaml"
    policy.write_text(POLICY.format(backend=bench.backend) + more)
    command += ["--set", f"keyswap_policy={policy}", "--set", f"keyswap_state={bench.folder / 'state'}"]
    return [*command, "-s", str(HERE.parent / "addon" / "gateway.py")]


def run(bench: Bench, kind: str) -> float:
    """The CPU time of one request, in microseconds."""
    port = free_port()
    env = {**os.environ, "HOME": str(bench.folder)}
    with started(mitmdump(bench, port, kind), port, env, bench.folder / "mitmdump.log") as process:
        warm(bench, port)
        return cost_us([process], bench, port)[0]


def new_key(folder: Path) -> str:
    """A key in the state directory that the gateways share."""
    (folder / "policy.yaml").write_text(POLICY.format(backend=9))
    words = ["keys", "create", "--org", "org_1", "--user", "user_1", "--permission", "pets:read", "--json"]
    where = ["--state", str(folder / "state"), "--policy", str(folder / "policy.yaml")]
    done = subprocess.run([sys.executable, "-m", "keyswap", *words, *where], check=True, capture_output=True)
    return str(json.loads(done.stdout)["value"])


def github() -> Path | None:
    """A large document beside the one that is used."""
    try:
        return path_of("github")
    except (OSError, subprocess.SubprocessError):
        return None


def judged(bench: Bench) -> None:
    """Prove that the gate stands in the path that is measured: without a key it answers 401, stock mitmdump 200."""
    for kind in KINDS:
        port = free_port()
        with started(mitmdump(bench, port, kind), port, os.environ, bench.folder / "mitmdump.log"):
            url = f"http://127.0.0.1:{port}"
            told = status_of(url + PATH), status_of(url + "/v1/none", bench.key)
        expected = (200, 200) if kind == "stock" else (401, 404 if kind == "document" else 200)
        if told != expected:
            raise SystemExit(f"bench: {kind} answers {told}, not {expected}: this would measure nothing")


def status_of(url: str, key: str | None = None) -> int:
    """The status of an answer to a GET."""
    try:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        with urlopen(Request(url, headers=headers), timeout=10) as answer:
            return int(answer.status)
    except OSError as error:
        return int(getattr(error, "code", 0))


def measure(bench: Bench, rounds: int) -> None:
    """All rounds, then the rows: medians, and the ratios of the medians."""
    times: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for number in range(rounds):
        for kind in sorted(KINDS, reverse=number % 2 == 1):
            times[kind].append(run(bench, kind))
        print("  " + ", ".join(f"{kind} {found[-1]:.0f} µs" for kind, found in times.items()), file=sys.stderr)
    middle = {kind: median(found) for kind, found in times.items()}
    for kind, what, target in ROWS:
        ratios = sorted(one / two for one, two in zip(times["stock"], times[kind], strict=True))
        ratio = middle["stock"] / middle[kind]
        measured = f"{ratio:.2f} ({ratios[0]:.2f}-{ratios[-1]:.2f}): {middle['stock']:.0f} ÷ {middle[kind]:.0f} µs"
        print(json.dumps([what, measured, f"≥ {target:.2f}", ratio >= target]), flush=True)


def main() -> None:
    """Measure, with everything in a folder that is gone afterwards."""
    if not Path("/proc/self/stat").exists():
        print(json.dumps(["CPU of a request, stock ÷ keyswap", "not measured: no /proc", "≥ 0.85", None]))
        return
    quick = "--quick" in sys.argv[1:]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="keyswap-bench-")))
        backend = free_port()
        command = backend_command(folder, backend)
        stack.enter_context(started(command, backend, os.environ, folder / "backend.log"))
        bench = Bench(folder, backend, new_key(folder), 1.0 if quick else 4.0, github())
        judged(bench)
        measure(bench, 2 if quick else 5)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
