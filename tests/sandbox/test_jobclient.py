"""jobclient: its runs, in memory."""

import json
from collections import Counter

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionLost
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.client import ResponseNeverReceived

from jobproxy.http1.client import PlainClient
from jobproxy.http1.sender import ISender
from jobproxy.sandbox.load import MAX_BODY, LoadLoop, Plan
from jobproxy.sandbox.load_outcomes import Outcome, read_result
from jobproxy.sandbox.load_report import Ending
from jobproxy.sandbox.load_requests import LoadRequests
from jobproxy.sandbox.reports import Collector, Report
from tests.support.agents import AgentSender, FailingSender
from tests.support.clients import JSON
from tests.support.jobclient import FakeServer, make_job, result_of


class SampleTests(SynchronousTestCase):
    """Runs of jobs; when the test ends, no timer may be left."""

    def setUp(self) -> None:
        super().setUp()
        self.clock = Clock()
        # Not zero, so that a time is not mistaken for a duration.
        self.clock.advance(1000)
        self.server = FakeServer()
        self.sender: ISender = AgentSender(self.server.agent)
        self.advanced: list[float] = []

    def tearDown(self) -> None:
        super().tearDown()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def run_jobs(self, jobs: int, concurrency: int = 50, limit: float = 5.0) -> Deferred[Report]:
        collector = Collector()

        def record(outcome: Outcome) -> None:
            self.advanced.append(self.clock.seconds())
            collector.record(outcome)

        loop = LoadLoop(
            PlainClient(self.sender),
            self.clock,
            Plan(concurrency, 120.0, jobs),
            LoadRequests("http://jobs.example/start", ("example",), ()),
            read_result,
            record,
        )
        return loop.run().addCallback(lambda total: collector.report(Ending(total, limit)))

    def count_errors(self, running: Deferred[Report]) -> dict[str, int]:
        """Return the errors of a run that has ended and did not pass."""
        report = self.successResultOf(running)
        self.assertFalse(report.passed)
        self.assertEqual(len(report.jobs), len(report.durations))
        return dict(report.errors)

    def test_run_passes_when_all_jobs_succeed(self) -> None:
        """When every job gets its result, the report has all of them and passes."""
        running = self.run_jobs(50)
        self.clock.advance(0.5)
        self.assertEqual(len(self.server.jobs), 50)
        for number in range(50):
            self.assertNoResult(running)
            self.server.respond(number)
        report = self.successResultOf(running)
        self.assertEqual(sorted(report.durations), [0.5] * 50)
        self.assertEqual(list(report.jobs), [make_job(number) for number in range(50)])
        self.assertEqual(report.errors, Counter())
        self.assertEqual(report.ending, Ending(0.5, 5.0))
        self.assertTrue(report.passed)

    def test_request_waits_and_has_the_account(self) -> None:
        """A request waits and has the account; its body and type are JSON."""
        running = self.run_jobs(1)
        (job,) = self.server.jobs
        self.assertEqual(json.loads(job.raw), {"account": "example", "wait": True})
        self.assertEqual(job.request.getHeader("content-type"), JSON)
        self.server.respond(0)
        self.successResultOf(running)

    def test_progress_advances_after_each_job(self) -> None:
        """After each job, however it ended, the progress advances."""
        running = self.run_jobs(3)
        self.clock.advance(1)
        self.server.respond(1)
        self.clock.advance(1)
        self.server.respond(0, b"", 500)
        self.assertEqual(self.advanced, [1001, 1002])
        self.server.respond(2)
        self.successResultOf(running)
        self.assertEqual(self.advanced, [1001, 1002, 1002])

    def test_concurrency_bounds_the_requests_at_once(self) -> None:
        """There are no more requests at once than the concurrency; each response frees one."""
        running = self.run_jobs(10, concurrency=3)
        for number in range(10):
            self.assertEqual(len(self.server.jobs), min(10, number + 3))
            self.clock.advance(0.5)
            self.server.respond(number)
        report = self.successResultOf(running)
        self.assertEqual(len(self.server.jobs), 10)
        self.assertEqual(list(report.durations), [0.5, 1.0] + [1.5] * 8)
        self.assertEqual(report.ending.total, 5.0)
        self.assertTrue(report.passed)

    def test_slow_job_does_not_block_others(self) -> None:
        """A slow job does not block others."""
        running = self.run_jobs(6, concurrency=2)
        for number in range(1, 6):
            self.server.respond(number)
        self.assertEqual(len(self.server.jobs), 6)
        self.assertNoResult(running)
        self.clock.advance(1)
        self.server.respond(0)
        report = self.successResultOf(running)
        self.assertEqual([job.job_id for job in report.jobs], ["1", "2", "3", "4", "5", "0"])
        self.assertEqual(list(report.durations), [0, 0, 0, 0, 0, 1])

    def test_single_job_is_a_single_request(self) -> None:
        """A single job is a single request."""
        running = self.run_jobs(1, concurrency=50)
        self.assertEqual(len(self.server.jobs), 1)
        self.server.respond(0)
        self.assertEqual(len(self.successResultOf(running).jobs), 1)

    def test_run_above_the_limit_fails(self) -> None:
        """A run passes if it takes exactly the limit, and fails if it takes longer."""
        for seconds, passed in ((5.0, True), (5.125, False)):
            running = self.run_jobs(1)
            self.clock.advance(seconds)
            self.server.respond(-1)
            report = self.successResultOf(running)
            self.assertEqual((report.ending.total, report.passed), (seconds, passed))
            self.assertEqual(report.errors, Counter())

    def test_other_statuses_are_errors(self) -> None:
        """Another status than 200 is an error, counted by status and title or first words."""
        running = self.run_jobs(8)
        self.server.respond(0, b"busy", 503)
        self.server.respond(1, b"busy", 503)
        self.server.respond(2, b"slow down", 503)
        self.server.respond(3, b"\xff" + b"x" * 1000, 400)
        self.server.respond(4, result_of(4), 202)
        self.server.respond(5)
        self.server.respond(6, b'{"title":"Too busy","requestId":"1"}', 429)
        self.server.respond(7, b'{"title":"Too\\nbusy","requestId":"2"}', 429)
        self.assertEqual(
            self.count_errors(running),
            {
                "status 503: busy": 2,
                "status 503: slow down": 1,
                "status 400: \ufffd" + "x" * 99: 1,
                "status 429: Too busy": 2,
                f"status 202: {result_of(4).decode()[:100]}": 1,
            },
        )

    def test_response_that_is_no_result_is_an_error(self) -> None:
        """A response that is not a result is an error."""
        bodies = (
            b"",
            b"<html>",
            b"\xff",
            b"null",
            b"[]",
            b"[1]",
            b'"completed"',
            b"{}",
            b'{"state":"completed"}',
            json.dumps(make_job(1).ack()).encode(),
            b"[" * 50_000,
            result_of(1, id=7),
        )
        running = self.run_jobs(len(bodies))
        for number, body in enumerate(bodies):
            self.server.respond(number, body)
        self.assertEqual(self.count_errors(running), {"response is not a result": len(bodies)})

    def test_job_that_did_not_complete_is_an_error(self) -> None:
        """A job that did not complete is an error."""
        running = self.run_jobs(4)
        for number, state in enumerate(("failed", "running", "failed", "completed")):
            self.server.respond(number, result_of(number, state=state))
        self.assertEqual(
            self.count_errors(running),
            {"job ended with state failed": 2, "job ended with state running": 1},
        )

    def test_large_response_is_an_error(self) -> None:
        """A response above the maximum size is an error."""
        running = self.run_jobs(2)
        self.server.respond(0, b" " * MAX_BODY + result_of(0))
        self.server.respond(1, b" " * 10_000 + result_of(1))
        self.assertEqual(self.count_errors(running), {"BodyTooBig": 1})

    def test_failed_connection_is_an_error(self) -> None:
        """A connection that fails is an error, by the name of the exception."""
        self.sender = FailingSender(ConnectionLost())
        self.assertEqual(self.count_errors(self.run_jobs(3)), {"ConnectionLost": 3})

    def test_wrapped_exception_is_named(self) -> None:
        """An exception that Twisted has wrapped is named."""
        error = ResponseNeverReceived([Failure(ResponseNeverReceived([Failure(ConnectionLost())]))])
        self.sender = FailingSender(error)
        self.assertEqual(self.count_errors(self.run_jobs(2)), {"ConnectionLost": 2})

    def test_job_without_a_response_times_out(self) -> None:
        """A job without a response times out; the others count."""
        running = self.run_jobs(3, concurrency=2)
        self.clock.advance(0.5)
        self.server.respond(0)
        self.clock.advance(0.5)
        self.server.respond(2)
        self.clock.advance(118.5)
        self.assertNoResult(running)
        self.clock.advance(0.5)
        report = self.successResultOf(running)
        self.assertEqual(len(report.jobs), 2)
        self.assertEqual(report.errors, Counter({"TimeoutError": 1}))
        self.assertEqual(report.ending.total, 120)
        self.assertFalse(report.passed)

    def test_next_job_starts_after_a_timeout(self) -> None:
        """After a timeout the next job starts."""
        running = self.run_jobs(2, concurrency=1, limit=1000)
        self.clock.advance(120)
        self.assertEqual(len(self.server.jobs), 2)
        self.clock.advance(1)
        self.server.respond(1)
        report = self.successResultOf(running)
        self.assertEqual((list(report.durations), report.ending.total), ([1], 121))
        self.assertFalse(report.passed)
