"""Heads of requests that are too large, and clients of HTTP/1.0."""

from tests.support.http1_server import (
    GET,
    JOB,
    ServerTestCase,
    cut,
    head,
    post_chunked,
)
from tests.support.proxy import result_of


class HeaderLimitTests(ServerTestCase):
    """Q11: heads that are too large."""

    def test_largest_heads_are_accepted(self) -> None:
        """Q11: a line of nearly 16 KiB, 100 lines, or nearly 32 KiB in all are taken."""
        for lines in (
            [b"X: " + b"y" * 16_300],
            [b"X%d: y" % number for number in range(99)],
            [b"X%d: %b" % (number, b"y" * 15_000) for number in range(2)],
        ):
            client = self.connect()
            client.send_all(cut(head(*lines, start=b"GET /elsewhere HTTP/1.1"), 4_096))
            self.assertEqual(client.response.status, 404)

    def test_431_when_a_head_is_over_a_limit(self) -> None:
        """Q11: a line of more than 16 KiB, 101 lines, or more than 32 KiB in all are refused."""
        for lines in (
            [b"X: " + b"y" * 16_400],
            [b"X" * 16_400 + b": y"],
            [b"X%d: y" % number for number in range(100)],
            [b"X%d: %b" % (number, b"y" * 11_000) for number in range(3)],
        ):
            for size in (1_000, 100_000):
                self.traffic.refused.clear()
                client = self.connect()
                client.send_all(cut(head(*lines), size))
                self.assert_refused(client, 431, "headers-too-large")
        self.traffic.refused.clear()
        client = self.connect()
        client.send(head(start=b"GET /%b HTTP/1.1" % (b"x" * 33_000)))
        self.assert_refused(client, 431, "headers-too-large")

    def test_431_when_a_head_never_ends(self) -> None:
        """Q11: what never ends is refused once it is too large, whatever it is."""
        start = b"POST /proxy HTTP/1.1\r\nHost: x\r\n"
        for prefix, piece in (
            (b"POST /", b"x" * 500),
            (b"POST /proxy?", b"x" * 500),
            (start, b"X" * 500),
            (start + b"X:", b" " * 500),
            (start + b"X: ", b"y" * 500),
            (start, b"X: y\r\n" * 80),
            (start + b"X: y", b"\r\nX: y" * 80),
        ):
            self.traffic.refused.clear()
            client = self.connect()
            client.send(prefix)
            client.send_all([piece] * 80)
            self.assert_refused(client, 431, "headers-too-large")

    def test_431_when_trailers_are_over_the_limit(self) -> None:
        """Q11: trailers are bounded as headers are."""
        client = self.connect()
        client.send(post_chunked(b"0\r\n"))
        client.send_all([b"X: %b\r\n" % (b"y" * 1_000)] * 40)
        self.assert_refused(client, 431, "headers-too-large")

    def test_trailer_that_never_ends_is_refused(self) -> None:
        """Q11: one trailer that never ends is refused before it takes memory."""
        for prefix in (b"0\r\n", b"0\r\nX: ", b"0\r\nX:"):
            client = self.connect()
            client.send(post_chunked(prefix))
            client.send_all([b"x" * 16_384] * 64)
            self.assertNotEqual(client.transport.value(), b"")
            self.assertEqual(client.response.headers["connection"], "close")

    def test_chunk_extension_that_never_ends_is_refused(self) -> None:
        """Q11: a chunk extension that never ends is refused."""
        for prefix in (b"1;", b"1;x=", b'1;x="'):
            client = self.connect()
            client.send(post_chunked(prefix))
            client.send_all([b"x" * 16_384] * 64)
            self.assertNotEqual(client.transport.value(), b"")
            self.assertEqual(client.response.headers["connection"], "close")


class OldClientTests(ServerTestCase):
    """Q21: clients of HTTP/1.0."""

    def test_client_of_http_1_0_gets_a_length_and_a_close(self) -> None:
        """Q21: a client of HTTP/1.0 gets a response with a length, and the connection's end."""
        for line in (b"X: y", b"Connection: keep-alive", b"Connection: close"):
            client = self.connect()
            client.send(b"POST /proxy HTTP/1.0\r\nContent-Length: 15\r\n%b\r\n\r\n%b" % (line, JOB))
            self.starts[-1].respond(result_of("1"))
            self.assertEqual(client.response.body, result_of("1"))
            self.assertEqual(client.response.headers["connection"], "close")
            self.assertFalse(client.is_open)
            self.assertFalse(client.transport.is_aborted)

    def test_client_of_http_1_0_gets_a_problem_and_a_close(self) -> None:
        """Q21: a problem is told to a client of HTTP/1.0 just so."""
        client = self.connect()
        client.send(b"GET /elsewhere HTTP/1.0\r\n\r\n" + GET)
        self.assert_problem(client.response, 404, "not-found")
        self.assertFalse(client.is_open)
