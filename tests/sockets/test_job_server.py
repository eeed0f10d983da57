"""Start calls over real sockets, to a job server that fails in ways that only sockets have."""

import random
import struct
from collections.abc import Callable
from socket import SO_LINGER, SOL_SOCKET
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from jobproxy.http1.agent import PooledAgent
from jobproxy.http1.client import PlainClient
from jobproxy.http1.limits import ClientLimits
from jobproxy.upstream.circuit import Circuit
from jobproxy.upstream.job_server import AmbiguousStart, JobServer
from jobproxy.upstream.keepalive import KeepAlivePolicy
from jobproxy.wire.problems import UpstreamUnreachable, UpstreamUntrusted
from tests.support.reactor import reactor, until_closed

BODY = b'{"account":"a"}'


class Peer(Protocol):
    """The job server's end of a connection; does one thing once the request has arrived."""

    received = b""

    def __init__(self, react: Callable[[Any], None]) -> None:
        self.react = react
        self.lost: Deferred[None] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        self.received += data
        if self.received.endswith(BODY):
            self.react(self.transport)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost.callback(None)


async def start(client: PlainClient, clock: Any, url: str) -> None:
    """Make a start call that may take 5 seconds."""
    policy = KeepAlivePolicy(clock, lambda: None, 0)
    circuit = Circuit(clock, random.Random())
    await JobServer(client, clock, url, 5, policy, circuit).start("a", BODY)


async def call(react: Callable[[Any], None], clock: Any = reactor) -> Peer:
    """Make a start call to such a peer, and return it with its connection closed."""
    peer = Peer(react)
    endpoint = TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1")
    port = await endpoint.listen(Factory.forProtocol(lambda: peer))
    client = PlainClient(PooledAgent(reactor, ClientLimits(idle_time=0)))
    url = f"http://127.0.0.1:{port.getHost().port}/start"
    try:
        await start(client, clock, url)
    finally:
        await peer.lost
        await port.stopListening()
        await until_closed()
        leftover = [call for call in reactor.getDelayedCalls() if call.active()]
        assert leftover == []
    return peer


def run(test: Callable[[], Any]) -> Callable[[], Any]:
    """Run a coroutine as a test on the real reactor."""

    @pytest_twisted.ensureDeferred
    async def runner() -> None:
        await test()

    runner.__doc__ = test.__doc__
    return runner


@run
async def test_acknowledged() -> None:
    """A start call is one POST of JSON on a connection that is closed after it."""

    def react(transport: Any) -> None:
        body = b'{"state":"running","id":"1"}'
        transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))

    peer = await call(react)
    head = peer.received.lower()
    assert head.startswith(b"post /start http/1.1\r\n")
    assert b"\r\nconnection: close\r\n" in head
    assert b"\r\ncontent-type: application/json\r\n" in head
    assert b"cookie" not in head


@run
async def test_refused() -> None:
    """S1: a port where nobody listens."""
    endpoint = TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1")
    port = await endpoint.listen(Factory.forProtocol(Protocol))
    url = f"http://127.0.0.1:{port.getHost().port}/start"
    await port.stopListening()
    client = PlainClient(PooledAgent(reactor, ClientLimits(idle_time=0)))
    with pytest.raises(UpstreamUnreachable):
        await start(client, reactor, url)


@run
async def test_no_name() -> None:
    """S2: a name that cannot exist (RFC 6761, section 6.4)."""
    client = PlainClient(PooledAgent(reactor, ClientLimits(idle_time=0)))
    with pytest.raises(UpstreamUnreachable):
        await start(client, reactor, "http://jobs.invalid/start")


@run
async def test_plain_server() -> None:
    """S4: a server that does not speak TLS where TLS is expected."""
    peer = Peer(lambda transport: None)
    peer.dataReceived = lambda data: peer.transport.write(b"HTTP/1.1 400 Bad\r\n\r\n")  # type: ignore[method-assign, union-attr]
    endpoint = TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1")
    port = await endpoint.listen(Factory.forProtocol(lambda: peer))
    client = PlainClient(PooledAgent(reactor, ClientLimits(idle_time=0)))
    url = f"https://127.0.0.1:{port.getHost().port}/start"
    with pytest.raises(UpstreamUntrusted):
        await start(client, reactor, url)
    await peer.lost
    await port.stopListening()
    await until_closed()


@run
async def test_closed() -> None:
    """S6: the connection is closed when the request has been read."""
    with pytest.raises(AmbiguousStart):
        await call(lambda transport: transport.loseConnection())


@run
async def test_reset() -> None:
    """S6: the connection is reset when the request has been read."""

    def react(transport: Any) -> None:
        transport.socket.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
        transport.abortConnection()

    with pytest.raises(AmbiguousStart):
        await call(react)


@run
async def test_silent() -> None:
    """S8: no answer comes in time; the connection is closed then."""
    clock = Clock()
    with pytest.raises(AmbiguousStart):
        await call(lambda transport: clock.advance(5), clock)


@run
async def test_not_http() -> None:
    """S9: what comes back is not HTTP."""

    def react(transport: Any) -> None:
        transport.write(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")
        transport.loseConnection()

    with pytest.raises(AmbiguousStart):
        await call(react)


@run
async def test_short_body() -> None:
    """S9: the answer ends before its length."""

    def react(transport: Any) -> None:
        transport.write(b'HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"id":"1"}')
        transport.loseConnection()

    with pytest.raises(AmbiguousStart):
        await call(react)


@run
async def test_truncated_body() -> None:
    """S10: an answer without a length is cut short."""

    def react(transport: Any) -> None:
        transport.write(b'HTTP/1.1 200 OK\r\n\r\n{"id":"1"')
        transport.loseConnection()

    with pytest.raises(AmbiguousStart):
        await call(react)


@run
async def test_slow_body() -> None:
    """S21: the deadline covers the body too, and closes the connection."""

    def react(transport: Any) -> None:
        transport.write(b'HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"id":"1"')
        reactor.callLater(0.05, clock.advance, 5)

    clock = Clock()
    with pytest.raises(AmbiguousStart):
        await call(react, clock)


@run
async def test_huge_body() -> None:
    """S20: a body over the bound is not read to its end; the connection is closed."""

    def react(transport: Any) -> None:
        transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n" + b"x" * 200_000)

    with pytest.raises(AmbiguousStart):
        await call(react)
