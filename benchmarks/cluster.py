"""Several nodes: callbacks to any node, nodes that are killed, and a Redis that stops or hangs.

Each scenario runs nodes and a Redis as processes, and checks for every job how often it was started
and what response its client got. The exit code is 1 if there was a fault.
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

from jobproxy.daemon.process import raise_file_limit

#: Seconds; a response that took so much longer than its job has waited for Redis.
STALL = 1.0
#: The fraction of its throughput that a node must keep with a store that its jobs do not need.
THROUGHPUT = 0.8
#: The maximum of calls to Redis per job.
STEPS = 4.0

#: The possible responses to a job that was started, though its result may be lost.
HONEST = {"200", "504 wait-over, started yes", "504 start-unknown, started unknown"}
#: Seconds until an event that has to occur.
PATIENCE = 60.0

Choose = Callable[[Nodes, int, int], int]


@define(eq=False)
class Scenario:
    """A cluster, its job server and its clients.

    :ivar faults: the faults that were found.
    """

    nodes: Nodes
    server: JobServer
    clients: Clients
    faults: list[str] = field(factory=list)

    def expect(self, condition: object, fault: str) -> None:
        """Record a fault unless the condition holds."""
        if not condition:
            self.faults.append(fault)

    async def run_without_redis(
        self, arguments: argparse.Namespace, can_end: Callable[[int], bool]
    ) -> None:
        """Let the clients send jobs until one that needs no Redis has ended.

        There may be few more, as the others soon keep all clients waiting.

        :param can_end: returns whether a job needs no Redis.
        """
        first, clients = self.clients.sent, self.clients
        await asyncio.sleep(arguments.away)

        def find_ended() -> list[int]:
            return [tag for tag in clients.by_tag if tag >= first and can_end(tag)]

        await self.until(find_ended, "jobs that do not need Redis waited for it")

    async def until(self, find: Callable[[], list[int]], fault: str) -> list[int]:
        """Wait until some jobs are found, and return them; record a fault if there are none."""
        deadline = time.monotonic() + PATIENCE
        while not (found := find()) and time.monotonic() < deadline:
            await asyncio.sleep(0.001)
        self.expect(found, fault)
        return found

    def check_jobs(self) -> None:
        """Compare the responses to the clients with the jobs of the job server, and print both."""
        clients, server = self.clients, self.server
        for error, count in clients.wrong.items():
            self.faults.append(f"{count} times: {error}")
        twice = sum(count > 1 for count in server.starts.values())
        self.expect(not twice, f"{twice} jobs were started more than once")
        lost = len(server.undelivered)
        self.expect(not lost, f"{lost} callbacks were never accepted")
        missing = clients.sent - len(clients.by_tag) - len(clients.lost)
        self.expect(not missing, f"{missing} jobs without a response")
        held = self.nodes.sum_metric("jobproxy_held")
        self.expect(not held, f"{held:.0f} clients are still held")
        print_row("jobs", clients.sent)
        for response, count in sorted(clients.responses.items()):
            print_row(f"  with response {response}", count)
        print_row("  whose callback was sent elsewhere first", len(server.elsewhere))
        print_row("starts", server.starts.total())
        for word, count in sorted(server.receipts.items()):
            print_row(f"  callbacks with response {word}", count)


def print_row(label: str, figure: object) -> None:
    """Print a line of the table."""
    print(f"{label:48}{figure:>12}" if isinstance(figure, int) else f"{label:48}{figure}")


def describe(seconds: list[float]) -> str:
    """Return the median and the 99th percentile."""
    return f"{median(seconds) * 1000:.2f} ms, {quantiles(seconds, n=100)[98] * 1000:.2f} ms"


@asynccontextmanager
async def run_scenario(
    arguments: argparse.Namespace,
    number: int,
    choose: Choose,
    has_key: Callable[[int], bool] = lambda _: False,
    *,
    with_redis: bool = True,
) -> AsyncIterator[Scenario]:
    """Run a cluster in this context.

    :param choose: returns the port for a callback, for a job and the port of its own node.
    """
    server = JobServer(arguments.duration, lambda tag, owner: choose(nodes, tag, owner))
    listening = await server.listen()
    try:
        with run_nodes(number, server.port, {}, with_redis=with_redis) as nodes:
            yield Scenario(nodes, server, Clients(nodes, server, has_key))
    finally:
        listening.close()


def choose_other(nodes: Nodes, tag: int, owner: int) -> int:
    """Send each callback to a node that does not hold its client."""
    others = [port for port in nodes.living if port != owner]
    return others[tag % len(others)]


def choose_own(_nodes: Nodes, _tag: int, owner: int) -> int:
    return owner


def choose_any(nodes: Nodes, tag: int, _owner: int) -> int:
    """Send callbacks to the living nodes in turn, as a load balancer does."""
    return nodes.living[tag % len(nodes.living)]


def find_held(scenario: Scenario, port: int) -> list[int]:
    """Return the jobs that a node holds, started and with no callback sent yet.

    There are none unless some have a key and some have not.
    """
    server = scenario.server
    held = [
        tag
        for tag, node in scenario.clients.waiting.items()
        if node == port and server.starts[tag] and tag not in server.took
    ]
    return held if {is_odd(tag) for tag in held} == {False, True} else []


def is_odd(tag: int) -> bool:
    return bool(tag % 2)


async def relay(arguments: argparse.Namespace) -> list[str]:
    """Each callback is sent to a node that does not hold the client."""
    async with run_scenario(arguments, 1, choose_own, with_redis=False) as one:
        await one.clients.run(arguments.clients, jobs=arguments.jobs // 5)
        alone = describe(list(one.clients.added.values()))
    async with run_scenario(arguments, 3, choose_other) as scenario:
        clients, nodes = scenario.clients, scenario.nodes
        before = nodes.sum_metric("jobproxy_store_calls_total")
        await clients.run(arguments.clients, jobs=arguments.jobs)
        calls = nodes.sum_metric("jobproxy_store_calls_total") - before
        scenario.check_jobs()
        relayed = describe(list(clients.added.values()))
        print_row("added latency of one node, p50, p99", alone)
        print_row("added latency of three nodes, p50, p99", relayed)
        print_row("calls to Redis per job", f"{calls / clients.sent:.2f}")
        scenario.expect(calls <= STEPS * clients.sent, "there were too many calls to Redis")
        scenario.expect(clients.responses["200"] == clients.sent, "not every job has its result")
        scenario.expect(
            len(scenario.server.elsewhere) == clients.sent, "not every callback was relayed"
        )
        return scenario.faults


async def kill(arguments: argparse.Namespace) -> list[str]:
    """One of three nodes is killed under load; every other job has a key.

    A result that the killed node received but had not yet sent to its client is lost, so this
    checks the jobs whose callbacks were sent after its death.
    """
    async with run_scenario(arguments, 3, choose_any, is_odd) as scenario:
        clients, server, nodes = scenario.clients, scenario.server, scenario.nodes
        running = asyncio.create_task(clients.run(arguments.clients))
        await asyncio.sleep(arguments.seconds / 2)
        port = nodes.living[0]
        held = await scenario.until(lambda: find_held(scenario, port), "the node held no clients")
        nodes.kill(0)
        await asyncio.sleep(arguments.seconds / 2)
        clients.stop()
        await running
        orphans = {orphan["id"] for orphan in json.loads(nodes.fetch("/orphans"))["orphans"]}
        scenario.check_jobs()
        missing = {tag for tag in held if not is_odd(tag) and f"{tag:x}" not in orphans}
        print_row("jobs without a key on the killed node", len(clients.lost))
        print_row("  started, with callbacks after its death", sum(not is_odd(tag) for tag in held))
        print_row("jobs with a key that were sent again", clients.again)
        scenario.expect(not missing, f"results of the killed node are missing: {missing}")
        words = {clients.by_tag.get(tag) for tag in held if is_odd(tag)}
        scenario.expect(words == {"200"}, f"jobs with a key got {words}")
        keyed = [tag for tag in clients.by_tag if is_odd(tag)]
        others = {clients.by_tag[tag] for tag in keyed if server.starts[tag]}
        scenario.expect(others <= HONEST, f"jobs with a key got {others}")
        # Only the killed node knew that it had claimed these without sending the start request.
        claimed = {clients.by_tag[tag] for tag in keyed if not server.starts[tag]}
        print_row("  claimed by the killed node, but not started", len(claimed))
        honest = claimed <= {"504 start-unknown, started unknown"}
        scenario.expect(honest, f"jobs that were not started got {claimed}")
        return scenario.faults


async def restart(arguments: argparse.Namespace) -> list[str]:
    """Redis is stopped under load, and started again empty."""

    def choose(nodes: Nodes, tag: int, owner: int) -> int:
        return owner if tag % 4 < 2 else choose_other(nodes, tag, owner)

    async with run_scenario(arguments, 3, choose, is_odd) as scenario:
        clients, redis = scenario.clients, scenario.nodes.redis
        assert redis is not None
        running = asyncio.create_task(clients.run(arguments.clients))
        await asyncio.sleep(arguments.seconds / 3)
        redis.stop()
        await scenario.run_without_redis(arguments, lambda tag: tag % 4 == 0)
        refused = clients.responses["503 store-unreachable"]
        await asyncio.to_thread(redis.start)
        await asyncio.sleep(arguments.seconds * 2 / 3)
        clients.stop()
        await running
        scenario.check_jobs()
        own = [tag for tag in clients.by_tag if tag % 4 == 0]
        slowest = max(clients.added.get(tag, 0.0) for tag in own)
        words = {clients.by_tag[tag] for tag in own}
        print_row("slowest with its own callback and no key", f"{slowest * 1000:.1f} ms added")
        print_row("slowest of all", f"{max(clients.added.values()):.1f} s added")
        scenario.expect(words == {"200"}, f"jobs that do not need Redis got {words}")
        is_slow = slowest >= STALL and not arguments.busy
        scenario.expect(not is_slow, "jobs that do not need Redis waited for it")
        odd = set(clients.by_tag.values()) - {"200", "504 wait-over, started yes"}
        scenario.expect(not odd, f"jobs got {odd}")
        scenario.expect(refused, "no job needed Redis")
        return scenario.faults


async def hang(arguments: argparse.Namespace) -> list[str]:
    """Redis hangs under load; no job needs it."""
    async with run_scenario(arguments, 3, choose_own) as scenario:
        clients, redis = scenario.clients, scenario.nodes.redis
        assert redis is not None
        running = asyncio.create_task(clients.run(arguments.clients))
        await asyncio.sleep(arguments.seconds / 2)
        redis.hang()
        await scenario.run_without_redis(arguments, lambda _: True)
        redis.go_on()
        await asyncio.sleep(arguments.seconds / 2)
        clients.stop()
        await running
        scenario.check_jobs()
        slowest = max(clients.added.values())
        print_row("slowest", f"{slowest * 1000:.1f} ms added")
        scenario.expect(set(clients.responses) == {"200"}, "not every job has its result")
        scenario.expect(slowest < STALL or arguments.busy, "jobs waited for Redis")
        return scenario.faults


async def throughput(arguments: argparse.Namespace) -> list[str]:
    """The throughput of one node, with Redis and without."""
    ratios, costs = [], []
    arguments.duration = 0.0
    faults: list[str] = []
    for _ in range(arguments.runs):
        figures = []
        for with_redis in (False, True):
            async with run_scenario(arguments, 1, choose_own, with_redis=with_redis) as scenario:
                process = scenario.nodes.daemons[0].process
                cpu, begun = read_cpu(process), time.perf_counter()
                await scenario.clients.run(arguments.clients, seconds=arguments.seconds)
                jobs = len(scenario.clients.by_tag)
                rate = jobs / (time.perf_counter() - begun)
                figures.append((rate, (read_cpu(process) - cpu) / jobs * 1e6))
                faults += scenario.faults
        (rate, cost), (shared_rate, shared_cost) = figures
        ratios.append(shared_rate / rate)
        costs.append(shared_cost / cost)
        print_row("jobs per second, without and with Redis", f"{rate:.0f}, {shared_rate:.0f}")
        print_row("CPU time per job (us)", f"{cost:.0f}, {shared_cost:.0f}")
    print_row("ratio of throughput, median", f"{median(ratios):.2f}")
    print_row("ratio of CPU time per job, median", f"{median(costs):.2f}")
    if median(ratios) < THROUGHPUT:
        faults.append("the throughput with Redis is too low")
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
    parser.add_argument(
        "scenario", nargs="*", help=f"one or more of {', '.join(SCENARIOS)}; default: all"
    )
    parser.add_argument("--clients", type=int, default=60, help="number of clients; %(default)s")
    parser.add_argument(
        "--jobs", type=int, default=10_000, help="number of jobs of relay; %(default)s"
    )
    parser.add_argument(
        "--seconds", type=float, default=10.0, help="seconds of the other scenarios; %(default)s"
    )
    parser.add_argument(
        "--away", type=float, default=5.0, help="seconds without Redis; %(default)s"
    )
    parser.add_argument("--duration", type=float, default=0.1, help="seconds of a job; %(default)s")
    parser.add_argument(
        "--busy", action="store_true", help="check nothing that depends on the machine's speed"
    )
    parser.add_argument("--runs", type=int, default=3, help="runs of throughput; %(default)s")
    arguments = parser.parse_args()
    for name in arguments.scenario:
        if name not in SCENARIOS:
            parser.error(f"there is no scenario {name}")
    return arguments


def main() -> None:
    """Run the scenarios, and print their figures."""
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
