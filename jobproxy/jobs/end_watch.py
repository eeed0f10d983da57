"""Calls functions when jobs end."""

from collections.abc import Callable

from attrs import define, field

from jobproxy.jobs.events import Observer, Source
from jobproxy.jobs.record import JobRecord


@define(eq=False)
class EndWatch:
    """An observer of the table.

    :param events: is called with each change before.
    """

    _events: Observer
    _calls: dict[str, Callable[[], object]] = field(factory=dict, init=False, repr=False)

    def watch(self, job_id: str, call: Callable[[], object]) -> None:
        """Call a function once when a job ends or is forgotten; it must not have ended yet."""
        self._calls[job_id] = call

    def job_changed(self, record: JobRecord, source: Source) -> None:
        self._events.job_changed(record, source)
        if record.is_ended:
            call = self._calls.pop(record.job_id, None)
            if call is not None:
                call()

    def client_left(self, record: JobRecord) -> None:
        self._events.client_left(record)

    def client_timed_out(self, record: JobRecord) -> None:
        self._events.client_timed_out(record)

    def failure_forgotten(self, record: JobRecord) -> None:
        self._events.failure_forgotten(record)
