"""The operator's side: the status, the feed of it, the jobs under way, and the order to drain."""

import json
from typing import Any

from twisted.internet import error

from jobproxy.monitoring.status import MAX_WATCHERS
from tests.support.proxy import Client, ProxyTestCase, result_of


class AdminTestCase(ProxyTestCase):
    def read(self, path: str) -> Any:
        response = self.operate().get(path).response
        self.assertEqual(response.status, 200)
        return response.json


class StatusTests(AdminTestCase):
    def test_agrees(self) -> None:
        """The status says how many are held, queued, starting and done, of which outcome."""
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

    def test_time(self) -> None:
        """The status says when it was, and since when the process runs."""
        before = self.read("/status")
        self.clock.advance(2.5)
        after = self.read("/status")
        self.assertEqual(after["time"] - before["time"], 2.5)
        self.assertEqual(after["uptime"] - before["uptime"], 2.5)

    def test_accounts(self) -> None:
        """The longest queues come first, and do not say whose they are."""
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

    def test_refusals(self) -> None:
        """The last refusals come first, each with the id of its request."""
        self.connect().request(body=b"[]", headers={"X-Request-Id": "one"})
        self.connect().request("/nowhere", headers={"X-Request-Id": "two"})
        refusals = self.read("/status")["refusals"]
        found = [(each["status"], each["outcome"], each["requestId"]) for each in refusals]
        self.assertEqual(sorted(found), [(400, "invalid-json", "one"), (404, "not-found", "two")])

    def test_not_ready(self) -> None:
        """L5: a process that can open no more files says that it wants no jobs, and why."""
        self.has_descriptors = False
        response = self.connect().get("/readyz").response
        self.assertEqual(response.status, 503)
        self.assertEqual(response.json["reasons"], ["no-file-descriptors"])
        self.assertEqual(self.read("/status")["reasons"], ["no-file-descriptors"])

    def test_circuit(self) -> None:
        """S1: the status tells that the job server is dead."""
        self.fail_starts(error.ConnectionRefusedError())
        for _ in range(10):
            client = self.submit()
            self.clock.pump([0.2, 0.4])
            self.assertEqual(client.response.status, 503)
        self.assertEqual(self.read("/status")["circuit"], "open")

    def test_log_dropped(self) -> None:
        """L7: the status and the metrics tell how many lines were dropped."""
        self.log_dropped = {"full": 2, "limited": 3}
        self.assertEqual(self.read("/status")["logDropped"], 5)
        metrics = self.connect().get("/metrics").response.body.decode()
        self.assertIn('jobproxy_log_dropped_total{reason="full"} 2.0', metrics)


class AccountTests(AdminTestCase):
    options = {"shows_accounts": True}

    def test_accounts(self) -> None:
        """Lanes and jobs say whose they are if that may be shown."""
        client = self.submit("somebody")
        self.assertEqual(self.read("/status")["accounts"]["longest"][0]["account"], "somebody")
        self.assertEqual(self.read("/jobs")["jobs"][0]["account"], "somebody")
        client.leave()


class FeedTests(AdminTestCase):
    def watch(self) -> Client:
        return self.operate().get("/events")

    def read_events(self, client: Client) -> list[Any]:
        """Return the events that a watcher has got so far."""
        head, _, body = client.transport.value().partition(b"\r\n\r\n")
        self.assertTrue(head.startswith(b"HTTP/1.1 200 OK\r\n"))
        self.assertIn(b"Content-Type: text/event-stream", head)
        self.assertNotIn(b"Content-Length", head)
        chunks = body.decode().removeprefix("retry: 1000\n").split("\n\n")
        self.assertEqual(chunks.pop(), "")
        return [json.loads(chunk.removeprefix("data: ")) for chunk in chunks]

    def test_events(self) -> None:
        """There is an event at once, and then one every second, with what is so then."""
        watcher = self.watch()
        self.assertEqual(len(self.read_events(watcher)), 1)
        client = self.submit()
        self.clock.pump([1.0, 1.0])
        self.assertEqual([event["held"] for event in self.read_events(watcher)], [0, 1, 1])
        client.leave()
        self.clock.advance(1)
        self.assertEqual(self.read_events(watcher)[-1]["held"], 0)

    def test_leaves(self) -> None:
        """Nothing is left of a watcher that leaves, and it does not count as a client lost."""
        watchers = [self.watch(), self.watch()]
        watchers[0].leave()
        self.clock.advance(1)
        self.assertEqual(len(self.read_events(watchers[1])), 2)
        watchers[1].leave()
        outcomes = [each["outcome"] for each in self.read("/status")["responses"]]
        self.assertEqual(outcomes, ["ok"])

    def test_does_not_read(self) -> None:
        """A watcher that does not read gets no more, and is closed after a while."""
        watcher = self.watch()
        assert watcher.transport.producer is not None
        watcher.transport.producer.pauseProducing()
        size = len(watcher.transport.value())
        self.clock.pump([1.0] * 5)
        self.assertEqual(len(watcher.transport.value()), size)
        self.clock.pump([1.0] * 120)
        self.assertFalse(watcher.transport.connected)

    def test_stop(self) -> None:
        """The feed ends with the process, so that nobody who watches keeps it alive."""
        watcher = self.watch()
        self.feed.stopService()
        self.assertFalse(watcher.transport.connected)
        self.clock.advance(5)
        self.assertEqual(len(self.read_events(watcher)), 1)

    def test_too_many(self) -> None:
        """There is a limit to those who watch."""
        watchers = [self.watch() for _ in range(MAX_WATCHERS)]
        self.assert_problem(self.watch().response, 503, "overloaded")
        for watcher in watchers:
            watcher.leave()

    def test_head(self) -> None:
        """HEAD gets no events."""
        client = self.operate().request("/events", None, method="HEAD")
        self.assertIn(b"text/event-stream", client.transport.value())
        self.clock.advance(3)
        self.assertNotIn(b"data:", client.transport.value())


class JobListTests(AdminTestCase):
    def test_jobs(self) -> None:
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

    def test_query(self) -> None:
        """The list can be of one state, and of some jobs only; it says how many there are."""
        clients = [self.submit() for _ in range(5)]
        self.assertEqual(self.read("/jobs?state=queued")["total"], 3)
        listed = self.read("/jobs?limit=2&state=queued")
        self.assertEqual((len(listed["jobs"]), listed["total"]), (2, 3))
        for client in clients:
            client.leave()

    def test_bad_query(self) -> None:
        """Q2: a query that means nothing is refused, with what to change."""
        for query, pointer in (
            ("state=ended", "/state"),
            ("limit=0", "/limit"),
            ("limit=1001", "/limit"),
            ("limit=-1", "/limit"),
            ("limit=x", "/limit"),
            ("limit=%C2%B2", "/limit"),
            ("sate=queued", "/sate"),
        ):
            response = self.operate().get(f"/jobs?{query}").response
            document = self.assert_problem(response, 400, "invalid-request")
            self.assertEqual([fault["pointer"] for fault in document["errors"]], [pointer])


class DrainTests(AdminTestCase):
    def test_drain(self) -> None:
        """The order to drain is given on once, and answered."""
        client = self.submit()
        for _ in range(2):
            response = self.operate().request("/drain", None).response
            self.assertEqual(
                (response.status, response.json), (202, {"status": "draining", "held": 1})
            )
        self.assertEqual(self.is_told_to_stop, 1)
        client.leave()

    def test_not_by_a_page(self) -> None:
        """A web page can neither end the process nor drop an orphan."""
        origin = {"Origin": "http://evil.example"}
        response = self.operate().request("/drain", None, headers=origin).response
        self.assert_problem(response, 403, "forbidden")
        self.assertEqual(self.is_told_to_stop, 0)
        token = self.signer.mint()
        self.connect().request(f"/callback/{token.text}", result_of("1"))
        path = f"/orphans/{token.job_id}"
        response = self.operate().request(path, None, method="DELETE", headers=origin).response
        self.assert_problem(response, 403, "forbidden")
        self.assertEqual(self.operate().get(path).response.body, result_of("1"))

    def test_get(self) -> None:
        """Q23: to look at the order does not give it."""
        self.assert_problem(self.operate().get("/drain").response, 405, "method-not-allowed")
        self.assertEqual(self.is_told_to_stop, 0)
