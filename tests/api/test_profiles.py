"""Profiles: clients of other APIs are held, and their job servers are spoken to as they want it."""

import json
from base64 import b64decode
from typing import Any, ClassVar
from urllib.parse import parse_qs, unquote

from attrs import evolve

from jobproxy.ctl import describe_status
from jobproxy.profiles.expressions import parse_expression
from jobproxy.profiles.job import make_job
from jobproxy.profiles.messages import Message
from jobproxy.profiles.profile import Profile
from tests.support.clients import Client, Response
from tests.support.job_server import Start
from tests.support.profiles import parse_profile
from tests.support.proxy import ProxyTestCase


class ProfileTestCase(ProxyTestCase):
    """A proxy with one profile.

    :cvar profile: its text.
    """

    profile: ClassVar[str] = ""

    def setUp(self) -> None:
        self.settings = {"profile": (self.make_profile(),), "job_server_url": ""}
        super().setUp()

    def make_profile(self) -> Profile:
        return parse_profile(self.profile)

    def target(self, start: Start) -> str:
        """Return the target of a start request."""
        return str(start.request.uri.decode())

    def call_back_to(self, url: str, body: bytes, method: str = "POST", **headers: str) -> Response:
        """Send a callback to a URL of the proxy; ``_`` in a header's name stands for ``-``."""
        path = url.removeprefix("http://proxy.example")
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.connect().request(path, body, method=method, headers=fields).response


class ReplicateTests(ProfileTestCase):
    """An API like Replicate: a JSON body, a credential, its words, a callback URL in the body."""

    profile = """
        path = "/v1/predictions"
        account = "$request.header.Authorization"
        [start]
        url = "{URL}/v1/predictions"
        forward = ["Authorization"]
        rejected = [401, 402, 422]
        [start.set]
        "$request.body#/webhook" = "{$callback.url}"
        "$request.body#/webhook_events_filter" = ["completed"]
        [ack]
        state = "$response.body#/status"
        [callback]
        state = "$message.payload#/status"
        progress = ["starting", "processing"]
        succeeded = ["succeeded"]
        failed = ["failed", "canceled"]
        [result]
        failed-status = 502
    """
    body = b'{"version": "5c7d",  "input": {"n": 1.00, "text": "\\u00e9"}}'

    def predict(self, **headers: str) -> Client:
        more = {name.replace("_", "-"): value for name, value in headers.items()}
        fields = {"Authorization": "Bearer r8_secret"} | more
        return self.connect().request("/v1/predictions", self.body, headers=fields)

    def start_one(self, **headers: str) -> tuple[Client, str]:
        """Send a job whose start is acknowledged; return its client and its callback URL."""
        client = self.predict(**headers)
        start = self.starts[-1]
        start.respond(b'{"id": "p1", "status": "starting"}', 201)
        return client, start.body["webhook"]

    def test_client_gets_the_result_of_the_callback(self) -> None:
        """The start has what the client sent, byte for byte, and what the profile sets."""
        client, url = self.start_one()
        (start,) = self.starts
        self.assertTrue(start.raw.startswith(self.body[:-1]))
        self.assertEqual(start.body["webhook_events_filter"], ["completed"])
        self.assertEqual(start.request.getHeader("authorization"), "Bearer r8_secret")
        self.assertEqual(self.target(start), "/v1/predictions")
        self.assertTrue(url.startswith("http://proxy.example/callback/api/"))
        progress = self.call_back_to(url, b'{"id": "p1", "status": "processing"}')
        self.assertEqual(progress.json, {"status": "progress"})
        self.assertTrue(client.is_held)
        result = b'{"id":"p1","status":"succeeded","output":[1.00]}'
        self.assertEqual(self.call_back_to(url, result).json, {"status": "accepted"})
        self.assertEqual((client.response.status, client.response.body), (200, result))

    def test_failed_job_has_the_status_of_the_profile(self) -> None:
        """Also when it is asked for later."""
        client, url = self.start_one()
        result = b'{"id":"p1","status":"failed","error":"no GPU"}'
        self.call_back_to(url, result)
        self.assertEqual((client.response.status, client.response.body), (502, result))
        path = client.response.headers["content-location"]
        again = self.connect().get(path).response
        self.assertEqual((again.status, again.body), (502, result))

    def test_word_that_the_profile_does_not_know_changes_nothing(self) -> None:
        """With both lists given, any other word is logged."""
        client, url = self.start_one()
        receipt = self.call_back_to(url, b'{"id":"p1","status":"logs"}')
        self.assertEqual(receipt.json, {"status": "progress"})
        self.assertTrue(client.is_held)
        self.call_back_to(url, b'{"id":"p1","status":"SUCCEEDED"}')
        self.assertEqual(client.response.status, 200)

    def test_ack_with_a_final_word_is_the_result(self) -> None:
        client = self.predict()
        result = b'{"id": "p1", "status": "failed"}'
        self.starts[0].respond(result, 201)
        self.assertEqual((client.response.status, client.response.body), (502, result))

    def test_callback_before_the_ack_is_the_result(self) -> None:
        client = self.predict()
        url = self.starts[0].body["webhook"]
        self.call_back_to(url, b'{"id":"p1","status":"succeeded"}')
        self.assertEqual(client.response.status, 200)
        self.starts[0].respond(b'{"id": "p1", "status": "starting"}', 201)

    def test_refusal_of_the_credentials_is_the_clients(self) -> None:
        """The profile forwards them, so that its 401 goes back to the client."""
        client = self.predict()
        self.starts[0].respond(b'{"detail":"Unauthenticated"}', 401)
        problem = self.assert_problem(client.response, 401, "upstream-rejected")
        self.assertIn("Unauthenticated", problem["upstreamBody"])

    def test_busy_job_server_is_asked_again(self) -> None:
        client = self.predict()
        self.starts[0].respond(b"{}", 429, Retry_After="1")
        self.clock.advance(1)
        self.starts[1].respond(b'{"id": "p1", "status": "starting"}', 201)
        self.call_back_to(self.starts[1].body["webhook"], b'{"status":"succeeded"}')
        self.assertEqual(client.response.status, 200)

    def test_credentials_are_the_account_and_are_not_shown(self) -> None:
        """Their hash stands for them."""
        client, url = self.start_one()
        (record,) = self.table.unended()
        self.assertRegex(record.account, "^api:[0-9a-f]{16}$")
        self.call_back_to(url, b'{"status":"succeeded"}')
        client = self.connect().request("/v1/predictions", self.body)
        problem = self.assert_problem(client.response, 400, "invalid-request")
        self.assertIn("$request.header.Authorization is missing", problem["detail"])

    def test_key_joins_and_replays(self) -> None:
        client, url = self.start_one(Idempotency_Key="k")
        again = self.predict(Idempotency_Key="k")
        other = self.connect().request(
            "/v1/predictions",
            b"{}",
            headers={"Authorization": "Bearer r8_secret", "Idempotency-Key": "k"},
        )
        self.assert_problem(other.response, 422, "idempotency-key-reused")
        self.call_back_to(url, b'{"status":"succeeded"}')
        self.assertEqual(client.response.body, again.response.body)
        self.assertEqual(len(self.starts), 1)

    def test_async_client_gets_the_ack(self) -> None:
        client, url = self.start_one(Prefer="respond-async")
        self.assertEqual(client.response.status, 202)
        self.assertEqual(client.response.body, b'{"id": "p1", "status": "starting"}')
        self.call_back_to(url, b'{"status":"succeeded"}')
        found = self.connect().get(client.response.headers["location"]).response
        self.assertEqual((found.status, found.body), (200, b'{"status":"succeeded"}'))

    def test_request_that_is_no_json_is_refused(self) -> None:
        for body in (b"", b"[]", b"text", b'{"a":1,"a":2}', b'{"webhook'):
            headers = {"Authorization": "Bearer x"}
            client = self.connect().request("/v1/predictions", body, headers=headers)
            if body:
                self.assert_problem(client.response, 400, "invalid-json")
            else:
                self.assertEqual(set(self.starts[0].body), {"webhook", "webhook_events_filter"})
                self.starts[0].respond(b'{"status":"succeeded"}')

    def test_credentials_are_hidden_in_what_the_job_server_quotes(self) -> None:
        """In acks, which are kept, and in refusals."""
        for prefer in ("respond-async", ""):
            client = self.predict(Prefer=prefer)
            quote = b'{"id":"p1","headers":{"Authorization":"Bearer r8_secret"}}'
            self.starts[-1].respond(quote, 201 if prefer else 422)
            self.assertNotIn(b"r8_secret", client.response.body)
            self.assertIn(b"[hidden]", client.response.body)
            if prefer:
                self.call_back_to(self.starts[-1].body["webhook"], b'{"status":"succeeded"}')

    def test_key_of_another_credential_is_another_job(self) -> None:
        """Nobody gets the result of a job that another credential has started."""
        profile = evolve(self.make_profile(), account=parse_expression("'all'"))
        one, two = (
            make_job(profile, Message(b"{}", {b"authorization": value})) for value in (b"a", b"b")
        )
        self.assertEqual(one.account, two.account)
        self.assertNotEqual(one.digest(), two.digest())

    def test_status_and_metrics_name_the_profile(self) -> None:
        """What is counted for each job server has a label."""
        _, url = self.start_one()
        self.call_back_to(url, b'{"status":"succeeded"}')
        status = self.operate().get("/status").response.json
        (described,) = status["profiles"]
        self.assertEqual((described["name"], described["starts"]), ("api", {"acknowledged": 1}))
        self.assertIn("\napi        circuit closed, 0 queued", describe_status(status))
        text = self.operate().get("/metrics").response.body.decode()
        self.assertIn('jobproxy_starts_total{profile="api",result="acknowledged"} 1.0', text)
        self.assertIn('jobproxy_callbacks_total{profile="api",result="accepted"} 1.0', text)
        self.assertIn('jobproxy_circuit{profile="api",state="closed"} 1.0', text)

    def test_forged_callback_is_not_found(self) -> None:
        """A token of one profile is valid at its own URL alone."""
        _, url = self.start_one()
        for path in (url[:-1], url.replace("/api/", "/"), url.replace("/api/", "/other/")):
            self.assertEqual(self.call_back_to(path, b"{}").status, 404, path)
        self.call_back_to(url, b'{"status":"succeeded"}')


class WireTests(ProfileTestCase):
    """Other wires, one for each test."""

    def make_profile(self) -> Profile:
        name = self.id().rpartition("test_")[2]
        return parse_profile(WIRES[name])

    def send(self, path: str, body: bytes, **headers: str) -> Client:
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.connect().request(path, body, headers=fields)

    def check_result(self, client: Client, status: int, body: bytes, **headers: str) -> None:
        self.assertEqual((client.response.status, client.response.body), (status, body))
        for name, value in headers.items():
            self.assertEqual(client.response.headers[name.replace("_", "-")], value)

    def test_header(self) -> None:
        """As OpenFaaS: raw bytes in and out, ids and states in headers, an empty ack."""
        client = self.send("/function/resize", b"\xff\xd8raw", Content_Type="image/jpeg")
        (start,) = self.starts
        self.assertEqual(
            (self.target(start), start.raw), ("/async-function/resize", b"\xff\xd8raw")
        )
        self.assertEqual(start.request.getHeader("content-type"), "image/jpeg")
        start.respond(b"", 202, X_Call_Id="c1")
        url = str(start.request.getHeader("x-callback-url"))
        headers = {"X_Call_Id": "c1", "X_Function_Status": "200", "Content_Type": "image/png"}
        self.assertEqual(self.call_back_to(url, b"\x89PNG", **headers).status, 200)
        self.check_result(client, 200, b"\x89PNG", content_type="image/png")
        coded = {"Content_Encoding": "gzip", "Content_Type": "text/plain"}
        client = self.send("/function/resize", b"\x1f\x8b", **coded)
        self.assertEqual(self.starts[1].request.getHeader("content-encoding"), "gzip")
        self.starts[1].respond(b"no", 400)
        self.assertEqual(client.response.status, 400)
        client = self.send("/function/resize", b"")
        url = str(self.starts[2].request.getHeader("x-callback-url"))
        self.starts[2].respond(b"", 202, X_Call_Id="c2")
        self.call_back_to(url, b"boom", X_Function_Status="500")
        self.check_result(client, 502, b"boom")

    def test_query(self) -> None:
        """As fal: a wide path, the callback URL in the query, the result in a member."""
        client = self.send("/fal-ai/flux/dev?seed=1", b'{"prompt":"x"}', Authorization="Key k")
        (start,) = self.starts
        path, _, query = self.target(start).partition("?")
        self.assertEqual(path, "/fal-ai/flux/dev")
        self.assertRegex(
            query, r"^seed=1&fal_webhook=http%3A%2F%2Fproxy.example%2Fcallback%2Fapi%2F"
        )
        self.assertEqual(start.raw, b'{"prompt":"x"}')
        start.respond(b'{"request_id":"r1","status":"IN_QUEUE"}')
        url = parse_qs(query)["fal_webhook"][0]
        self.call_back_to(url, b'{"request_id":"r1","status":"OK","payload": {"images":[1.0]} }')
        self.check_result(client, 200, b'{"images":[1.0]}', content_type="application/json")
        for path in ("/a/../b", "/a/%2e%2e/b", "/a%2Fb"):
            answer = self.send(path, b"{}", Authorization="Key k").response
            self.assert_problem(answer, 400, "invalid-request")

    def test_form(self) -> None:
        """A form in, and a form out."""
        client = self.send(
            "/calls",
            b"To=%2B49&Url=x&StatusCallback=mine",
            Content_Type="application/x-www-form-urlencoded",
        )
        (start,) = self.starts
        pairs = start.raw.decode().split("&")
        self.assertEqual(pairs[:2], ["To=%2B49", "Url=x"])
        self.assertRegex(pairs[2], "^StatusCallback=http%3A%2F%2Fproxy")
        start.respond(b'{"sid":"CA1","status":"queued"}', 201)
        url = unquote(pairs[2].partition("=")[2])
        form = {"Content_Type": "application/x-www-form-urlencoded"}
        self.call_back_to(url, b"CallSid=CA1&CallStatus=ringing", **form)
        self.assertTrue(client.is_held)
        self.call_back_to(url, b"CallSid=CA1&CallStatus=completed", **form)
        self.check_result(client, 200, b"CallSid=CA1&CallStatus=completed")

    def test_envelope(self) -> None:
        """A refusal that is a 200, and numbers as ids."""
        for body in (b'{"key":{"x":1}}', b"key=a&key=b"):
            form = {} if body[:1] == b"{" else {"Content_Type": "application/x-www-form-urlencoded"}
            self.assert_problem(self.send("/run", body, **form).response, 400, "invalid-request")
        coded = self.send("/run", b"\x1f\x8b", Content_Encoding="gzip").response
        self.assert_problem(coded, 415, "unsupported-media-type")
        client = self.send("/run", b'{"key":"u1"}')
        self.starts[0].respond(b'{"code": 1201, "msg": "no credits", "data": null}')
        problem = self.assert_problem(client.response, 422, "upstream-rejected")
        self.assertIn("no credits", problem["upstreamBody"])
        client = self.send("/run", b'{"key":"u1"}')
        start = self.starts[1]
        start.respond(b'{"code": 0, "msg": "ok", "data": {"task": 77}}')
        self.call_back_to(start.body["notify"][0]["url"], b'{"data": {"task": 77, "result": "r"}}')
        self.check_result(client, 200, b'"r"')

    def test_two_urls(self) -> None:
        """Success and failure have URLs of their own, told apart by a query."""
        for outcome, status in (("on_ok", 200), ("on_error", 502)):
            client = self.send("/run", b'{"key":"u1"}')
            start = self.starts[-1]
            start.respond(b"", 202)
            self.call_back_to(start.body["urls"][outcome], b"<xml/>", Content_Type="text/xml")
            self.check_result(client, status, b"<xml/>", content_type="text/xml")

    def test_location(self) -> None:
        """The id is in the Location of the ack; a 409 means busy; callbacks are PUT."""
        client = self.send("/run", b'{"key":"u1"}')
        self.starts[0].respond(b"busy", 409)
        self.clock.advance(1)
        start = self.starts[1]
        start.respond(b"", 202, Location="/v2/jobs/j-7?x=1")
        (record,) = self.table.unended()
        self.assertEqual(record.upstream_id, "j-7")
        url = json.loads(b64decode(start.body["hook"]))["to"]
        again = self.connect().request("/run", b'{"key":"u1"}', headers={"Prefer": "respond-async"})
        self.starts[2].respond(json.dumps({"quoted": self.starts[2].body["hook"]}).encode(), 202)
        self.assertEqual(again.response.body, b'{"quoted": "[hidden]"}')
        self.assertEqual(self.call_back_to(url, b"{}", method="POST").status, 405)
        self.assertEqual(self.call_back_to(url, b'{"ok":1}', method="PUT").status, 200)
        self.check_result(client, 200, b'{"ok":1}')

    def test_removed(self) -> None:
        """What the client must not send on is removed; constants and methods of one's own."""
        client = self.send("/run/7", b'{"key":"u1","secret":1,"deep":{"a":1,"b":2}}')
        (start,) = self.starts
        self.assertEqual(start.request.method, b"PUT")
        self.assertEqual(start.body["deep"], {"b": 2})
        self.assertNotIn("secret", start.body)
        self.assertEqual(start.body["model"], "small-7")
        start.respond(b"{}", 202)
        self.call_back_to(start.body["hook"], b"done")
        self.check_result(client, 200, b"done")


COMMON = "\n[result]\nfailed-status = 502\n"
WIRES: dict[str, Any] = {
    "header": """
        path = "/function/{function}"
        account = "'all'"
        [start]
        url = "{URL}/async-function/{$request.path.function}"
        [start.set]
        "$request.header.X-Callback-Url" = "{$callback.url}"
        [ack]
        id = "$response.header.X-Call-Id"
        state = ""
        [callback]
        id = "$message.header.X-Call-Id"
        state = "$message.header.X-Function-Status"
        succeeded = ["200", "202"]
        """
    + COMMON,
    "query": """
        path = "/{model*}"
        account = "$request.header.Authorization"
        [start]
        url = "{URL}/{$request.path.model}"
        forward = ["Authorization"]
        forward-query = true
        [start.set]
        "$request.query.fal_webhook" = "{$callback.url}"
        [ack]
        id = "$response.body#/request_id"
        state = "$response.body#/status"
        [callback]
        id = "$message.payload#/request_id"
        state = "$message.payload#/status"
        succeeded = ["OK"]
        failed = ["ERROR"]
        [result]
        body = "$message.payload#/payload"
        """,
    "form": """
        path = "/calls"
        account = "'all'"
        [start]
        url = "{URL}/Calls.json"
        [start.set]
        "$request.body#/StatusCallback" = "{$callback.url}"
        [ack]
        id = "$response.body#/sid"
        state = "$response.body#/status"
        [callback]
        id = "$message.payload#/CallSid"
        state = "$message.payload#/CallStatus"
        progress = ["initiated", "ringing", "answered", "in-progress"]
        """,
    "envelope": """
        path = "/run"
        account = "$request.body#/key"
        [start]
        url = "{URL}/run"
        [start.set]
        "$request.body#/notify" = [{ url = "{$callback.url}", on = ["end"] }]
        [ack]
        accepted = { expression = "$response.body#/code", values = [0] }
        id = "$response.body#/data/task"
        [callback]
        id = "$message.payload#/data/task"
        [result]
        body = "$message.payload#/data/result"
        """,
    "two_urls": """
        path = "/run"
        account = "$request.body#/key"
        [start]
        url = "{URL}/run"
        [start.set]
        "$request.body#/urls/on_ok" = "{$callback.url}?outcome=ok"
        "$request.body#/urls/on_error" = "{$callback.url}?outcome=error"
        [callback]
        id = ""
        state = "$message.query.outcome"
        succeeded = ["ok"]
        failed = ["error"]
        """
    + COMMON,
    "location": """
        path = "/run"
        account = "$request.body#/key"
        [start]
        url = "{URL}/run"
        busy = [409]
        [start.set]
        "$request.body#/hook" = { base64 = { to = "{$callback.url}" } }
        [ack]
        id = "$response.header.Location"
        id-pattern = "/jobs/([^?]+)"
        [callback]
        methods = ["PUT"]
        """,
    "removed": """
        path = "/run/{size}"
        account = "$request.body#/key"
        [start]
        method = "PUT"
        url = "{URL}/run"
        remove = ["$request.body#/secret", "$request.body#/deep/a"]
        [start.set]
        "$request.body#/model" = "small-{$request.path.size}"
        "$request.body#/hook" = "{$callback.url}"
        """,
}
