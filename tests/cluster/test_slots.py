"""Slots that are counted over all nodes."""

import random
from typing import cast

from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from jobproxy.cluster.slots import MAX_PAUSE, ClusterSlots
from jobproxy.store.interface import IStore
from jobproxy.store.memory import MemoryStore, Shared
from jobproxy.upstream.limiter import AccountLimiter
from tests.support.stores import RecordingListener

LEASE = 20.0


class BrokenStore:
    """A store with a bug."""

    def acquire_slot(self, account: str, most: int, lease: float) -> Deferred[bool]:
        del account, most, lease
        return fail(ZeroDivisionError())


class ClusterSlotsTests(SynchronousTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.clock = Clock()
        shared = Shared(self.clock, 60.0)
        self.stores = [MemoryStore(shared, f"node-{number}") for number in range(3)]
        for store in self.stores:
            store.open(RecordingListener())
        self.limiters = [AccountLimiter(self.clock, 2, 100, 100) for _ in self.stores]
        self.slots = [
            ClusterSlots(self.clock, limiter, store, 2, LEASE, random.Random(1))
            for limiter, store in zip(self.limiters, self.stores, strict=True)
        ]

    def tearDown(self) -> None:
        super().tearDown()
        self.assertEqual([len(limiter) for limiter in self.limiters], [0, 0, 0])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def acquire(self, node: int, account: str = "a") -> Deferred[None]:
        return self.slots[node].acquire(account)

    def wait(self) -> None:
        """Let all waiting starts ask the store again."""
        self.clock.advance(MAX_PAUSE)

    def test_slots_of_an_account_are_counted_over_all_nodes(self) -> None:
        """An account has so many slots over all nodes; each that is released is used again."""
        waiting = {number: self.acquire(number % 3) for number in range(9)}
        for rest in range(9, 0, -1):
            got = [number for number, slot in waiting.items() if slot.called]
            self.assertEqual(len(got), min(2, rest))
            del waiting[got[0]]
            self.slots[got[0] % 3].release("a")
            self.wait()

    def test_accounts_have_slots_of_their_own(self) -> None:
        """The slots of one account do not count for another."""
        granted = [self.acquire(0, account) for account in "aabb"]
        self.assertTrue(all(slot.called for slot in granted))
        for account in "aabb":
            self.slots[0].release(account)

    def test_cancelled_wait_leaves_nothing(self) -> None:
        """A wait for a slot that is cancelled leaves nothing behind, at any node."""
        granted = [self.acquire(0) for _ in range(2)]
        waiting = [self.acquire(1), self.acquire(0)]
        for slot in waiting:
            slot.cancel()
            self.failureResultOf(slot, CancelledError)
        for slot in granted:
            self.successResultOf(slot)
            self.slots[0].release("a")
        self.wait()

    def test_failed_wait_leaves_nothing(self) -> None:
        """A wait for a slot that fails for any reason gives the slot of its node back."""
        store = cast(IStore, BrokenStore())
        slots = ClusterSlots(self.clock, self.limiters[0], store, 2, LEASE, random.Random(1))
        self.failureResultOf(slots.acquire("a"), ZeroDivisionError)

    def test_slots_of_a_dead_node_are_free_after_their_lease(self) -> None:
        """The slots of a node that died are free when their lease has ended."""
        granted = [self.acquire(0), self.acquire(0)]
        slot = self.acquire(1)
        self.stores[0].go_away()
        self.clock.advance(LEASE / 2)
        self.wait()
        self.assertNoResult(slot)
        self.clock.advance(LEASE / 2)
        self.wait()
        self.successResultOf(slot)
        for node, each in ((0, granted[0]), (0, granted[1]), (1, slot)):
            self.successResultOf(each)
            self.slots[node].release("a")

    def test_each_node_has_all_slots_while_the_store_is_away(self) -> None:
        """X1: without the store each node grants as many slots as it does alone."""
        for store in self.stores:
            store.go_away()
        granted = [self.acquire(node) for node in (0, 0, 1, 1, 0)]
        self.assertEqual([slot.called for slot in granted], [True] * 4 + [False])
        for node in (0, 0, 1, 1, 0):
            self.slots[node].release("a")

    def test_requeued_start_gets_a_slot_of_the_cluster(self) -> None:
        """A start that is queued again gets its slot as any other does."""
        self.successResultOf(self.acquire(0))
        self.slots[0].release("a")
        slot = self.slots[0].requeue("a")
        self.successResultOf(slot)
        others = [self.acquire(1), self.acquire(2)]
        self.wait()
        self.assertEqual(sum(other.called for other in others), 1)
        self.slots[0].release("a")
        self.wait()
        for node in (1, 2):
            self.slots[node].release("a")
