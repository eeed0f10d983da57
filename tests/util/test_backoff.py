"""Backoff: pauses double with each failure, up to a maximum, with the jitter that was chosen."""

from random import Random

from twisted.trial.unittest import SynchronousTestCase

from jobproxy.util.backoff import Backoff


class BackoffTests(SynchronousTestCase):
    def test_pauses_double_up_to_the_maximum(self) -> None:
        """Without jitter each pause is twice the one before, and never above the maximum."""
        backoff = Backoff(0.5, 3.0)
        pauses = [backoff.pause(failures) for failures in range(1, 6)]
        self.assertEqual(pauses, [0.5, 1.0, 2.0, 3.0, 3.0])

    def test_any_number_of_failures_gives_the_maximum(self) -> None:
        """However many failures there were, the pause is the maximum, without an overflow."""
        self.assertEqual(Backoff(0.05, 3_600.0).pause(10**9), 3_600.0)

    def test_full_jitter_spreads_pauses_from_zero(self) -> None:
        """With full jitter a pause is anything from nothing to the whole pause."""
        backoff = Backoff(2.0, 100.0, Random(1))
        pauses = [backoff.pause(2) for _ in range(1_000)]
        self.assertTrue(0.0 <= min(pauses) < 0.1)
        self.assertTrue(3.9 < max(pauses) <= 4.0)

    def test_least_is_the_lower_end_of_the_jitter(self) -> None:
        """With half jitter no pause is shorter than half of the whole pause."""
        backoff = Backoff(2.0, 3.0, Random(1), least=0.5)
        pauses = [backoff.pause(2) for _ in range(1_000)]
        self.assertTrue(1.5 <= min(pauses) < 1.6)
        self.assertTrue(2.9 < max(pauses) <= 3.0)

    def test_same_random_source_gives_the_same_pauses(self) -> None:
        """All chance comes from the random source that was passed in."""
        one, other = (Backoff(1.0, 60.0, Random(7)) for _ in range(2))
        self.assertEqual([one.pause(n) for n in range(1, 9)], [other.pause(n) for n in range(1, 9)])
