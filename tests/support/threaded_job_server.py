"""A job server in a thread, whose jobs end when a test says so."""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Lock, Thread
from typing import Any

from tests.support.waiting import wait_until


class JobServer(ThreadingHTTPServer):
    """It starts every job, and sends no callback by itself; each path has a result.

    :ivar callbacks: the callback URL of each job that was started, by the job's number.
    :ivar headers: of the start request of each.
    :ivar acknowledged: the numbers of the jobs whose ack was written.
    :ivar asked: the paths whose result was asked for.
    :ivar gates: accounts whose starts are acknowledged, and paths whose result is sent, only once
        the event is set.
    :ivar connections: how many connections are open.
    """

    request_queue_size = 4096
    daemon_threads = False

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Connection)
        self.callbacks: dict[int, str] = {}
        self.headers: dict[int, dict[str, str]] = {}
        self.acknowledged: set[int] = set()
        self.asked: list[str] = []
        self.gates: dict[str, Event] = {}
        self.connections = 0
        self._lock = Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def close_gate(self, account: str) -> Event:
        """Acknowledge no start of this account, or send no such result, until the event is set."""
        self.gates[account] = Event()
        return self.gates[account]

    def wait_for(self, count: int) -> None:
        """Wait until so many jobs have been started."""
        wait_until(lambda: len(self.callbacks) >= count)

    def wait_for_starts(self, numbers: Iterable[int]) -> None:
        """Wait until these jobs have been started."""
        missing = set(numbers)
        wait_until(lambda: self.callbacks.keys() >= missing)

    def wait_for_acks(self, numbers: Iterable[int]) -> None:
        """Wait until the acks of these jobs have been written."""
        missing = set(numbers)
        wait_until(lambda: self.acknowledged >= missing)

    def count_connection(self, change: int) -> None:
        """Add to the number of connections; called by the thread of one."""
        with self._lock:
            self.connections += change

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print nothing about a proxy that is gone when its ack is sent."""


class _Connection(BaseHTTPRequestHandler):
    server: JobServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def setup(self) -> None:
        super().setup()
        self.server.count_connection(1)

    def finish(self) -> None:
        self.server.count_connection(-1)
        super().finish()

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        gate = self.server.gates.get(self.path)
        if gate is not None:
            gate.wait()
        self._respond(b"result of %b" % self.path.encode())

    def do_POST(self) -> None:
        job = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.headers[job["number"]] = dict(self.headers)
        self.server.callbacks[job["number"]] = job["callback"]
        gate = self.server.gates.get(job["account"])
        if gate is not None:
            gate.wait()
        ack = b'{"state":"running","id":"%x"}' % job["number"]
        self._respond(ack)
        self.server.acknowledged.add(job["number"])

    def _respond(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_request(self, code: Any = "-", size: Any = "-") -> None:
        """Write no access log."""


@contextmanager
def serve_jobs(port: int = 0) -> Iterator[JobServer]:
    """Run a job server in a thread."""
    with JobServer(port) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            for gate in server.gates.values():
                gate.set()
            server.shutdown()
            thread.join()
