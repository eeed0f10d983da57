"""The ways to the job server over real sockets: a private authority, a certificate, a proxy."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import pytest_twisted
from attrs import define, field
from twisted.internet.defer import ensureDeferred
from twisted.internet.error import ConnectError
from twisted.internet.protocol import ClientFactory, Factory, Protocol, connectionDone
from twisted.internet.ssl import Certificate
from twisted.python.failure import Failure

from jobproxy.http1.agent import PooledAgent, Untrusted
from jobproxy.http1.limits import ClientLimits
from jobproxy.http1.tls import ClientIdentity, ClientTls, load_identity
from jobproxy.http1.tunnel import HttpProxy, TunnelRefused
from tests.support.http1_peer import Peer, serving
from tests.support.identities import ADDRESS, authority, issue
from tests.support.reactor import reactor, until

BODY = b"body"
RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"


def respond(peer: Peer) -> None:
    if peer.received.endswith(BODY):
        peer.transport.write(RESPONSE)


async def post(url: bytes, **more: Any) -> int:
    """Send a request with a new agent; return the status of the response."""
    agent = PooledAgent(reactor, ClientLimits(idle_time=0, connect_time=1), **more)
    response = await agent.send("POST", url.decode(), (), BODY)
    return int(response.code)


@pytest_twisted.ensureDeferred
async def test_private_authority_is_the_only_one_that_counts() -> None:
    """``--upstream-ca``: its servers are trusted, and those of another one are not."""
    trust = ClientTls((Certificate.loadPEM(authority().pem),))
    async with serving(respond, issue(authority(), ADDRESS)) as server:
        assert await post(server.url, tls=trust) == 200
        with pytest.raises(Untrusted):
            await post(server.url)
    async with serving(respond, issue(authority(1), ADDRESS)) as server:
        with pytest.raises(Untrusted):
            await post(server.url, tls=trust)


@pytest_twisted.ensureDeferred
async def test_certificate_is_shown_to_a_server_that_asks_for_one() -> None:
    """``--upstream-certificate``."""
    names = []

    def answer(peer: Peer) -> None:
        if peer.received.endswith(BODY):
            certificate = peer.transport.getPeerCertificate()
            names.append(certificate and certificate.to_cryptography().serial_number)
            peer.transport.write(RESPONSE)

    mine = issue(authority(), ADDRESS)
    identity = load_identity(mine.pem + mine.key_pem)
    roots = (Certificate.loadPEM(authority().pem),)
    async with serving(answer, issue(authority(), ADDRESS), asks=authority()) as server:
        assert await post(server.url, tls=ClientTls(roots, identity)) == 200
    assert names == [mine.certificate.serial_number]


@pytest_twisted.ensureDeferred
async def test_tls_can_be_replaced() -> None:
    """G14: new connections have the new certificate; one that was kept is not used again."""
    names = []

    def answer(peer: Peer) -> None:
        if peer.received.endswith(BODY):
            names.append(peer.transport.getPeerCertificate().to_cryptography().serial_number)
            peer.transport.write(RESPONSE)

    first, second = issue(authority(), ADDRESS), issue(authority(), ADDRESS)
    roots = (Certificate.loadPEM(authority().pem),)
    tls = [ClientTls(roots, load_identity(each.pem + each.key_pem)) for each in (first, second)]
    agent = PooledAgent(reactor, ClientLimits(idle_time=30), tls[0])
    async with serving(answer, issue(authority(), ADDRESS), asks=authority()) as server:

        async def send() -> None:
            await agent.send("POST", server.url.decode(), (), BODY)

        await send()
        await send()
        sending = ensureDeferred(send())
        agent.replace_tls(tls[1])
        await sending
        await send()
        await send()
        assert len(server.peers) == 2
        with pytest.raises(ValueError, match="neither or both"):
            agent.replace_tls(ClientTls(roots, ClientIdentity(first.certificate, None)))
        await send()
        agent.close_idle()
        for delayed in reactor.getDelayedCalls():
            delayed.cancel()
    old, new = (each.certificate.serial_number for each in (first, second))
    assert names == [old, old, old, new, new, new]


@define(eq=False)
class Proxy(Factory):
    """An HTTP proxy.

    :ivar answer: what it responds instead of opening a tunnel.
    :ivar heads: the requests that came.
    """

    noisy = False

    answer: bytes = b""
    heads: list[bytes] = field(factory=list)
    open: list[Any] = field(factory=list)

    def buildProtocol(self, addr: object) -> "_Side":
        return _Side(self)


class _Side(Protocol):
    """One side of a tunnel."""

    transport: Any

    def __init__(self, proxy: Proxy, other: "_Side | None" = None) -> None:
        self.proxy, self.other, self.head, self.is_asking = proxy, other, b"", other is None

    def connectionMade(self) -> None:
        self.proxy.open.append(self)
        if self.other is not None:
            self.other.other = self
            self.other.transport.write(b"HTTP/1.1 200 Connection established\r\nX: y\r\n\r\n")

    def dataReceived(self, data: bytes) -> None:
        if self.other is not None:
            self.other.transport.write(data)
            return
        self.head += data
        if self.is_asking and self.head.endswith(b"\r\n\r\n"):
            self.is_asking = False
            self.proxy.heads.append(self.head)
            if self.proxy.answer:
                self.transport.write(self.proxy.answer)
                return
            port = int(self.head.split(b" ")[1].rpartition(b":")[2])
            factory = ClientFactory.forProtocol(lambda: _Side(self.proxy, self))
            factory.noisy = False
            reactor.connectTCP("127.0.0.1", port, factory)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.proxy.open.remove(self)
        if self.other is not None:
            self.other.transport.loseConnection()


@asynccontextmanager
async def proxying(answer: bytes = b"") -> AsyncIterator[tuple[Proxy, HttpProxy]]:
    """Run a proxy."""
    proxy = Proxy(answer)
    port = reactor.listenTCP(0, proxy, interface="127.0.0.1")
    try:
        yield proxy, HttpProxy("127.0.0.1", port.getHost().port, "us%40er", "pass")
    finally:
        await port.stopListening()
        await until(lambda: not proxy.open)


@pytest_twisted.ensureDeferred
async def test_requests_go_through_the_proxy() -> None:
    """``--upstream-proxy``: with TLS to the server, and without."""
    trust = ClientTls((Certificate.loadPEM(authority().pem),))
    for identity in (None, issue(authority(), ADDRESS)):
        async with serving(respond, identity) as server, proxying() as (proxy, where):
            assert await post(server.url, proxy=where, tls=trust) == 200
            place = server.url.split(b"/")[2]
            assert proxy.heads == [
                b"CONNECT %b HTTP/1.1\r\nHost: %b\r\n"
                b"Proxy-Authorization: Basic dXNAZXI6cGFzcw==\r\n\r\n" % (place, place)
            ]
            assert b"Proxy-Authorization" not in server.received


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.0 403 Forbidden\r\n\r\nno",
        b"SSH-2.0-x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\ntoo much",
        b"x" * 20_000,
    ],
)
@pytest_twisted.ensureDeferred
async def test_proxy_that_opens_no_tunnel_has_sent_nothing(answer: bytes) -> None:
    """S30: what the proxy refuses was not started."""
    async with serving(respond) as server, proxying(answer) as (_, where):
        with pytest.raises(TunnelRefused):
            await post(server.url, proxy=where)
        assert server.received == b""


@pytest_twisted.ensureDeferred
async def test_proxy_that_is_not_there_is_a_connect_error() -> None:
    """S30: so is a proxy that cannot be reached."""
    async with proxying() as (_, where):
        """Its port is free again."""
    with pytest.raises(ConnectError):
        await post(b"http://127.0.0.1:9/", proxy=where)
