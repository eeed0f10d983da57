"""At most once: by default the job server reads no job twice, and clients learn what is certain.

A start request is sent again only if it provably never left, or if the job server refused it
without reading it (429 or 503). A client gets ``started: no`` only in these cases, or when the
job server refused the job for good. Any other end is ambiguous: the proxy waits for the callback
for ``--ambiguous-grace``, and then the client gets ``started: unknown``.
"""

from collections.abc import Callable
from typing import Any

from jobproxy.app.settings import CorrelateBy
from tests.support.cluster import ClusterTestCase
from tests.support.job_server import Start
from tests.support.proxy import result_of
from tests.support.start_outcomes import (
    AMBIGUOUS,
    FINAL,
    NOT_READ,
    REFUSED,
    SUCCESS,
    Outcome,
    RetryTestCase,
)


def is_redirect(outcome: Outcome) -> bool:
    return isinstance(outcome, tuple) and 300 <= outcome[0] < 400


#: Responses and errors after which the job server will not start the job later either.
REFUSED_FOR_GOOD = [outcome for outcome in FINAL if not is_redirect(outcome)]
#: Attempts of one job that the job server did not read.
UNREAD: list[list[Outcome]] = [[], [REFUSED], [(503, b"")], [REFUSED, (429, b"")]]


class TokenTests(RetryTestCase):
    """One node, whose callback URLs have a token."""

    grace = 2.0

    def check_rest(self) -> None:
        """Check that no more start requests are sent; a success then keeps the circuit closed."""
        sent = len(self.sender.times)
        self.clock.advance(60)
        self.assertEqual(len(self.sender.times), sent)
        self.assertEqual(self.play(SUCCESS).response.status, 200)

    def test_nothing_is_sent_after_a_start_that_may_have_been_read(self) -> None:
        """S6, S9, S10, S11, S18: whatever came before, an ambiguous start is the last one."""
        for unread in UNREAD:
            for outcome in AMBIGUOUS:
                sent = len(self.sender.times)
                client = self.play(*unread, outcome)
                self.clock.advance(self.grace - 0.1)
                self.assertTrue(client.is_held)
                self.clock.advance(0.1)
                self.assert_problem(client.response, 504, "start-unknown", started="unknown")
                self.assertEqual(len(self.sender.times) - sent, len(unread) + 1)
                self.check_rest()

    def test_nothing_is_sent_after_a_start_without_an_ack(self) -> None:
        """S8: a start request without a response is ambiguous, and is the last one."""
        client = self.submit()
        self.clock.advance(10)
        self.assertTrue(client.is_held)
        self.clock.advance(self.grace)
        self.assert_problem(client.response, 504, "start-unknown", started="unknown")
        self.assertEqual(len(self.starts), 1)
        self.check_rest()

    def test_nothing_is_sent_after_an_ack(self) -> None:
        """B11: a job that has an ack and no callback is not started again."""
        client = self.submit()
        self.starts[0].ack("1")
        self.clock.advance(30)
        self.assert_problem(client.response, 504, "wait-over", started="yes")
        self.assertEqual(len(self.starts), 1)
        self.check_rest()

    def test_nothing_is_sent_after_a_refusal_for_good(self) -> None:
        """S4, S5, S15, S16: a job that is refused for good was not started, and is sent once."""
        for unread in UNREAD:
            for outcome in REFUSED_FOR_GOOD:
                sent = len(self.sender.times)
                client = self.play(*unread, outcome)
                self.assertEqual(client.response.json["started"], "no", outcome)
                self.assertEqual(len(self.sender.times) - sent, len(unread) + 1)
                self.check_rest()

    def test_start_that_was_not_read_is_sent_again(self) -> None:
        """S1, S2, S3, S17: a start that was not read is sent again, up to three times in all."""
        for outcome in NOT_READ:
            sent = len(self.sender.times)
            client = self.play(outcome, outcome, outcome)
            self.assertEqual(client.response.json["started"], "no", outcome)
            self.assertEqual(len(self.sender.times) - sent, 3)
            self.check_rest()
            self.assertEqual(self.play(outcome, outcome, SUCCESS).response.status, 200)


class ByIdTests(TokenTests):
    """The same with ``correlate_by`` id."""

    settings: dict[str, Any] = {"correlate_by": CorrelateBy.ID}


class GraceTests(RetryTestCase):
    """Callbacks after an ambiguous start."""

    def test_callback_in_the_grace_is_the_response(self) -> None:
        """S6, S11, S18: a callback within the grace of an ambiguous start is the response."""
        ends: list[Callable[[Start], None]] = [
            lambda start: start.lose(),
            lambda start: start.respond(b"", 500),
            lambda start: start.respond(b"<html>"),
            lambda _: self.clock.advance(10),
        ]
        for end in ends:
            client = self.submit()
            end(self.starts[-1])
            self.clock.advance(1.9)
            self.assertTrue(client.is_held)
            self.call_back(self.starts[-1], result_of("1"))
            self.assertEqual(client.response.body, result_of("1"))


class KeyTests(RetryTestCase):
    """The same job sent again by its client."""

    def test_key_of_an_ambiguous_start_is_not_sent_again(self) -> None:
        """S6: a client that repeats the key of an ambiguous start waits for its callback."""
        keyed = {"Idempotency-Key": "k"}
        first = self.play((500, b""), headers=keyed)
        self.clock.advance(2)
        self.assert_problem(first.response, 504, "start-unknown", started="unknown")
        second = self.connect().request(headers=keyed)
        self.clock.advance(1.9)
        self.assertTrue(second.is_held)
        self.clock.advance(0.1)
        self.assert_problem(second.response, 504, "start-unknown", started="unknown")
        third = self.connect().request(headers=keyed)
        self.call_back(self.starts[0], result_of("1"))
        self.assertEqual(third.response.body, result_of("1"))
        self.assertEqual(len(self.starts), 1)


class ClusterTests(ClusterTestCase):
    """Several nodes that get the same job with the same key."""

    def test_ambiguous_start_is_not_sent_by_another_node(self) -> None:
        """S6, B15: no node sends a job whose start at another node is ambiguous."""
        first = self.nodes[0].submit(key="k")
        (start,) = self.starts
        start.lose()
        others = [node.submit(key="k") for node in self.nodes]
        self.cluster.settle()
        self.clock.advance(2)
        self.assert_problem(first.response, 504, "start-unknown", started="unknown")
        self.clock.advance(28)
        for client in others:
            self.assertEqual(client.response.json["started"], "unknown")
        self.assertEqual(len(self.starts), 1)
        last = self.nodes[2].submit(key="k")
        self.cluster.settle()
        self.nodes[1].call_back(start, result_of("1"))
        self.cluster.settle()
        self.assert_result(last, result_of("1"))

    def test_start_of_a_dead_node_is_not_sent_by_another(self) -> None:
        """B15: a node that dies before its ack leaves a job that no other node starts."""
        self.nodes[0].submit(key="k")
        (start,) = self.starts
        self.nodes[0].kill()
        others = [node.submit(key="k", Prefer="wait=5") for node in self.nodes[1:]]
        self.cluster.settle()
        self.clock.advance(5)
        for client in others:
            problem = self.assert_problem(client.response, 504, "start-unknown", started="unknown")
            self.assertEqual(problem["job"], start.job_id)
        self.assertEqual(len(self.starts), 1)

    def test_restarted_node_does_not_send_it_again(self) -> None:
        """B15: a new node in place of the dead one does not start the job either."""
        self.nodes[0].submit(key="k")
        (start,) = self.starts
        self.nodes[0].kill()
        node = self.cluster.replace(self.nodes[0])
        client = node.submit(key="k")
        self.cluster.settle()
        node.call_back(start, result_of("1"))
        self.cluster.settle()
        self.assert_result(client, result_of("1"))
        self.assertEqual(len(self.starts), 1)
