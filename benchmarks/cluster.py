"""Several nodes: callbacks that land anywhere, nodes that die, and a Redis that stops or hangs.

Each scenario runs real nodes and a real Redis, and keeps books of every job: how often it was
started, and what its client was told. The exit code is 1 if anything was not as it must be.
"""

import argparse
import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from statistics import median, quantiles
from typing import Any

from attrs import define, field
from nodes import Clients, JobServer, Nodes, read_cpu, run_nodes

from jobproxy.daemon.lifecycle import raise_file_limit

#: Seconds; an answer that took so much longer than its job has waited for Redis.
STALL = 1.0
#: The share of its throughput that a node has to keep with a store that its jobs do not need.
THROUGHPUT = 0.8
#: How often Redis may be asked for one job.
STEPS = 4.0

Choose = Callable[[Nodes, int, int], int]


@define(eq=False)
class Stage:
    """A cluster, its job server and its clients, in one scenario.

    :ivar faults: what is wrong.
    """

    nodes: Nodes
    server: JobServer
    clients: Clients
    faults: list[str] = field(factory=list)

    def expect(self, is_right: object, otherwise: str) -> None:
        """Note that something is wrong, unless it is right."""
        if not is_right:
            self.faults.append(otherwise)

    def keep_books(self) -> None:
        """Compare what the clients were told with what the job server saw."""
        clients, server = self.clients, self.server
        for error, count in clients.wrong.items():
            self.faults.append(f"{count} times: {error}")
        twice = sum(count > 1 for count in server.starts.values())
        self.expect(not twice, f"{twice} jobs were started more than once")
        lost = len(server.undelivered)
        self.expect(not lost, f"{lost} callbacks were never taken")
        missing = clients.sent - len(clients.by_tag) - len(clients.lost)
        self.expect(not missing, f"{missing} jobs without an answer")
        held = self.nodes.sum_metric("jobproxy_held")
        self.expect(not held, f"{held:.0f} clients are still held")
        tell("jobs", clients.sent)
        for answer, count in sorted(clients.answers.items()):
            tell(f"  answered {answer}", count)
        tell("  whose callback went elsewhere first", len(server.elsewhere))
        tell("starts", server.starts.total())
        for word, count in sorted(server.receipts.items()):
            tell(f"  callbacks answered {word}", count)


def tell(label: str, figure: object) -> None:
    """Print a line of the table."""
    print(f"{label:48}{figure:>12}" if isinstance(figure, int) else f"{label:48}{figure}")


def describe(seconds: list[float]) -> str:
    """Return the median and the 99th percentile."""
    return f"{median(seconds) * 1000:.2f} ms, {quantiles(seconds, n=100)[98] * 1000:.2f} ms"


@asynccontextmanager
async def set_stage(
    arguments: argparse.Namespace,
    number: int,
    choose: Choose,
    has_key: Callable[[int], bool] = lambda _: False,
    *,
    with_redis: bool = True,
) -> AsyncIterator[Stage]:
    """Have a cluster while the context lasts.

    :param choose: returns the port that gets a callback, of a job and the port of its own node.
    """
    server = JobServer(arguments.duration, lambda tag, owner: choose(nodes, tag, owner))
    listening = await server.listen()
    try:
        with run_nodes(number, server.port, {}, with_redis=with_redis) as nodes:
            yield Stage(nodes, server, Clients(nodes, server, has_key))
    finally:
        listening.close()


def choose_other(nodes: Nodes, tag: int, owner: int) -> int:
    """Have each callback go to a node that does not hold its client."""
    others = [port for port in nodes.living if port != owner]
    return others[tag % len(others)]


def choose_own(_nodes: Nodes, _tag: int, owner: int) -> int:
    return owner


def choose_any(nodes: Nodes, tag: int, _owner: int) -> int:
    """Have callbacks go to each living node in turn, as a load balancer would."""
    return nodes.living[tag % len(nodes.living)]


def is_odd(tag: int) -> bool:
    return bool(tag % 2)


async def relay(arguments: argparse.Namespace) -> list[str]:
    """Callbacks always come to a node that does not hold the client."""
    async with set_stage(arguments, 1, choose_own, with_redis=False) as one:
        await one.clients.run(arguments.clients, jobs=arguments.jobs // 5)
        alone = describe(list(one.clients.added.values()))
    async with set_stage(arguments, 3, choose_other) as stage:
        clients, nodes = stage.clients, stage.nodes
        before = nodes.sum_metric("jobproxy_store_calls_total")
        await clients.run(arguments.clients, jobs=arguments.jobs)
        calls = nodes.sum_metric("jobproxy_store_calls_total") - before
        stage.keep_books()
        relayed = describe(list(clients.added.values()))
        tell("added latency of one node alone, p50, p99", alone)
        tell("added latency of three with relays, p50, p99", relayed)
        tell("questions to Redis a job", f"{calls / clients.sent:.2f}")
        stage.expect(calls <= STEPS * clients.sent, "Redis was asked too often")
        stage.expect(clients.answers["200"] == clients.sent, "not every job was answered")
        stage.expect(len(stage.server.elsewhere) == clients.sent, "not every callback was relayed")
        return stage.faults


async def kill(arguments: argparse.Namespace) -> list[str]:
    """One of three nodes is killed under load; every second job has a key."""
    async with set_stage(arguments, 3, choose_any, is_odd) as stage:
        clients, server, nodes = stage.clients, stage.server, stage.nodes
        running = asyncio.create_task(clients.run(arguments.clients, seconds=arguments.seconds))
        await asyncio.sleep(arguments.seconds / 2)
        nodes.kill(0)
        await running
        orphans = {orphan["id"] for orphan in json.loads(nodes.fetch("/orphans"))["orphans"]}
        stage.keep_books()
        started = [tag for tag in clients.lost if server.starts[tag]]
        listed = sum(f"{tag:x}" in orphans for tag in started)
        tell("jobs without a key, cut off with their node", len(clients.lost))
        tell("  started, their results are orphans", f"{listed} of {len(started)}")
        tell("jobs with a key, sent again elsewhere", clients.again)
        stage.expect(clients.again and started, "the node held nobody; use more clients")
        # What the dead node had taken itself, but not handed to its client, is lost.
        stage.expect(listed >= 0.9 * len(started), "results of the dead node are missing")
        keyed = [tag for tag in clients.by_tag if is_odd(tag)]
        words = {clients.by_tag[tag] for tag in keyed if server.starts[tag]}
        stage.expect(words == {"200"}, f"jobs with a key were answered {words}")
        # Nobody but the dead node knew that it had claimed them, but not sent the start.
        claimed = {clients.by_tag[tag] for tag in keyed if not server.starts[tag]}
        tell("  claimed, but not started by the dead node", len(claimed))
        honest = claimed <= {"504 start-unknown, started unknown"}
        stage.expect(honest, f"jobs that were not started were answered {claimed}")
        return stage.faults


async def restart(arguments: argparse.Namespace) -> list[str]:
    """Redis is stopped under load, and started again with nothing in it."""

    def choose(nodes: Nodes, tag: int, owner: int) -> int:
        return owner if tag % 4 < 2 else choose_other(nodes, tag, owner)

    async with set_stage(arguments, 3, choose, is_odd) as stage:
        clients, redis = stage.clients, stage.nodes.redis
        assert redis is not None
        seconds = arguments.seconds + arguments.away
        running = asyncio.create_task(clients.run(arguments.clients, seconds=seconds))
        await asyncio.sleep(arguments.seconds / 3)
        redis.stop()
        await asyncio.sleep(arguments.away)
        await asyncio.to_thread(redis.start)
        await running
        stage.keep_books()
        own = [tag for tag in clients.by_tag if tag % 4 == 0]
        slowest = max(clients.added.get(tag, 0.0) for tag in own)
        words = {clients.by_tag[tag] for tag in own}
        tell("slowest with its own callback, no key", f"{slowest * 1000:.1f} ms added")
        tell("slowest of all", f"{max(clients.added.values()):.1f} s added")
        stage.expect(words == {"200"}, f"jobs that do not need Redis were answered {words}")
        stage.expect(slowest < STALL, "jobs that do not need Redis waited for it")
        odd = set(clients.by_tag.values()) - {"200", "504 wait-over, started yes"}
        stage.expect(not odd, f"jobs were answered {odd}")
        stage.expect(clients.answers["503 store-unreachable"], "Redis was not needed by anybody")
        return stage.faults


async def hang(arguments: argparse.Namespace) -> list[str]:
    """Redis hangs under load; no job needs it."""
    async with set_stage(arguments, 3, choose_own) as stage:
        clients, redis = stage.clients, stage.nodes.redis
        assert redis is not None
        seconds = arguments.seconds + arguments.away
        running = asyncio.create_task(clients.run(arguments.clients, seconds=seconds))
        await asyncio.sleep(arguments.seconds / 2)
        redis.hang()
        await asyncio.sleep(arguments.away)
        redis.go_on()
        await running
        stage.keep_books()
        slowest = max(clients.added.values())
        tell("slowest", f"{slowest * 1000:.1f} ms added")
        stage.expect(set(clients.answers) == {"200"}, "not every job was answered")
        stage.expect(slowest < STALL, "jobs waited for Redis")
        return stage.faults


async def throughput(arguments: argparse.Namespace) -> list[str]:
    """One node, as busy as it can be, with a Redis and without; callbacks come to it."""
    ratios, costs = [], []
    arguments.duration = 0.0
    faults: list[str] = []
    for _ in range(arguments.runs):
        figures = []
        for with_redis in (False, True):
            async with set_stage(arguments, 1, choose_own, with_redis=with_redis) as stage:
                process = stage.nodes.daemons[0].process
                cpu, begun = read_cpu(process), time.perf_counter()
                await stage.clients.run(arguments.clients, seconds=arguments.seconds)
                jobs = len(stage.clients.by_tag)
                rate = jobs / (time.perf_counter() - begun)
                figures.append((rate, (read_cpu(process) - cpu) / jobs * 1e6))
                faults += stage.faults
        (rate, cost), (shared_rate, shared_cost) = figures
        ratios.append(shared_rate / rate)
        costs.append(shared_cost / cost)
        tell("jobs a second, without and with Redis", f"{rate:.0f}, {shared_rate:.0f}")
        tell("CPU a job (us)", f"{cost:.0f}, {shared_cost:.0f}")
    tell("throughput kept, median", f"{median(ratios):.2f}")
    tell("CPU a job, median of the ratios", f"{median(costs):.2f}")
    if median(ratios) < THROUGHPUT:
        faults.append("the store costs too much")
    return faults


SCENARIOS: dict[str, Callable[[argparse.Namespace], Coroutine[Any, Any, list[str]]]] = {
    "relay": relay,
    "kill": kill,
    "restart": restart,
    "hang": hang,
    "throughput": throughput,
}


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scenario", nargs="*", help=f"of {', '.join(SCENARIOS)}; default all")
    parser.add_argument("--clients", type=int, default=60, help="%(default)s")
    parser.add_argument("--jobs", type=int, default=10_000, help="of relay; %(default)s")
    parser.add_argument("--seconds", type=float, default=10.0, help="of the others; %(default)s")
    parser.add_argument("--away", type=float, default=5.0, help="of Redis; %(default)s")
    parser.add_argument("--duration", type=float, default=0.1, help="of a job; %(default)s")
    parser.add_argument("--runs", type=int, default=3, help="of throughput; %(default)s")
    arguments = parser.parse_args()
    for name in arguments.scenario:
        if name not in SCENARIOS:
            parser.error(f"there is no scenario {name}")
    return arguments


def main() -> None:
    """Run the scenarios, and print their books."""
    arguments = read_arguments()
    raise_file_limit()
    has_failed = False
    for name in arguments.scenario or SCENARIOS:
        print(f"{name}: {SCENARIOS[name].__doc__}")
        faults = asyncio.run(SCENARIOS[name](argparse.Namespace(**vars(arguments))))
        for fault in faults:
            print(f"WRONG: {fault}")
        has_failed |= bool(faults)
        print(f"{'FAILED' if faults else 'PASSED'} {name}\n", flush=True)
    sys.exit(has_failed)


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main()
