"""The correlation table under events in any order, compared with a model."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from jobproxy.jobs.delivery import Delivery
from jobproxy.jobs.record import JobRecord
from jobproxy.jobs.table import CorrelationTable
from jobproxy.wire.problems import Kind as ProblemKind
from jobproxy.wire.problems import Problem
from jobproxy.wire.reports import Report
from tests.support.table_model import (
    ARGUMENTS,
    KEY_LIFE,
    LIFETIME,
    RETAIN,
    Job,
    Kind,
    Model,
    Waiting,
    describe,
)

KEY_DIGESTS = (None, b"one", b"two")
UPSTREAM_IDS = (None, "1", "2")
BODIES = (b"{}", b"{ }")
#: Each event happens to one of two jobs.
NUMBERS = st.integers(0, 1)


class CorrelationMachine(RuleBasedStateMachine):
    """Jobs, clients, callbacks and time; the clock only stops at whole seconds."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.table = CorrelationTable(
            self.clock, RETAIN, lifetime=LIFETIME, key_life=KEY_LIFE, strict_ids=True
        )
        self.model = Model(self.clock)
        self.current: dict[int, Job] = {}
        self.idle: list[Deferred[None]] = []

    # What clients do.

    @initialize()
    def fill(self) -> None:
        for number in range(2):
            self.current[number] = self.create(KEY_DIGESTS[number], runs_unattended=False)
            self.hold(self.current[number], 30, Kind.HELD)

    @rule(
        number=NUMBERS,
        key_digest=st.sampled_from(KEY_DIGESTS),
        runs_unattended=st.booleans(),
        seconds=st.integers(1, 30),
        kind=st.sampled_from(Kind),
    )
    def submit(
        self,
        *,
        number: int,
        key_digest: bytes | None,
        runs_unattended: bool,
        seconds: int,
        kind: Kind,
    ) -> None:
        """Add a client, with a new job or with the one that is there."""
        job = self.current.get(number)
        if job is not None and job.job_id in self.model.known:
            job = self.model.known[job.job_id]
        elif (job is None or not job.is_calling) and kind is not Kind.POLL:
            job = self.current[number] = self.create(key_digest, runs_unattended)
        else:
            return
        self.hold(job, seconds, kind)

    def create(self, key_digest: bytes | None, runs_unattended: bool) -> Job:
        job_id = str(len(self.model.jobs))
        job = Job(job_id, key_digest=key_digest, runs_unattended=runs_unattended)
        self.model.add(job)
        job.record = self.table.create(
            job.job_id, job.cancel_start, key_digest=key_digest, request_digest=b"f"
        )
        job.record.runs_unattended = runs_unattended
        return job

    def hold(self, job: Job, seconds: int, kind: Kind) -> None:
        waiting = Waiting(job, kind, self.clock.seconds() + seconds)
        record = self.table.find(job.job_id)
        assert record is not None
        waiting.fired = self.table.clients.wait(record, seconds, **ARGUMENTS[kind])
        waiting.fired.addBoth(lambda response: waiting.responses.append(describe(response)))
        self.model.hold(waiting)

    @rule(number=NUMBERS, turn=st.integers(0, 1))
    def leave(self, number: int, turn: int) -> None:
        job = self.current.get(number)
        if job is None or turn >= len(job.waiting):
            return
        waiting = job.waiting[turn]
        waiting.fired.cancel()
        self.model.leave(waiting)

    # What start requests do.

    @rule(
        number=NUMBERS,
        end=st.sampled_from(("ack", "ack", "doubt", "retract", "conclude")),
        upstream_id=st.sampled_from(UPSTREAM_IDS),
        may_restart=st.booleans(),
        grace=st.integers(0, 5),
    )
    def start(
        self, *, number: int, end: str, upstream_id: str | None, may_restart: bool, grace: int
    ) -> None:
        """Send a start request, or end the one that is under way."""
        job = self.current.get(number)
        if job is None or job.record is None:
            return
        if not job.is_calling:
            if job.can_cancel:
                self.table.send(job.record)
                self.model.send(job)
            return
        job.is_calling = False
        self.end_start(
            job, job.record, end=end, upstream_id=upstream_id, may_restart=may_restart, grace=grace
        )
        if self.model.continues(job):
            job.can_cancel = (may_restart or end == "retract") and end != "conclude"
            self.model.end_start(job, end, upstream_id, grace)
        if job.state == "queued" and not job.is_wanted:
            self.crash(job, job.record)

    def end_start(
        self,
        job: Job,
        record: JobRecord,
        *,
        end: str,
        upstream_id: str | None,
        may_restart: bool,
        grace: int,
    ) -> None:
        cancel_start = job.cancel_start if may_restart else None
        if end == "ack":
            ack = Report(b'{"ack": 1}', upstream_id, "running")
            self.table.acknowledge(record, ack, cancel_start=cancel_start)
        elif end == "doubt":
            self.table.doubt(record, cancel_start=cancel_start)
            self.table.clients.shorten(record, grace)
        elif end == "conclude":
            self.table.conclude(record, Report(b"{}", upstream_id, "completed"))
        else:
            self.table.retract(record, job.cancel_start)

    # What the job server sends.

    @rule(
        number=NUMBERS,
        upstream_id=st.sampled_from(UPSTREAM_IDS),
        body=st.sampled_from(BODIES),
        state=st.sampled_from((None, "completed", "failed", "no such word", "queued", "running")),
    )
    def call_back(
        self, *, number: int, upstream_id: str | None, body: bytes, state: str | None
    ) -> None:
        if number in self.current:
            self.deliver(self.current[number].job_id, Report(body, upstream_id, state))

    def deliver(self, job_id: str, report: Report) -> None:
        model = self.model
        expected = model.judge(model.known.get(job_id), report)
        if expected is None:
            assert self.table.complete(job_id, report)[0].is_refused
            return
        assert self.table.complete(job_id, report)[0] is expected
        if expected not in {Delivery.ACCEPTED, Delivery.LATE} or report.is_progress:
            return
        job = model.known.get(job_id) or model.add(Job(job_id, can_cancel=False))
        job.upstream_id = job.upstream_id or report.upstream_id
        model.end(job, body=report.body)

    # What happens less often, and time.

    @rule(number=NUMBERS, what=st.sampled_from(("crash", "shorten", "drop")))
    def change_job(self, number: int, what: str) -> None:
        job = self.current.get(number)
        if job is None:
            return
        if what == "crash" and job.record is not None:
            self.crash(job, job.record)
        elif what == "shorten" and job.record is not None:
            self.table.clients.shorten(job.record, 2)
            self.model.shorten(job, 2)
        elif what == "drop":
            self.table.retention.drop_orphan(job.job_id)
            known = self.model.known.get(job.job_id)
            if known is not None and known.is_orphan:
                self.model.forget(known)

    @rule(what=st.sampled_from(("be idle", "drain", "stop", "restart")))
    def change_process(self, what: str) -> None:
        if what == "be idle":
            self.model.expects_idle.append(not self.model.held)
            self.idle.append(self.table.clients.when_idle())
        elif what == "drain":
            self.drain()
        elif what == "stop":
            self.stop()
        else:
            job_id = f"before {len(self.model.jobs)}"
            self.deliver(job_id, Report(b"{}", None, "completed"))

    def crash(self, job: Job, record: JobRecord) -> None:
        job.is_calling = False
        self.table.fail(record, Problem(ProblemKind.INTERNAL, "a bug"))
        if self.model.continues(job):
            self.model.end(job, problem="internal no")

    def drain(self) -> None:
        self.table.fail_queued(Problem(ProblemKind.DRAINING, "soon over"))
        for job in list(self.model.known.values()):
            if job.state == "queued":
                self.model.end(job, problem="draining no")

    def stop(self) -> None:
        self.table.startService()
        self.table.stopService()
        for job in list(self.model.known.values()):
            for waiting in list(job.waiting):
                self.model.respond(waiting, f"draining {job.started}")
            self.model.forget(job)
        self.model.tombstones.clear()
        assert self.clock.getDelayedCalls() == []

    @rule(seconds=st.sampled_from((1, 2, 3, 5, 10, RETAIN, LIFETIME)))
    def pass_time(self, seconds: int) -> None:
        for _ in range(seconds):
            self.clock.advance(1)
            self.model.pass_time()

    # What has to be the same.

    @invariant()
    def each_client_gets_one_response(self) -> None:
        assert self.table.clients.held == self.model.held
        for waiting in self.model.clients:
            assert waiting.responses == waiting.expected
            assert len(waiting.responses) <= 1

    @invariant()
    def table_knows_the_jobs_of_the_model(self) -> None:
        known = self.model.known
        ended = sum(job.outcome is not None for job in known.values())
        assert len(self.table) == len(known) - ended
        assert self.table.retention.retained == ended
        promised = [record for record in self.table.unended() if record.is_promised]
        assert self.table.clients.promised == len(promised)
        for job in self.model.jobs:
            self.compare(known.get(job.job_id), self.table.find(job.job_id))
            assert job.cancelled == job.expected_cancelled

    def compare(self, job: Job | None, record: JobRecord | None) -> None:
        assert (record is None) == (job is None)
        if record is not None and job is not None:
            assert record.state.word == job.state
            assert record.started == job.started
            assert (record.result and record.result.body) == job.body
            body = job.body if job.is_orphan else None
            assert self.table.retention.find_orphan(job.job_id) == body

    @invariant()
    def orphans_and_key_digests_are_those_of_the_model(self) -> None:
        orphans = [record.job_id for record in list(self.table.retention.orphans)]
        assert orphans == [job.job_id for job in self.model.orphans]
        for key_digest in filter(None, KEY_DIGESTS):
            record, job = self.table.keys.find(key_digest), self.model.find_key(key_digest)
            assert (record and record.job_id) == (job and job.job_id)
            tombstone = self.table.keys.find_tombstone(key_digest)
            job_id, _ = self.model.tombstones.get(key_digest, (None, 0))
            assert (tombstone and tombstone.job_id) == job_id

    @invariant()
    def idle_deferreds_fire_once_no_client_is_held(self) -> None:
        assert [idle.called for idle in self.idle] == self.model.expects_idle

    def teardown(self) -> None:
        for _ in range(3):
            self.pass_time(LIFETIME)
            self.table_knows_the_jobs_of_the_model()
        assert len(self.table) == self.table.retention.retained == self.table.clients.held == 0
        assert self.clock.getDelayedCalls() == []
        self.each_client_gets_one_response()


CorrelationMachineTests = CorrelationMachine.TestCase
CorrelationMachineTests.settings = settings(max_examples=200)
