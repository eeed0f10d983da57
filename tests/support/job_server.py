"""A job server in memory: it gets start requests over HTTP, and responds as a test says."""

import json
from collections.abc import Callable
from typing import Any, cast

from attrs import define, field
from twisted.internet.defer import Deferred, fail
from twisted.web.server import NOT_DONE_YET
from zope.interface import implementer

from jobproxy.api.responses import describe_error
from jobproxy.http1.agent import PooledAgent
from jobproxy.http1.limits import ClientLimits, ServerLimits
from jobproxy.http1.request import Request
from jobproxy.http1.sender import HeaderLines, ISender
from jobproxy.http1.server import ServerFactory
from jobproxy.monitoring.traffic import Traffic
from tests.support.memory_network import Network

PORT = 9000
URL = f"http://127.0.0.1:{PORT}/start"


def do_nothing(start: "Start") -> None:
    """Let the test decide later."""


@define(eq=False)
class Start:
    """A start request that reached the job server."""

    request: Request = field(repr=False)
    raw: bytes
    body: dict[str, Any]

    @property
    def callback_path(self) -> str:
        url: str = self.body["callback"]
        assert url.startswith("http://proxy.example/")
        return url.removeprefix("http://proxy.example")

    @property
    def token(self) -> str:
        """The end of the callback URL."""
        return self.callback_path.rpartition("/")[2]

    @property
    def job_id(self) -> str:
        """Our public name of the job."""
        return self.token.partition(".")[0]

    @property
    def job_path(self) -> str:
        """The path at which clients can poll for the result."""
        return f"/jobs/{self.job_id}"

    def respond(self, body: bytes, status: int = 200, **headers: str) -> None:
        """Respond; ``_`` in a header's name stands for ``-``."""
        fields = [(name.replace("_", "-"), value) for name, value in headers.items()]
        self.begin(status, len(body), *fields)
        self.write(body)

    def begin(self, status: int, length: int, *headers: tuple[str, str]) -> None:
        """Send the head of a response."""
        lines = [f"{name}: {value}\r\n" for name, value in headers]
        head = f"HTTP/1.1 {status} Status\r\nContent-Length: {length}\r\n{''.join(lines)}\r\n"
        self.write(head.encode("latin-1"))

    def write(self, data: bytes) -> None:
        """Send bytes, whatever they are."""
        self.request.channel.transport.write(data)

    @property
    def is_connected(self) -> bool:
        return bool(self.request.channel.transport.is_open)

    def ack(self, upstream_id: str = "4499a6e0c2ef4b98") -> None:
        self.respond(json.dumps({"state": "running", "id": upstream_id}).encode())

    def lose(self) -> None:
        """Close the connection without a response."""
        self.request.channel.transport.abortConnection()


class FakeJobServer:
    """Collects start requests; each is responded to by :meth:`Start.respond`.

    :ivar starts: all that came.
    :ivar on_start: is called with each start request while it is received.
    """

    isLeaf = True

    def __init__(self, network: Network) -> None:
        self.starts: list[Start] = []
        self.on_start: Callable[[Start], object] = do_nothing
        network.servers[PORT] = ServerFactory(
            cast(Any, self),
            network,
            describe_error=describe_error,
            observer=Traffic(network.seconds),
            now=network.seconds,
            make_id=lambda: b"made",
            limits=ServerLimits(body=2**24),
        )

    def render(self, request: Request) -> Any:
        try:
            body = json.loads(request.body)
        except ValueError:
            # A profile may send anything.
            body = {}
        start = Start(request, request.body, body)
        self.starts.append(start)
        self.on_start(start)
        return NOT_DONE_YET


@implementer(ISender)
@define(eq=False)
class TestSender:
    """The proxy's connections to the job server, of which a test can let requests fail.

    :ivar failure: what every request fails with from now on.
    :ivar failures: one for each of the next requests; :data:`None`: it is sent.
    :ivar times: when each request was made, in seconds on the clock.
    :ivar is_dead: whether requests are never sent, as their process is no more.
    """

    __test__ = False

    _network: Network
    _max_body: int = 65_536
    _agent: PooledAgent = field(init=False)
    failure: Exception | None = field(default=None, init=False)
    failures: list[Exception | None] = field(factory=list, init=False)
    times: list[float] = field(factory=list, init=False)
    is_dead: bool = field(default=False, init=False)
    _never: list[Deferred[Any]] = field(factory=list, init=False)

    def __attrs_post_init__(self) -> None:
        self._agent = PooledAgent(self._network, ClientLimits(body=self._max_body, idle_time=0))

    @property
    def active(self) -> int:
        return self._agent.active

    @property
    def idle(self) -> int:
        return self._agent.idle

    def close_idle(self) -> None:
        self._agent.close_idle()

    def send(self, method: str, url: str, headers: HeaderLines, data: bytes) -> Deferred[Any]:
        if self.is_dead:
            self._never.append(Deferred())
            return self._never[-1]
        self.times.append(round(self._network.seconds(), 3))
        failure = self.failures.pop(0) if self.failures else self.failure
        return self._agent.send(method, url, headers, data) if failure is None else fail(failure)
