"""Thin callbacks: the result is fetched, and only then the job server is told 200."""

from twisted.internet.defer import Deferred

from jobproxy.app.drain import Drain
from jobproxy.daemon.systemd import Notifier
from jobproxy.upstream.follow_ups import FETCH_TIME
from jobproxy.util.deadline import TURNS
from tests.api.test_profile_follow_ups import CREDENTIALS, FollowUpTestCase
from tests.support.clients import Client
from tests.support.job_server import Start


class ThinTests(FollowUpTestCase):
    """A callback that says only that there is a result."""

    profile = """
        path = "/jobs"
        account = "$request.header.Authorization"
        [start]
        url = "{URL}/jobs"
        forward = ["Authorization"]
        [start.set]
        "$request.header.X-Callback-Url" = "{$callback.url}"
        [callback]
        failed = ["error"]
        [result]
        url = "{URL}/jobs/{$response.body#/id}/result"
        failed-status = 502
    """

    def callback_url(self, start: Start) -> str:
        return str(start.request.getHeader("x-callback-url"))

    def test_result_is_fetched_with_the_credentials_of_the_client(self) -> None:
        client, start = self.run_job(b'{"id":"a b"}')
        sender = self.send_thin(self.callback_url(start), b'{"id":"a b","state":"done"}')
        self.assertTrue(sender.is_held)
        asked = self.check_asked(2, b"GET", "/jobs/a%20b/result")
        self.assertTrue(client.is_held)
        asked.respond(b"text", Content_Type="text/plain")
        self.assertEqual((client.response.status, client.response.body), (200, b"text"))
        self.assertEqual(client.response.headers["content-type"], "text/plain")
        self.assertEqual(sender.response.json, {"status": "accepted"})

    def test_fetch_is_tried_again_while_the_client_waits(self) -> None:
        """A second thin callback meanwhile changes nothing."""
        client, start = self.run_job(b'{"id":"1"}')
        self.send_thin(self.callback_url(start))
        self.starts[1].respond(b"not yet", 500)
        self.send_thin(self.callback_url(start))
        self.assertEqual(len(self.starts), 2)
        self.clock.advance(0.5)
        self.starts[2].lose()
        self.clock.advance(1)
        self.starts[3].respond(b"result")
        self.assertEqual(client.response.body, b"result")

    def test_thin_callback_is_the_result_if_there_is_no_other(self) -> None:
        """What the job server refuses is not asked for again."""
        client, start = self.run_job(b'{"id":"1"}')
        self.send_thin(self.callback_url(start))
        self.starts[1].respond(b"", 410)
        self.assertEqual(client.response.body, b'{"state":"done"}')

    def test_result_that_is_not_there_yet_is_asked_for_again(self) -> None:
        """B25: an API may say that a job has ended before all of its servers know the result."""
        client, start = self.run_job(b'{"id":"1"}')
        sender = self.send_thin(self.callback_url(start))
        for status in (404, 409, 425, 429):
            self.starts[-1].respond(b"no such job", status)
            self.assertTrue(client.is_held)
            self.clock.advance(4)
        self.assert_problem(sender.response, 503, "upstream-unreachable", started="yes")
        self.check_asked(6, b"GET", "/jobs/1/result").respond(b"result")
        self.assertEqual(client.response.body, b"result")
        again = self.send_thin(self.callback_url(start)).response
        self.assertEqual(again.json, {"status": "duplicate"})

    def test_pause_that_is_asked_for_counts(self) -> None:
        """B25: a job server that asks for a pause gets it."""
        client, start = self.run_job(b'{"id":"1"}')
        self.send_thin(self.callback_url(start))
        self.starts[1].respond(b"", 404, Retry_After="20")
        self.clock.advance(19.9)
        self.assertEqual(len(self.starts), 2)
        self.clock.advance(0.1)
        self.starts[2].respond(b"result")
        self.assertEqual(client.response.body, b"result")

    def test_fetch_ends_whatever_pause_is_asked_for(self) -> None:
        """B25: a result that is never there does not keep its job for ever."""
        client, start = self.run_job(b'{"id":"1"}', Prefer="respond-async")
        self.send_thin(self.callback_url(start))
        self.starts[1].respond(b"", 429, Retry_After="3600")
        self.clock.advance(FETCH_TIME)
        self.starts[2].respond(b"", 429, Retry_After="3600")
        found = self.connect().get(client.response.headers["location"]).response
        self.assertEqual(found.body, b'{"state":"done"}')

    def test_id_with_half_a_surrogate_pair_is_asked_for_as_it_can_be(self) -> None:
        client, start = self.run_job(b'{"id":"a\\ud800b"}')
        sender = self.send_thin(self.callback_url(start))
        self.check_asked(2, b"GET", "/jobs/a%3Fb/result").respond(b"r")
        self.assertEqual(sender.response.status, 200)
        self.assertEqual(client.response.body, b"r")

    def test_failed_job_keeps_its_status(self) -> None:
        client, start = self.run_job(b'{"id":"1"}')
        self.send_thin(self.callback_url(start), b'{"state":"error"}')
        self.starts[1].respond(b'{"why":"x"}')
        self.assertEqual((client.response.status, client.response.body), (502, b'{"why":"x"}'))

    def test_thin_callback_before_the_ack_is_kept(self) -> None:
        """The ack has the id to ask with."""
        client = self.connect().request("/jobs", b"{}", headers=CREDENTIALS)
        sender = self.send_thin(self.callback_url(self.starts[0]))
        self.assertTrue(client.is_held)
        self.starts[0].respond(b'{"id":"1"}')
        asked = self.check_asked(2, b"GET", "/jobs/1/result")
        self.assertTrue(sender.is_held)
        asked.respond(b"result")
        self.assertEqual(client.response.body, b"result")
        self.assertEqual(sender.response.json, {"status": "accepted"})

    def test_thin_callback_before_what_is_no_ack_is_the_result(self) -> None:
        """There is no id to ask with; and it was started, whatever the response says."""
        for status in (500, 400):
            client = self.connect().request("/jobs", b"{}", headers=CREDENTIALS)
            self.send_thin(self.callback_url(self.starts[-1]))
            self.starts[-1].respond(b"", status)
            self.assertEqual(
                (client.response.status, client.response.body), (200, b'{"state":"done"}')
            )

    def test_result_that_is_too_large_is_not_asked_for_again(self) -> None:
        client, start = self.run_job(b'{"id":"1"}')
        self.send_thin(self.callback_url(start))
        self.starts[1].respond(b"x" * 70_000)
        self.assertEqual(client.response.body, b'{"state":"done"}')
        self.assertEqual(len(self.starts), 2)

    def test_thin_callback_gets_200_once_its_result_is_fetched(self) -> None:
        """B23: however often it comes meanwhile, there is one GET and one response for all."""
        _, start = self.run_job(b'{"id":"1"}', **{"Idempotency-Key": "k"})
        senders = [self.send_thin(self.callback_url(start)) for _ in range(3)]
        self.assertEqual([sender.is_held for sender in senders], [True] * 3)
        self.check_asked(2, b"GET", "/jobs/1/result").respond(b"result")
        receipts = [sender.response.json for sender in senders]
        self.assertEqual(receipts, [{"status": "accepted"}] * 3)
        again = self.send_thin(self.callback_url(start)).response
        self.assertEqual(again.json, {"status": "duplicate"})
        self.assertEqual(len(self.starts), 2)
        self.assertEqual(self.gateway.callbacks["conflict"], 0)

    def test_thin_callback_is_sent_again_if_its_fetch_takes_long(self) -> None:
        """B23: it gets 503 in time, and the fetch goes on."""
        client, start = self.run_job(b'{"id":"1"}')
        sender = self.send_thin(self.callback_url(start))
        self.clock.advance(3.9)
        self.assertTrue(sender.is_held)
        self.clock.advance(0.1)
        self.assert_problem(sender.response, 503, "upstream-unreachable", started="yes")
        self.assertEqual(sender.response.headers["retry-after"], "5")
        again = self.send_thin(self.callback_url(start))
        self.check_asked(2, b"GET", "/jobs/1/result").respond(b"result")
        self.assertEqual(client.response.body, b"result")
        self.assertEqual(again.response.json, {"status": "accepted"})

    def test_sender_that_leaves_does_not_end_the_fetch(self) -> None:
        """B23: many senders wait only some seconds."""
        client, start = self.run_job(b'{"id":"1"}')
        self.send_thin(self.callback_url(start)).leave()
        self.starts[1].respond(b"result")
        self.assertEqual(client.response.body, b"result")

    def test_thin_callback_after_an_ambiguous_start_is_the_result(self) -> None:
        """B23: no ack will come, so it is not kept until there is one."""
        client = self.connect().request("/jobs", b"{}", headers=CREDENTIALS)
        self.starts[0].respond(b"", 500)
        self.assertTrue(client.is_held)
        sender = self.send_thin(self.callback_url(self.starts[0]))
        self.assertEqual(client.response.body, b'{"state":"done"}')
        self.assertEqual(sender.response.json, {"status": "accepted"})

    def test_result_that_can_be_asked_for_is_fetched_as_long_as_for_a_client(self) -> None:
        """B23: nobody waits now, but the thin callback is no result to come back for."""
        client, start = self.run_job(b'{"id":"1"}', **{"Idempotency-Key": "k"})
        client.leave()
        self.send_thin(self.callback_url(start))
        for _ in range(5):
            self.starts[-1].respond(b"", 500)
            self.clock.advance(10)
        self.starts[-1].respond(b"result")
        again = self.connect().request(
            "/jobs", b"{}", headers=CREDENTIALS | {"Idempotency-Key": "k"}
        )
        self.assertEqual(again.response.body, b"result")

    def test_callback_after_the_stop_is_sent_again(self) -> None:
        """B23: the table keeps nothing any more, so that 200 would lose it."""
        _, start = self.run_job(b'{"id":"1"}')
        self.table.stopService()
        sender = self.send_thin(self.callback_url(start))
        self.assert_problem(sender.response, 503, "draining", started="unknown")

    def begin_drain(self) -> tuple[str, Client, Deferred[None]]:
        """Drain while a result is fetched; return its path, the sender and the end."""
        client, start = self.run_job(b'{"id":"1"}', Prefer="respond-async")
        sender = self.send_thin(self.callback_url(start))
        drain = Drain(self.clock, [self.gateway], [self.site], 3, Notifier())
        drained = Deferred.fromCoroutine(drain.finish_jobs())
        self.clock.pump(TURNS * [0])
        self.assertNoResult(drained)
        return client.response.headers["location"], sender, drained

    def test_drain_waits_for_a_result_that_is_being_fetched(self) -> None:
        """G17: nobody waits for it at the moment."""
        path, sender, drained = self.begin_drain()
        self.starts[1].respond(b"result")
        self.assertEqual(sender.response.json, {"status": "accepted"})
        self.successResultOf(drained)
        self.assertEqual(self.connect().get(path).response.body, b"result")

    def test_callback_whose_result_comes_too_late_for_the_drain_is_sent_again(self) -> None:
        """G17: the job server is not told 200 for what ends with the process."""
        _, sender, drained = self.begin_drain()
        self.clock.advance(3)
        self.successResultOf(drained)
        self.assert_problem(sender.response, 503, "draining", started="yes")
