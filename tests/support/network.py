"""Connections with a simulated latency, and a recorder at their end."""

from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransportWithDisconnection
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from jobproxy.sandbox.network import Connection, LatencyFactory


class Recorder(Protocol):
    """The server's end of a connection; it records what it received and when."""

    clock: Clock

    def __init__(self) -> None:
        self.got: list[tuple[float, bytes]] = []
        self.lost: list[tuple[float, type[BaseException]]] = []

    def dataReceived(self, data: bytes) -> None:
        self.got.append((self.clock.seconds(), data))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        assert reason.type is not None
        self.lost.append((self.clock.seconds(), reason.type))


class NetworkTestCase(SynchronousTestCase):
    """Connections to recorders; when the test ends, nothing may be in transit."""

    latency = 0.25

    def setUp(self) -> None:
        super().setUp()
        self.clock = Clock()
        # Not zero, so that a time is not mistaken for a duration.
        self.clock.advance(1000)

    def tearDown(self) -> None:
        super().tearDown()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def connect(self) -> tuple[Connection, Recorder, StringTransportWithDisconnection]:
        """Return a new connection, the recorder behind it, and the client's transport."""
        server = Factory.forProtocol(Recorder)
        transport = StringTransportWithDisconnection()
        connection = LatencyFactory(server, self.clock, self.latency).buildProtocol(
            transport.getPeer()
        )
        assert isinstance(connection, Connection)
        transport.protocol = connection
        recorder = connection.wrappedProtocol
        assert isinstance(recorder, Recorder)
        recorder.clock = self.clock
        connection.makeConnection(transport)
        return connection, recorder, transport

    def advance(self, latencies: float) -> None:
        self.clock.advance(latencies * self.latency)

    def at(self, latencies: float) -> float:
        """Return the time so many latencies after the start of the test."""
        return 1000 + latencies * self.latency
