"""A job server that sends too much: the proxy's memory stays within bounds."""

import gzip
import json
from http.client import HTTPConnection
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.threads import deferToThread
from twisted.python.failure import Failure

from jobproxy.sandbox.processes import DaemonProcess, find_free_port, read_memory
from tests.support.reactor import reactor, until_closed
from tests.support.waiting import DEADLINE

MIB = 2**20
OK = b"HTTP/1.1 200 OK\r\n"
BOMB = gzip.compress(b"x" * 100 * MIB)


class Flood(Protocol):
    """Answers the first bytes of a request with a head, and then goes on and on."""

    def __init__(self, head: bytes, piece: bytes, pieces: int) -> None:
        self.head, self.piece, self.left = head, piece, pieces
        self.is_lost = False

    def dataReceived(self, data: bytes) -> None:
        transport: Any = self.transport
        if self.head:
            transport.write(self.head)
            self.head = b""
            transport.registerProducer(self, True)
            self.resumeProducing()

    def resumeProducing(self) -> None:
        self.is_paused = False
        while self.left and not self.is_paused and not self.is_lost:
            self.left -= 1
            self.transport.write(self.piece)  # type: ignore[union-attr]

    def pauseProducing(self) -> None:
        self.is_paused = True

    def stopProducing(self) -> None:
        self.is_lost = True

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.is_lost = True


def ask(port: int) -> Any:
    """Send one job, and return its problem."""
    connection = HTTPConnection("127.0.0.1", port, timeout=DEADLINE)
    body = json.dumps({"account": "a"})
    connection.request("POST", "/proxy", body, {"Content-Type": "application/json"})
    problem = json.load(connection.getresponse())
    connection.close()
    return problem


@pytest.mark.parametrize(
    ("head", "piece", "pieces"),
    [
        (OK + b"Content-Length: 1073741824\r\n\r\n", b"x" * MIB, 1024),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n", b"100000\r\n" + b"x" * MIB + b"\r\n", 1024),
        (OK, b"X-Header: " + b"x" * 1000 + b"\r\n", 20_000),
        (OK + b"X-Endless: ", b"x" * 1000, 20_000),
        (
            OK + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(BOMB),
            BOMB,
            1,
        ),
        (b"HTTP/1.1 103 Early Hints\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\n\r\n", 100_000),
    ],
    ids=["length", "chunked", "headers", "one header", "gzip", "interim"],
)
@pytest_twisted.ensureDeferred
async def test_a_response_without_end_takes_no_memory(
    head: bytes, piece: bytes, pieces: int
) -> None:
    """S20: neither bodies nor heads without end, nor what would unpack to them, are taken in."""
    floods: list[Flood] = []

    def make() -> Flood:
        floods.append(Flood(head, piece, pieces))
        return floods[-1]

    port = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(
        Factory.forProtocol(make)
    )
    proxy_port = find_free_port()
    options = {
        "callback-url": f"http://127.0.0.1:{proxy_port}/callback",
        "job-server-url": f"http://127.0.0.1:{port.getHost().port}/start",
        "ambiguous-grace": "0.1",
        "wait": "2",
    }
    with DaemonProcess("jobproxy", options, proxy_port) as proxy:
        base = read_memory(proxy.process.pid)
        problem = await deferToThread(ask, proxy_port)
        grown = read_memory(proxy.process.pid) - base
    # A body that is too large confirms the start, a head that is too large does not.
    assert problem["type"].rpartition(":")[2] in {"start-unknown", "wait-over"}
    assert grown < 64 * MIB
    await port.stopListening()
    await until_closed()
    assert all(flood.is_lost for flood in floods)
