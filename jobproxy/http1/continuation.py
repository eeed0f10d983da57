"""The body of a request whose head offers another protocol.

The client may offer to speak another protocol after this request, such as HTTP/2: Java's HttpClient
does with every first request. A server may ignore that (RFC 9110, section 7.8). llhttp stops behind
the head of such a request, so that a second parser has to parse its body.
"""

from collections.abc import Sequence
from typing import Protocol

from httptools import HttpRequestParser

_FRAMING = frozenset({b"content-length", b"transfer-encoding"})


class Callbacks(Protocol):
    """What a parser calls."""

    def on_message_begin(self) -> None: ...
    def on_url(self, part: bytes) -> None: ...
    def on_header(self, name: bytes, value: bytes) -> None: ...
    def on_headers_complete(self) -> None: ...
    def on_chunk_header(self) -> None: ...
    def on_body(self, part: bytes) -> None: ...
    def on_message_complete(self) -> None: ...


class Continuation:
    """Passes on the calls of a parser, but for those about the first head."""

    def __init__(self, target: Callbacks) -> None:
        self._target = target
        self._is_past = False
        self.on_chunk_header = target.on_chunk_header
        self.on_body = target.on_body
        self.on_message_complete = target.on_message_complete

    def on_message_begin(self) -> None:
        if self._is_past:
            self._target.on_message_begin()

    def on_url(self, part: bytes) -> None:
        if self._is_past:
            self._target.on_url(part)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._is_past:
            self._target.on_header(name, value)

    def on_headers_complete(self) -> None:
        if self._is_past:
            self._target.on_headers_complete()
        self._is_past = True


def make_parser(target: Callbacks) -> HttpRequestParser:
    """Return a parser that takes any minor version; its target judges them."""
    parser = HttpRequestParser(target)
    parser.set_dangerous_leniencies(lenient_version=True)
    return parser


def parse_on(
    target: Callbacks, headers: Sequence[tuple[bytes, bytes]], *, keep_alive: bool
) -> HttpRequestParser:
    """Return a parser that goes on behind a head.

    :param headers: of that head.
    :param keep_alive: whether that head allows another request.
    """
    parser = make_parser(Continuation(target))
    lines = [b"%b: %b\r\n" % line for line in headers if line[0] in _FRAMING]
    if not keep_alive:
        lines.append(b"Connection: close\r\n")
    parser.feed_data(b"POST / HTTP/1.1\r\nHost: x\r\n%b\r\n" % b"".join(lines))
    return parser
