"""The HTTP side: Klein routes, requests parsed in, answers and problems written out."""

import json
import re
import secrets
from collections.abc import Callable
from http import HTTPStatus

from attrs import define, field
from klein import Klein
from klein.resource import KleinResource
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import Request
from twisted.web.iweb import IRequest
from twisted.web.server import Site
from werkzeug.exceptions import HTTPException
from werkzeug.exceptions import MethodNotAllowed as RouteMethodNotAllowed

from jobproxy.gateway import Gateway
from jobproxy.messages import parse_job
from jobproxy.problems import (
    BodyTooLarge,
    Internal,
    MethodNotAllowed,
    NotFound,
    Problem,
    UnsupportedMediaType,
    describe,
    status_of,
)

_log = Logger()

MAX_BODY = 65_536
#: Where jobs are taken: our own path, and those by which clients know the job server itself.
PROXY_PATHS = ("/proxy", "/start", "/")

_JSON_TYPE = re.compile(rb"application/(?:[\w.+-]+\+)?json\s*(?:;.*)?", re.IGNORECASE)
_REQUEST_ID = re.compile(rb"[\w.:/=+-]{1,128}", re.ASCII)


class ProxySite(Site):
    """The twisted.web factory of our resource."""

    def __init__(self, resource: KleinResource, **kwargs: object) -> None:
        super().__init__(resource, parsePOSTFormSubmission=False, **kwargs)

    def log(self, request: Request) -> None:
        """Write no access log: the path of a callback holds its token, which is a secret."""


@define(eq=False)
class Web:
    """Serves clients and callbacks.

    :param callback_path: the path below which callbacks arrive: empty, or ``/…`` without a slash
        at its end.
    :param make_id: returns an id for a request that came without one.
    """

    _gateway: Gateway
    _callback_path: str
    _make_id: Callable[[], str] = field(default=lambda: secrets.token_hex(8), repr=False)

    def resource(self) -> KleinResource:
        """Return the resource tree."""
        app = Klein()
        for path in PROXY_PATHS:
            app.route(path, methods=["POST"])(self.proxy)
        app.route(f"{self._callback_path}/<token>", methods=["POST"])(self.callback)
        app.handle_errors(Problem)(self.refuse)
        app.handle_errors(HTTPException)(self.refuse_route)
        app.handle_errors(Exception)(self.refuse_crash)
        return app.resource()

    async def proxy(self, request: IRequest) -> bytes:
        """Hold a client until its job is done; cancelled by Klein when the client leaves."""
        _check_type(request)
        result = await self._gateway.submit(parse_job(_read_body(request)))
        return self._answer(request, 200, b"application/json", result.body)

    async def callback(self, request: IRequest, token: str) -> bytes:
        """Take a callback of the job server."""
        handle = self._gateway.recognize(token)
        delivery = self._gateway.deliver(handle, _read_body(request))
        body = json.dumps({"status": delivery.value}).encode()
        return self._answer(request, 200, b"application/json", body)

    def refuse(self, request: IRequest, failure: Failure) -> bytes:
        """Tell of a problem."""
        problem = failure.value
        assert isinstance(problem, Problem)
        if problem.retry_after is not None:
            request.setHeader(b"retry-after", b"%d" % problem.retry_after)
        if isinstance(problem, MethodNotAllowed):
            request.setHeader(b"allow", ", ".join(problem.allowed).encode())
        document = describe(problem, self._request_id(request).decode())
        return self._answer(request, status_of(problem), b"application/problem+json", document)

    def refuse_route(self, request: IRequest, failure: Failure) -> bytes:
        """Tell in our own words what Klein's routing found."""
        problem: Problem = NotFound()
        if isinstance(failure.value, RouteMethodNotAllowed):
            problem = MethodNotAllowed(sorted(failure.value.valid_methods or ()))
        return self.refuse(request, Failure(problem))

    def refuse_crash(self, request: IRequest, failure: Failure) -> bytes:
        """Tell no more of a bug of ours than the id by which the log tells all."""
        request_id = self._request_id(request).decode()
        _log.failure("request {request_id} crashed", failure, request_id=request_id)
        problem = Internal("Something went wrong in the proxy; its log knows the requestId.")
        problem.started = "unknown"
        return self.refuse(request, Failure(problem))

    def _answer(self, request: IRequest, status: int, content_type: bytes, body: bytes) -> bytes:
        request.setResponseCode(status, HTTPStatus(status).phrase.encode())
        self._request_id(request)
        for name, value in (
            (b"server", b"jobproxy"),
            (b"content-type", content_type),
            (b"content-length", b"%d" % len(body)),
        ):
            request.setHeader(name, value)
        return body

    def _request_id(self, request: IRequest) -> bytes:
        """Return the id of a request, its own if it is fit to be sent back."""
        known = request.responseHeaders.getRawHeaders(b"x-request-id")
        if known:
            return known[0]
        given = request.getHeader(b"x-request-id") or b""
        request_id = given if _REQUEST_ID.fullmatch(given) else self._make_id().encode()
        request.setHeader(b"x-request-id", request_id)
        return request_id


def _check_type(request: IRequest) -> None:
    if request.getHeader(b"content-encoding"):
        raise UnsupportedMediaType("Send the body as it is, without a Content-Encoding.")
    content_type = request.getHeader(b"content-type")
    if content_type is not None and not _JSON_TYPE.fullmatch(content_type):
        raise UnsupportedMediaType("Send the job as JSON, with Content-Type: application/json.")


def _read_body(request: IRequest) -> bytes:
    body: bytes = request.content.read(MAX_BODY + 1)
    if len(body) > MAX_BODY:
        raise BodyTooLarge(f"A body may have at most {MAX_BODY} bytes.")
    return body
