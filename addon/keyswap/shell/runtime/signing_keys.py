"""The signing keys of the state directory, followed beside the requests.

Law: the event loop waits for no file. What another process has changed is in force from the next request on: that one
waits, on its own path, for the one look that is going on. A file that does not come is waited for once; then the keys
in hand stay in use, and it is looked for beside the requests until it comes.
"""

import asyncio

from keyswap.files import WAIT_S, aside
from keyswap.tokens.keyring import Keyring

LOOK_S = 5.0
"""How often the file is looked at though nothing was told of it: a writer may die before it tells."""
_WHOLE_S = 3 * WAIT_S
"""Longer than a look may take, in which two things are waited for."""


class Signing:
    """Follows a keyring. It belongs to one event loop."""

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring
        self._look: asyncio.Task[bool] | None = None
        self._due = 0.0

    @property
    def behind(self) -> bool:
        """Whether `current` is to be waited for: 0.2 µs, where nothing has changed."""
        return self._keyring.behind

    async def current(self) -> None:
        """The keys in hand are those that were told of, or cannot be had."""
        while self._keyring.behind and await self._looked():
            pass

    async def tend(self, now: float) -> None:
        """Look, if a change was told of or it is time to. `now` are seconds of any clock."""
        if self._keyring.behind or now >= self._due:
            self._due = now + LOOK_S
            await self._looked()

    async def _looked(self) -> bool:
        """Whether the file was looked at, by a look that everybody shares."""
        if self._look is None or self._look.done():
            self._look = asyncio.create_task(self._anew(), name="keyswap signing keys")
        return await asyncio.shield(self._look)

    async def _anew(self) -> bool:
        try:
            await aside(self._keyring.follow, self._keyring, _WHOLE_S)
        except OSError:
            return False  # too much hangs
        return True

    async def end(self) -> None:
        """Wait for nothing any more."""
        if self._look is not None:
            self._look.cancel()
            await asyncio.wait([self._look])
