"""The simulator in memory: clients that send raw bytes, and a receiver of callbacks."""

import json
from random import Random
from typing import Any

from attrs import asdict, define, field
from klein import Klein
from treq.testing import RequestTraversalAgent
from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http import Request
from zope.interface import implementer

from jobproxy.http1.client import PlainClient
from jobproxy.http1.sender import HeaderLines, ISender
from jobproxy.sandbox.faults import read_faults
from jobproxy.sandbox.jobs import Job, JobFactory
from jobproxy.sandbox.network import LatencyFactory
from jobproxy.sandbox.server import Simulator, Stats
from jobproxy.sandbox.slots import Holding, Slots
from jobproxy.sandbox.tap import QuietSite
from tests.support.agents import AgentSender
from tests.support.clients import JSON, Client, Response

RESULT = {
    "id": r"\A[1-9a-f][0-9a-f]{0,15}\Z",
    "state": r"\A(completed|failed)\Z",
    "startedAt": r"\A\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z\Z",
    "proof": r"\A[0-9A-F]{40}\Z",
}


@define
class FakePort:
    """A port that the simulator closes and opens."""

    connected: bool = True
    numberAccepts: int = 1
    log: list[str] = field(factory=list)

    def doRead(self) -> None:
        self.log.append("accept")

    def stopReading(self) -> None:
        self.log.append("stop")

    def connectionLost(self, reason: Failure) -> None:
        self.connected = False
        self.log.append("close")

    def startListening(self) -> None:
        self.connected = True
        self.log.append("open")


@define(eq=False)
class Callback:
    """A callback that was received."""

    name: str
    moment: float
    raw: bytes
    request: Request = field(repr=False)

    @property
    def json(self) -> Any:
        return json.loads(self.raw)


@implementer(ISender)
class Receiver:
    """Receives callbacks, and responds at once unless it holds them.

    :ivar status: of all responses.
    :ivar held: the responses of held callbacks; :data:`None`: none is held.
    :ivar error: what sending a callback fails with; :data:`None`: it succeeds.
    """

    app = Klein()

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.callbacks: list[Callback] = []
        self.status = 200
        self.held: list[Deferred[bytes]] | None = None
        self.error: Exception | None = None
        self._agent = RequestTraversalAgent(self.app.resource())

    @app.route("/callback/<name>", methods=["POST"])
    def receive(self, request: Request, name: str) -> bytes | Deferred[bytes]:
        assert request.content is not None
        raw = request.content.read()
        self.callbacks.append(Callback(name, self._clock.seconds(), raw, request))
        request.setResponseCode(self.status)
        if self.held is None:
            return b"received"
        response: Deferred[bytes] = Deferred()
        self.held.append(response)
        return response

    def send(self, method: str, url: str, headers: HeaderLines, body: bytes) -> Deferred[Any]:
        """Send a callback."""
        if self.error is not None:
            return fail(self.error)
        return AgentSender(self._agent).send(method, url, headers, body)

    def respond(self) -> None:
        """Respond to the held callbacks."""
        assert self.held is not None
        for response in self.held:
            response.callback(b"received")
        self._agent.flush()


class SimulatorTestCase(SynchronousTestCase):
    """A simulator in memory; when the test ends, it must be idle.

    Times in tests are sums of powers of two, so that they are exact.

    :cvar faults: as the option of the same name.
    :cvar latency: seconds each way.
    :cvar jitter: seconds by which the duration of a job varies.
    :cvar holding: what holds a slot.
    """

    faults = ""
    latency = 0.0
    jitter = 0.0
    holding: Holding = "request"

    def setUp(self) -> None:
        super().setUp()
        self.clock = Clock()
        self.receiver = Receiver(self.clock)
        self.slots = Slots(1, self.holding)
        self.job_factory = JobFactory(Random(1), lambda: 1435591735.5 + self.clock.seconds())
        self.simulator = Simulator(
            PlainClient(self.receiver),
            self.clock,
            self.job_factory,
            self.slots,
            random=Random(1),
            faults=read_faults(self.faults),
            jitter=self.jitter,
            latency=self.latency,
        )
        site = QuietSite(self.simulator.resource(), reactor=self.clock)
        self.factory = LatencyFactory(site, self.clock, self.latency)
        self.clients: list[Client] = []

    def tearDown(self) -> None:
        super().tearDown()
        for client in self.clients:
            client.leave()
        self.pass_time(3 * self.latency)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.simulator.queued, {})
        self.assertEqual(len(self.slots), 0)
        self.assertEqual(self.factory.protocols, {})

    @property
    def stats(self) -> Stats:
        return self.simulator.stats

    @property
    def callbacks(self) -> list[Callback]:
        return self.receiver.callbacks

    def connect(self) -> Client:
        client = Client(self.factory)
        self.clients.append(client)
        return client

    def wait(self, account: str = "example") -> Client:
        """Send a job as a client that waits for the result."""
        return self.connect().start(account=account, wait=True)

    def start(self, name: str = "1", account: str = "example") -> Client:
        """Send a job with a callback URL as a client."""
        url = f"http://proxy.example/callback/{name}"
        return self.connect().start(account=account, wait=False, callback=url)

    def pass_time(self, seconds: float) -> None:
        """Advance the clock, from one timer to the next."""
        end = self.clock.seconds() + seconds
        while due := [call.getTime() for call in self.clock.getDelayedCalls()]:
            if min(due) > end:
                break
            self.clock.advance(min(due) - self.clock.seconds())
        self.clock.advance(end - self.clock.seconds())

    def fail_callbacks(self, error: Exception) -> None:
        """Let every callback from now on fail."""
        self.receiver.error = error

    def read_stats(self) -> dict[str, Any]:
        """Return the response of ``/stats``."""
        response = self.connect().request("/stats", method="GET").response
        self.assertEqual((response.status, response.headers["content-type"]), (200, JSON))
        numbers: dict[str, Any] = response.json
        return numbers

    def assert_result(self, result: Any, state: str = "completed") -> Job:
        """Check a result, and return its job."""
        self.assertEqual(list(result), list(RESULT))
        for name, pattern in RESULT.items():
            self.assertRegex(result[name], pattern)
        self.assertEqual(result["state"], state)
        job = Job(result["id"], result["startedAt"], result["proof"])
        self.assertTrue(self.job_factory.is_genuine(job))
        return job

    def assert_ack(self, response: Response) -> str:
        """Check an ack, and return its id."""
        self.assertEqual((response.status, response.headers["content-type"]), (200, JSON))
        self.assertEqual(list(response.json), ["state", "id"])
        self.assertEqual(response.json["state"], "running")
        self.assertRegex(response.json["id"], RESULT["id"])
        job_id: str = response.json["id"]
        return job_id

    def assert_stats(self, **numbers: Any) -> None:
        """Check all counts; those that are not given are zero."""
        self.assertEqual(asdict(self.stats), asdict(Stats(**numbers)))
