"""What clients are told when their wait ends, and how much is kept if nothing else is said."""

from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from jobproxy.correlation import LIFETIME, CorrelationTable
from jobproxy.messages import Report
from tests.support import ProxyTestCase, result_of


class WaitOverTests(ProxyTestCase):
    """Clients whose wait was too short."""

    options: dict[str, Any] = {"per_account": 1}

    def test_started(self) -> None:
        """B11: of a job that runs a client is told so; to send it again would make no sense."""
        self.submit()
        self.starts[0].ack("1")
        self.clock.advance(30)
        problem = self.assert_problem(self.clients[0].answer, 504, "wait-over", started="yes")
        self.assertIn("was started", problem["detail"])
        self.assertNotIn("retry-after", self.clients[0].answer.headers)

    def test_unknown(self) -> None:
        """S6: of a start in doubt a client is told so, and not that it should try again."""
        self.submit()
        self.starts[0].answer(b"", 500)
        self.clock.advance(2)
        answer = self.clients[0].answer
        self.assert_problem(answer, 504, "start-unknown", started="unknown")
        self.assertNotIn("retry-after", answer.headers)

    def test_queued(self) -> None:
        """B11, L1: a client whose job was never started is told that it may send it again."""
        self.submit()
        queued = self.submit()
        self.starts[0].answer(b"", 503, retry_after="29")
        self.clock.advance(29)
        self.starts[1].answer(b"", 503, retry_after="3600")
        self.clock.advance(1)
        problem = self.assert_problem(queued.answer, 504, "wait-over")
        self.assertIn("was not started", problem["detail"])
        self.assertEqual(queued.answer.headers["retry-after"], "1")
        self.assertEqual(len(self.starts), 2)


class StoppedTests(ProxyTestCase):
    """Clients that are held when the proxy stops."""

    def test_may_come_again(self) -> None:
        """G1, G3: who is held at the end is told that it may come again after a second."""
        client = self.submit()
        self.starts[0].ack("1")
        self.table.startService()
        self.table.stopService()
        problem = self.assert_problem(client.answer, 503, "draining", started="yes")
        self.assertEqual(problem["id"], "1")
        self.assertEqual(client.answer.headers["retry-after"], "1")


class DetachedTests(ProxyTestCase):
    """Jobs that go on although nobody waits."""

    def test_put_off_for_long(self) -> None:
        """Q3, S17: a job whose client does not wait is started after the longest pause too."""
        client = self.connect().request(headers={"Prefer": "respond-async, wait=1"})
        self.clock.advance(1)
        self.assertEqual(client.answer.status, 202)
        self.starts[0].answer(b"", 503, retry_after="3000")
        self.clock.advance(2999.9)
        self.assertEqual(len(self.starts), 1)
        self.clock.advance(0.1)
        self.starts[1].answer(result_of("1"))
        found = self.connect().get(client.answer.headers["location"]).answer
        self.assertEqual(found.body, result_of("1"))


class KeptTests(SynchronousTestCase):
    """How much is kept of results that nobody got, if nothing else is said."""

    def keep(self, number: int, body: bytes) -> CorrelationTable:
        """Return a table to which so many results came, after their clients had left."""
        clock = Clock()
        table = CorrelationTable(clock, 300)
        for handle in range(number):
            table.complete(f"{handle}", Report(body, None, "completed"))
        self.addCleanup(clock.advance, LIFETIME)
        return table

    def test_bytes(self) -> None:
        """B4: 64 MiB are kept, and 1 KiB is counted for each result besides its body."""
        table = self.keep(1_025, bytes(63 * 1_024))
        self.assertEqual((table.retained, table.retained_bytes), (1_024, 64 * 2**20))
        self.assertIsNone(table.find("0"))
        self.assertIsNotNone(table.find("1"))

    def test_size_of_both_kinds(self) -> None:
        """B2, B4: what is kept for those who may ask is counted together with orphans."""
        table = self.keep(2, bytes(100))
        entry = table.find("0")
        assert entry is not None
        self.successResultOf(table.wait(entry, 1))
        self.assertEqual((len(table.orphans()), table.retained), (1, 2))
        self.assertEqual(table.retained_bytes, 2 * (1_024 + 100))
