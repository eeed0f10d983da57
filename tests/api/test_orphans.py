"""Results that nobody waits for: listed, shown, dropped, bounded and forgotten."""

from typing import Any

from twisted.logger import capturedLogs, formatEvent

from jobproxy.jobs.retention import OVERHEAD, Bounds
from tests.support.job_server import Start
from tests.support.proxy import JSON, Answer, ProxyTestCase, result_of

RETAIN = 300


class OrphanTestCase(ProxyTestCase):
    """What all tests of orphans need."""

    def orphan(self, upstream_id: str, body: bytes = b"") -> str:
        """Have a result come whose client has left, and return the job's handle."""
        client = self.submit()
        start = self.starts[-1]
        start.ack(upstream_id)
        client.leave()
        self.call_back(start, body or result_of(upstream_id))
        return self.job_id_of(start)

    def job_id_of(self, start: Start) -> str:
        return start.callback_path.removeprefix("/callback/").split(".")[0]

    def orphans(self) -> list[dict[str, Any]]:
        response = self.operate().get("/orphans").response
        self.assertEqual((response.status, response.headers["content-type"]), (200, JSON))
        self.assertEqual(list(response.json), ["orphans"])
        orphans: list[dict[str, Any]] = response.json["orphans"]
        return orphans

    def ids(self) -> list[str]:
        return [orphan["id"] for orphan in self.orphans()]

    def drop(self, job_id: str) -> Answer:
        return self.operate().request(f"/orphans/{job_id}", None, method="DELETE").response


class AdminTests(OrphanTestCase):
    """What the operator sees, and does."""

    def test_none(self) -> None:
        """B4: with no orphans the list is empty, whatever else is kept."""
        self.assertEqual(self.orphans(), [])
        client = self.submit()
        self.starts[0].ack("1")
        self.call_back(self.starts[0], result_of("1"))
        self.assertEqual(client.response.status, 200)
        self.assertEqual(self.orphans(), [])
        job_id = self.job_id_of(self.starts[0])
        self.assert_problem(self.operate().get(f"/orphans/{job_id}").response, 404, "not-found")
        self.assert_problem(self.drop(job_id), 404, "not-found")
        self.assertEqual(self.connect().get(f"/jobs/{job_id}").response.body, result_of("1"))

    def test_list(self) -> None:
        """B4: each orphan is listed with handle, id, age and size, the oldest first."""
        first = self.orphan("1")
        self.clock.advance(2.5)
        second = self.orphan("2", b'{"no": "id"}')
        self.clock.advance(0.25)
        expected = [
            {"job": first, "id": "1", "age": 2.75, "bytes": len(result_of("1"))},
            {"job": second, "id": "2", "age": 0.25, "bytes": 12},
        ]
        self.assertEqual(self.orphans(), expected)

    def test_no_id(self) -> None:
        """B3: an orphan whose id nobody knows is listed without one."""
        token = self.signer.mint()
        self.connect().request(f"/callback/{token.text}", b"{}")
        (orphan,) = self.orphans()
        self.assertEqual((orphan["job"], orphan["id"], orphan["bytes"]), (token.job_id, None, 2))

    def test_show(self) -> None:
        """B4: an orphan is shown byte for byte, as often as one likes, and stays."""
        job_id = self.orphan("1")
        for _ in range(2):
            shown = self.operate().get(f"/orphans/{job_id}").response
            self.assertEqual((shown.status, shown.body), (200, result_of("1")))
            self.assertEqual(shown.headers["content-type"], JSON)
        self.assertEqual(self.ids(), ["1"])

    def test_drop(self) -> None:
        """B4: an orphan that is dropped is known nowhere any more; the others stay."""
        job_id = self.orphan("1")
        self.orphan("2")
        dropped = self.drop(job_id)
        self.assertEqual((dropped.status, dropped.body), (204, b""))
        self.assertEqual(self.ids(), ["2"])
        for path in (f"/orphans/{job_id}", f"/jobs/{job_id}"):
            self.assert_problem(self.connect().get(path).response, 404, "not-found")
        self.assert_problem(self.drop(job_id), 404, "not-found")

    def test_callback_of_a_dropped_one(self) -> None:
        """B3: a second callback of an orphan that was dropped is kept like one before a restart."""
        job_id = self.orphan("1")
        self.drop(job_id)
        again = self.call_back(self.starts[0], result_of("1"))
        self.assertEqual(again.json, {"status": "late"})
        self.assertEqual([orphan["job"] for orphan in self.orphans()], [job_id])

    def test_unknown(self) -> None:
        """Q23: what is no orphan is an unknown path, and other methods are not served."""
        running = self.submit()
        job_id = self.job_id_of(self.starts[0])
        for name in ("x", self.signer.mint().job_id, job_id):
            self.assert_problem(self.operate().get(f"/orphans/{name}").response, 404, "not-found")
            self.assert_problem(self.drop(name), 404, "not-found")
        for path, allowed in (("/orphans", "GET"), ("/orphans/x", "DELETE, GET")):
            refused = self.operate().request(path, b"{}").response
            self.assert_problem(refused, 405, "method-not-allowed")
            self.assertEqual(
                set(refused.headers["allow"].split(", ")) - {"HEAD"}, set(allowed.split(", "))
            )
        self.starts[0].respond(result_of("1"))
        self.assertEqual(running.response.status, 200)


class CollectingTests(OrphanTestCase):
    """How an orphan finds somebody after all, or is forgotten."""

    def test_is_collected(self) -> None:
        """B4: who asks for the job gets the result; it is no orphan then, but is still kept."""
        job_id = self.orphan("1")
        self.clock.advance(RETAIN - 1)
        self.assertEqual(self.connect().get(f"/jobs/{job_id}").response.body, result_of("1"))
        self.assertEqual(self.orphans(), [])
        self.assert_problem(self.operate().get(f"/orphans/{job_id}").response, 404, "not-found")
        self.clock.advance(RETAIN - 1)
        self.assertEqual(self.connect().get(f"/jobs/{job_id}").response.body, result_of("1"))
        self.clock.advance(1)
        self.assert_problem(self.connect().get(f"/jobs/{job_id}").response, 404, "not-found")

    def test_is_collected_by_its_key(self) -> None:
        """Q16: a client that left may send its job again with the same key, and gets the result."""
        body = b'{"account":"example"}'
        headers = {"Idempotency-Key": "k"}
        self.connect().request(body=body, headers=headers).leave()
        self.starts[0].ack("1")
        self.call_back(self.starts[0], result_of("1"))
        self.assertEqual(self.ids(), ["1"])
        again = self.connect().request(body=body, headers=headers).response
        self.assertEqual(again.body, result_of("1"))
        self.assertEqual((self.orphans(), len(self.starts)), ([], 1))

    def test_duplicate_does_not_collect(self) -> None:
        """B2, B4: the same callback once more leaves an orphan as it is."""
        self.orphan("1")
        self.clock.advance(1)
        again = self.call_back(self.starts[0], result_of("1"))
        self.assertEqual(again.json, {"status": "duplicate"})
        (orphan,) = self.orphans()
        self.assertEqual((orphan["id"], orphan["age"]), ("1", 1.0))

    def test_is_forgotten(self) -> None:
        """B4: an orphan that nobody wants is forgotten after its time, and the log says so."""
        job_id = self.orphan("1")
        self.clock.advance(RETAIN - 1)
        self.assertEqual(self.ids(), ["1"])
        with capturedLogs() as events:
            self.clock.advance(1)
        self.assertEqual(self.orphans(), [])
        self.assert_problem(self.connect().get(f"/jobs/{job_id}").response, 404, "not-found")
        (line,) = map(formatEvent, events)
        self.assertIn(job_id, line)

    def test_a_line_for_each(self) -> None:
        """B4: each orphan has a line in the log when it comes; a result in time has none."""
        with capturedLogs() as events:
            job_ids = [self.orphan("1"), self.orphan("2")]
        lines = [formatEvent(event) for event in events if event["log_level"].name == "warn"]
        self.assertEqual(
            [job_id in line for job_id, line in zip(job_ids, lines, strict=True)], [True, True]
        )
        client = self.submit()
        self.starts[-1].ack("3")
        with capturedLogs() as events:
            self.call_back(self.starts[-1], result_of("3"))
        self.assertEqual(client.response.status, 200)
        self.assertEqual([event["log_namespace"] for event in events], ["jobproxy.jobs"])

    def test_nobody_waits_for_a_detached_job(self) -> None:
        """Q3: the result of a job whose client does not wait is no orphan; it can be asked for."""
        client = self.connect().request(body=b'{"account":"example","wait":false}')
        self.starts[0].ack("1")
        self.assertEqual(client.response.status, 202)
        self.call_back(self.starts[0], result_of("1"))
        self.assertEqual(self.orphans(), [])
        found = self.connect().get(client.response.headers["location"]).response
        self.assertEqual(found.body, result_of("1"))


class NumberTests(OrphanTestCase):
    """How many are kept at most."""

    bounds = Bounds(number=3)

    def test_oldest_goes(self) -> None:
        """B4: past so many orphans the oldest is forgotten, and the log says so."""
        for number in range(3):
            self.orphan(str(number))
        self.assertEqual(self.ids(), ["0", "1", "2"])
        with capturedLogs() as events:
            self.orphan("3")
        self.assertEqual(self.ids(), ["1", "2", "3"])
        self.assertEqual(sum("is forgotten" in formatEvent(event) for event in events), 1)

    def test_room_is_not_shared(self) -> None:
        """B4: no flood of orphans takes away what came in time, nor the other way round."""
        client = self.submit()
        self.starts[0].respond(result_of("first"))
        for number in range(5):
            self.orphan(str(number))
        location = client.response.headers["content-location"]
        self.assertEqual(self.connect().get(location).response.body, result_of("first"))
        for _ in range(5):
            self.submit()
            self.starts[-1].respond(result_of("x"))
        self.assertEqual(self.ids(), ["2", "3", "4"])
        self.assertEqual(self.connect().get(location).response.status, 404)


class SizeTests(OrphanTestCase):
    """How many bytes are kept at most."""

    bounds = Bounds(size=2 * (OVERHEAD + 1_000))

    def test_oldest_goes(self) -> None:
        """B4: as many of the oldest orphans are forgotten as the newest needs."""
        small = b'{"x":"%s"}' % (b"x" * 992)
        for upstream_id in ("1", "2"):
            self.orphan(upstream_id, small)
        self.assertEqual(self.ids(), ["1", "2"])
        self.orphan("3", small + b" ")
        self.assertEqual(self.ids(), ["3"])
        self.orphan("4", b"{}")
        self.assertEqual(self.ids(), ["3", "4"])

    def test_too_big(self) -> None:
        """B4: a result over the bound is not kept, but it is taken, and its client gets it."""
        big = b'{"x":"%s"}' % (b"x" * 4_000)
        job_id = self.orphan("1", big)
        self.assertEqual(self.ids(), [])
        self.assertEqual(self.connect().get(f"/jobs/{job_id}").response.status, 404)
        client = self.submit()
        self.starts[-1].ack("2")
        self.call_back(self.starts[-1], big)
        self.assertEqual(client.response.body, big)
