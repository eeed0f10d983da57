"""Acks: what the job server's response to a start request means."""

import gzip
import os
import time

from twisted.logger import capturedLogs, formatEvent

from jobproxy.upstream.retries import RetryMode
from tests.support.busy import FIXED, OBSOLETE, BusyTestCase
from tests.support.clients import Client
from tests.support.proxy import ProxyTestCase, result_of
from tests.support.start_outcomes import GraceTestCase


class UnusableTests(GraceTestCase):
    """Responses that do not say whether the job was started."""

    def test_error_without_a_known_meaning_is_ambiguous(self) -> None:
        """S18: an error that does not say whether the job was started is ambiguous."""
        for status in (500, 502, 504, 599, 408, 425):
            client = self.submit()
            self.starts[-1].respond(b"", status)
            self.check_grace(client)

    def test_rejection_over_64_kib_is_passed_on_without_its_body(self) -> None:
        """S20: a rejection is one whether or not its body can be read."""
        client = self.submit()
        self.starts[0].respond(b"x" * 70_000, 422)
        problem = self.assert_problem(client.response, 422, "upstream-rejected")
        self.assertNotIn("upstreamBody", problem)


class AnyAckTests(ProxyTestCase):
    """Acks of all kinds: each confirms the start."""

    def test_any_success_confirms_the_start(self) -> None:
        """S10, S11, S20: whatever the body of a success is, the job runs."""
        for status, body, headers in (
            (200, b"", {}),
            (201, b"", {"Location": "/jobs/1"}),
            (202, b"OK", {}),
            (204, b"", {}),
            (200, b"<html>", {}),
            (200, b"[1]", {}),
            (200, b'{"id":', {}),
            (200, b"[" * 60_000, {}),
            (200, "{'id': 'é'}".encode("latin-1"), {}),
            (200, b'\xef\xbb\xbf{"id":"1"}', {}),
            (200, gzip.compress(b'{"id":"1"}'), {"Content_Encoding": "gzip"}),
            (200, b'{"id":%b}' % (b"7" * 5_000), {}),
            (200, b'{"id":"1","x":"' + b"x" * 70_000 + b'"}', {}),
        ):
            client = self.submit()
            self.starts[-1].respond(body, status, **headers)
            self.clock.advance(5)
            self.assertTrue(client.is_held, body[:20])
            self.call_back(self.starts[-1], result_of("1"))
            self.assertEqual(client.response.body, result_of("1"))

    def test_client_that_does_not_wait_gets_any_ack(self) -> None:
        """S10: a client that wants a 202 gets the ack as it came, and where its job is."""
        for body, content_type in ((b"", "text/plain"), (b"OK", "text/plain"), (b"{}", "a/json")):
            client = self.connect().request(headers={"Prefer": "respond-async"})
            self.starts[-1].respond(body, 202, Content_Type=content_type)
            self.assertEqual((client.response.status, client.response.body), (202, body))
            self.assertEqual(client.response.headers["content-type"], content_type)
            self.assertEqual(client.response.headers["location"], self.starts[-1].job_path)
            self.call_back(self.starts[-1], result_of("1"))

    def test_id_in_an_ack_may_be_an_integer(self) -> None:
        """S12: an integer is an upstream id like its text."""
        client = self.submit()
        self.starts[0].respond(b'{"id":12345678901234567890}')
        self.clock.advance(30)
        problem = self.assert_problem(client.response, 504, "wait-over", started="yes")
        self.assertEqual(problem["id"], "12345678901234567890")

    def test_result_in_the_ack_has_any_word_of_the_end(self) -> None:
        """S13: the usual words of the end, in any case, make an ack the result."""
        for word in ("COMPLETED", "success", "Succeeded", "done"):
            client = self.submit()
            self.starts[-1].respond(result_of("1", word))
            self.assertEqual(client.response.body, result_of("1", word))

    def test_ack_is_read_up_to_max_body(self) -> None:
        """S20: an ack of 64 KiB is read; one byte more, and its job is awaited."""
        ack = b'{"id":"1","state":"completed"}'
        self.submit()
        self.starts[0].respond(ack.ljust(65_536))
        self.assertEqual(self.clients[0].response.body, ack.ljust(65_536))
        client = self.submit()
        self.starts[1].respond(ack.ljust(65_537))
        self.clock.advance(5)
        self.assertTrue(client.is_held)
        self.call_back(self.starts[1], result_of("1"))


class LargeAckTests(ProxyTestCase):
    """A proxy that accepts large bodies."""

    settings = {"max_body": 2**21}

    def test_inline_result_of_a_megabyte_is_the_result(self) -> None:
        """S13, S20: the limit of bodies is that of acks too."""
        client = self.submit()
        body = b'{"id":"1","state":"completed","x":"%b"}' % (b"x" * 2**20)
        self.starts[0].respond(body)
        self.assertEqual(client.response.body, body)


class RefusedTests(ProxyTestCase):
    """Responses that refuse the job."""

    settings = {"retry": RetryMode.NEVER}

    def refuse(self, status: int, body: bytes = b"", **headers: str) -> Client:
        client = self.submit()
        self.starts[-1].respond(body, status, **headers)
        return client

    def test_rejection_is_passed_on_with_its_body(self) -> None:
        """S15: a rejection is passed on with its status and 1 KiB of its body."""
        never = {401, 403, 408, 425, 429}
        for status in sorted(set(range(400, 452)) - never):
            client = self.refuse(status, b"no such thing: \xff" + b"x" * 2_000)
            problem = self.assert_problem(client.response, status, "upstream-rejected")
            self.assertEqual(problem["upstreamStatus"], status)
            self.assertEqual(problem["upstreamBody"][:17], "no such thing: \ufffdx")
            self.assertEqual(len(problem["upstreamBody"]), 1024)

    def test_token_in_a_rejection_is_hidden(self) -> None:
        """S15: a job server that quotes the start request gives no client the token of the job."""
        client = self.submit()
        (start,) = self.starts
        start.respond(b"cannot read " + start.raw, 422)
        quoted = self.assert_problem(client.response, 422, "upstream-rejected")["upstreamBody"]
        self.assertIn('"account": "example"', quoted)
        self.assertIn("http://proxy.example/callback/[hidden]", quoted)
        self.assertNotIn(start.callback_path, quoted)

    def test_refused_credentials_are_not_passed_on(self) -> None:
        """S16: 401 and 403 give 502 upstream-auth, and nothing of the response."""
        for status in (401, 403):
            client = self.refuse(status, b"the password is")
            problem = self.assert_problem(client.response, 502, "upstream-auth")
            self.assertNotIn("upstreamBody", problem)

    def test_busy_response_is_passed_on_with_its_retry_after(self) -> None:
        """S17: a busy job server's status and Retry-After are passed on, within limits."""
        for status in (429, 503):
            for given, passed_on in (("7", "7"), ("999999", "3600"), ("-1", "1"), ("soon", "1")):
                client = self.refuse(status, retry_after=given)
                self.assert_problem(client.response, status, "upstream-busy")
                self.assertEqual(client.response.headers["retry-after"], passed_on)
                self.clock.advance(int(passed_on))
        self.assertEqual(self.refuse(503).response.headers["retry-after"], "1")

    def test_redirect_is_not_followed(self) -> None:
        """S19: a redirect that says that the URL has moved is not followed."""
        for status in (307, 308):
            client = self.refuse(status, location="http://jobs.example/start")
            self.assert_problem(client.response, 502, "upstream-redirect")
        self.assertEqual(len(self.starts), 2)

    def test_job_that_was_not_started_is_not_waited_for(self) -> None:
        """S15: a job that was not started waits for no callback; its slot is free."""
        clients = [self.submit() for _ in range(3)]
        self.starts[0].respond(b"", 422)
        self.assertEqual(len(self.starts), 3)
        self.assertEqual(len(self.table), 2)
        for start in self.starts[1:]:
            start.respond(b"", 404)
        self.assertEqual(len(self.table), 0)
        self.assertEqual([client.response.status for client in clients], [422, 404, 404])


class StateTests(ProxyTestCase):
    """The state and the upstream id in an ack."""

    def test_ack_with_an_ended_state_is_the_result(self) -> None:
        """S13, S14: an ack with an ended state is the result, whether the job failed or not."""
        for state in ("completed", "failed", "rejected", "cancelled", "error"):
            client = self.submit()
            self.starts[-1].respond(result_of("1", state))
            self.assertEqual(client.response.status, 200)
            self.assertEqual(client.response.body, result_of("1", state))

    def test_ack_with_any_other_state_is_of_a_running_job(self) -> None:
        """S14: an ack with another state, or with none, is that of a running job."""
        for ack in (b'{"id":"1","state":"odd"}', b'{"id":"1","state":7}', b'{"id":"1"}'):
            client = self.submit()
            self.starts[-1].respond(ack, 202)
            self.clock.advance(5)
            self.assertTrue(client.is_held)
            self.call_back(self.starts[-1], result_of("1"))
            self.assertEqual(client.response.body, result_of("1"))

    def test_orphan_has_the_upstream_id_of_its_callback(self) -> None:
        """S12: if the ack has no upstream id, the orphan has that of the callback."""
        self.submit().leave()
        self.starts[0].respond(b'{"state":"running"}')
        self.call_back(self.starts[0], result_of("7"))
        (orphan,) = self.operate().get("/orphans").response.json["orphans"]
        self.assertEqual(orphan["id"], "7")

    def test_result_in_the_ack_ends_the_time_of_the_start(self) -> None:
        """S13: an ack that is the result ends the time of the start in Server-Timing."""
        client = self.submit()
        self.clock.advance(0.25)
        self.starts[0].respond(result_of("1"))
        timing = client.response.headers["server-timing"]
        self.assertEqual(timing, "queue;dur=0.000, start;dur=250.000, job;dur=0.000")


class StatusTests(ProxyTestCase):
    """The first and the last status of a kind."""

    def respond(self, status: int, body: bytes = b"") -> Client:
        """Send a job as a client, and respond to its start request."""
        client = self.submit()
        self.starts[-1].respond(body, status)
        return client

    def test_any_success_is_an_ack(self) -> None:
        """S13: a response with any status of success is an ack."""
        for status in (200, 201, 202, 299):
            client = self.respond(status, result_of("1"))
            self.assertEqual((client.response.status, client.response.body), (200, result_of("1")))

    def test_redirect_that_can_mean_done_is_ambiguous(self) -> None:
        """S26: any other 3xx can mean that the job was started: it is not followed or sent again.

        303 after a POST means that it was done (RFC 9110, section 15.4.4).
        """
        for number, status in enumerate((300, 301, 302, 303, 304, 399)):
            key = {"Idempotency-Key": f"{number}"}
            client = self.connect().request(headers=key)
            self.starts[-1].respond(result_of("1"), status, Location="http://jobs.example/1")
            self.clock.advance(2)
            self.assert_problem(client.response, 504, "start-unknown", started="unknown")
            again = self.connect().request(headers=key)
            self.call_back(self.starts[-1], result_of("1"))
            self.assertEqual(again.response.body, result_of("1"))
        self.assertEqual(len(self.starts), 6)


class RetryAfterTests(BusyTestCase):
    """The forms and bounds of Retry-After."""

    def test_start_is_sent_again_after_the_seconds_asked_for(self) -> None:
        """S17: a start request is sent again after the seconds that Retry-After says."""
        for status in (429, 503):
            self.refuse("7", status)
            self.check_pause(7)

    def test_start_is_sent_again_at_the_date_asked_for(self) -> None:
        """S17: a start request is sent again at the date in Retry-After, in each of its forms."""
        for form in (FIXED, *OBSOLETE):
            self.refuse(self.date(7, form))
            self.check_pause(7)

    def test_date_is_waited_for_to_the_end_of_its_second(self) -> None:
        """S17: a date is waited for to the end of its second, as it has no parts of one."""
        self.clock.advance(0.5)
        self.refuse(self.date(6.5))
        self.clock.advance(6.5)
        self.assertEqual(len(self.starts), 1)
        self.check_pause(0.5)

    def test_date_is_of_greenwich_in_every_time_zone(self) -> None:
        """S17: a date is in UTC, whether it says so or not, in any time zone of the proxy."""
        self.addCleanup(self.set_zone, os.environ.get("TZ"))
        for zone in ("Asia/Tokyo", "America/Lima"):
            self.set_zone(zone)
            for form in (FIXED, *OBSOLETE):
                self.refuse(self.date(7, form))
                self.check_pause(7)

    def set_zone(self, zone: str | None) -> None:
        """Move the process to another time zone."""
        os.environ.pop("TZ", None)
        if zone is not None:
            os.environ["TZ"] = zone
        time.tzset()

    def test_unusable_retry_after_leaves_the_pause_of_the_proxy(self) -> None:
        """S17: a Retry-After in the past, or of no known form, leaves the pause of the proxy."""
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

    def test_retry_after_that_is_no_text_leaves_the_pause_of_the_proxy(self) -> None:
        """S17: a Retry-After of bytes that are no text leaves the pause of the proxy."""
        self.submit()
        self.starts[0].request.setHeader(b"retry-after", b"\xff7")
        self.starts[0].respond(b"", 503)
        self.check_pause(0.2)

    def test_client_gets_a_retry_after_of_an_hour_at_most(self) -> None:
        """S17: a client gets a Retry-After of an hour at most."""
        far = (str(10**30), "3601", "Fri, 31 Dec 9999 23:59:59 GMT")
        for number, retry_after in enumerate(far):
            account = f"account {number}"
            self.check_busy(self.refuse(retry_after, 429, account), 429, "3600")
            self.check_busy(self.submit(account), 503, "3600")
        self.assertEqual(len(self.starts), 3)

    def test_account_is_paused_for_an_hour_at_most(self) -> None:
        """S17: after an hour an account is served again, whatever Retry-After said."""
        self.refuse(str(10**30))
        self.clock.advance(3600)
        self.submit()
        self.starts[1].respond(result_of("1"))
        self.assertEqual(self.clients[1].response.status, 200)

    def test_longest_of_two_pauses_counts(self) -> None:
        """S17: a shorter Retry-After of an earlier start request does not end the pause."""
        clients = [self.submit(), self.submit()]
        self.starts[0].respond(b"", 503, retry_after="7")
        self.starts[1].respond(b"", 503, retry_after="2")
        self.clock.advance(6.9)
        self.assertEqual(len(self.starts), 2)
        self.clock.advance(0.1)
        for start in self.starts[2:]:
            start.respond(result_of("1"))
        self.assertEqual([client.response.status for client in clients], [200, 200])

    def test_first_of_two_retry_after_headers_counts(self) -> None:
        """S17: of two Retry-After headers the first one counts."""
        client = self.submit()
        self.starts[0].begin(503, 0, ("Retry-After", "7"), ("Retry-After", "9"))
        self.clock.advance(6.9)
        self.assertEqual(len(self.starts), 1)
        self.clock.advance(0.1)
        self.assertEqual(len(self.starts), 2)
        self.starts[1].respond(result_of("1"))
        self.assertEqual(client.response.status, 200)


class LoggedTests(ProxyTestCase):
    """What the log says of acks."""

    def acknowledge(self, ack: bytes) -> str:
        """Send a job and its ack, and return what was logged; then end the job."""
        self.submit()
        with capturedLogs() as events:
            self.starts[-1].respond(ack)
        self.call_back(self.starts[-1], result_of("1"))
        return "\n".join(map(formatEvent, events))

    def test_unknown_state_of_an_ack_is_logged(self) -> None:
        """S14: an unknown state in an ack is logged; a known one, or none, is not."""
        for ack in (b'{"id":"1"}', b'{"id":"1","state":"running"}', result_of("1")):
            self.assertNotIn("unknown state", self.acknowledge(ack))
        self.assertIn("an unknown state", self.acknowledge(b'{"id":"1","state":"odd"}'))
