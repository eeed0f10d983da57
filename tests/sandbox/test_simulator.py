"""The simulated job server in memory: clients on raw bytes, callbacks through treq, and a clock."""

import json
from random import Random
from typing import Any, cast

from attrs import asdict, define, evolve, field
from klein import Klein
from treq.testing import RequestTraversalAgent
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransportWithDisconnection
from twisted.logger import ILogObserver, formatEvent, globalLogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http import Request

from jobproxy.http1.client import PlainClient
from jobproxy.sandbox.faults import read_faults
from jobproxy.sandbox.jobs import Job, Workshop
from jobproxy.sandbox.network import LatentFactory
from jobproxy.sandbox.proofs import pack_proof
from jobproxy.sandbox.server import Simulator, Stats
from jobproxy.sandbox.slots import Holding, Slots
from jobproxy.sandbox.tap import QuietSite
from tests.support.proxy import JSON, Answer, FailingAgent, parse_responses

RESULT = {
    "id": r"\A[1-9a-f][0-9a-f]{0,15}\Z",
    "state": r"\A(completed|failed)\Z",
    "startedAt": r"\A\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z\Z",
    "proof": r"\A[0-9A-F]{40}\Z",
}


@define(eq=False)
class Browser:
    """A client's connection to the simulator, as raw bytes."""

    _factory: LatentFactory
    transport: StringTransportWithDisconnection = field(
        factory=StringTransportWithDisconnection, init=False
    )
    _protocol: Any = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._protocol = self._factory.buildProtocol(self.transport.getPeer())
        self.transport.protocol = self._protocol
        self._protocol.makeConnection(self.transport)

    def request(self, path: str, body: bytes = b"", *, method: str = "POST") -> "Browser":
        """Send a request."""
        head = f"{method} {path} HTTP/1.1\r\nHost: jobs.example\r\nContent-Length: {len(body)}\r\n"
        self._protocol.dataReceived(head.encode() + b"\r\n" + body)
        return self

    def start(self, **members: Any) -> "Browser":
        """Send a start call."""
        return self.request("/start", json.dumps(members).encode())

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


@define
class FakePort:
    """What connections come in on, as far as the simulator closes and opens it."""

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


class Receiver:
    """Takes callbacks, and answers them at once unless it is told to hold them."""

    app = Klein()

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.callbacks: list[Callback] = []
        self.status = 200
        self.held: list[Deferred[bytes]] | None = None
        self.agent = RequestTraversalAgent(self.app.resource())

    @app.route("/callback/<name>", methods=["POST"])
    def take(self, request: Request, name: str) -> bytes | Deferred[bytes]:
        assert request.content is not None
        raw = request.content.read()
        self.callbacks.append(Callback(name, self._clock.seconds(), raw, request))
        request.setResponseCode(self.status)
        if self.held is None:
            return b"taken"
        response: Deferred[bytes] = Deferred()
        self.held.append(response)
        return response

    def let_go(self) -> None:
        """Answer the callbacks that are held."""
        assert self.held is not None
        for response in self.held:
            response.callback(b"taken")
        self.agent.flush()


class SimulatorTestCase(SynchronousTestCase):
    """A simulator in memory; when the test ends, nothing may be left in it.

    Times in tests are sums of powers of two, so that they are exact.

    :cvar faults: its faults.
    :cvar latency: seconds each way.
    :cvar jitter: seconds by which a job's duration varies.
    :cvar holding: what holds an account's slot.
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
        self.workshop = Workshop(Random(1), lambda: 1435591735.5 + self.clock.seconds())
        self.simulator = Simulator(
            PlainClient(self.receiver.agent),
            self.clock,
            self.workshop,
            self.slots,
            random=Random(1),
            faults=read_faults(self.faults),
            jitter=self.jitter,
            latency=self.latency,
        )
        site = QuietSite(self.simulator.resource(), reactor=self.clock)
        self.factory = LatentFactory(site, self.clock, self.latency)
        self.browsers: list[Browser] = []

    def tearDown(self) -> None:
        super().tearDown()
        for browser in self.browsers:
            browser.leave()
        self.pass_time(3 * self.latency)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.simulator._queued, {})
        self.assertEqual(self.slots._accounts, {})
        self.assertEqual(self.factory.protocols, {})

    @property
    def stats(self) -> Stats:
        return self.simulator.stats

    @property
    def callbacks(self) -> list[Callback]:
        return self.receiver.callbacks

    def connect(self) -> Browser:
        browser = Browser(self.factory)
        self.browsers.append(browser)
        return browser

    def wait(self, account: str = "example") -> Browser:
        """Have a client start a job and wait for it."""
        return self.connect().start(account=account, wait=True)

    def start(self, name: str = "1", account: str = "example") -> Browser:
        """Have a client start a job that calls back."""
        url = f"http://proxy.example/callback/{name}"
        return self.connect().start(account=account, wait=False, callback=url)

    def pass_time(self, seconds: float) -> None:
        """Let time pass, from each call that is due to the next one."""
        end = self.clock.seconds() + seconds
        while due := [call.getTime() for call in self.clock.getDelayedCalls()]:
            if min(due) > end:
                break
            self.clock.advance(min(due) - self.clock.seconds())
        self.clock.advance(end - self.clock.seconds())

    def fail_callbacks(self, error: Exception) -> None:
        """Have every callback from now on fail."""
        self.simulator._treq = PlainClient(FailingAgent(error))

    def read_stats(self) -> dict[str, Any]:
        """Ask for the numbers, as they are served."""
        response = self.connect().request("/stats", method="GET").response
        self.assertEqual((response.status, response.headers["content-type"]), (200, JSON))
        numbers: dict[str, Any] = response.json
        return numbers

    def assert_result(self, result: Any, state: str = "completed") -> Job:
        """Check all of a job's result, and return the job."""
        self.assertEqual(list(result), list(RESULT))
        for name, pattern in RESULT.items():
            self.assertRegex(result[name], pattern)
        self.assertEqual(result["state"], state)
        job = Job(result["id"], result["startedAt"], result["proof"])
        self.assertTrue(self.workshop.is_genuine(job))
        return job

    def assert_ack(self, response: Answer) -> str:
        """Check an ack, and return its id."""
        self.assertEqual((response.status, response.headers["content-type"]), (200, JSON))
        self.assertEqual(list(response.json), ["state", "id"])
        self.assertEqual(response.json["state"], "running")
        self.assertRegex(response.json["id"], RESULT["id"])
        job_id: str = response.json["id"]
        return job_id

    def assert_stats(self, **numbers: Any) -> None:
        """Check the numbers, all of them; those that are not given are zero."""
        self.assertEqual(asdict(self.stats), asdict(Stats(**numbers)))


class WaitTests(SimulatorTestCase):
    """Jobs that are waited for."""

    def test_answers_at_the_end(self) -> None:
        """A job that is waited for is answered after half a second, with its result."""
        browser = self.wait()
        self.pass_time(0.4375)
        self.assertTrue(browser.is_held)
        self.pass_time(0.0625)
        self.assertEqual(browser.response.status, 200)
        self.assertEqual(browser.response.headers["content-type"], JSON)
        job = self.assert_result(browser.response.json)
        self.assertEqual(job.started_at, "2015-06-29T15:28:55.500Z")
        self.assertEqual(self.callbacks, [])
        self.assert_stats(started=1, completed=1, most_queued=1)

    def test_wait_goes_before_callback(self) -> None:
        """A job that is waited for calls nobody back."""
        browser = self.connect().start(
            account="a", wait=True, callback="http://proxy.example/callback/1"
        )
        self.pass_time(0.5)
        self.assert_result(browser.response.json)
        self.pass_time(60)
        self.assertEqual(self.callbacks, [])

    def test_one_after_another(self) -> None:
        """50 jobs of one account take 25 seconds, one after another in the order they came."""
        browsers = [self.wait() for _ in range(50)]
        for number in range(50):
            self.assertTrue(browsers[number].is_held)
            self.pass_time(0.5)
            self.assertEqual([b.is_held for b in browsers].index(False), 0)
            self.assertEqual(sum(not b.is_held for b in browsers), number + 1)
            self.assert_result(browsers[number].response.json)
        self.assertEqual(self.clock.seconds(), 25)
        self.assertEqual(len({b.response.json["id"] for b in browsers}), 50)
        self.assert_stats(started=50, completed=50, most_queued=50)

    def test_accounts_side_by_side(self) -> None:
        """50 jobs of 50 accounts take half a second."""
        browsers = [self.wait(f"account {number}") for number in range(50)]
        self.pass_time(0.5)
        for browser in browsers:
            self.assert_result(browser.response.json)
        self.assert_stats(started=50, completed=50, most_queued=1)

    def test_start_time_is_that_of_the_job(self) -> None:
        """A job's start time is when its turn came, not when it was asked for."""
        first, second = self.wait(), self.wait()
        self.pass_time(1)
        self.assertEqual(first.response.json["startedAt"], "2015-06-29T15:28:55.500Z")
        self.assertEqual(second.response.json["startedAt"], "2015-06-29T15:28:56.000Z")

    def test_leaves_while_queued(self) -> None:
        """A client that leaves while it is queued starts no job, and holds up nobody."""
        self.wait()
        self.wait().leave()
        third = self.wait()
        self.pass_time(1)
        self.assert_result(third.response.json)
        self.assert_stats(started=2, completed=2, most_queued=2)

    def test_leaves_while_served(self) -> None:
        """A client that leaves while its job runs gives the slot to the next one at once."""
        first, second = self.wait(), self.wait()
        self.pass_time(0.25)
        first.leave()
        self.pass_time(0.5)
        self.assert_result(second.response.json)
        self.assert_stats(started=2, completed=1, most_queued=2)

    def test_keeps_connections_alive(self) -> None:
        """A connection takes one job after another."""
        browser = self.connect()
        for number in range(3):
            browser.start(account="a", wait=True)
            self.pass_time(0.5)
            self.assertEqual(len(browser.responses), number + 1)
        self.assertTrue(browser.transport.connected)

    def test_idle_connection_holds_nothing(self) -> None:
        """An answered client that keeps its connection does not keep the account's slot."""
        first, second = self.wait(), self.wait()
        self.pass_time(1)
        self.assertTrue(first.transport.connected)
        self.assert_result(second.response.json)


class ConnectionHoldingTests(SimulatorTestCase):
    """A simulator on which a connection holds its account's slot until its end."""

    holding: Holding = "connection"

    def test_held_until_closed(self) -> None:
        """Another connection of the account is served once the first one is closed."""
        first, second = self.wait(), self.wait()
        self.pass_time(10)
        self.assert_result(first.response.json)
        self.assertTrue(second.is_held)
        first.start(account="example", wait=True)
        self.pass_time(0.5)
        self.assertEqual(len(first.responses), 2)
        first.leave()
        self.pass_time(0.5)
        self.assert_result(second.response.json)

    def test_connection_close(self) -> None:
        """A client that asks for its connection's close frees the slot with its answer."""
        first = self.connect()
        body = b'{"account":"example","wait":true}'
        first._protocol.dataReceived(
            b"POST /start HTTP/1.1\r\nHost: jobs.example\r\nConnection: close\r\n"
            b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
        )
        second = self.wait()
        self.pass_time(0.5)
        self.assert_result(first.response.json)
        self.assertFalse(first.transport.connected)
        self.assertTrue(second.is_held)
        self.pass_time(0.5)
        self.assert_result(second.response.json)


class JitterTests(SimulatorTestCase):
    """A simulator whose jobs do not all take the same time."""

    jitter = 0.25

    def test_varies(self) -> None:
        """Jobs take half a second, give or take the jitter."""
        for number in range(50):
            self.start(f"{number}", f"account {number}")
        self.pass_time(0.25)
        self.assertEqual(self.callbacks, [])
        self.pass_time(0.5)
        moments = [callback.moment for callback in self.callbacks]
        self.assertEqual(len(moments), 50)
        self.assertEqual(len(set(moments)), 50)
        self.assertLess(min(moments), 0.375)
        self.assertGreater(max(moments), 0.625)


class StartTests(SimulatorTestCase):
    """Jobs that call back."""

    def test_acks_and_calls_back(self) -> None:
        """A start is acked at once, and its result is called back half a second later."""
        browser = self.start()
        job_id = self.assert_ack(browser.response)
        self.pass_time(0.4375)
        self.assertEqual(self.callbacks, [])
        self.pass_time(0.0625)
        (callback,) = self.callbacks
        self.assertEqual(callback.name, "1")
        self.assertEqual(callback.request.getHeader("content-type"), JSON)
        self.assertEqual(callback.request.getHeader("content-length"), str(len(callback.raw)))
        self.assertEqual(self.assert_result(callback.json).job_id, job_id)
        self.assert_stats(
            started=1, completed=1, callbacks_sent=1, callbacks_accepted=1, most_queued=1
        )

    def test_slot_is_free_after_the_ack(self) -> None:
        """50 starts of one account are all acked at once, and all called back at once."""
        ids = {str(n): self.assert_ack(self.start(str(n)).response) for n in range(50)}
        self.pass_time(0.5)
        self.assertEqual({c.name: c.json["id"] for c in self.callbacks}, ids)
        self.assertEqual(len(set(ids.values())), 50)
        self.assert_stats(
            started=50, completed=50, callbacks_sent=50, callbacks_accepted=50, most_queued=1
        )

    def test_queues_behind_a_wait(self) -> None:
        """A start takes its turn between jobs of its account that are waited for."""
        first, browser, last = self.wait(), self.start(), self.wait()
        self.assertTrue(browser.is_held)
        self.pass_time(0.5)
        self.assert_result(first.response.json)
        self.assert_ack(browser.response)
        self.assertTrue(last.is_held)
        self.pass_time(0.5)
        self.assert_result(last.response.json)
        self.assertEqual([callback.moment for callback in self.callbacks], [1])

    def test_leaves_after_the_ack(self) -> None:
        """A client that leaves after its ack is called back all the same."""
        self.start().leave()
        self.pass_time(0.5)
        self.assertEqual(len(self.callbacks), 1)

    def test_https(self) -> None:
        """A callback URL may be one of HTTPS."""
        self.connect().start(account="a", callback="https://proxy.example/callback/1")
        self.pass_time(0.5)
        self.assertEqual(len(self.callbacks), 1)

    def test_repeated_callback_url(self) -> None:
        """A start with the callback URL of an earlier one is counted, and served."""
        for name in ("1", "2", "1", "1"):
            self.assert_ack(self.start(name).response)
        self.pass_time(0.5)
        self.assertEqual([callback.name for callback in self.callbacks], ["1", "2", "1", "1"])
        self.assertEqual(self.stats.repeated_callback_urls, 2)

    def test_tag(self) -> None:
        """A tag of a start, whatever it is, comes back with the result and not with the ack."""
        url = "http://proxy.example/callback/1"
        waiting = self.connect().start(account="a", wait=True, tag={"number": 1})
        self.assert_ack(self.connect().start(account="b", callback=url, tag="x").response)
        self.pass_time(0.5)
        self.assertEqual(list(waiting.response.json), [*RESULT, "tag"])
        self.assertEqual(waiting.response.json["tag"], {"number": 1})
        (callback,) = self.callbacks
        self.assertEqual(callback.json["tag"], "x")

    def test_last_behind_a_wait(self) -> None:
        """A start that is the last in its account's queue spoils nobody's answer."""
        first, second = self.wait(), self.start()
        self.pass_time(0.5)
        self.assert_result(first.response.json)
        self.assert_ack(second.response)
        self.pass_time(0.5)
        self.assertEqual(len(self.callbacks), 1)


class UndeliveredTests(SimulatorTestCase):
    """Callbacks that are not delivered."""

    def setUp(self) -> None:
        super().setUp()
        self.warnings: list[str] = []

        observe = cast(ILogObserver, lambda event: self.warnings.append(formatEvent(event)))
        globalLogPublisher.addObserver(observe)
        self.addCleanup(globalLogPublisher.removeObserver, observe)

    def test_lost_connection(self) -> None:
        """A callback that cannot be delivered is logged, and not counted as accepted."""
        self.fail_callbacks(ConnectionLost())
        self.assert_ack(self.start().response)
        self.pass_time(0.5)
        self.assertEqual(self.warnings, ["a callback was not delivered: ConnectionLost()"])
        self.assert_stats(started=1, completed=1, callbacks_sent=1, most_queued=1)

    def test_no_such_url(self) -> None:
        """A callback URL that is none at all is found out only when it is called."""
        for url in ("http://", "http://:x/", "https://[/", "http://a b/"):
            self.assert_ack(self.connect().start(account="a", callback=url).response)
        self.fail_callbacks(ConnectionLost())
        self.pass_time(0.5)
        self.assertEqual(len(self.warnings), 4)
        self.assert_stats(started=4, completed=4, callbacks_sent=4, most_queued=1)

    def test_refused_callback(self) -> None:
        """A callback with another answer than 200 is not accepted, which is no fault of ours."""
        for status in (404, 500, 204):
            self.receiver.status = status
            self.start(str(status))
            self.pass_time(0.5)
        self.assertEqual(self.warnings, [])
        self.assertEqual(len(self.callbacks), 3)
        self.assert_stats(
            started=3, completed=3, callbacks_sent=3, callbacks_accepted=0, most_queued=1
        )

    def test_no_answer(self) -> None:
        """A callback without an answer is given up after 30 seconds."""
        self.receiver.held = []
        self.start()
        self.pass_time(30.4375)
        self.assertEqual(len(self.callbacks), 1)
        self.assertEqual(self.warnings, [])
        self.pass_time(0.0625)
        (warning,) = self.warnings
        self.assertTrue(warning.startswith("a callback was not delivered: "))
        self.assert_stats(started=1, completed=1, callbacks_sent=1, most_queued=1)

    def test_late_answer(self) -> None:
        """A callback that is answered within 30 seconds is accepted."""
        self.receiver.held = []
        self.start()
        self.pass_time(30.25)
        self.assertEqual(self.stats.callbacks_accepted, 0)
        self.receiver.let_go()
        self.assertEqual(self.stats.callbacks_accepted, 1)
        self.assertEqual(self.warnings, [])


class BadRequestTests(SimulatorTestCase):
    """Requests that the job server does not take."""

    def check(self, body: bytes, error: str) -> None:
        response = self.connect().request("/start", body).response
        self.assertEqual((response.status, response.reason), (400, "Bad Request"))
        self.assertEqual(response.headers["content-type"], JSON)
        self.assertEqual(response.json, {"error": error})
        self.assert_stats()

    def test_not_json(self) -> None:
        """A body that is not JSON is a bad request."""
        for body in (b"", b"account=a", b'{"account":', b"\xff\xfe", b"[" * 100_000):
            self.check(body, "the body is not JSON")

    def test_not_an_object(self) -> None:
        """JSON that is not an object is a bad request."""
        for body in (b"[]", b"null", b'"a"', b"7", b"NaN"):
            self.check(body, "the body is not a JSON object")

    def test_no_account(self) -> None:
        """A start without an account that is a string is a bad request, even if it waits."""
        for account in (b"", b'"account":null,', b'"account":7,', b'"account":"",'):
            self.check(b'{%s"wait":true}' % account, "account must be a string")

    def test_no_callback(self) -> None:
        """A start that does not wait needs a callback URL."""
        for rest in (
            b"",
            b',"wait":false',
            b',"wait":1',
            b',"wait":"true"',
            b',"wait":null,"callback":null',
            b',"callback":7',
            b',"callback":""',
            b',"callback":"proxy.example"',
            b',"callback":"ftp://proxy.example/"',
            b',"callback":["http://proxy.example/"]',
        ):
            self.check(b'{"account":"a"%s}' % rest, "without wait: true, callback must be a URL")

    def test_connection_goes_on(self) -> None:
        """After a bad request the connection takes the next one."""
        browser = self.connect().request("/start", b"{}").start(account="a", wait=True)
        self.pass_time(0.5)
        self.assertEqual([response.status for response in browser.responses], [400, 200])

    def test_elsewhere(self) -> None:
        """Other paths and methods are not served."""
        for method, path, status in (
            ("GET", "/start", 405),
            ("POST", "/stats", 405),
            ("GET", "/verify", 405),
            ("POST", "/", 404),
            ("GET", "/elsewhere", 404),
        ):
            response = self.connect().request(path, method=method).response
            self.assertEqual(response.status, status)


class StatsTests(SimulatorTestCase):
    """What ``/stats`` says."""

    faults = "drop=0,failed=0"

    def test_nothing_yet(self) -> None:
        """A new simulator has all numbers, and all are zero."""
        self.assertEqual(
            self.read_stats(),
            {
                "started": 0,
                "completed": 0,
                "failed": 0,
                "callbacks_sent": 0,
                "callbacks_accepted": 0,
                "repeated_callback_urls": 0,
                "most_queued": 0,
                "faults": {},
            },
        )

    def test_counts(self) -> None:
        """Jobs are counted when they start and when they end, callbacks when they are sent."""
        for number in range(3):
            self.wait()
            self.start(str(number), "b")
        self.wait("c").request("/elsewhere")
        self.connect().request("/start", b"{}")
        self.assertEqual(self.read_stats(), {**asdict(Stats()), "started": 5, "most_queued": 3})
        self.receiver.status = 500
        self.start("1", "b")
        self.pass_time(0.5)
        self.assertEqual(
            self.read_stats(),
            {
                **asdict(Stats()),
                "started": 7,
                "completed": 6,
                "callbacks_sent": 4,
                "callbacks_accepted": 0,
                "repeated_callback_urls": 1,
                "most_queued": 3,
            },
        )
        self.pass_time(1)
        self.assertEqual(self.read_stats()["completed"], 8)
        self.assertEqual(self.read_stats()["most_queued"], 3)


class VerifyTests(SimulatorTestCase):
    """What ``/verify`` says of proofs."""

    def run_jobs(self, count: int) -> list[Job]:
        browsers = [self.wait(f"account {number}") for number in range(count)]
        self.pass_time(0.5)
        return [self.assert_result(browser.response.json) for browser in browsers]

    def verify(self, body: str) -> Answer:
        return self.connect().request("/verify", body.encode()).response

    def check(self, proof: str, jobs: int, genuine: int) -> None:
        response = self.verify(proof)
        self.assertEqual((response.status, response.headers["content-type"]), (200, JSON))
        self.assertEqual(response.json, {"jobs": jobs, "genuine": genuine})

    def test_genuine(self) -> None:
        """Every job that was run here is genuine, and none counts twice."""
        jobs = self.run_jobs(3)
        self.check(pack_proof(jobs), 3, 3)
        self.check(pack_proof(jobs), 3, 3)
        self.check(pack_proof(jobs * 2 + jobs[:1]), 7, 3)
        self.check(pack_proof([]), 0, 0)

    def test_changed(self) -> None:
        """A job that was changed in any part, or comes from elsewhere, is not genuine."""
        first, second, third = self.run_jobs(3)
        elsewhere = Workshop(Random(2)).start()
        jobs = [
            first,
            evolve(first, job_id=third.job_id),
            evolve(second, proof=third.proof),
            evolve(second, started_at="2015-06-29T15:28:55.501Z"),
            elsewhere,
        ]
        self.check(pack_proof(jobs), 5, 1)

    def test_space(self) -> None:
        """A proof may end with a line break."""
        self.check(pack_proof(self.run_jobs(1)) + "\n", 1, 1)

    def test_bad(self) -> None:
        """What is no proof is a bad request."""
        for body, error in (("", "not "), ("!", "not base64: "), ("é", "not "), ("W10=", "not gz")):
            response = self.verify(body)
            self.assertEqual(response.status, 400)
            self.assertEqual(list(response.json), ["error"])
            self.assertRegex(response.json["error"], rf"\A{error}")


class LatencyTests(SimulatorTestCase):
    """A simulator at the other end of a network."""

    latency = 0.125

    def test_ack(self) -> None:
        """An ack comes after four latencies on a new connection, and two on a made one."""
        browser = self.start()
        self.pass_time(0.46875)
        self.assertTrue(browser.is_held)
        self.pass_time(0.03125)
        self.assert_ack(browser.response)
        browser.start(account="example", callback="http://proxy.example/callback/2")
        self.pass_time(0.21875)
        self.assertEqual(len(browser.responses), 1)
        self.pass_time(0.03125)
        self.assertEqual(len(browser.responses), 2)
        self.pass_time(1)

    def test_wait(self) -> None:
        """A result comes after the job's duration and four latencies on a new connection."""
        browser = self.wait()
        self.pass_time(0.96875)
        self.assertTrue(browser.is_held)
        self.pass_time(0.03125)
        self.assert_result(browser.response.json)

    def test_callback(self) -> None:
        """A callback comes three latencies after its job's end."""
        self.start()
        self.pass_time(3 * 0.125)
        self.assertEqual(self.stats.started, 1)
        self.pass_time(0.5)
        self.assert_stats(started=1, completed=1, most_queued=1)
        self.pass_time(3 * 0.125)
        self.assertEqual([callback.moment for callback in self.callbacks], [0.5 + 6 * 0.125])

    def test_one_after_another(self) -> None:
        """An account's slot is free when its answer sets out, not when that comes."""
        browsers = [self.wait() for _ in range(3)]
        for number in range(3):
            self.pass_time(0.5 if number else 1)
            self.assertEqual([b.is_held for b in browsers].count(False), number + 1)

    def test_leaves(self) -> None:
        """A client's leaving is known one latency later, and frees the slot then."""
        first, second = self.wait(), self.wait()
        self.pass_time(3 * 0.125)
        self.assertEqual(self.stats.started, 1)
        first.leave()
        self.pass_time(0.0625)
        self.assertEqual(self.stats.started, 1)
        self.pass_time(0.0625)
        self.assertEqual(self.stats.started, 2)
        self.pass_time(0.5 + 0.125)
        self.assert_result(second.response.json)


class DropTests(SimulatorTestCase):
    """The fault drop."""

    faults = "drop=1"

    def test_drop(self) -> None:
        """A job is acked and ends, but nobody is called back."""
        self.assert_ack(self.start().response)
        self.pass_time(120)
        self.assertEqual(self.callbacks, [])
        self.assert_stats(started=1, completed=1, most_queued=1, faults={"drop": 1})


class DuplicateTests(SimulatorTestCase):
    """The fault duplicate."""

    faults = "duplicate=1"

    def test_duplicate(self) -> None:
        """The same callback comes twice."""
        self.start()
        self.pass_time(0.5)
        first, second = self.callbacks
        self.assertEqual((first.name, first.raw), (second.name, second.raw))
        self.assert_result(first.json)
        self.assert_stats(
            started=1,
            completed=1,
            callbacks_sent=2,
            callbacks_accepted=2,
            most_queued=1,
            faults={"duplicate": 1},
        )

    def test_first_is_not_delivered(self) -> None:
        """The second callback is sent even if the first one was not delivered."""
        self.start()
        self.fail_callbacks(ConnectionLost())
        self.pass_time(0.5)
        self.assertEqual((self.stats.callbacks_sent, self.stats.callbacks_accepted), (2, 0))


class EarlyTests(SimulatorTestCase):
    """The fault early."""

    faults = "early=1"

    def test_early(self) -> None:
        """The callback comes at once, and there is no ack until it has been answered."""
        self.receiver.held = []
        browser = self.start()
        (callback,) = self.callbacks
        job = self.assert_result(callback.json)
        self.assertTrue(browser.is_held)
        self.pass_time(5)
        self.assertTrue(browser.is_held)
        self.receiver.let_go()
        self.assertEqual(self.assert_ack(browser.response), job.job_id)
        self.pass_time(60)
        self.assertEqual(len(self.callbacks), 1)
        self.assert_stats(
            started=1,
            completed=1,
            callbacks_sent=1,
            callbacks_accepted=1,
            most_queued=1,
            faults={"early": 1},
        )

    def test_not_delivered(self) -> None:
        """The ack comes even if the callback was not delivered."""
        self.fail_callbacks(ConnectionLost())
        self.assert_ack(self.start().response)
        self.assertEqual((self.stats.callbacks_sent, self.stats.callbacks_accepted), (1, 0))


class EarlyLatencyTests(SimulatorTestCase):
    """The fault early, through a network."""

    faults = "early=1"
    latency = 0.125

    def test_early(self) -> None:
        """The callback comes three latencies after its start, and the ack one after that."""
        browser = self.start()
        self.pass_time(6 * 0.125)
        self.assertEqual([callback.moment for callback in self.callbacks], [6 * 0.125])
        self.assertTrue(browser.is_held)
        self.pass_time(0.125)
        self.assert_ack(browser.response)


class LateTests(SimulatorTestCase):
    """The fault late."""

    faults = "late=1"

    def test_late(self) -> None:
        """The callback comes 35 seconds after the job's end."""
        self.assert_ack(self.start().response)
        self.pass_time(0.5)
        self.assertEqual(self.stats.completed, 1)
        self.pass_time(34.5)
        self.assertEqual(self.callbacks, [])
        self.pass_time(0.5)
        self.assertEqual([callback.moment for callback in self.callbacks], [35.5])
        self.assertEqual(self.stats.faults, {"late": 1})


class ShortLateTests(SimulatorTestCase):
    """The fault late, with a time of its own."""

    faults = "late=1:2"

    def test_late(self) -> None:
        """The callback comes as many seconds after the job's end as was said."""
        self.start()
        self.pass_time(10)
        self.assertEqual([callback.moment for callback in self.callbacks], [2.5])


class ResetTests(SimulatorTestCase):
    """The fault reset."""

    faults = "reset=1"

    def test_reset(self) -> None:
        """The connection is reset instead of an ack, and the job runs and calls back."""
        browser = self.start()
        self.assertTrue(browser.transport.disconnected)
        self.assertFalse(browser.transport.connected)
        self.assertEqual(browser.transport.value(), b"")
        self.pass_time(0.5)
        (callback,) = self.callbacks
        self.assert_result(callback.json)
        self.assert_stats(
            started=1,
            completed=1,
            callbacks_sent=1,
            callbacks_accepted=1,
            most_queued=1,
            faults={"reset": 1},
        )

    def test_slot_is_free(self) -> None:
        """The account's next job is served."""
        self.start()
        browser = self.wait()
        self.pass_time(0.5)
        self.assert_result(browser.response.json)


class ResetLatencyTests(SimulatorTestCase):
    """The fault reset, through a network."""

    faults = "reset=1"
    latency = 0.125

    def test_reset(self) -> None:
        """The reset comes when the ack would have come."""
        browser = self.start()
        self.pass_time(3.75 * 0.125)
        self.assertTrue(browser.is_held)
        self.pass_time(0.25 * 0.125)
        self.assertTrue(browser.transport.disconnected)
        self.pass_time(2)
        self.assertEqual([callback.moment for callback in self.callbacks], [0.5 + 6 * 0.125])


class BusyTests(SimulatorTestCase):
    """The fault busy."""

    faults = "busy=1"

    def test_busy(self) -> None:
        """Neither a start nor a wait runs a job; the answer is a 503 that says when to retry."""
        for browser in (self.start(), self.wait()):
            self.assertEqual(browser.response.status, 503)
            self.assertEqual(browser.response.headers["retry-after"], "1")
            self.assertEqual(browser.response.headers["content-type"], JSON)
            self.assertEqual(browser.response.json, {"error": "busy"})
        self.pass_time(60)
        self.assertEqual(self.callbacks, [])
        self.assert_stats(most_queued=1, faults={"busy": 2})

    def test_again(self) -> None:
        """A start that comes again after it was not read does not count as repeated."""
        for _ in range(2):
            self.start()
        self.assertEqual(self.stats.repeated_callback_urls, 0)


class ShortBusyTests(SimulatorTestCase):
    """The fault busy, with a time of its own."""

    faults = "busy=1:0"

    def test_busy(self) -> None:
        """The answer says that a retry may come at once."""
        self.assertEqual(self.start().response.headers["retry-after"], "0")


class LongBusyTests(SimulatorTestCase):
    """The fault busy, with a time that the header cannot tell."""

    faults = "busy=1:1.5"

    def test_busy(self) -> None:
        """The answer says the next whole number of seconds."""
        self.assertEqual(self.start().response.headers["retry-after"], "2")


class RefusedTests(SimulatorTestCase):
    """The fault refused."""

    faults = "refused=1:0.25"

    def start_on(self, port: FakePort, name: str) -> Browser:
        browser = self.connect()
        cast(Any, browser.transport).server = port
        url = f"http://proxy.example/callback/{name}"
        return browser.start(account="a", callback=url)

    def test_refused(self) -> None:
        """Nobody listens for as long as was said; who is connected by then is served."""
        port = FakePort()
        self.assert_ack(self.start_on(port, "1").response)
        self.assertEqual(port.log, ["accept", "stop", "close"])
        self.pass_time(0.1875)
        self.assertFalse(port.connected)
        self.pass_time(0.0625)
        self.assertEqual(port.log, ["accept", "stop", "close", "open"])
        self.pass_time(0.25)
        (callback,) = self.callbacks
        self.assert_result(callback.json)
        self.assertEqual(self.stats.faults, {"refused": 1})

    def test_while_closed(self) -> None:
        """A start on a connection that is kept is served, and the port opens in time."""
        port = FakePort()
        self.start_on(port, "1")
        self.pass_time(0.125)
        self.assert_ack(self.start_on(port, "2").response)
        self.pass_time(0.125)
        self.assertEqual(port.log, ["accept", "stop", "close", "open"])
        self.pass_time(0.5)
        self.assertEqual([callback.name for callback in self.callbacks], ["1", "2"])
        self.assertTrue(port.connected)


class ErrorTests(SimulatorTestCase):
    """The fault error."""

    faults = "error=1"

    def test_error(self) -> None:
        """Neither a start nor a wait runs a job; the answer is a 500."""
        for browser in (self.start(), self.wait()):
            self.assertEqual(browser.response.status, 500)
            self.assertNotIn("retry-after", browser.response.headers)
            self.assertEqual(browser.response.json, {"error": "something went wrong"})
        self.pass_time(60)
        self.assertEqual(self.callbacks, [])
        self.assert_stats(most_queued=1, faults={"error": 2})

    def test_again(self) -> None:
        """A start that comes again after it was read counts as repeated, though none was run."""
        for _ in range(2):
            self.start()
        self.assert_stats(most_queued=1, repeated_callback_urls=1, faults={"error": 2})


class GarbageTests(SimulatorTestCase):
    """The fault garbage."""

    faults = "garbage=1"

    def test_garbage(self) -> None:
        """The ack says that it is JSON and is not, and the job runs and calls back."""
        browser = self.start()
        self.assertEqual(browser.response.status, 200)
        self.assertEqual(browser.response.headers["content-type"], JSON)
        with self.assertRaises(ValueError):
            browser.response.json  # noqa: B018
        self.pass_time(0.5)
        (callback,) = self.callbacks
        self.assert_result(callback.json)
        self.assertEqual(self.stats.faults, {"garbage": 1})


class SlowTests(SimulatorTestCase):
    """The fault slow."""

    faults = "slow=1"

    def test_slow(self) -> None:
        """The ack is held back for 12 seconds; the job runs and calls back meanwhile."""
        browser = self.start()
        self.pass_time(0.5)
        (callback,) = self.callbacks
        self.pass_time(11)
        self.assertTrue(browser.is_held)
        self.pass_time(0.5)
        self.assertEqual(self.assert_ack(browser.response), callback.json["id"])
        self.assertEqual(self.stats.faults, {"slow": 1})

    def test_holds_the_slot(self) -> None:
        """An ack that is held back holds its account's slot."""
        self.start("1")
        self.start("2")
        self.start("3", "other")
        self.pass_time(24)
        self.assertEqual([c.name for c in self.callbacks], ["1", "3", "2"])
        self.assertEqual([c.moment for c in self.callbacks], [0.5, 0.5, 12.5])

    def test_client_leaves(self) -> None:
        """A client that does not wait for the ack frees the slot, and its job calls back."""
        browser = self.start("1")
        self.start("2", "example")
        self.pass_time(0.25)
        browser.leave()
        self.pass_time(12)
        self.assertEqual([c.name for c in self.callbacks], ["1", "2"])
        self.assertEqual([c.moment for c in self.callbacks], [0.5, 0.75])


class FailedTests(SimulatorTestCase):
    """The fault failed."""

    faults = "failed=1"

    def test_failed(self) -> None:
        """Jobs end with state failed, whether they are waited for or call back."""
        self.start()
        browser = self.wait()
        self.pass_time(0.5)
        (callback,) = self.callbacks
        self.assert_result(callback.json, "failed")
        self.assert_result(browser.response.json, "failed")
        self.assert_stats(
            started=2,
            failed=2,
            callbacks_sent=1,
            callbacks_accepted=1,
            most_queued=1,
            faults={"failed": 2},
        )


class SomeFaultsTests(SimulatorTestCase):
    """Faults of some of the jobs."""

    faults = "failed=0.5,drop=0.25"

    def test_rates(self) -> None:
        """Each job has faults of its own, and what is counted is what happened."""
        for number in range(200):
            self.start(str(number))
        self.pass_time(0.5)
        stats = self.read_stats()
        self.assertEqual(stats["failed"], stats["faults"]["failed"])
        self.assertEqual(stats["completed"] + stats["failed"], 200)
        self.assertEqual(stats["callbacks_sent"], 200 - stats["faults"]["drop"])
        self.assertEqual(len(self.callbacks), stats["callbacks_accepted"])
        self.assertTrue(70 < stats["faults"]["failed"] < 130)
        self.assertTrue(30 < stats["faults"]["drop"] < 70)


class CombinedFaultsTests(SimulatorTestCase):
    """Faults that come together."""

    faults = "early=1,reset=1,failed=1"

    def test_together(self) -> None:
        """A failed job may be called back early, and its ack be a reset."""
        browser = self.start()
        (callback,) = self.callbacks
        self.assert_result(callback.json, "failed")
        self.assertTrue(browser.transport.disconnected)
        self.assertEqual(browser.transport.value(), b"")
        self.assertEqual(self.stats.faults, {"early": 1, "reset": 1, "failed": 1})

    def test_leaves_before_the_reset(self) -> None:
        """A client that leaves before its connection would be reset does no harm."""
        self.receiver.held = []
        browser = self.start()
        browser.leave()
        self.assertEqual(self.stats.callbacks_accepted, 0)


class MishapsTests(SimulatorTestCase):
    """What ``/mishaps`` says."""

    faults = "garbage=1,duplicate=0.5"

    def read_mishaps(self) -> list[dict[str, Any]]:
        response = self.connect().request("/mishaps", method="GET").response
        self.assertEqual((response.status, response.headers["content-type"]), (200, JSON))
        mishaps: list[dict[str, Any]] = response.json
        return mishaps

    def test_what_became_of_them(self) -> None:
        """Each start with faults is there, with when its callback was sent and its answer."""
        self.assertEqual(self.read_mishaps(), [])
        url = "http://proxy.example/callback/1"
        self.connect().start(account="a", callback=url, tag=7)
        self.assertEqual(
            self.read_mishaps(),
            [{"callback": url, "tag": 7, "faults": ["garbage"], "delivered": []}],
        )
        self.connect().start(account="a", wait=True)
        self.pass_time(0.5)
        first, second = self.read_mishaps()
        self.assertEqual(first["delivered"], [[0.5, 200, "taken"]])
        self.assertEqual((second["callback"], second["tag"]), (None, None))

    def test_every_callback(self) -> None:
        """Of a callback that is sent twice both answers are there, also those that refuse it."""
        self.receiver.status = 409
        for number in range(20):
            self.start(str(number))
        self.pass_time(0.5)
        for start in self.read_mishaps():
            count = 2 if "duplicate" in start["faults"] else 1
            self.assertEqual(start["delivered"], [[0.5, 409, "taken"]] * count)
        self.assertEqual({len(start["faults"]) for start in self.read_mishaps()}, {1, 2})

    def test_when(self) -> None:
        """It is told when a callback was sent, not when it was answered."""
        self.receiver.held = []
        self.start()
        self.pass_time(2)
        self.receiver.let_go()
        self.assertEqual(self.read_mishaps()[0]["delivered"][0], [0.5, 200, "taken"])

    def test_not_delivered(self) -> None:
        """A callback that nobody answers leaves nothing behind."""
        self.fail_callbacks(ConnectionLost())
        self.start()
        self.pass_time(0.5)
        self.assertEqual([start["delivered"] for start in self.read_mishaps()], [[]])


class NoMishapsTests(SimulatorTestCase):
    """What ``/mishaps`` says when nothing goes wrong."""

    def test_none(self) -> None:
        """Starts without a fault are not told of."""
        self.start()
        self.pass_time(0.5)
        response = self.connect().request("/mishaps", method="GET").response
        self.assertEqual(response.json, [])
