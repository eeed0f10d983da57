"""The correlation table: exactly one answer for each client, and nothing left behind."""

from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from jobproxy.correlation import CorrelationTable, Delivery, State
from jobproxy.messages import Report
from jobproxy.problems import CallbackConflict, Internal, Problem, StartUnknown

RESULT = Report(b"{}", None, "completed")
PROGRESS = Report(b"{}", None, "running")


class CorrelationTests(SynchronousTestCase):
    """Single rules; the rest is the machine's below and the whole proxy's."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.table = CorrelationTable(self.clock)

    def test_handle_in_use(self) -> None:
        """A second client of the same handle is refused, and the first one stays."""
        waiter = self.table.expect("a", 30, lambda: None)
        with self.assertRaises(ValueError):
            self.table.expect("a", 30, lambda: None)
        self.table.complete("a", RESULT)
        self.assertIs(self.successResultOf(waiter), RESULT)

    def test_answers_may_ask_again(self) -> None:
        """Whoever is answered finds the table as if the job had never been."""
        lengths: list[int] = []
        waiter = self.table.expect("a", 30, lambda: None)
        waiter.addCallback(lambda _: lengths.append(len(self.table)))
        self.table.complete("a", RESULT)
        self.assertEqual(lengths, [0])

    def test_shortening_never_lengthens(self) -> None:
        """S6: the grace after an ambiguous start ends at the deadline at the latest."""
        waiters = {
            seconds: self.table.expect(f"{seconds}", 30, lambda: None) for seconds in (2, 60)
        }
        for seconds in waiters:
            self.table.advance(f"{seconds}", State.UNCONFIRMED)
            self.table.shorten(f"{seconds}", seconds)
        self.clock.advance(2)
        self.failureResultOf(waiters[2], StartUnknown)
        self.assertNoResult(waiters[60])
        self.clock.advance(28)
        self.failureResultOf(waiters[60], StartUnknown)

    def test_conflict_changes_nothing(self) -> None:
        """B8: a callback about another id is refused, before and after the right one comes."""
        waiter = self.table.expect("a", 30, lambda: None)
        self.table.advance("a", State.RUNNING, "1")
        with self.assertRaises(CallbackConflict):
            self.table.complete("a", Report(b"{}", "2", "running"))
        self.assertNoResult(waiter)
        self.table.complete("a", Report(b"{}", "1", "completed"))
        self.successResultOf(waiter)


class CorrelationMachine(RuleBasedStateMachine):
    """Jobs whose events come in any order."""

    handles = Bundle("handles")

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.table = CorrelationTable(self.clock)
        self.answers: dict[str, list[Any]] = {}
        self.waiters: dict[str, Deferred[Any]] = {}
        self.deadlines: dict[str, float] = {}

    @rule(target=handles, seconds=st.integers(1, 30))
    def expect(self, seconds: int) -> str:
        handle = str(len(self.answers))
        self.answers[handle] = []
        self.waiters[handle] = self.table.expect(handle, seconds, lambda: None)
        self.waiters[handle].addBoth(self.answers[handle].append)
        self.deadlines[handle] = self.clock.seconds() + seconds
        return handle

    @rule(handle=handles, state=st.sampled_from(State))
    def advance(self, handle: str, state: State) -> None:
        self.table.advance(handle, state)

    @rule(handle=handles, seconds=st.integers(0, 5))
    def shorten(self, handle: str, seconds: int) -> None:
        self.table.shorten(handle, seconds)
        end = self.clock.seconds() + seconds
        self.deadlines[handle] = min(self.deadlines[handle], end)

    @rule(handle=handles)
    def complete(self, handle: str) -> None:
        before = len(self.answers[handle])
        delivery = self.table.complete(handle, RESULT)
        if delivery is Delivery.ACCEPTED:
            assert len(self.answers[handle]) == 1
        else:
            assert delivery is Delivery.LATE
            assert len(self.answers[handle]) == before == 1

    @rule(handle=handles)
    def progress(self, handle: str) -> None:
        before = list(self.answers[handle])
        assert self.table.complete(handle, PROGRESS) in (Delivery.PROGRESS, Delivery.LATE)
        assert self.answers[handle] == before

    @rule(handle=handles)
    def fail(self, handle: str) -> None:
        self.table.fail(handle, Internal("a bug"))

    @rule(handle=consumes(handles))
    def leave(self, handle: str) -> None:
        self.waiters[handle].cancel()

    @rule(seconds=st.integers(1, 10))
    def pass_time(self, seconds: int) -> None:
        self.clock.advance(seconds)

    @rule()
    def stop(self) -> None:
        self.table.startService()
        self.table.stopService()
        assert len(self.table) == 0

    @invariant()
    def answers_each_client_once(self) -> None:
        for handle, answers in self.answers.items():
            assert len(answers) <= 1
            if self.deadlines[handle] <= self.clock.seconds() and not answers:
                # A deadline of now that was set now fires with the next step of the clock.
                assert self.deadlines[handle] == self.clock.seconds()
            for answer in answers:
                if isinstance(answer, Failure):
                    assert answer.check(Problem, CancelledError)

    @invariant()
    def holds_no_more_than_it_must(self) -> None:
        assert self.table.held == sum(not answers for answers in self.answers.values())
        assert self.table.held <= len(self.table) == len(self.clock.getDelayedCalls())

    def teardown(self) -> None:
        self.clock.advance(31)
        assert len(self.table) == 0
        assert self.clock.getDelayedCalls() == []
        assert all(len(answers) == 1 for answers in self.answers.values())


CorrelationMachineTests = CorrelationMachine.TestCase
