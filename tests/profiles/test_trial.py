"""Trying a profile on messages in files."""

from twisted.trial.unittest import SynchronousTestCase

from jobproxy.profiles.http_text import BadText, parse_request, parse_response
from jobproxy.profiles.paths import match_path, parse_path
from jobproxy.profiles.trial import WrongMessage, try_ack, try_callback, try_request
from tests.support.profiles import parse_profile

PROFILE = """
path = "/v1/{model}"
account = "$request.header.Authorization"
[start]
url = "https://api.example/v1/{$request.path.model}"
forward = ["Authorization"]
[start.set]
"$request.body#/hook" = "{$callback.url}"
[ack]
accepted = { expression = "$response.body#/ok", values = [true] }
[callback]
succeeded = ["done"]
failed = ["bad"]
verify = { scheme = "token", header = "X-Secret", secret-file = "secret" }
[result]
url = "{$message.payload#/url}"
failed-status = 502
fetch-failed = false
[cancel]
url = "{$response.body#/cancel}"
"""
REQUEST = b'POST /v1/a%20b HTTP/1.1\r\nAuthorization: Bearer x\r\n\r\n{"n":1.0}\n'


class TrialTests(SynchronousTestCase):
    """One profile."""

    def setUp(self) -> None:
        self.profile = parse_profile(PROFILE)
        self.request, lines = try_request(self.profile, parse_request(REQUEST))
        self.start = "\n".join(lines)

    def test_start_request_is_shown(self) -> None:
        self.assertIn("POST https://api.example/v1/a%20b\nauthorization: Bearer x\n", self.start)
        self.assertIn('{"n":1.0,"hook":"https://proxy.example/callback/api/TOKEN"}', self.start)

    def test_error_of_the_client_is_said(self) -> None:
        for data, words in (
            (b"POST /v2/x\n\n{}", "the path /v2/x is not that of the profile: /v1/{model}"),
            (b"GET /v1/x\n\n{}", "the method must be POST"),
            (b"POST /v1/x\n\n{}", "Authorization is missing"),
            (b"POST /v1/x\nAuthorization: a\n\n[", "the client would get: The body is not JSON"),
        ):
            with self.assertRaises(WrongMessage) as caught:
                try_request(self.profile, parse_request(data))
            self.assertIn(words, str(caught.exception))

    def test_ack_is_explained(self) -> None:
        for data, words in (
            (b"200 OK\n\n" + b'{"ok":true,"id":7,"state":"waiting"}', "waiting: the job goes on"),
            (b"200\n\n" + b'{"ok":true,"state":"bad"}', "the client gets 502"),
            (b"200\n\n" + b'{"ok":true,"cancel":"https://evil.example/"}', "(not allowed: add"),
            (b"HTTP/1.1 200 OK\n\n" + b'{"ok":false}', "rejected, as ack.accepted says"),
            (b"429\n\n", "busy"),
            (b"404\n\n", "rejected: the client gets 404"),
            (b"401\n\n", "refused: the client gets 502"),
            (b"500\n\n", "ambiguous"),
        ):
            lines = "\n".join(try_ack(self.profile, self.request, parse_response(data)))
            self.assertIn(words, lines)

    def test_callback_is_explained(self) -> None:
        secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
        for body, words in (
            (b'{"state":"done","url":"https://api.example/r/1"}', "GET https://api.example/r/1"),
            (b'{"state":"bad"}', "the client gets 502"),
            (b'{"state":"later"}', "not in the profile, so that it changes nothing"),
            (b'{"state":"running"}', "the job goes on"),
        ):
            data = b"POST /callback\nX-Secret: " + secret.encode() + b"\n\n" + body
            callback = parse_request(data).message
            lines = "\n".join(try_callback(self.profile, self.request, None, callback))
            self.assertIn(words, lines)
            self.assertIn("signature  right", lines)
        unsigned = parse_request(b"POST /callback\n\n{}").message
        self.assertIn("wrong", next(try_callback(self.profile, self.request, None, unsigned)))


class TextTests(SynchronousTestCase):
    """HTTP messages in files."""

    def test_body_stays_as_it_is(self) -> None:
        for data in (b"POST /x\nA: b\n\na\r\n\r\nb\n", b"POST /x\r\nA: b\r\n\r\na\r\n\r\nb\n"):
            found = parse_request(data)
            self.assertEqual(found.message.body, b"a\r\n\r\nb")
            self.assertEqual(found.message.headers, {b"a": b"b"})
        self.assertEqual(parse_response(b"204 No Content\n").status, 204)

    def test_what_is_no_message_is_refused(self) -> None:
        for data in (b"", b"hello\n\n", b"post /x\n\n", b"POST /x\nno header\n\n"):
            self.assertRaises(BadText, parse_request, data)
        self.assertRaises(BadText, parse_response, b"OK\n\n")


class PathTests(SynchronousTestCase):
    """Paths with variables."""

    def test_variables_are_found(self) -> None:
        for pattern, path, found in (
            ("/", "/", {}),
            ("/v1/{a}/x", "/v1/7/x", {"a": "7"}),
            ("/v1/{a}/x", "/v1/7/y", None),
            ("/v1/{a}", "/v1", None),
            ("/v1/{a}", "/v1/7/8", None),
            ("/{a*}", "/x/y/z", {"a": "x/y/z"}),
        ):
            self.assertEqual(match_path(parse_path(pattern), path), found, path)
