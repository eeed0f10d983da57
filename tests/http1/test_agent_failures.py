"""Requests of the agent that wait, do not connect, or have no whole response."""

from collections.abc import Callable
from typing import Any

from twisted.internet import error
from twisted.internet.address import IPv4Address
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IHostnameResolver
from twisted.web.client import ResponseFailed, ResponseNeverReceived
from twisted.web.iweb import IResponse
from zope.interface import implementer

from jobproxy.http1.limits import ClientLimits
from jobproxy.http1.response import BadResponse
from tests.support.http1_agent import (
    CHUNKED,
    CLOSE,
    OK,
    PLAIN,
    URL,
    AgentTestCase,
)


class TurnTests(AgentTestCase):
    """Requests that wait because too many are under way."""

    limits = ClientLimits(connections=2)

    def ask(self, count: int) -> list[Deferred[IResponse]]:
        """Send requests that can be told apart by their number."""
        return [self.request(b"http://10.0.0.9/%d" % number) for number in range(count)]

    def test_requests_over_the_limit_wait_in_order(self) -> None:
        """At most so many requests are under way at once; the others follow in order."""
        asking = self.ask(5)
        connection = self.connect()
        for number in (1, 2, 3, 4):
            self.assertEqual(self.attempts, 2)
            for request in asking[number:]:
                self.assertNoResult(request)
            line = connection.received.rpartition(b"POST ")[2]
            self.assertTrue(line.startswith(b"/%d " % number), line)
            connection.send(PLAIN)
            self.successResultOf(asking[number])
        self.assertNoResult(asking[0])
        self.refuse(error.ConnectionRefusedError(), 0)
        self.failureResultOf(asking[0], error.ConnectionRefusedError)

    def test_request_cancelled_while_it_waits_is_not_sent(self) -> None:
        """A request that is cancelled while it waits is never sent, and never connects."""
        asking = self.ask(4)
        asking[2].cancel()
        self.failureResultOf(asking[2], CancelledError)
        self.assertEqual(self.attempts, 2)
        self.refuse(error.ConnectionRefusedError(), 0)
        self.failureResultOf(asking[0], error.ConnectionRefusedError)
        self.assertEqual(self.attempts, 3)
        self.assertIn(b"/3 ", self.connect().received)
        asking[3].cancel()
        self.failureResultOf(asking[3], ResponseNeverReceived)
        asking[1].cancel()
        self.failureResultOf(asking[1], error.ConnectingCancelledError)
        self.assertEqual(self.attempts, 3)

    def test_every_end_of_a_request_gives_its_turn_to_the_next(self) -> None:
        """However a request ends, another one has its turn then."""

        def refuse(asking: Deferred[IResponse]) -> None:
            self.refuse(error.TimeoutError())

        def cancel(asking: Deferred[IResponse]) -> None:
            asking.cancel()

        def cancel_later(asking: Deferred[IResponse]) -> None:
            self.connect()
            asking.cancel()

        def respond(asking: Deferred[IResponse]) -> None:
            self.connect().send(PLAIN)
            self.agent.close_idle()

        def respond_badly(asking: Deferred[IResponse]) -> None:
            self.connect().send(b"SSH-2.0-x\r\n")

        def end(asking: Deferred[IResponse]) -> None:
            self.connect().end()

        ways: list[Callable[[Deferred[IResponse]], None]] = [
            refuse,
            cancel,
            cancel_later,
            respond,
            respond_badly,
            end,
        ]
        held = self.request()
        holding = self.connect()
        asking = [self.request(headers=CLOSE) for _ in range(len(ways) + 1)]
        for number, way in enumerate(ways):
            self.assertEqual(self.attempts, number + 2)
            way(asking[number])
            self.assertTrue(asking[number].called)
            asking[number].addErrback(lambda _: None)
        self.assertEqual(self.attempts, len(ways) + 2)
        self.connect().send(PLAIN)
        self.successResultOf(asking[-1])
        holding.send(PLAIN)
        self.successResultOf(held)

    def test_waiting_request_uses_the_connection_that_became_idle(self) -> None:
        """A request that has waited takes the connection that has just become idle."""
        asking = self.ask(3)
        connection = self.connect()
        connection.send(PLAIN)
        self.assertEqual((self.attempts, connection.requests), (2, 2))
        self.assertIn(b"POST /2 ", connection.received)
        connection.send(PLAIN)
        self.successResultOf(asking[2])
        asking[0].cancel()
        self.failureResultOf(asking[0], error.ConnectingCancelledError)


@implementer(IHostnameResolver)
class Resolver:
    """Looks names up when it is told to."""

    def __init__(self) -> None:
        self.asking: list[Any] = []

    def resolveHostName(  # type: ignore[override]
        self, receiver: Any, *args: Any, **kwargs: Any
    ) -> Any:
        self.asking.append(receiver)


class ConnectTests(AgentTestCase):
    """Connections that are not made."""

    def test_connecting_has_three_seconds(self) -> None:
        """S3: a connection has three seconds to be made, to a name as to an address."""
        for uri in (URL, b"http://jobs.example/"):
            asking = self.request(uri)
            self.assertEqual(self.reactor.tcpClients[-1][3], 3.0)
            self.connect().send(PLAIN)
            self.successResultOf(asking)

    def test_error_of_connecting_is_passed_on(self) -> None:
        """S1, S3: an error of connecting is passed on as it is."""
        for reason in (
            error.ConnectionRefusedError(),
            error.TimeoutError(),
            error.NoRouteError(),
            error.ConnectError("no file descriptors"),
        ):
            for uri in (URL, b"http://jobs.example/"):
                asking = self.request(uri)
                self.refuse(reason)
                self.reactor.advance(1)
                self.assertIs(self.failureResultOf(asking, error.ConnectError).value, reason)

    def test_dns_lookup_error_when_a_name_has_no_address(self) -> None:
        """S2: a name without an address is an error of its own."""
        resolver = Resolver()
        self.reactor.installNameResolver(resolver)
        asking = self.request(b"http://jobs.invalid/")
        resolver.asking[0].resolutionComplete()
        self.failureResultOf(asking, error.DNSLookupError)
        self.assertEqual(self.attempts, 0)

    def test_cancelling_stops_connecting(self) -> None:
        """A request that is cancelled while it connects gives that up, and says so."""
        for uri in (URL, b"http://jobs.example/"):
            asking = self.request(uri)
            asking.cancel()
            self.failureResultOf(
                asking, error.ConnectingCancelledError, error.ConnectError, CancelledError
            )
            self.assertTrue(self.reactor.connectors[-1].stoppedConnecting)

    def test_cancelling_during_the_lookup_never_connects(self) -> None:
        """A request that is cancelled before its server's address is known never connects."""
        resolver = Resolver()
        self.reactor.installNameResolver(resolver)
        asking = self.request(b"http://jobs.example/")
        asking.cancel()
        self.failureResultOf(
            asking,
            error.ConnectingCancelledError,
            error.ConnectError,
            error.DNSLookupError,
            CancelledError,
        )
        resolver.asking[0].addressResolved(IPv4Address("TCP", "10.0.0.9", 80))
        resolver.asking[0].resolutionComplete()
        self.assertEqual(self.attempts, 0)

    def test_next_request_connects_after_an_error(self) -> None:
        """After an error of connecting the next request connects anew."""
        asking = self.request()
        self.refuse(error.ConnectionRefusedError())
        self.failureResultOf(asking, error.ConnectionRefusedError)
        self.exchange()


class FailureTests(AgentTestCase):
    """Requests that are sent, and whose response does not come, or not whole."""

    beginnings = (
        b"H",
        b"HTTP/1.1 200 OK\r\n",
        OK + b"Content-Length: 5\r\n",
        OK + b"Content-Length: 5\r\n\r\n",
        OK + b"Content-Length: 5\r\n\r\nhell",
        CHUNKED,
        CHUNKED + b"5\r\nhell",
        CHUNKED + b"5\r\nhello\r\n",
        CHUNKED + b"5\r\nhello\r\n0\r\n",
        CHUNKED + b"5\r\nhello\r\n0\r\nX-T: 1\r\n",
    )

    def test_response_never_received_when_nothing_came(self) -> None:
        """S6: if the connection ends before anything came back, the error says just that."""
        for reason in (error.ConnectionDone(), error.ConnectionLost()):
            attempts = self.attempts
            asking = self.request()
            connection = self.connect()
            connection.end(reason)
            failed = self.failureResultOf(asking, ResponseNeverReceived)
            self.assertIs(failed.value.reasons[0].value, reason)
            self.assertEqual((self.attempts, connection.requests), (attempts + 1, 1))

    def test_request_on_a_kept_connection_is_not_sent_again(self) -> None:
        """S22: a request over a kept connection that has just ended is not sent again."""
        connection = self.exchange()
        asking = self.request()
        connection.end()
        self.failureResultOf(asking, ResponseNeverReceived)
        self.assertEqual((self.attempts, connection.requests), (1, 2))

    def test_response_failed_when_the_connection_ends_within_it(self) -> None:
        """S9: if the connection ends in the middle of a response, there is none."""
        for beginning in self.beginnings:
            for reason in (error.ConnectionDone(), error.ConnectionLost()):
                asking = self.request()
                connection = self.connect()
                connection.send(beginning)
                self.assertNoResult(asking)
                connection.end(reason)
                failed = self.failureResultOf(asking, ResponseFailed)
                self.assertIs(failed.type, ResponseFailed)

    def test_response_never_received_when_cancelled_before_it(self) -> None:
        """S8: a request that is cancelled before anything came back says so; it ends everything."""
        asking = self.request()
        connection = self.connect()
        asking.cancel()
        self.assert_failed(asking, ResponseNeverReceived)
        connection.send(PLAIN)
        connection.end(error.ConnectionAborted())
        self.assert_not_kept(connection)

    def test_response_failed_when_cancelled_within_it(self) -> None:
        """S21: a request that is cancelled in the middle of its response ends the connection."""
        for beginning in (*self.beginnings, OK + b"\r\nhell", b"HTTP/1.1 100 Continue\r\n\r\n"):
            asking = self.request()
            connection = self.connect()
            connection.send(beginning)
            asking.cancel()
            self.assert_failed(asking, ResponseFailed)
            connection.end(error.ConnectionAborted())

    def test_response_never_received_when_cancelled_on_a_kept_connection(self) -> None:
        """S8: whether anything came back is told for each request of a connection by itself."""
        connection = self.exchange()
        asking = self.request()
        asking.cancel()
        self.assert_failed(asking, ResponseNeverReceived)
        self.assertEqual(connection.requests, 2)

    def test_cancelling_after_the_response_does_nothing(self) -> None:
        """Cancelling a request that has its response does nothing to its connection."""
        asking = self.request()
        connection = self.connect()
        connection.send(PLAIN)
        self.successResultOf(asking)
        asking.cancel()
        self.assert_kept(connection)

    def test_failure_has_its_reason(self) -> None:
        """An error tells what was behind it."""
        asking = self.request()
        self.connect()
        asking.cancel()
        failed = self.failureResultOf(asking, ResponseNeverReceived)
        self.assertTrue(failed.value.reasons[0].check(CancelledError))
        asking = self.request()
        self.connect().send(b"SSH-2.0-x\r\n")
        failed = self.failureResultOf(asking, ResponseFailed)
        self.assertTrue(failed.value.reasons[0].check(BadResponse))
