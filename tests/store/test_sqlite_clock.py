"""The clock of a store in a file, while the wall clock jumps and processes come and go."""

import os
import sqlite3
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from attrs import define
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from jobproxy.store.inspection import export
from jobproxy.store.interface import Claim
from jobproxy.store.sqlite import SqliteStore
from jobproxy.store.sqlite_address import read_sqlite_address
from jobproxy.store.sqlite_clock import SAVE_INTERVAL
from jobproxy.store.sqlite_file import MIGRATIONS, SqliteFile, ask
from jobproxy.store.sqlite_session import Session
from jobproxy.store.times import TIMES
from tests.support.restarts import Thread
from tests.support.stores import RecordingListener

NOW = 1_435_592_056.0
#: Seconds that claims and results are kept.
KEY_LIFE, RETAIN = 100.0, 60.0
HOUR, DAY = 3_600.0, 86_400.0
#: Seconds that the store's clock may lose by a kill.
LOSS = SAVE_INTERVAL + TIMES.beat
EXAMPLES = int(os.environ.get("TEST_EXAMPLES", "80"))


class Machine:
    """A machine on which one process after another uses the same file.

    :ivar wall: how far its wall clock is from the time.
    :ivar seconds: the time.
    :ivar used: seconds for which a process has used the file.
    :ivar kills: how many processes were killed.
    """

    def __init__(self, stack: ExitStack) -> None:
        self.path = Path(stack.enter_context(TemporaryDirectory())) / "store.db"
        self.wall = self.seconds = self.used = 0.0
        self.kills, self.is_up = 0, False
        self._clock, self._thread = Clock(), Thread()
        self.start()
        stack.callback(self.end)

    def start(self) -> None:
        self.file = SqliteFile(read_sqlite_address(f"{self.path}?synchronous=normal"))
        session = Session(self._clock, self.file, self._thread.call, self.read_wall, TIMES)
        self.store = SqliteStore(session, "node-one", RETAIN, KEY_LIFE)
        self.store.open(RecordingListener())
        self.is_up = True

    def read_wall(self) -> float:
        return NOW + self.seconds + self.wall

    def advance(self, seconds: float) -> None:
        """Let time pass for the process."""
        self.seconds += seconds
        self.used += seconds
        self._clock.advance(seconds)

    def end(self) -> None:
        """Stop the process in good order, if there is one."""
        if self.is_up:
            self.store.close()
        self.is_up = False
        self._thread.drop()

    def kill(self) -> None:
        self.kills += 1
        self._thread.drop()
        self.file.unlock()
        # What is scheduled ends with the process.
        self._clock = Clock()

    def restart(self, away: float = 0.0, *, kill: bool = True) -> None:
        """End the process, and start another one so many seconds later; its monotonic clock
        begins anew, as that of a machine that has booted.
        """
        self.kill() if kill else self.end()
        self.seconds += away
        self._clock = Clock()
        self.start()

    def claim(self, key: bytes) -> None:
        claim = Claim(key.decode(), b"digest")
        found: list[Claim] = []
        self.store.claim(key, claim).addCallback(found.append)
        assert found == [claim]

    def has(self, key: bytes) -> bool:
        found: list[Claim | None] = []
        self.store.find_claim(key).addCallback(found.append)
        return found[0] is not None


@define
class Written:
    """When a claim was written, see :class:`Machine`."""

    seconds: float
    used: float
    kills: int


class SteppedClocks(RuleBasedStateMachine):
    """Steps of the wall clock, restarts, kills and reboots, in any order.

    A claim has to be found until its life is over. It may be found later than that only for the
    time in which no process used the file, and for the last seconds of processes that were killed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.machine = Machine(self.stack)
        self.written: list[Written] = []

    def teardown(self) -> None:
        self.stack.close()

    @rule()
    def write(self) -> None:
        now = self.machine
        now.claim(b"%d" % len(self.written))
        self.written.append(Written(now.seconds, now.used, now.kills))

    @rule(seconds=st.floats(0, 2 * KEY_LIFE))
    def pass_time(self, seconds: float) -> None:
        # Heartbeats come while it passes.
        for _ in range(10):
            self.machine.advance(seconds / 10)

    @rule(seconds=st.sampled_from([-NOW, -DAY, -HOUR, -5.0, 5.0, HOUR, 2 * DAY, 100 * DAY]))
    def step(self, seconds: float) -> None:
        self.machine.wall = seconds

    @rule()
    def put_right(self) -> None:
        self.machine.wall = 0.0

    @rule(away=st.floats(0, 5 * KEY_LIFE), kill=st.booleans())
    def restart(self, away: float, *, kill: bool) -> None:
        self.machine.restart(away, kill=kill)

    @invariant()
    def nothing_expires_early_or_stays(self) -> None:
        now = self.machine
        for number, written in enumerate(self.written):
            is_there = now.has(b"%d" % number)
            assert is_there or now.seconds - written.seconds >= KEY_LIFE - 1e-3
            longest = KEY_LIFE + LOSS * (now.kills - written.kills)
            assert not is_there or now.used - written.used <= longest + 1e-3


TestSteppedClocks = SteppedClocks.TestCase
TestSteppedClocks.settings = settings(
    max_examples=EXAMPLES, stateful_step_count=20, deadline=None, print_blob=True
)


class StepTests(SynchronousTestCase):
    """The wall clocks of machines as they are found."""

    def setUp(self) -> None:
        self.stack = ExitStack()
        self.addCleanup(self.stack.close)
        self.machine = Machine(self.stack)

    def test_clock_that_is_behind_and_is_put_right_ends_nothing(self) -> None:
        """T5: what was written in 1970, or an hour ago, is there after the next restart."""
        for wall in (-NOW, -HOUR):
            machine = Machine(self.stack)
            machine.wall = wall
            machine.restart()
            machine.claim(b"k")
            machine.store.put_result("job", b"{}", [], is_orphan=False)
            machine.wall = 0
            machine.advance(RETAIN / 2)
            machine.restart()
            self.assertTrue(machine.has(b"k"))
            self.assertEqual(
                self.successResultOf(machine.store.collect_job("job")), (b"{}", None), wall
            )

    def test_clock_that_is_ahead_for_a_while_ends_nothing(self) -> None:
        """T5: a restart while it is ahead removes nothing; one after that keeps nothing longer."""
        machine = self.machine
        machine.claim(b"k")
        machine.wall = 2 * DAY
        machine.restart()
        machine.advance(TIMES.beat)
        machine.claim(b"later")
        machine.wall = 0
        machine.restart()
        self.assertTrue(machine.has(b"k") and machine.has(b"later"))
        machine.advance(KEY_LIFE + 2 * LOSS)
        self.assertFalse(machine.has(b"k") or machine.has(b"later"))

    def test_step_while_the_process_runs_changes_no_later_row(self) -> None:
        """T5: what is written after a step lives as long as what was written before it."""
        machine = self.machine
        for wall in (-DAY, DAY, 0.0):
            machine.wall = wall
            machine.claim(b"%d" % wall)
            machine.restart()
            self.assertTrue(machine.has(b"%d" % wall))
            machine.advance(KEY_LIFE + LOSS)
            self.assertFalse(machine.has(b"%d" % wall))

    def test_time_without_a_process_does_not_count(self) -> None:
        """What was there when the process stopped is there after a day, for as long as was left."""
        machine = self.machine
        machine.claim(b"k")
        machine.advance(KEY_LIFE / 2)
        machine.restart(DAY, kill=False)
        self.assertTrue(machine.has(b"k"))
        machine.advance(KEY_LIFE / 2 + LOSS)
        self.assertFalse(machine.has(b"k"))

    def test_idle_process_writes_the_time_now_and_then(self) -> None:
        """Not each heartbeat is a write to the disk, but no kill makes much time pass again."""

        def read() -> float:
            with sqlite3.connect(machine.path) as connection:
                seconds: float = ask(connection, "SELECT value FROM meta WHERE name = 'time'")
            connection.close()
            return seconds

        machine, times = self.machine, set()
        for _ in range(50):
            machine.advance(TIMES.beat)
            times.add(read())
            self.assertLess(NOW + machine.used - read(), SAVE_INTERVAL)
        self.assertEqual(len(times), 50 * TIMES.beat // SAVE_INTERVAL + 1)

    def test_exported_times_are_those_of_the_wall_clock(self) -> None:
        """An operator reads Unix times, however the two clocks differ."""
        machine = self.machine
        machine.restart(DAY)
        machine.wall = HOUR
        machine.advance(SAVE_INTERVAL)
        machine.claim(b"k")
        (claim,) = export(str(machine.path))
        self.assertEqual(claim["expires"], machine.read_wall() + KEY_LIFE)

    def test_file_of_the_version_before_keeps_what_is_in_it(self) -> None:
        """Its times were those of the wall clock at the last start; that may be wrong now."""
        for wall, is_there in ((0.0, True), (-DAY, True), (KEY_LIFE + 1, False)):
            machine = Machine(self.stack)
            machine.end()
            machine.path.unlink()
            SqliteFile(machine.file.address, MIGRATIONS[:2]).connect(NOW).close()
            connection = sqlite3.connect(machine.path, isolation_level=None)
            connection.execute("DELETE FROM meta")
            connection.execute("INSERT INTO meta VALUES ('started', ?)", (NOW,))
            connection.execute(
                "INSERT INTO claims VALUES (x'6b', 'job', x'01', 0, ?)", (NOW + KEY_LIFE,)
            )
            self.assertEqual(ask(connection, "PRAGMA user_version"), 2)
            connection.close()
            machine.wall = wall
            machine.restart(kill=False)
            self.assertEqual(machine.has(b"k"), is_there)
            machine.advance(KEY_LIFE)
            self.assertFalse(machine.has(b"k"))
