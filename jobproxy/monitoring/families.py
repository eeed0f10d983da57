"""Metric families, made of what is counted."""

from collections.abc import Iterable, Mapping, Sequence

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric

from jobproxy.util.histogram import Histogram


def by_label(counts: Mapping[str, int], known: Iterable[str]) -> dict[tuple[str, ...], int]:
    """Return counts by the values of their one label.

    :param known: the values that are there from the start: Prometheus takes no count of a series
        that it first sees as 1 for an increase.
    """
    return {(name,): counts.get(name, 0) for name in dict.fromkeys((*known, *counts))}


def counter(
    name: str, documentation: str, labels: Sequence[str], counts: dict[tuple[str, ...], int]
) -> Metric:
    """Return a counter."""
    family = CounterMetricFamily(name, documentation, labels=labels)
    for values, count in sorted(counts.items()):
        family.add_metric(values, count)
    return family


def histogram(name: str, documentation: str, found: Histogram) -> Metric:
    """Return a histogram without labels."""
    family = HistogramMetricFamily(name, documentation)
    family.add_metric([], found.buckets(), found.total)
    return family
