"""Lanes: bounded, first come first served within an account, and fair between accounts."""

from collections import Counter

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from jobproxy.lanes import Lanes
from jobproxy.problems import AccountQueueFull


class LanesTests(SynchronousTestCase):
    """Single rules."""

    def test_takes_turns(self) -> None:
        """L1: another account's only start comes next, however many of the first one wait."""
        lanes = Lanes(Clock(), per_account=1, queue_per_account=100, total=1)
        order: list[str] = []
        for account in ["a"] * 5 + ["b"] + ["c"] * 2:
            lanes.enter(account).addCallback(lambda _, name: order.append(name), account)
        for _ in range(8):
            lanes.leave(order[-1])
        self.assertEqual(order, ["a", "b", "c", "a", "c", "a", "a", "a"])
        self.assertEqual(len(lanes), 0)

    def test_no_queue(self) -> None:
        """With no queue at all a start that has room still runs."""
        lanes = Lanes(Clock(), per_account=2, queue_per_account=0, total=3)
        for account in ("a", "a", "b"):
            self.successResultOf(lanes.enter(account))
        for account in ("a", "b", "c"):
            with self.assertRaises(AccountQueueFull):
                lanes.enter(account)
        for account in ("a", "a", "b"):
            lanes.leave(account)
        self.assertEqual(len(lanes), 0)

    def test_cancelling_late_does_nothing(self) -> None:
        """A place that was given stays given until it is left."""
        lanes = Lanes(Clock(), per_account=1, queue_per_account=1, total=1)
        place = lanes.enter("a")
        place.cancel()
        waiting = lanes.enter("a")
        self.assertNoResult(waiting)
        lanes.leave("a")
        self.successResultOf(waiting)
        lanes.leave("a")

    def test_starts_that_end_at_once(self) -> None:
        """Starts that end while they are given their place do not nest without end."""
        lanes = Lanes(Clock(), per_account=1, queue_per_account=5_000, total=1)
        self.successResultOf(lanes.enter("a"))
        done: list[None] = []

        def end(_: None) -> None:
            done.append(None)
            lanes.leave("a")

        for _ in range(5_000):
            lanes.enter("a").addCallback(end)
        lanes.leave("a")
        self.assertEqual(len(done), 5_000)

    def test_many_accounts(self) -> None:
        """L2: no account that has neither a start that runs nor one that waits is remembered."""
        lanes = Lanes(Clock(), per_account=1, queue_per_account=1, total=10)
        places = [(f"{n}", lanes.enter(f"{n}")) for n in range(10_000)]
        self.assertEqual(len(lanes), 10_000)
        for account, place in places:
            self.successResultOf(place)
            lanes.leave(account)
        self.assertEqual(len(lanes), 0)


class LanesMachine(RuleBasedStateMachine):
    """Starts that come, leave the queue and end in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.lanes = Lanes(Clock(), per_account=2, queue_per_account=3, total=4)
        self.waiting: list[tuple[str, Deferred[None]]] = []
        self.running: list[str] = []

    @rule(account=st.sampled_from("abcd"))
    def enter(self, account: str) -> None:
        queued = [a for a, _ in self.waiting].count(account)
        try:
            place = self.lanes.enter(account)
        except AccountQueueFull:
            assert queued == 3
            return
        self.waiting.append((account, place))
        place.addCallback(lambda _: self._run(account, place))
        place.addErrback(lambda failure: failure.trap(CancelledError) and None)

    def _run(self, account: str, place: Deferred[None]) -> None:
        first = next(entry for entry in self.waiting if entry[0] == account)
        assert first[1] is place, "first come, first served"
        self.waiting.remove(first)
        self.running.append(account)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        account = data.draw(st.sampled_from(self.running))
        self.running.remove(account)
        self.lanes.leave(account)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        entry = data.draw(st.sampled_from(self.waiting))
        self.waiting.remove(entry)
        entry[1].cancel()

    @invariant()
    def is_bounded_and_busy(self) -> None:
        running = Counter(self.running)
        assert len(self.running) <= 4
        assert all(count <= 2 for count in running.values())
        if len(self.running) < 4:
            assert all(running[account] == 2 for account, _ in self.waiting), "room is used"
        assert len(self.lanes) == len(set(self.running) | {a for a, _ in self.waiting})


LanesMachineTests = LanesMachine.TestCase
