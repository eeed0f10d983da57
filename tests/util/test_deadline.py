"""Deadline: on time, once, and after all that arrived in time was read."""

from collections.abc import Callable

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from jobproxy.util.deadline import MAX_GRACE, MIN_TURNS, TURNS, Deadline
from tests.support.proxy import ProxyTestCase, result_of

#: The largest listen backlog of our sockets.
BACKLOG = 4_096


class Loop(Clock):
    """A clock whose timers run as Twisted's: in each turn those that are due, then the sockets."""

    def turn(self, rest: Callable[[], object] = lambda: None) -> None:
        for call in list(self.calls):
            if call.getTime() <= self.seconds() and call.active():
                self.calls.remove(call)
                call.called = 1
                call.func(*call.args, **call.kw)
        rest()

    def stall(self, seconds: float) -> None:
        """Let time pass without a turn."""
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
        """Check that the function was called once, and will not be called again."""
        self.assertEqual(len(self.calls), 1)
        self.assertEqual(self.loop.getDelayedCalls(), [])
        self.deadline.cancel()


class TimeTests(LoopTestCase):
    """When the function is called."""

    def test_function_is_called_once_at_its_time(self) -> None:
        """B11: the function is called at the deadline's time, and once."""
        self.assertEqual(self.deadline.at, 10)
        self.loop.advance(9.75)
        self.assertEqual(self.calls, [])
        self.loop.advance(0.25)
        self.assertEqual(self.calls, [10])
        self.loop.advance(100)
        self.check_spent()

    def test_cancelled_deadline_calls_nothing(self) -> None:
        """A cancelled deadline calls nothing, neither before its time nor in the last turn."""
        self.deadline.cancel()
        self.loop.advance(20)
        self.deadline.cancel()
        late = Deadline(self.loop, 10, self.call)
        self.loop.stall(10)
        self.loop.turn(late.cancel)
        self.assertEqual((self.calls, self.loop.getDelayedCalls()), ([], []))

    def test_deadline_moves_only_to_an_earlier_time(self) -> None:
        """S6: a deadline can be moved to an earlier time, never to a later one."""
        self.deadline.bring_forward(4)
        for at in (4, 5, 20):
            self.deadline.bring_forward(at)
        self.assertEqual(self.deadline.at, 4)
        self.loop.advance(3.75)
        self.assertEqual(self.calls, [])
        self.loop.advance(0.25)
        self.assertEqual(self.calls, [4])
        self.check_spent()

    def test_deadline_moved_to_the_past_calls_in_the_next_turn(self) -> None:
        """S6: a deadline that is moved to the past calls soon, but not within bring_forward."""
        self.loop.advance(5)
        self.deadline.bring_forward(4)
        self.assertEqual(self.calls, [])
        self.loop.advance(0)
        self.check_spent()

    def test_deadline_moved_in_its_last_turns_calls_soon(self) -> None:
        """S6: a deadline whose time has come calls soon, also when it is moved then."""
        self.loop.stall(10)
        self.loop.turn(lambda: self.deadline.bring_forward(9))
        self.loop.advance(0)
        self.check_spent()


class TurnTests(LoopTestCase):
    """T3: bytes that lie in the kernel when the time has come."""

    def turns_until_called(self) -> int:
        turns = 0
        while not self.calls:
            turns += 1
            self.loop.turn()
        return turns

    def check_met_in_turn(self, number: int) -> None:
        """Check that a cancel in this turn after the time still counts."""
        for _ in range(number - 1):
            self.loop.turn()
        self.assertEqual(self.calls, [])
        self.loop.turn(self.deadline.cancel)
        self.loop.advance(10)
        self.assertEqual((self.calls, self.loop.getDelayedCalls()), ([], []))

    def test_open_connections_are_read_before_the_call(self) -> None:
        """T3: bytes that have arrived on an open connection are read first."""
        self.loop.stall(10)
        self.check_met_in_turn(1)

    def test_new_connection_is_accepted_and_read_before_the_call(self) -> None:
        """T3: bytes that have arrived on a connection not yet accepted are read first too."""
        self.loop.stall(10)
        self.check_met_in_turn(2)

    def test_full_backlog_is_accepted_and_read_after_a_stall(self) -> None:
        """T3: after a stall all connections that a socket can queue are accepted and read first."""
        self.loop.stall(11)
        waiting, at_once, turns = BACKLOG, 1, 0
        while waiting > 0:
            # As twisted.internet.tcp.Port does it.
            waiting, at_once, turns = waiting - at_once, at_once + 20, turns + 1
        self.check_met_in_turn(turns + 1)

    def test_long_turns_delay_the_call_by_little(self) -> None:
        """T7: under load, when turns are long, the call comes after a few of them."""
        self.loop.stall(10)
        turns = 0
        while not self.calls:
            turns += 1
            self.loop.turn(lambda: self.loop.stall(0.1))
        self.assertLess(turns, TURNS)
        self.assertLessEqual(self.calls[0], 10 + MAX_GRACE + 0.11)

    def test_very_long_turns_are_still_some(self) -> None:
        """T7: however long they are, what has arrived is read first."""
        self.loop.stall(10)
        turns = 0
        while not self.calls:
            turns += 1
            self.loop.turn(lambda: self.loop.stall(10))
        self.assertEqual(turns, MIN_TURNS + 1)

    def test_call_comes_within_few_turns_after_a_stall(self) -> None:
        """B11: the function is called within few turns, after a stall too."""
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

    def test_callback_at_the_deadline_is_the_response(self) -> None:
        """T3: a callback that arrives at the very moment of the deadline is the response."""
        client = self.submit()
        self.starts[0].ack("1")
        self.clock.callLater(30, self.call_back, self.starts[0], result_of("1"))
        self.clock.advance(31)
        self.assertEqual(client.response.body, result_of("1"))

    def test_ack_at_its_deadline_is_usable(self) -> None:
        """S8, T3: an ack that arrives at the very moment of its deadline is usable."""
        client = self.submit()
        self.clock.callLater(10, self.starts[0].respond, result_of("1"))
        self.clock.advance(11)
        self.assertEqual(client.response.body, result_of("1"))

    def test_each_client_has_its_own_deadline(self) -> None:
        """B11: each client gets a response when its own time is over."""
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
