"""An agent for treq that limits its connections, keeps them only for a short time, and always
closes them.
"""

from collections import deque
from functools import lru_cache
from ipaddress import ip_address
from typing import Any, cast
from urllib.parse import urlsplit

from attrs import define, field, frozen
from OpenSSL.SSL import Error as TLSError
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import (
    HostnameEndpoint,
    TCP4ClientEndpoint,
    TCP6ClientEndpoint,
    wrapClientTLS,
)
from twisted.internet.error import ConnectError
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.python.failure import Failure
from twisted.web.error import SchemeNotSupported
from twisted.web.iweb import IResponse
from zope.interface import implementer

from jobproxy.http1.client_connection import ClientConnection, ClientFactory
from jobproxy.http1.limits import ClientLimits
from jobproxy.http1.response import Response
from jobproxy.http1.sender import HeaderLines, ISender
from jobproxy.http1.tls import ClientTls
from jobproxy.http1.tunnel import HttpProxy, TunnelEndpoint
from jobproxy.util.tls_names import WRONG_NAME

#: The errors of a TLS handshake that mean that the server is not trusted.
_UNTRUSTED = (TLSError, *WRONG_NAME)


class Untrusted(Exception):
    """The TLS certificate or protocol of the server was not accepted; nothing was sent."""


#: What a connection is made to: scheme, host name or address, and port.
Origin = tuple[str, str, int]
#: Idle connections, with the times at which they are closed; the oldest first.
Idle = dict[ClientConnection, float]


@frozen
class Target:
    """The parts of a URL that a request needs.

    :param origin: what a connection is made to.
    :param path: the path and query.
    :param host: the value of the ``Host`` header.
    """

    origin: Origin
    path: bytes
    host: bytes


@lru_cache(maxsize=256)
def parse_target(url: str) -> Target:
    """Parse a URL.

    :raises SchemeNotSupported: if its scheme is not HTTP or HTTPS, or if it has no host.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise SchemeNotSupported(f"not a URL of HTTP: {parts.scheme!r}")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    port = parts.port or (443 if parts.scheme == "https" else 80)
    host = parts.netloc.rpartition("@")[2]
    return Target((parts.scheme, parts.hostname, port), path.encode(), host.encode())


@implementer(ISender)
@define(eq=False)
class PooledAgent:
    """Sends each request on a connection that no other request uses at the same time.

    A connection is used again only if its last response was HTTP/1.1, ended where its length said,
    did not ask for a close, and came less than the idle time ago. No request is sent twice, no
    redirect is followed, no cookie is kept, and no encoding is decoded.

    The errors show whether a request may have been sent. It was not if connecting failed:
    :class:`ConnectError` and its subclasses, :class:`DNSLookupError`, and :class:`Untrusted`. It
    may have been with :class:`ResponseFailed`, also if that is due to TLS: an error after the
    handshake says nothing of what the server has read before.

    :param reactor: makes connections; its time is monotonic.
    :ivar tls: of new connections.
    :param proxy: through which all connections go.
    """

    _reactor: Any
    _limits: ClientLimits
    tls: ClientTls = field(factory=ClientTls)
    _proxy: HttpProxy | None = None
    #: How many more requests may be in progress; the requests that wait for their turn.
    _free: int = field(init=False)
    _waiting: deque[Deferred[None]] = field(factory=deque, init=False)
    _idle: dict[Origin, Idle] = field(factory=dict, init=False)
    _endpoints: dict[Origin, tuple[IStreamClientEndpoint, ClientFactory]] = field(
        factory=dict, init=False
    )
    _is_sweeping: bool = field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        self._free = self._limits.connections

    def send(self, method: str, url: str, headers: HeaderLines, body: bytes) -> Deferred[IResponse]:
        """Send a request.

        :param headers: with ``Connection: close`` the request has a new connection for itself.
        :return: fires with the whole response. Cancelling it closes the connection.
        :raises ValueError: if a header contains a line break.
        """
        target = parse_target(url)
        data = write_request(method, target, headers, body)
        may_keep = self._limits.idle_time > 0 and b"Connection" not in dict(headers)
        turn: Deferred[None] | None = None
        if self._free:
            self._free -= 1
        else:
            turn = Deferred(self._waiting.remove)
            self._waiting.append(turn)
        connection = self._take_idle(target.origin) if turn is None and may_keep else None
        if connection is None:
            connecting = self._send(turn, target.origin, data, may_keep)
            return cast(Deferred[IResponse], Deferred.fromCoroutine(connecting))
        sending: Deferred[Any] = connection.exchange(data)
        return sending.addBoth(self._end, target.origin, connection, may_keep)

    @property
    def active(self) -> int:
        """The number of connections with a request in progress."""
        return self._limits.connections - self._free

    @property
    def idle(self) -> int:
        """The number of idle connections."""
        return sum(len(idle) for idle in self._idle.values())

    def close_idle(self) -> None:
        """Close all idle connections."""
        for idle in self._idle.values():
            while idle:
                idle.popitem()[0].close()

    def replace_tls(self, tls: ClientTls) -> None:
        """Use other certificates for new connections; no connection from before is used again.

        :raises Exception: if OpenSSL does not accept them; then nothing changes.
        """
        tls.options_for("name.invalid")
        self.tls = tls
        for origin in [each for each in self._endpoints if each[0] == "https"]:
            del self._endpoints[origin]
        self.close_idle()

    async def _send(
        self, turn: Deferred[None] | None, origin: Origin, data: bytes, may_keep: bool
    ) -> Response:
        if turn is not None:
            await turn
        try:
            connection = self._take_idle(origin) if may_keep else None
            if connection is None:
                connection = await self._connect(origin)
        except BaseException:
            self._release()
            raise
        sending = connection.exchange(data)
        return await sending.addBoth(self._end, origin, connection, may_keep)

    def _end(
        self, result: Any, origin: Origin, connection: ClientConnection, may_keep: bool
    ) -> Any:
        """Keep or close a connection, and give its place to the next request that waits."""
        endpoints = self._endpoints
        # One that was made before replace_tls() is not kept.
        is_current = origin in endpoints and endpoints[origin][1] is connection.factory
        if connection.is_open and may_keep and is_current:
            self._keep(origin, connection)
        elif not isinstance(result, Failure):
            connection.close()
        self._release()
        return result

    def _release(self) -> None:
        """Give a connection's place to the next request that waits for one."""
        if self._waiting:
            self._waiting.popleft().callback(None)
        else:
            self._free += 1

    async def _connect(self, origin: Origin) -> ClientConnection:
        if origin not in self._endpoints:
            self._endpoints[origin] = self._make_endpoint(origin)
        endpoint, factory = self._endpoints[origin]
        connection = cast(ClientConnection, await endpoint.connect(factory))
        if factory.is_secure:
            try:
                await connection.ready.addTimeout(self._limits.connect_time, self._reactor)
            except BaseException as error:
                connection.transport.abortConnection()
                if isinstance(error, _UNTRUSTED):
                    raise Untrusted(str(error)) from error
                raise ConnectError(f"no TLS: {error!r}") from error
        return connection

    def _make_endpoint(self, origin: Origin) -> tuple[IStreamClientEndpoint, ClientFactory]:
        scheme, name, port = origin
        proxy, seconds = self._proxy, self._limits.connect_time
        if proxy is None:
            endpoint = self._make_tcp_endpoint(name, port)
        else:
            to_proxy = self._make_tcp_endpoint(proxy.host, proxy.port)
            endpoint = TunnelEndpoint(self._reactor, to_proxy, proxy, name, port, seconds)
        if scheme == "https":
            endpoint = wrapClientTLS(self.tls.options_for(name), endpoint)
        # All connections to an origin share one map of idle ones.
        idle = self._idle.setdefault(origin, {})
        tls_name = name if scheme == "https" else None
        return endpoint, ClientFactory(
            self._limits, tls_name, lambda connection: idle.pop(connection, None)
        )

    def _make_tcp_endpoint(self, name: str, port: int) -> Any:
        seconds = self._limits.connect_time
        try:
            version = ip_address(name).version
        except ValueError:
            return HostnameEndpoint(self._reactor, name, port, timeout=seconds)
        kind = TCP4ClientEndpoint if version == 4 else TCP6ClientEndpoint
        return kind(self._reactor, name, port, timeout=seconds)

    def _take_idle(self, origin: Origin) -> ClientConnection | None:
        idle = self._idle.get(origin)
        while idle:
            connection, until = idle.popitem()
            if until > self._reactor.seconds() and connection.may_exchange():
                return connection
            connection.close()
        return None

    def _keep(self, origin: Origin, connection: ClientConnection) -> None:
        self._idle[origin][connection] = self._reactor.seconds() + self._limits.idle_time
        if not self._is_sweeping:
            self._is_sweeping = True
            self._reactor.callLater(self._limits.idle_time, self._sweep)

    def _sweep(self) -> None:
        """Close connections that were idle for too long; repeat while there are idle ones."""
        now = self._reactor.seconds()
        oldest: list[float] = []
        for idle in self._idle.values():
            while idle:
                connection, until = next(iter(idle.items()))
                if until > now:
                    oldest.append(until)
                    break
                del idle[connection]
                connection.close()
        self._is_sweeping = bool(oldest)
        if oldest:
            self._reactor.callLater(min(oldest) - now, self._sweep)


def write_request(method: str, target: Target, headers: HeaderLines, body: bytes) -> bytes:
    """Return the head and the body of a request.

    :raises ValueError: if a header contains a line break.
    """
    lines = b""
    for header in headers:
        line = b"%b: %b" % header
        if b"\n" in line or b"\r" in line:
            raise ValueError("a header cannot contain a line break")
        lines += line + b"\r\n"
    return b"%b %b HTTP/1.1\r\nHost: %b\r\n%bContent-Length: %d\r\n\r\n%b" % (
        method.encode("ascii"),
        target.path,
        target.host,
        lines,
        len(body),
        body,
    )
