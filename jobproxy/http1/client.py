"""The HTTP client that every call of ours goes through: treq, without what we must not have."""

from collections.abc import Sequence
from typing import Any, cast

from attrs import define, field
from treq.client import HTTPClient
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IConsumer, IPushProducer, IReactorTime, ITransport
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers
from twisted.web.iweb import IBodyProducer, IResponse
from zope.interface import implementer

from jobproxy.http1.agent import PooledAgent
from jobproxy.http1.limits import ClientLimits
from jobproxy.http1.response import Response

_JSON = Headers({"Content-Type": ["application/json"]})
_JSON_ONCE = Headers({"Content-Type": ["application/json"], "Connection": ["close"]})


class PlainClient(HTTPClient):
    """treq's client without what no call of ours may have, and what that costs.

    treq parses the URL, copies a cookie jar, offers gzip and builds four agents for each request.
    """

    def post(self, url: Any, data: Any = None, **kwargs: Any) -> Deferred[Any]:
        """POST a body of bytes, with the headers given and no others."""
        return self._agent.request(
            b"POST", url.encode("ascii"), kwargs.get("headers"), BytesProducer(data)
        )


def make_client(reactor: Any, limits: ClientLimits) -> HTTPClient:
    """Return an HTTP client that has all its connections to itself."""
    return PlainClient(PooledAgent(reactor, limits))


def post_json(
    client: HTTPClient,
    clock: IReactorTime,
    url: str,
    body: bytes,
    headers: Sequence[tuple[bytes, bytes]] = (),
    *,
    may_keep: bool = True,
) -> Deferred[IResponse]:
    """POST a body that is JSON already.

    No redirect is followed: of a POST it would make a GET somewhere else (RFC 9110, 15.4.4).

    :param clock: what ``client`` was made with; treq's own would take the global reactor.
    :param headers: more headers, with their names and values.
    :param may_keep: whether the connection may be one that was kept, and be kept again.
    """
    common = _JSON if may_keep else _JSON_ONCE
    if headers:
        common = common.copy()
        for name, value in headers:
            common.addRawHeader(name, value)
    posting: Deferred[Any] = client.post(
        url,
        data=body,
        headers=common,
        allow_redirects=False,
        unbuffered=True,
        reactor=cast(Any, clock),
    )
    return posting


class BodyTooBig(Exception):
    """A response's body went over its bound; its connection has been closed."""


@implementer(IBodyProducer)
@define(eq=False, init=False)
class BytesProducer:
    """Writes a body at once; treq's own would take some turns of the reactor for it."""

    _body: bytes
    length: int

    def __init__(self, body: bytes) -> None:
        self._body = body
        self.length = len(body)

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:
        consumer.write(self._body)
        return succeed(None)

    def pauseProducing(self) -> None:
        """Nothing is left to hold back."""

    def resumeProducing(self) -> None:
        """Nothing is left to send."""

    def stopProducing(self) -> None:
        """Nothing is left to give up."""


def collect_body(response: IResponse, limit: int) -> Deferred[bytes]:
    """Receive the body of a response.

    Unlike ``treq.content`` this bounds the body, and closes the connection when it is cancelled
    (`treq #83 <https://github.com/twisted/treq/issues/83>`_).

    :param limit: bytes; the Deferred fails with :class:`BodyTooBig` above it.
    """
    if isinstance(response, Response) and len(response.body) <= limit:
        return succeed(response.body)
    collector = _Collector(limit=limit)
    response.deliverBody(collector)
    return collector.finished


@define(eq=False)
class _Collector(Protocol):
    _limit: int
    _chunks: list[bytes] = field(factory=list, init=False)
    _size: int = field(default=0, init=False)
    finished: Deferred[bytes] = field(init=False)
    transport: ITransport | None = field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        self.finished = Deferred(lambda _: self._close())

    def dataReceived(self, data: bytes) -> None:
        if self.finished.called:
            return
        self._size += len(data)
        if self._size > self._limit:
            self._chunks.clear()
            self.finished.errback(BodyTooBig(f"more than {self._limit} bytes"))
            self._close()
        else:
            self._chunks.append(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self.finished.called:
            return
        # A body without a length ends with its connection; what is in it tells if it is whole.
        if reason.check(ResponseDone, PotentialDataLoss):
            self.finished.callback(b"".join(self._chunks))
        else:
            self.finished.errback(reason)

    def _close(self) -> None:
        if self.transport is not None:
            cast(IPushProducer, self.transport).stopProducing()
