"""Files that others can put in place, read whole and within bounds, or not at all.

Law: only regular files are opened, and none is read beyond the reader's bound; what is no file, cannot be read, is too
large or does not come in time is an OSError with a few words (`strerror`). Whoever reads waits no longer than stated:
the system itself (a network's file system, a name that is not resolved) may hang for ever, on a thread of its own that
nobody waits for, also not at the end of the process. How many such threads there may be is bounded.
"""

import asyncio
import errno
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path

WAIT_S = 10.0
"""How long reading one file may take."""
MOST_HUNG = 16
"""Threads that have been given up and still hang, before no other is begun."""


def contents(path: Path, most: int, wait_s: float = WAIT_S) -> bytes:
    """A regular file's content, of at most so many bytes. Raises OSError."""
    return within(wait_s, lambda: _contents(path, most))


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
            if os.fstat(file.fileno()).st_size > most or len(found := file.read(most + 1)) > most:
                raise OSError(errno.EFBIG, f"it is larger than {_size(most)}")
            return found
    except ValueError as error:
        raise OSError(errno.EINVAL, f"it is no name of a file ({error})") from error


def _size(count: int) -> str:
    return f"{count >> 20} MiB" if count >= 1 << 20 else f"{count >> 10} KiB"


class _Run[T]:
    """Something that is done on a thread of its own. `ended` is called there when it is done."""

    _hung = 0
    _lock = threading.Lock()

    def __init__(self, act: Callable[[], T], ended: Callable[[], object]) -> None:
        """Begin. Raises OSError when too many hang."""
        if _Run._hung >= MOST_HUNG:
            raise OSError(errno.EBUSY, f"the system has not answered {MOST_HUNG} earlier readers")
        self._act, self._ended = act, ended
        self._error: BaseException | None = None
        self._found: T
        self._done = self._given_up = False
        threading.Thread(target=self._run, daemon=True, name="keyswap reading").start()

    def _run(self) -> None:
        try:
            self._found = self._act()
        except BaseException as error:  # noqa: BLE001 (whoever waits gets it)
            self._error = error
        with self._lock:
            self._done = True
            _Run._hung -= self._given_up
        self._ended()

    def result(self, wait_s: float) -> T:
        """What it came to. Raises what it raised, or TimeoutError where it has not ended."""
        with self._lock:
            if not self._done:
                self._given_up = True
                _Run._hung += 1
                raise TimeoutError(errno.ETIMEDOUT, f"it did not come within {wait_s:g} s")
        if self._error is not None:
            raise self._error
        return self._found


def within[T](wait_s: float, act: Callable[[], T]) -> T:
    """What `act` returns or raises; TimeoutError (an OSError) when it takes longer."""
    done = threading.Event()
    run = _Run(act, done.set)
    done.wait(wait_s)
    return run.result(wait_s)


async def aside[T](act: Callable[[], T], wait_s: float = WAIT_S) -> T:
    """The same for an event loop, which goes on meanwhile."""
    loop, done = asyncio.get_running_loop(), asyncio.Event()

    def ended() -> None:
        try:
            loop.call_soon_threadsafe(done.set)
        except RuntimeError:
            return  # the loop is closed: nobody waits any more

    run = _Run(act, ended)
    try:
        async with asyncio.timeout(wait_s):
            await done.wait()
    except TimeoutError:
        pass
    return run.result(wait_s)
