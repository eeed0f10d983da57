"""HTTP/1.1 servers on real ports, and blocking clients of them."""

import socket
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from typing import Any

from twisted.internet.endpoints import TCP4ServerEndpoint

from jobproxy.http1.server import ServerFactory
from jobproxy.monitoring.traffic import Traffic
from tests.support.http1_server import Keeper, make_server
from tests.support.reactor import reactor, until, until_closed
from tests.support.waiting import DEADLINE

#: So little that a client that does not read is soon felt, and a client that reads is not slow.
SMALL = 4_096


@asynccontextmanager
async def serve(
    resource: Keeper, *, clock: Any = reactor, traffic: Traffic | None = None
) -> AsyncIterator[tuple[ServerFactory, int]]:
    """Serve a resource on a port, through small buffers; afterwards nothing may be left."""
    site = make_server(resource, clock, traffic or Traffic())
    port: Any = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(site)
    for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
        port.socket.setsockopt(socket.SOL_SOCKET, option, SMALL)
    try:
        yield site, port.getHost().port
        await until(lambda: not site.connections)
    finally:
        await port.stopListening()
        await until_closed()
    calls = [*clock.getDelayedCalls(), *reactor.getDelayedCalls()]
    assert [call for call in calls if call.active()] == []


@contextmanager
def connect(port: int) -> Iterator[socket.socket]:
    """Connect to a port of this machine, with blocking calls and small buffers."""
    with closing(socket.socket()) as client:
        client.settimeout(DEADLINE)
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            client.setsockopt(socket.SOL_SOCKET, option, SMALL)
        client.connect(("127.0.0.1", port))
        yield client


def read(client: socket.socket) -> bytes:
    """Read all there is until the server's end."""
    return b"".join(iter(lambda: client.recv(SMALL), b""))


def reset(client: socket.socket) -> None:
    """Close a connection at once, with RST."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
