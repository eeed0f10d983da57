"""Bodies of requests: their bounds, chunks, and leave to send them."""

import tempfile

from tests.support.http1_server import (
    CONTINUE,
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


class TooLargeTests(ServerTestCase):
    """Q6 and Q7: bodies of more than 64 KiB."""

    def test_413_when_content_length_is_over_the_limit(self) -> None:
        """Q6: a body that is said to be too large is refused unread, without leave to send it."""
        client = self.connect()
        client.send(head(b"Expect: 100-continue", b"Content-Length: 65537"))
        self.assertEqual(client.statuses, [413])
        self.assert_refused(client, 413, "body-too-large")

    def test_413_when_content_length_is_a_huge_number(self) -> None:
        """Q6: a length is a number, however large."""
        client = self.connect()
        client.send(head(b"Content-Length: 18446744073709551615"))
        self.assert_refused(client, 413, "body-too-large")

    def test_too_large_body_is_thrown_away_and_then_not_received(self) -> None:
        """Q6: a body that comes all the same is thrown away, and after 1 MiB not even read."""
        client = self.connect()
        client.send(head(b"Content-Length: 10000000"))
        client.send_all([b"x" * 65_536] * 15)
        self.assertEqual(client.transport.producerState, "producing")
        client.send_all([b"x" * 65_536] * 2)
        self.assertEqual(client.transport.producerState, "paused")
        self.assert_refused(client, 413, "body-too-large")
        self.assertTrue(client.transport.is_aborted)

    def test_client_that_closes_after_413_leaves_nothing(self) -> None:
        """Q6: a client that has read why and closes leaves nothing to wait for."""
        client = self.connect()
        client.send(head(b"Content-Length: 65537"))
        client.leave()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_413_at_the_first_byte_over_the_limit_of_a_chunked_body(self) -> None:
        """Q7: a chunked body is refused at the byte that is too much."""
        client = self.connect()
        client.send(post_chunked(b"8000\r\n%b\r\n" % (b"x" * 32_768)))
        client.send(b"8001\r\n" + b"x" * 32_768)
        self.assertEqual(client.transport.value(), b"")
        client.send(b"x")
        self.assert_refused(client, 413, "body-too-large")

    def test_413_in_the_middle_of_an_endless_chunk(self) -> None:
        """Q7: one endless chunk is refused just so."""
        client = self.connect()
        client.send(post_chunked(b"ffffffffffffffff\r\n"))
        client.send_all([b"x" * 4_096] * 16)
        self.assertEqual(client.transport.value(), b"")
        client.send(b"x")
        self.assert_refused(client, 413, "body-too-large")

    def test_413_to_a_callback_leaves_its_job_running(self) -> None:
        """Q6: a callback has the same bound, and its job goes on."""
        client = self.hold()
        caller = self.connect()
        path = self.starts[0].callback_path.encode()
        caller.send(head(b"Content-Length: 65537", start=b"POST %b HTTP/1.1" % path))
        self.assert_refused(caller, 413, "body-too-large")
        self.assertTrue(client.is_held)
        self.end()


class ChunkedTests(ServerTestCase):
    """Q8: chunked bodies."""

    def setUp(self) -> None:
        super().setUp()
        # A temporary file could not be opened here.
        self.patch(tempfile, "tempdir", "/nonexistent")

    def check(self, chunks: bytes, size: int) -> None:
        client = self.connect()
        client.send_all(cut(post_chunked(chunks), size))
        start = self.starts.pop()
        self.assertEqual(start.body["account"], "a")
        self.assertEqual(start.body.get("n"), 1)
        start.respond(result_of("1"))
        self.assertEqual(client.response.status, 200)

    def test_chunked_body_is_read_however_it_is_cut(self) -> None:
        """Q8: a chunked body is taken in memory, with extensions and trailers, however cut."""
        for size in (1, 2, 3, 5, 7, 11, 13, 64, 1_000):
            self.check(b'5\r\n{"acc\r\n0010\r\nount":"a","n":1}\r\n0\r\n\r\n', size)
            self.check(
                b'5;x\r\n{"acc\r\nE;a=b;c="d \\" e"\r\nount":"a", "n"\r\n3;q\r\n:1}\r\n'
                b"0;end=1\r\nX-Sum: abc\r\nHost: evil.example\r\nX-Empty:\r\n\r\n",
                size,
            )

    def test_largest_body_is_read_in_chunks_of_one_byte(self) -> None:
        """Q8: a body of just 64 KiB is taken, even with each byte in a chunk of its own."""
        body = b'{"account":"a","n":1,"x":"' + b"y" * 65_508 + b'"}'
        self.assertEqual(len(body), 65_536)
        self.check(b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n", 65_536)

    def test_trailer_is_no_header_of_this_or_the_next_request(self) -> None:
        """Q8: a trailer neither counts as a header nor as the next request's."""
        client = self.connect()
        client.send(
            post_chunked(b"0\r\nContent-Encoding: gzip\r\nX-Request-Id: evil\r\n\r\n")
            + post_chunked(b"0\r\nX-Request-Id: evil\r\n\r\n")
        )
        for response in client.responses:
            self.assert_problem(response, 400, "invalid-json")
            self.assertNotEqual(response.headers["x-request-id"], "evil")
        self.assertEqual(len(client.responses), 2)


class ExpectationTests(ServerTestCase):
    """Q9: clients that ask before they send their body."""

    def test_100_is_sent_once_before_the_response(self) -> None:
        """Q9: the client gets leave to send its body, once, and then its response."""
        for name in (b"100-continue", b"100-Continue"):
            client = self.connect()
            client.send(head(b"Expect: " + name, b"Content-Length: 15"))
            self.assertEqual(client.transport.value(), CONTINUE)
            client.send_all(cut(JOB, 4))
            self.assertEqual(client.transport.value(), CONTINUE)
            self.starts.pop().respond(result_of("1"))
            self.assertEqual(client.statuses, [100, 200])
            client.send(GET)
            self.assertEqual(client.statuses, [100, 200, 404])

    def test_100_is_sent_for_a_chunked_body(self) -> None:
        """Q9: leave is given for a chunked body too."""
        client = self.connect()
        client.send(head(b"Transfer-Encoding: chunked", b"Expect: 100-continue"))
        self.assertEqual(client.transport.value(), CONTINUE)
        client.send(b"f\r\n" + JOB + b"\r\n0\r\n\r\n")
        self.starts[0].respond(result_of("1"))
        self.assertEqual(client.statuses, [100, 200])

    def test_100_is_not_sent_to_a_client_that_does_not_wait_for_it(self) -> None:
        """Q9: a client that sends its body unasked, or has none, needs no leave."""
        for stream in (post(JOB, b"Expect: 100-continue"), post(b"", b"Expect: 100-continue")):
            client = self.connect()
            client.send(stream)
            self.assertNotIn(CONTINUE, client.transport.value())
        client = self.connect()
        client.send(post(JOB, b"Expect: 100-continue")[:-1])
        self.assertEqual(client.transport.value(), b"")
        self.starts[0].respond(result_of("1"))

    def test_100_is_not_sent_to_a_client_of_http_1_0(self) -> None:
        """Q9: a client of HTTP/1.0 would not understand leave, and gets none."""
        client = self.connect()
        client.send(
            head(b"Expect: 100-continue", b"Content-Length: 15", start=b"POST /proxy HTTP/1.0")
        )
        self.assertEqual(client.transport.value(), b"")
        client.send(JOB)
        self.starts[0].respond(result_of("1"))
        self.assertEqual(client.statuses, [200])

    def test_417_to_another_expectation(self) -> None:
        """Q9: another expectation is refused before the body."""
        for name in (b"101-continue", b"100-continue, x", b"x=y", b""):
            self.traffic.refused.clear()
            client = self.connect()
            client.send(head(b"Expect: " + name, b"Content-Length: 15"))
            self.assert_refused(client, 417, "expectation-failed")

    def test_100_waits_for_the_responses_before_it(self) -> None:
        """Q9: leave is given once the requests before have their responses."""
        client = self.hold()
        client.send(head(b"Expect: 100-continue", b"Content-Length: 15"))
        self.assertEqual(client.transport.value(), b"")
        self.end()
        self.assertEqual(client.statuses, [200, 100])
        client.send(OTHER_JOB)
        self.starts[1].respond(result_of("2"))
        self.assertEqual(client.statuses, [200, 100, 200])

    def test_waiting_for_100_has_no_timeout(self) -> None:
        """Q9: the time for which a client waits for leave is not counted against it."""
        client = self.hold()
        client.send(head(b"Expect: 100-continue", b"Content-Length: 15"))
        self.clock.advance(15)
        self.end()
        self.assertEqual(client.statuses, [200, 100])
        self.clock.advance(5)
        client.send(OTHER_JOB)
        self.starts[1].respond(result_of("2"))
        self.assertEqual(client.statuses, [200, 100, 200])

    def test_408_when_nothing_follows_the_100(self) -> None:
        """Q13: a client that got leave and does not use it is told so after 10 seconds."""
        client = self.connect()
        client.send(head(b"Expect: 100-continue", b"Content-Length: 15"))
        self.clock.advance(10)
        self.assertEqual(client.statuses, [100, 408])
