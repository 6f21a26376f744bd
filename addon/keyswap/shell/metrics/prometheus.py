"""A snapshot in Prometheus' exposition formats, by its own client library.

Law: every metric has its help and type, and a histogram's buckets are cumulative and end with +Inf. It takes
milliseconds: it is made on a thread of its own, from a value that nobody changes.
"""

from collections.abc import Iterator
from itertools import accumulate

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from keyswap.shell.metrics.definitions import FAMILIES, Buckets, Family, Labelled, Snapshot

MOST_ACCEPT = 1024
"""A longer Accept header gets the plain format: the library repeats a wanted version in its answer."""


class SnapshotCollector(Collector):
    """A snapshot, as the library collects it."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterator[Metric]:
        """The metrics, in the order of FAMILIES."""
        histograms = self._snapshot.get("histograms", {})
        for name, family in FAMILIES.items():
            if name in histograms:
                yield _histogram(name, family, histograms[name])
            elif name in self._snapshot["values"]:
                yield _KINDS[family.kind](name, family, self._snapshot["values"][name])


def exposition(snapshot: Snapshot, accept: str = "") -> tuple[bytes, str]:
    """The page and its content type, in the format of an Accept header; the plain format for a malformed one."""
    try:
        encoder, content_type = choose_encoder(accept if len(accept) <= MOST_ACCEPT else "")
    except (TypeError, ValueError):  # a malformed version
        encoder, content_type = choose_encoder("")
    return encoder(SnapshotCollector(snapshot)), content_type


def _counter(name: str, family: Family, values: Labelled) -> Metric:
    metric = CounterMetricFamily(name, family.help, labels=family.labels)
    for labels, value in values:
        metric.add_metric(labels, value)
    return metric


def _gauge(name: str, family: Family, values: Labelled) -> Metric:
    metric = GaugeMetricFamily(name, family.help, labels=family.labels)
    for labels, value in values:
        metric.add_metric(labels, value)
    return metric


def _info(name: str, family: Family, values: Labelled) -> Metric:
    metric = InfoMetricFamily(name.removesuffix("_info"), family.help, labels=family.labels)
    for labels, _ in values:
        metric.add_metric(labels, {})
    return metric


def _histogram(name: str, family: Family, buckets: Buckets) -> Metric:
    bounds = [*map(floatToGoString, buckets["bounds"]), "+Inf"]
    metric = HistogramMetricFamily(name, family.help)
    metric.add_metric((), list(zip(bounds, accumulate(buckets["counts"]), strict=True)), buckets["total"])
    return metric


_KINDS = {"counter": _counter, "gauge": _gauge, "info": _info}
