"""The HTTP side as a client meets it: raw bytes in, raw bytes out, and a clock."""

import re
import tempfile
import tracemalloc
from typing import Any, cast
from unittest import mock

from twisted.internet.error import ConnectionDone
from twisted.python.failure import Failure

from jobproxy.gateway import Gateway
from jobproxy.http1.request import Request
from tests.support.http1_server import (
    CONTINUE,
    GET,
    JOB,
    OTHER_JOB,
    Echo,
    Keeper,
    RawClient,
    cut,
    head,
    make_server,
    post,
    post_chunked,
)
from tests.support.proxy import ProxyTestCase, parse_responses, result_of


class EdgeTestCase(ProxyTestCase):
    """Clients on such wires."""

    maxDiff = None

    def tearDown(self) -> None:
        super().tearDown()
        self.assertEqual(self.site.connections, set())

    def connect(self) -> RawClient:
        client = RawClient(self.site)
        self.clients.append(client)
        return client

    def hold(self, job: bytes = JOB) -> RawClient:
        """Return a client whose job runs."""
        client = self.connect()
        client.send(post(job))
        self.starts[-1].ack("1")
        return client

    def end(self, number: int = 0) -> None:
        """Have a job that runs end."""
        self.call_back(self.starts[number], result_of("1"))

    def assert_refused(self, client: RawClient, status: int, slug: str, ahead: int = 0) -> None:
        """Check that the last answer ends the connection, and that nothing is read after it.

        :param ahead: how many answers came before.
        """
        self.assertEqual(len(client.responses), ahead + 1)
        self.assert_problem(client.responses[-1], status, slug)
        self.assertEqual(client.responses[-1].headers["connection"], "close")
        self.assertEqual(self.traffic.refused, {slug: 1})
        self.assertTrue(client.transport.has_ended)
        client.send(post())
        self.clock.advance(1.9)
        self.assertTrue(client.is_open)
        self.clock.advance(0.1)
        self.assertFalse(client.is_open)
        self.assertEqual(len(client.responses), ahead + 1)
        self.assertEqual(self.traffic.refused, {slug: 1})

    def tell(self, pieces: list[bytes]) -> str:
        """Return in a line what a client gets for these bytes."""
        self.traffic.refused.clear()
        client = self.connect()
        try:
            client.send_all(pieces)
        except Exception as error:  # it would be a traceback in the log
            client.leave()
            return repr(error)
        responses = [
            f"{response.status} {response.json['type'].rpartition(':')[2]} "
            f"{response.headers.get('connection')}"
            for response in client.responses
        ]
        client.leave()
        return " ".join([*responses, str(dict(self.traffic.refused))])

    def assert_all_refused(
        self, streams: list[bytes], status: int = 400, slug: str = "malformed-request"
    ) -> None:
        """Check that each gets just one answer and ends its connection, however it is cut."""
        wanted = f"{status} {slug} close {{'{slug}': 1}}"
        for size in (100_000, 1):
            told = [(stream[:200], self.tell(cut(stream, size))) for stream in streams]
            self.assertEqual([both for both in told if both[1] != wanted], [])
        self.assertEqual(self.starts, [])


class TooLargeTests(EdgeTestCase):
    """Q6 and Q7: bodies of more than 64 KiB."""

    def test_by_its_length(self) -> None:
        """Q6: a body that is said to be too large is refused unread, without leave to send it."""
        client = self.connect()
        client.send(head(b"Expect: 100-continue", b"Content-Length: 65537"))
        self.assertEqual(client.statuses, [413])
        self.assert_refused(client, 413, "body-too-large")

    def test_by_a_huge_length(self) -> None:
        """Q6: a length is a number, however large."""
        client = self.connect()
        client.send(head(b"Content-Length: 18446744073709551615"))
        self.assert_refused(client, 413, "body-too-large")

    def test_is_thrown_away(self) -> None:
        """Q6: a body that comes all the same is thrown away, and after 1 MiB not even read."""
        client = self.connect()
        client.send(head(b"Content-Length: 10000000"))
        client.send_all([b"x" * 65_536] * 15)
        self.assertEqual(client.transport.producerState, "producing")
        client.send_all([b"x" * 65_536] * 2)
        self.assertEqual(client.transport.producerState, "paused")
        self.assert_refused(client, 413, "body-too-large")
        self.assertTrue(client.transport.is_aborted)

    def test_client_that_closes(self) -> None:
        """Q6: a client that has read why and closes leaves nothing to wait for."""
        client = self.connect()
        client.send(head(b"Content-Length: 65537"))
        client.leave()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_chunked(self) -> None:
        """Q7: a chunked body is refused at the byte that is too much."""
        client = self.connect()
        client.send(post_chunked(b"8000\r\n%b\r\n" % (b"x" * 32_768)))
        client.send(b"8001\r\n" + b"x" * 32_768)
        self.assertEqual(client.transport.value(), b"")
        client.send(b"x")
        self.assert_refused(client, 413, "body-too-large")

    def test_chunk_without_end(self) -> None:
        """Q7: one endless chunk is refused just so."""
        client = self.connect()
        client.send(post_chunked(b"ffffffffffffffff\r\n"))
        client.send_all([b"x" * 4_096] * 16)
        self.assertEqual(client.transport.value(), b"")
        client.send(b"x")
        self.assert_refused(client, 413, "body-too-large")

    def test_callback(self) -> None:
        """Q6: a callback has the same bound, and its job goes on."""
        client = self.hold()
        caller = self.connect()
        path = self.starts[0].callback_path.encode()
        caller.send(head(b"Content-Length: 65537", start=b"POST %b HTTP/1.1" % path))
        self.assert_refused(caller, 413, "body-too-large")
        self.assertTrue(client.is_held)
        self.end()


class ChunkedTests(EdgeTestCase):
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

    def test_cut_anywhere(self) -> None:
        """Q8: a chunked body is taken in memory, with extensions and trailers, however cut."""
        for size in (1, 2, 3, 5, 7, 11, 13, 64, 1_000):
            self.check(b'5\r\n{"acc\r\n0010\r\nount":"a","n":1}\r\n0\r\n\r\n', size)
            self.check(
                b'5;x\r\n{"acc\r\nE;a=b;c="d \\" e"\r\nount":"a", "n"\r\n3;q\r\n:1}\r\n'
                b"0;end=1\r\nX-Sum: abc\r\nHost: evil.example\r\nX-Empty:\r\n\r\n",
                size,
            )

    def test_largest_in_smallest_chunks(self) -> None:
        """Q8: a body of just 64 KiB is taken, even with each byte in a chunk of its own."""
        body = b'{"account":"a","n":1,"x":"' + b"y" * 65_508 + b'"}'
        self.assertEqual(len(body), 65_536)
        self.check(b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n", 65_536)

    def test_trailer_is_no_header(self) -> None:
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


class ExpectationTests(EdgeTestCase):
    """Q9: clients that ask before they send their body."""

    def test_continue(self) -> None:
        """Q9: the client gets leave to send its body, once, and then its answer."""
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

    def test_chunked(self) -> None:
        """Q9: leave is given for a chunked body too."""
        client = self.connect()
        client.send(head(b"Transfer-Encoding: chunked", b"Expect: 100-continue"))
        self.assertEqual(client.transport.value(), CONTINUE)
        client.send(b"f\r\n" + JOB + b"\r\n0\r\n\r\n")
        self.starts[0].respond(result_of("1"))
        self.assertEqual(client.statuses, [100, 200])

    def test_does_not_wait(self) -> None:
        """Q9: a client that sends its body unasked, or has none, needs no leave."""
        for stream in (post(JOB, b"Expect: 100-continue"), post(b"", b"Expect: 100-continue")):
            client = self.connect()
            client.send(stream)
            self.assertNotIn(CONTINUE, client.transport.value())
        client = self.connect()
        client.send(post(JOB, b"Expect: 100-continue")[:-1])
        self.assertEqual(client.transport.value(), b"")
        self.starts[0].respond(result_of("1"))

    def test_http_1_0(self) -> None:
        """Q9: a client of HTTP/1.0 would not understand leave, and gets none."""
        client = self.connect()
        client.send(
            head(b"Expect: 100-continue", b"Content-Length: 15", start=b"POST /proxy HTTP/1.0")
        )
        self.assertEqual(client.transport.value(), b"")
        client.send(JOB)
        self.starts[0].respond(result_of("1"))
        self.assertEqual(client.statuses, [200])

    def test_other_expectation(self) -> None:
        """Q9: another expectation is refused before the body."""
        for name in (b"101-continue", b"100-continue, x", b"x=y", b""):
            self.traffic.refused.clear()
            client = self.connect()
            client.send(head(b"Expect: " + name, b"Content-Length: 15"))
            self.assert_refused(client, 417, "expectation-failed")

    def test_waits_for_its_turn(self) -> None:
        """Q9: leave is given once the requests before have been answered."""
        client = self.hold()
        client.send(head(b"Expect: 100-continue", b"Content-Length: 15"))
        self.assertEqual(client.transport.value(), b"")
        self.end()
        self.assertEqual(client.statuses, [200, 100])
        client.send(OTHER_JOB)
        self.starts[1].respond(result_of("2"))
        self.assertEqual(client.statuses, [200, 100, 200])

    def test_waits_long_for_its_turn(self) -> None:
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

    def test_then_nothing(self) -> None:
        """Q13: a client that got leave and does not use it is told so after 10 seconds."""
        client = self.connect()
        client.send(head(b"Expect: 100-continue", b"Content-Length: 15"))
        self.clock.advance(10)
        self.assertEqual(client.statuses, [100, 408])


class MalformedTests(EdgeTestCase):
    """Q10: what is no HTTP/1.1, or could be read in two ways."""

    def test_two_lengths(self) -> None:
        """Q10: a body has one length."""
        chunks = b"5\r\nhello\r\n0\r\n\r\n"
        self.assert_all_refused(
            [
                head(*lines) + chunks
                for lines in (
                    (b"Content-Length: 5", b"Transfer-Encoding: chunked"),
                    (b"Transfer-Encoding: chunked", b"Content-Length: 5"),
                    (b"Content-Length: 0", b"Transfer-Encoding: chunked"),
                    (b"Content-Length: 5", b"Content-Length: 5"),
                    (b"Content-Length: 5", b"content-length: 6"),
                    (b"Content-Length: 5", b"X: y", b"Content-Length: 0"),
                )
            ]
        )

    def test_bad_length(self) -> None:
        """Q10: a length is decimal digits, and not too many."""
        lengths = (
            b"| |+5|-5|-0|0x5|5, 5|5,6|5 5|5_0|5.0|5e0|a|5a|'5'|\xb2|\xd9\xa5|5;x"
            b"|18446744073709551616|99999999999999999999999"
        ).split(b"|")
        lengths.append(b"9" * 5_000)
        self.assert_all_refused([head(b"Content-Length: " + it) + b"hello" for it in lengths])

    def test_length_of_zeros(self) -> None:
        """Q10: a length of 5,000 digits is refused, even if all but one are zeros."""
        self.assert_all_refused([head(b"Content-Length: " + b"0" * 5_000 + b"5") + b"hello"])

    def test_transfer_encodings(self) -> None:
        """Q10: the one transfer encoding is chunked, said once, in HTTP/1.1."""
        encodings = (
            b"gzip|identity|gzip, chunked|chunked, gzip|chunked, chunked|identity, chunked"
            b'|xchunked|chunked;x|"chunked"|| |,|chunked,|,chunked|\x0bchunked|chun ked|chunked\0'
        ).split(b"|")
        lines = [(b"Transfer-Encoding: " + it,) for it in encodings]
        chunked = b"Transfer-Encoding: chunked"
        twice = [
            (chunked, chunked),
            (chunked, b"transfer-encoding: gzip"),
            (b"Transfer-Encoding: gzip", chunked),
        ]
        self.assert_all_refused([head(*it) + b"0\r\n\r\n" for it in [*lines, *twice]])
        self.assert_all_refused([head(chunked, start=b"POST /proxy HTTP/1.0") + b"0\r\n\r\n"])

    def test_bad_lines(self) -> None:
        """Q10: a header line is a name, a colon, a value and CRLF, with nothing odd in it."""
        lines = (
            b"X: a\r\n b|X: a\r\n\tb|X: a\nY: b|X: a\rY: b|X: a\r|X: a\n"
            b"|X: a\0b|X: \0|X\0: a|X: a\x01b|X: a\x7fb|X: a\x1bb"
            b"|X : a|X\t: a| X: a|\tX: a|: a|X|X y: a"
            b'|X(: a|X": a|X@y: a|X/y: a|{X}: a|X\x01: a|X\xff: a|\xc3\xa9: a'
            b"|Content-Length : 15|Transfer-Encoding : chunked|Host : x"
        ).split(b"|")
        self.assert_all_refused([head(line) for line in lines])

    def test_bad_ends(self) -> None:
        """Q10: only CRLF ends a line."""
        good = head(b"Content-Length: 15")
        starts = [found.start() for found in re.finditer(rb"\r\n", good)]
        bare_lf = [good[:start] + good[start + 1 :] + JOB for start in starts]
        bare_cr = [good[: start + 1] + good[start + 2 :] + JOB for start in starts]
        self.assert_all_refused([*bare_lf, *bare_cr, good.replace(b"\r\n", b"\n") + JOB])

    def test_bad_chunks(self) -> None:
        """Q10: a chunk is its size in hexadecimal digits, CRLF, so many bytes and CRLF."""
        sizes = b"g|-1|+1|0x1| 1|1 |1\t||1,|1.0|\xb2|1_0|;x|10000000000000000|1;\0|1;a\0|1;a=\0"
        bodies = (
            b"1\nx\n0\n\n|1\rx|1\r\nxy\r\n|1\r\nx\n|1\r\nx0\r\n\r\n|1\r\n\r\n\r\n\r\n|1;\nx\r\n"
        )
        trailers = (
            b" X: y\r\n|X : y\r\n|X: a\r\n b\r\n|X: a\nY: b\r\n|X: \0\r\n|\n|\rX"
            b"|Content-Length: 5\r\n|Transfer-Encoding: chunked\r\n"
        )
        self.assert_all_refused(
            [
                *(post_chunked(size + b"\r\n") for size in sizes.split(b"|")),
                *(post_chunked(body) for body in bodies.split(b"|")),
                *(post_chunked(b"0\r\n%b\r\n" % trailer) for trailer in trailers.split(b"|")),
            ]
        )

    def test_bad_start(self) -> None:
        """Q10: a request starts with a method, a target and HTTP/1.1."""
        versions = (
            b" HTTP/2.0| HTTP/1.2| HTTP/0.9| HTTP/3| HTTP/1| HTTP/1.| HTTP/01.1| HTTP/1.10"
            b"|\tHTTP/1.1| http/1.1| HTTP /1.1| HTTP/1.1 | HTTP/1.1 x| HTTPS/1.1| HTTP/1,1"
            b"| HTTP/-1.1| "
        )
        starts = (
            b"FROB /|post /|POSTS /| POST /|P OST /|POST\t/|DESCRIBE /|\xef\xbb\xbfPOST /"
            b"|POST proxy|POST ?a|POST /a b|POST /a\0|POST /a\x7f|POST /a\x0b|POST |POST|\0"
        )
        others = b"POST|HTTP/1.1 200 OK|SSH-2.0-OpenSSH_9.2|\x16\x03\x01\x02\0\x01\0"
        self.assert_all_refused(
            [
                *(head(start=b"POST /proxy" + version) for version in versions.split(b"|")),
                *(head(start=start + b" HTTP/1.1") for start in starts.split(b"|")),
                *(head(start=other) for other in others.split(b"|")),
            ]
        )

    def test_http_0_9(self) -> None:
        """Q10: a request of HTTP/0.9 is refused."""
        self.assert_all_refused([b"POST /proxy\r\n\r\n", b"GET /\r\n\r\n"])

    def test_http_2(self) -> None:
        """Q10: a client that speaks HTTP/2 at once is refused."""
        self.assert_all_refused([b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"])

    def test_connect(self) -> None:
        """Q10: CONNECT is refused, and nothing of it answered before."""
        start = b"CONNECT jobs.example:443 HTTP/1.1"
        streams = [head(start=start), head(b"Content-Length: 15", start=start) + JOB]
        self.assert_all_refused(streams)

    def test_upgrade(self) -> None:
        """Q10: an upgrade is refused, and nothing of its request answered before."""
        lines = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c")
        chunked = (b"Transfer-Encoding: chunked", *lines)
        self.assert_all_refused(
            [
                head(*lines, start=b"GET /elsewhere HTTP/1.1"),
                post(JOB, *lines),
                post(JOB, *lines[::-1]),
                head(*chunked) + b"f\r\n%b\r\n0\r\n\r\n" % JOB,
            ]
        )

    def test_hosts(self) -> None:
        """Q10: there is one Host, in HTTP/1.0 at most one."""
        length = b"Content-Length: 15\r\n\r\n" + JOB
        self.assert_all_refused(
            [
                b"POST /proxy HTTP/1.1\r\n" + length,
                b"POST /proxy HTTP/1.1\r\nHost: a\r\nHost: a\r\n" + length,
                b"POST /proxy HTTP/1.1\r\nHost: a\r\nX: y\r\nhost:\r\n" + length,
                b"POST /proxy HTTP/1.0\r\nHost: a\r\nHost: b\r\n" + length,
            ]
        )

    def test_smuggled(self) -> None:
        """Q10: what follows a refused request is never taken for a request."""
        hidden = post() + GET
        self.assert_all_refused(
            [
                head(b"Content-Length: 0", b"Transfer-Encoding: chunked") + hidden,
                head(b"Content-Length: 4", b"Content-Length: 0") + hidden,
                head(b"X: y\n\nPOST /proxy HTTP/1.1", b"Content-Length: 15") + hidden,
                post_chunked(b"1\r\nx\n0\r\n\r\n") + hidden,
                b"GET /\r\n\r\n" + hidden,
            ]
        )

    def test_requests_before_are_answered(self) -> None:
        """Q10: good requests before a bad one are answered first."""
        client = self.connect()
        client.send(GET + GET + b"FROB\r\n\r\n" + GET)
        self.assertEqual(client.statuses, [404, 404, 400])
        self.assert_refused(client, 400, "malformed-request", ahead=2)

    def test_lenient_where_it_is_safe(self) -> None:
        """Q10: empty lines before a request, odd case and space around values are allowed."""
        for stream in (
            b"\r\n\r\n" + post(),
            head(b"CONTENT-LENGTH:15") + JOB,
            head(b"content-length: \t 15") + JOB,
            head(b"Content-Length: 15 ") + JOB,
            head(b"Content-Length: 0015") + JOB,
            head(b"Content-Length: 15", b"X-A:", b"X-B: ", b"X-C: \xe9") + JOB,
            head(b"Transfer-Encoding: Chunked") + b"F\r\n%b\r\n000\r\n\r\n" % JOB,
            post().replace(b"proxy.example", b""),
        ):
            client = self.connect()
            client.send(stream)
            self.starts.pop().respond(result_of("1"))
            self.assertEqual(client.response.status, 200)
        self.assertEqual(self.traffic.refused, {})

    def test_space_after_values(self) -> None:
        """Space after a value does not belong to it."""
        client = self.connect()
        client.send(head(b"Transfer-Encoding: chunked ") + b"f\r\n%b\r\n0\r\n\r\n" % JOB)
        client.send(post(OTHER_JOB, b"Expect: 100-continue \t", b"X-Request-Id: mine "))
        self.assertEqual(len(self.starts), 1)
        self.starts[0].respond(result_of("1"))
        self.starts[1].respond(result_of("2"))
        self.assertEqual(client.statuses, [200, 200])
        self.assertEqual(client.responses[1].headers["x-request-id"], "mine")


class HeaderLimitTests(EdgeTestCase):
    """Q11: heads that are too large."""

    def test_largest(self) -> None:
        """Q11: a line of nearly 16 KiB, 100 lines, or nearly 32 KiB in all are taken."""
        for lines in (
            [b"X: " + b"y" * 16_300],
            [b"X%d: y" % number for number in range(99)],
            [b"X%d: %b" % (number, b"y" * 15_000) for number in range(2)],
        ):
            client = self.connect()
            client.send_all(cut(head(*lines, start=b"GET /elsewhere HTTP/1.1"), 4_096))
            self.assertEqual(client.response.status, 404)

    def test_too_large(self) -> None:
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

    def test_without_an_end(self) -> None:
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

    def test_trailers(self) -> None:
        """Q11: trailers are bounded as headers are."""
        client = self.connect()
        client.send(post_chunked(b"0\r\n"))
        client.send_all([b"X: %b\r\n" % (b"y" * 1_000)] * 40)
        self.assert_refused(client, 431, "headers-too-large")

    def test_trailer_without_an_end(self) -> None:
        """Q11: one trailer that never ends is refused before it takes memory."""
        for prefix in (b"0\r\n", b"0\r\nX: ", b"0\r\nX:"):
            client = self.connect()
            client.send(post_chunked(prefix))
            client.send_all([b"x" * 16_384] * 64)
            self.assertNotEqual(client.transport.value(), b"")
            self.assertEqual(client.response.headers["connection"], "close")

    def test_chunk_extension_without_an_end(self) -> None:
        """Q11: a chunk extension that never ends is refused."""
        for prefix in (b"1;", b"1;x=", b'1;x="'):
            client = self.connect()
            client.send(post_chunked(prefix))
            client.send_all([b"x" * 16_384] * 64)
            self.assertNotEqual(client.transport.value(), b"")
            self.assertEqual(client.response.headers["connection"], "close")


class EncodingTests(EdgeTestCase):
    """Q12: paths and hosts that are not UTF-8."""

    def test_raw_path(self) -> None:
        """Q12: a path with bytes that have to be percent-encoded is refused."""
        starts = (b"POST /\xff HTTP/1.1", b"POST /\xe9 HTTP/1.1", "POST /é HTTP/1.1".encode())
        self.assert_all_refused([head(start=start) for start in starts])

    def test_encoded_path(self) -> None:
        """Q12: a percent-encoded path that is not UTF-8 is refused; the connection is not."""
        client = self.connect()
        for path in (b"/%ff", b"/callback/%E9", b"/%C3(", b"/%ed%a0%80", b"/proxy%80"):
            client.transport.clear()
            client.send(head(b"Content-Length: 15", start=b"POST %b HTTP/1.1" % path) + JOB)
            self.assert_problem(client.response, 400, "malformed-request")
        client.send(GET)
        self.assertEqual(client.statuses, [400, 404])

    def test_odd_path(self) -> None:
        """Q23: a path that is odd and UTF-8 is just one where nothing is."""
        client = self.connect()
        paths = (b"/%C3%A9", b"/%", b"/%zz", b"/%00", b"/%0d%0aX:%20y", b"/proxy%2f", b"/proxy/..")
        for path in paths:
            client.transport.clear()
            client.send(head(start=b"POST %b HTTP/1.1" % path))
            self.assert_problem(client.response, 404, "not-found")

    def test_host(self) -> None:
        """Q12: a Host that is not UTF-8 is refused."""
        hosts = (b"\xff", b"proxy.example\xe9", b"\xed\xa0\x80")
        self.assert_all_refused([post().replace(b"proxy.example", host) for host in hosts])


class SlowTests(EdgeTestCase):
    """Q13 and Q14: clients that take their time."""

    def trickle(self, client: RawClient, data: bytes) -> None:
        """Send a byte each half second until something comes back."""
        for byte in data:
            client.send(bytes([byte]))
            self.clock.advance(0.5)
            if client.transport.value():
                return

    def test_slow_head(self) -> None:
        """Q13: a head of which a byte comes each half second is given up after 10 seconds."""
        client = self.connect()
        self.trickle(client, head())
        self.assertEqual(self.clock.seconds(), 10)
        self.assert_refused(client, 408, "request-timeout")

    def test_slow_body(self) -> None:
        """Q13: a slow body is given up 10 seconds after its request began."""
        client = self.connect()
        client.send(head(b"Content-Length: 60000")[:-1])
        self.clock.advance(6)
        client.send(b"\n")
        self.trickle(client, b"x" * 60)
        self.assertEqual(self.clock.seconds(), 10)
        self.assert_refused(client, 408, "request-timeout")

    def test_slow_chunks(self) -> None:
        """Q13: slow chunks are given up just so."""
        client = self.connect()
        client.send(post_chunked(b""))
        self.trickle(client, b"1\r\nx\r\n" * 10)
        self.assertEqual(self.clock.seconds(), 10)
        self.assert_refused(client, 408, "request-timeout")

    def test_just_in_time(self) -> None:
        """Q13: a request that took less is served, and the next one has 10 seconds of its own."""
        client = self.connect()
        for number in range(3):
            client.send(post()[:-1])
            self.clock.advance(9.5)
            client.send(post()[-1:])
            self.starts[number].respond(result_of("1"))
            self.assertEqual(client.statuses, [200] * (number + 1))

    def test_begins_with_the_end_of_another(self) -> None:
        """Q13: a request that begins in one segment with the end of another has its own time."""
        client = self.connect()
        client.send(GET[:9])
        self.clock.advance(9)
        client.send(GET[9:] + GET[:9])
        self.clock.advance(9)
        client.send(GET[9:])
        self.assertEqual(client.statuses, [404, 404])

    def test_slow_second_request(self) -> None:
        """Q13: a second request is given up 10 seconds after its own first byte."""
        client = self.connect()
        client.send(GET)
        self.clock.advance(20)
        client.send(post()[:20])
        self.clock.advance(9.5)
        self.assertEqual(client.statuses, [404])
        self.clock.advance(0.5)
        self.assert_refused(client, 408, "request-timeout", ahead=1)

    def test_first_byte_comes_late(self) -> None:
        """Q13: the time before a connection's first byte is not counted against its request."""
        client = self.connect()
        self.clock.advance(9)
        client.send(post()[:20])
        self.clock.advance(9)
        client.send(post()[20:])
        self.starts[0].respond(result_of("1"))
        self.assertEqual(client.statuses, [200])

    def test_silent(self) -> None:
        """Q14: a client that connects and says nothing is left after 10 seconds, unanswered."""
        client = self.connect()
        self.clock.advance(9.9)
        self.assertTrue(client.is_open)
        self.clock.advance(0.1)
        self.assertFalse(client.is_open)
        self.assertEqual(client.transport.value(), b"")
        self.assertEqual(self.traffic.refused, {"silent": 1})

    def test_only_empty_lines(self) -> None:
        """Q14: empty lines do not keep a connection open for long."""
        for piece in (b"\r\n", b"\n", b"\r"):
            client = self.connect()
            for _ in range(12):
                client.send(piece)
                self.clock.advance(5)
            self.assertFalse(client.is_open, piece)


class IdleTests(EdgeTestCase):
    """Connections between requests."""

    options = {"wait": 100.0}

    def test_is_closed(self) -> None:
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

    def test_held_is_not_idle(self) -> None:
        """A held client may be silent for as long as its job takes, and for 30 seconds more."""
        client = self.hold()
        self.clock.advance(90)
        self.assertTrue(client.is_held)
        self.end()
        self.clock.advance(29.5)
        client.send(GET)
        self.assertEqual(client.statuses, [200, 404])

    def test_is_asked_to_close(self) -> None:
        """A connection is closed after an answer if its client said so."""
        for value in (b"close", b"Close", b"x, close"):
            client = self.connect()
            client.send(head(b"Connection: " + value, start=b"GET / HTTP/1.1") + GET)
            self.assertEqual(client.response.headers["connection"], "close")
            self.assertFalse(client.is_open)
            self.assertFalse(client.transport.is_aborted)


class LeavingTests(EdgeTestCase):
    """Clients that leave at any time."""

    def assert_nothing_left(self) -> None:
        self.assertEqual(self.site.connections, set())
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.starts, [])

    def test_anywhere_in_a_request(self) -> None:
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

    def test_after_an_answer(self) -> None:
        """A client that leaves after an answer, or after a refusal, leaves nothing."""
        for stream in (GET, GET + GET, b"FROB\r\n\r\n", GET + b"FROB\r\n\r\n"):
            client = self.connect()
            client.send(stream)
            client.leave()
            self.assert_nothing_left()
        self.assertEqual(self.traffic.refused, {"malformed-request": 2})

    def test_half_close(self) -> None:
        """Q17: a client that closes its side only counts as one that left, as documented."""
        held = [self.hold(), self.hold()]
        starting = [self.submit("a"), self.submit("a")]
        queued = self.submit("a")
        for client in (*held, queued):
            # To a protocol that knows no half-closed connections this is what FIN means.
            client.leave()
        self.assertEqual(self.table.held, 2)
        for number, client in enumerate(starting):
            self.starts[2 + number].respond(result_of("1"))
            self.assertEqual(client.response.status, 200)
        self.assertEqual(len(self.starts), 4)
        self.end(0)
        self.end(1)

    def test_with_requests_waiting(self) -> None:
        """Q19: what a client has asked for ahead is not done once it has left."""
        client = self.hold()
        client.send(post(OTHER_JOB) + post(OTHER_JOB)[:-1])
        client.leave()
        self.assertEqual(self.table.held, 0)
        self.end()
        self.assertEqual(len(self.starts), 1)

    def test_with_a_refusal_waiting(self) -> None:
        """A client that leaves before it could be refused is not refused."""
        client = self.hold()
        client.send(b"FROB\r\n\r\n")
        client.leave()
        self.end()
        self.assertEqual(client.transport.value(), b"")
        self.assertEqual(self.traffic.refused, {})


class PipelineTests(EdgeTestCase):
    """Q19 and Q20: clients that do not wait for an answer before they ask again."""

    def test_in_order(self) -> None:
        """Q19: requests are answered in their order, in one segment or in many."""
        stream = b"".join(
            head(b"X-Request-Id: %d" % number, start=b"GET /%d HTTP/1.1" % number)
            for number in range(50)
        )
        for size in (1, 7, 100, 100_000):
            client = self.connect()
            client.send_all(cut(stream, size))
            ids = [response.headers["x-request-id"] for response in client.responses]
            self.assertEqual(ids, [str(number) for number in range(50)])

    def test_behind_a_held_one(self) -> None:
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

    def test_as_much_as_allowed(self) -> None:
        """Q20: 4 KiB may be sent ahead of a held request's answer."""
        client = self.hold()
        client.send_all([GET] * (4_096 // len(GET)))
        self.assertTrue(client.is_held)
        self.end()
        self.assertEqual(client.statuses, [200] + [404] * (4_096 // len(GET)))

    def test_too_much(self) -> None:
        """Q20: a client that sends more ahead is cut off, and counts as one that left."""
        for piece in (GET, b"x", post(b"y" * 2_000)[:-1]):
            client = self.hold()
            self.assertEqual(self.table.held, 1)
            client.send_all([piece] * (4_097 // len(piece) + 1))
            self.assertTrue(client.transport.is_aborted)
            self.assertEqual(client.transport.value(), b"")
            self.assertEqual(self.traffic.refused, {"pipelined": 1})
            self.assertEqual(self.table.held, 0)
            taken = self.call_back(self.starts.pop(), result_of("1"))
            self.assertEqual(taken.json, {"status": "accepted"})
            self.traffic.refused.clear()

    def test_steadily(self) -> None:
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

    def test_refusal_waits(self) -> None:
        """Q10: what cannot be a request is refused when all before it are answered."""
        client = self.hold()
        client.send(GET + b"FROB / HTTP/1.1\r\n\r\n")
        self.assertTrue(client.is_held)
        client.send(GET)
        self.end()
        self.assertEqual(client.statuses, [200, 404, 400])
        self.assert_refused(client, 400, "malformed-request", ahead=2)

    def test_large_body_waits(self) -> None:
        """Q6: a body that is too large is refused when all before it are answered."""
        client = self.hold()
        client.send(head(b"Content-Length: 65537"))
        self.assertTrue(client.is_held)
        self.end()
        self.assert_refused(client, 413, "body-too-large", ahead=1)

    def test_timeout_waits(self) -> None:
        """Q13: a slow request is given up when all before it are answered."""
        client = self.hold()
        client.send(GET[:-1])
        self.clock.advance(15)
        self.assertTrue(client.is_held)
        self.end()
        self.assert_refused(client, 408, "request-timeout", ahead=1)

    def test_nothing_after_the_last(self) -> None:
        """What follows a request that closes the connection is not even refused."""
        client = self.connect()
        client.send(post(JOB, b"Connection: close") + b"FROB\r\n\r\n")
        client.send(b"FROB\r\n\r\n")
        self.starts[0].respond(result_of("1"))
        self.assertEqual(client.statuses, [200])
        self.assertFalse(client.is_open)
        self.assertEqual(self.traffic.refused, {})


class OldClientTests(EdgeTestCase):
    """Q21: clients of HTTP/1.0."""

    def test_is_answered(self) -> None:
        """Q21: a client of HTTP/1.0 gets an answer with a length, and the connection's end."""
        for line in (b"X: y", b"Connection: keep-alive", b"Connection: close"):
            client = self.connect()
            client.send(b"POST /proxy HTTP/1.0\r\nContent-Length: 15\r\n%b\r\n\r\n%b" % (line, JOB))
            self.starts[-1].respond(result_of("1"))
            self.assertEqual(client.response.body, result_of("1"))
            self.assertEqual(client.response.headers["connection"], "close")
            self.assertFalse(client.is_open)
            self.assertFalse(client.transport.is_aborted)

    def test_is_refused(self) -> None:
        """Q21: a problem is told to a client of HTTP/1.0 just so."""
        client = self.connect()
        client.send(b"GET /elsewhere HTTP/1.0\r\n\r\n" + GET)
        self.assert_problem(client.response, 404, "not-found")
        self.assertFalse(client.is_open)


class UnreadTests(EdgeTestCase):
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

    def test_answer(self) -> None:
        """Q22: a connection whose answer is not read is cut off in the end."""
        self.check(post(), 30)

    def test_last_answer(self) -> None:
        """Q22: a connection that is to be closed after its answer is cut off just so."""
        self.check(post(JOB, b"Connection: close"), 30)

    def test_stops_listening(self) -> None:
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

    def test_many_requests_in_a_segment(self) -> None:
        """Q22: requests that came with the one that was too much are answered in their turn."""
        client = self.connect()
        client.transport.is_read = False
        client.send(GET * 500 + b"FROB\r\n\r\n")
        client.transport.drain()
        self.assertEqual(client.statuses, [404] * 500 + [400])

    def test_reads_too_late(self) -> None:
        """Q22: a client that is not listened to and does not read is cut off in the end."""
        client = self.connect()
        client.transport.is_read = False
        client.send(GET * 500 + GET[:9])
        for _ in range(3):
            self.clock.advance(30)
        self.assertTrue(client.transport.is_aborted)

    def test_slow_after_it_has_read(self) -> None:
        """Q13: a client that was not listened to for a while has no more time than others."""
        client = self.connect()
        client.transport.is_read = False
        client.send(GET * 500 + GET[:9])
        client.transport.drain()
        self.clock.advance(10)
        self.assertEqual(client.statuses, [404] * 500 + [408])

    def test_idle_after_it_has_read(self) -> None:
        """A client that was not listened to for a while may not be idle for longer than others."""
        client = self.connect()
        client.transport.is_read = False
        client.send(GET * 500)
        self.clock.advance(20)
        client.transport.drain()
        self.clock.advance(29.9)
        self.assertTrue(client.is_open)
        self.clock.advance(0.1)
        self.assertFalse(client.is_open)
        self.assertEqual(client.statuses, [404] * 500)

    def test_refusal(self) -> None:
        """Q22: a connection whose refusal is not read is cut off sooner."""
        self.check(b"FROB\r\n\r\n", 2)


class RoutingTests(EdgeTestCase):
    """Q23 and Q24: requests that are HTTP, and still come to nothing."""

    def test_stays_open(self) -> None:
        """Q23: a request that leads nowhere does not cost its connection."""
        client = self.connect()
        client.send(GET + head(start=b"PUT /proxy HTTP/1.1") + GET)
        self.assertEqual(client.statuses, [404, 405, 404])
        self.assertEqual(client.responses[1].headers["allow"], "POST")
        self.assertTrue(client.is_open)
        self.assertEqual(self.traffic.refused, {})

    def test_methods(self) -> None:
        """Q23: every method that HTTP knows but POST is told that POST is served."""
        for method in b"GET PUT DELETE OPTIONS PATCH TRACE PROPFIND M-SEARCH".split():
            client = self.connect()
            client.send(head(start=method + b" /proxy HTTP/1.1"))
            self.assert_problem(client.response, 405, "method-not-allowed")

    def test_head(self) -> None:
        """Q23: the answer to HEAD ends with its header; the length it tells is GET's."""
        client = self.connect()
        client.send(head(start=b"HEAD /elsewhere HTTP/1.1") + GET)
        parts = re.split(rb"(?=HTTP/1\.1 404 )", client.transport.value())[1:]
        self.assertEqual(len(parts), 2)
        self.assertTrue(parts[0].endswith(b"\r\n\r\n"))
        (length,) = re.findall(rb"\r\nContent-Length: (\d+)\r\n", parts[0])
        self.assertEqual(int(length), len(parse_responses(parts[1])[0].body))

    def test_absolute_target(self) -> None:
        """A target may be a whole URL, as it is sent to a proxy (RFC 9112, section 3.2.2)."""
        for target in (b"http://proxy.example/proxy", b"http://proxy.example:8080/proxy?x=y"):
            client = self.connect()
            client.send(post().replace(b"/proxy ", target + b" "))
            self.assertEqual(client.statuses, [])
            self.starts.pop().respond(result_of("1"))
            self.assertEqual(client.statuses, [200])

    def test_absolute_target_elsewhere(self) -> None:
        """A target of another path is not found, whole URL or not."""
        client = self.connect()
        client.send(post().replace(b"/proxy ", b"http://proxy.example/elsewhere "))
        self.assert_problem(client.response, 404, "not-found")

    def test_asterisk(self) -> None:
        """OPTIONS of the whole server gets an answer like any other, on a connection that stays."""
        client = self.connect()
        client.send(head(start=b"OPTIONS * HTTP/1.1") + head(start=b"POST * HTTP/1.1"))
        for response in client.responses:
            self.assert_problem(response, 404, "not-found")
        self.assertEqual(len(client.responses), 2)
        self.assertTrue(client.is_open)

    def test_paths_leave_nothing(self) -> None:
        """However many ways there are to write a path, none is remembered."""
        client = self.connect()
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        for path in (b"proxy", b"callback/x"):
            sizes = []
            for number in range(100):
                slashes = b"/" * (10_000 + number)
                client.send(head(start=b"POST %b%b HTTP/1.1" % (slashes, path)))
                client.transport.clear()
                sizes.append(tracemalloc.get_traced_memory()[0])
            self.assertLess(sizes[-1] - sizes[20], 200_000, path)

    def test_crash(self) -> None:
        """Q24: a request whose handler fails gets its answer, and so do those behind it."""
        client = self.connect()
        with mock.patch.object(Gateway, "submit", side_effect=RuntimeError("secret")):
            client.send(post() + GET)
        self.assert_problem(client.responses[0], 500, "internal", started="unknown")
        self.assertEqual(client.statuses, [500, 404])
        self.assertNotIn(b"secret", client.transport.value())
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)


class RequestTests(EdgeTestCase):
    """What a handler sees of a request, as it would of twisted.web's."""

    def setUp(self) -> None:
        super().setUp()
        self.keeper = Keeper()
        self.site = make_server(self.keeper, self.clock, self.traffic)

    def keep(self, stream: bytes) -> tuple[RawClient, Request]:
        """Return the last request of these bytes, and its client."""
        client = self.connect()
        client.send(stream)
        return client, self.keeper.requests[-1]

    def test_start_line(self) -> None:
        """The method, the target and its parts are bytes."""
        _, request = self.keep(head(start=b"PUT /a%20b/c%2Fd//e?x=1&x=%32&y= HTTP/1.1"))
        self.assertEqual(request.method, b"PUT")
        self.assertEqual(request.uri, b"/a%20b/c%2Fd//e?x=1&x=%32&y=")
        self.assertEqual(request.path, b"/a%20b/c%2Fd//e")
        self.assertEqual(request.clientproto, b"HTTP/1.1")
        self.assertEqual(request.prepath, [])
        self.assertEqual(request.postpath, [b"a b", b"c/d", b"", b"e"])
        self.assertEqual(request.args, {b"x": [b"1", b"2"], b"y": [b""]})

    def test_headers(self) -> None:
        """A header is found whatever its case, as bytes or text like the name asked for."""
        _, request = self.keep(head(b"X-A: 1", b"X-B: caf\xe9", b"x-a: 2", b"X-Empty:"))
        self.assertEqual(request.getHeader(b"X-A"), b"2")
        self.assertEqual(request.getHeader("x-a"), "2")
        self.assertEqual(request.getHeader("X-B"), "café")
        self.assertEqual(request.getHeader(b"x-b"), b"caf\xe9")
        self.assertEqual(request.getHeader(b"x-empty"), b"")
        self.assertIsNone(request.getHeader(b"x-c"))
        self.assertIsNone(request.getHeader("x-c"))
        headers = request.requestHeaders
        self.assertEqual(headers.getRawHeaders(b"x-a"), [b"1", b"2"])
        self.assertEqual(headers.getRawHeaders("X-A"), ["1", "2"])
        self.assertEqual(headers.getRawHeaders(b"host"), [b"proxy.example"])
        self.assertFalse(headers.hasHeader(b"x-c"))

    def test_body(self) -> None:
        """The body is bytes, and a file that can be read again."""
        for stream in (
            post(),
            post_chunked(b"3\r\n%b\r\nc\r\n%b\r\n0\r\n\r\n" % (JOB[:3], JOB[3:])),
        ):
            _, request = self.keep(stream)
            self.assertEqual(request.body, JOB)
            self.assertEqual(request.content.read(), JOB)
            request.content.seek(1)
            self.assertEqual(request.content.read(3), JOB[1:4])
        _, request = self.keep(GET)
        self.assertEqual((request.body, request.content.read()), (b"", b""))

    def test_addresses(self) -> None:
        """Both ends of the connection are known, and that it is not encrypted."""
        client, request = self.keep(GET)
        self.assertEqual(request.client, client.transport.getPeer())
        self.assertEqual(request.getClientAddress(), client.transport.getPeer())
        self.assertEqual(request.host, client.transport.getHost())
        self.assertEqual(request.getRequestHostname(), b"proxy.example")
        self.assertFalse(request.isSecure())
        self.assertIs(request.site, self.site)
        self.assertIs(request.transport, client.transport)

    def test_id(self) -> None:
        """A request has an id from its first look on, its own if it is fit."""
        _, request = self.keep(head(b"X-Request-Id: mine"))
        self.assertEqual(request.request_id, b"mine")
        client, request = self.keep(GET)
        self.assertEqual(request.request_id, b"made")
        request.finish()
        self.assertEqual(client.response.headers["x-request-id"], "made")

    def test_answer(self) -> None:
        """An answer is what was written, under the headers and the status that were set."""
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

    def test_empty_answer(self) -> None:
        """An answer without anything in it has its length too."""
        client, request = self.keep(GET)
        request.finish()
        self.assertEqual((client.response.status, client.response.body), (200, b""))

    def test_no_injection(self) -> None:
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

    def test_notifies_of_the_end(self) -> None:
        """Who asked is told when the answer has been given, in whatever number they are."""
        _, request = self.keep(GET)
        outcomes: list[object] = []
        for _ in range(2):
            request.notifyFinish().addBoth(outcomes.append)
        self.assertEqual(outcomes, [])
        request.finish()
        self.assertEqual(outcomes, [None, None])
        self.assertFalse(request.is_gone)

    def test_notifies_of_leaving(self) -> None:
        """Who asked is told why there will be no answer; to answer all the same does nothing."""
        client, request = self.keep(GET + GET)
        outcomes: list[Any] = []
        for _ in range(2):
            request.notifyFinish().addErrback(outcomes.append)
        client.leave()
        for failure in outcomes:
            self.assertIsInstance(failure, Failure)
            failure.trap(ConnectionDone)
        self.assertEqual(len(outcomes), 2)
        self.assertTrue(request.is_gone)
        request.write(b"late")
        request.finish()
        self.assertEqual(client.transport.value(), b"")
        self.assertEqual(len(self.keeper.requests), 1)

    def test_finishes_once(self) -> None:
        """A second end of a request changes nothing."""
        client, request = self.keep(GET)
        request.finish()
        request.finish()
        self.assertEqual(len(client.responses), 1)

    def test_answer_in_a_notification(self) -> None:
        """The next request may be answered while the end of the one before is told of."""
        client, first = self.keep(GET + GET)
        first.notifyFinish().addCallback(lambda _: self.keeper.requests[-1].finish())
        first.finish()
        self.assertEqual(client.statuses, [200, 200])


class SplitTests(EdgeTestCase):
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

    def test_in_two(self) -> None:
        """A stream gets the same answers wherever it is cut."""
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
