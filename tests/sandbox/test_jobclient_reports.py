"""jobclient: its reports."""

import json

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from jobproxy.sandbox.proofs import pack_proof, unpack_proof
from tests.support.jobclient import make_job, make_report


class TextReportTests(SynchronousTestCase):
    """The report as text."""

    def test_passed_run_is_reported_as_in_the_sample(self) -> None:
        """A run that passed is reported as in the sample, with its proof."""
        report = make_report(
            [1.384823579] * 25 + [1.0, 1.769647158] * 12 + [1.384823579], total=2.5
        )
        self.assertEqual(
            report.to_text(),
            "Succeeded: 50\n"
            "Average Duration: 1.384823579 seconds\n"
            "Total Duration: 2.500000000 seconds\n"
            "\n"
            "WORK SAMPLE RESULT: PASSED\n"
            "\n"
            "Proof:\n"
            f"{pack_proof(report.jobs)}",
        )
        proof = report.to_text().splitlines()[-1]
        self.assertEqual(unpack_proof(proof), [make_job(number) for number in range(50)])

    def test_errors_are_listed_without_a_proof(self) -> None:
        """Errors are listed, the most frequent first, and there is no proof."""
        report = make_report([0.5, 1.0], {"TimeoutError": 1, "status 503: busy": 3})
        self.assertEqual(
            report.to_text(),
            "Succeeded: 2\n"
            "Failed: 3 (status 503: busy)\n"
            "Failed: 1 (TimeoutError)\n"
            "Average Duration: 0.750000000 seconds\n"
            "Total Duration: 1.400000000 seconds\n"
            "\n"
            "WORK SAMPLE RESULT: FAILED\n"
            "\n"
            "FAILED: 4 of 6 jobs failed",
        )

    def test_there_is_no_average_without_a_success(self) -> None:
        """Without a job that succeeded there is no average."""
        self.assertEqual(
            make_report([], {"ConnectionLost": 50}).to_text(),
            "Succeeded: 0\n"
            "Failed: 50 (ConnectionLost)\n"
            "Total Duration: 1.400000000 seconds\n"
            "\n"
            "WORK SAMPLE RESULT: FAILED\n"
            "\n"
            "FAILED: 50 of 50 jobs failed",
        )

    def test_slow_run_fails(self) -> None:
        """A run that took longer than its limit fails, even if no job failed."""
        self.assertEqual(
            make_report([0.5], total=5.000000001).to_text(),
            "Succeeded: 1\n"
            "Average Duration: 0.500000000 seconds\n"
            "Total Duration: 5.000000001 seconds\n"
            "\n"
            "WORK SAMPLE RESULT: FAILED\n"
            "\n"
            "FAILED: took 5.000000001 s, limit 5 s",
        )


class JsonReportTests(SynchronousTestCase):
    """The report as JSON."""

    def test_passed_run_has_all_numbers_and_its_proof(self) -> None:
        """A run that passed has all numbers and its proof."""
        report = make_report([number / 4 for number in range(100, 0, -1)], total=4.5)
        self.assertEqual(
            json.loads(report.to_json()),
            {
                "result": "PASSED",
                "reasons": [],
                "succeeded": 100,
                "failed": 0,
                "errors": {},
                "total": 4.5,
                "limit": 5.0,
                "average": 12.625,
                "p50": 12.5,
                "p95": 23.75,
                "p99": 24.75,
                "max": 25.0,
                "proof": pack_proof(report.jobs),
            },
        )

    def test_failed_run_has_its_errors_and_a_proof(self) -> None:
        """A run that failed has its errors, and the proof of the jobs that succeeded."""
        report = make_report([0.5], {"TimeoutError": 1, "status 503: busy": 3}, total=6.0)
        self.assertEqual(
            json.loads(report.to_json()),
            {
                "result": "FAILED",
                "reasons": ["4 of 5 jobs failed", "took 6.0 s, limit 5 s"],
                "succeeded": 1,
                "failed": 4,
                "errors": {"TimeoutError": 1, "status 503: busy": 3},
                "total": 6.0,
                "limit": 5.0,
                "average": 0.5,
                "p50": 0.5,
                "p95": 0.5,
                "p99": 0.5,
                "max": 0.5,
                "proof": pack_proof([make_job(0)]),
            },
        )

    def test_there_are_no_durations_without_a_success(self) -> None:
        """Without a job that succeeded there are no durations."""
        report = json.loads(make_report([], {"TimeoutError": 1}).to_json())
        self.assertEqual({report[name] for name in ("average", "p50", "p95", "p99", "max")}, {None})
        self.assertEqual(unpack_proof(report["proof"]), [])

    def test_percentiles_use_the_nearest_rank(self) -> None:
        """Percentiles of a few durations are some of them, by the nearest rank."""
        for count, ranks in (
            (1, (1, 1, 1)),
            (2, (1, 2, 2)),
            (20, (10, 19, 20)),
            (50, (25, 48, 50)),
        ):
            report = json.loads(make_report([float(n) for n in range(1, count + 1)]).to_json())
            self.assertEqual((report["p50"], report["p95"], report["p99"]), ranks)

    @given(st.lists(st.floats(0, 1000), min_size=1, max_size=300))
    def test_percentile_is_the_least_sufficient_duration(self, durations: list[float]) -> None:
        """A percentile is the least duration that so many percent do not exceed."""
        report = json.loads(make_report(durations).to_json())
        for percent in (50, 95, 99):
            value = report[f"p{percent}"]
            self.assertIn(value, durations)
            self.assertGreaterEqual(
                100 * sum(d <= value for d in durations), percent * len(durations)
            )
            self.assertLess(100 * sum(d < value for d in durations), percent * len(durations))
