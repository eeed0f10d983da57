"""Connections with a simulated latency."""

from twisted.internet.error import ConnectionDone
from twisted.internet.testing import StringTransportWithDisconnection

from jobproxy.sandbox.network import Connection
from tests.support.network import NetworkTestCase


class LatencyTests(NetworkTestCase):
    """Bytes with a latency."""

    def test_first_bytes_arrive_after_three_latencies(self) -> None:
        """A client's first bytes arrive after three latencies, two for its connection."""
        connection, recorder, _ = self.connect()
        connection.dataReceived(b"a")
        self.advance(2.5)
        self.assertEqual(recorder.got, [])
        self.advance(0.5)
        self.assertEqual(recorder.got, [(self.at(3), b"a")])

    def test_later_bytes_arrive_after_one_latency(self) -> None:
        """On an established connection a client's bytes arrive after one latency."""
        connection, recorder, _ = self.connect()
        connection.dataReceived(b"a")
        self.advance(3)
        connection.dataReceived(b"b")
        self.advance(0.5)
        connection.dataReceived(b"c")
        self.assertEqual(len(recorder.got), 1)
        self.advance(0.5)
        self.advance(0.5)
        self.assertEqual(recorder.got[1:], [(self.at(4), b"b"), (self.at(4.5), b"c")])

    def test_connecting_costs_later_bytes_no_time(self) -> None:
        """A connection is established by itself, so later bytes do not wait for it."""
        connection, recorder, _ = self.connect()
        self.advance(10)
        connection.dataReceived(b"a")
        self.advance(1)
        self.assertEqual(recorder.got, [(self.at(11), b"a")])

    def test_bytes_wait_until_the_connection_is_established(self) -> None:
        """Bytes that are sent while the connection is being established wait, in order."""
        connection, recorder, _ = self.connect()
        for data in (b"a", b"b", b"c", b"d"):
            connection.dataReceived(data)
            self.advance(0.5)
        connection.dataReceived(b"e")
        self.advance(1)
        self.assertEqual(
            recorder.got, [(self.at(3), data) for data in (b"a", b"b", b"c", b"d", b"e")]
        )

    def test_responses_arrive_after_one_latency(self) -> None:
        """A response arrives after one latency, also on a new connection."""
        connection, _, transport = self.connect()
        connection.write(b"a")
        self.advance(0.5)
        connection.writeSequence([b"b", b"c"])
        self.assertEqual(transport.value(), b"")
        self.advance(0.5)
        self.assertEqual(transport.value(), b"a")
        self.advance(0.5)
        self.assertEqual(transport.value(), b"abc")

    def test_bytes_and_close_stay_in_order(self) -> None:
        """Bytes stay in order, both ways, and so does a close after them."""
        connection, recorder, transport = self.connect()
        for number in range(100):
            connection.dataReceived(b"%d" % number)
            connection.write(b"<%d>" % number)
        connection.loseConnection()
        self.advance(1)
        self.assertEqual(transport.value(), b"".join(b"<%d>" % number for number in range(100)))
        self.assertFalse(transport.connected)
        self.advance(2)
        self.assertEqual([data for _, data in recorder.got], [b"%d" % n for n in range(100)])
        self.assertEqual(recorder.lost, [(self.at(3), ConnectionDone)])

    def test_server_close_takes_two_latencies(self) -> None:
        """A client sees a close after one latency, and the server its completion after two."""
        connection, recorder, transport = self.connect()
        self.advance(2)
        connection.loseConnection()
        self.advance(0.5)
        self.assertTrue(transport.connected)
        self.advance(0.5)
        self.assertFalse(transport.connected)
        self.assertFalse(transport.disconnected, "it is not a reset")
        self.assertEqual(recorder.lost, [])
        self.advance(1)
        self.assertEqual(recorder.lost, [(self.at(4), ConnectionDone)])

    def test_client_sees_a_reset_after_one_latency(self) -> None:
        """A client sees a reset after one latency."""
        connection, _, transport = self.connect()
        self.advance(2)
        connection.abortConnection()
        self.assertFalse(transport.disconnected)
        self.advance(1)
        self.assertTrue(transport.disconnected)
        self.advance(1)

    def test_server_sees_the_client_close_after_its_bytes(self) -> None:
        """The server sees a client's close after one latency, after the client's bytes."""
        connection, recorder, transport = self.connect()
        self.advance(2)
        connection.dataReceived(b"a")
        transport.loseConnection()
        self.advance(0.5)
        self.assertEqual((recorder.got, recorder.lost), ([], []))
        self.advance(0.5)
        self.assertEqual(recorder.got, [(self.at(3), b"a")])
        self.assertEqual(recorder.lost, [(self.at(3), ConnectionDone)])

    def test_connections_are_independent(self) -> None:
        """No connection waits for another one."""
        first, slow, _ = self.connect()
        first.dataReceived(b"a")
        self.advance(2)
        second, fast, _ = self.connect()
        second.dataReceived(b"b")
        self.advance(1)
        self.assertEqual((slow.got, fast.got), ([(self.at(3), b"a")], []))
        self.advance(2)
        self.assertEqual(fast.got, [(self.at(5), b"b")])


class NoLatencyTests(NetworkTestCase):
    """A network without latency."""

    latency = 0.0

    def test_bytes_are_passed_on_at_once(self) -> None:
        """Without latency bytes are passed on at once, without a timer."""
        connection, recorder, transport = self.connect()
        connection.dataReceived(b"a")
        connection.dataReceived(b"b")
        self.assertEqual([data for _, data in recorder.got], [b"a", b"b"])
        connection.write(b"c")
        connection.writeSequence([b"d", b"e"])
        self.assertEqual(transport.value(), b"cde")
        self.assertEqual(self.clock.getDelayedCalls(), [])
        connection.loseConnection()
        self.assertFalse(transport.connected)
        self.assertEqual(recorder.lost, [(1000, ConnectionDone)])

    def test_reset_is_immediate(self) -> None:
        """Without latency a reset is immediate."""
        connection, _, transport = self.connect()
        connection.abortConnection()
        self.assertTrue(transport.disconnected)
        self.assertFalse(transport.connected)


class WhenClosedTests(NetworkTestCase):
    """Calls when this end of a connection is closed."""

    def connect_watched(self) -> tuple[Connection, StringTransportWithDisconnection, list[float]]:
        """Return a connection, the client's transport, and the times of its close."""
        connection, _, transport = self.connect()
        self.advance(2)
        moments: list[float] = []
        connection.when_closed(lambda: moments.append(self.clock.seconds()))
        return connection, transport, moments

    def test_server_close_calls_at_once_and_once(self) -> None:
        """The server's own close calls at once, before the client sees it, and only once."""
        connection, _, moments = self.connect_watched()
        connection.loseConnection()
        self.assertEqual(moments, [self.at(2)])
        self.advance(1)
        self.advance(1)
        self.assertEqual(moments, [self.at(2)])

    def test_server_reset_calls_at_once(self) -> None:
        """The server's own reset calls at once as well."""
        connection, _, moments = self.connect_watched()
        connection.abortConnection()
        self.assertEqual(moments, [self.at(2)])
        self.advance(1)
        self.advance(1)
        self.assertEqual(moments, [self.at(2)])

    def test_client_close_calls_when_it_arrives(self) -> None:
        """A client's close calls when it arrives at the server."""
        _, transport, moments = self.connect_watched()
        transport.loseConnection()
        self.assertEqual(moments, [])
        self.advance(1)
        self.assertEqual(moments, [self.at(3)])

    def test_closed_connection_calls_at_once(self) -> None:
        """On a closed connection the call is made at once."""
        connection, transport, moments = self.connect_watched()
        transport.loseConnection()
        self.advance(1)
        connection.when_closed(lambda: moments.append(0))
        self.assertEqual(moments, [self.at(3), 0])

    def test_calls_are_made_in_order(self) -> None:
        """All calls are made, in the order in which they were requested."""
        connection, _, moments = self.connect_watched()
        connection.when_closed(lambda: moments.append(1))
        connection.when_closed(lambda: moments.append(2))
        connection.loseConnection()
        self.assertEqual(moments, [self.at(2), 1, 2])
        self.advance(1)
        self.advance(1)
