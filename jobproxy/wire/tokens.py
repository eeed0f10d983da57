"""Tokens: the signed names of jobs in their callback URLs, which cannot be guessed.

A token is ``<job id>.<mac>``. The job id (expiry, node and 128 random bits) is public; only a
program that has the whole token can complete the job. A token is verified without any table, so a
late callback can be distinguished from a forged one after a restart, and on another node with the
same keys. It also names the node that owns the job.
"""

import hmac
import os
import re
import secrets
import time
from base64 import urlsafe_b64decode
from binascii import b2a_base64
from collections.abc import Callable, Sequence
from functools import lru_cache

from attrs import define, field, frozen

MIN_KEY = 32
#: Seconds for which a token is valid. Nothing needs to be kept of its job for longer.
LIFETIME = 86_400.0
#: Characters of a job id.
JOB_ID_LENGTH = 38

_DOMAIN = b"jobproxy callback token v2\0"
_JOB_ID = re.compile(rf"[A-Za-z0-9_-]{{{JOB_ID_LENGTH}}}")
#: Where in a job id the node is: after the expiry, before the random part.
NODE = slice(8, 16)
_URL_SAFE = bytes.maketrans(b"+/", b"-_")


@frozen
class Token:
    """A token and its public part.

    :param job_id: the public part, by which everything but the callback URL names the job.
    :param text: the whole token: a secret for the job server only, which must never be logged.
    """

    job_id: str
    text: str = field(repr=False)

    @property
    def mac(self) -> str:
        """The part that is not public."""
        return self.text[JOB_ID_LENGTH + 1 :]


def _check_keys(_instance: object, _attribute: object, keys: Sequence[bytes]) -> None:
    if not keys or any(len(key) < MIN_KEY for key in keys):
        raise ValueError(f"a key of callback tokens needs at least {MIN_KEY} bytes")


@define
class TokenSigner:
    """Makes and verifies tokens.

    :param keys: the first signs, all verify, so that a key can be replaced while jobs run.
    :param lifetime: seconds for which a token is valid.
    :param now: returns Unix time in seconds: wall-clock time, as a token outlives the process.
    :param node: the name of this node, from :func:`make_node`; no other node with the same keys may
        have it.
    :param entropy: returns the given number of random bytes.
    """

    _keys: Sequence[bytes] = field(validator=_check_keys, repr=False)
    _lifetime: float = LIFETIME
    _now: Callable[[], float] = time.time
    _node: str = "only-one"
    _entropy: Callable[[int], bytes] = os.urandom

    def replace_keys(self, keys: Sequence[bytes]) -> bool:
        """Use other keys from now on; return whether they differ.

        :raises ValueError: if one is too short.
        """
        is_new = list(keys) != list(self._keys)
        self._keys = keys
        return is_new

    def mint(self, scope: bytes = b"") -> Token:
        """Return a new token.

        :param scope: what the token is for; it is valid for nothing else.
        """
        expiry = _write_expiry(int(self._now() + self._lifetime))
        job_id = f"{expiry}{self._node}{_encode(self._entropy(16)).decode()}"
        return Token(job_id=job_id, text=f"{job_id}.{_sign(self._keys[0], job_id, scope).decode()}")

    def verify(
        self,
        text: str,
        find_known: Callable[[str], object] = lambda _: None,
        scope: bytes = b"",
    ) -> str | None:
        """Return the job id of a valid token; :data:`None` for any other text.

        :param find_known: returns what is known of a job, if anything is. The token of such a job
            does not expire: the wall clock may have been put right since it was made.
        """
        job_id, _, mac = text.partition(".")
        given = mac.encode("utf-8", "replace")
        # Every key is tried, so that the duration does not reveal which one signed.
        is_ours = False
        for key in self._keys:
            is_ours |= hmac.compare_digest(_sign(key, job_id, scope), given)
        if not is_ours:
            return None
        is_over = _read_expiry(job_id[:8]) < self._now()
        return None if is_over and not find_known(job_id) else job_id


def make_node() -> str:
    """Return a new random name for a node."""
    return secrets.token_urlsafe(6)


def node_of(job_id: str) -> str:
    """Return the name of the node that made a job id: the owner of the job."""
    return job_id[NODE]


def is_job_id(text: str) -> bool:
    """Whether a text has the format of a job id. There may be no such job."""
    return _JOB_ID.fullmatch(text) is not None


def _sign(key: bytes, job_id: str, scope: bytes) -> bytes:
    # A job id has no zero byte, so different pairs give different texts.
    text = job_id.encode("utf-8", "replace") + (b"\0" + scope if scope else b"")
    return _encode(hmac.digest(key, _DOMAIN + text, "sha256")[:16])


@lru_cache(maxsize=512)
def _write_expiry(expiry: int) -> str:
    """Return a Unix time as in a job id. It is cached for the other job ids of the same second."""
    return _encode(expiry.to_bytes(6, "big")).decode()


@lru_cache(maxsize=512)
def _read_expiry(written: str) -> int:
    """Return the Unix time at which a job id expires; it must be a verified one."""
    return int.from_bytes(urlsafe_b64decode(written), "big")


def _encode(data: bytes) -> bytes:
    """Return URL-safe Base64 (RFC 4648, section 5) without padding."""
    return b2a_base64(data, newline=False).translate(_URL_SAFE, b"=")
