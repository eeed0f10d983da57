"""Deadlines that what has arrived in time always meets, also after a stall of the process."""

from collections.abc import Callable

from twisted.internet.interfaces import IReactorTime

#: Turns of the loop between the time and the verdict. Twisted runs the timers first. After a stall,
#: which may have ended a while before the time, it then accepts one connection in the first turn,
#: and 20 more in each next one, until the longest queue of a listening socket is empty; these are
#: enough for that, and cost some microseconds each.
TURNS = 24


def do_nothing() -> None:
    """Stand for something that there is no need of."""


class Deadline:
    """Calls something when its time has come, unless it is cancelled.

    :ivar at: the time, in seconds on the clock.
    """

    __slots__ = ("_call", "_clock", "_timer", "_turns", "at")

    def __init__(self, clock: IReactorTime, seconds: float, call: Callable[[], object]) -> None:
        self._clock = clock
        self._call = call
        self._turns = TURNS
        self.at = clock.seconds() + seconds
        self._timer = clock.callLater(seconds, self._check)

    def bring_forward(self, at: float) -> None:
        """Move it to an earlier time; nothing happens if it is no later already."""
        if at < self.at:
            self.at = at
            self._timer.reset(max(0.0, at - self._clock.seconds()))

    def cancel(self) -> None:
        """Have nothing called; may come after the call too."""
        if self._timer.active():
            self._timer.cancel()
        # What is called mostly holds this; together they would be garbage that only the collector
        # finds.
        self._call = do_nothing

    def _check(self) -> None:
        if not self._turns:
            self._call()
            return
        self._turns -= 1
        self._timer = self._clock.callLater(0, self._check)
