"""The coordinator of a node among others, which share a store."""

from collections import Counter
from collections.abc import Coroutine
from typing import Any, TypeVar

from attrs import define, evolve, field
from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from jobproxy.cluster.coordinator import ClusterStatus
from jobproxy.cluster.outbox import Outbox
from jobproxy.cluster.remote_jobs import RemoteJobs, key_reused
from jobproxy.jobs.delivery import Delivery
from jobproxy.jobs.record import JobRecord
from jobproxy.jobs.table import CorrelationTable
from jobproxy.store.interface import (
    IStore,
    Kind,
    Message,
    Orphan,
    Placement,
    StoreUnreachable,
)
from jobproxy.wire.jobs import Report
from jobproxy.wire.problems import Kind as ProblemKind
from jobproxy.wire.problems import Problem, ProblemError, not_found
from jobproxy.wire.tokens import is_job_id, node_of

Found = TypeVar("Found")

UNREACHABLE = Problem(
    ProblemKind.STORE_UNREACHABLE,
    "The proxy cannot reach the other nodes, which may know of the job; try again.",
    started="unknown",
    retry_after=1,
)
_DELIVERIES = {
    Placement.TAKEN: Delivery.ACCEPTED,
    Placement.ORPHANED: Delivery.LATE,
    Placement.DUPLICATE: Delivery.DUPLICATE,
    Placement.CONFLICT: Delivery.CONFLICT,
}


@define(eq=False)
class SharedCoordinator(Service):
    """Shares keys, results and orphans with other nodes; see :class:`Coordinator`.

    What concerns only jobs of this node, without a key, does not need the store. As a service it
    keeps the store open.

    :param node: the name of this one.
    :ivar relays: what became of callbacks that came here although another node has their job.
    """

    _table: CorrelationTable
    _store: IStore
    _remote_jobs: RemoteJobs
    _outbox: Outbox
    _node: str
    relays: Counter[str] = field(factory=Counter, init=False)

    def startService(self) -> None:
        super().startService()
        self._store.open(self._remote_jobs)

    def stopService(self) -> Deferred[Any]:
        super().stopService()
        return self._store.close()

    def claim(self, record: JobRecord) -> Deferred[bool]:
        return _run(self._remote_jobs.claim(record))

    def locate(self, job_id: str) -> Deferred[JobRecord] | None:
        if not is_job_id(job_id) or self._remote_jobs.is_ours(job_id):
            return None
        record = self._table.find(job_id)
        if record is not None and not self._remote_jobs.is_open_elsewhere(record):
            return None
        return _run(self._locate(job_id, record))

    async def _locate(self, job_id: str, known: JobRecord | None) -> JobRecord:
        try:
            record = await self._remote_jobs.find(job_id)
        except StoreUnreachable:
            if known is None:
                raise
            return known
        if record is None:
            raise not_found()
        return record

    def locate_key(
        self, key_digest: bytes, request_digest: bytes, known: JobRecord | None
    ) -> Deferred[JobRecord | None]:
        return _run(self._locate_key(key_digest, request_digest, known))

    async def _locate_key(
        self, key_digest: bytes, request_digest: bytes, known: JobRecord | None
    ) -> JobRecord | None:
        if known is not None and not self._remote_jobs.is_open_elsewhere(known):
            return known
        try:
            claim = await self._store.look_up(key_digest)
        except StoreUnreachable:
            if known is None:
                raise
            return known
        if claim is None:
            return known
        if claim.request_digest != request_digest:
            raise key_reused()
        return await self._remote_jobs.recall(key_digest, claim)

    def is_elsewhere(self, job_id: str) -> bool:
        return not self._remote_jobs.is_ours(job_id)

    def relay(self, job_id: str, report: Report) -> Deferred[Delivery]:
        return _run(self._relay(job_id, report))

    async def _relay(self, job_id: str, report: Report) -> Delivery:
        owner, result = node_of(job_id), "cut-off"
        try:
            if report.is_progress:
                progress = Message(Kind.PROGRESS, job_id, self._node, report.body)
                await self._store.send(owner, progress)
                result, delivery = "progress", Delivery.PROGRESS
            else:
                placement = await self._store.put(job_id, report.body, [owner])
                result, delivery = placement.value, _DELIVERIES[placement]
        except StoreUnreachable:
            result = UNREACHABLE.slug
            raise ProblemError(evolve(UNREACHABLE, started="yes")) from None
        finally:
            self.relays[result] += 1
        return delivery

    @property
    def open_questions(self) -> int:
        """How many jobs this node and others wait to hear of."""
        return self._remote_jobs.open_questions

    def remember(self, waiting: Deferred[JobRecord]) -> Deferred[JobRecord]:
        return waiting.addCallbacks(self._note, self._note_failure)

    def _note(self, record: JobRecord) -> JobRecord:
        if record.result is None and self._remote_jobs.is_ours(record.job_id):
            job_id, ack = record.job_id, record.ack.body if record.ack else b""
            self._outbox.send(lambda: self._store.note(job_id, ack), len(ack))
        return record

    def _note_failure(self, failure: Failure) -> Failure:
        problem = failure.value.problem if isinstance(failure.value, ProblemError) else None
        if problem is not None and problem.job_id is not None:
            record = self._table.find(problem.job_id)
            if record is not None and record.started != "no":
                self._note(record)
        return failure

    def orphan_collected(self, job_id: str) -> None:
        record = self._table.find(job_id)
        is_mirrored = record is not None and record.result and not self._remote_jobs.is_ours(job_id)
        if is_mirrored or self._table.retention.find_orphan(job_id) is not None:
            self._outbox.send(lambda: self._store.fetch([job_id]))

    def list_orphans(self) -> Deferred[list[Orphan]]:
        return _as_problem(self._store.list_orphans())

    def find_orphan(self, job_id: str) -> Deferred[bytes | None]:
        return _as_problem(self._store.find_orphan(job_id))

    def drop_orphan(self, job_id: str) -> Deferred[None]:
        self._table.drop_orphan(job_id)
        if not self._remote_jobs.is_ours(job_id):
            gone = Message(Kind.GONE, job_id, self._node)
            self._outbox.send(lambda: self._store.send(node_of(job_id), gone))
        return _as_problem(self._store.discard(job_id))

    def reasons_not_ready(self) -> list[str]:
        """A node that once joined the others goes on without the store, as its own jobs do."""
        return [] if self._store.is_joined else [UNREACHABLE.slug]

    def status(self) -> ClusterStatus:
        return ClusterStatus(
            node=self._node,
            is_up=self._store.is_up,
            calls=dict(self._store.calls),
            durations=self._store.durations,
            relays=dict(self.relays),
            gaps=self._remote_jobs.gaps,
            found=self._remote_jobs.found,
            unsent=self._outbox.failed,
        )


def _run(asking: Coroutine[Deferred[Any], Any, Found]) -> Deferred[Found]:
    return _as_problem(Deferred.fromCoroutine(asking))


def _as_problem(asking: Deferred[Found]) -> Deferred[Found]:
    """Let a store that cannot be reached be a problem that clients are told of."""
    return asking.addErrback(_fail_with_problem)


def _fail_with_problem(failure: Failure) -> Any:
    failure.trap(StoreUnreachable)
    raise ProblemError(UNREACHABLE) from None
