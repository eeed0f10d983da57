"""A job's way when there are several nodes."""

from collections import Counter

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from jobproxy.cluster.interface import IStore, Kind, Message, Placement
from jobproxy.cluster.peers import Peers
from jobproxy.entries import Delivery, Entry, Orphan
from jobproxy.gateway import Gateway, alias_of, fingerprint_of
from jobproxy.messages import Job, parse_report
from jobproxy.problems import (
    CallbackConflict,
    IdempotencyKeyReused,
    NotFound,
    Problem,
    StoreUnreachable,
)
from jobproxy.terms import Terms
from jobproxy.tokens import is_handle, node_of

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
    peers: Peers = field(kw_only=True)
    node: str = field(kw_only=True)
    #: What became of callbacks that came here although another node has their job.
    relays: Counter[str] = field(factory=Counter, init=False)

    def __attrs_post_init__(self) -> None:
        self.starter.guard = lambda entry: Deferred.fromCoroutine(self.peers.claim(entry))

    def recall(self, job: Job, key: str) -> Deferred[Entry | None]:
        """:return: fails with :class:`StoreUnreachable` too, if nobody here knows the key."""
        return Deferred.fromCoroutine(self._recall(alias_of(job, key), fingerprint_of(job)))

    async def _recall(self, alias: bytes, fingerprint: bytes) -> Entry | None:
        entry = self._recall_here(alias, fingerprint)
        if entry is not None and not self.peers.is_open_elsewhere(entry):
            return entry
        try:
            claim = await self.store.look_up(alias)
        except StoreUnreachable:
            if entry is not None:
                return entry
            raise
        if claim is None:
            return entry
        if claim.fingerprint != fingerprint:
            raise IdempotencyKeyReused
        return await self.peers.recall(alias, claim)

    def find(self, handle: str, terms: Terms) -> Deferred[Entry]:
        entry = self.table.find(handle)
        is_elsewhere = is_handle(handle) and not self.peers.is_ours(handle)
        if is_elsewhere and (entry is None or self.peers.is_open_elsewhere(entry)):
            return Deferred.fromCoroutine(self._find(handle, terms))
        self._take_orphan(handle)
        return super().find(handle, terms)

    async def _find(self, handle: str, terms: Terms) -> Entry:
        try:
            if await self.peers.find(handle) is None:
                raise NotFound
        except StoreUnreachable:
            if self.table.find(handle) is None:
                raise
        return await super().find(handle, terms)

    def join(self, entry: Entry, job: Job, terms: Terms) -> Deferred[Entry]:
        self._take_orphan(entry.handle)
        return super().join(entry, job, terms)

    def deliver(self, handle: str, body: bytes) -> Delivery | Deferred[Delivery]:
        """:return: fails with :class:`StoreUnreachable` if another node has the job, and the result
        may not be safe; the job server has to send it again.
        """
        if self.peers.is_ours(handle):
            return super().deliver(handle, body)
        return Deferred.fromCoroutine(self._relay(handle, body))

    async def _relay(self, handle: str, body: bytes) -> Delivery:
        owner, result = node_of(handle), "cut-off"
        try:
            if parse_report(body).is_progress:
                progress = Message(Kind.PROGRESS, handle, self.node, body)
                await self.store.tell(owner, progress)
                result, delivery = "progress", Delivery.PROGRESS
            else:
                placement = await self.store.put(handle, body, [owner])
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

    def find_reasons(self) -> list[str]:
        """A node that once was one of them goes on without the store, as its own jobs do."""
        joining = [] if self.store.is_joined else ["store-unreachable"]
        return super().find_reasons() + joining

    def list_orphans(self) -> Deferred[list[Orphan]]:
        return self.store.list_orphans()

    def find_orphan(self, handle: str) -> Deferred[bytes | None]:
        return self.store.find_orphan(handle)

    def drop_orphan(self, handle: str) -> Deferred[None]:
        self.table.drop_orphan(handle)
        if not self.peers.is_ours(handle):
            gone = Message(Kind.GONE, handle, self.node)
            self.peers.outbox.send(lambda: self.store.tell(node_of(handle), gone))
        return self.store.discard(handle)

    def _hold(self, entry: Entry, job: Job, terms: Terms) -> Deferred[Entry]:
        return super()._hold(entry, job, terms).addCallbacks(self._note, self._note_failure)

    def _note(self, entry: Entry) -> Entry:
        """Have other nodes know of a job that a client may ask them for later."""
        if entry.result is None and self.peers.is_ours(entry.handle):
            handle, ack = entry.handle, entry.ack.body if entry.ack else b""
            self.peers.outbox.send(lambda: self.store.note(handle, ack), len(ack))
        return entry

    def _note_failure(self, failure: Failure) -> Failure:
        handle = failure.value.job if isinstance(failure.value, Problem) else None
        entry = self.table.find(handle) if handle is not None else None
        if entry is not None and entry.started != "no":
            self._note(entry)
        return failure

    def _take_orphan(self, handle: str) -> None:
        """Have it known everywhere that somebody asks for a result that nobody waited for."""
        entry = self.table.find(handle)
        is_mirrored = entry is not None and entry.result and not self.peers.is_ours(handle)
        if is_mirrored or self.table.find_orphan(handle) is not None:
            self.peers.outbox.send(lambda: self.store.fetch([handle]))
