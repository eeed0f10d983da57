"""A model of the correlation table: what it should know, and which response each client should get.

It is written without deadlines on a clock, retention maps or state machine: a test that lets the
same events happen to both compares them.
"""

from enum import Enum
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from jobproxy.jobs.delivery import Delivery
from jobproxy.jobs.record import JobRecord
from jobproxy.wire.problems import ProblemError
from jobproxy.wire.reports import Report

RETAIN = 20
LIFETIME = 40
KEY_LIFE = 30


class Kind(Enum):
    """What a client asks for."""

    HELD = "held"
    #: The ack, or else the state at the deadline.
    ASYNC = "async"
    #: The result, or else the state at the deadline.
    PATIENT = "patient"
    POLL = "poll"


#: The arguments of ``wait`` for each kind of client.
ARGUMENTS: dict[Kind, dict[str, Any]] = {
    Kind.HELD: {},
    Kind.ASYNC: {"ack_is_enough": True, "takes_state": True},
    Kind.PATIENT: {"takes_state": True},
    Kind.POLL: {"is_poll": True},
}


@define(eq=False)
class Waiting:
    """A client that waits: the responses that it got, and those that it should have got."""

    job: "Job"
    kind: Kind
    deadline: float
    fired: Deferred[JobRecord] = field(init=False)
    responses: list[str] = field(factory=list)
    expected: list[str] = field(factory=list)


@define(eq=False)
class Job:
    """What should be known of a job.

    :ivar is_calling: whether a start request is under way.
    :ivar has_ack: whether an ack came, and there is no outcome yet.
    :ivar problem: what every client gets if the job could not be started.
    :ivar kept_until: when it is forgotten if no client asks for it until then.
    :ivar can_cancel: whether its start can be cancelled.
    """

    job_id: str
    record: JobRecord | None = None
    key_digest: bytes | None = None
    runs_unattended: bool = False
    state: str = "queued"
    is_calling: bool = False
    starts: int = 0
    has_ack: bool = False
    was_acked: bool = False
    upstream_id: str | None = None
    body: bytes | None = None
    problem: str | None = None
    is_overdue: bool = False
    is_orphan: bool = False
    kept_until: float | None = None
    waiting: list[Waiting] = field(factory=list)
    can_cancel: bool = True
    cancelled: int = 0
    expected_cancelled: int = 0

    @property
    def started(self) -> str:
        if self.was_acked or self.body is not None:
            return "yes"
        return "unknown" if self.starts else "no"

    @property
    def is_unstarted(self) -> bool:
        failed_unstarted = self.body is None and (self.problem or "").endswith(" no")
        return failed_unstarted or self.started == "no"

    @property
    def outcome(self) -> str | None:
        return self.problem if self.body is None else self.body.decode()

    @property
    def is_wanted(self) -> bool:
        return self.runs_unattended or any(
            waiting.kind is not Kind.POLL for waiting in self.waiting
        )

    def cancel_start(self) -> None:
        self.cancelled += 1

    def describe_state(self) -> str:
        return f"{self.state} {'with' if self.has_ack else 'without'} ack"


def describe(response: Any) -> str:
    """Return in a few words what a client got."""
    if isinstance(response, Failure):
        error = response.value
        if isinstance(error, ProblemError):
            return f"{error.problem.slug} {error.problem.started}"
        return f"{type(error).__name__} -"
    if response.result is not None:
        body: str = response.result.body.decode()
        return body
    return f"{response.state.word} {'with' if response.ack else 'without'} ack"


@define(eq=False)
class Model:
    """What the table should know, as sets and lists.

    :ivar known: the jobs that have a record, by job id.
    :ivar by_key: the latest job of each key digest.
    :ivar tombstones: the job ids of forgotten jobs by key digest, and how long they are known.
    :ivar orphans: the jobs whose result is an orphan, the oldest first.
    :ivar jobs: every job that there ever was.
    :ivar clients: every client that ever waited.
    :ivar expects_idle: of each that waits for no client to be held, whether it should have fired.
    """

    clock: Clock
    known: dict[str, Job] = field(factory=dict)
    by_key: dict[bytes, Job] = field(factory=dict)
    tombstones: dict[bytes, tuple[str, float]] = field(factory=dict)
    orphans: list[Job] = field(factory=list)
    jobs: list[Job] = field(factory=list)
    clients: list[Waiting] = field(factory=list)
    expects_idle: list[bool] = field(factory=list)

    @property
    def held(self) -> int:
        return sum(not waiting.expected for waiting in self.clients)

    def add(self, job: Job) -> Job:
        self.jobs.append(job)
        self.known[job.job_id] = job
        if job.key_digest is not None:
            self.by_key[job.key_digest] = job
            self.tombstones.pop(job.key_digest, None)
        return job

    def find_key(self, key_digest: bytes) -> Job | None:
        """Return the job that a client with this key would join."""
        job_id, _ = self.tombstones.get(key_digest, ("", 0))
        if job_id in self.known:
            # Its callback came after it was forgotten.
            del self.tombstones[key_digest]
            self.by_key[key_digest] = self.known[job_id]
            self.known[job_id].key_digest = key_digest
        job = self.by_key.get(key_digest)
        return None if job is None or (job.outcome is not None and job.is_unstarted) else job

    def hold(self, waiting: Waiting) -> None:
        """Add a client."""
        job = waiting.job
        self.clients.append(waiting)
        if job.outcome is not None:
            waiting.expected.append(job.outcome)
            if job.is_orphan:
                self.collect(job)
        elif waiting.kind is Kind.ASYNC and job.has_ack:
            job.runs_unattended = True
            waiting.expected.append(job.describe_state())
        else:
            job.waiting.append(waiting)
            job.waiting.sort(key=lambda waiting: waiting.deadline)
            job.kept_until = None

    def leave(self, waiting: Waiting) -> None:
        """Remove a client whose Deferred was cancelled."""
        job = waiting.job
        self.respond(waiting, "CancelledError -")
        if job.state == "queued" and not job.is_wanted:
            if job.waiting:
                self.end(job, problem="wait-over no")
            else:
                self.forget(job)

    def continues(self, job: Job) -> bool:
        return self.known.get(job.job_id) is job and job.outcome is None

    def send(self, job: Job) -> None:
        """Send a start request."""
        job.is_calling, job.can_cancel = True, False
        if self.continues(job):
            job.state = "starting"
            job.starts += 1

    def end_start(self, job: Job, end: str, upstream_id: str | None, grace: int) -> None:
        """End the start request that is under way: by ``ack``, ``doubt``, ``conclude``, …"""
        if end == "ack":
            job.state, job.has_ack, job.was_acked = "running", True, True
            job.upstream_id = upstream_id or job.upstream_id
            for waiting in list(job.waiting):
                if waiting.kind is Kind.ASYNC:
                    job.runs_unattended = True
                    self.respond(waiting, job.describe_state())
        elif end == "doubt":
            job.state = "running" if job.was_acked else "unconfirmed"
            self.shorten(job, grace)
        elif end == "conclude":
            job.upstream_id = upstream_id or job.upstream_id
            self.end(job, body=b"{}")
        else:
            job.starts -= 1
            states = {"no": "queued", "unknown": "unconfirmed", "yes": "running"}
            job.state = states[job.started]

    def shorten(self, job: Job, seconds: int) -> None:
        for waiting in job.waiting:
            waiting.deadline = min(waiting.deadline, self.clock.seconds() + seconds)

    def judge(self, job: Job | None, report: Report) -> Delivery | None:
        """Return what a callback is; :data:`None` if it is refused."""
        if job is None:
            return Delivery.LATE
        if (
            job.starts < 2
            and job.upstream_id
            and report.upstream_id
            and job.upstream_id != report.upstream_id
        ):
            return None
        if report.is_progress:
            return Delivery.PROGRESS
        if job.body is not None:
            is_same = job.body == report.body or job.starts > 1
            return Delivery.DUPLICATE if is_same else Delivery.CONFLICT
        is_late = (job.is_overdue or job.problem is not None) and not job.waiting
        return Delivery.LATE if is_late else Delivery.ACCEPTED

    def pass_time(self) -> None:
        """Forget the jobs and end the waits whose time has come."""
        now = self.clock.seconds()
        for key_digest, (_, until) in list(self.tombstones.items()):
            if until <= now:
                del self.tombstones[key_digest]
        for job in list(self.known.values()):
            if job.kept_until is not None and job.kept_until <= now:
                self.forget(job)
            for waiting in list(job.waiting):
                if waiting in job.waiting and waiting.deadline <= now:
                    self.expire(waiting)

    def respond(self, waiting: Waiting, expected: str) -> None:
        """Expect a response to a client, and forget its job some time if it was the last one."""
        job = waiting.job
        waiting.expected.append(expected)
        job.waiting.remove(waiting)
        if job.state != "ended" and not job.waiting and job.kept_until is None:
            job.kept_until = self.clock.seconds() + LIFETIME
        if not self.held:
            self.expects_idle = [True] * len(self.expects_idle)

    def expire(self, waiting: Waiting) -> None:
        """End the wait of a client at its deadline."""
        job, kind = waiting.job, waiting.kind
        problem = "start-unknown" if job.started == "unknown" else "wait-over"
        others = [
            other for other in job.waiting if other is not waiting and other.kind is not Kind.POLL
        ]
        is_async = kind in {Kind.ASYNC, Kind.PATIENT}
        job.runs_unattended |= is_async and job.state != "unconfirmed"
        is_wanted = job.runs_unattended or others
        started = "unknown" if is_wanted and job.started == "no" else job.started
        ends = job.state == "queued" and not (is_wanted or kind is Kind.POLL)
        takes_state = kind is Kind.POLL or (kind is not Kind.HELD and job.state != "unconfirmed")
        gets_state = takes_state and not ends
        self.respond(waiting, job.describe_state() if gets_state else f"{problem} {started}")
        job.is_overdue |= not (is_wanted or kind is Kind.POLL)
        if ends:
            self.end(job, problem=f"{problem} {started}")

    def end(self, job: Job, *, body: bytes | None = None, problem: str | None = None) -> None:
        if body is not None and not job.waiting and not job.runs_unattended:
            job.is_orphan = True
            self.orphans.append(job)
        job.state, job.body, job.has_ack = "ended", body, False
        job.problem = problem or job.problem
        assert job.outcome is not None
        for waiting in list(job.waiting):
            self.respond(waiting, job.outcome)
        self.expect_cancelled(job)
        job.kept_until = self.clock.seconds() + RETAIN

    def collect(self, job: Job) -> None:
        """Give an orphan to a client."""
        job.is_orphan = False
        self.orphans.remove(job)
        job.kept_until = self.clock.seconds() + RETAIN

    def expect_cancelled(self, job: Job) -> None:
        job.expected_cancelled += job.can_cancel
        job.can_cancel = False

    def forget(self, job: Job) -> None:
        del self.known[job.job_id]
        if job.key_digest is not None and self.by_key.get(job.key_digest) is job:
            del self.by_key[job.key_digest]
            if not job.is_unstarted:
                until = self.clock.seconds() + KEY_LIFE
                self.tombstones[job.key_digest] = (job.job_id, until)
        if job.is_orphan:
            self.orphans.remove(job)
        self.expect_cancelled(job)
