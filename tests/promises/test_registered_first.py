"""Registered first: a job can be called back from the moment at which its start request is sent.

The record of a job exists before the first byte of its start request, and is found by our own
token. So no callback can come too early: one that comes before the ack is simply the response.
"""

from collections.abc import Callable

from tests.support.callbacks import ByIdTestCase, CallbackTestCase
from tests.support.clients import Response
from tests.support.cluster import ClusterTestCase
from tests.support.job_server import Start
from tests.support.proxy import result_of


class TokenTests(CallbackTestCase):
    """One node, whose callback URLs have a token."""

    def test_callback_within_the_start_request_is_the_response(self) -> None:
        """B1: a callback that is sent while the start request is received is the response."""
        receipts: list[Response] = []
        self.job_server.on_start = lambda start: receipts.append(
            self.call_back(start, result_of("1"))
        )
        client = self.submit()
        self.check_receipt(receipts[0], "accepted")
        self.assertEqual(client.response.body, result_of("1"))
        self.starts[0].ack("1")
        self.assertEqual(len(client.responses), 1)

    def test_job_can_be_polled_within_its_start_request(self) -> None:
        """A job can be polled while its start request is received."""
        polls: list[Response] = []
        self.job_server.on_start = lambda start: polls.append(self.poll(start))
        self.submit()
        self.assertEqual((polls[0].status, polls[0].json), (202, {"state": "starting"}))
        self.starts[0].respond(result_of("1"))

    def test_callback_before_the_ack_is_the_response(self) -> None:
        """B1: a callback before the ack is the response, at once; the ack changes nothing."""
        client = self.submit()
        (start,) = self.starts
        self.call_back(start, result_of("1"))
        self.assertEqual(client.response.body, result_of("1"))
        start.ack("1")
        self.assertEqual(len(client.responses), 1)

    def test_callback_before_any_end_of_the_start_is_the_response(self) -> None:
        """B1: however the start ends after the callback, that is the response; the slot is free."""
        ends: list[Callable[[Start], None]] = [
            lambda start: start.ack("1"),
            lambda start: start.ack("another id"),
            lambda start: start.respond(result_of("1", "failed")),
            lambda start: start.respond(b"garbage"),
            lambda start: start.respond(b"", 422),
            lambda start: start.respond(b"", 500),
            lambda start: start.respond(b"", 503),
            lambda start: start.lose(),
            lambda _: self.clock.advance(10),
        ]
        for end in ends:
            client = self.submit()
            start = self.starts[-1]
            self.check_receipt(self.call_back(start, result_of("1")), "accepted")
            self.assertEqual(len(self.limiter), 1)
            end(start)
            self.assertEqual(len(self.limiter), 0)
            self.assertEqual(client.response.body, result_of("1"))
            self.assertEqual(self.poll(start).body, result_of("1"))
        self.assertEqual(len(self.starts), len(ends))

    def test_progress_before_the_ack_changes_nothing(self) -> None:
        """B1, B10: progress before the ack is accepted, and the client goes on waiting."""
        client = self.submit()
        (start,) = self.starts
        self.check_receipt(self.call_back(start, result_of("1", "running")), "progress")
        self.assertTrue(client.is_held)
        start.ack("1")
        self.call_back(start, result_of("1"))
        self.assertEqual(client.response.body, result_of("1"))

    def test_token_finds_the_job_whatever_its_upstream_id_is(self) -> None:
        """S12: two jobs with the same upstream id, or with none, are told apart by our token."""
        for ack in (b'{"id":"same"}', b"{}"):
            clients = [self.submit(account) for account in "ab"]
            first, second = self.starts[-2:]
            for start in (first, second):
                start.respond(ack)
            self.call_back(second, b'{"id":"same","n":2}')
            self.assertEqual([client.is_held for client in clients], [True, False])
            self.call_back(first, b'{"id":"same","n":1}')
            bodies = [client.response.json["n"] for client in clients]
            self.assertEqual(bodies, [1, 2])


class ByIdTests(ByIdTestCase):
    """One node, with ``correlate_by`` id: a callback before the ack waits for the ack."""

    def test_callback_within_the_start_request_is_the_response_with_the_ack(self) -> None:
        """B1: a callback that comes first is parked, and is the response once the ack comes."""
        receipts: list[Response] = []
        self.job_server.on_start = lambda _: receipts.append(self.call_back_by_id(result_of("1")))
        client = self.submit()
        self.assertEqual((receipts[0].status, receipts[0].json), (200, {"status": "parked"}))
        self.assertTrue(client.is_held)
        self.starts[0].ack("1")
        self.assertEqual(client.response.body, result_of("1"))


class ClusterTests(ClusterTestCase):
    """Several nodes: the callback may come to any of them."""

    def test_callback_within_the_start_request_is_the_response_at_every_node(self) -> None:
        """B1, B15: whichever node is called back within the start request, that is the response."""
        receipts: list[Response] = []

        def call_back(start: Start) -> None:
            receipts.append(called.call_back(start, result_of("1")))

        self.cluster.job_server.on_start = call_back
        for called in self.nodes:
            client = self.nodes[0].submit(key=called.name)
            self.cluster.settle()
            self.assertEqual(receipts[-1].json, {"status": "accepted"})
            self.assert_result(client, result_of("1"))
            self.starts[-1].ack("1")

    def test_callback_before_the_ack_of_a_dead_node_is_found(self) -> None:
        """B1, B15: when the owner dies before the ack, any other node has the result."""
        self.nodes[0].submit(key="k")
        (start,) = self.starts
        self.nodes[0].kill()
        receipt = self.nodes[1].call_back(start, result_of("1"))
        self.assertEqual(receipt.json, {"status": "late"})
        again = self.nodes[2].submit(key="k")
        self.cluster.settle()
        self.assert_result(again, result_of("1"), is_replayed=True)
        self.assert_result(self.nodes[1].poll(start.job_id), result_of("1"))

    def test_callback_before_the_ack_needs_no_store_at_its_own_node(self) -> None:
        """B1, X1: while the store is away the owner accepts the callback, and others refuse it."""
        client = self.nodes[0].submit()
        (start,) = self.starts
        self.cluster.go_away()
        refused = self.nodes[1].call_back(start, result_of("1"))
        self.assert_problem(refused, 503, "store-unreachable", started="yes")
        self.assertTrue(client.is_held)
        receipt = self.nodes[0].call_back(start, result_of("1"))
        self.assertEqual(receipt.json, {"status": "accepted"})
        self.assert_result(client, result_of("1"))
        start.ack("1")
        self.cluster.come_back()
