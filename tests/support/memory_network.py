"""A network in memory, whose reactor is a clock: connections deliver at once, in order."""

from collections import deque
from collections.abc import Callable
from typing import Any

from twisted.internet import error
from twisted.internet.address import IPv4Address
from twisted.internet.interfaces import IReactorTCP, ITransport
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

Act = Callable[[], object]


@implementer(ITransport)
class End:
    """One end of a connection.

    :param post: delivers something soon.
    """

    disconnecting = False

    def __init__(self, post: Callable[[Act], None], peer: "End | None", port: int) -> None:
        self._post = post
        self._port = port
        self.protocol: Any = None
        self.is_open = True
        self.peer = peer

    def write(self, data: bytes) -> None:
        if self.is_open and data:
            self._post(lambda: self._arrive(data))

    def writeSequence(self, data: Any) -> None:
        self.write(b"".join(data))

    def loseConnection(self, reason: object = None) -> None:
        if not self.disconnecting:
            self.disconnecting = True
            self._post(lambda: self._close(error.ConnectionDone()))

    def abortConnection(self) -> None:
        self._post(lambda: self._close(error.ConnectionLost()))

    def loseWriteConnection(self) -> None:
        self.loseConnection()

    def getPeer(self) -> IPv4Address:
        return IPv4Address("TCP", "127.0.0.1", self._port)

    getHost = getPeer

    def registerProducer(self, producer: object, streaming: bool) -> None:
        """Nothing is ever held back."""

    def unregisterProducer(self) -> None:
        """Nothing is ever held back."""

    def pauseProducing(self) -> None:
        """Nothing is ever held back."""

    def resumeProducing(self) -> None:
        """Nothing is ever held back."""

    def _arrive(self, data: bytes) -> None:
        peer = self.peer
        if peer is not None and peer.is_open:
            peer.protocol.dataReceived(data)

    def _close(self, reason: Exception) -> None:
        for end in (self, self.peer):
            if end is not None and end.is_open:
                end.is_open = False
                end.protocol.connectionLost(Failure(reason))


class Connector:
    """What a client factory gets for its connection."""

    def getDestination(self) -> IPv4Address:
        return IPv4Address("TCP", "127.0.0.1", 0)

    def stopConnecting(self) -> None:
        """Connecting takes no time."""


@implementer(IReactorTCP)
class Network(Clock):
    """A clock that connects to servers by their ports.

    :ivar servers: the factory that listens on each port.
    """

    def __init__(self) -> None:
        super().__init__()
        self.servers: dict[int, Factory] = {}
        self._posted: deque[Act] = deque()
        self._is_delivering = False

    def connectTCP(
        self,
        host: str,
        port: int,
        factory: Any,
        timeout: float = 30,
        bindAddress: Any = None,  # noqa: N803 - IReactorTCP's
    ) -> Any:
        connector = Connector()
        factory.doStart()
        factory.startedConnecting(connector)
        if port not in self.servers:
            factory.clientConnectionFailed(connector, Failure(error.ConnectionRefusedError()))
            return connector
        near = End(self._post, None, port)
        far = End(self._post, near, port)
        near.peer = far
        far.protocol = self.servers[port].buildProtocol(near.getPeer())
        near.protocol = factory.buildProtocol(near.getPeer())
        far.protocol.makeConnection(far)
        near.protocol.makeConnection(near)
        return connector

    def listenTCP(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError("put the factory into servers")

    def _post(self, act: Act) -> None:
        """Deliver in order, also what is posted while something is delivered."""
        self._posted.append(act)
        if self._is_delivering:
            return
        self._is_delivering = True
        try:
            while self._posted:
                self._posted.popleft()()
        finally:
            self._is_delivering = False
