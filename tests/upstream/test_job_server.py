"""A job server that is busy, and one that loses jobs, in memory."""

import json
import os
import time
from typing import Any

from jobproxy.upstream.retries import OnLost, RetryMode
from tests.support.job_server import Start
from tests.support.proxy import EPOCH, Client, ProxyTestCase, result_of

#: The three forms of a date in HTTP (RFC 9110, 5.6.7).
FIXED = "%a, %d %b %Y %H:%M:%S GMT"
OBSOLETE = ("%A, %d-%b-%y %H:%M:%S GMT", "%a %b %d %H:%M:%S %Y")


class BusyTestCase(ProxyTestCase):
    """A job server that tells when it is to be asked again."""

    def refuse(self, retry_after: str, status: int = 503, account: str = "example") -> Client:
        """Have a client send a job whose start is answered like this."""
        client = self.submit(account)
        self.starts[-1].respond(b"", status, retry_after=retry_after)
        return client

    def submit_for(self, seconds: int, account: str = "example") -> Client:
        """Have a client send a job and say how long it waits."""
        body = json.dumps({"account": account}).encode()
        return self.connect().request(body=body, headers={"Prefer": f"wait={seconds}"})

    def check_pause(self, seconds: float) -> None:
        """Check that the last start is made once more after so long, and finish its job."""
        client, before = self.clients[-1], len(self.starts)
        self.clock.advance(seconds - 0.125)
        self.assertEqual(len(self.starts), before)
        self.clock.advance(0.25)
        self.assertEqual(len(self.starts), before + 1)
        self.starts[-1].respond(result_of("1"))
        self.assertEqual(client.response.status, 200)
        self.clock.advance(-self.clock.seconds() % 1)

    def date(self, seconds: float, form: str = FIXED) -> str:
        """Return the time so many seconds from now."""
        return time.strftime(form, time.gmtime(EPOCH + self.clock.seconds() + seconds))

    def check_busy(self, client: Client, status: int, retry_after: str) -> None:
        """Check that a client has been told when to come again."""
        self.assert_problem(client.response, status, "upstream-busy")
        self.assertEqual(client.response.headers["retry-after"], retry_after)


class RetryAfterTests(BusyTestCase):
    """The forms and bounds of Retry-After."""

    def test_seconds(self) -> None:
        """S17: a start is made again after the seconds that the job server asks for."""
        for status in (429, 503):
            self.refuse("7", status)
            self.check_pause(7)

    def test_date(self) -> None:
        """S17: a start is made again at the date that the job server tells, in any form."""
        for form in (FIXED, *OBSOLETE):
            self.refuse(self.date(7, form))
            self.check_pause(7)

    def test_not_before_the_date(self) -> None:
        """S17: a date is waited for to the end of its second, as it has no parts of one."""
        self.clock.advance(0.5)
        self.refuse(self.date(6.5))
        self.clock.advance(6.5)
        self.assertEqual(len(self.starts), 1)
        self.check_pause(0.5)

    def test_dates_are_of_greenwich(self) -> None:
        """S17: a date is one of Greenwich, whether it says so or not, wherever the proxy runs."""
        self.addCleanup(self.set_zone, os.environ.get("TZ"))
        for zone in ("Asia/Tokyo", "America/Lima"):
            self.set_zone(zone)
            for form in (FIXED, *OBSOLETE):
                self.refuse(self.date(7, form))
                self.check_pause(7)

    def set_zone(self, zone: str | None) -> None:
        """Have the process be in another time zone."""
        os.environ.pop("TZ", None)
        if zone is not None:
            os.environ["TZ"] = zone
        time.tzset()

    def test_no_time(self) -> None:
        """S17: a time that has passed, or is none, leaves it to the proxy's own pause."""
        bad = (
            "0",
            self.date(-60),
            "-5",
            "1.5",
            "soon",
            "",
            "\u00b2",
            "Mon, 99 Jun 2015 15:34:23 GMT",
        )
        for retry_after in bad:
            self.refuse(retry_after)
            self.check_pause(0.2)

    def test_not_text(self) -> None:
        """S17: a Retry-After of bytes that are no text leaves it to the proxy's own pause."""
        self.submit()
        self.starts[0].request.setHeader(b"retry-after", b"\xff7")
        self.starts[0].respond(b"", 503)
        self.check_pause(0.2)

    def test_bounds(self) -> None:
        """S17: nobody is told to come again in more than an hour."""
        far = (str(10**30), "3601", "Fri, 31 Dec 9999 23:59:59 GMT")
        for number, retry_after in enumerate(far):
            account = f"account {number}"
            self.check_busy(self.refuse(retry_after, 429, account), 429, "3600")
            self.check_busy(self.submit(account), 503, "3600")
        self.assertEqual(len(self.starts), 3)

    def test_hour_at_most(self) -> None:
        """S17: after an hour an account is served again, whatever was asked for."""
        self.refuse(str(10**30))
        self.clock.advance(3600)
        self.submit()
        self.starts[1].respond(result_of("1"))
        self.assertEqual(self.clients[1].response.status, 200)

    def test_longest_pause_counts(self) -> None:
        """S17: a start that was under way already, and is told less, does not end the pause."""
        clients = [self.submit(), self.submit()]
        self.starts[0].respond(b"", 503, retry_after="7")
        self.starts[1].respond(b"", 503, retry_after="2")
        self.clock.advance(6.9)
        self.assertEqual(len(self.starts), 2)
        self.clock.advance(0.1)
        for start in self.starts[2:]:
            start.respond(result_of("1"))
        self.assertEqual([client.response.status for client in clients], [200, 200])


class PausedAccountTests(BusyTestCase):
    """An account that the job server takes no jobs of for some time."""

    settings: dict[str, Any] = {"starts_per_account": 1}

    def finish(self, *numbers: int) -> None:
        """Have starts be answered with a result, each with one of its own."""
        for number in numbers:
            self.starts[number].respond(result_of(str(number)))

    def test_lane_pauses(self) -> None:
        """S17: no start of the account is made meanwhile, and then the first one is the first."""
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

    def test_others_are_served(self) -> None:
        """S17: the pause of an account is none for another."""
        self.refuse("7")
        other = self.submit("other")
        self.finish(1)
        self.assertEqual(other.response.status, 200)
        self.clock.advance(7)
        self.finish(2)

    def test_client_leaves(self) -> None:
        """S17, Q15: a client that leaves in the pause starts nothing."""
        self.refuse("7").leave()
        self.submit().leave()
        self.assertEqual(len(self.table), 0)
        self.clock.advance(60)
        self.assertEqual(len(self.starts), 1)

    def test_does_not_fit(self) -> None:
        """S17: a pause that the client will not see the end of is passed on to it at once."""
        self.check_busy(self.refuse("30", 429), 429, "30")
        client = self.submit_for(5, "other")
        self.starts[1].respond(b"", 503, retry_after="5")
        self.check_busy(client, 503, "5")
        self.clock.advance(60)
        self.assertEqual(len(self.starts), 2)

    def test_fits_just(self) -> None:
        """S17: a pause that ends before the client's deadline is waited for."""
        self.refuse("29")
        self.check_pause(29)

    def test_new_job(self) -> None:
        """S17: a new job is refused at once, unless its client waits for longer than the pause."""
        self.refuse("7")
        self.check_busy(self.submit_for(6), 503, "7")
        patient = self.submit_for(8)
        self.assertTrue(patient.is_held)
        self.clock.advance(2.5)
        self.check_busy(self.submit_for(4), 503, "5")
        self.clock.advance(4.5)
        self.finish(1, 2)
        self.assertEqual(patient.response.body, result_of("2"))

    def test_attempts_run_out(self) -> None:
        """S17: what the job server said last is passed on when no attempt is left."""
        client = self.refuse("7", 429)
        self.clock.advance(7)
        self.starts[1].respond(b"", 429, retry_after="8")
        self.clock.advance(8)
        self.starts[2].respond(b"", 503, retry_after="9")
        self.check_busy(client, 503, "9")
        self.check_busy(self.submit_for(5), 503, "9")


class ManyAttemptsTests(BusyTestCase):
    """A busy job server that is asked often."""

    settings = {"start_attempts": 9}

    def test_own_pause_does_not_count(self) -> None:
        """S17: the pause is what the job server asks for, however often it has been asked."""
        self.submit()
        for number in range(7):
            self.starts[number].respond(b"", 503, retry_after="1")
            self.clock.advance(1)
        self.starts[7].respond(result_of("1"))
        self.assertEqual(self.clients[0].response.status, 200)


class NoRetryBusyTests(BusyTestCase):
    """A busy job server, when no start is to be made again."""

    settings = {"retry": RetryMode.NEVER}

    def test_lane_pauses(self) -> None:
        """S17: the client is told at once, and the account's next jobs wait nevertheless."""
        self.check_busy(self.refuse("7"), 503, "7")
        self.submit()
        self.check_pause(7)


BODIES = (result_of("0"), result_of("1"))


class LostTests(ProxyTestCase):
    """Jobs that are started again as no word of them comes."""

    settings = {"on_lost": OnLost.RESTART, "lost_after": 5.0}

    def begin(self) -> tuple[Client, Start]:
        """Return a client and the start of its job, which has an ack."""
        client = self.submit()
        self.starts[-1].ack("0")
        return client, self.starts[-1]

    def lose(self) -> tuple[Client, Start, Start]:
        """Return a client and two starts of its job: of a lost run, and of one under way."""
        client, first = self.begin()
        self.clock.advance(5)
        return client, first, self.starts[-1]

    def test_starts_again(self) -> None:
        """B11: a job without a word is started again, with the same body."""
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

    def test_attempts_run_out(self) -> None:
        """B11: a job is started so many times at most, and is then waited for."""
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

    def test_other_attempts_count(self) -> None:
        """S17, B11: starts that were refused are attempts too."""
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

    def test_progress(self) -> None:
        """B10: a job that tells of its progress is not lost; the time begins anew."""
        client, start = self.begin()
        for _ in range(3):
            self.clock.advance(4)
            self.call_back(start, result_of("0", "running"))
        self.clock.advance(4.9)
        self.assertEqual(len(self.starts), 1)
        self.clock.advance(0.1)
        self.starts[1].respond(result_of("1"))
        self.assertEqual(client.response.status, 200)

    def test_ends_in_time(self) -> None:
        """B11: a job that has ended is not started again."""
        client, start = self.begin()
        self.clock.advance(4.9)
        self.call_back(start, result_of("0"))
        self.clock.advance(60)
        self.assertEqual(len(self.starts), 1)
        self.assertEqual(client.response.body, result_of("0"))

    def test_nobody_waits(self) -> None:
        """Q16: a job whose client has left is not started again."""
        client, _ = self.begin()
        client.leave()
        self.clock.advance(60)
        self.assertEqual(len(self.starts), 1)

    def begin_detached(self) -> Client:
        """Return a client that has been told where the result of its job will be."""
        client = self.connect().request(headers={"Prefer": "respond-async"})
        self.starts[0].ack("0")
        self.assertEqual(client.response.status, 202)
        return client

    def test_nobody_held(self) -> None:
        """Q3: a job whose client did not want to be held is started again."""
        client = self.begin_detached()
        self.clock.advance(5)
        self.starts[1].ack("1")
        self.call_back(self.starts[1], result_of("1"))
        found = self.connect().get(client.response.headers["location"]).response
        self.assertEqual(found.body, result_of("1"))

    def test_nobody_held_ends_in_time(self) -> None:
        """Q3, B11: such a job is not started again either when it has ended."""
        self.begin_detached()
        self.call_back(self.starts[0], result_of("0"))
        self.clock.advance(60)
        self.assertEqual(len(self.starts), 1)

    def test_nobody_held_ends_during_the_restart(self) -> None:
        """Q3, B1: nor when it ends while it is started again."""
        self.begin_detached()
        self.clock.advance(5)
        self.call_back(self.starts[0], result_of("0"))
        self.starts[1].ack("1")
        self.clock.advance(60)
        self.assertEqual(len(self.starts), 2)

    def test_first_result_counts(self) -> None:
        """B2: the run that ends first has the answer, and the other run's end is a duplicate."""
        for order in (1, -1):
            client, *starts = self.lose()
            starts[1].ack("1")
            (first, body), (second, other) = [*zip(starts, BODIES, strict=True)][::order]
            taken = self.call_back(first, body)
            self.assertEqual((taken.status, taken.json), (200, {"status": "accepted"}))
            again = self.call_back(second, other)
            self.assertEqual((again.status, again.json), (200, {"status": "duplicate"}))
            self.assertEqual(client.response.body, body)

    def test_ends_during_the_restart(self) -> None:
        """B1, B2: the first run ends while the second is being started."""
        client, first, second = self.lose()
        self.call_back(first, result_of("0"))
        self.assertEqual(client.response.body, result_of("0"))
        second.respond(result_of("1"))
        self.clock.advance(60)
        self.assertEqual((len(self.starts), len(client.responses)), (2, 1))

    def test_restart_is_refused(self) -> None:
        """S15, S16, S18: a job that was started once was, whatever its restart ends with."""
        for number, status in enumerate((422, 401, 500), 1):
            client, _, second = self.lose()
            second.respond(b"", status)
            self.clock.advance(24.9)
            self.assertTrue(client.is_held)
            self.clock.advance(0.2)
            self.assert_problem(client.response, 504, "wait-over", started="yes")
            self.assertEqual(len(self.starts), 2 * number)

    def test_restart_is_put_off(self) -> None:
        """S17: a restart that the job server is too busy for is made again."""
        client, _, second = self.lose()
        second.respond(b"", 503)
        self.clock.advance(0.4)
        self.starts[2].respond(result_of("1"))
        self.assertEqual(client.response.body, result_of("1"))

    def test_restart_is_overtaken(self) -> None:
        """S17: a job that ends while its restart is put off is not started again."""
        client, first, second = self.lose()
        second.respond(b"", 503, retry_after="7")
        self.call_back(first, result_of("0"))
        self.assertEqual(client.response.body, result_of("0"))
        self.clock.advance(60)
        self.assertEqual(len(self.starts), 2)


class NotLostTests(ProxyTestCase):
    """The default."""

    def test_is_not_started_again(self) -> None:
        """B11: a job of which no word comes is waited for, and nothing else."""
        client = self.submit()
        self.starts[0].ack("1")
        self.clock.advance(30)
        self.assert_problem(client.response, 504, "wait-over", started="yes")
        self.assertEqual(len(self.starts), 1)
