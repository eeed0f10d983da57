"""Circuit alone: the probe that finds out whether the job server is reachable again."""

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from jobproxy.upstream.circuit import PATIENCE, RESERVED, THRESHOLD, Circuit, Phase
from jobproxy.upstream.start_errors import Health, NotStarted
from tests.support.proxy import FixedRandom


class ProbeTests(SynchronousTestCase):
    """An open circuit, whose first pause is a second."""

    def setUp(self) -> None:
        super().setUp()
        self.clock = Clock()
        self.circuit = Circuit(self.clock, FixedRandom())
        for _ in range(THRESHOLD):
            self.assertFalse(self.circuit.before_call("a"))
            self.circuit.record_failure(Health.DEAD, "a", 0.0, is_probe=False)

    def check_refused(self, retry_after: int) -> None:
        with self.assertRaises(NotStarted) as caught:
            self.circuit.before_call("a")
        self.assertEqual(caught.exception.problem.retry_after, retry_after)

    def test_first_start_after_a_long_pause_is_the_probe(self) -> None:
        """S23: however long there was no start request, the next one is the probe."""
        self.clock.advance(1_000)
        self.assertTrue(self.circuit.before_call("a"))
        self.circuit.record_success()
        self.assertFalse(self.circuit.before_call("a"))

    def test_only_one_probe_is_under_way(self) -> None:
        """S23: while a probe is under way, others are refused with a Retry-After of 1 second."""
        self.check_refused(1)
        self.clock.advance(1)
        self.assertTrue(self.circuit.before_call("a"))
        for passed in (0, 1_000):
            self.clock.advance(passed)
            self.check_refused(1)

    def test_retry_after_is_the_pause_rounded_up(self) -> None:
        """S23: Retry-After is the time until the next probe in whole seconds, rounded up."""
        self.clock.advance(1)
        for pause in (2, 4, 8):
            self.assertTrue(self.circuit.before_call("a"))
            self.circuit.record_failure(Health.DEAD, "a", 0.0, is_probe=True)
            self.check_refused(pause)
            self.clock.advance(0.5)
            self.check_refused(pause)
            self.clock.advance(pause - 0.5)

    def test_failure_of_an_earlier_start_does_not_end_the_probe(self) -> None:
        """S23: a start request sent before the circuit opened does not count as the probe."""
        self.clock.advance(1)
        self.assertTrue(self.circuit.before_call("a"))
        self.circuit.record_nothing(is_probe=False)
        self.check_refused(1)
        self.circuit.record_failure(Health.DEAD, "a", 0.0, is_probe=False)
        self.check_refused(1)
        self.assertIs(self.circuit.phase, Phase.HALF_OPEN)
        self.circuit.record_nothing(is_probe=True)
        self.assertTrue(self.circuit.before_call("a"))

    def test_response_to_an_earlier_start_closes_the_circuit(self) -> None:
        """S23: any response closes the circuit, whichever start request it is for."""
        self.circuit.record_success()
        for _ in range(2):
            self.assertFalse(self.circuit.before_call("a"))
        self.circuit.record_failure(Health.DEAD, "a", 0.0, is_probe=False)
        self.assertFalse(self.circuit.before_call("a"))

    def test_circuit_is_half_open_after_the_pause(self) -> None:
        """S28: after the pause it does not say that it is open, although no start request came."""
        self.assertIs(self.circuit.phase, Phase.OPEN)
        self.clock.advance(1)
        self.assertIs(self.circuit.phase, Phase.HALF_OPEN)
        self.assertTrue(self.circuit.allows)

    def test_callback_lets_the_next_start_probe(self) -> None:
        """S29: a callback shows that the job server lives: the next start request is the probe."""
        self.circuit.record_callback()
        self.assertTrue(self.circuit.before_call("a"))
        self.check_refused(1)

    def test_server_error_of_a_probe_closes_what_was_out_of_reach(self) -> None:
        """S28: a probe that gets a server error shows that the job server can be reached."""
        self.clock.advance(1)
        self.assertTrue(self.circuit.before_call("a"))
        self.circuit.record_failure(Health.ERROR, "a", 1.0, is_probe=True)
        self.assertIs(self.circuit.phase, Phase.CLOSED)


class ErrorTests(SynchronousTestCase):
    """Server errors of several accounts."""

    def setUp(self) -> None:
        super().setUp()
        self.clock = Clock()
        self.circuit = Circuit(self.clock, FixedRandom())

    def respond_500(self, *accounts: str, is_probe: bool = False) -> None:
        for account in accounts:
            self.circuit.record_failure(Health.ERROR, account, 0.0, is_probe=is_probe)

    def test_errors_of_few_accounts_do_not_open_it(self) -> None:
        """S28: server errors of one or two accounts do not open the circuit for the others."""
        self.respond_500(*"ab" * 100)
        self.assertIs(self.circuit.phase, Phase.CLOSED)
        self.respond_500("c")
        self.assertIs(self.circuit.phase, Phase.OPEN)

    def test_probe_is_left_to_another_account(self) -> None:
        """S28: after the pause the probe is left to an account that did not open the circuit."""
        self.respond_500(*"abcabcabca")
        self.clock.advance(1.5)
        with self.assertRaises(NotStarted):
            self.circuit.check_allowed("a")
        self.assertTrue(self.circuit.before_call("d"))
        self.respond_500("d", is_probe=True)
        self.assertIs(self.circuit.phase, Phase.OPEN)

    def test_account_that_opened_it_may_probe_when_no_other_does(self) -> None:
        """S28: but not for long: perhaps no other account has a job."""
        self.respond_500(*"abcabcabca")
        self.clock.advance(1 + RESERVED)
        self.assertTrue(self.circuit.before_call("a"))


class LostTests(SynchronousTestCase):
    """Connections that are lost after the start request was read."""

    def setUp(self) -> None:
        super().setUp()
        self.clock = Clock()
        self.circuit = Circuit(self.clock, FixedRandom())

    def lose(self, seconds: float = 0.0) -> None:
        """Lose so many starts that the circuit could open, some time after they were sent."""
        since = self.clock.seconds()
        self.clock.advance(seconds)
        for _ in range(2 * THRESHOLD):
            self.circuit.record_failure(Health.LOST, "a", since, is_probe=False)

    def test_lost_connections_open_it_only_after_some_time(self) -> None:
        """S29: lost connections open the circuit only if no sign of life comes for some time."""
        self.lose()
        self.clock.advance(PATIENCE - 0.1)
        self.lose()
        self.assertIs(self.circuit.phase, Phase.CLOSED)
        self.clock.advance(0.1)
        self.lose()
        self.assertIs(self.circuit.phase, Phase.OPEN)

    def test_timeouts_open_it_at_once(self) -> None:
        """S29: start requests that time out have been under way for long enough."""
        self.lose(PATIENCE)
        self.assertIs(self.circuit.phase, Phase.OPEN)

    def test_callbacks_keep_it_closed(self) -> None:
        """S29: as long as callbacks come, lost connections do not open it."""
        for _ in range(10):
            self.lose()
            self.clock.advance(PATIENCE - 1)
            self.circuit.record_callback()
            self.assertFalse(self.circuit.is_in_doubt)
        self.assertIs(self.circuit.phase, Phase.CLOSED)

    def test_others_may_probe_at_once_if_one_account_opened_it(self) -> None:
        """S32: perhaps only that account's starts hang: nobody else waits for it or its probes."""
        self.lose(PATIENCE)
        with self.assertRaises(NotStarted):
            self.circuit.check_allowed("a")
        self.clock.advance(1 + RESERVED)
        self.assertTrue(self.circuit.before_call("a"))
        self.assertTrue(self.circuit.before_call("b"))
        self.circuit.record_success()
        self.assertIs(self.circuit.phase, Phase.CLOSED)

    def test_probes_of_others_that_fail_keep_it_open(self) -> None:
        """S32: once the starts of several accounts are lost, all wait for the pause."""
        self.lose(PATIENCE)
        for account in "bc":
            self.assertTrue(self.circuit.before_call(account))
            self.circuit.record_failure(Health.LOST, account, 0.0, is_probe=True)
        with self.assertRaises(NotStarted):
            self.circuit.check_allowed("d")
