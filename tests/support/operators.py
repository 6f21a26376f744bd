"""Who runs a gateway: its admin listener, asked as a scraper and an operator would."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from exposition import Page, promtool, read
from harness import Client, Home, Reply, eventually, free_port

TOKEN = "0123456789abcdef-0123456789-ABCDEF"


class Operator:
    """Asks one admin listener; a connection a request."""

    def __init__(self, home: Home, policy: str = "", port: int | None = None) -> None:
        """Writes a policy with a listener on a port of its own, or this one."""
        self.home, self.port = home, port or free_port()
        self.policy = policy
        home.write_policy(f"{policy}{self.section}")

    @property
    def section(self) -> str:
        """What the policy says of it."""
        return f"admin: {{listen: 127.0.0.1:{self.port}}}\n"

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def ask(self, method: str, path: str, token: str | None = None, **more: Any) -> Reply:
        with Client(self.port) as client:
            return client.ask(method, path, token, **more)

    def metrics(self) -> Page:
        """The metrics, which both of our readers of the format take."""
        reply = self.ask("GET", "/metrics")
        assert reply.status == 200, reply
        assert not promtool(reply.body), "Prometheus' own linter finds fault"
        return read(reply.body)

    def ready(self) -> "Operator":
        """Wait until it answers."""
        eventually("the admin listener answers", self.answers)
        return self

    def answers(self) -> bool:
        with suppress(OSError):
            return self.ask("GET", "/healthz").status == 200
        return False

    @contextmanager
    def wire(self) -> Iterator[socket.socket]:
        """A connection without a library in between."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=20) as connection:
            yield connection

    def say(self, sent: bytes) -> bytes:
        """What comes back until the listener closes; empty where it resets the connection."""
        with self.wire() as connection, suppress(ConnectionError):
            connection.sendall(sent)
            return everything(connection)
        return b""


def everything(connection: socket.socket) -> bytes:
    """What comes until the other side closes."""
    got = b""
    with suppress(ConnectionError):
        while piece := connection.recv(65536):
            got += piece
    return got
