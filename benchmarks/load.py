"""The load, and the job server behind the gateway, in one process that uses little CPU time.

By default a number of clients send one job after another for some seconds. With ``--hold`` so many
clients send one job each, and none of these ends until all are started and a line is read from
stdin. Every response is compared, byte for byte, with the result of its job. Prints one JSON
object; the exit code is 1 if there was an error.

The gateway must be running, with ``http://127.0.0.1:JOB-SERVER-PORT/start`` as job server.
"""

import argparse
import asyncio
import gc
import json
import os
import resource
import sys
import time
from collections import Counter
from pathlib import Path
from time import perf_counter
from typing import Any, cast

from jobs import CallbackPool, JobServer, StartConnection, make_result
from wire import Messages, NotUnderstood, closes_connection, is_success, make_post

#: Seconds to wait for the last responses; longer than any gateway holds a client.
PATIENCE = 40.0
#: Clients that connect at once for ``--hold``: many enough to be quick, too few for a burst.
OPENING = 50


class Load:
    """The state that all clients share.

    :ivar sent: the number of jobs that were sent.
    :ivar right: the number of jobs whose client got the right result.
    :ivar added: seconds that the gateway added to each job in the measured time.
    """

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.port: int = arguments.gateway_port
        self.accounts: int = arguments.accounts
        self.has_keys: bool = arguments.keys
        self.host = f"127.0.0.1:{self.port}".encode()
        self.errors: Counter[str] = Counter()
        self.server = JobServer(
            CallbackPool(self.port, self.errors),
            None if arguments.hold else arguments.duration,
            self.errors,
        )
        self.sent = 0
        self.right = 0
        self.added: list[float] = []
        self.is_measured = False
        self.is_over = False
        self.clients: set[Client] = set()

    async def listen(self, port: int) -> None:
        """Serve the gateway's start requests."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: self._note_crash(context))
        await loop.create_server(
            lambda: StartConnection(self.server), "127.0.0.1", port, backlog=4096
        )

    async def connect(self) -> None:
        """Connect a client, which sends its first job at once."""
        loop = asyncio.get_running_loop()
        try:
            await loop.create_connection(lambda: Client(self), "127.0.0.1", self.port)
        except OSError as error:
            self.errors[f"client could not connect: {error.strerror}"] += 1

    def make_job(self) -> tuple[int, bytes]:
        """Return the number and the request of the next job."""
        number = self.sent
        self.sent += 1
        body = b'{"account":"account-%d","wait":true,"number":%d}' % (
            number % self.accounts,
            number,
        )
        key = b"Idempotency-Key: key-%d\r\n" % number if self.has_keys else b""
        return number, make_post(self.host, b"/proxy", body, key)

    def check_response(self, number: int, latency: float, head: bytes, body: bytes) -> None:
        """Check the response to a client, and record its latency."""
        took = self.server.pop_duration(number)
        if not is_success(head):
            self.errors[f"client got {head[9:12]!r} {body[:100]!r}"] += 1
        elif body != make_result(number):
            self.errors["client got a wrong result"] += 1
        else:
            self.right += 1
            if self.is_measured:
                self.added.append(latency - took)

    def _note_crash(self, context: dict[str, Any]) -> None:
        self.errors[f"error in the load: {context.get('exception', context['message'])!r}"] += 1

    async def drain(self) -> None:
        """Wait until all clients have their responses, for :data:`PATIENCE` at most."""
        deadline = perf_counter() + PATIENCE
        while self.clients and perf_counter() < deadline:
            await asyncio.sleep(0.02)

    def summary(self) -> dict[str, Any]:
        """Return the figures that all loads have."""
        return {
            "sent": self.sent,
            "lost": self.sent - self.right,
            "errors": sum(self.errors.values()),
            "error_kinds": dict(self.errors.most_common(5)),
        }


class Client(asyncio.Protocol):
    """A client's connection, which sends one job after another until the load is over."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._messages = Messages()
        self._is_busy = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's class has the methods of asyncio.Transport, but does not inherit from it.
        self._transport = cast(asyncio.Transport, transport)
        self._load.clients.add(self)
        self._send_job()

    def data_received(self, data: bytes) -> None:
        try:
            responses = self._messages.feed(data)
        except NotUnderstood as error:
            self._load.errors[f"response to a client: {error}"] += 1
            self._transport.abort()
            return
        for head, body in responses:
            self._is_busy = False
            self._load.check_response(self._number, perf_counter() - self._sent_at, head, body)
            if self._load.is_over or closes_connection(head):
                self._transport.close()
            else:
                self._send_job()

    def connection_lost(self, exc: Exception | None) -> None:
        self._load.clients.discard(self)
        if self._is_busy:
            self._load.errors[f"client got no response: {exc}"] += 1

    def _send_job(self) -> None:
        self._number, request = self._load.make_job()
        self._is_busy = True
        self._sent_at = perf_counter()
        self._transport.write(request)


async def run_loop(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run the clients for some seconds, and measure after the warm-up."""
    load = Load(arguments)
    await load.listen(arguments.job_server_port)
    for _ in range(arguments.connections):
        await load.connect()
    await asyncio.sleep(arguments.warm_up)

    began, own, watched = perf_counter(), time.process_time(), read_cpu(arguments.watch)
    waited = read_wait(arguments.watch), read_wait(os.getpid())
    load.is_measured = True
    await asyncio.sleep(arguments.seconds)
    load.is_measured = False
    seconds = perf_counter() - began
    own, watched = time.process_time() - own, read_cpu(arguments.watch) - watched
    gateway_waited = read_wait(arguments.watch) - waited[0]
    own_waited = read_wait(os.getpid()) - waited[1]

    load.is_over = True
    await load.drain()
    added = sorted(load.added)
    figures: dict[str, Any] = {
        "jobs": len(added),
        "throughput": round(len(added) / seconds, 1),
        # Near 1, the load itself is the bottleneck.
        "load_busy": round(own / seconds, 3),
        # Far from 0, other processes used the CPUs too.
        "gateway_waited": round(gateway_waited / seconds, 3),
        "load_waited": round(own_waited / seconds, 3),
        **load.summary(),
    }
    if added:
        figures["p50_ms"] = round(added[len(added) // 2] * 1000, 3)
        figures["p99_ms"] = round(added[len(added) * 99 // 100] * 1000, 3)
        if arguments.watch is not None:
            figures["cpu_us"] = round(watched / len(added) * 1e6, 1)
            figures["gateway_busy"] = round(watched / seconds, 3)
    return figures


async def run_hold(arguments: argparse.Namespace) -> dict[str, Any]:
    """Hold all clients at once, until a line is read from stdin."""
    load = Load(arguments)
    load.is_over = True
    room = asyncio.Semaphore(OPENING)
    load.server.on_start = room.release
    await load.listen(arguments.job_server_port)

    async def open_all() -> None:
        for _ in range(arguments.hold):
            await room.acquire()
            await load.connect()
        for _ in range(OPENING):
            await room.acquire()

    try:
        await asyncio.wait_for(open_all(), PATIENCE)
    except asyncio.TimeoutError:
        load.errors["not all jobs were started"] += 1
    print("held", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    load.server.end_all()
    await load.drain()
    return {"jobs": load.right, **load.summary()}


def read_cpu(pid: int | None) -> float:
    """Return the seconds of CPU, user and system, that a process has used; 0 for no process."""
    if pid is None:
        return 0
    stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    # The name before the last parenthesis may itself have spaces.
    fields = stat.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def read_wait(pid: int | None) -> float:
    """Return the seconds that a process's main thread was runnable but had no CPU."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text(encoding="ascii").split()[1]) / 1e9
    except FileNotFoundError:
        # There is no such process, or the kernel has no such statistics.
        return 0


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gateway-port", type=int, required=True, help="on 127.0.0.1")
    parser.add_argument("--job-server-port", type=int, required=True, help="on 127.0.0.1")
    parser.add_argument(
        "--connections", type=int, default=200, help="number of clients; %(default)s"
    )
    parser.add_argument("--accounts", type=int, default=50, help="number of accounts; %(default)s")
    parser.add_argument("--keys", action="store_true", help="give each job an Idempotency-Key")
    parser.add_argument("--duration", type=float, default=0, help="seconds of a job; %(default)s")
    parser.add_argument("--seconds", type=float, default=5, help="seconds to measure; %(default)s")
    parser.add_argument(
        "--warm-up", type=float, default=2, help="seconds before measuring; %(default)s"
    )
    parser.add_argument(
        "--watch", type=int, metavar="PID", help="process whose CPU time is measured"
    )
    parser.add_argument(
        "--hold", type=int, default=0, metavar="N", help="hold N clients at once instead"
    )
    return parser.parse_args()


def main() -> None:
    """Run the load and print its figures."""
    # Only this program needs it; others import the module without it.
    import uvloop  # type: ignore[import-not-found,unused-ignore]  # noqa: PLC0415

    arguments = read_arguments()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    # Garbage collection would be measured as latency of the gateway.
    gc.disable()
    figures = uvloop.run((run_hold if arguments.hold else run_loop)(arguments))
    print(json.dumps(figures), flush=True)
    sys.exit(bool(figures["lost"] or figures["errors"] or not figures["jobs"]))


if __name__ == "__main__":
    main()
