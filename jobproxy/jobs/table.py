"""The correlation table: which client waits for which job, and what became of the others."""

from collections.abc import Callable, Iterator
from typing import Any

from attrs import define, field
from twisted.application.service import Service
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from jobproxy.jobs.events import JobEvents
from jobproxy.jobs.record import NO_ORIGIN, Delivery, JobRecord, Origin, State, Waiter
from jobproxy.jobs.retention import Retention
from jobproxy.util.deadline import Deadline, do_nothing
from jobproxy.util.histogram import Histogram
from jobproxy.util.idle import IdleNotifier
from jobproxy.wire.jobs import Report
from jobproxy.wire.problems import Draining, Problem

_log = Logger()


@define(eq=False)
class CorrelationTable(Service):
    """Stores a Deferred for each held client and fires it when the job's callback arrives.

    An entry is made before the start call, so that no callback can come too early. It has at most
    one outcome. A deadline ends a client's wait, not the job: the entry stays, without anybody
    waiting, until the callback comes or its token is no longer good, and then for as long as
    results are retained.

    :param retain: seconds that outcomes are kept.
    """

    _clock: IReactorTime
    _retain: float
    _events: JobEvents = field(factory=JobEvents, kw_only=True)
    _records: dict[str, JobRecord] = field(factory=dict, init=False, repr=False)
    _keys: dict[bytes, JobRecord] = field(factory=dict, init=False, repr=False)
    _retention: Retention = field(init=False, repr=False)
    #: How many clients wait for their answer.
    held: int = field(default=0, init=False)
    #: From the request for a job to its result.
    durations: Histogram = field(factory=Histogram, init=False, repr=False)
    _idle: IdleNotifier = field(factory=IdleNotifier, init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        self._retention = Retention(self._clock, self._retain, self._forget)

    def __len__(self) -> int:
        """Return how many jobs have not ended, those included that nobody waits for."""
        return len(self._records) - self._retention.retained

    @property
    def retained(self) -> int:
        """How many outcomes are kept."""
        return self._retention.retained

    @property
    def retained_bytes(self) -> int:
        """About how many bytes they take."""
        return self._retention.retained_bytes

    def create(
        self,
        job_id: str,
        cancel_start: Callable[[], object],
        *,
        key_digest: bytes | None = None,
        request_digest: bytes = b"",
        origin: Origin = NO_ORIGIN,
    ) -> JobRecord:
        """Make a job's entry; to be called before it is started, and followed by :meth:`wait`.

        :param job_id: not in use yet.
        :param cancel_start: is called when the job ends, or its last client goes, before
            it has been started.
        :param key_digest: another name for it, taken away from the job that had it before.
        :param origin: what the log is to know of it.
        """
        if job_id in self._records:
            raise ValueError("this job id is in use")
        record = JobRecord(
            job_id, self._clock.seconds(), key_digest, request_digest, cancel_start, origin=origin
        )
        self._records[job_id] = record
        if key_digest is not None:
            self._keys[key_digest] = record
        self._events.note(record)
        return record

    def adopt(
        self,
        job_id: str,
        ack: Report | None,
        *,
        key_digest: bytes | None = None,
        request_digest: bytes = b"",
    ) -> JobRecord:
        """Make an entry for a job that may have been started elsewhere; others know more of it.

        :param job_id: not in use here.
        :param ack: the answer to its start, if that is known.
        """
        record = self.create(
            job_id, do_nothing, key_digest=key_digest, request_digest=request_digest
        )
        self.hand_over(record, ack)
        self._retention.move(record, self._retention.unattended)
        return record

    def hand_over(self, record: JobRecord, ack: Report | None) -> None:
        """Note that a job may have been started elsewhere, and is not to be started here."""
        if record.state is not State.ENDED:
            record.runs_unattended, record.starts = True, 1
            self.advance(record, State.RUNNING, ack=ack)

    def wait(
        self,
        record: JobRecord,
        seconds: float,
        *,
        until: State = State.ENDED,
        takes_state: bool = False,
        is_poll: bool = False,
    ) -> Deferred[JobRecord]:
        """Wait for a job; any number may.

        :param seconds: the time until the deadline.
        :param until: :attr:`State.RUNNING` if the ack is enough.
        :param takes_state: whether to fire at the deadline too, with a job that has not ended; not
            if it is not known whether it was started. Who is told so can come and ask for the
            result, so that from then on the job goes on without anybody waiting.
        :param is_poll: whether this is somebody who only asks how the job goes: it is told at the
            deadline whatever that is, and is no reason to start the job.
        :return: fires with the entry when it has a result, or fails with a :class:`Problem`.
            Cancel it when the client has left.
        """
        if record.outcome is not None:
            if record.kept_in is self._retention.orphans:
                self._retention.move(record, self._retention.outcomes)
            return fail(record.outcome) if isinstance(record.outcome, Problem) else succeed(record)
        if until is State.RUNNING and record.ack is not None:
            record.runs_unattended = True
            return succeed(record)
        self._retention.move(record, None)
        waiter = Waiter(record, until, takes_state, is_poll)
        waiter.answered = Deferred(lambda _: self._abandon(waiter))
        waiter.deadline = Deadline(self._clock, seconds, lambda: self._expire(waiter))
        record.waiters = (*record.waiters, waiter)
        self.held += 1
        return waiter.answered

    def find(self, job_id: str) -> JobRecord | None:
        """Return what is known of a job."""
        return self._records.get(job_id)

    def find_key(self, key_digest: bytes) -> JobRecord | None:
        """Return the job that has this other name."""
        return self._keys.get(key_digest)

    def advance(
        self,
        record: JobRecord,
        state: State,
        *,
        ack: Report | None = None,
        cancel_start: Callable[[], object] | None = None,
    ) -> None:
        """Note how far a job has come; nothing happens if it has ended already.

        :param ack: the job server's answer to the start, once there is one. If it has an id, a
            callback with another one is refused.
        :param cancel_start: see :meth:`create`; given as long as the job can be kept from being
            started (again).
        """
        if record.state is State.ENDED:
            return
        if ack is not None:
            record.upstream_id = ack.upstream_id or record.upstream_id
            record.ack = ack
            record.heard = record.acked = self._clock.seconds()
        self._set_state(record, state)
        record.cancel_start = cancel_start
        if state is State.STARTING:
            record.starts += 1
            record.sent = record.sent or self._clock.seconds()
        if ack is not None:
            for waiter in record.waiters:
                if waiter.until is State.RUNNING:
                    record.runs_unattended = True
                    self._dismiss(waiter).callback(record)
            self._tell_idle()

    def conclude(self, record: JobRecord, ack: Report) -> None:
        """Take an ack that is the job's result; nothing happens if it has one already."""
        if record.state is not State.ENDED:
            record.upstream_id = ack.upstream_id or record.upstream_id
            record.acked = self._clock.seconds()
            self._end(record, ack)

    def retract(self, record: JobRecord, cancel_start: Callable[[], object]) -> None:
        """Note that the last start call certainly was not read, or was refused.

        :param cancel_start: see :meth:`create`.
        """
        if record.state is State.ENDED:
            return
        record.starts -= 1
        states = {"no": State.QUEUED, "unknown": State.UNCONFIRMED, "yes": State.RUNNING}
        record.cancel_start = cancel_start
        self._set_state(record, states[record.started])

    def shorten(self, record: JobRecord, seconds: float) -> None:
        """Bring the deadlines of all who wait forward, unless they are sooner.

        :param seconds: the time from now until the new deadline.
        """
        at = self._clock.seconds() + seconds
        for waiter in record.waiters:
            waiter.deadline.bring_forward(at)

    def complete(self, job_id: str, report: Report) -> Delivery:
        """Take what the job server says of a job, and answer who waits if that ends the job.

        :raises CallbackConflict: if it names another job than the ack did, or if the job has
            another result already; nothing has changed.
        """
        record = self._records.get(job_id)
        if record is None:
            if report.is_progress:
                return Delivery.LATE
            # It was forgotten, or we were restarted.
            record = self._records[job_id] = JobRecord(job_id, self._clock.seconds())
            record.overdue = record.created
        record.check_id(report)
        if report.is_progress:
            record.heard = self._clock.seconds()
            return Delivery.PROGRESS
        if record.result is not None:
            return record.compare(report)
        is_over = record.overdue is not None or record.outcome is not None
        delivery = Delivery.LATE if is_over and not record.waiters else Delivery.ACCEPTED
        record.upstream_id = report.upstream_id or record.upstream_id
        self._end(record, report)
        return delivery

    def fail(self, record: JobRecord, problem: Problem) -> None:
        """End a job that was not started; nothing happens if it has ended already."""
        if record.state is not State.ENDED:
            problem.forget_origin()
            self._end(record, record.mark(problem))

    def fail_queued(self, make_problem: Callable[[], Problem]) -> None:
        """End all jobs that have not been started."""
        for record in list(self._records.values()):
            if record.state is State.QUEUED:
                self.fail(record, make_problem())

    def unended(self) -> Iterator[JobRecord]:
        """Return the jobs that have not ended, the oldest first."""
        return (record for record in self._records.values() if record.state is not State.ENDED)

    def keyed(self) -> list[JobRecord]:
        """Return the jobs that can be asked for by another name."""
        return list(self._keys.values())

    def orphans(self) -> list[JobRecord]:
        """Return the jobs whose result nobody waited for or asked for since, the oldest first."""
        return list(self._retention.orphans)

    def when_idle(self) -> Deferred[None]:
        """Wait until nobody is held."""
        return self._idle.wait(is_idle=not self.held)

    def find_orphan(self, job_id: str) -> bytes | None:
        """Return the body of an orphan, if there is one of this handle."""
        record = self._retention.orphans.find(job_id)
        return None if record is None or record.result is None else record.result.body

    def drop_orphan(self, job_id: str) -> None:
        """Forget an orphan."""
        record = self._retention.orphans.find(job_id)
        if record is not None:
            self._retention.move(record, None)
            self._forget(record)

    def stopService(self) -> Any:
        """Answer every held client that the proxy stops, and forget everything."""
        for record in list(self._records.values()):
            for waiter in record.waiters:
                problem = Draining(
                    "The proxy was stopped while the job was waited for.", retry_after=1
                )
                problem.started = record.started
                self._dismiss(waiter).errback(record.mark(problem))
            self._forget(record)
        self._retention.clear()
        self._tell_idle()
        return super().stopService()

    def _end(self, record: JobRecord, outcome: Report | Problem) -> None:
        """Give a job its outcome; it is on its shelf before anybody is told, who may ask again."""
        waiters, cancel_start = record.waiters, record.cancel_start
        is_orphan = isinstance(outcome, Report) and not (waiters or record.runs_unattended)
        now = self._clock.seconds()
        record.state, record.outcome, record.ended = State.ENDED, outcome, now
        if record.sent is not None and isinstance(outcome, Report):
            self.durations.observe(now - record.created)
        self._events.note(record)
        record.ack = record.cancel_start = None
        answers = [self._dismiss(waiter) for waiter in waiters]
        self._retention.move(
            record, self._retention.orphans if is_orphan else self._retention.outcomes
        )
        if is_orphan:
            self._report_orphan(record, now)
        if cancel_start is not None:
            cancel_start()
        for answer in answers:
            if isinstance(outcome, Report):
                answer.callback(record)
            else:
                answer.errback(outcome)
        self._tell_idle()

    def _set_state(self, record: JobRecord, state: State) -> None:
        if record.state is not state:
            record.state = state
            self._events.note(record)

    def _report_orphan(self, record: JobRecord, now: float) -> None:
        when = "after its client had left"
        if record.overdue is not None:
            when = f"{now - record.overdue:.3f} s too late"
        _log.warn("the result of job {job} came {when}; it is kept", **record.names, when=when)

    def _forget(self, record: JobRecord) -> None:
        """Know nothing of a job any more; an ack of its start may still come."""
        cancel_start, record.cancel_start = record.cancel_start, None
        self._set_state(record, State.ENDED)
        record.kept_in = None
        del self._records[record.job_id]
        if record.key_digest is not None and self._keys.get(record.key_digest) is record:
            del self._keys[record.key_digest]
        if cancel_start is not None:
            cancel_start()

    def _dismiss(self, waiter: Waiter) -> Deferred[JobRecord]:
        """Count somebody who waits no longer; who is told next may call us again.

        :return: what is to be fired. The waiter knows it no longer: as it knows the waiter, so as
            to be cancelled, both would be garbage that only the collector finds.
        """
        record = waiter.record
        record.waiters = tuple(other for other in record.waiters if other is not waiter)
        waiter.deadline.cancel()
        self.held -= 1
        stays = record.runs_unattended or record.state is not State.QUEUED
        if stays and record.state is not State.ENDED and not record.waiters:
            self._retention.move(record, self._retention.unattended)
        answered = waiter.answered
        del waiter.answered
        return answered

    def _tell_idle(self) -> None:
        """Tell who waits for it if nobody is held; called once those who were know their answer."""
        if not self.held:
            self._idle.notify()

    def _abandon(self, waiter: Waiter) -> None:
        record = waiter.record
        self._dismiss(waiter)
        if record.state is State.QUEUED and not record.is_wanted:
            if record.waiters:
                self._end(record, record.overrun())
            else:
                self._forget(record)
        if record.state is not State.ENDED:
            self._events.note_wait(record, "left")
        self._tell_idle()

    def _expire(self, waiter: Waiter) -> None:
        record = waiter.record
        wants_state = waiter.takes_state and record.state is not State.UNCONFIRMED
        record.runs_unattended |= wants_state
        answered = self._dismiss(waiter)
        problem = record.overrun()
        if record.is_wanted and problem.started == "no":
            # It will be started for those who go on waiting.
            problem.started = "unknown"
        if not (waiter.is_poll or record.is_wanted):
            record.overdue = self._clock.seconds()
            if record.state is State.QUEUED:
                self._end(record, problem)
        if record.outcome is None and not waiter.is_poll:
            self._events.note_wait(record, "has waited for as long as it may")
        if (waiter.is_poll or wants_state) and record.outcome is None:
            answered.callback(record)
        else:
            answered.errback(problem)
        self._tell_idle()
