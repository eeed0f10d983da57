"""Lanes that several nodes have in common."""

import random

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from jobproxy.cluster.slots import MAX_PAUSE, ClusterSlots
from jobproxy.store.memory import MemoryStore, Shared
from jobproxy.upstream.limiter import AccountLimiter
from tests.support.stores import Ear

LEASE = 20.0


class ClusterLanesTests(SynchronousTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.clock = Clock()
        shared = Shared(self.clock, 60.0)
        self.stores = [MemoryStore(shared, f"node-{number}") for number in range(3)]
        for store in self.stores:
            store.open(Ear())
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
        """Let everybody who waits ask again."""
        self.clock.advance(MAX_PAUSE)

    def test_one_limit(self) -> None:
        """An account has so many places over all nodes, and each that is given back is used."""
        waiting = {number: self.acquire(number % 3) for number in range(9)}
        for rest in range(9, 0, -1):
            got = [number for number, place in waiting.items() if place.called]
            self.assertEqual(len(got), min(2, rest))
            del waiting[got[0]]
            self.slots[got[0] % 3].release("a")
            self.wait()

    def test_accounts(self) -> None:
        """One account's places are nothing to another."""
        places = [self.acquire(0, account) for account in "aabb"]
        self.assertTrue(all(place.called for place in places))
        for account in "aabb":
            self.slots[0].release(account)

    def test_cancelled(self) -> None:
        """Who gives up waiting leaves nothing behind, wherever it waited."""
        places = [self.acquire(0) for _ in range(2)]
        waiting = [self.acquire(1), self.acquire(0)]
        for place in waiting:
            place.cancel()
            self.failureResultOf(place, CancelledError)
        for place in places:
            self.successResultOf(place)
            self.slots[0].release("a")
        self.wait()

    def test_dead_node(self) -> None:
        """The places of a node that died are free when their lease has ended."""
        taken = [self.acquire(0), self.acquire(0)]
        place = self.acquire(1)
        self.stores[0].go_away()
        self.clock.advance(LEASE / 2)
        self.wait()
        self.assertNoResult(place)
        self.clock.advance(LEASE / 2)
        self.wait()
        self.successResultOf(place)
        for node, each in ((0, taken[0]), (0, taken[1]), (1, place)):
            self.successResultOf(each)
            self.slots[node].release("a")

    def test_store_is_away(self) -> None:
        """X1: without the store each node gives out as many places as it has by itself."""
        for store in self.stores:
            store.go_away()
        places = [self.acquire(node) for node in (0, 0, 1, 1, 0)]
        self.assertEqual([place.called for place in places], [True] * 4 + [False])
        for node in (0, 0, 1, 1, 0):
            self.slots[node].release("a")

    def test_comes_back(self) -> None:
        """A start that failed gets its place again as any other does."""
        self.successResultOf(self.acquire(0))
        self.slots[0].release("a")
        place = self.slots[0].requeue("a")
        self.successResultOf(place)
        others = [self.acquire(1), self.acquire(2)]
        self.wait()
        self.assertEqual(sum(other.called for other in others), 1)
        self.slots[0].release("a")
        self.wait()
        for node in (1, 2):
            self.slots[node].release("a")
