"""Files that others can put in place, read whole and within bounds, or not at all.

Law: only regular files are opened, and none is read beyond the reader's bound; what is no file, cannot be read, is too
large or does not come in time is an OSError with a few words (`strerror`). Whoever reads waits no longer than stated:
the system itself (a network's file system, a name that is not resolved) may hang for ever, on a thread of its own that
nobody waits for, also not at the end of the process. While it does, nothing is begun for the same thing again, and how
many such threads there may be is bounded: what hangs keeps nobody from reading anything else.
"""

import asyncio
import errno
import os
import stat
import threading
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import ClassVar

WAIT_S = 10.0
"""The longest that reading one file may take."""
MOST_HUNG = 16
"""Threads that have been given up and still hang, before no other is begun."""


def contents(path: Path, most: int, wait_s: float = WAIT_S) -> bytes:
    """A regular file's content, of at most so many bytes. Raises OSError."""
    return within(wait_s, lambda: _contents(path, most), path)


def text(path: Path, most: int) -> str:
    """A regular UTF-8 file's content. Raises OSError."""
    try:
        return contents(path, most).decode()
    except UnicodeDecodeError as error:
        raise OSError(errno.EILSEQ, f"byte {error.start} is no UTF-8") from error


def _contents(path: Path, most: int) -> bytes:
    try:
        # Looked at before it is opened: opening a device may already do something.
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "it is no regular file")
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        with open(path, "rb", opener=lambda name, _flags: os.open(name, flags)) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise OSError(errno.EINVAL, "it is no regular file")
            if os.fstat(file.fileno()).st_size > most or len(content := file.read(most + 1)) > most:
                raise OSError(errno.EFBIG, f"it is larger than {_size(most)}")
            return content
    except ValueError as error:
        raise OSError(errno.EINVAL, f"it is no name of a file ({error})") from error


def _size(count: int) -> str:
    return f"{count >> 20} MiB" if count >= 1 << 20 else f"{count >> 10} KiB"


class _Run[T]:
    """A call on a thread of its own. `ended` is called there when it is done."""

    _hung: ClassVar[list[Hashable]] = []
    """The subjects of calls that were given up and still hang."""
    _lock = threading.Lock()

    def __init__(self, act: Callable[[], T], of: Hashable, ended: Callable[[], object]) -> None:
        """Begin. Raises OSError when one of the same hangs, or too many of any."""
        with self._lock:
            if of in self._hung:
                raise TimeoutError(errno.EALREADY, "the system has not answered an earlier reader of it")
            if len(self._hung) >= MOST_HUNG:
                raise OSError(errno.EBUSY, f"the system has not answered {MOST_HUNG} earlier readers")
        self._act, self._of, self._ended = act, of, ended
        self._error: BaseException | None = None
        self._value: T
        self._done = self._given_up = False
        threading.Thread(target=self._run, daemon=True, name="keyswap reading").start()

    def _run(self) -> None:
        try:
            self._value = self._act()
        except BaseException as error:  # noqa: BLE001 (whoever waits gets it)
            self._error = error
        with self._lock:
            self._done = True
            if self._given_up:
                self._hung.remove(self._of)
        self._ended()

    def result(self, wait_s: float) -> T:
        """The call's result. Raises what it raised, or TimeoutError where it has not ended."""
        with self._lock:
            if not self._done:
                self._given_up = True
                self._hung.append(self._of)
                raise TimeoutError(errno.ETIMEDOUT, f"it did not come within {wait_s:g} s")
        if self._error is not None:
            raise self._error
        return self._value


def within[T](wait_s: float, act: Callable[[], T], of: Hashable) -> T:
    """The result of `act`, or what it raises; TimeoutError (an OSError) when it takes longer.

    `of` is what it asks the system for, a path or an object: while that hangs it is not asked for again.
    """
    done = threading.Event()
    run = _Run(act, of, done.set)
    done.wait(wait_s)
    return run.result(wait_s)


async def aside[T](act: Callable[[], T], of: Hashable, wait_s: float = WAIT_S) -> T:
    """The result of `act` for an event loop, which goes on meanwhile; as `within` otherwise."""
    loop, done = asyncio.get_running_loop(), asyncio.Event()

    def ended() -> None:
        try:
            loop.call_soon_threadsafe(done.set)
        except RuntimeError:
            return  # the loop is closed: nobody waits any more

    run = _Run(act, of, ended)
    try:
        async with asyncio.timeout(wait_s):
            await done.wait()
    except TimeoutError:
        pass
    return run.result(wait_s)
