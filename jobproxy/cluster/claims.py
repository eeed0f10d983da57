"""Claims: which job an idempotency key stands for, on all nodes."""

from attrs import define
from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeoutError
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from jobproxy.cluster.remote_jobs import Answer, RemoteJobs
from jobproxy.cluster.replicator import Replicator
from jobproxy.jobs import job_problems
from jobproxy.jobs.record import JobRecord
from jobproxy.jobs.table import CorrelationTable
from jobproxy.store.interface import Claim, IStore, MessageKind, StoreUnreachable
from jobproxy.util.shield import shield
from jobproxy.wire.problems import ProblemError, Started

_log = Logger()

#: Seconds for the store to say whether another node has a key, once a client's time is up.
LOOKUP_TIMEOUT = 0.25


@define(eq=False)
class Claims:
    """Claims keys for jobs of this node, and finds the jobs that have claims.

    Only the owner of a job can know that it was not started, so a claim is released only by the
    owner, or on its word; and never once there is a result.
    """

    _clock: IReactorTime
    _table: CorrelationTable
    _store: IStore
    _jobs: RemoteJobs
    _replicator: Replicator

    def claim(self, record: JobRecord) -> Deferred[bool]:
        """Claim the key of a job; to be called before its first start request.

        :return: fires with whether to start the job. If not, another node starts it, and the record
            ends as that job does. It fails with a :class:`ProblemError` if the key belongs to
            another request, and with :class:`StoreUnreachable` if it is not known which node starts
            the job.
        """
        assert record.key_digest is not None
        claim = Claim(record.job_id, record.request_digest)
        claiming: Deferred[Claim] = self._store.claim(record.key_digest, claim)
        return claiming.addCallback(self._check_claim, record)

    def _check_claim(self, valid: Claim, record: JobRecord) -> bool | Deferred[bool]:
        if valid.job_id == record.job_id:
            return True
        return Deferred.fromCoroutine(self._follow_claim(valid, record))

    async def _follow_claim(self, valid: Claim, record: JobRecord) -> bool:
        assert record.key_digest is not None
        if valid.request_digest != record.request_digest:
            raise ProblemError(job_problems.key_reused())
        leader = await self.find_job(record.key_digest, valid)
        if leader is None:
            return await self.claim(record)
        self._follow(record, leader)
        return False

    async def find_job(self, key_digest: bytes, claim: Claim) -> JobRecord | None:
        """Return the record of the job that has a claim.

        :return: :data:`None` if that job was not started, and the key is free.
        :raises ProblemError: if the job was started, and its result is not kept.
        :raises StoreUnreachable: if it is not known whether a result can come.
        """
        job_id = claim.job_id
        record = self._table.find(job_id)
        if record is not None and not self._jobs.may_be_outdated(record):
            if not (record.is_ended and record.is_unstarted):
                return record
            await self._store.release_claim(key_digest, claim)
            return None
        if self._jobs.is_ours(job_id):
            result, _ = await self._store.collect_job(job_id)
            if result is None:
                self._table.keys.check_free(key_digest, claim.request_digest)
                raise _gone(claim)
            answer = Answer(MessageKind.RESULT, result)
        else:
            answer = await self._jobs.ask(job_id)
        if answer.kind is MessageKind.NOT_STARTED:
            await self._store.release_claim(key_digest, claim)
            return None
        if answer.kind is MessageKind.GONE or (claim.has_ended and not answer.is_alive):
            # An owner that did not start the job has released the claim before it sent this.
            if await self._store.find_claim(key_digest) is None:
                return None
            raise _gone(claim)
        return self._jobs.update(job_id, answer, key_digest, claim.request_digest)

    async def find_released(self, record: JobRecord) -> JobRecord | None:
        """Return a remote job whose key has no claim any more, unless it was not started.

        The owner may have released the claim, although its message was lost.

        :raises StoreUnreachable: if it is not known what became of the job.
        """
        if record.ack is not None or not self._jobs.may_be_outdated(record):
            return record
        answer = await self._jobs.ask(record.job_id)
        if answer.kind is MessageKind.GONE or not answer.is_alive:
            self._table.fail(record, job_problems.not_started_by_owner())
        elif answer.kind is MessageKind.RESULT:
            self._jobs.update(record.job_id, answer)
        return None if record.is_ended and record.is_unstarted else record

    async def end_gone(self, record: JobRecord) -> None:
        """End a remote job that its owner does not know any more.

        :raises StoreUnreachable: if it is not known what became of the job.
        """
        problem = job_problems.result_gone(record.job_id, record.started)
        if (
            record.key_digest is not None
            and record.acked is None
            # The owner has released the claim if it did not start the job.
            and await self._store.find_claim(record.key_digest) is None
        ):
            problem = job_problems.not_started_by_owner()
        self._table.fail(record, problem)

    async def may_run_elsewhere(self, record: JobRecord) -> bool:
        """Whether another node may have started the same job, with the key of this one."""
        assert record.key_digest is not None
        # The client waits, so the time is short; but the store's response must not be cancelled.
        finding = shield(self._store.find_claim(record.key_digest))
        try:
            claim = await finding.addTimeout(LOOKUP_TIMEOUT, self._clock)
        except (StoreUnreachable, DeferredTimeoutError):
            return True
        if claim is None or claim.job_id == record.job_id:
            return False
        return claim.request_digest == record.request_digest

    def list_known(self) -> list[tuple[bytes, Claim]]:
        """Return the claims of all jobs that were sent, as far as this node knows, by key."""
        found = [
            (record.key_digest or b"", Claim(record.job_id, record.request_digest, bool(result)))
            for record in self._table.keys
            for result in (record.result,)
            if self._has_claim(record)
        ]
        for tombstone in self._table.keys.tombstones:
            if tombstone.started == "yes" or self._jobs.is_ours(tombstone.job_id):
                claim = Claim(tombstone.job_id, tombstone.request_digest, tombstone.has_ended)
                found.append((tombstone.key_digest, claim))
        return found

    def _has_claim(self, record: JobRecord) -> bool:
        if self._jobs.is_ours(record.job_id):
            # A job that follows another one has no start request of its own. One that waits to be
            # sent again keeps its claim.
            return record.sent is not None and not (record.is_ended and record.is_unstarted)
        return record.acked is not None or record.result is not None

    def _follow(self, record: JobRecord, leader: JobRecord) -> None:
        """End a job as its leader ends: the job with the same key that another node starts."""
        _log.info(
            "job {job} follows job {leader}, which has the same key",
            **record.log_fields,
            leader=leader.job_id,
        )
        self._table.hand_over(record, leader.ack)
        if leader.is_ended:
            self._copy_change(record, leader)
        else:
            self._replicator.add_follower(
                leader.job_id, lambda changed: self._copy_change(record, changed)
            )

    def _copy_change(self, record: JobRecord, leader: JobRecord) -> None:
        if leader.result is not None:
            self._table.conclude(record, leader.result)
        elif leader.is_ended:
            self._table.fail(record, leader.problem or job_problems.lost_by_owner())
        elif leader.ack is not None:
            self._table.acknowledge(record, leader.ack)


def _gone(claim: Claim) -> ProblemError:
    started: Started = "yes" if claim.has_ended else "unknown"
    return ProblemError(job_problems.result_gone(claim.job_id, started))
