"""The HTTP side over real sockets: what a connection in memory does not have."""

import socket
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from typing import Any, cast

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.task import Clock, deferLater
from twisted.internet.threads import deferToThread

from jobproxy.http1.server import ServerFactory
from jobproxy.monitoring.traffic import Traffic
from tests.sockets.test_job_server import run
from tests.support.http1_server import GET, Echo, Keeper, head, make_server, no_failures, post
from tests.support.proxy import parse_responses
from tests.support.reactor import reactor, until_closed

#: So little that a client that does not read is soon felt, and a client that reads is not slow.
SMALL = 4_096


@pytest.fixture(autouse=True)
def logs_no_failure() -> Iterator[None]:
    """Have a failure that is logged fail its test."""
    with no_failures():
        yield


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
        client.settimeout(10)
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            client.setsockopt(socket.SOL_SOCKET, option, SMALL)
        client.connect(("127.0.0.1", port))
        yield client


async def until(is_so: Callable[[], object]) -> None:
    """Give the reactor turns until something is so."""
    while not is_so():
        await deferLater(reactor, 0.001)


def read(client: socket.socket) -> bytes:
    """Read all there is until the server's end."""
    return b"".join(iter(lambda: client.recv(SMALL), b""))


def reset(client: socket.socket) -> None:
    """Close a connection at once, with RST."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


@run
async def test_reads_why() -> None:
    """Q6: a client that still sends its too large body gets to read the whole refusal."""

    def talk(client: socket.socket) -> bytes:
        client.sendall(head(b"Content-Length: 600000"))
        client.sendall(b"x" * 600_000)
        return read(client)

    traffic = Traffic()
    async with serve(Echo(), traffic=traffic) as (_, port):
        with connect(port) as client:
            (response,) = parse_responses(await deferToThread(talk, client))
            assert response.status == 413
            assert response.headers["connection"] == "close"
        assert traffic.refused == {"body-too-large": 1}


@run
async def test_reads_why_late() -> None:
    """Q10: a client that sent more than was looked at gets to read the whole refusal."""
    async with serve(Echo()) as (_, port):
        with connect(port) as client:
            client.sendall(b"FROB / HTTP/1.1\r\n\r\n")
            begin = await deferToThread(client.recv, 20)
            client.sendall(b"x" * 1_000)
            (response,) = parse_responses(begin + await deferToThread(read, client))
            assert response.status == 400


@run
async def test_is_cut_off() -> None:
    """Q6: a client that goes on for longer than 2 seconds after a refusal is cut off."""
    clock = Clock()
    async with serve(Echo(), clock=clock) as (site, port):
        with connect(port) as client:
            client.sendall(head(b"Content-Length: 10000000"))
            assert (await deferToThread(read, client)).startswith(b"HTTP/1.1 413 ")
            assert site.connections
            clock.advance(2)
            await until(lambda: not site.connections)
            with pytest.raises(ConnectionError):
                await deferToThread(client.sendall, b"x" * 1_000_000)


@run
async def test_keep_alive() -> None:
    """Q18: a client that vanishes is noticed by probes, which begin after 30 s of silence."""
    async with serve(Keeper()) as (site, port):
        with connect(port):
            await until(lambda: site.connections)
            (connection,) = site.connections
            job_id = cast(Any, connection.transport).getHandle()
            assert job_id.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            for name, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3)):
                if hasattr(socket, name):
                    assert job_id.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) == value
            assert job_id.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


@run
async def test_half_close() -> None:
    """Q17: a client that closes its side while it is held counts as one that left."""
    keeper = Keeper()
    async with serve(keeper) as (_, port):
        with connect(port) as client:
            client.sendall(post())
            await until(lambda: keeper.requests)
            client.shutdown(socket.SHUT_WR)
            with pytest.raises(ConnectionDone):
                await keeper.requests[0].notifyFinish()
            assert client.recv(1) == b""


@run
async def test_reset() -> None:
    """Q16: a client that resets its connection while it is held counts as one that left."""
    keeper = Keeper()
    async with serve(keeper) as (_, port):
        with connect(port) as client:
            client.sendall(post())
            await until(lambda: keeper.requests)
            finished = keeper.requests[0].notifyFinish()
            reset(client)
            with pytest.raises(ConnectionLost):
                await finished


@run
async def test_answer_to_nobody() -> None:
    """Q16: an answer to a client that has gone, and is not yet known to have, goes nowhere."""
    keeper = Keeper()
    async with serve(keeper) as (_, port):
        with connect(port) as client:
            client.sendall(post() + GET)
            await until(lambda: keeper.requests)
            reset(client)
            keeper.requests[0].write(b"x" * 100_000)
            keeper.requests[0].finish()


@run
async def test_large_answers() -> None:
    """Q19: answers that the kernel takes in small parts arrive whole and in order."""
    bodies = [bytes([number]) * (1_000 * number) for number in range(30)]
    async with serve(Echo()) as (_, port):
        with connect(port) as client:
            stream = b"".join(map(post, bodies)) + head(b"Connection: close")
            sending = deferToThread(client.sendall, stream)
            responses = parse_responses(await deferToThread(read, client))
            await sending
            assert [response.body for response in responses] == [*bodies, b""]


@run
async def test_slow_reader() -> None:
    """Q22: a client that is slow to read its answer gets all of it."""
    keeper = Keeper()
    async with serve(keeper) as (_, port):
        with connect(port) as client:
            client.sendall(head(b"Connection: close"))
            await until(lambda: keeper.requests)
            keeper.requests[0].write(b"x" * 1_000_000)
            keeper.requests[0].finish()
            (response,) = parse_responses(await deferToThread(read, client))
            assert response.body == b"x" * 1_000_000


async def leave_unread(request: bytes) -> None:
    """Have a large answer to a request that its client does not read."""
    keeper, clock = Keeper(), Clock()
    async with serve(keeper, clock=clock) as (site, port):
        with connect(port) as client:
            client.sendall(request)
            await until(lambda: keeper.requests)
            keeper.requests[0].write(b"x" * 1_000_000)
            keeper.requests[0].finish()
            clock.advance(29)
            assert site.connections
            clock.advance(1)
            clock.advance(1)
            await until(lambda: not site.connections)


@run
async def test_unread_answer() -> None:
    """Q22: a client that does not read its answer is cut off in the end."""
    await leave_unread(GET)


@run
async def test_unread_last_answer() -> None:
    """Q22: so is one whose connection is to be closed after it."""
    await leave_unread(head(b"Connection: close"))


@run
async def test_unread_answers() -> None:
    """Q22: a client that asks on and on and reads nothing is not listened to any more."""
    clock = Clock()
    async with serve(Echo(), clock=clock) as (site, port):
        with connect(port) as client:
            client.settimeout(0.3)
            with pytest.raises(OSError, match=r"timed out|reset|[Bb]roken pipe"):
                await deferToThread(client.sendall, GET * 10_000)
            # First a request that was not read to its end is given up, then the connection.
            for _ in range(3):
                clock.advance(31)
            await until(lambda: not site.connections)


@run
async def test_silent() -> None:
    """Q14: a client that says nothing reads the end of its connection after 10 seconds."""
    clock, traffic = Clock(), Traffic()
    async with serve(Echo(), clock=clock, traffic=traffic) as (site, port):
        with connect(port) as client:
            await until(lambda: site.connections)
            clock.advance(10)
            assert await deferToThread(read, client) == b""
        assert traffic.refused == {"silent": 1}


@run
async def test_closes_after_the_last_answer() -> None:
    """Q21: a client of HTTP/1.0 reads its answer, and then the end."""
    keeper = Keeper()
    async with serve(keeper) as (_, port):
        with connect(port) as client:
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            await until(lambda: keeper.requests)
            told: Deferred[None] = keeper.requests[0].notifyFinish()
            keeper.requests[0].write(b"hello")
            keeper.requests[0].finish()
            await told
            (response,) = parse_responses(await deferToThread(read, client))
            assert response.body == b"hello"
