"""Resources that outlive a policy, opened once a process: state directory, keys, minted tokens, limit stores.

Law: a resource that cannot be used is a StateError before there is a gate; nothing of it is overwritten.
"""

import asyncio
import logging
import threading
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from keyswap.composition.limit_stores import open_limit_store
from keyswap.composition.remote_identity import RemoteIdentity
from keyswap.error_origin import origin
from keyswap.keys.local.disk_reserve import Room
from keyswap.keys.local.source import SqliteKeys
from keyswap.keys.local.watch import DatabaseWatch
from keyswap.keys.pepper import Pepper
from keyswap.keys.source import DenyList, Lookups
from keyswap.limits.health import Health
from keyswap.limits.limit import LimitStore, Reservation
from keyswap.limits.local.in_flight import KeptFile
from keyswap.operations.openapi.document_cache import Documents
from keyswap.policy import Policy
from keyswap.state import Epochs, StateDirectory
from keyswap.tokens.keyring import Keyring
from keyswap.tokens.mint import MintCache

if TYPE_CHECKING:
    from keyswap.composition.build_gate import Built

logger = logging.getLogger(__name__)

UNUSED_TICKS = 60
"""Ticks after which a limit store is closed that no policy in force names: half a minute."""

PATIENCE_S = 10.0
"""For so long a document's URL that was never good is asked again: gateway and backend may start together."""


class Resources:
    """Resources that outlive a policy. Raises StateError when one cannot be used; nothing is overwritten."""

    def __init__(self, state: StateDirectory, share: int = 1, kept: KeptFile | None = None) -> None:
        """`share`: how many processes share what a remote source may be asked.

        `kept`: where places in flight on this machine stand, if another process keeps them when this one has ended.
        """
        self.state, self._kept, self._is_settled = state, kept, kept is None
        self.epochs = Epochs(state)
        self.pepper = Pepper.load(state)
        self._room = Room(state)
        self._room.keep()
        self.keyring = Keyring(state, self.epochs)
        self.tokens = MintCache()
        self.documents = Documents(state, patience_s=PATIENCE_S)
        self.remote_identity = RemoteIdentity(state, self.epochs, share)
        self._sqlite: dict[str, SqliteKeys] = {}
        self._deny_list: DatabaseWatch | None = None
        self._stores: dict[str, LimitStore] = {}
        self._healths: dict[str, Health] = {}
        self._tending: dict[str, asyncio.Task[None]] = {}
        self._unused: dict[str, int] = {}
        self._naming = threading.Lock()
        """Held while a store is found for a policy that is being built, and while an unused one is given up."""

    def limit_store(self, url: str, wait_s: float) -> LimitStore:
        """The limit store at a URL, or `local`; a new one is waited for at most `wait_s`."""
        with self._naming:
            self._unused[url] = 0
            store = self._stores.get(url)
            if store is None:
                store = open_limit_store(url, self.state, wait_s, self._kept)
                self._stores[url] = store
                if self._is_settled and self._kept is not None:
                    store.settle()
            return store

    def adopt_places(self, held: Sequence[str]) -> Reservation:
        """The places of a process before this one, as it has described them. Raises ValueError."""
        for store in list(self._stores.values()):
            if held and store.name == held[0]:
                return store.adopt(held[1:])
        raise ValueError("their store is used no more")

    def settle_places(self) -> None:
        """Give back what a process before this one has held, and nobody has adopted until now."""
        self._is_settled = True
        for store in list(self._stores.values()):
            store.settle()

    def health(self, url: str) -> Health:
        """Whether a store answers, over reloads."""
        return self._healths.setdefault(url, Health())

    @property
    def healths(self) -> Collection[Health]:
        """The health of every limit store that was ever asked."""
        return list(self._healths.values())

    @property
    def lookups(self) -> Collection[Lookups]:
        """The look-ups in every source of keys."""
        return [*(keys.lookups for keys in list(self._sqlite.values())), *self.remote_identity.lookups]

    def tend(self, built: "Built", now: float) -> None:
        """Keep every store up to date, each by itself; to be called twice a second. `built` is in force."""
        policy = built.policy
        self.remote_identity.tend(built.authenticators.environment, built.authenticators.polls, now)
        for url, store in list(self._stores.items()):
            task = self._tending.get(url)
            if task is None or task.done():
                in_force = bool(policy.limits) and policy.limit_store == url
                self._tending[url] = asyncio.create_task(self._tend(url, store, in_force, policy, now))

    async def _tend(self, url: str, store: LimitStore, in_force: bool, policy: Policy, now: float) -> None:
        try:
            if in_force:
                store.wait(policy.limit_store_timeout)
            await store.tend(now)
            with self._naming:
                self._unused[url] = 0 if in_force or store.status()["in_flight"] else self._unused[url] + 1
                if self._unused[url] <= UNUSED_TICKS:
                    return
                self._stores.pop(url, None)
            await store.close()
        except Exception as error:  # noqa: BLE001 (the other stores go on)
            logger.error("the limit store could not be tended; it will be tried again: %s", origin(error))

    def sqlite(self, prefix: str) -> SqliteKeys:
        """The key database, for keys that begin with `prefix`."""
        if prefix not in self._sqlite:
            self._sqlite[prefix] = SqliteKeys(self.state, self.epochs, self.pepper, prefix)
        return self._sqlite[prefix]

    def deny_list(self) -> DenyList:
        """The deny list in the key database, for sources of keys elsewhere."""
        if self._deny_list is None:
            self._deny_list = DatabaseWatch(self.state, self.epochs, self.pepper)
        return self._deny_list

    def flush(self) -> None:
        """Write what is gathered between requests; may run on any thread."""
        for keys in list(self._sqlite.values()):
            keys.flush_last_used()
        for store in list(self._stores.values()):
            store.flush()
        self._room.keep()

    async def release(self) -> None:
        """Give the limit stores back: nothing is in flight any more."""
        for task in self._tending.values():
            task.cancel()
        while self._stores:
            await self._stores.popitem()[1].close()
        await self.remote_identity.close()

    def close(self) -> None:
        """Flush, and give everything else back."""
        for keys in self._sqlite.values():
            keys.close()
        if self._deny_list is not None:
            self._deny_list.close()
        self.epochs.close()
