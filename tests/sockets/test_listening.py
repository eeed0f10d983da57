"""Ports that close while clients connect, over real sockets."""

import socket
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import maybeDeferred
from twisted.internet.endpoints import TCP4ServerEndpoint, serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.threads import deferToThread

from jobproxy.daemon.listening import ListeningService
from jobproxy.monitoring.traffic import Traffic
from jobproxy.sandbox.processes import find_free_port
from tests.support.clients import parse_responses
from tests.support.http1_server import GET, Echo, make_server
from tests.support.http1_sockets import read
from tests.support.reactor import reactor, until_closed
from tests.support.waiting import DEADLINE

#: More than a port accepts in its first turns.
CLIENTS = 200
CLOSING = GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")


async def check(endpoint: str, family: int, address: Any) -> None:
    """Check that all who are connected when the service stops get a response."""
    server = make_server(Echo(), reactor, Traffic())
    service = ListeningService(serverFromString(reactor, endpoint), server, reactor)
    service.privilegedStartService()
    service.startService()
    with ExitStack() as stack:
        clients = [stack.enter_context(socket.socket(family)) for _ in range(CLIENTS)]
        # The loop does not turn meanwhile, so that all of them are in the queue of the socket.
        for client in clients:
            client.settimeout(DEADLINE)
            client.connect(address)
            client.sendall(CLOSING)
        await maybeDeferred(service.stopService)
        assert not service.running
        for client in clients:
            (response,) = parse_responses(await deferToThread(read, client))
            assert response.status == 200
        late = stack.enter_context(socket.socket(family))
        with pytest.raises((ConnectionRefusedError, FileNotFoundError)):
            late.connect(address)
    await until_closed()


@pytest_twisted.ensureDeferred
async def test_clients_in_the_queue_are_served_when_a_port_closes() -> None:
    """G16: connections that are in the queue of the socket when a port closes are not reset."""
    port = find_free_port()
    endpoint = f"tcp:{port}:interface=127.0.0.1:backlog={CLIENTS}"
    await check(endpoint, socket.AF_INET, ("127.0.0.1", port))


@pytest_twisted.ensureDeferred
async def test_clients_in_the_queue_of_a_unix_socket_are_served(tmp_path: Path) -> None:
    """G16: the same for a Unix socket."""
    path = str(tmp_path / "socket")
    await check(f"unix:{path}:backlog={CLIENTS}", socket.AF_UNIX, path)


def test_port_that_is_taken_is_an_error_at_once() -> None:
    """G5: a port that is taken is an error when the service starts, and it can still be stopped."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        endpoint = TCP4ServerEndpoint(reactor, taken.getsockname()[1], interface="127.0.0.1")
        service = ListeningService(endpoint, make_server(Echo(), reactor, Traffic()), reactor)
        with pytest.raises(CannotListenError):
            service.privilegedStartService()
        assert service.stopService() is None
