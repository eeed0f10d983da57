"""After the start: thin callbacks whose result is fetched, polls, and cancels."""

from twisted.internet.defer import Deferred

from jobproxy.app.drain import Drain
from jobproxy.daemon.systemd import Notifier
from jobproxy.util.deadline import TURNS
from jobproxy.wire.reports import Report
from tests.api.test_profiles import ProfileTestCase
from tests.support.clients import Client, Response
from tests.support.job_server import Start
from tests.support.profiles import SECRET

CREDENTIALS = {"Authorization": "Bearer secret-credential"}


class FollowUpTestCase(ProfileTestCase):
    """A proxy with one profile, whose job server is asked after the start."""

    def run_job(self, ack: bytes, **headers: str) -> tuple[Client, Start]:
        """Send a job whose start gets this ack; return its client and its start."""
        client = self.connect().request("/jobs", b"{}", headers=CREDENTIALS | headers)
        start = self.starts[-1]
        start.respond(ack, 201)
        return client, start

    def send_thin(self, url: str, body: bytes = b'{"state":"done"}') -> Client:
        """Send a callback that may have to wait for its response."""
        return self.connect().request(url.removeprefix("http://proxy.example"), body)

    def check_asked(self, number: int, method: bytes, target: str) -> Start:
        """Check the last request to the job server, and how many there were."""
        self.assertEqual(len(self.starts), number)
        asked = self.starts[-1]
        self.assertEqual((asked.request.method, self.target(asked)), (method, target))
        self.assertEqual(asked.request.getHeader("authorization"), CREDENTIALS["Authorization"])
        self.assertIsNone(asked.request.getHeader("x-callback-url"))
        return asked


class ElsewhereTests(FollowUpTestCase):
    """A URL in the callback: it may lead only to the hosts of the profile."""

    profile = """
        path = "/jobs"
        account = "$request.header.Authorization"
        [start]
        url = "{URL}/jobs"
        forward = ["Authorization"]
        [start.set]
        "$request.body#/hook" = "{$callback.url}"
        [result]
        url = "{$message.payload#/result}"
    """

    def test_credentials_go_to_no_other_place(self) -> None:
        for url in (
            "http://169.254.169.254/latest/meta-data/",
            "http://127.0.0.1:9001/x",
            "http://127.0.0.1/x",
            "http://user@127.0.0.1:9000/x",
            "http://127.0.0.1:9000@evil.example/x",
            "http://[::1]:9000/x",
            "http://[::ffff:127.0.0.1]:9000/x",
            "http://localhost:9000/x",
            "https://127.0.0.1:9000.evil.example/x",
            "file:///etc/passwd",
            "//127.0.0.1:9000/x",
            "http://127.0.0.1:port/x",
            "/x",
        ):
            client, start = self.run_job(b'{"id":"1"}')
            number = len(self.sender.times)
            body = b'{"state":"done","result":"%b"}' % url.encode()
            self.call_back_to(start.body["hook"], body)
            self.assertEqual(len(self.sender.times), number, url)
            self.assertEqual(client.response.body, body)

    def test_thin_callback_of_an_ambiguous_start_has_no_credentials_to_ask_with(self) -> None:
        client = self.connect().request("/jobs", b"{}", headers=CREDENTIALS)
        body = b'{"state":"done","result":"http://127.0.0.1:9000/r"}'
        sender = self.send_thin(self.starts[0].body["hook"], body)
        self.starts[0].respond(b"", 500)
        self.assertEqual(client.response.body, body)
        self.assertEqual(sender.response.json, {"status": "accepted"})
        self.assertEqual(len(self.starts), 1)

    def test_redirect_is_not_followed(self) -> None:
        client, start = self.run_job(b'{"id":"1"}')
        body = b'{"state":"done","result":"http://127.0.0.1:9000/r"}'
        self.send_thin(start.body["hook"], body)
        for _ in range(10):
            if client.is_held:
                self.starts[-1].respond(b"", 302, Location="http://evil.example/")
                self.clock.advance(10)
        self.assertEqual(client.response.body, body)
        self.assertEqual(
            {each.request.getHeader("host") for each in self.starts}, {"127.0.0.1:9000"}
        )


class PollTests(FollowUpTestCase):
    """An API without callbacks, or whose callback does not come."""

    profile = """
        path = "/jobs"
        account = "$request.header.Authorization"
        [start]
        url = "{URL}/jobs"
        forward = ["Authorization"]
        [callback]
        state = "$message.payload#/status"
        progress = ["PENDING", "RUNNING"]
        succeeded = ["SUCCEEDED"]
        failed = ["FAILED"]
        [result]
        failed-status = 502
        [poll]
        url = "{URL}/tasks/{$response.body#/id}"
        after = 5
        every = 2
        [cancel]
        url = "{URL}/tasks/{$response.body#/id}"
        method = "DELETE"
    """

    def test_job_is_asked_for_until_it_has_ended(self) -> None:
        client, _ = self.run_job(b'{"id":"t1"}')
        self.clock.advance(4)
        self.assertEqual(len(self.starts), 1)
        self.clock.advance(1)
        asked = self.check_asked(2, b"GET", "/tasks/t1")
        asked.respond(b'{"status":"RUNNING"}')
        self.clock.advance(2)
        result = b'{"status":"SUCCEEDED","output":[1.0]}'
        self.check_asked(3, b"GET", "/tasks/t1").respond(result)
        self.assertEqual((client.response.status, client.response.body), (200, result))
        self.clock.advance(60)
        self.assertEqual(len(self.starts), 3)

    def begin_drain(self) -> Deferred[None]:
        drain = Drain(self.clock, [self.gateway], [self.site], 3, Notifier())
        drained = Deferred.fromCoroutine(drain.finish_jobs())
        self.clock.pump(TURNS * [0])
        return drained

    def test_drain_waits_for_a_poll_that_is_under_way(self) -> None:
        """G17: nobody waits for it at the moment, but somebody can come back."""
        client, _ = self.run_job(b'{"id":"t1"}', Prefer="respond-async")
        self.clock.advance(5)
        drained = self.begin_drain()
        self.assertNoResult(drained)
        self.starts[1].respond(b'{"status":"SUCCEEDED"}')
        self.successResultOf(drained)
        found = self.connect().get(client.response.headers["location"]).response
        self.assertEqual((found.status, found.body), (200, b'{"status":"SUCCEEDED"}'))

    def test_drain_waits_for_no_poll_longer_than_it_may(self) -> None:
        """G17: nor for a job that goes on, which is not asked for at the moment."""
        self.run_job(b'{"id":"t1"}', Prefer="respond-async")
        self.successResultOf(self.begin_drain())
        self.clock.advance(5)
        drained = self.begin_drain()
        self.starts[1].respond(b'{"status":"RUNNING"}')
        self.successResultOf(drained)
        self.clock.advance(2)
        drained = self.begin_drain()
        self.assertNoResult(drained)
        self.clock.advance(3)
        self.successResultOf(drained)

    def test_failed_job_has_its_status(self) -> None:
        client, _ = self.run_job(b'{"id":"t1"}')
        self.clock.advance(5)
        self.starts[1].respond(b'{"status":"FAILED"}')
        self.assertEqual(client.response.status, 502)

    def test_page_without_a_state_is_no_end(self) -> None:
        """Like one to log in, or one that is empty."""
        client, _ = self.run_job(b'{"id":"t1"}')
        self.clock.advance(5)
        for body, status in ((b"<html>log in</html>", 200), (b"", 204), (b"{}", 200)):
            self.starts[-1].respond(body, status)
            self.assertTrue(client.is_held)
            self.clock.advance(2)
        self.starts[-1].respond(b'{"status":"SUCCEEDED"}')
        self.assertEqual(client.response.status, 200)

    def test_retry_after_counts(self) -> None:
        client, _ = self.run_job(b'{"id":"t1"}')
        self.clock.advance(5)
        self.starts[1].respond(b"", 429, Retry_After="7")
        self.clock.advance(6)
        self.assertEqual(len(self.starts), 2)
        self.clock.advance(1)
        self.starts[2].lose()
        self.clock.advance(2)
        self.starts[3].respond(b'{"status":"SUCCEEDED"}')
        self.assertEqual(client.response.status, 200)

    def test_job_that_is_refused_is_not_asked_for_again(self) -> None:
        client, _ = self.run_job(b'{"id":"t1"}')
        self.clock.advance(5)
        self.starts[1].respond(b"", 404)
        self.clock.advance(25)
        self.assert_problem(client.response, 504, "wait-over", started="yes")
        self.assertEqual(len(self.starts), 2)

    def test_callback_ends_the_asking(self) -> None:
        """Even while a poll is under way."""
        for advance in (1, 5):
            client, _ = self.run_job(b'{"id":"t1"}')
            self.clock.advance(advance)
            (record,) = self.table.unended()
            report = Report(b'{"status":"SUCCEEDED"}', None, "completed", status=200)
            self.table.complete(record.job_id, report)
            self.assertEqual(client.response.status, 200)
            number = len(self.starts)
            self.clock.advance(60)
            self.assertEqual(len(self.starts), number)

    def test_job_without_a_client_is_cancelled(self) -> None:
        """When the last client has left, and nobody can come back for it."""
        client, _ = self.run_job(b'{"id":"t1"}')
        client.leave()
        self.check_asked(2, b"DELETE", "/tasks/t1").respond(b"", 204)
        self.clock.advance(60)
        self.assertEqual(len(self.starts), 2)

    def test_job_whose_client_left_before_the_ack_is_cancelled(self) -> None:
        client = self.connect().request("/jobs", b"{}", headers=CREDENTIALS)
        client.leave()
        self.starts[0].respond(b'{"id":"t1"}', 201)
        self.check_asked(2, b"DELETE", "/tasks/t1").lose()

    def test_job_that_can_be_asked_for_is_not_cancelled(self) -> None:
        client, _ = self.run_job(b'{"id":"t1"}', **{"Idempotency-Key": "k"})
        client.leave()
        self.clock.advance(5)
        self.check_asked(2, b"GET", "/tasks/t1").respond(b'{"status":"SUCCEEDED"}')

    def test_client_can_cancel(self) -> None:
        """The job goes on until the job server says how it has ended."""
        client, _ = self.run_job(b'{"id":"t1"}')
        (record,) = self.table.unended()
        path = f"/jobs/{record.job_id}"
        answer = self.connect().request(path, None, method="DELETE")
        self.check_asked(2, b"DELETE", "/tasks/t1").respond(b"", 204)
        self.assertEqual(
            (answer.response.status, answer.response.json), (202, {"status": "cancelled"})
        )
        self.clock.advance(5)
        self.starts[2].respond(b'{"status":"FAILED"}')
        self.assertEqual(client.response.status, 502)
        again = self.connect().request(path, None, method="DELETE").response
        self.assert_problem(again, 405, "method-not-allowed", started="yes")
        unknown = self.connect().request(f"/jobs/{'x' * 38}", None, method="DELETE").response
        self.assert_problem(unknown, 404, "job-unknown", started="unknown")


class ByIdTests(FollowUpTestCase):
    """One webhook for all jobs, shared with others; the result has to be fetched."""

    profile = """
        path = "/jobs"
        account = "$request.header.Authorization"
        correlate-by = "id"
        [start]
        url = "{URL}/jobs"
        forward = ["Authorization"]
        [start.set]
        "$request.body#/background" = true
        [callback]
        id = "$message.payload#/data/id"
        state = "$message.payload#/type"
        progress = []
        succeeded = ["response.completed"]
        failed = ["response.failed"]
        verify = { scheme = "token", header = "X-Secret", secret-file = "secret" }
        [result]
        url = "{URL}/jobs/{$message.payload#/data/id}"
    """
    url = "http://proxy.example/callback/api"

    def notify(self, body: bytes, secret: str = SECRET) -> Response:
        return self.call_back_to(self.url, body, X_Secret=secret)

    def test_job_is_found_by_its_id(self) -> None:
        client, start = self.run_job(b'{"id":"r1","status":"queued"}')
        self.assertEqual(start.body, {"background": True})
        other = self.notify(b'{"type":"response.completed","data":{"id":"r2"}}')
        self.assertEqual(other.json, {"status": "parked"})
        unknown = self.notify(b'{"type":"batch.completed","data":{}}')
        self.assertEqual((unknown.status, unknown.json), (200, {"status": "late"}))
        sender = self.connect().request(
            "/callback/api",
            b'{"type":"response.completed","data":{"id":"r1"}}',
            headers={"X-Secret": SECRET},
        )
        self.check_asked(2, b"GET", "/jobs/r1").respond(b'{"id":"r1","output":"x"}')
        self.assertEqual(sender.response.json, {"status": "accepted"})
        self.assertEqual(client.response.body, b'{"id":"r1","output":"x"}')

    def test_callback_that_is_not_signed_changes_nothing(self) -> None:
        client, _ = self.run_job(b'{"id":"r1"}')
        body = b'{"type":"response.completed","data":{"id":"r1"}}'
        self.assert_problem(self.notify(body, "wrong"), 401, "unsigned")
        self.assert_problem(self.call_back_to(self.url, body), 401, "unsigned")
        self.assertTrue(client.is_held)
        self.assertEqual(self.gateway.callbacks["unsigned"], 2)
        client.leave()

    def test_thin_callback_before_the_ack_is_parked(self) -> None:
        """B26: its result is fetched once the ack has come, however often it came before."""
        client = self.connect().request("/jobs", b"{}", headers=CREDENTIALS)
        body = b'{"type":"response.completed","data":{"id":"r1"}}'
        self.assertEqual(self.notify(body).json, {"status": "parked"})
        self.assertEqual(self.notify(body).json, {"status": "duplicate"})
        self.starts[0].respond(b'{"id":"r1"}')
        self.assertTrue(client.is_held)
        self.check_asked(2, b"GET", "/jobs/r1").respond(b'{"output":"x"}')
        self.assertEqual(client.response.body, b'{"output":"x"}')

    def test_parked_thin_callback_is_the_result_if_there_is_no_other(self) -> None:
        """B26: as for one that comes after the ack."""
        client = self.connect().request("/jobs", b"{}", headers=CREDENTIALS)
        body = b'{"type":"response.failed","data":{"id":"r1"}}'
        self.notify(body)
        self.starts[0].respond(b'{"id":"r1"}')
        self.check_asked(2, b"GET", "/jobs/r1").respond(b"", 410)
        self.assertEqual(client.response.body, body)


class PlaceTests(FollowUpTestCase):
    """An API that runs only some jobs of an account at once."""

    profile = """
        path = "/jobs"
        account = "$request.header.Authorization"
        [start]
        url = "{URL}/jobs"
        [start.set]
        "$request.body#/hook" = "{$callback.url}"
        [limits]
        jobs-per-account = 2
    """

    def test_job_waits_until_another_one_of_its_account_has_ended(self) -> None:
        """However that has ended: with a result, a refusal, or without its client."""
        clients = [self.run_job(b'{"id":"1"}')[0], self.run_job(b'{"id":"2"}')[0]]
        third = self.connect().request("/jobs", b"{}", headers=CREDENTIALS)
        fourth = self.connect().request("/jobs", b"{}", headers=CREDENTIALS)
        gone = self.connect().request("/jobs", b"{}", headers=CREDENTIALS)
        other = self.connect().request("/jobs", b"{}", headers={"Authorization": "another"})
        self.assertEqual(len(self.starts), 3)
        self.assertEqual(self.gateway.starter.queued, 3)
        gone.leave()
        self.call_back_to(self.starts[0].body["hook"], b"{}")
        self.assertEqual(clients[0].response.status, 200)
        self.assertEqual(len(self.starts), 4)
        self.starts[3].respond(b"no", 422)
        self.assert_problem(third.response, 422, "upstream-rejected")
        self.assertEqual(len(self.starts), 5)
        for number, client in ((1, clients[1]), (4, fourth), (2, other)):
            self.starts[number].respond(b"", 202) if number != 1 else None
            self.call_back_to(self.starts[number].body["hook"], b"{}")
            self.assertEqual(client.response.status, 200)
        self.assertEqual(self.gateway.starter.queued, 0)
        places = self.gateway.starter.places
        assert places is not None
        self.assertEqual(len(places.limiter), 0)
