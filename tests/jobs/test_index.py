"""Job servers that call back one fixed URL: whose a callback is, only its id tells."""

from typing import Any

from jobproxy.app.settings import CorrelateBy
from jobproxy.jobs.retention import Bounds
from jobproxy.upstream.retries import OnLost, RetryMode
from tests.support.proxy import CALLBACK_URL, Answer, ProxyTestCase, result_of

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

    def post(self, body: bytes) -> Answer:
        """Have the job server send a callback."""
        return self.connect().request("/callback", body).response

    def assert_taken(self, body: bytes, receipt: tuple[int, object]) -> None:
        """Have the job server send a callback, and check what it is told."""
        response = self.post(body)
        self.assertEqual((response.status, response.json), receipt)

    def assert_conflict(self, body: bytes) -> None:
        self.assert_problem(self.post(body), 409, "callback-conflict")

    def assert_orphans(self, *job_ids: str) -> None:
        """Check whose results nobody waited for, the oldest first."""
        orphans = self.operate().get("/orphans").response.json["orphans"]
        self.assertEqual([orphan["id"] for orphan in orphans], list(job_ids))


class FixedUrlTests(FixedUrlTestCase):
    """Jobs whose callback comes after the ack."""

    def test_answers(self) -> None:
        """B12: every start has the one URL; a client gets the callback byte for byte."""
        client = self.submit()
        (start,) = self.starts
        self.assertEqual(start.body["callback"], CALLBACK_URL)
        start.ack("1")
        self.assertTrue(client.is_held)
        self.assert_taken(RESULT, ACCEPTED)
        self.assertEqual((client.response.status, client.response.body), (200, RESULT))

    def test_tells_clients_apart(self) -> None:
        """B12: each client gets the result that has its id, in whatever order they come."""
        clients = [self.submit(account) for account in "abc"]
        for number, start in enumerate(self.starts):
            start.ack(f"{number}")
        for number in (2, 0, 1):
            self.assert_taken(result_of(f"{number}"), ACCEPTED)
        bodies = [client.response.body for client in clients]
        self.assertEqual(bodies, [result_of(f"{number}") for number in range(3)])

    def test_progress(self) -> None:
        """B10: news of a job are taken, known or not, and nothing is kept of them."""
        client = self.submit()
        self.starts[0].ack("1")
        for upstream_id in ("1", "2"):
            self.assert_taken(result_of(upstream_id, "running"), PROGRESS)
        self.assertTrue(client.is_held)
        self.clock.advance(TIMEOUT)
        self.assert_orphans()
        self.assert_taken(RESULT, ACCEPTED)
        self.assertEqual(client.response.body, RESULT)

    def test_second_result(self) -> None:
        """B2: of two results the first is the answer; the other is a duplicate or a conflict."""
        client = self.submit()
        self.starts[0].ack("1")
        self.assert_taken(RESULT, ACCEPTED)
        self.assert_taken(RESULT, DUPLICATE)
        self.assert_conflict(OTHER)
        self.assertEqual(client.response.body, RESULT)
        self.assert_orphans()

    def test_result_in_the_ack(self) -> None:
        """S13, B2: after an ack that is the result already, a callback is a duplicate."""
        client = self.submit()
        self.starts[0].respond(RESULT)
        self.assertEqual(client.response.body, RESULT)
        self.assert_taken(RESULT, DUPLICATE)
        self.assert_conflict(OTHER)
        self.clock.advance(TIMEOUT)
        self.assert_orphans()

    def test_late(self) -> None:
        """B5: a result after the deadline is where the client's 504 said that it would be."""
        client = self.submit()
        self.starts[0].ack("1")
        self.clock.advance(30)
        problem = self.assert_problem(client.response, 504, "wait-over", started="yes")
        self.assert_taken(RESULT, (200, {"status": "late"}))
        self.assertEqual(self.connect().get(problem["instance"]).response.body, RESULT)

    def test_client_left(self) -> None:
        """B4: the result of a job whose client left before the ack is kept."""
        self.submit().leave()
        self.starts[0].ack("1")
        self.assert_taken(RESULT, ACCEPTED)
        self.assert_orphans("1")

    def test_without_an_id(self) -> None:
        """B7: a callback that does not say whose it is is refused, and the job goes on."""
        client = self.submit()
        self.starts[0].ack("1")
        bodies = (b"{}", b'{"id":1}', b'{"id":""}', b'{"id":"%b"}' % (b"x" * 129))
        for body in (*bodies, b'{"state":"running"}'):
            problem = self.assert_problem(self.post(body), 400, "invalid-request")
            self.assertEqual([error["pointer"] for error in problem["errors"]], ["/id"])
        self.assert_problem(self.post(b"[]"), 400, "invalid-json")
        self.assertTrue(client.is_held)
        self.assert_taken(RESULT, ACCEPTED)

    def test_other_paths(self) -> None:
        """B6, B13: callbacks come to that URL alone, and by POST."""
        for path in ("/callback/", "/callback/1", f"/callback/{self.signer.mint().text}"):
            response = self.connect().request(path, RESULT).response
            self.assert_problem(response, 404, "not-found")
        response = self.connect().get("/callback").response
        self.assert_problem(response, 405, "method-not-allowed")

    def test_same_id(self) -> None:
        """B8: of two jobs with the same id the first gets the result, and the other one none."""
        clients = [self.submit(account) for account in "ab"]
        for start in self.starts:
            start.ack("1")
        self.assert_taken(RESULT, ACCEPTED)
        self.assertEqual([client.is_held for client in clients], [False, True])
        self.assert_taken(RESULT, DUPLICATE)
        self.clock.advance(30)
        self.assertEqual(clients[0].response.body, RESULT)
        self.assert_problem(clients[1].response, 504, "wait-over", started="yes")

    def test_id_is_used_again(self) -> None:
        """B3: once a job has ended, another one may have its id, and has it from then on."""
        for state, pause in (("completed", 1), ("failed", 302), ("rejected", 302)):
            client = self.submit()
            self.starts[-1].ack("1")
            self.assert_taken(result_of("1", state), ACCEPTED)
            self.assertEqual(client.response.body, result_of("1", state))
            self.assert_taken(result_of("1", state), DUPLICATE)
            self.clock.advance(pause)


class ParkingTests(FixedUrlTestCase):
    """Callbacks that come before the ack, so that nobody knows yet whose they are."""

    def test_answered_with_the_ack(self) -> None:
        """B1: a callback before the ack is parked, and is the answer once the ack comes."""
        client = self.submit()
        self.assert_taken(RESULT, PARKED)
        self.assertTrue(client.is_held)
        self.clock.advance(TIMEOUT - 0.1)
        self.assert_orphans()
        self.starts[0].ack("1")
        self.assertEqual((client.response.status, client.response.body), (200, RESULT))
        self.assert_taken(RESULT, DUPLICATE)
        self.clock.advance(TIMEOUT)
        self.assert_orphans()

    def test_other_acks(self) -> None:
        """B1: what is parked waits for its own ack, whichever come before."""
        clients = [self.submit(account) for account in "ab"]
        self.assert_taken(result_of("2"), PARKED)
        self.starts[0].ack("1")
        self.assertTrue(all(client.is_held for client in clients))
        self.starts[1].ack("2")
        self.assertEqual(clients[1].response.body, result_of("2"))
        self.assert_taken(RESULT, ACCEPTED)
        self.assertEqual(clients[0].response.body, RESULT)

    def test_parked_twice(self) -> None:
        """B1, B2: of two callbacks before the ack the first is the answer."""
        client = self.submit()
        self.assert_taken(RESULT, PARKED)
        self.assert_taken(RESULT, DUPLICATE)
        self.assert_conflict(OTHER)
        self.starts[0].ack("1")
        self.assertEqual(client.response.body, RESULT)

    def test_result_in_the_ack(self) -> None:
        """B1, S13: a callback that overtakes an ack that is the result is no orphan."""
        client = self.submit()
        self.assert_taken(RESULT, PARKED)
        self.starts[0].respond(RESULT)
        self.assertEqual(client.response.body, RESULT)
        self.clock.advance(TIMEOUT)
        self.assert_orphans()

    def test_other_result_in_the_ack(self) -> None:
        """B2, S13: if the two results differ, the client gets the one in the ack."""
        client = self.submit()
        self.assert_taken(OTHER, PARKED)
        self.starts[0].respond(RESULT)
        self.assertEqual(client.response.body, RESULT)
        self.assert_conflict(OTHER)
        self.clock.advance(TIMEOUT)
        self.assert_orphans()

    def test_client_left(self) -> None:
        """B1, B4: when the client has left meanwhile, what was parked is kept for who asks."""
        client = self.submit()
        self.assert_taken(RESULT, PARKED)
        client.leave()
        self.starts[0].ack("1")
        self.assert_orphans("1")
        self.clock.advance(TIMEOUT)
        self.assert_orphans("1")

    def test_no_ack(self) -> None:
        """B1, S8: what waits for an ack for too long is an orphan, and still known."""
        client = self.submit()
        self.assert_taken(RESULT, PARKED)
        self.clock.pump([TIMEOUT - 0.1, 0.1])
        self.assert_orphans("1")
        self.assert_taken(RESULT, DUPLICATE)
        self.assert_conflict(OTHER)
        self.clock.advance(2)
        self.assert_problem(client.response, 504, "start-unknown", started="unknown")
        self.assert_orphans("1")

    def test_no_id_in_the_ack(self) -> None:
        """S12: a job whose ack has no id cannot be called back; its result is an orphan."""
        client = self.submit()
        self.starts[0].respond(b"{}")
        self.assert_taken(RESULT, PARKED)
        self.clock.pump([TIMEOUT, 30 - TIMEOUT])
        self.assert_problem(client.response, 504, "wait-over", started="yes")
        self.assert_orphans("1")

    def test_ack_after_a_stall(self) -> None:
        """T3: an ack that came in time gets what is parked, though the process was stalled."""
        for stall in (0.0, 5.0):
            client = self.submit()
            upstream_id = f"{stall}"
            self.assert_taken(result_of(upstream_id), PARKED)
            self.clock.callLater(TIMEOUT, self.starts[-1].ack, upstream_id)
            self.clock.advance(TIMEOUT + stall)
            self.assertFalse(client.is_held)
            self.assertEqual(client.response.body, result_of(upstream_id))
            self.assert_orphans()

    def test_stops(self) -> None:
        """G1: when the proxy stops, nothing that is parked stays."""
        client = self.submit()
        self.assert_taken(RESULT, PARKED)
        self.table.startService()
        self.table.stopService()
        self.assert_problem(client.response, 503, "draining", started="unknown")
        self.clock.advance(TIMEOUT)
        self.assert_orphans()
        self.starts[0].ack("1")


class RestartTests(FixedUrlTestCase):
    """Jobs that are started again as their callback does not come, and so have two ids."""

    settings = {**FixedUrlTestCase.settings, "on_lost": OnLost.RESTART, "lost_after": 5.0}

    def run_twice(self) -> Any:
        """Have a client send a job that is lost once; its ids are 1 and 2."""
        client = self.submit()
        self.starts[0].ack("1")
        self.clock.advance(5)
        self.starts[1].ack("2")
        self.assertTrue(client.is_held)
        return client

    def test_either_ends_it(self) -> None:
        """B8: whichever of the two ends first is the answer, and the other changes nothing."""
        for first, second in (("1", "2"), ("2", "1")):
            client = self.run_twice()
            self.assert_taken(result_of(first), ACCEPTED)
            self.assertEqual(client.response.body, result_of(first))
            self.assert_taken(result_of(second), DUPLICATE)
            self.assert_orphans()
            self.starts.clear()
            # Both ids are free again.
            self.clock.advance(302)

    def test_parked_at_the_second_start(self) -> None:
        """B1: a callback before the second ack is the answer once that comes."""
        client = self.submit()
        self.starts[0].ack("1")
        self.clock.advance(5)
        self.assert_taken(result_of("2"), PARKED)
        self.starts[1].ack("2")
        self.assertEqual(client.response.body, result_of("2"))

    def test_first_ends_before_the_second_ack(self) -> None:
        """B2: what is parked for a job that has ended meanwhile is no orphan."""
        client = self.submit()
        self.starts[0].ack("1")
        self.clock.advance(5)
        self.assert_taken(RESULT, ACCEPTED)
        self.assert_taken(result_of("2"), PARKED)
        self.starts[1].ack("2")
        self.assertEqual(client.response.body, RESULT)
        self.assert_taken(result_of("2"), DUPLICATE)
        self.clock.advance(TIMEOUT)
        self.assert_orphans()


class AlwaysTests(FixedUrlTestCase):
    """Starts that are sent again although they may have been read."""

    settings = {**FixedUrlTestCase.settings, "retry": RetryMode.ALWAYS}

    def test_parked_from_the_first(self) -> None:
        """S6: of two starts, the one that was acked tells whose the results are."""
        client = self.submit()
        self.starts[0].respond(b"", 500)
        self.assert_taken(RESULT, PARKED)
        self.clock.advance(0.2)
        self.starts[1].ack("2")
        self.assertTrue(client.is_held)
        self.assert_taken(result_of("2"), ACCEPTED)
        self.assertEqual(client.response.body, result_of("2"))
        self.clock.advance(TIMEOUT)
        self.assert_orphans("1")


class NumberTests(FixedUrlTestCase):
    """How many callbacks are parked."""

    parked_bounds = Bounds(number=2)

    def test_oldest_goes(self) -> None:
        """B14, L6: past the bound the callback that was parked first is an orphan at once."""
        clients = [self.submit(account) for account in "ab"]
        for upstream_id in ("x", "1", "2"):
            self.assert_taken(result_of(upstream_id), PARKED)
        self.assert_orphans("x")
        for number, start in enumerate(self.starts, 1):
            start.ack(f"{number}")
        bodies = [client.response.body for client in clients]
        self.assertEqual(bodies, [result_of("1"), result_of("2")])
        self.assert_orphans("x")


class BytesTests(FixedUrlTestCase):
    """How much parked callbacks may take."""

    parked_bounds = Bounds(size=2 * len(RESULT))

    def test_oldest_goes(self) -> None:
        """B14, L6: past the bound the oldest ones are orphans at once."""
        client = self.submit()
        for upstream_id in ("x", "1"):
            self.assert_taken(result_of(upstream_id), PARKED)
        self.assert_orphans()
        self.assert_taken(result_of("y"), PARKED)
        self.assert_orphans("x")
        self.starts[0].ack("1")
        self.assertEqual(client.response.body, RESULT)
        self.clock.advance(TIMEOUT)
        self.assert_orphans("x", "y")
