"""Floods: how long a health request waits while one runs, and by how much the gateway grows.

One worker, one flood at a time, each in a process of its own. A request for the gateway's health goes out every few
milliseconds over a connection that stood before; the worst wait of them all is the row's.
"""

import json
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import quantiles
from typing import Any

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "support"))

from certificates import self_signed
from flooding import FLOODS
from harness import Gateway, Home, eventually, free_port
from raw import head

MIB = 1 << 20
MOST_MIB, MOST_S, WORKED_S = 64.0, 0.15, 0.15
"""What the gateway may grow by, how long a request may wait on a machine that has nothing else to do, and how long the
worker may work meanwhile on one that has."""
PACE_S = 0.01
FLOODING = Path(__file__).resolve().parent.parent / "tests" / "support" / "flooding.py"
TLS = {"small-records", "whole-records", "slow-hello", "no-tls", "held-http2", "header-blocks", "small-frames"}
TLS |= {"many-streams", "frames-of-no-use"}
"""Floods of the gateway that speaks TLS."""
KEPT = {"small-messages", "pings-of-sockets", "ahead-of-sockets"}
"""Floods that are slowed down and never ended."""
DOCUMENT = """
openapi: 3.1.0
info: {title: Flooded, version: '1'}
paths:
  /judged:
    post:
      security: []
      requestBody: {content: {application/json: {schema: {type: array}}}}
      responses: {}
"""
POLICY = """log: {decisions: off}
openapi: {spec: document.yaml, undocumented: authenticated, validate: {requests: enforce}}
"""
HEALTH = "/.well-known/keyswap/health"


def _wait() -> None:
    """Nothing happens beside the flood."""


def _begin_peak(gateway: Gateway) -> float:
    """Let the peak of the worker's memory begin anew: MiB that it has now."""
    Path(f"/proc/{gateway.workers[0]}/clear_refs").write_text("5")
    return gateway.memory() / MIB


@dataclass
class Row:
    """One flood."""

    what: str
    sends: str = ""
    worst_s: float = 0.0
    busy_s: float = 0.0
    p99_s: float = 0.0
    asked: int = 0
    grew_mib: float = 0.0
    sent_mib: float = 0.0
    closed: int = 0
    answered: dict[str, int] | None = None
    wrong: str = ""

    @property
    def good(self) -> bool:
        """Whether it is what it should be; `calm`, where other things run on the machine."""
        return self.calm and self.worst_s <= MOST_S

    @property
    def calm(self) -> bool:
        """Whether the worker itself kept nobody waiting, whatever else the machine did meanwhile."""
        return not self.wrong and self.asked > 0 and self.busy_s <= WORKED_S and self.grew_mib < MOST_MIB

    def take(self, prober: "Prober", told: dict[str, Any] | None) -> None:
        """Note what was found."""
        self.asked, self.worst_s = len(prober.waits_s), max(prober.waits_s, default=0.0)
        self.busy_s = prober.busy_s
        self.p99_s = quantiles(prober.waits_s, n=100)[-1] if self.asked > 1 else self.worst_s
        if told is None:
            self.wrong = self.wrong or "the flood has failed"
        elif told["closed"] and self.what in KEPT:
            self.wrong = self.wrong or "sockets over which nothing wrong came were closed"
        else:
            self.sent_mib, self.closed, self.answered = told["sent"] / MIB, told["closed"], told["answered"]
        self.wrong = self.wrong or prober.wrong


class Prober:
    """Asks for the health over one kept connection, which stands before the flood begins."""

    def __init__(self, port: int, certificate: Path | None, worker: int) -> None:
        self.port, self.certificate, self._worker = port, certificate, Path(f"/proc/{worker}/schedstat")
        self.waits_s: list[float] = []
        self.busy_s = 0.0
        """The most that the worker itself worked during one of them: on a busy machine a wait is longer."""
        self.wrong = ""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._connection = self._open()
        self._ask()

    def __enter__(self) -> "Prober":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._connection.close()

    def _open(self) -> socket.socket:
        made = socket.create_connection(("127.0.0.1", self.port), timeout=30)
        if self.certificate is None:
            return made
        context = ssl.create_default_context(cafile=str(self.certificate))
        return context.wrap_socket(made, server_hostname="127.0.0.1")

    def _worked_s(self) -> float:
        return int(self._worker.read_text().split()[0]) / 1e9

    def _ask(self) -> None:
        self._connection.sendall(head("GET", HEALTH, None))
        said = b""
        while not said.endswith(b"}"):
            more = self._connection.recv(65536)
            assert more, "the connection for health was closed"
            said += more
        assert said.startswith(b"HTTP/1.1 200"), said[:100]

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                began, worked = time.perf_counter(), self._worked_s()
                self._ask()
                self.waits_s.append(time.perf_counter() - began)
                self.busy_s = max(self.busy_s, self._worked_s() - worked)
                self._stop.wait(PACE_S)
        except (OSError, AssertionError) as error:
            self.wrong = f"{type(error).__name__}: {error}"


class Floods:
    """A backend, and for each flood a gateway of its own."""

    def __init__(self, folder: Path, seconds: float) -> None:
        self.seconds = seconds
        port = free_port()
        backend = Path(__file__).resolve().parent / "soak_backend.py"
        self.backend = subprocess.Popen([sys.executable, str(backend), str(port)])
        (folder / "document.yaml").write_text(DOCUMENT)
        self.home = Home(folder, f"http://127.0.0.1:{port}")
        self.home.write_policy(POLICY)
        self.key = self.home.key()[1]
        self.certificate = self_signed(folder, "gateway")
        self.rows: dict[str, tuple[str, Callable[[], None], float]] = {name: (name, _wait, 0.0) for name in FLOODS}
        self.rows["streams"] = ("streams", self._change_keys, seconds)
        self.rows["reload"] = ("idle", self._change_policy, seconds)

    def close(self) -> None:
        """End everything."""
        self.backend.terminate()
        self.backend.wait()

    @contextmanager
    def gateway(self, tls: bool) -> Iterator[Gateway]:
        """One that has served nobody."""
        words = ("--tls-cert", str(self.certificate), "--tls-key", str(self.certificate.with_suffix(".key")))
        made = Gateway(self.home, "serve", *(words if tls else ()), port=free_port())
        try:
            eventually("the gateway is ready", lambda: '"ready"' in made.output or made.process.poll() is not None)
            yield made
        finally:
            made.stop()

    def measure(self, what: str) -> Row:
        """Run a flood and ask for health beside it."""
        name, beside, ready_s = self.rows[what]
        row = Row(what, FLOODS[name].__doc__ or "")
        with self.gateway(name in TLS) as gateway:
            prober = Prober(gateway.port, self.certificate if name in TLS else None, gateway.workers[0])
            before = _begin_peak(gateway)
            flood = self._flood(name, gateway, self.seconds + ready_s)
            if beside is not _wait:  # what grows is asked of what happens then, beside connections that stand
                time.sleep(ready_s)
                before = _begin_peak(gateway)
            with prober:
                beside()
                said, _ = flood.communicate(timeout=self.seconds + ready_s + 120)
            row.grew_mib = gateway.memory("VmHWM") / MIB - before
            if (
                gateway.process.poll() is not None
                or "Traceback" in gateway.output
                or "in the gateway" in gateway.output
            ):
                row.wrong = "the gateway has ended, or logged an exception"
        row.take(prober, json.loads(said) if flood.returncode == 0 else None)
        return row

    def _change_keys(self) -> None:
        """Make keys, one after another."""
        until = time.monotonic() + self.seconds * 0.8
        with self.home.ledger() as ledger:
            while time.monotonic() < until:
                ledger.create(now=time.time(), org_id="org_2")
                time.sleep(0.02)

    def _change_policy(self) -> None:
        """Load a large document."""
        large = "".join(f"  /large/{number}/{{id}}: {{get: {{responses: {{}}}}}}\n" for number in range(3000))
        (self.home.folder / "document.yaml").write_text(DOCUMENT + large)
        self.home.write_policy(POLICY + "max_body: 1GiB\n")

    def _flood(self, name: str, gateway: Gateway, seconds: float) -> subprocess.Popen[str]:
        command = [sys.executable, str(FLOODING), name, str(gateway.port), "--seconds", str(seconds)]
        command += ["--certificate", str(self.certificate)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "KEY": self.key})


def run(folder: Path, quick: bool, only: str, as_json: bool) -> list[Row]:
    """Measure each flood whose name holds `only`, or is one of the names in it, with commas between."""
    names = set(only.split(",")) if "," in only else set()
    floods, rows = Floods(folder, 0.7 if quick else 5.0), list[Row]()
    try:
        for what in floods.rows:
            if what in names or only in what:
                rows.append(floods.measure(what))
                if as_json:
                    print(json.dumps({**vars(rows[-1]), "good": rows[-1].good, "calm": rows[-1].calm}), flush=True)
    finally:
        floods.close()
    return rows


def show(rows: list[Row]) -> None:
    """Print the table."""
    table = Table(title=f"the worst wait of a health request while each flood runs: at most {MOST_S * 1000:.0f} ms")
    for name in ("flood", "what it sends", "MiB sent", "worst wait", "of it work", "p99", "grew by MiB", "good?"):
        table.add_column(name, overflow="fold")
    for row in rows:
        times = [f"{one * 1000:.0f} ms" for one in (row.worst_s, row.busy_s, row.p99_s)]
        good = row.wrong or ("yes" if row.good else "NO")
        table.add_row(row.what, row.sends, f"{row.sent_mib:.0f}", *times, f"{row.grew_mib:.1f}", good)
    Console(width=None if sys.stdout.isatty() else 160).print(table)
