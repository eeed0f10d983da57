"""What clients are told when their wait ends, and how much is kept if nothing else is said."""

from typing import Any

from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from jobproxy.jobs.table import CorrelationTable
from jobproxy.upstream.retries import OnLost
from jobproxy.wire.jobs import Report
from jobproxy.wire.tokens import LIFETIME
from tests.support.proxy import ProxyTestCase, result_of


class WaitOverTests(ProxyTestCase):
    """Clients whose wait was too short."""

    settings: dict[str, Any] = {"starts_per_account": 1}

    def test_started(self) -> None:
        """B11: of a job that runs a client is told so; to send it again would make no sense."""
        self.submit()
        self.starts[0].ack("1")
        self.clock.advance(30)
        problem = self.assert_problem(self.clients[0].response, 504, "wait-over", started="yes")
        self.assertIn("was started", problem["detail"])
        self.assertNotIn("retry-after", self.clients[0].response.headers)

    def test_unknown(self) -> None:
        """S6: of a start in doubt a client is told so, and not that it should try again."""
        self.submit()
        self.starts[0].respond(b"", 500)
        self.clock.advance(2)
        response = self.clients[0].response
        self.assert_problem(response, 504, "start-unknown", started="unknown")
        self.assertNotIn("retry-after", response.headers)

    def test_queued(self) -> None:
        """B11, L1: a client whose job was never started is told that it may send it again."""
        self.submit()
        queued = self.submit()
        self.starts[0].respond(b"", 503, retry_after="29")
        self.clock.advance(29)
        self.starts[1].respond(b"", 503, retry_after="3600")
        self.clock.advance(1)
        problem = self.assert_problem(queued.response, 504, "wait-over")
        self.assertIn("was not started", problem["detail"])
        self.assertEqual(queued.response.headers["retry-after"], "1")
        self.assertEqual(len(self.starts), 2)


class StoppedTests(ProxyTestCase):
    """Clients that are held when the proxy stops."""

    def test_may_come_again(self) -> None:
        """G1, G3: who is held at the end is told that it may come again after a second."""
        client = self.submit()
        self.starts[0].ack("1")
        self.table.startService()
        self.table.stopService()
        problem = self.assert_problem(client.response, 503, "draining", started="yes")
        self.assertEqual(problem["id"], "1")
        self.assertEqual(client.response.headers["retry-after"], "1")


class DetachedTests(ProxyTestCase):
    """Jobs that go on although nobody waits."""

    def test_put_off_for_long(self) -> None:
        """Q3, S17: a job whose client does not wait is started after the longest pause too."""
        client = self.connect().request(headers={"Prefer": "respond-async, wait=1"})
        self.clock.advance(1)
        self.assertEqual(client.response.status, 202)
        self.starts[0].respond(b"", 503, retry_after="3000")
        self.clock.advance(2999.9)
        self.assertEqual(len(self.starts), 1)
        self.clock.advance(0.1)
        self.starts[1].respond(result_of("1"))
        found = self.connect().get(client.response.headers["location"]).response
        self.assertEqual(found.body, result_of("1"))


class TimedTests(ProxyTestCase):
    """How long jobs took, as the operator sees it."""

    def tell_times(self) -> list[str]:
        """Return how many jobs were timed, and their seconds in all."""
        text = self.operate().get("/metrics").response.body.decode()
        samples = dict(line.rsplit(" ", 1) for line in text.splitlines())
        return [samples[f"jobproxy_job_seconds_{what}"] for what in ("count", "sum")]

    def test_results(self) -> None:
        """B9: a job is timed from its request to its result, whenever that was."""
        for _ in range(2):
            self.clock.advance(4)
            self.submit()
            self.clock.advance(0.5)
            self.starts[-1].respond(result_of("1", "failed"))
        self.assertEqual(self.tell_times(), ["2.0", "1.0"])

    def test_no_results(self) -> None:
        """S15, B3: neither a job that was refused nor a result of an unknown one has a time."""
        self.submit()
        self.starts[0].respond(b"", 422)
        token = self.signer.mint().text
        late = self.connect().request(f"/callback/{token}", result_of("1")).response
        self.assertEqual((late.status, late.json), (200, {"status": "late"}))
        self.assertEqual(self.tell_times(), ["0.0", "0.0"])

    def test_lateness(self) -> None:
        """B5: the log says of a result how much too late it came, to the millisecond."""
        self.submit()
        self.starts[0].ack("1")
        self.clock.advance(30)
        self.assert_problem(self.clients[0].response, 504, "wait-over", started="yes")
        self.clock.advance(1.25)
        with capturedLogs() as events:
            self.call_back(self.starts[0], result_of("1"))
        self.assertIn("came 1.250 s too late", "\n".join(map(formatEvent, events)))

    def test_second_result(self) -> None:
        """B2: a second result unlike the first is refused, and the log says of which job."""
        self.submit()
        self.starts[0].respond(result_of("1"))
        with capturedLogs() as events:
            refused = self.call_back(self.starts[0], result_of("1", "failed"))
        self.assertEqual(refused.status, 409)
        job_id = self.starts[0].callback_path.split("/")[-1].split(".")[0]
        logged = "\n".join(map(formatEvent, events))
        self.assertIn(f"job {job_id} got a second result", logged)


class RestartedTests(ProxyTestCase):
    """Jobs that were started more often than twice, as no word of them came."""

    settings = {"on_lost": OnLost.RESTART, "lost_after": 5.0}

    def test_every_id_is_right(self) -> None:
        """B2, B8: of a job that was started three times each id is right; one result counts."""
        client = self.submit()
        for upstream_id in ("0", "1", "2"):
            self.starts[-1].ack(upstream_id)
            self.clock.advance(5)
        self.assertEqual(len(self.starts), 3)
        told = []
        for number, upstream_id in ((0, "0"), (1, "1"), (2, "2")):
            taken = self.call_back(self.starts[number], result_of(upstream_id))
            told.append((taken.status, taken.json["status"]))
        self.assertEqual(told, [(200, "accepted"), (200, "duplicate"), (200, "duplicate")])
        self.assertEqual(client.response.body, result_of("0"))


class KeptTests(SynchronousTestCase):
    """How much is kept of results that nobody got, if nothing else is said."""

    def keep(self, number: int, body: bytes) -> CorrelationTable:
        """Return a table to which so many results came, after their clients had left."""
        clock = Clock()
        table = CorrelationTable(clock, 300)
        for job_id in range(number):
            table.complete(f"{job_id}", Report(body, None, "completed"))
        self.addCleanup(clock.advance, LIFETIME)
        return table

    def test_bytes(self) -> None:
        """B4: 64 MiB are kept, and 1 KiB is counted for each result besides its body."""
        table = self.keep(1_025, bytes(63 * 1_024))
        self.assertEqual(
            (table.retention.retained, table.retention.retained_bytes), (1_024, 64 * 2**20)
        )
        self.assertIsNone(table.find("0"))
        self.assertIsNotNone(table.find("1"))

    def test_size_of_both_kinds(self) -> None:
        """B2, B4: what is kept for those who may ask is counted together with orphans."""
        table = self.keep(2, bytes(100))
        record = table.find("0")
        assert record is not None
        self.successResultOf(table.clients.wait(record, 1))
        self.assertEqual((len(table.retention.orphans), table.retention.retained), (1, 2))
        self.assertEqual(table.retention.retained_bytes, 2 * (1_024 + 100))
