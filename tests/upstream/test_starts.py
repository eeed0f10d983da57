"""What a client gets for every way in which a start call can end, in memory."""

import errno

from OpenSSL.SSL import Error as TLSError
from service_identity import CertificateError, VerificationError
from twisted.internet import error
from twisted.python.failure import Failure
from twisted.web._newclient import ParseError, RequestNotSent
from twisted.web.client import (
    RequestGenerationFailed,
    RequestTransmissionFailed,
    ResponseFailed,
    ResponseNeverReceived,
)

from jobproxy.upstream.retries import RetryMode
from tests.support.job_server import Start
from tests.support.proxy import Client, ProxyTestCase, result_of


class NeverSentTests(ProxyTestCase):
    """Starts that certainly did not reach the job server."""

    def check(self, error: Exception, status: int, slug: str) -> Client:
        self.fail_starts(error)
        client = self.submit()
        self.clock.pump([0.0, 0.2, 0.4])
        self.assert_problem(client.response, status, slug, started="no")
        return client

    def test_refused(self) -> None:
        """S1: the connection is refused."""
        client = self.check(error.ConnectionRefusedError(), 503, "upstream-unreachable")
        self.assertEqual(client.response.headers["retry-after"], "1")

    def test_no_name(self) -> None:
        """S2: the job server's name is not known."""
        self.check(error.DNSLookupError(), 503, "upstream-unreachable")

    def test_connect_timeout(self) -> None:
        """S3: the connection is not made in time."""
        self.check(error.TimeoutError(), 503, "upstream-unreachable")

    def test_untrusted(self) -> None:
        """S4: the TLS handshake fails, for whatever reason."""
        for reason in (TLSError(), VerificationError(errors=[]), CertificateError()):
            failed = RequestTransmissionFailed([Failure(reason)])
            client = self.check(failed, 502, "upstream-untrusted")
            self.assertNotIn("retry-after", client.response.headers)

    def test_no_socket(self) -> None:
        """S5: the proxy has no file descriptor left; that is its own fault, and told as such."""
        for number in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
            client = self.check(error.ConnectError(osError=number), 503, "overloaded")
            self.assertEqual(client.response.headers["retry-after"], "1")


class AnsweredTests(ProxyTestCase):
    """Starts that the job server did not accept."""

    settings = {"retry": RetryMode.NEVER}

    def refuse(self, status: int, body: bytes = b"", **headers: str) -> Client:
        client = self.submit()
        self.starts[-1].respond(body, status, **headers)
        return client

    def test_not_connected(self) -> None:
        """S1: whatever keeps the connection from being made, nothing was sent."""
        for reason in (
            error.ConnectBindError(),
            error.ConnectingCancelledError(None),
            error.ConnectError(osError=errno.EHOSTUNREACH),
            error.NoRouteError(),
            RequestNotSent(),
        ):
            self.fail_starts(reason)
            self.assert_problem(self.submit().response, 503, "upstream-unreachable")

    def test_rejected(self) -> None:
        """S15: what the job server says of a job it does not take is passed back."""
        for status in (400, 404, 409, 410, 422):
            client = self.refuse(status, b"no such thing: \xff" + b"x" * 2_000)
            problem = self.assert_problem(client.response, status, "upstream-rejected")
            self.assertEqual(problem["upstreamStatus"], status)
            self.assertEqual(problem["upstreamBody"][:17], "no such thing: \ufffdx")
            self.assertEqual(len(problem["upstreamBody"]), 1024)

    def test_rejected_in_our_words(self) -> None:
        """S15: a job server that quotes the start gives nobody the token of the job."""
        client = self.submit()
        (start,) = self.starts
        start.respond(b"cannot read " + start.raw, 422)
        quoted = self.assert_problem(client.response, 422, "upstream-rejected")["upstreamBody"]
        self.assertIn('"account": "example"', quoted)
        self.assertIn("http://proxy.example/callback/[hidden]", quoted)
        self.assertNotIn(start.callback_path, quoted)

    def test_credentials(self) -> None:
        """S16: what is wrong between proxy and job server is not the client's business."""
        for status in (401, 403):
            client = self.refuse(status, b"the password is")
            problem = self.assert_problem(client.response, 502, "upstream-auth")
            self.assertNotIn("upstreamBody", problem)

    def test_busy(self) -> None:
        """S17: a busy job server's status and Retry-After are passed back, within reason."""
        for status in (429, 503):
            for given, told in (("7", "7"), ("999999", "3600"), ("-1", "1"), ("soon", "1")):
                client = self.refuse(status, retry_after=given)
                self.assert_problem(client.response, status, "upstream-busy")
                self.assertEqual(client.response.headers["retry-after"], told)
                self.clock.advance(int(told))
        self.assertEqual(self.refuse(503).response.headers["retry-after"], "1")

    def test_redirect(self) -> None:
        """S19: a redirect is not followed."""
        for status in (301, 302, 303, 307, 308):
            client = self.refuse(status, location="http://jobs.example/start")
            self.assert_problem(client.response, 502, "upstream-redirect")
        self.assertEqual(len(self.starts), 5)

    def test_forgets_what_was_not_started(self) -> None:
        """S15: of a job that was not started nobody waits for a callback; its place is free."""
        clients = [self.submit() for _ in range(3)]
        self.starts[0].respond(b"", 422)
        self.assertEqual(len(self.starts), 3)
        self.assertEqual(len(self.table), 2)
        for start in self.starts[1:]:
            start.respond(b"", 404)
        self.assertEqual(len(self.table), 0)
        self.assertEqual([client.response.status for client in clients], [422, 404, 404])


class AmbiguousTests(ProxyTestCase):
    """Starts that may have reached the job server."""

    def check(self, client: Client) -> None:
        """Check that a client is held for the grace, and not longer."""
        self.clock.advance(1.9)
        self.assertTrue(client.is_held)
        self.clock.advance(0.1)
        self.assert_problem(client.response, 504, "start-unknown", started="unknown")

    def test_connection_lost(self) -> None:
        """S6: the connection is lost after the request."""
        self.fail_starts(ResponseNeverReceived([Failure(error.ConnectionLost())]))
        self.check(self.submit())

    def test_transmission_failed(self) -> None:
        """S7: the connection is lost in the middle of the request."""
        self.fail_starts(RequestTransmissionFailed([Failure(error.ConnectionLost())]))
        self.check(self.submit())

    def test_request_cut_off(self) -> None:
        """S7: the proxy itself fails in the middle of the request."""
        self.fail_starts(RequestGenerationFailed([Failure(error.ConnectionAborted())]))
        self.check(self.submit())

    def test_no_http(self) -> None:
        """S9: what comes back is not HTTP."""
        self.fail_starts(ResponseFailed([Failure(ParseError("not HTTP", b"220 smtp"))]))
        self.check(self.submit())

    def test_stale_connection(self) -> None:
        """S22: a kept connection ends as the request is written; it is not sent once more."""
        self.fail_starts(RequestTransmissionFailed([Failure(error.ConnectionDone())]))
        self.check(self.submit())
        self.assertEqual(self.starts, [])

    def test_no_answer(self) -> None:
        """S8: no ack comes in time; the grace starts then, and the lane has its place back."""
        client = self.submit()
        others = [self.submit(), self.submit()]
        self.assertEqual(len(self.starts), 2)
        self.clock.advance(10)
        self.assertEqual(len(self.starts), 3)
        self.check(client)
        self.starts[2].respond(result_of("1"))
        self.assert_problem(others[0].response, 504, "start-unknown", started="unknown")
        self.assertEqual(others[1].response.status, 200)

    def test_recovered(self) -> None:
        """S6: a callback within the grace is the answer."""
        client = self.submit()
        self.starts[0].respond(b"", 500)
        self.clock.advance(1.9)
        self.call_back(self.starts[0], result_of("1"))
        self.assertEqual(client.response.body, result_of("1"))

    def test_not_usable(self) -> None:
        """S10, S11: the ack is no JSON object."""
        numbers = b'{"id":' + b"9" * 5_000 + b"}"
        for body in (b"", b"<html>", b"[]", b'{"id":', b"[" * 60_000, b"\xff", numbers):
            client = self.submit()
            self.starts[-1].respond(body)
            self.check(client)

    def test_other_errors(self) -> None:
        """S18: an error that does not say whether the job was started."""
        for status in (500, 502, 504, 599, 418, 408):
            client = self.submit()
            self.starts[-1].respond(b"", status)
            self.check(client)

    def test_too_big(self) -> None:
        """S20: an ack of more than 64 KiB is not read to its end."""
        client = self.submit()
        self.starts[0].respond(b'{"id":"1","x":"' + b"x" * 70_000 + b'"}')
        self.check(client)

    def test_too_big_rejection(self) -> None:
        """S20: a rejection is one whether or not its body can be read."""
        client = self.submit()
        self.starts[0].respond(b"x" * 70_000, 422)
        problem = self.assert_problem(client.response, 422, "upstream-rejected")
        self.assertNotIn("upstreamBody", problem)

    def test_callback_after_the_grace(self) -> None:
        """S6: a callback after the grace is taken; the job was started after all."""
        client = self.submit()
        self.starts[0].respond(b"", 500)
        self.check(client)
        taken = self.call_back(self.starts[0], result_of("1"))
        self.assertEqual((taken.status, taken.json), (200, {"status": "late"}))
        self.assertEqual(len(client.responses), 1)

    def test_grace_ends_with_the_deadline(self) -> None:
        """S6: the grace makes nobody wait for longer than before."""
        client = self.connect().request(headers={"Prefer": "wait=1"})
        self.starts[0].respond(b"", 500)
        self.clock.advance(1)
        self.assert_problem(client.response, 504, "start-unknown", started="unknown")

    def test_is_sent_once(self) -> None:
        """S6, S18: a start that may have been read is not sent again, however long one waits."""
        client = self.submit()
        self.starts[0].respond(b"", 500)
        self.check(client)
        self.clock.advance(60)
        self.assertEqual(len(self.starts), 1)


class StateTests(ProxyTestCase):
    """What the state in an ack means."""

    def test_ended(self) -> None:
        """S13, S14: an ack with a state that is an end is the answer, good or bad."""
        for state in ("completed", "failed", "rejected", "cancelled", "error"):
            client = self.submit()
            self.starts[-1].respond(result_of("1", state))
            self.assertEqual(client.response.status, 200)
            self.assertEqual(client.response.body, result_of("1", state))

    def test_other_words(self) -> None:
        """S14: an ack with another state, or a state that is no word, is one of a running job."""
        for ack in (b'{"id":"1","state":"accepted"}', b'{"id":"1","state":7}', b'{"id":"1"}'):
            client = self.submit()
            self.starts[-1].respond(ack, 202)
            self.clock.advance(5)
            self.assertTrue(client.is_held)
            self.call_back(self.starts[-1], result_of("1"))
            self.assertEqual(client.response.body, result_of("1"))

    def test_id_of_the_callback(self) -> None:
        """S12: of a job whose ack has no id, the callback tells it."""
        self.submit().leave()
        self.starts[0].respond(b'{"state":"running"}')
        self.call_back(self.starts[0], result_of("7"))
        (orphan,) = self.operate().get("/orphans").response.json["orphans"]
        self.assertEqual(orphan["id"], "7")


class UnfinishedAnswerTests(ProxyTestCase):
    """Answers of the job server that do not come to their end."""

    def begin(self, status: int, body: bytes, length: int) -> tuple[Client, Start]:
        """Begin a response as the job server."""
        client = self.submit()
        start = self.starts[-1]
        start.begin(status, length)
        start.write(body)
        return client, start

    def check_grace(self, client: Client) -> None:
        self.assertTrue(client.is_held)
        self.clock.advance(2)
        self.assert_problem(client.response, 504, "start-unknown", started="unknown")

    def test_slow_ack(self) -> None:
        """S21: the start timeout covers the body too, and the connection is closed then."""
        client, start = self.begin(200, b'{"id":"1"', 10)
        self.clock.advance(9.9)
        self.assertTrue(start.is_connected)
        self.clock.advance(0.1)
        self.assertFalse(start.is_connected)
        self.check_grace(client)

    def test_short_ack(self) -> None:
        """S9: the connection ends in the middle of an ack, even one that could be read."""
        client, start = self.begin(200, result_of("1"), 1000)
        start.lose()
        self.check_grace(client)

    def test_huge_ack(self) -> None:
        """S20: the connection is closed as soon as an ack is known to be too big."""
        client, start = self.begin(200, b" " * 65_537, 10**9)
        self.assertFalse(start.is_connected)
        self.check_grace(client)

    def test_slow_rejection(self) -> None:
        """S15, S21: a rejection is one without its body too; the job was not started."""
        client, _ = self.begin(422, b"no such", 100)
        self.clock.advance(10)
        problem = self.assert_problem(client.response, 422, "upstream-rejected")
        self.assertNotIn("upstreamBody", problem)


class HeaderTests(ProxyTestCase):
    """What a start tells the job server besides its body."""

    PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

    def headers_of(self, **headers: str) -> dict[str, str | None]:
        """Send a job with these headers, and return those of the start that matter here."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.connect().request(headers=named)
        request = self.starts[-1].request
        self.starts[-1].respond(result_of("1"))
        names = ("traceparent", "tracestate", "x-request-id")
        return {name: request.getHeader(name) for name in names}

    def test_trace(self) -> None:
        """The trace that a client belongs to goes on in the start."""
        told = self.headers_of(traceparent=self.PARENT, tracestate="a=1,b=2")
        self.assertEqual((told["traceparent"], told["tracestate"]), (self.PARENT, "a=1,b=2"))
        self.assertEqual(self.headers_of(traceparent=self.PARENT)["tracestate"], None)

    def test_bad_trace(self) -> None:
        """A traceparent that is none is dropped, and its tracestate with it."""
        bad = [
            "",
            "x",
            self.PARENT[:-1],
            self.PARENT.upper(),
            "ff" + self.PARENT[2:],
            "00-" + "0" * 32 + self.PARENT[35:],
            self.PARENT[:36] + "0" * 16 + "-01",
            self.PARENT + "-more",
        ]
        for parent in bad:
            told = self.headers_of(traceparent=parent, tracestate="a=1")
            self.assertEqual((told["traceparent"], told["tracestate"]), (None, None))
        self.assertEqual(self.headers_of(tracestate="a=1")["tracestate"], None)

    def test_request_id(self) -> None:
        """A request's id goes on in the start: the client's own, or the one in its answer."""
        self.assertEqual(self.headers_of(X_Request_Id="abc-1")["x-request-id"], "abc-1")
        made = self.headers_of()["x-request-id"]
        self.assertEqual(self.clients[-1].response.headers["x-request-id"], made)
        self.assertEqual(self.clients[0].response.headers["x-request-id"], "abc-1")

    def test_nothing_else(self) -> None:
        """A client's other headers, with what is secret in them, stay here."""
        self.connect().request(headers={"Authorization": "Basic abc", "Cookie": "a=b", "X-A": "1"})
        headers = self.starts[0].request.requestHeaders
        for name in ("authorization", "cookie", "x-a"):
            self.assertFalse(headers.hasHeader(name))
        self.starts[0].respond(result_of("1"))
