"""The interface that a client sends requests through."""

from collections.abc import Sequence

from twisted.internet.defer import Deferred
from twisted.web.iweb import IResponse
from zope.interface import Interface

#: Names and values; the names are spelled as usual, ``Content-Type``.
HeaderLines = Sequence[tuple[bytes, bytes]]


class ISender(Interface):
    """Sends requests whose bodies are bytes."""

    def send(method: str, url: str, headers: HeaderLines, body: bytes) -> Deferred[IResponse]:
        """Send a request with these headers, and with no others but ``Host`` and the length.

        :param headers: with ``Connection: close`` the request has a new connection for itself.
        :return: fires with the response, and fails as ``IAgent.request`` does.
        """
