"""What a callback means for its job: which are accepted, and which are refused."""

from twisted.logger import capturedLogs, formatEvent

from jobproxy.jobs.delivery import Delivery
from jobproxy.jobs.table import CorrelationTable
from jobproxy.upstream.retries import OnLost
from jobproxy.wire.problems import Kind, ProblemError
from jobproxy.wire.reports import Report
from tests.support.proxy import ProxyTestCase, result_of
from tests.support.table import ACK, BUG, RESULT, TableTestCase


class JudgementTests(TableTestCase):
    """Callbacks of jobs in one state or another."""

    def test_callback_with_another_upstream_id_changes_nothing(self) -> None:
        """B8: if ids count, a callback with another upstream id is refused, whatever its state."""
        self.table = CorrelationTable(self.clock, 300, strict_ids=True)
        record, waiting = self.hold()
        self.table.send(record)
        self.table.acknowledge(record, ACK)
        for state in ("running", "completed"):
            self.assertTrue(self.table.complete("a", Report(b"{}", "2", state))[0].is_refused)
        self.assertNoResult(waiting)
        self.table.complete("a", RESULT)
        self.assertEqual(self.successResultOf(waiting).upstream_id, "1")

    def test_job_gets_the_upstream_id_of_its_callback(self) -> None:
        """S12: if the ack has no upstream id, the job gets that of the callback."""
        record, waiting = self.hold()
        self.table.send(record)
        self.table.acknowledge(record, Report(b"{}", None, None))
        self.table.complete("a", RESULT)
        self.assertEqual(self.successResultOf(waiting).upstream_id, "1")
        again, _ = self.table.complete("a", Report(RESULT.body, "2", "completed"))
        self.assertIs(again, Delivery.DUPLICATE)

    def test_both_upstream_ids_of_a_restarted_job_are_accepted(self) -> None:
        """B2: a job that was started twice accepts both upstream ids; the first result counts."""
        record, waiting = self.hold()
        for upstream_id in ("1", "2"):
            self.table.send(record)
            self.table.acknowledge(record, Report(b"{}", upstream_id, "running"))
        self.assertIs(self.table.complete("a", RESULT)[0], Delivery.ACCEPTED)
        other = Report(b'{"id":"2"}', "2", "completed")
        self.assertIs(self.table.complete("a", other)[0], Delivery.DUPLICATE)
        self.assertIs(self.successResultOf(waiting).result, RESULT)

    def test_result_replaces_a_problem(self) -> None:
        """B5: a result replaces the problem that ended the job, and is retained."""
        record, waiting = self.hold()
        self.table.fail(record, BUG)
        first = self.failureResultOf(waiting, ProblemError).value
        second = self.failureResultOf(self.table.clients.wait(record, 30), ProblemError).value
        self.assertIs(first.problem, second.problem)
        self.assertIsNot(first, second)
        self.complete_late("a")
        self.assertEqual(self.table.retention.find_orphan("a"), RESULT.body)
        self.assertIs(self.successResultOf(self.table.clients.wait(record, 30)).result, RESULT)

    def test_late_callback_becomes_an_orphan(self) -> None:
        """B5: a result after the deadline of the only client is late, and becomes an orphan."""
        record, waiting = self.hold()
        self.table.send(record)
        self.table.acknowledge(record, ACK)
        self.clock.advance(30)
        self.problem_of(waiting, Kind.WAIT_OVER)
        self.complete_late("a")
        self.assertEqual(self.table.retention.find_orphan("a"), RESULT.body)

    def test_callback_is_accepted_while_any_client_waits(self) -> None:
        """B5: a result that is late for one client is accepted if another one waits."""
        record, first = self.hold()
        self.table.send(record)
        self.clock.advance(30)
        self.problem_of(first, Kind.START_UNKNOWN)
        second = self.table.clients.wait(record, 30)
        self.assertIs(self.table.complete("a", RESULT)[0], Delivery.ACCEPTED)
        self.assertIs(self.successResultOf(second).result, RESULT)
        self.assertIsNone(self.table.retention.find_orphan("a"))


class LoggedTests(ProxyTestCase):
    """What the log says of callbacks."""

    def test_other_second_result_is_logged_with_its_job(self) -> None:
        """B2: a second result that differs changes nothing, and the log names the job."""
        self.submit()
        self.starts[0].respond(result_of("1"))
        with capturedLogs() as events:
            receipt = self.call_back(self.starts[0], result_of("1", "failed"))
        self.assertEqual((receipt.status, receipt.json), (200, {"status": "duplicate"}))
        logged = "\n".join(map(formatEvent, events))
        self.assertIn(f"job {self.starts[0].job_id} got a second result", logged)


class RestartedTests(ProxyTestCase):
    """Jobs that were started more than twice."""

    settings = {"on_lost": OnLost.RESTART, "lost_after": 5.0}

    def test_all_upstream_ids_of_a_restarted_job_are_accepted(self) -> None:
        """B2, B8: a job that was started three times accepts all upstream ids."""
        client = self.submit()
        for upstream_id in ("0", "1", "2"):
            self.starts[-1].ack(upstream_id)
            self.clock.advance(5)
        self.assertEqual(len(self.starts), 3)
        responses = []
        for number, upstream_id in ((0, "0"), (1, "1"), (2, "2")):
            response = self.call_back(self.starts[number], result_of(upstream_id))
            responses.append((response.status, response.json["status"]))
        expected = [(200, "accepted"), (200, "duplicate"), (200, "duplicate")]
        self.assertEqual(responses, expected)
        self.assertEqual(client.response.body, result_of("0"))
