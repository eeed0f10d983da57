"""What all our routes have in common: how they make a resource, and how they respond."""

from typing import Any, Protocol

from klein import Klein
from twisted.logger import Logger
from twisted.python.failure import Failure
from werkzeug.exceptions import HTTPException
from werkzeug.exceptions import MethodNotAllowed as RouteMethodNotAllowed

from jobproxy.api.routing import RoutedResource
from jobproxy.http1.errors import HttpError
from jobproxy.http1.request import Request
from jobproxy.wire.problems import (
    BodyTooLarge,
    Draining,
    ExpectationFailed,
    HeadersTooLarge,
    Internal,
    Malformed,
    MethodNotAllowed,
    NotFound,
    Overloaded,
    Problem,
    RequestTimeout,
    describe,
    status_of,
)

_log = Logger()

PROBLEM_TYPE = b"application/problem+json"
#: The problems of requests that never reach a route, by their status.
_HTTP_PROBLEMS: dict[int, type[Problem]] = {
    400: Malformed,
    408: RequestTimeout,
    413: BodyTooLarge,
    417: ExpectationFailed,
    431: HeadersTooLarge,
}


class Routes(Protocol):
    """Some routes that belong together."""

    def add_to(self, app: Klein) -> None:
        """Have an app serve them."""


def make_resource(*routes: Routes) -> RoutedResource:
    """Return the resource tree of a listener that serves these routes."""
    app = Klein()
    for group in routes:
        group.add_to(app)
    handlers: dict[type[Exception], Any] = {
        Problem: _refuse,
        HTTPException: _refuse_route,
        Exception: _refuse_crash,
    }
    for kind, handler in handlers.items():
        app.handle_errors(kind)(handler)
    return RoutedResource(app)


def describe_error(error: HttpError, request_id: bytes) -> tuple[bytes, bytes]:
    """Return the content type and the problem document of what is no acceptable request."""
    problem = _HTTP_PROBLEMS[error.status](error.detail)
    return PROBLEM_TYPE, describe(problem, request_id.decode())


def respond(request: Request, body: bytes, status: int = 200) -> bytes:
    """Respond with a body of JSON."""
    request.code = status
    request.setHeader(b"Content-Type", b"application/json")
    return body


def _refuse(request: Request, failure: Failure) -> bytes:
    """Respond with a problem document."""
    problem = failure.value
    assert isinstance(problem, Problem)
    # It may be kept as the outcome of its job.
    problem.forget_origin()
    if problem.retry_after is not None:
        request.setHeader(b"Retry-After", b"%d" % problem.retry_after)
    if isinstance(problem, MethodNotAllowed):
        request.setHeader(b"Allow", ", ".join(problem.allowed).encode())
    if isinstance(problem, Overloaded | Draining):
        # Connections are what there is too much of.
        request.keep_alive = False
    request.outcome = problem.slug
    request.setResponseCode(status_of(problem))
    request.setHeader(b"Content-Type", PROBLEM_TYPE)
    return describe(problem, request.request_id.decode())


def _refuse_route(request: Request, failure: Failure) -> bytes:
    """Respond with a problem document where Klein has a page of its own."""
    problem: Problem = NotFound()
    if isinstance(failure.value, RouteMethodNotAllowed):
        problem = MethodNotAllowed(sorted(failure.value.valid_methods or ()))
    return _refuse(request, Failure(problem))


def _refuse_crash(request: Request, failure: Failure) -> bytes:
    """Respond with the request id alone; the failure is in the log under that id."""
    request_id = request.request_id.decode()
    _log.failure("request {request_id} crashed", failure, request_id=request_id)
    problem = Internal("Something went wrong in the proxy; its log knows the requestId.")
    problem.started = "unknown"
    return _refuse(request, Failure(problem))
