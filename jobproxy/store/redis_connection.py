"""A connection to Redis, and a new one whenever it is lost."""

import math
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, cast

from attrs import define, field
from twisted.application.internet import ClientService
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeoutError
from twisted.internet.error import ConnectionLost
from twisted.internet.interfaces import (
    IProtocol,
    IProtocolFactory,
    IReactorTime,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import Factory, Protocol
from twisted.logger import Logger, LogPublisher
from twisted.python.failure import Failure
from txredisapi import ConnectionError as LostConnection
from txredisapi import RedisProtocol, ResponseError, SubscriberProtocol
from zope.interface import implementer

from jobproxy.store.interface import StoreUnreachable
from jobproxy.store.redis_address import RedisAddress
from jobproxy.util.backoff import Backoff
from jobproxy.util.tls_names import WRONG_NAME, check_name

_log = Logger()

#: Pauses before another try to connect.
_BACKOFF = Backoff(first=0.05, maximum=0.5)
#: Seconds between two lines that say that Redis cannot be used.
LOG_INTERVAL = 60.0


class NotUsable(Exception):
    """Redis responds, but is not one that a store can use."""


class Session(Protocol):
    """Represents a connection from when it is prepared until it is lost.

    Twisted's ClientService fails on a connection that is lost before it is prepared, so it gets
    this protocol, after that, in place of the protocol of txredisapi.
    """


class _QuietFactory(Factory):
    """Makes protocols, and does not log that it does."""

    noisy = False


class _QuietService(ClientService):
    """Logs no line for each attempt to connect: :class:`Link` says what has to be known."""

    _log = Logger(observer=LogPublisher())


@implementer(IStreamClientEndpoint)
@define(eq=False)
class Link(Service):
    """One connection to the master, as a service that reconnects.

    :param make_endpoint: returns an endpoint that connects to a host and a port.
    :param make_protocol: returns a protocol of txredisapi.
    :param prepare: is awaited with a new, authenticated protocol before it is used.
    :param timeout: seconds for the reply to each command that a new connection needs.
    :ivar protocol: the protocol of the current connection; :data:`None` while there is none.
    """

    _clock: IReactorTime
    _address: RedisAddress
    _make_endpoint: Callable[[str, int], IStreamClientEndpoint]
    _make_protocol: Callable[[], Any]
    _prepare: Callable[[Any], Awaitable[None]]
    _timeout: float
    _service: ClientService = field(init=False)
    protocol: Any = field(default=None, init=False)
    #: When the connection was lost or could not be made, and when that was logged last.
    _away_since: float | None = field(default=None, init=False)
    _logged_at: float = field(default=-math.inf, init=False)

    def __attrs_post_init__(self) -> None:
        endpoint: Any = self
        self._service = _QuietService(
            endpoint,
            _QuietFactory.forProtocol(Session),
            retryPolicy=lambda attempt: _BACKOFF.pause(attempt + 1),
            clock=self._clock,
        )

    def startService(self) -> None:
        super().startService()
        self._service.startService()

    def stopService(self) -> Any:
        super().stopService()
        return self._service.stopService()

    def when_connected(self) -> Deferred[Any]:
        """Return a Deferred that fires once there is a prepared connection."""
        return self._service.whenConnected()

    def drop(self) -> None:
        """Abort the connection, which does not work; a new one is made."""
        protocol, self.protocol = self.protocol, None
        if protocol is not None:
            protocol.transport.abortConnection()

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """Make and prepare a connection; only the service of this link calls this."""
        return Deferred.fromCoroutine(self._connect(protocolFactory))

    async def _connect(self, sessions: IProtocolFactory) -> IProtocol:
        try:
            protocol = await self._find_and_open()
        except (CancelledError, StoreUnreachable):
            # The link of the commands logs what is wrong with Redis.
            raise
        except Exception as error:
            self._note_failure(error)
            raise
        self._note_success()
        self.protocol = protocol
        session = cast(IProtocol, sessions.buildProtocol(protocol.transport.getPeer()))
        session.makeConnection(protocol.transport)
        protocol.whenDisconnected().addCallback(self._close, protocol, session)
        return session

    def _note_failure(self, error: Exception) -> None:
        now = self._clock.seconds()
        if self._away_since is None:
            self._away_since = now
        if now - self._logged_at >= LOG_INTERVAL:
            self._logged_at = now
            _log.error("Redis cannot be used; trying again: {reason}", reason=explain(error))

    def _note_success(self) -> None:
        if self._away_since is not None:
            seconds = self._clock.seconds() - self._away_since
            _log.info("Redis can be used again, after {seconds:.1f} s", seconds=seconds)
        self._away_since, self._logged_at = None, -math.inf

    async def _find_and_open(self) -> Any:
        host, port = self._address.hosts[0]
        if self._address.service is not None:
            host, port = await self._find_master(self._address.service)
        factory = _QuietFactory.forProtocol(self._make_protocol)
        protocol: Any = await self._make_endpoint(host, port).connect(factory)
        try:
            if self._address.is_tls:
                await self._check_identity(protocol, host)
            await self._open(protocol)
        except BaseException:
            protocol.transport.abortConnection()
            raise
        return protocol

    async def _check_identity(self, protocol: Any, host: str) -> None:
        """Check the certificate before a password is sent."""
        try:
            with suppress(ResponseError):
                await self._within(protocol.ping())
            check_name(protocol.transport.getHandle(), host)
        except LostConnection:
            raise NotUsable(f"{host} does not use TLS, or its certificate is not trusted") from None
        except WRONG_NAME as error:
            raise NotUsable(f"the certificate of {host} is for another name") from error

    async def _open(self, protocol: Any) -> None:
        address = self._address
        if address.password is not None:
            await self._within(protocol.auth(address.password, address.username))
        if address.db:
            await self._within(protocol.select(address.db))
        role = await self._within(protocol.role())
        if role[0] != b"master":
            raise NotUsable("it is a replica, which cannot be written to")
        await self._prepare(protocol)
        if not protocol.connected:
            raise NotUsable("the connection was lost while it was prepared")

    def _close(self, _: object, protocol: Any, session: IProtocol) -> None:
        if self.protocol is protocol:
            self.protocol = None
        if self.running:
            _log.warn("a connection to Redis is lost; connecting again")
            self._away_since = self._clock.seconds()
        session.connectionLost(Failure(ConnectionLost()))

    async def _find_master(self, service: str) -> tuple[str, int]:
        reasons = []
        for host, port in self._address.hosts:
            try:
                return await self._ask(host, port, service)
            except CancelledError:
                raise
            except Exception as error:
                reasons.append(f"{host}:{port}: {explain(error)}")
        raise NotUsable(f"no sentinel knows the master {service} ({'; '.join(reasons)})")

    async def _ask(self, host: str, port: int, service: str) -> tuple[str, int]:
        factory = _QuietFactory.forProtocol(make_protocol)
        sentinel: Any = await self._make_endpoint(host, port).connect(factory)
        try:
            found = await self._within(sentinel.sentinel_get_master_addr_by_name(service))
        finally:
            sentinel.transport.abortConnection()
        if not found:
            raise NotUsable("it does not know this master")
        return found[0].decode(), int(found[1])

    def _within(self, reply: Deferred[Any]) -> Deferred[Any]:
        return reply.addTimeout(self._timeout, self._clock)


class Subscriber(SubscriberProtocol):
    """Receives the messages of a subscription.

    :param receive: is called with each message.
    """

    def __init__(self, receive: Callable[[bytes], None]) -> None:
        super().__init__(charset=None, convertNumbers=False)
        self._receive = receive

    def messageReceived(self, pattern: object, channel: object, message: bytes) -> None:
        self._receive(message)


def make_protocol() -> RedisProtocol:
    """Return a protocol that does not decode replies."""
    return RedisProtocol(charset=None, convertNumbers=False)


async def prepare_nothing(protocol: object) -> None:
    """Do nothing: a connection for commands can be used at once."""


def explain(error: Exception) -> str:
    """Return the text for the log of an error of a command."""
    if isinstance(error, DeferredTimeoutError):
        return f"no reply in {error.args[0]:g} s"
    return str(error) or type(error).__name__
