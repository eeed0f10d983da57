"""Jobs that other nodes hold, and what those nodes are told of ours."""

from collections.abc import Iterator
from itertools import islice

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeoutError
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from jobproxy.cluster.herald import Herald
from jobproxy.cluster.interface import Claim, IStore, Kind, Message
from jobproxy.cluster.limits import ANSWER_TIME
from jobproxy.cluster.outbox import Outbox
from jobproxy.correlation import CorrelationTable
from jobproxy.entries import Entry, State
from jobproxy.messages import parse_report
from jobproxy.problems import (
    CallbackConflict,
    IdempotencyKeyReused,
    Problem,
    UpstreamUnreachable,
)
from jobproxy.tokens import node_of

_log = Logger()

#: How many jobs the store is asked for at once.
CHUNK = 256


@define(eq=False)
class Peers:
    """Speaks with the other nodes about jobs.

    A job of another node that somebody asks for here gets an entry here too, a *mirror*, which ends
    when its node says so.

    :param node: the name of this one.
    """

    _clock: IReactorTime
    _table: CorrelationTable
    _store: IStore
    _herald: Herald
    _node: str
    _asked: dict[str, list[Deferred[Message]]] = field(factory=dict, init=False, repr=False)
    #: How many times messages may have been missed, and how many results were found then.
    gaps: int = field(default=0, init=False)
    found: int = field(default=0, init=False)

    @property
    def outbox(self) -> Outbox:
        """What other nodes are told in the background."""
        return self._herald.outbox

    def is_ours(self, handle: str) -> bool:
        """Whether this node made a handle."""
        return node_of(handle) == self._node

    def is_open_elsewhere(self, entry: Entry) -> bool:
        """Whether another node's job may have gone on by more than is known here."""
        return entry.state is not State.ENDED and not self.is_ours(entry.handle)

    async def find(
        self,
        handle: str,
        *,
        alias: bytes | None = None,
        fingerprint: bytes = b"",
        is_claimed: bool = False,
    ) -> Entry | None:
        """Return the mirror of another node's job.

        :param alias: by which clients here are to find it from now on.
        :param is_claimed: whether it is known that there is such a job.
        :return: nothing if it has not been started, or nobody knows of it.
        :raises StoreUnreachable: if that cannot be known.
        """
        told: Deferred[Message] = Deferred()
        # Before the store is asked, so that no result can come in between unnoticed.
        self._asked.setdefault(handle, []).append(told)
        try:
            result, ack = await self._store.find(handle)
            message = None
            if result is None:
                watch = Message(Kind.WATCH, handle, self._node)
                # Whoever has its result may have told all meanwhile.
                if await self._store.tell(node_of(handle), watch) or told.called:
                    message = await _wait(told, self._clock)
                elif not (is_claimed or ack is not None):
                    return None
        finally:
            self._asked[handle].remove(told)
            if not self._asked[handle]:
                del self._asked[handle]
        entry = self._table.find(handle)
        if message is not None:
            if message.kind is Kind.GONE:
                return entry
            result = message.body if message.kind is Kind.RESULT else None
            ack = message.body if message.kind is Kind.STATE else None
        if entry is None:
            report = parse_report(ack) if ack else None
            entry = self._table.adopt(handle, report, alias=alias, fingerprint=fingerprint)
        if result is not None:
            self._table.conclude(entry, parse_report(result))
        return entry

    async def claim(self, entry: Entry) -> bool:
        """Have the right to start a job; to be called before its first start.

        :return: whether it may be started; if not, somebody else starts it, and it ends with that.
        :raises IdempotencyKeyReused: if another job has its alias.
        :raises StoreUnreachable: if it is not known who may.
        """
        assert entry.alias is not None
        claim = Claim(entry.handle, entry.fingerprint)
        while True:
            counts = await self._store.claim(entry.alias, claim)
            if counts.handle == claim.handle:
                return True
            if counts.fingerprint != claim.fingerprint:
                raise IdempotencyKeyReused
            leader = await self.recall(entry.alias, counts)
            if leader is not None:
                self._follow(entry, leader)
                return False

    async def recall(self, alias: bytes, claim: Claim) -> Entry | None:
        """Return what is known of a job that was claimed; if it is gone, so is the claim then."""
        entry = self._table.find(claim.handle)
        is_unknown = entry is None and not self.is_ours(claim.handle)
        if is_unknown or (entry is not None and self.is_open_elsewhere(entry)):
            entry = await self.find(
                claim.handle, alias=alias, fingerprint=claim.fingerprint, is_claimed=True
            )
        if entry is None or (entry.state is State.ENDED and entry.result is None):
            await self._store.release(alias, claim)
            return None
        return entry

    def take(self, message: Message) -> None:
        """Take what another node says."""
        asked = self._asked.get(message.handle)
        if message.kind is Kind.WATCH:
            self._answer(message)
        elif message.kind in {Kind.RESULT, Kind.PROGRESS}:
            self._complete(message.handle, message.body)
        elif message.kind is Kind.GONE:
            self._lose(message.handle)
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
        entries = [entry for entry in self._table.unended() if entry.state is not State.QUEUED]
        for chunk in _chunks(iter(entries)):
            bodies = await self._store.fetch([entry.handle for entry in chunk])
            for entry, body in zip(chunk, bodies, strict=True):
                if body is not None:
                    self.found += 1
                    self._complete(entry.handle, body)
                elif not self.is_ours(entry.handle):
                    watch = Message(Kind.WATCH, entry.handle, self._node)
                    self._say(node_of(entry.handle), watch)
        await self.outbox.send_again()
        claimed = [entry for entry in self._table.aliased() if self._is_claimed(entry)]
        for chunk in _chunks(iter(claimed)):
            await self._store.reclaim(
                [(entry.alias or b"", Claim(entry.handle, entry.fingerprint)) for entry in chunk]
            )

    def _is_claimed(self, entry: Entry) -> bool:
        # Who follows another job was not sent.
        is_sent = entry.sent is not None and entry.started != "no"
        return is_sent and self.is_ours(entry.handle)

    def _complete(self, handle: str, body: bytes) -> None:
        """Take a callback that came to another node."""
        if self._table.find(handle) is None and not self.is_ours(handle):
            return
        known, is_right = self._table.find(handle), True
        is_awaited = known is not None and bool(known.waiters)
        report = parse_report(body)
        self._herald.arriving = handle
        try:
            self._table.complete(handle, report)
        except CallbackConflict:
            is_right = False
        finally:
            self._herald.arriving = ""
        entry = self._table.find(handle)
        result = None if entry is None else entry.result
        if not is_right or (result is not None and not report.is_progress and result.body != body):
            # It is logged; the right one can still come, or has.
            self.outbox.send(lambda: self._store.discard(handle), again=False)
            if entry is not None and self.is_ours(handle):
                self._herald.repeat(entry)
        elif is_awaited and not self.is_ours(handle):
            # Whoever put it there may have thought that nobody waits for it.
            self.outbox.send(lambda: self._store.fetch([handle]))

    def _take_ack(self, message: Message) -> None:
        entry = self._table.find(message.handle)
        if entry is not None and self.is_open_elsewhere(entry) and entry.ack is None:
            self._table.advance(entry, State.RUNNING, ack=parse_report(message.body))
            self._herald.tell_ack(entry)

    def _lose(self, handle: str) -> None:
        """Take it that a job is gone: it was not started, or its result is not wanted."""
        entry = self._table.find(handle)
        if self.is_ours(handle):
            self._table.drop_orphan(handle)
        elif entry is not None:
            self._table.fail(entry, _gone())

    def _answer(self, message: Message) -> None:
        """Tell another node how one of our jobs goes."""
        handle, sender = message.handle, message.sender
        entry = self._table.find(handle)
        if entry is not None and entry.result is not None:
            body, alias = entry.result.body, entry.alias
            self.outbox.send(
                lambda: self._store.put(handle, body, [sender], alias=alias, is_orphan=False),
                len(body),
            )
            return
        kind, body = Kind.GONE, b""
        if entry is not None and entry.state is not State.ENDED:
            self._herald.add_watcher(handle, sender)
            kind, body = Kind.STATE, entry.ack.body if entry.ack else b""
        self._say(sender, Message(kind, handle, self._node, body))

    def _say(self, node: str, message: Message) -> None:
        """Say something that is of no use later: who wants to know it asks again."""
        self.outbox.send(lambda: self._store.tell(node, message), again=False)

    def _follow(self, entry: Entry, leader: Entry) -> None:
        """Have a job end as another does, which has the same alias and is started elsewhere."""
        _log.info("job {job} is started as job {leader}", **entry.names, leader=leader.handle)
        self._table.hand_over(entry, leader.ack)
        if leader.result is not None:
            self._table.conclude(entry, leader.result)
        else:
            self._herald.add_follower(leader.handle, lambda told: self._go_along(entry, told))

    def _go_along(self, entry: Entry, leader: Entry) -> None:
        if leader.result is not None:
            self._table.conclude(entry, leader.result)
        elif isinstance(leader.outcome, Problem):
            self._table.fail(entry, _gone())
        elif leader.ack is not None:
            self._table.advance(entry, State.RUNNING, ack=leader.ack)


async def _wait(told: Deferred[Message], clock: IReactorTime) -> Message | None:
    """Wait for what a node that lives has to say; it may be too busy to say it soon."""
    try:
        return await told.addTimeout(ANSWER_TIME, clock)
    except DeferredTimeoutError:
        return None


def _chunks(entries: Iterator[Entry]) -> Iterator[list[Entry]]:
    while chunk := list(islice(entries, CHUNK)):
        yield chunk


def _gone() -> Problem:
    return UpstreamUnreachable("The node that had the job did not start it.", retry_after=1)
