"""The workers' log lines, merged into one log: a line that several workers write within seconds is written once.

Law: nothing is held back but the same line of another worker within `SAME_S`.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable

SAME_S = 5.0
MOST = 1000


class ForwardingHandler(logging.Handler):
    """A worker's end: forwards its log lines, always in the thread of the event loop."""

    def __init__(self, forward: Callable[[str], None], loop: asyncio.AbstractEventLoop) -> None:
        """Made in the thread of `loop`."""
        super().__init__(logging.WARNING)
        self._forward, self._loop, self._thread = forward, loop, threading.get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        """Forward a line, whichever thread it comes from."""
        try:
            line = self.format(record)
            if threading.get_ident() == self._thread:
                self._forward(line)
            else:
                self._loop.call_soon_threadsafe(self._forward, line)
        except Exception:  # noqa: BLE001 (logging's own way with a handler that fails)
            self.handleError(record)


class LogDeduplicator:
    """Writes lines that several workers may have logged. `clock` counts seconds."""

    def __init__(self, write: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._write, self._clock = write, clock
        self._recent: dict[str, tuple[float, set[int]]] = {}

    def log(self, worker: int, line: str) -> None:
        """Write a worker's line, unless another worker's was the same a moment ago."""
        now = self._clock()
        recent = self._recent.get(line)
        if recent is not None and now - recent[0] < SAME_S and worker not in recent[1]:
            recent[1].add(worker)
            return
        if len(self._recent) >= MOST:
            self._recent.clear()
        self._recent[line] = now, {worker}
        self._write(line)
