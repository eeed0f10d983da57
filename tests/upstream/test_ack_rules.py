"""Acks: who is content with one, what they start a time for, and which are odd, in memory."""

from collections.abc import Sequence
from typing import Any

from twisted.internet.task import Clock
from twisted.logger import LogEvent, capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from jobproxy.jobs.delivery import Delivery
from jobproxy.jobs.table import CorrelationTable
from jobproxy.upstream.retries import OnLost
from jobproxy.wire.jobs import Report
from jobproxy.wire.tokens import LIFETIME
from tests.support.proxy import Client, ProxyTestCase, result_of


class ContentTests(ProxyTestCase):
    """Clients that want to know no more than that their job runs."""

    def send(self, **headers: str) -> Client:
        """Have a client send a job, always with the same key."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.connect().request(headers={"Idempotency-Key": "k", **named})

    def test_joins_after_the_ack(self) -> None:
        """Q3, Q16: who joins a job that runs and is told so at once can come for its result."""
        held = self.send()
        self.starts[0].ack("1")
        content = self.send(Prefer="respond-async")
        self.assertEqual(content.response.status, 202)
        held.leave()
        self.call_back(self.starts[0], result_of("1"))
        self.assertEqual(self.operate().get("/orphans").response.json["orphans"], [])
        found = self.connect().get(content.response.headers["location"]).response
        self.assertEqual(found.body, result_of("1"))

    def test_last_one(self) -> None:
        """G1, Q3: once the last client that is held has its ack, nobody is."""
        self.connect().request(headers={"Prefer": "respond-async"})
        idle = self.table.clients.when_idle()
        self.assertNoResult(idle)
        self.starts[0].ack("1")
        self.successResultOf(idle)
        self.call_back(self.starts[0], result_of("1"))

    def test_time_of_a_result(self) -> None:
        """S13: an ack that is the result ends the start too, and the client is told when."""
        client = self.submit()
        self.clock.advance(0.25)
        self.starts[0].respond(result_of("1"))
        timing = client.response.headers["server-timing"]
        self.assertEqual(timing, "queue;dur=0.000, start;dur=250.000, job;dur=0.000")


class JoinedLateTests(SynchronousTestCase):
    """Jobs that were nearly forgotten when somebody came for them."""

    def test_is_not_forgotten(self) -> None:
        """Q16: a job is not forgotten as long as somebody waits, however long nobody did."""
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
        self.assertIs(table.complete("a", result), Delivery.ACCEPTED)
        self.assertIs(self.successResultOf(second).result, result)
        clock.advance(300)
        self.assertIsNone(table.find("a"))


class LoggedTests(ProxyTestCase):
    """What the operator is told of acks, and of jobs after them."""

    settings: dict[str, Any] = {"on_lost": OnLost.RESTART, "lost_after": 5.0}

    def acknowledge(self, ack: bytes) -> str:
        """Have a start be answered, and return what was logged then; finish the job."""
        self.submit()
        with capturedLogs() as events:
            self.starts[-1].respond(ack)
        self.call_back(self.starts[-1], result_of("1"))
        return tell(events)

    def test_states(self) -> None:
        """S14: a state that nobody knows is logged, and none of the known ones nor a lack of it."""
        for ack in (b'{"id":"1"}', b'{"id":"1","state":"running"}', result_of("1")):
            self.assertNotIn("unknown state", self.acknowledge(ack))
        self.assertIn("an unknown state", self.acknowledge(b'{"id":"1","state":"odd"}'))

    def test_lost(self) -> None:
        """B10, B11: a job is called lost when it is started again, and not while it tells news."""
        self.submit()
        self.starts[0].ack("1")
        with capturedLogs() as events:
            for _ in range(3):
                self.clock.advance(4)
                self.call_back(self.starts[0], result_of("1", "running"))
        self.assertNotIn("lost", tell(events))
        with capturedLogs() as events:
            self.clock.advance(5)
        self.assertIn("is lost; starting it again", tell(events))
        self.starts[1].respond(result_of("1"))


def tell(events: Sequence[LogEvent]) -> str:
    """Return what was logged."""
    return "\n".join(map(formatEvent, events))
