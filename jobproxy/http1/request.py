"""A request on our edge: what Klein needs of twisted.web's, and made as it is asked for."""

import re
from collections.abc import Callable, Sequence
from functools import cached_property
from http import HTTPStatus
from io import BytesIO
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import ISSLTransport
from twisted.python.failure import Failure
from twisted.web import server
from twisted.web.http import parse_qs
from twisted.web.http_headers import Headers

if TYPE_CHECKING:
    from jobproxy.http1.server import ServerProtocol

_REQUEST_ID = re.compile(rb"[\w.:/=+-]{1,128}", re.ASCII)

_STATUS_LINES = {
    status.value: b"HTTP/1.1 %d %b\r\n" % (status.value, status.phrase.encode())
    for status in HTTPStatus
}


def _find_path(uri: bytes) -> bytes:
    """Return the path of a request's target, also of one that is a whole URL (RFC 9112, 3.2.2)."""
    path = uri.partition(b"?")[0]
    if path.startswith((b"http://", b"https://")):
        path = b"/" + b"".join(path.split(b"/", 3)[3:])
    return path


def write_head(status: int, headers: dict[bytes, bytes], length: int | None, fixed: bytes) -> bytes:
    """Return the head of an answer.

    :param headers: whole lines by lower-case name, but for ``Content-Length``.
    :param length: of the body in bytes; said also in answers that have none (RFC 9110, 8.6), but
        not if it is not known.
    :param fixed: whole lines that come first.
    """
    lines = b"".join(headers.values())
    size = b"" if length is None else b"Content-Length: %d\r\n" % length
    return b"%b%b%b%b\r\n" % (_STATUS_LINES[status], fixed, lines, size)


class Request(server.Request):
    """One request and its answer, which is sent in one piece.

    twisted.web's own makes everything at once; here headers as :class:`Headers`, arguments, the
    body as a file and addresses are made when somebody looks. There are no sessions, no cookies
    and no producers: handlers return bytes.

    :ivar request_id: the request's ``X-Request-Id`` if it is fit to be sent back, else a new one.
    :ivar body: bytes.
    :ivar outcome: one word for how it was answered.
    """

    # A held client costs as much memory as this and the like: no dict is made until somebody
    # looks at what is made on demand.
    channel: Any

    __slots__ = (
        "_disconnected",
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
        "keep_alive",
        "method",
        "notifications",
        "outcome",
        "path",
        "uri",
    )

    def __init__(
        self,
        channel: "ServerProtocol",
        method: bytes,
        uri: bytes,
        version: bytes,
        headers: list[tuple[bytes, bytes]],
        body: bytes,
        keep_alive: bool,
    ) -> None:
        self.channel = channel
        self.method = method
        self.uri = uri
        self.path = _find_path(uri)
        self.clientproto = version
        self.headers = headers
        self.body = body
        self.keep_alive = keep_alive
        self.code = 200
        self.finished = 0
        self.outcome = "ok"
        self.notifications: Sequence[Deferred[None]] = ()
        self._disconnected = False
        self._on_gone: Callable[[], object] | None = None
        self._lines: dict[bytes, bytes] | None = None
        self._written = b""
        self._request_id: bytes | None = None

    @property
    def size(self) -> int:
        """About how many bytes this was on the wire."""
        lines = sum(len(name) + len(value) + 4 for name, value in self.headers)
        return len(self.method) + len(self.uri) + 14 + lines + len(self.body)

    def getHeader(self, key: Any) -> Any:
        """Return the last header of this name, as bytes or as str like the name."""
        name = (key.encode("ascii") if isinstance(key, str) else key).lower()
        for other, value in reversed(self.headers):
            if other == name:
                return value.decode("iso-8859-1") if isinstance(key, str) else value
        return None

    @property
    def request_id(self) -> bytes:
        if self._request_id is None:
            given = self.getHeader(b"x-request-id")
            fits = given is not None and _REQUEST_ID.fullmatch(given)
            self._request_id = given if fits else self.channel.factory.make_id()
        return self._request_id

    def forget(self) -> None:
        """Drop what was asked, once it has been read: the answer may be long in coming."""
        self.headers = [header for header in self.headers if header[0] == b"x-request-id"]
        self.body = b""

    @cached_property
    def requestHeaders(self) -> Headers:
        headers = Headers()
        for name, value in self.headers:
            headers.addRawHeader(name, value)
        return headers

    @cached_property
    def content(self) -> BytesIO:
        return BytesIO(self.body)

    @cached_property
    def args(self) -> dict[bytes, list[bytes]]:
        arguments: dict[bytes, list[bytes]] = parse_qs(self.uri.partition(b"?")[2], True)
        return arguments

    @cached_property
    def prepath(self) -> list[bytes]:
        return []

    @cached_property
    def postpath(self) -> list[bytes]:
        return [unquote_to_bytes(segment) for segment in self.path.split(b"/")[1:]]

    @cached_property
    def client(self) -> Any:
        return self.transport.getPeer()

    @cached_property
    def host(self) -> Any:
        return self.transport.getHost()

    @property
    def transport(self) -> Any:
        return self.channel.transport

    @property
    def site(self) -> Any:
        return self.channel.factory

    def isSecure(self) -> bool:
        return bool(ISSLTransport.providedBy(self.transport))

    def setResponseCode(self, code: int, message: bytes | None = None) -> None:
        self.code = code

    def setHeader(self, name: Any, value: Any) -> None:
        """Set a header of the answer; neither part can end its line."""
        if isinstance(name, str):
            name = name.encode("iso-8859-1")
        if isinstance(value, str):
            value = value.encode("iso-8859-1")
        line = b"%b: %b\r\n" % (name, value)
        if line.count(b"\n") != 1 or line.count(b"\r") != 1:
            raise ValueError("a header cannot have a line break in it")
        if self._lines is None:
            self._lines = {}
        self._lines[name.lower()] = line

    def write(self, data: bytes) -> None:
        self._written += data

    def finish(self) -> None:
        """Send the answer."""
        if self.finished or self._disconnected:
            return
        if self.channel.factory.is_draining:
            self.keep_alive = False
        body = self._written
        head = self._make_head(len(body))
        self.channel.respond(self, head, b"" if self.method == b"HEAD" else body)
        for notification in self._take_notifications():
            notification.callback(None)

    def begin(self) -> None:
        """Send the head of an answer that has no end but that of the connection (RFC 9112, 6.3).

        Its body is what is given to :meth:`push`, until :meth:`end` or the client ends it.
        """
        self.keep_alive = False
        self.channel.push(self._make_head(None))

    def push(self, data: bytes) -> None:
        """Send more of an answer that was begun; a client that has not read the last gets none."""
        if not self._disconnected:
            self.channel.push(data)

    def end(self) -> None:
        """End an answer that was begun."""
        if not self._disconnected:
            self.channel.end()

    def _make_head(self, length: int | None) -> bytes:
        """Return the head of the answer, and count it."""
        self.finished = 1
        factory, lines = self.channel.factory, self._lines or {}
        factory.responses[self.code, self.outcome] += 1
        if self.outcome != "ok":
            factory.note_refusal(self.code, self.outcome, self.request_id)
        lines.pop(b"content-length", None)
        lines[b"x-request-id"] = b"X-Request-Id: %b\r\n" % self.request_id
        if not self.keep_alive:
            lines[b"connection"] = b"Connection: close\r\n"
        return write_head(self.code, lines, length, factory.fixed_headers())

    def process(self) -> None:
        """Have the request answered."""
        self.channel.factory.resource.render(self)

    @property
    def is_gone(self) -> bool:
        """Whether the client has left, so that there is nobody to answer."""
        return self._disconnected

    def notifyFinish(self) -> Deferred[None]:
        finished: Deferred[None] = Deferred()
        self.notifications = (*self.notifications, finished)
        return finished

    def when_gone(self, call: Callable[[], object]) -> None:
        """Have one thing called if the client leaves before it has its answer."""
        self._on_gone = call

    def connectionLost(self, reason: Failure) -> None:
        """Tell whoever works on this request that its client has left."""
        self._disconnected = True
        if not self.finished:
            self.channel.factory.responses[499, "client-left"] += 1
        if self._on_gone is not None:
            self._on_gone()
        for notification in self._take_notifications():
            notification.errback(reason)

    def _take_notifications(self) -> Sequence[Deferred[None]]:
        notifications, self.notifications = self.notifications, ()
        return notifications
