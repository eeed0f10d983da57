"""GET /jobs/<job id>: what can be read about a job, and polls for its result."""

from tests.support.async_jobs import ACK, AsyncTestCase
from tests.support.clients import Client
from tests.support.job_server import Start
from tests.support.proxy import result_of


class JobResourceTests(AsyncTestCase):
    """Q3: what can be read at the Location of a job."""

    settings = {"starts_per_account": 1, "max_held": 4}

    def look(self, start: Start, prefer: str = "") -> Client:
        """Poll for a job as a client."""
        return self.connect().get(start.job_path, **({"Prefer": prefer} if prefer else {}))

    def check_state(self, start: Start, **state: str) -> None:
        """Check the response for a job that has not ended, at once and after a held poll."""
        polling = self.look(start, "wait=1")
        self.assertTrue(polling.is_held)
        self.clock.advance(1)
        for client in (self.look(start), polling):
            self.assert_accepted(client, client.response.body, start)
            self.assertEqual(client.response.json, state)
        self.assertEqual(polling.response.headers["preference-applied"], "wait=1")

    def test_poll_of_a_queued_job(self) -> None:
        """Q3: a job is queued until it gets a slot."""
        self.submit()
        client = self.send("respond-async, wait=0")
        self.clock.advance(0)
        polling = self.connect().get(client.response.headers["location"], Prefer="wait=1")
        self.clock.advance(1)
        self.assertEqual(
            (polling.response.status, polling.response.json), (202, {"state": "queued"})
        )
        self.starts[0].respond(result_of("1"))
        self.starts[1].ack("2")
        self.check_state(self.starts[1], state="running", id="2")

    def test_poll_of_a_starting_job(self) -> None:
        """Q3: a job without an ack is starting."""
        self.send()
        self.check_state(self.starts[0], state="starting")
        self.starts[0].respond(ACK)

    def test_poll_of_a_running_job_has_its_id(self) -> None:
        """Q3: a job with an ack is running, and has the upstream id."""
        self.check_state(self.run_job(), state="running", id="1")

    def test_poll_of_a_running_job_without_an_id(self) -> None:
        """Q3, S12: a job whose ack has no id is running all the same."""
        self.send()
        self.starts[0].respond(b"{}")
        self.check_state(self.starts[0], state="running")

    def test_poll_of_an_unconfirmed_job(self) -> None:
        """Q3, S6: a job whose start is ambiguous is unconfirmed."""
        client = self.send()
        self.starts[0].respond(b"", 500)
        self.check_state(self.starts[0], state="unconfirmed")
        self.clock.advance(1)
        self.assert_problem(client.response, 504, "start-unknown", started="unknown")
        self.check_state(self.starts[0], state="unconfirmed")

    def test_result_is_there_until_retain_is_over(self) -> None:
        """Q3: every poll gets the result, byte for byte, until --retain is over."""
        start = self.run_job()
        self.call_back(start, result_of("1", "failed"))
        for prefer in ("", "wait=5", "respond-async"):
            self.assert_result(self.look(start, prefer), result_of("1", "failed"), start)
        self.clock.advance(299)
        self.assert_result(self.look(start), result_of("1", "failed"), start)
        self.clock.advance(2)
        self.assert_problem(self.look(start).response, 404, "job-unknown", started="unknown")

    def test_forgotten_job_may_have_been_started(self) -> None:
        """Q26: a forgotten job may have been started: it is not safe to send it again."""
        start = self.run_job()
        self.call_back(start, result_of("1"))
        self.clock.advance(302)
        for job_id in (start.job_id, "A" * 38):
            unknown = self.connect().get(f"/jobs/{job_id}").response
            problem = self.assert_problem(unknown, 404, "job-unknown", started="unknown")
            self.assertEqual(problem["job"], job_id)
        self.assert_problem(self.connect().get("/jobs/x").response, 404, "not-found")

    def test_result_is_at_the_path_of_the_504(self) -> None:
        """Q3, B5: a client that got a 504 finds the result at the path in it."""
        client = self.submit()
        self.starts[0].respond(ACK)
        self.clock.advance(30)
        problem = self.assert_problem(client.response, 504, "wait-over", started="yes")
        polling = self.connect().get(problem["instance"], Prefer="wait=10")
        self.call_back(self.starts[0], result_of("1"))
        self.assert_result(polling, result_of("1"), self.starts[0])

    def test_result_without_a_client_is_an_orphan_until_it_is_polled(self) -> None:
        """Q3, B4: a result without a client is an orphan until a client asks for it."""
        self.submit().leave()
        self.starts[0].respond(ACK)
        self.call_back(self.starts[0], result_of("1"))
        for count in (1, 0):
            self.assertEqual(len(self.operate().get("/orphans").response.json["orphans"]), count)
            self.assert_result(self.look(self.starts[0]), result_of("1"), self.starts[0])

    def test_result_of_a_job_from_before_a_restart_is_there(self) -> None:
        """Q3, B3: the result of a job that is not known here is there, too."""
        token = self.signer.mint()
        self.connect().request(f"/callback/{token.text}", result_of("1"))
        found = self.connect().get(f"/jobs/{token.job_id}").response
        self.assertEqual((found.status, found.body), (200, result_of("1")))

    def test_polls_are_held_until_there_is_a_result(self) -> None:
        """Q3: polls are held until there is a result, and all get it."""
        start = self.run_job()
        polling = [self.look(start, "wait=20") for _ in range(3)]
        self.clock.advance(19)
        self.assertTrue(all(client.is_held for client in polling))
        self.call_back(start, result_of("1"))
        for client in polling:
            self.assert_result(client, result_of("1"), start)
            self.assertEqual(client.response.headers["preference-applied"], "wait=20")

    def test_poll_ends_with_the_problem_of_the_start(self) -> None:
        """Q3: a poll ends when the start fails, with its problem."""
        self.send()
        polling = self.look(self.starts[0], "wait=20")
        self.starts[0].respond(b"", 404)
        problem = self.assert_problem(polling.response, 404, "upstream-rejected")
        self.assertEqual(problem["instance"], self.starts[0].job_path)

    def test_wait_of_a_poll_is_limited_by_the_option(self) -> None:
        """Q3: no poll is held longer than --wait."""
        start = self.run_job()
        polling = self.look(start, "wait=600")
        self.clock.advance(30)
        self.assertEqual(polling.response.status, 202)
        self.assertEqual(polling.response.headers["preference-applied"], "wait=30")

    def test_client_that_leaves_a_poll_changes_nothing(self) -> None:
        """Q3, Q16: a client that leaves a poll changes nothing for the job or for other polls."""
        start = self.run_job()
        gone, other = self.look(start, "wait=20"), self.look(start, "wait=20")
        gone.leave()
        self.assertEqual(self.call_back(start, result_of("1")).json, {"status": "accepted"})
        self.assert_result(other, result_of("1"), start)

    def test_poll_keeps_no_job_queued(self) -> None:
        """Q3, Q15: a job is not started for a poll, which ends when the last client leaves."""
        self.submit()
        keyed = {"Idempotency-Key": "k"}
        short = self.connect().request(headers={**keyed, "Prefer": "wait=1"})
        long = self.connect().request(headers=keyed)
        self.clock.advance(1)
        polling = self.connect().get(short.response.json["instance"], Prefer="wait=9")
        self.assertTrue(polling.is_held)
        long.leave()
        self.assert_problem(polling.response, 504, "wait-over", started="no")
        self.starts[0].respond(result_of("1"))
        self.assertEqual(len(self.starts), 1)

    def test_503_when_a_poll_cannot_be_held(self) -> None:
        """Q3, L3: a poll past --max-held is refused; one without a wait is not."""
        start = self.run_job()
        polling = [self.look(start, "wait=20") for _ in range(4)]
        refused = self.look(start, "wait=20")
        self.assert_problem(refused.response, 503, "overloaded", started="yes")
        self.assertEqual(refused.response.headers["connection"], "close")
        self.assertEqual(self.look(start).response.status, 202)
        self.call_back(start, result_of("1"))
        self.assertEqual([client.response.status for client in polling], [200] * 4)
        self.assertEqual(self.look(start, "wait=20").response.status, 200)

    def test_404_for_an_unknown_job_id_or_a_token(self) -> None:
        """Q3: 404 for a job id that is not known, and for a token."""
        start = self.run_job()
        token = start.callback_path.removeprefix("/callback/")
        for path in ("/jobs", "/jobs/", "/jobs/x", "/jobs/%C3%A9", f"/jobs/{token}"):
            response = self.connect().get(path, Prefer="wait=5").response
            self.assert_problem(response, 404, "not-found")

    def test_head_of_a_job_has_the_headers_of_get(self) -> None:
        """Q3: HEAD gets the headers of GET, and no body."""
        start = self.run_job()
        self.call_back(start, result_of("1"))
        client = self.connect().request(start.job_path, None, method="HEAD")
        head, _, body = client.transport.value().partition(b"\r\n\r\n")
        self.assertTrue(head.startswith(b"HTTP/1.1 200 OK\r\n"))
        self.assertIn(b"\r\nContent-Length: %d" % len(result_of("1")), head)
        self.assertEqual(body, b"")

    def test_405_for_other_methods_of_a_job(self) -> None:
        """Q3, Q23: 405 for any method but GET and HEAD."""
        start = self.run_job()
        for method in ("POST", "PUT", "DELETE", "PATCH"):
            response = self.connect().request(start.job_path, b"{}", method=method).response
            self.assert_problem(response, 405, "method-not-allowed")
            self.assertEqual(response.headers["allow"], "GET, HEAD")
        self.assertEqual(self.look(start).response.status, 202)
