"""The server side of a connection: requests answered in order, and an end to all that lingers."""

import socket
from collections.abc import Callable
from typing import Any, cast
from typing import Protocol as Interface

from twisted.internet.interfaces import IDelayedCall, IReactorTime, ITCPTransport
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.resource import IResource

from jobproxy.http1.errors import BadRequest, HttpError, request_timeout
from jobproxy.http1.interfaces import RequestServer
from jobproxy.http1.limits import ServerLimits
from jobproxy.http1.request import Request, write_head
from jobproxy.http1.request_parser import ParsedRequest, RequestParser
from jobproxy.http1.sending import EagerWriter, find_send

#: When a client that vanished without a word is given up: probes after 30 s, 10 s apart, 3 lost.
_KEEPALIVE = (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3))


DescribeError = Callable[[HttpError, bytes], tuple[bytes, bytes]]


class ConnectionServer(RequestServer, Interface):
    """What a connection needs of its server.

    :ivar describe_error: returns the content type and the body of the response to what is no
        acceptable request, from the error and the id of that response.
    :ivar connections: all that are open.
    """

    resource: IResource
    clock: IReactorTime
    limits: ServerLimits
    describe_error: DescribeError
    connections: "set[ServerConnection]"

    def remove(self, connection: "ServerConnection") -> None:
        """Count a connection no longer."""


class ServerConnection(EagerWriter, Protocol):
    """One client's connection.

    Requests that come while one is being answered wait for their turn, and so does the refusal of
    what is no request. Then the connection *lingers*: it is closed once the client has had time to
    read why, since a close with unread bytes would take the answer away from it (RFC 9112, 9.6).
    """

    __slots__ = (
        "_ahead",
        "_current",
        "_deadline",
        "_has_asked",
        "_is_answering",
        "_is_blocked",
        "_linger",
        "_queue",
        "_reader",
        "_send",
        "_timer",
        "connected",
        "factory",
        "transport",
    )

    def __init__(self, factory: ConnectionServer) -> None:
        self.factory = factory
        self.transport: Any = None
        self.connected = 0
        self._reader: RequestParser | None = None
        self._current: Request | None = None
        self._queue: list[ParsedRequest | HttpError] | None = None
        self._ahead = 0
        self._is_answering = False
        #: Whether the transport holds so much that the client has not read that it wants no more.
        self._is_blocked = False
        self._has_asked = False
        #: Bytes that may still be thrown away, once the connection lingers.
        self._linger: int | None = None
        self._deadline: float | None = None
        self._timer: IDelayedCall | None = None

    def connectionMade(self) -> None:
        if ITCPTransport.providedBy(self.transport):
            self.transport.setTcpNoDelay(True)
            self.transport.setTcpKeepAlive(True)
            handle = cast(Any, self.transport).getHandle()
            for name, value in _KEEPALIVE:
                if hasattr(socket, name):
                    handle.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        self._send = find_send(self.transport)
        if self._send is None:
            self._fall_back()
        self.factory.connections.add(self)
        self._set_deadline(self.factory.limits.silent_time)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.factory.remove(self)
        self._stop_timer()
        self._close_reader()
        self._queue = None
        self._linger = 0
        if self._current is not None:
            current, self._current = self._current, None
            current.connectionLost(reason)

    def _fall_back(self) -> None:
        self.transport.registerProducer(self, True)

    def pauseProducing(self) -> None:
        """Do nothing more for a client that does not read what it got: called by the transport."""
        self._is_blocked = True
        self.transport.pauseProducing()
        self._set_deadline(self.factory.limits.idle_time)

    def resumeProducing(self) -> None:
        """Go on, as the client has read: called by the transport."""
        self._is_blocked = False
        self._deadline = None
        if self._reader is not None:
            self._set_deadline(self.factory.limits.request_time)
        self.transport.resumeProducing()
        self._answer_next()

    def stopProducing(self) -> None:
        """Nothing has to be stopped: the end of the connection is told otherwise."""

    def dataReceived(self, data: bytes) -> None:
        if self._linger is not None:
            self._discard(data)
            return
        if self._current is not None:
            self._ahead += len(data)
            if self._ahead > self.factory.limits.ahead:
                self._abort("pipelined")
                return
        reader = self._reader
        is_new = reader is None
        if reader is None:
            reader = self._reader = RequestParser(self.factory.limits)
        try:
            reader.feed(data)
        except BadRequest as bad:
            self._take(reader)
            self._close_reader()
            self._enqueue(bad.error)
        else:
            is_new |= self._take(reader)
            if reader.is_complete:
                self._close_reader()
            elif is_new:
                self._has_asked = True
                self._set_deadline(self.factory.limits.request_time)
            if reader.wants_continue and self._current is not None:
                # The client waits for us, not we for it.
                self._deadline = None
        self._answer_next()

    def respond(self, head: bytes, body: bytes, *, keep_alive: bool) -> None:
        """Send the answer to the current request; to be called by that request alone."""
        self._current = None
        self._write(head + body)
        if not keep_alive:
            self._queue = None
            self._close()
        elif not self._is_answering:
            self._answer_next()

    def push(self, data: bytes) -> None:
        """Send what follows in an answer that was begun, unless the client does not read it."""
        if not self._is_blocked:
            self._write(data)

    def end(self) -> None:
        """End an answer that was begun, and the connection with it."""
        self._current = self._queue = None
        self._close()

    def leave_if_idle(self) -> None:
        """Close the connection unless something is under way on it."""
        if self._linger is None and not (self._current or self._reader or self._queue):
            self._close()

    def _take(self, reader: RequestParser) -> bool:
        """Queue the requests that have been read, if any; each had a deadline of its own."""
        if not reader.requests:
            return False
        self._enqueue(*reader.requests)
        reader.requests.clear()
        self._deadline = None
        if not self._has_asked:
            # Only the first deadline is likely to be due while the client is held.
            self._has_asked = True
            self._stop_timer()
        return True

    def _enqueue(self, *items: ParsedRequest | HttpError) -> None:
        self._queue = [*(self._queue or ()), *items]

    def _answer_next(self) -> None:
        self._is_answering = True
        while self._can_answer() and self._queue:
            following = self._queue.pop(0)
            if isinstance(following, HttpError):
                self._refuse(following)
            else:
                if self._ahead:
                    self._ahead = max(0, self._ahead - following.size)
                self._current = Request(self, following)
                self.factory.resource.render(self._current)
        self._is_answering = False
        if not self._queue:
            self._queue = None
        if not self._can_answer():
            return
        self._ahead = 0
        if self._reader is None:
            if self._deadline is None:
                self._set_deadline(self.factory.limits.idle_time)
        elif self._reader.wants_continue:
            self._reader.wants_continue = False
            self._set_deadline(self.factory.limits.request_time)
            self._write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _can_answer(self) -> bool:
        return self._current is None and self._linger is None and not self._is_blocked

    def _refuse(self, error: HttpError) -> None:
        request_id = self.factory.make_id()
        self.factory.observer.request_refused(error.status, error.reason, request_id)
        content_type, document = self.factory.describe_error(error, request_id)
        headers = {
            b"content-type": b"Content-Type: %b\r\n" % content_type,
            b"x-request-id": b"X-Request-Id: %b\r\n" % request_id,
            b"connection": b"Connection: close\r\n",
        }
        head = write_head(error.status, headers, len(document), self.factory.fixed_headers())
        self._write(head + document)
        if hasattr(self.transport, "loseWriteConnection"):
            self._linger = self.factory.limits.linger_size
            self._set_deadline(self.factory.limits.linger_time)
            self._say_no_more()
            self.transport.loseWriteConnection()
        else:
            self._close()

    def _close(self) -> None:
        """Close the connection when all is sent, but do not wait for that for long."""
        self._linger = 0
        self._set_deadline(self.factory.limits.idle_time)
        self._lose_connection()

    def _lose_connection(self) -> None:
        self._say_no_more()
        self.transport.loseConnection()

    def _say_no_more(self) -> None:
        """Unregister as a producer: a transport that has one waits for more before it closes."""
        if self._send is None:
            self.transport.unregisterProducer()
            self._is_blocked = False

    def _discard(self, data: bytes) -> None:
        if self._linger:
            self._linger = max(0, self._linger - len(data))
            if not self._linger:
                self.transport.pauseProducing()

    def _abort(self, reason: str) -> None:
        self.factory.observer.connection_refused(reason)
        self.transport.abortConnection()

    def _close_reader(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def _set_deadline(self, seconds: float) -> None:
        """Move the deadline; a timer that runs already and is not later is left to find that."""
        clock = self.factory.clock
        self._deadline = clock.seconds() + seconds
        if self._timer is None:
            self._timer = clock.callLater(seconds, self._check_deadline)
        elif self._timer.getTime() > self._deadline:
            self._timer.reset(seconds)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _check_deadline(self) -> None:
        self._timer = None
        if self._deadline is None:
            return
        remaining = self._deadline - self.factory.clock.seconds()
        if remaining > 0:
            self._timer = self.factory.clock.callLater(remaining, self._check_deadline)
            return
        self._deadline = None
        if self._linger is not None or self._is_blocked:
            if self._is_blocked:
                self.factory.observer.connection_refused("stalled")
            self.transport.abortConnection()
        elif self._reader is not None:
            self._close_reader()
            self._enqueue(request_timeout(self.factory.limits.request_time))
            self._answer_next()
        elif self._current is None:
            if not self._has_asked:
                self.factory.observer.connection_refused("silent")
            self._linger = 0
            self._set_deadline(1)
            self._lose_connection()
