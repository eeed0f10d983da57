"""The clients that wait for jobs, each with a Deferred and a deadline."""

from collections.abc import Callable, Sequence

from attrs import define, field
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IReactorTime

from jobproxy.jobs import job_problems
from jobproxy.jobs.events import Observer
from jobproxy.jobs.record import JobRecord, Waiter
from jobproxy.jobs.retention import Retention
from jobproxy.jobs.states import State
from jobproxy.util.idle import IdleNotifier
from jobproxy.wire.problems import Problem, ProblemError


@define(eq=False)
class WaitingClients:
    """Holds clients until their job ends, their deadline passes, or they leave.

    :param fail: is called to end a job without a result.
    :param forget: is called to remove the record of a job that no client waits for.
    :param max_promised: how many jobs may be queued although their clients were told 202. Their
        wait has no end, so that without a bound they could take all places of the queue.
    :ivar held: the number of held clients.
    :ivar promised: the number of such jobs.
    """

    _clock: IReactorTime
    _retention: Retention
    _observer: Observer
    _fail: Callable[[JobRecord, Problem], None]
    _forget: Callable[[JobRecord], None]
    _max_promised: float
    held: int = field(default=0, init=False)
    promised: int = field(default=0, init=False)
    _idle: IdleNotifier = field(factory=IdleNotifier, init=False, repr=False)

    def wait(
        self,
        record: JobRecord,
        seconds: float,
        *,
        ack_is_enough: bool = False,
        takes_state: bool = False,
        is_poll: bool = False,
    ) -> Deferred[JobRecord]:
        """Hold a client; a job can have any number of clients.

        :param seconds: the time until the deadline.
        :param ack_is_enough: whether to fire as soon as there is an ack.
        :param takes_state: whether to fire at the deadline with the record of a job that has not
            ended, unless it is unconfirmed. The client can ask for the result later, so the job
            runs unattended from then on.
        :param is_poll: whether the client only asks about the job: at its deadline it gets the
            record in any state, and it is no reason to start the job.
        :return: fires with the record when it has a result, or fails with a :class:`ProblemError`.
            Cancel it when the client has left.
        """
        if record.problem is not None:
            return fail(ProblemError(record.problem))
        if record.result is not None:
            if record.is_orphan:
                record.is_orphan = False
                self._retention.move(record, self._retention.outcomes)
            return succeed(record)
        if ack_is_enough and record.ack is not None:
            record.runs_unattended = True
            return succeed(record)
        self._retention.move(record, None)
        waiter = Waiter(
            record,
            self._clock,
            seconds,
            self._leave,
            self._expire,
            ack_is_enough=ack_is_enough,
            takes_state=takes_state,
            is_poll=is_poll,
        )
        record.waiters[waiter] = None
        record.reasons += not is_poll
        self.held += 1
        return waiter.deferred

    def dismiss(self, waiter: Waiter) -> Deferred[JobRecord]:
        """Remove a client from its job.

        :return: the client's Deferred, for :meth:`fire`. Its callbacks may ask for the job again.
        """
        record = waiter.record
        del record.waiters[waiter]
        record.reasons -= not waiter.is_poll
        waiter.deadline.cancel()
        self.held -= 1
        may_end_later = record.runs_unattended or record.state is not State.QUEUED
        if may_end_later and not record.waiters and not record.is_ended:
            self._retention.move(record, self._retention.unattended)
        deferred = waiter.deferred
        del waiter.deferred
        return deferred

    def fire(
        self, deferreds: Sequence[Deferred[JobRecord]], record: JobRecord, problem: Problem | None
    ) -> None:
        """Fire the Deferreds of dismissed clients with the record, or fail them."""
        for deferred in deferreds:
            if problem is None:
                deferred.callback(record)
            else:
                deferred.errback(ProblemError(problem))
        self.notify_idle()

    def fail_all(self, record: JobRecord, problem: Problem) -> None:
        """Fail the Deferreds of all clients of a job with a problem."""
        self.fire([self.dismiss(waiter) for waiter in [*record.waiters]], record, problem)

    def shorten(self, record: JobRecord, seconds: float) -> None:
        """Bring the deadlines of all clients forward; earlier ones do not change.

        :param seconds: the time from now until the new deadline.
        """
        at = self._clock.seconds() + seconds
        for waiter in record.waiters:
            waiter.deadline.bring_forward(at)

    def fire_acknowledged(self, record: JobRecord) -> None:
        """Fire the Deferreds of the clients to which an ack is enough."""
        ready = [waiter for waiter in record.waiters if waiter.ack_is_enough]
        record.runs_unattended |= bool(ready)
        self.fire([self.dismiss(waiter) for waiter in ready], record, None)

    def count_promise(self, record: JobRecord) -> None:
        """Count a job that runs unattended, or does not any more, if that is to be counted."""
        is_promised = record.runs_unattended and record.state is State.QUEUED
        self.promised += is_promised - record.is_promised
        record.is_promised = is_promised

    def _may_promise(self, record: JobRecord) -> bool:
        """Whether a client may be told that a job will run, although it is not there to see."""
        if record.state is State.QUEUED:
            return record.is_promised or self.promised < self._max_promised
        return record.state is not State.UNCONFIRMED

    def when_idle(self) -> Deferred[None]:
        """Return a Deferred that fires once no client is held."""
        return self._idle.wait(is_idle=not self.held)

    def notify_idle(self) -> None:
        """Fire the Deferreds of :meth:`when_idle`, if no client is held."""
        if not self.held:
            self._idle.notify()

    def _leave(self, waiter: Waiter) -> None:
        record = waiter.record
        self.dismiss(waiter)
        if record.state is State.QUEUED and not record.is_wanted:
            if record.waiters:
                self._fail(record, job_problems.time_is_up(record))
            else:
                self._forget(record)
        if not record.is_ended:
            self._observer.client_left(record)
        self.notify_idle()

    def _expire(self, waiter: Waiter) -> None:
        record = waiter.record
        takes_state = waiter.takes_state and self._may_promise(record)
        if takes_state:
            record.runs_unattended = True
            self.count_promise(record)
        deferred = self.dismiss(waiter)
        problem = job_problems.time_is_up(record)
        if not (waiter.is_poll or record.is_wanted):
            record.overdue = self._clock.seconds()
            if record.state is State.QUEUED:
                self._fail(record, problem)
        is_open = record.problem is None
        if is_open and not waiter.is_poll:
            self._observer.client_timed_out(record)
        if is_open and (waiter.is_poll or takes_state):
            deferred.callback(record)
        else:
            deferred.errback(ProblemError(job_problems.for_one_of_many(record, problem)))
        self.notify_idle()
