"""The duration of the work sample by network latency and by ``--starts-per-account``.

Runs jobclient with 50 jobs through a proxy, for each round-trip time to a job server that serves
one connection at a time and for each number of start requests at once, and prints the seconds.
"""

import argparse
import json
import subprocess
from statistics import median

from jobproxy.sandbox.processes import find_script, run_pair


def run_once(round_trip: float, starts: int, holding: str) -> float:
    """Return the seconds that 50 jobs took, or raise if one of them failed."""
    job_server = {"latency": str(round_trip / 2), "hold-slot": holding}
    with run_pair(job_server, {"starts-per-account": str(starts)}) as (_, proxy):
        command = [find_script("jobclient"), "--url", f"{proxy.url}/proxy", "--account", "example"]
        done = subprocess.run(
            [*command, "--json", "--limit", "60"], capture_output=True, text=True, check=True
        )
    total: float = json.loads(done.stdout)["total"]
    return total


def main() -> None:
    """Print a table; rows are round-trip times, columns start requests at once."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--round-trips", default="0,25,50,100,200", help="round-trip times in ms; %(default)s"
    )
    parser.add_argument(
        "--starts", default="1,4,8,16,32,50", help="start requests at once; %(default)s"
    )
    parser.add_argument(
        "--runs", type=int, default=3, help="runs of which the median is printed; %(default)s"
    )
    parser.add_argument(
        "--hold-slot",
        default="request",
        help="what holds a slot of the job server: request or connection",
    )
    arguments = parser.parse_args()
    starts = [int(text) for text in arguments.starts.split(",")]
    print("seconds for 50 jobs".ljust(22) + "".join(f"{count:>8}" for count in starts))
    for milliseconds in map(float, arguments.round_trips.split(",")):
        cells = [
            median(
                run_once(milliseconds / 1000, count, arguments.hold_slot)
                for _ in range(arguments.runs)
            )
            for count in starts
        ]
        label = f"{milliseconds:g} ms round trip"
        print(label.ljust(22) + "".join(f"{cell:8.2f}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
