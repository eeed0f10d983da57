"""Requests whose bodies are so large that they are read in steps."""

import json
from collections.abc import Callable
from typing import Any

from tests.support.callbacks import CallbackTestCase
from tests.support.clients import Client
from tests.support.job_server import Start
from tests.support.profiles import parse_profile
from tests.support.proxy import ProxyTestCase, result_of
from tests.wire.test_costs import repeat

SIZE = 400_000


class LargeJobTests(CallbackTestCase):
    """A proxy that takes large bodies."""

    settings: dict[str, Any] = {"max_body": 1_000_000}

    def send(self, body: bytes, **headers: str) -> Client:
        return self.connect().request("/proxy", body, headers=headers)

    def body(self, **members: Any) -> bytes:
        """Return a body of many small values."""
        return json.dumps({"account": "a", "x": [0] * (SIZE // 3), **members}).encode()

    def finish(self) -> None:
        """Run all steps."""
        while self.clock.getDelayedCalls() and not self.starts:
            self.clock.advance(0)

    def test_others_are_served_between_the_steps(self) -> None:
        """Q31: while a large body is read, other clients get their results."""
        large = self.send(self.body())
        self.assertEqual(self.starts, [])
        other, start = self.run_job()
        self.call_back(start, result_of("1"))
        self.assertEqual(other.response.status, 200)
        self.assertTrue(large.is_held)
        for _ in range(SIZE):
            if len(self.starts) == 2:
                break
            self.clock.advance(0)
        self.assertEqual(self.starts[1].body["x"], [0] * (SIZE // 3))
        self.starts[1].ack("2")
        self.call_back(self.starts[1], result_of("2"))
        self.assertEqual(large.response.body, result_of("2"))

    def test_client_that_leaves_meanwhile_starts_nothing(self) -> None:
        """Q31: a client that leaves while its body is read starts nothing."""
        client = self.send(self.body())
        client.leave()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.starts, [])

    def test_wrong_bodies_are_refused_as_small_ones_are(self) -> None:
        """Q31: what is refused in a small body is refused in a large one."""
        for body, slug in (
            (self.body()[:-1], "invalid-json"),
            (self.body(account=7), "invalid-request"),
            (self.body(wait=False, callback="http://x"), "callback-not-allowed"),
            (b"[%b]" % self.body(), "invalid-json"),
            (b"\xff" + self.body(), "invalid-json"),
        ):
            client = self.send(body)
            while client.is_held:
                self.clock.advance(0)
            self.assert_problem(client.response, 400, slug, started="no")

    def test_key_of_a_large_job_joins_it(self) -> None:
        """Q31: the same large request with the same key joins the job."""
        first = self.send(self.body(), **{"Idempotency-Key": "k"})
        self.finish()
        self.starts[0].ack("1")
        second = self.send(self.body(), **{"Idempotency-Key": "k"})
        self.call_back(self.starts[0], result_of("1"))
        while second.is_held:
            self.clock.advance(0)
        self.assertEqual((first.response.body, second.response.body), (result_of("1"),) * 2)
        self.assertEqual(len(self.starts), 1)

    def test_large_callback_is_the_result_byte_for_byte(self) -> None:
        """Q31: a large callback is progress or the result, as its state says."""
        client, start = self.run_job()
        text = repeat('{"id":"1","data":"', "x").decode() * 5
        progress = json.dumps({"data": text, "state": "running"}).encode()
        self.check_receipt(self.call_back(start, progress), "progress")
        result = json.dumps({"data": text, "state": "completed"}).encode()
        self.check_receipt(self.call_back(start, result), "accepted")
        self.assertEqual(client.response.body, result)


class LargeProfileTests(ProxyTestCase):
    """A profile whose requests, callbacks and polls are large."""

    profile = """
        [start]
        url = "{URL}/start"
        [start.set]
        "$request.body#/callback" = "{$callback.url}"
        [callback]
        progress = ["running"]
        [result]
        body = "$message.payload#/out"
        [poll]
        url = "{URL}/jobs/{$response.body#/id}"
        after = 5
        every = 5
        [limits]
        max-body = 2000000
    """

    def setUp(self) -> None:
        profile = parse_profile(self.profile)
        self.settings = {"profile": (profile,), "job_server_url": "", "max_body": 2_000_000}
        super().setUp()

    def run_steps(self, until: Callable[[], object]) -> int:
        """Let turns of the loop pass until something is true; return how many it took."""
        for turn in range(10_000):
            if until():
                return turn
            self.clock.advance(0)
        raise AssertionError("it never came true")

    def run_until_answered(self, client: Client) -> int:
        return self.run_steps(lambda: not client.is_held)

    def send(self, body: bytes) -> Client:
        return self.connect().request("/proxy", body)

    def test_large_request_is_read_in_steps(self) -> None:
        """Q31: other clients are served meanwhile, and the members are passed on as they came."""
        body = b'{"account":"a", "x": [%b]}' % b",".join([b"1.00"] * (SIZE // 5))
        large = self.send(body)
        self.assertEqual(self.starts, [])
        other = self.send(b'{"account":"b"}')
        self.starts[0].respond(b'{"state":"completed","out":1}')
        self.assertEqual(other.response.body, b"1")
        self.assertGreater(self.run_steps(lambda: len(self.starts) == 2), 0)
        self.assertTrue(self.starts[1].raw.startswith(body[:-1]))
        self.starts[1].respond(b'{"state":"completed","out":2}')
        self.assertEqual(large.response.body, b"2")

    def test_large_request_that_is_not_strict_is_refused(self) -> None:
        """Q31: what is refused in a small body is refused in a large one."""
        for end in (b',"account":"b"}', b""):
            body = b'{"account":"a","x":"%b"' % (b"x" * SIZE) + end
            client = self.send(body)
            self.run_until_answered(client)
            self.assert_problem(client.response, 400, "invalid-json")

    def test_large_callback_and_poll_are_read_in_steps(self) -> None:
        """Q31: a large result is found in them, byte for byte."""
        out = b"[%b]" % b", ".join([b'{"n":1.00}'] * (SIZE // 10))
        for is_poll in (False, True):
            client = self.send(b'{"account":"a"}')
            start = self.starts[-1]
            start.respond(b'{"id":"1","state":"running"}')
            result = b'{"id":"1","out":%b,"state":"completed"}' % out
            if is_poll:
                self.clock.advance(5)
                self.assertEqual(self.starts[-1].request.uri, b"/jobs/1")
                self.starts[-1].respond(result)
            else:
                self.call_back(start, result)
            self.assertTrue(client.is_held)
            self.assertGreater(self.run_until_answered(client), 0)
            self.assertEqual(client.response.body, out)

    def call_back(self, start: Start, body: bytes) -> Any:
        return self.connect().request(start.callback_path, body)
