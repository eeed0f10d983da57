"""The HTTP client over real sockets: TLS, floods, and connections that end at a bad moment."""

import random
import struct
import tracemalloc
from collections.abc import Callable
from datetime import timedelta
from ipaddress import ip_address
from socket import SHUT_WR, SO_LINGER, SOL_SOCKET
from typing import Any

import pytest
import pytest_twisted
from attrs import define, field
from cryptography import x509
from OpenSSL import SSL
from OpenSSL.SSL import Error as TLSError
from service_identity import CertificateError, VerificationError
from twisted.internet import error
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPullProducer
from twisted.python.failure import Failure
from twisted.web.client import ResponseFailed, ResponseNeverReceived
from twisted.web.iweb import IResponse
from zope.interface import implementer

from jobproxy.http1.agent import PooledAgent, Untrusted
from jobproxy.http1.client import PlainClient, read_body
from jobproxy.http1.limits import ClientLimits
from jobproxy.upstream.circuit import Circuit
from jobproxy.upstream.job_server import JobServer
from jobproxy.upstream.keepalive import KeepAlivePolicy
from jobproxy.upstream.start_errors import AmbiguousStart, NotStarted
from jobproxy.wire.jobs import Job
from tests.support.http1_peer import Peer, Server, serving
from tests.support.identities import ADDRESS, Identity, authority, issue
from tests.support.reactor import reactor, until_closed

RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
BODY = b'{"account":"a"}'
JOB = Job("a", b"", own_start=BODY)
MEGABYTE = 1_000_000


def respond(peer: Peer) -> None:
    """Respond to each request."""
    if peer.received.endswith(BODY):
        peer.transport.write(RESPONSE)


def make_agent(idle_time: float = 0) -> PooledAgent:
    return PooledAgent(reactor, ClientLimits(idle_time=idle_time))


def make_job_server(server: Server, connect_time: float = 3.0) -> JobServer:
    """Return what sends start requests to a server, without retries."""
    policy = KeepAlivePolicy(reactor, lambda: None, 0)
    circuit = Circuit(reactor, random.Random())
    client = PlainClient(PooledAgent(reactor, ClientLimits(idle_time=0, connect_time=connect_time)))
    return JobServer(client, reactor, server.url.decode(), 5, policy, circuit)


def post(agent: PooledAgent, server: Server, body: bytes = BODY) -> Deferred[IResponse]:
    return agent.send("POST", server.url.decode(), (), body)


@pytest.mark.usefixtures("trusted")
@pytest_twisted.ensureDeferred
async def test_trusted_server_gets_the_request() -> None:
    """A server whose certificate is good gets the request, over TLS as without."""
    for identity in (None, issue(authority(), ADDRESS)):
        async with serving(respond, identity) as server:
            response = await post(make_agent(), server)
            assert response.code == 200
            assert await read_body(response, 2) == b"hi"
        (peer,) = server.peers
        assert peer.requests == 1
        assert peer.received.endswith(b"\r\nContent-Length: 15\r\n\r\n" + BODY)


def untrusted() -> dict[str, Callable[[], Identity]]:
    """Return what makes a server's identity, by what is wrong with it."""
    return {
        "self-signed": lambda: issue(None, ADDRESS),
        "other authority": lambda: issue(authority(1), ADDRESS),
        "other address": lambda: issue(authority(), x509.IPAddress(ip_address("127.0.0.2"))),
        "other name": lambda: issue(authority(), x509.DNSName("jobs.example")),
        "address as a name": lambda: issue(authority(), x509.DNSName("127.0.0.1")),
        "no name": lambda: issue(authority()),
        "expired": lambda: issue(authority(), ADDRESS, begin=timedelta(days=-3)),
        "not yet valid": lambda: issue(authority(), ADDRESS, begin=timedelta(days=1)),
    }


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize("fault", untrusted())
@pytest_twisted.ensureDeferred
async def test_untrusted_server_gets_nothing(fault: str) -> None:
    """S4: a server whose certificate is not good never gets a byte of the request."""
    async with serving(respond, untrusted()[fault]()) as server:
        for _ in range(2):
            with pytest.raises(Untrusted) as failed:
                await post(make_agent(), server)
            cause = failed.value.__cause__
            assert isinstance(cause, TLSError | VerificationError | CertificateError)
    assert len(server.peers) == 2
    assert server.received == b""


@pytest_twisted.ensureDeferred
async def test_start_to_a_self_signed_server_was_not_sent() -> None:
    """S4: a start call to a server that nobody vouches for is known not to have been sent."""
    async with serving(respond, issue(None, ADDRESS)) as server:
        with pytest.raises(NotStarted, match="not accepted"):
            await make_job_server(server).start(JOB, JOB.to_start(""))
    assert server.received == b""


#: What a server sends over TCP after it has read the request over TLS.
BROKEN_RECORDS = {
    "no record": b"HTTP/1.1 200 OK\r\n\r\n",
    "bad MAC": b"\x17\x03\x03\x00\x40" + bytes(64),
    "fatal alert": b"\x15\x03\x03\x00\x02\x02\x28",
    "too large": b"\x17\x03\x03\xff\xff" + bytes(65_535),
}


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize("version", [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION])
@pytest.mark.parametrize("record", BROKEN_RECORDS)
@pytest_twisted.ensureDeferred
async def test_start_is_ambiguous_when_tls_breaks_after_the_handshake(
    record: str, version: int
) -> None:
    """S24: an error of TLS after the request was read is ambiguous: the job may have been started.

    Nothing is sent again, and the circuit sees a job server that did not respond.
    """

    def break_off(peer: Peer) -> None:
        if peer.received.endswith(BODY):
            peer.transport.transport.write(BROKEN_RECORDS[record])

    identity = issue(authority(), ADDRESS)
    async with serving(break_off, identity, version) as server:
        with pytest.raises(AmbiguousStart):
            await make_job_server(server).start(JOB, JOB.to_start(""))
    (peer,) = server.peers
    assert peer.requests == 1


@pytest_twisted.ensureDeferred
async def test_start_was_not_sent_when_the_handshake_is_not_answered() -> None:
    """S25: a server that does not answer the handshake in time has got nothing of the request."""
    async with serving(lambda peer: None) as server:
        server.url = server.url.replace(b"http:", b"https:")
        with pytest.raises(NotStarted) as failed:
            await make_job_server(server, connect_time=0.05).start(JOB, JOB.to_start(""))
        assert failed.value.may_retry
    assert b"POST" not in server.received


@pytest_twisted.ensureDeferred
async def test_connect_error_when_the_handshake_does_not_begin() -> None:
    """S4: a server that closes before TLS has begun has got nothing, which the error says."""
    async with serving(lambda peer: peer.transport.loseConnection()) as server:
        server.url = server.url.replace(b"http:", b"https:")
        with pytest.raises(error.ConnectError):
            await post(make_agent(), server)
    assert b"POST" not in server.received


@pytest_twisted.ensureDeferred
async def test_cancelling_during_the_handshake_sends_nothing() -> None:
    """S4: a request cancelled while TLS begins closes the connection, and has sent nothing."""
    async with serving(lambda peer: None) as server:
        server.url = server.url.replace(b"http:", b"https:")
        asking = post(make_agent(), server)
        await server.until_reached()
        asking.cancel()
        with pytest.raises(error.ConnectError):
            await asking
    assert b"POST" not in server.received


@pytest_twisted.ensureDeferred
async def test_connection_refused_error_when_nobody_listens() -> None:
    """S1: a port where nobody listens refuses the connection, and the error says so."""
    async with serving(respond) as server:
        pass
    with pytest.raises(error.ConnectionRefusedError):
        await post(make_agent(), server)
    await until_closed()


@implementer(IPullProducer)
@define(eq=False)
class Flood:
    """Sends the same block again and again, for as long as it is taken."""

    _transport: Any
    _block: bytes
    _size: int
    sent: int = field(default=0, init=False)

    def resumeProducing(self) -> None:
        if self.sent < self._size:
            self._transport.write(self._block)
            self.sent += len(self._block)
        else:
            self._transport.unregisterProducer()

    def stopProducing(self) -> None:
        """The connection is lost."""


OK = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    ("beginning", "block", "size"),
    [
        pytest.param(OK, b"X-A: %b\r\n" % (b"a" * 93) * 100, 20 * MEGABYTE, id="header lines"),
        pytest.param(OK + b"X-A: ", b"a" * 10_000, 20 * MEGABYTE, id="one header line"),
        pytest.param(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 400, 20 * MEGABYTE, id="interim"),
        pytest.param(
            OK + b"Content-Length: 1000000000\r\n\r\n", b"a" * 10_000, 1_000 * MEGABYTE, id="length"
        ),
        pytest.param(
            OK + b"Transfer-Encoding: chunked\r\n\r\n",
            b"3e8\r\n%b\r\n" % (b"a" * 1_000) * 10,
            1_000 * MEGABYTE,
            id="chunks",
        ),
        pytest.param(OK + b"\r\n", b"a" * 10_000, 1_000 * MEGABYTE, id="until the end"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_flood_is_cut_off(beginning: bytes, block: bytes, size: int) -> None:
    """S20: little of a huge response is received, and the server sees that its connection ends."""
    floods = []

    def react(peer: Peer) -> None:
        floods.append(Flood(peer.transport, block, size))
        peer.transport.write(beginning)
        peer.transport.registerProducer(floods[0], False)

    async with serving(react) as server:
        asking = post(make_agent(), server)
        await server.until_reached()
        tracemalloc.start()
        try:
            with pytest.raises(ResponseFailed):
                await asking
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak < 2 * MEGABYTE
    # The rest is what the kernel holds for the two ends.
    assert floods[0].sent < 12 * MEGABYTE
    assert len(server.peers) == 1


def finish(transport: Any) -> None:
    """Close a connection this very moment."""
    transport.connectionLost(Failure(error.ConnectionDone()))


def reset(transport: Any) -> None:
    """Reset a connection this very moment."""
    transport.socket.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
    transport.connectionLost(Failure(error.ConnectionDone()))


def finish_sending(transport: Any) -> None:
    """Close one direction of a connection this very moment, and read on."""
    transport.socket.shutdown(SHUT_WR)


@pytest.mark.parametrize("leave", [finish, reset, finish_sending])
@pytest_twisted.ensureDeferred
async def test_request_on_a_stale_connection_is_sent_once(
    leave: Callable[[Any], None],
) -> None:
    """S22: a request on a connection that the server is just leaving is sent once at most."""
    async with serving(respond) as server:
        agent = make_agent(idle_time=0.1)
        await post(agent, server)
        leave(server.peers[0].transport)
        second = b'"second"' + BODY
        try:
            response = await post(agent, server, second)
        except ResponseNeverReceived:
            assert len(server.peers) == 1
        else:
            assert response.code == 200
            assert len(server.peers) == 2
        agent.close_idle()
    assert server.received.count(second) <= 1
    assert sum(peer.requests for peer in server.peers) <= 2


@pytest.mark.parametrize("leave", [finish, reset, finish_sending])
@pytest_twisted.ensureDeferred
async def test_connection_that_the_server_left_is_not_used(leave: Callable[[Any], None]) -> None:
    """S22: a connection that the server has left before the next request is not used for it."""
    async with serving(respond) as server:
        agent = make_agent(idle_time=0.1)
        await post(agent, server)
        leave(server.peers[0].transport)
        await until_closed()
        assert (await post(agent, server)).code == 200
        agent.close_idle()
    assert [peer.requests for peer in server.peers] == [1, 1]


@pytest.mark.usefixtures("trusted")
@pytest_twisted.ensureDeferred
async def test_bytes_that_nobody_has_read_are_no_response() -> None:
    """S31: what has come unasked, but was not read yet, is not taken for the next response."""
    stray = b"HTTP/1.1 422 No\r\nContent-Length: 0\r\n\r\n"
    for identity in (None, issue(authority(), ADDRESS)):
        async with serving(respond, identity) as server:
            agent = make_agent(idle_time=5)
            await post(agent, server)
            transport = server.peers[0].transport
            transport.setTcpNoDelay(True)
            (transport.transport if identity else transport).getHandle().send(stray)
            assert (await post(agent, server)).code == 200
            agent.close_idle()
        assert [peer.requests for peer in server.peers] == [1, 1]


@pytest_twisted.ensureDeferred
async def test_idle_connection_is_closed() -> None:
    """S22: a connection that nobody uses any more is closed, which its server sees."""
    async with serving(respond) as server:
        await post(make_agent(idle_time=0.05), server)
        await server.peers[0].lost


@pytest.mark.usefixtures("trusted")
@pytest_twisted.ensureDeferred
async def test_big_request_arrives_whole() -> None:
    """A request of more than the kernel takes at once arrives whole, and so does the next one."""
    body = bytes(range(251)) * 80_000
    for identity in (None, issue(authority(), ADDRESS)):
        async with serving(respond, identity) as server:
            agent = make_agent(idle_time=0.1)
            for content in (body + BODY, BODY):
                assert (await post(agent, server, content)).code == 200
            agent.close_idle()
        heads_and_bodies = server.received.split(b"POST / HTTP/1.1\r\n")[1:]
        bodies = [request.partition(b"\r\n\r\n")[2] for request in heads_and_bodies]
        assert bodies == [body + BODY, BODY]


@pytest_twisted.ensureDeferred
async def test_reset_within_a_request_is_not_repeated() -> None:
    """S7: a server that resets the connection in the middle of a request is not asked again."""
    async with serving(lambda peer: reset(peer.transport)) as server:
        with pytest.raises(ResponseNeverReceived):
            await post(make_agent(), server, b"x" * 20 * MEGABYTE)
    assert len(server.peers) == 1
