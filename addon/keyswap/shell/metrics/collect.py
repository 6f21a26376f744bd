"""What a running gateway process says of itself to whoever watches it: its counts, and whether it can serve.

Law: it is read beside the requests, from numbers that are kept anyway, and holds no key, token, path or address.
"""

import platform
from collections import Counter
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, NamedTuple

from keyswap import __version__
from keyswap.composition.gate import Built
from keyswap.composition.resources import Resources
from keyswap.histogram import Histogram
from keyswap.limits.health import CALL_S
from keyswap.shell.metrics.counters import EXCEPTIONS
from keyswap.shell.metrics.definitions import Labelled, Snapshot, buckets

if TYPE_CHECKING:
    from keyswap.shell.runtime.runtime import Runtime

STATES = ("next", "active", "retiring")


class Traffic(NamedTuple):
    """What is going on now."""

    connections: int
    in_flight: int


def snapshot(runtime: "Runtime", traffic: Traffic, now: float) -> Snapshot:
    """Everything that this process has counted, and its gauges; may run on any thread."""
    counted = runtime.counts.snapshot()
    resources, loaded = runtime.resources, runtime.active
    states = Counter(key.state(int(now)) for key in loaded.built.keyring.keys)
    values: dict[str, Labelled] = {
        **counted["values"],
        "keyswap_tokens_total": [(["signed"], resources.tokens.signed), (["cache"], resources.tokens.reused)],
        "keyswap_key_lookups_total": _lookups(resources),
        "keyswap_workos_calls_total": _asked(resources),
        "keyswap_limit_store_calls_total": _calls(resources),
        "keyswap_errors_total": [([], EXCEPTIONS.caught)],
        "keyswap_requests_in_flight": [([], traffic.in_flight)],
        "keyswap_open_connections": [([], traffic.connections)],
        "keyswap_policy_loaded_timestamp_seconds": [([], loaded.at)],
        "keyswap_last_reload_successful": [([], int(runtime.reload_error is None))],
        "keyswap_last_reload_timestamp_seconds": [([], runtime.reloaded_at)],
        "keyswap_signing_keys": [([state], states[state]) for state in STATES],
        "keyswap_build_info": [(list(_build()), 1)],
    }
    took = {"keyswap_limit_store_seconds": buckets(_took(resources))}
    return {"values": values, "histograms": counted.get("histograms", {}) | took}


def _lookups(resources: Resources) -> Labelled:
    results = ("remembered", "found", "unknown", "failed")
    return [([result], sum(getattr(one, result) for one in resources.lookups)) for result in results]


def _asked(resources: Resources) -> Labelled:
    calls, failures = resources.remote_identity.calls
    return [(["answered"], calls - failures), (["failed"], failures)]


def _calls(resources: Resources) -> Labelled:
    healths = resources.healths
    return [
        (["poured"], sum(health.acquired for health in healths)),
        (["full"], sum(health.full for health in healths)),
        (["failed"], sum(health.failed for health in healths)),
    ]


def _took(resources: Resources) -> Histogram:
    """The calls of every limit store together."""
    whole = Histogram(CALL_S)
    for one in resources.healths:
        whole.counts = [mine + theirs for mine, theirs in zip(whole.counts, one.took.counts, strict=True)]
        whole.total += one.took.total
    return whole


@cache
def _build() -> tuple[str, str, str]:
    """The versions of what runs; mitmproxy's without importing it."""
    try:
        substrate = version("mitmproxy")
    except PackageNotFoundError:
        substrate = "unknown"
    return __version__, platform.python_version(), substrate


def readiness_problems(built: Built, stopping: bool, now: float) -> dict[str, str]:
    """Why requests would be refused that deserve better, by what is amiss; nothing: it is ready.

    The words are for everybody: what exactly is wrong, `keyswap status` and the log say.
    """
    found: dict[str, str] = {}
    if stopping:
        found["gateway"] = "it is stopping"
    if built.unhealthy(now) is not None:
        found["keys"] = "the key database cannot be used"
    if built.keyring.signer(built.policy.tokens.algorithm, now) is None:
        found["signing"] = "no signing key is active"
    found |= built.authenticators.readiness_problems(now)
    enforced = any(rule.mode == "enforce" for rule in built.limits.rules)
    store = built.limits.store
    if enforced and store is not None and built.policy.limit_store_down == "refuse" and not store.status()["healthy"]:
        found["limits"] = "the limit store does not answer"
    return found
