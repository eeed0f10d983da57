"""Circuit alone: the probe that finds out whether the job server is reachable again."""

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from jobproxy.upstream.circuit import THRESHOLD, Circuit, Phase
from jobproxy.upstream.start_errors import NotStarted
from tests.support.proxy import FixedRandom


class ProbeTests(SynchronousTestCase):
    """An open circuit, whose first pause is a second."""

    def setUp(self) -> None:
        super().setUp()
        self.clock = Clock()
        self.circuit = Circuit(self.clock, FixedRandom())
        for _ in range(THRESHOLD):
            self.assertFalse(self.circuit.before_call())
            self.circuit.record_failure(is_probe=False)

    def check_refused(self, retry_after: int) -> None:
        with self.assertRaises(NotStarted) as caught:
            self.circuit.before_call()
        self.assertEqual(caught.exception.problem.retry_after, retry_after)

    def test_first_start_after_a_long_pause_is_the_probe(self) -> None:
        """S23: however long there was no start request, the next one is the probe."""
        self.clock.advance(1_000)
        self.assertTrue(self.circuit.before_call())
        self.circuit.record_success()
        self.assertFalse(self.circuit.before_call())

    def test_only_one_probe_is_under_way(self) -> None:
        """S23: while a probe is under way, others are refused with a Retry-After of 1 second."""
        self.check_refused(1)
        self.clock.advance(1)
        self.assertTrue(self.circuit.before_call())
        for passed in (0, 1_000):
            self.clock.advance(passed)
            self.check_refused(1)

    def test_retry_after_is_the_pause_rounded_up(self) -> None:
        """S23: Retry-After is the time until the next probe in whole seconds, rounded up."""
        self.clock.advance(1)
        for pause in (2, 4, 8):
            self.assertTrue(self.circuit.before_call())
            self.circuit.record_failure(is_probe=True)
            self.check_refused(pause)
            self.clock.advance(0.5)
            self.check_refused(pause)
            self.clock.advance(pause - 0.5)

    def test_failure_of_an_earlier_start_does_not_end_the_probe(self) -> None:
        """S23: a start request sent before the circuit opened does not count as the probe."""
        self.clock.advance(1)
        self.assertTrue(self.circuit.before_call())
        self.circuit.record_nothing(is_probe=False)
        self.check_refused(1)
        self.circuit.record_failure(is_probe=False)
        self.check_refused(1)
        self.assertIs(self.circuit.phase, Phase.HALF_OPEN)
        self.circuit.record_nothing(is_probe=True)
        self.assertTrue(self.circuit.before_call())

    def test_response_to_an_earlier_start_closes_the_circuit(self) -> None:
        """S23: any response closes the circuit, whichever start request it is for."""
        self.circuit.record_success()
        for _ in range(2):
            self.assertFalse(self.circuit.before_call())
        self.circuit.record_failure(is_probe=False)
        self.assertFalse(self.circuit.before_call())
