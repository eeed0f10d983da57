"""A process that does not come to its turn, over real sockets: what has arrived still counts."""

import json
import select
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from typing import Any

import pytest
import pytest_twisted
from attrs import define, field
from twisted.internet.defer import maybeDeferred
from twisted.internet.interfaces import IReadDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer

from jobproxy.jobs.table import CorrelationTable
from jobproxy.tap import Options, makeService
from tests.support.clients import Response, parse_responses
from tests.support.proxy import result_of
from tests.support.reactor import reactor, until, until_closed

#: Seconds until the deadline, and how long nothing turns, which is a step of the reactor's clock.
#: Both together are less than the timeout of an idle connection.
TIME = 4.5
STALL = 5.0


@implementer(IReadDescriptor)
@define(eq=False)
class Staller:
    """Stalls the loop while it reads, so that timers which are due meanwhile come next."""

    _end: socket.socket
    _act: Callable[[], object]

    def fileno(self) -> int:
        return self._end.fileno()

    def logPrefix(self) -> str:
        return "staller"

    def doRead(self) -> None:
        reactor.removeReader(self)
        self._act()
        seconds = reactor.seconds
        reactor.seconds = lambda: seconds() + STALL

    def connectionLost(self, reason: Failure) -> None:
        """Nothing is left to do."""


@define(eq=False)
class Stage:
    """A proxy, and blocking sockets of its clients and its job server in the same process."""

    _sockets: ExitStack
    table: CorrelationTable
    port: int
    _job_server: socket.socket
    _starts: list[socket.socket] = field(factory=list, init=False)

    def connect(self) -> socket.socket:
        return self._sockets.enter_context(socket.create_connection(("127.0.0.1", self.port), 10))

    def send_job(self) -> socket.socket:
        client = self.connect()
        post(client, "/proxy", b'{"account":"a"}')
        return client

    async def take_start(self) -> tuple[socket.socket, str]:
        """Wait for a start call; return its connection, and the path to call back."""
        await until_readable(self._job_server)
        connection = self._sockets.enter_context(self._job_server.accept()[0])
        received = b""
        while not received.endswith(b"}"):
            await until_readable(connection)
            received += connection.recv(65_536)
        url: str = json.loads(received.partition(b"\r\n\r\n")[2])["callback"]
        return connection, url.removeprefix(f"http://127.0.0.1:{self.port}")

    async def stall(self, act: Callable[[], object]) -> None:
        """Have something happen, and then no turn of the loop until all deadlines are over."""
        assert self.table.clients.held
        near, far = map(self._sockets.enter_context, socket.socketpair())
        reactor.addReader(Staller(near, act))
        far.send(b"!")
        await until(lambda: not self.table.clients.held)


@asynccontextmanager
async def run_stage(**options: float) -> AsyncIterator[Stage]:
    """Run a proxy with these options, in this process."""
    seconds = reactor.seconds
    with ExitStack() as sockets:
        job_server = sockets.enter_context(socket.create_server(("127.0.0.1", 0)))
        port = find_port()
        given = {
            "callback-url": f"http://127.0.0.1:{port}/callback",
            "job-server-url": f"http://127.0.0.1:{job_server.getsockname()[1]}/start",
            "listen": f"tcp:{port}:interface=127.0.0.1:backlog=4096",
            "upstream-idle": 0,
            **options,
        }
        config = Options()
        config.parseOptions([f"--{name}={value}" for name, value in given.items()])
        services: list[Any] = list(makeService(config, reactor))
        for service in services:
            service.privilegedStartService()
            service.startService()
        (table,) = (each for each in services if isinstance(each, CorrelationTable))
        try:
            yield Stage(sockets, table, port, job_server)
        finally:
            for service in services:
                await maybeDeferred(service.stopService)
            sockets.close()
            await until_closed()
            reactor.seconds = seconds


def find_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


async def until_readable(end: socket.socket) -> None:
    await until(lambda: select.select([end], [], [], 0)[0])


def post(connection: socket.socket, path: str, body: bytes) -> None:
    head = f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n"
    connection.sendall(head.encode() + body)


def send_ack(connection: socket.socket, body: bytes) -> None:
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    connection.sendall(head.encode() + body)


def read_response(connection: socket.socket) -> Response:
    (response,) = parse_responses(connection.recv(65_536))
    return response


@pytest.mark.parametrize("is_kept", [False, True], ids=["new", "kept"])
@pytest_twisted.ensureDeferred
async def test_callbacks_in_the_kernel_at_the_deadline_count(is_kept: bool) -> None:
    """T3: callbacks that lie in the kernel at the deadline, on new connections or on old ones, are
    the responses.
    """
    async with run_stage(wait=TIME) as stage:
        callers = [stage.connect() for _ in range(3)] if is_kept else []
        clients, paths = [], []
        for number in range(3):
            clients.append(stage.send_job())
            connection, path = await stage.take_start()
            send_ack(connection, b'{"id":"%d","state":"running"}' % number)
            paths.append(path)
        await until(lambda: stage.table.clients.held == 3)

        def call_back() -> None:
            for number, path in enumerate(paths):
                caller = callers[number] if is_kept else stage.connect()
                post(caller, path, result_of(f"{number}"))

        await stage.stall(call_back)
        responses = [read_response(client) for client in clients]
        assert [response.status for response in responses] == [200] * 3
        assert [response.body for response in responses] == [result_of(f"{n}") for n in range(3)]


@pytest_twisted.ensureDeferred
async def test_ack_in_the_kernel_at_the_deadline_counts() -> None:
    """S8, T3: an ack that lies in the kernel when its time is over is usable."""
    async with run_stage(**{"start-timeout": TIME, "ambiguous-grace": 0}) as stage:
        client = stage.send_job()
        connection, _ = await stage.take_start()
        await stage.stall(lambda: send_ack(connection, result_of("1")))
        response = read_response(client)
        assert (response.status, response.body) == (200, result_of("1"))


@pytest_twisted.ensureDeferred
async def test_stall_gives_no_more_time() -> None:
    """T3, B11: a stall alone gives no client more time than it takes to see that nothing came."""
    async with run_stage(wait=TIME) as stage:
        client = stage.send_job()
        connection, _ = await stage.take_start()
        send_ack(connection, b'{"id":"1"}')
        begin = time.monotonic()
        await stage.stall(lambda: None)
        assert time.monotonic() - begin < 60
        response = read_response(client)
        assert (response.status, response.json["started"]) == (504, "yes")
