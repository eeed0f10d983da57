"""How the table finds the record of a callback: by token, or by upstream id."""

from collections.abc import Callable
from typing import Protocol

from attrs import define, field, frozen
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from jobproxy.jobs.delivery import Delivery
from jobproxy.jobs.record import JobRecord
from jobproxy.jobs.retention import Bounds
from jobproxy.util.expiring_map import ExpiringMap
from jobproxy.wire.reports import Report

_log = Logger()

#: The limits of the callbacks that wait for the ack of their job.
PARKED = Bounds(10_000, 16 * 2**20)


@frozen
class UpstreamIds:
    """How to find jobs by upstream id, if all callbacks come to one URL.

    :param make_job_id: returns a job id for a callback whose ack did not come.
    :param park_time: seconds that a callback waits for the ack.
    :param bounds: of the callbacks that wait.
    """

    make_job_id: Callable[[], str]
    park_time: float
    bounds: Bounds = PARKED


class Index(Protocol):
    """Finds records by other names than their job id."""

    @property
    def parked_bytes(self) -> int:
        """The bytes of the callbacks that are kept."""

    def find(self, upstream_id: str | None) -> JobRecord | None:
        """Return the record of a callback whose URL names no job, if it is known."""

    def park(self, report: Report) -> Delivery:
        """Keep such a callback until the ack of its job comes."""

    def add(self, record: JobRecord, upstream_id: str) -> Report | None:
        """Add a job's upstream id; return the callback that was parked for it, if there is one."""

    def remove(self, record: JobRecord) -> None:
        """Remove a record's upstream ids; to be called once for each record."""

    def clear(self) -> None:
        """Remove everything."""


class TokenIndex:
    """For callback URLs with a token, which names the job: nothing else is needed."""

    def find(self, upstream_id: str | None) -> JobRecord | None:  # noqa: ARG002 - Index's
        return None

    @property
    def parked_bytes(self) -> int:
        return 0

    def park(self, report: Report) -> Delivery:  # noqa: ARG002 - Index's
        return Delivery.LATE

    def add(self, record: JobRecord, upstream_id: str) -> Report | None:  # noqa: ARG002 - Index's
        return None

    def remove(self, record: JobRecord) -> None:
        """Do nothing: nothing is kept."""

    def clear(self) -> None:
        """Do nothing: nothing is kept."""


@define(eq=False)
class UpstreamIdIndex:
    """For job servers that call back one fixed URL (``--correlate-by id``).

    The upstream id is known from the ack. A callback that comes before the ack is *parked*. If the
    ack does not come in time, the callback gets a record of its own.

    :param keep_unclaimed: is called with a callback whose ack did not come; returns its record.
    :param drop_orphan: removes such a record, given its job id, unless a client has asked for it.
    """

    _clock: IReactorTime
    _ids: UpstreamIds
    _keep_unclaimed: Callable[[str, Report], JobRecord]
    _drop_orphan: Callable[[str], None]
    _records: dict[str, JobRecord] = field(factory=dict, init=False, repr=False)
    #: The upstream ids of each job, by its job id: there are several if it was started again.
    _ids_of: dict[str, list[str]] = field(factory=dict, init=False, repr=False)
    _parked: ExpiringMap[Report] = field(init=False, repr=False)
    #: The job ids of the records of callbacks whose ack did not come.
    _unclaimed: set[str] = field(factory=set, init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        bounds = (self._ids.bounds.number, self._ids.bounds.size)
        self._parked = ExpiringMap(self._clock, self._ids.park_time, *bounds, self._unclaim)

    @property
    def parked_bytes(self) -> int:
        return self._parked.size

    def find(self, upstream_id: str | None) -> JobRecord | None:
        return None if upstream_id is None else self._records.get(upstream_id)

    def park(self, report: Report) -> Delivery:
        if report.upstream_id is None:
            return Delivery.UNNAMED
        if report.is_progress:
            return Delivery.PROGRESS
        known = self._parked.find(report.upstream_id)
        if known is None:
            self._parked.put(report.upstream_id, report, report.size)
            return Delivery.PARKED
        return Delivery.DUPLICATE if known.body == report.body else Delivery.CONFLICT

    def add(self, record: JobRecord, upstream_id: str) -> Report | None:
        other = self._records.get(upstream_id)
        if other is not None and other.result is None:
            if other is not record:
                _log.error(
                    "jobs {one} and {other} have the same upstream id",
                    one=other.job_id,
                    other=record.job_id,
                )
            return None
        report = self._parked.find(upstream_id)
        if report is not None:
            self._parked.remove(upstream_id)
        elif other is not None and other.job_id in self._unclaimed:
            # There was no room for it among the parked ones.
            report = other.result
            self._drop_orphan(other.job_id)
        self._name(record, upstream_id)
        return report

    def remove(self, record: JobRecord) -> None:
        self._unclaimed.discard(record.job_id)
        for upstream_id in self._ids_of.pop(record.job_id, ()):
            if self._records.get(upstream_id) is record:
                del self._records[upstream_id]

    def clear(self) -> None:
        self._parked.clear()
        self._unclaimed.clear()

    def _unclaim(self, report: Report) -> None:
        assert report.upstream_id is not None
        record = self._keep_unclaimed(self._ids.make_job_id(), report)
        self._unclaimed.add(record.job_id)
        self._name(record, report.upstream_id)

    def _name(self, record: JobRecord, upstream_id: str) -> None:
        self._records[upstream_id] = record
        self._ids_of.setdefault(record.job_id, []).append(upstream_id)
