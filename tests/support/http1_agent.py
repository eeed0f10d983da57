"""The agent in memory: its connections are made by hand, and end as a test says."""

from typing import Any

from attrs import define
from twisted.internet import error
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.client import ResponseFailed
from twisted.web.http_headers import Headers
from twisted.web.iweb import IResponse

from jobproxy.http1.agent import PooledAgent
from jobproxy.http1.limits import ClientLimits

URL = b"http://10.0.0.9/start"
CLOSE = Headers({"Connection": ["close"]})
OK = b"HTTP/1.1 200 OK\r\n"
#: All of a response that lets its connection be kept.
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
        body: bytes = b"{}",
    ) -> Deferred[IResponse]:
        lines = [
            (name, value)
            for name, values in (headers or Headers()).getAllRawHeaders()
            for value in values
        ]
        return self.agent.send("POST", uri.decode(), lines, body)

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
        """Send a request, which takes a new connection, and respond to it."""
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
