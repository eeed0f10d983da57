"""Slots that all nodes count together (``--slot-scope cluster``)."""

import random
from collections import Counter

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from jobproxy.store.interface import IStore, StoreUnreachable
from jobproxy.upstream.limiter import AccountLimiter
from jobproxy.util.backoff import Backoff

#: The first and the longest pause in seconds between two attempts to acquire a slot.
FIRST_PAUSE = 0.02
MAX_PAUSE = 0.25


@define(eq=False)
class ClusterSlots:
    """Grants a slot when the account has both a slot of this node and a slot of the cluster.

    While the store is unreachable, a slot of this node is enough: too many start requests are
    better than none. Accounts take turns on each node; which node is next is left to chance.

    :param limiter: grants the slots of this node.
    :param per_account: the number of slots that an account has on all nodes together.
    :param lease: seconds after which a slot that was not released is free again, because its node
        has died; must be longer than any start request.
    """

    _clock: IReactorTime
    _limiter: AccountLimiter
    _store: IStore
    _per_account: int
    _lease: float
    _random: random.Random
    _backoff: Backoff = field(init=False)
    #: How many slots of the cluster each account has on this node.
    _acquired: Counter[str] = field(factory=Counter, init=False)

    def __attrs_post_init__(self) -> None:
        self._backoff = Backoff(FIRST_PAUSE, MAX_PAUSE, self._random, least=0.5)

    def acquire(self, account: str) -> Deferred[None]:
        """See :meth:`AccountLimiter.acquire`."""
        return self._acquire_both(self._limiter.acquire(account), account)

    def requeue(self, account: str) -> Deferred[None]:
        """See :meth:`AccountLimiter.requeue`."""
        return self._acquire_both(self._limiter.requeue(account), account)

    def release(self, account: str) -> None:
        """Release both slots."""
        if self._acquired[account] > 0:
            self._acquired[account] -= 1
            # If this fails, the slot is free at the end of its lease.
            self._store.release_slot(account).addErrback(
                lambda failure: failure.trap(StoreUnreachable)
            )
        if not self._acquired[account]:
            del self._acquired[account]
        self._limiter.release(account)

    def _acquire_both(self, granted: Deferred[None], account: str) -> Deferred[None]:
        return Deferred.fromCoroutine(self._acquire(granted, account))

    async def _acquire(self, granted: Deferred[None], account: str) -> None:
        await granted
        failures = 0
        try:
            while not await self._store.acquire_slot(account, self._per_account, self._lease):
                failures += 1
                await deferLater(self._clock, self._backoff.pause(failures))
        except StoreUnreachable:
            return
        except BaseException:
            self._limiter.release(account)
            raise
        self._acquired[account] += 1
