"""The correlation table: the job records of a node, and the only code that ends jobs."""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from attrs import define, field
from twisted.application.service import Service
from twisted.internet.interfaces import IReactorTime

from jobproxy.jobs import job_problems
from jobproxy.jobs.clients import WaitingClients
from jobproxy.jobs.delivery import Delivery, judge
from jobproxy.jobs.events import JobEvents, Observer, Source
from jobproxy.jobs.index import UpstreamIds
from jobproxy.jobs.indexes import Indexes
from jobproxy.jobs.keys import Keys
from jobproxy.jobs.record import NO_ORIGIN, JobRecord, Origin
from jobproxy.jobs.retention import Bounds, Retention
from jobproxy.jobs.states import Event, State
from jobproxy.util.histogram import Histogram
from jobproxy.wire.problems import Problem
from jobproxy.wire.reports import Report
from jobproxy.wire.tokens import LIFETIME

#: How many failed start requests of a job are kept.
MAX_FAILED_STARTS = 20


@define(eq=False)
class CorrelationTable(Service):
    """Stores a Deferred for each held client and fires it when the job's callback arrives.

    A record is created before the start request, so that no callback can come too early. A deadline
    ends a client's wait, not the job: the record stays until the callback comes or its token
    expires; its result is then kept for ``retain``.

    :param retain: seconds that results are kept.
    :param observer: is called after each change.
    :param lifetime: seconds that a job without a client is kept until its callback comes.
    :param key_life: seconds that an Idempotency-Key starts no second job.
    :param bounds: of each map of the retention.
    :param max_promised: see :class:`WaitingClients`.
    :param strict_ids: whether a callback about another upstream id than the ack's is refused.
    :param upstream_ids: how to find jobs by upstream id, by profile; other callbacks have tokens.
    :ivar indexes: find records by other names.
    :ivar keys: the idempotency keys of jobs.
    :ivar retention: the records that no client waits for.
    :ivar clients: the held clients.
    :ivar durations: from the creation of a record to its result.
    """

    _clock: IReactorTime
    _retain: float
    _observer: Observer = field(factory=JobEvents, kw_only=True)
    _lifetime: float = field(default=LIFETIME, kw_only=True)
    _key_life: float = field(default=LIFETIME, kw_only=True)
    _bounds: Bounds = field(factory=Bounds, kw_only=True)
    _max_promised: float = field(default=math.inf, kw_only=True)
    _upstream_ids: Mapping[str, UpstreamIds] = field(factory=dict, kw_only=True)
    _strict_ids: bool = field(default=False, kw_only=True)
    _records: dict[str, JobRecord] = field(factory=dict, init=False, repr=False)
    indexes: Indexes = field(init=False, repr=False)
    keys: Keys = field(init=False, repr=False)
    retention: Retention = field(init=False, repr=False)
    clients: WaitingClients = field(init=False, repr=False)
    durations: Histogram = field(factory=Histogram, init=False, repr=False)
    #: How many records are of jobs that other nodes have, and have not ended.
    _copies: int = field(default=0, init=False)
    #: Whether a callback of a job of this node has come through the store or another node.
    has_news_from_elsewhere: bool = field(default=False, init=False)
    #: Bytes of the acks of all jobs that have not ended.
    ack_bytes: int = field(default=0, init=False)
    #: Whether all records were removed for good.
    is_stopped: bool = field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        self.keys = Keys(self._clock, self._key_life, self._records.get)
        self.retention = Retention(
            self._clock, self._retain, self._lifetime, self._bounds, self._forget
        )
        self.clients = WaitingClients(
            self._clock,
            self.retention,
            self._observer,
            self.fail,
            self._forget,
            self._max_promised,
        )
        self.indexes = Indexes(
            self._clock, self._upstream_ids, self._keep_unclaimed, self.retention.drop_orphan
        )

    def __len__(self) -> int:
        """Return how many jobs of this node have not ended, with or without clients."""
        return len(self._records) - self.retention.retained - self._copies

    def create(
        self,
        job_id: str,
        cancel_start: Callable[[], object],
        *,
        key_digest: bytes | None = None,
        request_digest: bytes = b"",
        origin: Origin = NO_ORIGIN,
        account: str = "",
        profile: str = "",
    ) -> JobRecord:
        """Create a job's record; the caller has to add a client or call :meth:`hand_over` at once.

        :param job_id: a new one.
        :param cancel_start: is called if the job ends, or is not wanted any more, before its start.
        :param key_digest: another name of the record; a record that had it before loses it.
        :param origin: the request of the job, for the log.
        :param account: of the job, for its share of what is kept.
        :param profile: by which its job server is spoken to.
        :raises ValueError: if the job id is in use.
        """
        if job_id in self._records:
            raise ValueError("this job id is in use")
        record = JobRecord(
            job_id,
            self._clock.seconds(),
            key_digest,
            request_digest,
            cancel_start,
            origin,
            account,
            profile,
        )
        self._records[job_id] = record
        if key_digest is not None:
            self.keys.add(record, key_digest)
        self._observer.job_changed(record, Source.HERE)
        return record

    def find(self, job_id: str) -> JobRecord | None:
        """Return a job's record, if there is one."""
        return self._records.get(job_id)

    def send(self, record: JobRecord) -> None:
        """Record that a start request is about to be sent."""
        if record.is_ended:
            return
        record.starts += 1
        if record.sent is None:
            record.sent = self._clock.seconds()
        record.cancel_start = None
        self._change(record, Event.SEND)

    def acknowledge(
        self,
        record: JobRecord,
        ack: Report,
        *,
        cancel_start: Callable[[], object] | None = None,
    ) -> Report | None:
        """Record the ack of a start request.

        :param ack: if it has an id, a callback with another id is refused.
        :param cancel_start: see :meth:`create`; given if the job may be started again.
        :return: the thin callback that was parked for it, if there is one.
        """
        if not record.is_ended:
            self._set_ack(record, ack)
            record.cancel_start = cancel_start
            self._change(record, Event.ACK, has_news=True)
            self.clients.fire_acknowledged(record)
            self.retention.resize(record)
        return self._add_upstream_id(record, ack)

    def conclude(self, record: JobRecord, ack: Report) -> None:
        """Record an ack that is already the job's result."""
        if not record.is_ended:
            record.upstream_id = ack.upstream_id or record.upstream_id
            record.acked = self._clock.seconds()
            self._end(record, result=ack)
        self._add_upstream_id(record, ack)

    def note_failed_start(self, record: JobRecord, result: str) -> None:
        """Record how a start request failed, for the operator; what follows is another call."""
        failed = (*record.failed_starts, (self._clock.seconds(), result))
        record.failed_starts = failed[-MAX_FAILED_STARTS:]

    def doubt(self, record: JobRecord, *, cancel_start: Callable[[], object] | None = None) -> None:
        """Record an ambiguous start request; for ``cancel_start`` see :meth:`acknowledge`."""
        if not record.is_ended:
            record.cancel_start = cancel_start
            self._change(record, Event.DOUBT)

    def retract(self, record: JobRecord, cancel_start: Callable[[], object]) -> None:
        """Record that the last start request certainly was not read, or was refused."""
        if not record.is_ended:
            record.starts -= 1
            record.cancel_start = cancel_start
            self._change(record, Event.RETRACT)

    def hand_over(self, record: JobRecord, ack: Report | None) -> None:
        """Record that another node starts a job or has started it, so that this node does not.

        :param ack: the ack of its start, if it is known.
        """
        if record.is_ended:
            return
        if not record.is_copy:
            record.is_copy = True
            self._copies += 1
        record.runs_unattended, record.starts, record.cancel_start = True, 1, None
        if ack is not None:
            self._set_ack(record, ack)
        self._change(record, Event.HAND_OVER)
        if ack is not None:
            self.clients.fire_acknowledged(record)
        if not record.waiters:
            self.retention.move(record, self.retention.unattended)

    def complete(
        self,
        job_id: str | None,
        report: Report,
        source: Source = Source.HERE,
        profile: str = "",
    ) -> tuple[Delivery, JobRecord | None]:
        """Receive a callback, and fire the Deferreds of all clients if it ends the job.

        :param job_id: from the callback's token; :data:`None`: it has no token.
        :param source: how the callback came.
        :param profile: of the job server that has sent it.
        :return: what the table did with it, and the job's record, which the table may have
            forgotten already for lack of room; nothing has changed if it is refused.
        """
        if source is Source.ELSEWHERE:
            self.has_news_from_elsewhere = True
        if job_id is None:
            index = self.indexes.of(profile)
            record = index.find(report.upstream_id)
            if record is None:
                return index.park(report), None
        else:
            record = self._records.get(job_id)
        if record is None:
            assert job_id is not None
            if report.is_progress:
                return Delivery.LATE, None
            record = self._revive(job_id, profile)
        delivery = judge(record, report, is_strict=self._strict_ids)
        if delivery is Delivery.PROGRESS:
            record.last_report = self._clock.seconds()
        elif delivery is Delivery.ACCEPTED or delivery is Delivery.LATE:
            record.upstream_id = record.upstream_id or report.upstream_id
            self._end(record, result=report, source=source)
        return delivery, record

    def fail(self, record: JobRecord, problem: Problem) -> None:
        """End a job with a problem; nothing happens if it has ended already."""
        if not record.is_ended:
            self._end(record, problem=job_problems.about(record, problem))

    def fail_queued(self, problem: Problem, profile: str | None = None) -> None:
        """End all queued jobs with a problem; only those of a profile, if one is given."""
        queued = [
            each
            for each in self.unended()
            if each.state is State.QUEUED and profile in (None, each.profile)
        ]
        self._end_all(queued, lambda record: self.fail(record, problem))

    def unended(self) -> Iterator[JobRecord]:
        """Return the records of jobs that have not ended, the oldest first."""
        return (record for record in self._records.values() if not record.is_ended)

    def search(self, is_found: Callable[[JobRecord], bool]) -> JobRecord | None:
        """Return the newest record that a function finds; all are looked at until then."""
        return next(filter(is_found, reversed(self._records.values())), None)

    def find_oldest_age(self) -> float:
        """Return the age in seconds of the oldest job that was started here and has not ended; 0 if
        there is none.

        Copies of other nodes' jobs were not sent here. It looks at all that is kept, so it is for a
        scrape, not for each job.
        """
        started = (each.created for each in self.unended() if each.sent is not None)
        now = self._clock.seconds()
        return now - next(started, now)

    def stopService(self) -> Any:
        """Fail the Deferred of every held client, as the proxy stops, and remove all records."""
        self.is_stopped = True
        self._end_all(list(self._records.values()), self._stop)
        self.retention.clear()
        self.keys.clear()
        self.indexes.clear()
        return super().stopService()

    def _end_all(self, records: list[JobRecord], end: Callable[[JobRecord], None]) -> None:
        """End jobs; only then cancel their starts, which may free slots for each other."""
        cancels = [each.cancel_start for each in records if each.cancel_start is not None]
        for record in records:
            record.cancel_start = None
            end(record)
        for cancel in cancels:
            cancel()

    def _stop(self, record: JobRecord) -> None:
        self.clients.fail_all(record, job_problems.stopped(record))
        self._forget(record)

    def _set_ack(self, record: JobRecord, ack: Report) -> None:
        if record.ack is not None:
            self._drop_ack(record)
        record.ack_bytes = ack.size
        self.ack_bytes += record.ack_bytes
        record.upstream_id, record.ack = ack.upstream_id or record.upstream_id, ack
        record.last_report = record.acked = self._clock.seconds()

    def _drop_ack(self, record: JobRecord) -> None:
        self.ack_bytes -= record.ack_bytes
        record.ack = None

    def _change(self, record: JobRecord, event: Event, *, has_news: bool = False) -> None:
        """Pass an event to a record, and call the observer if anything has changed."""
        before = record.state
        record.on(event)
        if record.runs_unattended:
            self.clients.count_promise(record)
        if has_news or record.state is not before:
            self._observer.job_changed(record, Source.HERE)

    def _end(
        self,
        record: JobRecord,
        *,
        result: Report | None = None,
        problem: Problem | None = None,
        source: Source = Source.HERE,
    ) -> None:
        """End a job. Clients get their response last: they may ask for the job again at once."""
        waiters, cancel_start = [*record.waiters], record.cancel_start
        if record.is_copy and not record.is_ended:
            self._copies -= 1
        record.on(Event.COMPLETE if problem is None else Event.FAIL)
        if record.is_promised:
            self.clients.count_promise(record)
        record.result, record.problem = result, problem
        record.is_orphan = result is not None and not (waiters or record.runs_unattended)
        record.ended = self._clock.seconds()
        if record.sent is not None and result is not None:
            self.durations.observe(record.ended - record.created)
        self._observer.job_changed(record, source)
        record.cancel_start = None
        if record.ack is not None:
            self._drop_ack(record)
        dismissed = [self.clients.dismiss(waiter) for waiter in waiters]
        self.retention.keep_ended(record)
        if cancel_start is not None:
            cancel_start()
        self.clients.fire(dismissed, record, problem)

    def _forget(self, record: JobRecord) -> None:
        """Remove a record. A start that still has it sees the state ``FORGOTTEN``."""
        cancel_start, record.cancel_start = record.cancel_start, None
        was_ended = record.is_ended
        if record.is_copy and not was_ended:
            self._copies -= 1
        if record.ack is not None:
            self._drop_ack(record)
        record.on(Event.FORGET)
        if record.is_promised:
            self.clients.count_promise(record)
        if not was_ended:
            self._observer.job_changed(record, Source.HERE)
        elif record.problem is not None:
            self._observer.failure_forgotten(record)
        record.kept_in = None
        del self._records[record.job_id]
        if self._upstream_ids:
            self.indexes.of(record.profile).remove(record)
        self.keys.bury(record)
        if cancel_start is not None:
            cancel_start()

    def _add_upstream_id(self, record: JobRecord, ack: Report) -> Report | None:
        """Add the id in an ack to the index, and complete the job if its callback came before.

        :return: that callback, if it is thin and so completes nothing.
        """
        if not self._upstream_ids or ack.upstream_id is None or record.state is State.FORGOTTEN:
            return None
        parked = self.indexes.of(record.profile).add(record, ack.upstream_id)
        if parked is None or parked.messages is not None:
            return parked
        self.complete(record.job_id, parked)
        return None

    def _keep_unclaimed(self, profile: str, job_id: str, report: Report) -> JobRecord:
        """Create a record for a callback whose ack did not come."""
        _, record = self.complete(job_id, report, profile=profile)
        assert record is not None
        return record

    def _revive(self, job_id: str, profile: str) -> JobRecord:
        """Create a record for a job that was forgotten, or that an earlier process started."""
        record = JobRecord(job_id, self._clock.seconds(), profile=profile)
        self._records[job_id] = record
        record.overdue = record.created
        return record
