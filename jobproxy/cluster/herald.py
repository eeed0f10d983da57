"""The herald: tells the other nodes what became of the jobs of this one, as far as they need it."""

from collections.abc import Callable
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred

from jobproxy.cluster.interface import Claim, IStore, Kind, Message
from jobproxy.cluster.outbox import Outbox
from jobproxy.entries import Entry, State
from jobproxy.journal import Journal
from jobproxy.tokens import node_of


@define(eq=False)
class Herald(Journal):
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
    _followers: dict[str, list[Callable[[Entry], object]]] = field(
        factory=dict, init=False, repr=False
    )
    arriving: str = field(default="", init=False, repr=False)

    def note(self, entry: Entry) -> None:
        super().note(entry)
        if entry.state is not State.ENDED:
            if entry.ack is not None:
                self.tell_ack(entry)
            return
        if node_of(entry.handle) == self._node:
            self._tell(entry)
        for follow in self._followers.pop(entry.handle, ()):
            follow(entry)

    def add_watcher(self, handle: str, node: str) -> None:
        """Tell a node, once, what becomes of a job that has not ended."""
        self._watchers.setdefault(handle, set()).add(node)

    def add_follower(self, handle: str, follow: Callable[[Entry], object]) -> None:
        """Have something called with a job's entry when that has ended."""
        self._followers.setdefault(handle, []).append(follow)

    def tell_ack(self, entry: Entry) -> None:
        """Tell who waits for a job's end that its start was acknowledged."""
        assert entry.ack is not None
        state = Message(Kind.STATE, entry.handle, self._node, entry.ack.body)
        for node in sorted(self._watchers.get(entry.handle, ())):
            self._send(self._store.tell, node, state)
        for follow in self._followers.get(entry.handle, ()):
            follow(entry)

    def repeat(self, entry: Entry) -> None:
        """Put a result into the store again, if there was reason to."""
        if entry.result is not None and (entry.alias or entry.is_detached):
            self._put(entry, [], is_orphan=False)

    def _tell(self, entry: Entry) -> None:
        watchers = sorted(self._watchers.pop(entry.handle, ()))
        claim = Claim(entry.handle, entry.fingerprint)
        if entry.result is not None:
            is_orphan = not (entry.waiters or entry.is_detached)
            is_new = entry.handle != self.arriving
            if watchers or is_orphan or (is_new and (entry.alias or entry.is_detached)):
                self._put(entry, watchers, is_orphan=is_orphan)
            elif entry.alias is not None and not is_new:
                self._send(self._store.settle, entry.alias, claim)
            return
        if entry.started != "no":
            # The job may run; its result can come to any node.
            return
        for node in watchers:
            gone = Message(Kind.GONE, entry.handle, self._node)
            self._send(self._store.tell, node, gone)
        if entry.alias is not None:
            self._send(self._store.release, entry.alias, claim)

    def _put(self, entry: Entry, watchers: list[str], *, is_orphan: bool) -> None:
        assert entry.result is not None
        handle, body, alias = entry.handle, entry.result.body, entry.alias
        self.outbox.send(
            lambda: self._store.put(handle, body, watchers, alias=alias, is_orphan=is_orphan),
            len(body),
        )

    def _send(self, ask: Callable[..., Deferred[Any]], *words: Any) -> None:
        self.outbox.send(lambda: ask(*words))
