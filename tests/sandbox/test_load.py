"""Loads of jobclient: at a rate, for a duration, with bodies and keys; in memory."""

import io
import json
import math
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from jobproxy.http1.client import PlainClient
from jobproxy.sandbox.latencies import Latencies
from jobproxy.sandbox.load import LoadLoop, Plan
from jobproxy.sandbox.load_lines import COLUMNS, CsvWriter, LiveLine
from jobproxy.sandbox.load_outcomes import JobError, Outcome, accept_any_success
from jobproxy.sandbox.load_report import Ending, LoadReport
from jobproxy.sandbox.load_requests import LoadRequests
from jobproxy.sandbox.load_tally import MAX_ERRORS, Tally
from tests.support.agents import AgentSender
from tests.support.jobclient import FakeServer


class LoadTests(SynchronousTestCase):
    """Loads; when the test ends, no timer may be left."""

    def setUp(self) -> None:
        super().setUp()
        self.clock = Clock()
        self.clock.advance(1000)
        self.server = FakeServer()
        self.outcomes: list[Outcome] = []
        self.tally = Tally()

    def tearDown(self) -> None:
        super().tearDown()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def start(self, plan: Plan, **options: Any) -> Deferred[float]:
        requests = {"accounts": ("a",), "headers": (), **options}

        def record(outcome: Outcome) -> None:
            self.outcomes.append(outcome)
            self.tally.record(outcome)

        self.loop = LoadLoop(
            PlainClient(AgentSender(self.server.agent)),
            self.clock,
            plan,
            LoadRequests("http://jobs.example/start", **requests),
            accept_any_success,
            record,
        )
        return self.loop.run()

    def test_rate_does_not_depend_on_responses(self) -> None:
        """With a rate, jobs are sent in time although no response comes."""
        running = self.start(Plan(100, 60.0, rate=4, duration=2))
        for sent in range(1, 9):
            self.assertEqual(len(self.server.jobs), sent)
            self.clock.advance(0.25)
        self.clock.advance(5)
        self.assertEqual(len(self.server.jobs), 8)
        for number in range(8):
            self.server.respond(number)
        self.assertEqual(self.successResultOf(running), 7)

    def test_latency_begins_when_the_job_should_have_been_sent(self) -> None:
        """A job that waits for a place is measured from when it should have been sent."""
        running = self.start(Plan(1, 60.0, jobs=4, rate=2))
        self.clock.advance(3)
        self.server.respond(0)
        for number in range(1, 4):
            self.server.respond(number)
        self.assertEqual(self.successResultOf(running), 3)
        times = [(o.start - 1000, o.sent - 1000, o.end - o.start) for o in self.outcomes]
        self.assertEqual(times, [(0, 0, 3), (0.5, 3, 2.5), (1, 3, 2), (1.5, 3, 1.5)])
        self.assertEqual(self.tally.delays.maximum, 2.5)

    def test_job_without_a_place_in_its_time_is_not_sent(self) -> None:
        """A job that finds no place within the timeout fails unsent, so that the load ends."""
        running = self.start(Plan(1, 1.0, rate=4, duration=2))
        # The process was stopped for a while.
        self.clock.advance(5)
        self.successResultOf(running)
        texts = [outcome.error.text for outcome in self.outcomes if outcome.error is not None]
        self.assertEqual(len(texts), 8)
        self.assertEqual(set(texts), {"TimeoutError", "not sent: no free connection in 1 s"})
        self.assertLess(len(self.server.jobs), 4)

    def test_duration_alone_ends_a_closed_loop(self) -> None:
        """Without a rate, the duration ends the load once its jobs have their responses."""
        running = self.start(Plan(2, 60.0, duration=1))
        for number in range(0, 6, 2):
            self.clock.advance(0.5)
            self.server.respond(number)
            self.server.respond(number + 1) if number < 4 else None
            if len(self.server.jobs) <= number + 2:
                break
        self.assertEqual(self.successResultOf(running), 1.0)
        self.assertEqual(len(self.outcomes), 4)

    def test_stop_leaves_the_outcomes_so_far(self) -> None:
        """A load that is stopped has the outcomes so far, and the others are counted."""
        running = self.start(Plan(3, 60.0, jobs=9))
        self.clock.advance(1)
        self.server.respond(0)
        self.assertEqual(self.loop.active, 3)
        self.loop.stop()
        self.assertEqual(self.successResultOf(running), 1)
        self.assertEqual(len(self.outcomes), 1)
        self.assertEqual(self.loop.active, 0)

    def test_stop_between_two_jobs_ends_at_once(self) -> None:
        """A load that is stopped between two jobs ends at once."""
        running = self.start(Plan(3, 60.0, jobs=9, rate=1))
        self.server.respond(0)
        self.loop.stop()
        self.assertEqual(self.successResultOf(running), 0)

    def test_requests_have_numbers_accounts_headers_and_keys(self) -> None:
        """Data has the number and the account, used in turn; each job has a key of its own."""
        running = self.start(
            Plan(9, 60.0, jobs=3),
            accounts=("a", "b"),
            headers=((b"X-Team", b"blue"), (b"content-type", b"text/plain")),
            data=b'{"n": {n}, "for": "{account}"}',
            key_prefix="k",
        )
        sent = [json.loads(job.raw) for job in self.server.jobs]
        self.assertEqual(sent, [{"n": 1, "for": "a"}, {"n": 2, "for": "b"}, {"n": 3, "for": "a"}])
        heads = [job.request.requestHeaders for job in self.server.jobs]
        keys = [head.getRawHeaders("idempotency-key") for head in heads]
        self.assertEqual(keys, [["k-1"], ["k-2"], ["k-3"]])
        self.assertEqual(heads[0].getRawHeaders("x-team"), ["blue"])
        self.assertEqual(heads[0].getRawHeaders("content-type"), ["text/plain"])
        for number in range(3):
            self.server.respond(number, b"", 202)
        self.successResultOf(running)
        self.assertEqual(self.tally.statuses, {202: 3})

    def test_problems_are_counted_by_type_with_a_request_id(self) -> None:
        """Errors are counted by type, status and text, and show one request id."""
        running = self.start(Plan(3, 60.0, jobs=3))
        for number in range(3):
            self.server.jobs[number].request.setHeader("X-Request-Id", f"r{number}")
        problem = b'{"type":"urn:x:busy","title":"Too busy"}'
        self.server.respond(0, problem, 503)
        self.server.respond(1, problem, 503)
        self.server.respond(2, b"no", 400)
        report = LoadReport(self.tally, Ending(self.successResultOf(running)))
        self.assertEqual(report.reasons, ["3 of 3 jobs failed"])
        self.assertEqual(
            json.loads(report.to_json())["errors"],
            [
                {
                    "count": 2,
                    "status": 503,
                    "type": "urn:x:busy",
                    "error": "Too busy",
                    "requestId": "r0",
                },
                {"count": 1, "status": 400, "type": None, "error": "no", "requestId": "r2"},
            ],
        )
        self.assertIn("2      503     urn:x:busy  Too busy  r0", report.to_text())

    def test_live_line_has_the_rate_since_the_last_one(self) -> None:
        """The live line has the rate since the last one, the percentiles and the held jobs."""
        self.start(Plan(2, 60.0, jobs=9))
        shown: list[str] = []
        line = LiveLine(shown.append, lambda: 200, self.tally, self.loop, 1000)
        self.clock.advance(0.5)
        self.server.respond(0)
        line.show(1000.5)
        self.assertEqual(
            shown[0],
            "\r0 s  2 jobs/s  1 succeeded  0 failed  2 held  "
            "p50 500 ms  p90 500 ms  p99 500 ms\x1b[K",
        )
        line.clear()
        self.loop.stop()


class ReportTests(SynchronousTestCase):
    """Reports, and the lines of CSV."""

    def test_reason_of_a_failure_is_always_given(self) -> None:
        """The report says why a load failed: the time above the limit, or an interruption."""
        tally = Tally()
        tally.record(Outcome(1, "a", 0, 0, 1, 200))
        for ending, verdict in (
            (Ending(11.2, 5), "FAILED: took 11.2 s, limit 5 s"),
            (Ending(5.01, 5), "FAILED: took 5.010 s, limit 5 s"),
            (Ending(1, 5, 7), "FAILED: interrupted, 7 jobs had no response yet"),
            (Ending(500), "PASSED"),
        ):
            report = LoadReport(tally, ending)
            self.assertEqual(report.to_text().splitlines()[-1], verdict)
            self.assertEqual(json.loads(report.to_json())["result"], verdict.partition(":")[0])

    def test_report_without_a_job_has_no_latency(self) -> None:
        """A load that was interrupted before its first response has a report."""
        report = LoadReport(Tally(), Ending(0.0, None, 3), 5)
        self.assertIn("interrupted", report.to_text())
        self.assertIsNone(json.loads(report.to_json())["latency"]["p99.9"])

    def test_different_errors_are_bounded(self) -> None:
        """Errors that are all different do not fill the memory; all are counted."""
        tally = Tally()
        for number in range(1000):
            error = JobError(500, "", f"error {number}")
            tally.record(Outcome(number, "a", 0, 0, 1, 500, error=error))
        self.assertEqual(len(tally.errors), MAX_ERRORS + 1)
        self.assertEqual(sum(known.count for known in tally.errors.values()), 1000)

    def test_each_job_is_a_line_of_csv(self) -> None:
        """Each job is a line of CSV, with times relative to the beginning."""
        file = io.StringIO()
        writer = CsvWriter(file, 1000, self.fail)
        writer.record(Outcome(1, "a", 1000.5, 1001, 1002, 200, "r1"))
        error = JobError(503, "urn:x:busy", 'Too "busy", \x1b')
        writer.record(Outcome(2, "b,c", 1001, 1001, 1001.25, 503, error=error))
        writer.close()
        self.assertEqual(
            file.getvalue().splitlines(),
            [
                ",".join(COLUMNS),
                "1,a,0.500000,1.000000,1.500000,200,,,r1",
                '2,"b,c",1.000000,1.000000,0.250000,503,urn:x:busy,"Too ""busy"", \\x1b",',
            ],
        )


class LatenciesTests(SynchronousTestCase):
    """Latencies in buckets."""

    @given(st.lists(st.floats(0, 100_000), min_size=1, max_size=200))
    def test_percentiles_are_exact_within_a_bucket(self, times: list[float]) -> None:
        """A percentile is the exact one or at most 0.2 % and a microsecond above it."""
        latencies = Latencies()
        for time in times:
            latencies.observe(time)
        times.sort()
        percents = (1, 50, 90, 99, 99.9, 100)
        for percent, found in zip(percents, latencies.percentiles(*percents), strict=True):
            exact = times[max(0, math.ceil(round(len(times) * percent / 100, 6)) - 1)]
            assert found is not None
            self.assertGreaterEqual(found, exact)
            self.assertLessEqual(found, exact * 1.002 + 1.1e-6)
        bars = latencies.bars(10)
        self.assertEqual(sum(count for _, count in bars), len(times))
        self.assertEqual((latencies.minimum, latencies.maximum), (times[0], times[-1]))

    def test_buckets_are_bounded(self) -> None:
        """A million different latencies up to a day need at most 15,000 buckets."""
        latencies = Latencies()
        for number in range(1_000_000):
            latencies.observe(86_400 * 1.00002**-number)
        self.assertLess(len(latencies._counts), 15_000)
