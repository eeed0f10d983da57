"""Web pages: which of them may start jobs, and what a browser needs to know for that."""

from collections.abc import Iterable

from attrs import frozen

from jobproxy.http1.request import Request
from jobproxy.wire.problems import Kind, Problem, ProblemError

#: Values of ``Sec-Fetch-Site`` of requests that no page of another site has made.
_OWN = frozenset({b"same-origin", b"none"})
_EXPOSED = (
    b"Content-Location, Idempotent-Replayed, Location, Preference-Applied, Retry-After, "
    b"Server-Timing, X-Request-Id"
)
_HEADERS = frozenset(
    {
        b"content-type",
        b"idempotency-key",
        b"prefer",
        b"traceparent",
        b"tracestate",
        b"x-request-id",
    }
)
#: Seconds for which a browser may remember what is allowed.
_MAX_AGE = b"600"


@frozen
class Origins:
    """The origins whose pages may start jobs (``--allow-origin``), and none else.

    A browser adds ``Origin`` to every POST (Fetch, section 3.2). It sends some of them, with any
    body, without asking first; only their response is hidden from the page. So the request itself
    has to be refused.
    """

    allowed: frozenset[bytes]

    def check(self, request: Request) -> None:
        """Set the headers with which a page may read the response, if its origin is allowed.

        :raises ProblemError: if it is the request of any other page.
        """
        origin, site = None, b"none"
        for name, value in request.headers:
            if name == b"origin":
                origin = value
            elif name == b"sec-fetch-site":
                site = value
        if origin is None and site in _OWN:
            return
        if origin not in self.allowed:
            detail = "A web page may not do this, unless --allow-origin has its origin."
            raise ProblemError(Problem(Kind.FORBIDDEN, detail))
        self.reveal(request, origin)

    def reveal(self, request: Request, origin: bytes | None) -> None:
        """Set the headers with which a page may read the response, if its origin is allowed."""
        for name, value in self.find_headers(origin):
            request.setHeader(name, value)

    def find_headers(self, origin: bytes | None) -> list[tuple[bytes, bytes]]:
        """Return the headers with which a page may read a response; none if it may not."""
        if origin is None or origin not in self.allowed:
            return []
        return [
            (b"Access-Control-Allow-Origin", origin),
            (b"Access-Control-Expose-Headers", _EXPOSED),
            (b"Vary", b"Origin"),
        ]

    def permit(
        self, request: Request, methods: Iterable[str], headers: Iterable[bytes] = ()
    ) -> bytes:
        """Respond to a browser that asks what a page may do (Fetch, section 4.8).

        :param methods: of the requests that are served here.
        :param headers: that matter here besides those that matter everywhere, in lower case.
        """
        self.check(request)
        request.setHeader(b"Access-Control-Allow-Methods", ", ".join(sorted(methods)).encode())
        names = _HEADERS | set(headers)
        request.setHeader(b"Access-Control-Allow-Headers", b", ".join(sorted(names)))
        request.setHeader(b"Access-Control-Max-Age", _MAX_AGE)
        request.setResponseCode(204)
        return b""


#: No web page may start jobs.
NO_PAGES = Origins(frozenset())
