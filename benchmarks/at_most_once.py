"""At most once: no job is started twice and none is lost, whatever the faults around the proxy.

Each mode has faults of its own. The exit code is 1 if a promise is broken:

- ``faults``: the job server makes every kind of fault in 1 % of the start requests each
- ``tls``: it breaks TLS, in handshakes and once a start request was read
- ``redirects``: it answers start requests with 3xx
- ``echoes``: its acks quote the callback URL
- ``neighbours``: a few accounts fill the memory for results
- ``kills``: the proxy has a store in a file, and is killed again and again
- ``clocks``, ``clocks-sqlite``: the wall clock steps back and forth (needs a C compiler)

In all modes but ``faults`` jobs have Idempotency-Keys, their clients come again, and at the end
each job is asked for by its key once more.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from faulty_starts import run_jobs
from keyed_modes import MODES, Run

from jobproxy.daemon.process import raise_file_limit

#: The mode without keys.
FAULTS = "faults"
#: Rows of a table, and what is wrong.
Books = tuple[list[tuple[str, object]], list[str]]


def play_faults(arguments: argparse.Namespace) -> Books:
    """Run jobs without keys, and compare what both sides say."""
    comparison = run_jobs(arguments)
    return list(comparison.rows()), list(comparison.find_faults())


def play_keyed(arguments: argparse.Namespace) -> Books:
    """Run jobs with keys in one of the other modes."""
    with tempfile.TemporaryDirectory(prefix="at-most-once-") as folder:
        run = Run(arguments.jobs, arguments.concurrency, Path(folder))
        asyncio.run(MODES[arguments.mode](run))
    return list(list_rows(run)), list(list_faults(run))


def list_rows(run: Run) -> Iterator[tuple[str, object]]:
    """Yield the rows of the table."""
    clients, server = run.clients, run.clients.server
    yield "jobs with a key", len(clients.tags)
    yield "jobs started", len(server.starts)
    yield "second starts", server.starts.total() - len(server.starts)
    yield "clients that got the result", len(clients.got)
    yield "callbacks told 200", len(server.safe)
    lost = sum(count for word, count in clients.wrong.items() if word.startswith("told 200"))
    yield "results told 200 and gone", lost
    for response, number in sorted(clients.responses.items()):
        yield f"  response {response}", number
    for receipt, number in sorted(server.receipts.items()):
        yield f"  callback {receipt}", number
    for word, number in sorted(run.details.items()):
        yield f"  {word}", number


def list_faults(run: Run) -> Iterator[str]:
    """Yield the promises that were broken."""
    for word, count in run.clients.wrong.items():
        yield f"{count} times: {word}"
    yield from run.clients.examples
    yield from run.faults
    if not run.clients.got:
        yield "no client got a result; this shows nothing"


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("mode", nargs="?", default=FAULTS, choices=[FAULTS, *MODES])
    parser.add_argument("--jobs", type=int, default=100_000, help="number of jobs; %(default)s")
    parser.add_argument(
        "--concurrency", type=int, default=500, help="number of clients; %(default)s"
    )
    faults = parser.add_argument_group("of the mode faults alone")
    faults.add_argument("--accounts", type=int, default=200, help="number of accounts; %(default)s")
    faults.add_argument("--retry", default="not-sent", choices=["never", "not-sent", "always"])
    faults.add_argument("--seed", type=int, default=1, help="seed of the faults; %(default)s")
    faults.add_argument(
        "--busy", action="store_true", help="check nothing that depends on the machine's speed"
    )
    return parser.parse_args()


def main() -> None:
    """Run the jobs, and print the books."""
    arguments = read_arguments()
    raise_file_limit()
    began = time.monotonic()
    rows, faults = (play_faults if arguments.mode == FAULTS else play_keyed)(arguments)
    width = max(36, *(len(label) + 2 for label, _ in rows))
    for label, figure in rows:
        print(f"{label:{width}}{figure:>10}" if isinstance(figure, int) else f"{label:36}{figure}")
    for fault in faults:
        print(f"WRONG: {fault}")
    took = time.monotonic() - began
    words = f"--retry {arguments.retry}" if arguments.mode == FAULTS else arguments.mode
    print(f"{'FAILED' if faults else 'PASSED'} {words}, in {took:.0f} s")
    sys.exit(bool(faults))


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main()
