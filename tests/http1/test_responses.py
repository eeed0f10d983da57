"""What the agent makes of responses."""

from typing import Any

from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone, ResponseFailed
from twisted.web.iweb import IResponse
from zope.interface.verify import verifyObject

from jobproxy.http1.client import read_body
from tests.support.http1_agent import (
    CHUNKED,
    CLOSE,
    OK,
    PLAIN,
    AgentTestCase,
)


class Body(Protocol):
    """Takes a body in."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.ends: list[Failure] = []

    def dataReceived(self, data: bytes) -> None:
        self.parts.append(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.ends.append(reason)


class ResponseTests(AgentTestCase):
    """What comes back of a response."""

    def ask(self, *parts: bytes) -> Any:
        """Send a request, have the response come in parts, and return it."""
        asking = self.request(headers=CLOSE)
        connection = self.connect()
        for part in parts:
            self.assertNoResult(asking)
            connection.send(part)
        if not asking.called:
            connection.end()
        return self.successResultOf(asking)

    def test_response_is_what_was_sent(self) -> None:
        """A response has the status, the headers and the body that were sent."""
        response = self.ask(
            b"HTTP/1.1 422 Unprocessable Content\r\n"
            b"Content-Type: text/plain\r\n"
            b"x-a: 1\r\n"
            b"Content-Length: 5\r\n"
            b"X-A:  2 \r\n"
            b"X-Empty:\r\n"
            b"\r\n"
            b"hello"
        )
        verifyObject(IResponse, response)
        self.assertEqual(response.code, 422)
        self.assertEqual(response.phrase, b"Unprocessable Content")
        self.assertEqual(response.version, (b"HTTP", 1, 1))
        self.assertEqual(response.length, 5)
        self.assertEqual(response.headers.getRawHeaders("content-type"), ["text/plain"])
        first, second = response.headers.getRawHeaders(b"X-a")
        self.assertEqual((first, second.strip()), (b"1", b"2"))
        self.assertEqual(response.headers.getRawHeaders("x-empty"), [""])
        self.assertFalse(response.headers.hasHeader("x-b"))
        self.assertEqual(self.successResultOf(read_body(response, 5)), b"hello")

    def test_body_can_be_delivered_again(self) -> None:
        """A body is delivered whole, and its end is a good one, to everyone who asks."""
        for data, body in ((PLAIN, b"hi"), (OK + b"Content-Length: 0\r\n\r\n", b"")):
            response = self.ask(data)
            for _ in range(2):
                receiver = Body()
                response.deliverBody(receiver)
                self.assertEqual(b"".join(receiver.parts), body)
                (end,) = receiver.ends
                self.assertTrue(end.check(ResponseDone))

    def test_previous_response_can_be_set(self) -> None:
        """A response can be told which one it came after, as treq does after a redirect."""
        first, second = self.ask(PLAIN), self.ask(PLAIN)
        second.setPreviousResponse(first)
        self.assertIs(second.previousResponse, first)
        self.assertIsNone(first.previousResponse)

    def test_status_line_needs_no_phrase(self) -> None:
        """A status line needs no phrase."""
        for line in (b"HTTP/1.1 200\r\n", b"HTTP/1.1 200 \r\n"):
            response = self.ask(line + b"Content-Length: 2\r\n\r\nhi")
            self.assertEqual((response.code, response.phrase), (200, b""))

    def test_chunks_are_put_together(self) -> None:
        """A body in chunks is put together; extensions and trailers are not part of anything."""
        response = self.ask(CHUNKED + b"5;a=b\r\nhello\r\nA\r\n, world!!!\r\n0\r\nX-T: 1\r\n\r\n")
        self.assertEqual(response.body, b"hello, world!!!")
        self.assertFalse(response.headers.hasHeader("x-t"))

    def test_body_without_a_length_ends_with_the_connection(self) -> None:
        """S10: a body without a length is what comes until the connection ends."""
        for version in (b"1.1", b"1.0"):
            response = self.ask(b"HTTP/%b 200 OK\r\n\r\nhel" % version, b"lo")
            self.assertEqual(response.body, b"hello")

    def test_204_and_304_have_no_body(self) -> None:
        """Responses with a status that has no body end with their head, whatever length it says."""
        for status in (204, 304):
            for line in (b"", b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n"):
                response = self.ask(b"HTTP/1.1 %d Nothing\r\n%b\r\n" % (status, line))
                self.assertEqual((response.code, response.body), (status, b""))

    def test_response_fires_after_all_of_its_body(self) -> None:
        """A response is not there before all of its body is."""
        self.ask(OK + b"Content-Length: 5\r\n\r\n", b"hel", b"lo")
        self.ask(CHUNKED, b"5\r\nhel", b"lo\r\n", b"0\r\n", b"\r\n")

    def test_encoded_body_is_not_decoded(self) -> None:
        """S20: an encoded body is passed on as the bytes that came, so that it cannot swell."""
        for body in (b"\x1f\x8b\x08\x00\xff", b"no gzip at all"):
            line = b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(body)
            response = self.ask(OK + line + body)
            self.assertEqual(response.body, body)
            self.assertEqual(response.headers.getRawHeaders("content-encoding"), ["gzip"])

    def test_redirect_is_not_followed(self) -> None:
        """S19: a redirect is a response like any other, and is not followed."""
        for status in (301, 302, 303, 307, 308):
            attempts = self.attempts
            response = self.ask(
                b"HTTP/1.1 %d Moved\r\nLocation: http://10.0.0.9/other\r\n"
                b"Content-Length: 0\r\n\r\n" % status
            )
            self.assertEqual(response.code, status)
            self.assertEqual(response.headers.getRawHeaders("location"), ["http://10.0.0.9/other"])
            self.assertEqual(self.attempts, attempts + 1)

    def test_cookie_is_not_sent_back(self) -> None:
        """A cookie that the server sets is never sent back, over a kept connection either."""
        connection = self.exchange(OK + b"Set-Cookie: a=b; Path=/\r\nContent-Length: 2\r\n\r\nhi")
        self.assert_kept(connection)
        self.assertNotIn(b"cookie", connection.received.lower())
        self.assertNotIn(b"a=b", connection.received)


class InterimTests(AgentTestCase):
    """Responses that come before the response."""

    def test_sixteen_interim_responses_are_skipped(self) -> None:
        """Up to 16 interim responses are skipped, and none of what they said is kept."""
        for interim in (b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Hints\r\nX-A: 1\r\n\r\n"):
            for data in ([interim] * 16 + [PLAIN], [interim * 16 + PLAIN]):
                asking = self.request()
                connection = self.connect()
                connection.send(*data)
                response = self.successResultOf(asking)
                self.assertEqual(response.code, 200)
                self.assertFalse(response.headers.hasHeader("x-a"))
                self.assert_kept(connection)
                self.agent.close_idle()

    def test_seventeenth_interim_response_fails(self) -> None:
        """S20: a seventeenth interim response ends the connection."""
        interim = b"HTTP/1.1 100 Continue\r\n\r\n"
        for data in ([interim] * 17, [interim * 17 + PLAIN]):
            asking = self.request()
            self.connect().send(*data)
            self.assert_failed(asking, ResponseFailed)

    def test_end_after_an_interim_response_fails(self) -> None:
        """S9: a connection that ends after an interim response has brought no response."""
        asking = self.request()
        connection = self.connect()
        connection.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        connection.end()
        failed = self.failureResultOf(asking, ResponseFailed)
        self.assertIs(failed.type, ResponseFailed)

    def test_change_of_protocols_fails(self) -> None:
        """S9: a change of protocols, for which nobody asked, ends the connection."""
        for lines in (b"", b"Connection: upgrade\r\nUpgrade: x\r\n"):
            for after in (b"", PLAIN):
                asking = self.request()
                self.connect().send(b"HTTP/1.1 101 Switching\r\n" + lines + b"\r\n" + after)
                self.assert_failed(asking, ResponseFailed)


class SplitTests(AgentTestCase):
    """Responses arrive in pieces, wherever those begin and end."""

    responses = (
        PLAIN,
        OK + b"X-A: b\r\nX-Empty:\r\nx-a:  c d \r\nContent-Length: 5\r\nX-Z: z\r\n\r\nhello",
        CHUNKED + b"5\r\nhello\r\n1;a=b\r\n,\r\n6\r\n world\r\n0\r\nX-T: 1\r\nX-U: 2\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nX-A: 1\r\n\r\n" + PLAIN,
        b"HTTP/1.1 204 No Content\r\nX-A: 1\r\n\r\n",
        b"HTTP/1.1 422 What is this\r\nConnection: x, Close\r\nContent-Length: 2\r\n\r\nno",
    )

    def outcome(self, *parts: bytes) -> tuple[object, ...]:
        """Send a request, respond to it, and return what came of it."""
        asking = self.request()
        connection = self.connect()
        connection.send(*parts)
        response: Any = self.successResultOf(asking)
        is_kept = not connection.is_closed
        self.agent.close_idle()
        lines = list(response.headers.getAllRawHeaders())
        return (response.code, response.phrase, lines, response.body, is_kept)

    def test_response_is_the_same_in_two_pieces(self) -> None:
        """In two pieces a response is what it is in one."""
        for response in self.responses:
            whole = self.outcome(response)
            for cut in range(1, len(response)):
                self.assertEqual(
                    self.outcome(response[:cut], response[cut:]), whole, response[:cut]
                )

    def test_response_is_the_same_byte_by_byte(self) -> None:
        """Byte by byte a response is what it is in one piece."""
        for response in self.responses:
            parts = [response[at : at + 1] for at in range(len(response))]
            self.assertEqual(self.outcome(*parts), self.outcome(response))
