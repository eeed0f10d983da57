"""Gateways as processes, on one CPU, with the load on another."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from attrs import frozen

from jobproxy.sandbox.processes import DaemonProcess, find_free_port

PEERS = Path(__file__).parent / "peers"
START_TIMEOUT = 20.0

_COMMANDS = {
    "aiohttp": [sys.executable, str(PEERS / "aiohttp_gateway.py")],
    "node": ["node", str(PEERS / "node_gateway.js")],
    "stock": [sys.executable, str(PEERS / "stock_gateway.py")],
}
GATEWAYS = ("jobproxy", *_COMMANDS)


@frozen
class Running:
    """A gateway that runs.

    :param port: of the gateway, on 127.0.0.1.
    :param job_server_port: where it expects the job server.
    """

    pid: int
    port: int
    job_server_port: int


def find_missing(name: str) -> str | None:
    """Return what must be installed for a gateway, or None."""
    if name == "node" and shutil.which("node") is None:
        return "there is no node on the PATH"
    return None


def choose_cpus() -> tuple[int | None, int | None]:
    """Return a CPU for the gateway and one for the load, if there are two."""
    cpus = sorted(os.sched_getaffinity(0))
    return (cpus[0], cpus[1]) if len(cpus) > 1 else (None, None)


@contextmanager
def pinned(cpu: int | None) -> Iterator[None]:
    """Pin processes that are started in this context to one CPU, with all their threads.

    Pinning them afterwards would miss the threads that they have started by then.
    """
    before = os.sched_getaffinity(0)
    if cpu is not None:
        os.sched_setaffinity(0, {cpu})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def run_gateway(
    name: str,
    cpu: int | None,
    logger: str = "",
    words: tuple[str, ...] = (),
    more: dict[str, str] | None = None,
) -> Iterator[Running]:
    """Run a gateway while the context lasts.

    :param logger: of jobproxy, as are the words, see :class:`DaemonProcess`.
    :param more: options of jobproxy.
    """
    port, job_server_port = find_free_port(), find_free_port()
    options = {
        "callback-url": f"http://127.0.0.1:{port}/callback",
        "job-server-url": f"http://127.0.0.1:{job_server_port}/start",
    }
    with ExitStack() as stack:
        with pinned(cpu):
            if name == "jobproxy":
                # The peers have no bounds, so these must not limit jobproxy.
                bounds = {"max-held": "20000", "queue-per-account": "20000"}
                daemon = DaemonProcess(
                    "jobproxy", {**options, **bounds, **(more or {})}, port, logger, words
                )
                process = stack.enter_context(daemon).process
            else:
                process = stack.enter_context(_run_peer(_COMMANDS[name], options, port))
        yield Running(process.pid, port, job_server_port)


@contextmanager
def _run_peer(
    command: list[str], options: dict[str, str], port: int
) -> Iterator[subprocess.Popen[bytes]]:
    words = [f"--port={port}", *(f"--{name}={value}" for name, value in options.items())]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [*command, *words], stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            if not _wait_until_served(process, port):
                log.seek(0)
                raise RuntimeError(f"{command[-1]} does not serve:\n{log.read().decode()}")
            yield process
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_until_served(process: subprocess.Popen[bytes], port: int) -> bool:
    deadline = time.monotonic() + START_TIMEOUT
    while process.poll() is None and time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return True
        time.sleep(0.02)
    return False
