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
from jobproxy.cluster.coordinator import ClusterGateway
from jobproxy.monitoring.probes import Probes
from jobproxy.upstream.circuit import Phase
from jobproxy.util.histogram import Histogram

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"


@define(eq=False)
class ProxyCollector(Collector):
    """Reads the proxy's own counts when asked; no label holds an account, an id or a token."""

    _probes: Probes

    def collect(self) -> Iterable[Metric]:
        yield InfoMetricFamily("jobproxy_build", "What runs.", {"version": __version__})
        yield from self._collect_jobs()
        yield from self._collect_starts()
        yield from self._collect_connections()
        if isinstance(self._probes.gateway, ClusterGateway):
            yield from _collect_cluster(self._probes.gateway)
        yield _time("jobproxy_reactor_lag_seconds", "How late the event loop is.", self._probes.lag)
        dropped = _keyed(self._probes.count_dropped())
        yield _count("jobproxy_log_dropped", "Log lines not written.", ("reason",), dropped)

    def _collect_jobs(self) -> Iterator[Metric]:
        gateway = self._probes.gateway
        table, limiter = gateway.table, gateway.starter.limiter
        orphans = table.orphans()
        gauges = {
            "held": ("Clients that wait for their answer.", table.held),
            "max_held": ("How many may wait at once.", gateway.max_held),
            "jobs": ("Jobs that have not ended.", len(table)),
            "accounts": ("Accounts with a start that runs or waits, or a pause.", len(limiter)),
            "queued": ("Jobs that wait to be started.", limiter.queued),
            "starting": ("Start calls under way.", limiter.running),
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
        job_server = self._probes.gateway.starter.job_server
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
        probes = self._probes
        yield GaugeMetricFamily("jobproxy_connections", "Connections to us.", probes.connections)
        upstream = GaugeMetricFamily(
            "jobproxy_upstream_connections", "Connections to the job server.", labels=["state"]
        )
        upstream.add_metric(["active"], probes.agent.active)
        upstream.add_metric(["idle"], probes.agent.idle)
        yield upstream
        responses: Counter[tuple[str, ...]] = Counter()
        for (status, outcome), count in probes.traffic.responses.items():
            responses[f"{status // 100}xx", outcome] += count
        refused = _keyed(probes.traffic.refused)
        yield _count("jobproxy_responses", "Answers to requests.", ("code", "outcome"), responses)
        yield _count(
            "jobproxy_refused", "What was refused before it was a request.", ("reason",), refused
        )


def _collect_cluster(gateway: ClusterGateway) -> Iterator[Metric]:
    store, remote_jobs = gateway.store, gateway.remote_jobs
    yield GaugeMetricFamily(
        "jobproxy_store_up", "Whether the nodes reach each other.", float(store.is_up)
    )
    yield _count(
        "jobproxy_store_calls", "Questions to the store.", ("result",), _keyed(store.calls)
    )
    yield _time("jobproxy_store_seconds", "Of the store's answers.", store.durations)
    relays = _keyed(gateway.relays)
    yield _count("jobproxy_relays", "Callbacks of other nodes' jobs.", ("result",), relays)
    yield CounterMetricFamily("jobproxy_store_gaps", "Subscriptions made.", remote_jobs.gaps)
    yield CounterMetricFamily(
        "jobproxy_store_found", "Results found after these.", remote_jobs.found
    )
    yield CounterMetricFamily(
        "jobproxy_untold", "What other nodes were not told at once.", remote_jobs.outbox.failed
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
