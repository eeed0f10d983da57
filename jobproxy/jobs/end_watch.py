"""Calls functions when jobs end."""

from collections.abc import Callable

from attrs import define, field

from jobproxy.jobs.events import Observer, Source
from jobproxy.jobs.record import JobRecord

#: Is called with a job that has ended or is forgotten; with a late result it has ended again.
JobEnded = Callable[[JobRecord], object]


@define(eq=False)
class EndObserver:
    """An observer of the table that calls a function when a job ends.

    :param observer: is called with each change before.
    """

    _observer: Observer
    _job_ended: JobEnded

    def job_changed(self, record: JobRecord, source: Source) -> None:
        self._observer.job_changed(record, source)
        if record.is_ended:
            self._job_ended(record)

    def client_left(self, record: JobRecord) -> None:
        self._observer.client_left(record)

    def client_timed_out(self, record: JobRecord) -> None:
        self._observer.client_timed_out(record)

    def failure_forgotten(self, record: JobRecord) -> None:
        self._observer.failure_forgotten(record)


@define(eq=False)
class EndWatch:
    """Calls a function for each of some jobs, once."""

    _calls: dict[str, Callable[[], object]] = field(factory=dict, init=False, repr=False)

    def watch(self, job_id: str, call: Callable[[], object]) -> None:
        """Call a function when a job ends or is forgotten; it must not have ended yet."""
        self._calls[job_id] = call

    def job_ended(self, record: JobRecord) -> None:
        """Call the function of a job, if there is one."""
        call = self._calls.pop(record.job_id, None)
        if call is not None:
            call()
