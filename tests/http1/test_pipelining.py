"""Clients that send a request before the one before has its response, or that leave."""

import tracemalloc

from jobproxy.http1.limits import ServerLimits
from jobproxy.http1.request_parser import RequestParser
from jobproxy.http1.server_connection import MAX_STARTED
from tests.support.http1_server import (
    GET,
    JOB,
    OTHER_JOB,
    ServerTestCase,
    cut,
    head,
    post,
    post_chunked,
)
from tests.support.proxy import result_of


class PipelineTests(ServerTestCase):
    """Q19 and Q20: clients that do not wait for a response before they send the next request."""

    def test_responses_come_in_the_order_of_their_requests(self) -> None:
        """Q19: responses come in the order of the requests, in one segment or in many."""
        stream = b"".join(
            head(b"X-Request-Id: %d" % number, start=b"GET /%d HTTP/1.1" % number)
            for number in range(50)
        )
        for size in (1, 7, 100, 100_000):
            client = self.connect()
            client.send_all(cut(stream, size))
            ids = [response.headers["x-request-id"] for response in client.responses]
            self.assertEqual(ids, [str(number) for number in range(50)])

    def test_requests_behind_a_held_one_wait_for_it(self) -> None:
        """Q19: requests behind a held one wait for it, however many there are."""
        client = self.hold()
        client.send(GET + post(OTHER_JOB))
        client.send(GET[:9])
        client.send(GET[9:] + post(OTHER_JOB))
        self.assertTrue(client.is_held)
        self.end()
        self.assertEqual(client.statuses, [200, 404])
        self.starts[1].respond(result_of("2"))
        self.assertEqual(client.statuses, [200, 404, 200, 404])
        self.starts[2].respond(result_of("3"))
        self.assertEqual(client.statuses, [200, 404, 200, 404, 200])
        self.assertEqual(client.responses[2].body, result_of("2"))
        self.assertEqual(client.responses[4].body, result_of("3"))

    def test_4_kib_may_be_sent_ahead(self) -> None:
        """Q20: 4 KiB may be sent ahead of a held request's response."""
        client = self.hold()
        client.send_all([GET] * (4_096 // len(GET)))
        self.assertTrue(client.is_held)
        self.end()
        self.assertEqual(client.statuses, [200] + [404] * (4_096 // len(GET)))

    def test_nothing_is_read_from_a_client_that_is_far_ahead(self) -> None:
        """Q20: beyond 4 KiB nothing is read until the response is sent; then all goes on."""
        for piece in (GET, post(b"y" * 2_000)):
            client = self.hold()
            client.send_all([piece] * (4_097 // len(piece) + 1))
            self.assertEqual(client.transport.producerState, "paused")
            self.clock.advance(15)
            self.assertTrue(client.is_held)
            self.end()
            self.assertEqual(client.statuses[0], 200)
            self.assertEqual(client.transport.producerState, "producing")
            self.assertEqual(self.traffic.refused, {})
            self.starts.clear()
            client.leave()

    def test_many_requests_at_once_leave_turns_to_others(self) -> None:
        """Q32: of thousands of tiny requests at once, only some get their response in one turn."""
        client, gone = self.connect(), self.connect()
        for each in (client, gone):
            each.send(GET * 2_000)
            self.assertEqual(len(each.statuses), MAX_STARTED)
        gone.leave()
        client.send(GET * 2_000)
        self.assertEqual(len(client.statuses), MAX_STARTED)
        self.assertEqual(client.transport.producerState, "paused")
        self.clock.pump([0])
        self.assertEqual(client.statuses, [404] * 4_000)
        self.assertEqual(client.transport.producerState, "producing")

    def test_requests_that_wait_take_little_memory(self) -> None:
        """L16: of thousands of requests behind a held one, few are parsed before their turn."""
        tiny, count = b"GET /%d HTTP/1.0\r\n\r\n" % 1, 3_000
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        client = self.hold()
        before, _ = tracemalloc.get_traced_memory()
        client.send(tiny.replace(b"1.0", b"1.1\r\nHost: x") * count)
        kept = tracemalloc.get_traced_memory()[0] - before
        self.assertLess(kept, 300_000)
        self.clock.advance(25)
        self.assertTrue(client.is_held)
        self.end()
        self.clock.pump((count // MAX_STARTED + 1) * [0])
        self.assertEqual(client.statuses, [200] + [404] * count)

    def test_bytes_behind_many_requests_are_judged_in_their_turn(self) -> None:
        """L16, Q10: what follows thousands of requests is parsed as if it had come alone."""
        for last, status in (
            (b"FR@B / HTTP/1.1\r\n\r\n", 400),
            (b"FROB / HTTP/1.1\r\n\r\n", 501),
            (head(b"Content-Length: 65537"), 413),
            (post_chunked(b"1\r\n{\r\n0\r\n\r\n"), 400),
            (post(b"\r\n\r\n" * 500), 400),
        ):
            client = self.connect()
            client.send_all(cut(GET * 1_000 + last, 30_000))
            self.clock.pump(10 * [0])
            self.assertEqual(client.statuses, [404] * 1_000 + [status])
            self.traffic.refused.clear()
        client = self.connect()
        client.send(GET * 1_000 + GET[:-1])
        self.clock.pump(10 * [0])
        self.clock.advance(10)
        self.assertEqual(client.statuses, [404] * 1_000 + [408])

    def test_connection_takes_no_more_memory_the_longer_it_lives(self) -> None:
        """L16: nothing is kept of requests that are complete, wherever the segments end."""
        parser = RequestParser(ServerLimits(), lambda *_: None)
        self.addCleanup(parser.close)
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        parser.feed(GET[:9])
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(1_000):
            parser.feed(GET[9:] + GET[:9])
            self.assertEqual(len(parser.take_requests()), 1)
        self.assertLess(tracemalloc.get_traced_memory()[0] - before, 10_000)

    def test_client_that_is_always_one_request_ahead_is_served(self) -> None:
        """Q20: a client that is ever one request ahead is served on: little of it is waiting."""
        client = self.hold()
        for number in range(100):
            client.send(post(OTHER_JOB))
            self.end(number)
            if not client.is_open:
                break
            self.starts[-1].ack("1")
        else:
            self.end(100)
        self.assertEqual(self.traffic.refused, {})
        self.assertEqual(client.statuses, [200] * 101)

    def test_400_waits_for_the_responses_before_it(self) -> None:
        """Q10: what cannot be a request is refused when all before it have their responses."""
        client = self.hold()
        client.send(GET + b"FR@B / HTTP/1.1\r\n\r\n")
        self.assertTrue(client.is_held)
        client.send(GET)
        self.end()
        self.assertEqual(client.statuses, [200, 404, 400])
        self.assert_refused(client, 400, "malformed-request", ahead=2)

    def test_413_waits_for_the_response_before_it(self) -> None:
        """Q6: a body that is too large is refused when all before it have their responses."""
        client = self.hold()
        client.send(head(b"Content-Length: 65537"))
        self.assertTrue(client.is_held)
        self.end()
        self.assert_refused(client, 413, "body-too-large", ahead=1)

    def test_408_waits_for_the_response_before_it(self) -> None:
        """Q13: a slow request is given up when all before it have their responses."""
        client = self.hold()
        client.send(GET[:-1])
        self.clock.advance(15)
        self.assertTrue(client.is_held)
        self.end()
        self.assert_refused(client, 408, "request-timeout", ahead=1)

    def test_nothing_is_read_after_the_last_request(self) -> None:
        """What follows a request that closes the connection is not even refused."""
        client = self.connect()
        client.send(post(JOB, b"Connection: close") + b"FROB\r\n\r\n")
        client.send(b"FROB\r\n\r\n")
        self.starts[0].respond(result_of("1"))
        self.assertEqual(client.statuses, [200])
        self.assertFalse(client.is_open)
        self.assertEqual(self.traffic.refused, {})


class LeavingTests(ServerTestCase):
    """Clients that leave at any time."""

    def assert_nothing_left(self) -> None:
        self.assertEqual(self.site.connections, {})
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.starts, [])

    def test_client_that_leaves_within_a_request_leaves_nothing(self) -> None:
        """A client that leaves before its request is whole leaves nothing."""
        for stream in (
            post(),
            post_chunked(b"f\r\n%b\r\n0\r\nX: y\r\n\r\n" % JOB),
            head(b"Expect: 100-continue", b"Content-Length: 15") + JOB,
            GET + b"\r\n" + post(),
        ):
            for size in range(len(stream)):
                client = self.connect()
                client.send(stream[:size])
                client.leave()
                self.assert_nothing_left()

    def test_client_that_leaves_after_a_response_leaves_nothing(self) -> None:
        """A client that leaves after a response, or after a refusal, leaves nothing."""
        for stream in (GET, GET + GET, b"FROB\r\n\r\n", GET + b"FROB\r\n\r\n"):
            client = self.connect()
            client.send(stream)
            client.leave()
            self.assert_nothing_left()
        self.assertEqual(self.traffic.refused, {"malformed-request": 2})

    def test_client_that_closes_its_side_counts_as_one_that_left(self) -> None:
        """Q17: a client that closes its side only counts as one that left, as documented."""
        held = [self.hold(), self.hold()]
        starting = [self.submit("a"), self.submit("a")]
        queued = self.submit("a")
        for client in (*held, queued):
            # To a protocol that knows no half-closed connections this is what FIN means.
            client.leave()
        self.assertEqual(self.table.clients.held, 2)
        for number, client in enumerate(starting):
            self.starts[2 + number].respond(result_of("1"))
            self.assertEqual(client.response.status, 200)
        self.assertEqual(len(self.starts), 4)
        self.end(0)
        self.end(1)

    def test_waiting_requests_of_a_client_that_left_are_not_started(self) -> None:
        """Q19: what a client has asked for ahead is not done once it has left."""
        client = self.hold()
        client.send(post(OTHER_JOB) + post(OTHER_JOB)[:-1])
        client.leave()
        self.assertEqual(self.table.clients.held, 0)
        self.end()
        self.assertEqual(len(self.starts), 1)

    def test_client_that_leaves_before_its_refusal_is_not_refused(self) -> None:
        """A client that leaves before it could be refused is not refused."""
        client = self.hold()
        client.send(b"FROB\r\n\r\n")
        client.leave()
        self.end()
        self.assertEqual(client.transport.value(), b"")
        self.assertEqual(self.traffic.refused, {})
