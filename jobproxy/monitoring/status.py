"""The status of the proxy as one JSON document, and the feed of it."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from attrs import define, field
from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from jobproxy import __version__
from jobproxy.cluster.coordinator import ClusterStatus
from jobproxy.gateway import Gateway
from jobproxy.http1.request import Request
from jobproxy.monitoring.probes import Probes
from jobproxy.monitoring.server_metrics import BUILT_IN
from jobproxy.monitoring.watch import Watch
from jobproxy.util.histogram import BOUNDS, Histogram
from jobproxy.wire.problems import Kind, Problem, ProblemError

_log = Logger()

#: Seconds between two events of the feed.
INTERVAL = 1.0
#: The maximum number of clients of the feed.
MAX_WATCHERS = 50
#: The numbers of longest queues and of last refusals in the status.
MAX_QUEUES = 10


@define(eq=False)
class Status:
    """Describes the proxy; all counts are since the start of the process.

    :param now: Unix time in seconds.
    """

    _probes: Probes
    _watch: Watch
    _clock: IReactorTime
    _now: Callable[[], float]
    _since: float = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._since = self._clock.seconds()

    def describe(self) -> dict[str, Any]:
        """Return the document, whose members the OpenAPI document describes."""
        probes = self._probes
        gateway = probes.gateway
        table, starters = gateway.table, [each.starter for each in probes.gateways]
        job_server = gateway.starter.job_server
        starts = sum((each.job_server.results for each in starters), Counter())
        reasons = probes.reasons_not_ready()
        cluster = gateway.coordinator.status()
        responses: Counter[tuple[int, str]] = Counter()
        for (_, status, outcome), count in probes.traffic.responses.items():
            responses[status, outcome] += count
        return {
            **({} if cluster is None else {"cluster": _describe_cluster(cluster)}),
            **_describe_profiles(probes.gateways),
            "version": __version__,
            "time": round(self._now(), 3),
            "uptime": round(self._clock.seconds() - self._since, 3),
            "verdict": self._watch.look().describe(),
            "ready": not reasons,
            "reasons": reasons,
            "held": table.clients.held,
            "maxHeld": gateway.max_held,
            "jobs": len(table),
            "queued": sum(each.queued for each in starters),
            "starting": sum(each.limiter.running for each in starters),
            "retained": table.retention.retained,
            "retainedBytes": table.retention.retained_bytes,
            "orphans": self._watch.orphans,
            "circuit": job_server.circuit.phase.value,
            "connections": {
                "clients": probes.traffic.connections,
                "active": probes.agent.active,
                "idle": probes.agent.idle,
            },
            "responses": [
                {"status": status, "outcome": outcome, "count": count}
                for (status, outcome), count in sorted(responses.items())
            ],
            "starts": dict(starts),
            "callbacks": dict(probes.callbacks),
            "refused": dict(probes.traffic.refused),
            "jobSeconds": _describe_histogram(table.durations),
            "startSeconds": _describe_histogram(job_server.durations),
            "lag": _describe_histogram(probes.lag),
            "accounts": {
                "count": sum(len(each.limiter) for each in starters),
                "longest": self._describe_queues(),
            },
            "refusals": self._describe_refusals(),
            "errors": probes.traffic.errors.describe(self._now()),
            "logDropped": sum(probes.count_dropped().values()),
        }

    def _describe_queues(self) -> list[dict[str, Any]]:
        gateway, described = self._probes.gateway, []
        longest = [
            queue
            for each in self._probes.gateways
            for queue in each.starter.limiter.longest_queues(MAX_QUEUES)
        ]
        for queue in sorted(longest, key=lambda each: -each.queued)[:MAX_QUEUES]:
            shown: dict[str, Any] = {"account": queue.account} if gateway.shows_accounts else {}
            shown |= {"queued": queue.queued, "running": queue.running, "paused": queue.paused}
            described.append(shown)
        return described

    def _describe_refusals(self) -> list[dict[str, Any]]:
        return [
            {
                "time": round(refusal.time, 3),
                "status": refusal.status,
                "outcome": refusal.outcome,
                "requestId": refusal.request_id.decode(),
            }
            for refusal in reversed(self._probes.traffic.refusals)
        ]


@define(eq=False)
class Feed(Service):
    """Sends the status to its clients at intervals, as server-sent events."""

    _clock: IReactorTime
    _status: Status
    _watchers: dict[Request, Deferred[bytes]] = field(factory=dict, init=False)
    _ticks: LoopingCall = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._ticks = LoopingCall(self._send)
        self._ticks.clock = self._clock

    def watch(self, request: Request) -> Deferred[bytes]:
        """Respond with the status at once and then at intervals, until the client leaves.

        :return: fires when the service stops.
        :raises ProblemError: of the kind ``OVERLOADED``, if the feed has :data:`MAX_WATCHERS`
            clients already.
        """
        if len(self._watchers) >= MAX_WATCHERS:
            detail = f"The feed has {MAX_WATCHERS} clients already."
            raise ProblemError(Problem(Kind.OVERLOADED, detail, retry_after=1))
        # Before the response is begun, as its status could not say afterwards that this failed.
        event = self._render_event()
        request.begin()
        request.push(b"retry: 1000\n" + event)
        watching: Deferred[bytes] = Deferred(lambda _: self._remove(request))
        self._watchers[request] = watching
        if not self._ticks.running:
            self._ticks.start(INTERVAL, now=False)
        return watching

    def stopService(self) -> Any:
        for request, watching in list(self._watchers.items()):
            self._remove(request)
            request.end()
            watching.callback(b"")
        return super().stopService()

    def _remove(self, request: Request) -> None:
        del self._watchers[request]
        if not self._watchers:
            self._ticks.stop()

    def _send(self) -> None:
        """Send an event to all clients; the ticks would end with the first one that raises."""
        try:
            event = self._render_event()
            for request in list(self._watchers):
                request.push(event)
        except Exception:
            _log.failure("cannot send the status to the clients of the feed")

    def _render_event(self) -> bytes:
        return f"data: {json.dumps(self._status.describe())}\n\n".encode()


def _describe_profiles(gateways: Sequence[Gateway]) -> dict[str, Any]:
    """Return what is counted for each job server, if there are profiles."""
    if not any(gateway.profile for gateway in gateways):
        return {}
    described = [
        {
            "name": gateway.profile or BUILT_IN,
            "circuit": gateway.starter.job_server.circuit.phase.value,
            "queued": gateway.starter.queued,
            "starting": gateway.starter.limiter.running,
            "starts": dict(gateway.starter.job_server.results),
            "callbacks": dict(gateway.callbacks),
        }
        for gateway in gateways
    ]
    return {"profiles": described}


def _describe_cluster(cluster: ClusterStatus) -> dict[str, Any]:
    return {"node": cluster.node, "up": cluster.is_up, "relays": cluster.relays}


def _describe_histogram(histogram: Histogram) -> dict[str, Any]:
    return {"bounds": BOUNDS, "counts": histogram.counts, "total": round(histogram.total, 6)}
