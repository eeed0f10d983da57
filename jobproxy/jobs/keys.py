"""The idempotency keys of jobs, which outlive what else is known of their jobs.

A key must never start a second job while it lives. So when the record of a started job is removed,
because its result expired, there was no room, or an operator dropped it, a *tombstone* stays: it
says that the job was started, although its result cannot be had any more.
"""

from collections.abc import Callable, Iterator

from attrs import define, field, frozen
from twisted.internet.interfaces import IReactorTime

from jobproxy.jobs import job_problems
from jobproxy.jobs.record import JobRecord
from jobproxy.jobs.retention import Bounds
from jobproxy.util.expiring_map import ExpiringMap
from jobproxy.wire.problems import ProblemError, Started

#: About the bytes of a tombstone in memory.
SIZE = 400
#: The limits of the tombstones.
TOMBSTONES = Bounds(200_000, 200_000 * SIZE)


@frozen
class Tombstone:
    """What stays of a job with a key.

    :param started: whether the job was started; never "no".
    :param has_ended: whether the job had a result.
    """

    key_digest: bytes
    job_id: str
    request_digest: bytes
    started: Started
    has_ended: bool


@define(eq=False)
class Keys:
    """The records and the tombstones of jobs with an Idempotency-Key, by its digest.

    :param life: seconds that a tombstone is kept.
    :param find_record: returns the record of a job, if there is one.
    :param bounds: of the tombstones; an account that has more than its share loses the oldest.
    """

    _clock: IReactorTime
    _life: float
    _find_record: Callable[[str], JobRecord | None]
    _bounds: Bounds = TOMBSTONES
    _records: dict[bytes, JobRecord] = field(factory=dict, init=False, repr=False)
    _tombstones: ExpiringMap[Tombstone] = field(init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        self._tombstones = ExpiringMap(
            self._clock, self._life, self._bounds.number, self._bounds.size, lambda _: None
        )

    def __iter__(self) -> Iterator[JobRecord]:
        """Iterate over the records of jobs with a key."""
        return iter(list(self._records.values()))

    @property
    def tombstones(self) -> list[Tombstone]:
        """All tombstones, the oldest first."""
        return list(self._tombstones)

    @property
    def number(self) -> int:
        """How many keys are known."""
        return len(self._records) + len(self._tombstones)

    @property
    def dropped(self) -> int:
        """How many tombstones were dropped for lack of room, before the end of their keys."""
        return self._tombstones.dropped

    def find(self, key_digest: bytes) -> JobRecord | None:
        """Return the record of the job with a key, unless that job certainly was not started.

        A callback may have brought back the record of a job that has left a tombstone.
        """
        record = self._records.get(key_digest)
        tombstone = self.find_tombstone(key_digest)
        if tombstone is not None:
            record = self._find_record(tombstone.job_id)
            if record is not None:
                record.key_digest, record.request_digest = key_digest, tombstone.request_digest
                self.add(record, key_digest)
        return None if record is None or (record.is_ended and record.is_unstarted) else record

    def find_tombstone(self, key_digest: bytes) -> Tombstone | None:
        """Return the tombstone of a key, if the record of its job was removed."""
        return self._tombstones.find(key_digest.hex())

    def check_free(self, key_digest: bytes, request_digest: bytes) -> None:
        """Check that a key without a record may start a job.

        :raises ProblemError: if it belongs to another request, or its job was started.
        """
        tombstone = self.find_tombstone(key_digest)
        if tombstone is None:
            return
        if tombstone.request_digest != request_digest:
            raise ProblemError(job_problems.key_reused())
        raise ProblemError(job_problems.result_gone(tombstone.job_id, tombstone.started))

    def add(self, record: JobRecord, key_digest: bytes) -> None:
        """Store a record under a key, in place of another record or a tombstone."""
        self._records[key_digest] = record
        if self.find_tombstone(key_digest) is not None:
            self._tombstones.remove(key_digest.hex())

    def bury(self, record: JobRecord) -> None:
        """Remove a record, and leave a tombstone if its job may have been started."""
        key_digest = record.key_digest
        if key_digest is None or self._records.get(key_digest) is not record:
            return
        del self._records[key_digest]
        if not record.is_unstarted:
            has_ended = record.result is not None
            tombstone = Tombstone(
                key_digest, record.job_id, record.request_digest, record.started, has_ended
            )
            self._tombstones.put(key_digest.hex(), tombstone, SIZE, record.account)

    def clear(self) -> None:
        """Remove everything."""
        self._records.clear()
        self._tombstones.clear()
