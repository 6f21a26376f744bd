"""Which exchanges of an engine hold places in flight, for the worker that takes this one's place.

Law: a line is written before the engine is told that the request goes on, and after its places were given back; what a
killed worker has written is there for the next one. It is of one engine's life: that of another one holds nothing.
"""

import errno
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

COMPACT = 1 << 20
"""Bytes after which it is written anew, with what is held and no more."""


class PlacesJournal:
    """One worker's."""

    def __init__(self, path: Path) -> None:
        """Read what is there. Raises OSError."""
        self._path = path
        self._handle: int | None = None
        self._held: dict[str, Sequence[str]] = {}
        with suppress(FileNotFoundError):
            for line in path.read_bytes().splitlines():
                self._read(line)
        self._write_anew()

    def _read(self, line: bytes) -> None:
        """Take a line in; one that was not written to its end is none."""
        with suppress(ValueError):
            name, *held = json.loads(line)
            if held:
                self._held[name] = held
            else:
                self._held.pop(name, None)

    def _write_anew(self) -> None:
        """Write what is held, and no more, in another file's place. Raises OSError, and then the other one stays."""
        fresh = self._path.with_name(self._path.name + ".new")
        fresh.unlink(missing_ok=True)
        handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        try:
            size = _write(handle, b"".join(_line(name, held) for name, held in self._held.items()))
            fresh.replace(self._path)
        except OSError:
            os.close(handle)
            fresh.unlink(missing_ok=True)
            raise
        if self._handle is not None:
            os.close(self._handle)
        self._handle, self._size = handle, size

    def __iter__(self) -> Iterator[tuple[str, Sequence[str]]]:
        """What is held, by the exchanges' names."""
        return iter(list(self._held.items()))

    def hold(self, name: str, held: Sequence[str]) -> None:
        """An exchange holds places. Raises OSError: then that is not noted."""
        self._held[name] = held
        try:
            self._append(_line(name, held))
        except OSError:
            del self._held[name]
            raise

    def release(self, name: str) -> None:
        """It holds none any more."""
        if self._held.pop(name, None) is not None:
            with suppress(OSError):  # who reads it then releases what is not held
                self._append(_line(name, ()))

    def clear(self, path: Path | None = None) -> None:
        """None holds any. `path`: where it goes on."""
        self._held.clear()
        before, self._path = self._path, path or self._path
        with suppress(OSError):
            self._write_anew()
            if before != self._path:
                before.unlink(missing_ok=True)

    def _append(self, line: bytes) -> None:
        assert self._handle is not None
        self._size += _write(self._handle, line)
        if self._size > COMPACT and self._size > 4 * sum(map(len, self._held)):
            self._write_anew()

    def close(self) -> None:
        """Close it."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


def _line(name: str, held: Sequence[str]) -> bytes:
    """Between ends of lines: one that was not written whole spoils no other."""
    return b"\n" + json.dumps([name, *held]).encode() + b"\n"


def _write(handle: int, data: bytes) -> int:
    """Write all of it. Raises OSError."""
    if os.write(handle, data) != len(data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return len(data)
