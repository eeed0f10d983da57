"""What the proxy does, in Prometheus's words."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from attrs import define
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from jobproxy import __version__
from jobproxy.circuit import Phase
from jobproxy.cluster.gateway import ClusterGateway
from jobproxy.instruments import Instruments
from jobproxy.tallies import Histogram

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"


@define(eq=False)
class ProxyCollector(Collector):
    """Reads the proxy's own counts when asked; no label holds an account, an id or a token."""

    _instruments: Instruments

    def collect(self) -> Iterable[Metric]:
        yield InfoMetricFamily("jobproxy_build", "What runs.", {"version": __version__})
        yield from self._collect_jobs()
        yield from self._collect_starts()
        yield from self._collect_connections()
        if isinstance(self._instruments.gateway, ClusterGateway):
            yield from _collect_cluster(self._instruments.gateway)
        yield _time(
            "jobproxy_reactor_lag_seconds", "How late the event loop is.", self._instruments.lag
        )
        dropped = _keyed(self._instruments.count_dropped())
        yield _count("jobproxy_log_dropped", "Log lines not written.", ("reason",), dropped)

    def _collect_jobs(self) -> Iterator[Metric]:
        gateway = self._instruments.gateway
        table, lanes = gateway.table, gateway.starter.lanes
        orphans = table.orphans()
        gauges = {
            "held": ("Clients that wait for their answer.", table.held),
            "max_held": ("How many may wait at once.", gateway.max_held),
            "jobs": ("Jobs that have not ended.", len(table)),
            "lanes": ("Accounts with a start that runs or waits, or a pause.", len(lanes)),
            "queued": ("Jobs that wait to be started.", lanes.queued),
            "starting": ("Start calls under way.", lanes.running),
            "retained": ("Outcomes that are kept.", table.retained),
            "retained_bytes": ("About what they take.", table.retained_bytes),
            "orphans": ("Results that nobody waited for.", len(orphans)),
            "draining": ("Whether the proxy is about to stop.", gateway.is_draining),
        }
        for name, (documentation, value) in gauges.items():
            yield GaugeMetricFamily(f"jobproxy_{name}", documentation, float(value))
        callbacks = _keyed(gateway.callbacks)
        yield _count("jobproxy_callbacks", "Callbacks.", ("result",), callbacks)
        yield _time("jobproxy_job_seconds", "From the request to its result.", table.durations)

    def _collect_starts(self) -> Iterator[Metric]:
        job_server = self._instruments.gateway.starter.job_server
        yield _count("jobproxy_starts", "Start calls.", ("result",), _keyed(job_server.results))
        yield _time("jobproxy_start_seconds", "Of a start call.", job_server.durations)
        circuit = GaugeMetricFamily(
            "jobproxy_circuit",
            "The circuit breaker's state: 1 for the one it has.",
            labels=["state"],
        )
        for phase in Phase:
            circuit.add_metric([phase.value], float(job_server.circuit.phase is phase))
        yield circuit

    def _collect_connections(self) -> Iterator[Metric]:
        instruments = self._instruments
        yield GaugeMetricFamily(
            "jobproxy_connections", "Connections to us.", instruments.connections
        )
        upstream = GaugeMetricFamily(
            "jobproxy_upstream_connections", "Connections to the job server.", labels=["state"]
        )
        upstream.add_metric(["active"], instruments.agent.active)
        upstream.add_metric(["idle"], instruments.agent.idle)
        yield upstream
        answers: Counter[tuple[str, ...]] = Counter()
        for (status, outcome), count in instruments.sum_answers().items():
            answers[f"{status // 100}xx", outcome] += count
        refused = _keyed(instruments.sum_refused())
        yield _count("jobproxy_answers", "Answers to requests.", ("code", "outcome"), answers)
        yield _count(
            "jobproxy_refused", "What was refused before it was a request.", ("reason",), refused
        )


def _collect_cluster(gateway: ClusterGateway) -> Iterator[Metric]:
    store, peers = gateway.store, gateway.peers
    yield GaugeMetricFamily(
        "jobproxy_store_up", "Whether the nodes reach each other.", float(store.is_up)
    )
    yield _count(
        "jobproxy_store_calls", "Questions to the store.", ("result",), _keyed(store.calls)
    )
    yield _time("jobproxy_store_seconds", "Of the store's answers.", store.durations)
    relays = _keyed(gateway.relays)
    yield _count("jobproxy_relays", "Callbacks of other nodes' jobs.", ("result",), relays)
    yield CounterMetricFamily("jobproxy_store_gaps", "Subscriptions made.", peers.gaps)
    yield CounterMetricFamily("jobproxy_store_found", "Results found after these.", peers.found)
    yield CounterMetricFamily(
        "jobproxy_untold", "What other nodes were not told at once.", peers.outbox.failed
    )


def make_registry(collector: ProxyCollector) -> CollectorRegistry:
    """Return a registry that has the proxy's metrics, and those of its process."""
    registry = CollectorRegistry()
    registry.register(collector)
    ProcessCollector(registry=registry)
    return registry


def render(registry: CollectorRegistry) -> bytes:
    """Return all metrics in Prometheus's text format, version 0.0.4."""
    return generate_latest(registry)


def _keyed(counter: dict[str, int]) -> dict[tuple[str, ...], int]:
    return {(name,): count for name, count in counter.items()}


def _count(
    name: str, documentation: str, labels: Sequence[str], counts: dict[tuple[str, ...], int]
) -> Metric:
    family = CounterMetricFamily(name, documentation, labels=labels)
    for values, count in sorted(counts.items()):
        family.add_metric(values, count)
    return family


def _time(name: str, documentation: str, histogram: Histogram) -> Metric:
    family = HistogramMetricFamily(name, documentation)
    family.add_metric([], histogram.buckets(), histogram.total)
    return family
