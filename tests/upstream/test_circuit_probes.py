"""The circuit breaker alone: the one start that tries whether a dead job server is back."""

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from jobproxy.upstream.circuit import THRESHOLD, Circuit, Phase
from jobproxy.wire.problems import UpstreamUnreachable
from tests.support.proxy import FixedRandom


class ProbeTests(SynchronousTestCase):
    """A circuit that is open, and lets the first start through after a second."""

    def setUp(self) -> None:
        super().setUp()
        self.clock = Clock()
        self.circuit = Circuit(self.clock, FixedRandom())
        for _ in range(THRESHOLD):
            self.assertFalse(self.circuit.before_call())
            self.circuit.record_failure(is_probe=False)

    def check_refused(self, retry_after: int) -> None:
        with self.assertRaises(UpstreamUnreachable) as caught:
            self.circuit.before_call()
        self.assertEqual(caught.exception.retry_after, retry_after)

    def test_long_pause(self) -> None:
        """S23: however long nobody came, the next start is the one that tries."""
        self.clock.advance(1_000)
        self.assertTrue(self.circuit.before_call())
        self.circuit.record_success()
        self.assertFalse(self.circuit.before_call())

    def test_second_start(self) -> None:
        """S23: while one start tries, another one is refused, and told to come again soon."""
        self.check_refused(1)
        self.clock.advance(1)
        self.assertTrue(self.circuit.before_call())
        for passed in (0, 1_000):
            self.clock.advance(passed)
            self.check_refused(1)

    def test_how_long(self) -> None:
        """S23: who is refused is told the whole seconds until the next try, rounded up."""
        self.clock.advance(1)
        for pause in (2, 4, 8):
            self.assertTrue(self.circuit.before_call())
            self.circuit.record_failure(is_probe=True)
            self.check_refused(pause)
            self.clock.advance(0.5)
            self.check_refused(pause)
            self.clock.advance(pause - 0.5)

    def test_starts_from_before(self) -> None:
        """S23: what comes of the starts from before is nothing that the one start has tried."""
        self.clock.advance(1)
        self.assertTrue(self.circuit.before_call())
        self.circuit.record_nothing(is_probe=False)
        self.check_refused(1)
        self.circuit.record_failure(is_probe=False)
        self.check_refused(1)
        self.assertIs(self.circuit.phase, Phase.HALF_OPEN)
        self.circuit.record_nothing(is_probe=True)
        self.assertTrue(self.circuit.before_call())

    def test_answer_to_a_start_from_before(self) -> None:
        """S23: an answer shows that the job server is back, whichever start it is for."""
        self.circuit.record_success()
        for _ in range(2):
            self.assertFalse(self.circuit.before_call())
        self.circuit.record_failure(is_probe=False)
        self.assertFalse(self.circuit.before_call())
