"""What a request needs of its connection, and a connection of its server."""

from collections.abc import Callable
from typing import Any, Protocol

from twisted.internet.interfaces import IReactorTime
from twisted.web.resource import IResource

from jobproxy.http1.errors import HttpError
from jobproxy.http1.limits import ServerLimits
from jobproxy.http1.phases import Phase


class ServerObserver(Protocol):
    """What is called when a server has done something, to count it."""

    def connection_opened(self) -> None:
        """A client has connected."""

    def connection_closed(self) -> None:
        """A connection has ended, for whatever reason."""

    def response_sent(self, status: int, outcome: str, request_id: bytes) -> None:
        """A request has its response.

        :param outcome: one word, ``ok`` if nothing went wrong.
        """

    def client_left(self) -> None:
        """A client has left before it had its response."""

    def request_refused(self, status: int, reason: str, request_id: bytes) -> None:
        """What could not be a request has been responded to with an error."""

    def connection_refused(self, reason: str) -> None:
        """A connection is closed because of what its client does, or does not do."""


class RequestServer(Protocol):
    """What a request needs of its server.

    :ivar is_draining: whether no connection is kept after its response.
    """

    observer: ServerObserver
    is_draining: bool
    make_id: Callable[[], bytes]

    def fixed_headers(self) -> bytes:
        """Return the header lines of every response."""


DescribeError = Callable[[HttpError, bytes], tuple[bytes, bytes]]


class ConnectionServer(RequestServer, Protocol):
    """What a connection needs of its server.

    :ivar describe_error: returns the content type and the body of the response to what is no
        acceptable request, from the error and the id of that response.
    :ivar timeouts: seconds that each phase may last.
    """

    resource: IResource
    clock: IReactorTime
    limits: ServerLimits
    timeouts: dict[Phase, float | None]
    describe_error: DescribeError

    def add(self, connection: Any) -> None:
        """Count a connection that is open."""

    def remove(self, connection: Any) -> None:
        """Count a connection no longer."""


class Channel(Protocol):
    """What a request needs of its connection."""

    transport: Any

    @property
    def factory(self) -> RequestServer:
        """The server."""

    def respond(self, head: bytes, body: bytes, *, keep_alive: bool) -> None:
        """Send the response to the current request; called by that request alone.

        :param keep_alive: whether the connection stays open for another one.
        """

    def push(self, data: bytes) -> None:
        """Send what follows in a response that was begun, unless the client does not read it."""

    def end(self) -> None:
        """End a response that was begun, and the connection with it."""
