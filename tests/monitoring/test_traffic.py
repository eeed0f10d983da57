"""The counts of what goes over connections."""

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from jobproxy.monitoring.traffic import MAX_REFUSALS, Refusal, Traffic


class TrafficTests(SynchronousTestCase):
    """What a server reports, and what is counted of it."""

    def setUp(self) -> None:
        super().setUp()
        self.clock = Clock()
        self.traffic = Traffic(self.clock.seconds)

    def test_response_is_counted_by_status_and_outcome(self) -> None:
        """Responses are counted by their side, status and outcome; a good one is no refusal."""
        self.traffic.response_sent("client", 200, "ok", b"1")
        self.traffic.response_sent("client", 200, "ok", b"2")
        self.traffic.response_sent("client", 404, "not-found", b"3")
        self.assertEqual(
            self.traffic.responses, {("client", 200, "ok"): 2, ("client", 404, "not-found"): 1}
        )
        self.assertEqual(self.traffic.refused, {})
        self.assertEqual(list(self.traffic.refusals), [Refusal(0.0, 404, "not-found", b"3")])

    def test_client_that_left_is_counted_as_499(self) -> None:
        """A client that left is counted, although there is no such response."""
        self.traffic.client_left("client")
        self.assertEqual(self.traffic.responses, {("client", 499, "client-left"): 1})
        self.assertEqual(list(self.traffic.refusals), [])

    def test_refused_request_is_counted_apart_from_responses(self) -> None:
        """What was no request is counted by its reason, and is one of the last refusals."""
        self.clock.advance(5)
        self.traffic.request_refused(413, "body-too-large", b"1")
        self.assertEqual(self.traffic.refused, {"body-too-large": 1})
        self.assertEqual(self.traffic.responses, {})
        self.assertEqual(list(self.traffic.refusals), [Refusal(5.0, 413, "body-too-large", b"1")])

    def test_refused_connection_is_no_refusal_of_a_request(self) -> None:
        """A connection that is closed for a reason has no response that could be shown."""
        self.traffic.connection_refused("silent")
        self.assertEqual(self.traffic.refused, {"silent": 1})
        self.assertEqual(list(self.traffic.refusals), [])

    def test_only_the_last_refusals_are_kept(self) -> None:
        """The number of refusals that are kept is bounded, the newest last."""
        for number in range(MAX_REFUSALS + 5):
            self.traffic.request_refused(400, "malformed-request", b"%d" % number)
        ids = [refusal.request_id for refusal in self.traffic.refusals]
        self.assertEqual(ids, [b"%d" % number for number in range(5, MAX_REFUSALS + 5)])
