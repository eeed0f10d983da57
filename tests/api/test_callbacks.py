"""Callbacks that come twice, forged, malformed or changed, through the whole proxy in memory."""

import gzip
import hmac
import json
import string
from typing import Any

from twisted.logger import capturedLogs

from jobproxy.wire.tokens import TokenSigner
from tests.support.callbacks import RETAIN, CallbackTestCase, read_log
from tests.support.clients import Response
from tests.support.job_server import Start
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
        for other in (result_of("1", "failed"), b'{"id":"1","state":"completed","at":7}', b"x"):
            self.check_receipt(self.call_back(start, other), "duplicate")
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

    def test_413_when_the_callback_is_over_64_kib(self) -> None:
        """B7: a callback of more than 64 KiB is refused, and the job goes on."""
        response = self.call_back(self.start, json.dumps({"id": "1", "x": "y" * 70_000}).encode())
        self.assert_problem(response, 413, "body-too-large")

    def test_progress_is_read_whatever_its_content_type_is(self) -> None:
        """B10: what can be read as a state is one, whatever the Content-Type is."""
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

    def test_405_for_other_methods_than_post_and_put(self) -> None:
        """B13: only POST and PUT are allowed on the path of a callback, whatever the token."""
        for path in (self.start.callback_path, "/callback/x"):
            for method in ("GET", "DELETE", "OPTIONS"):
                response = self.connect().request(path, None, method=method).response
                self.assert_problem(response, 405, "method-not-allowed")
                self.assertEqual(response.headers["allow"], "POST, PUT")


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
        for path in (f"{token}/more", f"more/{token}", f"{token}.x", f"{token}%00"):
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
        """B9, B10: any state but those of progress ends the job, and so does none."""
        states = ("failed", "rejected", "cancelled", "error", "COMPLETED", "no such word", "")
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
            b'{"id":""}',
            b'{"id":"%s"}' % (b"1" * 129),
        ):
            client, start = self.run_job()
            self.check_receipt(self.call_back(start, body), "accepted")
            self.assertEqual(client.response.body, body)

    def test_callback_with_another_id_ends_the_job_of_its_token(self) -> None:
        """B8: the token names the job; an event may have an id of its own, which is logged."""
        client, start = self.run_job()
        with capturedLogs() as events:
            self.check_receipt(self.call_back(start, result_of("evt-2")), "accepted")
        self.assertIn("another id", read_log(events))
        self.assertEqual(client.response.body, result_of("evt-2"))

    def test_words_of_progress_change_nothing(self) -> None:
        """B10: a job runs on after any usual word of progress, in any case."""
        client, start = self.run_job()
        for word in ("RUNNING", "in_progress", "Processing", "started", "accepted", "queued"):
            self.check_receipt(self.call_back(start, result_of("1", word)), "progress")
        self.assertTrue(client.is_held)
        self.call_back(start, result_of("1"))
        self.assertEqual(client.response.body, result_of("1"))


class AnyBodyTests(CallbackTestCase):
    """Results that are no JSON."""

    def send(self, start: Start, body: bytes, method: str = "POST", **headers: str) -> Response:
        """Send a callback; ``_`` in a header's name stands for ``-``."""
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        sender = self.connect().request(start.callback_path, body, method=method, headers=fields)
        return sender.response

    def test_result_may_be_anything(self) -> None:
        """B7: whatever is no state is the result, byte for byte, with its Content-Type."""
        deep = b'{"id":"1","state":"completed","x":' + b"[" * 100 + b"]" * 100 + b"}"
        for content_type, body in (
            ("application/x-www-form-urlencoded", b"state=completed&id=1"),
            ("text/plain; charset=latin-1", b"r\xe9sultat"),
            ("application/pdf", b"%PDF-1.7\r\n\x00\xff"),
            ("application/json", b"[1, 2]"),
            ("application/json", b""),
            ("application/json", b"{"),
            ("application/json", b"[" * 60_000),
            ("application/json", deep),
            ("application/json", b'\xef\xbb\xbf{"state":"completed"}'),
            ("application/json", '{"state":"completed"}'.encode("utf-16")),
            ("application/json", b'{"id":%b}' % (b"9" * 5_000)),
        ):
            client, start = self.run_job()
            receipt = self.send(start, body, Content_Type=content_type)
            self.check_receipt(receipt, "accepted")
            self.assertEqual(client.response.body, body)
            self.assertEqual(client.response.headers["content-type"], content_type)

    def test_result_without_a_content_type_gets_one(self) -> None:
        """B7: a result without a Content-Type is JSON if it can be read as that."""
        for body, content_type in ((b"{}", "application/json"), (b"x", "application/octet-stream")):
            client, start = self.run_job()
            self.check_receipt(self.send(start, body, Content_Type=""), "accepted")
            self.assertEqual(client.response.headers["content-type"], content_type)

    def test_progress_is_read_in_any_coding(self) -> None:
        """B10: a state is read in gzip, with a byte order mark, and in UTF-16."""
        client, start = self.run_job()
        progress = '{"id":"1","state":"running"}'
        for body, coding in (
            (gzip.compress(progress.encode()), "gzip"),
            (b"\xef\xbb\xbf" + progress.encode(), ""),
            (progress.encode("utf-16"), ""),
        ):
            headers = {"Content_Encoding": coding} if coding else {}
            self.check_receipt(self.send(start, body, **headers), "progress")
        self.assertTrue(client.is_held)
        body = gzip.compress(result_of("1"))
        self.check_receipt(self.send(start, body, Content_Encoding="gzip"), "accepted")
        self.assertEqual(client.response.headers["content-encoding"], "gzip")
        self.assertEqual(client.response.body, body)

    def test_bomb_is_not_inflated(self) -> None:
        """B7: a body that would be huge is not looked at, and ends the job like any other."""
        client, start = self.run_job()
        bomb = gzip.compress(b'{"state":"running","x":"' + b"0" * 2**24 + b'"}')
        self.check_receipt(self.send(start, bomb, Content_Encoding="gzip"), "accepted")
        self.assertEqual(client.response.body, bomb)

    def test_put_is_a_callback_too(self) -> None:
        """B13: a job server may PUT its result."""
        client, start = self.run_job()
        self.check_receipt(self.send(start, result_of("1"), method="PUT"), "accepted")
        self.assertEqual(client.response.body, result_of("1"))

    def test_other_spellings_of_the_path_reach_the_job(self) -> None:
        """B13: slashes too many, and a whole URL in any case, are the same path."""
        for spell in (
            "{}/".format,
            "/{}".format,
            lambda path: path.replace("/callback", "//callback//"),
            "HTTP://proxy.example{}".format,
            lambda path: path.replace("callback", "c%61llback"),
        ):
            client, start = self.run_job()
            sender = self.connect().request(spell(start.callback_path), result_of("1"))
            self.check_receipt(sender.response, "accepted")
            self.assertEqual(client.response.body, result_of("1"))

    def test_orphan_keeps_its_content_type(self) -> None:
        """B4: the operator gets an orphan as it came."""
        client, start = self.run_job()
        client.leave()
        self.clock.advance(31)
        self.send(start, b"%PDF", Content_Type="application/pdf")
        found = self.operate().get(f"/orphans/{start.job_id}").response
        self.assertEqual((found.body, found.headers["content-type"]), (b"%PDF", "application/pdf"))


class StrictTests(CallbackTestCase):
    """A proxy that compares the ids (``--strict-ids``)."""

    settings: dict[str, Any] = {"strict_ids": True}

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
