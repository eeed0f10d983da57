"""The load client: its runs in memory, its reports, and its command line."""

import io
import json
import math
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any
from unittest import mock

from attrs import define, field, frozen
from hypothesis import given
from hypothesis import strategies as st
from klein import Klein
from treq.testing import RequestTraversalAgent
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionLost
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web._newclient import ResponseNeverReceived
from twisted.web.http import Request
from twisted.web.iweb import IAgent

from jobproxy import __version__
from jobproxy.http1.client import PlainClient
from jobproxy.sandbox import jobclient
from jobproxy.sandbox.jobclient import LoadClient, Tally
from jobproxy.sandbox.jobs import Job
from jobproxy.sandbox.proofs import pack_proof, unpack_proof
from tests.support.proxy import JSON, FailingAgent

PROOF = "078DC91F2980650231E94E67777078D5C926B9A3"


def make_job(number: int) -> Job:
    return Job(f"{number:x}", "2015-06-29T15:34:16.850Z", PROOF)


def result_of(number: int, **changes: Any) -> bytes:
    """Return the answer to a job that was waited for, with some members changed."""
    return json.dumps({**make_job(number).result("completed"), **changes}).encode()


@define(eq=False)
class Waiting:
    """A job that reached the server."""

    raw: bytes
    request: Request = field(repr=False)
    answered: Deferred[bytes] = field(factory=Deferred, init=False, repr=False)


class FakeServer:
    """Holds jobs until it is told to answer them."""

    app = Klein()

    def __init__(self) -> None:
        self.jobs: list[Waiting] = []
        self.agent = RequestTraversalAgent(self.app.resource())

    @app.route("/start", methods=["POST"])
    def start(self, request: Request) -> Deferred[bytes]:
        assert request.content is not None
        job = Waiting(request.content.read(), request)
        self.jobs.append(job)
        return job.answered

    def respond(self, number: int, body: bytes | None = None, status: int = 200) -> None:
        """Answer a job, with its result by default."""
        job = self.jobs[number]
        job.request.setResponseCode(status)
        job.answered.callback(result_of(number) if body is None else body)
        self.agent.flush()


class LoadClientTests(SynchronousTestCase):
    """Runs of jobs; when the test ends, nothing may be waited for."""

    def setUp(self) -> None:
        super().setUp()
        self.clock = Clock()
        # Not zero, so that a moment is not taken for a time that passed.
        self.clock.advance(1000)
        self.server = FakeServer()
        self.agent: IAgent = self.server.agent
        self.advanced: list[float] = []

    def tearDown(self) -> None:
        super().tearDown()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def run_jobs(self, jobs: int, concurrency: int = 50, limit: float = 5.0) -> Deferred[Tally]:
        client = LoadClient(
            PlainClient(self.agent),
            self.clock,
            "http://jobs.example/start",
            "example",
            concurrency,
            120.0,
        )
        running = client.run(jobs, limit, lambda: self.advanced.append(self.clock.seconds()))
        return Deferred.fromCoroutine(running)

    def count_errors(self, running: Deferred[Tally]) -> dict[str, int]:
        """Return the errors of a run that has ended, which cannot have passed."""
        tally = self.successResultOf(running)
        self.assertFalse(tally.passed)
        self.assertEqual(len(tally.jobs), len(tally.durations))
        return dict(tally.errors)

    def test_all_succeed(self) -> None:
        """When every job is answered with its result, the tally has all and passes."""
        running = self.run_jobs(50)
        self.clock.advance(0.5)
        self.assertEqual(len(self.server.jobs), 50)
        for number in range(50):
            self.assertNoResult(running)
            self.server.respond(number)
        tally = self.successResultOf(running)
        self.assertEqual(sorted(tally.durations), [0.5] * 50)
        self.assertEqual(list(tally.jobs), [make_job(number) for number in range(50)])
        self.assertEqual(tally.errors, Counter())
        self.assertEqual((tally.total, tally.limit), (0.5, 5.0))
        self.assertTrue(tally.passed)

    def test_requests(self) -> None:
        """A request waits, and names the account; it is JSON and says so."""
        running = self.run_jobs(1)
        (job,) = self.server.jobs
        self.assertEqual(json.loads(job.raw), {"account": "example", "wait": True})
        self.assertEqual(job.request.getHeader("content-type"), JSON)
        self.server.respond(0)
        self.successResultOf(running)

    def test_advances(self) -> None:
        """After each job, however it ended, it is told that one more is done."""
        running = self.run_jobs(3)
        self.clock.advance(1)
        self.server.respond(1)
        self.clock.advance(1)
        self.server.respond(0, b"", 500)
        self.assertEqual(self.advanced, [1001, 1002])
        self.server.respond(2)
        self.successResultOf(running)
        self.assertEqual(self.advanced, [1001, 1002, 1002])

    def test_concurrency(self) -> None:
        """No more jobs are waited for than was said; each answer lets the next one start."""
        running = self.run_jobs(10, concurrency=3)
        for number in range(10):
            self.assertEqual(len(self.server.jobs), min(10, number + 3))
            self.clock.advance(0.5)
            self.server.respond(number)
        tally = self.successResultOf(running)
        self.assertEqual(len(self.server.jobs), 10)
        self.assertEqual(list(tally.durations), [0.5, 1.0] + [1.5] * 8)
        self.assertEqual(tally.total, 5.0)
        self.assertTrue(tally.passed)

    def test_answers_in_any_order(self) -> None:
        """A slow job does not keep others from starting."""
        running = self.run_jobs(6, concurrency=2)
        for number in range(1, 6):
            self.server.respond(number)
        self.assertEqual(len(self.server.jobs), 6)
        self.assertNoResult(running)
        self.clock.advance(1)
        self.server.respond(0)
        tally = self.successResultOf(running)
        self.assertEqual([job.job_id for job in tally.jobs], ["1", "2", "3", "4", "5", "0"])
        self.assertEqual(list(tally.durations), [0, 0, 0, 0, 0, 1])

    def test_fewer_jobs_than_concurrency(self) -> None:
        """A single job is a single request."""
        running = self.run_jobs(1, concurrency=50)
        self.assertEqual(len(self.server.jobs), 1)
        self.server.respond(0)
        self.assertEqual(len(self.successResultOf(running).jobs), 1)

    def test_limit(self) -> None:
        """A run passes if it takes just the limit, and not if it takes longer."""
        for seconds, passed in ((5.0, True), (5.125, False)):
            running = self.run_jobs(1)
            self.clock.advance(seconds)
            self.server.respond(-1)
            tally = self.successResultOf(running)
            self.assertEqual((tally.total, tally.passed), (seconds, passed))
            self.assertEqual(tally.errors, Counter())

    def test_statuses(self) -> None:
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

    def test_no_results(self) -> None:
        """An answer that is not a job's result is an error."""
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
        self.assertEqual(self.count_errors(running), {"an answer that is no result": len(bodies)})

    def test_states(self) -> None:
        """A job that did not complete is an error."""
        running = self.run_jobs(4)
        for number, state in enumerate(("failed", "running", "failed", "completed")):
            self.server.respond(number, result_of(number, state=state))
        self.assertEqual(
            self.count_errors(running),
            {"a job with state failed": 2, "a job with state running": 1},
        )

    def test_too_big(self) -> None:
        """An answer that is too big is an error."""
        running = self.run_jobs(2)
        self.server.respond(0, b" " * jobclient.MAX_BODY + result_of(0))
        self.server.respond(1, b" " * 10_000 + result_of(1))
        self.assertEqual(self.count_errors(running), {"BodyTooBig": 1})

    def test_lost_connection(self) -> None:
        """A connection that fails is an error, by the name of what went wrong."""
        self.agent = FailingAgent(ConnectionLost())
        self.assertEqual(self.count_errors(self.run_jobs(3)), {"ConnectionLost": 3})

    def test_packed_errors(self) -> None:
        """What went wrong is named even if Twisted has packed it in something else."""
        error = ResponseNeverReceived([Failure(ResponseNeverReceived([Failure(ConnectionLost())]))])
        self.agent = FailingAgent(error)
        self.assertEqual(self.count_errors(self.run_jobs(2)), {"ConnectionLost": 2})

    def test_timeout(self) -> None:
        """A job that is never answered is given up after its time; the others count."""
        running = self.run_jobs(3, concurrency=2)
        self.clock.advance(0.5)
        self.server.respond(0)
        self.clock.advance(0.5)
        self.server.respond(2)
        self.clock.advance(118.5)
        self.assertNoResult(running)
        self.clock.advance(0.5)
        tally = self.successResultOf(running)
        self.assertEqual(len(tally.jobs), 2)
        self.assertEqual(tally.errors, Counter({"TimeoutError": 1}))
        self.assertEqual(tally.total, 120)
        self.assertFalse(tally.passed)

    def test_goes_on_after_a_timeout(self) -> None:
        """A job that was given up makes room for the next one."""
        running = self.run_jobs(2, concurrency=1, limit=1000)
        self.clock.advance(120)
        self.assertEqual(len(self.server.jobs), 2)
        self.clock.advance(1)
        self.server.respond(1)
        tally = self.successResultOf(running)
        self.assertEqual((list(tally.durations), tally.total), ([1], 121))
        self.assertFalse(tally.passed)


def make_tally(
    durations: Sequence[float],
    errors: dict[str, int] | None = None,
    total: float = 1.4,
    limit: float = 5.0,
) -> Tally:
    jobs = [make_job(number) for number in range(len(durations))]
    return Tally(durations, jobs, Counter(errors or {}), total, limit)


class TextReportTests(SynchronousTestCase):
    """What people read of a run."""

    def test_passed(self) -> None:
        """A run that passed is reported as in the sample, with its proof."""
        tally = make_tally([1.384823579] * 25 + [1.0, 1.769647158] * 12 + [1.384823579], total=2.5)
        self.assertEqual(
            tally.to_text(),
            "Succeeded: 50\n"
            "Average Duration: 1.384823579 seconds\n"
            "Total Duration: 2.500000000 seconds\n"
            "\n"
            "WORK SAMPLE RESULT: PASSED\n"
            "\n"
            "Proof:\n"
            f"{pack_proof(tally.jobs)}",
        )
        proof = tally.to_text().splitlines()[-1]
        self.assertEqual(unpack_proof(proof), [make_job(number) for number in range(50)])

    def test_some_failed(self) -> None:
        """Errors are reported with the most frequent first, and there is no proof."""
        tally = make_tally([0.5, 1.0], {"TimeoutError": 1, "status 503: busy": 3})
        self.assertEqual(
            tally.to_text(),
            "Succeeded: 2\n"
            "Failed: 3 (status 503: busy)\n"
            "Failed: 1 (TimeoutError)\n"
            "Average Duration: 0.750000000 seconds\n"
            "Total Duration: 1.400000000 seconds\n"
            "\n"
            "WORK SAMPLE RESULT: FAILED",
        )

    def test_all_failed(self) -> None:
        """Without a job that succeeded there is no average."""
        self.assertEqual(
            make_tally([], {"ConnectionLost": 50}).to_text(),
            "Succeeded: 0\n"
            "Failed: 50 (ConnectionLost)\n"
            "Total Duration: 1.400000000 seconds\n"
            "\n"
            "WORK SAMPLE RESULT: FAILED",
        )

    def test_too_slow(self) -> None:
        """A run that took longer than its limit failed, though no job did."""
        self.assertEqual(
            make_tally([0.5], total=5.000000001).to_text(),
            "Succeeded: 1\n"
            "Average Duration: 0.500000000 seconds\n"
            "Total Duration: 5.000000001 seconds\n"
            "\n"
            "WORK SAMPLE RESULT: FAILED",
        )


class JsonReportTests(SynchronousTestCase):
    """What programs read of a run."""

    def test_passed(self) -> None:
        """A run that passed has all numbers, and its proof."""
        tally = make_tally([number / 4 for number in range(100, 0, -1)], total=4.5)
        self.assertEqual(
            json.loads(tally.to_json()),
            {
                "result": "PASSED",
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
                "proof": pack_proof(tally.jobs),
            },
        )

    def test_failed(self) -> None:
        """A run that failed has its errors, and the proof of the jobs that succeeded."""
        tally = make_tally([0.5], {"TimeoutError": 1, "status 503: busy": 3}, total=6.0)
        self.assertEqual(
            json.loads(tally.to_json()),
            {
                "result": "FAILED",
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

    def test_all_failed(self) -> None:
        """Without a job that succeeded there are no durations."""
        report = json.loads(make_tally([], {"TimeoutError": 1}).to_json())
        self.assertEqual({report[name] for name in ("average", "p50", "p95", "p99", "max")}, {None})
        self.assertEqual(unpack_proof(report["proof"]), [])

    def test_few(self) -> None:
        """Percentiles of a few durations are some of these, by the nearest rank."""
        for count, ranks in (
            (1, (1, 1, 1)),
            (2, (1, 2, 2)),
            (20, (10, 19, 20)),
            (50, (25, 48, 50)),
        ):
            report = json.loads(make_tally([float(n) for n in range(1, count + 1)]).to_json())
            self.assertEqual((report["p50"], report["p95"], report["p99"]), ranks)

    @given(st.lists(st.floats(0, 1000), min_size=1, max_size=300))
    def test_percentiles(self, durations: list[float]) -> None:
        """A percentile is the least duration that at least so many percent do not exceed."""
        report = json.loads(make_tally(durations).to_json())
        for percent in (50, 95, 99):
            value = report[f"p{percent}"]
            self.assertIn(value, durations)
            self.assertGreaterEqual(
                100 * sum(d <= value for d in durations), percent * len(durations)
            )
            self.assertLess(100 * sum(d < value for d in durations), percent * len(durations))


@frozen
class Ended:
    """How the command ended."""

    code: Any
    output: str
    errors: str


class CommandTestCase(SynchronousTestCase):
    """The command, as far as it opens no connection."""

    def run_command(self, *arguments: str, text: str = "") -> Ended:
        output, errors = io.StringIO(), io.StringIO()
        with (
            mock.patch.object(sys, "argv", ["jobclient", *arguments]),
            mock.patch.object(sys, "stdin", io.StringIO(text)),
            redirect_stdout(output),
            redirect_stderr(errors),
            self.assertRaises(SystemExit) as caught,
        ):
            jobclient.main()
        return Ended(caught.exception.code, output.getvalue(), errors.getvalue())


class UsageTests(CommandTestCase):
    """What the command says to wrong usage, and its defaults."""

    def check_refused(self, arguments: list[str], error: str) -> None:
        ended = self.run_command(*arguments)
        self.assertEqual((ended.code, ended.output), (2, ""))
        self.assertEqual(ended.errors.splitlines()[-1], f"jobclient: error: {error}")

    def test_no_account(self) -> None:
        """Without an account no jobs can be run."""
        self.check_refused([], "--account is required")
        self.check_refused(["--account="], "--account is required")

    def test_url(self) -> None:
        """Another URL than one of HTTP is wrong usage."""
        for url in ("jobs.example/start", "ftp://jobs.example/", ""):
            self.check_refused(
                ["--account=a", f"--url={url}"],
                f"--url must start with http:// or https://, unlike {url!r}",
            )

    def test_counts(self) -> None:
        """How many jobs, and how many at once, has to be a number from 1."""
        for name in ("--jobs", "--concurrency"):
            for value in ("0", "-1", "1.5", "many", ""):
                self.check_refused(
                    ["--account=a", f"{name}={value}"],
                    f"argument {name}: invalid count value: {value!r}",
                )

    def test_seconds(self) -> None:
        """A time has to be more than nothing, and to have an end."""
        for name in ("--limit", "--timeout"):
            for value in ("0", "-1", "nan", "inf", "soon", ""):
                self.check_refused(
                    ["--account=a", f"{name}={value}"],
                    f"argument {name}: invalid seconds value: {value!r}",
                )

    def test_unknown(self) -> None:
        """What is no option is wrong usage."""
        self.check_refused(["--account=a", "--fast"], "unrecognized arguments: --fast")
        self.check_refused(["--account=a", "more"], "unrecognized arguments: more")
        self.check_refused(["--check-proof"], "argument --check-proof: expected one argument")

    def test_defaults(self) -> None:
        """By default 50 jobs run at once, at the real server, and may take 5 seconds."""
        self.assertEqual(
            vars(jobclient.make_parser().parse_args(["--account=a"])),
            {
                "url": "http://jobs.asgateway.com/start",
                "account": "a",
                "jobs": 50,
                "concurrency": 50,
                "limit": 5.0,
                "timeout": 120.0,
                "json": False,
                "no_progress": False,
                "check_proof": None,
            },
        )

    def test_given(self) -> None:
        """Numbers are read as such."""
        arguments = jobclient.make_parser().parse_args(
            ["--jobs=7", "--concurrency=3", "--limit=.5", "--timeout=1e3", "--json"]
        )
        self.assertEqual((arguments.jobs, arguments.concurrency), (7, 3))
        self.assertEqual((arguments.limit, arguments.timeout), (0.5, 1000.0))
        self.assertTrue(arguments.json)
        self.assertTrue(math.isfinite(arguments.limit))

    def test_version(self) -> None:
        """The version is that of the package."""
        self.assertEqual(self.run_command("--version"), Ended(0, f"jobclient {__version__}\n", ""))

    def test_help(self) -> None:
        """The help tells every option and the exit codes."""
        ended = self.run_command("--help")
        self.assertEqual((ended.code, ended.errors), (0, ""))
        for words in ("--check-proof FILE", "--timeout S", "0 passed, 1 failed, 2 wrong usage"):
            self.assertIn(words, " ".join(ended.output.split()))


class CheckProofTests(CommandTestCase):
    """What the command prints of a proof."""

    JOBS = [
        Job("4499a6e0c2ef4b98", "2015-06-29T15:34:16.850Z", PROOF),
        Job("7f", "2015-06-29T15:34:17.350Z", PROOF[::-1]),
        Job("4499a6e0c2ef4b98", "2015-06-29T15:34:16.850Z", PROOF),
    ]
    TEXT = (
        "4499a6e0c2ef4b98  2015-06-29T15:34:16.850Z  078DC91F2980650231E94E67777078D5C926B9A3\n"
        "              7f  2015-06-29T15:34:17.350Z  3A9B629C5D87077776E49E1320560892F19CD870\n"
        "4499a6e0c2ef4b98  2015-06-29T15:34:16.850Z  078DC91F2980650231E94E67777078D5C926B9A3\n"
        "3 jobs, 2 of them different\n"
    )

    def setUp(self) -> None:
        super().setUp()
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = Path(folder.name) / "proof"

    def check_bad(self, ended: Ended, why: str) -> None:
        self.assertEqual((ended.code, ended.output), (1, ""))
        self.assertRegex(ended.errors, rf"\Ajobclient: --check-proof: {why}[^\n]*\n\Z")

    def test_file(self) -> None:
        """Of a proof in a file every job is printed, in order, and how many there are."""
        self.path.write_text(pack_proof(self.JOBS) + "\n", encoding="utf-8")
        ended = self.run_command("--check-proof", str(self.path))
        self.assertEqual(ended, Ended(0, self.TEXT, ""))

    def test_stdin(self) -> None:
        """A proof may come from standard input, in lines of any length."""
        proof = pack_proof(self.JOBS)
        text = f"{proof[:50]}\n  {proof[50:]}\n"
        self.assertEqual(self.run_command("--check-proof=-", text=text), Ended(0, self.TEXT, ""))

    def test_json(self) -> None:
        """In JSON a proof is a list of its jobs, with the names that the server has for them."""
        ended = self.run_command("--check-proof=-", "--json", text=pack_proof(self.JOBS[1:]))
        self.assertEqual((ended.code, ended.errors), (0, ""))
        self.assertEqual(
            json.loads(ended.output),
            [
                {
                    "id": "7f",
                    "startedAt": "2015-06-29T15:34:17.350Z",
                    "proof": "3A9B629C5D87077776E49E1320560892F19CD870",
                },
                {
                    "id": "4499a6e0c2ef4b98",
                    "startedAt": "2015-06-29T15:34:16.850Z",
                    "proof": "078DC91F2980650231E94E67777078D5C926B9A3",
                },
            ],
        )

    def test_of_a_run(self) -> None:
        """The proof that a run printed is one that can be checked."""
        proof = make_tally([0.5] * 50).to_text().partition("Proof:\n")[2]
        ended = self.run_command("--check-proof=-", text=proof)
        self.assertEqual(ended.code, 0)
        self.assertEqual(ended.output.splitlines()[-1], "50 jobs, 50 of them different")

    def test_empty(self) -> None:
        """A proof of no jobs is one."""
        ended = self.run_command("--check-proof=-", text=pack_proof([]))
        self.assertEqual(ended, Ended(0, "0 jobs, 0 of them different\n", ""))

    def test_bad(self) -> None:
        """What is no proof is told in one line, with exit code 1."""
        for text, why in (("!", "not base64: "), ("W10=", "not gzip: "), ("", "not ")):
            self.check_bad(self.run_command("--check-proof=-", text=text), why)
            self.check_bad(self.run_command("--check-proof=-", "--json", text=text), why)

    def test_no_file(self) -> None:
        """A file that cannot be read is told in one line, with exit code 1."""
        ended = self.run_command("--check-proof", str(self.path))
        self.check_bad(ended, r"\[Errno 2\] No such file or directory: '/.*'")
        ended = self.run_command("--check-proof", str(self.path.parent))
        self.check_bad(ended, r"\[Errno 21\] Is a directory: '/.*'")

    def test_binary_file(self) -> None:
        """A file that is no text is told in one line, with exit code 1."""
        self.path.write_bytes(b"\x1f\x8b\x08\x00")
        self.check_bad(self.run_command("--check-proof", str(self.path)), "'utf-8' codec ")
