"""Thousands of clients held at once by one process."""

import json
import resource

import pytest
import pytest_twisted
from attrs import define, field
from klein import Klein
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint, connectProtocol
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.http import Request
from twisted.web.server import Site

from jobproxy.daemon.process import raise_file_limit
from jobproxy.http1.agent import PooledAgent
from jobproxy.http1.client import JSON, PlainClient, read_body
from jobproxy.http1.limits import ClientLimits
from jobproxy.sandbox.processes import DaemonProcess, find_free_port, read_memory
from tests.support.reactor import reactor, until_closed
from tests.support.waiting import PATIENT

CLIENTS = 5_000


@define(eq=False)
class Patience:
    """A job server that ends no job until all have been started."""

    jobs: int
    callbacks: dict[int, str] = field(factory=dict)
    all_started: Deferred[None] = field(factory=Deferred)

    def site(self) -> Site:
        app = Klein()
        app.route("/start", methods=["POST"])(self.start)
        site = Site(app.resource())
        site.log = lambda request: None  # type: ignore[method-assign]
        return site

    def start(self, request: Request) -> bytes:
        assert request.content is not None
        job = json.load(request.content)
        self.callbacks[job["number"]] = job["callback"]
        if len(self.callbacks) == self.jobs:
            reactor.callLater(0, self.all_started.callback, None)
        return b'{"state":"running","id":"%x"}' % job["number"]


class HeldClient(Protocol):
    """Sends one job and keeps what comes back."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.response = b""
        self.done: Deferred[bytes] = Deferred()

    def connectionMade(self) -> None:
        assert self.transport is not None
        body = b'{"account":"account %d","number":%d}' % (self.number % 97, self.number)
        self.transport.write(
            b"POST /proxy HTTP/1.1\r\nHost: proxy\r\nContent-Type: application/json\r\n"
            b"Connection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
        )

    def dataReceived(self, data: bytes) -> None:
        self.response += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.done.callback(self.response)


def make_result(number: int) -> bytes:
    """Return the result of a job, which is like no other's."""
    return b'{"id":"%x","state":"completed","proof":"%040X"}' % (number, number**9)


@pytest.mark.timeout(600)
@pytest_twisted.ensureDeferred
async def test_thousands_of_held_clients_all_get_their_results() -> None:
    """L4: 5,000 clients are held at once, and each gets the bytes of its own job."""
    raise_file_limit()
    clients = min(CLIENTS, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2 - 200)
    job_server = Patience(clients)
    port = await TCP4ServerEndpoint(reactor, 0, 4096, "127.0.0.1").listen(job_server.site())
    proxy_port = find_free_port()
    options = {
        "callback-url": f"http://127.0.0.1:{proxy_port}/callback",
        "job-server-url": f"http://127.0.0.1:{port.getHost().port}/start",
        **PATIENT,
    }
    with DaemonProcess("jobproxy", options, proxy_port) as proxy:
        base = read_memory(proxy.process.pid)
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", proxy_port)
        held = [await connectProtocol(endpoint, HeldClient(number)) for number in range(clients)]
        await job_server.all_started
        assert not any(client.response for client in held)
        per_client = (read_memory(proxy.process.pid) - base) / clients
        assert per_client < 16_384

        sender = PlainClient(PooledAgent(reactor, ClientLimits(idle_time=0)))

        async def call_back(numbers: range) -> None:
            for number in numbers:
                url = job_server.callbacks[number]
                response = await sender.request("POST", url, headers=JSON, data=make_result(number))
                await read_body(response, 1_000)

        rounds = [range(first, clients, 20) for first in range(20)]
        await gatherResults([Deferred.fromCoroutine(call_back(numbers)) for numbers in rounds])
        responses = await gatherResults([client.done for client in held])
    await port.stopListening()
    await until_closed()
    for number, response in enumerate(responses):
        head, _, body = response.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert body == make_result(number)
