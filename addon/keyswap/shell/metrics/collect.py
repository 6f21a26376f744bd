"""The metrics of a running gateway process: its counts, and gauges of its resources.

Law: they are read beside the requests, from numbers that are kept anyway, and hold no key, token, path or address.
"""

import platform
from collections import Counter
from collections.abc import Iterable
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import NamedTuple

from keyswap import __version__
from keyswap.composition.resources import Resources
from keyswap.histogram import Histogram
from keyswap.limits.health import CALL_S
from keyswap.shell.metrics.counters import EXCEPTIONS, Counts
from keyswap.shell.metrics.definitions import Labelled, Snapshot, buckets
from keyswap.tokens.signers import SigningKey

STATES = ("next", "active", "retiring")


class Traffic(NamedTuple):
    """Open connections and requests, now."""

    connections: int
    in_flight: int


class PolicyState(NamedTuple):
    """When the policy in force was loaded and one was last read, in epoch seconds, and whether that failed."""

    loaded_at: float
    read_at: float
    failed: bool


def snapshot(
    counts: Counts, resources: Resources, keys: Iterable[SigningKey], policy: PolicyState, traffic: Traffic, now: float
) -> Snapshot:
    """Everything that this process has counted, and its gauges; may run on any thread."""
    counted = counts.snapshot()
    states = Counter(key.state(int(now)) for key in keys)
    values: dict[str, Labelled] = {
        **counted["values"],
        "keyswap_tokens_total": [(["signed"], resources.tokens.signed), (["cache"], resources.tokens.reused)],
        "keyswap_key_lookups_total": _lookups(resources),
        "keyswap_workos_calls_total": _workos_calls(resources),
        "keyswap_limit_store_calls_total": _calls(resources),
        "keyswap_errors_total": [([], EXCEPTIONS.caught)],
        "keyswap_requests_in_flight": [([], traffic.in_flight)],
        "keyswap_open_connections": [([], traffic.connections)],
        "keyswap_policy_loaded_timestamp_seconds": [([], policy.loaded_at)],
        "keyswap_last_reload_successful": [([], int(not policy.failed))],
        "keyswap_last_reload_timestamp_seconds": [([], policy.read_at)],
        "keyswap_signing_keys": [([state], states[state]) for state in STATES],
        "keyswap_build_info": [(list(_build()), 1)],
    }
    took = {"keyswap_limit_store_seconds": buckets(_took(resources))}
    return {"values": values, "histograms": counted.get("histograms", {}) | took}


def _lookups(resources: Resources) -> Labelled:
    results = ("remembered", "found", "unknown", "failed")
    return [([result], sum(getattr(lookups, result) for lookups in resources.lookups)) for result in results]


def _workos_calls(resources: Resources) -> Labelled:
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
    for health in resources.healths:
        whole.counts = [mine + theirs for mine, theirs in zip(whole.counts, health.took.counts, strict=True)]
        whole.total += health.took.total
    return whole


@cache
def _build() -> tuple[str, str, str]:
    """The versions of what runs; mitmproxy's without importing it."""
    try:
        substrate = version("mitmproxy")
    except PackageNotFoundError:
        substrate = "unknown"
    return __version__, platform.python_version(), substrate
