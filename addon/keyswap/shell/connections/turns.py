"""Work that is left over when a connection has had its share of a turn of the event loop, and work that can wait.

Law: of all that waits here so many pieces are done in a turn, the oldest first, whoever has left how much: between two
turns everybody's sockets are looked at, so that a small request waits for a turn and not for all of them.
"""

import asyncio
from collections import deque
from collections.abc import Callable

AT_ONCE = 2
"""Pieces of a turn."""


class Turns:
    """What waits for its turn, of all connections."""

    def __init__(self) -> None:
        self._waiting: deque[Callable[[], None]] = deque()
        self._room, self._runs = AT_ONCE, False

    def wait(self, work: Callable[[], None]) -> None:
        """Do this in a later turn."""
        self._waiting.append(work)
        self._run()

    async def turn(self) -> None:
        """Wait until it is the caller's turn, which is at once where this one has room."""
        if self._room and not self._waiting:
            self._room -= 1
            self._run()
            return
        due = asyncio.get_running_loop().create_future()
        self.wait(lambda: None if due.done() else due.set_result(None))
        await due

    def _run(self) -> None:
        if not self._runs:
            self._runs = True
            asyncio.get_running_loop().call_soon(self._next)

    def _next(self) -> None:
        self._room, self._runs = AT_ONCE, False
        try:
            while self._waiting and self._room:
                self._room -= 1
                self._waiting.popleft()()
        finally:
            if self._room < AT_ONCE:
                self._run()
