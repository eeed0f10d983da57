"""Writes the heads of responses, and whole responses to refused requests."""

from http import HTTPStatus

from jobproxy.http1.errors import HttpError
from jobproxy.http1.interfaces import ConnectionServer

_STATUS_LINES = {
    status.value: b"HTTP/1.1 %d %b\r\n" % (status.value, status.phrase.encode())
    for status in HTTPStatus
}


def write_head(status: int, headers: dict[bytes, bytes], length: int | None, fixed: bytes) -> bytes:
    """Return the head of a response.

    :param headers: whole lines by lower-case name, without ``Content-Length``.
    :param length: of the body in bytes, also if the body is not sent (RFC 9110, section 8.6); None
        if it is not known.
    :param fixed: whole lines that come first.
    """
    lines = b"".join(headers.values())
    size = b"" if length is None else b"Content-Length: %d\r\n" % length
    # A job server's status that nobody has registered is passed on too.
    line = _STATUS_LINES[status] if status in _STATUS_LINES else b"HTTP/1.1 %d Unknown\r\n" % status
    return b"%b%b%b%b\r\n" % (line, fixed, lines, size)


def write_error(error: HttpError, server: ConnectionServer) -> bytes:
    """Return the response to a request that is refused before it reaches a route, and count it."""
    request_id = server.make_id()
    server.observer.request_refused(error.status, error.reason, request_id)
    described, body = server.describe_error(error, request_id)
    headers = {name.lower(): b"%b: %b\r\n" % (name, value) for name, value in described} | {
        b"x-request-id": b"X-Request-Id: %b\r\n" % request_id,
        b"connection": b"Connection: close\r\n",
    }
    if error.retry_after is not None:
        headers[b"retry-after"] = b"Retry-After: %d\r\n" % error.retry_after
    return write_head(error.status, headers, len(body), server.fixed_headers()) + body
