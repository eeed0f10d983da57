"""IdleNotifier: Deferreds that fire when their owner is idle."""

from twisted.trial.unittest import SynchronousTestCase

from jobproxy.util.idle import IdleNotifier


class IdleNotifierTests(SynchronousTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.notifier = IdleNotifier()

    def test_wait_fires_at_once_when_idle(self) -> None:
        """Who waits while the owner is idle does not wait."""
        self.assertIsNone(self.successResultOf(self.notifier.wait(is_idle=True)))

    def test_notify_fires_all_waiting_deferreds_once(self) -> None:
        """A notification fires the Deferreds that wait, and later ones wait for the next."""
        first, second = (self.notifier.wait(is_idle=False) for _ in range(2))
        self.assertNoResult(first)
        self.notifier.notify()
        self.assertIsNone(self.successResultOf(first))
        self.assertIsNone(self.successResultOf(second))
        third = self.notifier.wait(is_idle=False)
        self.assertNoResult(third)
        self.notifier.notify()
        self.assertIsNone(self.successResultOf(third))

    def test_cancelled_deferred_is_forgotten(self) -> None:
        """A Deferred that was cancelled is not fired by the next notification."""
        waiting = self.notifier.wait(is_idle=False)
        waiting.cancel()
        self.failureResultOf(waiting)
        self.notifier.notify()

    def test_deferred_that_waits_again_is_fired_by_the_next_notify(self) -> None:
        """A callback that waits again does not make notify loop."""
        seen: list[int] = []

        def wait_again(_: None) -> None:
            seen.append(1)
            self.notifier.wait(is_idle=False).addCallback(lambda _: seen.append(2))

        self.notifier.wait(is_idle=False).addCallback(wait_again)
        self.notifier.notify()
        self.assertEqual(seen, [1])
        self.notifier.notify()
        self.assertEqual(seen, [1, 2])
