"""A correlation table on a clock, without start requests: tests are its callers."""

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from jobproxy.jobs.delivery import Delivery
from jobproxy.jobs.record import JobRecord
from jobproxy.jobs.table import CorrelationTable
from jobproxy.wire.problems import Kind, Problem, ProblemError
from jobproxy.wire.reports import Report
from jobproxy.wire.tokens import LIFETIME

ACK = Report(b'{"id":"1","state":"running"}', "1", "running")
RESULT = Report(b'{"id":"1"}', "1", "completed")
RETAIN = 300.0
BUG = Problem(Kind.INTERNAL, "a bug")


class TableTestCase(SynchronousTestCase):
    """A table; when the test ends, nothing may be left in it."""

    def setUp(self) -> None:
        super().setUp()
        self.clock = Clock()
        self.table = CorrelationTable(self.clock, RETAIN)
        #: The jobs whose start was cancelled.
        self.cancelled: list[str] = []

    def tearDown(self) -> None:
        super().tearDown()
        self.assertEqual(self.table.clients.held, 0)
        self.clock.pump([LIFETIME, LIFETIME])
        self.assertEqual((len(self.table), self.table.retention.retained), (0, 0))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def create(self, job_id: str = "a", **kwargs: Any) -> JobRecord:
        """Create the record of a job that no client waits for yet."""
        return self.table.create(job_id, lambda: self.cancelled.append(job_id), **kwargs)

    def hold(
        self, job_id: str = "a", seconds: float = 30, **kwargs: Any
    ) -> tuple[JobRecord, Deferred[JobRecord]]:
        """Hold a client with a job of its own."""
        record = self.create(job_id, **kwargs)
        return record, self.table.clients.wait(record, seconds)

    def problem_of(self, waiting: Deferred[JobRecord], kind: Kind) -> Problem:
        """Return the problem that a client got, which has to be of this kind."""
        error = self.failureResultOf(waiting, ProblemError).value
        assert isinstance(error, ProblemError)
        self.assertIs(error.problem.kind, kind)
        return error.problem

    def complete_late(self, job_id: str, report: Report = RESULT) -> None:
        """Complete a job that no client waits for."""
        self.assertIs(self.table.complete(job_id, report)[0], Delivery.LATE)
