"""What is secret in the requests that a profile makes."""

import json
from base64 import b64encode

from twisted.trial.unittest import SynchronousTestCase

from jobproxy.profiles.messages import Message
from jobproxy.profiles.requests import make_follow_headers, make_start
from tests.support.profiles import SECRET, parse_profile

URL = "http://proxy.example/callback/api/token"
PROFILE = """
path = "/run"
account = "'all'"
[start]
url = "{URL}/run"
forward = ["Authorization"]
[start.set]
"$request.header.X-Plain" = "v1"
"$request.header.X-Hook" = { base64 = { to = ["{$callback.url}"] } }
"$request.body#/auth" = { keys = [{ file = "secret" }] }
"$request.body#/coded" = { base64 = { key = { file = "secret" } } }
"$request.body#/open" = { base64 = "of no interest" }
"""


class SecretsTests(SynchronousTestCase):
    """Wherever they are in a start request."""

    def setUp(self) -> None:
        self.profile = parse_profile(PROFILE)
        self.request = Message(b"{}", {b"authorization": b"Bearer r8_secret"})

    def test_secrets_of_a_start_are_known(self) -> None:
        """The client's credentials, secrets deep in the body, and what has one in base64."""
        coded = b64encode(json.dumps({"key": SECRET}, separators=(",", ":")).encode()).decode()
        hook = b64encode(json.dumps({"to": [URL]}, separators=(",", ":")).encode()).decode()
        call = make_start(self.profile, self.request, URL)
        self.assertEqual(json.loads(call.body)["auth"], {"keys": [SECRET]})
        self.assertEqual(json.loads(call.body)["coded"], coded)
        self.assertEqual(set(call.secrets), {"Bearer r8_secret", SECRET, coded, hook})
        self.assertNotIn(SECRET, repr(self.profile))

    def test_callback_url_is_in_no_later_request(self) -> None:
        """Not in base64 either: only the start says where callbacks go."""
        headers = dict(make_follow_headers(self.profile, self.request))
        self.assertEqual(headers, {b"authorization": b"Bearer r8_secret", b"x-plain": b"v1"})
