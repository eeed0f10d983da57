"""SIGTERM: nobody who is held loses an answer, and the process still ends in time.

Here too are the job server and the clients by which other tests with processes are run.
"""

import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.client import HTTPMessage, HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from select import POLLIN, poll
from threading import Event, Thread
from typing import Any

from attrs import define, field, frozen

from jobproxy.daemon.lifecycle import raise_file_limit
from jobproxy.sandbox.processes import DaemonProcess, find_free_port

DRAINING = "urn:jobproxy:problem:draining"


class JobServer(ThreadingHTTPServer):
    """A job server whose jobs end when a test says so.

    :ivar callbacks: the callback URL of each job that was started, by the job's number.
    :ivar gates: accounts whose starts are acknowledged only once the event is set.
    :ivar connections: how many connections are open.
    """

    request_queue_size = 4096
    daemon_threads = False

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Connection)
        self.callbacks: dict[int, str] = {}
        self.gates: dict[str, Event] = {}
        self.connections = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def close_gate(self, account: str) -> Event:
        """Acknowledge no start of this account until the event is set."""
        self.gates[account] = Event()
        return self.gates[account]

    def wait_for(self, count: int) -> None:
        """Wait until so many jobs have been started."""
        wait_until(lambda: len(self.callbacks) >= count)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a proxy that is gone when its ack comes."""


class _Connection(BaseHTTPRequestHandler):
    server: JobServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def setup(self) -> None:
        super().setup()
        self.server.connections += 1

    def finish(self) -> None:
        self.server.connections -= 1
        super().finish()

    def do_POST(self) -> None:
        job = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.callbacks[job["number"]] = job["callback"]
        gate = self.server.gates.get(job["account"])
        if gate is not None:
            gate.wait()
        ack = b'{"state":"running","id":"%x"}' % job["number"]
        self.send_response(200)
        self.send_header("Content-Length", str(len(ack)))
        self.end_headers()
        self.wfile.write(ack)

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


@frozen
class Answer:
    """An HTTP answer, whole."""

    status: int
    headers: HTTPMessage
    body: bytes

    @property
    def document(self) -> Any:
        return json.loads(self.body)

    @property
    def verdict(self) -> tuple[int, str, str]:
        """What a problem says: its status, its type, and whether the job was started."""
        return self.status, self.document["type"], self.document["started"]


class Client:
    """One connection to a port of this machine, on which answers need not be waited for."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *error: object) -> None:
        self._socket.close()

    def write(self, data: bytes) -> None:
        self._socket.sendall(data)

    def ask(self, method: str, path: str, body: bytes = b"", **headers: str) -> None:
        """Send a request."""
        lines = [f"{method} {path} HTTP/1.1", "Host: proxy", f"Content-Length: {len(body)}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self.write("\r\n".join([*lines, "", ""]).encode() + body)

    def send_job(self, number: int, account: str = "example", **headers: str) -> None:
        job = {"account": account, "number": number}
        self.ask("POST", "/proxy", json.dumps(job).encode(), **headers)

    def call_back(self, url: str, number: int) -> None:
        """Send the result of a job to where it is wanted; this is a connection to there."""
        self.ask("POST", "/" + url.split("/", 3)[3], result_of(number))

    def receive(self) -> Answer:
        """Wait for an answer; whoever hangs up instead raises a :class:`ConnectionError`."""
        with HTTPResponse(self._socket) as response:
            response.begin()
            body = response.read()
        return Answer(response.status, response.headers, body)

    def has_answer(self, seconds: float = 0.0) -> bool:
        """Whether there is something to read, or is within so many seconds."""
        poller = poll()
        poller.register(self._socket, POLLIN)
        return bool(poller.poll(seconds * 1000))

    def is_ended(self) -> bool:
        """Wait for the connection's end; a reset one raises a :class:`ConnectionError`."""
        return self._socket.recv(1) == b""


def ask(url: str, body: bytes = b"", method: str = "GET") -> Answer:
    """Send one request on a connection of its own, and return the answer."""
    origin, slash, path = url.removeprefix("http://").partition("/")
    with Client(int(origin.rpartition(":")[2])) as client:
        client.ask(method, slash + path, body, Connection="close")
        return client.receive()


def wait_until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    """Poll until something is true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.002)


#: A result that no buffer of a socket takes whole.
BIG = b'{"state":"completed","proof":"%b"}' % (b"E8" * 5 * 2**20)


def result_of(number: int) -> bytes:
    """Return the result of a job, which is like no other's and oddly spaced."""
    return b'{ "id":"%x","state":"completed",\t"proof":"%040X"}\n' % (number, number**9)


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

    def hold(self, *numbers: int) -> list[Client]:
        """Return clients whose jobs have all reached the job server, by accounts of their own."""
        before = len(self.server.callbacks)
        clients = [self.send_job(number, f"account {number}") for number in numbers]
        self.server.wait_for(before + len(clients))
        return clients

    def call_back(self, number: int, body: bytes = b"") -> Answer:
        """Send a job's result to the proxy."""
        return ask(self.server.callbacks[number], body or result_of(number), "POST")

    def ready(self, url: str = "") -> Answer:
        return ask(f"{url or self.proxy.url}/readyz")

    def stop(self, url: str = "") -> None:
        """Tell the proxy to stop, and wait until it has closed what is idle and is draining."""
        with Client(int((url or self.proxy.url).rpartition(":")[2])) as idle:
            idle.ask("GET", "/readyz")
            assert idle.receive().status == 200
            self.proxy.process.send_signal(signal.SIGTERM)
            assert idle.is_ended()
        response = self.ready(url)
        assert (response.status, response.document["reasons"]) == (503, ["draining"])

    @contextmanager
    def stall(self) -> Iterator[None]:
        """Stop the proxy meanwhile, as if it did not come to its turn; then it gets all at once."""
        process = self.proxy.process
        process.send_signal(signal.SIGSTOP)
        os.waitpid(process.pid, os.WUNTRACED)
        try:
            yield
        finally:
            process.send_signal(signal.SIGCONT)

    def wait_for_end(self, seconds: float = 1.0) -> None:
        """Wait until the proxy has ended, as one does that was told to stop and had no trouble."""
        self.proxy.process.wait(seconds)
        assert self.proxy.process.returncode == -signal.SIGTERM
        assert "Traceback" not in self.proxy.log


@contextmanager
def run_stage(**options: str) -> Iterator[Stage]:
    """Run a proxy in front of a job server while the context lasts.

    :param options: of the proxy, with underscores for dashes.
    """
    with ExitStack() as stack:
        server = stack.enter_context(serve_jobs())
        proxy = make_proxy(server.url, find_free_port(), **options)
        yield Stage(server, stack.enter_context(proxy), stack)


def make_proxy(job_server: str, port: int, /, **options: str) -> DaemonProcess:
    """Return a proxy that can be run."""
    given = {name.replace("_", "-"): value for name, value in options.items()}
    default = {
        "callback-url": f"http://127.0.0.1:{port}/callback",
        "job-server-url": f"{job_server}/start",
    }
    return DaemonProcess("jobproxy", {**default, **given}, port)


def test_every_held_client_is_answered() -> None:
    """G1: 1,000 clients are held at SIGTERM: all get their bytes, and the process ends in time."""
    raise_file_limit()
    with run_stage() as stage:
        clients = stage.hold(*range(1_000))
        stage.stop()
        refused = stage.send_job(1_000).receive()
        assert refused.verdict == (503, DRAINING, "no")
        assert refused.headers["Connection"] == "close"
        assert not any(client.has_answer() for client in clients)
        assert {stage.call_back(number).status for number in range(1_000)} == {200}
        stage.wait_for_end()
        for number, client in enumerate(clients):
            response = client.receive()
            assert (response.status, response.body) == (200, result_of(number))
            assert response.headers["Connection"] == "close"
            assert client.is_ended()
        assert len(stage.server.callbacks) == 1_000


def test_queued_jobs_are_not_started() -> None:
    """G1: at SIGTERM who is queued is told that nothing was started; who is not is served."""
    with run_stage(starts_per_account="1") as stage:
        gate = stage.server.close_gate("example")
        clients = [stage.send_job(number) for number in range(3)]
        stage.server.wait_for(1)
        stage.stop()
        (first,) = stage.server.callbacks
        started = clients.pop(first)
        for client in clients:
            assert client.receive().verdict == (503, DRAINING, "no")
            assert client.is_ended()
        gate.set()
        assert not started.has_answer(0.05)
        assert stage.call_back(first).status == 200
        assert started.receive().body == result_of(first)
        stage.wait_for_end()
        assert len(stage.server.callbacks) == 1


def test_answers_are_sent_whole() -> None:
    """G1: the process does not end before a slow client has got all bytes of its answer."""
    with run_stage(max_body=str(len(BIG))) as stage:
        (client,) = stage.hold(0)
        stage.stop()
        assert stage.call_back(0, BIG).status == 200
        assert client.has_answer(1.0)
        time.sleep(0.2)
        assert stage.proxy.process.poll() is None
        assert client.receive().body == BIG
        stage.wait_for_end()


def test_own_ports() -> None:
    """G1: callbacks and health are served to the end on ports of their own too."""
    callback, admin = find_free_port(), find_free_port()
    ports = {
        "callback_url": f"http://127.0.0.1:{callback}/callback",
        "callback_listen": f"tcp:{callback}:interface=127.0.0.1",
        "admin_listen": f"tcp:{admin}:interface=127.0.0.1",
    }
    with run_stage(**ports) as stage:
        clients = stage.hold(0, 1)
        health = f"http://127.0.0.1:{admin}"
        assert stage.ready(health).status == 200
        stage.stop(health)
        for number, client in enumerate(clients):
            assert stage.ready(health).status == 503
            assert stage.call_back(number).document == {"status": "accepted"}
            assert client.receive().body == result_of(number)
            assert client.is_ended()
        stage.wait_for_end()


def test_drain_timeout() -> None:
    """G1: who is still held when the drain has to end is told what is known of the job."""
    with run_stage(drain_timeout="0.5") as stage:
        begin = time.monotonic()
        stage.server.close_gate("account 2")
        clients = stage.hold(0, 1, 2)
        stage.stop()
        stage.wait_for_end(2.0)
        assert time.monotonic() - begin > 0.5
        responses = [client.receive() for client in clients]
        assert [response.document["started"] for response in responses] == ["yes", "yes", "unknown"]
        for response, client in zip(responses, clients, strict=True):
            assert response.verdict[:2] == (503, DRAINING)
            assert response.headers["Connection"] == "close"
            assert client.is_ended()


def test_who_leaves_is_not_waited_for() -> None:
    """G1: a drain ends with the last held client, also if that one just leaves."""
    with run_stage() as stage:
        stay, leave = stage.hold(0, 1)
        stage.stop()
        leave.__exit__()
        assert stage.call_back(0).status == 200
        stage.wait_for_end()
        assert stay.receive().body == result_of(0)


def test_running_job_is_not_said_to_be_unstarted() -> None:
    """G1: who repeats a job that runs is not told, while draining, that it was not started."""
    with run_stage() as stage:
        first = stage.send_job(0, Idempotency_Key="key")
        stage.server.wait_for(1)
        stage.stop()
        again = stage.send_job(0, Idempotency_Key="key")
        if again.has_answer(0.2):
            assert again.receive().document["started"] != "no"
        assert stage.call_back(0).status == 200
        assert first.receive().body == result_of(0)


def test_idle_connections_are_closed() -> None:
    """G2: at SIGTERM connections on which nothing is under way end at once, and cleanly."""
    with run_stage() as stage:
        (held,) = stage.hold(0)
        silent = stage.connect()
        (kept,) = stage.hold(1)
        assert stage.call_back(1).status == 200
        assert kept.receive().headers["Connection"] is None
        asking = stage.connect()
        asking.write(b"POST /proxy HTTP/1.1\r\nHost: proxy\r\nContent-Length: 19\r\n")
        assert stage.ready().status == 200
        stage.stop()
        assert silent.is_ended()
        assert kept.is_ended()
        asking.write(b'\r\n{"account":"other"}')
        assert asking.receive().verdict == (503, DRAINING, "no")
        assert not held.has_answer()
        late = stage.connect()
        assert stage.call_back(0).status == 200
        stage.wait_for_end()
        assert held.receive().body == result_of(0)
        assert late.is_ended()


def test_requests_that_have_come_are_answered() -> None:
    """G1, G2: what has come when SIGTERM is seen is read, and no connection closed over it."""
    with run_stage() as stage:
        (held,) = stage.hold(0)
        silent = stage.connect()
        (kept,) = stage.hold(1)
        assert stage.call_back(1).status == 200
        assert kept.receive().status == 200
        with stage.stall():
            kept.send_job(2)
            silent.send_job(3)
            new = stage.send_job(4)
            stage.proxy.process.send_signal(signal.SIGTERM)
        for number, client in enumerate((kept, silent, new), 2):
            # Whether the signal or the request is seen first is not said.
            if client.has_answer(0.2):
                assert client.receive().verdict == (503, DRAINING, "no")
            else:
                assert stage.call_back(number).status == 200
                assert client.receive().body == result_of(number)
        assert stage.call_back(0).status == 200
        assert held.receive().body == result_of(0)
