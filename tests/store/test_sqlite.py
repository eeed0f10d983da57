"""The store in a file over its life: opened late, cleaned up, away and back."""

import errno
import sqlite3
from contextlib import nullcontext
from pathlib import Path
from unittest import mock

from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.python.failure import Failure

from jobproxy.store.interface import Claim, StoreUnreachable
from jobproxy.store.orphans import START
from jobproxy.store.sqlite import SqliteStore
from jobproxy.store.sqlite_errors import BadStore
from jobproxy.store.sqlite_file import SqliteFile, ask
from jobproxy.store.sqlite_session import Session
from jobproxy.store.sqlite_statements import SWEEP_ROWS, SWEEP_SIZE
from jobproxy.store.times import TIMES
from tests.store.test_sqlite_file import NOW, FileTestCase
from tests.support.restarts import Thread
from tests.support.stores import RecordingListener

CLAIM = Claim("job", b"digest")


class StoreTests(FileTestCase):
    """One store, on a clock."""

    def setUp(self) -> None:
        super().setUp()
        self.clock, self.thread = Clock(), Thread()
        self.addCleanup(self.thread.drop)
        self.wall = NOW
        self.store = self.make_store(self.file)
        self.listener = RecordingListener()

    def tearDown(self) -> None:
        self.thread.go_on()
        self.successResultOf(self.store.close())
        self.clock.advance(0)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def make_store(self, file: SqliteFile) -> SqliteStore:
        session = Session(
            self.clock, file, self.thread.call, lambda: self.wall + self.clock.seconds(), TIMES
        )
        return SqliteStore(session, "node-one", 60.0, 100.0)

    def read_log(self) -> list[str]:
        """Open the store; return what is logged during three heartbeats."""
        with capturedLogs() as events:
            self.store.open(self.listener)
            for _ in range(3):
                self.clock.advance(TIMES.beat)
        return [event["log_format"].format(**event) for event in events]

    def test_store_waits_for_the_process_that_has_the_file(self) -> None:
        """G13: a second process says for whom it waits, and goes on once that one has ended."""
        first = SqliteFile(self.file.address)
        self.assertTrue(first.lock())
        (line,) = self.read_log()
        self.assertRegex(
            line, r"the store .*store.db is used by process \d+; waiting until it has ended"
        )
        self.assertFalse(self.store.is_up or self.store.is_joined)
        self.failureResultOf(self.store.find_claim(b"k"), StoreUnreachable)
        first.unlock()
        self.clock.advance(TIMES.beat)
        self.assertTrue(self.store.is_up and self.store.is_joined)
        self.assertEqual(self.listener.caught_up, 1)

    def test_work_waits_while_the_file_is_opened(self) -> None:
        """G15: what comes while the file is opened is done after that."""
        self.thread.hangs = True
        self.store.open(self.listener)
        claiming = self.store.claim(b"k", CLAIM)
        self.assertNoResult(claiming)
        self.thread.go_on()
        self.assertEqual(self.successResultOf(claiming), CLAIM)
        self.assertTrue(self.store.is_up)
        # It has not expired already, as it would if its time had been read from another clock.
        self.clock.advance(99)
        self.assertEqual(self.successResultOf(self.store.find_claim(b"k")), CLAIM)

    def test_work_does_not_wait_for_a_disk_that_hangs(self) -> None:
        """G15: if the file cannot be opened in time, or the process ends, what waits is refused."""
        self.thread.hangs = True
        self.store.open(self.listener)
        finding = self.store.find_claim(b"k")
        self.clock.advance(TIMES.answer)
        self.failureResultOf(finding, StoreUnreachable)
        self.failureResultOf(self.store.find_claim(b"k"), StoreUnreachable)
        self.thread.go_on()
        self.assertIsNone(self.successResultOf(self.store.find_claim(b"k")))
        self.successResultOf(self.store.close())
        self.store = self.make_store(SqliteFile(self.file.address))
        self.thread.hangs = True
        self.store.open(self.listener)
        finding = self.store.find_claim(b"k")
        self.successResultOf(self.store.close())
        self.failureResultOf(finding, StoreUnreachable)
        self.thread.go_on()
        self.clock.advance(TIMES.answer)
        self.store.open(self.listener)

    def test_file_that_gets_bad_while_another_process_has_it_is_reported(self) -> None:
        """G12: what is found only after the start is said in the log, and tried again."""
        self.path.write_bytes(b"my thesis\n" * 100)
        (line,) = self.read_log()
        self.assertIn("is not a database of SQLite", line)
        self.assertFalse(self.store.is_joined)
        self.path.unlink()
        self.clock.advance(TIMES.beat)
        self.assertTrue(self.store.is_joined)

    def test_file_that_cannot_be_locked_is_tried_again(self) -> None:
        """K5: a file system that grants no lock for a while ends nothing for good."""
        with mock.patch("fcntl.flock", side_effect=OSError(errno.ENOLCK, "No locks available")):
            (line,) = self.read_log()
        self.assertIn("store.db cannot be locked: No locks available", line)
        self.assertFalse(self.store.is_joined)
        self.clock.advance(TIMES.beat)
        self.assertTrue(self.store.is_joined)

    def test_full_disk_does_not_prevent_the_lock(self) -> None:
        """K5: the process number in the lock's file is for people; it may be missing."""
        full = OSError(errno.ENOSPC, "No space left on device")
        with mock.patch("os.pwrite", side_effect=full):
            self.assertEqual(self.read_log(), [])
        self.assertTrue(self.store.is_joined)

    def test_bug_does_not_end_the_care_for_the_file(self) -> None:
        """K5: whatever fails while the file is looked after, it is looked after again."""
        with mock.patch.object(SqliteFile, "connect", side_effect=RuntimeError("a bug")):
            lines = self.read_log()
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 4)
        self.assertIn("is not looked after", lines[0])
        self.clock.advance(TIMES.beat)
        self.assertTrue(self.store.is_joined)

    def test_disk_that_is_full_for_a_while_is_used_again(self) -> None:
        """K5: a full disk is said once; reading works on; once there is room, all is as before."""
        self.assertEqual(self.read_log(), [])
        self.store.claim(b"before", CLAIM)
        self.set_limit("1")
        with capturedLogs() as events:
            self.failureResultOf(self.store.put_note("job", b"x" * 100_000), StoreUnreachable)
            self.assertFalse(self.store.is_up)
            self.assertEqual(self.successResultOf(self.store.find_claim(b"before")), CLAIM)
            for _ in range(3):
                self.store.put_note("job", b"x" * 100_000).addErrback(lambda _: None)
                self.clock.advance(TIMES.beat)
        lines = [event["log_format"].format(**event) for event in events]
        self.assertIn("has reached its max-size, or the disk is full", lines[0])
        self.set_limit("1000000")
        self.clock.advance(TIMES.beat)
        self.assertTrue(self.store.is_up)
        self.successResultOf(self.store.put_note("job", b"x" * 100_000))
        self.assertGreaterEqual(self.listener.caught_up, 2)

    def test_what_has_expired_leaves_a_full_file_before_more_is_written(self) -> None:
        """K5: what could not be written is tried again when there is room, and not before."""
        retried: list[bool] = []

        class Persistent(RecordingListener):
            def catch_up(listener) -> Deferred[None]:  # noqa: N805 - the test is self
                def put(found: object = None) -> None:
                    retried.append(not isinstance(found, Failure))

                if not listener.caught_up:
                    return super().catch_up()
                writing = self.store.put_note("large", b"x" * 100_000)
                return writing.addBoth(put).addCallback(lambda _: None)

        self.listener = Persistent()
        self.assertEqual(self.read_log(), [])
        for number in range(10):
            self.successResultOf(self.store.put_note(f"job-{number}", b"x" * 20_000))
        self.set_limit("1")
        self.failureResultOf(self.store.put_note("large", b"x" * 100_000), StoreUnreachable)
        self.clock.advance(100_000)
        self.clock.pump([0.1] * 100)
        self.assertTrue(retried[-1])
        self.assertTrue(self.store.is_up)

    def spoil(self) -> None:
        """Have some work fail as it does if the file is damaged."""

        def fail(*_: object) -> None:
            raise sqlite3.DatabaseError("database disk image is malformed")

        self.failureResultOf(self.store._session.run(fail), StoreUnreachable)
        self.assertFalse(self.store.is_up)

    def beat(self, count: int) -> list[str]:
        """Let heartbeats pass; return what is logged."""
        with capturedLogs() as events:
            for _ in range(count):
                self.clock.advance(TIMES.beat)
        return [event["log_format"].format(**event) for event in events]

    def test_file_that_only_seemed_to_be_damaged_is_used_again(self) -> None:
        """K5: a disk that fails can look like damage: a file that is sound is opened again."""
        self.assertEqual(self.read_log(), [])
        self.successResultOf(self.store.claim(b"before", CLAIM))
        self.spoil()
        damaged, again = self.beat(3)
        self.assertIn("is damaged", damaged)
        self.assertIn("can be used again", again)
        self.assertTrue(self.store.is_up)
        self.assertEqual(self.successResultOf(self.store.find_claim(b"before")), CLAIM)

    def test_lock_is_kept_while_the_file_cannot_be_opened_again(self) -> None:
        """G13: a process that waits does not get the file of one that mends it, until that ends."""
        other = SqliteFile(self.file.address)
        self.assertEqual(self.read_log(), [])
        with mock.patch.object(SqliteFile, "connect", side_effect=BadStore("is damaged (a page)")):
            self.spoil()
            self.assertIn("is damaged (a page)", self.beat(3)[-1])
            self.assertFalse(other.lock())
            self.successResultOf(self.store.close())
        self.assertTrue(other.lock())
        other.unlock()
        self.store.open(self.listener)

    def test_lock_is_released_when_the_process_ends_while_it_opens_the_file_again(self) -> None:
        """G13: a file that is just being opened when the process ends is left to the next one."""
        other = SqliteFile(self.file.address)
        for is_bad in (False, True):
            self.assertEqual(self.read_log(), [])
            self.spoil()
            self.clock.advance(TIMES.beat)
            self.thread.hangs = True
            self.clock.advance(TIMES.beat)
            self.successResultOf(self.store.close())
            self.assertFalse(other.lock())
            refusal = BadStore("is damaged (a page)")
            with (
                mock.patch.object(SqliteFile, "connect", side_effect=refusal)
                if is_bad
                else (nullcontext())
            ):
                self.thread.go_on()
            self.assertTrue(other.lock())
            other.unlock()
            self.store = self.make_store(self.file)
        self.store.open(self.listener)

    def test_backup_of_a_damaged_file_can_be_restored_while_the_process_runs(self) -> None:
        """K5: as long as the file is damaged, all that needs it is refused; then it is used."""
        self.assertEqual(self.read_log(), [])
        self.successResultOf(self.store.claim(b"before", CLAIM))
        connection = sqlite3.connect(self.path)
        backup = self.path.with_name("backup")
        connection.execute("VACUUM INTO ?", (str(backup),))
        connection.close()
        for name in ("store.db", "store.db-wal"):
            self.path.with_name(name).write_bytes(b"garbage" * 10_000)
        self.spoil()
        lines = self.beat(4)
        self.assertEqual(len(lines), 2, lines)
        # Jobs without a key do not need it, and the node stays ready for them.
        self.assertEqual((self.store.is_up, self.store.is_joined), (False, True))
        self.assertIn("is not a database of SQLite, or is damaged", lines[1])
        self.failureResultOf(self.store.find_claim(b"before"), StoreUnreachable)
        for name in ("store.db", "store.db-wal", "store.db-shm"):
            self.path.with_name(name).unlink(missing_ok=True)
        self.assertIn("is gone or empty", self.beat(3)[0])
        self.failureResultOf(self.store.claim(b"before", CLAIM), StoreUnreachable)
        backup.rename(self.path)
        self.assertIn("can be used again", self.beat(3)[-1])
        self.assertEqual(self.successResultOf(self.store.find_claim(b"before")), CLAIM)

    def test_file_that_is_removed_or_replaced_is_noticed(self) -> None:
        """G12: nothing more is written to a file that the next process will not find."""
        log, other = self.path.with_name("store.db-wal"), self.path.with_name("other")
        for harm in (
            self.path.unlink,
            lambda: self.path.write_bytes(b""),
            lambda: other.write_bytes(b"") or other.replace(self.path),
            log.unlink,
        ):
            self.assertEqual(self.read_log(), [])
            self.successResultOf(self.store.claim(b"before", CLAIM))
            harm()
            with capturedLogs() as events:
                self.clock.advance(2 * TIMES.beat)
                self.clock.advance(2 * TIMES.beat)
            (line,) = [event["log_format"].format(**event) for event in events]
            self.assertIn("was removed or replaced while it was in use", line)
            self.assertFalse(self.store.is_up)
            self.failureResultOf(self.store.claim(b"k", CLAIM), StoreUnreachable)
            self.successResultOf(self.store.close())
            for path in self.path.parent.iterdir():
                path.unlink()
            self.store = self.make_store(self.file)
        self.store.open(self.listener)

    def test_lock_that_is_removed_or_replaced_is_noticed(self) -> None:
        """G13: once another process can lock the store, this one does not own it any more."""
        lock = Path(self.file.address.lock_path)
        other = lock.with_name("other")
        for harm in (lock.unlink, lambda: other.write_bytes(b"") or other.replace(lock)):
            self.assertEqual(self.read_log(), [])
            harm()
            (line,) = self.beat(3)
            self.assertIn("has lost its lock: store.db.lock was removed or replaced", line)
            self.assertFalse(self.store.is_up)
            self.failureResultOf(self.store.claim(b"k", CLAIM), StoreUnreachable)
            self.successResultOf(self.store.close())
            self.store = self.make_store(self.file)
        self.store.open(self.listener)

    def test_lock_that_is_lost_while_the_file_is_damaged_is_noticed(self) -> None:
        """G13: a process that has lost its lock does not open the file again."""
        self.assertEqual(self.read_log(), [])
        self.spoil()
        Path(self.file.address.lock_path).unlink()
        self.assertIn("has lost its lock", self.beat(4)[-1])
        self.failureResultOf(self.store.find_claim(b"k"), StoreUnreachable)

    def set_limit(self, pages: str) -> None:
        """Set how many pages the file may have; it keeps those that it has."""

        def limit(connection: object, _: float) -> None:
            ask(connection, f"PRAGMA max_page_count = {pages}")  # type: ignore[arg-type]

        self.successResultOf(self.store._session.run(limit))

    def test_what_has_expired_is_removed_in_small_steps(self) -> None:
        """All rows go when their time is over, some at a time, and leave room for new ones."""
        self.store.open(self.listener)
        claims = [(b"%d" % number, evolve(CLAIM, job_id=f"{number}")) for number in range(1_200)]
        self.successResultOf(self.store.put_claims_again(claims))
        self.successResultOf(self.store.put_result("job", b"{}", [], is_orphan=True))
        for rows in (1_200, 1_200 - SWEEP_ROWS, 1_200 - 2 * SWEEP_ROWS, 0):
            self.assertEqual(self.count_claims(), rows)
            self.clock.advance(101 if rows == 1_200 else 0.05)
        self.assertEqual(self.successResultOf(self.store.list_orphans(9, START)), [])

    def test_large_results_that_have_expired_are_removed_in_small_steps(self) -> None:
        """A step removes few large rows, and one at least, so that nothing waits for long."""
        self.store.open(self.listener)
        for number in range(3):
            body = b"x" * (SWEEP_SIZE // 2 if number else 2 * SWEEP_SIZE)
            self.successResultOf(self.store.put_result(f"{number}", body, [], is_orphan=False))
            self.clock.advance(0.01)
        for rows in (3, 2, 0):
            self.assertEqual(self.count("jobs"), rows)
            self.clock.advance(61 if rows == 3 else 0.05)

    def count_claims(self) -> int:
        return self.count("claims")

    def count(self, table: str) -> int:
        counting = self.store._session.run(lambda db, _: ask(db, f"SELECT count(*) FROM {table}"))
        return int(self.successResultOf(counting))

    def test_step_of_the_wall_clock_ends_nothing(self) -> None:
        """T5: while the process runs, only the time that has passed counts."""
        self.store.open(self.listener)
        self.successResultOf(self.store.claim(b"k", CLAIM))
        self.wall += 2 * 86_400
        self.assertEqual(self.successResultOf(self.store.find_claim(b"k")), CLAIM)
        self.clock.advance(101)
        self.assertIsNone(self.successResultOf(self.store.find_claim(b"k")))

    def test_expired_claim_can_be_claimed_before_it_is_removed(self) -> None:
        """A claim whose time is over does not count, although it is still in the file."""
        self.store.open(self.listener)
        self.successResultOf(self.store.claim(b"k", CLAIM))
        self.thread.hangs = True
        self.clock.advance(101)
        other = evolve(CLAIM, job_id="other")
        claiming = self.store.claim(b"k", other)
        self.thread.go_on()
        self.assertEqual(self.successResultOf(claiming), other)
