"""Signatures of callbacks."""

import hmac
from base64 import b64decode, b64encode

from twisted.trial.unittest import SynchronousTestCase

from jobproxy.profiles.messages import Message
from jobproxy.profiles.signatures import BadSecret, Scheme, Verifier, read_secrets

#: The example of the specification of Standard Webhooks, which its libraries test with.
SECRET = b"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
BODY = b'{"test": 2432232314}'
TIME = 1_614_265_330
SIGNED = {
    b"webhook-id": b"msg_p5jXN8AQM9LWM0D4loKWxJek",
    b"webhook-timestamp": b"1614265330",
    b"webhook-signature": b"v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
}


class StandardTests(SynchronousTestCase):
    """Standard Webhooks."""

    def setUp(self) -> None:
        secrets = read_secrets(SECRET, Scheme.STANDARD_WEBHOOKS)
        self.verifier = Verifier(Scheme.STANDARD_WEBHOOKS, secrets)

    def check(self, expected: bool, now: float = TIME, body: bytes = BODY, **more: bytes) -> None:
        headers = SIGNED | {name.replace("_", "-").encode(): v for name, v in more.items()}
        self.assertIs(self.verifier.verify(Message(body, headers), now), expected)

    def test_published_vector_verifies(self) -> None:
        self.check(True)
        self.check(True, TIME + 300)
        self.check(True, TIME - 300)

    def test_any_of_several_signatures_is_enough(self) -> None:
        right = SIGNED[b"webhook-signature"]
        self.check(True, webhook_signature=b"v1,AAAA v1a,BBBB " + right)

    def test_all_else_is_refused(self) -> None:
        self.check(False, body=BODY + b" ")
        self.check(False, TIME + 301)
        self.check(False, TIME - 301)
        self.check(False, webhook_id=b"other")
        self.check(False, webhook_timestamp=b"1614265331")
        for signature in (b"", b"v1,", b"v2,g0hM", b"g0hM9SsE", b"v1,\xff"):
            self.check(False, webhook_signature=signature)
        for time in (b"", b"now", b"-1", b"9" * 100):
            self.check(False, webhook_timestamp=time)

    def test_both_secrets_of_a_file_verify(self) -> None:
        other = b"whsec_" + b64encode(b"o" * 24)
        for lines in (SECRET + b"\n" + other, other + b"\n" + SECRET + b"\n"):
            secrets = read_secrets(lines, Scheme.STANDARD_WEBHOOKS)
            self.verifier = Verifier(Scheme.STANDARD_WEBHOOKS, secrets)
            self.check(True)
        self.verifier = Verifier(Scheme.STANDARD_WEBHOOKS, (b64decode(other[6:]),))
        self.check(False)


class HmacTests(SynchronousTestCase):
    """The HMAC of the body in a header."""

    def test_encodings_and_algorithms(self) -> None:
        for algorithm in ("sha1", "sha256", "sha512"):
            digest = hmac.digest(b"s", BODY, algorithm)
            for encoding, text in (("hex", digest.hex()), ("base64", b64encode(digest).decode())):
                verifier = Verifier(Scheme.HMAC, (b"t", b"s"), "X-Sig", "v=", algorithm, encoding)
                for value, is_right in ((f"v={text}", True), (text, False), (f"v={text}x", False)):
                    message = Message(BODY, {b"x-sig": value.encode()})
                    self.assertIs(verifier.verify(message, 0), is_right)
                self.assertFalse(verifier.verify(Message(BODY), 0))


class TokenTests(SynchronousTestCase):
    """The secret itself in a header."""

    def test_secret_verifies(self) -> None:
        verifier = Verifier(Scheme.TOKEN, (b"secret",), "X-Secret")
        for value, is_right in ((b"secret", True), (b"secre", False), (b"", False)):
            self.assertIs(verifier.verify(Message(b"", {b"x-secret": value}), 0), is_right)
        self.assertNotIn("secret'", repr(verifier))


class SecretTests(SynchronousTestCase):
    """The file with the secrets."""

    def test_bad_files_are_refused(self) -> None:
        for data in (b"", b"\n \n", b"a\nb\nc"):
            self.assertRaises(BadSecret, read_secrets, data, Scheme.HMAC)
        for data in (b"whsec_?", b"whsec_", b"whsec_AAAA"):
            self.assertRaises(BadSecret, read_secrets, data, Scheme.STANDARD_WEBHOOKS)
