"""Restarts three nodes behind a load balancer, one after another, and counts clients' errors.

There are a Redis, the simulator, three nodes, and nginx or HAProxy with the configuration in
``deploy``. Jobs come at a steady rate, each on a new connection, whatever the responses: a third of
the clients is held, a third has a key too, and a third asks for the result. In each round every
node gets SIGTERM, and is started again when it has ended; the next one follows when it is ready,
and the load balancer has had the time to see that. Each job whose client does not get the result
is an error.

    python benchmarks/rolling_restarts.py --balancer haproxy --rounds 20

It exits with 1 if there was an error.
"""

import argparse
import asyncio
import json
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack, closing
from pathlib import Path

from attrs import define, field

sys.path.insert(0, str(Path(__file__).parents[1]))

from nodes import Connection
from wire import NotUnderstood

from jobproxy.daemon.process import raise_file_limit
from jobproxy.sandbox.processes import DaemonProcess, find_free_port
from tests.support.balancers import FRONTS, Ports, find_ports, make_node
from tests.support.redis_server import RedisServer

#: Seconds until a node has ended, or is ready.
PATIENCE = 60.0
#: What clients do, in turn: one is held, one is held and has a key, and one is told 202 at once and
#: asks for the result until it is there, at whichever node.
KINDS = ("held", "with a key", "asked for")
#: Seconds between two of its requests.
ASK_PAUSE = 0.2
#: Accounts that share the jobs.
ACCOUNTS = 50


@define(eq=False)
class Clients:
    """Clients that send jobs to a port at a steady rate.

    :param rate: jobs a second.
    :ivar responses: the numbers of last responses to a job, by status and problem.
    :ivar errors: those that are no results, by the kind of client too.
    """

    port: int
    rate: float
    responses: Counter[str] = field(factory=Counter, init=False)
    errors: Counter[str] = field(factory=Counter, init=False)
    slowest: float = field(default=0.0, init=False)
    _tasks: set["asyncio.Task[None]"] = field(factory=set, init=False)

    @property
    def sent(self) -> int:
        return self.responses.total()

    async def run(self, is_over: asyncio.Event) -> None:
        """Send jobs until it is over, and wait until each has its response."""
        begun, number = time.monotonic(), 0
        while not is_over.is_set():
            task = asyncio.create_task(self._send(number))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            number += 1
            await asyncio.sleep(max(0.0, begun + number / self.rate - time.monotonic()))
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def _send(self, number: int) -> None:
        kind = KINDS[number % len(KINDS)]
        begun = time.monotonic()
        try:
            word = await self._run_job(number, kind)
        except (OSError, asyncio.TimeoutError, NotUnderstood) as error:
            word = f"no response: {type(error).__name__}"
        self.slowest = max(self.slowest, time.monotonic() - begun)
        self.responses[word] += 1
        if word != "200":
            self.errors[f"{kind}: {word}"] += 1

    async def _run_job(self, number: int, kind: str) -> str:
        """Send a job, and ask for its result if it is not in the response; return the last word."""
        path = random.choice(("/proxy", "/start", "/"))
        body = json.dumps({"account": f"a{number % ACCOUNTS}", "wait": True}).encode()
        headers = {
            "held": "",
            "with a key": f"Idempotency-Key: key-{number}\r\n",
            "asked for": "Prefer: respond-async\r\n",
        }[kind]
        with closing(Connection(self.port)) as connection:
            status, head, response = await connection.post(path, body, headers)
        while status == 202:
            path = head.decode().partition("ocation: ")[2].partition("\r\n")[0]
            await asyncio.sleep(ASK_PAUSE)
            with closing(Connection(self.port)) as connection:
                status, head, response = await connection.get(path)
        return read_word(status, response)


def read_word(status: int, body: bytes) -> str:
    """Return what to count a response as: its status and problem; 200 alone is a result."""
    try:
        document = json.loads(body)
    except ValueError:
        return f"{status} from the load balancer"
    if status == 200:
        return "200" if document["state"] == "completed" else f"200 {document['state']}"
    problem = document["type"].rpartition(":")[2]
    return f"{status} {problem}, started {document.get('started')}"


@define(eq=False)
class Cluster:
    """Nodes that can be restarted.

    :param pause: seconds that the load balancer gets to see that a node is ready again.
    """

    ports: list[Ports]
    front: int
    secret: Path
    options: dict[str, str]
    pause: float
    log: str = field(default="", init=False)
    _nodes: dict[Ports, DaemonProcess] = field(factory=dict, init=False)

    def start(self, ports: Ports) -> None:
        """Start a node, and wait until it is ready."""
        node = make_node(ports, self.front, self.secret, **self.options)
        self._nodes[ports] = node.__enter__()
        deadline = time.monotonic() + PATIENCE
        while not ports.is_ready():
            if time.monotonic() > deadline:
                raise TimeoutError(f"a node is not ready: {node.log}")
            time.sleep(0.05)

    def stop(self, ports: Ports) -> None:
        """End a node with SIGTERM, and wait for its end."""
        node = self._nodes.pop(ports)
        node.process.send_signal(signal.SIGTERM)
        node.process.wait(PATIENCE)
        self.log += node.log
        node.stop()

    def stop_all(self) -> None:
        for ports in list(self._nodes):
            self.stop(ports)

    def restart(self, number: int) -> None:
        """Restart some nodes, one after another."""
        for ports in self.ports[:number]:
            self.stop(ports)
            self.start(ports)
            time.sleep(self.pause)


async def roll(arguments: argparse.Namespace, cluster: Cluster) -> Clients:
    """Run all rounds; return the clients."""
    clients, is_over = Clients(cluster.front, arguments.rate), asyncio.Event()
    running = asyncio.create_task(clients.run(is_over))
    await asyncio.sleep(arguments.pause)
    for number in range(1, arguments.rounds + 1):
        await asyncio.to_thread(cluster.restart, arguments.nodes)
        print(f"round {number}: {clients.sent} jobs, {clients.errors.total()} errors", flush=True)
    is_over.set()
    await running
    return clients


def run(arguments: argparse.Namespace) -> bool:
    """Run it all; return whether there was no error."""
    front = find_free_port()
    with ExitStack() as stack:
        secret = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "secret"
        secret.write_text("a key that is long enough for callback tokens\n", encoding="ascii")
        redis = stack.enter_context(RedisServer())
        # Without an epoch the nodes would first restore their data to an empty Redis.
        redis.ask("SET", "jobproxy:epoch", "1")
        job_server = {"duration": str(arguments.duration), "slots-per-account": "50"}
        server = stack.enter_context(DaemonProcess("jobserver", job_server))
        options = {
            "job_server_url": f"{server.url}/start",
            "store": redis.url,
            "drain_delay": str(arguments.drain_delay),
        }
        cluster = Cluster(find_ports(), front, secret, options, arguments.pause)
        stack.callback(cluster.stop_all)
        for ports in cluster.ports:
            cluster.start(ports)
        stack.enter_context(FRONTS[arguments.balancer].run(cluster.ports, front))
        clients = asyncio.run(roll(arguments, cluster))
        cluster.stop_all()
    for word, count in sorted({"200": clients.responses["200"], **clients.errors}.items()):
        print(f"{count:8} {word}")
    print(f"{clients.slowest:8.2f} s for the slowest job")
    restarts, errors = arguments.rounds * arguments.nodes, clients.errors.total()
    print(f"{restarts} restarts behind {arguments.balancer}, {errors} errors")
    if "Traceback" in cluster.log:
        print(cluster.log)
        return False
    return clients.sent > 0 and not errors


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--balancer", choices=FRONTS, default="nginx")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument(
        "--nodes", type=int, default=3, choices=(1, 2, 3), help="of three that are restarted"
    )
    parser.add_argument("--rate", type=float, default=30.0, help="jobs a second; %(default)s")
    parser.add_argument("--duration", type=float, default=0.5, help="seconds of a job; %(default)s")
    parser.add_argument(
        "--pause", type=float, default=3.0, help="seconds between two restarts; %(default)s"
    )
    parser.add_argument(
        "--drain-delay", type=float, default=4.0, help="of the nodes, in seconds; %(default)s"
    )
    arguments = parser.parse_args()
    raise_file_limit()
    is_right = run(arguments)
    print("PASSED" if is_right else "FAILED")
    return 0 if is_right else 1


if __name__ == "__main__":
    sys.exit(main())
