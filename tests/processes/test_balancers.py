"""What is in front of several nodes: the examples of configuration, run as they are."""

import http.client
import json
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from attrs import frozen

from jobproxy.sandbox.processes import DaemonProcess, find_free_port
from tests.support.balancers import FRONTS, Front, Ports, find_ports, make_node
from tests.support.processes import ROOT, fetch_json, post_job, run
from tests.support.programs import explain, find_program
from tests.support.redis_server import RedisServer
from tests.support.socket_client import Client
from tests.support.waiting import DEADLINE, wait_until

SCRIPT = str(ROOT / "benchmarks" / "rolling_restarts.py")
#: Seconds; the script has deadlines of its own.
LONG = 300.0


@pytest.fixture(params=FRONTS)
def front(request: pytest.FixtureRequest) -> Front:
    found = FRONTS[request.param]
    if find_program(found.program) is None:
        pytest.skip(explain(found.program))
    return found


@frozen
class Running:
    """A load balancer with its nodes.

    :param port: of the load balancer.
    """

    port: int
    nodes: list[Ports]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def post(self, path: str) -> tuple[int, bytes]:
        """Send a job to a path; return the status and the body of the response."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE)
        try:
            headers = {"Content-Type": "application/json"}
            connection.request("POST", path, b'{"account": "a"}', headers)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def ask(self, number: str) -> int:
        """Return the sum of a number in the status of every node."""
        return sum(
            fetch_json(f"http://127.0.0.1:{node.admin}/status")[number] for node in self.nodes
        )

    def count_relays(self) -> int:
        """Return how many callbacks went to another node than the job's own."""
        return sum(
            fetch_json(f"http://127.0.0.1:{node.admin}/status")["cluster"]["relays"].get("taken", 0)
            for node in self.nodes
        )


@contextmanager
def run_cluster(front: Front, duration: str = "0.1") -> Iterator[Running]:
    """Run a load balancer with three nodes, a Redis and the simulator.

    :param duration: of each job, in seconds.
    """
    running = Running(find_free_port(), find_ports())
    with ExitStack() as stack:
        secret = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "secret"
        secret.write_text("k" * 40)
        redis = stack.enter_context(RedisServer())
        job_server = {"duration": duration, "slots-per-account": "50"}
        server = stack.enter_context(DaemonProcess("jobserver", job_server))
        start = f"{server.url}/start"
        nodes = [
            make_node(ports, running.port, secret, store=redis.url, job_server_url=start)
            for ports in running.nodes
        ]
        with ThreadPoolExecutor() as executor:
            list(executor.map(stack.enter_context, nodes))
        for ports in running.nodes:
            wait_until(ports.is_ready)
        stack.enter_context(front.run(running.nodes, running.port))
        yield running


def test_clients_of_every_node_get_their_results(front: Front) -> None:
    """Every client gets its result, whichever node holds it and whichever gets the callback."""
    with run_cluster(front) as running:
        with ThreadPoolExecutor(30) as executor:
            results = list(executor.map(post_job, [running.url] * 60))
        assert {result["state"] for result in results} == {"completed"}
        assert len({result["id"] for result in results}) == 60
        assert 0 < running.count_relays() < 61
        for path in ("/proxy", "/start", "/"):
            status, body = running.post(path)
            assert (status, json.loads(body)["state"]) == (200, "completed"), path
        for path in ("/metrics", "/readyz", "/orphans", "/proxy/x", "/startle"):
            assert running.post(path)[0] == 404, path


def test_a_client_that_has_left_is_not_held(front: Front) -> None:
    """If a client leaves, the load balancer leaves its node, which holds nobody then."""
    with run_cluster(front, duration="900") as running:
        client = Client(running.port)
        client.send_job(0)
        wait_until(lambda: running.ask("held"))
        client.close()
        wait_until(lambda: not running.ask("held"))


def test_the_example_has_no_warning(front: Front, tmp_path: Path) -> None:
    """The program says nothing against its example."""
    config = tmp_path / "example"
    config.write_text(front.fit(find_ports(), find_free_port()))
    assert "[warn" not in front.check(config).lower()


@pytest.mark.timeout(2 * LONG)
def test_nodes_can_be_restarted_without_an_error(front: Front) -> None:
    """G16: nodes are restarted one after another, and no client gets an error."""
    delay = {"nginx": "0", "haproxy": "3"}[front.program]
    arguments = ["--balancer", front.program, "--rate", "10", "--drain-delay", delay]
    done = run("python", SCRIPT, "--nodes", "1", "--pause", "2.5", *arguments, timeout=LONG)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"1 restarts behind {front.program}, 0 errors" in done.stdout
