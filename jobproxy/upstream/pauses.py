"""Pauses: the accounts that get no slots for some time."""

import heapq
from collections.abc import Callable

from attrs import define, field
from twisted.internet.interfaces import IDelayedCall, IReactorTime

#: The most accounts that are paused at once. Beyond that, the pause that was added first is given
#: up.
MAX_PAUSED = 1_000
#: Stands for all accounts. No account has an empty name.
ALL = ""


@define(eq=False)
class Pauses:
    """Paused accounts, with one timer for all of them.

    :param on_end: is called with the account whenever a pause has ended.
    :ivar until: when the pause of each paused account ends, in seconds on the clock.
    """

    _clock: IReactorTime
    _on_end: Callable[[str], object]
    until: dict[str, float] = field(factory=dict, init=False, repr=False)
    #: Every end that a pause has or had, the earliest first.
    _ends: list[tuple[float, str]] = field(factory=list, init=False, repr=False)
    _timer: IDelayedCall | None = field(default=None, init=False)

    def add(self, account: str, seconds: float) -> None:
        """Pause an account; never shortens a pause."""
        until = self._clock.seconds() + seconds
        if self.until.get(account, 0.0) >= until:
            return
        self.until[account] = until
        heapq.heappush(self._ends, (until, account))
        if len(self.until) > MAX_PAUSED:
            self._give_up(next(other for other in self.until if other not in {account, ALL}))
        if len(self._ends) > 2 * MAX_PAUSED:
            self._ends = sorted((until, account) for account, until in self.until.items())
        self._schedule()

    def left(self, account: str) -> float:
        """Return the seconds until the pause of an account ends; 0.0 if there is none."""
        return max(0.0, self.until.get(account, 0.0) - self._clock.seconds())

    def _give_up(self, account: str) -> None:
        del self.until[account]
        self._on_end(account)

    def _sweep(self) -> None:
        self._timer = None
        while self._ends and self._ends[0][0] <= self._clock.seconds():
            until, account = heapq.heappop(self._ends)
            if self.until.get(account) == until:
                self._give_up(account)
        self._schedule()

    def _schedule(self) -> None:
        """Set the timer for the earliest end."""
        at = self._ends[0][0] if self._ends else None
        if self._timer is not None:
            if at == self._timer.getTime():
                return
            self._timer.cancel()
        left = 0.0 if at is None else max(0.0, at - self._clock.seconds())
        self._timer = None if at is None else self._clock.callLater(left, self._sweep)
