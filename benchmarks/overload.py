"""Overload: a proxy is offered five times the jobs that it may hold, for half a minute.

jobproxy may hold so many clients (``--held``), and a job takes a second: so it carries about that
many jobs a second. First the load rises to what it carries; then there is half of that, five times
of that, and half of it again. Jobs are sent when it is their time, whatever became of the others,
and latencies count from that time. The exit code is 1 unless the proxy keeps at least 90 % of its
peak goodput, refuses the rest quickly, and is as before two seconds after.
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
from wire import Messages, is_success, make_post, wants_close

from jobproxy.daemon.lifecycle import raise_file_limit
from jobproxy.sandbox.processes import DaemonProcess, find_free_port

#: Seconds between two looks at whose time it is to send a job.
TICK = 0.004
DURATION = 1.0
#: Of the peak, and what has to be kept of it.
OVERLOAD = 5.0
NORMAL = 0.5
KEPT = 0.9
#: Seconds: what "refused in milliseconds" and "back to normal" allow.
REFUSED_WITHIN = 0.1
BACK_WITHIN = 2


@define(eq=False)
class Second:
    """What became of the jobs whose time was in one second."""

    offered: int = 0
    good: int = 0
    refused: int = 0
    #: Seconds from a job's time to its refusal, and to its result but for the job's own.
    refusals: list[float] = field(factory=list)
    added: list[float] = field(factory=list)
    cpu: float = 0.0


@define(eq=False)
class Load:
    """All clients, and what became of their jobs."""

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
        """Send so many jobs a second, evenly, and return what became of them by second."""
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
            self.errors[f"no connection: {error.strerror}"] += 1

    def take(self, job: "Job", head: bytes, body: bytes) -> None:
        """Note what became of a job."""
        number, _, at, second = job
        took, now = self.server.take_duration(number), perf_counter()
        if is_success(head):
            if body != make_result(number):
                self.errors["a client got something else than its own result"] += 1
            second.good += 1
            second.added.append(now - at - took)
        elif head[9:12] in (b"503", b"429") and json.loads(body)["started"] == "no":
            second.refused += 1
            second.refusals.append(now - at)
        else:
            self.errors[f"answered {head[9:12]!r}"] += 1


Job = tuple[int, bytes, float, Second]


class Client(asyncio.Protocol):
    """A client's connection, which is used again if it is left open."""

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
            self._load.take(job, head, body)
            if wants_close(head):
                self._transport.close()
            else:
                self._load.idle.append(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._load.open -= 1
        if self in self._load.idle:
            self._load.idle.remove(self)
        if self._job is not None:
            self._load.errors[f"no answer: {exc}"] += 1


def quantile(values: list[float], share: float) -> float:
    """Return the value that this share of all is below; 0 of none."""
    return sorted(values)[int(len(values) * share)] if values else 0.0


async def run(arguments: argparse.Namespace, port: int, job_port: int, pid: int) -> dict[str, Any]:
    """Offer all the loads, and return what came of them."""
    load = Load(port, arguments.accounts)
    loop = asyncio.get_running_loop()
    await loop.create_server(lambda: StartConnection(load.server), "127.0.0.1", job_port)
    carried = arguments.held / DURATION
    peak = 0.0
    for share in (0.8, 1.0, 1.2):
        rise = await load.offer(share * carried, 5, pid)
        await asyncio.sleep(2 * DURATION)
        # Jobs that were sent in the first second had the place to themselves.
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
    """Return after how many seconds all jobs were done, and as quickly as before."""
    for number in range(len(after)):
        if all(
            second.good == second.offered and quantile(second.added, 0.99) < 2 * usual + 0.05
            for second in after[number:]
        ):
            return number
    return None


def judge(found: dict[str, Any]) -> list[str]:
    """Return what was not as it has to be."""
    faults = [f"{count} times: {error}" for error, count in found["errors"].items()]
    if found["offered"] < 0.95 * OVERLOAD * found["peak"]:
        faults.append("the load did not offer enough; it is no measurement")
    if found["goodput"] < KEPT * found["peak"]:
        faults.append("goodput was lost")
    if found["refusal_p99"] > REFUSED_WITHIN:
        faults.append("refusals took long")
    if found["back"] is None or found["back"] > BACK_WITHIN:
        faults.append("it was not back to normal in time")
    return faults


def main() -> None:
    """Run the proxy and the load, and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--held", type=int, default=600, help="clients; %(default)s")
    parser.add_argument("--seconds", type=int, default=30, help="of overload; %(default)s")
    parser.add_argument("--accounts", type=int, default=100, help="%(default)s")
    parser.add_argument("--json", metavar="FILE", help="write the figures here too")
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
    print(f"goodput under it      {found['goodput']:8.0f} jobs/s, {share:.1%} of the peak")
    print(f"refused within        {found['refusal_p50'] * 1000:8.1f} ms (median)")
    print(f"                      {found['refusal_p99'] * 1000:8.1f} ms (99 of 100)")
    print(f"CPU of the proxy      {found['cpu']:8.0%}")
    print(f"back to normal after  {found['back']!s:>8} s")
    faults = judge(found)
    for fault in faults:
        print(f"WRONG: {fault}")
    print(f"{'FAILED' if faults else 'PASSED'}, in {time.monotonic() - began:.0f} s")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
