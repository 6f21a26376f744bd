"""The files of the decisions that are kept, and which of them may go.

Law: segments are numbered in the order in which they began, over all processes, and no number is given twice. A segment
belongs to the process that has it locked, and ends with that lock, however the process ends; from then on its name
tells the number that was next when it ended, and how many decisions it holds. The last `retain` decisions are kept: a
segment is removed only when segments that began after its end hold that many. Its own process's is never removed.
"""

import os
import re
import secrets
import time
from contextlib import suppress
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path
from typing import NamedTuple

FOLDER = "decisions"
PARTS = 16
"""A segment ends when it holds this part of what is kept, or more."""
_NAME = re.compile(r"([0-9]{12})(?:-([0-9]{12})-([0-9]+))?\.jsonl")
_FRESH = ".new-"
_LEFT_S = 60.0


class Segment(NamedTuple):
    """A file of decisions. `end` is the number that was next when it ended, None: it has not, as far as is known."""

    number: int
    end: int | None
    lines: int
    path: Path


def segments(folder: Path) -> list[Segment]:
    """Those that there are, the first to begin first; none where there is no folder."""
    try:
        found = [(one, path) for path in folder.iterdir() if (one := _NAME.fullmatch(path.name))]
    except OSError:
        return []
    told = [Segment(int(one[1]), int(one[2]) if one[2] else None, int(one[3] or 0), path) for one, path in found]
    return sorted(told, key=lambda one: one.number)


class _Current:
    """The segment that this process writes."""

    def __init__(self, folder: Path) -> None:
        """Begin it. Raises OSError."""
        folder.mkdir(mode=0o700, exist_ok=True)
        # It is locked before it has its name: no other process takes it for one whose owner has died.
        fresh = folder / f"{_FRESH}{os.getpid()}-{secrets.token_hex(4)}"
        self.handle = os.open(fresh, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o600)
        self.lines, self.torn = 0, False
        try:
            flock(self.handle, LOCK_EX | LOCK_NB)
            self.number, self.path = _named(folder, fresh)
        except OSError:
            os.close(self.handle)
            raise
        finally:
            with suppress(OSError):
                fresh.unlink()

    def append(self, chunk: bytes) -> bool:
        """Write whole lines; False: somebody has removed the file. Raises OSError, and leaves no part of a line."""
        written = 0
        try:
            while written < len(chunk):
                written += os.write(self.handle, memoryview(chunk)[written:])
        except OSError:
            torn = written - (chunk.rfind(b"\n", 0, written) + 1)
            self.torn = bool(torn)
            if torn:
                os.ftruncate(self.handle, os.fstat(self.handle).st_size - torn)
                self.torn = False
            raise
        finally:
            self.lines += chunk.count(b"\n", 0, written)
        return os.fstat(self.handle).st_nlink > 0

    def end(self, following: int) -> None:
        """Let it go; `following` is the number of the next one."""
        with suppress(OSError):
            _mark(self.path, self.number, following, self.lines)
        os.close(self.handle)


class Kept:
    """The last `retain` decisions, as one process writes them: what `Lines` writes to. For one thread."""

    def __init__(self, state: Path, retain: int) -> None:
        self.retain = retain
        self._folder = state / FOLDER
        self._current: _Current | None = None

    def __call__(self, chunk: bytes) -> None:
        """Keep whole lines; none where only `retain` has changed. Raises OSError when they are lost."""
        if not self.retain:
            self.close()
        if not self.retain or not chunk:
            return age(self._folder, self.retain)
        current = self._current
        if current is None or current.torn or current.lines * PARTS >= self.retain:
            current = self._begin()
        if not current.append(chunk):
            self._begin().append(chunk)
        return None

    def close(self) -> None:
        """Let the segment go: whoever begins the next one counts it."""
        if self._current is not None:
            os.close(self._current.handle)
            self._current = None

    def _begin(self) -> _Current:
        fresh, before = _Current(self._folder), self._current
        self._current = fresh
        if before is not None:
            before.end(fresh.number)
        with suppress(OSError):  # what could not be removed is removed when the next one is begun
            age(self._folder, self.retain)
        return fresh


def age(folder: Path, retain: int) -> None:
    """Count the segments whose processes have ended, and remove those that nothing is wanted of any more."""
    found = segments(folder)
    following = found[-1].number + 1 if found else 1
    ended = [one for one in (_ended(one, following) for one in found) if one is not None]
    for one in sorted(ended, key=lambda one: one.end or 0):
        later = sum(other.lines for other in ended if other.number >= (one.end or 0))
        if one.lines and later < retain:
            break
        with suppress(OSError):
            one.path.unlink()
    for left in folder.glob(f"{_FRESH}*"):  # of a process that died while it began one
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > _LEFT_S and _is_nobodys(left):
                left.unlink()


def _named(folder: Path, fresh: Path) -> tuple[int, Path]:
    """Give a segment its number and its name."""
    number = max((one.number for one in segments(folder)), default=0) + 1
    while True:
        path = folder / f"{number:012}.jsonl"
        with suppress(FileExistsError):
            os.link(fresh, path)
            if sum(one.number == number for one in segments(folder)) == 1:
                return number, path
            path.unlink()  # another process was first, and has already ended its own
        number += 1


def _ended(one: Segment, following: int) -> Segment | None:
    """A segment, if it has ended; one whose process has ended is marked as ending now."""
    if one.end is not None:
        return one
    if not _is_nobodys(one.path):
        return None
    try:
        lines = one.path.read_bytes().count(b"\n")
        return Segment(one.number, following, lines, _mark(one.path, one.number, following, lines))
    except OSError:
        return None  # another process was first


def _mark(path: Path, number: int, following: int, lines: int) -> Path:
    marked = path.with_name(f"{number:012}-{following:012}-{lines}.jsonl")
    path.rename(marked)
    return marked


def _is_nobodys(path: Path) -> bool:
    """Whether no process has a file locked."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        flock(handle, LOCK_EX | LOCK_NB)
    except OSError:
        return False
    else:
        return True
    finally:
        os.close(handle)
