"""A request and its response, with the interface of twisted.web that the routes need."""

import re
from collections.abc import Callable
from typing import Any

from twisted.web.http import parse_qs

from jobproxy.http1.heads import write_head
from jobproxy.http1.interfaces import Channel
from jobproxy.http1.parsed_request import ParsedRequest

_REQUEST_ID = re.compile(rb"[\w.:/=+-]{1,128}", re.ASCII)


def find_path(uri: bytes) -> bytes:
    """Return the path of a target, which may be a whole URL (RFC 9112, section 3.2.2)."""
    path = uri.partition(b"?")[0]
    if path[:8].lower().startswith((b"http://", b"https://")):
        path = b"/" + b"".join(path.split(b"/", 3)[3:])
    return path


class Request:
    """A request and its response, which is sent in one piece.

    twisted.web's own class makes headers, arguments, a file of the body and addresses for each
    request. Klein's routing needs only the method and the path, and handlers return bytes.

    :ivar request_id: the ``X-Request-Id`` of the request if it is valid, else a new id.
    :ivar body: bytes.
    :ivar outcome: one word for the counters.
    :ivar is_gone: whether the client has left, so that no response can be sent.
    """

    # Each held client has a request, so that its size counts.
    __slots__ = (
        "_lines",
        "_on_gone",
        "_request_id",
        "_written",
        "body",
        "channel",
        "clientproto",
        "code",
        "finished",
        "headers",
        "is_gone",
        "keep_alive",
        "method",
        "outcome",
        "path",
        "side",
        "uri",
    )

    def __init__(self, channel: Channel, parsed: ParsedRequest) -> None:
        target = parsed.target
        self.channel = channel
        self.method = parsed.method
        self.uri = target
        self.path = target if target[:1] == b"/" and b"?" not in target else find_path(target)
        self.clientproto = parsed.version
        self.headers = parsed.headers
        self.body = parsed.body
        self.keep_alive = parsed.keep_alive
        self.code = 200
        self.finished = 0
        self.outcome = "ok"
        self.side = ""
        self.is_gone = False
        self._on_gone: Callable[[], object] | None = None
        self._lines: dict[bytes, bytes] | None = None
        self._written = b""
        self._request_id: bytes | None = None

    def getHeader(self, key: Any) -> Any:
        """Return the last header of this name, as bytes or as str like the name."""
        if isinstance(key, str):
            value = self.find_header(key.encode("ascii").lower())
            return None if value is None else value.decode("iso-8859-1")
        return self.find_header(key.lower())

    def find_header(self, name: bytes) -> bytes | None:
        """Return the last header of a name in lower case."""
        for other, value in reversed(self.headers):
            if other == name:
                return value
        return None

    @property
    def request_id(self) -> bytes:
        if self._request_id is None:
            given = self.find_header(b"x-request-id")
            if given is None or not _REQUEST_ID.fullmatch(given):
                given = self.channel.factory.make_id()
            self._request_id = given
        return self._request_id

    def forget(self) -> None:
        """Free the headers and the body once they were read, as the client may be held for long."""
        self.headers = [header for header in self.headers if header[0] == b"x-request-id"]
        self.body = b""

    @property
    def args(self) -> dict[bytes, list[bytes]]:
        arguments: dict[bytes, list[bytes]] = parse_qs(self.uri.partition(b"?")[2], True)
        return arguments

    def setResponseCode(self, code: int, message: bytes | None = None) -> None:
        self.code = code

    def setHeader(self, name: Any, value: Any) -> None:
        """Set a header of the response.

        :raises ValueError: if the header contains a line break.
        """
        if type(name) is not bytes and isinstance(name, str):
            name = name.encode("iso-8859-1")
        if type(value) is not bytes and isinstance(value, str):
            value = value.encode("iso-8859-1")
        line = b"%b: %b\r\n" % (name, value)
        if b"\n" in line[:-2] or b"\r" in line[:-2]:
            raise ValueError("a header cannot contain a line break")
        if self._lines is None:
            self._lines = {}
        self._lines[name.lower()] = line

    def write(self, data: bytes) -> None:
        self._written += data

    def finish(self) -> None:
        """Send the response."""
        if self.finished or self.is_gone:
            return
        if self.channel.factory.is_draining:
            self.keep_alive = False
        body = self._written
        head = self._make_head(len(body))
        sent = b"" if self.method == b"HEAD" else body
        self.channel.respond(head, sent, keep_alive=self.keep_alive)

    def begin(self) -> None:
        """Send the head of a response that ends with its connection (RFC 9112, section 6.3).

        :meth:`push` sends parts of its body, until :meth:`end` or the client ends it.
        """
        self.keep_alive = False
        self.channel.push(self._make_head(None))

    def push(self, data: bytes) -> None:
        """Send more of a response that was begun; drop it if the client does not read."""
        if not self.is_gone:
            self.channel.push(data)

    def end(self) -> None:
        """End a response that was begun."""
        if not self.is_gone:
            self.channel.end()

    def _make_head(self, length: int | None) -> bytes:
        """Return the head of the response, and count the response."""
        self.finished = 1
        server, lines = self.channel.factory, self._lines or {}
        request_id = self.request_id
        server.observer.response_sent(self.side or server.side, self.code, self.outcome, request_id)
        if b"content-length" in lines:
            del lines[b"content-length"]
        lines[b"x-request-id"] = b"X-Request-Id: %b\r\n" % request_id
        if not self.keep_alive:
            lines[b"connection"] = b"Connection: close\r\n"
        return write_head(self.code, lines, length, server.fixed_headers())

    def when_gone(self, call: Callable[[], object]) -> None:
        """Set the function to call if the client leaves before its response is sent."""
        self._on_gone = call

    def connection_lost(self) -> None:
        """Stop all work on this request, as its client has left; called by the connection."""
        self.is_gone = True
        if not self.finished:
            server = self.channel.factory
            server.observer.client_left(self.side or server.side)
        if self._on_gone is not None:
            self._on_gone()
