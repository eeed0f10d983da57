"""Callbacks that come twice, forged, malformed or changed, through the whole proxy in memory."""

import hmac
import json
import string

from twisted.logger import capturedLogs

from jobproxy.wire.tokens import TokenSigner
from tests.support.callbacks import RETAIN, CallbackTestCase, read_log
from tests.support.proxy import result_of

LIFETIME = 86_400


class SecondTests(CallbackTestCase):
    """Callbacks of a job that has its result."""

    def test_second_callback_in_one_packet_is_a_duplicate(self) -> None:
        """B2: of two callbacks in one packet the second is a duplicate."""
        client, start = self.run_job()
        body = result_of("1")
        head = f"POST {start.callback_path} HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}"
        sender = self.connect()
        sender.send(2 * (head.encode() + b"\r\n\r\n" + body))
        statuses = [response.json["status"] for response in sender.responses]
        self.assertEqual(statuses, ["accepted", "duplicate"])
        self.assertEqual(client.response.body, body)

    def test_second_callback_changes_nothing_until_retain_is_over(self) -> None:
        """B2: until --retain is over a second callback changes nothing."""
        client, start = self.run_job()
        self.call_back(start, result_of("1"))
        self.clock.advance(RETAIN - 1)
        self.check_receipt(self.call_back(start, result_of("1")), "duplicate")
        other = self.call_back(start, result_of("1", "failed"))
        self.assert_problem(other, 409, "callback-conflict")
        self.assertEqual(client.response.body, result_of("1"))
        self.assertEqual(self.poll(start).body, result_of("1"))

    def test_second_callback_after_retain_is_late(self) -> None:
        """B2, B3: a second callback after --retain is like one from before a restart."""
        client, start = self.run_job()
        self.call_back(start, result_of("1"))
        self.clock.advance(RETAIN)
        self.assert_problem(self.poll(start), 404, "job-unknown", started="unknown")
        self.check_receipt(self.call_back(start, result_of("1")), "late")
        self.assertEqual(client.response.status, 200)

    def test_progress_after_the_result_changes_nothing(self) -> None:
        """B10: progress after the result is accepted, and changes nothing."""
        client, start = self.run_job()
        self.call_back(start, result_of("1"))
        self.check_receipt(self.call_back(start, result_of("1", "running")), "progress")
        self.check_receipt(self.call_back(start, result_of("1")), "duplicate")
        self.assertEqual(client.response.body, result_of("1"))
        self.assertEqual(self.poll(start).body, result_of("1"))


class RefusedTests(CallbackTestCase):
    """Callbacks that are refused, while their job goes on."""

    def setUp(self) -> None:
        super().setUp()
        self.client, self.start = self.run_job()

    def tearDown(self) -> None:
        self.assertTrue(self.client.is_held)
        self.call_back(self.start, result_of("1"))
        self.assertEqual(self.client.response.body, result_of("1"))
        super().tearDown()

    def test_404_for_a_forged_token_is_like_any_other(self) -> None:
        """B6: without a good token a callback is a path that does not exist; nothing is parsed."""
        token = self.start.token
        job_id, _, mac = token.partition(".")
        unknown = self.connect().request("/nothing/here", b"").response
        forged = [f"{job_id}.{mac[:-1]}", job_id, f"{job_id}.", "x", f"{job_id}.{'A' * len(mac)}"]
        for path in forged:
            response = self.connect().request(f"/callback/{path}", b"not JSON").response
            problem = self.assert_problem(response, 404, "not-found")
            self.assertEqual({**unknown.json, "requestId": problem["requestId"]}, problem)
            self.assertEqual(
                {**unknown.headers, "x-request-id": problem["requestId"]}, response.headers
            )

    def test_400_when_the_callback_is_no_json_object(self) -> None:
        """B7: a callback that is no JSON object is refused, and the job goes on."""
        for body in (b"", b"[]", b"null", b"{", b'{"id":', b"[" * 60_000, b"\xff", b'"x"'):
            response = self.call_back(self.start, body)
            self.assert_problem(response, 400, "invalid-json")

    def test_413_when_the_callback_is_over_64_kib(self) -> None:
        """B7: a callback of more than 64 KiB is refused, and the job goes on."""
        response = self.call_back(self.start, json.dumps({"id": "1", "x": "y" * 70_000}).encode())
        self.assert_problem(response, 413, "body-too-large")

    def test_content_type_of_a_callback_is_ignored(self) -> None:
        """B7: the Content-Type of a callback is ignored."""
        response = (
            self.connect()
            .request(
                self.start.callback_path,
                result_of("1", "running"),
                headers={"Content-Type": "text/plain"},
            )
            .response
        )
        self.assertEqual(response.json, {"status": "progress"})

    def test_405_for_other_methods_than_post(self) -> None:
        """B13: only POST is allowed on the path of a callback, whatever the token."""
        for path in (self.start.callback_path, "/callback/x"):
            for method in ("GET", "PUT", "OPTIONS"):
                response = self.connect().request(path, None, method=method).response
                self.assert_problem(response, 405, "method-not-allowed")
                self.assertEqual(response.headers["allow"], "POST")


class ForgedTests(CallbackTestCase):
    """Callbacks without a good token."""

    def setUp(self) -> None:
        super().setUp()
        self.client, self.start = self.run_job()

    def tearDown(self) -> None:
        if self.client.is_held:
            self.check_receipt(self.call_back(self.start, result_of("1")), "accepted")
        super().tearDown()

    def check_forged(self, token: str) -> None:
        sender = self.connect().request(f"/callback/{token}", result_of("1", "failed"))
        self.assert_problem(sender.response, 404, "not-found")
        sender.leave()

    def test_404_when_any_byte_of_the_token_is_changed(self) -> None:
        """B6: 404 for a token with any one of its bytes changed."""
        token = self.start.token
        alphabet = string.ascii_letters + string.digits + "-_."
        for at, byte in enumerate(token):
            # The next one differs in few bits only, and may encode the same number of bytes.
            following = alphabet[(alphabet.index(byte) + 1) % len(alphabet)]
            for other in {following, "A", "_"} - {byte}:
                self.check_forged(token[:at] + other + token[at + 1 :])
        self.assertTrue(self.client.is_held)

    def test_signature_is_compared_in_constant_time(self) -> None:
        """B6: the time of a comparison does not show how much of a signature is right."""
        compared: list[tuple[object, object]] = []
        compare = hmac.compare_digest

        def watch(left: str, right: str) -> bool:
            compared.append((left, right))
            return compare(left, right)

        self.patch(hmac, "compare_digest", watch)
        self.check_forged("x.y")
        self.assertEqual(len(compared), 1)

    def test_404_when_the_token_has_another_key(self) -> None:
        """B6: 404 for a token that was signed with another key."""
        self.check_forged(TokenSigner([b"x" * 32], now=self.clock.seconds).mint().text)

    def test_404_when_the_token_has_expired(self) -> None:
        """B6: 404 for a token whose lifetime is over."""
        token = self.signer.mint().text
        self.clock.advance(30)
        self.assertEqual(self.client.response.status, 504)
        self.clock.advance(LIFETIME - 30)
        sender = self.connect().request(f"/callback/{token}", result_of("1", "running"))
        self.check_receipt(sender.response, "late")
        self.clock.advance(1)
        self.check_forged(token)

    def test_404_when_a_path_only_begins_with_a_token(self) -> None:
        """B6: 404 for a path that only begins with a good token."""
        token = self.start.token
        for path in (f"{token}/", f"{token}/more", f"/{token}", f"{token}.x", f"{token}%00"):
            self.check_forged(path)

    def test_body_of_a_forged_callback_is_ignored(self) -> None:
        """B6: a forged callback gets the response of an unknown path, whatever its body is."""
        for body in (b"", b"{", b"x" * 60_000):
            unknown, forged = (
                self.connect().request(path, body, headers={"X-Request-Id": "same"}).response
                for path in ("/nothing", "/callback/x.y")
            )
            self.assertEqual(unknown, forged)


class ContentTests(CallbackTestCase):
    """The body of a callback."""

    def test_any_state_but_progress_ends_the_job(self) -> None:
        """B9, B10: any state but the three of progress ends the job, and so does none."""
        states = ("failed", "rejected", "cancelled", "error", "RUNNING", "no such word", "")
        bodies = [result_of("1", state) for state in states]
        bodies += [b'{"id":"1"}', b'{"id":"1","state":null}', b'{"id":"1","state":["running"]}']
        for body in bodies:
            client, start = self.run_job()
            self.check_receipt(self.call_back(start, body), "accepted")
            self.assertEqual((client.response.status, client.response.body), (200, body))

    def test_progress_moves_no_deadline(self) -> None:
        """B10: progress does not give a client more time."""
        client, start = self.run_job()
        self.clock.advance(29)
        self.call_back(start, result_of("1", "running"))
        self.clock.advance(0.5)
        self.assertTrue(client.is_held)
        self.clock.advance(0.5)
        self.assert_problem(client.response, 504, "wait-over", started="yes")

    def test_result_is_sent_byte_for_byte(self) -> None:
        """B12: a result reaches the client unchanged, whatever it has and however it is written."""
        for body in (
            b"{}",
            b' {"id" : "1" , "proof":"\\u0041" , "proof":"B", "n":1.0e2,\r\n"x":1E400} ',
            '{"id":"1","näme":"\u2028 😀"}'.encode(),
            b'{"id":"1","deep":' + b"[" * 50 + b"]" * 50 + b"}",
            b'{"id":"1","long":"' + b"x" * 65_000 + b'"}',
        ):
            client, start = self.run_job()
            self.check_receipt(self.call_back(start, body), "accepted")
            self.assertEqual(client.response.body, body)

    def test_callback_without_an_id_is_accepted(self) -> None:
        """B8: a callback without a usable id is no conflict."""
        for body in (
            b"{}",
            b'{"id":null}',
            b'{"id":7}',
            b'{"id":""}',
            b'{"id":"%s"}' % (b"1" * 129),
        ):
            client, start = self.run_job()
            self.check_receipt(self.call_back(start, body), "accepted")
            self.assertEqual(client.response.body, body)

    def test_409_when_the_callback_has_another_id(self) -> None:
        """B8: a callback with the id of another job is refused, whatever its state, and logged."""
        client, start = self.run_job()
        for state in ("completed", "failed", "running"):
            with capturedLogs() as events:
                refused = self.call_back(start, result_of("2", state))
            self.assert_problem(refused, 409, "callback-conflict")
            self.assertIn("another id", read_log(events))
            self.assertTrue(client.is_held)
        self.call_back(start, result_of("1"))
        self.assertEqual(client.response.body, result_of("1"))
        self.assert_problem(self.call_back(start, result_of("2")), 409, "callback-conflict")
