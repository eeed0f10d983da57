"""What the HTTP side says to requests that are no jobs; each answer is read whole."""

import json
from typing import cast
from unittest import mock

from twisted.logger import ILogObserver, LogEvent, globalLogPublisher

from jobproxy.gateway import Gateway
from tests.support.proxy import PROBLEM, Answer, ProxyTestCase, result_of


class RefusalTestCase(ProxyTestCase):
    """Requests that are refused before anything is started."""

    def tearDown(self) -> None:
        self.assertEqual(self.starts, [])
        super().tearDown()

    def assert_whole(
        self, response: Answer, reason: str, document: dict[str, object], **headers: str
    ) -> None:
        """Check an answer, all of it."""
        self.assertEqual(response.json, {"requestId": "id-0", "started": "no", **document})
        self.assertEqual(response.status, document["status"])
        self.assertEqual(response.reason, reason)
        response.headers.pop("date")
        self.assertEqual(
            response.headers,
            {
                "server": "jobproxy",
                "content-type": PROBLEM,
                "content-length": str(len(response.body)),
                "x-request-id": "id-0",
                **headers,
            },
        )


class InvalidJsonTests(RefusalTestCase):
    """Q1: bodies that are not strict JSON."""

    def check(self, body: bytes, detail: str) -> None:
        response = self.connect().request(body=body).response
        self.assert_whole(
            response,
            "Bad Request",
            {
                "type": "urn:jobproxy:problem:invalid-json",
                "title": "The body is not acceptable JSON",
                "status": 400,
                "detail": detail,
            },
        )

    def test_empty(self) -> None:
        """Q1: no body."""
        self.check(b"", "The body is not JSON: expecting value at character 0.")

    def test_truncated(self) -> None:
        """Q1: a body that was cut short."""
        self.check(
            b'{"account":',
            "The body is not JSON: expecting value at character 11.",
        )

    def test_trailing(self) -> None:
        """Q1: more than one value."""
        self.check(b'{"account":"a"} {}', "The body is not JSON: extra data at character 16.")

    def test_byte_order_mark(self) -> None:
        """Q1: a byte order mark."""
        self.check(
            b'\xef\xbb\xbf{"account":"a"}',
            "The body starts with a byte order mark, which JSON does not allow.",
        )

    def test_utf_16(self) -> None:
        """Q1: UTF-16."""
        self.check('{"account":"a"}'.encode("utf-16"), "The body is not UTF-8: byte 0 is wrong.")

    def test_not_utf_8(self) -> None:
        """Q1: Latin-1."""
        self.check(b'{"account":"\xe9"}', "The body is not UTF-8: byte 12 is wrong.")

    def test_constants(self) -> None:
        """Q1: numbers that JSON does not have."""
        self.check(b'{"account":"a","x":NaN}', "The body is not JSON: NaN is not a JSON value.")

    def test_infinity(self) -> None:
        """Q1: numbers that JSON does not have, deep inside."""
        self.check(
            b'{"account":"a","x":[{"y":-Infinity}]}',
            "The body is not JSON: -Infinity is not a JSON value.",
        )

    def test_duplicate(self) -> None:
        """Q1: a member that is there twice."""
        self.check(
            b'{"account":"a","account":"b"}',
            "The body is not JSON: an object has the same member twice.",
        )

    def test_duplicate_inside(self) -> None:
        """Q1: a member that is there twice, written differently, deep inside."""
        self.check(
            b'{"account":"a","x":[{"y":1,"\\u0079":2}]}',
            "The body is not JSON: an object has the same member twice.",
        )

    def test_surrogate(self) -> None:
        """Q1: half a surrogate pair."""
        self.check(b'{"account":"\\ud83d"}', "The body escapes half a surrogate pair.")

    def test_surrogate_in_a_name(self) -> None:
        """Q1: half a surrogate pair in a member's name, deep inside."""
        self.check(b'{"account":"a","x":{"\\uDE00":1}}', "The body escapes half a surrogate pair.")

    def test_deep(self) -> None:
        """Q1: deep nesting."""
        self.check(
            b'{"account":"a","x":' + b"[" * 64 + b"]" * 64 + b"}",
            "The body is nested deeper than 64 levels.",
        )

    def test_very_deep(self) -> None:
        """Q1: nesting without an end, as deep as the body may be long."""
        self.check(b"[" * 65_536, "The body is nested deeper than 64 levels.")

    def test_huge_number(self) -> None:
        """Q1: a number of more digits than Python reads."""
        body = b'{"account":"a","x":' + b"1" * 5_000 + b"}"
        response = self.connect().request(body=body).response
        self.assert_problem(response, 400, "invalid-json")

    def test_not_an_object(self) -> None:
        """Q1: JSON that is not an object."""
        self.check(b'["account"]', "The body is JSON, but not an object.")


class InvalidRequestTests(RefusalTestCase):
    """Q2: objects that are no jobs."""

    def check(self, body: bytes, *errors: tuple[str, str], detail: str) -> None:
        response = self.connect().request(body=body).response
        self.assert_whole(
            response,
            "Bad Request",
            {
                "type": "urn:jobproxy:problem:invalid-request",
                "title": "The request is not a valid job",
                "status": 400,
                "detail": detail,
                "errors": [{"pointer": pointer, "detail": text} for pointer, text in errors],
            },
        )

    def test_no_account(self) -> None:
        """Q2: the account is missing."""
        self.check(b"{}", ("/account", "is missing"), detail="account is missing.")

    def test_account_is_no_string(self) -> None:
        """Q2: the account is not a string."""
        self.check(
            b'{"account":1}',
            ("/account", "must be a string"),
            detail="account must be a string.",
        )

    def test_account_is_empty(self) -> None:
        """Q2: the account is empty."""
        wrong = "must have 1 to 254 characters, not 0"
        self.check(b'{"account":""}', ("/account", wrong), detail=f"account {wrong}.")

    def test_account_is_long(self) -> None:
        """Q2: the account has more than 254 characters."""
        wrong = "must have 1 to 254 characters, not 255"
        body = json.dumps({"account": "é" * 255}).encode()
        self.check(body, ("/account", wrong), detail=f"account {wrong}.")

    def test_account_has_control_characters(self) -> None:
        """Q2: the account has a line break."""
        wrong = "must not contain control characters"
        self.check(b'{"account":"a\\nb"}', ("/account", wrong), detail=f"account {wrong}.")

    def test_wait_is_no_boolean(self) -> None:
        """Q2: wait is not a boolean; every fault is told at once."""
        self.check(
            b'{"wait":1}',
            ("/account", "is missing"),
            ("/wait", "must be true, false or left out"),
            detail="account is missing; wait must be true, false or left out.",
        )


class RefusedRequestTests(RefusalTestCase):
    """Requests that are wrong before their body is read."""

    def test_own_callback(self) -> None:
        """Q4: a client that wants to be called back itself is told that it is not."""
        body = b'{"account":"a","wait":false,"callback":"http://a.example/"}'
        response = self.connect().request(body=body).response
        self.assert_whole(
            response,
            "Bad Request",
            {
                "type": "urn:jobproxy:problem:callback-not-allowed",
                "title": "A callback of the client's own is not allowed",
                "status": 400,
                "detail": "This proxy does not allow callbacks to clients: leave out callback, "
                "and GET the result from the Location of the response.",
            },
        )

    def test_other_type(self) -> None:
        """Q5: a body that is not said to be JSON."""
        for content_type in ("application/x-www-form-urlencoded", "text/json", "application/jsonp"):
            response = self.connect().request(headers={"Content-Type": content_type}).response
            self.assert_problem(response, 415, "unsupported-media-type")

    def test_encoding(self) -> None:
        """Q5: a compressed body."""
        response = self.connect().request(headers={"Content-Encoding": "gzip"}).response
        self.assert_problem(response, 415, "unsupported-media-type")

    def test_too_large(self) -> None:
        """Q6: a body of more than 64 KiB."""
        body = json.dumps({"account": "a", "x": "y" * 65_536}).encode()
        response = self.connect().request(body=body).response
        self.assert_problem(response, 413, "body-too-large")

    def test_wrong_path(self) -> None:
        """Q23: a path where nothing is."""
        response = self.connect().request("/elsewhere", None, method="GET").response
        self.assert_whole(
            response,
            "Not Found",
            {
                "type": "urn:jobproxy:problem:not-found",
                "title": "Nothing is served here",
                "status": 404,
                "detail": "There is nothing at this path.",
            },
        )

    def test_nearly_right_paths(self) -> None:
        """Q23: a path that is nearly right is no redirect."""
        for path in ("/proxy/", "/Proxy", "/callback", "/callback/", "/proxy/a", "/a/b"):
            response = self.connect().request(path).response
            self.assert_problem(response, 404, "not-found")

    def test_wrong_method(self) -> None:
        """Q23: a method that is not served."""
        response = self.connect().request("/proxy", None, method="GET").response
        self.assert_whole(
            response,
            "Method Not Allowed",
            {
                "type": "urn:jobproxy:problem:method-not-allowed",
                "title": "This method is not served here",
                "status": 405,
                "detail": "Use POST here.",
            },
            allow="POST",
        )

    def test_head(self) -> None:
        """Q23: HEAD gets the header of an answer and no body."""
        client = self.connect().request("/proxy", None, method="HEAD")
        head, _, body = client.transport.value().partition(b"\r\n\r\n")
        self.assertTrue(head.startswith(b"HTTP/1.1 405 Method Not Allowed\r\n"))
        self.assertEqual(body, b"")


class CrashTests(RefusalTestCase):
    """Q24: bugs of ours."""

    def test_tells_nothing_of_the_bug(self) -> None:
        """Q24: an exception in a handler is a 500 with an id, by which the log has the rest."""
        bug = RuntimeError("secret")
        with mock.patch.object(Gateway, "submit", side_effect=bug):
            response = self.connect().request().response
        self.assert_whole(
            response,
            "Internal Server Error",
            {
                "type": "urn:jobproxy:problem:internal",
                "title": "The proxy failed",
                "status": 500,
                "detail": "The proxy has a bug; its log has the traceback under this requestId.",
                "started": "unknown",
            },
        )
        self.assertEqual([failure.value for failure in self.flushLoggedErrors()], [bug])

    def test_during_the_start(self) -> None:
        """Q24: an exception in a start is the same; the place in its lane is given back."""
        bug = RuntimeError("secret")
        with mock.patch("jobproxy.gateway.Job.to_start", side_effect=bug, autospec=True):
            response = self.submit().response
        self.assert_problem(response, 500, "internal", started="unknown")
        self.assertNotIn(b"secret", response.body)
        self.assertEqual([failure.value for failure in self.flushLoggedErrors()], [bug])


class RequestIdTests(ProxyTestCase):
    """The id by which a request is known."""

    def test_given(self) -> None:
        """A request's own id is sent back."""
        client = self.connect().request(headers={"X-Request-Id": "mine/1:2+3=x.y-z_0"})
        self.starts[0].respond(result_of("1"))
        self.assertEqual(client.response.headers["x-request-id"], "mine/1:2+3=x.y-z_0")

    def test_unfit(self) -> None:
        """An id that is not fit to be sent back is replaced."""
        for given in ("", "a b", "é", "x" * 129, "a\x1bb", '"'):
            response = self.connect().request("/x", headers={"X-Request-Id": given}).response
            self.assertRegex(response.headers["x-request-id"], r"\Aid-[0-9]\Z")


class AcceptedTests(ProxyTestCase):
    """Requests that are unusual and right."""

    def test_types_of_json(self) -> None:
        """Q5: JSON by any of its names, or by none, is taken."""
        for content_type in (
            "application/json; charset=utf-8",
            "Application/JSON",
            "application/vnd.job+json",
        ):
            client = self.connect().request(headers={"Content-Type": content_type})
            self.starts[-1].respond(result_of("1"))
            self.assertEqual(client.response.status, 200)
        client = self.connect()
        client.send(b'POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 15\r\n\r\n{"account":"a"}')
        self.starts[-1].respond(result_of("1"))
        self.assertEqual(client.response.status, 200)

    def test_chunked(self) -> None:
        """Q8: a chunked body is taken."""
        client = self.connect()
        client.send(b"POST /proxy HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        client.send(b'5\r\n{"acc\r\na\r\nount":"a"}\r\n0\r\n\r\n')
        self.starts[-1].respond(result_of("1"))
        self.assertEqual(client.response.status, 200)

    def test_http_1_0(self) -> None:
        """Q21: a client of HTTP/1.0 gets its answer and the connection's end."""
        client = self.connect()
        client.send(b'POST /proxy HTTP/1.0\r\nContent-Length: 15\r\n\r\n{"account":"a"}')
        self.starts[-1].respond(result_of("1"))
        self.assertEqual(client.response.body, result_of("1"))
        self.assertFalse(client.transport.connected)

    def test_pipelined(self) -> None:
        """Q19: a second request on a held client's connection is answered second."""
        client = self.connect().request().request("/elsewhere")
        self.assertTrue(client.is_held)
        self.starts[0].respond(result_of("1"))
        self.assertEqual([response.status for response in client.responses], [200, 404])

    def test_largest_body(self) -> None:
        """Q6: a body of just 64 KiB is taken."""
        body = b'{"account":"a","x":"' + b"y" * 65_514 + b'"}'
        self.assertEqual(len(body), 65_536)
        client = self.connect().request(body=body)
        self.starts[0].respond(result_of("1"))
        self.assertEqual(client.response.status, 200)


class LogTests(ProxyTestCase):
    """What is written of requests."""

    def test_no_token(self) -> None:
        """No line that is logged of a job or its callback holds the token of its URL."""
        events: list[LogEvent] = []
        observe = cast(ILogObserver, events.append)
        globalLogPublisher.addObserver(observe)
        self.addCleanup(globalLogPublisher.removeObserver, observe)
        self.submit()
        self.starts[0].ack("1")
        self.call_back(self.starts[0], result_of("1"))
        states = ["queued", "starting", "running", "ended"]
        self.assertEqual([event["state"] for event in events], states)
        token = self.starts[0].callback_path.removeprefix("/callback/")
        self.assertNotIn(token, str(events))
