"""Connections through an HTTP proxy: a tunnel that CONNECT opens (RFC 9110, section 9.3.6)."""

from base64 import b64encode
from typing import Any, cast
from urllib.parse import unquote

from attrs import field, frozen
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectError
from twisted.internet.interfaces import (
    IProtocol,
    IProtocolFactory,
    IReactorTime,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

#: Bytes of the proxy's response at most.
MAX_HEAD = 16_384


class TunnelRefused(ConnectError):
    """The proxy has not opened a tunnel, so that the server has got nothing."""


@frozen
class HttpProxy:
    """An HTTP proxy.

    :param user: empty: none is needed; as in a URL, percent-encoded.
    """

    host: str
    port: int
    user: str = ""
    password: str = field(default="", repr=False)

    def write_connect(self, host: str, port: int) -> bytes:
        """Return the request that opens a tunnel to a server."""
        place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        lines = [f"CONNECT {place} HTTP/1.1", f"Host: {place}"]
        if self.user or self.password:
            pair = f"{unquote(self.user)}:{unquote(self.password)}"
            lines.append(f"Proxy-Authorization: Basic {b64encode(pair.encode()).decode()}")
        return "\r\n".join([*lines, "", ""]).encode()


@implementer(IStreamClientEndpoint)
@frozen(eq=False)
class TunnelEndpoint:
    """Connects to a server through a proxy.

    :param endpoint: of the proxy.
    :param timeout: seconds for the proxy's response.
    """

    _clock: IReactorTime
    _endpoint: IStreamClientEndpoint
    _proxy: HttpProxy
    _host: str
    _port: int
    _timeout: float

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        return Deferred.fromCoroutine(self._connect(protocolFactory))

    async def _connect(self, factory: IProtocolFactory) -> IProtocol:
        request = self._proxy.write_connect(self._host, self._port)
        tunnel = cast(_Tunnel, await self._endpoint.connect(_Factory(request)))
        try:
            await tunnel.opened.addTimeout(self._timeout, self._clock)
        except ConnectError:
            raise
        except Exception as error:
            tunnel.transport.abortConnection()
            raise TunnelRefused(f"the proxy did not respond: {type(error).__name__}") from error
        except BaseException:
            tunnel.transport.abortConnection()
            raise
        protocol = factory.buildProtocol(tunnel.transport.getPeer())
        if protocol is None:
            tunnel.transport.abortConnection()
            raise ConnectError("no protocol for the connection")
        tunnel.begin(protocol)
        return protocol


class _Tunnel(Protocol):
    """The connection to the proxy; once the tunnel is open, all is for another protocol.

    :ivar opened: fires when the tunnel is open.
    """

    transport: Any

    def __init__(self, request: bytes) -> None:
        self._request = request
        self._head = b""
        self._inner: IProtocol | None = None
        self.opened: Deferred[None] = Deferred()

    def connectionMade(self) -> None:
        self.transport.write(self._request)

    def begin(self, inner: IProtocol) -> None:
        """Pass everything to a protocol from now on."""
        self._inner = inner
        inner.makeConnection(self.transport)

    def dataReceived(self, data: bytes) -> None:
        if self._inner is not None:
            self._inner.dataReceived(data)
        elif not self.opened.called:
            self._head += data
            self._read_head()

    def _read_head(self) -> None:
        head, end, rest = self._head.partition(b"\r\n\r\n")
        if not end:
            if len(self._head) > MAX_HEAD:
                self._refuse("its response is too large")
            return
        words = head.split(b"\r\n", 1)[0].split(b" ", 2)
        is_http = len(words) >= 2 and words[0].startswith(b"HTTP/1.")
        if not (is_http and len(words[1]) == 3 and words[1].startswith(b"2")) or rest:
            self._refuse(f"it responded {b' '.join(words[1:])[:60].decode('latin-1')!r}")
            return
        self.opened.callback(None)

    def _refuse(self, reason: str) -> None:
        self.transport.abortConnection()
        self.opened.errback(TunnelRefused(f"the proxy has opened no connection: {reason}"))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._inner is not None:
            self._inner.connectionLost(reason)
        elif not self.opened.called:
            self.opened.errback(TunnelRefused("the proxy has closed the connection"))


class _Factory(Factory):
    noisy = False

    def __init__(self, request: bytes) -> None:
        self._request = request

    def buildProtocol(self, addr: object) -> _Tunnel:
        return _Tunnel(self._request)
