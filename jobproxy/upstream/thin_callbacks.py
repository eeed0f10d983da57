"""Thin callbacks: they say only that a job has ended, and get their response once it has a result.

Until then the job server must not be told that its callback was accepted: it would not send it
again, whatever became of this process.
"""

from collections.abc import Callable
from typing import Any

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.internet.defer import TimeoutError as DeferredTimeoutError
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger, LogLevel
from twisted.python.failure import Failure

from jobproxy.jobs import job_problems
from jobproxy.jobs.delivery import Delivery
from jobproxy.jobs.record import JobRecord
from jobproxy.profiles.messages import Message
from jobproxy.util.idle import IdleNotifier
from jobproxy.wire.problems import Kind, Problem, ProblemError
from jobproxy.wire.reports import Report

_log = Logger()

#: Seconds until a thin callback is told to come again; few senders wait less than five.
RESPONSE_TIME = 4.0
NOT_YET = Problem(
    Kind.UPSTREAM_UNREACHABLE,
    "The result of this job is still being fetched; send the callback again.",
    started="yes",
    retry_after=5,
)

Fetch = Callable[[JobRecord, Message], Deferred[Report]]
Deliver = Callable[[Report], "Delivery | Deferred[Delivery]"]


@define(eq=False)
class ThinCallback:
    """All thin callbacks of one job that have no response yet.

    :param message: the first of them.
    :param deliver: is called with the result.
    :ivar working: fetches and delivers the result; :data:`None`: the ack has to come first.
    :ivar waiting: fire with what became of it.
    """

    record: JobRecord
    message: Message
    deliver: Deliver
    working: Deferred[Any] | None = field(default=None, init=False)
    waiting: list[Deferred[Delivery]] = field(factory=list, init=False)


@define(eq=False)
class ThinCallbacks:
    """Fetches a job's result once, however often its thin callback comes.

    :param fetch: returns the result that a thin callback has announced.
    :param read: returns what a thin callback itself says.
    :ivar is_stopped: whether nothing is fetched any more.
    """

    _clock: IReactorTime
    _fetch: Fetch
    _read: Callable[[Message], Report]
    _open: dict[str, ThinCallback] = field(factory=dict, init=False, repr=False)
    _idle: IdleNotifier = field(factory=IdleNotifier, init=False, repr=False)
    is_stopped: bool = field(default=False, init=False)

    def __len__(self) -> int:
        """Return how many jobs have a thin callback without a response."""
        return len(self._open)

    def is_fetching(self, record: JobRecord) -> bool:
        """Whether a job has ended, and its result is not here yet."""
        return record.job_id in self._open

    def receive(
        self, record: JobRecord, message: Message, deliver: Deliver, *, is_early: bool
    ) -> Deferred[Delivery]:
        """Receive a thin callback.

        :param is_early: whether the ack has to come first: :meth:`begin` or :meth:`settle` follows.
        :return: fires once the result is delivered; fails with a :class:`ProblemError` if that
            takes long, so that the callback is sent again.
        """
        if self.is_stopped:
            raise ProblemError(job_problems.stopped(record))
        thin = self._open.get(record.job_id)
        if thin is None:
            thin = self._open[record.job_id] = ThinCallback(record, message, deliver)
        waiting: Deferred[Delivery] = Deferred(thin.waiting.remove)
        thin.waiting.append(waiting)
        if not is_early:
            self.begin(record)
        return waiting.addTimeout(RESPONSE_TIME, self._clock).addErrback(_explain_timeout)

    def receive_parked(self, record: JobRecord, message: Message, deliver: Deliver) -> None:
        """Receive a thin callback that was told 200 before the job was known."""
        if not (self.is_stopped or self.is_fetching(record)):
            self._open[record.job_id] = ThinCallback(record, message, deliver)
            self.begin(record)

    def begin(self, record: JobRecord) -> None:
        """Fetch the result of a job if its thin callback has come."""
        thin = self._open.get(record.job_id)
        if thin is not None and thin.working is None:
            self._work(thin, self._fetch(record, thin.message))

    def settle(self, record: JobRecord) -> bool:
        """End a job with the thin callback that came before what is no ack, if there is one.

        :return: whether there was one.
        """
        thin = self._open.get(record.job_id)
        if thin is None or thin.working is not None:
            return False
        self._work(thin, maybeDeferred(self._read, thin.message))
        return True

    def when_idle(self) -> Deferred[None]:
        """Return a Deferred that fires once every thin callback has its response."""
        return self._idle.wait(is_idle=not self._open)

    def stop(self) -> None:
        """Give up all that is being fetched; the callbacks have to be sent again."""
        self.is_stopped = True
        for thin in list(self._open.values()):
            if thin.working is None:
                self._end(Failure(ProblemError(job_problems.stopped(thin.record))), thin)
            else:
                thin.working.cancel()

    def _work(self, thin: ThinCallback, fetching: Deferred[Report]) -> None:
        thin.working = working = fetching.addCallback(thin.deliver)
        working.addBoth(self._end, thin)

    def _end(self, outcome: Any, thin: ThinCallback) -> None:
        del self._open[thin.record.job_id]
        waiting, thin.waiting = thin.waiting, []
        if isinstance(outcome, Failure):
            problem = _find_problem(outcome, thin.record)
            for each in waiting:
                each.errback(ProblemError(problem))
        else:
            for each in waiting:
                each.callback(outcome)
        if not self._open:
            self._idle.notify()


def _find_problem(failure: Failure, record: JobRecord) -> Problem:
    """Return what the job server is told of a result that could not be delivered."""
    if isinstance(failure.value, ProblemError):
        # The store is away: the result is stored when it is back, if this process lives.
        _log.warn("the result of job {job} could not be stored yet", **record.log_fields)
        return failure.value.problem
    if failure.check(CancelledError):
        return job_problems.stopped(record)
    _log.failure(
        "the fetch of the result of job {job} crashed",
        failure,
        LogLevel.critical,
        **record.log_fields,
    )
    return NOT_YET


def _explain_timeout(failure: Failure) -> Failure:
    if failure.check(DeferredTimeoutError):
        raise ProblemError(NOT_YET) from None
    return failure
