"""Job events: a line in the log for each change of a job's state."""

from collections.abc import Callable
from enum import Enum
from typing import Protocol

from attrs import define
from twisted.logger import Logger

from jobproxy.jobs.record import JobRecord
from jobproxy.logs import JOB_EVENTS

_log = Logger(JOB_EVENTS)


class Source(Enum):
    """Where a change of a job's state came from."""

    #: The job server, or this process itself.
    HERE = "here"
    #: The store, or another node.
    ELSEWHERE = "elsewhere"


class Observer(Protocol):
    """Is called by the correlation table when something happens to a job."""

    def job_changed(self, record: JobRecord, source: Source) -> None:
        """The job is in another state, or has got its ack."""

    def client_left(self, record: JobRecord) -> None:
        """A client has closed its connection, although the job has not ended."""

    def client_timed_out(self, record: JobRecord) -> None:
        """A client was held for as long as it may, although the job has not ended."""

    def failure_forgotten(self, record: JobRecord) -> None:
        """The record of a job that has failed is removed: nothing more becomes of the job."""


@define(eq=False)
class JobEvents:
    """Writes job events to the log.

    :param is_wanted: returns whether to write them; it is called for each event.
    """

    _is_wanted: Callable[[], bool] = lambda: False

    def job_changed(self, record: JobRecord, source: Source) -> None:  # noqa: ARG002 - Observer's
        if not self._is_wanted():
            return
        if not record.is_ended:
            _log.info(
                "job {job} is {state}",
                **record.log_fields,
                state=record.state.word,
                id=record.upstream_id,
            )
            return
        outcome, ended = record.outcome or "withdrawn", record.ended or record.created
        _log.info(
            "job {job} has ended: {outcome}",
            **record.log_fields,
            state=record.state.word,
            id=record.upstream_id,
            outcome=outcome,
            started=record.started,
            seconds=round(ended - record.created, 6),
            waiting=len(record.waiters),
        )

    def client_left(self, record: JobRecord) -> None:
        self._log_end(record, "left")

    def client_timed_out(self, record: JobRecord) -> None:
        self._log_end(record, "has waited for as long as it may")

    def failure_forgotten(self, record: JobRecord) -> None:
        """Write nothing: the log has the failure."""

    def _log_end(self, record: JobRecord, end: str) -> None:
        if self._is_wanted():
            _log.info(
                "a client of job {job} {end}",
                **record.log_fields,
                state=record.state.word,
                end=end,
                waiting=len(record.waiters),
            )
