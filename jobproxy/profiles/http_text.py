"""HTTP messages as text files: a first line, headers, an empty line, the body."""

import re

from attrs import frozen

from jobproxy.profiles.messages import Message

_REQUEST = re.compile(r"([A-Z]+) (\S+)(?: HTTP/[0-9.]+)?")
_END = re.compile(rb"\r?\n\r?\n")
_RESPONSE = re.compile(r"(?:HTTP/[0-9.]+ )?([1-5][0-9][0-9])(?: .*)?")


class BadText(ValueError):
    """A file is no HTTP message; the message says why."""


@frozen
class RequestText:
    """A request in a file.

    :param target: its path with its query.
    """

    message: Message
    target: str


def parse_request(data: bytes) -> RequestText:
    """Return the request in a file: ``POST /v1/predictions``, headers, an empty line, the body.

    :raises BadText: if it is none.
    """
    first, headers, body = _split(data)
    match = _REQUEST.fullmatch(first)
    if match is None:
        raise BadText(f"must begin with a line like POST /path, not {first!r}")
    query = match[2].partition("?")[2]
    return RequestText(Message(body, headers, query, {}, match[1]), match[2])


def parse_response(data: bytes) -> Message:
    """Return the response in a file: ``201 Created``, headers, an empty line, the body.

    :raises BadText: if it is none.
    """
    first, headers, body = _split(data)
    match = _RESPONSE.fullmatch(first)
    if match is None:
        raise BadText(f"must begin with a line like 200 OK, not {first!r}")
    return Message(body, headers, status=int(match[1]))


def _split(data: bytes) -> tuple[str, dict[bytes, bytes], bytes]:
    # Editors write either end of a line; the body stays as it is, but for the end of its last line.
    head, *rest = _END.split(data, maxsplit=1)
    body = rest[0] if rest else b""
    lines = head.decode("latin-1").splitlines()
    headers = {}
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        if not colon:
            raise BadText(f"has a line {line!r} that is no header; an empty line ends them")
        headers[name.strip().lower().encode()] = value.strip().encode("latin-1")
    return (lines[0].strip() if lines else ""), headers, body.removesuffix(b"\n")
