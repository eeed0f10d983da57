"""The command line of jobclient."""

import argparse
import math
import re
import sys
from pathlib import Path
from typing import NoReturn

from twisted.web.error import SchemeNotSupported

from jobproxy import __version__
from jobproxy.daemon.process import read_file_limit
from jobproxy.http1.agent import parse_target
from jobproxy.http1.sender import HeaderLines
from jobproxy.sandbox.load import Plan
from jobproxy.sandbox.load_requests import ACCOUNT

#: The jobs of the work sample, its requests at once, and its seconds.
JOBS, CONCURRENCY, LIMIT = 50, 50, 5.0
#: Requests at once of a load with a rate, which should not be what limits it.
RATE_CONCURRENCY = 10_000
#: Files that the process has open besides its connections.
_OWN_FILES = 64
_HEADER = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\x00-\x08\x0a-\x1f\x7f]*)")
_OUR_HEADERS = {"host", "content-length", "transfer-encoding"}


def count(text: str) -> int:
    """Read a number of things."""
    if not re.fullmatch(r"0*[1-9][0-9]{0,17}", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"must be a whole number above 0, not {text!r}")
    return int(text)


def number(text: str) -> float:
    """Read seconds, or a rate."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number above 0, not {text!r}")
    return value


def header(text: str) -> tuple[bytes, bytes]:
    """Read a header."""
    found = _HEADER.fullmatch(text)
    if found is None:
        raise argparse.ArgumentTypeError(f"must be 'Name: value' in one line, not {text!r}")
    if found[1].lower() in _OUR_HEADERS:
        raise argparse.ArgumentTypeError(f"cannot set {found[1]}, which follows from the request")
    # The agent knows this one by its usual spelling.
    name = "Connection" if found[1].lower() == "connection" else found[1]
    return name.encode(), found[2].strip().encode()


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}\n")


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = _Parser(
        prog="jobclient",
        description="Load an HTTP API that holds its clients; pass if all jobs succeed. With no "
        "more than --url, one --account, --limit and --timeout it is the work sample: 50 jobs "
        "at once, and the proof of their results.",
        epilog="Exit codes: 0 passed, 1 failed, 2 usage error, 130 interrupted, 141 nobody reads "
        "the output.",
    )
    add = parser.add_argument
    add(
        "--url",
        default="http://jobs.asgateway.com/start",
        help="where jobs are POSTed; %(default)s",
    )
    add(
        "--account",
        action="append",
        default=[],
        help="account of the jobs; several are used in turn; required without --data",
    )
    add("--jobs", type=count, metavar="N", help=f"number of jobs; {JOBS} without --duration")
    add(
        "--concurrency",
        type=count,
        metavar="N",
        help=f"requests at once at most; {CONCURRENCY}, with --rate up to {RATE_CONCURRENCY}",
    )
    add(
        "--rate",
        type=number,
        metavar="R",
        help="send R jobs per second, whatever the responses do, and measure each from when it "
        "should have been sent",
    )
    add("--duration", type=number, metavar="S", help="start no job after S seconds")
    add(
        "--header",
        action="append",
        default=[],
        type=header,
        metavar="'NAME: VALUE'",
        help="a header of each request; repeatable",
    )
    add(
        "--data",
        metavar="TEXT",
        help="body of each request, in which {n} becomes the number of the job, from 1, and "
        "{account} its account",
    )
    add("--data-file", metavar="FILE", help="the same from a file (- for standard input)")
    add("--prefer", metavar="VALUE", help="Prefer header of each request, as in wait=5")
    add("--keys", action="store_true", help="give each job an idempotency key of its own")
    add(
        "--limit",
        type=number,
        metavar="S",
        help=f"seconds for all jobs to pass; {LIMIT:g} in the work sample, else any",
    )
    add(
        "--timeout",
        type=number,
        default=120.0,
        metavar="S",
        help="seconds for one response; %(default)s",
    )
    add("--json", action="store_true", help="print the report as JSON")
    add("--csv", metavar="FILE", help="write a line for each job (- for standard output)")
    add(
        "--proof",
        action="store_true",
        help="print the report of the work sample, with the proof of all results",
    )
    add("--no-progress", action="store_true", help="show no progress")
    add(
        "--check-proof",
        metavar="FILE",
        help="print the jobs of a proof instead (- for standard input)",
    )
    add("--version", action="version", version=f"%(prog)s {__version__}")
    return parser


def is_sample(arguments: argparse.Namespace) -> bool:
    """Return whether the report is that of the work sample."""
    ours = ("jobs", "concurrency", "rate", "duration", "header", "data", "data_file", "prefer")
    is_load = any(getattr(arguments, name) not in (None, []) for name in ours)
    is_load = is_load or arguments.keys or arguments.csv is not None or len(arguments.account) > 1
    return arguments.proof or not is_load


def check(arguments: argparse.Namespace) -> str | None:
    """Return what to change in a command line that cannot be run; None: it can."""
    most = read_file_limit() - _OWN_FILES
    if (arguments.concurrency or 0) > most:
        return f"--concurrency can be {most} at most: raise the limit of open files (ulimit -n)"
    if arguments.prefer is not None and not _HEADER.fullmatch(f"Prefer: {arguments.prefer}"):
        return "--prefer must be one line, as in wait=5"
    return _check_together(arguments) or _check_url(arguments.url)


def _check_together(arguments: argparse.Namespace) -> str | None:
    """Return which options do not go together."""
    has_data = arguments.data is not None or arguments.data_file is not None
    if arguments.data is not None and arguments.data_file is not None:
        return "give --data or --data-file, not both"
    if not has_data and not all(arguments.account or [""]):
        return "--account is required"
    if arguments.rate is not None and arguments.duration is None and arguments.jobs is None:
        return "--rate needs --duration or --jobs, which end the load"
    if arguments.proof and (has_data or arguments.prefer is not None):
        return "--proof needs results of the job server: leave out --data, --data-file, --prefer"
    if arguments.csv == "-" and arguments.json:
        return "--json and --csv - both write to standard output: give --csv a file"
    return None


def _check_url(url: str) -> str | None:
    if not url.startswith(("http://", "https://")):
        return f"--url must start with http:// or https://, not {url!r}"
    try:
        parse_target(url)
    except (ValueError, SchemeNotSupported):
        return f"--url must be like http://host:8080/path, not {url!r}"
    if re.search(r"[\x00-\x20\x7f]", url):
        return f"--url must be without spaces: write %20, not {url!r}"
    return None


def make_plan(arguments: argparse.Namespace) -> Plan:
    """Return when the jobs start."""
    jobs, rate, duration = arguments.jobs, arguments.rate, arguments.duration
    most = max(1, min(RATE_CONCURRENCY, read_file_limit() - _OWN_FILES))
    return Plan(
        concurrency=arguments.concurrency or (CONCURRENCY if rate is None else most),
        timeout=arguments.timeout,
        jobs=JOBS if jobs is None and duration is None else jobs,
        duration=duration,
        rate=rate,
    )


def read_data(arguments: argparse.Namespace) -> bytes | None:
    """Return the body of each request, if the command line has one.

    :raises OSError: if its file cannot be read.
    :raises ValueError: if it has no place for the accounts.
    """
    data = None if arguments.data is None else arguments.data.encode(errors="surrogateescape")
    if arguments.data_file == "-":
        data = sys.stdin.buffer.read()
    elif arguments.data_file is not None:
        data = Path(arguments.data_file).read_bytes()
    if data is not None and arguments.account and ACCOUNT not in data:
        raise ValueError("--account has no effect: write {account} into the data, or leave it out")
    return data


def make_headers(arguments: argparse.Namespace) -> HeaderLines:
    """Return the headers that the command line asks for."""
    headers = list(arguments.header)
    if arguments.prefer is not None:
        headers.append((b"Prefer", arguments.prefer.encode()))
    return tuple(headers)
