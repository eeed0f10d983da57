"""A whole proxy in memory: clients on raw bytes, a job server, and a clock."""

import json
import random
from typing import Any

from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from jobproxy.app.build import build_proxy
from jobproxy.app.environment import Environment
from jobproxy.app.settings import Settings
from jobproxy.http1.client import PlainClient
from jobproxy.jobs.index import PARKED
from jobproxy.jobs.retention import Bounds
from jobproxy.wire.tokens import LIFETIME, TokenSigner
from tests.support.clients import Client, Response
from tests.support.job_server import URL, FakeJobServer, Start, TestSender
from tests.support.memory_network import Network

CALLBACK_URL = "http://proxy.example/callback"
KEY = b"k" * 32
#: The Unix time at which each test starts: 2015-06-29T15:34:16Z.
EPOCH = 1_435_592_056
#: The settings of tests, where they are not those of the options.
DEFAULTS: dict[str, Any] = {
    "callback_url": CALLBACK_URL,
    "job_server_url": URL,
    "secret_file": (KEY,),
    "admin_listen": ("tcp:0",),
    "starts_per_account": 2,
    "queue_per_account": 10,
    "max_starts": 100,
    "max_held": 100,
    "upstream_idle": 0.0,
}
PROBLEM = "application/problem+json"
#: A path for each route: of clients, of monitoring, and of the operator.
JOB_PATHS = frozenset({"/proxy", "/start", "/", "/jobs/x"})
MONITORING_PATHS = frozenset({"/healthz", "/readyz", "/metrics", "/openapi.json"})
OPERATOR_PATHS = frozenset(
    {
        "/",
        "/status",
        "/events",
        "/history",
        "/runbook",
        "/assets/page.css",
        "/jobs",
        "/orphans",
        "/orphans/x",
        "/drain",
    },
)


def result_of(upstream_id: str, state: str = "completed") -> bytes:
    """Return the body of a callback, oddly spaced, so that a copy that is not exact shows."""
    return (
        f'{{ "id":"{upstream_id}","state":"{state}",\t"startedAt":"2015-06-29T15:34:16.850Z",'
        '"proof":"078DC91F2980650231E94E67777078D5C926B9A3"}\n'
    ).encode()


def find_served(site: Factory) -> set[str]:
    """Return which of all paths that a proxy has on any port are served here."""
    served = set()
    for path in JOB_PATHS | MONITORING_PATHS | OPERATOR_PATHS | {"/callback", "/callback/x"}:
        client = Client(site)
        # An unknown path is refused before its method is checked.
        response = client.request(path, None, method="OPTIONS").response
        client.leave()
        assert response.status in (404, 405), path
        if response.status == 405:
            served.add(path)
    return served


class FixedRandom(random.Random):
    """Returns the upper end of every range, so that pauses are known."""

    def uniform(self, a: float, b: float) -> float:
        return b


class Proxy:
    """A proxy in memory, wired as in production.

    :cvar settings: what differs from :data:`DEFAULTS`.
    :cvar bounds: of the retention.
    :cvar parked_bounds: of callbacks that wait for their ack.
    """

    settings: dict[str, Any] = {}
    bounds = Bounds()
    parked_bounds = PARKED

    def build(self, network: Network, job_server: FakeJobServer) -> None:
        """Make all its parts."""
        self.clock: Clock = network
        self.job_server = job_server
        self.sender = TestSender(network, self.settings.get("max_body", 65_536))
        self.has_descriptors = True
        self.stops_requested = 0
        self.log_dropped: dict[str, int] = {}
        self.clients: list[Client] = []
        self.wire(Settings(**{**DEFAULTS, **self.settings}), self.make_environment(network))

    def make_environment(self, reactor: Any) -> Environment:
        """Return what the proxy runs in."""
        self.random = FixedRandom()
        ids = iter(range(10_000))
        return Environment(
            reactor=reactor,
            client=PlainClient(self.sender),
            pool=self.sender,
            store=None,
            random=self.random,
            now=lambda: EPOCH + self.clock.seconds(),
            node="only-one",
            stop=self._note_stop,
            bounds=self.bounds,
            parked_bounds=self.parked_bounds,
            make_request_id=lambda: b"id-%d" % next(ids),
            wants_events=lambda: True,
            count_dropped=lambda: self.log_dropped,
            has_descriptors=lambda: self.has_descriptors,
        )

    def wire(self, settings: Settings, environment: Environment) -> None:
        """Build the proxy, and name the parts that tests look at."""
        self.proxy = build_proxy(settings, environment)
        self.gateway = self.proxy.gateway
        self.table = self.gateway.table
        self.limiter = self.gateway.starter.limiter
        self.circuit = self.gateway.starter.job_server.circuit
        self.feed = self.proxy.feed
        self.traffic = self.proxy.probes.traffic
        self.site = self.proxy.clients
        assert self.proxy.admin is not None
        self.admin_site = self.proxy.admin
        #: Makes tokens as the proxy does.
        self.signer = TokenSigner([KEY], now=environment.now, node=environment.node)

    @property
    def starts(self) -> list[Start]:
        return self.job_server.starts

    def _note_stop(self) -> None:
        self.stops_requested += 1

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
        """Send a job as a client."""
        return self.connect().request(body=json.dumps({"account": account}).encode())

    def fail_starts(self, error: Exception) -> None:
        """Let every start request fail from now on."""
        self.sender.failure = error

    def call_back(self, start: Start, body: bytes) -> Response:
        """Send a callback as the job server, and return the response."""
        return self.send_callback(start, body).response

    def send_callback(self, start: Start, body: bytes) -> Client:
        """Send a callback as the job server, which may have to wait for the response."""
        return self.connect().request(start.callback_path, body)


class ProblemTestCase(SynchronousTestCase):
    """Knows what problem documents look like."""

    def assert_problem(
        self, response: Response, status: int, slug: str, started: str = "no"
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
        network = Network()
        self.build(network, FakeJobServer(network))

    def tearDown(self) -> None:
        super().tearDown()
        self.assertEqual(self.table.clients.held, 0)
        for client in self.clients:
            client.leave()
        # What is kept for a while goes by itself, and nothing stays.
        self.clock.advance(LIFETIME)
        self.clock.advance(LIFETIME)
        self.assertEqual(len(self.table), 0)
        self.assertEqual(self.table.retention.retained, 0)
        self.assertEqual(len(self.limiter), 0)
        self.assertEqual(set(self.proxy.probes.count_kept().values()), {0})
        self.assertEqual(self.clock.getDelayedCalls(), [])
