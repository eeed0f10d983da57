"""What a store in a file costs: throughput and latency with it and without it, in turns.

    python benchmarks/store_costs.py --runs 5

With keys each job is written twice; without keys nothing is written, so there should be no
difference. The gateway has one CPU, the load another.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from gateways import choose_cpus, pinned, run_gateway

LOAD = str(Path(__file__).with_name("load.py"))
#: On the disk of this checkout: many temporary folders are in memory.
BUILD = Path(__file__).parents[1] / "build"
FIGURES = ("throughput", "cpu_us", "p50_ms", "p99_ms")


def measure(store: str, words: list[str]) -> dict[str, float]:
    """Run the load once at full speed, and once with jobs that take a while."""
    gateway_cpu, load_cpu = choose_cpus()
    with run_gateway("jobproxy", gateway_cpu, more={"store": store}) as gateway:
        command = [
            sys.executable,
            LOAD,
            f"--gateway-port={gateway.port}",
            f"--job-server-port={gateway.job_server_port}",
            f"--watch={gateway.pid}",
            *words,
        ]
        found = []
        for pace in (["--connections=50"], ["--connections=50", "--duration=0.1"]):
            with pinned(load_cpu):
                done = subprocess.run([*command, *pace], stdout=subprocess.PIPE, check=True)
            found.append(json.loads(done.stdout))
    full, paced = found
    assert not full["errors"] + paced["errors"], found
    return {
        "throughput": full["throughput"],
        "cpu_us": full["cpu_us"],
        "p50_ms": paced["p50_ms"],
        "p99_ms": paced["p99_ms"],
    }


def compare(runs: int, seconds: float, *, has_keys: bool) -> None:
    """Measure both stores in turns, and print the medians and their ratio."""
    words = [f"--seconds={seconds}", *(["--keys"] if has_keys else [])]
    figures: dict[str, list[dict[str, float]]] = {"memory": [], "sqlite": []}
    for number in range(runs):
        for name in ("memory", "sqlite") if number % 2 else ("sqlite", "memory"):
            with tempfile.TemporaryDirectory(dir=BUILD) as folder:
                store = "memory:" if name == "memory" else f"sqlite:{folder}/store.db"
                figures[name].append(measure(store, words))
    print(f"jobs {'with' if has_keys else 'without'} a key, {runs} runs each, medians")
    for figure in FIGURES:
        memory, sqlite = (
            statistics.median(each[figure] for each in figures[name])
            for name in ("memory", "sqlite")
        )
        ratios = statistics.median(
            of_sqlite[figure] / of_memory[figure]
            for of_memory, of_sqlite in zip(figures["memory"], figures["sqlite"], strict=True)
        )
        print(f"  {figure:12} memory {memory:9.2f}  sqlite {sqlite:9.2f}  ratio {ratios:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    arguments = parser.parse_args()
    BUILD.mkdir(exist_ok=True)
    compare(arguments.runs, arguments.seconds, has_keys=True)
    compare(arguments.runs, arguments.seconds, has_keys=False)


if __name__ == "__main__":
    main()
