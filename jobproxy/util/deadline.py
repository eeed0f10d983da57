"""Deadlines that let through all bytes that arrived in time, also after a stall of the process.

At the time of a deadline, sockets may hold bytes that arrived before it but were not read yet. So
the reactor loop turns some more times before the deadline calls its function.
"""

from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

#: Turns of the reactor loop between the time and the call. Twisted runs timers first. After a
#: stall, which may have ended a while before the time, it accepts one connection in the first turn
#: and 20 more in each of the next, until the queue of the listening socket is empty. 24 turns are
#: enough for the longest queue, and cost some microseconds each.
TURNS = 24
#: Turns are long under load. After so many seconds, a few of them are enough: whatever had arrived
#: on open connections was read in the first one.
MAX_GRACE = 0.5
MIN_TURNS = 3


def do_nothing() -> None:
    """Do nothing: in place of a function that is not needed."""


def when_due(clock: IReactorTime, seconds: float) -> Deferred[None]:
    """Return a Deferred that fires at a :class:`Deadline`; cancel it if that does not matter."""
    due: Deferred[None] = Deferred(lambda _: deadline.cancel())
    deadline = Deadline(clock, seconds, lambda: due.callback(None))
    return due


class Deadline:
    """Calls a function once, some turns of the loop after its time, unless it is cancelled.

    :param seconds: from now.
    :ivar at: the time, in seconds on the clock.
    """

    __slots__ = ("_call", "_checked_at", "_clock", "_timer", "_turns", "at")

    def __init__(self, clock: IReactorTime, seconds: float, call: Callable[[], object]) -> None:
        self._clock = clock
        self._call = call
        self._turns = TURNS
        self._checked_at = 0.0
        self.at = clock.seconds() + seconds
        self._timer = clock.callLater(seconds, self._check)

    def bring_forward(self, at: float) -> None:
        """Move the deadline to an earlier time; a later one is ignored.

        :param at: in seconds on the clock; may be in the past.
        """
        if at < self.at:
            self.at = at
            self._timer.reset(max(0.0, at - self._clock.seconds()))

    def cancel(self) -> None:
        """Do not call the function; has no effect after the call."""
        if self._timer.active():
            self._timer.cancel()
        # The function mostly refers to the object that holds this deadline: without this line they
        # would be a cycle, which only the garbage collector frees.
        self._call = do_nothing

    def _check(self) -> None:
        now = self._clock.seconds()
        if self._turns == TURNS:
            self._checked_at = now
        is_late = now - self._checked_at >= MAX_GRACE and self._turns <= TURNS - MIN_TURNS
        if not self._turns or is_late:
            self._call()
            return
        self._turns -= 1
        self._timer = self._clock.callLater(0, self._check)
