"""A store for nodes that live in one process; what the one for Redis has to do, in plain words."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from attrs import define, field, frozen
from twisted.internet.defer import Deferred, execute, succeed
from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from jobproxy.store.interface import (
    Claim,
    IStore,
    Kind,
    Listener,
    Message,
    NobodyListens,
    Orphan,
    Placement,
    StoreUnreachable,
)
from jobproxy.store.limits import CLAIM_TIME, MAX_LISTED
from jobproxy.util.histogram import Histogram
from jobproxy.wire.jobs import parse_report

Kept = TypeVar("Kept")
Told = TypeVar("Told")


@frozen
class _Result:
    body: bytes
    came: float


@define(eq=False)
class _Expiring(Generic[Kept]):
    """Things by name, each until its time is over."""

    _clock: IReactorTime
    _things: dict[str, tuple[Kept, float]] = field(factory=dict, init=False)

    def put(self, name: str, thing: Kept, seconds: float) -> None:
        self._things[name] = (thing, self._clock.seconds() + seconds)

    def get(self, name: str) -> Kept | None:
        thing, until = self._things.get(name, (None, 0.0))
        return thing if until > self._clock.seconds() else None

    def drop(self, name: str) -> None:
        self._things.pop(name, None)


@define(eq=False)
class Shared:
    """What the nodes have in common.

    :param retain: seconds that results are kept.
    """

    clock: IReactorTime
    retain: float
    nodes: dict[str, "MemoryStore"] = field(factory=dict, init=False)
    claims: _Expiring[Claim] = field(init=False)
    results: _Expiring[_Result] = field(init=False)
    notes: _Expiring[bytes] = field(init=False)
    orphans: dict[str, None] = field(factory=dict, init=False)
    #: Until when which node has a place of an account.
    places: dict[str, list[tuple[str, float]]] = field(factory=dict, init=False)

    def __attrs_post_init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Know nothing any more, but who is there."""
        self.claims, self.results = _Expiring(self.clock), _Expiring(self.clock)
        self.notes = _Expiring(self.clock)
        self.orphans.clear()
        self.places.clear()


@implementer(IStore)
@define(eq=False)
class MemoryStore:
    """One node's end of it.

    :ivar is_up: set it to have the store away for this node.
    """

    _shared: Shared
    node: str
    is_joined: bool = field(default=False, init=False)
    is_up: bool = field(default=False, init=False)
    calls: Counter[str] = field(factory=Counter, init=False)
    durations: Histogram = field(factory=Histogram, init=False, repr=False)
    _listener: Listener = field(factory=NobodyListens, init=False)

    def open(self, listener: Listener) -> None:
        self._listener = listener
        self.come_back()

    def close(self) -> Deferred[Any]:
        self.go_away()
        return succeed(None)

    def go_away(self) -> None:
        """Receive nothing any more, and reach nobody."""
        self._shared.nodes.pop(self.node, None)
        self.is_up = False

    def come_back(self) -> None:
        """Receive again."""
        self._shared.nodes[self.node] = self
        self.is_up = self.is_joined = True
        self._listener.catch_up()

    def receive(self, message: Message) -> None:
        """Hand a message to whoever opened this store."""
        self._listener.receive(message)

    def claim(self, key_digest: bytes, claim: Claim) -> Deferred[Claim]:
        def act() -> Claim:
            counts = self._shared.claims.get(key_digest.hex()) or claim
            if counts is claim:
                self._shared.claims.put(key_digest.hex(), claim, CLAIM_TIME)
            return counts

        return self._do(act)

    def reclaim(self, claims: Sequence[tuple[bytes, Claim]]) -> Deferred[None]:
        def act() -> None:
            for key_digest, claim in claims:
                if self._shared.claims.get(key_digest.hex()) is None:
                    self._shared.claims.put(key_digest.hex(), claim, CLAIM_TIME)

        return self._do(act)

    def release(self, key_digest: bytes, claim: Claim) -> Deferred[None]:
        def act() -> None:
            if self._shared.claims.get(key_digest.hex()) == claim:
                self._shared.claims.drop(key_digest.hex())

        return self._do(act)

    def settle(self, key_digest: bytes, claim: Claim) -> Deferred[None]:
        def act() -> None:
            if self._shared.claims.get(key_digest.hex()) == claim:
                self._shared.claims.put(key_digest.hex(), claim, self._shared.retain)

        return self._do(act)

    def look_up(self, key_digest: bytes) -> Deferred[Claim | None]:
        return self._do(lambda: self._shared.claims.get(key_digest.hex()))

    def put(
        self,
        job_id: str,
        body: bytes,
        tell: Sequence[str],
        *,
        key_digest: bytes | None = None,
        is_orphan: bool | None = None,
    ) -> Deferred[Placement]:
        def act() -> Placement:
            shared = self._shared
            known = shared.results.get(job_id)
            claim = shared.claims.get(key_digest.hex()) if key_digest else None
            if key_digest and claim and claim.job_id == job_id:
                shared.claims.put(key_digest.hex(), claim, shared.retain)
            if known is not None and known.body != body:
                return Placement.CONFLICT
            if known is None:
                shared.results.put(job_id, _Result(body, shared.clock.seconds()), shared.retain)
            message = Message(Kind.RESULT, job_id, self.node, body)
            lives = [self._send(node, message) for node in tell]
            if is_orphan or (is_orphan is None and known is None and not any(lives)):
                shared.orphans[job_id] = None
            if tell and not any(lives):
                for node in list(shared.nodes):
                    self._send(node, message)
            if known is not None:
                return Placement.DUPLICATE
            return Placement.TAKEN if any(lives) else Placement.ORPHANED

        return self._do(act)

    def note(self, job_id: str, ack: bytes) -> Deferred[None]:
        return self._do(lambda: self._shared.notes.put(job_id, ack, CLAIM_TIME))

    def fetch(self, job_ids: Sequence[str]) -> Deferred[list[bytes | None]]:
        return self._do(lambda: [self._take(job_id) for job_id in job_ids])

    def find(self, job_id: str) -> Deferred[tuple[bytes | None, bytes | None]]:
        return self._do(lambda: (self._take(job_id), self._shared.notes.get(job_id)))

    def discard(self, job_id: str) -> Deferred[None]:
        def act() -> None:
            self._shared.results.drop(job_id)
            self._shared.orphans.pop(job_id, None)

        return self._do(act)

    def send(self, node: str, message: Message) -> Deferred[bool]:
        return self._do(lambda: self._send(node, message))

    def list_orphans(self) -> Deferred[list[Orphan]]:
        def act() -> list[Orphan]:
            now = self._shared.clock.seconds()
            found = [(job_id, self._shared.results.get(job_id)) for job_id in self._shared.orphans]
            orphans = [
                Orphan(name, parse_report(kept.body).upstream_id, kept.body, now - kept.came)
                for name, kept in found
                if kept is not None
            ]
            return orphans[:MAX_LISTED]

        return self._do(act)

    def find_orphan(self, job_id: str) -> Deferred[bytes | None]:
        def act() -> bytes | None:
            result = self._shared.results.get(job_id)
            return result.body if result and job_id in self._shared.orphans else None

        return self._do(act)

    def list_nodes(self) -> Deferred[list[str]]:
        return self._do(lambda: sorted(self._shared.nodes))

    def acquire(self, account: str, limit: int, seconds: float) -> Deferred[bool]:
        def act() -> bool:
            now = self._shared.clock.seconds()
            places = self._shared.places.get(account, [])
            places = [(node, until) for node, until in places if until > now]
            is_free = len(places) < limit
            if is_free:
                places.append((self.node, now + seconds))
            self._shared.places[account] = places
            return is_free

        return self._do(act)

    def free(self, account: str) -> Deferred[None]:
        def act() -> None:
            places = self._shared.places.get(account, [])
            mine = next((place for place in places if place[0] == self.node), None)
            if mine is not None:
                places.remove(mine)

        return self._do(act)

    def _do(self, act: Callable[[], Told]) -> Deferred[Told]:
        self.calls["ok" if self.is_up else "failed"] += 1
        if not self.is_up:
            return execute(self._refuse)
        return execute(act)

    def _refuse(self) -> Told:  # type: ignore[type-var]
        raise StoreUnreachable

    def _take(self, job_id: str) -> bytes | None:
        self._shared.orphans.pop(job_id, None)
        result = self._shared.results.get(job_id)
        return None if result is None else result.body

    def _send(self, node: str, message: Message) -> bool:
        """Have a node take a message soon, as it would from a network."""
        store = self._shared.nodes.get(node)
        if store is not None:
            self._shared.clock.callLater(0, store.receive, message)
        return store is not None
