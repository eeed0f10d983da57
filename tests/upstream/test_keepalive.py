"""The policy that finds out whether connections may be kept, with job servers of both kinds."""

from collections import deque
from collections.abc import Callable
from typing import Any

from attrs import define, field
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from jobproxy.upstream.keepalive import Call, KeepAlivePolicy

IDLE_TIME = 2.0
PAUSES = (60, 120, 240, 480, 960, 1_920, 3_600, 3_600)


class ReuseTestCase(SynchronousTestCase):
    """A policy, and a clock; when the test ends, nothing may be left in that.

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
        """Have a candidate acknowledged, so that its connection is idle now."""
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
        """Check that no connection may be kept, at the moment."""
        for account in ("a", "b"):
            call = self.begin(account)
            self.assertFalse(call.may_keep)
            self.end(call)
        self.assertEqual(self.clock.getDelayedCalls(), [])


class SafeTests(ReuseTestCase):
    """Idle connections turn out not to count."""

    def test_next_start(self) -> None:
        """A start acknowledged while the connection of the one before is idle settles it."""
        self.watch()
        call = self.begin()
        self.assertFalse(call.may_keep)
        self.clock.advance(0.5)
        self.end(call)
        self.assert_safe()

    def test_last_moment(self) -> None:
        """The idle time counts to its end."""
        self.watch()
        self.clock.advance(1)
        call = self.begin()
        self.clock.advance(0.875)
        self.end(call)
        self.assert_safe()

    def test_idle_time_over(self) -> None:
        """A start that waited until the idle connection was closed tells nothing."""
        for first, sent in ((0.25, 1.875), (1.5, 0.125), (0.25, 2.0)):
            self.watch(seconds=first)
            self.clock.advance(sent)
            call = self.begin()
            self.clock.advance(IDLE_TIME + 0.0625 - sent)
            self.end(call)
            self.assertTrue(self.begin().may_keep)
            self.assertFalse(self.begin().may_keep)
            self.setUp()

    def test_one_of_several(self) -> None:
        """One acknowledged start is enough, whatever becomes of others sent with it."""
        self.watch()
        first, second = self.begin(), self.begin()
        self.clock.advance(0.5)
        self.end(second)
        self.assert_safe()
        self.end(first, is_acknowledged=False)
        self.assert_safe()

    def test_sent_before(self) -> None:
        """A start sent before the candidate's ack may have been served first: it tells nothing."""
        candidate, other = self.begin(), self.begin()
        self.clock.advance(0.5)
        self.end(candidate)
        self.clock.advance(0.25)
        self.end(other)
        self.assertFalse(self.begin().may_keep)
        self.assertEqual(self.closings, [])

    def test_other_account(self) -> None:
        """A start of another account, however fast, tells nothing about the one on trial."""
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

    def test_not_acknowledged(self) -> None:
        """A start that fails tells nothing, even if it fails at once."""
        self.watch()
        self.end(self.begin(), is_acknowledged=False)
        self.assertFalse(self.begin().may_keep)
        self.assertEqual(self.closings, [])


class UnsafeTests(ReuseTestCase):
    """Idle connections turn out to count."""

    def test_hanging(self) -> None:
        """When a start hangs for twice the time of the first one, idle connections are closed."""
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

    def test_least_patience(self) -> None:
        """However fast the first one was, a start does not hang before 50 ms are over."""
        self.watch(seconds=0)
        call = self.begin()
        self.clock.advance(0.049)
        self.assertEqual(self.closings, [])
        self.clock.advance(0.0011)
        self.assertEqual(len(self.closings), 1)
        self.end(call)

    def test_hanging_after_another(self) -> None:
        """The time that a start hangs is its own, whatever came before it."""
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

    def test_least_patience_at_any_time(self) -> None:
        """Patience is no longer where times have rounding errors."""
        for ticks in range(200):
            self.setUp()
            self.clock.advance(ticks / 64)
            self.watch(seconds=0)
            call = self.begin()
            self.clock.advance(0.05)
            self.clock.advance(0.000001)
            self.assertEqual(len(self.closings), 1)
            self.end(call)

    def test_rejected_candidate(self) -> None:
        """S15: a candidate that is rejected leaves no idle connection that starts hang on."""
        candidate, other = self.begin(), self.begin()
        self.clock.advance(0.5)
        self.end(candidate, is_acknowledged=False)
        self.assertEqual(self.closings, [0.5])
        self.end(other)

    def test_many_hanging(self) -> None:
        """Idle connections are closed once, however many starts hang."""
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

    def test_sent_before(self) -> None:
        """A start sent before the candidate's ack hangs from then on."""
        candidate, other = self.begin(), self.begin()
        self.clock.advance(0.5)
        self.end(candidate)
        self.clock.advance(0.9375)
        self.assertEqual(self.closings, [])
        self.clock.advance(0.0625)
        self.assertEqual(self.closings, [1.5])
        self.end(other)
        self.assert_unsafe()

    def test_other_account(self) -> None:
        """Starts of other accounts may take as long as they like."""
        self.watch()
        calls = [self.begin(account) for account in ("b", "c", "b")]
        self.clock.advance(60)
        self.assertEqual(self.closings, [])
        self.end(*calls)

    def test_queue(self) -> None:
        """Starts that wait for each other, each for as long as the first one took, do not hang."""
        candidate, *others = [self.begin() for _ in range(10)]
        for call in (candidate, *others):
            self.clock.advance(0.125)
            self.end(call)
        self.assertEqual(self.closings, [])

    def test_not_hanging(self) -> None:
        """Starts that end in time, well or not, do not hang."""
        self.watch()
        first = self.begin()
        self.clock.advance(0.5)
        self.end(first, is_acknowledged=False)
        self.clock.advance(1)
        self.assertEqual(self.closings, [])

    def test_late_acks(self) -> None:
        """What comes after the decision does not change it."""
        self.watch()
        hanging = self.begin()
        self.clock.advance(1)
        self.clock.advance(0.5)
        self.end(hanging)
        late = self.begin()
        self.clock.advance(0.5)
        self.end(late)
        self.assert_unsafe()

    def test_pauses(self) -> None:
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

    def test_safe_after_all(self) -> None:
        """A trial after a pause can settle it the other way."""
        self.watch()
        hanging = self.begin()
        self.clock.advance(1)
        self.end(hanging)
        self.clock.advance(60)
        self.closings.clear()
        self.watch("b")
        self.end(self.begin("b"))
        self.assert_safe()

    def test_calls_from_the_pause(self) -> None:
        """Starts that began in the pause play no part in the trial after it, however they end."""
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


class CandidateTests(ReuseTestCase):
    """Which start is the candidate."""

    def test_first(self) -> None:
        """The first start is the candidate, and as long as it is under way no other one is."""
        candidate = self.begin()
        self.assertTrue(candidate.may_keep)
        for account in ("a", "b"):
            self.assertFalse(self.begin(account).may_keep)
        self.clock.advance(30)
        self.assertFalse(self.begin().may_keep)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_failed(self) -> None:
        """After a candidate that failed the next start is one, of whatever account."""
        for account in ("a", "b", "a"):
            candidate = self.begin(account)
            self.assertTrue(candidate.may_keep)
            self.clock.advance(0.5)
            self.end(candidate, is_acknowledged=False)
        self.watch()
        self.end(self.begin())
        self.assertTrue(self.begin("b").may_keep)

    def test_failed_with_others(self) -> None:
        """A candidate that failed leaves nothing of the others sent with it."""
        candidate, other = self.begin(), self.begin()
        self.end(candidate, is_acknowledged=False)
        self.closings.clear()
        self.watch("b")
        self.clock.advance(1.5)
        self.assertEqual(self.closings, [])
        self.assertFalse(self.begin("b").may_keep)
        self.end(other)
        self.assertFalse(self.begin("b").may_keep)

    def test_idle_time_over(self) -> None:
        """When no other start came in the idle time, the next one is a candidate."""
        for account in ("a", "a", "b"):
            self.watch(account)
            self.clock.advance(IDLE_TIME + 0.001)
        self.assertEqual(self.closings, [])
        self.watch()
        self.end(self.begin())
        self.assert_safe()

    def test_idle_time_not_over(self) -> None:
        """As long as a connection is idle, no other start is a candidate."""
        self.watch()
        self.clock.advance(IDLE_TIME - 0.001)
        self.assertFalse(self.begin("b").may_keep)

    def test_idle_time_over_with_other_accounts(self) -> None:
        """When only other accounts had starts in the idle time, the next one is a candidate."""
        self.watch()
        other = self.begin("b")
        self.clock.advance(IDLE_TIME + 0.001)
        self.watch("c")
        self.end(other)
        self.assertFalse(self.begin("b").may_keep)

    def test_one_timer(self) -> None:
        """However many starts are watched, one timer does."""
        self.watch()
        calls = []
        for _ in range(50):
            calls.append(self.begin())
            self.clock.advance(0.01)
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        self.end(*calls, is_acknowledged=False)
        self.clock.advance(1)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_no_timer(self) -> None:
        """As long as there is nothing to watch, there is no timer."""
        candidate = self.begin()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.end(candidate)
        self.begin("b")
        self.assertEqual(self.clock.getDelayedCalls(), [])


class NeverTests(ReuseTestCase):
    """A policy of connections that cannot be kept."""

    idle_time = 0.0

    def test_never(self) -> None:
        """With an idle time of zero no connection is kept, and nothing is watched."""
        for _ in range(3):
            calls = [self.begin(account) for account in ("a", "a", "b")]
            self.assertEqual([call.may_keep for call in calls], [False] * 3)
            self.clock.advance(30)
            self.end(*calls)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.closings, [])


@define(eq=False)
class Idle:
    """A connection that was kept.

    :ivar first: how long the start took that it was kept after.
    :ivar until: when the agent closes it.
    :ivar hung: how long starts have waited because of it.
    """

    account: str
    first: float
    until: float
    hung: float = 0.0

    @property
    def bound(self) -> float:
        """How long starts may hang because of it."""
        return max(0.05, 2 * self.first)


@define(eq=False)
class Start:
    """A start that the job server has received."""

    call: Call
    seconds: float
    is_accepted: bool


@define(eq=False)
class World:
    """A job server that serves one connection of an account at a time, and the agent's pool.

    :param counts_idle: whether a connection counts while it is idle.
    """

    _counts_idle: bool
    clock: Clock = field(factory=Clock)
    policy: KeepAlivePolicy = field(init=False)
    #: All connections that were ever kept, and those that are idle now.
    kept: list[Idle] = field(factory=list)
    idle: list[Idle] = field(factory=list)
    waiting: dict[str, deque[Start]] = field(factory=dict)
    served: dict[str, Start] = field(factory=dict)
    #: When a start was a candidate, and when idle connections were closed because starts hung.
    trials: list[float] = field(factory=list)
    failures: list[float] = field(factory=list)
    #: What is going to happen in the world, apart from the policy's timer.
    _calls: list[Any] = field(factory=list)

    def __attrs_post_init__(self) -> None:
        self.policy = KeepAlivePolicy(self.clock, self.close_idle, IDLE_TIME)

    @property
    def timers(self) -> int:
        """How many timers the policy has."""
        return sum(call not in self._calls for call in self.clock.getDelayedCalls())

    def start(self, account: str, seconds: float, is_accepted: bool) -> None:
        call = self.policy.begin(account)
        if call.may_keep:
            self.trials.append(self.clock.seconds())
            if self.idle:
                self._close(self.idle[-1])
        self.waiting.setdefault(account, deque()).append(Start(call, seconds, is_accepted))
        self._serve(account)

    def pass_time(self, seconds: float) -> None:
        """Let time pass, from one event to the next."""
        end = self.clock.seconds() + seconds
        while (then := self._next()) <= end:
            self._wait_until(then)
        self._wait_until(end)

    def close_idle(self) -> None:
        if any(idle.hung for idle in self.idle):
            self.failures.append(self.clock.seconds())
        for idle in list(self.idle):
            self._close(idle)

    def _next(self) -> float:
        return min((call.getTime() for call in self.clock.getDelayedCalls()), default=float("inf"))

    def _wait_until(self, then: float) -> None:
        for idle in self.idle:
            if self._counts_idle and self._is_blocked(idle.account):
                idle.hung += then - self.clock.seconds()
        self.clock.advance(then - self.clock.seconds())

    def _is_blocked(self, account: str) -> bool:
        """Whether starts of an account wait for nothing but an idle connection."""
        return bool(self.waiting.get(account)) and account not in self.served

    def _later(self, seconds: float, function: Callable[..., None], *args: Any) -> None:
        def run() -> None:
            self._calls.remove(call)
            function(*args)

        call = self.clock.callLater(seconds, run)
        self._calls.append(call)

    def _serve(self, account: str) -> None:
        """Serve the next start of an account, if that has no connection that counts."""
        is_held = self._counts_idle and any(idle.account == account for idle in self.idle)
        if self._is_blocked(account) and not is_held:
            start = self.served[account] = self.waiting[account].popleft()
            self._later(start.seconds, self._answer, account)

    def _answer(self, account: str) -> None:
        start = self.served.pop(account)
        if start.call.may_keep:
            now = self.clock.seconds()
            idle = Idle(account, now - start.call.sent, now + IDLE_TIME)
            self.idle.append(idle)
            self.kept.append(idle)
            self._later(IDLE_TIME, self._close, idle)
        self.policy.end(start.call, start.is_accepted)
        self._serve(account)

    def _close(self, idle: Idle) -> None:
        if idle in self.idle:
            self.idle.remove(idle)
            self._serve(idle.account)


#: Times that have no rounding errors in them.
TICK = 1 / 64


class ReuseMachine(RuleBasedStateMachine):
    """Starts of some accounts at any time, to a job server of either kind."""

    world: World

    @initialize(counts_idle=st.sampled_from([True, True, False]))
    def begin(self, counts_idle: bool) -> None:
        self.counts_idle = counts_idle
        self.world = World(counts_idle)

    @rule(
        account=st.sampled_from("aaab"),
        ticks=st.integers(0, 40),
        is_accepted=st.sampled_from([True, True, True, False]),
    )
    def start(self, account: str, ticks: int, is_accepted: bool) -> None:
        self.world.start(account, ticks * TICK, is_accepted)

    @rule(ticks=st.integers(0, 64))
    def pass_time(self, ticks: int) -> None:
        self.world.pass_time(ticks * TICK)

    @rule(seconds=st.sampled_from([2, 3, 59, 60, 61, 120, 4_000]))
    def pass_much_time(self, seconds: int) -> None:
        self.world.pass_time(seconds)

    @invariant()
    def has_one_timer(self) -> None:
        assert self.world.timers <= 1

    @invariant()
    def keeps_one_connection_on_trial(self) -> None:
        if self.counts_idle:
            assert len(self.world.idle) <= 1

    @invariant()
    def lets_nothing_hang_for_long(self) -> None:
        for idle in self.world.kept:
            # Patience may be a time with a rounding error.
            assert idle.hung <= idle.bound + 1e-9, idle

    @invariant()
    def pauses_after_each_failure(self) -> None:
        for number, failure in enumerate(self.world.failures):
            pause = min(60 * 2**number, 3_600)
            assert not any(failure <= trial < failure + pause for trial in self.world.trials)

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.pass_time(10_000)
            assert not any(self.world.waiting.values())
            assert self.world.clock.getDelayedCalls() == []


ReuseMachineTests = ReuseMachine.TestCase
