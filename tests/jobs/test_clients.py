"""Waiting clients: which response they get, and when."""

import sys
from types import FrameType
from typing import Any

from twisted.internet.defer import Deferred

from jobproxy.jobs.delivery import Delivery
from jobproxy.jobs.record import JobRecord
from jobproxy.wire.problems import Kind
from jobproxy.wire.tokens import LIFETIME
from tests.support.clients import Client
from tests.support.proxy import ProxyTestCase, result_of
from tests.support.table import ACK, RESULT, TableTestCase


class WaitingTests(TableTestCase):
    """Clients and their Deferreds."""

    def test_all_clients_of_a_job_get_its_result(self) -> None:
        """Q16: all clients of a job get its one result; one that leaves does not end the wait."""
        record, first = self.hold()
        second, third = self.table.clients.wait(record, 10), self.table.clients.wait(record, 10)
        self.assertEqual(self.table.clients.held, 3)
        first.cancel()
        self.failureResultOf(first)
        self.assertEqual((self.table.clients.held, len(self.table)), (2, 1))
        self.assertIs(self.table.complete("a", RESULT)[0], Delivery.ACCEPTED)
        for waiting in (second, third):
            self.assertIs(self.successResultOf(waiting).result, RESULT)

    def test_each_client_of_many_costs_the_same(self) -> None:
        """L15: to hold, dismiss or answer a client costs the same, however many there are."""
        few, many = (self.count_steps(number) for number in (50, 500))
        self.assertLess(many, 2 * 10 * few)

    def count_steps(self, number: int) -> int:
        """Return how many steps of Python so many polls of a queued job take."""
        steps = 0

        def trace(frame: FrameType, event: str, argument: Any) -> Any:
            nonlocal steps
            # The clock of the tests sorts its calls.
            if "/jobproxy/jobs/" not in frame.f_code.co_filename:
                return None
            frame.f_trace_opcodes = True
            steps += 1
            return trace

        record, held = self.hold(f"of {number}")
        sys.settrace(trace)
        try:
            polls = [self.table.clients.wait(record, 9, is_poll=True) for _ in range(number)]
            for poll in polls[::2]:
                poll.cancel()
            self.table.complete(record.job_id, RESULT)
        finally:
            sys.settrace(None)
        for poll in polls[::2]:
            self.failureResultOf(poll)
        for waiting in (held, *polls[1::2]):
            self.assertIs(self.successResultOf(waiting).result, RESULT)
        return steps

    def test_fired_client_finds_the_job_ended(self) -> None:
        """A client whose Deferred fires finds the job ended and its result retained."""
        found: list[object] = []
        record, waiting = self.hold()

        def look(_: object) -> None:
            found.extend((len(self.table), self.table.retention.retained, self.table.clients.held))
            found.append(self.successResultOf(self.table.clients.wait(record, 30)).result)

        waiting.addCallback(look)
        self.table.complete("a", RESULT)
        self.assertEqual(found, [0, 1, 0, RESULT])

    def test_client_that_asked_for_the_ack_gets_it(self) -> None:
        """Q3: a client that asked only for the ack gets it at once, also if it came before."""
        record, held = self.hold()
        waiting = self.table.clients.wait(record, 30, ack_is_enough=True)
        self.table.send(record)
        self.assertNoResult(waiting)
        self.table.acknowledge(record, ACK)
        self.assertIs(self.successResultOf(waiting).ack, ACK)
        again = self.table.clients.wait(record, 30, ack_is_enough=True)
        self.assertIs(self.successResultOf(again), record)
        self.assertNoResult(held)
        self.table.complete("a", RESULT)
        self.successResultOf(held)
        self.assertIsNone(record.ack)

    def test_grace_never_moves_a_deadline_back(self) -> None:
        """S6: the grace after an ambiguous start ends at the client's deadline at the latest."""
        jobs = {seconds: self.hold(f"{seconds}") for seconds in (2, 60)}
        for seconds, (record, _) in jobs.items():
            self.table.send(record)
            self.table.doubt(record)
            self.table.clients.shorten(record, seconds)
        self.clock.advance(2)
        self.problem_of(jobs[2][1], Kind.START_UNKNOWN)
        self.assertNoResult(jobs[60][1])
        self.clock.advance(28)
        self.problem_of(jobs[60][1], Kind.START_UNKNOWN)

    def test_table_can_stop_when_the_last_client_is_fired(self) -> None:
        """G1: the table can stop as soon as no client is held, and nothing stays."""
        for end in (self.end_by_result, self.end_by_leaving, self.end_by_deadline):
            record, waiting = self.hold()
            self.table.send(record)
            self.table.startService()
            self.table.clients.when_idle().addCallback(lambda _: self.table.stopService())
            end(record, waiting)
            self.assertEqual(
                (len(self.table), self.table.retention.retained, self.table.clients.held), (0, 0, 0)
            )
            self.assertEqual(self.clock.getDelayedCalls(), [])

    def end_by_result(self, record: JobRecord, waiting: Deferred[JobRecord]) -> None:
        self.table.complete("a", RESULT)
        self.assertIs(self.successResultOf(waiting).result, RESULT)

    def end_by_leaving(self, record: JobRecord, waiting: Deferred[JobRecord]) -> None:
        waiting.cancel()
        self.failureResultOf(waiting)

    def end_by_deadline(self, record: JobRecord, waiting: Deferred[JobRecord]) -> None:
        self.clock.advance(30)
        self.problem_of(waiting, Kind.START_UNKNOWN)

    def test_idle_deferred_fires_once_no_client_is_held(self) -> None:
        """G1: the idle Deferred fires once no client is held, and can be cancelled."""
        self.successResultOf(self.table.clients.when_idle())
        _, first = self.hold("a")
        _, second = self.hold("b")
        idle, given_up = self.table.clients.when_idle(), self.table.clients.when_idle()
        given_up.cancel()
        self.failureResultOf(given_up)
        self.table.complete("a", RESULT)
        self.assertNoResult(idle)
        self.table.complete("b", RESULT)
        self.successResultOf(idle)
        self.successResultOf(first)
        self.successResultOf(second)

    def test_queued_job_ends_at_its_last_deadline(self) -> None:
        """B11: a job that is still queued at its last client's deadline ends unstarted."""
        record, waiting = self.hold(seconds=10)
        other = self.table.clients.wait(record, 20)
        self.clock.advance(10)
        problem = self.problem_of(waiting, Kind.WAIT_OVER)
        self.assertEqual((problem.started, problem.job_id, self.cancelled), ("unknown", "a", []))
        self.clock.advance(10)
        self.assertEqual(self.problem_of(other, Kind.WAIT_OVER).started, "no")
        self.assertEqual(self.cancelled, ["a"])
        self.problem_of(self.table.clients.wait(record, 30), Kind.WAIT_OVER)

    def test_queued_job_with_only_polls_left_ends(self) -> None:
        """Q15: a queued job for which only polls are left ends, and the polls get its problem."""
        record, waiting = self.hold()
        poll = self.table.clients.wait(record, 10, is_poll=True)
        waiting.cancel()
        self.failureResultOf(waiting)
        self.problem_of(poll, Kind.WAIT_OVER)
        self.clock.advance(LIFETIME)
        self.assertIsNone(self.table.find("a"))


class DeadlineTests(ProxyTestCase):
    """Clients whose deadline came before the result."""

    settings: dict[str, Any] = {"starts_per_account": 1}

    def test_client_of_a_running_job_gets_started_yes(self) -> None:
        """B11: the 504 for a running job says that it was started, and has no Retry-After."""
        self.submit()
        self.starts[0].ack("1")
        self.clock.advance(30)
        problem = self.assert_problem(self.clients[0].response, 504, "wait-over", started="yes")
        self.assertIn("was started", problem["detail"])
        self.assertNotIn("retry-after", self.clients[0].response.headers)

    def test_client_of_an_unconfirmed_job_gets_started_unknown(self) -> None:
        """S6: the 504 after an ambiguous start says so, and has no Retry-After."""
        self.submit()
        self.starts[0].respond(b"", 500)
        self.clock.advance(2)
        response = self.clients[0].response
        self.assert_problem(response, 504, "start-unknown", started="unknown")
        self.assertNotIn("retry-after", response.headers)

    def test_client_of_a_queued_job_gets_started_no(self) -> None:
        """B11, L1: the 504 for a job that was never started has a Retry-After."""
        clients = [self.submit() for _ in range(3)]
        for start in self.starts:
            start.respond(b"", 503, retry_after="29")
        self.assertTrue(all(client.is_held for client in clients))
        self.clock.advance(28)
        self.limiter.pause("example", 5)
        self.clock.advance(2)
        for client in clients:
            problem = self.assert_problem(client.response, 504, "wait-over")
            self.assertIn("was not started", problem["detail"])
            self.assertEqual(client.response.headers["retry-after"], "1")


class StoppedTests(ProxyTestCase):
    """Clients that are held when the proxy stops."""

    def test_client_held_at_the_stop_gets_a_retry_after(self) -> None:
        """G1, G3: a client that is held at the stop can try again after a second."""
        client = self.submit()
        self.starts[0].ack("1")
        self.table.startService()
        self.table.stopService()
        problem = self.assert_problem(client.response, 503, "draining", started="yes")
        self.assertEqual(problem["id"], "1")
        self.assertEqual(client.response.headers["retry-after"], "1")


class UnattendedTests(ProxyTestCase):
    """Jobs that continue without any client."""

    def test_unattended_job_is_started_after_the_longest_pause(self) -> None:
        """Q3, S17: a job without a held client is started after the longest pause too."""
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


class AckTests(ProxyTestCase):
    """Clients that ask for no more than the ack."""

    def send(self, **headers: str) -> Client:
        """Send a job as a client, always with the same key."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.connect().request(headers={"Idempotency-Key": "k", **named})

    def test_client_that_joins_for_the_ack_can_ask_for_the_result(self) -> None:
        """Q3, Q16: a client that joins a running job for its ack can ask for the result later."""
        held = self.send()
        self.starts[0].ack("1")
        joined = self.send(Prefer="respond-async")
        self.assertEqual(joined.response.status, 202)
        held.leave()
        self.call_back(self.starts[0], result_of("1"))
        self.assertEqual(self.operate().get("/orphans").response.json["orphans"], [])
        found = self.connect().get(joined.response.headers["location"]).response
        self.assertEqual(found.body, result_of("1"))

    def test_no_client_is_held_once_the_last_one_has_its_ack(self) -> None:
        """G1, Q3: no client is held once the last one has its ack."""
        self.connect().request(headers={"Prefer": "respond-async"})
        idle = self.table.clients.when_idle()
        self.assertNoResult(idle)
        self.starts[0].ack("1")
        self.successResultOf(idle)
        self.call_back(self.starts[0], result_of("1"))
