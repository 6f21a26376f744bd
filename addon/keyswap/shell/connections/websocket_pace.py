"""How much is read of a WebSocket at once.

Law: one read is to take some milliseconds, whatever it holds. A kilobyte may be a part of a message, or two hundred
messages, each of which costs as much: what a read took decides how large the next one is.
"""

import time
from typing import Any

from keyswap.shell.connections.turns import Turns

LEAST, MOST = 256, 4 << 10
LONG_S, SHORT_S = 0.004, 0.001
TRUSTED_AFTER = 4
"""Short reads in a row after which the next may be twice as large."""


class Pace:
    """That of one direction of one connection."""

    def __init__(self) -> None:
        self.size = LEAST
        self._began: float | None = None
        self._short = 0

    async def read(self, reader: Any, most: int, turns: Turns) -> bytes:
        """Read what has come, when it is its turn."""
        data = bytes(await reader.read(min(most, self.size)))
        await turns.turn()
        self._began = time.thread_time()
        return data

    def done(self) -> None:
        """What was read has been taken."""
        if self._began is not None:
            took_s, self._began = time.thread_time() - self._began, None
            self.took(took_s)

    def took(self, took_s: float) -> None:
        """Choose the size of the next read by the CPU time that this one took."""
        if took_s > LONG_S:
            self.size, self._short = max(LEAST, self.size // 2), 0
        elif took_s > SHORT_S:
            self._short = 0
        else:
            self._short += 1
            if self._short >= TRUSTED_AFTER and self.size < MOST:
                self.size, self._short = self.size * 2, 0
