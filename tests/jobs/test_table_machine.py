"""The correlation table under events in any order, beside a model that says what has to come."""

from enum import Enum
from typing import Any

from attrs import define, field
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from jobproxy.jobs.delivery import Delivery
from jobproxy.jobs.record import JobRecord
from jobproxy.jobs.table import CorrelationTable
from jobproxy.wire.jobs import Report
from jobproxy.wire.problems import Kind as ProblemKind
from jobproxy.wire.problems import Problem, ProblemError

RETAIN = 20
LIFETIME = 40
ALIASES = (None, b"one", b"two")
IDS = (None, "1", "2")
BODIES = (b"{}", b"{ }")
SLOTS = st.integers(0, 1)


class Kind(Enum):
    """On which terms somebody waits."""

    HELD = "held"
    #: Wants the ack, or else to be told of the state.
    ASYNC = "async"
    #: Wants the result, or else to be told of the state.
    PATIENT = "patient"
    POLL = "poll"


TERMS: dict[Kind, dict[str, Any]] = {
    Kind.HELD: {},
    Kind.ASYNC: {"ack_is_enough": True, "takes_state": True},
    Kind.PATIENT: {"takes_state": True},
    Kind.POLL: {"is_poll": True},
}


@define(eq=False)
class Waiting:
    """Somebody who waits: what it is told, and what it should be told."""

    job: "Job"
    kind: Kind
    deadline: float
    answered: Deferred[JobRecord] = field(init=False)
    told: list[str] = field(factory=list)
    expected: list[str] = field(factory=list)


@define(eq=False)
class Job:
    """What should be known of a job.

    :ivar is_calling: whether a start call is under way.
    :ivar has_ack: whether an ack came, and there is no outcome yet.
    :ivar failure: what everybody is told, if it could not be started.
    :ivar kept_until: when it is forgotten, if nobody comes until then.
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
    failure: str | None = None
    is_overdue: bool = False
    is_orphan: bool = False
    kept_until: float | None = None
    waiting: list[Waiting] = field(factory=list)
    can_withdraw: bool = True
    withdrawals: int = 0
    expected_withdrawals: int = 0

    @property
    def started(self) -> str:
        if self.was_acked or self.body is not None:
            return "yes"
        return "unknown" if self.starts else "no"

    @property
    def outcome(self) -> str | None:
        return self.failure if self.body is None else self.body.decode()

    @property
    def is_wanted(self) -> bool:
        return self.runs_unattended or any(
            waiting.kind is not Kind.POLL for waiting in self.waiting
        )

    def cancel_start(self) -> None:
        self.withdrawals += 1

    def tell_state(self) -> str:
        return f"{self.state} {'with' if self.has_ack else 'without'} ack"


def tell(response: Any) -> str:
    """Return in a few words what somebody was told."""
    if isinstance(response, Failure):
        error = response.value
        if isinstance(error, ProblemError):
            return f"{error.problem.slug} {error.problem.started}"
        return f"{type(error).__name__} -"
    if response.result is not None:
        body: str = response.result.body.decode()
        return body
    return f"{response.state.word} {'with' if response.ack else 'without'} ack"


class CorrelationMachine(RuleBasedStateMachine):
    """Jobs, clients, callbacks and time; the clock only stops at whole seconds."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.table = CorrelationTable(self.clock, RETAIN, lifetime=LIFETIME)
        #: The jobs that things happen to, and every job that there ever was.
        self.slots: dict[int, Job] = {}
        self.all_jobs: list[Job] = []
        #: What the table should know.
        self.known: dict[str, Job] = {}
        self.aliases: dict[bytes, Job] = {}
        self.orphans: list[Job] = []
        self.all_waiting: list[Waiting] = []
        self.idle: list[Deferred[None]] = []
        self.expects_idle: list[bool] = []

    # What clients do.

    @initialize()
    def fill(self) -> None:
        for slot in range(2):
            self.slots[slot] = self.register(ALIASES[slot], runs_unattended=False)
            self.hold(self.slots[slot], 30, Kind.HELD)

    @rule(
        slot=SLOTS,
        key_digest=st.sampled_from(ALIASES),
        runs_unattended=st.booleans(),
        seconds=st.integers(1, 30),
        kind=st.sampled_from(Kind),
    )
    def come(
        self,
        *,
        slot: int,
        key_digest: bytes | None,
        runs_unattended: bool,
        seconds: int,
        kind: Kind,
    ) -> None:
        """Have a client send a job, or ask for the one that is there."""
        job = self.slots.get(slot)
        if job is not None and job.job_id in self.known:
            job = self.known[job.job_id]
        elif (job is None or not job.is_calling) and kind is not Kind.POLL:
            job = self.slots[slot] = self.register(key_digest, runs_unattended)
        else:
            return
        self.hold(job, seconds, kind)

    def register(self, key_digest: bytes | None, runs_unattended: bool) -> Job:
        job = self.add_job(
            Job(str(len(self.all_jobs)), key_digest=key_digest, runs_unattended=runs_unattended)
        )
        if key_digest is not None:
            self.aliases[key_digest] = job
        job.record = self.table.create(
            job.job_id, job.cancel_start, key_digest=key_digest, request_digest=b"f"
        )
        job.record.runs_unattended = runs_unattended
        return job

    def add_job(self, job: Job) -> Job:
        self.all_jobs.append(job)
        self.known[job.job_id] = job
        return job

    def hold(self, job: Job, seconds: int, kind: Kind) -> None:
        waiting = Waiting(job, kind, self.clock.seconds() + seconds)
        self.all_waiting.append(waiting)
        record = self.table.find(job.job_id)
        assert record is not None
        waiting.answered = self.table.clients.wait(record, seconds, **TERMS[kind])
        waiting.answered.addBoth(lambda response: waiting.told.append(tell(response)))
        if job.outcome is not None:
            waiting.expected.append(job.outcome)
            if job.is_orphan:
                self.collect(job)
        elif kind is Kind.ASYNC and job.has_ack:
            job.runs_unattended = True
            waiting.expected.append(job.tell_state())
        else:
            job.waiting.append(waiting)
            job.waiting.sort(key=lambda waiting: waiting.deadline)
            job.kept_until = None

    @rule(slot=SLOTS, number=st.integers(0, 1))
    def leave(self, slot: int, number: int) -> None:
        job = self.slots.get(slot)
        if job is None or number >= len(job.waiting):
            return
        waiting = job.waiting[number]
        waiting.answered.cancel()
        self.respond(waiting, "CancelledError -")
        if job.state == "queued" and not job.is_wanted:
            if job.waiting:
                self.end(job, failure="wait-over no")
            else:
                self.forget(job)

    # What the job's start does.

    @rule(
        slot=SLOTS,
        end=st.sampled_from(("ack", "ack", "doubt", "retract", "conclude")),
        upstream_id=st.sampled_from(IDS),
        may_restart=st.booleans(),
        grace=st.integers(0, 5),
    )
    def start(
        self, *, slot: int, end: str, upstream_id: str | None, may_restart: bool, grace: int
    ) -> None:
        """Begin a start call, or end the one that is under way."""
        job = self.slots.get(slot)
        if job is None or job.record is None:
            return
        if not job.is_calling:
            self.begin(job, job.record)
            return
        job.is_calling = False
        cancel_start = job.cancel_start if may_restart else None
        if end == "ack":
            ack = Report(b'{"ack": 1}', upstream_id, "running")
            self.table.acknowledge(job.record, ack, cancel_start=cancel_start)
        elif end == "doubt":
            self.table.doubt(job.record, cancel_start=cancel_start)
            self.table.clients.shorten(job.record, grace)
        elif end == "conclude":
            self.table.conclude(job.record, Report(b"{}", upstream_id, "completed"))
        else:
            may_restart = True
            self.table.retract(job.record, job.cancel_start)
        if self.goes_on(job):
            job.can_withdraw = may_restart and end != "conclude"
            self.expect_end_of_call(job, end, upstream_id, grace)
        if job.state == "queued" and not job.is_wanted:
            self.crash(job, job.record)

    def begin(self, job: Job, record: JobRecord) -> None:
        if not job.can_withdraw:
            return
        self.table.send(record)
        job.is_calling, job.can_withdraw = True, False
        if self.goes_on(job):
            job.state = "starting"
            job.starts += 1

    def expect_end_of_call(self, job: Job, end: str, upstream_id: str | None, grace: int) -> None:
        if end == "ack":
            job.state, job.has_ack, job.was_acked = "running", True, True
            job.upstream_id = upstream_id or job.upstream_id
            for waiting in list(job.waiting):
                if waiting.kind is Kind.ASYNC:
                    job.runs_unattended = True
                    self.respond(waiting, job.tell_state())
        elif end == "doubt":
            job.state = "running" if job.was_acked else "unconfirmed"
            for waiting in job.waiting:
                waiting.deadline = min(waiting.deadline, self.clock.seconds() + grace)
        elif end == "conclude":
            job.upstream_id = upstream_id or job.upstream_id
            self.end(job, body=b"{}")
        else:
            job.starts -= 1
            states = {"no": "queued", "unknown": "unconfirmed", "yes": "running"}
            job.state = states[job.started]

    def goes_on(self, job: Job) -> bool:
        return self.known.get(job.job_id) is job and job.outcome is None

    # What the job server says.

    @rule(
        slot=SLOTS,
        upstream_id=st.sampled_from(IDS),
        body=st.sampled_from(BODIES),
        state=st.sampled_from((None, "completed", "failed", "no such word", "queued", "running")),
    )
    def call_back(
        self, *, slot: int, upstream_id: str | None, body: bytes, state: str | None
    ) -> None:
        if slot in self.slots:
            self.deliver(self.slots[slot].job_id, Report(body, upstream_id, state))

    def deliver(self, job_id: str, report: Report) -> None:
        expected = self.judge(self.known.get(job_id), report)
        if expected is None:
            assert self.table.complete(job_id, report).is_refused
            return
        assert self.table.complete(job_id, report) is expected
        if report.is_progress or expected is Delivery.DUPLICATE:
            return
        job = self.known.get(job_id) or self.add_job(Job(job_id, can_withdraw=False))
        job.upstream_id = report.upstream_id or job.upstream_id
        self.end(job, body=report.body)

    def judge(self, job: Job | None, report: Report) -> Delivery | None:
        """Return what a callback is answered; None if it is refused."""
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
            return Delivery.DUPLICATE if job.body == report.body or job.starts > 1 else None
        is_late = (job.is_overdue or job.failure is not None) and not job.waiting
        return Delivery.LATE if is_late else Delivery.ACCEPTED

    # What happens less often, and time.

    @rule(
        slot=SLOTS,
        what=st.sampled_from(("crash", "shorten", "drop", "be idle", "drain", "stop", "restart")),
    )
    def happen(self, slot: int, what: str) -> None:
        job = self.slots.get(slot)
        if what == "crash" and job is not None and job.record is not None:
            self.crash(job, job.record)
        elif what == "shorten" and job is not None and job.record is not None:
            self.table.clients.shorten(job.record, 2)
            for waiting in job.waiting:
                waiting.deadline = min(waiting.deadline, self.clock.seconds() + 2)
        elif what == "drop" and job is not None:
            self.table.drop_orphan(job.job_id)
            known = self.known.get(job.job_id)
            if known is not None and known.is_orphan:
                self.forget(known)
        elif what == "be idle":
            self.expects_idle.append(not self.held)
            self.idle.append(self.table.clients.when_idle())
        elif what == "drain":
            self.drain()
        elif what == "stop":
            self.stop()
        elif what == "restart":
            self.deliver(f"before {len(self.all_jobs)}", Report(b"{}", None, "completed"))

    def crash(self, job: Job, record: JobRecord) -> None:
        job.is_calling = False
        self.table.fail(record, Problem(ProblemKind.INTERNAL, "a bug"))
        if self.goes_on(job):
            self.end(job, failure="internal no")

    def drain(self) -> None:
        self.table.fail_queued(Problem(ProblemKind.DRAINING, "soon over"))
        for job in list(self.known.values()):
            if job.state == "queued":
                self.end(job, failure="draining no")

    def stop(self) -> None:
        self.table.startService()
        self.table.stopService()
        for job in list(self.known.values()):
            for waiting in list(job.waiting):
                self.respond(waiting, f"draining {job.started}")
            self.forget(job)
        assert self.clock.getDelayedCalls() == []

    @rule(seconds=st.sampled_from((1, 2, 3, 5, 10, RETAIN, LIFETIME)))
    def pass_time(self, seconds: int) -> None:
        for _ in range(seconds):
            self.clock.advance(1)
            for job in list(self.known.values()):
                if job.kept_until is not None and job.kept_until <= self.clock.seconds():
                    self.forget(job)
                for waiting in list(job.waiting):
                    if waiting in job.waiting and waiting.deadline <= self.clock.seconds():
                        self.expire(waiting)

    # What has to follow.

    @property
    def held(self) -> int:
        return sum(not waiting.expected for waiting in self.all_waiting)

    def respond(self, waiting: Waiting, expected: str) -> None:
        waiting.expected.append(expected)
        waiting.job.waiting.remove(waiting)
        self.settle(waiting.job)
        if not self.held:
            self.expects_idle = [True] * len(self.expects_idle)

    def settle(self, job: Job) -> None:
        """Have a job without an end be forgotten some time, once nobody waits for it."""
        if job.state != "ended" and not job.waiting and job.kept_until is None:
            job.kept_until = self.clock.seconds() + LIFETIME

    def expire(self, waiting: Waiting) -> None:
        job, kind = waiting.job, waiting.kind
        problem = "start-unknown" if job.started == "unknown" else "wait-over"
        others = [
            other for other in job.waiting if other is not waiting and other.kind is not Kind.POLL
        ]
        is_async = kind in {Kind.ASYNC, Kind.PATIENT}
        job.runs_unattended |= is_async and job.state != "unconfirmed"
        is_wanted = job.runs_unattended or others
        started = "unknown" if is_wanted and job.started == "no" else job.started
        told = f"{problem} {started}"
        ends = job.state == "queued" and not (is_wanted or kind is Kind.POLL)
        takes_state = kind is Kind.POLL or (kind is not Kind.HELD and job.state != "unconfirmed")
        self.respond(waiting, job.tell_state() if takes_state and not ends else told)
        job.is_overdue |= not (is_wanted or kind is Kind.POLL)
        if ends:
            self.end(job, failure=told)

    def end(self, job: Job, *, body: bytes | None = None, failure: str | None = None) -> None:
        if body is not None and not job.waiting and not job.runs_unattended:
            job.is_orphan = True
            self.orphans.append(job)
        job.state, job.body, job.has_ack = "ended", body, False
        job.failure = failure or job.failure
        assert job.outcome is not None
        for waiting in list(job.waiting):
            self.respond(waiting, job.outcome)
        self.expect_withdrawal(job)
        job.kept_until = self.clock.seconds() + RETAIN

    def collect(self, job: Job) -> None:
        """Have somebody get an orphan."""
        job.is_orphan = False
        self.orphans.remove(job)
        job.kept_until = self.clock.seconds() + RETAIN

    def expect_withdrawal(self, job: Job) -> None:
        job.expected_withdrawals += job.can_withdraw
        job.can_withdraw = False

    def forget(self, job: Job) -> None:
        del self.known[job.job_id]
        if job.key_digest is not None and self.aliases.get(job.key_digest) is job:
            del self.aliases[job.key_digest]
        if job.is_orphan:
            self.orphans.remove(job)
        self.expect_withdrawal(job)

    @invariant()
    def answers_each_client_once(self) -> None:
        assert self.table.clients.held == self.held
        for waiting in self.all_waiting:
            assert waiting.told == waiting.expected
            assert len(waiting.told) <= 1

    @invariant()
    def knows_what_it_should(self) -> None:
        assert len(self.table) == sum(job.outcome is None for job in self.known.values())
        assert self.table.retention.retained == sum(
            job.outcome is not None for job in self.known.values()
        )
        for job in self.all_jobs:
            known = self.known.get(job.job_id)
            record = self.table.find(job.job_id)
            assert (record is None) == (known is None)
            if record is not None and known is not None:
                assert record.state.word == known.state
                assert record.started == known.started
                assert (record.result and record.result.body) == known.body
                body = known.body if known.is_orphan else None
                assert self.table.retention.find_orphan(job.job_id) == body
            assert job.withdrawals == job.expected_withdrawals

    @invariant()
    def has_lists_and_names(self) -> None:
        assert [record.job_id for record in list(self.table.retention.orphans)] == [
            job.job_id for job in self.orphans
        ]
        for key_digest in filter(None, ALIASES):
            record, job = self.table.find_key(key_digest), self.aliases.get(key_digest)
            assert (record and record.job_id) == (job and job.job_id)

    @invariant()
    def tells_when_it_is_idle(self) -> None:
        assert [idle.called for idle in self.idle] == self.expects_idle

    def teardown(self) -> None:
        for _ in range(3):
            self.pass_time(LIFETIME)
            self.knows_what_it_should()
        assert len(self.table) == self.table.retention.retained == self.table.clients.held == 0
        assert self.clock.getDelayedCalls() == []
        self.answers_each_client_once()


CorrelationMachineTests = CorrelationMachine.TestCase
CorrelationMachineTests.settings = settings(max_examples=200)
