"""What is measured: every metric's name, kind and labels, and how the values of several processes become one.

Law: a snapshot is a JSON value that knows nothing of the process it came from. Counters and histograms of processes
that have ended go on counting, their gauges do not. No label holds what a caller has sent.
"""

import operator
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple, NotRequired, TypedDict

from keyswap.histogram import Histogram

Labelled = list[tuple[list[str], float]]
"""Values by their labels, in the order of the family's `labels`."""


class Buckets(TypedDict):
    """A histogram: `counts` has one more than `bounds`, and none of them holds another's."""

    bounds: list[float]
    counts: list[int]
    total: float


class Snapshot(TypedDict):
    """All that was measured, by the names in FAMILIES."""

    values: dict[str, Labelled]
    histograms: NotRequired[dict[str, Buckets]]


class Family(NamedTuple):
    """One metric. `merge` makes one of a gauge's values in two processes; counters and histograms are added."""

    kind: str
    """counter, gauge, histogram or info."""
    help: str
    labels: tuple[str, ...] = ()
    merge: Callable[[float, float], float] = operator.add


FAMILIES: Mapping[str, Family] = {
    "keyswap_decisions_total": Family(
        "counter",
        "Decisions, as many as decision lines; stage is the step that refused, none for what was admitted.",
        ("decision", "code", "operation", "stage"),
    ),
    "keyswap_shadow_refusals_total": Family(
        "counter", "What would have been refused if its step were enforced.", ("code",)
    ),
    "keyswap_responses_total": Family("counter", "Responses to judged requests, by class of status.", ("class",)),
    "keyswap_gate_seconds": Family("histogram", "Time a request spent in the gate, waiting for stores included."),
    "keyswap_upstream_seconds": Family(
        "histogram", "Time from admission to the upstream's head, or to the end of a response that is held whole."
    ),
    "keyswap_tokens_total": Family("counter", "Tokens given to backends, signed or from the cache.", ("source",)),
    "keyswap_key_lookups_total": Family(
        "counter", "Keys asked of their source: remembered, found, unknown, or it failed.", ("result",)
    ),
    "keyswap_workos_calls_total": Family(
        "counter",
        "Requests to WorkOS, repeated ones and those for events included: answered, or it failed.",
        ("result",),
    ),
    "keyswap_limit_store_calls_total": Family(
        "counter", "Calls of the limit store: poured, full, or it failed.", ("result",)
    ),
    "keyswap_limit_store_seconds": Family("histogram", "Time that calls of the limit store took."),
    "keyswap_errors_total": Family("counter", "Exceptions caught while handling requests: each is a bug."),
    "keyswap_policy_reloads_total": Family("counter", "Reloads of the policy, taken or refused.", ("result",)),
    "keyswap_last_reload_successful": Family(
        "gauge", "1 while the policy in force is what its file says, 0 once a reload was refused.", (), min
    ),
    "keyswap_last_reload_timestamp_seconds": Family(
        "gauge",
        "When the policy was last read, taken or refused; of several processes, the one that is behind.",
        (),
        min,
    ),
    "keyswap_worker_restarts_total": Family("counter", "Worker processes that were started in another's place."),
    "keyswap_engine_restarts_total": Family("counter", "Times that Envoy was started in another's place."),
    "keyswap_workers": Family("gauge", "Worker processes that run."),
    "keyswap_requests_in_flight": Family("gauge", "Admitted requests that have not ended."),
    "keyswap_open_connections": Family("gauge", "Callers' connections."),
    "keyswap_policy_loaded_timestamp_seconds": Family(
        "gauge", "When the policy in force was loaded; of several processes, the one that is behind.", (), min
    ),
    "keyswap_signing_keys": Family("gauge", "Signing keys by state.", ("state",), max),
    "keyswap_build_info": Family("info", "What runs.", ("version", "python", "mitmproxy"), max),
}


def buckets(histogram: Histogram) -> Buckets:
    """A histogram as a snapshot holds it."""
    return {"bounds": list(histogram.bounds), "counts": list(histogram.counts), "total": histogram.total}


def merged(alive: Iterable[Snapshot], ended: Iterable[Snapshot] = ()) -> Snapshot:
    """One snapshot of many; `ended` are those of processes that have ended, as they were last."""
    values: dict[str, dict[tuple[str, ...], float]] = {}
    histograms: dict[str, Buckets] = {}
    for snapshot, lives in [*((one, True) for one in alive), *((one, False) for one in ended)]:
        for name, labelled in snapshot["values"].items():
            family = FAMILIES[name]
            if lives or family.kind == "counter":
                _gather(
                    values.setdefault(name, {}), labelled, operator.add if family.kind == "counter" else family.merge
                )
        for name, one in snapshot.get("histograms", {}).items():
            known = histograms.get(name)
            histograms[name] = _added(known, one) if known is not None else one
    return {
        "values": {name: [(list(labels), value) for labels, value in one.items()] for name, one in values.items()},
        "histograms": histograms,
    }


def _gather(known: dict[tuple[str, ...], float], labelled: Labelled, merge: Callable[[float, float], float]) -> None:
    for labels, value in labelled:
        key = tuple(labels)
        known[key] = merge(known[key], value) if key in known else value


def _added(one: Buckets, other: Buckets) -> Buckets:
    if one["bounds"] != other["bounds"]:
        raise ValueError("histograms of different buckets: these are processes of different versions")
    counts = [mine + theirs for mine, theirs in zip(one["counts"], other["counts"], strict=True)]
    return {"bounds": one["bounds"], "counts": counts, "total": one["total"] + other["total"]}
