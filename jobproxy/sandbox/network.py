"""Connections with a simulated network latency."""

from collections import deque
from collections.abc import Callable
from typing import Any, cast

from twisted.internet.interfaces import IReactorTime, ITCPTransport
from twisted.internet.protocol import connectionDone
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.python.failure import Failure
from twisted.web.http import Request


class Connection(ProtocolWrapper):
    """An accepted connection that delays bytes, each way and in order.

    On a real network a connection is established after one round trip, and the client's first bytes
    are sent only then. Here the kernel accepts it at once, so the round trip is added to them.
    """

    factory: "LatencyFactory"

    def __init__(self, factory: "LatencyFactory", wrapped: Any) -> None:
        super().__init__(factory, wrapped)
        self._incoming = _Pipe(factory)
        self._outgoing = _Pipe(factory)
        self._closed: list[Callable[[], None]] = []
        self._is_closed = False

    def when_closed(self, call: Callable[[], None]) -> None:
        """Call a function when this end of the connection is closed, or now if it is."""
        if self._is_closed:
            call()
        else:
            self._closed.append(call)

    def makeConnection(self, transport: Any) -> None:
        self._incoming.open_after(2 * self.factory.latency)
        super().makeConnection(transport)

    def dataReceived(self, data: bytes) -> None:
        self._incoming.send(lambda: super(Connection, self).dataReceived(data))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._incoming.send(lambda: self._lose(reason))

    def write(self, data: bytes) -> None:
        self._outgoing.send(lambda: super(Connection, self).write(data))

    def writeSequence(self, data: Any) -> None:
        self.write(b"".join(data))

    def loseConnection(self) -> None:
        self._outgoing.send(lambda: super(Connection, self).loseConnection())
        self._close()

    def abortConnection(self) -> None:
        """Reset the connection; the client sees it after the latency."""
        self._outgoing.send(cast(ITCPTransport, self.transport).abortConnection)
        self._close()

    def _lose(self, reason: Failure) -> None:
        self._close()
        super().connectionLost(reason)

    def _close(self) -> None:
        self._is_closed = True
        calls, self._closed = self._closed, []
        for call in calls:
            call()


class LatencyFactory(WrappingFactory["Connection"]):
    """Wraps a factory so that its connections have a latency.

    :param latency: seconds each way.
    """

    protocol = Connection
    noisy = False

    def __init__(self, wrapped: Any, clock: IReactorTime, latency: float) -> None:
        super().__init__(wrapped)
        self.clock = clock
        self.latency = latency


def connection_of(request: Request) -> Connection:
    """Return the connection of a request."""
    connection = request.channel.transport
    assert isinstance(connection, Connection)
    return connection


class _Pipe:
    """Makes calls after the latency, in order."""

    def __init__(self, factory: LatencyFactory) -> None:
        self._clock = factory.clock
        self._latency = factory.latency
        self._calls: deque[Callable[[], None]] = deque()
        self._opens = 0.0

    def open_after(self, seconds: float) -> None:
        self._opens = self._clock.seconds() + seconds

    def send(self, call: Callable[[], None]) -> None:
        if not self._latency:
            call()
            return
        self._calls.append(call)
        wait = max(0.0, self._opens - self._clock.seconds())
        self._clock.callLater(wait + self._latency, self._deliver)

    def _deliver(self) -> None:
        self._calls.popleft()()
