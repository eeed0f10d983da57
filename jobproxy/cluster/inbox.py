"""The inbox: the messages of other nodes, and what a node does when it may have missed some."""

from attrs import define, field
from twisted.internet.defer import Deferred

from jobproxy.cluster.claims import Claims
from jobproxy.cluster.outbox import Outbox
from jobproxy.cluster.remote_jobs import RemoteJobs
from jobproxy.cluster.replicator import Replicator
from jobproxy.cluster.thin_relay import ThinRelay
from jobproxy.jobs import job_problems
from jobproxy.jobs.events import Source
from jobproxy.jobs.record import JobRecord
from jobproxy.jobs.states import State
from jobproxy.jobs.table import CorrelationTable
from jobproxy.store.interface import IStore, Message, MessageKind
from jobproxy.util.chunks import chunked
from jobproxy.wire.reports import read_stored
from jobproxy.wire.tokens import node_of


@define(eq=False)
class Inbox:
    """Receives the messages to this node; see :class:`Listener`.

    :param node: the name of this node.
    :ivar gaps: how many times messages may have been missed.
    :ivar found: how many results were found in the store after such a gap.
    """

    _table: CorrelationTable
    _store: IStore
    _remote_jobs: RemoteJobs
    _claims: Claims
    _replicator: Replicator
    _outbox: Outbox
    _thin: ThinRelay
    _node: str
    gaps: int = field(default=0, init=False)
    found: int = field(default=0, init=False)

    def receive(self, message: Message) -> None:
        kind = message.kind
        if kind is MessageKind.WATCH:
            self._send_state(message)
            return
        if kind is MessageKind.THIN:
            record = self._table.find(message.job_id)
            if record is not None:
                self._thin.receive(record, message.body)
            return
        if kind in {MessageKind.RESULT, MessageKind.PROGRESS}:
            self._complete(message.job_id, message.body)
        elif kind in {MessageKind.NOT_STARTED, MessageKind.GONE}:
            self._fail(message)
        elif kind is MessageKind.STATE and message.body:
            self._acknowledge(message)
        self._remote_jobs.resolve(message)

    def catch_up(self) -> Deferred[None]:
        """Ask for the results of all jobs that may run, and put all claims into the store again."""
        self.gaps += 1
        return Deferred.fromCoroutine(self._catch_up())

    async def _catch_up(self) -> None:
        records = [record for record in self._table.unended() if record.state is not State.QUEUED]
        for chunk in chunked(records):
            bodies = await self._store.collect_results([record.job_id for record in chunk])
            for record, body in zip(chunk, bodies, strict=True):
                if body is not None:
                    self.found += 1
                    self._complete(record.job_id, body)
                elif not self._remote_jobs.is_ours(record.job_id):
                    watch = Message(MessageKind.WATCH, record.job_id, self._node)
                    self._send(node_of(record.job_id), watch)
        await self._outbox.send_again()
        for claims in chunked(self._claims.list_known()):
            await self._store.put_claims_again(claims)

    def _complete(self, job_id: str, body: bytes) -> None:
        """Deliver a callback that another node received."""
        is_ours = self._remote_jobs.is_ours(job_id)
        known = self._table.find(job_id)
        if known is None and not is_ours:
            return
        has_waiters = known is not None and bool(known.waiters)
        report = read_stored(body)
        delivery, record = self._table.complete(job_id, report, Source.ELSEWHERE)
        result = None if record is None else record.result
        is_other = result is not None and not report.is_progress and result.stored != body
        if delivery.is_refused or is_other:
            # The table has logged it. The correct result can still come, or is here already.
            self._outbox.send(lambda: self._store.discard_result(job_id), again=False)
            if record is not None and is_ours:
                self._replicator.publish_again(record)
        elif record is not None and result is not None and is_ours:
            self._confirm(record)
        elif has_waiters and not is_ours:
            # The node that stored the result may have taken it for an orphan.
            self._outbox.send(lambda: self._store.collect_results([job_id]))

    def _confirm(self, record: JobRecord) -> None:
        """Confirm a result of a job of this node; until then it may become an orphan."""
        job_id, key_digest = record.job_id, record.key_digest
        is_collected = not record.is_orphan
        self._outbox.send(
            lambda: self._store.confirm(job_id, key_digest=key_digest, is_collected=is_collected)
        )

    def _acknowledge(self, message: Message) -> None:
        record = self._table.find(message.job_id)
        if record is not None and self._remote_jobs.may_be_outdated(record) and record.ack is None:
            self._table.acknowledge(record, read_stored(message.body))

    def _fail(self, message: Message) -> None:
        """End a remote job that has no result; forget an orphan of this node."""
        job_id = message.job_id
        record = self._table.find(job_id)
        if self._remote_jobs.is_ours(job_id):
            self._table.retention.drop_orphan(job_id)
        elif record is not None and message.kind is MessageKind.NOT_STARTED:
            self._table.fail(record, job_problems.not_started_by_owner())
        elif record is not None and not record.is_ended:
            ending = self._claims.end_gone
            self._outbox.send(lambda: Deferred.fromCoroutine(ending(record)), again=False)

    def _send_state(self, message: Message) -> None:
        """Send the state of a job of this node to the node that watches it."""
        job_id, sender = message.job_id, message.sender
        record = self._table.find(job_id)
        if record is not None and record.result is not None:
            body, key_digest = record.result.stored, record.key_digest
            self._outbox.send(
                lambda: self._store.put_result(
                    job_id, body, [sender], key_digest=key_digest, is_orphan=False
                ),
                len(body),
            )
            return
        kind, body = MessageKind.GONE, b""
        if record is not None and record.is_ended and record.is_unstarted:
            kind = MessageKind.NOT_STARTED
        elif record is not None:
            # Also if the job has failed: its callback can still come.
            self._replicator.add_watcher(job_id, sender)
            kind, body = MessageKind.STATE, record.ack.stored if record.ack else b""
        self._send(sender, Message(kind, job_id, self._node, body))

    def _send(self, node: str, message: Message) -> None:
        """Send a message once: a node that misses it asks again."""
        self._outbox.send(lambda: self._store.send(node, message), again=False)
