"""Signatures of callbacks: whether a callback comes from the job server.

A callback URL has a token that nobody can guess, so a signature is needed only where the URL is the
same for all jobs, or where the token may have been seen by others.
"""

import hmac
import re
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections.abc import Callable, Sequence
from enum import Enum

from attrs import field, frozen

from jobproxy.profiles.messages import Message

#: Bytes of a secret of Standard Webhooks at least.
MIN_SECRET = 8
#: Seconds by which the time in a signature may differ from ours.
TOLERANCE = 300.0


class Scheme(Enum):
    """How callbacks are signed."""

    #: Webhook-Id, Webhook-Timestamp, Webhook-Signature: see standardwebhooks.com.
    STANDARD_WEBHOOKS = "standard-webhooks"
    #: A header with the HMAC of the body.
    HMAC = "hmac"
    #: A header with the secret itself.
    TOKEN = "token"  # noqa: S105 - a name


ALGORITHMS = ("sha1", "sha256", "sha512")
ENCODINGS: dict[str, Callable[[bytes], str]] = {
    "hex": bytes.hex,
    "base64": lambda data: b64encode(data).decode(),
}


class BadSecret(ValueError):
    """A secret has not the format that its scheme needs."""


@frozen
class Verifier:
    """Verifies callbacks.

    :param secrets: each of them verifies, so that one can be replaced by another.
    :param header: with the signature or the secret.
    :param prefix: of the header's value, before the signature.
    :param algorithm: of the hash.
    :param encoding: of the signature.
    :param tolerance: seconds by which a time in the signature may differ.
    """

    scheme: Scheme
    secrets: Sequence[bytes] = field(repr=False)
    header: str = ""
    prefix: str = ""
    algorithm: str = "sha256"
    encoding: str = "hex"
    tolerance: float = TOLERANCE

    def verify(self, message: Message, now: float) -> bool:
        """Whether a callback comes from somebody who has a secret.

        :param now: Unix time in seconds.
        """
        if self.scheme is Scheme.STANDARD_WEBHOOKS:
            return self._verify_standard(message, now)
        given = message.find_header(self.header) or ""
        if not given.startswith(self.prefix):
            return False
        given = given[len(self.prefix) :].strip()
        return self._is_any([self._sign(secret, message.body) for secret in self.secrets], [given])

    def _sign(self, secret: bytes, body: bytes) -> str:
        if self.scheme is Scheme.TOKEN:
            return secret.decode("latin-1")
        return ENCODINGS[self.encoding](hmac.digest(secret, body, self.algorithm))

    def _verify_standard(self, message: Message, now: float) -> bool:
        name, time, signatures = (
            message.find_header(f"webhook-{part}") or ""
            for part in ("id", "timestamp", "signature")
        )
        if not re.fullmatch(r"[0-9]{1,15}", time) or abs(int(time) - now) > self.tolerance:
            return False
        signed = f"{name}.{time}.".encode("latin-1") + message.body
        right = [
            b64encode(hmac.digest(secret, signed, "sha256")).decode() for secret in self.secrets
        ]
        given = [part[3:] for part in signatures.split(" ")[:16] if part.startswith("v1,")]
        return self._is_any(right, given)

    def _is_any(self, right: list[str], given: list[str]) -> bool:
        # All are compared, so that the time does not tell which one was right.
        found = False
        for one in right:
            for other in given:
                found |= hmac.compare_digest(one.encode("latin-1"), other.encode("latin-1"))
        return found


def read_secrets(data: bytes, scheme: Scheme) -> tuple[bytes, ...]:
    """Return the secrets in a file: one or two lines.

    :raises BadSecret: if there is none, or one has not the format of the scheme.
    """
    lines = [line.strip() for line in data.split(b"\n") if line.strip()]
    if not 1 <= len(lines) <= 2:
        raise BadSecret("must have one or two lines, each with a secret")
    if scheme is not Scheme.STANDARD_WEBHOOKS:
        return tuple(lines)
    return tuple(_decode_standard(line) for line in lines)


def _decode_standard(line: bytes) -> bytes:
    try:
        secret = b64decode(line.removeprefix(b"whsec_"), validate=True)
    except Base64Error:
        secret = b""
    if len(secret) < MIN_SECRET:
        raise BadSecret("must have secrets like whsec_… with base64 behind it") from None
    return secret
