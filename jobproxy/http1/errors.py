"""What is no acceptable request, and why."""

from attrs import frozen


@frozen
class HttpError:
    """Why a request is refused before it is one.

    :param status: of the response.
    :param reason: one word for it, for counters.
    :param detail: one sentence for a person, which says what to change where that is known.
    """

    status: int
    reason: str
    detail: str


class BadRequest(Exception):
    """What the client sent is not HTTP/1.1, or more of it than is allowed."""

    def __init__(self, error: HttpError) -> None:
        super().__init__(error.detail)
        self.error = error


def malformed(detail: str) -> BadRequest:
    """Return the error for bytes that are not HTTP/1.1, or could be read in two ways."""
    return BadRequest(HttpError(400, "malformed-request", detail))


def body_too_large(detail: str) -> BadRequest:
    """Return the error for a body over its bound."""
    return BadRequest(HttpError(413, "body-too-large", detail))


def expectation_failed(detail: str) -> BadRequest:
    """Return the error for an ``Expect`` other than ``100-continue`` (RFC 9110, 10.1.1)."""
    return BadRequest(HttpError(417, "expectation-failed", detail))


def headers_too_large(detail: str) -> BadRequest:
    """Return the error for a head or trailers over their bounds (RFC 6585, section 5)."""
    return BadRequest(HttpError(431, "headers-too-large", detail))


def request_timeout(seconds: float) -> HttpError:
    """Return the error for a request that did not arrive in time."""
    detail = f"Send a request within {seconds:g} seconds."
    return HttpError(408, "request-timeout", detail)
