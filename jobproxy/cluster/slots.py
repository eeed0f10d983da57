"""Slots that are counted over all nodes (``--slot-scope cluster``)."""

import random
from collections import Counter

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from jobproxy.store.interface import IStore, StoreUnreachable
from jobproxy.upstream.limiter import AccountLimiter

#: Seconds between the first two tries to get a slot, and between any two at most.
FIRST_PAUSE = 0.02
MAX_PAUSE = 0.25


@define(eq=False)
class ClusterSlots:
    """Grants a slot once the account has one of this node and one of the cluster.

    While the store is away, each node grants as many as it does alone: a job server that is a
    little too busy is better than none. Accounts that wait take turns on each node; among nodes it
    is chance who is next.

    :param limiter: grants the slots of this node.
    :param per_account: slots that an account has on all nodes together.
    :param lease: seconds after which a slot that was not given back is free again, as its node has
        died; longer than any start request.
    """

    _clock: IReactorTime
    _limiter: AccountLimiter
    _store: IStore
    _per_account: int
    _lease: float
    _random: random.Random
    #: How many slots of the cluster each account has here.
    _taken: Counter[str] = field(factory=Counter, init=False)

    def acquire(self, account: str) -> Deferred[None]:
        """See :meth:`AccountLimiter.acquire`."""
        return self._acquire_both(self._limiter.acquire(account), account)

    def requeue(self, account: str) -> Deferred[None]:
        """See :meth:`AccountLimiter.requeue`."""
        return self._acquire_both(self._limiter.requeue(account), account)

    def release(self, account: str) -> None:
        """Give both slots back."""
        if self._taken[account] > 0:
            self._taken[account] -= 1
            # If it fails the lease ends.
            self._store.free(account).addErrback(lambda failure: failure.trap(StoreUnreachable))
        if not self._taken[account]:
            del self._taken[account]
        self._limiter.release(account)

    def _acquire_both(self, granted: Deferred[None], account: str) -> Deferred[None]:
        return Deferred.fromCoroutine(self._acquire(granted, account))

    async def _acquire(self, granted: Deferred[None], account: str) -> None:
        await granted
        pause = FIRST_PAUSE
        try:
            while not await self._store.acquire(account, self._per_account, self._lease):
                await deferLater(self._clock, self._random.uniform(pause / 2, pause))
                pause = min(2 * pause, MAX_PAUSE)
        except CancelledError:
            self._limiter.release(account)
            raise
        except StoreUnreachable:
            return
        self._taken[account] += 1
