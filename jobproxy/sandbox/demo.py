"""jobproxy-demo: a simulated job server, jobproxy and jobclient as processes on this machine."""

import argparse
import json
import signal
import subprocess
import sys
import urllib.request
from contextlib import suppress

from attrs import frozen

from jobproxy.profiles.keys import BadProfile
from jobproxy.sandbox.processes import (
    DaemonFailed,
    DaemonProcess,
    find_free_port,
    find_script,
    run_pair,
)
from jobproxy.sandbox.profile_demo import run_profile_demo
from jobproxy.util.terminal import run_until_closed

ACCOUNT = "example"


@frozen
class Outcome:
    """The outcome of a run of jobclient.

    :param code: its exit code.
    :param total: its total duration in seconds, as it was printed.
    :param proof: the proof that it printed; empty if it did not pass.
    """

    code: int
    total: str
    proof: str


def run_client(url: str, jobs: int, limit: float) -> Outcome:
    """Run jobclient and print its output, with the proof cut short."""
    command = [find_script("jobclient"), "--url", url, "--account", ACCOUNT]
    command += ["--jobs", str(jobs), "--concurrency", str(jobs), "--limit", str(limit), "--proof"]
    print(f"$ jobclient --url {url} --account {ACCOUNT}", flush=True)
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    report, _, proof = done.stdout.partition("Proof:\n")
    print(report.rstrip())
    if proof:
        print(f"\nProof:\n{proof[:60]}…\n")
    total = report.partition("Total Duration: ")[2].partition(" ")[0]
    return Outcome(done.returncode, total, proof)


def verify(server: DaemonProcess, proof: str) -> tuple[int, int]:
    """Return how many jobs a proof holds, and how many of them the simulator ran."""
    request = urllib.request.Request(f"{server.url}/verify", proof.encode())  # noqa: S310
    with urllib.request.urlopen(request) as response:  # noqa: S310
        verdict = json.load(response)
    return verdict["jobs"], verdict["genuine"]


def run_demo(arguments: argparse.Namespace) -> int:
    """Run jobclient, with --compare first on the job server alone, then through the proxy."""
    job_server = {
        "latency": str(arguments.latency),
        "hold-slot": arguments.hold_slot,
        "faults": arguments.faults,
    }
    admin = find_free_port()
    listen = {"admin-listen": f"tcp:{admin}:interface=127.0.0.1"}
    with run_pair(job_server, listen) as (server, proxy):
        print(f"A job server on {server.url}, and jobproxy in front of it on {proxy.url}.")
        print(
            f"The live page is on http://127.0.0.1:{admin}/ (with --stay, until you stop the demo)."
        )
        print("The job server serves one connection of an account at a time; a job takes 0.5 s.\n")
        if arguments.compare:
            print("Without jobproxy (this takes about half a second per job):")
            run_client(f"{server.url}/start", arguments.jobs, arguments.limit)
            print("\nWith jobproxy:")
        outcome = run_client(f"{proxy.url}/proxy", arguments.jobs, arguments.limit)
        if not outcome.proof:
            print(f"\njobproxy logged:\n{proxy.log}", file=sys.stderr)
            return outcome.code
        jobs, genuine = verify(server, outcome.proof)
        passed = outcome.code == 0 and jobs == genuine == arguments.jobs
        print(f"The job server says: {genuine} of {arguments.jobs} proofs genuine.")
        print(f"Total Duration: {outcome.total} seconds")
        print(f"WORK SAMPLE RESULT: {'PASSED' if passed else 'FAILED'}", flush=True)
        if arguments.stay:
            stay(proxy.url)
    return 0 if passed else 1


def stay(url: str) -> None:
    """Keep all processes running until the user presses Ctrl-C."""
    with suppress(KeyboardInterrupt):
        print(f"\nMore jobs: jobclient --url {url}/proxy --account {ACCOUNT}")
        print("Press Ctrl-C to stop.", flush=True)
        signal.pause()


def run_command() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="jobproxy-demo",
        description="Run a simulated job server, jobproxy and jobclient on this machine.",
    )
    parser.add_argument(
        "--compare", action="store_true", help="first run jobclient without jobproxy"
    )
    parser.add_argument(
        "--jobs", type=int, default=50, metavar="N", help="number of jobs; %(default)s"
    )
    parser.add_argument(
        "--limit",
        type=float,
        default=5.0,
        metavar="S",
        help="seconds for all jobs to pass; %(default)s",
    )
    parser.add_argument(
        "--latency",
        type=float,
        default=0.0,
        metavar="S",
        help="seconds of network latency of the job server, each way; %(default)s",
    )
    parser.add_argument(
        "--hold-slot",
        default="request",
        help="what holds a slot of the job server: request or connection",
    )
    parser.add_argument(
        "--stay", action="store_true", help="keep the job server and the proxy running"
    )
    parser.add_argument("--faults", default="", help="faults of the job server, as in early=1")
    parser.add_argument(
        "--profile",
        metavar="NAME",
        help="show one job of this profile instead: a file, or one that comes with jobproxy",
    )
    arguments = parser.parse_args()
    try:
        if arguments.profile is not None:
            raise SystemExit(run_profile_demo(arguments.profile))
        raise SystemExit(run_demo(arguments))
    except (BadProfile, DaemonFailed) as error:
        print(f"jobproxy-demo: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def main() -> None:
    """Run the command; if nobody reads its output any more, end silently."""
    run_until_closed(run_command)


if __name__ == "__main__":
    main()
