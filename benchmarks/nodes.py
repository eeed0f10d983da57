"""Several nodes and their Redis, a job server that calls back whichever of them it is told to, and
clients that know what each of their jobs has to come to; all but the nodes in one process.
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
from wire import Messages, NotUnderstood, make_answer, wants_close

from jobproxy.sandbox.processes import DaemonProcess, find_free_port

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.support.redis_server import RedisServer

#: Seconds that a client waits for an answer.
PATIENCE = 60.0
#: Seconds for which the job server tries to get rid of a callback, and between two tries.
STAMINA = 30.0
PAUSE = 0.25

_METRIC = re.compile(r"^(jobproxy_\w+)(?:\{[^}]*\})? (\S+)$", re.MULTILINE)


@define(eq=False)
class Nodes:
    """Some nodes that run.

    :ivar living: the ports of those that have not been killed.
    """

    daemons: list[DaemonProcess]
    admin_ports: dict[int, int]
    redis: RedisServer | None
    living: list[int] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.living = [daemon.port for daemon in self.daemons]

    def kill(self, number: int) -> int:
        """Have a node die at once; return its port."""
        daemon = self.daemons[number]
        daemon.process.send_signal(signal.SIGKILL)
        daemon.process.wait()
        self.living.remove(daemon.port)
        return daemon.port

    def fetch(self, path: str, port: int | None = None) -> bytes:
        """GET a page of a node's operators."""
        url = f"http://127.0.0.1:{self.admin_ports[port or self.living[0]]}{path}"
        with urllib.request.urlopen(url, timeout=30) as response:
            body: bytes = response.read()
            return body

    def sum_metric(self, name: str) -> float:
        """Return a metric, summed over its labels and over all nodes that live."""
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
    """Run nodes that know each other while the context lasts; each has a callback URL of its own,
    by which the job server knows which one it is.
    """
    with ExitStack() as stack:
        redis = stack.enter_context(RedisServer()) if with_redis else None
        if redis is not None:
            # To one that has just been started the nodes would have to say first what they know.
            redis.ask("SET", "jobproxy:epoch", "1")
        secret = stack.enter_context(tempfile.NamedTemporaryFile("w", suffix=".key"))
        secret.write("a key that is long enough for callback tokens\n")
        secret.flush()
        shared = {} if redis is None else {"cluster": redis.url, "secret-file": secret.name}
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
    """Wait until a node has joined the others."""
    deadline = time.monotonic() + 20
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
        """POST something; return the status, the head and the body of the answer."""
        if self._reader is None or self._writer is None:
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self.port)
        head = (
            f"POST {path} HTTP/1.1\r\nHost: node\r\nContent-Type: application/json\r\n"
            f"{headers}Content-Length: {len(body)}\r\n\r\n"
        )
        self._writer.write(head.encode() + body)
        answers: list[tuple[bytes, bytes]] = []
        while not answers:
            data = await asyncio.wait_for(self._reader.read(65_536), PATIENCE)
            if not data:
                self.close()
                raise ConnectionResetError("closed instead of an answer")
            answers = self._messages.feed(data)
        if wants_close(answers[0][0]):
            self.close()
        return int(answers[0][0][9:12]), *answers[0]

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._reader = self._writer = None
        self._messages = Messages()


def make_result(tag: int) -> bytes:
    """Return the one right answer to a job."""
    return b'{ "id":"%x", "state":"completed",\t"tag":%d }\n' % (tag, tag)


@define(eq=False)
class JobServer:
    """Starts jobs, and calls back.

    :param duration: seconds that a job takes.
    :param choose: returns the port to be called back, of a job and the port of its own node.
    :ivar starts: how often each job was started.
    :ivar took: seconds that each job really took.
    :ivar receipts: what was said to callbacks.
    :ivar undelivered: jobs whose callback nobody took.
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
        """Wait until every callback is taken, or given up."""
        while self._tasks:
            await asyncio.wait(self._tasks)
        for connections in self._idle.values():
            for connection in connections:
                connection.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        messages = Messages()
        # At the end whoever still serves is cancelled, which asyncio would report.
        with suppress(asyncio.CancelledError, OSError):
            while data := await reader.read(65_536):
                for _, body in messages.feed(data):
                    writer.write(make_answer(self._start(json.loads(body)), close=False))
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
                self.receipts["no answer"] += 1
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
            status, _, answer = await connection.post(path, body)
        except BaseException:
            connection.close()
            raise
        idle.append(connection)
        return status, answer


@define(eq=False)
class Clients:
    """Clients that send jobs, one after the other, each to the next node.

    :param has_key: says whether a job has an Idempotency-Key; a client whose connection ends sends
        such a job again, to another node.
    :ivar added: latency of each answer, less what the job took, in seconds, by the job.
    :ivar latencies: latency of each answer.
    :ivar answers: how often what was answered.
    :ivar wrong: what must not be.
    :ivar lost: jobs without a key whose connection ended.
    """

    nodes: Nodes
    server: JobServer
    has_key: Callable[[int], bool] = lambda _: False
    sent: int = 0
    added: dict[int, float] = field(factory=dict)
    latencies: dict[int, float] = field(factory=dict)
    answers: Counter[str] = field(factory=Counter)
    by_tag: dict[int, str] = field(factory=dict)
    wrong: Counter[str] = field(factory=Counter)
    lost: list[int] = field(factory=list)
    again: int = 0
    is_over: bool = False

    async def run(self, number: int, *, jobs: int = 0, seconds: float = 0.0) -> None:
        """Have so many clients send so many jobs, or send jobs for so long."""
        if seconds:
            asyncio.get_running_loop().call_later(seconds, self.stop)
        await asyncio.gather(
            *(self._work(turn, jobs, 0.3 * turn / number) for turn in range(number))
        )
        await self.server.finish()

    def stop(self) -> None:
        """Have no new jobs sent."""
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
            try:
                status, _, answer = await connection.post("/proxy", body, headers)
            except (OSError, asyncio.TimeoutError, NotUnderstood) as error:
                connection.close()
                if not headers:
                    self.lost.append(tag)
                    if port in self.nodes.living:
                        self.wrong[f"a client of a node that lives got {error!r}"] += 1
                    return
                self.again += 1
                turn += 1
                await asyncio.sleep(PAUSE)
                continue
            if status != 503:
                break
            problem = json.loads(answer)
            self.answers[f"503 {problem['type'].rpartition(':')[2]}"] += 1
            if problem["started"] != "no" and not headers:
                self.wrong["a 503 of a job that may run"] += 1
            await asyncio.sleep(PAUSE)
        self._take(tag, status, answer, time.perf_counter() - begun)

    def _take(self, tag: int, status: int, answer: bytes, seconds: float) -> None:
        word = str(status)
        if status != 200:
            problem = json.loads(answer)
            word = f"{status} {problem['type'].rpartition(':')[2]}, started {problem['started']}"
        elif answer != make_result(tag):
            self.wrong["a client got something else than its own result"] += 1
        self.answers[word] += 1
        self.by_tag[tag] = word
        self.latencies[tag] = seconds
        if status == 200:
            self.added[tag] = seconds - self.server.took[tag]


def read_cpu(process: "subprocess.Popen[bytes]") -> float:
    """Return the seconds of CPU that a process has used."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100
