"""Reactor lag: how late the timers of the reactor are, which delays everything it does."""

from attrs import define, field
from twisted.application.service import Service
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from jobproxy.util.histogram import Histogram

#: Seconds between two measurements.
INTERVAL = 0.5


@define(eq=False)
class ReactorLag(Service):
    """Measures the reactor lag at intervals.

    :ivar lag: the delays of its timer.
    """

    _clock: IReactorTime
    lag: Histogram = field(factory=Histogram, init=False)
    _timer: IDelayedCall | None = field(default=None, init=False)

    def startService(self) -> None:
        super().startService()
        self._timer = self._clock.callLater(INTERVAL, self._measure)

    def stopService(self) -> None:
        super().stopService()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _measure(self) -> None:
        assert self._timer is not None
        self.lag.observe(max(0.0, self._clock.seconds() - self._timer.getTime()))
        self._timer = self._clock.callLater(INTERVAL, self._measure)
