"""The interfaces between a request, its connection and its server."""

from collections.abc import Callable
from typing import Any, Protocol

from twisted.internet.interfaces import IReactorTime
from twisted.web.resource import IResource

from jobproxy.http1.body_budget import FindBudget
from jobproxy.http1.errors import ConnectionFault, HttpError, RequestFault
from jobproxy.http1.limits import ServerLimits
from jobproxy.http1.phases import Phase


class ServerObserver(Protocol):
    """Counts what a server does; the server calls it."""

    def connection_opened(self) -> None:
        """A client has connected."""

    def connection_closed(self) -> None:
        """A connection has ended for any reason."""

    def response_sent(self, side: str, status: int, outcome: str, request_id: bytes) -> None:
        """A response has been sent.

        :param side: who sends such requests, one word.
        :param outcome: one word, ``ok`` if nothing failed.
        """

    def client_left(self, side: str) -> None:
        """A client has left before its response was sent."""

    def request_refused(self, status: int, reason: RequestFault, request_id: bytes) -> None:
        """An error has been sent to a request before it reached a route."""

    def connection_refused(self, reason: ConnectionFault) -> None:
        """A connection has been closed because of its client."""


class RequestServer(Protocol):
    """The interface of a server for its requests.

    :ivar side: of the requests whose route has none of its own.
    :ivar is_draining: whether each connection is closed after its response.
    """

    observer: ServerObserver
    side: str
    is_draining: bool
    make_id: Callable[[], bytes]

    def fixed_headers(self) -> bytes:
        """Return the header lines of every response."""


DescribeError = Callable[[HttpError, bytes], tuple[list[tuple[bytes, bytes]], bytes]]
#: Whether the client of a transport has closed the connection.
HasLeft = Callable[[Any], bool]
#: How many bytes the client of a transport has taken; None: that is not known.
CountAcked = Callable[[Any], int | None]


class ConnectionServer(RequestServer, Protocol):
    """The interface of a server for its connections.

    :ivar describe_error: returns headers and the body of the response to a refused request, from
        the error and the id of that response.
    :ivar parsing: the arguments of a request parser.
    :ivar timeouts: the seconds that each phase may last.
    :ivar has_left: see :data:`HasLeft`.
    :ivar count_acked: see :data:`CountAcked`.
    """

    resource: IResource
    clock: IReactorTime
    limits: ServerLimits
    parsing: tuple[ServerLimits, FindBudget]
    timeouts: dict[Phase, float | None]
    describe_error: DescribeError
    has_left: HasLeft
    count_acked: CountAcked

    def add(self, connection: Any) -> None:
        """Count a connection that is open."""

    def remove(self, connection: Any) -> None:
        """Remove a connection that is lost from the count."""


class Channel(Protocol):
    """The interface of a connection for its requests."""

    transport: Any

    @property
    def factory(self) -> RequestServer:
        """The server."""

    def respond(self, head: bytes, body: bytes, *, keep_alive: bool) -> None:
        """Send the response to the current request; only that request may call this.

        :param keep_alive: whether the connection stays open for another one.
        """

    def push(self, data: bytes) -> None:
        """Send more of a response that was begun; drop it if the client does not read."""

    def end(self) -> None:
        """End a response that was begun, and close the connection."""
