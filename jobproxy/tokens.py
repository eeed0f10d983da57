"""Tokens: the signed, unguessable names of jobs in their callback URLs.

A token is ``<handle>.<mac>``. The handle (expiry and 128 random bits) may be told to anyone; only
who has the whole token can complete the job. A token proves itself, so it tells a late callback
from a forged one without a look at any table, also after a restart with the same keys.
"""

import hmac
import secrets
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Sequence

from attrs import define, field, frozen

MIN_KEY = 32

_DOMAIN = b"jobproxy callback token v1\0"


@frozen
class Token:
    """
    :param handle: the public part, by which everything but the callback URL names the job.
    :param text: the whole; a secret shared with the job server alone, never to be logged.
    """

    handle: str
    text: str = field(repr=False)


def _check_keys(_instance: object, _attribute: object, keys: Sequence[bytes]) -> None:
    if not keys or any(len(key) < MIN_KEY for key in keys):
        raise ValueError(f"a key of callback tokens needs at least {MIN_KEY} bytes")


@define
class TokenSigner:
    """Mints and verifies tokens.

    :param keys: the first signs, all verify: so a key is rotated without losing a job.
    :param lifetime: seconds after which a token is no longer verified.
    :param now: Unix time in seconds; wall-clock time, as a token outlives the process.
    :param entropy: returns as many random bytes as it is asked for.
    """

    _keys: Sequence[bytes] = field(validator=_check_keys, repr=False)
    _lifetime: float = 86_400.0
    _now: Callable[[], float] = time.time
    _entropy: Callable[[int], bytes] = secrets.token_bytes

    def mint(self) -> Token:
        """Return a token that nobody had before."""
        expiry = int(self._now() + self._lifetime)
        handle = _encode(expiry.to_bytes(5, "big") + self._entropy(16))
        return Token(handle=handle, text=f"{handle}.{_sign(self._keys[0], handle)}")

    def verify(self, text: str) -> str | None:
        """Return the handle of a token of ours that has not expired, else :data:`None`."""
        handle, _, mac = text.partition(".")
        given = mac.encode("utf-8", "replace")
        # Every key is tried, so that the time taken does not tell which one signs.
        matches = [hmac.compare_digest(_sign(key, handle).encode(), given) for key in self._keys]
        if not any(matches) or _expiry(handle) < self._now():
            return None
        return handle


def _sign(key: bytes, handle: str) -> str:
    return _encode(hmac.digest(key, _DOMAIN + handle.encode("utf-8", "replace"), "sha256")[:16])


def _expiry(handle: str) -> int:
    """Return the Unix time at which a handle that we signed expires."""
    return int.from_bytes(urlsafe_b64decode(handle)[:5], "big")


def _encode(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()
