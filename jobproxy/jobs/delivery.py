"""What became of a callback."""

from enum import Enum

from twisted.logger import Logger

from jobproxy.jobs.record import JobRecord
from jobproxy.wire.problems import FieldError, Kind, Problem
from jobproxy.wire.reports import Report

_log = Logger()


class Delivery(Enum):
    """What the table did with a callback.

    :ivar is_refused: whether the callback contradicts what is known, and so changed nothing.
    """

    ACCEPTED = "accepted"
    #: The job has not ended.
    PROGRESS = "progress"
    #: The job has this result already.
    DUPLICATE = "duplicate"
    #: The deadline of the last client has passed, or the job was forgotten; the result is kept.
    LATE = "late"
    #: The URL names no job, and the upstream id is not known yet; the callback is kept.
    PARKED = "parked"
    #: The job has another result already, which is kept.
    CONFLICT = "conflict"
    #: The upstream id is not the one in the ack.
    MISMATCH = "mismatch"
    #: Neither the URL nor the body names a job.
    UNNAMED = "unnamed"

    @property
    def is_refused(self) -> bool:
        return self in _REFUSED

    @property
    def word(self) -> str:
        """What the job server is told: a second result is a duplicate to it, whatever is in it.

        An error would make it send the callback again, or switch the URL off.
        """
        return Delivery.DUPLICATE.value if self is Delivery.CONFLICT else self.value


#: What the job server gets for a callback that is refused.
REFUSED_CALLBACKS = {
    Delivery.MISMATCH: Problem(
        Kind.CALLBACK_CONFLICT, "The id is not the one in the ack of this job's start."
    ),
    Delivery.UNNAMED: Problem(
        Kind.INVALID_REQUEST,
        "The callback does not name a job.",
        errors=(FieldError("/id", "must be the id in the ack of a job"),),
    ),
}
#: How such callbacks are counted.
REFUSED_RESULTS = {
    Delivery.MISMATCH: "conflict",
    Delivery.UNNAMED: "malformed",
}
_REFUSED = frozenset(REFUSED_CALLBACKS)


def judge(record: JobRecord, report: Report, *, is_strict: bool) -> Delivery:
    """Return what to do with a callback; only ``ACCEPTED`` and ``LATE`` end the job.

    :param is_strict: whether a callback about another upstream id than the ack's is refused.
    """
    known, given = record.upstream_id, report.upstream_id
    # A job that was started again has more than one upstream id.
    if known is not None and given is not None and known != given and record.starts < 2:
        # The token names the job; an event may have an id of its own.
        _log.warn("job {job} got a callback about another id", **record.log_fields)
        if is_strict:
            return Delivery.MISMATCH
    if report.is_progress:
        return Delivery.PROGRESS
    if record.result is not None:
        return _compare(record, record.result, report)
    is_over = record.overdue is not None or record.problem is not None
    return Delivery.LATE if is_over and not record.waiters else Delivery.ACCEPTED


def _compare(record: JobRecord, result: Report, report: Report) -> Delivery:
    """Return what to do with a second result."""
    if report.body != result.body:
        if record.starts < 2:
            _log.error(
                "job {job} got a second result that differs from the first", **record.log_fields
            )
            return Delivery.CONFLICT
        _log.warn(
            "job {job} was started twice, and has two results; the first one is kept",
            **record.log_fields,
        )
    return Delivery.DUPLICATE
