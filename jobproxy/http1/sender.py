"""What a client sends requests with: an agent of ours, or any other one."""

from collections.abc import Sequence

from attrs import define, field
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IConsumer
from twisted.python.components import registerAdapter
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IBodyProducer, IResponse
from zope.interface import Interface, implementer

#: Names and values; the names are spelled as usual, ``Content-Type``.
HeaderLines = Sequence[tuple[bytes, bytes]]


class ISender(Interface):
    """Sends requests whose bodies are bytes; every agent can be adapted to it."""

    def send(method: str, url: str, headers: HeaderLines, body: bytes) -> Deferred[IResponse]:
        """Send a request with these headers, and with no others but ``Host`` and the length.

        :param headers: with ``Connection: close`` the request has a new connection for itself.
        :return: fires with the response, and fails as ``IAgent.request`` does.
        """


@implementer(IBodyProducer)
@define(eq=False)
class BytesProducer:
    """Writes a body at once; treq's own would take some turns of the reactor for it."""

    _body: bytes
    length: int = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.length = len(self._body)

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
    """Sends requests with any agent."""

    _agent: IAgent

    def send(self, method: str, url: str, headers: HeaderLines, body: bytes) -> Deferred[IResponse]:
        lines = Headers()
        for name, value in headers:
            lines.addRawHeader(name, value)
        return self._agent.request(
            method.encode("ascii"), url.encode("ascii"), lines, BytesProducer(body)
        )


registerAdapter(AgentSender, IAgent, ISender)
