"""HTTP/1.1 servers in memory: what is sent to them, clients on raw bytes, and what responds."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

from attrs import define, field
from twisted.internet.testing import StringTransportWithDisconnection
from twisted.logger import ILogObserver, globalLogPublisher
from twisted.web.resource import IResource
from twisted.web.server import NOT_DONE_YET

from jobproxy.api.responses import describe_error
from jobproxy.http1.limits import ServerLimits
from jobproxy.http1.request import Request
from jobproxy.http1.server import ServerFactory
from jobproxy.monitoring.traffic import Traffic
from tests.support.clients import Client, Response, parse_responses
from tests.support.proxy import ProxyTestCase, result_of

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
JOB = b'{"account":"a"}'
OTHER_JOB = b'{"account":"b"}'


def head(*lines: bytes, start: bytes = b"POST /proxy HTTP/1.1") -> bytes:
    """Return a request's head, with a Host."""
    return b"\r\n".join([start, b"Host: proxy.example", *lines, b"", b""])


def post(body: bytes = JOB, *lines: bytes) -> bytes:
    """Return a request that sends a body of this length."""
    return head(b"Content-Length: %d" % len(body), *lines) + body


def post_chunked(chunks: bytes) -> bytes:
    """Return a request that sends these chunks."""
    return head(b"Transfer-Encoding: chunked") + chunks


def cut(data: bytes, size: int) -> list[bytes]:
    """Return data in pieces of one size; only the last may be shorter."""
    return [data[start : start + size] for start in range(0, len(data), size)]


#: A request that gets its response at once, 404.
GET = head(start=b"GET /elsewhere HTTP/1.1")


class Wire(StringTransportWithDisconnection):
    """A connection in memory that ends as one in a kernel does.

    :ivar is_read: whether the client reads; if not, a close waits for what is not sent yet, and a
        producer is paused when there is more of it than there is room for.
    :ivar room: bytes.
    :ivar is_full: whether the producer was paused for lack of room.
    :ivar has_ended: whether our side of it is closed while the client's is still open.
    :ivar is_aborted: whether it was closed at once, sent or not.
    """

    is_read = True
    room = 65_536
    has_ended = False
    is_aborted = False
    is_full = False

    def write(self, data: bytes) -> None:
        if self.connected and not self.has_ended:
            super().write(data)
            if not self.is_read and self.producer is not None and self.io.tell() > self.room:
                self.is_full = True
                self.producer.pauseProducing()

    def drain(self) -> None:
        """Have the client read, all there is and from now on."""
        self.is_read = True
        if self.disconnecting:
            super().loseConnection()
        elif self.connected and self.producer is not None and self.is_full:
            self.is_full = False
            self.producer.resumeProducing()

    def loseConnection(self) -> None:
        if self.is_read:
            super().loseConnection()
        else:
            self.disconnecting = True

    def abortConnection(self) -> None:
        self.is_aborted = True
        super().loseConnection()

    def loseWriteConnection(self) -> None:
        self.has_ended = True


@define(eq=False)
class RawClient(Client):
    """A client whose bytes arrive only as long as somebody takes them."""

    transport: Wire = field(factory=Wire)
    _unsent: list[bytes] = field(factory=list, init=False)

    def send(self, data: bytes) -> Client:
        self._unsent.append(data)
        self.flush()
        return self

    def flush(self) -> None:
        """Let arrive what had to wait because nothing was read."""
        wire = self.transport
        while self._unsent and wire.producerState == "producing":
            data = self._unsent.pop(0)
            if wire.connected and not wire.disconnecting:
                super().send(data)

    def send_all(self, pieces: list[bytes]) -> None:
        """Send pieces one by one."""
        for piece in pieces:
            self.send(piece)

    @property
    def is_open(self) -> bool:
        return self.transport.connected

    @property
    def responses(self) -> list[Response]:
        """All that came but leave to go on."""
        self.flush()
        return parse_responses(self.transport.value().replace(CONTINUE, b""))

    @property
    def statuses(self) -> list[int]:
        """All that came, by status; leave to go on is one of them."""
        self.flush()
        return [int(code) for code in re.findall(rb"HTTP/1\.1 (\d+) ", self.transport.value())]


class Keeper:
    """A resource that keeps the requests it gets."""

    isLeaf = True

    def __init__(self) -> None:
        self.requests: list[Request] = []

    def render(self, request: Request) -> Any:
        self.requests.append(request)
        return NOT_DONE_YET


class Echo(Keeper):
    """A resource that responds to every request with the request's body."""

    def render(self, request: Request) -> Any:
        super().render(request)
        request.write(request.body)
        request.finish()
        return NOT_DONE_YET


def make_server(
    resource: Keeper | IResource, clock: Any, traffic: Traffic, limits: ServerLimits | None = None
) -> ServerFactory:
    """Return a server whose request ids are all the same, and whose Unix time is the clock's."""
    return ServerFactory(
        cast(Any, resource),
        clock,
        describe_error=describe_error,
        observer=traffic,
        now=clock.seconds,
        make_id=lambda: b"made",
        limits=limits,
    )


@contextmanager
def no_failures() -> Iterator[list[Any]]:
    """Check that no failure is logged meanwhile."""
    failures: list[Any] = []

    def observe(event: dict[str, Any]) -> None:
        if "log_failure" in event:
            failures.append(event["log_failure"])

    observer = cast(ILogObserver, observe)
    globalLogPublisher.addObserver(observer)
    try:
        yield failures
        assert failures == []
    finally:
        globalLogPublisher.removeObserver(observer)


class ServerTestCase(ProxyTestCase):
    """Clients on such wires."""

    maxDiff = None

    def tearDown(self) -> None:
        super().tearDown()
        self.assertEqual(self.site.connections, {})

    def connect(self) -> RawClient:
        client = RawClient(self.site)
        self.clients.append(client)
        return client

    def hold(self, job: bytes = JOB) -> RawClient:
        """Return a client whose job runs."""
        client = self.connect()
        client.send(post(job))
        self.starts[-1].ack("1")
        return client

    def end(self, number: int = 0) -> None:
        """Have a job that runs end."""
        self.call_back(self.starts[number], result_of("1"))

    def assert_refused(self, client: RawClient, status: int, slug: str, ahead: int = 0) -> None:
        """Check that the last response ends the connection, and that nothing is read after it.

        :param ahead: how many responses came before.
        """
        self.assertEqual(len(client.responses), ahead + 1)
        self.assert_problem(client.responses[-1], status, slug)
        self.assertEqual(client.responses[-1].headers["connection"], "close")
        self.assertEqual(self.traffic.refused, {slug: 1})
        self.assertTrue(client.transport.has_ended)
        client.send(post())
        self.clock.advance(1.9)
        self.assertTrue(client.is_open)
        self.clock.advance(0.1)
        self.assertFalse(client.is_open)
        self.assertEqual(len(client.responses), ahead + 1)
        self.assertEqual(self.traffic.refused, {slug: 1})

    def tell(self, pieces: list[bytes]) -> str:
        """Return in a line what a client gets for these bytes."""
        self.traffic.refused.clear()
        client = self.connect()
        try:
            client.send_all(pieces)
        except Exception as error:  # it would be a traceback in the log
            client.leave()
            return repr(error)
        responses = [
            f"{response.status} {response.json['type'].rpartition(':')[2]} "
            f"{response.headers.get('connection')}"
            for response in client.responses
        ]
        client.leave()
        return " ".join([*responses, str(dict(self.traffic.refused))])

    def assert_all_refused(
        self, streams: list[bytes], status: int = 400, slug: str = "malformed-request"
    ) -> None:
        """Check that each gets just one response and ends its connection, however it is cut."""
        wanted = f"{status} {slug} close {{'{slug}': 1}}"
        for size in (100_000, 1):
            told = [(stream[:200], self.tell(cut(stream, size))) for stream in streams]
            self.assertEqual([both for both in told if both[1] != wanted], [])
        self.assertEqual(self.starts, [])
