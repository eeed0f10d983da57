"""What the agent and treq's client send."""

from treq.client import HTTPClient
from twisted.internet.defer import maybeDeferred
from twisted.web.error import SchemeNotSupported
from twisted.web.http_headers import Headers
from zope.interface.verify import verifyObject

from jobproxy.http1.agent import PooledAgent
from jobproxy.http1.client import CLOSE as CLOSE_LINES
from jobproxy.http1.client import JSON, PlainClient, read_body
from jobproxy.http1.response import BodyTooBig
from jobproxy.http1.sender import ISender
from tests.support.http1_agent import (
    CLOSE,
    PLAIN,
    URL,
    AgentTestCase,
    Connection,
)


class RequestTests(AgentTestCase):
    """What a request looks like."""

    def send(
        self, uri: bytes = URL, headers: Headers | None = None, body: bytes = b"{}"
    ) -> Connection:
        asking = self.request(uri, headers, body)
        connection = self.connect()
        connection.send(PLAIN)
        self.successResultOf(asking)
        return connection

    def test_agent_provides_isender(self) -> None:
        """The agent is a sender of the client."""
        verifyObject(ISender, self.agent)

    def test_request_is_its_line_host_headers_length_and_body(self) -> None:
        """A request is its line, its host, the headers given, the body's length and the body."""
        headers = Headers({"Content-Type": ["application/json"]})
        self.assertEqual(
            self.send(b"http://jobs.example/start?x=1&y=%20", headers).received,
            b"POST /start?x=1&y=%20 HTTP/1.1\r\n"
            b"Host: jobs.example\r\n"
            b"Content-Type: application/json\r\n"
            b"Content-Length: 2\r\n"
            b"\r\n"
            b"{}",
        )

    def test_method_is_the_one_given(self) -> None:
        """The method is the one given."""
        asking = self.agent.send("GET", URL.decode(), (), b"")
        connection = self.connect()
        self.assertTrue(connection.received.startswith(b"GET /start HTTP/1.1\r\n"))
        connection.send(PLAIN)
        self.successResultOf(asking)

    def test_request_with_an_empty_body_has_length_zero(self) -> None:
        """A request with an empty body has its length."""
        self.assertEqual(
            self.send(body=b"").received,
            b"POST /start HTTP/1.1\r\nHost: 10.0.0.9\r\nContent-Length: 0\r\n\r\n",
        )

    def test_body_is_sent_as_it_is(self) -> None:
        """A body is sent as it is, whatever its bytes and however many they are."""
        body = bytes(range(256)) * 4_096
        received = self.send(body=body).received
        self.assertEqual(received.partition(b"\r\n\r\n")[2], body)
        self.assertIn(b"\r\nContent-Length: 1048576\r\n", received)

    def test_url_is_taken_apart(self) -> None:
        """A URL tells where to connect to, the path with the query, and the host as it is there."""
        for url, address, line, host in (
            ("http://10.0.0.9", ("10.0.0.9", 80), "/", "10.0.0.9"),
            ("http://10.0.0.9/", ("10.0.0.9", 80), "/", "10.0.0.9"),
            ("http://10.0.0.9:80/a", ("10.0.0.9", 80), "/a", "10.0.0.9:80"),
            ("http://10.0.0.9:8080/a/b", ("10.0.0.9", 8080), "/a/b", "10.0.0.9:8080"),
            ("http://10.0.0.9?a=b", ("10.0.0.9", 80), "/?a=b", "10.0.0.9"),
            ("http://10.0.0.9/a?b=/c?d#e", ("10.0.0.9", 80), "/a?b=/c?d", "10.0.0.9"),
            ("http://10.0.0.9//a/../b;c", ("10.0.0.9", 80), "//a/../b;c", "10.0.0.9"),
            ("http://[::1]:8080/a", ("::1", 8080), "/a", "[::1]:8080"),
            ("http://user:word@10.0.0.9:81/a", ("10.0.0.9", 81), "/a", "10.0.0.9:81"),
            ("HTTP://10.0.0.9/A", ("10.0.0.9", 80), "/A", "10.0.0.9"),
            ("http://jobs.example:82/a", ("127.0.0.1", 82), "/a", "jobs.example:82"),
        ):
            connection = self.send(url.encode())
            self.assertEqual(connection.address, address, url)
            head = f"POST {line} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 2\r\n\r\n"
            self.assertEqual(connection.received, head.encode() + b"{}", url)
            self.agent.close_idle()

    def test_connection_header_is_sent(self) -> None:
        """A request's Connection header is sent as it was given."""
        received = self.send(headers=CLOSE).received
        self.assertIn(b"\r\nConnection: close\r\n", received)

    def test_each_value_of_a_header_has_a_line(self) -> None:
        """Of a header with several values each has a line."""
        received = self.send(headers=Headers({"X-A": ["1", "2"]})).received
        self.assertIn(b"\r\nX-A: 1\r\nX-A: 2\r\n", received)

    def test_value_cannot_begin_another_header(self) -> None:
        """A header's value cannot begin another header."""
        with self.assertRaises(ValueError):
            self.agent.send("POST", URL.decode(), [(b"X-A", b"1\r\nX-B: 2")], b"{}")
        self.assertEqual(self.attempts, 0)

    def test_url_of_another_scheme_raises(self) -> None:
        """S4: a URL of anything but HTTP is an error, and nothing is connected to."""
        for url in (b"ftp://10.0.0.9/", b"//10.0.0.9/", b"10.0.0.9", b"http:///a", b"http:", b""):
            asking = maybeDeferred(self.request, url)
            self.failureResultOf(asking, SchemeNotSupported)
        self.assertEqual(self.attempts, 0)


class ClientTests(AgentTestCase):
    """What treq's client makes of the agent."""

    def setUp(self) -> None:
        super().setUp()
        self.client = PlainClient(PooledAgent(self.reactor, self.limits))

    def post(self, may_keep: bool) -> Connection:
        """POST, which takes a new connection, and respond to it."""
        headers = JSON if may_keep else (*JSON, *CLOSE_LINES)
        asking = self.client.request("POST", "http://10.0.0.9/start", headers=headers, data=b"{}")
        connection = self.connect()
        connection.send(PLAIN)
        response = self.successResultOf(asking)
        self.assertEqual(response.code, 200)
        self.assertEqual(self.successResultOf(read_body(response, 2)), b"hi")
        return connection

    def tearDown(self) -> None:
        self.reactor.advance(self.limits.idle_time)
        super().tearDown()

    def test_client_is_a_client_of_treq(self) -> None:
        """The client is one of treq's."""
        self.assertIsInstance(self.client, HTTPClient)

    def test_post_has_its_headers_only_and_its_connection_is_kept(self) -> None:
        """A POST of JSON says so, and nothing else; its connection may be used again."""
        connection = self.post(may_keep=True)
        self.assertEqual(
            connection.received,
            b"POST /start HTTP/1.1\r\nHost: 10.0.0.9\r\nContent-Type: application/json\r\n"
            b"Content-Length: 2\r\n\r\n{}",
        )
        asking = self.client.request("POST", "http://10.0.0.9/start", headers=JSON, data=b"[]")
        self.assertEqual(connection.requests, 2)
        connection.send(PLAIN)
        self.successResultOf(asking)

    def test_post_with_close_has_its_own_connection(self) -> None:
        """A POST whose connection may not be kept asks for its close, and closes it too."""
        kept = self.post(may_keep=True)
        connection = self.post(may_keep=False)
        self.assertIn(b"\r\nConnection: close\r\n", connection.received)
        self.assertTrue(connection.is_closed)
        self.assertEqual(kept.requests, 1)

    def test_each_client_has_its_own_connections(self) -> None:
        """Each client has its connections to itself."""
        kept = self.post(may_keep=True)
        self.client = PlainClient(PooledAgent(self.reactor, self.limits))
        self.post(may_keep=True)
        self.assertEqual(kept.requests, 1)

    def test_read_body_has_a_bound_of_its_own(self) -> None:
        """S20: whoever collects a body can bound it more closely than the agent does."""
        asking = self.client.request("POST", "http://10.0.0.9/start", headers=JSON, data=b"{}")
        self.connect().send(PLAIN)
        response = self.successResultOf(asking)
        self.failureResultOf(read_body(response, 1), BodyTooBig)
        self.assertEqual(self.successResultOf(read_body(response, 2)), b"hi")

    def test_line_break_in_a_header_raises(self) -> None:
        """A header with a line break is refused before anything is connected to."""
        for header in ((b"X-A", b"1\r\nX-B: 2"), (b"X-A\n", b"1"), (b"X-A", b"1\r")):
            with self.assertRaises(ValueError):
                self.client.request("POST", "http://10.0.0.9/", headers=(header,), data=b"")
        self.assertEqual(self.attempts, 0)
