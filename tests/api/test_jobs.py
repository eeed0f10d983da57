"""Requests that are no jobs: each response is compared as a whole."""

import json
from typing import Any

from attrs import evolve

from jobproxy.app.environment import Environment
from tests.support.clients import Response
from tests.support.job_server import URL
from tests.support.proxy import PROBLEM, ProxyTestCase, result_of


class RefusalTestCase(ProxyTestCase):
    """Requests that are refused before anything is started."""

    def tearDown(self) -> None:
        self.assertEqual(self.starts, [])
        super().tearDown()

    def assert_whole(
        self, response: Response, reason: str, document: dict[str, object], **headers: str
    ) -> None:
        """Check all of a response."""
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

    def test_400_when_the_body_is_empty(self) -> None:
        """Q1: 400 for an empty body."""
        self.check(b"", "The body is not JSON: expecting value at character 0.")

    def test_400_when_the_body_is_cut_short(self) -> None:
        """Q1: 400 for a body that was cut short."""
        self.check(
            b'{"account":',
            "The body is not JSON: expecting value at character 11.",
        )

    def test_400_when_there_is_more_than_one_value(self) -> None:
        """Q1: 400 for more than one value."""
        self.check(b'{"account":"a"} {}', "The body is not JSON: extra data at character 16.")

    def test_400_when_there_is_a_byte_order_mark(self) -> None:
        """Q1: 400 for a byte order mark."""
        self.check(
            b'\xef\xbb\xbf{"account":"a"}',
            "The body starts with a byte order mark, which JSON does not allow.",
        )

    def test_400_when_the_body_is_utf_16(self) -> None:
        """Q1: 400 for UTF-16."""
        self.check('{"account":"a"}'.encode("utf-16"), "The body is not UTF-8: byte 0 is wrong.")

    def test_400_when_the_body_is_latin_1(self) -> None:
        """Q1: 400 for Latin-1."""
        self.check(b'{"account":"\xe9"}', "The body is not UTF-8: byte 12 is wrong.")

    def test_400_when_a_number_is_nan(self) -> None:
        """Q1: 400 for a number that JSON does not have."""
        self.check(b'{"account":"a","x":NaN}', "The body is not JSON: NaN is not a JSON value.")

    def test_400_when_a_nested_number_is_infinite(self) -> None:
        """Q1: 400 for such a number deep inside."""
        self.check(
            b'{"account":"a","x":[{"y":-Infinity}]}',
            "The body is not JSON: -Infinity is not a JSON value.",
        )

    def test_400_when_a_member_is_there_twice(self) -> None:
        """Q1: 400 for a member that is there twice."""
        self.check(
            b'{"account":"a","account":"b"}',
            "The body is not JSON: an object has the same member twice.",
        )

    def test_400_when_a_nested_member_is_there_twice(self) -> None:
        """Q1: 400 for a nested member that is there twice, the second time with an escape."""
        self.check(
            b'{"account":"a","x":[{"y":1,"\\u0079":2}]}',
            "The body is not JSON: an object has the same member twice.",
        )

    def test_400_when_a_string_has_half_a_surrogate_pair(self) -> None:
        """Q1: 400 for half a surrogate pair."""
        self.check(b'{"account":"\\ud83d"}', "The body escapes half a surrogate pair.")

    def test_400_when_a_nested_name_has_half_a_surrogate_pair(self) -> None:
        """Q1: 400 for half a surrogate pair in the name of a nested member."""
        self.check(b'{"account":"a","x":{"\\uDE00":1}}', "The body escapes half a surrogate pair.")

    def test_400_when_the_nesting_is_deeper_than_64_levels(self) -> None:
        """Q1: 400 for a nesting deeper than 64 levels."""
        self.check(
            b'{"account":"a","x":' + b"[" * 64 + b"]" * 64 + b"}",
            "The body is nested deeper than 64 levels.",
        )

    def test_400_when_the_whole_body_is_nesting(self) -> None:
        """Q1: 400 for a nesting as deep as the body may be long."""
        self.check(b"[" * 65_536, "The body is nested deeper than 64 levels.")

    def test_400_when_the_body_is_an_array(self) -> None:
        """Q1: 400 for JSON that is not an object."""
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

    def test_400_when_the_account_is_missing(self) -> None:
        """Q2: 400 when the account is missing."""
        self.check(b"{}", ("/account", "is missing"), detail="account is missing.")

    def test_400_when_the_account_is_no_string(self) -> None:
        """Q2: 400 when the account is not a string."""
        self.check(
            b'{"account":1}',
            ("/account", "must be a string"),
            detail="account must be a string.",
        )

    def test_400_when_the_account_is_empty(self) -> None:
        """Q2: 400 when the account is empty."""
        wrong = "must have 1 to 254 characters, not 0"
        self.check(b'{"account":""}', ("/account", wrong), detail=f"account {wrong}.")

    def test_400_when_the_account_has_255_characters(self) -> None:
        """Q2: 400 when the account has more than 254 characters."""
        wrong = "must have 1 to 254 characters, not 255"
        body = json.dumps({"account": "é" * 255}).encode()
        self.check(body, ("/account", wrong), detail=f"account {wrong}.")

    def test_400_when_the_account_has_a_line_break(self) -> None:
        """Q2: 400 when the account has a line break."""
        wrong = "must not contain control characters"
        self.check(b'{"account":"a\\nb"}', ("/account", wrong), detail=f"account {wrong}.")

    def test_400_lists_all_errors_at_once(self) -> None:
        """Q2: 400 when wait is not a boolean; all errors are in the response."""
        self.check(
            b'{"wait":1}',
            ("/account", "is missing"),
            ("/wait", "must be true, false or left out"),
            detail="account is missing; wait must be true, false or left out.",
        )


class RefusedRequestTests(RefusalTestCase):
    """Requests that are wrong before their body is read."""

    def test_400_when_a_client_names_a_callback(self) -> None:
        """Q4: 400 when a client names a callback of its own."""
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

    def test_400_when_a_client_that_does_not_wait_names_a_callback(self) -> None:
        """Q4: the same with ``Prefer: respond-async``."""
        body = b'{"account":"a","callback":"http://a.example/"}'
        response = self.connect().request(body=body, headers={"Prefer": "respond-async"}).response
        self.assert_problem(response, 400, "callback-not-allowed")

    def test_415_when_the_content_type_is_not_json(self) -> None:
        """Q5: 415 for a body that is not declared as JSON."""
        for content_type in ("application/x-www-form-urlencoded", "text/json", "application/jsonp"):
            response = self.connect().request(headers={"Content-Type": content_type}).response
            self.assert_problem(response, 415, "unsupported-media-type")

    def test_415_when_the_body_is_compressed(self) -> None:
        """Q5: 415 for a compressed body."""
        response = self.connect().request(headers={"Content-Encoding": "gzip"}).response
        self.assert_problem(response, 415, "unsupported-media-type")

    def test_413_when_the_body_is_over_64_kib(self) -> None:
        """Q6: 413 for a body of more than 64 KiB."""
        body = json.dumps({"account": "a", "x": "y" * 65_536}).encode()
        response = self.connect().request(body=body).response
        self.assert_problem(response, 413, "body-too-large")

    def test_404_at_an_unknown_path(self) -> None:
        """Q23: 404 at an unknown path."""
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

    def test_404_and_no_redirect_at_a_similar_path(self) -> None:
        """Q23: 404, and no redirect, at a path that is similar to one that is served."""
        for path in ("/Proxy", "/callback", "/callback/", "/proxy/a", "/proxy/.", "/a/b"):
            response = self.connect().request(path).response
            self.assert_problem(response, 404, "not-found")

    def test_slashes_too_many_are_no_other_path(self) -> None:
        """Q23: a slash at the end, or one too many, is the same path."""
        for path in ("/proxy/", "//proxy", "/start//", "http://proxy.example//proxy", "//"):
            response = self.connect().request(path, b"{").response
            self.assert_problem(response, 400, "invalid-json")

    def test_405_for_a_method_that_is_not_served(self) -> None:
        """Q23: 405 for a method that is not served."""
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

    def test_head_gets_the_headers_and_no_body(self) -> None:
        """Q23: HEAD gets the headers of the response and no body."""
        client = self.connect().request("/proxy", None, method="HEAD")
        head, _, body = client.transport.value().partition(b"\r\n\r\n")
        self.assertTrue(head.startswith(b"HTTP/1.1 405 Method Not Allowed\r\n"))
        self.assertEqual(body, b"")


class CrashTests(RefusalTestCase):
    """Q24: bugs of the proxy."""

    bug = RuntimeError("secret")

    def make_environment(self, reactor: Any) -> Environment:
        return evolve(super().make_environment(reactor), has_descriptors=self.raise_bug)

    def raise_bug(self) -> bool:
        raise self.bug

    def test_500_when_a_handler_fails_shows_nothing_of_the_bug(self) -> None:
        """Q24: an exception in a handler is a 500 with an id, by which the log has the rest."""
        response = self.operate().get("/readyz").response
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
        self.assertEqual([failure.value for failure in self.flushLoggedErrors()], [self.bug])

    def test_500_when_a_start_fails_and_the_slot_is_free(self) -> None:
        """Q24: an exception in a start is a 500 too, and the slot is given back."""
        self.fail_starts(self.bug)
        response = self.submit().response
        self.assert_problem(response, 500, "internal", started="unknown")
        self.assertNotIn(b"secret", response.body)
        self.assertEqual([failure.value for failure in self.flushLoggedErrors()], [self.bug])


class RequestIdTests(ProxyTestCase):
    """The id by which a request is known."""

    def test_request_id_of_the_client_is_sent_back(self) -> None:
        """The X-Request-Id of a request is in the response."""
        client = self.connect().request(headers={"X-Request-Id": "mine/1:2+3=x.y-z_0"})
        self.starts[0].respond(result_of("1"))
        self.assertEqual(client.response.headers["x-request-id"], "mine/1:2+3=x.y-z_0")

    def test_request_id_that_is_not_fit_is_replaced(self) -> None:
        """An X-Request-Id that is not fit to be sent back is replaced."""
        for given in ("", "a b", "é", "x" * 129, "a\x1bb", '"'):
            response = self.connect().request("/x", headers={"X-Request-Id": given}).response
            self.assertRegex(response.headers["x-request-id"], r"\Aid-[0-9]\Z")


class AcceptedTests(ProxyTestCase):
    """Requests that are unusual and right."""

    def test_all_content_types_of_json_are_accepted(self) -> None:
        """Q5: JSON is accepted under any of its content types, and without one."""
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

    def test_chunked_body_is_accepted(self) -> None:
        """Q8: a chunked body is accepted."""
        client = self.connect()
        client.send(b"POST /proxy HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        client.send(b'5\r\n{"acc\r\na\r\nount":"a"}\r\n0\r\n\r\n')
        self.starts[-1].respond(result_of("1"))
        self.assertEqual(client.response.status, 200)

    def test_client_of_http_1_0_gets_its_response_and_a_close(self) -> None:
        """Q21: a client of HTTP/1.0 gets its response and the end of the connection."""
        client = self.connect()
        client.send(b'POST /proxy HTTP/1.0\r\nContent-Length: 15\r\n\r\n{"account":"a"}')
        self.starts[-1].respond(result_of("1"))
        self.assertEqual(client.response.body, result_of("1"))
        self.assertFalse(client.transport.connected)

    def test_request_behind_a_held_one_gets_the_second_response(self) -> None:
        """Q19: a request behind a held one on the same connection gets the second response."""
        client = self.connect().request().request("/elsewhere")
        self.assertTrue(client.is_held)
        self.starts[0].respond(result_of("1"))
        self.assertEqual([response.status for response in client.responses], [200, 404])

    def test_body_of_64_kib_is_accepted(self) -> None:
        """Q6: a body of exactly 64 KiB is accepted."""
        body = b'{"account":"a","x":"' + b"y" * 65_514 + b'"}'
        self.assertEqual(len(body), 65_536)
        client = self.connect().request(body=body)
        self.starts[0].respond(result_of("1"))
        self.assertEqual(client.response.status, 200)


class LenientRequestTests(ProxyTestCase):
    """Requests that say what is not there."""

    def test_what_is_null_is_not_there(self) -> None:
        """Q30: ``null`` for ``wait`` and ``callback``, and an empty callback, are left out."""
        for members in (
            {"wait": None},
            {"callback": None},
            {"callback": ""},
            {"wait": True, "callback": "http://a"},
        ):
            client = self.connect().start(account="a", **members)
            self.assertTrue(client.is_held, members)
            self.starts[-1].respond(result_of("1"))
            self.assertEqual(client.response.body, result_of("1"))
        client = self.connect().start(account="a", wait=False, callback=None)
        self.starts[-1].ack("1")
        self.assertEqual(client.response.status, 202)
        self.assertTrue(self.starts[-1].body["callback"].startswith("http://proxy.example/"))
        self.call_back(self.starts[-1], result_of("1"))

    def test_body_that_says_that_it_is_not_coded_is_accepted(self) -> None:
        """Q30: ``Content-Encoding: identity`` is none; what is accepted is said in a 415."""
        client = self.connect().request(headers={"Content-Encoding": "identity"})
        self.starts[-1].respond(result_of("1"))
        self.assertEqual(client.response.status, 200)
        refused = self.connect().request(headers={"Content-Encoding": "gzip"}).response
        self.assert_problem(refused, 415, "unsupported-media-type")
        self.assertEqual(refused.headers["accept-encoding"], "identity")

    def test_preference_that_is_false_is_none(self) -> None:
        """Q30: ``respond-async=false`` does not ask for a 202."""
        client = self.connect().request(headers={"Prefer": "respond-async=false"})
        self.starts[-1].ack("1")
        self.assertTrue(client.is_held)
        self.call_back(self.starts[-1], result_of("1"))
        self.assertEqual(client.response.status, 200)


class HeaderTests(ProxyTestCase):
    """Headers that go on with the start request."""

    settings = {
        "forward_header": ("authorization",),
        "job_server_header_file": ((b"X-Api-Key", b"ours"),),
        "job_server_url": f"{URL}?version=2",
    }

    def test_headers_and_the_query_go_on_with_the_start(self) -> None:
        """Those of the client that the option names, and those of the file."""
        headers = {"Authorization": "Bearer theirs", "Cookie": "a=b"}
        client = self.connect().request(headers=headers)
        request = self.starts[0].request
        self.assertEqual(request.uri, b"/start?version=2")
        for name, value in (("authorization", "Bearer theirs"), ("x-api-key", "ours")):
            self.assertEqual(request.getHeader(name), value)
        self.assertIsNone(request.getHeader("cookie"))
        self.starts[0].respond(result_of("1"))
        self.assertEqual(client.response.body, result_of("1"))
