"""The HTTP side: Klein routes, requests parsed in, answers and problems written out."""

import json
import re
from typing import Any

from attrs import define
from klein import Klein
from twisted.logger import Logger
from twisted.python.failure import Failure
from werkzeug.exceptions import HTTPException
from werkzeug.exceptions import MethodNotAllowed as RouteMethodNotAllowed

from jobproxy.correlation import Delivery
from jobproxy.gateway import Gateway
from jobproxy.http1.request import Request
from jobproxy.messages import parse_job
from jobproxy.problems import (
    Internal,
    MethodNotAllowed,
    NotFound,
    Problem,
    UnsupportedMediaType,
    describe,
    status_of,
)
from jobproxy.routing import RoutedResource

_log = Logger()

#: Where jobs are taken: our own path, and those by which clients know the job server itself.
PROXY_PATHS = ("/proxy", "/start", "/")

_RECEIPTS = {delivery: json.dumps({"status": delivery.value}).encode() for delivery in Delivery}
_JSON_TYPE = re.compile(rb"application/(?:[\w.+-]+\+)?json\s*(?:;.*)?", re.IGNORECASE)


@define(eq=False)
class Web:
    """Serves clients and callbacks.

    :param callback_path: the path below which callbacks arrive: empty, or ``/…`` without a slash
        at its end.
    """

    _gateway: Gateway
    _callback_path: str

    def resource(self) -> RoutedResource:
        """Return the resource tree."""
        app = Klein()
        for path in PROXY_PATHS:
            app.route(path, methods=["POST"])(self.proxy)
        app.route(f"{self._callback_path}/<token>", methods=["POST"])(self.callback)
        handlers: dict[type[Exception], Any] = {
            Problem: self.refuse,
            HTTPException: self.refuse_route,
            Exception: self.refuse_crash,
        }
        for kind, handler in handlers.items():
            app.handle_errors(kind)(handler)
        return RoutedResource(app)

    async def proxy(self, request: Request) -> bytes:
        """Hold a client until its job is done; cancelled by Klein when the client leaves."""
        _check_type(request)
        waiting = self._gateway.submit(parse_job(request.body))
        request.forget()
        result = await waiting
        return _answer(request, 200, b"application/json", result.body)

    def callback(self, request: Request, token: str) -> bytes:
        """Take a callback of the job server."""
        handle = self._gateway.recognize(token)
        delivery = self._gateway.deliver(handle, request.body)
        return _answer(request, 200, b"application/json", _RECEIPTS[delivery])

    def refuse(self, request: Request, failure: Failure) -> bytes:
        """Tell of a problem."""
        problem = failure.value
        assert isinstance(problem, Problem)
        if problem.retry_after is not None:
            request.setHeader(b"retry-after", b"%d" % problem.retry_after)
        if isinstance(problem, MethodNotAllowed):
            request.setHeader(b"allow", ", ".join(problem.allowed).encode())
        document = describe(problem, request.request_id.decode())
        return _answer(request, status_of(problem), b"application/problem+json", document)

    def refuse_route(self, request: Request, failure: Failure) -> bytes:
        """Tell in our own words what Klein's routing found."""
        problem: Problem = NotFound()
        if isinstance(failure.value, RouteMethodNotAllowed):
            problem = MethodNotAllowed(sorted(failure.value.valid_methods or ()))
        return self.refuse(request, Failure(problem))

    def refuse_crash(self, request: Request, failure: Failure) -> bytes:
        """Tell no more of a bug of ours than the id by which the log tells all."""
        request_id = request.request_id.decode()
        _log.failure("request {request_id} crashed", failure, request_id=request_id)
        problem = Internal("Something went wrong in the proxy; its log knows the requestId.")
        problem.started = "unknown"
        return self.refuse(request, Failure(problem))


def _answer(request: Request, status: int, content_type: bytes, body: bytes) -> bytes:
    request.setResponseCode(status)
    request.setHeader(b"Content-Type", content_type)
    return body


def _check_type(request: Request) -> None:
    if request.getHeader(b"content-encoding"):
        raise UnsupportedMediaType("Send the body as it is, without a Content-Encoding.")
    content_type = request.getHeader(b"content-type")
    if content_type is not None and not _JSON_TYPE.fullmatch(content_type):
        raise UnsupportedMediaType("Send the job as JSON, with Content-Type: application/json.")
