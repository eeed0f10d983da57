"""What is no HTTP/1.1, or could be read in two ways, and what is not UTF-8."""

import re

from tests.support.http1_server import (
    GET,
    JOB,
    OTHER_JOB,
    ServerTestCase,
    head,
    post,
    post_chunked,
)
from tests.support.proxy import result_of


class MalformedTests(ServerTestCase):
    """Q10: what is no HTTP/1.1, or could be read in two ways."""

    def test_400_when_there_are_two_lengths(self) -> None:
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

    def test_400_when_a_length_is_no_decimal_number(self) -> None:
        """Q10: a length is decimal digits, and not too many."""
        lengths = (
            b"| |+5|-5|-0|0x5|5, 5|5,6|5 5|5_0|5.0|5e0|a|5a|'5'|\xb2|\xd9\xa5|5;x"
            b"|18446744073709551616|99999999999999999999999"
        ).split(b"|")
        lengths.append(b"9" * 5_000)
        self.assert_all_refused([head(b"Content-Length: " + it) + b"hello" for it in lengths])

    def test_400_when_a_length_is_thousands_of_zeros(self) -> None:
        """Q10: a length of 5,000 digits is refused, even if all but one are zeros."""
        self.assert_all_refused([head(b"Content-Length: " + b"0" * 5_000 + b"5") + b"hello"])

    def test_400_when_a_transfer_encoding_is_not_chunked_alone(self) -> None:
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

    def test_400_when_a_header_line_is_malformed(self) -> None:
        """Q10: a header line is a name, a colon, a value and CRLF, with nothing odd in it."""
        lines = (
            b"X: a\r\n b|X: a\r\n\tb|X: a\nY: b|X: a\rY: b|X: a\r|X: a\n"
            b"|X: a\0b|X: \0|X\0: a|X: a\x01b|X: a\x7fb|X: a\x1bb"
            b"|X : a|X\t: a| X: a|\tX: a|: a|X|X y: a"
            b'|X(: a|X": a|X@y: a|X/y: a|{X}: a|X\x01: a|X\xff: a|\xc3\xa9: a'
            b"|Content-Length : 15|Transfer-Encoding : chunked|Host : x"
        ).split(b"|")
        self.assert_all_refused([head(line) for line in lines])

    def test_400_when_a_line_does_not_end_with_crlf(self) -> None:
        """Q10: only CRLF ends a line."""
        good = head(b"Content-Length: 15")
        starts = [found.start() for found in re.finditer(rb"\r\n", good)]
        bare_lf = [good[:start] + good[start + 1 :] + JOB for start in starts]
        bare_cr = [good[: start + 1] + good[start + 2 :] + JOB for start in starts]
        self.assert_all_refused([*bare_lf, *bare_cr, good.replace(b"\r\n", b"\n") + JOB])

    def test_400_when_a_chunk_is_malformed(self) -> None:
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

    def test_400_when_a_request_line_is_malformed(self) -> None:
        """Q10: a request starts with a method, a target and HTTP/1.1."""
        versions = (
            b" HTTP/0.9| HTTP/3| HTTP/1| HTTP/1.| HTTP/01.1| HTTP/1.10"
            b"|\tHTTP/1.1| http/1.1| HTTP /1.1| HTTP/1.1 | HTTP/1.1 x| HTTPS/1.1| HTTP/1,1"
            b"| HTTP/-1.1| "
        )
        starts = (
            b" POST /|P OST /|POST\t/|FR@B /|\xef\xbb\xbfPOST /"
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

    def test_501_when_a_method_is_not_known(self) -> None:
        """Q10: a method that nobody has defined is 501, and one that is not served is 405."""
        methods = (b"FOO", b"FROB", b"post", b"POSTS", b"DESCRIBE", b"PAUSE", b"X-!#$%&'*+.^_`|~")
        starts = [method + b" /proxy HTTP/1.1" for method in methods]
        self.assert_all_refused([head(start=it) for it in starts], 501, "not-implemented")
        self.assert_all_refused([head(start=b"\r\n" + starts[0])], 501, "not-implemented")
        long = b"FOO /" + b"x" * 40_000
        self.assert_all_refused([long], 431, "headers-too-large")
        client = self.connect()
        client.send(head(start=b"PURGE /proxy HTTP/1.1"))
        self.assertEqual((client.response.status, client.response.headers["allow"]), (405, "POST"))

    def test_505_to_another_major_version(self) -> None:
        """Q10: another major version is 505; a higher minor one is treated as ours."""
        starts = [b"POST /proxy HTTP/" + version for version in (b"2.0", b"3.0", b"9.1")]
        self.assert_all_refused([head(start=it) for it in starts], 505, "version-not-supported")
        for version in (b"1.2", b"1.9"):
            client = self.connect()
            client.send(post().replace(b"HTTP/1.1", b"HTTP/" + version) + GET)
            self.starts.pop().respond(result_of("1"))
            self.assertEqual(client.statuses, [200, 404])

    def test_400_to_http_0_9(self) -> None:
        """Q10: a request of HTTP/0.9 is refused."""
        self.assert_all_refused([b"POST /proxy\r\n\r\n", b"GET /\r\n\r\n"])

    def test_400_to_http_2(self) -> None:
        """Q10: a client that speaks HTTP/2 at once is refused."""
        self.assert_all_refused([b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"])

    def test_400_to_connect(self) -> None:
        """Q10: CONNECT is refused, and gets no other response before."""
        start = b"CONNECT jobs.example:443 HTTP/1.1"
        streams = [head(start=start), head(b"Content-Length: 15", start=start) + JOB]
        self.assert_all_refused(streams)

    def test_400_unless_there_is_one_host(self) -> None:
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

    def test_400_when_a_host_is_none(self) -> None:
        """Q10: a Host is a name or an address, and perhaps a port."""
        wrong = b'a b|a/b|http://a|a@b|a:b|a:80:80|[::1|::1]|[::1]x|a,b c|<a>|a\\b|a?b|a#b|[]|"a"'
        self.assert_all_refused(
            [post().replace(b"proxy.example", host) for host in wrong.split(b"|")]
        )
        for host in (b"a:80", b"a:", b"[::1]:80", b"[fe80::1%25eth0]", b"a_b.example.", b"1.2.3.4"):
            client = self.connect()
            client.send(GET.replace(b"proxy.example", host))
            self.assertEqual(client.response.status, 404, host)

    def test_what_follows_a_refused_request_is_not_read(self) -> None:
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

    def test_requests_before_a_malformed_one_get_their_responses(self) -> None:
        """Q10: good requests before a bad one get their responses first."""
        client = self.connect()
        client.send(GET + GET + b"FROB\r\n\r\n" + GET)
        self.assertEqual(client.statuses, [404, 404, 400])
        self.assert_refused(client, 400, "malformed-request", ahead=2)

    def test_harmless_oddities_are_accepted(self) -> None:
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

    def test_space_after_a_value_is_removed(self) -> None:
        """Space after a value does not belong to it."""
        client = self.connect()
        client.send(head(b"Transfer-Encoding: chunked ") + b"f\r\n%b\r\n0\r\n\r\n" % JOB)
        client.send(post(OTHER_JOB, b"Expect: 100-continue \t", b"X-Request-Id: mine "))
        self.assertEqual(len(self.starts), 1)
        self.starts[0].respond(result_of("1"))
        self.starts[1].respond(result_of("2"))
        self.assertEqual(client.statuses, [200, 200])
        self.assertEqual(client.responses[1].headers["x-request-id"], "mine")


class EncodingTests(ServerTestCase):
    """Q12: paths and hosts that are not UTF-8."""

    def test_400_when_a_path_has_raw_bytes(self) -> None:
        """Q12: a path with bytes that have to be percent-encoded is refused."""
        starts = (b"POST /\xff HTTP/1.1", b"POST /\xe9 HTTP/1.1", "POST /é HTTP/1.1".encode())
        self.assert_all_refused([head(start=start) for start in starts])

    def test_400_when_an_encoded_path_is_not_utf_8(self) -> None:
        """Q12: a percent-encoded path that is not UTF-8 is refused; the connection is not."""
        client = self.connect()
        for path in (b"/%ff", b"/callback/%E9", b"/%C3(", b"/%ed%a0%80", b"/proxy%80"):
            client.transport.clear()
            client.send(head(b"Content-Length: 15", start=b"POST %b HTTP/1.1" % path) + JOB)
            self.assert_problem(client.response, 400, "malformed-request")
        client.send(GET)
        self.assertEqual(client.statuses, [400, 404])

    def test_404_when_an_odd_path_is_utf_8(self) -> None:
        """Q23: a path that is odd and UTF-8 is just one where nothing is."""
        client = self.connect()
        paths = (b"/%C3%A9", b"/%", b"/%zz", b"/%00", b"/%0d%0aX:%20y", b"/proxy/..")
        for path in paths:
            client.transport.clear()
            client.send(head(start=b"POST %b HTTP/1.1" % path))
            self.assert_problem(client.response, 404, "not-found")

    def test_400_when_a_host_is_not_utf_8(self) -> None:
        """Q12: a Host that is not UTF-8 is refused."""
        hosts = (b"\xff", b"proxy.example\xe9", b"\xed\xa0\x80")
        self.assert_all_refused([post().replace(b"proxy.example", host) for host in hosts])
