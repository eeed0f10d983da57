"""The replicator: writes to the store what other nodes need to know of this node's jobs."""

from collections.abc import Callable
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from jobproxy.cluster.outbox import Outbox
from jobproxy.jobs.events import Observer, Source
from jobproxy.jobs.record import JobRecord
from jobproxy.jobs.states import State
from jobproxy.store.interface import Claim, IStore, Message, MessageKind, StoreUnreachable
from jobproxy.util.shield import shield
from jobproxy.wire.tokens import node_of

#: Seconds after its ack when a job with a key is noted in a local store, at most.
NOTE_DELAY = 1.0


@define(eq=False)
class Replicator:
    """Observes the table; stores results, and sends messages to the nodes that watch a job.

    A job without a key whose client is held is of no use to other nodes, so it is not stored.

    :param node: the name of this node.
    :param events: is called with each change before.
    :ivar watchers: the nodes that get a message when a job of this node ends, by job id.
    :ivar followers: functions to call when a remote job is acknowledged or ends, by job id.
    """

    _clock: IReactorTime
    _store: IStore
    outbox: Outbox
    _node: str
    _events: Observer
    #: Acknowledged jobs with a key that are not in the store yet, by job id.
    _unnoted: dict[str, JobRecord] = field(factory=dict, init=False, repr=False)
    _timer: IDelayedCall | None = field(default=None, init=False)
    #: The results that are being stored, by job id.
    _storing: dict[str, Deferred[bool]] = field(factory=dict, init=False, repr=False)
    watchers: dict[str, set[str]] = field(factory=dict, init=False, repr=False)
    followers: dict[str, list[Callable[[JobRecord], object]]] = field(
        factory=dict, init=False, repr=False
    )

    def job_changed(self, record: JobRecord, source: Source) -> None:
        self._events.job_changed(record, source)
        is_known = record.may_be_asked_for or self.watchers or self.followers
        if not is_known and (record.waiters or record.result is None):
            # Usually nobody else can ask for the job.
            return
        if record.is_ended:
            self._unnoted.pop(record.job_id, None)
            if node_of(record.job_id) == self._node:
                self._publish_end(record, source)
            for follow in self.followers.pop(record.job_id, ()):
                follow(record)
        elif record.ack is not None:
            self._publish_ack(record)
        elif self._store.is_local and record.sent is not None and not record.starts:
            # It was not read, and may be sent again much later: a process that starts meanwhile
            # must not believe that the job runs. Not repeated, as the key may have been claimed
            # again by then.
            self._release_claim(record, again=False)

    def client_left(self, record: JobRecord) -> None:
        self._events.client_left(record)

    def client_timed_out(self, record: JobRecord) -> None:
        self._events.client_timed_out(record)
        is_ours = node_of(record.job_id) == self._node or self._store.is_local
        if is_ours and not record.is_unstarted:
            # The client's time is up, so that it does not wait for this.
            self.put_note(record)

    def failure_forgotten(self, record: JobRecord) -> None:
        self._events.failure_forgotten(record)
        self.watchers.pop(record.job_id, None)

    def stop(self) -> None:
        """Put no more notes into the store; to be called when it is closed."""
        self._unnoted.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def put_note(self, record: JobRecord) -> Deferred[bool]:
        """Note in the store that a job exists; fires with whether that succeeded."""
        job_id, ack = record.job_id, record.ack.stored if record.ack else b""
        return self.outbox.send(lambda: self._store.put_note(job_id, ack), len(ack))

    def add_watcher(self, job_id: str, node: str) -> None:
        """Send a node one message when a job ends; the job must not have ended yet."""
        self.watchers.setdefault(job_id, set()).add(node)

    def add_follower(self, job_id: str, follow: Callable[[JobRecord], object]) -> None:
        """Call a function with a job's record when the job is acknowledged, and when it ends."""
        self.followers.setdefault(job_id, []).append(follow)

    def publish_again(self, record: JobRecord) -> None:
        """Store a job's result once more, if there is one and anybody can ask for it."""
        if record.result is not None and (record.is_orphan or record.may_be_asked_for):
            self._put(record, [])

    def store(self, record: JobRecord) -> Deferred[None]:
        """Store the result of a job, if that has not begun already.

        :return: fires once it is stored; fails with :class:`StoreUnreachable`.
        """
        storing = self._storing.get(record.job_id)
        if storing is None:
            # It was stored before, or that failed: the outbox has it, but that is not enough.
            storing = self._put(record, [], again=False)
        return shield(storing).addCallback(_check_stored)

    def _publish_ack(self, record: JobRecord) -> None:
        """Send the ack to the watchers, and call the followers."""
        assert record.ack is not None
        if self._store.is_local and record.key_digest and node_of(record.job_id) == self._node:
            self._note_soon(record)
        if record.job_id in self.watchers:
            state = Message(MessageKind.STATE, record.job_id, self._node, record.ack.stored)
            for node in sorted(self.watchers[record.job_id]):
                self._send(self._store.send, node, state)
        for follow in self.followers.get(record.job_id, ()):
            follow(record)

    def _note_soon(self, record: JobRecord) -> None:
        """Note a job with a key if it has not ended after a while; most jobs have by then."""
        self._unnoted[record.job_id] = record
        if self._timer is None:
            self._timer = self._clock.callLater(NOTE_DELAY, self._note_all)

    def _note_all(self) -> None:
        self._timer = None
        unnoted, self._unnoted = self._unnoted, {}
        for record in unnoted.values():
            self.put_note(record)

    def _publish_end(self, record: JobRecord, source: Source) -> None:
        job_id = record.job_id
        if record.result is not None:
            watchers = sorted(self.watchers.pop(job_id, ()))
            is_stored = source is Source.ELSEWHERE
            if watchers or record.is_orphan or (record.may_be_asked_for and not is_stored):
                self._put(record, watchers)
        elif record.is_unstarted:
            for node in sorted(self.watchers.pop(job_id, ())):
                self._send(
                    self._store.send, node, Message(MessageKind.NOT_STARTED, job_id, self._node)
                )
            self._release_claim(record, again=True)
        elif record.state is State.FORGOTTEN:
            self.watchers.pop(job_id, None)
        # Otherwise the callback can still come, to any node.

    def _release_claim(self, record: JobRecord, *, again: bool) -> None:
        key_digest, claim = record.key_digest, Claim(record.job_id, record.request_digest)
        if key_digest is not None:
            self.outbox.send(lambda: self._store.release_claim(key_digest, claim), again=again)

    def _put(self, record: JobRecord, watchers: list[str], *, again: bool = True) -> Deferred[bool]:
        assert record.result is not None
        job_id, body, key_digest = record.job_id, record.result.stored, record.key_digest
        upstream_id, is_orphan = record.upstream_id, record.is_orphan

        def put() -> Deferred[Any]:
            return self._store.put_result(
                job_id,
                body,
                watchers,
                key_digest=key_digest,
                is_orphan=is_orphan,
                upstream_id=upstream_id,
            )

        self._storing[job_id] = storing = self.outbox.send(put, len(body), again=again)
        return storing.addBoth(self._end_storing, job_id, storing)

    def _end_storing(self, is_stored: Any, job_id: str, storing: Deferred[bool]) -> Any:
        if self._storing.get(job_id) is storing:
            del self._storing[job_id]
        return is_stored

    def _send(self, call: Callable[..., Deferred[Any]], *args: Any) -> None:
        self.outbox.send(lambda: call(*args))


def _check_stored(is_stored: bool) -> None:
    if not is_stored:
        raise StoreUnreachable
