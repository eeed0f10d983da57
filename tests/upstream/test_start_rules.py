"""How starts end: the first and the last status of each kind, and the longest ack, in memory."""

from tests.support.proxy import Client, ProxyTestCase, result_of


class StatusTests(ProxyTestCase):
    """Where one kind of status ends and the next begins."""

    def respond(self, status: int, body: bytes = b"") -> Client:
        """Have a client send a job whose start is answered like this."""
        client = self.submit()
        self.starts[-1].respond(body, status)
        return client

    def test_success(self) -> None:
        """S13: an ack is one with any status of success."""
        for status in (200, 201, 202, 299):
            client = self.respond(status, result_of("1"))
            self.assertEqual((client.response.status, client.response.body), (200, result_of("1")))

    def test_redirects(self) -> None:
        """S19: every 3xx is a redirect, even with a body that looks like an ack."""
        for status in (300, 304, 399):
            client = self.respond(status, result_of("1"))
            problem = self.assert_problem(client.response, 502, "upstream-redirect")
            self.assertEqual(problem["upstreamStatus"], status)

    def test_other_client_errors(self) -> None:
        """S18, S23: a 4xx of no known meaning is ambiguous, but no sign of a dead server."""
        for status in (402, 499):
            clients = [self.respond(status) for _ in range(11)]
            self.clock.advance(2)
            for client in clients:
                self.assert_problem(client.response, 504, "start-unknown", started="unknown")
        self.respond(200, result_of("1"))
        self.assertEqual(self.clients[-1].response.status, 200)

    def test_server_errors(self) -> None:
        """S18, S23: the whole range of 5xx but 503 is ambiguous, and counts against the server."""
        clients = [self.respond(status) for status in [500, 599] * 5]
        self.assert_problem(self.submit().response, 503, "upstream-unreachable")
        self.clock.advance(2)
        for client in clients:
            self.assert_problem(client.response, 504, "start-unknown", started="unknown")


class SizeTests(ProxyTestCase):
    """How long the job server's answer may be."""

    def test_longest_ack(self) -> None:
        """S20: an ack of 64 KiB is read, and one byte more is too much."""
        ack = b'{"id":"1","state":"completed"}'
        self.submit()
        self.starts[0].respond(ack.ljust(65_536))
        self.assertEqual(self.clients[0].response.body, ack.ljust(65_536))
        client = self.submit()
        self.starts[1].respond(ack.ljust(65_537))
        self.assertTrue(client.is_held)
        self.clock.advance(2)
        self.assert_problem(client.response, 504, "start-unknown", started="unknown")


class LeftBehindTests(ProxyTestCase):
    """What a start leaves behind once it has ended."""

    def test_no_timers(self) -> None:
        """S15, S19: of a job that was not started only the time runs until it is forgotten."""
        for status in (422, 302):
            client = self.submit()
            self.starts[-1].respond(b"", status)
            client.leave()
        self.assertEqual([call.getTime() for call in self.clock.getDelayedCalls()], [300.0])


class RetryAfterTests(ProxyTestCase):
    """A job server that names two times."""

    def test_first_counts(self) -> None:
        """S17: of two times to come back after the first one counts."""
        client = self.submit()
        self.starts[0].begin(503, 0, ("Retry-After", "7"), ("Retry-After", "9"))
        self.clock.advance(6.9)
        self.assertEqual(len(self.starts), 1)
        self.clock.advance(0.1)
        self.assertEqual(len(self.starts), 2)
        self.starts[1].respond(result_of("1"))
        self.assertEqual(client.response.status, 200)
