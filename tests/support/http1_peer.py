"""A server on a real port that does with each connection what a test says."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure

from tests.support.identities import Identity
from tests.support.reactor import reactor, until_closed
from tests.support.waiting import DEADLINE

React = Callable[["Peer"], None]


class Peer(Protocol):
    """The server's end of a connection.

    :param react: called with the peer each time that something has arrived.
    """

    transport: Any

    def __init__(self, react: React) -> None:
        self.react = react
        self.received = bytearray()
        self.is_reached: Deferred[None] = Deferred()
        self.lost: Deferred[None] = Deferred()

    @property
    def requests(self) -> int:
        return self.received.count(b"POST / HTTP/1.1\r\n")

    def dataReceived(self, data: bytes) -> None:
        self.received += data
        if not self.is_reached.called:
            self.is_reached.callback(None)
        self.react(self)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost.callback(None)


@define(eq=False)
class Server:
    """A server on a port of its own.

    :ivar peers: all connections that were ever made to it.
    """

    url: bytes = b""
    peers: list[Peer] = field(factory=list)

    @property
    def received(self) -> bytes:
        """All that arrived on any connection."""
        return b"".join(bytes(peer.received) for peer in self.peers)

    async def until_reached(self) -> None:
        """Wait until something has arrived."""
        while not self.peers:
            await deferLater(reactor, 0.001)
        await self.peers[0].is_reached


@asynccontextmanager
async def serving(
    react: React,
    identity: Identity | None = None,
    version: int | None = None,
    asks: Identity | None = None,
) -> AsyncIterator[Server]:
    """Have a server, over TLS if it has an identity; in the end nothing may be left of it.

    :param version: the only version of TLS that it speaks; :data:`None`: all.
    :param asks: the authority of certificates that clients must have; :data:`None`: none is asked.
    """
    server = Server()

    def build() -> Peer:
        server.peers.append(Peer(react))
        return server.peers[-1]

    factory: Any = Factory.forProtocol(build)
    if identity is not None:
        options = identity.options(asks)
        if version is not None:
            options.getContext().set_min_proto_version(version)
            options.getContext().set_max_proto_version(version)
        factory = TLSMemoryBIOFactory(options, False, factory)
    port = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(factory)
    scheme = b"http" if identity is None else b"https"
    server.url = b"%b://127.0.0.1:%d/" % (scheme, port.getHost().port)
    try:
        yield server
    finally:
        for peer in server.peers:
            await peer.lost.addTimeout(DEADLINE, reactor)
        await port.stopListening()
        await until_closed()
        # What is left is the agent's look at connections that have been idle for too long.
        while reactor.getDelayedCalls():
            await deferLater(reactor, 0.001)
