"""Load balancers: the examples of configuration in ``deploy``, run on this machine."""

import subprocess
import tempfile
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from attrs import frozen

from jobproxy.sandbox.processes import DaemonProcess, find_free_port, wait_until_served

DEPLOY = Path(__file__).parents[2] / "deploy"
#: The last parts of the addresses of the nodes in the examples.
NUMBERS = ("11", "12", "13")
NGINX = """\
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 4096; }}
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
class Ports:
    """The ports of a node: for clients, for callbacks and for the operator."""

    clients: int
    callbacks: int
    admin: int

    def is_ready(self) -> bool:
        """Whether the node says that it is ready."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/readyz"):
                return True
        except OSError:
            return False


@frozen
class Front:
    """A load balancer.

    :param example: its configuration for three nodes.
    :param bind: how that says where it listens.
    """

    program: str
    example: Path
    bind: str

    def command(self, config: Path, *, is_check: bool = False) -> list[str]:
        """Return what runs it, or checks its configuration."""
        if self.program == "haproxy":
            return ["haproxy", "-f", str(config), "-c" if is_check else "-db"]
        whole = config.with_suffix(".whole")
        whole.write_text(NGINX.format(folder=config.parent, config=config))
        return ["nginx", "-p", str(config.parent), "-c", str(whole), *["-t"][: int(is_check)]]

    def check(self, config: Path) -> str:
        """Return what it says about a configuration that has to be right; HAProxy: its warnings."""
        command = self.command(config, is_check=True)
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stderr

    def fit(self, nodes: Sequence[Ports], port: int) -> str:
        """Return the example with the addresses of this machine in it."""
        text = self.example.read_text(encoding="utf-8")
        assert text.count(self.bind) == 1
        text = text.replace(self.bind, self.bind.replace("80", str(port)))
        for number, node in zip(NUMBERS, nodes, strict=True):
            # Here each node has a port of its own for health too.
            health = f" port {node.admin}" if self.program == "haproxy" else ""
            text = text.replace(f"10.0.0.{number}:8080", f"127.0.0.1:{node.clients}{health}")
            text = text.replace(f"10.0.0.{number}:8081", f"127.0.0.1:{node.callbacks}{health}")
        return text.replace("server_name proxy.example", "server_name _")

    @contextmanager
    def run(self, nodes: Sequence[Ports], port: int) -> Iterator[None]:
        """Run it on a port in front of nodes while the context lasts."""
        with tempfile.TemporaryDirectory(prefix="front-") as folder:
            config = Path(folder) / "example"
            config.write_text(self.fit(nodes, port))
            self.check(config)
            with subprocess.Popen(self.command(config), stderr=subprocess.DEVNULL) as process:
                try:
                    wait_until_served(process, port)
                    yield
                finally:
                    process.terminate()


FRONTS = {
    front.program: front
    for front in (
        Front("nginx", DEPLOY / "nginx" / "cluster.conf", "listen 80;"),
        Front("haproxy", DEPLOY / "haproxy" / "cluster.cfg", "bind :80 "),
    )
}


def find_ports() -> list[Ports]:
    """Return free ports for the nodes of an example."""
    return [Ports(*(find_free_port() for _ in range(3))) for _ in NUMBERS]


def make_node(ports: Ports, front: int, secret: Path, **options: str) -> DaemonProcess:
    """Return a node of a cluster that can be run.

    :param front: the port of the load balancer.
    :param secret: the file with the key that all nodes have.
    :param options: more, with underscores for dashes.
    """
    given = {name.replace("_", "-"): value for name, value in options.items()}
    return DaemonProcess(
        "jobproxy",
        {
            "callback-url": f"http://127.0.0.1:{front}/callback",
            "callback-listen": f"tcp:{ports.callbacks}:interface=127.0.0.1:backlog=4096",
            "admin-listen": f"tcp:{ports.admin}:interface=127.0.0.1",
            "secret-file": str(secret),
            **given,
        },
        ports.clients,
    )
