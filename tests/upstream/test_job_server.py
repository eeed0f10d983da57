"""Calling the job server: connections, deadlines, headers, and what counts for the circuit."""

import errno

from twisted.internet import error
from twisted.python.failure import Failure
from twisted.web._newclient import ParseError, RequestNotSent
from twisted.web.client import (
    RequestGenerationFailed,
    RequestTransmissionFailed,
    ResponseFailed,
    ResponseNeverReceived,
)

from jobproxy.http1.agent import Untrusted
from jobproxy.upstream.retries import RetryMode
from tests.support.clients import Client
from tests.support.job_server import Start
from tests.support.proxy import ProxyTestCase, result_of
from tests.support.start_outcomes import GraceTestCase


class NotConnectedTests(ProxyTestCase):
    """Start requests without a connection, which are not sent again."""

    settings = {"retry": RetryMode.NEVER}

    def test_connection_that_cannot_be_made_is_unreachable(self) -> None:
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


class AmbiguousTests(GraceTestCase):
    """Start requests that may have reached the job server."""

    def test_connection_lost_after_the_request_is_ambiguous(self) -> None:
        """S6: a connection that is lost after the request makes the start ambiguous."""
        self.fail_starts(ResponseNeverReceived([Failure(error.ConnectionLost())]))
        self.check_grace(self.submit())

    def test_connection_lost_within_the_request_is_ambiguous(self) -> None:
        """S7: a connection that is lost within the request makes the start ambiguous."""
        self.fail_starts(RequestTransmissionFailed([Failure(error.ConnectionLost())]))
        self.check_grace(self.submit())

    def test_request_that_the_proxy_cuts_off_is_ambiguous(self) -> None:
        """S7: a failure of the proxy within the request makes the start ambiguous."""
        self.fail_starts(RequestGenerationFailed([Failure(error.ConnectionAborted())]))
        self.check_grace(self.submit())

    def test_response_that_is_not_http_is_ambiguous(self) -> None:
        """S9: a response that is not HTTP makes the start ambiguous."""
        self.fail_starts(ResponseFailed([Failure(ParseError("not HTTP", b"220 smtp"))]))
        self.check_grace(self.submit())

    def test_stale_connection_is_ambiguous_and_not_used_again(self) -> None:
        """S22: a kept connection that ends during the request is ambiguous; it is sent once."""
        self.fail_starts(RequestTransmissionFailed([Failure(error.ConnectionDone())]))
        self.check_grace(self.submit())
        self.assertEqual(self.starts, [])

    def test_start_timeout_is_ambiguous_and_releases_the_slot(self) -> None:
        """S8: without an ack in time the grace starts, and the account gets its slot back."""
        client = self.submit()
        others = [self.submit(), self.submit()]
        self.assertEqual(len(self.starts), 2)
        self.clock.advance(10)
        self.assertEqual(len(self.starts), 3)
        self.check_grace(client)
        self.starts[2].respond(result_of("1"))
        self.assert_problem(others[0].response, 504, "start-unknown", started="unknown")
        self.assertEqual(others[1].response.status, 200)


class CircuitTests(ProxyTestCase):
    """Responses that count for the circuit, and those that do not."""

    def respond(self, status: int, body: bytes = b"") -> Client:
        """Send a job as a client, and respond to its start request."""
        client = self.submit()
        self.starts[-1].respond(body, status)
        return client

    def test_4xx_that_do_not_say_more_are_ambiguous_and_leave_the_circuit_closed(self) -> None:
        """S18, S23: 408 and 425 are ambiguous, and leave the circuit closed."""
        for status in (408, 425):
            clients = [self.respond(status) for _ in range(11)]
            self.clock.advance(2)
            for client in clients:
                self.assert_problem(client.response, 504, "start-unknown", started="unknown")
        self.respond(200, result_of("1"))
        self.assertEqual(self.clients[-1].response.status, 200)

    def test_5xx_are_ambiguous_and_open_the_circuit(self) -> None:
        """S18, S23: every 5xx but 503 is ambiguous, and ten of them can open the circuit."""
        clients = []
        for number, status in enumerate([500, 599] * 5):
            clients.append(self.submit(f"account {number}"))
            self.starts[-1].respond(b"", status)
        self.assert_problem(self.submit().response, 503, "upstream-unreachable")
        self.clock.advance(2)
        for client in clients:
            self.assert_problem(client.response, 504, "start-unknown", started="unknown")


class NeverSentTests(ProxyTestCase):
    """Start requests that certainly did not reach the job server."""

    def check(self, error: Exception, status: int, slug: str) -> Client:
        self.fail_starts(error)
        client = self.submit()
        self.clock.pump([0.0, 0.2, 0.4])
        self.assert_problem(client.response, status, slug, started="no")
        return client

    def test_refused_connection_is_unreachable(self) -> None:
        """S1: a refused connection gives 503 upstream-unreachable with a Retry-After."""
        client = self.check(error.ConnectionRefusedError(), 503, "upstream-unreachable")
        self.assertEqual(client.response.headers["retry-after"], "1")

    def test_unknown_name_is_unreachable(self) -> None:
        """S2: a name that cannot be resolved gives 503 upstream-unreachable."""
        self.check(error.DNSLookupError(), 503, "upstream-unreachable")

    def test_connect_timeout_is_unreachable(self) -> None:
        """S3: a connection that is not made in time gives 503 upstream-unreachable."""
        self.check(error.TimeoutError(), 503, "upstream-unreachable")

    def test_failed_handshake_is_untrusted(self) -> None:
        """S4: a TLS handshake that fails gives 502 upstream-untrusted."""
        client = self.check(Untrusted("no certificate"), 502, "upstream-untrusted")
        self.assertNotIn("retry-after", client.response.headers)

    def test_lack_of_sockets_is_overload(self) -> None:
        """S5: a proxy without a free file descriptor gives 503 overloaded with a Retry-After."""
        for number in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
            client = self.check(error.ConnectError(osError=number), 503, "overloaded")
            self.assertEqual(client.response.headers["retry-after"], "1")


class UnfinishedResponseTests(GraceTestCase):
    """Responses of the job server that do not come to their end."""

    def begin(self, status: int, body: bytes, length: int) -> tuple[Client, Start]:
        """Begin a response as the job server."""
        client = self.submit()
        start = self.starts[-1]
        start.begin(status, length)
        start.write(body)
        return client, start

    def test_slow_ack_is_cut_off_at_the_start_timeout(self) -> None:
        """S21: the start timeout covers the body; the connection is closed then."""
        client, start = self.begin(200, b'{"id":"1"', 10)
        self.clock.advance(9.9)
        self.assertTrue(start.is_connected)
        self.clock.advance(0.1)
        self.assertFalse(start.is_connected)
        self.check_grace(client)

    def test_ack_that_is_cut_short_is_ambiguous(self) -> None:
        """S9: an ack that is cut short is ambiguous, even if it could be read."""
        client, start = self.begin(200, result_of("1"), 1000)
        start.lose()
        self.check_grace(client)

    def test_huge_ack_is_cut_off_at_64_kib(self) -> None:
        """S20: the connection is closed as soon as an ack is too large; the job was started."""
        client, start = self.begin(200, b" " * 65_537, 10**9)
        self.assertFalse(start.is_connected)
        self.clock.advance(5)
        self.assertTrue(client.is_held)
        self.call_back(start, result_of("1"))
        self.assertEqual(client.response.body, result_of("1"))

    def test_slow_rejection_is_one_without_its_body(self) -> None:
        """S15, S21: a rejection is one without its body, too; the job was not started."""
        client, _ = self.begin(422, b"no such", 100)
        self.clock.advance(10)
        problem = self.assert_problem(client.response, 422, "upstream-rejected")
        self.assertNotIn("upstreamBody", problem)


class HeaderTests(ProxyTestCase):
    """The headers of a start request."""

    PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

    def headers_of(self, **headers: str) -> dict[str, str | None]:
        """Send a job with these headers, and return some of those of its start request."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.connect().request(headers=named)
        request = self.starts[-1].request
        self.starts[-1].respond(result_of("1"))
        names = ("traceparent", "tracestate", "x-request-id")
        return {name: request.getHeader(name) for name in names}

    def test_trace_of_the_client_is_passed_on(self) -> None:
        """The trace of a client is passed on with the start request."""
        sent = self.headers_of(traceparent=self.PARENT, tracestate="a=1,b=2")
        self.assertEqual((sent["traceparent"], sent["tracestate"]), (self.PARENT, "a=1,b=2"))
        self.assertEqual(self.headers_of(traceparent=self.PARENT)["tracestate"], None)

    def test_invalid_traceparent_is_dropped_with_its_tracestate(self) -> None:
        """An invalid traceparent is dropped, and its tracestate with it."""
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
            sent = self.headers_of(traceparent=parent, tracestate="a=1")
            self.assertEqual((sent["traceparent"], sent["tracestate"]), (None, None))
        self.assertEqual(self.headers_of(tracestate="a=1")["tracestate"], None)

    def test_request_id_is_passed_on(self) -> None:
        """A request id is passed on: that of the client, or else the one in its response."""
        self.assertEqual(self.headers_of(X_Request_Id="abc-1")["x-request-id"], "abc-1")
        made = self.headers_of()["x-request-id"]
        self.assertEqual(self.clients[-1].response.headers["x-request-id"], made)
        self.assertEqual(self.clients[0].response.headers["x-request-id"], "abc-1")

    def test_other_headers_of_the_client_are_not_passed_on(self) -> None:
        """Other headers of a client, with its secrets, are not passed on."""
        self.connect().request(headers={"Authorization": "Basic abc", "Cookie": "a=b", "X-A": "1"})
        for name in ("authorization", "cookie", "x-a"):
            self.assertIsNone(self.starts[0].request.getHeader(name))
        self.starts[0].respond(result_of("1"))
