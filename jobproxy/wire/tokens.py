"""Tokens: the signed, unguessable names of jobs in their callback URLs.

A token is ``<job id>.<mac>``. The job id (expiry, node and 128 random bits) may be told to anyone;
only who has the whole token can complete the job. A token proves itself, so it tells a late
callback from a forged one without a look at any table, also after a restart or on another node with
the same keys; and it says which node has the job.
"""

import hmac
import re
import secrets
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Sequence

from attrs import define, field, frozen

MIN_KEY = 32

_DOMAIN = b"jobproxy callback token v2\0"
_JOB_ID = re.compile(r"[A-Za-z0-9_-]{38}")
#: Where in a handle the node stands; before it the expiry, after it what is random.
_NODE = slice(8, 16)


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
    _lifetime: float = 86_400.0
    _now: Callable[[], float] = time.time
    _node: str = "only-one"
    _entropy: Callable[[int], bytes] = secrets.token_bytes

    def mint(self) -> Token:
        """Return a token that nobody had before."""
        expiry = int(self._now() + self._lifetime).to_bytes(6, "big")
        job_id = f"{_encode(expiry)}{self._node}{_encode(self._entropy(16))}"
        return Token(job_id=job_id, text=f"{job_id}.{_sign(self._keys[0], job_id)}")

    def verify(self, text: str) -> str | None:
        """Return the handle of a token of ours that has not expired, else :data:`None`."""
        job_id, _, mac = text.partition(".")
        given = mac.encode("utf-8", "replace")
        # Every key is tried, so that the time taken does not tell which one signs.
        matches = [hmac.compare_digest(_sign(key, job_id).encode(), given) for key in self._keys]
        if not any(matches) or _expiry(job_id) < self._now():
            return None
        return job_id


def make_node() -> str:
    """Return a name for a process that no other has or had."""
    return secrets.token_urlsafe(6)


def node_of(job_id: str) -> str:
    """Return the name of the process that made a handle."""
    return job_id[_NODE]


def is_job_id(text: str) -> bool:
    """Whether this could be a handle; nobody can tell if it is one."""
    return _JOB_ID.fullmatch(text) is not None


def _sign(key: bytes, job_id: str) -> str:
    return _encode(hmac.digest(key, _DOMAIN + job_id.encode("utf-8", "replace"), "sha256")[:16])


def _expiry(job_id: str) -> int:
    """Return the Unix time at which a handle that we signed expires."""
    return int.from_bytes(urlsafe_b64decode(job_id[:8]), "big")


def _encode(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()
