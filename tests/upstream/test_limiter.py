"""AccountLimiter: bounded, first come first served within an account, fair between accounts."""

from collections import Counter

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from jobproxy.upstream.limiter import AccountLimiter
from jobproxy.wire.problems import Kind, ProblemError
from tests.support.problems import refuses

ACCOUNTS = st.sampled_from("abcd")


class AccountLimiterTests(SynchronousTestCase):
    """Single rules."""

    def test_accounts_take_turns(self) -> None:
        """L1: another account's only start is next, however many of the first account wait."""
        limiter = AccountLimiter(Clock(), per_account=1, queue_per_account=100, total=1)
        order: list[str] = []
        for account in ["a"] * 5 + ["b"] + ["c"] * 2:
            limiter.acquire(account).addCallback(lambda _, name: order.append(name), account)
        for _ in range(8):
            limiter.release(order[-1])
        self.assertEqual(order, ["a", "b", "c", "a", "c", "a", "a", "a"])
        self.assertEqual(len(limiter), 0)

    def test_start_with_a_free_slot_needs_no_queue(self) -> None:
        """Without a queue a start request that has a free slot still runs."""
        limiter = AccountLimiter(Clock(), per_account=2, queue_per_account=0, total=3)
        for account in ("a", "a", "b"):
            self.successResultOf(limiter.acquire(account))
        for account in ("a", "b", "c"):
            with refuses(Kind.ACCOUNT_QUEUE_FULL):
                limiter.acquire(account)
        for account in ("a", "a", "b"):
            limiter.release(account)
        self.assertEqual(len(limiter), 0)

    def test_cancel_after_the_grant_keeps_the_slot(self) -> None:
        """A granted slot is held until it is released, also when its Deferred is cancelled."""
        limiter = AccountLimiter(Clock(), per_account=1, queue_per_account=1, total=1)
        slot = limiter.acquire("a")
        slot.cancel()
        waiting = limiter.acquire("a")
        self.assertNoResult(waiting)
        limiter.release("a")
        self.successResultOf(waiting)
        limiter.release("a")

    def test_slots_released_at_once_do_not_recurse(self) -> None:
        """Slots that are released while they are granted do not recurse without end."""
        limiter = AccountLimiter(Clock(), per_account=1, queue_per_account=5_000, total=1)
        self.successResultOf(limiter.acquire("a"))
        done: list[None] = []

        def end(_: object) -> None:
            done.append(None)
            limiter.release("a")

        for _ in range(5_000):
            limiter.acquire("a").addCallback(end)
        limiter.release("a")
        self.assertEqual(len(done), 5_000)

    def test_idle_accounts_are_forgotten(self) -> None:
        """L2: an account without a start request that runs or waits is forgotten."""
        limiter = AccountLimiter(Clock(), per_account=1, queue_per_account=1, total=10)
        slots = [(f"{n}", limiter.acquire(f"{n}")) for n in range(10_000)]
        self.assertEqual(len(limiter), 10_000)
        for account, slot in slots:
            self.successResultOf(slot)
            limiter.release(account)
        self.assertEqual(len(limiter), 0)


class PauseTests(SynchronousTestCase):
    """Paused accounts, and start requests that are queued again."""

    def setUp(self) -> None:
        super().setUp()
        self.clock = Clock()
        self.limiter = AccountLimiter(self.clock, per_account=1, queue_per_account=2, total=2)
        self.order: list[str] = []

    def tearDown(self) -> None:
        super().tearDown()
        self.assertEqual(len(self.limiter), 0)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def note(self, slot: Deferred[str | None], name: str) -> Deferred[str | None]:
        return slot.addCallback(lambda _: self.order.append(name))

    def test_paused_account_gets_no_slot(self) -> None:
        """S17: a paused account gets no slot until its pause is over; another account does."""
        self.limiter.pause("a", 5)
        waiting, other = self.limiter.acquire("a"), self.limiter.acquire("b")
        self.successResultOf(other)
        self.limiter.release("b")
        self.clock.advance(4.75)
        self.assertNoResult(waiting)
        self.clock.advance(0.25)
        self.successResultOf(waiting)
        self.limiter.release("a")

    def test_longer_of_two_pauses_counts(self) -> None:
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

    def test_account_without_a_pause_is_not_paused(self) -> None:
        """S17: an account without a pause has none, whether it is known or not."""
        self.successResultOf(self.limiter.acquire("a"))
        for account in "ab":
            self.assertEqual(self.limiter.paused_for(account), 0)
        self.limiter.release("a")

    def test_paused_account_loses_its_turn(self) -> None:
        """S17: an account that is paused while it waits for its turn has none until it resumes."""
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

    def test_running_start_goes_on_in_a_pause(self) -> None:
        """S17: a start that runs goes on in a pause, and the next one waits for its end."""
        self.successResultOf(self.limiter.acquire("a"))
        waiting = self.limiter.acquire("a")
        self.limiter.pause("a", 5)
        self.limiter.release("a")
        self.assertNoResult(waiting)
        self.clock.advance(5)
        self.successResultOf(waiting)
        self.limiter.release("a")

    def test_start_that_leaves_the_queue_in_a_pause_gets_no_slot(self) -> None:
        """Q15: a start that leaves the queue during a pause gets no slot at its end."""
        self.limiter.pause("a", 5)
        waiting = self.limiter.acquire("a")
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)
        self.assertEqual(len(self.limiter), 1)
        self.clock.advance(5)

    def test_queue_is_as_long_as_ever_in_a_pause(self) -> None:
        """S17: in a pause an account may queue as many starts as ever, and no more."""
        self.limiter.pause("a", 5)
        slots = [self.limiter.acquire("a") for _ in range(2)]
        with refuses(Kind.ACCOUNT_QUEUE_FULL):
            self.limiter.acquire("a")
        self.clock.advance(5)
        for slot in slots:
            self.successResultOf(slot)
            self.limiter.release("a")

    def test_requeued_start_is_first(self) -> None:
        """S17: a requeued start is the account's first one, and fits into a full queue."""
        self.successResultOf(self.limiter.acquire("a"))
        for name in ("second", "third"):
            self.note(self.limiter.acquire("a"), name)
        self.note(self.limiter.requeue("a"), "first")
        for _ in range(4):
            self.limiter.release("a")
        self.assertEqual(self.order, ["first", "second", "third"])

    def test_requeued_start_without_others_runs_at_once(self) -> None:
        """S17: a requeued start of an account with no other one runs at once."""
        self.successResultOf(self.limiter.requeue("a"))
        self.assertEqual(len(self.limiter), 1)
        self.limiter.release("a")


class RateTests(SynchronousTestCase):
    """L1: the Retry-After of an account whose queue is full."""

    def setUp(self) -> None:
        super().setUp()
        self.clock = Clock()
        self.limiter = AccountLimiter(self.clock, per_account=1, queue_per_account=6, total=1)
        for _ in range(7):
            self.limiter.acquire("a")

    def refuse(self) -> int | None:
        with refuses(Kind.ACCOUNT_QUEUE_FULL) as caught:
            self.limiter.acquire("a")
        self.assertEqual(caught.problem.started, "no")
        return caught.problem.retry_after

    def end(self, count: int) -> None:
        """Release slots, and queue as many more starts."""
        for _ in range(count):
            self.limiter.release("a")
            self.limiter.acquire("a")

    def test_retry_after_is_the_time_so_far_without_a_rate(self) -> None:
        """L1: as long as no start has ended, the next one may take as long again."""
        self.clock.advance(5)
        self.assertEqual(self.refuse(), 5)

    def test_retry_after_follows_the_rate(self) -> None:
        """L1: the queue of 6 is empty in 3 seconds at the rate of 2 starts a second so far."""
        self.clock.advance(4)
        self.end(8)
        self.assertEqual(self.refuse(), 3)

    def test_retry_after_is_rounded_up(self) -> None:
        """L1: Retry-After is rounded up to a whole second."""
        self.clock.advance(4)
        self.end(7)
        self.assertEqual(self.refuse(), 4)

    def test_rate_of_the_first_second_is_not_extrapolated(self) -> None:
        """L1: starts that end within the first second count as the rate of a whole second."""
        self.clock.advance(0.25)
        self.end(2)
        self.assertEqual(self.refuse(), 3)

    def test_retry_after_is_a_minute_at_most(self) -> None:
        """L1: however low the rate is, Retry-After is at most a minute."""
        self.clock.advance(20)
        self.end(2)
        self.assertEqual(self.refuse(), 60)
        self.clock.advance(600)
        self.assertEqual(self.refuse(), 60)

    def test_rate_counts_from_when_the_account_was_last_idle(self) -> None:
        """L1: the rate is that of the time since the account was last idle."""
        for _ in range(7):
            self.limiter.release("a")
        self.clock.advance(1_000)
        for _ in range(7):
            self.limiter.acquire("a")
        self.clock.advance(1)
        self.end(6)
        self.assertEqual(self.refuse(), 1)


class AccountLimiterMachine(RuleBasedStateMachine):
    """Starts that come, leave the queue, end and are requeued, and pauses, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.limiter = AccountLimiter(self.clock, per_account=2, queue_per_account=3, total=4)
        #: In the order in which each account's have to be served.
        self.waiting: list[tuple[str, Deferred[str | None]]] = []
        self.running: list[str] = []
        #: When each pause ends.
        self.paused: dict[str, float] = {}

    @rule(account=ACCOUNTS)
    def acquire(self, account: str) -> None:
        queued = [a for a, _ in self.waiting].count(account)
        try:
            slot = self.limiter.acquire(account)
        except ProblemError:
            assert queued >= 3
            return
        assert queued < 3
        self.await_slot(account, slot, len(self.waiting))

    @rule(account=ACCOUNTS)
    def requeue(self, account: str) -> None:
        self.await_slot(account, self.limiter.requeue(account), 0)

    def await_slot(self, account: str, slot: Deferred[str | None], at: int) -> None:
        self.waiting.insert(at, (account, slot))
        slot.addCallback(lambda _: self._run(account, slot))
        slot.addErrback(lambda failure: failure.trap(CancelledError) and None)

    def _run(self, account: str, slot: Deferred[str | None]) -> None:
        assert account not in self.paused
        first = next(record for record in self.waiting if record[0] == account)
        assert first[1] is slot, "first come, first served"
        self.waiting.remove(first)
        self.running.append(account)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        account = data.draw(st.sampled_from(self.running))
        self.running.remove(account)
        self.limiter.release(account)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
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
    def uses_all_slots_and_no_more(self) -> None:
        running = Counter(self.running)
        assert len(self.running) <= 4
        assert all(count <= 2 for count in running.values())
        if len(self.running) < 4:
            stuck = {account for account, _ in self.waiting if running[account] < 2}
            assert stuck <= self.paused.keys(), "room is used"

    @invariant()
    def knows_the_accounts_that_are_not_idle(self) -> None:
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


AccountLimiterMachineTests = AccountLimiterMachine.TestCase
