"""jobproxy-demo: the whole on this machine, with real processes, in a few seconds."""

import argparse
import json
import signal
import subprocess
import sys
import urllib.request
from contextlib import suppress

from attrs import frozen

from jobproxy.sandbox.processes import (
    DaemonFailed,
    DaemonProcess,
    find_free_port,
    find_script,
    run_pair,
)

ACCOUNT = "example"


@frozen
class Outcome:
    """
    :param code: the exit code of jobclient.
    :param total: the seconds it took, as jobclient measured them.
    :param proof: the proof it printed; empty if it did not pass.
    """

    code: int
    total: str
    proof: str


def run_client(url: str, jobs: int) -> Outcome:
    """Run jobclient, and let what it prints be seen, but for most of the proof."""
    command = [find_script("jobclient"), "--url", url, "--account", ACCOUNT]
    command += ["--jobs", str(jobs), "--concurrency", str(jobs)]
    print(f"$ jobclient --url {url} --account {ACCOUNT}", flush=True)
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    report, _, proof = done.stdout.partition("Proof:\n")
    print(report.rstrip())
    if proof:
        print(f"\nProof:\n{proof[:60]}…\n")
    total = report.partition("Total Duration: ")[2].partition(" ")[0]
    return Outcome(done.returncode, total, proof)


def verify(server: DaemonProcess, proof: str) -> tuple[int, int]:
    """Ask the simulator how many jobs a proof holds, and how many of them it really ran."""
    request = urllib.request.Request(f"{server.url}/verify", proof.encode())  # noqa: S310
    with urllib.request.urlopen(request) as response:  # noqa: S310
        verdict = json.load(response)
    return verdict["jobs"], verdict["genuine"]


def run_demo(arguments: argparse.Namespace) -> int:
    """Show what the job server alone does if that is wanted, then what the proxy makes of it."""
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
            f"See what it does on http://127.0.0.1:{admin}/ (with --stay, for as long as you like)."
        )
        print("It serves one connection of an account at a time; a job takes 0.5 s.\n")
        if arguments.compare:
            print("Without jobproxy (this takes a while):")
            run_client(f"{server.url}/start", arguments.jobs)
            print("\nWith jobproxy:")
        outcome = run_client(f"{proxy.url}/proxy", arguments.jobs)
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
    """Leave all as it is until the user has seen enough."""
    with suppress(KeyboardInterrupt):
        print(f"\nMore jobs: jobclient --url {url}/proxy --account {ACCOUNT}")
        print("All of it goes on until you press Ctrl-C.", flush=True)
        signal.pause()


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="jobproxy-demo",
        description="Run a simulated job server, jobproxy and jobclient on this machine.",
    )
    parser.add_argument(
        "--compare", action="store_true", help="first show the job server without jobproxy"
    )
    parser.add_argument("--jobs", type=int, default=50, metavar="N", help="%(default)s")
    parser.add_argument(
        "--latency",
        type=float,
        default=0.0,
        metavar="S",
        help="seconds of network delay to the job server, each way; %(default)s",
    )
    parser.add_argument("--hold-slot", default="request", help="request or connection")
    parser.add_argument(
        "--stay", action="store_true", help="keep job server, proxy and its live page up"
    )
    parser.add_argument("--faults", default="", help="of the job server, as in early=1")
    try:
        raise SystemExit(run_demo(parser.parse_args()))
    except DaemonFailed as error:
        print(f"jobproxy-demo: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
