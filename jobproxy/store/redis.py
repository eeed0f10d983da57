"""The store that is a Redis."""

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any, TypeVar

from attrs import define, field
from twisted.internet.defer import Deferred, gatherResults, maybeDeferred
from twisted.internet.defer import TimeoutError as DeferredTimeoutError
from twisted.internet.interfaces import IReactorTime, IStreamClientEndpoint
from twisted.internet.task import LoopingCall, deferLater
from twisted.logger import Logger
from txredisapi import ConnectionError as LostConnection
from txredisapi import RedisError
from zope.interface import implementer

from jobproxy.store import redis_keys as keys
from jobproxy.store import redis_scripts as scripts
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
    parse_message,
)
from jobproxy.store.limits import (
    BEAT_TIME,
    CLAIM_TIME,
    LEASE_TIME,
    MAX_LISTED,
    SETTLE_TIME,
)
from jobproxy.store.redis_address import Address
from jobproxy.store.redis_connection import (
    Link,
    Subscriber,
    accept_as_is,
    explain,
    make_protocol,
    within,
)
from jobproxy.util.histogram import Histogram
from jobproxy.wire.jobs import parse_report

_log = Logger()

Done = TypeVar("Done")


@implementer(IStore)
@define(eq=False)
class RedisStore:
    """
    :param make_endpoint: returns what connects to a host and a port.
    :param node: the name of this one.
    :param retain: seconds that results are kept.
    """

    _clock: IReactorTime
    _address: Address
    _make_endpoint: Callable[[str, int], IStreamClientEndpoint]
    _node: str
    _retain: float
    is_joined: bool = field(default=False, init=False)
    #: How many steps Redis did, or did not do, for us.
    calls: Counter[str] = field(factory=Counter, init=False)
    durations: Histogram = field(factory=Histogram, init=False, repr=False)
    _commands: Link = field(init=False)
    _subscription: Link = field(init=False)
    _beats: LoopingCall = field(init=False)
    #: When this node last heard itself.
    _heard: float = field(default=0.0, init=False)
    _listener: Listener = field(factory=NobodyListens, init=False)
    _slots: dict[str, list[str]] = field(factory=dict, init=False)
    _numbers: "count[int]" = field(factory=count, init=False)

    def __attrs_post_init__(self) -> None:
        where = (self._clock, self._address, self._make_endpoint)
        self._commands = Link(*where, make_protocol, accept_as_is)
        self._subscription = Link(*where, lambda: Subscriber(self._receive), self._join)
        self._beats = LoopingCall(self._beat)
        self._beats.clock = self._clock

    @property
    def is_up(self) -> bool:
        return self._commands.protocol is not None and self._subscription.protocol is not None

    def open(self, listener: Listener) -> None:
        self._listener = listener
        self._commands.startService()
        self._subscription.startService()
        self._beats.start(BEAT_TIME, now=False)

    def close(self) -> Deferred[Any]:
        self._beats.stop()
        if self._commands.protocol is not None:
            # Others need not wait for the lease to end; if this fails they do.
            leaving = self._commands.protocol.execute_command("ZREM", keys.NODES, self._node)
            leaving.addErrback(lambda _: None)
        return gatherResults(
            [maybeDeferred(link.stopService) for link in (self._subscription, self._commands)]
        )

    def claim(self, key_digest: bytes, claim: Claim) -> Deferred[Claim]:
        return Deferred.fromCoroutine(self._claim(key_digest, claim))

    async def _claim(self, key_digest: bytes, claim: Claim) -> Claim:
        times = [keys.ms(CLAIM_TIME), keys.ms(SETTLE_TIME)]
        while True:
            rest, counts = await self._do(
                scripts.CLAIM,
                [keys.claim(key_digest), keys.EPOCH],
                [keys.write_claim(claim), *times],
            )
            if not rest:
                return keys.read_claim(counts)
            await deferLater(self._clock, rest / 1000)

    def reclaim(self, claims: Sequence[tuple[bytes, Claim]]) -> Deferred[None]:
        names = [keys.claim(key_digest) for key_digest, _ in claims]
        values = [keys.write_claim(claim) for _, claim in claims]
        return self._do(scripts.RECLAIM, names, [keys.ms(CLAIM_TIME), *values])

    def release(self, key_digest: bytes, claim: Claim) -> Deferred[None]:
        return self._do(scripts.RELEASE, [keys.claim(key_digest)], [keys.write_claim(claim)])

    def settle(self, key_digest: bytes, claim: Claim) -> Deferred[None]:
        args = [keys.write_claim(claim), keys.ms(self._retain)]
        return self._do(scripts.SETTLE, [keys.claim(key_digest)], args)

    def look_up(self, key_digest: bytes) -> Deferred[Claim | None]:
        getting: Deferred[bytes | None] = self._ask("GET", keys.claim(key_digest))
        return getting.addCallback(lambda found: None if found is None else keys.read_claim(found))

    def put(
        self,
        job_id: str,
        body: bytes,
        tell: Sequence[str],
        *,
        key_digest: bytes | None = None,
        is_orphan: bool | None = None,
    ) -> Deferred[Placement]:
        names = [keys.RESULTS + job_id, keys.ORPHANS, keys.NODES]
        if key_digest is not None:
            names.append(keys.claim(key_digest))
        head = Message(Kind.RESULT, job_id, self._node).to_bytes()
        orphan = {None: "unheard", True: "yes", False: "no"}[is_orphan]
        args = [
            body,
            keys.ms(self._retain),
            job_id,
            orphan,
            head,
            self._channel(),
            self._channel(""),
        ]
        putting: Deferred[bytes] = self._do(scripts.PUT, names, [*args, *tell])
        return putting.addCallback(lambda word: Placement(word.decode()))

    def note(self, job_id: str, ack: bytes) -> Deferred[None]:
        return self._ask("SET", keys.NOTES + job_id, ack, "PX", keys.ms(CLAIM_TIME))

    def fetch(self, job_ids: Sequence[str]) -> Deferred[list[bytes | None]]:
        names = [keys.ORPHANS, *(keys.RESULTS + job_id for job_id in job_ids)]
        return self._do(scripts.FETCH, names, job_ids)

    def find(self, job_id: str) -> Deferred[tuple[bytes | None, bytes | None]]:
        names = [keys.ORPHANS, keys.RESULTS + job_id, keys.NOTES + job_id]
        finding: Deferred[list[bytes | None]] = self._do(scripts.FIND, names, [job_id])
        return finding.addCallback(lambda found: (found[0], found[1]))

    def discard(self, job_id: str) -> Deferred[None]:
        return self._do(scripts.DISCARD, [keys.RESULTS + job_id, keys.ORPHANS], [job_id])

    def send(self, node: str, message: Message) -> Deferred[bool]:
        args = [node, self._channel(node), message.to_bytes()]
        telling: Deferred[int] = self._do(scripts.SEND, [keys.NODES], args)
        return telling.addCallback(bool)

    def list_orphans(self) -> Deferred[list[Orphan]]:
        listing: Deferred[list[Any]] = self._do(
            scripts.LIST_ORPHANS, [keys.ORPHANS], [MAX_LISTED, keys.RESULTS]
        )
        return listing.addCallback(
            lambda found: [
                Orphan(name.decode(), parse_report(body).upstream_id, body, age / 1000)
                for name, age, body in found
            ]
        )

    def find_orphan(self, job_id: str) -> Deferred[bytes | None]:
        return self._do(scripts.FIND_ORPHAN, [keys.ORPHANS, keys.RESULTS + job_id], [job_id])

    def list_nodes(self) -> Deferred[list[str]]:
        listing: Deferred[list[bytes]] = self._do(scripts.LIST_NODES, [keys.NODES], [])
        return listing.addCallback(lambda found: sorted(node.decode() for node in found))

    def acquire(self, account: str, limit: int, seconds: float) -> Deferred[bool]:
        slot = f"{self._node}:{next(self._numbers)}"
        args = [limit, keys.ms(seconds), slot]
        acquiring: Deferred[int] = self._do(scripts.ACQUIRE, [keys.slots(account)], args)
        return acquiring.addCallback(self._keep_slot, account, slot)

    def _keep_slot(self, is_ours: int, account: str, slot: str) -> bool:
        if is_ours:
            self._slots.setdefault(account, []).append(slot)
        return bool(is_ours)

    def free(self, account: str) -> Deferred[None]:
        slots = self._slots[account]
        slot = slots.pop(0)
        if not slots:
            del self._slots[account]
        return self._ask("ZREM", keys.slots(account), slot)

    def _channel(self, node: str | None = None) -> str:
        return keys.channel(self._address.db, node)

    def _do(self, script: str, names: Sequence[str], args: Sequence[Any]) -> Deferred[Any]:
        """Have a script run."""
        return Deferred.fromCoroutine(
            self._call(lambda protocol: protocol.eval(script, names, args))
        )

    def _ask(self, *command: Any) -> Deferred[Any]:
        """Have a single command run."""
        return Deferred.fromCoroutine(
            self._call(lambda protocol: protocol.execute_command(*command))
        )

    async def _call(self, call: Callable[[Any], Deferred[Any]]) -> Any:
        protocol = self._commands.protocol
        if protocol is None:
            self.calls["failed"] += 1
            raise StoreUnreachable
        begun = self._clock.seconds()
        try:
            found = await within(call(protocol), self._clock)
        except (RedisError, DeferredTimeoutError) as error:
            self.calls["failed"] += 1
            if not isinstance(error, LostConnection):
                _log.error("Redis failed: {error}", error=explain(error))
            if isinstance(error, DeferredTimeoutError) or "READONLY" in str(error):
                # Whatever is asked next would wait behind this, or meet the same.
                self._commands.drop()
            raise StoreUnreachable from None
        self.calls["ok"] += 1
        self.durations.observe(self._clock.seconds() - begun)
        return found

    async def _join(self, protocol: Any) -> None:
        """Hear what others say, and then what they said before."""
        channels = [self._channel(self._node), self._channel()]
        await within(protocol.subscribe(channels), self._clock)
        await within(self._commands.when_connected(), self._clock)
        self._heard = self._clock.seconds()
        await self._send_beat()
        await self._listener.catch_up()
        self.is_joined = True

    async def _send_beat(self) -> bool:
        beat = Message(Kind.BEAT, "", self._node).to_bytes()
        args = [self._node, keys.ms(LEASE_TIME), self._channel(self._node), beat]
        return bool(await self._do(scripts.BEAT, [keys.NODES, keys.EPOCH], args))

    def _beat(self) -> None:
        """Show that this node lives, and see whether it hears; a half-open connection does not."""
        if self._subscription.protocol is None:
            return
        if self._clock.seconds() - self._heard > 2 * BEAT_TIME:
            _log.error("Redis does not hand on what is said; the subscription is made again")
            self._subscription.drop()
            return
        Deferred.fromCoroutine(self._check_epoch()).addErrback(lambda _: None)

    async def _check_epoch(self) -> None:
        if await self._send_beat():
            _log.error("Redis has lost what it knew; it is told again")
            await self._listener.catch_up()

    def _receive(self, data: bytes) -> None:
        try:
            message = parse_message(data)
        except ValueError:
            _log.warn("a message of another version was not understood")
            return
        if message.kind is Kind.BEAT:
            self._heard = self._clock.seconds()
            return
        try:
            self._listener.receive(message)
        except Exception:
            _log.failure("a message about job {job} was not taken", job=message.job_id)
