"""Which start requests are sent again, when, and how often: a whole proxy in memory."""

from typing import Any

from jobproxy.upstream.retries import OnLost, RetryMode
from tests.support.clients import Client
from tests.support.job_server import Start
from tests.support.proxy import result_of
from tests.support.start_outcomes import (
    AMBIGUOUS,
    FINAL,
    LOST,
    NO_SOCKET,
    NOT_READ,
    REFUSED,
    SUCCESS,
    UNTRUSTED,
    Outcome,
    RetryTestCase,
)


class NeverTests(RetryTestCase):
    """``--retry never``."""

    settings: dict[str, Any] = {"retry": RetryMode.NEVER}
    not_read = 1
    ambiguous = 1

    def test_unread_starts_are_sent_as_often_as_allowed(self) -> None:
        """S1, S2, S3, S17: how often a start is sent that never left or was refused unread."""
        for outcome in NOT_READ:
            self.assertEqual(self.count(outcome), self.not_read, outcome)

    def test_ambiguous_starts_are_sent_as_often_as_allowed(self) -> None:
        """S6, S9, S10, S11, S18: how often an ambiguous start is sent."""
        for outcome in AMBIGUOUS:
            self.assertEqual(self.count(outcome), self.ambiguous, outcome)

    def test_starts_without_an_ack_are_sent_as_often_as_allowed(self) -> None:
        """S8: how often a start is sent that gets no ack."""
        client = self.submit()
        while client.is_held:
            self.step()
        self.assertEqual(len(self.starts), self.ambiguous)

    def test_starts_refused_for_good_are_sent_once(self) -> None:
        """S4, S5, S15, S16, S19: a start that would only fail again is not sent again."""
        for outcome in FINAL:
            self.assertEqual(self.count(outcome), 1, outcome)


class NotSentTests(NeverTests):
    """``--retry not-sent``: at most once."""

    settings = {"retry": RetryMode.NOT_SENT}
    not_read = 3


class AlwaysTests(NotSentTests):
    """``--retry always``: at least once."""

    settings = {"retry": RetryMode.ALWAYS, "wait": 60.0}
    ambiguous = 3


class FewAttemptsTests(NotSentTests):
    """Another number of attempts."""

    settings = {"retry": RetryMode.ALWAYS, "start_attempts": 2, "wait": 60.0}
    not_read = 2
    ambiguous = 2


class PauseTests(RetryTestCase):
    """The pauses between attempts."""

    settings = {"start_attempts": 9}

    def test_pauses_double_up_to_five_seconds(self) -> None:
        """S1: the pauses double, up to five seconds."""
        client = self.play(*[REFUSED] * 9)
        self.assertEqual(self.sender.times, [0.0, 0.2, 0.6, 1.4, 3.0, 6.2, 11.2, 16.2, 21.2])
        self.assert_problem(client.response, 503, "upstream-unreachable")

    def test_pauses_have_full_jitter(self) -> None:
        """S1: a pause may be zero, so that what failed together is spread."""
        self.patch(self.random, "uniform", lambda a, b: a)
        client = self.play(*[REFUSED] * 9)
        self.assertEqual(self.sender.times, [0.0] * 9)
        self.assert_problem(client.response, 503, "upstream-unreachable")

    def test_pause_beyond_the_deadline_is_not_begun(self) -> None:
        """S1: a retry that would come after the client's deadline is given up at once."""
        client = self.play(REFUSED, REFUSED, REFUSED, headers={"Prefer": "wait=1"})
        self.assert_problem(client.response, 503, "upstream-unreachable")
        self.clock.advance(5)
        self.assertEqual(self.sender.times, [0.0, 0.2, 0.6])

    def test_start_that_succeeds_at_last_is_like_any_other(self) -> None:
        """S1, S17: a start that is acknowledged at last is a start like any other."""
        client = self.play(REFUSED, (429, b""), (503, b""), (202, b'{"id":"1"}'))
        self.call_back(self.starts[2], result_of("1"))
        self.assertEqual(client.response.body, result_of("1"))
        self.assertEqual(len({start.raw for start in self.starts}), 1)

    def test_start_holds_no_slot_in_a_pause(self) -> None:
        """S1: while a start waits for its retry, the others of its account are sent."""
        rests = [self.play(REFUSED), self.play(REFUSED)]
        self.assertEqual(self.play(SUCCESS).response.status, 200)
        self.clock.advance(0.2)
        for start in self.starts[1:]:
            start.respond(result_of("1"))
        self.assertEqual([client.response.status for client in rests], [200, 200])

    def test_no_retry_when_the_client_leaves(self) -> None:
        """S1, Q15: when the client leaves between two attempts, nothing more is sent."""
        client = self.play(REFUSED, (503, b""))
        client.leave()
        self.assertEqual(len(self.table), 0)
        self.clock.advance(60)
        self.assertEqual(len(self.sender.times), 2)


class AmbiguousRetryTests(RetryTestCase):
    """Ambiguous starts that are sent again."""

    settings = {"retry": RetryMode.ALWAYS}

    def check_unknown(self, *outcomes: Outcome) -> None:
        """Check that a client gets start-unknown after the grace."""
        client = self.play(*outcomes)
        self.clock.advance(1.9)
        self.assertTrue(client.is_held)
        self.clock.advance(0.2)
        self.assert_problem(client.response, 504, "start-unknown", started="unknown")
        calls = len(self.sender.times)
        self.clock.advance(60)
        self.assertEqual(len(self.sender.times), calls)

    def begin_again(self) -> tuple[Client, Start, Start]:
        """Return a client and the two starts of its job: one is ambiguous, one under way."""
        client = self.play((500, b""), LOST)
        self.clock.advance(0.4)
        first, second = self.starts
        return client, first, second

    def test_acknowledged_start_counts(self) -> None:
        """S6, S18: the start that is acknowledged is the one that counts."""
        client, first, second = self.begin_again()
        self.assertEqual(first.raw, second.raw)
        second.ack("2")
        self.clock.advance(25)
        self.assertTrue(client.is_held)
        self.call_back(second, result_of("2"))
        self.assertEqual(client.response.body, result_of("2"))

    def test_callback_of_the_first_start_is_the_result(self) -> None:
        """S6: a callback of the first start is the result while the second is under way."""
        client, first, second = self.begin_again()
        self.assertEqual(self.call_back(first, result_of("1")).json, {"status": "accepted"})
        self.assertEqual(client.response.body, result_of("1"))
        second.ack("2")
        again = self.call_back(second, result_of("2"))
        self.assertEqual((again.status, again.json), (200, {"status": "duplicate"}))
        self.assertEqual(len(client.responses), 1)

    def test_no_retry_after_the_job_has_ended(self) -> None:
        """S6: a start that fails when its job has ended is not sent again."""
        client, first, second = self.begin_again()
        self.call_back(first, result_of("1"))
        second.respond(b"", 503)
        self.clock.advance(60)
        self.assertEqual(len(self.starts), 2)
        self.assertEqual(client.response.status, 200)

    def test_callback_of_the_first_start_is_no_conflict(self) -> None:
        """B8: a callback with the first start's id is no conflict with the second's ack."""
        client, first, second = self.begin_again()
        second.ack("2")
        self.assertEqual(self.call_back(first, result_of("1")).json, {"status": "accepted"})
        self.assertEqual(client.response.body, result_of("1"))

    def test_callback_between_attempts_is_the_result(self) -> None:
        """S6: a callback between two attempts is the result, and nothing more is sent."""
        client = self.play((500, b""))
        self.call_back(self.starts[0], result_of("1"))
        self.assertEqual(client.response.body, result_of("1"))
        self.clock.advance(60)
        self.assertEqual(len(self.sender.times), 1)

    def test_callback_between_attempts_without_a_client(self) -> None:
        """S6, Q3: so it is with a job whose client was told to poll for the result."""
        client = self.connect().request(headers={"Prefer": "respond-async, wait=1"})
        self.clock.advance(1)
        self.assertEqual(client.response.status, 202)
        self.starts[0].respond(b"", 500)
        self.call_back(self.starts[0], result_of("1"))
        self.clock.advance(60)
        self.assertEqual(len(self.sender.times), 1)

    def test_no_retry_when_the_client_of_an_ambiguous_start_leaves(self) -> None:
        """Q16: when the client leaves between two attempts, nothing more is sent."""
        self.play((500, b"")).leave()
        self.clock.advance(60)
        self.assertEqual(len(self.sender.times), 1)
        self.assertEqual(len(self.table), 1)

    def test_callback_is_awaited_after_the_last_attempt(self) -> None:
        """S6: when no attempt is left, the callback is awaited for the grace."""
        self.check_unknown(LOST, (500, b""), (502, b"<html>"))

    def test_later_failures_do_not_resolve_an_ambiguous_start(self) -> None:
        """S1, S4, S5, S15, S16, S17: however later attempts end, the first stays ambiguous."""
        for outcome in (UNTRUSTED, NO_SOCKET, (422, b"no"), (401, b""), (307, b"")):
            self.check_unknown(LOST, outcome)
        self.check_unknown(LOST, REFUSED, REFUSED)
        self.check_unknown(LOST, (429, b""), (503, b""))
        self.check_unknown(REFUSED, LOST, (404, b""))
        self.check_unknown(REFUSED, REFUSED, LOST)

    def test_callback_in_the_grace_after_the_last_attempt_is_the_result(self) -> None:
        """S6: a callback in the grace after the last attempt is the result."""
        client = self.play((500, b""), REFUSED, REFUSED)
        self.clock.advance(1.9)
        self.call_back(self.starts[0], result_of("1"))
        self.assertEqual(client.response.body, result_of("1"))

    def test_no_retry_after_the_deadline(self) -> None:
        """S8: an attempt that would come after the client's deadline is not made."""
        client = self.connect().request(headers={"Prefer": "wait=11"})
        self.clock.advance(10)
        self.clock.advance(0.2)
        self.assertEqual(len(self.sender.times), 2)
        self.clock.advance(0.8)
        self.assert_problem(client.response, 504, "start-unknown", started="unknown")
        self.clock.advance(60)
        self.assertEqual(len(self.sender.times), 2)


class UnwantedTests(RetryTestCase):
    """Jobs that no client waits for any more when it is their turn again."""

    settings = {"retry": RetryMode.ALWAYS, "starts_per_account": 1}

    def test_job_that_nobody_waits_for_is_not_sent_again(self) -> None:
        """S6, S18: a job that waits for a slot again is not sent once its client has left."""
        client = self.submit()
        self.starts[0].lose()
        other = self.submit()
        self.clock.advance(0.2)
        client.leave()
        self.starts[1].ack("2")
        self.assertEqual(len(self.sender.times), 2)
        self.call_back(self.starts[1], result_of("2"))
        self.assertEqual(other.response.status, 200)

    def test_client_that_joins_after_the_last_attempt_waits_for_the_grace(self) -> None:
        """S6, S18: a client that joins a job that is not sent again is held for the grace."""
        key = {"Idempotency-Key": "k"}
        client = self.connect().request(headers=key)
        self.starts[0].lose()
        other = self.submit()
        self.clock.advance(0.2)
        client.leave()
        self.starts[1].respond(result_of("2"))
        self.assertEqual(other.response.status, 200)
        late = self.connect().request(headers=key)
        self.clock.advance(2)
        self.assert_problem(late.response, 504, "start-unknown", started="unknown")
        self.assertEqual(len(self.sender.times), 2)


class JoiningTests(RetryTestCase):
    """Clients that join a job while it is being started again."""

    settings = {"retry": RetryMode.ALWAYS, "on_lost": OnLost.RESTART, "lost_after": 5.0}

    def join(self) -> Client:
        return self.connect().request(headers={"Idempotency-Key": "k"})

    def test_client_that_joins_between_attempts_is_held(self) -> None:
        """S6, S18: a client that joins between two attempts waits as long as the others."""
        clients = [self.join()]
        self.starts[0].respond(b"", 500)
        clients.append(self.join())
        self.clock.advance(0.2)
        self.starts[1].ack("1")
        self.clock.advance(2)
        self.assertTrue(all(client.is_held for client in clients))
        self.call_back(self.starts[1], result_of("1"))
        self.assertEqual([client.response.status for client in clients], [200, 200])

    def test_acknowledged_job_runs_although_its_restart_fails(self) -> None:
        """S6, S18: a job that was acknowledged runs, however its restart ends."""
        client = self.join()
        self.starts[0].ack("1")
        self.clock.advance(5)
        self.starts[1].respond(b"", 500)
        job_id = self.starts[0].callback_path.removeprefix("/callback/").partition(".")[0]
        state = self.connect().get(f"/jobs/{job_id}").response.json
        self.assertEqual(state, {"state": "running", "id": "1"})
        self.call_back(self.starts[0], result_of("1"))
        self.assertEqual(client.response.body, result_of("1"))
