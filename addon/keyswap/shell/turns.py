"""Work that is left over when a connection has had its share of a turn of the event loop.

Law: of all that waits here one piece is done in a turn, the oldest first, whoever has left how much: between two of
them everybody's sockets are looked at.
"""

import asyncio
from collections import deque
from collections.abc import Callable


class Turns:
    """What waits for its turn, of all connections."""

    def __init__(self) -> None:
        self._waiting: deque[Callable[[], None]] = deque()

    def wait(self, work: Callable[[], None]) -> None:
        """Do this in a turn of its own."""
        self._waiting.append(work)
        if len(self._waiting) == 1:
            asyncio.get_running_loop().call_soon(self._next)

    def _next(self) -> None:
        work = self._waiting[0]
        try:
            work()
        finally:
            self._waiting.popleft()
            if self._waiting:
                asyncio.get_running_loop().call_soon(self._next)
