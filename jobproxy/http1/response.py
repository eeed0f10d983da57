"""Parses responses within limits; a response is returned only when it is complete."""

from typing import Any

from attrs import define, field
from httptools import (
    HttpParserCallbackError,
    HttpParserError,
    HttpParserUpgrade,
    HttpResponseParser,
)
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.http_headers import Headers
from twisted.web.iweb import IResponse
from zope.interface import implementer

from jobproxy.http1.limits import ClientLimits

_BODILESS = frozenset({204, 304})
_VERSIONS = {"1.1": (b"HTTP", 1, 1), "1.0": (b"HTTP", 1, 0)}
#: The reason with which every body ends.
_DONE = Failure(ResponseDone())


class BadResponse(Exception):
    """The server sent bytes that are not HTTP/1.1, or that exceed a limit."""


class BodyTooBig(BadResponse):
    """The body of a response exceeds its limit; its connection has been closed."""


@implementer(IResponse)
@define(eq=False)
class Response:
    """A complete response.

    :ivar body: bytes as received, without decoding.
    """

    code: int
    phrase: bytes
    version: tuple[bytes, int, int]
    body: bytes
    _lines: list[tuple[bytes, bytes]] = field(repr=False)
    request: Any = None
    previousResponse: Any = None

    @property
    def length(self) -> int:
        return len(self.body)

    @property
    def headers(self) -> Headers:
        headers = Headers()
        for name, value in self._lines:
            headers.addRawHeader(name, value)
        return headers

    def find_header(self, name: bytes) -> bytes:
        """Return a header of a name in lower case; empty if there is none.

        Several of one name are one list (RFC 9110, section 5.3).
        """
        found = b""
        for other, value in self._lines:
            if other == name:
                found = found + b", " + value if found else value
        return found

    def deliverBody(self, protocol: Any) -> None:
        protocol.makeConnection(None)
        if self.body:
            protocol.dataReceived(self.body)
        protocol.connectionLost(_DONE)

    def setPreviousResponse(self, response: Any) -> None:
        self.previousResponse = response


class ResponseParser:
    """Parses one response.

    :ivar response: the response, once it is complete.
    :ivar is_reusable: whether another request may follow on the connection.
    """

    def __init__(self, limits: ClientLimits) -> None:
        self._limits = limits
        # The parser refers to this object; close() breaks the cycle.
        self._parser = HttpResponseParser(self)
        self._interim = 0
        self.response: Response | None = None
        self.is_reusable = False
        self.on_message_begin()

    def close(self) -> None:
        """Free the parser; :meth:`feed` must not be called any more."""
        del self._parser

    def feed(self, data: bytes) -> None:
        """Parse more bytes.

        :raises BadResponse: if this is no response, or exceeds a limit.
        """
        if self._is_head or self._is_trailer:
            self._head_fed += len(data)
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            if self.response is not None:
                # Bytes after a complete response do not change it, but prevent the reuse.
                self.is_reusable = False
                return
            if isinstance(error.__context__, BadResponse):
                raise error.__context__ from None
            if isinstance(error, HttpParserCallbackError):
                raise
            raise BadResponse(f"not HTTP/1.1: {error}") from None
        # The parser calls no method for a line before its end, however long it is.
        if (self._is_head or self._is_trailer) and self._head_fed > self._limits.head:
            raise BadResponse(f"a head of more than {self._limits.head} bytes")

    def end(self) -> Response | None:
        """End a body without a length, as the connection has ended.

        :return: the response, if it is complete now.
        """
        if self.response is None and not self._is_head and not self._has_length:
            self._complete()
        return self.response

    # Called by the parser:

    def on_message_begin(self) -> None:
        if self.response is not None:
            raise BadResponse("more than one response")
        self._is_head = True
        self._head_fed = 0
        self._has_length = False
        self._status = 0
        self._version = _VERSIONS["1.1"]
        self._phrase = b""
        self._lines: list[tuple[bytes, bytes]] = []
        self._size = self._body_size = 0
        self._is_trailer = False
        self._body: list[bytes] = []

    def on_status(self, part: bytes) -> None:
        self._phrase += part

    def on_header(self, name: bytes, value: bytes) -> None:
        self._size += len(name) + len(value)
        if self._size > self._limits.head:
            raise BadResponse(f"a head of more than {self._limits.head} bytes")
        if self._is_head:
            name = name.lower()
            self._lines.append((name, value))
            self._has_length |= name in {b"content-length", b"transfer-encoding"}

    def on_headers_complete(self) -> None:
        version = self._parser.get_http_version()
        self._status = self._parser.get_status_code()
        if version not in _VERSIONS or self._status < 100:
            raise BadResponse("not HTTP/1")
        self._version = _VERSIONS[version]
        self._is_head = False
        self._head_fed = self._size = 0

    def on_chunk_header(self) -> None:
        self._is_trailer = True

    def on_body(self, part: bytes) -> None:
        self._body_size += len(part)
        if self._body_size > self._limits.body:
            raise BodyTooBig(f"a body of more than {self._limits.body} bytes")
        self._body.append(part)
        self._is_trailer = False
        self._head_fed = 0

    def on_message_complete(self) -> None:
        if self._status < 200:
            self._interim += 1
            if self._interim > self._limits.interim:
                raise BadResponse("too many interim responses")
            self._is_head = True
            return
        self._complete()
        has_end = self._has_length or self._status in _BODILESS
        is_current = self._version == (b"HTTP", 1, 1)
        self.is_reusable = has_end and is_current and self._parser.should_keep_alive()

    def head(self) -> Response | None:
        """Return the response without its body, if its head was received; else None."""
        if self._is_head or self._status < 200:
            return None
        return Response(self._status, self._phrase, self._version, b"", self._lines)

    def _complete(self) -> None:
        self.response = Response(
            code=self._status,
            phrase=self._phrase,
            version=self._version,
            body=b"".join(self._body),
            lines=self._lines,
        )
