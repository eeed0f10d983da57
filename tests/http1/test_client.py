"""The client with a sender in memory, and bodies that do not come at once."""

from typing import Any, cast

from attrs import define, field
from klein import Klein
from treq.testing import RequestTraversalAgent
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionLost
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.client import ResponseDone
from twisted.web.http import PotentialDataLoss, Request
from twisted.web.iweb import IResponse

from jobproxy.http1.client import JSON, PlainClient, read_body
from jobproxy.http1.response import BodyTooBig
from tests.support.agents import AgentSender

URL = "http://jobs.example/echo?x=1"


class EchoServer:
    """Responds with the request's body, and keeps the request."""

    app = Klein()

    def __init__(self) -> None:
        self.requests: list[Request] = []

    @app.route("/echo", methods=["POST", "PUT"])
    def echo(self, request: Request) -> bytes:
        self.requests.append(request)
        assert request.content is not None
        return request.content.read()


class SentRequestTests(SynchronousTestCase):
    """Requests of the client that a stock agent sends."""

    def setUp(self) -> None:
        super().setUp()
        self.server = EchoServer()
        self.client = PlainClient(AgentSender(RequestTraversalAgent(self.server.app.resource())))

    def test_request_arrives_with_its_headers_and_body(self) -> None:
        """A request arrives with its method, URL, headers and body, and none of treq's."""
        headers = (*JSON, (b"X-Request-Id", b"mine"))
        asking = self.client.request("PUT", URL, headers=headers, data=b"{}")
        response = self.successResultOf(asking)
        self.assertEqual(response.code, 200)
        self.assertEqual(self.successResultOf(read_body(response, 2)), b"{}")
        (request,) = self.server.requests
        self.assertEqual((request.method, request.uri), (b"PUT", b"/echo?x=1"))
        sent = request.requestHeaders
        self.assertEqual(sent.getRawHeaders(b"content-type"), [b"application/json"])
        self.assertEqual(sent.getRawHeaders(b"x-request-id"), [b"mine"])
        self.assertFalse(sent.hasHeader(b"accept-encoding"))

    def test_body_over_its_bound_fails(self) -> None:
        """A body that is larger than the caller accepts is an error."""
        asking = self.client.request("POST", URL, headers=JSON, data=b"x" * 100)
        response = self.successResultOf(asking)
        self.failureResultOf(read_body(response, 99), BodyTooBig)

    def test_other_arguments_raise(self) -> None:
        """What treq's client accepts besides is refused, and not dropped."""
        client: Any = self.client
        for arguments in ({"auth": ("a", "b")}, {"allow_redirects": True}, {"params": {"a": "b"}}):
            with self.assertRaises(TypeError):
                client.request("POST", URL, headers=JSON, data=b"", **arguments)
        self.assertEqual(self.server.requests, [])


@define(eq=False)
class SlowResponse:
    """A response whose body comes when a test says so; its own transport too.

    :ivar is_closed: whether the connection was closed by the receiver.
    """

    protocol: Any = field(default=None, init=False)
    is_closed: bool = field(default=False, init=False)

    def deliverBody(self, protocol: Any) -> None:
        self.protocol = protocol
        protocol.makeConnection(self)

    def stopProducing(self) -> None:
        self.is_closed = True

    def send(self, *parts: bytes) -> None:
        for part in parts:
            self.protocol.dataReceived(part)

    def end(self, reason: Exception) -> None:
        self.protocol.connectionLost(Failure(reason))


class ReadBodyTests(SynchronousTestCase):
    """Bodies that come in parts."""

    def setUp(self) -> None:
        super().setUp()
        self.response = SlowResponse()

    def read(self, limit: int = 10) -> Deferred[bytes]:
        return read_body(cast(IResponse, self.response), limit)

    def test_parts_are_put_together(self) -> None:
        """A body fires once its end has come, also one that only the connection's end shows."""
        for reason in (ResponseDone(), PotentialDataLoss()):
            reading = self.read()
            self.response.send(b"01234", b"56789")
            self.assertNoResult(reading)
            self.response.end(reason)
            self.assertEqual(self.successResultOf(reading), b"0123456789")
            self.assertFalse(self.response.is_closed)

    def test_body_cut_short_fails(self) -> None:
        """A body whose connection is lost before its end fails with the reason."""
        reading = self.read()
        self.response.send(b"01234")
        self.response.end(ConnectionLost())
        self.failureResultOf(reading, ConnectionLost)

    def test_body_over_its_bound_closes_the_connection(self) -> None:
        """The first byte over the bound ends the reading; what comes after it is ignored."""
        reading = self.read()
        self.response.send(b"0123456789", b"x")
        self.failureResultOf(reading, BodyTooBig)
        self.assertTrue(self.response.is_closed)
        self.response.send(b"more")
        self.response.end(ConnectionLost())

    def test_cancelling_closes_the_connection(self) -> None:
        """A reading that is cancelled closes the connection; what comes after it is ignored."""
        reading = self.read()
        self.response.send(b"01234")
        reading.cancel()
        self.failureResultOf(reading, CancelledError)
        self.assertTrue(self.response.is_closed)
        self.response.send(b"more")
        self.response.end(ConnectionLost())
