"""What is in front of several nodes: the examples of configuration, run as they are."""

import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from attrs import frozen

from jobproxy.sandbox.processes import DaemonProcess, find_free_port, wait_until_served
from tests.support.processes import ROOT, fetch_json, post_job
from tests.support.programs import explain, find_program
from tests.support.redis_server import RedisServer
from tests.support.waiting import wait_until

NUMBERS = ("11", "12", "13")
NGINX = """\
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 512; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {config};
}}
"""


@frozen
class Front:
    """A load balancer.

    :param example: its configuration for three nodes.
    :param bind: how that says where it listens.
    """

    program: str
    example: str
    bind: str

    def command(self, config: Path, *extra: str) -> list[str]:
        """Return what runs it with an example that was fitted to this machine."""
        if self.program == "haproxy":
            return ["haproxy", "-f", str(config), *(["-c"] if extra else ["-db"])]
        whole = config.with_suffix(".whole")
        whole.write_text(NGINX.format(folder=config.parent, config=config))
        return ["nginx", "-p", str(config.parent), "-c", str(whole), *(["-t"] if extra else [])]


FRONTS = [
    Front("nginx", "deploy/nginx/cluster.conf", "listen 80;"),
    Front("haproxy", "deploy/haproxy/cluster.cfg", "bind :80 "),
]


@pytest.fixture(params=FRONTS, ids=lambda front: str(front.program))
def front(request: pytest.FixtureRequest) -> Front:
    found: Front = request.param
    if find_program(found.program) is None:
        pytest.skip(explain(found.program))
    return found


@contextmanager
def run_front(front: Front, text: str, port: int) -> Iterator[None]:
    """Run a load balancer with a configuration of this text, which has to be right."""
    with tempfile.TemporaryDirectory(prefix="front-") as folder:
        config = Path(folder) / "example"
        config.write_text(text)
        command = front.command(config, "check")
        checked = subprocess.run(command, capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stderr
        with subprocess.Popen(front.command(config), stderr=subprocess.DEVNULL) as process:
            try:
                wait_until_served(process, port)
                yield
            finally:
                process.terminate()


def run_nodes(stack: ExitStack, port: int, redis: RedisServer, server: DaemonProcess) -> list[int]:
    """Run three nodes behind a port; return theirs: for clients, callbacks and operators."""
    secret = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "secret"
    secret.write_text("k" * 40)
    nodes, ports = [], []
    for _ in NUMBERS:
        three = [find_free_port() for _ in range(3)]
        options = {
            "callback-url": f"http://127.0.0.1:{port}/callback",
            "job-server-url": f"{server.url}/start",
            "callback-listen": f"tcp:{three[1]}:interface=127.0.0.1",
            "admin-listen": f"tcp:{three[2]}:interface=127.0.0.1",
            "store": redis.url,
            "secret-file": str(secret),
        }
        nodes.append(DaemonProcess("jobproxy", options, three[0]))
        ports += three
    with ThreadPoolExecutor() as executor:
        list(executor.map(stack.enter_context, nodes))
    return ports


def fit(front: Front, ports: list[int], port: int) -> str:
    """Return an example with the addresses of this machine in it."""
    text = (ROOT / front.example).read_text()
    assert text.count(front.bind) == 1
    text = text.replace(front.bind, front.bind.replace("80", str(port)))
    for turn, number in enumerate(NUMBERS):
        clients, callbacks, admin = ports[3 * turn : 3 * turn + 3]
        # Here each node has a port of its own for health too.
        health = f" port {admin}" if front.program == "haproxy" else ""
        text = text.replace(f"10.0.0.{number}:8080", f"127.0.0.1:{clients}{health}")
        text = text.replace(f"10.0.0.{number}:8081", f"127.0.0.1:{callbacks}{health}")
    return text.replace("server_name proxy.example", "server_name _")


def test_clients_of_every_node_get_their_results(front: Front) -> None:
    """Every client gets its result, whichever node holds it and whichever gets the callback."""
    with ExitStack() as stack:
        redis = stack.enter_context(RedisServer())
        job_server = {"duration": "0.1", "slots-per-account": "50"}
        server = stack.enter_context(DaemonProcess("jobserver", job_server))
        port = find_free_port()
        ports = run_nodes(stack, port, redis, server)
        stack.enter_context(run_front(front, fit(front, ports, port), port))
        wait_until_ready(f"http://127.0.0.1:{port}")
        with ThreadPoolExecutor(30) as executor:
            results = list(executor.map(post_job, [f"http://127.0.0.1:{port}"] * 60))
        assert {result["state"] for result in results} == {"completed"}
        assert len({result["id"] for result in results}) == 60
        relayed = sum(count_relays(admin) for admin in ports[2::3])
        assert 0 < relayed < 61


def wait_until_ready(url: str) -> None:
    """Wait until the load balancer has found its nodes."""

    def is_ready() -> bool:
        try:
            return bool(post_job(url))
        except OSError:
            return False

    wait_until(is_ready)


def count_relays(admin: int) -> int:
    cluster = fetch_json(f"http://127.0.0.1:{admin}/status")["cluster"]
    relays: int = cluster["relays"].get("taken", 0)
    return relays
