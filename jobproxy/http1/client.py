"""An HTTP client that sends each request once: no redirects, no cookies, no encodings."""

from typing import cast

from treq.client import HTTPClient
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProtocol, IPushProducer, ITransport
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.http import PotentialDataLoss
from twisted.web.iweb import IAgent, IResponse
from zope.interface import implementer

from jobproxy.http1.response import BodyTooBig
from jobproxy.http1.sender import HeaderLines, ISender

#: The header of a body that is JSON.
JSON: HeaderLines = ((b"Content-Type", b"application/json"),)
#: The header of a request with a connection for itself, which is closed after it.
CLOSE: HeaderLines = ((b"Connection", b"close"),)


class PlainClient(HTTPClient):
    """treq's client, which sends a request once and as it is given.

    For each request treq itself parses the URL, copies a cookie jar, offers gzip and builds four
    agents. It also follows redirects, and turns a POST into a GET (RFC 9110, section 15.4.4).

    :param sender: sends the requests.
    """

    def __init__(self, sender: ISender) -> None:
        super().__init__(cast(IAgent, sender))
        self._sender = sender

    # Other arguments of treq raise TypeError; they are not ignored.
    def request(  # type: ignore[override]
        self, method: str, url: str, *, headers: HeaderLines, data: bytes
    ) -> Deferred[IResponse]:
        """Send a request, once.

        :param headers: all except ``Host`` and the length; without line breaks.
        :param data: the body.
        :return: fires with the response, whose body :func:`read_body` returns.
        """
        sending: Deferred[IResponse] = self._sender.send(method, url, headers, data)
        return sending


def read_body(response: IResponse, limit: int) -> Deferred[bytes]:
    """Receive the body of a response.

    Unlike ``treq.content`` this bounds the body, and closes the connection when it is cancelled
    (`treq #83 <https://github.com/twisted/treq/issues/83>`_).

    :param limit: bytes; the Deferred fails with :class:`BodyTooBig` above it.
    """
    reader = _BodyReader(limit)
    reading = reader.reading
    assert reading is not None
    response.deliverBody(cast(IProtocol, reader))
    return reading


@implementer(IProtocol)
class _BodyReader:
    """Receives a body. A plain object and no Protocol, since there is one for each start.

    :ivar reading: fires with the body; None once it has fired.
    """

    __slots__ = ("_chunks", "_limit", "_size", "reading", "transport")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._chunks: list[bytes] = []
        self._size = 0
        self.reading: Deferred[bytes] | None = Deferred(self._cancel)
        self.transport: ITransport | None = None

    def makeConnection(self, transport: ITransport) -> None:
        self.transport = transport

    def connectionMade(self) -> None:
        """Do nothing; :meth:`makeConnection` does not call this."""

    def dataReceived(self, data: bytes) -> None:
        self._size += len(data)
        if self._size <= self._limit:
            self._chunks.append(data)
        elif self.reading is not None:
            self._chunks.clear()
            self._close()
            self._end().errback(BodyTooBig(f"more than {self._limit} bytes"))

    def connectionLost(self, reason: Failure) -> None:
        if self.reading is None:
            return
        # A body without a length ends with its connection; only its content shows if it is whole.
        if reason.type in (ResponseDone, PotentialDataLoss):
            self._end().callback(b"".join(self._chunks))
        else:
            self._end().errback(reason)

    def _end(self) -> Deferred[bytes]:
        # Its canceller refers to this object, which would be a reference cycle.
        reading, self.reading = self.reading, None
        assert reading is not None
        return reading

    def _cancel(self, reading: Deferred[bytes]) -> None:
        self.reading = None
        self._close()

    def _close(self) -> None:
        if self.transport is not None:
            cast(IPushProducer, self.transport).stopProducing()
