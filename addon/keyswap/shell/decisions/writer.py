"""How decisions get to a destination without delaying requests: a background thread for each.

Law: a decision never delays a request: decisions are gathered for some milliseconds and written together, by a thread
of its own for each destination, so that one that stalls costs no other. A destination that cannot be written loses
decisions, never requests; it says so once, and is written again as soon as it can be.
"""

import asyncio
import logging
import os
import queue
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from keyswap.model import StateError
from keyswap.shell.decisions.pending import PendingDecision
from keyswap.shell.decisions.sinks import LogFile, Stream

logger = logging.getLogger(__name__)

FLUSH_S = 0.05
ENDING_S = 2.0
"""How long the end of a gateway waits for a destination that has stalled."""
WAITING_BATCHES = 256
"""How many flushes wait for a destination that has stalled, before decisions are lost: over 12 s."""


class BackgroundWriter[Item, Encoded]:
    """Decisions on their way to one destination; its thread begins with the first one."""

    def __init__(
        self,
        name: str,
        encode: Callable[[Item], Encoded],
        write: Callable[[Sequence[Encoded]], None],
        end: Callable[[], None],
    ) -> None:
        """`encode` makes the destination's form of a decision, on the event loop, a batch at a time.

        `write` takes a batch, an empty one only to look around; it raises OSError or StateError. It and `end` run
        apart.
        """
        self._name, self._encode, self._write_out, self._end = name, encode, write, end
        self._waiting: list[Item] = []
        self._timer: asyncio.TimerHandle | None = None
        self._complained = False
        self._batches: queue.Queue[list[Encoded] | None] = queue.Queue(WAITING_BATCHES)
        self._thread: threading.Thread | None = None

    def write(self, item: Item) -> None:
        """Take a decision."""
        self._waiting.append(item)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(FLUSH_S, self.flush)

    def flush(self) -> None:
        """Hand over what was gathered; it is dropped when the destination has stalled."""
        self._timer = None
        waiting, self._waiting = self._waiting, []
        batch: list[Encoded] = []
        for item in waiting:
            try:
                batch.append(self._encode(item))
            except Exception as error:  # noqa: BLE001 (one decision is lost, not those beside it)
                self._complain(type(error).__name__)
        if batch:
            self._hand_over(batch)

    def nudge(self) -> None:
        """Let the destination look around though nothing is to be written."""
        self._hand_over([])

    def finish(self) -> None:
        """Take no more: what was gathered is written apart, and the destination let go then. Waits for nobody."""
        if self._timer is not None:
            self._timer.cancel()
        self.flush()
        if self._thread is None:
            return self._end()
        while True:
            try:
                return self._batches.put_nowait(None)
            except queue.Full:
                self._complain("nobody reads them")
                with suppress(queue.Empty):
                    self._batches.get_nowait()

    def join(self) -> None:
        """Wait, off the event loop, until what was gathered is written, for as long as somebody takes it."""
        if self._thread is not None:
            self._thread.join(ENDING_S)

    def _hand_over(self, batch: list[Encoded]) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._drain, name=f"keyswap {self._name}", daemon=True)
            self._thread.start()
        try:
            self._batches.put_nowait(batch)
        except queue.Full:
            self._complain("nobody reads them")

    def _drain(self) -> None:
        while (batch := self._batches.get()) is not None:
            try:
                self._write_out(batch)
                self._complained = False
            except OSError as error:
                self._complain(error.strerror or "an error")
            except StateError as error:
                self._complain(str(error))
            except Exception as error:  # noqa: BLE001 (one batch is lost, not the writer; its text may quote a caller)
                self._complain(type(error).__name__)
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
        self.lines: BackgroundWriter[PendingDecision, str] | None = None
        """None: decisions are not logged."""
        if destination == "off":
            return
        out = Stream(os.dup(sys.stdout.fileno())) if destination == "stdout" else LogFile(folder / destination)
        self.lines = BackgroundWriter(
            destination, PendingDecision.text, lambda lines: out.write(("\n".join(lines) + "\n").encode()), out.close
        )

    def finish(self) -> None:
        """Take no more lines: what was gathered is written apart, and the file let go then."""
        if self.lines is not None:
            self.lines.finish()

    def join(self) -> None:
        """Wait for that for a moment, off the event loop."""
        if self.lines is not None:
            self.lines.join()
