"""A real proxy between clients and a job server of the test's own."""

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from attrs import define, field

from jobproxy.sandbox.processes import DaemonProcess, find_free_port
from tests.support.socket_client import Client, Response, request, result_of
from tests.support.threaded_job_server import JobServer, serve_jobs
from tests.support.waiting import PATIENT, wait_for_exit, wait_until

DRAINING = "urn:jobproxy:problem:draining"


@define(eq=False)
class Stage:
    """A job server of the test's own, a proxy in front of it, and clients of both."""

    server: JobServer
    proxy: DaemonProcess
    _stack: ExitStack = field(repr=False)

    def connect(self) -> Client:
        """Return a connection to the proxy, closed at the end of the test."""
        return self._stack.enter_context(Client(self.proxy.port))

    def send_job(self, number: int, account: str = "example", **headers: str) -> Client:
        """Return a connection on which a job has been sent."""
        client = self.connect()
        client.send_job(number, account, **headers)
        return client

    def hold(self, *numbers: int, **headers: str) -> list[Client]:
        """Return clients whose jobs were started, and acknowledged unless there is a gate.

        Each has an account of its own, ``account <number>``.
        """
        clients = [self.send_job(number, f"account {number}", **headers) for number in numbers]
        self.server.wait_for_starts(numbers)
        free = [number for number in numbers if f"account {number}" not in self.server.gates]
        self.server.wait_for_acks(free)
        return clients

    def is_started(self, number: int, client: Client) -> bool:
        """Wait until a job was started, or its client has a response instead."""
        wait_until(lambda: number in self.server.callbacks or client.has_response())
        return number in self.server.callbacks

    def call_back(self, number: int, body: bytes = b"") -> Response:
        """Send a job's result to the proxy."""
        return request(self.server.callbacks[number], body or result_of(number), "POST")

    def ready(self, url: str = "") -> Response:
        """Return whether the proxy is ready; what was sent before has been read by then."""
        return request(f"{url or self.proxy.url}/readyz")

    def stop(self, url: str = "") -> None:
        """Send SIGTERM, and wait until the proxy has closed what is idle and is draining.

        :param url: where it serves its health, if not where its clients are; a client must be held.
        """
        with Client(int((url or self.proxy.url).rpartition(":")[2])) as idle:
            idle.ask("GET", "/readyz")
            assert idle.receive().status == 200
            self.proxy.process.send_signal(signal.SIGTERM)
            assert idle.is_ended()
        response = self.ready(url)
        assert (response.status, response.document["reasons"]) == (503, ["draining"])

    @contextmanager
    def stall(self) -> Iterator[None]:
        """Stop the proxy while the context lasts; afterwards it gets all that came at once."""
        process = self.proxy.process
        process.send_signal(signal.SIGSTOP)
        os.waitpid(process.pid, os.WUNTRACED)
        try:
            yield
        finally:
            process.send_signal(signal.SIGCONT)

    def wait_for_end(self) -> None:
        """Wait until the proxy has ended by SIGTERM, without trouble."""
        assert wait_for_exit(self.proxy.process) == -signal.SIGTERM
        assert "Traceback" not in self.proxy.log


@contextmanager
def run_stage(variables: dict[str, str] | None = None, /, **options: str) -> Iterator[Stage]:
    """Run a proxy in front of a job server while the context lasts.

    :param variables: of the proxy's environment.
    :param options: of the proxy, with underscores for dashes.
    """
    with ExitStack() as stack:
        server = stack.enter_context(serve_jobs())
        proxy = make_proxy(server.url, find_free_port(), **options)
        proxy.variables.update(variables or {})
        yield Stage(server, stack.enter_context(proxy), stack)


def make_proxy(job_server: str, port: int, /, **options: str) -> DaemonProcess:
    """Return a proxy that can be run, and whose deadlines are longer than a test."""
    given = {name.replace("_", "-"): value for name, value in options.items()}
    default = {
        "callback-url": f"http://127.0.0.1:{port}/callback",
        "job-server-url": f"{job_server}/start",
        **PATIENT,
    }
    return DaemonProcess("jobproxy", {**default, **given}, port)
