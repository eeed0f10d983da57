"""Slots that all nodes count together (``--slot-scope cluster``)."""

import random
from itertools import count
from typing import Any

from attrs import define, field
from twisted.application.service import Service
from twisted.internet.defer import Deferred, gatherResults, succeed

from jobproxy.cluster.outbox import Outbox
from jobproxy.store.interface import StoreUnreachable
from jobproxy.store.slots import ISlotStore, SlotGrant
from jobproxy.upstream.limiter import AccountLimiter
from jobproxy.util.backoff import Backoff

#: The first and the longest pause in seconds between two attempts to acquire a slot.
FIRST_PAUSE = 0.02
MAX_PAUSE = 0.25


@define(eq=False)
class ClusterSlots(Service):
    """Grants a slot when the account has both a slot of this node and a slot of the cluster.

    While the store is unreachable, a slot of this node is enough: too many start requests are
    better than none. Accounts take turns on each node; which node is next is left to chance. When
    the service stops, no slot of this node is left.

    :param limiter: grants the slots of this node.
    :param outbox: releases slots, again if the store is away.
    :param node: the name of this node.
    :param per_account: the number of slots that an account has on all nodes together.
    :param lease: seconds after which a slot that was not released is free again, although its node
        lives; must be longer than any start request.
    """

    _limiter: AccountLimiter
    _store: ISlotStore
    _outbox: Outbox
    _node: str
    _per_account: int
    _lease: float
    _random: random.Random
    _backoff: Backoff = field(init=False)
    _numbers: "count[int]" = field(factory=count, init=False, repr=False)
    #: The accounts of the slots that this node has, or may have, by the slots' names.
    _held: dict[str, str] = field(factory=dict, init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        self._backoff = Backoff(FIRST_PAUSE, MAX_PAUSE, self._random, least=0.5)

    def stopService(self) -> Deferred[Any]:
        super().stopService()
        return gatherResults([self._give_back(slot) for slot in list(self._held)])

    def acquire(self, account: str) -> Deferred[str | None]:
        """See :meth:`AccountLimiter.acquire`; fires with the name of the slot of the cluster."""
        return self._acquire_both(self._limiter.acquire(account), account)

    def requeue(self, account: str) -> Deferred[str | None]:
        """See :meth:`AccountLimiter.requeue`."""
        return self._acquire_both(self._limiter.requeue(account), account)

    def release(self, account: str, slot: str | None) -> None:
        """Release both slots."""
        if slot is not None:
            self._give_back(slot)
        self._limiter.release(account)

    def note_refusal(self, account: str, seconds: float) -> None:
        """Pause an account on all nodes; see :meth:`AccountLimiter.note_refusal`."""
        self._outbox.send(lambda: self._store.pause_account(account, seconds), again=False)
        self._limiter.note_refusal(account, seconds)

    def _acquire_both(self, granted: Deferred[str | None], account: str) -> Deferred[str | None]:
        return Deferred.fromCoroutine(self._acquire(granted, account))

    async def _acquire(self, granted: Deferred[str | None], account: str) -> str | None:
        failures = 0
        while True:
            await granted
            try:
                slot, grant = await self._ask(account)
            except StoreUnreachable:
                return None
            except BaseException:
                self._limiter.release(account)
                raise
            if grant.is_granted:
                return slot
            failures += 1
            # Meanwhile other accounts get the slots of this node.
            self._limiter.pause(account, max(grant.paused, self._backoff.pause(failures)))
            granted = self._limiter.requeue(account)
            self._limiter.release(account)

    def _ask(self, account: str) -> Deferred[tuple[str, SlotGrant]]:
        """Ask the store for a slot. Whatever ends that but a grant, the slot is given back."""
        slot = f"{self._node}:{next(self._numbers)}"
        self._held[slot] = account
        waiting: Deferred[tuple[str, SlotGrant]] = Deferred(lambda _: None)
        asking = self._store.acquire_slot(account, slot, self._per_account, self._lease)

        def receive(grant: SlotGrant) -> None:
            if not grant.is_granted:
                self._held.pop(slot, None)
            elif waiting.called:
                self._give_back(slot)
            if not waiting.called:
                waiting.callback((slot, grant))

        def fail(failure: Any) -> None:
            # The store may have granted it all the same.
            self._give_back(slot)
            if not waiting.called:
                waiting.errback(failure)

        asking.addCallbacks(receive, fail)
        return waiting

    def _give_back(self, slot: str) -> Deferred[bool]:
        account = self._held.pop(slot, None)
        if account is None:
            # The service has stopped, and has given it back.
            return succeed(True)
        return self._outbox.send(lambda: self._store.release_slot(account, slot))
