"""Start calls over real sockets, to a job server that fails in ways that only sockets have."""

import random
import struct
from collections.abc import Callable
from socket import SO_LINGER, SOL_SOCKET
from typing import Any

import pytest
from twisted.internet.task import Clock, deferLater

from jobproxy.http1.agent import PooledAgent
from jobproxy.http1.client import PlainClient
from jobproxy.http1.limits import ClientLimits
from jobproxy.upstream.circuit import Circuit
from jobproxy.upstream.job_server import JobServer
from jobproxy.upstream.keepalive import KeepAlivePolicy
from jobproxy.upstream.start_errors import AmbiguousStart, NotStarted
from jobproxy.wire.jobs import Job
from tests.support.http1_peer import Peer, serving
from tests.support.reactor import reactor, run, until_closed

BODY = b'{"account":"a"}'
JOB = Job("a", b"", own_start=BODY)


async def start(client: PlainClient, clock: Any, url: str) -> None:
    """Make a start call that may take 5 seconds."""
    policy = KeepAlivePolicy(clock, lambda: None, 0)
    circuit = Circuit(clock, random.Random())
    await JobServer(client, clock, url, 5, policy, circuit).start(JOB, JOB.to_start(""))


async def call(act: Callable[[Any], None], clock: Any = reactor) -> Peer:
    """Make a start call to a peer, and return that with its connection closed.

    :param act: called with the peer's transport once the request has arrived.
    """

    def react(peer: Peer) -> None:
        if peer.received.endswith(BODY):
            act(peer.transport)

    async with serving(react) as server:
        try:
            await start(make_client(), clock, f"{server.url.decode()}start")
        finally:
            await server.peers[0].lost
            await until_closed()
            # An abort ends in the next turn.
            await deferLater(reactor, 0)
            leftover = [call for call in reactor.getDelayedCalls() if call.active()]
            assert leftover == []
    return server.peers[0]


def make_client() -> PlainClient:
    return PlainClient(PooledAgent(reactor, ClientLimits(idle_time=0)))


@run
async def test_start_is_one_post_on_its_own_connection() -> None:
    """A start call is one POST of JSON on a connection that is closed after it."""

    def react(transport: Any) -> None:
        body = b'{"state":"running","id":"1"}'
        transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))

    peer = await call(react)
    head = bytes(peer.received).lower()
    assert head.startswith(b"post /start http/1.1\r\n")
    assert b"\r\nconnection: close\r\n" in head
    assert b"\r\ncontent-type: application/json\r\n" in head
    assert b"cookie" not in head


@run
async def test_unreachable_when_nobody_listens() -> None:
    """S1: a port where nobody listens."""
    async with serving(lambda peer: None) as server:
        pass
    with pytest.raises(NotStarted, match="No connection"):
        await start(make_client(), reactor, server.url.decode())


@run
async def test_unreachable_when_the_name_cannot_exist() -> None:
    """S2: a name that cannot exist (RFC 6761, section 6.4)."""
    with pytest.raises(NotStarted, match="No connection"):
        await start(make_client(), reactor, "http://jobs.invalid/start")


@run
async def test_untrusted_when_the_server_speaks_no_tls() -> None:
    """S4: a server that does not speak TLS where TLS is expected."""
    async with serving(lambda peer: peer.transport.write(b"HTTP/1.1 400 Bad\r\n\r\n")) as server:
        url = server.url.decode().replace("http:", "https:")
        with pytest.raises(NotStarted, match="not accepted"):
            await start(make_client(), reactor, url)


@run
async def test_ambiguous_when_the_connection_is_closed() -> None:
    """S6: the connection is closed when the request has been read."""
    with pytest.raises(AmbiguousStart):
        await call(lambda transport: transport.loseConnection())


@run
async def test_ambiguous_when_the_connection_is_reset() -> None:
    """S6: the connection is reset when the request has been read."""

    def react(transport: Any) -> None:
        transport.socket.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
        transport.abortConnection()

    with pytest.raises(AmbiguousStart):
        await call(react)


@run
async def test_ambiguous_when_nothing_comes_in_time() -> None:
    """S8: no response comes in time; the connection is closed then."""
    clock = Clock()
    with pytest.raises(AmbiguousStart):
        await call(lambda transport: clock.advance(5), clock)


@run
async def test_ambiguous_when_the_response_is_not_http() -> None:
    """S9: what comes back is not HTTP."""

    def react(transport: Any) -> None:
        transport.write(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")
        transport.loseConnection()

    with pytest.raises(AmbiguousStart):
        await call(react)


@run
async def test_ambiguous_when_the_body_is_shorter_than_its_length() -> None:
    """S9: the response ends before its length."""

    def react(transport: Any) -> None:
        transport.write(b'HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"id":"1"}')
        transport.loseConnection()

    with pytest.raises(AmbiguousStart):
        await call(react)


@run
async def test_success_without_a_length_that_is_cut_short_is_an_ack() -> None:
    """S10: a success without a length is cut short: the job was started, its id is not known."""

    def react(transport: Any) -> None:
        transport.write(b'HTTP/1.1 200 OK\r\n\r\n{"id":"1"')
        transport.loseConnection()

    await call(react)


@run
async def test_ambiguous_when_the_body_is_slow() -> None:
    """S21: the deadline covers the body too, and closes the connection."""

    def react(transport: Any) -> None:
        transport.write(b'HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"id":"1"')
        reactor.callLater(0.05, clock.advance, 5)

    clock = Clock()
    with pytest.raises(AmbiguousStart):
        await call(react, clock)


@run
async def test_success_with_a_huge_body_is_an_ack() -> None:
    """S20: a body over the bound is not read to its end; the connection is closed."""

    def react(transport: Any) -> None:
        transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n" + b"x" * 200_000)

    await call(react)
