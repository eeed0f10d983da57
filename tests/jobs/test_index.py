"""Job servers that call back one fixed URL: the upstream id selects the job of a callback."""

from typing import Any

from jobproxy.app.settings import CorrelateBy
from jobproxy.jobs.retention import Bounds
from jobproxy.upstream.retries import OnLost, RetryMode
from tests.support.clients import Response
from tests.support.proxy import CALLBACK_URL, ProxyTestCase, result_of

ACCEPTED = (200, {"status": "accepted"})
DUPLICATE = (200, {"status": "duplicate"})
PARKED = (200, {"status": "parked"})
PROGRESS = (200, {"status": "progress"})
RESULT = result_of("1")
OTHER = result_of("1", "failed")
#: Seconds that the proxy waits for an ack.
TIMEOUT = 10.0


class FixedUrlTestCase(ProxyTestCase):
    settings: dict[str, Any] = {"correlate_by": CorrelateBy.ID, "start_timeout": TIMEOUT}

    def post(self, body: bytes) -> Response:
        """Send a callback as the job server."""
        return self.connect().request("/callback", body).response

    def assert_receipt(self, body: bytes, receipt: tuple[int, object]) -> None:
        """Send a callback as the job server, and check the response."""
        response = self.post(body)
        self.assertEqual((response.status, response.json), receipt)

    def assert_conflict(self, body: bytes) -> None:
        """Check that another result changes nothing; its sender is told that it was known."""
        self.assert_receipt(body, DUPLICATE)

    def assert_orphans(self, *upstream_ids: str) -> None:
        """Check which orphans there are by upstream id."""
        orphans = self.operate().get("/orphans").response.json["orphans"]
        self.assertEqual(sorted(orphan["id"] for orphan in orphans), sorted(upstream_ids))


class FixedUrlTests(FixedUrlTestCase):
    """Jobs whose callback comes after the ack."""

    def test_callback_at_the_fixed_url_is_the_response(self) -> None:
        """B12: every start has the one URL; a client gets the callback byte for byte."""
        client = self.submit()
        (start,) = self.starts
        self.assertEqual(start.body["callback"], CALLBACK_URL)
        start.ack("1")
        self.assertTrue(client.is_held)
        self.assert_receipt(RESULT, ACCEPTED)
        self.assertEqual((client.response.status, client.response.body), (200, RESULT))

    def test_upstream_id_selects_the_client(self) -> None:
        """B12: each client gets the result with the upstream id of its job, in any order."""
        clients = [self.submit(account) for account in "abc"]
        for number, start in enumerate(self.starts):
            start.ack(f"{number}")
        for number in (2, 0, 1):
            self.assert_receipt(result_of(f"{number}"), ACCEPTED)
        bodies = [client.response.body for client in clients]
        self.assertEqual(bodies, [result_of(f"{number}") for number in range(3)])

    def test_progress_is_accepted_and_not_kept(self) -> None:
        """B10: progress is accepted, of a known job or not, and none of it is kept."""
        client = self.submit()
        self.starts[0].ack("1")
        for upstream_id in ("1", "2"):
            self.assert_receipt(result_of(upstream_id, "running"), PROGRESS)
        self.assertTrue(client.is_held)
        self.clock.advance(TIMEOUT)
        self.assert_orphans()
        self.assert_receipt(RESULT, ACCEPTED)
        self.assertEqual(client.response.body, RESULT)

    def test_first_of_two_results_counts(self) -> None:
        """B2: the first of two results counts; the other one is a duplicate or a conflict."""
        client = self.submit()
        self.starts[0].ack("1")
        self.assert_receipt(RESULT, ACCEPTED)
        self.assert_receipt(RESULT, DUPLICATE)
        self.assert_conflict(OTHER)
        self.assertEqual(client.response.body, RESULT)
        self.assert_orphans()

    def test_callback_after_a_result_in_the_ack_is_a_duplicate(self) -> None:
        """S13, B2: after an ack that is the result already, a callback is a duplicate."""
        client = self.submit()
        self.starts[0].respond(RESULT)
        self.assertEqual(client.response.body, RESULT)
        self.assert_receipt(RESULT, DUPLICATE)
        self.assert_conflict(OTHER)
        self.clock.advance(TIMEOUT)
        self.assert_orphans()

    def test_late_result_is_at_the_instance_of_the_504(self) -> None:
        """B5: a result after the deadline is at the URL that the client's 504 named."""
        client = self.submit()
        self.starts[0].ack("1")
        self.clock.advance(30)
        problem = self.assert_problem(client.response, 504, "wait-over", started="yes")
        self.assert_receipt(RESULT, (200, {"status": "late"}))
        self.assertEqual(self.connect().get(problem["instance"]).response.body, RESULT)

    def test_result_of_a_client_that_left_is_an_orphan(self) -> None:
        """B4: the result of a job whose client left before the ack is an orphan."""
        self.submit().leave()
        self.starts[0].ack("1")
        self.assert_receipt(RESULT, ACCEPTED)
        self.assert_orphans("1")

    def test_callback_without_an_upstream_id_is_refused(self) -> None:
        """B7: a callback without an upstream id is refused, and the job continues."""
        client = self.submit()
        self.starts[0].ack("1")
        bodies = (b"{}", b"[]", b'{"id":1.5}', b'{"id":""}', b'{"id":"%b"}' % (b"x" * 129))
        for body in (*bodies, b'{"state":"running"}'):
            problem = self.assert_problem(self.post(body), 400, "invalid-request")
            self.assertEqual([error["pointer"] for error in problem["errors"]], ["/id"])
        self.assertTrue(client.is_held)
        self.assert_receipt(RESULT, ACCEPTED)

    def test_upstream_id_may_be_an_integer(self) -> None:
        """B1: an id that is an integer in the ack and the callback finds its job."""
        client = self.submit()
        self.starts[0].respond(b'{"id":7}')
        body = b'{"id":7,"state":"completed"}'
        self.assert_receipt(body, ACCEPTED)
        self.assertEqual(client.response.body, body)

    def test_callbacks_are_accepted_only_at_the_fixed_url(self) -> None:
        """B6, B13: callbacks are accepted at that URL alone, and only by POST."""
        for path in ("/callback/1", "/callbacks", f"/callback/{self.signer.mint().text}"):
            response = self.connect().request(path, RESULT).response
            self.assert_problem(response, 404, "not-found")
        response = self.connect().get("/callback").response
        self.assert_problem(response, 405, "method-not-allowed")

    def test_first_of_two_jobs_with_one_upstream_id_gets_the_result(self) -> None:
        """B8: of two jobs with one upstream id the first gets the result, the other none."""
        clients = [self.submit(account) for account in "ab"]
        for start in self.starts:
            start.ack("1")
        self.assert_receipt(RESULT, ACCEPTED)
        self.assertEqual([client.is_held for client in clients], [False, True])
        self.assert_receipt(RESULT, DUPLICATE)
        self.clock.advance(30)
        self.assertEqual(clients[0].response.body, RESULT)
        self.assert_problem(clients[1].response, 504, "wait-over", started="yes")

    def test_upstream_id_of_an_ended_job_can_be_used_again(self) -> None:
        """B3: once a job has ended, another job can get its upstream id."""
        for state, pause in (("completed", 1), ("failed", 302), ("rejected", 302)):
            client = self.submit()
            self.starts[-1].ack("1")
            self.assert_receipt(result_of("1", state), ACCEPTED)
            self.assertEqual(client.response.body, result_of("1", state))
            self.assert_receipt(result_of("1", state), DUPLICATE)
            self.clock.advance(pause)


class ParkingTests(FixedUrlTestCase):
    """Callbacks that come before the ack, so that their job is not known yet."""

    def test_early_callback_is_parked_until_its_ack(self) -> None:
        """B1: a callback before the ack is parked, and is the response once the ack comes."""
        client = self.submit()
        self.assert_receipt(RESULT, PARKED)
        self.assertTrue(client.is_held)
        self.clock.advance(TIMEOUT - 0.1)
        self.assert_orphans()
        self.starts[0].ack("1")
        self.assertEqual((client.response.status, client.response.body), (200, RESULT))
        self.assert_receipt(RESULT, DUPLICATE)
        self.clock.advance(TIMEOUT)
        self.assert_orphans()

    def test_parked_callback_waits_for_its_own_ack(self) -> None:
        """B1: a parked callback waits for its own ack, whichever acks come before."""
        clients = [self.submit(account) for account in "ab"]
        self.assert_receipt(result_of("2"), PARKED)
        self.starts[0].ack("1")
        self.assertTrue(all(client.is_held for client in clients))
        self.starts[1].ack("2")
        self.assertEqual(clients[1].response.body, result_of("2"))
        self.assert_receipt(RESULT, ACCEPTED)
        self.assertEqual(clients[0].response.body, RESULT)

    def test_first_of_two_parked_callbacks_counts(self) -> None:
        """B1, B2: of two callbacks before the ack the first one counts."""
        client = self.submit()
        self.assert_receipt(RESULT, PARKED)
        self.assert_receipt(RESULT, DUPLICATE)
        self.assert_conflict(OTHER)
        self.starts[0].ack("1")
        self.assertEqual(client.response.body, RESULT)

    def test_parked_callback_equal_to_the_ack_is_no_orphan(self) -> None:
        """B1, S13: a parked callback is no orphan after an ack that is the same result."""
        client = self.submit()
        self.assert_receipt(RESULT, PARKED)
        self.starts[0].respond(RESULT)
        self.assertEqual(client.response.body, RESULT)
        self.clock.advance(TIMEOUT)
        self.assert_orphans()

    def test_result_in_the_ack_comes_before_a_parked_callback(self) -> None:
        """B2, S13: if the two results differ, the client gets the one in the ack."""
        client = self.submit()
        self.assert_receipt(OTHER, PARKED)
        self.starts[0].respond(RESULT)
        self.assertEqual(client.response.body, RESULT)
        self.assert_conflict(OTHER)
        self.clock.advance(TIMEOUT)
        self.assert_orphans()

    def test_parked_callback_of_a_client_that_left_is_an_orphan(self) -> None:
        """B1, B4: if the client has left, the parked callback becomes an orphan with the ack."""
        client = self.submit()
        self.assert_receipt(RESULT, PARKED)
        client.leave()
        self.starts[0].ack("1")
        self.assert_orphans("1")
        self.clock.advance(TIMEOUT)
        self.assert_orphans("1")

    def test_parked_callback_without_an_ack_becomes_an_orphan(self) -> None:
        """B1, S8: a callback that is parked for too long is an orphan, and still known."""
        client = self.submit()
        self.assert_receipt(RESULT, PARKED)
        self.clock.pump([TIMEOUT - 0.1, 0.1])
        self.assert_orphans("1")
        self.assert_receipt(RESULT, DUPLICATE)
        self.assert_conflict(OTHER)
        self.clock.advance(2)
        self.assert_problem(client.response, 504, "start-unknown", started="unknown")
        self.assert_orphans("1")

    def test_job_without_an_upstream_id_gets_no_callback(self) -> None:
        """S12: a job whose ack has no upstream id gets no callback; its result is an orphan."""
        client = self.submit()
        self.starts[0].respond(b"{}")
        self.assert_receipt(RESULT, PARKED)
        self.clock.pump([TIMEOUT, 30 - TIMEOUT])
        self.assert_problem(client.response, 504, "wait-over", started="yes")
        self.assert_orphans("1")

    def test_ack_that_came_in_time_gets_its_parked_callback(self) -> None:
        """T3: an ack that came in time gets its parked callback, although the process stalled."""
        for stall in (0.0, 5.0):
            client = self.submit()
            upstream_id = f"{stall}"
            self.assert_receipt(result_of(upstream_id), PARKED)
            self.clock.callLater(TIMEOUT, self.starts[-1].ack, upstream_id)
            self.clock.advance(TIMEOUT + stall)
            self.assertFalse(client.is_held)
            self.assertEqual(client.response.body, result_of(upstream_id))
            self.assert_orphans()

    def test_stop_forgets_parked_callbacks(self) -> None:
        """G1: when the proxy stops, no parked callback stays."""
        client = self.submit()
        self.assert_receipt(RESULT, PARKED)
        self.table.startService()
        self.table.stopService()
        self.assert_problem(client.response, 503, "draining", started="unknown")
        self.clock.advance(TIMEOUT)
        self.assert_orphans()
        self.starts[0].ack("1")


class RestartTests(FixedUrlTestCase):
    """Jobs that are started again as no callback comes, and so have two upstream ids."""

    settings = {**FixedUrlTestCase.settings, "on_lost": OnLost.RESTART, "lost_after": 5.0}

    def start_twice(self) -> Any:
        """Send a job that is lost once; its upstream ids are 1 and 2."""
        client = self.submit()
        self.starts[0].ack("1")
        self.clock.advance(5)
        self.starts[1].ack("2")
        self.assertTrue(client.is_held)
        return client

    def test_either_upstream_id_ends_a_restarted_job(self) -> None:
        """B8: the first of the two results is the response; the other one changes nothing."""
        for first, second in (("1", "2"), ("2", "1")):
            client = self.start_twice()
            self.assert_receipt(result_of(first), ACCEPTED)
            self.assertEqual(client.response.body, result_of(first))
            self.assert_receipt(result_of(second), DUPLICATE)
            self.assert_orphans()
            self.starts.clear()
            # Both upstream ids can be used again.
            self.clock.advance(302)

    def test_callback_before_the_second_ack_is_the_response(self) -> None:
        """B1: a callback before the second ack is the response once that ack comes."""
        client = self.submit()
        self.starts[0].ack("1")
        self.clock.advance(5)
        self.assert_receipt(result_of("2"), PARKED)
        self.starts[1].ack("2")
        self.assertEqual(client.response.body, result_of("2"))

    def test_parked_callback_of_an_ended_job_is_no_orphan(self) -> None:
        """B2: a parked callback of a job that has ended meanwhile is no orphan."""
        client = self.submit()
        self.starts[0].ack("1")
        self.clock.advance(5)
        self.assert_receipt(RESULT, ACCEPTED)
        self.assert_receipt(result_of("2"), PARKED)
        self.starts[1].ack("2")
        self.assertEqual(client.response.body, RESULT)
        self.assert_receipt(result_of("2"), DUPLICATE)
        self.clock.advance(TIMEOUT)
        self.assert_orphans()


class AlwaysTests(FixedUrlTestCase):
    """Starts that are sent again although they may have been read."""

    settings = {**FixedUrlTestCase.settings, "retry": RetryMode.ALWAYS}

    def test_start_with_the_ack_has_the_result(self) -> None:
        """S6: of two starts, the one that was acknowledged has the result of the job."""
        client = self.submit()
        self.starts[0].respond(b"", 500)
        self.assert_receipt(RESULT, PARKED)
        self.clock.advance(0.2)
        self.starts[1].ack("2")
        self.assertTrue(client.is_held)
        self.assert_receipt(result_of("2"), ACCEPTED)
        self.assertEqual(client.response.body, result_of("2"))
        self.clock.advance(TIMEOUT)
        self.assert_orphans("1")


class NumberTests(FixedUrlTestCase):
    """The limit of the number of parked callbacks."""

    parked_bounds = Bounds(number=2)

    def test_oldest_parked_callback_is_an_orphan_at_the_limit(self) -> None:
        """B14, L6: past the limit the callback that was parked first is an orphan at once."""
        clients = [self.submit(account) for account in "ab"]
        for upstream_id in ("x", "1", "2"):
            self.assert_receipt(result_of(upstream_id), PARKED)
        self.assert_orphans("x")
        for number, start in enumerate(self.starts, 1):
            start.ack(f"{number}")
        bodies = [client.response.body for client in clients]
        self.assertEqual(bodies, [result_of("1"), result_of("2")])
        self.assert_orphans("x")

    def test_callback_that_was_pushed_out_is_found_when_its_ack_comes(self) -> None:
        """B19: a genuine callback that others with unknown ids push out is found by its ack."""
        client = self.submit()
        for upstream_id in ("1", "x", "y", "z"):
            self.assert_receipt(result_of(upstream_id), PARKED)
        self.assert_orphans("1", "x")
        self.starts[0].ack("1")
        self.assertEqual(client.response.body, result_of("1"))
        self.assert_orphans("x")
        self.clock.advance(TIMEOUT)
        self.assert_orphans("x", "y", "z")

    def test_orphan_that_a_client_has_asked_for_stays(self) -> None:
        """B19: a result of such a callback that was asked for is not taken away again."""
        for upstream_id in ("1", "x", "y"):
            self.assert_receipt(result_of(upstream_id), PARKED)
        (orphan,) = self.operate().get("/orphans").response.json["orphans"]
        self.connect().get(f"/jobs/{orphan['job']}")
        client = self.submit()
        self.starts[0].ack("1")
        self.assertEqual(client.response.body, result_of("1"))
        again = self.connect().get(f"/jobs/{orphan['job']}").response
        self.assertEqual(again.body, result_of("1"))


class BytesTests(FixedUrlTestCase):
    """The limit of the bytes of parked callbacks."""

    parked_bounds = Bounds(size=2 * len(RESULT))

    def test_oldest_parked_callback_is_an_orphan_at_the_byte_limit(self) -> None:
        """B14, L6: past the limit of bytes the oldest callbacks are orphans at once."""
        client = self.submit()
        for upstream_id in ("x", "1"):
            self.assert_receipt(result_of(upstream_id), PARKED)
        self.assert_orphans()
        self.assert_receipt(result_of("y"), PARKED)
        self.assert_orphans("x")
        self.starts[0].ack("1")
        self.assertEqual(client.response.body, RESULT)
        self.clock.advance(TIMEOUT)
        self.assert_orphans("x", "y")
