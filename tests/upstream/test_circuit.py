"""The circuit breaker: jobs while the job server is down, in a whole proxy in memory."""

from typing import Any

from twisted.internet import error

from jobproxy.upstream.retries import OnLost, RetryMode
from tests.support.clients import Client, Response
from tests.support.proxy import result_of
from tests.support.start_outcomes import LOST, NO_SOCKET, REFUSED, UNTRUSTED, RetryTestCase


class CircuitTestCase(RetryTestCase):
    """A proxy whose job server fails."""

    settings: dict[str, Any] = {"retry": RetryMode.NEVER, "wait": 60.0}

    def fail_times(self, times: int, reason: Exception = REFUSED) -> None:
        """Submit so many jobs whose start requests fail; later ones are sent."""
        self.sender.failures = [reason] * times
        for _ in range(times):
            self.submit()

    def refuse(self, times: int, status: int, body: bytes = b"") -> None:
        """Submit so many jobs whose start requests get this response."""
        for _ in range(times):
            self.submit()
            self.starts[-1].respond(body, status)

    def check_open(self) -> Response:
        """Check that a new job is refused at once, and return the response to its client."""
        calls = len(self.sender.times)
        response = self.submit("new").response
        self.assert_problem(response, 503, "upstream-unreachable")
        self.assertEqual(len(self.sender.times), calls)
        return response

    def check_closed(self) -> None:
        """Check that two jobs at once are started."""
        clients = [self.submit("new"), self.submit("new")]
        for start in self.starts[-2:]:
            start.respond(result_of("1"))
        self.assertEqual([client.response.status for client in clients], [200, 200])

    def probe(self) -> Client:
        """Submit a job, and check that its start request is the probe."""
        starts = len(self.starts)
        client = self.submit("probe")
        self.assertEqual(len(self.starts), starts + 1)
        self.check_open()
        return client


class OpeningTests(CircuitTestCase):
    """What opens the circuit."""

    def tearDown(self) -> None:
        # Clients with an ambiguous start get their response after the grace.
        self.clock.advance(2)
        super().tearDown()

    def test_ten_refused_connections_in_a_row_open_it(self) -> None:
        """S1, S23: ten connections in a row that are refused open the circuit; nine do not."""
        self.fail_times(9)
        self.check_closed()
        self.fail_times(10)
        self.assertEqual(self.check_open().headers["retry-after"], "1")

    def test_start_requests_without_a_response_open_it(self) -> None:
        """S2, S3, S6, S23: whatever prevents a response counts as a failure, in any mixture."""
        for reason in (error.DNSLookupError(), error.TimeoutError(), LOST, REFUSED, LOST):
            self.check_closed()
            self.fail_times(9, reason)
        self.fail_times(1)
        self.check_open()

    def test_server_errors_open_it(self) -> None:
        """S18, S23: server errors count as failures."""
        self.refuse(4, 500)
        self.refuse(5, 502)
        self.check_closed()
        self.refuse(9, 500)
        self.refuse(1, 504)
        self.check_open()

    def test_timeouts_open_it(self) -> None:
        """S8, S23: start requests that time out count as failures."""
        for number in range(10):
            self.submit(f"account {number}")
        self.clock.advance(9.9)
        self.assertEqual(self.operate().get("/readyz").response.status, 200)
        self.clock.advance(0.1)
        self.check_open()

    def test_acks_that_are_cut_short_open_it(self) -> None:
        """S9, S23: responses whose body is not complete count as failures."""
        for status in (200, 418, 500, 200, 200, 200, 200, 200, 200, 200):
            self.submit()
            self.starts[-1].begin(status, 1_000)
            self.starts[-1].lose()
        self.check_open()

    def test_acks_that_never_end_open_it(self) -> None:
        """S21, S23: responses whose body is not complete at the timeout count as failures."""
        for number in range(10):
            self.submit(f"account {number}")
            self.starts[-1].begin(200, 1_000)
        self.clock.advance(10)
        self.check_open()

    def test_refusals_that_are_cut_short_do_not_open_it(self) -> None:
        """S15, S16, S17, S19, S23: the status alone shows that it is a refusal."""
        for status in (302, 400, 401, 403, 404, 409, 410, 422, 429, 503):
            self.submit()
            self.starts[-1].begin(status, 1_000)
            self.starts[-1].lose()
        self.check_closed()

    def test_success_resets_the_count_of_failures(self) -> None:
        """S23: only failures in a row open the circuit."""
        for _ in range(3):
            self.fail_times(9)
            self.check_closed()

    def test_other_responses_do_not_open_it(self) -> None:
        """S10, S11, S15, S16, S17, S19, S23: a job server that responds is not down."""
        responses = [(200, b"<html>"), (200, b""), (200, b" " * 70_000)]
        responses += [(s, b"") for s in (302, 400, 401, 403, 404, 418, 422, 429, 503)]
        for status, body in responses:
            self.refuse(11, status, body)
            self.fail_times(9)
            self.refuse(1, status, body)
        self.check_closed()

    def test_failures_of_our_own_do_not_open_it(self) -> None:
        """S4, S5, S23: neither an untrusted certificate nor a lack of sockets opens the circuit."""
        self.fail_times(20, UNTRUSTED)
        self.fail_times(20, NO_SOCKET)
        self.check_closed()

    def test_lack_of_sockets_does_not_reset_the_count(self) -> None:
        """S5, S23: a lack of sockets is no success either."""
        self.fail_times(9)
        self.fail_times(1, NO_SOCKET)
        self.fail_times(1)
        self.check_open()


class RetriedTests(CircuitTestCase):
    """Start requests to be sent again while the circuit is open."""

    settings = {"retry": RetryMode.NOT_SENT}

    def test_no_retry_is_sent_once_it_is_open(self) -> None:
        """S23: each attempt counts, and none is sent once the circuit is open."""
        self.sender.failures = [REFUSED] * 100
        clients = [self.submit() for _ in range(4)]
        self.clock.pump([0.2, 0.5])
        self.assertEqual(len(self.sender.times), 10)
        for client in clients:
            self.assert_problem(client.response, 503, "upstream-unreachable")
            self.assertEqual(client.response.headers["retry-after"], "1")

    def test_start_that_waits_for_its_retry_fails(self) -> None:
        """S23: a start that waits for its retry when the circuit opens is not sent again."""
        resting = self.submit()
        self.starts[0].respond(b"", 503)
        self.fail_times(10)
        self.clock.advance(0.2)
        self.assert_problem(resting.response, 503, "upstream-unreachable")
        self.assertEqual(len(self.starts), 1)


class AmbiguousStartTests(CircuitTestCase):
    """Ambiguous starts to be sent again while the circuit is open."""

    settings = {"retry": RetryMode.ALWAYS}

    def test_ambiguous_start_stays_ambiguous(self) -> None:
        """S6, S23: an ambiguous start stays ambiguous when the circuit opens."""
        self.fail_times(10, LOST)
        self.clock.pump([0.2, 1.9])
        for client in self.clients:
            self.assertTrue(client.is_held)
        self.clock.advance(0.2)
        for client in self.clients:
            self.assert_problem(client.response, 504, "start-unknown", started="unknown")
        self.assertEqual(len(self.sender.times), 10)


class LostTests(CircuitTestCase):
    """Started jobs to be started again, as there is no news of them."""

    settings = {"on_lost": OnLost.RESTART, "lost_after": 5.0}

    def test_callback_is_awaited_when_restart_is_impossible(self) -> None:
        """B11, S23: a started job keeps waiting for its callback when it cannot be restarted."""
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
    """Jobs while the circuit is open."""

    def test_queued_jobs_are_refused_at_once(self) -> None:
        """S23: queued jobs of the account are refused as soon as the circuit opens."""
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

    def test_jobs_queued_behind_starts_under_way_are_refused(self) -> None:
        """S23: jobs queued behind start requests without a response are refused too."""
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

    def test_started_jobs_end_as_usual(self) -> None:
        """S23: started jobs end as usual, and can be polled."""
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

    def test_proxy_is_not_ready_until_the_probe_succeeds(self) -> None:
        """S23, G7: the proxy is not ready until the probe succeeds."""
        self.fail_times(10)
        response = self.operate().get("/readyz").response
        self.assertEqual(response.status, 503)
        self.assertEqual(response.json["reasons"], ["job-server-unreachable"])
        self.assertEqual(self.operate().get("/healthz").response.status, 200)
        self.clock.advance(1)
        self.probe()
        self.assertEqual(self.operate().get("/readyz").response.status, 503)
        self.starts[-1].respond(result_of("1"))
        response = self.operate().get("/readyz").response
        self.assertEqual((response.status, response.json["reasons"]), (200, []))


class ProbeTests(CircuitTestCase):
    """Probes of an open circuit."""

    def setUp(self) -> None:
        super().setUp()
        self.fail_times(10)

    def fail_probe(self) -> Client:
        """Submit a job whose start request fails."""
        self.sender.failures = [REFUSED]
        return self.submit("probe")

    def succeed(self) -> None:
        """Let the last start request succeed."""
        self.starts[-1].respond(result_of("1"))
        self.check_closed()

    def test_success_of_the_only_probe_closes_it(self) -> None:
        """S23: after a second one start request is sent, and its success closes the circuit."""
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

    def test_any_response_below_500_closes_it(self) -> None:
        """S15, S17, S23: a response that refuses the job closes the circuit too."""
        for status in (422, 429, 503):
            self.clock.advance(1)
            client = self.probe()
            self.starts[-1].respond(b"", status)
            self.assertEqual(client.response.status, status)
            self.check_closed()
            self.fail_times(10)

    def test_each_failed_probe_doubles_the_pause(self) -> None:
        """S23: each failed probe doubles the pause, up to half a minute."""
        for pause in (1, 2, 4, 8, 16, 30, 30):
            self.assertEqual(self.check_open().headers["retry-after"], str(pause))
            self.clock.advance(pause - 0.5)
            self.assertEqual(self.check_open().headers["retry-after"], "1")
            self.clock.advance(0.5)
            client = self.fail_probe()
            self.assert_problem(client.response, 503, "upstream-unreachable")

    def test_pauses_are_short_again_after_a_success(self) -> None:
        """S23: after a success the first pause is a second again."""
        self.clock.advance(1)
        self.fail_probe()
        self.clock.advance(2)
        self.probe()
        self.succeed()
        self.fail_times(10)
        self.assertEqual(self.check_open().headers["retry-after"], "1")
        self.clock.advance(1)
        self.probe()
        self.succeed()

    def test_jitter_shortens_a_pause_by_half_at_most(self) -> None:
        """S23: jitter makes a pause shorter, but not less than half, so that proxies spread."""
        self.clock.advance(1)
        self.probe()
        self.succeed()
        self.patch(self.random, "uniform", lambda a, b: a)
        self.fail_times(10)
        self.clock.advance(0.4)
        self.check_open()
        self.clock.advance(0.1)
        self.probe()
        self.starts[-1].respond(result_of("1"))

    def test_probe_with_a_server_error_fails(self) -> None:
        """S18, S23: a probe that gets a server error has failed, and its job is ambiguous."""
        self.clock.advance(1)
        client = self.probe()
        self.starts[-1].respond(b"", 500)
        self.assertEqual(self.check_open().headers["retry-after"], "2")
        self.clock.advance(2)
        self.assert_problem(client.response, 504, "start-unknown", started="unknown")

    def test_probe_goes_on_when_its_client_leaves(self) -> None:
        """Q16, S23: a probe goes on when its client leaves, and does not block the next one."""
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

    def test_next_job_is_the_probe_after_a_lack_of_sockets(self) -> None:
        """S5, S23: if there is no socket for the probe, the next job is the probe."""
        self.clock.advance(1)
        self.fail_times(1, NO_SOCKET)
        self.assert_problem(self.clients[-1].response, 503, "overloaded")
        self.probe()
        self.succeed()


class EarlierStartTests(CircuitTestCase):
    """Start requests that were sent before the circuit opened."""

    def setUp(self) -> None:
        super().setUp()
        self.slow = [self.submit("slow"), self.submit("slow")]
        self.fail_times(10)
        self.check_open()

    def finish(self, *numbers: int) -> None:
        """Let start requests succeed."""
        for number in numbers:
            self.starts[number].respond(result_of(str(number)))

    def test_response_to_an_earlier_start_closes_it(self) -> None:
        """S23: a response to an earlier start request closes the circuit."""
        self.finish(0)
        self.check_closed()
        self.finish(1)
        self.assertEqual([client.response.status for client in self.slow], [200, 200])

    def test_failure_of_an_earlier_start_allows_no_second_probe(self) -> None:
        """S23: an earlier start request that fails is not the probe, and allows no second one."""
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

    def test_job_that_is_queued_is_no_probe(self) -> None:
        """Q15, S23: a job that waits for a slot is not the probe."""
        self.clock.advance(1)
        queued = self.submit("slow")
        self.assertTrue(queued.is_held)
        self.probe()
        queued.leave()
        self.finish(2, 0, 1)
        self.check_closed()
