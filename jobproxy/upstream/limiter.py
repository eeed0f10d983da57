"""The account limiter: how many start requests run at once, per account and in all.

The job server serves one connection of an account at a time, so more than a few start requests of
an account at once would only queue there. Accounts take turns, so that a flood of one account does
not delay the first job of another.
"""

import heapq
import math
from collections import OrderedDict

from attrs import define, field, frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from jobproxy.upstream.pauses import ALL, MAX_PAUSED, Pauses
from jobproxy.wire.problems import Kind, Problem, ProblemError

#: The largest ``Retry-After``, in seconds, that a client gets when the queue is full.
LONGEST_ADVICE = 60
#: The longest pause of all accounts, in seconds.
LONGEST_PAUSE_OF_ALL = 5.0


@define(eq=False)
class _AccountQueue:
    """The slots of one account, and the start requests that wait for one.

    It exists as long as the account has a start request.

    :ivar since: when it was made, in seconds on the clock.
    :ivar running: start requests that hold a slot.
    :ivar released: slots that were released since it was made.
    :ivar waiting: one Deferred for each start request that waits, the first one first.
    """

    account: str
    since: float
    running: int = 0
    released: int = 0
    waiting: OrderedDict[Deferred[str | None], None] = field(factory=OrderedDict)


@frozen
class QueueState:
    """A snapshot of one account's queue.

    :param queued: start requests that wait for a slot.
    :param running: start requests that hold a slot.
    :param paused: seconds until the account gets slots again; 0.0 if it is not paused.
    """

    account: str
    queued: int
    running: int
    paused: float


@define(eq=False)
class AccountLimiter:
    """Grants slots to start requests; accounts that wait take turns.

    :param per_account: start requests of one account that may run at once.
    :param queue_per_account: start requests of one account that may wait.
    :param total: start requests of all accounts that may run at once.
    :ivar running: start requests that hold a slot.
    :ivar queued: start requests that wait for one.
    :ivar refusals: how many times in a row the job server was too busy for a start request.
    """

    _clock: IReactorTime
    _per_account: int
    _queue_per_account: int
    _total: int
    running: int = field(default=0, init=False)
    queued: int = field(default=0, init=False)
    refusals: int = field(default=0, init=False)
    _queues: dict[str, _AccountQueue] = field(factory=dict, init=False, repr=False)
    #: The queues with a waiting start request and a free slot; the one whose turn is next is first.
    _turns: OrderedDict[_AccountQueue, None] = field(factory=OrderedDict, init=False, repr=False)
    _dispatching: bool = field(default=False, init=False)
    _pauses: Pauses = field(init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        self._pauses = Pauses(self._clock, self._resume)

    def __len__(self) -> int:
        """Return the number of accounts with a start request that runs or waits, or a pause."""
        return len(self._queues) + sum(
            account not in self._queues for account in self._pauses.until
        )

    def acquire(self, account: str) -> Deferred[str | None]:
        """Wait for a slot, behind the other start requests of the account.

        :return: fires when the slot is granted; the caller then has to :meth:`release` it. Cancel
            it to leave the queue; once it has fired, cancelling has no effect.
        :raises ProblemError: if the queue of the account is full.
        """
        queue = self._queues.get(account) or _AccountQueue(account, self._clock.seconds())
        has_slot = self._has_free_slot(queue) and self.running < self._total
        if len(queue.waiting) >= self._queue_per_account and not (has_slot and not queue.waiting):
            problem = Problem(
                Kind.ACCOUNT_QUEUE_FULL,
                f"{len(queue.waiting)} jobs of this account are queued; "
                "send the next one when some of them have been started.",
                retry_after=self._estimate(queue),
            )
            raise ProblemError(problem)
        return self._enqueue(queue)

    def requeue(self, account: str) -> Deferred[str | None]:
        """Wait for a slot again, before the other start requests of the account.

        For a start request that is sent again; it is queued even if the queue is full.

        :return: as :meth:`acquire` does.
        """
        queue = self._queues.get(account) or _AccountQueue(account, self._clock.seconds())
        return self._enqueue(queue, is_first=True)

    def release(self, account: str, slot: str | None = None) -> None:  # noqa: ARG002 - Slots'
        """Release a slot; must be called once for each slot that was granted."""
        queue = self._queues[account]
        queue.running -= 1
        queue.released += 1
        self.running -= 1
        self._add_turn(queue)
        self._forget_if_unused(queue)
        self._dispatch()

    def pause(self, account: str, seconds: float) -> None:
        """Grant an account no slots for some seconds; never shortens a pause."""
        queue = self._queues.get(account)
        if queue is not None:
            self._turns.pop(queue, None)
        self._pauses.add(account, seconds)

    def note_refusal(self, account: str, seconds: float) -> None:
        """Pause an account, as the job server asked for it by ``Retry-After``.

        If it asks that of many accounts, one after the other, it is busy as a whole: then all are
        paused, for a short time.
        """
        self.refusals += 1
        self.pause(account, seconds)
        if self.refusals >= MAX_PAUSED:
            self._pauses.add(ALL, min(seconds, LONGEST_PAUSE_OF_ALL))

    def note_ack(self) -> None:
        """Note that the job server accepts jobs."""
        self.refusals = 0

    def paused_for(self, account: str) -> float:
        """Return the seconds until an account gets slots again; 0.0 if it is not paused."""
        if not self._pauses.until:
            return 0.0
        return max(self._pauses.left(account), self._pauses.left(ALL))

    def longest_queues(self, number: int) -> list[QueueState]:
        """Return the state of the longest queues, the longest first.

        :param number: how many at most.
        """
        longest = heapq.nlargest(
            number, self._queues.values(), key=lambda queue: len(queue.waiting)
        )
        return [
            QueueState(
                queue.account,
                len(queue.waiting),
                queue.running,
                round(self.paused_for(queue.account), 3),
            )
            for queue in longest
        ]

    def _enqueue(self, queue: _AccountQueue, *, is_first: bool = False) -> Deferred[str | None]:
        self._queues[queue.account] = queue
        slot: Deferred[str | None] = Deferred(lambda slot: self._remove(queue, slot))
        queue.waiting[slot] = None
        self.queued += 1
        if is_first:
            queue.waiting.move_to_end(slot, last=False)
        self._add_turn(queue)
        self._dispatch()
        return slot

    def _remove(self, queue: _AccountQueue, slot: Deferred[str | None]) -> None:
        del queue.waiting[slot]
        self.queued -= 1
        if not queue.waiting:
            self._turns.pop(queue, None)
        self._forget_if_unused(queue)

    def _resume(self, account: str) -> None:
        queue = self._queues.get(account)
        if queue is not None:
            self._add_turn(queue)
        self._dispatch()

    def _add_turn(self, queue: _AccountQueue) -> None:
        if queue.waiting and self._has_free_slot(queue):
            self._turns.setdefault(queue)

    def _has_free_slot(self, queue: _AccountQueue) -> bool:
        return queue.running < self._per_account and queue.account not in self._pauses.until

    def _dispatch(self) -> None:
        # A start request that fails at once releases its slot while it is being granted, and so
        # calls this again: the outer loop goes on, as unbounded recursion would overflow the stack.
        if self._dispatching:
            return
        self._dispatching = True
        try:
            while self._turns and self.running < self._total and ALL not in self._pauses.until:
                queue, _ = self._turns.popitem(last=False)
                slot, _ = queue.waiting.popitem(last=False)
                self.queued -= 1
                queue.running += 1
                self.running += 1
                self._add_turn(queue)
                slot.callback(None)
        finally:
            self._dispatching = False

    def _forget_if_unused(self, queue: _AccountQueue) -> None:
        if not queue.waiting and not queue.running:
            del self._queues[queue.account]

    def _estimate(self, queue: _AccountQueue) -> int:
        """Return the seconds until the queue is empty, at the account's rate so far."""
        passed = max(self._clock.seconds() - queue.since, 1.0)
        # As long as no start request has ended, the next one may take as long again.
        left = passed * len(queue.waiting) / queue.released if queue.released else passed
        left = max(left, self.paused_for(queue.account))
        return min(math.ceil(round(left, 3)), LONGEST_ADVICE)
