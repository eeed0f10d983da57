"""Senders in memory, and stock agents as senders."""

from typing import Any

from attrs import define
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IConsumer
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IBodyProducer, IResponse
from zope.interface import implementer

from jobproxy.http1.sender import HeaderLines, ISender


@implementer(ISender)
class FailingSender:
    """Fails every request with the same error."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def send(self, method: str, url: str, headers: HeaderLines, body: bytes) -> Deferred[Any]:
        return fail(self._error)


@implementer(IBodyProducer)
@define(eq=False)
class _BytesProducer:
    """Writes a body at once; treq's own would need some turns of the reactor for it."""

    _body: bytes

    @property
    def length(self) -> int:
        return len(self._body)

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:
        consumer.write(self._body)
        return succeed(None)

    def pauseProducing(self) -> None:
        """Nothing is left to hold back."""

    def resumeProducing(self) -> None:
        """Nothing is left to send."""

    def stopProducing(self) -> None:
        """Nothing is left to give up."""


@implementer(ISender)
@define(eq=False)
class AgentSender:
    """Sends requests with an agent, such as treq's in memory."""

    _agent: IAgent

    def send(self, method: str, url: str, headers: HeaderLines, body: bytes) -> Deferred[IResponse]:
        lines = Headers()
        for name, value in headers:
            lines.addRawHeader(name, value)
        return self._agent.request(
            method.encode("ascii"), url.encode("ascii"), lines, _BytesProducer(body)
        )
