"""Retention: which records are kept without a client, for how long and how many."""

from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from jobproxy.jobs.delivery import Delivery
from jobproxy.jobs.retention import OVERHEAD, Bounds
from jobproxy.jobs.table import CorrelationTable
from jobproxy.wire.reports import Report
from jobproxy.wire.tokens import LIFETIME
from tests.support.proxy import ProxyTestCase, result_of
from tests.support.table import ACK, BUG, RESULT, RETAIN, TableTestCase


class RetainedTests(TableTestCase):
    """The records that no client waits for."""

    def test_collected_orphan_is_retained_as_an_outcome(self) -> None:
        """B4: an orphan that a client asked for is none any more, and is retained from then on."""
        self.complete_late("a")
        record = self.table.find("a")
        assert record is not None
        self.clock.advance(RETAIN - 1)
        self.assertEqual(list(self.table.retention.orphans), [record])
        self.successResultOf(self.table.clients.wait(record, 30))
        self.assertEqual(list(self.table.retention.orphans), [])
        self.assertIsNone(self.table.retention.find_orphan("a"))
        self.table.retention.drop_orphan("a")
        self.clock.advance(RETAIN - 1)
        self.assertIs(self.successResultOf(self.table.clients.wait(record, 30)).result, RESULT)
        self.clock.advance(1)
        self.assertIsNone(self.table.find("a"))

    def test_oldest_unattended_job_is_forgotten_at_the_limit(self) -> None:
        """Q16: of the jobs without clients the oldest is forgotten at the limit, without harm."""
        self.table = CorrelationTable(self.clock, RETAIN, bounds=Bounds(number=1))
        records = []
        for job_id in "ab":
            record, waiting = self.hold(job_id)
            self.table.send(record)
            waiting.cancel()
            self.failureResultOf(waiting)
            records.append(record)
        self.assertIsNone(self.table.find("a"))
        self.assertEqual(len(self.table), 1)
        self.table.fail(records[0], BUG)
        self.table.acknowledge(records[0], ACK)
        self.assertIsNone(self.table.find("a"))
        self.complete_late("a")
        self.assertEqual([record.job_id for record in list(self.table.retention.orphans)], ["a"])

    def test_oldest_outcome_is_forgotten_at_the_byte_limit(self) -> None:
        """B2: outcomes are limited in bytes: the oldest one is forgotten; orphans count apart."""
        big = Report(b"x" * 4_000, None, "completed")
        self.table = CorrelationTable(
            self.clock, RETAIN, bounds=Bounds(size=2 * (OVERHEAD + 4_000))
        )
        for job_id in "abc":
            _, waiting = self.hold(job_id)
            self.table.complete(job_id, big)
            self.successResultOf(waiting)
        self.assertEqual([job_id for job_id in "abc" if self.table.find(job_id)], ["b", "c"])
        # Orphans have a limit of the same size.
        self.complete_late("d", big)
        self.assertEqual([job_id for job_id in "abcd" if self.table.find(job_id)], ["b", "c", "d"])


class LoggedTests(ProxyTestCase):
    """What the log says of orphans."""

    def test_log_says_how_late_a_result_came(self) -> None:
        """B5: the log says how late a result came, to the millisecond."""
        self.submit()
        self.starts[0].ack("1")
        self.clock.advance(30)
        self.assert_problem(self.clients[0].response, 504, "wait-over", started="yes")
        self.clock.advance(1.25)
        with capturedLogs() as events:
            self.call_back(self.starts[0], result_of("1"))
        self.assertIn("came 1.250 s too late", "\n".join(map(formatEvent, events)))


class DefaultLimitTests(SynchronousTestCase):
    """How much is retained by default."""

    def make_table(self, number: int, body: bytes) -> CorrelationTable:
        """Return a table that got so many results, each for no client."""
        clock = Clock()
        table = CorrelationTable(clock, 300)
        for job_id in range(number):
            table.complete(f"{job_id}", Report(body, None, "completed"))
        self.addCleanup(clock.advance, LIFETIME)
        return table

    def test_64_mib_of_results_are_retained(self) -> None:
        """B4: 64 MiB of results are retained, with 1 KiB for each besides its body."""
        table = self.make_table(1_025, bytes(63 * 1_024))
        self.assertEqual(
            (table.retention.retained, table.retention.retained_bytes), (1_024, 64 * 2**20)
        )
        self.assertIsNone(table.find("0"))
        self.assertIsNotNone(table.find("1"))

    def test_acks_of_jobs_without_a_client_are_counted_and_bounded(self) -> None:
        """L13: the acks of jobs that no client waits for count in the bytes that are kept."""
        table = CorrelationTable(Clock(), 300, bounds=Bounds(number=100, size=20_000))
        ack = Report(bytes(4_000), "1", "running")
        for number in range(50):
            record = table.create(str(number), lambda: None)
            waiting = table.clients.wait(record, 30, ack_is_enough=True, takes_state=True)
            table.send(record)
            if number % 2:
                table.clients.dismiss(*record.waiters)
            table.acknowledge(record, ack)
            self.assertTrue(waiting.called or number % 2)
            self.assertLessEqual(table.retention.retained_bytes, 20_000)
        self.assertGreater(table.retention.retained_bytes, 3 * 4_000)
        self.assertEqual(len(table), len(table.retention.unattended))
        table.stopService()

    def test_late_ack_does_not_prolong_the_time_of_its_job(self) -> None:
        """A job that no client waits for is kept from when its client left, not from its ack."""
        clock = Clock()
        table = CorrelationTable(clock, 300, lifetime=100)
        record = table.create("a", lambda: None)
        table.clients.wait(record, 30)
        table.send(record)
        table.clients.dismiss(*record.waiters)
        clock.advance(60)
        table.acknowledge(record, Report(b"{}", "1", "running"))
        clock.advance(40)
        self.assertIsNone(table.find("a"))
        self.assertEqual(clock.getDelayedCalls(), [])

    def test_retained_bytes_are_of_outcomes_and_orphans(self) -> None:
        """B2, B4: the retained bytes are those of outcomes and orphans together."""
        table = self.make_table(2, bytes(100))
        record = table.find("0")
        assert record is not None
        self.successResultOf(table.clients.wait(record, 1))
        self.assertEqual((len(table.retention.orphans), table.retention.retained), (1, 2))
        self.assertEqual(table.retention.retained_bytes, 2 * (1_024 + 100))


class UnattendedTests(SynchronousTestCase):
    """Jobs that have not ended, without a client."""

    def test_job_is_not_forgotten_while_a_client_waits(self) -> None:
        """Q16: a job is not forgotten while a client waits, however long none did before."""
        clock = Clock()
        table = CorrelationTable(clock, 300)
        record = table.create("a", lambda: None)
        first = table.clients.wait(record, 30)
        table.send(record)
        first.cancel()
        self.failureResultOf(first)
        clock.advance(LIFETIME - 1)
        second = table.clients.wait(record, 30)
        clock.advance(2)
        self.assertIs(table.find("a"), record)
        result = Report(b"{}", None, "completed")
        self.assertIs(table.complete("a", result)[0], Delivery.ACCEPTED)
        self.assertIs(self.successResultOf(second).result, result)
        clock.advance(300)
        self.assertIsNone(table.find("a"))
