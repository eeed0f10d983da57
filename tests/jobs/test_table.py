"""The correlation table: single rules of who is told what, and what is kept for how long."""

import gc
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from jobproxy.jobs.delivery import Delivery
from jobproxy.jobs.record import JobRecord, State
from jobproxy.jobs.retention import OVERHEAD, Bounds
from jobproxy.jobs.table import CorrelationTable
from jobproxy.wire.jobs import Report
from jobproxy.wire.problems import Kind, Problem, ProblemError
from jobproxy.wire.tokens import LIFETIME

ACK = Report(b'{"id":"1","state":"running"}', "1", "running")
RESULT = Report(b'{"id":"1"}', "1", "completed")
RETAIN = 300.0
BUG = Problem(Kind.INTERNAL, "a bug")
DRAINING = Problem(Kind.DRAINING, "soon over")


class TableTestCase(SynchronousTestCase):
    """A table; when the test ends, nothing may be left in it."""

    def setUp(self) -> None:
        super().setUp()
        self.clock = Clock()
        self.table = CorrelationTable(self.clock, RETAIN)
        self.withdrawn: list[str] = []

    def tearDown(self) -> None:
        super().tearDown()
        self.assertEqual(self.table.clients.held, 0)
        self.clock.pump([LIFETIME, LIFETIME])
        self.assertEqual((len(self.table), self.table.retention.retained), (0, 0))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def expect(self, job_id: str = "a", **kwargs: Any) -> JobRecord:
        return self.table.create(job_id, lambda: self.withdrawn.append(job_id), **kwargs)

    def hold(
        self, job_id: str = "a", seconds: float = 30, **kwargs: Any
    ) -> tuple[JobRecord, Deferred[JobRecord]]:
        """Have a client wait for a job of its own."""
        record = self.expect(job_id, **kwargs)
        return record, self.table.clients.wait(record, seconds)

    def problem_of(self, waiting: Deferred[JobRecord], kind: Kind) -> Problem:
        """Return the problem that a client got, which has to be of this kind."""
        error = self.failureResultOf(waiting, ProblemError).value
        assert isinstance(error, ProblemError)
        self.assertIs(error.problem.kind, kind)
        return error.problem

    def orphan(self, job_id: str, report: Report = RESULT) -> None:
        """Have a result come that nobody waits for."""
        self.assertIs(self.table.complete(job_id, report), Delivery.LATE)


class GarbageTests(TableTestCase):
    def test_none(self) -> None:
        """A job that has ended, however it did, leaves nothing that only the collector finds."""

        def end_all() -> None:
            for number in range(10):
                self.hold(f"result {number}")
                self.table.complete(f"result {number}", RESULT)
                record, answered = self.hold(f"problem {number}")
                self.table.fail(record, BUG)
                self.failureResultOf(answered)
                _, answered = self.hold(f"left {number}")
                answered.addErrback(lambda _: None)
                answered.cancel()

        end_all()
        self.table.stopService()
        gc.collect()
        gc.disable()
        self.addCleanup(gc.enable)
        end_all()
        self.assertEqual(gc.collect(), 0)


class WaitingTests(TableTestCase):
    """Who is told what, and when."""

    def test_handle_in_use(self) -> None:
        """A second job of the same handle is refused, and the first one stays."""
        record, waiting = self.hold()
        with self.assertRaises(ValueError):
            self.expect()
        self.table.complete("a", RESULT)
        self.assertIs(self.successResultOf(waiting), record)

    def test_answers_all(self) -> None:
        """Q16: everybody who waits gets the one result, and nobody's leaving ends the wait."""
        record, first = self.hold()
        second, third = self.table.clients.wait(record, 10), self.table.clients.wait(record, 10)
        self.assertEqual(self.table.clients.held, 3)
        first.cancel()
        self.failureResultOf(first)
        self.assertEqual((self.table.clients.held, len(self.table)), (2, 1))
        self.assertIs(self.table.complete("a", RESULT), Delivery.ACCEPTED)
        for waiting in (second, third):
            self.assertIs(self.successResultOf(waiting).result, RESULT)

    def test_answers_may_ask_again(self) -> None:
        """Whoever is answered finds the job ended, and its result kept."""
        found: list[object] = []
        record, waiting = self.hold()

        def look(_: object) -> None:
            found.extend((len(self.table), self.table.retention.retained, self.table.clients.held))
            found.append(self.successResultOf(self.table.clients.wait(record, 30)).result)

        waiting.addCallback(look)
        self.table.complete("a", RESULT)
        self.assertEqual(found, [0, 1, 0, RESULT])

    def test_ack_is_enough(self) -> None:
        """Q3: who only wants the ack gets it at once, also if it has come before."""
        record, held = self.hold()
        waiting = self.table.clients.wait(record, 30, ack_is_enough=True)
        self.table.send(record)
        self.assertNoResult(waiting)
        self.table.acknowledge(record, ACK)
        self.assertIs(self.successResultOf(waiting).ack, ACK)
        again = self.table.clients.wait(record, 30, ack_is_enough=True)
        self.assertIs(self.successResultOf(again), record)
        self.assertNoResult(held)
        self.table.complete("a", RESULT)
        self.successResultOf(held)
        self.assertIsNone(record.ack)

    def test_shortening_never_lengthens(self) -> None:
        """S6: the grace after an ambiguous start ends at the deadline at the latest."""
        jobs = {seconds: self.hold(f"{seconds}") for seconds in (2, 60)}
        for seconds, (record, _) in jobs.items():
            self.table.send(record)
            self.table.doubt(record)
            self.table.clients.shorten(record, seconds)
        self.clock.advance(2)
        self.problem_of(jobs[2][1], Kind.START_UNKNOWN)
        self.assertNoResult(jobs[60][1])
        self.clock.advance(28)
        self.problem_of(jobs[60][1], Kind.START_UNKNOWN)

    def test_stops_while_it_answers(self) -> None:
        """G1: the proxy may stop as soon as nobody is held: nobody is forgotten, nothing stays."""
        for end in (self.end_by_result, self.end_by_leaving, self.end_by_deadline):
            record, waiting = self.hold()
            self.table.send(record)
            self.table.startService()
            self.table.clients.when_idle().addCallback(lambda _: self.table.stopService())
            end(record, waiting)
            self.assertEqual(
                (len(self.table), self.table.retention.retained, self.table.clients.held), (0, 0, 0)
            )
            self.assertEqual(self.clock.getDelayedCalls(), [])

    def end_by_result(self, record: JobRecord, waiting: Deferred[JobRecord]) -> None:
        self.table.complete("a", RESULT)
        self.assertIs(self.successResultOf(waiting).result, RESULT)

    def end_by_leaving(self, record: JobRecord, waiting: Deferred[JobRecord]) -> None:
        waiting.cancel()
        self.failureResultOf(waiting)

    def end_by_deadline(self, record: JobRecord, waiting: Deferred[JobRecord]) -> None:
        self.clock.advance(30)
        self.problem_of(waiting, Kind.START_UNKNOWN)

    def test_idle(self) -> None:
        """G1: who waits until nobody is held is told once, and may give up."""
        self.successResultOf(self.table.clients.when_idle())
        _, first = self.hold("a")
        _, second = self.hold("b")
        idle, given_up = self.table.clients.when_idle(), self.table.clients.when_idle()
        given_up.cancel()
        self.failureResultOf(given_up)
        self.table.complete("a", RESULT)
        self.assertNoResult(idle)
        self.table.complete("b", RESULT)
        self.successResultOf(idle)
        self.successResultOf(first)
        self.successResultOf(second)

    def test_tells_at_stop_what_was_started(self) -> None:
        """G1: at the end each client is told whether its job was started, and queued ones go."""
        states = (None, State.STARTING, State.RUNNING)
        waiting = []
        for job_id, state in zip("abc", states, strict=True):
            record, answered = self.hold(job_id)
            waiting.append(answered)
            if state is not None:
                self.table.send(record)
            if state is State.RUNNING:
                self.table.acknowledge(record, ACK)
        self.table.startService()
        self.table.stopService()
        problems = [self.problem_of(each, Kind.DRAINING) for each in waiting]
        self.assertEqual([problem.started for problem in problems], ["no", "unknown", "yes"])
        self.assertEqual([problem.job_id for problem in problems], ["a", "b", "c"])
        self.assertEqual(self.withdrawn, ["a"])
        self.assertFalse(self.table.running)
        self.assertEqual(self.clock.getDelayedCalls(), [])


class EndingTests(TableTestCase):
    """What ends a job, and what comes after that."""

    def test_conflict_changes_nothing(self) -> None:
        """B8: a callback about another id is refused, whatever its state, and changes nothing."""
        record, waiting = self.hold()
        self.table.send(record)
        self.table.acknowledge(record, ACK)
        for state in ("running", "completed"):
            self.assertTrue(self.table.complete("a", Report(b"{}", "2", state)).is_refused)
        self.assertNoResult(waiting)
        self.table.complete("a", RESULT)
        self.assertEqual(self.successResultOf(waiting).upstream_id, "1")

    def test_id_of_the_callback(self) -> None:
        """S12: where the ack has no id, the callback's is the job's."""
        record, waiting = self.hold()
        self.table.send(record)
        self.table.acknowledge(record, Report(b"{}", None, None))
        self.table.complete("a", RESULT)
        self.assertEqual(self.successResultOf(waiting).upstream_id, "1")
        self.assertTrue(self.table.complete("a", Report(RESULT.body, "2", "completed")).is_refused)

    def test_started_twice(self) -> None:
        """B2: of a job that was started again both ids are right, and the first result counts."""
        record, waiting = self.hold()
        for upstream_id in ("1", "2"):
            self.table.send(record)
            self.table.acknowledge(record, Report(b"{}", upstream_id, "running"))
        self.assertIs(self.table.complete("a", RESULT), Delivery.ACCEPTED)
        other = Report(b'{"id":"2"}', "2", "completed")
        self.assertIs(self.table.complete("a", other), Delivery.DUPLICATE)
        self.assertIs(self.successResultOf(waiting).result, RESULT)

    def test_result_after_a_failure(self) -> None:
        """B5: a result counts more than that the job could not be started, and is kept."""
        record, waiting = self.hold()
        self.table.fail(record, BUG)
        first = self.failureResultOf(waiting, ProblemError).value
        second = self.failureResultOf(self.table.clients.wait(record, 30), ProblemError).value
        self.assertIs(first.problem, second.problem)
        self.assertIsNot(first, second)
        self.orphan("a")
        self.assertEqual(self.table.retention.find_orphan("a"), RESULT.body)
        self.assertIs(self.successResultOf(self.table.clients.wait(record, 30)).result, RESULT)

    def test_fails_once(self) -> None:
        """A job that has its outcome cannot fail any more."""
        record, waiting = self.hold()
        self.table.complete("a", RESULT)
        self.table.fail(record, BUG)
        self.assertIs(self.successResultOf(waiting).result, RESULT)
        self.assertIsNone(record.problem)

    def test_fails_after_the_end(self) -> None:
        """A start that fails once its job is forgotten leaves nothing behind."""
        record, waiting = self.hold()
        self.table.send(record)
        self.table.startService()
        self.table.stopService()
        self.problem_of(waiting, Kind.DRAINING)
        self.table.fail(record, BUG)
        self.assertEqual((len(self.table), self.table.retention.retained), (0, 0))
        self.assertIsNone(self.table.find("a"))

    def test_drain_ends_what_is_queued(self) -> None:
        """G1: only jobs that have not been started end when the proxy drains."""
        _, queued = self.hold("a")
        record, started = self.hold("b")
        self.table.send(record)
        self.table.fail_queued(DRAINING)
        self.problem_of(queued, Kind.DRAINING)
        self.assertNoResult(started)
        self.assertEqual(self.withdrawn, ["a"])
        self.table.complete("b", RESULT)
        self.successResultOf(started)

    def test_retracted_start(self) -> None:
        """S17: a start that was refused leaves the job as it was before."""
        record, waiting = self.hold()
        told: list[str] = []
        for state in (State.UNCONFIRMED, State.RUNNING, None):
            self.table.send(record)
            self.table.retract(record, lambda: told.append("withdrawn"))
            told.append(f"{record.state.word} {record.started}")
            if state is not None:
                self.table.send(record)
                if state is State.RUNNING:
                    self.table.acknowledge(record, ACK)
                else:
                    self.table.doubt(record)
        self.assertEqual(told, ["queued no", "unconfirmed unknown", "running yes"])
        self.table.complete("a", RESULT)
        self.successResultOf(waiting)
        self.assertEqual(told[3:], ["withdrawn"])
        self.table.retract(record, lambda: None)
        self.assertIs(record.state, State.COMPLETED)

    def test_queued_until_the_deadline(self) -> None:
        """B11: a job that is still queued at its last client's deadline is withdrawn then."""
        record, waiting = self.hold(seconds=10)
        other = self.table.clients.wait(record, 20)
        self.clock.advance(10)
        problem = self.problem_of(waiting, Kind.WAIT_OVER)
        self.assertEqual((problem.started, problem.job_id, self.withdrawn), ("unknown", "a", []))
        self.clock.advance(10)
        self.assertEqual(self.problem_of(other, Kind.WAIT_OVER).started, "no")
        self.assertEqual(self.withdrawn, ["a"])
        self.problem_of(self.table.clients.wait(record, 30), Kind.WAIT_OVER)


class KeepingTests(TableTestCase):
    """How long, and how much, is kept."""

    def test_aliases(self) -> None:
        """A job is found by its other name until it is forgotten, or another job takes the name."""
        first, waiting = self.hold("a", key_digest=b"key", request_digest=b"print")
        self.assertIs(self.table.find_key(b"key"), first)
        self.assertEqual(first.request_digest, b"print")
        second, other = self.hold("b", key_digest=b"key")
        waiting.cancel()
        self.failureResultOf(waiting)
        self.assertIs(self.table.find_key(b"key"), second)
        self.table.complete("b", RESULT)
        self.successResultOf(other)
        self.assertIs(self.table.find_key(b"key"), second)
        self.clock.advance(RETAIN)
        self.assertIsNone(self.table.find_key(b"key"))

    def test_queued_job_that_was_only_looked_at(self) -> None:
        """Q15: a queued job that nobody wants any more is over, and who asks for it is told so."""
        record, waiting = self.hold()
        looking = self.table.clients.wait(record, 10, is_poll=True)
        waiting.cancel()
        self.failureResultOf(waiting)
        self.problem_of(looking, Kind.WAIT_OVER)
        self.clock.advance(LIFETIME)
        self.assertIsNone(self.table.find("a"))

    def test_collected_orphans_stay(self) -> None:
        """B4: an orphan that somebody asks for is none any more, and is kept from then on."""
        self.orphan("a")
        record = self.table.find("a")
        assert record is not None
        self.clock.advance(RETAIN - 1)
        self.assertEqual(list(self.table.retention.orphans), [record])
        self.successResultOf(self.table.clients.wait(record, 30))
        self.assertEqual(list(self.table.retention.orphans), [])
        self.assertIsNone(self.table.retention.find_orphan("a"))
        self.table.drop_orphan("a")
        self.clock.advance(RETAIN - 1)
        self.assertIs(self.successResultOf(self.table.clients.wait(record, 30)).result, RESULT)
        self.clock.advance(1)
        self.assertIsNone(self.table.find("a"))

    def test_unattended_jobs_are_bounded(self) -> None:
        """Q16: of the jobs that nobody waits for the oldest are forgotten, without harm."""
        self.table = CorrelationTable(self.clock, RETAIN, bounds=Bounds(number=1))
        records = []
        for job_id in "ab":
            record, waiting = self.hold(job_id)
            self.table.send(record)
            waiting.cancel()
            self.failureResultOf(waiting)
            records.append(record)
        self.assertIsNone(self.table.find("a"))
        self.assertEqual(len(self.table), 1)
        self.table.fail(records[0], BUG)
        self.table.acknowledge(records[0], ACK)
        self.assertIsNone(self.table.find("a"))
        self.orphan("a")
        self.assertEqual([record.job_id for record in list(self.table.retention.orphans)], ["a"])

    def test_outcomes_are_bounded(self) -> None:
        """B2: what is kept of ended jobs is bounded in bytes; the oldest go first."""
        big = Report(b"x" * 4_000, None, "completed")
        self.table = CorrelationTable(
            self.clock, RETAIN, bounds=Bounds(size=2 * (OVERHEAD + 4_000))
        )
        for job_id in "abc":
            _, waiting = self.hold(job_id)
            self.table.complete(job_id, big)
            self.successResultOf(waiting)
        self.assertEqual([job_id for job_id in "abc" if self.table.find(job_id)], ["b", "c"])
        # Of orphans there may be as much again.
        self.orphan("d", big)
        self.assertEqual([job_id for job_id in "abcd" if self.table.find(job_id)], ["b", "c", "d"])
