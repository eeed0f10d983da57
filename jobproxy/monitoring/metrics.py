"""The metrics for Prometheus."""

from collections import Counter
from collections.abc import Iterable, Iterator

from attrs import define
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from jobproxy import __version__
from jobproxy.cluster.coordinator import ClusterStatus
from jobproxy.monitoring.families import by_label, counter, histogram
from jobproxy.monitoring.probes import Probes
from jobproxy.monitoring.reasons import Reason, State
from jobproxy.monitoring.server_metrics import ServerCollector
from jobproxy.monitoring.verdict import Verdict
from jobproxy.monitoring.watch import Watch
from jobproxy.monitoring.words import (
    LOG_DROPPED,
    REFUSED,
    RELAYS,
    RESPONSES,
    RUNNING,
    SIDES,
    STORE_CALLS,
)

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"


@define(eq=False)
class ProxyCollector(Collector):
    """Collects the metrics at each scrape; no label holds an account, an id or a token."""

    _probes: Probes
    _watch: Watch

    def collect(self) -> Iterable[Metric]:
        yield InfoMetricFamily(
            "jobproxy_build", "The version of jobproxy.", {"version": __version__}
        )
        yield from _collect_verdict(self._watch.look())
        yield from self._collect_jobs()
        yield from ServerCollector(self._probes.gateways).collect()
        yield from self._collect_connections()
        cluster = self._probes.gateway.coordinator.status()
        if cluster is not None:
            yield from _collect_cluster(cluster)
        yield histogram(
            "jobproxy_reactor_lag_seconds", "Delay of the reactor's timers.", self._probes.lag
        )
        dropped = by_label(self._probes.count_dropped(), LOG_DROPPED)
        yield counter("jobproxy_log_dropped", "Log lines that were dropped.", ("reason",), dropped)

    def _collect_jobs(self) -> Iterator[Metric]:
        gateway = self._probes.gateway
        table = gateway.table
        gauges = {
            "held": ("Held clients.", table.clients.held),
            "max_held": ("The maximum number of held clients.", gateway.max_held),
            "jobs": ("Jobs that have not ended.", len(table)),
            "retained": ("Results that are retained.", table.retention.retained),
            "retained_bytes": (
                "Approximate bytes of the retained results.",
                table.retention.retained_bytes,
            ),
            "orphans": ("Orphans of all nodes that share the store.", self._watch.orphans),
            "oldest_started_seconds": (
                "Age of the oldest job that was started here and has not ended.",
                table.find_oldest_age(),
            ),
            "keys": ("Idempotency keys that are known.", table.keys.number),
            "draining": ("1 from when the proxy is about to stop.", gateway.is_leaving),
        }
        for name, (documentation, value) in gauges.items():
            yield GaugeMetricFamily(f"jobproxy_{name}", documentation, float(value))
        kept = GaugeMetricFamily(
            "jobproxy_kept_bytes", "Approximate bytes in memory, by what is kept.", labels=["part"]
        )
        for part, size in self._probes.count_kept().items():
            kept.add_metric([part], size)
        yield kept
        yield CounterMetricFamily(
            "jobproxy_orphaned",
            "Results that came when no client waited.",
            table.retention.orphaned,
        )
        yield CounterMetricFamily(
            "jobproxy_keys_dropped",
            "Idempotency keys that were forgotten for lack of room.",
            table.keys.dropped,
        )
        yield histogram(
            "jobproxy_job_seconds", "From the client's request to the result.", table.durations
        )

    def _collect_connections(self) -> Iterator[Metric]:
        probes = self._probes
        yield GaugeMetricFamily(
            "jobproxy_connections", "Open connections to the proxy.", probes.traffic.connections
        )
        upstream = GaugeMetricFamily(
            "jobproxy_upstream_connections", "Open connections to the job server.", labels=["state"]
        )
        upstream.add_metric(["active"], probes.agent.active)
        upstream.add_metric(["idle"], probes.agent.idle)
        yield upstream
        responses: Counter[tuple[str, ...]] = Counter(
            {(side, *response): 0 for side in SIDES for response in RESPONSES}
        )
        for (side, status, outcome), count in probes.traffic.responses.items():
            word = RUNNING if (side, status, outcome) == ("client", 202, "ok") else outcome
            responses[side, f"{status // 100}xx", word] += count
        refused = by_label(probes.traffic.refused, REFUSED)
        yield counter(
            "jobproxy_responses",
            "Responses by side, class of status and outcome.",
            ("side", "code", "outcome"),
            responses,
        )
        yield counter(
            "jobproxy_refused",
            "Connections refused before a request was complete.",
            ("reason",),
            refused,
        )


def _collect_verdict(verdict: Verdict) -> Iterator[Metric]:
    states = GaugeMetricFamily(
        "jobproxy_verdict", "1 for the state of the proxy as a whole.", labels=["state"]
    )
    for state in State:
        states.add_metric([state.value], float(state is verdict.state))
    yield states
    found = {finding.reason for finding in verdict.findings}
    reasons = GaugeMetricFamily(
        "jobproxy_verdict_reason", "1 for each reason of the verdict.", labels=["reason"]
    )
    for reason in Reason:
        reasons.add_metric([reason.slug], float(reason in found))
    yield reasons


def _collect_cluster(cluster: ClusterStatus) -> Iterator[Metric]:
    yield GaugeMetricFamily(
        "jobproxy_store_up", "1 while the store is reachable.", float(cluster.is_up)
    )
    yield counter(
        "jobproxy_store_calls",
        "Calls to the store by result.",
        ("result",),
        by_label(cluster.calls, STORE_CALLS),
    )
    yield histogram("jobproxy_store_seconds", "Duration of a call to the store.", cluster.durations)
    relays = by_label(cluster.relays, RELAYS)
    yield counter(
        "jobproxy_relays", "Callbacks of other nodes' jobs by result.", ("result",), relays
    )
    yield CounterMetricFamily(
        "jobproxy_store_gaps", "Subscriptions to the store's messages.", cluster.gaps
    )
    yield CounterMetricFamily(
        "jobproxy_store_found",
        "Results found in the store after a subscription.",
        cluster.found,
    )
    yield CounterMetricFamily(
        "jobproxy_unsent",
        "Calls to the store that failed, each attempt counted.",
        cluster.unsent,
    )


def make_registry(collector: ProxyCollector) -> CollectorRegistry:
    """Return a registry with the metrics of the proxy and of its process."""
    registry = CollectorRegistry()
    registry.register(collector)
    ProcessCollector(registry=registry)
    return registry


def render_metrics(registry: CollectorRegistry) -> bytes:
    """Return all metrics in Prometheus's text format 0.0.4."""
    return generate_latest(registry)
