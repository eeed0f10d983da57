"""KeepAlivePolicy: whether connections may be kept, with job servers of both kinds."""

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from jobproxy.upstream.keepalive import Call, KeepAlivePolicy

IDLE_TIME = 2.0
PAUSES = (60, 120, 240, 480, 960, 1_920, 3_600, 3_600)


class KeepAliveTestCase(SynchronousTestCase):
    """A policy and a clock; when the test ends, no timer may be left.

    :cvar idle_time: for how long idle connections are kept.
    """

    idle_time = IDLE_TIME

    def setUp(self) -> None:
        super().setUp()
        self.clock = Clock()
        self.closings: list[float] = []
        self.policy = KeepAlivePolicy(
            self.clock, lambda: self.closings.append(self.clock.seconds()), self.idle_time
        )

    def tearDown(self) -> None:
        super().tearDown()
        self.clock.advance(60)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def begin(self, account: str = "a") -> Call:
        call = self.policy.begin(account)
        self.assertLessEqual(len(self.clock.getDelayedCalls()), 1)
        return call

    def end(self, *calls: Call, is_acknowledged: bool = True) -> None:
        for call in calls:
            self.policy.end(call, is_acknowledged)
            self.assertLessEqual(len(self.clock.getDelayedCalls()), 1)

    def watch(self, account: str = "a", seconds: float = 0.5) -> None:
        """Let a candidate be acknowledged, so that its connection is idle now."""
        call = self.begin(account)
        self.assertTrue(call.may_keep)
        self.clock.advance(seconds)
        self.end(call)

    def assert_safe(self) -> None:
        """Check that all connections may be kept from now on."""
        self.assertEqual(self.closings, [])
        self.assertEqual(self.clock.getDelayedCalls(), [])
        for account in ("a", "b", "a"):
            call = self.begin(account)
            self.assertTrue(call.may_keep)
            self.clock.advance(30)
            self.end(call)
        self.assertEqual(self.closings, [])

    def assert_unsafe(self) -> None:
        """Check that no connection may be kept for now."""
        for account in ("a", "b"):
            call = self.begin(account)
            self.assertFalse(call.may_keep)
            self.end(call)
        self.assertEqual(self.clock.getDelayedCalls(), [])


class SafeTests(KeepAliveTestCase):
    """Idle connections do not count."""

    def test_ack_while_a_connection_is_idle_keeps_all(self) -> None:
        """An ack for a start request while the candidate's connection is idle settles it."""
        self.watch()
        call = self.begin()
        self.assertFalse(call.may_keep)
        self.clock.advance(0.5)
        self.end(call)
        self.assert_safe()

    def test_ack_at_the_end_of_the_idle_time_keeps_all(self) -> None:
        """An ack counts until the end of the idle time."""
        self.watch()
        self.clock.advance(1)
        call = self.begin()
        self.clock.advance(0.875)
        self.end(call)
        self.assert_safe()

    def test_ack_after_the_idle_time_proves_nothing(self) -> None:
        """An ack that comes after the idle connection was closed proves nothing."""
        for first, sent in ((0.25, 1.875), (1.5, 0.125), (0.25, 2.0)):
            self.watch(seconds=first)
            self.clock.advance(sent)
            call = self.begin()
            self.clock.advance(IDLE_TIME + 0.0625 - sent)
            self.end(call)
            self.assertTrue(self.begin().may_keep)
            self.assertFalse(self.begin().may_keep)
            self.setUp()

    def test_one_ack_of_several_starts_keeps_all(self) -> None:
        """One ack is enough, however the other start requests end."""
        self.watch()
        first, second = self.begin(), self.begin()
        self.clock.advance(0.5)
        self.end(second)
        self.assert_safe()
        self.end(first, is_acknowledged=False)
        self.assert_safe()

    def test_ack_of_an_earlier_start_proves_nothing(self) -> None:
        """A start request sent before the candidate's ack may have been served first."""
        candidate, other = self.begin(), self.begin()
        self.clock.advance(0.5)
        self.end(candidate)
        self.clock.advance(0.25)
        self.end(other)
        self.assertFalse(self.begin().may_keep)
        self.assertEqual(self.closings, [])

    def test_ack_of_another_account_proves_nothing(self) -> None:
        """A start request of another account, however fast, proves nothing for this one."""
        self.watch()
        for _ in range(3):
            call = self.begin("b")
            self.assertFalse(call.may_keep)
            self.clock.advance(0.125)
            self.end(call)
        call = self.begin()
        self.assertFalse(call.may_keep)
        self.end(call)
        self.assert_safe()

    def test_start_that_fails_proves_nothing(self) -> None:
        """A start request that fails proves nothing, even if it fails at once."""
        self.watch()
        self.end(self.begin(), is_acknowledged=False)
        self.assertFalse(self.begin().may_keep)
        self.assertEqual(self.closings, [])


class UnsafeTests(KeepAliveTestCase):
    """Idle connections count."""

    def test_hanging_start_closes_idle_connections(self) -> None:
        """When a start request takes twice as long as the first, idle connections are closed."""
        self.watch(seconds=0.5)
        call = self.begin()
        self.clock.advance(0.9375)
        self.assertEqual(self.closings, [])
        self.clock.advance(0.0625)
        self.assertEqual(self.closings, [1.5])
        self.end(call)
        self.assert_unsafe()
        self.clock.advance(30)
        self.assertEqual(self.closings, [1.5])
        self.assert_unsafe()

    def test_no_start_hangs_before_50_ms(self) -> None:
        """However fast the first start request was, none hangs before 50 ms."""
        self.watch(seconds=0)
        call = self.begin()
        self.clock.advance(0.049)
        self.assertEqual(self.closings, [])
        self.clock.advance(0.0011)
        self.assertEqual(len(self.closings), 1)
        self.end(call)

    def test_each_start_hangs_by_its_own_time(self) -> None:
        """The time that a start request hangs is its own, whatever came before it."""
        self.watch(seconds=0.5)
        first = self.begin()
        self.clock.advance(0.75)
        self.end(first, is_acknowledged=False)
        second = self.begin()
        self.clock.advance(0.25)
        self.assertEqual(self.closings, [])
        self.clock.advance(0.75)
        self.assertEqual(self.closings, [2.25])
        self.end(second)

    def test_rounding_errors_do_not_lengthen_the_patience(self) -> None:
        """The patience is no longer where times have rounding errors."""
        for ticks in range(200):
            self.setUp()
            self.clock.advance(ticks / 64)
            self.watch(seconds=0)
            call = self.begin()
            self.clock.advance(0.05)
            self.clock.advance(0.000001)
            self.assertEqual(len(self.closings), 1)
            self.end(call)

    def test_rejected_candidate_closes_its_connection(self) -> None:
        """S15: a rejected candidate leaves no idle connection on which others could hang."""
        candidate, other = self.begin(), self.begin()
        self.clock.advance(0.5)
        self.end(candidate, is_acknowledged=False)
        self.assertEqual(self.closings, [0.5])
        self.end(other)

    def test_idle_connections_are_closed_once(self) -> None:
        """Idle connections are closed once, however many start requests hang."""
        self.watch()
        calls = [self.begin() for _ in range(10)]
        self.clock.advance(1)
        self.assertEqual(self.closings, [1.5])
        self.clock.advance(1)
        self.end(*calls[:5])
        self.end(*calls[5:], is_acknowledged=False)
        self.clock.advance(50)
        self.assertEqual(self.closings, [1.5])
        self.assert_unsafe()

    def test_earlier_start_hangs_from_the_ack_on(self) -> None:
        """A start request sent before the candidate's ack hangs from that ack on."""
        candidate, other = self.begin(), self.begin()
        self.clock.advance(0.5)
        self.end(candidate)
        self.clock.advance(0.9375)
        self.assertEqual(self.closings, [])
        self.clock.advance(0.0625)
        self.assertEqual(self.closings, [1.5])
        self.end(other)
        self.assert_unsafe()

    def test_starts_of_other_accounts_never_hang(self) -> None:
        """Start requests of other accounts may take any time."""
        self.watch()
        calls = [self.begin(account) for account in ("b", "c", "b")]
        self.clock.advance(60)
        self.assertEqual(self.closings, [])
        self.end(*calls)

    def test_queueing_starts_do_not_hang(self) -> None:
        """Start requests that queue for each other, each as long as the first, do not hang."""
        candidate, *others = [self.begin() for _ in range(10)]
        for call in (candidate, *others):
            self.clock.advance(0.125)
            self.end(call)
        self.assertEqual(self.closings, [])

    def test_starts_that_end_in_time_do_not_hang(self) -> None:
        """Start requests that end in time, with or without an ack, do not hang."""
        self.watch()
        first = self.begin()
        self.clock.advance(0.5)
        self.end(first, is_acknowledged=False)
        self.clock.advance(1)
        self.assertEqual(self.closings, [])

    def test_late_ack_does_not_change_the_decision(self) -> None:
        """An ack after the decision does not change it."""
        self.watch()
        hanging = self.begin()
        self.clock.advance(1)
        self.clock.advance(0.5)
        self.end(hanging)
        late = self.begin()
        self.clock.advance(0.5)
        self.end(late)
        self.assert_unsafe()

    def test_pauses_between_trials_double(self) -> None:
        """The next trial comes after a minute, and after twice as long each time up to an hour."""
        for number, pause in enumerate(PAUSES):
            self.watch()
            hanging = self.begin()
            self.clock.advance(1)
            self.assertEqual(len(self.closings), number + 1)
            self.end(hanging)
            self.assert_unsafe()
            self.clock.advance(pause - 0.5)
            self.assert_unsafe()
            self.clock.advance(0.5)

    def test_later_trial_can_succeed(self) -> None:
        """A trial after a pause can succeed."""
        self.watch()
        hanging = self.begin()
        self.clock.advance(1)
        self.end(hanging)
        self.clock.advance(60)
        self.closings.clear()
        self.watch("b")
        self.end(self.begin("b"))
        self.assert_safe()

    def test_starts_from_the_pause_are_no_part_of_the_next_trial(self) -> None:
        """Start requests sent in the pause do not count in the trial after it."""
        self.watch()
        hanging = self.begin()
        self.clock.advance(1)
        old = [self.begin("a"), self.begin("b")]
        self.clock.advance(60)
        self.watch()
        self.end(hanging, *old)
        self.clock.advance(1.5)
        self.assertEqual(self.closings, [1.5])
        self.assertFalse(self.begin("a").may_keep)


class CandidateTests(KeepAliveTestCase):
    """Which start request is the candidate."""

    def test_first_start_is_the_only_candidate(self) -> None:
        """The first start request is the candidate, and no other is while it is under way."""
        candidate = self.begin()
        self.assertTrue(candidate.may_keep)
        for account in ("a", "b"):
            self.assertFalse(self.begin(account).may_keep)
        self.clock.advance(30)
        self.assertFalse(self.begin().may_keep)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_next_start_is_the_candidate_after_a_failure(self) -> None:
        """When a candidate fails, the next start request of any account is the candidate."""
        for account in ("a", "b", "a"):
            candidate = self.begin(account)
            self.assertTrue(candidate.may_keep)
            self.clock.advance(0.5)
            self.end(candidate, is_acknowledged=False)
        self.watch()
        self.end(self.begin())
        self.assertTrue(self.begin("b").may_keep)

    def test_failed_candidate_ends_the_watch_of_others(self) -> None:
        """A candidate that fails ends the watch of those sent with it."""
        candidate, other = self.begin(), self.begin()
        self.end(candidate, is_acknowledged=False)
        self.closings.clear()
        self.watch("b")
        self.clock.advance(1.5)
        self.assertEqual(self.closings, [])
        self.assertFalse(self.begin("b").may_keep)
        self.end(other)
        self.assertFalse(self.begin("b").may_keep)

    def test_next_start_is_the_candidate_after_the_idle_time(self) -> None:
        """When no other start request came in the idle time, the next one is the candidate."""
        for account in ("a", "a", "b"):
            self.watch(account)
            self.clock.advance(IDLE_TIME + 0.001)
        self.assertEqual(self.closings, [])
        self.watch()
        self.end(self.begin())
        self.assert_safe()

    def test_no_candidate_while_a_connection_is_idle(self) -> None:
        """While a connection is idle, no start request is a candidate."""
        self.watch()
        self.clock.advance(IDLE_TIME - 0.001)
        self.assertFalse(self.begin("b").may_keep)

    def test_starts_of_other_accounts_do_not_prolong_the_trial(self) -> None:
        """When only other accounts sent in the idle time, the next start is the candidate."""
        self.watch()
        other = self.begin("b")
        self.clock.advance(IDLE_TIME + 0.001)
        self.watch("c")
        self.end(other)
        self.assertFalse(self.begin("b").may_keep)

    def test_one_timer_watches_all_starts(self) -> None:
        """One timer is enough, however many start requests are watched."""
        self.watch()
        calls = []
        for _ in range(50):
            calls.append(self.begin())
            self.clock.advance(0.01)
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        self.end(*calls, is_acknowledged=False)
        self.clock.advance(1)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_there_is_no_timer_without_a_watched_start(self) -> None:
        """While no start request is watched, there is no timer."""
        candidate = self.begin()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.end(candidate)
        self.begin("b")
        self.assertEqual(self.clock.getDelayedCalls(), [])


class NeverTests(KeepAliveTestCase):
    """A policy with an idle time of zero."""

    idle_time = 0.0

    def test_idle_time_of_zero_keeps_no_connection(self) -> None:
        """With an idle time of zero no connection is kept, and nothing is watched."""
        for _ in range(3):
            calls = [self.begin(account) for account in ("a", "a", "b")]
            self.assertEqual([call.may_keep for call in calls], [False] * 3)
            self.clock.advance(30)
            self.end(*calls)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.closings, [])
