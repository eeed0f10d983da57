"""Lanes: how many starts may run at once, bounded for each account and in all, and fair.

The job server serves one connection of an account at a time, so more starts at once than a few
only wait there; and no account's flood may keep another account's first job waiting.
"""

from collections import OrderedDict

from attrs import define, field
from twisted.internet.defer import Deferred

from jobproxy.problems import AccountQueueFull


@define(eq=False)
class _Lane:
    running: int = 0
    queue: OrderedDict[Deferred[None], None] = field(factory=OrderedDict)


@define(eq=False)
class Lanes:
    """Gives out places to run a start in; accounts that wait take turns.

    :param per_account: starts of one account that may run at once.
    :param queue_per_account: starts of one account that may wait.
    :param total: starts of all accounts that may run at once.
    """

    _per_account: int
    _queue_per_account: int
    _total: int
    _running: int = field(default=0, init=False)
    _lanes: dict[str, _Lane] = field(factory=dict, init=False, repr=False)
    #: The lanes that have both a waiting start and room for it, the one to be served next first.
    _turns: OrderedDict[_Lane, None] = field(factory=OrderedDict, init=False, repr=False)
    _dispatching: bool = field(default=False, init=False)

    def __len__(self) -> int:
        """Return how many accounts have a start that runs or waits."""
        return len(self._lanes)

    def enter(self, account: str) -> Deferred[None]:
        """Ask for a place.

        :return: fires when the place is there; who gets it has to :meth:`leave`. Cancelling it
            before gives up the wait; after, it does nothing.
        :raises AccountQueueFull: if too many starts of the account wait already.
        """
        lane = self._lanes.get(account) or _Lane()
        has_room = lane.running < self._per_account and self._running < self._total
        if len(lane.queue) >= self._queue_per_account and not (has_room and not lane.queue):
            raise AccountQueueFull(
                f"{len(lane.queue)} jobs of this account wait to be started; "
                "send the next one when some of them are done.",
                retry_after=1,
            )
        self._lanes[account] = lane
        place: Deferred[None] = Deferred(lambda place: self._give_up(account, place))
        lane.queue[place] = None
        self._take_turn(lane)
        self._dispatch()
        return place

    def leave(self, account: str) -> None:
        """Give a place back; to be called once for each place that was got."""
        lane = self._lanes[account]
        lane.running -= 1
        self._running -= 1
        self._take_turn(lane)
        self._tidy(account, lane)
        self._dispatch()

    def _give_up(self, account: str, place: Deferred[None]) -> None:
        lane = self._lanes[account]
        del lane.queue[place]
        if not lane.queue:
            self._turns.pop(lane, None)
        self._tidy(account, lane)

    def _take_turn(self, lane: _Lane) -> None:
        if lane.queue and lane.running < self._per_account:
            self._turns.setdefault(lane)

    def _dispatch(self) -> None:
        # A start that fails at once leaves, and so comes back here, while its place is still
        # being given: the loop that runs already goes on, as recursion would have no bound.
        if self._dispatching:
            return
        self._dispatching = True
        try:
            while self._turns and self._running < self._total:
                lane, _ = self._turns.popitem(last=False)
                place, _ = lane.queue.popitem(last=False)
                lane.running += 1
                self._running += 1
                self._take_turn(lane)
                place.callback(None)
        finally:
            self._dispatching = False

    def _tidy(self, account: str, lane: _Lane) -> None:
        if not lane.queue and not lane.running:
            del self._lanes[account]
