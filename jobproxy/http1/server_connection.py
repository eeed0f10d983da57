"""A connection of a client: one response to each request, in the order of the requests."""

from typing import Any

from attrs import evolve
from twisted.internet.interfaces import IDelayedCall, ITCPTransport
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

from jobproxy.http1.eager_writer import EagerWriter, Send, find_send, set_socket_options
from jobproxy.http1.errors import BadRequest, ConnectionFault, HttpError, request_timeout
from jobproxy.http1.heads import write_error
from jobproxy.http1.interfaces import ConnectionServer
from jobproxy.http1.parsed_request import ParsedRequest
from jobproxy.http1.peers import Backlog
from jobproxy.http1.phases import (
    ARRIVING,
    DEAF,
    GOES_ON,
    READY,
    SENDING,
    TRANSITIONS,
    UNREAD,
    Event,
    Phase,
)
from jobproxy.http1.request import Request
from jobproxy.http1.request_parser import RequestParser
from jobproxy.http1.timeout import Timeout

#: Requests of a connection that are handed to the resource in one turn of the reactor.
MAX_STARTED = 128


class ServerConnection(EagerWriter, Protocol):
    """A connection of a client; for its phases see :mod:`jobproxy.http1.phases`.

    Requests that are received while an earlier one has no response wait for their turn; so does the
    error for bytes that are no request.
    """

    __slots__ = (
        "_acked",
        "_backlog",
        "_current",
        "_error",
        "_is_starting",
        "_parser",
        "_phase",
        "_queue",
        "_send",
        "_surplus",
        "_timeout",
        "_turn",
        "connected",
        "factory",
        "transport",
    )

    def __init__(self, factory: ConnectionServer) -> None:
        self.factory = factory
        self.transport: Any = None
        self.connected = 0
        self._send: Send | None = None
        self._phase = Phase.SILENT
        self._timeout = Timeout(factory.clock, self._end_phase)
        #: What the client had taken when the phase began in which it did not read.
        self._acked: int | None = None
        #: Reads nothing while too much is surplus.
        self._backlog: Backlog | None = None
        self._parser: RequestParser | None = None
        #: The request that has no response yet, and the ones after it.
        self._current: Request | None = None
        self._queue: list[ParsedRequest] | None = None
        #: Why the bytes after all these are no request; nothing is parsed after them.
        self._error: HttpError | None = None
        #: Bytes received while a request had no response; when lingering, bytes dropped.
        self._surplus = 0
        #: Goes on with the queue in the next turn of the reactor.
        self._turn: IDelayedCall | None = None
        #: Whether the resource is being called with a request, to which it may respond at once.
        self._is_starting = False

    def connectionMade(self) -> None:
        if ITCPTransport.providedBy(self.transport):
            set_socket_options(self.transport)
        self._send = find_send(self.transport)
        if self._send is None:
            self._fall_back()
        self.factory.add(self)
        self._timeout.set(self.factory.limits.silent_time)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._handle(Event.LOSE)
        self.factory.remove(self)
        self._timeout.close()
        if self._backlog is not None:
            self._backlog.stop()
        if self._turn is not None:
            self._turn.cancel()
        self._close_parser()
        current, self._current, self._queue, self._error = self._current, None, None, None
        if current is not None:
            current.connection_lost()

    def _fall_back(self) -> None:
        self.transport.registerProducer(self, True)

    def pauseProducing(self) -> None:
        """Stop to read and to send until the client has read; the transport calls this."""
        self._handle(Event.BLOCK)
        self.transport.pauseProducing()

    def resumeProducing(self) -> None:
        """Continue, as the client has read; the transport calls this."""
        self._handle(Event.UNBLOCK)
        if self._backlog is None:
            self.transport.resumeProducing()
        self._follow_parser()
        self._start_next()

    def stopProducing(self) -> None:
        """Do nothing, as :meth:`connectionLost` follows."""

    def dataReceived(self, data: bytes) -> None:
        if self._phase in DEAF:
            self._discard(len(data))
            return
        if self._current is not None or self._turn is not None:
            self._surplus += len(data)
            if self._surplus > self.factory.limits.ahead and self._backlog is None:
                self._backlog = Backlog(self.transport, self.factory.clock, self.factory.has_left)
        if self._error is None:
            self._read(data)
            self._start_next()

    def respond(self, head: bytes, body: bytes, *, keep_alive: bool) -> None:
        """Send the response to the current request; only that request may call this."""
        self._current = None
        self._write(head + body)
        if not keep_alive:
            self._queue = self._error = None
            self._close()
            return
        self._handle(Event.RESPOND)
        if not self._is_starting:
            self._start_next()

    def push(self, data: bytes) -> None:
        """Send more of a response that was begun; drop it if the client does not read."""
        if self._phase is not Phase.STALLED:
            self._write(data)

    def end(self) -> None:
        """End a response that was begun, and close the connection."""
        self._current = self._queue = self._error = None
        self._close()

    @property
    def is_silent(self) -> bool:
        """Whether nothing has been received yet."""
        return self._phase is Phase.SILENT

    def leave_if_idle(self) -> None:
        """Close the connection unless a request is received or has no response."""
        is_busy = self._current or self._queue or self._parser or self._error
        if not is_busy and self._phase not in DEAF:
            self._close()

    def make_room(self, reason: ConnectionFault = "crowded") -> bool:
        """Reset the connection unless it has a complete request; return whether it is reset."""
        if self._current or self._queue or self._phase in DEAF:
            return False
        self._abort(reason)
        return True

    def _read(self, data: bytes) -> None:
        """Parse bytes; queue the requests that are complete."""
        parser = self._parser
        if parser is None:
            parser = self._parser = RequestParser(*self.factory.parsing)
        try:
            parser.feed(data)
        except BadRequest as bad:
            self._error = evolve(bad.error, origin=parser.origin)
        requests = parser.take_requests()
        if requests:
            self._queue = requests if self._queue is None else self._queue + requests
        if (parser.is_complete and not parser.rest) or self._error is not None:
            self._close_parser()
            if self._phase in ARRIVING:
                self._handle(Event.REST)
        else:
            self._follow_parser(is_new=bool(requests))

    def _follow_parser(self, *, is_new: bool = False) -> None:
        """Set the phase, by whether a request is arriving; one that has to wait is not.

        :param is_new: whether the parser has completed a request since the last call.
        """
        parser = self._parser
        is_arriving = bool(parser and not (parser.wants_continue or parser.rest or self._backlog))
        if self._phase in ARRIVING:
            if not is_arriving:
                self._handle(Event.REST)
            elif is_new:
                self._handle(Event.BEGIN)
        elif is_arriving and self._phase not in UNREAD:
            self._handle(Event.BEGIN)

    def _start_next(self) -> None:
        """Call the resource with queued requests; read on once none is left that can be started."""
        if self._turn is not None:
            return
        if self._queue or (self._parser is not None and self._parser.rest):
            self._start_some()
        if self._turn is not None:
            return
        if self._phase in READY:
            self._surplus = 0
        if self._backlog is not None and self._surplus <= self.factory.limits.ahead:
            self._read_on()
        if self._phase not in READY:
            return
        if self._error is not None:
            self._refuse(self._error)
        elif self._parser is not None:
            wanted_continue = self._parser.grant_continue()
            self._follow_parser()
            if wanted_continue:
                self._write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _start_some(self) -> None:
        """Call the resource as long as each request gets its response at once.

        After :data:`MAX_STARTED` of them, other connections have their turn.
        """
        self._is_starting = True
        for _ in range(MAX_STARTED):
            while not self._queue and self._parser is not None and self._parser.rest:
                self._read(b"")
            if not (self._queue and self._phase in READY):
                break
            parsed = self._queue.pop(0)
            if self._surplus:
                self._surplus = max(0, self._surplus - parsed.size)
            self._handle(Event.START)
            self._current = request = Request(self, parsed)
            self.factory.resource.render(request)
        self._is_starting = False
        if not self._queue:
            self._queue = None
        if self._phase in READY and (self._queue or (self._parser and self._parser.rest)):
            self._turn = self.factory.clock.callLater(0, self._go_on)

    def _go_on(self) -> None:
        self._turn = None
        self._start_next()

    def _read_on(self) -> None:
        """Read again what the client has sent ahead."""
        assert self._backlog is not None
        self._backlog.stop()
        self._backlog = None
        self._follow_parser()
        if self._phase not in UNREAD:
            self.transport.resumeProducing()

    def _refuse(self, error: HttpError) -> None:
        self._write(write_error(error, self.factory))
        if hasattr(self.transport, "loseWriteConnection"):
            self._handle(Event.REFUSE)
            self._stop_producing()
            self.transport.loseWriteConnection()
        else:
            self._close()

    def _discard(self, size: int) -> None:
        """Drop what is received after an error; beyond a limit stop to receive."""
        self._surplus += size
        if self._phase is Phase.LINGERING and self._surplus >= self.factory.limits.linger_size:
            self.transport.pauseProducing()

    def _close(self, event: Event = Event.CLOSE) -> None:
        """Close the connection when all is sent; the timeout of the phase limits the wait."""
        self._handle(event)
        self._stop_producing()
        self.transport.loseConnection()

    def _stop_producing(self) -> None:
        """Unregister as a producer, as a transport does not close while it has one."""
        if self._send is None:
            self.transport.unregisterProducer()

    def _abort(self, reason: ConnectionFault) -> None:
        self.factory.observer.connection_refused(reason)
        self.transport.abortConnection()

    def _close_parser(self) -> None:
        if self._parser is not None:
            self._parser.close()
            self._parser = None

    def _handle(self, event: Event) -> None:
        """Move to the phase that follows from an event.

        :raises IllegalEvent: if there is none.
        """
        before = self._phase
        self._phase = phase = TRANSITIONS[before, event]
        if before is Phase.SILENT:
            # Other timers are seldom due while a client is held, so that they are not stopped.
            self._timeout.stop()
        if (before, phase) in GOES_ON:
            return
        self._timeout.set(self.factory.timeouts[phase])
        if phase in SENDING:
            self._acked = self.factory.count_acked(self.transport)

    def _end_phase(self) -> None:
        """Act on the timeout of the phase."""
        if self._phase in SENDING and self._has_progress():
            self._timeout.set(self.factory.limits.idle_time)
        elif self._phase in ARRIVING:
            assert self._parser is not None
            error = request_timeout(self.factory.limits.request_time)
            self._error = evolve(error, origin=self._parser.origin)
            self._close_parser()
            self._handle(Event.REST)
            self._start_next()
        elif self._phase in UNREAD:
            self._abort("stalled")
        elif self._phase in DEAF:
            self.transport.abortConnection()
        else:
            if self._phase is Phase.SILENT:
                self.factory.observer.connection_refused("silent")
            self._close(Event.TIME_OUT)

    def _has_progress(self) -> bool:
        """Whether the client has taken some of what it was sent since the last look."""
        before, self._acked = self._acked, self.factory.count_acked(self.transport)
        return self._acked != before
