"""A job's way through the whole proxy, in memory."""

import json
import unittest

from twisted.trial.unittest import SynchronousTestCase

from tests.support.proxy import JSON, ProxyTestCase, result_of


class HeldTests(ProxyTestCase):
    """Clients that are held until their job is done."""

    def test_answers_with_the_callbacks_bytes(self) -> None:
        """B12: a client is held over the ack, and answered with the callback byte for byte."""
        client = self.submit()
        self.assertTrue(client.is_held)
        (start,) = self.starts
        start.ack()
        self.assertTrue(client.is_held)
        taken = self.call_back(start, result_of("4499a6e0c2ef4b98"))
        self.assertEqual(taken.json, {"status": "accepted"})
        self.assertEqual(client.response.status, 200)
        self.assertEqual(client.response.headers["content-type"], JSON)
        self.assertEqual(client.response.body, result_of("4499a6e0c2ef4b98"))

    def test_starts_without_waiting(self) -> None:
        """Q4: the start has our callback, the client's parameters as they came, and no wait."""
        body = (
            b'{"callback": "http://evil.example/", "account":"example", "n": 1.0e2,'
            b' "wait": true, "deep": {"wait": [ 1 ]}}'
        )
        client = self.connect().request(body=body)
        (start,) = self.starts
        self.assertEqual(
            start.raw,
            b'{"account":"example","n": 1.0e2,"deep": {"wait": [ 1 ]},'
            b'"wait":false,"callback":"%s"}' % start.body["callback"].encode(),
        )
        self.assertEqual(start.request.getHeader("content-type"), JSON)
        start.ack("1")
        self.call_back(start, result_of("1"))
        self.assertEqual(client.response.status, 200)

    def test_tells_clients_apart(self) -> None:
        """Each of many clients gets the result of its own job, in whatever order they end."""
        clients = [self.submit(account) for account in "abcdef"]
        for number, start in enumerate(self.starts):
            start.ack(str(number))
        for number in (3, 0, 5, 1, 4, 2):
            self.call_back(self.starts[number], result_of(str(number)))
        self.assertEqual(
            [client.response.body for client in clients], [result_of(str(n)) for n in range(6)]
        )

    def test_answers_before_the_ack(self) -> None:
        """B1: a callback that overtakes the ack is the answer, at once; the ack changes nothing."""
        client = self.submit()
        (start,) = self.starts
        self.call_back(start, result_of("1"))
        self.assertEqual(client.response.body, result_of("1"))
        start.ack("1")
        self.assertEqual(len(client.responses), 1)

    def test_goes_on_over_progress(self) -> None:
        """B10: a callback whose state is not an end is taken, and the client goes on waiting."""
        client = self.submit()
        (start,) = self.starts
        start.ack("1")
        for state in ("queued", "pending", "running"):
            taken = self.call_back(start, result_of("1", state))
            self.assertEqual(taken.json, {"status": "progress"})
        self.assertTrue(client.is_held)
        self.call_back(start, result_of("1"))
        self.assertEqual(client.response.body, result_of("1"))

    def test_passes_failed_jobs_on(self) -> None:
        """B9: a failed job is a result like any other."""
        client = self.submit()
        (start,) = self.starts
        start.ack("1")
        self.call_back(start, result_of("1", "failed"))
        self.assertEqual(client.response.status, 200)
        self.assertEqual(client.response.body, result_of("1", "failed"))

    def test_takes_a_result_in_the_ack(self) -> None:
        """S13: an ack that is a result already is the answer."""
        client = self.submit()
        (start,) = self.starts
        start.respond(result_of("1"))
        self.assertEqual(client.response.body, result_of("1"))
        self.assertEqual(self.call_back(start, result_of("1")).json, {"status": "duplicate"})

    def test_needs_no_id(self) -> None:
        """S12: an ack without a usable id is no error; the token names the job."""
        for ack in (b"{}", b'{"id": 7}', b'{"id": "%s"}' % (b"x" * 129)):
            client = self.submit()
            start = self.starts[-1]
            start.respond(ack)
            self.call_back(start, result_of("1"))
            self.assertEqual(client.response.status, 200)

    def test_keeps_connections_alive(self) -> None:
        """A client's connection takes its next job when the one before is answered."""
        client = self.connect()
        for number in range(3):
            client.request()
            self.starts[number].ack(str(number))
            self.call_back(self.starts[number], result_of(str(number)))
        self.assertEqual([response.status for response in client.responses], [200] * 3)
        self.assertTrue(client.transport.connected)

    def test_serves_the_job_servers_own_paths(self) -> None:
        """A job may come to /proxy, to /start as at the job server, or to the bare host."""
        for path in ("/proxy", "/start", "/"):
            client = self.connect().request(path)
            self.starts[-1].respond(result_of("1"))
            self.assertEqual(client.response.status, 200)


class DeadlineTests(ProxyTestCase):
    """Clients whose job does not end in time."""

    def test_callback_never_comes(self) -> None:
        """B11: at the deadline a client gets a 504 that says that its job was started."""
        client = self.submit()
        self.starts[0].ack("1")
        self.clock.advance(29.9)
        self.assertTrue(client.is_held)
        self.clock.advance(0.1)
        problem = self.assert_problem(client.response, 504, "wait-over", started="yes")
        self.assertEqual(problem["id"], "1")
        self.assertIn(problem["job"], self.starts[0].callback_path)
        self.assertNotIn(self.starts[0].callback_path.split(".")[1], client.response.body.decode())

    def test_callback_comes_late(self) -> None:
        """B5: a callback after the deadline is taken, and changes nothing."""
        client = self.submit()
        self.starts[0].ack("1")
        self.clock.advance(30)
        taken = self.call_back(self.starts[0], result_of("1"))
        self.assertEqual((taken.status, taken.json), (200, {"status": "late"}))
        self.assertEqual(client.response.status, 504)


class ShortWaitTests(ProxyTestCase):
    """Clients that wait for less time than a start call may take."""

    settings = {"wait": 5.0}

    def test_says_whether_it_was_started(self) -> None:
        """At the deadline a queued job was not started, one without an ack perhaps was."""
        starting = [self.submit(), self.submit()]
        queued = self.submit()
        self.clock.advance(5)
        for client in starting:
            self.assert_problem(client.response, 504, "start-unknown", started="unknown")
        self.assert_problem(queued.response, 504, "wait-over", started="no")
        for start in self.starts:
            start.ack()
        self.assertEqual(len(self.starts), 2)


class LeavingTests(ProxyTestCase):
    """Clients that do not wait for their answer."""

    def test_leaves_while_queued(self) -> None:
        """Q15: a client that leaves while its job is queued starts nothing."""
        held = [self.submit(), self.submit()]
        self.submit().leave()
        self.submit()
        self.starts[0].respond(result_of("1"))
        self.starts[1].respond(result_of("2"))
        self.assertEqual([client.response.status for client in held], [200, 200])
        self.assertEqual(len(self.starts), 3)
        self.starts[2].respond(result_of("3"))

    def test_leaves_during_the_start(self) -> None:
        """Q16: a start in flight is not aborted when its client leaves; its callback is taken."""
        client = self.submit()
        client.leave()
        self.assertEqual(self.table.clients.held, 0)
        self.starts[0].ack("1")
        taken = self.call_back(self.starts[0], result_of("1"))
        self.assertEqual(taken.json, {"status": "accepted"})

    def test_leaves_for_good(self) -> None:
        """Q16: a job without client or callback is forgotten when its token expires."""
        self.submit().leave()
        self.starts[0].ack("1")
        self.clock.advance(86_399)
        self.assertEqual(len(self.table), 1)
        self.clock.advance(1)
        self.assertEqual(len(self.table), 0)


class StoppingTests(ProxyTestCase):
    """What held clients get when the proxy is stopped."""

    def test_tells_all(self) -> None:
        """Every held client is told that the proxy stops, and whether its job was started."""
        clients = [self.submit() for _ in range(3)]
        self.starts[0].ack("1")
        # The first ack made room for the third start; it and the second have no ack yet.
        clients.append(self.submit())
        self.table.startService()
        self.table.stopService()
        for client, started in zip(clients, ("yes", "unknown", "unknown", "no"), strict=True):
            problem = self.assert_problem(client.response, 503, "draining", started=started)
            self.assertIn("job", problem)
        for start in self.starts[1:]:
            start.ack()


class LimitTests(ProxyTestCase):
    """How much is held and started at once."""

    settings = {"starts_per_account": 2, "queue_per_account": 3, "max_held": 8}

    def test_bounds_starts_of_an_account(self) -> None:
        """L1: an account has so many starts at once; more wait for an ack, in order."""
        for number in range(5):
            self.connect().request(body=b'{"account":"a","n":%d}' % number)
        self.assertEqual([start.body["n"] for start in self.starts], [0, 1])
        for number in range(5):
            self.starts[number].respond(result_of("1"))
        self.assertEqual([start.body["n"] for start in self.starts], [0, 1, 2, 3, 4])

    def test_bounds_queue_of_an_account(self) -> None:
        """L1: past its queue an account gets 429, and another account is served."""
        for _ in range(5):
            self.submit("a")
        refused = self.submit("a").response
        self.assert_problem(refused, 429, "account-queue-full")
        self.assertEqual(refused.reason, "Too Many Requests")
        self.assertEqual(refused.headers["retry-after"], "1")
        other = self.submit("b")
        self.assertEqual(self.starts[-1].body["account"], "b")
        self.starts[-1].respond(result_of("1"))
        self.assertEqual(other.response.status, 200)
        for number in (0, 1, 3, 4, 5):
            self.starts[number].respond(result_of("1"))

    def test_bounds_held_clients(self) -> None:
        """L3: past the limit a client gets 503 at once; when one is answered another is held."""
        clients = [self.submit(f"account {number}") for number in range(8)]
        refused = self.submit().response
        self.assert_problem(refused, 503, "overloaded")
        self.assertEqual(refused.headers["retry-after"], "1")
        self.starts[0].respond(result_of("1"))
        self.assertEqual(clients[0].response.status, 200)
        self.assertTrue(self.submit().is_held)
        for start in self.starts[1:]:
            start.respond(result_of("1"))


class CallbackTests(ProxyTestCase):
    """Callbacks that do not end the job."""

    def setUp(self) -> None:
        super().setUp()
        self.client = self.submit()
        (self.start,) = self.starts
        self.start.ack("1")

    def tearDown(self) -> None:
        self.assertTrue(self.client.is_held)
        self.call_back(self.start, result_of("1"))
        self.assertEqual(self.client.response.body, result_of("1"))
        super().tearDown()

    def test_forged(self) -> None:
        """B6: without a good token a callback is a path that does not exist; nothing is parsed."""
        token = self.start.callback_path.removeprefix("/callback/")
        job_id, _, mac = token.partition(".")
        unknown = self.connect().request("/nothing/here", b"").response
        forged = [f"{job_id}.{mac[:-1]}", job_id, f"{job_id}.", "x", f"{job_id}.{'A' * len(mac)}"]
        for path in forged:
            response = self.connect().request(f"/callback/{path}", b"not JSON").response
            problem = self.assert_problem(response, 404, "not-found")
            self.assertEqual({**unknown.json, "requestId": problem["requestId"]}, problem)
            self.assertEqual(
                {**unknown.headers, "x-request-id": problem["requestId"]}, response.headers
            )

    def test_malformed(self) -> None:
        """B7: a callback that is no JSON object is refused, and the job goes on."""
        for body in (b"", b"[]", b"null", b"{", b'{"id":', b"[" * 60_000, b"\xff", b'"x"'):
            response = self.call_back(self.start, body)
            self.assert_problem(response, 400, "invalid-json")

    def test_too_large(self) -> None:
        """B7: a callback of more than 64 KiB is refused, and the job goes on."""
        response = self.call_back(self.start, json.dumps({"id": "1", "x": "y" * 70_000}).encode())
        self.assert_problem(response, 413, "body-too-large")

    def test_other_id(self) -> None:
        """B8: a callback about another id than the ack's is refused, and the job goes on."""
        response = self.call_back(self.start, result_of("2"))
        self.assert_problem(response, 409, "callback-conflict")

    def test_content_type_does_not_count(self) -> None:
        """B7: what a callback says of its type is not judged."""
        response = (
            self.connect()
            .request(
                self.start.callback_path,
                result_of("1", "running"),
                headers={"Content-Type": "text/plain"},
            )
            .response
        )
        self.assertEqual(response.json, {"status": "progress"})

    def test_other_method(self) -> None:
        """B13: on a callback's path only POST is served, whatever the token."""
        for path in (self.start.callback_path, "/callback/x"):
            for method in ("GET", "PUT", "OPTIONS"):
                response = self.connect().request(path, None, method=method).response
                self.assert_problem(response, 405, "method-not-allowed")
                self.assertEqual(response.headers["allow"], "POST")


class SecondCallbackTests(ProxyTestCase):
    """Callbacks of a job that has been answered."""

    def test_duplicate(self) -> None:
        """B2: the first callback is the client's answer, a second one changes nothing."""
        client = self.submit()
        self.starts[0].ack("1")
        self.call_back(self.starts[0], result_of("1"))
        again = self.call_back(self.starts[0], result_of("1"))
        self.assertEqual((again.status, again.json), (200, {"status": "duplicate"}))
        other = self.call_back(self.starts[0], result_of("1", "failed"))
        self.assert_problem(other, 409, "callback-conflict")
        self.assertEqual(client.response.body, result_of("1"))

    def test_from_before_a_restart(self) -> None:
        """B3: a callback with a good token that is not known here is taken as late."""
        token = self.signer.mint().text
        response = self.connect().request(f"/callback/{token}", result_of("1")).response
        self.assertEqual((response.status, response.json), (200, {"status": "late"}))


class HarnessTests(SynchronousTestCase):
    """That the checks after each test can fail."""

    def test_held_client_is_found(self) -> None:
        """A test that leaves a job behind fails."""

        class Forgetful(ProxyTestCase):
            def test(self) -> None:
                self.submit()
                self.starts[0].ack()

        outcome = unittest.TestResult()
        Forgetful("test").run(outcome)
        self.assertEqual(len(outcome.failures) + len(outcome.errors), 1)
