"""Callbacks that come early, twice, late or changed, through the whole proxy in memory."""

import hmac
import string
from collections.abc import Callable, Sequence

from twisted.logger import LogEvent, capturedLogs, formatEvent

from jobproxy.wire.tokens import TokenSigner
from tests.support.job_server import Start
from tests.support.proxy import Answer, Client, ProxyTestCase, result_of

RETAIN = 300
LIFETIME = 86_400


class CallbackTestCase(ProxyTestCase):
    """What all tests of callbacks need."""

    def run_job(self, upstream_id: str = "1") -> tuple[Client, Start]:
        """Have a client held for a job that runs."""
        client = self.submit()
        start = self.starts[-1]
        start.ack(upstream_id)
        return client, start

    def check_receipt(self, response: Answer, status: str) -> None:
        """Check what the job server is told of a callback that was taken."""
        self.assertEqual((response.status, response.json), (200, {"status": status}))

    def result(self, start: Start) -> Answer:
        """Ask for the result of a job, as a client may who was not there when it came."""
        job_id = start.callback_path.removeprefix("/callback/").split(".")[0]
        return self.connect().get(f"/jobs/{job_id}").response

    def orphans(self) -> list[str]:
        """Return the ids of the orphans."""
        response = self.operate().get("/orphans").response
        return [orphan["id"] for orphan in response.json["orphans"]]


class EarlyTests(CallbackTestCase):
    """Callbacks that overtake the ack."""

    def test_whatever_the_start_comes_to(self) -> None:
        """B1: after an early callback the ack is read and dropped, and the lane has its place."""
        ends: list[Callable[[Start], None]] = [
            lambda start: start.ack("1"),
            lambda start: start.ack("another id"),
            lambda start: start.respond(result_of("1", "failed")),
            lambda start: start.respond(b"garbage"),
            lambda start: start.respond(b"", 422),
            lambda start: start.respond(b"", 500),
            lambda start: start.respond(b"", 503),
            lambda _: self.clock.advance(10),
        ]
        for end in ends:
            client = self.submit()
            start = self.starts[-1]
            self.check_receipt(self.call_back(start, result_of("1")), "accepted")
            self.assertEqual(len(self.limiter), 1)
            end(start)
            self.assertEqual(len(self.limiter), 0)
            self.assertEqual(client.response.body, result_of("1"))
            self.assertEqual(self.result(start).body, result_of("1"))
        self.assertEqual(len(self.starts), len(ends))

    def test_progress_before_the_ack(self) -> None:
        """B1, B10: an early callback that is no end changes nothing."""
        client = self.submit()
        (start,) = self.starts
        self.check_receipt(self.call_back(start, result_of("1", "running")), "progress")
        self.assertTrue(client.is_held)
        start.ack("1")
        self.call_back(start, result_of("1"))
        self.assertEqual(client.response.body, result_of("1"))


class SecondTests(CallbackTestCase):
    """Callbacks of a job that has its result."""

    def test_in_one_packet(self) -> None:
        """B2: of two callbacks in one packet the first is taken and the second is a duplicate."""
        client, start = self.run_job()
        body = result_of("1")
        head = f"POST {start.callback_path} HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}"
        sender = self.connect()
        sender.send(2 * (head.encode() + b"\r\n\r\n" + body))
        statuses = [response.json["status"] for response in sender.responses]
        self.assertEqual(statuses, ["accepted", "duplicate"])
        self.assertEqual(client.response.body, body)

    def test_is_remembered(self) -> None:
        """B2: for as long as results are retained a second callback changes nothing."""
        client, start = self.run_job()
        self.call_back(start, result_of("1"))
        self.clock.advance(RETAIN - 1)
        self.check_receipt(self.call_back(start, result_of("1")), "duplicate")
        other = self.call_back(start, result_of("1", "failed"))
        self.assert_problem(other, 409, "callback-conflict")
        self.assertEqual(client.response.body, result_of("1"))
        self.assertEqual(self.result(start).body, result_of("1"))

    def test_is_forgotten(self) -> None:
        """B2, B3: a second callback that comes after that is as good as one before a restart."""
        client, start = self.run_job()
        self.call_back(start, result_of("1"))
        self.clock.advance(RETAIN)
        self.assert_problem(self.result(start), 404, "not-found")
        self.check_receipt(self.call_back(start, result_of("1")), "late")
        self.assertEqual(client.response.status, 200)

    def test_progress_after_the_end(self) -> None:
        """B10: progress that comes after the result is taken, and changes nothing."""
        client, start = self.run_job()
        self.call_back(start, result_of("1"))
        self.check_receipt(self.call_back(start, result_of("1", "running")), "progress")
        self.check_receipt(self.call_back(start, result_of("1")), "duplicate")
        self.assertEqual(client.response.body, result_of("1"))
        self.assertEqual(self.result(start).body, result_of("1"))


class LateTests(CallbackTestCase):
    """Callbacks that nobody waits for any more."""

    def test_after_a_restart(self) -> None:
        """B3: a result with a good token that is not known here is kept as an orphan."""
        token = self.signer.mint()
        sender = self.connect().request(f"/callback/{token.text}", result_of("7"))
        self.check_receipt(sender.response, "late")
        self.assertEqual(self.orphans(), ["7"])
        self.assertEqual(self.connect().get(f"/jobs/{token.job_id}").response.body, result_of("7"))

    def test_twice_after_a_restart(self) -> None:
        """B2, B3: the second callback of a job that was not known is judged as any second one."""
        path = f"/callback/{self.signer.mint().text}"
        self.connect().request(path, result_of("7"))
        again = self.connect().request(path, result_of("7")).response
        self.check_receipt(again, "duplicate")
        other = self.connect().request(path, result_of("7", "failed")).response
        self.assert_problem(other, 409, "callback-conflict")

    def test_progress_after_a_restart(self) -> None:
        """B3: progress of a job that is not known is taken as late, and nothing is kept."""
        token = self.signer.mint()
        sender = self.connect().request(f"/callback/{token.text}", result_of("7", "running"))
        self.check_receipt(sender.response, "late")
        self.assertEqual(self.orphans(), [])
        unknown = self.connect().get(f"/jobs/{token.job_id}").response
        self.assert_problem(unknown, 404, "not-found")

    def test_client_left(self) -> None:
        """B4: the result of a client that left is taken, and kept as an orphan to be asked for."""
        client, start = self.run_job()
        client.leave()
        with capturedLogs() as events:
            self.check_receipt(self.call_back(start, result_of("1")), "accepted")
        self.assertIn("after its client had left", tell(events))
        self.assertEqual(self.orphans(), ["1"])
        self.assertEqual(self.result(start).body, result_of("1"))
        self.assertEqual(self.orphans(), [])

    def test_client_timed_out(self) -> None:
        """B5: a result after the deadline is late, and can be had by the URL in the 504."""
        client, start = self.run_job()
        self.clock.advance(30)
        problem = self.assert_problem(client.response, 504, "wait-over", started="yes")
        self.assertEqual(self.connect().get(problem["instance"]).response.status, 202)
        self.clock.advance(1.5)
        with capturedLogs() as events:
            self.check_receipt(self.call_back(start, result_of("1")), "late")
        self.assertIn("1.500 s too late", tell(events))
        self.assertEqual(self.orphans(), ["1"])
        found = self.connect().get(problem["instance"]).response
        self.assertEqual((found.status, found.body), (200, result_of("1")))
        self.assertEqual(found.headers["content-location"], problem["instance"])

    def test_late_but_in_time_for_another(self) -> None:
        """B5: a result after the first client's deadline is not late if another waits by then."""
        client, start = self.run_job()
        self.clock.advance(30)
        poll = self.connect().get(client.response.json["instance"], Prefer="wait=5")
        self.assertTrue(poll.is_held)
        self.check_receipt(self.call_back(start, result_of("1")), "accepted")
        self.assertEqual(poll.response.body, result_of("1"))
        self.assertEqual(self.orphans(), [])

    def test_never_comes(self) -> None:
        """B11: what never comes is forgotten once its token is no longer good."""
        client, start = self.run_job()
        self.clock.advance(30)
        self.assertEqual(client.response.status, 504)
        self.clock.advance(LIFETIME - 1)
        self.assertEqual(self.result(start).status, 202)
        self.clock.advance(1)
        self.assertEqual(self.result(start).status, 404)


class ForgedTests(CallbackTestCase):
    """Callbacks without a good token."""

    def setUp(self) -> None:
        super().setUp()
        self.client, self.start = self.run_job()

    def tearDown(self) -> None:
        if self.client.is_held:
            self.check_receipt(self.call_back(self.start, result_of("1")), "accepted")
        super().tearDown()

    def check_forged(self, token: str) -> None:
        sender = self.connect().request(f"/callback/{token}", result_of("1", "failed"))
        self.assert_problem(sender.response, 404, "not-found")
        sender.leave()

    def test_every_change_is_found(self) -> None:
        """B6: a token with any one of its bytes changed names nothing."""
        token = self.start.callback_path.removeprefix("/callback/")
        alphabet = string.ascii_letters + string.digits + "-_."
        for at, byte in enumerate(token):
            # The next one differs in few bits only, and may encode the same number of bytes.
            following = alphabet[(alphabet.index(byte) + 1) % len(alphabet)]
            for other in {following, "A", "_"} - {byte}:
                self.check_forged(token[:at] + other + token[at + 1 :])
        self.assertTrue(self.client.is_held)

    def test_takes_as_long_as_any(self) -> None:
        """B6: signatures are compared in a time that does not tell how much of one is right."""
        compared: list[tuple[object, object]] = []
        compare = hmac.compare_digest

        def watch(left: str, right: str) -> bool:
            compared.append((left, right))
            return compare(left, right)

        self.patch(hmac, "compare_digest", watch)
        self.check_forged("x.y")
        self.assertEqual(len(compared), 1)

    def test_other_key(self) -> None:
        """B6: a token that was signed with another key names nothing."""
        self.check_forged(TokenSigner([b"x" * 32], now=self.clock.seconds).mint().text)

    def test_expired(self) -> None:
        """B6: a token names nothing once its lifetime is over."""
        token = self.signer.mint().text
        self.clock.advance(30)
        self.assertEqual(self.client.response.status, 504)
        self.clock.advance(LIFETIME - 30)
        sender = self.connect().request(f"/callback/{token}", result_of("1", "running"))
        self.check_receipt(sender.response, "late")
        self.clock.advance(1)
        self.check_forged(token)

    def test_any_path_below(self) -> None:
        """B6: what only starts with a good token names nothing."""
        token = self.start.callback_path.removeprefix("/callback/")
        for path in (f"{token}/", f"{token}/more", f"/{token}", f"{token}.x", f"{token}%00"):
            self.check_forged(path)

    def test_body_does_not_matter(self) -> None:
        """B6: what a forged callback holds is answered as it would be on any unknown path."""
        for body in (b"", b"{", b"x" * 60_000):
            unknown, forged = (
                self.connect().request(path, body, headers={"X-Request-Id": "same"}).response
                for path in ("/nothing", "/callback/x.y")
            )
            self.assertEqual(unknown, forged)

    def test_flood(self) -> None:
        """B14, B6: a flood of forged callbacks touches no job, keeps nothing and logs nothing."""
        with capturedLogs() as events:
            for number in range(500):
                self.check_forged(f"forged.{number}")
        self.assertEqual(tell(events), "")
        self.assertEqual(self.orphans(), [])
        self.assertEqual((len(self.table), self.table.retention.retained), (1, 0))
        self.assertTrue(self.client.is_held)


class ContentTests(CallbackTestCase):
    """What a callback says."""

    def test_state_decides(self) -> None:
        """B9, B10: any state but the three of progress ends the job, and so does none at all."""
        states = ("failed", "rejected", "cancelled", "error", "RUNNING", "no such word", "")
        bodies = [result_of("1", state) for state in states]
        bodies += [b'{"id":"1"}', b'{"id":"1","state":null}', b'{"id":"1","state":["running"]}']
        for body in bodies:
            client, start = self.run_job()
            self.check_receipt(self.call_back(start, body), "accepted")
            self.assertEqual((client.response.status, client.response.body), (200, body))

    def test_progress_moves_no_deadline(self) -> None:
        """B10: progress does not give a client more time."""
        client, start = self.run_job()
        self.clock.advance(29)
        self.call_back(start, result_of("1", "running"))
        self.clock.advance(0.5)
        self.assertTrue(client.is_held)
        self.clock.advance(0.5)
        self.assert_problem(client.response, 504, "wait-over", started="yes")

    def test_bytes_are_not_touched(self) -> None:
        """B12: whatever a result has or has not, and however it is written, it is passed on."""
        for body in (
            b"{}",
            b' {"id" : "1" , "proof":"\\u0041" , "proof":"B", "n":1.0e2,\r\n"x":1E400} ',
            '{"id":"1","näme":"\u2028 😀"}'.encode(),
            b'{"id":"1","deep":' + b"[" * 50 + b"]" * 50 + b"}",
            b'{"id":"1","long":"' + b"x" * 65_000 + b'"}',
        ):
            client, start = self.run_job()
            self.check_receipt(self.call_back(start, body), "accepted")
            self.assertEqual(client.response.body, body)

    def test_without_an_id(self) -> None:
        """B8: a callback that names no usable id contradicts none."""
        for body in (
            b"{}",
            b'{"id":null}',
            b'{"id":7}',
            b'{"id":""}',
            b'{"id":"%s"}' % (b"1" * 129),
        ):
            client, start = self.run_job()
            self.check_receipt(self.call_back(start, body), "accepted")
            self.assertEqual(client.response.body, body)

    def test_other_id(self) -> None:
        """B8: a callback about another job is refused, whatever its state, and is logged."""
        client, start = self.run_job()
        for state in ("completed", "failed", "running"):
            with capturedLogs() as events:
                refused = self.call_back(start, result_of("2", state))
            self.assert_problem(refused, 409, "callback-conflict")
            self.assertIn("another id", tell(events))
            self.assertTrue(client.is_held)
        self.call_back(start, result_of("1"))
        self.assertEqual(client.response.body, result_of("1"))
        self.assert_problem(self.call_back(start, result_of("2")), 409, "callback-conflict")

    def test_token_is_not_told(self) -> None:
        """B6: the secret part of a token is in no line of the log and in no answer."""
        with capturedLogs() as events:
            client, start = self.run_job()
            responses = [self.call_back(start, result_of("2")), self.call_back(start, b"")]
            self.clock.advance(30)
            responses += [client.response, self.call_back(start, result_of("1"))]
            responses += [self.call_back(start, result_of("3")), self.result(start)]
        secret = start.callback_path.split(".")[1]
        self.assertNotIn(secret, tell(events))
        self.assertNotIn(secret, repr(responses))


def tell(events: Sequence[LogEvent]) -> str:
    """Return what was logged."""
    return "\n".join(formatEvent(event) for event in events)
