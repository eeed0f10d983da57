"""Has jobs started: in their lane, again where that is safe, and with every doubt told."""

from collections.abc import Callable
from typing import Any

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger, LogLevel
from twisted.python.failure import Failure

from jobproxy.jobs.record import JobRecord, State
from jobproxy.jobs.table import CorrelationTable
from jobproxy.upstream.circuit import Phase
from jobproxy.upstream.job_server import AmbiguousStart, Headers, JobServer
from jobproxy.upstream.limiter import AccountLimiter
from jobproxy.upstream.retries import RetryPolicy
from jobproxy.wire.jobs import Job, Report
from jobproxy.wire.problems import (
    Internal,
    Problem,
    UpstreamBusy,
    UpstreamProblem,
    UpstreamUnreachable,
)

_log = Logger()


@define(eq=False)
class Starter:
    """What every start needs.

    :param grace: seconds that a callback is still waited for when it is not known whether the
        start reached the job server.
    :ivar guard: is asked before a job is started that has an alias, unless an earlier start of it
        may have worked; fires with whether it may be started, or fails with the :class:`Problem`
        that ends the job.
    """

    clock: IReactorTime
    table: CorrelationTable
    limiter: AccountLimiter
    job_server: JobServer
    policy: RetryPolicy
    grace: float
    guard: Callable[[JobRecord], Deferred[bool]] | None = field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        self.job_server.circuit.when_open = self._tell_queued

    def queue(self, job: Job) -> "Start":
        """Queue a job; its start is to be begun as soon as it has an entry.

        :raises UpstreamUnreachable: if the job server is known to be dead.
        :raises AccountQueueFull: if too many jobs of the account wait.
        """
        self.job_server.circuit.check_allowed()
        return Start(self, job, self.limiter.acquire(job.account))

    def _tell_queued(self) -> None:
        """Have nobody wait for their turn at a job server that is dead."""
        self.table.fail_queued(
            lambda: UpstreamUnreachable(
                "The job server does not answer; the job was not started.", retry_after=1
            )
        )


@define(eq=False)
class Start:
    """The start of one job, from its queue to a usable ack, with every attempt that it takes."""

    _starter: Starter
    _job: Job
    #: The place in the lane, or the pause before it; a start call is never cancelled.
    _waiting: Deferred[Any]
    _attempts: int = field(default=0, init=False)

    def cancel_start(self) -> None:
        """Make no (further) start call; to be called while none is under way."""
        self._waiting.cancel()

    def begin(self, record: JobRecord, callback_url: str, headers: Headers) -> None:
        """Start the job in the background; its entry tells how that goes.

        :param callback_url: where the job server is to call back.
        :param headers: more headers of the start call.
        """
        running = Deferred.fromCoroutine(self._run(record, callback_url, headers))
        running.addErrback(self._crash, record)

    async def _run(self, record: JobRecord, callback_url: str, headers: Headers) -> None:
        starter, account = self._starter, self._job.account
        while True:
            try:
                await self._waiting
            except CancelledError:
                return
            self._attempts += 1
            is_guarded = starter.guard is not None and record.key_digest and record.started == "no"
            if is_guarded and not await self._ask(record):
                return
            starter.table.advance(record, State.STARTING)
            try:
                body = self._job.to_start(callback_url)
                ack = await starter.job_server.start(account, body, headers)
                pause = self._accept(record, ack)
            except AmbiguousStart as error:
                _log.warn("start of job {job} is ambiguous: {error}", **record.names, error=error)
                pause = self._doubt(record)
            except (UpstreamBusy, UpstreamUnreachable) as problem:
                pause = self._defer(record, problem)
            except Problem as problem:
                if isinstance(problem, UpstreamProblem):
                    # A job server may quote what it was sent; the end of the URL is the secret.
                    problem.redact(callback_url.rpartition("/")[2])
                starter.table.retract(record, self.cancel_start)
                self._give_up(record, problem)
                pause = None
            finally:
                starter.limiter.release(account)
            if pause is None or record.state is State.ENDED or not await self._rest(record, pause):
                return
            self._waiting = starter.limiter.requeue(account)

    async def _ask(self, record: JobRecord) -> bool:
        """Return whether the job may be started here; if not, its place is given back."""
        assert self._starter.guard is not None
        self._waiting = asking = self._starter.guard(record)
        may_start = False
        try:
            may_start = await asking
        except CancelledError:
            pass
        except Problem as problem:
            self._starter.table.fail(record, problem)
        finally:
            if not may_start:
                self._starter.limiter.release(self._job.account)
        return may_start

    def _accept(self, record: JobRecord, ack: Report) -> float | None:
        """Take an ack; return the seconds after which the job counts as lost, if it ever does."""
        policy, table = self._starter.policy, self._starter.table
        if not (ack.is_ended or ack.is_progress or ack.state is None):
            _log.warn("the ack of job {job} has a state that is not known", **record.names)
        is_last = policy.lost_after is None or self._attempts >= policy.attempts
        if ack.is_ended or self._job.own_start is not None:
            table.conclude(record, ack)
        else:
            cancel_start = None if is_last else self.cancel_start
            table.advance(record, State.RUNNING, ack=ack, cancel_start=cancel_start)
        return None if is_last else policy.lost_after

    def _doubt(self, record: JobRecord) -> float | None:
        """Take note that the job may run; return the pause if it is to be started once more."""
        starter = self._starter
        pause = starter.policy.pause(self._attempts)
        is_allowed = starter.policy.allows(self._attempts, is_ambiguous=True)
        if is_allowed and self._is_wanted(record, pause):
            state = State.UNCONFIRMED if record.acked is None else State.RUNNING
            starter.table.advance(record, state, cancel_start=self.cancel_start)
            return pause
        self._listen(record)
        return None

    def _defer(
        self, record: JobRecord, problem: UpstreamBusy | UpstreamUnreachable
    ) -> float | None:
        """Take note that the start was not read; return the pause if it is to be made again."""
        starter = self._starter
        starter.table.retract(record, self.cancel_start)
        pause = starter.policy.pause(self._attempts)
        if isinstance(problem, UpstreamBusy) and problem.retry_after:
            # The account's lane has the pause, so that nothing else of the account is sent either.
            starter.limiter.pause(self._job.account, problem.retry_after)
            pause = 0.0
        problem.retry_after = problem.retry_after or 1
        until_start = max(pause, starter.limiter.paused_for(self._job.account))
        is_allowed = starter.policy.allows(self._attempts, is_ambiguous=False)
        is_alive = starter.job_server.circuit.phase is Phase.CLOSED
        if not (is_allowed and is_alive and self._is_wanted(record, until_start)):
            self._give_up(record, problem)
            return None
        _log.info("start of job {job} is put off: {slug}", **record.names, slug=problem.slug)
        return pause

    def _give_up(self, record: JobRecord, problem: Problem) -> None:
        """End a job that cannot be started, unless an earlier start of it may have worked."""
        if record.started == "no":
            _log.warn("job {job} was not started: {slug}", **record.names, slug=problem.slug)
            self._starter.table.fail(record, problem)
        else:
            self._listen(record)

    def _listen(self, record: JobRecord) -> None:
        """Wait for the callback of a job that may run."""
        if record.acked is not None:
            self._starter.table.advance(record, State.RUNNING)
            return
        self._starter.table.advance(record, State.UNCONFIRMED)
        self._starter.table.shorten(record, self._starter.grace)

    async def _rest(self, record: JobRecord, seconds: float) -> bool:
        """Pause before the next start call; return whether there is to be one."""
        clock = self._starter.clock
        while seconds > 0:
            self._waiting = deferLater(clock, seconds)
            try:
                await self._waiting
            except CancelledError:
                return False
            if record.state is not State.RUNNING:
                break
            # A job that said something meanwhile is not lost.
            assert record.heard is not None
            lost_after = self._starter.policy.lost_after or 0.0
            seconds = record.heard + lost_after - clock.seconds()
            if seconds <= 0:
                _log.warn("job {job} is lost; it is started again", **record.names)
        return self._is_wanted(record, 0.0)

    def _is_wanted(self, record: JobRecord, seconds: float) -> bool:
        """Whether anybody will still want the job to be started so many seconds from now."""
        return record.wanted_until > self._starter.clock.seconds() + seconds

    def _crash(self, failure: Failure, record: JobRecord) -> None:
        _log.failure("start of job {job} crashed", failure, LogLevel.critical, **record.names)
        problem = Internal("The proxy failed while it started the job.")
        problem.started = "unknown"
        self._starter.table.fail(record, problem)
