"""Correlation by the job server's own ids, for job servers that call back one fixed URL."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from attrs import define, field
from twisted.logger import Logger

from jobproxy.correlation import CorrelationTable
from jobproxy.entries import Delivery, Entry, State
from jobproxy.messages import Report
from jobproxy.problems import CallbackConflict, Fault, InvalidRequest
from jobproxy.retention import Shelf
from jobproxy.shelves import MAX_BYTES

_log = Logger()

#: Callbacks that are kept until their job's ack tells the id.
MAX_PARKED = 10_000


@define(eq=False)
class IdTable(CorrelationTable):
    """A correlation table in which callbacks are found by the id in them.

    The id is known with the ack of the start. A callback that comes before is *parked*. If its ack
    does not come either, nobody knows whose it is, and it becomes an orphan.

    :param park: seconds that a callback waits for its ack.
    :param make_handle: returns a handle for a job that nobody knows.
    """

    _park: float = field(kw_only=True)
    _make_handle: Callable[[], str] = field(kw_only=True)
    _ids: dict[str, Entry] = field(factory=dict, init=False, repr=False)
    #: The ids of each job, by its handle: there are several if it was started again.
    _ids_of: dict[str, list[str]] = field(factory=dict, init=False, repr=False)
    _parked: Shelf[Report] = field(init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        self._parked = Shelf(self._clock, self._park, MAX_PARKED, MAX_BYTES // 4, self._disown)

    def advance(
        self,
        entry: Entry,
        state: State,
        *,
        ack: Report | None = None,
        withdraw: Callable[[], object] | None = None,
    ) -> None:
        super().advance(entry, state, ack=ack, withdraw=withdraw)
        if ack is not None:
            self._unpark(entry, ack)

    def conclude(self, entry: Entry, ack: Report) -> None:
        super().conclude(entry, ack)
        self._unpark(entry, ack)

    def complete_by_id(self, report: Report) -> Delivery:
        """Take what the job server says of the job with the report's id.

        :raises InvalidRequest: if it has no id.
        :raises CallbackConflict: if the job has another result already.
        """
        if report.job_id is None:
            fault = Fault("/id", "must be the id of a job")
            raise InvalidRequest("The callback does not say which job it is about.", errors=[fault])
        entry = self._ids.get(report.job_id)
        if entry is not None:
            return self.complete(entry.handle, report)
        if report.is_progress:
            return Delivery.PROGRESS
        known = self._parked.find(report.job_id)
        if known is None:
            self._parked.put(report.job_id, report, len(report.body))
            return Delivery.PARKED
        if known.body != report.body:
            raise CallbackConflict("The job has another result already.")
        return Delivery.DUPLICATE

    def stopService(self) -> Any:
        stopping = super().stopService()
        self._parked.clear()
        return stopping

    def _unpark(self, entry: Entry, ack: Report) -> None:
        """Remember what id a job has, and deliver what came before that was known."""
        job_id = ack.job_id
        if job_id is None or self.find(entry.handle) is None:
            return
        other = self._ids.get(job_id)
        if other is not None and other.result is None:
            _log.error("jobs {one} and {other} have one id", one=other.handle, other=entry.handle)
            return
        self._name(entry, job_id)
        report = self._parked.find(job_id)
        if report is not None:
            self._parked.take(job_id)
            with suppress(CallbackConflict):
                self.complete(entry.handle, report)

    def _disown(self, report: Report) -> None:
        """Keep the result of a job whose ack never came."""
        assert report.job_id is not None
        handle = self._make_handle()
        self.complete(handle, report)
        self._name(self._entries[handle], report.job_id)

    def _name(self, entry: Entry, job_id: str) -> None:
        self._ids[job_id] = entry
        self._ids_of.setdefault(entry.handle, []).append(job_id)

    def _forget(self, entry: Entry) -> None:
        super()._forget(entry)
        for job_id in self._ids_of.pop(entry.handle, ()):
            if self._ids.get(job_id) is entry:
                del self._ids[job_id]
