"""The machine's lock: one process at a time looks at the counters of a state directory.

Law: it ends with the process that holds it, however that one ends. Nobody waits for it longer than asked, also when its
holder has been stopped; a request that could not have it in time keeps others from trying for a moment, so
that they do not queue behind it.
"""

import os
import time
from fcntl import LOCK_EX, LOCK_NB, LOCK_UN, flock
from functools import partial
from pathlib import Path

from keyswap.file_identity import same_file
from keyswap.limits.limit import LimitStoreUnavailable
from keyswap.model import StateError

_TRY = LOCK_EX | LOCK_NB
_TURNS = 20
"""How often the processor is yielded before the first sleep: a holder is done after some microseconds, but a busy
machine may take some milliseconds to come back."""
_NAP_S = 0.0002
_AGAIN_S = 0.25


class MachineLock:
    """A lock between processes, for one thread of each."""

    def __init__(self, file: Path, wait_s: float) -> None:
        self.wait_s = wait_s
        self._file = file
        try:
            self._handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise StateError(f"{file} cannot be opened ({error.strerror}): give this user read and write") from error
        self._given_up = 0.0
        self._try, self.release = partial(flock, self._handle, _TRY), partial(flock, self._handle, LOCK_UN)

    def take(self) -> None:
        """Have it, until `release`: what `with` does, without its calls. Raises LimitStoreUnavailable."""
        try:
            self._try()
        except OSError:
            self._wait()
        if self._given_up:
            self._given_up = 0.0

    def __enter__(self) -> None:
        self.take()

    def __exit__(self, *_: object) -> None:
        self.release()

    def _wait(self) -> None:
        now = time.monotonic()
        if now < self._given_up + _AGAIN_S:
            raise LimitStoreUnavailable("another process holds the lock of limits and does not go on")
        until, turns = now + self.wait_s, 0
        while True:
            try:
                self._try()
            except OSError:
                turns += 1
            else:
                return
            if time.monotonic() > until:
                self._given_up = time.monotonic()
                raise LimitStoreUnavailable(f"the lock of limits was not free within {self.wait_s * 1000:g} ms")
            if turns < _TURNS and hasattr(os, "sched_yield"):
                os.sched_yield()
            else:
                time.sleep(_NAP_S)

    def in_place(self) -> bool:
        """Whether the file is still the one that other processes lock."""
        return same_file(self._file, self._handle)

    def close(self) -> None:
        """Close the lock's file."""
        os.close(self._handle)
