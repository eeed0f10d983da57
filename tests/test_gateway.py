"""The life of a job in the whole proxy, in memory."""

from tests.support.clients import JSON
from tests.support.proxy import ProxyTestCase, result_of


class HeldTests(ProxyTestCase):
    """Clients that are held until their job ends."""

    def test_callback_is_the_response_byte_for_byte(self) -> None:
        """B12: a client is held after the ack, and the response is the callback byte for byte."""
        client = self.submit()
        self.assertTrue(client.is_held)
        (start,) = self.starts
        start.ack()
        self.assertTrue(client.is_held)
        receipt = self.call_back(start, result_of("4499a6e0c2ef4b98"))
        self.assertEqual(receipt.json, {"status": "accepted"})
        self.assertEqual(client.response.status, 200)
        self.assertEqual(client.response.headers["content-type"], JSON)
        self.assertEqual(client.response.body, result_of("4499a6e0c2ef4b98"))

    def test_start_request_has_our_callback_and_no_wait(self) -> None:
        """Q4: the start request has our callback URL, no wait, and all else as it came."""
        body = (
            b'{"callback": "http://evil.example/", "account":"example", "n": 1.0e2,'
            b' "wait": true, "deep": {"wait": [ 1 ]}}'
        )
        client = self.connect().request(body=body)
        (start,) = self.starts
        self.assertEqual(
            start.raw,
            b'{"account":"example","n": 1.0e2,"deep": {"wait": [ 1 ]},'
            b'"wait":false,"callback":"%s"}' % start.body["callback"].encode(),
        )
        self.assertEqual(start.request.getHeader("content-type"), JSON)
        start.ack("1")
        self.call_back(start, result_of("1"))
        self.assertEqual(client.response.status, 200)

    def test_progress_does_not_end_the_job(self) -> None:
        """B10: a callback with progress is accepted, and the client goes on waiting."""
        client = self.submit()
        (start,) = self.starts
        start.ack("1")
        for state in ("queued", "pending", "running"):
            receipt = self.call_back(start, result_of("1", state))
            self.assertEqual(receipt.json, {"status": "progress"})
        self.assertTrue(client.is_held)
        self.call_back(start, result_of("1"))
        self.assertEqual(client.response.body, result_of("1"))

    def test_failed_job_is_a_result(self) -> None:
        """B9: a failed job is a result like any other."""
        client = self.submit()
        (start,) = self.starts
        start.ack("1")
        self.call_back(start, result_of("1", "failed"))
        self.assertEqual(client.response.status, 200)
        self.assertEqual(client.response.body, result_of("1", "failed"))

    def test_result_in_the_ack_is_the_response(self) -> None:
        """S13: an ack that is a result already is the response."""
        client = self.submit()
        (start,) = self.starts
        start.respond(result_of("1"))
        self.assertEqual(client.response.body, result_of("1"))
        self.assertEqual(self.call_back(start, result_of("1")).json, {"status": "duplicate"})

    def test_ack_without_an_id_is_usable(self) -> None:
        """S12: an ack without a usable id is no error, as the token identifies the job."""
        for ack in (b"{}", b'{"id": 7}', b'{"id": "%s"}' % (b"x" * 129)):
            client = self.submit()
            start = self.starts[-1]
            start.respond(ack)
            self.call_back(start, result_of("1"))
            self.assertEqual(client.response.status, 200)

    def test_connection_of_a_client_is_kept(self) -> None:
        """The connection of a client is kept for its next job."""
        client = self.connect()
        for number in range(3):
            client.request()
            self.starts[number].ack(str(number))
            self.call_back(self.starts[number], result_of(str(number)))
        self.assertEqual([response.status for response in client.responses], [200] * 3)
        self.assertTrue(client.transport.connected)

    def test_jobs_are_accepted_at_three_paths(self) -> None:
        """Jobs are accepted at /proxy, at /start as at the job server, and at /."""
        for path in ("/proxy", "/start", "/"):
            client = self.connect().request(path)
            self.starts[-1].respond(result_of("1"))
            self.assertEqual(client.response.status, 200)


class LeavingTests(ProxyTestCase):
    """Clients that leave before their response."""

    def test_client_that_leaves_while_queued_starts_nothing(self) -> None:
        """Q15: a client that leaves while its job is queued starts nothing."""
        held = [self.submit(), self.submit()]
        self.submit().leave()
        self.submit()
        self.starts[0].respond(result_of("1"))
        self.starts[1].respond(result_of("2"))
        self.assertEqual([client.response.status for client in held], [200, 200])
        self.assertEqual(len(self.starts), 3)
        self.starts[2].respond(result_of("3"))

    def test_start_is_not_aborted_when_the_client_leaves(self) -> None:
        """Q16: a start request is not aborted when its client leaves; its callback is accepted."""
        client = self.submit()
        client.leave()
        self.assertEqual(self.table.clients.held, 0)
        self.starts[0].ack("1")
        receipt = self.call_back(self.starts[0], result_of("1"))
        self.assertEqual(receipt.json, {"status": "accepted"})

    def test_job_without_client_and_callback_is_forgotten(self) -> None:
        """Q16: a job without client or callback is forgotten when its token expires."""
        self.submit().leave()
        self.starts[0].ack("1")
        self.clock.advance(86_399)
        self.assertEqual(len(self.table), 1)
        self.clock.advance(1)
        self.assertEqual(len(self.table), 0)
