"""The store in Redis."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from attrs import define, field
from twisted.internet.defer import Deferred, gatherResults, maybeDeferred
from twisted.internet.interfaces import IReactorTime, IStreamClientEndpoint
from twisted.internet.task import deferLater
from zope.interface import implementer

from jobproxy.store import redis_keys as keys
from jobproxy.store import redis_scripts as scripts
from jobproxy.store.interface import (
    Claim,
    IStore,
    Listener,
    Message,
    MessageKind,
    Placement,
)
from jobproxy.store.orphans import Orphan, Position
from jobproxy.store.redis_address import RedisAddress
from jobproxy.store.redis_commands import Commands
from jobproxy.store.redis_connection import Link, make_protocol, prepare_nothing
from jobproxy.store.redis_subscription import Subscription
from jobproxy.store.slots import ISlotStore, SlotGrant
from jobproxy.store.times import NOTE_TIME, Times
from jobproxy.util.histogram import Histogram


@implementer(IStore, ISlotStore)
@define(eq=False)
class RedisStore:
    """One node's access to a Redis; see :class:`IStore`.

    It has two connections, because a connection with a subscription accepts no other commands.

    :param make_endpoint: returns an endpoint that connects to a host and a port.
    :param node: the name of this node.
    :param retain: seconds that results are kept.
    :param key_life: seconds that claims are kept.
    """

    is_local: ClassVar[bool] = False

    _clock: IReactorTime
    _address: RedisAddress
    _make_endpoint: Callable[[str, int], IStreamClientEndpoint]
    _node: str
    _retain: float
    _key_life: float
    _times: Times = field(factory=Times)
    _commands: Commands = field(init=False)
    _subscription: Subscription = field(init=False)

    def __attrs_post_init__(self) -> None:
        where = (self._clock, self._address, self._make_endpoint)
        link = Link(*where, make_protocol, prepare_nothing, self._times.answer)
        self._commands = Commands(self._clock, link, self._times.answer)
        self._subscription = Subscription(*where, self._commands, self._node, self._times)

    @property
    def is_up(self) -> bool:
        links = (self._commands.link, self._subscription.link)
        return all(link.protocol is not None for link in links)

    @property
    def is_joined(self) -> bool:
        return self._subscription.is_joined

    @property
    def calls(self) -> Counter[str]:
        return self._commands.calls

    @property
    def durations(self) -> Histogram:
        return self._commands.durations

    def open(self, listener: Listener) -> None:
        self._commands.link.startService()
        self._subscription.open(listener)

    def close(self) -> Deferred[Any]:
        link = self._commands.link
        if link.protocol is not None:
            # Others then need not wait for the end of the lease; if this fails they do.
            leaving = link.protocol.eval(
                scripts.LEAVE,
                [keys.NODES, keys.ORPHANS],
                [self._node, keys.UNCONFIRMED, keys.RESULTS],
            )
            leaving.addErrback(lambda _: None)
        closing = (self._subscription.close, link.stopService)
        return gatherResults([maybeDeferred(close) for close in closing])

    def claim(self, key_digest: bytes, claim: Claim) -> Deferred[Claim]:
        return Deferred.fromCoroutine(self._claim(key_digest, claim))

    async def _claim(self, key_digest: bytes, claim: Claim) -> Claim:
        times = [keys.ms(self._key_life), keys.ms(self._times.settle)]
        while True:
            pause, valid = await self._commands.run(
                scripts.CLAIM,
                [keys.claim(key_digest), keys.EPOCH, keys.CLAIM_NAMES + claim.job_id],
                [keys.write_claim(claim), *times],
            )
            if not pause:
                return keys.read_claim(valid)
            await deferLater(self._clock, pause / 1000)

    def put_claims_again(self, claims: Sequence[tuple[bytes, Claim]]) -> Deferred[None]:
        names: list[str] = []
        values: list[bytes | str] = []
        for key_digest, claim in claims:
            names += [keys.claim(key_digest), keys.CLAIM_NAMES + claim.job_id]
            values += [keys.write_claim(claim), "yes" if claim.has_ended else "no"]
        life = keys.ms(self._key_life)
        return self._commands.run(scripts.PUT_CLAIMS_AGAIN, names, [life, *values])

    def release_claim(self, key_digest: bytes, claim: Claim) -> Deferred[None]:
        return self._commands.run(
            scripts.RELEASE_CLAIM,
            [keys.claim(key_digest), keys.CLAIM_NAMES + claim.job_id],
            [keys.write_claim(claim)],
        )

    def find_claim(self, key_digest: bytes) -> Deferred[Claim | None]:
        getting: Deferred[bytes | None] = self._commands.execute("GET", keys.claim(key_digest))
        return getting.addCallback(lambda found: None if found is None else keys.read_claim(found))

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
        own = [prefix + job_id for prefix in (keys.NOTES, keys.UPSTREAM_IDS, keys.CLAIM_NAMES)]
        names = [keys.RESULTS + job_id, keys.ORPHANS, keys.NODES, *own]
        if key_digest is not None:
            names.append(keys.claim(key_digest))
        head = Message(MessageKind.RESULT, job_id, self._node).to_bytes()
        orphan_rule = {None: "if-unconfirmed", True: "yes", False: "no"}[is_orphan]
        args = [
            body,
            keys.ms(self._retain),
            job_id,
            orphan_rule,
            head,
            self._channel(),
            self._channel(""),
            keys.UNCONFIRMED,
            upstream_id or "",
        ]
        putting: Deferred[bytes] = self._commands.run(scripts.PUT_RESULT, names, [*args, *nodes])
        return putting.addCallback(lambda word: Placement(word.decode()))

    def confirm(
        self, job_id: str, *, key_digest: bytes | None = None, is_collected: bool = False
    ) -> Deferred[None]:
        names = [keys.UNCONFIRMED + self._node, keys.ORPHANS, keys.CLAIM_NAMES + job_id]
        if key_digest is not None:
            names.append(keys.claim(key_digest))
        return self._commands.run(scripts.CONFIRM, names, [job_id, "yes" if is_collected else "no"])

    def put_note(self, job_id: str, ack: bytes) -> Deferred[None]:
        names = [keys.NOTES + job_id, keys.RESULTS + job_id]
        return self._commands.run(scripts.PUT_NOTE, names, [ack, keys.ms(NOTE_TIME)])

    def collect_results(self, job_ids: Sequence[str]) -> Deferred[list[bytes | None]]:
        names = [keys.ORPHANS, *(keys.RESULTS + job_id for job_id in job_ids)]
        return self._commands.run(scripts.COLLECT_RESULTS, names, job_ids)

    def collect_job(self, job_id: str) -> Deferred[tuple[bytes | None, bytes | None]]:
        names = [keys.ORPHANS, keys.RESULTS + job_id, keys.NOTES + job_id]
        collecting: Deferred[list[bytes | None]] = self._commands.run(
            scripts.COLLECT_JOB, names, [job_id]
        )
        return collecting.addCallback(lambda found: (found[0], found[1]))

    def discard_result(self, job_id: str) -> Deferred[None]:
        return self._commands.run(
            scripts.DISCARD_RESULT, [keys.RESULTS + job_id, keys.ORPHANS], [job_id]
        )

    def send(self, node: str, message: Message) -> Deferred[bool]:
        args = [node, self._channel(node), message.to_bytes()]
        sending: Deferred[int] = self._commands.run(scripts.SEND, [keys.NODES], args)
        return sending.addCallback(bool)

    def list_orphans(self, limit: int, after: Position) -> Deferred[list[Orphan]]:
        args = [limit, after.came, after.job_id, keys.RESULTS, keys.UPSTREAM_IDS]
        listing: Deferred[list[Any]] = self._commands.run(
            scripts.LIST_ORPHANS, [keys.ORPHANS], args
        )
        return listing.addCallback(
            lambda found: [
                Orphan(name.decode(), upstream_id.decode() or None, size, int(came), age / 1000)
                for name, came, age, size, upstream_id in found
            ]
        )

    def count_orphans(self) -> Deferred[int]:
        return self._commands.run(scripts.COUNT_ORPHANS, [keys.ORPHANS], [keys.ms(self._retain)])

    def find_orphan(self, job_id: str) -> Deferred[bytes | None]:
        return self._commands.run(
            scripts.FIND_ORPHAN, [keys.ORPHANS, keys.RESULTS + job_id], [job_id]
        )

    def list_nodes(self) -> Deferred[list[str]]:
        listing: Deferred[list[bytes]] = self._commands.run(scripts.LIST_NODES, [keys.NODES], [])
        return listing.addCallback(lambda found: sorted(node.decode() for node in found))

    def acquire_slot(
        self, account: str, slot: str, limit: int, seconds: float
    ) -> Deferred[SlotGrant]:
        acquiring: Deferred[list[int]] = self._commands.run(
            scripts.ACQUIRE_SLOT,
            [keys.slots(account), keys.pause(account), keys.NODES],
            [limit, keys.ms(seconds), slot],
        )
        return acquiring.addCallback(lambda found: SlotGrant(bool(found[0]), found[1] / 1000))

    def release_slot(self, account: str, slot: str) -> Deferred[None]:
        return self._commands.execute("ZREM", keys.slots(account), slot)

    def pause_account(self, account: str, seconds: float) -> Deferred[None]:
        return self._commands.run(scripts.PAUSE_ACCOUNT, [keys.pause(account)], [keys.ms(seconds)])

    def _channel(self, node: str | None = None) -> str:
        """Return the channel of a node, or that of all nodes."""
        return keys.channel(self._address.db, node)
