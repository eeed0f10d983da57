"""Overload: five times the jobs that the proxy can hold, for half a minute.

The proxy may hold ``--held`` clients, and a job takes a second, so its capacity is about that many
jobs per second. The load first rises to the capacity; then it is half of the peak, five times the
peak, and half of it again. It is an open load: jobs are sent at their time whatever the others do,
and latencies count from that time. The exit code is 0 if the proxy keeps 90 % of its peak goodput,
refuses the rest quickly, and is back to normal after two seconds.
"""

import argparse
import asyncio
import gc
import json
import os
import sys
import time
from collections import Counter
from statistics import median
from time import perf_counter
from typing import Any, cast

import uvloop  # type: ignore[import-not-found,unused-ignore]
from attrs import define, field
from gateways import choose_cpus, pinned
from jobs import CallbackPool, JobServer, StartConnection, make_result
from load import read_cpu
from wire import Messages, closes_connection, is_success, make_post

from jobproxy.daemon.process import raise_file_limit
from jobproxy.sandbox.processes import DaemonProcess, find_free_port

#: Seconds between two checks for jobs to be sent.
TICK = 0.004
#: Seconds of a job.
DURATION = 1.0
#: Fractions of the peak goodput: the overload, the normal load, and what must be kept.
OVERLOAD = 5.0
NORMAL = 0.5
KEPT = 0.9
#: Maximum seconds of a refusal, and until the proxy is back to normal.
REFUSED_WITHIN = 0.1
BACK_WITHIN = 2


@define(eq=False)
class Second:
    """The jobs whose time was in one second."""

    offered: int = 0
    good: int = 0
    refused: int = 0
    #: Seconds from a job's time to its refusal; seconds that the proxy added to each result.
    refusals: list[float] = field(factory=list)
    added: list[float] = field(factory=list)
    cpu: float = 0.0


@define(eq=False)
class Load:
    """All clients and their jobs."""

    port: int
    accounts: int
    errors: Counter[str] = field(factory=Counter)
    seconds: list[Second] = field(factory=list)
    idle: list["Client"] = field(factory=list)
    sent: int = 0
    open: int = 0
    server: JobServer = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.server = JobServer(CallbackPool(self.port, self.errors), DURATION, self.errors)

    async def offer(self, rate: float, seconds: int, pid: int) -> list[Second]:
        """Send jobs at an even rate per second, and return them by second."""
        began, before, number = perf_counter(), len(self.seconds), 0
        for index in range(seconds):
            second, cpu = Second(), read_cpu(pid)
            self.seconds.append(second)
            while (now := perf_counter() - began) < index + 1:
                while number / rate <= min(now, index + 1):
                    self._send(second, began + number / rate)
                    number += 1
                await asyncio.sleep(TICK)
            second.cpu = read_cpu(pid) - cpu
        return self.seconds[before:]

    def _send(self, second: Second, at: float) -> None:
        second.offered += 1
        number = self.sent
        self.sent += 1
        body = b'{"account":"account-%d","number":%d}' % (number % self.accounts, number)
        job = (number, make_post(b"proxy", b"/proxy", body), at, second)
        if self.idle:
            self.idle.pop().send(job)
        else:
            asyncio.get_running_loop().create_task(self._connect(job))

    async def _connect(self, job: "Job") -> None:
        try:
            await asyncio.get_running_loop().create_connection(
                lambda: Client(self, job), "127.0.0.1", self.port
            )
        except OSError as error:
            self.errors[f"client could not connect: {error.strerror}"] += 1

    def record(self, job: "Job", head: bytes, body: bytes) -> None:
        """Record the response to a job."""
        number, _, at, second = job
        took, now = self.server.pop_duration(number), perf_counter()
        if is_success(head):
            if body != make_result(number):
                self.errors["client got a wrong result"] += 1
            second.good += 1
            second.added.append(now - at - took)
        elif head[9:12] in (b"503", b"429") and json.loads(body)["started"] == "no":
            second.refused += 1
            second.refusals.append(now - at)
        else:
            self.errors[f"client got {head[9:12]!r}"] += 1


Job = tuple[int, bytes, float, Second]


class Client(asyncio.Protocol):
    """A client's connection, which is reused if the proxy keeps it open."""

    def __init__(self, load: Load, job: Job) -> None:
        self._load = load
        self._messages = Messages()
        self._job: Job | None = job

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._load.open += 1
        assert self._job is not None
        self.send(self._job)

    def send(self, job: Job) -> None:
        self._job = job
        self._transport.write(job[1])

    def data_received(self, data: bytes) -> None:
        for head, body in self._messages.feed(data):
            assert self._job is not None
            job, self._job = self._job, None
            self._load.record(job, head, body)
            if closes_connection(head):
                self._transport.close()
            else:
                self._load.idle.append(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._load.open -= 1
        if self in self._load.idle:
            self._load.idle.remove(self)
        if self._job is not None:
            self._load.errors[f"client got no response: {exc}"] += 1


def quantile(values: list[float], share: float) -> float:
    """Return a quantile of the values; 0.0 if there are none."""
    return sorted(values)[int(len(values) * share)] if values else 0.0


async def run(arguments: argparse.Namespace, port: int, job_port: int, pid: int) -> dict[str, Any]:
    """Run all loads, and return the figures."""
    load = Load(port, arguments.accounts)
    loop = asyncio.get_running_loop()
    await loop.create_server(lambda: StartConnection(load.server), "127.0.0.1", job_port)
    capacity = arguments.held / DURATION
    peak = 0.0
    for share in (0.8, 1.0, 1.2):
        rise = await load.offer(share * capacity, 5, pid)
        await asyncio.sleep(2 * DURATION)
        # The first seconds are not yet under the full load.
        peak = max(peak, median(second.good for second in rise[2:]))
    before = await load.offer(NORMAL * peak, 5, pid)
    over = await load.offer(OVERLOAD * peak, arguments.seconds, pid)
    after = await load.offer(NORMAL * peak, 8, pid)
    await asyncio.sleep(3 * DURATION)
    usual = quantile([value for second in before for value in second.added], 0.99)
    return {
        "peak": peak,
        "offered": median(second.offered for second in over),
        "goodput": median(second.good for second in over[2:]),
        "refusal_p50": quantile([value for each in over for value in each.refusals], 0.5),
        "refusal_p99": quantile([value for each in over for value in each.refusals], 0.99),
        "cpu": median(second.cpu for second in over),
        "back": find_return(after, usual),
        "errors": dict(load.errors),
        "seconds": [
            {
                "offered": second.offered,
                "good": second.good,
                "refused": second.refused,
                "refusal_p99": quantile(second.refusals, 0.99),
                "added_p99": quantile(second.added, 0.99),
            }
            for second in (*before, *over, *after)
        ],
    }


def find_return(after: list[Second], usual: float) -> int | None:
    """Return the seconds until all jobs are done as quickly as before, or None."""
    for number in range(len(after)):
        if all(
            second.good == second.offered and quantile(second.added, 0.99) < 2 * usual + 0.05
            for second in after[number:]
        ):
            return number
    return None


def judge(found: dict[str, Any]) -> list[str]:
    """Return the faults of a run."""
    faults = [f"{count} times: {error}" for error, count in found["errors"].items()]
    if found["offered"] < 0.95 * OVERLOAD * found["peak"]:
        faults.append("the load sent too few jobs; the measurement is invalid")
    if found["goodput"] < KEPT * found["peak"]:
        faults.append("the goodput fell below 90 % of the peak")
    if found["refusal_p99"] > REFUSED_WITHIN:
        faults.append("refusals took too long")
    if found["back"] is None or found["back"] > BACK_WITHIN:
        faults.append("the proxy was not back to normal in time")
    return faults


def main() -> None:
    """Run the proxy and the load, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--held", type=int, default=600, help="maximum of held clients; %(default)s"
    )
    parser.add_argument("--seconds", type=int, default=30, help="seconds of overload; %(default)s")
    parser.add_argument("--accounts", type=int, default=100, help="number of accounts; %(default)s")
    parser.add_argument("--json", metavar="FILE", help="write the figures to this file")
    arguments = parser.parse_args()
    raise_file_limit()
    gc.disable()
    port, job_port = find_free_port(), find_free_port()
    options = {
        "callback-url": f"http://127.0.0.1:{port}/callback",
        "job-server-url": f"http://127.0.0.1:{job_port}/start",
        "max-held": str(arguments.held),
    }
    cpus = choose_cpus()
    with pinned(cpus[0]):
        daemon = DaemonProcess("jobproxy", options, port)
        daemon.__enter__()
    try:
        if cpus[1] is not None:
            os.sched_setaffinity(0, {cpus[1]})
        uvloop.install()
        began = time.monotonic()
        found = asyncio.run(run(arguments, port, job_port, daemon.process.pid))
    finally:
        daemon.stop()
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:  # noqa: PTH123
            json.dump(found, file)
    share = found["goodput"] / found["peak"]
    print(f"peak goodput          {found['peak']:8.0f} jobs/s")
    print(f"offered               {found['offered']:8.0f} jobs/s")
    print(f"goodput in overload   {found['goodput']:8.0f} jobs/s, {share:.1%} of the peak")
    print(f"refused within        {found['refusal_p50'] * 1000:8.1f} ms (median)")
    print(f"                      {found['refusal_p99'] * 1000:8.1f} ms (p99)")
    print(f"CPU of the proxy      {found['cpu']:8.0%}")
    print(f"back to normal after  {found['back']!s:>8} s")
    faults = judge(found)
    for fault in faults:
        print(f"WRONG: {fault}")
    print(f"{'FAILED' if faults else 'PASSED'}, in {time.monotonic() - began:.0f} s")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
