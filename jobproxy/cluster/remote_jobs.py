"""Remote jobs: the jobs of other nodes that this node's clients wait for."""

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeoutError
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from jobproxy.cluster.replicator import Replicator
from jobproxy.jobs import job_problems
from jobproxy.jobs.record import JobRecord
from jobproxy.jobs.table import CorrelationTable
from jobproxy.store.interface import Claim, IStore, Message, MessageKind
from jobproxy.util.deadline import do_nothing
from jobproxy.wire.jobs import parse_report
from jobproxy.wire.problems import ProblemError
from jobproxy.wire.tokens import node_of

_log = Logger()

#: Seconds to wait for the owner of a job to send its state.
OWNER_TIMEOUT = 2.0


@define(eq=False)
class RemoteJobs:
    """Finds the jobs of other nodes, and claims keys.

    The table gets a record of each remote job, a copy of that of its owner. The messages of the
    owner, which come through the :class:`Inbox`, change and end it.

    :param node: the name of this node.
    """

    _clock: IReactorTime
    _table: CorrelationTable
    _store: IStore
    _replicator: Replicator
    _node: str
    #: What waits for the first message about a job, by job id.
    _waiting: dict[str, list[Deferred[Message]]] = field(factory=dict, init=False, repr=False)

    @property
    def watched(self) -> int:
        """How many jobs this node or others expect messages about."""
        return len(self._waiting) + len(self._replicator.watchers) + len(self._replicator.followers)

    def is_ours(self, job_id: str) -> bool:
        """Whether this node owns a job."""
        return node_of(job_id) == self._node

    def may_be_outdated(self, record: JobRecord) -> bool:
        """Whether the owner of a job may know more about it than the record here says."""
        return not record.is_ended and not self.is_ours(record.job_id)

    async def find(
        self,
        job_id: str,
        *,
        key_digest: bytes | None = None,
        request_digest: bytes = b"",
        is_claimed: bool = False,
    ) -> JobRecord | None:
        """Return the record of a remote job; create it if there is none in the table.

        :param key_digest: of the key by which clients of this node find the new record.
        :param is_claimed: whether a claim shows that the job exists.
        :return: :data:`None` if the job was not started, or no node knows it.
        :raises StoreUnreachable: if that cannot be known.
        """
        waiting: Deferred[Message] = Deferred()
        # Before the store is asked, so that no message is missed in between.
        self._waiting.setdefault(job_id, []).append(waiting)
        try:
            result, ack = await self._store.collect_job(job_id)
            message = None
            if result is None:
                watch = Message(MessageKind.WATCH, job_id, self._node)
                # The owner may be dead, but another node may have sent the result to all.
                if await self._store.send(node_of(job_id), watch) or waiting.called:
                    message = await self._wait(waiting)
                elif not (is_claimed or ack is not None):
                    return None
        finally:
            self._waiting[job_id].remove(waiting)
            if not self._waiting[job_id]:
                del self._waiting[job_id]
        record = self._table.find(job_id)
        if message is not None:
            if message.kind is MessageKind.NO_RESULT:
                return record
            result = message.body if message.kind is MessageKind.RESULT else None
            ack = message.body if message.kind is MessageKind.STATE else None
        if record is None:
            report = parse_report(ack) if ack else None
            record = self._table.create(
                job_id, do_nothing, key_digest=key_digest, request_digest=request_digest
            )
            self._table.hand_over(record, report)
        if result is not None:
            self._table.conclude(record, parse_report(result))
        return record

    def resolve(self, message: Message) -> None:
        """Fire what waits for a message about this job."""
        for waiting in list(self._waiting.get(message.job_id, ())):
            if not waiting.called:
                waiting.callback(message)

    async def claim(self, record: JobRecord) -> bool:
        """Claim the key of a job; to be called before its first start request.

        :return: whether to start the job. If not, another node starts it, and the record ends as
            that job does.
        :raises ProblemError: if the key belongs to another request.
        :raises StoreUnreachable: if it is not known which node starts the job.
        """
        assert record.key_digest is not None
        claim = Claim(record.job_id, record.request_digest)
        while True:
            valid = await self._store.claim(record.key_digest, claim)
            if valid.job_id == claim.job_id:
                return True
            if valid.request_digest != claim.request_digest:
                raise ProblemError(job_problems.key_reused())
            leader = await self.find_claimed(record.key_digest, valid)
            if leader is not None:
                self._follow(record, leader)
                return False

    async def find_claimed(self, key_digest: bytes, claim: Claim) -> JobRecord | None:
        """Return the record of the job that has a claim; release the claim if no result can come.

        :raises StoreUnreachable: if it is not known whether one can come.
        """
        record = self._table.find(claim.job_id)
        is_unknown = record is None and not self.is_ours(claim.job_id)
        if is_unknown or (record is not None and self.may_be_outdated(record)):
            record = await self.find(
                claim.job_id,
                key_digest=key_digest,
                request_digest=claim.request_digest,
                is_claimed=True,
            )
        if record is None or (record.is_ended and record.result is None):
            await self._store.release_claim(key_digest, claim)
            return None
        return record

    async def _wait(self, waiting: Deferred[Message]) -> Message | None:
        """Return the owner's message, or :data:`None` if it is too busy to send it in time."""
        try:
            return await waiting.addTimeout(OWNER_TIMEOUT, self._clock)
        except DeferredTimeoutError:
            return None

    def _follow(self, record: JobRecord, leader: JobRecord) -> None:
        """End a job as its leader ends: the job with the same key that another node starts."""
        _log.info(
            "job {job} follows job {leader}, which has the same key",
            **record.log_fields,
            leader=leader.job_id,
        )
        self._table.hand_over(record, leader.ack)
        if leader.result is not None:
            self._table.conclude(record, leader.result)
        else:
            self._replicator.add_follower(
                leader.job_id, lambda changed: self._copy_change(record, changed)
            )

    def _copy_change(self, record: JobRecord, leader: JobRecord) -> None:
        if leader.result is not None:
            self._table.conclude(record, leader.result)
        elif leader.problem is not None:
            self._table.fail(record, job_problems.not_started_by_owner())
        elif leader.ack is not None:
            self._table.acknowledge(record, leader.ack)
