"""What workers say to people: one log, in which what all of them say at once is said once.

Law: nothing is held back but the same words of another worker within some seconds.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable

SAME_S = 5.0
MOST = 1000


class Voice(logging.Handler):
    """A worker's end: hands its log lines to whoever says them, always in the thread of the event loop."""

    def __init__(self, say: Callable[[str], None], loop: asyncio.AbstractEventLoop) -> None:
        """Made in the thread of `loop`."""
        super().__init__(logging.WARNING)
        self._say, self._loop, self._thread = say, loop, threading.get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        """Hand a line over, whichever thread it comes from."""
        try:
            line = self.format(record)
            if threading.get_ident() == self._thread:
                self._say(line)
            else:
                self._loop.call_soon_threadsafe(self._say, line)
        except Exception:  # noqa: BLE001 (logging's own way with a handler that fails)
            self.handleError(record)


class Chorus:
    """Says lines that several workers may have said. `clock` counts seconds."""

    def __init__(self, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._say, self._clock = say, clock
        self._said: dict[str, tuple[float, set[int]]] = {}

    def heard(self, worker: int, line: str) -> None:
        """A worker says something."""
        now = self._clock()
        before = self._said.get(line)
        if before is not None and now - before[0] < SAME_S and worker not in before[1]:
            before[1].add(worker)
            return
        if len(self._said) >= MOST:
            self._said.clear()
        self._said[line] = now, {worker}
        self._say(line)
