"""Parses requests strictly and within limits.

A request that two parsers could read differently is refused, because a proxy in front may have read
it the other way (request smuggling, RFC 9112, section 11.2). llhttp is strict; this module adds the
checks that it lacks.
"""

from httptools import (
    HttpParserCallbackError,
    HttpParserError,
    HttpParserInvalidMethodError,
    HttpParserUpgrade,
)

from jobproxy.http1.body_budget import BodyBudget, FindBudget
from jobproxy.http1.continuation import make_parser, parse_on
from jobproxy.http1.errors import (
    BadRequest,
    body_too_large,
    expectation_failed,
    headers_too_large,
    malformed,
    not_implemented,
    overloaded,
    version_not_supported,
)
from jobproxy.http1.limits import ServerLimits
from jobproxy.http1.parsed_request import ParsedRequest
from jobproxy.http1.request_line import HOST, VERSIONS, check_refused, find_refused

#: The usual spellings of frequent names, so that all requests share one object for each name.
_NAMES = {
    spelling: name
    for name in (
        b"accept",
        b"accept-encoding",
        b"connection",
        b"content-length",
        b"content-type",
        b"host",
        b"user-agent",
        b"x-request-id",
    )
    for spelling in (name, name.title())
}
MAX_DIGITS = 20

_BLANKS = (b" ", b"\t")
#: Heads that are parsed at once, at most: a request takes much more memory than its bytes do.
MAX_HEADS = 128
#: With what the parser stops.
_STOPS = (HttpParserError, HttpParserUpgrade)
#: What llhttp says of a method that another protocol has.
_OTHER_METHOD = "Invalid method for HTTP"


def split_heads(data: bytes) -> tuple[bytes, bytes]:
    """Return what has at most :data:`MAX_HEADS` ends of heads, and the rest."""
    end = 0
    for _ in range(MAX_HEADS):
        found = data.find(b"\r\n\r\n", end)
        if found < 0:
            return data, b""
        end = found + 4
    return data[:end], data[end:]


class RequestParser:
    """Parses the requests of one connection.

    :ivar is_complete: whether the bytes that were parsed end with a request.
    :ivar rest: what is parsed by the next calls of :meth:`feed`, with more bytes or without.
    :ivar wants_continue: whether the client waits for ``100 Continue`` before it sends the body
        (RFC 9110, section 10.1.1).
    """

    def __init__(self, limits: ServerLimits, find_budget: FindBudget) -> None:
        self._limits = limits
        self._find_budget = find_budget
        # The parser refers to this object; close() breaks the cycle.
        self._parser = make_parser(self)
        #: All bytes since the last request was complete; None: there were too many to be kept.
        self._seen: bytes | None = b""
        #: The line at which the parser stopped, and what follows it.
        self._refused = b""
        self._requests: list[ParsedRequest] = []
        self.rest = b""
        self.is_complete = True
        self.wants_continue = False
        # The message so far, as on_message_begin() sets it again; to call that here would cost a
        # call for each request.
        self._is_head = True
        self._unparsed = 0
        self._head_size = 0
        self._method = b""
        self._target = b""
        self._version = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._header_count = 0
        self._body: list[bytes] = []
        self._body_size = 0
        self._hosts = 0
        self._received = 0
        self._is_large = self._is_dropped = self._has_offer = self._has_body = False
        #: The budget in which the body counts, if it is large and of use; and how many bytes do.
        self._budget: BodyBudget | None = None
        self._counted = 0

    def close(self) -> None:
        """Free the parser; :meth:`feed` must not be called any more."""
        self._release_budget()
        del self._parser

    def _release_budget(self) -> None:
        if self._budget is not None:
            self._budget.size -= self._counted
            self._budget, self._counted = None, 0

    def feed(self, data: bytes) -> None:
        """Parse more bytes; but not all, if they have more than :data:`MAX_HEADS` heads.

        :raises BadRequest: if this is no request, or exceeds a limit; later bytes of the connection
            cannot be parsed.
        """
        size = len(data)
        if self.rest or size > self._limits.ahead:
            data, self.rest = split_heads(self.rest + data)
            size = len(data)
        self._unparsed += size
        self._received += size
        if self._refused:
            self._judge_line(data)
            return
        stop: Exception | None = None
        try:
            self._parser.feed_data(data)
        except _STOPS as error:
            # It is judged outside: what is raised here would have another context.
            stop = error
        if stop is not None and not self._go_on(stop, data):
            return
        if self.is_complete:
            self._seen = b""
        elif self._seen is not None:
            seen = self._seen + data
            self._seen = seen if len(seen) <= self._limits.ahead else None
        # The parser calls no method for a line before its end, however long it is.
        if self._unparsed > self._limits.head:
            raise self._refuse_head()
        if self._is_large and self._received > self._limits.overhead + 8 * self._body_size:
            raise malformed("The chunks of a body must not consist of anything but the body.")

    def _go_on(self, stop: Exception, data: bytes) -> bool:
        """Parse what follows offers to speak another protocol; return whether it is a request.

        :param stop: with which the parser has stopped.
        """
        left = data
        while isinstance(stop, HttpParserUpgrade):
            left = left[stop.args[0] :]
            self._ignore_offer()
            try:
                self._parser.feed_data(left)
            except _STOPS as another:
                stop = another
            else:
                return True
        if isinstance(stop, HttpParserCallbackError):
            bad = stop.__context__
            raise (bad if isinstance(bad, BadRequest) else stop) from None
        assert isinstance(stop, HttpParserError)
        self._judge_error(stop, data)
        return False

    def _judge_error(self, error: HttpParserError, data: bytes) -> None:
        """Refuse bytes that are no request, or whose method llhttp does not know."""
        if str(error).startswith(_OTHER_METHOD):
            raise not_implemented()
        if self._seen is None or not isinstance(error, HttpParserInvalidMethodError):
            raise malformed(f"This is not a request of HTTP/1.1: {error}.") from None
        self._refused = find_refused(self._seen + data, self._limits.head)
        self._judge_line(b"")

    def _judge_line(self, data: bytes) -> None:
        """Refuse a request whose method llhttp does not know, once all of its line is there."""
        self.is_complete = False
        self._refused += data
        check_refused(self._refused)
        if len(self._refused) > self._limits.head:
            raise self._refuse_head()

    def _ignore_offer(self) -> None:
        """Parse what follows an offer to speak another protocol as HTTP/1.1."""
        self._has_offer = False
        if self.is_complete:
            self._parser = make_parser(self)
        else:
            keep_alive = self._parser.should_keep_alive()
            self._parser = parse_on(self, self._headers, keep_alive=keep_alive)

    @property
    def origin(self) -> bytes | None:
        """The ``Origin`` of the request that is arriving, if that was read."""
        return dict(self._headers).get(b"origin")

    def take_requests(self) -> list[ParsedRequest]:
        """Return the complete requests that no earlier call has returned."""
        requests, self._requests = self._requests, []
        return requests

    def grant_continue(self) -> bool:
        """Return whether the client waits for ``100 Continue``; the caller must send it then."""
        wanted, self.wants_continue = self.wants_continue, False
        return wanted

    # Called by the parser:

    def on_message_begin(self) -> None:
        self.is_complete = False
        self.wants_continue = False
        self._is_head = True
        self._unparsed = 0
        self._head_size = 0
        self._method = b""
        self._target = b""
        self._version = b""
        self._headers = []
        self._header_count = 0
        self._body = []
        self._body_size = 0
        self._hosts = 0
        self._received = 0
        self._is_large = self._is_dropped = self._has_offer = self._has_body = False

    def on_url(self, part: bytes) -> None:
        self._target += part
        self._head_size += len(part)
        if self._head_size > self._limits.head:
            raise self._refuse_head()

    def on_header(self, name: bytes, value: bytes) -> None:
        self._unparsed = 0
        if value[-1:] in _BLANKS:
            value = value.rstrip(b" \t")
        size = len(name) + len(value)
        self._head_size += size
        if self._head_size > self._limits.head:
            raise self._refuse_head()
        if not self._is_head:
            # A trailer must not be used as a header (RFC 9110, section 6.5.1), and none is needed.
            return
        self._header_count += 1
        if size > self._limits.header_line or self._header_count > self._limits.header_count:
            raise self._refuse_head()
        self._headers.append((_NAMES[name] if name in _NAMES else name.lower(), value))

    def on_headers_complete(self) -> None:
        self._is_head = False
        self._unparsed = 0
        self._has_offer = self._parser.should_upgrade()
        if self._has_offer and self._parser.get_method() == b"CONNECT":
            raise malformed("CONNECT is not served; leave it out.")
        found = self._parser.get_http_version()
        if found not in VERSIONS:
            raise version_not_supported(found)
        self._version = version = VERSIONS[found]
        self._method = self._parser.get_method()
        for name, value in self._headers:
            if name in _CHECKS:
                _CHECKS[name](self, value)
        if self._hosts > 1 or (self._hosts == 0 and version == b"HTTP/1.1"):
            raise malformed("A request has exactly one Host header.")
        if self._is_large:
            self._budget = self._find_budget(self._method, self._target)
            self._is_dropped = self._budget is None

    def check_host(self, value: bytes) -> None:
        self._hosts += 1
        if not HOST.fullmatch(value):
            raise malformed("The Host header must be a host name or address, and a port if any.")

    def check_length(self, value: bytes) -> None:
        if len(value) > MAX_DIGITS:
            raise malformed(f"A Content-Length has at most {MAX_DIGITS} digits.")
        length = int(value)
        self._has_body = length > 0
        if length > self._limits.body:
            raise self._refuse_body()
        self._is_large = length > self._limits.ahead

    def check_coding(self, value: bytes) -> None:
        if value.lower() != b"chunked" or self._version == b"HTTP/1.0":
            raise malformed("The only Transfer-Encoding taken is chunked, of HTTP/1.1.")
        self._has_body = self._is_large = True

    def check_expectation(self, value: bytes) -> None:
        if value.lower() != b"100-continue":
            raise expectation_failed("The only expectation understood is 100-continue.")
        self.wants_continue = self._version == b"HTTP/1.1"

    def on_chunk_header(self) -> None:
        self._unparsed = 0

    def on_body(self, part: bytes) -> None:
        self._unparsed = 0
        self.wants_continue = False
        self._body_size += len(part)
        if self._body_size > self._limits.body:
            raise self._refuse_body()
        if self._is_dropped:
            return
        self._body.append(part)
        if self._budget is not None:
            self._counted += len(part)
            self._budget.size += len(part)
            if self._budget.is_exceeded:
                raise overloaded("Too many large bodies arrive at the same time.")

    def on_message_complete(self) -> None:
        self._unparsed = 0
        if self._has_offer and self._has_body:
            # The parser stops here, but the body follows.
            return
        self.is_complete = True
        self.wants_continue = False
        if self._budget is not None:
            self._release_budget()
        self._requests.append(
            ParsedRequest(
                self._method,
                self._target,
                self._version,
                self._headers,
                self._body[0] if len(self._body) == 1 else b"".join(self._body),
                self._version == b"HTTP/1.1" and self._parser.should_keep_alive(),
            )
        )

    def _refuse_head(self) -> BadRequest:
        limits = self._limits
        return headers_too_large(
            f"A request may have {limits.header_count} header lines of at most "
            f"{limits.header_line} bytes, and {limits.head} bytes of them in all."
        )

    def _refuse_body(self) -> BadRequest:
        return body_too_large(f"A body may have at most {self._limits.body} bytes.")


_CHECKS = {
    b"host": RequestParser.check_host,
    b"content-length": RequestParser.check_length,
    b"transfer-encoding": RequestParser.check_coding,
    b"expect": RequestParser.check_expectation,
}
