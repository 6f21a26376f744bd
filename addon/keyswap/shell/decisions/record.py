"""What is known of a decision, and where its line goes (CONTRACT §2).

Law: a line never delays a request: lines are gathered for some milliseconds and written together, by a thread of their
own for each destination, so that one that stalls costs no other. A destination that cannot be written loses lines,
never requests; it says so once, and is written again as soon as it can be.
"""

import asyncio
import logging
import os
import queue
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from keyswap.model import Decision, Refuse
from keyswap.shell.decisions.sinks import LogFile, Stream

logger = logging.getLogger(__name__)

FLUSH_S = 0.05
ENDING_S = 2.0
"""How long the end of a gateway waits for a destination that has stalled."""
WAITING_CHUNKS = 256
"""How many flushes wait for a destination that has stalled, before lines are lost: over 12 s."""


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
    trace_id: str | None = None
    """The trace that it belongs to (W3C Trace Context), 32 hex digits; None: it was not judged."""


class Lines:
    """Lines on their way to one destination; its thread begins with the first one."""

    def __init__(self, name: str, write: Callable[[bytes], None], end: Callable[[], None]) -> None:
        """`write` takes whole lines, and nothing where it is only to look around; it raises OSError. Both run apart."""
        self._name, self._write_out, self._end = name, write, end
        self._waiting: list[str] = []
        self._timer: asyncio.TimerHandle | None = None
        self._complained = False
        self._chunks: queue.Queue[bytes | None] = queue.Queue(WAITING_CHUNKS)
        self._thread: threading.Thread | None = None

    def write(self, line: str) -> None:
        """Take a line, without its end."""
        self._waiting.append(line)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(FLUSH_S, self.flush)

    def flush(self) -> None:
        """Hand over what was gathered; it is dropped when the destination has stalled."""
        self._timer = None
        lines, self._waiting = self._waiting, []
        if lines:
            self._hand_over(("\n".join(lines) + "\n").encode())

    def nudge(self) -> None:
        """Let the destination look around though nothing is to be written."""
        self._hand_over(b"")

    def finish(self) -> None:
        """Take no more: what was gathered is written apart, and the destination let go then. Waits for nobody."""
        if self._timer is not None:
            self._timer.cancel()
        self.flush()
        if self._thread is None:
            return self._end()
        while True:
            try:
                return self._chunks.put_nowait(None)
            except queue.Full:
                self._complain("nobody reads them")
                with suppress(queue.Empty):
                    self._chunks.get_nowait()

    def join(self) -> None:
        """Wait, off the event loop, until what was gathered is written, for as long as somebody takes it."""
        if self._thread is not None:
            self._thread.join(ENDING_S)

    def _hand_over(self, chunk: bytes) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._drain, name=f"keyswap {self._name}", daemon=True)
            self._thread.start()
        try:
            self._chunks.put_nowait(chunk)
        except queue.Full:
            self._complain("nobody reads them")

    def _drain(self) -> None:
        while (chunk := self._chunks.get()) is not None:
            try:
                self._write_out(chunk)
                self._complained = False
            except OSError as error:
                self._complain(error.strerror or "an error")
        self._end()

    def _complain(self, why: str) -> None:
        if not self._complained:
            self._complained = True
            logger.warning("decision lines to %s are lost: %s", self._name, why)


class DecisionLog:
    """Decision lines to `stdout`, nowhere (`off`), or a file."""

    def __init__(self, destination: str, folder: Path) -> None:
        """Open it. Raises OSError or ValueError."""
        self.destination = destination
        self.lines: Lines | None = None
        """None: decisions are not logged."""
        if destination == "off":
            return
        out = Stream(os.dup(sys.stdout.fileno())) if destination == "stdout" else LogFile(folder / destination)
        self.lines = Lines(destination, out.write, out.close)

    def finish(self) -> None:
        """Take no more lines: what was gathered is written apart, and the file let go then."""
        if self.lines is not None:
            self.lines.finish()

    def join(self) -> None:
        """Wait for that for a moment, off the event loop."""
        if self.lines is not None:
            self.lines.join()
