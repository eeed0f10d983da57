"""The HTTP side over real sockets: what a connection in memory does not have."""

import socket
from collections.abc import Iterator
from functools import partial
from typing import Any, cast

import pytest
from twisted.internet.task import Clock, deferLater
from twisted.internet.threads import deferToThread

from jobproxy.monitoring.traffic import Traffic
from tests.support.clients import parse_responses
from tests.support.http1_server import GET, Echo, Keeper, head, no_failures, post
from tests.support.http1_sockets import connect, read, reset, serve
from tests.support.reactor import reactor, run, until


@pytest.fixture(autouse=True)
def logs_no_failure() -> Iterator[None]:
    """Have a failure that is logged fail its test."""
    with no_failures():
        yield


@run
async def test_413_can_be_read_by_a_client_that_sends_its_body() -> None:
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
async def test_400_can_be_read_by_a_client_that_sent_more() -> None:
    """Q10: a client that sent more than was looked at gets to read the whole refusal."""
    async with serve(Echo()) as (_, port):
        with connect(port) as client:
            client.sendall(b"POST / HTTP/1.1\r\nno header\r\n\r\n")
            begin = await deferToThread(client.recv, 20)
            client.sendall(b"x" * 1_000)
            (response,) = parse_responses(begin + await deferToThread(read, client))
            assert response.status == 400


@run
async def test_client_that_goes_on_after_413_is_cut_off() -> None:
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
async def test_vanished_client_is_noticed_by_probes() -> None:
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
async def test_held_client_that_closes_its_side_has_left() -> None:
    """Q17: a client that closes its side while it is held counts as one that left."""
    keeper = Keeper()
    async with serve(keeper) as (_, port):
        with connect(port) as client:
            client.sendall(post())
            await until(lambda: keeper.requests)
            client.shutdown(socket.SHUT_WR)
            await until(lambda: keeper.requests[0].is_gone)
            assert client.recv(1) == b""


@run
async def test_held_client_that_resets_has_left() -> None:
    """Q16: a client that resets its connection while it is held counts as one that left."""
    keeper = Keeper()
    async with serve(keeper) as (_, port):
        with connect(port) as client:
            client.sendall(post())
            await until(lambda: keeper.requests)
            reset(client)
            await until(lambda: keeper.requests[0].is_gone)


@run
async def test_response_to_a_client_that_left_goes_nowhere() -> None:
    """Q16: a response to a client that has gone, and is not yet known to have, goes nowhere."""
    keeper = Keeper()
    async with serve(keeper) as (_, port):
        with connect(port) as client:
            client.sendall(post() + GET)
            await until(lambda: keeper.requests)
            reset(client)
            keeper.requests[0].write(b"x" * 100_000)
            keeper.requests[0].finish()


@run
async def test_large_responses_arrive_whole_and_in_order() -> None:
    """Q19: responses that the kernel takes in small parts arrive whole and in order."""
    bodies = [bytes([number]) * (1_000 * number) for number in range(30)]
    async with serve(Echo()) as (_, port):
        with connect(port) as client:
            stream = b"".join(map(post, bodies)) + head(b"Connection: close")
            sending = deferToThread(client.sendall, stream)
            responses = parse_responses(await deferToThread(read, client))
            await sending
            assert [response.body for response in responses] == [*bodies, b""]


@run
async def test_slow_reader_gets_all_of_its_response() -> None:
    """Q22: a client that is slow to read its response gets all of it."""
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
    """Send a large response that its client does not read."""
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
async def test_unread_response_is_cut_off() -> None:
    """Q22: a client that does not read its response is cut off in the end."""
    await leave_unread(GET)


@run
async def test_unread_last_response_is_cut_off() -> None:
    """Q22: so is one whose connection is to be closed after it."""
    await leave_unread(head(b"Connection: close"))


@run
async def test_client_that_never_reads_is_cut_off() -> None:
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
async def test_silent_client_reads_the_end() -> None:
    """Q14: a client that says nothing reads the end of its connection after 10 seconds."""
    clock, traffic = Clock(), Traffic()
    async with serve(Echo(), clock=clock, traffic=traffic) as (site, port):
        with connect(port) as client:
            await until(lambda: site.connections)
            clock.advance(10)
            assert await deferToThread(read, client) == b""
        assert traffic.refused == {"silent": 1}


@run
async def test_client_of_http_1_0_reads_its_response_and_the_end() -> None:
    """Q21: a client of HTTP/1.0 reads its response, and then the end."""
    keeper = Keeper()
    async with serve(keeper) as (_, port):
        with connect(port) as client:
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            await until(lambda: keeper.requests)
            keeper.requests[0].write(b"hello")
            keeper.requests[0].finish()
            (response,) = parse_responses(await deferToThread(read, client))
            assert response.body == b"hello"


@run
async def test_client_that_sends_far_ahead_gets_all_responses() -> None:
    """Q20: a client that sends many requests at once gets the response to each, in order."""
    keeper = Keeper()
    bodies = [b"%d" % number + b"y" * 20_000 for number in range(8)]
    async with serve(keeper) as (_, port):
        with connect(port) as client:
            sending = deferToThread(client.sendall, b"".join(post(body) for body in bodies))
            for number, body in enumerate(bodies):
                await until(partial(has_so_many, keeper.requests, number + 1))
                assert keeper.requests[number].body == body
                keeper.requests[number].write(b"%d" % number)
                keeper.requests[number].finish()
            await sending
            client.shutdown(socket.SHUT_WR)
            responses = parse_responses(await deferToThread(read, client))
    assert [response.body for response in responses] == [b"%d" % number for number in range(8)]


@run
async def test_client_that_leaves_while_nothing_is_read_is_noticed() -> None:
    """Q20, Q16: a client that is far ahead and leaves counts as one that left."""
    keeper = Keeper()
    async with serve(keeper) as (_, port):
        for number, leave in enumerate((socket.socket.close, reset)):
            with connect(port) as client:
                client.sendall(post())
                await until(partial(has_so_many, keeper.requests, number + 1))
                # All of that has room in the socket, so that the end can come behind it.
                client.sendall(post(b"y" * 2_000) * 3)
                leave(client)
                await until(partial(getattr, keeper.requests[number], "is_gone"))


def has_so_many(requests: list[Any], number: int) -> bool:
    """Return whether there are so many requests; there must not be more."""
    assert len(requests) <= number
    return len(requests) == number


@run
async def test_client_that_reads_slowly_is_not_cut_off() -> None:
    """Q22: a client that takes a little in each 30 seconds gets all; one that stops is cut off."""
    clock, keeper = Clock(), Keeper()
    async with serve(keeper, clock=clock) as (site, port):
        with connect(port) as client:
            client.sendall(post())
            await until(lambda: keeper.requests)
            keeper.requests[0].write(b"x" * 1_000_000)
            keeper.requests[0].finish()
            for _ in range(6):
                # The kernel tells of what was taken only once its window has moved.
                assert len(await deferToThread(receive, client, 60_000)) == 60_000
                clock.advance(30)
                assert site.connections
            # What it had taken last is seen at the next look.
            while site.connections:
                clock.advance(30)
                await deferLater(reactor, 0.01)


def receive(client: socket.socket, size: int) -> bytes:
    """Read exactly so much."""
    data = b""
    while len(data) < size:
        data += client.recv(size - len(data))
    return data
