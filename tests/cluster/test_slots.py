"""Slots that are counted over all nodes."""

import random
from typing import Any

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from jobproxy.app.settings import SlotScope
from jobproxy.cluster.outbox import Outbox
from jobproxy.cluster.slots import MAX_PAUSE, ClusterSlots
from jobproxy.store.shared import Shared
from jobproxy.upstream.limiter import AccountLimiter
from tests.support.cluster import ClusterTestCase
from tests.support.proxy import result_of
from tests.support.remote_store import RemoteStore
from tests.support.stores import RecordingListener

LEASE = 20.0


class BrokenStore:
    """A store with a bug."""

    def acquire_slot(self, account: str, slot: str, limit: int, lease: float) -> Deferred[Any]:
        return fail(ZeroDivisionError())

    def release_slot(self, account: str, slot: str) -> Deferred[None]:
        return succeed(None)


@define(eq=False)
class Start:
    """What wants a slot.

    :ivar slot: the slot, once it is granted.
    """

    slots: ClusterSlots
    account: str = "a"
    waiting: Deferred[str | None] = field(init=False)
    slot: str | None = None
    is_granted: bool = False

    def __attrs_post_init__(self) -> None:
        self.waiting = self.slots.acquire(self.account)
        self.waiting.addCallback(self._note)

    def _note(self, slot: str | None) -> None:
        self.slot, self.is_granted = slot, True

    def end(self) -> None:
        self.slots.release(self.account, self.slot)


class ClusterSlotsTestCase(SynchronousTestCase):
    """Three nodes; an account has two slots."""

    total = 100

    def setUp(self) -> None:
        super().setUp()
        self.clock = Clock()
        self.shared = Shared(self.clock, 60.0)
        self.stores = [RemoteStore(self.shared, f"node-{number}") for number in range(3)]
        self.outboxes = [Outbox(self.clock, 60.0) for _ in self.stores]
        for store in self.stores:
            store.open(RecordingListener())
        self.limiters = [AccountLimiter(self.clock, 2, 100, self.total) for _ in self.stores]
        self.slots = [self.make(number, store) for number, store in enumerate(self.stores)]

    def tearDown(self) -> None:
        super().tearDown()
        # What the outboxes keep expires, too.
        self.clock.pump([60, 1, 1])
        self.assertEqual([len(limiter) for limiter in self.limiters], [0, 0, 0])
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.taken(), 0)

    def make(self, number: int, store: Any) -> ClusterSlots:
        """Return the slots of a node with this store."""
        limiter, outbox = self.limiters[number], self.outboxes[number]
        return ClusterSlots(limiter, store, outbox, f"node-{number}", 2, LEASE, random.Random(1))

    def acquire(self, node: int, account: str = "a") -> Start:
        return Start(self.slots[node], account)

    def wait(self) -> None:
        """Let all waiting starts ask the store again."""
        self.clock.advance(MAX_PAUSE)

    def taken(self) -> int:
        """Return how many slots are taken in the store."""
        return sum(len(slots) for slots in self.shared.slots.values())


class GrantTests(ClusterSlotsTestCase):
    def test_slots_of_an_account_are_counted_over_all_nodes(self) -> None:
        """An account has so many slots over all nodes; each that is released is used again."""
        waiting = [self.acquire(number % 3) for number in range(9)]
        for rest in range(9, 0, -1):
            got = [start for start in waiting if start.is_granted]
            self.assertEqual(len(got), min(2, rest))
            waiting.remove(got[0])
            got[0].end()
            self.wait()

    def test_accounts_have_slots_of_their_own(self) -> None:
        """The slots of one account do not count for another."""
        starts = [self.acquire(0, account) for account in "aabb"]
        self.assertTrue(all(start.is_granted for start in starts))
        for start in starts:
            start.end()

    def test_each_node_has_all_slots_while_the_store_is_away(self) -> None:
        """X1: without the store each node grants as many slots as it does alone."""
        for store in self.stores:
            store.go_away()
        starts = [self.acquire(node) for node in (0, 0, 1, 1, 0)]
        self.assertEqual([start.is_granted for start in starts], [True] * 4 + [False])
        for start in starts:
            start.end()

    def test_requeued_start_gets_a_slot_of_the_cluster(self) -> None:
        """A start that is queued again gets its slot as any other does."""
        self.acquire(0).end()
        again = self.successResultOf(self.slots[0].requeue("a"))
        others = [self.acquire(1), self.acquire(2)]
        self.wait()
        self.assertEqual(sum(other.is_granted for other in others), 1)
        self.slots[0].release("a", again)
        self.wait()
        for other in others:
            other.end()

    def test_refusal_of_the_job_server_pauses_the_account_on_all_nodes(self) -> None:
        """X10: when the job server asks for a pause, no node starts jobs of the account."""
        self.slots[0].note_refusal("a", 5)
        starts = [self.acquire(node) for node in range(3)]
        other = self.acquire(1, "b")
        self.assertTrue(other.is_granted)
        self.clock.pump([1, 1, 1, 1, 0.9])
        self.assertFalse(any(start.is_granted for start in starts))
        self.clock.pump([0.1, MAX_PAUSE])
        self.assertEqual(sum(start.is_granted for start in starts), 2)
        for start in sorted(starts, key=lambda start: not start.is_granted):
            start.end() if start.is_granted else start.waiting.cancel()
            if start.waiting.called and not start.is_granted:
                self.failureResultOf(start.waiting, CancelledError)
        other.end()


class FairnessTests(ClusterSlotsTestCase):
    """A node with only two slots for all accounts."""

    total = 2

    def test_account_that_waits_for_the_cluster_holds_no_slot_of_the_node(self) -> None:
        """X8: accounts that wait for slots of the cluster do not hold up others on their node."""
        elsewhere = [self.acquire(1), self.acquire(1)]
        waiting = [self.acquire(0), self.acquire(0), self.acquire(0)]
        for _ in range(20):
            other = self.acquire(0, "b")
            self.assertTrue(other.is_granted)
            other.end()
            self.wait()
        self.assertFalse(any(start.is_granted for start in waiting))
        for start in elsewhere:
            start.end()
        for start in waiting:
            self.wait()
            self.wait()
            start.end()


class GivenBackTests(ClusterSlotsTestCase):
    """Questions for a slot that do not end with their answer."""

    def test_cancelled_wait_leaves_nothing(self) -> None:
        """A wait for a slot that is cancelled leaves nothing behind, at any node."""
        granted = [self.acquire(0) for _ in range(2)]
        waiting = [self.acquire(1), self.acquire(0)]
        for start in waiting:
            start.waiting.cancel()
            self.failureResultOf(start.waiting, CancelledError)
        for start in granted:
            start.end()
        self.wait()

    def test_failed_wait_leaves_nothing(self) -> None:
        """A wait for a slot that fails for any reason gives the slot of its node back."""
        start = Start(self.make(0, BrokenStore()))
        self.failureResultOf(start.waiting, ZeroDivisionError)

    def test_slot_is_given_back_when_its_client_leaves_during_the_question(self) -> None:
        """X9: clients that leave while the store is asked for a slot leave none taken."""
        self.stores[0].latency = 0.1
        for steps in range(3):
            starts = [self.acquire(0) for _ in range(2)]
            self.clock.pump([0.1] * steps)
            for start in starts:
                if start.is_granted:
                    start.end()
                else:
                    start.waiting.cancel()
                    self.failureResultOf(start.waiting, CancelledError)
            self.clock.pump([0.1] * 6)
            self.assertEqual(self.taken(), 0)

    def test_slot_is_given_back_when_the_answer_is_lost(self) -> None:
        """X9: slots whose answer is lost with the connection are given back once it is there."""
        for loses_requests in (False, True):
            store = self.stores[0]
            store.latency, store.loses_requests = 0.1, loses_requests
            starts = [self.acquire(0) for _ in range(2)]
            self.clock.advance(0.05)
            store.go_away()
            self.clock.advance(0.1)
            self.assertTrue(all(start.is_granted for start in starts))
            store.latency = 0
            store.come_back()
            Deferred.fromCoroutine(self.outboxes[0].send_again())
            self.clock.advance(1)
            self.assertEqual(self.taken(), 0)
            for start in starts:
                start.end()

    def test_slot_that_cannot_be_released_is_released_later(self) -> None:
        """X9: a slot that is released while the store is away is free once the store is back."""
        start = self.acquire(0)
        self.stores[0].go_away()
        start.end()
        self.stores[0].come_back()
        Deferred.fromCoroutine(self.outboxes[0].send_again())
        self.assertEqual(self.taken(), 0)

    def test_slots_of_a_dead_node_are_free_when_its_lease_ends(self) -> None:
        """X9: only the slots of living nodes count."""
        dead = [self.acquire(0), self.acquire(0)]
        start = self.acquire(1)
        self.wait()
        self.assertFalse(start.is_granted)
        # In memory the lease of a node ends with its connection.
        self.stores[0].go_away()
        self.wait()
        self.assertTrue(start.is_granted)
        start.end()
        for each in dead:
            each.end()

    def test_node_that_stops_leaves_no_slot_taken(self) -> None:
        """X9: a node that stops gives its slots back, also those of jobs that it cuts off."""
        self.slots[0].startService()
        starts = [self.acquire(0), self.acquire(0, "b")]
        self.assertEqual(self.taken(), 2)
        self.successResultOf(self.slots[0].stopService())
        self.assertEqual(self.taken(), 0)
        for start in starts:
            start.end()

    def test_question_that_the_stop_interrupts_leaves_no_slot_taken(self) -> None:
        """X9: a node may stop at any step of its questions, whatever their answers are."""
        for steps in range(3):
            for loses_connection in (False, True):
                store = self.stores[0]
                store.latency = 0.1
                slots = self.make(0, store)
                slots.startService()
                starts = [Start(slots) for _ in range(2)]
                self.clock.pump([0.1] * steps)
                stopped = slots.stopService()
                starts[0].waiting.cancel()
                if loses_connection:
                    store.go_away()
                self.clock.pump([0.1] * 6)
                store.latency = 0
                store.come_back()
                Deferred.fromCoroutine(self.outboxes[0].send_again())
                self.clock.advance(1)
                self.successResultOf(stopped)
                for start in starts:
                    if start.is_granted:
                        start.end()
                    else:
                        self.failureResultOf(start.waiting, CancelledError)
                self.assertEqual(self.taken(), 0)

    def test_question_that_is_refused_after_the_stop_leaves_nothing(self) -> None:
        """X9: a refusal that comes after the stop is one as any other."""
        granted = [self.acquire(1), self.acquire(1)]
        self.slots[0].startService()
        self.stores[0].latency = 0.1
        start = self.acquire(0)
        stopped = self.slots[0].stopService()
        self.clock.pump([0.1] * 6)
        self.successResultOf(stopped)
        start.waiting.cancel()
        self.failureResultOf(start.waiting, CancelledError)
        self.clock.pump([0.1] * 6)
        for each in granted:
            each.end()


class WholeNodeTests(ClusterTestCase):
    """Whole nodes with slots of the cluster."""

    settings = {"starts_per_account": 2, "slot_scope": SlotScope.CLUSTER}

    def test_stopped_node_leaves_its_slots_to_others(self) -> None:
        """X9: after a node has stopped in the middle of starts, another has all slots."""
        for _ in range(2):
            self.nodes[0].submit()
        client = self.nodes[1].submit()
        self.assertEqual(len(self.starts), 2)
        self.nodes[0].stop()
        self.clock.advance(MAX_PAUSE)
        self.assertEqual(len(self.starts), 3)
        self.starts[2].respond(result_of("1"))
        self.assert_result(client, result_of("1"))
