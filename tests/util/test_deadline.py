"""Deadlines: never too early, never far too late, and met by all that has arrived in time."""

from collections.abc import Callable

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from jobproxy.util.deadline import Deadline
from tests.support.proxy import ProxyTestCase, result_of

#: The longest queue of connections that a socket of ours is told to have.
BACKLOG = 4_096


class Loop(Clock):
    """A clock whose timers run as Twisted's do: in each turn those that are due, then the rest."""

    def turn(self, rest: Callable[[], object] = lambda: None) -> None:
        for call in list(self.calls):
            if call.getTime() <= self.seconds() and call.active():
                self.calls.remove(call)
                call.called = 1
                call.func(*call.args, **call.kw)
        rest()

    def stall(self, seconds: float) -> None:
        """Have time pass without a turn."""
        self.rightNow += seconds


class LoopTestCase(SynchronousTestCase):
    """A deadline in ten seconds."""

    def setUp(self) -> None:
        super().setUp()
        self.loop = Loop()
        self.calls: list[float] = []
        self.deadline = Deadline(self.loop, 10, self.call)

    def call(self) -> None:
        self.calls.append(self.loop.seconds())

    def check_spent(self) -> None:
        """Check that it has been called once, and will not be called again."""
        self.assertEqual(len(self.calls), 1)
        self.assertEqual(self.loop.getDelayedCalls(), [])
        self.deadline.cancel()


class TimeTests(LoopTestCase):
    """When it is called."""

    def test_on_time(self) -> None:
        """B11: it is called at its time, and once."""
        self.assertEqual(self.deadline.at, 10)
        self.loop.advance(9.75)
        self.assertEqual(self.calls, [])
        self.loop.advance(0.25)
        self.assertEqual(self.calls, [10])
        self.loop.advance(100)
        self.check_spent()

    def test_cancelled(self) -> None:
        """What is cancelled is not called, neither before its time nor in the last turn."""
        self.deadline.cancel()
        self.loop.advance(20)
        self.deadline.cancel()
        late = Deadline(self.loop, 10, self.call)
        self.loop.stall(10)
        self.loop.turn(late.cancel)
        self.assertEqual((self.calls, self.loop.getDelayedCalls()), ([], []))

    def test_brought_forward(self) -> None:
        """S6: it may be brought forward, and never put off."""
        self.deadline.bring_forward(4)
        for at in (4, 5, 20):
            self.deadline.bring_forward(at)
        self.assertEqual(self.deadline.at, 4)
        self.loop.advance(3.75)
        self.assertEqual(self.calls, [])
        self.loop.advance(0.25)
        self.assertEqual(self.calls, [4])
        self.check_spent()

    def test_brought_forward_to_the_past(self) -> None:
        """S6: with no grace at all it is called soon, but not from within."""
        self.loop.advance(5)
        self.deadline.bring_forward(4)
        self.assertEqual(self.calls, [])
        self.loop.advance(0)
        self.check_spent()

    def test_brought_forward_in_its_last_turns(self) -> None:
        """S6: what has come to its time already is called soon, whatever it is moved to."""
        self.loop.stall(10)
        self.loop.turn(lambda: self.deadline.bring_forward(9))
        self.loop.advance(0)
        self.check_spent()


class TurnTests(LoopTestCase):
    """T3: what lies in the kernel when the time has come."""

    def turns_until_called(self) -> int:
        turns = 0
        while not self.calls:
            turns += 1
            self.loop.turn()
        return turns

    def check_met_in_turn(self, number: int) -> None:
        """Check that what is read in a turn after the time still counts."""
        for _ in range(number - 1):
            self.loop.turn()
        self.assertEqual(self.calls, [])
        self.loop.turn(self.deadline.cancel)
        self.loop.advance(10)
        self.assertEqual((self.calls, self.loop.getDelayedCalls()), ([], []))

    def test_on_a_connection(self) -> None:
        """T3: what has arrived on a connection is read first."""
        self.loop.stall(10)
        self.check_met_in_turn(1)

    def test_on_a_new_connection(self) -> None:
        """T3: what has arrived on a connection that must be accepted first is read first too."""
        self.loop.stall(10)
        self.check_met_in_turn(2)

    def test_after_a_stall(self) -> None:
        """T3: after a stall all connections that a socket can queue are accepted and read first."""
        self.loop.stall(11)
        waiting, at_once, turns = BACKLOG, 1, 0
        while waiting > 0:
            # As twisted.internet.tcp.Port does it.
            waiting, at_once, turns = waiting - at_once, at_once + 20, turns + 1
        self.check_met_in_turn(turns + 1)

    def test_ends(self) -> None:
        """B11: it is called within few turns all the same, after a stall too."""
        self.loop.stall(10)
        self.assertLess(self.turns_until_called(), 50)
        self.check_spent()
        self.calls.clear()
        self.deadline = Deadline(self.loop, 10, self.call)
        self.loop.stall(3_600)
        self.assertLess(self.turns_until_called(), 50)
        self.check_spent()


class ProxyDeadlineTests(ProxyTestCase):
    """Deadlines of clients and of start calls."""

    def test_callback_at_the_deadline(self) -> None:
        """T3: a callback that comes at the very moment is the answer."""
        client = self.submit()
        self.starts[0].ack("1")
        self.clock.callLater(30, self.call_back, self.starts[0], result_of("1"))
        self.clock.advance(31)
        self.assertEqual(client.response.body, result_of("1"))

    def test_ack_at_its_deadline(self) -> None:
        """S8, T3: an ack that comes at the very moment is usable."""
        client = self.submit()
        self.clock.callLater(10, self.starts[0].respond, result_of("1"))
        self.clock.advance(11)
        self.assertEqual(client.response.body, result_of("1"))

    def test_each_has_its_own(self) -> None:
        """B11: each client is answered when its own time is over."""
        clients = []
        for number in range(3):
            clients.append(self.submit(f"{number}"))
            self.starts[-1].ack(f"{number}")
            self.clock.advance(1)
        self.clock.advance(26.5)
        for count in range(4):
            is_held = [client.is_held for client in clients]
            self.assertEqual(is_held, [False] * count + [True] * (3 - count))
            self.clock.advance(1)
        self.assertEqual([client.response.status for client in clients], [504] * 3)
