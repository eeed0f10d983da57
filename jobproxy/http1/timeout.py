"""The timeout of a phase of a connection."""

from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from jobproxy.util.deadline import TURNS, do_nothing


class Timeout:
    """Calls a function at a deadline that is often moved.

    A timer that is due earlier stays, and looks at the deadline then: that is cheaper than to move
    the timer for each request. After a stall, what arrived in time is still in the socket, so the
    loop turns some more times before the call.

    :param end: is called at the deadline.
    """

    __slots__ = ("_clock", "_deadline", "_end", "_timer", "_turns")

    def __init__(self, clock: IReactorTime, end: Callable[[], object]) -> None:
        self._clock = clock
        self._end = end
        self._deadline: float | None = None
        self._timer: IDelayedCall | None = None
        self._turns = 0

    def set(self, seconds: float | None) -> None:
        """Set the deadline; :data:`None`: there is none."""
        if seconds is None:
            self._deadline = None
            return
        self._deadline = deadline = self._clock.seconds() + seconds
        if self._timer is None:
            self._timer = self._clock.callLater(seconds, self._check)
        elif self._timer.getTime() > deadline:
            self._timer.reset(seconds)

    def stop(self) -> None:
        """Cancel the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def close(self) -> None:
        """Cancel the timer for good, and forget the function, whose object has this one."""
        self.stop()
        self._end = do_nothing

    def _check(self) -> None:
        self._timer = None
        if self._deadline is None:
            return
        remaining = self._deadline - self._clock.seconds()
        if remaining > 0:
            self._turns = 0
        elif self._turns < TURNS:
            self._turns += 1
        else:
            self._turns, self._deadline = 0, None
            self._end()
            return
        self._timer = self._clock.callLater(max(0.0, remaining), self._check)
