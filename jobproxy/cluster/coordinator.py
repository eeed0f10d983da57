"""A job's way when there are several nodes."""

from collections import Counter

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from jobproxy.cluster.remote_jobs import RemoteJobs
from jobproxy.gateway import Gateway, key_digest_of, request_digest_of
from jobproxy.jobs.record import Delivery, JobRecord
from jobproxy.store.interface import IStore, Kind, Message, Orphan, Placement
from jobproxy.wire.jobs import Job, parse_report
from jobproxy.wire.preferences import Preferences
from jobproxy.wire.problems import (
    CallbackConflict,
    IdempotencyKeyReused,
    NotFound,
    Problem,
    StoreUnreachable,
)
from jobproxy.wire.tokens import is_job_id, node_of

_DELIVERIES = {
    Placement.TAKEN: Delivery.ACCEPTED,
    Placement.ORPHANED: Delivery.LATE,
    Placement.DUPLICATE: Delivery.DUPLICATE,
}


@define(eq=False)
class ClusterGateway(Gateway):
    """A gateway that shares keys, results and orphans with others.

    What concerns only jobs of this node, without a key, goes the same way as without others, and
    does not need the store.

    :param node: the name of this one.
    """

    store: IStore = field(kw_only=True)
    remote_jobs: RemoteJobs = field(kw_only=True)
    node: str = field(kw_only=True)
    #: What became of callbacks that came here although another node has their job.
    relays: Counter[str] = field(factory=Counter, init=False)

    def __attrs_post_init__(self) -> None:
        self.starter.guard = lambda record: Deferred.fromCoroutine(self.remote_jobs.claim(record))

    def recall(self, job: Job, key: str) -> Deferred[JobRecord | None]:
        """:return: fails with :class:`StoreUnreachable` too, if nobody here knows the key."""
        return Deferred.fromCoroutine(self._recall(key_digest_of(job, key), request_digest_of(job)))

    async def _recall(self, key_digest: bytes, request_digest: bytes) -> JobRecord | None:
        record = self._recall_here(key_digest, request_digest)
        if record is not None and not self.remote_jobs.is_open_elsewhere(record):
            return record
        try:
            claim = await self.store.look_up(key_digest)
        except StoreUnreachable:
            if record is not None:
                return record
            raise
        if claim is None:
            return record
        if claim.request_digest != request_digest:
            raise IdempotencyKeyReused
        return await self.remote_jobs.recall(key_digest, claim)

    def find(self, job_id: str, preferences: Preferences) -> Deferred[JobRecord]:
        record = self.table.find(job_id)
        is_elsewhere = is_job_id(job_id) and not self.remote_jobs.is_ours(job_id)
        if is_elsewhere and (record is None or self.remote_jobs.is_open_elsewhere(record)):
            return Deferred.fromCoroutine(self._find(job_id, preferences))
        self._take_orphan(job_id)
        return super().find(job_id, preferences)

    async def _find(self, job_id: str, preferences: Preferences) -> JobRecord:
        try:
            if await self.remote_jobs.find(job_id) is None:
                raise NotFound
        except StoreUnreachable:
            if self.table.find(job_id) is None:
                raise
        return await super().find(job_id, preferences)

    def join(self, record: JobRecord, job: Job, preferences: Preferences) -> Deferred[JobRecord]:
        self._take_orphan(record.job_id)
        return super().join(record, job, preferences)

    def deliver(self, job_id: str, body: bytes) -> Delivery | Deferred[Delivery]:
        """:return: fails with :class:`StoreUnreachable` if another node has the job, and the result
        may not be safe; the job server has to send it again.
        """
        if self.remote_jobs.is_ours(job_id):
            return super().deliver(job_id, body)
        return Deferred.fromCoroutine(self._relay(job_id, body))

    async def _relay(self, job_id: str, body: bytes) -> Delivery:
        owner, result = node_of(job_id), "cut-off"
        try:
            if parse_report(body).is_progress:
                progress = Message(Kind.PROGRESS, job_id, self.node, body)
                await self.store.tell(owner, progress)
                result, delivery = "progress", Delivery.PROGRESS
            else:
                placement = await self.store.put(job_id, body, [owner])
                result = placement.value
                if placement is Placement.CONFLICT:
                    raise CallbackConflict("The job has another result already.")
                delivery = _DELIVERIES[placement]
        except Problem as problem:
            result, problem.started = problem.slug, "yes"
            raise
        finally:
            self.relays[result] += 1
        return delivery

    def reasons_not_ready(self) -> list[str]:
        """A node that once was one of them goes on without the store, as its own jobs do."""
        joining = [] if self.store.is_joined else ["store-unreachable"]
        return super().reasons_not_ready() + joining

    def list_orphans(self) -> Deferred[list[Orphan]]:
        return self.store.list_orphans()

    def find_orphan(self, job_id: str) -> Deferred[bytes | None]:
        return self.store.find_orphan(job_id)

    def drop_orphan(self, job_id: str) -> Deferred[None]:
        self.table.drop_orphan(job_id)
        if not self.remote_jobs.is_ours(job_id):
            gone = Message(Kind.GONE, job_id, self.node)
            self.remote_jobs.outbox.send(lambda: self.store.tell(node_of(job_id), gone))
        return self.store.discard(job_id)

    def _hold(self, record: JobRecord, job: Job, preferences: Preferences) -> Deferred[JobRecord]:
        return super()._hold(record, job, preferences).addCallbacks(self._note, self._note_failure)

    def _note(self, record: JobRecord) -> JobRecord:
        """Have other nodes know of a job that a client may ask them for later."""
        if record.result is None and self.remote_jobs.is_ours(record.job_id):
            job_id, ack = record.job_id, record.ack.body if record.ack else b""
            self.remote_jobs.outbox.send(lambda: self.store.note(job_id, ack), len(ack))
        return record

    def _note_failure(self, failure: Failure) -> Failure:
        job_id = failure.value.job if isinstance(failure.value, Problem) else None
        record = self.table.find(job_id) if job_id is not None else None
        if record is not None and record.started != "no":
            self._note(record)
        return failure

    def _take_orphan(self, job_id: str) -> None:
        """Have it known everywhere that somebody asks for a result that nobody waited for."""
        record = self.table.find(job_id)
        is_mirrored = record is not None and record.result and not self.remote_jobs.is_ours(job_id)
        if is_mirrored or self.table.find_orphan(job_id) is not None:
            self.remote_jobs.outbox.send(lambda: self.store.fetch([job_id]))
