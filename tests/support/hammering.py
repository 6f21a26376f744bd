"""Many callers at once."""

import http.client
import os
import random
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count

from harness import Client, Gateway

INVALID_EACH = 10
"""One request of so many has a key that is none."""
INVALID = "ksw_test_000000000000000000000000000000000000"


_NUMBERS = count()


def hammered(gateways: list[Gateway], key: str, clients: int, each: int) -> int:
    """How many requests were admitted, of those of so many clients at once."""
    barrier = threading.Barrier(clients)

    def client(number: int) -> int:
        with Client(gateways[number % len(gateways)].port) as caller:
            caller.connect()
            barrier.wait(30)
            return sum(caller.ask("GET", "/", key).status == 200 for _ in range(each))

    with ThreadPoolExecutor(clients) as pool:
        return sum(pool.map(client, range(clients)))


@dataclass(frozen=True)
class Asked:
    """A request, and what became of it."""

    unique: str
    path: str
    valid: bool
    """Its key is."""
    began: float
    ended: float
    status: int
    """0: there was no whole answer."""
    body: bytes
    error: str = ""
    connected: bool = True
    """It had a connection."""

    @property
    def right(self) -> bool:
        """Whether it was answered as it must be."""
        if self.valid:
            return self.status == 200 and self.body == self.unique.encode()
        return self.status == 401 and b'"invalid-credential"' in self.body

    @property
    def lost(self) -> bool:
        """Whether it was not answered."""
        return self.status == 0


@dataclass
class Load:
    """Callers who ask for as long as they are let, and what they were answered."""

    port: int
    key: str
    path: Callable[[int], str] = lambda _number: "/"
    asked: list[Asked] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)
    pace_s: float = 0.0
    """How long a caller waits between two requests, on average."""
    trust: ssl.SSLContext | None = None
    """TLS is spoken, and this is trusted."""

    @property
    def wrong(self) -> list[Asked]:
        """Those that were answered, but not as they must be."""
        return [one for one in self.asked if not one.lost and not one.right]

    @property
    def lost(self) -> list[Asked]:
        """Those that were sent and not answered."""
        return [one for one in self.asked if one.lost and one.connected]

    @property
    def turned_away(self) -> list[Asked]:
        """Those that found nobody who listens."""
        return [one for one in self.asked if not one.connected]

    def go_on(self, keeps: bool) -> None:
        """One caller, over a connection that it keeps, or over one for each request."""
        connection: http.client.HTTPConnection | None = None
        while not self.stop.is_set():
            if connection is None:
                connection = self._connection()
            one, again = self.ask(connection, keeps)
            self.asked.append(one)
            if not again:
                connection.close()
                connection = None
            if self.pace_s or not one.connected:
                self.stop.wait(random.uniform(0, 2 * self.pace_s) if one.connected else 0.05)
        if connection is not None:
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        if self.trust is None:
            return http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        return http.client.HTTPSConnection("127.0.0.1", self.port, timeout=20, context=self.trust)

    def ask(self, connection: http.client.HTTPConnection, keeps: bool) -> tuple[Asked, bool]:
        """One request; whether another one may follow over its connection."""
        number = next(_NUMBERS)
        unique, path = f"u{number}", self.path(number)
        valid = number % INVALID_EACH != INVALID_EACH - 1
        headers = {"X-Unique": unique, "Authorization": f"Bearer {self.key if valid else INVALID}"}
        headers |= {} if keeps else {"Connection": "close"}
        began = time.monotonic()
        if connection.sock is None:
            try:
                connection.connect()
            except OSError as error:
                return Asked(unique, path, valid, began, time.monotonic(), 0, b"", repr(error), False), False
        try:
            connection.request("GET", path, headers=headers)
            response = connection.getresponse()
            body = response.read()
        except (OSError, http.client.HTTPException) as error:
            return Asked(unique, path, valid, began, time.monotonic(), 0, b"", repr(error)), False
        one = Asked(unique, path, valid, began, time.monotonic(), response.status, body)
        return one, keeps and not response.will_close


@contextmanager
def loaded(port: int, key: str, path: Callable[[int], str] = lambda _number: "/", callers: int = 6) -> Iterator[Load]:
    """Callers for as long as the block lasts: half of them keep their connections."""
    load = Load(port, key, path)
    threads = [threading.Thread(target=load.go_on, args=(number % 2 == 0,)) for number in range(callers)]
    for thread in threads:
        thread.start()
    try:
        yield load
    finally:
        load.stop.set()
        for thread in threads:
            thread.join()


def held_by(connection: socket.socket, processes: list[int]) -> int | None:
    """Which of these processes has the other end of a connection; None: none has accepted it yet. Linux alone."""
    theirs = f":{connection.getsockname()[1]:04X}"
    ours = f":{connection.getpeername()[1]:04X}"
    with open("/proc/net/tcp") as table:
        rows = [row.split() for row in table.readlines()[1:]]
    inodes = [row[9] for row in rows if row[1].endswith(ours) and row[2].endswith(theirs)]
    for process in processes if inodes else ():
        with suppress(OSError):
            if f"socket:[{inodes[0]}]" in handles(process):
                return process
    return None


def handles(process: int) -> list[str]:
    """What a process's open files are. Linux alone."""
    found = []
    for name in os.listdir(f"/proc/{process}/fd"):
        with suppress(OSError):  # closed meanwhile
            found.append(os.readlink(f"/proc/{process}/fd/{name}"))
    return found
