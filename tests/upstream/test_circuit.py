"""The circuit breaker: jobs while the job server is down, in a whole proxy in memory."""

from tests.support.circuit import CircuitTestCase
from tests.support.clients import Client
from tests.support.proxy import result_of
from tests.support.start_outcomes import NO_SOCKET, REFUSED


class OpenTests(CircuitTestCase):
    """Jobs while the circuit is open."""

    def test_queued_jobs_are_refused_at_once(self) -> None:
        """S23: queued jobs of all accounts are refused as soon as the circuit opens."""
        clients = [self.submit() for _ in range(3)]
        self.refuse(9, 500)
        self.assertTrue(clients[2].is_held)
        self.refuse(1, 500)
        self.assertEqual(len(self.starts), 12)
        problem = self.assert_problem(clients[2].response, 503, "upstream-unreachable")
        self.assertIn("job", problem)
        for start in self.starts[:2]:
            start.respond(b"", 500)
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

    def test_proxy_is_ready_with_a_warning_until_the_probe_succeeds(self) -> None:
        """S23, G7: the proxy is ready, as others would be no better, with a warning."""
        self.fail_times(10)
        response = self.operate().get("/readyz").response
        self.assertEqual((response.status, response.json["reasons"]), (200, []))
        self.assertEqual(response.json["warnings"], ["job-server-unreachable"])
        self.assertEqual(self.operate().get("/healthz").response.status, 200)
        self.clock.advance(1)
        self.probe()
        self.assertIn("warnings", self.operate().get("/readyz").response.json)
        self.starts[-1].respond(result_of("1"))
        response = self.operate().get("/readyz").response
        self.assertEqual(response.status, 200)
        self.assertNotIn("warnings", response.json)


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
        """S18, S23: a probe that gets a server error has failed if others did, too."""
        self.clock.advance(1)
        self.probe()
        self.succeed()
        self.refuse(10, 500)
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
