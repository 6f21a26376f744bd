"""Which exchanges of an engine hold places in flight, for the worker that takes this one's place.

Law: a line is written before the engine is told that the request goes on, and after its places were given back; what a
killed worker has written is there for the next one. It is of one engine's life: that of another one holds nothing.
"""

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
        fresh = self._path.with_suffix(".new")
        with suppress(FileNotFoundError):
            fresh.unlink()
        self._handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        self._size = os.write(self._handle, b"".join(_line(name, held) for name, held in self._held.items()))
        fresh.replace(self._path)

    def __iter__(self) -> Iterator[tuple[str, Sequence[str]]]:
        """What is held, by the exchanges' names."""
        return iter(list(self._held.items()))

    def hold(self, name: str, held: Sequence[str]) -> None:
        """An exchange holds places. Raises OSError."""
        self._held[name] = held
        self._append(_line(name, held))

    def release(self, name: str) -> None:
        """It holds none any more."""
        if self._held.pop(name, None) is not None:
            with suppress(OSError):  # who reads it then releases what is not held
                self._append(_line(name, ()))

    def clear(self) -> None:
        """None holds any."""
        self._held.clear()
        with suppress(OSError):
            self._compact()

    def _append(self, line: bytes) -> None:
        self._size += os.write(self._handle, line)
        if self._size > COMPACT and self._size > 4 * sum(map(len, self._held)):
            self._compact()

    def _compact(self) -> None:
        before = self._handle
        self._write_anew()
        os.close(before)

    def close(self) -> None:
        """Close it."""
        os.close(self._handle)


def _line(name: str, held: Sequence[str]) -> bytes:
    return json.dumps([name, *held]).encode() + b"\n"
