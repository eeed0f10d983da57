"""What a client gets for every way in which a start call can end, in memory."""

from OpenSSL.SSL import Error as TLSError
from service_identity import VerificationError
from twisted.internet import error
from twisted.python.failure import Failure
from twisted.web.client import RequestTransmissionFailed, ResponseNeverReceived

from tests.support import Client, ProxyTestCase, result_of


class NeverSentTests(ProxyTestCase):
    """Starts that certainly did not reach the job server."""

    def check(self, error: Exception, status: int, slug: str) -> Client:
        self.fail_starts(error)
        client = self.submit()
        self.assert_problem(client.answer, status, slug, started="no")
        return client

    def test_refused(self) -> None:
        """S1: the connection is refused."""
        client = self.check(error.ConnectionRefusedError(), 503, "upstream-unreachable")
        self.assertEqual(client.answer.headers["retry-after"], "1")

    def test_no_name(self) -> None:
        """S2: the job server's name is not known."""
        self.check(error.DNSLookupError(), 503, "upstream-unreachable")

    def test_connect_timeout(self) -> None:
        """S3: the connection is not made in time."""
        self.check(error.TimeoutError(), 503, "upstream-unreachable")

    def test_untrusted(self) -> None:
        """S4: the TLS handshake fails, for whatever reason."""
        for reason in (TLSError(), VerificationError(errors=[])):
            failed = RequestTransmissionFailed([Failure(reason)])
            self.check(failed, 502, "upstream-untrusted")


class AnsweredTests(ProxyTestCase):
    """Starts that the job server did not accept."""

    def refuse(self, status: int, body: bytes = b"", **headers: str) -> Client:
        client = self.submit()
        self.starts[-1].answer(body, status, **headers)
        return client

    def test_rejected(self) -> None:
        """S15: what the job server says of a job it does not take is passed back."""
        for status in (400, 404, 409, 410, 422):
            client = self.refuse(status, b"no such thing: \xff" + b"x" * 2_000)
            problem = self.assert_problem(client.answer, status, "upstream-rejected")
            self.assertEqual(problem["upstreamStatus"], status)
            self.assertEqual(problem["upstreamBody"][:17], "no such thing: \ufffdx")
            self.assertEqual(len(problem["upstreamBody"]), 1024)

    def test_credentials(self) -> None:
        """S16: what is wrong between proxy and job server is not the client's business."""
        for status in (401, 403):
            client = self.refuse(status, b"the password is")
            problem = self.assert_problem(client.answer, 502, "upstream-auth")
            self.assertNotIn("upstreamBody", problem)

    def test_busy(self) -> None:
        """S17: a busy job server's status and Retry-After are passed back, within reason."""
        for status in (429, 503):
            for given, told in (("7", "7"), ("999999", "3600"), ("-1", "1"), ("soon", "1")):
                client = self.refuse(status, retry_after=given)
                self.assert_problem(client.answer, status, "upstream-busy")
                self.assertEqual(client.answer.headers["retry-after"], told)
        self.assertEqual(self.refuse(503).answer.headers["retry-after"], "1")

    def test_redirect(self) -> None:
        """S19: a redirect is not followed."""
        for status in (301, 302, 303, 307, 308):
            client = self.refuse(status, location="http://jobs.example/start")
            self.assert_problem(client.answer, 502, "upstream-redirect")
        self.assertEqual(len(self.starts), 5)


class AmbiguousTests(ProxyTestCase):
    """Starts that may have reached the job server."""

    def check(self, client: Client) -> None:
        """Check that a client is held for the grace, and not longer."""
        self.clock.advance(1.9)
        self.assertTrue(client.is_held)
        self.clock.advance(0.1)
        self.assert_problem(client.answer, 504, "start-unknown", started="unknown")

    def test_connection_lost(self) -> None:
        """S6: the connection is lost after the request."""
        self.fail_starts(ResponseNeverReceived([Failure(error.ConnectionLost())]))
        self.check(self.submit())

    def test_transmission_failed(self) -> None:
        """S7: the connection is lost in the middle of the request."""
        self.fail_starts(RequestTransmissionFailed([Failure(error.ConnectionLost())]))
        self.check(self.submit())

    def test_no_answer(self) -> None:
        """S8: no ack comes in time; the grace starts then, and the lane has its place back."""
        client = self.submit()
        others = [self.submit(), self.submit()]
        self.assertEqual(len(self.starts), 2)
        self.clock.advance(10)
        self.assertEqual(len(self.starts), 3)
        self.check(client)
        self.starts[2].answer(result_of("1"))
        self.assert_problem(others[0].answer, 504, "start-unknown", started="unknown")
        self.assertEqual(others[1].answer.status, 200)

    def test_recovered(self) -> None:
        """S6: a callback within the grace is the answer."""
        client = self.submit()
        self.starts[0].answer(b"", 500)
        self.clock.advance(1.9)
        self.call_back(self.starts[0], result_of("1"))
        self.assertEqual(client.answer.body, result_of("1"))

    def test_not_usable(self) -> None:
        """S10, S11: the ack is no JSON object."""
        for body in (b"", b"<html>", b"[]", b'{"id":', b"[" * 60_000, b"\xff"):
            client = self.submit()
            self.starts[-1].answer(body)
            self.check(client)

    def test_other_errors(self) -> None:
        """S18: an error that does not say whether the job was started."""
        for status in (500, 502, 504, 418):
            client = self.submit()
            self.starts[-1].answer(b"", status)
            self.check(client)

    def test_too_big(self) -> None:
        """S20: an ack of more than 64 KiB is not read to its end."""
        client = self.submit()
        self.starts[0].answer(b'{"id":"1","x":"' + b"x" * 70_000 + b'"}')
        self.check(client)

    def test_too_big_rejection(self) -> None:
        """S20: a rejection is one whether or not its body can be read."""
        client = self.submit()
        self.starts[0].answer(b"x" * 70_000, 422)
        problem = self.assert_problem(client.answer, 422, "upstream-rejected")
        self.assertNotIn("upstreamBody", problem)
