"""Idempotency-Key: the same job asked for several times is done once."""

from http import HTTPStatus

from tests.support.proxy import Client, ProxyTestCase, result_of

BODY = b'{"account":"example","n":1}'


class KeyTestCase(ProxyTestCase):
    def send(self, body: bytes = BODY, key: str = "k", **headers: str) -> Client:
        """Have a client send a job with a key."""
        return self.connect().request(body=body, headers={"Idempotency-Key": key, **headers})

    def run_job(self) -> Client:
        """Have a client get a job's result."""
        client = self.send()
        self.starts[-1].ack("1")
        self.call_back(self.starts[-1], result_of("1"))
        return client

    def assert_result(self, client: Client, *, is_replayed: bool = False) -> None:
        self.assertEqual((client.response.status, client.response.body), (200, result_of("1")))
        replayed = client.response.headers.get("idempotent-replayed")
        self.assertEqual(replayed, "true" if is_replayed else None)


class JoinTests(KeyTestCase):
    """Clients that ask for a job that has not ended."""

    settings = {"starts_per_account": 1}

    def test_same_answer(self) -> None:
        """Two clients with the same key get the same bytes; the job is started once."""
        first, second = self.send(), self.send()
        (start,) = self.starts
        start.ack("1")
        third = self.send()
        self.call_back(start, result_of("1"))
        for client in (first, second, third):
            self.assert_result(client)
        locations = {
            client.response.headers["content-location"] for client in (first, second, third)
        }
        self.assertEqual(len(locations), 1)
        self.assertEqual(len(self.starts), 1)

    def test_same_problem(self) -> None:
        """S15: when the start fails all who joined are told, each with its own request's id."""
        clients = [self.send(), self.send()]
        self.starts[0].respond(b"", 409)
        problems = [self.assert_problem(c.response, 409, "upstream-rejected") for c in clients]
        self.assertEqual([problem["requestId"] for problem in problems], ["id-0", "id-1"])
        self.assertEqual(problems[0]["job"], problems[1]["job"])

    def test_forms_of_the_key(self) -> None:
        """A key in quotes is the same as a bare one."""
        clients = [self.send(key="k-1"), self.send(key='"k-1"')]
        self.starts[0].respond(result_of("1"))
        self.assertEqual([client.response.status for client in clients], [200, 200])

    def test_own_deadlines(self) -> None:
        """Each client has a deadline of its own."""
        first = self.send(Prefer="wait=5")
        self.starts[0].ack("1")
        self.clock.advance(4)
        second = self.send(Prefer="wait=5")
        self.clock.advance(1)
        self.assert_problem(first.response, 504, "wait-over", started="yes")
        self.assertTrue(second.is_held)
        self.call_back(self.starts[0], result_of("1"))
        self.assert_result(second)

    def test_deadline_while_queued(self) -> None:
        """A queued job is started for who waits longest; who gives up is not told it never was."""
        self.submit()
        first, second = self.send(Prefer="wait=1"), self.send()
        self.clock.advance(1)
        self.assert_problem(first.response, 504, "wait-over", started="unknown")
        self.starts[0].respond(result_of("0"))
        self.starts[1].respond(result_of("1"))
        self.assert_result(second)

    def test_after_the_deadline(self) -> None:
        """A client that asks again after its 504 joins the job, which still runs."""
        first = self.send(Prefer="wait=5")
        self.starts[0].ack("1")
        self.clock.advance(5)
        self.assert_problem(first.response, 504, "wait-over", started="yes")
        again = self.send(Prefer="wait=5")
        self.assertTrue(again.is_held)
        self.call_back(self.starts[0], result_of("1"))
        self.assert_result(again)
        self.assertEqual(len(self.starts), 1)

    def test_ambiguous(self) -> None:
        """S6: who asks again for a job that may run is held for the grace; it is not started."""
        first = self.send()
        self.starts[0].respond(b"", 500)
        self.clock.advance(2)
        self.assert_problem(first.response, 504, "start-unknown", started="unknown")
        second = self.send()
        self.clock.advance(1.9)
        self.assertTrue(second.is_held)
        self.clock.advance(0.1)
        self.assert_problem(second.response, 504, "start-unknown", started="unknown")
        third = self.send()
        self.call_back(self.starts[0], result_of("1"))
        self.assert_result(third)
        self.assertEqual(len(self.starts), 1)

    def test_first_leaves_while_queued(self) -> None:
        """Q15: a queued job is not withdrawn as long as one client waits, and then it is."""
        self.submit()
        first, second = self.send(), self.send()
        first.leave()
        self.starts[0].respond(result_of("0"))
        self.assertEqual(len(self.starts), 2)
        third, fourth = self.send(key="other"), self.send(key="other")
        third.leave()
        fourth.leave()
        self.starts[1].respond(result_of("1"))
        self.assert_result(second)
        self.assertEqual(len(self.starts), 2)

    def test_first_leaves_while_it_runs(self) -> None:
        """Q16: who joined gets the result whether or not the first client stays."""
        first, second = self.send(), self.send()
        first.leave()
        self.starts[0].ack("1")
        self.assertEqual(
            self.call_back(self.starts[0], result_of("1")).json, {"status": "accepted"}
        )
        self.assert_result(second)

    def test_all_leave(self) -> None:
        """Q16: who comes back after the connection was lost gets the result that came meanwhile."""
        self.send().leave()
        self.starts[0].ack("1")
        self.call_back(self.starts[0], result_of("1"))
        self.assert_result(self.send(), is_replayed=True)

    def test_one_does_not_wait(self) -> None:
        """Q3: each client says for itself whether it waits."""
        held, unheld = self.send(), self.send(Prefer="respond-async")
        self.starts[0].ack("1")
        self.assertEqual(unheld.response.status, 202)
        late = self.send(b'{"account":"example","n":1,"wait":false}')
        self.assertEqual((late.response.status, late.response.body), (202, unheld.response.body))
        self.call_back(self.starts[0], result_of("1"))
        self.assert_result(held)

    def test_last_one_does_not_wait(self) -> None:
        """Q3, Q15: a queued job goes on for a client that was promised its result."""
        self.submit()
        first, second = self.send(), self.send(Prefer="respond-async, wait=1")
        self.clock.advance(1)
        self.assertEqual(second.response.status, 202)
        first.leave()
        self.starts[0].respond(result_of("0"))
        self.starts[1].respond(result_of("1"))
        found = self.connect().get(second.response.headers["location"]).response
        self.assertEqual(found.body, result_of("1"))


class ReplayTests(KeyTestCase):
    """Clients that ask for a job that has its result."""

    def test_same_answer(self) -> None:
        """A result is replayed, and says so; the job is not started again."""
        first = self.run_job()
        self.assert_result(first)
        for prefer in ("", "respond-async", "wait=5"):
            again = self.send(Prefer=prefer)
            self.assert_result(again, is_replayed=True)
            location = again.response.headers["content-location"]
            self.assertEqual(location, first.response.headers["content-location"])
        self.assertEqual(len(self.starts), 1)

    def test_is_forgotten(self) -> None:
        """Once --retain is over the key is free; what the same key gets then is another job."""
        self.run_job()
        self.clock.advance(299)
        self.assert_result(self.send(), is_replayed=True)
        self.clock.advance(2)
        client = self.run_job()
        self.assert_result(client)
        self.assertEqual(len(self.starts), 2)

    def test_failed_job(self) -> None:
        """B9: a job that failed on the job server has a result like any other."""
        self.send()
        self.starts[0].respond(result_of("1", "failed"))
        again = self.send()
        self.assertEqual(
            (again.response.status, again.response.body), (200, result_of("1", "failed"))
        )

    def test_space_does_not_count(self) -> None:
        """What our own members are, and the space between members, make no other job."""
        self.run_job()
        for body in (
            b'{"account":"example","n":1,"wait":true}',
            b' {"account":"example" ,"n":1}\n',
        ):
            self.assert_result(self.send(body), is_replayed=True)


class ReuseTests(KeyTestCase):
    """Keys that come with another job."""

    def test_other_body(self) -> None:
        """Another job with a key in use is refused, whether the first one runs or has ended."""
        self.send()
        other = b'{"account":"example","n":2}'
        self.assert_problem(self.send(other).response, 422, "idempotency-key-reused")
        self.starts[0].respond(result_of("1"))
        refused = self.send(other)
        self.assert_problem(refused.response, 422, "idempotency-key-reused")
        self.assertEqual(refused.response.reason, HTTPStatus(422).phrase)
        self.assert_result(self.send(), is_replayed=True)
        self.assertEqual(len(self.starts), 1)

    def test_other_account(self) -> None:
        """An account's keys are its own."""
        bodies = [b'{"account":"%b"}' % name for name in (b"a", b"b", b"ab")]
        clients = [self.send(body, "k") for body in bodies]
        self.assertEqual([start.body["account"] for start in self.starts], ["a", "b", "ab"])
        for number, start in enumerate(self.starts):
            start.respond(result_of(str(number)))
        for number, client in enumerate(clients):
            self.assertEqual(client.response.body, result_of(str(number)))

    def test_account_and_key_do_not_blend(self) -> None:
        """No account and key look like another pair when they are put together."""
        clients = [self.send(b'{"account":"a"}', "bc"), self.send(b'{"account":"ab"}', "c")]
        self.assertEqual([start.body["account"] for start in self.starts], ["a", "ab"])
        for start in self.starts:
            start.respond(result_of("1"))
        self.assertEqual([client.response.status for client in clients], [200, 200])

    def test_bad_key(self) -> None:
        """A key that cannot be used is told, and nothing is started."""
        for key in ("", '""', "two words", "k" * 256, "é"):
            self.assert_problem(self.send(key=key).response, 400, "invalid-request")
        twice = self.connect().request(headers={"Idempotency-Key": "a", "idempotency-key": "b"})
        self.assert_problem(twice.response, 400, "invalid-request")
        self.assertEqual(self.starts, [])


class FreedKeyTests(KeyTestCase):
    """Keys of jobs that were not started: the next client with the key starts the job."""

    settings = {"starts_per_account": 1, "max_held": 2}

    def check_starts(self, number: int) -> None:
        """Check that the key starts a job, and that this is the start of that number."""
        again = self.send()
        self.assertEqual(len(self.starts), number)
        self.starts[-1].respond(result_of("1"))
        self.assert_result(again)
        self.assert_result(self.send(), is_replayed=True)

    def test_rejected(self) -> None:
        """S15: the job server rejected the job."""
        self.send()
        self.starts[0].respond(b"", 422)
        self.check_starts(2)

    def test_busy(self) -> None:
        """S17: the job server took no jobs of the account."""
        client = self.send(Prefer="wait=5")
        self.starts[0].respond(b"", 503, retry_after="10")
        self.assert_problem(client.response, 503, "upstream-busy")
        self.assert_problem(self.send(Prefer="wait=5").response, 503, "upstream-busy")
        self.clock.advance(10)
        self.check_starts(2)

    def test_left_while_queued(self) -> None:
        """Q15: its only client left before it was started."""
        self.submit()
        self.send().leave()
        self.starts[0].respond(result_of("0"))
        self.check_starts(2)

    def test_not_started_in_time(self) -> None:
        """Its client's wait was over before it was started."""
        self.submit()
        client = self.send(Prefer="wait=1")
        self.clock.advance(1)
        self.assert_problem(client.response, 504, "wait-over")
        self.starts[0].respond(result_of("0"))
        self.check_starts(2)

    def test_overloaded(self) -> None:
        """L3: there was no room for its client."""
        self.submit("a")
        self.submit("b")
        self.assert_problem(self.send().response, 503, "overloaded")
        for start in self.starts:
            start.respond(result_of("0"))
        self.check_starts(3)


class NoRoomTests(KeyTestCase):
    """Clients that cannot be held for a job that runs already."""

    settings = {"max_held": 1}

    def test_overloaded(self) -> None:
        """L3: who cannot join for want of room is told that the job was started, and which."""
        self.send()
        self.starts[0].ack("1")
        problem = self.assert_problem(self.send().response, 503, "overloaded", started="yes")
        self.assertEqual(problem["id"], "1")
        found = self.connect().get(problem["instance"]).response
        self.assertEqual((found.status, found.json), (202, {"state": "running", "id": "1"}))
        self.call_back(self.starts[0], result_of("1"))

    def test_replay_needs_none(self) -> None:
        """L3: a result is replayed although no client can be held."""
        self.run_job()
        self.submit()
        self.assert_result(self.send(), is_replayed=True)
        self.starts[1].respond(result_of("2"))


class ClientCallbackTests(KeyTestCase):
    """Keys of jobs whose clients want to be called back themselves."""

    settings = {"allow_client_callbacks": True}

    def test_other_callback(self) -> None:
        """Q4: the same job with another callback is another job, as its client would not hear."""
        body = b'{"account":"example","wait":false,"callback":"http://client.example/%d"}'
        self.send(body % 1)
        self.starts[0].respond(result_of("1"))
        self.assert_result(self.send(body % 1), is_replayed=True)
        self.assert_problem(self.send(body % 2).response, 422, "idempotency-key-reused")
        self.assert_problem(self.send(BODY).response, 422, "idempotency-key-reused")
