"""Lanes that are as wide for all nodes together as one node's are otherwise."""

import random
from collections import Counter

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater

from jobproxy.store.interface import IStore
from jobproxy.upstream.limiter import AccountLimiter
from jobproxy.wire.problems import StoreUnreachable

#: Seconds between the first two tries to get a place, and between any two at most.
FIRST_PAUSE = 0.02
MAX_PAUSE = 0.25


@define(eq=False)
class SharedLimiter(AccountLimiter):
    """Lanes in which a start needs a place of the cluster too, once it has one of this node.

    While the store is away, each node gives out as many places as it has by itself: a job server
    that is a little too busy is better than none. Accounts that wait take turns on each node; among
    nodes it is chance who is next.

    :param lease: seconds after which a place is free again that was not given back, as its node
        has died; longer than any start.
    """

    _store: IStore = field(kw_only=True)
    _lease: float = field(kw_only=True)
    _random: random.Random = field(kw_only=True)
    #: How many places of the cluster each account has here.
    _places: Counter[str] = field(factory=Counter, init=False)

    def acquire(self, account: str) -> Deferred[None]:
        return self._widen(super().acquire(account), account)

    def requeue(self, account: str) -> Deferred[None]:
        return self._widen(super().requeue(account), account)

    def release(self, account: str) -> None:
        if self._places[account] > 0:
            self._places[account] -= 1
            # If it fails the lease ends.
            self._store.free(account).addErrback(lambda failure: failure.trap(StoreUnreachable))
        if not self._places[account]:
            del self._places[account]
        super().release(account)

    def _widen(self, place: Deferred[None], account: str) -> Deferred[None]:
        return Deferred.fromCoroutine(self._acquire(place, account))

    async def _acquire(self, place: Deferred[None], account: str) -> None:
        await place
        pause = FIRST_PAUSE
        try:
            while not await self._store.acquire(account, self._per_account, self._lease):
                await deferLater(self._clock, self._random.uniform(pause / 2, pause))
                pause = min(2 * pause, MAX_PAUSE)
        except CancelledError:
            super().release(account)
            raise
        except StoreUnreachable:
            return
        self._places[account] += 1
