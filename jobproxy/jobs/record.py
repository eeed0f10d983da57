"""The rows of the correlation table: what is known of a job, and who waits for it."""

import math
from collections.abc import Callable
from enum import Enum

from attrs import define, field, frozen
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from jobproxy.util.deadline import Deadline
from jobproxy.util.expiring_map import ExpiringMap
from jobproxy.wire.jobs import Report
from jobproxy.wire.problems import CallbackConflict, Problem, Started, StartUnknown, WaitOver

_log = Logger()


class State(Enum):
    """How far a job has come."""

    QUEUED = "queued"
    STARTING = "starting"
    RUNNING = "running"
    #: The start may have reached the job server, although no usable ack came back.
    UNCONFIRMED = "unconfirmed"
    #: There is an outcome.
    ENDED = "ended"


class Delivery(Enum):
    """What became of a callback that is ours."""

    ACCEPTED = "accepted"
    PROGRESS = "progress"
    #: The job has its result already.
    DUPLICATE = "duplicate"
    #: Its deadline has passed, or nothing is known of it any more; the result is kept.
    LATE = "late"
    #: It names no job by its token, and its id is not known (yet); it is kept.
    PARKED = "parked"


@frozen
class Origin:
    """The request that a job came with.

    :param traceparent: of the trace that it belongs to.
    :param account: whose job it is, if that may be shown.
    """

    request_id: bytes = b""
    traceparent: bytes | None = None
    account: str | None = None


NO_ORIGIN = Origin()


@define(eq=False)
class JobRecord:
    """What is known of one job; changed by the correlation table alone.

    :ivar created: when it was asked for; like all times here, seconds on a monotonic clock.
    :ivar key_digest: another name of the job, by which a client can ask for it again.
    :ivar request_digest: what has to be the same whenever the alias is used.
    :ivar origin: by what the log knows it.
    :ivar cancel_start: ends what is under way to start the job, where that can be ended safely.
    :ivar runs_unattended: whether the job goes on without anybody waiting, and its result is kept.
    :ivar starts: how many start calls may have reached the job server.
    :ivar upstream_id: the job server's id of the job, once it is known.
    :ivar ack: the answer to the start, until there is an outcome.
    :ivar outcome: the job's result, or why it was not started.
    :ivar sent: when the first start call was begun.
    :ivar acked: when a usable ack came.
    :ivar heard: when the job server last said something of the job.
    :ivar ended: when the outcome was known.
    :ivar overdue: when the last client that waited had to be told that it took too long.
    :ivar kept_in: where it is kept while nobody waits.
    """

    job_id: str
    created: float
    key_digest: bytes | None = None
    request_digest: bytes = b""
    cancel_start: Callable[[], object] | None = None
    runs_unattended: bool = False
    state: State = State.QUEUED
    starts: int = 0
    upstream_id: str | None = None
    ack: Report | None = None
    outcome: Report | Problem | None = None
    sent: float | None = None
    acked: float | None = None
    heard: float | None = None
    ended: float | None = None
    overdue: float | None = None
    waiters: tuple["Waiter", ...] = ()
    kept_in: ExpiringMap["JobRecord"] | None = field(default=None, repr=False)
    origin: Origin = NO_ORIGIN

    @property
    def names(self) -> dict[str, str]:
        """The fields by which a log event says which job it is about."""
        names = {"job": self.job_id}
        if self.origin.request_id:
            names["request_id"] = self.origin.request_id.decode()
        if self.origin.traceparent is not None:
            names["trace_id"] = self.origin.traceparent[3:35].decode()
        if self.origin.account is not None:
            names["account"] = self.origin.account
        return names

    @property
    def result(self) -> Report | None:
        """The job's result, once there is one."""
        return self.outcome if isinstance(self.outcome, Report) else None

    @property
    def started(self) -> Started:
        """Whether the job was started on the job server, as far as it is known."""
        if self.acked is not None or self.result is not None:
            return "yes"
        return "unknown" if self.starts else "no"

    @property
    def wanted_until(self) -> float:
        """When nobody will want the job to be started any more."""
        if self.runs_unattended:
            return math.inf
        deadlines = (waiter.deadline.at for waiter in self.waiters if not waiter.is_poll)
        return max(deadlines, default=0.0)

    @property
    def is_wanted(self) -> bool:
        """Whether there is a reason to start the job."""
        return self.runs_unattended or any(not waiter.is_poll for waiter in self.waiters)

    def mark(self, problem: Problem) -> Problem:
        """Have a problem say which job it is about."""
        problem.job, problem.upstream_id = self.job_id, self.upstream_id
        return problem

    def overrun(self) -> Problem:
        """Return what is told to somebody who has waited for too long."""
        if self.started == "unknown":
            problem: Problem = StartUnknown(
                "The job server did not confirm the start, and no callback came; "
                "the job may run or may have run."
            )
        elif self.started == "no":
            problem = WaitOver(
                "The job was not started in time: others of its account came first, or the job "
                "server was busy.",
                retry_after=1,
            )
        else:
            problem = WaitOver("The job was started, but its callback did not come in time.")
        problem.started = self.started
        return self.mark(problem)

    def check_id(self, report: Report) -> None:
        """Look whether a callback can be about this job.

        :raises CallbackConflict: if it names another job than the ack did.
        """
        known, told = self.upstream_id, report.upstream_id
        # The ids of a job that was started again can both be right.
        if self.starts < 2 and known is not None and told is not None and known != told:
            _log.error("job {job} got a callback about another id", **self.names)
            raise CallbackConflict("The id is not the one that the start of this job was given.")

    def compare(self, report: Report) -> Delivery:
        """Tell what a second result of the job means.

        :raises CallbackConflict: if it is not the first one once more.
        """
        if self.result is None or report.body != self.result.body:
            if self.starts < 2:
                _log.error("job {job} got a second result, unlike its first", **self.names)
                raise CallbackConflict("The job has another result already.")
            _log.warn("job {job} was started again, and both have ended", **self.names)
        return Delivery.DUPLICATE


@define(eq=False)
class Waiter:
    """Somebody who waits for a job.

    :ivar until: :attr:`State.RUNNING` if the ack is enough.
    :ivar takes_state: whether it wants to be told of the job's state at its deadline, and not of a
        problem.
    :ivar is_poll: whether it only looks how the job goes, and has no part in it.
    :ivar deadline: when it is answered whatever happens.
    """

    record: JobRecord
    until: State
    takes_state: bool
    is_poll: bool
    answered: Deferred[JobRecord] = field(init=False)
    deadline: Deadline = field(init=False)
