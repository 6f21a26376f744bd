"""The long soak: mixed traffic for minutes, and what it leaves behind in each worker.

Requests of all kinds go through two gateways of two workers each, one plain and one with TLS: short ones of which a
tenth has no valid key, over connections that are kept or not, HTTP/2, uploads, event streams, WebSockets, callers who
leave at random moments, and policies that change, every third one bad. Every answer is compared with what it must be.
Resident memory, open files and asyncio's tasks of each worker are looked at all the while.
"""

import http.client
import json
import random
import ssl
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import linear_regression, quantiles
from typing import Any

from rich.console import Console
from rich.table import Table
from wsproto import ConnectionType, WSConnection
from wsproto.events import Request, TextMessage

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "support"))

from certificates import self_signed
from hammering import Asked, Load, handles
from harness import Gateway, Home, eventually, free_port
from keyswap.shell.control import control_socket
from noting import Noting
from raw import Http2, connect, head, listen, tls

MOST_MIB_A_MINUTE = 1.0
JUDGED_FROM_MIN = 10.0
"""Minutes from which on the slope of memory is judged: before, caches fill."""
WARM = 0.25
"""What part of the time is warm-up, three minutes at most."""
PACE_S = 0.06
SPARE_FILES, SPARE_TASKS = 8, 4
READY_S, SETTLES_S = 60.0, 30.0
POLICY = """log: {decisions: off}
limits:
  - {name: per-key, by: [key], rate: 100000/s}
  - {name: in-flight, by: [key], concurrency: 1000}
"""
_EXPECTED = (OSError, AssertionError, http.client.HTTPException, ssl.SSLError)


class Tally(list[Asked]):
    """Requests, of which only those are kept that were not answered as they must be; and how long each took."""

    def __init__(self) -> None:
        self.took_s: list[float] = []

    def append(self, one: Asked) -> None:
        """Note a request."""
        self.took_s.append(one.ended - one.began)
        if not one.right:
            super().append(one)


@dataclass
class Watch:
    """One worker, as it was looked at."""

    gateway: str
    pid: int
    at_s: list[float] = field(default_factory=list)
    mib: list[float] = field(default_factory=list)
    files: list[int] = field(default_factory=list)
    tasks: list[int] = field(default_factory=list)

    def look(self, now: float, tasks: int) -> None:
        """Look at it once more."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        self.at_s.append(now)
        self.mib.append(pages * 4096 / (1 << 20))
        self.files.append(len(handles(self.pid)))
        self.tasks.append(tasks)

    def slope(self, warm_s: float) -> float:
        """MiB a minute after warm-up, by least squares; the first and the last look are not under load."""
        rows = [one for one in zip(self.at_s, self.mib, strict=True) if one[0] >= warm_s][:-1]
        return linear_regression(*zip(*rows, strict=True)).slope * 60 if len(rows) > 2 else 0.0

    def wrong(self, warm_s: float, judged: bool) -> str:
        """What is not as it should be."""
        told = []
        if self.files[-1] > self.files[0] + SPARE_FILES:
            told.append("files stay open")
        if self.tasks[-1] > self.tasks[0] + SPARE_TASKS:
            told.append("tasks go on")
        if judged and self.slope(warm_s) >= MOST_MIB_A_MINUTE:
            told.append("memory grows")
        return ", ".join(told)


class Traffic:
    """Two gateways, and everything that goes through them."""

    def __init__(self, folder: Path, seconds: float) -> None:
        self.seconds, self.warm_s = seconds, min(180.0, seconds * WARM)
        self.noting = Noting(folder, quiet=True)
        self.certificate = self_signed(folder, "gateway")
        words = ("--tls-cert", str(self.certificate), "--tls-key", str(self.certificate.with_suffix(".key")))
        self.homes = [self._home(folder / "plain"), self._home(folder / "tls")]
        self.keys = [home.key()[1] for home in self.homes]
        self.gateways = [
            Gateway(home, "serve", "--workers", "2", *more) for home, more in zip(self.homes, ((), words), strict=True)
        ]
        self.stop = threading.Event()
        self.tally, self.failed, self.done = Tally(), list[str](), dict[str, int]()
        self.watches: list[Watch] = []
        self.began = 0.0

    def begin(self) -> None:
        """Wait until both gateways are ready."""
        for gateway in self.gateways:
            eventually("the gateway is ready", lambda gateway=gateway: '"ready"' in gateway.output, READY_S)
        self.began = time.monotonic()
        self.watches = [
            Watch(name, one["pid"])
            for name, home in zip(("plain", "TLS"), self.homes, strict=True)
            for one in self._told(home)["running"]
        ]

    def _home(self, folder: Path) -> Home:
        folder.mkdir()
        home = Home(folder, self.noting.url, free_port())
        home.write_policy(POLICY)
        return home

    def close(self) -> None:
        """End everything."""
        self.stop.set()
        for gateway in self.gateways:
            gateway.stop()
        self.noting.kill()

    # ---- Looking

    def _told(self, home: Home) -> dict[str, Any]:
        answer = control_socket.ask(home.state, {"command": "status"})
        assert answer is not None, "no gateway answers"
        return dict(answer["workers"])

    def look(self) -> None:
        """Look at every worker."""
        tasks = {one["pid"]: int(one["tasks"]) for home in self.homes for one in self._told(home)["running"]}
        for watch in self.watches:
            assert watch.pid in tasks, f"worker {watch.pid} has ended"
            watch.look(time.monotonic() - self.began, tasks[watch.pid])

    def run(self) -> None:
        """Let everything go on for as long as was asked for, then be quiet, and look a last time."""
        self.look()
        threads = [threading.Thread(target=work, daemon=True) for work in self._works()]
        for thread in threads:
            thread.start()
        while time.monotonic() - self.began < self.seconds:
            self.stop.wait(min(5.0, self.seconds / 20))
            self.look()
        self.stop.set()
        for thread in threads:
            thread.join(60)
        until = time.monotonic() + SETTLES_S
        self.look()
        while time.monotonic() < until and any(watch.wrong(0, False) for watch in self.watches):
            time.sleep(1)
            for watch in self.watches:  # what was under way a moment ago does not count
                del watch.at_s[-1], watch.mib[-1], watch.files[-1], watch.tasks[-1]
            self.look()

    # ---- Callers

    def _works(self) -> list[Callable[[], None]]:
        trust = ssl.create_default_context(cafile=str(self.certificate))
        loads = [
            Load(home.port, key, asked=self.tally, stop=self.stop, pace_s=PACE_S, trust=trust if number else None)
            for number, (home, key) in enumerate(zip(self.homes, self.keys, strict=True))
        ]
        short = [partial(load.go_on, keeps) for load in loads for keeps in (True, False, True)]
        often = [self.stream, self.socket, self.upload, self.leave, self.http2]
        return [*short, *[partial(self.again, act) for act in often], self.reload]

    def again(self, act: Callable[[], None]) -> None:
        """Do it for as long as there is time."""
        name = getattr(act, "__name__", "")
        while not self.stop.is_set():
            try:
                act()
                self.done[name] = self.done.get(name, 0) + 1
            except _EXPECTED as error:
                self.failed.append(f"{name}: {type(error).__name__}: {error}")
            self.stop.wait(random.uniform(0.05, 0.3))

    def stream(self) -> None:
        """An event stream, read to its end, or left somewhere."""
        events, unique = random.randint(1, 40), f"e{random.getrandbits(40)}"
        with connect(self.homes[0].port) as caller:
            caller.sendall(head("GET", f"/events?n={events}&ms=50", self.keys[0], f"X-Unique: {unique}"))
            if random.random() < 0.3:
                listen(caller, b"data: ", random.uniform(0.1, 1))
                return
            heard = listen(caller, b"0\r\n\r\n")
            assert heard.data.count(f"data: {unique}\n\n".encode()) == events, f"{events}: {heard.data[-200:]!r}"

    def socket(self) -> None:
        """A WebSocket that says something and hears it, then is left without a word."""
        caller = WSConnection(ConnectionType.CLIENT)
        credential = [(b"Authorization", b"Bearer " + self.keys[0].encode())]
        with connect(self.homes[0].port) as plain:
            plain.sendall(caller.send(Request(host="h", target="/socket", extra_headers=credential)))
            caller.receive_data(listen(plain, b"\r\n\r\n").data)
            list(caller.events())
            for _ in range(random.randint(1, 30)):
                said, heard = "x" * random.randint(1, 5000), ""
                plain.sendall(caller.send(TextMessage(said)))
                while len(heard) < len(said):
                    data = plain.recv(1 << 16)
                    assert data, "the socket has ended"
                    caller.receive_data(data)
                    heard += "".join(one.data for one in caller.events() if isinstance(one, TextMessage))
                assert heard == said

    def upload(self) -> None:
        """A body of up to 2 MiB; now and then it is not sent to its end."""
        size, unique = random.randint(0, 2 << 20), f"u{random.getrandbits(40)}"
        with connect(self.homes[0].port) as caller:
            fields = (f"X-Unique: {unique}", f"Content-Length: {size}", "Connection: close")
            caller.sendall(head("POST", "/up", self.keys[0], *fields))
            if random.random() < 0.2:
                caller.sendall(bytes(random.randint(0, size)))
                return
            caller.sendall(bytes(size))
            heard = listen(caller)
            assert heard.status == 200 and heard.data.endswith(unique.encode()), heard

    def leave(self) -> None:
        """A caller that does not wait for its answer."""
        number = random.randrange(2)
        with connect(self.homes[number].port) as caller, suppress(OSError):
            if random.random() < 0.5 and not number:
                caller.sendall(head("GET", "/slow?ms=200", self.keys[number]))
            elif not number:
                caller.sendall(head("GET", "/", self.keys[number])[: random.randint(1, 60)])
            self.stop.wait(random.uniform(0, 0.3))

    def http2(self) -> None:
        """Several streams over one connection, of which one may be taken back."""
        with tls(self.homes[1].port, self.certificate, "h2") as connection:
            caller = Http2(connection)
            for _ in range(random.randint(1, 10)):
                asked = [(f"h{random.getrandbits(40)}", random.random() < 0.9) for _ in range(8)]
                streams = [
                    caller.ask("GET", "/slow?ms=20", self.keys[1] if valid else None, ("x-unique", unique))
                    for unique, valid in asked
                ]
                if random.random() < 0.2:
                    left = max(caller.streams)
                    caller.h2.reset_stream(left)
                    caller.flush()
                    streams, asked = streams[:-1], asked[:-1]
                for stream in streams:
                    caller.until(partial(getattr, stream, "ended"))
                for (unique, valid), stream in zip(asked, streams, strict=True):
                    right = stream.body == unique.encode() if valid else stream.status == 401
                    assert right, (unique, valid, stream)

    def reload(self) -> None:
        """A policy that changes every few seconds; every third one is no good."""
        number = 0
        while not self.stop.wait(7):
            number += 1
            for home in self.homes:
                home.write_policy(POLICY + ("nonsense: 1\n" if number % 3 == 0 else f"audience: a{number}\n"))
        self.done["reload"] = number

    # ---- What came of it

    def report(self, as_json: bool) -> bool:
        """Print it; whether it is good."""
        judged = self.seconds >= JUDGED_FROM_MIN * 60
        wrong = [watch.wrong(self.warm_s, judged) for watch in self.watches]
        rows = [
            (
                f"{watch.gateway} {number % 2}",
                f"{watch.mib[0]:.0f} → {watch.mib[-1]:.0f}",
                f"{watch.slope(self.warm_s):+.2f}",
                f"{watch.files[0]} → {watch.files[-1]} (most {max(watch.files)})",
                f"{watch.tasks[0]} → {watch.tasks[-1]} (most {max(watch.tasks)})",
                wrong[number] or "yes",
            )
            for number, watch in enumerate(self.watches)
        ]
        unlike = [f"{one.path} {one.status} {one.error}" for one in self.tally] + self.failed
        p99_ms = quantiles(self.tally.took_s, n=100)[-1] * 1000 if len(self.tally.took_s) > 1 else 0.0
        restarts = sum(self._told(home)["restarts"] for home in self.homes)
        found = {"requests": len(self.tally.took_s), "wrong": len(unlike), "p99_ms": round(p99_ms, 1)}
        found |= {"restarts": restarts, **self.done}
        if as_json:
            print(json.dumps({**found, "workers": rows, "unlike": unlike[:5]}, ensure_ascii=False))
        else:
            table = Table(
                title=f"{self.seconds / 60:g} minutes; memory may grow by < {MOST_MIB_A_MINUTE:g} MiB a minute"
            )
            for name in ("worker", "RSS, MiB", "MiB a minute", "open files", "tasks", "good?"):
                table.add_column(name, overflow="fold")
            for row in rows:
                table.add_row(*row)
            Console(width=None if sys.stdout.isatty() else 140).print(table)
            print(", ".join(f"{name} {value}" for name, value in found.items()), *unlike[:5], sep="\n")
        return not any(wrong) and not unlike and not restarts


def run(folder: Path, minutes: float, as_json: bool) -> bool:
    """Soak for so long; whether all was good."""
    traffic = Traffic(folder, minutes * 60)
    try:
        traffic.begin()
        traffic.run()
        return traffic.report(as_json)
    finally:
        traffic.close()
