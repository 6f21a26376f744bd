"""Remote identity, kept over reloads: WorkOS environments, key sets, the change feed.

Law: what two policies have in common is opened once; an environment that no policy in force names is closed after
UNUSED_TICKS. Nothing here waits for an answer on the path of a request.
"""

import asyncio
import logging
import os
import re
import threading
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from keyswap.error_origin import origin
from keyswap.keys.source import DenyList, Lookups
from keyswap.keys.workos.source import WorkosKeys
from keyswap.keys.workos.validation import Ages
from keyswap.model import StateError
from keyswap.policy import Policy, line_at
from keyswap.sessions.issuer_keys import KeySets
from keyswap.state import Epochs, StateDirectory
from keyswap.workos.budget import OwnBudget
from keyswap.workos.change_feed import ChangeFeed
from keyswap.workos.client import WorkOSClient
from keyswap.workos.polling import Poller
from keyswap.workos.polling import environment as name_of

logger = logging.getLogger(__name__)

UNUSED_TICKS = 60
"""Ticks after which an environment is closed that no policy in force names: half a minute."""

_SECRET = re.compile(r"[!-~]{1,4096}")


class WorkOSEnvironment:
    """A WorkOS environment: its client, its keys, and the poller of its events."""

    def __init__(self, policy: Policy, secret: str, share: int) -> None:
        settings = policy.workos
        rate = settings.max_rate.number / settings.max_rate.period_s / share
        self.client = WorkOSClient(
            settings.base_url, secret, policy.api_keys.timeout, settings.api_key_env, OwnBudget(rate)
        )
        self.name = name_of(settings.base_url, secret, settings.client_id)
        self.keys: WorkosKeys | None = None
        self.poller: Poller | None = None
        self.unused = 0
        self._polling: asyncio.Task[None] | None = None

    def poll(self, state: StateDirectory, changes: ChangeFeed) -> None:
        """Ask for events from now on."""
        if self.poller is None:
            self.poller = Poller(state, changes, self.client, self.name)
            self._polling = asyncio.create_task(self.poller.run(), name="keyswap events")

    async def poll_no_more(self) -> None:
        """Let another process ask, or nobody."""
        polling, self._polling = self._polling, None
        if polling is not None:
            polling.cancel()
            with suppress(asyncio.CancelledError):
                await polling
        if self.poller is not None:
            self.poller.close()
            self.poller = None

    async def close(self) -> None:
        """End polling, and close keys and client."""
        await self.poll_no_more()
        if self.keys is not None:
            await self.keys.close()
        await self.client.close()


@dataclass(slots=True)
class _Calls:
    """Requests to environments that no policy names any more."""

    calls: int = 0
    failures: int = 0


class RemoteIdentity:
    """WorkOS environments, key sets and the change feed, over reloads. `share`: how many processes have one budget."""

    def __init__(self, state: StateDirectory, epochs: Epochs, share: int = 1) -> None:
        self._state, self._epochs, self._share = state, epochs, share
        self.key_sets = KeySets()
        self._changes: ChangeFeed | None = None
        self._environments: dict[object, WorkOSEnvironment] = {}
        self._tending: asyncio.Task[None] | None = None
        self._given_up = _Calls()
        self._naming = threading.Lock()
        """Held while an environment is found for a policy that is being built, and while an unused one is given up."""

    @property
    def changes(self) -> ChangeFeed:
        """The change feed. Raises StateError when its database cannot be opened."""
        if self._changes is None:
            self._changes = ChangeFeed(self._state, self._epochs)
        return self._changes

    def environment(self, policy: Policy, secret: str) -> WorkOSEnvironment:
        """The WorkOS environment of a policy."""
        name = policy.workos.model_dump_json(), _ages(policy), secret
        with self._naming:
            if name not in self._environments:
                self._environments[name] = WorkOSEnvironment(policy, secret, self._share)
            environment = self._environments[name]
            environment.unused = 0
            return environment

    def keys(self, policy: Policy, secret: str, deny_list: DenyList) -> WorkosKeys:
        """The key source `workos`."""
        environment = self.environment(policy, secret)
        if environment.keys is None:
            ages = _ages(policy)
            environment.keys = WorkosKeys(environment.client, deny_list, ages, self.changes.take_in, self._is_revoked)
            self.changes.subscribe(environment.keys.forget)
        return environment.keys

    def _is_revoked(self, key_id: str) -> bool:
        return self.changes.ended("key", key_id, 0.0)

    @property
    def lookups(self) -> Collection[Lookups]:
        """The look-ups at WorkOS."""
        return [
            environment.keys.lookups
            for environment in list(self._environments.values())
            if environment.keys is not None
        ]

    @property
    def calls(self) -> tuple[int, int]:
        """Requests to WorkOS, and those of them that were of no use."""
        clients: list[_Calls | WorkOSClient] = [
            self._given_up,
            *(client.client for client in list(self._environments.values())),
        ]
        return sum(client.calls for client in clients), sum(client.failures for client in clients)

    def tend(self, in_force: WorkOSEnvironment | None, polls: bool, now: float) -> None:
        """Keep everything up to date; to be called twice a second beside the requests.

        `in_force` is the environment of the policy in force, whose events are polled for if `polls`.
        """
        if self._changes is not None:
            self._changes.take_in(now)
        for environment in list(self._environments.values()):
            if environment.keys is not None:
                environment.keys.tend(now)
        if self._tending is None or self._tending.done():
            self._tending = asyncio.create_task(self._tend(in_force, polls, now))

    async def _tend(self, in_force: WorkOSEnvironment | None, polls: bool, now: float) -> None:
        try:
            await self.key_sets.tend(now)
            for name, environment in list(self._environments.items()):
                used = environment is in_force
                environment.unused = 0 if used else environment.unused + 1
                if used and polls:
                    environment.poll(self._state, self.changes)
                else:
                    await environment.poll_no_more()
                await self._give_up(name, UNUSED_TICKS)
        except Exception as error:  # noqa: BLE001 (the next time may go well)
            logger.error("WorkOS or a key set could not be tended; it will be tried again: %s", origin(error))

    async def _give_up(self, name: object, unused: int = -1) -> None:
        """Close an environment that was not used for so many ticks."""
        with self._naming:
            if self._environments[name].unused <= unused:
                return
            environment = self._environments.pop(name)
        if environment.keys is not None:
            self.changes.unsubscribe(environment.keys.forget)
        await environment.close()
        self._given_up.calls += environment.client.calls
        self._given_up.failures += environment.client.failures

    async def close(self) -> None:
        """Give everything back."""
        if self._tending is not None:
            self._tending.cancel()
        for name in list(self._environments):
            await self._give_up(name)
        await self.key_sets.close()
        if self._changes is not None:
            self._changes.close()
            self._changes = None


def _ages(policy: Policy) -> Ages:
    keys = policy.api_keys
    return Ages(keys.cache_ttl, keys.refresh_ahead, keys.negative_ttl, keys.stale_if_error, keys.timeout)


def secret_of(name: str, field: str, file: Path) -> str:
    """A secret of WorkOS' that a policy names. Raises StateError."""
    value = os.environ.get(name)
    if value is None or not _SECRET.fullmatch(value):
        what = "is not set" if value is None else "holds none: it is empty, or has spaces or other characters"
        raise StateError(
            f"{file}:{line_at(file, f'/workos/{field}') or 1}: workos.{field}: the environment variable {name} {what}: "
            "set it to the secret that WorkOS' dashboard shows"
        )
    return value
