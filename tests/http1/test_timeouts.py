"""Clients that are slow, silent, idle, or do not read."""

from tests.support.http1_server import (
    GET,
    JOB,
    RawClient,
    ServerTestCase,
    head,
    post,
    post_chunked,
)
from tests.support.proxy import result_of


class SlowTests(ServerTestCase):
    """Q13 and Q14: clients that take their time."""

    def trickle(self, client: RawClient, data: bytes) -> None:
        """Send a byte each half second until something comes back."""
        for byte in data:
            client.send(bytes([byte]))
            self.clock.advance(0.5)
            if client.transport.value():
                return

    def test_408_when_a_head_takes_over_ten_seconds(self) -> None:
        """Q13: a head of which a byte comes each half second is given up after 10 seconds."""
        client = self.connect()
        self.trickle(client, head())
        self.assertEqual(self.clock.seconds(), 10)
        self.assert_refused(client, 408, "request-timeout")

    def test_408_ten_seconds_after_the_first_byte_of_a_slow_body(self) -> None:
        """Q13: a slow body is given up 10 seconds after its request began."""
        client = self.connect()
        client.send(head(b"Content-Length: 60000")[:-1])
        self.clock.advance(6)
        client.send(b"\n")
        self.trickle(client, b"x" * 60)
        self.assertEqual(self.clock.seconds(), 10)
        self.assert_refused(client, 408, "request-timeout")

    def test_408_when_chunks_are_slow(self) -> None:
        """Q13: slow chunks are given up just so."""
        client = self.connect()
        client.send(post_chunked(b""))
        self.trickle(client, b"1\r\nx\r\n" * 10)
        self.assertEqual(self.clock.seconds(), 10)
        self.assert_refused(client, 408, "request-timeout")

    def test_request_in_time_is_served_and_the_next_has_its_own_time(self) -> None:
        """Q13: a request that took less is served, and the next one has 10 seconds of its own."""
        client = self.connect()
        for number in range(3):
            client.send(post()[:-1])
            self.clock.advance(9.5)
            client.send(post()[-1:])
            self.starts[number].respond(result_of("1"))
            self.assertEqual(client.statuses, [200] * (number + 1))

    def test_request_that_begins_in_the_segment_of_another_has_its_own_time(self) -> None:
        """Q13: a request that begins in one segment with the end of another has its own time."""
        client = self.connect()
        client.send(GET[:9])
        self.clock.advance(9)
        client.send(GET[9:] + GET[:9])
        self.clock.advance(9)
        client.send(GET[9:])
        self.assertEqual(client.statuses, [404, 404])

    def test_408_ten_seconds_after_the_first_byte_of_a_second_request(self) -> None:
        """Q13: a second request is given up 10 seconds after its own first byte."""
        client = self.connect()
        client.send(GET)
        self.clock.advance(20)
        client.send(post()[:20])
        self.clock.advance(9.5)
        self.assertEqual(client.statuses, [404])
        self.clock.advance(0.5)
        self.assert_refused(client, 408, "request-timeout", ahead=1)

    def test_time_before_the_first_byte_does_not_count(self) -> None:
        """Q13: the time before a connection's first byte is not counted against its request."""
        client = self.connect()
        self.clock.advance(9)
        client.send(post()[:20])
        self.clock.advance(9)
        client.send(post()[20:])
        self.starts[0].respond(result_of("1"))
        self.assertEqual(client.statuses, [200])

    def test_silent_client_is_closed_after_ten_seconds(self) -> None:
        """Q14: a client that sends nothing is closed after 10 seconds, without a response."""
        client = self.connect()
        self.clock.advance(9.9)
        self.assertTrue(client.is_open)
        self.clock.advance(0.1)
        self.assertFalse(client.is_open)
        self.assertEqual(client.transport.value(), b"")
        self.assertEqual(self.traffic.refused, {"silent": 1})

    def test_empty_lines_keep_no_connection_open(self) -> None:
        """Q14: empty lines do not keep a connection open for long."""
        for piece in (b"\r\n", b"\n", b"\r"):
            client = self.connect()
            for _ in range(12):
                client.send(piece)
                self.clock.advance(5)
            self.assertFalse(client.is_open, piece)


class IdleTests(ServerTestCase):
    """Connections between requests."""

    settings = {"wait": 100.0}

    def test_idle_connection_is_closed_after_thirty_seconds(self) -> None:
        """A connection on which nothing was asked for 30 seconds is closed without a word."""
        client = self.connect()
        for number in range(1, 4):
            self.clock.advance(9 if number == 1 else 29.5)
            client.send(GET)
            self.assertEqual(client.statuses, [404] * number)
        self.clock.advance(29.9)
        self.assertTrue(client.is_open)
        self.clock.advance(0.1)
        self.assertFalse(client.is_open)
        self.assertEqual(client.statuses, [404] * 3)
        self.assertEqual(self.traffic.refused, {})

    def test_held_client_is_not_idle(self) -> None:
        """A held client may be silent for as long as its job takes, and for 30 seconds more."""
        client = self.hold()
        self.clock.advance(90)
        self.assertTrue(client.is_held)
        self.end()
        self.clock.advance(29.5)
        client.send(GET)
        self.assertEqual(client.statuses, [200, 404])

    def test_connection_is_closed_when_its_client_says_so(self) -> None:
        """A connection is closed after a response if its client said so."""
        for value in (b"close", b"Close", b"x, close"):
            client = self.connect()
            client.send(head(b"Connection: " + value, start=b"GET / HTTP/1.1") + GET)
            self.assertEqual(client.response.headers["connection"], "close")
            self.assertFalse(client.is_open)
            self.assertFalse(client.transport.is_aborted)


class UnreadTests(ServerTestCase):
    """Q22: clients that do not read."""

    def check(self, stream: bytes, seconds: float) -> None:
        client = self.connect()
        client.transport.is_read = False
        client.send(stream)
        for start in self.starts:
            start.respond(result_of("1"))
        self.starts.clear()
        self.clock.advance(seconds - 0.1)
        self.assertTrue(client.is_open)
        self.clock.advance(0.1)
        self.clock.advance(1)
        self.assertTrue(client.transport.is_aborted)
        self.assertFalse(client.is_open)

    def test_unread_response_is_cut_off(self) -> None:
        """Q22: a connection whose response is not read is cut off in the end."""
        self.check(post(), 30)

    def test_unread_last_response_is_cut_off(self) -> None:
        """Q22: a connection that is to be closed after its response is cut off too."""
        self.check(post(JOB, b"Connection: close"), 30)

    def test_client_that_does_not_read_is_not_read_from(self) -> None:
        """Q22: a client that asks on and reads nothing is not listened to until it reads."""
        client = self.connect()
        client.transport.is_read = False
        count = 0
        while client.transport.producerState == "producing" and count < 10_000:
            client.send(GET)
            count += 1
        self.assertLess(len(client.transport.value()), 100_000)
        client.transport.drain()
        client.send(GET)
        self.assertEqual(client.statuses, [404] * (count + 1))

    def test_requests_in_one_segment_get_their_responses_once_they_are_read(self) -> None:
        """Q22: requests in the same segment as the one too many get their responses in turn."""
        client = self.connect()
        client.transport.is_read = False
        client.send(GET * 500 + b"FROB\r\n\r\n")
        client.transport.drain()
        self.clock.pump(4 * [0])
        self.assertEqual(client.statuses, [404] * 500 + [400])

    def test_client_that_never_reads_is_cut_off(self) -> None:
        """Q22: a client that is not listened to and does not read is cut off in the end."""
        client = self.connect()
        client.transport.is_read = False
        client.send(GET * 500 + GET[:9])
        for _ in range(3):
            self.clock.advance(30)
        self.assertTrue(client.transport.is_aborted)

    def test_408_when_a_client_that_has_read_again_is_slow(self) -> None:
        """Q13: a client that was not listened to for a while has no more time than others."""
        client = self.connect()
        client.transport.is_read = False
        client.send(GET * 500 + GET[:9])
        client.transport.drain()
        self.clock.pump([*4 * [0], 10])
        self.assertEqual(client.statuses, [404] * 500 + [408])

    def test_client_that_has_read_again_is_closed_after_thirty_idle_seconds(self) -> None:
        """A client that was not listened to for a while may not be idle for longer than others."""
        client = self.connect()
        client.transport.is_read = False
        client.send(GET * 500)
        self.clock.advance(20)
        client.transport.drain()
        self.clock.pump(4 * [0])
        self.clock.advance(29.9)
        self.assertTrue(client.is_open)
        self.clock.advance(0.1)
        self.assertFalse(client.is_open)
        self.assertEqual(client.statuses, [404] * 500)

    def test_unread_refusal_is_cut_off_sooner(self) -> None:
        """Q22: a connection whose refusal is not read is cut off sooner."""
        self.check(b"FROB\r\n\r\n", 2)


class StallTests(ServerTestCase):
    """A process that stalls while a request arrives: T6."""

    def stall(self, data: bytes) -> None:
        """Let time pass without a turn of the loop, and then turn it as Twisted does."""
        client = self.clients[-1]
        self.clock.rightNow += 11
        calls = [call for call in self.clock.calls if call.getTime() <= 11]
        for call in calls:
            self.clock.calls.remove(call)
            call.called = 1
            call.func(*call.args, **call.kw)
        # Timers come first, and then what has arrived.
        client.send(data)
        self.clock.advance(0)

    def test_request_that_came_during_a_stall_is_read(self) -> None:
        """T6: a request that came while the process stalled gets its response."""
        client = self.connect()
        self.stall(GET)
        self.assertEqual(client.response.status, 404)

    def test_rest_of_a_request_that_came_during_a_stall_is_read(self) -> None:
        """T6: so does a request of which the rest came meanwhile."""
        client = self.connect()
        client.send(GET[:20])
        self.stall(GET[20:])
        self.assertEqual(client.response.status, 404)

    def test_connection_that_is_still_silent_after_a_stall_is_closed(self) -> None:
        """T6: a connection on which nothing came is closed."""
        client = self.connect()
        self.stall(b"")
        self.assertFalse(client.is_open)
