"""The messages to a node, which it receives by subscription, and the heartbeats that check it."""

from collections.abc import Callable
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime, IStreamClientEndpoint
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from jobproxy.store import redis_keys as keys
from jobproxy.store import redis_scripts as scripts
from jobproxy.store.interface import (
    Listener,
    Message,
    MessageKind,
    NullListener,
    StoreUnreachable,
    parse_message,
)
from jobproxy.store.redis_address import RedisAddress
from jobproxy.store.redis_commands import Commands
from jobproxy.store.redis_connection import Link, Subscriber
from jobproxy.store.times import Times

_log = Logger()


@define(eq=False)
class Subscription:
    """Passes messages to a listener, also after a new connection.

    A node sends its heartbeats to itself. One that does not come back shows that the connection is
    half open: Redis would not send anything over it, and TCP would not notice.

    :param commands: sends the heartbeats, over a connection of its own.
    :ivar is_joined: whether the listener has ever caught up.
    """

    _clock: IReactorTime
    _address: RedisAddress
    _make_endpoint: Callable[[str, int], IStreamClientEndpoint]
    _commands: Commands
    _node: str
    _times: Times
    link: Link = field(init=False)
    is_joined: bool = field(default=False, init=False)
    _heartbeats: LoopingCall = field(init=False)
    #: When the last heartbeat came back.
    _last_heartbeat: float = field(default=0.0, init=False)
    #: The epoch of the store's data when the listener last caught up.
    _epoch: bytes | None = field(default=None, init=False)
    _is_catching_up: bool = field(default=False, init=False)
    _listener: Listener = field(factory=NullListener, init=False)

    def __attrs_post_init__(self) -> None:
        self.link = Link(
            self._clock,
            self._address,
            self._make_endpoint,
            lambda: Subscriber(self._receive),
            self._join,
            self._times.answer,
        )
        self._heartbeats = LoopingCall(self._beat)
        self._heartbeats.clock = self._clock

    def open(self, listener: Listener) -> None:
        """Connect, and pass all messages to a listener."""
        self._listener = listener
        self.link.startService()
        self._heartbeats.start(self._times.beat, now=False)

    def close(self) -> Any:
        """Disconnect.

        :return: what :meth:`IService.stopService` returns.
        """
        self._heartbeats.stop()
        return self.link.stopService()

    async def _join(self, protocol: Any) -> None:
        """Subscribe, and only then let the listener ask for what it may have missed."""
        channels = [keys.channel(self._address.db, name) for name in (self._node, None)]
        await protocol.subscribe(channels).addTimeout(self._times.answer, self._clock)
        commands = self._commands.link.when_connected()
        await commands.addTimeout(self._times.answer, self._clock)
        self._last_heartbeat = self._clock.seconds()
        await self._catch_up(await self._send_heartbeat())
        self.is_joined = True

    async def _send_heartbeat(self) -> bytes:
        """Extend the lease of this node; return the epoch of the store's data."""
        channel = keys.channel(self._address.db, self._node)
        heartbeat = Message(MessageKind.HEARTBEAT, "", self._node).to_bytes()
        lease = keys.ms(self._times.lease)
        args = [self._node, lease, channel, heartbeat, keys.UNCONFIRMED, keys.RESULTS]
        names = [keys.NODES, keys.EPOCH, keys.ORPHANS]
        epoch: bytes = await self._commands.run(scripts.HEARTBEAT, names, args)
        return epoch

    async def _catch_up(self, epoch: bytes) -> None:
        """Call the listener to catch up. If that fails, the next heartbeat tries it again."""
        self._is_catching_up = True
        try:
            await self._listener.catch_up()
        finally:
            self._is_catching_up = False
        self._epoch = epoch

    def _beat(self) -> None:
        if self.link.protocol is None:
            return
        if self._clock.seconds() - self._last_heartbeat > 2 * self._times.beat:
            _log.error("Redis does not deliver messages; subscribing again")
            self.link.drop()
            return
        Deferred.fromCoroutine(self._check_epoch()).addErrback(self._log_bug)

    def _log_bug(self, failure: Failure) -> None:
        """Log a failure, unless Redis was away: the next heartbeat comes soon."""
        if not failure.check(StoreUnreachable):
            _log.failure("a heartbeat failed", failure)

    async def _check_epoch(self) -> None:
        epoch = await self._send_heartbeat()
        if epoch != self._epoch and not self._is_catching_up:
            _log.error("Redis has lost its data; writing it again")
            await self._catch_up(epoch)

    def _receive(self, data: bytes) -> None:
        try:
            message = parse_message(data)
        except ValueError:
            _log.warn("dropped a message that this version does not know")
            return
        if message.kind is MessageKind.HEARTBEAT:
            self._last_heartbeat = self._clock.seconds()
            return
        try:
            self._listener.receive(message)
        except Exception:
            _log.failure("a message about job {job} could not be handled", job=message.job_id)
