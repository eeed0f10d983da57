"""The job record: all that is known of one job."""

import math
from collections.abc import Callable

from attrs import define, field, frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from jobproxy.jobs.states import ENDED, TRANSITIONS, Event, IllegalTransition, State
from jobproxy.util.deadline import Deadline
from jobproxy.util.expiring_map import ExpiringMap
from jobproxy.wire.problems import Problem, Started
from jobproxy.wire.reports import Report


@frozen
class Origin:
    """The request that the job came in, for the log.

    :param traceparent: the header of its trace, if it has one.
    :param account: the job's account; :data:`None` if it must not be shown.
    """

    request_id: bytes = b""
    traceparent: bytes | None = None
    account: str | None = None


NO_ORIGIN = Origin()


@define(eq=False)
class JobRecord:
    """What is known of one job; only the correlation table and its parts change it.

    All times are in seconds on a monotonic clock.

    :ivar created: when the record was created.
    :ivar key_digest: of the account's Idempotency-Key.
    :ivar request_digest: of the request that the key belongs to.
    :ivar cancel_start: stops the start of the job; :data:`None` while that would not be safe.
    :ivar origin: the request of the job.
    :ivar account: of the job, for its share of what is kept; empty if it is not known.
    :ivar profile: by which the job server is spoken to; empty: the built-in one.
    :ivar runs_unattended: whether the job is started, and its result kept, without any client.
    :ivar is_promised: whether a client was told 202, and the job is queued all the same.
    :ivar is_copy: whether another node has the job, which counts it.
    :ivar starts: how many start requests may have reached the job server.
    :ivar failed_starts: when the last start requests failed, and how.
    :ivar ack: the ack, until the job ends.
    :ivar ack_bytes: what it takes in memory.
    :ivar result: the callback or ack that ended the job.
    :ivar problem: why there is no result.
    :ivar sent: when the first start request was sent.
    :ivar acked: when a usable ack came.
    :ivar last_report: when the last ack or callback about the job came.
    :ivar ended: when the result or the problem came.
    :ivar overdue: when the deadline of the last client passed.
    :ivar is_orphan: whether the result came when no client waited, and none has got it since.
    :ivar waiters: the clients, in the order in which they came.
    :ivar reasons: how many of them are a reason to start the job.
    :ivar kept_in: the map of the retention that holds the record while no client waits.
    """

    job_id: str
    created: float
    key_digest: bytes | None = None
    request_digest: bytes = b""
    cancel_start: Callable[[], object] | None = None
    origin: Origin = NO_ORIGIN
    account: str = field(default="", repr=False)
    profile: str = ""
    state: State = field(default=State.QUEUED, init=False)
    runs_unattended: bool = field(default=False, init=False)
    is_promised: bool = field(default=False, init=False)
    is_copy: bool = field(default=False, init=False)
    starts: int = field(default=0, init=False)
    failed_starts: tuple[tuple[float, str], ...] = field(default=(), init=False)
    upstream_id: str | None = field(default=None, init=False)
    ack: Report | None = field(default=None, init=False)
    ack_bytes: int = field(default=0, init=False)
    result: Report | None = field(default=None, init=False)
    problem: Problem | None = field(default=None, init=False)
    sent: float | None = field(default=None, init=False)
    acked: float | None = field(default=None, init=False)
    last_report: float | None = field(default=None, init=False)
    ended: float | None = field(default=None, init=False)
    overdue: float | None = field(default=None, init=False)
    is_orphan: bool = field(default=False, init=False)
    waiters: dict["Waiter", None] = field(factory=dict, init=False)
    reasons: int = field(default=0, init=False)
    kept_in: ExpiringMap["JobRecord"] | None = field(default=None, init=False, repr=False)

    def on(self, event: Event) -> None:
        """Change the state.

        :raises IllegalTransition: if the state does not accept the event.
        """
        try:
            self.state = TRANSITIONS[self.state][event]
        except KeyError:
            raise IllegalTransition(f"{event.value} while {self.state.name}") from None

    @property
    def is_ended(self) -> bool:
        """Whether the job has a result or a problem, or is forgotten."""
        return self.state in ENDED

    @property
    def outcome(self) -> str | None:
        """``result``, or the name of the problem; :data:`None`: there is neither."""
        if self.result is not None:
            return "result"
        return None if self.problem is None else self.problem.slug

    @property
    def started(self) -> Started:
        """Whether the job was started on the job server, as far as it is known."""
        if self.acked is not None or self.result is not None:
            return "yes"
        return "unknown" if self.starts else "no"

    @property
    def is_unstarted(self) -> bool:
        """Whether the job certainly was not started, so that its key may start another one."""
        if self.problem is not None and self.problem.started == "no":
            return self.result is None
        return self.started == "no"

    @property
    def may_be_asked_for(self) -> bool:
        """Whether a client can ask for the result later: it has a key, or knows the job id."""
        return bool(self.key_digest or self.runs_unattended or self.overdue is not None)

    @property
    def is_wanted(self) -> bool:
        """Whether there is a reason to start the job."""
        return self.runs_unattended or self.reasons > 0

    @property
    def wanted_until(self) -> float:
        """The time after which there is no reason to start the job, in seconds on the clock."""
        if self.runs_unattended:
            return math.inf
        deadlines = [waiter.deadline.at for waiter in self.waiters if not waiter.is_poll]
        return max(deadlines, default=0.0)

    @property
    def log_fields(self) -> dict[str, str]:
        """The fields of a log event that identify the job."""
        fields = {"job": self.job_id}
        if self.profile:
            fields["profile"] = self.profile
        if self.origin.request_id:
            fields["request_id"] = self.origin.request_id.decode()
        if self.origin.traceparent is not None:
            fields["trace_id"] = self.origin.traceparent[3:35].decode()
        if self.origin.account is not None:
            fields["account"] = self.origin.account
        return fields


class Waiter:
    """A client that waits for a job.

    It, its Deferred and its deadline refer to each other. The table breaks this cycle when it
    dismisses the waiter; otherwise only the garbage collector could free them.

    :param seconds: the time until the deadline.
    :param leave: is called with the waiter when its Deferred is cancelled.
    :param expire: is called with the waiter at its deadline.
    :ivar ack_is_enough: whether ``deferred`` fires as soon as there is an ack.
    :ivar takes_state: whether ``deferred`` fires at the deadline, and does not fail.
    :ivar is_poll: whether the client only asks about the job, and is no reason to start it.
    :ivar deferred: fires with the record, or fails with a :class:`ProblemError`.
    :ivar deadline: when ``deferred`` fires or fails in any case.
    """

    __slots__ = ("ack_is_enough", "deadline", "deferred", "is_poll", "record", "takes_state")

    def __init__(
        self,
        record: JobRecord,
        clock: IReactorTime,
        seconds: float,
        leave: Callable[["Waiter"], None],
        expire: Callable[["Waiter"], None],
        *,
        ack_is_enough: bool,
        takes_state: bool,
        is_poll: bool,
    ) -> None:
        self.record = record
        self.ack_is_enough = ack_is_enough
        self.takes_state = takes_state
        self.is_poll = is_poll
        self.deferred: Deferred[JobRecord] = Deferred(lambda _: leave(self))
        self.deadline = Deadline(clock, seconds, lambda: expire(self))
