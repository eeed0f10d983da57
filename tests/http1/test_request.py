"""What a handler sees of a request."""

import re
from typing import Any, cast

from jobproxy.http1.request import Request
from tests.support.clients import parse_responses
from tests.support.http1_server import (
    GET,
    JOB,
    Echo,
    Keeper,
    RawClient,
    ServerTestCase,
    cut,
    head,
    make_server,
    post,
    post_chunked,
)


class RequestTests(ServerTestCase):
    """What a handler sees of a request."""

    def setUp(self) -> None:
        super().setUp()
        self.keeper = Keeper()
        self.site = make_server(self.keeper, self.clock, self.traffic)

    def keep(self, stream: bytes) -> tuple[RawClient, Request]:
        """Return the last request of these bytes, and its client."""
        client = self.connect()
        client.send(stream)
        return client, self.keeper.requests[-1]

    def test_request_line_is_taken_apart(self) -> None:
        """The method, the target and its parts are bytes."""
        _, request = self.keep(head(start=b"PUT /a%20b/c%2Fd//e?x=1&x=%32&y= HTTP/1.1"))
        self.assertEqual(request.method, b"PUT")
        self.assertEqual(request.uri, b"/a%20b/c%2Fd//e?x=1&x=%32&y=")
        self.assertEqual(request.path, b"/a%20b/c%2Fd//e")
        self.assertEqual(request.clientproto, b"HTTP/1.1")
        self.assertEqual(request.args, {b"x": [b"1", b"2"], b"y": [b""]})

    def test_header_is_found_whatever_its_case(self) -> None:
        """A header is found whatever its case, as bytes or text like the name asked for."""
        _, request = self.keep(head(b"X-A: 1", b"X-B: caf\xe9", b"x-a: 2", b"X-Empty:"))
        self.assertEqual(request.getHeader(b"X-A"), b"2")
        self.assertEqual(request.getHeader("x-a"), "2")
        self.assertEqual(request.getHeader("X-B"), "café")
        self.assertEqual(request.getHeader(b"x-b"), b"caf\xe9")
        self.assertEqual(request.getHeader(b"x-empty"), b"")
        self.assertIsNone(request.getHeader(b"x-c"))
        self.assertIsNone(request.getHeader("x-c"))
        self.assertEqual(
            request.headers,
            [
                (b"host", b"proxy.example"),
                (b"x-a", b"1"),
                (b"x-b", b"caf\xe9"),
                (b"x-a", b"2"),
                (b"x-empty", b""),
            ],
        )

    def test_body_is_bytes(self) -> None:
        """The body is bytes, whether it came in chunks or not."""
        for stream in (
            post(),
            post_chunked(b"3\r\n%b\r\nc\r\n%b\r\n0\r\n\r\n" % (JOB[:3], JOB[3:])),
        ):
            _, request = self.keep(stream)
            self.assertEqual(request.body, JOB)
        _, request = self.keep(GET)
        self.assertEqual(request.body, b"")

    def test_request_id_is_the_given_one_or_a_new_one(self) -> None:
        """A request has an id from its first look on, its own if it is fit."""
        _, request = self.keep(head(b"X-Request-Id: mine"))
        self.assertEqual(request.request_id, b"mine")
        client, request = self.keep(GET)
        self.assertEqual(request.request_id, b"made")
        request.finish()
        self.assertEqual(client.response.headers["x-request-id"], "made")

    def test_response_has_the_status_headers_and_body_that_were_set(self) -> None:
        """A response is what was written, under the headers and the status that were set."""
        client, request = self.keep(GET)
        request.setResponseCode(418)
        request.setHeader(b"X-A", b"1")
        request.setHeader("x-a", "2")
        request.setHeader("X-B", "café")
        request.setHeader(b"Content-Length", b"99")
        request.write(b"some ")
        request.write(b"body")
        self.assertEqual(client.transport.value(), b"")
        request.finish()
        status_line, *_ = client.transport.value().split(b"\r\n")
        self.assertEqual(status_line, b"HTTP/1.1 418 I'm a Teapot")
        self.assertIn(b"\r\nX-B: caf\xe9\r\n", client.transport.value())
        for name in (b"x-a: 2", b"content-length"):
            self.assertEqual(client.transport.value().lower().count(b"\r\n" + name), 1)
        self.assertTrue(
            client.transport.value().endswith(b"\r\nContent-Length: 9\r\n\r\nsome body")
        )

    def test_empty_response_has_its_length(self) -> None:
        """A response without anything in it has its length too."""
        client, request = self.keep(GET)
        request.finish()
        self.assertEqual((client.response.status, client.response.body), (200, b""))

    def test_header_with_a_line_break_raises(self) -> None:
        """A header that would end its line is an error, whatever part it is in."""
        client, request = self.keep(GET)
        for bad in ("a\r\nX: y", "a\nX: y", "a\rX: y", "a\r\n", "\n", "a\r\n\r\nbody"):
            for name, value in (("X-A", bad), (bad, "a")):
                with self.assertRaises(ValueError):
                    request.setHeader(name, value)
                with self.assertRaises(ValueError):
                    request.setHeader(name.encode(), value.encode())
        request.finish()
        self.assertEqual(
            set(client.response.headers), {"server", "date", "x-request-id", "content-length"}
        )

    def test_client_that_leaves_after_its_response_calls_nothing(self) -> None:
        """A client that leaves after its response was sent is not one that left before it."""
        client, request = self.keep(GET)
        calls: list[str] = []
        request.when_gone(lambda: calls.append("gone"))
        request.finish()
        self.assertFalse(request.is_gone)
        client.leave()
        self.assertEqual(calls, [])
        self.assertFalse(request.is_gone)

    def test_client_that_leaves_gets_no_response(self) -> None:
        """When the client leaves, the function given is called once; no response is sent."""
        client, request = self.keep(GET + GET)
        calls: list[str] = []
        request.when_gone(lambda: calls.append("gone"))
        self.assertEqual(calls, [])
        client.leave()
        self.assertEqual(calls, ["gone"])
        self.assertTrue(request.is_gone)
        request.write(b"late")
        request.finish()
        self.assertEqual(client.transport.value(), b"")
        self.assertEqual(len(self.keeper.requests), 1)

    def test_second_finish_does_nothing(self) -> None:
        """A second end of a request changes nothing."""
        client, request = self.keep(GET)
        request.finish()
        request.finish()
        self.assertEqual(len(client.responses), 1)

    def test_next_request_may_finish_while_the_first_one_does(self) -> None:
        """The next request may get its response before the end of the one before has returned."""
        client, first = self.keep(GET + GET)
        self.site.resource = cast(Any, Echo())
        first.finish()
        self.assertEqual(client.statuses, [200, 200])


class SplitTests(ServerTestCase):
    """Requests that come in pieces."""

    def setUp(self) -> None:
        super().setUp()
        self.site = make_server(Echo(), self.clock, self.traffic)

    def exchange(self, pieces: list[bytes]) -> bytes:
        """Return all that comes back, but for the date."""
        client = self.connect()
        client.send_all(pieces)
        responses = cast(bytes, client.transport.value())
        client.leave()
        return re.sub(rb"Date: [^\r]*\r\n", b"", responses)

    def test_responses_are_the_same_wherever_the_stream_is_cut(self) -> None:
        """A stream gets the same responses wherever it is cut."""
        chunked = post_chunked(b"3;a=b\r\nabc\r\nA;b\r\n0123456789\r\n0\r\nX: y\r\nZ:\r\n\r\n")
        for stream, count in (
            (post(b"hello"), 1),
            (chunked, 1),
            (post(b"one") + GET + chunked + post(b"two") + b"\r\n" + GET, 5),
            (GET + b"FROB / HTTP/1.1\r\n\r\n", 2),
            (head(b"Connection: close") + GET, 1),
            (GET + head(b"Content-Length: 70000") + b"x" * 50, 2),
        ):
            whole = self.exchange([stream])
            self.assertEqual(len(parse_responses(whole)), count)
            for place in range(1, len(stream)):
                responses = self.exchange([stream[:place], stream[place:]])
                self.assertEqual(responses, whole, (stream[:place], stream[place:]))
            self.assertEqual(self.exchange(cut(stream, 1)), whole)
