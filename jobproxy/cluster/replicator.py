"""The replicator: lets other nodes know what became of this node's jobs, as far as they need it."""

from collections.abc import Callable
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred

from jobproxy.cluster.outbox import Outbox
from jobproxy.jobs.events import Source
from jobproxy.jobs.record import JobRecord
from jobproxy.store.interface import Claim, IStore, Kind, Message
from jobproxy.wire.tokens import node_of


@define(eq=False)
class Replicator:
    """Observes the table, and puts into the store what other nodes may be asked for.

    The result of a held client without a key is of no use to them: such a job costs the store
    nothing.

    :param node: the name of this one.
    :ivar watchers: the nodes that asked to be told how a job ends, by job id.
    :ivar followers: what is called when another node's job ends, by job id.
    """

    _store: IStore
    outbox: Outbox
    _node: str
    watchers: dict[str, set[str]] = field(factory=dict, init=False, repr=False)
    followers: dict[str, list[Callable[[JobRecord], object]]] = field(
        factory=dict, init=False, repr=False
    )

    def job_changed(self, record: JobRecord, source: Source) -> None:
        if not record.is_ended:
            if record.ack is not None:
                self._publish_ack(record)
            return
        if node_of(record.job_id) == self._node:
            self._publish_end(record, source)
        for follow in self.followers.pop(record.job_id, ()):
            follow(record)

    def client_left(self, record: JobRecord, reason: str) -> None:
        """Other nodes need not know."""

    def add_watcher(self, job_id: str, node: str) -> None:
        """Send a node a message, once, when a job ends that has not ended yet."""
        self.watchers.setdefault(job_id, set()).add(node)

    def add_follower(self, job_id: str, follow: Callable[[JobRecord], object]) -> None:
        """Call something with a job's record when the job ends."""
        self.followers.setdefault(job_id, []).append(follow)

    def publish_again(self, record: JobRecord) -> None:
        """Put a result into the store once more, if there was reason to."""
        if record.key_digest or record.runs_unattended:
            self._put(record, [], is_orphan=False)

    def _publish_ack(self, record: JobRecord) -> None:
        """Let those who wait for a job's end know that its start was acknowledged."""
        assert record.ack is not None
        state = Message(Kind.STATE, record.job_id, self._node, record.ack.body)
        for node in sorted(self.watchers.get(record.job_id, ())):
            self._send(self._store.send, node, state)
        for follow in self.followers.get(record.job_id, ()):
            follow(record)

    def _publish_end(self, record: JobRecord, source: Source) -> None:
        watchers = sorted(self.watchers.pop(record.job_id, ()))
        claim = Claim(record.job_id, record.request_digest)
        if record.result is not None:
            is_orphan = not (record.waiters or record.runs_unattended)
            is_stored = source is Source.ELSEWHERE
            is_asked_for = bool(record.key_digest) or record.runs_unattended
            if watchers or is_orphan or (is_asked_for and not is_stored):
                self._put(record, watchers, is_orphan=is_orphan)
            elif record.key_digest is not None and is_stored:
                self._send(self._store.settle, record.key_digest, claim)
            return
        if record.started != "no":
            # The job may run; its result can come to any node.
            return
        for node in watchers:
            gone = Message(Kind.GONE, record.job_id, self._node)
            self._send(self._store.send, node, gone)
        if record.key_digest is not None:
            self._send(self._store.release, record.key_digest, claim)

    def _put(self, record: JobRecord, watchers: list[str], *, is_orphan: bool) -> None:
        if record.result is None:
            return
        job_id, body, key_digest = record.job_id, record.result.body, record.key_digest
        self.outbox.send(
            lambda: self._store.put(
                job_id, body, watchers, key_digest=key_digest, is_orphan=is_orphan
            ),
            len(body),
        )

    def _send(self, ask: Callable[..., Deferred[Any]], *words: Any) -> None:
        self.outbox.send(lambda: ask(*words))
