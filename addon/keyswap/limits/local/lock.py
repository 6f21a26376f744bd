"""The machine's lock: one process at a time looks at the counters of a state directory.

Law: it ends with the process that holds it, however that one ends. Nobody waits for it longer than asked, also when its
holder has been stopped. The event loop stands still for `ON_LOOP_S` at most in `_AGAIN_S`, whatever the policy says;
the rest of a request's patience passes beside the others. One request of a process tries, those that come meanwhile
wait for their turn; one that could not have it in time keeps others from trying for a moment: none queues up behind it.
"""

import asyncio
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from fcntl import LOCK_EX, LOCK_NB, LOCK_UN, flock
from functools import partial
from pathlib import Path

from keyswap.file_identity import same_file
from keyswap.limits.limit import LimitStoreUnavailable
from keyswap.model import StateError

ON_LOOP_S = 0.01
"""The longest that the event loop stands still for it."""
_TRY = LOCK_EX | LOCK_NB
_TURNS = 20
"""How often the processor is yielded before the first sleep: a holder is done after some microseconds, but a busy
machine may take some milliseconds to come back."""
_NAP_S, _PAUSE_S = 0.0002, 0.001
"""Between two tries: while the event loop stands still, and while it goes on."""
_AGAIN_S = 0.25


class MachineLock:
    """A lock between processes, for one thread of each. Nothing may be awaited while it is held."""

    def __init__(self, file: Path, wait_s: float) -> None:
        """Open its file. Raises StateError. `wait_s` is how long a request waits at most."""
        self.wait_s = wait_s
        self._file = file
        try:
            self._handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise StateError(f"{file} cannot be opened ({error.strerror}): give this user read and write") from error
        self._given_up = self._stood_still = float("-inf")
        self._is_stuck = False
        self.ended: str | None = None
        """Why nobody is to wait for it any more."""
        self._turn = asyncio.Lock()
        self._try, self.release = partial(flock, self._handle, _TRY), partial(flock, self._handle, LOCK_UN)

    def take_free(self) -> bool:
        """Have it until `release`, if it is free now; whether it was."""
        try:
            self._try()
        except OSError:
            return False
        if self._is_stuck:
            self._given_up = self._stood_still = float("-inf")
            self._is_stuck = False
        return True

    def take(self, wait_s: float = ON_LOOP_S) -> None:
        """Have it until `release`; this thread stands still for up to `wait_s`. Raises LimitStoreUnavailable."""
        if not self.take_free() and not self._stand_still(wait_s):
            raise LimitStoreUnavailable("another process holds the lock of limits")

    async def wait(self) -> float:
        """Have it until `release`; the seconds that it took, up to `wait_s`. Raises LimitStoreUnavailable."""
        began = time.monotonic()
        async with self._turn:
            self._check()
            if self.take_free() or self._stand_still(min(ON_LOOP_S, self.wait_s)):
                return time.monotonic() - began
            while time.monotonic() < began + self.wait_s:
                await asyncio.sleep(_PAUSE_S)
                self._check()
                if self.take_free():
                    return time.monotonic() - began
            self._given_up, self._is_stuck = time.monotonic(), True
            raise LimitStoreUnavailable(f"the lock of limits was not free within {self.wait_s * 1000:g} ms")

    def _check(self) -> None:
        """Raise LimitStoreUnavailable where trying is of no use: it has ended, or another request has just given up."""
        if self.ended is not None:
            raise LimitStoreUnavailable(self.ended)
        if time.monotonic() < self._given_up + _AGAIN_S:
            raise LimitStoreUnavailable("another process holds the lock of limits and does not go on")

    def _stand_still(self, wait_s: float) -> bool:
        """Try for `wait_s`, on this thread; whether it could be had. Who waited in vain keeps others from doing so."""
        now = time.monotonic()
        if now < self._stood_still + _AGAIN_S:
            return False
        turns = 0
        while time.monotonic() < now + wait_s:
            turns += 1
            if turns < _TURNS and hasattr(os, "sched_yield"):
                os.sched_yield()
            else:
                time.sleep(_NAP_S)
            if self.take_free():
                return True
        self._stood_still, self._is_stuck = time.monotonic(), True
        return False

    @contextmanager
    def within(self, wait_s: float) -> Iterator[None]:
        """Hold it as soon as it can be had within `wait_s`, for which this thread stands still: not for requests."""
        self.take(wait_s)
        try:
            yield
        finally:
            self.release()

    def __enter__(self) -> None:
        self.take()

    def __exit__(self, *_: object) -> None:
        self.release()

    async def __aenter__(self) -> None:
        if not self.take_free():
            await self.wait()

    async def __aexit__(self, *_: object) -> None:
        self.release()

    def in_place(self) -> bool:
        """Whether the file is still the one that other processes lock."""
        return same_file(self._file, self._handle)

    def close(self) -> None:
        """Close the lock's file; who waits for it is refused."""
        self.ended = "the limit store is closed"
        os.close(self._handle)
