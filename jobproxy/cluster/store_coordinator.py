"""The coordinator of a node with a store, which it may share with other nodes."""

from collections import Counter
from collections.abc import Coroutine
from typing import Any, TypeVar, cast

from attrs import define, evolve, field
from twisted.application.service import Service
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from jobproxy.cluster.claims import Claims
from jobproxy.cluster.coordinator import ClusterStatus
from jobproxy.cluster.inbox import Inbox
from jobproxy.cluster.outbox import Outbox
from jobproxy.cluster.own_orphans import list_own_orphans
from jobproxy.cluster.remote_jobs import RemoteJobs
from jobproxy.cluster.replicator import Replicator
from jobproxy.jobs import job_problems
from jobproxy.jobs.delivery import Delivery
from jobproxy.jobs.record import JobRecord
from jobproxy.jobs.table import CorrelationTable
from jobproxy.store.interface import (
    Claim,
    IStore,
    Message,
    MessageKind,
    Placement,
    StoreUnreachable,
)
from jobproxy.store.orphans import OrphanPage, Position
from jobproxy.upstream.thin_callbacks import NOT_YET, RESPONSE_TIME
from jobproxy.util.shield import shield
from jobproxy.wire.problems import Kind, Problem, ProblemError, job_unknown
from jobproxy.wire.reports import Report
from jobproxy.wire.tokens import NODE, is_job_id, node_of

Found = TypeVar("Found")

UNREACHABLE = Problem(
    Kind.STORE_UNREACHABLE,
    "The proxy cannot use its store at the moment; try again.",
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
class StoreCoordinator(Service):
    """Keeps keys, results and orphans in a store; see :class:`Coordinator`.

    A job of this node without a key does not need the store. The store is open while this service
    runs.

    :param node: the name of this node.
    :ivar relays: how many callbacks of other nodes' jobs came here, by what became of them.
    """

    _clock: IReactorTime
    _table: CorrelationTable
    _store: IStore
    _remote_jobs: RemoteJobs
    _claims: Claims
    _inbox: Inbox
    _outbox: Outbox
    _replicator: Replicator
    _node: str
    relays: Counter[str] = field(factory=Counter, init=False)

    def startService(self) -> None:
        super().startService()
        self._store.open(self._inbox)

    def stopService(self) -> Deferred[Any]:
        super().stopService()
        self._replicator.stop()
        return self._store.close()

    def claim(self, record: JobRecord) -> Deferred[bool]:
        return self._claims.claim(record).addErrback(_fail_with_problem)

    def locate(self, job_id: str) -> Deferred[JobRecord] | None:
        if not is_job_id(job_id):
            return None
        record = self._table.find(job_id)
        if record is not None and not self._remote_jobs.may_be_outdated(record):
            return None
        if not self.running:
            # The table has forgotten everything, as the process is about to end.
            raise ProblemError(UNREACHABLE)
        return _run(self._locate(job_id, record))

    async def _locate(self, job_id: str, known: JobRecord | None) -> JobRecord:
        try:
            record = await self._remote_jobs.find(job_id)
        except StoreUnreachable:
            if known is None:
                raise
            return known
        if record is None:
            raise job_unknown(job_id)
        return record

    def locate_key(
        self, key_digest: bytes, request_digest: bytes, known: JobRecord | None
    ) -> Deferred[JobRecord | None]:
        if known is not None and not self._remote_jobs.may_be_outdated(known):
            return succeed(known)
        request = (key_digest, request_digest, known)
        return self._store.find_claim(key_digest).addCallbacks(
            self._find_claimed, self._find_unclaimed, request, errbackArgs=request
        )

    def _find_claimed(
        self,
        claim: Claim | None,
        key_digest: bytes,
        request_digest: bytes,
        known: JobRecord | None,
    ) -> JobRecord | Deferred[JobRecord | None] | None:
        if claim is None:
            if known is not None:
                return _run(self._claims.find_released(known))
            self._table.keys.check_free(key_digest, request_digest)
            return None
        if claim.request_digest != request_digest:
            raise ProblemError(job_problems.key_reused())
        return _run(self._claims.find_job(key_digest, claim))

    def _find_unclaimed(
        self, failure: Failure, key_digest: bytes, request_digest: bytes, known: JobRecord | None
    ) -> JobRecord:
        failure.trap(StoreUnreachable)
        if known is not None:
            return known
        self._table.keys.check_free(key_digest, request_digest)
        raise ProblemError(UNREACHABLE)

    def is_elsewhere(self, job_id: str) -> bool:
        return job_id[NODE] != self._node

    def relay(self, job_id: str, report: Report) -> Deferred[Delivery]:
        return _run(self._relay(job_id, report))

    def relay_thin(self, job_id: str, packed: bytes, report: Report) -> Deferred[Delivery]:
        return _run(self._relay_thin(job_id, packed, report))

    async def _relay_thin(self, job_id: str, packed: bytes, report: Report) -> Delivery:
        thin = Message(MessageKind.THIN, job_id, self._node, packed)
        try:
            if not await self._store.send(node_of(job_id), thin):
                return await self._relay(job_id, report)
        except StoreUnreachable:
            raise _callback_not_stored() from None
        kind = await self._remote_jobs.watch(job_id, RESPONSE_TIME)
        if kind is None:
            raise ProblemError(NOT_YET)
        if kind is not MessageKind.RESULT:
            # The owner has forgotten the job, and cannot fetch anything.
            return await self._relay(job_id, report)
        self.relays[Placement.TAKEN.value] += 1
        return Delivery.ACCEPTED

    async def _relay(self, job_id: str, report: Report) -> Delivery:
        owner, result = node_of(job_id), "cut-off"
        record = self._table.find(job_id)
        is_awaited = record is not None and bool(record.waiters)
        try:
            if report.is_progress:
                progress = Message(MessageKind.PROGRESS, job_id, self._node, report.stored)
                await self._store.send(owner, progress)
                result, delivery = "progress", Delivery.PROGRESS
            else:
                placement = await self._store.put_result(
                    job_id, report.stored, [owner], upstream_id=report.upstream_id
                )
                result, delivery = placement.value, _DELIVERIES[placement]
                if delivery is Delivery.LATE and is_awaited:
                    # Its owner is dead, but clients of this node wait for it.
                    delivery = Delivery.ACCEPTED
        except StoreUnreachable:
            result = UNREACHABLE.slug
            raise _callback_not_stored() from None
        finally:
            self.relays[result] += 1
        return delivery

    def secure(self, record: JobRecord) -> Deferred[None] | None:
        if record.result is None or not (record.is_orphan or record.may_be_asked_for):
            return None
        return self._replicator.store(record).addErrback(_fail_callback)

    @property
    def watched(self) -> int:
        """How many jobs this node or others expect messages about."""
        return self._remote_jobs.watched

    def remember(
        self, waiting: Deferred[JobRecord], record: JobRecord, *, is_async: bool
    ) -> Deferred[JobRecord]:
        if is_async:
            waiting.addCallback(self._note)
        if record.key_digest is not None:
            waiting.addErrback(self._check_unstarted, record)
        return waiting

    def _note(self, record: JobRecord) -> JobRecord | Deferred[JobRecord]:
        """Note the job before its client is told that it can ask for it."""
        is_noted = not (self._remote_jobs.is_ours(record.job_id) or self._store.is_local)
        if record.result is not None or is_noted:
            # The owner has noted it; the jobs of a local store have no other living owner.
            return record
        return shield(self._replicator.put_note(record)).addCallback(_check_noted, record)

    def _check_unstarted(self, failure: Failure, record: JobRecord) -> Any:
        if not failure.check(ProblemError):
            return failure
        problem = cast(ProblemError, failure.value).problem
        if record.is_unstarted and record.sent is None and problem.started == "no":
            return _run(self._look_elsewhere(record, problem))
        return failure

    async def _look_elsewhere(self, record: JobRecord, problem: Problem) -> JobRecord:
        """Fail with a problem, which says if the same job may have been started elsewhere."""
        if await self._claims.may_run_elsewhere(record):
            problem = evolve(problem, started="unknown")
        raise ProblemError(problem)

    def orphan_collected(self, job_id: str) -> None:
        record = self._table.find(job_id)
        is_remote = record is not None and record.result and not self._remote_jobs.is_ours(job_id)
        if is_remote or self._table.retention.find_orphan(job_id) is not None:
            self._outbox.send(lambda: self._store.collect_results([job_id]))

    def list_orphans(self, limit: int, after: Position) -> Deferred[OrphanPage]:
        """Return the orphans of all nodes; those of this one while the store is away."""

        def list_own(failure: Failure) -> OrphanPage:
            failure.trap(StoreUnreachable)
            own = list_own_orphans(self._table, limit, after, self._clock.seconds())
            return OrphanPage(own, is_partial=True)

        return self._store.list_orphans(limit, after).addCallbacks(OrphanPage, list_own)

    def count_orphans(self) -> Deferred[int]:
        """Return how many orphans all nodes have; only this one while the store is away."""

        def count_own(failure: Failure) -> int:
            failure.trap(StoreUnreachable)
            return len(self._table.retention.orphans)

        return self._store.count_orphans().addErrback(count_own)

    def find_orphan(self, job_id: str) -> Deferred[bytes | None]:
        own = self._table.retention.find_orphan(job_id)
        return succeed(own) if own is not None else _as_problem(self._store.find_orphan(job_id))

    def drop_orphan(self, job_id: str) -> Deferred[None]:
        self._table.retention.drop_orphan(job_id)
        if not self._remote_jobs.is_ours(job_id):
            message = Message(MessageKind.GONE, job_id, self._node)
            self._outbox.send(lambda: self._store.send(node_of(job_id), message))
        return _as_problem(self._store.discard_result(job_id))

    def reasons_not_ready(self) -> list[str]:
        """Name the store until the node has joined; later, jobs without a key do not need it."""
        return [] if self._store.is_joined else [UNREACHABLE.slug]

    def status(self) -> ClusterStatus:
        return ClusterStatus(
            node=self._node,
            is_up=self._store.is_up,
            calls=dict(self._store.calls),
            durations=self._store.durations,
            relays=dict(self.relays),
            gaps=self._inbox.gaps,
            found=self._inbox.found,
            unsent=self._outbox.failed,
        )


def _check_noted(is_stored: bool, record: JobRecord) -> JobRecord:
    if not is_stored:
        problem = job_problems.about(record, UNREACHABLE)
        raise ProblemError(evolve(problem, started=record.started))
    return record


def _callback_not_stored() -> ProblemError:
    return ProblemError(evolve(UNREACHABLE, started="yes"))


def _fail_callback(failure: Failure) -> None:
    failure.trap(StoreUnreachable)
    raise _callback_not_stored() from None


def _run(coroutine: Coroutine[Deferred[Any], Any, Found]) -> Deferred[Found]:
    return _as_problem(Deferred.fromCoroutine(coroutine))


def _as_problem(call: Deferred[Found]) -> Deferred[Found]:
    """Turn :class:`StoreUnreachable` into a problem for clients."""
    return call.addErrback(_fail_with_problem)


def _fail_with_problem(failure: Failure) -> Any:
    failure.trap(StoreUnreachable)
    raise ProblemError(UNREACHABLE) from None
