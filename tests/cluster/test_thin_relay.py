"""Thin callbacks that come to another node than the owner of the job."""

from typing import Any

from jobproxy.upstream.thin_callbacks import RESPONSE_TIME
from tests.support.clients import Client
from tests.support.cluster import ClusterTestCase
from tests.support.job_server import Start
from tests.support.profiles import parse_profile

PROFILE = """
path = "/jobs"
account = "$request.header.Authorization"
[start]
url = "{URL}/jobs"
forward = ["Authorization"]
[start.set]
"$request.body#/hook" = "{$callback.url}"
[callback]
state = "$message.header.X-State"
succeeded = ["done"]
failed = ["error"]
[result]
url = "{URL}/jobs/{$response.body#/id}/result"
failed-status = 502
fetch-failed = false
"""
THIN, RESULT = b'{"see":"the result"}', b"the result itself"


class ThinRelayTests(ClusterTestCase):
    settings: dict[str, Any] = {"profile": (parse_profile(PROFILE),)}

    def begin(self, **headers: str) -> tuple[Client, Start]:
        """Send a job to the first node, and acknowledge its start."""
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        fields["Authorization"] = "Bearer secret-credential"
        client = self.nodes[0].connect().request("/jobs", b"{}", headers=fields)
        start = self.starts[-1]
        start.respond(b'{"id":"1"}', 201)
        self.cluster.settle()
        return client, start

    def call_back(self, number: int, start: Start, state: str = "done") -> Client:
        """Send a thin callback to a node."""
        path = start.body["hook"].removeprefix("http://proxy.example")
        sender = self.nodes[number].connect().request(path, THIN, headers={"X-State": state})
        self.cluster.settle()
        return sender

    def test_owner_fetches_the_result(self) -> None:
        """B24: the client gets the result, and the callback its 200 when it is in the store."""
        client, start = self.begin()
        sender = self.call_back(1, start)
        asked = self.starts[-1].request
        self.assertEqual(asked.getHeader("authorization"), "Bearer secret-credential")
        self.assertTrue(sender.is_held)
        self.assertTrue(client.is_held)
        self.starts[-1].respond(RESULT)
        self.cluster.settle()
        self.assert_result(client, RESULT)
        self.assertEqual(sender.response.json, {"status": "accepted"})
        again = self.call_back(2, start)
        self.assertEqual(again.response.json, {"status": "accepted"})
        self.assertEqual(len(self.starts), 2)

    def test_failure_needs_no_fetch(self) -> None:
        """B24: a callback that has the failure with it is the result."""
        client, start = self.begin()
        sender = self.call_back(1, start, "error")
        self.cluster.settle()
        self.assertEqual((client.response.status, client.response.body), (502, THIN))
        self.assertEqual(sender.response.json, {"status": "accepted"})

    def test_callback_before_the_ack_waits_for_it(self) -> None:
        """B24, B1: the URL of the result is in the ack."""
        fields = {"Authorization": "Bearer secret-credential"}
        client = self.nodes[0].connect().request("/jobs", b"{}", headers=fields)
        start = self.starts[0]
        sender = self.call_back(1, start)
        self.assertEqual(len(self.starts), 1)
        start.respond(b'{"id":"1"}', 201)
        self.starts[1].respond(RESULT)
        self.cluster.settle()
        self.assert_result(client, RESULT)
        self.assertEqual(sender.response.json, {"status": "accepted"})

    def test_callback_is_to_come_again_while_the_fetch_takes_long(self) -> None:
        """B24: after some seconds it gets 503; the fetch goes on, and the next one gets 200."""
        client, start = self.begin()
        sender = self.call_back(1, start)
        self.clock.advance(RESPONSE_TIME)
        self.assert_problem(sender.response, 503, "upstream-unreachable", "yes")
        self.starts[-1].respond(RESULT)
        self.cluster.settle()
        self.assert_result(client, RESULT)
        self.assertEqual(self.call_back(1, start).response.json, {"status": "accepted"})
        self.assertEqual(len(self.starts), 2)

    def test_result_that_nobody_waits_for_is_an_orphan(self) -> None:
        """B24, B4: it is fetched and kept, and the callback does not take it from the orphans."""
        client, start = self.begin()
        client.leave()
        sender = self.call_back(1, start)
        self.starts[-1].respond(RESULT)
        self.cluster.settle()
        self.assertEqual(sender.response.json, {"status": "accepted"})
        (orphan,) = self.nodes[2].list_orphans()
        found = self.nodes[2].operate().get(f"/orphans/{orphan}").response
        self.assertEqual(found.body, RESULT)
        self.nodes[0].operate().request(f"/orphans/{orphan}", None, method="DELETE")
        self.cluster.settle()

    def test_callback_itself_is_the_result_if_the_owner_is_dead(self) -> None:
        """B24: nobody else has the credentials to fetch one."""
        client, start = self.begin(Prefer="respond-async")
        self.nodes[0].kill()
        self.clock.advance(60)
        sender = self.call_back(1, start)
        self.assertEqual(sender.response.json, {"status": "late"})
        found = self.nodes[2].connect().get(client.response.headers["location"]).response
        self.assertEqual(found.body, THIN)

    def test_callback_gets_503_while_the_store_is_away(self) -> None:
        """B24, X2: the owner cannot be told."""
        client, start = self.begin()
        self.cluster.go_away()
        sender = self.call_back(1, start)
        self.clock.advance(5)
        self.assert_problem(sender.response, 503, "store-unreachable", "yes")
        self.assertEqual(len(self.starts), 1)
        self.cluster.come_back()
        self.clock.advance(5)
        sender = self.call_back(1, start)
        self.starts[-1].respond(RESULT)
        self.cluster.settle()
        self.assert_result(client, RESULT)
        self.assertEqual(sender.response.json, {"status": "accepted"})
