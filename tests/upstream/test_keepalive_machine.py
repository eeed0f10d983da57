"""KeepAlivePolicy with job servers of both kinds, and start requests at any time."""

from collections import deque
from collections.abc import Callable
from typing import Any

from attrs import define, field
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from twisted.internet.task import Clock

from jobproxy.upstream.keepalive import Call, KeepAlivePolicy

IDLE_TIME = 2.0


@define(eq=False)
class IdleConnection:
    """A connection that was kept idle.

    :ivar first: seconds that the start took after which it was kept.
    :ivar until: when the pool closes it.
    :ivar hung: seconds that starts have waited because of it.
    """

    account: str
    first: float
    until: float
    hung: float = 0.0

    @property
    def bound(self) -> float:
        """Seconds that starts may hang because of it."""
        return max(0.05, 2 * self.first)


@define(eq=False)
class Start:
    """A start that the job server has received."""

    call: Call
    seconds: float
    is_accepted: bool


@define(eq=False)
class SimulatedPool:
    """A job server that serves one connection of an account at a time, and the agent's pool.

    :param counts_idle: whether the job server counts idle connections.
    """

    _counts_idle: bool
    clock: Clock = field(factory=Clock)
    policy: KeepAlivePolicy = field(init=False)
    #: All connections that were ever kept, and those that are idle now.
    kept: list[IdleConnection] = field(factory=list)
    idle: list[IdleConnection] = field(factory=list)
    waiting: dict[str, deque[Start]] = field(factory=dict)
    served: dict[str, Start] = field(factory=dict)
    #: When a start was the candidate, and when idle connections were closed as starts hung.
    trials: list[float] = field(factory=list)
    failures: list[float] = field(factory=list)
    #: All timers but the policy's own.
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
        """Advance the clock, from one timer to the next."""
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
        """Whether starts of an account wait only because of an idle connection."""
        return bool(self.waiting.get(account)) and account not in self.served

    def _later(self, seconds: float, function: Callable[..., None], *args: Any) -> None:
        def run() -> None:
            self._calls.remove(call)
            function(*args)

        call = self.clock.callLater(seconds, run)
        self._calls.append(call)

    def _serve(self, account: str) -> None:
        """Serve the next start of an account, unless one of its connections counts."""
        is_held = self._counts_idle and any(idle.account == account for idle in self.idle)
        if self._is_blocked(account) and not is_held:
            start = self.served[account] = self.waiting[account].popleft()
            self._later(start.seconds, self._respond, account)

    def _respond(self, account: str) -> None:
        start = self.served.pop(account)
        if start.call.may_keep:
            now = self.clock.seconds()
            idle = IdleConnection(account, now - start.call.sent, now + IDLE_TIME)
            self.idle.append(idle)
            self.kept.append(idle)
            self._later(IDLE_TIME, self._close, idle)
        self.policy.end(start.call, start.is_accepted)
        self._serve(account)

    def _close(self, idle: IdleConnection) -> None:
        if idle in self.idle:
            self.idle.remove(idle)
            self._serve(idle.account)


#: Times that have no rounding errors in them.
TICK = 1 / 64


class KeepAliveMachine(RuleBasedStateMachine):
    """Start requests of some accounts at any time, to a job server of either kind."""

    pool: SimulatedPool

    @initialize(counts_idle=st.sampled_from([True, True, False]))
    def begin(self, counts_idle: bool) -> None:
        self.counts_idle = counts_idle
        self.pool = SimulatedPool(counts_idle)

    @rule(
        account=st.sampled_from("aaab"),
        ticks=st.integers(0, 40),
        is_accepted=st.sampled_from([True, True, True, False]),
    )
    def start(self, account: str, ticks: int, is_accepted: bool) -> None:
        self.pool.start(account, ticks * TICK, is_accepted)

    @rule(ticks=st.integers(0, 64))
    def pass_time(self, ticks: int) -> None:
        self.pool.pass_time(ticks * TICK)

    @rule(seconds=st.sampled_from([2, 3, 59, 60, 61, 120, 4_000]))
    def pass_much_time(self, seconds: int) -> None:
        self.pool.pass_time(seconds)

    @invariant()
    def has_one_timer(self) -> None:
        assert self.pool.timers <= 1

    @invariant()
    def keeps_one_connection_on_trial(self) -> None:
        if self.counts_idle:
            assert len(self.pool.idle) <= 1

    @invariant()
    def lets_nothing_hang_for_long(self) -> None:
        for idle in self.pool.kept:
            # Patience may be a time with a rounding error.
            assert idle.hung <= idle.bound + 1e-9, idle

    @invariant()
    def pauses_after_each_failure(self) -> None:
        for number, failure in enumerate(self.pool.failures):
            pause = min(60 * 2**number, 3_600)
            assert not any(failure <= trial < failure + pause for trial in self.pool.trials)

    def teardown(self) -> None:
        if hasattr(self, "pool"):
            self.pool.pass_time(10_000)
            assert not any(self.pool.waiting.values())
            assert self.pool.clock.getDelayedCalls() == []


KeepAliveMachineTests = KeepAliveMachine.TestCase
