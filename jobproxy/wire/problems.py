"""Problems: the errors that a client, the job server or the operator can get.

:class:`Kind` is the one table of them: slug, title and HTTP status. A :class:`Problem` is a frozen
value, so it can be the outcome of a job and be sent to any number of clients. It is raised in a
:class:`ProblemError`, a new one for each receiver, since an exception keeps the traceback of where
it was raised. On the wire a problem is a document of RFC 9457; see ``api/documents.py``.
"""

from enum import Enum
from typing import Literal

from attrs import field, frozen

Started = Literal["no", "unknown", "yes"]

#: Bytes of the job server's response that a problem document quotes at most.
MAX_QUOTE = 1_024


class Kind(Enum):
    """Every kind of problem.

    :ivar slug: its name, the last part of the document's ``type``.
    :ivar title: the document's ``title``.
    :ivar status: the HTTP status; 0: the status of the job server's response, and 422 if that is
        a success whose body says that the job was refused.
    """

    INVALID_JSON = ("invalid-json", "The body is not acceptable JSON", 400)
    INVALID_REQUEST = ("invalid-request", "The request is not a valid job", 400)
    CALLBACK_NOT_ALLOWED = (
        "callback-not-allowed",
        "A callback of the client's own is not allowed",
        400,
    )
    MALFORMED_REQUEST = ("malformed-request", "This is not HTTP/1.1", 400)
    UNSIGNED = ("unsigned", "The callback is not signed by the job server", 401)
    FORBIDDEN = ("forbidden", "Not for web pages", 403)
    #: A path that does not exist, or the callback path of a job that does not: the same response.
    NOT_FOUND = ("not-found", "Nothing is served here", 404)
    #: A job id of the right format; the job may have been started and forgotten.
    JOB_UNKNOWN = ("job-unknown", "Nothing is known of this job", 404)
    METHOD_NOT_ALLOWED = ("method-not-allowed", "This method is not served here", 405)
    REQUEST_TIMEOUT = ("request-timeout", "The request took too long to arrive", 408)
    CALLBACK_CONFLICT = (
        "callback-conflict",
        "The callback contradicts what is known of the job",
        409,
    )
    RESULT_GONE = ("result-gone", "The result of this job is no longer kept", 409)
    BODY_TOO_LARGE = ("body-too-large", "The body is too large", 413)
    UNSUPPORTED_MEDIA_TYPE = (
        "unsupported-media-type",
        "The body is of a type that is not understood",
        415,
    )
    EXPECTATION_FAILED = ("expectation-failed", "The expectation cannot be met", 417)
    IDEMPOTENCY_KEY_REUSED = (
        "idempotency-key-reused",
        "This Idempotency-Key belongs to another job",
        422,
    )
    ACCOUNT_QUEUE_FULL = (
        "account-queue-full",
        "Too many jobs of this account are waiting to be started",
        429,
    )
    HEADERS_TOO_LARGE = ("headers-too-large", "The headers are too large", 431)
    INTERNAL = ("internal", "The proxy failed", 500)
    NOT_IMPLEMENTED = ("not-implemented", "This method is not known", 501)
    UPSTREAM_REJECTED = ("upstream-rejected", "The job server rejected the job", 0)
    UPSTREAM_BUSY = ("upstream-busy", "The job server is busy", 0)
    UPSTREAM_AUTH = ("upstream-auth", "The job server refused the proxy's credentials", 502)
    UPSTREAM_REDIRECT = (
        "upstream-redirect",
        "The job server sent a redirect, which is never followed",
        502,
    )
    UPSTREAM_UNTRUSTED = ("upstream-untrusted", "The job server could not be trusted", 502)
    UPSTREAM_UNREACHABLE = ("upstream-unreachable", "The job server could not be reached", 503)
    OVERLOADED = ("overloaded", "Too many clients are held", 503)
    DRAINING = ("draining", "The proxy is stopping", 503)
    STORE_UNREACHABLE = (
        "store-unreachable",
        "The store cannot be used at the moment",
        503,
    )
    VERSION_NOT_SUPPORTED = (
        "version-not-supported",
        "This version of HTTP is not served",
        505,
    )
    WAIT_OVER = ("wait-over", "The job did not end in time", 504)
    START_UNKNOWN = ("start-unknown", "It is not known whether the job was started", 504)

    def __init__(self, slug: str, title: str, status: int) -> None:
        self.slug = slug
        self.title = title
        self.status = status


@frozen
class FieldError:
    """One error in a request.

    :param pointer: where it is: a JSON Pointer (RFC 6901) into the request's body, or ``/`` and the
        name of a query parameter.
    :param detail: what to change.
    """

    pointer: str
    detail: str


@frozen
class Problem:
    """An error.

    :param detail: one sentence for a person, which says what to change if that is known.
    :param started: whether the job was started on the job server: what a client needs to know to
        decide whether it can safely send the job again.
    :param retry_after: seconds after which to try again; :data:`None`: that would not help.
    :param errors: what is wrong with an invalid request, field by field.
    :param allowed: the methods that a resource serves, for the ``Allow`` header (RFC 9110, 15.5.6).
    :param upstream_status: the HTTP status of the job server's response, if that is the cause.
    :param upstream_body: the body of that response, in any encoding; the document quotes the first
        :data:`MAX_QUOTE` bytes.
    :param job_id: of the job that it is about.
    :param upstream_id: the job server's name of that job.
    :param is_own_wait: whether it got so late because the client chose how long to wait.
    """

    kind: Kind
    detail: str
    started: Started = field(default="no", kw_only=True)
    retry_after: int | None = field(default=None, kw_only=True)
    errors: tuple[FieldError, ...] = field(default=(), kw_only=True)
    allowed: tuple[str, ...] = field(default=(), kw_only=True)
    upstream_status: int | None = field(default=None, kw_only=True)
    upstream_body: bytes = field(default=b"", kw_only=True, repr=False)
    job_id: str | None = field(default=None, kw_only=True)
    upstream_id: str | None = field(default=None, kw_only=True)
    is_own_wait: bool = field(default=False, kw_only=True)

    @property
    def slug(self) -> str:
        return self.kind.slug

    @property
    def status(self) -> int:
        """The HTTP status of the response."""
        status = self.kind.status or self.upstream_status or 502
        # The body of a success can say that the job was refused.
        return status if status >= 300 else 422


class ProblemError(Exception):
    """Raises a problem for one receiver.

    :ivar problem: the problem.
    """

    def __init__(self, problem: Problem) -> None:
        super().__init__(f"{problem.slug}: {problem.detail}")
        self.problem = problem


def not_found() -> ProblemError:
    """Return the error of every path that does not exist; it is always the same."""
    return ProblemError(Problem(Kind.NOT_FOUND, "There is nothing at this path."))


def job_unknown(job_id: str) -> ProblemError:
    """Return the error of a job id that is not known, or not any more."""
    detail = "This job was never here, or it was forgotten; it may have been started."
    problem = Problem(Kind.JOB_UNKNOWN, detail, started="unknown", job_id=job_id)
    return ProblemError(problem)
