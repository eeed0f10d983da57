"""jobclient: its command line."""

import io
import json
import math
import sys
import tempfile
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any
from unittest import mock

from attrs import frozen
from twisted.trial.unittest import SynchronousTestCase

from jobproxy import __version__
from jobproxy.sandbox import jobclient
from jobproxy.sandbox.jobs import Job
from jobproxy.sandbox.load import Plan
from jobproxy.sandbox.load_options import LIMIT, is_sample, make_parser, make_plan
from jobproxy.sandbox.proofs import pack_proof
from tests.support.jobclient import PROOF, make_report


@frozen
class Ended:
    """The outcome of the command."""

    code: Any
    output: str
    errors: str


class CommandTestCase(SynchronousTestCase):
    """The command, without connections."""

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
    """Usage errors and defaults."""

    def check_refused(self, arguments: list[str], error: str) -> None:
        ended = self.run_command(*arguments)
        self.assertEqual((ended.code, ended.output), (2, ""))
        self.assertEqual(ended.errors, f"jobclient: error: {error}\n")

    def test_account_is_required(self) -> None:
        """Without an account no jobs can be run."""
        self.check_refused([], "--account is required")
        self.check_refused(["--account="], "--account is required")

    def test_url_must_be_http(self) -> None:
        """A URL that is not HTTP is a usage error."""
        for url in ("jobs.example/start", "ftp://jobs.example/", ""):
            self.check_refused(
                ["--account=a", f"--url={url}"],
                f"--url must start with http:// or https://, not {url!r}",
            )

    def test_counts_must_be_above_0(self) -> None:
        """The numbers of jobs and of requests at once must be integers above 0."""
        for name in ("--jobs", "--concurrency"):
            for value in ("0", "-1", "1.5", "many", ""):
                self.check_refused(
                    ["--account=a", f"{name}={value}"],
                    f"argument {name}: must be a whole number above 0, not {value!r}",
                )

    def test_seconds_must_be_above_0_and_finite(self) -> None:
        """Seconds must be above 0 and finite."""
        for name in ("--limit", "--timeout", "--rate", "--duration"):
            for value in ("0", "-1", "nan", "inf", "soon", ""):
                self.check_refused(
                    ["--account=a", f"{name}={value}"],
                    f"argument {name}: must be a number above 0, not {value!r}",
                )

    def test_unknown_argument_is_refused(self) -> None:
        """An unknown argument is a usage error."""
        self.check_refused(["--account=a", "--fast"], "unrecognized arguments: --fast")
        self.check_refused(["--account=a", "more"], "unrecognized arguments: more")
        self.check_refused(["--check-proof"], "argument --check-proof: expected one argument")

    def test_defaults_are_those_of_the_sample(self) -> None:
        """By default 50 jobs run at once on the real job server, within 5 seconds."""
        arguments = make_parser().parse_args(["--account=a"])
        self.assertEqual(arguments.url, "http://jobs.asgateway.com/start")
        self.assertEqual(make_plan(arguments), Plan(50, 120.0, 50))
        self.assertTrue(is_sample(arguments))
        self.assertEqual(LIMIT, 5.0)

    def test_an_option_of_a_load_asks_for_its_report(self) -> None:
        """Any option of a load asks for its report, and --proof for that of the work sample."""
        for words in (
            "--jobs=9",
            "--concurrency=9",
            "--duration=9",
            "--data={account}",
            "--header=A:b",
            "--prefer=wait=1",
            "--keys",
            "--csv=-",
            "--account=b",
        ):
            self.assertFalse(is_sample(make_parser().parse_args(["--account=a", words])), words)
        self.assertTrue(is_sample(make_parser().parse_args(["--account=a", "--jobs=9", "--proof"])))
        self.assertTrue(is_sample(make_parser().parse_args(["--account=a", "--limit=9", "--json"])))

    def test_options_that_do_not_go_together(self) -> None:
        """What does not go together is a usage error that says what to change."""
        for words, error in (
            ("--data=a --data-file=b", "give --data or --data-file, not both"),
            (
                "--account=a --rate=5",
                "--rate needs --duration or --jobs, which end the load",
            ),
            (
                "--data=x --proof",
                "--proof needs results of the job server: leave out --data, --data-file, --prefer",
            ),
            (
                "--account=a --json --csv=-",
                "--json and --csv - both write to standard output: give --csv a file",
            ),
            (
                "--account=a --data=x",
                "--account has no effect: write {account} into the data, or leave it out",
            ),
            (
                "--data=x --url=http://:1",
                "--url must be like http://host:8080/path, not 'http://:1'",
            ),
            (
                "--data-file=/nowhere/x",
                "--data-file: [Errno 2] No such file or directory: '/nowhere/x'",
            ),
            (
                "--data=x --csv=/nowhere/x",
                "--csv: [Errno 2] No such file or directory: '/nowhere/x'",
            ),
            (
                "--data=x --header=novalue",
                "argument --header: must be 'Name: value' in one line, not 'novalue'",
            ),
            (
                "--data=x --header=host:a",
                "argument --header: cannot set host, which follows from the request",
            ),
        ):
            self.check_refused(words.split(), error)

    def test_numbers_are_parsed(self) -> None:
        """Numbers are parsed."""
        arguments = make_parser().parse_args(
            ["--jobs=7", "--concurrency=3", "--limit=.5", "--timeout=1e3", "--json"]
        )
        self.assertEqual((arguments.jobs, arguments.concurrency), (7, 3))
        self.assertEqual((arguments.limit, arguments.timeout), (0.5, 1000.0))
        self.assertTrue(arguments.json)
        self.assertTrue(math.isfinite(arguments.limit))

    def test_version_is_that_of_the_package(self) -> None:
        """The version is that of the package."""
        self.assertEqual(self.run_command("--version"), Ended(0, f"jobclient {__version__}\n", ""))

    def test_help_has_all_options_and_exit_codes(self) -> None:
        """The help has all options and the exit codes."""
        ended = self.run_command("--help")
        self.assertEqual((ended.code, ended.errors), (0, ""))
        for words in ("--check-proof FILE", "--timeout S", "0 passed, 1 failed, 2 usage error"):
            self.assertIn(words, " ".join(ended.output.split()))


class CheckProofTests(CommandTestCase):
    """The output of ``--check-proof``."""

    JOBS = [
        Job("4499a6e0c2ef4b98", "2015-06-29T15:34:16.850Z", PROOF),
        Job("7f", "2015-06-29T15:34:17.350Z", PROOF[::-1]),
        Job("4499a6e0c2ef4b98", "2015-06-29T15:34:16.850Z", PROOF),
    ]
    TEXT = (
        "4499a6e0c2ef4b98  2015-06-29T15:34:16.850Z  078DC91F2980650231E94E67777078D5C926B9A3\n"
        "              7f  2015-06-29T15:34:17.350Z  3A9B629C5D87077776E49E1320560892F19CD870\n"
        "4499a6e0c2ef4b98  2015-06-29T15:34:16.850Z  078DC91F2980650231E94E67777078D5C926B9A3\n"
        "3 jobs, 2 of them distinct\n"
    )

    def setUp(self) -> None:
        super().setUp()
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = Path(folder.name) / "proof"

    def check_bad(self, ended: Ended, why: str) -> None:
        self.assertEqual((ended.code, ended.output), (1, ""))
        self.assertRegex(ended.errors, rf"\Ajobclient: --check-proof: {why}[^\n]*\n\Z")

    def test_jobs_of_a_file_are_printed(self) -> None:
        """All jobs of a proof in a file are printed, in order, and their number."""
        self.path.write_text(pack_proof(self.JOBS) + "\n", encoding="utf-8")
        ended = self.run_command("--check-proof", str(self.path))
        self.assertEqual(ended, Ended(0, self.TEXT, ""))

    def test_proof_may_come_from_standard_input(self) -> None:
        """A proof may come from standard input, in lines of any length."""
        proof = pack_proof(self.JOBS)
        text = f"{proof[:50]}\n  {proof[50:]}\n"
        self.assertEqual(self.run_command("--check-proof=-", text=text), Ended(0, self.TEXT, ""))

    def test_jobs_are_printed_as_json(self) -> None:
        """In JSON a proof is a list of its jobs, with the members of the job server."""
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

    def test_proof_of_a_run_can_be_checked(self) -> None:
        """The proof of a run can be checked."""
        proof = make_report([0.5] * 50).to_text().partition("Proof:\n")[2]
        ended = self.run_command("--check-proof=-", text=proof)
        self.assertEqual(ended.code, 0)
        self.assertEqual(ended.output.splitlines()[-1], "50 jobs, 50 of them distinct")

    def test_proof_without_jobs_is_valid(self) -> None:
        """A proof without jobs is valid."""
        ended = self.run_command("--check-proof=-", text=pack_proof([]))
        self.assertEqual(ended, Ended(0, "0 jobs, 0 of them distinct\n", ""))

    def test_invalid_proof_is_an_error_of_one_line(self) -> None:
        """An invalid proof is an error of one line, with exit code 1."""
        for text, why in (("!", "not base64: "), ("W10=", "not gzip: "), ("", "not ")):
            self.check_bad(self.run_command("--check-proof=-", text=text), why)
            self.check_bad(self.run_command("--check-proof=-", "--json", text=text), why)

    def test_unreadable_file_is_an_error_of_one_line(self) -> None:
        """A file that cannot be read is an error of one line, with exit code 1."""
        ended = self.run_command("--check-proof", str(self.path))
        self.check_bad(ended, r"\[Errno 2\] No such file or directory: '/.*'")
        ended = self.run_command("--check-proof", str(self.path.parent))
        self.check_bad(ended, r"\[Errno 21\] Is a directory: '/.*'")

    def test_binary_file_is_an_error_of_one_line(self) -> None:
        """A file that is not text is an error of one line, with exit code 1."""
        self.path.write_bytes(b"\x1f\x8b\x08\x00")
        self.check_bad(self.run_command("--check-proof", str(self.path)), "'utf-8' codec ")
