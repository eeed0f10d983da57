"""Responses that are not HTTP, or too large."""

from typing import Any

from twisted.web.client import ResponseFailed

from jobproxy.http1.limits import ClientLimits
from tests.support.http1_agent import (
    BODY_LIMIT,
    CHUNKED,
    HEAD_LIMIT,
    OK,
    PLAIN,
    AgentTestCase,
)


class FramingTests(AgentTestCase):
    """S9: what is not HTTP, or does not say clearly where it ends, ends the connection."""

    def check(self, *responses: bytes) -> None:
        """Check that none of these is taken for a response, or for the beginning of one."""
        for response in responses:
            asking = self.request()
            connection = self.connect()
            connection.send(response)
            if not asking.called:
                connection.end()
            failed = self.failureResultOf(asking, ResponseFailed)
            self.assertIs(failed.type, ResponseFailed, response)
            self.assertTrue(connection.is_closed)

    def test_other_protocol_fails(self) -> None:
        """S9: something else than HTTP is no response."""
        self.check(
            b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
            b"220 mail.example ESMTP\r\n",
            b"ICY 200 OK\r\n\r\n",
            b"http/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            b"GET / HTTP/1.1\r\n\r\n",
            b"<html></html>",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
            b"\0" * 100,
            b"hi" + PLAIN,
        )

    def test_malformed_status_line_fails(self) -> None:
        """S9: a status line needs a version that there is and a status of three digits."""
        self.check(
            b"HTTP/1.1\r\n\r\n",
            b"HTTP/1.1 \r\n\r\n",
            b"HTTP/1.2 200 OK\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/11 200 OK\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/0.9 200 OK\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/1.1 000 OK\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/1.1 099 OK\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/a.b 200 OK\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/1.1 20 OK\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/1.1 abc OK\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/1.1 -20 OK\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/1.1  200 OK\r\nContent-Length: 0\r\n\r\n",
        )

    def test_malformed_length_fails(self) -> None:
        """S9: a length is one number of digits."""
        for value in (
            b"",
            b"-1",
            b"+5",
            b"0x5",
            b"5a",
            b"5 5",
            b"5,5",
            b"5, 5",
            b"5;",
            b'"5"',
            b"18446744073709551616",
            b"9" * 100,
        ):
            self.check(OK + b"Content-Length: " + value + b"\r\n\r\nhello")

    def test_conflicting_lengths_fail(self) -> None:
        """S9: a body has one length, and no chunks besides."""
        self.check(
            OK + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
            OK + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            OK + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            OK + b"Content-Length: 5\r\nTransfer-Encoding: gzip\r\n\r\nhello",
        )

    def test_other_transfer_encoding_fails(self) -> None:
        """S9: a body in chunks has these as its last encoding, and one without cannot be read."""
        for value in (b"", b"gzip", b"xchunked", b"chunked, gzip", b"chunkedx"):
            self.check(
                OK + b"Transfer-Encoding: " + value + b"\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            )

    def test_malformed_chunk_fails(self) -> None:
        """S9: chunks have a length in hexadecimal digits, and lines end as lines do."""
        for chunks in (
            b"g\r\n",
            b"-5\r\nhello\r\n0\r\n\r\n",
            b"0x5\r\nhello\r\n0\r\n\r\n",
            b"5 \r\nhello\r\n0\r\n\r\n",
            b" 5\r\nhello\r\n0\r\n\r\n",
            b"\r\nhello\r\n0\r\n\r\n",
            b"5\nhello\n0\n\n",
            b"5\rhello\r\n0\r\n\r\n",
            b"5\r\nhelloX\r\n0\r\n\r\n",
            b"5\r\nhello0\r\n\r\n",
            b"4\r\nhello\r\n0\r\n\r\n",
            b"6\r\nhello\r\n0\r\n\r\n",
            b"10000000000000000\r\nhello",
            b"5\r\nhello\r\n0\r\nX y\r\n\r\n",
            b"5\r\nhello\r\n0\r\nContent-Length: 5\r\n\r\n",
        ):
            self.check(CHUNKED + chunks)

    def test_malformed_header_line_fails(self) -> None:
        """S9: header lines have a name, a colon at once, and nothing that could end them twice."""
        for line in (
            b"X-A",
            b"X-A b",
            b"X-A : b",
            b": b",
            b" X-A: b",
            b"X-A: b\r\n c",
            b"X-A: b\0c",
            b"X-A: b\rc",
            b"X-A: b\nX-B: c",
            b"X\xff: b",
            b"X\0: b",
            b"X(A): b",
        ):
            self.check(OK + line + b"\r\nContent-Length: 2\r\n\r\nhi")
        self.check(b"HTTP/1.1 200 OK\nContent-Length: 2\n\nhi")


class BoundTests(AgentTestCase):
    """S20: how much of a response is taken in."""

    def feed(self, beginning: bytes, part: bytes, most: int) -> None:
        """Check that an endless response fails, and that no more than so many bytes are taken."""
        asking = self.request()
        connection = self.connect()
        connection.send(beginning)
        sent = len(beginning)
        while not asking.called:
            self.assertLessEqual(sent, most)
            connection.send(part)
            sent += len(part)
        self.assert_failed(asking, ResponseFailed)

    def test_body_of_64_kib_is_received(self) -> None:
        """S20: a body of 64 KiB is taken, whichever way its end is told."""
        body = b"x" * BODY_LIMIT
        chunk = b"%x\r\n" % 1024 + body[:1024] + b"\r\n"
        for data in (
            OK + b"Content-Length: 65536\r\n\r\n" + body,
            CHUNKED + b"10000\r\n" + body + b"\r\n0\r\nX-T: 1\r\n\r\n",
            CHUNKED + b"10000\r\n" + body + b"\r\n0\r\n\r\n",
            CHUNKED + chunk * 64 + b"0\r\n\r\n",
            OK + b"\r\n" + body,
        ):
            asking = self.request()
            connection = self.connect()
            connection.send(data)
            if not asking.called:
                connection.end()
            response: Any = self.successResultOf(asking)
            self.assertEqual(response.body, body)
            self.agent.close_idle()

    def test_body_over_64_kib_fails(self) -> None:
        """S20: a body of more than 64 KiB ends the connection, whichever way its end is told."""
        body = b"x" * (BODY_LIMIT + 1)
        for response in (
            OK + b"Content-Length: 65537\r\n\r\n" + body,
            OK + b"Content-Length: 1000000000\r\n\r\n" + body,
            CHUNKED + b"10001\r\n" + body,
            CHUNKED + b"1\r\nx\r\n" * len(body),
            OK + b"\r\n" + body,
        ):
            for size in (len(response), 1_000):
                asking = self.request()
                connection = self.connect()
                for at in range(0, len(response), size):
                    if not connection.is_closed:
                        connection.send(response[at : at + size])
                self.assert_failed(asking, ResponseFailed)

    def test_endless_body_fails_at_its_bound(self) -> None:
        """S20: a body without an end is not taken in for longer than its bound."""
        part = b"x" * 1_000
        self.feed(OK + b"\r\n", part, BODY_LIMIT + 2_000)
        self.feed(OK + b"Content-Length: 1000000000\r\n\r\n", part, BODY_LIMIT + 2_000)
        self.feed(CHUNKED + b"fffffffffffffff\r\n", part, BODY_LIMIT + 2_000)
        self.feed(CHUNKED, b"1\r\nx\r\n" * 100, 6 * BODY_LIMIT + 2_000)

    def test_head_under_32_kib_is_received(self) -> None:
        """S20: a head of less than 32 KiB is taken, in one line or in many."""
        for lines in (
            b"X-A: " + b"a" * 32_000 + b"\r\n",
            b"X-A: " + b"a" * 91 + b"\r\n",
            b"X" * 32_000 + b": a\r\n",
        ):
            head = lines * (32_500 // len(lines))
            for size in (len(head), 1_000):
                asking = self.request()
                connection = self.connect()
                connection.send(OK)
                connection.send(*[head[at : at + size] for at in range(0, len(head), size)])
                connection.send(b"Content-Length: 2\r\n\r\nhi")
                self.successResultOf(asking)
                self.agent.close_idle()

    def test_head_over_32_kib_fails(self) -> None:
        """S20: a head of more than 32 KiB ends the connection, even if it comes all at once."""
        for lines in (
            b"X-A: " + b"a" * HEAD_LIMIT + b"\r\n",
            b"X-A: " + b"a" * 1_000 + b"\r\n",
            b"X" * HEAD_LIMIT + b": a\r\n",
        ):
            response = OK + lines * (HEAD_LIMIT // len(lines) + 2) + b"Content-Length: 2\r\n\r\nhi"
            asking = self.request()
            self.connect().send(response)
            self.assert_failed(asking, ResponseFailed)

    def test_endless_head_fails_at_its_bound(self) -> None:
        """S20: a head without an end is not taken in for longer than its bound."""
        most = HEAD_LIMIT + 2_000
        self.feed(OK, b"X-A: %b\r\n" % (b"a" * 100), most)
        self.feed(OK, b"a:\r\n" * 100, most)
        self.feed(OK, b"x" * 1_000, most)
        self.feed(OK + b"X-A: ", b"x" * 1_000, most)
        self.feed(OK + b"X-A: ", b" " * 1_000, most)
        self.feed(OK + b"X-A: ", b"x", most)
        self.feed(OK + b"Content-Length: ", b"0" * 1_000, most)
        self.feed(b"HTTP/1.1 200 ", b"x" * 1_000, most)
        self.feed(b"HTTP/1.1 200", b" " * 1_000, most)
        self.feed(b"HTTP/", b"1" * 1_000, most)
        self.feed(b"", b"\r\n" * 500, most)

    def test_endless_trailer_fails_at_the_bound_of_a_head(self) -> None:
        """S20: trailers without an end are not taken in for longer than a head's bound."""
        most = HEAD_LIMIT + 4_000
        self.feed(CHUNKED + b"0\r\n", b"X-A: %b\r\n" % (b"a" * 100), most)
        self.feed(CHUNKED + b"0\r\n", b"x" * 1_000, most)
        self.feed(CHUNKED + b"5\r\nhello\r\n0\r\nX-A: ", b"x" * 1_000, most)

    def test_endless_interim_responses_fail(self) -> None:
        """S20: interim responses without an end are not taken in for longer than the bounds."""
        self.feed(b"", b"HTTP/1.1 100 Continue\r\n\r\n", 1_000)
        self.feed(b"HTTP/1.1 103 Hints\r\n", b"X-A: %b\r\n" % (b"a" * 100), HEAD_LIMIT + 2_000)


class SmallBoundTests(AgentTestCase):
    """An agent with bounds of its own."""

    limits = ClientLimits(head=100, body=10, interim=1)

    def test_bound_of_a_body_is_the_one_given(self) -> None:
        """A body's bound is the one given."""
        self.exchange(OK + b"Content-Length: 10\r\n\r\n0123456789")
        self.agent.close_idle()
        asking = self.request()
        self.connect().send(OK + b"Content-Length: 11\r\n\r\n0123456789a")
        self.assert_failed(asking, ResponseFailed)

    def test_bound_of_a_head_is_the_one_given(self) -> None:
        """A head's bound is the one given."""
        asking = self.request()
        self.connect().send(OK + b"X-A: " + b"a" * 100 + b"\r\nContent-Length: 0\r\n\r\n")
        self.assert_failed(asking, ResponseFailed)

    def test_bound_of_interim_responses_is_the_one_given(self) -> None:
        """The number of interim responses is the one given."""
        self.exchange(b"HTTP/1.1 100 Continue\r\n\r\n" + PLAIN)
        self.agent.close_idle()
        asking = self.request()
        self.connect().send(b"HTTP/1.1 100 Continue\r\n\r\n" * 2 + PLAIN)
        self.assert_failed(asking, ResponseFailed)
