"""Health and readiness for load balancers, and the responses of a proxy that drains."""

from twisted.internet import error

from tests.support.clients import JSON, Client, Response
from tests.support.proxy import ProxyTestCase, result_of


class HealthTestCase(ProxyTestCase):
    def check(self, path: str, status: int, document: dict[str, object]) -> Response:
        """Check the response of a health route."""
        response = self.operate().get(path).response
        found = {name: response.json[name] for name in response.json if name != "verdict"}
        self.assertEqual((response.status, found), (status, document))
        self.assertEqual(response.headers["content-type"], JSON)
        return response

    def check_ready(self, *warnings: str) -> None:
        more = {"warnings": list(warnings)} if warnings else {}
        self.check("/readyz", 200, {"status": "ready", "reasons": [], **more})

    def check_not_ready(self, *reasons: str, **more: object) -> None:
        self.check("/readyz", 503, {"status": "not-ready", "reasons": list(reasons), **more})


class HealthTests(HealthTestCase):
    """A proxy that is not draining."""

    settings = {"max_held": 1}

    def test_proxy_is_healthy_and_ready(self) -> None:
        """A proxy is healthy and ready, with and without jobs."""
        for _ in range(2):
            self.check("/healthz", 200, {"status": "ok"})
            self.check_ready()
            self.submit()
        self.starts[0].respond(result_of("1"))

    def test_full_proxy_is_healthy(self) -> None:
        """L3: a proxy that can hold no more clients is still healthy."""
        self.submit()
        self.assert_problem(self.submit().response, 503, "overloaded")
        self.check("/healthz", 200, {"status": "ok"})
        self.starts[0].respond(result_of("1"))

    def test_only_get_and_head_are_allowed(self) -> None:
        """Q23: only GET and HEAD are allowed for health and readiness."""
        for path in ("/healthz", "/readyz"):
            client = self.operate().request(path, None, method="HEAD")
            self.assertTrue(client.transport.value().startswith(b"HTTP/1.1 200 OK\r\n"))
            response = self.operate().request(path, b"{}").response
            self.assert_problem(response, 405, "method-not-allowed")
            self.assertEqual(response.headers["allow"], "GET, HEAD")

    def test_response_has_the_request_id(self) -> None:
        """Every response has the request's id."""
        response = self.operate().get("/healthz", X_Request_Id="mine").response
        self.assertEqual(response.headers["x-request-id"], "mine")


class JobServerDownTests(HealthTestCase):
    """A proxy whose job server is down."""

    def open_circuit(self) -> None:
        """Let so many starts fail that the circuit is open for another half second."""
        self.fail_starts(error.ConnectionRefusedError())
        for number in range(10):
            self.submit(f"account {number}")
        self.clock.advance(0.5)

    def test_proxy_is_ready_with_a_warning_while_the_circuit_is_open(self) -> None:
        """S23, G7: a job server that is away takes no node out of a load balancer."""
        self.open_circuit()
        self.check_ready("job-server-unreachable")
        self.check("/healthz", 200, {"status": "ok"})
        self.assert_problem(self.submit().response, 503, "upstream-unreachable")
        self.clock.advance(0.4)
        self.check_ready("job-server-unreachable")

    def test_there_is_no_warning_while_the_probe_may_be_sent(self) -> None:
        """S23: once a probe may be sent there is no warning, until it has failed."""
        self.open_circuit()
        self.clock.advance(0.5)
        self.check_ready()
        self.assert_problem(self.submit().response, 503, "upstream-unreachable")
        self.check_ready("job-server-unreachable")

    def test_all_reasons_are_listed(self) -> None:
        """G1, S23: all reasons for not being ready are listed."""
        self.open_circuit()
        self.gateway.drain()
        self.has_descriptors = False
        self.check_not_ready("draining", "no-file-descriptors", warnings=["job-server-unreachable"])


class DrainTests(HealthTestCase):
    """G1: a proxy that drains."""

    settings = {"starts_per_account": 1}

    def check_refused(self, client: Client) -> None:
        """Check for a 503 of a job that was not started, and the end of the connection."""
        self.assert_problem(client.response, 503, "draining", started="no")
        self.assertEqual(client.response.headers["connection"], "close")
        self.assertEqual(client.response.headers["retry-after"], "1")
        self.assertFalse(client.transport.connected)

    def test_draining_proxy_is_healthy_but_not_ready(self) -> None:
        """G1: a proxy that drains is healthy, but not ready."""
        self.gateway.drain()
        self.check_not_ready("draining")
        self.check("/healthz", 200, {"status": "ok"})

    def test_new_job_is_refused_and_its_connection_closed(self) -> None:
        """G1: a new job is refused, and its connection closed."""
        self.gateway.drain()
        self.check_refused(self.submit())
        self.check_refused(self.connect().request(headers={"Prefer": "respond-async"}))
        self.assertEqual(self.starts, [])

    def test_queued_jobs_are_refused(self) -> None:
        """G1: queued jobs are refused and not started, also when a slot becomes free."""
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

    def test_job_that_waits_for_its_retry_is_refused(self) -> None:
        """G1, S17: a job that waits for its retry is refused, and not sent again."""
        client = self.submit()
        self.starts[0].respond(b"", 503, retry_after="2")
        self.assertTrue(client.is_held)
        self.gateway.drain()
        self.check_refused(client)
        self.clock.advance(5)
        self.assertEqual(len(self.starts), 1)

    def test_started_jobs_go_on(self) -> None:
        """G1: started jobs go on, whether or not their ack has come."""
        clients = [self.submit("a"), self.submit("b")]
        self.starts[0].ack("0")
        self.gateway.drain()
        self.starts[1].ack("1")
        for number, client in enumerate(clients):
            self.assertTrue(client.is_held)
            self.call_back(self.starts[number], result_of(str(number)))
            self.assertEqual(client.response.body, result_of(str(number)))

    def test_connections_of_held_clients_end_with_their_response(self) -> None:
        """G1, G2: held clients' connections end with their response, and idle ones at once."""
        held, idle = self.submit(), self.connect().get("/elsewhere")
        self.starts[0].ack("1")
        self.gateway.drain()
        self.site.drain()
        self.assertTrue(held.is_held)
        self.assertFalse(idle.transport.connected)
        received = self.call_back(self.starts[0], result_of("1"))
        self.assertEqual((received.status, received.headers["connection"]), (200, "close"))
        self.assertEqual(held.response.body, result_of("1"))
        self.assertEqual(held.response.headers["connection"], "close")
        self.assertFalse(held.transport.connected)

    def test_only_a_refused_client_loses_its_connection(self) -> None:
        """G1: while connections do not drain, only a refused client loses its connection."""
        held = self.submit()
        self.gateway.drain()
        self.starts[0].respond(result_of("1"))
        self.assertNotIn("connection", held.response.headers)
        self.assertTrue(held.transport.connected)

    def test_results_can_still_be_polled(self) -> None:
        """G1, Q3: results can still be polled, and long polls get their response."""
        client = self.connect().request(headers={"Prefer": "respond-async"})
        self.starts[0].ack("1")
        location = client.response.headers["location"]
        self.gateway.drain()
        self.assertEqual(self.connect().get(location).response.status, 202)
        polling = self.connect().get(location, Prefer="wait=20")
        self.call_back(self.starts[0], result_of("1"))
        self.assertEqual(polling.response.body, result_of("1"))
        self.assertEqual(self.connect().get(location).response.body, result_of("1"))

    def test_client_that_repeats_its_key_gets_the_result(self) -> None:
        """G1: a client that repeats its key gets the result, or that the job was started."""
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

    def test_poll_for_a_refused_job_says_that_it_was_not_started(self) -> None:
        """G1, Q3: a poll for a job that was queued says that it was not started."""
        self.submit()
        client = self.connect().request(headers={"Prefer": "respond-async, wait=1"})
        self.clock.advance(1)
        self.gateway.drain()
        found = self.connect().get(client.response.headers["location"]).response
        self.assert_problem(found, 503, "draining", started="no")
        self.starts[0].respond(result_of("1"))
        self.assertEqual(len(self.starts), 1)
