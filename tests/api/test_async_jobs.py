"""Jobs whose clients do not wait for the result, or only for a while."""

from tests.support.async_jobs import ACK, AsyncTestCase
from tests.support.clients import Client
from tests.support.proxy import result_of


class AcceptedTests(AsyncTestCase):
    """Clients that want no more than the ack."""

    settings = {"starts_per_account": 1, "wait": 15.0}

    def test_202_with_the_ack_for_respond_async(self) -> None:
        """Q3: with respond-async a client gets the ack's bytes as soon as they are there."""
        client = self.send()
        self.assertTrue(client.is_held)
        self.starts[0].respond(ACK)
        self.assert_accepted(client, ACK, self.starts[0])
        self.assertEqual(client.response.headers["preference-applied"], "respond-async")

    def test_202_with_the_ack_for_wait_false(self) -> None:
        """Q3: with "wait": false it is the same, and the start request has our callback URL."""
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

    def test_location_is_not_enough_to_end_the_job(self) -> None:
        """Q3: what the client gets is not enough to end the job."""
        client = self.send()
        self.starts[0].respond(ACK)
        job_id = client.response.headers["location"].removeprefix("/jobs/")
        forged = self.connect().request(f"/callback/{job_id}", result_of("1")).response
        self.assert_problem(forged, 404, "not-found")

    def test_callback_before_the_ack_is_the_response_without_waiting(self) -> None:
        """Q3, B1: a callback before the ack is the response."""
        client = self.send()
        self.call_back(self.starts[0], result_of("1"))
        self.assert_result(client, result_of("1"), self.starts[0])
        self.starts[0].ack("1")

    def test_result_in_the_ack_is_the_response_without_waiting(self) -> None:
        """Q3, S13: an ack that is a result already is the response."""
        client = self.send()
        self.starts[0].respond(result_of("1"))
        self.assert_result(client, result_of("1"), self.starts[0])

    def test_problem_of_a_start_is_there_for_polls(self) -> None:
        """Q3, S15: a client whose job is not started gets the problem, and so does a later poll."""
        client = self.send()
        self.starts[0].respond(b"no such thing", 422)
        problem = self.assert_problem(client.response, 422, "upstream-rejected")
        self.assertEqual(problem["instance"], self.starts[0].job_path)
        found = self.connect().get(problem["instance"]).response
        again = self.assert_problem(found, 422, "upstream-rejected")
        self.assertEqual({**problem, "requestId": again["requestId"]}, again)

    def test_504_when_a_start_without_waiting_is_ambiguous(self) -> None:
        """Q3, S6: after the grace of an ambiguous start a client gets 504, and can poll."""
        client = self.send()
        self.starts[0].respond(b"", 500)
        self.clock.advance(1.9)
        self.assertTrue(client.is_held)
        self.clock.advance(0.1)
        problem = self.assert_problem(client.response, 504, "start-unknown", started="unknown")
        self.call_back(self.starts[0], result_of("1"))
        found = self.connect().get(problem["instance"])
        self.assert_result(found, result_of("1"), self.starts[0])

    def test_202_when_the_job_is_queued_at_the_deadline(self) -> None:
        """Q3: a client whose job is queued when its wait is over gets 202; the job goes on."""
        self.submit()
        client = self.send("respond-async, wait=5")
        self.clock.advance(5)
        self.starts[0].respond(result_of("1"))
        self.assert_accepted(client, b'{"state": "queued"}', self.starts[1])
        self.starts[1].respond(ACK)

    def test_202_when_there_is_no_ack_at_the_deadline(self) -> None:
        """Q3: no client is held longer than --wait for an ack."""
        self.submit()
        client = self.send()
        self.clock.pump([10, 5])
        self.assert_accepted(client, b'{"state": "starting"}', self.starts[1])
        self.starts[1].respond(ACK)

    def test_client_that_leaves_while_queued_starts_nothing(self) -> None:
        """Q3, Q15: a client that leaves before its Location is known starts nothing."""
        self.submit()
        self.send().leave()
        self.starts[0].respond(result_of("1"))
        self.assertEqual(len(self.starts), 1)

    def test_result_is_retained_when_the_client_leaves_in_the_start(self) -> None:
        """Q3, Q16: the result is retained when the client leaves during the start."""
        self.send().leave()
        self.starts[0].respond(ACK)
        self.call_back(self.starts[0], result_of("1"))
        found = self.connect().get(self.starts[0].job_path)
        self.assert_result(found, result_of("1"), self.starts[0])


class QueueTests(AsyncTestCase):
    """Jobs that are queued without a held client."""

    settings = {"starts_per_account": 1, "max_held": 6}

    def begin(self, account: str) -> Client:
        """Send a job that is told 202 at once, if it may be."""
        body = b'{"account":"%b","wait":false}' % account.encode()
        client = self.connect().request(body=body, headers={"Prefer": "wait=0"})
        self.clock.advance(0)
        return client

    def test_queued_jobs_without_clients_are_limited(self) -> None:
        """Q3, L18: they take half of the queue at most, so that others have the rest."""
        running = [self.submit(account) for account in "ab"]
        for account in "aab":
            self.assertEqual(self.begin(account).response.json, {"state": "queued"})
        refused = self.begin("a").response
        self.assert_problem(refused, 504, "wait-over")
        running += [self.submit(account) for account in "bba"]
        self.assert_problem(self.submit("a").response, 503, "overloaded")
        for number in range(8):
            self.starts[number].respond(result_of(str(number)))
        self.assertEqual([client.response.status for client in running], 5 * [200])
        self.assertEqual(self.table.clients.promised, 0)

    def test_told_jobs_of_paused_accounts_leave_room_for_others(self) -> None:
        """L18: accounts that are told to come back in an hour do not fill the queue of all."""
        told = []
        for number in range(6):
            account = f"account {number}"
            first = self.submit(account)
            told.append(self.begin(account).response.status)
            self.starts[-1].respond(b"", 503, Retry_After="3600")
            self.assertEqual(first.response.status, 503)
        self.assertEqual((told, self.table.clients.promised), (3 * [202] + 3 * [504], 3))
        other = self.submit("other")
        self.starts[-1].respond(result_of("1"))
        self.assertEqual(other.response.status, 200)


class WaitTests(AsyncTestCase):
    """Clients that wait for a while, and then poll."""

    settings = {"starts_per_account": 1}

    def test_result_within_the_wait_is_the_response(self) -> None:
        """Q3: a result within the wait is the response; the ack is not."""
        client = self.send("respond-async, wait=5")
        self.starts[0].respond(ACK)
        self.clock.advance(4.9)
        self.assertTrue(client.is_held)
        self.call_back(self.starts[0], result_of("1"))
        self.assert_result(client, result_of("1"), self.starts[0])
        self.assertEqual(client.response.headers["preference-applied"], "wait=5")

    def test_202_with_the_ack_after_the_wait(self) -> None:
        """Q3: after the wait a client gets the ack, not a 504."""
        client = self.send("respond-async, wait=5")
        self.starts[0].respond(ACK)
        self.clock.advance(5)
        self.assert_accepted(client, ACK, self.starts[0])
        applied = client.response.headers["preference-applied"]
        self.assertEqual(applied, "respond-async, wait=5")

    def test_202_with_the_ack_after_the_wait_for_wait_false(self) -> None:
        """Q3: it is the same for a client that says in the body that it does not wait."""
        body = b'{"account":"example","wait":false}'
        client = self.connect().request(body=body, headers={"Prefer": "wait=5"})
        self.starts[0].respond(ACK)
        self.clock.advance(5)
        self.assert_accepted(client, ACK, self.starts[0])

    def test_202_when_the_wait_ends_before_the_ack(self) -> None:
        """Q3: a wait may end before there is an ack."""
        client = self.send("respond-async, wait=5")
        self.clock.advance(5)
        self.assert_accepted(client, b'{"state": "starting"}', self.starts[0])
        self.starts[0].respond(ACK)

    def test_202_at_once_for_a_wait_of_zero(self) -> None:
        """Q3: a client with a wait of zero gets its response at once."""
        client = self.send("respond-async, wait=0")
        self.clock.advance(0)
        self.assert_accepted(client, b'{"state": "starting"}', self.starts[0])
        self.starts[0].respond(ACK)

    def test_problem_within_the_wait_is_sent_at_once(self) -> None:
        """Q3: a client gets at once the problem of a job that cannot be started."""
        client = self.send("respond-async, wait=5")
        self.starts[0].respond(b"", 403)
        self.assert_problem(client.response, 502, "upstream-auth")
        self.assertEqual(client.response.headers["preference-applied"], "wait=5")

    def test_job_without_an_end_is_forgotten(self) -> None:
        """Q3: a job that never ends is forgotten although its client did not wait for its start."""
        self.submit()
        self.send("respond-async, wait=1")
        self.clock.advance(1)
        self.starts[0].respond(result_of("1"))
        self.starts[1].respond(ACK)
        self.clock.advance(90_000)
        found = self.connect().get(self.starts[1].job_path).response
        self.assert_problem(found, 404, "job-unknown", started="unknown")


class ClientCallbackTests(AsyncTestCase):
    """Q4: clients that may name a callback URL of their own."""

    settings = {"allow_client_callbacks": True}
    body = b'{ "callback":"http://client.example/",\t"wait":false, "account":"example" }\n'

    def test_start_with_a_callback_is_passed_through(self) -> None:
        """Q4: the body is passed through byte for byte, and the ack is the response."""
        client = self.connect().request(body=self.body)
        (start,) = self.starts
        self.assertEqual(start.raw, self.body)
        start.respond(ACK)
        self.assertEqual((client.response.status, client.response.body), (200, ACK))

    def test_ack_of_a_passed_start_is_the_response_despite_a_wait(self) -> None:
        """Q4: the ack is the response although the client asked for a wait."""
        client = self.connect().request(body=self.body, headers={"Prefer": "wait=5"})
        self.starts[0].respond(ACK)
        self.assertEqual((client.response.status, client.response.body), (200, ACK))

    def test_rejection_of_a_passed_start_is_a_problem(self) -> None:
        """Q4, S15: a passed start that the job server rejects is a problem as usual."""
        client = self.connect().request(body=self.body)
        self.starts[0].respond(b"", 400)
        self.assert_problem(client.response, 400, "upstream-rejected")

    def test_callback_of_a_held_client_is_ignored(self) -> None:
        """Q4: with "wait": true a callback is ignored and never forwarded."""
        client = self.connect().request(body=self.body.replace(b"false", b"true"))
        (start,) = self.starts
        self.assertNotIn(b"client.example", start.raw)
        start.respond(ACK)
        self.call_back(start, result_of("1"))
        self.assertEqual(client.response.body, result_of("1"))

    def test_callback_with_respond_async_needs_wait_false(self) -> None:
        """Q4: the job server gets the body as it is, and would wait."""
        body = self.body.replace(b"false", b"true")
        client = self.connect().request(body=body, headers={"Prefer": "respond-async"})
        problem = self.assert_problem(client.response, 400, "invalid-request")
        self.assertEqual(problem["errors"][0]["pointer"], "/wait")
        self.assertEqual(self.starts, [])

    def test_client_without_a_callback_of_its_own_gets_202(self) -> None:
        """Q4: a client that neither waits nor names a callback polls for its result."""
        client = self.connect().request(body=b'{"account":"example","wait":false}')
        self.starts[0].respond(ACK)
        self.assert_accepted(client, ACK, self.starts[0])
        self.call_back(self.starts[0], result_of("1"))
