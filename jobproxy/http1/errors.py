"""Requests that are refused before they reach a route, and why."""

from typing import Literal

from attrs import frozen

#: Why a request is refused before it reaches a route.
RequestFault = Literal[
    "malformed-request",
    "not-implemented",
    "version-not-supported",
    "body-too-large",
    "expectation-failed",
    "headers-too-large",
    "overloaded",
    "request-timeout",
]
#: Why a connection is closed because of its client: it sends nothing, does not read its response,
#: is one too many, or one too many of its address, or has no complete request when the server
#: stops.
ConnectionFault = Literal["silent", "stalled", "crowded", "address", "drained"]


@frozen
class HttpError:
    """Why a request is refused before it reaches a route.

    :param status: of the response.
    :param reason: for the counters.
    :param detail: one sentence for a person, which says what to change if that is known.
    :param retry_after: seconds after which to try again; :data:`None`: that would not help.
    :param origin: of the web page that sent it; :data:`None`: there is none, or it was not read.
    """

    status: int
    reason: RequestFault
    detail: str
    retry_after: int | None = None
    origin: bytes | None = None


class BadRequest(Exception):
    """The client sent bytes that are not HTTP/1.1, or that exceed a limit."""

    def __init__(self, error: HttpError) -> None:
        super().__init__(error.detail)
        self.error = error


def malformed(detail: str) -> BadRequest:
    """Return the error for bytes that are not HTTP/1.1, or that parsers may read differently."""
    return BadRequest(HttpError(400, "malformed-request", detail))


def not_implemented() -> BadRequest:
    """Return the error for a method that nobody has defined (RFC 9110, section 15.6.2)."""
    detail = "This method is not known here; methods are written in upper case."
    return BadRequest(HttpError(501, "not-implemented", detail))


def version_not_supported(version: str) -> BadRequest:
    """Return the error for another version of HTTP (RFC 9110, section 15.6.6)."""
    if version < "1":
        return malformed("Use HTTP/1.1 here.")
    return BadRequest(HttpError(505, "version-not-supported", "Use HTTP/1.1 here."))


def body_too_large(detail: str) -> BadRequest:
    """Return the error for a body over its limit."""
    return BadRequest(HttpError(413, "body-too-large", detail))


def expectation_failed(detail: str) -> BadRequest:
    """Return the error for an ``Expect`` other than ``100-continue`` (RFC 9110, 10.1.1)."""
    return BadRequest(HttpError(417, "expectation-failed", detail))


def headers_too_large(detail: str) -> BadRequest:
    """Return the error for a head or trailers over their limits (RFC 6585, section 5)."""
    return BadRequest(HttpError(431, "headers-too-large", detail))


def overloaded(detail: str) -> BadRequest:
    """Return the error for a request for which there is no room at the moment."""
    return BadRequest(HttpError(503, "overloaded", detail, retry_after=1))


def request_timeout(seconds: float) -> HttpError:
    """Return the error for a request that did not arrive in time."""
    detail = f"Send a request within {seconds:g} seconds."
    return HttpError(408, "request-timeout", detail)
