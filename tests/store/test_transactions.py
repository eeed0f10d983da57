"""Transactions: what waits is written together, and what fails does not harm the rest."""

import sqlite3
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from jobproxy.store.interface import StoreUnreachable
from jobproxy.store.transactions import MAX_PARTS, Transactions
from tests.support.restarts import Thread


class TransactionsTests(SynchronousTestCase):
    """A database in memory, and a thread that works when it is told."""

    def setUp(self) -> None:
        self.clock, self.thread = Clock(), Thread()
        self.thread.hangs = True
        self.database = sqlite3.connect(":memory:", isolation_level=None)
        self.addCleanup(self.database.close)
        self.commits: list[str] = []
        self.database.execute("CREATE TABLE numbers (number INTEGER PRIMARY KEY)")
        self.database.set_trace_callback(self.commits.append)
        self.transactions = Transactions(self.clock, self.thread.call, 2.0, self.database)
        self.results: list[Any] = []

    def put(self, number: int) -> Deferred[None]:
        """Add a number; what becomes of it is noted in its turn."""

        def work(database: sqlite3.Connection) -> int:
            database.execute("INSERT INTO numbers VALUES (?)", (number,))
            return number

        adding = self.transactions.add(work)
        return adding.addBoth(self.results.append)

    def count(self, statement: str) -> int:
        """Return how often a statement was executed."""
        return self.commits.count(statement)

    def stored(self) -> list[int]:
        """Return the numbers that are stored."""
        return [row[0] for row in self.database.execute("SELECT number FROM numbers")]

    def test_what_waits_is_written_in_one_transaction(self) -> None:
        """All that came during a transaction is in the next one, in order."""
        for number in range(100):
            self.put(number)
        self.thread.go_on()
        self.assertEqual(self.results, list(range(100)))
        self.assertEqual(self.count("COMMIT"), 2)

    def test_transaction_has_a_bound(self) -> None:
        """A transaction has so many parts at most, so that nobody waits for long."""
        for number in range(2 * MAX_PARTS):
            self.put(number)
        self.thread.go_on()
        self.assertEqual(len(self.stored()), 2 * MAX_PARTS)
        self.assertEqual(self.count("COMMIT"), 3)

    def test_part_that_fails_does_not_harm_the_others(self) -> None:
        """K5: if a part fails, each other part is written in a transaction of its own."""
        for number in (1, 2, 1, 3):
            self.put(number)
        self.thread.go_on()
        self.assertEqual(self.stored(), [1, 2, 3])
        self.assertEqual([self.results[place] for place in (0, 1, 3)], [1, 2, 3])
        self.results[2].trap(StoreUnreachable)
        self.assertIsInstance(self.transactions.error, sqlite3.Error)
        self.transactions.forget_error()
        self.assertIsNone(self.transactions.error)

    def test_bug_in_a_part_is_not_the_fault_of_the_store(self) -> None:
        """An error that is none of SQLite's goes to who made it."""
        self.thread.hangs = False

        def work(_: sqlite3.Connection) -> None:
            raise KeyError("a bug")

        self.failureResultOf(self.transactions.add(work), KeyError)
        self.assertIsNone(self.transactions.error)

    def test_disk_that_hangs_fails_what_waits_in_time(self) -> None:
        """K5: after the timeout all that waits fails, and new work at once, until it goes on."""
        self.put(1)
        self.put(2)
        self.clock.advance(2)
        for result in self.results:
            result.trap(StoreUnreachable)
        self.failureResultOf(self.transactions.add(lambda _: None), StoreUnreachable)
        self.thread.go_on()
        # It was executed all the same; nobody knew.
        self.assertEqual(self.stored(), [1])
        self.put(3)
        self.assertEqual(self.results[2:], [3])

    def test_work_that_nobody_waits_for_is_done(self) -> None:
        """A caller may stop to wait; what it wanted is done, and the others get theirs."""
        self.put(1)
        self.put(2).cancel()
        self.put(3)
        self.thread.go_on()
        self.assertEqual(self.stored(), [1, 2, 3])
        self.assertEqual((self.results[1], self.results[2]), (1, 3))

    def test_close_waits_until_all_is_written(self) -> None:
        """Nothing that waits is lost by a close; nothing is taken after it."""
        self.put(1)
        closing = self.transactions.close()
        self.failureResultOf(self.transactions.add(lambda _: None), StoreUnreachable)
        self.assertNoResult(closing)
        self.thread.go_on()
        self.successResultOf(closing)
        self.assertEqual(self.results, [1])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_close_does_not_wait_for_a_disk_that_hangs(self) -> None:
        """The process can end although its disk does not respond."""
        self.put(1)
        closing = self.transactions.close()
        self.clock.advance(2)
        self.successResultOf(closing)
        self.successResultOf(self.transactions.close())
        self.thread.go_on()
