"""One JSON line a decision (CONTRACT §2).

Law: a line holds no credential, token, query or body, and never delays a request: lines are gathered for some
milliseconds and written together. A destination that cannot be written loses lines, never requests; it says so once.
"""

import asyncio
import json
import logging
import sys
from pathlib import Path
from typing import IO, NamedTuple

from keyswap.model import Admit, Decision

logger = logging.getLogger(__name__)

FLUSH_S = 0.05
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

    def as_json(self) -> str:
        """The line, without its end."""
        decision = self.decision
        admitted = isinstance(decision, Admit)
        principal = decision.principal if isinstance(decision, Admit) else None
        return _encode(
            {
                "at": round(self.at, 3),
                "request_id": self.request_id,
                "decision": "admit" if admitted else "refuse",
                "status": self.status,
                "code": None if isinstance(decision, Admit) else decision.code,
                "reason": None if isinstance(decision, Admit) else decision.reason,
                "shadow": [],
                "method": self.method,
                "path": self.target.partition(b"?")[0].decode("latin-1"),
                "operation": None,
                "key_id": principal.key_id if principal else getattr(decision, "key_id", None),
                "org_id": principal.org_id if principal else None,
                "user_id": principal.user_id if principal else None,
                "agent": principal.agent if principal else None,
                "session_id": principal.session_id if principal else None,
                "client": self.client,
                "gate_us": round(self.gate_s * 1e6, 1),
                "upstream_ms": None if self.upstream_s is None else round(self.upstream_s * 1e3, 2),
            }
        )


class DecisionLog:
    """Writes decision lines to `stdout`, nowhere (`off`), or a file."""

    def __init__(self, destination: str, folder: Path) -> None:
        self.destination = destination
        self._waiting: list[str] = []
        self._timer: asyncio.TimerHandle | None = None
        self._complained = False
        self._out: IO[str] | None = None
        if destination == "stdout":
            self._out = sys.stdout
        elif destination != "off":
            self._out = open(folder / destination, "a", encoding="utf-8")  # noqa: SIM115 (open as long as the log is)

    def write(self, line: Line) -> None:
        """Take a line."""
        if self._out is None:
            return
        self._waiting.append(line.as_json())
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(FLUSH_S, self.flush)

    def flush(self) -> None:
        """Write what was gathered."""
        self._timer = None
        lines, self._waiting = self._waiting, []
        if not lines or self._out is None:
            return
        try:
            self._out.write("\n".join(lines) + "\n")
            self._out.flush()
            self._complained = False
        except OSError as error:
            if not self._complained:
                logger.warning("decision lines cannot be written to %s: %s", self.destination, error.strerror)
            self._complained = True

    def close(self) -> None:
        """Write what was gathered, and let the file go."""
        if self._timer is not None:
            self._timer.cancel()
        self.flush()
        if self._out is not None and self._out is not sys.stdout:
            self._out.close()
        self._out = None
