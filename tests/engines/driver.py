"""Sends requests through one data path, one after the other, and says what became of each: a process of its own.

Standard input and output are pickles: first the ports of its backends go out; then come the port of the path and the
requests, and the outcomes go out.
"""

import http.client
import json
import pickle
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress

from joserfc.jwk import KeySet

from harness import PATIENCE_S, Client
from tests.attacks.recorder import Recorder, Request, answer
from tests.engines.outcome import Outcome, Reader
from tests.engines.wire import Wire

BACKENDS = ("a", "b")
Answer = tuple[int, list[tuple[str, str]], bytes]


def behave(request: Request, connection: socket.socket) -> None:
    """A backend's answer: to whom it is one, so that no caller gets another's."""
    said = json.dumps({"method": request.method.decode(), "target": request.target.decode()}).encode()
    whole = answer(said, b"Content-Type: application/json", b"X-Echo: 1", b"X-Request-Id: of-the-backend")
    connection.sendall(whole.partition(b"\r\n\r\n")[0] + b"\r\n\r\n" if request.method == b"HEAD" else whole)


class Caller:
    """Connections to one data path, kept as long as both sides like."""

    def __init__(self, port: int) -> None:
        self._port, self._source = port, ""
        self._kept: socket.socket | None = None

    def close(self) -> None:
        """Have none."""
        if self._kept is not None:
            self._kept.close()
            self._kept = None

    def ask(self, wire: Wire) -> Answer | None:
        """The answer; None: there is none."""
        if wire.closes() or wire.source != self._source:
            self.close()
        if self._kept is not None and (found := self._said(wire, self._kept)) is not None:
            return found
        source = wire.source if sys.platform == "linux" else "127.0.0.1"
        address = ("127.0.0.1", self._port)
        self._kept, self._source = socket.create_connection(address, PATIENCE_S, (source, 0)), wire.source
        return self._said(wire, self._kept)

    def _said(self, wire: Wire, connection: socket.socket) -> Answer | None:
        with suppress(OSError):
            connection.sendall(wire.raw)
        response = http.client.HTTPResponse(connection, method=wire.method.decode("latin-1"))
        try:
            response.begin()
            found = response.status, response.getheaders(), response.read()
        except (http.client.HTTPException, OSError):
            self.close()
            return None
        finally:
            response.close()
        if response.will_close or wire.closes():
            self.close()
        return found


class Driven:
    """A data path with its backends."""

    def __init__(self, recorders: dict[str, Recorder], port: int) -> None:
        with Client(port) as client:
            keys = KeySet.import_key_set(client.ask("GET", "/.well-known/jwks.json").json)
        self._recorders, self._caller = recorders, Caller(port)
        self._reader = Reader(keys, {name: one.authority for name, one in recorders.items()})

    def outcome(self, wire: Wire) -> Outcome:
        """What becomes of a request."""
        for one in self._recorders.values():
            one.clear()
        found = self._caller.ask(wire)
        received = [(name, request) for name, one in self._recorders.items() for request in one.requests()]
        malformed = sum(not odd.cut for one in self._recorders.values() for odd in one.odd)
        return self._reader.outcome(wire, found, received, malformed)


def drive(port: int, recorders: dict[str, Recorder], wires: Sequence[Wire]) -> list[Outcome]:
    """What becomes of each request."""
    path = Driven(recorders, port)
    return [path.outcome(wire) for wire in wires]


def main() -> None:
    """Be the process."""
    recorders = {name: Recorder(behave) for name in BACKENDS}
    pickle.dump({name: one.port for name, one in recorders.items()}, sys.stdout.buffer)
    sys.stdout.buffer.flush()
    port, wires = pickle.load(sys.stdin.buffer)
    pickle.dump(drive(port, recorders, wires), sys.stdout.buffer)
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
