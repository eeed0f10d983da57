"""The table of a connection's phases, and how a connection goes through them."""

from itertools import product

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from jobproxy.http1.limits import ServerLimits
from jobproxy.http1.phases import (
    ARRIVING,
    DEAF,
    GOES_ON,
    READY,
    TRANSITIONS,
    UNREAD,
    Event,
    IllegalEvent,
    Phase,
    timeouts_of,
)
from jobproxy.monitoring.traffic import Traffic
from tests.support.http1_server import GET, Keeper, RawClient, head, make_server

#: Each phase, and what it makes of the events, in their order; ``.`` is illegal.
#: BEGIN, REST, START, RESPOND, CLOSE, REFUSE, BLOCK, UNBLOCK, TIME_OUT, LOSE.
TABLE = """
SILENT      READING  .           RESPONDING  .        CLOSING  LINGERING  BLOCKED  .           LEAVING  CLOSED
IDLE        READING  .           RESPONDING  .        CLOSING  LINGERING  BLOCKED  .           LEAVING  CLOSED
READING     READING  IDLE        AHEAD       .        .        .          BLOCKED  .           .        CLOSED
RESPONDING  AHEAD    .           .           IDLE     CLOSING  .          STALLED  .           .        CLOSED
AHEAD       AHEAD    RESPONDING  .           READING  CLOSING  .          STALLED  .           .        CLOSED
STALLED     .        .           .           BLOCKED  CLOSING  .          .        RESPONDING  .        CLOSED
BLOCKED     .        .           .           .        CLOSING  LINGERING  .        IDLE        .        CLOSED
LINGERING   .        .           .           .        .        .          .        .           .        CLOSED
CLOSING     .        .           .           .        .        .          .        .           .        CLOSED
LEAVING     .        .           .           .        .        .          .        .           .        CLOSED
CLOSED      .        .           .           .        .        .          .        .           .        .
"""  # noqa: E501
ROWS = {Phase[row.split()[0]]: row.split()[1:] for row in TABLE.strip().splitlines()}


class TableTests(SynchronousTestCase):
    """What follows from what."""

    def test_each_legal_event_leads_to_its_phase(self) -> None:
        """Each event that can happen in a phase leads to the phase that the table says."""
        for phase, event in product(Phase, Event):
            expected = ROWS[phase][event]
            if expected != ".":
                self.assertEqual(TRANSITIONS[phase, event].name, expected, (phase, event))

    def test_each_illegal_event_raises(self) -> None:
        """Each event that cannot happen in a phase raises an error that names both."""
        for phase, event in product(Phase, Event):
            if ROWS[phase][event] == ".":
                with self.assertRaisesRegex(IllegalEvent, f"{event.name} in .*{phase.name}"):
                    TRANSITIONS[phase, event]

    def test_each_phase_can_be_reached(self) -> None:
        """Each phase follows from the first one, by events that are legal."""
        reached = {Phase.SILENT}
        while more := {TRANSITIONS[key] for key in TRANSITIONS if key[0] in reached} - reached:
            reached |= more
        self.assertEqual(reached, set(Phase))

    def test_each_phase_has_a_timeout_unless_we_are_waited_for(self) -> None:
        """Every phase in which something is expected of the client has its limit's timeout."""
        limits = ServerLimits(
            silent_time=1, idle_time=2, request_time=3, linger_time=4, leave_time=5
        )
        self.assertEqual(
            timeouts_of(limits),
            {
                Phase.SILENT: 1,
                Phase.IDLE: 2,
                Phase.READING: 3,
                Phase.RESPONDING: None,
                Phase.AHEAD: 3,
                Phase.STALLED: 2,
                Phase.BLOCKED: 2,
                Phase.LINGERING: 4,
                Phase.CLOSING: 2,
                Phase.LEAVING: 5,
                Phase.CLOSED: None,
            },
        )

    def test_each_group_agrees_with_the_table(self) -> None:
        """What the groups of phases promise is what the table allows."""
        for phase in Phase:
            legal = {event for event in Event if (phase, event) in TRANSITIONS}
            self.assertEqual(phase in READY, Event.START in legal)
            self.assertEqual(phase in ARRIVING, Event.REST in legal)
            self.assertEqual(phase in UNREAD, Event.UNBLOCK in legal)
            self.assertEqual(phase in DEAF, legal <= {Event.LOSE})
        for before, after in GOES_ON:
            self.assertIn(before, ARRIVING)
            self.assertIn(after, ARRIVING)


class TimeoutTests(SynchronousTestCase):
    """How long a connection stays in each phase."""

    limits = ServerLimits(
        silent_time=1.0, idle_time=20.0, request_time=3.0, linger_time=4.0, leave_time=5.0
    )

    def setUp(self) -> None:
        super().setUp()
        self.clock, self.traffic, self.keeper = Clock(), Traffic(), Keeper()
        server = make_server(self.keeper, self.clock, self.traffic, self.limits)
        self.client = RawClient(server)

    def assert_ends_after(self, seconds: float) -> None:
        """Check that the connection stays as it is for so long, and then changes."""
        before = self.client.transport.value(), self.client.is_open
        self.clock.advance(seconds - 0.25)
        self.assertEqual((self.client.transport.value(), self.client.is_open), before)
        self.clock.advance(0.25)
        self.assertNotEqual((self.client.transport.value(), self.client.is_open), before)

    def test_silent_ends_after_silent_time(self) -> None:
        """A connection on which nothing came is closed after its own time."""
        self.assert_ends_after(1)
        self.assertEqual(self.traffic.refused, {"silent": 1})

    def test_reading_ends_with_408_after_request_time(self) -> None:
        """A request that does not come to its end gets 408, and then the client time to read it."""
        self.client.send(GET[:9])
        self.assert_ends_after(3)
        self.assertEqual(self.client.statuses, [408])
        self.assert_ends_after(4)
        self.assertTrue(self.client.transport.is_aborted)

    def test_responding_does_not_end(self) -> None:
        """A client is held for as long as the resource needs."""
        self.client.send(GET)
        self.clock.advance(1_000)
        self.assertTrue(self.client.is_held)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.keeper.requests[0].finish()
        self.assert_ends_after(20)

    def test_time_of_a_request_goes_on_when_the_one_before_gets_its_response(self) -> None:
        """A request that arrives behind a held one has no more time once that has its response."""
        self.client.send(GET)
        self.client.send(GET[:9])
        self.clock.advance(2)
        self.keeper.requests[0].finish()
        self.assertEqual(self.client.statuses, [200])
        self.assert_ends_after(1)
        self.assertEqual(self.client.statuses, [200, 408])

    def test_time_of_a_request_goes_on_when_the_one_before_is_started(self) -> None:
        """A request that comes in one segment with the end of another has its time from then on."""
        self.client.send(GET[:9])
        self.clock.advance(2)
        self.client.send(GET[9:] + GET[:9])
        self.clock.advance(2)
        self.keeper.requests[0].finish()
        self.assert_ends_after(1)
        self.assertEqual(self.client.statuses, [200, 408])

    def test_body_sent_without_its_100_has_a_timeout(self) -> None:
        """A client that waits for leave, and then begins to send without it, has the usual time."""
        self.client.send(GET)
        self.client.send(head(b"Expect: 100-continue", b"Content-Length: 15"))
        self.clock.advance(1_000)
        self.client.send(b"x")
        self.clock.advance(3)
        self.keeper.requests[0].finish()
        self.assertEqual(self.client.statuses, [200, 408])

    def test_stalled_response_ends_after_idle_time(self) -> None:
        """A response that was begun is cut off if its client does not read."""
        self.client.send(GET)
        self.client.transport.is_read = False
        self.keeper.requests[0].begin()
        self.keeper.requests[0].push(b"x" * 100_000)
        self.assert_ends_after(20)
        self.assertTrue(self.client.transport.is_aborted)
        self.assertEqual(self.traffic.refused, {"stalled": 1})

    def test_stalled_response_goes_on_once_it_is_read(self) -> None:
        """A response that was begun has no timeout again once its client has read."""
        self.client.send(GET)
        self.client.transport.is_read = False
        self.keeper.requests[0].begin()
        self.keeper.requests[0].push(b"x" * 100_000)
        self.keeper.requests[0].push(b"lost")
        self.clock.advance(19)
        self.client.transport.drain()
        self.clock.advance(1_000)
        self.assertTrue(self.client.is_open)
        self.keeper.requests[0].push(b"y")
        self.assertTrue(self.client.transport.value().endswith(b"xy"))
        self.keeper.requests[0].end()
        self.assertFalse(self.client.is_open)
        self.assertFalse(self.client.transport.is_aborted)

    def test_closing_ends_after_idle_time(self) -> None:
        """A last response that is not read is cut off."""
        self.client.transport.is_read = False
        self.client.send(head(b"Connection: close"))
        self.keeper.requests[0].finish()
        self.assert_ends_after(20)
        self.assertTrue(self.client.transport.is_aborted)

    def test_leaving_ends_after_leave_time(self) -> None:
        """A connection that was idle, and whose last response is not read, is cut off soon."""
        self.client.transport.is_read = False
        self.client.send(GET)
        self.keeper.requests[0].finish()
        self.clock.advance(20)
        self.assertTrue(self.client.is_open)
        self.assert_ends_after(5)
        self.assertTrue(self.client.transport.is_aborted)

    def tearDown(self) -> None:
        super().tearDown()
        self.client.leave()
        self.assertEqual(self.clock.getDelayedCalls(), [])
