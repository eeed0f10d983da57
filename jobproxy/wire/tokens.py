"""Tokens: the signed, unguessable names of jobs in their callback URLs.

A token is ``<job id>.<mac>``. The job id (expiry, node and 128 random bits) may be told to anyone;
only who has the whole token can complete the job. A token proves itself, so it tells a late
callback from a forged one without a look at any table, also after a restart or on another node with
the same keys; and it says which node has the job.
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
#: Seconds for which a token is good; what is kept of its job needs no longer life.
LIFETIME = 86_400.0
#: Characters of a job id.
JOB_ID_LENGTH = 38

_DOMAIN = b"jobproxy callback token v2\0"
_JOB_ID = re.compile(rf"[A-Za-z0-9_-]{{{JOB_ID_LENGTH}}}")
#: Where in a job id the node stands; before it the expiry, after it what is random.
_NODE = slice(8, 16)
_URL_SAFE = bytes.maketrans(b"+/", b"-_")


@frozen
class Token:
    """
    :param job_id: the public part, by which everything but the callback URL names the job.
    :param text: the whole; a secret shared with the job server alone, never to be logged.
    """

    job_id: str
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
    :param node: the name of this process among all that have the same keys, as
        :func:`make_node` makes it.
    :param entropy: returns as many random bytes as it is asked for.
    """

    _keys: Sequence[bytes] = field(validator=_check_keys, repr=False)
    _lifetime: float = LIFETIME
    _now: Callable[[], float] = time.time
    _node: str = "only-one"
    _entropy: Callable[[int], bytes] = os.urandom

    def mint(self) -> Token:
        """Return a token that nobody had before."""
        expiry = _write_expiry(int(self._now() + self._lifetime))
        job_id = f"{expiry}{self._node}{_encode(self._entropy(16)).decode()}"
        return Token(job_id=job_id, text=f"{job_id}.{_sign(self._keys[0], job_id).decode()}")

    def verify(self, text: str) -> str | None:
        """Return the job id of a token of ours that has not expired, else :data:`None`."""
        job_id, _, mac = text.partition(".")
        given = mac.encode("utf-8", "replace")
        # Every key is tried, so that the time taken does not tell which one signs.
        is_ours = False
        for key in self._keys:
            is_ours |= hmac.compare_digest(_sign(key, job_id), given)
        if not is_ours or _read_expiry(job_id[:8]) < self._now():
            return None
        return job_id


def make_node() -> str:
    """Return a name for a process that no other has or had."""
    return secrets.token_urlsafe(6)


def node_of(job_id: str) -> str:
    """Return the name of the process that made a job id."""
    return job_id[_NODE]


def is_job_id(text: str) -> bool:
    """Whether this could be a job id; nobody can tell if it is one."""
    return _JOB_ID.fullmatch(text) is not None


def _sign(key: bytes, job_id: str) -> bytes:
    return _encode(hmac.digest(key, _DOMAIN + job_id.encode("utf-8", "replace"), "sha256")[:16])


@lru_cache(maxsize=512)
def _write_expiry(expiry: int) -> str:
    """Return a Unix time as it stands in a job id; all job ids of a second share it."""
    return _encode(expiry.to_bytes(6, "big")).decode()


@lru_cache(maxsize=512)
def _read_expiry(written: str) -> int:
    """Return the Unix time at which a job id that we signed expires."""
    return int.from_bytes(urlsafe_b64decode(written), "big")


def _encode(data: bytes) -> bytes:
    """Return Base64 as in URLs (RFC 4648, section 5), without padding."""
    return b2a_base64(data, newline=False).translate(_URL_SAFE, b"=")
