"""Clients in memory, which send raw bytes."""

import json
from typing import Any

from attrs import define, field, frozen
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IProtocolFactory
from twisted.internet.testing import StringTransportWithDisconnection
from twisted.python.failure import Failure

JSON = "application/json"


@frozen
class Response:
    """A whole HTTP response."""

    status: int
    reason: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def parse_responses(data: bytes) -> list[Response]:
    """Read responses one after another; each has to have a Content-Length."""
    responses = []
    while data:
        head, _, rest = data.partition(b"\r\n\r\n")
        status_line, *lines = head.decode().split("\r\n")
        _, status, reason = status_line.split(" ", 2)
        headers = {}
        for line in lines:
            name, _, value = line.partition(": ")
            assert name.lower() not in headers, f"{name} is there twice"
            headers[name.lower()] = value
        length = int(headers["content-length"])
        assert len(rest) >= length
        responses.append(Response(int(status), reason, headers, rest[:length]))
        data = rest[length:]
    return responses


@define(eq=False)
class Client:
    """A client's connection, as raw bytes."""

    _site: IProtocolFactory
    transport: StringTransportWithDisconnection = field(
        factory=StringTransportWithDisconnection, init=False
    )
    _protocol: Any = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._protocol = self._site.buildProtocol(self.transport.getPeer())
        self.transport.protocol = self._protocol
        self._protocol.makeConnection(self.transport)

    def send(self, data: bytes) -> "Client":
        self._protocol.dataReceived(data)
        return self

    def get(self, path: str, **headers: str) -> "Client":
        """Send a request without a body; ``_`` in a header's name stands for ``-``."""
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.request(path, None, method="GET", headers=fields)

    def request(
        self,
        path: str = "/proxy",
        body: bytes | None = b'{"account":"example","wait":true}',
        *,
        method: str = "POST",
        headers: dict[str, str] | None = None,
    ) -> "Client":
        """Send a request with a body of JSON, or of what the headers say."""
        fields = {"Host": "proxy.example", "Content-Type": JSON, **(headers or {})}
        if body is not None:
            fields["Content-Length"] = str(len(body))
        lines = [f"{method} {path} HTTP/1.1", *(f"{n}: {v}" for n, v in fields.items()), "", ""]
        return self.send("\r\n".join(lines).encode("latin-1") + (body or b""))

    def start(self, **members: Any) -> "Client":
        """Send a start request with these members."""
        return self.request("/start", json.dumps(members).encode())

    @property
    def responses(self) -> list[Response]:
        return parse_responses(self.transport.value())

    @property
    def response(self) -> Response:
        (response,) = self.responses
        return response

    @property
    def is_held(self) -> bool:
        return self.transport.connected and not self.transport.value()

    def leave(self) -> None:
        """Close the connection, if it is not closed already."""
        if self.transport.connected:
            self.transport.connected = False
            self._protocol.connectionLost(Failure(ConnectionDone()))
