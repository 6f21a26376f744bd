"""A proxy that asks an authorizer: `keyswap authz` as a process, and questions as raw bytes over its socket."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from harness import EVENTUALLY_S, Home, eventually
from raw import Heard, listen

OF_ENVOY = ("x-envoy-internal: true", "x-envoy-expected-rq-timeout-ms: 250", "x-forwarded-for: 10.0.0.9")
PREFIX = "/.keyswap/envoy"


class Authz:
    """A running authorizer."""

    def __init__(self, home: Home, *words: str, workers: int = 1) -> None:
        self.home = home
        self.errors = home.folder / f"authz-{len(list(home.folder.glob('authz-*')))}"
        command = [sys.executable, "-m", "keyswap", "authz", "--policy", str(home.policy), "--state", str(home.state)]
        with self.errors.open("ab") as errors:
            self.process = subprocess.Popen(
                [*command, "--workers", str(workers), "--grace", "5s", *words],
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                cwd=home.folder,
                env={**os.environ, "HOME": str(home.folder)},
            )

    def ready(self) -> "Authz":
        """Wait until it says so."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.output
        self.told = json.loads(line)
        assert self.told["event"] == "ready"
        return self

    @property
    def output(self) -> str:
        """What it has printed on standard error."""
        return self.errors.read_text()

    @property
    def path(self) -> Path:
        """Its socket."""
        return self.home.state / "authz.sock"

    @property
    def workers(self) -> list[int]:
        """Its processes that answer. Linux alone."""
        pid = self.process.pid
        return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def connect(self) -> socket.socket:
        """A connection of a proxy."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(EVENTUALLY_S)
        connection.connect(os.fspath(self.path))
        return connection

    def ask(self, method: str, target: str, key: str | None = None, *fields: str, body: bytes = b"") -> Heard:
        """The answer to a question as Envoy asks it."""
        return self.say(question(method, PREFIX + target, key, *OF_ENVOY, *fields, body=body))

    def say(self, raw: bytes) -> Heard:
        """What is heard after these bytes, on a connection of its own."""
        with closing(self.connect()) as connection:
            connection.sendall(raw)
            with suppress(OSError):
                connection.shutdown(socket.SHUT_WR)
            return listen(connection)

    def ended(self) -> int:
        """Wait until it has ended; its exit code."""
        return self.process.wait(EVENTUALLY_S)

    def stop(self) -> int:
        """End it; its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(20)
        finally:
            self.process.kill()
            if self.process.stdout is not None:
                self.process.stdout.close()

    def lines(self) -> list[Any]:
        """The decision lines that it has printed."""
        path = self.home.folder / "decisions.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def decision(self, request_id: str) -> Any:
        """The decision line of a request."""
        found: list[Any] = []

        def written() -> bool:
            found[:] = [line for line in self.lines() if line["request_id"] == request_id]
            return bool(found)

        eventually("its decision is written", written)
        return found[0]


def question(
    method: str, target: str, key: str | None, *fields: str, body: bytes = b"", host: str = "api.example"
) -> bytes:
    """A question's bytes."""
    lines: Iterable[str] = [f"{method} {target} HTTP/1.1", f"Host: {host}", *fields]
    lines = [*lines, *([f"Authorization: Bearer {key}"] if key else []), f"Content-Length: {len(body)}"]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def values(heard: Heard, name: str) -> list[str]:
    """The values of a field of an answer."""
    head = heard.data.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")[1:]
    pairs = [line.partition(": ") for line in head]
    return [value for known, _, value in pairs if known.lower() == name.lower()]
