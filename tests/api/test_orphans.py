"""Orphans: listed, shown, dropped, limited and forgotten."""

from typing import Any

from twisted.logger import capturedLogs, formatEvent

from jobproxy.jobs.retention import OVERHEAD, Bounds
from tests.support.clients import JSON, Response
from tests.support.job_server import Start
from tests.support.proxy import ProxyTestCase, result_of

RETAIN = 300


class OrphanTestCase(ProxyTestCase):
    """A proxy whose clients leave before the result."""

    def orphan(self, upstream_id: str, body: bytes = b"") -> str:
        """Send a callback whose client has left, and return the job id."""
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
        self.assertEqual(list(response.json), ["orphans", "next", "partial"])
        self.assertIsNone(response.json["next"])
        orphans: list[dict[str, Any]] = response.json["orphans"]
        return orphans

    def ids(self) -> list[str]:
        return sorted(orphan["id"] for orphan in self.orphans())

    def drop(self, job_id: str) -> Response:
        return self.operate().request(f"/orphans/{job_id}", None, method="DELETE").response


class AdminTests(OrphanTestCase):
    """The operator's list of orphans."""

    def test_list_is_empty_without_orphans(self) -> None:
        """B4: the list is empty without orphans, whatever else is retained."""
        self.assertEqual(self.orphans(), [])
        client = self.submit()
        self.starts[0].ack("1")
        self.call_back(self.starts[0], result_of("1"))
        self.assertEqual(client.response.status, 200)
        self.assertEqual(self.orphans(), [])
        job_id = self.job_id_of(self.starts[0])
        self.assert_problem(
            self.operate().get(f"/orphans/{job_id}").response, 404, "job-unknown", started="unknown"
        )
        self.assert_problem(self.drop(job_id), 404, "job-unknown", started="unknown")
        self.assertEqual(self.connect().get(f"/jobs/{job_id}").response.body, result_of("1"))

    def test_list_has_the_job_id_age_and_size_of_each_orphan(self) -> None:
        """B4: the list has job id, upstream id, age and size of each orphan, the oldest first."""
        first = self.orphan("1")
        self.clock.advance(2.5)
        second = self.orphan("2", b'{"no": "id"}')
        self.clock.advance(0.25)
        expected = [
            {"job": first, "id": "1", "age": 2.75, "bytes": len(result_of("1"))},
            {"job": second, "id": "2", "age": 0.25, "bytes": 12},
        ]
        self.assertEqual(self.orphans(), expected)

    def test_orphan_without_an_upstream_id_is_listed(self) -> None:
        """B3: an orphan without an upstream id is listed with null."""
        token = self.signer.mint()
        self.connect().request(f"/callback/{token.text}", b"{}")
        (orphan,) = self.orphans()
        self.assertEqual((orphan["job"], orphan["id"], orphan["bytes"]), (token.job_id, None, 2))

    def test_orphan_is_shown_byte_for_byte_and_stays(self) -> None:
        """B4: an orphan is shown byte for byte, any number of times, and stays one."""
        job_id = self.orphan("1")
        for _ in range(2):
            shown = self.operate().get(f"/orphans/{job_id}").response
            self.assertEqual((shown.status, shown.body), (200, result_of("1")))
            self.assertEqual(shown.headers["content-type"], JSON)
        self.assertEqual(self.ids(), ["1"])

    def test_dropped_orphan_is_forgotten(self) -> None:
        """B4: a dropped orphan is not found anywhere; the others stay."""
        job_id = self.orphan("1")
        self.orphan("2")
        dropped = self.drop(job_id)
        self.assertEqual((dropped.status, dropped.body), (204, b""))
        self.assertEqual(self.ids(), ["2"])
        found = self.connect().get(f"/orphans/{job_id}").response
        self.assert_problem(found, 404, "not-found")
        found = self.connect().get(f"/jobs/{job_id}").response
        self.assert_problem(found, 404, "job-unknown", started="unknown")
        self.assert_problem(self.drop(job_id), 404, "job-unknown", started="unknown")

    def test_callback_of_a_dropped_orphan_makes_it_an_orphan_again(self) -> None:
        """B3: a second callback of a dropped orphan is kept like one from before a restart."""
        job_id = self.orphan("1")
        self.drop(job_id)
        again = self.call_back(self.starts[0], result_of("1"))
        self.assertEqual(again.json, {"status": "late"})
        self.assertEqual([orphan["job"] for orphan in self.orphans()], [job_id])

    def test_list_comes_in_pages(self) -> None:
        """X4: the list comes in pages, each orphan once, also when others are dropped meanwhile."""
        for number in range(7):
            self.orphan(str(number))
            self.clock.advance(0.001 * (number % 2))
        whole = [orphan["job"] for orphan in self.orphans()]
        listed, after = [], ""
        for pages in range(4):
            page = self.operate().get(f"/orphans?limit=2{after}").response.json
            listed += [orphan["job"] for orphan in page["orphans"]]
            self.assertEqual(page["next"] is None, pages == 3)
            after = f"&after={page['next']}"
            if pages == 1:
                self.drop(whole[3])
        self.assertEqual(listed, whole)
        for query, pointer in (("after=x", "/after"), ("limit=0", "/limit"), ("x=1", "/x")):
            refused = self.operate().get(f"/orphans?{query}").response
            problem = self.assert_problem(refused, 400, "invalid-request")
            self.assertEqual([error["pointer"] for error in problem["errors"]], [pointer])

    def test_404_for_a_job_that_is_no_orphan(self) -> None:
        """Q23: 404 for a job that is no orphan, and 405 for other methods."""
        running = self.submit()
        job_id = self.job_id_of(self.starts[0])
        for name in ("x", self.signer.mint().job_id, job_id):
            self.assert_problem(
                self.operate().get(f"/orphans/{name}").response,
                404,
                "job-unknown",
                started="unknown",
            )
            self.assert_problem(self.drop(name), 404, "job-unknown", started="unknown")
        for path, allowed in (("/orphans", "GET"), ("/orphans/x", "DELETE, GET")):
            refused = self.operate().request(path, b"{}").response
            self.assert_problem(refused, 405, "method-not-allowed")
            self.assertEqual(
                set(refused.headers["allow"].split(", ")) - {"HEAD"}, set(allowed.split(", "))
            )
        self.starts[0].respond(result_of("1"))
        self.assertEqual(running.response.status, 200)


class CollectingTests(OrphanTestCase):
    """Orphans that a client collects, or that expire."""

    def test_collected_orphan_is_retained_but_no_orphan(self) -> None:
        """B4: a client that asks gets the result, which is no orphan then, but retained."""
        job_id = self.orphan("1")
        self.clock.advance(RETAIN - 1)
        self.assertEqual(self.connect().get(f"/jobs/{job_id}").response.body, result_of("1"))
        self.assertEqual(self.orphans(), [])
        self.assert_problem(
            self.operate().get(f"/orphans/{job_id}").response, 404, "job-unknown", started="unknown"
        )
        self.clock.advance(RETAIN - 1)
        self.assertEqual(self.connect().get(f"/jobs/{job_id}").response.body, result_of("1"))
        self.clock.advance(1)
        self.assert_problem(
            self.connect().get(f"/jobs/{job_id}").response, 404, "job-unknown", started="unknown"
        )

    def test_orphan_is_collected_by_its_key(self) -> None:
        """Q16: a client that left and sends its job again with the same key gets the result."""
        body = b'{"account":"example"}'
        headers = {"Idempotency-Key": "k"}
        self.connect().request(body=body, headers=headers).leave()
        self.starts[0].ack("1")
        self.call_back(self.starts[0], result_of("1"))
        self.assertEqual(self.ids(), ["1"])
        again = self.connect().request(body=body, headers=headers).response
        self.assertEqual(again.body, result_of("1"))
        self.assertEqual((self.orphans(), len(self.starts)), ([], 1))

    def test_duplicate_callback_leaves_the_orphan_as_it_is(self) -> None:
        """B2, B4: a duplicate callback leaves an orphan as it is."""
        self.orphan("1")
        self.clock.advance(1)
        again = self.call_back(self.starts[0], result_of("1"))
        self.assertEqual(again.json, {"status": "duplicate"})
        (orphan,) = self.orphans()
        self.assertEqual((orphan["id"], orphan["age"]), ("1", 1.0))

    def test_orphan_is_forgotten_after_retain_and_logged(self) -> None:
        """B4: an orphan that no client asks for is forgotten after --retain, and logged."""
        job_id = self.orphan("1")
        self.clock.advance(RETAIN - 1)
        self.assertEqual(self.ids(), ["1"])
        with capturedLogs() as events:
            self.clock.advance(1)
        self.assertEqual(self.orphans(), [])
        self.assert_problem(
            self.connect().get(f"/jobs/{job_id}").response, 404, "job-unknown", started="unknown"
        )
        (line,) = map(formatEvent, events)
        self.assertIn(job_id, line)

    def test_each_orphan_is_logged(self) -> None:
        """B4: each orphan is logged when it comes; a result in time is not."""
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

    def test_result_of_a_client_that_does_not_wait_is_no_orphan(self) -> None:
        """Q3: the result of a job whose client does not wait is no orphan; it can be asked for."""
        client = self.connect().request(body=b'{"account":"example","wait":false}')
        self.starts[0].ack("1")
        self.assertEqual(client.response.status, 202)
        self.call_back(self.starts[0], result_of("1"))
        self.assertEqual(self.orphans(), [])
        found = self.connect().get(client.response.headers["location"]).response
        self.assertEqual(found.body, result_of("1"))


class NumberTests(OrphanTestCase):
    """The maximum number of orphans."""

    bounds = Bounds(number=3)

    def test_oldest_orphan_is_forgotten_over_the_number(self) -> None:
        """B4: over the maximum number the oldest orphan is forgotten, and logged."""
        for number in range(3):
            self.orphan(str(number))
        self.assertEqual(self.ids(), ["0", "1", "2"])
        with capturedLogs() as events:
            self.orphan("3")
        self.assertEqual(self.ids(), ["1", "2", "3"])
        self.assertEqual(sum("is forgotten" in formatEvent(event) for event in events), 1)

    def test_orphans_and_other_results_have_bounds_of_their_own(self) -> None:
        """B4: a flood of orphans removes no other result, nor the other way round."""
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
    """The maximum size of all orphans."""

    bounds = Bounds(size=2 * (OVERHEAD + 1_000))

    def test_oldest_orphans_are_forgotten_over_the_size(self) -> None:
        """B4: as many of the oldest orphans are forgotten as the newest needs room."""
        small = b'{"x":"%s"}' % (b"x" * 992)
        for upstream_id in ("1", "2"):
            self.orphan(upstream_id, small)
        self.assertEqual(self.ids(), ["1", "2"])
        self.orphan("3", small + b" ")
        self.assertEqual(self.ids(), ["3"])
        self.orphan("4", b"{}")
        self.assertEqual(self.ids(), ["3", "4"])

    def test_result_over_the_size_is_accepted_but_not_retained(self) -> None:
        """B4: a result over the size is accepted and sent to its client, but not retained."""
        big = b'{"x":"%s"}' % (b"x" * 4_000)
        job_id = self.orphan("1", big)
        self.assertEqual(self.ids(), [])
        self.assertEqual(self.connect().get(f"/jobs/{job_id}").response.status, 404)
        client = self.submit()
        self.starts[-1].ack("2")
        self.call_back(self.starts[-1], big)
        self.assertEqual(client.response.body, big)
