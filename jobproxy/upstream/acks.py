"""What the job server's response to a start request means for the job."""

from collections.abc import Callable
from datetime import timezone
from email.utils import parsedate_to_datetime
from math import ceil

from twisted.web.iweb import IResponse

from jobproxy.upstream.outcomes import AmbiguousStart, Health, NotStarted
from jobproxy.wire.jobs import Report, parse_report
from jobproxy.wire.problems import Kind, Problem, ProblemError

#: Bytes of an ack that are read.
MAX_ACK = 65_536
#: The longest ``Retry-After`` in seconds; longer ones are shortened to it.
MAX_RETRY_AFTER = 3_600

_REJECTIONS = frozenset({400, 404, 409, 410, 422})
_NOT_PERMITTED = frozenset({401, 403})
_BUSY = frozenset({429, 503})


def is_refusal(status: int) -> bool:
    """Whether a status alone says that the job was not started."""
    return 300 <= status < 400 or status in (*_REJECTIONS, *_NOT_PERMITTED, *_BUSY)


def read_ack(response: IResponse, body: bytes, now: Callable[[], float]) -> Report:
    """Return the ack in a response.

    :param now: returns Unix time in seconds, for a ``Retry-After`` with a date.
    :raises AmbiguousStart: if the job may have been started.
    :raises NotStarted: if the job server refused the start.
    """
    status = response.code
    if 200 <= status < 300:
        try:
            return parse_report(body)
        except ProblemError as error:
            reason = f"status {status}, no usable ack"
            raise AmbiguousStart(reason, "invalid", Health.ALIVE) from error
    if status in _REJECTIONS:
        raise _refused(
            Kind.UPSTREAM_REJECTED,
            "The job server did not accept the job; see upstreamBody.",
            status,
            body,
        )
    if status in _NOT_PERMITTED:
        raise _refused(
            Kind.UPSTREAM_AUTH,
            "The job server does not permit this proxy to start jobs; inform the proxy's operator.",
            status,
        )
    if 300 <= status < 400:
        raise _refused(
            Kind.UPSTREAM_REDIRECT,
            "The job server has moved from the URL that the proxy is configured with.",
            status,
        )
    if status in _BUSY:
        problem = Problem(
            Kind.UPSTREAM_BUSY,
            "The job server accepts no jobs at the moment; the job was not started.",
            upstream_status=status,
            retry_after=_read_retry_after(response, now),
        )
        raise NotStarted(problem, "busy", Health.ALIVE, may_retry=True)
    health = Health.ALIVE if status < 500 else Health.DEAD
    raise AmbiguousStart(f"status {status}", "error", health)


def _refused(kind: Kind, detail: str, status: int, body: bytes = b"") -> NotStarted:
    problem = Problem(kind, detail, upstream_status=status, upstream_body=body)
    return NotStarted(problem, kind.slug.removeprefix("upstream-"), Health.ALIVE)


def _read_retry_after(response: IResponse, now: Callable[[], float]) -> int | None:
    """Return ``Retry-After`` in seconds; it can be a date (RFC 9110, section 10.2.3)."""
    values = response.headers.getRawHeaders(b"retry-after") or [b""]
    text = values[0].decode("latin-1")
    if text.isascii() and text.isdigit():
        return min(int(text[:9]), MAX_RETRY_AFTER)
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    seconds = date.replace(tzinfo=timezone.utc).timestamp() - now()
    return max(0, min(ceil(seconds), MAX_RETRY_AFTER))
