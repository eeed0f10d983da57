"""Profiles: what is promised for the work sample's job server holds for any other API, too."""

from pathlib import Path

from tests.support.clients import Client, Response
from tests.support.job_server import Start
from tests.support.profiles import parse_profile
from tests.support.restarts import RestartTestCase

CREDENTIAL = "Bearer r8_credential"
PROFILE = """
path = "/v1/predictions"
account = "$request.header.Authorization"
[start]
url = "{URL}/v1/predictions"
forward = ["Authorization"]
[start.set]
"$request.body#/webhook" = "{$callback.url}"
[ack]
state = "$response.body#/status"
[cancel]
method = "POST"
url = "{URL}/cancel"
[callback]
state = "$message.payload#/status"
progress = ["starting"]
succeeded = ["succeeded"]
failed = ["failed"]
[result]
failed-status = 502
[poll]
url = "{$response.body#/urls/get}"
after = 60
"""
ACK = b'{"id":"p1","status":"starting","urls":{"get":"http://127.0.0.1:9000/p1"}}'
FAILED = b'{"id":"p1","status":"failed"}'


class StoredProfileTestCase(RestartTestCase):
    """One node with a store in a file, and a profile.

    :cvar profile: its text.
    """

    profile = PROFILE

    def setUp(self) -> None:
        self.settings = {"profile": (parse_profile(self.profile),)}
        super().setUp()

    def predict(self, **headers: str) -> Client:
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        fields["Authorization"] = CREDENTIAL
        return self.node.connect().request("/v1/predictions", b'{"n":1.0}', headers=fields)

    def call_back(self, start: Start, body: bytes) -> Response:
        return self.send_callback(start, body).response

    def send_callback(self, start: Start, body: bytes) -> Client:
        """Send a callback that may have to wait for its response."""
        path = start.body["webhook"].removeprefix("http://proxy.example")
        return self.node.connect().request(path, body)


class ProfileRestartTests(StoredProfileTestCase):
    """What is known of a job after a restart."""

    def test_key_joins_the_job_after_a_restart(self) -> None:
        """K1: the job is not started again, and its failure has the status of the profile."""
        self.predict(Idempotency_Key="k")
        (start,) = self.starts
        start.respond(ACK, 201)
        self.clock.advance(1)
        self.restart()
        client = self.predict(Idempotency_Key="k")
        self.assertTrue(client.is_held)
        self.assertEqual(self.call_back(start, FAILED).json, {"status": "accepted"})
        self.cluster.settle()
        self.assertEqual((client.response.status, client.response.body), (502, FAILED))
        self.restart()
        again = self.predict(Idempotency_Key="k").response
        self.assertEqual((again.status, again.body), (502, FAILED))
        self.assertEqual(len(self.starts), 1)

    def test_job_that_was_told_202_is_known_after_a_restart(self) -> None:
        """K3: with the words of its profile."""
        client = self.predict(Prefer="respond-async")
        (start,) = self.starts
        start.respond(ACK, 201)
        path = client.response.headers["location"]
        self.restart()
        poll = self.node.connect().get(path).response
        self.assertEqual((poll.status, poll.json), (202, {"state": "running", "id": "p1"}))
        self.call_back(start, b'{"id":"p1","status":"starting"}')
        self.assertEqual(self.node.connect().get(path).response.status, 202)
        self.call_back(start, FAILED)
        self.cluster.settle()
        self.restart()
        found = self.node.connect().get(path).response
        self.assertEqual((found.status, found.body), (502, FAILED))

    def test_job_of_another_process_cannot_be_cancelled(self) -> None:
        """K3: it is known, but only the process that has started it has the credentials."""
        client = self.predict(Prefer="respond-async")
        (start,) = self.starts
        start.respond(ACK, 201)
        path = client.response.headers["location"]
        self.restart()
        refused = self.node.connect().request(path, None, method="DELETE").response
        self.assertEqual((refused.status, refused.json["started"]), (405, "yes"))
        self.call_back(start, FAILED)

    def test_credential_is_in_no_file(self) -> None:
        """Credentials are kept in memory alone."""
        for headers in ({"Idempotency_Key": "k"}, {"Prefer": "respond-async"}, {}):
            self.predict(**headers)
            self.starts[-1].respond(ACK, 201)
        self.clock.advance(1)
        folder = Path(self.path).parent
        stored = b"".join(path.read_bytes() for path in folder.iterdir())
        self.assertIn(b"p1", stored)
        self.assertNotIn(b"r8_credential", stored)
        for start in list(self.starts):
            self.call_back(start, FAILED)


class ThinTests(StoredProfileTestCase):
    """A callback that only announces the result."""

    profile = PROFILE.replace("[result]", '[result]\nurl = "{URL}/result/{$response.body#/id}"')
    thin = b'{"id":"p1","status":"succeeded"}'

    def test_thin_callback_gets_200_only_when_its_result_is_safe(self) -> None:
        """B23: it is not told 200 before the kill, and what was told 200 is there after one."""
        self.predict(Idempotency_Key="k")
        start = self.starts[0]
        start.respond(ACK, 201)
        self.clock.advance(1)
        sender = self.send_callback(start, self.thin)
        self.assertTrue(sender.is_held)
        self.thread.hangs = True
        self.starts[1].respond(b"result")
        self.assertTrue(sender.is_held)
        self.thread.go_on()
        self.assertEqual(sender.response.json, {"status": "accepted"})
        self.restart()
        again = self.predict(Idempotency_Key="k").response
        self.assertEqual((again.status, again.body), (200, b"result"))
        self.assertEqual(self.call_back(start, self.thin).json, {"status": "duplicate"})
        self.assertEqual(self.predict(Idempotency_Key="k").response.body, b"result")

    def test_thin_callback_that_was_cut_off_is_sent_again(self) -> None:
        """B23: killed during the GET: it got no response, and ends the job when it comes again."""
        self.predict(Idempotency_Key="k")
        start = self.starts[0]
        start.respond(ACK, 201)
        self.clock.advance(1)
        sender = self.send_callback(start, self.thin)
        self.restart()
        self.assertEqual(sender.responses, [])
        client = self.predict(Idempotency_Key="k")
        self.assertTrue(client.is_held)
        self.assertEqual(self.call_back(start, self.thin).status, 200)
        self.cluster.settle()
        self.assertEqual(client.response.body, self.thin)

    def test_thin_callback_of_a_job_without_an_ack_is_not_kept_for_one(self) -> None:
        """B23: after a restart no ack can come any more."""
        self.predict(Idempotency_Key="k")
        start = self.starts[0]
        self.restart()
        again = self.predict(Idempotency_Key="k")
        self.assertEqual(self.call_back(start, self.thin).status, 200)
        self.cluster.settle()
        self.assertEqual(again.response.body, self.thin)
