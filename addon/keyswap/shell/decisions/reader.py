"""Reading the decisions that are kept: the record of a request, and what is decided from now on.

Law: only whole lines are read; one that was cut by a crash, or is still being written, is none. What callers chose is
compared byte for byte, never taken for a pattern. Nothing here writes, locks or waits for a writer.
"""

import json
import mmap
import os
import time
from collections.abc import Iterator
from json.encoder import encode_basestring_ascii as quoted
from pathlib import Path
from typing import Any

from keyswap.shell.decisions.store import FOLDER, segments

Record = dict[str, Any]


def recorded(state: Path, request_id: str) -> Record | None:
    """The newest record of a request that is kept; None: there is none."""
    # As `Encoding` writes it: inside of any text these quotes would have backslashes before them.
    wanted = f',"request_id":{quoted(request_id)},'.encode()
    found: list[tuple[float, int, Record]] = []
    for number, handle in _opened(state / FOLDER).items():
        with open(handle, "rb") as file:
            record = _last_of(file.fileno(), wanted, request_id)
        if record is not None:
            found.append((record["at"], number, record))
    return max(found, key=lambda one: one[:2])[2] if found else None


def _opened(folder: Path) -> dict[int, int]:
    """The segments by their numbers, open: some are renamed or removed while one looks."""
    handles: dict[int, int] = {}
    missed = True
    while missed:
        missed = False
        for one in segments(folder):
            if one.number not in handles:
                try:
                    handles[one.number] = os.open(one.path, os.O_RDONLY)
                except FileNotFoundError:
                    missed = True
    return handles


def _last_of(handle: int, wanted: bytes, request_id: str) -> Record | None:
    if not os.fstat(handle).st_size:
        return None
    with mmap.mmap(handle, 0, access=mmap.ACCESS_READ) as content:
        at = content.rfind(wanted)
        while at >= 0:
            begin, end = content.rfind(b"\n", 0, at) + 1, content.find(b"\n", at)
            record = parsed(content[begin:end]) if end >= 0 else None
            if record is not None and record.get("request_id") == request_id:
                return record
            at = content.rfind(wanted, 0, at)
    return None


def parsed(line: bytes) -> Record | None:
    """A line as a record; None: it is none."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and isinstance(record.get("at"), float | int) else None


class Following:
    """The decisions that are made from now on, by any process, in the order in which they are seen."""

    def __init__(self, state: Path) -> None:
        self._folder = state / FOLDER
        self._settled: int | None = None
        self._open: dict[int, _Tail] = {}
        self._known: set[int] = set()
        self._look(from_end=True)

    def news(self) -> Iterator[Record]:
        """What has come since the last time."""
        self._look(from_end=False)
        for number, tail in list(self._open.items()):
            yield from tail.records()
            if tail.ended:
                tail.close()
                del self._open[number]

    def close(self) -> None:
        """Let the files go."""
        while self._open:
            self._open.popitem()[1].close()

    def _look(self, *, from_end: bool) -> None:
        """See which segments there are; `from_end`: what they hold already is not wanted."""
        try:
            changed = self._folder.stat().st_mtime_ns
        except OSError:
            return
        if changed == self._settled:
            return
        found = {one.number: one for one in segments(self._folder)}
        missed = False
        for number in found.keys() - self._known:
            try:
                self._open[number] = _Tail(found[number].path, from_end)
                self._known.add(number)
            except FileNotFoundError:
                missed = True  # it has just been renamed or removed: it is looked for again
        for number, tail in self._open.items():
            tail.ended = number not in found or found[number].end is not None
        # Another change within the same tick of the file system's clock would not be seen.
        settled = not missed and time.time_ns() - changed > _SETTLED_NS
        self._settled = changed if settled else None


class _Tail:
    """The end of one segment."""

    def __init__(self, path: Path, from_end: bool) -> None:
        self._handle = os.open(path, os.O_RDONLY)
        self._at = 0
        self.ended = False
        if from_end:
            size = os.fstat(self._handle).st_size
            begin = max(0, size - _READ)
            self._at = begin + os.pread(self._handle, size - begin, begin).rfind(b"\n") + 1

    def records(self) -> Iterator[Record]:
        """Whole lines that were not read before."""
        while chunk := os.pread(self._handle, _READ, self._at):
            whole = chunk.rfind(b"\n") + 1
            if not whole:
                return
            self._at += whole
            yield from (record for line in chunk[:whole].split(b"\n") if (record := parsed(line)) is not None)

    def close(self) -> None:
        """Let it go."""
        os.close(self._handle)


_READ = 1 << 20
"""Bytes read at once: many times the longest record."""
_SETTLED_NS = 1_000_000_000
