"""The start of a job, with its attempts, pauses and restarts."""

from itertools import count
from typing import Any

from attrs import evolve
from twisted.logger import capturedLogs, formatEvent

from jobproxy.app.environment import Environment
from jobproxy.upstream.retries import OnLost, RetryMode
from tests.support.busy import BusyTestCase
from tests.support.clients import Client
from tests.support.job_server import Start
from tests.support.proxy import ProxyTestCase, result_of
from tests.support.start_outcomes import GraceTestCase


class AmbiguousTests(GraceTestCase):
    """Starts that are ambiguous, and the callbacks that come nevertheless."""

    def test_callback_within_the_grace_is_the_response(self) -> None:
        """S6: a callback within the grace is the response."""
        client = self.submit()
        self.starts[0].respond(b"", 500)
        self.clock.advance(1.9)
        self.call_back(self.starts[0], result_of("1"))
        self.assertEqual(client.response.body, result_of("1"))

    def test_callback_after_the_grace_is_late(self) -> None:
        """S6: a callback after the grace is late; the job was started after all."""
        client = self.submit()
        self.starts[0].respond(b"", 500)
        self.check_grace(client)
        late = self.call_back(self.starts[0], result_of("1"))
        self.assertEqual((late.status, late.json), (200, {"status": "late"}))
        self.assertEqual(len(client.responses), 1)

    def test_grace_ends_with_the_deadline(self) -> None:
        """S6: the grace holds no client beyond its deadline."""
        client = self.connect().request(headers={"Prefer": "wait=1"})
        self.starts[0].respond(b"", 500)
        self.clock.advance(1)
        self.assert_problem(client.response, 504, "start-unknown", started="unknown")

    def test_ambiguous_start_is_sent_once(self) -> None:
        """S6, S18: an ambiguous start is not sent again, however long the client waits."""
        client = self.submit()
        self.starts[0].respond(b"", 500)
        self.check_grace(client)
        self.clock.advance(60)
        self.assertEqual(len(self.starts), 1)


class EndedTests(ProxyTestCase):
    """Starts that have ended."""

    def test_job_that_was_not_started_leaves_only_its_retention(self) -> None:
        """S15, S19: a job that was not started leaves no timer but that of its retention."""
        for status in (422, 307):
            client = self.submit()
            self.starts[-1].respond(b"", status)
            client.leave()
        self.assertEqual([call.getTime() for call in self.clock.getDelayedCalls()], [300.0])


class PausedAccountTests(BusyTestCase):
    """An account that the job server accepts no jobs of for some time."""

    settings: dict[str, Any] = {"starts_per_account": 1}

    def finish(self, *numbers: int) -> None:
        """Respond to start requests, each with a result of its own."""
        for number in numbers:
            self.starts[number].respond(result_of(str(number)))

    def test_paused_account_sends_nothing_and_keeps_its_order(self) -> None:
        """S17: a paused account sends nothing, and keeps the order of its jobs."""
        first, queued = self.submit(), self.submit()
        self.starts[0].respond(b"", 503, retry_after="7")
        later = self.submit()
        self.clock.advance(6.9)
        self.assertEqual(len(self.starts), 1)
        self.clock.advance(0.1)
        self.assertEqual(len(self.starts), 2)
        self.finish(1, 2, 3)
        bodies = [client.response.body for client in (first, queued, later)]
        self.assertEqual(bodies, [result_of("1"), result_of("2"), result_of("3")])

    def test_other_accounts_are_served_during_a_pause(self) -> None:
        """S17: the pause of one account delays no start of another."""
        self.refuse("7")
        other = self.submit("other")
        self.finish(1)
        self.assertEqual(other.response.status, 200)
        self.clock.advance(7)
        self.finish(2)

    def test_client_that_leaves_in_the_pause_starts_nothing(self) -> None:
        """S17, Q15: a client that leaves in the pause starts nothing."""
        self.refuse("7").leave()
        self.submit().leave()
        self.assertEqual(len(self.table), 0)
        self.clock.advance(60)
        self.assertEqual(len(self.starts), 1)

    def test_pause_beyond_the_deadline_is_passed_on_at_once(self) -> None:
        """S17: a pause that ends after the client's deadline is passed on to it at once."""
        self.check_busy(self.refuse("30", 429), 429, "30")
        client = self.submit_for(5, "other")
        self.starts[1].respond(b"", 503, retry_after="5")
        self.check_busy(client, 503, "5")
        self.clock.advance(60)
        self.assertEqual(len(self.starts), 2)

    def test_pause_that_ends_before_the_deadline_is_waited_for(self) -> None:
        """S17: a pause that ends before the client's deadline is waited for."""
        self.refuse("29")
        self.check_pause(29)

    def test_new_job_is_refused_unless_it_can_outwait_the_pause(self) -> None:
        """S17: a new job is refused at once unless its deadline is after the pause."""
        self.refuse("7")
        self.check_busy(self.submit_for(6), 503, "7")
        patient = self.submit_for(8)
        self.assertTrue(patient.is_held)
        self.clock.advance(2.5)
        self.check_busy(self.submit_for(4), 503, "5")
        self.clock.advance(4.5)
        self.finish(1, 2)
        self.assertEqual(patient.response.body, result_of("2"))

    def test_last_busy_response_is_passed_on(self) -> None:
        """S17: the last response of a busy job server is passed on when no attempt is left."""
        client = self.refuse("7", 429)
        self.clock.advance(7)
        self.starts[1].respond(b"", 429, retry_after="8")
        self.clock.advance(8)
        self.starts[2].respond(b"", 503, retry_after="9")
        self.check_busy(client, 503, "9")
        self.check_busy(self.submit_for(5), 503, "9")


class ManyAttemptsTests(BusyTestCase):
    """A busy job server, with many attempts."""

    settings = {"start_attempts": 9}

    def test_retry_after_replaces_the_pause_of_the_proxy(self) -> None:
        """S17: the pause is what Retry-After says, however many attempts there were."""
        self.submit()
        for number in range(7):
            self.starts[number].respond(b"", 503, retry_after="1")
            self.clock.advance(1)
        self.starts[7].respond(result_of("1"))
        self.assertEqual(self.clients[0].response.status, 200)


class NoRetryBusyTests(BusyTestCase):
    """A busy job server, when no start request is sent again."""

    settings = {"retry": RetryMode.NEVER}

    def test_account_is_paused_although_no_start_is_sent_again(self) -> None:
        """S17: the client gets its problem at once, and the account is paused nevertheless."""
        self.check_busy(self.refuse("7"), 503, "7")
        self.submit()
        self.check_pause(7)


class BuggyObserverTests(ProxyTestCase):
    """A bug in what observes the table."""

    def make_environment(self, reactor: Any) -> Environment:
        events = count(1)
        return evolve(
            super().make_environment(reactor), wants_events=lambda: 1 // (next(events) - 2) > 0
        )

    def test_slot_is_free_after_a_bug_at_the_start(self) -> None:
        """A job whose start fails by a bug in the proxy gives its slot back."""
        client = self.submit()
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assert_problem(client.response, 500, "internal", started="unknown")
        self.assertEqual(len(self.limiter), 0)


BODIES = (result_of("0"), result_of("1"))


class LostTests(ProxyTestCase):
    """Jobs that are started again as no callback comes."""

    settings = {"on_lost": OnLost.RESTART, "lost_after": 5.0}

    def begin(self) -> tuple[Client, Start]:
        """Return a client and the start request of its job, which has an ack."""
        client = self.submit()
        self.starts[-1].ack("0")
        return client, self.starts[-1]

    def lose(self) -> tuple[Client, Start, Start]:
        """Return a client and two start requests of its job: a lost one, and one under way."""
        client, first = self.begin()
        self.clock.advance(5)
        return client, first, self.starts[-1]

    def test_lost_job_is_started_again_with_the_same_body(self) -> None:
        """B11: a job without any callback is started again, with the same body."""
        client = self.submit()
        self.clock.advance(3)
        self.starts[0].ack("0")
        self.clock.advance(4.9)
        self.assertEqual(len(self.starts), 1)
        self.clock.advance(0.1)
        first, second = self.starts
        self.assertEqual(first.raw, second.raw)
        second.ack("1")
        self.call_back(second, result_of("1"))
        self.assertEqual(client.response.body, result_of("1"))
        self.clock.advance(60)
        self.assertEqual(len(self.starts), 2)

    def test_lost_job_without_attempts_is_waited_for(self) -> None:
        """B11: a lost job that has no attempt left is waited for."""
        client, _, second = self.lose()
        second.ack("1")
        self.clock.advance(5)
        self.starts[2].ack("2")
        self.clock.advance(19.9)
        self.assertEqual(len(self.starts), 3)
        self.assertTrue(client.is_held)
        self.clock.advance(0.1)
        problem = self.assert_problem(client.response, 504, "wait-over", started="yes")
        self.assertEqual(problem["id"], "2")

    def test_refused_starts_count_as_attempts(self) -> None:
        """S17, B11: start requests that were refused count as attempts."""
        client = self.submit()
        self.starts[0].respond(b"", 503)
        self.clock.advance(0.2)
        self.starts[1].respond(b"", 429)
        self.clock.advance(0.4)
        self.starts[2].ack("1")
        self.clock.advance(29)
        self.assertEqual(len(self.starts), 3)
        self.call_back(self.starts[2], result_of("1"))
        self.assertEqual(client.response.status, 200)

    def test_progress_keeps_a_job_from_being_lost(self) -> None:
        """B10: a job that reports progress is not lost; the time begins again."""
        client, start = self.begin()
        for _ in range(3):
            self.clock.advance(4)
            self.call_back(start, result_of("0", "running"))
        self.clock.advance(4.9)
        self.assertEqual(len(self.starts), 1)
        self.clock.advance(0.1)
        self.starts[1].respond(result_of("1"))
        self.assertEqual(client.response.status, 200)

    def test_job_whose_callback_has_arrived_is_not_lost(self) -> None:
        """T3, B11: a callback that is read just after a stall keeps its job from being lost."""
        client, start = self.begin()
        self.clock.callLater(5, self.clock.callLater, 0, self.call_back, start, result_of("0"))
        self.clock.advance(5)
        self.assertEqual(client.response.body, result_of("0"))
        self.assertEqual(len(self.starts), 1)

    def test_ended_job_is_not_started_again(self) -> None:
        """B11: a job that has ended is not started again."""
        client, start = self.begin()
        self.clock.advance(4.9)
        self.call_back(start, result_of("0"))
        self.clock.advance(60)
        self.assertEqual(len(self.starts), 1)
        self.assertEqual(client.response.body, result_of("0"))

    def test_job_without_a_client_is_not_started_again(self) -> None:
        """Q16: a job whose client has left is not started again."""
        client, _ = self.begin()
        client.leave()
        self.clock.advance(60)
        self.assertEqual(len(self.starts), 1)

    def begin_unattended(self) -> Client:
        """Return a client that has got a Location for its job, which runs unattended."""
        client = self.connect().request(headers={"Prefer": "respond-async"})
        self.starts[0].ack("0")
        self.assertEqual(client.response.status, 202)
        return client

    def test_unattended_job_is_started_again(self) -> None:
        """Q3: a job that runs unattended is started again."""
        client = self.begin_unattended()
        self.clock.advance(5)
        self.starts[1].ack("1")
        self.call_back(self.starts[1], result_of("1"))
        found = self.connect().get(client.response.headers["location"]).response
        self.assertEqual(found.body, result_of("1"))

    def test_ended_unattended_job_is_not_started_again(self) -> None:
        """Q3, B11: a job that runs unattended is not started again once it has ended."""
        self.begin_unattended()
        self.call_back(self.starts[0], result_of("0"))
        self.clock.advance(60)
        self.assertEqual(len(self.starts), 1)

    def test_unattended_job_that_ends_during_a_restart_has_ended(self) -> None:
        """Q3, B1: an unattended job that ends during its restart is not started once more."""
        self.begin_unattended()
        self.clock.advance(5)
        self.call_back(self.starts[0], result_of("0"))
        self.starts[1].ack("1")
        self.clock.advance(60)
        self.assertEqual(len(self.starts), 2)

    def test_first_result_of_a_restarted_job_counts(self) -> None:
        """B2: the first result of a restarted job counts, and the other one is a duplicate."""
        for order in (1, -1):
            client, *starts = self.lose()
            starts[1].ack("1")
            (first, body), (second, other) = [*zip(starts, BODIES, strict=True)][::order]
            accepted = self.call_back(first, body)
            self.assertEqual((accepted.status, accepted.json), (200, {"status": "accepted"}))
            again = self.call_back(second, other)
            self.assertEqual((again.status, again.json), (200, {"status": "duplicate"}))
            self.assertEqual(client.response.body, body)

    def test_callback_during_the_restart_ends_the_job(self) -> None:
        """B1, B2: a callback of the first start ends the job during its restart."""
        client, first, second = self.lose()
        self.call_back(first, result_of("0"))
        self.assertEqual(client.response.body, result_of("0"))
        second.respond(result_of("1"))
        self.clock.advance(60)
        self.assertEqual((len(self.starts), len(client.responses)), (2, 1))

    def test_refused_restart_leaves_the_job_running(self) -> None:
        """S15, S16, S18: a job that was started once was, whatever becomes of its restart."""
        for number, status in enumerate((422, 401, 500), 1):
            client, _, second = self.lose()
            second.respond(b"", status)
            self.clock.advance(24.9)
            self.assertTrue(client.is_held)
            self.clock.advance(0.2)
            self.assert_problem(client.response, 504, "wait-over", started="yes")
            self.assertEqual(len(self.starts), 2 * number)

    def test_busy_restart_is_sent_again(self) -> None:
        """S17: a restart for which the job server is too busy is sent again."""
        client, _, second = self.lose()
        second.respond(b"", 503)
        self.clock.advance(0.4)
        self.starts[2].respond(result_of("1"))
        self.assertEqual(client.response.body, result_of("1"))

    def test_callback_before_a_delayed_restart_ends_the_job(self) -> None:
        """S17: a job that ends while its restart is delayed is not started again."""
        client, first, second = self.lose()
        second.respond(b"", 503, retry_after="7")
        self.call_back(first, result_of("0"))
        self.assertEqual(client.response.body, result_of("0"))
        self.clock.advance(60)
        self.assertEqual(len(self.starts), 2)

    def test_lost_job_is_logged_when_it_is_started_again(self) -> None:
        """B10, B11: a lost job is logged when it is started again; progress keeps it from that."""
        self.submit()
        self.starts[0].ack("1")
        with capturedLogs() as events:
            for _ in range(3):
                self.clock.advance(4)
                self.call_back(self.starts[0], result_of("1", "running"))
        self.assertNotIn("lost", "\n".join(map(formatEvent, events)))
        with capturedLogs() as events:
            self.clock.advance(5)
        self.assertIn("is lost; starting it again", "\n".join(map(formatEvent, events)))
        self.starts[1].respond(result_of("1"))


class NotLostTests(ProxyTestCase):
    """Jobs without a callback, by default."""

    def test_job_is_not_started_again_by_default(self) -> None:
        """B11: by default a job without any callback is waited for, and nothing else."""
        client = self.submit()
        self.starts[0].ack("1")
        self.clock.advance(30)
        self.assert_problem(client.response, 504, "wait-over", started="yes")
        self.assertEqual(len(self.starts), 1)


class BusyTests(ProxyTestCase):
    """Jobs that are queued when the job server says that it accepts none for some time."""

    settings: dict[str, Any] = {"starts_per_account": 1}

    def test_queued_jobs_that_would_be_too_late_are_refused_at_once(self) -> None:
        """S17: whoever waits for less than the pause gets what the job server said, and no 504."""
        clients = [self.submit() for _ in range(3)]
        other = self.submit("other")
        self.starts[0].respond(b"try later", 429, Retry_After="60")
        for client in clients:
            problem = self.assert_problem(client.response, 429, "upstream-busy")
            self.assertEqual(problem["upstreamStatus"], 429)
            self.assertEqual(client.response.headers["retry-after"], "60")
        self.starts[1].respond(result_of("1"))
        self.assertEqual(other.response.status, 200)
        self.clock.advance(60)
        self.assertEqual(len(self.starts), 2)

    def test_queued_jobs_that_can_wait_for_so_long_are_started(self) -> None:
        """S17: a pause that ends in time, and a client that comes back, change nothing."""
        first, second = self.submit(), self.submit()
        later = self.connect().request(headers={"Prefer": "respond-async"})
        self.starts[0].respond(b"", 503, Retry_After="20")
        short = self.connect().request(headers={"Prefer": "wait=19"})
        self.assert_problem(short.response, 503, "upstream-busy")
        self.clock.advance(20)
        for number, client in enumerate((first, second, later), 1):
            self.starts[number].respond(result_of(f"{number}"))
            self.assertEqual(client.response.status, 200)


class DrainTests(ProxyTestCase):
    """Start requests that would be sent again after a drain has begun."""

    settings: dict[str, Any] = {"starts_per_account": 1}

    def test_start_that_was_not_read_is_not_sent_again(self) -> None:
        """G9: a start request that was not read after the drain began is not sent again."""
        for answer in ((b"", 429), (b"", 503)):
            client = self.submit()
            self.gateway.drain()
            self.starts[-1].respond(*answer)
            self.assert_problem(client.response, 503, "draining")
            self.gateway.is_draining = self.gateway.starter.is_draining = False
        self.clock.advance(60)
        self.assertEqual(len(self.starts), 2)

    def test_job_that_waits_for_its_retry_ends(self) -> None:
        """G9: a job that waits to be sent again when the drain begins is not sent."""
        client = self.submit()
        self.starts[0].respond(b"", 503, Retry_After="5")
        self.gateway.drain()
        self.assert_problem(client.response, 503, "draining")
        self.clock.advance(60)
        self.assertEqual(len(self.starts), 1)

    def test_stop_starts_no_queued_job(self) -> None:
        """G9: when the table stops, no queued job gets the slot of another one."""
        clients = [self.submit() for _ in range(3)]
        self.table.startService()
        self.table.stopService()
        self.assertEqual(len(self.starts), 1)
        for client, started in zip(clients, ("unknown", "no", "no"), strict=True):
            self.assert_problem(client.response, 503, "draining", started=started)
        self.starts[0].respond(result_of("1"))


class AmbiguousDrainTests(GraceTestCase):
    """The same with ``--retry always``."""

    settings: dict[str, Any] = {"retry": RetryMode.ALWAYS}

    def test_ambiguous_start_is_not_sent_again(self) -> None:
        """G9: an ambiguous start is not sent again after the drain began; its callback counts."""
        waiting = self.submit()
        self.starts[0].respond(b"", 500)
        sent = self.submit()
        self.gateway.drain()
        self.starts[1].respond(b"", 500)
        self.clock.advance(1.9)
        self.assertEqual(len(self.starts), 2)
        for start, client in zip(self.starts, (waiting, sent), strict=True):
            self.call_back(start, result_of("1"))
            self.assertEqual(client.response.body, result_of("1"))


class LostDrainTests(ProxyTestCase):
    """The same with ``--on-lost restart``."""

    settings: dict[str, Any] = {"on_lost": OnLost.RESTART, "lost_after": 5.0}

    def test_lost_job_is_not_started_again(self) -> None:
        """G9: a lost job is not started again after the drain began; its callback counts."""
        client = self.submit()
        self.starts[0].ack("1")
        self.gateway.drain()
        self.clock.advance(20)
        self.assertEqual(len(self.starts), 1)
        self.call_back(self.starts[0], result_of("1"))
        self.assertEqual(client.response.body, result_of("1"))
