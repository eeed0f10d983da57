"""Ports that are not plain TCP: a Unix socket, and TLS."""

import socket
import ssl
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest_twisted
from twisted.internet.endpoints import SSL4ServerEndpoint, UNIXServerEndpoint
from twisted.internet.threads import deferToThread

from jobproxy.http1.limits import ServerLimits
from jobproxy.monitoring.traffic import Traffic
from tests.support.clients import parse_responses
from tests.support.http1_server import GET, Echo, make_server, no_failures, post
from tests.support.http1_sockets import read
from tests.support.identities import ADDRESS, issue
from tests.support.reactor import reactor, until_closed
from tests.support.waiting import DEADLINE

#: More than a socket takes at once.
LARGE = b"x" * 2_000_000


async def check(endpoint: Any, connect: Callable[[Any], socket.socket]) -> None:
    """Check that two pipelined requests get whole responses, one of which is large."""

    def talk() -> bytes:
        with closing(connect(port.getHost())) as client:
            client.settimeout(DEADLINE)
            client.sendall(post(LARGE) + GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
            return read(client)

    server = make_server(Echo(), reactor, Traffic(), ServerLimits(body=len(LARGE)))
    port = await endpoint.listen(server)
    try:
        with no_failures():
            first, second = parse_responses(await deferToThread(talk))
        assert (first.status, second.status) == (200, 200)
        assert first.body == LARGE
    finally:
        await port.stopListening()
        await until_closed()


@pytest_twisted.ensureDeferred
async def test_unix_socket_is_served(tmp_path: Path) -> None:
    """Requests on a Unix socket get their responses."""

    def connect(address: Any) -> socket.socket:
        client = socket.socket(socket.AF_UNIX)
        client.connect(address.name)
        return client

    await check(UNIXServerEndpoint(reactor, str(tmp_path / "socket")), connect)


@pytest_twisted.ensureDeferred
async def test_tls_is_served() -> None:
    """Requests on a port with TLS get their responses."""

    def connect(address: Any) -> socket.socket:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        plain = socket.create_connection((address.host, address.port), DEADLINE)
        return context.wrap_socket(plain)

    options = issue(None, ADDRESS).options()
    await check(SSL4ServerEndpoint(reactor, 0, options, interface="127.0.0.1"), connect)
