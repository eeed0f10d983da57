"""A connection to Redis that is made again whenever it is lost."""

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from attrs import define, field
from twisted.application.internet import ClientService
from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IProtocol,
    IProtocolFactory,
    IReactorTime,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from txredisapi import RedisProtocol
from zope.interface import implementer

from jobproxy.cluster.address import Address
from jobproxy.cluster.limits import ANSWER_TIME

_log = Logger()

Found = TypeVar("Found")

#: Seconds before the first try to connect again, and the most before any.
FIRST_PAUSE = 0.05
MAX_PAUSE = 0.5


class NotUsable(Exception):
    """A Redis that answers, but not as one that we can use."""


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
        endpoint: Any = _Finder(self._clock, self._address, self._make_endpoint)
        self._service = ClientService(
            endpoint,
            Factory.forProtocol(self._make_protocol),
            retryPolicy=lambda attempt: min(FIRST_PAUSE * 2 ** min(attempt, 10), MAX_PAUSE),
            clock=self._clock,
            prepareConnection=lambda protocol: Deferred.fromCoroutine(self._open(protocol)),
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

    async def _open(self, protocol: Any) -> None:
        try:
            await open_session(protocol, self._address, self._clock)
            await self._check_role(protocol)
            await self._prepare(protocol)
        except Exception as error:
            self._tell(error)
            protocol.transport.abortConnection()
            raise
        self.protocol, self._is_told = protocol, False
        protocol.whenDisconnected().addCallback(self._close, protocol)

    async def _check_role(self, protocol: Any) -> None:
        role = await within(protocol.role(), self._clock)
        if role[0] != b"master":
            raise NotUsable("it is a replica, and takes no writes")

    def _close(self, _: object, protocol: Any) -> None:
        if self.protocol is protocol:
            self.protocol = None

    def _tell(self, error: Exception) -> None:
        """Say it once that Redis cannot be used."""
        if not self._is_told:
            self._is_told = True
            reason = str(error) or type(error).__name__
            _log.error("Redis cannot be used, and is tried again: {reason}", reason=reason)


async def open_session(protocol: Any, address: Address, clock: IReactorTime) -> None:
    """Tell Redis who we are and what we want to see."""
    if address.password is not None:
        await within(protocol.auth(address.password, address.username), clock)
    if address.db:
        await within(protocol.select(address.db), clock)


def within(answer: "Deferred[Found]", clock: IReactorTime) -> "Deferred[Found]":
    """Wait for an answer no longer than is bearable."""
    return answer.addTimeout(ANSWER_TIME, clock)


@implementer(IStreamClientEndpoint)
@define(eq=False)
class _Finder:
    """Connects to the Redis that is the master now."""

    _clock: IReactorTime
    _address: Address
    _make_endpoint: Callable[[str, int], IStreamClientEndpoint]

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        return Deferred.fromCoroutine(self._connect(protocolFactory))

    async def _connect(self, factory: IProtocolFactory) -> IProtocol:
        host, port = self._address.hosts[0]
        if self._address.service is not None:
            host, port = await self._find_master(self._address.service)
        return await self._make_endpoint(host, port).connect(factory)

    async def _find_master(self, service: str) -> tuple[str, int]:
        reasons = []
        for host, port in self._address.hosts:
            try:
                return await self._ask(host, port, service)
            except Exception as error:
                reasons.append(f"{host}:{port}: {str(error) or type(error).__name__}")
        raise NotUsable(f"no sentinel knows the master {service} ({'; '.join(reasons)})")

    async def _ask(self, host: str, port: int, service: str) -> tuple[str, int]:
        factory = Factory.forProtocol(lambda: RedisProtocol(charset=None, convertNumbers=False))
        sentinel: Any = await within(self._make_endpoint(host, port).connect(factory), self._clock)
        try:
            found = await within(sentinel.sentinel_get_master_addr_by_name(service), self._clock)
        finally:
            sentinel.transport.abortConnection()
        if not found:
            raise NotUsable("it does not know it")
        return found[0].decode(), int(found[1])
