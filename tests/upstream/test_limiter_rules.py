"""AccountLimiter: pauses, requeued starts, and the Retry-After of a full queue."""

import tracemalloc

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from jobproxy.upstream.limiter import LONGEST_ADVICE, LONGEST_PAUSE_OF_ALL, AccountLimiter
from jobproxy.upstream.pauses import MAX_PAUSED
from jobproxy.wire.problems import Kind
from tests.support.problems import refuses


class LimiterTestCase(SynchronousTestCase):
    """One slot for each account; when the test ends, no account may be remembered."""

    def setUp(self) -> None:
        super().setUp()
        self.clock = Clock()
        self.clock.advance(1000)
        self.limiter = AccountLimiter(self.clock, per_account=1, queue_per_account=3, total=2)
        self.order: list[str] = []

    def tearDown(self) -> None:
        super().tearDown()
        self.assertEqual((len(self.limiter), self.limiter.running, self.limiter.queued), (0, 0, 0))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def acquire(self, *names: str, account: str = "a") -> None:
        """Queue starts; each is listed in ``order`` by its name once it has a slot."""
        for name in names:
            self.note(self.limiter.acquire(account), name)

    def note(self, slot: Deferred[str | None], name: str) -> None:
        slot.addCallback(lambda _: self.order.append(name))

    def release(self, times: int = 1, account: str = "a") -> None:
        for _ in range(times):
            self.limiter.release(account)

    def check_full(self, account: str = "a") -> int:
        """Check that no more starts of an account are queued, and return the Retry-After."""
        with refuses(Kind.ACCOUNT_QUEUE_FULL) as caught:
            self.limiter.acquire(account)
        assert isinstance(caught.problem.retry_after, int)
        return caught.problem.retry_after


class FullQueueTests(LimiterTestCase):
    """The Retry-After of a full queue."""

    def fill(self, done: int, seconds: float) -> None:
        """Let so many starts end in some time, and fill the queue."""
        self.acquire("first")
        for number in range(done):
            self.acquire(f"{number}")
            self.release()
        self.acquire("x", "y", "z")
        self.clock.advance(seconds)

    def check(self, done: int, seconds: float, retry_after: int) -> None:
        self.fill(done, seconds)
        self.assertEqual(self.check_full(), retry_after)
        self.release(4)

    def test_retry_after_is_the_time_so_far_until_a_start_has_ended(self) -> None:
        """L1: a start request that has not ended yet may take as long again."""
        self.check(0, 0, 1)
        self.check(0, 50, 50)

    def test_retry_after_is_not_before_the_end_of_a_pause(self) -> None:
        """L1: the job server has asked for a pause, which may be longer than the queue takes."""
        self.fill(2, 2)
        self.limiter.pause("a", 20)
        self.assertEqual(self.check_full(), 20)
        self.clock.advance(20)
        self.release(4)

    def test_retry_after_is_the_queue_at_the_rate_so_far(self) -> None:
        """L1: Retry-After is when the queue is empty at the rate so far, in whole seconds."""
        self.check(2, 8, 12)
        self.check(2, 7, 11)
        self.check(4, 2, 2)
        self.check(2, 2, 3)
        self.check(100, 10, 1)

    def test_starts_of_the_first_second_are_not_extrapolated(self) -> None:
        """L1: starts that end in less than a second are no rate to rely on."""
        self.check(2, 0.25, 2)

    def test_retry_after_is_at_most_a_minute(self) -> None:
        """L1: Retry-After is a minute at most."""
        self.assertEqual(LONGEST_ADVICE, 60)
        self.check(1, 19, 57)
        self.check(1, 20, 60)
        self.check(1, 100, 60)

    def test_each_account_has_its_own_queue_and_rate(self) -> None:
        """L1: the full queue of one account is not that of another, nor is its rate."""
        self.fill(1, 10)
        self.acquire("b", "c", "d", "e", account="b")
        self.clock.advance(10)
        self.assertEqual(self.check_full("b"), 10)
        self.assertEqual(self.check_full("a"), 60)
        self.release(4)
        self.release(4, "b")

    def test_overfull_queue_accepts_no_new_start(self) -> None:
        """L1: requeued starts may overfill the queue; no new one is accepted then."""
        self.acquire("first", "x", "y", "z")
        self.note(self.limiter.requeue("a"), "again")
        self.check_full()
        self.release()
        self.assertEqual(self.order, ["first", "again"])
        self.check_full()
        self.release(4)


class PauseTests(LimiterTestCase):
    """Paused accounts."""

    def check_pause(self, seconds: float) -> None:
        """Check for how long the account is still paused."""
        self.assertEqual(self.limiter.paused_for("a"), seconds)
        self.acquire("later")
        self.clock.advance(seconds - 0.5)
        self.assertEqual((self.order, self.limiter.paused_for("a")), ([], 0.5))
        self.clock.advance(0.5)
        self.assertEqual((self.order, self.limiter.paused_for("a")), (["later"], 0.0))
        self.release()
        self.order.clear()

    def test_account_that_is_not_paused_gets_its_slot_at_once(self) -> None:
        """S17: an account that is not known, or not paused, gets its slot at once."""
        self.assertEqual(self.limiter.paused_for("a"), 0.0)
        self.acquire("first")
        self.assertEqual(self.limiter.paused_for("a"), 0.0)
        self.release()

    def test_paused_account_gets_its_slot_after_the_pause(self) -> None:
        """S17: a paused account gets no slot until its pause is over."""
        for seconds in (2, 7):
            self.limiter.pause("a", seconds)
            self.check_pause(seconds)

    def test_second_pause_never_shortens_the_first(self) -> None:
        """S17: a second pause lengthens the first, and never shortens it."""
        for seconds in ((2, 7), (7, 2), (3, 3)):
            for pause in seconds:
                self.limiter.pause("a", pause)
            self.check_pause(max(seconds))

    def test_second_pause_begins_when_it_is_requested(self) -> None:
        """S17: a pause begins when it is requested, also during another one."""
        for first, wait, second, left in ((7, 4, 5, 5), (7, 2, 4, 5), (7, 6, 2, 2)):
            self.limiter.pause("a", first)
            self.clock.advance(wait)
            self.limiter.pause("a", second)
            self.check_pause(left)

    def test_pause_without_a_start_is_forgotten(self) -> None:
        """S17, L2: a pause of an account without a start is forgotten when it is over."""
        self.limiter.pause("a", 2)
        self.assertEqual(len(self.limiter), 1)
        self.clock.advance(2)
        self.assertEqual(len(self.limiter), 0)

    def test_account_paused_before_its_turn_is_skipped(self) -> None:
        """S17, L1: an account that is paused while it waits for its turn is skipped."""
        self.acquire("b", account="b")
        self.acquire("c", account="c")
        self.acquire("a")
        self.acquire("d", account="d")
        self.limiter.pause("a", 5)
        self.release(account="b")
        self.assertEqual(self.order, ["b", "c", "d"])
        self.clock.advance(5)
        self.release(account="c")
        self.assertEqual(self.order, ["b", "c", "d", "a"])
        self.release(account="d")
        self.release()


class RequeueTests(LimiterTestCase):
    """Starts that failed, and are queued again."""

    def test_requeued_start_is_before_later_ones(self) -> None:
        """S17: a requeued start is before those of its account that came later."""
        self.acquire("first", "x", "y")
        self.note(self.limiter.requeue("a"), "again")
        self.release(3)
        self.assertEqual(self.order, ["first", "again", "x", "y"])
        self.release()

    def test_requeued_start_of_an_idle_account_gets_its_slot_at_once(self) -> None:
        """S17: a requeued start of an account with an empty queue gets its slot at once."""
        self.note(self.limiter.requeue("a"), "again")
        self.assertEqual(self.order, ["again"])
        self.release()

    def test_requeued_start_waits_for_its_turn(self) -> None:
        """S17, L1: a requeued start waits for the turn of its account."""
        self.acquire("b", account="b")
        self.acquire("c", account="c")
        self.acquire("d", account="d")
        self.note(self.limiter.requeue("a"), "again")
        self.release(account="b")
        self.release(account="c")
        self.assertEqual(self.order, ["b", "c", "d", "again"])
        self.release(account="d")
        self.release()

    def test_requeued_start_can_leave_the_queue(self) -> None:
        """S17, Q15: a requeued start can still leave the queue."""
        self.acquire("first", "x")
        again = self.limiter.requeue("a")
        again.cancel()
        self.failureResultOf(again)
        self.assertEqual((self.limiter.running, self.limiter.queued), (1, 1))
        self.release()
        self.assertEqual(self.order, ["first", "x"])
        self.release()


class CountTests(LimiterTestCase):
    """The counts of starts."""

    def test_running_and_queued_starts_are_counted(self) -> None:
        """L1: running and queued starts are counted over all accounts."""
        counts = []
        self.acquire("a", "x", "y")
        self.acquire("b", account="b")
        self.acquire("c", account="c")
        counts.append((self.limiter.running, self.limiter.queued, len(self.limiter)))
        given_up = self.limiter.acquire("c")
        given_up.cancel()
        self.failureResultOf(given_up)
        self.release(account="b")
        counts.append((self.limiter.running, self.limiter.queued, len(self.limiter)))
        self.release(account="c")
        counts.append((self.limiter.running, self.limiter.queued, len(self.limiter)))
        self.release(3)
        self.assertEqual(counts, [(2, 3, 3), (2, 2, 2), (1, 2, 1)])


class ManyPausesTests(LimiterTestCase):
    """A job server that asks for a pause of many accounts."""

    def test_many_pauses_take_bounded_memory_and_one_timer(self) -> None:
        """L10: paused accounts are bounded in number, have one timer, and take little memory."""
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        for number in range(12_000):
            self.limiter.note_refusal(f"account {number}", 3600)
        taken = tracemalloc.get_traced_memory()[0] - before
        tracemalloc.stop()
        self.assertEqual(len(self.limiter), MAX_PAUSED)
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        self.assertLess(taken, 1_000 * MAX_PAUSED)
        self.assertGreater(self.limiter.paused_for("account 11999"), 3599)
        self.clock.advance(3600)

    def test_refusals_in_a_row_pause_all_accounts_for_a_short_time(self) -> None:
        """L10: a job server that refuses many accounts in a row gets no start for a while."""
        for number in range(MAX_PAUSED):
            self.limiter.note_refusal(f"account {number}", 3600)
        self.acquire("one")
        self.assertEqual(self.order, [])
        self.assertEqual(self.limiter.paused_for("a"), LONGEST_PAUSE_OF_ALL)
        self.clock.advance(LONGEST_PAUSE_OF_ALL)
        self.assertEqual(self.order, ["one"])
        self.release()
        self.clock.advance(3600)

    def test_refusals_of_some_accounts_do_not_pause_others(self) -> None:
        """L10: as long as it accepts jobs between the refusals, no other account is paused."""
        for number in range(3 * MAX_PAUSED):
            self.limiter.note_refusal(f"account {number}", 3600)
            if number % 100 == 0:
                self.limiter.note_ack()
        self.acquire("one")
        self.assertEqual(self.order, ["one"])
        self.release()
        self.clock.advance(3600)
