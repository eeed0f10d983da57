"""Which connections the agent uses again."""

from twisted.internet import error
from twisted.internet.defer import gatherResults
from twisted.web.http_headers import Headers

from jobproxy.http1.limits import ClientLimits
from tests.support.http1_agent import (
    CHUNKED,
    OK,
    PLAIN,
    URL,
    AgentTestCase,
)


class KeepTests(AgentTestCase):
    """Which connections are used again."""

    def test_connection_is_kept_after_a_response_with_an_end(self) -> None:
        """A connection is used again after an HTTP/1.1 response whose end could be told."""
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

    def test_connection_is_kept_for_many_requests(self) -> None:
        """A connection is used again for as many requests as follow one another."""
        connection = self.exchange()
        for _ in range(100):
            self.reactor.advance(self.limits.idle_time / 2)
            self.assert_kept(connection)
        self.assertEqual(connection.requests, 101)

    def test_connection_is_not_kept_when_the_server_says_close(self) -> None:
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

    def test_connection_of_http_1_0_is_not_kept(self) -> None:
        """S22: a connection of HTTP/1.0 is not used again, whatever the server promises."""
        for lines in (b"", b"Connection: keep-alive\r\n"):
            response = b"HTTP/1.0 200 OK\r\n" + lines + b"Content-Length: 2\r\n\r\nhi"
            self.assert_not_kept(self.exchange(response))
            self.agent.close_idle()

    def test_connection_that_ended_with_the_body_is_not_kept(self) -> None:
        """S22: a connection whose end was the body's is not used again."""
        self.assert_not_kept(self.exchange(OK + b"\r\nhello"))

    def test_connection_with_bytes_after_the_response_is_not_kept(self) -> None:
        """S22: a response counts with bytes after it; its connection is not used again."""
        for after in (PLAIN, b"HTTP/1.1", b"x", b" ", b"\0"):
            self.assert_not_kept(self.exchange(PLAIN + after))
            self.agent.close_idle()

    def test_connection_with_unasked_bytes_is_aborted(self) -> None:
        """S22: a connection on which something comes unasked is aborted, and not used again."""
        for data in (PLAIN, b"x", b"\r\n", b"HTTP/1.1 408 Request Timeout\r\n\r\n"):
            connection = self.exchange()
            connection.send(data)
            self.assertTrue(connection.is_aborted)
            self.assert_not_kept(connection)
            connection.end(error.ConnectionAborted())
            self.agent.close_idle()

    def test_connection_closed_while_idle_is_not_used(self) -> None:
        """S22: a connection that the server closes while it is idle is not used again."""
        for reason in (error.ConnectionDone(), error.ConnectionLost()):
            connection = self.exchange()
            connection.end(reason)
            self.assert_not_kept(connection)
            self.agent.close_idle()

    def test_idle_connection_is_closed_after_its_time(self) -> None:
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

    def test_connection_is_not_used_after_its_time_without_a_timer(self) -> None:
        """S22: a connection is not used after its idle time, even if no timer has run since."""
        connection = self.exchange()
        self.reactor.rightNow += self.limits.idle_time
        self.exchange()
        self.assertTrue(connection.is_closed)
        self.assertEqual(connection.requests, 1)

    def test_each_idle_connection_has_its_own_time(self) -> None:
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

    def test_close_idle_closes_only_idle_connections(self) -> None:
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

    def test_close_idle_without_any_does_nothing(self) -> None:
        """Closing idle connections when there are none does nothing."""
        self.agent.close_idle()
        self.agent.close_idle()
        self.exchange()

    def test_request_with_close_has_its_own_connection(self) -> None:
        """A request with `Connection: close` has a new connection, which is closed after it."""
        idle = self.exchange()
        for value in ("close", "Close"):
            once = self.exchange(headers=Headers({"connection": [value]}))
            self.assertTrue(once.is_closed)
            self.assertFalse(once.is_aborted)
        self.assertEqual(idle.requests, 1)
        self.assert_kept(idle)

    def test_connection_is_kept_for_its_host_and_port_only(self) -> None:
        """A connection is used again only for the same host and port."""
        connection = self.exchange()
        for uri in (b"http://10.0.0.8/start", b"http://10.0.0.9:81/start"):
            self.exchange(uri=uri)
        self.assertEqual(connection.requests, 1)
        asking = self.request(b"http://10.0.0.9:80/other?x")
        self.assertEqual(connection.requests, 2)
        connection.send(PLAIN)
        self.successResultOf(asking)

    def test_connection_used_last_is_used_first(self) -> None:
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

    def test_what_comes_after_close_is_ignored(self) -> None:
        """What the server does after the agent has closed a connection matters to nobody."""
        connection = self.exchange()
        self.agent.close_idle()
        connection.send(b"x")
        connection.end()
        self.exchange()


class NeverKeepTests(AgentTestCase):
    """An agent whose idle time is zero."""

    limits = ClientLimits(idle_time=0)

    def test_idle_time_of_zero_keeps_none(self) -> None:
        """With an idle time of zero no connection is used again, and none waits for a timer."""
        for _ in range(3):
            connection = self.exchange()
            self.assertTrue(connection.is_closed)
            self.assertEqual(self.reactor.getDelayedCalls(), [])
