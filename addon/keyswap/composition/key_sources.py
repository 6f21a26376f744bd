"""The sources of keys, by the names that policies give them (`api_keys.source`).

Law: a source is opened here and nowhere else, with the deny list that its keys are held against. A new
one is a file in `keys/`, a row here, and a parameter of the contract suite (tests/keys/test_contract.py).
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from keyswap.composition.remote_identity import RemoteIdentity, WorkOSEnvironment, secret_of
from keyswap.keys.local.last_used import LastUsed
from keyswap.keys.local.source import SqliteKeys
from keyswap.keys.source import DenyList, InspectableSource
from keyswap.policy import Policy


class SourceParts(NamedTuple):
    """What a source is made of: a policy with its file, and what outlives policies."""

    policy: Policy
    file: Path
    remote_identity: RemoteIdentity
    sqlite: Callable[[str], SqliteKeys]
    """The key database, for keys that begin with a prefix."""
    deny_list: Callable[[], DenyList]
    """The deny list of this machine, for a source that has none of its own."""


class OpenedSource(NamedTuple):
    """A source of keys, the deny list beside it, and who writes down that a key was used."""

    keys: InspectableSource
    deny_list: DenyList
    used: LastUsed | None = None
    environment: WorkOSEnvironment | None = None


def _sqlite(parts: SourceParts) -> OpenedSource:
    keys = parts.sqlite(parts.policy.api_keys.prefix)
    return OpenedSource(keys, keys.watch, keys.used)


def _workos(parts: SourceParts) -> OpenedSource:
    secret = secret_of(parts.policy.workos.api_key_env, "api_key_env", parts.file)
    deny_list = parts.deny_list()
    keys = parts.remote_identity.keys(parts.policy, secret, deny_list)
    return OpenedSource(keys, deny_list, environment=parts.remote_identity.environment(parts.policy, secret))


KEY_SOURCES: Mapping[str, Callable[[SourceParts], OpenedSource]] = {"sqlite": _sqlite, "workos": _workos}
"""What opens each. Raises StateError when it needs what is not there."""
