"""The HTTP server: makes a connection of ours of each one that is accepted."""

from collections.abc import Callable
from email.utils import formatdate
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import Factory
from twisted.web.resource import IResource

from jobproxy.http1.interfaces import DescribeError, ServerObserver
from jobproxy.http1.limits import ServerLimits
from jobproxy.http1.phases import timeouts_of
from jobproxy.http1.server_connection import ServerConnection
from jobproxy.util.idle import IdleNotifier


class ServerFactory(Factory):
    """Makes connections whose requests go to a resource.

    :param resource: its ``render`` is called with every request, whatever the path.
    :param reactor: the clock.
    :param describe_error: returns the content type and the body of the response to what is no
        acceptable request, from the error and the id of that response.
    :param observer: is called with all that has to be counted; may be that of other servers too.
    :param now: returns Unix time in seconds.
    :param make_id: returns an id for a request that has none.
    :ivar connections: all that are open.
    :ivar is_draining: whether every connection is closed as soon as nothing is under way on it.
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
    ) -> None:
        self.resource = resource
        self.clock = reactor
        self.limits = limits or ServerLimits()
        self.timeouts = timeouts_of(self.limits)
        self.describe_error = describe_error
        self.observer = observer
        self.make_id = make_id
        self._now = now
        self.connections: set[ServerConnection] = set()
        self.is_draining = False
        self._idle = IdleNotifier()
        self._fixed_at = -1
        self._fixed = b""

    def buildProtocol(self, addr: Any) -> Any:
        return ServerConnection(self)

    def drain(self) -> None:
        """Close all connections, but none before its response has been sent."""
        self.is_draining = True
        for connection in list(self.connections):
            connection.leave_if_idle()

    def when_empty(self) -> Deferred[None]:
        """Wait until there is no connection, and so nothing that still has to be sent."""
        return self._idle.wait(is_idle=not self.connections)

    def add(self, connection: ServerConnection) -> None:
        """Count a connection that is open; called by that connection."""
        self.connections.add(connection)
        self.observer.connection_opened()

    def remove(self, connection: ServerConnection) -> None:
        """Count a connection no longer; called by that connection."""
        self.connections.remove(connection)
        self.observer.connection_closed()
        if not self.connections:
            self._idle.notify()

    def fixed_headers(self) -> bytes:
        """Return the header lines of every response; the date is in whole seconds."""
        now = int(self._now())
        if now != self._fixed_at:
            self._fixed_at = now
            date = formatdate(now, usegmt=True).encode()
            self._fixed = b"Server: jobproxy\r\nDate: %b\r\n" % date
        return self._fixed
