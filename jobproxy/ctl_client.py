"""How ``jobproxyctl`` reaches a running proxy: by its admin port."""

import json
from typing import Any
from urllib.parse import urlsplit

from attrs import define, frozen
from treq.client import HTTPClient
from twisted.internet.endpoints import TCP6ClientEndpoint, UNIXClientEndpoint, wrapClientTLS
from twisted.internet.error import ConnectError
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.ssl import optionsForClientTLS
from twisted.web.client import Agent, ResponseFailed
from twisted.web.iweb import IAgentEndpointFactory
from zope.interface import implementer

#: Seconds for one request.
TIMEOUT = 10.0
NO_PATH = "urn:jobproxy:problem:not-found"
_WRONG_PORT = "Is this the port of --admin-listen?"


class Failed(Exception):
    """The command failed; the message is one line for the operator."""


@implementer(IAgentEndpointFactory)
@frozen
class _OnePlace:
    """Connects to one place for any URL."""

    _endpoint: IStreamClientEndpoint

    def endpointForURI(self, uri: object) -> IStreamClientEndpoint:  # noqa: N802, ARG002 - Twisted's
        return self._endpoint


@define(eq=False)
class Proxy:
    """The admin port of a running proxy.

    :param admin: a URL, or ``unix:`` and the path of a socket.
    """

    _reactor: Any
    _admin: str

    async def call(self, method: str, path: str) -> bytes:
        """Send a request and return the body of a successful response.

        :raises Failed: if there is no response, or if it is an error.
        """
        base, agent = self._find_way()
        client = HTTPClient(agent)
        try:
            response = await client.request(
                method, base + path, timeout=TIMEOUT, reactor=self._reactor
            )
            body: bytes = await response.content()
        except ConnectError as error:
            hint = "does the proxy have an --admin-listen?"
            raise Failed(f"cannot connect to {self._admin}: {error}; {hint}") from error
        except (ResponseFailed, TimeoutError) as error:
            raise Failed(f"no response from {self._admin}") from error
        except Exception as error:
            raise Failed(f"{self._admin}: {error or type(error).__name__}") from error
        if response.code >= 300:
            raise Failed(f"{self._admin}{path}: {_explain(response.code, body)}")
        return body

    def _find_way(self) -> tuple[str, Agent]:
        """Return the beginning of URLs, and what connects to the proxy."""
        base, reactor = self._admin.rstrip("/"), self._reactor
        endpoint: IStreamClientEndpoint | None = None
        if base.startswith("unix:"):
            endpoint = UNIXClientEndpoint(reactor, base.removeprefix("unix:"), timeout=TIMEOUT)
            base = "http://localhost"
        url = urlsplit(base)
        if url.hostname is not None and ":" in url.hostname:
            # hyperlink, which parses treq's URLs, takes an IPv6 address for a name.
            port = url.port or (443 if url.scheme == "https" else 80)
            endpoint = TCP6ClientEndpoint(reactor, url.hostname, port, timeout=TIMEOUT)
            if url.scheme == "https":
                endpoint = wrapClientTLS(optionsForClientTLS(url.hostname), endpoint)
            base = f"http://localhost{url.path}"
        if endpoint is None:
            return base, Agent(reactor, connectTimeout=TIMEOUT)
        return base, Agent.usingEndpointFactory(reactor, _OnePlace(endpoint))

    async def read(self, path: str) -> Any:
        """Return the JSON document at a path.

        :raises Failed: as :meth:`call`, or if it is not JSON.
        """
        try:
            return json.loads(await self.call("GET", path))
        except ValueError:
            raise Failed(f"{self._admin}{path} is not served by jobproxy") from None


def _explain(status: int, body: bytes) -> str:
    try:
        problem = json.loads(body)
        detail, slug = str(problem["detail"]), problem["type"]
    except (ValueError, KeyError, TypeError):
        return f"status {status}. {_WRONG_PORT}"
    return f"{detail} {_WRONG_PORT}" if slug == NO_PATH else detail
