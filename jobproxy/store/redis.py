"""The store that is a Redis."""

from collections import Counter
from collections.abc import Callable, Sequence
from hashlib import blake2b
from itertools import count
from typing import Any, TypeVar

from attrs import define, field
from twisted.application.service import Service
from twisted.internet.defer import Deferred, gatherResults, maybeDeferred
from twisted.internet.defer import TimeoutError as DeferredTimeoutError
from twisted.internet.interfaces import IReactorTime, IStreamClientEndpoint
from twisted.internet.task import LoopingCall, deferLater
from twisted.logger import Logger
from txredisapi import ConnectionError as LostConnection
from txredisapi import RedisError, RedisProtocol, SubscriberProtocol
from zope.interface import implementer

from jobproxy.store import redis_scripts as scripts
from jobproxy.store.interface import (
    Claim,
    IStore,
    Kind,
    Listener,
    Message,
    Orphan,
    Placement,
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
from jobproxy.store.redis_connection import Link, explain, within
from jobproxy.util.histogram import Histogram
from jobproxy.wire.jobs import parse_report
from jobproxy.wire.problems import StoreUnreachable

_log = Logger()

Done = TypeVar("Done")

_PREFIX = "jobproxy:"
_NODES = f"{_PREFIX}nodes"
_EPOCH = f"{_PREFIX}epoch"
_ORPHANS = f"{_PREFIX}orphans"
_RESULTS = f"{_PREFIX}result:"
_NOTES = f"{_PREFIX}note:"
_JOB_ID = 38


class _Subscriber(SubscriberProtocol):
    """Hands on what comes."""

    def __init__(self, take: Callable[[bytes], None]) -> None:
        super().__init__(charset=None, convertNumbers=False)
        self._take = take

    def messageReceived(self, pattern: object, channel: object, message: bytes) -> None:
        self._take(message)


@implementer(IStore)
@define(eq=False)
class RedisStore(Service):
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
    listener: Listener = field(init=False)
    is_joined: bool = field(default=False, init=False)
    #: How many steps Redis did, or did not do, for us.
    calls: Counter[str] = field(factory=Counter, init=False)
    durations: Histogram = field(factory=Histogram, init=False, repr=False)
    _commands: Link = field(init=False)
    _subscription: Link = field(init=False)
    _beats: LoopingCall = field(init=False)
    #: When this node last heard itself.
    _heard: float = field(default=0.0, init=False)
    _places: dict[str, list[str]] = field(factory=dict, init=False)
    _numbers: "count[int]" = field(factory=count, init=False)

    def __attrs_post_init__(self) -> None:
        where = (self._clock, self._address, self._make_endpoint)
        self._commands = Link(*where, _make_protocol, _do_nothing)
        self._subscription = Link(*where, lambda: _Subscriber(self._take), self._join)
        self._beats = LoopingCall(self._beat)
        self._beats.clock = self._clock

    @property
    def is_up(self) -> bool:
        return self._commands.protocol is not None and self._subscription.protocol is not None

    def startService(self) -> None:
        super().startService()
        self._commands.startService()
        self._subscription.startService()
        self._beats.start(BEAT_TIME, now=False)

    def stopService(self) -> Any:
        super().stopService()
        self._beats.stop()
        if self._commands.protocol is not None:
            # Others need not wait for the lease to end; if it fails they do.
            leaving = self._commands.protocol.execute_command("ZREM", _NODES, self._node)
            leaving.addErrback(lambda _: None)
        return gatherResults(
            [maybeDeferred(link.stopService) for link in (self._subscription, self._commands)]
        )

    def claim(self, key_digest: bytes, claim: Claim) -> Deferred[Claim]:
        return Deferred.fromCoroutine(self._claim(key_digest, claim))

    async def _claim(self, key_digest: bytes, claim: Claim) -> Claim:
        times = [_ms(CLAIM_TIME), _ms(SETTLE_TIME)]
        while True:
            rest, counts = await self._do(
                scripts.CLAIM, [_name_claim(key_digest), _EPOCH], [_write(claim), *times]
            )
            if not rest:
                return _read(counts)
            await deferLater(self._clock, rest / 1000)

    def reclaim(self, claims: Sequence[tuple[bytes, Claim]]) -> Deferred[None]:
        names = [_name_claim(key_digest) for key_digest, _ in claims]
        values = [_write(claim) for _, claim in claims]
        return self._do(scripts.RECLAIM, names, [_ms(CLAIM_TIME), *values])

    def release(self, key_digest: bytes, claim: Claim) -> Deferred[None]:
        return self._do(scripts.RELEASE, [_name_claim(key_digest)], [_write(claim)])

    def settle(self, key_digest: bytes, claim: Claim) -> Deferred[None]:
        args = [_write(claim), _ms(self._retain)]
        return self._do(scripts.SETTLE, [_name_claim(key_digest)], args)

    def look_up(self, key_digest: bytes) -> Deferred[Claim | None]:
        getting: Deferred[bytes | None] = self._ask("GET", _name_claim(key_digest))
        return getting.addCallback(lambda found: None if found is None else _read(found))

    def put(
        self,
        job_id: str,
        body: bytes,
        tell: Sequence[str],
        *,
        key_digest: bytes | None = None,
        is_orphan: bool | None = None,
    ) -> Deferred[Placement]:
        keys = [_RESULTS + job_id, _ORPHANS, _NODES]
        if key_digest is not None:
            keys.append(_name_claim(key_digest))
        head = Message(Kind.RESULT, job_id, self._node).to_bytes()
        orphan = {None: "unheard", True: "yes", False: "no"}[is_orphan]
        args = [body, _ms(self._retain), job_id, orphan, head, self._channel(), self._channel("")]
        putting: Deferred[bytes] = self._do(scripts.PUT, keys, [*args, *tell])
        return putting.addCallback(lambda word: Placement(word.decode()))

    def note(self, job_id: str, ack: bytes) -> Deferred[None]:
        return self._ask("SET", _NOTES + job_id, ack, "PX", _ms(CLAIM_TIME))

    def fetch(self, job_ids: Sequence[str]) -> Deferred[list[bytes | None]]:
        keys = [_ORPHANS, *(_RESULTS + job_id for job_id in job_ids)]
        return self._do(scripts.FETCH, keys, job_ids)

    def find(self, job_id: str) -> Deferred[tuple[bytes | None, bytes | None]]:
        keys = [_ORPHANS, _RESULTS + job_id, _NOTES + job_id]
        finding: Deferred[list[bytes | None]] = self._do(scripts.FIND, keys, [job_id])
        return finding.addCallback(lambda found: (found[0], found[1]))

    def discard(self, job_id: str) -> Deferred[None]:
        return self._do(scripts.DISCARD, [_RESULTS + job_id, _ORPHANS], [job_id])

    def tell(self, node: str, message: Message) -> Deferred[bool]:
        args = [node, self._channel(node), message.to_bytes()]
        telling: Deferred[int] = self._do(scripts.TELL, [_NODES], args)
        return telling.addCallback(bool)

    def list_orphans(self) -> Deferred[list[Orphan]]:
        listing: Deferred[list[Any]] = self._do(
            scripts.LIST_ORPHANS, [_ORPHANS], [MAX_LISTED, _RESULTS]
        )
        return listing.addCallback(
            lambda found: [
                Orphan(name.decode(), parse_report(body).upstream_id, body, age / 1000)
                for name, age, body in found
            ]
        )

    def find_orphan(self, job_id: str) -> Deferred[bytes | None]:
        return self._do(scripts.FIND_ORPHAN, [_ORPHANS, _RESULTS + job_id], [job_id])

    def list_nodes(self) -> Deferred[list[str]]:
        listing: Deferred[list[bytes]] = self._do(scripts.LIST_NODES, [_NODES], [])
        return listing.addCallback(lambda found: sorted(node.decode() for node in found))

    def acquire(self, account: str, limit: int, seconds: float) -> Deferred[bool]:
        place = f"{self._node}:{next(self._numbers)}"
        args = [limit, _ms(seconds), place]
        acquiring: Deferred[int] = self._do(scripts.ACQUIRE, [_name_places(account)], args)
        return acquiring.addCallback(self._keep_place, account, place)

    def _keep_place(self, is_ours: int, account: str, place: str) -> bool:
        if is_ours:
            self._places.setdefault(account, []).append(place)
        return bool(is_ours)

    def free(self, account: str) -> Deferred[None]:
        places = self._places[account]
        place = places.pop(0)
        if not places:
            del self._places[account]
        return self._ask("ZREM", _name_places(account), place)

    def _channel(self, node: str | None = None) -> str:
        """Return the channel of a node, or of all; channels know nothing of databases."""
        start = f"{_PREFIX}{self._address.db}:"
        return f"{start}all" if node is None else f"{start}node:{node}"

    def _do(self, script: str, keys: Sequence[str], args: Sequence[Any]) -> Deferred[Any]:
        """Have a script run."""
        return Deferred.fromCoroutine(
            self._call(lambda protocol: protocol.eval(script, keys, args))
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
        await self.listener.catch_up()
        self.is_joined = True

    async def _send_beat(self) -> bool:
        beat = Message(Kind.BEAT, "", self._node).to_bytes()
        args = [self._node, _ms(LEASE_TIME), self._channel(self._node), beat]
        return bool(await self._do(scripts.BEAT, [_NODES, _EPOCH], args))

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
            await self.listener.catch_up()

    def _take(self, data: bytes) -> None:
        try:
            message = parse_message(data)
        except ValueError:
            _log.warn("a message of another version was not understood")
            return
        if message.kind is Kind.BEAT:
            self._heard = self._clock.seconds()
            return
        try:
            self.listener.take(message)
        except Exception:
            _log.failure("a message about job {job} was not taken", job=message.job_id)


def _make_protocol() -> Any:
    return RedisProtocol(charset=None, convertNumbers=False)


async def _do_nothing(protocol: object) -> None:
    """Take a connection as it is."""


def _ms(seconds: float) -> int:
    return max(1, round(seconds * 1000))


def _name_claim(key_digest: bytes) -> str:
    return f"{_PREFIX}claim:{key_digest.hex()}"


def _name_places(account: str) -> str:
    # Nobody who reads the store is to see whose jobs there are.
    return f"{_PREFIX}places:{blake2b(account.encode(), digest_size=16).hexdigest()}"


def _write(claim: Claim) -> bytes:
    return claim.job_id.encode() + claim.request_digest


def _read(data: bytes) -> Claim:
    return Claim(data[:_JOB_ID].decode(), data[_JOB_ID:])
