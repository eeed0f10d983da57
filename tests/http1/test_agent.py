"""The HTTP client in memory: what it sends, what it keeps, and how it tells of every end."""

from collections.abc import Callable
from typing import Any

from attrs import define
from treq.client import HTTPClient
from twisted.internet import error
from twisted.internet.address import IPv4Address
from twisted.internet.defer import CancelledError, Deferred, fail, gatherResults, maybeDeferred
from twisted.internet.interfaces import IConsumer, IHostnameResolver
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.client import ResponseDone, ResponseFailed, ResponseNeverReceived
from twisted.web.error import SchemeNotSupported
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IBodyProducer, IResponse
from zope.interface import implementer
from zope.interface.verify import verifyObject

from jobproxy.http1.agent import PooledAgent
from jobproxy.http1.client import CLOSE as CLOSE_LINES
from jobproxy.http1.client import JSON, BodyTooBig, PlainClient, read_body
from jobproxy.http1.limits import ClientLimits
from jobproxy.http1.response import BadResponse
from jobproxy.http1.sender import BytesProducer

URL = b"http://10.0.0.9/start"
CLOSE = Headers({"Connection": ["close"]})
OK = b"HTTP/1.1 200 OK\r\n"
#: All of an answer that lets its connection be kept.
PLAIN = OK + b"Content-Length: 2\r\n\r\nhi"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
BODY_LIMIT = 65_536
HEAD_LIMIT = 32_768


@define(eq=False)
class Connection:
    """A connection of the agent's, from the server's side."""

    address: tuple[str, int]
    transport: StringTransport
    _protocol: Any

    @property
    def received(self) -> bytes:
        return self.transport.value()

    @property
    def requests(self) -> int:
        return self.received.count(b" HTTP/1.1\r\n")

    @property
    def is_closed(self) -> bool:
        """Whether the agent has ended it, in whatever way."""
        return bool(self.transport.disconnecting)

    @property
    def is_aborted(self) -> bool:
        """Whether the agent has ended it without sending or reading what is left."""
        return bool(self.transport.disconnected)

    def send(self, *parts: bytes) -> None:
        for part in parts:
            self._protocol.dataReceived(part)

    def end(self, reason: Exception | None = None) -> None:
        """End it, cleanly if no reason is given."""
        self.transport.disconnecting = True
        self._protocol.connectionLost(Failure(reason or error.ConnectionDone()))


class AgentTestCase(SynchronousTestCase):
    """An agent whose connections are made by hand; when the test ends, nothing may be left.

    :cvar limits: what the agent keeps to.
    """

    limits = ClientLimits()

    def setUp(self) -> None:
        super().setUp()
        self.reactor: Any = MemoryReactorClock()
        self.agent = PooledAgent(self.reactor, self.limits)
        self.connections: list[Connection] = []

    def tearDown(self) -> None:
        super().tearDown()
        self.agent.close_idle()
        self.reactor.advance(self.limits.idle_time)
        self.assertEqual(self.reactor.getDelayedCalls(), [])
        for connection in self.connections:
            self.assertTrue(connection.is_closed, f"{connection} is left open")

    @property
    def attempts(self) -> int:
        """How many connections the agent has tried to make."""
        return len(self.reactor.tcpClients)

    def request(
        self,
        uri: bytes = URL,
        headers: Headers | None = None,
        body: bytes | None = b"{}",
    ) -> Deferred[IResponse]:
        producer = None if body is None else BytesProducer(body)
        return self.agent.request(b"POST", uri, headers, producer)

    def connect(self) -> Connection:
        """Let the last connection that the agent tried to make succeed."""
        host, port, factory, *_ = self.reactor.tcpClients[-1]
        protocol = factory.buildProtocol(IPv4Address("TCP", "10.0.0.9", port))
        transport = StringTransport()
        connection = Connection((host, port), transport, protocol)
        self.connections.append(connection)
        protocol.makeConnection(transport)
        return connection

    def refuse(self, reason: Exception, index: int = -1) -> None:
        """Let a connection that the agent tried to make fail."""
        factory = self.reactor.tcpClients[index][2]
        factory.clientConnectionFailed(self.reactor.connectors[index], Failure(reason))

    def exchange(
        self, response: bytes = PLAIN, uri: bytes = URL, headers: Headers | None = None
    ) -> Connection:
        """Send a request, which takes a new connection, and answer it."""
        attempts = self.attempts
        asking = self.request(uri, headers)
        self.assertEqual(self.attempts, attempts + 1, "no new connection")
        connection = self.connect()
        connection.send(response)
        if not asking.called:
            connection.end()
        self.successResultOf(asking)
        return connection

    def assert_kept(self, connection: Connection) -> None:
        """Check that the next request goes over a connection."""
        attempts, requests = self.attempts, connection.requests
        asking = self.request()
        self.assertEqual((self.attempts, connection.requests), (attempts, requests + 1))
        connection.send(PLAIN)
        self.successResultOf(asking)

    def assert_not_kept(self, connection: Connection) -> None:
        """Check that a connection is closed, and that the next request goes over a new one."""
        requests = connection.requests
        self.assertTrue(connection.is_closed)
        self.exchange()
        self.assertEqual(connection.requests, requests)

    def assert_failed(self, asking: Deferred[Any], kind: type[Exception]) -> None:
        """Check that the last connection is aborted, and that a request failed with just this."""
        self.assertTrue(self.connections[-1].is_aborted)
        failed = self.failureResultOf(asking, ResponseFailed)
        self.assertIs(failed.type, kind)


class RequestTests(AgentTestCase):
    """What a request looks like."""

    def send(
        self, uri: bytes = URL, headers: Headers | None = None, body: bytes | None = b"{}"
    ) -> Connection:
        asking = self.request(uri, headers, body)
        connection = self.connect()
        connection.send(PLAIN)
        self.successResultOf(asking)
        return connection

    def test_provides(self) -> None:
        """The agent is one, to treq and to everything else that knows the interface."""
        verifyObject(IAgent, self.agent)

    def test_whole(self) -> None:
        """A request is its line, its host, the headers given, the body's length and the body."""
        headers = Headers({"Content-Type": ["application/json"]})
        self.assertEqual(
            self.send(b"http://jobs.example/start?x=1&y=%20", headers).received,
            b"POST /start?x=1&y=%20 HTTP/1.1\r\n"
            b"Host: jobs.example\r\n"
            b"Content-Type: application/json\r\n"
            b"Content-Length: 2\r\n"
            b"\r\n"
            b"{}",
        )

    def test_method(self) -> None:
        """The method is the one given."""
        asking = self.agent.request(b"GET", URL)
        connection = self.connect()
        self.assertTrue(connection.received.startswith(b"GET /start HTTP/1.1\r\n"))
        connection.send(PLAIN)
        self.successResultOf(asking)

    def test_no_body(self) -> None:
        """A request without a body says that it has none."""
        self.assertEqual(
            self.send(body=None).received,
            b"POST /start HTTP/1.1\r\nHost: 10.0.0.9\r\nContent-Length: 0\r\n\r\n",
        )

    def test_binary_body(self) -> None:
        """A body is sent as it is, whatever its bytes and however many they are."""
        body = bytes(range(256)) * 4_096
        received = self.send(body=body).received
        self.assertEqual(received.partition(b"\r\n\r\n")[2], body)
        self.assertIn(b"\r\nContent-Length: 1048576\r\n", received)

    def test_target(self) -> None:
        """A URL tells where to connect to, the path with the query, and the host as it is there."""
        for url, address, line, host in (
            ("http://10.0.0.9", ("10.0.0.9", 80), "/", "10.0.0.9"),
            ("http://10.0.0.9/", ("10.0.0.9", 80), "/", "10.0.0.9"),
            ("http://10.0.0.9:80/a", ("10.0.0.9", 80), "/a", "10.0.0.9:80"),
            ("http://10.0.0.9:8080/a/b", ("10.0.0.9", 8080), "/a/b", "10.0.0.9:8080"),
            ("http://10.0.0.9?a=b", ("10.0.0.9", 80), "/?a=b", "10.0.0.9"),
            ("http://10.0.0.9/a?b=/c?d#e", ("10.0.0.9", 80), "/a?b=/c?d", "10.0.0.9"),
            ("http://10.0.0.9//a/../b;c", ("10.0.0.9", 80), "//a/../b;c", "10.0.0.9"),
            ("http://[::1]:8080/a", ("::1", 8080), "/a", "[::1]:8080"),
            ("http://user:word@10.0.0.9:81/a", ("10.0.0.9", 81), "/a", "10.0.0.9:81"),
            ("HTTP://10.0.0.9/A", ("10.0.0.9", 80), "/A", "10.0.0.9"),
            ("http://jobs.example:82/a", ("127.0.0.1", 82), "/a", "jobs.example:82"),
        ):
            connection = self.send(url.encode())
            self.assertEqual(connection.address, address, url)
            head = f"POST {line} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 2\r\n\r\n"
            self.assertEqual(connection.received, head.encode() + b"{}", url)
            self.agent.close_idle()

    def test_connection_header(self) -> None:
        """A request's Connection header is sent as it was given."""
        received = self.send(headers=CLOSE).received
        self.assertIn(b"\r\nConnection: close\r\n", received)

    def test_repeated_header(self) -> None:
        """Of a header with several values each has a line."""
        received = self.send(headers=Headers({"X-A": ["1", "2"]})).received
        self.assertIn(b"\r\nX-A: 1\r\nX-A: 2\r\n", received)

    def test_injection(self) -> None:
        """A header's value cannot begin another header."""
        received = self.send(headers=Headers({"X-A": ["1\r\nX-B: 2"]})).received
        self.assertEqual(received.partition(b"\r\n\r\n")[0].count(b"\r\n"), 3)
        self.assertNotIn(b"\r\nX-B", received)

    def test_scheme(self) -> None:
        """S4: a URL of anything but HTTP is an error, and nothing is connected to."""
        for url in (b"ftp://10.0.0.9/", b"//10.0.0.9/", b"10.0.0.9", b"http:///a", b"http:", b""):
            asking = maybeDeferred(self.request, url)
            self.failureResultOf(asking, SchemeNotSupported)
        self.assertEqual(self.attempts, 0)


@implementer(IBodyProducer)
class SlowProducer:
    """A body that is not there yet."""

    length = 2

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:
        consumer.write(b"{")
        return Deferred()

    def pauseProducing(self) -> None:
        raise NotImplementedError

    def resumeProducing(self) -> None:
        raise NotImplementedError

    def stopProducing(self) -> None:
        raise NotImplementedError


class ProducerTests(AgentTestCase):
    """Bodies that cannot be sent."""

    limits = ClientLimits(connections=1)

    def test_slow(self) -> None:
        """A body that is not produced at once is an error, and takes no other request's turn."""
        for _ in range(2):
            asking = maybeDeferred(self.agent.request, b"POST", URL, None, SlowProducer())
            self.failureResultOf(asking, ValueError)
        self.assertEqual(self.attempts, 0)
        self.exchange()


class FailingProducer(BytesProducer):
    """A body that cannot be had."""

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:
        consumer.write(b"{")
        return fail(OSError())


class FailingProducerTests(AgentTestCase):
    """A body that cannot be had is not sent in part."""

    def test_failing(self) -> None:
        """A request whose body fails is not sent."""
        asking = maybeDeferred(self.agent.request, b"POST", URL, None, FailingProducer(b"{}"))
        self.failureResultOf(asking, ValueError, OSError)
        self.assertEqual(self.attempts, 0)


class Body(Protocol):
    """Takes a body in."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.ends: list[Failure] = []

    def dataReceived(self, data: bytes) -> None:
        self.parts.append(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.ends.append(reason)


class ResponseTests(AgentTestCase):
    """What comes back of a response."""

    def ask(self, *parts: bytes) -> Any:
        """Send a request, have it answered in parts, and return the response."""
        asking = self.request(headers=CLOSE)
        connection = self.connect()
        for part in parts:
            self.assertNoResult(asking)
            connection.send(part)
        if not asking.called:
            connection.end()
        return self.successResultOf(asking)

    def test_whole(self) -> None:
        """A response has the status, the headers and the body that were sent."""
        response = self.ask(
            b"HTTP/1.1 422 Unprocessable Content\r\n"
            b"Content-Type: text/plain\r\n"
            b"x-a: 1\r\n"
            b"Content-Length: 5\r\n"
            b"X-A:  2 \r\n"
            b"X-Empty:\r\n"
            b"\r\n"
            b"hello"
        )
        verifyObject(IResponse, response)
        self.assertEqual(response.code, 422)
        self.assertEqual(response.phrase, b"Unprocessable Content")
        self.assertEqual(response.version, (b"HTTP", 1, 1))
        self.assertEqual(response.length, 5)
        self.assertEqual(response.headers.getRawHeaders("content-type"), ["text/plain"])
        first, second = response.headers.getRawHeaders(b"X-a")
        self.assertEqual((first, second.strip()), (b"1", b"2"))
        self.assertEqual(response.headers.getRawHeaders("x-empty"), [""])
        self.assertFalse(response.headers.hasHeader("x-b"))
        self.assertEqual(self.successResultOf(read_body(response, 5)), b"hello")

    def test_deliver_body(self) -> None:
        """A body is delivered whole, and its end is a good one, to everyone who asks."""
        for data, body in ((PLAIN, b"hi"), (OK + b"Content-Length: 0\r\n\r\n", b"")):
            response = self.ask(data)
            for _ in range(2):
                receiver = Body()
                response.deliverBody(receiver)
                self.assertEqual(b"".join(receiver.parts), body)
                (end,) = receiver.ends
                self.assertTrue(end.check(ResponseDone))

    def test_previous_response(self) -> None:
        """A response can be told which one it came after, as treq does after a redirect."""
        first, second = self.ask(PLAIN), self.ask(PLAIN)
        second.setPreviousResponse(first)
        self.assertIs(second.previousResponse, first)
        self.assertIsNone(first.previousResponse)

    def test_no_phrase(self) -> None:
        """A status line needs no phrase."""
        for line in (b"HTTP/1.1 200\r\n", b"HTTP/1.1 200 \r\n"):
            response = self.ask(line + b"Content-Length: 2\r\n\r\nhi")
            self.assertEqual((response.code, response.phrase), (200, b""))

    def test_chunked(self) -> None:
        """A body in chunks is put together; extensions and trailers are not part of anything."""
        response = self.ask(CHUNKED + b"5;a=b\r\nhello\r\nA\r\n, world!!!\r\n0\r\nX-T: 1\r\n\r\n")
        self.assertEqual(response.body, b"hello, world!!!")
        self.assertFalse(response.headers.hasHeader("x-t"))

    def test_until_end(self) -> None:
        """S10: a body without a length is what comes until the connection ends."""
        for version in (b"1.1", b"1.0"):
            response = self.ask(b"HTTP/%b 200 OK\r\n\r\nhel" % version, b"lo")
            self.assertEqual(response.body, b"hello")

    def test_bodiless(self) -> None:
        """Responses with a status that has no body end with their head, whatever length it says."""
        for status in (204, 304):
            for line in (b"", b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n"):
                response = self.ask(b"HTTP/1.1 %d Nothing\r\n%b\r\n" % (status, line))
                self.assertEqual((response.code, response.body), (status, b""))

    def test_not_before_the_end(self) -> None:
        """A response is not there before all of its body is."""
        self.ask(OK + b"Content-Length: 5\r\n\r\n", b"hel", b"lo")
        self.ask(CHUNKED, b"5\r\nhel", b"lo\r\n", b"0\r\n", b"\r\n")

    def test_encoding(self) -> None:
        """S20: an encoded body is passed on as the bytes that came, so that it cannot swell."""
        for body in (b"\x1f\x8b\x08\x00\xff", b"no gzip at all"):
            line = b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(body)
            response = self.ask(OK + line + body)
            self.assertEqual(response.body, body)
            self.assertEqual(response.headers.getRawHeaders("content-encoding"), ["gzip"])

    def test_redirect(self) -> None:
        """S19: a redirect is a response like any other, and is not followed."""
        for status in (301, 302, 303, 307, 308):
            attempts = self.attempts
            response = self.ask(
                b"HTTP/1.1 %d Moved\r\nLocation: http://10.0.0.9/other\r\n"
                b"Content-Length: 0\r\n\r\n" % status
            )
            self.assertEqual(response.code, status)
            self.assertEqual(response.headers.getRawHeaders("location"), ["http://10.0.0.9/other"])
            self.assertEqual(self.attempts, attempts + 1)

    def test_cookies(self) -> None:
        """A cookie that the server sets is never sent back, over a kept connection either."""
        connection = self.exchange(OK + b"Set-Cookie: a=b; Path=/\r\nContent-Length: 2\r\n\r\nhi")
        self.assert_kept(connection)
        self.assertNotIn(b"cookie", connection.received.lower())
        self.assertNotIn(b"a=b", connection.received)


class InterimTests(AgentTestCase):
    """Responses that come before the response."""

    def test_skipped(self) -> None:
        """Up to 16 interim responses are skipped, and none of what they said is kept."""
        for interim in (b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Hints\r\nX-A: 1\r\n\r\n"):
            for data in ([interim] * 16 + [PLAIN], [interim * 16 + PLAIN]):
                asking = self.request()
                connection = self.connect()
                connection.send(*data)
                response = self.successResultOf(asking)
                self.assertEqual(response.code, 200)
                self.assertFalse(response.headers.hasHeader("x-a"))
                self.assert_kept(connection)
                self.agent.close_idle()

    def test_too_many(self) -> None:
        """S20: a seventeenth interim response ends the connection."""
        interim = b"HTTP/1.1 100 Continue\r\n\r\n"
        for data in ([interim] * 17, [interim * 17 + PLAIN]):
            asking = self.request()
            self.connect().send(*data)
            self.assert_failed(asking, ResponseFailed)

    def test_ended(self) -> None:
        """S9: a connection that ends after an interim response has brought no response."""
        asking = self.request()
        connection = self.connect()
        connection.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        connection.end()
        failed = self.failureResultOf(asking, ResponseFailed)
        self.assertIs(failed.type, ResponseFailed)

    def test_switching(self) -> None:
        """S9: a change of protocols, for which nobody asked, ends the connection."""
        for lines in (b"", b"Connection: upgrade\r\nUpgrade: x\r\n"):
            for after in (b"", PLAIN):
                asking = self.request()
                self.connect().send(b"HTTP/1.1 101 Switching\r\n" + lines + b"\r\n" + after)
                self.assert_failed(asking, ResponseFailed)


class SplitTests(AgentTestCase):
    """Responses arrive in pieces, wherever those begin and end."""

    responses = (
        PLAIN,
        OK + b"X-A: b\r\nX-Empty:\r\nx-a:  c d \r\nContent-Length: 5\r\nX-Z: z\r\n\r\nhello",
        CHUNKED + b"5\r\nhello\r\n1;a=b\r\n,\r\n6\r\n world\r\n0\r\nX-T: 1\r\nX-U: 2\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nX-A: 1\r\n\r\n" + PLAIN,
        b"HTTP/1.1 204 No Content\r\nX-A: 1\r\n\r\n",
        b"HTTP/1.1 422 What is this\r\nConnection: x, Close\r\nContent-Length: 2\r\n\r\nno",
    )

    def outcome(self, *parts: bytes) -> tuple[object, ...]:
        """Have a request answered, and return what came of it."""
        asking = self.request()
        connection = self.connect()
        connection.send(*parts)
        response: Any = self.successResultOf(asking)
        is_kept = not connection.is_closed
        self.agent.close_idle()
        lines = list(response.headers.getAllRawHeaders())
        return (response.code, response.phrase, lines, response.body, is_kept)

    def test_two(self) -> None:
        """In two pieces a response is what it is in one."""
        for response in self.responses:
            whole = self.outcome(response)
            for cut in range(1, len(response)):
                self.assertEqual(
                    self.outcome(response[:cut], response[cut:]), whole, response[:cut]
                )

    def test_single_bytes(self) -> None:
        """Byte by byte a response is what it is in one piece."""
        for response in self.responses:
            parts = [response[at : at + 1] for at in range(len(response))]
            self.assertEqual(self.outcome(*parts), self.outcome(response))


class KeepTests(AgentTestCase):
    """Which connections are used again."""

    def test_kept(self) -> None:
        """A connection is used again after an HTTP/1.1 answer whose end could be told."""
        for response in (
            PLAIN,
            OK + b"Content-Length: 0\r\n\r\n",
            CHUNKED + b"2\r\nhi\r\n0\r\n\r\n",
            CHUNKED + b"2\r\nhi\r\n0\r\nX-T: 1\r\n\r\n",
            OK + b"Connection: keep-alive\r\nContent-Length: 2\r\n\r\nhi",
            OK + b"Connection: x\r\nContent-Length: 2\r\n\r\nhi",
            b"HTTP/1.1 204 No Content\r\n\r\n",
            b"HTTP/1.1 422 What\r\nContent-Length: 2\r\n\r\nno",
            b"HTTP/1.1 100 Continue\r\n\r\n" + PLAIN,
        ):
            connection = self.exchange(response)
            self.assertFalse(connection.is_closed)
            self.assert_kept(connection)
            self.agent.close_idle()
            self.assertTrue(connection.is_closed)

    def test_many(self) -> None:
        """A connection is used again for as many requests as follow one another."""
        connection = self.exchange()
        for _ in range(100):
            self.reactor.advance(self.limits.idle_time / 2)
            self.assert_kept(connection)
        self.assertEqual(connection.requests, 101)

    def test_close(self) -> None:
        """S22: a connection that the server wants closed is not used again, however it says so."""
        for value in (
            b"close",
            b"Close",
            b"CLOSE",
            b"cLoSe",
            b"close, x",
            b"close,x",
            b"x, close",
            b"x,close",
            b"close ,x",
            b"\tclose\t",
            b"keep-alive, close",
            b"close, keep-alive",
            b"x\r\nConnection: close",
            b"close\r\nConnection: keep-alive",
        ):
            for body in (b"Content-Length: 2\r\n\r\nhi", CHUNKED[len(OK) :] + b"0\r\n\r\n"):
                response = OK + b"Connection: " + value + b"\r\n" + body
                self.assert_not_kept(self.exchange(response))
                self.agent.close_idle()

    def test_old(self) -> None:
        """S22: a connection of HTTP/1.0 is not used again, whatever the server promises."""
        for lines in (b"", b"Connection: keep-alive\r\n"):
            response = b"HTTP/1.0 200 OK\r\n" + lines + b"Content-Length: 2\r\n\r\nhi"
            self.assert_not_kept(self.exchange(response))
            self.agent.close_idle()

    def test_until_end(self) -> None:
        """S22: a connection whose end was the body's is not used again."""
        self.assert_not_kept(self.exchange(OK + b"\r\nhello"))

    def test_bytes_after(self) -> None:
        """S22: a connection with bytes after the answer is not used again; the answer counts."""
        for after in (PLAIN, b"HTTP/1.1", b"x", b" ", b"\0"):
            self.assert_not_kept(self.exchange(PLAIN + after))
            self.agent.close_idle()

    def test_bytes_while_idle(self) -> None:
        """S22: a connection on which something comes unasked is aborted, and not used again."""
        for data in (PLAIN, b"x", b"\r\n", b"HTTP/1.1 408 Request Timeout\r\n\r\n"):
            connection = self.exchange()
            connection.send(data)
            self.assertTrue(connection.is_aborted)
            self.assert_not_kept(connection)
            connection.end(error.ConnectionAborted())
            self.agent.close_idle()

    def test_closed_while_idle(self) -> None:
        """S22: a connection that the server closes while it is idle is not used again."""
        for reason in (error.ConnectionDone(), error.ConnectionLost()):
            connection = self.exchange()
            connection.end(reason)
            self.assert_not_kept(connection)
            self.agent.close_idle()

    def test_idle_time(self) -> None:
        """S22: a connection is used again before its idle time is over, and closed by the clock."""
        connection = self.exchange()
        self.reactor.advance(1.9)
        self.assert_kept(connection)
        self.reactor.advance(1.9)
        self.assertFalse(connection.is_closed)
        self.reactor.advance(0.1)
        self.assertTrue(connection.is_closed)
        self.assertEqual(self.reactor.getDelayedCalls(), [])
        self.assert_not_kept(connection)

    def test_late_clock(self) -> None:
        """S22: a connection is not used after its idle time, even if no timer has run since."""
        connection = self.exchange()
        self.reactor.rightNow += self.limits.idle_time
        self.exchange()
        self.assertTrue(connection.is_closed)
        self.assertEqual(connection.requests, 1)

    def test_each_idle_time(self) -> None:
        """Each idle connection is closed when its own time is over."""
        asking = []
        for uri in (URL, URL, b"http://10.0.0.8/", b"http://10.0.0.7/", URL):
            asking.append(self.request(uri))
            self.connect()
        for connection in self.connections:
            connection.send(PLAIN)
            self.reactor.advance(0.25)
        self.successResultOf(gatherResults(asking))
        self.reactor.advance(0.5)
        for closed in range(5):
            self.reactor.advance(0.125)
            states = [connection.is_closed for connection in self.connections]
            self.assertEqual(states, [True] * closed + [False] * (5 - closed))
            self.reactor.advance(0.125)
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_close_idle(self) -> None:
        """All idle connections can be closed at once; those in use stay, and are kept after."""
        busy = self.request()
        in_use = self.connect()
        others = [self.exchange(), self.exchange(uri=b"http://10.0.0.8/")]
        self.agent.close_idle()
        for connection in others:
            self.assertTrue(connection.is_closed)
            self.assertFalse(connection.is_aborted)
            connection.end()
        self.assertFalse(in_use.is_closed)
        in_use.send(PLAIN)
        self.successResultOf(busy)
        self.assert_kept(in_use)
        self.assert_kept(in_use)

    def test_close_idle_without_any(self) -> None:
        """Closing idle connections when there are none does nothing."""
        self.agent.close_idle()
        self.agent.close_idle()
        self.exchange()

    def test_request_says_close(self) -> None:
        """A request with `Connection: close` has a new connection, which is closed after it."""
        idle = self.exchange()
        for value in ("close", "Close"):
            once = self.exchange(headers=Headers({"connection": [value]}))
            self.assertTrue(once.is_closed)
            self.assertFalse(once.is_aborted)
        self.assertEqual(idle.requests, 1)
        self.assert_kept(idle)

    def test_origins(self) -> None:
        """A connection is used again only for the same host and port."""
        connection = self.exchange()
        for uri in (b"http://10.0.0.8/start", b"http://10.0.0.9:81/start"):
            self.exchange(uri=uri)
        self.assertEqual(connection.requests, 1)
        asking = self.request(b"http://10.0.0.9:80/other?x")
        self.assertEqual(connection.requests, 2)
        connection.send(PLAIN)
        self.successResultOf(asking)

    def test_youngest_first(self) -> None:
        """Of several idle connections the one that was used last is taken first."""
        asking, connections = [], []
        for _ in range(3):
            asking.append(self.request())
            connections.append(self.connect())
        order = [connections[1], connections[2], connections[0]]
        for connection in order:
            connection.send(PLAIN)
            self.reactor.advance(0.1)
        self.successResultOf(gatherResults(asking))
        again = []
        for connection in reversed(order):
            again.append(self.request())
            self.assertEqual(connection.requests, 2)
        self.assertEqual(self.attempts, 3)
        for connection in order:
            connection.send(PLAIN)
        self.successResultOf(gatherResults(again))

    def test_late_end(self) -> None:
        """What the server does after the agent has closed a connection matters to nobody."""
        connection = self.exchange()
        self.agent.close_idle()
        connection.send(b"x")
        connection.end()
        self.exchange()


class NeverKeepTests(AgentTestCase):
    """An agent whose idle time is zero."""

    limits = ClientLimits(idle_time=0)

    def test_never(self) -> None:
        """With an idle time of zero no connection is used again, and none waits for a timer."""
        for _ in range(3):
            connection = self.exchange()
            self.assertTrue(connection.is_closed)
            self.assertEqual(self.reactor.getDelayedCalls(), [])


class TurnTests(AgentTestCase):
    """Requests that wait because too many are under way."""

    limits = ClientLimits(connections=2)

    def ask(self, count: int) -> list[Deferred[IResponse]]:
        """Send requests that can be told apart by their number."""
        return [self.request(b"http://10.0.0.9/%d" % number) for number in range(count)]

    def test_order(self) -> None:
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

    def test_waiting_one_cancelled(self) -> None:
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

    def test_turn_is_passed_on(self) -> None:
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

        def answer_badly(asking: Deferred[IResponse]) -> None:
            self.connect().send(b"SSH-2.0-x\r\n")

        def end(asking: Deferred[IResponse]) -> None:
            self.connect().end()

        ways: list[Callable[[Deferred[IResponse]], None]] = [
            refuse,
            cancel,
            cancel_later,
            respond,
            answer_badly,
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

    def test_kept_connection(self) -> None:
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

    def test_time(self) -> None:
        """S3: a connection has three seconds to be made, to a name as to an address."""
        for uri in (URL, b"http://jobs.example/"):
            asking = self.request(uri)
            self.assertEqual(self.reactor.tcpClients[-1][3], 3.0)
            self.connect().send(PLAIN)
            self.successResultOf(asking)

    def test_errors(self) -> None:
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

    def test_no_name(self) -> None:
        """S2: a name without an address is an error of its own."""
        resolver = Resolver()
        self.reactor.installNameResolver(resolver)
        asking = self.request(b"http://jobs.invalid/")
        resolver.asking[0].resolutionComplete()
        self.failureResultOf(asking, error.DNSLookupError)
        self.assertEqual(self.attempts, 0)

    def test_cancelled(self) -> None:
        """A request that is cancelled while it connects gives that up, and says so."""
        for uri in (URL, b"http://jobs.example/"):
            asking = self.request(uri)
            asking.cancel()
            self.failureResultOf(
                asking, error.ConnectingCancelledError, error.ConnectError, CancelledError
            )
            self.assertTrue(self.reactor.connectors[-1].stoppedConnecting)

    def test_cancelled_while_the_name_is_looked_up(self) -> None:
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

    def test_again(self) -> None:
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

    def test_never_received(self) -> None:
        """S6: if the connection ends before anything came back, the error says just that."""
        for reason in (error.ConnectionDone(), error.ConnectionLost()):
            attempts = self.attempts
            asking = self.request()
            connection = self.connect()
            connection.end(reason)
            failed = self.failureResultOf(asking, ResponseNeverReceived)
            self.assertIs(failed.value.reasons[0].value, reason)
            self.assertEqual((self.attempts, connection.requests), (attempts + 1, 1))

    def test_never_received_again(self) -> None:
        """S22: a request over a kept connection that has just ended is not sent again."""
        connection = self.exchange()
        asking = self.request()
        connection.end()
        self.failureResultOf(asking, ResponseNeverReceived)
        self.assertEqual((self.attempts, connection.requests), (1, 2))

    def test_ended(self) -> None:
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

    def test_cancelled_before(self) -> None:
        """S8: a request that is cancelled before anything came back says so; it ends everything."""
        asking = self.request()
        connection = self.connect()
        asking.cancel()
        self.assert_failed(asking, ResponseNeverReceived)
        connection.send(PLAIN)
        connection.end(error.ConnectionAborted())
        self.assert_not_kept(connection)

    def test_cancelled_after(self) -> None:
        """S21: a request that is cancelled in the middle of its response ends the connection."""
        for beginning in (*self.beginnings, OK + b"\r\nhell", b"HTTP/1.1 100 Continue\r\n\r\n"):
            asking = self.request()
            connection = self.connect()
            connection.send(beginning)
            asking.cancel()
            self.assert_failed(asking, ResponseFailed)
            connection.end(error.ConnectionAborted())

    def test_cancelled_on_a_kept_connection(self) -> None:
        """S8: whether anything came back is told for each request of a connection by itself."""
        connection = self.exchange()
        asking = self.request()
        asking.cancel()
        self.assert_failed(asking, ResponseNeverReceived)
        self.assertEqual(connection.requests, 2)

    def test_cancelled_too_late(self) -> None:
        """Cancelling a request that is answered does nothing to its connection."""
        asking = self.request()
        connection = self.connect()
        connection.send(PLAIN)
        self.successResultOf(asking)
        asking.cancel()
        self.assert_kept(connection)

    def test_reason(self) -> None:
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


class FramingTests(AgentTestCase):
    """S9: what is not HTTP, or does not say clearly where it ends, ends the connection."""

    def check(self, *responses: bytes) -> None:
        """Check that none of these is taken for a response, or for the beginning of one."""
        for response in responses:
            asking = self.request()
            connection = self.connect()
            connection.send(response)
            if not asking.called:
                connection.end()
            failed = self.failureResultOf(asking, ResponseFailed)
            self.assertIs(failed.type, ResponseFailed, response)
            self.assertTrue(connection.is_closed)

    def test_not_http(self) -> None:
        """S9: something else than HTTP is no response."""
        self.check(
            b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
            b"220 mail.example ESMTP\r\n",
            b"ICY 200 OK\r\n\r\n",
            b"http/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            b"GET / HTTP/1.1\r\n\r\n",
            b"<html></html>",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
            b"\0" * 100,
            b"hi" + PLAIN,
        )

    def test_status_line(self) -> None:
        """S9: a status line needs a version that there is and a status of three digits."""
        self.check(
            b"HTTP/1.1\r\n\r\n",
            b"HTTP/1.1 \r\n\r\n",
            b"HTTP/1.2 200 OK\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/11 200 OK\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/0.9 200 OK\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/1.1 000 OK\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/1.1 099 OK\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/a.b 200 OK\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/1.1 20 OK\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/1.1 abc OK\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/1.1 -20 OK\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/1.1  200 OK\r\nContent-Length: 0\r\n\r\n",
        )

    def test_lengths(self) -> None:
        """S9: a length is one number of digits."""
        for value in (
            b"",
            b"-1",
            b"+5",
            b"0x5",
            b"5a",
            b"5 5",
            b"5,5",
            b"5, 5",
            b"5;",
            b'"5"',
            b"18446744073709551616",
            b"9" * 100,
        ):
            self.check(OK + b"Content-Length: " + value + b"\r\n\r\nhello")

    def test_conflicting_lengths(self) -> None:
        """S9: a body has one length, and no chunks besides."""
        self.check(
            OK + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
            OK + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            OK + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            OK + b"Content-Length: 5\r\nTransfer-Encoding: gzip\r\n\r\nhello",
        )

    def test_transfer_encodings(self) -> None:
        """S9: a body in chunks has these as its last encoding, and one without cannot be read."""
        for value in (b"", b"gzip", b"xchunked", b"chunked, gzip", b"chunkedx"):
            self.check(
                OK + b"Transfer-Encoding: " + value + b"\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            )

    def test_chunks(self) -> None:
        """S9: chunks have a length in hexadecimal digits, and lines end as lines do."""
        for chunks in (
            b"g\r\n",
            b"-5\r\nhello\r\n0\r\n\r\n",
            b"0x5\r\nhello\r\n0\r\n\r\n",
            b"5 \r\nhello\r\n0\r\n\r\n",
            b" 5\r\nhello\r\n0\r\n\r\n",
            b"\r\nhello\r\n0\r\n\r\n",
            b"5\nhello\n0\n\n",
            b"5\rhello\r\n0\r\n\r\n",
            b"5\r\nhelloX\r\n0\r\n\r\n",
            b"5\r\nhello0\r\n\r\n",
            b"4\r\nhello\r\n0\r\n\r\n",
            b"6\r\nhello\r\n0\r\n\r\n",
            b"10000000000000000\r\nhello",
            b"5\r\nhello\r\n0\r\nX y\r\n\r\n",
            b"5\r\nhello\r\n0\r\nContent-Length: 5\r\n\r\n",
        ):
            self.check(CHUNKED + chunks)

    def test_lines(self) -> None:
        """S9: header lines have a name, a colon at once, and nothing that could end them twice."""
        for line in (
            b"X-A",
            b"X-A b",
            b"X-A : b",
            b": b",
            b" X-A: b",
            b"X-A: b\r\n c",
            b"X-A: b\0c",
            b"X-A: b\rc",
            b"X-A: b\nX-B: c",
            b"X\xff: b",
            b"X\0: b",
            b"X(A): b",
        ):
            self.check(OK + line + b"\r\nContent-Length: 2\r\n\r\nhi")
        self.check(b"HTTP/1.1 200 OK\nContent-Length: 2\n\nhi")


class BoundTests(AgentTestCase):
    """S20: how much of a response is taken in."""

    def feed(self, beginning: bytes, part: bytes, most: int) -> None:
        """Check that an endless response fails, and that no more than so many bytes are taken."""
        asking = self.request()
        connection = self.connect()
        connection.send(beginning)
        sent = len(beginning)
        while not asking.called:
            self.assertLessEqual(sent, most)
            connection.send(part)
            sent += len(part)
        self.assert_failed(asking, ResponseFailed)

    def test_body(self) -> None:
        """S20: a body of 64 KiB is taken, whichever way its end is told."""
        body = b"x" * BODY_LIMIT
        chunk = b"%x\r\n" % 1024 + body[:1024] + b"\r\n"
        for data in (
            OK + b"Content-Length: 65536\r\n\r\n" + body,
            CHUNKED + b"10000\r\n" + body + b"\r\n0\r\nX-T: 1\r\n\r\n",
            CHUNKED + b"10000\r\n" + body + b"\r\n0\r\n\r\n",
            CHUNKED + chunk * 64 + b"0\r\n\r\n",
            OK + b"\r\n" + body,
        ):
            asking = self.request()
            connection = self.connect()
            connection.send(data)
            if not asking.called:
                connection.end()
            response: Any = self.successResultOf(asking)
            self.assertEqual(response.body, body)
            self.agent.close_idle()

    def test_body_too_big(self) -> None:
        """S20: a body of more than 64 KiB ends the connection, whichever way its end is told."""
        body = b"x" * (BODY_LIMIT + 1)
        for response in (
            OK + b"Content-Length: 65537\r\n\r\n" + body,
            OK + b"Content-Length: 1000000000\r\n\r\n" + body,
            CHUNKED + b"10001\r\n" + body,
            CHUNKED + b"1\r\nx\r\n" * len(body),
            OK + b"\r\n" + body,
        ):
            for size in (len(response), 1_000):
                asking = self.request()
                connection = self.connect()
                for at in range(0, len(response), size):
                    if not connection.is_closed:
                        connection.send(response[at : at + size])
                self.assert_failed(asking, ResponseFailed)

    def test_endless_body(self) -> None:
        """S20: a body without an end is not taken in for longer than its bound."""
        part = b"x" * 1_000
        self.feed(OK + b"\r\n", part, BODY_LIMIT + 2_000)
        self.feed(OK + b"Content-Length: 1000000000\r\n\r\n", part, BODY_LIMIT + 2_000)
        self.feed(CHUNKED + b"fffffffffffffff\r\n", part, BODY_LIMIT + 2_000)
        self.feed(CHUNKED, b"1\r\nx\r\n" * 100, 6 * BODY_LIMIT + 2_000)

    def test_head(self) -> None:
        """S20: a head of less than 32 KiB is taken, in one line or in many."""
        for lines in (
            b"X-A: " + b"a" * 32_000 + b"\r\n",
            b"X-A: " + b"a" * 91 + b"\r\n",
            b"X" * 32_000 + b": a\r\n",
        ):
            head = lines * (32_500 // len(lines))
            for size in (len(head), 1_000):
                asking = self.request()
                connection = self.connect()
                connection.send(OK)
                connection.send(*[head[at : at + size] for at in range(0, len(head), size)])
                connection.send(b"Content-Length: 2\r\n\r\nhi")
                self.successResultOf(asking)
                self.agent.close_idle()

    def test_head_too_big(self) -> None:
        """S20: a head of more than 32 KiB ends the connection, even if it comes all at once."""
        for lines in (
            b"X-A: " + b"a" * HEAD_LIMIT + b"\r\n",
            b"X-A: " + b"a" * 1_000 + b"\r\n",
            b"X" * HEAD_LIMIT + b": a\r\n",
        ):
            response = OK + lines * (HEAD_LIMIT // len(lines) + 2) + b"Content-Length: 2\r\n\r\nhi"
            asking = self.request()
            self.connect().send(response)
            self.assert_failed(asking, ResponseFailed)

    def test_endless_head(self) -> None:
        """S20: a head without an end is not taken in for longer than its bound."""
        most = HEAD_LIMIT + 2_000
        self.feed(OK, b"X-A: %b\r\n" % (b"a" * 100), most)
        self.feed(OK, b"a:\r\n" * 100, most)
        self.feed(OK, b"x" * 1_000, most)
        self.feed(OK + b"X-A: ", b"x" * 1_000, most)
        self.feed(OK + b"X-A: ", b" " * 1_000, most)
        self.feed(OK + b"X-A: ", b"x", most)
        self.feed(OK + b"Content-Length: ", b"0" * 1_000, most)
        self.feed(b"HTTP/1.1 200 ", b"x" * 1_000, most)
        self.feed(b"HTTP/1.1 200", b" " * 1_000, most)
        self.feed(b"HTTP/", b"1" * 1_000, most)
        self.feed(b"", b"\r\n" * 500, most)

    def test_endless_trailer(self) -> None:
        """S20: trailers without an end are not taken in for longer than a head's bound."""
        most = HEAD_LIMIT + 4_000
        self.feed(CHUNKED + b"0\r\n", b"X-A: %b\r\n" % (b"a" * 100), most)
        self.feed(CHUNKED + b"0\r\n", b"x" * 1_000, most)
        self.feed(CHUNKED + b"5\r\nhello\r\n0\r\nX-A: ", b"x" * 1_000, most)

    def test_endless_interim(self) -> None:
        """S20: interim responses without an end are not taken in for longer than the bounds."""
        self.feed(b"", b"HTTP/1.1 100 Continue\r\n\r\n", 1_000)
        self.feed(b"HTTP/1.1 103 Hints\r\n", b"X-A: %b\r\n" % (b"a" * 100), HEAD_LIMIT + 2_000)


class SmallBoundTests(AgentTestCase):
    """An agent with bounds of its own."""

    limits = ClientLimits(head=100, body=10, interim=1)

    def test_body(self) -> None:
        """A body's bound is the one given."""
        self.exchange(OK + b"Content-Length: 10\r\n\r\n0123456789")
        self.agent.close_idle()
        asking = self.request()
        self.connect().send(OK + b"Content-Length: 11\r\n\r\n0123456789a")
        self.assert_failed(asking, ResponseFailed)

    def test_head(self) -> None:
        """A head's bound is the one given."""
        asking = self.request()
        self.connect().send(OK + b"X-A: " + b"a" * 100 + b"\r\nContent-Length: 0\r\n\r\n")
        self.assert_failed(asking, ResponseFailed)

    def test_interim(self) -> None:
        """The number of interim responses is the one given."""
        self.exchange(b"HTTP/1.1 100 Continue\r\n\r\n" + PLAIN)
        self.agent.close_idle()
        asking = self.request()
        self.connect().send(b"HTTP/1.1 100 Continue\r\n\r\n" * 2 + PLAIN)
        self.assert_failed(asking, ResponseFailed)


class ClientTests(AgentTestCase):
    """What treq's client makes of the agent."""

    def setUp(self) -> None:
        super().setUp()
        self.client = PlainClient(PooledAgent(self.reactor, self.limits))

    def post(self, may_keep: bool) -> Connection:
        """POST, which takes a new connection, and have it answered."""
        headers = JSON if may_keep else (*JSON, *CLOSE_LINES)
        asking = self.client.request("POST", "http://10.0.0.9/start", headers=headers, data=b"{}")
        connection = self.connect()
        connection.send(PLAIN)
        response = self.successResultOf(asking)
        self.assertEqual(response.code, 200)
        self.assertEqual(self.successResultOf(read_body(response, 2)), b"hi")
        return connection

    def tearDown(self) -> None:
        self.reactor.advance(self.limits.idle_time)
        super().tearDown()

    def test_kind(self) -> None:
        """The client is one of treq's."""
        self.assertIsInstance(self.client, HTTPClient)

    def test_kept(self) -> None:
        """A POST of JSON says so, and nothing else; its connection may be used again."""
        connection = self.post(may_keep=True)
        self.assertEqual(
            connection.received,
            b"POST /start HTTP/1.1\r\nHost: 10.0.0.9\r\nContent-Type: application/json\r\n"
            b"Content-Length: 2\r\n\r\n{}",
        )
        asking = self.client.request("POST", "http://10.0.0.9/start", headers=JSON, data=b"[]")
        self.assertEqual(connection.requests, 2)
        connection.send(PLAIN)
        self.successResultOf(asking)

    def test_not_kept(self) -> None:
        """A POST whose connection may not be kept asks for its close, and closes it too."""
        kept = self.post(may_keep=True)
        connection = self.post(may_keep=False)
        self.assertIn(b"\r\nConnection: close\r\n", connection.received)
        self.assertTrue(connection.is_closed)
        self.assertEqual(kept.requests, 1)

    def test_own_connections(self) -> None:
        """Each client has its connections to itself."""
        kept = self.post(may_keep=True)
        self.client = PlainClient(PooledAgent(self.reactor, self.limits))
        self.post(may_keep=True)
        self.assertEqual(kept.requests, 1)

    def test_limit_of_the_caller(self) -> None:
        """S20: whoever collects a body can bound it more closely than the agent does."""
        asking = self.client.request("POST", "http://10.0.0.9/start", headers=JSON, data=b"{}")
        self.connect().send(PLAIN)
        response = self.successResultOf(asking)
        self.failureResultOf(read_body(response, 1), BodyTooBig)
        self.assertEqual(self.successResultOf(read_body(response, 2)), b"hi")
