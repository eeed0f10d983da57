"""What becomes of jobs while the job server is dead, in memory."""

from typing import Any

from twisted.internet import error

from jobproxy.upstream.retries import Retry
from tests.support.proxy import Answer, Client, result_of
from tests.upstream.test_retries import LOST, NO_SOCKET, REFUSED, UNTRUSTED, RetryTestCase


class CircuitTestCase(RetryTestCase):
    """A proxy whose job server dies."""

    options: dict[str, Any] = {"retry": Retry.NEVER, "wait": 60.0}

    def fail_times(self, times: int, reason: Exception = REFUSED) -> None:
        """Have so many start calls in a row fail; the later ones get through."""
        self.line.failures = [reason] * times
        for _ in range(times):
            self.submit()

    def refuse(self, times: int, status: int, body: bytes = b"") -> None:
        """Have the job server answer so many starts in a row with a status."""
        for _ in range(times):
            self.submit()
            self.starts[-1].respond(body, status)

    def check_open(self) -> Answer:
        """Check that a new job is refused at once, and return what its client is told."""
        calls = self.line.calls
        response = self.submit("new").response
        self.assert_problem(response, 503, "upstream-unreachable")
        self.assertEqual(self.line.calls, calls)
        return response

    def check_closed(self) -> None:
        """Check that two jobs at once are started."""
        clients = [self.submit("new"), self.submit("new")]
        for start in self.starts[-2:]:
            start.respond(result_of("1"))
        self.assertEqual([client.response.status for client in clients], [200, 200])

    def probe(self) -> Client:
        """Have a client send a job, and check that it is the one that tries the job server."""
        starts = len(self.starts)
        client = self.submit("probe")
        self.assertEqual(len(self.starts), starts + 1)
        self.check_open()
        return client


class OpeningTests(CircuitTestCase):
    """What opens the circuit."""

    def tearDown(self) -> None:
        # Those whose start is ambiguous are told so after the grace.
        self.clock.advance(2)
        super().tearDown()

    def test_refused(self) -> None:
        """S1, S23: ten connections in a row that are refused open it; nine do not."""
        self.fail_times(9)
        self.check_closed()
        self.fail_times(10)
        self.assertEqual(self.check_open().headers["retry-after"], "1")

    def test_other_failures(self) -> None:
        """S2, S3, S6, S23: it counts whatever keeps an answer from coming, in any mixture."""
        for reason in (error.DNSLookupError(), error.TimeoutError(), LOST, REFUSED, LOST):
            self.check_closed()
            self.fail_times(9, reason)
        self.fail_times(1)
        self.check_open()

    def test_errors(self) -> None:
        """S18, S23: errors of the server count."""
        self.refuse(4, 500)
        self.refuse(5, 502)
        self.check_closed()
        self.refuse(9, 500)
        self.refuse(1, 504)
        self.check_open()

    def test_no_answer(self) -> None:
        """S8, S23: starts that get no answer in time count."""
        for number in range(10):
            self.submit(f"account {number}")
        self.clock.advance(9.9)
        self.assertEqual(self.connect().get("/readyz").response.status, 200)
        self.clock.advance(0.1)
        self.check_open()

    def test_success_between(self) -> None:
        """S23: the failures have to be in a row."""
        for _ in range(3):
            self.fail_times(9)
            self.check_closed()

    def test_other_answers(self) -> None:
        """S10, S11, S15, S16, S17, S19, S23: a job server that answers is not dead."""
        responses = [(200, b"<html>"), (200, b""), (200, b" " * 70_000)]
        responses += [(s, b"") for s in (302, 400, 401, 403, 404, 418, 422, 429, 503)]
        for status, body in responses:
            self.refuse(11, status, body)
            self.fail_times(9)
            self.refuse(1, status, body)
        self.check_closed()

    def test_own_failures(self) -> None:
        """S4, S5, S23: neither a server that is not trusted nor a lack of sockets opens it."""
        self.fail_times(20, UNTRUSTED)
        self.fail_times(20, NO_SOCKET)
        self.check_closed()

    def test_lack_of_sockets_tells_nothing(self) -> None:
        """S5, S23: a lack of sockets is no sign of life either."""
        self.fail_times(9)
        self.fail_times(1, NO_SOCKET)
        self.fail_times(1)
        self.check_open()


class RetriedTests(CircuitTestCase):
    """Starts that would be made again, while the circuit is open."""

    options = {"retry": Retry.NOT_SENT}

    def test_attempts_count(self) -> None:
        """S23: each attempt counts, and none is made once it is open."""
        self.line.failures = [REFUSED] * 100
        clients = [self.submit() for _ in range(4)]
        self.clock.pump([0.2, 0.5])
        self.assertEqual(self.line.calls, 10)
        for client in clients:
            self.assert_problem(client.response, 503, "upstream-unreachable")
            self.assertEqual(client.response.headers["retry-after"], "1")

    def test_resting(self) -> None:
        """S23: a start that rests when it opens is not made again."""
        resting = self.submit()
        self.starts[0].respond(b"", 503)
        self.fail_times(10)
        self.clock.advance(0.2)
        self.assert_problem(resting.response, 503, "upstream-unreachable")
        self.assertEqual(len(self.starts), 1)


class DoubtTests(CircuitTestCase):
    """Starts that may have been read, and would be made again."""

    options = {"retry": Retry.ALWAYS}

    def test_doubt_stays(self) -> None:
        """S6, S23: that the circuit is open makes no first start undone."""
        self.fail_times(10, LOST)
        self.clock.pump([0.2, 1.9])
        for client in self.clients:
            self.assertTrue(client.is_held)
        self.clock.advance(0.2)
        for client in self.clients:
            self.assert_problem(client.response, 504, "start-unknown", started="unknown")
        self.assertEqual(self.line.calls, 10)


class LostTests(CircuitTestCase):
    """Jobs that would be started again, as no word of them comes."""

    options = {"lost_after": 5.0}

    def test_goes_on(self) -> None:
        """B11, S23: a job that was started is waited for, although it cannot be started again."""
        client = self.submit()
        self.starts[0].ack("1")
        self.clock.advance(4.5)
        self.fail_times(10)
        self.clock.advance(0.5)
        self.assertTrue(client.is_held)
        self.call_back(self.starts[0], result_of("1"))
        self.assertEqual(client.response.body, result_of("1"))
        self.assertEqual(len(self.starts), 1)


class OpenTests(CircuitTestCase):
    """What holds while the circuit is open."""

    def test_queued(self) -> None:
        """S23: the jobs of the account that wait to be started are told at once."""
        clients = [self.submit() for _ in range(12)]
        for number in range(9):
            self.starts[number].respond(b"", 500)
        self.assertTrue(clients[11].is_held)
        self.starts[9].respond(b"", 500)
        self.assertEqual(len(self.starts), 11)
        problem = self.assert_problem(clients[11].response, 503, "upstream-unreachable")
        self.assertIn("job", problem)
        self.starts[10].respond(b"", 500)
        self.clock.advance(2)

    def test_queued_behind_others(self) -> None:
        """S23: so are those whose account has starts under way that get no answer."""
        clients = [self.submit() for _ in range(3)]
        for number in range(10):
            self.submit(f"account {number}")
            self.starts[-1].respond(b"", 500)
        self.assert_problem(clients[2].response, 503, "upstream-unreachable")
        self.assertEqual(len(self.starts), 12)
        self.starts[0].ack("1")
        self.call_back(self.starts[0], result_of("1"))
        self.starts[1].respond(result_of("2"))
        self.assertEqual([client.response.status for client in clients[:2]], [200, 200])
        self.clock.advance(2)

    def test_jobs_that_run(self) -> None:
        """S23: jobs that have been started end as ever, and can be asked for."""
        client = self.connect().request(headers={"Idempotency-Key": "k"})
        self.starts[0].ack("1")
        self.fail_times(10)
        self.check_open()
        joined = self.connect().request(headers={"Idempotency-Key": "k"})
        self.assertTrue(joined.is_held)
        self.call_back(self.starts[0], result_of("1"))
        for known in (client, joined):
            self.assertEqual(known.response.body, result_of("1"))
        found = self.connect().get(client.response.headers["content-location"]).response
        self.assertEqual(found.body, result_of("1"))

    def test_readiness(self) -> None:
        """S23, G7: the proxy is not ready until the job server is back."""
        self.fail_times(10)
        response = self.connect().get("/readyz").response
        self.assertEqual(response.status, 503)
        self.assertEqual(response.json["reasons"], ["job-server-unreachable"])
        self.assertEqual(self.connect().get("/healthz").response.status, 200)
        self.clock.advance(1)
        self.probe()
        self.assertEqual(self.connect().get("/readyz").response.status, 503)
        self.starts[-1].respond(result_of("1"))
        response = self.connect().get("/readyz").response
        self.assertEqual((response.status, response.json["reasons"]), (200, []))


class ProbeTests(CircuitTestCase):
    """How the job server is tried again."""

    def setUp(self) -> None:
        super().setUp()
        self.fail_times(10)

    def fail_probe(self) -> Client:
        """Have the next job fail to be started."""
        self.line.failures = [REFUSED]
        return self.submit("probe")

    def record_success(self) -> None:
        """Have the last start succeed."""
        self.starts[-1].respond(result_of("1"))
        self.check_closed()

    def test_one_at_a_time(self) -> None:
        """S23: after a second one start is let through, and its success closes the circuit."""
        self.clock.advance(0.9)
        self.check_open()
        self.clock.advance(0.1)
        client = self.probe()
        self.clock.advance(5)
        self.check_open()
        self.starts[-1].ack("1")
        self.assertTrue(client.is_held)
        self.check_closed()
        self.call_back(self.starts[0], result_of("1"))
        self.assertEqual(client.response.status, 200)

    def test_other_answers(self) -> None:
        """S15, S17, S23: an answer that is no success closes it too."""
        for status in (422, 429, 503):
            self.clock.advance(1)
            client = self.probe()
            self.starts[-1].respond(b"", status)
            self.assertEqual(client.response.status, status)
            self.check_closed()
            self.fail_times(10)

    def test_failure(self) -> None:
        """S23: each probe that fails doubles the time until the next, up to half a minute."""
        for pause in (1, 2, 4, 8, 16, 30, 30):
            self.assertEqual(self.check_open().headers["retry-after"], str(pause))
            self.clock.advance(pause - 0.5)
            self.assertEqual(self.check_open().headers["retry-after"], "1")
            self.clock.advance(0.5)
            client = self.fail_probe()
            self.assert_problem(client.response, 503, "upstream-unreachable")

    def test_pause_after_success(self) -> None:
        """S23: after a success the pauses are short again."""
        self.clock.advance(1)
        self.fail_probe()
        self.clock.advance(2)
        self.probe()
        self.record_success()
        self.fail_times(10)
        self.assertEqual(self.check_open().headers["retry-after"], "1")
        self.clock.advance(1)
        self.probe()
        self.record_success()

    def test_pauses_vary(self) -> None:
        """S23: a pause is half as long at least, so that proxies do not all come back at once."""
        self.clock.advance(1)
        self.probe()
        self.record_success()
        self.patch(self.random, "uniform", lambda a, b: a)
        self.fail_times(10)
        self.clock.advance(0.4)
        self.check_open()
        self.clock.advance(0.1)
        self.probe()
        self.starts[-1].respond(result_of("1"))

    def test_ambiguous(self) -> None:
        """S18, S23: a probe that is answered with an error has failed; its job may run."""
        self.clock.advance(1)
        client = self.probe()
        self.starts[-1].respond(b"", 500)
        self.assertEqual(self.check_open().headers["retry-after"], "2")
        self.clock.advance(2)
        self.assert_problem(client.response, 504, "start-unknown", started="unknown")

    def test_client_leaves(self) -> None:
        """Q16, S23: a client that leaves ends no probe, nor stands in the way of the next one."""
        self.clock.advance(1)
        self.probe().leave()
        self.clock.advance(9.9)
        self.check_open()
        self.clock.advance(0.1)
        self.assertEqual(self.check_open().headers["retry-after"], "2")
        self.clock.advance(2)
        self.probe().leave()
        self.starts[-1].ack("1")
        self.check_closed()

    def test_no_socket(self) -> None:
        """S5, S23: a probe for which there is no socket leaves the try to the next job."""
        self.clock.advance(1)
        self.fail_times(1, NO_SOCKET)
        self.assert_problem(self.clients[-1].response, 503, "overloaded")
        self.probe()
        self.record_success()


class StartsFromBeforeTests(CircuitTestCase):
    """Starts that were under way already when the circuit was opened."""

    def setUp(self) -> None:
        super().setUp()
        self.slow = [self.submit("slow"), self.submit("slow")]
        self.fail_times(10)
        self.check_open()

    def finish(self, *numbers: int) -> None:
        """Have starts succeed."""
        for number in numbers:
            self.starts[number].respond(result_of(str(number)))

    def test_success(self) -> None:
        """S23: an answer to one of them shows that the job server is back."""
        self.finish(0)
        self.check_closed()
        self.finish(1)
        self.assertEqual([client.response.status for client in self.slow], [200, 200])

    def test_failure(self) -> None:
        """S23: one that fails is not the probe, and makes no way for a second one."""
        self.clock.advance(1)
        client = self.probe()
        self.starts[0].respond(b"", 500)
        self.starts[1].respond(b"", 500)
        self.clock.advance(5)
        for slow in self.slow:
            self.assert_problem(slow.response, 504, "start-unknown", started="unknown")
        self.check_open()
        self.finish(2)
        self.assertEqual(client.response.status, 200)
        self.check_closed()

    def test_lane_is_full(self) -> None:
        """Q15, S23: a job whose start cannot be begun yet is no probe."""
        self.clock.advance(1)
        queued = self.submit("slow")
        self.assertTrue(queued.is_held)
        self.probe()
        queued.leave()
        self.finish(2, 0, 1)
        self.check_closed()
