"""The HTTP server: its connections and what they share."""

import math
from collections import Counter
from collections.abc import Callable
from email.utils import formatdate
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import Factory
from twisted.web.resource import IResource

from jobproxy.http1.body_budget import BodyBudget, FindBudget
from jobproxy.http1.interfaces import CountAcked, DescribeError, HasLeft, ServerObserver
from jobproxy.http1.limits import ServerLimits
from jobproxy.http1.peers import count_acked, has_left
from jobproxy.http1.phases import timeouts_of
from jobproxy.http1.server_connection import ServerConnection
from jobproxy.util.idle import IdleNotifier


class ServerFactory(Factory):
    """Serves a resource.

    :param resource: its ``render`` is called with every request, whatever the path.
    :param reactor: its time is monotonic.
    :param describe_error: returns headers and the body of the response to a request that is refused
        before it reaches the resource, from the error and the id of that response.
    :param observer: counts what the server does; several servers may share one.
    :param now: returns Unix time in seconds.
    :param make_id: returns an id for a request that has none.
    :param find_budget: returns the memory for a body that has not arrived completely; several
        servers may share it.
    :param side: who sends its requests, for the counts; a route can have another one.
    :param max_connections: how many connections may be open.
    :param max_per_address: how many of them may be of one IP address.
    :param has_left: see :data:`HasLeft`.
    :param count_acked: see :data:`CountAcked`.
    :ivar connections: all open connections, the oldest first.
    :ivar is_draining: whether every connection is closed after its next response.
    """

    noisy = False

    def __init__(
        self,
        resource: IResource,
        reactor: IReactorTime,
        *,
        describe_error: DescribeError,
        observer: ServerObserver,
        now: Callable[[], float],
        make_id: Callable[[], bytes],
        limits: ServerLimits | None = None,
        find_budget: FindBudget | None = None,
        side: str = "client",
        max_connections: float = math.inf,
        max_per_address: float = math.inf,
        has_left: HasLeft = has_left,
        count_acked: CountAcked = count_acked,
    ) -> None:
        self.resource = resource
        self.clock = reactor
        self.limits = limits or ServerLimits()
        budget = BodyBudget(self.limits.body)
        self.parsing = (self.limits, find_budget or (lambda *_: budget))
        self.timeouts = timeouts_of(self.limits)
        self.describe_error = describe_error
        self.observer = observer
        self.side = side
        self.make_id = make_id
        self.has_left = has_left
        self.count_acked = count_acked
        self._now = now
        self._max_connections = max_connections
        self._max_per_address = max_per_address
        #: The connections of each address, if they are limited.
        self._of_address: Counter[str] = Counter()
        self.connections: dict[ServerConnection, None] = {}
        self.is_draining = False
        self._idle = IdleNotifier()
        self._fixed_at = -1
        self._fixed = b""

    def buildProtocol(self, addr: Any) -> Any:
        return ServerConnection(self)

    def leave(self) -> None:
        """Close every connection after its next response; those without a request stay open."""
        self.is_draining = True

    def drain(self, *, spare_silent: bool = False) -> None:
        """Close all connections; those with a request after its response has been sent.

        :param spare_silent: leave open those on which nothing was received yet, for one request
            each. A client may send a request again if a kept connection was closed, but few do so
            on a connection that they have just made.
        """
        self.leave()
        for connection in list(self.connections):
            if not (spare_silent and connection.is_silent):
                connection.leave_if_idle()

    def drop_unread(self) -> None:
        """Reset all connections whose request has not arrived as a whole."""
        for connection in list(self.connections):
            connection.make_room("drained")

    def when_empty(self) -> Deferred[None]:
        """Return a Deferred that fires once there is no connection, so that all is sent."""
        return self._idle.wait(is_idle=not self.connections)

    def add(self, connection: ServerConnection) -> None:
        """Add a connection that is open; only that connection calls this.

        At the limit, the oldest connection without a complete request is reset. That is this one if
        all others have one. It is reset too if its address has its share.
        """
        self.connections[connection] = None
        self.observer.connection_opened()
        address = self._find_address(connection)
        if address:
            self._of_address[address] += 1
            if self._of_address[address] > self._max_per_address:
                connection.make_room("address")
                return
        if len(self.connections) > self._max_connections:
            any(other.make_room() for other in list(self.connections))

    def remove(self, connection: ServerConnection) -> None:
        """Remove a connection that is lost; only that connection calls this."""
        del self.connections[connection]
        address = self._find_address(connection)
        if address:
            self._of_address[address] -= 1
            if not self._of_address[address]:
                del self._of_address[address]
        self.observer.connection_closed()
        if not self.connections:
            self._idle.notify()

    def _find_address(self, connection: ServerConnection) -> str:
        """Return the address of a client if it counts; that of a Unix socket does not."""
        if self._max_per_address == math.inf:
            return ""
        return str(getattr(connection.transport.getPeer(), "host", ""))

    def fixed_headers(self) -> bytes:
        """Return the header lines of every response; the date is in whole seconds."""
        now = int(self._now())
        if now != self._fixed_at:
            self._fixed_at = now
            date = formatdate(now, usegmt=True).encode()
            self._fixed = b"Server: jobproxy\r\nDate: %b\r\n" % date
        return self._fixed
