"""Numbers by name, in a file that every process of the machine maps: the buckets of the store `local`.

Law: the caller holds the machine's lock. What is written is right after every single store instruction, so a
process may be killed anywhere: an entry exists from the moment its fingerprint is written, a page from the moment it is
counted. Nothing is ever moved but half a page (extendible hashing): growth stops nobody. An entry whose number is not
above `dead` means nothing any more; its place is taken by the next one that needs it, so there is no sweep. Space is
allocated before it is used: a full disk is an error here, not the end of the process. A new file is there whole or not
at all, so one that is too short was cut: it is an error, since limits would begin anew.

A page of 4 KiB holds 42 entries: their fingerprints, their numbers, and their names, each cut at 80 bytes. The
directory that leads from a fingerprint to its page is each process's own; it is made from the order in which pages were
split.
"""

import hashlib
import mmap
import os
import secrets
import struct
from array import array
from collections.abc import Container, Iterator
from contextlib import suppress
from pathlib import Path

from keyswap.file_identity import same_file
from keyswap.limits import limit
from keyswap.model import StateError

PAGE, SLOTS, NAME = 4096, 42, 80
_HEAD = 64
_VALUES, _NAMES = _HEAD + SLOTS * 8, _HEAD + SLOTS * 16
_FREE = b"\0" * 8
_MAGIC = 0x31_74_69_6D_69_6C_73_6B  # "kslimit1"
_MAGIC_AT, _ERA_AT, COUNT_AT, _SALT_AT, SHARED = 0, 1, 2, 3, 8
"""Words of the file's first page; those from SHARED on are the store's."""
_FEWEST, _MOST = 16, 1024
"""Pages by which the file grows at once."""
_DEEPEST = 40
CUT = limit.CUT.encode()
"""Ends a name that is longer than there is room for."""


class Table:
    """One file of numbers. `era` tells what the numbers count from; those of another era are forgotten."""

    def __init__(self, file: Path, era: int = 0) -> None:
        """Open it, making it on first use. Raises StateError."""
        self.file = file
        try:
            if not os.path.lexists(file):  # a link that leads nowhere is there
                self._create(era)
            self._handle = os.open(file, os.O_RDWR | os.O_NONBLOCK)
        except OSError as error:
            raise StateError(f"{file} cannot be opened ({error.strerror}): limits are counted in it") from error
        try:
            self._open(era)
        except BaseException:
            os.close(self._handle)
            raise

    def _open(self, era: int) -> None:
        try:
            size = os.fstat(self._handle).st_size
            if size < 2 * PAGE or size % PAGE:
                raise self._damage("was cut short, or is none of ours")
            self._map = _mapped(self._handle, size)
        except OSError as error:
            raise StateError(f"{self.file} cannot be used ({error.strerror}): limits are counted in it") from error
        self._bytes = memoryview(self._map)
        self.words = self._bytes.cast("q")
        try:
            self._judge(era)
        except BaseException:
            self._release()
            raise

    def _judge(self, era: int) -> None:
        """Take what is there, or begin anew after a restart of the machine. Raises StateError for what is no table."""
        words = self.words
        # Arrays, which the garbage collector does not walk: a list of 100,000 numbers would cost it a millisecond.
        self._directory, self._depths = array("I", [0]), array("B", [0])
        if words[_MAGIC_AT] != _MAGIC:
            raise self._damage("is damaged, or none of ours")
        if words[_ERA_AT] != era:
            self._begin(era)
        if not 0 < words[COUNT_AT] < len(self._map) // PAGE:
            raise self._damage("was cut short")
        self._salt = bytes(self._map[_SALT_AT * 8 : _SALT_AT * 8 + 16])
        self._follow()

    def _damage(self, what: str) -> StateError:
        return StateError(f"{self.file} {what}: remove it while no gateway runs; its limits begin anew")

    def _begin(self, era: int) -> None:
        self._map[PAGE : 2 * PAGE] = bytes(PAGE)
        self._map[_SALT_AT * 8 : _SALT_AT * 8 + 16] = secrets.token_bytes(16)
        self.words[COUNT_AT] = 1
        self.words[_ERA_AT] = era

    def _create(self, era: int) -> None:
        """Make the file, with one page that is empty. Raises OSError."""
        fresh = self.file.with_name(f".{self.file.name}.{os.getpid()}")
        self._handle = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            self._allocate(_FEWEST)
            os.pwrite(self._handle, struct.pack("<QqQ16s", _MAGIC, era, 1, secrets.token_bytes(16)), 0)
            os.fsync(self._handle)  # a machine that loses its power must not find half of it
            with suppress(FileExistsError):
                os.link(fresh, self.file)
        finally:
            os.close(self._handle)
            fresh.unlink()

    # ---- The look-up of each request

    def fingerprint(self, name: str) -> bytes:
        """Eight bytes by which a name is known; two names have the same one by a chance of 2^-64."""
        digest = hashlib.sha256(self._salt + name.encode("utf-8", "surrogatepass")).digest()[:8]
        return digest if digest != _FREE else b"\1" * 8

    def find(self, fingerprint: bytes) -> int:
        """Where an entry's number stands in `words`; -1: there is none. Raises StateError for damage, OSError."""
        if self.words[COUNT_AT] != len(self._depths):
            self._follow()
        directory = self._directory
        start = (directory[int.from_bytes(fingerprint, "little") & (len(directory) - 1)] + 1) * PAGE + _HEAD
        slots = self._map[start : start + SLOTS * 8]
        at = slots.find(fingerprint)
        while at & 7 and at > 0:  # the same bytes across two fingerprints
            at = slots.find(fingerprint, at + 1)
        return -1 if at < 0 else (start + SLOTS * 8 + at) >> 3

    def make(self, fingerprint: bytes, name: str, dead: int, taken: Container[int]) -> int:
        """A new entry with the number 0, in a free slot or in that of a dead entry which is not in `taken`.

        Other entries may move by it. Raises OSError when there is no room, StateError for damage.
        """
        while True:
            page = self._page_of(fingerprint)
            start = (page + 1) * PAGE
            slot = self._vacant(start, dead, taken)
            if slot is not None:
                break
            self._split(page, int.from_bytes(fingerprint, "little"), dead)
        index = ((start + _VALUES) >> 3) + slot
        self.words[index] = 0
        label = name.encode("utf-8", "surrogatepass")
        label = label if len(label) <= NAME else label[: NAME - 1] + CUT
        at = start + _NAMES + slot * NAME
        self._map[at : at + NAME] = label.ljust(NAME, b"\0")
        self._map[start + _HEAD + slot * 8 : start + _HEAD + slot * 8 + 8] = fingerprint
        return index

    def _vacant(self, start: int, dead: int, taken: Container[int]) -> int | None:
        slots = self._map[start + _HEAD : start + _VALUES]
        at = slots.find(_FREE)
        while at & 7 and at > 0:
            at = slots.find(_FREE, at + 1)
        if at >= 0:
            return at >> 3
        first = (start + _VALUES) >> 3
        for slot, value in enumerate(self.words[first : first + SLOTS].tolist()):
            if value <= dead and first + slot not in taken:
                return slot
        return None

    def _page_of(self, fingerprint: bytes) -> int:
        if self.words[COUNT_AT] != len(self._depths):
            self._follow()
        return self._directory[int.from_bytes(fingerprint, "little") & (len(self._directory) - 1)]

    # ---- Growth

    @property
    def pages(self) -> int:
        """How many pages there are; an entry stays where it is for as long as this does not change."""
        return self.words[COUNT_AT]

    def _split(self, page: int, hashed: int, dead: int) -> None:
        """Move those entries of a page that have its next bit set to a page of their own."""
        depth = self._depths[page]
        if depth >= _DEEPEST:
            raise OSError(None, f"{self.file.name} has too many names alike")
        count = self.words[COUNT_AT]
        if (count + 2) * PAGE > len(self._map):
            self._allocate(count + 1 + min(max(count, _FEWEST), _MOST))
            self._remap()
        bit = 1 << depth
        start, fresh = (page + 1) * PAGE, bytearray(PAGE)
        old = self._map[start : start + PAGE]
        numbers = struct.unpack_from(f"<{SLOTS}q", old, _VALUES)
        moved: list[int] = []
        for slot in range(SLOTS):
            at = _HEAD + slot * 8
            if int.from_bytes(old[at : at + 8], "little") & bit and numbers[slot] > dead:
                to = len(moved)
                fresh[_HEAD + to * 8 : _HEAD + to * 8 + 8] = old[at : at + 8]
                struct.pack_into("<q", fresh, _VALUES + to * 8, numbers[slot])
                name = _NAMES + slot * NAME
                fresh[_NAMES + to * NAME : _NAMES + to * NAME + NAME] = old[name : name + NAME]
                moved.append(at)
        struct.pack_into("<QQQ", fresh, 0, page, depth + 1, (hashed & (bit - 1)) | bit)
        self._map[(count + 1) * PAGE : (count + 2) * PAGE] = bytes(fresh)
        self.words[COUNT_AT] = count + 1  # from here on it is in use
        for at in moved:  # no look-up finds them here any more
            self._map[start + at : start + at + 8] = _FREE
        self._follow()

    def _follow(self) -> None:
        """Follow the pages that any process has split since the last time."""
        count = self.words[COUNT_AT]
        if (count + 1) * PAGE > len(self._map):
            self._remap()
        for page in range(len(self._depths), count):
            parent, depth, pattern = struct.unpack_from("<QQQ", self._map, (page + 1) * PAGE)
            if not (parent < page and self._depths[parent] < depth <= _DEEPEST and pattern < 1 << depth):
                raise self._damage("is damaged")
            while len(self._directory) < 1 << depth:
                self._directory += self._directory
            step = 1 << depth
            self._directory[pattern::step] = array("I", [page]) * (len(self._directory) // step)
            self._depths[parent] = depth
            self._depths.append(depth)

    def _allocate(self, pages: int) -> None:
        size = (pages + 1) * PAGE
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(self._handle, 0, size)
        else:
            os.pwrite(self._handle, bytes(size - os.fstat(self._handle).st_size), os.fstat(self._handle).st_size)

    def _remap(self) -> None:
        """Map the file as long as it is now."""
        size = os.fstat(self._handle).st_size // PAGE * PAGE
        self.words.release()
        self._bytes.release()
        try:
            if not _moved(self._map, size):
                longer = _mapped(self._handle, size)
                self._map.close()
                self._map = longer
        finally:  # the old mapping still serves where there is no memory for more
            self._bytes = memoryview(self._map)
            self.words = self._bytes.cast("q")

    # ---- The rest

    def alive(self, dead: int, pages: range | None = None) -> Iterator[tuple[str, bytes, int]]:
        """Every entry above `dead`, of all pages or some: its name, fingerprint and number."""
        self._follow()
        for page in range(self.pages) if pages is None else pages:
            start = (page + 1) * PAGE
            first = (start + _VALUES) >> 3
            for slot, number in enumerate(self.words[first : first + SLOTS].tolist()):
                if number <= dead:
                    continue
                at = start + _HEAD + slot * 8
                fingerprint = bytes(self._map[at : at + 8])
                if fingerprint == _FREE or self.find(fingerprint) != first + slot:
                    continue
                name = self._map[start + _NAMES + slot * NAME : start + _NAMES + (slot + 1) * NAME]
                yield name.rstrip(b"\0").decode("utf-8", "replace"), fingerprint, number

    def in_place(self) -> bool:
        """Whether the file is still the one that other processes map, and none of it has been cut off."""
        return same_file(self.file, self._handle) and os.fstat(self._handle).st_size >= len(self._map)

    def flush(self) -> None:
        """Write the file to disk."""
        with suppress(OSError, ValueError):
            os.fsync(self._handle)

    def close(self) -> None:
        """Close the mapping and the file."""
        self._release()
        os.close(self._handle)

    def _release(self) -> None:
        self.words.release()
        self._bytes.release()
        self._map.close()


def _mapped(handle: int, size: int) -> mmap.mmap:
    """Map a file of which a page here and there is wanted: reading ahead would take a millisecond more."""
    mapped = mmap.mmap(handle, size)
    if hasattr(mmap, "MADV_RANDOM"):
        mapped.madvise(mmap.MADV_RANDOM)
    return mapped


def _moved(mapped: mmap.mmap, size: int) -> bool:
    """Lengthen a mapping in place, where the system can: making it anew would take milliseconds for 100 MiB."""
    try:
        mapped.resize(size)  # the file has this size already, and the lock keeps it so
    except (SystemError, OSError, ValueError):
        return False
    return True
