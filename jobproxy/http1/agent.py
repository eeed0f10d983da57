"""An agent for treq whose connections are few, young, and sure to end."""

from collections import deque
from functools import lru_cache
from ipaddress import ip_address
from typing import Any, cast
from urllib.parse import urlsplit

from attrs import define, field, frozen
from OpenSSL.SSL import Error as TLSError
from service_identity import CertificateError, VerificationError
from twisted.internet.defer import Deferred, DeferredSemaphore, maybeDeferred
from twisted.internet.endpoints import (
    HostnameEndpoint,
    TCP4ClientEndpoint,
    TCP6ClientEndpoint,
    wrapClientTLS,
)
from twisted.internet.error import ConnectError
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.ssl import optionsForClientTLS
from twisted.python.failure import Failure
from twisted.web.client import RequestTransmissionFailed
from twisted.web.error import SchemeNotSupported
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IBodyProducer, IResponse
from zope.interface import implementer

from jobproxy.http1.client_connection import ClientConnection, ClientFactory
from jobproxy.http1.limits import ClientLimits
from jobproxy.http1.response import Response

#: Why a server is not trusted, when its TLS handshake fails.
UNTRUSTED = (TLSError, VerificationError, CertificateError)

#: What a connection is made to: scheme, host name or address, and port.
Origin = tuple[str, str, int]


@frozen
class Target:
    """What a URL asks for, and of whom.

    :param scheme: ``http`` or ``https``.
    :param name: the server's host name or address.
    :param port: the server's port.
    :param path: the path and query.
    :param host: the value of the ``Host`` header.
    """

    scheme: str
    name: str
    port: int
    path: bytes
    host: bytes

    @property
    def origin(self) -> Origin:
        """What a connection is made to."""
        return (self.scheme, self.name, self.port)


@lru_cache(maxsize=256)
def parse_target(uri: bytes) -> Target:
    """Take a URL apart.

    :raises SchemeNotSupported: if it is not one of HTTP or HTTPS.
    """
    url = urlsplit(uri.decode("ascii"))
    if url.scheme not in ("http", "https") or not url.hostname:
        raise SchemeNotSupported(f"not a URL of HTTP: {url.scheme!r}")
    path = (url.path or "/") + (f"?{url.query}" if url.query else "")
    port = url.port or (443 if url.scheme == "https" else 80)
    host = url.netloc.rpartition("@")[2]
    return Target(url.scheme, url.hostname, port, path.encode(), host.encode())


@implementer(IAgent)
@define(eq=False)
class PooledAgent:
    """Sends requests, each over a connection that it has for itself meanwhile.

    A connection is used again only if nothing speaks against it: the response was HTTP/1.1, ended
    where its length said and did not ask for a close, and it came less than the idle time ago.
    Nothing is ever sent twice, no redirect is followed, no cookie kept, no encoding taken off.

    The errors say whether the request may have left. It did not with those of connecting:
    :class:`ConnectError` and its kin, :class:`DNSLookupError`, and
    :class:`RequestTransmissionFailed` because of TLS. It may have with :class:`ResponseFailed`.

    :param reactor: makes connections and tells the time.
    """

    _reactor: Any
    _limits: ClientLimits
    _turns: DeferredSemaphore = field(init=False)
    _idle: dict[Origin, deque[tuple[ClientConnection, float]]] = field(factory=dict, init=False)
    _endpoints: dict[Origin, tuple[IStreamClientEndpoint, ClientFactory]] = field(
        factory=dict, init=False
    )
    _is_sweeping: bool = field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        self._turns = DeferredSemaphore(self._limits.connections)

    def request(
        self,
        method: bytes,
        uri: bytes,
        headers: Headers | None = None,
        bodyProducer: IBodyProducer | None = None,
    ) -> Deferred[IResponse]:
        """Send a request.

        :param headers: with ``Connection: close`` the request has a new connection for itself.
        :param bodyProducer: has to produce all of the body at once.
        :return: fires when the whole response is there. Cancelling it closes the connection.
        """
        target = parse_target(uri)
        headers = headers or Headers()
        may_keep = self._limits.idle_time > 0 and not headers.hasHeader(b"connection")
        data = write_request(method, target, headers, bodyProducer)
        turn = self._turns.acquire()
        idle = self._take_idle(target.origin) if turn.called and may_keep else None
        if idle is None:
            connecting = self._request(turn, target, data, may_keep)
            return cast(Deferred[IResponse], Deferred.fromCoroutine(connecting))
        sending = idle.exchange(data).addBoth(self._end, target.origin, idle, may_keep)
        return cast(Deferred[IResponse], sending)

    @property
    def active(self) -> int:
        """How many connections have a request under way."""
        return self._limits.connections - self._turns.tokens

    @property
    def idle(self) -> int:
        """How many connections wait for a request."""
        return sum(len(idle) for idle in self._idle.values())

    def close_idle(self) -> None:
        """Close all connections that wait for a request."""
        for origin in list(self._idle):
            for connection, _ in self._idle.pop(origin):
                connection.when_lost = None
                connection.close()

    async def _request(
        self, turn: Deferred[Any], target: Target, data: bytes, may_keep: bool
    ) -> Response:
        await turn
        try:
            connection = self._take_idle(target.origin) if may_keep else None
            if connection is None:
                connection = await self._connect(target.origin)
        except BaseException:
            self._turns.release()
            raise
        sending = connection.exchange(data)
        return await sending.addBoth(self._end, target.origin, connection, may_keep)

    def _end(
        self, result: Any, origin: Origin, connection: ClientConnection, may_keep: bool
    ) -> Any:
        """Keep a connection or close it, and let the next request have its turn."""
        if connection.is_open and may_keep:
            self._keep(origin, connection)
        elif not isinstance(result, Failure):
            connection.close()
        self._turns.release()
        return result

    async def _connect(self, origin: Origin) -> ClientConnection:
        if origin not in self._endpoints:
            self._endpoints[origin] = self._make_endpoint(*origin)
        endpoint, factory = self._endpoints[origin]
        connection = cast(ClientConnection, await endpoint.connect(factory))
        if factory.is_secure:
            try:
                await connection.ready
            except BaseException as error:
                connection.transport.abortConnection()
                if isinstance(error, UNTRUSTED):
                    raise RequestTransmissionFailed([Failure()]) from error
                raise ConnectError(f"no TLS: {error!r}") from error
        return connection

    def _make_endpoint(
        self, scheme: str, name: str, port: int
    ) -> tuple[IStreamClientEndpoint, ClientFactory]:
        seconds = self._limits.connect_time
        try:
            version = ip_address(name).version
        except ValueError:
            endpoint: Any = HostnameEndpoint(self._reactor, name, port, timeout=seconds)
        else:
            kind = TCP4ClientEndpoint if version == 4 else TCP6ClientEndpoint
            endpoint = kind(self._reactor, name, port, timeout=seconds)
        if scheme == "https":
            endpoint = wrapClientTLS(optionsForClientTLS(name), endpoint)
        return endpoint, ClientFactory(self._limits, name if scheme == "https" else None)

    def _take_idle(self, origin: Origin) -> ClientConnection | None:
        idle = self._idle.get(origin)
        while idle:
            connection, until = idle.pop()
            connection.when_lost = None
            if connection.is_open and until > self._reactor.seconds():
                return connection
            connection.close()
        return None

    def _keep(self, origin: Origin, connection: ClientConnection) -> None:
        idle = self._idle.setdefault(origin, deque())
        entry = (connection, self._reactor.seconds() + self._limits.idle_time)
        idle.append(entry)
        connection.when_lost = lambda _: idle.remove(entry)
        if not self._is_sweeping:
            self._is_sweeping = True
            self._reactor.callLater(self._limits.idle_time, self._sweep)

    def _sweep(self) -> None:
        """Close what has been idle for too long, and come back while anything is idle."""
        now = self._reactor.seconds()
        oldest = []
        for origin, idle in list(self._idle.items()):
            while idle and idle[0][1] <= now:
                connection, _ = idle.popleft()
                connection.when_lost = None
                connection.close()
            if idle:
                oldest.append(idle[0][1])
            else:
                del self._idle[origin]
        self._is_sweeping = bool(oldest)
        if oldest:
            self._reactor.callLater(min(oldest) - now, self._sweep)


class _Buffer:
    """A consumer that takes a body that is produced at once."""

    def __init__(self) -> None:
        self.data = b""

    def write(self, data: bytes) -> None:
        self.data += data


def write_request(
    method: bytes,
    target: Target,
    headers: Headers,
    producer: IBodyProducer | None,
) -> bytes:
    """Return a request, head and body.

    :param producer: has to produce all of its body at once.
    """
    body = _Buffer()
    if producer is not None:
        produced = maybeDeferred(producer.startProducing, cast(Any, body))
        outcomes: list[Any] = []
        produced.addBoth(outcomes.append)
        if outcomes != [None]:
            raise ValueError("only bodies that are produced at once can be sent")
    lines = [b"%b %b HTTP/1.1\r\nHost: %b\r\n" % (method, target.path, target.host)]
    for name, values in headers.getAllRawHeaders():
        lines += [b"%b: %b\r\n" % (name, value) for value in values]
    lines.append(b"Content-Length: %d\r\n\r\n" % len(body.data))
    return b"".join(lines) + body.data
