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

from jobproxy.wire.problems import AccountQueueFull

#: Seconds that a client is told to come back after, at most.
MAX_RETRY_AFTER = 60


@define(eq=False)
class _AccountQueue:
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
class QueueState:
    """How it goes in one lane.

    :param paused: the seconds for which nothing more is started.
    """

    account: str
    queued: int
    running: int
    paused: float


@define(eq=False)
class AccountLimiter:
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
    _queues: dict[str, _AccountQueue] = field(factory=dict, init=False, repr=False)
    #: The lanes that have both a waiting start and room for it, the one to be served next first.
    _turns: OrderedDict[_AccountQueue, None] = field(factory=OrderedDict, init=False, repr=False)
    _dispatching: bool = field(default=False, init=False)

    def __len__(self) -> int:
        """Return how many accounts have a start that runs or waits, or are paused."""
        return len(self._queues)

    def acquire(self, account: str) -> Deferred[None]:
        """Ask for a place.

        :return: fires when the place is there; who gets it has to :meth:`release`. Cancelling it
            before gives up the wait; after, it does nothing.
        :raises AccountQueueFull: if too many starts of the account wait already.
        """
        queue = self._queues.get(account) or _AccountQueue(account, self._clock.seconds())
        has_room = self._has_room(queue) and self.running < self._total
        if len(queue.queue) >= self._queue_per_account and not (has_room and not queue.queue):
            raise AccountQueueFull(
                f"{len(queue.queue)} jobs of this account wait to be started; "
                "send the next one when some of them are done.",
                retry_after=self._estimate(queue),
            )
        return self._enqueue(queue)

    def requeue(self, account: str) -> Deferred[None]:
        """Ask for a place once more, as the first one of the account, for a start that failed.

        :return: as :meth:`acquire` does.
        """
        queue = self._queues.get(account) or _AccountQueue(account, self._clock.seconds())
        return self._enqueue(queue, is_first=True)

    def release(self, account: str) -> None:
        """Give a place back; to be called once for each place that was got."""
        queue = self._queues[account]
        queue.running -= 1
        queue.done += 1
        self.running -= 1
        self._take_turn(queue)
        self._tidy(queue)
        self._dispatch()

    def pause(self, account: str, seconds: float) -> None:
        """Give an account no places for some time; a pause that is longer already stays."""
        queue = self._queues.setdefault(account, _AccountQueue(account, self._clock.seconds()))
        if queue.pause is None:
            self._turns.pop(queue, None)
            queue.pause = self._clock.callLater(seconds, self._resume, queue)
        elif queue.pause.getTime() < self._clock.seconds() + seconds:
            queue.pause.reset(seconds)

    def paused_for(self, account: str) -> float:
        """Return the seconds for which an account gets no places."""
        queue = self._queues.get(account)
        if queue is None or queue.pause is None:
            return 0.0
        return queue.pause.getTime() - self._clock.seconds()

    def longest_queues(self, number: int) -> list[QueueState]:
        """Return how it goes in the lanes where most wait, those first."""
        longest = heapq.nlargest(number, self._queues.values(), key=lambda queue: len(queue.queue))
        return [
            QueueState(
                queue.account,
                len(queue.queue),
                queue.running,
                round(self.paused_for(queue.account), 3),
            )
            for queue in longest
        ]

    def _enqueue(self, queue: _AccountQueue, *, is_first: bool = False) -> Deferred[None]:
        self._queues[queue.account] = queue
        place: Deferred[None] = Deferred(lambda place: self._give_up(queue, place))
        queue.queue[place] = None
        self.queued += 1
        if is_first:
            queue.queue.move_to_end(place, last=False)
        self._take_turn(queue)
        self._dispatch()
        return place

    def _give_up(self, queue: _AccountQueue, place: Deferred[None]) -> None:
        del queue.queue[place]
        self.queued -= 1
        if not queue.queue:
            self._turns.pop(queue, None)
        self._tidy(queue)

    def _resume(self, queue: _AccountQueue) -> None:
        queue.pause = None
        self._take_turn(queue)
        self._tidy(queue)
        self._dispatch()

    def _take_turn(self, queue: _AccountQueue) -> None:
        if queue.queue and self._has_room(queue):
            self._turns.setdefault(queue)

    def _has_room(self, queue: _AccountQueue) -> bool:
        return queue.running < self._per_account and queue.pause is None

    def _dispatch(self) -> None:
        # A start that fails at once leaves, and so comes back here, while its place is still
        # being given: the loop that runs already goes on, as recursion would have no bound.
        if self._dispatching:
            return
        self._dispatching = True
        try:
            while self._turns and self.running < self._total:
                queue, _ = self._turns.popitem(last=False)
                place, _ = queue.queue.popitem(last=False)
                self.queued -= 1
                queue.running += 1
                self.running += 1
                self._take_turn(queue)
                place.callback(None)
        finally:
            self._dispatching = False

    def _tidy(self, queue: _AccountQueue) -> None:
        if not queue.queue and not queue.running and queue.pause is None:
            del self._queues[queue.account]

    def _estimate(self, queue: _AccountQueue) -> int:
        """Return the seconds in which the queue will be gone, at the rate seen so far."""
        rate = queue.done / max(self._clock.seconds() - queue.since, 1.0)
        return min(math.ceil(len(queue.queue) / rate), MAX_RETRY_AFTER) if rate else 1
