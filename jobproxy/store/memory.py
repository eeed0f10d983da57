"""A store for nodes in one process: for tests, and as the specification of the Redis store."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, TypeVar

from attrs import define, evolve, field
from twisted.internet.defer import Deferred, execute, succeed
from zope.interface import implementer

from jobproxy.store.interface import (
    Claim,
    IStore,
    Listener,
    Message,
    MessageKind,
    NullListener,
    Placement,
    StoreUnreachable,
)
from jobproxy.store.orphans import Orphan, Position, choose_orphans, make_orphan
from jobproxy.store.shared import Result, Shared
from jobproxy.store.slots import ISlotStore, SlotGrant
from jobproxy.store.times import NOTE_TIME
from jobproxy.util.histogram import Histogram

Returned = TypeVar("Returned")


@implementer(IStore, ISlotStore)
@define(eq=False)
class MemoryStore:
    """One node's access to the shared data; see :class:`IStore`."""

    _shared: Shared
    node: str
    is_local: ClassVar[bool] = False
    is_joined: bool = field(default=False, init=False)
    is_up: bool = field(default=False, init=False)
    calls: Counter[str] = field(factory=Counter, init=False)
    durations: Histogram = field(factory=Histogram, init=False, repr=False)
    _listener: Listener = field(factory=NullListener, init=False)

    def open(self, listener: Listener) -> None:
        self._listener = listener
        self.come_back()

    def close(self) -> Deferred[Any]:
        self.go_away()
        return succeed(None)

    def go_away(self) -> None:
        """Simulate a lost connection: receive nothing, and let all calls fail.

        The lease of the node ends at once: what it has not confirmed becomes an orphan.
        """
        self._shared.nodes.pop(self.node, None)
        self.is_up = False
        for job_id in self._shared.unconfirmed.pop(self.node, ()):
            self._shared.orphans[job_id] = None

    def come_back(self) -> None:
        """Connect, also after :meth:`go_away`."""
        self._shared.nodes[self.node] = self
        self.is_up = self.is_joined = True
        self.catch_up()

    def catch_up(self) -> None:
        """Call the listener to catch up."""
        self._listener.catch_up()

    def receive(self, message: Message) -> None:
        """Pass a message to the listener."""
        self._listener.receive(message)

    def claim(self, key_digest: bytes, claim: Claim) -> Deferred[Claim]:
        def act() -> Claim:
            valid = self._shared.claims.get(key_digest.hex()) or claim
            if valid is claim:
                self._put_claim(key_digest, claim)
            return valid

        return self._do(act)

    def put_claims_again(self, claims: Sequence[tuple[bytes, Claim]]) -> Deferred[None]:
        def act() -> None:
            for key_digest, claim in claims:
                if self._shared.claims.get(key_digest.hex()) is None:
                    self._put_claim(key_digest, claim)

        return self._do(act)

    def release_claim(self, key_digest: bytes, claim: Claim) -> Deferred[None]:
        def act() -> None:
            if self._shared.claims.get(key_digest.hex()) == claim:
                self._shared.claims.remove(key_digest.hex())

        return self._do(act)

    def find_claim(self, key_digest: bytes) -> Deferred[Claim | None]:
        return self._do(lambda: self._shared.claims.get(key_digest.hex()))

    def put_result(
        self,
        job_id: str,
        body: bytes,
        nodes: Sequence[str],
        *,
        key_digest: bytes | None = None,
        is_orphan: bool | None = None,
        upstream_id: str | None = None,
    ) -> Deferred[Placement]:
        def act() -> Placement:
            shared = self._shared
            known = shared.results.get(job_id)
            shared.notes.remove(job_id)
            self._end_claim(key_digest, job_id)
            if known is not None and known.body != body:
                return Placement.CONFLICT
            if known is None:
                result = Result(body, shared.clock.seconds(), upstream_id)
                shared.results.put(job_id, result, shared.retain)
            message = Message(MessageKind.RESULT, job_id, self.node, body)
            alive = [node for node in nodes if self._send(node, message)]
            if is_orphan is None and known is None:
                for node in alive:
                    shared.unconfirmed.setdefault(node, set()).add(job_id)
            if is_orphan or (is_orphan is None and known is None and not any(alive)):
                shared.orphans[job_id] = None
            if nodes and not any(alive):
                for node in list(shared.nodes):
                    self._send(node, message)
            if known is not None:
                return Placement.DUPLICATE
            return Placement.TAKEN if any(alive) else Placement.ORPHANED

        return self._do(act)

    def confirm(
        self, job_id: str, *, key_digest: bytes | None = None, is_collected: bool = False
    ) -> Deferred[None]:
        def act() -> None:
            self._shared.unconfirmed.get(self.node, set()).discard(job_id)
            if is_collected:
                self._shared.orphans.pop(job_id, None)
            self._end_claim(key_digest, job_id)

        return self._do(act)

    def put_note(self, job_id: str, ack: bytes) -> Deferred[None]:
        def act() -> None:
            if self._shared.results.get(job_id) is None:
                self._shared.notes.put(job_id, ack, NOTE_TIME)

        return self._do(act)

    def collect_results(self, job_ids: Sequence[str]) -> Deferred[list[bytes | None]]:
        return self._do(lambda: [self._collect(job_id) for job_id in job_ids])

    def collect_job(self, job_id: str) -> Deferred[tuple[bytes | None, bytes | None]]:
        return self._do(lambda: (self._collect(job_id), self._shared.notes.get(job_id)))

    def discard_result(self, job_id: str) -> Deferred[None]:
        def act() -> None:
            self._shared.results.remove(job_id)
            self._shared.orphans.pop(job_id, None)

        return self._do(act)

    def send(self, node: str, message: Message) -> Deferred[bool]:
        return self._do(lambda: self._send(node, message))

    def list_orphans(self, limit: int, after: Position) -> Deferred[list[Orphan]]:
        def act() -> list[Orphan]:
            now = self._shared.clock.seconds()
            found = [(job_id, self._shared.results.get(job_id)) for job_id in self._shared.orphans]
            orphans = [
                make_orphan(job_id, result.upstream_id, result.body, result.came, now)
                for job_id, result in found
                if result is not None
            ]
            return choose_orphans(orphans, limit, after)

        return self._do(act)

    def count_orphans(self) -> Deferred[int]:
        def act() -> int:
            shared = self._shared
            return sum(shared.results.get(job_id) is not None for job_id in shared.orphans)

        return self._do(act)

    def find_orphan(self, job_id: str) -> Deferred[bytes | None]:
        def act() -> bytes | None:
            result = self._shared.results.get(job_id)
            return result.body if result and job_id in self._shared.orphans else None

        return self._do(act)

    def list_nodes(self) -> Deferred[list[str]]:
        return self._do(lambda: sorted(self._shared.nodes))

    def acquire_slot(
        self, account: str, slot: str, limit: int, seconds: float
    ) -> Deferred[SlotGrant]:
        def act() -> SlotGrant:
            now, shared = self._shared.clock.seconds(), self._shared
            paused = shared.pauses.get(account, 0.0) - now
            if paused > 0:
                return SlotGrant(False, paused)
            slots = shared.slots.setdefault(account, {})
            for name, until in list(slots.items()):
                if until <= now or name.partition(":")[0] not in shared.nodes:
                    del slots[name]
            if len(slots) >= limit:
                return SlotGrant(False)
            slots[slot] = now + seconds
            return SlotGrant(True)

        return self._do(act)

    def release_slot(self, account: str, slot: str) -> Deferred[None]:
        def act() -> None:
            self._shared.slots.get(account, {}).pop(slot, None)

        return self._do(act)

    def pause_account(self, account: str, seconds: float) -> Deferred[None]:
        def act() -> None:
            until = self._shared.clock.seconds() + seconds
            self._shared.pauses[account] = max(until, self._shared.pauses.get(account, 0.0))

        return self._do(act)

    def _do(self, act: Callable[[], Returned]) -> Deferred[Returned]:
        self.calls["ok" if self.is_up else "failed"] += 1
        if not self.is_up:
            return execute(self._refuse)
        return execute(act)

    def _refuse(self) -> Returned:  # type: ignore[type-var]
        raise StoreUnreachable

    def _put_claim(self, key_digest: bytes, claim: Claim) -> None:
        self._shared.claims.put(key_digest.hex(), claim, self._shared.key_life)
        self._shared.claim_names[claim.job_id] = key_digest.hex()

    def _end_claim(self, key_digest: bytes | None, job_id: str) -> None:
        """Mark the claim of a job as that of one that has ended."""
        known = self._shared.claim_names.pop(job_id, "")
        name = known if key_digest is None else key_digest.hex()
        claim = self._shared.claims.get(name)
        if claim is not None and claim.job_id == job_id:
            self._shared.claims.change(name, evolve(claim, has_ended=True))

    def _collect(self, job_id: str) -> bytes | None:
        """Return a result, which is no orphan any more."""
        self._shared.orphans.pop(job_id, None)
        result = self._shared.results.get(job_id)
        return None if result is None else result.body

    def _send(self, node: str, message: Message) -> bool:
        """Deliver a message in a later turn of the reactor, as a network does."""
        store = self._shared.nodes.get(node)
        if store is not None:
            self._shared.clock.callLater(0, store.receive, message)
        return store is not None
