"""Health, as load balancers and supervisors see it, and what draining means for each client."""

from twisted.internet import error

from tests.support.proxy import JSON, Answer, Client, ProxyTestCase, result_of


class HealthTestCase(ProxyTestCase):
    def check(self, path: str, status: int, document: dict[str, object]) -> Answer:
        """Check what a health route says."""
        response = self.connect().get(path).response
        self.assertEqual((response.status, response.json), (status, document))
        self.assertEqual(response.headers["content-type"], JSON)
        return response

    def check_ready(self) -> None:
        self.check("/readyz", 200, {"status": "ready", "reasons": []})

    def check_not_ready(self, *reasons: str) -> None:
        self.check("/readyz", 503, {"status": "not-ready", "reasons": list(reasons)})


class HealthTests(HealthTestCase):
    """A proxy at work."""

    options = {"max_held": 1}

    def test_at_work(self) -> None:
        """A proxy is healthy and ready, with and without jobs."""
        for _ in range(2):
            self.check("/healthz", 200, {"status": "ok"})
            self.check_ready()
            self.submit()
        self.starts[0].respond(result_of("1"))

    def test_full(self) -> None:
        """L3: a proxy that can hold no more clients still tells how it is."""
        self.submit()
        self.assert_problem(self.submit().response, 503, "overloaded")
        self.check("/healthz", 200, {"status": "ok"})
        self.starts[0].respond(result_of("1"))

    def test_methods(self) -> None:
        """Q23: health can be asked for with GET and HEAD alone."""
        for path in ("/healthz", "/readyz"):
            client = self.connect().request(path, None, method="HEAD")
            self.assertTrue(client.transport.value().startswith(b"HTTP/1.1 200 OK\r\n"))
            response = self.connect().request(path, b"{}").response
            self.assert_problem(response, 405, "method-not-allowed")
            self.assertEqual(response.headers["allow"], "GET, HEAD")

    def test_ids(self) -> None:
        """Every answer has the request's id."""
        response = self.connect().get("/healthz", X_Request_Id="mine").response
        self.assertEqual(response.headers["x-request-id"], "mine")


class DeadJobServerTests(HealthTestCase):
    """A proxy whose job server does not answer."""

    def kill(self) -> None:
        """Have so many starts fail that the job server counts as dead for another half second."""
        self.fail_starts(error.ConnectionRefusedError())
        for number in range(10):
            self.submit(f"account {number}")
        self.clock.advance(0.5)

    def test_not_ready(self) -> None:
        """S23, G7: while no start is made, jobs had better go to another proxy."""
        self.kill()
        self.check_not_ready("job-server-unreachable")
        self.check("/healthz", 200, {"status": "ok"})
        self.assert_problem(self.submit().response, 503, "upstream-unreachable")
        self.clock.advance(0.4)
        self.check_not_ready("job-server-unreachable")

    def test_takes_the_job_that_tries(self) -> None:
        """S23: once a start would be made, the proxy is ready, else none would ever come."""
        self.kill()
        self.clock.advance(0.5)
        self.check_ready()
        self.assert_problem(self.submit().response, 503, "upstream-unreachable")
        self.check_not_ready("job-server-unreachable")

    def test_both_reasons(self) -> None:
        """G1, S23: all reasons are told."""
        self.kill()
        self.gateway.drain()
        self.check_not_ready("draining", "job-server-unreachable")


class DrainTests(HealthTestCase):
    """G1: a proxy that is about to stop."""

    options = {"per_account": 1}

    def check_refused(self, client: Client) -> None:
        """Check that a client is told that its job was not started, and to go elsewhere."""
        self.assert_problem(client.response, 503, "draining", started="no")
        self.assertEqual(client.response.headers["connection"], "close")
        self.assertEqual(client.response.headers["retry-after"], "1")
        self.assertFalse(client.transport.connected)

    def test_health(self) -> None:
        """G1: a proxy that drains is not ready, and healthy."""
        self.gateway.drain()
        self.check_not_ready("draining")
        self.check("/healthz", 200, {"status": "ok"})

    def test_new_jobs(self) -> None:
        """G1: a new job is refused, and its connection closed."""
        self.gateway.drain()
        self.check_refused(self.submit())
        self.check_refused(self.connect().request(headers={"Prefer": "respond-async"}))
        self.assertEqual(self.starts, [])

    def test_queued_jobs(self) -> None:
        """G1: queued jobs are refused and not started, also when there is room for them."""
        held = self.submit()
        queued = [self.submit(), self.submit("example")]
        queued.append(self.connect().request(headers={"Prefer": "respond-async"}))
        self.gateway.drain()
        for client in queued:
            self.check_refused(client)
        self.starts[0].ack("1")
        self.assertEqual(len(self.starts), 1)
        self.assertTrue(held.is_held)
        self.call_back(self.starts[0], result_of("1"))
        self.assertEqual(held.response.body, result_of("1"))

    def test_jobs_to_be_tried_again(self) -> None:
        """G1, S17: a job that waits for another try is refused, and not tried again."""
        client = self.submit()
        self.starts[0].respond(b"", 503, retry_after="2")
        self.assertTrue(client.is_held)
        self.gateway.drain()
        self.check_refused(client)
        self.clock.advance(5)
        self.assertEqual(len(self.starts), 1)

    def test_held_clients(self) -> None:
        """G1: started jobs go on, whether or not their ack has come."""
        clients = [self.submit("a"), self.submit("b")]
        self.starts[0].ack("0")
        self.gateway.drain()
        self.starts[1].ack("1")
        for number, client in enumerate(clients):
            self.assertTrue(client.is_held)
            self.call_back(self.starts[number], result_of(str(number)))
            self.assertEqual(client.response.body, result_of(str(number)))

    def test_connections(self) -> None:
        """G1, G2: held clients' connections end with their answers, and idle ones at once."""
        held, idle = self.submit(), self.connect().get("/healthz")
        self.starts[0].ack("1")
        self.gateway.drain()
        self.site.drain()
        self.assertTrue(held.is_held)
        self.assertFalse(idle.transport.connected)
        taken = self.call_back(self.starts[0], result_of("1"))
        self.assertEqual((taken.status, taken.headers["connection"]), (200, "close"))
        self.assertEqual(held.response.body, result_of("1"))
        self.assertEqual(held.response.headers["connection"], "close")
        self.assertFalse(held.transport.connected)

    def test_kept_alive_without_draining_connections(self) -> None:
        """G1: only what is refused costs a client its connection."""
        held = self.submit()
        self.gateway.drain()
        self.starts[0].respond(result_of("1"))
        self.assertNotIn("connection", held.response.headers)
        self.assertTrue(held.transport.connected)

    def test_results(self) -> None:
        """G1, Q3: what is known of jobs can be asked for, and polls are answered."""
        client = self.connect().request(headers={"Prefer": "respond-async"})
        self.starts[0].ack("1")
        location = client.response.headers["location"]
        self.gateway.drain()
        self.assertEqual(self.connect().get(location).response.status, 202)
        polling = self.connect().get(location, Prefer="wait=20")
        self.call_back(self.starts[0], result_of("1"))
        self.assertEqual(polling.response.body, result_of("1"))
        self.assertEqual(self.connect().get(location).response.body, result_of("1"))

    def test_keys(self) -> None:
        """G1: who comes again with a key gets the result, or is told that the job was started."""
        keyed = {"Idempotency-Key": "k"}
        first = self.connect().request(headers=keyed)
        self.starts[0].ack("1")
        self.gateway.drain()
        again = self.connect().request(headers=keyed).response
        problem = self.assert_problem(again, 503, "draining", started="yes")
        self.call_back(self.starts[0], result_of("1"))
        replayed = self.connect().request(headers=keyed).response
        self.assertEqual(first.response.body, replayed.body)
        self.assertEqual(replayed.headers["content-location"], problem["instance"])

    def test_outcome_of_queued_jobs(self) -> None:
        """G1, Q3: who asks for a job that was queued is told that it was not started."""
        self.submit()
        client = self.connect().request(headers={"Prefer": "respond-async, wait=1"})
        self.clock.advance(1)
        self.gateway.drain()
        found = self.connect().get(client.response.headers["location"]).response
        self.assert_problem(found, 503, "draining", started="no")
        self.starts[0].respond(result_of("1"))
        self.assertEqual(len(self.starts), 1)
