"""What a request line and a Host may be; and lines with a method that llhttp does not know.

llhttp stops at the first letter that no method has, and says neither where that is nor what the
rest of the line is. An unknown method is not a bad request, though (RFC 9110, section 15.6.2).
"""

import re

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from jobproxy.http1.errors import malformed, not_implemented

#: A minor version above ours is treated as ours (RFC 9110, section 2.5).
VERSIONS = {f"1.{minor}": b"HTTP/1.1" for minor in range(1, 10)} | {"1.0": b"HTTP/1.0"}
#: RFC 9112, section 3.2; an interface may follow an IPv6 address (RFC 6874).
HOST = re.compile(rb"(?:\[[\w.:~%!$&'()*+,;=-]+\]|[\w.~%!$&'()*+,;=-]*)(?::[0-9]*)?", re.ASCII)
_LINE = re.compile(rb"[\w!#$%&'*+.^`|~-]+ [!-~]+ HTTP/1\.[0-9]\r?", re.ASCII)
#: As much of one as may have come.
_BEGIN = re.compile(rb"[\w!#$%&'*+.^`|~-]+(?: [!-~]*(?: [!-~]*\r?)?)?", re.ASCII)


class _Requests:
    """Counts the requests that have begun."""

    def __init__(self) -> None:
        self.begun = 0

    def on_message_begin(self) -> None:
        self.begun += 1


def find_refused(data: bytes, most: int) -> bytes:
    """Return what begins with the line at which llhttp stops; all of it if that is not found.

    :param data: begins with a request.
    :param most: bytes that are looked at.
    """
    requests = _Requests()
    parser = HttpRequestParser(requests)
    parser.set_dangerous_leniencies(lenient_version=True)
    begin = begun = 0
    for place in range(min(len(data), most)):
        try:
            parser.feed_data(data[place : place + 1])
        except HttpParserUpgrade:
            break
        except HttpParserError:
            return data[place if requests.begun != begun else begin :]
        if requests.begun != begun:
            begin, begun = place, requests.begun
    return data


def check_refused(line: bytes) -> None:
    """Raise the error of a line at which llhttp stops, unless more of it has to come.

    :raises BadRequest: 501 if only the method is wrong, else 400.
    """
    line, end, _ = line.partition(b"\n")
    if end and _LINE.fullmatch(line):
        raise not_implemented()
    if end or not _BEGIN.fullmatch(line):
        raise malformed("This is not a request of HTTP/1.1.")
