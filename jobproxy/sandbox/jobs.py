"""The simulator's jobs: ids, start times and proofs in the real job server's format."""

import hmac
import random
import time
from collections.abc import Callable
from datetime import datetime, timezone

from attrs import define, field, frozen


@frozen
class Job:
    """A job that was started.

    :param job_id: 64 bits in lower-case hexadecimal, without leading zeros.
    :param started_at: UTC with milliseconds, as in ``2015-06-29T15:28:55.497Z``.
    :param proof: 40 upper-case hexadecimal digits.
    """

    job_id: str
    started_at: str
    proof: str

    def ack(self) -> dict[str, str]:
        """Return the ack of a start request."""
        return {"state": "running", "id": self.job_id}

    def result(self, state: str) -> dict[str, str]:
        """Return the result of the job, which is also the body of its callback."""
        return {
            "id": self.job_id,
            "state": state,
            "startedAt": self.started_at,
            "proof": self.proof,
        }


@define(eq=False)
class JobFactory:
    """Makes jobs whose proofs are signed with a key of its own.

    :param random: the source of the ids and the key; the same seed makes the same jobs.
    :param now: Unix time in seconds.
    """

    _random: random.Random
    _now: Callable[[], float] = time.time
    _key: bytes = field(init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        self._key = self._random.randbytes(32)

    def make_job(self) -> Job:
        """Return a new job."""
        job_id = f"{self._random.getrandbits(64):x}"
        moment = datetime.fromtimestamp(self._now(), timezone.utc)
        started_at = f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03}Z"
        return Job(job_id, started_at, self._sign(job_id, started_at))

    def is_genuine(self, job: Job) -> bool:
        """Return whether a job was made with the same key."""
        return job.proof == self._sign(job.job_id, job.started_at)

    def _sign(self, job_id: str, started_at: str) -> str:
        return hmac.digest(self._key, f"{job_id} {started_at}".encode(), "sha1").hex().upper()
