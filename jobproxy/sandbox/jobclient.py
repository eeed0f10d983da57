"""jobclient: loads an HTTP API that holds its clients, by default as in the work sample.

It knows nothing of jobproxy. The work sample uses the job server's own protocol with
``wait: true``.
"""

import argparse
import json
import secrets
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TextIO

from attrs import define, field
from tqdm import tqdm
from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall, react

from jobproxy.daemon.process import raise_file_limit, tune_collector
from jobproxy.http1.agent import PooledAgent
from jobproxy.http1.client import PlainClient
from jobproxy.http1.limits import ClientLimits
from jobproxy.sandbox.load import MAX_BODY, LoadLoop, Plan
from jobproxy.sandbox.load_lines import CsvWriter, LiveLine
from jobproxy.sandbox.load_options import (
    LIMIT,
    check,
    is_sample,
    make_headers,
    make_parser,
    make_plan,
    read_data,
)
from jobproxy.sandbox.load_outcomes import Outcome, accept_any_success, read_result
from jobproxy.sandbox.load_report import Ending, LoadReport
from jobproxy.sandbox.load_requests import LoadRequests
from jobproxy.sandbox.load_tally import Tally
from jobproxy.sandbox.proofs import BadProof, unpack_proof
from jobproxy.sandbox.reports import Collector
from jobproxy.util.terminal import SIGNALLED, end_silently, escape, run_until_closed

#: Exit codes; that of an interrupted run is that of its signal, as in a shell.
PASSED, FAILED = 0, 1
#: Seconds between two updates of the live line, and of the CSV.
INTERVAL = 0.5

_BAR = "{n_fmt} / {total_fmt} [{bar:58}] {percentage:.2f} % {elapsed_s:.0f}s"


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
    sys.stdout.flush()
    return PASSED


@define(eq=False)
class Run:
    """One run of the command, with the real network.

    :param data: the body of each request, if the command line has one.
    :param csv: the file for a line of each job.
    """

    _reactor: Any
    _arguments: argparse.Namespace
    _data: bytes | None
    _csv: TextIO | None
    _recorders: list[Callable[[Outcome], object]] = field(factory=list, init=False)
    _plan: Plan = field(init=False)
    _loop: LoadLoop = field(init=False)
    _signal: int = field(default=0, init=False)
    _unfinished: int | None = field(default=None, init=False)
    _write_error: OSError | None = field(default=None, init=False)

    async def run(self) -> None:
        """Run the load, print the report and end with its exit code."""
        try:
            await self._run()
        except BrokenPipeError:
            end_silently()

    async def _run(self) -> None:
        arguments, begun = self._arguments, self._reactor.seconds()
        self._plan = make_plan(arguments)
        self._loop = self._make_loop()
        limit = arguments.limit
        self._reactor.callWhenRunning(self._install_handlers)
        with ExitStack() as stack:
            if is_sample(arguments):
                limit = limit or LIMIT
                collector = Collector()
                self._recorders.append(collector.record)
                stack.enter_context(self._show_bar())
                make_report: Callable[[Ending], Any] = collector.report
            else:
                tally = Tally()
                self._recorders.append(tally.record)
                stack.enter_context(self._show_line(tally, begun))

                def make_report(ending: Ending) -> LoadReport:
                    return LoadReport(tally, ending, arguments.rate)

            if self._csv is not None:
                stack.enter_context(self._write_csv(self._csv, begun))
            total = await self._loop.run()
        report = make_report(Ending(total, limit, self._unfinished))
        if isinstance(self._write_error, BrokenPipeError):
            raise self._write_error
        # With the lines of all jobs on standard output, the report would be one of them.
        output = sys.stderr if arguments.csv == "-" else sys.stdout
        print(report.to_json() if arguments.json else f"\n{report.to_text()}", file=output)
        output.flush()
        if self._write_error is not None:
            print(escape(f"jobclient: --csv: {self._write_error}"), file=sys.stderr)
            raise SystemExit(FAILED)
        if self._signal:
            raise SystemExit(SIGNALLED + self._signal)
        raise SystemExit(PASSED if report.passed else FAILED)

    def _make_loop(self) -> LoadLoop:
        arguments, plan = self._arguments, self._plan
        limits = ClientLimits(
            body=MAX_BODY, connections=plan.concurrency, connect_time=arguments.timeout
        )
        requests = LoadRequests(
            arguments.url,
            tuple(arguments.account) or ("",),
            make_headers(arguments),
            self._data,
            secrets.token_hex(8) if arguments.keys else "",
        )
        wants_result = self._data is None and arguments.prefer is None
        client = PlainClient(PooledAgent(self._reactor, limits))
        judge = read_result if wants_result else accept_any_success
        return LoadLoop(client, self._reactor, plan, requests, judge, self._record)

    def _record(self, outcome: Outcome) -> None:
        for record in self._recorders:
            record(outcome)

    @contextmanager
    def _show_bar(self) -> Iterator[None]:
        arguments = self._arguments
        is_terminal = sys.stderr.isatty()
        with tqdm(
            total=self._plan.jobs,
            bar_format=_BAR,
            ascii=" =",
            disable=arguments.json or arguments.no_progress,
            mininterval=0.1 if is_terminal else float("inf"),
        ) as bar:
            self._recorders.append(lambda _: bar.update())
            yield

    @contextmanager
    def _show_line(self, tally: Tally, begun: float) -> Iterator[None]:
        if self._arguments.no_progress or not sys.stderr.isatty():
            yield
            return

        def write(text: str) -> None:
            sys.stderr.write(text)
            sys.stderr.flush()

        line = LiveLine(write, lambda: shutil.get_terminal_size().columns, tally, self._loop, begun)
        with self._repeat(lambda: line.show(self._reactor.seconds())):
            yield
        line.clear()

    @contextmanager
    def _write_csv(self, file: TextIO, begun: float) -> Iterator[None]:
        def stop() -> None:
            self._reactor.callFromThread(self._loop.stop)

        writer = CsvWriter(file, begun, stop)
        self._recorders.append(writer.record)
        with self._repeat(writer.flush):
            yield
        writer.close()
        self._write_error = writer.error

    @contextmanager
    def _repeat(self, function: Callable[[], object]) -> Iterator[None]:
        call = LoopingCall(function)
        call.clock = self._reactor
        call.start(INTERVAL, now=False)
        yield
        call.stop()

    def _install_handlers(self) -> None:
        """End the load and print its report at the first signal; end the process at the second one.

        A signal that is ignored stays ignored: a shell ignores SIGINT in what a script runs in the
        background.
        """

        def handle(number: int, frame: Any) -> None:  # noqa: ARG001 - signal's
            signal.signal(number, signal.SIG_DFL)
            self._signal = number
            self._reactor.callFromThread(self._interrupt)

        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, handle)

    def _interrupt(self) -> None:
        self._unfinished = self._loop.active
        self._loop.stop()


def open_files(arguments: argparse.Namespace) -> tuple[bytes | None, TextIO | None]:
    """Return the body of each request and the file for CSV, if the command line has them.

    :raises ValueError: if one of them cannot be used; the message says what to change.
    """
    try:
        data = read_data(arguments)
    except OSError as error:
        raise ValueError(f"--data-file: {error}") from error
    if arguments.csv in (None, "-"):
        return data, None if arguments.csv is None else sys.stdout
    try:
        return data, Path(arguments.csv).open("w", encoding="utf-8", newline="")
    except OSError as error:
        raise ValueError(f"--csv: {error}") from error


def run_command() -> None:
    """Run the command; a closed output raises BrokenPipeError."""
    parser = make_parser()
    arguments = parser.parse_args()
    if arguments.check_proof is not None:
        raise SystemExit(check_proof(arguments.check_proof, arguments.json))
    mistake = check(arguments)
    if mistake is not None:
        parser.error(mistake)
    try:
        data, file = open_files(arguments)
    except ValueError as error:
        parser.error(escape(str(error)))
    raise_file_limit()
    tune_collector()

    def run(reactor: Any) -> Deferred[None]:
        return Deferred.fromCoroutine(Run(reactor, arguments, data, file).run())

    react(run)


def main() -> None:
    """Run the command; if nobody reads its output any more, end silently."""
    run_until_closed(run_command)


if __name__ == "__main__":
    main()
