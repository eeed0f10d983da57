"""Lanes: how many starts may run at once, bounded for each account and in all, and fair.

The job server serves one connection of an account at a time, so more starts at once than a few
only wait there; and no account's flood may keep another account's first job waiting.
"""

import heapq
import math
from collections import OrderedDict

from attrs import define, field, frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from jobproxy.problems import AccountQueueFull

#: Seconds that a client is told to come back after, at most.
MAX_RETRY_AFTER = 60


@define(eq=False)
class _Lane:
    account: str
    #: Since when it has had something to do.
    since: float
    running: int = 0
    #: How many starts have left.
    done: int = 0
    queue: OrderedDict[Deferred[None], None] = field(factory=OrderedDict)
    #: Runs while nothing may be started.
    pause: IDelayedCall | None = None


@frozen
class LaneState:
    """How it goes in one lane.

    :param paused: the seconds for which nothing more is started.
    """

    account: str
    queued: int
    running: int
    paused: float


@define(eq=False)
class Lanes:
    """Gives out places to run a start in; accounts that wait take turns.

    :param per_account: starts of one account that may run at once.
    :param queue_per_account: starts of one account that may wait.
    :param total: starts of all accounts that may run at once.
    """

    _clock: IReactorTime
    _per_account: int
    _queue_per_account: int
    _total: int
    #: How many starts run, and how many wait.
    running: int = field(default=0, init=False)
    queued: int = field(default=0, init=False)
    _lanes: dict[str, _Lane] = field(factory=dict, init=False, repr=False)
    #: The lanes that have both a waiting start and room for it, the one to be served next first.
    _turns: OrderedDict[_Lane, None] = field(factory=OrderedDict, init=False, repr=False)
    _dispatching: bool = field(default=False, init=False)

    def __len__(self) -> int:
        """Return how many accounts have a start that runs or waits, or are paused."""
        return len(self._lanes)

    def enter(self, account: str) -> Deferred[None]:
        """Ask for a place.

        :return: fires when the place is there; who gets it has to :meth:`leave`. Cancelling it
            before gives up the wait; after, it does nothing.
        :raises AccountQueueFull: if too many starts of the account wait already.
        """
        lane = self._lanes.get(account) or _Lane(account, self._clock.seconds())
        has_room = self._has_room(lane) and self.running < self._total
        if len(lane.queue) >= self._queue_per_account and not (has_room and not lane.queue):
            raise AccountQueueFull(
                f"{len(lane.queue)} jobs of this account wait to be started; "
                "send the next one when some of them are done.",
                retry_after=self._estimate(lane),
            )
        return self._enqueue(lane)

    def come_back(self, account: str) -> Deferred[None]:
        """Ask for a place once more, as the first one of the account, for a start that failed.

        :return: as :meth:`enter` does.
        """
        lane = self._lanes.get(account) or _Lane(account, self._clock.seconds())
        return self._enqueue(lane, is_first=True)

    def leave(self, account: str) -> None:
        """Give a place back; to be called once for each place that was got."""
        lane = self._lanes[account]
        lane.running -= 1
        lane.done += 1
        self.running -= 1
        self._take_turn(lane)
        self._tidy(lane)
        self._dispatch()

    def pause(self, account: str, seconds: float) -> None:
        """Give an account no places for some time; a pause that is longer already stays."""
        lane = self._lanes.setdefault(account, _Lane(account, self._clock.seconds()))
        if lane.pause is None:
            self._turns.pop(lane, None)
            lane.pause = self._clock.callLater(seconds, self._resume, lane)
        elif lane.pause.getTime() < self._clock.seconds() + seconds:
            lane.pause.reset(seconds)

    def paused_for(self, account: str) -> float:
        """Return the seconds for which an account gets no places."""
        lane = self._lanes.get(account)
        if lane is None or lane.pause is None:
            return 0.0
        return lane.pause.getTime() - self._clock.seconds()

    def find_longest(self, number: int) -> list[LaneState]:
        """Return how it goes in the lanes where most wait, those first."""
        longest = heapq.nlargest(number, self._lanes.values(), key=lambda lane: len(lane.queue))
        return [
            LaneState(
                lane.account,
                len(lane.queue),
                lane.running,
                round(self.paused_for(lane.account), 3),
            )
            for lane in longest
        ]

    def _enqueue(self, lane: _Lane, *, is_first: bool = False) -> Deferred[None]:
        self._lanes[lane.account] = lane
        place: Deferred[None] = Deferred(lambda place: self._give_up(lane, place))
        lane.queue[place] = None
        self.queued += 1
        if is_first:
            lane.queue.move_to_end(place, last=False)
        self._take_turn(lane)
        self._dispatch()
        return place

    def _give_up(self, lane: _Lane, place: Deferred[None]) -> None:
        del lane.queue[place]
        self.queued -= 1
        if not lane.queue:
            self._turns.pop(lane, None)
        self._tidy(lane)

    def _resume(self, lane: _Lane) -> None:
        lane.pause = None
        self._take_turn(lane)
        self._tidy(lane)
        self._dispatch()

    def _take_turn(self, lane: _Lane) -> None:
        if lane.queue and self._has_room(lane):
            self._turns.setdefault(lane)

    def _has_room(self, lane: _Lane) -> bool:
        return lane.running < self._per_account and lane.pause is None

    def _dispatch(self) -> None:
        # A start that fails at once leaves, and so comes back here, while its place is still
        # being given: the loop that runs already goes on, as recursion would have no bound.
        if self._dispatching:
            return
        self._dispatching = True
        try:
            while self._turns and self.running < self._total:
                lane, _ = self._turns.popitem(last=False)
                place, _ = lane.queue.popitem(last=False)
                self.queued -= 1
                lane.running += 1
                self.running += 1
                self._take_turn(lane)
                place.callback(None)
        finally:
            self._dispatching = False

    def _tidy(self, lane: _Lane) -> None:
        if not lane.queue and not lane.running and lane.pause is None:
            del self._lanes[lane.account]

    def _estimate(self, lane: _Lane) -> int:
        """Return the seconds in which the queue will be gone, at the rate seen so far."""
        rate = lane.done / max(self._clock.seconds() - lane.since, 1.0)
        return min(math.ceil(len(lane.queue) / rate), MAX_RETRY_AFTER) if rate else 1
