"""How late the event loop is: what everybody waits for who waits for anything here."""

from attrs import define, field
from twisted.application.service import Service
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from jobproxy.util.histogram import Histogram

#: Seconds between two looks.
INTERVAL = 0.5


@define(eq=False)
class ReactorLag(Service):
    """Measures by how much a timer is late, again and again."""

    _clock: IReactorTime
    lag: Histogram = field(factory=Histogram, init=False)
    _timer: IDelayedCall | None = field(default=None, init=False)

    def startService(self) -> None:
        super().startService()
        self._timer = self._clock.callLater(INTERVAL, self._look)

    def stopService(self) -> None:
        super().stopService()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        assert self._timer is not None
        self.lag.observe(max(0.0, self._clock.seconds() - self._timer.getTime()))
        self._timer = self._clock.callLater(INTERVAL, self._look)
