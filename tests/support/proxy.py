"""A whole proxy in memory: clients on raw bytes, a job server through treq, and a clock."""

import json
import random
from collections.abc import Callable
from typing import Any

from attrs import define, field, frozen
from klein import Klein
from treq.testing import RequestTraversalAgent
from twisted.internet.defer import Deferred, fail
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransportWithDisconnection
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http import Request
from twisted.web.iweb import IAgent
from zope.interface import implementer

from jobproxy.api.admin import (
    DrainRoutes,
    HealthRoutes,
    JobListRoutes,
    MetricsRoutes,
    OrphanRoutes,
    PageRoutes,
    StatusRoutes,
)
from jobproxy.api.jobs import CallbackRoutes, ClientRoutes, FixedCallbackRoutes
from jobproxy.api.openapi import InterfaceRoutes
from jobproxy.api.responses import Routes, describe_error, make_resource
from jobproxy.gateway import Gateway
from jobproxy.http1.agent import PooledAgent
from jobproxy.http1.client import PlainClient
from jobproxy.http1.limits import ClientLimits
from jobproxy.http1.server import ServerFactory
from jobproxy.jobs.events import JobEvents
from jobproxy.jobs.index import IdTable
from jobproxy.jobs.retention import LIFETIME
from jobproxy.jobs.table import CorrelationTable
from jobproxy.monitoring.metrics import ProxyCollector, make_registry
from jobproxy.monitoring.probes import Probes
from jobproxy.monitoring.reactor_lag import ReactorLag
from jobproxy.monitoring.status import Feed, Status
from jobproxy.monitoring.traffic import Traffic
from jobproxy.upstream.circuit import Circuit
from jobproxy.upstream.job_server import JobServer
from jobproxy.upstream.keepalive import KeepAlivePolicy
from jobproxy.upstream.limiter import AccountLimiter
from jobproxy.upstream.retries import Retry, RetryPolicy
from jobproxy.upstream.starts import Starter
from jobproxy.wire.tokens import TokenSigner

CALLBACK_URL = "http://proxy.example/callback"
KEY = b"k" * 32
#: The Unix time at which each test starts: 2015-06-29T15:34:16Z.
EPOCH = 1_435_592_056
JSON = "application/json"
PROBLEM = "application/problem+json"


def result_of(upstream_id: str, state: str = "completed") -> bytes:
    """Return the body of a callback, oddly spaced, so that a copy that is not exact shows."""
    return (
        f'{{ "id":"{upstream_id}","state":"{state}",\t"startedAt":"2015-06-29T15:34:16.850Z",'
        '"proof":"078DC91F2980650231E94E67777078D5C926B9A3"}\n'
    ).encode()


@frozen
class Answer:
    """An HTTP answer, whole."""

    status: int
    reason: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def parse_responses(data: bytes) -> list[Answer]:
    """Read answers one after another; each has to say how long it is."""
    responses = []
    while data:
        head, _, rest = data.partition(b"\r\n\r\n")
        status_line, *lines = head.decode().split("\r\n")
        _, status, reason = status_line.split(" ", 2)
        headers = {}
        for line in lines:
            name, _, value = line.partition(": ")
            assert name.lower() not in headers, f"{name} is there twice"
            headers[name.lower()] = value
        length = int(headers["content-length"])
        assert len(rest) >= length
        responses.append(Answer(int(status), reason, headers, rest[:length]))
        data = rest[length:]
    return responses


@define(eq=False)
class Client:
    """A client's connection, as raw bytes."""

    _site: Factory
    transport: StringTransportWithDisconnection = field(
        factory=StringTransportWithDisconnection, init=False
    )
    _protocol: Any = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._protocol = self._site.buildProtocol(self.transport.getPeer())
        self.transport.protocol = self._protocol
        self._protocol.makeConnection(self.transport)

    def send(self, data: bytes) -> None:
        self._protocol.dataReceived(data)

    def get(self, path: str, **headers: str) -> "Client":
        """Send a request without a body; ``_`` in a header's name stands for ``-``."""
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.request(path, None, method="GET", headers=fields)

    def request(
        self,
        path: str = "/proxy",
        body: bytes | None = b'{"account":"example","wait":true}',
        *,
        method: str = "POST",
        headers: dict[str, str] | None = None,
    ) -> "Client":
        """Send a request with a body of JSON, or of what the headers say."""
        fields = {"Host": "proxy.example", "Content-Type": JSON, **(headers or {})}
        if body is not None:
            fields["Content-Length"] = str(len(body))
        lines = [f"{method} {path} HTTP/1.1", *(f"{n}: {v}" for n, v in fields.items()), "", ""]
        self.send("\r\n".join(lines).encode("latin-1") + (body or b""))
        return self

    @property
    def responses(self) -> list[Answer]:
        return parse_responses(self.transport.value())

    @property
    def response(self) -> Answer:
        (response,) = self.responses
        return response

    @property
    def is_held(self) -> bool:
        return self.transport.connected and not self.transport.value()

    def leave(self) -> None:
        """Close the connection, if it is not closed already."""
        if self.transport.connected:
            self.transport.connected = False
            self._protocol.connectionLost(Failure(ConnectionDone()))


@define(eq=False)
class Start:
    """A start call that reached the job server."""

    body: dict[str, Any]
    raw: bytes
    request: Request = field(repr=False)
    _flush: Callable[[], None] = field(repr=False)
    _answered: Deferred[bytes] = field(factory=Deferred, init=False, repr=False)

    @property
    def callback_path(self) -> str:
        url: str = self.body["callback"]
        assert url.startswith("http://proxy.example/")
        return url.removeprefix("http://proxy.example")

    def respond(self, body: bytes, status: int = 200, **headers: str) -> None:
        self.request.setResponseCode(status)
        for name, value in headers.items():
            self.request.setHeader(name.replace("_", "-"), value)
        self._answered.callback(body)
        self._flush()

    def ack(self, upstream_id: str = "4499a6e0c2ef4b98") -> None:
        self.respond(json.dumps({"state": "running", "id": upstream_id}).encode())


class FakeJobServer:
    """Takes start calls, and answers them when it is told to."""

    app = Klein()

    def __init__(self) -> None:
        self.starts: list[Start] = []
        self.agent = RequestTraversalAgent(self.app.resource())

    @app.route("/start", methods=["POST"])
    def start(self, request: Request) -> Deferred[bytes]:
        assert request.content is not None
        raw = request.content.read()
        start = Start(json.loads(raw), raw, request, self.agent.flush)
        self.starts.append(start)
        return start._answered


@implementer(IAgent)
class FailingAgent:
    """Fails every request with the same error."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def request(self, *args: Any, **kwargs: Any) -> Deferred[Any]:
        return fail(self._error)


class FixedRandom(random.Random):
    """Returns the upper end of every range, so that pauses are known."""

    def uniform(self, a: float, b: float) -> float:
        return b


class Proxy:
    """A proxy in memory.

    :cvar options: what differs from the defaults below.
    """

    options: dict[str, Any] = {}

    def build(self, clock: Clock, job_server: FakeJobServer) -> None:
        """Make all its parts."""
        options = {
            "per_account": 2,
            "queue_per_account": 10,
            "total": 100,
            "timeout": 10.0,
            "wait": 30.0,
            "ambiguous_grace": 2.0,
            "max_held": 100,
            "retain": 300.0,
            "retry": Retry.NOT_SENT,
            "attempts": 3,
            "lost_after": None,
            "by_id": False,
            "allows_callbacks": False,
            "shows_accounts": False,
            **self.options,
        }
        self.clock = clock
        self.random = FixedRandom()
        self.job_server = job_server
        self.signer = self.make_signer()
        events = self.make_events()
        self.table = CorrelationTable(self.clock, options["retain"], events=events)
        if options["by_id"]:
            self.table = IdTable(
                self.clock,
                options["retain"],
                park=options["timeout"],
                make_job_id=lambda: self.signer.mint().job_id,
                events=events,
            )
        self.limiter = AccountLimiter(
            self.clock, options["per_account"], options["queue_per_account"], options["total"]
        )
        self.circuit = Circuit(self.clock, self.random)
        self.upstream = JobServer(
            PlainClient(self.job_server.agent),
            self.clock,
            "http://jobs.example/start",
            options["timeout"],
            KeepAlivePolicy(self.clock, lambda: None, 0),
            self.circuit,
            now=lambda: EPOCH + self.clock.seconds(),
        )
        self.gateway = self.make_gateway(
            self.table,
            Starter(
                self.clock,
                self.table,
                self.limiter,
                self.upstream,
                RetryPolicy(
                    options["retry"], options["attempts"], options["lost_after"], self.random
                ),
                options["ambiguous_grace"],
            ),
            self.signer,
            CALLBACK_URL,
            wait=options["wait"],
            max_held=options["max_held"],
            shows_accounts=options["shows_accounts"],
        )
        callbacks: Routes = CallbackRoutes(self.gateway, "/callback")
        if options["by_id"]:
            callbacks = FixedCallbackRoutes(self.gateway, "/callback")
        ids = iter(range(10_000))
        self.meter = ReactorLag(self.clock)
        factories: list[ServerFactory] = []
        self.traffic = Traffic(lambda: EPOCH + self.clock.seconds())
        agent = PooledAgent(self.clock, ClientLimits())
        self.has_descriptors = True
        self.is_told_to_stop = 0
        self.log_dropped: dict[str, int] = {}
        probes = Probes(
            self.gateway,
            factories,
            self.traffic,
            agent,
            self.meter.lag,
            lambda: self.log_dropped,
            lambda: self.has_descriptors,
        )
        status = Status(probes, self.clock, lambda: EPOCH + self.clock.seconds())
        self.feed = Feed(self.clock, status)
        resource = make_resource(
            ClientRoutes(self.gateway, options["allows_callbacks"]),
            callbacks,
            HealthRoutes(probes),
            MetricsRoutes(make_registry(ProxyCollector(probes))),
            InterfaceRoutes(),
            OrphanRoutes(self.gateway),
        )
        self.site = ServerFactory(
            resource,
            self.clock,
            describe_error=describe_error,
            observer=self.traffic,
            make_id=lambda: b"id-%d" % next(ids),
        )
        admin = make_resource(
            PageRoutes(),
            StatusRoutes(status, self.feed),
            JobListRoutes(self.gateway, self.clock),
            OrphanRoutes(self.gateway),
            DrainRoutes(self.gateway, self._note_stop),
        )
        self.admin_site = ServerFactory(
            admin, self.clock, describe_error=describe_error, observer=self.traffic
        )
        factories += [self.site, self.admin_site]
        self.clients: list[Client] = []

    def make_signer(self) -> TokenSigner:
        return TokenSigner([KEY], now=self.clock.seconds)

    def make_events(self) -> JobEvents:
        return JobEvents(lambda: True)

    def make_gateway(self, *parts: Any, **settings: Any) -> Gateway:
        return Gateway(*parts, **settings)

    @property
    def starts(self) -> list[Start]:
        return self.job_server.starts

    def _note_stop(self) -> None:
        self.is_told_to_stop += 1

    def connect(self) -> Client:
        client = Client(self.site)
        self.clients.append(client)
        return client

    def operate(self) -> Client:
        """Connect to the port for operators."""
        client = Client(self.admin_site)
        self.clients.append(client)
        return client

    def submit(self, account: str = "example") -> Client:
        """Have a client send a job."""
        return self.connect().request(body=json.dumps({"account": account}).encode())

    def fail_starts(self, error: Exception) -> None:
        """Have every start call from now on fail."""
        self.upstream._treq = PlainClient(FailingAgent(error))

    def call_back(self, start: Start, body: bytes) -> Answer:
        """Have the job server send a callback, and return what it is answered."""
        return self.connect().request(start.callback_path, body).response


class ProblemTestCase(SynchronousTestCase):
    """Knows what problem documents look like."""

    def assert_problem(
        self, response: Answer, status: int, slug: str, started: str = "no"
    ) -> dict[str, Any]:
        """Check all that problem documents have in common, and return the document."""
        document: dict[str, Any] = response.json
        self.assertEqual(response.status, status, document)
        self.assertEqual(response.headers["content-type"], PROBLEM)
        self.assertEqual(document["type"], f"urn:jobproxy:problem:{slug}")
        self.assertEqual(document["status"], status)
        self.assertEqual(document["started"], started)
        self.assertEqual(document["requestId"], response.headers["x-request-id"])
        self.assertTrue(document["title"])
        self.assertTrue(document["detail"])
        return document


class ProxyTestCase(Proxy, ProblemTestCase):
    """A proxy in memory; when the test ends, nothing may be left in it."""

    def setUp(self) -> None:
        super().setUp()
        self.build(Clock(), FakeJobServer())

    def tearDown(self) -> None:
        super().tearDown()
        self.assertEqual(self.table.held, 0)
        for client in self.clients:
            client.leave()
        # What is kept for a while goes by itself, and nothing stays.
        self.clock.advance(LIFETIME)
        self.clock.advance(LIFETIME)
        self.assertEqual(len(self.table), 0)
        self.assertEqual(self.table.retained, 0)
        self.assertEqual(len(self.limiter), 0)
        self.assertEqual(self.clock.getDelayedCalls(), [])
