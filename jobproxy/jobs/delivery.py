"""What became of a callback."""

from enum import Enum

from twisted.logger import Logger

from jobproxy.jobs.record import JobRecord
from jobproxy.wire.jobs import Report

_log = Logger()


class Delivery(Enum):
    """The table's verdict on a callback of a job that is ours.

    :ivar is_refused: whether the callback changed nothing because it cannot be right.
    """

    ACCEPTED = "accepted"
    #: The job goes on.
    PROGRESS = "progress"
    #: The job has this result already.
    DUPLICATE = "duplicate"
    #: The job's deadline has passed, or nothing is known of it any more; the result is kept.
    LATE = "late"
    #: It names no job by its URL, and its upstream id is not known (yet); it is kept.
    PARKED = "parked"
    #: The job has another result already.
    CONFLICT = "conflict"
    #: It has another upstream id than the ack of the job's start.
    MISMATCH = "mismatch"
    #: It names no job at all.
    UNNAMED = "unnamed"

    @property
    def is_refused(self) -> bool:
        return self in _REFUSED


_REFUSED = frozenset({Delivery.CONFLICT, Delivery.MISMATCH, Delivery.UNNAMED})


def judge(record: JobRecord, report: Report) -> Delivery:
    """Return what a callback means for a job; only ``ACCEPTED`` and ``LATE`` end it."""
    known, given = record.upstream_id, report.upstream_id
    # The ids of a job that was started again can both be right.
    if known is not None and given is not None and known != given and record.starts < 2:
        _log.error("job {job} got a callback about another id", **record.log_fields)
        return Delivery.MISMATCH
    if report.is_progress:
        return Delivery.PROGRESS
    if record.result is not None:
        return _compare(record, record.result, report)
    is_over = record.overdue is not None or record.problem is not None
    return Delivery.LATE if is_over and not record.waiters else Delivery.ACCEPTED


def _compare(record: JobRecord, result: Report, report: Report) -> Delivery:
    """Return what a second result means."""
    if report.body != result.body:
        if record.starts < 2:
            _log.error("job {job} got a second result, unlike its first", **record.log_fields)
            return Delivery.CONFLICT
        _log.warn("job {job} was started again, and both have ended", **record.log_fields)
    return Delivery.DUPLICATE
