"""Counts: all that the verdict and the history are made of, as it is at one moment."""

from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence

from attrs import define, field, frozen

from jobproxy.monitoring.probes import Probes
from jobproxy.monitoring.server_metrics import BUILT_IN
from jobproxy.monitoring.words import RUNNING
from jobproxy.upstream.circuit import Phase

#: Seconds between two counts, and between those of the older past.
STEP, COARSE_STEP = 5.0, 30.0
#: Seconds of the newer and of the older past.
MINUTE, LONGEST = 60.0, 900.0
#: What becomes of callbacks that are not the job server's, or not readable.
REFUSED_CALLBACKS = ("forged", "unsigned", "malformed")


@frozen(kw_only=True)
class Counts:
    """What is counted in a process at one moment. Counts grow from the start of the process.

    :param time: seconds on the monotonic clock.
    :param unix: the same moment in Unix seconds, for people.
    :param outcomes: responses to clients by their outcome; those with 202 are ``running``.
    :param job_counts: the durations of jobs, by bucket of the histogram.
    :param lag_counts: the reactor lag, by bucket of the histogram.
    :param lag: seconds by which the reactor was late, in all.
    :param oldest: seconds since the start of the oldest job that has not ended.
    :param servers: how many job servers there are.
    :param broken: the names of those whose circuit is not closed.
    :param expects_callbacks: whether jobs can end by callbacks alone.
    :param is_unheard: whether no callback has ever come, and one should have.
    :param has_store: whether a store is shared with other nodes or processes.
    :param reasons: why no new jobs are accepted.
    """

    time: float
    unix: float
    held: int = 0
    max_held: int = 0
    queued: int = 0
    outcomes: Mapping[str, int] = field(factory=dict)
    starts: Mapping[str, int] = field(factory=dict)
    callbacks: Mapping[str, int] = field(factory=dict)
    job_counts: Sequence[int] = ()
    lag_counts: Sequence[int] = ()
    lag: float = 0.0
    oldest: float = 0.0
    servers: int = 1
    broken: Sequence[str] = ()
    expects_callbacks: bool = True
    is_unheard: bool = False
    has_store: bool = False
    is_store_up: bool = True
    reasons: Sequence[str] = ()

    @property
    def heard(self) -> int:
        """How many callbacks came that are the job server's."""
        return sum(self.callbacks.values()) - self.refused_callbacks

    @property
    def refused_callbacks(self) -> int:
        return sum(self.callbacks.get(name, 0) for name in REFUSED_CALLBACKS)

    @property
    def acks(self) -> int:
        """How many jobs were acknowledged that end later."""
        return self.starts.get("acknowledged", 0) + self.starts.get("no-id", 0)

    @property
    def ended(self) -> int:
        """How many jobs have got a result."""
        return sum(self.job_counts)


def read_counts(probes: Probes, time: float, unix: float) -> Counts:
    """Return what is counted now."""
    gateways, gateway = probes.gateways, probes.gateway
    cluster = gateway.coordinator.status()
    outcomes: Counter[str] = Counter()
    for (side, status, outcome), count in probes.traffic.responses.items():
        if side == "client":
            outcomes[RUNNING if (status, outcome) == (202, "ok") else outcome] += count
    return Counts(
        time=time,
        unix=unix,
        held=gateway.table.clients.held,
        max_held=gateway.max_held,
        queued=sum(each.starter.queued for each in gateways),
        outcomes=outcomes,
        starts=sum((each.starter.job_server.results for each in gateways), Counter()),
        callbacks=probes.callbacks,
        job_counts=tuple(gateway.table.durations.counts),
        lag_counts=tuple(probes.lag.counts),
        lag=probes.lag.total,
        oldest=gateway.table.find_oldest_age(),
        servers=len(gateways),
        broken=tuple(
            each.profile or BUILT_IN
            for each in gateways
            if each.starter.job_server.circuit.phase is not Phase.CLOSED
        ),
        expects_callbacks=not any(each.starter.polls for each in gateways),
        is_unheard=any(each.is_unheard for each in gateways),
        has_store=cluster is not None,
        is_store_up=cluster is None or cluster.is_up,
        reasons=tuple(probes.reasons_not_ready()),
    )


@define(eq=False)
class Past:
    """The counts of the last minutes: each of the last minute, and fewer of those before.

    :ivar heard: the counts when the last callback had just come, or the first ones.
    """

    first: Counts
    heard: Counts = field(init=False)
    _fine: deque[Counts] = field(init=False)
    _coarse: deque[Counts] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.heard = self.first
        self._fine = deque([self.first], maxlen=round(MINUTE / STEP) + 1)
        self._coarse = deque([self.first], maxlen=round(LONGEST / COARSE_STEP) + 1)

    def add(self, counts: Counts) -> None:
        """Add the counts of now."""
        self.note(counts)
        self._fine.append(counts)
        if counts.time - self._coarse[-1].time >= COARSE_STEP:
            self._coarse.append(counts)

    def note(self, counts: Counts) -> None:
        """Note whether a callback has come."""
        if counts.heard > self.heard.heard:
            self.heard = counts

    def before(self, counts: Counts) -> Iterator[Counts]:
        """Yield earlier counts: first those of a minute ago, or the oldest of a shorter past."""
        start = self._fine[0]
        for each in self._fine:
            if counts.time - each.time >= MINUTE:
                start = each
        yield start
        yield from (each for each in reversed(self._coarse) if each.time < start.time)
