"""Lanes: bounded, first come first served within an account, and fair between accounts."""

from collections import Counter

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from jobproxy.upstream.limiter import AccountLimiter
from jobproxy.wire.problems import AccountQueueFull

ACCOUNTS = st.sampled_from("abcd")


class LanesTests(SynchronousTestCase):
    """Single rules."""

    def test_takes_turns(self) -> None:
        """L1: another account's only start comes next, however many of the first one wait."""
        limiter = AccountLimiter(Clock(), per_account=1, queue_per_account=100, total=1)
        order: list[str] = []
        for account in ["a"] * 5 + ["b"] + ["c"] * 2:
            limiter.acquire(account).addCallback(lambda _, name: order.append(name), account)
        for _ in range(8):
            limiter.release(order[-1])
        self.assertEqual(order, ["a", "b", "c", "a", "c", "a", "a", "a"])
        self.assertEqual(len(limiter), 0)

    def test_no_queue(self) -> None:
        """With no queue at all a start that has room still runs."""
        limiter = AccountLimiter(Clock(), per_account=2, queue_per_account=0, total=3)
        for account in ("a", "a", "b"):
            self.successResultOf(limiter.acquire(account))
        for account in ("a", "b", "c"):
            with self.assertRaises(AccountQueueFull):
                limiter.acquire(account)
        for account in ("a", "a", "b"):
            limiter.release(account)
        self.assertEqual(len(limiter), 0)

    def test_cancelling_late_does_nothing(self) -> None:
        """A place that was given stays given until it is left."""
        limiter = AccountLimiter(Clock(), per_account=1, queue_per_account=1, total=1)
        place = limiter.acquire("a")
        place.cancel()
        waiting = limiter.acquire("a")
        self.assertNoResult(waiting)
        limiter.release("a")
        self.successResultOf(waiting)
        limiter.release("a")

    def test_starts_that_end_at_once(self) -> None:
        """Starts that end while they are given their place do not nest without end."""
        limiter = AccountLimiter(Clock(), per_account=1, queue_per_account=5_000, total=1)
        self.successResultOf(limiter.acquire("a"))
        done: list[None] = []

        def end(_: None) -> None:
            done.append(None)
            limiter.release("a")

        for _ in range(5_000):
            limiter.acquire("a").addCallback(end)
        limiter.release("a")
        self.assertEqual(len(done), 5_000)

    def test_many_accounts(self) -> None:
        """L2: no account that has neither a start that runs nor one that waits is remembered."""
        limiter = AccountLimiter(Clock(), per_account=1, queue_per_account=1, total=10)
        places = [(f"{n}", limiter.acquire(f"{n}")) for n in range(10_000)]
        self.assertEqual(len(limiter), 10_000)
        for account, place in places:
            self.successResultOf(place)
            limiter.release(account)
        self.assertEqual(len(limiter), 0)


class PauseTests(SynchronousTestCase):
    """Accounts that get no places for some time, and starts that come back."""

    def setUp(self) -> None:
        super().setUp()
        self.clock = Clock()
        self.limiter = AccountLimiter(self.clock, per_account=1, queue_per_account=2, total=2)
        self.order: list[str] = []

    def tearDown(self) -> None:
        super().tearDown()
        self.assertEqual(len(self.limiter), 0)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def note(self, place: Deferred[None], name: str) -> Deferred[None]:
        return place.addCallback(lambda _: self.order.append(name))

    def test_pauses(self) -> None:
        """S17: a paused account gets no place until its time is over; another one does."""
        self.limiter.pause("a", 5)
        waiting, other = self.limiter.acquire("a"), self.limiter.acquire("b")
        self.successResultOf(other)
        self.limiter.release("b")
        self.clock.advance(4.75)
        self.assertNoResult(waiting)
        self.clock.advance(0.25)
        self.successResultOf(waiting)
        self.limiter.release("a")

    def test_longer_pause_stays(self) -> None:
        """S17: of two pauses of an account the one that ends later counts."""
        for seconds, longest in ((5, 5), (8, 8), (3, 8)):
            self.limiter.pause("a", seconds)
            self.assertEqual(self.limiter.paused_for("a"), longest)
        self.clock.advance(6)
        self.assertEqual(self.limiter.paused_for("a"), 2)
        self.limiter.pause("a", 3)
        self.clock.advance(2)
        self.assertEqual(self.limiter.paused_for("a"), 1)
        self.assertEqual(len(self.limiter), 1)
        self.clock.advance(1)
        self.assertEqual(self.limiter.paused_for("a"), 0)

    def test_not_paused(self) -> None:
        """S17: only what is paused has a pause, whether it is known or not."""
        self.successResultOf(self.limiter.acquire("a"))
        for account in "ab":
            self.assertEqual(self.limiter.paused_for(account), 0)
        self.limiter.release("a")

    def test_pause_takes_the_turn_away(self) -> None:
        """S17: an account that is paused while it waits for a turn has none until it goes on."""
        for account in "ab":
            self.successResultOf(self.limiter.acquire(account))
        for account in "cde":
            self.note(self.limiter.acquire(account), account)
        self.limiter.pause("c", 5)
        self.limiter.release("a")
        self.assertEqual(self.order, ["d"])
        self.clock.advance(5)
        self.limiter.release("b")
        self.limiter.release("d")
        self.assertEqual(self.order, ["d", "e", "c"])
        self.limiter.release("c")
        self.limiter.release("e")

    def test_pause_while_one_runs(self) -> None:
        """S17: a start that runs goes on in a pause, and no next one follows before its end."""
        self.successResultOf(self.limiter.acquire("a"))
        waiting = self.limiter.acquire("a")
        self.limiter.pause("a", 5)
        self.limiter.release("a")
        self.assertNoResult(waiting)
        self.clock.advance(5)
        self.successResultOf(waiting)
        self.limiter.release("a")

    def test_gives_up_in_a_pause(self) -> None:
        """Q15: who gives up while the account is paused gets no place when the pause ends."""
        self.limiter.pause("a", 5)
        waiting = self.limiter.acquire("a")
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)
        self.assertEqual(len(self.limiter), 1)
        self.clock.advance(5)

    def test_no_place_for_a_moment(self) -> None:
        """S17: in a pause an account may queue as many starts as ever, and no more."""
        self.limiter.pause("a", 5)
        places = [self.limiter.acquire("a") for _ in range(2)]
        with self.assertRaises(AccountQueueFull):
            self.limiter.acquire("a")
        self.clock.advance(5)
        for place in places:
            self.successResultOf(place)
            self.limiter.release("a")

    def test_comes_back_first(self) -> None:
        """S17: a start that comes back is the account's first one, and fits into a full queue."""
        self.successResultOf(self.limiter.acquire("a"))
        for name in ("second", "third"):
            self.note(self.limiter.acquire("a"), name)
        self.note(self.limiter.requeue("a"), "first")
        for _ in range(4):
            self.limiter.release("a")
        self.assertEqual(self.order, ["first", "second", "third"])

    def test_comes_back_alone(self) -> None:
        """S17: a start that comes back to an account with nothing else to do runs at once."""
        self.successResultOf(self.limiter.requeue("a"))
        self.assertEqual(len(self.limiter), 1)
        self.limiter.release("a")


class RateTests(SynchronousTestCase):
    """L1: when an account whose queue is full is told to come again."""

    def setUp(self) -> None:
        super().setUp()
        self.clock = Clock()
        self.limiter = AccountLimiter(self.clock, per_account=1, queue_per_account=6, total=1)
        for _ in range(7):
            self.limiter.acquire("a")

    def refuse(self) -> int | None:
        with self.assertRaises(AccountQueueFull) as caught:
            self.limiter.acquire("a")
        self.assertEqual(caught.exception.started, "no")
        return caught.exception.retry_after

    def end(self, count: int) -> None:
        """Have starts end, and as many more come."""
        for _ in range(count):
            self.limiter.release("a")
            self.limiter.acquire("a")

    def test_unknown(self) -> None:
        """L1: as long as no start has ended, nothing better is known than to try again soon."""
        self.clock.advance(5)
        self.assertEqual(self.refuse(), 1)

    def test_observed(self) -> None:
        """L1: the queue of 6 is gone in 3 seconds at the 2 starts a second that were seen."""
        self.clock.advance(4)
        self.end(8)
        self.assertEqual(self.refuse(), 3)

    def test_rounded_up(self) -> None:
        """L1: a part of a second is a whole one."""
        self.clock.advance(4)
        self.end(7)
        self.assertEqual(self.refuse(), 4)

    def test_first_second(self) -> None:
        """L1: what ends within the first second is not taken for more than it is."""
        self.clock.advance(0.25)
        self.end(2)
        self.assertEqual(self.refuse(), 3)

    def test_no_more_than_a_minute(self) -> None:
        """L1: however slow it is, nobody is told to stay away for more than a minute."""
        self.clock.advance(20)
        self.end(2)
        self.assertEqual(self.refuse(), 60)
        self.clock.advance(600)
        self.assertEqual(self.refuse(), 60)

    def test_begins_anew(self) -> None:
        """L1: the rate is that of the time since the account has had something to do."""
        for _ in range(7):
            self.limiter.release("a")
        self.clock.advance(1_000)
        for _ in range(7):
            self.limiter.acquire("a")
        self.clock.advance(1)
        self.end(6)
        self.assertEqual(self.refuse(), 1)


class LanesMachine(RuleBasedStateMachine):
    """Starts that come, give up, end and come back, and accounts that pause, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.limiter = AccountLimiter(self.clock, per_account=2, queue_per_account=3, total=4)
        #: In the order in which each account's have to be served.
        self.waiting: list[tuple[str, Deferred[None]]] = []
        self.running: list[str] = []
        #: When each pause ends.
        self.paused: dict[str, float] = {}

    @rule(account=ACCOUNTS)
    def enter(self, account: str) -> None:
        queued = [a for a, _ in self.waiting].count(account)
        try:
            place = self.limiter.acquire(account)
        except AccountQueueFull:
            assert queued >= 3
            return
        assert queued < 3
        self.await_place(account, place, len(self.waiting))

    @rule(account=ACCOUNTS)
    def come_back(self, account: str) -> None:
        self.await_place(account, self.limiter.requeue(account), 0)

    def await_place(self, account: str, place: Deferred[None], at: int) -> None:
        self.waiting.insert(at, (account, place))
        place.addCallback(lambda _: self._run(account, place))
        place.addErrback(lambda failure: failure.trap(CancelledError) and None)

    def _run(self, account: str, place: Deferred[None]) -> None:
        assert account not in self.paused
        first = next(record for record in self.waiting if record[0] == account)
        assert first[1] is place, "first come, first served"
        self.waiting.remove(first)
        self.running.append(account)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        account = data.draw(st.sampled_from(self.running))
        self.running.remove(account)
        self.limiter.release(account)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        record = data.draw(st.sampled_from(self.waiting))
        self.waiting.remove(record)
        record[1].cancel()

    @rule(account=ACCOUNTS, seconds=st.integers(1, 5))
    def pause(self, account: str, seconds: int) -> None:
        self.limiter.pause(account, seconds)
        end = self.clock.seconds() + seconds
        self.paused[account] = max(end, self.paused.get(account, 0))

    @rule(seconds=st.integers(1, 3))
    def pass_time(self, seconds: int) -> None:
        for _ in range(seconds):
            now = self.clock.seconds() + 1
            self.paused = {account: end for account, end in self.paused.items() if end > now}
            self.clock.advance(1)

    @invariant()
    def is_bounded_and_busy(self) -> None:
        running = Counter(self.running)
        assert len(self.running) <= 4
        assert all(count <= 2 for count in running.values())
        if len(self.running) < 4:
            stuck = {account for account, _ in self.waiting if running[account] < 2}
            assert stuck <= self.paused.keys(), "room is used"

    @invariant()
    def knows_who_has_something_to_do(self) -> None:
        waiting = {account for account, _ in self.waiting}
        assert len(self.limiter) == len(waiting | set(self.running) | self.paused.keys())
        for account in "abcd":
            end = self.paused.get(account, self.clock.seconds())
            assert self.limiter.paused_for(account) == end - self.clock.seconds()

    def teardown(self) -> None:
        self.pass_time(5)
        while self.running:
            self.limiter.release(self.running.pop())
        assert self.waiting == []
        assert len(self.limiter) == 0
        assert self.clock.getDelayedCalls() == []


LanesMachineTests = LanesMachine.TestCase
