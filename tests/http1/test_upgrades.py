"""Clients that offer to speak another protocol, as Java's does with every first request."""

from tests.support.http1_server import (
    GET,
    JOB,
    OTHER_JOB,
    ServerTestCase,
    cut,
    head,
    post,
)
from tests.support.proxy import result_of

#: What Java's HttpClient and ``curl --http2`` send.
OFFER = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAAQ")


class UpgradeTests(ServerTestCase):
    """Offers are ignored (RFC 9110, section 7.8)."""

    def test_offer_is_ignored_however_its_request_arrives(self) -> None:
        """Q29: the job is held and answered in HTTP/1.1, and the connection stays usable."""
        chunked = head(b"Transfer-Encoding: chunked", *OFFER) + b"f\r\n%b\r\n0\r\n\r\n" % JOB
        for request in (post(JOB, *OFFER), post(JOB, *OFFER[::-1]), chunked):
            for size in (1, 7, 10_000):
                client = self.connect()
                client.send_all(cut(request, size))
                self.assertTrue(client.is_held)
                self.assertEqual(self.starts[-1].body["account"], "a")
                self.starts.pop().respond(result_of("1"))
                self.assertEqual(client.response.body, result_of("1"))
                client.send(GET)
                self.assertEqual(client.statuses, [200, 404])

    def test_requests_behind_an_offer_are_served_in_order(self) -> None:
        """Q29, Q19: what follows in the same segment is the next request, with an offer or not."""
        get = head(*OFFER, start=b"GET /elsewhere HTTP/1.1")
        stream = get * 300 + post(JOB, *OFFER) + post(OTHER_JOB) + get
        for size in (11, 1_000_000):
            client = self.connect()
            client.send_all(cut(stream, size))
            self.clock.pump(3 * [0])
            self.assertEqual(client.statuses, [404] * 300)
            for _ in range(2):
                self.starts.pop().respond(result_of("1"))
            self.assertEqual(client.statuses, [404] * 300 + [200, 200, 404])

    def test_any_minor_version_is_served_behind_an_offer(self) -> None:
        """Q29: behind an offer, with a body or without, HTTP/1.2 is HTTP/1.1 as elsewhere."""
        get = head(*OFFER, start=b"GET /elsewhere HTTP/1.2")
        chunks = b"Transfer-Encoding: chunked"
        empty = head(chunks, *OFFER, start=b"PUT /elsewhere HTTP/1.2") + b"0\r\n\r\n"
        for first in (get, empty, post(b"{", *OFFER)):
            client = self.connect()
            client.send(first + get + post(b"{").replace(b"HTTP/1.1", b"HTTP/1.2") + empty)
            self.assertEqual(client.statuses[1:], [404, 400, 404])
            self.assertTrue(client.is_open)

    def test_offer_of_a_callback_is_ignored(self) -> None:
        """Q29: a job server in Java can send its callbacks."""
        client = self.hold()
        start = b"POST %b HTTP/1.1" % self.starts[0].callback_path.encode()
        body = result_of("1")
        callback = head(b"Content-Length: %d" % len(body), *OFFER, start=start) + body
        sender = self.connect()
        sender.send(callback)
        self.assertEqual(sender.response.json, {"status": "accepted"})
        self.assertEqual(client.response.body, body)

    def test_limits_hold_behind_an_offer(self) -> None:
        """Q6, Q29: a body that is too large is refused, and ``close`` still closes."""
        client = self.connect()
        client.send(head(b"Content-Length: 65537", *OFFER))
        self.assert_refused(client, 413, "body-too-large")
        self.traffic.refused.clear()
        client = self.connect()
        client.send(head(b"Transfer-Encoding: chunked", *OFFER) + b"11000\r\n" + b"x" * 70_000)
        self.assert_refused(client, 413, "body-too-large")
        client = self.connect()
        client.send(post(b"{", b"Connection: close, Upgrade", b"Upgrade: h2c"))
        self.assertEqual(client.response.headers["connection"], "close")
        self.assertFalse(client.is_open)
