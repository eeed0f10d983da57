"""A connection to a server, with one request at a time."""

import socket
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IHandshakeListener, ITCPTransport
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import ResponseFailed, ResponseNeverReceived
from zope.interface import implementer

from jobproxy.http1.eager_writer import EagerWriter, Send, find_send
from jobproxy.http1.limits import ClientLimits
from jobproxy.http1.peers import find_socket
from jobproxy.http1.response import BadResponse, Response, ResponseParser
from jobproxy.util.tls_names import WRONG_NAME, check_name


@implementer(IHandshakeListener)
class ClientConnection(EagerWriter, Protocol):
    """A connection to a server.

    :ivar ready: fires when a request can be sent; with TLS, once the server's certificate was
        checked. If it fails, nothing was sent.
    :ivar is_open: whether another request can be sent.
    """

    factory: "ClientFactory"
    transport: Any

    def __init__(self, factory: "ClientFactory") -> None:
        self.factory = factory
        self.ready: Deferred[None] = Deferred()
        self.is_open = True
        self._send: Send | None = None
        self._socket: socket.socket | None = None
        self._parser: ResponseParser | None = None
        self._responding: Deferred[Response] | None = None
        self._has_response_begun = False

    def connectionMade(self) -> None:
        if ITCPTransport.providedBy(self.transport):
            self.transport.setTcpNoDelay(True)
        self._send = find_send(self.transport)
        self._socket = find_socket(self.transport)
        if not self.factory.is_secure:
            self.ready.callback(None)

    def handshakeCompleted(self) -> None:
        try:
            check_name(self.transport.getHandle(), self.factory.name)
        except WRONG_NAME:
            self.ready.errback()
        else:
            self.ready.callback(None)

    def may_exchange(self) -> bool:
        """Whether another request can be sent, and nothing has arrived that was not asked for.

        It may be here but unread, and would be mistaken for the response (RFC 9112, section 9.3.1).
        """
        if not self.is_open or self._socket is None:
            return self.is_open
        try:
            self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def exchange(self, data: bytes) -> Deferred[Response]:
        """Send a request; must not be called while another one is in progress.

        :param data: the head and the body.
        :return: fires with the whole response. Cancelling it closes the connection. It fails with
            :class:`ResponseNeverReceived`, or with :class:`ResponseFailed` once some bytes of the
            response were received; in both cases the server may have read the request. The latter
            has the head of the response, if that is complete.
        """
        self._has_response_begun = False
        self._parser = ResponseParser(self.factory.limits)
        self._responding = Deferred(lambda _: self._fail(Failure(CancelledError())))
        self._write(data)
        return self._responding

    def close(self) -> None:
        """Close the connection; must not be called while a request is in progress."""
        self.is_open = False
        self.transport.loseConnection()

    def dataReceived(self, data: bytes) -> None:
        parser = self._parser
        if parser is None:
            # No request is in progress: this could be mistaken for the response to the next one.
            self.is_open = False
            self.transport.abortConnection()
            return
        self._has_response_begun = True
        try:
            parser.feed(data)
        except BadResponse:
            self._fail(Failure())
            return
        if parser.response is not None:
            self.is_open = parser.is_reusable
            self._succeed(parser.response)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.is_open = False
        if not self.ready.called:
            self.ready.errback(reason)
        elif self._parser is not None:
            response = self._parser.end()
            if response is None:
                self._fail(reason)
            else:
                self._succeed(response)
        else:
            self.factory.when_idle_lost(self)

    def _succeed(self, response: Response) -> None:
        self._end_exchange().callback(response)

    def _fail(self, reason: Failure) -> None:
        self.is_open = False
        error: Exception = ResponseNeverReceived([reason])
        if self._has_response_begun and self._parser is not None:
            error = ResponseFailed([reason], self._parser.head())
        responding = self._end_exchange()
        self.transport.abortConnection()
        responding.errback(error)

    def _end_exchange(self) -> Deferred[Response]:
        responding, self._responding = self._responding, None
        assert responding is not None
        assert self._parser is not None
        self._parser.close()
        self._parser = None
        return responding


class ClientFactory(Factory):
    """Makes connections to one server.

    :param name: the name or address that the TLS certificate must be for; None without TLS.
    :param when_idle_lost: called with each connection that is lost between requests.
    :ivar is_secure: whether connections use TLS.
    """

    noisy = False

    def __init__(
        self,
        limits: ClientLimits,
        name: str | None,
        when_idle_lost: Callable[[ClientConnection], object],
    ) -> None:
        self.limits = limits
        self.is_secure = name is not None
        self.name = name or ""
        self.when_idle_lost = when_idle_lost

    def buildProtocol(self, addr: Any) -> Any:
        return ClientConnection(self)
