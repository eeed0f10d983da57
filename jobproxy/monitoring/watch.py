"""The watch: looks at the counts at intervals, and keeps the verdict and the history."""

from collections.abc import Callable
from typing import Any

from attrs import define, field
from twisted.application.service import Service
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from jobproxy.cluster.coordinator import Coordinator
from jobproxy.monitoring.counts import STEP, Counts, Past, read_counts
from jobproxy.monitoring.history import History
from jobproxy.monitoring.probes import Probes
from jobproxy.monitoring.reasons import State
from jobproxy.monitoring.verdict import Verdict, judge

_log = Logger()


@define(eq=False)
class OrphanCount:
    """Counts the orphans of all nodes, for which the store may have to be asked.

    :ivar number: how many there were when it was last known.
    """

    _coordinator: Coordinator
    number: int = field(default=0, init=False)
    _is_asking: bool = field(default=False, init=False)

    def ask(self) -> None:
        """Ask how many there are, unless the last question has no answer yet."""
        if not self._is_asking:
            self._is_asking = True
            self._coordinator.count_orphans().addCallbacks(self._note, self._fail)

    def _note(self, number: int) -> None:
        self._is_asking, self.number = False, number

    def _fail(self, failure: Failure) -> None:
        self._is_asking = False
        _log.failure("cannot count the orphans", failure)


@define(eq=False)
class Watch(Service):
    """Judges the proxy at intervals, and whenever it is asked.

    :param now: Unix time in seconds.
    :ivar history: of the last day.
    """

    _probes: Probes
    _clock: IReactorTime
    _now: Callable[[], float]
    history: History = field(init=False)
    _orphans: OrphanCount = field(init=False)
    _past: Past = field(init=False)
    _verdict: Verdict = field(init=False)
    _ticks: LoopingCall = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._orphans = OrphanCount(self._probes.gateway.coordinator)
        first = Counts(time=self._clock.seconds(), unix=self._now())
        self._past = Past(first)
        self._verdict = Verdict(State.OK, first.unix)
        self.history = History(first)
        self._ticks = LoopingCall(self._tick)
        self._ticks.clock = self._clock

    def startService(self) -> None:
        super().startService()
        self._ticks.start(STEP, now=False)

    def stopService(self) -> Any:
        if self._ticks.running:
            self._ticks.stop()
        return super().stopService()

    @property
    def orphans(self) -> int:
        """How many orphans the list has; with a store, a few seconds ago."""
        if self._probes.gateway.coordinator.status() is None:
            self._orphans.ask()
        return self._orphans.number

    def look(self) -> Verdict:
        """Return the verdict of now."""
        return self._judge(read_counts(self._probes, self._clock.seconds(), self._now()))

    def _judge(self, counts: Counts) -> Verdict:
        self._past.note(counts)
        before, self._verdict = self._verdict, judge(counts, self._past, self._verdict)
        self.history.note(counts, self._verdict)
        if self._verdict.state is not before.state:
            _log.warn("verdict: {text}", text=self._verdict.text)
        return self._verdict

    def _tick(self) -> None:
        """Look; the ticks would end with the first one that raises."""
        try:
            self._orphans.ask()
            counts = read_counts(self._probes, self._clock.seconds(), self._now())
            self._judge(counts)
            self._past.add(counts)
            self.history.add(counts, self._verdict)
        except Exception:
            _log.failure("cannot judge the proxy")
