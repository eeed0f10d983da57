"""The simulator: undelivered callbacks, bad requests, and its other routes."""

from random import Random
from typing import Any, cast

from attrs import asdict, evolve
from twisted.internet.error import ConnectionLost
from twisted.logger import ILogObserver, formatEvent, globalLogPublisher

from jobproxy.sandbox.jobs import Job, JobFactory
from jobproxy.sandbox.proofs import pack_proof
from jobproxy.sandbox.server import Stats
from tests.support.clients import JSON, Response
from tests.support.simulator import SimulatorTestCase


class UndeliveredTests(SimulatorTestCase):
    """Callbacks that are not delivered."""

    def setUp(self) -> None:
        super().setUp()
        self.warnings: list[str] = []

        observe = cast(ILogObserver, lambda event: self.warnings.append(formatEvent(event)))
        globalLogPublisher.addObserver(observe)
        self.addCleanup(globalLogPublisher.removeObserver, observe)

    def test_undelivered_callback_is_logged(self) -> None:
        """A callback that cannot be delivered is logged, and does not count as accepted."""
        self.fail_callbacks(ConnectionLost())
        self.assert_ack(self.start().response)
        self.pass_time(0.5)
        self.assertEqual(self.warnings, ["a callback was not delivered: ConnectionLost()"])
        self.assert_stats(started=1, completed=1, callbacks_sent=1, most_queued=1)

    def test_invalid_callback_url_fails_at_the_callback(self) -> None:
        """An invalid callback URL fails only when the callback is sent."""
        for url in ("http://", "http://:x/", "https://[/", "http://a b/"):
            self.assert_ack(self.connect().start(account="a", callback=url).response)
        self.fail_callbacks(ConnectionLost())
        self.pass_time(0.5)
        self.assertEqual(len(self.warnings), 4)
        self.assert_stats(started=4, completed=4, callbacks_sent=4, most_queued=1)

    def test_refused_callback_is_not_logged(self) -> None:
        """A callback with another status than 200 is not accepted, and not logged."""
        for status in (404, 500, 204):
            self.receiver.status = status
            self.start(str(status))
            self.pass_time(0.5)
        self.assertEqual(self.warnings, [])
        self.assertEqual(len(self.callbacks), 3)
        self.assert_stats(
            started=3, completed=3, callbacks_sent=3, callbacks_accepted=0, most_queued=1
        )

    def test_callback_times_out_after_30_seconds(self) -> None:
        """A callback without a response times out after 30 seconds."""
        self.receiver.held = []
        self.start()
        self.pass_time(30.4375)
        self.assertEqual(len(self.callbacks), 1)
        self.assertEqual(self.warnings, [])
        self.pass_time(0.0625)
        (warning,) = self.warnings
        self.assertTrue(warning.startswith("a callback was not delivered: "))
        self.assert_stats(started=1, completed=1, callbacks_sent=1, most_queued=1)

    def test_response_within_30_seconds_is_accepted(self) -> None:
        """A callback whose response comes within 30 seconds is accepted."""
        self.receiver.held = []
        self.start()
        self.pass_time(30.25)
        self.assertEqual(self.stats.callbacks_accepted, 0)
        self.receiver.respond()
        self.assertEqual(self.stats.callbacks_accepted, 1)
        self.assertEqual(self.warnings, [])


class BadRequestTests(SimulatorTestCase):
    """Invalid requests."""

    def check(self, body: bytes, error: str) -> None:
        response = self.connect().request("/start", body).response
        self.assertEqual((response.status, response.reason), (400, "Bad Request"))
        self.assertEqual(response.headers["content-type"], JSON)
        self.assertEqual(response.json, {"error": error})
        self.assert_stats()

    def test_invalid_json_is_refused(self) -> None:
        """A body that is not JSON is refused."""
        for body in (b"", b"account=a", b'{"account":', b"\xff\xfe", b"[" * 100_000):
            self.check(body, "the body is not JSON")

    def test_json_must_be_an_object(self) -> None:
        """JSON that is not an object is refused."""
        for body in (b"[]", b"null", b'"a"', b"7", b"NaN"):
            self.check(body, "the body is not a JSON object")

    def test_account_must_be_a_string(self) -> None:
        """A start request whose account is not a string is refused, even if it waits."""
        for account in (b"", b'"account":null,', b'"account":7,', b'"account":"",'):
            self.check(b'{%s"wait":true}' % account, "account must be a string")

    def test_start_needs_a_callback_url(self) -> None:
        """A start request that does not wait needs a callback URL."""
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

    def test_connection_is_kept_after_a_bad_request(self) -> None:
        """After a bad request the connection can be used for the next one."""
        client = self.connect().request("/start", b"{}").start(account="a", wait=True)
        self.pass_time(0.5)
        self.assertEqual([response.status for response in client.responses], [400, 200])

    def test_other_paths_and_methods_are_refused(self) -> None:
        """Other paths and methods are refused."""
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
    """The route ``/stats``."""

    faults = "drop=0,failed=0"

    def test_new_simulator_counts_zero(self) -> None:
        """A new simulator has all counts, and all are zero."""
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

    def test_jobs_and_callbacks_are_counted(self) -> None:
        """Jobs are counted when they start and end, callbacks when they are sent."""
        for number in range(3):
            self.wait()
            self.start(str(number), "b")
        self.wait("c").request("/elsewhere", b"")
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
    """The route ``/verify``."""

    def run_jobs(self, count: int) -> list[Job]:
        clients = [self.wait(f"account {number}") for number in range(count)]
        self.pass_time(0.5)
        return [self.assert_result(client.response.json) for client in clients]

    def verify(self, body: str) -> Response:
        return self.connect().request("/verify", body.encode()).response

    def check(self, proof: str, jobs: int, genuine: int) -> None:
        response = self.verify(proof)
        self.assertEqual((response.status, response.headers["content-type"]), (200, JSON))
        self.assertEqual(response.json, {"jobs": jobs, "genuine": genuine})

    def test_own_jobs_are_genuine_and_counted_once(self) -> None:
        """Every job of this simulator is genuine, and none is counted twice."""
        jobs = self.run_jobs(3)
        self.check(pack_proof(jobs), 3, 3)
        self.check(pack_proof(jobs), 3, 3)
        self.check(pack_proof(jobs * 2 + jobs[:1]), 7, 3)
        self.check(pack_proof([]), 0, 0)

    def test_changed_jobs_are_not_genuine(self) -> None:
        """A job that was changed in any part, or comes from elsewhere, is not genuine."""
        first, second, third = self.run_jobs(3)
        elsewhere = JobFactory(Random(2)).make_job()
        jobs = [
            first,
            evolve(first, job_id=third.job_id),
            evolve(second, proof=third.proof),
            evolve(second, started_at="2015-06-29T15:28:55.501Z"),
            elsewhere,
        ]
        self.check(pack_proof(jobs), 5, 1)

    def test_proof_may_end_with_a_line_break(self) -> None:
        """A proof may end with a line break."""
        self.check(pack_proof(self.run_jobs(1)) + "\n", 1, 1)

    def test_invalid_proof_is_refused(self) -> None:
        """An invalid proof is refused."""
        for body, error in (("", "not "), ("!", "not base64: "), ("é", "not "), ("W10=", "not gz")):
            response = self.verify(body)
            self.assertEqual(response.status, 400)
            self.assertEqual(list(response.json), ["error"])
            self.assertRegex(response.json["error"], rf"\A{error}")


class FaultyStartsTests(SimulatorTestCase):
    """The route ``/faulty-starts``."""

    faults = "garbage=1,duplicate=0.5"

    def read_faulty_starts(self) -> list[dict[str, Any]]:
        response = self.connect().get("/faulty-starts").response
        self.assertEqual((response.status, response.headers["content-type"]), (200, JSON))
        starts: list[dict[str, Any]] = response.json
        return starts

    def test_start_with_faults_is_listed_with_its_callbacks(self) -> None:
        """Each start request with faults is listed, with its callback's time and response."""
        self.assertEqual(self.read_faulty_starts(), [])
        url = "http://proxy.example/callback/1"
        self.connect().start(account="a", callback=url, tag=7)
        self.assertEqual(
            self.read_faulty_starts(),
            [{"callback": url, "tag": 7, "faults": ["garbage"], "delivered": []}],
        )
        self.connect().start(account="a", wait=True)
        self.pass_time(0.5)
        first, second = self.read_faulty_starts()
        self.assertEqual(first["delivered"], [[0.5, 200, "received"]])
        self.assertEqual((second["callback"], second["tag"]), (None, None))

    def test_each_callback_is_listed(self) -> None:
        """Of a callback that is sent twice both responses are listed, also refusals."""
        self.receiver.status = 409
        for number in range(20):
            self.start(str(number))
        self.pass_time(0.5)
        for start in self.read_faulty_starts():
            count = 2 if "duplicate" in start["faults"] else 1
            self.assertEqual(start["delivered"], [[0.5, 409, "received"]] * count)
        self.assertEqual({len(start["faults"]) for start in self.read_faulty_starts()}, {1, 2})

    def test_time_is_when_the_callback_was_sent(self) -> None:
        """The time is when a callback was sent, not when it got its response."""
        self.receiver.held = []
        self.start()
        self.pass_time(2)
        self.receiver.respond()
        self.assertEqual(self.read_faulty_starts()[0]["delivered"][0], [0.5, 200, "received"])

    def test_undelivered_callback_is_not_listed(self) -> None:
        """A callback without a response is not listed."""
        self.fail_callbacks(ConnectionLost())
        self.start()
        self.pass_time(0.5)
        self.assertEqual([start["delivered"] for start in self.read_faulty_starts()], [[]])


class NoFaultyStartsTests(SimulatorTestCase):
    """The route ``/faulty-starts`` without faults."""

    def test_start_without_faults_is_not_listed(self) -> None:
        """A start request without faults is not listed."""
        self.start()
        self.pass_time(0.5)
        response = self.connect().get("/faulty-starts").response
        self.assertEqual(response.json, [])
