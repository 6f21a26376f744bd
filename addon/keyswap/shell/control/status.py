"""The status of a gateway: what it enforces, the state of its stores, what keys may name (CONTRACT §2).

Law: a status holds no credential, token or private key.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keyswap import __version__
from keyswap.composition.build_gate import Built, modes_of
from keyswap.operations.catalogue import OperationCatalogue
from keyswap.policy import Policy

if TYPE_CHECKING:
    from keyswap.shell.runtime.runtime import Runtime


def status(runtime: "Runtime", now: float) -> dict[str, Any]:
    """The status of a running gateway."""
    policy = runtime.active
    return {
        "running": True,
        "version": __version__,
        "pid": os.getpid(),
        "listen": runtime.listening(),
        "admin": runtime.admin_address,
        **standing(policy.built, now),
        "policy": {"file": str(runtime.file), "loaded_at": policy.at, "reload_error": runtime.reloads.error},
    }


def standing(built: Built, now: float) -> dict[str, Any]:
    """What is enforced, and the state of the stores; also without a running gateway."""
    policy = built.policy
    modes = modes_of(built)
    signing = [{"kid": key.kid, "alg": key.alg, "state": key.state(int(now))} for key in built.keyring.keys]
    return {
        "issuer": policy.issuer,
        "upstream": built.upstream.url,
        **{
            state: [step.name for step in built.gate.steps if modes.get(step.name, "enforce") == word]
            + _entries(built, modes, word)
            for state, word in _STATES.items()
        },
        "documents": documents_json(built),
        "limits": limits_json(built),
        "tokens": {"algorithm": policy.tokens.algorithm, "profile": policy.tokens.profile, "ttl_s": policy.tokens.ttl},
        **built.authenticators.status(now),
        "signing": signing,
        "log": policy.log.model_dump(),
    }


def _entries(built: Built, modes: dict[str, str], word: str) -> list[str]:
    """The operations whose permission is in a mode of its own."""
    own = word != "enforce" and word != modes["permission"] and built.catalogue is not None
    entries = built.catalogue.entries if own and built.catalogue is not None else ()
    return [f"permission of {entry.operation.name}" for entry in entries if entry.operation.mode == word]


_STATES = {"enforced": "enforce", "shadowed": "shadow", "off": "off"}


def limits_json(built: Built) -> dict[str, Any]:
    """Where limits are counted, and what happens to requests while they can't be."""
    store = built.limits.store
    counted = {"store": built.policy.limit_store.rpartition("@")[2], "healthy": True, "reason": None}
    return {
        **(store.status() if store is not None else counted),
        "down": built.policy.limit_store_down,
        "shadowed": [rule.limit.name for rule in built.limits.rules if rule.mode == "shadow"],
        "off": [limit.name for limit in built.policy.limits if limit.mode == "off"],
    }


def documents_json(built: Built) -> list[dict[str, Any]]:
    """The documents in force, and why a kept copy stands in for one."""
    catalogue = built.catalogue
    apis = catalogue.apis if catalogue is not None else ()
    return [
        {
            "spec": api.document.name,
            "title": api.document.title,
            "prefix": api.mount.prefix,
            "upstream": api.mount.upstream.url,
            "operations": sum(entry.api == number for entry in catalogue.entries) if catalogue else 0,
            "stale": built.documents.stale.get(api.document.library.uri),
        }
        for number, api in enumerate(apis)
    ]


def required(operations: OperationCatalogue | None) -> frozenset[str]:
    """Every permission that an operation requires."""
    entries = operations.entries if operations is not None else ()
    return frozenset(slug for entry in entries for slugs in entry.operation.require for slug in slugs)


def known(policy: Policy, operations: OperationCatalogue | None, file: Path) -> dict[str, Any]:
    """The plans and permissions that a new key may name."""
    apis = operations.apis if operations is not None else ()
    return {
        "policy": str(file),
        "plans": sorted(policy.plans),
        "permissions": sorted(required(operations)),
        "documents": ", ".join(api.document.name for api in apis),
    }
