"""Remote jobs: the jobs of other nodes that this node's clients wait for."""

from attrs import define, field, frozen
from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeoutError
from twisted.internet.interfaces import IReactorTime

from jobproxy.cluster.replicator import Replicator
from jobproxy.jobs.record import JobRecord
from jobproxy.jobs.table import CorrelationTable
from jobproxy.store.interface import IStore, Message, MessageKind
from jobproxy.util.deadline import do_nothing
from jobproxy.wire.reports import read_stored
from jobproxy.wire.tokens import node_of

#: Seconds to wait for the owner of a job to send its state.
OWNER_TIMEOUT = 2.0


@frozen
class Answer:
    """What is known elsewhere about a job.

    :param kind: of the owner's message; :data:`None`: none came.
    :param body: the result or the ack; may be empty.
    :param is_alive: whether the owner of the job is.
    :param has_note: whether the store knows that there is such a job.
    """

    kind: MessageKind | None
    body: bytes = b""
    is_alive: bool = True
    has_note: bool = False

    @property
    def is_known(self) -> bool:
        return self.is_alive or self.has_note


_HAS_NO_RESULT = frozenset({MessageKind.NOT_STARTED, MessageKind.GONE})


@define(eq=False)
class RemoteJobs:
    """Finds the jobs of other nodes.

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

    async def find(self, job_id: str) -> JobRecord | None:
        """Return the record of a job; create it if there is none in the table.

        :return: :data:`None` if the job was not started, or no node knows it.
        :raises StoreUnreachable: if that cannot be known.
        """
        answer = await (self._look_up(job_id) if self.is_ours(job_id) else self.ask(job_id))
        if answer.kind in _HAS_NO_RESULT or not answer.is_known:
            return self._table.find(job_id)
        return self.update(job_id, answer)

    async def _look_up(self, job_id: str) -> Answer:
        """Ask the store about a job of this node that has no record any more."""
        result, ack = await self._store.collect_job(job_id)
        if result is not None:
            return Answer(MessageKind.RESULT, result)
        return Answer(None, ack or b"", is_alive=False, has_note=ack is not None)

    async def ask(self, job_id: str) -> Answer:
        """Ask the store and the owner about a job, and the owner to send what becomes of it."""
        waiting: Deferred[Message] = Deferred()
        # Before the store is asked, so that no message is missed in between.
        self._waiting.setdefault(job_id, []).append(waiting)
        try:
            result, ack = await self._store.collect_job(job_id)
            if result is not None:
                return Answer(MessageKind.RESULT, result)
            watch = Message(MessageKind.WATCH, job_id, self._node)
            is_alive = await self._store.send(node_of(job_id), watch)
            # The owner may be dead, but another node may have sent the result to all.
            message = await self._wait(waiting) if is_alive or waiting.called else None
        finally:
            self._stop_waiting(job_id, waiting)
        if message is not None:
            return Answer(message.kind, message.body)
        return Answer(None, ack or b"", is_alive=is_alive, has_note=ack is not None)

    async def watch(self, job_id: str, seconds: float) -> MessageKind | None:
        """Wait until the owner of a job sends its result, or says that there will be none.

        :return: of the owner's message; :data:`None`: the job has not ended in time.
        :raises StoreUnreachable: if the owner cannot be asked.
        """
        end, kind = self._clock.seconds() + seconds, MessageKind.STATE
        sending: Deferred[bool] | None = None
        while kind in {MessageKind.STATE, MessageKind.PROGRESS}:
            waiting: Deferred[Message] = Deferred()
            self._waiting.setdefault(job_id, []).append(waiting)
            try:
                if sending is None:
                    watch = Message(MessageKind.WATCH, job_id, self._node)
                    sending = self._store.send(node_of(job_id), watch)
                    await sending
                left = max(0.0, end - self._clock.seconds())
                kind = (await waiting.addTimeout(left, self._clock)).kind
            except DeferredTimeoutError:
                return None
            finally:
                self._stop_waiting(job_id, waiting)
        return kind

    def update(
        self, job_id: str, answer: Answer, key_digest: bytes | None = None, digest: bytes = b""
    ) -> JobRecord:
        """Update the table with an answer; create the record if there is none.

        :param key_digest: of the key by which clients of this node find the new record.
        :param digest: the digest of the request with that key.
        """
        record = self._table.find(job_id)
        is_result = answer.kind is MessageKind.RESULT
        if record is None:
            ack = read_stored(answer.body) if answer.body and not is_result else None
            record = self._table.create(
                job_id, do_nothing, key_digest=key_digest, request_digest=digest
            )
            self._table.hand_over(record, ack)
        if is_result:
            self._table.conclude(record, read_stored(answer.body))
        return record

    def resolve(self, message: Message) -> None:
        """Fire what waits for a message about this job."""
        for waiting in list(self._waiting.get(message.job_id, ())):
            if not waiting.called:
                waiting.callback(message)

    def _stop_waiting(self, job_id: str, waiting: Deferred[Message]) -> None:
        self._waiting[job_id].remove(waiting)
        if not self._waiting[job_id]:
            del self._waiting[job_id]

    async def _wait(self, waiting: Deferred[Message]) -> Message | None:
        """Return the owner's message, or :data:`None` if it is too busy to send it in time."""
        try:
            return await waiting.addTimeout(OWNER_TIMEOUT, self._clock)
        except DeferredTimeoutError:
            return None
