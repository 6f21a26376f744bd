"""A pipe in the file system into which an engine writes a line for each request that has ended.

Law: this end holds the pipe open both ways, so that the engine's writing never fails, and a reader that is replaced
finds what was written meanwhile.
"""

import asyncio
import fcntl
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from keyswap.model import StateError

SIZE = 1 << 20
"""Bytes that may wait in it: about ten thousand ends."""
_SET_SIZE = 1031
"""F_SETPIPE_SZ of Linux (fcntl(2))."""
_READ = 1 << 16


class EndsPipe:
    """One pipe."""

    def __init__(self, path: Path) -> None:
        """Open it. Raises StateError."""
        try:
            self._handle = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        except OSError as error:
            raise StateError(f"{path} cannot be opened: {error.strerror}") from error
        self._rest = b""
        self._following: asyncio.AbstractEventLoop | None = None

    @classmethod
    def make(cls, path: Path) -> "EndsPipe":
        """Make it first. Raises StateError."""
        try:
            os.mkfifo(path, 0o600)
        except OSError as error:
            raise StateError(f"{path} cannot be made: {error.strerror}") from error
        made = cls(path)
        with suppress(OSError):
            fcntl.fcntl(made._handle, _SET_SIZE, SIZE)
        return made

    def follow(self, take: Callable[[list[str]], None]) -> None:
        """Call `take` with whole lines, as they come."""
        self._following = asyncio.get_running_loop()
        self._following.add_reader(self._handle, self.read, take)

    def read(self, take: Callable[[list[str]], None]) -> None:
        """Call `take` with the whole lines that are there."""
        with suppress(BlockingIOError):
            *lines, self._rest = (self._rest + os.read(self._handle, _READ)).split(b"\n")
            if lines:
                take([line.decode("latin-1") for line in lines])

    def forget(self) -> None:
        """Drop the beginning of a line: who was writing it is gone."""
        self._rest = b""

    def close(self) -> None:
        """Close it."""
        if self._following is not None:
            self._following.remove_reader(self._handle)
        os.close(self._handle)
