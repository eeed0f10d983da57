"""A connection to Redis that is made again whenever it is lost."""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeVar, cast

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
from twisted.logger import Logger
from twisted.python.failure import Failure
from txredisapi import ConnectionError as LostConnection
from txredisapi import RedisProtocol, ResponseError, SubscriberProtocol
from zope.interface import implementer

from jobproxy.store.interface import StoreUnreachable
from jobproxy.store.limits import ANSWER_TIME
from jobproxy.store.redis_address import Address
from jobproxy.util.tls_names import WRONG_NAME, check_name

_log = Logger()

Found = TypeVar("Found")

#: Seconds before the first try to connect again, and the most before any.
FIRST_PAUSE = 0.05
MAX_PAUSE = 0.5


class NotUsable(Exception):
    """A Redis that answers, but not as one that we can use."""


class Session(Protocol):
    """Stands for a connection from when it can be used until it is lost.

    Twisted's ClientService fails on a connection that is lost before it is prepared.
    """


@implementer(IStreamClientEndpoint)
@define(eq=False)
class Link(Service):
    """
    :param make_endpoint: returns what connects to a host and a port.
    :param make_protocol: returns a protocol of txredisapi.
    :param prepare: makes a new connection usable, once it is authenticated.
    :ivar protocol: the one that can be used now.
    """

    _clock: IReactorTime
    _address: Address
    _make_endpoint: Callable[[str, int], IStreamClientEndpoint]
    _make_protocol: Callable[[], Any]
    _prepare: Callable[[Any], Awaitable[None]]
    _service: ClientService = field(init=False)
    protocol: Any = field(default=None, init=False)
    _is_told: bool = field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        endpoint: Any = self
        self._service = ClientService(
            endpoint,
            Factory.forProtocol(Session),
            retryPolicy=lambda attempt: min(FIRST_PAUSE * 2 ** min(attempt, 10), MAX_PAUSE),
            clock=self._clock,
        )

    def startService(self) -> None:
        super().startService()
        self._service.startService()

    def stopService(self) -> Any:
        super().stopService()
        return self._service.stopService()

    def when_connected(self) -> Deferred[Any]:
        """Wait for a connection that can be used."""
        return self._service.whenConnected()

    def drop(self) -> None:
        """Use this connection no longer, as it does not do what it should."""
        protocol, self.protocol = self.protocol, None
        if protocol is not None:
            protocol.transport.abortConnection()

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """Make a connection that can be used; our own service calls this whenever there is none."""
        return Deferred.fromCoroutine(self._connect(protocolFactory))

    async def _connect(self, sessions: IProtocolFactory) -> IProtocol:
        try:
            protocol = await self._find_and_open()
        except (CancelledError, StoreUnreachable):
            # The other link says what is wrong with Redis.
            raise
        except Exception as error:
            if not self._is_told:
                self._is_told = True
                reason = explain(error)
                _log.error("Redis cannot be used, and is tried again: {reason}", reason=reason)
            raise
        self.protocol, self._is_told = protocol, False
        session = cast(IProtocol, sessions.buildProtocol(protocol.transport.getPeer()))
        session.makeConnection(protocol.transport)
        protocol.whenDisconnected().addCallback(self._close, protocol, session)
        return session

    async def _find_and_open(self) -> Any:
        host, port = self._address.hosts[0]
        if self._address.service is not None:
            host, port = await self._find_master(self._address.service)
        factory = Factory.forProtocol(self._make_protocol)
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
        """Look who that is, before it is told a password."""
        try:
            with suppress(ResponseError):
                await within(protocol.ping(), self._clock)
            check_name(protocol.transport.getHandle(), host)
        except LostConnection:
            raise NotUsable(f"{host} speaks no TLS, or has a certificate not to trust") from None
        except WRONG_NAME as error:
            raise NotUsable(f"the certificate of {host} has other names") from error

    async def _open(self, protocol: Any) -> None:
        address, clock = self._address, self._clock
        if address.password is not None:
            await within(protocol.auth(address.password, address.username), clock)
        if address.db:
            await within(protocol.select(address.db), clock)
        role = await within(protocol.role(), clock)
        if role[0] != b"master":
            raise NotUsable("it is a replica, and takes no writes")
        await self._prepare(protocol)
        if not protocol.connected:
            raise NotUsable("the connection was lost at once")

    def _close(self, _: object, protocol: Any, session: IProtocol) -> None:
        if self.protocol is protocol:
            self.protocol = None
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
        factory = Factory.forProtocol(make_protocol)
        sentinel: Any = await self._make_endpoint(host, port).connect(factory)
        try:
            found = await within(sentinel.sentinel_get_master_addr_by_name(service), self._clock)
        finally:
            sentinel.transport.abortConnection()
        if not found:
            raise NotUsable("it does not know it")
        return found[0].decode(), int(found[1])


class Subscriber(SubscriberProtocol):
    """Receives messages.

    :param receive: is called with each.
    """

    def __init__(self, receive: Callable[[bytes], None]) -> None:
        super().__init__(charset=None, convertNumbers=False)
        self._receive = receive

    def messageReceived(self, pattern: object, channel: object, message: bytes) -> None:
        self._receive(message)


def make_protocol() -> RedisProtocol:
    """Return a protocol that leaves bytes as they are."""
    return RedisProtocol(charset=None, convertNumbers=False)


async def accept_as_is(protocol: object) -> None:
    """Prepare nothing: a connection for commands can be used at once."""


def explain(error: Exception) -> str:
    """Return what to say of an error."""
    if isinstance(error, DeferredTimeoutError):
        return f"no answer in {ANSWER_TIME:g} s"
    return str(error) or type(error).__name__


def within(answer: "Deferred[Found]", clock: IReactorTime) -> "Deferred[Found]":
    """Wait for an answer no longer than is bearable."""
    return answer.addTimeout(ANSWER_TIME, clock)
