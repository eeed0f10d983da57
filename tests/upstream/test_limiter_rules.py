"""Lanes: pauses, starts that come back, and what an account is told whose queue is full."""

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from jobproxy.upstream.limiter import MAX_RETRY_AFTER, AccountLimiter
from jobproxy.wire.problems import AccountQueueFull


class LaneTestCase(SynchronousTestCase):
    """One place for each account; when the test ends, no account is remembered."""

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

    def enter(self, *names: str, account: str = "a") -> None:
        """Have starts ask for a place; each is listed by its name once it has one."""
        for name in names:
            self.note(self.limiter.acquire(account), name)

    def note(self, place: Deferred[None], name: str) -> None:
        place.addCallback(lambda _: self.order.append(name))

    def leave(self, times: int = 1, account: str = "a") -> None:
        for _ in range(times):
            self.limiter.release(account)

    def check_full(self, account: str = "a") -> int:
        """Check that no more starts of an account are taken, and return when to come again."""
        problem = self.assertRaises(AccountQueueFull, self.limiter.acquire, account)
        assert isinstance(problem.retry_after, int)
        return problem.retry_after


class FullQueueTests(LaneTestCase):
    """How long an account is asked to wait."""

    def fill(self, done: int, seconds: float) -> None:
        """Have so many starts be done in some time, and as many wait as may."""
        self.enter("first")
        for number in range(done):
            self.enter(f"{number}")
            self.leave()
        self.enter("x", "y", "z")
        self.clock.advance(seconds)

    def check(self, done: int, seconds: float, told: int) -> None:
        self.fill(done, seconds)
        self.assertEqual(self.check_full(), told)
        self.leave(4)

    def test_no_rate_yet(self) -> None:
        """L1: as long as no start of an account is done, it may come again after a second."""
        self.check(0, 50, 1)

    def test_rate(self) -> None:
        """L1: the queue will be gone as fast as it was till now, in whole seconds at least."""
        self.check(2, 8, 12)
        self.check(2, 7, 11)
        self.check(4, 2, 2)
        self.check(2, 2, 3)
        self.check(100, 10, 1)

    def test_first_second(self) -> None:
        """L1: what is done in less than a second is no rate to rely on."""
        self.check(2, 0.25, 2)

    def test_is_bounded(self) -> None:
        """L1: nobody is told to come again in more than a minute."""
        self.assertEqual(MAX_RETRY_AFTER, 60)
        self.check(1, 19, 57)
        self.check(1, 20, 60)
        self.check(1, 100, 60)

    def test_others_have_their_own(self) -> None:
        """L1: the full queue of one account is none of another, nor is its rate."""
        self.fill(1, 10)
        self.enter("b", "c", "d", "e", account="b")
        self.clock.advance(10)
        self.assertEqual(self.check_full("b"), 1)
        self.assertEqual(self.check_full("a"), 60)
        self.leave(4)
        self.leave(4, "b")

    def test_more_than_full(self) -> None:
        """L1: starts that came back may be too many for the queue; no new one is taken then."""
        self.enter("first", "x", "y", "z")
        self.note(self.limiter.requeue("a"), "again")
        self.check_full()
        self.leave()
        self.assertEqual(self.order, ["first", "again"])
        self.check_full()
        self.leave(4)


class PauseTests(LaneTestCase):
    """Accounts that get no places for some time."""

    def check_pause(self, seconds: float) -> None:
        """Check for how long the account is still paused."""
        self.assertEqual(self.limiter.paused_for("a"), seconds)
        self.enter("later")
        self.clock.advance(seconds - 0.5)
        self.assertEqual((self.order, self.limiter.paused_for("a")), ([], 0.5))
        self.clock.advance(0.5)
        self.assertEqual((self.order, self.limiter.paused_for("a")), (["later"], 0.0))
        self.leave()
        self.order.clear()

    def test_no_pause(self) -> None:
        """S17: an account that is not known, or not paused, gets its place at once."""
        self.assertEqual(self.limiter.paused_for("a"), 0.0)
        self.enter("first")
        self.assertEqual(self.limiter.paused_for("a"), 0.0)
        self.leave()

    def test_pause(self) -> None:
        """S17: a paused account gets no place until its pause is over."""
        for seconds in (2, 7):
            self.limiter.pause("a", seconds)
            self.check_pause(seconds)

    def test_longer_pause_counts(self) -> None:
        """S17: a second pause lengthens the first, and never shortens it."""
        for seconds in ((2, 7), (7, 2), (3, 3)):
            for pause in seconds:
                self.limiter.pause("a", pause)
            self.check_pause(max(seconds))

    def test_second_pause_is_from_now(self) -> None:
        """S17: a pause begins when it is asked for, also while there is one."""
        for first, wait, second, left in ((7, 4, 5, 5), (7, 2, 4, 5), (7, 6, 2, 2)):
            self.limiter.pause("a", first)
            self.clock.advance(wait)
            self.limiter.pause("a", second)
            self.check_pause(left)

    def test_nobody_waits(self) -> None:
        """S17, L2: a pause of an account without a start is forgotten when it is over."""
        self.limiter.pause("a", 2)
        self.assertEqual(len(self.limiter), 1)
        self.clock.advance(2)
        self.assertEqual(len(self.limiter), 0)

    def test_pause_takes_the_turn(self) -> None:
        """S17, L1: an account that is paused while it waits for its turn does not get it."""
        self.enter("b", account="b")
        self.enter("c", account="c")
        self.enter("a")
        self.enter("d", account="d")
        self.limiter.pause("a", 5)
        self.leave(account="b")
        self.assertEqual(self.order, ["b", "c", "d"])
        self.clock.advance(5)
        self.leave(account="c")
        self.assertEqual(self.order, ["b", "c", "d", "a"])
        self.leave(account="d")
        self.leave()


class ComingBackTests(LaneTestCase):
    """Starts that failed, and are to be made again."""

    def test_is_first(self) -> None:
        """S17: a start that comes back is before those of its account that came later."""
        self.enter("first", "x", "y")
        self.note(self.limiter.requeue("a"), "again")
        self.leave(3)
        self.assertEqual(self.order, ["first", "again", "x", "y"])
        self.leave()

    def test_is_alone(self) -> None:
        """S17: a start that comes back to an empty lane gets its place at once."""
        self.note(self.limiter.requeue("a"), "again")
        self.assertEqual(self.order, ["again"])
        self.leave()

    def test_takes_no_turn_of_others(self) -> None:
        """S17, L1: a start that comes back waits for the turn of its account."""
        self.enter("b", account="b")
        self.enter("c", account="c")
        self.enter("d", account="d")
        self.note(self.limiter.requeue("a"), "again")
        self.leave(account="b")
        self.leave(account="c")
        self.assertEqual(self.order, ["b", "c", "d", "again"])
        self.leave(account="d")
        self.leave()

    def test_gives_up(self) -> None:
        """S17, Q15: a start that comes back may still give up its wait."""
        self.enter("first", "x")
        again = self.limiter.requeue("a")
        again.cancel()
        self.failureResultOf(again)
        self.assertEqual((self.limiter.running, self.limiter.queued), (1, 1))
        self.leave()
        self.assertEqual(self.order, ["first", "x"])
        self.leave()


class CountTests(LaneTestCase):
    """What is told of how busy it is."""

    def test_counts(self) -> None:
        """L1: starts that run and starts that wait are counted over all accounts."""
        counts = []
        self.enter("a", "x", "y")
        self.enter("b", account="b")
        self.enter("c", account="c")
        counts.append((self.limiter.running, self.limiter.queued, len(self.limiter)))
        given_up = self.limiter.acquire("c")
        given_up.cancel()
        self.failureResultOf(given_up)
        self.leave(account="b")
        counts.append((self.limiter.running, self.limiter.queued, len(self.limiter)))
        self.leave(account="c")
        counts.append((self.limiter.running, self.limiter.queued, len(self.limiter)))
        self.leave(3)
        self.assertEqual(counts, [(2, 3, 3), (2, 2, 2), (1, 2, 1)])
