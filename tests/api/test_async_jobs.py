"""Jobs whose clients do not wait for the result, and the resource at which they find it."""

from tests.support.job_server import Start
from tests.support.proxy import JSON, Client, ProxyTestCase, result_of

#: Oddly spaced, so that a copy that is not exact shows.
ACK = b'{ "state":"running",\t"id":"1" }\n'


def path_of(start: Start) -> str:
    """Return the path at which a job's result can be asked for."""
    job_id = start.callback_path.removeprefix("/callback/").partition(".")[0]
    return f"/jobs/{job_id}"


class AsyncTestCase(ProxyTestCase):
    def send(self, prefer: str = "respond-async") -> Client:
        """Have a client send a job, and say how it wants to be answered."""
        return self.connect().request(headers={"Prefer": prefer})

    def run_job(self) -> Start:
        """Have a client send a job that it does not wait for, and the job server ack it."""
        self.send()
        self.starts[-1].respond(ACK)
        return self.starts[-1]

    def assert_accepted(self, client: Client, body: bytes, start: Start) -> None:
        """Check that a client is told what is known of a job, and where there will be more."""
        response = client.response
        self.assertEqual((response.status, response.body), (202, body))
        self.assertEqual(response.headers["content-type"], JSON)
        self.assertEqual(response.headers["location"], path_of(start))
        self.assertNotIn("content-location", response.headers)

    def assert_result(self, client: Client, body: bytes, start: Start) -> None:
        """Check that a client gets a job's result."""
        response = client.response
        self.assertEqual((response.status, response.body), (200, body))
        self.assertEqual(response.headers["content-type"], JSON)
        self.assertEqual(response.headers["content-location"], path_of(start))
        self.assertNotIn("location", response.headers)


class AcceptedTests(AsyncTestCase):
    """Clients that want no more than to know that their job was started."""

    settings = {"starts_per_account": 1, "wait": 15.0}

    def test_prefers_it(self) -> None:
        """Q3: with respond-async a client gets the ack's bytes as soon as they are there."""
        client = self.send()
        self.assertTrue(client.is_held)
        self.starts[0].respond(ACK)
        self.assert_accepted(client, ACK, self.starts[0])
        self.assertEqual(client.response.headers["preference-applied"], "respond-async")

    def test_does_not_wait(self) -> None:
        """Q3: with "wait": false it is the same, and the start has our callback."""
        client = self.connect().request(body=b'{"account":"example","wait":false,"n":1}')
        (start,) = self.starts
        self.assertEqual(
            start.raw,
            b'{"account":"example","n":1,"wait":false,"callback":"%b"}'
            % start.body["callback"].encode(),
        )
        start.respond(ACK)
        self.assert_accepted(client, ACK, start)
        self.assertNotIn("preference-applied", client.response.headers)

    def test_location_lets_nobody_forge(self) -> None:
        """Q3: what a client is told is not enough to end the job."""
        client = self.send()
        self.starts[0].respond(ACK)
        job_id = client.response.headers["location"].removeprefix("/jobs/")
        forged = self.connect().request(f"/callback/{job_id}", result_of("1")).response
        self.assert_problem(forged, 404, "not-found")

    def test_result_before_the_ack(self) -> None:
        """Q3, B1: a callback that overtakes the ack is the answer."""
        client = self.send()
        self.call_back(self.starts[0], result_of("1"))
        self.assert_result(client, result_of("1"), self.starts[0])
        self.starts[0].ack("1")

    def test_result_in_the_ack(self) -> None:
        """Q3, S13: an ack that is a result already is the answer."""
        client = self.send()
        self.starts[0].respond(result_of("1"))
        self.assert_result(client, result_of("1"), self.starts[0])

    def test_not_started(self) -> None:
        """Q3, S15: a client whose job is not started is told why, and so is who asks later."""
        client = self.send()
        self.starts[0].respond(b"no such thing", 422)
        problem = self.assert_problem(client.response, 422, "upstream-rejected")
        self.assertEqual(problem["instance"], path_of(self.starts[0]))
        found = self.connect().get(problem["instance"]).response
        again = self.assert_problem(found, 422, "upstream-rejected")
        self.assertEqual({**problem, "requestId": again["requestId"]}, again)

    def test_ambiguous(self) -> None:
        """Q3, S6: when nobody knows whether the job was started, a client is told so."""
        client = self.send()
        self.starts[0].respond(b"", 500)
        self.clock.advance(1.9)
        self.assertTrue(client.is_held)
        self.clock.advance(0.1)
        problem = self.assert_problem(client.response, 504, "start-unknown", started="unknown")
        self.call_back(self.starts[0], result_of("1"))
        found = self.connect().get(problem["instance"])
        self.assert_result(found, result_of("1"), self.starts[0])

    def test_never_silently_held(self) -> None:
        """Q3: a client whose job is still queued once --wait is over is told so; the job runs."""
        self.submit()
        client = self.send("respond-async, wait=5")
        self.clock.advance(5)
        self.starts[0].respond(result_of("1"))
        self.assert_accepted(client, b'{"state": "queued"}', self.starts[1])
        self.starts[1].respond(ACK)

    def test_no_ack(self) -> None:
        """Q3: a client is not held for longer than --wait for an ack that does not come."""
        self.submit()
        client = self.send()
        self.clock.pump([10, 5])
        self.assert_accepted(client, b'{"state": "starting"}', self.starts[1])
        self.starts[1].respond(ACK)

    def test_leaves_while_queued(self) -> None:
        """Q3, Q15: a client that leaves before it knows where its result will be starts nothing."""
        self.submit()
        self.send().leave()
        self.starts[0].respond(result_of("1"))
        self.assertEqual(len(self.starts), 1)

    def test_leaves(self) -> None:
        """Q3, Q16: the result of a job whose client left during the start is kept."""
        self.send().leave()
        self.starts[0].respond(ACK)
        self.call_back(self.starts[0], result_of("1"))
        found = self.connect().get(path_of(self.starts[0]))
        self.assert_result(found, result_of("1"), self.starts[0])


class QueueTests(AsyncTestCase):
    """Jobs that are queued without anybody being held for them."""

    settings = {"starts_per_account": 1, "max_held": 3}

    def test_bounded(self) -> None:
        """Q3, L3: as many jobs are queued as clients would be held, whatever their accounts."""
        running = [self.submit(account) for account in "ab"]
        for account in "aab":
            body = b'{"account":"%b","wait":false}' % account.encode()
            client = self.connect().request(body=body, headers={"Prefer": "wait=0"})
            self.clock.advance(0)
            self.assertEqual(client.response.json, {"state": "queued"})
        self.assert_problem(self.submit("c").response, 503, "overloaded")
        for number in range(5):
            self.starts[number].respond(result_of(str(number)))
        self.assertEqual([client.response.status for client in running], [200, 200])


class WaitTests(AsyncTestCase):
    """Clients that wait for a while, and then want to know where the result will be."""

    settings = {"starts_per_account": 1}

    def test_in_time(self) -> None:
        """Q3: a result that comes in time is the answer; the ack is not."""
        client = self.send("respond-async, wait=5")
        self.starts[0].respond(ACK)
        self.clock.advance(4.9)
        self.assertTrue(client.is_held)
        self.call_back(self.starts[0], result_of("1"))
        self.assert_result(client, result_of("1"), self.starts[0])
        self.assertEqual(client.response.headers["preference-applied"], "wait=5")

    def test_runs_out(self) -> None:
        """Q3: once the wait is over a client gets the ack, not a 504."""
        client = self.send("respond-async, wait=5")
        self.starts[0].respond(ACK)
        self.clock.advance(5)
        self.assert_accepted(client, ACK, self.starts[0])
        applied = client.response.headers["preference-applied"]
        self.assertEqual(applied, "respond-async, wait=5")

    def test_runs_out_in_the_body(self) -> None:
        """Q3: it is the same for a client that says in the body that it does not wait."""
        body = b'{"account":"example","wait":false}'
        client = self.connect().request(body=body, headers={"Prefer": "wait=5"})
        self.starts[0].respond(ACK)
        self.clock.advance(5)
        self.assert_accepted(client, ACK, self.starts[0])

    def test_runs_out_before_the_ack(self) -> None:
        """Q3: a wait may be over before there is an ack."""
        client = self.send("respond-async, wait=5")
        self.clock.advance(5)
        self.assert_accepted(client, b'{"state": "starting"}', self.starts[0])
        self.starts[0].respond(ACK)

    def test_is_zero(self) -> None:
        """Q3: a client that does not even wait for the ack is answered at once."""
        client = self.send("respond-async, wait=0")
        self.clock.advance(0)
        self.assert_accepted(client, b'{"state": "starting"}', self.starts[0])
        self.starts[0].respond(ACK)

    def test_not_started(self) -> None:
        """Q3: a client is told at once that its job cannot be started."""
        client = self.send("respond-async, wait=5")
        self.starts[0].respond(b"", 403)
        self.assert_problem(client.response, 502, "upstream-auth")
        self.assertEqual(client.response.headers["preference-applied"], "wait=5")

    def test_is_forgotten(self) -> None:
        """Q3: a job whose client did not wait for its start is forgotten like any other."""
        self.submit()
        self.send("respond-async, wait=1")
        self.clock.advance(1)
        self.starts[0].respond(result_of("1"))
        self.starts[1].respond(ACK)
        self.clock.advance(90_000)
        found = self.connect().get(path_of(self.starts[1])).response
        self.assert_problem(found, 404, "not-found")


class ClientCallbackTests(AsyncTestCase):
    """Q4: clients that may want to be called back themselves."""

    settings = {"allow_client_callbacks": True}
    body = b'{ "callback":"http://client.example/",\t"wait":false, "account":"example" }\n'

    def test_passed_through(self) -> None:
        """Q4: the start is passed through byte for byte, and its ack is the answer."""
        client = self.connect().request(body=self.body)
        (start,) = self.starts
        self.assertEqual(start.raw, self.body)
        start.respond(ACK)
        self.assertEqual((client.response.status, client.response.body), (200, ACK))

    def test_passed_through_to_who_waits(self) -> None:
        """Q4: the ack is the answer for a client that would have waited, too."""
        client = self.connect().request(body=self.body, headers={"Prefer": "wait=5"})
        self.starts[0].respond(ACK)
        self.assertEqual((client.response.status, client.response.body), (200, ACK))

    def test_refused(self) -> None:
        """Q4, S15: a start that the job server rejects is told as ever."""
        client = self.connect().request(body=self.body)
        self.starts[0].respond(b"", 400)
        self.assert_problem(client.response, 400, "upstream-rejected")

    def test_held_client_has_none(self) -> None:
        """Q4: with "wait": true a callback is ignored and never forwarded."""
        client = self.connect().request(body=self.body.replace(b"false", b"true"))
        (start,) = self.starts
        self.assertNotIn(b"client.example", start.raw)
        start.respond(ACK)
        self.call_back(start, result_of("1"))
        self.assertEqual(client.response.body, result_of("1"))

    def test_without_one(self) -> None:
        """Q4: a client that does not wait and names no callback gets its result from us."""
        client = self.connect().request(body=b'{"account":"example","wait":false}')
        self.starts[0].respond(ACK)
        self.assert_accepted(client, ACK, self.starts[0])
        self.call_back(self.starts[0], result_of("1"))


class JobResourceTests(AsyncTestCase):
    """Q3: what can be read of a job at its Location."""

    settings = {"starts_per_account": 1, "max_held": 4}

    def look(self, start: Start, prefer: str = "") -> Client:
        """Have a client ask for a job."""
        return self.connect().get(path_of(start), **({"Prefer": prefer} if prefer else {}))

    def check_state(self, start: Start, **state: str) -> None:
        """Check what is told of a job that has not ended, at once and when a poll is over."""
        polling = self.look(start, "wait=1")
        self.assertTrue(polling.is_held)
        self.clock.advance(1)
        for client in (self.look(start), polling):
            self.assert_accepted(client, client.response.body, start)
            self.assertEqual(client.response.json, state)
        self.assertEqual(polling.response.headers["preference-applied"], "wait=1")

    def test_queued(self) -> None:
        """Q3: a job is queued until there is room for its start."""
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

    def test_starting(self) -> None:
        """Q3: a job that has no ack yet is starting."""
        self.send()
        self.check_state(self.starts[0], state="starting")
        self.starts[0].respond(ACK)

    def test_running(self) -> None:
        """Q3: a job that has been started is running, and has the id of its ack."""
        self.check_state(self.run_job(), state="running", id="1")

    def test_running_without_an_id(self) -> None:
        """Q3, S12: a job whose ack has no id is running all the same."""
        self.send()
        self.starts[0].respond(b"{}")
        self.check_state(self.starts[0], state="running")

    def test_unconfirmed(self) -> None:
        """Q3, S6: a job of which nobody knows whether it was started is unconfirmed."""
        client = self.send()
        self.starts[0].respond(b"", 500)
        self.check_state(self.starts[0], state="unconfirmed")
        self.clock.advance(1)
        self.assert_problem(client.response, 504, "start-unknown", started="unknown")
        self.check_state(self.starts[0], state="unconfirmed")

    def test_result(self) -> None:
        """Q3: a result is there for everybody who asks, byte for byte, until --retain is over."""
        start = self.run_job()
        self.call_back(start, result_of("1", "failed"))
        for prefer in ("", "wait=5", "respond-async"):
            self.assert_result(self.look(start, prefer), result_of("1", "failed"), start)
        self.clock.advance(299)
        self.assert_result(self.look(start), result_of("1", "failed"), start)
        self.clock.advance(2)
        self.assert_problem(self.look(start).response, 404, "not-found")

    def test_result_after_the_deadline(self) -> None:
        """Q3, B5: a client that got a 504 finds the result where the 504 said it would be."""
        client = self.submit()
        self.starts[0].respond(ACK)
        self.clock.advance(30)
        problem = self.assert_problem(client.response, 504, "wait-over", started="yes")
        polling = self.connect().get(problem["instance"], Prefer="wait=10")
        self.call_back(self.starts[0], result_of("1"))
        self.assert_result(polling, result_of("1"), self.starts[0])

    def test_result_that_nobody_waited_for(self) -> None:
        """Q3, B4: a result that came when nobody waited is an orphan until somebody asks for it."""
        self.submit().leave()
        self.starts[0].respond(ACK)
        self.call_back(self.starts[0], result_of("1"))
        for count in (1, 0):
            self.assertEqual(len(self.operate().get("/orphans").response.json["orphans"]), count)
            self.assert_result(self.look(self.starts[0]), result_of("1"), self.starts[0])

    def test_result_from_before_a_restart(self) -> None:
        """Q3, B3: a result whose job is not known here is there, too."""
        token = self.signer.mint()
        self.connect().request(f"/callback/{token.text}", result_of("1"))
        found = self.connect().get(f"/jobs/{token.job_id}").response
        self.assertEqual((found.status, found.body), (200, result_of("1")))

    def test_polling(self) -> None:
        """Q3: polls are held until there is a result, and all get it."""
        start = self.run_job()
        polling = [self.look(start, "wait=20") for _ in range(3)]
        self.clock.advance(19)
        self.assertTrue(all(client.is_held for client in polling))
        self.call_back(start, result_of("1"))
        for client in polling:
            self.assert_result(client, result_of("1"), start)
            self.assertEqual(client.response.headers["preference-applied"], "wait=20")

    def test_polling_until_it_fails(self) -> None:
        """Q3: a poll ends when the start does, with its problem."""
        self.send()
        polling = self.look(self.starts[0], "wait=20")
        self.starts[0].respond(b"", 404)
        problem = self.assert_problem(polling.response, 404, "upstream-rejected")
        self.assertEqual(problem["instance"], path_of(self.starts[0]))

    def test_polling_is_capped(self) -> None:
        """Q3: no poll is held for longer than --wait."""
        start = self.run_job()
        polling = self.look(start, "wait=600")
        self.clock.advance(30)
        self.assertEqual(polling.response.status, 202)
        self.assertEqual(polling.response.headers["preference-applied"], "wait=30")

    def test_poll_is_left(self) -> None:
        """Q3, Q16: who leaves a poll changes nothing for the job or for other polls."""
        start = self.run_job()
        gone, other = self.look(start, "wait=20"), self.look(start, "wait=20")
        gone.leave()
        self.assertEqual(self.call_back(start, result_of("1")).json, {"status": "accepted"})
        self.assert_result(other, result_of("1"), start)

    def test_poll_keeps_nothing_queued(self) -> None:
        """Q3, Q15: a job is not started for who polls; a poll ends when its last client leaves."""
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

    def test_polls_are_held_clients(self) -> None:
        """Q3, L3: a poll past --max-held is refused; to ask without one is not."""
        start = self.run_job()
        polling = [self.look(start, "wait=20") for _ in range(4)]
        refused = self.look(start, "wait=20")
        self.assert_problem(refused.response, 503, "overloaded", started="yes")
        self.assertEqual(refused.response.headers["connection"], "close")
        self.assertEqual(self.look(start).response.status, 202)
        self.call_back(start, result_of("1"))
        self.assertEqual([client.response.status for client in polling], [200] * 4)
        self.assertEqual(self.look(start, "wait=20").response.status, 200)

    def test_unknown(self) -> None:
        """Q3: a handle that is not known is a path that does not exist, and a token is none."""
        start = self.run_job()
        token = start.callback_path.removeprefix("/callback/")
        for path in ("/jobs", "/jobs/", "/jobs/x", "/jobs/%C3%A9", f"/jobs/{token}"):
            response = self.connect().get(path, Prefer="wait=5").response
            self.assert_problem(response, 404, "not-found")

    def test_head(self) -> None:
        """Q3: HEAD gets the header of what GET gets, and no body."""
        start = self.run_job()
        self.call_back(start, result_of("1"))
        client = self.connect().request(path_of(start), None, method="HEAD")
        head, _, body = client.transport.value().partition(b"\r\n\r\n")
        self.assertTrue(head.startswith(b"HTTP/1.1 200 OK\r\n"))
        self.assertIn(b"\r\nContent-Length: %d" % len(result_of("1")), head)
        self.assertEqual(body, b"")

    def test_other_methods(self) -> None:
        """Q3, Q23: a job can be asked for and nothing else."""
        start = self.run_job()
        for method in ("POST", "PUT", "DELETE", "PATCH"):
            response = self.connect().request(path_of(start), b"{}", method=method).response
            self.assert_problem(response, 405, "method-not-allowed")
            self.assertEqual(response.headers["allow"], "GET, HEAD")
        self.assertEqual(self.look(start).response.status, 202)
