"""Places in flight on this machine: which requests of which limit have begun and not ended.

Law: the caller holds the machine's lock. Each process has a file of its own, in which every place that it holds is
one record, and holds a lock on it that ends with it, however it ends. What is in flight is what stands in the files of
living processes: there is no sum that could be wrong. A dead process's file counts until another one has looked at it,
which each does twice a second. While a file that may be a living process's cannot be read, nothing is counted: too few
would be.
"""

import fcntl
import heapq
import mmap
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from keyswap.file_identity import identity_of, same_file
from keyswap.limits.limit import LimitStoreUnavailable
from keyswap.model import StateError

NAME = "local"
"""The store's name."""
MOST = 1 << 16
"""Places that one process can hold."""
MOST_PROCESSES = 512
_HEAD = 64
_SIZE = _HEAD + MOST * 8


class _File:
    """One process's records: the first word tells how many may be in use."""

    def __init__(self, path: Path, own: bool = False, handle: int | None = None) -> None:
        """Raises OSError. `own`: it is made, or as long as it has to be. `handle`: it is open, and locked by that."""
        self.path = path
        if handle is not None:
            self.handle = os.dup(handle)
        else:
            self.handle = os.open(path, os.O_RDWR | (os.O_CREAT if own else os.O_NONBLOCK), 0o600)
        try:
            if own and not self.is_whole():
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(self.handle, 0, _SIZE)
                else:
                    os.pwrite(self.handle, bytes(_SIZE), 0)
            self.map = mmap.mmap(self.handle, _SIZE)
        except OSError:
            os.close(self.handle)
            raise
        self._bytes = memoryview(self.map)
        self.words = self._bytes.cast("q")

    def is_whole(self) -> bool:
        """Whether all of it is there: what is mapped and no more there ends the process (SIGBUS)."""
        return os.fstat(self.handle).st_size >= _SIZE

    def claim(self) -> bool:
        """Lock it, if no living process holds it."""
        try:
            fcntl.flock(self.handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True

    def unclaim(self) -> None:
        """Let the next process that begins have it."""
        fcntl.flock(self.handle, fcntl.LOCK_UN)

    def count(self, fingerprint: bytes) -> int:
        """How many records are this fingerprint's."""
        used = self.words[0]
        return self.map[_HEAD : _HEAD + used * 8].count(fingerprint) if used else 0

    def records(self) -> list[bytes]:
        """The records in use."""
        records = [bytes(self.map[at : at + 8]) for at in range(_HEAD, _HEAD + self.words[0] * 8, 8)]
        return [record for record in records if any(record)]

    def close(self) -> None:
        """Close the file."""
        self.words.release()
        self._bytes.release()
        self.map.close()
        os.close(self.handle)


class KeptFile(NamedTuple):
    """The file of a process and of those that take its place, which a process above them keeps locked meanwhile."""

    number: int
    handle: int

    @classmethod
    def claim(cls, folder: Path) -> "KeptFile":
        """Take a file. Raises StateError."""
        number, file = _claimed(folder)
        kept = cls(number, os.dup(file.handle))  # the lock goes on with it
        file.close()
        return kept


class InFlight:
    """The places of all processes; this one's own file is made at once."""

    def __init__(self, folder: Path, kept: KeptFile | None = None) -> None:
        """Take a file; what stands in one that was `kept` goes on. Raises StateError."""
        self._folder = folder
        self._others: dict[tuple[int, int], _File] = {}
        """By device and inode: a file that was removed counts for as long as the process that holds it."""
        self._freed: list[int] = []
        self._is_kept = kept is not None
        self._left: set[int] = set()
        """Places of a process before this one that nobody has adopted yet."""
        if kept is None:
            _, self._own = _claimed(folder)
        else:
            path = folder / f"inflight.{kept.number}"
            try:
                self._own = _File(path, handle=kept.handle)
            except (OSError, ValueError) as error:
                raise StateError(f"{path} cannot be used: {error}") from error
            used = [bool(word) for word in self._own.words[8 : 8 + self._own.words[0]].tolist()]
            self._freed = [number for number, is_used in enumerate(used) if not is_used]
            self._left = {number for number, is_used in enumerate(used) if is_used}
        self.rescan()

    def adopt(self, numbers: list[int]) -> bool:
        """Whether these places are still held as a process before this one has left them; they are this one's now."""
        if not self._left.issuperset(numbers):
            return False
        self._left.difference_update(numbers)
        return True

    def release_left(self) -> None:
        """Release the places that nobody has adopted."""
        left, self._left = self._left, set()
        for number in left:
            self.release(number)

    def rescan(self) -> None:
        """Take in the files of processes that have begun since the last time. Raises LimitStoreUnavailable."""
        try:
            names = [name for name in os.listdir(self._folder) if _is_in_flight_file(name)]  # noqa: PTH208, which hides what cannot be listed
        except OSError as error:
            raise LimitStoreUnavailable(
                f"places in flight of other processes cannot be looked for: {error.strerror}"
            ) from error
        for name in names:
            if name == self._own.path.name:
                continue
            try:
                self._look(self._folder / name)
            except OSError as error:
                why = error.strerror or error
                raise LimitStoreUnavailable(
                    f"places in flight of another process cannot be counted: {name}: {why}"
                ) from error

    def _look(self, path: Path) -> None:
        """Have the file of this name in hand. Raises OSError."""
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise OSError(None, "it is no regular file")
        whole, key = status.st_size >= _SIZE, identity_of(status)
        if whole and key not in self._others:
            self._others[key] = _File(path)
        elif not whole and _is_held(path):
            raise OSError(None, "it was cut short")
        elif not whole and key in self._others:
            self._others.pop(key).close()

    def count(self, fingerprint: bytes) -> int:
        """How many places of this name are held."""
        return self._own.count(fingerprint) + sum([other.count(fingerprint) for other in self._others.values()])

    def own(self) -> set[bytes]:
        """The fingerprints of the places that this process holds."""
        return set(self._own.records())

    def in_place(self) -> bool:
        """Whether others still see this process's file."""
        return same_file(self._own.path, self._own.handle) and self._own.is_whole()

    def full(self, wanted: int) -> bool:
        """Whether this process can't hold so many more."""
        return MOST - self._own.words[0] + len(self._freed) < wanted

    def take(self, fingerprint: bytes) -> int:
        """Hold a place; the number to release it by."""
        words = self._own.words
        number = heapq.heappop(self._freed) if self._freed else words[0]
        at = _HEAD + number * 8
        self._own.map[at : at + 8] = fingerprint
        if number >= words[0]:
            words[0] = number + 1
        return number

    def release(self, number: int) -> None:
        """Release a place."""
        self._own.words[8 + number] = 0
        heapq.heappush(self._freed, number)
        if len(self._freed) == self._own.words[0]:  # nothing is held: what is looked through is short again
            self._freed.clear()
            self._own.words[0] = 0

    @property
    def held(self) -> int:
        """How many places this process holds."""
        return int(self._own.words[0]) - len(self._freed)

    def reclaim(self) -> int:
        """Take the places of processes that have ended; how many these were. Their files stay, for the next ones."""
        taken = 0
        for key, other in list(self._others.items()):
            stays = same_file(other.path, other.handle)
            if (other.words[0] or not stays) and other.claim():
                taken += sum(map(bool, other.words[8 : 8 + other.words[0]].tolist()))
                other.words[0] = 0
                other.unclaim()
                if not stays:
                    self._others.pop(key).close()
        return taken

    def close(self) -> None:
        """Release every place, unless who keeps the file goes on. Needs no lock: it is one word of our own."""
        if not self._is_kept and self._own.is_whole():
            self._own.words[0] = 0
        for file in (self._own, *self._others.values()):
            file.close()


def _claimed(folder: Path) -> tuple[int, _File]:
    """A file that is no living process's, with its number, locked and empty. Raises StateError."""
    for number in range(MOST_PROCESSES):
        try:
            file = _File(folder / f"inflight.{number}", own=True)
        except OSError as error:
            raise StateError(f"{folder}/inflight.{number} cannot be used: {error.strerror}") from error
        if file.claim():
            file.map[:] = bytes(_SIZE)  # what its last owner left
            return number, file
        file.close()
    raise StateError(f"{MOST_PROCESSES} gateways use {folder} already")


class LocalReservation:
    """The places of one request."""

    __slots__ = ("_numbers", "_release")

    def __init__(self, release: Callable[[list[int]], None], numbers: list[int]) -> None:
        self._release, self._numbers = release, numbers

    def release(self) -> None:
        """Give the places back: the request has ended."""
        numbers, self._numbers = self._numbers, []
        if numbers:
            self._release(numbers)

    def describe(self) -> tuple[str, ...]:
        """The store, and their numbers."""
        return (NAME, *map(str, self._numbers))


def _is_in_flight_file(name: str) -> bool:
    """Whether a file of this name may be a process's."""
    number = name.removeprefix("inflight.")
    return number != name and number.isdecimal()


def _is_held(path: Path) -> bool:
    """Whether a living process holds a file that is too short to be read. Raises OSError."""
    handle = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False
