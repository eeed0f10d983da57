"""What all routes share: how they become a resource, and how they respond."""

import json
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Protocol, cast

from klein import Klein
from twisted.logger import Logger
from twisted.python.failure import Failure
from werkzeug.exceptions import HTTPException
from werkzeug.exceptions import MethodNotAllowed as RouteMethodNotAllowed

from jobproxy.api.documents import describe_problem
from jobproxy.api.origins import NO_PAGES, Origins
from jobproxy.api.routing import RoutedResource
from jobproxy.http1.errors import HttpError
from jobproxy.http1.request import Request
from jobproxy.monitoring.words import OWN_WAIT_OVER
from jobproxy.wire.problems import Kind, Problem, ProblemError, not_found
from jobproxy.wire.reports import Report

_log = Logger()

PROBLEM_TYPE = b"application/problem+json"
#: The problems of requests that the HTTP server refuses before routing, by status.
_HTTP_PROBLEMS = {
    400: Kind.MALFORMED_REQUEST,
    408: Kind.REQUEST_TIMEOUT,
    413: Kind.BODY_TOO_LARGE,
    417: Kind.EXPECTATION_FAILED,
    431: Kind.HEADERS_TOO_LARGE,
    501: Kind.NOT_IMPLEMENTED,
    503: Kind.OVERLOADED,
    505: Kind.VERSION_NOT_SUPPORTED,
}


class Routes(Protocol):
    """A group of routes.

    :cvar side: who sends requests to them: a client, a job server (``callback``), or the operator
        and his monitoring (``admin``).
    """

    side: ClassVar[str]

    def add_to(self, app: Klein) -> None:
        """Add the routes to a Klein app."""


def make_resource(
    *routes: Routes,
    is_token: Callable[[str], bool] = lambda _: True,
    report: Callable[[Request, Problem], object] = lambda _, __: None,
    origins: Origins = NO_PAGES,
) -> RoutedResource:
    """Return the resource that serves these routes, and turns all errors into problems.

    :param is_token: whether the token of a callback is good, so that its body is needed.
    :param report: is called with each refused request.
    :param origins: whose pages may read all problems, also those of paths that are not there.
    """
    app = Klein()
    sides: dict[str, str] = {}
    for group in routes:
        group.add_to(app)
        for rule in app.url_map.iter_rules():
            sides.setdefault(rule.endpoint, group.side)

    def refuse_with(
        find: Callable[[Request, Failure], Problem],
    ) -> Callable[[Request, Failure], bytes]:
        def refuse(request: Request, failure: Failure) -> bytes:
            problem = find(request, failure)
            report(request, problem)
            origins.reveal(request, request.find_header(b"origin"))
            return send_problem(request, problem)

        return refuse

    handlers: dict[type[Exception], Any] = {
        ProblemError: _find_problem,
        HTTPException: _explain_route,
        Exception: _explain_crash,
    }
    for kind, find in handlers.items():
        app.handle_errors(kind)(cast(Any, refuse_with(find)))
    return RoutedResource(app, is_token, sides)


def describe_error(
    error: HttpError, request_id: bytes, origins: Origins = NO_PAGES
) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """Return headers and the problem document of an error of the HTTP server.

    :param origins: whose pages may read it.
    """
    problem = Problem(_HTTP_PROBLEMS[error.status], error.detail)
    headers = [(b"Content-Type", PROBLEM_TYPE), *origins.find_headers(error.origin)]
    return headers, describe_problem(problem, request_id.decode())


def respond(request: Request, body: bytes, status: int = 200) -> bytes:
    """Respond with a JSON body."""
    request.code = status
    request.setHeader(b"Content-Type", b"application/json")
    return body


def respond_json(request: Request, content: Mapping[str, Any], status: int = 200) -> bytes:
    """Respond with a JSON document."""
    return respond(request, json.dumps(content).encode(), status)


def send_report(request: Request, report: Report) -> bytes:
    """Respond with what the job server has sent, as it was sent."""
    request.setHeader(b"Content-Type", report.content_type)
    if report.coding:
        request.setHeader(b"Content-Encoding", report.coding)
    return report.body


def send_problem(request: Request, problem: Problem) -> bytes:
    """Respond with a problem document."""
    if problem.retry_after is not None:
        request.setHeader(b"Retry-After", b"%d" % problem.retry_after)
    if problem.allowed:
        request.setHeader(b"Allow", ", ".join(problem.allowed).encode())
    if problem.kind is Kind.UNSUPPORTED_MEDIA_TYPE and request.find_header(b"content-encoding"):
        # RFC 9110, section 15.5.16
        request.setHeader(b"Accept-Encoding", b"identity")
    if problem.kind in (Kind.OVERLOADED, Kind.DRAINING):
        # There are too many connections, so this one is closed.
        request.keep_alive = False
    request.outcome = OWN_WAIT_OVER if problem.is_own_wait else problem.slug
    request.setResponseCode(problem.status)
    request.setHeader(b"Content-Type", PROBLEM_TYPE)
    return describe_problem(problem, request.request_id.decode())


def _find_problem(_: Request, failure: Failure) -> Problem:
    return cast(ProblemError, failure.value).problem


def _explain_route(_: Request, failure: Failure) -> Problem:
    """Return the problem of a routing error of Klein."""
    if not isinstance(failure.value, RouteMethodNotAllowed):
        return not_found().problem
    allowed = tuple(sorted(failure.value.valid_methods or ()))
    detail = f"Use {' or '.join(allowed)} here."
    return Problem(Kind.METHOD_NOT_ALLOWED, detail, allowed=allowed)


def _explain_crash(request: Request, failure: Failure) -> Problem:
    """Return the problem of a bug, with the request id only; the log has the traceback."""
    request_id = request.request_id.decode()
    _log.failure("request {request_id} crashed", failure, request_id=request_id)
    detail = "The proxy has a bug; its log has the traceback under this requestId."
    return Problem(Kind.INTERNAL, detail, started="unknown")
