"""HTTP/1.1 as far as the load needs it: whole messages with a Content-Length, cut and made."""

import re

_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)[ \t]*\r\n", re.IGNORECASE)
_CLOSE = re.compile(rb"\r\nconnection:[ \t]*close[ \t]*\r\n", re.IGNORECASE)


class NotUnderstood(Exception):
    """A message of a shape that the load does not know, such as one in chunks."""


class Messages:
    """Cuts what arrives on a connection into messages, however it was split into packets."""

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


def wants_close(head: bytes) -> bool:
    """Tell whether the connection ends with this message or its answer."""
    return _CLOSE.search(head) is not None


def is_success(head: bytes) -> bool:
    """Tell whether this is an answer with status 200."""
    return head.startswith(b"HTTP/1.1 200 ")


def make_post(host: bytes, path: bytes, body: bytes) -> bytes:
    """Return a request with a JSON body."""
    return (
        b"POST %b HTTP/1.1\r\nHost: %b\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (path, host, len(body), body)
    )


def make_answer(body: bytes, *, close: bool) -> bytes:
    """Return an answer of status 200 with a JSON body.

    :param close: whether it says that the connection ends with it.
    """
    return (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n%bContent-Length: %d\r\n\r\n%b"
        % (
            b"Connection: close\r\n" if close else b"",
            len(body),
            body,
        )
    )
