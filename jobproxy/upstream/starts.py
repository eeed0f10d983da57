"""Starts jobs: waits for a slot, sends the start request, and sends it again where that is safe."""

import math
from collections.abc import Callable
from contextlib import suppress
from functools import reduce
from typing import Any

from attrs import define, evolve, field, frozen
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger, LogLevel
from twisted.python.failure import Failure

from jobproxy.jobs import job_problems
from jobproxy.jobs.record import JobRecord
from jobproxy.jobs.states import State
from jobproxy.jobs.table import CorrelationTable
from jobproxy.upstream.circuit import Phase
from jobproxy.upstream.follow_ups import FollowUps, is_wanted
from jobproxy.upstream.job_places import JobPlace, JobPlaces
from jobproxy.upstream.job_server import Headers, JobServer
from jobproxy.upstream.limiter import AccountLimiter
from jobproxy.upstream.redaction import Redactor, hide
from jobproxy.upstream.retries import RetryPolicy
from jobproxy.upstream.slots import Slots
from jobproxy.upstream.start_errors import AmbiguousStart, NotStarted
from jobproxy.upstream.waiting_starts import WaitingStarts
from jobproxy.util.deadline import when_due
from jobproxy.wire.jobs import AnyJob
from jobproxy.wire.problems import Kind, Problem, ProblemError
from jobproxy.wire.reports import Report

_log = Logger()

#: The most bytes of jobs that wait for their start, or may be started again, and of all acks.
MAX_KEPT = 256 * 2**20


@frozen
class StartRequest:
    """The parts of a start request that do not come from the client's job.

    :param callback_url: where the job server sends callbacks.
    :param secrets: what to hide of that URL, the longest first, if the job server's response quotes
        it.
    :param headers: additional headers.
    """

    callback_url: str = field(repr=False)
    secrets: tuple[str, ...] = field(repr=False)
    headers: Headers = ()


@define(eq=False)
class Starter:
    """Makes starts, and has what all of them need.

    :param limiter: has the queues of the accounts.
    :param slots: grants slots: the limiter itself, or one that asks other nodes too.
    :param grace: seconds to wait for a callback after an ambiguous start.
    :param places: bounds the jobs of an account that run at once; :data:`None`: nothing does.
    :param follow_ups: asks the job server about its jobs, if its profile says how.
    :param claim: is called before each start request of a job with an Idempotency-Key, until one
        may have reached the job server. Fires with whether to start the job on this node, or fails
        with the :class:`ProblemError` that ends the job.
    """

    clock: IReactorTime
    table: CorrelationTable
    limiter: AccountLimiter
    slots: Slots
    job_server: JobServer
    policy: RetryPolicy
    grace: float
    claim: Callable[[JobRecord], Deferred[bool]]
    follow_ups: FollowUps | None = None
    places: JobPlaces | None = None
    #: Bytes of the jobs that may still be sent.
    kept_bytes: int = field(default=0, init=False)
    redactor: Redactor = field(factory=Redactor, init=False, repr=False)
    is_draining: bool = field(default=False, init=False)
    waiting: WaitingStarts["Start"] = field(factory=WaitingStarts, init=False, repr=False)

    @property
    def polls(self) -> bool:
        """Whether jobs are asked for whose callback does not come."""
        return self.follow_ups is not None and self.follow_ups.polls

    def drain(self) -> None:
        """Send no more start requests; queued jobs have to be ended by the caller."""
        self.is_draining = True

    def queue(self, job: AnyJob) -> "Start":
        """Queue a job; :meth:`Start.begin` has to follow as soon as the job has a record.

        :raises ProblemError: if the circuit is open, the queue of the account is full, or too much
            is kept.
        """
        if self.kept_bytes + self.table.ack_bytes > MAX_KEPT:
            detail = "The jobs and acks in memory are too large in all; try again later."
            raise ProblemError(Problem(Kind.OVERLOADED, detail, retry_after=1))
        try:
            self.job_server.circuit.check_allowed(job.account)
        except NotStarted as error:
            raise ProblemError(error.problem) from None
        if self.places is None:
            start = Start(self, job, self.slots.acquire(job.account))
        else:
            place = self.places.enter(job.account)
            # A job with a place is not refused any more, whatever waits for a slot.
            waiting = place.granted.addCallback(lambda _: self.slots.requeue(job.account))
            start = Start(self, job, waiting, place)
        self.kept_bytes += job.size
        return start

    def pause(self, account: str, problem: Problem) -> None:
        """Send nothing for an account, as long as the job server has asked for.

        Jobs that no client waits for by then get the problem now.
        """
        self.slots.note_refusal(account, float(problem.retry_after or 0))
        paused = self.limiter.paused_for(account)
        until = self.clock.seconds() + paused
        known = evolve(problem, retry_after=max(1, math.ceil(paused)))
        for record in self.waiting.find_late(account, until):
            self.table.fail(record, known)

    @property
    def queued(self) -> int:
        """How many jobs wait for a slot or a place."""
        return self.limiter.queued + (0 if self.places is None else self.places.limiter.queued)


def circuit_opened(table: CorrelationTable, profile: str) -> None:
    """Fail all queued jobs of a profile; to be called when its circuit opens."""
    detail = "The job server does not respond; the job was not started."
    table.fail_queued(Problem(Kind.UPSTREAM_UNREACHABLE, detail, retry_after=1), profile)


@define(eq=False)
class Start:
    """The start of one job: waits in the queue, and sends start requests until there is an ack."""

    _starter: Starter
    _job: AnyJob
    #: Waits for a slot, a claim or the end of a pause; a start request is never cancelled.
    _waiting: Deferred[Any]
    _place: JobPlace | None = None
    _attempts: int = field(default=0, init=False)

    def cancel(self) -> None:
        """Send no more start requests; must not be called while one is under way."""
        self._waiting.cancel()

    def begin(self, record: JobRecord, request: StartRequest) -> None:
        """Start the job in the background; its record shows the progress."""
        if self._place is not None:
            self._place.keep(record)
        running = Deferred.fromCoroutine(self._run(record, request))
        running.addErrback(self._crash, record)

    async def _run(self, record: JobRecord, request: StartRequest) -> None:
        starter, account = self._starter, self._job.account
        try:
            while True:
                is_queued = not self._waiting.called
                if is_queued:
                    starter.waiting.add(self, record)
                try:
                    slot = await self._waiting
                except CancelledError:
                    return
                finally:
                    if is_queued:
                        starter.waiting.remove(self, record)
                if record.is_ended or (self._attempts and not self._may_repeat(record)):
                    starter.slots.release(account, slot)
                    return
                self._attempts += 1
                if (
                    record.key_digest is not None
                    and record.started == "no"
                    and not await self._claim(record, slot)
                ):
                    return
                try:
                    starter.table.send(record)
                    pause = await self._send(record, request)
                finally:
                    starter.slots.release(account, slot)
                if pause is None and not record.is_ended:
                    await self._follow_up(record)
                if pause is None or record.is_ended or not await self._pause(record, pause):
                    return
                self._waiting = starter.slots.requeue(account)
        finally:
            starter.kept_bytes -= self._job.size
            self._settle_early(record)

    async def _send(self, record: JobRecord, request: StartRequest) -> float | None:
        """Send one start request.

        :return: the seconds until the next one; :data:`None` if there is none.
        """
        call = self._job.to_start(request.callback_url)
        secrets = (*request.secrets, *call.secrets)
        try:
            ack = await self._starter.job_server.start(self._job, call, request.headers)
        except AmbiguousStart as error:
            _log.warn("start of job {job} is ambiguous: {error}", **record.log_fields, error=error)
            self._starter.table.note_failed_start(record, error.result)
            # A callback that came before needs no other start, and there will be no ack.
            return None if self._settle_early(record) else self._doubt(record)
        except NotStarted as error:
            self._starter.table.note_failed_start(record, error.result)
            if self._settle_early(record):
                # Its callback came before, so it was started, whatever this says.
                return None
            self._starter.table.retract(record, self.cancel)
            if error.may_retry:
                return self._defer(record, error.problem)
            words = reduce(hide, secrets, error.problem.upstream_body)
            self._give_up(record, evolve(error.problem, upstream_body=words))
            return None
        return self._accept(record, self._starter.redactor.hide(ack, secrets))

    async def _claim(self, record: JobRecord, slot: str | None) -> bool:
        """Return whether to start the job on this node; if not, release its slot."""
        self._waiting = claiming = self._starter.claim(record)
        may_start = False
        try:
            may_start = await claiming
        except CancelledError:
            pass
        except ProblemError as error:
            self._starter.table.fail(record, error.problem)
        finally:
            if not may_start:
                self._starter.slots.release(self._job.account, slot)
        return may_start

    def _accept(self, record: JobRecord, ack: Report) -> float | None:
        """Record an ack; return the seconds after which to start the job again if it is lost."""
        policy, table = self._starter.policy, self._starter.table
        if not (ack.is_ended or ack.is_progress or ack.state is None):
            _log.warn("the ack of job {job} has an unknown state", **record.log_fields)
        restart_after = policy.restarts_after(self._attempts)
        if self._starter.limiter.refusals:
            self._starter.limiter.note_ack()
        if ack.is_ended or self._job.has_own_callback:
            table.conclude(record, ack)
        else:
            may_cancel = restart_after is not None or self._starter.polls
            cancel_start = self.cancel if may_cancel else None
            parked = table.acknowledge(record, ack, cancel_start=cancel_start)
            if self._starter.follow_ups is not None:
                self._starter.follow_ups.fetch_early(record, parked, table.complete)
        return restart_after

    async def _follow_up(self, record: JobRecord) -> None:
        """Ask for a job that was acknowledged, or cancel one that nobody wants any more."""
        follow_ups = self._starter.follow_ups
        if follow_ups is None or record.ack is None or follow_ups.thin.is_fetching(record):
            return
        if not is_wanted(record):
            await follow_ups.cancel(record)
        elif follow_ups.polls:
            self._waiting = polling = follow_ups.poll(record, self._starter.table.complete)
            with suppress(CancelledError):
                await polling

    def _settle_early(self, record: JobRecord) -> bool:
        """End a job with the thin callback that came before its ack, if there is one."""
        follow_ups = self._starter.follow_ups
        return follow_ups is not None and follow_ups.thin.settle(record)

    def _doubt(self, record: JobRecord) -> float | None:
        """Record an ambiguous start; return the pause before another one, if there is one."""
        starter = self._starter
        pause = starter.policy.pause(self._attempts)
        is_allowed = starter.policy.allows(self._attempts, is_ambiguous=True)
        if is_allowed and self._is_wanted(record, pause) and not starter.is_draining:
            starter.table.doubt(record, cancel_start=self.cancel)
            return pause
        self._await_callback(record)
        return None

    def _defer(self, record: JobRecord, problem: Problem) -> float | None:
        """Return the pause before a start request that was not read is sent again, if it is."""
        starter, account = self._starter, self._job.account
        pause = starter.policy.pause(self._attempts)
        if problem.kind is Kind.UPSTREAM_BUSY and problem.retry_after:
            # The limiter pauses the whole account, so its other jobs are not sent either.
            starter.pause(account, problem)
            pause = 0.0
        until_start = max(pause, starter.limiter.paused_for(account))
        is_allowed = starter.policy.allows(self._attempts, is_ambiguous=False)
        if starter.is_draining:
            self._give_up(record, job_problems.draining())
            return None
        is_alive = starter.job_server.circuit.phase is Phase.CLOSED
        if not (is_allowed and is_alive and self._is_wanted(record, until_start)):
            self._give_up(record, evolve(problem, retry_after=problem.retry_after or 1))
            return None
        _log.info("start of job {job} is postponed: {slug}", **record.log_fields, slug=problem.slug)
        return pause

    def _give_up(self, record: JobRecord, problem: Problem) -> None:
        """End a job that cannot be started, unless an earlier start request was ambiguous."""
        if record.started == "no":
            _log.warn("job {job} was not started: {slug}", **record.log_fields, slug=problem.slug)
            self._starter.table.fail(record, problem)
        else:
            self._await_callback(record)

    def _await_callback(self, record: JobRecord) -> None:
        """Send no more start requests, and give the callback of a job that may run the grace."""
        self._starter.table.doubt(record)
        if record.state is State.UNCONFIRMED:
            self._starter.table.clients.shorten(record, self._starter.grace)

    async def _pause(self, record: JobRecord, seconds: float) -> bool:
        """Pause before the next start request; return whether to send one."""
        clock = self._starter.clock
        while seconds > 0:
            # The callback of a job that runs may have arrived already.
            wait = when_due if record.state is State.RUNNING else deferLater
            self._waiting = wait(clock, seconds)
            try:
                await self._waiting
            except CancelledError:
                return False
            if record.state is not State.RUNNING:
                break
            # A job is lost only if no callback came for that long.
            assert record.last_report is not None
            lost_after = self._starter.policy.lost_after or 0.0
            seconds = record.last_report + lost_after - clock.seconds()
            if seconds <= 0:
                _log.warn("job {job} is lost; starting it again", **record.log_fields)
        return self._may_repeat(record)

    def _may_repeat(self, record: JobRecord) -> bool:
        """Whether to send the start request again; if not, only a callback can end the job."""
        is_draining = self._starter.is_draining
        if self._is_wanted(record, 0.0) and not is_draining:
            return True
        if record.started != "no":
            self._await_callback(record)
        return False

    def _is_wanted(self, record: JobRecord, seconds: float) -> bool:
        """Whether there is still a reason to start the job in this many seconds."""
        return record.wanted_until > self._starter.clock.seconds() + seconds

    def _crash(self, failure: Failure, record: JobRecord) -> None:
        _log.failure("start of job {job} crashed", failure, LogLevel.critical, **record.log_fields)
        detail = "The proxy failed while it started the job."
        self._starter.table.fail(record, Problem(Kind.INTERNAL, detail, started="unknown"))
