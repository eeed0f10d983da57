"""The part of HTTP/1.1 that the load needs: messages with a Content-Length."""

import re

_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)[ \t]*\r\n", re.IGNORECASE)
_CLOSE = re.compile(rb"\r\nconnection:[ \t]*close[ \t]*\r\n", re.IGNORECASE)


class NotUnderstood(Exception):
    """A message that the load cannot parse, such as a chunked one."""


class Messages:
    """Parses the bytes of a connection into messages."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[tuple[bytes, bytes]]:
        """Return the head and the body of each message that is complete now.

        :raises NotUnderstood: if one has no Content-Length.
        """
        if self._rest:
            data = self._rest + data
        found = []
        while (end := data.find(b"\r\n\r\n")) >= 0:
            head = data[: end + 2]
            length = _LENGTH.search(head)
            if length is None:
                raise NotUnderstood(f"no Content-Length in {head[:200]!r}")
            whole = end + 4 + int(length[1])
            if len(data) < whole:
                break
            found.append((head, data[end + 4 : whole]))
            data = data[whole:]
        self._rest = data
        return found


def closes_connection(head: bytes) -> bool:
    """Return whether the connection is closed after this message or its response."""
    return _CLOSE.search(head) is not None


def is_success(head: bytes) -> bool:
    """Return whether this is a response with status 200."""
    return head.startswith(b"HTTP/1.1 200 ")


def make_post(host: bytes, path: bytes, body: bytes, headers: bytes = b"") -> bytes:
    """Return a request with a JSON body.

    :param headers: more header lines, each with its line end.
    """
    return (
        b"POST %b HTTP/1.1\r\nHost: %b\r\nContent-Type: application/json\r\n%b"
        b"Content-Length: %d\r\n\r\n%b" % (path, host, headers, len(body), body)
    )


def make_response(body: bytes, *, close: bool) -> bytes:
    """Return a response with status 200 and a JSON body.

    :param close: whether it has ``Connection: close``.
    """
    return (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n%bContent-Length: %d\r\n\r\n%b"
        % (
            b"Connection: close\r\n" if close else b"",
            len(body),
            body,
        )
    )
