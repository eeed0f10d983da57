"""Job events: a line in the log for each change of a job's state."""

from collections.abc import Callable
from enum import Enum
from typing import Protocol

from attrs import define, frozen
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

    def client_left(self, record: JobRecord, reason: str) -> None:
        """A client is not held any more, although the job has not ended.

        :param reason: the end of the log line "a client of job ID …".
        """


@frozen
class Observers:
    """Calls several observers, in order."""

    _observers: tuple[Observer, ...]

    def job_changed(self, record: JobRecord, source: Source) -> None:
        for observer in self._observers:
            observer.job_changed(record, source)

    def client_left(self, record: JobRecord, reason: str) -> None:
        for observer in self._observers:
            observer.client_left(record, reason)


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
        outcome = "withdrawn"
        if record.result is not None:
            outcome = "result"
        elif record.problem is not None:
            outcome = record.problem.slug
        ended = record.ended or record.created
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

    def client_left(self, record: JobRecord, reason: str) -> None:
        if self._is_wanted():
            _log.info(
                "a client of job {job} {end}",
                **record.log_fields,
                state=record.state.word,
                end=reason,
                waiting=len(record.waiters),
            )
