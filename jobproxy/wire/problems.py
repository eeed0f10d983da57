"""The errors of jobproxy, each a small class, and the one table of their HTTP statuses.

Every error that a client or the job server can be told of is a :class:`Problem`; on the wire it is
an RFC 9457 problem document.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from attrs import frozen

Started = Literal["no", "unknown", "yes"]


@frozen
class FieldError:
    """One thing that is wrong with a request.

    :param pointer: where, as a JSON Pointer (RFC 6901) into the request's body.
    :param detail: what to change.
    """

    pointer: str
    detail: str


class Problem(Exception):
    """Something that its receiver has to be told; subclasses give it a name and a title.

    :param detail: one sentence for a person, which says what to change where that is known.
    :param started: whether the job was started on the job server: all that a caller needs to know
        to decide if sending it again is safe.
    :param retry_after: seconds after which another try makes sense, if one does.
    :param errors: the single faults of an invalid request.
    """

    slug: ClassVar[str]
    title: ClassVar[str]

    def __init__(
        self,
        detail: str,
        *,
        started: Started = "no",
        retry_after: int | None = None,
        errors: Sequence[FieldError] = (),
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.started = started
        self.retry_after = retry_after
        self.errors = errors
        self.job: str | None = None
        self.upstream_id: str | None = None

    def members(self) -> dict[str, Any]:
        """Return what this kind of problem adds to its document, by JSON member name."""
        return {}

    def forget_origin(self) -> None:
        """Let go of the frames that it came from, with all that they hold."""
        self.__traceback__ = self.__cause__ = self.__context__ = None


class InvalidJson(Problem):
    slug = "invalid-json"
    title = "The body is not acceptable JSON"


class InvalidRequest(Problem):
    slug = "invalid-request"
    title = "The request is not a valid job"


class CallbackNotAllowed(Problem):
    slug = "callback-not-allowed"
    title = "A callback of the client's own is not allowed"


class Malformed(Problem):
    slug = "malformed-request"
    title = "This is not HTTP/1.1"


class ExpectationFailed(Problem):
    slug = "expectation-failed"
    title = "The expectation cannot be met"


class RequestTimeout(Problem):
    slug = "request-timeout"
    title = "The request took too long to arrive"


class HeadersTooLarge(Problem):
    slug = "headers-too-large"
    title = "The headers are too large"


class NotFound(Problem):
    """A path that does not exist, or the callback path of a job that does not: the same answer."""

    slug = "not-found"
    title = "Nothing is served here"

    def __init__(self) -> None:
        super().__init__("There is nothing at this path.")


class Forbidden(Problem):
    slug = "forbidden"
    title = "Not for web pages"


class MethodNotAllowed(Problem):
    """
    :param allowed: the methods that the resource does serve, for the ``Allow`` header
        (RFC 9110, section 15.5.6).
    """

    slug = "method-not-allowed"
    title = "This method is not served here"

    def __init__(self, allowed: Sequence[str]) -> None:
        super().__init__(f"Use {' or '.join(allowed)} here.")
        self.allowed = allowed


class CallbackConflict(Problem):
    slug = "callback-conflict"
    title = "The callback contradicts what is known of the job"


class BodyTooLarge(Problem):
    slug = "body-too-large"
    title = "The body is too large"


class UnsupportedMediaType(Problem):
    slug = "unsupported-media-type"
    title = "The body is of a type that is not understood"


class IdempotencyKeyReused(Problem):
    slug = "idempotency-key-reused"
    title = "This Idempotency-Key belongs to another job"

    def __init__(self) -> None:
        super().__init__("Another job was sent with this key; send this one with a key of its own.")


class AccountQueueFull(Problem):
    slug = "account-queue-full"
    title = "Too many jobs of this account are waiting to be started"


class Overloaded(Problem):
    slug = "overloaded"
    title = "Too many clients are held"


class Draining(Problem):
    slug = "draining"
    title = "The proxy is stopping"


class StoreUnreachable(Problem):
    slug = "store-unreachable"
    title = "The store that the nodes share cannot be reached"

    def __init__(self) -> None:
        super().__init__(
            "The proxy cannot reach the other nodes, which may know of the job; try again.",
            started="unknown",
            retry_after=1,
        )


class UpstreamProblem(Problem):
    """A start that the job server answered with an error of its own.

    :param upstream_status: the HTTP status of that answer.
    :param upstream_body: its body, bytes of any encoding; at most the first KiB is told on.
    """

    def __init__(
        self,
        detail: str,
        *,
        upstream_status: int,
        upstream_body: bytes = b"",
        retry_after: int | None = None,
    ) -> None:
        super().__init__(detail, retry_after=retry_after)
        self.upstream_status = upstream_status
        self.upstream_body = upstream_body

    def redact(self, secret: str) -> None:
        """Have the quoted body not tell something that only the job server may know."""
        self.upstream_body = self.upstream_body.replace(secret.encode(), b"[hidden]")

    def members(self) -> dict[str, Any]:
        members: dict[str, Any] = {"upstreamStatus": self.upstream_status}
        if self.upstream_body:
            members["upstreamBody"] = self.upstream_body[:1024].decode("utf-8", "replace")
        return members


class UpstreamRejected(UpstreamProblem):
    slug = "upstream-rejected"
    title = "The job server rejected the job"


class UpstreamBusy(UpstreamProblem):
    slug = "upstream-busy"
    title = "The job server is busy"


class UpstreamAuth(UpstreamProblem):
    slug = "upstream-auth"
    title = "The job server refused the proxy's credentials"


class UpstreamRedirect(UpstreamProblem):
    slug = "upstream-redirect"
    title = "The job server sent a redirect, which is never followed"


class UpstreamUntrusted(Problem):
    slug = "upstream-untrusted"
    title = "The job server could not be trusted"


class UpstreamUnreachable(Problem):
    slug = "upstream-unreachable"
    title = "The job server could not be reached"


class WaitOver(Problem):
    slug = "wait-over"
    title = "The job did not end in time"


class StartUnknown(Problem):
    slug = "start-unknown"
    title = "It is not known whether the job was started"


class Internal(Problem):
    slug = "internal"
    title = "The proxy failed"


_STATUSES: Mapping[type[Problem], int] = {
    InvalidJson: 400,
    InvalidRequest: 400,
    CallbackNotAllowed: 400,
    Malformed: 400,
    Forbidden: 403,
    NotFound: 404,
    MethodNotAllowed: 405,
    RequestTimeout: 408,
    CallbackConflict: 409,
    BodyTooLarge: 413,
    UnsupportedMediaType: 415,
    ExpectationFailed: 417,
    IdempotencyKeyReused: 422,
    AccountQueueFull: 429,
    HeadersTooLarge: 431,
    Internal: 500,
    UpstreamAuth: 502,
    UpstreamRedirect: 502,
    UpstreamUntrusted: 502,
    Overloaded: 503,
    Draining: 503,
    StoreUnreachable: 503,
    UpstreamUnreachable: 503,
    WaitOver: 504,
    StartUnknown: 504,
}


def status_of(problem: Problem) -> int:
    """Return the HTTP status that tells of a problem."""
    if isinstance(problem, UpstreamRejected | UpstreamBusy):
        return problem.upstream_status
    return _STATUSES[type(problem)]


def job_path(job_id: str) -> str:
    """Return the path at which a job's result can be asked for."""
    return f"/jobs/{job_id}"


def describe(problem: Problem, request_id: str) -> bytes:
    """Return the problem document (RFC 9457) for a problem.

    :param request_id: the id of the request that it answers.
    :return: the document, ``application/problem+json`` in UTF-8.
    """
    document: dict[str, Any] = {
        "type": f"urn:jobproxy:problem:{problem.slug}",
        "title": problem.title,
        "status": status_of(problem),
        "detail": problem.detail,
        "started": problem.started,
        "requestId": request_id,
    }
    if problem.job is not None:
        document["job"] = problem.job
        document["instance"] = job_path(problem.job)
    if problem.upstream_id is not None:
        document["id"] = problem.upstream_id
    if problem.errors:
        document["errors"] = [
            {"pointer": error_.pointer, "detail": error_.detail} for error_ in problem.errors
        ]
    document.update(problem.members())
    return json.dumps(document, ensure_ascii=False).encode("utf-8", "replace")
