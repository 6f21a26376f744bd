"""What an authorizer does beside answering, where an engine of ours asks it.

Law: a policy is put in force only when the engine has taken what it needs. What the engine tells of ends is read here,
by the worker that has admitted the request.
"""

import asyncio
import os
import socket
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from keyswap.model import WIRE, Code, Refuse, StateError, Unread
from keyswap.shell.authz.engine_answers import EngineAnswers
from keyswap.shell.authz.engine_needs import needs_of
from keyswap.shell.authz.exchanges import Exchanges
from keyswap.shell.authz.places_journal import PlacesJournal
from keyswap.shell.decisions.record import Line
from keyswap.shell.engine.ends_pipe import EndsPipe
from keyswap.shell.engine.run_folder import RunFolder
from keyswap.shell.metrics.collect import Traffic
from keyswap.shell.runtime.active_policy import ActivePolicy
from keyswap.shell.runtime.certificate import Certificate
from keyswap.shell.runtime.exceptions import attempt
from keyswap.shell.runtime.runtime import Runtime
from keyswap.shell.serve.ipc import Channel
from keyswap.shell.serve.settings import Start

_CODES = {413: Code.BODY_TOO_LARGE, 431: Code.HEADERS_TOO_LARGE, 502: Code.UPSTREAM_UNAVAILABLE}
_CODES |= {503: Code.GATEWAY_UNAVAILABLE, 504: Code.UPSTREAM_TIMEOUT}


class EngineWorker:
    """One worker of an engine."""

    def __init__(self, start: Start, runtime: Runtime) -> None:
        """Raises StateError."""
        assert start.engine is not None
        self._runtime, self._number = runtime, start.number
        self._folder = folder = RunFolder(start.engine)
        try:
            journal = PlacesJournal(folder.places(start.number, start.generation))
        except OSError as error:
            raise StateError(f"{folder.path} cannot hold which places are taken: {error.strerror}") from error
        self._exchanges = Exchanges(runtime.record, journal)
        self.answers = EngineAnswers(runtime, self._exchanges, start.number)
        self._ends = EndsPipe(folder.ends(start.number))
        self.listening = _listening(folder.worker(start.number))
        """Where the engine brings bodies."""
        runtime.traffic = lambda: Traffic(0, len(self._exchanges))
        self._channel: Channel | None = None
        self._certificate: Certificate | None = None
        self._shown = "", ""
        self._tending: asyncio.Task[None] | None = None

    async def begin(self, channel: Channel, certificate: Certificate | None) -> None:
        """Have the engine take what the policy in force needs, and follow it. Raises Unread."""
        self._channel, self._certificate = channel, certificate
        self._exchanges.adopt(self._runtime.resources.adopt_places)
        self._runtime.resources.settle_places()
        self._ends.follow(self._ended)
        await self._prepare(self._runtime.active)
        self._runtime.reloads.prepare = self._prepare
        self._tending = asyncio.get_running_loop().create_task(self._tend(), name="keyswap exchanges")

    def _ended(self, lines: list[str]) -> None:
        attempt(partial(self._exchanges.ended, lines))

    async def _prepare(self, policy: ActivePolicy) -> None:
        """Have the engine take what a policy needs. Raises Unread, as it may be able to later on."""
        assert self._channel is not None
        tls = self._certificate.pem if self._certificate is not None else None
        message = {"worker": self._number, "needs": needs_of(policy).as_json(), "tls": tls}
        try:
            answer = await self._channel.request(message)
        except ConnectionError as error:
            raise Unread(f"{self._runtime.file}: the supervisor has ended") from error
        if (refused := answer["refused"]) is not None:
            raise Unread(f"{self._runtime.file}: {refused}")
        self._shown = tls or self._shown

    async def _tend(self) -> None:
        """Write what goes on for long, and have the engine show a renewed certificate: once a second."""
        while True:
            await asyncio.sleep(1.0)
            attempt(self._exchanges.tend)
            if self._certificate is not None and self._certificate.pem != self._shown:
                with suppress(Unread):
                    await self._prepare(self._runtime.active)

    def hear(self, message: dict[str, Any]) -> None:
        """The supervisor tells of the engine."""
        if "engine" in message:
            self._ends.forget()
            journal = self._folder.places(self._number, message["engine"])
            attempt(partial(self._exchanges.all_ended, journal))
        for name in message.get("left", ()):
            self._exchanges.end(name, None, "DC", None)
        for name in message.get("withdrawn", ()):  # the line of what the engine has refused says it
            self._exchanges.end(name, None, "DC", None, is_told=True)
        for part in message.get("refused", ()):
            attempt(partial(self._record, part))

    def _record(self, part: list[str]) -> None:
        self._runtime.record(_line(*part))

    def close(self) -> None:
        """End it."""
        if self._tending is not None:
            self._tending.cancel()
        self._ends.read(self._ended)
        attempt(self._exchanges.leave)
        self._ends.close()


def _line(name: str, status: str, flags: str, begun: str, peer: str, method: str, path: str, details: str) -> Line:
    """The decision line of a request that the engine has refused by itself."""
    number = int(status)
    code = _CODES.get(number, Code.INVALID_REQUEST)
    refused = Refuse(code, f"Envoy refused it: {details} ({flags})", step=WIRE)
    request_id = (begun + (name[:5] if name != "-" else "00000"))[:24]
    target = b"" if path == "-" else path.encode("latin-1", "replace")
    at = int(begun) / 1e9 if begun.isdigit() else time.time()
    return Line(at, request_id, refused, number, "" if method == "-" else method, target, peer, 0.0)


def _listening(path: Path) -> socket.socket:
    """A socket of this worker alone: one that a worker before has left is replaced."""
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    path.unlink(missing_ok=True)
    listening.bind(os.fspath(path))
    listening.setblocking(False)
    return listening
