"""Several nodes with a Redis, a job server that sends callbacks to any node, and clients.

The job server and the clients run in this process, and check each result.
"""

import asyncio
import json
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from attrs import define, field
from wire import Messages, NotUnderstood, closes_connection, make_response

from jobproxy.sandbox.processes import DaemonProcess, find_free_port

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.support.redis_server import RedisServer

#: Seconds that a client waits for a response.
PATIENCE = 60.0
#: Seconds for which the job server retries a callback, and between two attempts.
STAMINA = 30.0
PAUSE = 0.25

_METRIC = re.compile(r"^(jobproxy_\w+)(?:\{[^}]*\})? (\S+)$", re.MULTILINE)


@define(eq=False)
class Nodes:
    """Running nodes.

    :ivar living: the ports of those that have not been killed.
    """

    daemons: list[DaemonProcess]
    admin_ports: dict[int, int]
    redis: RedisServer | None
    living: list[int] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.living = [daemon.port for daemon in self.daemons]

    def kill(self, number: int) -> int:
        """Kill a node; return its port."""
        daemon = self.daemons[number]
        daemon.process.send_signal(signal.SIGKILL)
        daemon.process.wait()
        self.living.remove(daemon.port)
        return daemon.port

    def fetch(self, path: str, port: int | None = None) -> bytes:
        """Return the response of a node's operator route."""
        url = f"http://127.0.0.1:{self.admin_ports[port or self.living[0]]}{path}"
        with urllib.request.urlopen(url, timeout=PATIENCE) as response:
            body: bytes = response.read()
            return body

    def sum_metric(self, name: str) -> float:
        """Return a metric, summed over its labels and all living nodes."""
        pages = [self.fetch("/metrics", port).decode() for port in self.living]
        return sum(
            float(value)
            for page in pages
            for found, value in _METRIC.findall(page)
            if found == name
        )


@contextmanager
def run_nodes(
    number: int, job_server_port: int, options: dict[str, str], *, with_redis: bool = True
) -> Iterator[Nodes]:
    """Run the nodes of a cluster in this context.

    Each node has a callback URL of its own, by which the job server identifies it.
    """
    with ExitStack() as stack:
        redis = stack.enter_context(RedisServer()) if with_redis else None
        if redis is not None:
            # Without an epoch the nodes would first restore their data to an empty Redis.
            redis.ask("SET", "jobproxy:epoch", "1")
        secret = stack.enter_context(tempfile.NamedTemporaryFile("w", suffix=".key"))
        secret.write("a key that is long enough for callback tokens\n")
        secret.flush()
        shared = {} if redis is None else {"store": redis.url, "secret-file": secret.name}
        daemons, admin_ports = [], {}
        for _ in range(number):
            port = find_free_port()
            admin_ports[port] = find_free_port()
            settings = {
                "callback-url": f"http://127.0.0.1:{port}/callback",
                "job-server-url": f"http://127.0.0.1:{job_server_port}/start",
                "admin-listen": f"tcp:{admin_ports[port]}:interface=127.0.0.1",
                "starts-per-account": "1000",
                **shared,
                **options,
            }
            daemons.append(DaemonProcess("jobproxy", settings, port, logger=""))
        with ThreadPoolExecutor() as executor:
            list(executor.map(stack.enter_context, daemons))
        nodes = Nodes(daemons, admin_ports, redis)
        for port in nodes.living:
            wait_until_ready(nodes, port)
        yield nodes


def wait_until_ready(nodes: Nodes, port: int) -> None:
    """Wait until a node is ready."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            nodes.fetch("/readyz", port)
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise TimeoutError("a node did not become ready")


@define(eq=False)
class Connection:
    """A kept connection to a node."""

    port: int
    _messages: Messages = field(factory=Messages, init=False)
    _reader: asyncio.StreamReader | None = field(default=None, init=False)
    _writer: asyncio.StreamWriter | None = field(default=None, init=False)

    async def post(self, path: str, body: bytes, headers: str = "") -> tuple[int, bytes, bytes]:
        """Send a POST; return the status, the head and the body of the response."""
        head = (
            f"POST {path} HTTP/1.1\r\nHost: node\r\nContent-Type: application/json\r\n"
            f"{headers}Content-Length: {len(body)}\r\n\r\n"
        )
        return await self._call(head.encode() + body)

    async def get(self, path: str) -> tuple[int, bytes, bytes]:
        """Send a GET; return the same."""
        return await self._call(f"GET {path} HTTP/1.1\r\nHost: node\r\n\r\n".encode())

    async def _call(self, request: bytes) -> tuple[int, bytes, bytes]:
        if self._reader is None or self._writer is None:
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self.port)
        self._writer.write(request)
        responses: list[tuple[bytes, bytes]] = []
        while not responses:
            data = await asyncio.wait_for(self._reader.read(65_536), PATIENCE)
            if not data:
                self.close()
                raise ConnectionResetError("closed before a response")
            responses = self._messages.feed(data)
        if closes_connection(responses[0][0]):
            self.close()
        return int(responses[0][0][9:12]), *responses[0]

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._reader = self._writer = None
        self._messages = Messages()


def make_result(tag: int) -> bytes:
    """Return the result of a job."""
    return b'{ "id":"%x", "state":"completed",\t"tag":%d }\n' % (tag, tag)


@define(eq=False)
class JobServer:
    """Starts jobs, and sends their callbacks.

    :param duration: seconds of a job.
    :param choose: returns the port for a callback, for a job and the port of its own node.
    :ivar starts: how often each job was started.
    :ivar took: measured seconds of each job.
    :ivar receipts: the numbers of responses to callbacks, by status.
    :ivar undelivered: jobs whose callback no node accepted.
    :ivar elsewhere: jobs whose callback was first sent to another node than their own.
    """

    duration: float
    choose: Callable[[int, int], int]
    port: int = field(factory=find_free_port)
    starts: Counter[int] = field(factory=Counter)
    took: dict[int, float] = field(factory=dict)
    receipts: Counter[str] = field(factory=Counter)
    undelivered: list[int] = field(factory=list)
    elsewhere: set[int] = field(factory=set)
    _tasks: set["asyncio.Task[None]"] = field(factory=set)
    _idle: dict[int, list[Connection]] = field(factory=dict)

    async def listen(self) -> asyncio.AbstractServer:
        return await asyncio.start_server(self._serve, "127.0.0.1", self.port, backlog=4096)

    async def finish(self) -> None:
        """Wait until every callback is accepted or given up."""
        while self._tasks:
            await asyncio.wait(self._tasks)
        for connections in self._idle.values():
            for connection in connections:
                connection.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        messages = Messages()
        # At the end this is cancelled, which asyncio would report.
        with suppress(asyncio.CancelledError, OSError):
            while data := await reader.read(65_536):
                for _, body in messages.feed(data):
                    writer.write(make_response(self._start(json.loads(body)), close=False))
        writer.close()

    def _start(self, job: dict[str, Any]) -> bytes:
        tag = job["tag"]
        self.starts[tag] += 1
        task = asyncio.create_task(self._run(tag, job["callback"]))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return b'{"id":"%x","state":"running"}' % tag

    async def _run(self, tag: int, callback: str) -> None:
        begun = time.perf_counter()
        await asyncio.sleep(self.duration)
        self.took[tag] = time.perf_counter() - begun
        owner, _, path = callback.removeprefix("http://127.0.0.1:").partition("/")
        deadline = begun + self.duration + STAMINA
        port = self.choose(tag, int(owner))
        if port != int(owner):
            self.elsewhere.add(tag)
        while time.perf_counter() < deadline:
            try:
                status, body = await self._call(port, f"/{path}", make_result(tag))
            except OSError:
                self.receipts["no response"] += 1
                status = 0
            if status == 200:
                self.receipts[json.loads(body)["status"]] += 1
                return
            if status:
                self.receipts[str(status)] += 1
            await asyncio.sleep(PAUSE)
            port = self.choose(tag, int(owner))
        self.undelivered.append(tag)

    async def _call(self, port: int, path: str, body: bytes) -> tuple[int, bytes]:
        idle = self._idle.setdefault(port, [])
        connection = idle.pop() if idle else Connection(port)
        try:
            status, _, response = await connection.post(path, body)
        except BaseException:
            connection.close()
            raise
        idle.append(connection)
        return status, response


@define(eq=False)
class Clients:
    """Clients that send one job after another, each to the next node.

    :param has_key: returns whether a job has an Idempotency-Key; a client whose connection ends
        sends such a job again, to another node.
    :ivar added: seconds that the proxy added to each job.
    :ivar latencies: seconds until each response.
    :ivar responses: the numbers of responses by status and problem.
    :ivar wrong: the numbers of errors by message.
    :ivar waiting: the port of the node that each job without a response was sent to.
    :ivar lost: jobs without a key whose connection ended.
    """

    nodes: Nodes
    server: JobServer
    has_key: Callable[[int], bool] = lambda _: False
    sent: int = 0
    added: dict[int, float] = field(factory=dict)
    latencies: dict[int, float] = field(factory=dict)
    responses: Counter[str] = field(factory=Counter)
    by_tag: dict[int, str] = field(factory=dict)
    wrong: Counter[str] = field(factory=Counter)
    lost: list[int] = field(factory=list)
    waiting: dict[int, int] = field(factory=dict)
    again: int = 0
    is_over: bool = False

    async def run(self, number: int, *, jobs: int = 0, seconds: float = 0.0) -> None:
        """Run so many clients, until so many jobs are sent, so many seconds, or until stopped."""
        if seconds:
            asyncio.get_running_loop().call_later(seconds, self.stop)
        await asyncio.gather(
            *(self._work(turn, jobs, 0.3 * turn / number) for turn in range(number))
        )
        await self.server.finish()

    def stop(self) -> None:
        """Send no new jobs."""
        self.is_over = True

    async def _work(self, turn: int, jobs: int, wait: float) -> None:
        await asyncio.sleep(wait)
        connections: dict[int, Connection] = {}
        while not self.is_over and not (jobs and self.sent >= jobs):
            tag = self.sent
            self.sent += 1
            turn += 1
            await self._send(tag, turn, connections)
        for connection in connections.values():
            connection.close()

    async def _send(self, tag: int, turn: int, connections: dict[int, Connection]) -> None:
        body = json.dumps({"account": f"a{tag % 50}", "wait": True, "tag": tag}).encode()
        headers = f"Idempotency-Key: key-{tag}\r\n" if self.has_key(tag) else ""
        begun = time.perf_counter()
        while True:
            port = self.nodes.living[turn % len(self.nodes.living)]
            connection = connections.setdefault(port, Connection(port))
            self.waiting[tag] = port
            try:
                status, _, response = await connection.post("/proxy", body, headers)
            except (OSError, asyncio.TimeoutError, NotUnderstood) as error:
                connection.close()
                del self.waiting[tag]
                if not headers:
                    self.lost.append(tag)
                    if port in self.nodes.living:
                        self.wrong[f"client of a living node got {error!r}"] += 1
                    return
                self.again += 1
                turn += 1
                await asyncio.sleep(PAUSE)
                continue
            if status != 503:
                break
            problem = json.loads(response)
            self.responses[f"503 {problem['type'].rpartition(':')[2]}"] += 1
            if problem["started"] != "no" and not headers:
                self.wrong["503 for a job that may run"] += 1
            await asyncio.sleep(PAUSE)
        del self.waiting[tag]
        self._record(tag, status, response, time.perf_counter() - begun)

    def _record(self, tag: int, status: int, response: bytes, seconds: float) -> None:
        word = str(status)
        if status != 200:
            problem = json.loads(response)
            word = f"{status} {problem['type'].rpartition(':')[2]}, started {problem['started']}"
        elif response != make_result(tag):
            self.wrong["client got a wrong result"] += 1
        self.responses[word] += 1
        self.by_tag[tag] = word
        self.latencies[tag] = seconds
        if status == 200:
            self.added[tag] = seconds - self.server.took[tag]


def read_cpu(process: "subprocess.Popen[bytes]") -> float:
    """Return the seconds of CPU time that a process has used."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100
