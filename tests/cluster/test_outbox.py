"""The outbox: requests to the store that failed are sent again once the store is back."""

from functools import partial

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from jobproxy.cluster.outbox import Outbox
from jobproxy.jobs.retention import OVERHEAD, Bounds
from jobproxy.store.interface import StoreUnreachable
from jobproxy.util.chunks import CHUNK

#: Seconds for which a request is kept.
SECONDS = 60.0


class OutboxTests(SynchronousTestCase):
    """An outbox whose store can be reached or not."""

    def setUp(self) -> None:
        super().setUp()
        self.clock = Clock()
        self.outbox = Outbox(self.clock, SECONDS, Bounds(number=300, size=300 * OVERHEAD))
        self.is_up = True
        #: The requests that the store got, and those that it did.
        self.sent: list[str] = []
        self.done: list[str] = []

    def tearDown(self) -> None:
        super().tearDown()
        self.clock.pump([SECONDS, SECONDS])
        self.assertEqual(len(self.outbox), 0)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def send(self, *names: str, size: int = 0, again: bool = True) -> None:
        """Send requests with these names."""
        for name in names:
            self.outbox.send(partial(self.request, name), size, again=again)

    def request(self, name: str) -> Deferred[None]:
        self.sent.append(name)
        if not self.is_up:
            return fail(StoreUnreachable())
        self.done.append(name)
        return succeed(None)

    def send_again(self) -> None:
        self.successResultOf(Deferred.fromCoroutine(self.outbox.send_again()))

    def test_request_is_sent_at_once(self) -> None:
        """A request is sent at once, and not kept if it succeeds."""
        self.send("a")
        self.assertEqual(self.done, ["a"])
        self.assertEqual((len(self.outbox), self.outbox.failed), (0, 0))
        self.send_again()
        self.assertEqual(self.sent, ["a"])

    def test_failed_requests_are_sent_again_in_order(self) -> None:
        """Requests that failed are sent again in their order, each once."""
        self.is_up = False
        self.send("a", "b", "c")
        self.assertEqual((len(self.outbox), self.outbox.failed), (3, 3))
        self.is_up = True
        self.send_again()
        self.send_again()
        self.assertEqual(self.done, ["a", "b", "c"])
        self.assertEqual((len(self.outbox), self.outbox.failed), (0, 3))

    def test_request_that_fails_again_is_kept(self) -> None:
        """A request that fails again is kept for the next time."""
        self.is_up = False
        self.send("a")
        self.send_again()
        self.assertEqual((self.sent, len(self.outbox), self.outbox.failed), (["a", "a"], 1, 2))
        self.is_up = True
        self.send_again()
        self.assertEqual(self.done, ["a"])

    def test_request_of_no_later_use_is_not_kept(self) -> None:
        """A request that is of no use later is counted, and not kept."""
        self.is_up = False
        self.send("a", again=False)
        self.assertEqual((len(self.outbox), self.outbox.failed), (0, 1))

    def test_kept_request_expires(self) -> None:
        """A request is not sent again after its time."""
        self.is_up = False
        self.send("a")
        self.clock.pump([SECONDS, 1])
        self.is_up = True
        self.send_again()
        self.assertEqual(self.done, [])

    def test_oldest_request_is_dropped_at_the_limits(self) -> None:
        """At the limit of bytes, and at that of the number, the oldest requests are dropped."""
        self.is_up = False
        self.send("a", "b", "c", size=149 * OVERHEAD)
        self.assertEqual(len(self.outbox), 2)
        self.is_up = True
        self.send_again()
        self.assertEqual(self.done, ["b", "c"])
        self.is_up = False
        self.send(*(f"{number}" for number in range(302)))
        self.is_up = True
        self.send_again()
        self.assertEqual(self.done[2:], [f"{number}" for number in range(2, 302)])

    def test_many_requests_are_sent_in_chunks(self) -> None:
        """Many requests are sent in chunks; each chunk waits for the one before it."""
        self.is_up = False
        self.send(*(f"{number}" for number in range(CHUNK)))
        first: Deferred[None] = Deferred()
        requests = [first]
        self.outbox.send(lambda: requests.pop() if self.is_up else fail(StoreUnreachable()))
        self.send("last")
        # The first request of the second chunk.
        self.is_up = True
        running = Deferred.fromCoroutine(self.outbox.send_again())
        self.assertEqual((len(self.done), requests), (CHUNK + 1, []))
        self.assertNoResult(running)
        first.callback(None)
        self.successResultOf(running)

    def test_any_other_error_is_logged_and_not_kept(self) -> None:
        """A request that fails with another error is logged, and not sent again."""
        self.outbox.send(lambda: fail(RuntimeError("a bug")))
        self.assertEqual((len(self.outbox), self.outbox.failed), (0, 1))
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
