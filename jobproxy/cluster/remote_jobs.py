"""Jobs that other nodes hold, and what those nodes are told of ours."""

from collections.abc import Iterator
from itertools import islice

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeoutError
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from jobproxy.cluster.outbox import Outbox
from jobproxy.cluster.replicator import Replicator
from jobproxy.jobs.events import Source
from jobproxy.jobs.record import JobRecord, State
from jobproxy.jobs.table import CorrelationTable
from jobproxy.store.interface import Claim, IStore, Kind, Message
from jobproxy.store.limits import ANSWER_TIME
from jobproxy.util.deadline import do_nothing
from jobproxy.wire.jobs import parse_report
from jobproxy.wire.problems import Kind as ProblemKind
from jobproxy.wire.problems import Problem, ProblemError
from jobproxy.wire.tokens import node_of

_log = Logger()

#: How many jobs the store is asked for at once.
CHUNK = 256


@define(eq=False)
class RemoteJobs:
    """Speaks with the other nodes about jobs.

    A job of another node that somebody asks for here gets an entry here too, a *mirror*, which ends
    when its node says so.

    :param node: the name of this one.
    """

    _clock: IReactorTime
    _table: CorrelationTable
    _store: IStore
    _replicator: Replicator
    _outbox: Outbox
    _node: str
    _asked: dict[str, list[Deferred[Message]]] = field(factory=dict, init=False, repr=False)
    #: How many times messages may have been missed, and how many results were found then.
    gaps: int = field(default=0, init=False)
    found: int = field(default=0, init=False)

    @property
    def open_questions(self) -> int:
        """How many jobs this node and others wait to hear of."""
        return len(self._asked) + len(self._replicator.watchers) + len(self._replicator.followers)

    def is_ours(self, job_id: str) -> bool:
        """Whether this node made a handle."""
        return node_of(job_id) == self._node

    def is_open_elsewhere(self, record: JobRecord) -> bool:
        """Whether another node's job may have gone on by more than is known here."""
        return not record.is_ended and not self.is_ours(record.job_id)

    async def find(
        self,
        job_id: str,
        *,
        key_digest: bytes | None = None,
        request_digest: bytes = b"",
        is_claimed: bool = False,
    ) -> JobRecord | None:
        """Return the mirror of another node's job.

        :param key_digest: by which clients here are to find it from now on.
        :param is_claimed: whether it is known that there is such a job.
        :return: nothing if it has not been started, or nobody knows of it.
        :raises StoreUnreachable: if that cannot be known.
        """
        told: Deferred[Message] = Deferred()
        # Before the store is asked, so that no result can come in between unnoticed.
        self._asked.setdefault(job_id, []).append(told)
        try:
            result, ack = await self._store.find(job_id)
            message = None
            if result is None:
                watch = Message(Kind.WATCH, job_id, self._node)
                # Whoever has its result may have told all meanwhile.
                if await self._store.send(node_of(job_id), watch) or told.called:
                    message = await _wait(told, self._clock)
                elif not (is_claimed or ack is not None):
                    return None
        finally:
            self._asked[job_id].remove(told)
            if not self._asked[job_id]:
                del self._asked[job_id]
        record = self._table.find(job_id)
        if message is not None:
            if message.kind is Kind.GONE:
                return record
            result = message.body if message.kind is Kind.RESULT else None
            ack = message.body if message.kind is Kind.STATE else None
        if record is None:
            report = parse_report(ack) if ack else None
            record = self._table.create(
                job_id, do_nothing, key_digest=key_digest, request_digest=request_digest
            )
            self._table.hand_over(record, report)
        if result is not None:
            self._table.conclude(record, parse_report(result))
        return record

    async def claim(self, record: JobRecord) -> bool:
        """Have the right to start a job; to be called before its first start.

        :return: whether it may be started; if not, somebody else starts it, and it ends with that.
        :raises ProblemError: if the key belongs to another request.
        :raises StoreUnreachable: if it is not known who may.
        """
        assert record.key_digest is not None
        claim = Claim(record.job_id, record.request_digest)
        while True:
            counts = await self._store.claim(record.key_digest, claim)
            if counts.job_id == claim.job_id:
                return True
            if counts.request_digest != claim.request_digest:
                raise key_reused()
            leader = await self.recall(record.key_digest, counts)
            if leader is not None:
                self._follow(record, leader)
                return False

    async def recall(self, key_digest: bytes, claim: Claim) -> JobRecord | None:
        """Return what is known of a job that was claimed; if it is gone, so is the claim then."""
        record = self._table.find(claim.job_id)
        is_unknown = record is None and not self.is_ours(claim.job_id)
        if is_unknown or (record is not None and self.is_open_elsewhere(record)):
            record = await self.find(
                claim.job_id,
                key_digest=key_digest,
                request_digest=claim.request_digest,
                is_claimed=True,
            )
        if record is None or (record.is_ended and record.result is None):
            await self._store.release(key_digest, claim)
            return None
        return record

    def receive(self, message: Message) -> None:
        """Receive a message from another node."""
        asked = self._asked.get(message.job_id)
        if message.kind is Kind.WATCH:
            self._answer(message)
        elif message.kind in {Kind.RESULT, Kind.PROGRESS}:
            self._complete(message.job_id, message.body)
        elif message.kind is Kind.GONE:
            self._lose(message.job_id)
        elif message.kind is Kind.STATE and message.body:
            self._take_ack(message)
        if asked and message.kind is not Kind.WATCH:
            for told in list(asked):
                if not told.called:
                    told.callback(message)

    def catch_up(self) -> Deferred[None]:
        """Ask for the results of all jobs under way, and claim again what was claimed."""
        self.gaps += 1
        return Deferred.fromCoroutine(self._catch_up())

    async def _catch_up(self) -> None:
        records = [record for record in self._table.unended() if record.state is not State.QUEUED]
        for chunk in _chunks(iter(records)):
            bodies = await self._store.fetch([record.job_id for record in chunk])
            for record, body in zip(chunk, bodies, strict=True):
                if body is not None:
                    self.found += 1
                    self._complete(record.job_id, body)
                elif not self.is_ours(record.job_id):
                    watch = Message(Kind.WATCH, record.job_id, self._node)
                    self._say(node_of(record.job_id), watch)
        await self._outbox.send_again()
        claimed = [record for record in self._table.keyed() if self._is_claimed(record)]
        for chunk in _chunks(iter(claimed)):
            await self._store.reclaim(
                [
                    (record.key_digest or b"", Claim(record.job_id, record.request_digest))
                    for record in chunk
                ]
            )

    def _is_claimed(self, record: JobRecord) -> bool:
        # Who follows another job was not sent.
        is_sent = record.sent is not None and record.started != "no"
        return is_sent and self.is_ours(record.job_id)

    def _complete(self, job_id: str, body: bytes) -> None:
        """Take a callback that came to another node."""
        if self._table.find(job_id) is None and not self.is_ours(job_id):
            return
        known = self._table.find(job_id)
        is_awaited = known is not None and bool(known.waiters)
        report = parse_report(body)
        delivery = self._table.complete(job_id, report, Source.ELSEWHERE)
        record = self._table.find(job_id)
        result = None if record is None else record.result
        is_other = result is not None and not report.is_progress and result.body != body
        if delivery.is_refused or is_other:
            # It is logged; the right one can still come, or has.
            self._outbox.send(lambda: self._store.discard(job_id), again=False)
            if record is not None and self.is_ours(job_id):
                self._replicator.publish_again(record)
        elif is_awaited and not self.is_ours(job_id):
            # Whoever put it there may have thought that nobody waits for it.
            self._outbox.send(lambda: self._store.fetch([job_id]))

    def _take_ack(self, message: Message) -> None:
        record = self._table.find(message.job_id)
        if record is not None and self.is_open_elsewhere(record) and record.ack is None:
            self._table.acknowledge(record, parse_report(message.body))

    def _lose(self, job_id: str) -> None:
        """Take it that a job is gone: it was not started, or its result is not wanted."""
        record = self._table.find(job_id)
        if self.is_ours(job_id):
            self._table.drop_orphan(job_id)
        elif record is not None:
            self._table.fail(record, _gone())

    def _answer(self, message: Message) -> None:
        """Tell another node how one of our jobs goes."""
        job_id, sender = message.job_id, message.sender
        record = self._table.find(job_id)
        if record is not None and record.result is not None:
            body, key_digest = record.result.body, record.key_digest
            self._outbox.send(
                lambda: self._store.put(
                    job_id, body, [sender], key_digest=key_digest, is_orphan=False
                ),
                len(body),
            )
            return
        kind, body = Kind.GONE, b""
        if record is not None and not record.is_ended:
            self._replicator.add_watcher(job_id, sender)
            kind, body = Kind.STATE, record.ack.body if record.ack else b""
        self._say(sender, Message(kind, job_id, self._node, body))

    def _say(self, node: str, message: Message) -> None:
        """Say something that is of no use later: who wants to know it asks again."""
        self._outbox.send(lambda: self._store.send(node, message), again=False)

    def _follow(self, record: JobRecord, leader: JobRecord) -> None:
        """Have a job end as another does, which has the same alias and is started elsewhere."""
        _log.info("job {job} is started as job {leader}", **record.log_fields, leader=leader.job_id)
        self._table.hand_over(record, leader.ack)
        if leader.result is not None:
            self._table.conclude(record, leader.result)
        else:
            self._replicator.add_follower(leader.job_id, lambda told: self._go_along(record, told))

    def _go_along(self, record: JobRecord, leader: JobRecord) -> None:
        if leader.result is not None:
            self._table.conclude(record, leader.result)
        elif leader.problem is not None:
            self._table.fail(record, _gone())
        elif leader.ack is not None:
            self._table.acknowledge(record, leader.ack)


async def _wait(told: Deferred[Message], clock: IReactorTime) -> Message | None:
    """Wait for what a node that lives has to say; it may be too busy to say it soon."""
    try:
        return await told.addTimeout(ANSWER_TIME, clock)
    except DeferredTimeoutError:
        return None


def _chunks(records: Iterator[JobRecord]) -> Iterator[list[JobRecord]]:
    while chunk := list(islice(records, CHUNK)):
        yield chunk


def _gone() -> Problem:
    detail = "The node that had the job did not start it."
    return Problem(ProblemKind.UPSTREAM_UNREACHABLE, detail, retry_after=1)


def key_reused() -> ProblemError:
    """Return the error of a key that belongs to another request."""
    detail = "Another job was sent with this key; send this one with a key of its own."
    return ProblemError(Problem(ProblemKind.IDEMPOTENCY_KEY_REUSED, detail))
