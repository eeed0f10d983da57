"""The metrics of each job server; with profiles they have a label with its name."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from attrs import define, field
from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily, Metric

from jobproxy.gateway import Gateway
from jobproxy.monitoring.families import by_label, counter
from jobproxy.monitoring.words import CALLBACKS, STARTS
from jobproxy.upstream.circuit import Phase

#: How the job server without a profile is called beside those with one.
BUILT_IN = "work-sample"


@define(eq=False)
class ServerCollector:
    """Collects what is counted for each job server.

    The label exists only if there are profiles, so that dashboards of a proxy without them stay.
    """

    _gateways: Sequence[Gateway]
    _labels: tuple[str, ...] = field(init=False)

    def __attrs_post_init__(self) -> None:
        has_profiles = any(gateway.profile for gateway in self._gateways)
        self._labels = ("profile",) if has_profiles else ()

    def collect(self) -> Iterator[Metric]:
        yield from self._collect_gauges()
        yield self._count(
            "jobproxy_callbacks", "Callbacks by result.", CALLBACKS, lambda each: each.callbacks
        )
        yield self._count(
            "jobproxy_starts",
            "Start requests by result.",
            STARTS,
            lambda each: each.starter.job_server.results,
        )
        durations = HistogramMetricFamily(
            "jobproxy_start_seconds", "Duration of a start request.", labels=self._labels
        )
        circuit = GaugeMetricFamily(
            "jobproxy_circuit",
            "1 for the current state of the circuit breaker.",
            labels=[*self._labels, "state"],
        )
        for gateway in self._gateways:
            job_server = gateway.starter.job_server
            found = job_server.durations
            durations.add_metric(self._values(gateway), found.buckets(), found.total)
            for phase in Phase:
                values = [*self._values(gateway), phase.value]
                circuit.add_metric(values, float(job_server.circuit.phase is phase))
        yield durations
        yield circuit

    def _collect_gauges(self) -> Iterator[Metric]:
        gauges: dict[str, tuple[str, Callable[[Gateway], int]]] = {
            "accounts": (
                "Accounts with a start request that runs or waits, or a pause.",
                lambda each: len(each.starter.limiter),
            ),
            "queued": ("Jobs that wait for a slot.", lambda each: each.starter.queued),
            "unheard": (
                "1 once many jobs were acknowledged, as long as no callback has ever come.",
                lambda each: each.is_unheard,
            ),
            "starting": ("Start requests under way.", lambda each: each.starter.limiter.running),
        }
        for name, (documentation, read) in gauges.items():
            family = GaugeMetricFamily(f"jobproxy_{name}", documentation, labels=self._labels)
            for gateway in self._gateways:
                family.add_metric(self._values(gateway), float(read(gateway)))
            yield family

    def _count(
        self,
        name: str,
        documentation: str,
        known: Sequence[str],
        read: Callable[[Gateway], Counter[str]],
    ) -> Metric:
        counts = {
            (*self._values(gateway), *result): count
            for gateway in self._gateways
            for result, count in by_label(read(gateway), known).items()
        }
        return counter(name, documentation, (*self._labels, "result"), counts)

    def _values(self, gateway: Gateway) -> list[str]:
        return [gateway.profile or BUILT_IN] if self._labels else []
