"""What the job server's response to a start request means for the job."""

from collections.abc import Callable, Mapping
from datetime import timezone
from email.utils import parsedate_to_datetime
from math import ceil
from typing import cast

from twisted.web.iweb import IResponse

from jobproxy.http1.response import Response
from jobproxy.upstream.start_errors import AmbiguousStart, Health, NotStarted, StartResult
from jobproxy.wire.jobs import AnyJob
from jobproxy.wire.problems import Kind, Problem
from jobproxy.wire.refusals import REFUSALS
from jobproxy.wire.reports import Report

#: The longest ``Retry-After`` in seconds; longer ones are shortened to it.
LONGEST_PAUSE = 3_600

_DETAILS = {
    Kind.UPSTREAM_REDIRECT: (
        "The job server has moved from the URL that the proxy is configured with."
    ),
    Kind.UPSTREAM_REJECTED: "The job server did not accept the job; see upstreamBody.",
    Kind.UPSTREAM_AUTH: (
        "The job server does not permit this proxy to start jobs; inform the proxy's operator."
    ),
    Kind.UPSTREAM_BUSY: "The job server accepts no jobs at the moment; the job was not started.",
}
_RESULTS: dict[Kind, StartResult] = {
    Kind.UPSTREAM_REDIRECT: "redirect",
    Kind.UPSTREAM_REJECTED: "rejected",
    Kind.UPSTREAM_AUTH: "auth",
    Kind.UPSTREAM_BUSY: "busy",
}


def read_ack(
    job: AnyJob,
    response: IResponse,
    body: bytes,
    now: Callable[[], float],
    refusals: Mapping[int, Kind] = REFUSALS,
) -> Report:
    """Return the ack in a response.

    :param job: that was to be started.
    :param now: returns Unix time in seconds, for a ``Retry-After`` with a date.
    :param refusals: the problem of each refusal, by its status.
    :return: any success confirms the start, whatever its body is, unless the job's profile says
        otherwise.
    :raises AmbiguousStart: if the job may have been started.
    :raises NotStarted: if the job server refused the start.
    """
    status = response.code
    if status in refusals:
        raise _refused(refusals[status], response, body, now)
    if not 200 <= status < 300:
        health = Health.ALIVE if status < 500 else Health.ERROR
        raise AmbiguousStart(f"status {status}", "error", health)
    ack = job.read_ack(status, cast(Response, response), body)
    if ack is None:
        raise _refused(Kind.UPSTREAM_REJECTED, response, body, now)
    return ack


def _refused(kind: Kind, response: IResponse, body: bytes, now: Callable[[], float]) -> NotStarted:
    is_busy = kind is Kind.UPSTREAM_BUSY
    problem = Problem(
        kind,
        _DETAILS[kind],
        upstream_status=response.code,
        upstream_body=body if kind is Kind.UPSTREAM_REJECTED else b"",
        retry_after=read_retry_after(response, now) if is_busy else None,
    )
    return NotStarted(problem, _RESULTS[kind], Health.ALIVE, may_retry=is_busy)


def read_retry_after(response: IResponse, now: Callable[[], float]) -> int | None:
    """Return ``Retry-After`` in seconds; it can be a date (RFC 9110, section 10.2.3)."""
    values = response.headers.getRawHeaders(b"retry-after") or [b""]
    text = values[0].decode("latin-1")
    if text.isascii() and text.isdigit():
        return min(int(text[:9]), LONGEST_PAUSE)
    try:
        date = parsedate_to_datetime(text[:64])
    except (ValueError, OverflowError):
        return None
    seconds = date.replace(tzinfo=timezone.utc).timestamp() - now()
    return max(0, min(ceil(seconds), LONGEST_PAUSE))
