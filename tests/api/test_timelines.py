"""The timeline of a job, for the operator."""

from typing import Any

from tests.support.proxy import ProxyTestCase, result_of


class TimelineTests(ProxyTestCase):
    def read(self, name: str) -> dict[str, Any]:
        response = self.operate().get(f"/timelines/{name}").response
        self.assertEqual(response.status, 200)
        document: dict[str, Any] = response.json
        return document

    def list_events(self, name: str) -> list[tuple[float, str]]:
        return [(each["after"], each["event"]) for each in self.read(name)["events"]]

    def test_all_that_has_happened_is_there_with_its_time(self) -> None:
        """A job that was refused, started, went on and ended: each event has its time."""
        client = self.connect().request(headers={"X-Request-Id": "mine"})
        self.clock.advance(0.5)
        self.starts[0].respond(b"", 503, Retry_After="2")
        self.clock.advance(2)
        self.clock.advance(0.25)
        self.starts[1].ack("7")
        self.clock.advance(1)
        self.call_back(self.starts[1], b'{"id": "7", "state": "running"}')
        self.clock.advance(1)
        self.assertEqual(self.read("7")["waiting"], 1)
        self.call_back(self.starts[1], result_of("7"))
        found = self.read("mine")
        self.assertEqual(
            self.list_events("mine"),
            [
                (0.0, "queued"),
                (0.0, "start request sent"),
                (0.5, "start request failed: busy"),
                (2.75, "acknowledged"),
                (3.75, "last progress"),
                (4.75, "ended: result"),
            ],
        )
        self.assertEqual(client.response.status, 200)
        self.assertEqual((found["outcome"], found["bytes"]), ("result", len(result_of("7"))))
        self.assertEqual(found["events"], self.read(found["job"])["events"])
        self.assertNotIn("example", str(found))

    def test_unknown_name_is_404(self) -> None:
        """What was never here has no timeline, whatever kind of name it is."""
        unknown = self.signer.mint().job_id
        for name in ("nobody", "%C3%A9", unknown):
            response = self.operate().get(f"/timelines/{name}").response
            self.assert_problem(response, 404, "job-unknown", "unknown")
