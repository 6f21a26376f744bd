"""One JSON line a decision (CONTRACT §2).

Law: a line holds no credential, token, query or body, and never delays a request: lines are gathered for some
milliseconds and written together. A destination that cannot be written loses lines, never requests; it says so once.
"""

import asyncio
import json
import logging
import os
import queue
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from keyswap.model import Admit, Decision, Level, NeedBody, Refuse, Reply

logger = logging.getLogger(__name__)

FLUSH_S = 0.05
WAITING_CHUNKS = 256
"""How many flushes wait for a reader that has stalled, before lines are lost: over 12 s."""
_encode = json.JSONEncoder(separators=(",", ":")).encode


class Line(NamedTuple):
    """What is known of a request when its decision is written. Times are in seconds, on the wall clock."""

    at: float
    request_id: str
    decision: Decision
    status: int | None
    method: str
    target: bytes
    client: str
    gate_s: float
    upstream_s: float | None = None
    outcome: Refuse | None = None
    """Why an admitted request was answered by the gateway all the same."""

    def as_json(self) -> str:
        """The line, without its end."""
        decision = self.decision
        judged = decision.admit if isinstance(decision, NeedBody) else decision
        admitted = isinstance(decision, Admit)
        refused = decision if isinstance(decision, Refuse) else self.outcome
        principal = None if isinstance(judged, Reply) else judged.principal
        operation = None if isinstance(judged, Reply) else judged.operation
        levels = decision.levels if isinstance(decision, Refuse) else _levels(judged)
        return _encode(
            {
                "at": round(self.at, 3),
                "request_id": self.request_id,
                "decision": "admit" if admitted else "refuse",
                "status": self.status,
                "code": refused.code if refused else None,
                "reason": refused.reason if refused else getattr(judged, "noted", None),
                "shadow": judged.shadow if isinstance(judged, Admit | Refuse) else (),
                "method": self.method,
                "path": self.target.partition(b"?")[0].decode("latin-1"),
                "operation": operation.name if operation and operation.path else None,
                "key_id": principal.key_id if principal else getattr(decision, "key_id", None),
                "org_id": principal.org_id if principal else None,
                "user_id": principal.user_id if principal else None,
                "agent": principal.agent if principal else None,
                "session_id": principal.session_id if principal else None,
                "client": self.client,
                "gate_us": round(self.gate_s * 1e6, 1),
                "upstream_ms": None if self.upstream_s is None else round(self.upstream_s * 1e3, 2),
                **({"limits": [level.as_json() for level in levels]} if levels else {}),
            }
        )


def _levels(judged: Decision) -> tuple[Level, ...]:
    return (*judged.counted.levels, *judged.counted.watched) if isinstance(judged, Admit) else ()


class DecisionLog:
    """Writes decision lines to `stdout`, nowhere (`off`), or a file, from a thread of its own."""

    def __init__(self, destination: str, folder: Path) -> None:
        """Open it. Raises OSError or ValueError."""
        self.destination = destination
        self._waiting: list[str] = []
        self._timer: asyncio.TimerHandle | None = None
        self._complained = False
        self._chunks: queue.Queue[bytes | None] = queue.Queue(WAITING_CHUNKS)
        self._thread: threading.Thread | None = None
        if destination == "off":
            return
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        out = os.dup(sys.stdout.fileno()) if destination == "stdout" else os.open(folder / destination, flags, 0o600)
        self._thread = threading.Thread(target=self._drain, args=(out,), name="keyswap decisions", daemon=True)
        self._thread.start()

    def write(self, line: Line) -> None:
        """Take a line."""
        if self._thread is None:
            return
        self._waiting.append(line.as_json())
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(FLUSH_S, self.flush)

    def flush(self) -> None:
        """Hand over what was gathered; it is dropped when whoever reads the lines has stalled."""
        self._timer = None
        lines, self._waiting = self._waiting, []
        if lines:
            try:
                self._chunks.put_nowait(("\n".join(lines) + "\n").encode())
            except queue.Full:
                self._complain("nobody reads them")

    def close(self) -> None:
        """Write what was gathered, for as long as somebody takes it, and let the file go."""
        if self._timer is not None:
            self._timer.cancel()
        self.flush()
        if self._thread is not None:
            with suppress(queue.Full):
                self._chunks.put_nowait(None)
            self._thread.join(2)
        self._thread = None

    def _drain(self, out: int) -> None:
        while (chunk := self._chunks.get()) is not None:
            try:
                while chunk:
                    chunk = chunk[os.write(out, chunk) :]
                self._complained = False
            except OSError as error:
                self._complain(error.strerror or "an error")
        os.close(out)

    def _complain(self, why: str) -> None:
        if not self._complained:
            self._complained = True
            logger.warning("decision lines to %s are lost: %s", self.destination, why)
