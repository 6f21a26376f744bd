"""Room on the disk that is kept for ending keys: a key that leaked is revoked on a full disk too.

Law: it is taken for real, not promised (no hole). It is given up in pieces, one at each failure, and only for what
closes: revoking, disabling, blocking, letting a key end. What was given up is taken again when there is plenty, never
from the last of the disk. That it cannot be kept is no reason to refuse anything.
"""

import os
import sqlite3
from collections.abc import Callable
from contextlib import suppress

from keyswap.model import StateError
from keyswap.state import StateDirectory

FILE = "reserve"
SIZE = 512 << 10
"""Bytes of it."""
PIECE = 64 << 10
"""Bytes that are given up at once: a revocation takes 20 KiB of the database's log, an index of that 32 KiB."""

_BLOCK = 512
"""The unit of `st_blocks`, whatever the disk's own is."""
_FULL = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)
"""What SQLite says where nothing can grow: of a quota, and of the log's index, no more than that writing failed."""


class Room:
    """The reserve of a state directory."""

    def __init__(self, state: StateDirectory) -> None:
        self._path = state.file(FILE)

    def keep(self) -> None:
        """Take what is missing of it, if as much again stays free. Cheap when nothing is missing."""
        with suppress(OSError):
            missing = SIZE - self._taken()
            disk = os.statvfs(self._path.parent)
            if missing > 0 and disk.f_bavail * disk.f_frsize >= missing + SIZE:
                handle = self._opened(os.O_CREAT)
                try:
                    _take(handle)
                finally:
                    os.close(handle)

    def ending[T](self, end: Callable[[], T]) -> T:
        """The result of `end`, which is repeated with more room while the disk is full."""
        while True:
            try:
                return end()
            except StateError as error:
                if not (_is_full(error) and self._give()):
                    raise

    def _taken(self) -> int:
        """Bytes that the disk holds for it: a copy of it may be one hole."""
        try:
            status = self._path.stat(follow_symlinks=False)
        except FileNotFoundError:
            return 0
        return min(status.st_size, status.st_blocks * _BLOCK)

    def _give(self) -> bool:
        """Give a piece up; False: there is none left."""
        try:
            handle = self._opened()
        except OSError:
            return False
        try:
            size = os.fstat(handle).st_size
            os.ftruncate(handle, max(0, size - PIECE))
        except OSError:
            return False
        finally:
            os.close(handle)
        return size > 0

    def _opened(self, more: int = 0) -> int:
        return os.open(self._path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | more, 0o600)


def _take(handle: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(handle, 0, SIZE)
    else:
        os.pwrite(handle, bytes(SIZE), 0)


def _is_full(error: StateError) -> bool:
    return getattr(error.__cause__, "sqlite_errorcode", 0) & 0xFF in _FULL
