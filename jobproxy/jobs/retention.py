"""Retention: which records are kept while no client waits for them, and for how long."""

from collections.abc import Callable

from attrs import define, field, frozen
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from jobproxy.jobs.record import JobRecord
from jobproxy.util.expiring_map import ExpiringMap

_log = Logger()

#: The size of a record in bytes without the body of its result.
OVERHEAD = 1_024


@frozen
class Bounds:
    """The limits of a map.

    :param number: of records.
    :param size: in bytes.
    """

    number: int = 50_000
    size: int = 64 * 2**20


@define(eq=False)
class Retention:
    """Three maps. A record is in one of them at most, and refers to it.

    When a map is full, an account that has more of it than others loses its oldest records.

    :param retain: seconds that results and problems are kept.
    :param lifetime: seconds that jobs that have not ended are kept.
    :param bounds: of each map.
    :param forget: is called with each record that expired or was dropped for lack of room.
    :ivar unattended: jobs that have not ended.
    :ivar outcomes: jobs whose outcome a client has got or can ask for.
    :ivar orphans: jobs whose result came when no client waited; they have a map of their own, so
        that no other records can push them out.
    """

    _clock: IReactorTime
    _retain: float
    _lifetime: float
    _bounds: Bounds
    _forget: Callable[[JobRecord], object]
    unattended: ExpiringMap[JobRecord] = field(init=False)
    outcomes: ExpiringMap[JobRecord] = field(init=False)
    orphans: ExpiringMap[JobRecord] = field(init=False)
    #: How many results came when no client waited.
    orphaned: int = field(default=0, init=False)

    def __attrs_post_init__(self) -> None:
        bounds = (self._bounds.number, self._bounds.size)
        self.unattended = ExpiringMap(self._clock, self._lifetime, *bounds, self._forget)
        self.outcomes = ExpiringMap(self._clock, self._retain, *bounds, self._forget)
        self.orphans = ExpiringMap(self._clock, self._retain, *bounds, self._forget_orphan)

    @property
    def retained(self) -> int:
        """How many jobs that have ended are kept."""
        return len(self.outcomes) + len(self.orphans)

    @property
    def retained_bytes(self) -> int:
        """About how many bytes all records take that no client waits for."""
        return self.unattended.size + self.outcomes.size + self.orphans.size

    @property
    def running_ack_bytes(self) -> int:
        """Bytes of the acks of jobs that no client waits for; :attr:`unattended` counts them."""
        return self.unattended.size - OVERHEAD * len(self.unattended)

    def move(self, record: JobRecord, kept_in: ExpiringMap[JobRecord] | None) -> None:
        """Move a record to a map; to none if a client waits for it."""
        if record.kept_in is not None:
            record.kept_in.remove(record.job_id)
        record.kept_in = kept_in
        if kept_in is not None:
            kept_in.put(record.job_id, record, _measure(record), record.account)

    def resize(self, record: JobRecord) -> None:
        """Count a record anew, which has got its ack; it may be forgotten for lack of room."""
        if record.kept_in is not None:
            record.kept_in.resize(record.job_id, _measure(record))

    def keep_ended(self, record: JobRecord) -> None:
        """Move the record of a job that has just ended, and log an orphan."""
        self.move(record, self.orphans if record.is_orphan else self.outcomes)
        if record.is_orphan:
            self.orphaned += 1
            when = "after its client had left"
            if record.overdue is not None and record.ended is not None:
                when = f"{record.ended - record.overdue:.3f} s too late"
            _log.warn(
                "the result of job {job} came {when}; it is kept", **record.log_fields, when=when
            )

    def find_orphan(self, job_id: str) -> bytes | None:
        """Return an orphan as it is stored, if there is one with this job id."""
        record = self.orphans.find(job_id)
        return None if record is None or record.result is None else record.result.stored

    def drop_orphan(self, job_id: str) -> None:
        """Forget an orphan; nothing happens if there is none with this job id."""
        record = self.orphans.find(job_id)
        if record is not None:
            self.move(record, None)
            self._forget(record)

    def clear(self) -> None:
        """Remove all records from the maps."""
        for kept in (self.unattended, self.outcomes, self.orphans):
            kept.clear()

    def _forget_orphan(self, record: JobRecord) -> None:
        _log.warn(
            "the result of job {job} is forgotten; no client asked for it", **record.log_fields
        )
        self._forget(record)


def _measure(record: JobRecord) -> int:
    """Return about how many bytes a record takes."""
    kept = record.result or record.ack
    return OVERHEAD if kept is None else OVERHEAD + kept.size
