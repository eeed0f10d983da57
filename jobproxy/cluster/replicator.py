"""The herald: tells the other nodes what became of the jobs of this one, as far as they need it."""

from collections.abc import Callable
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred

from jobproxy.cluster.outbox import Outbox
from jobproxy.jobs.events import JobEvents
from jobproxy.jobs.record import JobRecord, State
from jobproxy.store.interface import Claim, IStore, Kind, Message
from jobproxy.wire.tokens import node_of


@define(eq=False)
class Replicator(JobEvents):
    """A journal that is kept for other nodes too.

    A result that its client got, and that nobody can ask for by another name, is of no use to
    them: a job that neither has a key nor goes on without a client costs the store nothing.

    :param node: the name of this one.
    :ivar arriving: the handle of the job whose result is just being taken from the store.
    """

    _store: IStore = field(kw_only=True)
    outbox: Outbox = field(kw_only=True)
    _node: str = field(kw_only=True)
    _watchers: dict[str, set[str]] = field(factory=dict, init=False, repr=False)
    _followers: dict[str, list[Callable[[JobRecord], object]]] = field(
        factory=dict, init=False, repr=False
    )
    arriving: str = field(default="", init=False, repr=False)

    def note(self, record: JobRecord) -> None:
        super().note(record)
        if record.state is not State.ENDED:
            if record.ack is not None:
                self.tell_ack(record)
            return
        if node_of(record.job_id) == self._node:
            self._tell(record)
        for follow in self._followers.pop(record.job_id, ()):
            follow(record)

    def add_watcher(self, job_id: str, node: str) -> None:
        """Tell a node, once, what becomes of a job that has not ended."""
        self._watchers.setdefault(job_id, set()).add(node)

    def add_follower(self, job_id: str, follow: Callable[[JobRecord], object]) -> None:
        """Have something called with a job's entry when that has ended."""
        self._followers.setdefault(job_id, []).append(follow)

    def tell_ack(self, record: JobRecord) -> None:
        """Tell who waits for a job's end that its start was acknowledged."""
        assert record.ack is not None
        state = Message(Kind.STATE, record.job_id, self._node, record.ack.body)
        for node in sorted(self._watchers.get(record.job_id, ())):
            self._send(self._store.tell, node, state)
        for follow in self._followers.get(record.job_id, ()):
            follow(record)

    def repeat(self, record: JobRecord) -> None:
        """Put a result into the store again, if there was reason to."""
        if record.result is not None and (record.key_digest or record.runs_unattended):
            self._put(record, [], is_orphan=False)

    def _tell(self, record: JobRecord) -> None:
        watchers = sorted(self._watchers.pop(record.job_id, ()))
        claim = Claim(record.job_id, record.request_digest)
        if record.result is not None:
            is_orphan = not (record.waiters or record.runs_unattended)
            is_new = record.job_id != self.arriving
            if watchers or is_orphan or (is_new and (record.key_digest or record.runs_unattended)):
                self._put(record, watchers, is_orphan=is_orphan)
            elif record.key_digest is not None and not is_new:
                self._send(self._store.settle, record.key_digest, claim)
            return
        if record.started != "no":
            # The job may run; its result can come to any node.
            return
        for node in watchers:
            gone = Message(Kind.GONE, record.job_id, self._node)
            self._send(self._store.tell, node, gone)
        if record.key_digest is not None:
            self._send(self._store.release, record.key_digest, claim)

    def _put(self, record: JobRecord, watchers: list[str], *, is_orphan: bool) -> None:
        assert record.result is not None
        job_id, body, key_digest = record.job_id, record.result.body, record.key_digest
        self.outbox.send(
            lambda: self._store.put(
                job_id, body, watchers, key_digest=key_digest, is_orphan=is_orphan
            ),
            len(body),
        )

    def _send(self, ask: Callable[..., Deferred[Any]], *words: Any) -> None:
        self.outbox.send(lambda: ask(*words))
