"""Compares jobproxy with its peers on one machine.

Runs of jobproxy and of each peer alternate, so that changes of the machine affect both; a ratio is
the median of the ratios of neighbouring runs. Linux only. The exit code is 1 if a job was lost.

The CPU time per job and the throughput are measured with ``--connections`` clients and jobs that
end at once; the added latency, which is that of the response less the job's own, with as many
clients and jobs of ``--duration``; the memory once, with ``--hold`` held clients.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from fcntl import LOCK_EX, LOCK_NB, flock
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from attrs import asdict
from gateways import GATEWAYS, Running, choose_cpus, find_missing, pinned, run_gateway
from results import Figures, Results, print_table

from jobproxy.daemon.process import raise_file_limit
from jobproxy.sandbox.processes import read_memory

LOAD = str(Path(__file__).parent / "load.py")
#: Above this fraction of its time the load may be the bottleneck instead of the gateway.
MAX_LOAD_BUSY = 0.8
#: Above this fraction of its time the gateway queues, so that latency depends on the load.
MAX_GATEWAY_BUSY = 0.9
#: Above this fraction of its time a process waited for a CPU that others used, so the figures are
#: unreliable. Node's main thread waits for threads of its own in 5 % of the time.
MAX_WAITED = 0.1


class Bench:
    """Measures gateways with the settings of the command line."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._arguments = arguments
        self._gateway_cpu, self._load_cpu = choose_cpus()

    def compare(self, names: list[str]) -> Results:
        """Measure jobproxy and each peer in turns, or only those that are available."""
        results = Results(runs={name: [] for name in names})
        peers = [name for name in names if name != "jobproxy"]
        for number in range(self._arguments.runs):
            for turn in _make_turns(names, peers):
                figures = self._measure_turn(turn, number)
                for name, measured in zip(turn, figures, strict=True):
                    results.runs[name].append(measured)
                if len(turn) == 2:
                    results.pairs.setdefault(turn[1], []).append((figures[0], figures[1]))
        if self._arguments.hold:
            results.memory = {name: self._measure_held(name) for name in names}
        return results

    def _measure_turn(self, turn: tuple[str, ...], number: int) -> list[Figures]:
        """Measure neighbours, again if they were disturbed; the least disturbed run counts."""
        tries: list[list[Figures]] = []
        for _ in range(self._arguments.tries):
            tries.append([self._measure(name, number) for name in turn])
            if _find_wait(tries[-1]) <= MAX_WAITED:
                break
        return min(tries, key=_find_wait)

    def _measure(self, name: str, number: int) -> Figures:
        _log(f"run {number + 1}: {name}")
        arguments = self._arguments
        common = [f"--connections={arguments.connections}", f"--seconds={arguments.seconds}"]
        with run_gateway(name, self._gateway_cpu) as gateway:
            full = self._load(gateway, [*common, "--duration=0"])
            paced = self._load(gateway, [*common, f"--duration={arguments.duration}"])
        waited = max(
            load[key] for load in (full, paced) for key in ("gateway_waited", "load_waited")
        )
        for doubt in _find_doubts(full["load_busy"], paced["gateway_busy"], waited):
            _log(f"  {doubt}")
        return {
            "cpu_us": full["cpu_us"],
            "throughput": full["throughput"],
            "load_busy": full["load_busy"],
            "p50_ms": paced["p50_ms"],
            "p99_ms": paced["p99_ms"],
            "paced_cpu_us": paced["cpu_us"],
            "paced_throughput": paced["throughput"],
            "paced_gateway_busy": paced["gateway_busy"],
            "waited": waited,
            "lost": full["lost"] + paced["lost"],
            "errors": full["errors"] + paced["errors"],
        }

    def _measure_held(self, name: str) -> Figures:
        _log(f"memory: {name}")
        with run_gateway(name, self._gateway_cpu) as gateway:
            # Imports and compilation of the first jobs do not count as memory of clients.
            self._load(gateway, ["--connections=20", "--seconds=0.5", "--warm-up=0.5"])
            before = read_memory(gateway.pid)
            command = self._command(gateway, [f"--hold={self._arguments.hold}"])
            with self._start(command) as load:
                assert load.stdin is not None
                assert load.stdout is not None
                if load.stdout.readline() != "held\n":
                    raise RuntimeError(f"{name}: the load ended early")
                # The gateway still has to read the last acks.
                time.sleep(1)
                held = read_memory(gateway.pid) - before
                done, _ = load.communicate("\n")
        figures = _read_figures(done)
        return {
            "held_kib": round(held / 1024 / self._arguments.hold, 2),
            "lost": figures["lost"],
            "errors": figures["errors"],
        }

    def _load(self, gateway: Running, options: list[str]) -> dict[str, Any]:
        with self._start(self._command(gateway, options)) as load:
            done, _ = load.communicate()
        return _read_figures(done)

    def _command(self, gateway: Running, options: list[str]) -> list[str]:
        ports = [
            f"--gateway-port={gateway.port}",
            f"--job-server-port={gateway.job_server_port}",
            f"--accounts={self._arguments.accounts}",
        ]
        return [sys.executable, LOAD, *ports, f"--watch={gateway.pid}", *options]

    def _start(self, command: list[str]) -> subprocess.Popen[str]:
        with pinned(self._load_cpu):
            return subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )


def _find_wait(figures: list[Figures]) -> float:
    return max(measured["waited"] for measured in figures)


def _find_doubts(load_busy: float, gateway_busy: float, waited: float) -> Iterator[str]:
    """Yield why figures may be unreliable; the arguments are fractions of the time."""
    if load_busy > MAX_LOAD_BUSY:
        yield f"the load may be the bottleneck: it was busy for {load_busy:.0%} of the time"
    if gateway_busy > MAX_GATEWAY_BUSY:
        yield f"the gateway queued: it was busy for {gateway_busy:.0%} of the time"
    if waited > MAX_WAITED:
        yield f"other processes ran: a process waited for its CPU {waited:.0%} of the time"


def _make_turns(names: list[str], peers: list[str]) -> list[tuple[str, ...]]:
    """Return the turns: jobproxy before each peer."""
    if "jobproxy" in names and peers:
        return [("jobproxy", peer) for peer in peers]
    return [(name,) for name in names]


def _read_figures(printed: str) -> dict[str, Any]:
    figures: dict[str, Any] = json.loads(printed.splitlines()[-1])
    if figures["error_kinds"]:
        _log(f"  errors: {figures['error_kinds']}")
    if not figures["jobs"]:
        raise RuntimeError("no job was done")
    return figures


def _describe_machine() -> dict[str, Any]:
    packages = ("Twisted", "klein", "treq", "httptools", "aiohttp", "uvloop")
    cpus = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    models = [line.partition(":")[2].strip() for line in cpus if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.machine(),
        "cpus": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "node": _find_node_version(),
        "packages": {name: _find_version(name) for name in packages},
    }


def _find_node_version() -> str | None:
    if find_missing("node"):
        return None
    printed = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True)
    return printed.stdout.strip()


def _find_version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


@contextmanager
def alone() -> Iterator[None]:
    """Wait until no other comparison runs, as it would use the same CPUs."""
    with Path(__file__).open("rb") as lock:
        try:
            flock(lock, LOCK_EX | LOCK_NB)
        except BlockingIOError:
            _log("waiting for the end of another comparison")
            flock(lock, LOCK_EX)
        yield


def _log(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def _read_names(text: str) -> list[str]:
    names = text.split(",")
    for name in names:
        if name not in GATEWAYS:
            raise argparse.ArgumentTypeError(f"{name} is not one of {', '.join(GATEWAYS)}")
    # Keep the order of GATEWAYS, as all others are compared with the first, jobproxy.
    return [name for name in GATEWAYS if name in names]


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", type=_read_names, default=list(GATEWAYS), help=",".join(GATEWAYS))
    parser.add_argument("--runs", type=int, default=5, help="runs of each gateway; %(default)s")
    parser.add_argument(
        "--tries", type=int, default=3, help="attempts of a disturbed run; %(default)s"
    )
    parser.add_argument(
        "--seconds", type=float, default=5, help="seconds of each load; %(default)s"
    )
    parser.add_argument(
        "--connections", type=int, default=200, help="number of clients; %(default)s"
    )
    parser.add_argument("--accounts", type=int, default=50, help="number of accounts; %(default)s")
    parser.add_argument("--duration", type=float, default=0.1, help="seconds of a job; %(default)s")
    parser.add_argument(
        "--hold",
        type=int,
        default=5000,
        help="held clients to measure memory; 0: none; %(default)s",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures to FILE")
    return parser.parse_args()


def main() -> None:
    """Measure, print the table, and write the file."""
    arguments = read_arguments()
    raise_file_limit()
    names = []
    for name in arguments.only:
        missing = find_missing(name)
        if missing:
            _log(f"{name} is left out: {missing}")
        else:
            names.append(name)
    bench = Bench(arguments)
    with alone():
        results = bench.compare(names)
    print_table(results)
    if arguments.json:
        settings = {key: value for key, value in vars(arguments).items() if key != "json"}
        document = {
            "machine": _describe_machine(),
            "settings": settings,
            "medians": results.medians(),
            "ratios": results.ratios(),
            "lost": results.total("lost"),
            **asdict(results),
        }
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    sys.exit(any(results.total("lost").values()))


if __name__ == "__main__":
    main()
