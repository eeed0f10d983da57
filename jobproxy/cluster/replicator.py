"""The replicator: writes to the store what other nodes need to know of this node's jobs."""

from collections.abc import Callable
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred

from jobproxy.cluster.outbox import Outbox
from jobproxy.jobs.events import Source
from jobproxy.jobs.record import JobRecord, State
from jobproxy.store.interface import Claim, IStore, Message, MessageKind
from jobproxy.wire.tokens import node_of


@define(eq=False)
class Replicator:
    """Observes the table; stores results, and sends messages to the nodes that watch a job.

    A job without a key whose client is held is of no use to other nodes, so it is not stored.

    :param node: the name of this node.
    :ivar watchers: the nodes that get a message when a job of this node ends, by job id.
    :ivar followers: functions to call when a remote job is acknowledged or ends, by job id.
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
        """Do nothing: other nodes need not know."""

    def add_watcher(self, job_id: str, node: str) -> None:
        """Send a node one message when a job ends; the job must not have ended yet."""
        self.watchers.setdefault(job_id, set()).add(node)

    def add_follower(self, job_id: str, follow: Callable[[JobRecord], object]) -> None:
        """Call a function with a job's record when the job is acknowledged, and when it ends."""
        self.followers.setdefault(job_id, []).append(follow)

    def publish_again(self, record: JobRecord) -> None:
        """Store a result once more, if clients of other nodes can ask for it."""
        if record.key_digest or record.runs_unattended:
            self._put(record, [], is_orphan=False)

    def _publish_ack(self, record: JobRecord) -> None:
        """Send the ack to the watchers, and call the followers."""
        assert record.ack is not None
        state = Message(MessageKind.STATE, record.job_id, self._node, record.ack.body)
        for node in sorted(self.watchers.get(record.job_id, ())):
            self._send(self._store.send, node, state)
        for follow in self.followers.get(record.job_id, ()):
            follow(record)

    def _publish_end(self, record: JobRecord, source: Source) -> None:
        claim = Claim(record.job_id, record.request_digest)
        may_run = record.result is None and record.started != "no"
        if may_run and record.state is not State.FORGOTTEN:
            # The callback can still come, to any node.
            return
        watchers = sorted(self.watchers.pop(record.job_id, ()))
        if record.result is not None:
            is_orphan = not (record.waiters or record.runs_unattended)
            is_stored = source is Source.ELSEWHERE
            is_shared = bool(record.key_digest) or record.runs_unattended
            if watchers or is_orphan or (is_shared and not is_stored):
                self._put(record, watchers, is_orphan=is_orphan)
            elif record.key_digest is not None and is_stored:
                self._send(self._store.shorten_claim, record.key_digest, claim)
            return
        if may_run:
            return
        for node in watchers:
            message = Message(MessageKind.NO_RESULT, record.job_id, self._node)
            self._send(self._store.send, node, message)
        if record.key_digest is not None:
            self._send(self._store.release_claim, record.key_digest, claim)

    def _put(self, record: JobRecord, watchers: list[str], *, is_orphan: bool) -> None:
        if record.result is None:
            return
        job_id, body, key_digest = record.job_id, record.result.body, record.key_digest
        self.outbox.send(
            lambda: self._store.put_result(
                job_id, body, watchers, key_digest=key_digest, is_orphan=is_orphan
            ),
            len(body),
        )

    def _send(self, call: Callable[..., Deferred[Any]], *args: Any) -> None:
        self.outbox.send(lambda: call(*args))
