"""jobclient: runs many jobs at once through any URL, and passes if they end within a limit.

It uses the job server's own protocol with ``wait: true`` and knows nothing of jobproxy.
"""

import argparse
import json
import math
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from attrs import define, field
from tqdm import tqdm
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import react

from jobproxy import __version__
from jobproxy.daemon.process import raise_file_limit
from jobproxy.http1.agent import PooledAgent
from jobproxy.http1.client import JSON, PlainClient, read_body
from jobproxy.http1.limits import ClientLimits
from jobproxy.sandbox.jobs import Job
from jobproxy.sandbox.proofs import BadProof, unpack_proof
from jobproxy.sandbox.reports import Report
from jobproxy.util.terminal import escape

#: Exit codes.
PASSED, FAILED = 0, 1
#: Bytes of a response at most.
MAX_BODY = 1_000_000

_BAR = "{n_fmt} / {total_fmt} [{bar:58}] {percentage:.2f} % {elapsed_s:.0f}s"


class JobFailed(Exception):
    """A job did not succeed; equal messages are counted together."""


@define(eq=False)
class LoadClient:
    """Runs jobs at once and measures them.

    :param concurrency: the number of requests at once, each on a connection of its own.
    :param timeout: seconds for one response.
    """

    _treq: PlainClient
    _clock: IReactorTime
    _url: str
    _account: str
    _concurrency: int
    _timeout: float
    _durations: list[float] = field(factory=list, init=False)
    _jobs: list[Job] = field(factory=list, init=False)
    _errors: Counter[str] = field(factory=Counter, init=False)

    async def run(self, jobs: int, limit: float, advance: Callable[[], Any]) -> Report:
        """Run so many jobs, and call ``advance`` after each.

        :param limit: seconds within which they must end for the run to pass.
        """
        todo = iter(range(jobs))
        begun = self._clock.seconds()

        async def work() -> None:
            for _ in todo:
                await self._run_one()
                advance()

        workers = min(self._concurrency, jobs)
        await gatherResults([Deferred.fromCoroutine(work()) for _ in range(workers)])
        total = self._clock.seconds() - begun
        return Report(self._durations, self._jobs, self._errors, total, limit)

    async def _run_one(self) -> None:
        begun = self._clock.seconds()
        try:
            job = await self._request()
        except JobFailed as error:
            self._errors[str(error)] += 1
        else:
            self._durations.append(self._clock.seconds() - begun)
            self._jobs.append(job)

    async def _request(self) -> Job:
        exchange = Deferred.fromCoroutine(self._exchange())
        exchange.addTimeout(self._timeout, self._clock, onTimeoutCancel=_time_out)
        try:
            status, body = await exchange
        except Exception as error:  # any failure of a job is counted
            raise JobFailed(_name_failure(error)) from error
        if status != 200:
            raise JobFailed(f"status {status}: {_name_refusal(body)}")
        try:
            result = json.loads(body)
            job = Job(result["id"], result["startedAt"], result["proof"])
            state = result["state"]
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise JobFailed("response is not a result") from error
        if not all(isinstance(part, str) for part in (job.job_id, job.started_at, job.proof)):
            raise JobFailed("response is not a result")
        if state != "completed":
            raise JobFailed(f"job ended with state {state}")
        return job

    async def _exchange(self) -> tuple[int, bytes]:
        body = json.dumps({"account": self._account, "wait": True}).encode()
        response = await self._treq.request("POST", self._url, headers=JSON, data=body)
        return response.code, await read_body(response, MAX_BODY)


def _time_out(_: object, seconds: float) -> None:
    """Raise TimeoutError in place of the error of a cancelled request."""
    raise TimeoutError(f"no response after {seconds} s")


def _name_refusal(body: bytes) -> str:
    """Return the title of a problem document, or the first characters of any other body."""
    try:
        text = str(json.loads(body)["title"])
    except (ValueError, TypeError, KeyError, RecursionError):
        text = body.decode("utf-8", "replace")
    return " ".join(text.split())[:100]


def _name_failure(error: BaseException) -> str:
    """Return the name of the exception that Twisted has wrapped."""
    reasons = getattr(error, "reasons", None)
    return _name_failure(reasons[0].value) if reasons else type(error).__name__


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""

    def count(text: str) -> int:
        number = int(text)
        if number < 1:
            raise ValueError
        return number

    def seconds(text: str) -> float:
        number = float(text)
        if not 0 < number < math.inf:
            raise ValueError
        return number

    parser = argparse.ArgumentParser(
        prog="jobclient",
        description="Run jobs and wait for their results; pass if all succeed within the limit.",
        epilog="Exit codes: 0 passed, 1 failed, 2 usage error.",
    )
    parser.add_argument(
        "--url",
        default="http://jobs.asgateway.com/start",
        help="where jobs are POSTed; %(default)s",
    )
    parser.add_argument("--account", help="account of the jobs; required to run jobs")
    parser.add_argument(
        "--jobs", type=count, default=50, metavar="N", help="number of jobs; %(default)s"
    )
    parser.add_argument(
        "--concurrency", type=count, default=50, metavar="N", help="requests at once; %(default)s"
    )
    parser.add_argument(
        "--limit",
        type=seconds,
        default=5.0,
        metavar="S",
        help="seconds for all jobs to pass; %(default)s",
    )
    parser.add_argument(
        "--timeout",
        type=seconds,
        default=120.0,
        metavar="S",
        help="seconds for one response; %(default)s",
    )
    parser.add_argument(
        "--json", action="store_true", help="print the report as JSON, with percentiles"
    )
    parser.add_argument("--no-progress", action="store_true", help="show no progress bar")
    parser.add_argument(
        "--check-proof",
        metavar="FILE",
        help="print the jobs of a proof instead (- for standard input)",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    return parser


def check_proof(name: str, as_json: bool) -> int:
    """Print the jobs of a proof."""
    try:
        text = sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8")
        jobs = unpack_proof(text)
    except (OSError, UnicodeDecodeError, BadProof) as error:
        print(escape(f"jobclient: --check-proof: {error}"), file=sys.stderr)
        return FAILED
    if as_json:
        rows = [{"id": job.job_id, "startedAt": job.started_at, "proof": job.proof} for job in jobs]
        print(json.dumps(rows, indent=2))
    else:
        for job in jobs:
            print(escape(f"{job.job_id:>16}  {job.started_at}  {job.proof}"))
        print(f"{len(jobs)} jobs, {len(set(jobs))} of them distinct")
    return PASSED


async def run_jobs(reactor: Any, arguments: argparse.Namespace) -> None:
    """Run the jobs, print the report and end with its exit code."""
    limits = ClientLimits(connections=arguments.concurrency, connect_time=arguments.timeout)
    client = LoadClient(
        PlainClient(PooledAgent(reactor, limits)),
        reactor,
        arguments.url,
        arguments.account,
        arguments.concurrency,
        arguments.timeout,
    )
    is_quiet = arguments.json or arguments.no_progress
    is_terminal = sys.stderr.isatty()
    with tqdm(
        total=arguments.jobs,
        bar_format=_BAR,
        ascii=" =",
        disable=is_quiet,
        mininterval=0.1 if is_terminal else math.inf,
    ) as bar:
        report = await client.run(arguments.jobs, arguments.limit, bar.update)
    print(report.to_json() if arguments.json else f"\n{report.to_text()}")
    sys.stdout.flush()
    raise SystemExit(PASSED if report.passed else FAILED)


def main() -> None:
    """Run the command."""
    parser = make_parser()
    arguments = parser.parse_args()
    if arguments.check_proof is not None:
        raise SystemExit(check_proof(arguments.check_proof, arguments.json))
    if not arguments.account:
        parser.error("--account is required")
    if not arguments.url.startswith(("http://", "https://")):
        parser.error(f"--url must start with http:// or https://, not {arguments.url!r}")
    raise_file_limit()
    react(lambda reactor: Deferred.fromCoroutine(run_jobs(reactor, arguments)))


if __name__ == "__main__":
    main()
