"""Correlation by the job server's own ids, for job servers that call back one fixed URL."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from attrs import define, field
from twisted.logger import Logger

from jobproxy.jobs.record import Delivery, JobRecord, State
from jobproxy.jobs.retention import MAX_BYTES
from jobproxy.jobs.table import CorrelationTable
from jobproxy.util.expiring_map import ExpiringMap
from jobproxy.wire.jobs import Report
from jobproxy.wire.problems import CallbackConflict, FieldError, InvalidRequest

_log = Logger()

#: Callbacks that are kept until their job's ack tells the id.
MAX_PARKED = 10_000


@define(eq=False)
class IdTable(CorrelationTable):
    """A correlation table in which callbacks are found by the id in them.

    The id is known with the ack of the start. A callback that comes before is *parked*. If its ack
    does not come either, nobody knows whose it is, and it becomes an orphan.

    :param park: seconds that a callback waits for its ack.
    :param make_job_id: returns a handle for a job that nobody knows.
    """

    _park: float = field(kw_only=True)
    _make_job_id: Callable[[], str] = field(kw_only=True)
    _ids: dict[str, JobRecord] = field(factory=dict, init=False, repr=False)
    #: The ids of each job, by its handle: there are several if it was started again.
    _ids_of: dict[str, list[str]] = field(factory=dict, init=False, repr=False)
    _parked: ExpiringMap[Report] = field(init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        self._parked = ExpiringMap(
            self._clock, self._park, MAX_PARKED, MAX_BYTES // 4, self._disown
        )

    def advance(
        self,
        record: JobRecord,
        state: State,
        *,
        ack: Report | None = None,
        cancel_start: Callable[[], object] | None = None,
    ) -> None:
        super().advance(record, state, ack=ack, cancel_start=cancel_start)
        if ack is not None:
            self._unpark(record, ack)

    def conclude(self, record: JobRecord, ack: Report) -> None:
        super().conclude(record, ack)
        self._unpark(record, ack)

    def complete_by_id(self, report: Report) -> Delivery:
        """Take what the job server says of the job with the report's id.

        :raises InvalidRequest: if it has no id.
        :raises CallbackConflict: if the job has another result already.
        """
        if report.upstream_id is None:
            error_ = FieldError("/id", "must be the id of a job")
            raise InvalidRequest(
                "The callback does not say which job it is about.", errors=[error_]
            )
        record = self._ids.get(report.upstream_id)
        if record is not None:
            return self.complete(record.job_id, report)
        if report.is_progress:
            return Delivery.PROGRESS
        known = self._parked.find(report.upstream_id)
        if known is None:
            self._parked.put(report.upstream_id, report, len(report.body))
            return Delivery.PARKED
        if known.body != report.body:
            raise CallbackConflict("The job has another result already.")
        return Delivery.DUPLICATE

    def stopService(self) -> Any:
        stopping = super().stopService()
        self._parked.clear()
        return stopping

    def _unpark(self, record: JobRecord, ack: Report) -> None:
        """Remember what id a job has, and deliver what came before that was known."""
        upstream_id = ack.upstream_id
        if upstream_id is None or self.find(record.job_id) is None:
            return
        other = self._ids.get(upstream_id)
        if other is not None and other.result is None:
            _log.error("jobs {one} and {other} have one id", one=other.job_id, other=record.job_id)
            return
        self._name(record, upstream_id)
        report = self._parked.find(upstream_id)
        if report is not None:
            self._parked.take(upstream_id)
            with suppress(CallbackConflict):
                self.complete(record.job_id, report)

    def _disown(self, report: Report) -> None:
        """Keep the result of a job whose ack never came."""
        assert report.upstream_id is not None
        job_id = self._make_job_id()
        self.complete(job_id, report)
        self._name(self._records[job_id], report.upstream_id)

    def _name(self, record: JobRecord, upstream_id: str) -> None:
        self._ids[upstream_id] = record
        self._ids_of.setdefault(record.job_id, []).append(upstream_id)

    def _forget(self, record: JobRecord) -> None:
        super()._forget(record)
        for upstream_id in self._ids_of.pop(record.job_id, ()):
            if self._ids.get(upstream_id) is record:
                del self._ids[upstream_id]
