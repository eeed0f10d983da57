"""What opens the circuit to the job server, and what does not."""

from twisted.internet import error

from jobproxy.upstream.circuit import PATIENCE
from jobproxy.upstream.retries import OnLost, RetryMode
from tests.support.circuit import CircuitTestCase
from tests.support.proxy import result_of
from tests.support.start_outcomes import LOST, NO_SOCKET, REFUSED, UNTRUSTED


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
        """S18, S23: server errors of several accounts count as failures."""
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
        """S9, S23: responses whose body is not complete count as failures, after some time."""
        for status in (200, 418, 500, 200, 200, 200, 200, 200, 200, 200):
            self.submit()
            self.starts[-1].begin(status, 1_000)
            self.starts[-1].lose()
        self.check_closed()
        self.sender.failures = [LOST] * 10
        for number in range(9):
            self.submit(f"account {number}")
        self.clock.advance(PATIENCE)
        self.submit("account 9")
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
        for status in (307, 400, 401, 403, 404, 409, 410, 422, 429, 503):
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
        # Those whose start was confirmed wait for their callback.
        self.clock.advance(60)

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
        self.sender.failures = [REFUSED]
        self.submit("other")
        self.assert_problem(self.clients.pop().response, 503, "upstream-unreachable")
        self.clock.pump([0.2, 1.9])
        for client in self.clients:
            self.assertTrue(client.is_held)
        self.clock.advance(0.2)
        for client in self.clients:
            self.assert_problem(client.response, 504, "start-unknown", started="unknown")
        self.assertEqual(len(self.sender.times), 11)


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
