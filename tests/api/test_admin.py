"""The operator's routes: status, feed, list of jobs, drain."""

import json
from typing import Any, cast

from twisted.internet import error

from jobproxy.monitoring.status import MAX_WATCHERS
from tests.support.clients import Client
from tests.support.proxy import ProxyTestCase, result_of


class AdminTestCase(ProxyTestCase):
    def read(self, path: str) -> Any:
        response = self.operate().get(path).response
        self.assertEqual(response.status, 200)
        return response.json


class StatusTests(AdminTestCase):
    def test_status_counts_what_has_happened(self) -> None:
        """The status counts held clients, jobs, starts, callbacks and responses by outcome."""
        clients = [self.submit() for _ in range(4)]
        self.starts[0].ack("1")
        self.call_back(self.starts[0], result_of("1"))
        status = self.read("/status")
        self.assertEqual(status["held"], 3)
        self.assertEqual((status["queued"], status["starting"], status["jobs"]), (1, 2, 3))
        self.assertIn({"status": 200, "outcome": "ok", "count": 2}, status["responses"])
        self.assertEqual(status["starts"], {"acknowledged": 1})
        self.assertEqual(status["callbacks"], {"accepted": 1})
        self.assertEqual(sum(status["jobSeconds"]["counts"]), 1)
        self.assertEqual(
            len(status["jobSeconds"]["counts"]), len(status["jobSeconds"]["bounds"]) + 1
        )
        self.assertEqual((status["ready"], status["reasons"]), (True, []))
        self.assertEqual(status["maxHeld"], 100)
        for client in clients:
            client.leave()

    def test_status_has_time_and_uptime(self) -> None:
        """The status has the time and the uptime of the process."""
        before = self.read("/status")
        self.clock.advance(2.5)
        after = self.read("/status")
        self.assertEqual(after["time"] - before["time"], 2.5)
        self.assertEqual(after["uptime"] - before["uptime"], 2.5)

    def test_longest_queues_are_first_and_without_accounts(self) -> None:
        """The longest queues are first, and do not show the account."""
        clients = [self.submit(account) for account in "aaabbbbb"]
        accounts = self.read("/status")["accounts"]
        self.assertEqual(accounts["count"], 2)
        expected = [
            {"queued": 3, "running": 2, "paused": 0.0},
            {"queued": 1, "running": 2, "paused": 0.0},
        ]
        self.assertEqual(accounts["longest"], expected)
        for client in clients:
            client.leave()

    def test_last_refusals_have_their_request_id(self) -> None:
        """The last refusals are listed with the ids of their requests."""
        self.connect().request(body=b"[]", headers={"X-Request-Id": "one"})
        self.connect().request("/nowhere", headers={"X-Request-Id": "two"})
        refusals = self.read("/status")["refusals"]
        found = [(each["status"], each["outcome"], each["requestId"]) for each in refusals]
        self.assertEqual(sorted(found), [(400, "invalid-json", "one"), (404, "not-found", "two")])

    def test_proxy_without_free_descriptors_is_not_ready(self) -> None:
        """L5: a process without free file descriptors is not ready, with that reason."""
        self.has_descriptors = False
        response = self.operate().get("/readyz").response
        self.assertEqual(response.status, 503)
        self.assertEqual(response.json["reasons"], ["no-file-descriptors"])
        self.assertEqual(self.read("/status")["reasons"], ["no-file-descriptors"])

    def test_status_shows_the_open_circuit(self) -> None:
        """S1: the status shows that the circuit is open."""
        self.fail_starts(error.ConnectionRefusedError())
        for _ in range(10):
            client = self.submit()
            self.clock.pump([0.2, 0.4])
            self.assertEqual(client.response.status, 503)
        self.assertEqual(self.read("/status")["circuit"], "open")

    def test_dropped_log_lines_are_counted(self) -> None:
        """L7: the status and the metrics count the log lines that were dropped."""
        self.log_dropped = {"full": 2, "limited": 3}
        self.assertEqual(self.read("/status")["logDropped"], 5)
        metrics = self.operate().get("/metrics").response.body.decode()
        self.assertIn('jobproxy_log_dropped_total{reason="full"} 2.0', metrics)


class AccountTests(AdminTestCase):
    settings = {"log_accounts": True}

    def test_queues_and_jobs_show_their_account_if_allowed(self) -> None:
        """Queues and jobs show their account with --log-accounts."""
        client = self.submit("somebody")
        self.assertEqual(self.read("/status")["accounts"]["longest"][0]["account"], "somebody")
        self.assertEqual(self.read("/jobs")["jobs"][0]["account"], "somebody")
        client.leave()


class FeedTests(AdminTestCase):
    def watch(self) -> Client:
        return self.operate().get("/events")

    def read_events(self, client: Client) -> list[Any]:
        """Return the events that a client has received so far."""
        head, _, body = client.transport.value().partition(b"\r\n\r\n")
        self.assertTrue(head.startswith(b"HTTP/1.1 200 OK\r\n"))
        self.assertIn(b"Content-Type: text/event-stream", head)
        self.assertNotIn(b"Content-Length", head)
        chunks = body.decode().removeprefix("retry: 1000\n").split("\n\n")
        self.assertEqual(chunks.pop(), "")
        return [json.loads(chunk.removeprefix("data: ")) for chunk in chunks]

    def test_event_is_sent_at_once_and_every_second(self) -> None:
        """There is an event at once and then every second, each with the current status."""
        watcher = self.watch()
        self.assertEqual(len(self.read_events(watcher)), 1)
        client = self.submit()
        self.clock.pump([1.0, 1.0])
        self.assertEqual([event["held"] for event in self.read_events(watcher)], [0, 1, 1])
        client.leave()
        self.clock.advance(1)
        self.assertEqual(self.read_events(watcher)[-1]["held"], 0)

    def test_client_that_leaves_is_forgotten(self) -> None:
        """A client that leaves the feed is forgotten, and does not count as a client that left."""
        watchers = [self.watch(), self.watch()]
        watchers[0].leave()
        self.clock.advance(1)
        self.assertEqual(len(self.read_events(watchers[1])), 2)
        watchers[1].leave()
        outcomes = [each["outcome"] for each in self.read("/status")["responses"]]
        self.assertEqual(outcomes, ["ok"])

    def test_client_that_does_not_read_is_closed(self) -> None:
        """A client that does not read gets no more events, and is closed after a while."""
        watcher = self.watch()
        assert watcher.transport.producer is not None
        watcher.transport.producer.pauseProducing()
        size = len(watcher.transport.value())
        self.clock.pump([1.0] * 5)
        self.assertEqual(len(watcher.transport.value()), size)
        self.clock.pump([1.0] * 120)
        self.assertFalse(watcher.transport.connected)

    def test_feed_ends_with_the_process(self) -> None:
        """The feed ends with the process, so that its clients do not keep it alive."""
        watcher = self.watch()
        self.feed.stopService()
        self.assertFalse(watcher.transport.connected)
        self.clock.advance(5)
        self.assertEqual(len(self.read_events(watcher)), 1)

    def test_number_of_clients_is_bounded(self) -> None:
        """There is a maximum number of clients of the feed."""
        watchers = [self.watch() for _ in range(MAX_WATCHERS)]
        self.assert_problem(self.watch().response, 503, "overloaded")
        for watcher in watchers:
            watcher.leave()

    def test_feed_goes_on_after_a_status_that_fails(self) -> None:
        """A status that cannot be described is logged, and the feed goes on with the next one."""
        watcher = self.watch()
        self.log_dropped = {"full": cast(Any, "none")}
        self.clock.pump([1.0, 1.0])
        self.assertEqual(len(self.flushLoggedErrors(TypeError)), 2)
        self.log_dropped = {}
        self.clock.advance(1)
        self.assertEqual(len(self.read_events(watcher)), 2)
        watcher.leave()

    def test_500_when_the_first_status_fails(self) -> None:
        """A client of the feed gets an error if the first status cannot be described."""
        self.log_dropped = {"full": cast(Any, "none")}
        self.assert_problem(self.watch().response, 500, "internal", started="unknown")
        self.assertEqual(len(self.flushLoggedErrors(TypeError)), 1)

    def test_head_gets_no_events(self) -> None:
        """HEAD gets no events."""
        client = self.operate().request("/events", None, method="HEAD")
        self.assertIn(b"text/event-stream", client.transport.value())
        self.clock.advance(3)
        self.assertNotIn(b"data:", client.transport.value())


class JobListTests(AdminTestCase):
    def test_list_has_the_jobs_that_have_not_ended(self) -> None:
        """The list has the jobs that have not ended, the oldest first."""
        clients = [self.submit() for _ in range(3)]
        self.starts[1].ack("2")
        self.clock.advance(1.5)
        clients.append(self.submit())
        listed = self.read("/jobs")
        self.assertEqual(listed["total"], 4)
        states = ["starting", "running", "starting", "queued"]
        self.assertEqual([job["state"] for job in listed["jobs"]], states)
        self.assertEqual([job["age"] for job in listed["jobs"]], [1.5, 1.5, 1.5, 0.0])
        self.assertEqual(listed["jobs"][1]["id"], "2")
        self.assertEqual([job["waiting"] for job in listed["jobs"]], [1] * 4)
        self.assertNotIn("example", json.dumps(listed))
        self.call_back(self.starts[1], result_of("2"))
        self.assertEqual(self.read("/jobs")["total"], 3)
        for client in clients:
            client.leave()

    def test_list_can_be_filtered_by_state_and_limited(self) -> None:
        """The list can be filtered by state and limited; its total counts all that match."""
        clients = [self.submit() for _ in range(5)]
        self.assertEqual(self.read("/jobs?state=queued")["total"], 3)
        listed = self.read("/jobs?limit=2&state=queued")
        self.assertEqual((len(listed["jobs"]), listed["total"]), (2, 3))
        for client in clients:
            client.leave()

    def test_invalid_query_is_refused_with_a_pointer(self) -> None:
        """Q2: an invalid query is refused with a pointer to the parameter."""
        for query, pointer in (
            ("state=ended", "/state"),
            ("limit=0", "/limit"),
            ("limit=1001", "/limit"),
            ("limit=-1", "/limit"),
            ("limit=x", "/limit"),
            ("limit=%C2%B2", "/limit"),
            ("limit=0000000001", "/limit"),
            ("limit=" + "0" * 5_000, "/limit"),
            ("limit=000000001" + "0" * 5_000, "/limit"),
            ("sate=queued", "/sate"),
        ):
            response = self.operate().get(f"/jobs?{query}").response
            document = self.assert_problem(response, 400, "invalid-request")
            self.assertEqual([fault["pointer"] for fault in document["errors"]], [pointer])


class DrainTests(AdminTestCase):
    def test_drain_stops_the_process_once(self) -> None:
        """A request to drain stops the process once; a second one gets the same response."""
        client = self.submit()
        for _ in range(2):
            response = self.operate().request("/drain", None).response
            self.assertEqual(
                (response.status, response.json), (202, {"status": "draining", "held": 1})
            )
        self.assertEqual(self.stops_requested, 1)
        client.leave()

    def test_web_page_can_neither_drain_nor_drop_an_orphan(self) -> None:
        """A web page can neither drain the process nor drop an orphan."""
        origin = {"Origin": "http://evil.example"}
        response = self.operate().request("/drain", None, headers=origin).response
        self.assert_problem(response, 403, "forbidden")
        self.assertEqual(self.stops_requested, 0)
        token = self.signer.mint()
        self.connect().request(f"/callback/{token.text}", result_of("1"))
        path = f"/orphans/{token.job_id}"
        response = self.operate().request(path, None, method="DELETE", headers=origin).response
        self.assert_problem(response, 403, "forbidden")
        self.assertEqual(self.operate().get(path).response.body, result_of("1"))

    def test_get_does_not_drain(self) -> None:
        """Q23: a GET does not drain."""
        self.assert_problem(self.operate().get("/drain").response, 405, "method-not-allowed")
        self.assertEqual(self.stops_requested, 0)
