"""How many functions the proxy calls for one job, those written in C included.

Runs jobproxy under cProfile, as ``twistd --profile`` does it, has it do ``--jobs`` jobs that end at
once, with ``--held`` clients held, and divides all calls from the start of the loop to its end by
the jobs. Unlike a time, that depends little on the machine and on what else runs there, so that
``--max`` can hold it. The exit code is 1 if there are more, or if a job was lost.
"""

import argparse
import asyncio
import json
import os
import pstats
import sys
import sysconfig
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from attrs import define
from gateways import Running, choose_cpus, run_gateway
from load import PATIENCE, Load

import jobproxy

#: A function, as cProfile names it: its file, line and name.
Function = tuple[str, int, str]

#: The file of all functions that are written in C.
IN_C = "~"
OURS = Path(jobproxy.__file__).parent
LIBRARY = Path(sysconfig.get_path("purelib"))
STANDARD = Path(sysconfig.get_path("stdlib"))


class CountedLoad(Load):
    """A load of so many jobs, however long they take.

    :ivar is_settled: is set once an account has had two jobs. By then the proxy has found out that
        it may keep connections, which it is not sure to do when it starts with many jobs at once.
    """

    def __init__(self, arguments: argparse.Namespace) -> None:
        super().__init__(arguments)
        self._jobs: int = arguments.jobs
        self.is_settled = asyncio.Event()

    def check_response(self, number: int, latency: float, head: bytes, body: bytes) -> None:
        super().check_response(number, latency, head, body)
        self.is_over = self.sent >= self._jobs
        if self.right > self.accounts or self.is_over or self.errors:
            self.is_settled.set()


@define
class Calls:
    """What was called, and how often.

    :ivar total: all calls.
    :ivar functions: the calls of each function.
    :ivar modules: the calls by where the function is; one in C counts for whoever called it.
    """

    total: int
    functions: Counter[str]
    modules: Counter[str]


def read_calls(path: Path) -> Calls:
    """Read what cProfile has counted."""
    stats: Any = pstats.Stats(str(path))
    functions: Counter[str] = Counter()
    modules: Counter[str] = Counter()
    for function, (_, calls, _, _, callers) in stats.stats.items():
        functions[name_function(function)] += calls
        if function[0] != IN_C:
            modules[name_module(function)] += calls
            continue
        for caller, figures in callers.items():
            modules[name_module(caller)] += figures[1]
    return Calls(stats.total_calls, functions, modules)


def name_function(function: Function) -> str:
    """Return what tells a function from others, for people."""
    path, line, name = function
    if path == IN_C:
        return name
    file = Path(path)
    for base in (LIBRARY, STANDARD, OURS.parent):
        if file.is_relative_to(base):
            file = file.relative_to(base)
            break
    return f"{file}:{line} {name}"


def name_module(function: Function) -> str:
    """Return a module of ours, the library of another one, or what it is of otherwise."""
    path = Path(function[0])
    if path.is_relative_to(OURS):
        return str(path.relative_to(OURS.parent))
    if path.is_relative_to(LIBRARY):
        return path.relative_to(LIBRARY).parts[0].removesuffix(".py")
    if function[0] == IN_C:
        return "called by C"
    return "Python" if path.is_relative_to(STANDARD) else "made at run time"


async def run_load(load: CountedLoad, job_server_port: int, held: int) -> None:
    """Have all jobs done, the first ones by one client alone."""
    await load.listen(job_server_port)
    await load.connect()
    await asyncio.wait_for(load.is_settled.wait(), PATIENCE)
    for _ in range(held - 1):
        if not load.is_over:
            await load.connect()
    await load.drain()


def count(arguments: argparse.Namespace) -> tuple[Calls, dict[str, Any]]:
    """Return the calls of a proxy that does all jobs, and what became of these."""
    gateway_cpu, load_cpu = choose_cpus()
    with tempfile.TemporaryDirectory() as folder:
        stats = Path(folder, "stats")
        words = (f"--profile={stats}", "--profiler=cprofile", "--savestats")
        store = {"store": arguments.store.replace("FOLDER", folder)}
        with run_gateway("jobproxy", gateway_cpu, words=words, more=store) as gateway:
            if load_cpu is not None:
                os.sched_setaffinity(0, {load_cpu})
            load = CountedLoad(_describe_load(arguments, gateway))
            asyncio.run(run_load(load, gateway.job_server_port, arguments.held))
        # It has been stopped by SIGTERM, as it writes them only then.
        return read_calls(stats), load.summary()


def _describe_load(arguments: argparse.Namespace, gateway: Running) -> argparse.Namespace:
    return argparse.Namespace(
        gateway_port=gateway.port,
        accounts=arguments.accounts,
        hold=0,
        duration=0,
        jobs=arguments.jobs,
        keys=arguments.keys,
    )


def print_table(title: str, counts: Counter[str], jobs: int, top: int | None = None) -> None:
    print(f"\n{'calls a job':>12}  {title}")
    for name, calls in counts.most_common(top):
        print(f"{calls / jobs:12.2f}  {name}")


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=3000, help="%(default)s")
    parser.add_argument("--held", type=int, default=100, help="clients at once; %(default)s")
    parser.add_argument("--accounts", type=int, default=50, help="%(default)s")
    parser.add_argument("--keys", action="store_true", help="give each job an Idempotency-Key")
    parser.add_argument(
        "--store", default="memory:", help="like sqlite:FOLDER/store.db; %(default)s"
    )
    parser.add_argument("--top", type=int, default=40, help="functions shown; %(default)s")
    parser.add_argument("--max", type=float, metavar="N", help="calls a job that are allowed")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write all figures")
    arguments = parser.parse_args()
    if not 0 < arguments.held <= arguments.jobs:
        parser.error("there have to be at least as many jobs as are held at once, and one")
    return arguments


def main() -> None:
    """Count, print, and write."""
    arguments = read_arguments()
    calls, became = count(arguments)
    # The last clients may each have sent one more.
    jobs: int = became["sent"]
    each = calls.total / jobs
    print(f"{each:.0f} calls a job")
    print_table("function", calls.functions, jobs, arguments.top)
    print_table("module of ours, or library", calls.modules, jobs)
    if arguments.json:
        document = {
            "calls": each,
            "jobs": became,
            "functions": {name: n / jobs for name, n in calls.functions.most_common()},
            "modules": {name: n / jobs for name, n in calls.modules.most_common()},
        }
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    faults = [f"{number} times: {error}" for error, number in became["error_kinds"].items()]
    if became["lost"]:
        faults.append(f"{became['lost']} of {became['sent']} jobs were lost")
    if arguments.max is not None and each > arguments.max:
        faults.append(f"{each:.1f} calls a job are more than {arguments.max:g}")
    for fault in faults:
        print(f"WRONG: {fault}", file=sys.stderr)
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
